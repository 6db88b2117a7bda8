//! What the cloud receives: topics, CloudEvents attributes where the profile wants them, payloads.

use bytes::Bytes;
use clawgate_protocol::senml::SenmlError;
use serde_json::json;

use super::profile::{Attributes, Profile};
use super::senml;
use crate::config::Payload;
use crate::ids::DeviceId;
use crate::spool::{Capture, Kind, Outgoing};
use crate::token::scope;

const JSON: &str = "application/json";
const SENML_JSON: &str = "application/senml+json";
const SENML_CBOR: &str = "application/senml+cbor";
const ENVELOPE: &str = "application/cloudevents+json";

/// Lengths and numbers of a packet are smaller than this.
const FIXED: usize = 64;

/// One message, ready to be published.
#[derive(Debug)]
pub(crate) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) content_type: &'static str,
    /// CloudEvents attributes for user properties; empty where they stand elsewhere.
    pub(super) attributes: Vec<(String, String)>,
    /// An upper bound of its size as a packet.
    pub(super) size: usize,
}

impl Message {
    /// A JSON document that needs no attributes.
    pub(crate) fn json(topic: String, payload: Bytes) -> Self {
        let size = payload.len() + topic.len() + JSON.len() + FIXED;
        Self { topic, payload, content_type: JSON, attributes: Vec::new(), size }
    }
}

/// What the broker shall say in the device's place.
#[derive(Debug)]
pub(crate) struct Will {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) content_type: &'static str,
    pub(super) retain: bool,
}

impl Will {
    /// A JSON document.
    pub(crate) fn json(topic: String, payload: String, retain: bool) -> Self {
        Self { topic, payload, content_type: JSON, retain }
    }
}

/// Makes the messages of one device.
#[derive(Debug, Clone)]
pub(super) struct Composer {
    gateway: String,
    device: DeviceId,
    source: String,
    telemetry: String,
    event: String,
    state: String,
    payload: Payload,
    profile: Profile,
    description: serde_json::Value,
}

impl Composer {
    /// Tenant and gateway are ids: they were checked where they were read.
    pub(super) fn new(
        (tenant, gateway): (&str, &str),
        device: &DeviceId,
        payload: Payload,
        profile: Profile,
        description: serde_json::Value,
    ) -> Self {
        let source = scope::device_base(tenant, gateway, device);
        let topic = |leaf: &str| format!("{source}/up/{leaf}");
        Self {
            telemetry: topic("telemetry"),
            event: topic("event"),
            state: topic("state"),
            gateway: gateway.to_owned(),
            device: device.clone(),
            source,
            payload,
            profile,
            description,
        }
    }

    /// The topics that the device's token must allow: telemetry, event, state. What stands on the wire for them is the
    /// profile's.
    pub(super) fn topics(&self) -> [&str; 3] {
        [&self.telemetry, &self.event, &self.state]
    }

    /// The message of a spooled entry.
    ///
    /// # Errors
    /// Where JSON is wanted and the content is not SenML.
    pub(super) fn entry(&self, entry: &Outgoing) -> Result<Message, SenmlError> {
        match entry.kind {
            Kind::Telemetry => {
                let (payload, content_type) = match self.payload {
                    Payload::Cbor => (entry.content.clone(), SENML_CBOR),
                    Payload::Json => {
                        let mut text = Vec::with_capacity(entry.content.len() * 2);
                        senml::write_json(&entry.content, &mut text)?;
                        (Bytes::from(text), SENML_JSON)
                    }
                };
                let mut attributes = self.attributes(entry.id.to_string(), "claw.telemetry.v1");
                if entry.captured == Capture::Mapped {
                    attributes.push(("clawcapture".to_owned(), "mapped".to_owned()));
                }
                Ok(self.message(&self.telemetry, payload, content_type, attributes))
            }
            Kind::Gap { to } => {
                let payload = json!({
                    "event": "gap",
                    "pairing": entry.id.pairing.to_string(),
                    "epoch": format!("{:016x}", entry.id.epoch),
                    "from": entry.id.seq,
                    "to": to,
                    "reason": String::from_utf8_lossy(&entry.content),
                });
                let attributes = self.attributes(format!("{}-{to}", entry.id), "claw.gap.v1");
                Ok(self.message(&self.event, payload.to_string().into(), JSON, attributes))
            }
        }
    }

    /// The retained presence: `online`, `idle` (it comes back when there is something to say) or `offline`.
    pub(super) fn presence(&self, state: &str) -> Message {
        Message::json(self.state_topic(), self.presence_payload(state).into())
    }

    /// What the broker says in the device's place when the connection is lost.
    pub(super) fn will(&self) -> Will {
        Will::json(self.state_topic(), self.presence_payload("offline"), self.profile.table.retain)
    }

    /// Where all messages share a topic, a type says that it is presence.
    fn state_topic(&self) -> String {
        let kind = [("type".to_owned(), "claw.state.v1".to_owned()), ("source".to_owned(), self.source.clone())];
        self.profile.topic(&self.state, &self.gateway, self.device.as_str(), JSON, &kind)
    }

    fn presence_payload(&self, state: &str) -> String {
        json!({ "state": state, "device": self.description }).to_string()
    }

    fn attributes(&self, id: String, kind: &str) -> Vec<(String, String)> {
        let attribute = |name: &str, value: String| (name.to_owned(), value);
        vec![
            attribute("specversion", "1.0".to_owned()),
            attribute("id", id),
            attribute("source", self.source.clone()),
            attribute("type", kind.to_owned()),
        ]
    }

    /// Puts the attributes where the profile wants them.
    fn message(
        &self,
        topic: &str,
        payload: Bytes,
        content_type: &'static str,
        attributes: Vec<(String, String)>,
    ) -> Message {
        let topic = self.profile.topic(topic, &self.gateway, self.device.as_str(), content_type, &attributes);
        let (payload, content_type, attributes) = match self.profile.table.attributes {
            Attributes::UserProperties => (payload, content_type, attributes),
            Attributes::PropertyBag => (payload, content_type, Vec::new()),
            Attributes::Envelope => (envelope(&payload, content_type, &attributes), ENVELOPE, Vec::new()),
        };
        let texts: usize = attributes.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
        let size = payload.len() + topic.len() + content_type.len() + texts + FIXED;
        Message { topic, payload, content_type, attributes, size }
    }
}

/// A CloudEvent in structured mode (CloudEvents JSON format 1.0, section 3); `data` is JSON already.
fn envelope(data: &[u8], content_type: &str, attributes: &[(String, String)]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + 256);
    for (name, value) in attributes {
        out.push(if out.is_empty() { b'{' } else { b',' });
        push_text(&mut out, name);
        out.push(b':');
        push_text(&mut out, value);
    }
    out.extend_from_slice(b",\"datacontenttype\":");
    push_text(&mut out, content_type);
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(data);
    out.push(b'}');
    out.into()
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(json!(text).to_string().as_bytes());
}
