//! A rootkit of our own does its deeds one after the other, each of them is an alarm, and nothing else is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use honeyvmm::kernel_image::KernelImage;
use introspect::integrity::{Checked, Finding, Inputs, Integrity, What};
use introspect::symbols::Symbols;

use super::guest::{Guest, VCPUS};
use super::rootkit_module;

/// A guest and what watches over it.
struct Watched {
    guest: Guest,
    integrity: Integrity,
}

impl Watched {
    fn start() -> Self {
        let guest = Guest::start_with(&rootkit_module::archive());
        let image = KernelImage::parse(&guest.vmlinux).unwrap();
        let symbols = Arc::new(Symbols::of_kernel(&image).unwrap());
        let integrity = Integrity::new(symbols, &image).unwrap();
        assert!(integrity.unknown().is_empty(), "{:?}", integrity.unknown());
        Self { guest, integrity }
    }

    fn look(
        &mut self,
        take: impl FnOnce(&mut Integrity, &introspect::view::View, &Inputs<'_>) -> Checked,
    ) -> Vec<Finding> {
        let entries = self.guest.entries();
        let (callers, explained) = (HashSet::new(), HashSet::new());
        let inputs = Inputs { entries: &entries, vcpus: VCPUS, callers: &callers, explained: &explained };
        let begun = Instant::now();
        let checked = take(&mut self.integrity, &self.guest.view, &inputs);
        println!("{:?} {:?} {:#?}", begun.elapsed(), checked.incomplete, checked.findings);
        assert!(checked.incomplete.is_empty(), "{:?}", checked.incomplete);
        checked.findings
    }

    fn reference(&mut self) -> Vec<Finding> {
        self.look(Integrity::reference)
    }

    fn check(&mut self) -> Vec<Finding> {
        self.look(Integrity::check)
    }

    /// What two checks find that was not told before. The second one comes a second later: the kernel frees what a module needed to
    /// start behind its back.
    fn news(&mut self) -> Vec<Finding> {
        self.check();
        self.guest.run("sleep 1");
        let found = self.check();
        self.integrity.news(found)
    }

    fn deed(&mut self, deed: &str) {
        let said = self.guest.run(&format!("echo {deed} > /sys/module/rootkit/parameters/deed"));
        assert_eq!(said, "");
    }

    fn start_in_guest(&mut self, program: &str) -> u32 {
        self.guest.run(&format!("{program} & sleep 0.5; echo $!")).parse().unwrap()
    }
}

/// What of the kernel has changed, and where.
fn changed(findings: &[Finding]) -> Vec<(What, &str)> {
    let changed = |finding| match finding {
        &Finding::Changed { what, ref symbol, .. } => Some((what, symbol.as_str())),
        _ => None,
    };
    findings.iter().filter_map(changed).collect()
}

#[test]
fn a_rootkit_is_seen_by_each_of_its_deeds_and_honest_work_by_nothing() {
    let mut watched = Watched::start();
    assert_eq!(watched.reference(), []);
    honest_work_is_nothing(&mut watched);
    loading_is_seen(&mut watched);
    hiding_a_process_is_seen(&mut watched);
    hooks_are_seen(&mut watched);
    stolen_rights_are_seen(&mut watched);
    hiding_itself_is_seen(&mut watched);
}

/// Programs come and go, a module of the kernel's own is loaded, a user becomes root in a namespace of his own, static keys are turned.
fn honest_work_is_nothing(watched: &mut Watched) {
    let loop_of_programs = "while :; do ls / > /dev/null; sleep 0.001; done & echo $! > /tmp/loop";
    watched.guest.run(loop_of_programs);
    assert_eq!(watched.guest.run("insmod /extra/dummy.ko; echo 1 > /proc/sys/kernel/sched_schedstats"), "");
    assert_eq!(watched.guest.run("unshare -Ur sleep 2 & mkdir -p /tmp/a; mount -t tmpfs none /tmp/a"), "");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(watched.check(), []);
    }
    watched.guest.run("kill $(cat /tmp/loop); umount /tmp/a; rmmod dummy");
    assert_eq!(watched.check(), []);
}

fn loading_is_seen(watched: &mut Watched) {
    assert_eq!(watched.guest.run("insmod /extra/rootkit.ko"), "");
    let news = watched.news();
    assert_eq!(changed(&news), [(What::Module, "rootkit")]);
}

fn hiding_a_process_is_seen(watched: &mut Watched) {
    let hidden = watched.start_in_guest("sleep 4001");
    watched.deed(&format!("hide {hidden}"));
    let news = watched.news();
    let expected = Finding::Hidden {
        pid: hidden,
        comm: "sleep".to_owned(),
        seen_by: "numbers",
        missing_from: "list of tasks",
    };
    assert_eq!(news, [expected]);
}

fn hooks_are_seen(watched: &mut Watched) {
    const KILL: &str = "sys_call_table[62]";
    watched.deed("hook");
    let news = watched.news();
    assert_eq!(changed(&news), [(What::SystemCall, KILL)]);
    let Finding::Changed { before, after, .. } = &news[0] else { panic!("{news:?}") };
    assert!(before.starts_with("__x64_sys_kill") && after.starts_with("rootkit"), "{before} {after}");
    watched.deed("text");
    assert_eq!(changed(&watched.news()), [(What::Text, "__x64_sys_sysinfo+0x8")]);
    watched.deed("kprobe");
    let news = watched.news();
    assert!(changed(&news).iter().any(|(what, _)| *what == What::Kprobe), "{news:?}");
    watched.deed("ftrace");
    let news = watched.news();
    assert_eq!(changed(&news), [(What::Ftrace, "rootkit"), (What::Ftrace, "__x64_sys_uname")]);
}

fn stolen_rights_are_seen(watched: &mut Watched) {
    watched.guest.run("mkdir -p /etc; echo 'ours:x:1000:1000::/:/bin/sh' > /etc/passwd");
    for deed in ["root", "steal"] {
        let pid = watched.start_in_guest("su ours -c 'exec sleep 4002'");
        assert_eq!(watched.news(), []);
        watched.deed(&format!("{deed} {pid}"));
        let news = watched.news();
        let whose: Vec<u32> = news
            .iter()
            .filter_map(|finding| match finding {
                Finding::Credentials { pid, .. } => Some(*pid),
                _ => None,
            })
            .collect();
        assert!(!whose.is_empty() && whose.iter().all(|whose| *whose == pid), "{deed}: {news:?}");
    }
}

fn hiding_itself_is_seen(watched: &mut Watched) {
    watched.deed("unlink");
    assert_eq!(watched.guest.run("grep -c rootkit /proc/modules"), "0");
    let news = watched.news();
    let [Finding::Changed { what: What::HiddenModule, symbol, after, .. }] = &news[..] else {
        panic!("{news:?}");
    };
    assert_eq!(symbol, "rootkit");
    // Memory as well, up to Linux 6.8.
    assert!(after.ends_with("sysfs, tree of addresses"), "{after}");
}
