//! The answer of a handler: its head, and the one place where it is handed over.

use super::body::{OutgoingBody, WrittenBody};
use super::fields::declared_length;
use super::{Types, ours, ours_owned, theirs};
use crate::store::Guest;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{Resource, ResourceType};
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};
use wasmtime_wasi_http::p2::types::{
    HostOutgoingRequest, HostOutgoingResponse, HostResponseOutparam,
};

/// What a guest answers: a head, mostly with a body.
pub(crate) type Answer = Result<Response<Option<WrittenBody>>, ErrorCode>;

/// What stands behind `response-outparam`.
struct Outparam(oneshot::Sender<Answer>);

/// What stands behind `outgoing-response`.
struct OutgoingResponse {
    status: StatusCode,
    fields: FieldMap,
    body: Option<WrittenBody>,
}

type Borrowed = (Resource<HostOutgoingResponse>,);
type TakenBody = (Result<Resource<HostOutgoingBody>, ()>,);

impl From<OutgoingResponse> for Response<Option<WrittenBody>> {
    fn from(answer: OutgoingResponse) -> Self {
        let mut response = Response::new(answer.body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.fields.into();
        response
    }
}

pub(super) fn add_to(types: &mut Types<'_>) -> wasmtime::Result<()> {
    types.resource(
        "response-outparam",
        ResourceType::host::<HostResponseOutparam>(),
        |mut store, index| {
            store.data_mut().forget::<Outparam>(index)?;
            Ok(())
        },
    )?;
    types.resource(
        "outgoing-response",
        ResourceType::host::<HostOutgoingResponse>(),
        |mut store, index| {
            store.data_mut().forget::<OutgoingResponse>(index)?;
            Ok(())
        },
    )?;
    types.func_wrap("[static]response-outparam.set", set)?;
    types.func_wrap("[constructor]outgoing-response", new)?;
    types.func_wrap(
        "[method]outgoing-response.status-code",
        |mut store: StoreContextMut<'_, Guest>, (answer,): Borrowed| {
            let answer = store.data_mut().answer(&answer)?;
            Ok((answer.status.as_u16(),))
        },
    )?;
    types.func_wrap("[method]outgoing-response.set-status-code", set_status)?;
    types.func_wrap(
        "[method]outgoing-response.headers",
        |mut store: StoreContextMut<'_, Guest>, (answer,): Borrowed| {
            let fields = store.data_mut().answer(&answer)?.fields.clone();
            Ok((store.data_mut().table().push(fields)?,))
        },
    )?;
    types.func_wrap("[method]outgoing-response.body", body)?;
    types.func_wrap("[method]outgoing-request.body", request_body)
}

fn set(
    mut store: StoreContextMut<'_, Guest>,
    (outparam, answer): (
        Resource<HostResponseOutparam>,
        Result<Resource<HostOutgoingResponse>, ErrorCode>,
    ),
) -> wasmtime::Result<()> {
    let table = store.data_mut().table();
    let answer = match answer {
        Ok(answer) => Ok(table
            .delete(ours_owned::<_, OutgoingResponse>(&answer))?
            .into()),
        Err(code) => Err(code),
    };
    let Outparam(sender) = table.delete(ours_owned(&outparam))?;
    // The client may be gone, or the time over: that is no failure of the guest.
    let _ = sender.send(answer);
    Ok(())
}

fn new(
    mut store: StoreContextMut<'_, Guest>,
    (fields,): (Resource<FieldMap>,),
) -> wasmtime::Result<Borrowed> {
    let table = store.data_mut().table();
    let mut fields = table.delete(fields)?;
    fields.set_immutable();
    let answer = table.push(OutgoingResponse {
        status: StatusCode::OK,
        fields,
        body: None,
    })?;
    Ok((theirs(&answer),))
}

fn set_status(
    mut store: StoreContextMut<'_, Guest>,
    (answer, status): (Resource<HostOutgoingResponse>, u16),
) -> wasmtime::Result<(Result<(), ()>,)> {
    let answer = store.data_mut().answer(&answer)?;
    let Ok(status) = StatusCode::from_u16(status) else {
        return Ok((Err(()),));
    };
    answer.status = status;
    Ok((Ok(()),))
}

fn body(mut store: StoreContextMut<'_, Guest>, (answer,): Borrowed) -> wasmtime::Result<TakenBody> {
    let answer = store.data_mut().answer(&answer)?;
    let declared = match (&answer.body, declared_length(&answer.fields)) {
        (None, Ok(declared)) => declared,
        (Some(_), _) | (_, Err(())) => return Ok((Err(()),)),
    };
    let (body, written) = OutgoingBody::new(StreamContext::Response, declared);
    answer.body = Some(written);
    let body = store.data_mut().table().push(body)?;
    Ok((Ok(theirs(&body)),))
}

/// `body` of an `outgoing-request`, which is upstream's but for its body.
fn request_body(
    mut store: StoreContextMut<'_, Guest>,
    (request,): (Resource<HostOutgoingRequest>,),
) -> wasmtime::Result<TakenBody> {
    let request = store.data_mut().table().get_mut(&request)?;
    let declared = match (&request.body, declared_length(&request.headers)) {
        (None, Ok(declared)) => declared,
        (Some(_), _) | (_, Err(())) => return Ok((Err(()),)),
    };
    let (body, written) = OutgoingBody::new(StreamContext::Request, declared);
    request.body = Some(written.boxed_unsync());
    let body = store.data_mut().table().push(body)?;
    Ok((Ok(theirs(&body)),))
}

impl Guest {
    /// Puts the place of an answer where the guest finds it.
    pub(crate) fn push_outparam(
        &mut self,
        answer: oneshot::Sender<Answer>,
    ) -> wasmtime::Result<Resource<HostResponseOutparam>> {
        Ok(theirs(&self.table().push(Outparam(answer))?))
    }

    fn answer(
        &mut self,
        answer: &Resource<HostOutgoingResponse>,
    ) -> wasmtime::Result<&mut OutgoingResponse> {
        Ok(self.table().get_mut(&ours(answer))?)
    }
}
