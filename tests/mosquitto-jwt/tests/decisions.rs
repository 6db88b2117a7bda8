//! What the plugin decides without a broker.
#![allow(dead_code, reason = "the plugin's modules are taken in whole")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "../src/decisions.rs"]
mod decisions;
#[path = "../src/deny.rs"]
mod deny;
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

use std::time::{Duration, Instant};

use deny::DenyList;
use peer::{address, lies_in};
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
    let told = |pairs: &[(&str, &str)]| options::Options::from_pairs(pairs.iter().copied()).unwrap_err();
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
