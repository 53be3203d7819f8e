//! Certificates for requests of others. The subject stands in them as it was asked for, which may
//! have several organizations; `rcgen`, which makes our own certificates, knows one of each kind.

use jiff::{Timestamp, tz::TimeZone};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use ring::{digest, rand::SecureRandom, rand::SystemRandom};
use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;
use yasna::{DERWriter, Tag, models::ObjectIdentifier};

use super::Authority;
use crate::certificates::CertificateRequest;

const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const ALTERNATIVES: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
const PURPOSES: &[u64] = &[2, 5, 29, 37];
const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

/// The bits of a key's usage, the first in the highest place.
const DIGITAL_SIGNATURE: u8 = 0b1000_0000;
const KEY_ENCIPHERMENT: u8 = 0b0010_0000;

const SERIAL_BYTES: usize = 16;
/// Validity begins a little in the past: clocks differ.
const SKEW_SECONDS: i64 = 5 * 60;

impl Authority {
    /// Signs a certificate for a request that was checked, in PEM; `usages` are in Kubernetes' words.
    pub(crate) fn certify(
        &self,
        request: &CertificateRequest,
        usages: &[&str],
        lifetime_seconds: i64,
        now: Timestamp,
    ) -> Result<String, rcgen::Error> {
        let (_, own) = parse_x509_certificate(self.certificate())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let mut serial = [0; SERIAL_BYTES];
        SystemRandom::new()
            .fill(&mut serial)
            .map_err(|_| rcgen::Error::RingUnspecified)?;
        let now = now.as_second();
        let validity = [
            time(now.saturating_sub(SKEW_SECONDS))?,
            time(
                now.saturating_add(lifetime_seconds)
                    .saturating_sub(SKEW_SECONDS),
            )?,
        ];
        let key: &KeyPair = self.key();
        let body = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer
                    .next()
                    .write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_bigint_bytes(&serial, true);
                write_algorithm(writer.next());
                writer.next().write_der(own.subject().as_raw());
                writer.next().write_sequence(|writer| {
                    validity
                        .iter()
                        .for_each(|time| writer.next().write_der(time));
                });
                writer.next().write_der(&request.subject);
                writer.next().write_der(&request.key);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    write_extensions(writer, request, usages, &key_id(&own, key));
                });
            });
        });
        let signature = key.sign(&body)?;
        let der = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                write_algorithm(writer.next());
                let bits = signature.len().saturating_mul(8);
                writer.next().write_bitvec_bytes(&signature, bits);
            });
        });
        Ok(pem(&CertificateDer::from(der)))
    }
}

fn write_algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|writer| {
        writer
            .next()
            .write_oid(&ObjectIdentifier::from_slice(ECDSA_WITH_SHA256));
    });
}

/// Whether a reader that does not know an extension must refuse the certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Critical,
    Plain,
}

fn write_extensions(
    writer: DERWriter<'_>,
    request: &CertificateRequest,
    usages: &[&str],
    key_id: &[u8],
) {
    writer.write_sequence(|writer| {
        let mut write = |oid: &[u64], weight: Weight, value: &[u8]| {
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
                if weight == Weight::Critical {
                    writer.next().write_bool(true);
                }
                writer.next().write_bytes(value);
            });
        };
        // Without a bit the extension would be malformed; its absence forbids nothing.
        if let Some(usage) = key_usage(usages) {
            write(KEY_USAGE, Weight::Critical, &usage);
        }
        write(PURPOSES, Weight::Plain, &purposes(usages));
        let none = yasna::construct_der(|writer| writer.write_sequence(|_| ()));
        write(BASIC_CONSTRAINTS, Weight::Critical, &none);
        let id = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer
                    .next()
                    .write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(key_id));
            });
        });
        write(AUTHORITY_KEY, Weight::Plain, &id);
        if let Some(alternatives) = &request.alternatives {
            write(ALTERNATIVES, Weight::Plain, alternatives);
        }
    });
}

fn key_usage(usages: &[&str]) -> Option<Vec<u8>> {
    let bit = |usage: &str, bit: u8| if usages.contains(&usage) { bit } else { 0 };
    let signature = bit("digital signature", DIGITAL_SIGNATURE);
    let bits = signature | bit("key encipherment", KEY_ENCIPHERMENT);
    // DER cuts the zeros at the end.
    let length = 8 - bits.trailing_zeros().min(8) as usize;
    let encode = || yasna::construct_der(|writer| writer.write_bitvec_bytes(&[bits], length));
    (bits != 0).then(encode)
}

fn purposes(usages: &[&str]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for (usage, oid) in [("client auth", CLIENT_AUTH), ("server auth", SERVER_AUTH)] {
                if usages.contains(&usage) {
                    writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
                }
            }
        });
    })
}

/// Returns what the authority's own certificate calls its key.
fn key_id(own: &x509_parser::certificate::X509Certificate<'_>, key: &KeyPair) -> Vec<u8> {
    use x509_parser::extensions::ParsedExtension;
    let found = own
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
    found.unwrap_or_else(|| {
        let id = digest::digest(&digest::SHA256, key.der_bytes());
        id.as_ref().iter().take(20).copied().collect()
    })
}

/// Encodes a time as certificates do: with two digits for the year until 2049.
fn time(second: i64) -> Result<Vec<u8>, rcgen::Error> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let time = Timestamp::from_second(second).map_err(|_| rcgen::Error::Time)?;
    let time = time.to_zoned(TimeZone::UTC);
    let (tag, text) = match time.year() {
        1950..=2049 => (UTC_TIME, time.strftime("%y%m%d%H%M%SZ").to_string()),
        2050..=9999 => (GENERALIZED_TIME, time.strftime("%Y%m%d%H%M%SZ").to_string()),
        _ => return Err(rcgen::Error::Time),
    };
    let length = u8::try_from(text.len()).map_err(|_| rcgen::Error::Time)?;
    Ok([&[tag, length], text.as_bytes()].concat())
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    const LINE_BYTES: usize = 64;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_BYTES));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
