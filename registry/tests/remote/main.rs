//! The store against a registry that misbehaves, and against files on disk.

mod images;
mod local;
mod pull;
mod push;
mod server;
