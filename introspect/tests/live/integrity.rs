//! A kernel that nobody has touched is found to be so, and what has hooked itself in is named.

use std::time::Instant;

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::memory::{Access, Gpa};
use introspect::integrity::hidden::{MissingFrom, hidden_tasks};
use introspect::integrity::hooks::{self, Hook, Hooks};
use introspect::integrity::reference::{self, Change, Reference};
use introspect::walk::modules::{self, Modules};
use introspect::walk::pids::Pids;
use introspect::walk::tasks::{STEPS_MAX, Tasks};

use super::guest::guest;

#[test]
fn nothing_is_hidden_while_tasks_come_and_go() {
    let mut guest = guest();
    let (tasks, pids) = (Tasks::of(&guest.symbols).unwrap(), Pids::of(&guest.symbols).unwrap());
    guest.run("while :; do sleep 0.001; done & echo $! > /tmp/loop");
    for _ in 0..50 {
        assert_eq!(hidden_tasks(&guest.view.look(STEPS_MAX), &tasks, &pids, 1), []);
    }
    guest.run("kill $(cat /tmp/loop)");
}

/// The linear map, and where the kernel's image begins.
const LINEAR_MAP: u64 = 0xffff_8880_0000_0000;
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

#[test]
fn a_task_that_was_taken_off_the_list_is_hidden() {
    let mut guest = guest();
    let (tasks, pids) = (Tasks::of(&guest.symbols).unwrap(), Pids::of(&guest.symbols).unwrap());
    let pid: u32 = guest.run("sleep 3001 & echo $!").parse().unwrap();
    let task =
        super::tasks::wait_for(&guest.view, &tasks, pid, |task| task.comm == "sleep" && task.state == 'S');
    let node = task.at.0 + guest.symbols.member("task_struct", "tasks").unwrap().offset;
    let gpa = |at: u64| Gpa(if at >= KERNEL_MAP { at - KERNEL_MAP } else { at - LINEAR_MAP });
    let ram = guest.ram.clone();
    let (next, prev) = (ram.read_u64(gpa(node)).unwrap(), ram.read_u64(gpa(node + 8)).unwrap());
    ram.write_u64(gpa(prev), next).unwrap();
    ram.write_u64(gpa(next + 8), prev).unwrap();
    let hidden = hidden_tasks(&guest.view.look(STEPS_MAX), &tasks, &pids, 1);
    let said = guest.run("ls /proc");
    ram.write_u64(gpa(prev), node).unwrap();
    ram.write_u64(gpa(next + 8), node).unwrap();
    assert_eq!(hidden.len(), 1, "{hidden:?}");
    assert_eq!(hidden[0].missing_from, MissingFrom::List);
    assert_eq!(hidden[0].task.as_ref().map(|task| task.pid), Some(pid));
    assert!(said.contains(&pid.to_string()));
    guest.run(&format!("kill {pid}"));
}

#[test]
fn a_system_call_that_leads_elsewhere_is_named() {
    const GETPID: u64 = 39;
    let guest = guest();
    let image = KernelImage::parse(&guest.vmlinux).unwrap();
    let look = guest.view.look(reference::STEPS_MAX);
    let reference = Reference::take(&look, &guest.symbols, &image).unwrap();
    let entry = Gpa(guest.symbols.address("sys_call_table").unwrap().0 - KERNEL_MAP + 8 * GETPID);
    let before = guest.ram.read_u64(entry).unwrap();
    guest.ram.write_u64(entry, guest.symbols.address("__x64_sys_getppid").unwrap().0).unwrap();
    let changes = reference.changes(&look, &guest.symbols, &[]).unwrap();
    guest.ram.write_u64(entry, before).unwrap();
    let [Change::ReadOnlyData { page }, Change::SystemCall { table, number, expected, found }] = &changes[..]
    else {
        panic!("{changes:?}");
    };
    assert_eq!(page.owner.as_deref(), Some("__start_rodata"));
    assert_eq!((*table, *number), ("sys_call_table", GETPID));
    assert!(expected.owner.as_deref().is_some_and(|name| name.ends_with("sys_getpid")));
    assert!(found.owner.as_deref().is_some_and(|name| name.ends_with("sys_getppid")));
    assert_eq!(reference.changes(&look, &guest.symbols, &[]).unwrap(), []);
}

#[test]
fn static_keys_and_calls_change_nothing_that_is_compared() {
    let mut guest = guest();
    let image = KernelImage::parse(&guest.vmlinux).unwrap();
    let begun = Instant::now();
    let reference = Reference::take(&guest.view.look(reference::STEPS_MAX), &guest.symbols, &image).unwrap();
    println!("reference taken in {:?}", begun.elapsed());
    drop(image);
    guest.run("mount -t tracefs none /mnt; echo 1 > /mnt/events/syscalls/enable; echo 1 > /proc/sys/kernel/sched_schedstats");
    let changes = |guest: &super::guest::Guest| {
        reference.changes(&guest.view.look(reference::STEPS_MAX), &guest.symbols, &[])
    };
    assert_eq!(changes(&guest).unwrap(), []);
    guest.run("echo 0 > /mnt/events/syscalls/enable");
    guest.run("echo 0 > /proc/sys/kernel/sched_schedstats; umount /mnt");
    assert_eq!(changes(&guest).unwrap(), []);
}

#[test]
fn a_kprobe_is_named_and_its_breakpoint_is_a_change_of_text() {
    let mut guest = guest();
    let image = KernelImage::parse(&guest.vmlinux).unwrap();
    let reference = Reference::take(&guest.view.look(reference::STEPS_MAX), &guest.symbols, &image).unwrap();
    drop(image);
    let hooks = Hooks::of(&guest.symbols).unwrap();
    let modules = Modules::of(&guest.symbols).unwrap().list(&guest.view.look(modules::STEPS_MAX)).items;
    let before = hooks.list(&guest.view.look(hooks::STEPS_MAX), &guest.symbols, &modules);
    println!("{before:?}");
    assert_eq!(before.incomplete, None);
    guest.run("mount -t tracefs none /mnt; echo 'p:ours do_sys_openat2+5' > /mnt/kprobe_events");
    let said = guest.run("echo 1 > /mnt/events/kprobes/ours/enable; cat /mnt/kprobe_events");
    let after = hooks.list(&guest.view.look(hooks::STEPS_MAX), &guest.symbols, &modules);
    let probe = after.items.iter().find_map(|hook| match hook {
        Hook::Kprobe { at, handler } => Some((at.owner.clone()?, handler.clone()?.owner)),
        _ => None,
    });
    let expected = ("do_sys_openat2+0x5".to_owned(), Some("kprobe_dispatcher".to_owned()));
    assert_eq!(probe, Some(expected), "{after:?} {said}");
    let changes =
        reference.changes(&guest.view.look(reference::STEPS_MAX), &guest.symbols, &modules).unwrap();
    println!("{changes:?}");
    assert!(!changes.is_empty());
    guest.run("echo 0 > /mnt/events/kprobes/ours/enable; echo > /mnt/kprobe_events; umount /mnt");
}
