//! What a cloud would see: the packets that the relay sends, read by a listener that answers as the documents say.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use clawgate::clock::Clock;
use clawgate::config::BrokerProfile;
use clawgate::relay::{Profile, RelayState};
use clawgate::token::azure::SasIssuer;
use clawgate::token::{AccessToken, Issuer as _, TokenFeed, TokenRequest, TokenState};
use rumqttc::mqttbytes::v5;
use rumqttc_v4::mqttbytes::v4;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::back_half::{Gateway, submit};
use crate::fixtures::request;
use crate::support::{DEADLINE, token, until, within};

/// The listener's end, where one connection after the other is taken.
struct Cloud {
    listener: TcpListener,
    connection: Option<(TcpStream, BytesMut)>,
}

impl Cloud {
    async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), connection: None }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The gateway with one device under this token, on its way here.
    fn gateway(&self, profile: Profile, token: Arc<AccessToken>) -> (Gateway, clawgate::spool::Lane, TokenFeed) {
        let gateway = Gateway::start(self.port(), |options| {
            options.profile = profile;
            // It connects once, however slowly it is answered.
            options.connect_timeout = DEADLINE;
        });
        let (feed, handle) = TokenFeed::new(TokenState::Valid(token));
        let lane = gateway.attach_with("pump-3", handle);
        (gateway, lane, feed)
    }

    /// The next packet, by whichever version's reader.
    async fn read<T>(&mut self, mut read: impl FnMut(&mut BytesMut) -> Option<T>) -> T {
        within("a packet comes", async {
            loop {
                let (stream, buffer) = match &mut self.connection {
                    Some(connection) => connection,
                    none => none.insert((self.listener.accept().await.unwrap().0, BytesMut::new())),
                };
                if let Some(packet) = read(buffer) {
                    return packet;
                }
                if stream.read_buf(buffer).await.unwrap() == 0 {
                    self.connection = None;
                }
            }
        })
        .await
    }

    async fn write(&mut self, packet: &[u8]) {
        self.connection.as_mut().unwrap().0.write_all(packet).await.unwrap();
    }

    async fn v5(&mut self) -> v5::Packet {
        self.read(|buffer| v5::Packet::read(buffer, None).ok()).await
    }

    async fn v4(&mut self) -> v4::Packet {
        self.read(|buffer| v4::Packet::read(buffer, 1 << 20).ok()).await
    }

    async fn say(&mut self, packet: v5::Packet) {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).unwrap();
        self.write(&out).await;
    }

    /// Accepts an MQTT 5 connection, by enhanced authentication where a method is given.
    async fn accept(&mut self, method: Option<&str>) -> (v5::Connect, rumqttc::ConnectAuth) {
        let v5::Packet::Connect(connect, _, auth) = self.v5().await else { panic!("no CONNECT") };
        // CONNACK, success; property 0x15 names the method.
        let mut properties = Vec::new();
        if let Some(method) = method {
            properties.extend([0x15, 0, u8::try_from(method.len()).unwrap()]);
            properties.extend(method.as_bytes());
        }
        let length = u8::try_from(properties.len()).unwrap();
        self.write(&[&[0x20, length + 3, 0, 0, length], properties.as_slice()].concat()).await;
        (connect, auth)
    }

    /// The next publish, confirmed.
    async fn publish(&mut self) -> v5::Publish {
        let v5::Packet::Publish(publish) = self.v5().await else { panic!("no PUBLISH") };
        self.say(v5::Packet::PubAck(v5::PubAck::new(publish.pkid, None))).await;
        publish
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn iot_hub_gets_a_signature_and_properties_in_the_topic() {
    let folder = tempfile::tempdir().unwrap();
    // The group's key of the provisioning service's documents.
    let group = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
    std::fs::write(folder.path().join("group"), group).unwrap();
    // As every secret's file has to be.
    std::fs::set_permissions(folder.path().join("group"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let issuer = SasIssuer::new("127.0.0.1", folder.path().join("group"), Clock::system());
    let request = TokenRequest { audience: "hub".to_owned(), ..request("site-1", "pump-3", 3600) };
    let signature = Arc::new(issuer.issue(&request).await.unwrap());
    let mut cloud = Cloud::start().await;
    let profile = Profile::of(BrokerProfile::AzureIotHub);
    let (gateway, lane, feed) = cloud.gateway(profile, Arc::clone(&signature));

    let v4::Packet::Connect(connect) = cloud.v4().await else { panic!("no CONNECT of MQTT 3.1.1") };
    assert_eq!(connect.client_id, "site-1.pump-3");
    assert!(connect.clean_session);
    let rumqttc_v4::ConnectAuth::UsernamePassword { username, password } = connect.auth else { panic!("no password") };
    assert_eq!(username, "127.0.0.1/site-1.pump-3/?api-version=2021-04-12");
    assert_eq!(text(&password), signature.bearer());
    assert!(signature.bearer().starts_with("SharedAccessSignature sr=127.0.0.1%2Fdevices%2Fsite-1.pump-3&sig="));
    let will = connect.last_will.unwrap();
    let state = "devices/site-1.pump-3/messages/events/$.ct=application%2Fjson&$.ce=utf-8&type=claw.state.v1";
    assert!(will.topic.starts_with(state) && !will.retain, "{}", will.topic);
    cloud.write(&[0x20, 2, 0, 0]).await;

    submit(&lane, 1..=1);
    let mut published = Vec::new();
    for _ in 0..2 {
        let v4::Packet::Publish(publish) = cloud.v4().await else { panic!("no PUBLISH") };
        let [high, low] = publish.pkid.to_be_bytes();
        cloud.write(&[0x40, 2, high, low]).await;
        published.push(publish);
    }
    assert!(published.iter().all(|publish| !publish.retain), "the hub keeps nothing");
    assert!(text(&published[0].topic).starts_with(state));
    let id = "70756d702d330000.000000000000feed.1";
    let wanted = format!(
        "devices/site-1.pump-3/messages/events/$.ct=application%2Fsenml%2Bjson&$.ce=utf-8&specversion=1.0&$.mid={id}&id={id}\
         &source=claw%2Fv1%2Fdefault%2Fsite-1%2Fpump-3&type=claw.telemetry.v1"
    );
    assert_eq!(text(&published[1].topic), wanted);
    let reading: serde_json::Value = serde_json::from_slice(&published[1].payload).unwrap();
    assert_eq!(reading[0]["v"], 1);
    until("it is confirmed", || gateway.spool.status().depth == 0).await;

    // A fresh signature needs a new connection: what is in flight came back, so the old one ends in order.
    feed.state.send_replace(TokenState::Valid(Arc::new(issuer.issue(&request).await.unwrap())));
    assert!(matches!(cloud.v4().await, v4::Packet::Disconnect), "an orderly end");
    let v4::Packet::Connect(_) = cloud.v4().await else { panic!("no second CONNECT") };
    cloud.write(&[0x20, 2, 0, 5]).await;
    until("a refused signature is paused", || gateway.state() == RelayState::Paused).await;
    gateway.stop().await;
}

#[tokio::test]
async fn event_grid_gets_the_token_by_its_method_and_a_fresh_one_by_auth() {
    let mut cloud = Cloud::start().await;
    let first = Arc::new(token("pump-3", "first", Duration::from_secs(600)));
    let profile = Profile::of(BrokerProfile::AzureEventGrid);
    let (gateway, lane, feed) = cloud.gateway(profile, Arc::clone(&first));
    let (connect, auth) = cloud.accept(Some("CUSTOM-JWT")).await;
    let properties = connect.properties.unwrap();
    assert_eq!(properties.authentication_method.as_deref(), Some("CUSTOM-JWT"));
    assert_eq!(properties.authentication_data.as_deref(), Some(first.bearer().as_bytes()));
    assert_eq!((connect.client_id.as_str(), auth), ("site-1.pump-3", rumqttc::ConnectAuth::None));
    let presence = cloud.publish().await;
    assert!(!presence.retain, "{:?}", presence.topic);
    submit(&lane, 1..=1);
    let reading = cloud.publish().await;
    assert_eq!(text(&reading.topic), "claw/v1/default/site-1/pump-3/up/telemetry");
    let properties = reading.properties.unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/senml+json"));
    assert!(properties.user_properties.contains(&("specversion".to_owned(), "1.0".to_owned())));

    let fresh = Arc::new(token("pump-3", "fresh", Duration::from_secs(600)));
    feed.state.send_replace(TokenState::Valid(Arc::clone(&fresh)));
    let v5::Packet::Auth(again) = cloud.v5().await else { panic!("no AUTH") };
    assert_eq!(again.code, v5::AuthReasonCode::ReAuthenticate);
    let properties = again.properties.unwrap();
    assert_eq!(properties.method.as_deref(), Some("CUSTOM-JWT"));
    assert_eq!(properties.data.as_deref(), Some(fresh.bearer().as_bytes()));
    let properties = v5::AuthProperties { method: Some("CUSTOM-JWT".to_owned()), ..v5::AuthProperties::default() };
    cloud.say(v5::Packet::Auth(v5::Auth::new(v5::AuthReasonCode::Success, Some(properties)))).await;
    until("the token is replaced", || gateway.relay.status()[0].reauths == 1).await;
    assert_eq!(gateway.relay.status()[0].connects, 1);
}

#[tokio::test]
async fn aws_iot_gets_the_authorizers_name_and_the_signed_token_in_the_username() {
    let mut cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("authorizer.pem");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bearer = Arc::new(token("pump-3", "first", Duration::from_secs(600)));
    let profile = Profile::of(BrokerProfile::AwsIot).with_authorizer("claw", Some(("token".to_owned(), key)));
    let (_gateway, _lane, _feed) = cloud.gateway(profile, Arc::clone(&bearer));
    let (connect, auth) = cloud.accept(None).await;
    assert!(connect.properties.is_none_or(|properties| properties.authentication_method.is_none()));
    let rumqttc::ConnectAuth::UsernamePassword { username, password } = auth else { panic!("no username") };
    assert!(
        username.starts_with("pump-3?x-amz-customauthorizer-name=claw&x-amz-customauthorizer-signature="),
        "{username}"
    );
    assert!(username.ends_with(&format!("&token={}", bearer.bearer())), "{username}");
    assert!(password.is_empty());
    assert!(cloud.publish().await.retain, "presence is retained there");
}

#[tokio::test]
async fn emqx_gets_the_token_as_password_and_a_new_connection_for_a_fresh_one() {
    let mut cloud = Cloud::start().await;
    let first = Arc::new(token("pump-3", "first", Duration::from_secs(600)));
    let (gateway, _lane, feed) = cloud.gateway(Profile::of(BrokerProfile::Emqx), Arc::clone(&first));
    let password_of = |auth| match auth {
        rumqttc::ConnectAuth::UsernamePassword { username, password } => (username, text(&password)),
        other => panic!("{other:?}"),
    };
    let (_, auth) = cloud.accept(None).await;
    assert_eq!(password_of(auth), ("pump-3".to_owned(), first.bearer().to_owned()));
    cloud.publish().await;
    let fresh = Arc::new(token("pump-3", "fresh", Duration::from_secs(600)));
    feed.state.send_replace(TokenState::Valid(Arc::clone(&fresh)));
    assert!(matches!(cloud.v5().await, v5::Packet::Disconnect(_)), "drained, and ended in order");
    let (_, auth) = cloud.accept(None).await;
    assert_eq!(password_of(auth).1, fresh.bearer());
    until("it is back", || gateway.relay.status()[0].connects == 2).await;
}
