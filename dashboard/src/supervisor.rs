//! The supervisor's socket for the dashboard: one request a connection, one line back, and never longer than the asker can wait.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

/// Longest answer; the report of a FIM check names every file that differs.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Requests under way at one time, long ones included.
const REQUESTS_MAX: usize = 12;
/// How long a look at the house may take.
pub const LOOK: Duration = Duration::from_secs(3);
/// How long a domain may take to stop or go on.
pub const ACT: Duration = Duration::from_secs(15);
/// How long a case or a check may take: a disk of a hundred gigabytes at a hundred megabytes a second.
pub const TAKE: Duration = Duration::from_secs(30 * 60);

/// Why the supervisor did not do it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not there.
    #[error("the supervisor does not take requests")]
    Away(#[source] io::Error),
    /// It does not answer.
    #[error("the supervisor does not answer after {seconds} s")]
    Slow {
        /// How long it was waited for.
        seconds: u64,
    },
    /// It said no, in one sentence.
    #[error("{sentence}")]
    Refused {
        /// The sentence.
        sentence: String,
        /// The exit code that the command line would end with.
        code: u64,
    },
    /// Its answer is none.
    #[error("the supervisor's answer is not understood")]
    Answer,
}

/// The socket.
#[derive(Debug)]
pub struct Supervisor {
    path: PathBuf,
    requests: Semaphore,
}

impl Supervisor {
    /// At this path; nothing is opened yet.
    pub fn new(path: PathBuf) -> Supervisor {
        Supervisor { path, requests: Semaphore::new(REQUESTS_MAX) }
    }

    /// One request; answers what is under `ok`.
    pub async fn ask(&self, request: &Value, limit: Duration) -> Result<Value, AskError> {
        let slow = AskError::Slow { seconds: limit.as_secs() };
        tokio::time::timeout(limit, self.exchange(request)).await.unwrap_or(Err(slow))
    }

    async fn exchange(&self, request: &Value) -> Result<Value, AskError> {
        // The semaphore is never closed.
        let _permit = self.requests.acquire().await.map_err(|_| AskError::Answer)?;
        let socket = UnixStream::connect(&self.path).await.map_err(AskError::Away)?;
        let mut socket = BufReader::new(socket);
        let line = format!("{request}\n");
        socket.get_mut().write_all(line.as_bytes()).await.map_err(AskError::Away)?;
        let mut answer = Vec::new();
        let mut limited = (&mut socket).take(ANSWER_BYTES_MAX);
        limited.read_until(b'\n', &mut answer).await.map_err(AskError::Away)?;
        if answer.is_empty() {
            return Err(AskError::Away(io::ErrorKind::UnexpectedEof.into()));
        }
        read(&answer)
    }
}

fn read(answer: &[u8]) -> Result<Value, AskError> {
    let mut answer: Value = serde_json::from_slice(answer).map_err(|_| AskError::Answer)?;
    if let Some(ok) = answer.get_mut("ok") {
        return Ok(ok.take());
    }
    let sentence = answer["error"].as_str().ok_or(AskError::Answer)?;
    Err(AskError::Refused { sentence: sentence.to_owned(), code: answer["code"].as_u64().unwrap_or(1) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::net::UnixListener;

    /// A supervisor that answers each connection with these bytes, or says nothing.
    fn serve(listener: UnixListener, answer: Option<&'static [u8]>) {
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                match answer {
                    Some(answer) => socket.write_all(answer).await.unwrap(),
                    None => held.push(socket),
                }
            }
        });
    }

    async fn ask(answer: Option<&'static [u8]>) -> Result<Value, AskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        serve(UnixListener::bind(&path).unwrap(), answer);
        Supervisor::new(path).ask(&json!({ "op": "list" }), Duration::from_millis(200)).await
    }

    #[tokio::test]
    async fn an_answer_is_what_is_under_ok() {
        assert_eq!(ask(Some(b"{\"ok\":[1]}\n")).await.unwrap(), json!([1]));
    }

    #[tokio::test]
    async fn a_refusal_is_its_sentence() {
        let error = ask(Some(b"{\"error\":\"there is no domain x\",\"code\":3}\n")).await.unwrap_err();
        assert!(matches!(&error, AskError::Refused { code: 3, .. }), "{error:?}");
        assert_eq!(error.to_string(), "there is no domain x");
    }

    #[tokio::test]
    async fn a_supervisor_that_says_nothing_is_not_waited_for() {
        assert!(matches!(ask(None).await, Err(AskError::Slow { .. })));
    }

    #[tokio::test]
    async fn nonsense_and_silence_are_errors() {
        for answer in [&b"\n"[..], b"[]\n", b"{}\n", b"{\"error\":1}\n", b"\xff\n"] {
            assert!(matches!(ask(Some(answer)).await, Err(AskError::Answer)), "{answer:?}");
        }
        assert!(matches!(ask(Some(b"")).await, Err(AskError::Away(_))));
        let nowhere = Supervisor::new("/nonexistent/s".into());
        assert!(matches!(nowhere.ask(&json!({}), LOOK).await, Err(AskError::Away(_))));
    }
}
