//! What the protocol costs each end: a pairing, a session handshake, a record.
//!
//! One end is timed at a time: with its randomness repeated, it takes the recorded messages of the other.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark")]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use clawgate_protocol::keys::{PairingRecord, Slots};
use clawgate_protocol::pairing::{
    Ceremony, Gateway, GatewayOptions, GatewayStep, Profile, Prs, Sensor, SensorOptions, SensorStep, Suite,
};
use clawgate_protocol::session::{self, RECORD_OVERHEAD};
use clawgate_protocol::{Random, Transport};

const CODE: Prs = *b"K7QF3M9";

struct Repeating(u8);

impl Random for Repeating {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(5).wrapping_add(3);
            *byte = self.0;
        }
    }
}

fn start_gateway(suite: Suite) -> Gateway {
    let options = GatewayOptions {
        gateway: "shed".parse().unwrap(),
        device: None,
        ceremony: Ceremony::Issued,
        transport: Transport::Uart,
        max_suite: suite,
        min_suite: suite,
        config: b"",
    };
    Gateway::start(&options, &CODE, &[1; 32], 0, &mut Repeating(1)).unwrap()
}

fn start_sensor(suite: Suite, m1: &[u8]) -> Sensor<'static> {
    let options = SensorOptions {
        device: "th-kit".parse().unwrap(),
        ceremony: Ceremony::Issued,
        transport: Transport::Uart,
        max_suite: suite,
        min_suite: suite,
        max_message: 2048,
        profile: Profile { capabilities: "temperature:Cel", firmware: "1.0.0", certificate: None },
    };
    Sensor::accept(options, &CODE, &[2; 32], m1, 0, &mut Repeating(2)).unwrap()
}

/// The gateway's whole part, from M2 on; gives M3 and M5.
fn gateway_part(gateway: &mut Gateway, answers: [&[u8]; 3]) -> [Vec<u8>; 2] {
    let [m2, m4, m6] = answers;
    let GatewayStep::Send(m3) = gateway.handle(m2, 0) else { panic!("no M3") };
    let m3 = m3.to_vec();
    let _ = gateway.handle(m4, 0);
    let _ = gateway.attempt_counted();
    let GatewayStep::Send(m5) = gateway.pending_stored() else { panic!("no M5") };
    let m5 = m5.to_vec();
    assert!(matches!(gateway.handle(m6, 0), GatewayStep::Paired(_)));
    [m3, m5]
}

/// The sensor's whole part, from M3 on; gives M4 and M6.
fn sensor_part(sensor: &mut Sensor<'_>, m3: &[u8], m5: &[u8]) -> [Vec<u8>; 2] {
    let _ = sensor.handle(m3, 0);
    let SensorStep::Send(m4) = sensor.attempt_counted() else { panic!("no M4") };
    let m4 = m4.to_vec();
    let _ = sensor.handle(m5, 0);
    let SensorStep::Send(m6) = sensor.pending_stored() else { panic!("no M6") };
    [m4, m6.to_vec()]
}

/// M1 to M6 and both halves.
fn record_run(suite: Suite) -> ([Vec<u8>; 6], PairingRecord, PairingRecord) {
    let mut gateway = start_gateway(suite);
    let m1 = gateway.message().to_vec();
    let mut sensor = start_sensor(suite, &m1);
    let m2 = sensor.message().to_vec();
    let GatewayStep::Send(m3) = gateway.handle(&m2, 0) else { panic!("no M3") };
    let m3 = m3.to_vec();
    let _ = sensor.handle(&m3, 0);
    let SensorStep::Send(m4) = sensor.attempt_counted() else { panic!("no M4") };
    let m4 = m4.to_vec();
    let _ = gateway.handle(&m4, 0);
    let _ = gateway.attempt_counted();
    let GatewayStep::Send(m5) = gateway.pending_stored() else { panic!("no M5") };
    let m5 = m5.to_vec();
    let SensorStep::StorePending { record, .. } = sensor.handle(&m5, 0) else { panic!("not stored") };
    let theirs = record.clone();
    let SensorStep::Send(m6) = sensor.pending_stored() else { panic!("no M6") };
    let m6 = m6.to_vec();
    let GatewayStep::Paired(ours) = gateway.handle(&m6, 0) else { panic!("not paired") };
    ([m1, m2, m3, m4, m5, m6], ours.clone(), theirs)
}

fn pairing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pairing");
    for suite in [Suite::One, Suite::Two] {
        let ([m1, m2, m3, m4, m5, m6], ..) = record_run(suite);
        group.bench_function(BenchmarkId::new("gateway", suite.number()), |bench| {
            bench.iter(|| gateway_part(&mut start_gateway(suite), [&m2, &m4, &m6]));
        });
        group.bench_function(BenchmarkId::new("sensor", suite.number()), |bench| {
            bench.iter(|| sensor_part(&mut start_sensor(suite, &m1), &m3, &m5));
        });
    }
}

fn connect(ours: &PairingRecord, theirs: &PairingRecord) -> (session::Gateway, session::Sensor) {
    let (mut gateway, mut sensor) = (session::Gateway::default(), session::Sensor::default());
    let slots = Slots::new(Some(theirs.clone()), None);
    let first = gateway.connect(ours, Transport::Uart, &mut Repeating(3)).unwrap().to_vec();
    let second = sensor.handle_handshake1(&first, &slots, Transport::Uart, 0, &mut Repeating(4)).unwrap();
    gateway.handle_handshake2(second, 0).unwrap();
    (gateway, sensor)
}

fn handshake(criterion: &mut Criterion) {
    let (_, ours, theirs) = record_run(Suite::One);
    let slots = Slots::new(Some(theirs), None);
    let mut gateway = session::Gateway::default();
    let first = gateway.connect(&ours, Transport::Uart, &mut Repeating(3)).unwrap().to_vec();
    let second = session::Sensor::default()
        .handle_handshake1(&first, &slots, Transport::Uart, 0, &mut Repeating(4))
        .unwrap()
        .to_vec();

    let mut group = criterion.benchmark_group("handshake");
    group.bench_function("gateway", |bench| {
        bench.iter(|| {
            let mut gateway = session::Gateway::default();
            let _ = gateway.connect(&ours, Transport::Uart, &mut Repeating(3));
            gateway.handle_handshake2(&second, 0).unwrap();
            gateway
        });
    });
    group.bench_function("sensor", |bench| {
        bench.iter(|| {
            let mut sensor = session::Sensor::default();
            sensor.handle_handshake1(&first, &slots, Transport::Uart, 0, &mut Repeating(4)).unwrap().len()
        });
    });
    let mut garbage = first.clone();
    garbage[2] ^= 1;
    group.bench_function("sensor refuses a false key-id tag", |bench| {
        bench.iter(|| {
            let mut sensor = session::Sensor::default();
            sensor.handle_handshake1(&garbage, &slots, Transport::Uart, 0, &mut Repeating(4)).is_err()
        });
    });
}

fn records(criterion: &mut Criterion) {
    let (_, ours, theirs) = record_run(Suite::One);
    let mut group = criterion.benchmark_group("record");
    for size in [64_usize, 256, 1024, 4000] {
        let text = vec![7; size];
        group.throughput(Throughput::Bytes(u64::try_from(size).unwrap()));
        group.bench_with_input(BenchmarkId::new("seal", size), &text, |bench, text| {
            let (mut gateway, _) = connect(&ours, &theirs);
            let mut out = vec![0; size + RECORD_OVERHEAD];
            bench.iter(|| gateway.seal(text, &mut out).unwrap());
        });
        group.bench_with_input(BenchmarkId::new("open", size), &text, |bench, text| {
            let (mut gateway, mut sensor) = connect(&ours, &theirs);
            let seal = || {
                let mut out = vec![0; size + RECORD_OVERHEAD];
                gateway.seal(text, &mut out).unwrap();
                out
            };
            bench.iter_batched(seal, |mut record| sensor.open(&mut record).is_ok(), BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, pairing, handshake, records);
criterion_main!(benches);
