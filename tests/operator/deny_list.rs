//! The files of what was revoked: the issuer's own, and the one that a broker reads. While one of them cannot be written,
//! the operator hears of it; once it can, what was revoked meanwhile stands there.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use serde_json::Value;

use crate::site::{Site, until};

fn site() -> Site {
    let site = Site::standalone("");
    site.configure(&format!(
        "mode = \"standalone\"\n{}[standalone]\nlisten = \"127.0.0.1:0\"\n[control]\nsocket = \"{}\"\n",
        site.line("line1"),
        site.socket().display()
    ));
    let mut config = OpenOptions::new().append(true).open(site.config()).unwrap();
    // The issuer's table is the last one.
    writeln!(config, "publish_dir = \"{}\"", site.path("public").display()).unwrap();
    fs::create_dir(site.path("public")).unwrap();
    site
}

fn metric(status: &Value) -> String {
    let address = status["metrics"].as_str().unwrap();
    let text = ureq::get(address).call().unwrap().body_mut().read_to_string().unwrap();
    let name = "clawgate_token_deny_list_trouble ";
    text.lines().find_map(|line| line.strip_prefix(name)).expect("no such metric").to_owned()
}

/// Waits until status, exit code, alarm and metric say that this file cannot be written, and why.
fn is_told(site: &Site, file: &str, why: &str) {
    let status = until("the status says it", || {
        let status = site.status();
        let says = |problem: &Value| {
            let message = problem["message"].as_str().unwrap();
            problem["part"] == "deny_list" && message.contains(file) && message.contains(why)
        };
        status["problems"].as_array().unwrap().iter().any(says).then_some(status)
    });
    assert_eq!(site.run(&["status"]).code, 8);
    assert_eq!(metric(&status), "1");
    let alarm = until("the alarm stands", || {
        let alarms = site.status()["alarms"].as_array().unwrap().clone();
        alarms.into_iter().find(|alarm| alarm["kind"] == "deny_list" && alarm["words"].as_str().unwrap().contains(file))
    });
    assert!(alarm["next_step"].as_str().unwrap().contains("keys.md"), "{alarm}");
    until("the alarm is audited", || {
        let is_it = |line: &Value| line["action"] == "alarm.raise" && line["details"]["kind"] == "deny_list";
        site.audit().iter().any(is_it).then_some(())
    });
}

fn is_healed(site: &Site) {
    let status = until("nothing is said any more", || {
        let status = site.status();
        let of_files = |problem: &Value| ["deny_list", "issuer"].iter().any(|part| problem["part"] == *part);
        let is_over = !status["problems"].as_array().unwrap().iter().any(of_files);
        (is_over && status["alarms"] == serde_json::json!([])).then_some(status)
    });
    assert_eq!(metric(&status), "0");
}

#[test]
fn a_deny_list_that_cannot_be_written_is_told_until_it_can_and_forgets_nobody() {
    let site = site();
    let daemon = site.start();
    let mut sensor = site.thermometer("line1", &[]);
    site.pair("line1", &mut sensor).ok();
    until("the broker's file is there", || site.path("public/denylist").exists().then_some(()));
    is_healed(&site);

    // The issuer's own: what is in the way is no file that could be replaced.
    let in_the_way = site.path("state/revoked.json.new");
    fs::create_dir(&in_the_way).unwrap();
    let revoked = site.run(&["token", "revoke", "line1", "--why", "stolen"]);
    assert!(revoked.code != 0 && revoked.err.contains("revoked.json"), "{revoked:?}");
    is_told(&site, "revoked.json", "good again at a restart");
    let device = site.status()["devices"][0].clone();
    assert_eq!(device["token"]["state"], "revoked", "a full disk is no reason to let a thief go on: {device}");
    fs::remove_dir(&in_the_way).unwrap();
    is_healed(&site);
    let kept = |file: &str| fs::read_to_string(site.path(file)).unwrap_or_default().contains(" line1 ");
    assert!(kept("state/revoked.json") && kept("public/denylist"));

    // The broker's: somebody took its folder away.
    fs::rename(site.path("public"), site.path("elsewhere")).unwrap();
    is_told(&site, "public/denylist", "goes by an older one");
    fs::create_dir(site.path("public")).unwrap();
    is_healed(&site);
    assert!(kept("public/denylist"));
    assert_eq!(daemon.stop(), 0);
}
