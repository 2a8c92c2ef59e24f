//! What of a file a rule watches: AIDE's attribute names, as a set of bits.
//!
//! Names and meaning are those of aide.conf(5), "Attributes", as far as they apply. `b3` (blake3 of the content) and
//! `diff` (keep small text so that a change can be shown line by line) are our own.

use std::ops::{BitOr, Sub};

/// A set of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(u32);

macro_rules! attributes {
    ($($bit:literal $name:ident $letter:literal $doc:literal;)*) => {
        impl Attributes {
            $(#[doc = $doc] pub const $name: Attributes = Attributes(1 << $bit);)*
            const NAMES: &[(&str, Attributes)] = &[$(($letter, Attributes::$name),)*];
        }
    };
}

attributes! {
    0 PERMISSIONS "p" "Permission bits.";
    1 FILE_TYPE "ftype" "Kind of file.";
    2 INODE "i" "Inode number.";
    3 LINK "l" "Target of a symlink.";
    4 LINKS "n" "Number of names.";
    5 USER "u" "Owner.";
    6 GROUP "g" "Group.";
    7 SIZE "s" "Size in bytes.";
    8 GROWING "S" "Size, where growing is not a change: logs.";
    9 SECTORS "b" "Sectors occupied.";
    10 MTIME "m" "Last change of content.";
    11 CTIME "c" "Last change of the inode.";
    12 CONTENT "b3" "blake3 of the content.";
    13 ACL "acl" "Access control lists.";
    14 XATTRS "xattrs" "Extended attributes other than lists and capabilities.";
    15 CAPABILITIES "caps" "File capabilities.";
    16 FLAGS "e2fsattrs" "What lsattr shows.";
    17 DEVICE "rdev" "Major and minor of a device.";
    18 DIFF "diff" "Keep the content of small text files in the baseline.";
}

/// aide.conf(5), "Default compound groups", with b3 for the checksums.
const GROUPS: &[(&str, &str)] = &[
    ("R", "p+ftype+i+l+n+u+g+s+m+c+b3+acl+xattrs+caps+e2fsattrs+rdev"),
    ("L", "p+ftype+i+l+n+u+g+acl+xattrs+caps+e2fsattrs+rdev"),
    (">", "p+ftype+l+u+g+i+n+S+acl+xattrs+caps+e2fsattrs+rdev"),
    ("H", "b3"),
    ("X", "acl+xattrs+caps+e2fsattrs"),
    ("E", ""),
];

impl Attributes {
    /// No attribute: only presence is watched.
    pub const NONE: Attributes = Attributes(0);

    /// The attribute or AIDE's own group with this name.
    pub fn named(name: &str) -> Option<Attributes> {
        if let Some((_, bits)) = Attributes::NAMES.iter().find(|(known, _)| *known == name) {
            return Some(*bits);
        }
        let (_, members) = GROUPS.iter().find(|(known, _)| *known == name)?;
        Some(members.split('+').filter_map(Attributes::named).fold(Attributes::NONE, |all, one| all | one))
    }

    /// Every single attribute with its name, in the order of reports.
    pub fn each() -> impl Iterator<Item = (&'static str, Attributes)> {
        Attributes::NAMES.iter().copied()
    }

    /// Whether all of `other` are in this set.
    pub fn contains(self, other: Attributes) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Attributes {
    type Output = Attributes;

    fn bitor(self, other: Attributes) -> Attributes {
        Attributes(self.0 | other.0)
    }
}

impl Sub for Attributes {
    type Output = Attributes;

    fn sub(self, other: Attributes) -> Attributes {
        Attributes(self.0 & !other.0)
    }
}

impl std::fmt::Display for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = Attributes::NAMES.iter().filter(|(_, bits)| self.contains(*bits)).map(|(name, _)| *name);
        f.write_str(&names.collect::<Vec<_>>().join("+"))
    }
}
