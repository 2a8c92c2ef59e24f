//! The peer's network: a namespace of its own with a TAP device in it, where the host's end has an address. The namespace
//! leads nowhere.

use std::net::Ipv4Addr;
use std::time::Duration;

use netwatch::netns;

use crate::cleanup::{self, Cleanup};
use crate::project;

const IP_LIMIT: Duration = Duration::from_secs(10);

/// A network with one cable.
pub struct PeerNetwork {
    /// Name of its namespace.
    pub namespace: String,
    /// The TAP device in it.
    pub tap: &'static str,
    /// The guest's MAC address.
    pub mac: &'static str,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The host's address in it.
    pub gateway: Ipv4Addr,
    _end: Cleanup,
}

impl PeerNetwork {
    /// A network with another cable, for a second machine of the same kind: what it is plugged into leads nowhere.
    pub fn second_cable(&self, tap: &'static str) -> anyhow::Result<PeerNetwork> {
        self.ip(&["tuntap", "add", "dev", tap, "mode", "tap"])?;
        self.ip(&["link", "set", tap, "up"])?;
        let end = cleanup::at_end(|| ());
        Ok(PeerNetwork { namespace: self.namespace.clone(), tap, _end: end, ..*self })
    }

    /// Makes it; removed when dropped.
    pub fn make() -> anyhow::Result<PeerNetwork> {
        let namespace = format!("hn-bench-peer-{}", std::process::id());
        netns::create(&namespace)?;
        let removed = namespace.clone();
        let end = cleanup::at_end(move || {
            let _ = netns::delete(&removed);
        });
        let network = PeerNetwork {
            namespace,
            tap: "tap0",
            mac: "52:54:00:77:00:0a",
            address: Ipv4Addr::new(10, 77, 0, 10),
            gateway: Ipv4Addr::new(10, 77, 0, 1),
            _end: end,
        };
        network.ip(&["tuntap", "add", "dev", network.tap, "mode", "tap"])?;
        network.ip(&["address", "add", &format!("{}/24", network.gateway), "dev", network.tap])?;
        network.ip(&["link", "set", network.tap, "up"])?;
        Ok(network)
    }

    fn ip(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let inside = [&["-n", &self.namespace], arguments].concat();
        project::output_of("ip", &inside, IP_LIMIT).map(drop)
    }
}
