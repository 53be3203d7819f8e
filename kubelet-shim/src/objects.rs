//! What pods read of the API while they run: ConfigMaps, Secrets, tokens. Takes the references of a pod,
//! gives trees of files that follow the objects.
//!
//! ```text
//! ground ── ObjectSource::follow ──▶ PodFiles: what one pod shows, drawn into live trees
//!                  │ registers              ▲ take, refresh
//!                  ▼                        │
//!            book of entries ◀──▶ Keeper: one watch per object that pods name, one timer for all tokens
//! ```
//!
//! The keeper is the only task; beside it, in the same task, the cluster's Services are followed for the
//! variables that tell of them. An object is watched by its name from the first pod that names it to the
//! last, however many there are; an immutable one is read once. A pod that joins a watch reads the object
//! itself, since the watch may lag behind what its owner has just written.

mod book;
mod fetch;
mod files;
mod keeper;
mod layout;
mod services;
mod token;

pub(crate) use book::ObjectSource;
pub(crate) use fetch::fetch;
pub(crate) use files::PodFiles;
pub(crate) use keeper::run;

#[cfg(test)]
mod tests;
