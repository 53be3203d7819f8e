//! Who the cluster is: the authority that signs its certificates, and the keys that prove it.
//!
//! An [`Identity`] rests in a folder or lives in memory. Certificates for servers and people are
//! made from it at each start and whenever one nears its end; only the authority itself is kept.

mod authority;
mod certify;
mod files;
mod peer;
mod token;

use std::{fmt, path::Path};

use jiff::Timestamp;
use thiserror::Error;

pub(crate) use authority::{Authority, Serving};
pub use authority::{Credentials, Purpose, Subject};
pub(crate) use peer::{AnyCertificate, ClientCertificates, Peer};
pub(crate) use token::{ISSUER, TokenKey, configuration};

/// The authority's certificate, in PEM; whoever has it can check the server.
const AUTHORITY_CERTIFICATE: &str = "ca.crt";
/// The authority's key; whoever has it is the cluster.
const AUTHORITY_KEY: &str = "ca.key";

/// The key that signs tokens of service accounts.
const TOKEN_KEY: &str = "service-account.key";

/// The keys of one cluster.
pub struct Identity {
    authority: Authority,
    tokens: TokenKey,
}

/// Why a cluster's keys cannot be had.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("failed to read `{path}`")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("failed to write `{path}`")]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("`{path}` is not what it should be: {why}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key or a certificate cannot be made.
    #[error("failed to make a key or a certificate")]
    Make(#[from] rcgen::Error),
}

impl Identity {
    /// Makes the keys of a cluster that ends with this process.
    ///
    /// # Errors
    ///
    /// Fails when the system gives no random numbers.
    pub fn in_memory(now: Timestamp) -> Result<Identity, IdentityError> {
        Ok(Identity {
            authority: Authority::generate(now)?,
            tokens: TokenKey::generate()?,
        })
    }

    /// Reads the keys of a cluster from a folder, and makes what is not there yet.
    ///
    /// The folder and the keys in it can be read by their owner alone. An authority's certificate
    /// near its end is renewed with the same key, so what it has signed stays valid.
    ///
    /// # Errors
    ///
    /// Fails when files cannot be read or written, or hold something else.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Identity, IdentityError> {
        files::make_private_dir(dir)?;
        let (certificate, key) = (dir.join(AUTHORITY_CERTIFICATE), dir.join(AUTHORITY_KEY));
        let authority = match (files::read(&key)?, files::read(&certificate)?) {
            (None, None) => Authority::generate(now)?,
            (None, Some(_)) => {
                let why = "the key beside it, `ca.key`, is missing".to_owned();
                return Err(IdentityError::Damaged {
                    path: certificate,
                    why,
                });
            }
            (Some(key_text), None) => Authority::renewed(&key_text, now)
                .map_err(|error| IdentityError::damaged(&key, &error))?,
            (Some(key_text), Some(text)) => Authority::from_pem(&key_text, &text, now)
                .map_err(|error| IdentityError::damaged(&certificate, &error))?,
        };
        // The key first: without its certificate a key is still whole, the reverse is of no use.
        files::write_if_changed(&key, &authority.key_pem())?;
        files::write_if_changed(&certificate, authority.certificate_pem())?;
        let path = dir.join(TOKEN_KEY);
        let tokens = match files::read(&path)? {
            None => TokenKey::generate()?,
            Some(text) => {
                TokenKey::from_pem(&text).map_err(|error| IdentityError::damaged(&path, &error))?
            }
        };
        files::write_if_changed(&path, tokens.pem())?;
        Ok(Identity { authority, tokens })
    }

    /// Returns the authority's certificate in PEM, by which clients know the server.
    pub fn authority_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Makes a new key and signs a certificate for it.
    ///
    /// # Errors
    ///
    /// Fails when the system gives no random numbers or a name cannot stand in a certificate.
    pub fn issue(&self, subject: &Subject, now: Timestamp) -> Result<Credentials, IdentityError> {
        Ok(self.authority.issue(subject, now)?)
    }

    pub(crate) fn tokens(&self) -> &TokenKey {
        &self.tokens
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }
}

impl IdentityError {
    fn damaged(path: &Path, error: &rcgen::Error) -> IdentityError {
        IdentityError::Damaged {
            path: path.to_owned(),
            why: error.to_string(),
        }
    }
}

impl fmt::Debug for Identity {
    /// Keys are in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_cluster_keeps_its_authority_and_its_keys_are_private() {
        let dir = std::env::temp_dir().join(format!("coracle-identity-{}", uuid::Uuid::new_v4()));
        let pki = dir.join("pki");
        let first = Identity::open(&pki, now()).unwrap();
        let second = Identity::open(&pki, now()).unwrap();
        assert_eq!(first.authority_pem(), second.authority_pem());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&pki), 0o700);
            assert_eq!(mode(&pki.join(AUTHORITY_KEY)), 0o600);
        }
        let left: Vec<_> = std::fs::read_dir(&pki).unwrap().collect();
        assert_eq!(left.len(), 3, "{left:?}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// Nine years on, the authority has less than its last year.
    #[test]
    fn an_authority_near_its_end_is_renewed_with_the_same_key() {
        let dir = std::env::temp_dir().join(format!("coracle-identity-{}", uuid::Uuid::new_v4()));
        let first = Identity::open(&dir, now()).unwrap();
        let key = std::fs::read(dir.join(AUTHORITY_KEY)).unwrap();
        let later = Identity::open(&dir, "2035-06-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_ne!(first.authority_pem(), later.authority_pem());
        assert_eq!(std::fs::read(dir.join(AUTHORITY_KEY)).unwrap(), key);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let dir = std::env::temp_dir().join(format!("coracle-identity-{}", uuid::Uuid::new_v4()));
        drop(Identity::open(&dir, now()).unwrap());
        let other = Identity::in_memory(now()).unwrap();
        for (file, text) in [
            (AUTHORITY_CERTIFICATE, "nonsense"),
            (AUTHORITY_CERTIFICATE, other.authority_pem()),
            (AUTHORITY_KEY, "nonsense"),
            (TOKEN_KEY, "nonsense"),
        ] {
            let kept = std::fs::read(dir.join(file)).unwrap();
            std::fs::write(dir.join(file), text).unwrap();
            let error = Identity::open(&dir, now()).unwrap_err().to_string();
            assert!(error.contains("is not what it should be"), "{error}");
            std::fs::write(dir.join(file), kept).unwrap();
        }
        std::fs::remove_file(dir.join(AUTHORITY_KEY)).unwrap();
        let error = Identity::open(&dir, now()).unwrap_err().to_string();
        assert!(error.contains("`ca.key`, is missing"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
