//! What came of a run, counted from the sensors' own logs and the subscriber's log, and from nothing that the
//! daemon says of itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::received::Received;

/// The last line of a run under `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Sensors that say they were paired.
    pub paired: u64,
    /// Distinct readings that the sensors made.
    pub sent: u64,
    /// Of these, the ones whose safety was acknowledged to their sensor.
    pub acknowledged: u64,
    /// Of these, the ones that the subscriber got, each counted once.
    pub received: u64,
    /// Acknowledged and not received.
    pub lost: u64,
    /// Deliveries of a reading beyond its first.
    pub duplicates: u64,
    /// Tokens that took the place of another, by their ids: the devices' and the subscriber's.
    pub tokens_refreshed: u64,
}

/// One sensor, as its log has it.
#[derive(Debug, Default)]
pub(super) struct SensorLog {
    is_paired: bool,
    /// Sequence numbers by `pairing.epoch`.
    readings: BTreeMap<String, BTreeSet<u64>>,
    /// The highest safe sequence number by epoch.
    safe: HashMap<String, u64>,
    dropped: HashSet<(String, u64)>,
}

/// A line of a sensor's log; what else it says is of no interest here.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum SensorLine {
    Reading {
        id: String,
    },
    Ack {
        epoch: String,
        safe: u64,
    },
    Dropped {
        epoch: String,
        from: u64,
        to: u64,
    },
    Note {
        text: String,
    },
    #[serde(other)]
    Other,
}

impl SensorLog {
    /// Reads a log as it stands; a last line that is still being written is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(SensorLine::Reading { id }) => {
                    if let Some((name, Ok(seq))) = id.rsplit_once('.').map(|(name, seq)| (name, seq.parse())) {
                        log.readings.entry(name.to_owned()).or_default().insert(seq);
                    }
                }
                Ok(SensorLine::Ack { epoch, safe }) => {
                    let highest = log.safe.entry(epoch).or_default();
                    *highest = safe.max(*highest);
                }
                Ok(SensorLine::Dropped { epoch, from, to }) => {
                    log.dropped.extend((from..=to).take(1 << 20).map(|seq| (epoch.clone(), seq)));
                }
                Ok(SensorLine::Note { text }) => log.is_paired |= text.starts_with("paired with "),
                Ok(SensorLine::Other) | Err(_) => {}
            }
        }
        log
    }

    /// Whether every reading is acknowledged.
    pub(super) fn is_drained(&self) -> bool {
        self.names().all(|(_, acknowledged)| acknowledged)
    }

    /// The ids of all readings, and whether each was acknowledged.
    fn names(&self) -> impl Iterator<Item = (String, bool)> + '_ {
        self.readings.iter().flat_map(move |(name, seqs)| {
            let epoch = name.rsplit_once('.').map_or("", |(_, epoch)| epoch);
            let safe = self.safe.get(epoch).copied().unwrap_or(0);
            seqs.iter().map(move |seq| {
                (format!("{name}.{seq}"), *seq <= safe && !self.dropped.contains(&(epoch.to_owned(), *seq)))
            })
        })
    }
}

/// Token ids that were seen, by whose they are.
#[derive(Debug, Default)]
pub(super) struct Tokens(BTreeMap<String, BTreeSet<String>>);

impl Tokens {
    /// One was seen.
    pub(super) fn saw(&mut self, owner: &str, token_id: &str) {
        self.0.entry(owner.to_owned()).or_default().insert(token_id.to_owned());
    }

    /// How many took the place of another.
    pub(super) fn refreshed(&self) -> u64 {
        self.0.values().map(|ids| count(ids.len().saturating_sub(1))).sum()
    }
}

/// Compares what the sensors made with what the subscriber got, reading by reading.
pub(super) fn tally(sensors: &[SensorLog], received: &Received, tokens: &Tokens) -> Tally {
    let mut tally = Tally { tokens_refreshed: tokens.refreshed(), ..Tally::default() };
    for sensor in sensors {
        tally.paired += u64::from(sensor.is_paired);
        for (id, is_acknowledged) in sensor.names() {
            let deliveries = received.deliveries(&id);
            tally.sent += 1;
            tally.acknowledged += u64::from(is_acknowledged);
            tally.received += u64::from(deliveries > 0);
            tally.lost += u64::from(is_acknowledged && deliveries == 0);
            tally.duplicates += deliveries.saturating_sub(1);
        }
    }
    tally
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENSOR: &str = r#"{"at_us":1,"event":"start","device":"sim-1","epoch":"00000000000000e1"}
{"at_us":1,"event":"note","text":"paired with demo"}
{"at_us":2,"event":"reading","id":"p1.00000000000000e1.1"}
{"at_us":2,"event":"reading","id":"p1.00000000000000e1.2"}
{"at_us":2,"event":"reading","id":"p1.00000000000000e1.3"}
{"at_us":2,"event":"reading","id":"p1.00000000000000e1.4"}
{"at_us":3,"event":"ack","epoch":"00000000000000e1","safe":3}
{"at_us":3,"event":"dropped","epoch":"00000000000000e1","from":2,"to":2}
{"at_us":4,"event":"read"#;

    #[test]
    fn a_reading_counts_once_by_its_name() {
        let mut received = Received::default();
        for id in ["p1.00000000000000e1.1", "p1.00000000000000e1.1", "p1.00000000000000e1.4", "somebody.else.1"] {
            received.add(&format!(r#"{{"event":"reading","id":"{id}","device":"demo-1","fields":[]}}"#));
        }
        let mut tokens = Tokens::default();
        for (owner, id) in [("demo-1", "a"), ("demo-1", "b"), ("demo-1", "b"), ("viewer", "c")] {
            tokens.saw(owner, id);
        }
        let expected =
            Tally { paired: 1, sent: 4, acknowledged: 2, received: 2, lost: 1, duplicates: 1, tokens_refreshed: 1 };
        assert_eq!(tally(&[SensorLog::parse(SENSOR)], &received, &tokens), expected);
    }

    #[test]
    fn a_sensor_is_drained_when_its_last_reading_is_acknowledged() {
        assert!(!SensorLog::parse(SENSOR).is_drained());
        let rest = r#"
{"at_us":5,"event":"ack","epoch":"00000000000000e1","safe":4}"#;
        let whole = SENSOR.replace(r#""event":"dropped""#, r#""event":"note""#) + rest;
        assert!(SensorLog::parse(&whole).is_drained());
    }
}
