//! Noise_KKpsk0_25519_ChaChaPoly_SHA512 (the Noise Protocol Framework, revision 34): one round trip between
//! two ends that know each other's static keys and a pre-shared key. The gateway speaks first.

use core::fmt;

use sha2::{Digest, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::aead::{self, TAG_LEN};
use crate::dh;
use crate::kdf::{Hash, hmac};

const NAME: &[u8; 36] = b"Noise_KKpsk0_25519_ChaChaPoly_SHA512";

/// What a handshake message is longer than its payload: ephemeral and tag.
pub const OVERHEAD: usize = 32 + TAG_LEN;

/// Why a handshake message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoiseError {
    /// Not as long as it must be, or the buffer is not 48 bytes longer than the payload.
    Length,
    /// It did not authenticate: other keys, another prologue, or changed on its way.
    Unauthentic,
    /// A point of small order.
    WeakPoint,
}

impl fmt::Display for NoiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a handshake message has the wrong length: check the peer's firmware version",
            Self::Unauthentic => "a handshake message did not authenticate: other keys or changed on its way",
            Self::WeakPoint => "the peer sent a point of small order: it is broken or an attacker",
        })
    }
}

impl core::error::Error for NoiseError {}

impl From<dh::WeakPoint> for NoiseError {
    fn from(_: dh::WeakPoint) -> Self {
        Self::WeakPoint
    }
}

impl From<aead::Forged> for NoiseError {
    fn from(_: aead::Forged) -> Self {
        Self::Unauthentic
    }
}

/// What both ends know before.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// What the handshake is bound to.
    pub prologue: &'a [u8],
    /// The pre-shared key.
    pub psk: &'a [u8; 32],
    /// Our static secret.
    pub own_static: &'a [u8; 32],
    /// The peer's static public key.
    pub peer_static: &'a [u8; 32],
}

/// What a handshake yields.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TransportKeys {
    /// Encrypts what we send.
    pub send: [u8; 32],
    /// Decrypts what we receive.
    pub receive: [u8; 32],
    /// The handshake hash: names the session to both ends alone.
    pub hash: Hash,
}

/// Noise's SymmetricState; every message here uses each of its keys once, with nonce 0.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct Symmetric {
    chaining: Hash,
    hash: Hash,
    key: [u8; 32],
}

impl Symmetric {
    fn new(prologue: &[u8], gateway_static: &[u8; 32], sensor_static: &[u8; 32]) -> Self {
        let mut hash = [0; 64];
        if let Some(start) = hash.first_chunk_mut() {
            *start = *NAME;
        }
        let mut state = Self { chaining: hash, hash, key: [0; 32] };
        state.mix_hash(prologue);
        state.mix_hash(gateway_static);
        state.mix_hash(sensor_static);
        state
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = Sha512::new().chain_update(self.hash).chain_update(bytes).finalize().into();
    }

    fn mix_key(&mut self, input: &[u8; 32]) {
        let (first, second) = self.hkdf(input);
        self.chaining = *first;
        self.key = half(&second);
    }

    fn mix_key_and_hash(&mut self, input: &[u8; 32]) {
        let temp = hmac(&self.chaining, &[input]);
        let first = hmac(&temp, &[&[1]]);
        let second = hmac(&temp, &[&*first, &[2]]);
        let third = hmac(&temp, &[&*second, &[3]]);
        self.chaining = *first;
        self.mix_hash(&*second);
        self.key = half(&third);
    }

    fn hkdf(&self, input: &[u8]) -> (Zeroizing<Hash>, Zeroizing<Hash>) {
        let temp = hmac(&self.chaining, &[input]);
        let first = hmac(&temp, &[&[1]]);
        let second = hmac(&temp, &[&*first, &[2]]);
        (first, second)
    }

    /// The token `e` of a pattern with a pre-shared key.
    fn mix_ephemeral(&mut self, point: &[u8; 32]) {
        self.mix_hash(point);
        self.mix_key(point);
    }

    /// Mixes the results of both Diffie-Hellmans of a message.
    fn mix_dh(&mut self, pairs: [(&[u8; 32], &[u8; 32]); 2]) -> Result<(), NoiseError> {
        for (secret, point) in pairs {
            self.mix_key(&*dh::shared(secret, point)?);
        }
        Ok(())
    }

    /// Writes ephemeral, payload and tag into `out`, which is exactly as long.
    fn write(&mut self, point: &[u8; 32], payload: &[u8], out: &mut [u8]) -> Result<(), NoiseError> {
        let (head, rest) = out.split_first_chunk_mut::<32>().ok_or(NoiseError::Length)?;
        let (text, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(NoiseError::Length)?;
        if text.len() != payload.len() {
            return Err(NoiseError::Length);
        }
        *head = *point;
        text.copy_from_slice(payload);
        *tag = aead::seal(&self.key, 0, &self.hash, text)?;
        self.mix_hash(rest);
        Ok(())
    }

    /// Opens what follows the ephemeral into `payload`, which is exactly as long.
    fn read(&mut self, sealed: &[u8], payload: &mut [u8]) -> Result<(), NoiseError> {
        let (text, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(NoiseError::Length)?;
        if text.len() != payload.len() {
            return Err(NoiseError::Length);
        }
        payload.copy_from_slice(text);
        aead::open(&self.key, 0, &self.hash, payload, tag)?;
        self.mix_hash(sealed);
        Ok(())
    }

    fn split(&self) -> ([u8; 32], [u8; 32]) {
        let (first, second) = self.hkdf(&[]);
        (half(&first), half(&second))
    }
}

fn half(hash: &Hash) -> [u8; 32] {
    hash.first_chunk().copied().unwrap_or_default()
}

/// The gateway after its first message.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Initiator {
    state: Symmetric,
    ephemeral: [u8; 32],
    own_static: [u8; 32],
}

impl Initiator {
    /// Writes message 1 (`-> psk, e, es, ss`) into `out`, 48 bytes longer than `payload`. `ephemeral` is a
    /// fresh random secret.
    ///
    /// # Errors
    /// [`NoiseError::Length`] of `out`, [`NoiseError::WeakPoint`] of the peer's static.
    pub fn start(known: &Known<'_>, ephemeral: &[u8; 32], payload: &[u8], out: &mut [u8]) -> Result<Self, NoiseError> {
        let mut state = Symmetric::new(known.prologue, &dh::public(known.own_static), known.peer_static);
        let point = dh::public(ephemeral);
        state.mix_key_and_hash(known.psk);
        state.mix_ephemeral(&point);
        state.mix_dh([(ephemeral, known.peer_static), (known.own_static, known.peer_static)])?;
        state.write(&point, payload, out)?;
        Ok(Self { state, ephemeral: *ephemeral, own_static: *known.own_static })
    }

    /// Reads message 2 (`<- e, ee, se`), its payload into `payload`. A forged one changes nothing: the right
    /// one may still come.
    ///
    /// # Errors
    /// Any; see [`NoiseError`].
    pub fn finish(&self, message: &[u8], payload: &mut [u8]) -> Result<TransportKeys, NoiseError> {
        let mut state = self.state.clone();
        let (point, sealed) = message.split_first_chunk::<32>().ok_or(NoiseError::Length)?;
        state.mix_ephemeral(point);
        state.mix_dh([(&self.ephemeral, point), (&self.own_static, point)])?;
        state.read(sealed, payload)?;
        let (send, receive) = state.split();
        Ok(TransportKeys { send, receive, hash: state.hash })
    }
}

/// The sensor's whole part: reads message 1 (its payload into `payload`) and writes message 2 into `out`,
/// 48 bytes longer than `answer`. `ephemeral` is a fresh random secret.
///
/// # Errors
/// Any; see [`NoiseError`]. Nothing is to be sent then.
pub fn respond(
    known: &Known<'_>,
    ephemeral: &[u8; 32],
    message: &[u8],
    payload: &mut [u8],
    answer: &[u8],
    out: &mut [u8],
) -> Result<TransportKeys, NoiseError> {
    let mut state = Symmetric::new(known.prologue, known.peer_static, &dh::public(known.own_static));
    let (point, sealed) = message.split_first_chunk::<32>().ok_or(NoiseError::Length)?;
    state.mix_key_and_hash(known.psk);
    state.mix_ephemeral(point);
    state.mix_dh([(known.own_static, point), (known.own_static, known.peer_static)])?;
    state.read(sealed, payload)?;

    let own_point = dh::public(ephemeral);
    state.mix_ephemeral(&own_point);
    state.mix_dh([(ephemeral, point), (ephemeral, known.peer_static)])?;
    state.write(&own_point, answer, out)?;
    let (receive, send) = state.split();
    Ok(TransportKeys { send, receive, hash: state.hash })
}
