//! The system-call trace of `shim/trace.h`, as the VMM and the observer see it: one ring of records a vcpu.
//!
//! The guest kernel can write all of it, so every value read is foreign: positions are checked before use, and records are copied
//! out before they are looked at. What the records mean is not told here.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use super::layout::{Layout, window};
use crate::memory::{Access, Gpa, MemoryError, Region};

/// Bytes of a ring.
pub const RING_BYTES: u64 = window::RING_END - window::RING;
/// Call numbers that can be recorded; numbers from here on never are.
pub const CALLS: usize = 512;
/// Kinds of files that can be told apart.
pub const FILES_MAX: usize = 15;
/// Offsets that the shim is told.
const OFFSETS: usize = 16;

/// `area.call`'s number: the ring is full; the first argument says how much room is wanted.
pub const TRACE_FULL: u64 = 1;
/// The ring is half full.
pub const TRACE_BELL: u64 = 2;
/// The vcpu goes on when everything was read.
pub const TRACE_SYNC: u64 = 3;

/// Bits of a call's word; those from [`SPEC_ARGUMENTS`] on are four an argument.
pub mod spec {
    /// It is recorded.
    pub const RECORD: u32 = 1;
    /// The vcpu waits at its beginning until the record was read, if the call may make a file vanish that is open for writing.
    pub const SYNC_ENTER: u32 = 2;
    /// It waits at its end.
    pub const SYNC_LEAVE: u32 = 4;
    /// Argument 0 is a descriptor, whose file decides how much is kept.
    pub const FILE: u32 = 8;
    /// With `FILE`: only files that were named.
    pub const KNOWN_FILE: u32 = 16;
    /// It has no result.
    pub const NO_RETURN: u32 = 32;
    /// With `FILE`: only regular files that are open for writing.
    pub const WRITTEN: u32 = 64;
    /// With `FILE`: argument 1 is the descriptor (dup2 closes it).
    pub const SECOND: u32 = 128;
    /// The first argument's kind.
    pub const ARGUMENTS: u32 = 8;
}

/// What an argument names, and so what of it is recorded. The numbers are `ARG_*` of `shim/trace.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Argument {
    /// Nothing: a number.
    Value,
    /// A string that ends with a zero byte.
    String,
    /// Bytes that the call reads; the next argument is their number.
    In,
    /// Bytes that the call writes; the result is their number.
    Out,
    /// A socket address; the next argument is its length.
    SockaddrIn,
    /// A socket address that the call writes; the next argument points to its length.
    SockaddrOut,
    /// `struct iovec`s that the call reads; the next argument is their number.
    VectorIn,
    /// `struct iovec`s that the call fills.
    VectorOut,
    /// `struct msghdr` that is sent.
    MessageIn,
    /// `struct msghdr` that is filled.
    MessageOut,
    /// Pointers to strings, up to a null pointer.
    Strings,
    /// 16 bytes that the call reads.
    In16,
    /// 16 bytes that it writes.
    Out16,
    /// 144 bytes that it writes (`struct stat`).
    Out144,
}

/// An offset in a guest's structure that the shim needs. The numbers are `AT_*` of `shim/trace.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "STRUCT and member of the guest's kernel")]
pub enum Offset {
    TaskPid,
    TaskTgid,
    TaskComm,
    TaskCred,
    CredUid,
    TaskFiles,
    FilesFdt,
    FdtMaxFds,
    FdtFd,
    FileOp,
    FileMode,
    FilePrivate,
    SocketOps,
    FileInode,
    InodeMode,
}

impl Offset {
    /// Each with the struct and the member that it is the offset of.
    pub const ALL: [(Offset, &'static str, &'static str); 15] = [
        (Offset::TaskPid, "task_struct", "pid"),
        (Offset::TaskTgid, "task_struct", "tgid"),
        (Offset::TaskComm, "task_struct", "comm"),
        (Offset::TaskCred, "task_struct", "cred"),
        (Offset::CredUid, "cred", "uid"),
        (Offset::TaskFiles, "task_struct", "files"),
        (Offset::FilesFdt, "files_struct", "fdt"),
        (Offset::FdtMaxFds, "fdtable", "max_fds"),
        (Offset::FdtFd, "fdtable", "fd"),
        (Offset::FileOp, "file", "f_op"),
        (Offset::FileMode, "file", "f_mode"),
        (Offset::FilePrivate, "file", "private_data"),
        (Offset::SocketOps, "socket", "ops"),
        (Offset::FileInode, "file", "f_inode"),
        (Offset::InodeMode, "inode", "i_mode"),
    ];
}

#[repr(C)]
struct TraceLayout {
    armed: u64,
    head: u64,
    lost: u64,
    seq: u64,
    belled: u64,
    drop: u64,
    current: u64,
    cap: u64,
    tail: u64,
    sockets: u64,
    pad: [u64; 2],
    at: [u32; OFFSETS],
    files: [[u64; 2]; FILES_MAX + 1],
    spec: [[u32; CALLS]; 2],
}

// The other half of these is in trace.h.
const _: () = assert!(offset_of!(TraceLayout, tail) == 64);
const _: () = assert!(offset_of!(TraceLayout, at) == 96);
const _: () = assert!(offset_of!(TraceLayout, files) == 160);
const _: () = assert!(offset_of!(TraceLayout, spec) == 416);

/// What the shim must know before it can record.
#[derive(Debug, Clone)]
pub struct TraceSetup {
    /// Offset of the current task's pointer from the kernel's GS base.
    pub current: u64,
    /// Offsets, each named once.
    pub offsets: Vec<(Offset, u32)>,
    /// `socket_file_ops`.
    pub sockets: u64,
    /// Addresses of `file_operations` or `proto_ops`, and the bytes kept of what goes through such files.
    pub files: Vec<(u64, u64)>,
    /// Bytes kept of other arguments, at most 256.
    pub cap: u64,
    /// Words of the 64-bit calls, by number.
    pub calls: Vec<u32>,
    /// Words of the 32-bit calls.
    pub compat_calls: Vec<u32>,
}

/// One vcpu's trace.
#[derive(Debug, Clone)]
pub struct Trace {
    shim: Region,
    window: Gpa,
}

impl Trace {
    /// The trace of a vcpu in the shim's memory.
    ///
    /// # Errors
    /// The memory has no window of that vcpu.
    pub fn new(shim: &Region, vcpu: u32) -> Result<Trace, MemoryError> {
        // Windows lie where they lie whatever the domain's RAM.
        let window = Layout { ram_bytes: 0, vcpus: 1 }.window_gpa(vcpu);
        shim.read_u64(window.offset(window::RING_END - 8))?;
        Ok(Trace { shim: shim.clone(), window })
    }

    fn at(&self, offset: usize) -> Gpa {
        self.window.offset(window::TRACE + offset as u64)
    }

    fn load(&self, offset: usize) -> u64 {
        let loaded = self.shim.load_u64(self.at(offset), Ordering::Acquire);
        loaded.expect("the window was found in the memory, and fields are aligned")
    }

    fn store(&self, offset: usize, value: u64) {
        let stored = self.shim.store_u64(self.at(offset), value, Ordering::Release);
        stored.expect("the window was found in the memory, and fields are aligned");
    }

    /// Tells the shim what to record, without arming it.
    ///
    /// # Errors
    /// None, if the window is there.
    pub fn set_up(&self, setup: &TraceSetup) -> Result<(), MemoryError> {
        self.store(offset_of!(TraceLayout, current), setup.current);
        self.store(offset_of!(TraceLayout, sockets), setup.sockets);
        self.store(offset_of!(TraceLayout, cap), setup.cap);
        for (offset, value) in &setup.offsets {
            self.shim.write_u32(self.at(offset_of!(TraceLayout, at) + 4 * *offset as usize), *value)?;
        }
        for index in 0..FILES_MAX {
            let (operations, cap) = setup.files.get(index).copied().unwrap_or_default();
            let at = offset_of!(TraceLayout, files) + 16 * index;
            self.store(at + 8, cap);
            self.store(at, operations);
        }
        self.set_calls(&setup.calls, &setup.compat_calls)
    }

    /// Replaces what is recorded.
    ///
    /// # Errors
    /// None, if the window is there.
    pub fn set_calls(&self, calls: &[u32], compat_calls: &[u32]) -> Result<(), MemoryError> {
        for (abi, words) in [calls, compat_calls].into_iter().enumerate() {
            let base = offset_of!(TraceLayout, spec) + 4 * CALLS * abi;
            for number in 0..CALLS {
                let word = words.get(number).copied().unwrap_or(0);
                self.shim.write_u32(self.at(base + 4 * number), word)?;
            }
        }
        Ok(())
    }

    /// Begins to record.
    pub fn arm(&self) {
        self.store(offset_of!(TraceLayout, armed), 1);
    }

    /// Stops recording; calls that have begun get no result.
    pub fn disarm(&self) {
        self.store(offset_of!(TraceLayout, armed), 0);
    }

    /// Is it recording?
    pub fn armed(&self) -> bool {
        self.load(offset_of!(TraceLayout, armed)) != 0
    }

    /// Whether a full ring loses records rather than slow the guest.
    pub fn set_drop(&self, drop: bool) {
        self.store(offset_of!(TraceLayout, drop), u64::from(drop));
    }

    /// Records that found no room so far.
    pub fn lost(&self) -> u64 {
        self.load(offset_of!(TraceLayout, lost))
    }

    /// Position of the writer: bytes since the start.
    pub fn head(&self) -> u64 {
        self.load(offset_of!(TraceLayout, head))
    }

    /// Position of the reader.
    pub fn tail(&self) -> u64 {
        self.load(offset_of!(TraceLayout, tail))
    }

    /// Gives the ring back up to this position, and has the bell rung again.
    pub fn set_tail(&self, tail: u64) {
        self.store(offset_of!(TraceLayout, tail), tail);
        self.store(offset_of!(TraceLayout, belled), 0);
    }

    /// Copies out what lies from this position on; it must not go past the ring's end.
    ///
    /// # Errors
    /// It does.
    pub fn read(&self, position: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let offset = position % RING_BYTES;
        if offset + out.len() as u64 > RING_BYTES {
            let gpa = self.window.offset(window::RING + offset);
            return Err(MemoryError::Outside { gpa, bytes: out.len() as u64 });
        }
        self.shim.read(self.window.offset(window::RING + offset), out)
    }
}
