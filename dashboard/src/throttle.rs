//! How often a password may be tried: a bucket for each address and one for all. Pure; time is passed in.
//!
//! Whoever fills the bucket of all locks the others out of the login for a while, but not out of a session, and not a script that has
//! the API token. That is the better of two evils: a password that can be tried without limit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Tries of one address at once, and the time after which it has one more.
const ADDRESS_BURST: f64 = 5.0;
const ADDRESS_REFILL: Duration = Duration::from_secs(20);
/// The same for all addresses together.
const ALL_BURST: f64 = 30.0;
const ALL_REFILL: Duration = Duration::from_secs(2);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tries: f64,
    at: Instant,
}

impl Bucket {
    /// What is in it now.
    fn level(&self, burst: f64, refill: Duration, now: Instant) -> f64 {
        let grown = now.duration_since(self.at).as_secs_f64() / refill.as_secs_f64();
        (self.tries + grown).min(burst)
    }
}

/// The buckets.
#[derive(Debug)]
pub struct Throttle {
    addresses: HashMap<IpAddr, Bucket>,
    all: Bucket,
}

/// Too many tries: when the next is heard.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl Throttle {
    /// Full buckets.
    pub fn new(now: Instant) -> Throttle {
        Throttle { addresses: HashMap::new(), all: Bucket { tries: ALL_BURST, at: now } }
    }

    /// Takes a try, if there is one; a refused one takes nothing.
    pub fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Wait> {
        let address = household(address);
        let all = self.all.level(ALL_BURST, ALL_REFILL, now);
        let known = self.addresses.get(&address);
        let own = known.map_or(ADDRESS_BURST, |bucket| bucket.level(ADDRESS_BURST, ADDRESS_REFILL, now));
        if own < 1.0 {
            return Err(Wait(ADDRESS_REFILL.mul_f64(1.0 - own)));
        }
        if all < 1.0 {
            return Err(Wait(ALL_REFILL.mul_f64(1.0 - all)));
        }
        self.make_room(now);
        self.all = Bucket { tries: all - 1.0, at: now };
        self.addresses.insert(address, Bucket { tries: own - 1.0, at: now });
        Ok(())
    }

    /// The try was right: the address starts anew.
    pub fn forgive(&mut self, address: IpAddr, now: Instant) {
        self.addresses.remove(&household(address));
        let all = self.all.level(ALL_BURST, ALL_REFILL, now);
        self.all = Bucket { tries: (all + 1.0).min(ALL_BURST), at: now };
    }

    /// Forgets those whose bucket is full again, and if that is not enough, everybody: the bucket of all still holds.
    fn make_room(&mut self, now: Instant) {
        if self.addresses.len() < ADDRESSES_MAX {
            return;
        }
        self.addresses.retain(|_, bucket| bucket.level(ADDRESS_BURST, ADDRESS_REFILL, now) < ADDRESS_BURST);
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.clear();
        }
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_waits_after_its_tries_and_others_do_not() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        for _ in 0..5 {
            assert_eq!(throttle.take(address("10.0.0.1"), now), Ok(()));
        }
        assert_eq!(throttle.take(address("10.0.0.1"), now), Err(Wait(ADDRESS_REFILL)));
        assert_eq!(throttle.take(address("10.0.0.2"), now), Ok(()));
        assert_eq!(throttle.take(address("10.0.0.1"), now + ADDRESS_REFILL), Ok(()));
        assert!(throttle.take(address("10.0.0.1"), now + ADDRESS_REFILL).is_err());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        for n in 0..5 {
            assert_eq!(throttle.take(address(&format!("2001:db8::{n}")), now), Ok(()));
        }
        assert!(throttle.take(address("2001:db8::ffff"), now).is_err());
        assert!(throttle.take(address("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn all_addresses_together_have_a_limit() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        let heard = (0..100).filter(|n| throttle.take(address(&format!("10.0.1.{n}")), now).is_ok()).count();
        assert_eq!(heard, 30);
        assert!(throttle.take(address("10.0.2.1"), now + ALL_REFILL).is_ok());
    }

    #[test]
    fn a_right_password_gives_the_tries_back() {
        let now = Instant::now();
        let mut throttle = Throttle::new(now);
        for _ in 0..50 {
            assert_eq!(throttle.take(address("10.0.0.1"), now), Ok(()));
            throttle.forgive(address("10.0.0.1"), now);
        }
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let mut now = Instant::now();
        let mut throttle = Throttle::new(now);
        for n in 0..2 * ADDRESSES_MAX as u32 {
            now += ALL_REFILL;
            throttle.take(IpAddr::V4(n.into()), now).unwrap();
            assert!(throttle.addresses.len() <= ADDRESSES_MAX);
        }
    }
}
