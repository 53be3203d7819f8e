//! What a handler calls for every request, of `wasi:http/types`: its request, the answer and the fields and
//! the body of it.
//!
//! These functions and resources replace those of `wasmtime-wasi-http`, which stays in charge of all others.
//! The resource types stand for upstream's own, since the others take them as well; for four of them the table
//! holds ours under the same index, which is safe because every function that reads these is replaced here.
//! `outgoing-request` and `fields` are upstream's.
//!
//! What makes the difference: nothing is made before the guest asks for it, a body is one piece of state that
//! guest and connection share, and a name or value is read where it lies in the guest's memory.

use crate::store::Guest;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceTableError};

mod answer;
mod body;
mod fields;
mod request;

#[cfg(test)]
mod tests;

pub(crate) use answer::Answer;
pub(crate) use body::WrittenBody;
pub(crate) use fields::is_forbidden;
pub(crate) use request::IncomingRequest;

/// The interface, at the version by which `wasmtime-wasi-http` offers it.
const INTERFACE: &str = "wasi:http/types@0.2.12";

/// Functions and resources of the interface.
type Types<'a> = LinkerInstance<'a, Guest>;

/// Puts these functions and resources in place of those that the linker has.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(INTERFACE)?;
    fields::add_to(&mut types)?;
    request::add_to(&mut types)?;
    answer::add_to(&mut types)?;
    body::add_to(&mut types)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Names what the table holds for a resource of upstream's type.
fn ours<T: 'static, U: 'static>(resource: &Resource<T>) -> Resource<U> {
    Resource::new_borrow(resource.rep())
}

/// As [`ours`], to take it out of the table.
fn ours_owned<T: 'static, U: 'static>(resource: &Resource<T>) -> Resource<U> {
    Resource::new_own(resource.rep())
}

/// Names a resource of ours as upstream's type, for the guest.
pub(crate) fn theirs<T: 'static, U: 'static>(resource: &Resource<U>) -> Resource<T> {
    Resource::new_own(resource.rep())
}

impl Guest {
    /// Takes what the guest drops out of the table.
    fn forget<T: 'static>(&mut self, index: u32) -> Result<T, ResourceTableError> {
        self.table().delete(Resource::<T>::new_own(index))
    }
}
