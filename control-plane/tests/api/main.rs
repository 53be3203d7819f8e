//! The embedded API from outside: requests, watches, the life of a pod.

mod harness;
mod pods;
mod requests;
mod watch;
