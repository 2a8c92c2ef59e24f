//! One domain, as the supervisor knows it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::cgroup::MemoryGroup;
use super::console::Console;
use super::control::{Control, ExitReason, Notice};
use super::copying::Copies;
use super::network::Seat;
use super::observer::Observer;
use super::ram::Ram;
use super::resources::Disk;
use crate::domain_file::{DomainFile, OnExit};
use crate::uuid;

/// Where a domain stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Its process is being set up.
    Starting,
    /// Its vcpus may run.
    Running,
    /// They may not.
    Paused,
    /// It ended as asked and is preserved.
    Shutdown,
    /// It crashed and is preserved.
    Crashed,
    /// It is being taken down.
    Dying,
}

/// How the process of a domain ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Its first vcpu never ran; who asked for it has been told.
    NeverStarted,
    /// `destroy` was asked for.
    Destroyed,
    /// The guest powered off or suspended.
    Poweroff,
    /// The guest wants to start anew.
    Reboot,
    /// The guest crashed, or its process was killed or failed.
    Crash {
        /// More about it.
        detail: Value,
    },
}

/// A domain.
pub struct Domain {
    /// Its number.
    pub domid: u32,
    /// What it was built from.
    pub file: DomainFile,
    /// Where relative paths of the file start.
    pub folder: PathBuf,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// MAC addresses of its vifs.
    pub macs: Vec<String>,
    /// What its first vif is in the switch.
    pub seat: Seat,
    /// The kernel that it was built from, also if its path leads elsewhere by now.
    pub kernel: File,
    /// RAM, to be read from outside.
    pub ram: Arc<Ram>,
    // Kept to be read from outside, and locked as long as the domain has them.
    disks: Vec<Disk>,
    /// The control socket of its process.
    pub control: Control,
    /// Its console.
    pub console: Arc<Console>,
    /// Who looks at it.
    pub observer: Observer,
    /// Its copies.
    pub copies: Copies,
    // Held over a change between running and paused, and while the domain stands still for a copy. A domain's turn to copy is locked before it.
    hold: Mutex<()>,
    /// When it was built.
    pub built: Instant,
    // Locked for short looks and changes only, never over a request to the domain's process.
    status: Mutex<Status>,
    changed: Condvar,
}

struct Status {
    name: String,
    life: Life,
    destroy_wanted: bool,
    gone: bool,
    disks_given_up: bool,
    notice: Option<(ExitReason, Value)>,
    process: Option<Process>,
    cpu_time_s: f64,
    vcpus: u32,
    ram_address: Option<u64>,
}

struct Process {
    pid: u32,
    // Removed with the process.
    _group: Option<MemoryGroup>,
}

impl Domain {
    /// A domain whose process is about to start.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part that the domain is made of, named at the one call"
    )]
    pub fn new(
        domid: u32,
        file: DomainFile,
        folder: PathBuf,
        uuid: [u8; 16],
        macs: Vec<String>,
        seat: Seat,
        kernel: File,
        ram: Arc<Ram>,
        disks: Vec<Disk>,
        control: Control,
        console: Arc<Console>,
        observer: Observer,
        copies: Copies,
    ) -> Domain {
        let status = Status {
            name: file.name.clone(),
            life: Life::Starting,
            destroy_wanted: false,
            gone: false,
            disks_given_up: false,
            notice: None,
            process: None,
            cpu_time_s: 0.0,
            vcpus: file.vcpus,
            ram_address: None,
        };
        let (status, changed) = (Mutex::new(status), Condvar::new());
        let built = Instant::now();
        Domain {
            domid,
            file,
            folder,
            uuid,
            macs,
            seat,
            kernel,
            ram,
            disks,
            control,
            console,
            observer,
            copies,
            hold: Mutex::default(),
            built,
            status,
            changed,
        }
    }

    /// Its name now; `rename-restart` changes it.
    pub fn name(&self) -> String {
        self.status().name.clone()
    }

    /// Gives it another name.
    pub fn rename(&self, name: String) {
        self.status().name = name;
    }

    /// By what the outside knows its vifs.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        match &self.seat {
            Seat::Own => self.file.addresses().collect(),
            Seat::Outer { address, .. } => vec![*address],
            Seat::Pool { .. } => Vec::new(),
        }
    }

    /// Its disks; none once they were given up.
    pub fn disks(&self) -> &[Disk] {
        match self.status().disks_given_up {
            true => &[],
            false => &self.disks,
        }
    }

    /// Lets others have its disks. What they write there is theirs, so it is not read as this domain's any more.
    pub fn give_disks_up(&self) {
        self.status().disks_given_up = true;
        self.disks.iter().for_each(Disk::unlock);
    }

    /// Keeps others from pausing it, or from letting it go on.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it was built, by the wall clock of now.
    pub fn began(&self) -> Timestamp {
        let age = SignedDuration::try_from(self.built.elapsed()).unwrap_or(SignedDuration::ZERO);
        Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN)
    }

    /// Where it stands.
    pub fn life(&self) -> Life {
        self.status().life
    }

    /// Moves it on.
    pub fn set_life(&self, life: Life) {
        self.status().life = life;
        self.changed.notify_all();
    }

    /// The process started.
    pub fn set_process(&self, pid: u32) {
        let mut status = self.status();
        // It may be gone before its number arrives here.
        if !status.gone {
            status.process = Some(Process { pid, _group: None });
        }
    }

    /// The process is in this group now; if it has gone already, the group goes too.
    pub fn set_group(&self, group: MemoryGroup) {
        if let Some(process) = &mut self.status().process {
            process._group = Some(group);
        }
    }

    /// The pid, while there is a process.
    pub fn pid(&self) -> Option<u32> {
        self.status().process.as_ref().map(|process| process.pid)
    }

    /// Where its process has RAM mapped, once it has said so.
    pub fn ram_address(&self) -> Option<u64> {
        self.status().ram_address
    }

    /// Notes that its end is wanted, so that it is no crash.
    pub fn want_destroyed(&self) {
        let mut status = self.status();
        status.destroy_wanted = true;
        status.life = Life::Dying;
    }

    /// Takes what the process said unasked.
    pub fn take_notice(&self, notice: Notice) {
        let mut status = self.status();
        match notice {
            Notice::Started { ram_address } if status.life == Life::Starting => {
                status.life = Life::Running;
                status.ram_address = Some(ram_address);
            }
            Notice::Started { .. } => {}
            Notice::Exit { reason, detail } => status.notice = Some((reason, detail)),
        }
        drop(status);
        self.changed.notify_all();
    }

    /// Waits until it is no longer starting; answers whether it runs.
    pub fn wait_started(&self, timeout: Duration) -> bool {
        let waited =
            self.changed.wait_timeout_while(self.status(), timeout, |status| status.life == Life::Starting);
        let (status, _) = waited.unwrap_or_else(PoisonError::into_inner);
        matches!(status.life, Life::Running | Life::Paused)
    }

    /// Waits until its process is gone.
    pub fn wait_gone(&self, timeout: Duration) -> bool {
        let waited =
            self.changed.wait_timeout_while(self.status(), timeout, |status| status.process.is_some());
        let (status, _) = waited.unwrap_or_else(PoisonError::into_inner);
        status.process.is_none()
    }

    /// The process ended; says how it is to be understood.
    pub fn process_ended(&self, exit: ExitStatus) -> Ending {
        let mut status = self.status();
        let never_started = status.life == Life::Starting;
        let ending = match (status.destroy_wanted, status.notice.take()) {
            _ if never_started => Ending::NeverStarted,
            (true, _) => Ending::Destroyed,
            (false, Some((ExitReason::Poweroff | ExitReason::Suspend, _))) => Ending::Poweroff,
            (false, Some((ExitReason::Reboot, _))) => Ending::Reboot,
            (false, Some((ExitReason::Crash, detail))) => Ending::Crash { detail },
            (false, None) => Ending::Crash { detail: json!(describe(exit)) },
        };
        status.process = None;
        status.gone = true;
        status.life = Life::Dying;
        drop(status);
        self.changed.notify_all();
        ending
    }

    /// What the file says is to be done about this ending.
    pub fn action(&self, ending: &Ending) -> OnExit {
        match ending {
            Ending::NeverStarted | Ending::Destroyed => OnExit::Destroy,
            Ending::Poweroff => self.file.on_poweroff,
            Ending::Reboot => self.file.on_reboot,
            Ending::Crash { .. } => self.file.on_crash,
        }
    }

    /// Processor time of its process so far, in seconds.
    pub fn cpu_time_s(&self) -> f64 {
        let mut status = self.status();
        if let Some(seconds) = status.process.as_ref().and_then(|process| process_cpu_time_s(process.pid)) {
            status.cpu_time_s = seconds;
        }
        status.cpu_time_s
    }

    /// xl's six state letters.
    pub fn state_letters(&self) -> &'static str {
        let (life, pid) = {
            let status = self.status();
            (status.life, status.process.as_ref().map(|process| process.pid))
        };
        match life {
            Life::Starting | Life::Paused => "--p---",
            Life::Running if pid.is_some_and(has_running_thread) => "r-----",
            Life::Running => "-b----",
            Life::Shutdown => "---s--",
            Life::Crashed => "----c-",
            Life::Dying => "-----d",
        }
    }

    /// The row of `list`.
    pub fn row(&self) -> Value {
        json!({
            "name": self.name(),
            "domid": self.domid,
            "mem_mib": self.file.memory_mib,
            "vcpus": self.status().vcpus,
            "state": self.state_letters(),
            "time_s": self.cpu_time_s(),
            "uptime_s": self.built.elapsed().as_secs_f64(),
            "pid": self.pid(),
            "observer_pid": self.observer.pid(),
            "uuid": uuid::text(self.uuid),
            "macs": self.macs,
            "address": self.file.address,
        })
    }

    /// The guest was told to use so many.
    pub fn set_vcpus(&self, vcpus: u32) {
        self.status().vcpus = vcpus;
    }

    /// The rows of `vcpu-list`; `up`: which of them are.
    pub fn vcpu_rows(&self, up: &[bool]) -> Vec<Value> {
        let (pid, paused) = {
            let status = self.status();
            (status.process.as_ref().map(|process| process.pid), status.life == Life::Paused)
        };
        let threads = pid.map(vcpu_threads).unwrap_or_default();
        let row = |(vcpu, up): (usize, &bool)| {
            let thread = threads.iter().find(|thread| thread.vcpu == vcpu);
            json!({
                "name": self.name(),
                "domid": self.domid,
                "vcpu": vcpu,
                "online": up,
                "cpu": thread.map(|thread| thread.cpu),
                "running": thread.is_some_and(|thread| thread.running) && !paused,
                "paused": paused,
                "time_s": thread.map_or(0.0, |thread| thread.time_s),
            })
        };
        up.iter().enumerate().map(row).collect()
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(exit: ExitStatus) -> String {
    match (exit.signal(), exit.code()) {
        (Some(signal), _) => format!("its process was killed by signal {signal}"),
        (None, Some(code)) => format!("its process ended with code {code}"),
        (None, None) => "its process ended".to_owned(),
    }
}

/// proc_pid_stat(5): fields 14 and 15, in ticks of 1/100 s.
fn process_cpu_time_s(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// A vcpu's thread, as the host sees it.
struct VcpuThread {
    vcpu: usize,
    running: bool,
    cpu: u32,
    time_s: f64,
}

/// proc_pid_stat(5) of the threads that are called `vcpu0`, `vcpu1`, ...
fn vcpu_threads(pid: u32) -> Vec<VcpuThread> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| read_vcpu_thread(&std::fs::read_to_string(task.path().join("stat")).ok()?))
        .collect()
}

fn read_vcpu_thread(stat: &str) -> Option<VcpuThread> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let vcpu = head.split_once("(vcpu")?.1.parse().ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at)?.trim().parse::<u32>().ok();
    // Fields 3, 14, 15 and 39.
    let time_s = f64::from(number(11)? + number(12)?) / 100.0;
    Some(VcpuThread { vcpu, running: fields[0] == "R", cpu: number(36)?, time_s })
}

fn has_running_thread(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().any(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
    })
}
