//! The `Accept` header: the first form in it that the server has is taken.

use http::{HeaderMap, header};

use super::{Encoding, Include, MetaVersion, Shape};
use crate::status::ApiError;

/// Every encoding of answers, in the order in which they are named to clients.
const ENCODINGS: &[(&str, Encoding)] = &[
    ("json", Encoding::Json),
    ("yaml", Encoding::Yaml),
    ("vnd.kubernetes.protobuf", Encoding::Protobuf),
];

/// What a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// One object of the kind.
    Object,
    /// Many of them.
    List,
    /// A stream of events about them.
    Watch,
    /// Something that has but one shape, such as a token.
    Fixed,
}

/// One of the forms that a client takes.
#[derive(Debug, Default)]
pub(crate) struct Clause<'a> {
    media: &'a str,
    submedia: &'a str,
    quality: f32,
    /// What the answer shall be turned into, with its group and version.
    pub(crate) kind: Option<&'a str>,
    pub(crate) group: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
    stream: Option<&'a str>,
}

/// Returns the forms that a client takes, the best first; none if it does not say.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let offers = headers.get_all(header::ACCEPT).iter();
    let offers = offers.filter_map(|offer| offer.to_str().ok());
    let clauses = offers.flat_map(|offer| offer.split(','));
    let clauses = clauses.filter(|clause| !clause.trim().is_empty());
    let mut clauses: Vec<_> = clauses.map(Clause::read).collect();
    // Stable: among equals the order in the header counts.
    clauses.sort_by(|one, other| other.rank().total_cmp(&one.rank()));
    clauses
}

/// Chooses shape and encoding of an answer; what stands beside a table's cells is asked elsewhere.
pub(crate) fn negotiate(
    headers: &HeaderMap,
    endpoint: Endpoint,
    include: Include,
) -> Result<(Shape, Encoding), ApiError> {
    let clauses = accepted(headers);
    if clauses.is_empty() {
        return Ok((Shape::Whole, Encoding::Json));
    }
    let encodings = || {
        let streamed = endpoint == Endpoint::Watch;
        let all = ENCODINGS.iter();
        all.filter(move |(_, encoding)| !streamed || *encoding != Encoding::Yaml)
    };
    for clause in &clauses {
        let fitting = encodings().find(|(name, _)| clause.covers(name));
        if let (Some((_, encoding)), Some(shape)) = (fitting, clause.shape(endpoint, include)) {
            if *encoding == Encoding::Protobuf && shape != Shape::Whole {
                continue;
            }
            if endpoint == Endpoint::List && clause.kind == Some("PartialObjectMetadata") {
                return Err(ApiError::not_acceptable(
                    "you requested PartialObjectMetadata, but the requested object is a list",
                ));
            }
            if endpoint != Endpoint::List && clause.kind == Some("PartialObjectMetadataList") {
                return Err(ApiError::not_acceptable(
                    "you requested PartialObjectMetadataList, but the requested object is not a \
                     list",
                ));
            }
            return Ok((shape, *encoding));
        }
    }
    let suffix = if endpoint == Endpoint::Watch {
        ";stream=watch"
    } else {
        ""
    };
    let accepted: Vec<_> = encodings()
        .map(|(name, _)| format!("application/{name}{suffix}"))
        .collect();
    Err(ApiError::not_acceptable(format!(
        "only the following media types are accepted: {}",
        accepted.join(", ")
    )))
}

impl<'a> Clause<'a> {
    fn read(text: &'a str) -> Clause<'a> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (media, submedia) = media.split_once('/').unwrap_or((media, ""));
        let mut clause = Clause {
            media,
            submedia,
            quality: 1.0,
            ..Clause::default()
        };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim_matches('"');
            match name.trim_end() {
                "q" => clause.quality = value.parse().unwrap_or(0.0),
                "as" => clause.kind = Some(value),
                "g" => clause.group = Some(value),
                "v" => clause.version = Some(value),
                "stream" => clause.stream = Some(value),
                // Parameters of others, such as `charset` and `profile`, say nothing here.
                _ => (),
            }
        }
        clause
    }

    /// The higher, the earlier it is tried: by quality, then the more exact type.
    fn rank(&self) -> f32 {
        const EXACT_TYPE: f32 = 0.000_2;
        const EXACT_SUBTYPE: f32 = 0.000_1;
        let exact = |text: &str, worth: f32| if text == "*" { 0.0 } else { worth };
        self.quality + exact(self.media, EXACT_TYPE) + exact(self.submedia, EXACT_SUBTYPE)
    }

    /// Says whether `application/…` with this name is among what it takes.
    pub(crate) fn covers(&self, encoding: &str) -> bool {
        match (self.media, self.submedia) {
            ("*", "*") | ("application", "*") => true,
            ("application", name) => name == encoding,
            _ => false,
        }
    }

    /// Returns the shape that is asked for, if this endpoint has it.
    fn shape(&self, endpoint: Endpoint, include: Include) -> Option<Shape> {
        if self.stream.is_some_and(|stream| stream != "watch") {
            return None;
        }
        if (self.kind, self.group, self.version) == (None, None, None) {
            return Some(Shape::Whole);
        }
        let version = match self.version {
            Some("v1") => MetaVersion::V1,
            Some("v1beta1") => MetaVersion::V1Beta1,
            Some(_) | None => return None,
        };
        match (endpoint, self.group, self.kind) {
            (Endpoint::Fixed, _, _) => None,
            (_, Some("meta.k8s.io"), Some("Table")) => Some(Shape::Table(version, include)),
            (
                _,
                Some("meta.k8s.io"),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
            ) => Some(Shape::Metadata(version)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Shape = Shape::Table(MetaVersion::V1, Include::Metadata);

    fn found(endpoint: Endpoint, accept: &str) -> Result<(Shape, Encoding), String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header value"));
        negotiate(&headers, endpoint, Include::Metadata).map_err(|error| error.message)
    }

    fn check(endpoint: Endpoint, accept: &str, shape: Shape, encoding: Encoding) {
        assert_eq!(found(endpoint, accept), Ok((shape, encoding)), "{accept}");
    }

    fn refuse(endpoint: Endpoint, accept: &str, expected: &str) {
        assert_eq!(
            found(endpoint, accept),
            Err(expected.to_owned()),
            "{accept}"
        );
    }

    #[test]
    fn the_first_form_that_is_served_is_taken() {
        let whole = Shape::Whole;
        for (accept, shape, encoding) in [
            ("", whole, Encoding::Json),
            ("*/*", whole, Encoding::Json),
            ("application/*", whole, Encoding::Json),
            ("application/json;charset=utf-8", whole, Encoding::Json),
            ("application/yaml", whole, Encoding::Yaml),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                whole,
                Encoding::Protobuf,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,\
                 application/json;as=Table;v=v1;g=meta.k8s.io",
                TABLE,
                Encoding::Json,
            ),
            (
                "text/html, application/yaml;q=0.9, */*;q=0.8",
                whole,
                Encoding::Yaml,
            ),
            (
                "application/yaml;q=0.1,application/json;q=0.2",
                whole,
                Encoding::Json,
            ),
            ("*/*,application/yaml", whole, Encoding::Yaml),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,\
                 application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                TABLE,
                Encoding::Json,
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
                Shape::Table(MetaVersion::V1Beta1, Include::Metadata),
                Encoding::Json,
            ),
            (
                "application/yaml;as=Table;v=v1;g=meta.k8s.io",
                TABLE,
                Encoding::Yaml,
            ),
            (
                "application/json;as=Table;v=v2;g=meta.k8s.io,application/json",
                whole,
                Encoding::Json,
            ),
            (
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                Shape::Metadata(MetaVersion::V1),
                Encoding::Json,
            ),
        ] {
            check(Endpoint::Object, accept, shape, encoding);
        }
    }

    #[test]
    fn a_form_that_is_not_served_is_refused() {
        let all = "only the following media types are accepted: application/json, \
                   application/yaml, application/vnd.kubernetes.protobuf";
        for accept in [
            "text/html",
            "application/json;as=Table;v=v1",
            "application/json;as=Pod;v=v1;g=meta.k8s.io",
            "json",
        ] {
            refuse(Endpoint::Object, accept, all);
        }
        refuse(
            Endpoint::Fixed,
            "application/json;as=Table;v=v1;g=meta.k8s.io",
            all,
        );
        let streamed = "only the following media types are accepted: \
                        application/json;stream=watch, \
                        application/vnd.kubernetes.protobuf;stream=watch";
        refuse(Endpoint::Watch, "application/yaml", streamed);
        refuse(Endpoint::Watch, "application/json;stream=other", streamed);
        check(
            Endpoint::Watch,
            "application/json;stream=watch",
            Shape::Whole,
            Encoding::Json,
        );
    }

    #[test]
    fn metadata_of_a_list_has_a_kind_of_its_own() {
        let accept = |kind: &str| format!("application/json;as={kind};g=meta.k8s.io;v=v1");
        let shape = Shape::Metadata(MetaVersion::V1);
        check(
            Endpoint::List,
            &accept("PartialObjectMetadataList"),
            shape,
            Encoding::Json,
        );
        refuse(
            Endpoint::List,
            &accept("PartialObjectMetadata"),
            "you requested PartialObjectMetadata, but the requested object is a list",
        );
        refuse(
            Endpoint::Object,
            &accept("PartialObjectMetadataList"),
            "you requested PartialObjectMetadataList, but the requested object is not a list",
        );
    }
}
