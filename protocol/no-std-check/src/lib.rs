//! A firmware that does nothing but be linked: see Cargo.toml.
#![no_std]

use clawgate_protocol::Random;
use clawgate_protocol::sensor::{STATE_LEN, Sensor, Storage, StorageFailed};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// A platform without anything.
pub struct Nothing;

impl Random for Nothing {
    fn fill(&mut self, _: &mut [u8]) {}
}

impl Storage for Nothing {
    fn save(&mut self, _: &[u8; STATE_LEN]) -> Result<(), StorageFailed> {
        Err(StorageFailed)
    }
}

/// Reaches the whole sensor, so that nothing of it is left out of the check.
pub fn reach(sensor: &mut Sensor<'_, Nothing>, message: &mut [u8], out: &mut [u8]) -> Option<usize> {
    sensor.handle(message, 0);
    sensor.poll_transmit(out, 0)
}
