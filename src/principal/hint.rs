//! What a broker tells by itself on the topic of the gateway's alarms: mosquitto's plugin does, of a good token that was
//! shown from an address that it does not allow. It is nothing but a hint: nobody has signed it.

use serde::Deserialize;

use crate::http_client::plain;
use crate::ids::DeviceId;

/// A longer one is not read.
const MAX_BYTES: usize = 4096;

/// A token was shown from a wrong address, as the broker says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    /// Whose token it is; a device of this gateway or of none.
    pub(crate) device: DeviceId,
    /// The broker's own words, escaped and capped.
    pub(crate) words: String,
}

/// Its next step is not believed: a person would type it.
#[derive(Deserialize)]
struct Said {
    kind: String,
    by: String,
    subject: String,
    words: String,
}

impl Hint {
    /// `None` for what is no hint of a broker's: the gateway's own alarms say no `by`.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let said: Said = serde_json::from_slice(bytes).ok()?;
        if said.kind != "off_allow_list" || said.by != "broker" {
            return None;
        }
        let device = DeviceId::principal(&said.subject).ok()?;
        Some(Self { device, words: plain(&said.words) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said() -> Value {
        json!({ "kind": "off_allow_list", "by": "broker", "subject": "pump-3", "words": "a client at 192.0.2.1" })
    }

    fn read(said: &Value) -> Option<Hint> {
        Hint::read(said.to_string().as_bytes())
    }

    #[test]
    fn a_hint_has_the_brokers_words_without_control_characters_and_not_without_end() {
        let hint = read(&said()).unwrap();
        assert_eq!((hint.device.as_str(), hint.words.as_str()), ("pump-3", "a client at 192.0.2.1"));
        let mut long = said();
        long["words"] = json!(format!("\u{1b}[2J\n\u{202e}{}", "x".repeat(3000)));
        let words = read(&long).unwrap().words;
        assert!(words.starts_with("\\u{1b}[2J\\n\\u{202e}x") && words.len() < 1000, "{words}");
        assert_eq!(
            DeviceId::gateway(),
            read(&json!({ "subject": "_gateway", "by": "broker", "words": "",
            "kind": "off_allow_list", "next_step": "rm -rf /" }))
            .unwrap()
            .device
        );
    }

    #[test]
    fn what_is_no_hint_of_a_brokers_is_none() {
        for (key, value) in [
            ("kind", json!("quarantine")),
            ("by", Value::Null),
            ("by", json!("gateway")),
            ("subject", json!("../../pump-3")),
            ("subject", json!(["pump-3"])),
            ("words", json!({ "x": 1 })),
            ("words", json!("x".repeat(MAX_BYTES))),
        ] {
            let mut said = said();
            said[key] = value;
            assert_eq!(read(&said), None, "{said}");
        }
        for bytes in [&b""[..], b"\xff\xfe", b"[[[[[[[[", b"{\"kind\":\"off_allow_list\"}"] {
            assert_eq!(Hint::read(bytes), None);
        }
    }
}
