//! Signs what is approved.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher::{self, Event},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{CertificateRequest, LIFETIME_SECONDS_MIN, approve, has_condition, signer::Signer};
use crate::{changes::changes, identity::Identity};

/// How long a certificate is good for, at most.
const LIFETIME_SECONDS_MAX: i64 = 365 * 24 * 60 * 60;

/// How long everything rests when a request could not be dealt with; then all are looked at again.
const RETRY: Duration = Duration::from_secs(1);

/// Approves and signs until it is stopped.
pub(crate) async fn run(client: Client, identity: Arc<Identity>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            // Cancel-safe: what was not done is done after the next start.
            () = follow(&client, &identity) => (),
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => (),
            () = stop.cancelled() => return,
        }
    }
}

/// Deals with every request until one cannot be dealt with.
async fn follow(client: &Client, identity: &Identity) {
    let all = watcher::Config::default();
    let mut events = changes::<CertificateSigningRequest>(client.clone(), &(), all);
    while let Some(event) = events.next().await {
        let (Event::Apply(request) | Event::InitApply(request)) = event else {
            continue;
        };
        let outcome = settle(client, identity, &request).await;
        match outcome {
            Ok(()) => (),
            // Someone has changed it, or it is gone: the watch says so.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => (),
            Err(error) => return tracing::warn!(%error, "a certificate request waits"),
        }
    }
}

async fn settle(
    client: &Client,
    identity: &Identity,
    request: &CertificateSigningRequest,
) -> kube::Result<()> {
    let value = serde_json::to_value(request).expect("a request that was read can be written");
    let issued = value["status"]["certificate"].is_string();
    if issued || has_condition(&value, "Denied") || has_condition(&value, "Failed") {
        return Ok(());
    }
    if !has_condition(&value, "Approved") {
        return approve::approve(client, request, &value).await;
    }
    // Other signers sign elsewhere.
    let Some(signer) = Signer::of(&request.spec.signer_name) else {
        return Ok(());
    };
    let status = match certificate(identity, signer, &value) {
        Ok(pem) => json!({"certificate": STANDARD.encode(pem)}),
        Err(why) => failed(&value, &why),
    };
    let patch = json!({
        "metadata": {"resourceVersion": request.metadata.resource_version},
        "status": status,
    });
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = request.metadata.name.as_deref().unwrap_or_default();
    let patch = Patch::Merge(&patch);
    requests
        .patch_status(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Makes the certificate, or says why there is none.
fn certificate(identity: &Identity, signer: Signer, value: &Value) -> Result<String, String> {
    let wanted = CertificateRequest::of(value)?;
    let usages = value["spec"]["usages"].as_array().into_iter().flatten();
    let usages: Vec<_> = usages.filter_map(Value::as_str).collect();
    signer.check(&wanted, &usages)?;
    let asked = value["spec"]["expirationSeconds"].as_i64();
    let lifetime = asked.unwrap_or(LIFETIME_SECONDS_MAX);
    let lifetime = lifetime.clamp(LIFETIME_SECONDS_MIN, LIFETIME_SECONDS_MAX);
    let now = Timestamp::now();
    identity
        .authority()
        .certify(&wanted, &usages, lifetime, now)
        .map_err(|error| error.to_string())
}

fn failed(value: &Value, why: &str) -> Value {
    let mut conditions = super::conditions(value).to_vec();
    conditions.push(json!({
        "type": "Failed",
        "status": "True",
        "reason": "SignerValidationFailure",
        "message": why,
    }));
    json!({"conditions": conditions})
}
