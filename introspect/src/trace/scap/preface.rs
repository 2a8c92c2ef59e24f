//! What a capture begins with: the machine, its interfaces and users, its processes and what they have open (`scap_setup_dump` of
//! `userspace/libscap/scap_savefile.c` and `scap_fd_write_to_disk` of `scap_fds.c` say the fields).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::block::{DESCRIPTORS, INTERFACES, MACHINE, PROCESSES, SECTION, USERS, block};
use super::parameters::{TEXT_BYTES_MAX, until_nul};
use super::{flags, process};
use crate::walk::files::{FileType, OpenFile};
use crate::walk::sockets::{Endpoint, Socket};
use crate::walk::task::Task;

/// `SHB_MAGIC`, version 1.2.
const MAGIC: u32 = 0x1a2b_3c4d;
const MAJOR: u16 = 1;
const MINOR: u16 = 2;
/// Bytes of a machine's name.
const NAME_BYTES: usize = 128;
/// The most that each of the two lists may take: a guest with 64 Ki tasks keeps nobody from recording what it does.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The highest pid of a 64-bit Linux (`PID_MAX_LIMIT`).
const PID_MAX: u64 = 4 * 1024 * 1024;
/// `SCAP_II_IPV4` and `SCAP_II_IPV6`.
const INTERFACE_V4: u16 = 1;
const INTERFACE_V6: u16 = 2;
/// `USERBLOCK_TYPE_USER` and `USERBLOCK_TYPE_GROUP`.
const USER: u8 = 0;
const GROUP: u8 = 1;

/// `enum scap_fd_type` of `userspace/libscap/scap.h`.
const FD_DIRECTORY: u8 = 2;
const FD_V4: u8 = 3;
const FD_V6: u8 = 4;
const FD_V4_SERVER: u8 = 5;
const FD_V6_SERVER: u8 = 6;
const FD_FIFO: u8 = 7;
const FD_UNIX: u8 = 8;
const FD_EVENT: u8 = 9;
const FD_UNSUPPORTED: u8 = 10;
const FD_SIGNAL: u8 = 11;
const FD_EPOLL: u8 = 12;
const FD_INOTIFY: u8 = 13;
const FD_TIMER: u8 = 14;
const FD_NETLINK: u8 = 15;
const FD_FILE: u8 = 16;

/// What was found when the capture began.
#[derive(Debug, Default)]
pub struct Machine {
    /// The domain's name; several captures lie beside each other.
    pub name: String,
    /// Number of vcpus.
    pub vcpus: u32,
    /// RAM.
    pub memory_bytes: u64,
    /// All threads.
    pub tasks: Vec<Task>,
    /// Open files, by process.
    pub files: Vec<(u32, Vec<OpenFile>)>,
    /// Sockets.
    pub sockets: Vec<Socket>,
}

/// The bytes.
pub fn preface(machine: &Machine) -> Vec<u8> {
    let (processes, listed) = processes(&machine.tasks);
    let descriptors = descriptors(machine, &listed);
    [section(), self::machine(machine), interfaces(), users(), processes, descriptors].concat()
}

fn section() -> Vec<u8> {
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.extend(MAJOR.to_le_bytes());
    bytes.extend(MINOR.to_le_bytes());
    // The section's length is not known while it is written.
    bytes.extend(u64::MAX.to_le_bytes());
    block(SECTION, &bytes)
}

fn machine(machine: &Machine) -> Vec<u8> {
    let mut bytes = machine.vcpus.to_le_bytes().to_vec();
    bytes.extend(machine.memory_bytes.to_le_bytes());
    bytes.extend(PID_MAX.to_le_bytes());
    bytes.extend(until_nul(machine.name.as_bytes(), NAME_BYTES - 1));
    bytes.resize(20 + NAME_BYTES, 0);
    bytes.extend([0; 32]);
    block(MACHINE, &bytes)
}

/// The one that every Linux has. Addresses of the others are in no list that is walked.
fn interfaces() -> Vec<u8> {
    let mut bytes = Vec::new();
    let v4 = (INTERFACE_V4, Ipv4Addr::LOCALHOST.octets().to_vec(), vec![255, 0, 0, 0]);
    let v6 = (INTERFACE_V6, Ipv6Addr::LOCALHOST.octets().to_vec(), vec![255; 16]);
    for (kind, address, mask) in [v4, v6] {
        let name = b"lo";
        let mut entry = kind.to_le_bytes().to_vec();
        entry.extend((name.len() as u16).to_le_bytes());
        entry.extend(&address);
        entry.extend(mask);
        // Nothing is broadcast on it, and nobody knows its speed.
        entry.resize(entry.len() + address.len() + 8, 0);
        entry.extend(name);
        bytes.extend((entry.len() as u32).to_le_bytes());
        bytes.extend(entry);
    }
    block(INTERFACES, &bytes)
}

fn users() -> Vec<u8> {
    let mut user = vec![USER];
    user.extend([0; 8]);
    ["root", "/root", ""].iter().for_each(|word| text(&mut user, word));
    let mut group = vec![GROUP];
    group.extend([0; 4]);
    text(&mut group, "root");
    block(USERS, &[with_length(user), with_length(group)].concat())
}

/// The list, and who is in it.
fn processes(tasks: &[Task]) -> (Vec<u8>, HashSet<u32>) {
    let (mut bytes, mut listed) = (Vec::new(), HashSet::new());
    for task in tasks {
        let entry = with_length(process(task));
        if bytes.len() + entry.len() > LIST_BYTES_MAX {
            break;
        }
        bytes.extend(entry);
        listed.insert(task.pid);
    }
    (block(PROCESSES, &bytes), listed)
}

fn process(task: &Task) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (exe, arguments) = process::command(task);
    for id in [task.pid, task.tgid, task.ppid, task.sid, task.pgid] {
        bytes.extend(u64::from(id).to_le_bytes());
    }
    text(&mut bytes, &task.comm);
    text(&mut bytes, exe);
    text(&mut bytes, task.exe.as_deref().unwrap_or(""));
    bytes.extend((arguments.len() as u16).to_le_bytes());
    bytes.extend(arguments);
    text(&mut bytes, task.cwd.as_deref().unwrap_or(""));
    // The limit of descriptors.
    bytes.extend([0; 8]);
    let shared = if task.pid == task.tgid { 0 } else { flags::OF_A_THREAD };
    [shared, task.rights.uid, task.rights.gid].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    // Memory in all, in RAM, swapped; page faults of both kinds; the environment's length.
    bytes.extend([0; 3 * 4 + 2 * 8 + 2]);
    // Thread and process as its own namespace numbers them: that of the others is not known.
    [task.pid, task.tgid].iter().for_each(|id| bytes.extend(u64::from(*id).to_le_bytes()));
    // Control groups.
    bytes.extend([0; 2]);
    text(&mut bytes, "/");
    bytes.extend(process::LOGIN_UNKNOWN.to_le_bytes());
    // Whether the program can be written to.
    bytes.push(0);
    bytes
}

/// A list a process. A reader refuses one of a process that it does not know.
fn descriptors(machine: &Machine, listed: &HashSet<u32>) -> Vec<u8> {
    let mut sockets = HashMap::new();
    for socket in &machine.sockets {
        sockets.extend(socket.owners.iter().map(|owner| ((owner.pid, owner.fd), socket)));
    }
    let mut blocks = Vec::new();
    for (pid, files) in machine.files.iter().filter(|(pid, _)| listed.contains(pid)) {
        let mut bytes = u64::from(*pid).to_le_bytes().to_vec();
        for file in files {
            bytes.extend(with_length(descriptor(file, sockets.get(&(*pid, file.fd)).copied())));
        }
        if blocks.len() + bytes.len() > LIST_BYTES_MAX {
            break;
        }
        blocks.extend(block(DESCRIPTORS, &bytes));
    }
    blocks
}

fn descriptor(file: &OpenFile, socket: Option<&Socket>) -> Vec<u8> {
    let mut bytes = u64::from(file.fd).to_le_bytes().to_vec();
    bytes.extend(file.inode.to_le_bytes());
    if let Some(socket) = socket.filter(|_| file.file_type == FileType::Socket) {
        self::socket(&mut bytes, socket);
        return bytes;
    }
    let kind = fd_type(file);
    bytes.push(kind);
    if kind == FD_FILE {
        bytes.extend(flags::open(file.flags.into()).to_le_bytes());
        text(&mut bytes, &file.name);
        bytes.extend(process::device(file.on_device.0, file.on_device.1).to_le_bytes());
    } else {
        text(&mut bytes, &file.name);
    }
    bytes
}

fn fd_type(file: &OpenFile) -> u8 {
    // The names of fs/eventpoll.c and the like, as /proc shows them.
    const ANONYMOUS: [(&str, u8); 5] = [
        ("[eventpoll]", FD_EPOLL),
        ("[eventfd]", FD_EVENT),
        ("[signalfd]", FD_SIGNAL),
        ("[timerfd]", FD_TIMER),
        ("inotify", FD_INOTIFY),
    ];
    match file.file_type {
        FileType::Regular | FileType::Character | FileType::Block => FD_FILE,
        FileType::Directory => FD_DIRECTORY,
        FileType::Fifo => FD_FIFO,
        FileType::Anonymous => {
            let named = ANONYMOUS.iter().find(|(name, _)| file.name.ends_with(name));
            named.map_or(FD_UNSUPPORTED, |(_, kind)| *kind)
        }
        FileType::Socket | FileType::Link | FileType::Unknown => FD_UNSUPPORTED,
    }
}

fn socket(bytes: &mut Vec<u8>, socket: &Socket) {
    match (socket.local, socket.remote) {
        (Some(local), Some(remote)) => {
            let is_v4 = local.address.is_ipv4();
            let is_connected = remote.port != 0;
            bytes.push(match (is_v4, is_connected) {
                (true, true) => FD_V4,
                (true, false) => FD_V4_SERVER,
                (false, true) => FD_V6,
                (false, false) => FD_V6_SERVER,
            });
            let ends: &[Endpoint] = if is_connected { &[local, remote] } else { &[local] };
            for end in ends {
                match end.address {
                    IpAddr::V4(v4) => bytes.extend(v4.octets()),
                    IpAddr::V6(v6) => bytes.extend(v6.octets()),
                }
            }
            ends.iter().for_each(|end| bytes.extend(end.port.to_le_bytes()));
            bytes.push(transport(socket.protocol));
        }
        _ if socket.protocol == "unix" => {
            bytes.push(FD_UNIX);
            // Two addresses in the kernel.
            bytes.extend([0; 16]);
            text(bytes, socket.path.as_deref().unwrap_or(""));
        }
        _ => {
            bytes.push(if socket.protocol == "netlink" { FD_NETLINK } else { FD_UNSUPPORTED });
            text(bytes, socket.protocol);
        }
    }
}

/// `enum scap_l4_proto` of `userspace/libscap/scap.h`.
fn transport(protocol: &str) -> u8 {
    match protocol.trim_end_matches('6') {
        "tcp" => 2,
        "udp" => 3,
        "icmp" => 4,
        "raw" => 5,
        _ => 0,
    }
}

/// A length of 16 bits, then the text, which a reader takes up to its buffer's size.
fn text(bytes: &mut Vec<u8>, text: &str) {
    let text = until_nul(text.as_bytes(), TEXT_BYTES_MAX - 1);
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text);
}

/// Entries of all lists but that of interfaces count their length.
fn with_length(entry: Vec<u8>) -> Vec<u8> {
    [&(entry.len() as u32 + 4).to_le_bytes()[..], &entry].concat()
}
