//! Turns verified Wasm bytes into sandboxed instances; the only crate that names the engine.
//!
//! [`fn@judge`] says what some bytes are, [`Runtime::prepare`] adapts and compiles them once into a
//! cache that every process of the machine shares, [`Runtime::start`] runs them as one container:
//! a command to its end, or a handler that answers requests until it is stopped. [`Runtime::exec`]
//! runs one more program in a container that lives.
//!
//! Long-running parts:
//! * the guest pools: threads that poll guests, never the caller's; input: guest tasks, output:
//!   their results, and the processor time charged to each container's account;
//! * one acceptor task per handler: input: the pod's port, output: one task per connection;
//! * short-lived compiler children (see [`compile_child`]): input: Wasm bytes, output: machine code.

// What callers say, ask and get.
mod runtime;
mod spec;

// From bytes to code.
mod adapt;
mod cache;
mod compile;
mod engine;
mod judge;
mod program;

// From code to instances.
mod command;
mod handler;
mod http_types;
mod instance;
mod random;
mod start_code;
mod stdio;
mod store;
mod termination;

// Where instances run, and what is counted.
mod account;
mod blocking;
mod pools;

// What instances reach.
pub mod fs;
mod outgoing;
mod sockets;

pub use account::{NodeMemory, PodAccount};
pub use compile::{CompileError, CompilerCommand, compile_child};
pub use engine::{BindingLimit, Capacity, Full};
pub use instance::Instance;
pub use judge::{Refusal, WorkloadKind, judge};
pub use program::Program;
pub use runtime::{
    Code, CodeBytes, PrepareError, Runtime, RuntimeConfig, RuntimeError, StartError,
};
pub use spec::{
    BelowUse, Chunk, ContainerId, ExecSpec, Exit, ExitCause, HandlerOptions, Input, Instances,
    Limits, OnStop, Output, PodLimits, QosClass, RunAs, SandboxSpec, Terminal, Usage,
};
pub use start_code::release_start_code;
