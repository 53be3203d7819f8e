//! Defaults, names of ports, and what is refused.

use serde_json::{Value, json};

use super::*;
use crate::spec::{ContainerPlan, FieldRefusal, HostPathPolicy, check_pod};

fn convert(mut container: Value) -> Result<ContainerPlan, Vec<FieldRefusal>> {
    container["name"] = "c".into();
    container["image"] = "i".into();
    container["ports"] = json!([
        {"name": "web", "containerPort": 8080},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
    ]);
    let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [container]}});
    let pod = serde_json::from_value(pod).unwrap();
    check_pod(&pod, HostPathPolicy::Refuse).map(|mut plan| plan.containers.remove(0))
}

fn http(action: Value) -> HttpGet {
    let container = convert(json!({"readinessProbe": {"httpGet": action}})).unwrap();
    match &container.probes.readiness.unwrap().check {
        Check::Http(get) => get.clone(),
        other => panic!("{other:?}"),
    }
}

fn refuses(container: Value, field: &str) {
    let refusals = convert(container).expect_err(field);
    let found: Vec<&str> = refusals.iter().map(|r| r.field.as_str()).collect();
    assert_eq!(found, [format!("spec.containers[0].{field}")]);
}

#[test]
fn unset_fields_have_the_apis_defaults() {
    let container = convert(json!({"livenessProbe": {"tcpSocket": {"port": 80}}})).unwrap();
    let probe = container.probes.liveness.unwrap();
    let target = TcpTarget {
        host: None,
        port: TargetPort::Number(80),
    };
    let expected = Probe {
        check: Check::Tcp(target),
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace: None,
    };
    assert_eq!(*probe, expected);
    let get = http(json!({"port": 80}));
    assert_eq!((get.scheme, get.path.as_str()), (Scheme::Http, "/"));
}

#[test]
fn a_port_is_a_number_a_numeric_text_or_the_name_of_a_tcp_port() {
    for (port, expected) in [
        (json!(80), TargetPort::Number(80)),
        (json!("81"), TargetPort::Number(81)),
        (json!("web"), TargetPort::Number(8080)),
        (json!("dns"), TargetPort::Unknown("dns".into())),
        (json!("none"), TargetPort::Unknown("none".into())),
    ] {
        assert_eq!(http(json!({"port": port})).port, expected);
    }
}

#[test]
fn a_path_becomes_what_a_request_can_carry() {
    for (path, expected) in [
        ("healthz", "/healthz"),
        ("/a b?c=d e", "/a%20b?c=d%20e"),
        ("/a%20b", "/a%20b"),
        ("/a#b", "/a"),
        ("/ü", "/%C3%BC"),
        ("?x", "/?x"),
    ] {
        let get = http(json!({"port": 80, "path": path}));
        assert_eq!(get.path.as_str(), expected, "{path}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let get = |extra: Value| {
        let mut action = json!({"port": 80});
        action
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json!({"livenessProbe": {"httpGet": action}})
    };
    refuses(
        get(json!({"host": "no name"})),
        "livenessProbe.httpGet.host",
    );
    refuses(
        get(json!({"scheme": "FTP"})),
        "livenessProbe.httpGet.scheme",
    );
    refuses(get(json!({"port": 0})), "livenessProbe.httpGet.port");
    refuses(get(json!({"port": 70000})), "livenessProbe.httpGet.port");
    refuses(
        get(json!({"httpHeaders": [{"name": "X", "value": "a\nb"}]})),
        "livenessProbe.httpGet.httpHeaders[0].value",
    );
    refuses(json!({"startupProbe": {}}), "startupProbe");
    let tcp = json!({"port": 80});
    refuses(
        json!({"startupProbe": {"tcpSocket": tcp, "successThreshold": 2}}),
        "startupProbe.successThreshold",
    );
    refuses(
        json!({"readinessProbe": {"tcpSocket": tcp, "terminationGracePeriodSeconds": 2}}),
        "readinessProbe.terminationGracePeriodSeconds",
    );
    refuses(
        json!({"readinessProbe": {"tcpSocket": tcp, "periodSeconds": -1}}),
        "readinessProbe.periodSeconds",
    );
    refuses(
        json!({"lifecycle": {"preStop": {"sleep": {"seconds": -1}}}}),
        "lifecycle.preStop.sleep.seconds",
    );
}

#[test]
fn probes_and_hooks_of_an_init_container_that_runs_to_its_end_are_refused() {
    for (care, field) in [
        (
            json!({"livenessProbe": {"tcpSocket": {"port": 1}}}),
            "livenessProbe",
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}),
            "lifecycle.preStop",
        ),
    ] {
        for (policy, is_refused) in [(Value::Null, true), (json!("Always"), false)] {
            let mut init = json!({"name": "i", "image": "i", "restartPolicy": policy});
            init.as_object_mut()
                .unwrap()
                .extend(care.as_object().unwrap().clone());
            let pod = json!({"metadata": {"name": "p"}, "spec": {
                "initContainers": [init], "containers": [{"name": "c", "image": "i"}]}});
            let pod = serde_json::from_value(pod).unwrap();
            let checked = check_pod(&pod, HostPathPolicy::Refuse);
            assert_eq!(checked.is_err(), is_refused, "{field}");
        }
    }
}

#[test]
fn a_probes_command_knows_the_variables_that_are_written_out() {
    let command = json!(["/x", "$(A)-$(B)", "$(C)", "$$(A)"]);
    let container = convert(json!({
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "livenessProbe": {"exec": {"command": command}},
        "lifecycle": {"preStop": {"exec": {"command": command}}},
    }));
    let container = container.unwrap();
    let Check::Exec(found) = &container.probes.liveness.unwrap().check else {
        panic!("it is exec")
    };
    assert_eq!(**found, ["/x", "1-", "$(C)", "$(A)"]);
    let Hook::Exec(found) = &*container.hooks.pre_stop.unwrap() else {
        panic!("it is exec")
    };
    assert_eq!(
        **found,
        ["/x", "$(A)-$(B)", "$(C)", "$$(A)"],
        "hooks expand nothing"
    );
    refuses(
        json!({"livenessProbe": {"exec": {"command": []}}}),
        "livenessProbe.exec.command",
    );
}
