//! A person approves a device (RFC 8628); then its refresh tokens rotate.

use std::sync::Arc;

use clawgate::token::oauth::{Families as _, Grant};
use clawgate::token::{Issuer as _, IssuerError, Remedy};

use super::server::{Shelf, Site, approval, approved, pump, refresh_token, request};

#[tokio::test]
async fn a_person_approves_a_device_once_and_its_refresh_tokens_rotate() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = site.client(Grant::DeviceCode, &shelf);
    let asked = approval(client.issue(&request("pump-3")).await);
    assert!(asked.url.starts_with(&site.url) && asked.left_s > 500, "{asked:?}");
    assert!(asked.complete_url.as_ref().is_some_and(|url| url.contains(&asked.code)));
    assert_eq!(approval(client.issue(&request("pump-3")).await).code, asked.code, "one request for one device");

    site.person(&format!("approve?user_code={}", asked.code)).await;
    let token = client.issue(&request("pump-3")).await.unwrap();
    assert_eq!(token.claims().sub, "pump-3", "the token stands for the device, not for the person");
    assert!(site.good_at_the_broker(&token));

    let mut seen = vec![shelf.kept.lock().unwrap()[&pump()].clone()];
    for _ in 0..3 {
        let next = client.issue(&request("pump-3")).await.unwrap();
        assert_ne!(next.jti(), token.jti());
        let refresh = shelf.kept.lock().unwrap()[&pump()].clone();
        assert!(!seen.contains(&refresh), "a refresh token was used twice");
        seen.push(refresh);
    }
    // After a restart it goes on without a person.
    site.client(Grant::DeviceCode, &shelf).issue(&request("pump-3")).await.unwrap();
}

#[tokio::test]
async fn a_person_who_says_no_pauses_the_device_until_it_is_asked_again() {
    let site = Site::start();
    let client = site.client(Grant::DeviceCode, &Arc::default());
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("deny?user_code={}", asked.code)).await;
    let refused = client.issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::NotApproved { .. }), "{refused}");
    assert!(refused.remedy() == Remedy::Quarantine && refused.to_string().contains("a person said no"), "{refused}");
    let again = approval(client.issue(&request("pump-3")).await);
    assert_ne!(again.code, asked.code, "asking again asks a person again");
}

#[tokio::test]
async fn a_stolen_refresh_token_ends_the_family_and_the_device_waits_for_a_person() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    let stolen = shelf.kept.lock().unwrap()[&pump()].clone();
    client.issue(&request("pump-3")).await.unwrap();

    // The thief uses what was replaced: the server ends the whole family.
    let thiefs = Arc::<Shelf>::default();
    thiefs.keep(&pump(), &refresh_token(stolen)).unwrap();
    let refused = site.client(Grant::DeviceCode, &thiefs).issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::ApprovalEnded { .. }), "{refused}");

    let ended = client.issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(ended, IssuerError::ApprovalEnded { .. }), "{ended}");
    assert_eq!(ended.remedy(), Remedy::Quarantine);
    assert!(shelf.kept.lock().unwrap().is_empty(), "a dead refresh token is kept");
    approval(client.issue(&request("pump-3")).await);
}

#[tokio::test]
async fn a_refresh_token_that_the_disk_does_not_take_is_used_all_the_same_and_kept_later() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    *shelf.full.lock().unwrap() = true;
    client.issue(&request("pump-3")).await.unwrap();
    let stale = shelf.kept.lock().unwrap()[&pump()].clone();
    client.issue(&request("pump-3")).await.expect("the one on disk was used, which ends the family");
    *shelf.full.lock().unwrap() = false;
    client.issue(&request("pump-3")).await.unwrap();
    assert_ne!(shelf.kept.lock().unwrap()[&pump()], stale);
}

#[tokio::test]
async fn after_a_crash_between_the_servers_answer_and_the_disk_a_person_is_asked_once() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    *shelf.full.lock().unwrap() = true;
    client.issue(&request("pump-3")).await.unwrap();
    drop(client);
    *shelf.full.lock().unwrap() = false;

    // Started again, it has only what was replaced, and the server takes that for a theft.
    let client = site.client(Grant::DeviceCode, &shelf);
    let ended = client.issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(ended, IssuerError::ApprovalEnded { .. }), "{ended}");
    assert_eq!(ended.remedy(), Remedy::Quarantine);
    let asked = approval(client.issue(&request("pump-3")).await);
    site.person(&format!("approve?user_code={}", asked.code)).await;
    client.issue(&request("pump-3")).await.unwrap();
    client.issue(&request("pump-3")).await.expect("the new family is kept and rotates");
}
