//! What the server adds to objects and demands of them beyond their own form: admission.
//!
//! A request passes two lists of steps, in the order of the stock server's plugins: the first may
//! change the object, the second only refuses it. In between the object is checked by itself, and
//! a service gets its addresses and ports. Steps are functions over a [`Request`] and look only
//! into the store. What is given out and not yet written is noted in [`Pending`].

mod account;
mod classes;
mod limits;
mod nodes;
mod pending;
pub(crate) mod quota;
mod resources;
pub(crate) mod services;
mod storage;

use coracle_store::Range;
use serde_json::Value;

use crate::service_ranges::ServiceRanges;
use crate::{
    kinds::{self, KindInfo, Subresource},
    object::{self, ObjectRecord, ObjectStore},
    request::Call,
    status::ApiError,
};

pub(crate) use nodes::{NOT_READY, UNREACHABLE};
pub(crate) use pending::Claims;
pub(crate) use quota::Charge;

use pending::Pending;

/// The state that admission keeps beside the store.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pending: Pending,
    service_ranges: ServiceRanges,
}

/// One request, as the steps see it.
#[derive(Clone, Copy, Debug)]
struct Request<'a> {
    store: &'a ObjectStore,
    call: &'a Call,
    /// The object before a change.
    old: Option<&'a Value>,
}

type Mutation = fn(&Request<'_>, &mut Value) -> Result<(), ApiError>;
type Check = fn(&Request<'_>, &Value) -> Result<(), ApiError>;

/// The steps that may change an object.
const MUTATIONS: &[Mutation] = &[
    limits::defaults,
    account::assign,
    nodes::taints,
    classes::priority,
    nodes::tolerations,
    classes::runtime,
    storage::default_class,
];

/// The steps that may refuse an object.
const CHECKS: &[Check] = &[limits::check, classes::only_default, storage::resize];

impl Admission {
    /// Returns admission with nothing under way.
    pub(crate) fn new(service_ranges: ServiceRanges) -> Admission {
        Admission {
            pending: Pending::default(),
            service_ranges,
        }
    }

    /// Returns where Services have their addresses.
    pub(crate) fn service_ranges(&self) -> ServiceRanges {
        self.service_ranges
    }

    /// Waits for what a moment ago began to come into being: a new namespace's account.
    pub(crate) async fn ready(&self, store: &ObjectStore, call: &Call, object: &Value) {
        account::await_default(store, call, object).await;
    }

    /// Completes an object from what else is in the store; `old` is present on update.
    pub(crate) fn mutate(
        &self,
        store: &ObjectStore,
        call: &Call,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let request = Request { store, call, old };
        MUTATIONS.iter().try_for_each(|step| step(&request, object))
    }

    /// Gives a service the addresses and ports it lacks. They are its own as long as the claims
    /// live or the service is in the store.
    pub(crate) fn allocate(
        &self,
        store: &ObjectStore,
        call: &Call,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<Claims<'_>, ApiError> {
        let request = Request { store, call, old };
        let mut claims = Claims::default();
        let ranges = self.service_ranges;
        services::allocate(&request, (ranges, &self.pending), object, &mut claims)?;
        Ok(claims)
    }

    /// Refuses what is not allowed, and adds to the claims what the object takes of quotas.
    pub(crate) fn check<'a>(
        &'a self,
        store: &ObjectStore,
        call: &Call,
        old: Option<&Value>,
        object: &Value,
        claims: &mut Claims<'a>,
    ) -> Result<(), ApiError> {
        let request = Request { store, call, old };
        CHECKS.iter().try_for_each(|step| step(&request, object))?;
        quota::enforce(&request, &self.pending, object, claims)
    }
}

impl Request<'_> {
    /// Says whether the request is about whole objects of a kind of the core group.
    fn is_for(&self, kind: &str) -> bool {
        let objects = &self.call.objects;
        objects.info.group.is_empty() && objects.info.kind == kind && objects.subresource.is_none()
    }

    /// Says whether the request changes what a pod's containers request and may use.
    fn resizes(&self) -> bool {
        self.call.objects.subresource == Some(Subresource::Resize)
    }

    /// Says whether a new object comes into being.
    fn creates(&self) -> bool {
        self.old.is_none()
    }

    fn info(&self) -> &'static KindInfo {
        self.call.objects.info
    }

    fn namespace(&self) -> &str {
        self.call.objects.namespace.as_deref().unwrap_or_default()
    }

    /// Says whether only the status is written.
    fn is_for_status(&self) -> bool {
        self.call.objects.subresource == Some(Subresource::Status)
    }

    /// Looks up another object.
    fn object(&self, info: &KindInfo, name: &str) -> Option<Value> {
        let key = object::key(info, Some(self.namespace()), name);
        self.store.get(&key).map(|record| object::parse(&record))
    }

    /// Goes through the objects of a kind, those of the request's namespace if they have one.
    fn records(&self, info: &KindInfo) -> Vec<std::sync::Arc<ObjectRecord>> {
        let prefix = object::prefix(info, Some(self.namespace()));
        let range = Range {
            prefix: &prefix,
            after: None,
            limit: None,
            at: None,
        };
        // The newest revision can always be read.
        let page = self.store.range(&range, |_| true);
        page.map(|page| page.records).unwrap_or_default()
    }

    fn forbidden(&self, object: &Value, why: &str) -> ApiError {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let name = [text("name"), text("generateName")];
        let name = name.into_iter().find(|name| !name.is_empty());
        ApiError::forbidden_object(self.info(), name.unwrap_or_default(), why)
    }
}

/// Completes an object as far as its own checks need it, where there is no server to ask.
pub(crate) fn assume(info: &KindInfo, object: &mut Value) {
    match (info.group, info.kind) {
        ("", "Pod") => account::name(object),
        ("", "Service") => services::assume_given(object),
        _ => (),
    }
}

/// Returns a kind that the server itself looks up.
fn known(api_version: &str, kind: &str) -> &'static KindInfo {
    kinds::served(api_version, kind).expect("the kinds that admission reads are in the table")
}

#[cfg(test)]
mod tests {
    use coracle_store::{Expect, Limits};
    use serde_json::json;

    use super::*;
    use crate::{
        caller::Caller,
        kinds::Verb,
        request::{Objects, Options},
        view::View,
    };

    fn call(kind: &str) -> Call {
        Call {
            objects: Objects {
                info: known("v1", kind),
                namespace: Some("default".to_owned()),
                name: None,
                subresource: None,
                watched: false,
            },
            verb: Verb::Create,
            options: Options::default(),
            caller: Caller::in_process(),
            agent: String::new(),
            view: View::plain(jiff::Timestamp::now),
        }
    }

    async fn store(kind: &str, object: &Value) -> ObjectStore {
        let store = ObjectStore::in_memory(Limits::default());
        let info = known("v1", kind);
        let encoded = object::encode(info, object);
        let key = object::key(info, Some("default"), "q");
        let render = |revision| encoded.render(revision);
        store
            .put(&key, Expect::Absent, render)
            .await
            .expect("the store is empty");
        store
    }

    /// Between the decision and the write nothing else can be told to have what was given out.
    #[tokio::test]
    async fn what_is_on_its_way_counts() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
        let store = store("ResourceQuota", &quota).await;
        let (admission, call) = (Admission::default(), call("Pod"));
        let ask = |uid: &str| {
            let pod = json!({"metadata": {"name": uid, "uid": uid}, "spec": {"containers": []}});
            let mut claims = Claims::default();
            let answer = admission.check(&store, &call, None, &pod, &mut claims);
            answer.map(|()| claims).ok()
        };
        let first = ask("a").expect("there is room");
        assert!(ask("b").is_none());
        drop(first);
        let mut first = ask("b").expect("the first was not written");
        first.begin();
        assert!(ask("c").is_none());
        first.end();
        let mut first = ask("c").expect("the write has failed");
        first.begin();
        // A write that nobody waits for may still arrive.
        drop(first);
        assert!(ask("d").is_none());
    }

    #[test]
    fn a_manifest_is_checked_as_if_it_had_been_completed() {
        let check = |manifest: Value| crate::verbs::check(known("v1", "Service"), &manifest);
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer",
            "externalTrafficPolicy": "Local", "ports": [{"port": 1}]}});
        assert_eq!(check(service), Ok(()));
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}]}}]}});
        assert_eq!(crate::verbs::check(known("v1", "Pod"), &pod), Ok(()));
    }

    #[tokio::test]
    async fn a_claim_grows_only_where_its_class_says_so() {
        let store = ObjectStore::in_memory(Limits::default());
        let info = known("storage.k8s.io/v1", "StorageClass");
        for (name, allows) in [
            ("grows", json!(true)),
            ("stays", json!(false)),
            ("none", Value::Null),
        ] {
            let class = json!({"metadata": {"name": name}, "allowVolumeExpansion": allows});
            let encoded = object::encode(info, &class);
            let render = |revision| encoded.render(revision);
            let key = object::key(info, None, name);
            let stored = store.put(&key, Expect::Absent, render).await;
            stored.expect("there is none of the name");
        }
        let call = call("PersistentVolumeClaim");
        let claim = |class: &str, size: &str| {
            json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class,
                "resources": {"requests": {"storage": size}}}})
        };
        let refused = "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc \
                       can be resized and the storageclass that provisions the pvc must support resize";
        for (class, size, expected) in [
            ("grows", "2Gi", None),
            ("stays", "2Gi", Some(refused)),
            ("none", "2Gi", Some(refused)),
            ("gone", "2Gi", Some(refused)),
            ("", "2Gi", Some(refused)),
            ("stays", "1024Mi", None),
        ] {
            let (old, new) = (claim(class, "1Gi"), claim(class, size));
            let admission = Admission::default();
            let mut claims = Claims::default();
            let answer = admission.check(&store, &call, Some(&old), &new, &mut claims);
            let message = answer.err().map(|error| error.message);
            assert_eq!(message.as_deref(), expected, "{class} {size}");
        }
    }

    #[tokio::test]
    async fn an_address_is_given_to_one() {
        let none = json!({"metadata": {"name": "q"}, "spec": {"type": "ExternalName"}});
        let store = store("Service", &none).await;
        let (admission, call) = (Admission::default(), call("Service"));
        let ask = |uid: &str| {
            let mut service = json!({"metadata": {"name": uid, "uid": uid}, "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
                "ports": [{"port": 1, "nodePort": 30000}]}});
            admission.allocate(&store, &call, None, &mut service).ok()
        };
        let first = ask("a").expect("it is free");
        assert!(ask("b").is_none());
        drop(first);
        assert!(ask("b").is_some());
    }
}
