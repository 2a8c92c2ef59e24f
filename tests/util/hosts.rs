//! Two hosts, each with a honeynet, on one network with an attacker's host: network namespaces of the test's own, gone when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Honeynet;

/// The attacker, on the decoys' network.
pub const ATTACKER: &str = "10.77.0.99";
/// The hosts, on a wire between them.
pub const HOSTS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Where they take each other's domains.
pub const PORT: u16 = 8002;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The namespaces.
pub struct Hosts {
    names: [String; 3],
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Hosts {
    /// Makes them: two hosts with a bridge each, both joined to the attacker's, and a wire from host to host.
    pub fn new() -> Hosts {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let names = ["a", "b", "net"].map(|what| format!("hn-t{}-{number}{what}", std::process::id()));
        let made = Hosts { names };
        let [a, b, net] = &made.names;
        for name in &made.names {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link add br0 type bridge"));
            ip(&format!("-n {name} link set br0 up"));
        }
        ip(&format!("-n {net} addr add {ATTACKER}/24 dev br0"));
        for host in [a, b] {
            let port = if host == a { "to-a" } else { "to-b" };
            ip(&format!("-n {host} link add door type veth peer name {port} netns {net}"));
            ip(&format!("-n {host} link set door master br0 up"));
            ip(&format!("-n {net} link set {port} master br0 up"));
        }
        ip(&format!("-n {a} link add wire type veth peer name wire netns {b}"));
        for (host, address) in [a, b].into_iter().zip(HOSTS) {
            ip(&format!("-n {host} addr add {address}/24 dev wire"));
            ip(&format!("-n {host} link set wire up"));
        }
        made
    }

    /// A namespace's file: the hosts', then the attacker's.
    fn file(&self, index: usize) -> PathBuf {
        Path::new("/run/netns").join(&self.names[index])
    }

    /// A honeynet on each host, each a peer of the other by the name `a` or `b`.
    pub fn honeynets(&self) -> [Honeynet; 2] {
        let made = [0, 1].map(|index| {
            let mut honeynet = Honeynet::new("uplink = \"bridge:br0\"\n");
            honeynet.host = Some(self.file(index));
            honeynet
        });
        let prints = made.each_ref().map(|honeynet| honeynet.run(&["fingerprint"]).good().stdout);
        for (index, honeynet) in made.iter().enumerate() {
            let other = 1 - index;
            let peer = format!(
                "[migration]\nlisten = \"{}:{PORT}\"\n[[migration.peer]]\nname = {:?}\naddress = \"{}:{PORT}\"\nfingerprint = {:?}\n",
                HOSTS[index],
                ["a", "b"][other],
                HOSTS[other],
                prints[other].trim()
            );
            let text = std::fs::read_to_string(honeynet.path("honeynet.toml")).unwrap();
            honeynet.write("honeynet.toml", text + &peer);
        }
        made
    }

    /// Does this on the attacker's host.
    pub fn attack<T: Send>(&self, deed: impl FnOnce() -> T + Send) -> T {
        self.within(2, deed)
    }

    /// Does this on one of the hosts, or on the attacker's.
    pub fn within<T: Send>(&self, index: usize, deed: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.file(index)).unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                deed()
            });
            there.join().unwrap()
        })
    }

    /// Takes the wire away, and gives it back.
    pub fn cut(&self, cut: bool) {
        ip(&format!("-n {} link set wire {}", self.names[0], if cut { "down" } else { "up" }));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}
