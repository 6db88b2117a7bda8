//! Size, stack and instructions of the C firmware stay within the limits of `hardware/sdk-c/figures.txt`.

use std::collections::BTreeMap;
use std::process::Command;

use crate::unit::{Make, ROOT, built};

/// Lines `board figure number...`; a `#` begins a comment.
fn rows(text: &str) -> BTreeMap<String, Vec<u64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[..2].join(" "), words[2..].iter().map(|number| number.parse().unwrap()).collect())
    };
    lines.map(row).collect()
}

#[test]
fn nothing_costs_more_than_its_limit() {
    let Some(out) = built(Make::C) else { return };
    let done = Command::new(format!("{ROOT}/hardware/sdk-c/bare/figures")).arg(out).output().unwrap();
    let measured = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{measured}{}", String::from_utf8_lossy(&done.stderr));
    let measured = rows(&measured);
    let limits = rows(&std::fs::read_to_string(format!("{ROOT}/hardware/sdk-c/figures.txt")).unwrap());
    assert_eq!(measured.keys().collect::<Vec<_>>(), limits.keys().collect::<Vec<_>>());
    for (name, limit) in limits {
        assert!(measured[&name][0] <= limit[1], "{name}: {} is above the limit of {}", measured[&name][0], limit[1]);
    }
}
