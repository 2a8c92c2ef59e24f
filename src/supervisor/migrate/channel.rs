//! A connection with a peer, as the supervisor has it: frames on a socket pair whose other end a carrier has.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::process::{Descriptors, Program};
use super::MigrateError;
use crate::carrier::{CarrierProcess, Known, Side};
use crate::jail::Jail;
use crate::migration::wire::{HEAD_BYTES, Head, Kind};
use crate::migration::{Answer, Identity};

/// The carriers' own user.
const CARRIER_UID: u32 = 199_004;
/// A peer that acknowledges nothing for so long is gone.
const TCP_SILENCE_MS: u32 = 10_000;
/// How long a word of the other side is waited for, where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(20);
/// The carrier's first line: a name, or a sentence.
const LINE_BYTES_MAX: u64 = 4096;

/// A connection.
pub struct Channel {
    peer: String,
    socket: BufReader<UnixStream>,
    frame: Vec<u8>,
}

impl Channel {
    /// Has a carrier speak for us; answers when it knows who the other side is. `called` is whom we believe to talk to.
    pub fn open(
        tcp: TcpStream,
        side: Side,
        called: &str,
        identity: &Identity,
        known: Vec<Known>,
    ) -> Result<Channel, MigrateError> {
        let start = || {
            tcp.set_nodelay(true)?;
            rustix::net::sockopt::set_tcp_user_timeout(&tcp, TCP_SILENCE_MS)?;
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_read_timeout(Some(PATIENCE))?;
            ours.set_write_timeout(Some(PATIENCE))?;
            let mut descriptors = Descriptors::default();
            let process = CarrierProcess {
                jail: Jail { uid: Some(CARRIER_UID), isolated: true },
                tcp_fd: descriptors.hand(tcp),
                local_fd: descriptors.hand(theirs),
                side,
                identity: identity.clone(),
                known,
            };
            let stderr = io::stderr().as_fd().try_clone_to_owned()?;
            let mut program = Program::new("carrier", &process, stderr)?;
            program.descriptors = descriptors;
            program.own_pids = true;
            program.start(|_| ())?;
            Ok(ours)
        };
        let socket = start().map_err(MigrateError::Carrier)?;
        let mut channel =
            Channel { peer: called.to_owned(), socket: BufReader::new(socket), frame: Vec::new() };
        channel.peer = channel.introduced()?;
        Ok(channel)
    }

    /// Who the other side is.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    fn introduced(&mut self) -> Result<String, MigrateError> {
        let mut line = Vec::new();
        let read = Read::take(&mut self.socket, LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|source| self.broken(source))?;
        let said: Value = serde_json::from_slice(&line).unwrap_or_default();
        match (said["peer"].as_str(), said["error"].as_str()) {
            (Some(peer), _) => Ok(peer.to_owned()),
            (None, sentence) => Err(MigrateError::Handshake {
                peer: self.peer.clone(),
                sentence: sentence.unwrap_or("its carrier ended").to_owned(),
            }),
        }
    }

    /// How long the next words are waited for.
    pub fn be_patient(&self, patience: Duration) -> Result<(), MigrateError> {
        self.socket.get_ref().set_read_timeout(Some(patience)).map_err(|source| self.broken(source))
    }

    /// Sends a frame.
    pub fn send(&mut self, head: Head, bytes: &[u8]) -> io::Result<()> {
        let socket = self.socket.get_mut();
        socket.write_all(&head.encode())?;
        socket.write_all(bytes)
    }

    /// Sends a frame of JSON.
    pub fn tell(&mut self, kind: Kind, what: &impl Serialize) -> Result<(), MigrateError> {
        let text = serde_json::to_vec(what).map_err(|source| self.json(source))?;
        // Longer than any head can say, it is longer than the other side takes.
        let head = Head::plain(kind, u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.send(head, &text).map_err(|source| self.broken(source))
    }

    /// The next frame.
    pub fn receive(&mut self) -> Result<(Head, &[u8]), MigrateError> {
        let mut head = [0; HEAD_BYTES];
        let read = self.socket.read_exact(&mut head);
        read.map_err(|source| self.broken(source))?;
        let head =
            Head::decode(&head).map_err(|source| MigrateError::Wire { peer: self.peer.clone(), source })?;
        self.frame.resize(head.bytes as usize, 0);
        let read = self.socket.read_exact(&mut self.frame);
        read.map_err(|source| self.broken(source))?;
        Ok((head, &self.frame))
    }

    /// The next frame, which must be this kind of JSON.
    pub fn hear<T: DeserializeOwned>(&mut self, kind: Kind) -> Result<T, MigrateError> {
        let (head, _) = self.receive()?;
        if head.kind != kind {
            return Err(self.unexpected(head.kind));
        }
        self.read()
    }

    /// What came last, as JSON.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, MigrateError> {
        serde_json::from_slice(&self.frame).map_err(|source| self.json(source))
    }

    /// What the other side says to what was sent last.
    pub fn answer(&mut self) -> Result<Value, MigrateError> {
        match self.hear(Kind::Answer)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(sentence) => Err(MigrateError::Refused { peer: self.peer.clone(), sentence }),
        }
    }

    /// An error that says with whom the connection broke.
    pub fn broken(&self, source: io::Error) -> MigrateError {
        MigrateError::Broken { peer: self.peer.clone(), source }
    }

    /// An error that says what came.
    pub fn unexpected(&self, kind: Kind) -> MigrateError {
        MigrateError::Unexpected { peer: self.peer.clone(), what: format!("{kind:?}").to_lowercase() }
    }

    fn json(&self, source: serde_json::Error) -> MigrateError {
        MigrateError::Json { peer: self.peer.clone(), source }
    }
}
