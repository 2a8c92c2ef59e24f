//! The toolstack's word with netwatch: JSON lines over a unix stream socket, a port's three descriptors beside the line.
//!
//! `{"op":"add-port","domain":"web","domid":3,"mac":"00:16:3e:00:00:01","addresses":["10.77.0.11"]}` with memory,
//! to_switch and from_switch; a clone of a pool has `"seat":{"pool":"ssh","source":"192.0.2.7"}` beside its pool's mac and
//! address (without `source`: nobody yet); one that has others outside has `"outer":{"mac":…,"address":…}`.
//! `{"op":"remove-port","domid":3}` (all of a domain's) or with `"mac"`;
//! `{"op":"stats"}`; `{"op":"reload-rules"}`.
//!
//! `{"op":"add-pool","pool":"ssh","mac":…,"address":"10.77.0.20","touch":"any"}` and `{"op":"remove-pool","pool":"ssh"}`;
//! `{"op":"seat","domid":3,"pool":"ssh","source":…}` seats one more source at a port that is plugged in,
//! `{"op":"unseat","pool":"ssh","source":…}` takes the seat away, `{"op":"refuse","pool":"ssh","source":…}` drops what is
//! held of a source.
//!
//! A domain moves to another host: `{"op":"flows-of","domid":3,"after":0}` answers `{"flows":[…],"quota":[…],"next":…}`, and the same with `next` as
//! `after` the others; there `{"op":"take-flows","domid":7,"flows":[…],"quota":[…]}` once a page, and `{"op":"announce","domid":7}`. Each is answered by `{"ok":…}` or `{"error":"one sentence"}`.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use serde::Deserialize;

use crate::flow::MovedFlow;
use crate::packet::Mac;
use crate::switch::Touch;

/// A request line; the longest is an add-port with its addresses.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Descriptors that wait for their line.
const DESCRIPTORS_MAX: usize = 64;

/// A request.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Plugs a vif in.
    AddPort {
        /// Name of the domain.
        domain: String,
        /// Its number.
        domid: u32,
        /// MAC of the vif.
        mac: MacText,
        /// The decoy's addresses.
        addresses: Vec<IpAddr>,
        /// It is a clone of a pool.
        seat: Option<Seat>,
        /// Outside it has another MAC and address.
        outer: Option<Outer>,
    },
    /// Unplugs a domain's vifs, or one of them.
    RemovePort {
        /// Number of the domain.
        domid: u32,
        /// Only the vif with this MAC.
        mac: Option<MacText>,
    },
    /// Asks for counters.
    Stats {},
    /// Reads the rule files anew.
    ReloadRules {},
    /// Opens a pool.
    AddPool {
        /// Its name.
        pool: String,
        /// The MAC of its clones.
        mac: MacText,
        /// The address of its clones.
        address: Ipv4Addr,
        /// Which packet makes a source wanted.
        #[serde(default)]
        touch: Touch,
    },
    /// Closes a pool that has no clones.
    RemovePool {
        /// Its name.
        pool: String,
    },
    /// Seats a source at a port that is plugged in.
    Seat {
        /// Number of the domain.
        domid: u32,
        /// Its pool.
        pool: String,
        /// The source.
        source: IpAddr,
    },
    /// Takes a source's seat away.
    Unseat {
        /// The pool.
        pool: String,
        /// The source.
        source: IpAddr,
    },
    /// Asks for the connections of a domain that leaves.
    FlowsOf {
        /// Number of the domain.
        domid: u32,
        /// The last one that is known already.
        #[serde(default)]
        after: u64,
    },
    /// Gives the connections of a domain that has come to its ports.
    TakeFlows {
        /// Number of the domain.
        domid: u32,
        /// As they were answered.
        flows: Vec<MovedFlow>,
        /// What it has used of this hour's quota.
        quota: Option<[u32; 4]>,
    },
    /// Tells the network where a domain is now.
    Announce {
        /// Number of the domain.
        domid: u32,
    },
    /// Drops what is held of a source; it is not wanted again for ten seconds.
    Refuse {
        /// The pool.
        pool: String,
        /// The source.
        source: IpAddr,
    },
}

/// The pool of a clone, and whom it serves first.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seat {
    /// The pool.
    pub pool: String,
    /// The source; nobody yet without it.
    pub source: Option<IpAddr>,
}

/// What the outside knows a clone by.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outer {
    /// The MAC.
    pub mac: MacText,
    /// The address.
    pub address: Ipv4Addr,
}

/// A MAC in its usual text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MacText(pub Mac);

impl TryFrom<String> for MacText {
    type Error = String;

    fn try_from(text: String) -> Result<MacText, String> {
        let mac: pnet::util::MacAddr = text.parse().map_err(|_| format!("not a mac: {text}"))?;
        if mac.octets()[0] & 1 != 0 {
            return Err(format!("not the mac of one station: {text}"));
        }
        Ok(MacText(mac.octets()))
    }
}

/// The socket, what has come of the next line, and the descriptors that came with it.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    line: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Control {
    /// Takes a connected stream socket.
    pub fn new(socket: OwnedFd) -> Control {
        Control { socket, line: Vec::new(), descriptors: VecDeque::new() }
    }

    /// Reads what is there, without waiting. `None`: the other side is gone. Each line is a request or a sentence on
    /// why it is none.
    pub fn receive(&mut self) -> io::Result<Option<Vec<Result<Request, String>>>> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
        {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Some(Vec::new())),
            Err(error) => return Err(error.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                let room = DESCRIPTORS_MAX - self.descriptors.len();
                self.descriptors.extend(descriptors.take(room));
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        self.line.extend(bytes.get(..received.bytes).unwrap_or_default());
        Ok(Some(self.take_lines()))
    }

    /// The three descriptors that came with an add-port, oldest first.
    pub fn take_descriptors(&mut self) -> Option<[OwnedFd; 3]> {
        if self.descriptors.len() < 3 {
            self.descriptors.clear();
            return None;
        }
        let three: Vec<OwnedFd> = self.descriptors.drain(..3).collect();
        three.try_into().ok()
    }

    /// Sends one answer. The toolstack reads each answer before it asks again, so there is room; if there is none, the
    /// answer is lost and not waited for.
    pub fn answer(&self, answer: &serde_json::Value) -> io::Result<()> {
        let mut line = answer.to_string();
        line.push('\n');
        send(&self.socket, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn take_lines(&mut self) -> Vec<Result<Request, String>> {
        let mut requests = Vec::new();
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            requests.push(parse(&line));
        }
        if self.line.len() > LINE_BYTES_MAX {
            self.line.clear();
            requests.push(Err(format!("request is longer than {LINE_BYTES_MAX} bytes")));
        }
        requests
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads one line.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_port_is_read_with_its_addresses() {
        let line = br#"{"op":"add-port","domain":"web","domid":3,"mac":"00:16:3e:00:00:01","addresses":["10.77.0.11"]}"#;
        let expected = Request::AddPort {
            domain: "web".into(),
            domid: 3,
            mac: MacText([0, 0x16, 0x3e, 0, 0, 1]),
            addresses: vec!["10.77.0.11".parse().unwrap()],
            seat: None,
            outer: None,
        };
        assert_eq!(parse(line), Ok(expected));
    }

    #[test]
    fn pools_and_seats_are_read() {
        let mac = MacText([0, 0x16, 0x3e, 0, 0, 1]);
        let (pool, source) = ("ssh".to_owned(), "192.0.2.7".parse().unwrap());
        let address = Ipv4Addr::new(10, 77, 0, 20);
        let table = [
            (
                r#"{"op":"add-pool","pool":"ssh","mac":"00:16:3e:00:00:01","address":"10.77.0.20"}"#,
                Request::AddPool { pool: pool.clone(), mac, address, touch: Touch::Any },
            ),
            (
                r#"{"op":"add-pool","pool":"ssh","mac":"00:16:3e:00:00:01","address":"10.77.0.20","touch":"syn"}"#,
                Request::AddPool { pool: pool.clone(), mac, address, touch: Touch::Syn },
            ),
            (r#"{"op":"remove-pool","pool":"ssh"}"#, Request::RemovePool { pool: pool.clone() }),
            (
                r#"{"op":"seat","domid":3,"pool":"ssh","source":"192.0.2.7"}"#,
                Request::Seat { domid: 3, pool: pool.clone(), source },
            ),
            (
                r#"{"op":"unseat","pool":"ssh","source":"192.0.2.7"}"#,
                Request::Unseat { pool: pool.clone(), source },
            ),
            (r#"{"op":"refuse","pool":"ssh","source":"192.0.2.7"}"#, Request::Refuse { pool, source }),
        ];
        for (line, expected) in table {
            assert_eq!(parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn bad_requests_are_refused() {
        for line in [
            r#"{"op":"fly"}"#,
            "stats",
            r#"{"op":"add-port","domain":"x","domid":1,"mac":"01:00:5e:00:00:01","addresses":[]}"#,
            r#"{"op":"add-port","domain":"x","domid":1,"mac":"zz","addresses":[]}"#,
            r#"{"op":"add-pool","pool":"x","mac":"00:16:3e:00:00:01","address":"fe80::1"}"#,
            r#"{"op":"add-pool","pool":"x","mac":"00:16:3e:00:00:01","address":"10.0.0.1","touch":"never"}"#,
            r#"{"op":"seat","domid":1,"pool":"x"}"#,
            r#"{"op":"flows-of"}"#,
            r#"{"op":"flows-of","domid":1,"after":-1}"#,
            r#"{"op":"take-flows","domid":1,"flows":[{"source":"10.0.0.1"}],"quota":null}"#,
            r#"{"op":"take-flows","domid":1,"flows":[],"quota":[1,2,3]}"#,
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
