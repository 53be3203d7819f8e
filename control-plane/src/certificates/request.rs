//! What someone wants to be certified, read from its PEM form and checked to be his.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use serde_json::Value;
use x509_parser::{
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    prelude::FromDer,
};

/// A request has about a thousand bytes.
const PEM_BYTES_MAX: usize = 64 << 10;

/// A request whose signature proves that the asker has the key.
#[derive(Debug, Default)]
pub(crate) struct CertificateRequest {
    /// The name to be certified, in DER.
    pub(crate) subject: Vec<u8>,
    /// The key to be certified, in DER.
    pub(crate) key: Vec<u8>,
    /// The other names to be certified, in DER.
    pub(crate) alternatives: Option<Vec<u8>>,
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    pub(super) hosts: usize,
    pub(super) emails: usize,
    pub(super) uris: usize,
}

impl CertificateRequest {
    /// Reads the request in an object's `spec`.
    pub(crate) fn of(object: &Value) -> Result<CertificateRequest, String> {
        let encoded = object["spec"]["request"].as_str().unwrap_or_default();
        let pem = STANDARD
            .decode(encoded)
            .map_err(|error| error.to_string())?;
        CertificateRequest::from_pem(&pem)
    }

    pub(super) fn from_pem(pem: &[u8]) -> Result<CertificateRequest, String> {
        if pem.len() > PEM_BYTES_MAX {
            return Err("the request is too long".to_owned());
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem)
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
        let unreadable =
            |error: &dyn std::fmt::Display| format!("x509: malformed request: {error}");
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|error| unreadable(&error))?;
        if !rest.is_empty() {
            return Err(unreadable(&"trailing data"));
        }
        request
            .verify_signature()
            .map_err(|_| "x509: the signature of the request is not its key's".to_owned())?;
        let info = &request.certification_request_info;
        let mut names = info.subject.iter_common_name();
        let common_name = names.next().map(|name| name.as_str()).transpose();
        let common_name = common_name.map_err(|error| unreadable(&error))?;
        if names.next().is_some() {
            // Two readers could see two users in it.
            return Err(unreadable(&"more than one common name"));
        }
        let organizations = info.subject.iter_organization().map(|name| name.as_str());
        let organizations = organizations.map(|name| name.map(str::to_owned));
        let mut wanted = CertificateRequest {
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            common_name: common_name.unwrap_or_default().to_owned(),
            organizations: organizations
                .collect::<Result<_, _>>()
                .map_err(|error| unreadable(&error))?,
            ..CertificateRequest::default()
        };
        for attribute in info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
                continue;
            };
            for extension in &asked.extensions {
                if extension.oid != OID_X509_EXT_SUBJECT_ALT_NAME {
                    continue;
                }
                if wanted.alternatives.is_some() {
                    return Err(unreadable(&"alternative names stand in it twice"));
                }
                wanted.alternatives = Some(extension.value.to_vec());
                let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension()
                else {
                    return Err(unreadable(&"alternative names"));
                };
                names
                    .general_names
                    .iter()
                    .try_for_each(|name| wanted.count(name))?;
            }
        }
        Ok(wanted)
    }

    fn count(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        match name {
            GeneralName::DNSName(_) | GeneralName::IPAddress(_) => self.hosts += 1,
            GeneralName::RFC822Name(_) => self.emails += 1,
            GeneralName::URI(_) => self.uris += 1,
            _ => return Err("x509: an alternative name is of a kind that is not signed".to_owned()),
        }
        Ok(())
    }
}
