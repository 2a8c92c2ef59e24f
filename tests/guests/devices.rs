//! Frontends that lie (`sources/devices.c`): each request is refused with a status, or its ring is closed and the guest may come again with
//! another. What was wrong is reported, the VMM goes on, and so does another domain in the same process.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use honeyvmm::blkback::{BlkDevice, Blkback, Vdev};
use honeyvmm::device::Reports;
use honeyvmm::disk::{Disk, Mode};
use honeyvmm::hypercall::ShutdownReason;
use honeyvmm::machine::Offered;
use honeyvmm::netback::{NetDevice, Netback};
use honeyvmm::run_loop::End;
use honeyvmm::xenbus::{Device, DeviceKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use vifport::{Endpoint, Port, Side};

use super::domain::Outcome;
use super::hostile::beside_another_with;

const DISK_BYTES: usize = 1 << 20;
/// What the disk is full of.
const DISK_BYTE: u8 = 0x5a;

/// What the devices reported, as one sentence each.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Reports for Heard {
    fn violation(&self, device: &str, error: &(dyn Error + 'static)) {
        self.0.lock().unwrap().push(format!("{device}: {}", events::sentence(error)));
    }

    fn host_error(&self, device: &str, error: &(dyn Error + 'static)) {
        panic!("{device}: the host failed: {}", events::sentence(error));
    }
}

fn nodes(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn disk(reports: Arc<Heard>) -> (Offered, File) {
    let mut image = File::from(rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC).unwrap());
    image.write_all(&[DISK_BYTE; DISK_BYTES]).unwrap();
    let vdev: Vdev = "xvda".parse().unwrap();
    let disk = Disk::new("xvda", image.try_clone().unwrap(), None, Mode::ReadWrite).unwrap();
    let backend = BlkDevice::new(vdev, Blkback::new(disk), reports).unwrap();
    let frontend_nodes = nodes(&[("virtual-device", &vdev.to_string()), ("device-type", "disk")]);
    let device = Device { kind: DeviceKind::Vbd, id: vdev.0, frontend_nodes };
    (Offered { device, overseen: backend.overseen(), backend: Box::new(backend) }, image)
}

fn network(reports: Arc<Heard>) -> (Offered, Endpoint) {
    let ours = Port::create().unwrap();
    let copy = |fd: &std::os::fd::OwnedFd| fd.try_clone().unwrap();
    let theirs = vifport::PortFds {
        memory: copy(&ours.memory),
        to_switch: copy(&ours.to_switch),
        from_switch: copy(&ours.from_switch),
    };
    let switch = Endpoint::attach(ours, Side::Switch).unwrap();
    let port = Endpoint::attach(theirs, Side::Backend).unwrap();
    let backend = NetDevice::new(0, Netback::new(port), reports).unwrap();
    let frontend_nodes = nodes(&[("handle", "0"), ("mac", "00:16:3e:00:00:01")]);
    let device = Device { kind: DeviceKind::Vif, id: 0, frontend_nodes };
    (Offered { device, overseen: backend.overseen(), backend: Box::new(backend) }, switch)
}

/// A switch that sends every frame back, until it is told to end; answers how many there were.
fn send_back(mut switch: Endpoint, ended: &AtomicBool) -> usize {
    let (mut frame, mut frames) = (Vec::new(), 0);
    loop {
        while let Some(meta) = switch.recv(&mut frame).unwrap() {
            assert_eq!(frame.len(), 60);
            frames += 1;
            switch.send(&meta, &[&frame]).unwrap();
        }
        switch.notify().unwrap();
        if ended.load(Ordering::SeqCst) {
            return frames;
        }
        if switch.prepare_wait().unwrap() {
            // Only the end is not told through the port.
            let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            poll(&mut [PollFd::from_borrowed_fd(switch.wait_fd(), PollFlags::IN)], Some(&timeout)).unwrap();
            switch.clear_wait().unwrap();
        }
    }
}

/// The guest came to its end, its requests were answered so, in this order, and this was reported.
fn check(outcome: Outcome, answers: &[(&str, i64)], heard: &Heard, reported: &[&str]) {
    let Outcome { end, console, .. } = outcome;
    assert_eq!(end, End::Shutdown(ShutdownReason::Poweroff), "{console}");
    let lines: Vec<&str> =
        console.lines().map(|line| line.trim_matches('\0')).filter(|line| !line.is_empty()).collect();
    let expected: Vec<String> = answers.iter().map(|(name, status)| format!("{name} = {status}")).collect();
    assert_eq!(lines, expected);
    // Which of two lies about an index a worker on another processor sees first is its own affair.
    let producer = |line: &str| line.replace("producer 1001 ", "producer 1000 ");
    let heard: Vec<String> = heard.0.lock().unwrap().iter().map(|line| producer(line)).collect();
    assert_eq!(heard, reported.iter().map(|line| producer(line)).collect::<Vec<_>>());
}

#[test]
fn a_disk_answers_lies_with_errors_and_closes_a_ring_that_cannot_be() {
    const REPORTED: [&str; 17] = [
        "vbd-51712: block request names a bad grant: grant 16777200 is past the table of 16384 entries",
        "vbd-51712: block request names a bad grant: grant 4294967295 is past the table of 16384 entries",
        "vbd-51712: block request names a bad grant: grant 100 does not permit access: flags 0x0, domid 0",
        "vbd-51712: block request names a bad grant: grant 11 is read-only",
        "vbd-51712: block request names a bad grant: grant 12 names gfn 0x1000, which is not in RAM",
        "vbd-51712: block request names a bad grant: grant 13 names gfn 0x4000000, which is not in RAM",
        "vbd-51712: block request names a bad grant: grant 14 names gfn 0xffffffff, which is not in RAM",
        "vbd-51712: block request misses the disk: 4096 bytes at 562949953421312 are outside a disk of 1048576 bytes",
        "vbd-51712: block request misses the disk: 4096 bytes at 1046528 are outside a disk of 1048576 bytes",
        "vbd-51712: block request misses the disk: 4096 bytes at 1048576 are outside a disk of 1048576 bytes",
        "vbd-51712: block request misses the disk: 4096 bytes at 18446744073709551615 are outside a disk of 1048576 bytes",
        "vbd-51712: block request misses the disk: 4096 bytes at 18446744073709551615 are outside a disk of 1048576 bytes",
        "vbd-51712: block request refused: block segment from sector 0 to 8 of its page",
        "vbd-51712: block request refused: block segment from sector 5 to 4 of its page",
        "vbd-51712: block request refused: block request with 12 segments",
        // The last one that this connection may report; the next connection reports again.
        "vbd-51712: block request refused: block request with 0 segments",
        "vbd-51712: block ring closed: request producer 1002 is over 32 entries ahead of response 1",
    ];
    let heard = Arc::new(Heard::default());
    let (offered, mut image) = disk(heard.clone());
    let outcome = beside_another_with("disk", vec![offered]);
    let answers = [
        ("read", 0),
        ("byte", DISK_BYTE.into()),
        ("wild grant", -1),
        ("largest grant", -1),
        ("not granted", -1),
        ("read into a read-only grant", -1),
        ("grant behind RAM", -1),
        ("grant of the shim", -1),
        ("grant of the last frame", -1),
        ("grant of the ring itself", -1),
        ("half past the end", -1),
        ("past the end", -1),
        ("sector overflows", -1),
        ("sector max", -1),
        ("segment leaves its page", -1),
        ("segment backwards", -1),
        ("12 segments", -1),
        ("no segments", -1),
        ("operation 77", -2),
        ("257 indirect segments", -1),
        ("indirect of indirect", -2),
        ("indirect page not granted", -1),
        ("read after all that", 0),
        ("producer far ahead", 99),
        ("read from a closed ring", 99),
        ("read from the next ring", 0),
        ("producer far ahead again", 99),
    ];
    check(outcome, &answers, &heard, &REPORTED);
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut image).unwrap();
    std::io::Read::read_to_end(&mut image, &mut bytes).unwrap();
    assert!(bytes == [DISK_BYTE; DISK_BYTES], "the disk was written");
}

#[test]
fn a_vif_throws_bad_packets_away_and_closes_rings_that_cannot_be() {
    const REPORTED: [&str; 14] = [
        "vif-0: packet names a bad grant: grant 16777200 is past the table of 16384 entries",
        "vif-0: packet names a bad grant: grant 4294967295 is past the table of 16384 entries",
        "vif-0: packet names a bad grant: grant 100 does not permit access: flags 0x0, domid 0",
        "vif-0: packet names a bad grant: grant 12 names gfn 0x1000, which is not in RAM",
        "vif-0: packet names a bad grant: grant 13 names gfn 0x4000000, which is not in RAM",
        "vif-0: packet names a bad grant: grant 14 names gfn 0xffffffff, which is not in RAM",
        "vif-0: network rings closed after a bad packet: piece of 4097 bytes at 0 leaves its page",
        "vif-0: network rings closed after a bad packet: piece of 65535 bytes at 65535 leaves its page",
        "vif-0: network rings closed after a bad packet: packet of 1 slots is cut off",
        "vif-0: network rings closed after a bad packet: packet of more than 20 pieces",
        "vif-0: network rings closed after a bad packet: extra information of type 9 was not offered",
        "vif-0: network rings closed after a bad packet: segmentation of type 1 into 0 bytes",
        "vif-0: network rings closed: request producer 1001 is over 256 entries ahead of response 0",
        "vif-0: network rings closed: request producer 1000 is over 256 entries ahead of response 0",
    ];
    let heard = Arc::new(Heard::default());
    let (offered, switch) = network(heard.clone());
    let ended = Arc::new(AtomicBool::new(false));
    let switch = std::thread::spawn({
        let ended = ended.clone();
        move || send_back(switch, &ended)
    });
    let outcome = beside_another_with("network", vec![offered]);
    ended.store(true, Ordering::SeqCst);
    let answers = [
        ("frame", 0),
        ("bad grant", -1),
        ("bad grant", -1),
        ("bad grant", -1),
        ("bad grant", -1),
        ("bad grant", -1),
        ("bad grant", -1),
        ("13 bytes", -1),
        ("pieces longer than the whole", -1),
        ("frame after all that", 0),
        ("longer than a page", 99),
        ("longest of all", 99),
        ("cut off", 99),
        ("21 pieces", 99),
        ("extra of type 9", 99),
        ("segments of no bytes", 99),
        ("producer far ahead", 99),
        ("receive producer far ahead", 99),
        ("frame on the last ring", 0),
    ];
    check(outcome, &answers, &heard, &REPORTED);
    // The sound ones arrived and no others.
    assert!(switch.join().unwrap() >= 4);
}
