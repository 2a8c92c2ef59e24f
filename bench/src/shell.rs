//! A shell on a domain's console: what is typed there belongs to no session, so nothing is recorded because of it.

use std::io::Write;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::cleanup::{self, Cleanup};
use crate::lines::Lines;
use crate::sample::{self, Samples};

/// The shell; the console is let go when dropped.
pub struct Shell {
    input: ChildStdin,
    lines: Lines,
    commands: u32,
    _end: Cleanup,
}

impl Shell {
    /// By `honeynet console NAME`; the shell has said already that it is there.
    pub fn attach(mut console: Command) -> anyhow::Result<Shell> {
        let mut child = console.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let end = cleanup::at_end(move || {
            // It may have ended by itself; it is not reaped before, so the number is still its own.
            let _ = child.kill();
            let _ = child.wait();
        });
        let lines = Lines::of_reader(output.context("the console has no output")?);
        let input = input.context("the console has no input")?;
        Ok(Shell { input, lines, commands: 0, _end: end })
    }

    /// Runs a command to its end, and gives back the lines that it printed.
    pub fn run(&mut self, command: &str, limit: Duration) -> anyhow::Result<Vec<String>> {
        self.commands += 1;
        // In two parts, so that an echo of the command is no end of it.
        let number = self.commands;
        let typed = format!(
            "echo '<beg''in {number}>'; {{ {command}; }} 2>&1 < /dev/null; echo '<e''nd {number}>' $?\n"
        );
        self.input.write_all(typed.as_bytes())?;
        let (begin, end) = (format!("<begin {number}>"), format!("<end {number}> "));
        let deadline = Instant::now() + limit;
        let mut printed: Option<Vec<String>> = None;
        loop {
            let line = self.lines.next(deadline).with_context(|| format!("{command}: no end of it came"))?;
            if let Some((_, status)) = line.text.split_once(&end) {
                let printed = printed.unwrap_or_default();
                ensure!(status == "0", "{command}: status {status}: {}", printed.join("\n"));
                return Ok(printed);
            }
            if line.text.contains(&begin) {
                printed = Some(Vec::new());
            } else if let Some(printed) = &mut printed {
                printed.push(line.text);
            }
        }
    }

    /// Runs a command that prints measurements in this unit.
    pub fn measure(&mut self, command: &str, unit: &str, limit: Duration) -> anyhow::Result<Samples> {
        let mut samples = Samples::default();
        let printed = self.run(command, limit)?;
        printed.iter().filter_map(|line| sample::parse(line, unit)).for_each(|(name, value)| {
            samples.add(name, value);
        });
        Ok(samples)
    }
}
