//! The body of one row: many entries of one epoch, written small, with a checksum.
//!
//! ```text
//! body  = checksum(8) entry*            checksum: SHA-256 over epoch, first seq and the entries, first 8 bytes
//! entry = flags(1) [span] len content   flags: bit 0 gap, bit 1 capture time mapped by the gateway
//! ```
//! `span` (gaps only: `to` - `seq`) and `len` are LEB128. A reading accounts for one seq, a gap for its span,
//! so seqs follow from the row's first one.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::entry::{Capture, Kind};
use super::parts::Entry;

const CHECKSUM: usize = 8;
const GAP: u8 = 1;
const MAPPED: u8 = 2;

/// Why a body was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it ends within an entry")]
    Truncated,
    #[error("it holds another number of entries than the row says")]
    Count,
}

/// Writes the entries of one row.
pub(super) fn encode(epoch: u64, first_seq: u64, entries: &[Entry]) -> Vec<u8> {
    let size: usize = entries.iter().map(|entry| entry.content.len() + 6).sum();
    let mut body = Vec::with_capacity(CHECKSUM + size);
    body.extend_from_slice(&[0; CHECKSUM]);
    for entry in entries {
        let mapped = if entry.captured == Capture::Mapped { MAPPED } else { 0 };
        match entry.kind {
            Kind::Telemetry => body.push(mapped),
            Kind::Gap { to } => {
                body.push(mapped | GAP);
                put_varint(&mut body, to.saturating_sub(entry.seq));
            }
        }
        put_varint(&mut body, entry.content.len() as u64);
        body.extend_from_slice(&entry.content);
    }
    let sum = checksum(epoch, first_seq, body.get(CHECKSUM..).unwrap_or_default());
    if let Some(slot) = body.first_chunk_mut::<CHECKSUM>() {
        *slot = sum;
    }
    body
}

/// Reads the entries of row `row`.
pub(super) fn decode(row: i64, epoch: u64, first_seq: u64, count: u32, body: &Bytes) -> Result<Vec<Entry>, ChunkError> {
    let sum = body.first_chunk::<CHECKSUM>().ok_or(ChunkError::Truncated)?;
    let mut rest = body.slice(CHECKSUM..);
    if checksum(epoch, first_seq, &rest) != *sum {
        return Err(ChunkError::Checksum);
    }
    let mut entries = Vec::with_capacity(count.min(4096) as usize);
    let mut seq = first_seq;
    while !rest.is_empty() {
        let flags = rest.split_to(1)[0];
        let kind = if flags & GAP == 0 {
            Kind::Telemetry
        } else {
            Kind::Gap { to: seq.saturating_add(take_varint(&mut rest)?) }
        };
        let len = usize::try_from(take_varint(&mut rest)?).map_err(|_| ChunkError::Truncated)?;
        if len > rest.len() {
            return Err(ChunkError::Truncated);
        }
        let captured = if flags & MAPPED == 0 { Capture::Exact } else { Capture::Mapped };
        let entry = Entry::from_disk(row, epoch, seq, kind, captured, rest.split_to(len));
        seq = entry.last_seq().saturating_add(1);
        entries.push(entry);
    }
    if entries.len() == count as usize { Ok(entries) } else { Err(ChunkError::Count) }
}

fn checksum(epoch: u64, first_seq: u64, entries: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    hash.update(epoch.to_be_bytes());
    hash.update(first_seq.to_be_bytes());
    hash.update(entries);
    let digest = hash.finalize();
    digest.first_chunk::<CHECKSUM>().copied().unwrap_or_default()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn take_varint(from: &mut Bytes) -> Result<u64, ChunkError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if from.is_empty() {
            return Err(ChunkError::Truncated);
        }
        let byte = from.split_to(1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ChunkError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        vec![
            Entry::from_disk(7, 9, 5, Kind::Telemetry, Capture::Exact, Bytes::from_static(b"one")),
            Entry::from_disk(7, 9, 6, Kind::Gap { to: 300 }, Capture::Exact, Bytes::from_static(b"memory full")),
            Entry::from_disk(7, 9, 301, Kind::Telemetry, Capture::Mapped, Bytes::from(vec![7; 500])),
        ]
    }

    #[test]
    fn what_is_written_is_read_back_with_its_seqs() {
        let body = Bytes::from(encode(9, 5, &entries()));
        let read = decode(7, 9, 5, 3, &body).unwrap();
        for (read, written) in read.iter().zip(entries()) {
            assert_eq!(
                (read.seq, read.kind, read.captured, &read.content),
                (written.seq, written.kind, written.captured, &written.content)
            );
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let body = encode(9, 5, &entries());
        for bit in 0..body.len() * 8 {
            let mut bad = body.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(7, 9, 5, 3, &Bytes::from(bad)).is_err(), "bit {bit}");
        }
        for len in 0..body.len() {
            assert!(decode(7, 9, 5, 3, &Bytes::copy_from_slice(&body[..len])).is_err(), "length {len}");
        }
    }
}
