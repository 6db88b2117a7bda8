//! Pairing: from a short code to a key that both ends have confirmed, as two machines without I/O.
//!
//! [`Gateway`] and [`Sensor`] take messages and the time and return a [`Step`](GatewayStep): what to send,
//! what to persist before going on, how the run ended. The rules they keep:
//!
//! - The code's holder confirms last: in `issued` the gateway, in `label` the sensor.
//! - An attempt is counted before it can be won ([`GatewayStep::CountAttempt`], [`SensorStep::CountAttempt`]).
//! - One M2 and one M3 a run; an identical retransmission gets the identical answer, anything else ends it.
//! - The new key is on disk as pending at the gateway before M5, at the sensor before M6.
//! - A run lasts at most [`RUN_LIMIT_MS`].
//!
//! The peer learns nothing of a failure but a refusal without a reason; [`Failure`] is for our own log.

mod gateway;
mod limit;
mod part;
mod schedule;
mod sensor;

use core::fmt;

use crate::message::pairing::SensorPart;

pub use gateway::{Gateway, GatewayOptions, GatewayStep};
pub use limit::{ENTERED_CODE_TAGS, EnteredCode, LabelBackoff};
pub use sensor::{Sensor, SensorOptions, SensorStep};

/// The longest a run may last.
pub const RUN_LIMIT_MS: u64 = 10_000;

/// How long the gateway waits for an answer before it sends the same message again.
pub const RETRANSMIT_MS: u64 = 1_000;

/// The symbols of a pairing code that enter the key exchange: 7, upper case, without the check symbol.
pub type Prs = [u8; 7];

/// Where the code comes from; the two are separated in the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ceremony {
    /// The gateway minted the code, a person enters it at the sensor.
    Issued,
    /// The code stands on the sensor, a person types it at the gateway.
    Label,
}

impl Ceremony {
    /// The name as it stands in the transcript: `issued` or `label`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Label => "label",
        }
    }

    /// The number in messages: 1 issued, 2 label.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Issued => 1,
            Self::Label => 2,
        }
    }

    /// The ceremony of a number in a message.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Issued),
            2 => Some(Self::Label),
            _ => None,
        }
    }
}

/// The algorithms of a pairing; a higher one is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Suite {
    /// CPACE-X25519-SHA512, X25519 statics, ChaCha20-Poly1305, HKDF-SHA512.
    One,
    /// Suite 1 with ML-KEM-768 beside it.
    Two,
}

impl Suite {
    /// The best one this build has.
    pub const BEST: Self = if cfg!(feature = "suite2") { Self::Two } else { Self::One };

    /// The numbers from `lowest` to `highest`, as M1 and `Ident` list them.
    #[must_use]
    pub const fn range(lowest: Self, highest: Self) -> &'static [u8] {
        match (lowest, highest) {
            (Self::One, Self::One) => &[1],
            (Self::One, Self::Two) => &[1, 2],
            (Self::Two, Self::Two) => &[2],
            (Self::Two, Self::One) => &[],
        }
    }

    /// The number in messages.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    /// The suite of a number in a message.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }
}

/// What the sensor says of itself inside M4's encrypted part; the gateway learns it only from a sensor
/// that knew the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Profile<'a> {
    /// What it measures, `name:unit` separated by commas, such as `temperature:Cel,humidity:%RH`.
    pub capabilities: &'a str,
    /// The firmware's version.
    pub firmware: &'a str,
    /// A device certificate, opaque here.
    pub certificate: Option<&'a [u8]>,
}

impl<'a> SensorPart<'a> {
    /// What the sensor says of itself.
    pub(crate) const fn profile(&self) -> Profile<'a> {
        Profile { capabilities: self.capabilities, firmware: self.firmware, certificate: self.certificate }
    }
}

/// Why a run ended without a pairing. For our own log and operator, never for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// A message of the peer could not be read, or was none that a run has here.
    Malformed,
    /// A second, different M1, M2 or M3 came in one run: somebody else speaks on this link.
    SecondMessage,
    /// The peer speaks another protocol version.
    Version,
    /// No suite in common, or one below our policy.
    Suite,
    /// The ceremony is not the one this window was opened for.
    Ceremony,
    /// Another device answered than the one that was picked.
    WrongDevice,
    /// What must be sent is longer than the peer takes.
    PeerTooSmall,
    /// A point of small order: the peer is broken or an attacker.
    WeakPoint,
    /// The confirmation tag is wrong: the codes differ, or somebody stands between.
    WrongCode,
    /// After a right tag the rest did not authenticate: somebody changed the message, or the peer is broken.
    Unauthentic,
    /// The peer's static key is our own.
    OwnKey,
    /// The peer refused; it does not say why.
    Refused,
    /// The run took longer than [`RUN_LIMIT_MS`].
    TimedOut,
    /// A value of ours does not fit into a message.
    Unencodable,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the peer sent a message that cannot be read: check its firmware version",
            Self::SecondMessage => {
                "a second, different message came in one run: another gateway speaks on this link; try again"
            }
            Self::Version => "the peer speaks another protocol version: update it or this gateway",
            Self::Suite => "the peer has no suite that policy allows: update it or lower min_suite",
            Self::Ceremony => {
                "the pairing window is open for the other ceremony: use `--issue` or the label's code accordingly"
            }
            Self::WrongDevice => "another device answered than the one picked: scan again",
            Self::PeerTooSmall => "the sensor cannot take a message of this length: pair it with a smaller suite",
            Self::WeakPoint => "the peer sent a key of small order: it is broken or an attacker; do not retry unseen",
            Self::WrongCode => "the code does not match: check it and try again",
            Self::Unauthentic => "a message was changed on its way or the peer is broken: try again",
            Self::OwnKey => "the peer presented our own key: it was cloned from this one or reflects our messages",
            Self::Refused => "the peer refused: its window may be closed or the code wrong",
            Self::TimedOut => "the peer did not answer in time: bring it nearer or check the line, then try again",
            Self::Unencodable => "an id, capability or config of ours is too long for a message: shorten it",
        })
    }
}

impl core::error::Error for Failure {}

impl Failure {
    /// Whether the peer gets a `Refuse`: not if it refused itself or is not there.
    const fn is_told(self) -> bool {
        !matches!(self, Self::Refused | Self::TimedOut)
    }
}
