//! The sink as a process of its own: killed, restarted, asked.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use events::{Emitter, Event, EventId};
use jiff::Timestamp;
use logsink::{Config, Filter, Row, Store, journal_dir, socket_path, store_path, verify_chain};

const CONFIG: &str = "LOGSINK_TEST_CONFIG";
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: the process that the others start. Without its configuration it does nothing.
#[test]
fn sink_process() {
    let Ok(config) = std::env::var(CONFIG) else { return };
    logsink::run(serde_json::from_str(&config).unwrap()).unwrap();
}

struct Sink(Child);

impl Sink {
    fn start(config: &Config) -> Sink {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sink_process", "--nocapture"]).stdout(Stdio::null());
        Sink(command.env(CONFIG, serde_json::to_string(config).unwrap()).spawn().unwrap())
    }

    fn end(mut self, signal: rustix::process::Signal) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn event(n: u64) -> Event {
    Event::new(EventId::Alert, Timestamp::now())
        .with("n", n)
        .with("signature", "x".repeat((n % 300) as usize))
}

fn ask<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(answer)
}

/// Rows of the store once there are as many as wanted.
fn rows(state: &Path, filter: &Filter, wanted: usize) -> Vec<Row> {
    let start = Instant::now();
    ask(async {
        loop {
            let rows = match Store::open_readonly(&store_path(state)).await {
                Ok(store) => store.events(filter).await.unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            if rows.len() >= wanted {
                return rows;
            }
            assert!(start.elapsed() < PATIENCE, "only {} of {wanted} events came", rows.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_when_the_sink_is_killed_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { journal_segment_bytes: 40_000, ..Config::new(dir.path()) };
    let spool = dir.path().join("spool");
    let emitter = Emitter::connect(&socket_path(dir.path()), "test", Some(&spool)).unwrap();
    let mut n = 0;
    for round in 0..12u64 {
        let sink = Sink::start(&config);
        // The kill falls where it falls: at start, in a write, between fsync and acknowledgement.
        let until = Instant::now() + Duration::from_millis(40 + round * 17);
        while Instant::now() < until {
            n += 1;
            emitter.emit(event(n));
            std::thread::sleep(Duration::from_micros(200));
        }
        let acked = emitter.flush(Duration::ZERO);
        let sent = n;
        assert_eq!(sink.end(rustix::process::Signal::KILL).signal(), Some(9));
        let report = verify_chain(&journal_dir(dir.path())).unwrap();
        assert!(!acked || report.last_index == sent, "acknowledged {sent}, in the journal {report:?}");
    }
    let sink = Sink::start(&config);
    assert!(emitter.flush(PATIENCE));
    let mut all = BTreeMap::new();
    let mut before_id = None;
    // Pages go downwards, so the newest must be there before the first is asked for. The id is the journal's index.
    rows(dir.path(), &Filter { after_id: Some(n as i64 - 1), ..Filter::default() }, 1);
    while all.len() < n as usize {
        let wanted = (n as usize - all.len()).min(1000);
        for row in rows(dir.path(), &Filter { limit: Some(1000), before_id, ..Filter::default() }, wanted) {
            before_id = Some(row.id);
            assert_eq!(
                all.insert(row.event.number("n").unwrap(), row.event.seq),
                None,
                "an event is there twice"
            );
        }
    }
    assert!(all.iter().all(|(n, seq)| n == seq));
    assert_eq!((all.len() as u64, *all.keys().next_back().unwrap()), (n, n));
    assert!(sink.end(rustix::process::Signal::TERM).success());
    let report = verify_chain(&journal_dir(dir.path())).unwrap();
    assert_eq!((report.records, report.torn_bytes), (n, 0));
    assert!(report.segments > 1);
}

#[test]
fn a_store_that_was_deleted_is_made_again_from_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new(dir.path());
    let sink = Sink::start(&config);
    let emitter = Emitter::connect(&socket_path(dir.path()), "test", None).unwrap();
    (1..=50).for_each(|n| emitter.emit(event(n)));
    assert!(emitter.flush(PATIENCE));
    let before = rows(dir.path(), &Filter::default(), 50);
    assert!(sink.end(rustix::process::Signal::TERM).success());
    std::fs::remove_dir_all(store_path(dir.path()).parent().unwrap()).unwrap();
    let _sink = Sink::start(&config);
    assert_eq!(rows(dir.path(), &Filter::default(), 50), before);
}

#[test]
fn a_guests_lines_over_tcp_and_udp_become_events_of_its_domain() {
    let dir = tempfile::tempdir().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inherit = |fd: &OwnedFd| rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    let (tcp_address, udp_address) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    let (tcp, udp) = (OwnedFd::from(tcp), OwnedFd::from(udp));
    inherit(&tcp);
    inherit(&udp);
    let mut config = Config::new(dir.path());
    config.syslog_tcp_fds = vec![tcp.as_raw_fd()];
    config.syslog_udp_fds = vec![udp.as_raw_fd()];
    config.domains = Some(dir.path().join("domains.json"));
    std::fs::write(dir.path().join("domains.json"), r#"{"127.0.0.1": {"name": "ssh", "domid": 2}}"#).unwrap();
    let _sink = Sink::start(&config);
    // The first tick of housekeeping has read the map before this event is stored.
    let emitter = Emitter::connect(&socket_path(dir.path()), "test", None).unwrap();
    emitter.emit(event(1));
    assert!(emitter.flush(PATIENCE));

    let mut stream = TcpStream::connect(tcp_address).unwrap();
    let login =
        "<38>Oct  1 22:14:15 h sshd[7]: Failed password for invalid user a from 10.0.0.9 port 42 ssh2";
    let counted = "<13>1 2026-01-01T00:00:00Z h app 1 - - counted";
    write!(stream, "{login}\n{} {counted}", counted.len()).unwrap();
    drop(stream);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"<13>Oct  1 22:14:15 h app: \xff datagram", udp_address).unwrap();

    let filter = Filter { domain: Some("ssh".into()), ..Filter::default() };
    let mut found: Vec<(String, String)> = rows(dir.path(), &filter, 4)
        .iter()
        .map(|row| {
            (row.event.event_id.clone(), row.event.text("msg").or(row.event.text("user")).unwrap().to_owned())
        })
        .collect();
    found.sort();
    let msg = login.split_once("]: ").unwrap().1;
    let want = [
        ("guest.log", msg),
        ("guest.log", "counted"),
        ("guest.log", "\u{fffd} datagram"),
        ("guest.login_failed", "a"),
    ];
    assert_eq!(found, want.map(|(id, text)| (id.to_owned(), text.to_owned())));
}
