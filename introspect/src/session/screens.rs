//! What a session's screens show: a recording a pseudo terminal, and one of the programs that have none.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::cast::Cast;
use super::folders::Folders;
use super::line::Line;
use super::report::{self, Report};

/// Recordings of one session.
const CASTS_MAX: usize = 64;
/// What the kernel puts before the bytes of a master in packet mode (ioctl_tty(2), `TIOCPKT`): bytes follow. Else it tells of the terminal.
const PACKET_DATA: u8 = 0;

/// What is recorded: a pseudo terminal, by its master's open file, or programs that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Screen {
    /// By its `struct file`.
    Terminal(u64),
    /// Pipes of a server.
    Plain,
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// To the intruder.
    Shown,
    /// From him.
    Typed,
}

/// When something was: the domain's system time, and the time of day.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Nanoseconds.
    pub time_ns: u64,
    /// The same moment.
    pub at: Timestamp,
}

struct Recorded {
    screen: Screen,
    cast: Cast,
    line: Line,
    // Its place in the report.
    tty: usize,
}

/// All screens of a session.
#[derive(Default)]
pub struct Screens {
    recorded: Vec<Recorded>,
    places: HashMap<Screen, usize>,
    packets: HashSet<u64>,
}

impl Screens {
    /// Those of a session that another observer has begun to record. One whose recording cannot be opened goes on in a new one.
    pub fn resumed(report: &Report, screens: &[report::Screen], folders: &Folders) -> Screens {
        let mut all = Screens::default();
        for known in screens.iter().take(CASTS_MAX) {
            let Some(recording) = report.tty.get(known.tty) else { continue };
            let file = folders.open_cast(&name(report, known.tty));
            let resumed = file.and_then(|file| {
                Cast::resume(
                    file,
                    known.began_ns,
                    known.timestamp,
                    (recording.bytes_shown, recording.bytes_typed),
                )
            });
            match resumed {
                Ok((cast, line)) => {
                    let screen = known.terminal.map_or(Screen::Plain, Screen::Terminal);
                    all.places.insert(screen, all.recorded.len());
                    all.recorded.push(Recorded { screen, cast, line, tty: known.tty });
                    all.packets.extend(known.terminal.filter(|_| known.packets));
                }
                Err(error) => tracing::error!(%error, recording.name, "a recording cannot be continued"),
            }
        }
        all
    }

    /// What another observer must know to go on with them.
    pub fn resume(&self) -> Vec<report::Screen> {
        let known = |recorded: &Recorded| {
            let terminal = match recorded.screen {
                Screen::Terminal(file) => Some(file),
                Screen::Plain => None,
            };
            let packets = terminal.is_some_and(|file| self.packets.contains(&file));
            let (began_ns, timestamp) = recorded.cast.began();
            report::Screen { tty: recorded.tty, terminal, packets, began_ns, timestamp }
        };
        self.recorded.iter().map(known).collect()
    }

    /// Bytes went through a screen; answers its place in the report and the lines that were ended. Nothing, if they were recorded before.
    pub fn take(
        &mut self,
        screen: Screen,
        shown: Shown,
        bytes: &[u8],
        moment: Moment,
        report: &mut Report,
        folders: &Folders,
    ) -> Option<(usize, Vec<String>)> {
        let bytes = match screen {
            Screen::Terminal(file) if shown == Shown::Shown && self.packets.contains(&file) => {
                bytes.split_first().filter(|(head, _)| **head == PACKET_DATA)?.1
            }
            _ => bytes,
        };
        let index = self.place(screen, moment, report, folders)?;
        let Recorded { cast, line, tty, .. } = &mut self.recorded[index];
        if cast.has(moment.time_ns) {
            return None;
        }
        let written = match shown {
            Shown::Shown => cast.show(moment.time_ns, bytes),
            Shown::Typed => cast.type_in(moment.time_ns, bytes),
        };
        if let Err(error) = written {
            tracing::error!(%error, session = report.id, "a recording cannot be written");
        }
        let lines = if shown == Shown::Typed { line.take(bytes) } else { Vec::new() };
        let counted = &mut report.tty[*tty];
        (counted.bytes_shown, counted.bytes_typed) = (cast.bytes_shown, cast.bytes_typed);
        Some((*tty, lines))
    }

    /// A terminal's window has this size now, columns and rows. Mostly that comes before the first byte: the recording begins with it.
    pub fn resize(
        &mut self,
        terminal: u64,
        size: (u16, u16),
        moment: Moment,
        report: &mut Report,
        folders: &Folders,
    ) {
        if let Some(index) = self.place(Screen::Terminal(terminal), moment, report, folders)
            && !self.recorded[index].cast.has(moment.time_ns)
            && let Err(error) = self.recorded[index].cast.resize(moment.time_ns, size)
        {
            tracing::error!(%error, session = report.id, "a recording cannot be written");
        }
    }

    /// Who holds this master reads a byte before what is shown from now on, or does not.
    pub fn set_packets(&mut self, terminal: u64, packets: Packets) {
        match packets {
            Packets::On if self.packets.len() < CASTS_MAX => drop(self.packets.insert(terminal)),
            Packets::On => {}
            Packets::Off => drop(self.packets.remove(&terminal)),
        }
    }

    /// The recording of a screen; it begins with its first byte.
    fn place(
        &mut self,
        screen: Screen,
        moment: Moment,
        report: &mut Report,
        folders: &Folders,
    ) -> Option<usize> {
        if let Some(index) = self.places.get(&screen) {
            return Some(*index);
        }
        if report.tty.len() >= CASTS_MAX {
            report.truncated = true;
            return None;
        }
        let name = name(report, report.tty.len());
        let file = folders.make_cast(&name);
        let file =
            file.inspect_err(|error| tracing::error!(%error, name, "a recording cannot be made")).ok()?;
        // The format's time stamp has whole seconds: the recording's time begins with the second.
        let began_ns = moment.time_ns.saturating_sub(moment.at.subsec_nanosecond().unsigned_abs().into());
        let (cast, tty) = (Cast::new(file, began_ns, moment.at.as_second()), report.tty.len());
        self.recorded.push(Recorded { screen, cast, line: Line::default(), tty });
        report.tty.push(report::Tty { name, bytes_shown: 0, bytes_typed: 0 });
        self.places.insert(screen, self.recorded.len() - 1);
        Some(self.recorded.len() - 1)
    }
}

fn name(report: &Report, tty: usize) -> String {
    format!("{}-{}.cast", report.id, tty + 1)
}

/// Whether a master is in packet mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// It is.
    On,
    /// It is not.
    Off,
}
