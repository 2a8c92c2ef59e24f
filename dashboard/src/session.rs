//! Sessions: a random token in the browser's cookie, its hash here, and an end. Pure but for the random bytes; time is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cookie::Cookie;

/// Sessions at one time; one more ends the one that was idle longest.
pub const SESSIONS_MAX: usize = 64;
/// A session that asks for nothing ends after this; an open page asks every few seconds.
pub const IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// Every session ends after this.
pub const LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Longest cookie header that is looked at, in bytes.
const COOKIES_BYTES_MAX: usize = 4096;
/// Cookies of one header that are looked at.
const COOKIES_MAX: usize = 50;

/// Name of the cookie over plain HTTP.
pub const COOKIE: &str = "honeynet_session";
/// Over TLS: browsers take a name with this prefix only with `Secure`, `Path=/` and no domain (RFC 6265bis section 4.1.3.2).
pub const COOKIE_TLS: &str = "__Host-honeynet_session";

/// What stands for a session in the table: the token's hash, so that looking it up tells nothing about the token by its timing.
pub type SessionKey = blake3::Hash;

#[derive(Debug, Clone, Copy)]
struct Session {
    begun: Instant,
    seen: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.seen) >= IDLE || now.duration_since(self.begun) >= LIFE
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    table: HashMap<SessionKey, Session>,
}

impl Sessions {
    /// Begins a session; answers its token.
    pub fn begin(&mut self, now: Instant) -> Result<String, getrandom::Error> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes)?;
        let token = hex::encode(bytes);
        self.table.retain(|_, session| !session.is_over(now));
        if self.table.len() >= SESSIONS_MAX {
            let idlest = self.table.iter().min_by_key(|(_, session)| session.seen).map(|(key, _)| *key);
            idlest.and_then(|key| self.table.remove(&key));
        }
        self.table.insert(key_of(&token), Session { begun: now, seen: now });
        Ok(token)
    }

    /// The session of this token, which thereby is not idle.
    pub fn touch(&mut self, token: &str, now: Instant) -> Option<SessionKey> {
        let key = key_of(token);
        let session = self.table.get_mut(&key)?;
        if session.is_over(now) {
            self.table.remove(&key);
            return None;
        }
        session.seen = now;
        Some(key)
    }

    /// Whether a session goes on.
    pub fn is_alive(&self, key: &SessionKey, now: Instant) -> bool {
        self.table.get(key).is_some_and(|session| !session.is_over(now))
    }

    /// Ends a session.
    pub fn end(&mut self, key: &SessionKey) {
        self.table.remove(key);
    }
}

/// The token's hash.
pub fn key_of(token: &str) -> SessionKey {
    blake3::hash(token.as_bytes())
}

/// The token in a cookie header, where there is one that can be ours.
pub fn token_in_cookies<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    if header.len() > COOKIES_BYTES_MAX {
        return None;
    }
    let mut cookies = Cookie::split_parse(header).take(COOKIES_MAX).flatten();
    let value = cookies.find(|cookie| cookie.name() == name)?.value_raw()?;
    let is_token = value.len() == 2 * TOKEN_BYTES && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_token.then_some(value)
}

/// The `Set-Cookie` of a new session, or of none when `token` is empty.
pub fn set_cookie(token: &str, scheme: crate::guard::Scheme) -> String {
    let (name, secure) = match scheme {
        crate::guard::Scheme::Https => (COOKIE_TLS, "; Secure"),
        crate::guard::Scheme::Http => (COOKIE, ""),
    };
    let age = if token.is_empty() { 0 } else { LIFE.as_secs() };
    format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Scheme;

    #[test]
    fn a_session_lives_while_it_is_used_and_not_for_ever() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        let token = sessions.begin(start).unwrap();
        assert_eq!(token.len(), 64);
        assert!(sessions.touch(&token, start + IDLE / 2).is_some());
        let key = sessions.touch(&token, start + IDLE).unwrap();
        assert!(!sessions.is_alive(&key, start + IDLE * 2));
        assert!(sessions.touch(&token, start + IDLE * 2).is_none());

        let token = sessions.begin(start).unwrap();
        let mut now = start;
        while now < start + LIFE - IDLE / 2 {
            now += IDLE / 2;
            let alive = sessions.touch(&token, now).is_some();
            assert_eq!(alive, now < start + LIFE, "after {:?}", now - start);
        }
    }

    #[test]
    fn an_unknown_or_ended_token_is_none() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        let token = sessions.begin(now).unwrap();
        assert!(sessions.touch(&"0".repeat(64), now).is_none());
        let key = sessions.touch(&token, now).unwrap();
        sessions.end(&key);
        assert!(sessions.touch(&token, now).is_none());
    }

    #[test]
    fn one_session_too_many_ends_the_idlest() {
        let start = Instant::now();
        let mut sessions = Sessions::default();
        let tokens: Vec<String> = (0..SESSIONS_MAX as u64)
            .map(|n| sessions.begin(start + Duration::from_millis(n)).unwrap())
            .collect();
        let now = start + Duration::from_secs(1);
        assert!(sessions.touch(&tokens[0], now).is_some());
        sessions.begin(now).unwrap();
        assert_eq!(sessions.table.len(), SESSIONS_MAX);
        assert!(sessions.touch(&tokens[1], now).is_none());
        assert!(sessions.touch(&tokens[0], now).is_some());
    }

    #[test]
    fn a_token_is_found_among_other_cookies_and_nothing_else_is() {
        let token = "a1".repeat(32);
        let good = [format!("{COOKIE}={token}"), format!("x=1; {COOKIE}={token}; y")];
        for header in &good {
            assert_eq!(token_in_cookies(header, COOKIE), Some(token.as_str()), "{header}");
        }
        let long = format!("{COOKIE}={token}; x={}", "y".repeat(COOKIES_BYTES_MAX));
        let bad = ["", ";;;", "=", COOKIE, "honeynet_session=", "honeynet_session=abc", &good[0][1..], &long];
        for header in bad {
            assert_eq!(token_in_cookies(header, COOKIE), None, "{header}");
        }
        assert_eq!(token_in_cookies(&good[0].replace("a1", "\u{202e}"), COOKIE), None);
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let plain = set_cookie("t", Scheme::Http);
        assert!(plain.contains("; HttpOnly; SameSite=Strict;") && !plain.contains("Secure"), "{plain}");
        assert!(set_cookie("t", Scheme::Https).ends_with("; Secure"));
        assert!(set_cookie("", Scheme::Http).contains("Max-Age=0"));
    }
}
