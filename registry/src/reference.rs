//! Names of images, as people type them, checked once.

mod grammar;

use std::fmt;
use std::str::FromStr;

use grammar::{GrammarError, Parts};

/// The registry name of images that exist only in this machine's store.
pub const LOCAL_REGISTRY: &str = "coracle.local";

/// What a name without tag and digest means.
const DEFAULT_TAG: &str = "latest";

/// The name of an image: registry, repository, and a tag, a digest or both.
///
/// Names are completed as Docker does: `nginx` means `docker.io/library/nginx:latest`. Digests are
/// sha256 in lower case, so equal content has one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(oci_distribution::Reference);

/// A text is not the name of an image.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not an image reference")]
pub struct ReferenceError {
    text: String,
    #[source]
    source: GrammarError,
}

impl Reference {
    /// Returns the registry's host and port.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// Returns the repository, without the registry.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// Returns the tag, if the name has one. A name without a digest always has one.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// Returns the digest (`sha256:…`), if the name has one.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// Returns whether no registry serves this image: it was packed from a local file.
    pub fn is_local(&self) -> bool {
        self.registry() == LOCAL_REGISTRY
    }

    /// Returns whether the registry is on this machine, where plain HTTP is honest.
    pub(crate) fn is_loopback(&self) -> bool {
        let registry = self.registry();
        let host = match registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => registry,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// Returns the name that identifies the content: a digest outranks a tag beside it.
    pub(crate) fn canonical(&self) -> String {
        match self.digest() {
            Some(digest) => format!("{}/{}@{digest}", self.registry(), self.repository()),
            None => self.to_string(),
        }
    }

    fn of(parts: Parts) -> Self {
        let (registry, repository) = (parts.registry, parts.repository);
        Self(match (parts.tag, parts.digest) {
            (Some(tag), Some(digest)) => {
                oci_distribution::Reference::with_tag_and_digest(registry, repository, tag, digest)
            }
            (None, Some(digest)) => {
                oci_distribution::Reference::with_digest(registry, repository, digest)
            }
            (tag, None) => {
                let tag = tag.unwrap_or_else(|| DEFAULT_TAG.to_owned());
                oci_distribution::Reference::with_tag(registry, repository, tag)
            }
        })
    }

    /// Returns the protocol library's own type.
    pub(crate) fn wire(&self) -> &oci_distribution::Reference {
        &self.0
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = grammar::parse(text).map_err(|source| ReferenceError {
            text: text.to_owned(),
            source,
        })?;
        Ok(Self::of(parts))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &str, Option<&str>, bool)>) {
        let parsed = text.parse::<Reference>();
        match (parsed, expected) {
            (Ok(name), Some((registry, repository, tag, loopback))) => {
                assert_eq!(name.registry(), registry, "registry of `{text}`");
                assert_eq!(name.repository(), repository, "repository of `{text}`");
                assert_eq!(name.tag(), tag, "tag of `{text}`");
                assert_eq!(name.is_loopback(), loopback, "loopback of `{text}`");
                let again: Reference = name.to_string().parse().expect("what is printed parses");
                assert_eq!(again, name);
            }
            (Err(error), None) => {
                assert!(
                    error.to_string().contains(text),
                    "`{error}` does not name `{text}`"
                );
            }
            (parsed, expected) => panic!("`{text}`: {parsed:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        check(
            "nginx",
            Some(("docker.io", "library/nginx", Some("latest"), false)),
        );
        check(
            "nginx:1",
            Some(("docker.io", "library/nginx", Some("1"), false)),
        );
        check("u/app", Some(("docker.io", "u/app", Some("latest"), false)));
        check(
            "index.docker.io/u/app",
            Some(("docker.io", "u/app", Some("latest"), false)),
        );
        check(
            "ghcr.io/u/app:v1",
            Some(("ghcr.io", "u/app", Some("v1"), false)),
        );
        check(
            "localhost/app",
            Some(("localhost", "app", Some("latest"), true)),
        );
        check(
            "localhost:5000/app",
            Some(("localhost:5000", "app", Some("latest"), true)),
        );
        check(
            "127.0.0.1:5000/a/b:t",
            Some(("127.0.0.1:5000", "a/b", Some("t"), true)),
        );
        check(
            "127.8.0.1:5000/a",
            Some(("127.8.0.1:5000", "a", Some("latest"), true)),
        );
        check(
            "128.0.0.1:5000/a",
            Some(("128.0.0.1:5000", "a", Some("latest"), false)),
        );
        check(
            "localhost.evil.example/a",
            Some(("localhost.evil.example", "a", Some("latest"), false)),
        );
    }

    #[test]
    fn a_digest_needs_no_tag_and_outranks_one() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let bare: Reference = format!("ghcr.io/u/app@{digest}")
            .parse()
            .expect("a reference");
        assert_eq!((bare.tag(), bare.digest()), (None, Some(digest.as_str())));
        let both: Reference = format!("ghcr.io/u/app:v1@{digest}")
            .parse()
            .expect("a reference");
        assert_eq!(both.canonical(), bare.canonical());
        let local: Reference = format!("coracle.local/hello@{digest}")
            .parse()
            .expect("a reference");
        assert!(local.is_local() && !bare.is_local());
    }

    #[test]
    fn what_is_no_image_name_is_refused_by_name() {
        let long = format!("r.io/{}", "a".repeat(300));
        for text in [
            "",
            "Nginx",
            "a b",
            "a/../b",
            "./hello.wasm",
            "../x",
            "/abs",
            "http://r.io/a",
            "a:",
            "a@",
            "a@sha256:12",
            "r.io/a:-t",
            "r.io//a",
            &long,
        ] {
            check(text, None);
        }
        check(&format!("a@sha256:{}", "A".repeat(64)), None);
        check(&format!("a@sha512:{}", "a".repeat(128)), None);
        check(&format!("a@sha256:{}", "a".repeat(63)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_parses_prints_itself(text in ".{0,80}") {
            if let Ok(name) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(name.to_string().parse::<Reference>().ok(), Some(name));
            }
        }
    }
}
