//! Names of virtual disks and their numbers, as xl has them (Xen's docs/man/xen-vbd-interface.7).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A virtual block device's number, which names its folders in xenstore and the device in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vdev(pub u32);

/// A name that stands for no virtual disk.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("no such virtual disk: {0}")]
pub struct VdevError(String);

const XVD_MAJOR: u32 = 202;
const SD_MAJOR: u32 = 8;
const HD_MAJORS: [u32; 2] = [3, 22];
/// Marks the numbering for disks and partitions that do not fit in a byte.
const EXTENDED: u32 = 1 << 28;
const EXTENDED_DISKS: u32 = 1 << 20;
const EXTENDED_PARTITIONS: u32 = 256;

impl FromStr for Vdev {
    type Err = VdevError;

    /// `xvda`, `xvda1`, `sda1`, `hdc`, `d0p1`, or the number itself (`51712`, `0xca00`).
    fn from_str(name: &str) -> Result<Self, VdevError> {
        let unknown = || VdevError(name.to_owned());
        let bare = name.strip_prefix("/dev/").unwrap_or(name);
        if bare.starts_with(|c: char| c.is_ascii_digit()) {
            return number(bare).map(Vdev).ok_or_else(unknown);
        }
        let found = if let Some(rest) = bare.strip_prefix("xvd") {
            lettered(rest).and_then(|(disk, partition)| xvd(disk, partition))
        } else if let Some(rest) = bare.strip_prefix("sd") {
            lettered(rest)
                .filter(|&(disk, partition)| disk < 16 && partition < 16)
                .map(|(disk, partition)| (SD_MAJOR << 8) | (disk << 4) | partition)
        } else if let Some(rest) = bare.strip_prefix("hd") {
            lettered(rest).filter(|&(disk, partition)| disk < 4 && partition < 64).map(|(disk, partition)| {
                (HD_MAJORS[(disk / 2) as usize] << 8) | ((disk & 1) << 6) | partition
            })
        } else if let Some(rest) = bare.strip_prefix('d') {
            numbered(rest).and_then(|(disk, partition)| xvd(disk, partition))
        } else {
            None
        };
        found.map(Vdev).ok_or_else(unknown)
    }
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn xvd(disk: u32, partition: u32) -> Option<u32> {
    if disk < 16 && partition < 16 {
        return Some((XVD_MAJOR << 8) | (disk << 4) | partition);
    }
    (disk < EXTENDED_DISKS && partition < EXTENDED_PARTITIONS).then_some(EXTENDED | (disk << 8) | partition)
}

/// `a`, `b1`, `aa12`: a disk in letters (a = 0, z = 25, aa = 26), then a partition, none being 0.
fn lettered(text: &str) -> Option<(u32, u32)> {
    let letters = text.bytes().take_while(u8::is_ascii_lowercase).count();
    let (disk, partition) = text.split_at(letters);
    if disk.is_empty() || disk.len() > 5 {
        return None;
    }
    let disk = disk.bytes().fold(0, |sum, letter| sum * 26 + u32::from(letter - b'a') + 1) - 1;
    Some((disk, if partition.is_empty() { 0 } else { digits(partition)? }))
}

/// `0`, `3p1`.
fn numbered(text: &str) -> Option<(u32, u32)> {
    match text.split_once('p') {
        Some((disk, partition)) => Some((digits(disk)?, digits(partition)?)),
        None => Some((digits(text)?, 0)),
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => digits(text),
    }
}

/// Decimal digits only: `parse` alone would take a sign as well.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_that_xl_gives_them() {
        let table = [
            ("xvda", 51712),
            ("xvda1", 51713),
            ("xvdb", 51728),
            ("xvdp15", 51967),
            ("xvdq", (1 << 28) | (16 << 8)),
            ("xvdaa", (1 << 28) | (26 << 8)),
            ("xvda16", (1 << 28) | 16),
            ("sda", 2048),
            ("sda1", 2049),
            ("sda2", 2050),
            ("sdp15", 2303),
            ("hda", 768),
            ("hda1", 769),
            ("hdb", 832),
            ("hdc", 5632),
            ("hdd3", 5699),
            ("d0", 51712),
            ("d1p2", 51730),
            ("/dev/xvda2", 51714),
            ("51712", 51712),
            ("0xca00", 51712),
        ];
        for (name, expected) in table {
            assert_eq!(name.parse(), Ok(Vdev(expected)), "{name}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "", "xvd", "xvd1", "sdq", "sda16", "hde", "hda64", "vda", "xvda1x", "xvda+1", "xvda256", "d",
            "dp",
        ] {
            assert_eq!(name.parse::<Vdev>(), Err(VdevError(name.to_owned())), "{name}");
        }
        for name in ["xvdzzzzzz", "0x", "99999999999", "d0p", "xvdA"] {
            assert!(name.parse::<Vdev>().is_err(), "{name}");
        }
    }
}
