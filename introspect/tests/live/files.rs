//! `lsof`, names of files, and the page cache.

use std::collections::BTreeMap;

use introspect::walk::files::{Access, FileType, Files, OpenFile};
use introspect::walk::page_cache::{self, PageCache};
use introspect::walk::tasks::{STEPS_MAX, Tasks};

use super::guest::{Guest, guest};

/// Open files of a process by descriptor, as soon as it runs this program.
pub fn files_of(guest: &Guest, pid: u32, comm: &str) -> BTreeMap<u32, OpenFile> {
    let (tasks, files) = (Tasks::of(&guest.symbols).unwrap(), Files::of(&guest.symbols).unwrap());
    let task =
        super::tasks::wait_for(&guest.view, &tasks, pid, |task| task.comm == comm && task.state == 'S');
    let listing = files.list(&guest.view.look(STEPS_MAX), task.at);
    assert_eq!(listing.incomplete, None);
    listing.items.into_iter().map(|file| (file.fd, file)).collect()
}

/// Names of a process' open files, by descriptor, as the guest says them.
pub fn said(guest: &mut Guest, pid: u32) -> BTreeMap<u32, String> {
    let text = guest.run(&format!("for fd in /proc/{pid}/fd/*; do echo ${{fd##*/}} $(readlink $fd); done"));
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(fd, name)| (fd.parse().unwrap(), name.to_owned())).collect()
}

#[test]
fn names_are_those_that_proc_shows() {
    let mut guest = guest();
    guest.run("mkdir -p /tmp/deep/er; mkfifo /tmp/named; mount -t tmpfs none /mnt; mkdir -p /mnt/inner");
    guest.run("echo text > /tmp/deep/er/file; echo gone > /tmp/gone; echo inner > /mnt/inner/file");
    let script = "rm /tmp/gone; exec sleep 2001";
    let redirected = "3</tmp/deep/er/file 4>>/tmp/gone 5<>/tmp/named 6</mnt/inner/file 7</proc/1/ns/net \
                      8</dev/null 9<>/dev/hvc0";
    let pid: u32 = guest.run(&format!("sh -c '{script}' {redirected} & echo $!")).parse().unwrap();
    let seen = files_of(&guest, pid, "sleep");
    let said = said(&mut guest, pid);
    let names: BTreeMap<u32, String> = seen.iter().map(|(fd, file)| (*fd, file.name.clone())).collect();
    assert_eq!(names, said);
    assert_eq!(names[&4], "/tmp/gone (deleted)");
    guest.run(&format!("kill {pid}; umount /mnt"));
}

#[test]
fn kind_access_size_and_position_are_those_of_the_file() {
    let mut guest = guest();
    guest.run("echo 0123456789 > /tmp/sized");
    let pid: u32 = guest
        .run("(read -n 4 x; exec sleep 2002) <>/tmp/sized 3</dev/null 4>/tmp/out & echo $!")
        .parse()
        .unwrap();
    let seen = files_of(&guest, pid, "sleep");
    let said = guest.run("ls -i /tmp/sized");
    let (file, null, out) = (&seen[&0], &seen[&3], &seen[&4]);
    assert_eq!((file.file_type, file.access, file.size), (FileType::Regular, Access::ReadWrite, 11));
    assert_eq!(file.inode.to_string(), said.split_whitespace().next().unwrap());
    let position = guest.run(&format!("cat /proc/{pid}/fdinfo/0"));
    assert!(position.contains(&format!("pos:\t{}\n", file.position)), "{position} {file:?}");
    assert!(position.contains(&format!("flags:\t0{:o}\n", file.flags)), "{position} {file:?}");
    assert_eq!((null.file_type, null.access, null.device), (FileType::Character, Access::Read, Some((1, 3))));
    assert_eq!((out.file_type, out.access, out.size), (FileType::Regular, Access::Write, 0));
    guest.run(&format!("kill {pid}"));
}

#[test]
fn pipes_have_their_numbers() {
    let mut guest = guest();
    let pid: u32 = guest.run("sleep 2003 | sleep 2004 & echo $!").parse().unwrap();
    let seen = files_of(&guest, pid, "sleep");
    let said = guest.run(&format!("readlink /proc/{pid}/fd/0"));
    assert_eq!((seen[&0].file_type, seen[&0].name.as_str()), (FileType::Fifo, said.as_str()));
    assert!(said.starts_with("pipe:["));
    guest.run("killall sleep");
}

#[test]
fn contents_of_a_deleted_file_are_in_the_page_cache() {
    let mut guest = guest();
    let pid: u32 = guest
        .run(
            "dd if=/bin/busybox of=/tmp/copy bs=1000 count=123 2>/dev/null; \
             sh -c 'rm /tmp/copy; exec sleep 2005' 3</tmp/copy & echo $!",
        )
        .parse()
        .unwrap();
    let file = files_of(&guest, pid, "sleep").remove(&3).unwrap();
    assert!(file.name.ends_with(" (deleted)"));
    let cache = PageCache::of(&guest.symbols).unwrap();
    let look = guest.view.look(page_cache::STEPS_MAX);
    let cached = cache.read(&look, file.inode_at, 1 << 20).unwrap();
    let original = std::fs::read("/bin/busybox").unwrap();
    assert_eq!((cached.size, cached.absent.len()), (123_000, 0));
    assert!(cached.bytes == original[..123_000]);
    let part = cache.read(&look, file.inode_at, 5000).unwrap();
    assert!(part.bytes == original[..5000]);
    guest.run(&format!("kill {pid}"));
}

#[test]
fn holes_of_a_file_are_said_to_be_absent() {
    let mut guest = guest();
    let pid: u32 = guest
        .run(
            "rm -f /tmp/holes; echo start > /tmp/holes; \
             echo end | dd of=/tmp/holes bs=4096 seek=5 conv=notrunc 2>/dev/null; \
             sleep 2006 3</tmp/holes & echo $!",
        )
        .parse()
        .unwrap();
    let file = files_of(&guest, pid, "sleep").remove(&3).unwrap();
    let cache = PageCache::of(&guest.symbols).unwrap();
    let cached = cache.read(&guest.view.look(page_cache::STEPS_MAX), file.inode_at, 1 << 20).unwrap();
    assert_eq!(cached.size, 5 * 4096 + 4);
    assert!(cached.bytes.starts_with(b"start\n\0") && cached.bytes.ends_with(b"\0end\n"));
    assert_eq!(cached.absent.as_slice(), std::slice::from_ref(&(4096..5 * 4096)));
    guest.run(&format!("kill {pid}"));
}
