//! The one machine behind every kind: what each verb does, driven by the table of kinds.

mod binding;
mod create;
mod delete;
mod draft;
mod patch;
mod read;
mod review;
mod rewrite;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use coracle_store::{Expect, Revision, WriteError};
use http::{Response, request::Parts};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::service_ranges::ServiceRanges;
use crate::{
    admission::Admission,
    authorize::{self, Attributes, Authorizer},
    caller::Caller,
    certificates,
    control_plane::ControlPlaneConfig,
    identity::Identity,
    kinds::{self, Keeping, KindInfo, Scope, Subresource, Verb},
    kubelets::{self, Asked, Kubelets, Remote, SentBody},
    managed_fields::Shapes,
    moment,
    object::{self, ObjectStore},
    proxy,
    request::{Call, Objects, Options, Target},
    service::{Answer, ApiBody, Content, Metrics},
    status::ApiError,
    view::View,
};

pub(crate) use create::suffix as name_suffix;
pub(crate) use delete::{SHOWN_WHEN_REMOVED, expire_events};
pub(crate) use draft::check;
pub(crate) use patch::outcome;
pub(crate) use watch::WatchStream;

/// The state all requests share.
#[derive(Debug)]
pub(crate) struct Machine {
    store: ObjectStore,
    shapes: Shapes,
    admission: Admission,
    build: String,
    clock: fn() -> Timestamp,
    identity: Arc<Identity>,
    authorizer: Authorizer,
    kubelets: Kubelets,
    stopping: CancellationToken,
    metrics: Metrics,
}

impl Machine {
    pub(crate) fn new(
        store: ObjectStore,
        config: ControlPlaneConfig,
        clock: fn() -> Timestamp,
    ) -> Machine {
        let stopping = CancellationToken::new();
        let remote = Remote::new(store.clone(), Arc::clone(&config.identity), clock);
        Machine {
            authorizer: Authorizer::new(store.clone()),
            store,
            shapes: Shapes::default(),
            admission: Admission::new(config.service_ranges),
            build: config.build,
            clock,
            identity: config.identity,
            kubelets: Kubelets::with_remote(remote),
            stopping,
            metrics: Metrics::default(),
        }
    }

    /// Returns the version of this program.
    pub(crate) fn build(&self) -> &str {
        &self.build
    }

    /// Returns the keys of the cluster.
    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Returns where Services have their addresses.
    pub(crate) fn service_ranges(&self) -> ServiceRanges {
        self.admission.service_ranges()
    }

    /// Returns who says what callers may do.
    pub(crate) fn authorizer(&self) -> &Authorizer {
        &self.authorizer
    }

    /// Returns what counts requests.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns what tells the time.
    pub(crate) fn clock(&self) -> fn() -> Timestamp {
        self.clock
    }

    /// Refuses further requests and ends the watches.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Says whether requests are refused.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Makes what was written durable and gives the state's folder free.
    pub(crate) async fn close(&self) {
        self.store.clone().close().await;
    }

    /// Creates an object that every server has from its start, unless it is there.
    pub(crate) async fn seed(&self, path: &str, object: &Value) {
        let objects = match Target::parse(path) {
            Ok(Target::Objects(objects)) => objects,
            other => unreachable!("the path of a first object is that of its kind: {other:?}"),
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = object::key(objects.info, objects.namespace.as_deref(), name);
        // A store that was opened again has it already.
        if self.store.get(&key).is_some() {
            return;
        }
        let call = Call {
            objects,
            verb: Verb::Create,
            options: Options::default(),
            caller: Caller::in_process(),
            agent: "kube-apiserver".to_owned(),
            view: View::plain(self.clock),
        };
        let content = Content {
            media: String::new(),
            bytes: Bytes::from(object.to_string()),
        };
        // Only the store can have refused it, as with a full disk; the next start tries again.
        if let Err(error) = self.create(&call, &content).await {
            tracing::error!(path, error = error.message, "a first object is missing");
        }
    }

    /// Creates the roles and bindings to begin with, or brings back what is missing of them.
    pub(crate) async fn seed_policy(&self) {
        for wanted in authorize::bootstrap() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (version, kind) = (text(&wanted["apiVersion"]), text(&wanted["kind"]));
            let info = kinds::served(&version, &kind).expect("kinds of rules are in the table");
            let key = object::key(info, None, &text(&wanted["metadata"]["name"]));
            let Some(record) = self.store.get(&key) else {
                self.seed(&format!("/apis/{version}/{}", info.plural), &wanted)
                    .await;
                continue;
            };
            let Some(fresh) = authorize::reconcile(&object::parse(&record), &wanted) else {
                continue;
            };
            let encoded = object::encode(info, &fresh);
            let expect = Expect::At(record.revision);
            let written = self.store.put(&key, expect, |at| encoded.render(at)).await;
            if let Err(error) = written {
                tracing::error!(%error, key, "a role of the system cannot be brought up to date");
            }
        }
    }

    /// Refuses what the caller may not write, though it may write objects of this kind.
    fn admit(&self, call: &Call, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        authorize::admit(call, old, new)?;
        certificates::admit(&self.authorizer, call, old, new)?;
        self.authorizer.confirm_grant(call, old, new)
    }

    /// Does what a request asks for.
    pub(crate) async fn act(&self, call: &Call, content: Content) -> Result<Answer, ApiError> {
        if self.stopping.is_cancelled() {
            return Err(ApiError::unavailable("the server is shutting down"));
        }
        authorize::admit_part(&self.store, call)?;
        call.options.check_write(call.verb)?;
        match (call.verb, call.objects.subresource) {
            (Verb::Create, Some(Subresource::Binding)) => self.bind(call, &content).await,
            (Verb::Create, Some(Subresource::Eviction)) => self.evict(call, &content).await,
            (Verb::Create, Some(Subresource::Token)) => self.make_token(call, &content),
            (Verb::Create, None) if call.objects.info.keeping == Keeping::Answered => {
                self.review(call, &content)
            }
            (Verb::Create, None) => self.create(call, &content).await,
            (
                Verb::Get,
                None
                | Some(
                    Subresource::Status
                    | Subresource::Approval
                    | Subresource::EphemeralContainers
                    | Subresource::Resize,
                ),
            ) => self.get(call),
            (Verb::Get, Some(Subresource::Log)) => self.log(call).await,
            (
                Verb::Update,
                None
                | Some(
                    Subresource::Status
                    | Subresource::Approval
                    | Subresource::EphemeralContainers
                    | Subresource::Finalize
                    | Subresource::Resize,
                ),
            ) => self.update(call, &content).await,
            (
                Verb::Patch,
                None
                | Some(
                    Subresource::Status
                    | Subresource::Approval
                    | Subresource::EphemeralContainers
                    | Subresource::Resize,
                ),
            ) => self.patch(call, &content).await,
            (Verb::List, _) => self.list(call),
            (Verb::Watch, _) => self.watch(call),
            (Verb::Delete, _) => self.delete(call, &content).await,
            (Verb::DeleteCollection, _) => self.delete_collection(call, &content).await,
            (Verb::Create | Verb::Get | Verb::Update | Verb::Patch, Some(_)) => {
                Err(ApiError::method_not_allowed())
            }
        }
    }

    async fn log(&self, call: &Call) -> Result<Answer, ApiError> {
        let objects = &call.objects;
        let record = self.store.get(&objects.key());
        let record = record.ok_or_else(|| ApiError::not_found(objects.info, objects.name()))?;
        let pod = object::parse(&record);
        kubelets::answer(&self.kubelets, call, &pod, self.stopping.clone()).await
    }

    /// Connects a client with a pod's node.
    pub(crate) async fn connect(
        &self,
        call: &Call,
        asked: Asked,
    ) -> Result<Response<ApiBody>, ApiError> {
        if self.stopping.is_cancelled() {
            return Err(ApiError::unavailable("the server is shutting down"));
        }
        authorize::admit_part(&self.store, call)?;
        let objects = &call.objects;
        if call.verb == Verb::Get {
            // A browser can only ask so, and what it gets is no reading.
            let wanted = Attributes::creation(objects);
            self.authorizer.check(&call.caller, &wanted)?;
        }
        let record = self.store.get(&objects.key());
        let record = record.ok_or_else(|| ApiError::not_found(objects.info, objects.name()))?;
        let pod = object::parse(&record);
        kubelets::connect(&self.kubelets, call, &pod, asked).await
    }

    /// Passes a request on to what an object stands for.
    pub(crate) async fn pass_on(
        &self,
        objects: &Objects,
        caller: &Caller,
        head: Parts,
        body: SentBody,
    ) -> Result<Response<ApiBody>, ApiError> {
        if self.stopping.is_cancelled() {
            return Err(ApiError::unavailable("the server is shutting down"));
        }
        let target = proxy::Target::of(&self.store, objects)?;
        if matches!(target, proxy::Target::Kubelet { .. }) && kubelets::is_upgrade(&head.headers) {
            // Over it a kubelet starts programs; reading needs none.
            self.authorizer
                .check(caller, &Attributes::creation(objects))?;
        }
        proxy::pass_on(&self.kubelets, &target, head, body).await
    }

    /// Returns the ways to the nodes' kubelets.
    pub(crate) fn kubelets(&self) -> &Kubelets {
        &self.kubelets
    }

    /// Returns the time as objects carry it.
    fn now(&self) -> Timestamp {
        moment::second_of((self.clock)())
    }

    /// Refuses to place an object in a namespace that does not exist or is being deleted.
    fn check_namespace(&self, objects: &Objects, object: &Value) -> Result<(), ApiError> {
        let (Scope::Namespaced, Some(namespace)) = (objects.info.scope, &objects.namespace) else {
            return Ok(());
        };
        let namespaces = kinds::served("v1", "Namespace").expect("namespaces are in the table");
        match self.store.get(&object::key(namespaces, None, namespace)) {
            Some(record) if record.index.field(namespaces, "status.phase") == "Terminating" => {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
                let name = Some(text("name")).filter(|name| !name.is_empty());
                let name = name.unwrap_or_else(|| text("generateName"));
                let info = objects.info;
                Err(ApiError::namespace_terminating(info, name, namespace))
            }
            Some(_) => Ok(()),
            None => Err(ApiError::not_found(namespaces, namespace)),
        }
    }
}

impl Objects {
    /// Returns the name in the path; verbs on one object are only chosen when there is one.
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn key(&self) -> String {
        object::key(self.info, self.namespace.as_deref(), self.name())
    }
}

/// Words a lost race or a missing object.
fn write_failure(info: &KindInfo, name: &str, error: WriteError) -> ApiError {
    match error {
        WriteError::Exists => ApiError::already_exists(info, name),
        WriteError::Missing => ApiError::not_found(info, name),
        WriteError::Changed { .. } => ApiError::modified(info, name),
        WriteError::Closed => ApiError::unavailable(error.to_string()),
        WriteError::TooLarge
        | WriteError::NoSpace
        | WriteError::Unwritable { .. }
        | WriteError::Sealing => ApiError::internal(error.to_string()),
    }
}

/// Refuses a revision that has not happened yet.
fn not_in_future(wanted: Option<u64>, newest: Revision) -> Result<(), ApiError> {
    match wanted {
        Some(wanted) if wanted > newest.get() => {
            Err(ApiError::version_too_large(wanted, newest.get()))
        }
        _ => Ok(()),
    }
}
