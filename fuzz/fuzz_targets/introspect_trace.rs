//! What a guest may have written to its trace: records are parsed, joined, printed and put into a capture without a panic, and what servers
//! tell each other, what programs are told that ask for passwords, and what is said at an FTP server is read.
#![no_main]

use introspect::session::ftp::{Cut, Dialog};
use introspect::session::password::{Place, Prompts};
use introspect::session::privsep::Stream;
use introspect::trace::pairing::Pairing;
use introspect::trace::record::{self, HEAD_BYTES};
use introspect::trace::scap::{Capture, Facts, Machine};
use introspect::trace::selection::Selection;
use introspect::trace::strace;
use introspect::walk::sockets::Socket;
use introspect::walk::task::Task;

/// Nothing but the trace is seen.
struct Blind;

impl Facts for Blind {
    fn task(&self, _: u64) -> Option<Task> {
        None
    }
    fn socket(&self, _: u64, _: u32) -> Option<Socket> {
        None
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut pairing = Pairing::default();
    let mut stream = Stream::default();
    let (mut capture, mut out) = Capture::begin(&Machine::default(), Selection::default_set());
    let (mut prompts, mut dialog) = (Prompts::default(), Dialog::default());
    let mut rest = bytes;
    while rest.len() >= HEAD_BYTES {
        // A length that fits, for no chance would find one: what is behind the head is the input's own.
        let length = HEAD_BYTES + usize::from(rest[0]) % 64 * 8;
        let Some((one, after)) = rest.split_at_checked(length) else { break };
        let mut one = one.to_vec();
        one[..4].copy_from_slice(&(length as u32).to_le_bytes());
        one[4] = 1 + (one[4] & 1);
        if let Ok(record) = record::parse(&one) {
            // Few processes, so that one is met again.
            let pid = record.tgid % 4;
            for chunk in &record.chunks {
                stream.take(&chunk.bytes);
                dialog.heard(&chunk.bytes, if chunk.cut { Cut::Yes } else { Cut::No });
                dialog.answered(&chunk.bytes);
                let argv = [record.comm.clone(), String::from_utf8_lossy(&chunk.bytes).into_owned()];
                match chunk.argument {
                    0 => drop(prompts.executed(pid, ["su", "sudo", "login"][record.uid as usize % 3], &argv)),
                    1 => drop(prompts.read(pid, Place::Terminal, &chunk.bytes)),
                    2 => drop(prompts.read(pid, Place::Standard, &chunk.bytes)),
                    3 => drop(prompts.wrote(pid, &chunk.bytes)),
                    4 => prompts.terminal_set(pid, &chunk.bytes),
                    5 => prompts.forked(pid, record.pid % 8),
                    _ => drop(prompts.exited(pid, Some(record.vcpu.cast_signed()))),
                }
            }
            capture.enter(&record, record.time_ns, &Blind);
            if let Some(call) = pairing.take(record) {
                capture.exit(&call, call.enter.time_ns, &Blind);
                let _ = (strace::line(&call), strace::json(&call));
            }
        }
        capture.release(&mut out);
        rest = after;
    }
    let _ = record::parse(bytes);
});
