//! Tasks whose rights grew without a call that gives rights, and tasks that use those of another process.
//!
//! Rights grow by the calls of the setuid family, which only let a process go back to what it kept (`suid`, permitted capabilities), and by
//! programs that are setuid or have capabilities of their own. Linux copies a process' credentials when it is made, so that two
//! processes never share them (`copy_creds` of `kernel/cred.c`).

use std::collections::{HashMap, HashSet};

use honeyvmm::memory::Gva;

use super::finding::{Certainty, Finding, Findings};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Unknown, layout, symbol};
use crate::walk::WalkError;
use crate::walk::task::{Rights, Task};

/// `S_ISUID` and `S_ISGID` of `include/uapi/linux/stat.h`.
const SET_ID: u64 = 0o6000;

layout! {
    TaskLayout = "task_struct" {
        real: "real_cred",
        effective: "cred",
        mm: "mm",
    }
}

layout! {
    InodeLayout = "inode" {
        mode: "i_mode",
    }
}

/// Where credentials are, and whose were seen.
#[derive(Debug)]
pub struct Credentials {
    task: TaskLayout,
    namespace: Field,
    exe_file: Field,
    file_inode: Field,
    inode: InodeLayout,
    first_namespace: Gva,
    of_swapper: Gva,
    /// By the task's number and start, which no other task has.
    seen: HashMap<(u32, u64), Before>,
}

#[derive(Debug, Clone, Copy)]
struct Before {
    rights: Rights,
    in_first_namespace: bool,
}

impl Credentials {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            task: TaskLayout::of(symbols)?,
            namespace: Field::find(symbols, "cred", "user_ns", "cred.user_ns")?,
            exe_file: Field::find(symbols, "mm_struct", "exe_file", "mm_struct.exe_file")?,
            file_inode: Field::find(symbols, "file", "f_inode", "file.f_inode")?,
            inode: InodeLayout::of(symbols)?,
            first_namespace: symbol(symbols, "init_user_ns")?,
            of_swapper: symbol(symbols, "init_cred")?,
            seen: HashMap::new(),
        })
    }

    /// Looks at all tasks, threads too. `explained` are the numbers of those that made a call since the last look that gives rights.
    ///
    /// # Errors
    /// [`WalkError`] if nobody's credentials can be read.
    pub fn look(
        &mut self,
        look: &Look<'_>,
        tasks: &[Task],
        explained: &HashSet<u32>,
        findings: &mut Findings,
    ) -> Result<(), WalkError> {
        let first_namespace =
            look.pointer(self.namespace.of(self.of_swapper)).unwrap_or(self.first_namespace);
        let mut seen = HashMap::with_capacity(tasks.len());
        let mut owners = HashMap::<Gva, &Task>::new();
        let mut shared = Vec::new();
        for task in tasks.iter().filter(|task| !task.kernel_thread) {
            // It may end while we look.
            let Ok(copy) = self.task.read(look, task.at) else { continue };
            let cred = copy.pointer(self.task.real);
            let Ok(namespace) = look.pointer(self.namespace.of(cred)) else { continue };
            let now = Before { rights: task.rights, in_first_namespace: namespace == first_namespace };
            let key = (task.pid, task.start_ns);
            if let Some(before) = self.seen.get(&key)
                && grew(before, &now)
                && !explained.contains(&task.pid)
                && !explained.contains(&task.tgid)
                && !self.runs_set_id_program(look, copy.target(self.task.mm))
            {
                findings.push(Certainty::Sure, finding(task, shown(&before.rights), shown(&now.rights)));
                // It stays as it was, so that it is told until it ends.
                seen.insert(key, *before);
            } else {
                seen.insert(key, now);
            }
            for used in [cred, copy.pointer(self.task.effective)] {
                match owners.get(&used) {
                    _ if used == self.of_swapper => shared.push((task, "the kernel's own".to_owned())),
                    Some(owner) if owner.tgid != task.tgid => {
                        shared.push((task, format!("those of pid {} ({})", owner.tgid, owner.comm)));
                    }
                    Some(_) => {}
                    None => _ = owners.insert(used, task),
                }
            }
        }
        for (task, whose) in shared {
            // A task may act with another's for a moment (`override_creds`), and one that ends gives its memory to the next.
            let after = format!("{}: {whose}", shown(&task.rights));
            findings.push(Certainty::SeenTwice, finding(task, "its own".to_owned(), after));
        }
        self.seen = seen;
        Ok(())
    }

    /// Whether a task runs a program that is setuid or setgid.
    #[must_use]
    pub fn task_runs_set_id_program(&self, look: &Look<'_>, task: Gva) -> bool {
        let mm = self.task.read(look, task).ok().and_then(|task| task.target(self.task.mm));
        self.runs_set_id_program(look, mm)
    }

    fn runs_set_id_program(&self, look: &Look<'_>, mm: Option<Gva>) -> bool {
        let mode = || {
            let file = look.pointer(self.exe_file.of(mm?)).ok()?;
            let inode = look.pointer(self.file_inode.of(file)).ok()?;
            Some(self.inode.read(look, inode).ok()?.u64(self.inode.mode))
        };
        mode().is_some_and(|mode| mode & SET_ID != 0)
    }
}

/// Whether a task has rights that it cannot have given itself. Capabilities count in the first namespace of users alone: in one of its
/// own every user has them all.
fn grew(before: &Before, now: &Before) -> bool {
    let root = |rights: &Rights| [rights.uid, rights.euid, rights.suid].contains(&0);
    let in_first = before.in_first_namespace && now.in_first_namespace;
    let more = |before: u64, now: u64| now & !before != 0;
    (!root(&before.rights) && root(&now.rights))
        || (in_first && more(before.rights.permitted, now.rights.permitted))
        || (in_first && more(before.rights.bounding, now.rights.bounding))
        || (!before.in_first_namespace && now.in_first_namespace)
}

fn finding(task: &Task, before: String, after: String) -> Finding {
    Finding::Credentials { pid: task.pid, comm: task.comm.clone(), before, after }
}

/// `uid 1000, euid 0, capabilities 0x1ffffffffff`.
fn shown(rights: &Rights) -> String {
    let Rights { uid, euid, suid, permitted, .. } = rights;
    format!("uid {uid}, euid {euid}, suid {suid}, capabilities {permitted:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, euid: u32, suid: u32) -> Before {
        let rights = Rights { uid, euid, suid, bounding: 0xff, ..Rights::default() };
        Before { rights, in_first_namespace: true }
    }

    #[test]
    fn root_that_was_kept_may_be_taken_again() {
        assert!(!grew(&user(0, 1000, 0), &user(0, 0, 0)));
        assert!(!grew(&user(1000, 1000, 0), &user(1000, 0, 0)));
        assert!(!grew(&user(0, 0, 0), &user(1000, 1000, 1000)));
        assert!(grew(&user(1000, 1000, 1000), &user(1000, 0, 1000)));
        assert!(grew(&user(1000, 1000, 1000), &user(0, 0, 0)));
    }

    #[test]
    fn capabilities_grow_in_a_namespace_of_ones_own_only() {
        let plain = user(1000, 1000, 1000);
        let mut capable = plain;
        capable.rights.permitted = 1;
        assert!(grew(&plain, &capable));
        assert!(!grew(&capable, &plain));
        capable.in_first_namespace = false;
        assert!(!grew(&plain, &capable));
        assert!(grew(&capable, &plain));
    }
}
