//! What a sensor's firmware needs beside the protocol, whatever the board: [`flash`] keeps the keys over a power
//! cut, [`random`] makes a seed last, [`console`] reads what a person types, [`mod@unit`] is the main loop.
//!
//! No allocator, no `unsafe`, no register: those are the image's. What a board must do is [`unit::Board`] and
//! [`flash::Pages`].
#![no_std]
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::std_instead_of_core
    )
)]

#[cfg(test)]
extern crate std;

pub mod console;
pub mod factory;
pub mod flash;
pub mod random;
pub mod status;
pub mod unit;
