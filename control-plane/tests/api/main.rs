//! The embedded API from outside: requests, watches, the life of a pod.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod acting;
mod admission;
mod apply;
mod auth;
mod certificates;
mod connect;
mod deletion;
mod discovery;
mod garbage;
mod golden;
mod harness;
mod http2;
mod kinds;
mod lists;
mod logs;
mod namespaces;
mod patch;
mod pods;
mod protobuf;
mod proxy;
mod quota;
mod rbac;
mod requests;
mod resize;
mod reviews;
mod scheduling;
mod services;
mod views;
mod volumes;
mod watch;
