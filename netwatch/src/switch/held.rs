//! Frames from sources that have no clone yet: kept until one is seated, and who waits is told once.
//!
//! Everything here is bounded, for whoever makes up source addresses fills it: the source that waits longest goes first.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;

use lru::LruCache;
use vifport::FrameMeta;

use super::PortId;
use super::pool::PoolId;

/// Sources that wait at a time, of all pools.
pub const SOURCES_MAX: usize = 1024;
/// Frames of one source; a client that is not answered yet sends its SYN again and little else.
const FRAMES_MAX: usize = 8;
/// Their bytes. So all held frames take at most 64 MiB.
const BYTES_MAX: usize = 64 * 1024;
/// How long a source waits. Its next frame begins anew.
const WAIT_US: u64 = 3_000_000;
/// Sources that were refused a short time ago.
const REFUSED_MAX: usize = 4096;
/// How long nobody is told of a refused source.
const REFUSED_US: u64 = 10_000_000;

/// A source that has no clone.
pub(super) type Source = (PoolId, Ipv4Addr);

/// A frame that waits for its clone.
#[derive(Debug)]
pub struct HeldFrame {
    /// The uplink that it came through.
    pub from: PortId,
    /// The frame.
    pub frame: Vec<u8>,
    /// Its offload fields.
    pub meta: FrameMeta,
    /// When it came, microseconds since the epoch.
    pub time_us: u64,
}

/// What a source touched first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Touched {
    pub protocol: u8,
    pub port: u16,
}

#[derive(Debug)]
struct Waiting {
    frames: VecDeque<HeldFrame>,
    bytes: usize,
    since_us: u64,
    touched: Touched,
    is_told: bool,
}

/// What was held, and what became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct HeldCount {
    /// Frames that were held.
    pub held: u64,
    /// Frames that were delivered to a clone in the end.
    pub delivered: u64,
    /// Frames that had to go: too many, too late, or their source was refused.
    pub dropped: u64,
}

/// All sources that wait.
#[derive(Debug)]
pub(super) struct Held {
    // In the order of their first frames: nothing here moves an entry.
    waiting: LruCache<Source, Waiting>,
    // Until when.
    refused: LruCache<Source, u64>,
    untold: Vec<Source>,
    count: HeldCount,
}

fn limit(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
}

impl Default for Held {
    fn default() -> Held {
        Held {
            waiting: LruCache::new(limit(SOURCES_MAX)),
            refused: LruCache::new(limit(REFUSED_MAX)),
            untold: Vec::new(),
            count: HeldCount::default(),
        }
    }
}

impl Held {
    /// True where frames of this source are held already.
    pub fn is_waiting(&self, source: &Source) -> bool {
        self.waiting.contains(source)
    }

    /// Keeps a frame, unless its source was refused.
    pub fn hold(&mut self, source: Source, touched: Touched, frame: HeldFrame) {
        let now_us = frame.time_us;
        if self.refused.peek(&source).is_some_and(|until_us| *until_us > now_us) {
            self.count.dropped += 1;
            return;
        }
        if !self.waiting.contains(&source) {
            let fresh =
                Waiting { frames: VecDeque::new(), bytes: 0, since_us: now_us, touched, is_told: false };
            if let Some((_, gone)) = self.waiting.push(source, fresh) {
                self.count.dropped += gone.frames.len() as u64;
            }
        }
        let Some(waiting) = self.waiting.peek_mut(&source) else { return };
        self.count.held += 1;
        waiting.bytes += frame.frame.len();
        waiting.frames.push_back(frame);
        while waiting.frames.len() > FRAMES_MAX || waiting.bytes > BYTES_MAX {
            let Some(oldest) = waiting.frames.pop_front() else { break };
            waiting.bytes -= oldest.frame.len();
            self.count.dropped += 1;
        }
        if !waiting.is_told {
            waiting.is_told = true;
            self.untold.push(source);
        }
    }

    /// The sources to be told of, and what each touched first.
    pub fn take_untold(&mut self) -> Vec<(Source, Touched)> {
        let untold = std::mem::take(&mut self.untold);
        let touched = |source: Source| self.waiting.peek(&source).map(|waiting| (source, waiting.touched));
        untold.into_iter().filter_map(touched).collect()
    }

    /// The line was lost: the source's next frame is told of again.
    pub fn not_told(&mut self, source: &Source) {
        if let Some(waiting) = self.waiting.peek_mut(source) {
            waiting.is_told = false;
        }
    }

    /// The frames of a source that has a clone now, oldest first.
    pub fn take(&mut self, source: &Source, now_us: u64) -> Vec<HeldFrame> {
        self.refused.pop(source);
        let Some(waiting) = self.waiting.pop(source) else { return Vec::new() };
        let (fresh, late): (Vec<_>, Vec<_>) =
            waiting.frames.into_iter().partition(|held| held.time_us.saturating_add(WAIT_US) >= now_us);
        self.count.dropped += late.len() as u64;
        self.count.delivered += fresh.len() as u64;
        fresh
    }

    /// Drops the frames of a source, and holds none of it for a while.
    pub fn refuse(&mut self, source: Source, now_us: u64) {
        if let Some(waiting) = self.waiting.pop(&source) {
            self.count.dropped += waiting.frames.len() as u64;
        }
        self.refused.put(source, now_us.saturating_add(REFUSED_US));
    }

    /// Lets go who has waited for too long.
    pub fn expire(&mut self, now_us: u64) {
        while let Some((source, waiting)) = self.waiting.peek_lru() {
            if waiting.since_us.saturating_add(WAIT_US) >= now_us {
                break;
            }
            let source = *source;
            if let Some(gone) = self.waiting.pop(&source) {
                self.count.dropped += gone.frames.len() as u64;
            }
        }
    }

    /// Forgets a pool that is gone.
    pub fn forget(&mut self, pool: PoolId) {
        let of_pool = |(source, _): (&Source, &_)| (source.0 == pool).then_some(*source);
        let waiting: Vec<Source> =
            self.waiting.iter().filter_map(|(source, _)| of_pool((source, &()))).collect();
        for source in waiting {
            if let Some(gone) = self.waiting.pop(&source) {
                self.count.dropped += gone.frames.len() as u64;
            }
        }
        let refused: Vec<Source> =
            self.refused.iter().filter_map(|(source, _)| of_pool((source, &()))).collect();
        for source in refused {
            self.refused.pop(&source);
        }
    }

    /// Sources that wait, and the counters.
    pub fn totals(&self) -> (usize, HeldCount) {
        (self.waiting.len(), self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Touched = Touched { protocol: 6, port: 22 };

    fn source(number: u32) -> Source {
        (PoolId(0), Ipv4Addr::from(0x0a00_0000 + number))
    }

    fn frame(len: usize, time_us: u64) -> HeldFrame {
        HeldFrame { from: PortId(0), frame: vec![0; len], meta: FrameMeta::default(), time_us }
    }

    #[test]
    fn a_source_is_told_once_and_again_when_the_line_was_lost() {
        let mut held = Held::default();
        held.hold(source(1), SYN, frame(60, 0));
        held.hold(source(1), SYN, frame(60, 1));
        assert_eq!(held.take_untold(), [(source(1), SYN)]);
        held.hold(source(1), SYN, frame(60, 2));
        assert!(held.take_untold().is_empty());
        held.not_told(&source(1));
        assert!(held.take_untold().is_empty());
        held.hold(source(1), SYN, frame(60, 3));
        assert_eq!(held.take_untold().len(), 1);
        let times: Vec<u64> = held.take(&source(1), 4).iter().map(|held| held.time_us).collect();
        assert_eq!(times, [0, 1, 2, 3]);
        assert!(held.take(&source(1), 4).is_empty());
    }

    #[test]
    fn the_oldest_frames_of_a_source_go() {
        for (len, kept) in [(60, FRAMES_MAX), (30_000, 2), (BYTES_MAX + 1, 0)] {
            let mut held = Held::default();
            for time_us in 0..20 {
                held.hold(source(1), SYN, frame(len, time_us));
            }
            let frames = held.take(&source(1), 20);
            assert_eq!(frames.len(), kept, "{len}");
            assert!(frames.last().is_none_or(|last| last.time_us == 19));
            assert_eq!(held.totals().1.dropped, 20 - kept as u64);
        }
    }

    #[test]
    fn a_flood_of_sources_pushes_out_the_one_that_waits_longest() {
        let mut held = Held::default();
        for number in 0..=SOURCES_MAX as u32 {
            held.hold(source(number), SYN, frame(60, 0));
        }
        // A further frame does not make the oldest younger.
        held.hold(source(1), SYN, frame(60, 1));
        held.hold(source(5000), SYN, frame(60, 1));
        assert_eq!(held.totals().0, SOURCES_MAX);
        assert!(!held.is_waiting(&source(0)) && !held.is_waiting(&source(1)) && held.is_waiting(&source(2)));
        assert_eq!(held.totals().1.dropped, 3);
    }

    #[test]
    fn a_source_that_waited_too_long_begins_anew() {
        let mut held = Held::default();
        held.hold(source(1), SYN, frame(60, 0));
        held.take_untold();
        held.expire(WAIT_US);
        assert!(held.is_waiting(&source(1)));
        held.expire(WAIT_US + 1);
        assert!(!held.is_waiting(&source(1)));
        held.hold(source(1), SYN, frame(60, WAIT_US + 2));
        assert_eq!(held.take_untold().len(), 1);
    }

    #[test]
    fn a_refused_source_is_not_told_of_for_ten_seconds() {
        let mut held = Held::default();
        held.hold(source(1), SYN, frame(60, 0));
        held.take_untold();
        held.refuse(source(1), 1);
        held.hold(source(1), SYN, frame(60, REFUSED_US));
        assert!(held.take_untold().is_empty() && !held.is_waiting(&source(1)));
        assert_eq!(held.totals().1.dropped, 2);
        held.hold(source(1), SYN, frame(60, REFUSED_US + 1));
        assert_eq!(held.take_untold().len(), 1);
        // Who gets a clone after all is refused no more.
        held.refuse(source(2), 0);
        held.take(&source(2), 1);
        held.hold(source(2), SYN, frame(60, 2));
        assert!(held.is_waiting(&source(2)));
    }
}
