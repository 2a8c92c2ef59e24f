//! Sources that wait for a clone, as netwatch tells of them: one channel, whichever netwatch is on its other side.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use netwatch::switch::Wanted;
use serde::Deserialize;

/// Sources that nobody has taken yet. When it is full the socket fills next, and netwatch tells again later.
const WANTED_MAX: usize = 64;
/// Bytes of a line; a pool's name is the longest part of it.
const LINE_BYTES_MAX: u64 = 4096;

/// The channel. Its receiver is given away once.
pub(super) struct WantedChannel {
    sender: SyncSender<Wanted>,
    receiver: Mutex<Option<Receiver<Wanted>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    wanted: Wanted,
}

impl Default for WantedChannel {
    fn default() -> WantedChannel {
        let (sender, receiver) = sync_channel(WANTED_MAX);
        WantedChannel { sender, receiver: Mutex::new(Some(receiver)) }
    }
}

impl WantedChannel {
    /// Who takes it hears of every source; `None` where somebody does already.
    pub fn take(&self) -> Option<Receiver<Wanted>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads what a new netwatch tells, on a thread of its own, until that netwatch ends.
    pub fn listen(&self, socket: UnixStream) -> io::Result<()> {
        let sender = self.sender.clone();
        std::thread::Builder::new().name("wanted".into()).spawn(move || {
            let mut lines = BufReader::new(socket);
            while let Some(line) = next_line(&mut lines) {
                let told = match serde_json::from_slice::<Line>(&line) {
                    Ok(Line { wanted }) => sender.send(wanted).is_ok(),
                    Err(error) => {
                        tracing::warn!(%error, "netwatch tells what is no source");
                        true
                    }
                };
                if !told {
                    return;
                }
            }
        })?;
        Ok(())
    }
}

/// A whole line; `None` at the end, and where the other side says more than a line can be.
fn next_line(lines: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
    line.ends_with(b"\n").then_some(line)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_channel_outlives_a_netwatch_and_what_is_no_line_ends_it() {
        let channel = WantedChannel::default();
        let sources = channel.take().unwrap();
        assert!(channel.take().is_none());
        for number in 1..=2 {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            channel.listen(ours).unwrap();
            theirs.write_all(b"nonsense\n").unwrap();
            let line = format!(
                r#"{{"wanted":{{"pool":"ssh","source":"192.0.2.{number}","protocol":"tcp","port":22}}}}"#
            );
            writeln!(theirs, "{line}").unwrap();
            let wanted = sources.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!((wanted.source.to_string(), wanted.port), (format!("192.0.2.{number}"), 22));
        }
        let mut endless: &[u8] = &[b'x'; 2 * LINE_BYTES_MAX as usize];
        assert_eq!(next_line(&mut endless), None);
    }
}
