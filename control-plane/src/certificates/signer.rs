//! The signers of this cluster, and what each of them signs.

use super::{CLIENT, CertificateRequest, NODE_CLIENT, NODE_SERVING};

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Someone who signs; the names are Kubernetes'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    Client,
    NodeClient,
    NodeServing,
}

impl Signer {
    /// Returns the signer of a name; others sign elsewhere.
    pub(super) fn of(name: &str) -> Option<Signer> {
        match name {
            CLIENT => Some(Signer::Client),
            NODE_CLIENT => Some(Signer::NodeClient),
            NODE_SERVING => Some(Signer::NodeServing),
            _ => None,
        }
    }

    /// Says why this is not signed.
    pub(super) fn check(self, request: &CertificateRequest, usages: &[&str]) -> Result<(), String> {
        match self {
            Signer::Client => check_client(usages),
            Signer::NodeClient => {
                check_node(request)?;
                if request.hosts + request.emails + request.uris > 0 {
                    return Err("DNS, IP, email and URI SANs are not allowed".to_owned());
                }
                check_usages(usages, "client auth")
            }
            Signer::NodeServing => {
                check_node(request)?;
                if request.hosts == 0 {
                    return Err("DNS or IP subjectAltName is required".to_owned());
                }
                if request.emails > 0 {
                    return Err("Email subjectAltNames are not allowed".to_owned());
                }
                if request.uris > 0 {
                    return Err("URI subjectAltNames are not allowed".to_owned());
                }
                check_usages(usages, "server auth")
            }
        }
    }
}

fn check_client(usages: &[&str]) -> Result<(), String> {
    let known = ["client auth", "digital signature", "key encipherment"];
    if !usages.contains(&"client auth") {
        return Err("usages did not include client auth".to_owned());
    }
    match usages.iter().find(|usage| !known.contains(usage)) {
        Some(usage) => Err(format!("usage {usage:?} is not allowed")),
        None => Ok(()),
    }
}

fn check_node(request: &CertificateRequest) -> Result<(), String> {
    if request.organizations != [NODES] {
        return Err("subject organization is not system:nodes".to_owned());
    }
    match request.common_name.starts_with(NODE_PREFIX) {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node: "
            .trim()
            .to_owned()),
    }
}

fn check_usages(usages: &[&str], purpose: &str) -> Result<(), String> {
    let needed = [purpose, "digital signature"];
    let fits = needed.iter().all(|usage| usages.contains(usage))
        && usages
            .iter()
            .all(|usage| needed.contains(usage) || *usage == "key encipherment");
    match fits {
        true => Ok(()),
        false => Err("usages did not match".to_owned() + &format!(" {needed:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signer_signs_its_own_kind() {
        let node = |hosts: usize, emails: usize| CertificateRequest {
            common_name: "system:node:a".to_owned(),
            organizations: vec![NODES.to_owned()],
            hosts,
            emails,
            ..CertificateRequest::default()
        };
        let person = || CertificateRequest {
            common_name: "jane".to_owned(),
            organizations: vec!["dev".to_owned()],
            ..CertificateRequest::default()
        };
        let client = ["client auth", "digital signature"];
        let server = ["server auth", "digital signature", "key encipherment"];
        let check = |signer: Signer, request: CertificateRequest, usages: &[&str], good: bool| {
            let found = signer.check(&request, usages);
            assert_eq!(
                found.is_ok(),
                good,
                "{signer:?} {request:?} {usages:?} {found:?}"
            );
        };
        check(Signer::Client, person(), &client, true);
        check(Signer::Client, person(), &["digital signature"], false);
        check(
            Signer::Client,
            person(),
            &["client auth", "server auth"],
            false,
        );
        check(Signer::NodeClient, node(0, 0), &client, true);
        check(Signer::NodeClient, person(), &client, false);
        check(Signer::NodeClient, node(1, 0), &client, false);
        check(Signer::NodeClient, node(0, 0), &server, false);
        check(Signer::NodeServing, node(1, 0), &server, true);
        check(Signer::NodeServing, node(0, 0), &server, false);
        check(Signer::NodeServing, node(1, 1), &server, false);
        check(Signer::NodeServing, node(1, 0), &client, false);
        assert_eq!(Signer::of("example.dev/signer"), None);
    }
}
