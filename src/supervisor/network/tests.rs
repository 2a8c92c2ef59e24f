//! The real netwatch, on a thread, in a namespace of the test's own. Needs root and iproute2.

use std::os::fd::{IntoRawFd, RawFd};
use std::thread::JoinHandle;

use netwatch::switch::{Touch, Wanted};
use serde_json::json;
use vifport::{Endpoint, Port, PortFds, Side};

use super::*;

const POOL_MAC: &str = "00:16:3e:00:00:20";
const POOL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);
const PATIENCE: Duration = Duration::from_secs(10);

struct House {
    network: Arc<Network>,
    netwatch: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl House {
    fn build(tag: &str) -> House {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path().join("state"));
        for part in [state.run(), state.pcap()] {
            std::fs::create_dir_all(part).unwrap();
        }
        let mut file = HoneynetFile::default();
        file.network.namespace = format!("hnt{}-{tag}", std::process::id());
        let network = Arc::new(Network::build(&file, folder.path(), &state).unwrap());
        let mut house = House { network, netwatch: None, _folder: folder };
        house.start();
        house
    }

    /// As `Services` starts it, but for the process.
    fn start(&mut self) {
        let service = Netwatch(Arc::clone(&self.network));
        let program = service.program().unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&program.config).unwrap();
        let descriptors: Vec<(RawFd, RawFd)> = program
            .descriptors
            .into_numbered()
            .into_iter()
            .map(|(child_fd, fd)| (child_fd, fd.into_raw_fd()))
            .collect();
        renumber(&mut config, &descriptors);
        config["uid"] = json!(null);
        let config: NetwatchConfig = serde_json::from_value(config).unwrap();
        self.netwatch = Some(std::thread::spawn(move || netwatch::run(config).unwrap()));
        service.started();
    }

    fn stop(&mut self) {
        self.network.hang_up();
        if let Some(netwatch) = self.netwatch.take() {
            netwatch.join().unwrap();
        }
    }

    fn clone(&self, domid: u32, source: Option<Ipv4Addr>) -> Endpoint {
        let port = Port::create().unwrap();
        let seat = Seat::Pool { pool: "ssh".into(), source: source.map(Into::into) };
        let domain = format!("ssh-{domid}");
        self.network.plug(&domain, domid, POOL_MAC, Some(POOL), &port, seat).unwrap();
        let PortFds { memory, to_switch, from_switch } = port;
        Endpoint::attach(PortFds { memory, to_switch, from_switch }, Side::Backend).unwrap()
    }

    fn pools(&self) -> serde_json::Value {
        self.network.stats().unwrap()["pools"].take()
    }

    /// A datagram of the gateway to the pool.
    fn touch(&self) {
        netns::within(&self.network.namespace, || {
            let socket = UdpSocket::bind((self.network.gateway, 0)).unwrap();
            socket.send_to(b"hello", (POOL, 53)).unwrap();
        })
        .unwrap();
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop();
        self.network.remove();
    }
}

/// The numbers of descriptors are those of a child; a thread has others.
fn renumber(config: &mut serde_json::Value, descriptors: &[(RawFd, RawFd)]) {
    match config {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                let number = value.as_i64().filter(|_| key == "fd" || key.ends_with("_fd"));
                match number.and_then(|number| descriptors.iter().find(|(fd, _)| i64::from(*fd) == number)) {
                    Some((_, own)) => *value = json!(own),
                    None => renumber(value, descriptors),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(|value| renumber(value, descriptors)),
        _ => {}
    }
}

#[test]
fn a_new_netwatch_knows_pools_clones_and_seats() {
    let mut house = House::build("again");
    let wanted = house.network.wanted().unwrap();
    house.network.add_pool("ssh", POOL_MAC, POOL, Touch::Any).unwrap();
    let gateway = house.network.gateway;
    let (alice, bob) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let _first = house.clone(7, Some(alice));
    let mut shared = house.clone(8, None);
    house.network.seat(8, "ssh", bob.into()).unwrap();
    house.network.seat(8, "ssh", alice.into()).unwrap();
    house.network.unseat("ssh", bob.into()).unwrap();
    let port = Port::create().unwrap();
    let outer = Seat::Outer { mac: "00:16:3e:00:00:99".into(), address: Ipv4Addr::new(10, 77, 0, 99) };
    house
        .network
        .plug("side", 6, "00:16:3e:00:00:06", Some(Ipv4Addr::new(10, 77, 0, 6)), &port, outer)
        .unwrap();
    let gone = house.clone(9, Some(bob));
    house.network.unplug(9);
    drop(gone);
    let expected = json!([{ "pool": "ssh", "clones": 2, "seats": 1 }]);
    assert_eq!(house.pools(), expected);
    assert!(matches!(house.network.remove_pool("ssh"), Err(SwitchError::Refused(_))));

    house.stop();
    assert!(matches!(house.network.seat(7, "ssh", bob.into()), Err(SwitchError::Away(_))));
    house.start();
    assert_eq!(house.pools(), expected);
    let ports = house.network.stats().unwrap()["ports"].take();
    let domids: Vec<_> = ports.as_array().unwrap().iter().filter_map(|port| port["domid"].as_u64()).collect();
    assert_eq!(domids, [7, 8, 6]);
    house.touch();
    let told = wanted.recv_timeout(PATIENCE).unwrap();
    let from_gateway =
        Wanted { pool: "ssh".into(), source: gateway.into(), protocol: "udp".into(), port: 53 };
    assert_eq!(told, from_gateway);
    assert_eq!(house.network.seat(8, "ssh", gateway.into()).unwrap(), 1);
    let mut frame = Vec::new();
    assert!(shared.recv(&mut frame).unwrap().is_some());
    assert!(frame.ends_with(b"hello"));
}

#[test]
fn a_refused_source_is_told_of_no_more() {
    let house = House::build("refused");
    let wanted = house.network.wanted().unwrap();
    house.network.add_pool("ssh", POOL_MAC, POOL, Touch::Any).unwrap();
    house.touch();
    let source = wanted.recv_timeout(PATIENCE).unwrap().source;
    house.network.refuse("ssh", source).unwrap();
    house.touch();
    assert!(wanted.recv_timeout(Duration::from_millis(300)).is_err());
    assert_eq!(house.network.stats().unwrap()["frames"], json!({ "held": 1, "delivered": 0, "dropped": 2 }));
}
