//! What proves to a registry who we are.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::reference::Reference;

/// Docker's own files are a few kilobytes.
const CONFIG_FILE_BYTES_MAX: u64 = 4 << 20;

/// What proves to a registry who we are. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's name and password.
    Basic {
        /// The name.
        username: String,
        /// The password or access token.
        password: String,
    },
    /// A token that is exchanged for short-lived ones.
    Identity {
        /// The token.
        token: String,
    },
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The text is not `user:password`.
    #[error("credentials must be given as `user:password`")]
    Format,
    /// Docker's file cannot be read.
    #[error("failed to read credentials from `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Docker's file is not valid.
    #[error("credentials in `{}` are not valid: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase", default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Credentials {
    /// Reads `user:password`, as it is given on a command line.
    ///
    /// # Errors
    ///
    /// Fails when there is no colon or no name before it.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        match text.split_once(':') {
            Some((name, password)) if !name.is_empty() => Ok(Self::Basic {
                username: name.to_owned(),
                password: password.to_owned(),
            }),
            _ => Err(CredentialsError::Format),
        }
    }

    /// Returns what Docker's own file says for an image's registry, or nothing.
    ///
    /// The file is `config.json` in `$DOCKER_CONFIG` or `~/.docker`. Only what stands in the file
    /// under `auths` is used; credential helpers are other programs and are not asked.
    ///
    /// # Errors
    ///
    /// Fails when the file is there but cannot be understood.
    pub fn from_docker_config(reference: &Reference) -> Result<Option<Self>, CredentialsError> {
        let folder = match std::env::var_os("DOCKER_CONFIG") {
            Some(folder) => Some(PathBuf::from(folder)),
            None => std::env::home_dir().map(|home| home.join(".docker")),
        };
        match folder {
            Some(folder) => Self::from_docker_file(&folder.join("config.json"), reference),
            None => Ok(None),
        }
    }

    /// Returns what a file in Docker's format says for an image's registry, or nothing.
    ///
    /// # Errors
    ///
    /// Fails when the file is there but cannot be understood.
    pub fn from_docker_file(
        path: &Path,
        reference: &Reference,
    ) -> Result<Option<Self>, CredentialsError> {
        let bytes = match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > CONFIG_FILE_BYTES_MAX => {
                let reason = "it is too large".to_owned();
                return Err(CredentialsError::File {
                    path: path.to_owned(),
                    reason,
                });
            }
            Ok(_) => std::fs::read(path),
            Err(error) => Err(error),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(CredentialsError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Self::from_docker_json(&bytes, reference).map_err(|reason| CredentialsError::File {
            path: path.to_owned(),
            reason,
        })
    }

    /// The same for the file's bytes; a Secret of type `kubernetes.io/dockerconfigjson` holds them.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the bytes.
    pub fn from_docker_json(bytes: &[u8], reference: &Reference) -> Result<Option<Self>, String> {
        let config: DockerConfig =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let entry = config
            .auths
            .into_iter()
            .find(|(name, _)| host_of(name) == reference.registry());
        entry.map_or(Ok(None), |(name, auth)| {
            auth.credentials()
                .map_err(|reason| format!("`{name}`: {reason}"))
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => f
                .debug_struct("Basic")
                .field("username", username)
                .finish_non_exhaustive(),
            Self::Identity { .. } => f.debug_struct("Identity").finish_non_exhaustive(),
        }
    }
}

impl DockerAuth {
    fn credentials(self) -> Result<Option<Credentials>, &'static str> {
        if let Some(token) = self.identitytoken.filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::Identity { token }));
        }
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let decoded = STANDARD
                .decode(auth.trim())
                .map_err(|_| "its `auth` is not base64")?;
            let text = String::from_utf8(decoded).map_err(|_| "its `auth` is not text")?;
            let text = text.trim_end_matches('\0');
            return Credentials::parse(text)
                .map(Some)
                .map_err(|_| "its `auth` is not `user:password`");
        }
        Ok(self
            .username
            .filter(|name| !name.is_empty())
            .map(|username| Credentials::Basic {
                username,
                password: self.password.unwrap_or_default(),
            }))
    }
}

/// Docker writes registries as hosts and, for its own, as an address.
fn host_of(name: &str) -> &str {
    let name = name
        .strip_prefix("https://")
        .or(name.strip_prefix("http://"))
        .unwrap_or(name);
    match name.split('/').next().unwrap_or(name) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, image: &str, expected: Result<Option<Credentials>, ()>) {
        let reference = image.parse().expect("a reference");
        let found = Credentials::from_docker_json(json.as_bytes(), &reference).map_err(drop);
        assert_eq!(found, expected, "{json} for {image}");
    }

    fn basic(username: &str, password: &str) -> Result<Option<Credentials>, ()> {
        Ok(Some(Credentials::Basic {
            username: username.to_owned(),
            password: password.to_owned(),
        }))
    }

    #[test]
    fn dockers_file_gives_credentials_to_the_right_registry_only() {
        let json = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},
            "localhost:5000":{"auth":"YTpiOmM="},"r.io":{"identitytoken":"t"},
            "plain.io":{"username":"n","password":"w"},"empty.io":{}},"credsStore":"desktop"}"#;
        check(json, "nginx", basic("u", "p"));
        check(json, "localhost:5000/a", basic("a", "b:c"));
        check(
            json,
            "r.io/a",
            Ok(Some(Credentials::Identity {
                token: "t".to_owned(),
            })),
        );
        check(json, "plain.io/a", basic("n", "w"));
        check(json, "empty.io/a", Ok(None));
        check(json, "localhost:5001/a", Ok(None));
        check("{}", "nginx", Ok(None));
    }

    #[test]
    fn a_damaged_file_is_told_and_not_taken_for_no_credentials() {
        check("[", "nginx", Err(()));
        check(r#"{"auths":{"r.io":{"auth":"***"}}}"#, "r.io/a", Err(()));
        check(
            r#"{"auths":{"r.io":{"auth":"dXNlcg=="}}}"#,
            "r.io/a",
            Err(()),
        );
    }

    #[test]
    fn a_password_is_never_printed() {
        let shown = format!(
            "{:?}",
            Credentials::parse("user:secret").expect("credentials")
        );
        assert!(
            shown.contains("user") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
