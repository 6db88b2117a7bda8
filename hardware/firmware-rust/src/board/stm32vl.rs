//! STM32VLDISCOVERY: a Cortex-M3 with 8 KiB of RAM; USART1 is the console (PA9, PA10), USART2 the line (PA2, PA3).

use super::Register;

pub const CORE_HZ: u32 = 24_000_000;
pub const FACTORY_PAGE: usize = 0x0801_fc00;
pub const LINE_INTERRUPT: u16 = 38;

/// What fits into this board's RAM.
pub mod limits {
    use clawgate_protocol::pairing::Suite;

    pub const MAX_SUITE: Suite = Suite::One;
    pub const MESSAGE: usize = 256;
    pub const RECORD: usize = 160;
    pub const READINGS: usize = 512;
    pub const RING: usize = 64;
}

const CONSOLE: usize = 0x4001_3800;
const LINE: usize = 0x4000_4400;
const STATUS: usize = 0x0;
const DATA: usize = 0x4;
const BAUD: usize = 0x8;
const CONTROL: usize = 0xc;
const RX_FULL: u32 = 1 << 5;
const TX_EMPTY: u32 = 1 << 7;
/// The board starts on its internal 8 MHz oscillator.
const BUS_HZ: u32 = 8_000_000;

pub fn start() -> Console {
    // Clocks of port A, USART1 and USART2; PA2 and PA9 alternate output, PA3 and PA10 input.
    let (apb2, apb1) = (Register(0x4002_1018), Register(0x4002_101c));
    apb2.write(apb2.read() | 1 << 2 | 1 << 14);
    apb1.write(apb1.read() | 1 << 17);
    let (low, high) = (Register(0x4001_0800), Register(0x4001_0804));
    low.write(low.read() & !(0xff << 8) | 0x4b << 8);
    high.write(high.read() & !(0xff << 4) | 0x4b << 4);
    for (uart, interrupt) in [(CONSOLE, 0), (LINE, 1 << 5)] {
        Register(uart + BAUD).write(BUS_HZ / 115_200);
        // USART, transmitter, receiver; on the line also the receiver's interrupt.
        Register(uart + CONTROL).write(1 << 13 | 1 << 3 | 1 << 2 | interrupt);
    }
    Console
}

pub struct Console;

impl Console {
    #[expect(clippy::unused_self, reason = "other boards keep a file open")]
    pub fn read(&mut self) -> Option<u8> {
        take(CONSOLE)
    }
}

pub fn write_console(byte: u8) {
    while !put(CONSOLE, byte) {}
}

pub fn take_line() -> Option<u8> {
    take(LINE)
}

pub fn put_line(byte: u8) -> bool {
    put(LINE, byte)
}

fn take(uart: usize) -> Option<u8> {
    let full = Register(uart + STATUS).read() & RX_FULL != 0;
    full.then(|| Register(uart + DATA).read().to_le_bytes()[0])
}

fn put(uart: usize, byte: u8) -> bool {
    let room = Register(uart + STATUS).read() & TX_EMPTY != 0;
    if room {
        Register(uart + DATA).write(byte.into());
    }
    room
}
