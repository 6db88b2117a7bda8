//! What a sensor shows of itself to whoever asks or listens: an Ident on a wire, an advertisement on the air. A paired
//! one shows no name, only an id that its gateway alone knows again.

use super::{Sensor, Storage};
use crate::ble::{self, Advertisement};
use crate::discovery::{self, Ident};
use crate::pairing::Suite;
use crate::{PROTOCOL_VERSION, Random};

/// Which key the last rotating id was of. Idents and advertisements take their turns apart: those of a gateway that
/// connects and asks could come in step, and each of them always show the same key.
#[derive(Default)]
pub(super) struct Turns {
    in_ident: bool,
    on_air: bool,
}

impl<P: Random + Storage, const EVENTS: usize> Sensor<'_, P, EVENTS> {
    /// What a sensor on BLE advertises now. A fresh rotating id each time: ask again whenever the window opens
    /// or closes, a connection ends, and when it is [`advertisement_life_ms`](Self::advertisement_life_ms) old.
    pub fn advertisement(&mut self, now_ms: u64) -> Advertisement {
        let window = self.window.shown(now_ms).map(|window| {
            let [.., id] = window.id.to_be_bytes();
            let (ceremony, seconds_left) = (window.ceremony, window.seconds_left);
            ble::Window { ceremony, short_id: ble::short_id(&self.options.device), id, seconds_left }
        });
        Advertisement { version: PROTOCOL_VERSION, rotating: self.rotating_id(|turns| &mut turns.on_air), window }
    }

    /// How old an advertisement becomes before it is made anew. Short while two keys are shown in turn, since the
    /// gateway that may know only one of them looks for the sensor.
    #[must_use]
    pub fn advertisement_life_ms(&self, now_ms: u64) -> u64 {
        let slots = &self.state.slots;
        if slots.current().is_some() && slots.pending().is_some() {
            5_000
        } else if self.window.shown(now_ms).is_some() {
            // It tells how long the window stays open.
            20_000
        } else {
            600_000
        }
    }

    /// Writes the Ident that a wire shows.
    pub(super) fn encode_ident(&mut self, out: &mut [u8], now_ms: u64) -> Option<usize> {
        let window = self.window.shown(now_ms);
        let visible = window.is_some() || !self.is_paired();
        let suites: &[u8] = if self.options.max_suite == Suite::One { &[1] } else { &[1, 2] };
        let ident = Ident {
            version: PROTOCOL_VERSION,
            paired: self.is_paired(),
            id: visible.then_some(self.options.device),
            rotating: self.rotating_id(|turns| &mut turns.in_ident),
            name: visible.then_some(self.options.name),
            suites,
            max_message: self.options.max_message,
            window,
        };
        ident.encode(out).ok()
    }

    /// Under the current key and under the pending one in turn, since the gateway may know only one of them.
    fn rotating_id(&mut self, turn: fn(&mut Turns) -> &mut bool) -> Option<[u8; 8]> {
        let turn = turn(&mut self.show_pending);
        *turn = !*turn;
        let show_pending = *turn;
        let (current, pending) = (self.state.slots.current(), self.state.slots.pending());
        let record = if show_pending { pending.or(current) } else { current.or(pending) }?;
        Some(discovery::new_rotating_id(&record.advertising_key, &mut self.platform))
    }
}
