//! Strict deterministic CBOR over `minicbor`: the one form of a message, or a refusal.
//!
//! Refused: indefinite lengths, keys that are unsorted or stand twice, integers and lengths that are not in
//! their shortest form, tags, `null` and other simple values, bytes after the end. A float may have any
//! width. Keys sort by their encoded bytes (RFC 8949, section 4.2.1): 0, 1, 2, ... then -1, -2, ...
//! Nothing is allocated, and a length is compared with what is there before anything else.

mod copy;
mod reader;
mod writer;

use core::fmt;

pub use copy::copy_without;
pub use reader::{Map, Reader};
pub use writer::Writer;

/// Why bytes were refused, or why nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CborError {
    /// The peer: the bytes end inside an item, or an item is of another type than the protocol says.
    Malformed,
    /// The peer: an indefinite length, a longer form than needed, or unsorted or doubled keys.
    NotDeterministic,
    /// The peer: a number outside the range of its field.
    OutOfRange,
    /// The peer: bytes after the end of the item.
    Trailing,
    /// The peer: the map has no such key.
    Missing(i64),
    /// Us: the buffer is too small for what is to be written.
    NoRoom,
}

impl fmt::Display for CborError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("truncated, or not the type that the protocol says"),
            Self::NotDeterministic => f.write_str("not in deterministic form"),
            Self::OutOfRange => f.write_str("a number is out of its range"),
            Self::Trailing => f.write_str("bytes after the end"),
            Self::Missing(key) => write!(f, "key {key} is missing"),
            Self::NoRoom => f.write_str("the buffer is too small"),
        }
    }
}

impl core::error::Error for CborError {}

/// How many bytes the head of an item with this value or length takes.
pub(crate) const fn head_len(value: u64) -> usize {
    match value {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(bytes: &[u8]) -> Result<(), CborError> {
        let mut reader = Reader::new(bytes);
        reader.skip()?;
        reader.end()
    }

    #[test]
    fn every_longer_form_is_refused() {
        let longer: [&[u8]; 12] = [
            &[0x18, 23],
            &[0x19, 0, 255],
            &[0x1a, 0, 0, 255, 255],
            &[0x1b, 0, 0, 0, 0, 255, 255, 255, 255],
            &[0x38, 23],
            &[0x39, 0, 255],
            &[0x58, 1, 7],
            &[0x59, 0, 1, 7],
            &[0x78, 1, b'a'],
            &[0x98, 0],
            &[0xb8, 0],
            &[0xb8, 1, 1, 1],
        ];
        for bytes in longer {
            assert_eq!(skip(bytes), Err(CborError::NotDeterministic), "{bytes:02x?}");
        }
    }

    #[test]
    fn indefinite_lengths_are_refused() {
        for bytes in [&[0x5f, 0x41, 1, 0xff][..], &[0x7f, 0xff], &[0x9f, 1, 0xff], &[0xbf, 1, 1, 0xff]] {
            assert_eq!(skip(bytes), Err(CborError::NotDeterministic), "{bytes:02x?}");
        }
        assert_eq!(Reader::new(&[0x9f, 1, 0xff]).array(), Err(CborError::NotDeterministic));
        assert_eq!(Reader::new(&[0xbf, 1, 1, 0xff]).map().err(), Some(CborError::NotDeterministic));
    }

    #[test]
    fn doubled_and_unsorted_keys_are_refused_wherever_they_stand() {
        for bytes in [&[0xa2, 1, 0, 1, 0][..], &[0xa2, 2, 0, 1, 0], &[0xa2, 0x20, 0, 1, 0], &[0x81, 0xa2, 2, 0, 1, 0]] {
            assert_eq!(skip(bytes), Err(CborError::NotDeterministic), "{bytes:02x?}");
        }
        assert_eq!(skip(&[0xa3, 1, 0, 0x20, 0, 0x21, 0]), Ok(()), "1, -1, -2 is the order");
    }

    #[test]
    fn tags_null_and_deep_nesting_are_refused() {
        for bytes in [&[0xc0, 0x00][..], &[0xf6], &[0xf7], &[0xf8, 32], &[0xff]] {
            assert_eq!(skip(bytes), Err(CborError::Malformed), "{bytes:02x?}");
        }
        assert_eq!(skip(&[0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x80]), Ok(()));
        assert_eq!(skip(&[0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x80]), Err(CborError::Malformed));
    }

    #[test]
    fn a_length_that_lies_is_refused_before_anything_is_done_with_it() {
        let lies: [&[u8]; 4] = [
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x82, 1],
        ];
        for bytes in lies {
            assert_eq!(skip(bytes), Err(CborError::Malformed), "{bytes:02x?}");
        }
    }

    #[test]
    fn floats_of_every_width_are_read_and_only_finite_ones() {
        // RFC 8949, appendix A.
        let floats: [(&[u8], f64); 7] = [
            (&[0xf9, 0x3c, 0x00], 1.0),
            (&[0xf9, 0x7b, 0xff], 65_504.0),
            (&[0xf9, 0x00, 0x01], 5.960_464_477_539_063e-8),
            (&[0xf9, 0x04, 0x00], 0.000_061_035_156_25),
            (&[0xf9, 0xc4, 0x00], -4.0),
            (&[0xfa, 0x47, 0xc3, 0x50, 0x00], 100_000.0),
            (&[0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a], 1.1),
        ];
        for (bytes, value) in floats {
            assert_eq!(Reader::new(bytes).float().map(f64::to_bits), Ok(value.to_bits()));
        }
        for bytes in [&[0xf9, 0x7c, 0x00][..], &[0xf9, 0x7e, 0x00], &[0xfa, 0x7f, 0x80, 0x00, 0x00]] {
            assert_eq!(Reader::new(bytes).float(), Err(CborError::OutOfRange));
        }
    }

    #[test]
    fn keys_are_found_in_order_and_others_read_over() {
        let mut reader = Reader::new(&[0xa4, 1, 10, 5, 0x81, 0xf5, 0x18, 30, 20, 0x20, 6]);
        let mut map = reader.map().unwrap();
        assert_eq!(map.need(1).unwrap().uint::<u8>(), Ok(10));
        assert!(map.find(3).unwrap().is_none());
        assert_eq!(map.need(30).unwrap().uint::<u8>(), Ok(20));
        assert_eq!(map.find(7).err(), None, "asked too late: not found, not wrong");
        assert_eq!(map.need(-5).err(), Some(CborError::Missing(-5)));
    }

    #[test]
    fn a_map_is_copied_without_its_tags() {
        let map = [0xa3, 1, 0x41, 9, 2, 0x81, 7, 3, 0xf4];
        let mut out = [0; 16];
        let len = copy_without(&map, &[2], &mut out).unwrap();
        assert_eq!(out[..len], [0xa2, 1, 0x41, 9, 3, 0xf4]);
        assert_eq!(copy_without(&map, &[2], &mut out[..3]), Err(CborError::NoRoom));
        assert_eq!(copy_without(&[0xa1, 1, 1, 0], &[2], &mut out), Err(CborError::Trailing));
    }
}
