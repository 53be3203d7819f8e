//! Certificates on request: asked for, approved, signed, and good for getting in.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coracle_control_plane::Caller;
use serde_json::{Value, json};

use crate::harness::{Harness, contains};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const JSON: &str = "application/json";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

fn user(name: &str, groups: &[&str]) -> Caller {
    Caller {
        name: name.to_owned(),
        uid: String::new(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        extra: Default::default(),
    }
}

/// Makes a request in PEM, as base64.
fn pem(name: &str, group: &str, hosts: &[&str]) -> String {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(hosts).unwrap();
    let subject = &mut params.distinguished_name;
    *subject = rcgen::DistinguishedName::new();
    subject.push(rcgen::DnType::OrganizationName, group);
    subject.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    let request = params.serialize_request(&key).unwrap();
    STANDARD.encode(request.pem().unwrap())
}

fn request(name: &str, pem: &str, signer: &str, usages: &[&str]) -> Value {
    json!({"metadata": {"name": name},
        "spec": {"request": pem, "signerName": signer, "usages": usages}})
}

async fn approve(api: &Harness, caller: &Caller, name: &str) -> (u16, Value) {
    let path = format!("{PATH}/{name}");
    let (_, mut object) = api.send("GET", &path, JSON, &Value::Null).await;
    object["status"]["conditions"] = json!([{"type": "Approved", "status": "True",
        "reason": "KubectlApprove", "message": "This CSR was approved"}]);
    api.send_as(caller, "PUT", &format!("{path}/approval"), object)
        .await
}

#[tokio::test]
async fn an_approved_request_is_signed_and_the_asker_is_written_down() {
    let api = Harness::start().await;
    let root = user("root", &["system:masters"]);
    let mut body = request("jane", &pem("jane", "dev", &[]), CLIENT, &["client auth"]);
    body["spec"]["username"] = json!("somebody else");
    body["spec"]["expirationSeconds"] = json!(3600);
    let (code, answer) = api.send_as(&root, "POST", PATH, body).await;
    assert_eq!(code, 201, "{answer}");
    let expected = json!({"username": "root", "groups": ["system:masters"]});
    contains(&answer["spec"], &expected, "spec");
    let (code, answer) = approve(&api, &root, "jane").await;
    assert_eq!(code, 200, "{answer}");
    let condition = &answer["status"]["conditions"][0];
    assert!(condition["lastTransitionTime"].is_string(), "{condition}");
    let path = format!("{PATH}/jane");
    let signed = api
        .until(&path, |object| object["status"]["certificate"].is_string())
        .await;
    let pem = signed["status"]["certificate"].as_str().unwrap();
    let pem = STANDARD.decode(pem).unwrap();
    let der: rustls::pki_types::CertificateDer<'_> =
        rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=dev, CN=jane");
    assert_eq!(certificate.issuer().to_string(), "CN=coracle");
    let validity = certificate.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(seconds, 3600);
    let usage = certificate.extended_key_usage().unwrap().unwrap();
    assert!(usage.value.client_auth && !usage.value.server_auth);
    // Other readers refuse a certificate whose key has a list of usages with nothing in it.
    assert!(certificate.key_usage().unwrap().is_none());
    // What was decided and issued stays.
    let mut changed = signed.clone();
    changed["status"]["conditions"] = json!([]);
    let (code, answer) = api
        .send("PUT", &format!("{path}/approval"), JSON, &changed)
        .await;
    let words = "updates may not remove a condition of type \"Approved\"";
    assert_eq!(code, 422, "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains(words),
        "{answer}"
    );
    let mut changed = signed.clone();
    changed["spec"]["usages"] = json!(["server auth"]);
    let (code, answer) = api.send("PUT", &path, JSON, &changed).await;
    assert_eq!((code, &answer["spec"]), (200, &signed["spec"]));
}

#[tokio::test]
async fn what_a_signer_does_not_sign_fails_with_the_reason() {
    let api = Harness::start().await;
    let root = user("root", &["system:masters"]);
    let body = request("odd", &pem("jane", "dev", &[]), CLIENT, &["server auth"]);
    let (code, answer) = api.send_as(&root, "POST", PATH, body).await;
    assert_eq!(code, 201, "{answer}");
    approve(&api, &root, "odd").await;
    let failed = api
        .until(&format!("{PATH}/odd"), |object| {
            object["status"]["conditions"][1]["type"] == "Failed"
        })
        .await;
    contains(
        &failed["status"]["conditions"][1],
        &json!({"reason": "SignerValidationFailure",
            "message": "usages did not include client auth"}),
        "condition",
    );
}

#[tokio::test]
async fn nonsense_and_ambition_are_refused() {
    let api = Harness::start().await;
    let root = user("root", &["system:masters"]);
    let good = pem("jane", "dev", &[]);
    let masters = pem("jane", "system:masters", &[]);
    let usages = &["client auth"][..];
    let text = STANDARD.encode("hello");
    for (body, code, words) in [
        (
            request("a", &text, CLIENT, usages),
            422,
            "PEM block type must be CERTIFICATE REQUEST",
        ),
        (
            request("a", &good, CLIENT, &[]),
            422,
            "spec.usages: Required value",
        ),
        (
            request("a", &good, CLIENT, &["flying"]),
            422,
            "Unsupported value: \"flying\"",
        ),
        (
            request("a", &good, "signer", usages),
            422,
            "must be a fully qualified domain and path",
        ),
        (
            request("a", &good, "kubernetes.io/legacy-unknown", usages),
            422,
            "the legacy signerName is not allowed via this API version",
        ),
        (
            request("a", &masters, CLIENT, usages),
            403,
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not \
             allowed",
        ),
    ] {
        let (found, answer) = api.send_as(&root, "POST", PATH, body).await;
        assert_eq!(found, code, "{answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(words),
            "{answer}"
        );
    }
    // A signature that is another key's proves nothing.
    let mut bytes = STANDARD.decode(&good).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
    let body = request("a", &STANDARD.encode(bytes), CLIENT, usages);
    let (code, answer) = api.send_as(&root, "POST", PATH, body).await;
    assert_eq!(code, 422, "{answer}");
}

/// Whoever may write requests may not therefore decide about them.
#[tokio::test]
async fn deciding_needs_permission_for_the_signer() {
    let api = Harness::start().await;
    let root = user("root", &["system:masters"]);
    let body = request("jane", &pem("jane", "dev", &[]), CLIENT, &["client auth"]);
    api.send_as(&root, "POST", PATH, body).await;
    let role = json!({"metadata": {"name": "csr"}, "rules": [{"verbs": ["*"],
        "apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests", "certificatesigningrequests/approval"]}]});
    let group = "/apis/rbac.authorization.k8s.io/v1";
    api.send("POST", &format!("{group}/clusterroles"), JSON, &role)
        .await;
    let bind = async |name: &str, role: &str| {
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": role},
            "subjects": [{"kind": "User", "name": "joe",
                "apiGroup": "rbac.authorization.k8s.io"}]});
        let path = format!("{group}/clusterrolebindings");
        let (code, answer) = api.send("POST", &path, JSON, &binding).await;
        assert_eq!(code, 201, "{answer}");
    };
    bind("a", "csr").await;
    let joe = user("joe", &["system:authenticated"]);
    let (code, answer) = approve(&api, &joe, "jane").await;
    let words = "certificatesigningrequests.certificates.k8s.io \"jane\" is forbidden: user not \
                 permitted to approve requests with signerName \
                 \"kubernetes.io/kube-apiserver-client\"";
    assert_eq!((code, answer["message"].as_str()), (403, Some(words)));
    bind(
        "b",
        "system:certificates.k8s.io:kube-apiserver-client-approver",
    )
    .await;
    let (code, answer) = approve(&api, &joe, "jane").await;
    assert_eq!(code, 200, "{answer}");
}

/// A node renews its own certificate; nobody needs to be awake for that.
#[tokio::test]
async fn a_node_that_may_is_approved_by_itself() {
    let api = Harness::start().await;
    let role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let binding = json!({"metadata": {"name": "nodes"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "Group", "name": "system:nodes",
            "apiGroup": "rbac.authorization.k8s.io"}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let (code, answer) = api.send("POST", path, JSON, &binding).await;
    assert_eq!(code, 201, "{answer}");
    let node = user("system:node:a", &["system:nodes", "system:authenticated"]);
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let usages = &["client auth", "digital signature"];
    let pem = pem("system:node:a", "system:nodes", &[]);
    let body = request("a", &pem, signer, usages);
    let (code, answer) = api.send_as(&node, "POST", PATH, body).await;
    assert_eq!(code, 201, "{answer}");
    let signed = api
        .until(&format!("{PATH}/a"), |object| {
            object["status"]["certificate"].is_string()
        })
        .await;
    assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved");
}
