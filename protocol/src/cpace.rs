//! CPACE-X25519-SHA512, draft-irtf-cfrg-cpace-21: the PAKE under a pairing code. A is the sensor, B the
//! gateway (the initiator-responder form). Refuses points that give an all-zero result.

use core::fmt;

use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::dh;
use crate::elligator;
use crate::kdf::{Hash, LengthPrefix, update_lv};

const DSI: &[u8] = b"CPace255";
const DSI_ISK: &[u8] = b"CPace255_ISK";

/// SHA-512's block: the zero padding makes the code alone fill the first one.
const BLOCK: usize = 128;

/// The peer's share is a point of small order: it is broken or an attacker, the run must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeakShare;

impl fmt::Display for WeakShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer's share is a point of small order: it is broken or an attacker; end the run")
    }
}

impl core::error::Error for WeakShare {}

/// A share as it goes over the link, with what it is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    /// The point, Ya or Yb.
    pub point: &'a [u8; 32],
    /// The associated data, ADa or ADb.
    pub ad: &'a [u8],
}

/// The generator g of a code, a channel identifier (its parts one after the other) and a session id.
#[must_use]
pub fn generator(prs: &[u8], ci: &[&[u8]], sid: &[&[u8]]) -> [u8; 32] {
    let before = [
        LengthPrefix::of(DSI.len()).as_bytes().len(),
        DSI.len(),
        LengthPrefix::of(prs.len()).as_bytes().len(),
        prs.len(),
    ];
    let padding = before.iter().fold(BLOCK.saturating_sub(1), |left, used| left.saturating_sub(*used));
    let mut hash = Sha512::new();
    update_lv(&mut hash, &[DSI]);
    update_lv(&mut hash, &[prs]);
    update_lv(&mut hash, &[[0; BLOCK].get(..padding).unwrap_or_default()]);
    update_lv(&mut hash, ci);
    update_lv(&mut hash, sid);
    let digest: Zeroizing<Hash> = Zeroizing::new(hash.finalize().into());
    // The first half is always there; bit 255 is ignored by the map.
    elligator::map(digest.first_chunk().unwrap_or(&[0; 32]))
}

/// The share of a secret scalar: Y = X25519(y, g).
///
/// # Errors
/// [`WeakShare`] if the generator has small order, which no code is known to give.
pub fn share(secret: &[u8; 32], generator: &[u8; 32]) -> Result<[u8; 32], WeakShare> {
    dh::shared(secret, generator).map(|y| *y).map_err(|_| WeakShare)
}

/// K = X25519(y, Y) of our secret scalar and the peer's share.
///
/// # Errors
/// [`WeakShare`] if the result is all zero: the run must end.
pub fn shared_point(secret: &[u8; 32], peer: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, WeakShare> {
    dh::shared(secret, peer).map_err(|_| WeakShare)
}

/// ISK_IR: the intermediate session key over the session id, K and both shares, A's first.
#[must_use]
pub fn session_key(sid: &[&[u8]], k: &[u8; 32], a: Share<'_>, b: Share<'_>) -> Zeroizing<Hash> {
    let mut hash = Sha512::new();
    update_lv(&mut hash, &[DSI_ISK]);
    update_lv(&mut hash, sid);
    update_lv(&mut hash, &[k]);
    for share in [a, b] {
        update_lv(&mut hash, &[share.point]);
        update_lv(&mut hash, &[share.ad]);
    }
    Zeroizing::new(hash.finalize().into())
}
