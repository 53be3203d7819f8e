//! The API as a tower service: reads the body within its limit, asks the machine, writes answers.

mod body;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

pub use body::ApiBody;
pub(crate) use body::ListParts;

use crate::{
    caller::Caller,
    discovery,
    request::{Call, Objects, Options, Target},
    status::ApiError,
    verbs::Machine,
    view::View,
};

/// The largest body a request may have: the stock server's limit.
const REQUEST_BYTES_MAX: usize = 3 << 20;

/// The embedded API: takes HTTP requests, from memory or from a connection.
#[derive(Clone, Debug)]
pub struct ApiService {
    machine: Arc<Machine>,
}

/// What a request is answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) body: ApiBody,
    pub(crate) warnings: Vec<String>,
}

/// The body of a request and what its header says about it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) media: String,
    pub(crate) bytes: Bytes,
}

impl ApiService {
    pub(crate) fn new(machine: Arc<Machine>) -> ApiService {
        ApiService { machine }
    }
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ApiBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let machine = Arc::clone(&self.machine);
        Box::pin(async move {
            let answer = answer(&machine, request).await;
            Ok(answer
                .unwrap_or_else(|error| Answer::failure(&error))
                .into_response())
        })
    }
}

async fn answer<B>(machine: &Machine, request: Request<B>) -> Result<Answer, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let view = View::negotiate(&head.headers)?;
    match Target::parse(head.uri.path())? {
        Target::Discovery(_) if head.method != http::Method::GET => {
            Err(ApiError::method_not_allowed())
        }
        Target::Discovery(document) => discovery::answer(&document, machine.build()),
        Target::Objects(objects) => {
            let content = Content {
                media: media(&head.headers),
                bytes: read(body).await?,
            };
            machine.act(&call(head, objects, view)?, content).await
        }
    }
}

/// Puts together what is asked, by whom.
fn call(mut head: Parts, objects: Objects, view: View) -> Result<Call, ApiError> {
    let options = Options::parse(head.uri.query().unwrap_or_default())?;
    let verb = objects.verb(&head.method, &options)?;
    let agent = head.headers.get(header::USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok());
    Ok(Call {
        objects,
        verb,
        options,
        // Every front that takes connections names the caller; without a name nobody came in.
        caller: head
            .extensions
            .remove::<Caller>()
            .unwrap_or_else(Caller::in_process),
        agent: agent.unwrap_or_default().to_owned(),
        view,
    })
}

/// Returns the media type of a body without its parameters.
fn media(headers: &HeaderMap) -> String {
    let media = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    let media = media.and_then(Result::ok).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default();
    media.trim().to_ascii_lowercase()
}

async fn read<B>(body: B) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(REQUEST_BYTES_MAX)),
        Err(error) => Err(ApiError::bad_request(format!(
            "unable to read the body: {error}"
        ))),
    }
}

impl Answer {
    pub(crate) fn json(code: StatusCode, value: &Value) -> Answer {
        Answer::encoded(code, Bytes::from(value.to_string()))
    }

    pub(crate) fn encoded(code: StatusCode, bytes: Bytes) -> Answer {
        Answer {
            code,
            body: ApiBody::whole(bytes),
            warnings: Vec::new(),
        }
    }

    pub(crate) fn stream(body: ApiBody) -> Answer {
        Answer {
            code: StatusCode::OK,
            body,
            warnings: Vec::new(),
        }
    }

    fn failure(error: &ApiError) -> Answer {
        Answer::json(error.code, &error.to_status())
    }

    fn into_response(self) -> Response<ApiBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-cache, private"),
        );
        for warning in self.warnings {
            let text = format!(
                "299 - \"{}\"",
                warning.replace('\\', "\\\\").replace('"', "\\\"")
            );
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.append(header::WARNING, value);
            }
        }
        response
    }
}
