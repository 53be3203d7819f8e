//! Who is at the other end of a connection, as its certificate says.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use jiff::Timestamp;
use ring::digest;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::parse_x509_certificate;

use super::Authority;
use crate::caller::{AUTHENTICATED, Caller};

/// What a caller's `extra` says about the certificate it came with.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What the certificate of a connection is worth.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// There is none: requests may still carry a token.
    Unnamed,
    /// The authority vouches for this caller until then.
    Named { caller: Caller, expires: Timestamp },
    /// There is one, of no authority we trust, of another purpose or past its end.
    Refused,
}

/// Checks certificates against the authority.
#[derive(Debug)]
pub(crate) struct ClientCertificates {
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Takes every certificate whose key the client has, so that a request can be answered with what is
/// wrong with it: a handshake that fails would leave the client guessing.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<ClientCertificates>);

impl ClientCertificates {
    pub(crate) fn new(authority: &Authority) -> Result<ClientCertificates, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(ClientCertificates { verifier })
    }

    /// Says who has proved to own `chain`.
    pub(crate) fn identify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Peer {
        let Some((own, between)) = chain.split_first() else {
            return Peer::Unnamed;
        };
        let at = u64::try_from(now.as_second()).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        if let Err(error) = self.verifier.verify_client_cert(own, between, at) {
            tracing::debug!(%error, "a client's certificate is refused");
            return Peer::Refused;
        }
        read(own).unwrap_or(Peer::Refused)
    }
}

/// Reads user and groups: common name and organizations, as the stock server does.
fn read(der: &CertificateDer<'_>) -> Option<Peer> {
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
    let mut id = String::from("X509SHA256=");
    for byte in digest::digest(&digest::SHA256, der).as_ref() {
        write!(id, "{byte:02x}").expect("a string takes everything");
    }
    let caller = Caller {
        name: name.to_owned(),
        uid: String::new(),
        groups,
        extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![id])]),
    };
    let expires = certificate.validity().not_after.timestamp();
    let expires = Timestamp::from_second(expires).ok()?;
    Some(Peer::Named { caller, expires })
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verifier = &self.0.verifier;
        verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verifier = &self.0.verifier;
        verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.verifier.supported_verify_schemes()
    }
}
