//! The signing key of `issuer serve` changes while it runs, also over kill -9, and no token in between is worthless.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::*;

const GATEWAY: &str = "[clients.gw-1]\npublic_key = \"gw-1.pub\"\ntenant = \"default\"\n";

impl Site {
    /// `issuer rotate`; the id of the new key.
    fn rotate(&self, more: &[&str]) -> String {
        let file = self.path("issuer.toml");
        let args = [&["issuer", "rotate", "--json", "--config", file.to_str().unwrap()], more].concat();
        let made: serde_json::Value = serde_json::from_slice(&clawgate(&args)).unwrap();
        made["id"].as_str().unwrap().to_owned()
    }

    /// What a broker on this machine reads.
    fn file(&self) -> BTreeSet<String> {
        ids(&fs::read_to_string(self.path("jwks")).unwrap())
    }
}

impl Serving {
    fn published(&self) -> BTreeSet<String> {
        ids(&ureq::get(format!("{}/jwks", self.url)).call().unwrap().body_mut().read_to_string().unwrap())
    }
}

fn ids(jwks: &str) -> BTreeSet<String> {
    let jwks: Jwks = serde_json::from_str(jwks).unwrap();
    jwks.keys.into_iter().map(|key| key.kid).collect()
}

fn signer(token: &AccessToken) -> String {
    jsonwebtoken::decode_header(token.bearer()).unwrap().kid.unwrap()
}

/// Tokens of one gateway, which gets new ones until one is signed by `key`. All of them are good meanwhile.
async fn until_signed_by(key: &str, site: &Site, serving: &Serving, tokens: &mut Vec<AccessToken>) {
    let (gateway, deadline) = (serving.gateway(site), Instant::now() + Duration::from_secs(60));
    loop {
        let token = gateway.issue(&request()).await.unwrap();
        let is_it = signer(&token) == key;
        if is_it || tokens.len() < 5 {
            tokens.push(token);
        }
        assert!(tokens.iter().all(|token| serving.verifies(site, token)));
        if is_it {
            return;
        }
        assert!(Instant::now() < deadline, "{key} does not sign");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_key_changes_by_command_while_tokens_are_fetched_and_over_kill_9() {
    let site = Site::new(free_port());
    let port = free_port();
    site.write_config(port, &format!("lead = \"2s\"\njwks = \"jwks\"\n{GATEWAY}"));
    let serving = site.serve();
    let first = serving.gateway(&site).issue(&request()).await.unwrap();
    let mut tokens = vec![first.clone()];
    assert_eq!((site.file(), serving.published()), (BTreeSet::from([signer(&first)]), site.file()));

    let second = site.rotate(&[]);
    assert!(site.file().contains(&second) && serving.published() == site.file());
    until_signed_by(&second, &site, &serving, &mut tokens).await;
    assert!(serving.verifies(&site, &first), "its key is published until it has expired");

    // Published, and killed before it signs.
    let third = site.rotate(&[]);
    drop(serving);
    let serving = site.serve();
    assert_eq!((site.file(), serving.published()), (site.file(), site.file()));
    until_signed_by(&third, &site, &serving, &mut tokens).await;

    // Killed while it makes a key, at another moment each time.
    let mut serving = serving;
    for moment in 0..8 {
        serving.signal("-USR1");
        tokio::time::sleep(Duration::from_millis(moment)).await;
        drop(serving);
        serving = site.serve();
        tokens.push(serving.gateway(&site).issue(&request()).await.unwrap());
        assert!(tokens.iter().all(|token| serving.verifies(&site, token)));
    }

    // Somebody else may know it.
    let newest = site.rotate(&["--now"]);
    assert_eq!(
        (serving.published(), site.file()),
        (BTreeSet::from([newest.clone()]), BTreeSet::from([newest.clone()]))
    );
    assert!(tokens.iter().all(|token| !serving.verifies(&site, token)));
    let token = serving.gateway(&site).issue(&request()).await.unwrap();
    assert!(signer(&token) == newest && serving.verifies(&site, &token));

    // While none runs.
    drop(serving);
    let last = site.rotate(&[]);
    let serving = site.serve();
    assert!(serving.published().contains(&last) && serving.verifies(&site, &token));
    assert_eq!(mode(&site.path("issuer.pem")), 0o600);
}

#[tokio::test]
async fn a_key_that_is_due_changes_by_itself_and_only_once() {
    let site = Site::new(free_port());
    let port = free_port();
    site.write_config(port, &format!("rotate = \"30d\"\nlead = \"1s\"\n{GATEWAY}"));
    // A key of an issuer that was off for three periods.
    clawgate(&["issuer", "key", site.path("issuer.pem").to_str().unwrap()]);
    let file = fs::File::options().write(true).open(site.path("issuer.pem")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(100 * 86_400)).unwrap();
    let old = SigningKey::load(&site.path("issuer.pem")).unwrap().public().kid.clone();
    let serving = site.serve();
    let keys = serving.published();
    assert!(keys.len() == 2 && keys.contains(&old), "{keys:?}");
    let new = keys.iter().find(|key| **key != old).unwrap().clone();
    let mut tokens = vec![serving.gateway(&site).issue(&request()).await.unwrap()];
    until_signed_by(&new, &site, &serving, &mut tokens).await;
    drop(serving);
    let serving = site.serve();
    assert_eq!(serving.published(), keys, "no other key");
    assert!(tokens.iter().all(|token| serving.verifies(&site, token)));
}
