//! A conversation with one registry about one repository.

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use oci_distribution::Client as ProtocolClient;
use oci_distribution::client::{ClientConfig, ClientProtocol};
use oci_distribution::secrets::RegistryAuth;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio::sync::Mutex;

use super::auth::{
    Access, Challenge, Grant, TOKEN_BYTES_MAX, identity_form, read_token, token_url,
};
use super::credentials::Credentials;
use super::error::{HINT_NO_CREDENTIALS, RegistryError};
use super::trust::SystemTrust;
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
use crate::store::{ImageStore, PlainHttp};

/// The plain HTTP client of a store.
pub(crate) type HttpClient = reqwest::Client;

/// A registry that takes longer to accept a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A line that is silent for so long is broken.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Who we say we are.
const USER_AGENT: &str = concat!("coracle/", env!("CARGO_PKG_VERSION"));
/// What is kept of an error's text.
const ERROR_BYTES_MAX: usize = 4096;

/// A conversation with one registry about one repository.
pub(super) struct Session {
    http: HttpClient,
    trust: Arc<SystemTrust>,
    reference: Reference,
    credentials: Option<Credentials>,
    access: Access,
    /// Empty until a registry on this machine has shown it.
    scheme: OnceLock<Scheme>,
    state: Mutex<State>,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Plain,
    Tls,
}

/// What was agreed with the registry so far.
#[derive(Default)]
struct State {
    grant: Option<Grant>,
    client: Option<ProtocolClient>,
}

/// A manifest or index, as it arrived.
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    pub(super) content_type: Option<String>,
    /// The digest that the registry states, unchecked.
    pub(super) stated_digest: Option<String>,
}

impl Session {
    /// Prepares to speak to an image's registry; nothing is sent yet.
    pub(super) fn new(
        store: &ImageStore,
        reference: &Reference,
        credentials: Option<Credentials>,
        access: Access,
    ) -> Result<Self, RegistryError> {
        let credentials = match credentials {
            Some(credentials) => Some(credentials),
            None => Credentials::from_docker_config(reference).map_err(|source| {
                RegistryError::Credentials {
                    registry: reference.registry().to_owned(),
                    source,
                }
            })?,
        };
        let scheme = match store.inner.options.plain_http {
            PlainHttp::Loopback if reference.is_loopback() => OnceLock::new(),
            PlainHttp::Loopback => Scheme::Tls.into(),
            PlainHttp::Always => Scheme::Plain.into(),
        };
        let http = http_client(store).map_err(|source| RegistryError::Unreachable {
            registry: reference.registry().to_owned(),
            source,
        })?;
        let trust = store.inner.trust.clone();
        let (reference, state) = (reference.clone(), Mutex::default());
        Ok(Self {
            http,
            trust,
            reference,
            credentials,
            access,
            scheme,
            state,
        })
    }

    /// Returns the registry's name for messages.
    pub(super) fn registry(&self) -> &str {
        self.reference.registry()
    }

    /// Returns the image this is about.
    pub(super) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Fetches a manifest or index by tag or digest, bounded.
    pub(super) async fn manifest(&self, name: &str) -> Result<Fetched, RegistryError> {
        let response = self.send(Method::GET, name).await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let content_type = header(CONTENT_TYPE.as_str());
        let stated_digest = header("docker-content-digest");
        let bytes = self.bounded(response, MANIFEST_BYTES_MAX as usize).await?;
        Ok(Fetched {
            bytes,
            content_type,
            stated_digest,
        })
    }

    /// Asks what digest a tag has now; registries need not tell.
    pub(super) async fn resolve(&self, name: &str) -> Result<Option<String>, RegistryError> {
        let response = self.send(Method::HEAD, name).await?;
        let digest = response.headers().get("docker-content-digest");
        Ok(digest
            .and_then(|digest| digest.to_str().ok())
            .map(str::to_owned))
    }

    /// Returns the protocol library's client, authorised as far as the registry has asked for it.
    pub(super) async fn client(&self) -> Result<ProtocolClient, RegistryError> {
        let mut state = self.state.lock().await;
        if let Some(client) = &state.client {
            return Ok(client.clone());
        }
        // The library takes for granted that the system has certificates, with or without TLS.
        self.trust
            .verifier()
            .map_err(|source| RegistryError::Unreachable {
                registry: self.registry().to_owned(),
                source: source.into(),
            })?;
        let config = ClientConfig {
            protocol: match self.scheme() {
                Scheme::Plain => ClientProtocol::Http,
                Scheme::Tls => ClientProtocol::Https,
            },
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            platform_resolver: None,
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let client = ProtocolClient::try_from(config)
            .map_err(|error| RegistryError::from_library(self.registry(), ("", ""), error))?;
        let auth = match &state.grant {
            None => None,
            Some(Grant::Basic { username, password }) => {
                Some(RegistryAuth::Basic(username.clone(), password.clone()))
            }
            Some(Grant::Bearer(token)) => Some(RegistryAuth::Bearer(token.clone())),
        };
        if let Some(auth) = auth {
            let registry = self.reference.wire().resolve_registry();
            client.store_auth_if_needed(registry, &auth).await;
        }
        state.client = Some(client.clone());
        Ok(client)
    }

    /// Asks for a new token: the last one has run out, or none was asked for yet.
    pub(super) async fn renew(&self) -> Result<(), RegistryError> {
        *self.state.lock().await = State::default();
        let response = self.ask(&Method::GET, "/v2/", None).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let grant = self.grant(response.headers()).await?;
            self.state.lock().await.grant = Some(grant);
        }
        Ok(())
    }

    async fn send(&self, method: Method, name: &str) -> Result<Response, RegistryError> {
        let path = format!("/v2/{}/manifests/{name}", self.reference.repository());
        let known = self.state.lock().await.grant.clone();
        let first = self.ask(&method, &path, known.as_ref()).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return self.judged(first, name).await;
        }
        let grant = self.grant(first.headers()).await?;
        *self.state.lock().await = State {
            grant: Some(grant.clone()),
            client: None,
        };
        let second = self.ask(&method, &path, Some(&grant)).await?;
        self.judged(second, name).await
    }

    /// Sends one request. The first to a registry on this machine finds out whether it speaks TLS.
    async fn ask(
        &self,
        method: &Method,
        path: &str,
        grant: Option<&Grant>,
    ) -> Result<Response, RegistryError> {
        let send = |scheme| self.request(scheme, method, path, grant).send();
        let settled = self.scheme.get().copied();
        let plain = match (settled, send(self.scheme()).await) {
            (Some(_), answer) => return answer.map_err(|source| self.unreachable(source)),
            (None, plain) => plain,
        };
        if !may_want_tls(&plain) {
            if plain.is_ok() {
                self.settle(Scheme::Plain);
            }
            return plain.map_err(|source| self.unreachable(source));
        }
        match send(Scheme::Tls).await {
            Ok(answer) => {
                self.settle(Scheme::Tls);
                Ok(answer)
            }
            // It speaks TLS, and who does not prove who it is, is not spoken to without either.
            Err(error) if is_of_certificate(&error) => Err(self.unreachable(error)),
            Err(_) => plain.map_err(|source| self.unreachable(source)),
        }
    }

    fn request(
        &self,
        scheme: Scheme,
        method: &Method,
        path: &str,
        grant: Option<&Grant>,
    ) -> RequestBuilder {
        let scheme = match scheme {
            Scheme::Plain => "http",
            Scheme::Tls => "https",
        };
        let url = format!(
            "{scheme}://{}{path}",
            self.reference.wire().resolve_registry()
        );
        let accepted = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX].join(", ");
        let accepted = HeaderValue::from_str(&accepted).expect("media types are header values");
        let request = self.http.request(method.clone(), url);
        self.authorised(request.header(ACCEPT, accepted), grant)
    }

    fn authorised(&self, request: RequestBuilder, grant: Option<&Grant>) -> RequestBuilder {
        match grant {
            None => request,
            Some(Grant::Basic { username, password }) => {
                request.basic_auth(username, Some(password))
            }
            Some(Grant::Bearer(token)) => request.bearer_auth(token),
        }
    }

    /// Turns a status into an answer or a failure.
    async fn judged(&self, response: Response, what: &str) -> Result<Response, RegistryError> {
        let status = response.status();
        let registry = self.registry().to_owned();
        match status {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => {
                let mut what = format!("{}:{what}", self.reference.repository());
                if self.reference.digest().is_some() {
                    what = what.replacen(':', "@", 1);
                }
                Err(RegistryError::NotFound { registry, what })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied()),
            status => {
                let message = self
                    .bounded(response, ERROR_BYTES_MAX)
                    .await
                    .unwrap_or_default();
                let message = String::from_utf8_lossy(&message).into_owned();
                Err(RegistryError::Status {
                    registry,
                    status: status.as_u16(),
                    message,
                })
            }
        }
    }

    /// Follows a challenge to what goes with each further request.
    async fn grant(&self, headers: &HeaderMap) -> Result<Grant, RegistryError> {
        let challenges = headers.get_all(WWW_AUTHENTICATE);
        let challenges = challenges.iter().filter_map(|value| value.to_str().ok());
        match Challenge::read(challenges) {
            Some(Challenge::Basic) => {
                Grant::basic(self.credentials.as_ref()).ok_or_else(|| self.denied())
            }
            Some(Challenge::Bearer { realm, service }) => self
                .token(&realm, service.as_deref())
                .await
                .map(Grant::Bearer),
            None => Err(self.denied()),
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, RegistryError> {
        let scope = (self.reference.repository(), self.access);
        let unprotected = self.scheme() == Scheme::Plain;
        let url = token_url((realm, service), scope, unprotected)
            .ok_or_else(|| self.protocol("its token server has no usable address"))?;
        let request = match &self.credentials {
            None => self.http.get(url),
            Some(Credentials::Basic { username, password }) => {
                self.http.get(url).basic_auth(username, Some(password))
            }
            Some(Credentials::Identity { token }) => {
                let (target, form) = identity_form(&url, token);
                let form_type = "application/x-www-form-urlencoded";
                self.http
                    .post(target)
                    .header(CONTENT_TYPE, form_type)
                    .body(form)
            }
        };
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied()),
            status => {
                let (registry, message) = (self.registry().to_owned(), "token server".to_owned());
                return Err(RegistryError::Status {
                    registry,
                    status: status.as_u16(),
                    message,
                });
            }
        }
        let bytes = self.bounded(response, TOKEN_BYTES_MAX).await?;
        read_token(&bytes).ok_or_else(|| self.protocol("its token server gives no usable token"))
    }

    /// Reads an answer that must be small.
    async fn bounded(&self, mut response: Response, max: usize) -> Result<Bytes, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|source| self.unreachable(source))?
        {
            if bytes.len() + chunk.len() > max {
                return Err(self.protocol("an answer is too large"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    /// Returns how the registry is spoken to: plainly until it is known to speak TLS.
    fn scheme(&self) -> Scheme {
        self.scheme.get().copied().unwrap_or(Scheme::Plain)
    }

    fn settle(&self, scheme: Scheme) {
        // Requests that find it out at the same time find the same.
        let _ = self.scheme.set(scheme);
    }

    fn unreachable(&self, source: reqwest::Error) -> RegistryError {
        // The address stands in the sentence already.
        let source = source.without_url().into();
        RegistryError::Unreachable {
            registry: self.registry().to_owned(),
            source,
        }
    }

    fn protocol(&self, what: &str) -> RegistryError {
        RegistryError::Protocol {
            registry: self.registry().to_owned(),
            what: what.to_owned(),
        }
    }

    fn denied(&self) -> RegistryError {
        RegistryError::Denied {
            registry: self.registry().to_owned(),
            repository: self.reference.repository().to_owned(),
            hint: if self.credentials.is_none() {
                HINT_NO_CREDENTIALS
            } else {
                ""
            },
        }
    }
}

/// Returns the client of a store, which is made when it is first needed.
fn http_client(store: &ImageStore) -> Result<HttpClient, Box<dyn Error + Send + Sync>> {
    if let Some(client) = store.inner.http.get() {
        return Ok(client.clone());
    }
    let made = HttpClient::builder()
        .tls_backend_preconfigured(store.inner.trust.client_config()?)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(USER_AGENT)
        .build()?;
    Ok(store.inner.http.get_or_init(|| made).clone())
}

/// Returns whether a plain request met what may be a TLS server: some answer 400, of which a `HEAD`
/// shows nothing else, and others end the connection.
fn may_want_tls(plain: &reqwest::Result<Response>) -> bool {
    match plain {
        Ok(answer) => answer.status() == StatusCode::BAD_REQUEST,
        Err(error) => !error.is_connect() && !error.is_timeout(),
    }
}

/// Returns whether a connection failed since the registry's certificate is not trusted. The TLS library's
/// own error cannot be had through two others; its words are the same for all reasons.
fn is_of_certificate(error: &reqwest::Error) -> bool {
    // The outermost sentence holds the address, and so whatever an image may be called.
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.to_string().contains("certificate") {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
