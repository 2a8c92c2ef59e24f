//! The one binary: command line and toolstack; it re-executes itself for each process of the honeynet.
fn main() {}
