//! What the daemon holds when nothing happens.

use super::commands::Commanders;
use super::daemon::Sensor;
use super::principal::{hears, listener};
use super::{Site, goes_on};

/// Of a build for tests with a device and its own connection; it holds 6 MiB. One buffer of a library that is sized for
/// the most that a protocol allows, or one for each connection, is more than the rest.
const AT_MOST_KIB: u64 = 16 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_at_rest_holds_little_memory_with_a_device_and_an_ear_for_commands() {
    let site = Site::start().await;
    let mut heard = listener(&site).await;
    let mut sensor = Sensor::start(&site.folder.path().join("a"), &[]);
    Commanders::new(site.folder.path());
    let mut daemon = site.daemon_with(&[("p1", &sensor)], &Commanders::config(site.folder.path()));
    daemon.pair("p1", &mut sensor, "pump-3");
    goes_on(&site, &daemon, "pump-3", 2);
    hears(&mut heard, "status", |said| said["state"] == "online" && said["devices"][0]["id"] == "pump-3").await;
    // Both connections stand, each with what it made room for. What a pairing needed for a moment may go first.
    daemon.wait("it holds little", |daemon| daemon.anonymous_kib() <= AT_MOST_KIB);
    assert!(daemon.stop());
}
