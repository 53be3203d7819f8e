//! Who may ask the kubelet API what (contract E.1): callers are known by certificate or token, and the
//! API server says what they may do.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use parking_lot::Mutex;
use ring::digest;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::time::Instant;
use x509_parser::parse_x509_certificate;

use super::Refusal;

/// How long the API server's word about a token holds (contract A.5).
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// How long leave holds.
const ALLOW_TTL: Duration = Duration::from_secs(300);
/// How long a refusal holds.
const DENY_TTL: Duration = Duration::from_secs(30);
/// Answers that are remembered, of each sort.
const REMEMBERED_MAX: usize = 4096;
/// How long the API server may take to say who somebody is or what he may do.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest token that is passed on.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The group of everyone who proved who they are.
const AUTHENTICATED: &str = "system:authenticated";

/// Decides about requests. It asks the API server and remembers the answers for a while.
pub(super) struct Guard {
    node_name: String,
    client: kube::Client,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    tokens: Mutex<Memory<[u8; 32], Option<Caller>>>,
    leaves: Mutex<Memory<Question, bool>>,
}

/// Who asks, as the API server knows users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
}

/// What is asked of the API server: may this caller do this to this part of the node?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    caller: Caller,
    verb: &'static str,
    subresource: &'static str,
}

/// Answers with the moment at which they are forgotten.
struct Memory<K, V>(HashMap<K, (V, Instant)>);

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn recall(&self, key: &K, now: Instant) -> Option<V> {
        let (value, until) = self.0.get(key)?;
        (now < *until).then(|| value.clone())
    }

    fn keep(&mut self, key: K, value: V, until: Instant, now: Instant) {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, (_, until)| now < *until);
        }
        // Full of living answers: the new one is asked for again, the memory stays bounded.
        if self.0.len() < REMEMBERED_MAX {
            self.0.insert(key, (value, until));
        }
    }
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Memory(HashMap::new())
    }
}

impl Guard {
    /// Trusts certificates that `authorities` vouch for; without any, only tokens are taken.
    pub(super) fn new(
        node_name: String,
        client: kube::Client,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Guard, rustls::Error> {
        Ok(Guard {
            node_name,
            client,
            verifier: verifier(authorities)?,
            tokens: Mutex::default(),
            leaves: Mutex::default(),
        })
    }

    /// Says who has proved to own `chain`; `None` when nobody we know of vouches for it.
    pub(super) fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<Caller> {
        let (own, between) = chain.split_first()?;
        let verifier = self.verifier.as_ref()?;
        match verifier.verify_client_cert(own, between, UnixTime::now()) {
            Ok(_) => subject(own),
            Err(error) => {
                tracing::debug!(%error, "a client's certificate is refused");
                None
            }
        }
    }

    /// Lets a request pass, or says with what it is refused.
    pub(super) async fn admit(
        &self,
        peer: Option<&Caller>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let caller = match peer {
            Some(caller) => caller.clone(),
            None => self.by_token(headers).await?,
        };
        let verb = verb(method, path);
        let subresources = subresources(path);
        for subresource in subresources {
            let question = Question {
                caller: caller.clone(),
                verb,
                subresource,
            };
            if self.is_allowed(question).await? {
                return Ok(());
            }
        }
        let text = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            caller.name,
            subresources.join(" ")
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, text))
    }

    async fn by_token(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let unauthorized = || Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
        let token = bearer(headers).ok_or_else(unauthorized)?;
        let key = fingerprint(token);
        let now = Instant::now();
        let known = self.tokens.lock().recall(&key, now);
        let caller = match known {
            Some(caller) => caller,
            None => {
                let caller = self.review_token(token).await?;
                let until = now + TOKEN_TTL;
                self.tokens.lock().keep(key, caller.clone(), until, now);
                caller
            }
        };
        caller.ok_or_else(unauthorized)
    }

    async fn review_token(&self, token: &str) -> Result<Option<Caller>, Refusal> {
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            status: None,
        };
        let answer = self.create(&review).await?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.map(Caller::from))
    }

    async fn is_allowed(&self, question: Question) -> Result<bool, Refusal> {
        let now = Instant::now();
        if let Some(known) = self.leaves.lock().recall(&question, now) {
            return Ok(known);
        }
        let caller = &question.caller;
        let review = SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                uid: Some(caller.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(caller.groups.clone()),
                extra: Some(caller.extra.iter().cloned().collect()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(question.verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(question.subresource.to_owned()),
                    name: Some(self.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            status: None,
        };
        let answer = self.create(&review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let until = now + if allowed { ALLOW_TTL } else { DENY_TTL };
        self.leaves.lock().keep(question, allowed, until, now);
        Ok(allowed)
    }

    /// Has a review made; without an answer nobody passes.
    async fn create<K>(&self, review: &K) -> Result<K, Refusal>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug,
        K: serde::Serialize + serde::de::DeserializeOwned,
    {
        let api = Api::<K>::all(self.client.clone());
        let params = PostParams::default();
        let asked = tokio::time::timeout(REVIEW_TIMEOUT, api.create(&params, review));
        let problem = match asked.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(%problem, "the API server did not review a caller");
        let text = format!("failed to review the caller at the API server: {problem}");
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    }
}

impl From<UserInfo> for Caller {
    fn from(user: UserInfo) -> Caller {
        Caller {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default().into_iter().collect(),
        }
    }
}

fn verifier(
    authorities: &[CertificateDer<'static>],
) -> Result<Option<Arc<dyn ClientCertVerifier>>, rustls::Error> {
    if authorities.is_empty() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Some(verifier))
}

/// Reads user and groups: common name and organizations, as API servers do.
fn subject(der: &CertificateDer<'_>) -> Option<Caller> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    let name = names.next()?.as_str().ok()?;
    let groups = subject.iter_organization().map(|group| group.as_str());
    let mut groups = groups
        .map(|group| group.map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    // With two names, another reader could see another user.
    if name.is_empty() || names.next().is_some() {
        return None;
    }
    groups.push(AUTHENTICATED.to_owned());
    Some(Caller {
        name: name.to_owned(),
        groups,
        ..Caller::default()
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    let is_token = !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
}

/// Tokens are remembered by their digest, never as they are.
fn fingerprint(token: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// The verb a request is authorised as. What runs or reaches something in a pod is `create` whatever the
/// method: leave to read a node is not leave to run programs there.
fn verb(method: &Method, path: &str) -> &'static str {
    let acts = ["exec", "attach", "portForward", "run"];
    if acts.contains(&first_segment(path)) {
        return "create";
    }
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresources of the node of which one must be allowed, in the order in which they are asked for.
fn subresources(path: &str) -> &'static [&'static str] {
    match first_segment(path) {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" | "flagz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

fn first_segment(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    path.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_authorised_as_its_subresource() {
        let rows = [
            ("/stats/summary", &["stats"][..]),
            ("/metrics/resource", &["metrics"]),
            ("/pods", &["pods", "proxy"]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/containerLogs/a/b/c", &["proxy"]),
            ("//exec/a/b/c", &["proxy"]),
        ];
        for (path, expected) in rows {
            assert_eq!(subresources(path), expected, "for {path}");
        }
    }

    #[test]
    fn what_runs_something_needs_create_whatever_the_method() {
        let rows = [
            (Method::GET, "/exec/a/b/c", "create"),
            (Method::GET, "/portForward/a/b", "create"),
            (Method::POST, "/run/a/b/c", "create"),
            (Method::GET, "/containerLogs/a/b/c", "get"),
            (Method::HEAD, "/pods", "get"),
            (Method::DELETE, "/pods", "delete"),
        ];
        for (method, path, expected) in rows {
            assert_eq!(verb(&method, path), expected, "for {method} {path}");
        }
    }

    #[test]
    fn a_memory_is_bounded_and_forgets() {
        let now = Instant::now();
        let mut memory = Memory::default();
        for key in 0..2 * REMEMBERED_MAX {
            memory.keep(key, true, now + ALLOW_TTL, now);
        }
        assert_eq!(memory.0.len(), REMEMBERED_MAX);
        assert_eq!(memory.recall(&0, now), Some(true));
        let later = now + ALLOW_TTL;
        assert_eq!(memory.recall(&0, later), None);
        memory.keep(usize::MAX, false, later + DENY_TTL, later);
        assert_eq!(memory.0.len(), 1);
    }

    #[test]
    fn only_bearer_tokens_are_read() {
        let rows = [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer ", None),
            ("abc", None),
        ];
        for (value, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers), expected, "for {value:?}");
        }
    }
}
