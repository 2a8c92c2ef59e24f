//! The vifs of a domain that is being built, at the switch; pulled out again if the domain does not come up.

use super::launch::Plan;
use super::network::{Network, Seat, SwitchError};
use super::resources::Vif;

/// They are pulled out when this is dropped.
pub struct Plugs<'a> {
    network: &'a Network,
    domid: u32,
}

impl Plugs<'_> {
    /// Plugs all of them in. A clone's further interfaces have the same addresses as its parent's, so they are in no network.
    pub fn plug<'a>(network: &'a Network, plan: &Plan, vifs: &[Vif]) -> Result<Plugs<'a>, SwitchError> {
        let plugs = Plugs { network, domid: plan.domid };
        let count = if plan.beginning.seat == Seat::Own { vifs.len() } else { 1 };
        for (index, vif) in vifs.iter().enumerate().take(count) {
            let address = plan.file.vifs.get(index).and_then(|spec| spec.ip);
            let address = address.or(if index == 0 { plan.file.address } else { None });
            let seat = plan.beginning.seat.clone();
            network.plug(&plan.file.name, plan.domid, &vif.mac, address, &vif.port, seat)?;
        }
        Ok(plugs)
    }

    /// The domain has come up: they stay.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Plugs<'_> {
    fn drop(&mut self) {
        self.network.unplug(self.domid);
    }
}
