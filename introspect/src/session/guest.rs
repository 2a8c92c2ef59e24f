//! What sessions ask of the guest's memory. Beside it there is only what the trace tells.

use super::peer::Peer;

/// A file as it lies in the guest's page cache.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name, as the guest's kernel would print it: with ` (deleted)`, `/memfd:NAME`.
    pub path: String,
    /// Which file it is: device and inode's number.
    pub file: (u64, u64),
    /// Its length.
    pub size: u64,
    /// Its bytes, as many as are kept of one; zero where a page is only on the disk.
    pub bytes: Vec<u8>,
    /// Not every page was in memory.
    pub absent: bool,
}

/// An ordinary file that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Its `struct inode`.
    pub at: u64,
    /// Which file it is: device and inode's number.
    pub file: (u64, u64),
}

/// The guest's memory.
pub trait Guest {
    /// The process that is the parent of the task at this address.
    fn parent(&self, task: u64) -> Option<u32>;
    /// Are the numbers of processes that this task is told others than ours, because it is in a namespace of its own?
    fn is_nested(&self, task: u64) -> bool;
    /// The process that this one has begun last, of those that live.
    fn newest_child(&self, pid: u32) -> Option<u32>;
    /// The other end of the connection that this descriptor of the task at this address is.
    fn peer(&self, task: u64, fd: u64) -> Option<Peer>;
    /// The arguments of the program that the task at this address runs.
    fn arguments(&self, task: u64) -> Option<Vec<String>>;
    /// The folder that it works in.
    fn folder(&self, task: u64) -> Option<String>;
    /// Which file the program is that it runs, and its name. What is in it is asked for only where it matters: a compiler has thirty megabytes.
    fn program(&self, task: u64) -> Option<(Inode, String)>;
    /// The ordinary file of this `struct file`, if it is open for writing.
    fn written(&self, file: u64) -> Option<Found>;
    /// Which ordinary file this `struct file` is of, if it is open for writing.
    fn inode(&self, file: u64) -> Option<(Inode, String)>;
    /// What is in such a file now, if it is that file still.
    fn contents(&self, inode: Inode) -> Option<Found>;
    /// All such files of the task at this address.
    fn all_written(&self, task: u64) -> Vec<Found>;
}
