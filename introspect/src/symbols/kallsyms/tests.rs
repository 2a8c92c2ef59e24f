use super::*;
use crate::symbols::segments::Run;

const BASE: u64 = 0xffff_ffff_8100_0000;
const BANNER: &[u8] = b"Linux version 6.1.0\n\0";
/// Where the tables start in the image, behind the banner.
const TABLES: usize = 256;

/// A kernel of one segment with `count` symbols, the first one per-cpu, packed as scripts/kallsyms.c does it, with tokens of one
/// letter each.
struct Kernel {
    bytes: Vec<u8>,
    /// Behind each table.
    ends: Vec<usize>,
}

fn symbols(count: usize) -> Vec<(i64, String)> {
    let mut symbols = vec![(0x40, "Acurrent_task".to_owned()), (0, "Dlinux_banner".to_owned())];
    symbols.extend((2..count).map(|i| (i as i64 * 16, format!("tfunction_{i}"))));
    symbols
}

impl Kernel {
    fn new(layout: Layout, seqs: bool, symbols: &[(i64, String)]) -> Kernel {
        let mut kernel = Kernel { bytes: BANNER.to_vec(), ends: Vec::new() };
        kernel.bytes.resize(TABLES, 0xcc);
        let base = BASE.to_le_bytes();
        let number = |index: usize, address: i64| {
            let percpu = symbols[index].1.starts_with('A');
            (match layout {
                Layout::OffsetsFirst(Base::AbsolutePercpu) | Layout::OffsetsLast(Base::AbsolutePercpu) => {
                    if percpu {
                        address
                    } else {
                        -1 - address
                    }
                }
                _ => address,
            }) as i32
        };
        let offsets = symbols.iter().enumerate().flat_map(|(i, (at, _))| number(i, *at).to_le_bytes());
        let offsets: Vec<u8> = offsets.collect();
        if matches!(layout, Layout::OffsetsFirst(_)) {
            kernel.table(&offsets);
            kernel.table(&base);
        }
        kernel.table(&(symbols.len() as u32).to_le_bytes());
        let (names, markers) = pack(symbols);
        kernel.table(&names);
        kernel.table(&markers);
        if seqs && matches!(layout, Layout::OffsetsFirst(_)) {
            kernel.table(&vec![0xff; 3 * symbols.len()]);
        }
        let (tokens, index) = tokens();
        kernel.table(&tokens);
        kernel.table(&index);
        match layout {
            Layout::OffsetsFirst(_) => {}
            Layout::OffsetsLast(_) => {
                kernel.table(&offsets);
                kernel.table(&base);
            }
            Layout::SelfRelative => {
                let start = kernel.bytes.len();
                let relative = symbols
                    .iter()
                    .enumerate()
                    .flat_map(|(i, (address, _))| (*address as i32 - (start + 4 * i) as i32).to_le_bytes());
                let relative: Vec<u8> = relative.collect();
                kernel.table(&relative);
            }
        }
        kernel
    }

    fn table(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.ends.push(self.bytes.len());
    }

    fn decode(&self) -> Result<Kallsyms, KallsymsError> {
        decode(&self.bytes)
    }
}

fn decode(bytes: &[u8]) -> Result<Kallsyms, KallsymsError> {
    Kallsyms::decode(&Segments::new(vec![Run { start: Gva(BASE), bytes }]))
}

/// Names and markers.
fn pack(symbols: &[(i64, String)]) -> (Vec<u8>, Vec<u8>) {
    let (mut names, mut markers) = (Vec::new(), Vec::new());
    for (i, (_, name)) in symbols.iter().enumerate() {
        if i % 256 == 0 {
            markers.extend_from_slice(&(names.len() as u32).to_le_bytes());
        }
        match name.len() {
            short @ ..0x80 => names.push(short as u8),
            long => names.extend_from_slice(&[(long & 0x7f) as u8 | 0x80, (long >> 7) as u8]),
        }
        names.extend_from_slice(name.as_bytes());
    }
    (names, markers)
}

fn tokens() -> (Vec<u8>, Vec<u8>) {
    let (mut tokens, mut index) = (Vec::new(), Vec::new());
    for byte in 0..=255_u8 {
        index.extend_from_slice(&(tokens.len() as u16).to_le_bytes());
        tokens.extend(byte.is_ascii_graphic().then_some(byte));
        tokens.push(0);
    }
    (tokens, index)
}

const FIRST: Layout = Layout::OffsetsFirst(Base::AbsolutePercpu);
const LAST: Layout = Layout::OffsetsLast(Base::AbsolutePercpu);

#[track_caller]
fn check(layout: Layout, seqs: bool, count: usize) {
    let kallsyms = Kernel::new(layout, seqs, &symbols(count)).decode().unwrap();
    assert_eq!(kallsyms.layout(), layout);
    assert_eq!(kallsyms.symbols().len(), count);
    let last = kallsyms.find(&format!("function_{}", count - 1)).unwrap();
    assert_eq!((last.address, last.letter), (Gva(BASE + 16 * (count as u64 - 1)), 't'));
    assert_eq!(kallsyms.find("linux_banner").unwrap().address, Gva(BASE));
    assert_eq!(kallsyms.tables().seqs.is_some(), seqs);
}

#[test]
fn all_layouts_are_read() {
    for count in [600, 512, 513, 2000] {
        check(FIRST, false, count);
        check(FIRST, true, count);
        check(Layout::OffsetsFirst(Base::Relative), false, count);
        check(LAST, true, count);
        check(Layout::OffsetsLast(Base::Relative), true, count);
        check(Layout::SelfRelative, true, count);
    }
}

#[test]
fn per_cpu_symbols_are_offsets() {
    for layout in [FIRST, LAST] {
        let kallsyms = Kernel::new(layout, false, &symbols(600)).decode().unwrap();
        let current = kallsyms.find("current_task").unwrap();
        assert_eq!((current.address, current.letter), (Gva(0x40), 'A'));
    }
}

#[test]
fn names_of_more_than_127_tokens_are_read() {
    let mut symbols = symbols(600);
    let long = "x".repeat(NAME_BYTES_MAX - 1);
    symbols[300].1 = format!("T{long}");
    let kallsyms = Kernel::new(FIRST, false, &symbols).decode().unwrap();
    assert_eq!(kallsyms.find(&long).unwrap().address, Gva(BASE + 4800));
    symbols[300].1.push('x');
    assert!(matches!(Kernel::new(FIRST, false, &symbols).decode(), Err(KallsymsError::NoNames(_))));
}

#[test]
fn the_lowest_of_a_name_and_the_first_of_an_address_win() {
    let mut symbols = symbols(600);
    symbols[20].1 = "tfunction_10".to_owned();
    symbols[31] = (30 * 16, "Talias".to_owned());
    let kallsyms = Kernel::new(FIRST, false, &symbols).decode().unwrap();
    assert_eq!(kallsyms.find("function_10").unwrap().address, Gva(BASE + 160));
    assert_eq!(kallsyms.nearest(Gva(BASE + 30 * 16 + 7)).unwrap().name, "function_30");
    assert_eq!(kallsyms.next_address(Gva(BASE + 30 * 16)), Some(Gva(BASE + 32 * 16)));
    let names = kallsyms.first_of_each_name();
    assert_eq!(names.filter(|symbol| symbol.name == "function_10").count(), 1);
}

#[test]
fn what_is_not_there_is_said() {
    assert_eq!(decode(&[]).unwrap_err(), KallsymsError::NoTokenTable);
    assert_eq!(decode(&[0; 4096]).unwrap_err(), KallsymsError::NoTokenTable);
    let good = Kernel::new(LAST, false, &symbols(600));
    // num_syms, names, markers, token_table, token_index, offsets, relative_base.
    type IsExpected = fn(&KallsymsError) -> bool;
    let cases: [(usize, &[u8], IsExpected); 6] = [
        (good.ends[0] - 8, &[0; 4], |error| matches!(error, KallsymsError::NoNames(_))),
        (good.ends[0] - 8, &[0xff; 4], |error| matches!(error, KallsymsError::NoNames(_))),
        (good.ends[0], &[1], |error| matches!(error, KallsymsError::NoNames(_))),
        (good.ends[1] + 4, &[0; 4], |error| matches!(error, KallsymsError::NoNames(_))),
        (good.ends[3] + 2, &[9, 9], |error| *error == KallsymsError::NoTokenTable),
        (good.ends[5], &[0; 8], |error| *error == KallsymsError::NoAddresses(600)),
    ];
    for (at, damage, is_expected) in cases {
        let mut bytes = good.bytes.clone();
        bytes[at..at + damage.len()].copy_from_slice(damage);
        let error = decode(&bytes).unwrap_err();
        assert!(is_expected(&error), "{at}: {error}");
    }
    let mut unnamed = symbols(600);
    unnamed[1].1 = "Dlinux_bunner".to_owned();
    assert_eq!(Kernel::new(LAST, false, &unnamed).decode().unwrap_err(), KallsymsError::NoBanner(600));
}

#[test]
fn no_cut_and_no_wrong_byte_is_a_panic() {
    for layout in [FIRST, LAST, Layout::SelfRelative] {
        let kernel = Kernel::new(layout, true, &symbols(520));
        for end in (0..kernel.bytes.len()).step_by(61) {
            let _ = decode(&kernel.bytes[..end]);
        }
        let mut bytes = kernel.bytes.clone();
        for at in (TABLES..bytes.len()).step_by(13) {
            for wrong in [0, 0xff] {
                let right = std::mem::replace(&mut bytes[at], wrong);
                let _ = decode(&bytes).map(|kallsyms| kallsyms.symbols().count());
                bytes[at] = right;
            }
        }
    }
}
