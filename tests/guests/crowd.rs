//! Debian's kernel with several vcpus, more than this machine may have cores: threads that change memory under each other's eyes
//! (`sources/crowd.c`), processors that go offline and come back, a pause in the middle of all that.

use std::time::Duration;

use honeyvmm::hypercall::ShutdownReason;
use honeyvmm::run_loop::End;

use super::domain::{Domain, Guest};
use super::programs::{self, CROWD, DEBIAN_KERNEL};

/// Ten seconds here, minutes in an emulated host.
const LIMIT: Duration = Duration::from_secs(400);
const PHASES: [&str; 7] =
    ["protection", "mappings", "own memory", "locks", "interrupts", "clocks", "hotplug"];
const PAUSES: usize = 5;

fn start(vcpus: u32, what: &str) -> Domain {
    let (kernel, ramdisk) = (programs::read(DEBIAN_KERNEL), programs::read(CROWD));
    let cmdline = format!("console=hvc0 panic=-1 noreplace-smp quiet -- {what}");
    Domain::start(&Guest {
        kernel: &kernel,
        ramdisk: Some(&ramdisk),
        cmdline: &cmdline,
        memory_mib: 128,
        vcpus,
    })
}

fn finish(domain: Domain, vcpus: u32) {
    let outcome = domain.finish(LIMIT);
    let console = &outcome.console;
    assert_eq!(outcome.end, End::Shutdown(ShutdownReason::Poweroff), "{console}");
    assert!(console.contains(&format!("CROWD {vcpus} processors")), "{console}");
    assert!(console.contains("CROWD DONE"), "{console}");
    for wrong in ["BAD", "Call Trace", "WARNING", "stall", "lockup"] {
        assert!(!console.contains(wrong), "{wrong}: {console}");
    }
}

#[test]
fn four_vcpus_see_the_same_memory_go_offline_and_come_back() {
    let mut domain = start(4, "all");
    for phase in PHASES {
        domain.wait_for_another(&format!("PHASE {phase}"), LIMIT);
    }
    finish(domain, 4);
}

#[test]
fn four_vcpus_are_paused_wherever_they_are() {
    let mut domain = start(4, "all");
    for phase in PHASES {
        domain.wait_for_another(&format!("PHASE {phase}"), LIMIT);
        for _ in 0..PAUSES {
            let stand = domain.pause_and_unpause();
            assert_eq!(stand.len(), 4);
            assert!(stand.iter().all(|vcpu| vcpu.kernel_cr3 != 0 && vcpu.registers[16] != 0), "{stand:x?}");
        }
    }
    finish(domain, 4);
}

#[test]
fn a_guest_takes_its_vcpus_offline_when_it_is_told_to() {
    let mut domain = start(4, "set");
    domain.wait_for_another("SET 2", LIMIT);
    domain.set_vcpus(2);
    domain.wait_for_another("SET 4", LIMIT);
    domain.set_vcpus(4);
    finish(domain, 4);
}

#[test]
fn eight_vcpus_are_as_many_as_there_may_be() {
    finish(start(8, "all"), 8);
}
