//! Disks and network interfaces as a real guest uses them (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use honeyvmm::disk::View;
use netwatch::netns;
use util::Honeynet;
use util::guest::Guest;

const MIB: usize = 1 << 20;

/// Bytes that repeat nowhere.
fn pattern(bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut all);
    all
}

fn blake3_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// A counter of a device, from `info`.
fn count(honeynet: &Honeynet, domain: &str, device: &str, counter: &str) -> u64 {
    honeynet.run(&["info", domain, "--json"]).good().json()["devices"][device][counter].as_u64().unwrap()
}

#[test]
fn what_a_guest_writes_is_in_its_layer_and_the_image_stays() {
    let honeynet = Honeynet::new("");
    let image = pattern(8 * MIB);
    honeynet.write("d.img", &image);
    let mut guest = Guest::create(&honeynet, "a", "disk=['d.img,,xvda,w']\nhn_layer=1");
    assert_eq!(guest.run("cat /sys/block/xvda/ro /sys/block/xvda/size"), "0\n16384");
    // Large requests (indirect segments), past the page cache of the guest.
    guest.run("dd if=/dev/xvda of=/tmp/all bs=1M iflag=direct");
    guest.run("dd if=/dev/zero of=/dev/xvda bs=1M seek=2 count=3 oflag=direct");
    guest.run("echo small | dd of=/dev/xvda bs=512 seek=9 count=1 conv=sync,fsync");
    let mut expected = image.clone();
    expected[2 * MIB..5 * MIB].fill(0);
    expected[9 * 512..10 * 512].fill(0);
    expected[9 * 512..9 * 512 + 6].copy_from_slice(b"small\n");
    assert_eq!(guest.run("dd if=/tmp/all bs=4096 skip=3 count=1 2>/dev/null | md5sum"), {
        let same = &image[3 * 4096..4 * 4096];
        fs::write(honeynet.path("part"), same).unwrap();
        let md5 = Command::new("md5sum").arg(honeynet.path("part")).output().unwrap();
        format!("{}  -", String::from_utf8_lossy(&md5.stdout).split_whitespace().next().unwrap())
    });
    assert!(count(&honeynet, "a", "vbd-51712", "flushes") > 0, "a flush was asked for");
    let view = |honeynet: &Honeynet| {
        let base = File::open(honeynet.path("d.img")).unwrap();
        let layer = File::open(honeynet.path("state/domains/a/xvda.layer")).unwrap();
        let mut bytes = Vec::new();
        View::new(base, Some(layer)).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(blake3_of(&view(&honeynet)), blake3_of(&expected));
    assert_eq!(blake3_of(&fs::read(honeynet.path("d.img")).unwrap()), blake3_of(&image));
    // What is discarded reads as zeros; its place in the layer is given back.
    guest.run("blkdiscard -o 4194304 -l 2097152 /dev/xvda; sync");
    expected[4 * MIB..6 * MIB].fill(0);
    assert_eq!(blake3_of(&view(&honeynet)), blake3_of(&expected));
}

#[test]
fn a_disk_that_is_read_only_cannot_be_written() {
    let honeynet = Honeynet::new("");
    let image = pattern(MIB);
    honeynet.write("d.img", &image);
    honeynet.write("e.img", &image);
    let mut guest = Guest::create(&honeynet, "a", "disk=['d.img,,xvda,r','e.img,,xvdb,w']");
    assert_eq!(guest.run("cat /sys/block/xvda/ro /sys/block/xvdb/ro"), "1\n0");
    let said = guest.run("echo x | dd of=/dev/xvda bs=512 conv=sync,fsync");
    assert!(said.contains("Operation not permitted") || said.contains("Read-only"), "{said}");
    guest.run("echo x | dd of=/dev/xvdb bs=512 conv=sync,fsync");
    assert_eq!(fs::read(honeynet.path("d.img")).unwrap(), image);
    assert_eq!(fs::read(honeynet.path("e.img")).unwrap()[..2], *b"x\n");
    // The image that is written belongs to this domain alone, the other may be read by more.
    honeynet.write("b.cfg", "name='b'\nmemory=128\nkernel='k'\nramdisk='i'\ndisk=['e.img,,xvda,r']\n");
    honeynet.run(&["create", "b.cfg"]).fails_with("is in use by another domain");
    let mut other = Guest::create(&honeynet, "c", "disk=['d.img,,xvda,r']");
    assert_eq!(other.run("cat /sys/block/xvda/ro"), "1");
}

/// A block device over a file; taken away when dropped.
struct Loop(String);

impl Loop {
    fn over(image: &std::path::Path) -> Loop {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_a_disk_with_and_without_a_layer() {
    let image = pattern(MIB);
    // Dropped before the devices: the domains are gone by then.
    let folder = tempfile::tempdir().unwrap();
    let (plain, under) = (folder.path().join("plain"), folder.path().join("under"));
    fs::write(&plain, &image).unwrap();
    fs::write(&under, &image).unwrap();
    let devices = [Loop::over(&plain), Loop::over(&under)];
    let honeynet = Honeynet::new("");
    let disk = |device: &Loop, layer: u8| format!("disk=['phy:{},xvda,w']\nhn_layer={layer}", device.0);
    let mut guest = Guest::create(&honeynet, "plain", &disk(&devices[0], 0));
    let mut layered = Guest::create(&honeynet, "layered", &disk(&devices[1], 1));
    let mut expected = image.clone();
    expected[512..518].copy_from_slice(b"small\n");
    for (name, shell) in [("plain", &mut guest), ("layered", &mut layered)] {
        assert_eq!(shell.run("cat /sys/block/xvda/size"), "2048", "{name}");
        shell.run("echo small | dd of=/dev/xvda bs=512 seek=1 conv=notrunc,fsync");
        let case = honeynet.run(&["pull", name, "--json"]).good().json();
        let pulled = std::path::Path::new(case["folder"].as_str().unwrap()).join("disk-xvda.raw");
        let pulled = fs::read(pulled).unwrap();
        assert!(
            pulled.len() == MIB && pulled[..518] == expected[..518] && pulled[1024..] == expected[1024..],
            "{name}"
        );
    }
    honeynet.run(&["down"]).good();
    drop(devices);
    assert_eq!(fs::read(&plain).unwrap()[512..518], *b"small\n");
    assert!(fs::read(&under).unwrap() == image, "the image under the layer was written");
}

/// A connection from the honeynet's own namespace.
fn connect(honeynet: &Honeynet, address: Ipv4Addr, port: u16) -> TcpStream {
    let begun = Instant::now();
    loop {
        let connected = netns::within(&honeynet.namespace, || {
            TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(2)).map(OwnedFd::from)
        });
        match connected.unwrap() {
            Ok(stream) => return TcpStream::from(stream),
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn bytes_arrive_whole_both_ways() {
    let honeynet = Honeynet::new("");
    let address = Ipv4Addr::new(10, 77, 0, 5);
    let mut guest = Guest::create(
        &honeynet,
        "a",
        "vif=['mac=00:16:3e:01:02:03,ip=10.77.0.5','mac=00:16:3e:01:02:04,ip=10.77.0.6']",
    );
    assert_eq!(
        guest.run("cat /sys/class/net/eth0/address /sys/class/net/eth1/address"),
        "00:16:3e:01:02:03\n00:16:3e:01:02:04"
    );
    guest.run("ip addr add 10.77.0.5/24 dev eth0; ip link set eth0 up");
    // In: large frames, cut by the sender's kernel only where they must be.
    let sent = pattern(24 * MIB);
    guest.send("nc -l -p 7 > /tmp/in; echo got $(wc -c < /tmp/in)\n");
    let mut stream = connect(&honeynet, address, 7);
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.wait_for(&format!("got {}", sent.len()));
    // Out again, as a reply. Before that the guest sent nothing but acknowledgements.
    let acknowledgements = count(&honeynet, "a", "vif-0", "sent_frames");
    guest.run("httpd -p 8 -h /tmp");
    let mut stream = connect(&honeynet, address, 8);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /in HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(blake3_of(&answer[body..]), blake3_of(&sent));
    assert_eq!(count(&honeynet, "a", "vif-0", "sent_dropped"), 0);
    let frames = count(&honeynet, "a", "vif-0", "sent_frames") - acknowledgements;
    assert!(frames < (sent.len() / 1448) as u64, "{frames} frames: nothing was sent in one piece");
}

#[test]
fn a_guest_reaches_nobody_by_itself() {
    let honeynet = Honeynet::new("");
    let mut guest = Guest::create(&honeynet, "a", "vif=['ip=10.77.0.5']");
    let mut other = Guest::create(&honeynet, "b", "vif=['ip=10.77.0.6']");
    for (shell, own) in [(&mut guest, "10.77.0.5"), (&mut other, "10.77.0.6")] {
        shell.run(&format!(
            "ip addr add {own}/24 dev eth0; ip link set eth0 up; ip route add default via 10.77.0.1"
        ));
    }
    let ping = |shell: &mut Guest, to: &str| {
        shell.run(&format!("ping -c 2 -W 1 {to} >/dev/null && echo yes || echo no"))
    };
    assert_eq!(ping(&mut guest, "10.77.0.6"), "no");
    assert_eq!(ping(&mut guest, "192.0.2.1"), "no");
    // Under somebody else's address neither, and that is an event.
    guest.run("ip addr add 10.77.0.6/24 dev eth0; ping -c 1 -W 1 -I 10.77.0.6 10.77.0.1");
    let begun = Instant::now();
    loop {
        let events =
            honeynet.run(&["events", "--id", "containment.verdict", "--json", "-n", "200"]).good().stdout;
        if events.contains("source-address") && events.contains("not-a-reply") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{events}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Frames of this vif's captures, oldest first.
fn captured(honeynet: &Honeynet, domain: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(honeynet.path("state/pcap")).unwrap().flatten().map(|entry| entry.path());
    let own = |path: &std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{domain}-")))
    };
    let mut files: Vec<_> = files.filter(own).collect();
    files.sort();
    let mut frames = Vec::new();
    for file in files {
        let mut capture = pcap::Capture::from_file(file).unwrap();
        assert_eq!(capture.get_datalink(), pcap::Linktype::ETHERNET);
        // The end of a file that is still written is no error of what stands before.
        while let Ok(packet) = capture.next_packet() {
            assert_eq!(packet.header.caplen, packet.header.len, "a frame was cut");
            frames.push(packet.data.to_vec());
        }
    }
    frames
}

#[test]
fn a_domains_capture_has_the_frames_of_its_vif_and_no_others() {
    const MAC: [u8; 6] = [0x00, 0x16, 0x3e, 1, 2, 3];
    let honeynet = Honeynet::new("");
    let mut guest = Guest::create(&honeynet, "a", "vif=['mac=00:16:3e:01:02:03,ip=10.77.0.5']");
    let mut other = Guest::create(&honeynet, "b", "vif=['ip=10.77.0.6']");
    other.run("ip addr add 10.77.0.6/24 dev eth0; ip link set eth0 up; ping -c 1 -W 1 10.77.0.1");
    guest.run("ip addr add 10.77.0.5/24 dev eth0; ip link set eth0 up; mkdir /tmp/www; echo told-by-the-guest > /tmp/www/page");
    guest.run("httpd -p 8 -h /tmp/www");
    let mut stream = connect(&honeynet, Ipv4Addr::new(10, 77, 0, 5), 8);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /page HTTP/1.0\r\nX-Asked: from-outside\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let has = |frame: &[u8], text: &str| frame.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has(&answer, "told-by-the-guest"));

    let begun = Instant::now();
    let frames = loop {
        let frames = captured(&honeynet, "a");
        if frames.iter().any(|frame| has(frame, "told-by-the-guest")) {
            break frames;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{} frames", frames.len());
        std::thread::sleep(Duration::from_millis(20));
    };
    let (to, from) = (|frame: &Vec<u8>| frame[..6] == MAC, |frame: &Vec<u8>| frame[6..12] == MAC);
    assert!(frames.iter().any(|frame| to(frame) && has(frame, "X-Asked: from-outside")));
    assert!(frames.iter().any(|frame| from(frame) && has(frame, "told-by-the-guest")));
    // Who asks for a unicast address that nobody else has is heard by all; nothing else is another's.
    let foreign = |frame: &&Vec<u8>| !to(frame) && !from(frame) && frame[0] & 1 == 0;
    assert_eq!(frames.iter().filter(foreign).count(), 0);
    // From the first frame of the connection on, in the order in which they went.
    let place = |text: &str| frames.iter().position(|frame| has(frame, text)).unwrap();
    assert!(place("X-Asked: from-outside") < place("told-by-the-guest"));
}
