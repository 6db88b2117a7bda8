//! MQTT 3.1.1: what the broker thinks of a publish it says by a PUBACK or by ending the connection, never by a reason.
//!
//! A broker may confirm a publish that the token does not allow, and drop it: the check of the topic before the network
//! is the only guard against that.

use bytes::Bytes;
use rumqttc::PubAckReason;
use rumqttc_v4::{
    AckMode, AsyncClient, Broker, ConnectAuth, ConnectReturnCode, ConnectionError, Event, EventLoop, Incoming,
    LastWill, MqttOptions, NetworkOptions, Outgoing, PublishOptions, QoS, StateError, SubscribeNoticeError,
    SubscribeReasonCode, TlsConfiguration, TlsError, Transport,
};

use super::inbox::Acknowledgement;
use super::{Events, Failure, MAX_INCOMING, Seen, Target, tls_or_network};
use crate::relay::message::Message;

/// A client, and what drives it until the connection ends.
pub(super) fn start(
    target: Target<'_>,
    capacity: usize,
    events: Events,
) -> Result<(AsyncClient, impl Future<Output = Failure> + Send + use<>), Failure> {
    let silence = target.table.silence;
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(target.timeout.as_secs().max(1));
    let (client, mut source) = AsyncClient::builder(options(target))
        .capacity(capacity)
        .try_build()
        .map_err(|error| Failure::Lost(error.to_string()))?;
    source.network_options = network;
    let running = run(client.clone(), source, events, silence);
    Ok((client, running))
}

async fn run(client: AsyncClient, mut source: EventLoop, mut events: Events, silence: &'static str) -> Failure {
    loop {
        match source.poll().await {
            Ok(Event::Outgoing(Outgoing::Publish(id))) => events.saw(Seen::Sent(id)),
            Ok(Event::Incoming(Incoming::PubAck(answer))) => {
                events.saw(Seen::Answered(answer.pkid, PubAckReason::Success));
            }
            Ok(Event::Incoming(Incoming::ConnAck(_))) => events.accepted(usize::MAX),
            Ok(Event::Incoming(Incoming::Publish(message))) => {
                let ack = Acknowledgement::V311(client.clone(), client.prepare_ack(&message));
                events.came(&message.topic, message.payload, ack);
            }
            Ok(_) => {}
            Err(error) => return classify(&error, silence),
        }
    }
}

/// Queues a publish. Content type and attributes stand in the topic or the payload.
pub(super) fn publish(client: &AsyncClient, message: Message, retain: bool) -> Result<(), Failure> {
    let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain);
    client.try_publish(message.topic, message.payload, options).map_err(|error| Failure::Lost(error.to_string()))
}

/// Subscribes at QoS 1; whether the broker agrees.
pub(super) async fn subscribe(client: AsyncClient, filter: String) -> Result<bool, String> {
    let notice = client.subscribe_tracked(filter, QoS::AtLeastOnce).await.map_err(|error| error.to_string())?;
    match notice.wait_async().await {
        Ok(answer) => Ok(answer.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_)))),
        Err(SubscribeNoticeError::V4SubAckFailure(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

fn options(target: Target<'_>) -> MqttOptions {
    let login = target.login;
    let mut options = MqttOptions::new(login.client_id, Broker::tcp(target.host, target.port));
    if let Some(config) = target.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    if target.inbox.is_some() {
        options.set_ack_mode(AckMode::Manual);
    }
    options.set_clean_session(!target.inbox.as_ref().is_some_and(|inbox| inbox.is_kept));
    options.set_keep_alive(target.keep_alive_s);
    options.set_inflight(target.in_flight);
    options.set_max_request_batch(usize::from(target.in_flight));
    // By default the library ends the connection over a message of more than 10 KiB. A device's connection hears nothing:
    // what comes to it takes no more memory than a command may.
    options.set_max_packet_size(MAX_INCOMING.into(), target.table.max_packet);
    if let Some(will) = target.will {
        options.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, will.retain));
    }
    options.set_auth(ConnectAuth::UsernamePassword { username: login.username, password: Bytes::from(login.password) });
    options
}

/// What an error means for the next attempt.
fn classify(error: &ConnectionError, silence: &str) -> Failure {
    use ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(code @ (Code::BadUserNamePassword | Code::NotAuthorized)) => {
            Failure::Refused(format!("{code:?}"))
        }
        ConnectionError::ConnectionRefused(Code::ServiceUnavailable) => Failure::Busy("ServiceUnavailable".to_owned()),
        ConnectionError::ConnectionRefused(code) => {
            Failure::Lost(format!("the broker refused the connection: {code:?}"))
        }
        ConnectionError::MqttState(StateError::Deserialization(rumqttc_v4::Error::OutgoingPacketTooLarge {
            pkt_size,
            max,
        })) => Failure::Rejected(format!("0x95 packet too large: {pkt_size} bytes, the broker takes {max}")),
        ConnectionError::MqttState(StateError::Deserialization(rumqttc_v4::Error::PayloadSizeLimitExceeded(bytes))) => {
            Failure::TooLarge(*bytes)
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => Failure::Lost(silence.to_owned()),
        ConnectionError::Tls(TlsError::Io(error))
        | ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(rumqttc_v4::Error::Io(error)),
        ) => tls_or_network(error, silence),
        ConnectionError::Tls(error) => Failure::Tls(error.to_string()),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            Failure::Lost("the broker did not answer in time".to_owned())
        }
        error => Failure::Lost(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::BrokerProfile;
    use crate::relay::{Profile, RelayOptions};
    use crate::token::key::SigningKey;
    use crate::token::local::{DenyList, LocalIssuer};
    use crate::token::scope::Scope;
    use crate::token::{Issuer as _, Limits, Stage, TokenRequest};

    #[tokio::test]
    async fn a_broker_that_sends_without_end_gets_no_more_memory_than_a_command_needs() {
        let key = SigningKey::generate().unwrap();
        let issuer = LocalIssuer::new("urn:test", key, DenyList::in_memory(), Clock::system());
        let request = TokenRequest {
            tenant: "default".to_owned(),
            gateway: "gw-1".to_owned(),
            device: "pump-3".parse().unwrap(),
            scope: vec![Scope::TelemetryWrite],
            life: std::time::Duration::from_secs(600),
            audience: "claw".to_owned(),
            limits: Limits::default(),
            stage: Stage::default(),
        };
        let token = issuer.issue(&request).await.unwrap();
        let mut relay = RelayOptions::new("b".to_owned(), 1883, "default".to_owned(), "gw-1".to_owned());
        relay.profile = Profile::of(BrokerProfile::Rabbitmq);
        let target = Target::new(&relay, None, "pump-3", &token).unwrap();
        // What is sent may be as large as the broker takes.
        assert!(target.table.max_packet > usize::from(MAX_INCOMING));
        assert_eq!(options(target).max_packet_size(), usize::from(MAX_INCOMING));
    }
}
