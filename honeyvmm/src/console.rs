//! The paravirtual console, hvc0: `struct xencons_interface` of Xen's `io/console.h`, 2048 bytes out and 1024 in.
//!
//! Output is drained into a bounded buffer and input waits in another, so that neither guest nor user can make the VMM grow.
//! The consoles' log and who is attached are the supervisor's business.

use std::collections::VecDeque;

use crate::memory::{Gpa, GuestMemory};
use crate::ring::bytes::{ByteReader, ByteRingError, ByteRingLayout, ByteWriter};

/// Input (typed, not yet taken by the guest) that is kept; what comes in beyond is refused.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Output that one call drains: eight rings full. A guest that writes on gets its next turn.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024;

const INPUT: ByteRingLayout = ByteRingLayout { data: 0, bytes: 1024, consumer: 3072, producer: 3076 };
const OUTPUT: ByteRingLayout = ByteRingLayout { data: 1024, bytes: 2048, consumer: 3080, producer: 3084 };

/// The backend's end of one console page.
#[derive(Debug)]
pub struct Console {
    output: ByteReader,
    input: ByteWriter,
    typed: VecDeque<u8>,
}

impl Console {
    /// Takes up the console page at `page`.
    ///
    /// # Errors
    /// The page is outside memory.
    pub fn attach(memory: GuestMemory, page: Gpa) -> Result<Self, ByteRingError> {
        let output = ByteReader::attach(memory.clone(), page, OUTPUT)?;
        let input = ByteWriter::attach(memory, page, INPUT)?;
        Ok(Self { output, input, typed: VecDeque::new() })
    }

    /// Takes what the guest has written, at most [`OUTPUT_BYTES_MAX`] bytes, and appends it to `out`. The guest waits for an event when
    /// its ring was full: notify it when the answer is not 0.
    ///
    /// # Errors
    /// The guest's index is a lie; the console is of no use any more.
    pub fn drain_output(&mut self, out: &mut Vec<u8>) -> Result<usize, ByteRingError> {
        let mut taken = 0;
        while taken < OUTPUT_BYTES_MAX {
            match self.output.take(out, OUTPUT_BYTES_MAX - taken)? {
                0 => break,
                count => taken += count,
            }
        }
        Ok(taken)
    }

    /// Queues typed bytes; says how many were taken, which is fewer once [`INPUT_BYTES_MAX`] wait.
    pub fn queue_input(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(INPUT_BYTES_MAX - self.typed.len());
        self.typed.extend(&data[..count]);
        count
    }

    /// Moves queued input into the ring as far as there is room. Notify the guest when the answer is not 0.
    ///
    /// # Errors
    /// The guest's index is a lie.
    pub fn push_input(&mut self) -> Result<usize, ByteRingError> {
        let mut pushed = 0;
        loop {
            let (next, _) = self.typed.as_slices();
            let count = self.input.put(next)?;
            if count == 0 {
                return Ok(pushed);
            }
            self.typed.drain(..count);
            pushed += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Access, PAGE_SIZE, Region};

    const PAGE: Gpa = Gpa(0x2000);

    fn console() -> (GuestMemory, Console) {
        let memory = GuestMemory::from(Region::anonymous(Gpa(0), 4 * PAGE_SIZE).unwrap());
        let console = Console::attach(memory.clone(), PAGE).unwrap();
        (memory, console)
    }

    fn guest_writes(memory: &GuestMemory, from: u32, text: &[u8]) {
        for (index, &byte) in (from..).zip(text) {
            memory.write_u8(PAGE.offset(1024 + u64::from(index & 2047)), byte).unwrap();
        }
        memory.write_u32(PAGE.offset(OUTPUT.producer), from.wrapping_add(text.len() as u32)).unwrap();
    }

    #[test]
    fn output_comes_out_in_order_across_the_ring_s_end() {
        let (memory, mut console) = console();
        let mut out = Vec::new();
        guest_writes(&memory, 0, &[b'.'; 2040]);
        assert_eq!(console.drain_output(&mut out).unwrap(), 2040);
        guest_writes(&memory, 2040, b"across the end\n");
        out.clear();
        assert_eq!(console.drain_output(&mut out).unwrap(), 15);
        assert_eq!(out, b"across the end\n");
        assert_eq!(memory.read_u32(PAGE.offset(OUTPUT.consumer)).unwrap(), 2055);
        assert_eq!(console.drain_output(&mut out).unwrap(), 0);
    }

    #[test]
    fn input_waits_for_room_and_is_not_lost() {
        let (memory, mut console) = console();
        let typed: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        assert_eq!(console.queue_input(&typed), 3000);
        let mut got = Vec::new();
        let mut consumer = 0u32;
        for expected in [1024, 1024, 952, 0] {
            assert_eq!(console.push_input().unwrap(), expected);
            for _ in 0..expected {
                got.push(memory.read_u8(PAGE.offset(u64::from(consumer & 1023))).unwrap());
                consumer += 1;
            }
            memory.write_u32(PAGE.offset(INPUT.consumer), consumer).unwrap();
        }
        assert_eq!(got, typed);
    }

    #[test]
    fn input_that_nobody_takes_is_bounded() {
        let (_, mut console) = console();
        assert_eq!(console.queue_input(&vec![0; INPUT_BYTES_MAX + 5]), INPUT_BYTES_MAX);
        assert_eq!(console.queue_input(b"x"), 0);
    }

    #[test]
    fn lying_indices_are_errors_and_take_nothing() {
        for lie in [2049, u32::MAX, 0x8000_0000] {
            let (memory, mut console) = console();
            memory.write_u32(PAGE.offset(OUTPUT.producer), lie).unwrap();
            let mut out = Vec::new();
            assert!(console.drain_output(&mut out).is_err(), "{lie}");
            assert!(out.is_empty());
            memory.write_u32(PAGE.offset(INPUT.consumer), lie.wrapping_neg()).unwrap();
            console.queue_input(b"x");
            assert!(console.push_input().is_err(), "{lie}");
        }
    }

    #[test]
    fn a_page_outside_memory_is_refused() {
        let (memory, _) = console();
        assert!(Console::attach(memory, Gpa(64 * PAGE_SIZE)).is_err());
    }
}
