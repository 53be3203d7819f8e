//! `pods/log`: which container of which node is meant, and what its kubelet says.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{KubeletError, Kubelets};
use crate::{
    invalid::Causes,
    kinds::KindInfo,
    request::Call,
    service::{Answer, ApiBody},
    status::ApiError,
};

/// The longest text of a kubelet's refusal that is passed on; the stock server's number.
pub(super) const REFUSAL_BYTES_MAX: usize = 50_000;

/// The query parameters of a log, in the order in which they are passed on. What concerns only the
/// stock server's own way to the kubelet (`insecureSkipTLSVerifyBackend`) is not.
pub(crate) const PARAMETERS: &[&str] = &[
    "container",
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "stream",
];

/// What a container writes, as its kubelet sends it.
pub(crate) struct LogStream(BoxStream<'static, Bytes>);

impl fmt::Debug for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogStream")
    }
}

impl LogStream {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}

/// Answers a request for the log of one of a pod's containers.
pub(crate) async fn answer(
    kubelets: &Kubelets,
    call: &Call,
    pod: &Value,
    stopping: CancellationToken,
) -> Result<Answer, ApiError> {
    let info = call.objects.info;
    let name = call.objects.name.as_deref().unwrap_or_default();
    let asked = &call.options.log;
    check(name, asked)?;
    let container = container(name, parameter(asked, "container"), &pod["spec"])?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        // Nothing runs yet, so nothing was written.
        return Ok(text(ApiBody::whole(Bytes::new())));
    }
    let namespace = call.objects.namespace.as_deref().unwrap_or_default();
    let path = path(namespace, name, container, asked);
    let answer = kubelets.get(node, &path).await.map_err(unreachable)?;
    if answer.status() != StatusCode::OK {
        let code = answer.status();
        let said = answer.into_body().into_text(REFUSAL_BYTES_MAX).await;
        return Err(refusal(info, name, code, said));
    }
    let pieces = answer.into_body().into_stream();
    let pieces = pieces.scan((), |(), piece| {
        let piece = piece.inspect_err(|error| tracing::warn!(%error, "a log broke off"));
        std::future::ready(piece.ok())
    });
    let pieces = pieces.take_until(stopping.cancelled_owned());
    Ok(text(ApiBody::log(LogStream(pieces.boxed()))))
}

/// Returns where the kubelet has the log.
fn path(namespace: &str, pod: &str, container: &str, asked: &[(&'static str, String)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for name in PARAMETERS.iter().filter(|name| **name != "container") {
        if let Some(value) = parameter(asked, name) {
            query.append_pair(name, value);
        }
    }
    let (query, path) = (
        query.finish(),
        format!("/containerLogs/{namespace}/{pod}/{container}"),
    );
    match query.is_empty() {
        true => path,
        false => format!("{path}?{query}"),
    }
}

fn text(body: ApiBody) -> Answer {
    let mut answer = Answer::stream(body);
    let plain = HeaderValue::from_static("text/plain");
    answer.headers.insert(header::CONTENT_TYPE, plain);
    answer
}

pub(super) fn parameter<'a>(asked: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
    let found = asked.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| value.as_str())
}

/// Checks the parameters as the stock server does.
fn check(pod: &str, asked: &[(&'static str, String)]) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let number = |name: &str| match parameter(asked, name) {
        Some(text) => match text.parse::<i64>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(ApiError::bad_request(format!(
                "invalid value `{text}` of query parameter `{name}`"
            ))),
        },
        None => Ok(None),
    };
    let lines = number("tailLines")?;
    if let Some(lines) = lines.filter(|lines| *lines < 0) {
        let detail = "must be greater than or equal to 0";
        causes.invalid("tailLines", &Value::from(lines), detail);
    }
    let bytes = number("limitBytes")?;
    if let Some(bytes) = bytes.filter(|bytes| *bytes < 1) {
        causes.invalid("limitBytes", &Value::from(bytes), "must be greater than 0");
    }
    let (seconds, time) = (number("sinceSeconds")?, parameter(asked, "sinceTime"));
    if let Some(text) = time
        && text.parse::<Timestamp>().is_err()
    {
        return Err(ApiError::bad_request(format!(
            "invalid value `{text}` of query parameter `sinceTime`"
        )));
    }
    match seconds {
        Some(_) if time.is_some() => {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            causes.forbidden("", detail);
        }
        Some(seconds) if seconds < 1 => {
            let detail = "must be greater than 0";
            causes.invalid("sinceSeconds", &Value::from(seconds), detail);
        }
        Some(_) | None => (),
    }
    match causes.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid_log_options(pod, causes)),
    }
}

/// Returns the container that is meant: the one that is named, or the only one.
pub(super) fn container<'a>(
    pod: &str,
    named: Option<&'a str>,
    spec: &'a Value,
) -> Result<&'a str, ApiError> {
    let names = |list: &str| -> Vec<&'a str> {
        let containers = spec[list].as_array().into_iter().flatten();
        containers.filter_map(|one| one["name"].as_str()).collect()
    };
    let containers = names("containers");
    match (named.filter(|name| !name.is_empty()), containers.as_slice()) {
        (Some(name), _) => {
            let lists = ["containers", "initContainers", "ephemeralContainers"];
            match lists.iter().any(|list| names(list).contains(&name)) {
                true => Ok(name),
                false => Err(ApiError::bad_request(format!(
                    "container {name} is not valid for pod {pod}"
                ))),
            }
        }
        (None, [only]) => Ok(only),
        (None, []) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod}"
        ))),
        (None, several) => {
            let several = several.join(" ");
            let mut message = format!(
                "a container name must be specified for pod {pod}, choose one of: [{several}]"
            );
            let inits = names("initContainers");
            if !inits.is_empty() {
                let inits = inits.join(" ");
                message.push_str(&format!(" or one of the init containers: [{inits}]"));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

pub(crate) fn unreachable(error: KubeletError) -> ApiError {
    let mut message = format!("Internal error occurred: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    ApiError::internal(message)
}

/// Words a kubelet's refusal as the stock server passes it on.
fn refusal(info: &KindInfo, pod: &str, code: StatusCode, said: String) -> ApiError {
    match code {
        StatusCode::BAD_REQUEST => ApiError::bad_request(said),
        StatusCode::NOT_FOUND => ApiError::not_found_by_node(info, pod, &said),
        StatusCode::SERVICE_UNAVAILABLE => ApiError::unavailable(said),
        _ => ApiError::internal(format!("Internal error occurred: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_choice(named: Option<&str>, spec: Value, expected: Result<&str, &str>) {
        let found = container("p", named, &spec);
        let found = found.map_err(|error| error.message);
        assert_eq!(found, expected.map_err(str::to_owned), "{spec}");
    }

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let one = || json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]});
        let two = || json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check_choice(None, one(), Ok("a"));
        check_choice(Some("i"), one(), Ok("i"));
        check_choice(Some("x"), one(), Err("container x is not valid for pod p"));
        let message = "a container name must be specified for pod p, choose one of: [a b]";
        check_choice(None, two(), Err(message));
        let mut spec = two();
        spec["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
        let message = format!("{message} or one of the init containers: [i j]");
        check_choice(None, spec, Err(&message));
    }

    fn check_options(asked: &[(&'static str, &str)], expected: Result<(), &str>) {
        let asked: Vec<_> = asked
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let found = check("p", &asked).map_err(|error| error.message);
        assert_eq!(found, expected.map_err(str::to_owned), "{asked:?}");
    }

    #[test]
    fn parameters_are_checked_before_a_node_is_asked() {
        check_options(
            &[("tailLines", "0"), ("limitBytes", "1"), ("follow", "true")],
            Ok(()),
        );
        check_options(
            &[("tailLines", "-1")],
            Err(
                "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater \
                 than or equal to 0",
            ),
        );
        check_options(
            &[("limitBytes", "0"), ("sinceSeconds", "0")],
            Err(
                "PodLogOptions \"p\" is invalid: [limitBytes: Invalid value: 0: must be greater \
                 than 0, sinceSeconds: Invalid value: 0: must be greater than 0]",
            ),
        );
        check_options(
            &[("tailLines", "x")],
            Err("invalid value `x` of query parameter `tailLines`"),
        );
        check_options(
            &[("sinceTime", "x")],
            Err("invalid value `x` of query parameter `sinceTime`"),
        );
    }
}
