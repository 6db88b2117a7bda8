//! What stands in a token beside its topics: whose certificate, from where, how often.

use std::num::NonZeroU32;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clawgate::token::Thumbprint;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::authority::{authority_of, client_tls};
use super::*;

impl Bed {
    /// A device's token that says this, too.
    async fn token_with(&self, device: &str, more: Value) -> String {
        let token = self.issuer.issue(&request(device, 600)).await.unwrap();
        let mut claims = serde_json::to_value(token.claims()).unwrap();
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.key.sign("at+jwt", &claims).unwrap()
    }

    /// Over TLS, with two clients' certificates in the broker's folder.
    fn over_tls(certificates: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority_of(folder.path(), "ca", &["broker", "ours", "theirs"]);
        let tls = "cafile {dir}/ca.pem\ncertfile {dir}/broker.pem\nkeyfile {dir}/broker.key\n";
        Self::start_in(folder, &format!("{tls}require_certificate {certificates}\n"))
    }

    /// From now on clients show this certificate.
    fn shows(&mut self, certificate: Option<&str>) {
        self.tls = Some(client_tls(self.broker.folder(), "ca.pem", certificate));
    }

    fn bound_to(&self, certificate: &str) -> Value {
        let der = CertificateDer::from_pem_file(self.broker.folder().join(format!("{certificate}.pem"))).unwrap();
        json!({ "cnf": { "x5t#S256": URL_SAFE_NO_PAD.encode(Sha256::digest(&der)) } })
    }

    /// Whether a client with this token is let in; both ways say the same.
    async fn lets_in(&self, token: &str) -> bool {
        let mut admitted = Vec::new();
        for by in [By::EnhancedAuth, By::Password] {
            let answer = MqttClient::connect(Connect { by, ..self.how("g.pump-3", token) }).await;
            assert!(answer.as_ref().err().is_none_or(|why| why == "NotAuthorized"), "{:?}", answer.err());
            admitted.push(answer.is_ok());
        }
        assert_eq!(admitted[0], admitted[1], "{}", self.broker.log());
        admitted[0]
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_is_no_good_with_another() {
    let mut bed = Bed::over_tls("true");
    let bound = bed.token_with("pump-3", bed.bound_to("ours")).await;
    let unbound = bed.token("pump-3", 600).await;
    let otherwise = bed.token_with("pump-3", json!({ "cnf": { "jkt": "x" } })).await;
    bed.shows(Some("ours"));
    assert!(bed.lets_in(&bound).await, "{}", bed.broker.log());
    assert!(!bed.lets_in(&otherwise).await, "bound in a way that nobody here checks");
    bed.shows(Some("theirs"));
    assert!(!bed.lets_in(&bound).await, "stolen");
    assert!(bed.broker.log().contains("bound to another certificate"));
    assert!(bed.lets_in(&unbound).await, "a bearer token is who has it");
}

#[tokio::test]
async fn what_the_issuer_writes_is_what_the_broker_reads() {
    let mut bed = Bed::over_tls("true");
    let certificate = Thumbprint::of_file(&bed.broker.folder().join("ours.pem")).unwrap();
    bed.issuer = bed.issuer.clone().bound_to(Some(certificate));
    for (addresses, certificate, good) in
        [("127.0.0.0/8", "ours", true), ("127.0.0.0/8", "theirs", false), ("192.0.2.0/24", "ours", false)]
    {
        let limits = Limits::new(vec![addresses.parse().unwrap()], NonZeroU32::new(5)).unwrap();
        let token = bed.issuer.issue(&TokenRequest { limits, ..request("pump-3", 600) }).await.unwrap();
        bed.shows(Some(certificate));
        assert_eq!(bed.lets_in(token.bearer()).await, good, "{addresses} {certificate}: {}", bed.broker.log());
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_is_no_good_without_one() {
    let mut bed = Bed::over_tls("false");
    let bound = bed.token_with("pump-3", bed.bound_to("ours")).await;
    bed.shows(None);
    assert!(!bed.lets_in(&bound).await);
    assert!(bed.broker.log().contains("showed none"), "{}", bed.broker.log());
}

#[tokio::test]
async fn re_authentication_asks_for_certificate_and_address_again() {
    let mut bed = Bed::over_tls("true");
    bed.shows(Some("ours"));
    let ours = bed.token_with("pump-3", bed.bound_to("ours")).await;
    let elsewhere = json!({ "claw_addresses": ["192.0.2.0/24"] });
    for (bad, why) in [(bed.bound_to("theirs"), "another certificate"), (elsewhere, "not for address")] {
        let mut device = bed.connect("g.pump-3", &ours).await.unwrap();
        device.reauthenticate(&ours).await.unwrap();
        let _ = device.reauthenticate(&bed.token_with("pump-3", bad).await).await;
        device.ended().await;
        assert!(bed.broker.log().contains(why), "{}", bed.broker.log());
    }
}

#[tokio::test]
async fn a_token_for_some_addresses_is_no_good_from_others() {
    let bed = Bed::start();
    for (addresses, good) in [
        (json!(["127.0.0.0/8"]), true),
        (json!(["192.0.2.1", "127.0.0.1"]), true),
        (json!(["0.0.0.0/0"]), true),
        (json!(["192.0.2.0/24", "2001:db8::/32"]), false),
        (json!(["::/0"]), false),
        (json!(["127.0.0.1/33", "127.0.0", "localhost"]), false),
        (json!([]), false),
    ] {
        let token = bed.token_with("pump-3", json!({ "claw_addresses": addresses })).await;
        assert_eq!(bed.lets_in(&token).await, good, "{addresses}: {}", bed.broker.log());
    }
    let unreadable = bed.token_with("pump-3", json!({ "claw_addresses": "127.0.0.1" })).await;
    assert!(!bed.lets_in(&unreadable).await);
}

#[tokio::test]
async fn who_shows_a_token_from_elsewhere_is_told_of_where_the_gateway_tells_its_alarms() {
    let bed = Bed::start();
    let mut subscriber = bed.subscriber().await;
    let token = bed.token_with("pump-3", json!({ "claw_addresses": ["127.0.0.1"] })).await;
    // A second time within a minute is not told again.
    for client_id in ["somebody", "g.pump-3"] {
        let answer = thief::connects_from(thief::ELSEWHERE, bed.broker.addr(), client_id, &token).await;
        assert_eq!(answer, 0x87, "{}", bed.broker.log());
    }
    let device = bed.connect("g.pump-3", &token).await.unwrap();
    assert_eq!(device.publish(UP, "21.5").await, "Success");
    let told = subscriber.next().await;
    assert_eq!(told.topic, "claw/v1/default/g/_gateway/up/alarm");
    let told: Value = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!(
        (&told["kind"], &told["subject"], &told["by"]),
        (&json!("off_allow_list"), &json!("pump-3"), &json!("broker"))
    );
    let words = told["words"].as_str().unwrap();
    assert!(words.contains("127.0.0.2 that calls itself \"somebody\"") && words.contains("from 127.0.0.1;"), "{words}");
    assert_eq!(subscriber.next().await.payload, "21.5");
}

#[tokio::test]
async fn who_publishes_faster_than_its_token_allows_is_cut_off_and_its_neighbour_is_not() {
    let bed = Bed::start();
    let mut subscriber = bed.subscriber().await;
    let token = bed.token_with("pump-3", json!({ "claw_rate": 1 })).await;
    let mut device = bed.connect("g.pump-3", &token).await.unwrap();
    let neighbour = bed.connect("g.pump-4", &bed.token("pump-4", 600).await).await.unwrap();
    let begun = Instant::now();
    let mut within_rate = 0;
    while device.publish(UP, &within_rate.to_string()).await == "Success" {
        within_rate += 1;
    }
    device.ended().await;
    // Coming back does not fill the purse.
    let mut again = bed.connect("g.pump-3", &token).await.unwrap();
    while again.publish(UP, "again").await == "Success" {
        within_rate += 1;
    }
    again.ended().await;
    // A burst of ten, and one a second.
    assert!(within_rate <= 10 + 1 + begun.elapsed().as_secs(), "{within_rate} within {:?}", begun.elapsed());
    assert_eq!(bed.broker.log().matches("publishes faster than its token allows").count(), 2, "{}", bed.broker.log());
    for n in 0..200 {
        assert_eq!(neighbour.publish("claw/v1/default/g/pump-4/up/event", &n.to_string()).await, "Success");
    }
    assert_eq!(subscriber.next().await.payload, "0", "what was within the rate arrived");
}
