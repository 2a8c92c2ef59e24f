//! Where sessions are written: folders that were handed in, for this process can open nothing by a path.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat, openat, renameat};

use super::report::Report;

/// Readable by the group that the folder gives its files, which is the dashboard's.
const MODE: u32 = 0o640;

/// `STATE/tty`, `STATE/sessions` and `STATE/samples`.
#[derive(Debug)]
pub struct Folders {
    tty: OwnedFd,
    sessions: OwnedFd,
    samples: OwnedFd,
}

impl Folders {
    /// These.
    pub fn new(tty: OwnedFd, sessions: OwnedFd, samples: OwnedFd) -> Folders {
        Folders { tty, sessions, samples }
    }

    /// A new recording.
    ///
    /// # Errors
    /// There is one of that name, or the disk is full.
    pub fn make_cast(&self, name: &str) -> io::Result<File> {
        make(&self.tty, name, OFlags::EXCL)
    }

    /// Writes a sample under its hash, unless it is there.
    ///
    /// # Errors
    /// The disk is full, or broken; nothing is left then.
    pub fn write_sample(&self, sha256: &str, bytes: &[u8]) -> io::Result<()> {
        if accessat(&self.samples, sha256, Access::EXISTS, AtFlags::empty()).is_ok() {
            return Ok(());
        }
        let fresh = format!(".{sha256}.new");
        let mut file = make(&self.samples, &fresh, OFlags::TRUNC)?;
        file.write_all(bytes).and_then(|()| file.sync_data())?;
        renameat(&self.samples, &fresh, &self.samples, sha256)?;
        Ok(())
    }

    /// Replaces what is written of a session.
    ///
    /// # Errors
    /// The disk is full, or broken; what was there stays.
    pub fn write_report(&self, report: &Report) -> io::Result<()> {
        let (name, fresh) = (format!("{}.json", report.id), format!(".{}.json.new", report.id));
        let mut file = make(&self.sessions, &fresh, OFlags::TRUNC)?;
        file.write_all(&serde_json::to_vec(report)?)?;
        renameat(&self.sessions, &fresh, &self.sessions, &name)?;
        Ok(())
    }
}

fn make(folder: &OwnedFd, name: &str, more: OFlags) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
    Ok(File::from(openat(folder, name, flags, Mode::from_raw_mode(MODE))?))
}
