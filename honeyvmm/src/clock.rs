//! System time: nanoseconds since the domain started, reckoned from the time-stamp counter as the guest does (Xen's pvclock).

use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of `struct vcpu_time_info`.
pub const TIME_INFO_BYTES: usize = 32;
const FLAG_TSC_STABLE: u8 = 1;
const FLAG_GUEST_STOPPED: u8 = 2;
const NS_PER_S: u64 = 1_000_000_000;

/// The relation of the time-stamp counter to system time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    tsc_base: u64,
    mul: u32,
    shift: i8,
}

/// `ticks << shift >> 32 * mul` is nanoseconds: Xen's scale for a frequency.
fn scale(khz: u64) -> (u32, i8) {
    let (mut ticks, mut second, mut shift) = (khz * 1000, NS_PER_S, 0i8);
    while ticks > second * 2 {
        ticks >>= 1;
        shift -= 1;
    }
    while ticks <= second {
        if ticks & 0x8000_0000 != 0 {
            second >>= 1;
        } else {
            ticks <<= 1;
        }
        shift += 1;
    }
    // second < ticks, so the quotient fits 32 bits.
    (((u128::from(second) << 32) / u128::from(ticks)) as u32, shift)
}

fn tsc() -> u64 {
    // SAFETY: RDTSC is there on every 64-bit processor and touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

impl Clock {
    /// Time zero is now.
    pub fn start(tsc_khz: u32) -> Clock {
        let (mul, shift) = scale(u64::from(tsc_khz.max(1)));
        Clock { tsc_base: tsc(), mul, shift }
    }

    /// So much system time has passed by now: a saved domain's clock goes on, on this host's counter.
    pub fn resume(tsc_khz: u32, now_ns: u64) -> Clock {
        let Clock { tsc_base, mul, shift } = Clock::start(tsc_khz);
        // The way back from nanoseconds, rounded up: it never shows less than it did.
        let scaled = (u128::from(now_ns) << 32).div_ceil(u128::from(mul.max(1)));
        let ticks = if shift >= 0 { scaled.div_ceil(1 << shift) } else { scaled << -shift };
        // A counter that began later than the domain goes below zero: differences are reckoned modulo 2^64, by the guest too.
        Clock { tsc_base: tsc_base.wrapping_sub(ticks as u64), mul, shift }
    }

    /// The counter's value at time zero.
    pub fn tsc_base(&self) -> u64 {
        self.tsc_base
    }

    /// Multiplier and shift, as the shim keeps them: one word.
    pub fn packed_scale(&self) -> u64 {
        u64::from(self.mul) | u64::from(i32::from(self.shift).cast_unsigned()) << 32
    }

    fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_base);
        let ticks = if self.shift >= 0 { ticks << self.shift } else { ticks >> -self.shift };
        ((u128::from(ticks) * u128::from(self.mul)) >> 32) as u64
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.at(tsc())
    }

    /// `struct vcpu_time_info`.
    pub fn time_info(&self) -> [u8; TIME_INFO_BYTES] {
        self.time_info_after(0, 0)
    }

    /// The same in place of one of this version, for a guest that was saved: it is told that it stood still, so that its watchdogs do not bark.
    pub fn time_info_of_restored(&self, version: u32) -> [u8; TIME_INFO_BYTES] {
        self.time_info_after(version, FLAG_GUEST_STOPPED)
    }

    fn time_info_after(&self, version: u32, flags: u8) -> [u8; TIME_INFO_BYTES] {
        let mut out = [0; TIME_INFO_BYTES];
        // An even version: not being written.
        out[0..4].copy_from_slice(&((version | 1).wrapping_add(1)).to_le_bytes());
        out[8..16].copy_from_slice(&self.tsc_base.to_le_bytes());
        out[24..28].copy_from_slice(&self.mul.to_le_bytes());
        out[28] = self.shift.cast_unsigned();
        out[29] = FLAG_TSC_STABLE | flags;
        out
    }

    /// Wall-clock time at time zero: seconds and nanoseconds, for shared_info.
    pub fn wall_clock_base(&self) -> (u64, u32) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ns = since_epoch.as_nanos().saturating_sub(u128::from(self.now_ns()));
        ((ns / u128::from(NS_PER_S)) as u64, (ns % u128::from(NS_PER_S)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_on_is_where_it_was() {
        for (khz, then) in [(100_000, NS_PER_S), (2_600_000, 5 * NS_PER_S), (4_200_000, 1_000_000 * NS_PER_S)]
        {
            let now = Clock::resume(khz, then).now_ns();
            assert!((then..then + 60 * NS_PER_S).contains(&now), "{now} after {then}");
        }
    }

    #[test]
    fn a_second_of_ticks_is_a_second() {
        for khz in [100_000, 999_999, 2_000_000, 2_699_998, 4_200_000] {
            let (mul, shift) = scale(khz);
            let clock = Clock { tsc_base: 5, mul, shift };
            let ns = clock.at(5 + khz * 1000);
            assert!(ns.abs_diff(NS_PER_S) < 10, "{khz} kHz gives {ns} ns");
        }
    }
}
