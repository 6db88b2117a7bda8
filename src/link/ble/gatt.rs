//! A sensor's GATT service by btleplug: connect, find the two characteristics, write, subscribe. Every call has a
//! time of its own: those of the library are 30 s and more.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use btleplug::api::{Central as _, Characteristic, Manager as _, Peripheral as _, ValueNotification, WriteType};
use btleplug::platform::{Manager, Peripheral};
use futures_core::Stream;

use clawgate_protocol::ble::{RX, SERVICE, TX};

use crate::link::printable;

/// To find the device, connect to it and have its services resolved.
const CONNECT: Duration = Duration::from_secs(25);

/// To read its services.
const SERVICES: Duration = Duration::from_secs(10);

/// To subscribe; also to write one value.
const CALL: Duration = Duration::from_secs(8);

/// Why there is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum GattError {
    /// BlueZ does not know the device any more.
    #[error("it is not in reach any more")]
    Gone,
    /// No link in time.
    #[error("it did not answer the connect within {} s", CONNECT.as_secs())]
    NoAnswer,
    /// The library or BlueZ refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its words.
        why: String,
    },
    /// A call hung.
    #[error("{what}: BlueZ does not answer")]
    Silent {
        /// What was asked for.
        what: &'static str,
    },
    /// Connected, and it is none of ours.
    #[error("its service is gone or incomplete")]
    NoService,
}

/// Notifications, in order.
pub(crate) type Values = Pin<Box<dyn Stream<Item = ValueNotification> + Send>>;

/// What carries values: the air, or a test.
pub(crate) trait Gatt: Send + Sync + 'static {
    /// The ATT MTU.
    fn mtu(&self) -> u16;
    /// Writes one value to `rx`.
    fn write(&self, value: Vec<u8>, with_response: bool) -> impl Future<Output = Result<(), GattError>> + Send;
    /// Subscribes to `tx`, anew if it is subscribed already.
    fn subscribe(&self) -> impl Future<Output = Result<Values, GattError>> + Send;
}

/// The library's connection to BlueZ. It outlives restarts of bluetoothd, not of the bus.
#[derive(Clone)]
pub(crate) struct Radio(Manager);

/// A connected sensor.
pub(crate) struct Sensor {
    peripheral: Peripheral,
    rx: Characteristic,
    tx: Characteristic,
}

impl Radio {
    /// Connects to the bus.
    ///
    /// # Errors
    /// [`GattError::Refused`], [`GattError::Silent`].
    pub(crate) async fn new() -> Result<Self, GattError> {
        // libdbus connects in the thread that asks.
        let runtime = tokio::runtime::Handle::current();
        let made = tokio::task::spawn_blocking(move || runtime.block_on(Manager::new()));
        let made = within(CALL, "D-Bus", async move {
            made.await.unwrap_or_else(|error| Err(btleplug::Error::Other(error.into())))
        });
        made.await.map(Self)
    }

    /// Connects to a sensor. On an error the device may still be connecting: disconnect it.
    ///
    /// # Errors
    /// Every [`GattError`].
    pub(crate) async fn connect(&self, adapter: &str, address: &str) -> Result<Sensor, GattError> {
        let peripheral = within(CALL, "find", self.find(adapter, address)).await?.ok_or(GattError::Gone)?;
        match tokio::time::timeout(CONNECT, peripheral.connect()).await {
            Err(_) => return Err(GattError::NoAnswer),
            Ok(result) => result.map_err(|error| refused("connect", &error))?,
        }
        within(SERVICES, "services", peripheral.discover_services()).await?;
        let services = peripheral.services();
        let service = services.iter().find(|service| service.uuid.as_u128() == SERVICE).ok_or(GattError::NoService)?;
        let find = |uuid| service.characteristics.iter().find(|c| c.uuid.as_u128() == uuid).cloned();
        let (Some(rx), Some(tx)) = (find(RX), find(TX)) else { return Err(GattError::NoService) };
        Ok(Sensor { peripheral, rx, tx })
    }

    async fn find(&self, adapter: &str, address: &str) -> Result<Option<Peripheral>, btleplug::Error> {
        for found in self.0.adapters().await? {
            // The library's words: `hci0 (modalias)`.
            if found.adapter_info().await?.split(' ').next() != Some(adapter) {
                continue;
            }
            let known = found.peripherals().await?;
            return Ok(known.into_iter().find(|known| known.address().to_string().eq_ignore_ascii_case(address)));
        }
        Ok(None)
    }
}

impl Gatt for Sensor {
    fn mtu(&self) -> u16 {
        self.peripheral.mtu()
    }

    async fn write(&self, value: Vec<u8>, with_response: bool) -> Result<(), GattError> {
        let how = if with_response { WriteType::WithResponse } else { WriteType::WithoutResponse };
        within(CALL, "write", self.peripheral.write(&self.rx, &value, how)).await
    }

    async fn subscribe(&self) -> Result<Values, GattError> {
        // A subscription of before, which may be what is broken; none is as good.
        let _ = within(CALL, "unsubscribe", self.peripheral.unsubscribe(&self.tx)).await;
        // The stream first, so that nothing is missed.
        let values = within(CALL, "listen", self.peripheral.notifications()).await?;
        within(CALL, "subscribe", self.peripheral.subscribe(&self.tx)).await?;
        Ok(values)
    }
}

/// The next value of `tx`; nothing when the stream is over.
pub(crate) async fn next(values: &mut Values) -> Option<Vec<u8>> {
    loop {
        let value = std::future::poll_fn(|context| match values.as_mut().poll_next(context) {
            Poll::Ready(value) => Poll::Ready(value),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        if value.uuid.as_u128() == TX {
            return Some(value.value);
        }
    }
}

fn refused(what: &'static str, error: &btleplug::Error) -> GattError {
    let why: String = error.to_string().chars().take(200).collect();
    GattError::Refused { what, why: printable(&why) }
}

async fn within<T>(
    time: Duration,
    what: &'static str,
    call: impl Future<Output = Result<T, btleplug::Error>> + Send,
) -> Result<T, GattError> {
    match tokio::time::timeout(time, call).await {
        Ok(result) => result.map_err(|error| refused(what, &error)),
        Err(_) => Err(GattError::Silent { what }),
    }
}
