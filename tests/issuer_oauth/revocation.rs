//! What a revocation does at the server (RFC 7009), and what it cannot.

use std::sync::Arc;

use clawgate::token::keeper::KeeperError;
use clawgate::token::oauth::{Families as _, Grant};
use clawgate::token::{Issuer as _, IssuerError, TokenState};

use super::server::{Shelf, Site, approved, grant, keeper, pump, refresh_token, request, until};

#[tokio::test]
async fn revoking_a_device_ends_its_family_at_the_server() {
    let (site, shelf) = (Site::start(), Arc::<Shelf>::default());
    let client = approved(&site, &shelf).await;
    let family = shelf.kept.lock().unwrap()[&pump()].clone();
    client.revoke(&request("pump-3"), None, "sold").await.unwrap();
    assert!(shelf.kept.lock().unwrap().is_empty());
    let other = Arc::<Shelf>::default();
    other.keep(&pump(), &refresh_token(family)).unwrap();
    let refused = site.client(Grant::DeviceCode, &other).issue(&request("pump-3")).await.unwrap_err();
    assert!(matches!(refused, IssuerError::ApprovalEnded { .. }), "{refused}");
}

#[tokio::test]
async fn a_server_that_cannot_revoke_access_tokens_is_named_and_not_asked_again() {
    let site = Site::start();
    let client = site.client(Grant::ClientCredentials, &Arc::default());
    let token = client.issue(&request("pump-3")).await.unwrap();
    let problem = client.revoke(&request("pump-3"), Some(&token), "sold").await.unwrap_err();
    assert!(matches!(problem, IssuerError::CannotRevoke { .. }), "{problem}");

    let keeper = keeper(&site, Grant::ClientCredentials);
    let handle = keeper.add(&pump(), grant()).unwrap();
    until(&handle, |state| matches!(state, TokenState::Valid(_))).await;
    assert!(matches!(keeper.revoke(&pump(), "sold").await, Err(KeeperError::NotAtIssuer(_))));
    assert!(matches!(*handle.watch().borrow(), TokenState::Revoked { .. }), "cut off here whatever the server says");
    assert_eq!(keeper.status(&pump()).unwrap().next_request_in_s, None);
}
