//! Tells the linker what the functions mean that the program imports by name.

fn main() {
    let folder = env!("CARGO_MANIFEST_DIR");
    let wit = format!("{folder}/../../../runtime/wit/coracle-lifecycle/termination.wit");
    println!("cargo:rerun-if-changed={wit}");
    println!("cargo:rustc-link-arg-bins=--component-type={wit}");
}
