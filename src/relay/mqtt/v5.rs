//! MQTT 5.

use bytes::Bytes;
use rumqttc::{
    AckMode, AsyncClient, AuthProperties, Broker, ConnectAuth, ConnectReturnCode, ConnectionError,
    DisconnectReasonCode, Event, EventLoop, Incoming, LastWill, LastWillProperties, MqttOptions, NetworkOptions,
    Outgoing, PublishOptions, PublishProperties, QoS, StateError, SubscribeFilterInput, SubscribeNoticeError,
    SubscribeReasonCode, TlsConfiguration, Transport,
};

use super::inbox::{Acknowledgement, RECEIVE_MAXIMUM};
use super::resumed::{KEPT_S, Resumed};
use super::{Events, Failure, MAX_INCOMING, Seen, Target, tls_or_network};
use crate::http_client::plain;
use crate::relay::message::{Message, Will};

/// A client, and what drives it until the connection ends.
pub(super) fn start(
    target: Target<'_>,
    capacity: usize,
    events: Events,
) -> Result<(AsyncClient, impl Future<Output = Failure> + Send + use<>), Failure> {
    let enhanced = target.method.is_some();
    let silence = target.table.silence;
    let (client, source) = AsyncClient::builder(options(target))
        .capacity(capacity)
        .try_build()
        .map_err(|error| Failure::Lost(error.to_string()))?;
    let running = run(client.clone(), source, events, enhanced, silence);
    Ok((client, running))
}

async fn run(
    client: AsyncClient,
    mut source: EventLoop,
    mut events: Events,
    enhanced: bool,
    silence: &'static str,
) -> Failure {
    loop {
        match source.poll().await {
            Ok(Event::Outgoing(Outgoing::Publish(id))) => events.saw(Seen::Sent(id)),
            Ok(Event::Incoming(Incoming::PubAck(answer))) => events.saw(Seen::Answered(answer.pkid, answer.reason)),
            Ok(Event::Incoming(Incoming::ConnAck(answer))) => {
                let limit = answer.properties.and_then(|properties| properties.max_packet_size);
                events.accepted(limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX));
            }
            Ok(Event::Incoming(Incoming::Publish(message))) => {
                let ack = Acknowledgement::V5(client.clone(), client.prepare_ack(&message));
                events.came(&message.topic, message.payload, ack);
            }
            Ok(_) => {}
            Err(error) => return classify(&error, enhanced && events.up.is_some(), silence),
        }
    }
}

/// Queues a publish.
pub(super) fn publish(client: &AsyncClient, message: Message, retain: bool) -> Result<(), Failure> {
    let properties = PublishProperties {
        content_type: Some(message.content_type.to_owned()),
        user_properties: message.attributes,
        ..PublishProperties::default()
    };
    let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain).properties(properties);
    client.try_publish(message.topic, message.payload, options).map_err(|error| Failure::Lost(error.to_string()))
}

/// Subscribes at QoS 1; whether the broker agrees.
pub(super) async fn subscribe(client: AsyncClient, filter: String, only_others: bool) -> Result<bool, String> {
    let filter = SubscribeFilterInput::new(filter, QoS::AtLeastOnce).no_local(only_others);
    let notice = client.subscribe_many_tracked([filter]).await.map_err(|error| error.to_string())?;
    match notice.wait_async().await {
        Ok(answer) => Ok(answer.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_)))),
        Err(SubscribeNoticeError::V5SubAckFailure(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Shows another token on the live connection.
pub(super) async fn reauthenticate(client: AsyncClient, method: &'static str, token: Bytes) -> Result<(), String> {
    let properties = AuthProperties { method: Some(method.to_owned()), data: Some(token), ..AuthProperties::default() };
    let notice = client.reauth_tracked(Some(properties)).await.map_err(|error| error.to_string())?;
    notice.wait_async().await.map(|_| ()).map_err(|error| error.to_string())
}

fn options(target: Target<'_>) -> MqttOptions {
    let login = target.login;
    let mut options = MqttOptions::new(login.client_id, Broker::tcp(target.host, target.port));
    if let Some(config) = target.tls {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
    }
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_clean_start(true);
    options.set_connect_timeout(target.timeout);
    options.set_keep_alive(target.keep_alive_s);
    options.set_outgoing_inflight_upper_limit(target.in_flight);
    options.set_max_request_batch(usize::from(target.in_flight));
    if let Some(inbox) = &target.inbox {
        options.set_receive_maximum(Some(RECEIVE_MAXIMUM));
        options.set_max_packet_size(Some(MAX_INCOMING.into()));
        options.set_ack_mode(AckMode::Manual);
        if inbox.is_kept {
            options.set_clean_start(false);
            options.set_session_expiry_interval(Some(KEPT_S));
            options.set_session_store(Resumed { in_flight: target.in_flight });
        }
    }
    if let Some(will) = target.will {
        options.set_last_will(last_will(will));
    }
    if let Some(method) = target.method {
        options.set_authentication_method(Some(method.to_owned()));
        options.set_authentication_data(Some(Bytes::from(login.password)));
    } else {
        options.set_auth(ConnectAuth::UsernamePassword {
            username: login.username,
            password: Bytes::from(login.password),
        });
    }
    options
}

fn last_will(will: Will) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: None,
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: Some(will.content_type.to_owned()),
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, will.retain, Some(properties))
}

/// What an error means for the next attempt. `method_offered` while an enhanced CONNECT is unanswered.
fn classify(error: &ConnectionError, method_offered: bool, silence: &str) -> Failure {
    use ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(Code::BadAuthenticationMethod) if method_offered => Failure::NoEnhancedAuth,
        // Accepted without naming the method: the broker did not look at the token.
        ConnectionError::MqttState(StateError::Deserialization(rumqttc::Error::ProtocolError)) if method_offered => {
            Failure::NoEnhancedAuth
        }
        ConnectionError::ConnectionRefused(code) => match code {
            Code::NotAuthorized | Code::BadUserNamePassword | Code::Banned | Code::BadAuthenticationMethod => {
                Failure::Refused(format!("{code:?}"))
            }
            Code::ServerBusy | Code::QuotaExceeded | Code::ConnectionRateExceeded | Code::ServerUnavailable => {
                Failure::Busy(format!("{code:?}"))
            }
            _ => Failure::Lost(format!("the broker refused the connection: {code:?}")),
        },
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            ended_by_broker(*reason_code, reason_string.as_deref())
        }
        ConnectionError::MqttState(StateError::OutgoingPacketTooLarge { pkt_size, max }) => {
            Failure::Rejected(format!("0x95 packet too large: {pkt_size} bytes, the broker takes {max}"))
        }
        ConnectionError::Tls(rumqttc::TlsError::Io(error))
        | ConnectionError::Io(error)
        | ConnectionError::MqttState(StateError::Io(error) | StateError::Deserialization(rumqttc::Error::Io(error))) => {
            tls_or_network(error, silence)
        }
        ConnectionError::Tls(error) => Failure::Tls(error.to_string()),
        ConnectionError::Timeout(_) => Failure::Lost("the broker did not answer in time".to_owned()),
        error => Failure::Lost(error.to_string()),
    }
}

fn ended_by_broker(code: DisconnectReasonCode, said: Option<&str>) -> Failure {
    use DisconnectReasonCode as Code;
    // Its own words go to a person's terminal and stay in memory.
    let text = said.map_or_else(|| format!("{code:?}"), |said| format!("{code:?}: {}", plain(said)));
    match code {
        Code::NotAuthorized | Code::MaximumConnectTime => Failure::Refused(text),
        Code::TopicNameInvalid | Code::PacketTooLarge | Code::PayloadFormatInvalid => Failure::Rejected(text),
        Code::ServerBusy | Code::QuotaExceeded | Code::MessageRateTooHigh | Code::ConnectionRateExceeded => {
            Failure::Busy(text)
        }
        Code::SessionTakenOver => Failure::TakenOver,
        _ => Failure::Lost(format!("the broker ended the connection: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_says_at_its_end_is_shown_without_control_characters_and_not_without_end() {
        let said = format!("go\u{1b}[31m away\n{}", "x".repeat(60_000));
        let Failure::Busy(words) = ended_by_broker(DisconnectReasonCode::ServerBusy, Some(&said)) else {
            panic!("a busy broker is left alone for a while");
        };
        assert!(words.starts_with("ServerBusy: go\\u{1b}[31m away\\nxxx") && words.len() < 1000, "{words}");
    }
}
