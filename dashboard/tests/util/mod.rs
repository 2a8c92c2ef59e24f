//! A house of the test's own: a real logsink and a real dashboard as processes, and a supervisor in the test, since a domain needs more
//! than this crate has.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may, and each test file uses a part of it"
)]

pub mod browser;
pub mod intruder;
pub mod snapshots;
pub mod supervisor;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, SaltString};
use command_fds::{CommandFdExt, FdMapping};
use events::{Emitter, Event};
use supervisor::Supervisor;
use tempfile::TempDir;

const CONFIG: &str = "DASHBOARD_TEST_CONFIG";
/// How long something may take that comes by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The password of every house.
pub const PASSWORD: &str = "correct horse";
/// Its API token.
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Not a test: the processes that the others start. Without its configuration it does nothing.
#[test]
fn process_of_the_house() {
    let Ok(config) = std::env::var(CONFIG) else { return };
    match serde_json::from_str(&config) {
        Ok(config) => logsink::run(config).unwrap(),
        Err(_) => dashboard::run(serde_json::from_str(&config).unwrap()).unwrap(),
    }
}

/// A process that is killed and waited for when dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The house.
pub struct House {
    pub dashboard: Process,
    pub sink: Process,
    pub supervisor: Supervisor,
    pub emitter: Emitter,
    pub address: SocketAddr,
    pub folder: TempDir,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl House {
    pub fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let sink = start(&serde_json::to_string(&logsink::Config::new(state)).unwrap(), None);
        let emitter = Emitter::connect(&logsink::socket_path(state), "test", None).unwrap();
        let evidence = state.join("evidence");
        std::fs::create_dir(&evidence).unwrap();
        let supervisor = Supervisor::start(&state.join("supervisor.sock"), &evidence, emitter.clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = dashboard::Config {
            listen_fd: LISTEN_FD,
            supervisor: state.join("supervisor.sock"),
            events: logsink::socket_path(state),
            store: logsink::store_path(state),
            evidence,
            sessions: state.join("sessions"),
            tty: state.join("tty"),
            samples: state.join("samples"),
            password_hash: hash(PASSWORD),
            token_hash: Some(blake3::hash(TOKEN.as_bytes()).to_hex().to_string()),
            case_key: Some(supervisor.case_key.clone()),
            tls: None,
            names: vec!["honey.example".into()],
        };
        let dashboard = start(&serde_json::to_string(&config).unwrap(), Some(listener));
        House { dashboard, sink, supervisor, emitter, address, folder }
    }

    /// Tells events and waits until they are in the store.
    pub fn tell(&self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.emitter.emit(event));
        assert!(self.emitter.flush(PATIENCE));
    }

    /// Sends these bytes and reads until the other side ends.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // A server that has refused the head need not read the rest.
        let _ = socket.write_all(bytes);
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        let split = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(all.len());
        let head = String::from_utf8_lossy(&all[..split]).into_owned();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let body = all.get(split + 4..).unwrap_or_default();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Answer { status, body: if chunked { unchunk(body) } else { body.to_vec() }, head }
    }

    /// One request with these header lines.
    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        self.raw(head.as_bytes())
    }

    /// `GET` with the API token.
    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[("Authorization", &format!("Bearer {TOKEN}"))], "")
    }

    /// `POST` of JSON with the API token.
    pub fn post(&self, target: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        self.ask("POST", target, &headers, body)
    }

    /// The login's form.
    pub fn login(&self, password: &str) -> Answer {
        let origin = format!("http://{}", self.address);
        let headers = [("Origin", origin.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
        self.ask("POST", "/login", &headers, &format!("password={}", password.replace(' ', "+")))
    }
}

const LISTEN_FD: i32 = 7;

fn start(config: &str, listener: Option<TcpListener>) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "util::process_of_the_house", "--nocapture"]).stdout(Stdio::null());
    let mappings = listener.map(|listener| FdMapping { parent_fd: listener.into(), child_fd: LISTEN_FD });
    command.fd_mappings(mappings.into_iter().collect()).unwrap();
    Process(command.env(CONFIG, config).spawn().unwrap())
}

/// Ends logsink in order, deletes its store, and starts it again.
pub fn restart_sink(house: &House) -> Process {
    let pid = rustix::process::Pid::from_child(&house.sink.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("the end of logsink", || {
        rustix::process::test_kill_process(pid).is_err().then_some(()).or_else(|| {
            // A child that nobody has waited for is still there, as a name.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
            stat.contains(") Z ").then_some(())
        })
    });
    std::fs::remove_dir_all(path(house, "store")).unwrap();
    start(&serde_json::to_string(&logsink::Config::new(house.folder.path())).unwrap(), None)
}

fn hash(password: &str) -> String {
    let salt = SaltString::encode_b64(b"0123456789abcdef").unwrap();
    Argon2::default().hash_password(password.as_bytes(), &salt).unwrap().to_string()
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if length == 0 || body.len() < end + 2 + length {
            break;
        }
        out.extend_from_slice(&body[end + 2..end + 2 + length]);
        body = body.get(end + 4 + length..).unwrap_or_default();
    }
    out
}

/// Asks until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A path below the house's folder.
pub fn path(house: &House, name: &str) -> PathBuf {
    house.folder.path().join(name)
}
