//! The one machine behind every kind: what each verb does, driven by the table of kinds.

mod binding;
mod create;
mod delete;
mod draft;
mod patch;
mod read;
mod rewrite;
mod strategic;
mod watch;

use bytes::Bytes;
use coracle_store::{Limits, Revision, WriteError};
use jiff::{Timestamp, Unit};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    kinds::{self, KindInfo, Scope, Verb},
    object::{self, ObjectStore},
    request::{Action, Objects, Options, Target},
    service::{Answer, Content},
    status::ApiError,
};

pub(crate) use draft::check;
pub(crate) use watch::WatchStream;

/// The state all requests share.
#[derive(Debug)]
pub(crate) struct Machine {
    store: ObjectStore,
    build: String,
    clock: fn() -> Timestamp,
    stopping: CancellationToken,
}

impl Machine {
    pub(crate) fn new(build: String, limits: Limits, clock: fn() -> Timestamp) -> Machine {
        let stopping = CancellationToken::new();
        Machine {
            store: ObjectStore::in_memory(limits),
            build,
            clock,
            stopping,
        }
    }

    /// Returns the version of this program.
    pub(crate) fn build(&self) -> &str {
        &self.build
    }

    /// Refuses further requests and ends the watches.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Creates an object that every server has from its start.
    pub(crate) async fn seed(&self, path: &str, object: &Value) {
        let objects = match Target::parse(path) {
            Ok(Target::Objects(objects)) => objects,
            other => unreachable!("the path of a first object is that of its kind: {other:?}"),
        };
        let bytes = Bytes::from(object.to_string());
        let content = Content {
            media: String::new(),
            bytes,
        };
        let created = self.create(&objects, &Options::default(), &content).await;
        created.expect("the first objects are valid and nothing else has been created");
    }

    /// Does what a request asks for.
    pub(crate) async fn act(
        &self,
        action: Action,
        objects: Objects,
        options: &Options,
        content: Content,
    ) -> Result<Answer, ApiError> {
        if self.stopping.is_cancelled() {
            return Err(ApiError::unavailable("the server is shutting down"));
        }
        match action {
            Action::Bind => self.bind(&objects, options, &content).await,
            Action::Verb(Verb::Get) => self.get(&objects, options),
            Action::Verb(Verb::List) => self.list(&objects, options),
            Action::Verb(Verb::Watch) => self.watch(&objects, options),
            Action::Verb(Verb::Create) => self.create(&objects, options, &content).await,
            Action::Verb(Verb::Update) => self.update(&objects, options, &content).await,
            Action::Verb(Verb::Patch) => self.patch(&objects, options, &content).await,
            Action::Verb(Verb::Delete) => self.delete(&objects, options, &content).await,
            Action::Verb(Verb::DeleteCollection) => {
                self.delete_collection(&objects, options, &content).await
            }
        }
    }

    /// Returns the time as objects carry it.
    fn now(&self) -> Timestamp {
        let now = (self.clock)();
        now.round(Unit::Second).unwrap_or(now)
    }

    /// Refuses to place an object in a namespace that does not exist.
    fn check_namespace(&self, objects: &Objects) -> Result<(), ApiError> {
        let (Scope::Namespaced, Some(namespace)) = (objects.info.scope, &objects.namespace) else {
            return Ok(());
        };
        let namespaces = kinds::served("v1", "Namespace").expect("namespaces are in the table");
        match self.store.get(&object::key(namespaces, None, namespace)) {
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
