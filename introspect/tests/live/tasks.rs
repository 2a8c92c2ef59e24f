//! `ps`, and the other ways to tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use introspect::view::View;
use introspect::walk::pids::Pids;
use introspect::walk::task::Task;
use introspect::walk::tasks::{STEPS_MAX, Tasks, Threads};

use super::guest::{Guest, guest};

/// How long `ps` of 200 tasks may take; the walk of an optimised build is held to it.
const PS_TIME_MAX: Duration = Duration::from_millis(5);

/// How long a program may take to start or to stop.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);

fn list(view: &View, tasks: &Tasks, threads: Threads) -> BTreeMap<u32, Task> {
    let listing = tasks.list(&view.look(STEPS_MAX), threads);
    assert_eq!(listing.incomplete, None);
    listing.items.into_iter().map(|task| (task.pid, task)).collect()
}

/// The task, as soon as it is as a test wants it: a shell's child takes a while to become its program.
#[track_caller]
pub fn wait_for(view: &View, tasks: &Tasks, pid: u32, wanted: impl Fn(&Task) -> bool) -> Task {
    let begun = Instant::now();
    loop {
        let found = list(view, tasks, Threads::First).remove(&pid);
        match found {
            Some(task) if wanted(&task) => return task,
            found => assert!(begun.elapsed() < SETTLE_TIMEOUT, "{found:?}"),
        }
        std::thread::yield_now();
    }
}

/// Fields of `/proc/PID/status`, by name.
fn status(guest: &mut Guest, pid: u32) -> BTreeMap<String, String> {
    let text = guest.run(&format!("cat /proc/{pid}/status"));
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn tasks_are_those_of_proc() {
    let mut guest = guest();
    let tasks = Tasks::of(&guest.symbols).unwrap();
    let sleepers = guest.run("sleep 1001 & echo $!; sleep 1002 & echo $!").replace('\n', " ");
    let said: BTreeSet<u32> =
        guest.run("echo /proc/[0-9]*").split(' ').map(|path| path[6..].parse().unwrap()).collect();
    let seen: BTreeSet<u32> = list(&guest.view, &tasks, Threads::First).into_keys().collect();
    assert_eq!(seen, said);
    guest.run(&format!("kill {sleepers}"));
}

#[test]
fn a_process_is_described_as_in_proc() {
    let mut guest = guest();
    let tasks = Tasks::of(&guest.symbols).unwrap();
    let pid = guest.run("mkdir -p /tmp/where; cd /tmp/where; sh -c 'kill -STOP $$' '' x & cd /; echo $!");
    let pid: u32 = pid.parse().unwrap();
    let task = wait_for(&guest.view, &tasks, pid, |task| task.state == 'T');
    let said = status(&mut guest, pid);
    assert_eq!(task.comm, said["Name"]);
    assert_eq!(format!("{}", task.state), said["State"][..1]);
    assert_eq!(task.ppid.to_string(), said["PPid"]);
    let uids = [task.rights.uid, task.rights.euid, task.rights.suid, task.rights.fsuid];
    assert_eq!(uids.map(|uid| uid.to_string()).join("\t"), said["Uid"]);
    assert_eq!(format!("{:016x}", task.rights.effective), said["CapEff"]);
    assert_eq!(format!("{:016x}", task.rights.bounding), said["CapBnd"]);
    assert_eq!(task.exe.as_deref(), Some("/bin/busybox"));
    assert_eq!(task.cwd.as_deref(), Some("/tmp/where"));
    assert_eq!(task.command_line, ["sh", "-c", "kill -STOP $$", "", "x"]);
    assert_eq!(task.tty.as_deref(), Some("hvc0"));
    assert!(!task.kernel_thread);
    guest.run(&format!("kill -9 {pid}"));
}

#[test]
fn kernel_threads_run_no_program() {
    let guest = guest();
    let tasks = Tasks::of(&guest.symbols).unwrap();
    let seen = list(&guest.view, &tasks, Threads::First);
    let kthreadd = &seen[&2];
    assert_eq!((kthreadd.comm.as_str(), kthreadd.kernel_thread), ("kthreadd", true));
    assert_eq!((kthreadd.exe.as_deref(), kthreadd.command_line.len()), (None, 0));
    assert!(seen.values().filter(|task| task.kernel_thread).all(|task| task.exe.is_none()));
}

#[test]
fn states_are_those_of_proc() {
    let mut guest = guest();
    let tasks = Tasks::of(&guest.symbols).unwrap();
    let pid: u32 = guest.run("sleep 1004 & kill -STOP $!; echo $!").parse().unwrap();
    wait_for(&guest.view, &tasks, pid, |task| task.state == 'T');
    guest.run(&format!("kill -9 {pid}"));
    let said = guest.run("cat /proc/[0-9]*/stat");
    let seen = list(&guest.view, &tasks, Threads::First);
    let mut compared = 0;
    for line in said.lines() {
        // One that ended before it was read leaves only a complaint.
        let Some((pid, rest)) = line.split_once(" (") else { continue };
        let (_, rest) = rest.rsplit_once(") ").unwrap();
        // `cat` itself has ended, and what runs changes.
        let Some(task) = seen.get(&pid.parse().unwrap()) else { continue };
        if rest.starts_with(['S', 'I', 'Z', 'P']) && task.state != 'R' && task.pid != 1 {
            assert_eq!(rest.chars().next(), Some(task.state), "{line}");
            compared += 1;
        }
    }
    assert!(compared > 10);
}

#[test]
fn numbers_lead_to_the_same_tasks_as_the_list() {
    let guest = guest();
    let (tasks, pids) = (Tasks::of(&guest.symbols).unwrap(), Pids::of(&guest.symbols).unwrap());
    let by_number = pids.list(&guest.view.look(STEPS_MAX));
    assert_eq!(by_number.incomplete, None);
    let by_number: BTreeMap<u32, _> = by_number.items.into_iter().map(|pid| (pid.number, pid.task)).collect();
    let seen = list(&guest.view, &tasks, Threads::All);
    let by_list: BTreeMap<u32, _> = seen.values().map(|task| (task.pid, task.at)).collect();
    assert_eq!(by_number, by_list);
}

#[test]
fn a_vcpu_runs_a_task_that_exists() {
    let guest = guest();
    let tasks = Tasks::of(&guest.symbols).unwrap();
    let look = guest.view.look(STEPS_MAX);
    let current = tasks.current(&look, 0).unwrap();
    let task = tasks.task(&look, current).unwrap();
    let seen = list(&guest.view, &tasks, Threads::All);
    assert!(task.comm == "swapper/0" || seen.contains_key(&task.pid), "{task:?}");
}

#[test]
fn two_hundred_tasks_are_listed_in_little_time() {
    let mut guest = guest();
    let tasks = Tasks::of(&guest.symbols).unwrap();
    let sleepers = guest.run("for i in $(seq 200); do sleep 1005 & echo $!; done").replace('\n', " ");
    let mut times = Vec::new();
    let mut count = 0;
    let mut steps = 0;
    for _ in 0..20 {
        let look = guest.view.look(STEPS_MAX);
        let begun = Instant::now();
        let listing = tasks.list(&look, Threads::All);
        times.push(begun.elapsed());
        assert_eq!(listing.incomplete, None);
        (count, steps) = (listing.items.len(), look.steps_taken());
    }
    guest.run(&format!("kill {sleepers}"));
    times.sort();
    let (best, median, worst) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!(
        "ps of {count} tasks: {best:?} at best, {median:?} as a rule, {worst:?} at worst, {steps} steps"
    );
    assert!(count > 200);
    assert!(cfg!(debug_assertions) || median < PS_TIME_MAX, "{times:?}");
}
