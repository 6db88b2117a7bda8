//! A SenML pack as JSON (RFC 8428, section 5), from its CBOR form.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clawgate_protocol::senml::{Number, Record, Records, SenmlError, Value};

/// Appends `pack` as JSON.
///
/// # Errors
/// What the reader says of a pack that is not SenML; `out` then ends somewhere within.
pub(super) fn write_json(pack: &[u8], out: &mut Vec<u8>) -> Result<(), SenmlError> {
    let mut before = b'[';
    for record in Records::new(pack)? {
        out.push(before);
        write_record(&record?, out);
        before = b',';
    }
    out.push(b']');
    Ok(())
}

fn write_record(record: &Record<'_>, out: &mut Vec<u8>) {
    let mut object = Object { out, empty: true };
    if let Some(version) = record.base_version {
        object.label("bver");
        object.json(&version);
    }
    object.text("bn", record.base_name);
    object.number("bt", record.base_time);
    object.text("bu", record.base_unit);
    object.number("bv", record.base_value);
    object.number("bs", record.base_sum);
    object.text("n", record.name);
    object.text("u", record.unit);
    match record.value {
        None => {}
        Some(Value::Number(number)) => object.number("v", Some(number)),
        Some(Value::Text(text)) => object.text("vs", Some(text)),
        Some(Value::Bool(value)) => {
            object.label("vb");
            object.json(&value);
        }
        Some(Value::Data(data)) => object.text("vd", Some(&URL_SAFE_NO_PAD.encode(data))),
    }
    object.number("s", record.sum);
    object.number("t", record.time);
    object.number("ut", record.update_time);
    object.end();
}

struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl Object<'_> {
    fn label(&mut self, label: &'static str) {
        self.out.push(if self.empty { b'{' } else { b',' });
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(label.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn text(&mut self, label: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.label(label);
            self.json(text);
        }
    }

    fn number(&mut self, label: &'static str, number: Option<Number>) {
        match number {
            None => {}
            Some(Number::Integer(value)) => {
                self.label(label);
                self.json(&value);
            }
            Some(Number::Float(value)) => {
                self.label(label);
                self.json(&value);
            }
        }
    }

    /// Numbers, texts and truth values cannot fail to be written into memory.
    fn json(&mut self, value: &(impl serde::Serialize + ?Sized)) {
        let _ = serde_json::to_writer(&mut *self.out, value);
    }

    fn end(self) {
        let _ = self.out.write_all(if self.empty { b"{}" } else { b"}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(records: &[Record<'_>]) -> String {
        let mut pack = [0; 512];
        let len = clawgate_protocol::senml::encode(records, &mut pack).unwrap();
        let mut out = Vec::new();
        write_json(&pack[..len], &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_pack_reads_as_in_the_rfc() {
        // RFC 8428, section 5.1.3, shortened.
        let first = Record {
            base_name: Some("urn:dev:ow:10e2073a01080063"),
            base_time: Some(Number::Float(1_320_067_464.5)),
            base_unit: Some("%RH"),
            value: Some(Value::Number(Number::Float(21.2))),
            ..Record::default()
        };
        let second = Record {
            time: Some(Number::Integer(10)),
            value: Some(Value::Number(Number::Integer(-21))),
            ..Record::default()
        };
        assert_eq!(
            json(&[first, second]),
            r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1320067464.5,"bu":"%RH","v":21.2},{"v":-21,"t":10}]"#
        );
    }

    #[test]
    fn every_kind_of_value_has_its_own_label_and_text_cannot_break_out() {
        let record = |name, value| Record { name: Some(name), value: Some(value), ..Record::default() };
        assert_eq!(
            json(&[
                record("a", Value::Bool(true)),
                record("b", Value::Text("\"},{\n\u{1b}")),
                record("c", Value::Data(&[0xfb, 0xff])),
            ]),
            r#"[{"n":"a","vb":true},{"n":"b","vs":"\"},{\n\u001b"},{"n":"c","vd":"-_8"}]"#
        );
    }

    #[test]
    fn what_is_not_senml_is_refused() {
        for bad in [&b""[..], b"\x80", b"\xa0", b"\x81\xa1\x02", b"hello"] {
            assert!(write_json(bad, &mut Vec::new()).is_err(), "{bad:?}");
        }
    }
}
