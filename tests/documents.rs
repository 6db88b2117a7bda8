//! What the documents say is so: the sample configuration is what the daemon takes and its defaults are those, and each
//! test that an attack is held by is there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::path::Path;

use clawgate::config::{Config, load};

fn sample() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clawgate.sample.toml");
    fs::read_to_string(path).unwrap()
}

fn load_text(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clawgate.toml");
    fs::write(&path, text).unwrap();
    load(&path).unwrap()
}

#[test]
fn the_sample_is_taken_as_it_stands() {
    assert_eq!(load_text(&sample()).uart.ports.len(), 1);
}

#[test]
fn every_key_that_is_commented_out_is_a_key_too() {
    let uncommented: Vec<_> = sample()
        .lines()
        .map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line).to_owned())
        .collect();
    // Not all of them at once: some belong to one kind of broker or issuer.
    let config: Config = toml::from_str(&uncommented.join("\n")).unwrap();
    assert!(config.broker.client_key.is_some() && config.issuer.ca.is_some() && config.master_key.is_some());
}

#[test]
fn the_values_it_shows_are_the_defaults() {
    let sample = load_text(&sample());
    let default = Config { uart: sample.uart.clone(), broker: sample.broker.clone(), ..Config::default() };
    let mut shown = sample;
    shown.standalone.subscribers.clear();
    assert_eq!(shown, default);
}

/// `FILE.rs::NAME`, and `::NAME` of the file named last.
#[test]
fn each_test_that_the_page_of_attacks_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/attacks.md")).unwrap();
    let (mut file, mut named, mut gone) = ("", 0, Vec::new());
    for quoted in text.split('`').skip(1).step_by(2) {
        let Some((path, name)) = quoted.split_once("::") else { continue };
        if !path.is_empty() {
            file = path;
        }
        named += 1;
        let source = fs::read_to_string(root.join(file)).unwrap_or_default();
        if !source.contains(&format!("fn {name}(")) {
            gone.push(format!("{file}::{name}"));
        }
    }
    assert!(named > 100, "only {named} were found: has the form changed?");
    assert_eq!(gone, Vec::<String>::new());
}
