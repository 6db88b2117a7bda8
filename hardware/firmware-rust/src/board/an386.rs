//! ARM MPS2 with the AN386 image: a Cortex-M4; CMSDK UART0 is the console, UART1 the line. Suite 2.

use super::Register;

pub const CORE_HZ: u32 = 25_000_000;
pub const FACTORY_PAGE: usize = 0x003f_f000;
pub const LINE_INTERRUPT: u16 = 2;

/// What fits into this board's RAM.
pub mod limits {
    use clawgate_protocol::pairing::Suite;

    pub const MAX_SUITE: Suite = Suite::Two;
    pub const MESSAGE: usize = 1536;
    pub const RECORD: usize = 1024;
    pub const READINGS: usize = 16 * 1024;
    pub const RING: usize = 1024;
}

const CONSOLE: usize = 0x4000_4000;
const LINE: usize = 0x4000_5000;
const DATA: usize = 0x0;
const STATE: usize = 0x4;
const CTRL: usize = 0x8;
const CLEAR: usize = 0xc;
const BAUD: usize = 0x10;
const TX_FULL: u32 = 1;
const RX_FULL: u32 = 2;
const RX_INTERRUPT: u32 = 2;

pub fn start() -> Console {
    let divider = CORE_HZ / 115_200;
    for (uart, control) in [(CONSOLE, 0b11), (LINE, 0b1011)] {
        Register(uart + BAUD).write(divider);
        // Transmitter and receiver; on the line also the receiver's interrupt.
        Register(uart + CTRL).write(control);
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
    Register(LINE + CLEAR).write(RX_INTERRUPT);
    take(LINE)
}

pub fn put_line(byte: u8) -> bool {
    put(LINE, byte)
}

fn take(uart: usize) -> Option<u8> {
    let full = Register(uart + STATE).read() & RX_FULL != 0;
    full.then(|| Register(uart + DATA).read().to_le_bytes()[0])
}

fn put(uart: usize, byte: u8) -> bool {
    let room = Register(uart + STATE).read() & TX_FULL == 0;
    if room {
        Register(uart + DATA).write(byte.into());
    }
    room
}
