//! TLS of guests' requests: whom we trust, and what a guest is told when it fails.
//!
//! Trust comes with the program, in the public authorities of `webpki-roots`, so nothing of the
//! system is asked. [`EXTRA_AUTHORITIES`] adds authorities of one's own.

use coracle_network::Stream;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use thiserror::Error;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

/// The variable that names a file of certificates in PEM whose authorities are trusted, too.
const EXTRA_AUTHORITIES: &str = "SSL_CERT_FILE";
/// What we speak over TLS; a server of HTTP/2 only is refused in the handshake.
const HTTP_1: &[u8] = b"http/1.1";

/// Why a file gives us no authorities.
#[derive(Debug, Error)]
enum AuthoritiesError {
    #[error("failed to read the certificates")]
    Read(#[source] pem::Error),
    #[error("no certificate in the file is that of an authority")]
    NoneFound,
}

/// Returns what all guests of this process connect with, made when the first of them asks.
pub(super) fn of_process() -> TlsConnector {
    static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
        let mut authorities = public_authorities();
        if let Some(path) = std::env::var_os(EXTRA_AUTHORITIES) {
            // Without them their servers are distrusted by name; everyone else's are no worse off.
            if let Err(error) = add_authorities(&mut authorities, path.as_ref()) {
                let error = &error as &dyn StdError;
                tracing::warn!(?path, error, "ignoring `SSL_CERT_FILE`");
            }
        }
        trusting(authorities)
    });
    CONNECTOR.clone()
}

/// Makes what connects to the servers that `authorities` vouch for.
pub(super) fn trusting(authorities: RootCertStore) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for all versions")
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Returns the authorities that browsers trust.
pub(super) fn public_authorities() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

fn add_authorities(known: &mut RootCertStore, path: &Path) -> Result<(), AuthoritiesError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(AuthoritiesError::Read)?;
    // A system's bundle may hold a few that are too old for us.
    match known.add_parsable_certificates(certificates) {
        (0, _) => Err(AuthoritiesError::NoneFound),
        _ => Ok(()),
    }
}

/// Returns whom a server at `host`, a name or an address, has to prove to be.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(host.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)
}

/// Shakes hands with the server at the other end of `stream`.
pub(super) async fn shake_hands(
    connector: &TlsConnector,
    server: ServerName<'static>,
    stream: Stream,
) -> Result<TlsStream<Stream>, Error> {
    connector.connect(server, stream).await.map_err(|error| {
        tracing::debug!(%error, "a guest's TLS handshake failed");
        cause(&error).unwrap_or(Error::ConnectionTerminated)
    })
}

/// Returns what TLS has to say about `error`, or nothing if it lies elsewhere.
///
/// Not only handshakes fail so: with TLS 1.3, a server that wants a certificate of ours says it
/// after them.
pub(super) fn cause(error: &(dyn StdError + 'static)) -> Option<Error> {
    let mut errors = std::iter::successors(Some(error), |&error| error.source());
    let error = errors.find_map(|error| {
        // What is wrapped in an `io::Error` is not among its sources.
        let wrapped = error.downcast_ref::<io::Error>()?.get_ref()?;
        wrapped.downcast_ref::<rustls::Error>()
    })?;
    Some(match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Error::TlsCertificateError
        }
        rustls::Error::AlertReceived(alert) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_names_and_addresses() {
        for host in ["example.com", "example.com.", "a_b", "10.1.2.3", "::1"] {
            assert!(server_name(host).is_ok(), "{host}");
        }
        for host in ["", "a b", "a..b", "[::1]", "10.1.2"] {
            let refused = server_name(host);
            let is_named = matches!(refused, Err(Error::HttpRequestUriInvalid));
            assert!(is_named, "{host}");
        }
    }

    #[test]
    fn a_file_adds_to_the_public_authorities() {
        let check = |file: &str, expected: Result<usize, &str>| {
            let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
            let mut known = public_authorities();
            let public = known.len();
            assert!(public > 50, "{public}");
            let added = add_authorities(&mut known, &data.join(file));
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
