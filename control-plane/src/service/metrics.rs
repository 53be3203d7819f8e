//! What the API tells about itself under `/metrics`, named as the stock server names it.
//!
//! Labels are taken from the table of kinds and from codes, so there is a bounded number of them.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use super::Answer;
use crate::{
    kinds::{Subresource, Verb},
    request::Objects,
};

/// Where this is served.
pub(super) const PATH: &str = "/metrics";

/// Upper bounds in seconds; the stock server begins at 5 ms, where nearly all of ours have ended.
const DURATION_BOUNDS: &[f64] = &[
    0.000_5, 0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 10.0, 30.0, 60.0,
];

/// Counts requests and watches.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<CodeLabels, Counter>,
    durations: Family<RequestLabels, Histogram, Durations>,
    watches: Family<RequestLabels, Gauge>,
}

/// What a request is about; empty where it is no resource's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    #[prometheus(flatten)]
    request: RequestLabels,
    code: u16,
}

/// Counts an open watch as long as it lives.
#[derive(Debug)]
pub(super) struct OpenWatch(Gauge);

#[derive(Clone, Copy, Debug)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(DURATION_BOUNDS.iter().copied())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("apiserver");
        let requests = Family::default();
        registry.register("request", "Requests that were answered", requests.clone());
        let durations = Family::new_with_constructor(Durations);
        registry.register(
            "request_duration_seconds",
            "Time until the head of the answer",
            durations.clone(),
        );
        let watches = Family::default();
        registry.register(
            "longrunning_requests",
            "Watches that are open",
            watches.clone(),
        );
        Metrics {
            registry,
            requests,
            durations,
            watches,
        }
    }
}

impl Metrics {
    /// Counts a request that was answered.
    pub(super) fn answered(&self, request: RequestLabels, code: StatusCode, took: Duration) {
        if request.verb != verb_name(Verb::Watch) {
            let duration = self.durations.get_or_create(&request);
            duration.observe(took.as_secs_f64());
        }
        let code = code.as_u16();
        self.requests
            .get_or_create(&CodeLabels { request, code })
            .inc();
    }

    pub(super) fn open_watch(&self, request: &RequestLabels) -> OpenWatch {
        let gauge = self.watches.get_or_create(request).clone();
        gauge.inc();
        OpenWatch(gauge)
    }

    /// Answers with all numbers.
    pub(super) fn answer(&self) -> Answer {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to memory does not fail");
        let mut answer = Answer::encoded(StatusCode::OK, text.into());
        let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        answer
            .headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        answer
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RequestLabels {
    /// A request of which only the method is known.
    pub(super) fn of_method(method: &Method) -> RequestLabels {
        const KNOWN: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
        let known = KNOWN.iter().find(|known| **known == method.as_str());
        RequestLabels {
            verb: known.unwrap_or(&"OTHER"),
            ..RequestLabels::default()
        }
    }

    /// Notes what a path is about.
    pub(super) fn concern(&mut self, objects: &Objects) {
        self.group = objects.info.group;
        self.version = objects.info.version;
        self.resource = objects.info.plural;
        self.subresource = objects.subresource.map_or("", Subresource::as_str);
    }

    /// Notes what is done there.
    pub(super) fn act(&mut self, verb: Verb) {
        self.verb = verb_name(verb);
    }
}

fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "POST",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Patch => "PATCH",
        Verb::Update => "PUT",
        Verb::Watch => "WATCH",
    }
}
