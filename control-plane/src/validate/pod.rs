//! The checks of pods.

use std::collections::HashSet;

use serde_json::Value;

use super::{NameRule, check_name, config, elements, entries, is_dns_label, labels, pod_change};
use crate::{invalid::Causes, quantity::Quantity};

const PORT_MESSAGE: &str = "must be between 1 and 65535, inclusive";

const IMAGE_PATH_MESSAGE: &str = "must be an image reference, not a path: only `coracle run` packs \
     files, give the manifest to it";

const ENV_NAME_MESSAGE: &str = "a valid environment variable name must consist only of printable \
     ASCII characters other than '='";

/// Checks a pod; on update, that only what may change has changed.
pub(crate) fn pod(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = &object["spec"];
    let volumes = volumes(&spec["volumes"], causes);
    if elements(&spec["containers"]).next().is_none() {
        causes.required("spec.containers", "");
    }
    let mut names = HashSet::new();
    let mut host_ports = HashSet::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in elements(&spec[list]).enumerate() {
            let field = format!("spec.{list}[{index}]");
            let mut check = ContainerCheck {
                field,
                container,
                causes: &mut *causes,
            };
            check.identity(&mut names);
            check.ports(&mut host_ports);
            check.environment();
            check.mounts(&volumes);
            check.resources();
            check.choices(list == "initContainers");
        }
    }
    choices(spec, causes);
    numbers(spec, causes);
    labels("spec.nodeSelector", &spec["nodeSelector"], causes);
    for field in ["hostname", "subdomain"] {
        if let Some(name) = spec[field].as_str().filter(|name| !name.is_empty()) {
            check_name(NameRule::Label, &format!("spec.{field}"), name, causes);
        }
    }
    if let Some(node) = spec["nodeName"].as_str().filter(|node| !node.is_empty()) {
        check_name(NameRule::Subdomain, "spec.nodeName", node, causes);
    }
    if let Some(old) = old {
        pod_change::check(object, old, causes);
    }
}

/// Checks the volumes and returns their names.
fn volumes<'a>(list: &'a Value, causes: &mut Causes) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in elements(list).enumerate() {
        let field = format!("spec.volumes[{index}]");
        let name = volume["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            causes.required(format!("{field}.name"), "");
        } else if !names.insert(name) {
            causes.duplicate(format!("{field}.name"), &volume["name"]);
        } else {
            check_name(NameRule::Label, &format!("{field}.name"), name, causes);
        }
        for (second, _) in entries(volume).filter(|(key, _)| *key != "name").skip(1) {
            let detail = "may not specify more than 1 volume type";
            causes.forbidden(format!("{field}.{second}"), detail);
        }
        source(&field, volume, causes);
    }
    names
}

fn source(field: &str, volume: &Value, causes: &mut Causes) {
    for (source, key) in [("configMap", "name"), ("secret", "secretName")] {
        let Some(found) = volume.get(source) else {
            continue;
        };
        match found[key].as_str().unwrap_or_default() {
            "" => causes.required(format!("{field}.{source}.{key}"), ""),
            name if !config::is_object_name(name) => {
                check_name(
                    NameRule::Subdomain,
                    &format!("{field}.{source}.{key}"),
                    name,
                    causes,
                );
            }
            _ => (),
        }
    }
    if let Some(host_path) = volume.get("hostPath") {
        let path = host_path["path"].as_str().unwrap_or_default();
        if path.is_empty() {
            causes.required(format!("{field}.hostPath.path"), "");
        } else if path.split('/').any(|part| part == "..") {
            causes.invalid(
                format!("{field}.hostPath.path"),
                &host_path["path"],
                "must not contain '..'",
            );
        }
    }
}

fn choices(spec: &Value, causes: &mut Causes) {
    for (field, known) in [
        ("restartPolicy", &["Always", "OnFailure", "Never"][..]),
        (
            "dnsPolicy",
            &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"][..],
        ),
    ] {
        choice(format!("spec.{field}"), &spec[field], known, causes);
    }
}

fn choice(field: String, value: &Value, known: &[&str], causes: &mut Causes) {
    match value.as_str() {
        None => (),
        Some(word) if known.contains(&word) => (),
        Some(_) => causes.not_supported(field, value, known),
    }
}

fn numbers(spec: &Value, causes: &mut Causes) {
    let grace = &spec["terminationGracePeriodSeconds"];
    if grace.as_i64().is_some_and(|seconds| seconds < 0) {
        let detail = "must be greater than or equal to 0";
        causes.invalid("spec.terminationGracePeriodSeconds", grace, detail);
    }
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline
        .as_i64()
        .is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds))
    {
        let detail = "must be between 1 and 2147483647, inclusive";
        causes.invalid("spec.activeDeadlineSeconds", deadline, detail);
    }
}

/// One container and where its findings go.
struct ContainerCheck<'a, 'c> {
    field: String,
    container: &'a Value,
    causes: &'c mut Causes,
}

impl<'a> ContainerCheck<'a, '_> {
    fn identity(&mut self, names: &mut HashSet<&'a str>) {
        let (name, field) = (&self.container["name"], format!("{}.name", self.field));
        match name.as_str().unwrap_or_default() {
            "" => self.causes.required(field, ""),
            text if !names.insert(text) => self.causes.duplicate(field, name),
            text => check_name(NameRule::Label, &field, text, self.causes),
        }
        let (image, field) = (&self.container["image"], format!("{}.image", self.field));
        match image.as_str().unwrap_or_default() {
            "" => self.causes.required(field, ""),
            text if text.trim() != text => {
                let detail = "must not have leading or trailing whitespace";
                self.causes.invalid(field, image, detail);
            }
            text if is_path(text) => self.causes.invalid(field, image, IMAGE_PATH_MESSAGE),
            _ => (),
        }
    }

    fn ports(&mut self, host_ports: &mut HashSet<(String, String, i64)>) {
        let mut names = HashSet::new();
        for (index, port) in elements(&self.container["ports"]).enumerate() {
            let field = |name: &str| format!("{}.ports[{index}].{name}", self.field);
            for (name, required) in [("containerPort", true), ("hostPort", false)] {
                match port[name].as_i64().unwrap_or(0) {
                    0 if required => self.causes.required(field(name), ""),
                    0..=65535 => (),
                    _ => self.causes.invalid(field(name), &port[name], PORT_MESSAGE),
                }
            }
            choice(
                field("protocol"),
                &port["protocol"],
                &["SCTP", "TCP", "UDP"],
                self.causes,
            );
            if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
                if !is_port_name(name) {
                    let detail = "must be a lower case IANA service name of at most 15 characters";
                    self.causes.invalid(field("name"), &port["name"], detail);
                } else if !names.insert(name) {
                    self.causes.duplicate(field("name"), &port["name"]);
                }
            }
            let text = |name: &str| port[name].as_str().unwrap_or_default().to_owned();
            let host_port = port["hostPort"].as_i64().unwrap_or(0);
            let host = (text("hostIP"), text("protocol"), host_port);
            if host_port != 0 && !host_ports.insert(host) {
                self.causes.duplicate(field("hostPort"), &port["hostPort"]);
            }
        }
    }

    fn environment(&mut self) {
        for (index, variable) in elements(&self.container["env"]).enumerate() {
            let field = format!("{}.env[{index}]", self.field);
            let name = variable["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                self.causes.required(format!("{field}.name"), "");
            } else if !name
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
            {
                self.causes
                    .invalid(format!("{field}.name"), &variable["name"], ENV_NAME_MESSAGE);
            }
            let source = &variable["valueFrom"];
            if variable["value"]
                .as_str()
                .is_some_and(|value| !value.is_empty())
                && source.is_object()
            {
                let detail = "may not be specified when `value` is not empty";
                self.causes
                    .invalid(format!("{field}.valueFrom"), &Value::from(""), detail);
            }
            if source.is_object() && entries(source).count() != 1 {
                let detail = "must specify exactly one of the sources";
                self.causes
                    .invalid(format!("{field}.valueFrom"), &Value::from(""), detail);
            }
        }
    }

    fn mounts(&mut self, volumes: &HashSet<&str>) {
        let mut paths = HashSet::new();
        for (index, mount) in elements(&self.container["volumeMounts"]).enumerate() {
            let field = |name: &str| format!("{}.volumeMounts[{index}].{name}", self.field);
            let name = mount["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                self.causes.required(field("name"), "");
            } else if !volumes.contains(name) {
                self.causes.not_found(field("name"), &mount["name"]);
            }
            match mount["mountPath"].as_str().unwrap_or_default() {
                "" => self.causes.required(field("mountPath"), ""),
                path if !paths.insert(path) => {
                    let value = &mount["mountPath"];
                    self.causes
                        .invalid(field("mountPath"), value, "must be unique");
                }
                _ => (),
            }
            let sub_path = mount["subPath"].as_str().unwrap_or_default();
            if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
                let detail = "must be a relative path and must not contain '..'";
                self.causes
                    .invalid(field("subPath"), &mount["subPath"], detail);
            }
        }
    }

    fn resources(&mut self) {
        let resources = &self.container["resources"];
        let read = |value: &Value| value.as_str().and_then(Quantity::parse);
        for list in ["limits", "requests"] {
            for (name, value) in entries(&resources[list]) {
                let field = format!("{}.resources.{list}[{name}]", self.field);
                let Some(amount) = read(value) else { continue };
                if amount.is_negative() {
                    let detail = "must be greater than or equal to 0";
                    self.causes.invalid(field, value, detail);
                } else if name == "pods" || !(name.contains('/') || is_native(name)) {
                    let detail = "must be a standard resource for containers";
                    self.causes
                        .invalid(field, &Value::from(name.as_str()), detail);
                } else if name == "memory" && !amount.is_whole() {
                    self.causes
                        .invalid(field, value, "must be a whole number of bytes");
                }
            }
        }
        for (name, value) in entries(&resources["requests"]) {
            let limit = &resources["limits"][name];
            if let (Some(request), Some(most)) = (read(value), read(limit))
                && request.exceeds(most)
            {
                let field = format!("{}.resources.requests", self.field);
                let limit = limit.as_str().unwrap_or_default();
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                self.causes.invalid(field, value, &detail);
            }
        }
    }

    fn choices(&mut self, init: bool) {
        let field = |name: &str| format!("{}.{name}", self.field);
        let value = |name: &str| &self.container[name];
        for (name, known) in [
            ("imagePullPolicy", &["Always", "IfNotPresent", "Never"][..]),
            (
                "terminationMessagePolicy",
                &["FallbackToLogsOnError", "File"][..],
            ),
        ] {
            choice(field(name), value(name), known, self.causes);
        }
        let policy = "restartPolicy";
        match init {
            true => choice(field(policy), value(policy), &["Always"], self.causes),
            false => {
                let known = ["Always", "OnFailure", "Never"];
                choice(field(policy), value(policy), &known, self.causes);
            }
        }
    }
}

/// Says whether an image is written as a file's path, which only the command line can read.
fn is_path(image: &str) -> bool {
    let relative = ["./", "../", "/", ".\\", "..\\"]
        .iter()
        .any(|start| image.starts_with(start));
    // `hello.wasm` and `dir/hello.wasm` are files; what begins with a registry's host is not.
    let of_a_registry = image
        .split_once('/')
        .is_some_and(|(host, _)| host == "localhost" || host.contains(['.', ':']));
    relative || (image.ends_with(".wasm") && !image.contains('@') && !of_a_registry)
}

fn is_native(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-")
}

fn is_port_name(name: &str) -> bool {
    let has_letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    name.len() <= 15 && has_letter && is_dns_label(name) && !name.contains("--")
}
