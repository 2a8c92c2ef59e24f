//! Pools, with real Linux stacks: an attacker with many addresses in a namespace, clones that are namespaces with one and
//! the same MAC and address, and clones that the test plays itself. Needs root and iproute2.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panic; clippy knows only #[test] functions as tests"
)]

mod house;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use house::{Clone, GATEWAY, House, INTRUDER, POOL, POOL_MAC};
use netwatch::netns::{self, ip};
use netwatch::packet::{Layers, Mac, Network};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::json;
use vifport::{Endpoint, FrameMeta};

const PATIENCE: Duration = Duration::from_secs(10);
const SSH: u16 = 22;

/// Addresses of the attacker beside his first one.
fn add_sources(house: &House, count: u8) -> Vec<String> {
    let sources: Vec<String> = (0..count).map(|number| format!("10.77.0.{}", 101 + number)).collect();
    for source in &sources {
        ip(&["-n", &house.intruder_netns, "address", "add", &format!("{source}/24"), "dev", "eth0"]).unwrap();
    }
    sources
}

/// A service in a clone that says the clone's number and sends back one byte after another.
fn serve(clone: &Clone, number: u8) {
    let listener = netns::within(&clone.netns, || TcpListener::bind((POOL, SSH)).unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut byte = [0; 1];
                let _ = client.write_all(&[number]);
                while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// Connects from an address, on a thread of its own; answers the connection and how long it took.
fn connect_from(netns: &str, source: &str) -> Receiver<std::io::Result<(TcpStream, Duration)>> {
    let (sender, receiver) = channel();
    let (netns, source) = (netns.to_owned(), source.to_owned());
    std::thread::spawn(move || {
        let connected = netns::within(&netns, || -> std::io::Result<_> {
            let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&socket, &SocketAddr::new(source.parse().unwrap(), 0))?;
            let begun = Instant::now();
            connect(&socket, &format!("{POOL}:{SSH}").parse::<SocketAddr>().unwrap())?;
            Ok((TcpStream::from(socket), begun.elapsed()))
        });
        sender.send(connected.unwrap()).unwrap();
    });
    receiver
}

fn number_of(stream: &mut TcpStream) -> u8 {
    let mut number = [0; 1];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut number).unwrap();
    number[0]
}

fn mac(text: &str) -> Mac {
    text.parse::<pnet::util::MacAddr>().unwrap().octets()
}

/// What a clone that the test plays gets within this time.
fn frames(endpoint: &mut Endpoint, within: Duration) -> Vec<Vec<u8>> {
    let (mut got, until) = (Vec::new(), Instant::now() + within);
    while Instant::now() < until {
        let mut frame = Vec::new();
        match endpoint.recv(&mut frame).unwrap() {
            Some(_) => got.push(frame),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    endpoint.notify().unwrap();
    got
}

fn say(endpoint: &mut Endpoint, frame: &[u8]) {
    endpoint.send(&FrameMeta::default(), &[frame]).unwrap();
    endpoint.notify().unwrap();
}

#[test]
fn each_source_gets_a_machine_of_its_own_before_its_syn_times_out() {
    let mut house = House::build("pa");
    house.add_pool();
    let sources = add_sources(&house, 4);
    let mut clones: Vec<Clone> =
        (0..sources.len()).map(|number| Clone::parked(&format!("pa{number}"))).collect();
    for (number, source) in sources.iter().enumerate() {
        serve(&clones[number], number as u8);
        let attempt = connect_from(&house.intruder_netns, source);
        let wanted = house.wanted();
        assert_eq!(wanted, json!({ "pool": "ssh", "source": source, "protocol": "tcp", "port": SSH }));
        let plugged = Instant::now();
        assert_eq!(house.plug_clone_in(&mut clones[number], 10 + number as u32, source), 1);
        let (mut stream, took) = attempt.recv_timeout(PATIENCE).unwrap().unwrap();
        let after_plug = plugged.elapsed();
        eprintln!(
            "{source}: connected {took:?} after connect(), {after_plug:?} after the port was asked for"
        );
        // A SYN that had to be sent again would have taken a second.
        assert!(took < Duration::from_millis(900), "{took:?}");
        assert_eq!(number_of(&mut stream), number as u8);
    }
    // All live side by side; the same source comes back to the same machine.
    for (number, source) in sources.iter().enumerate() {
        let (mut stream, _) =
            connect_from(&house.intruder_netns, source).recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(number_of(&mut stream), number as u8);
    }
    let event = house.ask(r#"{"op":"stats"}"#);
    assert_eq!(event["ok"]["pools"], json!([{ "pool": "ssh", "clones": 4, "seats": 4 }]));
    // An event of a clone says which clone it was.
    netns::within(&clones[2].netns, || {
        let socket = UdpSocket::bind((POOL, 0)).unwrap();
        socket.send_to(b"exfiltrated", (INTRUDER, 53)).unwrap();
    })
    .unwrap();
    let event = house.wait_for_event("containment.verdict", |event| event["dest_ip"] == INTRUDER);
    assert_eq!((&event["domain"], &event["domid"]), (&json!("ssh-12"), &json!(12)));
}

#[test]
fn the_gateway_is_a_source_too_and_a_source_can_be_moved_and_refused() {
    let mut house = House::build("pb");
    house.add_pool();
    let mut clones = [Clone::parked("pb0"), Clone::parked("pb1")];
    clones.iter().zip(0..).for_each(|(clone, number)| serve(clone, number));
    let attempt = connect_from(&house.netns, GATEWAY);
    assert_eq!(house.wanted()["source"], GATEWAY);
    house.plug_clone_in(&mut clones[0], 10, GATEWAY);
    let (mut stream, _) = attempt.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(number_of(&mut stream), 0);
    house.plug_clone_in(&mut clones[1], 11, INTRUDER);
    let answer = house.ask(&format!(r#"{{"op":"seat","domid":11,"pool":"ssh","source":"{GATEWAY}"}}"#));
    assert_eq!(answer["ok"]["held"], 0);
    let (mut stream, _) = connect_from(&house.netns, GATEWAY).recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(number_of(&mut stream), 1);
    let ended = house.wait_for_event("flow.end", |event| event["src_ip"] == GATEWAY);
    assert_eq!(ended["domain"], "ssh-10");

    let unseated = house.ask(&format!(r#"{{"op":"unseat","pool":"ssh","source":"{INTRUDER}"}}"#));
    assert_eq!(unseated["ok"]["removed"], 1);
    let attempt = connect_from(&house.intruder_netns, INTRUDER);
    assert_eq!(house.wanted()["source"], INTRUDER);
    let refused = house.ask(&format!(r#"{{"op":"refuse","pool":"ssh","source":"{INTRUDER}"}}"#));
    assert_eq!(refused["ok"], json!({}));
    // The SYN is sent again after a second, and again after three.
    assert!(attempt.recv_timeout(Duration::from_millis(2500)).is_err());
    assert_eq!(house.ask(r#"{"op":"stats"}"#)["ok"]["sources_waiting"], 0);
    let seated = house.ask(&format!(r#"{{"op":"seat","domid":11,"pool":"ssh","source":"{INTRUDER}"}}"#));
    assert_eq!(seated["ok"]["held"], 0);
    let (mut stream, _) = attempt.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(number_of(&mut stream), 1);
}

#[test]
fn held_frames_come_in_order_as_soon_as_the_port_is_there() {
    let mut house = House::build("pc");
    house.add_pool();
    let socket = netns::within(&house.intruder_netns, || UdpSocket::bind((INTRUDER, 4000)).unwrap()).unwrap();
    socket.send_to(&[0; 100], (POOL, 53)).unwrap();
    // The others do not wait for the sender's ARP as this one did: what has waited may be overtaken there.
    assert_eq!(house.wanted()["protocol"], "udp");
    for number in 1..12_u8 {
        socket.send_to(&[number; 100], (POOL, 53)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let (mut endpoint, held) = house.plug_raw_clone_in(10, INTRUDER);
    assert_eq!(held, 8);
    // The answer came, so the frames are there.
    let mut frame = Vec::new();
    for number in 4..12_u8 {
        assert!(endpoint.recv(&mut frame).unwrap().is_some(), "{number}");
        let layers = Layers::decode(&frame);
        assert_eq!(frame[layers.payload.clone()], [number; 100]);
    }
    let stats = house.ask(r#"{"op":"stats"}"#);
    assert_eq!(stats["ok"]["frames"], json!({ "held": 12, "delivered": 8, "dropped": 4 }));
}

#[test]
fn a_hostile_clone_reaches_its_own_source_and_nobody_else() {
    let mut house = House::build("pd");
    house.add_pool();
    let sources = add_sources(&house, 2);
    let (mut evil, _) = house.plug_raw_clone_in(10, &sources[0]);
    let (mut other, _) = house.plug_raw_clone_in(11, &sources[1]);
    let pool: [u8; 4] = POOL.parse::<Ipv4Addr>().unwrap().octets();
    let victim: [u8; 4] = sources[1].parse::<Ipv4Addr>().unwrap().octets();
    // The real MAC of the intruder, as a clone learns it: by asking.
    let ask = |sender: [u8; 4], target: [u8; 4], operation: u8, sender_mac: Mac| {
        let mut frame = [vec![0xff; 6], mac(POOL_MAC).to_vec()].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(sender_mac);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    };
    say(&mut evil, &ask(pool, victim, 1, mac(POOL_MAC)));
    let got = frames(&mut evil, Duration::from_millis(300));
    let reply = got.iter().map(|frame| Layers::decode(frame)).find_map(|layers| match layers.network {
        Some(Network::Arp(arp)) if arp.operation == 2 => Some(arp),
        _ => None,
    });
    let reply = reply.expect("no answer to a clone's question");
    assert_eq!(reply.sender_address.octets(), victim);
    assert!(frames(&mut other, Duration::from_millis(50)).is_empty(), "another clone heard the answer");

    let gateway: [u8; 4] = GATEWAY.parse::<Ipv4Addr>().unwrap().octets();
    say(&mut evil, &ask(gateway, victim, 2, mac(POOL_MAC)));
    say(&mut evil, &ask(gateway, victim, 2, reply.sender_mac));
    for destination in [mac(POOL_MAC), reply.sender_mac, [0xff; 6]] {
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2(mac(POOL_MAC), destination).ipv4(pool, victim, 64);
        ip.tcp(22, 4000, 1, 100).syn().ack(2).write(&mut frame, &[]).unwrap();
        say(&mut evil, &frame);
    }
    // Both sources have asked something, so both wait for a word of that port.
    let heard: Vec<bool> = [&sources[0], &sources[1]]
        .map(|source| {
            let socket =
                netns::within(&house.intruder_netns, || UdpSocket::bind((source.as_str(), 7)).unwrap());
            let socket = socket.unwrap();
            socket.send_to(b"?", (POOL, 7)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut frame = Vec::new();
            let to = source.parse::<Ipv4Addr>().unwrap().octets();
            let ip = PacketBuilder::ethernet2(mac(POOL_MAC), reply.sender_mac).ipv4(pool, to, 64);
            ip.udp(7, 7).write(&mut frame, b"hello").unwrap();
            std::thread::sleep(Duration::from_millis(50));
            say(&mut evil, &frame);
            socket.recv(&mut [0; 16]).is_ok()
        })
        .to_vec();
    assert_eq!(heard, [true, false], "a clone speaks to its own source and to no other");
    frames(&mut other, Duration::from_millis(50));
    house.wait_for_event("containment.verdict", |event| event["containment"]["reason"] == "resolution");
    // A broadcast of the outside tells no clone of anything.
    let outside = netns::within(&house.intruder_netns, || {
        let socket = UdpSocket::bind((INTRUDER, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"who is there", ("255.255.255.255", 67))
    });
    outside.unwrap().unwrap();
    assert!(frames(&mut other, Duration::from_millis(100)).is_empty());
}

/// A pool, a clone in it, and an intruder's connection to that.
fn connected(name: &str) -> (House, Clone, TcpStream) {
    let mut house = House::build(name);
    house.add_pool();
    let mut clone = Clone::parked(&format!("{name}0"));
    serve(&clone, 7);
    house.plug_clone_in(&mut clone, 10, INTRUDER);
    let (mut stream, _) =
        connect_from(&house.intruder_netns, INTRUDER).recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(number_of(&mut stream), 7);
    (house, clone, stream)
}

#[test]
fn a_flood_of_sources_leaves_those_with_a_clone_alone() {
    let (mut house, _clone, mut stream) = connected("pe");
    flood(&house, 20_000);
    stream.set_nodelay(true).unwrap();
    let begun = Instant::now();
    for byte in 0..100_u8 {
        stream.write_all(&[byte]).unwrap();
        assert_eq!(number_of(&mut stream), byte);
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let stats = house.ask(r#"{"op":"stats"}"#);
    assert!(stats["ok"]["sources_waiting"].as_u64().unwrap() <= 1024, "{stats}");
    assert!(stats["ok"]["frames"]["dropped"].as_u64().unwrap() > 1000, "{stats}");
    // Nobody reads the lines, and nothing stands still for it.
    assert_eq!(house.ask(r#"{"op":"remove-port","domid":10}"#)["ok"]["removed"], 1);
}

#[test]
fn a_clone_that_takes_no_frames_loses_its_own_alone() {
    let mut house = House::build("pg");
    house.add_pool();
    let sources = add_sources(&house, 1);
    let (mut stuck, _) = house.plug_raw_clone_in(11, &sources[0]);
    let mut clone = Clone::parked("pg0");
    serve(&clone, 7);
    house.plug_clone_in(&mut clone, 10, INTRUDER);
    let (mut stream, _) =
        connect_from(&house.intruder_netns, INTRUDER).recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(number_of(&mut stream), 7);
    stream.set_nodelay(true).unwrap();
    let socket = netns::within(&house.intruder_netns, || UdpSocket::bind((sources[0].as_str(), 0)).unwrap());
    let socket = socket.unwrap();
    let datagram = [0; 1400];
    let (mut times, mut frame) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        // The clone takes as much as makes room for one large frame, so that its port is full anew each time.
        for _ in 0..60 {
            stuck.recv(&mut frame).unwrap();
        }
        stuck.notify().unwrap();
        (0..100).for_each(|_| drop(socket.send_to(&datagram, (POOL, 9))));
        let begun = Instant::now();
        stream.write_all(b"x").unwrap();
        number_of(&mut stream);
        times.push(begun.elapsed());
    }
    times.sort();
    assert!(times[times.len() * 9 / 10] < Duration::from_millis(15), "{:?}", times[times.len() * 9 / 10]);
    let stats = house.ask(r#"{"op":"stats"}"#);
    let lost = |domid: u64| {
        let ports = stats["ok"]["ports"].as_array().unwrap();
        ports.iter().find(|port| port["domid"] == domid).unwrap()["frames_lost"].as_u64().unwrap()
    };
    assert!(lost(11) > 1000 && lost(10) == 0, "{stats}");
}

/// SYNs from made-up addresses, by a packet socket in the intruder's namespace.
fn flood(house: &House, count: u32) {
    let pool: [u8; 4] = POOL.parse::<Ipv4Addr>().unwrap().octets();
    netns::within(&house.intruder_netns, || {
        let interfaces = pnet::datalink::interfaces();
        let eth0 = interfaces.iter().find(|interface| interface.name == "eth0").unwrap();
        let own = eth0.mac.unwrap().octets();
        let channel = pnet::datalink::channel(eth0, pnet::datalink::Config::default()).unwrap();
        let pnet::datalink::Channel::Ethernet(mut sender, _) = channel else { panic!("no ethernet") };
        for number in 0..count {
            let [_, a, b, c] = number.to_be_bytes();
            let mut frame = Vec::new();
            let ip = PacketBuilder::ethernet2(own, mac(POOL_MAC)).ipv4([11, a, b, c], pool, 64);
            ip.tcp(4000, 22, 1, 100).syn().write(&mut frame, &[]).unwrap();
            sender.send_to(&frame, None).unwrap().unwrap();
        }
    })
    .unwrap();
}

#[test]
fn five_hundred_idle_vifs_cost_a_frame_next_to_nothing() {
    let (mut house, _clone, mut stream) = connected("pf");
    stream.set_nodelay(true).unwrap();
    let alone = round_trips(&mut stream);
    let idle: Vec<Endpoint> = (0..512).map(|number| house.plug_idle_in(7, 100 + number)).collect();
    let crowded = round_trips(&mut stream);
    eprintln!("a round trip: {alone:?} alone, {crowded:?} with {} idle vifs", idle.len());
    assert!(crowded < alone * 2, "{alone:?} alone, {crowded:?} with 512 idle vifs");
}

/// The median time of a round trip of one byte.
fn round_trips(stream: &mut TcpStream) -> Duration {
    let mut times: Vec<Duration> = (0..2000)
        .map(|_| {
            let begun = Instant::now();
            stream.write_all(b"x").unwrap();
            number_of(stream);
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}
