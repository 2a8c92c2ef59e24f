//! The house of the tests: three namespaces, a running netwatch, and a decoy that is a TAP bridged to a vif port.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netwatch::config::{CaptureConfig, NetwatchConfig, RelayConfig, RelaySource, UplinkConfig, UplinkKind};
use netwatch::netns::{self, ip};
use netwatch::uplink::{InterfaceSpec, Received, Uplink, open_interface, open_tap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use vifport::{Endpoint, Port, PortFds, Side};

pub const GATEWAY: &str = "10.77.0.1";
pub const DECOY: &str = "10.77.0.11";
pub const INTRUDER: &str = "10.77.0.99";
/// An address behind the fence.
pub const FENCED: &str = "198.51.100.9";
/// The pool's address, and that of each of its clones.
pub const POOL: &str = "10.77.0.20";
pub const POOL_MAC: &str = "00:16:3e:77:00:20";
const DECOY_MAC: &str = "00:16:3e:77:00:11";
const RULE: &str = "alert tcp any any -> $HOME_NET 22 (msg:\"marker\"; flow:to_server; content:\"marker-7731\"; sid:1000001; rev:2;)\n";
const PATIENCE: Duration = Duration::from_secs(10);

pub struct House {
    pub netns: String,
    pub decoy_netns: String,
    pub intruder_netns: String,
    pub published: SocketAddr,
    control: UnixStream,
    answers: BufReader<UnixStream>,
    wanted: BufReader<UnixStream>,
    events: UnixStream,
    captures: tempfile::TempDir,
    _rules: tempfile::NamedTempFile,
    decoy_tap: Arc<Uplink>,
    bridge: Option<Bridge>,
    netwatch: Option<JoinHandle<()>>,
}

/// The backend's part: frames between the decoy's TAP and its port.
struct Bridge {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// A clone of the pool: a namespace of its own with a TAP, plugged in or parked.
pub struct Clone {
    pub netns: String,
    tap: Arc<Uplink>,
    bridge: Option<Bridge>,
}

impl Clone {
    pub fn parked(tag: &str) -> Clone {
        let netns = format!("nwt{}-clone-{tag}", std::process::id());
        netns::create(&netns).unwrap();
        let tap = Arc::new(open_machine(&netns, POOL, POOL_MAC));
        Clone { netns, tap, bridge: None }
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        stop(self.bridge.take());
        let _ = netns::delete(&self.netns);
    }
}

/// Namespaces that go, whatever happens.
struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = netns::delete(name);
        }
    }
}

impl House {
    pub fn build(tag: &str) -> House {
        House::with_published(tag, TcpListener::bind("127.0.0.1:0").unwrap(), DECOY, None)
    }

    /// A house whose published port is this listener and belongs to this decoy or pool, and whose netwatch may be
    /// another user.
    pub fn with_published(tag: &str, listener: TcpListener, target: &str, uid: Option<u32>) -> House {
        let names = ["house", "decoy", "evil"].map(|part| format!("nwt{}-{part}-{tag}", std::process::id()));
        let [netns, decoy_netns, intruder_netns] = names.clone();
        let guard = Namespaces(names.to_vec());
        for name in &names {
            netns::create(name).unwrap();
        }
        let gateway = open_tap(&netns, "tap0", &format!("{GATEWAY}/24")).unwrap();
        netns::take_answers_back(&netns, "tap0").unwrap();
        let outside = open_outside(&netns, &intruder_netns);
        let decoy_tap = open_machine(&decoy_netns, DECOY, DECOY_MAC);

        let captures = tempfile::tempdir().unwrap();
        let rules = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(rules.path(), RULE).unwrap();
        let (control, control_inner) = UnixStream::pair().unwrap();
        let (wanted, wanted_inner) = UnixStream::pair().unwrap();
        wanted.set_read_timeout(Some(PATIENCE)).unwrap();
        let (events, events_inner) = UnixStream::pair().unwrap();
        let published = listener.local_addr().unwrap();
        let config = NetwatchConfig {
            netns: Some(netns.clone()),
            control_fd: control_inner.into_raw_fd(),
            wanted_fd: Some(wanted_inner.into_raw_fd()),
            events_fd: Some(events_inner.into_raw_fd()),
            uplinks: vec![
                UplinkConfig { fd: gateway.into_raw_fd(), kind: UplinkKind::Gateway, mac: None },
                UplinkConfig { fd: outside.into_raw_fd(), kind: UplinkKind::Interface, mac: None },
            ],
            relays: vec![RelayConfig {
                listen_fd: listener.into_raw_fd(),
                target: format!("{target}:22").parse().unwrap(),
                domain: "web".into(),
            }],
            relay_source: RelaySource::Client,
            loghost: vec![GATEWAY.parse().unwrap()],
            fence: vec![FENCED.parse().unwrap()],
            profile: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../rules/containment/replies-only.toml"),
            rules: vec![rules.path().to_owned()],
            home_net: "10.77.0.0/24".into(),
            variables: BTreeMap::new(),
            capture: Some(CaptureConfig {
                folder: captures.path().to_owned(),
                file_bytes_max: 64 << 20,
                files_max: 4,
                flow_bytes_max: 16 << 20,
            }),
            uid,
        };
        std::os::unix::fs::chown(captures.path(), uid, uid).unwrap();
        let netwatch = thread::spawn(move || netwatch::run(config).unwrap());
        // From here on the house takes the namespaces away.
        std::mem::forget(guard);
        let answers = BufReader::new(control.try_clone().unwrap());
        answers.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let mut house = House {
            netns,
            decoy_netns,
            intruder_netns,
            published,
            control,
            answers,
            wanted: BufReader::new(wanted),
            events,
            captures,
            _rules: rules,
            decoy_tap: Arc::new(decoy_tap),
            bridge: None,
            netwatch: Some(netwatch),
        };
        house.plug_decoy_in();
        house
    }

    /// Gives the decoy a new port, as a domain that is created again gets one.
    pub fn plug_decoy_in(&mut self) {
        self.stop_bridge();
        let port = Port::create().unwrap();
        let request = format!(
            r#"{{"op":"add-port","domain":"web","domid":3,"mac":"{DECOY_MAC}","addresses":["{DECOY}"]}}"#
        );
        assert_eq!(self.ask_with(&request, &copy(&port))["ok"], serde_json::json!({}));
        self.bridge = Some(bridge(&self.decoy_tap, Endpoint::attach(port, Side::Backend).unwrap()));
    }

    /// Opens the pool.
    pub fn add_pool(&mut self) {
        let request = format!(r#"{{"op":"add-pool","pool":"ssh","mac":"{POOL_MAC}","address":"{POOL}"}}"#);
        assert_eq!(self.ask(&request)["ok"], serde_json::json!({}));
    }

    /// The next source that waits for a clone.
    pub fn wanted(&mut self) -> Value {
        let mut line = String::new();
        self.wanted.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["wanted"].take()
    }

    /// Plugs a clone in for a source; answers how many frames were held.
    pub fn plug_clone_in(&mut self, clone: &mut Clone, domid: u32, source: &str) -> u64 {
        let (endpoint, held) = self.plug_raw_clone_in(domid, source);
        clone.bridge = Some(bridge(&clone.tap, endpoint));
        held
    }

    /// The same, for a clone that the test itself plays, frame by frame.
    pub fn plug_raw_clone_in(&mut self, domid: u32, source: &str) -> (Endpoint, u64) {
        let port = Port::create().unwrap();
        let request = format!(
            r#"{{"op":"add-port","domain":"ssh-{domid}","domid":{domid},"mac":"{POOL_MAC}","addresses":["{POOL}"],"seat":{{"pool":"ssh","source":"{source}"}}}}"#
        );
        let answer = self.ask_with(&request, &copy(&port));
        let held = answer["ok"]["held"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        (Endpoint::attach(port, Side::Backend).unwrap(), held)
    }

    /// Plugs a machine in that outside has another MAC and address than it knows of.
    pub fn plug_mapped_in(&mut self, clone: &mut Clone, domid: u32, outer: (&str, &str)) {
        let port = Port::create().unwrap();
        let request = format!(
            r#"{{"op":"add-port","domain":"side-{domid}","domid":{domid},"mac":"{POOL_MAC}","addresses":["{POOL}"],"outer":{{"mac":"{}","address":"{}"}}}}"#,
            outer.0, outer.1
        );
        assert_eq!(self.ask_with(&request, &copy(&port))["ok"], serde_json::json!({}));
        clone.bridge = Some(bridge(&clone.tap, Endpoint::attach(port, Side::Backend).unwrap()));
    }

    /// A vif that nobody speaks to and that says nothing.
    pub fn plug_idle_in(&mut self, number: u8, domid: u32) -> Endpoint {
        let port = Port::create().unwrap();
        let [high, low] = [domid >> 8 & 0xff, domid & 0xff];
        let request = format!(
            r#"{{"op":"add-port","domain":"idle-{domid}","domid":{domid},"mac":"00:16:3e:{number:02x}:{high:02x}:{low:02x}","addresses":["10.{number}.{high}.{low}"]}}"#
        );
        assert_eq!(self.ask_with(&request, &copy(&port))["ok"], serde_json::json!({}));
        Endpoint::attach(port, Side::Backend).unwrap()
    }

    /// Adds a port whose backend claims to have produced more than the ring holds.
    pub fn plug_liar_in(&mut self) {
        let port = Port::create().unwrap();
        let request = r#"{"op":"add-port","domain":"liar","domid":4,"mac":"00:16:3e:77:00:12","addresses":["10.77.0.12"]}"#;
        assert_eq!(self.ask_with(request, &copy(&port))["ok"], serde_json::json!({}));
        // The first ring's produced index lies on the page behind the header.
        rustix::io::pwrite(&port.memory, &[0xff; 4], 4096).unwrap();
        rustix::io::write(&port.to_switch, &1u64.to_ne_bytes()).unwrap();
    }

    /// Asks netwatch.
    pub fn ask(&mut self, request: &str) -> Value {
        writeln!(self.control, "{request}").unwrap();
        self.answer()
    }

    /// Waits for an event with this id that is the one looked for.
    pub fn wait_for_event(&self, id: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        self.events.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(self.events.try_clone().unwrap());
        while Instant::now() < deadline {
            let event = read_event(&mut reader).expect("no more events");
            if event["event_id"] == id && is_it(&event) {
                return event;
            }
        }
        panic!("no event {id}");
    }

    /// Every frame in the captures, read by libpcap.
    pub fn captured_packets(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for entry in std::fs::read_dir(self.captures.path()).unwrap() {
            let mut capture = pcap::Capture::from_file(entry.unwrap().path()).unwrap();
            while let Ok(packet) = capture.next_packet() {
                frames.push(packet.data.to_vec());
            }
        }
        frames
    }

    fn ask_with(&mut self, request: &str, port: &PortFds) -> Value {
        let fds = [port.memory.as_fd(), port.to_switch.as_fd(), port.from_switch.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let line = format!("{request}\n");
        let io = [IoSlice::new(line.as_bytes())];
        sendmsg(&self.control, &io, &mut ancillary, SendFlags::empty()).unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn stop_bridge(&mut self) {
        stop(self.bridge.take());
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        self.stop_bridge();
        if let Some(netwatch) = self.netwatch.take() {
            let _ = netwatch.join();
        }
        drop(Namespaces(vec![self.netns.clone(), self.decoy_netns.clone(), self.intruder_netns.clone()]));
    }
}

/// The network card of a machine that is a namespace, with its address and the way to the gateway.
fn open_machine(netns: &str, address: &str, mac: &str) -> Uplink {
    let tap = open_tap(netns, "eth0", &format!("{address}/24")).unwrap();
    ip(&["-n", netns, "link", "set", "eth0", "address", mac]).unwrap();
    ip(&["-n", netns, "route", "add", "default", "via", GATEWAY]).unwrap();
    Uplink::new(tap)
}

/// A bridge in the house's namespace that stands for the real network, with the intruder on it.
fn open_outside(netns: &str, intruder_netns: &str) -> OwnedFd {
    ip(&["-n", netns, "link", "add", "lan0", "type", "bridge"]).unwrap();
    ip(&["-n", netns, "link", "set", "lan0", "up"]).unwrap();
    ip(&[
        "-n",
        netns,
        "link",
        "add",
        "evil0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        intruder_netns,
    ])
    .unwrap();
    ip(&["-n", netns, "link", "set", "evil0", "master", "lan0", "up"]).unwrap();
    ip(&["-n", intruder_netns, "address", "add", &format!("{INTRUDER}/24"), "dev", "eth0"]).unwrap();
    ip(&["-n", intruder_netns, "link", "set", "eth0", "up"]).unwrap();
    let spec: InterfaceSpec = "bridge:lan0".parse().unwrap();
    netns::within(netns, || open_interface(&spec, "hnup0", None)).unwrap().unwrap()
}

fn copy(port: &PortFds) -> PortFds {
    let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
    PortFds {
        memory: copy(&port.memory),
        to_switch: copy(&port.to_switch),
        from_switch: copy(&port.from_switch),
    }
}

fn bridge(tap: &Arc<Uplink>, endpoint: Endpoint) -> Bridge {
    let (stop, tap) = (Arc::new(AtomicBool::new(false)), Arc::clone(tap));
    let flag = Arc::clone(&stop);
    Bridge { stop, thread: thread::spawn(move || carry(&tap, endpoint, &flag)) }
}

fn stop(bridge: Option<Bridge>) {
    if let Some(bridge) = bridge {
        bridge.stop.store(true, Ordering::Relaxed);
        bridge.thread.join().unwrap();
    }
}

fn carry(tap: &Uplink, mut endpoint: Endpoint, stop: &AtomicBool) {
    let mut frame = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if endpoint.prepare_wait().unwrap() {
            let mut fds = [
                PollFd::new(tap, PollFlags::IN),
                PollFd::from_borrowed_fd(endpoint.wait_fd(), PollFlags::IN),
            ];
            let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let _ = poll(&mut fds, Some(&timeout));
        }
        endpoint.clear_wait().unwrap();
        for _ in 0..32 {
            if !endpoint.room_or_wait(vifport::FRAME_BYTES_MAX).unwrap() {
                break;
            }
            match tap.recv(&mut frame).unwrap() {
                Received::Frame(meta) => endpoint.send(&meta, &[&frame]).unwrap(),
                Received::Unusable => {}
                Received::Empty => break,
            }
        }
        for _ in 0..32 {
            match endpoint.recv(&mut frame).unwrap() {
                Some(meta) => assert!(tap.send(&meta, &frame)),
                None => break,
            }
        }
        endpoint.notify().unwrap();
    }
}

/// One octet-counted message (RFC 6587); the event is what follows the last bracket of the header.
fn read_event(reader: &mut impl BufRead) -> Option<Value> {
    let mut len = Vec::new();
    reader.read_until(b' ', &mut len).ok()?;
    let len: usize = std::str::from_utf8(&len).ok()?.trim().parse().ok()?;
    let mut message = vec![0; len];
    reader.read_exact(&mut message).ok()?;
    let text = String::from_utf8(message).ok()?;
    serde_json::from_str(&text[text.find('{')?..]).ok()
}

/// Sends echo requests by the kernel's ping socket until one is answered.
pub fn ping(address: &str) -> bool {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    let address: SocketAddr = format!("{address}:0").parse().unwrap();
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        Some(rustix::net::ipproto::ICMP),
    )
    .unwrap();
    let socket = std::net::UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    (0..5).any(|sequence| {
        socket.send_to(&[8, 0, 0, 0, 0, 0, 0, sequence, b'h', b'i'], address).unwrap();
        matches!(socket.recv_from(&mut [0; 64]), Ok((10, _)))
    })
}
