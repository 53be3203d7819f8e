//! How a registry wants to be asked: its challenge, and the token it leads to.
//!
//! Written here and not left to the protocol library, because a token server is as little trusted as
//! a registry: its answers are bounded, a token is checked before it becomes a header, and
//! credentials never leave over an unprotected line that the registry's own line was not.

use reqwest::Url;
use serde::Deserialize;

use super::credentials::Credentials;

/// Token servers answer with a few kilobytes.
pub(super) const TOKEN_BYTES_MAX: usize = 1 << 20;

/// What a registry answers to a request that it wants to see authorised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// What may be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// What goes with each request once the registry was asked.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Grant {
    /// User name and password.
    Basic { username: String, password: String },
    /// A token, checked to be fit for a header.
    Bearer(String),
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Challenge {
    /// Reads the challenges of an answer and takes the first that is understood.
    pub(super) fn read<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        headers.filter_map(Self::parse).next()
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
        }
        Some(Self::Bearer {
            realm: realm?,
            service,
        })
    }
}

/// Splits `name="value",name=value`; commas inside quotes belong to the value.
fn parameters(mut rest: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']);
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name, value.trim().to_owned()));
        rest = left;
    }
    found
}

/// Returns the address of a token for one repository, without credentials.
///
/// Nothing is returned when the address is none, or when credentials would travel unprotected though
/// the registry itself is spoken to with TLS.
pub(super) fn token_url(
    challenge: (&str, Option<&str>),
    (repository, access): (&str, Access),
    unprotected: bool,
) -> Option<Url> {
    let (realm, service) = challenge;
    let mut url = Url::parse(realm).ok()?;
    if url.scheme() != "https" && !(url.scheme() == "http" && unprotected) {
        return None;
    }
    let actions = match access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    let mut query = url.query_pairs_mut();
    query.append_pair("scope", &format!("repository:{repository}:{actions}"));
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    drop(query);
    Some(url)
}

/// Returns the form that exchanges an identity token, from a token's address.
pub(super) fn identity_form(url: &Url, token: &str) -> (Url, String) {
    let mut form = url.clone();
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "coracle")
        .append_pair("refresh_token", token);
    let body = form.query().unwrap_or_default().to_owned();
    let mut target = url.clone();
    target.set_query(None);
    (target, body)
}

/// Reads a token server's answer.
pub(super) fn read_token(bytes: &[u8]) -> Option<String> {
    let answer: TokenAnswer = serde_json::from_slice(bytes).ok()?;
    let token = answer.token.or(answer.access_token)?;
    // Anything else could end the header, or the process that builds it.
    let fit = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    fit.then_some(token)
}

impl Grant {
    /// What a registry that asks for a password gets.
    pub(super) fn basic(credentials: Option<&Credentials>) -> Option<Self> {
        match credentials? {
            Credentials::Basic { username, password } => Some(Self::Basic {
                username: username.clone(),
                password: password.clone(),
            }),
            Credentials::Identity { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: Option<Challenge>) {
        assert_eq!(Challenge::read([header].into_iter()), expected, "{header}");
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            })
        };
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b:pull,push""#,
            bearer("https://auth.docker.io/token", Some("registry.docker.io")),
        );
        check(
            r#"bearer service=x, realm="https://a/t""#,
            bearer("https://a/t", Some("x")),
        );
        check(r#"Basic realm="Registry Realm""#, Some(Challenge::Basic));
        check("Basic", Some(Challenge::Basic));
        check("Negotiate", None);
        check("Bearer", None);
    }

    #[test]
    fn credentials_do_not_leave_over_an_unprotected_line() {
        let url = |realm, unprotected| token_url((realm, None), ("a/b", Access::Pull), unprotected);
        assert!(url("http://evil.example/token", false).is_none());
        assert!(url("file:///etc/passwd", true).is_none());
        let protected = url("https://auth.example/token", false).expect("an address");
        assert_eq!(protected.query(), Some("scope=repository%3Aa%2Fb%3Apull"));
    }

    #[test]
    fn a_token_that_is_no_header_value_is_refused() {
        assert_eq!(read_token(br#"{"token":"abc"}"#).as_deref(), Some("abc"));
        assert_eq!(
            read_token(br#"{"access_token":"abc"}"#).as_deref(),
            Some("abc")
        );
        for bytes in [
            &br#"{"token":"a\nb"}"#[..],
            br#"{"token":""}"#,
            b"{}",
            b"<html>",
        ] {
            assert_eq!(read_token(bytes), None);
        }
    }
}
