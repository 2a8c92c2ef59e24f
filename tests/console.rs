//! `honeynet console` at a real terminal: `script` gives it one (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::fs;
use std::process::Command;

use util::guest::Guest;
use util::{Honeynet, row_when};

/// Ctrl-].
const LEAVE: &str = "\x1d";

/// The console in a terminal whose settings are noted before and after.
fn in_terminal(honeynet: &Honeynet) -> Guest {
    let console = format!(
        "stty -a > before; {} --state state console a; echo $? > code; stty -a > after",
        env!("CARGO_BIN_EXE_honeynet")
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--command", &console, "/dev/null"]);
    Guest::attach_by(honeynet, script)
}

/// The command is over, all went well, and the terminal is as it was.
fn check_left(honeynet: &Honeynet, guest: Guest) {
    guest.wait_end();
    let read = |name: &str| fs::read_to_string(honeynet.path(name)).unwrap();
    assert_eq!(read("code"), "0\n");
    assert!(read("before").contains(" icanon ") && read("before").contains(" echo "), "{}", read("before"));
    assert_eq!(read("before"), read("after"));
}

#[test]
fn what_is_typed_at_a_terminal_reaches_the_guest_and_ctrl_bracket_leaves() {
    let honeynet = Honeynet::new("");
    let mut first = Guest::create(&honeynet, "a", "");
    let mut guest = in_terminal(&honeynet);
    assert_eq!(guest.run("echo typed > /tmp/typed; cat /tmp/typed"), "typed");
    // What ends programs here is the guest's as well.
    guest.send("stty -isig -icanon; echo rea''dy; head -c 1 | od -An -tx1; stty isig icanon\n");
    guest.wait_for("ready");
    guest.send("\x03");
    guest.wait_for("03");
    // What follows Ctrl-] is not typed any more.
    guest.send(&format!("echo last > /tmp/typed\n{LEAVE}echo late > /tmp/typed\n"));
    check_left(&honeynet, guest);
    // The domain and its other console go on.
    first.wait_for("03");
    assert_eq!(first.run("cat /tmp/typed"), "last");
    assert_eq!(row_when(&honeynet, "a", |row| row.is_some()).unwrap()["domid"].as_u64(), Some(1));
}

#[test]
fn a_terminal_is_itself_again_when_the_domain_ends() {
    let honeynet = Honeynet::new("");
    drop(Guest::create(&honeynet, "a", ""));
    let guest = in_terminal(&honeynet);
    honeynet.run(&["destroy", "a"]).good();
    check_left(&honeynet, guest);
}
