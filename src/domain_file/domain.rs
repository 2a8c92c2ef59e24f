//! The keys of a domain file and what they mean.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::disk::{self, DiskError, DiskSpec};
use super::syntax::{self, Located, Position, Statement, SyntaxError, Value};
use super::vif::{self, VifError, VifSpec};

/// Least RAM that a kernel of today starts with, in MiB.
pub const MEMORY_MIN_MIB: u64 = 32;
/// Most RAM of one domain, in MiB.
pub const MEMORY_MAX_MIB: u64 = 1024 * 1024;
/// Most vcpus of one domain; the shim has room for no more.
pub const VCPUS_MAX: u32 = honeyvmm::shim::VCPUS_MAX;
/// Most disks, and most vifs, of one domain.
pub const DEVICES_MAX: usize = 16;
/// Longest name, as xl's.
pub const NAME_BYTES_MAX: usize = 64;

/// What happens when a domain ends (`on_poweroff` and its kin).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExit {
    /// It is taken down.
    Destroy,
    /// It is taken down and started anew.
    Restart,
    /// It is kept under a new name, and started anew.
    RenameRestart,
    /// It is kept as it is until destroyed.
    Preserve,
    /// Its memory is written down, then it is taken down.
    CoredumpDestroy,
    /// Its memory is written down, then it is started anew.
    CoredumpRestart,
}

/// A domain as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainFile {
    /// `name`.
    pub name: String,
    /// `uuid`, if the file gives one.
    pub uuid: Option<[u8; 16]>,
    /// `memory`, in MiB.
    pub memory_mib: u64,
    /// `vcpus`: how many the guest is offered at its start.
    pub vcpus: u32,
    /// `maxvcpus`: how many it may ever have.
    pub maxvcpus: u32,
    /// `kernel`; `None` where a recipe brings one.
    pub kernel: Option<PathBuf>,
    /// `ramdisk`.
    pub ramdisk: Option<PathBuf>,
    /// `cmdline`, or `root=` and `extra` joined.
    pub cmdline: String,
    /// `disk`.
    pub disks: Vec<DiskSpec>,
    /// `vif`.
    pub vifs: Vec<VifSpec>,
    /// `on_poweroff`.
    pub on_poweroff: OnExit,
    /// `on_reboot`.
    pub on_reboot: OnExit,
    /// `on_crash`.
    pub on_crash: OnExit,
    /// `hn_layer`: writes go to a private copy-on-write layer and the images stay as they are.
    pub layered: bool,
    /// `hn_recipe`: the recipe that makes kernel, initramfs and disk.
    pub recipe: Option<String>,
    /// `hn_address`: the address of the first vif.
    pub address: Option<Ipv4Addr>,
}

impl DomainFile {
    /// Addresses of its vifs.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.address.into_iter().chain(self.vifs.iter().filter_map(|vif| vif.ip))
    }
}

/// A domain file that was accepted, and what is odd about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The domain.
    pub file: DomainFile,
    /// Sentences for the operator, each with its line.
    pub warnings: Vec<String>,
}

/// Why a domain file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainFileError {
    /// Not in xl.cfg syntax.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A value of the wrong kind.
    #[error("{at}: {key} must be {wanted}")]
    Kind {
        /// Where the value stands.
        at: Position,
        /// The key.
        key: String,
        /// The kind that it must be.
        wanted: &'static str,
    },
    /// A number out of its range.
    #[error("{at}: {key} = {value} is not between {least} and {most}")]
    Range {
        /// Where the value stands.
        at: Position,
        /// The key.
        key: String,
        /// As written.
        value: i64,
        /// Least that is accepted.
        least: i64,
        /// Most that is accepted.
        most: i64,
    },
    /// A word that is none of those that the key knows.
    #[error("{at}: {key} = {value:?} is none of {known}")]
    Word {
        /// Where the value stands.
        at: Position,
        /// The key.
        key: String,
        /// As written.
        value: String,
        /// What would be right.
        known: &'static str,
    },
    /// A disk that is refused.
    #[error("{at}: {error}")]
    Disk {
        /// Where the specification stands.
        at: Position,
        /// Why.
        error: DiskError,
    },
    /// A vif that is refused.
    #[error("{at}: {error}")]
    Vif {
        /// Where the specification stands.
        at: Position,
        /// Why.
        error: VifError,
    },
    /// Two disks with one name.
    #[error("{at}: vdev {vdev:?} stands twice")]
    VdevTwice {
        /// Where the second stands.
        at: Position,
        /// The name.
        vdev: String,
    },
    /// A key without which there is no domain.
    #[error("the file does not set {key}")]
    Missing {
        /// Which.
        key: &'static str,
    },
}

/// Keys of xl that are right in a domain file and mean nothing here, or are met by what every domain of ours is.
const IGNORED_KEYS: &[&str] = &[
    "acpi",
    "apic",
    "bios",
    "blkdev_start",
    "bootloader",
    "bootloader_args",
    "boot",
    "builder",
    "claim_mode",
    "console",
    "cpu_weight",
    "cap",
    "cpus",
    "cpus_soft",
    "cpuid",
    "device_model",
    "device_model_version",
    "driver_domain",
    "features",
    "gfx_passthru",
    "hap",
    "init_seclabel",
    "keymap",
    "localtime",
    "maxmem",
    "nestedhvm",
    "nographic",
    "on_watchdog",
    "on_soft_reset",
    "pae",
    "pci",
    "pool",
    "pvh",
    "rtc_timeoffset",
    "sched",
    "sdl",
    "seclabel",
    "serial",
    "shadow_memory",
    "stdvga",
    "timer_mode",
    "tsc_mode",
    "usb",
    "usbdevice",
    "vfb",
    "vga",
    "videoram",
    "vnc",
    "vncconsole",
    "vnclisten",
    "vncpasswd",
    "viridian",
    "xen_platform_pci",
];

const ON_EXIT_WORDS: &str = "destroy, restart, rename-restart, preserve, coredump-destroy, coredump-restart";

/// Reads a domain file.
pub fn parse(text: &str) -> Result<Parsed, DomainFileError> {
    let statements = syntax::parse(text)?;
    let mut draft = Draft::new();
    for (index, statement) in statements.iter().enumerate() {
        if statements[index + 1..].iter().any(|later| later.key == statement.key) {
            draft.warn(statement, format!("{} is set again below, the last one counts", statement.key));
            continue;
        }
        draft.read(statement)?;
    }
    draft.finish()
}

struct Draft {
    file: DomainFile,
    root: Option<String>,
    extra: Option<String>,
    cmdline: Option<String>,
    has_memory: bool,
    // To be looked at again when maxvcpus is known.
    vcpus: Option<Located>,
    maxvcpus: Option<u32>,
    warnings: Vec<String>,
}

impl Draft {
    fn new() -> Draft {
        let file = DomainFile {
            name: String::new(),
            uuid: None,
            memory_mib: 0,
            vcpus: 1,
            maxvcpus: 1,
            kernel: None,
            ramdisk: None,
            cmdline: String::new(),
            disks: Vec::new(),
            vifs: Vec::new(),
            on_poweroff: OnExit::Destroy,
            on_reboot: OnExit::Restart,
            on_crash: OnExit::Destroy,
            layered: false,
            recipe: None,
            address: None,
        };
        Draft {
            file,
            root: None,
            extra: None,
            cmdline: None,
            has_memory: false,
            vcpus: None,
            maxvcpus: None,
            warnings: Vec::new(),
        }
    }

    fn warn(&mut self, statement: &Statement, sentence: String) {
        self.warnings.push(format!("line {}: {sentence}", statement.at.line));
    }

    fn read(&mut self, statement: &Statement) -> Result<(), DomainFileError> {
        let Statement { key, value, .. } = statement;
        match key.as_str() {
            "name" => self.file.name = name(key, value)?,
            "uuid" => self.file.uuid = Some(uuid(key, value)?),
            "memory" => {
                self.file.memory_mib =
                    number(key, value, MEMORY_MIN_MIB as i64, MEMORY_MAX_MIB as i64)?.unsigned_abs();
                self.has_memory = true;
            }
            "vcpus" => {
                self.file.vcpus = vcpus(key, value, VCPUS_MAX)?;
                self.vcpus = Some(value.clone());
            }
            "maxvcpus" => self.maxvcpus = Some(vcpus(key, value, VCPUS_MAX)?),
            "kernel" => self.file.kernel = path(key, value)?,
            "ramdisk" => self.file.ramdisk = path(key, value)?,
            "root" => self.root = Some(text(key, value)?.to_owned()),
            "extra" => self.extra = Some(text(key, value)?.to_owned()),
            "cmdline" => self.cmdline = Some(text(key, value)?.to_owned()),
            "disk" => self.disks(key, value)?,
            "vif" => self.vifs(statement)?,
            "on_poweroff" | "on_shutdown" => self.file.on_poweroff = on_exit(key, value)?,
            "on_reboot" => self.file.on_reboot = on_exit(key, value)?,
            "on_crash" => self.file.on_crash = on_exit(key, value)?,
            "type" => guest_type(key, value)?,
            key if key.starts_with("hn_") => self.own(statement)?,
            key if IGNORED_KEYS.contains(&key) => self.warn(statement, format!("{key} has no effect here")),
            key => self.warn(statement, format!("unknown key {key}")),
        }
        Ok(())
    }

    fn own(&mut self, statement: &Statement) -> Result<(), DomainFileError> {
        let Statement { key, value, .. } = statement;
        match key.as_str() {
            "hn_layer" => self.file.layered = number(key, value, 0, 1)? == 1,
            "hn_recipe" => self.file.recipe = Some(text(key, value)?.to_owned()),
            "hn_address" => {
                let wanted = kind(key, value, "an IPv4 address in quotes");
                self.file.address = Some(text(key, value)?.parse().map_err(|_| wanted)?);
            }
            key => self.warn(statement, format!("unknown key {key}")),
        }
        Ok(())
    }

    fn disks(&mut self, key: &str, value: &Located) -> Result<(), DomainFileError> {
        for entry in list(key, value)? {
            let spec = text(key, entry)?;
            let disk = disk::parse(spec).map_err(|error| DomainFileError::Disk { at: entry.at, error })?;
            if self.file.disks.iter().any(|other| other.vdev == disk.vdev) {
                return Err(DomainFileError::VdevTwice { at: entry.at, vdev: disk.vdev });
            }
            self.file.disks.push(disk);
        }
        Ok(())
    }

    fn vifs(&mut self, statement: &Statement) -> Result<(), DomainFileError> {
        for entry in list(&statement.key, &statement.value)? {
            let spec = text(&statement.key, entry)?;
            let vif = vif::parse(spec).map_err(|error| DomainFileError::Vif { at: entry.at, error })?;
            for key in &vif.ignored {
                self.warn(
                    statement,
                    format!("{key} of vif has no effect here: every vif ends at the honeynet's switch"),
                );
            }
            self.file.vifs.push(vif);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Parsed, DomainFileError> {
        if self.file.name.is_empty() {
            return Err(DomainFileError::Missing { key: "name" });
        }
        if !self.has_memory {
            return Err(DomainFileError::Missing { key: "memory" });
        }
        if self.file.kernel.is_none() && self.file.recipe.is_none() {
            return Err(DomainFileError::Missing { key: "kernel" });
        }
        // xl.cfg(5): maxvcpus is vcpus where the file does not tell it.
        self.file.maxvcpus = self.maxvcpus.unwrap_or(self.file.vcpus);
        if let Some(value) = &self.vcpus {
            vcpus("vcpus", value, self.file.maxvcpus)?;
        }
        // xl.cfg(5): cmdline replaces root and extra.
        self.file.cmdline = self.cmdline.unwrap_or_else(|| {
            let root = self.root.map(|root| format!("root={root}"));
            [root, self.extra].into_iter().flatten().collect::<Vec<_>>().join(" ")
        });
        Ok(Parsed { file: self.file, warnings: self.warnings })
    }
}

fn kind(key: &str, value: &Located, wanted: &'static str) -> DomainFileError {
    DomainFileError::Kind { at: value.at, key: key.to_owned(), wanted }
}

fn text<'a>(key: &str, value: &'a Located) -> Result<&'a str, DomainFileError> {
    match &value.value {
        Value::Text(text) if !text.contains('\0') => Ok(text),
        _ => Err(kind(key, value, "a string in quotes")),
    }
}

fn path(key: &str, value: &Located) -> Result<Option<PathBuf>, DomainFileError> {
    let text = text(key, value)?;
    Ok((!text.is_empty()).then(|| text.into()))
}

fn list<'a>(key: &str, value: &'a Located) -> Result<&'a [Located], DomainFileError> {
    match &value.value {
        Value::List(entries) if entries.len() <= DEVICES_MAX => Ok(entries),
        _ => Err(kind(key, value, "a list of at most 16 strings")),
    }
}

/// A number; as in xl, a string that holds one will do.
fn number(key: &str, value: &Located, least: i64, most: i64) -> Result<i64, DomainFileError> {
    let number = match &value.value {
        Value::Number(number) => *number,
        Value::Text(text) => text.trim().parse().map_err(|_| kind(key, value, "a number"))?,
        Value::List(_) => return Err(kind(key, value, "a number")),
    };
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(DomainFileError::Range { at: value.at, key: key.to_owned(), value: number, least, most })
}

fn vcpus(key: &str, value: &Located, most: u32) -> Result<u32, DomainFileError> {
    number(key, value, 1, most.into()).map(|count| count.unsigned_abs() as u32)
}

/// A name is also a folder of the state directory, so it is held to what a folder may safely be called.
fn name(key: &str, value: &Located) -> Result<String, DomainFileError> {
    let name = text(key, value)?;
    if is_name(name) {
        return Ok(name.to_owned());
    }
    let wanted = "1 to 64 letters, digits, dots, dashes or underscores that begin with a letter or digit";
    Err(kind(key, value, wanted))
}

/// Whether a domain may be called so.
pub fn is_name(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    plain && name.len() <= NAME_BYTES_MAX && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn uuid(key: &str, value: &Located) -> Result<[u8; 16], DomainFileError> {
    let wanted = || kind(key, value, "a UUID in quotes");
    let text = text(key, value)?;
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    if lengths != [8, 4, 4, 4, 12] {
        return Err(wanted());
    }
    let bytes = hex::decode(text.replace('-', "")).map_err(|_| wanted())?;
    bytes.try_into().map_err(|_| wanted())
}

fn on_exit(key: &str, value: &Located) -> Result<OnExit, DomainFileError> {
    Ok(match text(key, value)? {
        "destroy" => OnExit::Destroy,
        "restart" => OnExit::Restart,
        "rename-restart" => OnExit::RenameRestart,
        "preserve" => OnExit::Preserve,
        "coredump-destroy" => OnExit::CoredumpDestroy,
        "coredump-restart" => OnExit::CoredumpRestart,
        // soft-reset needs a guest that resets its own devices (kexec); refused like any other word.
        word => {
            let (key, word) = (key.to_owned(), word.to_owned());
            return Err(DomainFileError::Word { at: value.at, key, value: word, known: ON_EXIT_WORDS });
        }
    })
}

fn guest_type(key: &str, value: &Located) -> Result<(), DomainFileError> {
    match text(key, value)? {
        "pv" => Ok(()),
        other => Err(DomainFileError::Word {
            at: value.at,
            key: key.to_owned(),
            value: other.to_owned(),
            known: "pv",
        }),
    }
}

#[cfg(test)]
mod tests;
