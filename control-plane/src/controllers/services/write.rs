//! Writes what was planned. Decides nothing.

use std::sync::Arc;

use futures::{StreamExt, stream};
use http::Method;
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};

use super::{
    endpoints::EndpointsFacts,
    mirror,
    picture::{Duty, EndpointsStep},
    seen::{Key, Seen},
    slice::{MANAGED_BY, MIRROR, SERVICE_NAME, Slice},
    slices::Plan,
};
use crate::controllers::{
    events::{About, warn},
    requests::{JSON, ask, has_code, send, takes_nothing_in, unless},
};

/// So many slices of one Service are written at once.
const WRITES_AT_ONCE: usize = 8;

/// What the mirroring is called in events.
const MIRRORING: &str = "endpoint-slice-mirroring-controller";

/// The stock controllers' names in events, and what they say there when they fail.
const SLICES_FAILED: [&str; 2] = ["endpoint-slice-controller", "FailedToUpdateEndpointSlices"];
const ENDPOINTS_FAILED: [&str; 2] = ["endpoint-controller", "FailedToUpdateEndpoint"];

/// What came of a plan: what is known now, as far as it is known, and what failed.
#[derive(Debug)]
pub(super) struct Written<T> {
    pub(super) is: Vec<T>,
    /// By name.
    pub(super) is_gone: Vec<Arc<str>>,
    pub(super) failure: Option<kube::Error>,
}

enum Step {
    Write(Slice),
    Delete(Arc<str>),
}

enum Done {
    Is(Slice),
    IsGone(Arc<str>),
    /// The namespace takes nothing in any more.
    Nothing,
}

impl<T> Default for Written<T> {
    fn default() -> Self {
        Written {
            is: Vec::new(),
            is_gone: Vec::new(),
            failure: None,
        }
    }
}

fn slices_path(namespace: &str, name: &str) -> String {
    let collection = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    match name {
        "" => collection,
        name => format!("{collection}/{name}"),
    }
}

fn endpoints_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/endpoints{name}")
}

/// Writes the slices of a Service. What is added comes before what is removed, so that an endpoint that
/// moves is in two slices for a moment rather than in none.
pub(super) async fn slices(
    client: &Client,
    (namespace, service): &Key,
    plan: Plan,
    trigger: Option<Timestamp>,
) -> Written<Slice> {
    let mut written = Written::default();
    let adds = plan
        .creates
        .into_iter()
        .chain(plan.updates)
        .map(Step::Write);
    let removes = plan.deletes.into_iter().map(Step::Delete);
    for steps in [adds.collect::<Vec<_>>(), removes.collect()] {
        let steps = stream::iter(steps);
        let results = steps.map(|step| slice(client, namespace, service, step, trigger));
        let mut results = results.buffer_unordered(WRITES_AT_ONCE);
        while let Some((name, result)) = results.next().await {
            match result {
                Ok(Done::Is(slice)) => written.is.push(slice),
                Ok(Done::IsGone(name)) => written.is_gone.push(name),
                Ok(Done::Nothing) => (),
                Err(error) => {
                    // What is to be changed and is not there is planned anew.
                    let gone = name.filter(|_| has_code(&error, 404));
                    written.is_gone.extend(gone);
                    written.failure = Some(error);
                }
            }
        }
        if written.failure.is_some() {
            break;
        }
    }
    written
}

async fn slice(
    client: &Client,
    namespace: &str,
    service: &str,
    step: Step,
    trigger: Option<Timestamp>,
) -> (Option<Arc<str>>, Result<Done, kube::Error>) {
    let slice = match step {
        Step::Delete(name) => {
            let path = slices_path(namespace, &name);
            let deleted = send(client, Method::DELETE, &path, JSON, &json!({})).await;
            return (None, unless(deleted, 404).map(|()| Done::IsGone(name)));
        }
        Step::Write(slice) => slice,
    };
    let body = slice.json(namespace, service, trigger);
    let (method, path) = match &slice.name {
        None => (Method::POST, slices_path(namespace, "")),
        Some(name) => (Method::PUT, slices_path(namespace, name)),
    };
    let answer: Result<Seen<Slice>, _> = ask(client, method, &path, &body).await;
    let done = match answer {
        Ok(seen) => Ok(Done::Is(seen.facts)),
        Err(error) if slice.name.is_none() && takes_nothing_in(&error) => Ok(Done::Nothing),
        Err(error) => Err(error),
    };
    (slice.name, done)
}

/// Writes the Endpoints of a Service.
pub(super) async fn endpoints(
    client: &Client,
    (namespace, name): &Key,
    step: EndpointsStep,
) -> Written<EndpointsFacts> {
    let mut written = Written::default();
    let path = endpoints_path(namespace, &format!("/{name}"));
    let result = match step {
        EndpointsStep::Delete(known) => {
            let body = json!({"preconditions": {"uid": &*known.uid}});
            let deleted = send(client, Method::DELETE, &path, JSON, &body).await;
            unless(unless(deleted, 404), 409).map(|()| None)
        }
        EndpointsStep::Write(wanted, known, trigger) => {
            let body = wanted.json((namespace, name), known.as_ref(), trigger);
            let (method, path) = match known {
                None => (Method::POST, endpoints_path(namespace, "")),
                Some(_) => (Method::PUT, path),
            };
            let is_new = method == Method::POST;
            match ask::<Seen<EndpointsFacts>>(client, method, &path, &body).await {
                Err(error) if is_new && takes_nothing_in(&error) => return written,
                answer => answer.map(|seen| Some(seen.facts)),
            }
        }
    };
    match result {
        Ok(Some(facts)) => written.is.push(facts),
        Ok(None) => written.is_gone.push(Arc::clone(name)),
        Err(error) => {
            if has_code(&error, 404) {
                written.is_gone.push(Arc::clone(name));
            }
            written.failure = Some(error);
        }
    }
    written
}

/// Says whether somebody else has written meanwhile; the watch tells what.
pub(super) fn is_outrun(error: &kube::Error) -> bool {
    has_code(error, 409) || has_code(error, 404)
}

/// Tells a Service that its endpoints cannot be written, as when a quota forbids it.
pub(super) async fn complain(
    client: &Client,
    (namespace, name): &Key,
    uid: Option<Arc<str>>,
    duty: Duty,
    error: &kube::Error,
) {
    let Some(uid) = uid.filter(|_| !is_outrun(error)) else {
        return;
    };
    let about = About {
        kind: "Service",
        namespace,
        name,
        uid: &uid,
    };
    let ([component, reason], what) = match duty {
        Duty::Slices => (SLICES_FAILED, "Endpoint Slices"),
        Duty::Endpoints | Duty::Mirror => (ENDPOINTS_FAILED, "Endpoints"),
    };
    let text = format!("Error updating {what} for Service {namespace}/{name}: {error}");
    warn(client, component, about, (reason, &text)).await;
}

/// Makes the slices of Endpoints that a person wrote, or removes them.
pub(super) async fn mirror(
    client: &Client,
    (namespace, name): &Key,
    is_mirrored: bool,
) -> Result<(), kube::Error> {
    let endpoints = match is_mirrored {
        true => get(client, &endpoints_path(namespace, &format!("/{name}"))).await?,
        false => None,
    };
    let endpoints = endpoints.filter(mirror::is_wanted);
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair(
            "labelSelector",
            &format!("{SERVICE_NAME}={name},{MANAGED_BY}={MIRROR}"),
        )
        .finish();
    let path = format!("{}?{query}", slices_path(namespace, ""));
    let mut slices = get(client, &path).await?.unwrap_or_default();
    let slices = match slices["items"].take() {
        Value::Array(slices) => slices,
        _ => Vec::new(),
    };
    let plan = mirror::plan(endpoints.as_ref(), &slices);
    if let Some(endpoints) = &endpoints {
        tell(client, endpoints, &plan).await;
    }
    let create = slices_path(namespace, "");
    for slice in plan.creates {
        match send(client, Method::POST, &create, JSON, &slice).await {
            Err(error) if takes_nothing_in(&error) => return Ok(()),
            sent => sent?,
        }
    }
    for slice in plan.updates {
        let name = slice["metadata"]["name"].as_str().unwrap_or_default();
        let path = slices_path(namespace, name);
        send(client, Method::PUT, &path, JSON, &slice).await?;
    }
    for name in plan.deletes {
        let path = slices_path(namespace, &name);
        unless(
            send(client, Method::DELETE, &path, JSON, &json!({})).await,
            404,
        )?;
    }
    Ok(())
}

async fn get(client: &Client, path: &str) -> Result<Option<Value>, kube::Error> {
    match ask(client, Method::GET, path, &Value::Null).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if has_code(&error, 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says what was left out.
async fn tell(client: &Client, endpoints: &Value, plan: &mirror::Plan) {
    let text = |field: &str| endpoints["metadata"][field].as_str().unwrap_or_default();
    let about = About {
        kind: "Endpoints",
        namespace: text("namespace"),
        name: text("name"),
        uid: text("uid"),
    };
    if plan.invalid > 0 {
        let text = format!(
            "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
            plan.invalid
        );
        warn(client, MIRRORING, about, ("InvalidIPAddress", &text)).await;
    }
    if plan.skipped > 0 {
        let text = format!(
            "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. {} \
             addresses were skipped",
            mirror::ADDRESSES_MAX,
            plan.skipped
        );
        warn(
            client,
            MIRRORING,
            about,
            ("TooManyAddressesToMirror", &text),
        )
        .await;
    }
}
