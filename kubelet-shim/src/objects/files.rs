//! What one pod shows of objects, tokens and itself: volumes in memory, drawn anew when a source changes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use coracle_runtime::fs::{FsError, LiveTree, Tree};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::book::{Book, Joined};
use super::fetch::{Found, fetch_one};
use super::layout::{self, LayoutError, Payload, Sources};
use super::token::{self, Token};
use crate::environment::Objects;
use crate::images::describe;
use crate::node::Amounts;
use crate::spec::{FilesSource, FilesVolume, ObjectKind, PodSpecPlan, TokenPlan, VolumeSource};
use crate::time::Moment;

/// The volumes in memory of one pod. They follow their sources until this is dropped.
pub(crate) struct PodFiles {
    id: u64,
    book: Arc<Book>,
    state: Mutex<State>,
    /// Told when a source gives its first answer; only [`PodFiles::open`] waits.
    answered: Notify,
}

/// Why a pod's volumes in memory cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to make the files of volume `{volume}`")]
pub(crate) struct FilesError {
    pub(crate) volume: String,
    #[source]
    pub(crate) source: SourceError,
}

/// What is wrong with a source of a volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{0}")]
    Unread(String),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("failed to build the volume's files")]
    Tree(#[from] FsError),
}

/// What became of an object.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// This is its content.
    Present(Found),
    /// It was deleted at a version, or is missing in a list.
    Absent(Option<u64>),
    /// It cannot be read.
    Failed(String),
}

struct State {
    pod: Arc<PodSpecPlan>,
    amounts: Amounts,
    seen: HashMap<(ObjectKind, String), Seen>,
    objects: Objects,
    gone: HashSet<(ObjectKind, String)>,
    tokens: HashMap<TokenPlan, Result<Bytes, String>>,
    renewals: HashMap<TokenPlan, Token>,
    /// When the book wakes the tokens of this pod.
    due: Option<Instant>,
    /// Empty until all sources have answered once.
    volumes: Vec<Shown>,
}

/// What is known of an object.
enum Seen {
    /// Nothing has come yet.
    Waiting,
    Failed(String),
    /// Its content, or its absence, is that of this version.
    At(u64),
}

/// A volume as it was drawn last.
struct Shown {
    name: String,
    tree: LiveTree,
    files: Payload,
}

/// Which volumes are affected by a change.
#[derive(Clone, Copy)]
enum Touched<'a> {
    Object(&'a (ObjectKind, String)),
    Facts,
    Tokens,
}

impl PodFiles {
    /// Asks for everything a pod's volumes are made from, and draws them when all has come.
    pub(super) async fn open(
        book: &Arc<Book>,
        pod: &Arc<PodSpecPlan>,
        amounts: Amounts,
        now: Moment,
    ) -> Result<Arc<PodFiles>, FilesError> {
        let (objects, tokens) = wanted(pod);
        let waiting = objects.iter().map(|key| (key.clone(), Seen::Waiting));
        let files = Arc::new(PodFiles {
            id: book.next_id(),
            book: book.clone(),
            state: Mutex::new(State {
                pod: pod.clone(),
                amounts,
                seen: waiting.collect(),
                objects: Objects::new(),
                gone: HashSet::new(),
                tokens: HashMap::new(),
                renewals: HashMap::new(),
                due: None,
                volumes: Vec::new(),
            }),
            answered: Notify::new(),
        });
        if !objects.is_empty() {
            let joined = book.join(&files, &pod.key.namespace, objects);
            tokio::join!(files.read(joined), files.ask(tokens, now), files.wait());
        } else if !tokens.is_empty() {
            files.ask(tokens, now).await;
        }
        files.draw_first()?;
        files.schedule();
        Ok(files)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Returns each volume's name and content.
    pub(crate) fn trees(&self) -> Vec<(String, LiveTree)> {
        let state = self.state.lock();
        let shown = state.volumes.iter();
        shown.map(|v| (v.name.clone(), v.tree.clone())).collect()
    }

    /// Takes the pod with its labels and annotations of now.
    pub(crate) fn describe(&self, pod: &Arc<PodSpecPlan>) {
        let mut state = self.state.lock();
        if Arc::ptr_eq(&state.pod, pod) {
            return;
        }
        state.pod = pod.clone();
        state.redraw(Touched::Facts);
    }

    /// Takes what became of an object. What is older than what is known is left out.
    pub(super) fn take(&self, object: &(ObjectKind, String), change: Change) {
        let mut state = self.state.lock();
        let Some(seen) = state.seen.get_mut(object) else {
            return;
        };
        let known = match seen {
            Seen::Waiting | Seen::Failed(_) => None,
            Seen::At(version) => Some(*version),
        };
        match change {
            Change::Present(found) if known.is_none_or(|known| known < found.version) => {
                *seen = Seen::At(found.version);
                state.gone.remove(object);
                state.objects.insert(object.clone(), found.data);
            }
            Change::Absent(at) if at.is_none() || known.is_none() || known < at => {
                *seen = Seen::At(at.or(known).unwrap_or(0));
                state.gone.insert(object.clone());
            }
            Change::Failed(why) if known.is_none() => *seen = Seen::Failed(why),
            Change::Present(_) | Change::Absent(_) | Change::Failed(_) => return,
        }
        state.redraw(Touched::Object(object));
        drop(state);
        self.answered.notify_one();
    }

    /// Reads the objects that others watch already.
    async fn read(&self, joined: Vec<Joined>) {
        let (client, namespace) = (self.book.client(), self.namespace());
        let reads = joined.into_iter().map(async |joined| {
            let Joined::Reads((kind, name)) = joined else {
                return;
            };
            let found = fetch_one(client, &namespace, kind, &name).await;
            let object = (kind, name);
            let change = match found {
                Ok(Some(found)) => Change::Present(found),
                Ok(None) => Change::Absent(None),
                Err(error) => Change::Failed(describe(&error)),
            };
            self.book.reconsider(&namespace, &object, &change);
            self.take(&object, change);
        });
        join_all(reads).await;
    }

    fn namespace(&self) -> Arc<str> {
        self.state.lock().pod.key.namespace.clone()
    }

    /// Waits until every object has answered.
    async fn wait(&self) {
        let is_waiting = || {
            let state = self.state.lock();
            let mut seen = state.seen.values();
            seen.any(|seen| matches!(seen, Seen::Waiting))
        };
        while is_waiting() {
            self.answered.notified().await;
        }
    }

    /// Asks for tokens and notes what came of it.
    async fn ask(&self, plans: Vec<TokenPlan>, now: Moment) {
        if plans.is_empty() {
            return;
        }
        let pod = self.state.lock().pod.clone();
        let client = self.book.client();
        let asked = plans.into_iter().map(async |plan| {
            let token = token::request(client, &pod, &plan, now).await;
            (plan, token)
        });
        let answers = join_all(asked).await;
        let mut state = self.state.lock();
        for (plan, answer) in answers {
            match (answer, state.renewals.get_mut(&plan)) {
                (Ok(token), _) => {
                    state.tokens.insert(plan.clone(), Ok(token.text.clone()));
                    state.renewals.insert(plan, token);
                }
                (Err(error), Some(old)) => {
                    old.put_off(now);
                    tracing::warn!(pod = %pod.key, %error, "failed to renew a token");
                }
                (Err(error), None) => {
                    let why = match error {
                        kube::Error::Api(status) => status.message,
                        error => describe(&error),
                    };
                    state.tokens.insert(plan, Err(why));
                }
            }
        }
    }

    /// Renews the tokens whose time has come.
    pub(super) async fn renew(self: Arc<Self>, now: Moment) {
        let due = {
            let state = self.state.lock();
            let renewals = state.renewals.iter();
            let due = renewals.filter(|(_, token)| token.renew_at <= now.instant());
            due.map(|(plan, _)| plan.clone()).collect()
        };
        self.ask(due, now).await;
        self.state.lock().redraw(Touched::Tokens);
        self.schedule();
    }

    /// Enters the next renewal into the book.
    fn schedule(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let next = state.renewals.values().map(|token| token.renew_at).min();
        let before = std::mem::replace(&mut state.due, next);
        drop(state);
        self.book.wake_at(before, next, self);
    }

    fn draw_first(&self) -> Result<(), FilesError> {
        let mut state = self.state.lock();
        let mut shown = Vec::new();
        for (name, volume) in files_volumes(&state.pod) {
            let drawn = state.check(volume).and_then(|()| state.draw(volume));
            let (files, tree) = drawn.map_err(|source| FilesError {
                volume: name.to_owned(),
                source,
            })?;
            shown.push(Shown {
                name: name.to_owned(),
                tree: LiveTree::new(tree),
                files,
            });
        }
        state.volumes = shown;
        Ok(())
    }
}

impl State {
    /// Fails when a source could not be read at all.
    fn check(&self, volume: &FilesVolume) -> Result<(), SourceError> {
        for object in volume.objects() {
            if let Some(Seen::Failed(why)) = self.seen.get(&object.id()) {
                return Err(SourceError::Unread(why.clone()));
            }
        }
        Ok(())
    }

    fn payload(&self, volume: &FilesVolume) -> Result<Payload, LayoutError> {
        let sources = Sources {
            pod: &self.pod,
            amounts: self.amounts,
            objects: &self.objects,
            gone: &self.gone,
            tokens: &self.tokens,
        };
        layout::payload(volume, &sources)
    }

    fn draw(&self, volume: &FilesVolume) -> Result<(Payload, Tree), SourceError> {
        let files = self.payload(volume)?;
        let tree = layout::tree(&files, SystemTime::now())?;
        Ok((files, tree))
    }

    /// Draws the affected volumes again. What cannot be drawn now keeps its content.
    fn redraw(&mut self, touched: Touched<'_>) {
        for index in 0..self.volumes.len() {
            let name = self.volumes[index].name.as_str();
            let volume = files_volumes(&self.pod).find(|(known, _)| *known == name);
            let Some((_, volume)) = volume.filter(|(_, volume)| touched.affects(volume)) else {
                continue;
            };
            let changed = self.payload(volume).map_err(SourceError::from);
            let changed = changed.and_then(|files| {
                if files == self.volumes[index].files {
                    return Ok(None);
                }
                let tree = layout::tree(&files, SystemTime::now())?;
                Ok(Some((files, tree)))
            });
            match changed {
                Ok(None) => {}
                Ok(Some((files, tree))) => {
                    let shown = &mut self.volumes[index];
                    shown.files = files;
                    shown.tree.swap(tree);
                }
                Err(error) => {
                    let error = describe(&error);
                    tracing::warn!(pod = %self.pod.key, volume = name, error, "a volume keeps its content");
                }
            }
        }
    }
}

impl Touched<'_> {
    fn affects(self, volume: &FilesVolume) -> bool {
        volume.sources.iter().any(|source| match (self, source) {
            (Touched::Object(id), FilesSource::Object { object, .. }) => {
                object.kind == id.0 && object.name == id.1
            }
            (Touched::Facts, FilesSource::Downward(_))
            | (Touched::Tokens, FilesSource::Token { .. }) => true,
            (Touched::Object(_) | Touched::Facts | Touched::Tokens, _) => false,
        })
    }
}

impl Drop for PodFiles {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let objects = state.seen.keys();
        self.book
            .leave(self.id, &state.pod.key.namespace, objects, state.due);
    }
}

/// The volumes of a pod that are files in memory.
fn files_volumes(pod: &PodSpecPlan) -> impl Iterator<Item = (&str, &FilesVolume)> {
    pod.volumes
        .iter()
        .filter_map(|volume| match &volume.source {
            VolumeSource::Files(files) => Some((volume.name.as_str(), files)),
            VolumeSource::EmptyDir { .. }
            | VolumeSource::HostPath { .. }
            | VolumeSource::Claim { .. }
            | VolumeSource::Image { .. } => None,
        })
}

/// The objects and tokens that a pod's volumes are made from, each once.
fn wanted(pod: &PodSpecPlan) -> (Vec<(ObjectKind, String)>, Vec<TokenPlan>) {
    let mut objects = Vec::new();
    let mut tokens = Vec::new();
    for (_, volume) in files_volumes(pod) {
        for id in volume.objects().map(crate::spec::ObjectRef::id) {
            if !objects.contains(&id) {
                objects.push(id);
            }
        }
        for token in volume.tokens() {
            if !tokens.contains(token) {
                tokens.push(token.clone());
            }
        }
    }
    (objects, tokens)
}

/// A pod's files as the book knows them.
pub(super) type User = Weak<PodFiles>;
