//! What every request and every answer must have: a host that is ours, an origin that is ours where something is changed, and headers
//! that leave a page nothing to load and nobody to be framed by. Pure decisions, and the middleware that applies them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::answer::Refusal;
use crate::app::App;

/// The header that only a script of the same origin can set without asking first (CORS, "non-simple" header).
pub const OWN_HEADER: &str = "x-honeynet";

/// Pages load scripts, styles and data from us and from nowhere else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The same, and WebAssembly may be compiled: the player's terminal is one. No script may be made from a string by this.
pub const CONTENT_SECURITY_POLICY_WASM: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; \
     style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What an answer carries whose page plays casts.
#[derive(Debug, Clone, Copy)]
pub struct NeedsWasm;

// With "no-referrer" browsers send a form of our own page with the origin "null" (Fetch Standard, "append a request Origin header").
const HEADERS: [(&str, &str); 8] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("x-robots-tag", "noindex"),
];

/// How browsers reach us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain, on loopback.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    fn prefix(self) -> &'static str {
        match self {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
        }
    }
}

/// Refuses what is not meant for us, and puts the headers on every answer, also on refusals.
pub async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let host = host_of(request.headers()).map(str::to_owned);
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = match host {
        Some(host) if is_our_host(&host, &app.names) => {
            if changes && !is_same_origin(request.headers(), app.scheme, &host) {
                Refusal::OtherOrigin.into_response()
            } else {
                next.run(request).await
            }
        }
        _ => Refusal::OtherHost.into_response(),
    };
    let policy = match response.extensions().get::<NeedsWasm>() {
        Some(NeedsWasm) => CONTENT_SECURITY_POLICY_WASM,
        None => CONTENT_SECURITY_POLICY,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if app.scheme == Scheme::Https {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn host_of(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    }
}

/// DNS rebinding makes a foreign name point at us. An address or `localhost` cannot be rebound; any other name must be ours.
pub fn is_our_host(host: &str, names: &[String]) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => return address.parse::<Ipv6Addr>().is_ok() && is_port(port),
            None => return false,
        },
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    let known = || names.iter().any(|known| known.eq_ignore_ascii_case(name));
    is_port(port) && (name.parse::<Ipv4Addr>().is_ok() || name.eq_ignore_ascii_case("localhost") || known())
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Whether a request that changes something comes from a page of ours, or from no browser at all. A browser always names the origin of
/// a POST; a script shows the API token, which no browser adds by itself, or our own header.
pub fn is_same_origin(headers: &HeaderMap, scheme: Scheme, host: &str) -> bool {
    let origin = headers.get(header::ORIGIN);
    let site = headers.get("sec-fetch-site");
    let origin_fits = origin.is_none_or(|origin| {
        origin.to_str().is_ok_and(|origin| origin.strip_prefix(scheme.prefix()) == Some(host))
    });
    let site_fits = site.is_none_or(|site| site == "same-origin");
    let by_script = headers.contains_key(OWN_HEADER) || headers.contains_key(header::AUTHORIZATION);
    let said = origin.is_some() || site.is_some() || by_script;
    origin_fits && site_fits && said
}

/// Whether the request carries our own header, which no form of another site can send.
pub fn has_own_header(headers: &HeaderMap) -> bool {
    headers.get(OWN_HEADER).is_some_and(|value| value == "1")
}

/// An address as it is written in events.
pub fn canonical(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_our_names_are_our_host() {
        let names = ["Honey.example".to_owned()];
        let good = [
            "127.0.0.1",
            "127.0.0.1:64297",
            "localhost:1",
            "LOCALHOST",
            "[::1]:64297",
            "[2001:db8::1]",
            "honey.example:8443",
            "192.0.2.7:80",
        ];
        for host in good {
            assert!(is_our_host(host, &names), "{host}");
        }
        let bad = [
            "",
            ":",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "honey.example.evil",
            "[::1",
            "[evil]",
            "[::1]x",
            "127.0.0.1:99999",
            "127.0.0.1:",
            "localhost:1:2",
            "user@127.0.0.1",
            "127.1",
        ];
        for host in bad {
            assert!(!is_our_host(host, &names), "{host}");
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_our_own_pages_change_anything() {
        let host = "127.0.0.1:64297";
        let good: [&[(&str, &str)]; 4] = [
            &[("origin", "http://127.0.0.1:64297")],
            &[("origin", "http://127.0.0.1:64297"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "same-origin")],
            &[("x-honeynet", "1")],
        ];
        for pairs in good {
            assert!(is_same_origin(&headers(pairs), Scheme::Http, host), "{pairs:?}");
        }
        let bad: [&[(&str, &str)]; 8] = [
            &[],
            &[("origin", "null")],
            &[("origin", "https://127.0.0.1:64297")],
            &[("origin", "http://127.0.0.1:80")],
            &[("origin", "http://evil.example")],
            &[("origin", "http://evil.example"), ("x-honeynet", "1")],
            &[("origin", "http://127.0.0.1:64297"), ("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site")],
        ];
        for pairs in bad {
            assert!(!is_same_origin(&headers(pairs), Scheme::Http, host), "{pairs:?}");
        }
    }

    #[test]
    fn the_policy_allows_nothing_inline_and_nothing_from_elsewhere() {
        let words = ["unsafe", "http", "data:", "*"];
        assert!(words.iter().all(|word| !CONTENT_SECURITY_POLICY.contains(word)));
        assert!(CONTENT_SECURITY_POLICY.starts_with("default-src 'none'; script-src 'self';"));
        assert_eq!(CONTENT_SECURITY_POLICY_WASM.replace(" 'wasm-unsafe-eval'", ""), CONTENT_SECURITY_POLICY);
    }
}
