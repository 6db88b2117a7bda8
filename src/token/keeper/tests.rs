//! The keeper against an issuer that does as it is told, in paused time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::token::key::SigningKey;
use crate::token::local::{DenyList, LocalIssuer};
use crate::token::{AccessToken, IssuerError, TokenFuture};

const LIFE: Duration = Duration::from_secs(600);

/// Gives good tokens unless told otherwise, and counts.
struct Script {
    issuer: LocalIssuer,
    failures: Mutex<VecDeque<IssuerError>>,
    issued: AtomicUsize,
    revoked: AtomicUsize,
    /// What was asked, in order: `issue` and `revoke`.
    asked: Mutex<Vec<&'static str>>,
    revoke_fails: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    takes: Mutex<Duration>,
}

impl Issuer for Script {
    fn issue<'a>(&'a self, request: &'a TokenRequest) -> TokenFuture<'a, AccessToken> {
        Box::pin(async move {
            let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_in_flight.fetch_max(now, Ordering::SeqCst);
            let takes = *self.takes.lock().unwrap();
            tokio::time::sleep(takes).await;
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            self.issued.fetch_add(1, Ordering::SeqCst);
            self.asked.lock().unwrap().push("issue");
            let failure = self.failures.lock().unwrap().pop_front();
            match failure {
                Some(failure) => Err(failure),
                None => self.issuer.issue(request).await,
            }
        })
    }

    fn revoke<'a>(&'a self, _: &'a TokenRequest, _: Option<&'a AccessToken>, _: &'a str) -> TokenFuture<'a, ()> {
        Box::pin(async move {
            self.revoked.fetch_add(1, Ordering::SeqCst);
            self.asked.lock().unwrap().push("revoke");
            let fails = self.revoke_fails.load(Ordering::SeqCst);
            self.revoke_fails.store(fails.saturating_sub(1), Ordering::SeqCst);
            if fails > 0 { Err(busy(None)) } else { Ok(()) }
        })
    }
}

fn busy(retry_after: Option<Duration>) -> IssuerError {
    IssuerError::Busy { endpoint: "e".to_owned(), status: 503, words: "down".to_owned(), retry_after }
}

fn invalid_grant() -> IssuerError {
    IssuerError::Refused {
        endpoint: "e".to_owned(),
        status: 400,
        code: "invalid_grant".to_owned(),
        words: String::new(),
    }
}

struct Bed {
    clock: Clock,
    script: Arc<Script>,
    keeper: TokenKeeper,
}

impl Bed {
    fn new() -> Self {
        let clock = Clock::manual(Duration::from_secs(1_700_000_000));
        let key = SigningKey::generate().unwrap();
        let script = Arc::new(Script {
            issuer: LocalIssuer::new("urn:test", key, DenyList::in_memory(), clock.clone()),
            failures: Mutex::default(),
            issued: AtomicUsize::new(0),
            revoked: AtomicUsize::new(0),
            asked: Mutex::default(),
            revoke_fails: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            takes: Mutex::new(Duration::ZERO),
        });
        let options = KeeperOptions { tenant: "t".to_owned(), gateway: "g".to_owned(), stage: Stage::default() };
        let issuer: Arc<dyn Issuer> = Arc::<Script>::clone(&script);
        let keeper = TokenKeeper::new(issuer, options, clock.clone());
        Self { clock, script, keeper }
    }

    fn fails_with(&self, failures: impl IntoIterator<Item = IssuerError>) {
        self.script.failures.lock().unwrap().extend(failures);
    }

    fn add(&self, device: &str) -> TokenHandle {
        self.keeper.add(&id(device), grant()).unwrap()
    }

    /// Both clocks go on, second by second.
    async fn pass(&self, time: Duration) {
        settle().await;
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            tokio::time::advance(Duration::from_secs(1)).await;
            settle().await;
        }
    }

    fn issued(&self) -> usize {
        self.script.issued.load(Ordering::SeqCst)
    }

    fn state(&self, device: &str) -> String {
        self.keeper.status(&id(device)).unwrap().state
    }

    fn jti(handle: &TokenHandle) -> String {
        match &*handle.watch().borrow() {
            TokenState::Valid(token) => token.jti().to_owned(),
            other => panic!("no token but {other:?}"),
        }
    }
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn id(device: &str) -> DeviceId {
    device.parse().unwrap()
}

fn grant() -> Grant {
    Grant { scope: vec![Scope::TelemetryWrite], life: LIFE, audience: "a".to_owned(), limits: Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_between_70_and_80_percent_of_its_life() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(419)).await;
    assert_eq!(bed.issued(), 1);
    let first = Bed::jti(&handle);
    bed.pass(Duration::from_secs(62)).await;
    assert_eq!(bed.issued(), 2);
    assert_ne!(Bed::jti(&handle), first);
}

#[tokio::test(start_paused = true)]
async fn fifty_refreshes_at_once_are_one_request() {
    let bed = Bed::new();
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    *bed.script.takes.lock().unwrap() = Duration::from_secs(2);
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let keeper = bed.keeper.clone();
            tokio::spawn(async move { keeper.rotate(&id("pump-3")).await })
        })
        .collect();
    bed.pass(Duration::from_secs(3)).await;
    for one in asking {
        one.await.unwrap().unwrap();
    }
    assert_eq!(bed.issued(), 2, "the first token and one for all fifty");
}

#[tokio::test(start_paused = true)]
async fn many_devices_at_once_do_not_storm_the_issuer() {
    let bed = Bed::new();
    *bed.script.takes.lock().unwrap() = Duration::from_secs(1);
    for n in 0..100 {
        bed.add(&format!("d{n}"));
    }
    bed.pass(Duration::from_secs(15)).await;
    assert_eq!(bed.issued(), 100);
    assert_eq!(bed.script.most_in_flight.load(Ordering::SeqCst), MAX_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out_with_the_old_token_and_then_without() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.fails_with((0..12).map(|_| busy(None)));
    bed.pass(Duration::from_secs(550)).await;
    assert_eq!(bed.state("pump-3"), "valid", "the old token still lives");
    assert!(bed.keeper.status(&id("pump-3")).unwrap().reason.is_some(), "and the failure is told");
    bed.pass(Duration::from_secs(60)).await;
    assert_eq!(bed.state("pump-3"), "waiting");
    bed.pass(Duration::from_secs(3000)).await;
    Bed::jti(&handle);
    assert!(bed.issued() < 25, "{} requests in an hour", bed.issued());
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept() {
    let bed = Bed::new();
    bed.fails_with([busy(Some(Duration::from_secs(120)))]);
    bed.add("pump-3");
    bed.pass(Duration::from_secs(119)).await;
    assert_eq!(bed.issued(), 1);
    bed.pass(Duration::from_secs(3)).await;
    assert_eq!(bed.state("pump-3"), "valid");
}

#[tokio::test(start_paused = true)]
async fn invalid_grant_pauses_that_device_only_until_an_operator_rotates() {
    let bed = Bed::new();
    bed.fails_with([invalid_grant()]);
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.add("pump-4");
    bed.pass(Duration::from_secs(3600)).await;
    assert_eq!((bed.state("pump-3").as_str(), bed.state("pump-4").as_str()), ("quarantined", "valid"));
    assert_eq!(bed.keeper.rotate(&id("pump-3")).await.unwrap().state, "valid");
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_replaced_once_and_then_the_device_pauses() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    let first = Bed::jti(&handle);
    handle.refused(&first);
    handle.refused(&first);
    bed.pass(Duration::from_secs(1)).await;
    let second = Bed::jti(&handle);
    assert_ne!(second, first);
    assert_eq!(bed.issued(), 2, "the second refusal was of the old token");
    handle.refused(&second);
    bed.pass(Duration::from_secs(3600)).await;
    assert_eq!(bed.state("pump-3"), "quarantined");
    assert_eq!(bed.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_long_after_another_is_a_first_one_again() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    handle.refused(&Bed::jti(&handle));
    bed.pass(LIFE).await;
    handle.refused(&Bed::jti(&handle));
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!(bed.state("pump-3"), "valid");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_shorten_the_wait_that_an_issuer_asked_for() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.fails_with([busy(Some(Duration::from_secs(300)))]);
    bed.pass(Duration::from_secs(480)).await;
    assert_eq!((bed.issued(), bed.state("pump-3").as_str()), (2, "valid"));
    handle.refused(&Bed::jti(&handle));
    bed.pass(Duration::from_secs(200)).await;
    assert_eq!((bed.issued(), bed.state("pump-3").as_str()), (2, "waiting"));
    bed.pass(Duration::from_secs(102)).await;
    assert_eq!((bed.issued(), bed.state("pump-3").as_str()), (3, "valid"));
}

#[tokio::test(start_paused = true)]
async fn tokens_of_another_time_that_the_broker_refuses_are_no_reason_to_pause_nor_to_ask_in_haste() {
    let bed = Bed::new();
    let right = bed.clock.wall();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    // The issuer's time does not follow.
    bed.clock.set_wall(right.saturating_sub(Duration::from_secs(86_400)));
    let refuses = || {
        if matches!(&*handle.watch().borrow(), TokenState::Valid(_)) {
            handle.refused(&Bed::jti(&handle));
        }
    };
    for _ in 0..60 {
        refuses();
        bed.pass(Duration::from_secs(1)).await;
    }
    // Waits of half a second, one, two, ... at the least.
    assert!((4..=8).contains(&bed.issued()), "{} requests within a minute", bed.issued());
    refuses();
    settle().await;
    let status = bed.keeper.status(&id("pump-3")).unwrap();
    assert_eq!(status.state, "waiting");
    let reason = status.reason.unwrap();
    assert!(reason.contains("(0x87)") && reason.contains("s behind the issuer's: set the time"), "{reason}");
    bed.clock.set_wall(right + bed.clock.boot());
    bed.pass(Duration::from_secs(300)).await;
    assert_eq!(bed.state("pump-3"), "valid");
    // A refusal is one again.
    for _ in 0..2 {
        handle.refused(&Bed::jti(&handle));
        settle().await;
    }
    assert_eq!(bed.state("pump-3"), "quarantined");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_ends_a_token_a_moment_early_has_not_refused_it() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.fails_with([busy(Some(Duration::from_secs(300)))]);
    bed.pass(LIFE.saturating_sub(Duration::from_secs(2))).await;
    handle.refused(&Bed::jti(&handle));
    bed.pass(Duration::from_secs(300)).await;
    // Had that counted, this would be the second in a row.
    handle.refused(&Bed::jti(&handle));
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!((bed.issued(), bed.state("pump-3").as_str()), (4, "valid"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_the_issuer_is_down_waits_for_the_issuer() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.fails_with([busy(None), busy(None)]);
    handle.refused(&Bed::jti(&handle));
    bed.pass(Duration::from_millis(0)).await;
    assert_eq!(bed.state("pump-3"), "waiting", "the refused token is not tried again");
    bed.pass(Duration::from_secs(10)).await;
    let second = Bed::jti(&handle);
    handle.refused(&second);
    bed.pass(Duration::from_secs(10)).await;
    assert_eq!(bed.state("pump-3"), "quarantined");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_device_stays_out_until_it_is_paired_again() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.keeper.revoke(&id("pump-3"), "stolen").await.unwrap();
    assert!(matches!(&*handle.watch().borrow(), TokenState::Revoked { reason } if reason == "stolen"));
    bed.pass(LIFE * 2).await;
    assert_eq!(bed.issued(), 1);
    assert!(matches!(bed.keeper.rotate(&id("pump-3")).await, Err(KeeperError::Revoked(_))));
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    Bed::jti(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_ends_the_request_in_flight() {
    let bed = Bed::new();
    *bed.script.takes.lock().unwrap() = Duration::from_secs(20);
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.keeper.revoke(&id("pump-3"), "stolen").await.unwrap();
    bed.pass(Duration::from_secs(60)).await;
    assert_eq!(bed.state("pump-3"), "revoked");
}

#[tokio::test(start_paused = true)]
async fn the_issuer_is_told_of_a_revocation_until_it_listens() {
    let bed = Bed::new();
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.script.revoke_fails.store(2, Ordering::SeqCst);
    let told = bed.keeper.revoke(&id("pump-3"), "stolen").await;
    assert!(matches!(told, Err(KeeperError::NotYetAtIssuer(_))));
    assert_eq!(bed.state("pump-3"), "revoked", "here it is cut off at once");
    bed.pass(Duration::from_secs(30)).await;
    assert_eq!(bed.script.revoked.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn the_issuer_is_told_of_a_revocation_however_long_it_was_away() {
    let bed = Bed::new();
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.script.revoke_fails.store(usize::MAX, Ordering::SeqCst);
    bed.keeper.revoke(&id("pump-3"), "stolen").await.unwrap_err();
    // The access token is long over; what it was fetched with need not be.
    bed.pass(LIFE * 3).await;
    bed.script.revoke_fails.store(0, Ordering::SeqCst);
    let before = bed.script.revoked.load(Ordering::SeqCst);
    assert!(before < 20, "told {before} times in half an hour");
    bed.pass(LIFE).await;
    assert_eq!(bed.script.revoked.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(start_paused = true)]
async fn the_issuer_is_told_of_a_revocation_although_the_device_is_forgotten() {
    let bed = Bed::new();
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.script.revoke_fails.store(2, Ordering::SeqCst);
    bed.keeper.remove(&id("pump-3"), "unpaired").await.unwrap_err();
    bed.pass(Duration::from_secs(30)).await;
    assert_eq!(bed.script.revoked.load(Ordering::SeqCst), 3);
}

/// The issuer cannot be told of a revocation when it is made; the device is granted something again before it is told.
async fn late_revocation(away: impl AsyncFnOnce(&TokenKeeper) -> KeeperError) -> Vec<&'static str> {
    let bed = Bed::new();
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.script.revoke_fails.store(1, Ordering::SeqCst);
    away(&bed.keeper).await;
    let handle = bed.add("pump-3");
    bed.pass(LIFE / 2).await;
    Bed::jti(&handle);
    bed.keeper.shutdown().await;
    bed.script.asked.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_is_late_never_comes_after_the_first_token_of_the_next_pairing() {
    let in_order = ["issue", "revoke", "revoke", "issue"];
    let unpaired = late_revocation(async |keeper| keeper.remove(&id("pump-3"), "unpaired").await.unwrap_err());
    assert_eq!(unpaired.await, in_order, "unpaired and paired again");
    let revoked = late_revocation(async |keeper| keeper.revoke(&id("pump-3"), "stolen").await.unwrap_err());
    assert_eq!(revoked.await, in_order, "revoked and paired again");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_takes_no_revocation_keeps_no_pairing_from_its_token() {
    let bed = Bed::new();
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.script.revoke_fails.store(usize::MAX, Ordering::SeqCst);
    bed.keeper.remove(&id("pump-3"), "unpaired").await.unwrap_err();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    Bed::jti(&handle);
    let told = bed.script.revoked.load(Ordering::SeqCst);
    bed.pass(LIFE / 2).await;
    assert_eq!(bed.script.revoked.load(Ordering::SeqCst), told, "it is not told any more");
    assert!(locked(&bed.keeper.0.leaving).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_revocation_counts_from_when_it_is_asked_for() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    // Whoever lets it in after that does, whichever of the two is waited for first.
    let revoked = bed.keeper.revoke(&id("pump-3"), "stolen");
    bed.add("pump-3");
    revoked.await.unwrap();
    bed.pass(Duration::from_secs(1)).await;
    Bed::jti(&handle);
}

#[tokio::test(start_paused = true)]
async fn another_life_of_tokens_lets_nobody_in_who_is_out() {
    let bed = Bed::new();
    let valid = bed.add("pump-3");
    bed.add("pump-4");
    bed.keeper.hold(&id("pump-5"), grant(), "it waits").unwrap();
    bed.pass(Duration::from_secs(1)).await;
    bed.keeper.revoke(&id("pump-4"), "stolen").await.unwrap();
    let before = Bed::jti(&valid);
    assert!(bed.keeper.set_life(LIFE * 2).is_empty());
    bed.pass(Duration::from_secs(1)).await;
    assert_ne!(Bed::jti(&valid), before);
    assert_eq!((bed.state("pump-4"), bed.state("pump-5")), ("revoked".to_owned(), "held".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_turned_wall_clock_neither_hastens_nor_delays_a_refresh() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    let left = || match &*handle.watch().borrow() {
        TokenState::Valid(token) => token.left(&bed.clock),
        other => panic!("no token but {other:?}"),
    };
    bed.pass(Duration::from_secs(1)).await;
    bed.clock.set_wall(Duration::from_secs(86_400));
    assert!(left() <= LIFE, "nor lengthen it");
    bed.pass(Duration::from_secs(400)).await;
    assert_eq!(bed.issued(), 1);
    bed.clock.set_wall(Duration::from_secs(4_000_000_000));
    bed.pass(Duration::from_secs(1)).await;
    assert!(left() > Duration::ZERO, "nor does it end a token");
    bed.pass(Duration::from_secs(99)).await;
    assert_eq!(bed.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_revoked_before_a_restart_gets_no_token_and_the_issuer_is_told_again() {
    let bed = Bed::new();
    bed.keeper.add_revoked(&id("pump-3"), grant(), "stolen").unwrap();
    bed.pass(LIFE * 2).await;
    let status = bed.keeper.status(&id("pump-3")).unwrap();
    assert_eq!((status.state.as_str(), status.reason.as_deref()), ("revoked", Some("stolen")));
    assert_eq!((bed.issued(), bed.script.revoked.load(Ordering::SeqCst)), (0, 1));
    let handle = bed.add("pump-3");
    assert!(matches!(*handle.watch().borrow(), TokenState::Waiting { .. }), "nobody sees the old revocation any more");
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!(bed.state("pump-3"), "valid", "paired again");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_given_up_and_tried_again() {
    let bed = Bed::new();
    *bed.script.takes.lock().unwrap() = Duration::from_secs(1 << 30);
    bed.add("pump-3");
    bed.pass(Duration::from_secs(30)).await;
    assert!(bed.keeper.status(&id("pump-3")).unwrap().reason.unwrap().contains("30 s"));
    *bed.script.takes.lock().unwrap() = Duration::ZERO;
    bed.pass(Duration::from_secs(5)).await;
    assert_eq!(bed.state("pump-3"), "valid");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ends_while_the_issuer_does_not_answer_is_no_token_any_more() {
    let bed = Bed::new();
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    // All places at the issuer are taken, so that nothing limits the wait.
    let places = Arc::clone(&bed.keeper.0.requests).acquire_many_owned(8).await.unwrap();
    bed.pass(LIFE).await;
    assert_eq!(bed.state("pump-3"), "waiting");
    drop(places);
    bed.pass(Duration::from_secs(1)).await;
    assert_eq!(bed.state("pump-3"), "valid");
}

#[tokio::test(start_paused = true)]
async fn removing_a_device_ends_its_task() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    bed.keeper.remove(&id("pump-3"), "unpaired").await.unwrap();
    settle().await;
    assert!(bed.keeper.list().is_empty());
    assert!(handle.watch().has_changed().is_err(), "the sender is gone");
    assert!(matches!(bed.keeper.rotate(&id("pump-3")).await, Err(KeeperError::Unknown(_))));
    bed.keeper.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_device_gets_no_token_by_any_way_until_it_is_granted_one() {
    let bed = Bed::new();
    let handle = bed.keeper.hold(&id("pump-3"), grant(), "it waits").unwrap();
    bed.pass(Duration::from_secs(1000)).await;
    assert!(matches!(bed.keeper.rotate(&id("pump-3")).await, Err(KeeperError::Held { .. })));
    handle.refused("some");
    bed.pass(Duration::from_secs(10)).await;
    assert_eq!((bed.issued(), bed.state("pump-3").as_str()), (0, "held"));
    assert_eq!(bed.keeper.tally().held, 1);
    bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    Bed::jti(&handle);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_held_later_loses_its_token_and_the_one_that_is_on_its_way() {
    let bed = Bed::new();
    let handle = bed.add("pump-3");
    bed.pass(Duration::from_secs(1)).await;
    Bed::jti(&handle);
    *bed.script.takes.lock().unwrap() = Duration::from_secs(5);
    let keeper = bed.keeper.clone();
    let rotating = tokio::spawn(async move { keeper.rotate(&id("pump-3")).await });
    bed.pass(Duration::from_secs(1)).await;
    bed.keeper.hold(&id("pump-3"), grant(), "it waits").unwrap();
    assert!(matches!(*handle.watch().borrow(), TokenState::Held { .. }), "at once");
    bed.pass(Duration::from_secs(1000)).await;
    assert!(rotating.await.unwrap().is_err());
    assert!(matches!(*handle.watch().borrow(), TokenState::Held { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_token_that_is_limited_to_addresses_is_told_apart() {
    let bed = Bed::new();
    let limits = Limits::new(vec!["192.0.2.0/24".parse().unwrap()], None).unwrap();
    let limited = bed.keeper.add(&id("pump-3"), Grant { limits, ..grant() }).unwrap();
    let free = bed.add("pump-4");
    bed.pass(Duration::from_secs(1)).await;
    for handle in [&limited, &free] {
        handle.refused(&Bed::jti(handle));
        // Nobody's token.
        handle.refused("other");
    }
    bed.pass(Duration::from_secs(1)).await;
    let refusals = |device| bed.keeper.status(&id(device)).unwrap().limited_refusals;
    assert_eq!((refusals("pump-3"), refusals("pump-4")), (1, 0));
}
