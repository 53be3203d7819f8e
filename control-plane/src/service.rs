//! The API as a tower service: reads the body within its limit, asks the machine, writes answers.

mod body;
pub(crate) mod gzip;
mod metrics;
pub(crate) mod pretty;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    request::Parts,
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use serde_json::Value;

pub use body::{ApiBody, BrokenOff};
pub(crate) use metrics::Metrics;

use body::ListParts;
use metrics::RequestLabels;

use crate::service_ranges::ServiceRanges;
use crate::{
    authorize::{self, Attributes},
    caller::Caller,
    discovery,
    identity::{ISSUER, Identity},
    kinds::{Keeping, Subresource, Verb},
    kubelets::Asked,
    object::ObjectRecord,
    protobuf, proxy,
    request::{Call, Objects, Options, Target},
    status::ApiError,
    unique::unique,
    verbs::Machine,
    view::{self, Encoding, Endpoint, View},
};

/// The largest body a request may have: the stock server's limit.
const REQUEST_BYTES_MAX: usize = 3 << 20;

/// So much of a larger body is read and thrown away, so that its sender comes to the answer.
const DISCARD_BYTES_MAX: usize = 32 << 20;

/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Under this name the stock server tells which line of its log a request is.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// The longest name for a request that is taken over from a client.
const AUDIT_ID_BYTES_MAX: usize = 64;

/// The embedded API: takes HTTP requests, from memory or from a connection.
#[derive(Clone, Debug)]
pub struct ApiService {
    machine: Arc<Machine>,
    /// Who asks, where a request does not say it.
    agent: &'static str,
}

/// What a request is answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) body: ApiBody,
    pub(crate) warnings: Vec<String>,
    /// Header fields besides those that every answer has, or in their place.
    pub(crate) headers: HeaderMap,
}

/// The body of a request and what its header says about it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) media: String,
    pub(crate) bytes: Bytes,
}

impl ApiService {
    pub(crate) fn new(machine: Arc<Machine>) -> ApiService {
        ApiService { machine, agent: "" }
    }

    /// Names who asks: the manager of the fields that are written.
    pub(crate) fn called(self, agent: &'static str) -> ApiService {
        ApiService { agent, ..self }
    }

    /// Returns the keys of the cluster behind this API.
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        self.machine.identity()
    }

    /// Returns where Services have their addresses.
    pub(crate) fn service_ranges(&self) -> ServiceRanges {
        self.machine.service_ranges()
    }

    pub(crate) fn clock(&self) -> fn() -> Timestamp {
        self.machine.clock()
    }

    /// Says whose token this is, if it is anyone's.
    pub(crate) fn authenticate(&self, token: &str) -> Option<Caller> {
        match self.machine.token_caller(token, &[ISSUER.to_owned()]) {
            Ok((caller, _)) => Some(caller),
            Err(why) => {
                tracing::debug!(why, "a token is refused");
                None
            }
        }
    }
}

impl From<ApiError> for Response<ApiBody> {
    fn from(error: ApiError) -> Self {
        Answer::failure(&error).into_response()
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let machine = Arc::clone(&self.machine);
        if !self.agent.is_empty() {
            let headers = request.headers_mut();
            let agent = headers.entry(header::USER_AGENT);
            agent.or_insert(HeaderValue::from_static(self.agent));
        }
        Box::pin(async move {
            let begun = Instant::now();
            let audit = audit_id(request.headers());
            let mut labels = RequestLabels::of_method(request.method());
            let pretty = pretty::is_wanted(request.headers(), request.uri());
            let gzip = gzip::is_accepted(request.headers());
            let answer = answer(&machine, request, &mut labels).await;
            let mut response = answer.unwrap_or_else(Response::from);
            if pretty {
                response = indented(response);
            } else if gzip {
                response = compressed(response);
            }
            let metrics = machine.metrics();
            metrics.answered(labels, response.status(), begun.elapsed());
            response.headers_mut().insert(AUDIT_ID, audit);
            Ok(response)
        })
    }
}

/// Answers a request, and notes on the way what it is about.
async fn answer<B>(
    machine: &Machine,
    request: Request<B>,
    labels: &mut RequestLabels,
) -> Result<Response<ApiBody>, ApiError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut head, body) = request.into_parts();
    // Every front that takes connections names the caller; without a name nobody came in.
    let caller = head.extensions.remove::<Caller>();
    let caller = caller.unwrap_or_else(Caller::in_process);
    let authorizer = machine.authorizer();
    let caller = authorize::impersonate(authorizer, caller, &mut head.headers)?;
    authorizer.check(&caller, &Attributes::of(&head)?)?;
    if head.uri.path() == metrics::PATH && head.method == Method::GET {
        return Ok(machine.metrics().answer().into_response());
    }
    Ok(match Target::parse(head.uri.path())? {
        Target::Discovery(_) if head.method != Method::GET => {
            return Err(ApiError::method_not_allowed());
        }
        Target::Discovery(document) => discovery::answer(&document, machine, &head).await?,
        Target::Objects(objects) if objects.is_passed_on() => {
            labels.concern(&objects);
            labels.act(proxy::verb(&head.method)?);
            let body = body.map_err(Into::into).boxed_unsync();
            return machine.pass_on(&objects, &caller, head, body).await;
        }
        Target::Objects(objects) if objects.is_connected() => {
            labels.concern(&objects);
            let asked = Asked::of(&head);
            let call = call(head, objects, caller, machine.clock())?;
            labels.act(call.verb);
            return machine.connect(&call, asked).await;
        }
        Target::Objects(objects) => {
            labels.concern(&objects);
            let media = media(&head.headers);
            let call = call(head, objects, caller, machine.clock())?;
            labels.act(call.verb);
            let bytes = read(body).await?;
            let answer = machine.act(&call, Content { media, bytes }).await;
            let answer = answer.unwrap_or_else(|error| Answer::failure(&error));
            let mut answer = answer.shown(&call);
            let deprecated = call.objects.info.deprecated;
            answer.warnings.extend(deprecated.map(str::to_owned));
            if answer.body.is_watch() {
                answer.body = answer.body.counted(machine.metrics().open_watch(labels));
            }
            answer.into_response()
        }
    })
}

/// Puts together what is asked, by whom.
fn call(
    head: Parts,
    objects: Objects,
    caller: Caller,
    clock: fn() -> Timestamp,
) -> Result<Call, ApiError> {
    let options = Options::parse(head.uri.query().unwrap_or_default())?;
    let verb = objects.verb(&head.method, &options)?;
    let upgrade = head.headers.get(header::UPGRADE);
    if verb == Verb::Watch
        && upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
    {
        let message = "watches are not served over WebSocket; ask without an upgrade";
        return Err(ApiError::bad_request(message));
    }
    let endpoint = endpoint(verb, &objects);
    let (shape, encoding) = view::negotiate(&head.headers, endpoint, options.include)?;
    let agent = head.headers.get(header::USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok());
    Ok(Call {
        objects,
        verb,
        options,
        caller,
        agent: agent.unwrap_or_default().to_owned(),
        view: View {
            shape,
            encoding,
            clock,
        },
    })
}

fn endpoint(verb: Verb, objects: &Objects) -> Endpoint {
    let fixed = |part: Subresource| {
        part == Subresource::Log || part.body_kind().is_some() || part.is_connection()
    };
    match verb {
        _ if objects.subresource.is_some_and(fixed) => Endpoint::Fixed,
        // What is not kept has no table.
        _ if objects.info.keeping == Keeping::Answered => Endpoint::Fixed,
        Verb::List | Verb::DeleteCollection => Endpoint::List,
        Verb::Watch => Endpoint::Watch,
        Verb::Create | Verb::Delete | Verb::Get | Verb::Patch | Verb::Update => Endpoint::Object,
    }
}

/// Takes over the client's name for the request, or gives it one.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(AUDIT_ID).cloned();
    let given = given.filter(|id| !id.is_empty() && id.len() <= AUDIT_ID_BYTES_MAX);
    given.unwrap_or_else(|| {
        HeaderValue::from_str(&unique().to_string()).expect("a UUID is plain text")
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
    let mut body = std::pin::pin!(body);
    match Limited::new(body.as_mut(), REQUEST_BYTES_MAX)
        .collect()
        .await
    {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            // A client in the midst of sending does not read yet, and in HTTP/2 the answer would be
            // lost with the stream that is reset; who takes too long or sends too much is cut off.
            let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(body)).await;
            Err(ApiError::too_large(REQUEST_BYTES_MAX))
        }
        Err(error) => Err(ApiError::bad_request(format!(
            "unable to read the body: {error}"
        ))),
    }
}

/// Reads on without keeping anything.
async fn discard<B>(mut body: Pin<&mut B>)
where
    B: http_body::Body<Data = Bytes>,
{
    let mut seen = 0;
    while seen < DISCARD_BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else {
            return;
        };
        seen += frame.data_ref().map_or(0, Bytes::len);
    }
}

impl Answer {
    pub(crate) fn json(code: StatusCode, value: &Value) -> Answer {
        Answer::encoded(code, Bytes::from(value.to_string()))
    }

    pub(crate) fn encoded(code: StatusCode, bytes: Bytes) -> Answer {
        Answer::new(code, ApiBody::whole(bytes))
    }

    pub(crate) fn stream(body: ApiBody) -> Answer {
        Answer::new(StatusCode::OK, body)
    }

    /// Answers with objects of the kind that the call is about.
    pub(crate) fn list(call: &Call, metadata: &Value, items: Vec<Arc<ObjectRecord>>) -> Answer {
        let (info, view) = (call.objects.info, call.view);
        match view.encoding {
            Encoding::Json | Encoding::Yaml => {
                let parts = ListParts::new(info, view, metadata, items);
                Answer::stream(ApiBody::list(parts))
            }
            // A message says its length first, so the list is put together before it is sent.
            Encoding::Protobuf => {
                let items = items.iter().map(|record| &record.value);
                let list = protobuf::list(info, metadata, items);
                let mut answer = Answer::encoded(StatusCode::OK, list);
                let media = HeaderValue::from_static(view.content_type());
                answer.headers.insert(header::CONTENT_TYPE, media);
                answer
            }
        }
    }

    fn new(code: StatusCode, body: ApiBody) -> Answer {
        Answer {
            code,
            body,
            warnings: Vec::new(),
            headers: HeaderMap::new(),
        }
    }

    fn failure(error: &ApiError) -> Answer {
        Answer::json(error.code, &error.to_status())
    }

    /// Turns an object in JSON into the form that the client takes.
    fn shown(mut self, call: &Call) -> Answer {
        if self.headers.contains_key(header::CONTENT_TYPE) {
            // A verb that names the type of its answer has no object to show.
            return self;
        }
        let (view, info) = (call.view, call.objects.info);
        self.body = self.body.map_whole(|json| view.document(info, json));
        let media = if self.body.is_watch() {
            view.stream_type()
        } else {
            view.content_type()
        };
        self.headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        self
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
        headers.extend(self.headers);
        for warning in self.warnings {
            if let Ok(value) = HeaderValue::from_str(&warning_header(&warning)) {
                headers.append(header::WARNING, value);
            }
        }
        response
    }
}

/// Writes JSON for people.
fn indented(response: Response<ApiBody>) -> Response<ApiBody> {
    let (head, body) = response.into_parts();
    let json = HeaderValue::from_static("application/json");
    let is_json = head.headers.get(header::CONTENT_TYPE) == Some(&json);
    let body = if is_json { body.indented() } else { body };
    Response::from_parts(head, body)
}

/// Compresses an answer if it is large enough, and not compressed yet.
fn compressed(response: Response<ApiBody>) -> Response<ApiBody> {
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let (body, compressed) = body.compressed(gzip::COMPRESSED_BYTES_MIN);
    if compressed {
        let gzip = HeaderValue::from_static("gzip");
        head.headers.insert(header::CONTENT_ENCODING, gzip);
        let vary = HeaderValue::from_static("Accept-Encoding");
        head.headers.append(header::VARY, vary);
    }
    Response::from_parts(head, body)
}

/// Writes a warning as a header field; what would end the field or the text is written out.
fn warning_header(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => quoted.extend(letter.escape_default()),
            letter => quoted.push(letter),
        }
    }
    format!("299 - \"{quoted}\"")
}
