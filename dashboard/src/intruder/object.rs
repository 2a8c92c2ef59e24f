//! The object of one session: what an observer wrote into `STATE/sessions/ID.json`. A field that is missing or null is as one that says
//! nothing; one of the wrong kind makes the object damaged.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use jiff::Timestamp;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::file;
use super::name::SessionId;

/// Largest object, in bytes.
pub const OBJECT_BYTES_MAX: u64 = 16 << 20;
/// Entries of each list that are answered; a page cannot show more either.
const LIST_MAX: usize = 5000;

/// Why there is no object. Nothing of the file is in the sentence.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No file, or none that is one.
    #[error("there is no such session")]
    Missing,
    /// Too large.
    #[error("the object of session {id} is larger than 16 MiB")]
    TooLarge {
        /// Whose.
        id: SessionId,
    },
    /// It cannot be read.
    #[error("the object of session {id} cannot be read")]
    Read {
        /// Whose.
        id: SessionId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is none.
    #[error("the object of session {id} is damaged")]
    Damaged {
        /// Whose.
        id: SessionId,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
}

/// A session. Times are UTC; all text is foreign.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Session {
    #[serde(skip_deserializing)]
    pub id: String,
    pub domain: Option<String>,
    pub domid: Option<i64>,
    pub service: Option<String>,
    pub pid: Option<i64>,
    pub opened: Option<Timestamp>,
    pub closed: Option<Timestamp>,
    pub src_ip: Option<String>,
    pub src_port: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub logins: Vec<Login>,
    #[serde(deserialize_with = "nullable")]
    pub inputs: Vec<Input>,
    #[serde(deserialize_with = "nullable")]
    pub processes: Vec<Process>,
    #[serde(deserialize_with = "nullable")]
    pub files: Vec<FileChange>,
    #[serde(deserialize_with = "nullable")]
    pub connections: Vec<Connection>,
    #[serde(deserialize_with = "nullable")]
    pub samples: Vec<Sample>,
    #[serde(deserialize_with = "nullable")]
    pub tty: Vec<Tty>,
    pub truncated: Option<bool>,
}

/// A try to log in, with what was typed.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Login {
    pub time: Option<Timestamp>,
    pub service: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub method: Option<String>,
    pub success: Option<bool>,
}

/// A line typed at a terminal.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Input {
    pub time: Option<Timestamp>,
    pub tty: Option<i64>,
    pub text: Option<String>,
}

/// A program that was run. One that has not ended has no `ended`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Process {
    pub pid: Option<i64>,
    pub ppid: Option<i64>,
    pub uid: Option<i64>,
    pub exe: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub argv: Vec<String>,
    pub cwd: Option<String>,
    pub began: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub status: Option<i64>,
}

/// A file that was changed, renamed or removed.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct FileChange {
    pub time: Option<Timestamp>,
    pub pid: Option<i64>,
    pub exe: Option<String>,
    pub what: Option<String>,
    pub path: Option<String>,
    pub to: Option<String>,
}

/// A connection that a process made; `result` is the call's.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Connection {
    pub time: Option<Timestamp>,
    pub pid: Option<i64>,
    pub exe: Option<String>,
    pub address: Option<String>,
    pub port: Option<i64>,
    pub result: Option<i64>,
}

/// A file that was kept.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Sample {
    pub time: Option<Timestamp>,
    pub sha256: Option<String>,
    pub bytes: Option<i64>,
    pub path: Option<String>,
    pub how: Option<String>,
    pub truncated: Option<bool>,
}

/// A terminal and its cast.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Tty {
    pub name: Option<String>,
    pub bytes_shown: Option<i64>,
    pub bytes_typed: Option<i64>,
}

fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// The file of a session's object.
pub fn open(folder: &Path, id: SessionId) -> Result<(File, Metadata), ObjectError> {
    file::open(folder, &format!("{id}.json")).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ObjectError::Missing,
        _ => ObjectError::Read { id, source },
    })
}

/// The session in an opened file.
pub fn read(file: File, id: SessionId) -> Result<Session, ObjectError> {
    let mut bytes = Vec::new();
    // One more than may be, so that too much is seen.
    let length = file.take(OBJECT_BYTES_MAX + 1).read_to_end(&mut bytes);
    let length = length.map_err(|source| ObjectError::Read { id, source })?;
    if length as u64 > OBJECT_BYTES_MAX {
        return Err(ObjectError::TooLarge { id });
    }
    let parsed = serde_json::from_slice(&bytes);
    let mut session: Session = parsed.map_err(|source| ObjectError::Damaged { id, source })?;
    session.id = id.to_string();
    Ok(session)
}

/// The API's form: each list up to its limit, and `more` with how many were left out of which.
pub fn to_json(mut session: Session) -> Value {
    let more = json!({
        "logins": cut(&mut session.logins),
        "inputs": cut(&mut session.inputs),
        "processes": cut(&mut session.processes),
        "files": cut(&mut session.files),
        "connections": cut(&mut session.connections),
        "samples": cut(&mut session.samples),
        "tty": cut(&mut session.tty),
    });
    let mut value = json!(session);
    value["more"] = more;
    value["live"] = json!(session.closed.is_none());
    value
}

fn cut<T>(list: &mut Vec<T>) -> usize {
    let more = list.len().saturating_sub(LIST_MAX);
    list.truncate(LIST_MAX);
    more
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn parsed(text: &str) -> Result<Session, ObjectError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        read(file, SessionId::parse("65a1b2c300010001").unwrap())
    }

    #[test]
    fn what_is_missing_or_null_or_unknown_is_no_damage() {
        let texts = [
            "{}",
            r#"{"domain":null,"logins":null,"opened":null,"new":{"a":[1]}}"#,
            r#"{"processes":[{"argv":null},{}],"id":"../../etc/passwd"}"#,
        ];
        for text in texts {
            assert_eq!(parsed(text).unwrap().id, "65a1b2c300010001", "{text}");
        }
    }

    #[test]
    fn what_is_no_session_is_damaged_and_the_sentence_holds_nothing_of_it() {
        let deep = "[".repeat(100_000);
        let texts = [
            "",
            "[]x",
            "{",
            r#"{"logins":"<b>"}"#,
            r#"{"opened":"<b>"}"#,
            r#"{"processes":[{"pid":"<b>"}]}"#,
            &deep,
        ];
        for text in texts {
            let error = parsed(text).unwrap_err();
            assert_eq!(error.to_string(), "the object of session 65a1b2c300010001 is damaged", "{text:.40}");
        }
    }

    #[test]
    fn an_object_over_its_limit_is_refused() {
        let long = format!("{{\"domain\":\"{}\"}}", "x".repeat(OBJECT_BYTES_MAX as usize));
        assert!(matches!(parsed(&long), Err(ObjectError::TooLarge { .. })));
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let session =
            Session { inputs: (0..LIST_MAX + 7).map(|_| Input::default()).collect(), ..Session::default() };
        let value = to_json(session);
        assert_eq!(
            (value["inputs"].as_array().unwrap().len(), &value["more"]["inputs"]),
            (LIST_MAX, &json!(7))
        );
        assert_eq!((&value["more"]["files"], &value["live"]), (&json!(0), &json!(true)));
    }
}
