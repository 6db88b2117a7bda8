//! What the sensor tells its firmware.

use heapless::Vec;

use crate::app::Gap;
use crate::id::Id;
use crate::pairing::{Ceremony, Failure};

/// Something the caller may want to show, keep or do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Blink for so many seconds.
    Blink {
        /// For how long.
        seconds: u16,
    },
    /// The pairing window opened.
    WindowOpened(Ceremony),
    /// The pairing window closed.
    WindowClosed,
    /// A new key is stored and M6 goes out. The gateway's settings are opaque here.
    Paired {
        /// The gateway's id.
        gateway: Id,
        /// At most 64 bytes.
        config: Vec<u8, 64>,
    },
    /// A run ended without a pairing.
    PairingFailed(Failure),
    /// The gateway proved the new key in a session: the old one is gone.
    KeyProven {
        /// Which pairing.
        pairing_id: [u8; 8],
    },
    /// A session began.
    SessionOpened,
    /// The gateway said that the session ends.
    SessionClosed,
    /// The gateway unpaired this sensor: all keys are erased.
    Unpaired,
    /// The clock was set.
    TimeSet,
    /// Readings up to this one are safe and forgotten here.
    Safe {
        /// Their epoch.
        epoch: u64,
        /// The highest one.
        seq: u64,
    },
    /// The storage failed; what needed it was not done.
    StorageFailed,
}

/// The name of a reading, together with the pairing's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The run of numbers since this start.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// The readings that were dropped to make room, if any.
    pub dropped: Option<Gap>,
}
