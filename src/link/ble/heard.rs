//! What an adapter hears: one entry a sensor, at most so many. Plain data; the time is an input.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use clawgate_protocol::ble::Advertisement;
use clawgate_protocol::pairing::Ceremony;

use crate::link::printable;

/// Sensors that one adapter remembers. Whoever fills the air with more is not listed.
pub(crate) const MOST_HEARD: usize = 256;

/// The longest name that is kept, in characters; BLE has room for 29 bytes.
const NAME: usize = 32;

/// A sensor as it was last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) advertisement: Advertisement,
    /// When its service data was news.
    pub(crate) told: Instant,
    /// When anything of it came last.
    pub(crate) last: Instant,
    /// Escaped: it comes from the air.
    pub(crate) name: String,
    pub(crate) rssi_dbm: Option<i16>,
    /// Connected, as BlueZ has it.
    pub(crate) connected: bool,
}

impl Heard {
    /// Its short id as people read it, while it shows one.
    pub(crate) fn short_id(&self) -> Option<String> {
        self.advertisement.window.map(|window| {
            let [a, b] = window.short_id;
            format!("{a:02x}{b:02x}")
        })
    }

    /// Whether the open window takes the label's code (or else an issued one), and how long it stays open.
    pub(crate) fn window(&self, now: Instant) -> Option<(bool, Duration)> {
        let window = self.advertisement.window?;
        let told = Duration::from_secs(window.seconds_left.into());
        let left = told.checked_sub(now.saturating_duration_since(self.told)).filter(|left| !left.is_zero())?;
        Some((window.ceremony == Ceremony::Label, left))
    }
}

/// News of one device from BlueZ; what is absent did not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Our service's data.
    pub(crate) service_data: Option<Vec<u8>>,
    /// Signal strength.
    pub(crate) rssi_dbm: Option<i16>,
    /// Its local name, as the air has it.
    pub(crate) name: Option<String>,
    /// Whether somebody is connected to it.
    pub(crate) connected: Option<bool>,
}

/// All that one adapter hears, by address.
#[derive(Debug, Default)]
pub(crate) struct Air {
    sensors: BTreeMap<String, Entry>,
    /// Sensors that found no room.
    pub(crate) turned_away: u64,
}

#[derive(Debug)]
struct Entry {
    heard: Heard,
    /// Ours, or in use: never makes room for a stranger.
    keep: bool,
}

impl Air {
    /// Takes news; whether anything a reader cares about changed.
    pub(crate) fn hear(&mut self, address: &str, news: News, now: Instant) -> bool {
        let advertisement = news.service_data.as_deref().and_then(|data| Advertisement::decode(data).ok());
        if !self.sensors.contains_key(address) {
            let Some(advertisement) = advertisement else { return false };
            if !self.make_room(&advertisement) {
                self.turned_away = self.turned_away.saturating_add(1);
                return false;
            }
            let heard =
                Heard { advertisement, told: now, last: now, name: String::new(), rssi_dbm: None, connected: false };
            self.sensors.insert(address.to_owned(), Entry { heard, keep: false });
        }
        let Some(Entry { heard, .. }) = self.sensors.get_mut(address) else { return false };
        let before = (heard.advertisement, heard.connected);
        heard.last = now;
        if let Some(advertisement) = advertisement {
            heard.advertisement = advertisement;
            heard.told = now;
        }
        if let Some(name) = news.name {
            let kept: String = name.chars().take(NAME).collect();
            heard.name = printable(&kept);
        }
        heard.rssi_dbm = news.rssi_dbm.or(heard.rssi_dbm);
        heard.connected = news.connected.unwrap_or(heard.connected);
        before != (heard.advertisement, heard.connected) || heard.told == now
    }

    /// BlueZ forgot the device.
    pub(crate) fn forget(&mut self, address: &str) {
        self.sensors.remove(address);
    }

    /// Those that are ours or in use.
    pub(crate) fn keep(&mut self, address: &str, keep: bool) {
        if let Some(entry) = self.sensors.get_mut(address) {
            entry.keep = keep;
        }
    }

    pub(crate) fn get(&self, address: &str) -> Option<&Heard> {
        self.sensors.get(address).map(|entry| &entry.heard)
    }

    /// All of it.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Heard)> {
        self.sensors.iter().map(|(address, entry)| (address.as_str(), &entry.heard))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.sensors.len()
    }

    /// A full table takes one that may be ours or may be paired in the place of the stranger that was silent
    /// longest; one that can only be listed is turned away.
    fn make_room(&mut self, newcomer: &Advertisement) -> bool {
        if self.sensors.len() < MOST_HEARD {
            return true;
        }
        if newcomer.rotating.is_none() && newcomer.window.is_none() {
            return false;
        }
        let strangers = self.sensors.iter().filter(|(_, entry)| !entry.keep && !entry.heard.connected);
        let Some(oldest) = strangers.min_by_key(|(_, entry)| entry.heard.last).map(|(address, _)| address.clone())
        else {
            return false;
        };
        self.sensors.remove(&oldest);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSED: [u8; 1] = [0x10];
    const PAIRED: [u8; 9] = [0x11, 1, 2, 3, 4, 5, 6, 7, 8];

    fn data(bytes: &[u8]) -> News {
        News { service_data: Some(bytes.to_vec()), ..News::default() }
    }

    #[test]
    fn a_thousand_advertisers_are_a_bounded_list_in_which_ours_stays_and_a_late_one_still_comes() {
        let (mut air, now) = (Air::default(), Instant::now());
        air.hear("ours", data(&PAIRED), now);
        air.keep("ours", true);
        for number in 0..1000 {
            let later = now + Duration::from_millis(number);
            air.hear(&format!("stranger {number}"), data(&PAIRED), later);
            assert!(air.len() <= MOST_HEARD);
        }
        assert!(air.get("ours").is_some());
        assert!(air.hear("late", data(&PAIRED), now + Duration::from_secs(2)));
        assert!(air.get("late").is_some() && air.len() == MOST_HEARD);
        assert!(!air.hear("of no use", data(&CLOSED), now), "who can only be listed displaces nobody");
        assert_eq!(air.turned_away, 1);
    }

    #[test]
    fn what_is_not_of_this_protocol_is_not_listed_and_does_not_change_what_is() {
        let (mut air, now) = (Air::default(), Instant::now());
        assert!(!air.hear("stranger", News { rssi_dbm: Some(-50), ..News::default() }, now));
        assert!(!air.hear("stranger", data(&[0; 13]), now));
        assert_eq!(air.len(), 0);
        assert!(air.hear("sensor", data(&PAIRED), now));
        air.hear("sensor", data(&[0xff, 0xfe]), now);
        assert!(air.get("sensor").unwrap().advertisement.rotating.is_some());
    }

    #[test]
    fn a_hostile_name_is_cut_and_escaped() {
        let (mut air, now) = (Air::default(), Instant::now());
        let name = format!("\u{1b}]0;owned\u{7}\r\n\u{202e}{}", "x".repeat(500));
        air.hear("sensor", News { name: Some(name), ..data(&CLOSED) }, now);
        let shown = &air.get("sensor").unwrap().name;
        assert!(shown.is_ascii() && !shown.chars().any(char::is_control) && shown.len() < 100, "{shown}");
    }

    #[test]
    fn a_window_runs_out_even_if_the_sensor_does_not_say_so() {
        let (mut air, now) = (Air::default(), Instant::now());
        air.hear("sensor", data(&[0x12, 0xc1, 0x80, 1, 30]), now);
        let heard = air.get("sensor").unwrap();
        assert_eq!(heard.window(now + Duration::from_secs(59)), Some((true, Duration::from_secs(1))));
        assert_eq!(heard.window(now + Duration::from_secs(60)), None);
        assert_eq!(heard.short_id().as_deref(), Some("c180"));
    }
}
