//! Two changes of one device at once, in a whole gateway that has no sensor.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{Config, LogLevel};
use crate::daemon::decide::Verdict;
use crate::daemon::tasks::Tasks;
use crate::daemon::{start, stop};
use crate::logging;
use crate::pairing::Commission as _;
use crate::secret::Secret;
use crate::store::{Decision, DeviceInfo, KeySlot, NewPairing};
use crate::token::TokenState;

struct Bed {
    gateway: Gateway,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config: Config = toml::from_str(
            r#"
                mode = "standalone"
                [ble]
                enabled = "off"
                [issuer]
                listen = "127.0.0.1:0"
                [standalone]
                listen = "127.0.0.1:0"
                [metrics]
                listen = "off"
                [log]
                level = "error"
            "#,
        )
        .unwrap();
        config.state_dir = folder.path().join("state");
        config.control.socket = folder.path().join("control");
        let mut tasks = Tasks::default();
        let log = logging::start(LogLevel::Info);
        let file = folder.path().join("clawgate.toml");
        let gateway = start::start(config, &file, log, Duration::ZERO, None, &mut tasks).await.unwrap();
        Self { gateway, tasks, _folder: folder }
    }

    /// The sensor has proven a key.
    async fn paired(&self, number: u8, decision: Decision) {
        let new = NewPairing {
            device: pump(),
            hardware_id: "th-1".to_owned(),
            info: DeviceInfo { decision, ..DeviceInfo::default() },
            key: KeySlot { pairing: PairingId([number; 8]), record: Secret::new(vec![number; 254]) },
            code: None,
        };
        let store = self.gateway.store().clone();
        let kept = blocking(move || {
            store.put_pending(&new)?;
            store.confirm_pending(&new.device, new.key.pairing)
        });
        kept.await.unwrap();
    }

    /// What follows a pairing.
    async fn token(&self) -> Result<String, String> {
        let token = self.gateway.0.service.token(&pump(), &|_| {}).await;
        token.map_err(|error| error.message)
    }

    fn state(&self) -> Option<TokenState> {
        Some(self.gateway.keeper().handle(&pump())?.watch().borrow().clone())
    }

    async fn stop(self) {
        stop::stop(&self.gateway, self.tasks).await;
    }
}

fn pump() -> DeviceId {
    "pump-3".parse().unwrap()
}

fn waiting() -> Decision {
    Decision::Waiting { since_ms: 0 }
}

/// It does not come to its end as long as something is held. Nothing is claimed of how fast it is without that.
async fn waits<T>(work: &mut (impl Future<Output = T> + Unpin)) -> bool {
    tokio::time::timeout(Duration::from_millis(300), work).await.is_err()
}

#[tokio::test]
async fn a_pairing_that_is_made_while_the_one_before_is_unpaired_stays_and_gets_its_token() {
    let bed = Bed::new().await;
    bed.paired(1, Decision::NotNeeded).await;
    bed.token().await.unwrap();
    let turn = bed.gateway.0.service.turn(&pump()).await;
    let known = bed.gateway.known(&pump()).await.unwrap();
    bed.paired(2, Decision::NotNeeded).await;
    bed.gateway.forget(&known, Actor::Daemon).await.unwrap();
    drop(turn);
    assert_eq!(bed.gateway.known(&pump()).await.unwrap().pairing(), Some(PairingId([2; 8])));
    bed.token().await.unwrap();
    assert!(matches!(bed.state(), Some(TokenState::Valid(_))));
    bed.stop().await;
}

#[tokio::test]
async fn what_follows_a_pairing_waits_for_an_unpairing_and_leaves_no_token_behind_it() {
    let bed = Bed::new().await;
    bed.paired(1, Decision::NotNeeded).await;
    let turn = bed.gateway.0.service.turn(&pump()).await;
    let mut token = Box::pin(bed.token());
    assert!(waits(&mut token).await);
    let known = bed.gateway.known(&pump()).await.unwrap();
    bed.gateway.forget(&known, Actor::Daemon).await.unwrap();
    drop(turn);
    assert!(token.await.unwrap_err().contains("not in the registry"));
    assert!(bed.state().is_none(), "{:?}", bed.state());
    // The other way round, too; also where both are under way at once.
    bed.paired(2, Decision::NotNeeded).await;
    let pump = pump();
    let (_, unpaired) = tokio::join!(bed.token(), bed.gateway.unpair(&pump, Actor::Daemon));
    unpaired.unwrap();
    assert!(bed.state().is_none(), "{:?}", bed.state());
    bed.stop().await;
}

#[tokio::test]
async fn who_is_revoked_at_the_moment_of_his_admission_stays_out() {
    let bed = Bed::new().await;
    bed.paired(1, Decision::NotNeeded).await;
    bed.token().await.unwrap();
    let admission = Arc::clone(&bed.gateway.0.service.admission).lock_owned().await;
    let pump = pump();
    let mut revoked = Box::pin(bed.gateway.revoke_token(&pump, "stolen", Actor::Daemon));
    assert!(waits(&mut revoked).await);
    assert!(bed.gateway.known(&pump).await.unwrap().revoked.is_none(), "first one, then the other");
    let mut attached = Box::pin(bed.token());
    assert!(waits(&mut attached).await);
    drop(admission);
    let (revoked, attached) = tokio::join!(revoked, attached);
    revoked.unwrap();
    assert!(attached.unwrap_err().contains("stolen"));
    assert!(matches!(bed.state(), Some(TokenState::Revoked { .. })), "{:?}", bed.state());
    bed.stop().await;
}

#[tokio::test]
async fn a_yes_lets_nobody_in_who_was_revoked_while_he_waited_for_it() {
    let bed = Bed::new().await;
    bed.paired(1, waiting()).await;
    bed.gateway.0.service.attach_again(&pump()).await.unwrap();
    bed.gateway.revoke_token(&pump(), "stolen", Actor::Daemon).await.unwrap();
    let refused = bed.gateway.decide(&pump(), Verdict::Approve, "", Actor::Daemon).await.unwrap_err();
    assert!(refused.message.contains("was revoked (stolen)"), "{refused}");
    assert!(matches!(bed.state(), Some(TokenState::Revoked { .. })), "{:?}", bed.state());
    // The revocation comes between the yes and the token.
    assert!(bed.gateway.0.service.admit(&pump()).await.unwrap_err().message.contains("revoked meanwhile"));
    assert!(matches!(bed.state(), Some(TokenState::Revoked { .. })), "{:?}", bed.state());
    // Paired again it waits again, and the yes is good.
    bed.paired(2, waiting()).await;
    bed.gateway.0.service.attach_again(&pump()).await.unwrap();
    bed.gateway.decide(&pump(), Verdict::Approve, "", Actor::Daemon).await.unwrap();
    assert!(!matches!(bed.state(), Some(TokenState::Revoked { .. } | TokenState::Held { .. })), "{:?}", bed.state());
    bed.stop().await;
}
