//! Recipes of decoy machines, and the builder that makes disk images of them.

mod command;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod progress;
pub mod recipe;

pub use command::CommandError;
