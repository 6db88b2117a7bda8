//! Writing: what `minicbor` writes is in the shortest form; the order of keys is the caller's.

use minicbor::encode::Encoder;
use minicbor::encode::write::Cursor;

use super::{CborError, len64};

/// Writes items one after the other, in the one form that [`Reader`](super::Reader) takes. The caller keeps keys sorted.
#[derive(Debug)]
pub struct Writer<'b> {
    encoder: Encoder<Cursor<&'b mut [u8]>>,
}

impl<'b> Writer<'b> {
    /// A writer at the start of `buffer`.
    #[must_use]
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { encoder: Encoder::new(Cursor::new(buffer)) }
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.encoder.writer().position()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The head of a map of `entries` keys and values.
    ///
    /// # Errors
    /// `NoRoom`, as for every method here.
    pub fn map(&mut self, entries: usize) -> Result<&mut Self, CborError> {
        self.write(|encoder| encoder.map(len64(entries)).map(|_| ()))
    }

    /// The head of an array of `items`.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn array(&mut self, items: usize) -> Result<&mut Self, CborError> {
        self.write(|encoder| encoder.array(len64(items)).map(|_| ()))
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn uint(&mut self, value: impl Into<u64>) -> Result<&mut Self, CborError> {
        self.write(|encoder| encoder.u64(value.into()).map(|_| ()))
    }

    /// A signed integer.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn int(&mut self, value: i64) -> Result<&mut Self, CborError> {
        self.write(|encoder| encoder.i64(value).map(|_| ()))
    }

    /// A byte string.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<&mut Self, CborError> {
        self.write(|encoder| encoder.bytes(bytes).map(|_| ()))
    }

    /// A text string.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn text(&mut self, text: &str) -> Result<&mut Self, CborError> {
        self.write(|encoder| encoder.str(text).map(|_| ()))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn bool(&mut self, value: bool) -> Result<&mut Self, CborError> {
        self.write(|encoder| encoder.bool(value).map(|_| ()))
    }

    /// A float: 32 bits where that is exact, else 64.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn float(&mut self, value: f64) -> Result<&mut Self, CborError> {
        #[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "only taken where it is exact")]
        let narrow = value as f32;
        if f64::from(narrow).to_bits() == value.to_bits() {
            self.write(|encoder| encoder.f32(narrow).map(|_| ()))
        } else {
            self.write(|encoder| encoder.f64(value).map(|_| ()))
        }
    }

    /// Bytes that are CBOR already.
    ///
    /// # Errors
    /// `NoRoom`.
    pub fn raw(&mut self, item: &[u8]) -> Result<&mut Self, CborError> {
        use minicbor::encode::Write as _;
        self.encoder.writer_mut().write_all(item).map_err(|_| CborError::NoRoom)?;
        Ok(self)
    }

    fn write<E>(
        &mut self,
        write: impl FnOnce(&mut Encoder<Cursor<&'b mut [u8]>>) -> Result<(), E>,
    ) -> Result<&mut Self, CborError> {
        write(&mut self.encoder).map_err(|_| CborError::NoRoom)?;
        Ok(self)
    }
}
