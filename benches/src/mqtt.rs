//! As much of MQTT v5 as a subscriber needs, over plain bytes.
//!
//! Hand-written because the receiver shares two cores with what it measures: it must cost next to nothing.

use std::io::{self, Read};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;

/// How long the broker keeps the subscriber's session while it is away.
const SESSION_EXPIRY_S: u32 = 600;

/// A packet from the broker.
pub(crate) enum Packet<'a> {
    /// The answer to CONNECT, with its reason code.
    ConnAck(u8),
    /// The answer to SUBSCRIBE, with its reason code.
    SubAck(u8),
    /// A message.
    Publish(Publish<'a>),
    /// Anything that a subscriber can ignore.
    Other,
}

/// A message as it arrived.
pub(crate) struct Publish<'a> {
    /// Where it was published.
    pub(crate) topic: &'a [u8],
    /// Its packet identifier; none at QoS 0.
    pub(crate) packet_id: Option<u16>,
    /// Properties, still encoded.
    properties: &'a [u8],
    /// The content.
    pub(crate) payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// The first user property of this name.
    pub(crate) fn user_property(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.properties;
        while let Some((&id, after)) = rest.split_first() {
            rest = match id {
                0x01 => after.get(1..)?,
                0x23 => after.get(2..)?,
                0x02 => after.get(4..)?,
                0x0b => varint(after)?.1,
                0x03 | 0x08 | 0x09 => field(after)?.1,
                0x26 => {
                    let (name, after) = field(after)?;
                    let (value, after) = field(after)?;
                    if name == wanted {
                        return Some(value);
                    }
                    after
                }
                _ => return None,
            };
        }
        None
    }
}

/// CONNECT of a subscriber that keeps its session.
pub(crate) fn connect(client_id: &str, clean_start: bool) -> Vec<u8> {
    let mut body = Vec::new();
    put_field(&mut body, b"MQTT");
    body.extend([5, if clean_start { 2 } else { 0 }, 0, 0, 5, 0x11]);
    body.extend(SESSION_EXPIRY_S.to_be_bytes());
    put_field(&mut body, client_id.as_bytes());
    packet(CONNECT, &body)
}

/// SUBSCRIBE to one filter.
pub(crate) fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1, 0];
    put_field(&mut body, filter.as_bytes());
    body.push(qos);
    packet(SUBSCRIBE, &body)
}

/// Appends a PUBACK that means success.
pub(crate) fn put_puback(to: &mut Vec<u8>, packet_id: u16) {
    let [high, low] = packet_id.to_be_bytes();
    to.extend([PUBACK, 2, high, low]);
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left % 128).unwrap_or_default();
        left /= 128;
        out.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

fn put_field(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
    to.extend(bytes);
}

fn field(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = from.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn varint(from: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (at, byte) in from.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &from[at + 1..]));
        }
    }
    None
}

/// Cuts what comes from the broker into packets.
pub(crate) struct Incoming {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    /// An empty buffer.
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; 1 << 18], start: 0, end: 0 }
    }

    /// Reads once.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the broker closed, `InvalidData` for a packet that never fits.
    pub(crate) fn fill(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match from.read(&mut self.buffer[self.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }

    /// The next whole packet, if there is one.
    pub(crate) fn next(&mut self) -> Option<Packet<'_>> {
        let held = &self.buffer[self.start..self.end];
        let (&first, rest) = held.split_first()?;
        let (length, rest) = varint(rest)?;
        let (body, rest) = rest.split_at_checked(length)?;
        self.start = self.end - rest.len();
        Some(parse(first, body).unwrap_or(Packet::Other))
    }
}

fn parse(first: u8, body: &[u8]) -> Option<Packet<'_>> {
    match first & 0xf0 {
        CONNACK => Some(Packet::ConnAck(*body.get(1)?)),
        SUBACK => Some(Packet::SubAck(*body.last()?)),
        PUBLISH => {
            let (topic, mut rest) = field(body)?;
            let mut packet_id = None;
            if first & 0x06 != 0 {
                let (id, after) = rest.split_first_chunk::<2>()?;
                packet_id = Some(u16::from_be_bytes(*id));
                rest = after;
            }
            let (length, rest) = varint(rest)?;
            let (properties, payload) = rest.split_at_checked(length)?;
            Some(Packet::Publish(Publish { topic, packet_id, properties, payload }))
        }
        _ => Some(Packet::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_taken_apart_with_its_user_property() {
        let mut body = Vec::new();
        put_field(&mut body, b"a/b");
        body.extend([0, 7]);
        let mut properties = vec![0x01, 1];
        properties.push(0x26);
        put_field(&mut properties, b"id");
        put_field(&mut properties, b"x.y.1");
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend(&properties);
        body.extend(b"content");
        let bytes = packet(PUBLISH | 0x02, &body);

        let mut incoming = Incoming::new();
        incoming.fill(&mut &bytes[..5]).unwrap();
        assert!(incoming.next().is_none(), "half a packet is none");
        incoming.fill(&mut &bytes[5..]).unwrap();
        let Some(Packet::Publish(publish)) = incoming.next() else { panic!("not a publish") };
        assert_eq!(publish.topic, b"a/b");
        assert_eq!(publish.packet_id, Some(7));
        assert_eq!(publish.user_property(b"id"), Some(&b"x.y.1"[..]));
        assert_eq!(publish.user_property(b"other"), None);
        assert_eq!(publish.payload, b"content");
        assert!(incoming.next().is_none());
    }

    #[test]
    fn a_long_packet_has_a_long_length() {
        let bytes = packet(PUBLISH, &[0; 300]);
        assert_eq!(&bytes[..3], &[PUBLISH, 0xac, 0x02]);
    }
}
