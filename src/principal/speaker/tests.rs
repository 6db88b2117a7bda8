use bytes::BytesMut;
use rumqttc_v4::mqttbytes::v4::Packet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::BrokerProfile;
use crate::principal::Principal;
use crate::relay::Profile;
use crate::token::key::SigningKey;
use crate::token::local::{DenyList, LocalIssuer};
use crate::token::scope::Scope;
use crate::token::{Issuer as _, Limits, Stage, TokenFeed, TokenRequest};

#[tokio::test]
async fn a_connection_that_would_outlive_its_token_is_left_when_that_ends_and_none_takes_its_place() {
    let clock = Clock::system();
    let key = SigningKey::generate().unwrap();
    let issuer = LocalIssuer::new("urn:test", key, DenyList::in_memory(), clock.clone());
    let request = TokenRequest {
        tenant: "default".to_owned(),
        gateway: "gw-1".to_owned(),
        device: DeviceId::gateway(),
        scope: vec![Scope::StatusWrite],
        life: Duration::from_secs(2),
        audience: "claw".to_owned(),
        limits: Limits::default(),
        stage: Stage::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // A fresh token never comes.
    let token = Arc::new(issuer.issue(&request).await.unwrap());
    let (_feed, handle) = TokenFeed::new(DeviceId::gateway(), TokenState::Valid(Arc::clone(&token)));
    let mut options = RelayOptions::new("127.0.0.1".to_owned(), port, "default".to_owned(), "gw-1".to_owned());
    options.profile = Profile::of(BrokerProfile::Rabbitmq);
    let principal = Principal::new(options, clock.clone()).unwrap();
    let (inbox, _commands) = Principal::inbox();
    let _speaking = tokio::spawn(async move { principal.connect(handle, inbox, CancellationToken::new()).await });

    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = BytesMut::new();
    loop {
        match Packet::read(&mut buffer, 1 << 16) {
            Ok(Packet::Connect(_)) => stream.write_all(&[0x20, 2, 0, 0]).await.unwrap(),
            Ok(Packet::Disconnect) => break,
            Ok(packet) => panic!("it stays: {packet:?}"),
            Err(_) => assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "it left without a word"),
        }
    }
    assert!(token.left(&clock).is_zero(), "not before");
    let again = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await;
    assert!(again.is_err(), "it has nothing to show");
}
