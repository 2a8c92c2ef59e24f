//! Where sessions are written: folders that were handed in, for this process can open nothing by a path.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, Mode, OFlags, RawDir, SeekFrom, accessat, openat, renameat};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::report::Report;

/// Readable by the group that the folder gives its files, which is the dashboard's.
const MODE: u32 = 0o640;
/// Sessions of one domain that are looked through for those that did not end, the newest first.
const REPORTS_MAX: usize = 4096;
/// The longest report that is read again; one with all its lists full is not longer.
const REPORT_BYTES_MAX: u64 = 64 << 20;
/// `ID.json`.
const NAME_BYTES: usize = 21;

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

    /// A recording that was begun.
    ///
    /// # Errors
    /// There is none of that name, or it is another's.
    pub fn open_cast(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(File::from(openat(&self.tty, name, flags, Mode::empty())?))
    }

    /// Reports of this domain's number that say nothing of an end, and the last number that any of its sessions has.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn open_reports(&self, domid: u32) -> io::Result<(Vec<Report>, u16)> {
        let mut names = self.names(domid)?;
        let last = names.iter().filter_map(|name| u16::from_str_radix(&name[12..16], 16).ok()).max();
        // They begin with the time.
        names.sort_unstable_by(|a, b| b.cmp(a));
        let open = names.iter().take(REPORTS_MAX).filter_map(|name| {
            let report = self.open_report(name);
            report
                .inspect_err(|error| tracing::warn!(%error, name, "a session cannot be read"))
                .ok()
                .flatten()
        });
        Ok((open.collect(), last.unwrap_or(0)))
    }

    /// This folder's names cannot be listed by opening it again: that is not for this user.
    fn names(&self, domid: u32) -> io::Result<Vec<String>> {
        rustix::fs::seek(&self.sessions, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let mut entries = RawDir::new(&self.sessions, &mut buffer);
        let (mut names, number) = (Vec::new(), format!("{:04x}", domid & 0xffff));
        while let Some(entry) = entries.next() {
            let Ok(name) = entry?.file_name().to_str().map(str::to_owned) else { continue };
            let is_id = name.len() == NAME_BYTES && name.as_bytes()[..16].iter().all(u8::is_ascii_hexdigit);
            if is_id && name.ends_with(".json") && name[8..12] == number {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open_report(&self, name: &str) -> io::Result<Option<Report>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(&self.sessions, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ACCESS | Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Others can make files here; what they say of our sessions is not believed.
        if rustix::fs::fstat(&file)?.st_uid != rustix::process::geteuid().as_raw() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(REPORT_BYTES_MAX).read_to_end(&mut bytes)?;
        let end: End = serde_json::from_slice(&bytes)?;
        let report: Option<Report> = match end.closed {
            Some(IgnoredAny) => None,
            None => Some(serde_json::from_slice(&bytes)?),
        };
        Ok(report.filter(|report| name.strip_suffix(".json") == Some(&report.id)))
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

/// All that most reports are read for.
#[derive(Deserialize)]
struct End {
    closed: Option<IgnoredAny>,
}

fn make(folder: &OwnedFd, name: &str, more: OFlags) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | more;
    Ok(File::from(openat(folder, name, flags, Mode::from_raw_mode(MODE))?))
}
