//! What somebody in the wire gets, who bends, drops or repeats messages, or says to be another; and what a bad wire costs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clawgate::pairing::Cause;
use clawgate::pairing::code::CodeState;
use clawgate_protocol::message::Kind;
use clawgate_protocol::sensor::Event;

use super::{bench, wrong};
use crate::gateway::{Gateway, Place};
use crate::unit::{Unit, Way, label};
use crate::until;

/// Stands in the wire and drops the first `count` messages of a kind.
fn drops(kind: Kind, mut count: u32) -> impl FnMut(Way, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static {
    move |_, message| {
        if Kind::of(&message) == Ok(kind) && count > 0 {
            count -= 1;
            return vec![];
        }
        vec![message]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_answers_burn_nothing() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(600));
    unit.bend(|_, mut message| {
        if matches!(Kind::of(&message), Ok(Kind::M2 | Kind::M4)) {
            message.truncate(message.len() / 2);
        }
        vec![message]
    });
    unit.enter(&code);
    until("a run ended", || unit.look(|seen| seen.events.iter().any(|e| matches!(e, Event::PairingFailed(_))))).await;
    assert_eq!(gateway.code_state().1, 0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_share_costs_one_attempt_and_both_ends_fail() {
    let (_place, unit, gateway) = bench().await;
    let code = gateway.make_code(Duration::from_secs(600));
    unit.bend(|_, mut message| {
        if Kind::of(&message) == Ok(Kind::M3) {
            let last = message.len() - 1;
            message[last] ^= 1;
        }
        vec![message]
    });
    unit.enter(&code);
    until("the attempt is counted", || gateway.code_state() == (CodeState::Claimed, 1)).await;
    until("both failed", || unit.look(|seen| seen.events.iter().any(|e| matches!(e, Event::PairingFailed(_))))).await;
    assert!(!gateway.is_paired("pump-3") && unit.look(|seen| !seen.paired));
    // What was entered is spent for this window; entered again over an honest wire it still pairs.
    unit.bend(|_, message| vec![message]);
    unit.enter(&code);
    until("paired", || gateway.is_paired("pump-3")).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_who_it_is_without_end_is_looked_into_now_and_then_and_still_pairs() {
    let (_place, unit, gateway) = bench().await;
    unit.bend(|_, message| {
        let times = if Kind::of(&message) == Ok(Kind::Ident) { 100 } else { 1 };
        vec![message; times]
    });
    let line = clawgate::metrics::Link { link: "line0".to_owned() };
    let dropped = || gateway.metrics.link.bad_messages.get_or_create(&line).get();
    // While a code lives the gateway asks again and again. A pairing that is under way takes no notice of what is said.
    let code = gateway.make_code(Duration::from_secs(600));
    until("most of it is dropped", || dropped() > 200).await;
    unit.enter(&code);
    until("paired", || gateway.is_paired("pump-3")).await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_transcript_played_again_pairs_nobody() {
    let (_place, unit, gateway) = bench().await;
    let heard = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let tap = Arc::clone(&heard);
    unit.bend(move |way, message| {
        if way == Way::ToGateway && matches!(Kind::of(&message), Ok(Kind::M2 | Kind::M4 | Kind::M6)) {
            tap.lock().unwrap().push(message.clone());
        }
        vec![message]
    });
    let code = gateway.make_code(Duration::from_secs(600));
    unit.enter(&code);
    until("paired", || gateway.is_paired("pump-3")).await;
    let before = gateway.pairing_of("pump-3");
    unit.factory_reset();
    let old = heard.lock().unwrap().clone();
    unit.bend(move |_, message| {
        let kind = Kind::of(&message);
        let again = old.iter().find(|old| Kind::of(old) == kind).cloned();
        vec![again.unwrap_or(message)]
    });
    let code = gateway.make_code(Duration::from_secs(600));
    unit.enter(&code);
    until("the run failed", || unit.look(|seen| seen.events.iter().any(|e| matches!(e, Event::PairingFailed(_)))))
        .await;
    assert_eq!(gateway.pairing_of("pump-3"), before);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_message_of_each_kind_does_not_stop_a_pairing() {
    for kind in [Kind::M1, Kind::M2, Kind::M3, Kind::M4, Kind::M5, Kind::M6] {
        let (_place, unit, gateway) = bench().await;
        unit.bend(drops(kind, 1));
        unit.press_button().await;
        unit.measure(1);
        gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_whose_confirmation_never_arrives_proves_the_key_in_a_session() {
    let (_place, unit, gateway) = bench().await;
    unit.bend(drops(Kind::M6, u32::MAX));
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sensor_that_only_pretends_to_be_another_changes_nothing() {
    let place = Place::new();
    let (port, other) = (place.port("usb-a"), place.port("usb-b"));
    let unit = Unit::plug_in(&port, "th-0001");
    let gateway = Gateway::start(&place, &[&port, &other]);
    gateway.meets_a_sensor().await;
    unit.press_button().await;
    unit.measure(1);
    gateway.pair_label("line0", "pump-3", &label()).await.assert_paired();
    let before = gateway.pairing_of("pump-3");
    let liar = Unit::plug_in(&other, "th-0001");
    until("the second shows itself", || gateway.links.ports()[1].frames_in > 0).await;
    liar.press_button().await;
    let failure = gateway.pair_label("line1", "pump-3", &wrong()).await.failure();
    assert_eq!(failure.cause, Cause::WrongCode);
    unit.measure(1);
    until("the true one goes on", || gateway.cloud.readings().len() == 2).await;
    assert_eq!(gateway.pairing_of("pump-3"), before);
    gateway.stop().await;
}
