//! Domains that run real guests: Debian's kernel with an ordinary program, with a hostile one, and hostile kernels.
//!
//! `linux`, `crowd`, `hostile` and `devices` run on whatever KVM this machine has; `svm` runs the very same tests in an emulated host with SVM, by
//! putting this test program itself (and the libraries that it is linked to) in that host's initramfs: nothing is built a second time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod crowd;
mod devices;
mod domain;
mod hostile;
mod linux;
mod programs;
mod svm;
