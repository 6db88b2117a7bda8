//! What is known of the sensor at the other end of a link: its last Ident, checked and owned.

use std::time::Duration;

use tokio::time::Instant;

use clawgate_protocol::discovery::Ident;
use clawgate_protocol::id::Id;
use clawgate_protocol::message::MessageError;
use clawgate_protocol::pairing::{Ceremony, Suite};

use super::state::FoundState;
use crate::ids::DeviceId;

/// A sensor as it last stated itself.
#[derive(Debug, Clone)]
pub(crate) struct Sensor {
    pub(crate) version: u8,
    pub(crate) paired: bool,
    /// Its hardware id, while it shows it.
    pub(crate) id: Option<Id>,
    pub(crate) rotating: Option<[u8; 8]>,
    /// Escaped: it comes from the air.
    pub(crate) name: String,
    /// The highest suite we know of those it can do.
    pub(crate) suite: Option<Suite>,
    pub(crate) window: Option<Window>,
    /// Its name in the registry, if it is paired with us.
    pub(crate) device: Option<DeviceId>,
}

/// An open pairing window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) ceremony: Ceremony,
    pub(crate) id: u32,
    pub(crate) closes: Instant,
}

/// Windows are open for five minutes at most, whatever a sensor says.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);

impl Sensor {
    /// Reads an Ident.
    pub(crate) fn read(message: &[u8]) -> Result<Self, MessageError> {
        let ident = Ident::decode(message)?;
        let left = |seconds| Duration::from_secs(u64::from(seconds)).min(LONGEST_WINDOW);
        Ok(Self {
            version: ident.version,
            paired: ident.paired,
            id: ident.id,
            rotating: ident.rotating,
            name: printable(ident.name.unwrap_or_default()),
            suite: ident.suites.iter().filter_map(|&number| Suite::from_number(number)).max(),
            window: ident.window.map(|window| Window {
                ceremony: window.ceremony,
                id: window.id,
                closes: Instant::now() + left(window.seconds_left),
            }),
            device: None,
        })
    }

    /// Its window, while it is open.
    pub(crate) fn open_window(&self) -> Option<Window> {
        self.window.filter(|window| window.closes > Instant::now())
    }

    /// What may be done with it, for an operator.
    pub(crate) fn state(&self, connected: bool) -> FoundState {
        if let Some(window) = self.open_window() {
            let left = window.closes.saturating_duration_since(Instant::now());
            let label = window.ceremony == Ceremony::Label;
            return FoundState::Pairable { left, label, issued: !label };
        }
        match &self.device {
            Some(device) => FoundState::Paired { device: device.clone(), connected },
            None if self.paired => FoundState::PairedElsewhere,
            None => FoundState::Closed,
        }
    }
}

/// Text from a sensor as it may be shown: control characters, bidirectional marks and the like are escaped.
pub(crate) fn printable(text: &str) -> String {
    text.escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_move_the_cursor_or_turn_the_text() {
        let shown = printable("a\u{1b}[2Jb\rc\u{202e}d\u{7}\u{9b}ü");
        assert!(shown.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{shown:?}");
        assert!(shown.contains('ü'));
    }
}
