//! Tells the linker what the functions mean that the program imports by name.

fn main() {
    // Asked as it runs: what is built elsewhere may be used again here.
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let wit = format!("{folder}/../../../runtime/wit/coracle-lifecycle/termination.wit");
    println!("cargo:rerun-if-changed={wit}");
    println!("cargo:rustc-link-arg-bins=--component-type={wit}");
}
