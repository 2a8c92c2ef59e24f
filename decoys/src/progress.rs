//! What a long build tells its caller.

/// Told of steps and of how far they are. The command line shows them; tests listen.
pub trait Progress: Sync {
    /// A step begins.
    fn step(&self, name: &str);
    /// How far the step is, 0 to 100.
    fn percent(&self, percent: u8);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _name: &str) {}
    fn percent(&self, _percent: u8) {}
}
