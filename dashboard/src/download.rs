//! Bodies that are written piece by piece from a thread, at the speed of the connection.

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Bytes of a piece, and pieces between the disk and the connection: what one download holds in memory.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES: usize = 4;
/// How long a browser may take no piece before its download ends.
const STALLED: Duration = Duration::from_secs(60);

/// A body that `write` writes; the permit is given back when it has.
pub fn body<E: Error + 'static>(
    permit: OwnedSemaphorePermit,
    write: impl FnOnce(&mut Pieces) -> Result<(), E> + Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES);
    let mut pieces = Pieces { sender, runtime: Handle::current(), piece: Vec::with_capacity(PIECE_BYTES) };
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        if let Err(error) = write(&mut pieces) {
            tracing::warn!("download broken off: {}", events::sentence(&error));
            // The browser must see that the file is not whole.
            let _ = pieces.give(Err(io::Error::other("broken off")));
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

/// Writes into the connection, piece by piece.
pub struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    piece: Vec<u8>,
}

impl Pieces {
    fn give(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        let sent = self.runtime.block_on(tokio::time::timeout(STALLED, self.sender.send(piece)));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.piece.len();
        let taken = bytes.len().min(room);
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.give(Ok(piece.into()))
    }
}
