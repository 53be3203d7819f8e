//! The grammar of image names, as Docker and the OCI distribution specification write it.
//!
//! The protocol library reads the same grammar by a regular expression, which takes tens of milliseconds to
//! compile: half of what a short command took. It is the oracle of the tests.

use crate::digest::Digest;

/// Where an image is looked for whose name begins with no registry.
const DEFAULT_REGISTRY: &str = "docker.io";
/// What that registry was called before.
const FORMER_REGISTRY: &str = "index.docker.io";
/// Where that registry keeps repositories that belong to no user.
const OFFICIAL: &str = "library/";
/// Of Docker's `reference` package.
const REPOSITORY_BYTES_MAX: usize = 255;
/// Of the OCI distribution specification.
const TAG_BYTES_MAX: usize = 128;

/// What is wrong with an image's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum GrammarError {
    /// It is empty.
    #[error("the name is empty")]
    Empty,
    /// The registry is not a host with or without a port.
    #[error("`{0}` is not the host of a registry")]
    Registry(String),
    /// The repository has capital letters.
    #[error("the repository must be in lower case")]
    Uppercase,
    /// The repository is not parts of letters, digits and single separators.
    #[error("`{0}` is not a repository")]
    Repository(String),
    /// The repository is longer than 255 bytes.
    #[error("the repository is longer than {REPOSITORY_BYTES_MAX} characters")]
    Long,
    /// The tag is not up to 128 letters, digits, `_`, `.` and `-`.
    #[error("`{0}` is not a tag")]
    Tag(String),
    /// The digest is of an algorithm that is not served, or not in lower case.
    #[error("`{0}` is not a lower-case sha256 digest")]
    Digest(String),
}

/// The parts of a name; registry and repository completed as Docker does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<String>,
}

/// Takes a name apart.
pub(super) fn parse(text: &str) -> Result<Parts, GrammarError> {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match named[last..].find(':') {
        Some(colon) => (&named[..last + colon], Some(&named[last + colon + 1..])),
        None => (named, None),
    };
    if name.is_empty() {
        return Err(GrammarError::Empty);
    }
    let (registry, repository) = located(name)?;
    if repository.len() > REPOSITORY_BYTES_MAX {
        return Err(GrammarError::Long);
    }
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(GrammarError::Tag(tag.to_owned()));
    }
    if let Some(digest) = digest.filter(|digest| digest.parse::<Digest>().is_err()) {
        return Err(GrammarError::Digest(digest.to_owned()));
    }
    Ok(Parts {
        registry,
        repository,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    })
}

/// Returns the registry and the repository that a name without tag and digest stands for.
fn located(name: &str) -> Result<(String, String), GrammarError> {
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if names_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    if !is_host(registry) {
        return Err(GrammarError::Registry(registry.to_owned()));
    }
    if !path.split('/').all(is_component) {
        return Err(match path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true if path.to_ascii_lowercase().split('/').all(is_component) => {
                GrammarError::Uppercase
            }
            _ => GrammarError::Repository(path.to_owned()),
        });
    }
    let is_default = [DEFAULT_REGISTRY, FORMER_REGISTRY].contains(&registry);
    Ok(match (is_default, path.contains('/')) {
        (true, false) => (DEFAULT_REGISTRY.to_owned(), format!("{OFFICIAL}{path}")),
        (true, true) => (DEFAULT_REGISTRY.to_owned(), path.to_owned()),
        (false, _) => (registry.to_owned(), path.to_owned()),
    })
}

/// Returns whether the first part of a path is meant as a registry; as no repository has capital letters, who
/// writes them means a host.
fn names_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.contains(char::is_uppercase)
}

/// Host and port: a name of DNS, or an address.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && !matches!(
            (bytes.first(), bytes.last()),
            (None, _) | (Some(b'-'), _) | (_, Some(b'-'))
        )
}

/// Lower-case letters and digits, between them one period, one or two underscores, or any number of dashes.
fn is_component(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_in_words = bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word);
    let mut separators = bytes.split(is_word);
    ends_in_words
        && separators.all(|between| {
            matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= TAG_BYTES_MAX
        && bytes.first().is_some_and(is_word)
        && bytes
            .iter()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use proptest::prelude::*;

    use super::*;

    /// Texts that are names or nearly are.
    fn nearly_a_name() -> impl Strategy<Value = String> {
        let digest = format!("@sha256:{}", "0f".repeat(32));
        let digests = prop_oneof![4 => Just(String::new()), 1 => Just(digest), 1 => Just("@sha256:12".to_owned())];
        let tag = prop_oneof![2 => Just(String::new()), 1 => "[:][a-zA-Z0-9_.-]{0,4}", 1 => ":[a-z]{126,130}"];
        let registry = prop_oneof![
            2 => Just(String::new()),
            1 => Just("localhost/".to_owned()),
            1 => Just("index.docker.io/".to_owned()),
            2 => "[a-z0-9.-]{1,6}(:[0-9]{0,3})?/",
        ];
        (registry, "[a-zA-Z0-9._/-]{0,12}", tag, digests)
            .prop_map(|(registry, path, tag, digest)| format!("{registry}{path}{tag}{digest}"))
    }

    fn check_against_the_library(text: &str) {
        // Where Docker and the library part, we are with Docker.
        let first = text.split_once('/').map_or("", |(first, _)| first);
        let is_disputed = first.contains(char::is_uppercase)
            || names_registry(first) && !is_host(first)
            || !text.is_ascii();
        let library = oci_distribution::Reference::from_str(text);
        match parse(text) {
            Ok(parts) if !is_disputed => {
                let ours = super::super::Reference::of(parts);
                assert_eq!(Ok(ours.0), library, "`{text}`");
            }
            Err(error) if !is_disputed => {
                assert!(library.is_err(), "`{text}`: {error}, {library:?}");
            }
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn names_are_read_as_by_the_protocol_library(text in nearly_a_name()) {
            check_against_the_library(&text);
        }

        #[test]
        fn any_text_is_read_as_by_the_protocol_library(text in ".{0,60}") {
            check_against_the_library(&text);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let check = |text: &str, expected: GrammarError| {
            assert_eq!(parse(text), Err(expected), "`{text}`");
        };
        let long = "a".repeat(256);
        check("", GrammarError::Empty);
        check(":1", GrammarError::Empty);
        check("Nginx", GrammarError::Uppercase);
        check("u/App", GrammarError::Uppercase);
        check("a b", GrammarError::Repository("a b".to_owned()));
        check("r.io//a", GrammarError::Repository("/a".to_owned()));
        check(&format!("r.io/{long}"), GrammarError::Long);
        check("-.io/a", GrammarError::Registry("-.io".to_owned()));
        check("r.io:x/a", GrammarError::Registry("r.io:x".to_owned()));
        check(
            "[::g]:5000/a",
            GrammarError::Registry("[::g]:5000".to_owned()),
        );
        check("a:-t", GrammarError::Tag("-t".to_owned()));
        check("a:ä", GrammarError::Tag("ä".to_owned()));
        check("a@sha256:12", GrammarError::Digest("sha256:12".to_owned()));
    }

    #[test]
    fn a_registry_may_be_an_address() {
        for (text, registry) in [
            ("[::1]:5000/a", "[::1]:5000"),
            ("[2001:db8::1]/a", "[2001:db8::1]"),
            ("10.0.0.1:5000/a", "10.0.0.1:5000"),
            ("FOO/a", "FOO"),
        ] {
            let parts = parse(text).expect("a name");
            assert_eq!((&*parts.registry, &*parts.repository), (registry, "a"));
        }
    }
}
