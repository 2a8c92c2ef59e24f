//! Hostile kernels (`sources/kernel.c`): each lie is refused as Xen refuses it, or ends the domain with a sentence. The VMM goes on, and
//! so does another domain in the same process.

use std::time::Duration;

use honeyvmm::hypercall::ShutdownReason;
use honeyvmm::machine::Offered;
use honeyvmm::run_loop::End;

use super::domain::{Domain, Guest, Outcome};
use super::programs::{self, HOSTILE_KERNEL};

/// Most cases take 60 ms; one fills its memory with exception frames.
const LIMIT: Duration = Duration::from_secs(60);
/// A kernel that never ends is let run so long.
const ENDLESS: Duration = Duration::from_millis(300);
/// The other domain's tick is due all the time.
const TICK_TIMEOUT: Duration = Duration::from_secs(60);

fn start(case: &str, devices: Vec<Offered>) -> Domain {
    // Its cases with several vcpus are named so.
    let vcpus = if case.starts_with("vcpu") { 2 } else { 1 };
    let kernel = programs::read(HOSTILE_KERNEL);
    let guest = Guest { kernel: &kernel, ramdisk: None, cmdline: case, memory_mib: 16, vcpus };
    Domain::start_with(&guest, devices)
}

/// Runs a case beside a domain that must not notice.
fn beside_another(case: &str) -> Outcome {
    beside_another_with(case, Vec::new())
}

/// Likewise, with devices.
pub fn beside_another_with(case: &str, devices: Vec<Offered>) -> Outcome {
    let mut witness = start("witness", Vec::new());
    witness.wait_for_another("tick", TICK_TIMEOUT);
    let outcome = start(case, devices).finish(LIMIT);
    witness.wait_for_another("tick", TICK_TIMEOUT);
    witness.destroy();
    assert_eq!(witness.finish(TICK_TIMEOUT).end, End::Stopped, "{case}");
    outcome
}

/// The case comes to its end, and its calls had these results.
fn check_refused(case: &str, results: &[(&str, i64)]) {
    let Outcome { end, console, .. } = beside_another(case);
    assert_eq!(end, End::Shutdown(ShutdownReason::Poweroff), "{case}: {console}");
    for (call, result) in results {
        let line = format!("{call} = {result}");
        assert!(console.lines().any(|l| l.trim_matches('\0') == line), "{case}: no {line:?} in {console}");
    }
}

/// The domain ends with a sentence that has this in it.
fn check_crash(case: &str, sentence: &str) {
    let Outcome { end, console, destroyed } = beside_another(case);
    match &end {
        End::Crash(text) => assert!(text.contains(sentence), "{case}: {text}"),
        other => panic!("{case}: {other:?}, destroyed: {destroyed}, {console}"),
    }
}

#[test]
fn unknown_calls_are_refused() {
    let calls =
        ["hypercall 6", "hypercall 63", "hypercall 64", "hypercall max", "platform", "grant map", "sched 99"];
    let mut results: Vec<_> = calls.map(|call| (call, -38)).to_vec();
    results.extend([("vcpu 7", -2), ("vcpu max", -2), ("shutdown 99", -22)]);
    check_refused("unknown", &results);
}

#[test]
fn no_call_takes_a_pointer_outside_memory_or_into_the_shim() {
    check_refused("pointers", &[("pointers tried", 252), ("pointers taken", 0)]);
}

#[test]
fn absurd_page_tables_are_refused() {
    let invalid = [
        "entry outside",
        "entry of the shim",
        "entry at the end",
        "shim frame",
        "area frame",
        "huge frame",
        "frame after ram",
        "shim slot",
        "physmap slot",
        "va of the shim",
        "va not canonical",
        "va of nothing",
        "va to the shim",
        "base outside",
        "base of the shim",
        "base overflows",
        "base max",
        "user base max",
        "user base is the kernel's",
        "pin max",
        "clear overflows",
        "copy overflows",
        "batch of 65537",
        "ops max",
    ];
    let mut results: Vec<_> = invalid.map(|call| (call, -22)).to_vec();
    results.extend([("command 5", -38), ("command 99", -38), ("ldt", -38)]);
    check_refused("page_tables", &results);
}

#[test]
fn absurd_descriptor_and_trap_tables_are_refused() {
    let calls = [
        "traps without end",
        "trap not canonical",
        "gdt frame",
        "gdt entries",
        "descriptor odd",
        "descriptor of the shim",
        "descriptor max",
        "debug 4",
        "debug max",
        "fs not canonical",
        "segment 9",
        "callback not canonical",
        "callback 77",
        "vcpu_info outside",
        "vcpu_info in the shim",
        "vcpu_info past its page",
    ];
    check_refused("tables", &calls.map(|call| (call, -22)));
}

#[test]
fn bad_ports_are_refused_and_good_ones_run_out() {
    let results = [
        ("ports taken", 0),
        ("virq 99", -22),
        ("ipi to vcpu 7", -2),
        ("domain 5", -3),
        ("ports bound", 4094),
    ];
    check_refused("events", &results);
}

#[test]
fn a_grant_table_larger_than_there_is_is_refused() {
    check_refused("grants", &[("33 frames", -1), ("all frames", -1), ("two ops", -22), ("count max", -22)]);
}

#[test]
fn a_flood_of_calls_is_bounded() {
    let results = [
        ("4096 calls", 0),
        ("multicall in it", -22),
        ("unknown in it", -38),
        ("4097 calls", -22),
        ("max calls", -22),
    ];
    check_refused("multicalls", &results);
}

#[test]
fn nonsense_in_the_rings_of_console_and_xenstore_stops_nobody() {
    let outcome = beside_another("rings");
    assert_eq!(outcome.end, End::Shutdown(ShutdownReason::Poweroff), "{}", outcome.console);
    assert!(outcome.console.contains("rings: gone through"), "{}", outcome.console);
}

#[test]
fn privileged_instructions_do_nothing_and_unknown_ones_trap() {
    check_refused("instructions", &[("traps", 2)]);
}

#[test]
fn iret_to_an_address_that_is_none_is_the_kernels_own_fault() {
    let outcome = beside_another("iret_not_canonical");
    assert!(outcome.console.contains("handler reached"), "{outcome:?}");
}

#[test]
fn a_kernel_without_stack_or_handler_ends_its_domain() {
    check_crash("iret_nowhere", "iret frame at 0x1000 is not mapped");
    for case in
        ["no_handler", "no_stack", "stack_in_the_shim", "handler_nowhere", "callback_nowhere", "no_callback"]
    {
        check_crash(case, "no kernel stack for an exception");
    }
}

#[test]
fn a_kernel_that_loads_garbage_as_page_tables_ends_its_domain() {
    check_crash("base_of_nothing", "");
    check_crash("base_of_garbage", "");
}

#[test]
fn a_kernel_that_reaches_for_a_device_ends_its_domain() {
    check_crash("device_memory", "died");
}

/// A guest kernel can map the shim's memory and break it. That is the end of its own domain, one way or the other, and of nothing else.
#[test]
fn a_kernel_that_overwrites_its_shim_breaks_its_own_domain_only() {
    for case in [
        "scribble_hlt",
        "scribble_int3",
        "scribble_ones",
        "scribble_garbage",
        "scribble_area_ones",
        "scribble_area_garbage",
    ] {
        let outcome = beside_another(case);
        assert!(matches!(outcome.end, End::Crash(_) | End::Stopped), "{case}: {outcome:?}");
        assert!(outcome.console.contains("scribbling"), "{case}: {outcome:?}");
    }
}

#[test]
fn a_kernel_that_never_ends_is_destroyed() {
    for case in ["exceptions_without_end", "spin", "sleep_for_ever", "hypercalls_without_end"] {
        let mut domain = start(case, Vec::new());
        domain.wait_for_another("looping", TICK_TIMEOUT);
        let outcome = domain.finish(ENDLESS);
        assert_eq!((outcome.end, outcome.destroyed), (End::Stopped, true), "{case}: {}", outcome.console);
    }
}

#[test]
fn a_kernel_that_never_ends_can_be_paused() {
    for case in ["exceptions_without_end", "spin", "sleep_for_ever", "hypercalls_without_end"] {
        let mut domain = start(case, Vec::new());
        domain.wait_for_another("looping", TICK_TIMEOUT);
        domain.pause_and_unpause();
        assert_eq!(domain.finish(ENDLESS).end, End::Stopped, "{case}");
    }
}

#[test]
fn vcpus_that_cannot_be_are_refused() {
    let mut results =
        vec![("vcpus that are none", 0), ("initialise", 0), ("up", 0), ("initialise twice", -17)];
    let invalid = [
        "up before initialise",
        "user mode",
        "rip",
        "trap",
        "ldt",
        "gdt entries",
        "gdt entries max",
        "gdt frame",
        "cr3 outside",
        "cr3 odd",
        "cr3 max",
        "cr3 of the shim",
        "user cr3",
        "user cr3 is the kernel's",
        "event callback",
        "failsafe callback",
        "syscall callback",
        "fs base",
        "gs base",
        "user gs base",
        "up after all that",
        "vcpu_info of one that is up",
        "timer of another",
        "stop timer of another",
        "poll of 129",
        "poll of port max",
    ];
    results.extend(invalid.map(|call| (call, -22)));
    results.extend(
        ["context nowhere", "context in the shim", "poll of nowhere", "mask nowhere"].map(|c| (c, -14)),
    );
    results.extend([("first again", -17), ("is up", 0), ("is up now", 1), ("down", 0), ("is down", 0)]);
    results.extend([("down twice", 0), ("up again", 0), ("poll of nothing", 0), ("mask of all", 0)]);
    check_refused("vcpu_calls", &results);
}

#[test]
fn vcpus_that_flush_each_other_do_not_wait_for_ever() {
    check_refused("vcpus_flush", &[("flushes", 6000)]);
}

#[test]
fn the_last_vcpu_that_goes_down_ends_the_domain() {
    for case in ["vcpus_down", "vcpus_shutdown"] {
        let outcome = beside_another(case);
        assert_eq!(outcome.end, End::Shutdown(ShutdownReason::Poweroff), "{case}: {}", outcome.console);
        assert!(!outcome.console.contains("not reached"), "{case}: {}", outcome.console);
    }
}

#[test]
fn a_second_vcpu_that_cannot_run_ends_its_domain() {
    check_crash("vcpu_nowhere", "no kernel stack for an exception");
    check_crash("vcpu_tables_of_nothing", "");
    check_crash("vcpu_tables_of_garbage", "");
}

#[test]
fn two_vcpus_that_never_end_are_paused_and_destroyed() {
    for case in ["vcpus_spin", "vcpus_up_and_down", "vcpus_forge_flushes"] {
        let mut domain = start(case, Vec::new());
        domain.wait_for_another("looping", TICK_TIMEOUT);
        assert_eq!(domain.pause_and_unpause().len(), 2, "{case}");
        let outcome = domain.finish(ENDLESS);
        assert_eq!((outcome.end, outcome.destroyed), (End::Stopped, true), "{case}: {}", outcome.console);
    }
}

#[test]
fn a_kernel_that_panics_says_so() {
    assert_eq!(beside_another("panic").end, End::Shutdown(ShutdownReason::Crash));
}
