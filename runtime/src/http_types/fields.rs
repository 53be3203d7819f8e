//! Fields that a guest puts together. The resource is upstream's, with its limit and its rules.

use super::Types;
use crate::store::{FIELDS_BYTES_MAX, Guest};
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue};
use wasmtime::StoreContextMut;
use wasmtime::component::{Resource, WasmList, WasmStr};
use wasmtime_wasi_http::p2::bindings::http::types::HeaderError;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, FieldMap, FieldMapError};

/// Tells whether guests may not set a field and are not shown it, as upstream decides unless told otherwise.
pub(crate) fn is_forbidden(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name)
}

pub(super) fn add_to(types: &mut Types<'_>) -> wasmtime::Result<()> {
    types.func_wrap(
        "[constructor]fields",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            let fields = FieldMap::new_mutable(FIELDS_BYTES_MAX);
            Ok((store.data_mut().table().push(fields)?,))
        },
    )?;
    types.func_wrap("[method]fields.append", append)
}

/// `append`: the name and the value are read where they lie.
fn append(
    mut store: StoreContextMut<'_, Guest>,
    (fields, name, value): (Resource<FieldMap>, WasmStr, WasmList<u8>),
) -> wasmtime::Result<(Result<(), HeaderError>,)> {
    let field = field(&name.to_str(&store)?, value.as_le_slice(&store));
    let fields = store.data_mut().table().get_mut(&fields)?;
    let appended = field.and_then(|(name, value)| {
        // As with `Content-Length` twice, each side could believe another one.
        if name == CONTENT_LENGTH && fields.contains_key(&name) {
            return Err(FieldMapError::InvalidHeaderValue);
        }
        fields.append_raw(name, value)
    });
    match appended {
        Ok(_was_there) => Ok((Ok(()),)),
        Err(FieldMapError::Immutable) => Ok((Err(HeaderError::Immutable),)),
        Err(FieldMapError::InvalidHeaderName | FieldMapError::InvalidHeaderValue) => {
            Ok((Err(HeaderError::InvalidSyntax),))
        }
        Err(FieldMapError::Forbidden) => Ok((Err(HeaderError::Forbidden),)),
        Err(error @ (FieldMapError::TooManyFields | FieldMapError::TotalSizeTooBig)) => {
            Err(error.into())
        }
    }
}

/// Checks a field as upstream does.
pub(super) fn field(name: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), FieldMapError> {
    let name = HeaderName::from_bytes(name.as_bytes())?;
    if is_forbidden(&name) {
        return Err(FieldMapError::Forbidden);
    }
    let value = match name == CONTENT_LENGTH {
        true => HeaderValue::from(length(value).ok_or(FieldMapError::InvalidHeaderValue)?),
        false => HeaderValue::from_bytes(value)?,
    };
    Ok((name, value))
}

/// Reads a `Content-Length`: digits and nothing else.
fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = is_number.then(|| std::str::from_utf8(value).ok())??;
    text.parse().ok()
}

/// Returns what fields say about the length of their message's body; an error if they do not agree.
pub(super) fn declared_length(fields: &FieldMap) -> Result<Option<u64>, ()> {
    let mut values = fields.get_all(CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => length(value.as_bytes()).map(Some).ok_or(()),
        (Some(_), Some(_)) => Err(()),
    }
}
