//! SenML (RFC 8428) in CBOR: what stands in a reading. A sensor builds packs, the gateway reads them.
//!
//! A pack is an array of maps with the labels of RFC 8428, section 6, in the deterministic form of
//! [`crate::cbor`]; a float may have any width. Labels nobody knows are read over, as the RFC says.

use core::fmt;

use minicbor::data::Type;

use crate::cbor::{CborError, Reader, Writer};

const BASE_VERSION: i64 = -1;
const BASE_NAME: i64 = -2;
const BASE_TIME: i64 = -3;
const BASE_UNIT: i64 = -4;
const BASE_VALUE: i64 = -5;
const BASE_SUM: i64 = -6;
const NAME: i64 = 0;
const UNIT: i64 = 1;
const VALUE: i64 = 2;
const TEXT_VALUE: i64 = 3;
const BOOL_VALUE: i64 = 4;
const SUM: i64 = 5;
const TIME: i64 = 6;
const UPDATE_TIME: i64 = 7;
const DATA_VALUE: i64 = 8;

/// Why a pack was refused, or not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SenmlError {
    /// The sensor: no record at all.
    Empty,
    /// The sensor: a name with a character that RFC 8428 does not allow.
    BadName,
    /// The sensor: two values in one record.
    TwoValues,
    /// The sensor: a SenML version above 10.
    Version,
    /// The sensor: not the CBOR it should be. Or us: no room.
    Cbor(CborError),
}

impl fmt::Display for SenmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a SenML pack without a record"),
            Self::BadName => f.write_str("a SenML name with a character that is not allowed"),
            Self::TwoValues => f.write_str("a SenML record with two values"),
            Self::Version => f.write_str("a SenML version above 10"),
            Self::Cbor(error) => write!(f, "SenML: {error}"),
        }
    }
}

impl core::error::Error for SenmlError {}

impl From<CborError> for SenmlError {
    fn from(error: CborError) -> Self {
        Self::Cbor(error)
    }
}

/// A number as it stood in the pack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole number.
    Integer(i64),
    /// Always finite.
    Float(f64),
}

impl Number {
    /// As a float; whole numbers beyond 2^53 lose their last digits.
    #[must_use]
    #[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "the loss is documented")]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// The value of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'b> {
    /// `v`
    Number(Number),
    /// `vb`
    Bool(bool),
    /// `vs`
    Text(&'b str),
    /// `vd`
    Data(&'b [u8]),
}

/// One record with the labels as they stand; nothing is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Record<'b> {
    /// `bver`
    pub base_version: Option<u64>,
    /// `bn`
    pub base_name: Option<&'b str>,
    /// `bt`, seconds since 1970 UTC
    pub base_time: Option<Number>,
    /// `bu`
    pub base_unit: Option<&'b str>,
    /// `bv`
    pub base_value: Option<Number>,
    /// `bs`
    pub base_sum: Option<Number>,
    /// `n`
    pub name: Option<&'b str>,
    /// `u`
    pub unit: Option<&'b str>,
    /// `v`, `vb`, `vs` or `vd`
    pub value: Option<Value<'b>>,
    /// `s`
    pub sum: Option<Number>,
    /// `t`, seconds, relative to `bt`
    pub time: Option<Number>,
    /// `ut`, seconds
    pub update_time: Option<Number>,
}

impl<'b> Record<'b> {
    /// A record with a number, the most common kind.
    #[must_use]
    pub fn number(name: &'b str, unit: &'b str, value: f64) -> Self {
        Self { name: Some(name), unit: Some(unit), value: Some(Value::Number(shortest(value))), ..Self::default() }
    }

    fn read(reader: &mut Reader<'b>) -> Result<Self, SenmlError> {
        let mut record = Self::default();
        let mut map = reader.map()?;
        while let Some(label) = map.next_key()? {
            let value = map.value();
            match label {
                BASE_VERSION => record.base_version = Some(value.uint()?),
                BASE_NAME => record.base_name = Some(name(value.text()?)?),
                BASE_TIME => record.base_time = Some(number(value)?),
                BASE_UNIT => record.base_unit = Some(value.text()?),
                BASE_VALUE => record.base_value = Some(number(value)?),
                BASE_SUM => record.base_sum = Some(number(value)?),
                NAME => record.name = Some(name(value.text()?)?),
                UNIT => record.unit = Some(value.text()?),
                VALUE => record.set(Value::Number(number(value)?))?,
                TEXT_VALUE => record.set(Value::Text(value.text()?))?,
                BOOL_VALUE => record.set(Value::Bool(value.bool()?))?,
                SUM => record.sum = Some(number(value)?),
                TIME => record.time = Some(number(value)?),
                UPDATE_TIME => record.update_time = Some(number(value)?),
                DATA_VALUE => record.set(Value::Data(value.bytes()?))?,
                _ => value.skip()?,
            }
        }
        if record.base_version.is_some_and(|version| version > 10) {
            return Err(SenmlError::Version);
        }
        Ok(record)
    }

    fn set(&mut self, value: Value<'b>) -> Result<(), SenmlError> {
        if self.value.replace(value).is_some() { Err(SenmlError::TwoValues) } else { Ok(()) }
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), SenmlError> {
        let present = [
            self.base_version.is_some(),
            self.base_name.is_some(),
            self.base_time.is_some(),
            self.base_unit.is_some(),
            self.base_value.is_some(),
            self.base_sum.is_some(),
            self.name.is_some(),
            self.unit.is_some(),
            self.value.is_some(),
            self.sum.is_some(),
            self.time.is_some(),
            self.update_time.is_some(),
        ];
        writer.map(present.iter().filter(|present| **present).count())?;
        write_text(writer, NAME, self.name)?;
        write_text(writer, UNIT, self.unit)?;
        match self.value {
            Some(Value::Number(value)) => write_number(writer, VALUE, Some(value))?,
            Some(Value::Text(text)) => write_text(writer, TEXT_VALUE, Some(text))?,
            Some(Value::Bool(value)) => {
                writer.int(BOOL_VALUE)?.bool(value)?;
            }
            Some(Value::Data(_)) | None => (),
        }
        write_number(writer, SUM, self.sum)?;
        write_number(writer, TIME, self.time)?;
        write_number(writer, UPDATE_TIME, self.update_time)?;
        if let Some(Value::Data(data)) = self.value {
            writer.int(DATA_VALUE)?.bytes(data)?;
        }
        if let Some(version) = self.base_version {
            writer.int(BASE_VERSION)?.uint(version)?;
        }
        write_text(writer, BASE_NAME, self.base_name)?;
        write_number(writer, BASE_TIME, self.base_time)?;
        write_text(writer, BASE_UNIT, self.base_unit)?;
        write_number(writer, BASE_VALUE, self.base_value)?;
        write_number(writer, BASE_SUM, self.base_sum)?;
        Ok(())
    }
}

/// The records of a pack, in order.
#[derive(Debug, Clone)]
pub struct Records<'b> {
    reader: Reader<'b>,
    left: usize,
    failed: bool,
}

impl<'b> Records<'b> {
    /// The records of `pack`.
    ///
    /// # Errors
    /// `Empty`, or `Cbor`: the sensor is at fault.
    pub fn new(pack: &'b [u8]) -> Result<Self, SenmlError> {
        let mut reader = Reader::new(pack);
        let left = reader.array()?;
        if left == 0 { Err(SenmlError::Empty) } else { Ok(Self { reader, left, failed: false }) }
    }

    fn read(&mut self) -> Result<Record<'b>, SenmlError> {
        let record = Record::read(&mut self.reader)?;
        if self.left == 0 {
            self.reader.end()?;
        }
        Ok(record)
    }
}

impl<'b> Iterator for Records<'b> {
    type Item = Result<Record<'b>, SenmlError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1).filter(|_| !self.failed)?;
        let record = self.read();
        self.failed = record.is_err();
        Some(record)
    }
}

/// Writes a pack of `records` into `out`; returns its length.
///
/// # Errors
/// `Empty` without records, `Cbor(NoRoom)`.
pub fn encode(records: &[Record<'_>], out: &mut [u8]) -> Result<usize, SenmlError> {
    if records.is_empty() {
        return Err(SenmlError::Empty);
    }
    let mut writer = Writer::new(out);
    writer.array(records.len())?;
    for record in records {
        record.write(&mut writer)?;
    }
    Ok(writer.len())
}

/// Copies `pack` with the base time `unix_ms`, in place of one it had; returns the length. This is how a
/// reading gets the time that the gateway mapped from the sensor's uptime.
///
/// # Errors
/// Every [`SenmlError`]; 9 bytes more than `pack` are always room enough.
pub fn with_base_time(pack: &[u8], unix_ms: u64, out: &mut [u8]) -> Result<usize, SenmlError> {
    let records = Records::new(pack)?;
    let mut writer = Writer::new(out);
    writer.array(records.left)?;
    let mut base_time = Some(seconds(unix_ms));
    for record in records {
        let record = record?;
        Record { base_time: base_time.take(), ..record }.write(&mut writer)?;
    }
    Ok(writer.len())
}

/// Milliseconds as SenML writes time: seconds, whole where they are.
#[must_use]
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "exact to the millisecond far beyond our time")]
pub fn seconds(unix_ms: u64) -> Number {
    shortest(unix_ms as f64 / 1000.0)
}

/// A whole number where that says the same: it is shorter.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "compared before it is taken")]
fn shortest(value: f64) -> Number {
    let whole = value as i64;
    let exact = Number::Integer(whole).as_f64().to_bits() == value.to_bits() && value.abs() < 9e15;
    if exact { Number::Integer(whole) } else { Number::Float(value) }
}

fn number(reader: &mut Reader<'_>) -> Result<Number, CborError> {
    Ok(match reader.kind()? {
        Type::F16 | Type::F32 | Type::F64 => Number::Float(reader.float()?),
        _ => Number::Integer(reader.int()?),
    })
}

/// RFC 8428, section 4.5.1: `A-Z a-z 0-9 - : . / _`. What a whole name begins with is not looked at: this may be its second part.
fn name(text: &str) -> Result<&str, SenmlError> {
    let allowed = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-:./_".contains(&byte));
    if allowed { Ok(text) } else { Err(SenmlError::BadName) }
}

fn write_text(writer: &mut Writer<'_>, label: i64, text: Option<&str>) -> Result<(), CborError> {
    text.map_or(Ok(()), |text| writer.int(label)?.text(text).map(|_| ()))
}

fn write_number(writer: &mut Writer<'_>, label: i64, number: Option<Number>) -> Result<(), CborError> {
    match number {
        None => Ok(()),
        Some(Number::Integer(value)) => writer.int(label)?.int(value).map(|_| ()),
        Some(Number::Float(value)) => writer.int(label)?.float(value).map(|_| ()),
    }
}
