//! The control socket of a domain's process: one JSON request a line, one JSON answer a line, and what is said unasked.
//!
//! The other end is the supervisor, which is trusted; a line that is no request is refused all the same.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::dirty::LogRequest;
use crate::hypercall::ShutdownReason;
use crate::machine::Handle;
use crate::run_loop::{End, VcpuSnapshot};
use crate::shim::{Backend, COUNT_NAMES, Register};

/// A request is a word; nothing that long is one.
const LINE_BYTES_MAX: u64 = 4096;
/// Selectors of a guest kernel and of its programs, as Xen and Linux have them (arch-x86/xen-x86_64.h, asm/segment.h).
const KERNEL_CS_SS: (u16, u16) = (0xe033, 0xe02b);
const USER_CS_SS: (u16, u16) = (0x33, 0x2b);

/// What the supervisor may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Request {
    Pause,
    Unpause,
    Info,
    Shutdown,
    Reboot,
    Destroy,
    XenstoreLs,
    Save,
    VcpuSet { vcpus: u32 },
    DirtyLog { what: LogRequest },
}

/// The socket's writing end. Clones share it; a line goes out whole.
#[derive(Clone)]
pub struct Voice(Arc<Mutex<UnixStream>>);

impl Voice {
    /// Over this socket.
    pub fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// The first vcpu is about to run, with RAM mapped at this address of our process.
    pub fn started(&self, ram_address: u64) -> io::Result<()> {
        self.line(&json!({ "event": "started", "ram_address": ram_address }))
    }

    /// The domain ended. Nothing is said of an end that was asked for.
    pub fn ended(&self, end: &End) -> io::Result<()> {
        let (reason, detail) = match end {
            End::Stopped => return Ok(()),
            End::Crash(how) => ("crash", how.as_str()),
            End::Shutdown(ShutdownReason::Poweroff) => ("poweroff", ""),
            End::Shutdown(ShutdownReason::Reboot) => ("reboot", ""),
            End::Shutdown(ShutdownReason::Suspend) => ("suspend", ""),
            End::Shutdown(ShutdownReason::Crash) => ("crash", "the guest's kernel reported a crash"),
            End::Shutdown(ShutdownReason::Watchdog) => ("crash", "the guest's watchdog rang"),
        };
        self.line(&json!({ "event": "exit", "reason": reason, "detail": detail }))
    }

    fn line(&self, value: &Value) -> io::Result<()> {
        let text = format!("{value}\n");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes())
    }
}

/// Serves requests to the socket's end. Who waits at `gone` hears that the domain is to be destroyed, or that nobody asks any more.
pub fn serve(socket: UnixStream, voice: &Voice, handle: &Handle, gone: &Sender<()>) -> io::Result<()> {
    let mut reader = BufReader::new(socket);
    let mut line = Vec::new();
    loop {
        line.clear();
        if Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => {
                if request == Request::Destroy {
                    // Nobody waits while the domain lives.
                    let _ = gone.send(());
                }
                answer(request, handle)
            }
            Err(error) => Err(format!("the request is not understood: {error}")),
        };
        voice.line(&match answer {
            Ok(ok) => json!({ "ok": ok }),
            Err(error) => json!({ "error": error }),
        })?;
    }
}

fn answer(request: Request, handle: &Handle) -> Result<Value, String> {
    let ask =
        |what| handle.ask(what).map(|()| json!({})).map_err(|error| format!("xenstore refuses: {error}"));
    match request {
        Request::Pause => Ok(json!({ "vcpus": handle.pause().iter().map(registers).collect::<Vec<_>>() })),
        Request::Unpause => {
            handle.unpause();
            Ok(json!({}))
        }
        Request::Info => Ok(info(handle)),
        Request::Shutdown => ask("poweroff"),
        Request::Reboot => ask("reboot"),
        Request::Destroy => {
            handle.destroy();
            Ok(json!({}))
        }
        Request::VcpuSet { vcpus } => {
            handle.set_vcpus(vcpus).map(|()| json!({})).map_err(|error| error.to_string())
        }
        Request::DirtyLog { what } => {
            handle.log_writes(what).map(|()| json!({})).map_err(|error| events::sentence(&error))
        }
        Request::XenstoreLs => Ok(json!(handle.store().dump())),
        Request::Save => {
            let state = handle.save().map_err(|error| error.to_string())?;
            serde_json::to_value(state).map_err(|error| error.to_string())
        }
    }
}

/// Under the names that a dump has for them.
fn registers(vcpu: &VcpuSnapshot) -> Value {
    const NAMES: [(&str, Register); 18] = [
        ("rax", Register::Rax),
        ("rbx", Register::Rbx),
        ("rcx", Register::Rcx),
        ("rdx", Register::Rdx),
        ("rsi", Register::Rsi),
        ("rdi", Register::Rdi),
        ("rsp", Register::Rsp),
        ("rbp", Register::Rbp),
        ("r8", Register::R8),
        ("r9", Register::R9),
        ("r10", Register::R10),
        ("r11", Register::R11),
        ("r12", Register::R12),
        ("r13", Register::R13),
        ("r14", Register::R14),
        ("r15", Register::R15),
        ("rip", Register::Rip),
        ("rflags", Register::Rflags),
    ];
    let (cs, ss) = if vcpu.kernel_mode { KERNEL_CS_SS } else { USER_CS_SS };
    let mut all: serde_json::Map<String, Value> = NAMES
        .iter()
        .map(|(name, register)| ((*name).to_owned(), json!(vcpu.registers[*register as usize])))
        .collect();
    let [fs_base, gs_base] = vcpu.bases;
    // The kernel's table maps the program as well, so it is the one to read memory with.
    for (name, value) in [
        ("cs", cs.into()),
        ("ss", ss.into()),
        ("fs_base", fs_base),
        ("gs_base", gs_base),
        ("cr3", vcpu.kernel_cr3),
    ] {
        all.insert(name.to_owned(), json!(value));
    }
    Value::Object(all)
}

fn info(handle: &Handle) -> Value {
    let backend = match handle.backend() {
        Backend::Pvm => "pvm",
        Backend::Hardware => "hardware",
    };
    let vcpus: Vec<Value> = handle
        .shim_counts()
        .iter()
        .map(|counts| {
            COUNT_NAMES.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), json!(count))).collect()
        })
        .collect();
    let up = handle.vcpus_up();
    let devices: serde_json::Map<String, Value> = handle
        .device_counts()
        .into_iter()
        .map(|(name, counts)| {
            (
                name.to_owned(),
                counts.into_iter().map(|(name, count)| (name.to_owned(), json!(count))).collect(),
            )
        })
        .collect();
    json!({
        "kvm": backend,
        "system_time_s": handle.now_ns() as f64 / 1e9,
        "vcpus": up.iter().filter(|up| **up).count(),
        "maxvcpus": up.len(),
        "vcpus_up": up,
        "shim": vcpus,
        "devices": devices,
        "xenstore_events_dropped": handle.store().dropped_events(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_refused() {
        let parse = |text: &str| serde_json::from_str::<Request>(text).ok();
        assert_eq!(parse(r#"{"op":"xenstore-ls"}"#), Some(Request::XenstoreLs));
        assert_eq!(parse(r#"{"op":"vcpu-set","vcpus":2}"#), Some(Request::VcpuSet { vcpus: 2 }));
        let collect = Request::DirtyLog { what: LogRequest::Collect };
        assert_eq!(parse(r#"{"op":"dirty-log","what":"collect"}"#), Some(collect));
        for wrong in [
            r#"{"op":"dirty-log","what":"dance"}"#,
            r#"{"op":"vcpu-set"}"#,
            r#"{"op":"vcpu-set","vcpus":-1}"#,
            "",
            "pause",
            r#"{"op":"dance"}"#,
            r#"{"op":["pause"]}"#,
            "[]",
            "null",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn registers_are_named_in_their_own_order() {
        let vcpu = VcpuSnapshot {
            registers: std::array::from_fn(|i| i as u64),
            kernel_cr3: 99,
            ..VcpuSnapshot::default()
        };
        let named = registers(&vcpu);
        let expected =
            [("rax", 0), ("rsp", 6), ("r15", 15), ("rip", 16), ("rflags", 17), ("cr3", 99), ("cs", 0x33)];
        assert!(expected.iter().all(|(name, value)| named[*name] == *value), "{named}");
    }

    #[test]
    fn an_end_that_was_asked_for_is_not_announced() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let voice = Voice::new(theirs);
        voice.ended(&End::Stopped).unwrap();
        voice.ended(&End::Crash("broken".to_owned())).unwrap();
        drop(voice);
        let mut said = String::new();
        (&ours).read_to_string(&mut said).unwrap();
        assert_eq!(said, "{\"detail\":\"broken\",\"event\":\"exit\",\"reason\":\"crash\"}\n");
    }
}
