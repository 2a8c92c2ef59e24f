//! A login at an FTP server (RFC 959, sections 4.1.1 and 5.4): `USER` and `PASS` as they are read from the connection, 230 or 530 as the answer.
//! Not what goes through TLS.

use super::password::{Guess, TEXT_BYTES_MAX};

/// A line of the dialog that is kept; what is longer is no login.
const LINE_BYTES_MAX: usize = TEXT_BYTES_MAX + 8;

/// The dialog of one connection.
#[derive(Debug, Default)]
pub struct Dialog {
    heard: Vec<u8>,
    user: String,
    password: Option<String>,
}

impl Dialog {
    /// The server read this. `cut`: there was more than this of it.
    pub fn heard(&mut self, bytes: &[u8], cut: Cut) {
        for byte in bytes {
            match byte {
                b'\n' => self.command(),
                _ if self.heard.len() < LINE_BYTES_MAX => self.heard.push(*byte),
                _ => {}
            }
        }
        if cut == Cut::Yes {
            // Its end went with the rest; what was kept is a longer password than anybody has.
            self.command();
        }
    }

    fn command(&mut self) {
        let line = std::mem::take(&mut self.heard);
        let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
        let Some((verb, text)) = line[..end].split_at_checked(5) else { return };
        let text = || String::from_utf8_lossy(text).into_owned();
        match verb.to_ascii_uppercase().as_slice() {
            b"USER " => (self.user, self.password) = (text(), None),
            b"PASS " => self.password = Some(text()),
            _ => {}
        }
    }

    /// The server answered this; whether the login was right, if it was one.
    pub fn answered(&mut self, bytes: &[u8]) -> Option<Guess> {
        let right = match bytes.first_chunk::<3>()? {
            b"230" => true,
            b"530" | b"430" | b"421" => false,
            _ => return None,
        };
        let password = self.password.take()?;
        Some(Guess { user: self.user.clone(), password, right })
    }
}

/// Whether more went through a call than was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It did.
    Yes,
    /// It did not.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(user: &str, password: &str, right: bool) -> Option<Guess> {
        Some(Guess { user: user.to_owned(), password: password.to_owned(), right })
    }

    #[test]
    fn a_login_is_what_was_asked_and_what_was_answered() {
        let mut dialog = Dialog::default();
        assert_eq!(dialog.answered(b"220 (vsFTPd 3.0.3)\r\n"), None);
        dialog.heard(b"USER adm", Cut::No);
        dialog.heard(b"in\r\n", Cut::No);
        assert_eq!(dialog.answered(b"331 Please specify the password.\r\n"), None);
        dialog.heard(b"pass wr ong\r\n", Cut::No);
        assert_eq!(dialog.answered(b"530 Login incorrect.\r\n"), guess("admin", "wr ong", false));
        dialog.heard(b"USER root\r\nPASS \r\n", Cut::No);
        assert_eq!(dialog.answered(b"230-Welcome\r\n230 Login successful.\r\n"), guess("root", "", true));
        assert_eq!(dialog.answered(b"230 Login successful.\r\n"), None);
    }

    #[test]
    fn what_is_no_dialog_is_bounded_and_no_login() {
        let mut dialog = Dialog::default();
        for bytes in [&b""[..], b"\n\n\n", b"USER", b"USE\n", b"\xff\xfe\xfd\xfc\xfb\xfa\n"] {
            dialog.heard(bytes, Cut::No);
            assert_eq!(dialog.answered(bytes), None);
        }
        assert_eq!(dialog.answered(b"23"), None);
        assert_eq!(dialog.answered(b"230 ok"), None);
        dialog.heard(&vec![b'A'; 100_000], Cut::No);
        assert_eq!(dialog.heard.len(), LINE_BYTES_MAX);
        dialog.heard(b"\nPASS ", Cut::No);
        dialog.heard(&vec![b'x'; 100_000], Cut::Yes);
        let password = dialog.answered(b"530 no").unwrap().password;
        assert_eq!(password.len(), LINE_BYTES_MAX - 5);
    }
}
