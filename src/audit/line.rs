//! One line of the log: a JSON object in ASCII, with the hash of the line before it and, as its last field, its
//! own: the RFC 6962 leaf hash of the object without that field.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::digest::{Digest, hex, leaf};
use super::{Actor, Event, Outcome};

/// Longest subject and reason that are kept, in characters; longer ones come from a peer or a mistake.
const LONGEST_TEXT: usize = 512;
/// Longest details that are kept, in bytes as they stand in the line: with the longest texts they stay below the longest
/// line that is read.
const LONGEST_DETAILS: usize = 40 << 10;
/// Stands before the line's own hash.
const MARK: &str = ",\"hash\":\"";

/// One audited event as it stands in the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 0, without holes.
    pub seq: u64,
    /// Wall time, RFC 3339 in UTC.
    pub time: String,
    /// Milliseconds since the machine started; goes on when somebody turns the clock.
    pub boot_ms: u64,
    /// Which start of the machine: 32 hexadecimal digits, empty where the system does not say.
    #[serde(default)]
    pub boot_id: String,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: String,
    /// To what.
    pub subject: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub reason: Option<String>,
    /// What else a reader needs.
    pub details: Value,
    /// The hash of the line before; zeros before the first.
    pub prev: Digest,
}

/// The times of one line.
#[derive(Debug, Default)]
pub(super) struct When {
    pub(super) wall_ms: i64,
    pub(super) boot_ms: u64,
    pub(super) boot_id: String,
}

impl Entry {
    /// The entry of `event` as the line `seq`, after the line with the hash `prev`.
    pub(super) fn new(seq: u64, prev: Digest, at: &When, event: Event) -> Self {
        let details = match ascii(&event.details.to_string()).len() {
            long if long > LONGEST_DETAILS => json!({ "omitted_bytes": long }),
            _ => event.details,
        };
        Self {
            seq,
            time: Timestamp::from_millisecond(at.wall_ms).unwrap_or_default().to_string(),
            boot_ms: at.boot_ms,
            boot_id: at.boot_id.clone(),
            actor: event.actor,
            action: event.action.as_str().to_owned(),
            subject: event.subject.chars().take(LONGEST_TEXT).collect(),
            outcome: event.outcome,
            reason: event.reason.map(|reason| reason.chars().take(LONGEST_TEXT).collect()),
            details,
            prev,
        }
    }

    /// Its wall time in milliseconds since 1970.
    pub(super) fn wall_ms(&self) -> Option<i64> {
        self.time.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
    }

    /// The line with its line feed, and its hash.
    pub(super) fn to_line(&self) -> (String, Digest) {
        let body = ascii(&json_in_order(self));
        let hash = leaf(body.as_bytes());
        let open = body.strip_suffix('}').unwrap_or(&body);
        (format!("{open}{MARK}{hash}\"}}\n"), hash)
    }
}

/// The entry of a line without its line feed, and its hash; none if it is no line of ours or was altered.
pub(super) fn parse(line: &[u8]) -> Option<(Entry, Digest)> {
    let line = std::str::from_utf8(line).ok()?;
    let (open, tail) = line.rsplit_once(MARK)?;
    let stated: Digest = tail.strip_suffix("\"}")?.parse().ok()?;
    let body = format!("{open}}}");
    let entry: Entry = serde_json::from_str(&body).ok()?;
    (leaf(body.as_bytes()) == stated).then_some((entry, stated))
}

/// JSON with the fields in the order of the struct; a `Value` would sort them.
fn json_in_order(entry: &Entry) -> String {
    // An entry has string keys only, so this cannot fail; an empty line would be found by `verify`.
    serde_json::to_string(entry).unwrap_or_default()
}

/// Writes everything that a terminal could take for a command as `\u` escapes: controls, also those of 8 bits,
/// and marks that turn the direction of text. serde_json has escaped line feed, ESC and the like already.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, ' '..='~') {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.push_str("\\u");
                out.push_str(&hex(&unit.to_be_bytes()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Action;

    fn entry(subject: &str) -> Entry {
        let at = When { wall_ms: 1_700_000_000_123, boot_ms: 5, boot_id: "0".repeat(32) };
        Entry::new(3, Digest([7; 32]), &at, Event::done(Actor::Daemon, Action::AlarmRaise, subject))
    }

    #[test]
    fn a_line_reads_back_as_it_was() {
        let (line, hash) = entry("pump-3").to_line();
        let (read, stated) = parse(line.strip_suffix('\n').unwrap().as_bytes()).unwrap();
        assert_eq!((read.seq, read.time.as_str(), stated), (3, "2023-11-14T22:13:20.123Z", hash));
    }

    #[test]
    fn a_line_from_before_boot_ids_were_written_still_reads() {
        let (line, _) = entry("pump-3").to_line();
        let (open, _) = line.rsplit_once(MARK).unwrap();
        let old = open.replace(&format!(",\"boot_id\":\"{}\"", "0".repeat(32)), "");
        assert_ne!(old, open);
        let line = format!("{old}{MARK}{}\"}}", leaf(format!("{old}}}").as_bytes()));
        assert_eq!(parse(line.as_bytes()).unwrap().0.boot_id, "");
    }

    #[test]
    fn no_field_can_end_its_line_or_reach_a_terminal() {
        let nasty = "a\n{\"seq\":4}\r\u{1b}[2J\u{9b}31m\u{202e}\u{7f}\u{2028}\",\"hash\":\"0\"}ä😀";
        let (line, _) = entry(nasty).to_line();
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.trim_end().bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
        assert_eq!(parse(line.trim_end().as_bytes()).unwrap().0.subject, nasty);
    }

    #[test]
    fn any_changed_byte_is_found() {
        let (line, _) = entry("pump-3").to_line();
        let line = line.trim_end().as_bytes();
        for at in 0..line.len() {
            let mut changed = line.to_vec();
            changed[at] ^= 1;
            assert!(parse(&changed).is_none(), "byte {at} of {}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn long_fields_are_cut() {
        let mut event = Event::done(Actor::Daemon, Action::AlarmRaise, "x".repeat(10_000)).because("y".repeat(10_000));
        event.details = json!({ "z": "\u{1f600}".repeat(4_000) });
        let (line, _) = Entry::new(0, Digest::default(), &When::default(), event).to_line();
        assert!(line.len() < 2000, "{}", line.len());
    }
}
