use bytes::BytesMut;
use rumqttc_v4::mqttbytes::v4::Packet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::BrokerProfile;
use crate::principal::Principal;
use crate::relay::Profile;
use crate::token::key::SigningKey;
use crate::token::local::{DenyList, LocalIssuer};
use crate::token::scope::Scope;
use crate::token::{Issuer as _, Limits, Stage, TokenFeed, TokenRequest};

const LIFE: Duration = Duration::from_secs(1);

/// What a gateway asks of its issuer for itself.
fn request(scope: Vec<Scope>, life: Duration) -> TokenRequest {
    TokenRequest {
        tenant: "default".to_owned(),
        gateway: "gw-1".to_owned(),
        device: DeviceId::gateway(),
        scope,
        life,
        audience: "claw".to_owned(),
        limits: Limits::default(),
        stage: Stage::default(),
    }
}

/// To a broker that speaks MQTT 3.1.1, and is this test.
fn options(listener: &TcpListener) -> RelayOptions {
    let port = listener.local_addr().unwrap().port();
    let mut options = RelayOptions::new("127.0.0.1".to_owned(), port, "default".to_owned(), "gw-1".to_owned());
    options.connect_timeout = Duration::from_secs(60);
    options.profile = Profile::of(BrokerProfile::Rabbitmq);
    options
}

/// The next packet of the gateway.
async fn said(stream: &mut TcpStream, buffer: &mut BytesMut) -> Packet {
    loop {
        match Packet::read(buffer, 1 << 16) {
            Ok(packet) => return packet,
            Err(_) => assert!(stream.read_buf(buffer).await.unwrap() > 0, "it left without a word"),
        }
    }
}

#[tokio::test]
async fn a_connection_that_would_outlive_its_token_is_left_when_that_ends_and_none_takes_its_place() {
    let clock = Clock::manual(Duration::from_secs(1_800_000_000));
    let key = SigningKey::generate().unwrap();
    let issuer = LocalIssuer::new("urn:test", key, DenyList::in_memory(), clock.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // A fresh token never comes.
    let token = Arc::new(issuer.issue(&request(vec![Scope::StatusWrite], LIFE)).await.unwrap());
    let (_feed, handle) = TokenFeed::new(TokenState::Valid(Arc::clone(&token)));
    let principal = Principal::new(options(&listener), clock.clone()).unwrap();
    let (inbox, _commands) = Principal::inbox();
    let _speaking = tokio::spawn(async move { principal.connect(handle, inbox, CancellationToken::new()).await });

    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = BytesMut::new();
    assert!(matches!(said(&mut stream, &mut buffer).await, Packet::Connect(_)));
    stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    // It looks at the clock when the token should have ended, which it has not.
    let early = tokio::time::timeout(LIFE + LIFE / 2, said(&mut stream, &mut buffer)).await;
    assert!(early.is_err(), "{early:?}");
    clock.advance(LIFE);
    assert_eq!(said(&mut stream, &mut buffer).await, Packet::Disconnect);
    let again = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await;
    assert!(again.is_err(), "it has nothing to show");
}

#[tokio::test]
async fn what_cannot_be_taken_is_thrown_away_also_where_the_next_attempt_fails() {
    let issuer = LocalIssuer::new("urn:test", SigningKey::generate().unwrap(), DenyList::in_memory(), Clock::system());
    let scope = vec![Scope::StatusWrite, Scope::CommandRead];
    let token = Arc::new(issuer.issue(&request(scope, Duration::from_secs(3600))).await.unwrap());
    let (_feed, handle) = TokenFeed::new(TokenState::Valid(token));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(&listener);
    options.backoff = (Duration::from_millis(10), Duration::from_millis(10));
    let principal = Principal::new(options, Clock::system()).unwrap();
    let (inbox, _commands) = Principal::inbox();
    let _speaking = tokio::spawn(async move { principal.connect(handle, inbox, CancellationToken::new()).await });

    // What the broker says to each connection, after its CONNECT: a message of 2 MB; nothing, it hangs up; welcome.
    let mut kept = Vec::new();
    for answer in [&[0x20, 2, 1, 0, 0x32, 0x80, 0x89, 0x7a][..], &[], &[0x20, 2, 0, 0]] {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = BytesMut::new();
        let connect = loop {
            match Packet::read(&mut buffer, 1 << 16) {
                Ok(Packet::Connect(connect)) => break connect,
                Ok(packet) => panic!("no CONNECT: {packet:?}"),
                Err(_) => assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "it left without a word"),
            }
        };
        kept.push(!connect.clean_session);
        stream.write_all(answer).await.unwrap();
        if !answer.is_empty() {
            while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
    }
    assert_eq!(kept, [true, false, false]);
}

#[tokio::test]
async fn what_waits_is_said_before_an_orderly_end() {
    let issuer = LocalIssuer::new("urn:test", SigningKey::generate().unwrap(), DenyList::in_memory(), Clock::system());
    let token = Arc::new(issuer.issue(&request(vec![Scope::StatusWrite], Duration::from_secs(3600))).await.unwrap());
    let (_feed, handle) = TokenFeed::new(TokenState::Valid(token));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let principal =
        Principal::new(RelayOptions { drain: Duration::from_secs(60), ..options(&listener) }, Clock::system()).unwrap();
    for jti in ["a", "b", "c"] {
        principal.reply(jti, "done".into());
    }
    let (stop, (inbox, _commands)) = (CancellationToken::new(), Principal::inbox());
    let stopped = stop.clone();
    let speaking = tokio::spawn(async move { principal.connect(handle, inbox, stopped).await });

    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = BytesMut::new();
    assert!(matches!(said(&mut stream, &mut buffer).await, Packet::Connect(_)));
    stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    let mut words = Vec::new();
    loop {
        match said(&mut stream, &mut buffer).await {
            Packet::Publish(publish) => {
                // The first is on its way when it is told to end.
                stop.cancel();
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                words.push(topic.rsplit_once("/up/").unwrap().1.to_owned());
                let [high, low] = publish.pkid.to_be_bytes();
                stream.write_all(&[0x40, 2, high, low]).await.unwrap();
            }
            Packet::Disconnect => break,
            packet => panic!("{packet:?}"),
        }
    }
    assert_eq!(words, ["reply/a", "reply/b", "reply/c", "status"]);
    drop(stream);
    speaking.await.unwrap();
}
