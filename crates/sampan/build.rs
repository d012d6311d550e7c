//! How the program is linked.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Where rustc brings LLD along.
    let is_lld = is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu");
    let out = std::env::var("OUT_DIR").unwrap_or_default();
    if is("PROFILE", "release") && is_lld {
        // A panic ends the process and says where it was: nothing unwinds. The tables for it are a tenth of the program.
        let script = Path::new(&out).join("discard.ld");
        let text = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.gcc_except_table*) } } INSERT AFTER .text;\n";
        std::fs::write(&script, text).unwrap_or_else(|error| println!("cargo:error={}: {error}", script.display()));
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    }
}
