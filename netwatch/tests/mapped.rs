//! Children of one snapshot side by side: namespaces with one and the same MAC and address, each of which is somebody else
//! outside. Needs root and iproute2.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panic; clippy knows only #[test] functions as tests"
)]

mod house;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use house::{Clone, House, POOL};
use netwatch::netns;

const PATIENCE: Duration = Duration::from_secs(10);
const OUTER: [(&str, &str); 2] = [("00:16:3e:77:01:01", "10.77.0.121"), ("00:16:3e:77:01:02", "10.77.0.122")];

/// A service that says its machine's number, then sends back what it gets.
fn serve(clone: &Clone, number: u8) {
    let listener = netns::within(&clone.netns, || TcpListener::bind((POOL, 22)).unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = vec![0; 65536];
                let _ = client.write_all(&[number]);
                while let Ok(len @ 1..) = client.read(&mut bytes) {
                    if client.write_all(&bytes[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Sends megabytes and reads them back; answers the machine's number.
fn round_trip(stream: &TcpStream) -> u8 {
    let sent: Vec<u8> = (0..4 << 20).map(|at: usize| (at * 31 % 251) as u8).collect();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (&*stream).write_all(&sent).unwrap());
        let mut number = [0; 1];
        (&*stream).read_exact(&mut number).unwrap();
        let mut got = vec![0; sent.len()];
        (&*stream).read_exact(&mut got).unwrap();
        assert!(got == sent, "other bytes came back");
        number[0]
    })
}

#[test]
fn two_machines_with_one_inner_address_live_side_by_side() {
    let mut house = House::build("ma");
    let mut clones = [Clone::parked("ma0"), Clone::parked("ma1")];
    for (at, clone) in clones.iter_mut().enumerate() {
        serve(clone, at as u8);
        house.plug_mapped_in(clone, 20 + at as u32, OUTER[at]);
    }
    // From the real network, and from the gateway's namespace: offload frames and cut ones, both ways.
    for netns in [house.intruder_netns.clone(), house.netns.clone()] {
        for (at, (_, address)) in OUTER.iter().enumerate() {
            let to = format!("{address}:22").parse().unwrap();
            let stream =
                netns::within(&netns, || TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
            assert_eq!(usize::from(round_trip(&stream)), at);
            assert_eq!(stream.peer_addr().unwrap(), to);
        }
        assert!(netns::within(&netns, || house::ping(OUTER[1].1)).unwrap());
    }
    let outer_of = |frame: &[u8]| frame.windows(4).any(|four| four == [10, 77, 0, 121]);
    assert!(house.captured_packets().iter().any(|frame| outer_of(frame)));
    assert!(
        house.captured_packets().iter().all(|frame| !frame.windows(4).any(|four| four == [10, 77, 0, 20]))
    );
}

#[test]
fn a_closed_port_says_so_to_who_asked() {
    let mut house = House::build("mb");
    let mut clone = Clone::parked("mb0");
    house.plug_mapped_in(&mut clone, 20, OUTER[0]);
    // Linux tells a connected socket of an ICMP error only if the quoted packet is the socket's own.
    let error = netns::within(&house.intruder_netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((OUTER[0].1, 53)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"anybody there?").unwrap();
        socket.recv(&mut [0; 16]).unwrap_err().kind()
    });
    assert_eq!(error.unwrap(), std::io::ErrorKind::ConnectionRefused);
}
