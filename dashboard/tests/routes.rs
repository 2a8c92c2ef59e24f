//! Every path over real HTTP: who is let in, and what malformed requests get.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod util;

use std::io::{Read, Write};
use std::net::TcpStream;

use events::{Event, EventId};
use jiff::Timestamp;
use serde_json::json;
use util::{House, PASSWORD, PATIENCE, TOKEN, eventually};

const PAGES: [&str; 9] = [
    "/",
    "/sessions",
    "/sessions/65a1b2c300010001",
    "/alerts",
    "/logins",
    "/logs",
    "/files",
    "/evidence",
    "/events",
];
const READS: [&str; 22] = [
    "/api/overview",
    "/api/events",
    "/api/events/1",
    "/api/counts",
    "/api/live",
    "/api/jobs",
    "/api/snapshots",
    "/api/pools",
    "/api/cases",
    "/api/cases/x",
    "/api/cases/x/tar",
    "/api/sessions",
    "/api/sessions/65a1b2c300010001",
    "/api/sessions/65a1b2c300010001/tty/1",
    "/api/samples/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "/sessions/x",
    "/assets/asciinema-player.min.js",
    "/assets/api.js",
    "/assets/nothing.js",
    "/api",
    "/nothing",
    "/%2e%2e/etc/passwd",
];
const CHANGES: [&str; 11] = [
    "/api/domains/web-server/pause",
    "/api/domains/web-server/unpause",
    "/api/domains/web-server/pull",
    "/api/domains/web-server/snapshot",
    "/api/snapshots/web-server/x/verify",
    "/api/snapshots/web-server/x/pull",
    "/api/snapshots/web-server/x/restore",
    "/api/snapshots/diff",
    "/api/domains/web-server/fim-check",
    "/api/cases/x/verify",
    "/api/logout",
];

fn cookie(house: &House) -> String {
    let answer = house.login(PASSWORD);
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

#[test]
fn nobody_is_served_who_is_not_logged_in() {
    let house = House::new();
    for page in PAGES {
        let answer = house.ask("GET", page, &[], "");
        let login = format!("/login?next={page}");
        assert_eq!((answer.status, answer.header("location")), (303, Some(login.as_str())), "{page}");
    }
    let forged = format!("honeynet_session={}", "0".repeat(64));
    for headers in [
        &[][..],
        &[("Cookie", forged.as_str())],
        &[("Authorization", "Bearer x")],
        &[("Authorization", "Basic eDp5")],
    ] {
        for target in READS {
            assert_eq!(house.ask("GET", target, headers, "").status, 401, "{target} {headers:?}");
        }
        for target in CHANGES {
            let mut headers = headers.to_vec();
            headers.push(("X-Honeynet", "1"));
            assert_eq!(house.ask("POST", target, &headers, "").status, 401, "{target} {headers:?}");
        }
    }
    assert!(house.supervisor.asked("pause").is_empty() && house.supervisor.asked("pull").is_empty());
}

#[test]
fn every_answer_has_the_policy_and_the_headers() {
    let house = House::new();
    let bearer = format!("Bearer {TOKEN}");
    let asked = [
        house.ask("GET", "/", &[], ""),
        house.ask("GET", "/login", &[], ""),
        house.ask("GET", "/", &[("Authorization", &bearer)], ""),
        house.get("/api/overview"),
        house.get("/api/events?limit=x"),
        house.get("/nothing"),
        house.get("/assets/api.js"),
        house.get("/sessions/65a1b2c300010001"),
        house.get("/api/sessions/65a1b2c300010001"),
        house.ask("GET", "/", &[("Host", "evil.example")], ""),
        house.ask("PUT", "/login", &[("X-Honeynet", "1")], ""),
    ];
    for answer in asked {
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{}", answer.head);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{}", answer.head);
        assert_eq!(answer.header("cross-origin-opener-policy"), Some("same-origin"), "{}", answer.head);
        assert!(
            answer.header("cache-control").is_some() && answer.header("server").is_none(),
            "{}",
            answer.head
        );
    }
}

#[test]
fn a_foreign_host_name_is_not_served() {
    let house = House::new();
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""] {
        assert_eq!(house.ask("GET", "/login", &[("Host", host)], "").status, 421, "{host}");
    }
    for host in ["honey.example", "localhost:1", "[::1]", "192.0.2.1:443"] {
        assert_eq!(house.ask("GET", "/login", &[("Host", host)], "").status, 200, "{host}");
    }
    assert_eq!(house.raw(b"GET /login HTTP/1.0\r\n\r\n").status, 421);
    let twice = b"GET /login HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!([400, 421].contains(&house.raw(twice).status));
}

#[test]
fn only_pages_of_this_dashboard_change_anything() {
    let house = House::new();
    let cookie = cookie(&house);
    let origin = format!("http://{}", house.address);
    let pause = |headers: &[(&str, &str)]| {
        let mut all = vec![("Cookie", cookie.as_str())];
        all.extend_from_slice(headers);
        house.ask("POST", "/api/domains/web-server/pause", &all, "").status
    };
    for headers in [
        &[][..],
        &[("Origin", origin.as_str())],
        &[("Origin", "http://evil.example"), ("X-Honeynet", "1")],
        &[("Origin", "null"), ("X-Honeynet", "1")],
        &[("Sec-Fetch-Site", "cross-site"), ("X-Honeynet", "1")],
        &[("Sec-Fetch-Site", "same-site"), ("X-Honeynet", "1")],
        &[("Sec-Fetch-Site", "same-origin")],
    ] {
        assert_eq!(pause(headers), 403, "{headers:?}");
    }
    assert!(house.supervisor.asked("pause").is_empty());
    assert_eq!(pause(&[("Origin", origin.as_str()), ("X-Honeynet", "1")]), 200);
    assert_eq!(house.supervisor.asked("pause").len(), 1);
    let login = house.ask("POST", "/login", &[("Origin", "http://evil.example")], "password=x");
    assert_eq!(login.status, 403);
    assert_eq!(house.ask("GET", "/api/domains/web-server/pause", &[("Cookie", &cookie)], "").status, 405);
}

#[test]
fn passwords_cannot_be_tried_for_long() {
    let house = House::new();
    // Whoever is slow gets one more every twenty seconds, so on a busy machine it may take some more.
    let heard = (0..40).take_while(|n| house.login(&format!("guess {n}")).status == 401).count();
    assert!((5..15).contains(&heard), "{heard} tries were heard");
    // Not even the right one is, now.
    let right = house.login(PASSWORD);
    assert_eq!(right.status, 429);
    assert!(right.header("retry-after").unwrap().parse::<u64>().unwrap() <= 21);
    // The API token has no such limit, and needs none.
    assert_eq!(house.get("/api/jobs").status, 200);
}

#[test]
fn a_session_ends_with_its_logout() {
    let house = House::new();
    let cookie = cookie(&house);
    assert_eq!(house.ask("GET", "/api/jobs", &[("Cookie", &cookie)], "").status, 200);
    let out = house.ask("POST", "/api/logout", &[("Cookie", &cookie), ("X-Honeynet", "1")], "");
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(house.ask("GET", "/api/jobs", &[("Cookie", &cookie)], "").status, 401);
}

/// Target, body, and the status that answers them.
fn malformed_writes(long: &str) -> Vec<(String, String, u16)> {
    vec![
        ("/api/domains/nobody/pause".to_owned(), "".to_owned(), 409),
        (format!("/api/domains/{long}/pause"), "".into(), 404),
        ("/api/domains/%00/pause".into(), "".into(), 404),
        ("/api/domains/%ff/fim-check".into(), "".into(), 404),
        ("/api/domains/web-server/pull".into(), "".into(), 400),
        ("/api/domains/web-server/pull".into(), "{".into(), 400),
        ("/api/domains/web-server/pull".into(), "{\"reason\":1}".into(), 400),
        ("/api/domains/web-server/pull".into(), "{\"reason\":\"x\",\"y\":1}".into(), 400),
        ("/api/domains/web-server/pull".into(), json!({ "reason": "x".repeat(501) }).to_string(), 400),
        ("/api/domains/web-server/pull".into(), json!({ "reason": "x".repeat(20_000) }).to_string(), 400),
        ("/api/domains/web-server/snapshot".into(), "{\"diff\":1}".into(), 400),
        ("/api/domains/%00/snapshot".into(), "{}".into(), 404),
        ("/api/snapshots/web-server/..%2f..%2fetc/verify".into(), "".into(), 404),
        ("/api/snapshots/%2e%2e/x/verify".into(), "".into(), 404),
        ("/api/snapshots/web-server/%00/pull".into(), "{}".into(), 404),
        ("/api/snapshots/web-server/x/pull".into(), "{\"y\":1}".into(), 400),
        ("/api/snapshots/web-server/x/restore".into(), "{}".into(), 400),
        ("/api/snapshots/web-server/x/destroy".into(), "{}".into(), 404),
        ("/api/snapshots/diff".into(), "{\"before\":\"web-server/1\"}".into(), 400),
        ("/api/snapshots/diff".into(), "{\"before\":\"/etc/passwd\",\"after\":\"web-server/1\"}".into(), 404),
        ("/api/snapshots/diff".into(), "{\"before\":\"nothing\",\"after\":\"web-server/1\"}".into(), 404),
        ("/api/domains/web-server/destroy".into(), "".into(), 404),
        ("/api/cases/..%2f..%2fetc/verify".into(), "".into(), 404),
    ]
}

#[test]
fn malformed_requests_are_refused_and_the_next_one_is_served() {
    let house = House::new();
    house.tell([Event::new(EventId::Alert, Timestamp::now())]);
    eventually("the event", || (house.get("/api/events/1").status == 200).then_some(()));
    let long = "x".repeat(5000);
    let very_long = "x".repeat(60_000);
    let reads = [
        ("/api/events?limit=0".to_owned(), 400),
        ("/api/events?limit=501".into(), 400),
        ("/api/events?colour=red".into(), 400),
        ("/api/events?before_id=-1".into(), 400),
        ("/api/events?since=now".into(), 400),
        (format!("/api/events?text={long}"), 400),
        ("/api/events?text=%ff%fe%00".into(), 200),
        ("/api/events?domain=%27%20OR%201%20--".into(), 200),
        ("/api/counts?severity=worst".into(), 400),
        ("/api/live?type=%3Cscript%3E".into(), 400),
        ("/api/events/0".into(), 404),
        ("/api/events/-1".into(), 404),
        ("/api/events/x".into(), 404),
        ("/api/events/99999999999999999999".into(), 404),
        ("/api/events/9223372036854775807".into(), 404),
        ("/api/events/%ff".into(), 404),
        ("/api/cases/..".into(), 404),
        ("/api/cases/%2e%2e".into(), 404),
        ("/api/cases/..%2f..%2fetc".into(), 404),
        ("/api/cases/%2fetc%2fpasswd/tar".into(), 404),
        ("/api/cases/../../etc/passwd/tar".into(), 404),
        ("/api/cases/.hidden/tar".into(), 404),
        ("/api/cases/%00/tar".into(), 404),
        ("/api/cases/%ff%fe/tar".into(), 404),
        (format!("/api/cases/{long}/tar"), 404),
        ("/assets/../src/lib.rs".into(), 404),
        ("/assets/%2e%2e%2fstyle.css".into(), 404),
        (format!("/{very_long}"), 431),
    ];
    for (target, status) in reads {
        let answer = house.get(&target);
        let shown: String = target.chars().take(60).collect();
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
    }
    for (target, body, status) in malformed_writes(&long) {
        let answer = house.post(&target, &body);
        let shown: String = target.chars().take(60).collect();
        assert_eq!(answer.status, status, "{shown} {body:.40}: {}", answer.text());
    }
    for op in ["pull", "snapshot", "snapshot-verify", "snapshot-pull", "snapshot-restore", "snapshot-diff"] {
        assert!(house.supervisor.asked(op).is_empty(), "{op}");
    }
    for bytes in
        [&b"\x16\x03\x01\x02\x00"[..], b"\r\n\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff\xfe\r\n\r\n"]
    {
        let status = house.raw(&[bytes, b"\r\n\r\n"].concat()).status;
        assert!([0, 400, 421].contains(&status), "{bytes:?}: {status}");
    }
    let headers = [("Cookie", "\u{ff}=\u{ff}; ;;;=;honeynet_session"), ("Authorization", "Bearer \u{e9}")];
    assert_eq!(house.ask("GET", "/api/jobs", &headers, "").status, 401);
    assert_eq!(house.get("/api/jobs").status, 200);
}

#[test]
fn a_silent_supervisor_keeps_nobody_waiting() {
    let house = House::new();
    eventually("the domains", || {
        (house.get("/api/overview").json()["domains"].as_array().unwrap().len() == 2).then_some(())
    });
    house.supervisor.fall_silent();
    let error = eventually("the complaint", || {
        let overview = house.get("/api/overview").json();
        overview["error"].as_str().map(|error| (error.to_owned(), overview["domains"].clone()))
    });
    assert_eq!(error.0, "the supervisor does not answer after 3 s");
    // What was known is still shown.
    assert_eq!(error.1.as_array().unwrap().len(), 2);
    assert_eq!(house.get("/api/events").status, 200);
}

#[test]
fn pages_go_backwards_without_a_gap() {
    let house = House::new();
    let event = |n: u64| {
        let id = if n.is_multiple_of(2) { EventId::GuestLogin } else { EventId::GuestLoginFailed };
        Event::new(id, Timestamp::now()).with("n", n)
    };
    house.tell((1..=25).map(event));
    let all = "/api/events?id=guest.login,guest.login_failed&limit=10";
    eventually("the events", || (house.get("/api/events/25").status == 200).then_some(()));
    let mut seen = Vec::new();
    let mut target = all.to_owned();
    loop {
        let page = house.get(&target).json();
        seen.extend(page["events"].as_array().unwrap().iter().map(|row| row["guest"]["n"].as_u64().unwrap()));
        match page["next_before_id"].as_i64() {
            Some(before) => target = format!("{all}&before_id={before}"),
            None => break,
        }
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<u64>>());
}

#[test]
fn a_page_that_lost_its_connection_gets_what_it_missed() {
    let house = House::new();
    house.tell((0..3).map(|n| Event::new(EventId::Alert, Timestamp::now()).with("n", n)));
    eventually("the events", || (house.get("/api/events/3").status == 200).then_some(()));
    let mut socket = TcpStream::connect(house.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /api/live?type=alert HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nLast-Event-ID: 1\r\n\r\n",
        house.address
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    let mut read_until = |wanted: &str, text: &mut String| {
        let mut bytes = [0; 4096];
        while !text.contains(wanted) {
            let length = socket.read(&mut bytes).unwrap();
            assert!(length > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    read_until("id: 3", &mut text);
    assert!(text.contains("id: 2") && !text.contains("id: 1\n"), "{text}");
    house.tell([
        Event::new(EventId::GuestLog, Timestamp::now()),
        Event::new(EventId::Alert, Timestamp::now()),
    ]);
    read_until("id: 5", &mut text);
    assert!(!text.contains("id: 4"), "{text}");
}

#[test]
fn a_job_is_not_begun_twice_and_its_failure_is_told() {
    let house = House::new();
    house.supervisor.hold(true);
    assert_eq!(house.post("/api/domains/web-server/fim-check", "").status, 202);
    assert_eq!(house.post("/api/domains/web-server/fim-check", "").status, 429);
    assert_eq!(house.post("/api/domains/nobody/fim-check", "").status, 202);
    house.supervisor.hold(false);
    eventually("both ends", || {
        let jobs = house.get("/api/jobs").json();
        let of = |subject: &str| {
            jobs["jobs"].as_array().unwrap().iter().find(|job| job["subject"] == subject).cloned()
        };
        let (bad, good) = (of("nobody")?, of("web-server")?);
        let ended = bad["stage"] == "failed" && good["stage"] == "done";
        ended.then(|| assert_eq!(bad["answer"]["error"], "there is no domain nobody"))
    });
}

#[test]
fn logsink_may_come_later_and_may_start_anew() {
    let mut house = House::new();
    house.tell([Event::new(EventId::Alert, Timestamp::now()).with("n", 1)]);
    eventually("the first event", || (house.get("/api/events/1").status == 200).then_some(()));
    house.sink = util::restart_sink(&house);
    house.tell([Event::new(EventId::Alert, Timestamp::now()).with("n", 2)]);
    eventually("the second event", || (house.get("/api/events/2").status == 200).then_some(()));
}
