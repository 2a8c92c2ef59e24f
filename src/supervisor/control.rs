//! The control socket of one domain process, from the supervisor's side: requests one at a time, and what it says unasked.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// The longest line that a domain process may send; the longest answer is a saved state, with a xenstore that the guest has filled. A domain process
/// is one that a guest may have broken into, so it is not trusted to end its lines.
const LINE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// How long an answer may take; pausing waits for vcpus and backends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a domain process says unasked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Notice {
    /// Its first vcpu runs, or waits to be unpaused.
    Started {
        /// Where its process has RAM mapped.
        ram_address: u64,
    },
    /// The domain ended.
    Exit {
        /// How.
        reason: ExitReason,
        /// More about it.
        #[serde(default)]
        detail: Value,
    },
}

/// How a domain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    /// The guest powered off.
    Poweroff,
    /// The guest wants to start anew.
    Reboot,
    /// The guest's kernel crashed, or lied.
    Crash,
    /// The guest suspended; nobody asked it to, so it counts as powered off.
    Suspend,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The domain process refused, with this sentence.
    #[error("{0}")]
    Refused(String),
    /// It did not answer in time.
    #[error("the domain's process did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// It is gone.
    #[error("the domain's process is gone")]
    Gone,
}

/// The supervisor's end.
pub struct Control {
    channel: Mutex<Requests>,
}

// Locked over a whole request, so that answers meet their questions.
struct Requests {
    socket: UnixStream,
    answers: Receiver<Value>,
    // Answers that came too late are still to come before ours.
    late: usize,
}

impl Control {
    /// Takes the socket and a reader of its lines; `reader` must run in a thread of its own until the socket ends.
    pub fn new(socket: UnixStream) -> io::Result<(Control, ControlReader)> {
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let reading = socket.try_clone()?;
        let (sender, answers) = channel();
        let control = Control { channel: Mutex::new(Requests { socket, answers, late: 0 }) };
        Ok((control, ControlReader { socket: reading, answers: sender }))
    }

    /// One request without arguments: `pause`, `info`, ...
    pub fn request(&self, op: &str) -> Result<Value, ControlError> {
        self.send(&json!({ "op": op }))
    }

    /// One request.
    pub fn send(&self, request: &Value) -> Result<Value, ControlError> {
        let mut requests = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{request}\n");
        requests.socket.write_all(line.as_bytes()).map_err(|_| ControlError::Gone)?;
        loop {
            match requests.answers.recv_timeout(ANSWER_TIMEOUT) {
                Ok(_) if requests.late > 0 => requests.late -= 1,
                Ok(answer) => return read_answer(&answer),
                Err(RecvTimeoutError::Timeout) => {
                    requests.late += 1;
                    return Err(ControlError::Timeout);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ControlError::Gone),
            }
        }
    }
}

fn read_answer(answer: &Value) -> Result<Value, ControlError> {
    match (answer.get("ok"), answer.get("error").and_then(Value::as_str)) {
        (Some(ok), _) => Ok(ok.clone()),
        (None, Some(error)) => Err(ControlError::Refused(error.to_owned())),
        (None, None) => Err(ControlError::Refused(format!("the domain's process answered {answer}"))),
    }
}

/// Reads what the domain process sends.
pub struct ControlReader {
    socket: UnixStream,
    answers: Sender<Value>,
}

impl ControlReader {
    /// Reads to the socket's end; each notice goes to `notice`.
    pub fn run(self, mut notice: impl FnMut(Notice)) {
        let mut reader = BufReader::new(self.socket);
        let mut line = Vec::new();
        loop {
            line.clear();
            match io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            match serde_json::from_slice::<Value>(&line) {
                Ok(value) if value.get("event").is_some() => match serde_json::from_value(value) {
                    Ok(told) => notice(told),
                    Err(error) => tracing::warn!(%error, "a domain process sent an event that is none"),
                },
                Ok(value) => {
                    // Nobody may be listening any more; then the answer is of no use to anyone.
                    let _ = self.answers.send(value);
                }
                Err(error) => tracing::warn!(%error, "a domain process sent a line that is not JSON"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Control, UnixStream, Receiver<Notice>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (control, reader) = Control::new(ours).unwrap();
        let (sender, notices) = channel();
        std::thread::spawn(move || reader.run(|notice| drop(sender.send(notice))));
        (control, theirs, notices)
    }

    #[test]
    fn answers_and_notices_are_told_apart() {
        let (control, mut theirs, notices) = pair();
        theirs
            .write_all(b"{\"event\":\"started\",\"ram_address\":4096}\nnonsense\n{\"event\":\"dance\"}\n{\"ok\":{\"a\":1}}\n")
            .unwrap();
        theirs
            .write_all(
                b"{\"event\":\"exit\",\"reason\":\"crash\",\"detail\":\"panic\"}\n{\"error\":\"no\"}\n",
            )
            .unwrap();
        assert_eq!(control.request("info").unwrap(), json!({"a": 1}));
        assert_eq!(control.request("pause").unwrap_err().to_string(), "no");
        assert_eq!(notices.recv().unwrap(), Notice::Started { ram_address: 4096 });
        assert_eq!(
            notices.recv().unwrap(),
            Notice::Exit { reason: ExitReason::Crash, detail: json!("panic") }
        );
    }

    #[test]
    fn a_request_to_a_process_that_is_gone_says_so() {
        let (control, theirs, _notices) = pair();
        drop(theirs);
        assert_eq!(control.request("info").unwrap_err().to_string(), "the domain's process is gone");
    }
}
