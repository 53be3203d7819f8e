//! The embedded API from outside: requests, watches, the life of a pod.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod deletion;
mod acting;
mod discovery;
mod harness;
mod namespaces;
mod pods;
mod rbac;
mod requests;
mod scheduling;
mod views;
mod watch;
