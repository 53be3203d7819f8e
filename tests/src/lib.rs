//! The harness of the scenarios that test the system from outside, through the real binary.
//!
//! The scenarios lie beside this crate in `scenarios/`; they are test targets of the package `coracle`,
//! because cargo tells only a package's own tests where its binary is.
//!
//! Nothing here sleeps: a [`Run`] hands over what the program prints as it prints it, and every wait has
//! a condition and a deadline that only a defect reaches.

#[cfg(windows)]
mod console;
mod guests;
mod http;
mod kubectl;
mod layout;
mod process;
mod run;
mod search;
mod wine;

pub use guests::{module, repository};
pub use http::{Answer, get, get_ready};
pub use kubectl::{Cluster, Kubectl, StreamProtocol, Told};
pub use layout::{linux_layout, wasm_layout};
pub use process::{cpu_time, descriptors, resident_bytes};
pub use run::{Coracle, Ended, Run};
pub use search::files_with;
pub use wine::beyond_wine;
