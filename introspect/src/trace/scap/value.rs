//! Parameters of events, made of a call's arguments and result.

use super::Facts;
use super::address::{self, Address};
use super::parameters::Parameters;
use super::{flags, process};
use crate::trace::pairing::Traced;

/// `PPM_BPF_IDX_FD` and `PPM_BPF_IDX_RES`: which of two types the result has.
const BPF_FD: u8 = 0;
const BPF_RESULT: u8 = 1;
/// `BPF_MAP_CREATE` and `BPF_PROG_LOAD` of linux/bpf.h: what the reader knows to give a descriptor.
const BPF_GIVE_FDS: [u64; 2] = [0, 5];
/// `PPM_PTRACE_IDX_UINT64`.
const PTRACE_WORD: u8 = 0;
/// The index of a message's address among its chunks.
const MESSAGE_ADDRESS: u16 = 255;

/// What a parameter is. The number is the argument's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// `PT_ERRNO`, `PT_FD` and `PT_PID` of an end.
    Result,
    /// A result that is an id of a user or group.
    Result32,
    /// A descriptor or a pid: an `int`.
    Fd(u8),
    /// Its lowest byte.
    U8(u8),
    /// Its lower half.
    U32(u8),
    /// All of it.
    U64(u8),
    /// An `int`, in 64 bits.
    I64(u8),
    /// So many bytes that nobody saw.
    Unknown(u8),
    /// A string.
    Text(u8),
    /// What went through a buffer, or through several.
    Data(u8),
    /// How many bytes several buffers have, as far as the trace looked.
    Moved(u8),
    /// Of two descriptors that the call made: the argument, and which.
    Pair(u8, u8),
    /// Flags of open(2).
    OpenFlags(u8),
    /// The same in a `struct open_how`.
    HowFlags(u8),
    /// The mode in it.
    HowMode(u8),
    /// A file's mode.
    Mode(u8),
    /// Flags of clone(2).
    CloneFlags(u8),
    /// Flags of mount(2).
    MountFlags(u8),
    /// A command of fcntl(2).
    Command(u8),
    /// A request of ptrace(2).
    Request(u8),
    /// What goes with that.
    Word(u8),
    /// A socket address.
    Sockaddr(u8),
    /// From the socket to an address.
    To(u8),
    /// From an address to the socket.
    From(u8),
    /// From who connects to the socket that accept(2) has made.
    Accepted,
    /// The result of bpf(2).
    Bpf,
    /// What execve(2) has made of the process: 19 parameters.
    Executed,
    /// The process that has made another: 19 parameters.
    Cloned,
}

use Value::*;

/// Whether one of these values lies where the shim could not read when the call began; it reads again at its end.
pub fn is_late(values: &[Value], call: &Traced) -> bool {
    values.iter().any(|value| match value {
        Text(argument) | Sockaddr(argument) | To(argument) => {
            call.enter.chunks.iter().any(|chunk| chunk.argument == *argument && chunk.faulted)
        }
        _ => false,
    })
}

/// All parameters of an event.
pub fn parameters(values: &[Value], call: &Traced, facts: &dyn Facts) -> Parameters {
    let mut parameters = Parameters::default();
    values.iter().for_each(|value| push(&mut parameters, *value, call, facts));
    parameters
}

fn push(out: &mut Parameters, value: Value, call: &Traced, facts: &dyn Facts) {
    let arguments = call.arguments();
    let word = |argument: u8| arguments[usize::from(argument)];
    let result = call.result.unwrap_or(0);
    match value {
        Result => out.i64(result),
        Result32 => out.u32(result as u32),
        Fd(argument) | I64(argument) => out.i64(i64::from(word(argument) as i32)),
        U8(argument) => out.number([word(argument) as u8]),
        U32(argument) => out.u32(word(argument) as u32),
        U64(argument) => out.number(word(argument).to_le_bytes()),
        Unknown(bytes) => out.bytes(&[0; 8][..usize::from(bytes.min(8))]),
        Text(argument) => out.text(call.named(argument).map_or(&[], |chunk| &chunk.bytes)),
        Data(argument) => out.bytes(&call.bytes(argument)),
        Moved(argument) => out.u32(moved(call, argument)),
        Pair(argument, which) => {
            out.i64(i64::from(call.pair(argument).map_or(0, |pair| pair[usize::from(which & 1)])))
        }
        OpenFlags(argument) => out.u32(flags::open(word(argument))),
        HowFlags(argument) => out.u32(flags::open(how(call, argument)[0])),
        HowMode(argument) => out.u32(how(call, argument)[1] as u32),
        Mode(argument) => out.u32(word(argument) as u32 & 0o7777),
        CloneFlags(argument) => out.u32(flags::clone(word(argument))),
        MountFlags(argument) => out.u32(flags::mount(word(argument))),
        Command(argument) => out.number([flags::fcntl(word(argument))]),
        Request(argument) => out.number(flags::ptrace(word(argument)).to_le_bytes()),
        Word(argument) => out.bytes(&[&[PTRACE_WORD][..], &word(argument).to_le_bytes()].concat()),
        Sockaddr(argument) => {
            out.bytes(&address(call, argument).map_or(Vec::new(), |address| address::sockaddr(&address)))
        }
        To(argument) => out.bytes(
            &tuple(call, argument, facts)
                .map_or(Vec::new(), |[local, remote]| address::tuple(&local, &remote)),
        ),
        From(argument) => out.bytes(
            &tuple(call, argument, facts)
                .map_or(Vec::new(), |[local, remote]| address::tuple(&remote, &local)),
        ),
        Accepted => out.bytes(&accepted(call, facts)),
        Bpf => {
            let gives_fd = BPF_GIVE_FDS.contains(&arguments[0]) && result >= 0;
            let which = if gives_fd { BPF_FD } else { BPF_RESULT };
            out.bytes(&[&[which][..], &result.to_le_bytes()].concat());
        }
        Executed => process::executed(out, call, facts.task(call.enter.task).as_ref()),
        Cloned => process::cloned(out, call, facts.task(call.enter.task).as_ref()),
    }
}

fn moved(call: &Traced, argument: u8) -> u32 {
    // A read has filled what it says; of a write the buffers are told.
    if let Some(result) = call.result {
        return u32::try_from(result).unwrap_or(0);
    }
    let of =
        call.enter.chunks.iter().filter(|chunk| chunk.argument == argument && chunk.index != MESSAGE_ADDRESS);
    of.fold(0u32, |sum, chunk| sum.saturating_add(u32::try_from(chunk.length).unwrap_or(u32::MAX)))
}

/// Flags and mode of a `struct open_how` (openat2(2)), or zeros.
fn how(call: &Traced, argument: u8) -> [u64; 2] {
    let bytes = call.named(argument).map_or(&[][..], |chunk| &chunk.bytes);
    [0, 8].map(|at| {
        bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
    })
}

/// The address that this argument names, or the message of it.
fn address(call: &Traced, argument: u8) -> Option<Address> {
    let letter = call.call()?.arguments.as_bytes().get(usize::from(argument))?;
    let index = if matches!(letter, b'm' | b'M') { MESSAGE_ADDRESS } else { 0 };
    let chunks = || call.after.iter().chain(&call.enter.chunks);
    let chunk = chunks()
        .find(|chunk| chunk.argument == argument && chunk.index == index && !chunk.bytes.is_empty())?;
    address::parse(&chunk.bytes)
}

/// The socket's end and the other one.
fn tuple(call: &Traced, argument: u8, facts: &dyn Facts) -> Option<[Address; 2]> {
    let remote = address(call, argument)?;
    Some([local(call.enter.task, call.arguments()[0], &remote, facts), remote])
}

/// The socket's own end; nowhere if it was closed before somebody looked.
fn local(task: u64, fd: u64, remote: &Address, facts: &dyn Facts) -> Address {
    let Address::Internet(_) = remote else {
        return address::nowhere(remote);
    };
    let socket = facts.socket(task, fd as u32);
    socket.and_then(|socket| socket.local).map_or_else(|| address::nowhere(remote), Address::Internet)
}

fn accepted(call: &Traced, facts: &dyn Facts) -> Vec<u8> {
    let Some(fd) = call.result.and_then(|result| u32::try_from(result).ok()) else {
        return Vec::new();
    };
    // Who asks for no address is told none; the kernel knows it all the same.
    let socket = facts.socket(call.enter.task, fd);
    let ends = socket.as_ref().and_then(|socket| Some((socket.remote?, socket.local?)));
    match (ends, address(call, 1)) {
        (Some((remote, local)), _) => address::tuple(&Address::Internet(remote), &Address::Internet(local)),
        (None, Some(remote)) => {
            let path = socket.and_then(|socket| socket.path);
            let local =
                path.map_or_else(|| address::nowhere(&remote), |path| Address::Unix(path.into_bytes()));
            address::tuple(&remote, &local)
        }
        (None, None) => Vec::new(),
    }
}
