//! An issuer whose own clock is wrong, the gateway's and the broker's being right: what the operator reads, that nobody is
//! stormed and nothing lost, and that it goes on alone once the issuer has the time.

use std::time::Instant;

use super::daemon::{Daemon, Sensor};
use super::outages::{WallClock, keeps, most_attempts, one_device, reason, relay};
use super::site::{Site, goes_on};

/// What is told in each case.
const WHAT_NEXT: &str = "set the time where it is wrong";

pub(super) fn an_issuer_whose_own_clock_is_wrong(site: &mut Site) {
    let clock = WallClock::new(site.folder.path());
    let (daemon, sensor) = one_device(site, &[]);
    let (ahead, behind) = ("s ahead of the issuer's", "s behind the issuer's");
    // It does not believe what we sign; 60 s is how long our word is good for.
    refuses(site, &clock, &daemon, "+1d", behind);
    is_without_token_until_it_heals(site, &clock, &daemon, &sensor);
    refuses(site, &clock, &daemon, "-1d", ahead);
    refuses(site, &clock, &daemon, "+120", behind);
    // It takes our word, and its tokens are over when they come.
    turn(site, &clock, "-120");
    daemon.wait("a token comes", |daemon| daemon.cli(&["token", "rotate", "pump-3"]).status.success());
    daemon.wait("the cause is named", |daemon| {
        let told = reason(daemon, "pump-3");
        ["the broker refused the token (0x87)", ahead, WHAT_NEXT].iter().all(|part| told.contains(part))
    });
    is_without_token_until_it_heals(site, &clock, &daemon, &sensor);
    // What was in flight when the broker cut the connection may come twice.
    assert!(site.in_order() && site.duplicates() <= 100, "{} twice", site.duplicates());
}

/// The issuer ends, and comes back with this clock.
fn turn(site: &mut Site, clock: &WallClock, to: &str) {
    site.stop_issuer();
    clock.turn(to);
    site.resume_issuer_in(&clock.environment());
}

/// With this clock it refuses, and the operator who asks reads why: endpoint, status, its words, the clocks, what next.
fn refuses(site: &mut Site, clock: &WallClock, daemon: &Daemon, turned: &str, off: &str) {
    turn(site, clock, turned);
    let endpoint = format!("{}/token", site.front.url());
    let words = [&endpoint, "answered 401 invalid_client", off, WHAT_NEXT];
    let all = |text: &str| words.iter().all(|part| text.contains(part));
    daemon.wait(&format!("{turned}: who asks is told"), |daemon| {
        let asked = daemon.cli(&["token", "rotate", "pump-3"]);
        !asked.status.success() && all(&String::from_utf8_lossy(&asked.stderr))
    });
    daemon.wait(&format!("{turned}: the cause is named"), |daemon| all(&reason(daemon, "pump-3")));
}

/// The device's connection ends with its token, its readings are kept, the issuer is asked less and less often; and with
/// the right time all goes on alone.
fn is_without_token_until_it_heals(site: &mut Site, clock: &WallClock, daemon: &Daemon, sensor: &Sensor) {
    let asked = |site: &Site| site.front.asked().iter().filter(|one| one.device == "pump-3").count();
    let (begin, before) = (Instant::now(), asked(site));
    daemon.wait("the connection is given up", |daemon| relay(daemon, "pump-3") == "waiting_for_token");
    daemon.wait("the status is degraded", |daemon| daemon.cli(&["status"]).status.code() == Some(8));
    keeps(daemon, sensor, 20);
    let (asked, limit) = (asked(site) - before, 1 + most_attempts(begin.elapsed()));
    assert!(asked <= limit, "{asked} requests within {:?}", begin.elapsed());
    turn(site, clock, "+0");
    // The waits double: on a busy machine there were more of them.
    daemon.wait_long("it goes on alone", |daemon| relay(daemon, "pump-3") == "connected");
    site.has_all_of(daemon, sensor);
    goes_on(site, daemon, "pump-3", 10);
}
