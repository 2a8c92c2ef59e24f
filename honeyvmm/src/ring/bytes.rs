//! Byte rings: the one-way streams in which console and xenstore talk (`io/console.h`, `io/xs_wire.h`).
//!
//! A power of two of bytes, a consumer and a producer index that run freely. Each side owns one index; ours is kept here and
//! only ever written to the page, theirs is read once and refused when it lies.

use std::sync::atomic::{Ordering, fence};

use crate::memory::{Access, Gpa, GuestMemory, MemoryError};

/// Where a byte ring and its indices are in its page.
#[derive(Debug, Clone, Copy)]
pub struct ByteRingLayout {
    /// Offset of the bytes.
    pub data: u64,
    /// How many bytes, a power of two.
    pub bytes: u32,
    /// Offset of the consumer's index.
    pub consumer: u64,
    /// Offset of the producer's index.
    pub producer: u64,
}

/// What makes a byte ring unusable.
#[derive(Debug, thiserror::Error)]
pub enum ByteRingError {
    /// Producer and consumer are further apart than the ring is long.
    #[error("ring of {bytes} bytes has producer {producer} and consumer {consumer}")]
    BadIndex {
        /// Length of the ring.
        bytes: u32,
        /// The producer's index.
        producer: u32,
        /// The consumer's index.
        consumer: u32,
    },
    /// The page cannot be reached.
    #[error("cannot reach the ring page")]
    Memory(#[from] MemoryError),
}

/// The end that takes bytes which the guest produces.
#[derive(Debug)]
pub struct ByteReader {
    memory: GuestMemory,
    page: Gpa,
    layout: ByteRingLayout,
    consumer: u32,
}

/// The end that puts bytes which the guest consumes.
#[derive(Debug)]
pub struct ByteWriter {
    memory: GuestMemory,
    page: Gpa,
    layout: ByteRingLayout,
    producer: u32,
}

impl ByteReader {
    /// Takes up a ring where it stands.
    ///
    /// # Errors
    /// The page is outside memory.
    pub fn attach(memory: GuestMemory, page: Gpa, layout: ByteRingLayout) -> Result<Self, ByteRingError> {
        let consumer = memory.load_u32(page.offset(layout.consumer), Ordering::Acquire)?;
        Ok(Self { memory, page, layout, consumer })
    }

    /// Takes at most `bytes_max` bytes and appends them to `out`; says how many.
    ///
    /// # Errors
    /// [`ByteRingError::BadIndex`]; nothing is taken then.
    pub fn take(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> Result<usize, ByteRingError> {
        let waiting = self.waiting()?;
        let count = waiting.min(u32::try_from(bytes_max).unwrap_or(u32::MAX));
        let start = out.len();
        out.resize(start + count as usize, 0);
        let (first, second) = out[start..].split_at_mut(contiguous(self.layout, self.consumer, count));
        self.memory.read(data_at(self.page, self.layout, self.consumer), first)?;
        self.memory.read(self.page.offset(self.layout.data), second)?;
        self.consumer = self.consumer.wrapping_add(count);
        // Release: the guest may overwrite the bytes once it sees the index.
        self.memory.store_u32(self.page.offset(self.layout.consumer), self.consumer, Ordering::Release)?;
        // The guest sends an event only if it finds us past what it wrote before: it must see the index before we look for more.
        fence(Ordering::SeqCst);
        Ok(count as usize)
    }

    /// How many bytes wait.
    ///
    /// # Errors
    /// [`ByteRingError::BadIndex`].
    pub fn waiting(&self) -> Result<u32, ByteRingError> {
        let producer = self.memory.load_u32(self.page.offset(self.layout.producer), Ordering::Acquire)?;
        distance(self.layout, producer, self.consumer)
    }
}

impl ByteWriter {
    /// Takes up a ring where it stands.
    ///
    /// # Errors
    /// The page is outside memory.
    pub fn attach(memory: GuestMemory, page: Gpa, layout: ByteRingLayout) -> Result<Self, ByteRingError> {
        let producer = memory.load_u32(page.offset(layout.producer), Ordering::Acquire)?;
        Ok(Self { memory, page, layout, producer })
    }

    /// Puts as many bytes of `data` as there is room for; says how many.
    ///
    /// # Errors
    /// [`ByteRingError::BadIndex`]; nothing is put then.
    pub fn put(&mut self, data: &[u8]) -> Result<usize, ByteRingError> {
        let consumer = self.memory.load_u32(self.page.offset(self.layout.consumer), Ordering::Acquire)?;
        let room = self.layout.bytes - distance(self.layout, self.producer, consumer)?;
        let count = room.min(u32::try_from(data.len()).unwrap_or(u32::MAX));
        let (first, second) = data[..count as usize].split_at(contiguous(self.layout, self.producer, count));
        self.memory.write(data_at(self.page, self.layout, self.producer), first)?;
        self.memory.write(self.page.offset(self.layout.data), second)?;
        self.producer = self.producer.wrapping_add(count);
        self.memory.store_u32(self.page.offset(self.layout.producer), self.producer, Ordering::Release)?;
        // The same the other way round: a guest that waits for bytes looks once more before it sleeps.
        fence(Ordering::SeqCst);
        Ok(count as usize)
    }
}

fn distance(layout: ByteRingLayout, producer: u32, consumer: u32) -> Result<u32, ByteRingError> {
    let distance = producer.wrapping_sub(consumer);
    if distance > layout.bytes {
        return Err(ByteRingError::BadIndex { bytes: layout.bytes, producer, consumer });
    }
    Ok(distance)
}

fn data_at(page: Gpa, layout: ByteRingLayout, index: u32) -> Gpa {
    page.offset(layout.data + u64::from(index & (layout.bytes - 1)))
}

/// How many of `count` bytes lie before the end of the ring.
fn contiguous(layout: ByteRingLayout, index: u32, count: u32) -> usize {
    count.min(layout.bytes - (index & (layout.bytes - 1))) as usize
}
