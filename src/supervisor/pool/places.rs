//! Who gets which clone: decisions without a clock and without I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A clone that was silent for so long may go for somebody else.
const EVICTED_AFTER: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Clones that attackers have at one time.
    pub clones: usize,
    /// Clones that wait for one.
    pub parked: usize,
    /// Clones given away in a minute.
    pub per_minute: usize,
    /// A clone whose attacker was silent for so long is taken from him.
    pub idle: Duration,
}

/// A clone that an attacker has.
#[derive(Debug, Clone)]
pub struct Taken<C> {
    /// It.
    pub clone: C,
    /// Since when.
    pub since: Instant,
    /// When it last got a frame.
    pub active: Instant,
    /// Frames that it got so far.
    pub frames: u64,
}

/// What becomes of a source.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<C> {
    /// It has this clone already.
    Again(C),
    /// It is being given one.
    Coming,
    /// It gets this one, or a new one. Before that the clone of somebody else goes.
    Give {
        /// One that is ready.
        ready: Option<C>,
        /// Who has been silent longest, and what he had.
        instead_of: Option<(IpAddr, C)>,
    },
    /// It gets none of its own; which limit says so.
    Share(&'static str),
}

/// The clones of one pool.
#[derive(Debug)]
pub struct Places<C> {
    limits: Limits,
    parked: VecDeque<C>,
    // Being made, to be parked.
    parking: usize,
    taken: HashMap<IpAddr, Taken<C>>,
    coming: HashSet<IpAddr>,
    given: VecDeque<Instant>,
}

impl<C: Clone> Places<C> {
    /// None yet.
    pub fn new(limits: Limits) -> Places<C> {
        Places {
            limits,
            parked: VecDeque::new(),
            parking: 0,
            taken: HashMap::new(),
            coming: HashSet::new(),
            given: VecDeque::new(),
        }
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A packet of this source waits.
    pub fn decide(&mut self, source: IpAddr, now: Instant) -> Decision<C> {
        if let Some(taken) = self.taken.get(&source) {
            return Decision::Again(taken.clone.clone());
        }
        if self.coming.contains(&source) {
            return Decision::Coming;
        }
        while self.given.front().is_some_and(|given| now.duration_since(*given) >= MINUTE) {
            self.given.pop_front();
        }
        if self.given.len() >= self.limits.per_minute {
            return Decision::Share("clones a minute");
        }
        let full = self.taken.len() + self.coming.len() >= self.limits.clones;
        let instead_of = if full { self.silent(now) } else { None };
        if full && instead_of.is_none() {
            return Decision::Share("clones at one time");
        }
        let instead_of = instead_of.and_then(|source| Some((source, self.taken.remove(&source)?.clone)));
        self.given.push_back(now);
        self.coming.insert(source);
        Decision::Give { ready: self.parked.pop_front(), instead_of }
    }

    /// Who has been silent longest, and long enough.
    fn silent(&self, now: Instant) -> Option<IpAddr> {
        let silent = self.taken.iter().filter(|(_, taken)| now.duration_since(taken.active) >= EVICTED_AFTER);
        silent.min_by_key(|(_, taken)| taken.active).map(|(source, _)| *source)
    }

    /// The source has its clone.
    pub fn give(&mut self, source: IpAddr, clone: C, now: Instant) {
        self.coming.remove(&source);
        self.taken.insert(source, Taken { clone, since: now, active: now, frames: 0 });
    }

    /// It could not be given one.
    pub fn give_up(&mut self, source: IpAddr) {
        self.coming.remove(&source);
    }

    /// Whether one more is to be made and parked; counts as being made from now on.
    pub fn wants_parked(&mut self) -> bool {
        let wanted = self.parked.len() + self.parking < self.limits.parked;
        self.parking += usize::from(wanted);
        wanted
    }

    /// One that was to be parked is there, or could not be made.
    pub fn park(&mut self, clone: Option<C>) {
        self.parking -= 1;
        self.parked.extend(clone);
    }

    /// How many frames a clone has got by now.
    pub fn saw(&mut self, source: IpAddr, frames: u64, now: Instant) {
        if let Some(taken) = self.taken.get_mut(&source)
            && taken.frames != frames
        {
            (taken.frames, taken.active) = (frames, now);
        }
    }

    /// Takes the clones whose attackers have been silent too long.
    pub fn expire(&mut self, now: Instant) -> Vec<(IpAddr, C)> {
        let idle = self.limits.idle;
        self.take_where(|taken| now.duration_since(taken.active) >= idle)
    }

    /// Takes the clones for which this holds.
    pub fn take_where(&mut self, mut which: impl FnMut(&Taken<C>) -> bool) -> Vec<(IpAddr, C)> {
        let taken = self.taken.extract_if(|_, taken| which(taken));
        taken.map(|(source, taken)| (source, taken.clone)).collect()
    }

    /// Takes parked clones for which this holds.
    pub fn take_parked_where(&mut self, mut which: impl FnMut(&C) -> bool) -> Vec<C> {
        let (taken, kept) = std::mem::take(&mut self.parked).into_iter().partition(|clone| which(clone));
        self.parked = kept;
        Vec::from_iter::<VecDeque<C>>(taken)
    }

    /// Who has what.
    pub fn taken(&self) -> impl Iterator<Item = (&IpAddr, &Taken<C>)> {
        self.taken.iter()
    }

    /// How many wait.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { clones: 2, parked: 1, per_minute: 3, idle: Duration::from_secs(600) };

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn given(ready: Option<u32>) -> Decision<u32> {
        Decision::Give { ready, instead_of: None }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_source_comes_back_to_its_clone_and_another_gets_another() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        assert!(places.wants_parked() && !places.wants_parked());
        places.park(Some(7));
        assert_eq!(places.decide(source(1), now), given(Some(7)));
        assert_eq!(places.decide(source(1), now), Decision::Coming);
        places.give(source(1), 7, now);
        assert_eq!(places.decide(source(1), now), Decision::Again(7));
        assert_eq!(places.decide(source(2), now), given(None));
    }

    #[test]
    fn when_all_are_taken_the_one_that_is_silent_longest_goes_or_the_source_shares() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        for (last, clone) in [(1, 10), (2, 20)] {
            places.decide(source(last), now);
            places.give(source(last), clone, now);
        }
        assert!(matches!(places.decide(source(3), now), Decision::Share(_)));
        places.saw(source(1), 5, now + seconds(30));
        places.saw(source(1), 5, now + seconds(50));
        let later = now + seconds(70);
        let instead_of = Some((source(2), 20));
        assert_eq!(places.decide(source(3), later), Decision::Give { ready: None, instead_of });
        assert!(matches!(places.decide(source(2), later), Decision::Share(_)), "nobody is silent now");
    }

    #[test]
    fn no_more_are_given_in_a_minute_than_the_rate_says() {
        let limits = Limits { clones: 100, ..LIMITS };
        let (mut places, now) = (Places::<u32>::new(limits), Instant::now());
        for last in 1..=3 {
            assert_eq!(places.decide(source(last), now), given(None));
        }
        assert!(matches!(places.decide(source(4), now + seconds(59)), Decision::Share(_)));
        assert_eq!(places.decide(source(4), now + seconds(60)), given(None));
    }

    #[test]
    fn one_that_could_not_be_given_is_asked_for_again() {
        let (mut places, now) = (Places::<u32>::new(LIMITS), Instant::now());
        places.decide(source(1), now);
        places.give_up(source(1));
        assert_eq!(places.decide(source(1), now), given(None));
    }

    #[test]
    fn what_is_idle_is_taken_back() {
        let (mut places, now) = (Places::new(LIMITS), Instant::now());
        for (last, clone) in [(1, 10), (2, 20)] {
            places.decide(source(last), now);
            places.give(source(last), clone, now);
        }
        places.saw(source(2), 1, now + seconds(300));
        assert_eq!(places.expire(now + seconds(599)), []);
        assert_eq!(places.expire(now + seconds(600)), [(source(1), 10)]);
        assert_eq!(places.expire(now + seconds(900)), [(source(2), 20)]);
    }
}
