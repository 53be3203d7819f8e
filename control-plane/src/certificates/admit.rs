//! Who asks, who decides and who signs: written down and checked when it happens.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{CLIENT, CertificateRequest, GROUP, KIND, conditions};
use crate::{
    authorize::{Attributes, Authorizer, Decision, ResourceAttributes},
    caller::MASTERS,
    kinds::Subresource,
    request::Call,
    status::ApiError,
};

/// Who made a request, in its specification; nobody but the server says so.
const ASKER: &[(&str, &str)] = &[
    ("username", "username"),
    ("uid", "uid"),
    ("groups", "groups"),
    ("extra", "extra"),
];

fn is_ours(call: &Call) -> bool {
    let info = call.objects.info;
    info.group == GROUP && info.kind == KIND
}

/// Writes down who asks, and when decisions were made; `old` is present on update.
pub(crate) fn complete(call: &Call, old: Option<&Value>, new: &mut Value, now: Timestamp) {
    if !is_ours(call) {
        return;
    }
    let Some(old) = old else {
        let asker = call.caller.info();
        for (field, name) in ASKER {
            let spec = &mut new["spec"];
            match &asker[*name] {
                Value::Null => drop(spec.as_object_mut().map(|spec| spec.remove(*field))),
                value => spec[*field] = value.clone(),
            }
        }
        drop(new.as_object_mut().map(|fields| fields.remove("status")));
        return;
    };
    let now = json!(now.to_string());
    let before = conditions(old);
    let Some(list) = new["status"]["conditions"].as_array_mut() else {
        return;
    };
    for condition in list {
        let known = before
            .iter()
            .find(|known| known["type"] == condition["type"]);
        let same = known.filter(|known| known["status"] == condition["status"]);
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if condition["lastTransitionTime"].is_null() {
            let since = same.map(|known| known["lastTransitionTime"].clone());
            condition["lastTransitionTime"] = since
                .filter(|since| !since.is_null())
                .unwrap_or_else(|| now.clone());
        }
    }
}

/// Refuses a decision or a certificate by someone who may not give it for this signer.
pub(crate) fn admit(
    authorizer: &Authorizer,
    call: &Call,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    if !is_ours(call) {
        return Ok(());
    }
    let Some(old) = old else {
        return admit_subject(call, new);
    };
    let (verb, doing) = match call.objects.subresource {
        Some(Subresource::Approval) => ("approve", "approve"),
        Some(Subresource::Status) if old["status"] != new["status"] => ("sign", "sign"),
        Some(_) | None => return Ok(()),
    };
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    let every = format!("{domain}/*");
    let may = [signer, &every].into_iter().any(|name| {
        let wanted = Attributes::Resource(ResourceAttributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name: name.to_owned(),
            ..ResourceAttributes::default()
        });
        let decision = authorizer.decide(&call.caller, &wanted);
        matches!(decision, Decision::Allowed(_))
    });
    match may {
        true => Ok(()),
        false => {
            let why = format!("user not permitted to {doing} requests with signerName {signer:?}");
            Err(refusal(call, new, &why))
        }
    }
}

/// Nobody becomes an administrator by a certificate.
fn admit_subject(call: &Call, new: &Value) -> Result<(), ApiError> {
    if new["spec"]["signerName"] != CLIENT {
        return Ok(());
    }
    // What cannot be read is refused by the validation, with the reason.
    let request = CertificateRequest::of(new).unwrap_or_default();
    match request.organizations.iter().any(|group| group == MASTERS) {
        false => Ok(()),
        true => {
            let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
            Err(refusal(call, new, &why))
        }
    }
}

fn refusal(call: &Call, object: &Value, why: &str) -> ApiError {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    ApiError::forbidden(GROUP, call.objects.info.plural, name, why)
}
