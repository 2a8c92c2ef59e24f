//! What a peer of a migration, or somebody who is none, may send: each is told so, or hung up on, and nothing of it stays (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use honeynet::carrier::{self, CarrierProcess, Known, Side};
use honeynet::jail::Jail;
use honeynet::migration::wire::HEAD_BYTES;
use honeynet::migration::{Answer, Head, HostFile, Kind, Offer, offer};
use honeynet::{domain_file, sparse};
use serde_json::{Value, json};
use util::hosts::{HOSTS, Hosts, PORT};
use util::{Honeynet, wait_for};

const SILENCE_MAX: Duration = Duration::from_secs(20);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A connection to b's port from a's host.
fn knock(hosts: &Hosts) -> TcpStream {
    let stream = hosts.within(0, || TcpStream::connect((HOSTS[1], PORT)).unwrap());
    stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
    stream
}

/// A peer who has a's key, and says what he likes.
struct Peer(BufReader<UnixStream>);

impl Peer {
    fn new(hosts: &Hosts, [a, b]: &[Honeynet; 2]) -> Peer {
        let identity = std::fs::read(a.path("state/migration/identity.json")).unwrap();
        let fingerprint = b.run(&["fingerprint"]).good().stdout.trim().parse().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(SILENCE_MAX)).unwrap();
        let process = CarrierProcess {
            jail: Jail { uid: None, isolated: false },
            tcp_fd: knock(hosts).into_raw_fd(),
            local_fd: theirs.into_raw_fd(),
            side: Side::Client,
            identity: serde_json::from_slice(&identity).unwrap(),
            known: vec![Known { name: "b".into(), fingerprint }],
        };
        std::thread::spawn(move || carrier::run(process));
        let mut peer = Peer(BufReader::new(ours));
        let mut line = String::new();
        peer.0.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"peer\":\"b\"}\n");
        peer
    }

    fn say(&mut self, head: &[u8], bytes: &[u8]) {
        // Who was refused before hears no more.
        let _ = self.0.get_mut().write_all(&[head, bytes].concat());
    }

    fn say_json(&mut self, kind: Kind, what: &Value) {
        let text = what.to_string();
        self.say(&Head::plain(kind, text.len() as u32).encode(), text.as_bytes());
    }

    fn hear(&mut self) -> Answer {
        let mut head = [0; HEAD_BYTES];
        self.0.read_exact(&mut head).unwrap();
        let head = Head::decode(&head).unwrap();
        assert_eq!(head.kind, Kind::Answer);
        let mut text = vec![0; head.bytes as usize];
        self.0.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[track_caller]
    fn hears_refusal(mut self, part: &str) {
        match self.hear() {
            Answer::Error(sentence) => assert!(sentence.contains(part), "{part}: {sentence}"),
            Answer::Ok(ok) => panic!("{part}: {ok}"),
        }
    }
}

/// b serves on, has no domain, and nothing that was on its way.
#[track_caller]
fn unharmed(b: &Honeynet) {
    assert_eq!(b.run(&["list", "--json"]).good().json(), json!([]));
    wait_for("an empty room", || {
        let left = b.path("state/incoming").read_dir().map_or(0, Iterator::count);
        (left == 0).then_some(())
    });
}

/// An offer that b takes: kernel and image lie where both see them.
fn good_offer(folder: &Path) -> Offer {
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut hasher = blake3::Hasher::new();
        let add = |number: u64, page: &[u8]| {
            hasher.update(&number.to_le_bytes()).update(page);
            Ok(())
        };
        sparse::each_page(&File::open(&path).unwrap(), add).unwrap();
        let blake3 = hasher.finalize().to_hex().to_string();
        HostFile { path, in_state: None, bytes: bytes.len() as u64, blake3 }
    };
    let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
    let backend = honeyvmm::kvm::probe(kvm.as_raw_fd()).unwrap();
    let text = "name='web'\nmemory=64\nkernel='/k'\ndisk=['/i.img,,xvda,w']\nhn_layer=1";
    Offer {
        version: offer::VERSION,
        build: "test".into(),
        token: TOKEN.into(),
        domain: domain_file::parse(text).unwrap().file,
        uuid: [7; 16],
        outer: None,
        backend,
        shim: honeyvmm::machine::state::shim_id(backend),
        features: honeyvmm::cpuid::features().to_vec(),
        kernel: file("k", b"kernel"),
        ramdisk: None,
        images: vec![file("i.img", &[1; 8192])],
    }
}

#[test]
fn who_is_no_peer_is_hung_up_on() {
    let hosts = Hosts::new();
    let [_, b] = hosts.honeynets();
    b.start_supervisor();
    for words in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"\x16\x03\x01\x00\x01\x00", b""] {
        let mut stream = knock(&hosts);
        stream.write_all(words).unwrap();
        let mut heard = Vec::new();
        // At the latest when nothing has been said for long enough.
        let _ = stream.read_to_end(&mut heard);
        assert!(heard.len() < 64, "an alert at most: {heard:?}");
    }
    // Places are few, so that processes are; one more is hung up on at once, and the places come back.
    let held: Vec<TcpStream> = (0..4).map(|_| knock(&hosts)).collect();
    assert_eq!(knock(&hosts).read(&mut [0]).unwrap_or(0), 0);
    drop(held);
    unharmed(&b);
}

#[test]
fn a_peer_that_says_what_it_may_not_is_refused_and_nothing_of_it_stays() {
    let hosts = Hosts::new();
    let honeynets = hosts.honeynets();
    let b = &honeynets[1];
    b.start_supervisor();
    let peer = || Peer::new(&hosts, &honeynets);
    let first = |head: &[u8], bytes: &[u8], part: &str| {
        let mut peer = peer();
        peer.say(head, bytes);
        peer.hears_refusal(part);
        unharmed(b);
    };
    first(&[0xff; HEAD_BYTES], b"", "speaks something else");
    first(&Head::plain(Kind::Go, 0).encode(), b"", "sends go where it may not");
    first(&Head::plain(Kind::Offer, 2).encode(), b"{}", "cannot be read");
    first(&Head::plain(Kind::Offer, 3).encode(), b"\xff\xff\xff", "cannot be read");
    first(&Head::plain(Kind::Ask, 6).encode(), b"\"../x\"", "sends ask where it may not");

    let folder = tempfile::tempdir().unwrap();
    let offer = |change: &dyn Fn(&mut Offer), part: &str| {
        let mut offer = good_offer(folder.path());
        change(&mut offer);
        let mut peer = peer();
        peer.say_json(Kind::Offer, &json!(offer));
        peer.hears_refusal(part);
        unharmed(b);
    };
    offer(&|offer| offer.token = "../x".into(), "token cannot be");
    offer(&|offer| offer.domain.disks[0].vdev = "../x".into(), "disks cannot be");
    offer(&|offer| offer.shim.clear(), "another build of honeynet");
    offer(&|offer| offer.features[0] = u32::MAX, "another processor");
    offer(&|offer| offer.kernel.blake3.clear(), "is not there");
    offer(&|offer| offer.domain.memory_mib = 1024 * 1024, "MiB of RAM are not there");

    let after_offer = |head: Head, bytes: &[u8], part: &str| {
        let mut peer = peer();
        peer.say_json(Kind::Offer, &json!(good_offer(folder.path())));
        assert_eq!(peer.hear(), Answer::Ok(Value::Null));
        peer.say(&head.encode(), bytes);
        peer.hears_refusal(part);
        unharmed(b);
    };
    let page = [1; 4096];
    let bulk = |kind, disk, at| Head { kind, disk, bytes: 4096, at };
    after_offer(bulk(Kind::Pages, 0, 64 << 8), &page, "does not fit it");
    after_offer(bulk(Kind::Clusters, 0, 2), &page, "does not fit it");
    after_offer(bulk(Kind::Clusters, 9, 0), &page, "does not fit it");
    after_offer(bulk(Kind::Shim, 0, 1 << 40), &page, "does not fit it");
    after_offer(Head::plain(Kind::Rest, 2), b"{}", "cannot be read");
    after_offer(Head::plain(Kind::Go, 0), b"", "sends go where it may not");

    // To be asked decides; who was refused does not come later.
    let mut asking = peer();
    asking.say_json(Kind::Ask, &json!(TOKEN));
    assert_eq!(asking.hear(), Answer::Ok(json!("refused")));
    unharmed(b);
}
