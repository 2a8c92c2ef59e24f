//! Token bucket: so many bytes and packets a second, with a burst of one second.

use crate::containment::Rate;

const SECOND_US: u64 = 1_000_000;

/// What one domain may still send.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    // In bytes and packets, times a million, so that microseconds need no fractions.
    bytes: u64,
    packets: u64,
    filled_us: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now_us: u64) -> Bucket {
        Bucket { rate, bytes: full(rate.bytes_per_s), packets: full(rate.packets_per_s), filled_us: now_us }
    }

    /// Takes a frame out; false where there is not enough, and then nothing is taken.
    pub fn take(&mut self, bytes: u64, packets: u64, now_us: u64) -> bool {
        // A clock that steps back gives nothing and takes nothing.
        let gone_us = now_us.saturating_sub(self.filled_us).min(SECOND_US);
        self.filled_us = now_us;
        self.bytes = fill(self.bytes, self.rate.bytes_per_s, gone_us);
        self.packets = fill(self.packets, self.rate.packets_per_s, gone_us);
        let (bytes, packets) = (bytes.saturating_mul(SECOND_US), packets.saturating_mul(SECOND_US));
        if self.bytes < bytes || self.packets < packets {
            return false;
        }
        self.bytes -= bytes;
        self.packets -= packets;
        true
    }
}

fn full(per_s: u64) -> u64 {
    per_s.saturating_mul(SECOND_US)
}

fn fill(level: u64, per_s: u64, gone_us: u64) -> u64 {
    level.saturating_add(per_s.saturating_mul(gone_us)).min(full(per_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_second_goes_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(Rate { bytes_per_s: 1000, packets_per_s: 10 }, 0);
        assert!(bucket.take(1000, 1, 0));
        assert!(!bucket.take(1, 1, 0));
        assert!(bucket.take(500, 1, 500_000));
        assert!(!bucket.take(1, 1, 500_000));
    }

    #[test]
    fn packets_are_limited_beside_bytes() {
        let mut bucket = Bucket::new(Rate { bytes_per_s: 1_000_000, packets_per_s: 2 }, 0);
        assert!(bucket.take(1, 2, 0));
        assert!(!bucket.take(1, 1, 0));
    }
}
