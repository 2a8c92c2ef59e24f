//! A capture file through the inspector: what would have alerted, and every flow. Reads with libpcap.

use std::path::Path;

use super::flow::FlowRecord;
use super::inspect::{Inspector, Verdict};
use crate::packet::{Direction, Packet};

/// Why a capture could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// libpcap cannot open or go on reading it.
    #[error("capture cannot be read: {path}")]
    Capture {
        /// The file.
        path: String,
        /// libpcap's reason.
        source: pcap::Error,
    },
    /// Only Ethernet is decoded.
    #[error("capture is not of ethernet but of link type {link_type}: {path}")]
    LinkType {
        /// The file.
        path: String,
        /// Its link type, as libpcap numbers them.
        link_type: i32,
    },
}

/// What a capture amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineReport {
    /// Packets read.
    pub packets: u64,
    /// Alerts given.
    pub alerts: u64,
    /// All flows, ended by the end of the file.
    pub flows: Vec<FlowRecord>,
}

/// Inspects a capture file. `each` is called for every packet that a rule did something about: packet number from 1, time in
/// microseconds since the Unix epoch, verdict.
pub fn offline(
    path: &Path,
    inspector: &mut Inspector,
    mut each: impl FnMut(u64, u64, &Verdict),
) -> Result<OfflineReport, OfflineError> {
    let name = path.display().to_string();
    let failed = |source| OfflineError::Capture { path: name.clone(), source };
    let mut capture = pcap::Capture::from_file(path).map_err(failed)?;
    let link_type = capture.get_datalink();
    if link_type != pcap::Linktype::ETHERNET {
        return Err(OfflineError::LinkType { path: name.clone(), link_type: link_type.0 });
    }
    let mut report = OfflineReport { packets: 0, alerts: 0, flows: Vec::new() };
    loop {
        let captured = match capture.next_packet() {
            Ok(captured) => captured,
            Err(pcap::Error::NoMorePackets) => break,
            Err(error) => return Err(failed(error)),
        };
        let seconds = u64::try_from(captured.header.ts.tv_sec).unwrap_or(0);
        let micros = u64::try_from(captured.header.ts.tv_usec).unwrap_or(0);
        let packet = Packet::decode(captured.data, seconds.saturating_mul(1_000_000).saturating_add(micros));
        let verdict = inspector.inspect(&packet, Direction::ToDecoy);
        report.packets += 1;
        report.alerts += verdict.alerts.len() as u64;
        if verdict.action > super::rule::Action::Pass {
            each(report.packets, packet.time_us, &verdict);
        }
    }
    report.flows = inspector.end_all();
    Ok(report)
}
