//! What a session carries: the plaintext of a record is one of these messages, again a type byte and a map.
//!
//! A reading's name is (epoch, seq). The sensor keeps every reading until an [`Ack`] with `safe` at or above
//! it; the gateway takes only the reading it expects next and answers anything else with an `Ack`.

use crate::cbor::{CborError, Map, Reader, Writer};
use crate::message::{MessageError, begin, body};

/// One message inside a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum App<'b> {
    /// Sensor to gateway: readings with consecutive numbers.
    Readings(Readings<'b>),
    /// Gateway to sensor: how far it is.
    Ack(Ack),
    /// Sensor to gateway: readings it had to drop.
    Gap(Gap),
    /// Gateway to sensor, only while the gateway's clock is synchronised: milliseconds since 1970 UTC.
    Time {
        /// Milliseconds since 1970 UTC.
        unix_ms: u64,
    },
    /// Gateway to sensor: do something.
    Command(Command),
    /// Sensor to gateway: what became of a command.
    Reply(Reply),
    /// Sensor to gateway: the first record of every session.
    Hello(Hello<'b>),
    /// Either way: this side ends the session.
    Bye,
}

/// Readings with consecutive numbers, the first being `first_seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readings<'b> {
    /// The run of numbers this is part of.
    pub epoch: u64,
    /// The number of the first pack, from 1.
    pub first_seq: u64,
    packs: &'b [u8],
    uptimes: Option<&'b [u8]>,
    count: usize,
}

/// One reading of a [`Readings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading<'b> {
    /// Its number.
    pub seq: u64,
    /// Its SenML pack in CBOR, not looked into yet; see [`crate::senml`].
    pub pack: &'b [u8],
    /// When it was captured, by the sensor's uptime, if the sensor's clock was not set: the pack then
    /// carries no time of its own.
    pub uptime_ms: Option<u64>,
}

/// How far the gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The run of numbers this is about; the sensor ignores any but its own.
    pub epoch: u64,
    /// Every reading up to this one is safe and may be forgotten; 0: none yet.
    pub safe: u64,
    /// The reading that the gateway expects next; always above `safe`.
    pub next: u64,
}

/// Readings `from..=to` were dropped before they were safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The run of numbers this is about.
    pub epoch: u64,
    /// The first one that is lost.
    pub from: u64,
    /// The last one that is lost.
    pub to: u64,
    /// Why.
    pub reason: GapReason,
}

/// Why readings were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The sensor's memory was full: the oldest went.
    Overflow,
    /// The sensor's memory was damaged or reset while its numbers went on.
    Lost,
}

/// A command from the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Chosen by the gateway; the reply carries it.
    pub id: u32,
    /// What to do.
    pub action: Action,
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Blink for this many seconds (1 to 60).
    Identify {
        /// For how long.
        seconds: u16,
    },
    /// Open the pairing window for this many seconds (1 to 300), for the label ceremony.
    OpenWindow {
        /// For how long.
        seconds: u16,
    },
    /// Erase the pairing after the reply.
    Unpair,
    /// Something this version does not know: to be answered [`Status::Refused`].
    Unknown(u64),
}

/// What became of the command with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The id of the command.
    pub id: u32,
    /// What became of it.
    pub status: Status,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Ok,
    /// The sensor does not know it or does not do it.
    Refused,
    /// Not now; try again later.
    Busy,
}

/// The first record of a session, from the sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'b> {
    /// The run of numbers of what follows.
    pub epoch: u64,
    /// The lowest number it still owes: of a reading it holds, or of one it dropped and has yet to report as a
    /// [`Gap`]; owing nothing, the number its next reading will have.
    pub lowest: u64,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Whether its clock is set.
    pub synced: bool,
    /// The version of its firmware, at most 32 bytes. From the air: escape it.
    pub firmware: &'b str,
}

const READINGS: u8 = 0x40;
const ACK: u8 = 0x41;
const GAP: u8 = 0x42;
const TIME: u8 = 0x43;
const COMMAND: u8 = 0x44;
const REPLY: u8 = 0x45;
const HELLO: u8 = 0x46;
const BYE: u8 = 0x47;

impl<'b> App<'b> {
    /// Reads the plaintext of a record.
    ///
    /// # Errors
    /// Every [`MessageError`]: the peer is at fault.
    pub fn decode(plaintext: &'b [u8]) -> Result<Self, MessageError> {
        let kind = *plaintext.first().ok_or(MessageError::Empty)?;
        body(plaintext, kind)?.only_map(|map| Self::read(kind, map))
    }

    fn read(kind: u8, map: &mut Map<'_, 'b>) -> Result<Self, MessageError> {
        Ok(match kind {
            READINGS => Self::Readings(Readings::read(map)?),
            ACK => {
                let ack = Ack { epoch: map.need(1)?.uint()?, safe: map.need(2)?.uint()?, next: map.need(3)?.uint()? };
                if ack.next <= ack.safe {
                    return Err(MessageError::BadField(3));
                }
                Self::Ack(ack)
            }
            GAP => {
                let (epoch, from, to) = (map.need(1)?.uint()?, map.need(2)?.uint()?, map.need(3)?.uint()?);
                if from == 0 || to < from {
                    return Err(MessageError::BadField(3));
                }
                let reason = match map.need(4)?.uint::<u64>()? {
                    0 => GapReason::Overflow,
                    _ => GapReason::Lost,
                };
                Self::Gap(Gap { epoch, from, to, reason })
            }
            TIME => Self::Time { unix_ms: map.need(1)?.uint()? },
            COMMAND => {
                let id = map.need(1)?.uint()?;
                let name = map.need(2)?.uint::<u64>()?;
                let mut seconds = || map.need(3)?.uint();
                let action = match name {
                    1 => Action::Identify { seconds: seconds()? },
                    2 => Action::OpenWindow { seconds: seconds()? },
                    3 => Action::Unpair,
                    other => Action::Unknown(other),
                };
                Self::Command(Command { id, action })
            }
            REPLY => {
                let id = map.need(1)?.uint()?;
                let status = match map.need(2)?.uint::<u64>()? {
                    0 => Status::Ok,
                    2 => Status::Busy,
                    _ => Status::Refused,
                };
                Self::Reply(Reply { id, status })
            }
            HELLO => {
                let hello = Hello {
                    epoch: map.need(1)?.uint()?,
                    lowest: map.need(2)?.uint()?,
                    uptime_ms: map.need(3)?.uint()?,
                    synced: map.need(4)?.bool()?,
                    firmware: map.need(5)?.text()?,
                };
                if hello.lowest == 0 || hello.firmware.len() > 32 {
                    return Err(MessageError::BadField(if hello.lowest == 0 { 2 } else { 5 }));
                }
                Self::Hello(hello)
            }
            BYE => Self::Bye,
            other => return Err(MessageError::UnknownType(other)),
        })
    }

    /// Writes the message into `out`; returns its length. For readings see [`encode_readings`].
    ///
    /// # Errors
    /// `Cbor(NoRoom)`.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, MessageError> {
        let mut writer = Writer::new(begin(out, self.byte())?);
        match self {
            Self::Readings(readings) => readings.write(&mut writer)?,
            Self::Ack(ack) => {
                writer.map(3)?.uint(1_u8)?.uint(ack.epoch)?.uint(2_u8)?.uint(ack.safe)?.uint(3_u8)?.uint(ack.next)?;
            }
            Self::Gap(gap) => {
                let reason: u8 = match gap.reason {
                    GapReason::Overflow => 0,
                    GapReason::Lost => 1,
                };
                writer.map(4)?.uint(1_u8)?.uint(gap.epoch)?.uint(2_u8)?.uint(gap.from)?;
                writer.uint(3_u8)?.uint(gap.to)?.uint(4_u8)?.uint(reason)?;
            }
            Self::Time { unix_ms } => {
                writer.map(1)?.uint(1_u8)?.uint(*unix_ms)?;
            }
            Self::Command(Command { id, action }) => {
                let (name, seconds) = match *action {
                    Action::Identify { seconds } => (1, Some(seconds)),
                    Action::OpenWindow { seconds } => (2, Some(seconds)),
                    Action::Unpair => (3, None),
                    Action::Unknown(name) => (name, None),
                };
                writer.map(if seconds.is_some() { 3 } else { 2 })?.uint(1_u8)?.uint(*id)?.uint(2_u8)?.uint(name)?;
                if let Some(seconds) = seconds {
                    writer.uint(3_u8)?.uint(seconds)?;
                }
            }
            Self::Reply(Reply { id, status }) => {
                let status: u8 = match status {
                    Status::Ok => 0,
                    Status::Refused => 1,
                    Status::Busy => 2,
                };
                writer.map(2)?.uint(1_u8)?.uint(*id)?.uint(2_u8)?.uint(status)?;
            }
            Self::Hello(hello) => {
                writer.map(5)?.uint(1_u8)?.uint(hello.epoch)?.uint(2_u8)?.uint(hello.lowest)?;
                writer.uint(3_u8)?.uint(hello.uptime_ms)?.uint(4_u8)?.bool(hello.synced)?;
                writer.uint(5_u8)?.text(hello.firmware)?;
            }
            Self::Bye => {
                writer.map(0)?;
            }
        }
        Ok(writer.len().saturating_add(1))
    }

    const fn byte(&self) -> u8 {
        match self {
            Self::Readings(_) => READINGS,
            Self::Ack(_) => ACK,
            Self::Gap(_) => GAP,
            Self::Time { .. } => TIME,
            Self::Command(_) => COMMAND,
            Self::Reply(_) => REPLY,
            Self::Hello(_) => HELLO,
            Self::Bye => BYE,
        }
    }
}

impl<'b> Readings<'b> {
    fn read(map: &mut Map<'_, 'b>) -> Result<Self, MessageError> {
        let (epoch, first_seq) = (map.need(1)?.uint()?, map.need(2)?.uint::<u64>()?);
        let (count, packs) = items(map.need(3)?, |item| item.bytes().map(|_| ()))?;
        let last = first_seq.checked_add(u64::try_from(count).unwrap_or(u64::MAX));
        if first_seq == 0 || count == 0 || last.is_none() {
            return Err(MessageError::BadField(2));
        }
        let uptimes = match map.find(4)? {
            None => None,
            Some(value) => {
                let mut uptime_ms = 0;
                let (uptimes, raw) = items(value, |item| {
                    uptime_ms = item.uint::<u64>()?.checked_add(uptime_ms).ok_or(CborError::OutOfRange)?;
                    Ok(())
                })?;
                if uptimes != count {
                    return Err(MessageError::BadField(4));
                }
                Some(raw)
            }
        };
        Ok(Self { epoch, first_seq, packs, uptimes, count })
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), MessageError> {
        writer.map(if self.uptimes.is_some() { 4 } else { 3 })?;
        writer.uint(1_u8)?.uint(self.epoch)?.uint(2_u8)?.uint(self.first_seq)?;
        writer.uint(3_u8)?.array(self.count)?.raw(self.packs)?;
        if let Some(uptimes) = self.uptimes {
            writer.uint(4_u8)?.array(self.count)?.raw(uptimes)?;
        }
        Ok(())
    }

    /// How many readings there are: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The readings in order.
    pub fn iter(&self) -> impl Iterator<Item = Reading<'b>> + use<'b> {
        let mut packs = Reader::new(self.packs);
        let mut uptimes = self.uptimes.map(|uptimes| (Reader::new(uptimes), 0));
        let seqs = (0..self.count).zip(self.first_seq..).map(|(_, seq)| seq);
        // Everything was read once in `decode`: no item fails here.
        seqs.map_while(move |seq| {
            let uptime_ms = match &mut uptimes {
                Some((reader, before)) => {
                    *before = reader.uint::<u64>().ok()?.checked_add(*before)?;
                    Some(*before)
                }
                None => None,
            };
            Some(Reading { seq, pack: packs.bytes().ok()?, uptime_ms })
        })
    }
}

/// Reads an array whose every item `read` takes; returns the count and the items as they stand.
fn items<'b>(
    reader: &mut Reader<'b>,
    mut read: impl FnMut(&mut Reader<'b>) -> Result<(), CborError>,
) -> Result<(usize, &'b [u8]), MessageError> {
    let count = reader.array()?;
    let start = reader.position();
    for _ in 0..count {
        read(reader)?;
    }
    Ok((count, reader.since(start)))
}

/// Writes a `Readings` into `out`; returns its length. Either every reading has an uptime or none has,
/// and none is before the one in front of it.
///
/// # Errors
/// `BadField(3)` without a reading, `BadField(4)` if only some have an uptime or one goes back, `Cbor(NoRoom)`.
pub fn encode_readings<'p>(
    epoch: u64,
    first_seq: u64,
    readings: impl ExactSizeIterator<Item = (&'p [u8], Option<u64>)> + Clone,
    out: &mut [u8],
) -> Result<usize, MessageError> {
    let count = readings.len();
    let with_uptime = readings.clone().filter(|(_, uptime)| uptime.is_some()).count();
    if count == 0 {
        return Err(MessageError::BadField(3));
    }
    if with_uptime != 0 && with_uptime != count {
        return Err(MessageError::BadField(4));
    }
    let mut writer = Writer::new(begin(out, READINGS)?);
    writer.map(if with_uptime == 0 { 3 } else { 4 })?;
    writer.uint(1_u8)?.uint(epoch)?.uint(2_u8)?.uint(first_seq)?.uint(3_u8)?.array(count)?;
    for (pack, _) in readings.clone() {
        writer.bytes(pack)?;
    }
    if with_uptime > 0 {
        writer.uint(4_u8)?.array(count)?;
        let mut before = 0;
        for uptime in readings.filter_map(|(_, uptime)| uptime) {
            writer.uint(uptime.checked_sub(before).ok_or(MessageError::BadField(4))?)?;
            before = uptime;
        }
    }
    Ok(writer.len().saturating_add(1))
}
