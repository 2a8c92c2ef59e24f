//! A case from beginning to end: taken, written, verified, damaged, searched, archived; judged by foreign tools.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use forensics::{
    Acquisition, CaseKey, CaseOptions, DiskSource, DomainInfo, ItemVerdict, OpenedDisk, RamRange,
    SignatureVerdict, VcpuRegs, VerifyReport,
};
use jiff::Timestamp;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const RAM_BYTES: u64 = 16 * MIB;
const DISK_BYTES: u64 = 20 * MIB + 512;
const MARKER: &[u8] = b"MARKER-7c1e";
const VMCOREINFO: &[u8] = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\n";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

struct Bench {
    state: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { state: TempDir::new().unwrap() }
    }

    fn evidence(&self) -> PathBuf {
        self.state.path().join("evidence")
    }

    fn file(&self, name: &str, bytes: u64, pieces: &[(u64, &[u8])]) -> File {
        let path = self.state.path().join(name);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.set_len(bytes).unwrap();
        pieces.iter().for_each(|(offset, bytes)| file.write_all_at(bytes, *offset).unwrap());
        file
    }

    fn ram(&self) -> File {
        let mut note = Vec::new();
        for word in [11, VMCOREINFO.len() as u32, 0] {
            note.extend(u32::to_le_bytes(word));
        }
        note.extend(b"VMCOREINFO\0\0");
        note.extend(VMCOREINFO);
        // The marker lies across a page and across the parts of the two copying threads.
        let pieces: [(u64, &[u8]); 4] =
            [(0, b"first"), (RAM_BYTES / 2 - 5, MARKER), (3 * MIB + 8, &note), (RAM_BYTES - 4, b"last")];
        self.file("ram", RAM_BYTES, &pieces)
    }

    fn disk(&self) -> File {
        let pieces: [(u64, &[u8]); 3] =
            [(510, MARKER), (17 * MIB + 65_530, MARKER), (DISK_BYTES - 3, b"end")];
        self.file("disk", DISK_BYTES, &pieces)
    }

    fn acquisition(&self) -> Acquisition {
        let regs =
            VcpuRegs { rip: 0xffff_ffff_8100_0000, cr3: 0x1234_5000, r15: 15, gs: 7, ..VcpuRegs::default() };
        let open = |copy: Option<File>| -> std::io::Result<OpenedDisk> {
            let reader = Box::new(copy.unwrap());
            Ok(OpenedDisk { reader, bytes: DISK_BYTES, allocated: vec![0..18 * MIB, 18 * MIB..DISK_BYTES] })
        };
        Acquisition {
            domain: DomainInfo {
                name: "web".to_owned(),
                domid: 3,
                uuid: "0e5f".to_owned(),
                memory_bytes: RAM_BYTES,
                vcpus: 1,
            },
            memory: self.ram(),
            memory_at: 0,
            ranges: vec![
                RamRange { gpa: 0, file_offset: 0, bytes: 10 * MIB },
                RamRange { gpa: 0x1_0000_0000, file_offset: 10 * MIB, bytes: 6 * MIB },
            ],
            vcpus: vec![regs],
            disks: vec![DiskSource {
                name: "xvda".to_owned(),
                changing: Some(self.disk()),
                open: Box::new(open),
            }],
            kernel: None,
            notes: vec!["taken by a test".to_owned()],
        }
    }

    fn key(&self) -> CaseKey {
        CaseKey::load_or_create(&self.state.path().join("keys")).unwrap()
    }

    fn take(&self) -> PathBuf {
        let frozen = forensics::copy_paused(self.acquisition(), self.state.path(), at(0)).unwrap();
        let key = self.key();
        let options = CaseOptions {
            who: "operator",
            tool: "honeynet 0.1.0",
            chain_head: Some("ab".repeat(32)),
            key: Some(&key),
            now: at(5),
        };
        let id = forensics::finish(frozen, &self.evidence(), &options, &|_| {}).unwrap();
        forensics::case::folder(&self.evidence(), &id).unwrap()
    }
}

fn verify(case: &Path, key: &CaseKey) -> VerifyReport {
    forensics::verify(case, Some(&key.public()), &|_| {}).unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_fresh_case_is_intact_and_listed() {
    let bench = Bench::new();
    let case = bench.take();
    assert!(case.ends_with("20270115T080000Z-web"), "{}", case.display());
    let report = verify(&case, &bench.key());
    assert!(report.is_intact(), "{:?}", report.problems());
    assert!(matches!(report.signature, SignatureVerdict::Good { .. }));
    let names: Vec<&str> = report.items.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["disk-xvda.qcow2", "disk-xvda.raw", "memory.elf", "memory.lime"]);
    let listed = forensics::case::list(&bench.evidence()).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].domain.as_str(), listed[0].taken), ("web", at(0)));
    let manifest = forensics::case::read_manifest(&case).unwrap();
    assert_eq!(manifest.vmcoreinfo.unwrap().gpa, 3 * MIB + 8);
    // A second case of the same second gets a name of its own.
    assert!(bench.take().ends_with("20270115T080000Z-web-2"));
}

#[test]
fn a_kernel_that_cannot_be_read_costs_the_symbols_alone() {
    let bench = Bench::new();
    let kernel = bench.file("kernel", 64, &[(0, b"no kernel")]);
    let source = Acquisition { kernel: Some(kernel), ..bench.acquisition() };
    let frozen = forensics::copy_paused(source, bench.state.path(), at(0)).unwrap();
    let options =
        CaseOptions { who: "operator", tool: "honeynet 0.1.0", chain_head: None, key: None, now: at(5) };
    let id = forensics::finish(frozen, &bench.evidence(), &options, &|_| {}).unwrap();
    let manifest = forensics::case::read_manifest(&bench.evidence().join(id)).unwrap();
    assert_eq!(manifest.items.len(), 4);
    assert_eq!(
        manifest.notes,
        [
            "taken by a test",
            "no symbols for Volatility: kernel cannot be taken apart: not a kernel: neither a bzImage nor an ELF file",
        ]
    );
}

#[test]
fn hashes_are_those_of_sha256sum() {
    let bench = Bench::new();
    let case = bench.take();
    for item in forensics::case::read_manifest(&case).unwrap().items {
        let printed = run(Command::new("sha256sum").arg(case.join(&item.name)));
        assert!(printed.starts_with(&item.sha256), "{}", item.name);
    }
}

#[test]
fn every_damage_is_found_and_named() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 6] = [
        (|case| poke(&case.join("memory.elf"), 10 * MIB), "memory.elf was changed"),
        (|case| poke(&case.join("disk-xvda.qcow2"), 0), "disk-xvda.qcow2 was changed"),
        (|case| fs::remove_file(case.join("memory.lime")).unwrap(), "memory.lime is missing"),
        (|case| truncate(&case.join("disk-xvda.raw")), "disk-xvda.raw has 100 bytes"),
        (|case| fs::write(case.join("more"), "x").unwrap(), "more is not in the manifest"),
        (
            |case| replace(&case.join("manifest.json"), "taken by a test", "taken by a fool"),
            "the signature does not fit",
        ),
    ];
    for (damage, expected) in cases {
        let bench = Bench::new();
        let case = bench.take();
        damage(&case);
        let problems = verify(&case, &bench.key()).problems();
        let found = problems.iter().any(|problem| problem.starts_with(expected));
        assert!(found, "{expected}: {problems:?}");
    }
}

#[test]
fn a_manifest_in_another_form_is_refused() {
    let bench = Bench::new();
    let case = bench.take();
    replace(&case.join("manifest.json"), "{\"case\"", "{ \"case\"");
    let error = forensics::verify(&case, None, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("is refused"), "{error}");
}

fn poke(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn truncate(path: &Path) {
    File::options().write(true).open(path).unwrap().set_len(100).unwrap();
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap().replace(from, to);
    fs::write(path, text).unwrap();
}

#[test]
fn an_item_that_became_a_link_is_missing() {
    let bench = Bench::new();
    let case = bench.take();
    fs::rename(case.join("memory.elf"), bench.state.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(bench.state.path().join("elsewhere"), case.join("memory.elf")).unwrap();
    let report = verify(&case, &bench.key());
    let verdict = report.items.iter().find(|(name, _)| name == "memory.elf").unwrap();
    assert_eq!(verdict.1, ItemVerdict::Missing);
}

#[test]
fn custody_grows_and_a_changed_line_shows() {
    let bench = Bench::new();
    let case = bench.take();
    for second in 10..13 {
        forensics::custody::append(&case, at(second), "ann", "downloaded", "").unwrap();
    }
    assert!(verify(&case, &bench.key()).is_intact());
    let log = case.join("custody.jsonl");
    let text = fs::read_to_string(&log).unwrap().replacen("ann", "bob", 1);
    fs::write(&log, text).unwrap();
    assert_eq!(verify(&case, &bench.key()).custody_broken_at, Some(3));
}

#[test]
fn a_case_signed_by_another_key_is_not_intact() {
    let bench = Bench::new();
    let case = bench.take();
    let other = CaseKey::load_or_create(&bench.state.path().join("other")).unwrap();
    let report = verify(&case, &other);
    assert!(matches!(report.signature, SignatureVerdict::OtherKey { .. }));
    assert!(!report.is_intact());
}

#[test]
fn a_case_that_is_not_whole_is_not_seen() {
    let bench = Bench::new();
    bench.take();
    let hidden = bench.evidence().join(".20270115T080000Z-db.partial");
    fs::create_dir(&hidden).unwrap();
    assert_eq!(forensics::case::list(&bench.evidence()).unwrap().len(), 1);
    assert_eq!(forensics::case::remove_partial(&bench.evidence()).unwrap(), 1);
    assert!(!hidden.exists());
    assert!(forensics::case::folder(&bench.evidence(), "../keys").is_err());
    assert!(forensics::case::folder(&bench.evidence(), ".x.partial").is_err());
}

#[test]
fn a_failed_acquisition_leaves_nothing() {
    let bench = Bench::new();
    let mut source = bench.acquisition();
    source.disks[0].open = Box::new(|_| Err(std::io::Error::other("no base")));
    let frozen = forensics::copy_paused(source, bench.state.path(), at(0)).unwrap();
    let options = CaseOptions { who: "x", tool: "t", chain_head: None, key: None, now: at(1) };
    let error = forensics::finish(frozen, &bench.evidence(), &options, &|_| {}).unwrap_err();
    assert_eq!(error.to_string(), "cannot write disk xvda of the case");
    assert_eq!(fs::read_dir(bench.evidence()).unwrap().count(), 0);
}

#[test]
fn readelf_reads_the_core_and_it_reads_back() {
    let bench = Bench::new();
    let case = bench.take();
    let printed = run(Command::new("readelf").args(["-W", "-a"]).arg(case.join("memory.elf")));
    for expected in ["CORE (Core file)", "NT_PRSTATUS", "VMCOREINFO", "0x0000000100000000", "LOAD"] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    assert!(!printed.contains("Warning"), "{printed}");
    let file = File::open(case.join("memory.elf")).unwrap();
    let (core, notes) = forensics::elf_core::open(&file).unwrap();
    let gpas: Vec<(u64, u64)> = core.segments.iter().map(|segment| (segment.gpa, segment.bytes)).collect();
    assert_eq!(gpas, [(0, 10 * MIB), (0x1_0000_0000, 6 * MIB)]);
    let kinds: Vec<(&[u8], usize)> =
        notes.iter().map(|note| (note.name.as_slice(), note.content.len())).collect();
    assert_eq!(kinds, [(b"CORE".as_slice(), 336), (b"QEMU", 440), (b"VMCOREINFO", VMCOREINFO.len())]);
    let rip = 112 + 16 * 8;
    assert_eq!(notes[0].content[rip..rip + 8], 0xffff_ffff_8100_0000_u64.to_le_bytes());
    same_memory(&file, &core.segments, &bench.ram());
}

#[test]
fn lime_reads_back() {
    let bench = Bench::new();
    let case = bench.take();
    let file = File::open(case.join("memory.lime")).unwrap();
    let ranges = forensics::lime::open(&file).unwrap();
    let gpas: Vec<(u64, u64)> = ranges.iter().map(|range| (range.gpa, range.bytes)).collect();
    assert_eq!(gpas, [(0, 10 * MIB), (0x1_0000_0000, 6 * MIB)]);
    same_memory(&file, &ranges, &bench.ram());
}

fn same_memory(dump: &File, ranges: &[RamRange], ram: &File) {
    let mut source = 0;
    for range in ranges {
        let (mut dumped, mut original) = (vec![0; range.bytes as usize], vec![0; range.bytes as usize]);
        dump.read_exact_at(&mut dumped, range.file_offset).unwrap();
        ram.read_exact_at(&mut original, source).unwrap();
        assert!(dumped == original, "range at {:#x}", range.gpa);
        source += range.bytes;
    }
}

#[test]
fn qemu_img_finds_the_qcow2_sound_and_equal_to_raw() {
    let bench = Bench::new();
    let case = bench.take();
    let (raw, qcow2) = (case.join("disk-xvda.raw"), case.join("disk-xvda.qcow2"));
    let printed = run(Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&qcow2));
    assert!(printed.contains("No errors were found"), "{printed}");
    let printed =
        run(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]).args([&raw, &qcow2]));
    assert!(printed.contains("Images are identical"), "{printed}");
    assert_eq!(fs::read(&raw).unwrap(), fs::read(bench.state.path().join("disk")).unwrap());
    // Three clusters of data and one across a border; the rest is a hole.
    assert!(fs::metadata(&qcow2).unwrap().len() < MIB);
}

#[test]
fn a_byte_string_is_found_in_memory_and_disk() {
    let bench = Bench::new();
    let case = bench.take();
    let hits = forensics::search(&case, MARKER, 100).unwrap();
    let places: Vec<(&str, Option<u64>)> = hits.iter().map(|hit| (hit.item.as_str(), hit.gpa)).collect();
    assert_eq!(
        places,
        [("disk-xvda.raw", None), ("disk-xvda.raw", None), ("memory.elf", Some(RAM_BYTES / 2 - 5))]
    );
    assert_eq!((hits[0].offset, hits[1].offset), (510, 17 * MIB + 65_530));
    assert_eq!(forensics::search(&case, MARKER, 1).unwrap().len(), 1);
    assert!(forensics::search(&case, b"", 1).is_err());
}

#[test]
fn the_archive_holds_a_case_that_verifies() {
    let bench = Bench::new();
    let case = bench.take();
    let mut archive = Vec::new();
    forensics::archive::write(&case, &mut archive).unwrap();
    let folder = TempDir::new().unwrap();
    tar::Archive::new(Cursor::new(archive)).unpack(folder.path()).unwrap();
    let unpacked = folder.path().join(case.file_name().unwrap());
    assert!(verify(&unpacked, &bench.key()).is_intact());
}

#[test]
fn sources_that_cannot_be_are_refused() {
    let bench = Bench::new();
    let refuse = |change: fn(&mut Acquisition)| {
        let mut source = bench.acquisition();
        change(&mut source);
        forensics::copy_paused(source, bench.state.path(), at(0)).err().unwrap().to_string()
    };
    assert!(
        refuse(|source| source.ranges[1].bytes += 1).starts_with("cannot take a range outside the memory")
    );
    assert_eq!(
        refuse(|source| source.disks[0].name = "../x".to_owned()),
        "cannot take a disk of this name: ../x"
    );
}
