//! The relay over TLS: the pinned CA and no other, a client certificate where asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on ends")]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/back_half.rs"]
mod back_half;
mod support;

use std::time::Duration;

use authority::authority;
use back_half::{Gateway, submit};
use clawgate::clock::Clock;
use clawgate::metrics::Metrics;
use clawgate::relay::{ClientKey, Relay, RelayError, RelayOptions, RelayState, TlsFiles};
use clawgate::secret::Secret;
use rcgen::CertificateParams;
use support::{Mosquitto, until};

fn broker(leaf: impl FnOnce(&mut CertificateParams), more: &str) -> Mosquitto {
    let folder = tempfile::tempdir().unwrap();
    authority(folder.path(), "site", leaf);
    authority(folder.path(), "other", |_| ());
    let tls = "certfile {dir}/site-leaf.pem\nkeyfile {dir}/site-leaf.key\ncafile {dir}/site.pem\n";
    Mosquitto::start_in(folder, &format!("allow_anonymous true\n{tls}{more}"))
}

fn gateway(broker: &Mosquitto, ca: &str, client: Option<&str>) -> Gateway {
    let file = |name: &str| broker.folder().join(name);
    let client = client.map(|name| {
        let key = file(&format!("{name}-leaf.key"));
        let pem = Secret::new(std::fs::read(&key).unwrap());
        (file(&format!("{name}-leaf.pem")), ClientKey { pem, from: key.display().to_string() })
    });
    let tls = TlsFiles { ca: file(ca), client };
    Gateway::start(broker.port(), |options| {
        "localhost".clone_into(&mut options.host);
        options.tls = Some(tls);
    })
}

async fn delivers(gateway: Gateway) {
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=100);
    until("all is confirmed", || gateway.spool.status().depth == 0 && gateway.relay.status()[0].confirmed == 100).await;
    gateway.stop().await;
}

async fn refuses(gateway: Gateway, broker: &Mosquitto) {
    let (lane, _feed) = gateway.attach("pump-3");
    submit(&lane, 1..=10);
    let backs_off = || gateway.last_error().contains("TLS") && gateway.state() == RelayState::BackingOff;
    until("it says why, and waits", backs_off).await;
    assert_eq!(gateway.spool.status().depth, 10);
    assert!(!broker.log().contains("up/telemetry"));
    gateway.stop().await;
}

#[tokio::test]
async fn the_pinned_ca_delivers_and_any_other_is_refused() {
    let broker = broker(|_| (), "");
    refuses(gateway(&broker, "other.pem", None), &broker).await;
    delivers(gateway(&broker, "site.pem", None)).await;
}

/// What certificates do not allow, time alone will not mend: the wait is the longest from the first time on.
#[tokio::test]
async fn a_refused_certificate_is_no_reason_to_storm_the_broker() {
    let broker = broker(|_| (), "");
    let file = |name: &str| broker.folder().join(name);
    let stubborn = Gateway::start(broker.port(), |options| {
        "localhost".clone_into(&mut options.host);
        options.tls = Some(TlsFiles { ca: file("other.pem"), client: None });
        options.backoff = (Duration::from_millis(1), Duration::from_secs(3600));
    });
    let (lane, _feed) = stubborn.attach("pump-3");
    submit(&lane, 1..=10);
    until("it says why", || stubborn.last_error().contains("TLS")).await;
    // As long as others need for this, doubling from a millisecond would have been at it again and again.
    for _ in 0..3 {
        delivers(gateway(&broker, "site.pem", None)).await;
    }
    let refused =
        broker.log().matches("alert unknown ca").count() + broker.log().matches("alert bad certificate").count();
    assert_eq!(refused, 1, "{}", broker.log());
    stubborn.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let broker = broker(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1), "");
    refuses(gateway(&broker, "site.pem", None), &broker).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let broker = broker(|params| *params = CertificateParams::new(vec!["elsewhere.example".to_owned()]).unwrap(), "");
    refuses(gateway(&broker, "site.pem", None), &broker).await;
}

#[tokio::test]
async fn a_broker_that_asks_for_a_client_certificate_gets_the_configured_one() {
    let broker = broker(|_| (), "require_certificate true\n");
    refuses(gateway(&broker, "site.pem", None), &broker).await;
    delivers(gateway(&broker, "site.pem", Some("site"))).await;
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let mut options = RelayOptions::new("localhost".into(), 8883, "default".into(), "site-1".into());
    options.tls = Some(TlsFiles { ca: ca.clone(), client: None });
    let relay = |options: &RelayOptions| Relay::new(options.clone(), Clock::system(), Metrics::new().relay);
    assert!(matches!(relay(&options).unwrap_err(), RelayError::File { path, .. } if path == ca));
    std::fs::write(&ca, "-----BEGIN NOTHING-----").unwrap();
    let error = relay(&options).unwrap_err();
    assert!(error.to_string().contains("ca.pem") && error.to_string().contains("certificate"), "{error}");
}
