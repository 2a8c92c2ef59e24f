//! Capture: one pcap file a domain, as its vif saw it, rotated by size.
//!
//! Classic pcap (draft-ietf-opsawg-pcap), microseconds, Ethernet. Offload frames are written whole, their transport
//! checksum unfinished as Linux' own captures show it. Files are flushed after each burst: kill -9 loses what was not.
//! Written here and not through libpcap, whose `pcap_open_dead` as the pcap crate calls it cuts frames at 65,535 bytes.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

/// libpcap's own largest snap length; our longest frame is a quarter of it.
const SNAPLEN: u32 = 262_144;
const BUFFER_BYTES: usize = 256 * 1024;
const RECORD_HEADER_BYTES: usize = 16;
const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const VERSION_MAJOR_MINOR: [u16; 2] = [2, 4];
const LINKTYPE_ETHERNET: u32 = 1;

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be made.
    #[error("capture file cannot be made: {path}")]
    Create {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder cannot be listed or an old file not removed.
    #[error("capture folder cannot be cleared: {path}")]
    Rotate {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be written.
    #[error("capture of {domain} cannot be written")]
    Write {
        /// Of which domain.
        domain: String,
        /// Why.
        source: io::Error,
    },
}

/// The folder of all captures, with the files of each domain by age. Listed once: clones come by the minute, each with a
/// file of its own, and a look through thousands of names would be time that its first packet waits.
#[derive(Debug)]
pub struct CaptureFolder {
    path: PathBuf,
    // Oldest first. `None` before the first look.
    files: Mutex<Option<HashMap<String, VecDeque<PathBuf>>>>,
}

impl CaptureFolder {
    /// The captures in this folder.
    pub fn new(path: PathBuf) -> CaptureFolder {
        CaptureFolder { path, files: Mutex::default() }
    }

    /// Names the domain's next file, after the oldest have gone of which there are too many.
    fn next_file(&self, domain: &str, files_max: usize, now_us: u64) -> Result<PathBuf, CaptureError> {
        let error = |source| CaptureError::Rotate { path: self.path.clone(), source };
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let files = match &mut *files {
            Some(files) => files,
            unseen => unseen.insert(list(&self.path).map_err(error)?),
        };
        let of_domain = files.entry(domain.to_owned()).or_default();
        while of_domain.len() >= files_max.max(1) {
            let Some(oldest) = of_domain.pop_front() else { break };
            match fs::remove_file(oldest) {
                // Somebody else has cleared it away.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(error)?,
            }
        }
        let path = self.path.join(file_name(domain, now_us));
        of_domain.push_back(path.clone());
        Ok(path)
    }
}

/// How much is kept.
#[derive(Debug, Clone)]
pub struct CaptureLimits {
    /// Where the files lie.
    pub folder: Arc<CaptureFolder>,
    /// A file that has reached this many bytes is closed and the next begun.
    pub file_bytes_max: u64,
    /// Files of one domain; the oldest goes when there are more.
    pub files_max: usize,
}

/// The capture of one domain.
pub struct Capture {
    domain: String,
    limits: CaptureLimits,
    writer: BufWriter<File>,
    file_bytes: u64,
    is_dirty: bool,
}

impl Capture {
    /// Begins the capture of a domain. The name goes into the file's name, so anything but letters, digits, dash and
    /// underscore becomes an underscore.
    pub fn open(domain: &str, limits: &CaptureLimits, now_us: u64) -> Result<Capture, CaptureError> {
        let domain = name_in_files(domain);
        let writer = open_file(&domain, limits, now_us)?;
        Ok(Capture { domain, limits: limits.clone(), writer, file_bytes: 0, is_dirty: false })
    }

    /// Writes one frame.
    pub fn write(&mut self, frame: &[u8], now_us: u64) -> Result<(), CaptureError> {
        if self.file_bytes >= self.limits.file_bytes_max {
            self.flush()?;
            self.writer = open_file(&self.domain, &self.limits, now_us)?;
            self.file_bytes = 0;
        }
        let kept = frame.get(..SNAPLEN as usize).unwrap_or(frame);
        let record = record_header(now_us, kept.len(), frame.len());
        let written = self.writer.write_all(&record).and_then(|()| self.writer.write_all(kept));
        written.map_err(|source| self.write_error(source))?;
        self.file_bytes += (RECORD_HEADER_BYTES + kept.len()) as u64;
        self.is_dirty = true;
        Ok(())
    }

    /// Hands to the kernel what is buffered; to be called after each burst.
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        if !self.is_dirty {
            return Ok(());
        }
        self.is_dirty = false;
        self.writer.flush().map_err(|source| self.write_error(source))
    }

    fn write_error(&self, source: io::Error) -> CaptureError {
        CaptureError::Write { domain: self.domain.clone(), source }
    }
}

/// The file that a domain's frames go to now, if there is one.
pub fn newest(folder: &Path, domain: &str) -> Option<PathBuf> {
    files_of(folder, domain).into_iter().max()
}

/// The captures of a domain.
pub fn files_of(folder: &Path, domain: &str) -> Vec<PathBuf> {
    let domain = name_in_files(domain);
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| domain_of(path) == Some(&domain)).collect()
}

fn name_in_files(domain: &str) -> String {
    domain.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

fn open_file(domain: &str, limits: &CaptureLimits, now_us: u64) -> Result<BufWriter<File>, CaptureError> {
    let path = limits.folder.next_file(domain, limits.files_max, now_us)?;
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&path);
    let file = file.map_err(|source| CaptureError::Create { path: path.clone(), source })?;
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let written = writer.write_all(&file_header()).and_then(|()| writer.flush());
    written.map_err(|source| CaptureError::Write { domain: domain.to_owned(), source })?;
    Ok(writer)
}

/// Magic, version, two fields that are always 0, snap length, link type.
fn file_header() -> [u8; 24] {
    let mut header = [0; 24];
    let [major, minor] = VERSION_MAJOR_MINOR;
    header[0..4].copy_from_slice(&MAGIC_MICROSECONDS.to_le_bytes());
    header[4..6].copy_from_slice(&major.to_le_bytes());
    header[6..8].copy_from_slice(&minor.to_le_bytes());
    header[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
    header[20..24].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
    header
}

/// Seconds, microseconds, bytes kept, bytes of the frame. Seconds wrap in 2106, as the format has it.
fn record_header(now_us: u64, kept: usize, whole: usize) -> [u8; RECORD_HEADER_BYTES] {
    let fields = [(now_us / 1_000_000) as u32, (now_us % 1_000_000) as u32, kept as u32, whole as u32];
    let mut header = [0; RECORD_HEADER_BYTES];
    for (field, place) in fields.iter().zip(header.chunks_exact_mut(4)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    header
}

/// `web-20260102T030405.678901Z.pcap`: names of one domain sort by time.
fn file_name(domain: &str, now_us: u64) -> String {
    let at = i64::try_from(now_us).ok().and_then(|now_us| Timestamp::from_microsecond(now_us).ok());
    let at = at.unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{domain}-{}.pcap", at.strftime("%Y%m%dT%H%M%S.%6fZ"))
}

/// The captures in a folder by their domains; of one domain the names sort by time.
fn list(folder: &Path) -> io::Result<HashMap<String, VecDeque<PathBuf>>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.sort();
    let mut files: HashMap<String, VecDeque<PathBuf>> = HashMap::new();
    for path in paths {
        if let Some(domain) = domain_of(&path) {
            files.entry(domain.to_owned()).or_default().push_back(path);
        }
    }
    Ok(files)
}

/// The name is the domain, a dash, and a time without dashes: `web` does not own the files of `web-2`.
fn domain_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let (domain, _time) = name.strip_suffix(".pcap")?.rsplit_once('-')?;
    Some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(folder: &Path) -> CaptureLimits {
        let folder = Arc::new(CaptureFolder::new(folder.to_owned()));
        CaptureLimits { folder, file_bytes_max: 1000, files_max: 2 }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn libpcap_reads_what_was_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let mut capture = Capture::open("web", &limits(folder.path()), 1_000_000).unwrap();
        capture.write(&[7; 60], 1_000_001).unwrap();
        capture.write(&vec![8; 65_549], 1_000_002).unwrap();
        capture.flush().unwrap();
        let mut reader = pcap::Capture::from_file(&files(folder.path())[0]).unwrap();
        let packet = reader.next_packet().unwrap();
        assert_eq!((packet.data, packet.header.ts.tv_usec), ([7; 60].as_slice(), 1));
        assert_eq!(reader.next_packet().unwrap().data.len(), 65_549);
        assert!(reader.next_packet().is_err());
    }

    #[test]
    fn a_full_file_is_followed_by_another_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("web-2-20260101T000000.000000Z.pcap"), b"").unwrap();
        let mut capture = Capture::open("web", &limits(folder.path()), 0).unwrap();
        for packet in 1..=4 {
            capture.write(&[0; 1000], packet * 1_000_000).unwrap();
        }
        let names: Vec<String> = files(folder.path())
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "web-19700101T000003.000000Z.pcap",
                "web-19700101T000004.000000Z.pcap",
                "web-2-20260101T000000.000000Z.pcap"
            ]
        );
    }

    #[test]
    fn the_newest_file_is_the_domains_own() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(newest(folder.path(), "a b"), None);
        for (name, now_us) in [("a b", 1_000_000), ("a b", 2_000_000), ("a b-2", 9_000_000)] {
            Capture::open(name, &limits(folder.path()), now_us).unwrap();
        }
        let found = newest(folder.path(), "a b").unwrap();
        assert_eq!(found.file_name().unwrap(), "a_b-19700101T000002.000000Z.pcap");
    }

    #[test]
    fn what_an_earlier_netwatch_left_counts_and_what_somebody_cleared_away_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        for second in 1..=3 {
            fs::write(folder.path().join(file_name("web", second * 1_000_000)), b"").unwrap();
        }
        let limits = limits(folder.path());
        Capture::open("web", &limits, 4_000_000).unwrap();
        assert_eq!(files(folder.path()).len(), 2);
        for file in files(folder.path()) {
            fs::remove_file(file).unwrap();
        }
        Capture::open("web", &limits, 5_000_000).unwrap();
        assert_eq!(files(folder.path()), [folder.path().join(file_name("web", 5_000_000))]);
    }

    #[test]
    fn a_domain_name_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        Capture::open("../x/y", &limits(folder.path()), 0).unwrap();
        assert_eq!(files(folder.path())[0].file_name().unwrap(), "___x_y-19700101T000000.000000Z.pcap");
    }
}
