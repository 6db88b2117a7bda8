//! Reading: `minicbor` takes an item apart, this file checks that it stood in its one form.

use minicbor::data::Type;
use minicbor::decode::Decoder;

use super::{CborError, len64};

/// How deep a value that the reader does not know may be nested.
pub(super) const MAX_DEPTH: u8 = 8;

/// Reads items one after the other.
#[derive(Debug, Clone)]
pub struct Reader<'b> {
    decoder: Decoder<'b>,
}

impl<'b> Reader<'b> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { decoder: Decoder::new(bytes) }
    }

    /// How many bytes were read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.decoder.position()
    }

    /// What was read since `position`.
    pub(crate) fn since(&self, position: usize) -> &'b [u8] {
        self.decoder.input().get(position..self.decoder.position()).unwrap_or_default()
    }

    /// An unsigned integer that fits `T`.
    ///
    /// # Errors
    /// `Malformed`, `NotDeterministic`, or `OutOfRange` for `T`.
    pub fn uint<T: TryFrom<u64>>(&mut self) -> Result<T, CborError> {
        let value = self.strict(Decoder::u64, |value| (*value, 0))?;
        T::try_from(value).map_err(|_| CborError::OutOfRange)
    }

    /// A signed integer.
    ///
    /// # Errors
    /// `Malformed`, `NotDeterministic`, or `OutOfRange` outside of `i64`.
    pub fn int(&mut self) -> Result<i64, CborError> {
        match self.kind()? {
            Type::Int => return Err(CborError::OutOfRange),
            Type::U64 => return self.uint(),
            _ => (),
        }
        self.strict(Decoder::i64, |value| (if *value < 0 { !*value } else { *value }.unsigned_abs(), 0))
    }

    /// A byte string.
    ///
    /// # Errors
    /// `Malformed` or `NotDeterministic`.
    pub fn bytes(&mut self) -> Result<&'b [u8], CborError> {
        self.strict(Decoder::bytes, |bytes| (len64(bytes.len()), bytes.len()))
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// As [`Reader::bytes`]; `OutOfRange` at another length.
    pub fn array_of<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        self.bytes()?.try_into().map_err(|_| CborError::OutOfRange)
    }

    /// A text string in UTF-8.
    ///
    /// # Errors
    /// `Malformed` or `NotDeterministic`.
    pub fn text(&mut self) -> Result<&'b str, CborError> {
        self.strict(Decoder::str, |text| (len64(text.len()), text.len()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn bool(&mut self) -> Result<bool, CborError> {
        self.decoder.bool().map_err(|_| CborError::Malformed)
    }

    /// A float of any width.
    ///
    /// # Errors
    /// `Malformed`; `OutOfRange` if it is not finite.
    pub fn float(&mut self) -> Result<f64, CborError> {
        let value = match self.kind()? {
            Type::F64 => self.decoder.f64().map_err(|_| CborError::Malformed)?,
            Type::F32 => f64::from(self.decoder.f32().map_err(|_| CborError::Malformed)?),
            Type::F16 => self.half()?,
            _ => return Err(CborError::Malformed),
        };
        if value.is_finite() { Ok(value) } else { Err(CborError::OutOfRange) }
    }

    /// The head of an array: how many items follow. Never more than bytes are left.
    ///
    /// # Errors
    /// `Malformed` or `NotDeterministic`.
    pub fn array(&mut self) -> Result<usize, CborError> {
        self.items(Decoder::array, 1)
    }

    /// A map, to be read in the order of its keys.
    ///
    /// # Errors
    /// `Malformed` or `NotDeterministic`.
    pub fn map(&mut self) -> Result<Map<'_, 'b>, CborError> {
        let left = self.items(Decoder::map, 2)?;
        Ok(Map { reader: self, left, last: &[], peeked: None })
    }

    /// One map, and nothing behind it: `take` asks for what it knows, in the order of the keys.
    pub(crate) fn only_map<T, E: From<CborError>>(
        mut self,
        take: impl FnOnce(&mut Map<'_, 'b>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut map = self.map()?;
        let value = take(&mut map)?;
        map.end()?;
        self.end()?;
        Ok(value)
    }

    /// What the next item is.
    ///
    /// # Errors
    /// `Malformed` at the end of the bytes.
    pub fn kind(&self) -> Result<Type, CborError> {
        self.decoder.datatype().map_err(|_| CborError::Malformed)
    }

    /// Reads over one item of any kind; it must be strict too.
    ///
    /// # Errors
    /// As the methods for its kind; `Malformed` for tags, simple values and deep nesting.
    pub fn skip(&mut self) -> Result<(), CborError> {
        self.skip_within(MAX_DEPTH)
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// `Trailing`.
    pub fn end(&self) -> Result<(), CborError> {
        if self.left() == 0 { Ok(()) } else { Err(CborError::Trailing) }
    }

    fn left(&self) -> usize {
        self.decoder.input().len().saturating_sub(self.decoder.position())
    }

    /// Reads with `read`; `form` tells the head's argument and how many bytes follow the head.
    fn strict<T>(
        &mut self,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
        form: impl FnOnce(&T) -> (u64, usize),
    ) -> Result<T, CborError> {
        let start = self.decoder.position();
        if is_indefinite(self.decoder.input().get(start).copied()) {
            return Err(CborError::NotDeterministic);
        }
        let value = read(&mut self.decoder).map_err(|_| CborError::Malformed)?;
        let (argument, content) = form(&value);
        let head = self.decoder.position().saturating_sub(start).saturating_sub(content);
        if head == head_len(argument) { Ok(value) } else { Err(CborError::NotDeterministic) }
    }

    fn items(
        &mut self,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<Option<u64>, minicbor::decode::Error>,
        bytes_each: usize,
    ) -> Result<usize, CborError> {
        let count = self.strict(read, |count| (count.unwrap_or(0), 0))?;
        let count = usize::try_from(count.ok_or(CborError::NotDeterministic)?).map_err(|_| CborError::Malformed)?;
        // An item takes at least a byte: a count that lies is refused here.
        if count.saturating_mul(bytes_each) > self.left() {
            return Err(CborError::Malformed);
        }
        Ok(count)
    }

    fn skip_within(&mut self, depth: u8) -> Result<(), CborError> {
        let Some(depth) = depth.checked_sub(1) else { return Err(CborError::Malformed) };
        match self.kind()? {
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => self.uint::<u64>().map(|_| ()),
            Type::I8 | Type::I16 | Type::I32 | Type::I64 => self.int().map(|_| ()),
            Type::Bytes => self.bytes().map(|_| ()),
            Type::String => self.text().map(|_| ()),
            Type::Bool => self.bool().map(|_| ()),
            Type::F16 | Type::F32 | Type::F64 => self.float().map(|_| ()),
            Type::Array => (0..self.array()?).try_for_each(|_| self.skip_within(depth)),
            Type::Map => {
                let mut map = self.map()?;
                while map.key(depth)?.is_some() {
                    map.reader.skip_within(depth)?;
                }
                Ok(())
            }
            Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef => {
                Err(CborError::NotDeterministic)
            }
            _ => Err(CborError::Malformed),
        }
    }

    /// IEEE 754 binary16, which `minicbor` reads only with a further crate.
    fn half(&mut self) -> Result<f64, CborError> {
        let at = self.decoder.position();
        let bytes = at.checked_add(1).zip(at.checked_add(3)).and_then(|(from, to)| self.decoder.input().get(from..to));
        let bits = match bytes {
            Some([high, low]) => u16::from_be_bytes([*high, *low]),
            _ => return Err(CborError::Malformed),
        };
        self.decoder.set_position(at.saturating_add(3));
        let (sign, exponent, fraction) = (u64::from(bits >> 15), u64::from(bits >> 10 & 31), u64::from(bits & 0x3ff));
        let magnitude = match exponent {
            0 => f64::from(bits & 0x3ff) / 16_777_216.0, // subnormal: fraction * 2^-24
            31 => return Err(CborError::OutOfRange),
            // Exponents are re-based from 15 to 1023; the fraction widens from 10 to 52 bits.
            _ => f64::from_bits(exponent.saturating_add(1008) << 52 | fraction << 42),
        };
        Ok(if sign == 1 { -magnitude } else { magnitude })
    }
}

/// The entries of a map whose keys are integers, in order. Keys that nobody asks for are read over, so that
/// a later version can add some; text keys are read over too.
#[derive(Debug)]
pub struct Map<'r, 'b> {
    reader: &'r mut Reader<'b>,
    left: usize,
    last: &'b [u8],
    /// A key that was read and whose value was not.
    peeked: Option<i64>,
}

impl<'b> Map<'_, 'b> {
    /// The next integer key; the reader then stands at its value, which must be read with
    /// [`Map::value`] before the next call.
    ///
    /// # Errors
    /// As the reader's.
    pub fn next_key(&mut self) -> Result<Option<i64>, CborError> {
        if let Some(key) = self.peeked.take() {
            return Ok(Some(key));
        }
        while let Some(key) = self.key(MAX_DEPTH)? {
            match key {
                Key::Integer(key) => return Ok(Some(key)),
                Key::Other => self.reader.skip()?,
            }
        }
        Ok(None)
    }

    /// The reader at the value of the key that was just found.
    pub fn value(&mut self) -> &mut Reader<'b> {
        self.reader
    }

    /// The value of `key`, if the map has it. Ask in the order of the keys.
    ///
    /// # Errors
    /// As the reader's.
    pub fn find(&mut self, key: i64) -> Result<Option<&mut Reader<'b>>, CborError> {
        while let Some(found) = self.next_key()? {
            if found == key {
                return Ok(Some(self.reader));
            }
            if sort_key(found) > sort_key(key) {
                self.peeked = Some(found);
                break;
            }
            self.reader.skip()?;
        }
        Ok(None)
    }

    /// The value of `key`, which must be there. Ask in the order of the keys.
    ///
    /// # Errors
    /// As the reader's; `Missing`.
    pub fn need(&mut self, key: i64) -> Result<&mut Reader<'b>, CborError> {
        self.find(key)?.ok_or(CborError::Missing(key))
    }

    /// Reads over what is left, strictly.
    ///
    /// # Errors
    /// As the reader's.
    pub fn end(mut self) -> Result<(), CborError> {
        while self.next_key()?.is_some() {
            self.reader.skip()?;
        }
        Ok(())
    }

    pub(super) fn key(&mut self, depth: u8) -> Result<Option<Key>, CborError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let start = self.reader.position();
        let key = match self.reader.kind()? {
            Type::U8 | Type::U16 | Type::U32 | Type::I8 | Type::I16 | Type::I32 => Key::Integer(self.reader.int()?),
            _ => {
                self.reader.skip_within(depth)?;
                Key::Other
            }
        };
        let input = self.reader.decoder.input();
        let encoded = input.get(start..self.reader.position()).ok_or(CborError::Malformed)?;
        let in_order = match (self.last, encoded) {
            // Nearly every key is one byte; asking a library to compare two of those takes longer than reading them.
            ([last], [key]) => last < key,
            (last, key) => last < key,
        };
        if !in_order {
            return Err(CborError::NotDeterministic);
        }
        self.last = encoded;
        Ok(Some(key))
    }
}

pub(super) enum Key {
    Integer(i64),
    Other,
}

/// How many bytes the head of an item with this argument takes.
const fn head_len(argument: u64) -> usize {
    match argument {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// Whether `initial` begins a string, an array or a map of indefinite length.
fn is_indefinite(initial: Option<u8>) -> bool {
    initial.is_some_and(|byte| byte & 0x1f == 0x1f && (2..=5).contains(&(byte >> 5)))
}

/// Orders integer keys as their encoded bytes do.
const fn sort_key(key: i64) -> (bool, u64) {
    (key < 0, key.unsigned_abs())
}
