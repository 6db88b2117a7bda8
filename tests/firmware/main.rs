//! Sensors as firmware: the bare-metal images in Rust and in C on emulated boards, all by the same tests: what a hostile
//! gateway gets, no randomness, damaged keys, codes that are none. How they pair with the real daemon is the matrix's
//! (`tests/interop`). Needs rustc-web, cargo-web, rust-web-src, binutils-arm-none-eabi, gcc-arm-none-eabi and
//! qemu-system-arm, which `tests/run` installs; without them it says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed test says where by panicking")]

mod figures;
mod gateway;
mod hostile;
mod line;
mod person;
mod replay;
mod sdk_c;
mod unit;

use std::time::Duration;

const LABEL: &str = "K7QF-3M9B";
const WRONG: &str = "0000-0000";
/// What must come, comes within this time on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// Every test on every board.
macro_rules! on_each_board {
    ($($module:ident: $board:expr;)*) => {
        $(mod $module {
            use crate::unit::{self, Board};

            const BOARD: &Board = &$board;

            #[test]
            fn it_lives_through_anything_on_its_line() {
                crate::hostile::lives_through(BOARD);
            }

            #[test]
            fn a_wrong_gateway_gets_one_guess_a_run_and_then_waits_longer_and_longer() {
                crate::hostile::one_guess_a_run(BOARD);
            }

            #[test]
            fn a_share_that_means_no_good_and_a_guessed_code_learn_nothing() {
                crate::hostile::no_oracle(BOARD);
            }

            #[test]
            fn what_was_heard_once_is_worth_nothing_later() {
                crate::replay::is_worth_nothing(BOARD);
            }

            #[test]
            fn without_a_random_source_it_refuses_to_pair_and_says_why() {
                crate::person::has_no_randomness(BOARD);
            }

            #[test]
            fn over_damaged_keys_it_waits_for_a_person() {
                crate::person::has_damaged_keys(BOARD);
            }

            #[test]
            fn without_a_label_and_with_a_mistyped_code_it_opens_nothing() {
                crate::person::has_no_code(BOARD);
            }
        })*
    };
}

on_each_board! {
    rust_on_mps2_an386: unit::RUST_BIG;
    rust_on_microbit: unit::RUST_SMALL;
    c_on_mps2_an386: unit::C_BIG;
    c_on_stm32vldiscovery: unit::C_SMALL;
    c_on_microbit: unit::C_ONE_UART;
}
