//! Published ports, from a world of its own: the decoy sees who really comes. netwatch is a user without privileges here,
//! as it is in the house. Needs root and iproute2.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panic; clippy knows only #[test] functions as tests"
)]

mod house;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use house::{Clone, DECOY, FENCED, GATEWAY, House, POOL};
use netwatch::netns::{self, ip};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

const PATIENCE: Duration = Duration::from_secs(10);
/// Where the host listens in that world.
const HOST: &str = "198.51.100.1";
const CLIENTS: [&str; 2] = ["198.51.100.7", "198.51.100.8"];
/// netwatch's user.
const UID: u32 = 199_771;

/// A namespace with the host's address and all clients' on its loopback.
struct World(String);

impl World {
    fn build(tag: &str) -> World {
        let name = format!("nwt{}-world-{tag}", std::process::id());
        netns::create(&name).unwrap();
        for address in [HOST, FENCED, CLIENTS[0], CLIENTS[1]] {
            ip(&["-n", &name, "address", "add", &format!("{address}/32"), "dev", "lo"]).unwrap();
        }
        World(name)
    }

    fn listen(&self) -> TcpListener {
        netns::within(&self.0, || TcpListener::bind((HOST, 0)).unwrap()).unwrap()
    }

    fn connect(&self, client: &str, to: SocketAddr) -> TcpStream {
        let connected = netns::within(&self.0, || -> std::io::Result<_> {
            let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&socket, &SocketAddr::new(client.parse().unwrap(), 0))?;
            connect(&socket, &to)?;
            Ok(TcpStream::from(socket))
        });
        connected.unwrap().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = netns::delete(&self.0);
    }
}

/// A service that says whom it sees, in a line, and then sends back what it gets.
fn serve(netns: &str, address: &str) {
    let listener = netns::within(netns, || TcpListener::bind((address, 22)).unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut client, peer)) = listener.accept() {
            std::thread::spawn(move || {
                let _ = writeln!(client, "{:<15}", peer.ip());
                let mut bytes = vec![0; 65536];
                while let Ok(len @ 1..) = client.read(&mut bytes) {
                    if client.write_all(&bytes[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

fn seen(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = [0; 16];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8(line.to_vec()).unwrap().trim().to_owned()
}

#[test]
fn a_decoy_sees_the_client_and_of_a_fenced_one_the_gateway() {
    let world = World::build("ra");
    let house = House::with_published("ra", world.listen(), DECOY, Some(UID));
    serve(&house.decoy_netns, DECOY);
    for (client, expected) in [(CLIENTS[0], CLIENTS[0]), (CLIENTS[1], CLIENTS[1]), (FENCED, GATEWAY)] {
        let mut stream = world.connect(client, house.published);
        assert_eq!(seen(&mut stream), expected, "{client}");
        let sent: Vec<u8> = (0..1 << 20).map(|at: usize| (at * 31 % 251) as u8).collect();
        let got = std::thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&sent).unwrap());
            let mut got = vec![0; sent.len()];
            (&stream).read_exact(&mut got).unwrap();
            got
        });
        assert!(got == sent, "other bytes came back");
        let event = house.wait_for_event("relay.accepted", |event| event["relay"]["client_ip"] == client);
        assert_eq!((&event["src_ip"], &event["dest_ip"]), (&expected.into(), &DECOY.into()));
    }
}

#[test]
fn a_pool_tells_the_clients_of_a_published_port_apart() {
    let world = World::build("rb");
    let mut house = House::with_published("rb", world.listen(), POOL, Some(UID));
    house.add_pool();
    let mut clones = [Clone::parked("rb0"), Clone::parked("rb1")];
    for (at, clone) in clones.iter_mut().enumerate() {
        serve(&clone.netns, POOL);
        let mut stream = world.connect(CLIENTS[at], house.published);
        assert_eq!(house.wanted()["source"], CLIENTS[at]);
        assert_eq!(house.plug_clone_in(clone, 10 + at as u32, CLIENTS[at]), 1);
        assert_eq!(seen(&mut stream), CLIENTS[at]);
    }
    let stats = house.ask(r#"{"op":"stats"}"#);
    assert_eq!(stats["ok"]["pools"][0]["seats"], 2);
}

#[test]
fn the_gateway_takes_no_address_but_its_own() {
    let world = World::build("rc");
    let house = House::with_published("rc", world.listen(), DECOY, Some(UID));
    // The route that brings answers back must not make the gateway's kernel answer ARP for the addresses of others.
    netns::within(&house.decoy_netns, || {
        let socket = UdpSocket::bind((DECOY, 0)).unwrap();
        for to in ["10.77.0.200", GATEWAY] {
            socket.send_to(b"who are you?", (to, 514)).unwrap();
        }
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let output = std::process::Command::new("ip").args(["-n", &house.decoy_netns, "neigh"]).output().unwrap();
    let neighbours = String::from_utf8(output.stdout).unwrap();
    let of =
        |address: &str| neighbours.lines().find(|line| line.starts_with(&format!("{address} "))).unwrap();
    assert!(of(GATEWAY).contains("lladdr"), "{neighbours}");
    assert!(!of("10.77.0.200").contains("lladdr"), "{neighbours}");
}
