//! Our messages against those of the crate `k8s-pb`, which is generated from Kubernetes' own files.

use k8s_pb::{
    api::{
        authentication::v1 as authentication, authorization::v1 as authorization, core::v1 as core,
        rbac::v1 as rbac,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1 as meta,
        runtime::{TypeMeta, Unknown},
        util::intstr::IntOrString,
    },
};
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

use super::*;
use crate::schema::{Field, Shape, normalise};

fn body(version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some(version.to_owned()),
            kind: Some(kind.to_owned()),
        }),
        raw: Some(message.encode_to_vec()),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

/// Reads a message of a type; our own writer must give a body that the judge reads the same.
fn check<M: Message + Default + PartialEq>(type_name: &str, message: &M, expected: Value) {
    let word = |name: &str| expected[name].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (word("apiVersion"), word("kind"));
    let id = schema().type_id(type_name);
    let found = decode(id, &body(&version, &kind, message)).expect("a readable body");
    assert_eq!(found, expected);
    let written = encode(&expected).expect("a kind of the table");
    let unknown = Unknown::decode(&written[MAGIC.len()..]).expect("an envelope");
    assert_eq!(
        unknown.type_meta.expect("it says what it is").kind,
        Some(kind)
    );
    let again = M::decode(unknown.raw.expect("content").as_slice()).expect("a message");
    let found = decode(id, &body(&version, &word("kind"), &again)).expect("a readable body");
    assert_eq!(found, expected, "what was written says something else");
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn named(name: &str) -> Option<meta::ObjectMeta> {
    Some(meta::ObjectMeta {
        name: some(name),
        // Go writes every field that is no pointer, set or not.
        namespace: some(""),
        generation: Some(0),
        creation_timestamp: Some(meta::Time::default()),
        ..meta::ObjectMeta::default()
    })
}

#[test]
fn maps_and_bytes_come_across() {
    let secret = core::Secret {
        metadata: named("a"),
        data: [("k".to_owned(), b"\x00\xffv".to_vec())].into(),
        r#type: some("Opaque"),
        immutable: Some(false),
        ..core::Secret::default()
    };
    check(
        "core.v1.Secret",
        &secret,
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "a"},
            "data": {"k": "AP92"},
            "type": "Opaque",
            "immutable": false,
        }),
    );
}

/// A container with maps, and with fields that JSON lifts out of a message.
fn container() -> core::Container {
    core::Container {
        name: some("c"),
        resources: Some(core::ResourceRequirements {
            limits: [(
                "cpu".to_owned(),
                Quantity {
                    string: some("500m"),
                },
            )]
            .into(),
            ..core::ResourceRequirements::default()
        }),
        env: vec![core::EnvVar {
            name: some("E"),
            value: some(""),
            value_from: Some(core::EnvVarSource {
                config_map_key_ref: Some(core::ConfigMapKeySelector {
                    local_object_reference: Some(core::LocalObjectReference { name: some("m") }),
                    key: some("k"),
                    optional: Some(false),
                }),
                ..core::EnvVarSource::default()
            }),
        }],
        readiness_probe: Some(core::Probe {
            handler: Some(core::ProbeHandler {
                http_get: Some(core::HttpGetAction {
                    path: some("/"),
                    port: Some(IntOrString {
                        r#type: Some(1),
                        int_val: Some(0),
                        str_val: some("web"),
                    }),
                    ..core::HttpGetAction::default()
                }),
                ..core::ProbeHandler::default()
            }),
            period_seconds: Some(-1),
            ..core::Probe::default()
        }),
        ..core::Container::default()
    }
}

#[test]
fn an_empty_value_is_absent_unless_the_field_tells_them_apart() {
    let pod = core::Pod {
        metadata: named("a"),
        spec: Some(core::PodSpec {
            node_name: some(""),
            host_network: Some(false),
            automount_service_account_token: Some(false),
            termination_grace_period_seconds: Some(0),
            containers: vec![container()],
            volumes: vec![core::Volume {
                name: some("v"),
                volume_source: Some(core::VolumeSource {
                    empty_dir: Some(core::EmptyDirVolumeSource::default()),
                    ..core::VolumeSource::default()
                }),
            }],
            ..core::PodSpec::default()
        }),
        status: Some(core::PodStatus::default()),
    };
    let container = json!({
        "name": "c",
        "resources": {"limits": {"cpu": "500m"}},
        "env": [{
            "name": "E",
            "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": false}},
        }],
        "readinessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": -1},
    });
    check(
        "core.v1.Pod",
        &pod,
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a"},
            "spec": {
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [container],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {},
        }),
    );
}

#[test]
fn times_and_owned_fields_come_across() {
    let time = |seconds, nanos| meta::Time {
        seconds: Some(seconds),
        nanos: Some(nanos),
    };
    let event = core::Event {
        metadata: Some(meta::ObjectMeta {
            name: some("a"),
            managed_fields: vec![meta::ManagedFieldsEntry {
                manager: some("m"),
                time: Some(time(1, 5)),
                fields_v1: Some(meta::FieldsV1 {
                    raw: Some(br#"{"f:data":{}}"#.to_vec()),
                }),
                ..meta::ManagedFieldsEntry::default()
            }],
            ..meta::ObjectMeta::default()
        }),
        involved_object: Some(core::ObjectReference::default()),
        source: Some(core::EventSource::default()),
        event_time: Some(meta::MicroTime {
            seconds: Some(1_700_000_000),
            nanos: Some(123_456_000),
        }),
        first_timestamp: Some(time(-1, 0)),
        last_timestamp: Some(meta::Time::default()),
        count: Some(2),
        ..core::Event::default()
    };
    check(
        "core.v1.Event",
        &event,
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": "a",
                "managedFields": [{
                    "manager": "m",
                    "time": "1970-01-01T00:00:01Z",
                    "fieldsV1": {"f:data": {}},
                }],
            },
            "involvedObject": {},
            "source": {},
            "eventTime": "2023-11-14T22:13:20.123456Z",
            "firstTimestamp": "1969-12-31T23:59:59Z",
            "count": 2,
        }),
    );
}

#[test]
fn lists_in_maps_lie_in_a_message_of_their_own() {
    let extra = authorization::ExtraValue {
        items: vec!["x".to_owned(), "y".to_owned()],
    };
    let review = authorization::SubjectAccessReview {
        metadata: named(""),
        spec: Some(authorization::SubjectAccessReviewSpec {
            user: some("u"),
            extra: [("k".to_owned(), extra)].into(),
            ..authorization::SubjectAccessReviewSpec::default()
        }),
        status: Some(authorization::SubjectAccessReviewStatus {
            allowed: Some(false),
            ..authorization::SubjectAccessReviewStatus::default()
        }),
    };
    check(
        "authorization.v1.SubjectAccessReview",
        &review,
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": {"user": "u", "extra": {"k": ["x", "y"]}},
            "status": {"allowed": false},
        }),
    );
}

#[test]
fn what_kubectl_asks_about_itself_comes_across() {
    let token = authentication::TokenRequest {
        metadata: named(""),
        spec: Some(authentication::TokenRequestSpec {
            audiences: vec!["a".to_owned()],
            expiration_seconds: Some(600),
            ..authentication::TokenRequestSpec::default()
        }),
        status: Some(authentication::TokenRequestStatus {
            token: some(""),
            expiration_timestamp: Some(meta::Time::default()),
        }),
    };
    check(
        "authentication.v1.TokenRequest",
        &token,
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {},
            "spec": {"audiences": ["a"], "expirationSeconds": 600},
            "status": {"token": ""},
        }),
    );
    let review = authorization::SelfSubjectAccessReview {
        metadata: named(""),
        spec: Some(authorization::SelfSubjectAccessReviewSpec {
            resource_attributes: Some(authorization::ResourceAttributes {
                namespace: some("default"),
                verb: some("get"),
                resource: some("pods"),
                ..authorization::ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        }),
        status: None,
    };
    check(
        "authorization.v1.SelfSubjectAccessReview",
        &review,
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "metadata": {},
            "spec": {"resourceAttributes": {
                "namespace": "default", "verb": "get", "resource": "pods",
            }},
        }),
    );
    let whoami = authentication::SelfSubjectReview {
        metadata: named(""),
        status: None,
    };
    check(
        "authentication.v1.SelfSubjectReview",
        &whoami,
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "SelfSubjectReview",
            "metadata": {},
        }),
    );
}

#[test]
fn a_role_says_the_same_on_both_roads() {
    let role = rbac::Role {
        metadata: named("r"),
        rules: vec![rbac::PolicyRule {
            verbs: vec!["get".to_owned()],
            api_groups: vec![String::new()],
            resources: vec!["pods".to_owned()],
            ..rbac::PolicyRule::default()
        }],
    };
    let id = schema().type_id("rbac.v1.Role");
    let body = body("rbac.authorization.k8s.io/v1", "Role", &role);
    let mut one = decode(id, &body).expect("a readable body");
    let mut other = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "r", "creationTimestamp": null},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
    });
    for value in [&mut one, &mut other] {
        normalise(id, value).expect("a role");
    }
    assert_eq!(one, other);
}

#[test]
fn every_type_of_the_table_comes_across() {
    for id in schema().ids() {
        let sample = sample(&Shape::Object(id), 0);
        let mut raw = Vec::new();
        write::object(id, &sample, &mut raw);
        let read = read::object(id, &raw).expect("a readable message");
        let mut expected = sample.as_object().expect("a type is an object").clone();
        expected.retain(|name, _| {
            let field = schema().get(id).field(name).expect("a field of the type");
            !field.numbers.is_empty()
        });
        strip(id, &mut expected);
        assert_eq!(read, expected, "{}", schema().get(id).qualified);
    }
}

/// Drops what lies elsewhere in protobuf: kind and version of the objects in lists.
fn strip(id: TypeId, object: &mut Object) {
    for field in schema().get(id).fields() {
        let inner = match &field.shape {
            Shape::Object(id) => Some((*id, object.get_mut(field.name))),
            Shape::List(item) => match &**item {
                Shape::Object(id) => Some((
                    *id,
                    object.get_mut(field.name).and_then(|list| list.get_mut(0)),
                )),
                _ => None,
            },
            _ => None,
        };
        if field.numbers.is_empty() {
            object.remove(field.name);
        } else if let Some((id, Some(Value::Object(inner)))) = inner {
            strip(id, inner);
        }
    }
}

/// Makes a value of a shape in which no field is empty.
fn sample(shape: &Shape, depth: usize) -> Value {
    match shape {
        Shape::String => json!("text"),
        Shape::Boolean => json!(true),
        Shape::Int32 => json!(-7),
        Shape::Int64 => json!(1_i64 << 40),
        Shape::Time => json!("2026-01-02T03:04:05Z"),
        Shape::MicroTime => json!("2026-01-02T03:04:05.000006Z"),
        Shape::Bytes => json!("AAE="),
        Shape::Quantity => json!("1500m"),
        Shape::IntOrString => json!(8080),
        Shape::FieldsV1 | Shape::RawExtension => json!({"f:x": {}}),
        Shape::Object(id) => {
            let fields = schema().get(*id).fields().iter();
            let entry = |field: &Field| (field.name.to_owned(), sample(&field.shape, depth + 1));
            Value::Object(fields.filter(|_| depth < 12).map(entry).collect())
        }
        Shape::List(item) => json!([sample(item, depth + 1)]),
        Shape::Map(item) => json!({"key": sample(item, depth + 1)}),
    }
}

#[test]
fn malformed_bodies_are_refused_with_a_reason() {
    let id = schema().type_id("core.v1.ConfigMap");
    let refuse = |body: &[u8], expected: &str| {
        let error = decode(id, body).expect_err("a malformed body");
        assert_eq!(error.to_string(), expected, "{body:?}");
    };
    refuse(
        b"{}",
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
    );
    let raw = |raw: &[u8]| [MAGIC, &[0x12, raw.len() as u8], raw].concat();
    refuse(&raw(&[0x0a]), "unexpected EOF");
    refuse(
        &raw(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        "unexpected EOF",
    );
    refuse(&raw(&[0x00]), "proto: illegal tag 0");
    refuse(&raw(&[0x0b]), "proto: illegal wireType 3");
    refuse(&raw(&[0xff; 11]), "proto: integer overflow");
    refuse(
        &raw(&[0x08, 0x01]),
        "proto: wrong wireType = 0 for field metadata",
    );
    refuse(
        &raw(&[0x0a, 0x03, 0x0a, 0x01, 0xff]),
        "proto: field name contains invalid UTF-8",
    );
    refuse(
        &[MAGIC, &[0x1a, 4], b"gzip"].concat(),
        "unsupported content encoding `gzip`",
    );
    let many = [0x0a, 0x00].repeat(read::MESSAGES_MAX);
    let mut raw = Vec::new();
    delimited(&mut raw, 2, &many);
    refuse(
        &[MAGIC, &raw].concat(),
        "the object has more than 50000 messages in it",
    );
}

#[test]
fn what_is_not_known_is_skipped() {
    let id = schema().type_id("core.v1.ConfigMap");
    let raw = [
        &[0xf8, 0x7f, 0x01][..],
        &[0xfd, 0x7f, 1, 2, 3, 4],
        &[0xf9, 0x7f, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    let raw = raw.concat();
    let body = [MAGIC, &[0x12, raw.len() as u8], &raw].concat();
    assert_eq!(decode(id, &body), Ok(json!({})));
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in ["core.v1.Pod", "core.v1.Event", "authorization.v1.SubjectAccessReview"] {
            let id = schema().type_id(name);
            let _ = decode(id, &[MAGIC, &raw].concat());
            if let Ok(object) = read::object(id, &raw) {
                let mut object = Value::Object(object);
                let _ = normalise(id, &mut object);
                write::object(id, &object, &mut Vec::new());
            }
        }
    }
}
