//! BBC micro:bit: an nRF51 (Cortex-M0, 16 KiB of RAM) with one UART, which is the line. The console is semihosting.
//!
//! QEMU gives it a SysTick, which the silicon does not have: a product counts with TIMER0 or RTC0.

use core::sync::atomic::{AtomicBool, Ordering};

use super::Register;
use crate::semihosting::{File, READ_ONLY, write_byte};

pub const CORE_HZ: u32 = 16_000_000;
pub const FACTORY_PAGE: usize = 0x0003_fc00;
pub const LINE_INTERRUPT: u16 = 2;

/// What fits into this board's RAM.
pub mod limits {
    use clawgate_protocol::pairing::Suite;

    pub const MAX_SUITE: Suite = Suite::One;
    pub const MESSAGE: usize = 256;
    pub const RECORD: usize = 224;
    pub const READINGS: usize = 2048;
    pub const RING: usize = 128;
}

const LINE: usize = 0x4000_2000;
const START_RX: usize = 0x000;
const START_TX: usize = 0x008;
const RX_READY: usize = 0x108;
const TX_READY: usize = 0x11c;
const INTERRUPT_SET: usize = 0x304;
const ENABLE: usize = 0x500;
const PIN_TX: usize = 0x50c;
const PIN_RX: usize = 0x514;
const RX: usize = 0x518;
const TX: usize = 0x51c;
const BAUD: usize = 0x524;

/// A byte is on its way out.
static SENDING: AtomicBool = AtomicBool::new(false);

pub fn start() -> Console {
    Register(LINE + PIN_TX).write(24);
    Register(LINE + PIN_RX).write(25);
    // 115200 baud.
    Register(LINE + BAUD).write(0x01d7_e000);
    Register(LINE + ENABLE).write(4);
    Register(LINE + INTERRUPT_SET).write(1 << 2);
    Register(LINE + START_RX).write(1);
    Register(LINE + START_TX).write(1);
    Console { input: File::open(c"console.in", READ_ONLY), turns: 0 }
}

/// Commands come from a file, to which more may be added at any time.
pub struct Console {
    input: Option<File>,
    turns: u8,
}

impl Console {
    /// Looks into the file in some of the turns only: each look stops the core.
    pub fn read(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.turns = self.turns.wrapping_add(1);
        if self.turns % 8 != 0 || self.input.as_mut()?.read(&mut byte) == 0 {
            return None;
        }
        // There may be more at once.
        self.turns = self.turns.wrapping_sub(1);
        Some(byte[0])
    }
}

pub fn write_console(byte: u8) {
    write_byte(byte);
}

pub fn take_line() -> Option<u8> {
    if Register(LINE + RX_READY).read() == 0 {
        return None;
    }
    // First the event, then the byte: what comes in between sets the event again.
    Register(LINE + RX_READY).write(0);
    Some(Register(LINE + RX).read().to_le_bytes()[0])
}

pub fn put_line(byte: u8) -> bool {
    if SENDING.load(Ordering::Relaxed) {
        if Register(LINE + TX_READY).read() == 0 {
            return false;
        }
        Register(LINE + TX_READY).write(0);
    }
    SENDING.store(true, Ordering::Relaxed);
    Register(LINE + TX).write(byte.into());
    true
}
