//! Which objects are shown by which pods, and how each is followed: the state that pods and the keeper share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::AbortHandle;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::fetch::Mutability;
use super::files::{Change, FilesError, PodFiles, User};
use super::services::Services;

use crate::node::Amounts;
use crate::spec::{ObjectKind, PodSpecPlan};
use crate::time::{Clock, Moment};

/// Most objects that are watched at once. Each costs the agent about 2 KB and the API server a watch; a
/// pod whose object is beyond it shows what the object held when the pod was set up.
const WATCHES_MAX: usize = 16_384;

/// Gives pods their volumes in memory. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ObjectSource(pub(super) Arc<Book>);

/// What pods and the keeper share.
pub(super) struct Book {
    client: kube::Client,
    pub(super) clock: Clock,
    pub(super) services: Services,
    ids: AtomicU64,
    entries: Mutex<Entries>,
    /// Told when the keeper should look at the book again.
    pub(super) stirred: Notify,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<ObjectKey, Entry>,
    /// Objects whose watch has to begin.
    wanted: Vec<ObjectKey>,
    /// Whose tokens are renewed when.
    due: BTreeMap<(Instant, u64), User>,
}

/// An object in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectKey {
    pub(super) namespace: Arc<str>,
    /// Kind and name.
    pub(super) object: (ObjectKind, String),
}

struct Entry {
    users: Vec<(u64, User)>,
    stage: Stage,
}

/// How an object is followed.
enum Stage {
    /// Its watch has to begin. Left by the keeper.
    Wanted,
    /// It is watched. Left for `Read` when the object says that it never changes.
    Watched {
        abort: AbortHandle,
        /// Whether the watch has said once what there is.
        is_synced: bool,
        /// Whether the list under way has held the object.
        is_listed: bool,
    },
    /// It was read and never changes. Left for `Wanted` when someone reads another version.
    Read {
        /// The version that was read.
        version: u64,
    },
}

/// How a pod gets the first content of an object.
pub(super) enum Joined {
    /// The watch tells it.
    Waits,
    /// The pod reads it.
    Reads((ObjectKind, String)),
}

/// What a watch said, whatever the kind.
pub(super) enum News {
    ListBegins,
    Listed(Change),
    ListEnds,
    Changed(Change),
}

impl ObjectSource {
    /// Begins with nothing watched; [`super::run`] has to run for anything to be.
    pub(crate) fn new(client: kube::Client, clock: Clock) -> ObjectSource {
        ObjectSource(Arc::new(Book {
            client,
            clock,
            services: Services::default(),
            ids: AtomicU64::new(0),
            entries: Mutex::default(),
            stirred: Notify::new(),
        }))
    }

    /// Returns what variables may tell of Services.
    pub(crate) fn services(&self) -> &Services {
        &self.0.services
    }

    /// Makes a pod's volumes in memory, which follow their sources for as long as the result lives.
    ///
    /// # Errors
    ///
    /// Names the first volume that cannot be made: a required object or key is missing, an object cannot
    /// be read, a token is refused. Nothing is followed then.
    pub(crate) async fn follow(
        &self,
        pod: &Arc<PodSpecPlan>,
        amounts: Amounts,
        now: Moment,
    ) -> Result<Arc<PodFiles>, FilesError> {
        PodFiles::open(&self.0, pod, amounts, now).await
    }
}

impl Book {
    pub(super) fn client(&self) -> &kube::Client {
        &self.client
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a pod as a user of objects. From here on it is told of their changes.
    pub(super) fn join(
        &self,
        files: &Arc<PodFiles>,
        namespace: &Arc<str>,
        objects: Vec<(ObjectKind, String)>,
    ) -> Vec<Joined> {
        let mut entries = self.entries.lock();
        let joined = objects.into_iter().map(|object| {
            let key = ObjectKey {
                namespace: namespace.clone(),
                object: object.clone(),
            };
            let user = (files.id(), Arc::downgrade(files));
            match entries.enter(key, user) {
                Entered::Unsaid => Joined::Waits,
                Entered::Known => Joined::Reads(object),
                Entered::Full => {
                    tracing::warn!(
                        limit = WATCHES_MAX,
                        "an object is not followed: too many are"
                    );
                    Joined::Reads(object)
                }
            }
        });
        let joined = joined.collect();
        drop(entries);
        self.stirred.notify_one();
        joined
    }

    /// Takes a pod out; what nobody uses is watched no longer.
    pub(super) fn leave<'a>(
        &self,
        id: u64,
        namespace: &Arc<str>,
        objects: impl Iterator<Item = &'a (ObjectKind, String)>,
        due: Option<Instant>,
    ) {
        let mut entries = self.entries.lock();
        if let Some(due) = due {
            entries.due.remove(&(due, id));
        }
        for object in objects {
            let key = ObjectKey {
                namespace: namespace.clone(),
                object: object.clone(),
            };
            let Some(entry) = entries.by_key.get_mut(&key) else {
                continue;
            };
            entry.users.retain(|(user, _)| *user != id);
            if entry.users.is_empty() {
                if let Stage::Watched { abort, .. } = &entry.stage {
                    abort.abort();
                }
                entries.by_key.remove(&key);
            }
        }
    }

    /// An object that should never change has: it was made anew, so it is watched again.
    pub(super) fn reconsider(
        &self,
        namespace: &Arc<str>,
        object: &(ObjectKind, String),
        change: &Change,
    ) {
        let now = match change {
            Change::Present(found) => found.version,
            Change::Absent(_) | Change::Failed(_) => 0,
        };
        let key = ObjectKey {
            namespace: namespace.clone(),
            object: object.clone(),
        };
        let mut entries = self.entries.lock();
        let Some(entry) = entries.by_key.get_mut(&key) else {
            return;
        };
        if matches!(entry.stage, Stage::Read { version } if version != now) {
            entry.stage = Stage::Wanted;
            entries.wanted.push(key);
            drop(entries);
            self.stirred.notify_one();
        }
    }

    /// Moves a pod's place in the order of renewals.
    pub(super) fn wake_at(
        &self,
        before: Option<Instant>,
        next: Option<Instant>,
        files: &Arc<PodFiles>,
    ) {
        let mut entries = self.entries.lock();
        if let Some(before) = before {
            entries.due.remove(&(before, files.id()));
        }
        let Some(next) = next else { return };
        entries
            .due
            .insert((next, files.id()), Arc::downgrade(files));
        let is_first = entries.due.keys().next() == Some(&(next, files.id()));
        drop(entries);
        if is_first {
            self.stirred.notify_one();
        }
    }

    /// Returns the objects whose watch has to begin.
    pub(super) fn take_wanted(&self) -> Vec<ObjectKey> {
        let mut entries = self.entries.lock();
        let wanted = std::mem::take(&mut entries.wanted);
        let is_wanted = |key: &ObjectKey| {
            let entry = entries.by_key.get(key);
            entry.is_some_and(|entry| matches!(entry.stage, Stage::Wanted))
        };
        wanted.into_iter().filter(is_wanted).collect()
    }

    /// Notes that an object is watched.
    pub(super) fn watched(&self, key: &ObjectKey, abort: AbortHandle) {
        let mut entries = self.entries.lock();
        match entries.by_key.get_mut(key) {
            Some(entry) => {
                entry.stage = Stage::Watched {
                    abort,
                    is_synced: false,
                    is_listed: false,
                };
            }
            None => abort.abort(),
        }
    }

    /// Takes what a watch said; returns who is to be told what.
    pub(super) fn hear(&self, key: &ObjectKey, news: News) -> Option<(Vec<User>, Change)> {
        let mut entries = self.entries.lock();
        let entry = entries.by_key.get_mut(key)?;
        let Stage::Watched {
            abort,
            is_synced,
            is_listed,
        } = &mut entry.stage
        else {
            return None;
        };
        let change = match news {
            News::ListBegins => {
                *is_listed = false;
                return None;
            }
            News::Listed(change) => {
                *is_listed = true;
                change
            }
            News::ListEnds => {
                *is_synced = true;
                if *is_listed {
                    return None;
                }
                Change::Absent(None)
            }
            News::Changed(change) => change,
        };
        if let Change::Present(found) = &change {
            *is_synced = true;
            if found.mutability == Mutability::Immutable {
                abort.abort();
                entry.stage = Stage::Read {
                    version: found.version,
                };
            }
        }
        let users = entry.users.iter().map(|(_, user)| user.clone());
        Some((users.collect(), change))
    }

    /// When the first tokens have to be renewed.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.lock().due.keys().next().map(|(at, _)| *at)
    }

    /// Takes out one pod whose tokens have to be renewed by now.
    pub(super) fn take_due(&self, now: Instant) -> Option<Arc<PodFiles>> {
        let mut entries = self.entries.lock();
        loop {
            let first = entries.due.first_entry()?;
            if first.key().0 > now {
                return None;
            }
            if let Some(files) = first.remove().upgrade() {
                return Some(files);
            }
        }
    }

    /// How many objects are followed.
    #[cfg(test)]
    pub(super) fn followed(&self) -> usize {
        self.entries.lock().by_key.len()
    }
}

/// What was found when a pod was entered.
enum Entered {
    /// Nobody knows yet what there is.
    Unsaid,
    /// Others know it.
    Known,
    /// It is not followed.
    Full,
}

impl Entries {
    fn enter(&mut self, key: ObjectKey, user: (u64, User)) -> Entered {
        if let Some(entry) = self.by_key.get_mut(&key) {
            entry.users.push(user);
            return match entry.stage {
                Stage::Wanted
                | Stage::Watched {
                    is_synced: false, ..
                } => Entered::Unsaid,
                Stage::Watched {
                    is_synced: true, ..
                }
                | Stage::Read { .. } => Entered::Known,
            };
        }
        if self.by_key.len() >= WATCHES_MAX {
            return Entered::Full;
        }
        self.wanted.push(key.clone());
        let entry = Entry {
            users: vec![user],
            stage: Stage::Wanted,
        };
        self.by_key.insert(key, entry);
        Entered::Unsaid
    }
}
