//! What a peer sends in a migration: heads are refused, or the same bytes again; offers that pass their check name plain files; the rest is read or not.
#![no_main]

use honeynet::migration::wire::HEAD_BYTES;
use honeynet::migration::{Head, Offer, Rest};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(head) = bytes.first_chunk::<HEAD_BYTES>()
        && let Ok(decoded) = Head::decode(head)
    {
        assert_eq!(decoded.encode(), *head);
    }
    if let Ok(offer) = serde_json::from_slice::<Offer>(bytes)
        && offer.check().is_ok()
    {
        assert!(!offer.domain.name.contains('/'));
        assert!(offer.domain.disks.iter().all(|disk| !disk.vdev.contains('/')));
        assert_eq!(offer.images.len(), offer.domain.disks.len());
    }
    if let Ok(rest) = serde_json::from_slice::<Rest>(bytes) {
        drop(rest);
    }
});
