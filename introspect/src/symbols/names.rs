//! Names to numbers: an index over names that lie elsewhere, one sorted run of integers, built without a string of its own.

/// From a name to the number of what bears it. The names stay with the caller, who is asked for them when hashes are equal.
#[derive(Debug, Clone, Default)]
pub struct NameIndex {
    /// Hash in the upper half, number in the lower one; sorted, so that the lowest number of a name comes first.
    entries: Vec<u64>,
}

impl NameIndex {
    /// Indexes names; where one is there twice, the lower number will be found.
    pub fn new<'a>(names: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let entries = names.map(|(name, number)| u64::from(hash(name)) << 32 | u64::from(number));
        let mut entries: Vec<u64> = entries.collect();
        entries.sort_unstable();
        Self { entries }
    }

    /// All numbers that bear a name, lowest first.
    pub fn find<'a>(
        &self,
        name: &str,
        name_of: impl Fn(u32) -> Option<&'a str>,
    ) -> impl Iterator<Item = u32> {
        let hash = hash(name);
        let first = self.entries.partition_point(|entry| (entry >> 32) < u64::from(hash));
        let alike = self.entries[first..].iter().take_while(move |entry| *entry >> 32 == u64::from(hash));
        alike.map(|entry| *entry as u32).filter(move |number| name_of(*number) == Some(name))
    }
}

/// FNV-1a: names come from a kernel that we chose ourselves, so that nobody aims at its collisions.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
