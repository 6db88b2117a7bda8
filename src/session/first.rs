//! The first reading of a freshly paired sensor, in a few words for the person who stands beside it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use clawgate_protocol::senml::{Number, Records, Value};

use crate::ids::PairingId;
use crate::link::printable;

/// Longest text of a reading that is shown, in characters.
const MAX_TEXT: usize = 32;

/// SenML's unit of what has none.
const RATIO: &str = "/";

/// Who waits for a first reading. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct FirstReadings(Arc<Mutex<HashMap<PairingId, oneshot::Sender<Arrived>>>>);

/// A first reading, as it was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// On the boot clock.
    pub(crate) at: Duration,
    /// `21.5 Cel`; nothing where it has no value that can be shown.
    pub(crate) summary: Option<String>,
}

impl FirstReadings {
    /// From now on somebody waits for the next reading of this pairing.
    pub(crate) fn expect(&self, pairing: PairingId) -> oneshot::Receiver<Arrived> {
        let (told, arrives) = oneshot::channel();
        let mut waiting = self.lock();
        // Whoever gave up leaves nothing behind.
        waiting.retain(|_, told| !told.is_closed());
        waiting.insert(pairing, told);
        arrives
    }

    /// A reading was taken in; whoever waits for it is told.
    pub(super) fn came(&self, pairing: PairingId, pack: &[u8], at: Duration) {
        let told = self.lock().remove(&pairing);
        if let Some(told) = told {
            // Who went away meanwhile is not told.
            let _ = told.send(Arrived { at, summary: summary(pack) });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PairingId, oneshot::Sender<Arrived>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first value of a SenML pack with its unit, and how many more there are: `21.5 Cel, 2 more`.
fn summary(pack: &[u8]) -> Option<String> {
    let (mut base_unit, mut base_value) = (None, 0.0);
    let (mut first, mut more) = (None, 0_usize);
    for record in Records::new(pack).ok()? {
        let record = record.ok()?;
        base_unit = record.base_unit.or(base_unit);
        base_value = record.base_value.map_or(base_value, Number::as_f64);
        let Some(value) = record.value else { continue };
        if first.is_some() {
            more += 1;
            continue;
        }
        let value = match value {
            Value::Number(number) if base_value == 0.0 => shown(number),
            Value::Number(number) => shown(Number::Float(base_value + number.as_f64())),
            Value::Bool(value) => value.to_string(),
            Value::Text(text) => format!("{:?}", cut(text)),
            Value::Data(data) => format!("{} bytes", data.len()),
        };
        let unit = record.unit.or(base_unit).filter(|unit| !unit.is_empty() && *unit != RATIO);
        first = Some(match (unit, record.name) {
            (Some(unit), _) => format!("{value} {}", cut(unit)),
            // A number alone says nothing.
            (None, Some(name)) => format!("{} {value}", cut(name)),
            (None, None) => value,
        });
    }
    let first = first?;
    Some(if more == 0 { first } else { format!("{first}, {more} more") })
}

/// As many digits as a person reads.
fn shown(number: Number) -> String {
    match number {
        Number::Integer(value) => value.to_string(),
        Number::Float(value) if value.abs() < 1e9 => ((value * 1e6).round() / 1e6).to_string(),
        Number::Float(value) => format!("{value:e}"),
    }
}

/// Text of a sensor as it may be shown.
fn cut(text: &str) -> String {
    printable(&text.chars().take(MAX_TEXT).collect::<String>())
}

#[cfg(test)]
mod tests {
    use clawgate_protocol::senml::{Record, encode};

    use super::*;

    fn of(records: &[Record<'_>]) -> Option<String> {
        let mut pack = [0; 512];
        let length = encode(records, &mut pack).unwrap();
        summary(&pack[..length])
    }

    #[test]
    fn a_reading_is_told_by_its_first_value_and_unit() {
        assert_eq!(of(&[Record::number("temperature", "Cel", 21.5)]).unwrap(), "21.5 Cel");
        let pack = [Record::number("temperature", "Cel", 21.0), Record::number("humidity", "%RH", 40.0)];
        assert_eq!(of(&pack).unwrap(), "21 Cel, 1 more");
        let door = Record { name: Some("door"), value: Some(Value::Bool(true)), ..Record::default() };
        assert_eq!(of(&[door]).unwrap(), "door true");
        assert_eq!(of(&[Record::number("load", "/", 0.25)]).unwrap(), "load 0.25");
    }

    #[test]
    fn base_unit_and_base_value_count() {
        let base = Record { base_unit: Some("Cel"), base_value: Some(Number::Float(20.1)), ..Record::default() };
        let value = Record { value: Some(Value::Number(Number::Float(1.2))), ..Record::default() };
        assert_eq!(of(&[base, value]).unwrap(), "21.3 Cel");
    }

    #[test]
    fn what_cannot_be_shown_is_not_made_up() {
        assert_eq!(summary(b"no SenML"), None);
        assert_eq!(of(&[Record { name: Some("n"), ..Record::default() }]), None);
        let hostile = Record { value: Some(Value::Text("a\u{1b}[2J\u{202e}")), ..Record::default() };
        assert!(!of(&[hostile]).unwrap().chars().any(|c| c.is_control() || c == '\u{202e}'));
    }

    #[test]
    fn the_first_reading_is_told_once_and_nobody_waits_in_vain_for_ever() {
        let firsts = FirstReadings::default();
        let pairing = PairingId([7; 8]);
        drop(firsts.expect(PairingId([8; 8])));
        let mut arrives = firsts.expect(pairing);
        assert_eq!(firsts.lock().len(), 1);
        firsts.came(PairingId([9; 8]), b"", Duration::ZERO);
        assert!(arrives.try_recv().is_err());
        firsts.came(pairing, b"", Duration::from_secs(3));
        firsts.came(pairing, b"", Duration::from_secs(4));
        assert_eq!(arrives.try_recv(), Ok(Arrived { at: Duration::from_secs(3), summary: None }));
        assert!(firsts.lock().is_empty());
    }
}
