//! Nodes need nobody's approval, if the one who asks may be a node.

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{CertificateRequest, GROUP, NODE_CLIENT, signer::Signer};

/// Approves a node's request for its client certificate, if it may have one.
pub(super) async fn approve(
    client: &Client,
    request: &CertificateSigningRequest,
    value: &Value,
) -> kube::Result<()> {
    let spec = &request.spec;
    if spec.signer_name != NODE_CLIENT {
        return Ok(());
    }
    let Ok(wanted) = CertificateRequest::of(value) else {
        return Ok(());
    };
    let usages = spec.usages.as_deref().unwrap_or_default();
    let usages: Vec<_> = usages.iter().map(String::as_str).collect();
    if Signer::NodeClient.check(&wanted, &usages).is_err() {
        return Ok(());
    }
    let own = spec.username.as_deref() == Some(wanted.common_name.as_str());
    let (kind, message) = match own {
        true => (
            "selfnodeclient",
            "Auto approving self kubelet client certificate after SubjectAccessReview.",
        ),
        false => (
            "nodeclient",
            "Auto approving kubelet client certificate after SubjectAccessReview.",
        ),
    };
    if !may(client, request, kind).await? {
        return Ok(());
    }
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
        ..Default::default()
    };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = request.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({
        "metadata": {"resourceVersion": request.metadata.resource_version},
        "status": {"conditions": [condition]},
    });
    let params = PatchParams::default();
    let patch = Patch::Merge(&patch);
    requests.patch_approval(name, &params, &patch).await?;
    Ok(())
}

async fn may(
    client: &Client,
    request: &CertificateSigningRequest,
    kind: &str,
) -> kube::Result<bool> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(kind.to_owned()),
                verb: Some("create".to_owned()),
                version: Some("*".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
