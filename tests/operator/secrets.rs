//! Secrets that were handed in are searched for everywhere afterwards.

use std::fs;
use std::path::Path;

use crate::site::{Site, until};

/// Every file below a folder, with its bytes.
pub(crate) fn contents(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents(&path, found);
        } else if let Ok(bytes) = fs::read(&path) {
            // Some files are written beside their places and moved there: what is gone is found under its name.
            found.push((path.display().to_string(), bytes));
        }
    }
}

#[test]
fn a_code_a_key_or_a_token_appears_nowhere() {
    let site = Site::standalone("");
    site.configure(&format!(
        "mode = \"standalone\"\n{}[log]\nlevel = \"trace\"\n[standalone]\nlisten = \"127.0.0.1:0\"\n",
        site.line("bench")
    ));
    let mut sensor = site.sensor("bench");
    let daemon = site.start();
    assert_eq!(site.pair("bench", &mut sensor).code, 0);
    let issued = site.run(&["code", "new", "--ttl", "10m", "--json"]).ok().json()["code"].as_str().unwrap().to_owned();
    until("readings flow", || site.status()["devices"][0]["relay"]["confirmed"].as_u64().filter(|n| *n > 2));

    let mut seen = vec![
        ("arguments".to_owned(), fs::read(format!("/proc/{}/cmdline", daemon.id())).unwrap()),
        ("environment".to_owned(), fs::read(format!("/proc/{}/environ", daemon.id())).unwrap_or_default()),
    ];
    for verb in [["status", "--json"], ["devices", "ls"], ["code", "ls"], ["token", "ls"], ["audit", "export"]] {
        seen.push((verb.join(" "), site.run(&verb).out.into_bytes()));
    }
    let doctor = site.run(&["doctor", "--json", "--config", site.config().to_str().unwrap()]);
    assert!(doctor.out.contains("state"), "{doctor:?}");
    seen.push(("doctor".to_owned(), (doctor.out + &doctor.err).into_bytes()));
    let metrics = site.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(metrics.contains("clawgate_session_readings_total"), "{metrics}");
    seen.push(("metrics".to_owned(), metrics.into_bytes()));
    seen.push(("log".to_owned(), site.log().into_bytes()));
    // The databases while they are open, and after.
    contents(&site.path("state"), &mut seen);
    assert_eq!(daemon.stop(), 0);
    contents(&site.path("state"), &mut seen);

    let master_key = fs::read(site.path("state/master.key")).unwrap();
    let mut canaries: Vec<Vec<u8>> = vec![b"eyJ".to_vec(), b"PRIVATE KEY".to_vec(), master_key.trim_ascii().to_vec()];
    for code in [&sensor.label, &issued] {
        let plain = code.replace('-', "");
        // The password of the PAKE is the code without its check symbol.
        canaries.extend([code.clone(), plain.to_lowercase(), plain[..7].to_owned()].map(String::into_bytes));
    }
    for (place, bytes) in &seen {
        for canary in &canaries {
            let is_its_own_file = place.ends_with("/master.key");
            let found = bytes.windows(canary.len()).any(|window| window == canary);
            assert!(!found || is_its_own_file, "{:?} stands in {place}", String::from_utf8_lossy(canary));
        }
    }
}
