//! The patch that tells the server of a status. Written straight into text: every pod's start needs one, and
//! some more are made only to find out that nothing has changed.

use bytes::Bytes;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::super::conditions::PASSING;
use super::super::{ANNOTATION_PUBLISHED, ANNOTATION_REFUSED, PublishedUrl, Refused};
use super::Explained;

/// What a patch says beside the status.
pub(super) struct About<'a> {
    /// Makes the server refuse the patch when another pod has taken the name.
    pub(super) uid: &'a str,
    pub(super) published: &'a [PublishedUrl],
    pub(super) refused: &'a [Refused],
    /// The server may have conditions that are gone by now.
    pub(super) had_passing: bool,
    /// The conditions of which it may have a reason or a message that is gone by now.
    pub(super) explained: &'a Explained,
}

/// A strategic merge patch, which leaves the conditions of others alone. What is absent now is written as
/// null, so that it goes away; of the addresses, which would be merged, the list replaces what is there.
pub(super) fn of(status: &PodStatus, about: &About<'_>) -> Bytes {
    let patch = Whole {
        metadata: Metadata {
            uid: about.uid,
            annotations: Annotations(about),
        },
        status: Told { status, about },
    };
    // The types have only string keys and finite numbers, so this does not fail.
    serde_json::to_vec(&patch).unwrap_or_default().into()
}

#[derive(Serialize)]
struct Whole<'a> {
    metadata: Metadata<'a>,
    status: Told<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    uid: &'a str,
    annotations: Annotations<'a>,
}

#[derive(Serialize)]
struct Directive<'a> {
    #[serde(rename = "$patch")]
    patch: &'static str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    type_: Option<&'a str>,
}

struct Annotations<'a>(&'a About<'a>);

impl Serialize for Annotations<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let About {
            published, refused, ..
        } = self.0;
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry(ANNOTATION_PUBLISHED, &listed(published))?;
        map.serialize_entry(ANNOTATION_REFUSED, &listed(refused))?;
        map.end()
    }
}

/// A list as the text of an annotation, which goes away with the last of it.
fn listed<T: Serialize>(list: &[T]) -> Option<String> {
    match list {
        [] => None,
        list => serde_json::to_string(list).ok(),
    }
}

/// A status as a patch says it.
struct Told<'a> {
    status: &'a PodStatus,
    about: &'a About<'a>,
}

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.pod(&mut map)?;
        self.containers(&mut map)?;
        map.end()
    }
}

// Each field is named in one of the two: one that comes with another version of Kubernetes does not compile
// until somebody has said where it belongs.
impl Told<'_> {
    fn pod<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let PodStatus {
            conditions,
            host_ip,
            host_ips,
            message,
            nominated_node_name,
            observed_generation,
            phase,
            pod_ip,
            pod_ips,
            qos_class,
            reason,
            start_time,
            ..
        } = self.status;
        let conditions = conditions.as_deref().map(|list| Conditions {
            list,
            about: self.about,
        });
        if_any(map, "conditions", conditions.as_ref())?;
        if_any(map, "hostIP", host_ip.as_ref())?;
        if_any(map, "hostIPs", host_ips.as_deref().map(Replaced).as_ref())?;
        map.serialize_entry("message", message)?;
        if_any(map, "nominatedNodeName", nominated_node_name.as_ref())?;
        if_any(map, "observedGeneration", observed_generation.as_ref())?;
        if_any(map, "phase", phase.as_ref())?;
        map.serialize_entry("podIP", pod_ip)?;
        map.serialize_entry("podIPs", &pod_ips.as_deref().map(Replaced))?;
        if_any(map, "qosClass", qos_class.as_ref())?;
        map.serialize_entry("reason", reason)?;
        if_any(map, "startTime", start_time.as_ref())
    }

    fn containers<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let PodStatus {
            allocated_resources,
            container_statuses,
            ephemeral_container_statuses,
            extended_resource_claim_status,
            init_container_statuses,
            node_allocatable_resource_claim_statuses,
            resize,
            resource_claim_statuses,
            resources,
            // What is said of the pod itself.
            conditions: _,
            host_ip: _,
            host_ips: _,
            message: _,
            nominated_node_name: _,
            observed_generation: _,
            phase: _,
            pod_ip: _,
            pod_ips: _,
            qos_class: _,
            reason: _,
            start_time: _,
        } = self.status;
        if_any(map, "allocatedResources", allocated_resources.as_ref())?;
        if_any(map, "containerStatuses", container_statuses.as_ref())?;
        if_any(
            map,
            "ephemeralContainerStatuses",
            ephemeral_container_statuses.as_ref(),
        )?;
        if_any(
            map,
            "extendedResourceClaimStatus",
            extended_resource_claim_status.as_ref(),
        )?;
        if_any(
            map,
            "initContainerStatuses",
            init_container_statuses.as_ref(),
        )?;
        if_any(
            map,
            "nodeAllocatableResourceClaimStatuses",
            node_allocatable_resource_claim_statuses.as_ref(),
        )?;
        if_any(map, "resize", resize.as_ref())?;
        if_any(
            map,
            "resourceClaimStatuses",
            resource_claim_statuses.as_ref(),
        )?;
        if_any(map, "resources", resources.as_ref())
    }
}

fn if_any<M: SerializeMap>(
    map: &mut M,
    name: &str,
    value: Option<&impl Serialize>,
) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(name, value),
        None => Ok(()),
    }
}

/// A list that takes the place of the one that is there.
struct Replaced<'a, T>(&'a [T]);

impl<T: Serialize> Serialize for Replaced<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&Directive {
            patch: "replace",
            type_: None,
        })?;
        for item in self.0 {
            list.serialize_element(item)?;
        }
        list.end()
    }
}

/// Conditions, and which of those that pass are gone.
struct Conditions<'a> {
    list: &'a [PodCondition],
    about: &'a About<'a>,
}

/// One condition. A merge leaves what it does not name, so a reason that is gone is written as null.
struct Condition<'a> {
    condition: &'a PodCondition,
    explained: &'a Explained,
}

impl Serialize for Conditions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let explained = self.about.explained;
        for condition in self.list {
            list.serialize_element(&Condition {
                condition,
                explained,
            })?;
        }
        let is_gone = |name: &str| !self.list.iter().any(|known| known.type_ == name);
        for name in PASSING {
            if self.about.had_passing && is_gone(name) {
                list.serialize_element(&Directive {
                    patch: "delete",
                    type_: Some(name),
                })?;
            }
        }
        list.end()
    }
}

impl Serialize for Condition<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PodCondition {
            last_probe_time,
            last_transition_time,
            message,
            observed_generation,
            reason,
            status,
            type_,
        } = self.condition;
        let mut map = serializer.serialize_map(None)?;
        if_any(&mut map, "lastProbeTime", last_probe_time.as_ref())?;
        if_any(
            &mut map,
            "lastTransitionTime",
            last_transition_time.as_ref(),
        )?;
        if message.is_some() || self.explained.messages.contains(type_) {
            map.serialize_entry("message", message)?;
        }
        if_any(&mut map, "observedGeneration", observed_generation.as_ref())?;
        if reason.is_some() || self.explained.reasons.contains(type_) {
            map.serialize_entry("reason", reason)?;
        }
        map.serialize_entry("status", status)?;
        map.serialize_entry("type", type_)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    fn patch(status: &PodStatus, had_passing: bool) -> Value {
        patch_after(&[], status, had_passing)
    }

    /// A patch after the server was told of conditions.
    fn patch_after(told: &[PodCondition], status: &PodStatus, had_passing: bool) -> Value {
        let about = About {
            uid: "u",
            published: &[],
            refused: &[],
            had_passing,
            explained: &Explained::of(told),
        };
        serde_json::from_slice(&of(status, &about)).expect("a patch is JSON")
    }

    fn status(fields: Value) -> PodStatus {
        serde_json::from_value(fields).expect("a status")
    }

    #[test]
    fn a_patch_says_all_of_a_status_as_it_is() {
        let container = json!({"name": "c", "image": "i", "imageID": "d", "ready": true,
            "restartCount": 2, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            "started": true});
        let all = json!({
            "allocatedResources": {"cpu": "1"},
            "containerStatuses": [container],
            "ephemeralContainerStatuses": [container],
            "extendedResourceClaimStatus": {"requestMappings": [], "resourceClaimName": "r"},
            "hostIP": "10.0.0.1",
            "initContainerStatuses": [container],
            "message": "m",
            "nodeAllocatableResourceClaimStatuses": [],
            "nominatedNodeName": "n",
            "observedGeneration": 3,
            "phase": "Running",
            "podIP": "10.244.0.2",
            "qosClass": "Burstable",
            "reason": "r",
            "resize": "Proposed",
            "resourceClaimStatuses": [{"name": "x"}],
            "resources": {"limits": {"cpu": "1"}},
            "startTime": "2026-01-01T00:00:00Z",
        });
        let mut expected = all.clone();
        expected["podIPs"] = Value::Null;
        assert_eq!(patch(&status(all), false)["status"], expected);
    }

    #[test]
    fn what_is_absent_goes_and_addresses_are_replaced() {
        let bare = json!({"reason": null, "message": null, "podIP": null, "podIPs": null});
        let whole = patch(&PodStatus::default(), true);
        assert_eq!(whole["status"], bare);
        assert_eq!(whole["metadata"]["uid"], "u");
        let annotations = whole["metadata"]["annotations"].as_object();
        let values = annotations.map(Map::values).expect("annotations");
        assert!(values.into_iter().all(Value::is_null), "{whole}");
        let ips = status(json!({"podIPs": [{"ip": "10.244.0.2"}], "hostIPs": []}));
        let told = patch(&ips, false);
        let replace = json!({"$patch": "replace"});
        let expected = json!([replace, {"ip": "10.244.0.2"}]);
        assert_eq!(told["status"]["podIPs"], expected);
        assert_eq!(told["status"]["hostIPs"], json!([replace]));
    }

    // A merge keeps what it is not told of: a pod that is ready would go on to say why it is not.
    #[test]
    fn reasons_that_were_told_are_taken_back_and_no_others() {
        let told = |fields: Value| status(json!({"conditions": [fields]}));
        let unready = told(
            json!({"type": "Ready", "status": "False", "reason": "ContainersNotReady",
            "message": "containers with unready status: [c]"}),
        );
        let done = told(json!({"type": "Ready", "status": "False", "reason": "PodCompleted"}));
        let ready = json!({"type": "Ready", "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
        let bare = json!({"type": "Ready", "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
            "reason": null, "message": null});
        let mut half = bare.clone();
        half.as_object_mut().map(|fields| fields.remove("message"));
        for (before, expected) in [(None, &ready), (Some(unready), &bare), (Some(done), &half)] {
            let before = before
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            let told = patch_after(&before, &told(ready.clone()), false);
            assert_eq!(
                told["status"]["conditions"],
                json!([expected]),
                "{before:?}"
            );
        }
    }

    #[test]
    fn conditions_that_pass_are_taken_away() {
        let list: Vec<Value> = PASSING
            .iter()
            .map(|name| json!({"type": name, "status": "True"}))
            .collect();
        let there = patch(&status(json!({"conditions": list})), true);
        assert_eq!(there["status"]["conditions"].as_array(), Some(&list));
        let gone = patch(&status(json!({"conditions": []})), true);
        let expected = PASSING
            .iter()
            .map(|name| json!({"$patch": "delete", "type": name}));
        let expected: Value = expected.collect();
        assert_eq!(gone["status"]["conditions"], expected);
        let none = patch(&status(json!({"conditions": []})), false);
        assert_eq!(none["status"]["conditions"], json!([]));
    }
}
