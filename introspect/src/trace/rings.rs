//! The rings of all vcpus as one sequence. What has caused a record was written before it, perhaps to another ring: it comes first.

use super::record::Record;
use super::ring::Ring;

/// All rings of a domain.
pub struct Rings(Vec<Ring>);

impl Rings {
    /// In the order of the vcpus.
    pub fn new(rings: Vec<Ring>) -> Rings {
        Rings(rings)
    }

    /// Each of them.
    pub fn all(&self) -> &[Ring] {
        &self.0
    }

    /// The oldest record of those that are next in their rings, and the ring it was in.
    pub fn take(&mut self) -> Option<(usize, Record)> {
        let mut times = self.times();
        // A ring that was empty may have got the cause of what was found in one that was looked at later.
        if self.0.len() > 1 && times.iter().any(Option::is_none) && times.iter().any(Option::is_some) {
            times = self.times();
        }
        let (_, oldest) = times.iter().enumerate().filter_map(|(at, time)| Some(((*time)?, at))).min()?;
        Some((oldest, self.0[oldest].take().ok()??))
    }

    fn times(&mut self) -> Vec<Option<u64>> {
        self.0.iter_mut().map(time).collect()
    }

    /// Has this ring nothing more?
    pub fn is_empty(&mut self, ring: usize) -> bool {
        time(&mut self.0[ring]).is_none()
    }
}

/// The time of a ring's next record.
fn time(ring: &mut Ring) -> Option<u64> {
    match ring.peek() {
        Ok(record) => record.map(|record| record.time_ns),
        Err(error) => {
            tracing::warn!(%error, "the guest wrote to its trace");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use honeyvmm::memory::{Access, Region};
    use honeyvmm::shim::trace::Trace;
    use honeyvmm::shim::{Layout, SHIM_GPA, window};

    use super::*;

    fn put(shim: &Region, vcpu: u32, times_ns: &[u64]) {
        let base = Layout { ram_bytes: 0, vcpus: 2 }.window_gpa(vcpu);
        for (at, time_ns) in times_ns.iter().enumerate() {
            let mut bytes = [0; 80];
            bytes[0] = 80;
            bytes[4] = 2;
            bytes[8..16].copy_from_slice(&time_ns.to_le_bytes());
            shim.write(base.offset(window::RING + 80 * at as u64), &bytes).unwrap();
        }
        shim.write_u64(base.offset(window::TRACE + 8), 80 * times_ns.len() as u64).unwrap();
    }

    #[test]
    fn records_of_two_vcpus_come_by_their_time() {
        let layout = Layout { ram_bytes: 0, vcpus: 2 };
        let shim = Region::anonymous(SHIM_GPA, layout.shim_bytes().max(32 << 20)).unwrap();
        let ring = |vcpu| Ring::new(Trace::new(&shim, vcpu).unwrap());
        let mut rings = Rings::new(vec![ring(0), ring(1)]);
        put(&shim, 0, &[10, 40]);
        put(&shim, 1, &[20, 30, 50]);
        let taken: Vec<_> =
            std::iter::from_fn(|| rings.take()).map(|(ring, record)| (ring, record.time_ns)).collect();
        assert_eq!(taken, [(0, 10), (1, 20), (1, 30), (0, 40), (1, 50)]);
        assert!(rings.is_empty(0) && rings.is_empty(1));
    }
}
