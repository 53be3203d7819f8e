//! What the agent says about itself and its pods beside their numbers: `/configz`, `/runningpods/`.

use std::collections::BTreeMap;

use http::{Response, header};
use serde_json::{Value, json};

use super::{KubeletBody, Shared, whole};
use crate::exec::Occupant;
use crate::logs::{LOG_BYTES_MAX, LOG_FILES_MAX};
use crate::node::pressure;

impl Shared {
    /// Answers `/configz`: the settings of a kubelet that hold here, and no others.
    pub(super) fn configz(&self) -> Response<KubeletBody> {
        let config = json!({
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "enableServer": true,
            "clusterDomain": "cluster.local",
            "nodeStatusUpdateFrequency": "10s",
            "nodeStatusReportFrequency": "5m0s",
            "nodeLeaseDurationSeconds": 40,
            "serializeImagePulls": false,
            "configMapAndSecretChangeDetectionStrategy": "Watch",
            "containerLogMaxSize": format!("{}Mi", LOG_BYTES_MAX >> 20),
            "containerLogMaxFiles": LOG_FILES_MAX,
            "evictionPressureTransitionPeriod": "5m0s",
            "evictionHard": pressure::thresholds(self.least),
        });
        answer(&json!({"kubeletconfig": config}))
    }

    /// Answers `/runningpods/`: what runs, as far as it is known without the API.
    pub(super) fn running_pods(&self) -> Response<KubeletBody> {
        answer(&pod_list(self.execs.occupants()))
    }
}

fn pod_list(occupants: Vec<Occupant>) -> Value {
    let mut pods: BTreeMap<_, Vec<Value>> = BTreeMap::new();
    for it in occupants {
        let key = (it.key.namespace, it.key.name, it.key.uid);
        pods.entry(key).or_default().push(json!({
            "name": &*it.container, "image": &*it.plan.image, "resources": {},
        }));
    }
    let items = pods
        .into_iter()
        .map(|((namespace, name, uid), mut containers)| {
            containers.sort_by_key(|container| container["name"].to_string());
            json!({
                "metadata": {"name": &*name, "namespace": &*namespace, "uid": &*uid,
                    "creationTimestamp": null},
                "spec": {"containers": containers},
                "status": {},
            })
        });
    let items: Vec<Value> = items.collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn answer(value: &Value) -> Response<KubeletBody> {
    let mut response = Response::new(whole(value.to_string()));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
