//! X25519 (RFC 7748) as every part here uses it: an all-zero result aborts.

use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret, X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

/// The result was all zero: the peer's point has small order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeakPoint;

/// The public key of a secret. By the same ladder as [`shared`]: arithmetic on another form of the curve would be
/// more code and more stack on a sensor, and no faster without tables.
pub(crate) fn public(secret: &[u8; 32]) -> [u8; 32] {
    x25519(*secret, X25519_BASEPOINT_BYTES)
}

/// The shared secret with a peer's point.
pub(crate) fn shared(secret: &[u8; 32], point: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, WeakPoint> {
    let shared = Zeroizing::new(StaticSecret::from(*secret).diffie_hellman(&PublicKey::from(*point)).to_bytes());
    if bool::from(shared.ct_eq(&[0; 32])) {
        return Err(WeakPoint);
    }
    Ok(shared)
}
