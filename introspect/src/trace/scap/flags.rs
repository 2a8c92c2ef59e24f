//! Linux' flags as events have them: a numbering of their own that no architecture shares (`driver/ppm_events_public.h`, `PPM_*`).

/// `O_*` of fcntl.h and their `PPM_O_*`, but for the access mode. A bit that is part of another comes after it.
const OPEN: [(u64, u32); 12] = [
    (0o100, 1 << 2),
    (0o2000, 1 << 3),
    (0o10000, 1 << 4),
    (0o200, 1 << 5),
    (0o4000, 1 << 6),
    (0o4010000, 1 << 7),
    (0o1000, 1 << 8),
    (0o40000, 1 << 9),
    (0o200000, 1 << 10),
    (0o100000, 1 << 11),
    (0o2000000, 1 << 12),
    (0o20200000, 1 << 13),
];
/// `CLONE_*` of linux/sched.h and their `PPM_CL_*`; `CLONE_PIDFD` has none.
const CLONE: [(u64, u32); 22] = [
    (0x400, 1 << 0),
    (0x200, 1 << 1),
    (0x8000_0000, 1 << 2),
    (0x0800_0000, 1 << 3),
    (0x4000_0000, 1 << 4),
    (0x0002_0000, 1 << 5),
    (0x2000_0000, 1 << 6),
    (0x0400_0000, 1 << 7),
    (0x8000, 1 << 8),
    (0x0010_0000, 1 << 9),
    (0x2000, 1 << 10),
    (0x800, 1 << 11),
    (0x0004_0000, 1 << 12),
    (0x0001_0000, CLONE_THREAD),
    (0x0080_0000, 1 << 14),
    (0x100, CLONE_VM),
    (0x1000_0000, 1 << 20),
    (0x0020_0000, 1 << 23),
    (0x0100_0000, 1 << 24),
    (0x0008_0000, 1 << 25),
    (0x4000, 1 << 27),
    (0x0200_0000, 1 << 28),
];
const CLONE_THREAD: u32 = 1 << 13;
const CLONE_VM: u32 = 1 << 15;
/// What all threads of a process share: `PPM_CL_CLONE_FILES`, `FS`, `SIGHAND`, `THREAD`, `VM`.
pub const OF_A_THREAD: u32 = 1 | 1 << 1 | 1 << 11 | CLONE_THREAD | CLONE_VM;
/// `MS_MGC_VAL` of sys/mount.h, which old programs give; the other bits of mount(2) are the same in an event.
const MOUNT_MAGIC: u64 = 0xc0ed_0000;
const MOUNT_MAGIC_MASK: u64 = 0xffff_0000;
/// Requests of ptrace(2), linux/ptrace.h and asm/ptrace-abi.h, and their `PPM_PTRACE_*`.
#[rustfmt::skip]
const PTRACE: [(u64, u16); 38] = [
    (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 10), (12, 26), (13, 27), (14, 28), (15, 29), (16, 11), (17, 12),
    (18, 30), (19, 31), (21, 32), (24, 13), (25, 33), (26, 34), (30, 35), (31, 36), (32, 37), (33, 38), (0x4200, 14), (0x4201, 15), (0x4202, 16),
    (0x4203, 17), (0x4204, 18), (0x4205, 19), (0x4206, 20), (0x4207, 21), (0x4208, 22), (0x4209, 23), (0x420a, 24), (0x420b, 25),
];
/// Commands of fcntl(2) and their `PPM_FCNTL_*`.
#[rustfmt::skip]
const FCNTL: [(u64, u8); 24] = [
    (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 8), (7, 9), (8, 10), (9, 12), (10, 13), (11, 15), (15, 21), (16, 22), (36, 30),
    (37, 31), (38, 32), (1024, 23), (1025, 24), (1026, 27), (1029, 25), (1030, 26), (1031, 28), (1032, 29),
];

/// Of open(2).
pub fn open(flags: u64) -> u32 {
    let access = match flags & 3 {
        1 => 2,
        2 => 3,
        // 3 is no mode that a program should give; the kernel takes it.
        _ => 1,
    };
    access | translated(flags, &OPEN)
}

/// Of clone(2).
pub fn clone(flags: u64) -> u32 {
    translated(flags, &CLONE)
}

/// Of mount(2).
pub fn mount(flags: u64) -> u32 {
    let has_magic = flags & MOUNT_MAGIC_MASK == MOUNT_MAGIC;
    (if has_magic { flags & !MOUNT_MAGIC_MASK } else { flags }) as u32
}

/// A request of ptrace(2); 0 for one that is unknown.
pub fn ptrace(request: u64) -> u16 {
    PTRACE.iter().find(|(linux, _)| *linux == request).map_or(0, |(_, number)| *number)
}

/// A command of fcntl(2); 0 for one that is unknown.
pub fn fcntl(command: u64) -> u8 {
    FCNTL.iter().find(|(linux, _)| *linux == command).map_or(0, |(_, number)| *number)
}

fn translated(flags: u64, table: &[(u64, u32)]) -> u32 {
    table.iter().filter(|(linux, _)| flags & linux == *linux).fold(0, |all, (_, own)| all | own)
}
