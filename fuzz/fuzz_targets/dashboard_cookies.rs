//! Any cookie header has a token of ours in it, which then is 64 hexadecimal digits, or none.
#![no_main]

use dashboard::token_in_cookies;

libfuzzer_sys::fuzz_target!(|header: &str| {
    if let Some(token) = token_in_cookies(header, "honeynet_session") {
        assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(header.contains(token));
    }
});
