//! What registries answer when they do not give what was asked for.

use oci_distribution::errors::{DigestError, OciDistributionError, OciErrorCode};

use crate::refusal::FailureClass;

/// A failed request to a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or one that broke off.
    #[error("registry `{registry}` cannot be reached")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What the network says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry answered with an error of its own.
    #[error("registry `{registry}` answers {status}{}", shown(message))]
    Status {
        /// Host and port.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of what it said.
        message: String,
    },
    /// The registry does not have it.
    #[error("registry `{registry}` has no `{what}`")]
    NotFound {
        /// Host and port.
        registry: String,
        /// The name or digest that was asked for.
        what: String,
    },
    /// The registry does not let us.
    #[error("registry `{registry}` refuses access to `{repository}`{hint}")]
    Denied {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
        /// What can be done about it, or nothing.
        hint: &'static str,
    },
    /// Docker's own file has credentials that cannot be used.
    #[error("no usable credentials for registry `{registry}`")]
    Credentials {
        /// Host and port.
        registry: String,
        /// What is wrong.
        #[source]
        source: super::credentials::CredentialsError,
    },
    /// The registry's answer does not follow the protocol.
    #[error("registry `{registry}` answers against the protocol: {what}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What is wrong.
        what: String,
    },
}

/// Said when no credentials were sent.
pub(super) const HINT_NO_CREDENTIALS: &str =
    " without credentials (`--creds`, or `auths` in Docker's `config.json`; helpers are not asked)";

impl RegistryError {
    /// Returns whether trying again later can help.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Unreachable { .. } => FailureClass::Retry,
            Self::Status { status, .. } if *status >= 500 || matches!(status, 408 | 429) => {
                FailureClass::Retry
            }
            Self::Status { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Credentials { .. }
            | Self::Protocol { .. } => FailureClass::Final,
        }
    }

    /// Makes sense of the protocol library's error.
    pub(super) fn from_library(
        registry: &str,
        (repository, what): (&str, &str),
        error: OciDistributionError,
    ) -> Self {
        let registry = registry.to_owned();
        let not_found = |registry| Self::NotFound {
            registry,
            what: what.to_owned(),
        };
        let denied = |registry| Self::Denied {
            registry,
            repository: repository.to_owned(),
            hint: "",
        };
        let answered = |registry, status, message| match status {
            404 => not_found(registry),
            401 | 403 => denied(registry),
            status => Self::Status {
                registry,
                status,
                message,
            },
        };
        match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => denied(registry),
            OciDistributionError::ServerError { code, message, .. } => {
                answered(registry, code, message)
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                match envelope.errors.into_iter().next() {
                    Some(first) => answered(registry, status_of(&first.code), first.message),
                    None => Self::Protocol {
                        registry,
                        what: "an error without a reason".to_owned(),
                    },
                }
            }
            // Some calls of the library make an error of an answer.
            OciDistributionError::RequestError(source) => match source.status() {
                Some(status) => answered(registry, status.as_u16(), String::new()),
                None => Self::Unreachable {
                    registry,
                    // The address stands in the sentence already.
                    source: source.without_url().into(),
                },
            },
            OciDistributionError::IoError(source) if is_wrong_content(&source) => Self::Protocol {
                registry,
                what: source.to_string(),
            },
            OciDistributionError::IoError(source) => Self::Unreachable {
                registry,
                source: source.into(),
            },
            other => Self::Protocol {
                registry,
                what: other.to_string(),
            },
        }
    }
}

/// The status that goes with a registry's own word for what is wrong.
fn status_of(code: &OciErrorCode) -> u16 {
    match code {
        OciErrorCode::BlobUnknown
        | OciErrorCode::ManifestUnknown
        | OciErrorCode::NameUnknown
        | OciErrorCode::NotFound => 404,
        OciErrorCode::Denied | OciErrorCode::Unauthorized => 401,
        OciErrorCode::Toomanyrequests => 429,
        _ => 400,
    }
}

/// Returns whether a blob arrived to its end and is not what its digest says, as the library finds it.
pub(super) fn is_wrong_content(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<DigestError>())
}

/// A registry's words are shown shortly and without control characters.
fn shown(message: &str) -> String {
    let words: String = message
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(200)
        .collect();
    let words = words.trim();
    if words.is_empty() {
        String::new()
    } else {
        format!(": {words}")
    }
}
