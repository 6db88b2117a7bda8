//! What the cloud receives: topics, CloudEvents attributes as MQTT user properties, payloads.

use bytes::Bytes;
use clawgate_protocol::senml::SenmlError;
use rumqttc::{LastWill, LastWillProperties, PublishProperties, QoS, ValidatedTopic};
use serde_json::json;

use super::senml;
use crate::config::Payload;
use crate::ids::DeviceId;
use crate::spool::{Capture, Kind, Outgoing};
use crate::token::scope;

const JSON: &str = "application/json";
const SENML_JSON: &str = "application/senml+json";
const SENML_CBOR: &str = "application/senml+cbor";

/// Topic, content type and headers of a packet are smaller than this.
const FIXED: usize = 256;

/// One message, ready to be published.
pub(super) struct Message {
    pub(super) topic: ValidatedTopic,
    pub(super) payload: Bytes,
    pub(super) properties: PublishProperties,
    /// An upper bound of its size as a packet.
    pub(super) size: usize,
}

/// Makes the messages of one device.
#[derive(Debug, Clone)]
pub(super) struct Composer {
    source: String,
    telemetry: ValidatedTopic,
    event: ValidatedTopic,
    state: ValidatedTopic,
    payload: Payload,
    description: serde_json::Value,
}

impl Composer {
    /// `None` if the ids cannot stand in a topic; they were checked where they were read.
    pub(super) fn new(
        tenant: &str,
        gateway: &str,
        device: &DeviceId,
        payload: Payload,
        description: serde_json::Value,
    ) -> Option<Self> {
        let source = scope::device_base(tenant, gateway, device);
        let topic = |leaf: &str| ValidatedTopic::new(format!("{source}/up/{leaf}")).ok();
        Some(Self {
            telemetry: topic("telemetry")?,
            event: topic("event")?,
            state: topic("state")?,
            source,
            payload,
            description,
        })
    }

    /// The topics that the device's token must allow: telemetry, event, state.
    pub(super) fn topics(&self) -> [String; 3] {
        [&self.telemetry, &self.event, &self.state].map(|topic| String::from(topic.clone()))
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
                let mut properties = self.attributes(entry.id.to_string(), "claw.telemetry.v1", content_type);
                if entry.captured == Capture::Mapped {
                    properties.user_properties.push(("clawcapture".to_owned(), "mapped".to_owned()));
                }
                Ok(message(&self.telemetry, payload, properties))
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
                let properties = self.attributes(format!("{}-{to}", entry.id), "claw.gap.v1", JSON);
                Ok(message(&self.event, payload.to_string().into(), properties))
            }
        }
    }

    /// The retained presence: `online`, `idle` (it comes back when there is something to say) or `offline`.
    pub(super) fn presence(&self, state: &str) -> Message {
        let payload = self.presence_payload(state);
        let properties = PublishProperties { content_type: Some(JSON.to_owned()), ..PublishProperties::default() };
        message(&self.state, payload.into(), properties)
    }

    /// What the broker says in the device's place when the connection is lost.
    pub(super) fn will(&self) -> LastWill {
        let properties = LastWillProperties {
            delay_interval: None,
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: Some(JSON.to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        LastWill::new(self.state.clone(), self.presence_payload("offline"), QoS::AtLeastOnce, true, Some(properties))
    }

    fn presence_payload(&self, state: &str) -> String {
        json!({ "state": state, "device": self.description }).to_string()
    }

    fn attributes(&self, id: String, kind: &str, content_type: &str) -> PublishProperties {
        let attribute = |name: &str, value: String| (name.to_owned(), value);
        PublishProperties {
            content_type: Some(content_type.to_owned()),
            user_properties: vec![
                attribute("specversion", "1.0".to_owned()),
                attribute("id", id),
                attribute("source", self.source.clone()),
                attribute("type", kind.to_owned()),
            ],
            ..PublishProperties::default()
        }
    }
}

fn message(topic: &ValidatedTopic, payload: Bytes, properties: PublishProperties) -> Message {
    let texts: usize = properties.user_properties.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
    let size = payload.len() + texts + FIXED;
    Message { topic: topic.clone(), payload, properties, size }
}
