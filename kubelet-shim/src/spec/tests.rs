//! Every field is honoured, satisfied, mapped or refused by its name.

use coracle_runtime::Terminal;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;

/// A pod with one container, changed by a merge into `spec`, and into its first container.
fn pod(spec: Value, container: Value) -> Pod {
    let mut first = json!({"name": "c", "image": "r.example/i:1"});
    merge(&mut first, container);
    let mut whole = json!({"containers": [first]});
    merge(&mut whole, spec);
    let metadata = json!({"name": "p", "namespace": "n", "uid": "u-1"});
    serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn fields(pod: &Pod) -> Vec<String> {
    match check_pod(pod, HostPathPolicy::Allow) {
        Ok(_) => Vec::new(),
        Err(refusals) => refusals.into_iter().map(|r| r.field).collect(),
    }
}

fn refuses_in_pod(spec: Value, field: &str) {
    assert_eq!(fields(&pod(spec, json!({}))), [field]);
}

fn refuses_in_container(container: Value, field: &str) {
    assert_eq!(
        fields(&pod(json!({}), container)),
        [format!("spec.containers[0].{field}")]
    );
}

fn accepts(spec: Value, container: Value) -> PodSpecPlan {
    check_pod(&pod(spec, container), HostPathPolicy::Allow).unwrap()
}

// tidy: table, because it is one row per field.
#[test]
fn pod_fields_that_are_not_honoured_are_refused_by_name() {
    let probe = json!({"tcpSocket": {"port": 80}});
    for (spec, field) in [
        (json!({"hostNetwork": true}), "spec.hostNetwork"),
        (json!({"hostPID": true}), "spec.hostPID"),
        (json!({"hostIPC": true}), "spec.hostIPC"),
        (
            json!({"dnsConfig": {"nameservers": ["one"]}}),
            "spec.dnsConfig.nameservers[0]",
        ),
        (
            json!({"dnsConfig": {"searches": ["a b"]}}),
            "spec.dnsConfig.searches[0]",
        ),
        (json!({"dnsPolicy": "Sometimes"}), "spec.dnsPolicy"),
        (
            json!({"hostAliases": [{"ip": "here", "hostnames": ["h"]}]}),
            "spec.hostAliases[0].ip",
        ),
        (
            json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a\nb"]}]}),
            "spec.hostAliases[0].hostnames[0]",
        ),
        (json!({"hostnameOverride": "X"}), "spec.hostnameOverride"),
        (
            json!({"hostnameOverride": "x", "setHostnameAsFQDN": true}),
            "spec.hostnameOverride",
        ),
        (json!({"os": {"name": "linux"}}), "spec.os"),
        (
            json!({"overhead": {"ephemeral-storage": "1"}}),
            "spec.overhead",
        ),
        (
            json!({"resourceClaims": [{"name": "x"}]}),
            "spec.resourceClaims",
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}),
            "spec.resources.limits.hugepages-2Mi",
        ),
        (
            json!({"schedulingGates": [{"name": "x"}]}),
            "spec.schedulingGates",
        ),
        (json!({"restartPolicy": "Sometimes"}), "spec.restartPolicy"),
        (
            json!({"activeDeadlineSeconds": -1}),
            "spec.activeDeadlineSeconds",
        ),
        (json!({"hostname": "Not_A_Label"}), "spec.hostname"),
        (json!({"subdomain": "a.b"}), "spec.subdomain"),
        (
            json!({"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}),
            "spec.securityContext.sysctls",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}}),
            "spec.securityContext.seccompProfile",
        ),
        (
            json!({"initContainers": [{"name": "i", "image": "i", "startupProbe": probe}]}),
            "spec.initContainers[0].startupProbe",
        ),
        (
            json!({"initContainers": [{"name": "c", "image": "i"}]}),
            "spec.containers[0].name",
        ),
        (json!({"containers": []}), "spec.containers"),
    ] {
        refuses_in_pod(spec, field);
    }
}

// tidy: table, because it is one row per field.
#[test]
fn container_fields_that_are_not_honoured_are_refused_by_name() {
    for (container, field) in [
        (json!({"restartPolicy": "Maybe"}), "restartPolicy"),
        (
            json!({"restartPolicyRules": [{"action": "Restart",
                "exitCodes": {"operator": "In", "values": [1]}}]}),
            "restartPolicy",
        ),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]}),
            "restartPolicyRules[0].exitCodes",
        ),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": [{
                "action": "RestartPod", "exitCodes": {"operator": "In", "values": [1]}}]}),
            "restartPolicyRules[0].action",
        ),
        (
            json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]}),
            "volumeDevices",
        ),
        (json!({"image": ""}), "image"),
        (json!({"imagePullPolicy": "Maybe"}), "imagePullPolicy"),
        (json!({"name": "../up"}), "name"),
        (
            json!({"terminationMessagePath": "/../x"}),
            "terminationMessagePath",
        ),
        (
            json!({"resources": {"limits": {"nvidia.com/gpu": "1"}}}),
            "resources.limits.nvidia.com/gpu",
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}),
            "resources.limits.hugepages-2Mi",
        ),
        (
            json!({"resources": {"limits": {"memory": "much"}}}),
            "resources.limits.memory",
        ),
        (
            json!({"resources": {"claims": [{"name": "x"}]}}),
            "resources.claims",
        ),
        (
            json!({"ports": [{"containerPort": 0}]}),
            "ports[0].containerPort",
        ),
        (
            json!({"ports": [{"containerPort": 80, "protocol": "SCTP"}]}),
            "ports[0].protocol",
        ),
        (
            json!({"ports": [{"containerPort": 80, "hostPort": 99999}]}),
            "ports[0].hostPort",
        ),
        (
            json!({"ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "here"}]}),
            "ports[0].hostIP",
        ),
        (
            json!({"volumeMounts": [{"name": "none", "mountPath": "/x"}]}),
            "volumeMounts[0].name",
        ),
        (
            json!({"securityContext": {"privileged": true}}),
            "securityContext.privileged",
        ),
        (
            json!({"securityContext": {"procMount": "Unmasked"}}),
            "securityContext.procMount",
        ),
        (
            json!({"securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE", "SYS_ADMIN"]}}}),
            "securityContext.capabilities.add[1]",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}}]}),
            "env[0].valueFrom.fieldRef.fieldPath",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef":
                {"key": "k", "path": "p", "volumeName": "v"}}}]}),
            "env[0].valueFrom.fileKeyRef.volumeName",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef":
                {"resource": "limits.cpu", "containerName": "other"}}}]}),
            "env[0].valueFrom.resourceFieldRef.containerName",
        ),
        (
            json!({"env": [{"name": "A=B", "value": "x"}]}),
            "env[0].name",
        ),
        (json!({"envFrom": [{"prefix": "X_"}]}), "envFrom[0]"),
    ] {
        refuses_in_container(container, field);
    }
}

// tidy: table, because it is one row per source.
#[test]
fn volumes_that_are_not_honoured_are_refused_by_name() {
    for (source, field) in [
        (
            json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}),
            "projected.sources[0].clusterTrustBundle",
        ),
        (
            json!({"projected": {"sources": [{"podCertificate": {"keyType": "ED25519",
                "signerName": "s"}}]}}),
            "projected.sources[0].podCertificate",
        ),
        (
            json!({"projected": {"sources": [{}]}}),
            "projected.sources[0]",
        ),
        (
            json!({"projected": {"sources": [{"serviceAccountToken":
                {"path": "t", "expirationSeconds": 599}}]}}),
            "projected.sources[0].serviceAccountToken.expirationSeconds",
        ),
        (
            json!({"downwardAPI": {"items": [
                {"path": "x", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
            "downwardAPI.items[0].fieldRef.fieldPath",
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "x",
                "resourceFieldRef": {"containerName": "other", "resource": "limits.cpu"}}]}}),
            "downwardAPI.items[0].resourceFieldRef.containerName",
        ),
        (
            json!({"persistentVolumeClaim": {"claimName": "X"}}),
            "persistentVolumeClaim.claimName",
        ),
        (json!({"image": {}}), "image.reference"),
        (
            json!({"image": {"reference": "x", "pullPolicy": "Sometimes"}}),
            "image.pullPolicy",
        ),
        (json!({"csi": {"driver": "x"}}), "csi"),
        (json!({"nfs": {"path": "/", "server": "s"}}), "nfs"),
        (json!({"ephemeral": {}}), "ephemeral"),
        (
            json!({"emptyDir": {"medium": "HugePages"}}),
            "emptyDir.medium",
        ),
        (
            json!({"emptyDir": {"sizeLimit": "much"}}),
            "emptyDir.sizeLimit",
        ),
        (json!({"hostPath": {"path": "/a/../b"}}), "hostPath.path"),
        (
            json!({"hostPath": {"path": "/run/x", "type": "Socket"}}),
            "hostPath.type",
        ),
        (
            json!({"hostPath": {"path": "/dev/tty", "type": "CharDevice"}}),
            "hostPath.type",
        ),
        (
            json!({"hostPath": {"path": "/dev", "type": "BlockDevice"}}),
            "hostPath.type",
        ),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "../k"}]}}),
            "configMap.items[0].path",
        ),
        (
            json!({"configMap": {"name": "m", "defaultMode": 4096}}),
            "configMap.defaultMode",
        ),
        (
            json!({"secret": {"secretName": "../s"}}),
            "secret.secretName",
        ),
    ] {
        let mut volume = json!({"name": "v"});
        merge(&mut volume, source);
        refuses_in_pod(
            json!({"volumes": [volume]}),
            &format!("spec.volumes[0].{field}"),
        );
    }
    let host = pod(
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/srv"}}]}),
        json!({}),
    );
    let refused = check_pod(&host, HostPathPolicy::Refuse).unwrap_err();
    assert_eq!(
        refused[0].to_string(),
        "`spec.volumes[0].hostPath` is not allowed on this node"
    );
}

#[test]
fn what_a_sandbox_satisfies_by_construction_is_accepted() {
    let plan = accepts(
        json!({
            "automountServiceAccountToken": true, "enableServiceLinks": true, "hostUsers": false,
            "shareProcessNamespace": true, "priority": 5, "preemptionPolicy": "Never",
            "schedulerName": "s", "tolerations": [{"operator": "Exists"}], "dnsPolicy": "ClusterFirst",
            "runtimeClassName": "wasi", "serviceAccountName": "robot",
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                [{"topologyKey": "k"}]}},
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 2000,
                "seccompProfile": {"type": "RuntimeDefault"}},
        }),
        json!({
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "SYS_PTRACE"]}},
            "lifecycle": {"stopSignal": "SIGUSR1"}, "stdin": false,
        }),
    );
    assert_eq!(plan.service_account, "robot");
    let security = plan.containers[0].security;
    assert!(security.read_only_root && security.run_as_non_root);
    assert_eq!(security.run_as_user, Some(1000));
}

#[test]
fn defaults_are_the_api_servers() {
    for (image, expected) in [
        ("i", PullPolicy::Always),
        ("i:latest", PullPolicy::Always),
        ("r:5000/i", PullPolicy::Always),
        ("r:5000/i:1", PullPolicy::IfNotPresent),
        ("i@sha256:00", PullPolicy::IfNotPresent),
    ] {
        let plan = accepts(json!({}), json!({"image": image}));
        assert_eq!(plan.containers[0].pull_policy, expected, "{image}");
    }
    let plan = accepts(json!({}), json!({}));
    assert_eq!(plan.restart_policy, RestartPolicy::Always);
    assert_eq!(plan.grace, std::time::Duration::from_secs(30));
    assert_eq!(
        plan.containers[0].termination_message.path,
        "/dev/termination-log"
    );
    assert_eq!(plan.containers[0].handler_port(), 80);
}

#[test]
fn a_handler_listens_on_http_else_the_first_tcp_port() {
    let tcp = |port: u16| json!({"containerPort": port});
    for (ports, expected) in [
        (
            json!([tcp(8080), {"containerPort": 9000, "name": "http"}]),
            9000,
        ),
        (
            json!([{"containerPort": 53, "protocol": "UDP"}, tcp(8080)]),
            8080,
        ),
        (
            json!([{"containerPort": 53, "protocol": "UDP", "name": "http"}]),
            80,
        ),
    ] {
        let plan = accepts(json!({}), json!({"ports": ports}));
        assert_eq!(plan.containers[0].handler_port(), expected);
    }
}

#[test]
fn init_containers_come_first_and_always_makes_a_sidecar() {
    let plan = accepts(
        json!({"initContainers": [
            {"name": "a", "image": "i"}, {"name": "b", "image": "i", "restartPolicy": "Always"}]}),
        json!({}),
    );
    let roles: Vec<_> = plan.containers.iter().map(|c| (&*c.name, c.role)).collect();
    assert_eq!(
        roles,
        [("a", Role::Init), ("b", Role::Sidecar), ("c", Role::App)]
    );
    assert_eq!(plan.containers[1].field_path(), "spec.initContainers{b}");
}

#[test]
fn names_that_become_paths_are_checked() {
    for (metadata, field) in [
        (json!({"name": "../x", "uid": "u"}), "metadata.name"),
        (json!({"name": "p", "uid": "../u"}), "metadata.uid"),
        (
            json!({"name": "p", "uid": "u", "namespace": "a/b"}),
            "metadata.namespace",
        ),
    ] {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        let pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        assert_eq!(fields(&pod), [field]);
    }
}

#[test]
fn standard_input_and_terminal_are_what_the_container_asks_for() {
    for (fields, stdin, terminal) in [
        (json!({}), StdinPlan::Closed, Terminal::Absent),
        (
            json!({"stdin": false, "stdinOnce": true, "tty": false}),
            StdinPlan::Closed,
            Terminal::Absent,
        ),
        (
            json!({"stdin": true, "tty": true}),
            StdinPlan::Open,
            Terminal::Present,
        ),
        (
            json!({"stdin": true, "stdinOnce": true}),
            StdinPlan::Once,
            Terminal::Absent,
        ),
    ] {
        let streams = accepts(json!({}), fields.clone()).containers[0].streams;
        assert_eq!(streams, StreamPlan { stdin, terminal }, "{fields}");
    }
}

#[test]
fn annotations_say_what_a_request_to_end_means() {
    for (value, expected) in [
        (None, Ok(OnStop::AtOnce)),
        (Some("at-once"), Ok(OnStop::AtOnce)),
        (Some("grace"), Ok(OnStop::Grace)),
        (
            Some("never"),
            Err("metadata.annotations['coracle.dev/stop']".to_owned()),
        ),
    ] {
        let mut pod = pod(json!({}), json!({}));
        let annotation = value.map(|value| ("coracle.dev/stop".to_owned(), value.to_owned()));
        pod.metadata.annotations = Some(annotation.into_iter().collect());
        let found = check_pod(&pod, HostPathPolicy::Allow);
        let found = found.map(|plan| plan.containers[0].on_stop);
        assert_eq!(
            found.map_err(|mut refusals| refusals.remove(0).field),
            expected,
            "{value:?}"
        );
    }
}

#[test]
fn every_refusal_is_told_at_once() {
    let found = fields(&pod(
        json!({"hostPID": true}),
        json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/v"}], "image": ""}),
    ));
    assert_eq!(
        found,
        [
            "spec.hostPID",
            "spec.containers[0].volumeDevices",
            "spec.containers[0].image"
        ]
    );
}

/// What a pod is limited to above its containers follows from them, unless it says so itself.
#[test]
fn a_pod_is_bounded_as_a_whole() {
    let limits = |spec: Value, container: Value| {
        let plan = accepts(spec, container);
        let limits = plan.limits(|index| plan.containers[index].resources);
        (limits.class, limits.memory, limits.cpu_milli)
    };
    let limited = json!({"resources": {"limits": {"cpu": "1", "memory": "64"}}});
    use coracle_runtime::QosClass::{BestEffort, Burstable, Guaranteed};
    assert_eq!(limits(json!({}), json!({})), (BestEffort, None, None));
    assert_eq!(
        limits(json!({}), limited.clone()),
        (Guaranteed, Some(64), None)
    );
    let init = json!([{"name": "i", "image": "i", "resources": {"limits": {"memory": "100"}}}]);
    assert_eq!(
        limits(json!({"initContainers": init}), limited.clone()),
        (Burstable, Some(100), None)
    );
    let unlimited = json!([{"name": "i", "image": "i"}]);
    assert_eq!(
        limits(json!({"initContainers": unlimited}), limited),
        (Burstable, None, None)
    );
    let whole = json!({"limits": {"cpu": "2", "memory": "200"}});
    let overhead = json!({"cpu": "500m", "memory": "10"});
    assert_eq!(
        limits(json!({"resources": whole}), json!({})),
        (Guaranteed, Some(200), Some(2_000))
    );
    assert_eq!(
        limits(json!({"resources": whole, "overhead": overhead}), json!({})),
        (Guaranteed, Some(210), Some(2_500))
    );
}
