//! Bluetooth Low Energy by BlueZ: adapters that come and go, sensors heard, links lent to who needs them.
//!
//! What decides is plain: [`heard`] (who is listed), [`arbiter`] (whose turn it is), [`ladder`] (what is done when
//! data is missing). What acts is thin: [`bus`] and [`gatt`] speak D-Bus, each call with a time of its own. A
//! link is the same [`Link`](crate::link::Link) as a serial line's, and so is what attends to it.

mod adapter;
mod arbiter;
mod bus;
mod carry;
mod gatt;
mod heard;
mod ladder;
mod options;
mod peer;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use adapter::Adapter;
pub(crate) use adapter::Common;
pub(crate) use bus::Ear;
use bus::{Bus, BusError};
use gatt::Radio;
pub(crate) use heard::{Heard, MOST_HEARD};
pub use options::{BleOptions, BleUse};
use state::RadioCondition;
pub use state::RadioState;
pub(crate) use state::Status;

/// The bus and BlueZ are tried again after this time, doubling.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// And at least so often, for ever.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// An adapter's task that ended is started anew after this time.
const ADAPTER_AGAIN: Duration = Duration::from_secs(1);

/// Uses BLE as the options say, until `stop`; other options are followed at once.
pub(crate) async fn serve(mut options: watch::Receiver<BleOptions>, common: Common, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let now = options.borrow_and_update().clone();
        let until = stop.child_token();
        common.status.required(now.usage == BleUse::On, &now.adapters);
        let serving =
            async { if now.usage == BleUse::Off { until.cancelled().await } else { run(&now, &common, &until).await } };
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => {}
            changed = options.changed() => {
                until.cancel();
                serving.await;
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Keeps a connection to the bus.
async fn run(options: &BleOptions, common: &Common, stop: &CancellationToken) {
    let mut retry = FIRST_RETRY;
    while !stop.is_cancelled() {
        match connect(common).await {
            Ok((bus, radio)) => {
                retry = FIRST_RETRY;
                follow(options, common, Arc::new(bus), &radio, stop).await;
            }
            Err(error) => common.status.trouble(Some(RadioCondition::Failed(error))),
        }
        pause(retry, stop).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

async fn connect(common: &Common) -> Result<(Bus, Radio), BusError> {
    let bus = Bus::connect(&common.ear).await?;
    let radio = Radio::new().await.map_err(|error| BusError::NoBus(error.to_string()))?;
    Ok((bus, radio))
}

/// Serves the adapters until the bus is gone.
async fn follow(options: &BleOptions, common: &Common, bus: Arc<Bus>, radio: &Radio, stop: &CancellationToken) {
    let mut changes = common.ear.changes();
    let mut adapters: BTreeMap<String, tokio::task::JoinHandle<()>> = BTreeMap::new();
    let mut looked = None;
    let mut retry = FIRST_RETRY;
    while !stop.is_cancelled() && !bus.lost.is_cancelled() {
        let owners = common.ear.said().owners;
        if looked != Some(owners) {
            match bus.look(&common.ear).await {
                Ok(()) => {
                    looked = Some(owners);
                    retry = FIRST_RETRY;
                }
                Err(error) => {
                    common.status.trouble(Some(RadioCondition::Failed(error)));
                    tokio::select! {
                        () = pause(retry, stop) => {}
                        () = bus.lost.cancelled() => {}
                        // It came: look at once.
                        _ = changes.changed() => {}
                    }
                    retry = (retry * 2).min(LAST_RETRY);
                    continue;
                }
            }
        }
        let there: Vec<String> = {
            let said = common.ear.said();
            said.adapters.keys().filter(|name| options.takes(name)).cloned().collect()
        };
        let none = there.is_empty().then_some(RadioCondition::NoAdapter);
        common.status.trouble(none);
        adapters.retain(|_, task| !task.is_finished());
        for name in there {
            adapters.entry(name).or_insert_with_key(|name| {
                let adapter =
                    Adapter::new(name.clone(), options.clone(), common.clone(), Arc::clone(&bus), radio.clone());
                common.tasks.spawn(supervised(adapter.run(stop.clone())))
            });
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = bus.lost.cancelled() => {}
            _ = changes.changed() => {}
        }
        // However much is said, adapters come and go seldom.
        pause(ADAPTER_AGAIN, stop).await;
    }
    for (_, task) in adapters {
        let _ = task.await;
    }
}

/// A task that panics is one adapter's loss, for a moment.
async fn supervised(task: impl Future<Output = ()> + Send + 'static) {
    if let Err(error) = tokio::spawn(task).await {
        tracing::error!(%error, "an adapter's task failed and is started anew");
    }
}

async fn pause(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
