//! `/stats/summary` as JSON: the node, its pods, their containers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::disk::{Measurement, PodHeld, fs_stats};
use super::{Machine, Measured, Sum, cpu, memory, second};
use crate::folders::Held;

/// What is told, at one moment.
pub(super) struct Summary<'a> {
    pub(super) node_name: &'a str,
    pub(super) now: String,
    pub(super) machine: &'a Machine,
    /// What pods hold on the disk, if that is asked for.
    pub(super) held: Option<&'a Measurement>,
}

impl Summary<'_> {
    pub(super) fn tell(&self, containers: &[Measured]) -> Value {
        let mut pods: BTreeMap<_, Vec<Value>> = BTreeMap::new();
        let mut sums: HashMap<&Arc<str>, Sum> = HashMap::new();
        for it in containers {
            let key = (&it.namespace, &it.pod, &it.uid);
            pods.entry(key).or_default().push(self.container(it));
            sums.entry(&it.uid).or_default().add(it);
        }
        let pods = pods.into_iter().map(|(key, containers)| {
            let sum = sums.remove(key.2).unwrap_or_default();
            self.pod(key, &sum, containers)
        });
        let pods: Vec<Value> = pods.collect();
        json!({"node": self.node(), "pods": pods})
    }

    fn container(&self, it: &Measured) -> Value {
        let mut container = json!({
            "name": &*it.container,
            "startTime": second(it.started_at),
            "cpu": cpu(&self.now, it.cpu, it.nano_cores),
            "memory": memory(&self.now, it.memory),
        });
        if let Some(held) = self.held {
            let of_it = held
                .get(&it.uid)
                .and_then(|pod| pod.containers.get(&it.container));
            let (root, logs) = of_it.copied().unwrap_or_default();
            container["rootfs"] = self.fs(root);
            container["logs"] = self.fs(logs);
        }
        container
    }

    fn pod(
        &self,
        (namespace, name, uid): (&Arc<str>, &Arc<str>, &Arc<str>),
        sum: &Sum,
        containers: Vec<Value>,
    ) -> Value {
        let mut pod = json!({
            "podRef": {"name": &**name, "namespace": &**namespace, "uid": &**uid},
            "startTime": sum.started_at.map(second),
            "containers": containers,
            "cpu": cpu(&self.now, sum.cpu, sum.nano_cores),
            "memory": memory(&self.now, sum.memory),
        });
        if let Some(held) = self.held {
            let nothing = PodHeld::default();
            let of_pod = held.get(uid).unwrap_or(&nothing);
            pod["volume"] = of_pod.volumes(&self.now, namespace, self.machine).into();
            pod["ephemeral-storage"] = self.fs(of_pod.ephemeral());
        }
        pod
    }

    fn node(&self) -> Value {
        let Summary { now, machine, .. } = self;
        let booted = i64::try_from(machine.booted_at).unwrap_or(0);
        let booted = Timestamp::from_second(booted).unwrap_or_default();
        let mut node = json!({
            "nodeName": self.node_name,
            "startTime": booted.to_string(),
            "cpu": cpu(now, machine.cpu, machine.nano_cores),
            "memory": {
                "time": now,
                "availableBytes": machine.memory_available,
                "usageBytes": machine.memory_used,
                "workingSetBytes": machine.memory_used,
            },
        });
        if self.held.is_some() {
            let used = machine.disk_total.saturating_sub(machine.disk_available);
            let fs = json!({
                "time": now,
                "availableBytes": machine.disk_available,
                "capacityBytes": machine.disk_total,
                "usedBytes": used,
            });
            // Images, code and layers lie on the same disk.
            node["runtime"] = json!({"imageFs": fs, "containerFs": fs});
            node["fs"] = fs;
        }
        node
    }

    fn fs(&self, held: Held) -> Value {
        fs_stats(&self.now, self.machine, held)
    }
}
