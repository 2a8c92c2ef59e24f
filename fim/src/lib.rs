//! File integrity, scanned from outside the decoy.
