//! Canonical JSON, in the manner of RFC 8785: sorted keys, no blanks, one line feed at the end. Integers only.

use serde::Serialize;
use serde_json::Value;

/// The canonical bytes of a value. Keys are sorted by their UTF-8 bytes, which for our ASCII keys is RFC 8785's order.
pub fn to_bytes(value: &impl Serialize) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("plain structures with string keys always serialise");
    let mut out = String::new();
    push(&mut out, &value);
    out.push('\n');
    out.into_bytes()
}

fn push(out: &mut String, value: &Value) {
    match value {
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_by_key(|(key, _)| key.as_bytes());
            push_all(out, '{', '}', members, |out, (key, value)| {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                push(out, value);
            });
        }
        Value::Array(items) => push_all(out, '[', ']', items, push),
        // Null, booleans, integers and strings have one form in serde_json.
        other => out.push_str(&other.to_string()),
    }
}

fn push_all<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    one: impl Fn(&mut String, T),
) {
    out.push(open);
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        one(out, item);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value: Value = serde_json::from_str(r#"{"b":[{"z":1,"a":"\n\""}],"a":null}"#).unwrap();
        assert_eq!(to_bytes(&value), b"{\"a\":null,\"b\":[{\"a\":\"\\n\\\"\",\"z\":1}]}\n");
    }
}
