//! Who may do what.

mod attributes;

pub(crate) use attributes::Attributes;

use crate::{
    caller::{Caller, MASTERS},
    status::ApiError,
};

/// Paths that everyone may read, known or not.
const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// Refuses what the caller may not do.
pub(crate) fn check(caller: &Caller, wanted: &Attributes) -> Result<(), ApiError> {
    if caller.is_in(MASTERS) || is_public(wanted) {
        return Ok(());
    }
    Err(wanted.forbidden(caller, ""))
}

fn is_public(wanted: &Attributes) -> bool {
    match wanted {
        Attributes::Path { verb, path } => {
            let path = path.strip_suffix('/').unwrap_or(path);
            verb == "get" && PUBLIC_PATHS.contains(&path)
        }
        Attributes::Resource(_) => false,
    }
}
