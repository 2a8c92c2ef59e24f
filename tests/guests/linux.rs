//! Debian's unmodified cloud kernel as a guest: an ordinary program finds what it is used to, a hostile one gets nowhere.

use std::sync::OnceLock;
use std::time::Duration;

use honeyvmm::hypercall::ShutdownReason;
use honeyvmm::run_loop::End;

use super::domain::{Domain, Guest, Outcome};
use super::programs::{self, DEBIAN_KERNEL, EXERCISE, INTRUDER};

/// Two seconds here, fifteen in an emulated host; the machines are shared.
const LIMIT: Duration = Duration::from_secs(180);
/// Each group of the hostile program's attempts, and how many there are at least.
const ATTEMPTS: [(&str, u64); 8] = [
    ("read", 3000),
    ("write", 3000),
    ("jump", 8000),
    ("interrupt", 256),
    ("instruction", 40),
    ("selector", 30),
    ("system call", 40),
    ("step", 2),
];
/// `int n` that return: Linux' system call; and one that the PVM backend answers itself, before any code of the guest.
const ANSWERED: [&str; 2] = ["ANSWERED interrupt 0x80", "ANSWERED interrupt 0x1a"];

fn boot(ramdisk: &str) -> Outcome {
    let guest = Guest {
        kernel: &programs::read(DEBIAN_KERNEL),
        ramdisk: Some(&programs::read(ramdisk)),
        cmdline: "console=hvc0 panic=-1 noreplace-smp quiet",
        memory_mib: 128,
        vcpus: 1,
    };
    Domain::start(&guest).finish(LIMIT)
}

/// One boot for all tests of the ordinary program.
fn exercise() -> &'static Outcome {
    static EXERCISED: OnceLock<Outcome> = OnceLock::new();
    EXERCISED.get_or_init(|| boot(EXERCISE))
}

#[test]
fn a_program_forks_faults_steps_and_powers_off() {
    let outcome = exercise();
    assert_eq!(outcome.end, End::Shutdown(ShutdownReason::Poweroff), "{}", outcome.console);
    assert!(outcome.console.contains("EXERCISE DONE"), "{}", outcome.console);
    assert!(!outcome.console.contains("BAD"), "{}", outcome.console);
}

#[test]
fn a_program_of_32_bits_reaches_the_kernel_both_ways() {
    let console = &exercise().console;
    assert!(console.contains("32 BITS BY INT 80") && console.contains("32 BITS BY THE VDSO"), "{console}");
}

#[test]
fn a_hostile_program_reaches_neither_shim_nor_kernel() {
    let outcome = boot(INTRUDER);
    let console = &outcome.console;
    assert_eq!(outcome.end, End::Shutdown(ShutdownReason::Poweroff), "{console}");
    assert!(console.contains("INTRUDER DONE 0\n"), "{console}");
    for (group, least) in ATTEMPTS {
        let line = console.lines().find(|line| line.starts_with(&format!("{group} attempts="))).expect(group);
        let number = |key: &str| -> u64 {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            word.unwrap().trim_start_matches('=').parse().unwrap()
        };
        assert!(number("attempts") >= least, "{line}");
        assert_eq!(number("through"), 0, "{console}");
        assert!(line.ends_with("kernel=alive"), "{line}");
    }
    let answered: Vec<&str> = console.lines().filter(|line| line.starts_with("ANSWERED")).collect();
    assert!(answered.iter().all(|line| ANSWERED.contains(line)), "{answered:?}");
}
