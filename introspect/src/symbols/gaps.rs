//! What introspection cannot show of a kernel, because a symbol or a member that it needs is not there.

use std::fmt;

use super::Symbols;

/// Something that cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// What: `sockets`.
    pub what: &'static str,
    /// The symbol or `type.member` that is missing.
    pub missing: &'static str,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: kernel has no {}", self.what, self.missing)
    }
}

/// What there is to show, and what it takes: alternatives, the first for the oldest kernels, each a symbol or a `type.member`.
const NEEDS: &[(&str, &[&[&str]])] = &[
    (
        "processes",
        &[
            &["init_task"],
            &["task_struct.tasks"],
            &["task_struct.pid"],
            &["task_struct.comm"],
            &["task_struct.cred"],
        ],
    ),
    ("the current process", &[&["__per_cpu_offset"], &["current_task", "pcpu_hot"]]),
    ("memory of processes", &[&["init_top_pgt"], &["task_struct.mm"], &["mm_struct.pgd"]]),
    ("files", &[&["task_struct.files"], &["files_struct.fdt"], &["file.f_path"], &["dentry.d_name"]]),
    ("sockets", &[&["socket_file_ops"], &["socket.sk"], &["sock.__sk_common"], &["inet_sock.inet_sport"]]),
    ("modules", &[&["modules"], &["module.list"], &["module.core_layout", "module.mem"]]),
    ("the kernel's log", &[&["prb"], &["printk_ringbuffer.desc_ring"], &["printk_info.text_len"]]),
    (
        "the page cache",
        &[&["inode.i_mapping"], &["address_space.i_pages"], &["xarray.xa_head"], &["vmemmap_base"]],
    ),
];

impl Symbols {
    /// What cannot be shown, and the first thing that is missing for it; nothing, if all is well.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let missing = |needs: &&[&[&'static str]]| {
            let mut missing = needs.iter().filter(|ways| !ways.iter().any(|way| self.has(way)));
            missing.next().and_then(|ways| ways.first().copied())
        };
        NEEDS.iter().filter_map(|(what, needs)| Some(Gap { what, missing: missing(needs)? })).collect()
    }

    fn has(&self, way: &str) -> bool {
        match way.split_once('.') {
            Some((type_name, path)) => self.member(type_name, path).is_some(),
            None => self.address(way).is_some() || self.percpu(way).is_some(),
        }
    }
}
