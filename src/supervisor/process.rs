//! Children of the supervisor: descriptors under chosen numbers, a pid namespace where wanted, and a thread that waits.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;

use command_fds::{CommandFdExt, FdMapping};
use nix::sched::CloneFlags;
use rustix::fs::MemfdFlags;
use serde::Serialize;

/// The first number after standard input, output and error: the configuration.
const CONFIG_FD: RawFd = 3;

/// Descriptors that a child is to have, each under the number that its configuration names.
pub struct Descriptors {
    first: RawFd,
    handed: Vec<OwnedFd>,
}

impl Default for Descriptors {
    fn default() -> Descriptors {
        Descriptors { first: CONFIG_FD + 1, handed: Vec::new() }
    }
}

impl Descriptors {
    /// For a child that has these already.
    pub fn after(others: &Descriptors) -> Descriptors {
        Descriptors { first: others.first + others.handed.len() as RawFd, handed: Vec::new() }
    }

    /// Hands this one over; answers its number in the child.
    pub fn hand(&mut self, descriptor: impl Into<OwnedFd>) -> RawFd {
        self.handed.push(descriptor.into());
        self.first + self.handed.len() as RawFd - 1
    }

    /// The descriptors themselves, each with its number in the child.
    pub fn into_numbered(self) -> Vec<(RawFd, OwnedFd)> {
        (self.first..).zip(self.handed).collect()
    }

    /// Hands a copy over.
    pub fn hand_copy(&mut self, descriptor: impl AsFd) -> io::Result<RawFd> {
        Ok(self.hand(descriptor.as_fd().try_clone_to_owned()?))
    }
}

/// A child to be.
pub struct Program {
    /// The word of the command line that says which process of the house it is.
    pub role: &'static str,
    /// Its configuration, as JSON.
    pub config: String,
    /// What it is handed.
    pub descriptors: Descriptors,
    /// Where its standard error goes.
    pub stderr: OwnedFd,
    /// It becomes process 1 of a pid namespace.
    pub own_pids: bool,
}

impl Program {
    /// A child of this role.
    pub fn new(role: &'static str, config: &impl Serialize, stderr: OwnedFd) -> io::Result<Program> {
        let config = serde_json::to_string(config)?;
        Ok(Program { role, config, descriptors: Descriptors::default(), stderr, own_pids: false })
    }

    /// Starts it; `ended` is called from a thread that has nothing else to do any more. Answers its pid.
    pub fn start(self, ended: impl FnOnce(ExitStatus) + Send + 'static) -> io::Result<u32> {
        let (sender, receiver) = sync_channel(1);
        let (end, exit) = sync_channel(1);
        let name = self.role.to_owned();
        // `ended` may start threads, which the one that forks cannot: it has asked for another pid namespace (clone(2), EINVAL).
        let after = std::thread::Builder::new().name(format!("after {name}")).spawn(move || {
            if let Ok(status) = exit.recv() {
                ended(status);
            }
        });
        after?;
        // The thread lives as long as the child: the child's parent-death signal is tied to the thread that forked it, and
        // the new pid namespace is for this thread's children only.
        std::thread::Builder::new().name(name).spawn(move || {
            let child = self.fork();
            let mut child = match child {
                Ok(child) => {
                    let _ = sender.send(Ok(child.id()));
                    child
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            match child.wait() {
                Ok(status) => drop(end.send(status)),
                Err(error) => tracing::error!(%error, "a child cannot be waited for"),
            }
        })?;
        receiver.recv().map_err(|_| io::Error::other("the thread that starts a child ended"))?
    }

    fn fork(self) -> io::Result<std::process::Child> {
        if self.own_pids {
            nix::sched::unshare(CloneFlags::CLONE_NEWPID)?;
        }
        let numbered = self.descriptors.into_numbered().into_iter();
        let mut mappings: Vec<FdMapping> =
            numbered.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        mappings.push(FdMapping { parent_fd: memory_file(&self.config)?, child_fd: CONFIG_FD });
        // This link goes on working when the file was replaced by a newer build.
        let mut command = Command::new("/proc/self/exe");
        command.args([self.role, "--config-fd", &CONFIG_FD.to_string()]);
        command.env_clear().current_dir("/");
        if let Some(filter) = std::env::var_os("RUST_LOG") {
            command.env("RUST_LOG", filter);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.stderr);
        command.fd_mappings(mappings).map_err(io::Error::other)?;
        command.spawn()
    }
}

fn memory_file(text: &str) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("config", MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}
