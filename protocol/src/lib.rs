//! What a clawgate gateway and its sensors agree on: frames, messages, pairing, sessions, readings.
//!
//! `docs/protocol.md` specifies the same byte by byte. The crate is `no_std`, takes no memory from an
//! allocator and does no I/O: bytes, the time (`now_ms`, milliseconds of any monotonic clock) and
//! randomness ([`Random`]) are inputs; bytes and events are outputs. `handle_*` takes input, `poll_*`
//! yields output, `into_*` consumes a state. Nothing a peer sends makes it panic.
//!
//! From the line inwards: [`frame`], [`ble`] and [`fragment`] carry a message, [`message`] is what stands in it,
//! [`pairing`] makes the key, [`session`] uses it, [`app`] is what a session carries, [`senml`] a reading.
//! [`sensor`] is a whole sensor over all of them.
#![no_std]
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::std_instead_of_core
    )
)]

#[cfg(test)]
extern crate std;

mod aead;
pub mod app;
pub mod ble;
pub mod cbor;
pub mod code;
pub mod cpace;
mod dh;
pub mod discovery;
pub mod elligator;
pub mod fragment;
pub mod frame;
pub mod id;
pub mod kdf;
mod kem;
pub mod keys;
pub mod message;
pub mod noise;
pub mod pairing;
pub mod record;
pub mod senml;
pub mod sensor;
pub mod session;

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// The longest message in bytes, its type byte included.
pub const MAX_MESSAGE: usize = 4096;

/// The length every receiver can take; a sensor states in `Ident` and M2 if it can take more.
pub const MIN_MESSAGE: usize = 256;

/// A cryptographically secure random source.
///
/// A sensor without one (and without a factory seed ratcheted in flash) must refuse to pair.
pub trait Random {
    /// Fills `bytes` with random bytes.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// Which kind of link carries the bytes; it is bound into every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// A serial line.
    Uart,
    /// Bluetooth Low Energy.
    Ble,
}

impl Transport {
    /// The name as it stands in the transcript: `uart` or `ble`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uart => "uart",
            Self::Ble => "ble",
        }
    }
}
