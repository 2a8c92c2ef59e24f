//! MAC learning: behind which uplink an outside address was last seen. Vifs' addresses are known and never learned.

use std::collections::HashMap;

use super::PortId;
use crate::packet::Mac;

/// Addresses that are remembered; a flood of made-up ones then only costs unknown ones their shortcut.
const MACS_MAX: usize = 4096;
/// Ageing time of IEEE 802.1D.
const AGE_US: u64 = 300 * 1_000_000;

#[derive(Debug, Default)]
pub(super) struct MacTable {
    places: HashMap<Mac, (PortId, u64)>,
}

impl MacTable {
    pub fn learn(&mut self, mac: Mac, port: PortId, now_us: u64) {
        if self.places.len() < MACS_MAX || self.places.contains_key(&mac) {
            self.places.insert(mac, (port, now_us));
        }
    }

    pub fn port_of(&self, mac: Mac) -> Option<PortId> {
        self.places.get(&mac).map(|(port, _)| *port)
    }

    pub fn forget(&mut self, port: PortId) {
        self.places.retain(|_, (place, _)| *place != port);
    }

    pub fn expire(&mut self, now_us: u64) {
        self.places.retain(|_, (_, seen_us)| seen_us.saturating_add(AGE_US) > now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_addresses_leaves_known_ones_where_they_are() {
        let mut table = MacTable::default();
        table.learn([2; 6], PortId(1), 0);
        for number in 0..2 * MACS_MAX as u32 {
            let [a, b, c, d] = number.to_be_bytes();
            table.learn([6, 6, a, b, c, d], PortId(2), 0);
        }
        assert_eq!(table.places.len(), MACS_MAX);
        assert_eq!(table.port_of([2; 6]), Some(PortId(1)));
        table.expire(AGE_US);
        assert_eq!(table.port_of([2; 6]), None);
    }
}
