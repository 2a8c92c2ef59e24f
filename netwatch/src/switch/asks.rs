//! Which clone asked for whose hardware address. All clones of a pool have one MAC, so an ARP reply (RFC 826) says
//! nothing of who is to get it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::Ipv4Addr;

use super::PortId;

/// Questions of one clone that may be open; a clone that scans pushes out its own.
const ASKS_OF_PORT_MAX: usize = 16;
/// Linux asks three times, a second apart; what comes later is not waited for.
const ASK_US: u64 = 3_000_000;

#[derive(Debug, Default)]
pub(super) struct Asks {
    // Every entry of `times` once, oldest first, by who asked.
    of_port: HashMap<PortId, VecDeque<Ipv4Addr>>,
    times: BTreeMap<(Ipv4Addr, PortId), u64>,
}

impl Asks {
    /// Notes that a clone asked for an address.
    pub fn ask(&mut self, port: PortId, address: Ipv4Addr, now_us: u64) {
        if self.times.insert((address, port), now_us).is_some() {
            return;
        }
        let asked = self.of_port.entry(port).or_default();
        asked.push_back(address);
        if asked.len() > ASKS_OF_PORT_MAX
            && let Some(oldest) = asked.pop_front()
        {
            self.times.remove(&(oldest, port));
        }
    }

    /// Who waits for an answer about this address.
    pub fn askers(&self, address: Ipv4Addr, now_us: u64) -> impl Iterator<Item = PortId> {
        let about = (address, PortId(0))..=(address, PortId(usize::MAX));
        let is_open = move |at_us: u64| at_us.saturating_add(ASK_US) >= now_us;
        self.times.range(about).filter(move |(_, at_us)| is_open(**at_us)).map(|((_, port), _)| *port)
    }

    /// Forgets a port.
    pub fn forget(&mut self, port: PortId) {
        for address in self.of_port.remove(&port).unwrap_or_default() {
            self.times.remove(&(address, port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn askers(asks: &Asks, address: Ipv4Addr, now_us: u64) -> Vec<PortId> {
        asks.askers(address, now_us).collect()
    }

    #[test]
    fn an_answer_goes_to_those_who_asked_lately() {
        let mut asks = Asks::default();
        asks.ask(PortId(3), GATEWAY, 0);
        asks.ask(PortId(5), GATEWAY, 2_000_000);
        asks.ask(PortId(4), Ipv4Addr::new(10, 77, 0, 2), 2_000_000);
        assert_eq!(askers(&asks, GATEWAY, 2_000_000), [PortId(3), PortId(5)]);
        assert_eq!(askers(&asks, GATEWAY, 4_000_000), [PortId(5)]);
        asks.forget(PortId(5));
        assert!(askers(&asks, GATEWAY, 2_000_000).len() == 1 && asks.of_port.len() == 2);
    }

    #[test]
    fn a_clone_that_scans_pushes_out_its_own_questions_only() {
        let mut asks = Asks::default();
        asks.ask(PortId(1), GATEWAY, 0);
        asks.ask(PortId(2), GATEWAY, 0);
        for number in 0..1000_u32 {
            asks.ask(PortId(2), Ipv4Addr::from(0x0a00_0000 + number), 0);
        }
        assert_eq!(asks.times.len(), 1 + ASKS_OF_PORT_MAX);
        assert_eq!(askers(&asks, GATEWAY, 0), [PortId(1)]);
    }
}
