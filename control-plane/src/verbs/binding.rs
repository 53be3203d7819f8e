//! Binding: gives a pod its node, once.

use coracle_store::{Expect, WriteError};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Machine, draft::Draft, write_failure};
use crate::{
    invalid::Causes,
    kinds::KindInfo,
    object::Sparse,
    request::{Call, Persistence},
    service::{Answer, Content},
    status::ApiError,
};

/// What a conflict is about.
const BOUND: &str = "pods/binding";

const BINDING: &str = "core.v1.Binding";

impl Machine {
    pub(super) async fn bind(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let (info, name) = (objects.info, objects.name());
        let binding = Draft::of_type(info, BINDING, options, content)?.object;
        check_target(info, name, &binding)?;
        loop {
            let record = self.store.get(&objects.key());
            let record = record.ok_or_else(|| ApiError::not_found(info, name))?;
            let mut pod = Sparse::of(&record);
            self.assign(name, &mut pod, &binding)?;
            if options.persistence == Persistence::DryRun {
                break;
            }
            let encoded = pod.encode(info);
            let expect = Expect::At(record.revision);
            let render = |revision| encoded.render(revision);
            match self.store.put(&objects.key(), expect, render).await {
                Ok(_) => break,
                // Nobody but a binding sets the node, so this ends as soon as writers pause.
                Err(WriteError::Changed { .. }) => (),
                Err(error) => return Err(write_failure(info, name, error)),
            }
        }
        let success = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": 201,
        });
        Ok(Answer::json(StatusCode::CREATED, &success))
    }

    /// Writes the node into the pod, unless it has one or is on its way out.
    fn assign(&self, name: &str, pod: &mut Sparse<'_>, binding: &Value) -> Result<(), ApiError> {
        let refuse = |why: String| Err(ApiError::conflict_of(BOUND, name, &why));
        let is_gated = pod.has_any("schedulingGates");
        let object = &mut pod.object;
        let wanted = binding["metadata"]["uid"].as_str().unwrap_or_default();
        let found = object["metadata"]["uid"].as_str().unwrap_or_default();
        if !wanted.is_empty() && wanted != found {
            return refuse(format!(
                "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
            ));
        }
        if object["metadata"]["deletionTimestamp"].is_string() {
            return refuse(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            ));
        }
        if is_gated {
            return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        match object["spec"]["nodeName"].as_str() {
            None | Some("") => (),
            Some(node) => {
                return refuse(format!("pod {name} is already assigned to node \"{node}\""));
            }
        }
        if let Some(annotations) = binding["metadata"]["annotations"].as_object() {
            for (key, value) in annotations {
                object["metadata"]["annotations"][key] = value.clone();
            }
        }
        set_scheduled(object, &self.now().to_string());
        let node = binding["target"]["name"].as_str().unwrap_or_default();
        pod.set("nodeName", node);
        Ok(())
    }
}

fn check_target(info: &KindInfo, name: &str, binding: &Value) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let text = |field: &str| binding["target"][field].as_str().unwrap_or_default();
    if !matches!(text("kind"), "" | "Node") {
        causes.not_supported(
            "target.kind",
            &binding["target"]["kind"],
            &["Node", "<empty>"],
        );
    }
    if text("name").is_empty() {
        causes.required("target.name", "");
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(info, name, causes))
    }
}

/// Sets the condition that tells when the pod got its node.
fn set_scheduled(pod: &mut Value, now: &str) {
    let fresh = json!({"type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": now});
    let mut conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(fresh);
    pod["status"]["conditions"] = Value::Array(conditions);
}
