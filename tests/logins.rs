//! Passwords that intruders type in clear, beside those of sshd: at a telnet server's `login`, into `su` and `sudo`, at an FTP server. Real servers
//! of a decoy, real connections from a host of their own (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use decoys::progress::Silent;
use decoys::recipe::Recipe;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use util::guest::{cache, debian_kernel};
use util::{Honeynet, wait_for};

const DECOY: [u8; 4] = [10, 77, 0, 10];
/// How long something may take that comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A honeynet with the one decoy, up.
fn honeynet() -> Honeynet {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let recipes = root.join("tests/recipes");
    let recipe = Recipe::load(&recipes.join("logins.toml")).unwrap();
    decoys::image::build(&recipe, &recipes, &debian_kernel(), &cache(), &Silent).unwrap();
    let honeynet = Honeynet::new("");
    let head = format!("rules = {:?}\nrecipes = {recipes:?}\n", root.join("rules"));
    let network =
        format!("[network]\nnamespace = \"{}\"\n[dashboard]\nlisten = \"127.0.0.1:0\"\n", honeynet.namespace);
    let address = std::net::Ipv4Addr::from(DECOY);
    let decoy =
        format!("[[decoy]]\nname = \"logins\"\nrecipe = \"logins\"\naddress = \"{address}\"\nmemory = 256\n");
    honeynet.write("honeynet.toml", head + &network + &decoy);
    std::fs::create_dir_all(honeynet.path("state")).unwrap();
    for folder in ["kernels", "images"] {
        std::os::unix::fs::symlink(cache().join(folder), honeynet.path("state").join(folder)).unwrap();
    }
    honeynet.run(&["up"]).good();
    wait_for("the observer", || {
        let ps = honeynet.run(&["ps", "logins", "--json"]).good().json();
        has(&ps["processes"], |task| task["comm"] == "vsftpd").then_some(())
    });
    honeynet
}

/// A connection to the decoy from the honeynet's namespace.
fn connect(honeynet: &Honeynet, port: u16) -> TcpStream {
    let namespace = File::open(format!("/run/netns/{}", honeynet.namespace)).unwrap();
    // The namespace is the thread's; the socket keeps it.
    let connecting = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let address = SocketAddr::from((DECOY, port));
        wait_for("a server that listens", || TcpStream::connect_timeout(&address, PATIENCE).ok())
    });
    let stream = connecting.join().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// RFC 854 and RFC 1073.
const IAC: u8 = 255;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const DONT: u8 = 254;
const SB: u8 = 250;
const SE: u8 = 240;
const ECHO: u8 = 1;
const GO_AHEAD: u8 = 3;
const WINDOW_SIZE: u8 = 31;

/// A telnet client that says how large its window is, and refuses all else.
struct Telnet {
    stream: TcpStream,
    pending: Vec<u8>,
    seen: String,
}

impl Telnet {
    fn new(stream: TcpStream) -> Telnet {
        Telnet { stream, pending: Vec::new(), seen: String::new() }
    }

    /// Waits until this is shown, and then types.
    #[track_caller]
    fn expect(&mut self, wanted: &str, typed: &str) {
        loop {
            if let Some(at) = self.seen.find(wanted) {
                self.seen.drain(..at + wanted.len());
                break;
            }
            assert!(self.read(), "no {wanted:?} in {:?}", self.seen);
        }
        self.stream.write_all(format!("{typed}\r\0").as_bytes()).unwrap();
    }

    fn resize(&mut self, columns: u8, rows: u8) {
        self.stream.write_all(&[IAC, SB, WINDOW_SIZE, 0, columns, 0, rows, IAC, SE]).unwrap();
    }

    fn wait_end(mut self) {
        while self.read() {}
    }

    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let Ok(count @ 1..) = self.stream.read(&mut bytes) else { return false };
        self.pending.extend_from_slice(&bytes[..count]);
        while let Some(used) = self.step() {
            self.pending.drain(..used);
        }
        true
    }

    /// Takes what comes first; answers how long it is, if it is whole.
    fn step(&mut self) -> Option<usize> {
        match *self.pending.as_slice() {
            [] | [IAC] | [IAC, DO | DONT | WILL | WONT] => None,
            [IAC, SB, ..] => self.pending.windows(2).position(|end| end == [IAC, SE]).map(|at| at + 2),
            [IAC, verb @ (DO | DONT | WILL | WONT), option, ..] => {
                match (verb, option) {
                    (DO, WINDOW_SIZE) => {
                        self.stream.write_all(&[IAC, WILL, WINDOW_SIZE]).unwrap();
                        self.resize(100, 30);
                    }
                    (DO, _) => self.stream.write_all(&[IAC, WONT, option]).unwrap(),
                    (WILL, ECHO | GO_AHEAD) => self.stream.write_all(&[IAC, DO, option]).unwrap(),
                    (WILL, _) => self.stream.write_all(&[IAC, DONT, option]).unwrap(),
                    _ => {}
                }
                Some(3)
            }
            [IAC, _, ..] => Some(2),
            // What follows a carriage return alone.
            [0, ..] => Some(1),
            [byte, ..] => {
                self.seen.push(char::from(byte));
                Some(1)
            }
        }
    }
}

fn has(list: &Value, wanted: impl Fn(&Value) -> bool) -> bool {
    list.as_array().unwrap().iter().any(wanted)
}

/// The first ended session of this program's with so many logins.
fn session(honeynet: &Honeynet, service: &str, logins: usize) -> Value {
    let mut seen = Value::Null;
    let look = || {
        seen = honeynet.run(&["sessions", "--json"]).good().json();
        let of = |session: &&Value| {
            session["closed"].is_string()
                && session["service"] == service
                && session["logins"].as_array().unwrap().len() >= logins
        };
        seen.as_array().unwrap().iter().find(of).cloned()
    };
    wait_for(&format!("a session of {service} with {logins} logins"), look)
}

/// Program, user, password, success.
fn logins(session: &Value) -> Vec<(String, String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |login: &Value| {
        assert_eq!(login["method"], "password");
        let success = login["success"].as_bool().unwrap();
        (text(&login["service"]), text(&login["user"]), text(&login["password"]), success)
    };
    session["logins"].as_array().unwrap().iter().map(row).collect()
}

fn expected(rows: &[(&str, &str, &str, bool)]) -> Vec<(String, String, String, bool)> {
    let own = |(service, user, password, success): &(&str, &str, &str, bool)| {
        ((*service).to_owned(), (*user).to_owned(), (*password).to_owned(), *success)
    };
    rows.iter().map(own).collect()
}

/// A login by telnet, and what can be asked for a password behind it.
fn telnet(honeynet: &Honeynet) {
    let mut client = Telnet::new(connect(honeynet, 23));
    client.expect("login: ", "root");
    client.expect("assword: ", "letmein");
    client.expect("login: ", "admin");
    client.expect("assword: ", "admin123");
    client.expect("$ ", "su");
    client.expect("assword: ", "guess");
    client.resize(120, 40);
    client.expect("$ ", "su -c 'echo ro''ot' root");
    client.expect("assword: ", "toor");
    client.expect("root\r\n", "echo 'ad''min123' | sudo -S -k echo pi''ped");
    client.expect("piped\r", "sudo -k; sudo id -u");
    client.expect("admin: ", "nosudo");
    client.expect("admin: ", "admin123");
    client.expect("\r\n0\r", "exit");
    client.wait_end();
}

/// Two logins at the FTP server, one right.
fn ftp(honeynet: &Honeynet, password: &str) {
    let mut stream = connect(honeynet, 21);
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut answer = || {
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        line
    };
    assert!(answer().starts_with("220"));
    for (command, code) in [("USER admin", "331"), (&format!("PASS {password}"), ""), ("QUIT", "221")] {
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let line = answer();
        assert!(line.starts_with(code), "{command}: {line}");
    }
}

#[test]
fn passwords_that_are_typed_in_clear_are_told_with_what_came_of_them() {
    let honeynet = honeynet();
    std::thread::scope(|scope| {
        scope.spawn(|| telnet(&honeynet));
        scope.spawn(|| ftp(&honeynet, "ftpguess"));
        scope.spawn(|| ftp(&honeynet, "admin123"));
    });
    let telnet = session(&honeynet, "telnetd", 7);
    assert_eq!(
        logins(&telnet),
        expected(&[
            ("login", "root", "letmein", false),
            ("login", "admin", "admin123", true),
            ("su", "root", "guess", false),
            ("su", "root", "toor", true),
            ("sudo", "admin", "admin123", true),
            ("sudo", "admin", "nosudo", false),
            ("sudo", "admin", "admin123", true),
        ])
    );
    assert_eq!((&telnet["src_ip"], &telnet["domain"]), (&json!("10.77.0.1"), &json!("logins")));
    let sessions = honeynet.run(&["sessions", "--json"]).good().json();
    for (password, success) in [("ftpguess", false), ("admin123", true)] {
        let wanted = expected(&[("vsftpd", "admin", password, success)]);
        assert!(has(&sessions, |session| logins(session) == wanted), "{wanted:?}: {sessions}");
    }
    // As events, with the session's id.
    for id in ["session.login", "session.login_failed"] {
        let events = honeynet.run(&["events", "--id", id, "--json"]).good().stdout;
        let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of_su = events.iter().find(|event| event["session_event"]["service"] == "su");
        let of_su = of_su.unwrap_or_else(|| panic!("no su in {events:?}"));
        assert_eq!((&of_su["session"], &of_su["session_event"]["user"]), (&telnet["id"], &json!("root")));
    }
    // What the terminal showed begins with its size, has the size that it got later, and no password.
    let name = telnet["tty"][0]["name"].as_str().unwrap();
    let cast = std::fs::read_to_string(honeynet.path("state/tty").join(name)).unwrap();
    let lines: Vec<Value> = cast.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["width"], &lines[0]["height"]), (&json!(100), &json!(30)), "{}", lines[0]);
    assert!(lines.iter().any(|line| line[1] == "r" && line[2] == "120x40"), "{cast}");
    let shown: String =
        lines.iter().filter(|line| line[1] == "o").filter_map(|line| line[2].as_str()).collect();
    assert!(
        shown.contains("Login incorrect") && !shown.contains("letmein") && !shown.contains('\0'),
        "{shown:?}"
    );
}
