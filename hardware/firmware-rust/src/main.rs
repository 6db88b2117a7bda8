//! A clawgate sensor on a bare Cortex-M: what touches registers. What it does is `clawgate-unit`'s.
//!
//! `board/` has one file a board (UARTs), [`clock`] counts time, [`ring`] holds what the UART's interrupt took,
//! [`stack`] measures, [`semihosting`] stands for a true random source and for flash pages under the emulator.
#![no_std]
#![no_main]

mod board;
mod clock;
mod fault;
mod pages;
mod ring;
mod semihosting;
mod stack;

use clawgate_protocol::sensor::Buffers;
use clawgate_unit::factory::FACTORY_LEN;
use clawgate_unit::random::SEED_MIN;
use clawgate_unit::unit::{self, Made, max_encoded_len};

use board::{Uarts, limits};

#[cortex_m_rt::entry]
fn main() -> ! {
    stack::paint();
    clock::start();
    let uarts = Uarts::start();
    let mut seed = [0; SEED_MIN];
    let len = semihosting::read_file(c"seed.bin", &mut seed).unwrap_or(0);
    let mut factory = [0; FACTORY_LEN];
    board::read_factory_page(&mut factory);
    let made = Made { factory: &factory, seed: seed.get(..len).unwrap_or_default(), max_suite: limits::MAX_SUITE };
    let mut readings = [0; limits::READINGS];
    let mut record = [0; limits::RECORD];
    let buffers = Buffers { readings: &mut readings, record: &mut record };
    unit::run::<_, _, { limits::MESSAGE }, { max_encoded_len(limits::MESSAGE) }>(
        uarts,
        pages::FilePages::open(),
        &made,
        buffers,
    )
}
