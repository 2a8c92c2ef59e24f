//! Our reader of ext4 agrees with debugfs and with another implementation, and survives what is not ext4.

#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "each test file uses a part")]
mod image;

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::Path;

use fim::{Limits, Policy, Scan};
use image::{Workshop, debugfs};

fn scan(image: &Path) -> Scan {
    fim::scan(&everything(), File::open(image).unwrap(), &Limits::default(), &mut |_| {}).unwrap()
}

fn everything() -> Policy {
    Policy::parse("all", "/ R+diff").unwrap()
}

#[test]
fn contents_are_those_that_another_reader_sees() {
    let workshop = Workshop::new();
    let kinds: [&[&str]; 4] = [
        &["-t", "ext4"],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext3", "-b", "1024"],
        &["-t", "ext2", "-I", "128"],
    ];
    for (i, options) in kinds.iter().enumerate() {
        let image = workshop.decoy(&format!("{i}.img"), options);
        let scan = scan(&image);
        assert_eq!(scan.problems, [], "{options:?}");
        let other = ext4_view::Ext4::load_from_path(&image).unwrap();
        for entry in scan.entries.iter().filter(|entry| entry.b3.is_some()) {
            let content = other.read(entry.path.as_str()).unwrap();
            assert_eq!(entry.b3, Some(blake3::hash(&content).to_string()), "{options:?} {}", entry.path);
        }
        let links =
            [("/usr/bin/short", "tool".to_owned()), ("/usr/bin/long", format!("/{}", "long/".repeat(30)))];
        for (path, target) in links {
            let entry = scan.entries.iter().find(|entry| entry.path == path).unwrap();
            assert_eq!(entry.target, Some(target), "{options:?}");
        }
        assert_eq!(scan.entries.iter().filter(|entry| entry.path.starts_with("/many/")).count(), 700);
    }
}

#[test]
fn inode_numbers_times_owners_and_attributes_are_those_of_debugfs() {
    let workshop = Workshop::new();
    let image = workshop.decoy("a.img", &["-t", "ext4"]);
    let value = workshop.file("value", "0123");
    let commands = format!(
        "sif /usr/bin/tool uid 70000\nsif /usr/bin/tool gid 1234\nsif /usr/bin/tool flags 0x80010\n\
         sif /usr/bin/tool ctime 20360102030405\nea_set -f {} /usr/bin/tool security.capability\n\
         ea_set /usr/bin/tool user.note hello\ncd /\nmknod device c 12 34\n",
        value.display()
    );
    workshop.change(&image, &commands);
    let scan = scan(&image);
    let entry = scan.entries.iter().find(|entry| entry.path == "/usr/bin/tool").unwrap();
    let stat = debugfs(&image, "stat /usr/bin/tool");
    assert!(stat.starts_with(&format!("Inode: {}   Type: regular    Mode:  0755", entry.inode)), "{stat}");
    assert_eq!((entry.uid, entry.gid, entry.links, entry.permissions), (70000, 1234, 2, 0o755));
    assert_eq!(entry.ctime.split('.').next(), Some("2036-01-02T03:04:05"));
    assert_eq!(entry.value(fim::Attributes::FLAGS), Some("i".to_owned()));
    assert_eq!(entry.xattrs["security.capability"], "0123");
    assert_eq!(entry.xattrs["user.note"], "hello");
    assert!(stat.contains(&format!("Blockcount: {}", entry.sectors)), "{stat}");
    let device = scan.entries.iter().find(|entry| entry.path == "/device").unwrap();
    assert_eq!((device.kind, device.device), (fim::Kind::CharDevice, Some((12, 34))));
}

#[test]
fn a_partition_is_found() {
    let workshop = Workshop::new();
    let image = workshop.decoy("a.img", &["-t", "ext4"]);
    let mut disk = vec![0; 1 << 20];
    disk[446 + 4] = 0x83;
    disk[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(std::fs::read(&image).unwrap());
    let partitioned = fim::scan(&everything(), Cursor::new(disk), &Limits::default(), &mut |_| {}).unwrap();
    assert_eq!(partitioned, scan(&image));
}

#[test]
fn a_log_that_was_not_replayed_is_read_as_the_kernel_would() {
    let workshop = Workshop::new();
    let old = workshop.decoy("old.img", &["-t", "ext4", "-b", "1024"]);
    let new = workshop.copy(&old, "new.img");
    let text = workshop.file("text", "what the log holds\n");
    workshop.change(&new, &format!("rm /etc/passwd\nwrite {} /etc/passwd\nmkdir /etc/new\n", text.display()));

    // Every block that differs goes into the old image's log as one transaction, and nowhere else.
    let (before, after) = (std::fs::read(&old).unwrap(), std::fs::read(&new).unwrap());
    let blocks: Vec<usize> = (2..before.len() / 1024)
        .filter(|i| before[i * 1024..][..1024] != after[i * 1024..][..1024])
        .collect();
    let logged = workshop
        .file("logged", blocks.iter().flat_map(|i| &after[i * 1024..][..1024]).copied().collect::<Vec<_>>());
    let list = blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    workshop.change(&old, &format!("jo\njw -b {list} {}\njc\n", logged.display()));

    let log = fim::ext4::Filesystem::open(File::open(&old).unwrap(), 0).unwrap().journal_blocks();
    assert_eq!(log, blocks.len());
    let (replayed, direct) = (scan(&old), scan(&new));
    assert!(replayed.entries.iter().any(|entry| entry.path == "/etc/new"));
    assert_eq!(replayed, direct);
}

#[test]
fn a_revoked_block_is_not_taken_from_the_log() {
    let workshop = Workshop::new();
    let image = workshop.decoy("a.img", &["-t", "ext4", "-b", "1024"]);
    let clean = scan(&image);
    let block = debugfs(&image, "blocks /etc/passwd").trim().to_owned();
    let logged = workshop.file("logged", vec![b'!'; 1024]);
    workshop.change(&image, &format!("jo\njw -b {block} {}\njc\n", logged.display()));
    assert_ne!(scan(&image), clean);
    workshop.change(&image, &format!("jo\njw -r {block}\njc\n"));
    assert_eq!(scan(&image), clean);
}

#[test]
fn mutated_images_give_errors_and_end() {
    let workshop = Workshop::new();
    let image = workshop.decoy("a.img", &["-t", "ext4", "-b", "1024"]);
    let good = std::fs::read(&image).unwrap();
    let limits = Limits { total_bytes_max: 16 << 20, ..Limits::default() };
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let used: Vec<usize> =
        (1..good.len() / 1024).filter(|i| good[i * 1024..][..1024].iter().any(|b| *b != 0)).collect();
    for _ in 0..150 {
        let mut bad = good.clone();
        for _ in 0..20 {
            // Half of the hits go to the superblock, the group descriptors and the first inodes.
            let block =
                if random(2) == 0 { used[random(used.len().min(8))] } else { used[random(used.len())] };
            bad[block * 1024 + random(1024)] = random(256) as u8;
        }
        let _ = fim::scan(&everything(), Cursor::new(bad), &limits, &mut |_| {});
    }
    for length in (0..good.len()).step_by(good.len() / 50) {
        let mut cut = Vec::new();
        cut.write_all(&good[..length]).unwrap();
        let _ = fim::scan(&everything(), Cursor::new(cut), &limits, &mut |_| {});
    }
}
