//! Style sheet, scripts and icon, built into the program. A browser keeps them as long as their hash stays.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::answer::Refusal;

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// What the login page needs; everybody may have it.
const PUBLIC: [(&str, &str, &str); 2] = [
    ("style.css", STYLE, include_str!("../web/style.css")),
    ("icon.svg", ICON, include_str!("../web/icon.svg")),
];

const SCRIPTS: [(&str, &str); 23] = [
    ("alerts.js", include_str!("../web/alerts.js")),
    ("api.js", include_str!("../web/api.js")),
    ("cast.js", include_str!("../web/cast.js")),
    ("details.js", include_str!("../web/details.js")),
    ("dom.js", include_str!("../web/dom.js")),
    ("events.js", include_str!("../web/events.js")),
    ("evidence.js", include_str!("../web/evidence.js")),
    ("files.js", include_str!("../web/files.js")),
    ("format.js", include_str!("../web/format.js")),
    ("jobs.js", include_str!("../web/jobs.js")),
    ("links.js", include_str!("../web/links.js")),
    ("listing.js", include_str!("../web/listing.js")),
    ("logins.js", include_str!("../web/logins.js")),
    ("logs.js", include_str!("../web/logs.js")),
    ("overview.js", include_str!("../web/overview.js")),
    ("pools.js", include_str!("../web/pools.js")),
    ("player.js", include_str!("../web/player.js")),
    ("processes.js", include_str!("../web/processes.js")),
    ("session.js", include_str!("../web/session.js")),
    ("sessions.js", include_str!("../web/sessions.js")),
    ("snapshots.js", include_str!("../web/snapshots.js")),
    ("stream.js", include_str!("../web/stream.js")),
    ("timeline.js", include_str!("../web/timeline.js")),
];

/// Not ours: `web/vendor/README.md` says whose.
const VENDOR: [(&str, &str, &str); 2] = [
    ("asciinema-player.css", STYLE, include_str!("../web/vendor/asciinema-player.css")),
    ("asciinema-player.min.js", SCRIPT, include_str!("../web/vendor/asciinema-player.min.js")),
];

/// `GET /assets/style.css` and `/assets/icon.svg`
pub fn public(name: &'static str, headers: &HeaderMap) -> Response {
    match PUBLIC.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => cached(kind, content, headers),
        None => Refusal::Missing("file").into_response(),
    }
}

/// `GET /assets/{name}`
pub async fn script(path: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let ours = SCRIPTS.iter().map(|(known, content)| (*known, SCRIPT, *content));
    match ours.chain(VENDOR).find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => cached(kind, content, &headers),
        None => Refusal::Missing("file").into_response(),
    }
}

fn cached(kind: &'static str, content: &'static str, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", &blake3::hash(content.as_bytes()).to_hex()[..32]);
    let same = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let cache = [(header::ETAG, tag), (header::CACHE_CONTROL, "private, no-cache".to_owned())];
    match same {
        true => (StatusCode::NOT_MODIFIED, cache).into_response(),
        false => (cache, [(header::CONTENT_TYPE, kind)], content).into_response(),
    }
}
