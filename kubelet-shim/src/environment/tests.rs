use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::spec::{HostPathPolicy, check_pod};

fn plan(container: Value) -> PodSpecPlan {
    let mut first = json!({"name": "c", "image": "i:1"});
    for (key, value) in container.as_object().unwrap() {
        first[key] = value.clone();
    }
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u",
            "labels": {"app": "web"}, "annotations": {"note": "hi"}},
        "spec": {"nodeName": "node-1", "containers": [first],
            "volumes": [{"name": "scratch", "emptyDir": {}}]},
    }))
    .unwrap();
    check_pod(&pod, HostPathPolicy::Refuse).unwrap()
}

fn facts() -> Facts {
    Facts {
        pod_ip: Ipv4Addr::new(10, 244, 0, 5).into(),
        pod_ip6: Some("fd00:10:244::5".parse().unwrap()),
        host_ips: NodeIps {
            main: Ipv4Addr::LOCALHOST.into(),
            second: Some("2001:db8::1".parse().unwrap()),
        },
        amounts: Amounts {
            cpu_milli: 2500,
            memory: 3 << 30,
            memory_least: 0,
            storage: 5 << 30,
            pods: 110,
        },
    }
}

fn objects() -> Objects {
    let data = |pairs: &[(&str, &str)]| {
        Arc::new(ObjectData {
            data: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), Bytes::copy_from_slice(v.as_bytes())))
                .collect(),
            binary: BTreeMap::from([("blob".to_owned(), Bytes::from_static(b"\xff"))]),
        })
    };
    Objects::from([
        (
            (ObjectKind::ConfigMap, "m".to_owned()),
            data(&[("A", "map-a"), ("B", "map-b")]),
        ),
        (
            (ObjectKind::Secret, "s".to_owned()),
            data(&[("B", "secret-b")]),
        ),
    ])
}

fn resolve(container: Value) -> Result<Vec<(String, String)>, ConfigError> {
    let plan = plan(container);
    let image = [
        ("PATH".to_owned(), "/bin".to_owned()),
        ("A".to_owned(), "image".to_owned()),
    ];
    let file = ("scratch".to_owned(), "out/env".to_owned());
    let sources = Sources {
        objects: objects(),
        services: vec![
            ("DB_SERVICE_HOST".to_owned(), "10.96.0.9".to_owned()),
            ("A".to_owned(), "service".to_owned()),
        ],
        files: HashMap::from([(file, Bytes::from_static(b"K='from a file'"))]),
        hostname: "p".to_owned(),
    };
    variables(&plan, &plan.containers[0], &image, &sources, facts())
}

/// Compares everything but what every container has.
fn check(container: Value, expected: &[(&str, &str)]) {
    let found = resolve(container).unwrap();
    let found: Vec<_> = found
        .iter()
        .filter(|(name, _)| name != "PATH" && name != "HOSTNAME" && name != "DB_SERVICE_HOST")
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn dollar_names_are_expanded_as_in_kubernetes() {
    let known = |name: &str| (name == "X").then_some("value");
    for (text, expected) in [
        ("$(X)", "value"),
        ("a$(X)b$(X)", "avaluebvalue"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(X)", "$(X)"),
        ("$$$(X)", "$value"),
        ("$", "$"),
        ("$X", "$X"),
        ("$(X", "$(X"),
        ("100$", "100$"),
        ("$()", "$()"),
        ("é$(X)é", "évalueé"),
    ] {
        assert_eq!(expand(text, known), expected, "{text}");
    }
}

#[test]
fn the_image_lies_beneath_and_later_words_win() {
    check(json!({}), &[("A", "service")]);
    check(
        json!({"env": [{"name": "A", "value": "pod"}]}),
        &[("A", "pod")],
    );
    check(
        json!({"envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "S_", "secretRef": {"name": "s"}}],
            "env": [{"name": "C", "value": "$(A)-$(S_B)-$(LATER)"}, {"name": "LATER", "value": "x"}]}),
        &[
            ("A", "map-a"),
            ("B", "map-b"),
            ("S_B", "secret-b"),
            ("C", "map-a-secret-b-$(LATER)"),
            ("LATER", "x"),
        ],
    );
}

#[test]
fn services_fill_what_the_pod_leaves_open() {
    let found = resolve(json!({"env": [
        {"name": "DB", "value": "tcp://$(DB_SERVICE_HOST)"},
        {"name": "DB_SERVICE_HOST", "value": "mine"}, {"name": "LATER", "value": "$(DB_SERVICE_HOST)"}]}));
    let found = found.unwrap();
    let value = |name: &str| {
        let found = found.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(value("DB"), ["tcp://10.96.0.9"]);
    assert_eq!(value("DB_SERVICE_HOST"), ["mine"]);
    assert_eq!(value("LATER"), ["mine"]);
}

#[test]
fn a_variable_is_read_from_a_file_of_an_earlier_container() {
    let from = |key: &str, path: &str, optional: bool| {
        let reference =
            json!({"volumeName": "scratch", "path": path, "key": key, "optional": optional});
        json!({"env": [{"name": "F", "valueFrom": {"fileKeyRef": reference}}]})
    };
    check(
        from("K", "out/env", false),
        &[("A", "service"), ("F", "from a file")],
    );
    check(from("K", "none", true), &[("A", "service")]);
    check(from("L", "out/env", true), &[("A", "service")]);
    for (key, path) in [("L", "out/env"), ("K", "none")] {
        let error = resolve(from(key, path, false)).unwrap_err().to_string();
        let expected = format!("environment variable key \"{key}\" not found in file \"{path}\"");
        assert_eq!(error, expected);
    }
}

#[test]
fn a_pods_facts_become_variables() {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    check(
        json!({"env": [
            field("N", "metadata.name"), field("NS", "metadata.namespace"), field("U", "metadata.uid"),
            field("L", "metadata.labels['app']"), field("AN", "metadata.annotations['note']"),
            field("NODE", "spec.nodeName"), field("SA", "spec.serviceAccountName"),
            field("HIP", "status.hostIP"), field("HIPS", "status.hostIPs"),
            field("PIP", "status.podIP"), field("PIPS", "status.podIPs"),
        ]}),
        &[
            ("A", "service"),
            ("N", "p"),
            ("NS", "n"),
            ("U", "u"),
            ("L", "web"),
            ("AN", "hi"),
            ("NODE", "node-1"),
            ("SA", "default"),
            ("HIP", "127.0.0.1"),
            ("HIPS", "127.0.0.1,2001:db8::1"),
            ("PIP", "10.244.0.5"),
            ("PIPS", "10.244.0.5,fd00:10:244::5"),
        ],
    );
}

#[test]
fn amounts_are_rounded_up_and_an_absent_limit_is_the_nodes() {
    let amount = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    check(
        json!({
            "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "65Mi"}},
            "env": [
                amount("CPU", "limits.cpu", "1"), amount("MILLI", "limits.cpu", "1m"),
                amount("MEM", "requests.memory", "10Mi"), amount("NODE", "limits.memory", "1Gi"),
                amount("REQ", "requests.cpu", "0"),
            ],
        }),
        &[
            ("A", "service"),
            ("CPU", "2"),
            ("MILLI", "1500"),
            ("MEM", "7"),
            ("NODE", "3"),
            ("REQ", "2"),
        ],
    );
}

#[test]
fn a_missing_object_or_key_is_told_unless_it_is_optional() {
    let key = |kind: &str, name: &str, key: &str, optional: bool| json!({"env": [{"name": "V", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]});
    let message = |container| resolve(container).unwrap_err().to_string();
    assert_eq!(
        message(key("configMapKeyRef", "gone", "k", false)),
        "configmap \"gone\" not found"
    );
    assert_eq!(
        message(key("secretKeyRef", "gone", "k", false)),
        "secret \"gone\" not found"
    );
    assert_eq!(
        message(key("configMapKeyRef", "m", "k", false)),
        "couldn't find key k in ConfigMap n/m"
    );
    assert_eq!(
        message(json!({"envFrom": [{"secretRef": {"name": "gone"}}]})),
        "secret \"gone\" not found"
    );
    check(
        key("configMapKeyRef", "gone", "k", true),
        &[("A", "service")],
    );
    check(key("configMapKeyRef", "m", "k", true), &[("A", "service")]);
    check(
        key("configMapKeyRef", "m", "B", false),
        &[("A", "service"), ("V", "map-b")],
    );
    check(
        key("configMapKeyRef", "m", "blob", true),
        &[("A", "service")],
    );
}

#[test]
fn command_and_args_replace_the_images_as_in_kubernetes() {
    let image = ImageDefaults {
        entrypoint: vec!["/app.wasm".to_owned()],
        cmd: vec!["serve".to_owned()],
        env: Vec::new(),
        working_dir: "/srv".to_owned(),
    };
    let check = |container: Value, args: &[&str], dir: &str| {
        let plan = plan(container);
        let env = [("X".to_owned(), "1".to_owned())];
        let line = command_line(&plan.containers[0], &image, &env);
        assert_eq!(line.args, args);
        assert_eq!(line.working_dir, dir);
    };
    check(json!({}), &["/app.wasm", "serve"], "/srv");
    check(
        json!({"args": ["a", "$(X)"]}),
        &["/app.wasm", "a", "1"],
        "/srv",
    );
    check(json!({"command": ["/b"]}), &["/b"], "/srv");
    check(
        json!({"command": ["/b"], "args": ["$$(X)"], "workingDir": "/w"}),
        &["/b", "$(X)"],
        "/w",
    );
    check(
        json!({"workingDir": "rel"}),
        &["/app.wasm", "serve"],
        "/rel",
    );
}

proptest! {
    #[test]
    fn text_without_a_dollar_is_never_changed(text in "[^$]{0,60}") {
        prop_assert_eq!(expand(&text, |_| Some("!")), text);
    }

    #[test]
    fn no_text_breaks_the_expansion(text in ".{0,60}") {
        let _ = expand(&text, |_| None);
    }
}
