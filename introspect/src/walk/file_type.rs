//! What kind of file an inode is: the upper bits of its mode (`S_IFMT` of `include/uapi/linux/stat.h`).

use serde::Serialize;

/// A kind of file, shown as `lsof` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FileType {
    /// Regular file.
    #[serde(rename = "REG")]
    Regular,
    /// Directory.
    #[serde(rename = "DIR")]
    Directory,
    /// Character device.
    #[serde(rename = "CHR")]
    Character,
    /// Block device.
    #[serde(rename = "BLK")]
    Block,
    /// Pipe, named or not.
    #[serde(rename = "FIFO")]
    Fifo,
    /// Symbolic link.
    #[serde(rename = "LINK")]
    Link,
    /// Socket.
    #[serde(rename = "sock")]
    Socket,
    /// Of no such kind: an anonymous inode, such as that of an epoll.
    #[serde(rename = "a_inode")]
    Anonymous,
    /// Bits that mean nothing.
    #[serde(rename = "unknown")]
    Unknown,
}

impl FileType {
    /// The kind that a mode says.
    #[must_use]
    pub fn of_mode(mode: u32) -> Self {
        const FORMAT: u32 = 0o170_000;
        match mode & FORMAT {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o020_000 => Self::Character,
            0o060_000 => Self::Block,
            0o010_000 => Self::Fifo,
            0o120_000 => Self::Link,
            0o140_000 => Self::Socket,
            0 => Self::Anonymous,
            _ => Self::Unknown,
        }
    }
}
