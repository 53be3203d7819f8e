//! The harness of what looks at the system from outside: scenarios through the real binary, and benchmarks.
//!
//! The scenarios lie beside this crate in `scenarios/`; they are test targets of the package `coracle`,
//! because cargo tells only a package's own tests where its binary is.
//!
//! Nothing here sleeps: a [`Run`] hands over what the program prints as it prints it, and every wait has
//! a condition and a deadline that only a defect reaches.

#[cfg(windows)]
mod console;
mod figures;
mod guests;
mod http;
mod kubectl;
mod layout;
mod load;
#[cfg(target_os = "linux")]
mod namespace;
mod place;
mod process;
mod run;
mod search;
mod spread;
mod wine;
mod wrk;

pub use figures::{FIGURES_FILE, Figure, Figures};
pub use guests::{module, repository};
pub use http::{Answer, get, get_ready};
pub use kubectl::{Cluster, Kubectl, StreamProtocol, Told};
pub use layout::{linux_layout, wasm_layout};
pub use load::Load;
#[cfg(target_os = "linux")]
pub use namespace::{By, Inside, allows_namespaces, enter_namespace, inside};
pub use place::{comes_up, free_port, measured_binary, setting};
pub use process::{
    children_time, cpu_time, descriptors, mappings, own_bytes, resident_bytes, threads,
};
pub use run::{Coracle, Ended, Run};
pub use search::files_with;
pub use spread::{Spread, percentile, short};
pub use wine::beyond_wine;
pub use wrk::Wrk;
