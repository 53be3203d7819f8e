//! Pods and what Kubernetes says about them, each sentence once.

use serde_json::{Value, json};

use super::*;
use crate::defaults;

/// Changes a good pod by a merge patch and compares the sentences about it.
fn check(patch: Value, expected: &[&str]) {
    let mut object = json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "default"},
    });
    json_patch::merge(&mut object, &patch);
    defaults::pod(&mut object);
    let mut causes = Causes::default();
    pod(&object, None, &mut causes);
    assert_eq!(sentences(causes), expected, "{patch}");
}

fn check_spec(patch: Value, expected: &[&str]) {
    check(json!({"spec": patch}), expected);
}

fn check_container(fields: Value, expected: &[&str]) {
    let mut container = json!({"name": "c", "image": "i"});
    json_patch::merge(&mut container, &fields);
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    check_spec(
        json!({"containers": [container], "volumes": volumes}),
        expected,
    );
}

fn sentences(causes: Causes) -> Vec<String> {
    causes
        .into_vec()
        .iter()
        .map(|cause| cause.sentence())
        .collect()
}

#[test]
fn a_pod_with_everything_is_in_order() {
    check_spec(
        json!({
            "containers": [{
                "name": "c", "image": "i",
                "ports": [{"name": "http", "containerPort": 80, "hostPort": 80}],
                "env": [{"name": "A", "value": "b"},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                    {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu",
                        "divisor": "1m"}}},
                    {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
                "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}},
                "volumeMounts": [{"name": "all", "mountPath": "/a", "subPath": "b/c"}],
                "livenessProbe": {"exec": {"command": ["x"]}},
                "readinessProbe": {"httpGet": {"port": "http"}},
                "startupProbe": {"grpc": {"port": 1}},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "securityContext": {"runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            }],
            "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always",
                "readinessProbe": {"tcpSocket": {"port": 1}}}],
            "volumes": [{"name": "all", "projected": {"sources": [
                {"secret": {"name": "s", "items": [{"key": "k", "path": "s/k"}]}},
                {"configMap": {"name": "m"}},
                {"downwardAPI": {"items": [{"path": "n",
                    "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"serviceAccountToken": {"path": "token"}}]}}],
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "a", "operator": "In", "values": ["b"]}]}]}},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"a": "b"}}}}]},
            },
            "tolerations": [{"operator": "Exists"},
                {"key": "a", "effect": "NoExecute", "tolerationSeconds": 5}],
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}],
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a.b"]}],
            "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b."]},
            "schedulingGates": [{"name": "example.com/gate"}],
        }),
        &[],
    );
}

#[test]
// tidy: table, because each line is a container and what is said about it
fn containers_are_checked() {
    check_spec(
        json!({"containers": []}),
        &["spec.containers: Required value"],
    );
    check_container(
        json!({"image": ""}),
        &["spec.containers[0].image: Required value"],
    );
    check_container(
        json!({"name": "A.b"}),
        &[&format!(
            "spec.containers[0].name: Invalid value: \"A.b\": {}",
            super::super::LABEL_MESSAGE
        )],
    );
    check_container(
        json!({"image": " i"}),
        &[
            "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing \
           whitespace",
        ],
    );
    check_container(
        json!({"imagePullPolicy": "Often"}),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \
           \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
    check_container(
        json!({"ports": [{"containerPort": 0}, {"containerPort": 70000, "protocol": "ICMP"}]}),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 \
             and 65535, inclusive",
            "spec.containers[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \
             \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    check_container(
        json!({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}),
        &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\""],
    );
    check_container(
        json!({"volumeMounts": [{"name": "none", "mountPath": "/a"}, {"name": "v", "mountPath": "/a",
            "subPath": "../b"}]}),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"none\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../b\": must not contain \
             '..'",
        ],
    );
    check_container(
        json!({"restartPolicy": "Sometimes"}),
        &[
            "spec.containers[0].restartPolicy: Unsupported value: \"Sometimes\": supported values: \
           \"Always\", \"Never\", \"OnFailure\"",
        ],
    );
    check_spec(
        json!({"initContainers": [{"name": "c", "image": "i",
            "livenessProbe": {"exec": {"command": ["x"]}}}]}),
        &[
            "spec.initContainers[0].name: Duplicate value: \"c\"",
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers \
             without restartPolicy=Always",
        ],
    );
    check_container(
        json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}),
        &[
            "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \
           \"memory\"",
        ],
    );
}

#[test]
fn ephemeral_containers_come_later() {
    check_spec(
        json!({"ephemeralContainers": [{"name": "d", "image": "i", "targetContainerName": "x",
            "ports": [{"containerPort": 1}]}]}),
        &[
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
}

#[test]
// tidy: table, because each line is a variable and what is said about it
fn variables_are_checked() {
    let one = |variable: Value, expected: &[&str]| {
        check_container(json!({"env": [variable]}), expected);
    };
    let at = "spec.containers[0].env[0]";
    one(
        json!({"name": "", "value": "x"}),
        &[&format!("{at}.name: Required value")],
    );
    one(
        json!({"name": "a=b"}),
        &[&format!(
            "{at}.name: Invalid value: \"a=b\": a valid environment variable name must consist only \
             of printable ASCII characters other than '='"
        )],
    );
    one(
        json!({"name": "a", "valueFrom": {}}),
        &[&format!(
            "{at}.valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
             `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        )],
    );
    one(
        json!({"name": "a", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}),
        &[&format!(
            "{at}.valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"
        )],
    );
    one(
        json!({"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels"}}}),
        &[&format!(
            "{at}.valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported \
             values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \
             \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \
             \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""
        )],
    );
    one(
        json!({"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "spec.color"}}}),
        &[&format!(
            "{at}.valueFrom.fieldRef.fieldPath: Invalid value: \"spec.color\": error converting \
             fieldPath: field label not supported: spec.color"
        )],
    );
    one(
        json!({"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu",
            "divisor": "2"}}}),
        &[&format!(
            "{at}.valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's \
             values 1m and 1 are supported with the cpu resource"
        )],
    );
    one(
        json!({"name": "a", "valueFrom": {"configMapKeyRef": {"name": "m", "key": ""}}}),
        &[&format!(
            "{at}.valueFrom.configMapKeyRef.key: Required value"
        )],
    );
    check_container(
        json!({"envFrom": [{}]}),
        &[
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or \
           `secretRef`",
        ],
    );
}

#[test]
// tidy: table, because each line is a probe and what is said about it
fn probes_and_hooks_are_checked() {
    let one = |probe: Value, expected: &[&str]| {
        check_container(json!({"livenessProbe": probe}), expected);
    };
    let at = "spec.containers[0].livenessProbe";
    one(
        json!({}),
        &[&format!(
            "{at}: Required value: must specify a handler type"
        )],
    );
    one(
        json!({"exec": {"command": ["x"]}, "grpc": {"port": 1}}),
        &[&format!(
            "{at}.grpc: Forbidden: may not specify more than 1 handler type"
        )],
    );
    one(
        json!({"exec": {}}),
        &[&format!("{at}.exec.command: Required value")],
    );
    one(
        json!({"httpGet": {"port": 0, "scheme": "FTP",
            "httpHeaders": [{"name": "a b", "value": ""}]}}),
        &[
            &format!("{at}.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"),
            &format!(
                "{at}.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \
                 \"HTTPS\""
            ),
            &format!(
                "{at}.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist \
                 of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation \
                 is '[-A-Za-z0-9]+')"
            ),
        ],
    );
    one(
        json!({"tcpSocket": {"port": 1}, "successThreshold": 2, "periodSeconds": -1,
            "terminationGracePeriodSeconds": 0}),
        &[
            &format!("{at}.periodSeconds: Invalid value: -1: must be greater than or equal to 0"),
            &format!(
                "{at}.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"
            ),
            &format!("{at}.successThreshold: Invalid value: 2: must be 1"),
        ],
    );
    check_container(
        json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and \
           less than terminationGracePeriodSeconds (30)",
        ],
    );
}

#[test]
// tidy: table, because each line is an amount and what is said about it
fn resources_are_checked() {
    let one = |resources: Value, expected: &[&str]| {
        check_container(json!({"resources": resources}), expected);
    };
    let at = "spec.containers[0].resources";
    one(
        json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
        &[&format!(
            "{at}.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
        )],
    );
    one(
        json!({"requests": {"memory": "-1"}}),
        &[&format!(
            "{at}.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0"
        )],
    );
    one(
        json!({"requests": {"pods": "1"}}),
        &[&format!(
            "{at}.requests[pods]: Invalid value: \"pods\": must be a standard resource for \
             containers"
        )],
    );
    one(
        json!({"limits": {"example.com/gpu": "1500m"}}),
        &[
            &format!("{at}.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer"),
            &format!(
                "{at}.requests[example.com/gpu]: Invalid value: \"1500m\": must be an integer"
            ),
        ],
    );
    one(
        json!({"requests": {"example.com/gpu": "1"}}),
        &[&format!(
            "{at}.limits: Required value: Limit must be set for non overcommitable resources"
        )],
    );
    one(
        json!({"limits": {"hugepages-2Mi": "4Mi"}}),
        &[&format!("{at}: Forbidden: HugePages require cpu or memory")],
    );
    one(
        json!({"limits": {"hugepages-2Mi": "3Mi", "cpu": "1"}}),
        &[
            &format!(
                "{at}.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi"
            ),
            &format!(
                "{at}.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi"
            ),
        ],
    );
    check_spec(
        json!({"overhead": {"sheep": "1"}}),
        &[
            "spec.overhead.limits[sheep]: Invalid value: \"sheep\": must be a standard resource \
             type or fully qualified",
            "spec.overhead.limits[sheep]: Invalid value: \"sheep\": must be a standard resource for \
             containers",
        ],
    );
}

#[test]
// tidy: table, because each line is a volume and what is said about it
fn volumes_are_checked() {
    let one = |volume: Value, expected: &[&str]| {
        check_spec(json!({"volumes": [volume]}), expected);
    };
    let at = "spec.volumes[0]";
    one(
        json!({"emptyDir": {}}),
        &[&format!("{at}.name: Required value")],
    );
    one(
        json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}),
        &[&format!(
            "{at}.hostPath: Forbidden: may not specify more than 1 volume type"
        )],
    );
    one(
        json!({"name": "v", "hostPath": {"path": "/a/../b", "type": "Pipe"}}),
        &[
            &format!("{at}.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"),
            &format!(
                "{at}.hostPath.type: Unsupported value: \"Pipe\": supported values: \"\", \
                 \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
                 \"FileOrCreate\", \"Socket\""
            ),
        ],
    );
    one(
        json!({"name": "v", "secret": {"items": [{"key": "k", "path": "/x", "mode": 512}]}}),
        &[
            &format!("{at}.secret.secretName: Required value"),
            &format!("{at}.secret.items[0].path: Invalid value: \"/x\": must be a relative path"),
            &format!(
                "{at}.secret.items[0].mode: Invalid value: 512: must be a number between 0 and 0777 \
                 (octal), both inclusive"
            ),
        ],
    );
    one(
        json!({"name": "v", "downwardAPI": {"items": [{"path": "..x"}]}}),
        &[
            &format!("{at}.downwardAPI.path: Invalid value: \"..x\": must not start with '..'"),
            &format!(
                "{at}.downwardAPI: Required value: one of fieldRef and resourceFieldRef is required"
            ),
        ],
    );
    one(
        json!({"name": "v", "projected": {"sources": [{"serviceAccountToken":
            {"path": "t", "expirationSeconds": 60}}]}}),
        &[&format!(
            "{at}.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: \
             may not specify a duration less than 10 minutes"
        )],
    );
    one(
        json!({"name": "v", "persistentVolumeClaim": {}}),
        &[&format!(
            "{at}.persistentVolumeClaim.claimName: Required value"
        )],
    );
    check_spec(
        json!({"volumes": [{"name": "v"}, {"name": "v"}]}),
        &["spec.volumes[1].name: Duplicate value: \"v\""],
    );
}

#[test]
// tidy: table, because each line is a wish of placement and what is said about it
fn placement_is_checked() {
    check_spec(
        json!({"tolerations": [{"value": "x"}, {"key": "a", "tolerationSeconds": 1}]}),
        &[
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` \
             is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
        ],
    );
    check_spec(
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}}),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
           nodeSelectorTerms: Required value: must have at least one node selector term",
        ],
    );
    check_spec(
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]},
                "topologyKey": "z"}]}}}),
        &[
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].\
           labelSelector.matchExpressions[0].values: Required value: must be specified when \
           `operator` is 'In' or 'NotIn'",
        ],
    );
    check_spec(
        json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "",
            "whenUnsatisfiable": "Maybe"}]}),
        &[
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Maybe\": \
             supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
        ],
    );
    check_spec(
        json!({"nodeName": "n", "schedulingGates": [{"name": "a"}, {"name": "a"}]}),
        &[
            "spec.schedulingGates[1]: Duplicate value: \"a\"",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
}

#[test]
// tidy: table, because each line is a field and what is said about it
fn the_pod_itself_is_checked() {
    check_spec(
        json!({"restartPolicy": "Maybe"}),
        &[
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \
           \"OnFailure\", \"Never\"",
        ],
    );
    check_spec(
        json!({"dnsPolicy": "None"}),
        &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    );
    check_spec(
        json!({"activeDeadlineSeconds": 0}),
        &[
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, \
           inclusive",
        ],
    );
    check_spec(
        json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i",
            "ports": [{"containerPort": 1, "hostPort": 2}]}]}),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when \
           `hostNetwork` is true",
        ],
    );
    check_spec(
        json!({"hostUsers": false, "hostPID": true}),
        &["spec.HostPID: Forbidden: when `hostUsers` is false"],
    );
    check_spec(
        json!({"os": {"name": "plan9"}}),
        &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
    );
    check_spec(
        json!({"os": {"name": "windows"}, "securityContext": {"fsGroup": 1}}),
        &["spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod"],
    );
    check_spec(
        json!({"securityContext": {"runAsUser": -1, "sysctls": [{"name": "A"}]}}),
        &[
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, \
             inclusive",
            "spec.securityContext.sysctls[0].name: Invalid value: \"A\": must have at most 253 \
             characters and match regex \
             ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
        ],
    );
    check_spec(
        json!({"hostAliases": [{"ip": "1.2.3"}]}),
        &[
            "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. \
           10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    check(
        json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "+1"}}}),
        &[
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": \
           must be a 32bit integer",
        ],
    );
    check_container(
        json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}),
        &["spec.containers[0].securityContext: Invalid value: \
           {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set \
           `allowPrivilegeEscalation` to false and `privileged` to true"],
    );
}

/// Changes a stored pod by a merge patch and compares the sentences about the change.
fn check_change(old: Value, patch: Value, expected: &[&str]) {
    let mut pod_before = json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "default"},
    });
    json_patch::merge(&mut pod_before, &json!({"spec": old}));
    defaults::pod(&mut pod_before);
    let mut after = pod_before.clone();
    json_patch::merge(&mut after, &json!({"spec": patch}));
    let mut causes = Causes::default();
    pod(&after, Some(&pod_before), &mut causes);
    assert_eq!(sentences(causes), expected, "{patch}");
}

#[test]
// tidy: table, because each line is a change and what is said about it
fn little_may_change() {
    let image = |image: &str| {
        json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": "Always",
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "resources": {}}]})
    };
    check_change(json!({}), image("j"), &[]);
    check_change(
        json!({}),
        image(""),
        &["spec.containers[0].image: Required value"],
    );
    check_change(json!({}), json!({"activeDeadlineSeconds": 5}), &[]);
    check_change(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": 4}),
        &[],
    );
    check_change(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": 6}),
        &[
            "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous \
           value",
        ],
    );
    check_change(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": null}),
        &[
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer \
           to nil value",
        ],
    );
    let toleration = json!({"key": "a", "operator": "Exists"});
    let other = json!({"key": "b", "operator": "Exists"});
    check_change(
        json!({"tolerations": [toleration]}),
        json!({"tolerations": [other, toleration]}),
        &[],
    );
    check_change(
        json!({"tolerations": [toleration]}),
        json!({"tolerations": [other]}),
        &[
            "spec.tolerations: Forbidden: existing toleration can not be modified except its \
           tolerationSeconds",
        ],
    );
    let gates = json!({"schedulingGates": [{"name": "a"}]});
    check_change(gates.clone(), json!({"schedulingGates": null}), &[]);
    check_change(
        gates.clone(),
        json!({"schedulingGates": [{"name": "b"}]}),
        &[
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new \
           scheduling gate 'b'",
        ],
    );
    check_change(gates.clone(), json!({"nodeSelector": {"a": "b"}}), &[]);
    check_change(
        json!({}),
        json!({"containers": []}),
        &[
            "spec.containers: Required value",
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ],
    );
    check_change(
        json!({"hostname": "a"}),
        json!({"hostname": "b"}),
        &[
            "spec: Forbidden: pod updates may not change fields other than \
           `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
           `spec.tolerations` (only additions to existing tolerations),\
           `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
           negative)\n- hostname: \"a\"\n+ hostname: \"b\"",
        ],
    );
}

#[test]
fn a_status_keeps_what_has_ended() {
    let check = |policy: &str, new: Value, expected: &[&str]| {
        let ended = json!([{"name": "c", "state": {"terminated": {"exitCode": 1}}}]);
        let old = json!({"spec": {"restartPolicy": policy},
            "status": {"qosClass": "Burstable", "containerStatuses": ended}});
        let mut object = old.clone();
        json_patch::merge(&mut object, &json!({"status": new}));
        let mut causes = Causes::default();
        status(&object, &old, &mut causes);
        assert_eq!(sentences(causes), expected, "{new}");
    };
    let running = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
    check("Always", running.clone(), &[]);
    check("OnFailure", running.clone(), &[]);
    check(
        "Never",
        running,
        &[
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated \
           state",
        ],
    );
    check(
        "Always",
        json!({"qosClass": "BestEffort"}),
        &["status.qosClass: Invalid value: \"BestEffort\": field is immutable"],
    );
    check(
        "Always",
        json!({"hostIP": "1.1.1.1", "hostIPs": [{"ip": "1.1.1.2"}],
            "podIPs": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.3"}]}),
        &[
            "status.hostIPs[0].ip: Invalid value: \"1.1.1.2\": must be equal to `hostIP`",
            "status.podIPs: Invalid value: [{\"ip\":\"1.1.1.1\"},{\"ip\":\"1.1.1.3\"}]: may specify \
             no more than one IP for each IP family",
        ],
    );
}

/// Changes the ephemeral containers of a stored pod and compares the sentences about the change.
fn check_ephemeral(old: Value, new: Value, expected: &[&str]) {
    let with = |containers: Value| {
        let mut object = json!({
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}], "serviceAccountName": "default",
                "ephemeralContainers": containers},
        });
        defaults::pod(&mut object);
        object
    };
    let mut causes = Causes::default();
    ephemeral_containers(&with(new.clone()), &with(old), &mut causes);
    assert_eq!(sentences(causes), expected, "{new}");
}

#[test]
fn ephemeral_containers_are_added_and_never_changed() {
    let one = |name: &str, image: &str| json!({"name": name, "image": image});
    check_ephemeral(json!([]), json!([one("d", "i")]), &[]);
    let two = json!([one("e", "i"), one("d", "i")]);
    check_ephemeral(json!([one("d", "i")]), two, &[]);
    check_ephemeral(
        json!([one("d", "i")]),
        json!([one("e", "i")]),
        &[
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be \
             removed\n",
        ],
    );
    check_ephemeral(
        json!([one("d", "i")]),
        json!([one("d", "j")]),
        &[
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be \
             changed\n- image: \"i\"\n+ image: \"j\"",
        ],
    );
    check_ephemeral(
        json!([]),
        json!([one("c", "i")]),
        &["spec.ephemeralContainers[0].name: Duplicate value: \"c\""],
    );
    check_ephemeral(
        json!([]),
        json!([{"name": "d", "image": "i", "restartPolicy": "Always"}]),
        &[
            "spec.ephemeralContainers[0].restartPolicy: Forbidden: cannot be set for an Ephemeral \
             Container",
        ],
    );
}
