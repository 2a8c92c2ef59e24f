//! The pages in a real browser, over a real store.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod util;

use std::path::PathBuf;

use events::{Event, EventId, FlowTuple, Severity};
use fantoccini::Locator;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use util::browser::Browser;
use util::{House, PASSWORD, eventually};

fn alert(signature: &str) -> Event {
    let flow = FlowTuple {
        flow_id: 1,
        src_ip: "203.0.113.9".parse().unwrap(),
        src_port: 51234,
        dest_ip: "10.77.0.11".parse().unwrap(),
        dest_port: 80,
        proto: "TCP".into(),
        community_id: None,
    };
    let event = Event::new(EventId::Alert, Timestamp::now()).domain("web-server", Some(2)).flow(flow);
    event.with("signature", signature).with("signature_id", 1_000_001).with("action", "alert")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_password_stays_outside_and_the_right_one_gets_in() {
    let (house, browser) = (House::new(), Browser::start(1400, 900, None).await);
    browser.go(house.address, "/alerts").await;
    browser.wait("return location.pathname + location.search === '/login?next=/alerts'").await;
    browser.log_in(house.address, "wrong").await;
    browser.wait("return document.getElementById('wrong')?.innerText === 'That is not the password.'").await;
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.wait("return document.querySelectorAll('[data-domain]').length === 2").await;
    assert_eq!(browser.script("return document.cookie").await, json!(""));
    browser.client.find(Locator::Id("logout")).await.unwrap().click().await.unwrap();
    browser.wait("return location.pathname === '/login'").await;
    browser.go(house.address, "/").await;
    browser.wait("return location.pathname === '/login'").await;
    let logins = eventually("the events of the logins", || {
        let events = house.get("/api/events?id=dashboard.login").json();
        Some(events["events"].clone()).filter(|events| events.as_array().is_some_and(|rows| rows.len() == 2))
    });
    assert_eq!(
        (&logins[0]["dashboard"]["success"], &logins[1]["dashboard"]["success"]),
        (&json!(true), &json!(false))
    );
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_shows_up_without_a_reload() {
    let (house, browser) = (House::new(), Browser::start(1400, 900, None).await);
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(house.address, "/alerts").await;
    browser.wait("return document.querySelector('.empty:not([hidden])')?.innerText.startsWith('No alerts yet.') ?? false").await;
    browser.wait("return document.getElementById('pulse').innerText === 'live'").await;
    browser.script("window.untouched = true").await;
    house.tell([alert("SQL injection attempt")]);
    browser
        .wait("return document.querySelector('.events tbody')?.innerText.includes('SQL injection attempt')")
        .await;
    assert_eq!(browser.script("return window.untouched").await, json!(true));

    // One that the filter does not mean stays away, one that it means comes.
    browser.client.find(Locator::Css("input.text")).await.unwrap().send_keys("second").await.unwrap();
    browser.wait("return location.search === '?text=second' && document.getElementById('pulse').innerText === 'live'").await;
    house.tell([alert("first"), alert("the Second")]);
    browser.wait("return document.querySelector('.events tbody').innerText.includes('the Second')").await;
    assert_eq!(browser.script("return document.querySelectorAll('.events tbody tr').length").await, json!(1));

    // The details have the whole event and its place in the journal; the keyboard reaches them as well.
    browser.script("document.querySelector('.events tbody tr[tabindex=\"0\"]').focus(); return true").await;
    browser.client.active_element().await.unwrap().send_keys("\u{e007}").await.unwrap();
    browser
        .wait(
            "return document.querySelector('.details .json').innerText.includes('\"signature_id\": 1000001')",
        )
        .await;
    browser.wait("return document.querySelector('.details .hash')?.title.length === 64").await;
    browser.client.active_element().await.unwrap().send_keys("\u{e00c}").await.unwrap();
    browser.wait("return document.querySelector('.details').hidden").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_strings_are_text_and_nothing_else() {
    let (house, browser) = (House::new(), Browser::start(1400, 900, None).await);
    let hostile = [
        "<img src=x onerror=\"window.hacked=1\">",
        "<script>window.hacked=2</script>",
        "\"'><svg/onload=window.hacked=3>",
        "</script><script>window.hacked=4</script>",
        "javascript:window.hacked=5",
        "{{constructor.constructor('window.hacked=6')()}}",
    ];
    let reversed = "user\u{202e}gpj.exe\u{2066}\u{200b}\u{1b}[2J\u{9b}2J\u{feff}\u{e0041}";
    for text in hostile.into_iter().chain([reversed]) {
        let from_guest = |id| Event::new(id, Timestamp::now()).domain(text, Some(9));
        house.tell([
            alert(text).domain(text, Some(9)).with("category", text).with("action", text).with(text, text),
            from_guest(EventId::GuestLogin).with("user", text).with("service", text).with("src_ip", text),
            from_guest(EventId::GuestLog).with("msg", text).with("app_name", text).with("procid", text),
            from_guest(EventId::FimChange)
                .with("path", text)
                .with("change", text)
                .with("diff", text)
                .with("attributes", json!([{ "attribute": text, "before": text, "after": text }])),
            from_guest(EventId::CaseCreated).with("case", text).with("reason", text),
        ]);
    }
    house.post("/api/domains/web-server/pull", &json!({ "reason": hostile[0] }).to_string());
    eventually("the case", || {
        (house.get("/api/cases").json()["cases"][0]["case"] != json!(null)).then_some(())
    });
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    for page in ["/", "/alerts", "/logins", "/logs", "/files", "/events", "/evidence"] {
        browser.go(house.address, page).await;
        browser
            .wait("return document.body.innerText.includes('<img src=x onerror=\"window.hacked=1\">')")
            .await;
        // Each row's details too.
        let open = "for (const row of document.querySelectorAll('.events tbody tr')) row.dispatchEvent(\
                    new KeyboardEvent('keydown', { key: 'Enter' })); return true";
        browser.script(open).await;
        let foreign = "return document.querySelectorAll('main img, main svg[onload], main script, body > script').length";
        assert_eq!(browser.script(foreign).await, json!(0), "{page}");
        if page != "/evidence" {
            browser.wait("return document.body.innerText.includes('U+202E')").await;
            let raw = "return /[\\u202e\\u2066\\u200b\\u001b\\u009b\\ufeff]/.test(document.body.textContent)";
            assert_eq!(browser.script(raw).await, json!(false), "{page}");
        }
        assert_eq!(browser.script("return window.hacked ?? null").await, json!(null), "{page}");
    }
    // What a page does not do by itself, its policy does not allow either.
    let inject = "const s = document.createElement('script'); s.textContent = 'window.hacked = 7'; document.body.append(s);\
                  const i = document.createElement('div'); i.innerHTML = '<img src=/nowhere onerror=\"window.hacked=8\">';\
                  document.body.append(i); return true";
    browser.script(inject).await;
    browser.wait("return document.querySelector('body > div > img')?.complete ?? false").await;
    assert_eq!(browser.script("return window.hacked ?? null").await, json!(null));
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_becomes_a_case_that_is_verified_and_downloaded() {
    let (house, browser) = (House::new(), Browser::start(1400, 900, None).await);
    house.supervisor.hold(true);
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(house.address, "/evidence").await;
    browser.wait("return document.querySelector('#domain option[value=\"web-server\"]') !== null").await;
    browser.script("document.querySelector('#domain').value = 'web-server'; return true").await;
    browser.client.find(Locator::Id("reason")).await.unwrap().send_keys("odd process").await.unwrap();
    browser.client.find(Locator::Id("pull")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelector('[data-stage=running] .spinner') !== null").await;
    house.supervisor.hold(false);
    browser.wait("return document.querySelector('[data-case]') !== null").await;
    let asked = house.supervisor.asked("pull");
    assert_eq!((&asked[0]["name"], &asked[0]["reason"]), (&json!("web-server"), &json!("odd process")));
    let row = browser.script("return document.querySelector('[data-case]').innerText").await;
    assert!(row.as_str().unwrap().contains("odd process"), "{row}");

    browser.client.find(Locator::Css(".verify")).await.unwrap().click().await.unwrap();
    browser
        .wait("return document.querySelector('.verdict').innerText.includes('signed by this honeynet')")
        .await;

    let case = browser.script("return document.querySelector('[data-case]').dataset.case").await;
    let case = case.as_str().unwrap();
    let link = browser.script("return document.querySelector('.download').getAttribute('href')").await;
    let answer = house.get(link.as_str().unwrap());
    assert_eq!(
        answer.header("content-disposition"),
        Some(format!("attachment; filename=\"{case}.tar\"").as_str())
    );
    let into = util::path(&house, "unpacked");
    tar::Archive::new(answer.body.as_slice()).unpack(&into).unwrap();
    let report = forensics::verify(&into.join(case), Some(&house.supervisor.case_key), &|_| {}).unwrap();
    assert!(report.is_intact(), "{:?}", report.problems());

    // A case that somebody touched is told from one that nobody did.
    let core = util::path(&house, "evidence").join(case).join("memory.elf");
    let mut bytes = std::fs::read(&core).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&core, bytes).unwrap();
    browser.client.find(Locator::Css(".verify")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelector('.verdict').innerText.includes('not intact')").await;

    // A link to a domain's cases shows those, one to a domain marks it.
    browser.go(house.address, "/evidence?domain=web-server").await;
    browser.wait("return document.querySelector('[data-case]') !== null").await;
    browser.go(house.address, "/evidence?domain=ssh-server").await;
    browser.wait("return document.querySelector('.empty:not([hidden])') !== null && document.body.innerText.includes('Show all')").await;
    assert_eq!(browser.script("return document.querySelectorAll('[data-case]').length").await, json!(0));
    browser.go(house.address, "/?domain=web-server").await;
    browser.wait("return document.querySelector('tr.wanted')?.dataset.domain === 'web-server'").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_shows_what_changed() {
    let (house, browser) = (House::new(), Browser::start(1400, 900, None).await);
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(house.address, "/files").await;
    browser.wait("return document.querySelector('[data-check=\"web-server\"]') !== null").await;
    browser.client.find(Locator::Css("[data-check=\"web-server\"]")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelector('.jobs').innerText.includes('1 changed')").await;
    browser
        .wait("return document.querySelector('.events tbody')?.innerText.includes('/usr/bin/passwd')")
        .await;
    let row = browser.script("return document.querySelector('.events tbody').innerText").await;
    assert!(row.as_str().unwrap().contains("-rwxr-xr-x → -rwsr-xr-x"), "{row}");
    browser.end().await;
}

/// Writes a picture of each page into the folder that DASHBOARD_PICTURES names, and nothing where it names none.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_fits_a_desk_and_a_telephone() {
    let house = House::new();
    let browser = Browser::start(1400, 900, None).await;
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    for page in ["overview", "evidence", "logs"] {
        browser.go(house.address, if page == "overview" { "/" } else { page_path(page) }).await;
        browser.wait("return document.querySelector('.empty:not([hidden])') !== null").await;
        picture(&browser, "empty", page).await;
    }
    browser.end().await;
    tell_a_day(&house);
    for (name, width, dark) in [("desk", 1400, None), ("desk-dark", 1400, Some(())), ("telephone", 420, None)]
    {
        let browser = Browser::start(width, 900, dark).await;
        browser.go(house.address, "/login").await;
        picture(&browser, name, "login").await;
        browser.log_in(house.address, PASSWORD).await;
        browser.wait("return location.pathname === '/'").await;
        for page in
            ["overview", "alerts", "logins", "logs", "files", "snapshots", "pools", "evidence", "events"]
        {
            browser.go(house.address, if page == "overview" { "/" } else { page_path(page) }).await;
            browser
                .wait("return document.querySelector('main table tbody tr, [data-snapshot]') !== null")
                .await;
            picture(&browser, name, page).await;
            if page == "alerts" {
                browser.client.find(Locator::Css(".events tbody tr")).await.unwrap().click().await.unwrap();
                browser.wait("return document.querySelector('.details .hash')?.title.length === 64").await;
                picture(&browser, name, "details").await;
            }
            let overflow =
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
            assert_eq!(browser.script(overflow).await, json!(false), "{page} is wider than a {name}");
        }
        browser.end().await;
    }
}

fn page_path(page: &str) -> &'static str {
    ["/alerts", "/logins", "/logs", "/files", "/snapshots", "/pools", "/evidence", "/events"]
        .into_iter()
        .find(|path| path.ends_with(page))
        .unwrap()
}

async fn picture(browser: &Browser, name: &str, page: &str) {
    if let Some(folder) = std::env::var_os("DASHBOARD_PICTURES") {
        // The load needs some looks until it is a line.
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        browser.picture(&PathBuf::from(folder).join(format!("{page}-{name}.png"))).await;
    }
}

/// A day of a honeynet.
fn tell_a_day(house: &House) {
    let ago = |seconds: i64| Timestamp::now() - SignedDuration::from_secs(seconds);
    let signatures = [
        ("SERVER-WEBAPP directory traversal attempt", "web-application-attack", Severity::Warning),
        ("PROTOCOL-SSH brute force login attempt", "attempted-admin", Severity::Warning),
        ("INDICATOR-SCAN nmap TCP SYN scan", "network-scan", Severity::Notice),
        ("MALWARE-CNC known botnet check-in over HTTP", "trojan-activity", Severity::Error),
        (
            "SERVER-WEBAPP SQL injection in id parameter <script>alert(1)</script>",
            "web-application-attack",
            Severity::Warning,
        ),
    ];
    for n in 0..60i64 {
        let (signature, category, severity) = signatures[n as usize % signatures.len()];
        let mut event = alert(signature).with("category", category).severity(severity);
        event.timestamp = ago((60 - n) * 431);
        let domain = if n % 3 == 0 { "ssh-server" } else { "web-server" };
        house.tell([event.domain(domain, Some(2))]);
        let users = ["root", "admin", "oracle", "postgres", "gpj.\u{202e}exe"];
        let user = users[n as usize % users.len()];
        let failed = Event::new(EventId::GuestLoginFailed, ago((60 - n) * 97)).domain("ssh-server", Some(1));
        let failed =
            failed.with("user", user).with("method", "password").with("service", "sshd").with("count", n % 4);
        house.tell([failed.with("src_ip", format!("198.51.100.{}", n % 7)).with("invalid_user", n % 2 == 0)]);
        let line = format!("Failed password for {user} from 198.51.100.{} port {} ssh2", n % 7, 40_000 + n);
        let log =
            Event::new(EventId::GuestLog, ago((60 - n) * 97)).domain("ssh-server", Some(1)).with("msg", line);
        let log = log.with("app_name", "sshd").with("procid", "4242").with("facility", "auth");
        house.tell([log.with("severity", "info")]);
    }
    let got_in = Event::new(EventId::GuestLogin, ago(30)).domain("ssh-server", Some(1)).with("user", "root");
    let got_in = got_in.with("service", "sshd").with("method", "password").with("src_ip", "198.51.100.3");
    let refused = Event::new(EventId::ContainmentVerdict, ago(20)).domain("ssh-server", Some(1));
    let added = Event::new(EventId::FimChange, ago(9)).domain("ssh-server", Some(1)).with("change", "added");
    let added = added
        .with("path", "/tmp/.x/\u{200b}kworker")
        .with("kind", "file")
        .with("mode", "0755")
        .with("uid", 0);
    house.tell([
        got_in,
        refused.with("verdict", "refused").with("reason", "not a reply"),
        added.with("size", 1_048_576),
    ]);
    for reason in ["odd process", "root logged in from 198.51.100.3"] {
        let pull = house.post("/api/domains/web-server/pull", &json!({ "reason": reason }).to_string());
        assert_eq!(pull.status, 202);
        eventually("the case", || house.get("/api/cases").text().contains(reason).then_some(()));
    }
    assert_eq!(house.post("/api/domains/web-server/fim-check", "").status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_a_timeline_and_what_differs_is_shown() {
    let (house, browser) = (House::new(), Browser::start(1280, 800, None).await);
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(house.address, "/snapshots").await;
    browser.wait("return document.querySelectorAll('[data-snapshot]').length === 4").await;
    let newest_first = "return [...document.querySelectorAll('[data-domain=web-server] [data-snapshot]')].map(one => one.dataset.snapshot.slice(-9, -5))";
    assert_eq!(browser.script(newest_first).await, json!(["0720", "0715", "0700"]));
    let diff = "return document.querySelector('[data-snapshot=\"web-server/20261201T071500000\"]').innerText";
    let text = browser.script(diff).await;
    let text = text.as_str().unwrap();
    for part in ["diff", "7.0 MiB", "over 20261201T070000000", "<img src=x", "U+202E"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // One that is damaged can be neither marked nor mistaken.
    assert_eq!(browser.script("return document.querySelectorAll('.mark:disabled').length").await, json!(1));

    let mark = "for (const id of ['web-server/20261201T071500000', 'web-server/20261201T070000000']) \
                document.querySelector(`[data-snapshot=\"${id}\"] .mark`).click(); return true";
    browser.script(mark).await;
    browser.client.find(Locator::Id("compare")).await.unwrap().click().await.unwrap();
    browser
        .wait("return document.querySelector('#difference')?.innerText.includes('tcp 0.0.0.0:4444')")
        .await;
    let asked = house.supervisor.asked("snapshot-diff");
    assert_eq!(asked[0]["before"], "web-server/20261201T070000000", "the older one was before: {asked:?}");
    let shown = browser.script("return document.querySelector('#difference').innerText").await;
    for part in ["<img src=x", "dm_mod", "/tmp/.x/kworker", "/etc/passwd", "1 added, 0 removed"] {
        assert!(shown.as_str().unwrap().contains(part), "{part}: {shown}");
    }
    picture(&browser, "compared", "snapshots").await;

    browser.script("document.querySelector('[data-domain=ssh-server] .verify').click(); return true").await;
    browser
        .wait("return document.querySelector('[data-domain=ssh-server] .verdict').innerText === 'whole'")
        .await;
    browser
        .script("document.querySelector('[data-domain=ssh-server] .restore-as-clone').click(); return true")
        .await;
    let name = browser.client.find(Locator::Css(".clone-name")).await.unwrap();
    name.clear().await.unwrap();
    name.send_keys("again").await.unwrap();
    browser.client.find(Locator::Css(".clone-form .main")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelector('.jobs').innerText.includes('again at 10.77.0.254')").await;
    assert_eq!(house.supervisor.asked("snapshot-restore")[0]["name"], "again");

    browser.client.find(Locator::Id("reason")).await.unwrap().send_keys("odd").await.unwrap();
    browser.script("document.querySelector('#kind').value = 'diff'; return true").await;
    browser.client.find(Locator::Id("take")).await.unwrap().click().await.unwrap();
    browser.wait("return document.querySelector('.jobs').innerText.includes('20261201T080000000')").await;
    let asked = house.supervisor.asked("snapshot");
    assert_eq!((&asked[0]["diff"], &asked[0]["reason"]), (&json!(true), &json!("odd")));
    assert_eq!(browser.script("return window.hacked ?? null").await, json!(null));
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_shows_who_has_which_clone() {
    let (house, browser) = (House::new(), Browser::start(1280, 800, None).await);
    browser.log_in(house.address, PASSWORD).await;
    browser.wait("return location.pathname === '/'").await;
    browser.go(house.address, "/pools").await;
    browser.wait("return document.querySelectorAll('[data-pool=farm] [data-source]').length === 2").await;
    let text = browser.script("return document.querySelector('[data-pool=farm]').innerText").await;
    for part in ["10.77.0.20", "2 of 8", "198.51.100.3", "farm-1", "7 min 11 s", "1 min 1 s", "farm-shared"] {
        assert!(text.as_str().unwrap().contains(part), "{part}: {text}");
    }
    browser
        .script("document.querySelector('[data-source=\"198.51.100.3\"] a.button').click(); return true")
        .await;
    browser.wait("return location.pathname + location.search === '/sessions?domain=farm-1'").await;
    browser.end().await;
}
