//! TLS of guests' requests: how it is spoken, and what a guest is told when it fails. Whom its servers
//! are vouched for by, [`trust`](super::trust) says.

use coracle_network::Stream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmtime_wasi_http::Error;

/// What we speak over TLS; a server of HTTP/2 only is refused in the handshake.
const HTTP_1: &[u8] = b"http/1.1";

/// Makes what connects to the servers that `authorities` vouch for.
pub(super) fn trusting(authorities: Arc<RootCertStore>) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for all versions")
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    TlsConnector::from(Arc::new(config))
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
}
