//! File integrity from outside: what changed on a decoy's disk since it was known to be good.
//!
//! Nothing runs in the decoy and nothing is mounted: the disk is any `Read + Seek` (a file, or the view of a base image
//! and its copy-on-write layer), read by our own reader of ext4. It must not change while it is read: pause the domain
//! for the copy of its layer, then scan the copy.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = fim::Policy::debian();
//! let now = jiff::Timestamp::now();
//! let disk = std::fs::File::open("decoy.img")?;
//! let baseline = fim::baseline(&policy, disk, "decoy", now, &mut |_| {})?;
//! std::fs::write("decoy.baseline", baseline.to_bytes())?;
//!
//! let baseline = fim::Baseline::parse(&std::fs::read("decoy.baseline")?)?;
//! let report = fim::check(&policy, &baseline, std::fs::File::open("decoy.img")?, now, &mut |_| {})?;
//! print!("{}", report.to_text());
//! let events = fim::changes_to_events(&report, "decoy", Some(1));
//! # Ok(())
//! # }
//! ```

mod attributes;
mod baseline;
mod check;
mod entry;
pub mod ext4;
mod notice;
mod pattern;
mod policy;
mod report;
mod scan;
pub mod volume;

pub use attributes::Attributes;
pub use baseline::{Baseline, BaselineError};
pub use check::{AttributeChange, Change, Report, baseline, check, compare};
pub use entry::{Entry, Kind};
pub use notice::changes_to_events;
pub use policy::{Policy, PolicyError, PolicyProblem};
pub use scan::{Limits, Problem, Progress, Scan, ScanError, scan};
