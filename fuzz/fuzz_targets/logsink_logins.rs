//! Any line of any program is a login or none.
#![no_main]

use logsink::guest::logins;

libfuzzer_sys::fuzz_target!(|msg: &str| {
    for app_name in ["sshd", "login", "su", "sudo"] {
        if let Some(login) = logins::parse(app_name, msg) {
            assert!(msg.contains(&login.user));
        }
    }
});
