//! Symbols of a kernel are read without a panic, whatever the tables say. The token table, which no chance would find, is given;
//! the input says what lies before and behind it.
#![no_main]

use honeyvmm::memory::Gva;
use introspect::symbols::kallsyms::Kallsyms;
use introspect::symbols::segments::{Run, Segments};

const START: Gva = Gva(0xffff_ffff_8100_0000);

/// A token for each byte that may stand in a name, and their index.
fn tokens() -> Vec<u8> {
    let (mut tokens, mut index) = (Vec::new(), Vec::new());
    for byte in 0..=255_u8 {
        index.extend_from_slice(&(tokens.len() as u16).to_le_bytes());
        tokens.extend(byte.is_ascii_graphic().then_some(byte));
        tokens.push(0);
    }
    tokens.resize(tokens.len().next_multiple_of(8), 0);
    tokens.extend(index);
    tokens
}

/// 512 symbols with two markers, packed as the kernel's are; the first one is the banner.
fn names() -> Vec<u8> {
    let mut bytes = 512_u64.to_le_bytes().to_vec();
    let mut marker = 0;
    for number in 0..512 {
        if number == 256 {
            marker = bytes.len() as u32 - 8;
        }
        let name = if number == 0 { "Dlinux_banner".to_owned() } else { format!("tf{number}") };
        bytes.push(name.len() as u8);
        bytes.extend(name.bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend([0_u32.to_le_bytes(), marker.to_le_bytes()].concat());
    bytes
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // The first two bytes: how much lies before; then patches of the middle, five bytes each, as long as the third byte says.
    let Some((&[split_low, split_high, patches], rest)) = input.split_first_chunk() else { return };
    let (patches, rest) = rest.split_at(rest.len().min(5 * usize::from(patches)));
    let (before, behind) =
        rest.split_at(rest.len().min(usize::from(u16::from_le_bytes([split_low, split_high]))));
    let mut middle = [names(), tokens()].concat();
    for patch in patches.chunks_exact(5) {
        let at = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % (middle.len() - 3);
        middle[at..at + 3].copy_from_slice(&patch[2..]);
    }
    let mut bytes = b"Linux version 6\n\0".to_vec();
    bytes.extend(before);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(middle);
    bytes.extend(behind);
    let kernel = Segments::new(vec![Run { start: START, bytes: &bytes }]);
    let Ok(kallsyms) = Kallsyms::decode(&kernel) else { return };
    for symbol in kallsyms.symbols() {
        assert!(kallsyms.find(symbol.name).is_some_and(|found| found.address <= symbol.address));
        assert_eq!(kallsyms.nearest(symbol.address).map(|found| found.address), Some(symbol.address));
    }
});
