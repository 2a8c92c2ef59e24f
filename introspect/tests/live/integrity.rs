//! A kernel that nobody has touched is found to be so, and what has hooked itself in is named.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::memory::{Access, Gpa};
use introspect::integrity::hidden::{MissingFrom, hidden_tasks};
use introspect::integrity::hooks::{self, Hook, Hooks};
use introspect::integrity::{Finding, Inputs, Integrity, What};
use introspect::symbols::Symbols;
use introspect::walk::modules::{self, Modules};
use introspect::walk::pids::Pids;
use introspect::walk::tasks::{STEPS_MAX, Tasks};

use super::guest::{Guest, VCPUS, guest};

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

/// Watches over a guest from now on, which is as it should be.
fn watch(guest: &Guest) -> Integrity {
    let image = KernelImage::parse(&guest.vmlinux).unwrap();
    let symbols = Arc::new(Symbols::of_kernel(&image).unwrap());
    let mut integrity = Integrity::new(symbols, &image).unwrap();
    let begun = Instant::now();
    assert_eq!(look(guest, |inputs| integrity.reference(&guest.view, inputs).findings), []);
    println!("reference taken in {:?}", begun.elapsed());
    integrity
}

fn look<T>(guest: &Guest, take: impl FnOnce(&Inputs<'_>) -> T) -> T {
    let entries = guest.entries();
    let (callers, explained) = (HashSet::new(), HashSet::new());
    take(&Inputs { entries: &entries, vcpus: VCPUS, callers: &callers, explained: &explained })
}

fn check(guest: &Guest, integrity: &mut Integrity) -> Vec<Finding> {
    let begun = Instant::now();
    let checked = look(guest, |inputs| integrity.check(&guest.view, inputs));
    println!("checked in {:?}", begun.elapsed());
    checked.findings
}

#[test]
fn a_system_call_that_leads_elsewhere_is_named() {
    const GETPID: u64 = 39;
    let guest = guest();
    let mut integrity = watch(&guest);
    let entry = Gpa(guest.symbols.address("sys_call_table").unwrap().0 - KERNEL_MAP + 8 * GETPID);
    let before = guest.ram.read_u64(entry).unwrap();
    guest.ram.write_u64(entry, guest.symbols.address("__x64_sys_getppid").unwrap().0).unwrap();
    let found = check(&guest, &mut integrity);
    guest.ram.write_u64(entry, before).unwrap();
    let [Finding::Changed { what: What::SystemCall, symbol, before, after, .. }] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(symbol, "sys_call_table[39]");
    assert!(before.contains("sys_getpid") && after.contains("sys_getppid"), "{before} {after}");
    assert_eq!(check(&guest, &mut integrity), []);
}

#[test]
fn a_byte_of_text_is_told_with_what_it_was() {
    let guest = guest();
    let mut integrity = watch(&guest);
    let at = guest.symbols.address("__x64_sys_uname").unwrap().0 + 9;
    let gpa = Gpa(at - KERNEL_MAP);
    let before: [u8; 1] = guest.ram.read_array(gpa).unwrap();
    guest.ram.write(gpa, &[!before[0]]).unwrap();
    let found = check(&guest, &mut integrity);
    guest.ram.write(gpa, &before).unwrap();
    let [Finding::Changed { what: What::Text, symbol, address, before: was, after }] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((symbol.as_str(), address.0), ("__x64_sys_uname+0x9", at));
    assert_eq!((was, after), (&hex::encode(before), &hex::encode([!before[0]])));
}

#[test]
fn text_that_was_changed_before_the_reference_is_told_by_it() {
    let guest = guest();
    let image = KernelImage::parse(&guest.vmlinux).unwrap();
    let gpa = Gpa(guest.symbols.address("__x64_sys_uname").unwrap().0 - KERNEL_MAP + 9);
    let before: [u8; 1] = guest.ram.read_array(gpa).unwrap();
    guest.ram.write(gpa, &[!before[0]]).unwrap();
    let symbols = Arc::new(Symbols::of_kernel(&image).unwrap());
    let mut integrity = Integrity::new(symbols, &image).unwrap();
    let first = look(&guest, |inputs| integrity.reference(&guest.view, inputs).findings);
    let second = check(&guest, &mut integrity);
    guest.ram.write(gpa, &before).unwrap();
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(second, first);
    assert_eq!(check(&guest, &mut integrity), []);
}

#[test]
fn a_handler_of_a_trap_that_leads_elsewhere_is_named_at_the_second_look() {
    const PAGE_FAULT: usize = 14;
    let guest = guest();
    let mut integrity = watch(&guest);
    let mut entries = guest.entries();
    entries[0].traps[PAGE_FAULT].address += 1;
    entries[0].callbacks[2] += 1;
    let (callers, explained) = (HashSet::new(), HashSet::new());
    let inputs = Inputs { entries: &entries, vcpus: VCPUS, callers: &callers, explained: &explained };
    assert_eq!(integrity.check(&guest.view, &inputs).findings, []);
    assert!(integrity.is_waiting());
    let found = integrity.check(&guest.view, &inputs).findings;
    let told = found.iter().filter_map(|finding| match finding {
        Finding::Changed { what: What::Trap, symbol, before, .. } => Some((symbol.as_str(), before.as_str())),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let [("vector 14 of vcpu 0", trap), ("syscall callback of vcpu 0", callback)] = told[..] else {
        panic!("{found:?}");
    };
    assert!(trap.contains("page_fault") && callback.contains("SYSCALL_64"), "{trap} {callback}");
}

#[test]
fn who_calls_and_is_in_no_book_is_hidden() {
    let guest = guest();
    let mut integrity = watch(&guest);
    let entries = guest.entries();
    let (callers, explained) = (HashSet::from([1, 31_999]), HashSet::new());
    let inputs = Inputs { entries: &entries, vcpus: VCPUS, callers: &callers, explained: &explained };
    assert_eq!(integrity.check(&guest.view, &inputs).findings, []);
    let found = integrity.check(&guest.view, &inputs).findings;
    assert!(
        matches!(&found[..], [Finding::Hidden { pid: 31_999, seen_by: "system calls", .. }]),
        "{found:?}"
    );
}

#[test]
fn static_keys_and_calls_change_nothing_that_is_compared() {
    let mut guest = guest();
    let mut integrity = watch(&guest);
    guest.run("mount -t tracefs none /mnt; echo 1 > /mnt/events/syscalls/enable; echo 1 > /proc/sys/kernel/sched_schedstats");
    assert_eq!(check(&guest, &mut integrity), []);
    guest.run("echo 0 > /mnt/events/syscalls/enable");
    guest.run("echo 0 > /proc/sys/kernel/sched_schedstats; umount /mnt");
    assert_eq!(check(&guest, &mut integrity), []);
}

#[test]
fn a_kprobe_is_named_and_its_breakpoint_is_a_change_of_text() {
    let mut guest = guest();
    let mut integrity = watch(&guest);
    let hooks = Hooks::of(&guest.symbols).unwrap();
    let modules = Modules::of(&guest.symbols).unwrap().list(&guest.view.look(modules::STEPS_MAX)).items;
    let before = hooks.list(&guest.view.look(hooks::STEPS_MAX), &guest.symbols, &modules);
    assert_eq!(before.incomplete, None);
    guest.run("mount -t tracefs none /mnt; echo 'p:ours do_sys_openat2+5' > /mnt/kprobe_events");
    let said = guest.run("echo 1 > /mnt/events/kprobes/ours/enable; cat /mnt/kprobe_events");
    let after = hooks.list(&guest.view.look(hooks::STEPS_MAX), &guest.symbols, &modules);
    let probe = after.items.iter().find_map(|hook| match hook {
        Hook::Kprobe { at, handler } => Some((at.owner.clone()?, handler.clone()?.owner)),
        _ => None,
    });
    let (at, handler) = probe.unwrap();
    assert_eq!(at, "do_sys_openat2+0x5", "{after:?} {said}");
    // Of a probe that the kernel makes a jump of, where its instructions allow that, the handler is the kernel's own, which calls it.
    let handler = handler.unwrap();
    assert!(["kprobe_dispatcher", "aggr_pre_handler"].contains(&handler.as_str()), "{after:?}");
    check(&guest, &mut integrity);
    let found = check(&guest, &mut integrity);
    let kinds: HashSet<What> = found
        .iter()
        .filter_map(|finding| match finding {
            Finding::Changed { what, symbol, .. } => {
                assert_eq!(symbol, "do_sys_openat2+0x5");
                Some(*what)
            }
            _ => None,
        })
        .collect();
    assert_eq!(kinds, HashSet::from([What::Kprobe, What::Text]), "{found:?}");
    guest.run("echo 0 > /mnt/events/kprobes/ours/enable; echo > /mnt/kprobe_events; umount /mnt");
    assert_eq!(check(&guest, &mut integrity), []);
}

#[test]
fn an_ebpf_program_is_named_while_it_is_loaded() {
    let mut guest = guest();
    let mut integrity = watch(&guest);
    let path = super::opened::put(&mut guest, "filter");
    let pid = guest.run(&format!("{path} & sleep 0.5; echo $!"));
    let found = check(&guest, &mut integrity);
    guest.run(&format!("kill {pid}; sleep 0.5"));
    let [Finding::Changed { what: What::Bpf, symbol, after, .. }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(symbol, "ours");
    assert!(after.ends_with("of type 1"), "{after}");
    assert_eq!(check(&guest, &mut integrity), []);
}
