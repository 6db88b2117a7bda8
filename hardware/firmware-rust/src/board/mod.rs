//! The boards. Each file has the registers of its UARTs, behind the same few functions; here they become a unit's.

#[cfg_attr(feature = "mps2-an386", path = "an386.rs")]
#[cfg_attr(feature = "microbit", path = "microbit.rs")]
mod chosen;

use clawgate_unit::factory::FACTORY_LEN;
use clawgate_unit::unit::Board;
use cortex_m::peripheral::NVIC;
use cortex_m_rt::exception;

use crate::ring::Ring;
use crate::{clock, stack};

pub use chosen::{CORE_HZ, limits, write_console};

/// What the line brought.
static LINE: Ring<{ limits::RING }> = Ring::new();

/// A register.
#[derive(Clone, Copy)]
struct Register(usize);

impl Register {
    fn read(self) -> u32 {
        // SAFETY: a device register of this board, by its manual.
        unsafe { (self.0 as *const u32).read_volatile() }
    }

    fn write(self, value: u32) {
        // SAFETY: as above; no register used here touches memory.
        unsafe { (self.0 as *mut u32).write_volatile(value) }
    }
}

/// The number of an interrupt of this board.
#[derive(Clone, Copy)]
struct Line(u16);

// SAFETY: the numbers are the board's own, fixed ones.
unsafe impl cortex_m::interrupt::InterruptNumber for Line {
    fn number(self) -> u16 {
        self.0
    }
}

/// Both ends of the unit: the data UART and the console.
pub struct Uarts(chosen::Console);

impl Uarts {
    pub fn start() -> Self {
        let console = chosen::start();
        // SAFETY: nothing is masked to protect memory here; the ring takes bytes at any time.
        unsafe { NVIC::unmask(Line(chosen::LINE_INTERRUPT)) };
        Self(console)
    }
}

/// The only interrupt that is on is the data UART's.
#[exception]
unsafe fn DefaultHandler(_: i16) {
    while !LINE.is_full() {
        let Some(byte) = chosen::take_line() else { return };
        LINE.push(byte);
    }
    // The other end waits by RTS, where that is wired; the main loop goes on with it when it made room.
    NVIC::mask(Line(chosen::LINE_INTERRUPT));
}

impl Board for Uarts {
    fn now_ns(&mut self) -> u64 {
        clock::now_ns()
    }

    fn read_line(&mut self) -> Option<u8> {
        let byte = LINE.pop();
        if byte.is_none() {
            // SAFETY: as in `start`.
            unsafe { NVIC::unmask(Line(chosen::LINE_INTERRUPT)) };
        }
        byte
    }

    fn write_line(&mut self, byte: u8) -> bool {
        chosen::put_line(byte)
    }

    fn read_console(&mut self) -> Option<u8> {
        self.0.read()
    }

    fn write_console(&mut self, byte: u8) {
        write_console(byte);
    }

    fn blink(&mut self, _: u16) {
        // These boards' LEDs are not emulated; a product toggles one here.
    }

    fn stack_peak(&self) -> usize {
        stack::peak()
    }

    fn rest(&mut self) {
        // At the latest the clock's interrupt ends it.
        cortex_m::asm::wfi();
    }
}

/// Reads what the maker wrote into the last page of flash.
pub fn read_factory_page(page: &mut [u8; FACTORY_LEN]) {
    for (at, byte) in page.iter_mut().enumerate() {
        // SAFETY: this page is flash of the board, and no part of the image.
        *byte = unsafe { ((chosen::FACTORY_PAGE + at) as *const u8).read_volatile() };
    }
}
