//! Bodies of the fuzz targets: plain functions over any bytes, so that stable tests call them too. They
//! panic where the code under test breaks a promise.

#![allow(clippy::expect_used, reason = "these are tests")]
#![allow(dead_code, reason = "each test and each fuzz target uses its own part")]

pub(crate) mod machines;

use clawgate_protocol::app::App;
use clawgate_protocol::cbor::Reader;
use clawgate_protocol::code::Code;
use clawgate_protocol::discovery::{self, Ident};
use clawgate_protocol::fragment::Joiner;
use clawgate_protocol::frame::uart::{self, Decoder};
use clawgate_protocol::message::Kind;
use clawgate_protocol::senml;

/// Any stream of bytes: the decoder gives the same frames however the stream is cut, and each frame that it
/// gives can be encoded and decoded again.
pub(crate) fn frame(bytes: &[u8]) {
    let whole = frames_in_pieces(bytes, bytes.len().max(1));
    assert_eq!(whole, frames_in_pieces(bytes, 1));
    assert_eq!(whole, frames_in_pieces(bytes, 7));
    for (address, header, payload) in whole {
        let header = clawgate_protocol::fragment::Header::from_byte(header);
        let mut line = vec![0; uart::max_encoded_len(payload.len())];
        let len = uart::encode(address, header, &payload, &mut line).expect("the room is as stated");
        let mut decoder = Decoder::<{ uart::MAX_ENCODED }>::new();
        let mut input = &line[..len];
        let again = decoder.decode(&mut input).expect("a frame ends here").expect("what was encoded decodes");
        assert_eq!((again.address, again.header, again.payload), (address, header, &payload[..]));
    }
}

fn frames_in_pieces(bytes: &[u8], piece: usize) -> Vec<(u8, u8, Vec<u8>)> {
    let mut decoder = Decoder::<{ uart::MAX_ENCODED }>::new();
    let mut joiner = Joiner::<4096>::new();
    let mut frames = Vec::new();
    for mut input in bytes.chunks(piece) {
        while let Some(result) = decoder.decode(&mut input) {
            if let Ok(frame) = result {
                if let Ok(Some(message)) = joiner.join(frame.header, frame.payload) {
                    assert!((1..=4096).contains(&message.len()));
                }
                frames.push((frame.address, frame.header.byte(), frame.payload.to_vec()));
            }
        }
    }
    frames
}

/// Any bytes as a message, as the plaintext of a record, as a SenML pack, as a code: what is taken says the
/// same once it was written again, and whatever our strict reader takes another decoder takes too.
pub(crate) fn message(bytes: &[u8]) {
    let mut out = [0; 8192];
    let _ = Kind::of(bytes);
    let _ = discovery::decode_probe(bytes);
    let _ = discovery::decode_identify(bytes);
    if let Ok(ident) = Ident::decode(bytes) {
        let len = ident.encode(&mut out).expect("room enough");
        assert_eq!(Ident::decode(&out[..len]), Ok(ident));
    }
    if let Ok(app) = App::decode(bytes) {
        let len = app.encode(&mut out).expect("room enough");
        assert!(len <= bytes.len(), "the deterministic form is the shortest");
        assert_eq!(App::decode(&out[..len]), Ok(app.clone()));
        if let App::Readings(readings) = app {
            assert_eq!(readings.iter().count(), readings.len());
        }
    }
    pack(bytes, &mut out);
    let mut reader = Reader::new(bytes);
    if reader.skip().and_then(|()| reader.end()).is_ok() {
        serde_cbor::from_slice::<serde_cbor::Value>(bytes).expect("strict CBOR is CBOR");
    }
    if let Some(code) = core::str::from_utf8(bytes).ok().and_then(|text| Code::parse(text).ok()) {
        assert_eq!(Code::parse(&code.to_string()), Ok(code));
    }
}

fn pack(bytes: &[u8], out: &mut [u8]) {
    let Ok(records) = senml::Records::new(bytes) else { return };
    let Ok(records) = records.collect::<Result<Vec<_>, _>>() else { return };
    let len = senml::encode(&records, out).expect("room enough");
    let again: Vec<_> = senml::Records::new(&out[..len])
        .expect("it was written")
        .map(|record| record.expect("it was written"))
        .collect();
    assert_eq!(again, records);
    let len = senml::with_base_time(bytes, 1_700_000_000_123, out).expect("room enough");
    let first = senml::Records::new(&out[..len]).expect("it was written").next();
    let first = first.expect("it was written").expect("it was written");
    assert_eq!(first.base_time, Some(senml::seconds(1_700_000_000_123)));
    assert_eq!(first.value, records[0].value);
}
