//! What a technician does.

use crate::rig::Rig;

#[test]
fn a_sensor_is_found_paired_by_its_label_and_its_readings_arrive() {
    let rig = Rig::start();
    let mut unit = rig.sensor(1, &["--every", "50ms"]);
    rig.daemon.wait("it is heard", |_| rig.found(&unit).is_some_and(|found| found["state"] == "closed"));
    let found = rig.found(&unit).unwrap();
    assert_eq!((found["rssi_dbm"].as_i64(), found["name"].as_str()), (Some(-61), Some("TH-Kit")));
    rig.pair(&mut unit, "pump-1");
    rig.readings(&unit, 20);
    let status = rig.status();
    assert_eq!(status["health"], "ok", "{status}");
    assert_eq!((&status["radios"][0]["id"], &status["radios"][0]["links"]), (&"hci0".into(), &1.into()), "{status}");
    assert_eq!(rig.bluez.world().rude_connects, 0, "scanning pauses for a connect");
}
