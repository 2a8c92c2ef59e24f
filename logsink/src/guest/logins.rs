//! Logins in a guest's log lines: what sshd, login, su and sudo write through themselves and PAM. Pure.
//!
//! User names come from the intruder and may hold anything, also text that looks like the rest of the line; so a line is read from its
//! end, which the daemon wrote. Whoever is root in the guest can write any line: this is what the guest says, no more.

use std::net::IpAddr;

/// How a login went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The user is in.
    Accepted,
    /// The password, or the user, was wrong.
    Failed,
}

/// A login, or an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// How it went.
    pub outcome: Outcome,
    /// As the intruder typed it.
    pub user: String,
    /// `sshd`, `login`, `su`, `sudo`.
    pub service: &'static str,
    /// `password`, `publickey`, `pam`, ...
    pub method: String,
    /// Where from, where the line says so.
    pub src_ip: Option<IpAddr>,
    /// Source port.
    pub src_port: Option<u16>,
    /// The guest has no such user, it says.
    pub invalid_user: bool,
    /// The line stands for so many attempts ("message repeated 3 times").
    pub count: u32,
}

/// The login that a line of this program tells of.
pub fn parse(app_name: &str, msg: &str) -> Option<Login> {
    let (count, msg) = repeated(msg);
    let login = match app_name {
        "sshd" | "sshd-session" | "sshd-auth" => sshd(msg),
        "login" => console(msg).or_else(|| pam(msg, "login")),
        "su" => pam(msg, "su"),
        "sudo" => pam(msg, "sudo"),
        // Other programs do not let anybody in.
        _ => None,
    };
    login.map(|login| Login { count, ..login })
}

/// rsyslog's "message repeated 3 times: [ ... ]".
fn repeated(msg: &str) -> (u32, &str) {
    let inner = || {
        let (count, rest) = msg.strip_prefix("message repeated ")?.split_once(" times: [")?;
        Some((count.parse().ok()?, rest.strip_suffix(']')?.trim()))
    };
    inner().unwrap_or((1, msg))
}

/// "Accepted METHOD for USER from IP port N ssh2[: KEY]", "Failed METHOD for [invalid user ]USER from IP port N ssh2".
fn sshd(msg: &str) -> Option<Login> {
    let (outcome, rest) = match msg.strip_prefix("Accepted ") {
        Some(rest) => (Outcome::Accepted, rest),
        None => (Outcome::Failed, msg.strip_prefix("Failed ")?),
    };
    let (method, rest) = rest.split_once(" for ")?;
    // "none" is how a client asks which methods there are, not an attempt.
    if method == "none" {
        return None;
    }
    let (rest, port) = before_port(rest)?;
    let (user, address) = rest.rsplit_once(" from ")?;
    let (invalid_user, user) = match user.strip_prefix("invalid user ") {
        Some(user) if outcome == Outcome::Failed => (true, user),
        _ => (false, user),
    };
    Some(Login {
        outcome,
        user: user.to_owned(),
        service: "sshd",
        method: method.to_owned(),
        src_ip: Some(address.parse().ok()?),
        src_port: Some(port),
        invalid_user,
        count: 1,
    })
}

/// Splits off the last " port N ssh2" and what follows it.
fn before_port(text: &str) -> Option<(&str, u16)> {
    let (rest, after) = text.rsplit_once(" port ")?;
    let (port, tail) = after.split_once(" ssh2").unwrap_or((after, ""));
    (tail.is_empty() || tail.starts_with(": ")).then_some(())?;
    Some((rest, port.parse().ok()?))
}

/// util-linux login: "FAILED LOGIN (1) on '/dev/hvc0' FOR 'root', Authentication failure" (older ones say "FROM '...' FOR").
fn console(msg: &str) -> Option<Login> {
    let rest = msg.strip_prefix("FAILED LOGIN ")?;
    let (_, user) = rest.split_once(" FOR '")?;
    let (user, _) = user.rsplit_once("', ")?;
    Some(local(Outcome::Failed, user, "login"))
}

/// "pam_unix(sudo:session): session opened for user root(uid=0) by bob(uid=1000)",
/// "pam_unix(sudo:auth): authentication failure; logname=bob uid=1000 ... rhost=  user=bob".
fn pam(msg: &str, service: &'static str) -> Option<Login> {
    let (head, text) = msg.strip_prefix("pam_unix(")?.split_once("): ")?;
    let (name, kind) = head.split_once(':')?;
    // "su-l" and "sudo-i" are their programs with a login shell.
    (name.split('-').next() == Some(service)).then_some(())?;
    if kind == "session" {
        let user = text.strip_prefix("session opened for user ")?;
        let (user, _) = user.rsplit_once(" by ").unwrap_or((user, ""));
        let user = user.rsplit_once("(uid=").map_or(user, |(user, _)| user);
        return Some(local(Outcome::Accepted, user, service));
    }
    // login's own line about the same failure names the user too.
    if kind != "auth" || service == "login" {
        return None;
    }
    let (_, user) = text.strip_prefix("authentication failure; ")?.rsplit_once(" user=")?;
    Some(local(Outcome::Failed, user, service))
}

fn local(outcome: Outcome, user: &str, service: &'static str) -> Login {
    let (user, method) = (user.to_owned(), "pam".to_owned());
    Login { outcome, user, service, method, src_ip: None, src_port: None, invalid_user: false, count: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        app_name: &str,
        msg: &str,
        outcome: Outcome,
        user: &str,
        method: &str,
        from: Option<(&str, u16)>,
    ) {
        let login = parse(app_name, msg).unwrap_or_else(|| panic!("no login in {msg:?}"));
        assert_eq!(
            (login.outcome, login.user.as_str(), login.method.as_str()),
            (outcome, user, method),
            "{msg}"
        );
        assert_eq!(login.src_ip, from.map(|(ip, _)| ip.parse().unwrap()), "{msg}");
        assert_eq!(login.src_port, from.map(|(_, port)| port), "{msg}");
    }

    #[test]
    fn what_the_daemons_write_is_read() {
        use Outcome::{Accepted, Failed};
        let sshd = Some(("10.0.0.9", 4242));
        check(
            "sshd",
            "Accepted password for root from 10.0.0.9 port 4242 ssh2",
            Accepted,
            "root",
            "password",
            sshd,
        );
        check(
            "sshd-session",
            "Accepted publickey for bob from fe80::1 port 1 ssh2: ED25519 SHA256:abc",
            Accepted,
            "bob",
            "publickey",
            Some(("fe80::1", 1)),
        );
        check(
            "sshd",
            "Failed password for invalid user x from 10.0.0.9 port 4242 ssh2",
            Failed,
            "x",
            "password",
            sshd,
        );
        check(
            "sshd",
            "Failed password for root from 10.0.0.9 port 4242 ssh2",
            Failed,
            "root",
            "password",
            sshd,
        );
        check(
            "login",
            "FAILED LOGIN (1) on '/dev/hvc0' FOR 'root', Authentication failure",
            Failed,
            "root",
            "pam",
            None,
        );
        let opened = "pam_unix(login:session): session opened for user root(uid=0) by root(uid=0)";
        check("login", opened, Accepted, "root", "pam", None);
        let opened = "pam_unix(sudo:session): session opened for user root(uid=0) by bob(uid=1000)";
        check("sudo", opened, Accepted, "root", "pam", None);
        let failed = "pam_unix(su-l:auth): authentication failure; logname= uid=1000 tty=pts/0 ruser=bob rhost=  user=root";
        check("su", failed, Failed, "root", "pam", None);
    }

    #[test]
    fn a_user_name_cannot_forge_the_address() {
        let sshd = Some(("10.0.0.9", 4242));
        let msg =
            "Failed password for invalid user a from 1.2.3.4 port 1 ssh2: x from 10.0.0.9 port 4242 ssh2";
        check("sshd", msg, Outcome::Failed, "a from 1.2.3.4 port 1 ssh2: x", "password", sshd);
    }

    #[test]
    fn a_repeated_line_counts_as_often() {
        let msg = "message repeated 3 times: [ Failed password for root from 10.0.0.9 port 4242 ssh2]";
        assert_eq!(parse("sshd", msg).unwrap().count, 3);
    }

    #[test]
    fn other_lines_are_no_logins() {
        let cases = [
            ("sshd", "Failed none for root from 10.0.0.9 port 4242 ssh2"),
            ("sshd", "Connection closed by 10.0.0.9 port 4242 [preauth]"),
            ("sshd", "Accepted password for root from nowhere port 4242 ssh2"),
            ("sshd", "Accepted password for root from 10.0.0.9 port 99999 ssh2"),
            ("sshd", "pam_unix(sshd:session): session opened for user root(uid=0) by (uid=0)"),
            ("cron", "pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)"),
            ("bash", "Accepted password for root from 10.0.0.9 port 4242 ssh2"),
            ("sshd", ""),
            ("login", "FAILED LOGIN "),
            ("sudo", "pam_unix("),
        ];
        for (app_name, msg) in cases {
            assert_eq!(parse(app_name, msg), None, "{app_name}: {msg}");
        }
    }
}
