//! The request that a handler answers.

use super::{Types, ours, theirs};
use crate::store::Guest;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use wasmtime::StoreContextMut;
use wasmtime::component::{Resource, ResourceType};
use wasmtime_wasi_http::p2::bindings::http::types;
use wasmtime_wasi_http::p2::body::HostIncomingBody;
use wasmtime_wasi_http::p2::types::HostIncomingRequest;
use wasmtime_wasi_http::{FieldMap, WasiHttpCtxView, WasiHttpHooks, WasiHttpView as _};

type Borrowed = (Resource<HostIncomingRequest>,);

/// What stands behind `incoming-request`.
pub(crate) struct IncomingRequest {
    method: Method,
    uri: Uri,
    fields: Fields,
    /// What the client named as its host, if the URI does not.
    host: Option<HeaderValue>,
    body: Option<Incoming>,
}

/// The fields of a request, in the guest's form once it has asked for them.
enum Fields {
    Received(HeaderMap),
    Shown(FieldMap),
}

/// The host that a request names is no text.
#[derive(Debug, thiserror::Error)]
#[error("the request's host is no text")]
pub(crate) struct HostIsNoText;

impl IncomingRequest {
    /// Takes a request that names its host.
    ///
    /// # Errors
    /// A guest could not be told the host.
    pub(crate) fn new(request: Request<Incoming>) -> Result<Self, HostIsNoText> {
        let (parts, body) = request.into_parts();
        let Parts {
            method,
            uri,
            headers,
            ..
        } = parts;
        let host = match uri.authority() {
            Some(_) => None,
            None => headers.get(header::HOST).cloned(),
        };
        if host.as_ref().is_some_and(|host| host.to_str().is_err()) {
            return Err(HostIsNoText);
        }
        Ok(Self {
            method,
            uri,
            fields: Fields::Received(headers),
            host,
            body: Some(body),
        })
    }

    fn authority(&self) -> &str {
        match (self.uri.authority(), &self.host) {
            (Some(authority), _) => authority.as_str(),
            (None, Some(host)) => host.to_str().unwrap_or_default(),
            (None, None) => "",
        }
    }

    /// Returns the fields as guests see them, without those that are between client and us.
    fn fields(&mut self, hooks: &mut dyn WasiHttpHooks) -> FieldMap {
        let shown = match &mut self.fields {
            Fields::Shown(fields) => return fields.clone(),
            Fields::Received(fields) => FieldMap::new_immutable(hooks, std::mem::take(fields)),
        };
        self.fields = Fields::Shown(shown.clone());
        shown
    }
}

pub(super) fn add_to(types: &mut Types<'_>) -> wasmtime::Result<()> {
    types.resource(
        "incoming-request",
        ResourceType::host::<HostIncomingRequest>(),
        |mut store, index| {
            store.data_mut().forget::<IncomingRequest>(index)?;
            Ok(())
        },
    )?;
    types.func_wrap(
        "[method]incoming-request.method",
        |mut store: StoreContextMut<'_, Guest>, (request,): Borrowed| {
            let request = store.data_mut().request(&request)?;
            Ok((types::Method::from(request.method.clone()),))
        },
    )?;
    types.func_wrap(
        "[method]incoming-request.path-with-query",
        |mut store: StoreContextMut<'_, Guest>, (request,): Borrowed| {
            let path = store.data_mut().request(&request)?.uri.path_and_query();
            Ok((path.map(|path| path.as_str().to_owned()),))
        },
    )?;
    types.func_wrap(
        "[method]incoming-request.scheme",
        |mut store: StoreContextMut<'_, Guest>, (request,): Borrowed| {
            store.data_mut().request(&request)?;
            Ok((Some(types::Scheme::Http),))
        },
    )?;
    types.func_wrap(
        "[method]incoming-request.authority",
        |mut store: StoreContextMut<'_, Guest>, (request,): Borrowed| {
            let request = store.data_mut().request(&request)?;
            Ok((Some(request.authority().to_owned()),))
        },
    )?;
    types.func_wrap(
        "[method]incoming-request.headers",
        |mut store: StoreContextMut<'_, Guest>, (request,): Borrowed| {
            let WasiHttpCtxView { hooks, table, .. } = store.data_mut().http();
            let request: &mut IncomingRequest = table.get_mut(&ours(&request))?;
            let fields = request.fields(hooks);
            Ok((table.push(fields)?,))
        },
    )?;
    types.func_wrap("[method]incoming-request.consume", consume)
}

/// `consume`: upstream's body over the connection's.
fn consume(
    mut store: StoreContextMut<'_, Guest>,
    (request,): Borrowed,
) -> wasmtime::Result<(Result<Resource<HostIncomingBody>, ()>,)> {
    let Some(body) = store.data_mut().request(&request)?.body.take() else {
        return Ok((Err(()),));
    };
    let body = body.map_err(wasmtime_wasi_http::Error::from).boxed_unsync();
    let body = store.data_mut().table().push(HostIncomingBody::new(body))?;
    Ok((Ok(body),))
}

impl Guest {
    /// Puts a request where the guest finds it.
    pub(crate) fn push_request(
        &mut self,
        request: IncomingRequest,
    ) -> wasmtime::Result<Resource<HostIncomingRequest>> {
        Ok(theirs(&self.table().push(request)?))
    }

    fn request(
        &mut self,
        request: &Resource<HostIncomingRequest>,
    ) -> wasmtime::Result<&mut IncomingRequest> {
        Ok(self.table().get_mut(&ours(request))?)
    }
}
