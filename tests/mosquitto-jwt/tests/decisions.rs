//! What the plugin decides without a broker.
#![allow(dead_code, reason = "the plugin's modules are taken in whole")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where by panicking")]

#[path = "../src/decisions.rs"]
mod decisions;
#[path = "../src/deny.rs"]
mod deny;
#[path = "../src/topics.rs"]
mod topics;

use deny::DenyList;
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
    let told = |pairs: &[(&str, &str)]| decisions::Options::from_pairs(pairs.iter().copied()).unwrap_err();
    assert!(told(&[("key_file", "k"), ("issuer", "i")]).contains("audience"));
    assert!(told(&[("key", "k")]).contains("plugin_opt_key "));
}
