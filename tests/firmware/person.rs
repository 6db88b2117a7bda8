//! What the unit tells the person at it, and what it leaves alone until a person acts.

use crate::unit::{Board, Unit};

pub(crate) fn has_no_randomness(board: &'static Board) {
    const WHY: &str = "no random source: pairing is refused";
    if board.has_random {
        // The emulated chip has a source of its own, which cannot be taken away.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start_any(board, folder.path(), &["--seed", "none"]) else { return };
    unit.until(WHY, 1);
    unit.tell("button");
    unit.until(WHY, 2);
    unit.tell("code K7QF-3M9B");
    unit.until(WHY, 3);
    assert_eq!(unit.count("pairing window open"), 0);
}

pub(crate) fn has_damaged_keys(board: &'static Board) {
    const WHY: &str = "the stored keys are damaged";
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &[]) else { return };
    let path = folder.path().join("unit/flash.bin");
    let mut flash = std::fs::read(&path).unwrap();
    flash[100] ^= 1;
    std::fs::write(&path, flash).unwrap();
    unit.tell("power-cycle");
    unit.until(WHY, 1);
    unit.tell("button");
    unit.until(WHY, 2);
    assert_eq!(unit.count("pairing window open"), 0);
    unit.tell("reset");
    unit.until("reset: all keys erased", 1);
    assert_eq!(unit.status()["paired"], false);
    unit.open_window();
}

pub(crate) fn has_no_code(board: &'static Board) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut unit) = Unit::start(board, folder.path(), &["--label", "none"]) else { return };
    unit.tell("button");
    unit.until("this unit has no label code", 1);
    unit.tell("code K7QF-3M9C");
    unit.until("this is not a code", 1);
    assert_eq!(unit.count("pairing window open"), 0);
}
