//! Tokens that are bound to the gateway's certificate by TLS (RFC 8705, section 3).

use std::path::PathBuf;
use std::sync::Arc;

use clawgate::clock::Clock;
use clawgate::token::key::SigningKey;
use clawgate::token::oauth::{Grant, OauthIssuer, OauthOptions};
use clawgate::token::{ClientCertificate, Issuer as _, IssuerError, Remedy, Thumbprint};
use serde_json::json;
use tempfile::TempDir;

use super::authority::authority_of;
use super::server::{Shelf, Site, approval, request};

/// A CA, a server of it, and two certificates that a client may show.
pub(crate) struct Papers {
    folder: TempDir,
}

impl Papers {
    pub(crate) fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority_of(folder.path(), "ca", &["server", "ours", "theirs"]);
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn thumbprint(&self, name: &str) -> Thumbprint {
        Thumbprint::of_file(&self.path(&format!("{name}.pem"))).unwrap()
    }

    fn certificate(&self, name: &str) -> ClientCertificate {
        let key = std::fs::read(self.path(&format!("{name}.key"))).unwrap();
        ClientCertificate::of_file(&self.path(&format!("{name}.pem")), &key).unwrap()
    }

    /// A server that binds tokens, and says that they are bound to `names` whatever it was shown.
    pub(crate) fn site(&self, key: SigningKey, names: Option<&Thumbprint>) -> Site {
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap();
        let tls = json!({ "cert": read("server.pem"), "key": read("server.key") });
        let names = names.map(Thumbprint::as_str);
        Site::that(key, &json!({ "tls": tls, "binds_to": names })).trusted_by(&self.path("ca.pem"))
    }
}

fn client(site: &Site, certificate: Option<ClientCertificate>, grant: Grant) -> OauthIssuer {
    let options = OauthOptions { certificate, ..site.options() };
    OauthIssuer::with_grant(options, grant, Arc::<Shelf>::default(), Clock::system()).unwrap()
}

#[tokio::test]
async fn a_token_is_bound_to_the_certificate_that_the_issuer_is_shown() {
    let papers = Papers::make();
    let site = papers.site(SigningKey::generate().unwrap(), None);
    for name in ["ours", "theirs"] {
        for grant in [Grant::ClientCredentials, Grant::TokenExchange] {
            let token = client(&site, Some(papers.certificate(name)), grant).issue(&request("pump-3")).await.unwrap();
            assert_eq!(token.claims().certificate(), Some(&papers.thumbprint(name)), "{grant:?}");
        }
    }
    let client = client(&site, Some(papers.certificate("ours")), Grant::DeviceCode);
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("approve?user_code={}", asked.code)).await;
    for way in ["the approval", "the refresh token"] {
        let token = client.issue(&request("pump-3")).await.unwrap();
        assert_eq!(token.claims().certificate(), Some(&papers.thumbprint("ours")), "by {way}");
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_another_certificate_is_refused_with_words() {
    let papers = Papers::make();
    let theirs = papers.thumbprint("theirs");
    let site = papers.site(SigningKey::generate().unwrap(), Some(&theirs));
    for grant in [Grant::ClientCredentials, Grant::TokenExchange] {
        let shown = Some(papers.certificate("ours"));
        let refused = client(&site, shown, grant).issue(&request("pump-3")).await.unwrap_err();
        assert!(matches!(&refused, IssuerError::Mismatch { claim: "cnf", .. }), "{grant:?}: {refused}");
        let words = refused.to_string();
        assert!(words.contains(theirs.as_str()) && words.contains(papers.thumbprint("ours").as_str()), "{words}");
        assert_eq!(refused.remedy(), Remedy::Quarantine);
    }
}

#[tokio::test]
async fn a_server_that_insists_on_a_certificate_refuses_a_gateway_that_shows_none() {
    let papers = Papers::make();
    let site = papers.site(SigningKey::generate().unwrap(), None);
    let refused = client(&site, None, Grant::ClientCredentials).issue(&request("pump-3")).await.unwrap_err();
    assert!(refused.to_string().contains("invalid_grant"), "{refused}");
    // Nor is its name alone enough.
    let named = Some(papers.thumbprint("ours").into());
    let refused = client(&site, named, Grant::ClientCredentials).issue(&request("pump-3")).await.unwrap_err();
    assert!(refused.to_string().contains("invalid_grant"), "{refused}");
}

/// As an expired one is not taken, either.
#[tokio::test]
async fn a_certificate_that_the_server_hangs_up_on_is_named() {
    let papers = Papers::make();
    authority_of(papers.folder.path(), "other", &[]);
    let read = |name: &str| std::fs::read_to_string(papers.path(name)).unwrap();
    let tls = json!({ "cert": read("server.pem"), "key": read("server.key") });
    let strict = json!({ "tls": tls, "trusts": read("other.pem") });
    let site = Site::that(SigningKey::generate().unwrap(), &strict).trusted_by(&papers.path("ca.pem"));
    let shown = Some(papers.certificate("ours"));
    let refused = client(&site, shown, Grant::ClientCredentials).issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::Unreachable { .. }), "{refused}");
    assert!(refused.to_string().contains("the certificate of broker.client_cert was shown"), "{refused}");
    assert_eq!(refused.remedy(), Remedy::Retry(None));
}
