//! The issuer's keys change while the broker runs.

use super::*;

impl Bed {
    /// Puts these keys where the plugin reads them, as an issuer on this machine does.
    fn publish(&self, issuers: &[&LocalIssuer]) {
        let keys: Vec<_> = issuers.iter().flat_map(|issuer| issuer.jwks().keys).collect();
        self.put(&serde_json::json!({ "keys": keys }).to_string());
    }

    fn put(&self, text: &str) {
        let aside = self.broker.folder().join("jwks.new");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(aside, self.broker.folder().join("jwks")).unwrap();
    }

    async fn said(&self, what: &str) {
        support::until(what, || self.broker.log().contains(what)).await;
    }
}

#[tokio::test]
async fn a_new_key_is_taken_without_a_signal_and_who_stands_on_a_withdrawn_one_is_cut() {
    let bed = Bed::start();
    let next = LocalIssuer::new(
        "https://issuer.test",
        SigningKey::generate().unwrap(),
        DenyList::in_memory(),
        Clock::system(),
    );
    let (old, new) = (bed.token("pump-3", 600).await, next.issue(&request("pump-4", 600)).await.unwrap());
    let mut device = bed.connect("g.pump-3", &old).await.unwrap();
    assert_eq!(bed.connect("g.pump-4", new.bearer()).await.err().as_deref(), Some("NotAuthorized"));

    bed.publish(&[&bed.issuer, &next]);
    let other = bed.connect("g.pump-4", new.bearer()).await.expect("the next key is known before it signs");
    assert_eq!(device.publish(UP, "21.5").await, "NoMatchingSubscribers", "permitted, and nobody there");

    // Half a file, and none: those that are connected stay.
    bed.put("{\"keys\":[{\"kty\":\"EC\"");
    bed.said("the old keys stay").await;
    std::fs::remove_file(bed.broker.folder().join("jwks")).unwrap();
    assert!(bed.connect("g.pump-5", &bed.token("pump-5", 600).await).await.is_ok());
    assert_eq!(bed.broker.log().matches("the old keys stay").count(), 1, "said once: {}", bed.broker.log());
    assert!(device.is_connected() && other.is_connected());

    bed.publish(&[&next]);
    device.ended().await;
    bed.said("the key that signed the token of pump-3 was withdrawn").await;
    assert_eq!(bed.connect("g.pump-3", &old).await.err().as_deref(), Some("NotAuthorized"));
    assert!(other.is_connected());
}

#[tokio::test]
async fn a_person_may_still_have_the_keys_read_by_a_signal() {
    let bed = Bed::start();
    bed.put("no key");
    bed.said("the old keys stay").await;
    bed.broker.hang_up();
    support::until("it is said again", || bed.broker.log().matches("the old keys stay").count() == 2).await;
    bed.publish(&[&bed.issuer]);
    bed.broker.hang_up();
    bed.said("keys read again").await;
    bed.connect("g.pump-3", &bed.token("pump-3", 600).await).await.unwrap();
}
