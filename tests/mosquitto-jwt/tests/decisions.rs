//! What the plugin decides without a broker.
#![allow(dead_code, reason = "the plugin's modules are taken in whole")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "../src/decisions.rs"]
mod decisions;
#[path = "../src/deny.rs"]
mod deny;
#[path = "../src/notice.rs"]
mod notice;
#[path = "../src/options.rs"]
mod options;
#[path = "../src/peer.rs"]
mod peer;
#[path = "../src/rate.rs"]
mod rate;
#[path = "../src/token.rs"]
mod token;
#[path = "../src/topics.rs"]
mod topics;
#[path = "../src/watched.rs"]
mod watched;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};

use decisions::{Access, Decisions};
use deny::DenyList;
use options::Options;
use peer::{Peer, address, lies_in};
use rate::Rates;
use topics::{covers, shared_filter};

#[test]
fn a_filter_covers_what_all_of_it_matches() {
    for (granted, wanted) in [
        ("claw/v1/t/g/d/up/#", "claw/v1/t/g/d/up/telemetry"),
        ("claw/v1/t/+/+/up/#", "claw/v1/t/+/d/up/+"),
        ("claw/#", "claw/#"),
    ] {
        assert!(covers(granted, wanted), "{granted} {wanted}");
    }
    for (granted, wanted) in [
        ("claw/v1/t/g/d/up/#", "claw/v1/t/g/d2/up/telemetry"),
        ("claw/v1/t/g/d/up/#", "claw/v1/t/g/+/up/telemetry"),
        ("claw/+", "claw/#"),
        ("claw/+", "claw/a/b"),
        ("#", "$SYS/#"),
        ("+/a", "$SYS/a"),
    ] {
        assert!(!covers(granted, wanted), "{granted} {wanted}");
    }
    assert_eq!(shared_filter("$share/ai/claw/#"), Some("claw/#"));
    assert_eq!(shared_filter("$share/+/claw/#"), None);
    assert_eq!(shared_filter("$share/claw"), None);
}

#[test]
fn a_deny_list_is_read_whole_or_not_at_all() {
    let list = DenyList::parse("clawgate-denylist 1\ntime 100\njti one 160\nsub g pump-3 100 160\n").unwrap();
    assert!(list.denies("one", "g", "x", 1) && list.denies("two", "g", "pump-3", 100));
    assert!(!list.denies("two", "g", "pump-3", 101) && !list.denies("two", "h", "pump-3", 1));
    for (text, line) in [("", 1), ("clawgate-denylist 2\n", 1), ("clawgate-denylist 1\njti a", 1)] {
        assert_eq!(DenyList::parse(text), Err(line));
    }
    assert_eq!(DenyList::parse("clawgate-denylist 1\ntime 1\nwho knows\n"), Err(3));
}

#[test]
fn an_option_that_is_missing_or_unknown_is_named() {
    let told = |pairs: &[(&str, &str)]| Options::from_pairs(pairs.iter().copied()).unwrap_err();
    assert!(told(&[("key_file", "k"), ("issuer", "i")]).contains("audience"));
    assert!(told(&[("key", "k")]).contains("plugin_opt_key "));
}

#[test]
fn a_range_holds_its_own_addresses_and_those_of_no_other_family() {
    for (range, inside) in [
        ("192.0.2.0/24", "192.0.2.255"),
        ("192.0.2.7/24", "192.0.2.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "::ffff:192.0.2.7"),
        ("0.0.0.0/0", "203.0.113.9"),
        ("2001:db8::/32", "2001:db8:ffff::1%eth0"),
        ("::1", "::1"),
        ("::/0", "fe80::1"),
    ] {
        assert!(lies_in(range, address(inside).unwrap()), "{range} {inside}");
    }
    for (range, outside) in [
        ("192.0.2.0/24", "192.0.3.0"),
        ("192.0.2.7", "192.0.2.8"),
        ("0.0.0.0/0", "2001:db8::1"),
        ("::/0", "192.0.2.1"),
        ("2001:db8::/32", "2001:db9::"),
        ("192.0.2.0/33", "192.0.2.0"),
        ("192.0.2.0/-1", "192.0.2.0"),
        ("::/129", "::"),
        ("localhost", "127.0.0.1"),
        ("", "127.0.0.1"),
    ] {
        assert!(!lies_in(range, address(outside).unwrap()), "{range} {outside}");
    }
    assert_eq!(address("/run/mosquitto.sock"), None);
}

#[test]
fn a_rate_allows_a_burst_then_its_pace_and_is_each_owners_own() {
    let (start, mut rates) = (Instant::now(), Rates::default());
    let owner = |name: &str| ("g".to_owned(), name.to_owned());
    let mut taken =
        |name: &str, at: Duration, asked: u32| (0..asked).filter(|_| rates.take(&owner(name), 50, start + at)).count();
    assert_eq!(taken("a", Duration::ZERO, 1000), 100, "two seconds' worth");
    assert_eq!(taken("b", Duration::ZERO, 1000), 100);
    assert_eq!(taken("a", Duration::from_secs(1), 1000), 50);
    assert_eq!(taken("a", Duration::from_secs(3600), 1000), 100, "a pause is not saved up");
}

/// An issuer's key, one for each number.
struct Key(u8);

impl Key {
    fn secret(&self) -> p256::SecretKey {
        p256::SecretKey::from_slice(&[self.0; 32]).unwrap()
    }

    fn id(&self) -> String {
        format!("key-{}", self.0)
    }

    fn jwk(&self) -> Value {
        let point = self.secret().public_key().to_encoded_point(false);
        let [x, y] = [point.x(), point.y()].map(|part| URL_SAFE_NO_PAD.encode(part.unwrap()));
        json!({ "kty": "EC", "crv": "P-256", "kid": self.id(), "x": x, "y": y })
    }

    fn token(&self, device: &str) -> String {
        self.token_to(device, &["pub", "sub"], 600)
    }

    fn token_to(&self, device: &str, actions: &[&str], life_s: u64) -> String {
        let now = now_s();
        self.signed(&json!({
            "iss": "i", "aud": "claw", "sub": device, "client_id": "g", "iat": now, "exp": now + life_s, "jti": device,
            "claw_aif": [[format!("up/{device}"), actions]],
        }))
    }

    fn signed(&self, claims: &Value) -> String {
        let header = Header { typ: Some("at+jwt".to_owned()), kid: Some(self.id()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(self.secret().to_pkcs8_der().unwrap().as_bytes());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A plugin and its key file.
struct Site {
    file: PathBuf,
    decisions: Decisions,
}

impl Site {
    fn new(name: &str, keys: &[Key]) -> Self {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&file, set(keys)).unwrap();
        let options =
            Options { key_file: file.clone(), issuer: "i".into(), audience: "claw".into(), denylist_file: None };
        Self { decisions: Decisions::new(options).unwrap(), file }
    }

    /// Puts another file in its place, as an issuer does; what the plugin makes of it.
    fn replaced(&mut self, text: &str) -> Result<bool, String> {
        let aside = self.file.with_extension("new");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(&aside, &self.file).unwrap();
        self.decisions.read_keys()
    }

    fn admits(&mut self, id: usize, device: &str, token: &str) -> bool {
        let mqtt_id = format!("g.{device}");
        let peer = Peer { mqtt_id: &mqtt_id, address: None, certificate: None };
        self.decisions.admit(id, &peer, token.as_bytes(), self.decisions.is_live(id)).is_ok()
    }

    fn overdue(&mut self) -> Vec<String> {
        self.decisions.overdue().into_iter().map(|overdue| overdue.refusal.to_string()).collect()
    }
}

fn set(keys: &[Key]) -> String {
    json!({ "keys": keys.iter().map(Key::jwk).collect::<Vec<_>>() }).to_string()
}

#[test]
fn a_key_file_is_read_again_when_it_changed_and_one_that_is_of_no_use_leaves_the_old_keys() {
    let mut site = Site::new("changed", &[Key(1)]);
    assert!(site.admits(1, "a", &Key(1).token("a")) && !site.admits(2, "b", &Key(2).token("b")));
    assert_eq!(site.decisions.read_keys(), Ok(false), "nothing changed");
    for bad in ["", "{\"keys\":[", "{\"keys\":[]}", "-----BEGIN PUBLIC KEY-----\nMFk"] {
        let said = site.replaced(bad).unwrap_err();
        assert!(said.contains("changed: "), "{said}");
        assert_eq!(site.decisions.read_keys(), Ok(false), "said once: {bad:?}");
    }
    std::fs::remove_file(&site.file).unwrap();
    assert_eq!(site.decisions.read_keys(), Ok(false), "gone: somebody may be about to write it");
    assert!(site.decisions.reload_keys().is_err(), "a person asked");
    assert!(site.overdue().is_empty() && site.admits(3, "c", &Key(1).token("c")));
    assert_eq!(site.replaced(&set(&[Key(1), Key(2)])), Ok(true));
    assert!(site.admits(2, "b", &Key(2).token("b")) && site.overdue().is_empty());
    // Written where it is, not replaced.
    std::fs::write(&site.file, set(&[Key(3), Key(2)])).unwrap();
    assert_eq!(site.decisions.read_keys(), Ok(true));
    assert!(site.admits(4, "d", &Key(3).token("d")));
}

#[test]
fn who_stands_on_a_key_that_is_gone_is_cut_and_who_has_a_token_under_another_stays() {
    let mut site = Site::new("withdrawn", &[Key(1), Key(2)]);
    for (id, device, key) in [(1, "a", Key(1)), (2, "b", Key(2)), (3, "c", Key(1))] {
        assert!(site.admits(id, device, &key.token(device)));
    }
    // A fresh token on the live connection, under the other key.
    assert!(site.admits(3, "c", &Key(2).token("c")));
    assert_eq!(site.replaced(&set(&[Key(2)])), Ok(true));
    assert_eq!(site.overdue(), ["the key that signed the token of a was withdrawn"]);
    // Until it is cut off a moment later, its session misses nothing.
    assert!(site.decisions.allows(1, "up/a", Access::Read) && site.decisions.allows(2, "up/b", Access::Publish));
    // Cut off, its will is said, and what it subscribed to waits for whoever has a good token.
    let cut = site.decisions.overdue().remove(0);
    site.decisions.cutting(Some(cut));
    assert!(site.decisions.allows(1, "up/a", Access::Publish) && site.decisions.allows(1, "up/a", Access::Subscribe));
    site.decisions.cutting(None);
    assert!(!site.admits(4, "a", &Key(1).token("a")));
}

#[test]
fn before_a_message_is_handed_out_whose_token_ended_is_cut_and_who_only_listens_first() {
    let mut site = Site::new("ended", &[Key(1)]);
    let deny = site.file.with_extension("deny");
    let options = Options {
        key_file: site.file.clone(),
        issuer: "i".into(),
        audience: "claw".into(),
        denylist_file: Some(deny.clone()),
    };
    let _ = std::fs::remove_file(&deny);
    site.decisions = Decisions::new(options).unwrap();
    for (id, device, actions, life_s) in [
        (1, "sends", &["pub"][..], 600),
        (2, "both", &["pub", "sub"], 600),
        (3, "hears", &["sub"], 600),
        (4, "lives", &["sub"], 9000),
    ] {
        assert!(site.admits(id, device, &Key(1).token_to(device, actions, life_s)));
    }
    assert!(site.decisions.overdue_at_message_of(1).is_empty());
    // The issuer's time is ours.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    std::fs::write(&deny, format!("clawgate-denylist 1\ntime {}\n", now + 700)).unwrap();
    site.decisions.read_deny_list().unwrap();
    assert!(!site.decisions.allows(3, "up/hears", Access::Read), "refused until then");
    let cut: Vec<_> = site.decisions.overdue_at_message_of(1).into_iter().map(|cut| cut.mqtt_id).collect();
    assert_eq!(cut, ["g.hears", "g.both"], "not the one whose message it is");
    assert!(site.decisions.overdue_at_message_of(1).is_empty(), "looked at once");
    assert_eq!(site.overdue().len(), 3, "the tick cuts off who is left");
}

#[test]
fn the_same_key_as_pem_or_in_a_set_is_the_same_key() {
    let mut site = Site::new("forms", &[Key(1)]);
    assert!(site.admits(1, "a", &Key(1).token("a")));
    let pem = Key(1).secret().public_key().to_public_key_pem(LineEnding::LF).unwrap();
    assert_eq!(site.replaced(&pem), Ok(true));
    assert!(site.overdue().is_empty() && site.admits(2, "b", &Key(1).token("b")));
}

#[test]
fn a_token_that_is_good_only_later_admits_nobody() {
    let mut site = Site::new("later", &[Key(1)]);
    let mut admits = |nbf: Value| {
        let now = now_s();
        let claims = json!({
            "iss": "i", "aud": "claw", "sub": "d", "client_id": "g", "iat": now, "exp": now + 7200, "jti": "d", "nbf": nbf,
        });
        site.admits(1, "d", &Key(1).signed(&claims))
    };
    assert!(admits(json!(0)) && admits(json!(now_s())));
    assert!(!admits(json!(now_s() + 3600)));
    assert!(!admits(json!("soon")));
}
