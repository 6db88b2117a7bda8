//! Where flash and RAM are, for the linker.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> std::io::Result<()> {
    let has = |board: &str| env::var_os(format!("CARGO_FEATURE_{}", board.to_uppercase().replace('-', "_"))).is_some();
    // Flash up to the factory page; RAM; how much of it is stack.
    let (flash, flash_len, ram_len, stack) = if has("microbit") {
        (0, 0x3_fc00, 16 * 1024, 15 * 1024)
    } else {
        (0, 0x3f_f000, 128 * 1024, 96 * 1024)
    };
    // The stack is at the bottom: one that is too deep runs out of RAM and faults, instead of writing into keys.
    let ram = 0x2000_0000;
    let memory = format!(
        "MEMORY {{\n  FLASH : ORIGIN = {flash:#x}, LENGTH = {flash_len:#x}\n  RAM : ORIGIN = {:#x}, LENGTH = {:#x}\n}}\n\
         _stack_start = {:#x};\n_stack_end = {ram:#x};\n",
        ram + stack,
        ram_len - stack,
        ram + stack,
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("memory.x"), memory)?;
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg=-Tlink.x");
    println!("cargo:rustc-link-arg=--nmagic");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
