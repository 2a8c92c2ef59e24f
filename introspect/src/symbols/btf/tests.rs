use super::*;

/// A BTF section in the making.
#[derive(Default)]
struct Section {
    words: Vec<u32>,
    names: Vec<u8>,
    count: u32,
}

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const ENUM64: u32 = 19;
const KIND_FLAG: u32 = 1 << 31;

impl Section {
    fn new() -> Section {
        Section { names: vec![0], ..Section::default() }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.names.len() as u32;
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        at
    }

    /// Adds a record; gives its number.
    fn add(&mut self, kind: u32, name: &str, vlen: u32, size: u32, more: &[u32]) -> u32 {
        let name = self.name(name);
        let flag = kind & KIND_FLAG;
        self.words.extend_from_slice(&[name, flag | (kind & 0x1f) << 24 | vlen, size]);
        self.words.extend_from_slice(more);
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(INT, name, 0, bytes, &[bytes * 8])
    }

    /// Members of name, type, offset in bits.
    fn composite(&mut self, kind: u32, name: &str, bytes: u32, members: &[(&str, u32, u32)]) -> u32 {
        let words: Vec<u32> =
            members.iter().flat_map(|(name, target, offset)| [self.name(name), *target, *offset]).collect();
        self.add(kind, name, members.len() as u32, bytes, &words)
    }

    fn bytes(&self) -> Vec<u8> {
        let types = 4 * self.words.len() as u32;
        let header = [0x0001_eb9f, 24, 0, types, types, self.names.len() as u32];
        let words = header.iter().chain(&self.words).flat_map(|word| word.to_le_bytes());
        words.chain(self.names.iter().copied()).collect()
    }

    fn decode(&self) -> Btf {
        Btf::decode(&self.bytes()).unwrap()
    }
}

fn task() -> Section {
    let mut section = Section::new();
    let int = section.int("int", 4);
    let pointer = section.add(PTR, "", 0, int, &[]);
    let ints = section.add(ARRAY, "", 0, 0, &[int, int, 16]);
    let either = section.composite(UNION, "", 8, &[("left", int, 0), ("right", pointer, 0)]);
    let nested = section.composite(STRUCT, "", 16, &[("before", int, 0), ("", either, 64)]);
    let se = section.composite(STRUCT, "sched_entity", 16, &[("load", int, 32), ("run", pointer, 64)]);
    let alias = section.add(TYPEDEF, "se_t", 0, se, &[]);
    let flags = [("on", int, 1 << 24 | 640), ("cpu", int, 5 << 24 | 641), ("word", int, 672)];
    let members = [("se", alias, 0), ("", nested, 128), ("files", pointer, 256), ("comm", ints, 320)];
    let members: Vec<_> = members.into_iter().chain(flags).collect();
    // The whole is longer than its parts: sizes are believed.
    section.composite(STRUCT | KIND_FLAG, "task_struct", 100, &members);
    section
}

#[test]
fn members_are_found_by_path() {
    let btf = task().decode();
    let task = btf.find_type("task_struct").unwrap();
    let place = |path| btf.member(task, path).map(|found| (found.offset, found.bytes));
    for (path, expected) in [
        ("se", Some((0, 16))),
        ("se.load", Some((4, 4))),
        ("se.run", Some((8, 8))),
        ("before", Some((16, 4))),
        ("left", Some((24, 4))),
        ("right", Some((24, 8))),
        ("comm", Some((40, 64))),
        ("files.anything", None),
        ("se.", None),
        ("", None),
        (".se", None),
        ("se.load.x", None),
        ("none", None),
    ] {
        assert_eq!(place(path), expected, "{path}");
    }
}

#[test]
fn bitfields_lie_in_their_unit() {
    let btf = task().decode();
    let task = btf.find_type("task_struct").unwrap();
    let on = btf.member(task, "on").unwrap();
    assert_eq!((on.offset, on.bytes, on.bits), (80, 4, Some(Bits { shift: 0, count: 1 })));
    let cpu = btf.member(task, "cpu").unwrap();
    assert_eq!((cpu.offset, cpu.bits), (80, Some(Bits { shift: 1, count: 5 })));
    let word = btf.member(task, "word").unwrap();
    assert_eq!((word.offset, word.bits), (84, None));
}

#[test]
fn enumerators_have_their_sign_and_width() {
    let mut section = Section::new();
    let (a, b) = (section.name("A"), section.name("B"));
    section.add(ENUM | KIND_FLAG, "signed", 2, 4, &[a, u32::MAX, b, 7]);
    let c = section.name("C");
    section.add(ENUM, "unsigned", 1, 4, &[c, u32::MAX]);
    let d = section.name("D");
    section.add(ENUM64, "wide", 1, 8, &[d, 1, 2]);
    // A name that is there twice.
    section.add(ENUM, "again", 1, 4, &[b, 8]);
    let btf = section.decode();
    let expected =
        [("A", Some(-1)), ("B", Some(7)), ("C", Some(0xffff_ffff)), ("D", Some(0x2_0000_0001)), ("E", None)];
    for (name, value) in expected {
        assert_eq!(btf.enumerator(name), value, "{name}");
    }
}

#[test]
fn loops_and_huge_arrays_have_no_size() {
    let mut section = Section::new();
    section.add(TYPEDEF, "self", 0, 1, &[]);
    section.add(ARRAY, "", 0, 0, &[2, 2, 2]);
    let long = section.int("long", 8);
    let huge = section.add(ARRAY, "", 0, 0, &[long, long, u32::MAX]);
    let huger = section.add(ARRAY, "", 0, 0, &[huge, long, u32::MAX]);
    // A struct inside itself, without a name to stop at.
    let own = section.count + 1;
    section.composite(STRUCT, "own", 8, &[("", own, 0)]);
    let btf = section.decode();
    assert_eq!(btf.bytes_of(TypeId(1)), None);
    assert_eq!(btf.bytes_of(TypeId(2)), None);
    assert_eq!(btf.bytes_of(TypeId(huge)), Some(8 * u64::from(u32::MAX)));
    assert_eq!(btf.bytes_of(TypeId(huger)), None);
    assert_eq!(btf.bytes_of(TypeId(u32::MAX)), None);
    assert_eq!(btf.member(btf.find_type("own").unwrap(), "x"), None);
}

#[test]
fn what_is_not_btf_is_refused() {
    let good = task().bytes();
    let damaged = |at: usize, damage: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + damage.len()].copy_from_slice(damage);
        Btf::decode(&bytes).unwrap_err()
    };
    assert!(matches!(Btf::decode(&[]), Err(BtfError::Truncated { what: "the header", .. })));
    assert_eq!(damaged(0, &[0xeb, 0x9f]), BtfError::NotBtf([0xeb, 0x9f, 1]));
    assert_eq!(damaged(2, &[2]), BtfError::NotBtf([0x9f, 0xeb, 2]));
    assert!(matches!(damaged(4, &[0xff; 4]), BtfError::Truncated { what: "bytes of types", .. }));
    assert!(matches!(damaged(20, &[0xff; 4]), BtfError::Truncated { what: "bytes of names", .. }));
    assert_eq!(damaged(24 + 7, &[0x1f]), BtfError::UnknownKind { id: 1, kind: 0x1f });
    assert_eq!(damaged(24 + 7, &[0]), BtfError::UnknownKind { id: 1, kind: 0 });
    assert_eq!(damaged(good.len() - 2, &[0xff]), BtfError::BadNames);
    // The last record claims one more member than there are bytes.
    let mut section = Section::new();
    section.add(STRUCT, "cut", 2, 8, &[0, 0, 0]);
    assert!(matches!(Btf::decode(&section.bytes()), Err(BtfError::Truncated { what: "the last type", .. })));
}

#[test]
fn no_cut_and_no_wrong_byte_is_a_panic() {
    let good = task().bytes();
    let look = |bytes: &[u8]| {
        let Ok(btf) = Btf::decode(bytes) else { return };
        for (id, found) in btf.types() {
            let _ = (btf.bytes_of(id), found.name(), btf.member(id, "se.load"), btf.member(id, "cpu"));
            if let Type::Composite { members, .. } = found {
                members.iter().for_each(|member| _ = btf.place(&member));
            }
        }
        let _ = btf.enumerator("A");
    };
    for end in 0..good.len() {
        look(&good[..end]);
    }
    for at in 0..good.len() {
        for wrong in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = wrong;
            look(&bytes);
        }
    }
}
