//! Passwords that are typed at a terminal, for `su`, `sudo` and `login`: the line that such a program reads after it has turned the echo off, and
//! what comes of it. A right one is followed by another program that it runs (or, for sudo, by an end without complaint), a wrong one by a
//! complaint, another prompt or its end. A program that only has such a name can tell lies; they are its own guesses, and few.

use std::collections::HashMap;

/// Programs that may be asking at one time, in one session.
const PROMPTS_MAX: usize = 256;
/// Processes that they have begun.
const HEIRS_MAX: usize = 1024;
/// A user's name or password is not longer.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Bytes kept of what a program says.
const SAID_BYTES_MAX: usize = 256;
/// What they say of a wrong one: login, su, sudo.
const COMPLAINTS: [&str; 5] = [
    "Login incorrect",
    "Authentication failure",
    "Permission denied",
    "Sorry, try again",
    "incorrect password",
];
/// What their libraries run before it is known whether it was right, and what sudo complains with.
const HELPERS: [&str; 4] = ["unix_chkpwd", "pam_extrausers_chkpwd", "unix_update", "sendmail"];
/// `ECHO` of termios(3).
const ECHO: u32 = 0o10;
/// Options of su that are followed by a word.
const SU_WORDS: [&str; 12] = [
    "-c",
    "--command",
    "-g",
    "--group",
    "-G",
    "--supp-group",
    "-s",
    "--shell",
    "-w",
    "--whitelist-environment",
    "-T",
    "--session-command",
];
/// Options of login that are.
const LOGIN_WORDS: [&str; 2] = ["-h", "-r"];

/// A password that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// Whose it should be.
    pub user: String,
    /// What was typed.
    pub password: String,
    /// It was right.
    pub right: bool,
}

/// A program that asks for passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Another user, root if none is named.
    Su,
    /// Another user's rights, for one's own password.
    Sudo,
    /// At a terminal, or below a telnet server.
    Login,
}

impl Program {
    /// By the path that was run.
    pub fn of(exe: &str) -> Option<Program> {
        match base(exe) {
            "su" => Some(Program::Su),
            "sudo" => Some(Program::Sudo),
            "login" => Some(Program::Login),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Program::Su => "su",
            Program::Sudo => "sudo",
            Program::Login => "login",
        }
    }

    /// The user that its arguments name.
    fn user(self, argv: &[String]) -> Option<String> {
        let words = argv.get(1..).unwrap_or_default();
        match self {
            // Its password is the caller's own, whom only the prompt names.
            Program::Sudo => None,
            Program::Su => Some(first_word(words, &SU_WORDS).unwrap_or("root").to_owned()),
            Program::Login => first_word(words, &LOGIN_WORDS).map(str::to_owned),
        }
    }
}

/// The first argument that is no option.
fn first_word<'a>(words: &'a [String], with_word: &[&str]) -> Option<&'a str> {
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--" => return words.next(),
            _ if with_word.contains(&word) => drop(words.next()),
            _ if word.starts_with('-') => {}
            _ => return Some(word).filter(|word| !word.is_empty()),
        }
    }
    None
}

fn base(exe: &str) -> &str {
    exe.rsplit('/').next().unwrap_or(exe)
}

/// Where a program reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Its terminal.
    Terminal,
    /// Its standard input, output or error, which is no terminal.
    Standard,
}

/// A program that asks.
#[derive(Debug)]
struct Prompt {
    program: Program,
    user: Option<String>,
    said: Vec<u8>,
    // It has said something since the last line.
    asked: bool,
    hidden: bool,
    typed: Vec<u8>,
    password: Option<String>,
    complained: bool,
    done: bool,
}

/// Programs of one session that ask.
#[derive(Debug, Default)]
pub struct Prompts {
    asking: HashMap<u32, Prompt>,
    heirs: HashMap<u32, u32>,
}

/// What came of a prompt: which program, which process, and the guess.
pub type Told = (Program, u32, Guess);

impl Prompts {
    /// A process runs another program. The one that asked, or a child of it: then the password was right.
    pub fn executed(&mut self, pid: u32, exe: &str, argv: &[String]) -> Option<Told> {
        if HELPERS.contains(&base(exe)) {
            return None;
        }
        let owner = self.heirs.remove(&pid).unwrap_or(pid);
        let told = self.asking.get_mut(&owner).and_then(|prompt| {
            prompt.done = true;
            prompt.outcome(true)
        });
        let told = told.map(|(program, guess)| (program, owner, guess));
        if owner == pid {
            self.forget(pid);
        }
        if let Some(program) = Program::of(exe).filter(|_| self.asking.len() < PROMPTS_MAX) {
            self.asking.insert(pid, Prompt::new(program, argv));
        }
        told
    }

    /// A process has a child.
    pub fn forked(&mut self, parent: u32, child: u32) {
        let owner = self.heirs.get(&parent).copied().unwrap_or(parent);
        if self.asking.contains_key(&owner) && self.heirs.len() < HEIRS_MAX {
            self.heirs.insert(child, owner);
        }
    }

    /// A process has ended. Of sudo an end without complaint says that the password was right, though it ran nothing (`sudo -v`).
    pub fn exited(&mut self, pid: u32, status: Option<i32>) -> Option<Told> {
        self.heirs.remove(&pid);
        let mut prompt = self.asking.remove(&pid)?;
        self.heirs.retain(|_, owner| *owner != pid);
        let right = prompt.program == Program::Sudo && status == Some(0) && !prompt.complained;
        prompt.outcome(right).map(|(program, guess)| (program, pid, guess))
    }

    /// A process has set its terminal: `struct termios` as it begins.
    pub fn terminal_set(&mut self, pid: u32, termios: &[u8]) {
        if let Some(prompt) = self.asking.get_mut(&pid)
            && let Some(local) = termios.get(12..16).and_then(|bytes| bytes.first_chunk())
        {
            prompt.hidden = u32::from_le_bytes(*local) & ECHO == 0;
        }
    }

    /// A process said something. A complaint says that the password was wrong.
    pub fn wrote(&mut self, pid: u32, bytes: &[u8]) -> Option<Told> {
        let prompt = self.asking.get_mut(&pid).filter(|prompt| !prompt.done)?;
        prompt.says(bytes).map(|(program, guess)| (program, pid, guess))
    }

    /// A process read something. A second password says that the first was wrong.
    pub fn read(&mut self, pid: u32, place: Place, bytes: &[u8]) -> Option<Told> {
        let prompt = self.asking.get_mut(&pid).filter(|prompt| !prompt.done)?;
        let mut told = None;
        for byte in bytes {
            if let Some(outcome) = prompt.key(place, *byte) {
                told.get_or_insert((outcome.0, pid, outcome.1));
            }
        }
        told
    }

    /// Is this a process that asks?
    pub fn has(&self, pid: u32) -> bool {
        self.asking.contains_key(&pid)
    }

    fn forget(&mut self, pid: u32) {
        if self.asking.remove(&pid).is_some() {
            self.heirs.retain(|_, owner| *owner != pid);
        }
    }
}

impl Prompt {
    fn new(program: Program, argv: &[String]) -> Prompt {
        Prompt {
            program,
            user: program.user(argv),
            said: Vec::new(),
            asked: true,
            hidden: false,
            typed: Vec::new(),
            password: None,
            complained: false,
            done: false,
        }
    }

    fn outcome(&mut self, right: bool) -> Option<(Program, Guess)> {
        let password = self.password.take()?;
        let user = self.user.clone().unwrap_or_default();
        Some((self.program, Guess { user, password, right }))
    }

    fn says(&mut self, bytes: &[u8]) -> Option<(Program, Guess)> {
        self.asked |= bytes.iter().any(|byte| byte.is_ascii_graphic());
        self.said.extend_from_slice(&bytes[bytes.len().saturating_sub(SAID_BYTES_MAX)..]);
        self.said.drain(..self.said.len().saturating_sub(SAID_BYTES_MAX));
        let said = String::from_utf8_lossy(&self.said).into_owned();
        if !COMPLAINTS.iter().any(|complaint| said.contains(complaint)) {
            return None;
        }
        self.said.clear();
        self.complained = true;
        self.outcome(false)
    }

    fn key(&mut self, place: Place, byte: u8) -> Option<(Program, Guess)> {
        match byte {
            b'\n' | b'\r' => return self.line(place),
            // A terminal in its own hands (sudo's pwfeedback) has these corrected by the program.
            0x08 | 0x7f => drop(self.typed.pop()),
            0x15 => self.typed.clear(),
            _ if self.typed.len() < TEXT_BYTES_MAX => self.typed.push(byte),
            _ => {}
        }
        None
    }

    fn line(&mut self, place: Place) -> Option<(Program, Guess)> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.typed)).into_owned();
        let said = String::from_utf8_lossy(&std::mem::take(&mut self.said)).into_owned();
        // What nobody asked for is for the program that comes after it.
        if !std::mem::take(&mut self.asked) {
            return None;
        }
        let asks_password = self.hidden || place == Place::Standard || said.contains("assword");
        match self.program {
            Program::Login if !asks_password => {
                let before = self.outcome(false);
                self.user = Some(line.trim().to_owned()).filter(|user| !user.is_empty());
                return before;
            }
            Program::Su | Program::Sudo if !asks_password => return None,
            Program::Sudo => self.user = asked_for(&said).or_else(|| self.user.take()),
            Program::Su | Program::Login => {}
        }
        let before = self.outcome(false);
        (self.password, self.complained) = (Some(line), false);
        before
    }
}

/// `[sudo] password for NAME: `, as sudo asks unless it is told otherwise.
fn asked_for(said: &str) -> Option<String> {
    let (_, rest) = said.rsplit_once("password for ")?;
    let (user, _) = rest.split_once(':')?;
    Some(user.to_owned())
}

#[cfg(test)]
mod tests;
