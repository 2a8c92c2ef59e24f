//! Names for domains and snapshots (RFC 9562, version 4).

use jiff::Timestamp;

/// A new one.
pub fn random() -> [u8; 16] {
    let mut uuid = [0; 16];
    if getrandom::fill(&mut uuid).is_err() {
        // Without randomness they are still to differ within this box.
        uuid[..8].copy_from_slice(&Timestamp::now().as_microsecond().to_be_bytes());
    }
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// The usual text form.
pub fn text(uuid: [u8; 16]) -> String {
    let hex = hex::encode(uuid);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
