//! Tells the linker what the functions mean that the program imports by name.

fn main() {
    // Asked as it runs: what is built elsewhere may be used again here.
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let wit = format!("{folder}/../../../runtime/wit/coracle-posix/posix.wit");
    println!("cargo:rerun-if-changed={wit}");
    // Natively, for the tests, nothing is imported.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "wasi") {
        println!("cargo:rustc-link-arg-bins=--component-type={wit}");
    }
}
