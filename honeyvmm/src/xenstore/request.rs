//! What each request does: one screen of dispatch, one function a request.

use super::store::Store;
use super::transaction::{TRANSACTIONS_MAX, Transaction};
use super::tree::{Change, Node, Origin, VALUE_BYTES_MAX};
use super::wire::{BODY_BYTES_MAX, Kind, Message};
use super::{StoreError, path};

/// The body of an answer.
type Body = Vec<u8>;

impl Store {
    /// Serves one request of the guest: queues the answer, then the events that it caused.
    pub(super) fn serve(&mut self, request: &Message) {
        let answer = match self.dispatch(request) {
            Ok(body) => request.answer(request.kind, body),
            Err(error) => request.answer(Kind::Error, [error.name().as_bytes(), b"\0"].concat()),
        };
        // xenstored, too, answers first: Linux waits for the answer while it holds what the event's handler needs.
        self.outbox.push_answer(&answer);
        self.flush_events();
    }

    fn dispatch(&mut self, request: &Message) -> Result<Body, StoreError> {
        match request.kind {
            Kind::Directory => self.directory(request),
            Kind::DirectoryPart => self.directory_part(request),
            Kind::Read => self.read_node(request),
            Kind::GetPerms => self.get_perms(request),
            Kind::Write => self.write_node(request),
            Kind::Mkdir => self.make_node(request),
            Kind::Rm => self.remove_node(request),
            Kind::SetPerms => self.set_node_perms(request),
            Kind::Watch => self.watch(request),
            Kind::Unwatch => self.unwatch(request),
            Kind::ResetWatches => self.reset_watches(),
            Kind::TransactionStart => self.transaction_start(request),
            Kind::TransactionEnd => self.transaction_end(request),
            Kind::GetDomainPath => Ok(format!("/local/domain/{}\0", domid_of(request)?).into_bytes()),
            Kind::IsDomainIntroduced => self.is_domain_introduced(request),
            // The toolstack's: a domain may not speak for others.
            Kind::Control | Kind::Introduce | Kind::Release | Kind::Resume | Kind::SetTarget => {
                Err(StoreError::Access)
            }
            // The server's own words, and what is in no version of the protocol.
            Kind::WatchEvent | Kind::Error | Kind::Unknown(_) => Err(StoreError::NoSuchCall),
        }
    }

    fn directory(&mut self, request: &Message) -> Result<Body, StoreError> {
        let path = self.readable(only_string(request)?)?;
        let (_, names) = self.children(request.transaction_id, &path)?;
        if names.len() > BODY_BYTES_MAX { Err(StoreError::TooBig) } else { Ok(names) }
    }

    /// The answer is the node's generation, the names from an offset on, and one more zero byte at their end.
    fn directory_part(&mut self, request: &Message) -> Result<Body, StoreError> {
        let [path, offset] = two_strings(request)?;
        let path = self.readable(path)?;
        let offset: usize = offset.parse().map_err(|_| StoreError::Invalid)?;
        let (generation, names) = self.children(request.transaction_id, &path)?;
        let mut body = format!("{generation}\0").into_bytes();
        let rest = names.get(offset..).ok_or(StoreError::Invalid)?;
        let room = BODY_BYTES_MAX - body.len() - 1;
        body.extend(&rest[..rest.len().min(room)]);
        if rest.len() <= room {
            body.push(0);
        }
        Ok(body)
    }

    fn read_node(&mut self, request: &Message) -> Result<Body, StoreError> {
        let path = self.readable(only_string(request)?)?;
        self.with_node(request.transaction_id, &path, |node| node.value.clone())
    }

    fn get_perms(&mut self, request: &Message) -> Result<Body, StoreError> {
        let path = self.readable(only_string(request)?)?;
        self.with_node(request.transaction_id, &path, |node| {
            node.perms.iter().flat_map(|perm| perm.bytes().chain([0])).collect()
        })
    }

    fn write_node(&mut self, request: &Message) -> Result<Body, StoreError> {
        let (path, value) = request.string_and_rest().ok_or(StoreError::Invalid)?;
        let path = self.writable(text(path)?)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(StoreError::NoSpace);
        }
        self.change(request.transaction_id, Change::Write { path, value: value.to_vec() })
    }

    fn make_node(&mut self, request: &Message) -> Result<Body, StoreError> {
        let path = self.writable(only_string(request)?)?;
        self.change(request.transaction_id, Change::Make { path })
    }

    fn remove_node(&mut self, request: &Message) -> Result<Body, StoreError> {
        let path = self.writable(only_string(request)?)?;
        self.change(request.transaction_id, Change::Remove { path })
    }

    fn set_node_perms(&mut self, request: &Message) -> Result<Body, StoreError> {
        let strings = request.strings().ok_or(StoreError::Invalid)?;
        let (path, perms) = strings.split_first().ok_or(StoreError::Invalid)?;
        let path = self.writable(text(path)?)?;
        let perms: Result<Vec<String>, StoreError> =
            perms.iter().map(|perm| text(perm).map(str::to_owned)).collect();
        self.change(request.transaction_id, Change::SetPerms { path, perms: perms? })
    }

    fn watch(&mut self, request: &Message) -> Result<Body, StoreError> {
        let (path, token) = path_and_token(request)?;
        let event = self.watches.add(&self.home, path, token)?;
        self.events.push(event);
        Ok(ok())
    }

    fn unwatch(&mut self, request: &Message) -> Result<Body, StoreError> {
        let (path, token) = path_and_token(request)?;
        self.watches.remove(&self.home, path, token)?;
        Ok(ok())
    }

    fn reset_watches(&mut self) -> Result<Body, StoreError> {
        self.watches.clear();
        self.transactions.clear();
        Ok(ok())
    }

    fn transaction_start(&mut self, request: &Message) -> Result<Body, StoreError> {
        if request.transaction_id != 0 {
            return Err(StoreError::Busy);
        }
        if self.transactions.len() >= TRANSACTIONS_MAX {
            return Err(StoreError::NoSpace);
        }
        // At most TRANSACTIONS_MAX are open, so one of the next numbers is free.
        loop {
            self.last_transaction = self.last_transaction.wrapping_add(1).max(1);
            if !self.transactions.contains_key(&self.last_transaction) {
                break;
            }
        }
        self.transactions.insert(self.last_transaction, Transaction::start(&self.tree));
        Ok(format!("{}\0", self.last_transaction).into_bytes())
    }

    fn transaction_end(&mut self, request: &Message) -> Result<Body, StoreError> {
        let commit = match only_string(request)? {
            "T" => true,
            "F" => false,
            _ => return Err(StoreError::Invalid),
        };
        let transaction = self.transactions.remove(&request.transaction_id).ok_or(StoreError::NotFound)?;
        if commit {
            let touched = transaction.commit(&mut self.tree, Origin::Guest)?;
            self.touch(touched, Origin::Guest);
        }
        Ok(ok())
    }

    fn is_domain_introduced(&self, request: &Message) -> Result<Body, StoreError> {
        let domid = domid_of(request)?;
        let known = domid == 0 || domid == self.home.domid();
        Ok(if known { b"T\0".to_vec() } else { b"F\0".to_vec() })
    }

    /// A node's generation and its children's names, each with a zero byte.
    fn children(&mut self, transaction_id: u32, path: &str) -> Result<(u64, Body), StoreError> {
        let generation = self.with_node(transaction_id, path, |node| node.generation)?;
        let names = match self.transactions.get(&transaction_id) {
            Some(transaction) => transaction.children(path),
            None => self.tree.children(path),
        };
        Ok((generation, names.into_iter().flat_map(|name| name.bytes().chain([0])).collect()))
    }

    fn with_node<T>(
        &mut self,
        transaction_id: u32,
        path: &str,
        look: impl FnOnce(&Node) -> T,
    ) -> Result<T, StoreError> {
        match self.transaction(transaction_id)? {
            Some(transaction) => transaction.node(path).map(look),
            None => self.tree.node(path).map(look).ok_or(StoreError::NotFound),
        }
    }

    fn change(&mut self, transaction_id: u32, change: Change) -> Result<Body, StoreError> {
        match self.transaction(transaction_id)? {
            Some(transaction) => transaction.apply(change, Origin::Guest)?,
            None => {
                let touched = self.tree.apply(&change, Origin::Guest)?;
                self.touch(touched, Origin::Guest);
            }
        }
        Ok(ok())
    }

    fn transaction(&mut self, id: u32) -> Result<Option<&mut Transaction>, StoreError> {
        if id == 0 {
            return Ok(None);
        }
        self.transactions.get_mut(&id).map(Some).ok_or(StoreError::NotFound)
    }

    fn readable(&self, path: &str) -> Result<String, StoreError> {
        let path = self.home.absolute(path)?;
        if self.home.may_read(&path) { Ok(path) } else { Err(StoreError::Access) }
    }

    fn writable(&self, path: &str) -> Result<String, StoreError> {
        let path = self.home.absolute(path)?;
        if self.home.may_write(&path) { Ok(path) } else { Err(StoreError::Access) }
    }
}

fn ok() -> Body {
    b"OK\0".to_vec()
}

fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::Invalid)
}

/// The body's only string.
fn only_string(request: &Message) -> Result<&str, StoreError> {
    match request.strings().ok_or(StoreError::Invalid)?.as_slice() {
        [string] => text(string),
        _ => Err(StoreError::Invalid),
    }
}

fn two_strings(request: &Message) -> Result<[&str; 2], StoreError> {
    match request.strings().ok_or(StoreError::Invalid)?.as_slice() {
        [first, second] => Ok([text(first)?, text(second)?]),
        _ => Err(StoreError::Invalid),
    }
}

fn path_and_token(request: &Message) -> Result<(&str, &[u8]), StoreError> {
    match request.strings().ok_or(StoreError::Invalid)?.as_slice() {
        [path, token] if path.len() <= path::PATH_BYTES_MAX => Ok((text(path)?, token)),
        _ => Err(StoreError::Invalid),
    }
}

fn domid_of(request: &Message) -> Result<u32, StoreError> {
    only_string(request)?.parse::<u16>().map(u32::from).map_err(|_| StoreError::Invalid)
}
