//! The runtime from outside: small guests, real compiler children, a real pod network.

mod cache;
mod commands;
mod exec;
mod guests;
mod handlers;
mod places;
mod termination;
mod world;
