//! The authority that signs the cluster's certificates.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{parse_x509_certificate, time::ASN1Time};

/// The name in the authority's certificate.
const NAME: &str = "coracle";
/// How long the authority's certificate is valid: as kubeadm's.
const LIFETIME: Duration = Duration::from_secs(10 * YEAR);
/// With less than this left, the authority's certificate is renewed at the next start.
const RENEWAL: Duration = Duration::from_secs(YEAR);
/// How long certificates of servers and people are valid, as kubeadm's.
const SERVING_LIFETIME: Duration = Duration::from_secs(YEAR);
/// Validity begins a little in the past: clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
const YEAR: u64 = 365 * 24 * 60 * 60;

/// A key with the certificate that everyone trusts.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// Whom a certificate names, and for what.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The common name: for Kubernetes, the user.
    pub name: String,
    /// The organization: for Kubernetes, a group of the user.
    pub group: Option<String>,
    /// What the certificate is for.
    pub purpose: Purpose,
}

/// What a certificate is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// It says who asks.
    Client,
    /// It says who answers under these names and addresses.
    Server(Vec<String>),
}

/// A certificate with its key, both in PEM.
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// The key; whoever has it is the subject.
    pub key: String,
}

/// The server's own certificate, made anew when two thirds of its time are over.
#[derive(Debug)]
pub(crate) struct Serving {
    identity: Arc<super::Identity>,
    subject: Subject,
    clock: fn() -> Timestamp,
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    renew_at: Timestamp,
}

impl Authority {
    pub(super) fn generate(now: Timestamp) -> Result<Authority, rcgen::Error> {
        Authority::signed_by_itself(KeyPair::generate()?, now)
    }

    /// Makes a new certificate for a key that is there.
    pub(super) fn renewed(key: &str, now: Timestamp) -> Result<Authority, rcgen::Error> {
        Authority::signed_by_itself(read_key(key)?, now)
    }

    /// Reads key and certificate; they must belong together.
    pub(super) fn from_pem(
        key: &str,
        pem: &str,
        now: Timestamp,
    ) -> Result<Authority, rcgen::Error> {
        let key = read_key(key)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let (_, certificate) =
            parse_x509_certificate(&der).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
            let why = "the key beside it is another certificate's";
            return Err(rcgen::Error::X509(why.to_owned()));
        }
        let end = certificate.validity().not_after.timestamp();
        if now.as_second().saturating_add(seconds(RENEWAL)) > end {
            return Authority::signed_by_itself(key, now);
        }
        Ok(Authority {
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            pem: pem.to_owned(),
            der: der.into_owned(),
        })
    }

    fn signed_by_itself(key: KeyPair, now: Timestamp) -> Result<Authority, rcgen::Error> {
        let mut params = valid(now, LIFETIME)?;
        params.distinguished_name.push(DnType::CommonName, NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let certificate = params.self_signed(&key)?;
        Ok(Authority {
            issuer: Issuer::new(params, key),
            pem: certificate.pem(),
            der: certificate.der().clone(),
        })
    }

    pub(super) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    pub(super) fn key_pem(&self) -> String {
        self.key().serialize_pem()
    }

    pub(crate) fn certificate_pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(super) fn issue(
        &self,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<Credentials, rcgen::Error> {
        let (certificate, key) = self.sign_new_key(subject, now)?;
        Ok(Credentials {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    fn sign_new_key(
        &self,
        subject: &Subject,
        now: Timestamp,
    ) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
        let mut params = valid(now, SERVING_LIFETIME)?;
        let name = &mut params.distinguished_name;
        if let Some(group) = &subject.group {
            name.push(DnType::OrganizationName, group);
        }
        name.push(DnType::CommonName, &subject.name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match &subject.purpose {
            Purpose::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Server(names) => {
                let names = names.iter().map(|name| alternative(name));
                params.subject_alt_names = names.collect::<Result<_, _>>()?;
                vec![ExtendedKeyUsagePurpose::ServerAuth]
            }
        };
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }
}

/// Reads a key of the one kind that we make and sign with.
fn read_key(pem: &str) -> Result<KeyPair, rcgen::Error> {
    let key = KeyPair::from_pem(pem)?;
    match key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        true => Ok(key),
        false => Err(rcgen::Error::UnsupportedSignatureAlgorithm),
    }
}

/// Returns what every certificate begins with: its validity and no name.
fn valid(now: Timestamp, lifetime: Duration) -> Result<CertificateParams, rcgen::Error> {
    let at = |seconds: i64| {
        let time = ASN1Time::from_timestamp(seconds).map_err(|_| rcgen::Error::Time)?;
        Ok::<_, rcgen::Error>(time.to_datetime())
    };
    let now = now.as_second();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = at(now.saturating_sub(seconds(CLOCK_SKEW)))?;
    params.not_after = at(now.saturating_add(seconds(lifetime)))?;
    Ok(params)
}

fn alternative(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

impl Serving {
    pub(crate) fn new(
        identity: Arc<super::Identity>,
        subject: Subject,
        clock: fn() -> Timestamp,
    ) -> Result<Serving, rcgen::Error> {
        let current = make(&identity, &subject, clock())?;
        Ok(Serving {
            identity,
            subject,
            clock,
            current: ArcSwap::from_pointee(current),
        })
    }
}

fn make(
    identity: &super::Identity,
    subject: &Subject,
    now: Timestamp,
) -> Result<Current, rcgen::Error> {
    let (certificate, key) = identity.authority.sign_new_key(subject, now)?;
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&der.into())
        .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    let two_thirds = SERVING_LIFETIME.as_secs() / 3 * 2;
    Ok(Current {
        key: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)),
        renew_at: now
            .checked_add(Duration::from_secs(two_thirds))
            .unwrap_or(now),
    })
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let now = (self.clock)();
        if now < current.renew_at {
            return Some(Arc::clone(&current.key));
        }
        // Two handshakes at once make two certificates; either is good.
        match make(&self.identity, &self.subject, now) {
            Ok(fresh) => {
                let key = Arc::clone(&fresh.key);
                self.current.store(Arc::new(fresh));
                Some(key)
            }
            Err(error) => {
                tracing::error!(%error, "the server's certificate cannot be renewed");
                Some(Arc::clone(&current.key))
            }
        }
    }
}
