//! Memory that a hostile guest has prepared, and the kernel's real layouts: each walk ends within its steps, with an error value.

use std::path::Path;
use std::sync::LazyLock;

use decoys::progress::Silent;
use honeyvmm::kernel_image::KernelImage;

use super::*;
use crate::symbols::Symbols;
use crate::view::tests::{Memory, linear};
use crate::walk::files::Files;
use crate::walk::log::Log;
use crate::walk::modules::Modules;
use crate::walk::page_cache::PageCache;
use crate::walk::paths::Paths;
use crate::walk::pids::Pids;
use crate::walk::sockets::Sockets;
use crate::walk::tasks::{Tasks, Threads};
use crate::walk::xarray::Xarray;

const STEPS: u32 = 50_000;

static SYMBOLS: LazyLock<Symbols> = LazyLock::new(|| {
    let home = std::env::var_os("HOME").unwrap();
    let kernel = decoys::kernel::fetch(&Path::new(&home).join(".cache/honeynet"), &Silent).unwrap();
    let vmlinux = std::fs::read(kernel.vmlinux).unwrap();
    Symbols::of_kernel(&KernelImage::parse(&vmlinux).unwrap()).unwrap()
});

fn offset(type_name: &str, path: &str) -> u64 {
    SYMBOLS.member(type_name, path).unwrap().offset
}

/// A list of nodes at these places, the head first.
fn set_list(memory: &Memory, nodes: &[u64]) {
    for (index, node) in nodes.iter().enumerate() {
        memory.set(*node, nodes[(index + 1) % nodes.len()]);
        memory.set(*node + 8, nodes[(index + nodes.len() - 1) % nodes.len()]);
    }
}

#[test]
fn a_whole_list_is_listed() {
    let memory = Memory::new();
    let nodes = [0x1000, 0x2000, 0x3000].map(linear);
    set_list(&memory, &nodes);
    let listing = list::nodes(&memory.view.look(STEPS), Gva(nodes[0]));
    assert_eq!((listing.items, listing.incomplete), (vec![Gva(nodes[1]), Gva(nodes[2])], None));
    set_list(&memory, &nodes[..1]);
    assert_eq!(list::nodes(&memory.view.look(STEPS), Gva(nodes[0])).items, []);
}

#[test]
fn a_list_with_a_circle_ends_and_says_so() {
    let memory = Memory::new();
    let nodes = [0x1000, 0x2000, 0x3000].map(linear);
    set_list(&memory, &nodes);
    memory.set(nodes[2], nodes[1]);
    let listing = list::nodes(&memory.view.look(STEPS), Gva(nodes[0]));
    assert_eq!(listing.items, [Gva(nodes[1]), Gva(nodes[2])]);
    assert_eq!(listing.incomplete, Some(WalkError::Torn(Gva(nodes[1]))));
    // To itself, and out of memory.
    memory.set(nodes[1], nodes[1]);
    assert!(list::nodes(&memory.view.look(STEPS), Gva(nodes[0])).incomplete.is_some());
    memory.set(nodes[1], 0xdead_0000_0000_0100);
    let listing = list::nodes(&memory.view.look(STEPS), Gva(nodes[0]));
    assert_eq!(listing.items, [Gva(nodes[1])]);
    assert!(matches!(listing.incomplete, Some(WalkError::View(ViewError::NotMapped(_)))));
}

#[test]
fn a_node_that_does_not_point_back_hides_nothing() {
    let memory = Memory::new();
    let nodes = [0x1000, 0x2000, 0x3000, 0x4000].map(linear);
    set_list(&memory, &nodes);
    memory.set(nodes[2] + 8, 0);
    let listing = list::nodes(&memory.view.look(STEPS), Gva(nodes[0]));
    assert_eq!(listing.items, nodes[1..].iter().map(|node| Gva(*node)).collect::<Vec<_>>());
    assert_eq!(listing.incomplete, Some(WalkError::Torn(Gva(nodes[2]))));
}

#[test]
fn a_list_longer_than_the_steps_ends() {
    let memory = Memory::new();
    let nodes: Vec<u64> = (0..1000).map(|index| linear(0x1000 + 16 * index)).collect();
    set_list(&memory, &nodes);
    let listing = list::nodes(&memory.view.look(100), Gva(nodes[0]));
    assert_eq!(listing.incomplete, Some(WalkError::View(ViewError::Steps(100))));
}

#[test]
fn entries_of_an_xarray_have_index_and_count() {
    let memory = Memory::new();
    let xarray = Xarray::of(&SYMBOLS).unwrap();
    let (head, slots) = (offset("xarray", "xa_head"), offset("xa_node", "slots"));
    memory.set(linear(0x1000) + head, linear(0x2000) | 2);
    memory.set_bytes(linear(0x2000), &[6]);
    // Below slot 1 a node of pages: one of two indexes, and one; slot 2 covers 64.
    memory.set(linear(0x2000) + slots + 8, linear(0x3000) | 2);
    memory.set(linear(0x2000) + slots + 16, 0x8888);
    memory.set(linear(0x3000) + slots + 8 * 4, 0x4444);
    memory.set(linear(0x3000) + slots + 8 * 5, 4 << 2 | 2);
    memory.set(linear(0x3000) + slots + 8 * 7, 0x7777);
    let listing = xarray.entries(&memory.view.look(STEPS), Gva(linear(0x1000)), 10);
    let found: Vec<_> = listing.items.iter().map(|entry| (entry.index, entry.count, entry.value)).collect();
    assert_eq!(found, [(68, 2, 0x4444), (71, 1, 0x7777), (128, 64, 0x8888)]);
    assert_eq!(listing.incomplete, None);
    let listing = xarray.entries(&memory.view.look(STEPS), Gva(linear(0x1000)), 2);
    assert!(matches!(listing.incomplete, Some(WalkError::TooMany { max: 2, .. })));
}

#[test]
fn a_tree_that_contains_itself_ends() {
    let memory = Memory::new();
    let xarray = Xarray::of(&SYMBOLS).unwrap();
    let (head, slots) = (offset("xarray", "xa_head"), offset("xa_node", "slots"));
    memory.set(linear(0x1000) + head, linear(0x2000) | 2);
    // Eleven levels, each slot of which leads to the next: more paths than there are atoms.
    for level in 0..11u64 {
        let node = linear(0x2000 + 0x1000 * level);
        memory.set_bytes(node, &[60 - 6 * level as u8]);
        for slot in 0..64 {
            memory.set(node + slots + 8 * slot, (node + 0x1000) | 2);
        }
    }
    let listing = xarray.entries(&memory.view.look(STEPS), Gva(linear(0x1000)), 1 << 20);
    assert!(listing.incomplete.is_some());
    memory.set(linear(0x2000) + slots, linear(0x2000) | 2);
    let listing = xarray.entries(&memory.view.look(STEPS), Gva(linear(0x1000)), 1 << 20);
    assert_eq!(listing.incomplete, Some(WalkError::Torn(Gva(linear(0x2000)))));
}

#[test]
fn a_directory_that_is_its_own_grandparent_ends() {
    let memory = Memory::new();
    let paths = Paths::of(&SYMBOLS).unwrap();
    let (path, mount, first, second) = (linear(0x1000), linear(0x2000), linear(0x3000), linear(0x4000));
    memory.set(path + offset("path", "mnt"), mount + offset("mount", "mnt"));
    memory.set(path + offset("path", "dentry"), first);
    for (dentry, parent) in [(first, second), (second, first)] {
        memory.set(dentry + offset("dentry", "d_parent"), parent);
        memory.set(dentry + offset("dentry", "d_name.name"), linear(0x5000));
        memory.set_bytes(dentry + offset("dentry", "d_name.len"), &1u32.to_le_bytes());
        memory.set(dentry + offset("dentry", "d_hash.pprev"), 1);
    }
    memory.set_bytes(linear(0x5000), b"a");
    let look = memory.view.look(STEPS);
    assert!(matches!(paths.name(&look, Gva(path)), Err(WalkError::TooMany { .. })));
    // The same with mounts: each on top of the other.
    memory.set(mount + offset("mount", "mnt.mnt_root"), first);
    memory.set(mount + offset("mount", "mnt_parent"), linear(0x6000));
    memory.set(mount + offset("mount", "mnt_mountpoint"), first);
    memory.set(linear(0x6000) + offset("mount", "mnt.mnt_root"), first);
    memory.set(linear(0x6000) + offset("mount", "mnt_parent"), mount);
    memory.set(linear(0x6000) + offset("mount", "mnt_mountpoint"), first);
    assert!(matches!(paths.name(&look, Gva(path)), Err(WalkError::TooMany { .. })));
    memory.set_bytes(first + offset("dentry", "d_name.len"), &u32::MAX.to_le_bytes());
    memory.set(mount + offset("mount", "mnt.mnt_root"), 0);
    assert!(matches!(paths.name(&look, Gva(path)), Err(WalkError::TooMany { .. })));
    assert!(look.steps_taken() < STEPS);
}

#[test]
fn a_table_of_files_without_end_ends() {
    let memory = Memory::new();
    let files = Files::of(&SYMBOLS).unwrap();
    let (task, set, table) = (linear(0x1000), linear(0x4000), linear(0x5000));
    memory.set(task + offset("task_struct", "files"), set);
    memory.set(set + offset("files_struct", "fdt"), table);
    memory.set_bytes(table + offset("fdtable", "max_fds"), &u32::MAX.to_le_bytes());
    memory.set(table + offset("fdtable", "fd"), linear(0x6000));
    let look = memory.view.look(STEPS);
    let listing = files.list(&look, Gva(task));
    assert_eq!(listing.items, []);
    assert!(matches!(listing.incomplete, Some(WalkError::TooMany { .. })));
    assert_eq!(files.list(&look, Gva(linear(0x8000))).incomplete, None);
    assert!(files.list(&look, Gva(0x123)).incomplete.is_some());
}

/// Runs every walk; none may panic or take more than its steps.
fn walk_all(memory: &Memory) -> Vec<Option<WalkError>> {
    let look = || memory.view.look(STEPS);
    let tasks = Tasks::of(&SYMBOLS).unwrap();
    let listing = tasks.list(&look(), Threads::All);
    let files = Files::of(&SYMBOLS).unwrap();
    let at = listing.items.first().map_or(Gva(linear(0x1000)), |task| task.at);
    vec![
        listing.incomplete.clone(),
        Modules::of(&SYMBOLS).unwrap().list(&look()).incomplete,
        Pids::of(&SYMBOLS).unwrap().list(&look()).incomplete,
        Sockets::of(&SYMBOLS).unwrap().list(&look(), &listing.items).incomplete,
        Log::of(&SYMBOLS).unwrap().list(&look()).incomplete,
        files.list(&look(), at).incomplete,
        tasks.current(&look(), 0).and_then(|current| tasks.task(&look(), current)).err(),
        PageCache::of(&SYMBOLS).unwrap().read(&look(), at, 1 << 16).err(),
        Paths::of(&SYMBOLS).unwrap().name(&look(), at).err(),
    ]
}

#[test]
fn memory_of_one_byte_is_walked_to_an_end() {
    for byte in [0u8, 1, 2, 0x41, 0x7f, 0x88, 0xff] {
        let memory = Memory::of_words(&SYMBOLS, |_| u64::from_ne_bytes([byte; 8]));
        let errors = walk_all(&memory);
        // A list without a head is no empty list.
        assert!(errors[0].is_some() && errors[1].is_some(), "{byte:#x}: {errors:?}");
    }
}

#[test]
fn memory_full_of_pointers_into_itself_is_walked_to_an_end() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for tag in [0, 2, 0x100] {
        let memory = Memory::of_words(&SYMBOLS, |ram_bytes| match random() % 8 {
            0 => random() % 4096,
            1 => random(),
            _ => linear((random() % ram_bytes) & !0xff) | tag,
        });
        let errors = walk_all(&memory);
        assert!(errors[0].is_some() && errors[1].is_some(), "{errors:?}");
    }
}
