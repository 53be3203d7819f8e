//! Whom the guests of one container trust over TLS.
//!
//! | Server | Who may vouch for it |
//! |---|---|
//! | any | the public authorities of `webpki-roots`, so that nothing of the system is asked; those of the file that [`EXTRA_AUTHORITIES`] of this process names; those of the file *in the container* that the same variable of the program names |
//! | the API, by its names in the cluster | also the authority that is mounted beside the pod's token |
//!
//! `wasi:http` has no way to say whom to trust, and every Kubernetes client trusts the mounted authority
//! when it speaks to the API, so we do. It vouches for nobody else: who can make the cluster sign a
//! certificate is not the world's authority.
//!
//! Files are read at each connection, as a mounted authority is renewed in place; what was made of them
//! is kept while they stay the same.

use crate::account::{Account, Held};
use crate::blocking;
use crate::fs::{FileSource, FileSystem, FsError};
use bytes::Bytes;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use thiserror::Error;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::Error as HttpError;

use super::tls;

/// The variable that names a file of certificates in PEM whose authorities are trusted, too.
const EXTRA_AUTHORITIES: &str = "SSL_CERT_FILE";
/// Where a pod finds the authority of its cluster, as every Kubernetes client expects it.
const CLUSTER_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// The variable with the address of the API.
const API_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// The names of the API in every cluster; the last also with the cluster's domain behind it.
const API_NAMES: [&str; 3] = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
/// The most bytes of certificates that a program of a container may name: a system's bundle has a quarter
/// of that.
const CERTIFICATES_BYTES_MAX: u64 = 1 << 20;
/// What is charged for a set of authorities beside twice its file: the public ones are in each.
const SET_BYTES: u64 = 64 * 1024;

/// Why a file gives us no authorities.
#[derive(Debug, Error)]
enum AuthoritiesError {
    #[error("failed to read the certificates")]
    Read(#[source] pem::Error),
    #[error("failed to find the file in the container")]
    Find(#[source] FsError),
    #[error("failed to read the file of the container")]
    File(#[source] io::Error),
    #[error("no certificate in the file is that of an authority")]
    NoneFound,
}

/// What all containers of a process begin with.
#[derive(Clone)]
pub(crate) struct Base {
    authorities: Arc<RootCertStore>,
    connector: TlsConnector,
}

/// Whom one program of a container trusts, shared by its instances.
pub(crate) struct Trust {
    /// Asked only for `https`, since the first call reads the authorities.
    base: fn() -> Base,
    files: Arc<FileSystem>,
    env: Arc<[(String, String)]>,
    account: Arc<Account>,
    /// What was made of the files last, for the API and for other servers.
    made: [Mutex<Option<Made>>; 2],
}

/// A set of authorities beyond the common ones.
struct Made {
    /// What the files held.
    of: Read,
    connector: TlsConnector,
    _held: Held,
}

/// What the files of a container hold; nothing where there is no file.
#[derive(Clone, Default, PartialEq, Eq)]
struct Read {
    named: Option<Bytes>,
    cluster: Option<Bytes>,
}

/// Returns what every container of this process trusts, read when the first of them asks.
pub(crate) fn of_process() -> Base {
    static BASE: LazyLock<Base> = LazyLock::new(|| {
        let mut authorities = public_authorities();
        if let Some(path) = std::env::var_os(EXTRA_AUTHORITIES) {
            // Without them their servers are distrusted by name; everyone else's are no worse off.
            if let Err(error) = add_file(&mut authorities, path.as_ref()) {
                let error = &error as &dyn StdError;
                tracing::warn!(?path, error, "ignoring `SSL_CERT_FILE`");
            }
        }
        Base::new(authorities)
    });
    BASE.clone()
}

impl Base {
    pub(super) fn new(authorities: RootCertStore) -> Self {
        let authorities = Arc::new(authorities);
        Self {
            connector: tls::trusting(authorities.clone()),
            authorities,
        }
    }
}

impl Trust {
    /// Makes the trust of a program with `env` in a container with `files`, beginning with `base`; what is
    /// kept of them is charged to `account`.
    pub(crate) fn new(
        base: fn() -> Base,
        files: Arc<FileSystem>,
        env: Arc<[(String, String)]>,
        account: Arc<Account>,
    ) -> Self {
        Self {
            base,
            files,
            env,
            account,
            made: Default::default(),
        }
    }

    /// Returns what connects to `host`. A file that cannot be used adds nobody: its servers are distrusted
    /// by name. May read files of the container.
    ///
    /// # Errors
    /// The container has no memory for the authorities; it ends.
    pub(super) async fn connector(self: &Arc<Self>, host: &str) -> Result<TlsConnector, HttpError> {
        let base = (self.base)();
        let is_api = self.is_api(host);
        if !is_api && self.named().is_none() {
            return Ok(base.connector);
        }
        let this = self.clone();
        let read = blocking::run(move || this.read(is_api)).await;
        let read = read.unwrap_or_else(|error| {
            tracing::debug!(%error, "a container's authorities were not read");
            Read::default()
        });
        if read == Read::default() {
            return Ok(base.connector);
        }
        let mut made = self.made[usize::from(is_api)].lock();
        if let Some(made) = made.as_ref().filter(|made| made.of == read) {
            return Ok(made.connector.clone());
        }
        *made = None;
        let fresh = self.make(&base, read);
        let fresh = made.insert(fresh.ok_or_else(out_of_memory)?);
        Ok(fresh.connector.clone())
    }

    /// Makes what connects to those that `base` and the files vouch for, unless there is no memory for it.
    fn make(&self, base: &Base, read: Read) -> Option<Made> {
        let files = [&read.named, &read.cluster];
        let bytes = files.iter().map(|file| file.as_ref().map_or(0, Bytes::len));
        let bytes = 2 * bytes.sum::<usize>() as u64 + SET_BYTES;
        let held = Held::new(&self.account, bytes)?;
        let mut authorities = RootCertStore::clone(&base.authorities);
        for file in files.into_iter().flatten() {
            if let Err(error) = add(&mut authorities, CertificateDer::pem_slice_iter(file)) {
                let error = &error as &dyn StdError;
                tracing::debug!(error, "a file of authorities of a container is ignored");
            }
        }
        Some(Made {
            connector: tls::trusting(authorities.into()),
            of: read,
            _held: held,
        })
    }

    /// Reads what vouches for the API, or for others. Blocks.
    fn read(&self, is_api: bool) -> Read {
        let read = |path: &str| match self.read_file(path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let error = &error as &dyn StdError;
                tracing::debug!(path, error, "a container's authorities were not read");
                None
            }
        };
        Read {
            named: self.named().and_then(read),
            cluster: is_api.then_some(CLUSTER_AUTHORITY).and_then(read),
        }
    }

    fn read_file(&self, path: &str) -> Result<Bytes, AuthoritiesError> {
        let found = self.files.open_extent(path);
        let found = found.map_err(AuthoritiesError::Find)?;
        if found.len() > CERTIFICATES_BYTES_MAX {
            return Err(AuthoritiesError::File(io::ErrorKind::FileTooLarge.into()));
        }
        match found {
            FileSource::Bytes(bytes) => Ok(bytes),
            FileSource::Extent(extent) => extent.read_all().map_err(AuthoritiesError::File),
        }
    }

    /// The file of authorities that the program's environment names.
    fn named(&self) -> Option<&str> {
        self.variable(EXTRA_AUTHORITIES)
            .filter(|path| path.starts_with('/'))
    }

    fn is_api(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let [.., full] = API_NAMES;
        let below = host.strip_prefix(full);
        API_NAMES.contains(&host.as_str())
            || below.is_some_and(|domain| domain.starts_with('.'))
            || self
                .variable(API_HOST)
                .is_some_and(|api| api.eq_ignore_ascii_case(&host))
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let mut all = self.env.iter();
        let found = all.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

fn out_of_memory() -> HttpError {
    HttpError::InternalError(Some("out of memory".to_owned()))
}

/// Returns the authorities that browsers trust.
pub(super) fn public_authorities() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

fn add_file(known: &mut RootCertStore, path: &Path) -> Result<(), AuthoritiesError> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(AuthoritiesError::Read)?;
    add(known, certificates)
}

fn add(
    known: &mut RootCertStore,
    certificates: impl Iterator<Item = Result<CertificateDer<'static>, pem::Error>>,
) -> Result<(), AuthoritiesError> {
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(AuthoritiesError::Read)?;
    // A system's bundle may hold a few that are too old for us.
    match known.add_parsable_certificates(certificates) {
        (0, _) => Err(AuthoritiesError::NoneFound),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_adds_to_the_public_authorities() {
        let check = |file: &str, expected: Result<usize, &str>| {
            let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
            let mut known = public_authorities();
            let public = known.len();
            assert!(public > 50, "{public}");
            let added = add_file(&mut known, &data.join(file));
            let added = added.map(|()| known.len() - public);
            let added = added.map_err(|error| error.to_string());
            assert_eq!(added, expected.map_err(str::to_owned), "{file}");
        };
        check("authority.pem", Ok(1));
        check("missing.pem", Err("failed to read the certificates"));
        let none = "no certificate in the file is that of an authority";
        check("README.md", Err(none));
    }
}
