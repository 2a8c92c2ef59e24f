//! A frame of any bytes has a transport header within itself or none; completing its checksum changes two bytes of it at most.
#![no_main]

use honeyvmm::netback::{Transport, complete_checksum};
use vifport::{FLAG_NEEDS_CSUM, FrameMeta};

/// Completes the checksum as `meta` says; what stands in the frame afterwards.
fn completed(frame: &[u8], meta: &FrameMeta) -> Vec<u8> {
    let mut changed = frame.to_vec();
    complete_checksum(&mut changed, meta);
    assert_eq!(changed.len(), frame.len());
    let at = usize::from(meta.csum_start) + usize::from(meta.csum_offset);
    let elsewhere = |place: usize| place != at && place != at + 1;
    assert!((0..frame.len()).filter(|place| elsewhere(*place)).all(|place| changed[place] == frame[place]));
    changed
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(([a, b, c, d], frame)) = data.split_first_chunk::<4>() else { return };
    // What the frame itself says, as for a frame of the guest.
    if let Some(transport) = Transport::find(frame) {
        assert!(transport.start >= 14 && transport.headers > transport.start);
        assert!(usize::from(transport.headers) <= frame.len());
        assert!(transport.start + transport.checksum + 2 <= transport.headers);
        let meta = FrameMeta {
            flags: FLAG_NEEDS_CSUM,
            csum_start: transport.start,
            csum_offset: transport.checksum,
            hdr_len: transport.headers,
            ..FrameMeta::default()
        };
        meta.check(frame.len() as u32).expect("what was found in a frame is right for that frame");
        let once = completed(frame, &meta);
        assert_eq!(Transport::find(&once), Some(transport), "the checksum is no part of what is found");
    }
    // What anybody says, as for a frame of the switch.
    let (csum_start, csum_offset) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
    completed(frame, &FrameMeta { flags: FLAG_NEEDS_CSUM, csum_start, csum_offset, ..FrameMeta::default() });
});
