//! The dashboard as the real supervisor runs it (root): its user, its sockets, its secrets, and that nothing of it stays.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

#[path = "../dashboard/tests/util/browser.rs"]
mod browser;
mod util;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use browser::Browser;
use fantoccini::Locator;
use serde_json::{Value, json};
use util::guest::Guest;
use util::{Honeynet, namespace_exists, row_when};

const DASHBOARD_UID: u32 = 199_003;

/// `127.0.0.1:PORT` of a honeynet's dashboard.
fn address(honeynet: &Honeynet) -> String {
    let info = honeynet.run(&["info", "--json"]).good().json();
    info["dashboard"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/').to_owned()
}

/// Status and body.
fn ask(address: &str, method: &str, target: &str, headers: &str, body: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn bearer(honeynet: &Honeynet) -> String {
    let token = std::fs::read_to_string(honeynet.path("state/dashboard/token")).unwrap();
    format!("Authorization: Bearer {}\r\n", token.trim())
}

/// One request by the dashboard's socket.
fn by_socket(honeynet: &Honeynet, request: &Value) -> Value {
    let socket = UnixStream::connect(honeynet.path("state/run/dashboard.sock")).unwrap();
    writeln!(&socket, "{request}").unwrap();
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn the_first_password_opens_the_door_and_the_supervisor_is_behind_it() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    let address = address(&honeynet);
    let password = std::fs::read_to_string(honeynet.path("state/dashboard/password.first")).unwrap();
    let origin = format!("Origin: http://{address}\r\nContent-Type: application/x-www-form-urlencoded\r\n");
    assert_eq!(ask(&address, "POST", "/login", &origin, "password=guess").0, 401);
    assert_eq!(ask(&address, "POST", "/login", &origin, &format!("password={}", password.trim())).0, 303);
    let overview = || ask(&address, "GET", "/api/overview", &bearer(&honeynet), "").1;
    let known = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        serde_json::from_str::<Value>(&overview()).unwrap()["info"]["version"].is_string()
    });
    assert!(known, "{}", overview());
    let logins = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let events = honeynet.run(&["events", "--id", "dashboard.login", "--json"]).good().stdout;
        events.lines().count() == 2
    });
    assert!(logins);
}

#[test]
fn up_prints_the_password_once_whoever_started_the_supervisor() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    let first = honeynet.run(&["up", "--json"]).good().json();
    let address = first["dashboard"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/');
    let form = format!("password={}", first["password"].as_str().unwrap());
    let origin = format!("Origin: http://{address}\r\nContent-Type: application/x-www-form-urlencoded\r\n");
    assert_eq!(ask(address, "POST", "/login", &origin, &form).0, 303);
    let second = honeynet.run(&["up"]).good().stdout;
    assert!(
        second
            .starts_with(&format!("dashboard  http://{address}/  password (as printed at the first start)")),
        "{second}"
    );
    assert!(!honeynet.path("state/dashboard/password.first").exists());
}

#[test]
fn it_is_its_own_user_and_writes_nothing() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    let pid = honeynet.service_pid("dashboard", None);
    // It is root until it has entered its jail.
    let uids = (0..500).find_map(|_| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        let done = line("NoNewPrivs:").ends_with('1');
        std::thread::sleep(std::time::Duration::from_millis(20));
        done.then(|| (line("Uid:"), line("Gid:"), line("Groups:"), line("CapEff:")))
    });
    let (uid, gid, groups, capabilities) = uids.expect("it enters its jail");
    let all = format!("\t{DASHBOARD_UID}").repeat(4);
    assert_eq!((uid, gid), (format!("Uid:{all}"), format!("Gid:{all}")));
    assert_eq!((groups.trim(), capabilities.as_str()), ("Groups:", "CapEff:\t0000000000000000"));
    // It has a network of its own, with nothing in it: what breaks into it cannot go on from there.
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&pid.to_string()), network("self"));
    let of = |name: &str| {
        let metadata = std::fs::metadata(honeynet.path(name)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o777)
    };
    assert_eq!(of("state/evidence"), (0, DASHBOARD_UID, 0o750));
    assert_eq!(of("state/run/dashboard.sock"), (DASHBOARD_UID, 0, 0o600));
    assert_eq!(of("state/run/honeynet.sock"), (0, 0, 0o600));
    assert_eq!(of("state/store").2, 0o750);
    for secret in ["password.argon2", "password.first", "token"] {
        assert_eq!(of(&format!("state/dashboard/{secret}")), (0, 0, 0o600), "{secret}");
    }
    // What its user may read and write of the state directory, sockets aside.
    let id = DASHBOARD_UID.to_string();
    let all = Command::new("find").arg(honeynet.path("state")).args(["-not", "-type", "s"]).output().unwrap();
    let all: Vec<String> = String::from_utf8(all.stdout).unwrap().lines().map(str::to_owned).collect();
    let may = |test: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c"]);
        command.arg(format!("for path; do test {test} \"$path\" && echo \"$path\"; done; true")).arg("sh");
        String::from_utf8(command.args(&all).output().unwrap().stdout).unwrap()
    };
    assert_eq!(may("-w"), "");
    let readable = may("-r");
    let secret = ["journal/", "dashboard/", "keys/", "spool/", "supervisor.log"];
    assert!(readable.contains("store/events.db"), "{readable}");
    assert!(secret.iter().all(|name| !readable.contains(&format!("state/{name}"))), "{readable}");
}

#[test]
fn cases_of_earlier_runs_are_listed_and_downloaded() {
    let honeynet = Honeynet::new("");
    let evidence = honeynet.path("state/evidence");
    std::fs::create_dir_all(evidence.join(".broken.partial")).unwrap();
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(1 << 20).unwrap();
    let domain = forensics::DomainInfo {
        name: "web".into(),
        domid: 1,
        uuid: "u".into(),
        memory_bytes: 1 << 20,
        vcpus: 1,
    };
    let acquisition = forensics::Acquisition {
        domain,
        memory,
        memory_at: 0,
        ranges: vec![forensics::RamRange { gpa: 0, file_offset: 0, bytes: 1 << 20 }],
        vcpus: Vec::new(),
        disks: Vec::new(),
        kernel: None,
        notes: vec!["odd process".into()],
    };
    let now = jiff::Timestamp::now();
    let frozen = forensics::copy_paused(acquisition, &evidence, now).unwrap();
    let options = forensics::CaseOptions { who: "test", tool: "test", chain_head: None, key: None, now };
    let case = forensics::finish(frozen, &evidence, &options, &|_| {}).unwrap();
    std::fs::set_permissions(evidence.join(&case), std::fs::Permissions::from_mode(0o700)).unwrap();

    honeynet.start_supervisor();
    let (address, bearer) = (address(&honeynet), bearer(&honeynet));
    let listed: Value = serde_json::from_str(&ask(&address, "GET", "/api/cases", &bearer, "").1).unwrap();
    assert_eq!((&listed["cases"][0]["case"], listed["cases"].as_array().unwrap().len()), (&json!(case), 1));
    let url = format!("http://{address}/api/cases/{case}/tar");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--noproxy", "*", "--fail", "--output"]).arg(honeynet.path("case.tar"));
    assert!(curl.args(["--header", bearer.trim(), &url]).status().unwrap().success());
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(honeynet.path("case.tar")).arg("-C").arg(honeynet.path("."));
    assert!(tar.status().unwrap().success());
    let report = forensics::verify(&honeynet.path(&case), None, &|_| {}).unwrap();
    assert!(report.items.iter().all(|(_, verdict)| *verdict == forensics::ItemVerdict::Good), "{report:?}");
    let mode = std::fs::metadata(evidence.join(".broken.partial")).unwrap().gid();
    assert_eq!(mode, 0);
}

#[test]
fn its_socket_does_only_what_a_dashboard_needs() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    for op in ["list", "info", "net"] {
        assert!(by_socket(&honeynet, &json!({ "op": op }))["ok"] != json!(null), "{op}");
    }
    for op in ["pull", "snapshot", "fim-check", "pause", "unpause"] {
        let reply = by_socket(&honeynet, &json!({ "op": op, "name": "x" }));
        assert_eq!(reply, json!({ "error": "there is no domain x", "code": 3 }), "{op}");
    }
    let named =
        ["shutdown", "reboot", "destroy", "domain-info", "xenstore-ls", "dmesg", "console", "fim-baseline"];
    let create = json!({ "op": "create", "file": "", "folder": "/" });
    let save = json!({ "op": "save", "name": "x", "folder": "/srv/x" });
    let migrate = json!({ "op": "migrate", "name": "x", "to": "y" });
    let restore = json!({ "op": "restore", "folder": "/srv/x" });
    let clone = json!({ "op": "clone", "snapshot": "/srv/x", "count": 1, "name": null });
    let refused = named.map(|op| json!({ "op": op, "name": "x" }));
    for request in refused.into_iter().chain([
        create,
        save,
        migrate,
        restore,
        clone,
        json!({ "op": "down" }),
        json!({ "op": "dmesg" }),
    ]) {
        let reply = by_socket(&honeynet, &request);
        assert_eq!(reply["code"], 1, "{request}: {reply}");
        assert!(reply["error"].as_str().unwrap().contains("on the command line: honeynet "), "{reply}");
    }
    assert_eq!(by_socket(&honeynet, &json!({ "op": "fly" }))["code"], 2);
    honeynet.run(&["list"]).good();
}

#[test]
fn a_taken_address_is_one_sentence_and_nothing_stays() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let honeynet = Honeynet::new("");
    let name = &honeynet.namespace;
    let file = format!("dashboard = {{ listen = \"{listen}\" }}\n[network]\nnamespace = \"{name}\"\n");
    honeynet.write("honeynet.toml", file);
    honeynet.write("a.cfg", "name='a'\nmemory=64\nkernel='k'\n");
    honeynet.run(&["create", "a.cfg"]).fails(
        1,
        &format!(
            "the dashboard cannot listen at {listen} (dashboard.listen): Address already in use (os error 98)"
        ),
    );
    assert!(!namespace_exists(name));
    assert!(!honeynet.path("state/run/dashboard.sock").exists());
}

/// What the API answers, once it is as wanted.
fn api_when(honeynet: &Honeynet, target: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let (address, bearer) = (address(honeynet), bearer(honeynet));
    let mut last = Value::Null;
    for _ in 0..1500 {
        last = serde_json::from_str(&ask(&address, "GET", target, &bearer, "").1).unwrap();
        if wanted(&last) {
            return last;
        }
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    panic!("{target}: {last}");
}

#[test]
fn a_real_domain_is_shown_paused_and_taken_as_a_case() {
    let honeynet = Honeynet::new("");
    let mut guest = Guest::create(&honeynet, "a", "");
    let (address, bearer) = (address(&honeynet), bearer(&honeynet));
    let post = |target: &str, body: &str| {
        let headers = format!("{bearer}Content-Type: application/json\r\n");
        ask(&address, "POST", target, &headers, body)
    };
    let overview = api_when(&honeynet, "/api/overview", |view| view["domains"][0]["cpu_percent"].is_number());
    let domain = &overview["domains"][0];
    assert_eq!((&domain["name"], &domain["mem_mib"]), (&json!("a"), &json!(128)));
    assert!(domain["uptime_s"].as_f64().unwrap() > 0.0, "{domain}");

    assert_eq!(post("/api/domains/a/pause", "").0, 200);
    let paused = |view: &Value| view["domains"][0]["state_words"] == json!(["paused"]);
    api_when(&honeynet, "/api/overview", paused);
    assert_eq!(
        post("/api/domains/a/pause", ""),
        (409, json!({ "error": "domain a is paused, not running" }).to_string())
    );
    assert_eq!(post("/api/domains/a/unpause", "").0, 200);
    assert_eq!(guest.run("echo alive"), "alive");

    assert_eq!(post("/api/domains/a/pull", "{\"reason\":\"odd process\"}").0, 202);
    let done = api_when(&honeynet, "/api/jobs", |view| view["jobs"][0]["stage"] != "running");
    assert_eq!(done["jobs"][0]["stage"], "done", "{done}");
    let case = done["jobs"][0]["answer"]["case"].as_str().unwrap().to_owned();
    let one = api_when(&honeynet, &format!("/api/cases/{case}"), |_| true);
    assert_eq!(one["manifest"]["notes"][0], "odd process");
    assert_eq!(post(&format!("/api/cases/{case}/verify"), "").0, 202);
    let done = api_when(&honeynet, "/api/jobs", |view| view["jobs"][0]["stage"] != "running");
    assert_eq!(
        (&done["jobs"][0]["kind"], &done["jobs"][0]["answer"]["intact"]),
        (&json!("verify"), &json!(true))
    );

    assert_eq!(post("/api/domains/a/fim-check", "").0, 202);
    let failed = api_when(&honeynet, "/api/jobs", |view| view["jobs"][0]["stage"] == "failed");
    assert_eq!(failed["jobs"][0]["answer"]["error"], "domain a has no disk");
    assert_eq!(guest.run("echo alive"), "alive");
}

#[test]
fn down_takes_it_away_and_a_killed_one_comes_back() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    let address = address(&honeynet);
    let pid = honeynet.service_pid("dashboard", None);
    let killed = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    let pid = honeynet.service_pid("dashboard", Some(pid));
    // Its socket was the supervisor's, so the address is still the same one.
    assert_eq!(ask(&address, "GET", "/login", "", "").0, 200);
    let mut listener = TcpStream::connect(&address).unwrap();
    let live = format!("GET /api/live HTTP/1.1\r\nHost: {address}\r\n{}\r\n", bearer(&honeynet));
    listener.write_all(live.as_bytes()).unwrap();
    listener.read_exact(&mut [0; 12]).unwrap();
    honeynet.run(&["down"]).good();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!honeynet.path("state/run/dashboard.sock").exists());
    assert!(TcpStream::connect(&address).is_err());
    // Its password stays.
    assert!(honeynet.path("state/dashboard/password.argon2").exists());
}

#[test]
fn beyond_loopback_it_speaks_tls_only() {
    let honeynet = Honeynet::new("");
    let name = &honeynet.namespace;
    let file = format!("dashboard = {{ listen = \"0.0.0.0:0\" }}\n[network]\nnamespace = \"{name}\"\n");
    honeynet.write("honeynet.toml", file);
    honeynet.start_supervisor();
    let info = honeynet.run(&["info", "--json"]).good().json();
    let port = info["dashboard"].as_str().unwrap().strip_prefix("https://0.0.0.0:").unwrap().to_owned();
    let port = port.trim_end_matches('/').to_owned();
    let certificate = honeynet.path("state/dashboard/certificate.pem");
    let curl = |url: &str| {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--noproxy", "*", "--max-time", "20", "--include", "--cacert"])
            .arg(&certificate);
        command.arg(url).output().unwrap()
    };
    let login = curl(&format!("https://127.0.0.1:{port}/login"));
    let text = String::from_utf8_lossy(&login.stdout).to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 200") && text.contains("strict-transport-security"), "{login:?}");
    assert!(!curl(&format!("http://127.0.0.1:{port}/login")).status.success());
}

/// The page of snapshots in a real browser, over real ones: what differs is seen, one is verified, becomes a domain, and a case.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_a_real_domain_are_compared_verified_restored_and_pulled() {
    let honeynet = Honeynet::new("");
    honeynet.write("d.img", vec![0; 16 << 20]);
    let keys = "disk=['d.img,,xvda,w']\nhn_layer=1\nvif=['ip=10.77.0.5']";
    let mut guest = Guest::create(&honeynet, "a", keys);
    guest.run("mke2fs -q /dev/xvda 2>/dev/null || mkfs.ext2 /dev/xvda >/dev/null; mkdir /d; mount /dev/xvda /d; mkdir /d/bin; sync");
    honeynet.run(&["snapshot", "a", "--reason", "clean"]).good();
    guest.run("echo '#!/bin/sh' > /d/bin/implant; sync; sleep 987654 </dev/null >/dev/null 2>&1 &");
    let address = address(&honeynet);
    let password = std::fs::read_to_string(honeynet.path("state/dashboard/password.first")).unwrap();
    let browser = Browser::start(1280, 800, None).await;
    let listening: std::net::SocketAddr = address.parse().unwrap();
    browser.log_in(listening, password.trim()).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(listening, "/snapshots").await;
    browser.wait("return document.querySelector('#domain option[value=a]') !== null").await;
    browser.client.find(Locator::Id("reason")).await.unwrap().send_keys("odd").await.unwrap();
    browser.script("document.querySelector('#kind').value = 'diff'; return true").await;
    browser.client.find(Locator::Id("take")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelectorAll('[data-snapshot]').length === 2").await;
    let newest = browser.script("return document.querySelector('.moment').innerText").await;
    assert!(
        newest.as_str().unwrap().contains("diff") && newest.as_str().unwrap().contains("odd"),
        "{newest}"
    );

    browser.script("document.querySelectorAll('.mark').forEach(mark => mark.click()); return true").await;
    browser.client.find(Locator::Id("compare")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelector('#difference')?.innerText.includes('sleep 987654')").await;
    let shown = browser.script("return document.querySelector('#difference').innerText").await;
    assert!(shown.as_str().unwrap().contains("/bin/implant"), "{shown}");
    if let Some(folder) = std::env::var_os("DASHBOARD_PICTURES") {
        browser.picture(&Path::new(&folder).join("snapshots-real.png")).await;
    }

    browser.script("document.querySelector('.verify').click(); return true").await;
    browser.wait("return document.querySelector('.verdict').innerText === 'whole'").await;
    browser.script("document.querySelector('.restore-as-clone').click(); return true").await;
    let name = browser.client.find(Locator::Css(".clone-name")).await.unwrap();
    name.clear().await.unwrap();
    name.send_keys("again").await.unwrap();
    browser.client.find(Locator::Css(".clone-form .main")).await.unwrap().click().await.unwrap();
    row_when(&honeynet, "again", |row| row.is_some_and(|row| row["state"] != "--p---")).unwrap();
    let commands = guest.commands();
    let mut clone = Guest::take_up(&honeynet, "again", commands);
    assert_eq!(clone.run("ls /d/bin"), "implant");

    browser.script("document.querySelector('.pull').click(); return true").await;
    browser.wait("return document.querySelector('.jobs').innerText.includes('written')").await;
    browser.end().await;
    let cases = api_when(&honeynet, "/api/cases", |view| view["cases"][0].is_object());
    let case = cases["cases"][0]["case"].as_str().unwrap().to_owned();
    honeynet.run(&["verify", &case]).good();
    let one = api_when(&honeynet, &format!("/api/cases/{case}"), |_| true);
    assert!(one["manifest"]["notes"].to_string().contains("from snapshot a/"), "{one}");
}
