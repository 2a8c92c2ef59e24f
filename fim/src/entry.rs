//! One file as it was seen: everything that a rule can watch, in the form that a baseline keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::ext4::{FileKind, Inode, Time};

/// What kind of file. Written as the letter of AIDE's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Regular file.
    #[serde(rename = "f")]
    File,
    /// Directory.
    #[serde(rename = "d")]
    Directory,
    /// Symbolic link.
    #[serde(rename = "l")]
    Symlink,
    /// Character device.
    #[serde(rename = "c")]
    CharDevice,
    /// Block device.
    #[serde(rename = "b")]
    BlockDevice,
    /// Named pipe.
    #[serde(rename = "p")]
    Fifo,
    /// Socket.
    #[serde(rename = "s")]
    Socket,
}

impl Kind {
    /// The letter of AIDE's report.
    pub fn letter(self) -> char {
        match self {
            Kind::File => 'f',
            Kind::Directory => 'd',
            Kind::Symlink => 'l',
            Kind::CharDevice => 'c',
            Kind::BlockDevice => 'b',
            Kind::Fifo => 'p',
            Kind::Socket => 's',
        }
    }

    /// The word for a detailed report.
    pub fn word(self) -> &'static str {
        match self {
            Kind::File => "File",
            Kind::Directory => "Directory",
            Kind::Symlink => "Link",
            Kind::CharDevice => "Character device",
            Kind::BlockDevice => "Block device",
            Kind::Fifo => "FIFO",
            Kind::Socket => "Socket",
        }
    }
}

impl From<FileKind> for Kind {
    fn from(kind: FileKind) -> Kind {
        match kind {
            FileKind::Regular => Kind::File,
            FileKind::Directory => Kind::Directory,
            FileKind::Symlink => Kind::Symlink,
            FileKind::CharDevice => Kind::CharDevice,
            FileKind::BlockDevice => Kind::BlockDevice,
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => Kind::Socket,
        }
    }
}

/// One file. Paths, targets and attribute values that are not plain text are escaped (`\xNN`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Absolute path in the filesystem.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Inode number.
    pub inode: u32,
    /// Number of names.
    pub links: u16,
    /// Bytes.
    pub size: u64,
    /// 512-byte sectors occupied.
    pub sectors: u64,
    /// Last change of content, RFC 3339 with nanoseconds.
    pub mtime: String,
    /// Last change of the inode.
    pub ctime: String,
    /// What lsattr shows, as bits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u32,
    /// Target of a symlink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Major and minor of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// blake3 of the content, where a rule asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b3: Option<String>,
    /// Why the content or an attribute could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// The content, where a rule asked for it (`diff`) and it is short UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(flags: &u32) -> bool {
    *flags == 0
}

impl Entry {
    /// The entry of an inode, without what needs further reading (target, attributes, content).
    pub fn new(path: String, inode: &Inode) -> Entry {
        Entry {
            path,
            kind: inode.kind.into(),
            permissions: inode.permissions,
            uid: inode.uid,
            gid: inode.gid,
            inode: inode.number,
            links: inode.links,
            size: inode.size,
            sectors: inode.sectors,
            mtime: rfc3339(inode.mtime),
            ctime: rfc3339(inode.ctime),
            flags: inode.attributes,
            target: None,
            device: inode.device,
            xattrs: BTreeMap::new(),
            b3: None,
            unreadable: None,
            text: None,
        }
    }

    /// The value of one attribute as a report shows it; `None` where the file has none or it was not taken.
    pub fn value(&self, attribute: Attributes) -> Option<String> {
        let lists = |name: &str| name.starts_with("system.posix_acl");
        let capabilities = |name: &str| name == "security.capability";
        match attribute {
            Attributes::PERMISSIONS => Some(symbolic_mode(self.kind, self.permissions)),
            Attributes::FILE_TYPE => Some(self.kind.word().to_owned()),
            Attributes::INODE => Some(self.inode.to_string()),
            Attributes::LINK => self.target.clone(),
            Attributes::LINKS => Some(self.links.to_string()),
            Attributes::USER => Some(self.uid.to_string()),
            Attributes::GROUP => Some(self.gid.to_string()),
            Attributes::SIZE | Attributes::GROWING => Some(self.size.to_string()),
            Attributes::SECTORS => Some(self.sectors.to_string()),
            Attributes::MTIME => Some(self.mtime.clone()),
            Attributes::CTIME => Some(self.ctime.clone()),
            Attributes::CONTENT => self.unreadable.clone().or_else(|| self.b3.clone()),
            Attributes::ACL => self.xattrs_where(lists),
            Attributes::CAPABILITIES => self.xattrs_where(capabilities),
            Attributes::XATTRS => self.xattrs_where(|name| !lists(name) && !capabilities(name)),
            Attributes::FLAGS => Some(lsattr_letters(self.flags)),
            Attributes::DEVICE => self.device.map(|(major, minor)| format!("{major}, {minor}")),
            // DIFF only keeps the text; a sum of attributes has no one value.
            _ => None,
        }
    }

    fn xattrs_where(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let chosen = self.xattrs.iter().filter(|(name, _)| wanted(name));
        let text: Vec<String> = chosen.map(|(name, value)| format!("{name}={value}")).collect();
        (!text.is_empty()).then(|| text.join(" "))
    }
}

/// `-rwsr-xr-x`, as ls prints it.
fn symbolic_mode(kind: Kind, permissions: u16) -> String {
    let mut out = String::from(if kind == Kind::File { '-' } else { kind.letter() });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = permissions >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, permissions & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// The letters of lsattr(1) for the flags that chattr(1) can set.
fn lsattr_letters(flags: u32) -> String {
    const LETTERS: &[(u32, char)] = &[
        (0x1, 's'),
        (0x2, 'u'),
        (0x8, 'S'),
        (0x1_0000, 'D'),
        (0x10, 'i'),
        (0x20, 'a'),
        (0x40, 'd'),
        (0x80, 'A'),
        (0x4, 'c'),
        (0x4000, 'j'),
        (0x8000, 't'),
        (0x2_0000, 'T'),
        (0x80_0000, 'C'),
    ];
    let letters: String =
        LETTERS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect();
    if letters.is_empty() { "-".to_owned() } else { letters }
}

/// RFC 3339 in UTC with nanoseconds; a time out of jiff's range is shown as its seconds.
fn rfc3339(time: Time) -> String {
    let stamp =
        i32::try_from(time.nanoseconds).ok().and_then(|ns| jiff::Timestamp::new(time.seconds, ns).ok());
    stamp.map_or_else(|| format!("{}.{:09}", time.seconds, time.nanoseconds), |stamp| format!("{stamp:.9}"))
}

/// Bytes as text: UTF-8 stays, control characters, backslashes and all else become `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        escape_where(&mut out, chunk.valid(), |c| c == '\\' || is_deceptive(c));
        chunk.invalid().iter().for_each(|byte| push_hex(&mut out, *byte));
    }
    out
}

/// Text for people: backslashes stay, so it cannot be turned back.
pub fn escape_text(text: &str) -> String {
    let mut out = String::new();
    escape_where(&mut out, text, is_deceptive);
    out
}

fn escape_where(out: &mut String, text: &str, wanted: impl Fn(char) -> bool) {
    for c in text.chars() {
        if wanted(c) {
            let mut buffer = [0; 4];
            c.encode_utf8(&mut buffer).bytes().for_each(|byte| push_hex(out, byte));
        } else {
            out.push(c);
        }
    }
}

/// Characters that move the cursor or turn the writing direction on whoever reads the report.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn push_hex(out: &mut String, byte: u8) {
    out.push_str(&format!("\\x{byte:02x}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_ls_prints_them() {
        let cases = [
            (Kind::File, 0o4755, "-rwsr-xr-x"),
            (Kind::Directory, 0o1777, "drwxrwxrwt"),
            (Kind::File, 0o6644, "-rwSr-Sr--"),
            (Kind::Symlink, 0o777, "lrwxrwxrwx"),
        ];
        for (kind, permissions, expected) in cases {
            assert_eq!(symbolic_mode(kind, permissions), expected);
        }
    }

    #[test]
    fn names_that_would_move_the_cursor_are_escaped() {
        assert_eq!(escape("é\u{1b}[2J\\\u{202e}".as_bytes()), "é\\x1b[2J\\x5c\\xe2\\x80\\xae");
        assert_eq!(escape(b"a\xffb"), "a\\xffb");
    }
}
