//! The C sensor as firmware: its bare-metal images on emulated boards, against the real daemon and against a hostile
//! gateway. Needs gcc-arm-none-eabi and qemu-system-arm, which `tests/run` installs; without them it says so.
#![cfg(feature = "standalone")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "../support/daemon.rs"]
mod daemon;
mod figures;
#[path = "../line/gateway.rs"]
#[allow(dead_code, reason = "the serial line's own tests use all of it")]
mod gateway;
mod hostile;
#[path = "../support/mqtt_client.rs"]
mod mqtt_client;
mod renew;
#[path = "../support/serial_site.rs"]
mod serial_site;
#[path = "../support/mod.rs"]
mod support;
mod unit;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use daemon::Daemon;
use serde_json::Value as Json;
use serial_site::{Site, wait_for_sensor};
use support::until;
use unit::{BIG, Board, ONE_UART, SMALL, Unit};

const LABEL: &str = "K7QF-3M9B";
const WRONG: &str = "0000-0000";
/// What must come, comes within this time on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The exit code of `pair` with a label code.
fn pair_by_label(daemon: &Daemon, unit: &mut Unit, code: &str) -> Option<i32> {
    let opened = unit.count("pairing window open");
    unit.tell("button");
    unit.until("pairing window open", opened + 1);
    let mut pair = daemon.command(&["pair", "line1", "--name", "c-1"]);
    let mut pair = pair.env("OPENCLAW_PAIRING_CODE", code).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    pair_ends(&mut pair, unit)
}

/// Gives it a reading to confirm as soon as the keys are there, and waits for the end of `pair`.
fn pair_ends(pair: &mut Child, unit: &mut Unit) -> Option<i32> {
    let before = unit.count("paired with") + unit.count("pairing failed");
    unit.wait("the run ends", |unit| unit.count("paired with") + unit.count("pairing failed") > before);
    if unit.last_of(&["paired with", "pairing failed"]) == "paired with gw-1" {
        unit.tell("read 1");
    }
    pair.wait().unwrap().code()
}

/// Starts `pair --issue`; the code that it shows.
fn issue(daemon: &Daemon) -> (Child, String) {
    let mut pair = daemon.command(&["pair", "line1", "--issue", "--name", "c-1", "--json"]);
    let mut pair = pair.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(pair.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    let code: Json = serde_json::from_str(&lines.next().unwrap()).unwrap();
    let code = code["code"].as_str().unwrap().to_owned();
    (pair, code)
}

/// Takes readings up to this value, never more at once than its memory holds.
fn measure(unit: &mut Unit, from: u64, to: u64) {
    let batch = unit.board.held_at_once;
    for first in (from..=to).step_by(usize::try_from(batch).unwrap()) {
        unit.tell(&format!("read {}", batch.min(to + 1 - first)));
        unit.until_all_are_safe();
    }
}

async fn pairs_by_its_label_and_comes_back(board: &'static Board) {
    let site = Site::new();
    let Some(mut unit) = Unit::start(board, site.folder(), &["--label", LABEL]) else { return };
    let mut daemon = site.daemon_with(&format!("[pairing]\nmin_suite = {}\n", board.suite));
    site.subscribe().await;
    wait_for_sensor(&daemon);

    assert_eq!(pair_by_label(&daemon, &mut unit, WRONG), Some(4), "a wrong code is told as such");
    assert_eq!(unit.status()["label_attempts"], 1);
    // What a wrong guess costs outlives the power.
    unit.power_cycle();
    assert_eq!(unit.status()["label_attempts"], 1);
    wait_for_sensor(&daemon);
    assert_eq!(pair_by_label(&daemon, &mut unit, LABEL), Some(0), "{}", daemon.log());
    site.until_arrived(1..=1, 1).await;
    unit.until("key proven", 1);
    assert_eq!(unit.status()["label_attempts"], 0);

    measure(&mut unit, 2, 1001);
    site.until_arrived(2..=1001, 1).await;
    assert!(daemon.cli(&["identify", "c-1"]).status.success());
    unit.until("blink for", 1);

    // Its own count of readings begins anew: these values come for the second time.
    let sessions = unit.count("session open");
    unit.power_cycle();
    unit.until("session open", sessions + 1);
    measure(&mut unit, 1, 10);
    site.until_arrived(2..=10, 2).await;

    daemon.kill();
    unit.tell("read 5");
    daemon.resume();
    site.subscribe().await;
    unit.until("session open", sessions + 2);
    unit.until_all_are_safe();
    measure(&mut unit, 16, 20);
    site.until_arrived(16..=20, 2).await;

    assert!(daemon.cli(&["unpair", "c-1"]).status.success());
    unit.until("reset: all keys erased", 1);
    assert_eq!(unit.status()["paired"], false);
    unit.power_cycle();
    assert_eq!(unit.status()["paired"], false, "what was erased came back");
    unit.stack_was_enough();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_its_label_and_comes_back_on_a_big_board() {
    pairs_by_its_label_and_comes_back(&BIG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_its_label_and_comes_back_in_8_kib() {
    pairs_by_its_label_and_comes_back(&SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_its_label_and_comes_back_on_a_cortex_m0() {
    pairs_by_its_label_and_comes_back(&ONE_UART).await;
}

async fn pairs_by_an_entered_code_and_again_after_a_factory_reset(board: &'static Board) {
    let site = Site::new();
    let Some(mut unit) = Unit::start(board, site.folder(), &["--label", "none"]) else { return };
    let daemon = site.daemon_with(&format!("[pairing]\nmin_suite = {}\n", board.suite));
    site.subscribe().await;
    wait_for_sensor(&daemon);
    unit.tell("button");
    unit.until("this unit has no label code", 1);
    unit.tell("code K7QF-3M9C");
    unit.until("this is not a code", 1);

    let (mut pair, _code) = issue(&daemon);
    unit.tell(&format!("code {WRONG}"));
    unit.until("pairing failed", 1);
    assert_eq!(unit.status()["paired"], false);
    let _ = pair.kill();
    let _ = pair.wait();

    for (round, first_value) in [(1, 1), (2, 7)] {
        let (mut pair, code) = issue(&daemon);
        unit.tell(&format!("code {code}"));
        assert_eq!(pair_ends(&mut pair, &mut unit), Some(0), "round {round}: {}", daemon.log());
        measure(&mut unit, first_value + 1, first_value + 5);
        site.until_arrived(first_value..=first_value + 5, 1).await;
        unit.tell("reset");
        unit.until("reset: all keys erased", round);
        assert_eq!(unit.status()["paired"], false);
    }
    unit.stack_was_enough();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_an_entered_code_and_again_after_a_factory_reset_on_a_big_board() {
    pairs_by_an_entered_code_and_again_after_a_factory_reset(&BIG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_an_entered_code_and_again_after_a_factory_reset_in_8_kib() {
    pairs_by_an_entered_code_and_again_after_a_factory_reset(&SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pairs_by_an_entered_code_and_again_after_a_factory_reset_on_a_cortex_m0() {
    pairs_by_an_entered_code_and_again_after_a_factory_reset(&ONE_UART).await;
}

#[test]
fn without_a_random_source_it_refuses_to_pair() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(&SMALL, folder.path(), &["--seed", "none"]) else { return };
    unit.until("no random source: pairing is refused", 1);
    unit.tell("button");
    unit.until("no random source: pairing is refused", 2);
    assert_eq!(unit.count("pairing window open"), 0);
}
