//! The whole house as a new user and his first intruder meet it: `honeynet up`, an attacker on a host of its own, the dashboard in a real
//! browser, a case in hand. Everything happens in network namespaces of the test's own (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

#[path = "../dashboard/tests/util/browser.rs"]
mod browser;
mod util;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use browser::Browser;
use fantoccini::Locator;
use serde_json::Value;
use util::guest::{give_images, recipes_folder};
use util::{Honeynet, namespace_exists};

const SSH_SERVER: &str = "10.77.0.10";
const WEB_SERVER: &str = "10.77.0.11";
const ATTACKER: &str = "10.77.0.99";
/// How long something may take that comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn good(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&stderr));
    text
}

fn ip(arguments: &str) {
    good(Command::new("ip").args(arguments.split_whitespace()));
}

/// A site with a bridge, and an attacker's host on it: two namespaces, gone when dropped.
struct Site {
    site: String,
    attacker: String,
}

impl Site {
    /// Makes both and moves the calling thread, and so all that it starts, into the site.
    fn enter() -> Site {
        let name = |what: &str| format!("hn-t{}-{what}", std::process::id());
        let made = Site { site: name("site"), attacker: name("attacker") };
        let (site, attacker) = (&made.site, &made.attacker);
        ip(&format!("netns add {site}"));
        ip(&format!("netns add {attacker}"));
        ip(&format!("-n {site} link set lo up"));
        ip(&format!("-n {site} link add br0 type bridge"));
        ip(&format!("-n {site} link set br0 up"));
        ip(&format!("-n {site} link add door type veth peer name eth0 netns {attacker}"));
        ip(&format!("-n {site} link set door master br0 up"));
        ip(&format!("-n {attacker} link set lo up"));
        ip(&format!("-n {attacker} addr add {ATTACKER}/24 dev eth0"));
        ip(&format!("-n {attacker} link set eth0 up"));
        let namespace = std::fs::File::open(Path::new("/run/netns").join(site)).unwrap();
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        made
    }

    /// A program on the attacker's host.
    fn attack(&self, program: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.attacker]).args(program).stdin(std::process::Stdio::null());
        command
    }

    /// Commands in a login with this password.
    fn log_in(&self, user: &str, password: &str, commands: &str) -> Output {
        let target = format!("{user}@{SSH_SERVER}");
        let mut ssh = vec!["sshpass", "-p", password, "ssh", "-o", "StrictHostKeyChecking=no"];
        ssh.extend([
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "NumberOfPasswordPrompts=1",
        ]);
        ssh.extend([target.as_str(), commands]);
        self.attack(&ssh).output().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for name in [&self.attacker, &self.site] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

/// The honeynet file of the project, with this bridge as its uplink; kernel and images from this user's cache.
fn honeynet_of_the_project() -> Honeynet {
    let honeynet = Honeynet::new("");
    let text = std::fs::read_to_string(root().join("honeynet.toml")).unwrap();
    let name = format!("namespace = \"{}\"", honeynet.namespace);
    let changes =
        [("namespace = \"honeynet\"", name.as_str()), ("uplink = \"none\"", "uplink = \"bridge:br0\"")];
    let text = changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    let head = format!("rules = {:?}\nrecipes = {:?}\n", root().join("rules"), recipes_folder());
    honeynet.write("honeynet.toml", head + &text);
    give_images(&honeynet, &["ssh-server", "web-server"]);
    honeynet
}

/// Marker strings that nobody else writes.
fn marker() -> String {
    format!("dropped-by-the-intruder-{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond())
}

fn scan_guess_and_break_in(site: &Site, marker: &str) {
    let scan = good(&mut site.attack(&[
        "nmap",
        "-n",
        "-Pn",
        "-sS",
        "-p",
        "1-200",
        "--max-retries",
        "1",
        SSH_SERVER,
    ]));
    assert!(scan.contains("22/tcp"), "{scan}");
    for guess in ["123456", "password", "admin", "root", "letmein", "qwerty"] {
        let refused = site.log_in("root", guess, "true");
        assert!(!refused.status.success(), "{guess} was let in: {refused:?}");
    }
    // The program is put together in the guest, so that the marker is nowhere on the way but in the session's own key stream.
    let deeds = format!(
        "printf '#!/bin/sh\\necho %s > /var/tmp/.cache-run; id\\n' '{marker}' > /tmp/.kworker && chmod +x /tmp/.kworker && /tmp/.kworker \
         && echo 'toor2:x:0:0::/root:/bin/bash' >> /etc/passwd && sync && cat /var/tmp/.cache-run"
    );
    let inside = site.log_in("root", "toor", &deeds);
    let said = String::from_utf8_lossy(&inside.stdout).into_owned();
    assert!(inside.status.success() && said.contains("uid=0(root)") && said.contains(marker), "{inside:?}");
    let page = format!("http://{WEB_SERVER}/index.php?page=../../../../etc/passwd");
    good(&mut site.attack(&["curl", "--silent", "--noproxy", "*", "--path-as-is", &page]));
}

/// What the browser shows of the attack, and the case that it pulls.
async fn look_and_pull(address: &str, password: &str) -> PathBuf {
    let browser = Browser::start(1400, 900, None).await;
    browser.log_in(address, password).await;
    browser.wait("return document.querySelectorAll('[data-domain]').length === 2").await;

    browser.go(address, "/alerts").await;
    let shown = |text: &str| format!("return document.body.innerText.includes({})", serde_json::json!(text));
    for alert in ["SCAN TCP ports", "SSH brute force", "WEB directory traversal", ATTACKER] {
        browser.wait(&shown(alert)).await;
    }
    browser.go(address, "/logins").await;
    let login = format!(
        "return [...document.querySelectorAll('tr')].some(row => row.innerText.includes('root') && row.innerText.includes('{ATTACKER}'))"
    );
    browser.wait(&login).await;

    browser.go(address, "/files").await;
    let check = Locator::Css("[data-check=\"ssh-server\"]");
    browser.wait("return document.querySelector('[data-check=\"ssh-server\"]') !== null").await;
    browser.client.find(check).await.unwrap().click().await.unwrap();
    for path in ["/etc/passwd", "/tmp/.kworker"] {
        browser.wait(&shown(path)).await;
    }

    browser.go(address, "/evidence").await;
    browser
        .wait("return [...document.querySelectorAll('#case option')].some(one => one.value === 'ssh-server')")
        .await;
    browser.script("document.querySelector('#case select').value = 'ssh-server'").await;
    browser.client.find(Locator::Id("reason")).await.unwrap().send_keys("broken into").await.unwrap();
    browser.client.find(Locator::Id("pull")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelector('[data-case]') !== null").await;
    if let Some(pictures) = std::env::var_os("ATTACK_PICTURES") {
        browser.picture(&Path::new(&pictures).join("evidence.png")).await;
    }
    browser.client.find(Locator::Css("a.download")).await.unwrap().click().await.unwrap();
    let tar = downloaded(browser.downloads());
    let kept = tempfile::tempdir().unwrap().keep();
    good(Command::new("tar").arg("-xSf").arg(&tar).arg("-C").arg(&kept));
    browser.end().await;
    kept
}

/// The one tar in this folder, once it is whole.
fn downloaded(folder: &Path) -> PathBuf {
    let begun = Instant::now();
    loop {
        let files: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
        if let Some(tar) =
            files.iter().find(|path| path.extension().is_some_and(|extension| extension == "tar"))
        {
            return tar.clone();
        }
        assert!(begun.elapsed() < 3 * PATIENCE, "{files:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_intruder_is_seen_and_his_machine_is_pulled() {
    let honeynet = honeynet_of_the_project();
    let site = Site::enter();
    let up = honeynet.run(&["up", "--json"]).good().json();
    let addresses: Vec<&str> =
        up["decoys"].as_array().unwrap().iter().filter_map(|one| one["address"].as_str()).collect();
    assert_eq!(addresses, [SSH_SERVER, WEB_SERVER]);
    assert_eq!(up["attacks"].as_array().unwrap().len(), 3, "{up}");
    let address =
        up["dashboard"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let password = up["password"].as_str().unwrap().to_owned();
    // Up again is done in a moment, and says no password any more.
    let again = honeynet.run(&["up", "--json"]).good().json();
    assert_eq!((&again["password"], &again["dashboard"]), (&Value::Null, &up["dashboard"]));

    let marker = marker();
    scan_guess_and_break_in(&site, &marker);
    // What is published on loopback leads to the same machine.
    let published = good(Command::new("curl").args(["--silent", "--noproxy", "*", "http://127.0.0.1:8080/"]));
    assert!(published.contains("Weber Maschinen"), "{published}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pulled = Folder(runtime.block_on(look_and_pull(&address, &password)));
    let case = std::fs::read_dir(&pulled.0).unwrap().flatten().next().unwrap().path();
    let verdict = honeynet.run(&["verify", case.to_str().unwrap()]).good();
    assert!(verdict.stdout.contains("intact"), "{verdict:?}");
    let hits = forensics::search(&case, marker.as_bytes(), 1000).unwrap();
    for item in ["memory.elf", "disk-xvda.raw"] {
        assert!(hits.iter().any(|hit| hit.item == item), "no marker in {item}: {hits:?}");
    }

    honeynet.run(&["down"]).good();
    assert!(!namespace_exists(&honeynet.namespace));
    let links = good(Command::new("ip").args(["-o", "link"]));
    let left: Vec<&str> =
        links.lines().filter(|line| !["lo:", "br0:", "door@"].iter().any(|own| line.contains(own))).collect();
    assert!(left.is_empty(), "{left:?}");
}
