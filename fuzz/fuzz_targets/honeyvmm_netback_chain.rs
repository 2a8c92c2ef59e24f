//! A transmit ring of any bytes holds packets or a named lie, never a panic; a sound packet's pieces add up.
#![no_main]

use honeyvmm::netback::{ChainError, Packet, TX_REQUEST_BYTES};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let slots = data.as_chunks::<TX_REQUEST_BYTES>().0;
    let parsed = Packet::parse::<ChainError>(|ahead| Ok(slots.get(ahead as usize).copied()));
    if let Ok(Some(packet)) = parsed {
        assert!(packet.slots() <= slots.len());
        let total: u32 = packet.pieces.iter().map(|piece| u32::from(piece.bytes)).sum();
        assert!(!packet.sound || total == u32::from(packet.bytes));
    }
});
