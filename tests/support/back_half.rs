//! The back half of the pipeline, spool and relay, as the tests of the relay run it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use std::time::Duration;

use bytes::Bytes;
use clawgate::clock::Clock;
use clawgate::ids::PairingId;
use clawgate::metrics::{Metrics, RelayMetrics};
use clawgate::relay::{Relay, RelayDevice, RelayOptions, RelayState};
use clawgate::spool::{Capture, Incoming, Kind, Lane, Spool, SpoolError, SpoolOptions, Submitted};
use clawgate::token::{TokenFeed, TokenHandle};
use clawgate_protocol::senml::{self, Number, Record, Value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{token_feed, within};

/// Spool and relay with nothing before them.
pub struct Gateway {
    _folder: tempfile::TempDir,
    pub spool: Spool,
    pub relay: Relay,
    pub metrics: RelayMetrics,
    stop: CancellationToken,
    task: JoinHandle<Result<(), SpoolError>>,
}

impl Gateway {
    /// Starts both towards a broker on loopback.
    pub fn start(port: u16, change: impl FnOnce(&mut RelayOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SpoolOptions { commit: Duration::from_millis(100), ..SpoolOptions::default() };
        let spool = Spool::open(&folder.path().join("spool.db"), options, Clock::system()).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(spool.clone().run(stop.clone()));
        let mut options = RelayOptions::new("127.0.0.1".into(), port, "default".into(), "site-1".into());
        options.backoff = (Duration::from_millis(20), Duration::from_millis(200));
        change(&mut options);
        let metrics = Metrics::new().relay;
        let relay = Relay::new(options, Clock::system(), metrics.clone()).unwrap();
        Self { _folder: folder, spool, relay, metrics, stop, task }
    }

    /// Attaches a device that has a token.
    pub fn attach(&self, device: &str) -> (Lane, TokenFeed) {
        let (feed, handle) = token_feed(device);
        (self.attach_with(device, handle), feed)
    }

    /// Attaches a device that was paired again.
    pub fn attach_as(&self, device: &str, pairing: PairingId) -> (Lane, TokenFeed) {
        let (feed, handle) = token_feed(device);
        (self.attach_pairing(device, pairing, handle), feed)
    }

    /// Attaches a device with this token.
    pub fn attach_with(&self, device: &str, handle: TokenHandle) -> Lane {
        self.attach_pairing(device, pairing(device), handle)
    }

    fn attach_pairing(&self, device: &str, pairing: PairingId, handle: TokenHandle) -> Lane {
        let lane = self.spool.lane(pairing);
        let description = serde_json::json!({ "units": ["Cel"] });
        let device = RelayDevice { id: device.parse().unwrap(), pairing, description };
        self.relay.attach(device, lane.clone(), handle);
        lane
    }

    /// State of the first device.
    pub fn state(&self) -> RelayState {
        self.relay.status()[0].state
    }

    /// Last error of the first device.
    pub fn last_error(&self) -> String {
        self.relay.status()[0].last_error.clone().unwrap_or_default()
    }

    /// Ends both in order.
    pub async fn stop(self) {
        within("the relay ends", self.relay.shutdown()).await;
        self.stop.cancel();
        within("the spool ends", self.task).await.unwrap().unwrap();
    }
}

/// A pairing named after its device.
pub fn pairing(device: &str) -> PairingId {
    let mut id = [0; 8];
    id[..device.len().min(8)].copy_from_slice(&device.as_bytes()[..device.len().min(8)]);
    PairingId(id)
}

/// A SenML pack with one whole number.
pub fn pack(value: u64) -> Bytes {
    let record = Record {
        base_time: Some(Number::Integer(1_700_000_000)),
        name: Some("t"),
        unit: Some("Cel"),
        value: Some(Value::Number(Number::Integer(value.cast_signed()))),
        ..Record::default()
    };
    let mut out = [0; 128];
    let len = senml::encode(&[record], &mut out).unwrap();
    Bytes::copy_from_slice(&out[..len])
}

/// A reading whose value is its seq.
pub fn reading(seq: u64) -> Incoming {
    Incoming { epoch: 0xfeed, seq, kind: Kind::Telemetry, content: pack(seq), captured: Capture::Exact }
}

/// Hands in readings as a session would.
pub fn submit(lane: &Lane, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        assert_eq!(lane.submit(reading(seq)).unwrap(), Submitted::Accepted, "seq {seq}");
    }
}
