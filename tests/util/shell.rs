//! A shell on a guest's console: what is typed, what is shown, and what a command printed. Tests of other crates include this file too.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a guest may take to answer; the machines are shared.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A shell that prints nothing but what its commands print.
pub struct Shell {
    input: Option<Box<dyn Write + Send>>,
    output: Receiver<Vec<u8>>,
    seen: String,
    /// How many it has run: each has marks of its own.
    pub commands: u32,
}

impl Shell {
    /// At this console.
    pub fn new(input: impl Write + Send + 'static, mut console: impl Read + Send + 'static) -> Shell {
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = console.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Shell { input: Some(Box::new(input)), output, seen: String::new(), commands: 0 }
    }

    /// Runs a command; answers what it printed, whatever it ended with, or why there is no answer.
    pub fn run(&mut self, command: &str) -> Result<String, String> {
        self.commands += 1;
        // In two parts, so that an echo of the command is no end of it.
        let (begin, end) = (format!("<begin {}>", self.commands), format!("<end {}>", self.commands));
        self.send(&format!(
            "echo '<beg''in {0}>'; {{ {command}\n}} 2>&1; echo '<e''nd {0}>'\n",
            self.commands
        ));
        let text = self.wait_for(&end)?;
        let begun = text.find(&begin).ok_or_else(|| format!("no {begin} in {text}"))?;
        Ok(text[begun + begin.len()..text.len() - end.len()].replace('\r', "").trim().to_owned())
    }

    /// Types this.
    pub fn send(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the console shows this; answers all up to it, or why it does not come.
    pub fn wait_for(&mut self, wanted: &str) -> Result<String, String> {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.seen.find(wanted) {
                let rest = self.seen.split_off(at + wanted.len());
                return Ok(std::mem::replace(&mut self.seen, rest));
            }
            match self.output.recv_timeout(ANSWER_TIMEOUT.saturating_sub(begun.elapsed())) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no {wanted:?} on the console: {}", self.seen));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("console ended before {wanted:?}: {}", self.seen));
                }
            }
        }
    }

    /// Waits until the console ends; answers what it showed before.
    pub fn wait_end(&mut self) -> String {
        while let Ok(bytes) = self.output.recv_timeout(ANSWER_TIMEOUT) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        std::mem::take(&mut self.seen)
    }

    /// Types no more: whoever reads the console sees its end.
    pub fn hang_up(&mut self) {
        self.input = None;
    }
}
