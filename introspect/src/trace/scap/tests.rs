//! Captures are read back here by the format's rules alone; that sysdig reads them too is shown by the whole program's tests.

use std::collections::HashSet;

use honeyvmm::memory::Gva;

use super::block::{self, block, whole_blocks};
use super::parameters::{DATA_BYTES_MAX, Parameters, STRINGS_BYTES_MAX, Shown, Stamp, TEXT_BYTES_MAX};
use super::preface::preface;
use super::{Capture, Facts, Machine, table};
use crate::trace::calls::{self, CALLS};
use crate::trace::pairing::Traced;
use crate::trace::record::{Chunk, Phase, Record};
use crate::trace::selection::Selection;
use crate::walk::files::{Access, FileType, OpenFile};
use crate::walk::sockets::{Endpoint, Owner, Socket};
use crate::walk::task::{Rights, Task};

/// A reader's buffer for an event (`READER_BUF_SIZE` of `userspace/libscap/scap-int.h`).
const READER_BYTES: usize = 65_536;
const HOSTILE: &[u8] = b"\xff\xfe\x1b[2J%n\n\0after";

/// Blocks as type and contents with their padding.
fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut blocks = Vec::new();
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    while !bytes.is_empty() {
        let length = word(bytes, 4) as usize;
        assert!(length.is_multiple_of(4) && word(bytes, length - 4) as usize == length);
        blocks.push((word(bytes, 0), bytes[8..length - 4].to_vec()));
        bytes = &bytes[length..];
    }
    blocks
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    kind: u16,
    tid: u64,
    time_ns: u64,
    hidden: bool,
    parameters: Vec<Vec<u8>>,
}

/// Events of these bytes, which are nothing else.
fn events(bytes: &[u8]) -> Vec<Event> {
    blocks(bytes).into_iter().map(|(kind, contents)| event(kind, &contents)).collect()
}

fn event(block_type: u32, contents: &[u8]) -> Event {
    let hidden = block_type == block::EVENT_WITH_FLAGS;
    assert!(hidden || block_type == block::EVENT);
    let event = &contents[if hidden { 6 } else { 2 }..];
    assert!(contents.len() + 4 <= READER_BYTES);
    let word = |at: usize, bytes: usize| {
        event[at..at + bytes].iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
    };
    let (length, count) = (word(16, 4) as usize, word(22, 4) as usize);
    let mut at = 26 + 2 * count;
    let parameters = (0..count).map(|index| {
        let bytes = word(26 + 2 * index, 2) as usize;
        at += bytes;
        event[at - bytes..at].to_vec()
    });
    let parameters = parameters.collect();
    assert!(at == length && event.len() - length < 4 && event[length..].iter().all(|byte| *byte == 0));
    Event { kind: word(20, 2) as u16, tid: word(8, 8), time_ns: word(0, 8), hidden, parameters }
}

/// A guest of which nothing can be seen.
struct Blind;

impl Facts for Blind {
    fn task(&self, _: u64) -> Option<Task> {
        None
    }
    fn socket(&self, _: u64, _: u32) -> Option<Socket> {
        None
    }
}

/// One where every task is this one, and every descriptor this socket.
struct Seen(Task, Socket);

impl Facts for Seen {
    fn task(&self, _: u64) -> Option<Task> {
        Some(self.0.clone())
    }
    fn socket(&self, _: u64, _: u32) -> Option<Socket> {
        Some(self.1.clone())
    }
}

fn task(pid: u32, tgid: u32, text: &str) -> Task {
    Task {
        at: Gva(0),
        pid,
        tgid,
        ppid: 1,
        sid: tgid,
        pgid: tgid,
        comm: text.to_owned(),
        state: 'S',
        kernel_thread: false,
        start_ns: 0,
        rights: Rights::default(),
        exe: Some(text.to_owned()),
        command_line: vec![text.to_owned(); 3],
        cwd: Some(text.to_owned()),
        tty: Some("pts/300".to_owned()),
    }
}

fn socket(pid: u32) -> Socket {
    let end = |address: [u8; 4], port| Some(Endpoint { address: address.into(), port });
    Socket {
        protocol: "tcp",
        local: end([10, 0, 0, 2], 22),
        remote: end([10, 0, 0, 9], 40_000),
        state: "ESTABLISHED",
        receive_queue: 0,
        send_queue: 0,
        inode: 7,
        path: None,
        owners: vec![Owner { pid, comm: "sshd".to_owned(), fd: 4 }],
    }
}

fn file(fd: u32, file_type: FileType, name: &str) -> OpenFile {
    OpenFile {
        at: Gva(0),
        inode_at: Gva(0),
        fd,
        file_type,
        access: Access::Read,
        flags: 0,
        position: 0,
        size: 0,
        inode: 7,
        on_device: (202, 0),
        device: None,
        name: name.to_owned(),
    }
}

fn chunk(argument: u8, index: u16, bytes: &[u8]) -> Chunk {
    let length = bytes.len() as u64;
    Chunk { argument, index, cut: false, faulted: false, length, bytes: bytes.to_vec() }
}

/// Thread 8 of process 7 makes this call at this time.
fn record(name: &str, time_ns: u64, arguments: [u64; 6], chunks: Vec<Chunk>) -> Record {
    Record {
        phase: Phase::Enter(arguments),
        compat: false,
        kind: None,
        file: 0,
        number: calls::by_name(name).unwrap().number,
        time_ns,
        seq: 1,
        task: 0,
        pid: 8,
        tgid: 7,
        uid: 0,
        vcpu: 0,
        comm: "sh".to_owned(),
        chunks,
    }
}

fn ended(enter: Record, result: i64) -> Traced {
    Traced { enter, result: Some(result), duration_ns: 5, after: Vec::new(), comm: "sh".to_owned() }
}

fn capture(shown: &str) -> Capture {
    let tasks = vec![task(7, 7, "sh"), task(8, 7, "sh")];
    Capture::begin(&Machine { tasks, ..Machine::default() }, Selection::named(shown).unwrap()).0
}

/// All that it has.
fn released(capture: &mut Capture) -> Vec<Event> {
    let mut bytes = Vec::new();
    capture.release(&mut bytes);
    capture.release(&mut bytes);
    assert_eq!(capture.pending_bytes(), 0);
    events(&bytes)
}

#[test]
fn a_block_is_padded_and_ends_with_its_length() {
    for length in 0..9 {
        let bytes = block(block::EVENT, &vec![0xaa; length]);
        assert_eq!(bytes.len(), 12 + length.next_multiple_of(4));
        assert_eq!(blocks(&bytes).len(), 1);
    }
}

#[test]
fn whole_blocks_end_where_the_next_is_cut() {
    let bytes = [block(1, b"abc"), block(2, b"")].concat();
    for cut in 0..=bytes.len() {
        let expected =
            [(28, 28), (16, 16)].into_iter().find(|(end, _)| cut >= *end).map_or(0, |(_, whole)| whole);
        assert_eq!(whole_blocks(&bytes[..cut]), Some(expected), "{cut}");
    }
    assert_eq!(whole_blocks(&[0; 8]), None);
    assert_eq!(whole_blocks(&[0xff; 64]), Some(0));
}

#[test]
fn parameters_are_cut_to_what_a_reader_takes() {
    let long = vec![b'a'; 100_000];
    let mut parameters = Parameters::default();
    parameters.text(&long);
    parameters.strings([&long[..], b"next"]);
    parameters.strings([&b"first"[..], &long]);
    parameters.bytes(&long);
    parameters.text(HOSTILE);
    let bytes = parameters.event(3, Stamp { time_ns: 1, tid: 2, vcpu: 3 }, Shown::Yes);
    let lengths: Vec<usize> = events(&bytes)[0].parameters.iter().map(Vec::len).collect();
    assert_eq!(lengths, [TEXT_BYTES_MAX, STRINGS_BYTES_MAX, 6, DATA_BYTES_MAX, 10]);
}

#[test]
fn any_call_of_any_guest_makes_events_that_can_be_read() {
    // Longer than any string may be; `parameters_are_cut_to_what_a_reader_takes` has what is longer than any event.
    let long = vec![0xff; 2 * STRINGS_BYTES_MAX];
    let letters = calls::CALLS.iter().map(|call| call.arguments.len()).max().unwrap() as u8;
    for compat in [false, true] {
        for fill in [&[][..], HOSTILE, &[2, 0], &[1, 0, 0, 65], &[10; 40], &long] {
            let indices = [0, 1, 255, 7];
            let all = || (0..=letters).flat_map(|argument| indices.map(|index| chunk(argument, index, fill)));
            for (number, arguments) in
                (0..=u16::from(u8::MAX) * 2).zip([[0; 6], [u64::MAX; 6]].into_iter().cycle())
            {
                for facts in [&Blind as &dyn Facts, &Seen(task(8, 7, "\0\u{1b}"), socket(8))] {
                    let mut capture = capture("all");
                    let mut enter = record("read", 10, arguments, all().collect());
                    (enter.number, enter.compat) = (number, compat);
                    capture.enter(&enter, 10, facts);
                    for result in [Some(i64::MIN), Some(-1), Some(3), Some(i64::MAX), None] {
                        let call = Traced { after: all().collect(), result, ..ended(enter.clone(), 0) };
                        capture.exit(&call, 15, facts);
                    }
                    assert!(!released(&mut capture).is_empty());
                }
            }
        }
    }
}

#[test]
fn rows_are_of_calls_that_there_are() {
    let names: HashSet<&str> = CALLS.iter().map(|call| call.name).collect();
    let mut seen = HashSet::new();
    for row in &table::ROWS {
        assert!(
            names.contains(row.call()) && seen.insert(row.call()) && row.enter.is_multiple_of(2),
            "{row:?}"
        );
    }
}

#[test]
fn a_call_is_a_beginning_and_an_end() {
    let mut capture = capture("openat");
    let cwd = u64::from(-100i32 as u32);
    let enter = record("openat", 10, [cwd, 1, 0o101, 0o644, 0, 0], vec![chunk(1, 0, b"/etc/x")]);
    capture.enter(&enter, 10, &Blind);
    capture.exit(&ended(enter, 3), 15, &Blind);
    let seen = released(&mut capture);
    let at: Vec<_> = seen.iter().map(|event| (event.kind, event.tid, event.time_ns, event.hidden)).collect();
    assert_eq!(at, [(306, 8, 10, false), (307, 8, 15, false)]);
    let flags = 6u32.to_le_bytes().to_vec();
    let mode = 0o644u32.to_le_bytes().to_vec();
    let of_cwd = (-100i64).to_le_bytes().to_vec();
    assert_eq!(seen[0].parameters, [of_cwd.clone(), b"/etc/x\0".to_vec(), flags.clone(), mode.clone()]);
    let result = 3i64.to_le_bytes().to_vec();
    assert_eq!(seen[1].parameters, [result, of_cwd, b"/etc/x\0".to_vec(), flags, mode, vec![0; 4]]);
}

#[test]
fn a_beginning_whose_path_was_not_in_memory_waits_for_the_end() {
    let mut capture = capture("open");
    let late = Chunk { faulted: true, ..chunk(0, 0, b"") };
    let enter = record("open", 10, [1, 0, 0, 0, 0, 0], vec![late]);
    capture.enter(&enter, 10, &Blind);
    assert_eq!(capture.pending_bytes(), 0);
    capture.exit(&Traced { after: vec![chunk(0, 0, b"/x")], ..ended(enter, -2) }, 15, &Blind);
    let seen = released(&mut capture);
    assert_eq!(seen.iter().map(|event| (event.kind, event.time_ns)).collect::<Vec<_>>(), [(2, 10), (3, 15)]);
    assert_eq!((&seen[0].parameters[0], &seen[1].parameters[1]), (&b"/x\0".to_vec(), &b"/x\0".to_vec()));
}

#[test]
fn a_call_without_an_event_of_its_own_tells_its_number() {
    let mut capture = capture("all");
    let enter = record("capset", 10, [0; 6], Vec::new());
    capture.enter(&enter, 10, &Blind);
    capture.exit(&ended(enter, 0), 15, &Blind);
    let seen = released(&mut capture);
    let native = calls::by_name("capset").unwrap().number;
    assert_eq!((seen[0].kind, seen[1].kind, &seen[0].parameters[1]), (0, 1, &native.to_le_bytes().to_vec()));
    assert_eq!(seen[0].parameters[0], seen[1].parameters[0]);
}

#[test]
fn execve_tells_what_the_process_has_become() {
    let mut capture = capture("execve");
    let chunks = vec![
        chunk(0, 0, b"/bin/ls"),
        chunk(1, 0, b"ls"),
        chunk(1, 1, b"-l"),
        chunk(2, 0, b"A=b"),
        chunk(2, 1, b"C=d"),
    ];
    let enter = record("execve", 10, [1, 1, 1, 0, 0, 0], chunks);
    capture.exit(&ended(enter.clone(), 0), 15, &Blind);
    capture.exit(&ended(enter, 0), 16, &Seen(task(8, 7, "ls"), socket(8)));
    let seen = released(&mut capture);
    assert_eq!((seen[0].kind, seen[0].parameters.len(), seen[1].parameters.len()), (293, 20, 20));
    let words = |event: &Event, places: [usize; 4]| places.map(|place| event.parameters[place].clone());
    let expected = [&b"ls\0"[..], b"-l\0", b"\0", b"A=b\0C=d\0"].map(<[u8]>::to_vec);
    assert_eq!(words(&seen[0], [1, 2, 6, 15]), expected);
    let expected = [&b"ls\0"[..], b"ls\0ls\0", b"ls\0", b"A=b\0C=d\0"].map(<[u8]>::to_vec);
    assert_eq!(words(&seen[1], [1, 2, 6, 15]), expected);
    // pts/300: minors have eight bits below the major, the others above it.
    assert_eq!(seen[1].parameters[16], 0x0010_882c_u32.to_le_bytes());
}

#[test]
fn a_new_thread_comes_back_from_clone_first() {
    let mut capture = capture("read");
    let mut enter = record("read", 10, [0; 6], Vec::new());
    (enter.pid, enter.tgid) = (30, 30);
    for time_ns in [10, 20] {
        capture.enter(&enter, time_ns, &Blind);
    }
    let kinds: Vec<_> = released(&mut capture).iter().map(|event| (event.kind, event.hidden)).collect();
    assert_eq!(kinds, [(223, true), (6, false), (6, false)]);
}

#[test]
fn exit_group_ends_every_thread_and_the_first_one_last() {
    let mut capture = capture("exit_group");
    let enter = record("exit_group", 10, [3, 0, 0, 0, 0, 0], Vec::new());
    capture.exit(&Traced { result: None, ..ended(enter, 0) }, 10, &Blind);
    let seen = released(&mut capture);
    assert_eq!(seen.iter().map(|event| (event.kind, event.tid)).collect::<Vec<_>>(), [(186, 8), (186, 7)]);
    assert_eq!(seen[0].parameters[..2], [0x300i64.to_le_bytes().to_vec(), 3i64.to_le_bytes().to_vec()]);
}

#[test]
fn events_leave_in_order_once_nothing_earlier_can_come() {
    let mut capture = capture("close");
    let mut out = Vec::new();
    let mut look = |times: &[u64]| {
        for time_ns in times {
            capture.enter(&record("close", *time_ns, [0; 6], Vec::new()), *time_ns, &Blind);
        }
        out.clear();
        capture.release(&mut out);
        events(&out).iter().map(|event| event.time_ns).collect::<Vec<_>>()
    };
    assert!(look(&[10, 30, 20]).is_empty());
    assert_eq!(look(&[25, 40]), [10, 20, 25, 30]);
    assert_eq!(look(&[]), [40]);
}

#[test]
fn addresses_are_whole_or_not_there() {
    let mut capture = capture("connect");
    let inet = [2, 0, 0, 80, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
    let unix = [&[1, 0][..], b"/run/x", &[0; 9]].concat();
    let seen = Seen(task(8, 7, "sh"), socket(8));
    for (address, facts) in
        [(&inet[..], &seen as &dyn Facts), (&inet, &Blind), (&unix, &Blind), (&inet[..7], &Blind)]
    {
        let enter = record("connect", 10, [4, 1, 16, 0, 0, 0], vec![chunk(1, 0, address)]);
        capture.exit(&ended(enter, 0), 15, facts);
    }
    let tuples: Vec<Vec<u8>> =
        released(&mut capture).into_iter().map(|event| event.parameters[1].clone()).collect();
    let remote = [10, 0, 0, 9, 80, 0];
    assert_eq!(tuples[0], [&[2][..], &[10, 0, 0, 2, 22, 0], &remote].concat());
    assert_eq!(tuples[1], [&[2][..], &[0; 6], &remote].concat());
    assert_eq!(tuples[2], [&[1][..], &[0; 16], b"/run/x\0"].concat());
    assert!(tuples[3].is_empty());
}

#[test]
fn what_is_missing_is_told() {
    let mut capture = capture("read");
    capture.lost(12, &record("read", 10, [0; 6], Vec::new()), 10);
    let seen = released(&mut capture);
    assert_eq!((seen[0].kind, &seen[0].parameters[0]), (280, &b"honeynet\0".to_vec()));
    assert!(seen[0].parameters[1].starts_with(b"12 events "));
}

#[test]
fn the_lists_at_the_beginning_can_be_read_whatever_names_are_in_them() {
    let long = "n".repeat(5000);
    for text in ["sh", "", "a\0b", long.as_str(), "\u{1b}[2J\u{fffd}"] {
        let types = [
            FileType::Regular,
            FileType::Directory,
            FileType::Fifo,
            FileType::Anonymous,
            FileType::Socket,
            FileType::Unknown,
        ];
        let files = types.into_iter().zip(0..).map(|(kind, fd)| file(fd, kind, text)).collect();
        let machine = Machine {
            name: text.to_owned(),
            vcpus: 2,
            memory_bytes: 1 << 28,
            tasks: vec![task(7, 7, text), task(8, 7, text)],
            // Nobody knows process 9: a reader would refuse what it has open.
            files: vec![(7, files), (9, vec![file(0, FileType::Regular, "x")])],
            sockets: vec![socket(7)],
        };
        let seen = blocks(&preface(&machine));
        let kinds: Vec<u32> = seen.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(
            kinds,
            [
                block::SECTION,
                block::MACHINE,
                block::INTERFACES,
                block::USERS,
                block::PROCESSES,
                block::DESCRIPTORS
            ]
        );
        assert_eq!((seen[0].1.len(), seen[1].1.len()), (16, 180));
        // Entries tell their length, its own four bytes included, and fill the block but for its padding.
        for (kind, first, count) in
            [(block::USERS, 0, 2), (block::PROCESSES, 0, 2), (block::DESCRIPTORS, 8, 6)]
        {
            let contents = &seen.iter().find(|(of, _)| *of == kind).unwrap().1;
            let (mut at, mut entries) = (first, 0);
            while contents.len() - at >= 4 {
                at += u32::from_le_bytes(contents[at..at + 4].try_into().unwrap()) as usize;
                entries += 1;
            }
            assert!(
                at <= contents.len() && entries == count,
                "{kind:#x}: {entries}, {at} of {}",
                contents.len()
            );
        }
    }
}

#[test]
fn a_guest_full_of_processes_does_not_fill_the_capture() {
    let long = "n".repeat(1000);
    let tasks: Vec<Task> = (1..20_000).map(|pid| task(pid, pid, &long)).collect();
    let files = tasks.iter().map(|task| (task.pid, vec![file(0, FileType::Regular, &long)])).collect();
    let bytes = preface(&Machine { tasks, files, ..Machine::default() });
    assert!(bytes.len() < 9 << 20);
    assert!(blocks(&bytes).len() > 100);
}
