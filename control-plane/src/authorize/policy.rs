//! Roles and bindings, kept in a form that answers quickly.
//!
//! A [`Policy`] reads the store's roles and bindings once and then follows their changes. It is
//! brought up to date when it is asked, so a binding counts from the moment it is acknowledged, and
//! nothing is parsed for a request that finds nothing new.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use coracle_store::{Change, Range, Watcher};
use serde_json::Value;

use super::rule::Rule;
use crate::{
    caller::Caller,
    kinds::{self, KindInfo},
    object::{self, ObjectIndex, ObjectRecord, ObjectStore},
};

const VERSION: &str = "rbac.authorization.k8s.io/v1";

/// What service accounts are called as users.
pub(crate) const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// A role; without a namespace, a cluster role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RoleName {
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
}

/// Who a binding gives a role to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    User(Box<str>),
    Group(Box<str>),
    /// By the name as a user.
    Account(Box<str>),
}

/// A rule that a caller holds, or a role that is missing.
pub(super) enum Held<'a> {
    Rule(&'a Rule, Grant<'a>),
    Missing(&'a RoleName),
}

/// By which binding a rule is held.
#[derive(Clone, Copy)]
pub(super) struct Grant<'a> {
    namespace: &'a str,
    binding: &'a str,
    role: &'a RoleName,
    holder: &'a Holder,
}

/// The bindings of one holder: by namespace (empty for the whole cluster) and name.
type Bindings = HashMap<Box<str>, BTreeMap<Box<str>, RoleName>>;

/// Everything that roles and bindings say.
pub(super) struct Policy {
    store: ObjectStore,
    /// Absent where the history was too short and everything must be read again.
    watchers: Vec<Watcher<ObjectIndex>>,
    roles: HashMap<RoleName, Arc<[Rule]>>,
    grants: HashMap<Holder, Bindings>,
    /// Who is in a binding, by namespace and name, to take it back.
    holders: HashMap<RoleName, Vec<Holder>>,
}

/// The kinds that are followed, roles first.
fn kinds() -> impl Iterator<Item = &'static KindInfo> {
    ["ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"]
        .into_iter()
        .map(|kind| kinds::served(VERSION, kind).expect("kinds of rules are in the table"))
}

impl Policy {
    pub(super) fn new(store: ObjectStore) -> Policy {
        Policy {
            store,
            watchers: Vec::new(),
            roles: HashMap::new(),
            grants: HashMap::new(),
            holders: HashMap::new(),
        }
    }

    /// Takes in what has changed since.
    pub(super) fn refresh(&mut self) {
        if self.watchers.is_empty() || !self.follow() {
            self.read_all();
        }
    }

    /// Applies new events; says whether none is missing.
    fn follow(&mut self) -> bool {
        let mut watchers = std::mem::take(&mut self.watchers);
        let mut cx = Context::from_waker(Waker::noop());
        let mut batch = Vec::new();
        let mut whole = true;
        for watcher in &mut watchers {
            loop {
                match watcher.poll_batch(&mut cx, &mut batch) {
                    Poll::Ready(Ok(())) => {
                        for event in batch.drain(..) {
                            self.apply(event.change, &event.record);
                        }
                    }
                    Poll::Ready(Err(_)) => {
                        whole = false;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        self.watchers = watchers;
        whole
    }

    fn read_all(&mut self) {
        *self = Policy::new(self.store.clone());
        for info in kinds() {
            let prefix = object::prefix(info, None);
            let range = Range {
                prefix: &prefix,
                after: None,
                limit: None,
                at: None,
            };
            let page = self.store.range(&range, |_| true);
            let page = page.expect("the newest revision can always be read");
            for record in &page.records {
                self.apply(Change::Created, record);
            }
            match self.store.watch(&prefix, page.revision) {
                Ok(watcher) => self.watchers.push(watcher),
                // Thousands of writes came in between; the next request reads again.
                Err(_) => return self.watchers.clear(),
            }
        }
    }

    fn apply(&mut self, change: Change, record: &ObjectRecord) {
        let Ok(value) = serde_json::from_slice::<Value>(&record.value) else {
            return;
        };
        let (namespace, name) = object::namespace_and_name(&record.key);
        let key = RoleName {
            namespace: namespace.into(),
            name: name.into(),
        };
        let gone = change == Change::Deleted;
        match value["kind"].as_str() {
            Some("Role" | "ClusterRole") if gone => drop(self.roles.remove(&key)),
            Some("Role" | "ClusterRole") => {
                self.roles.insert(key, Rule::of_role(&value).into());
            }
            _ => {
                self.take_back(&key);
                if !gone {
                    self.bind(key, &value);
                }
            }
        }
    }

    fn take_back(&mut self, binding: &RoleName) {
        for holder in self.holders.remove(binding).into_iter().flatten() {
            let Some(bindings) = self.grants.get_mut(&holder) else {
                continue;
            };
            if let Some(here) = bindings.get_mut(&binding.namespace) {
                here.remove(&binding.name);
                if here.is_empty() {
                    bindings.remove(&binding.namespace);
                }
            }
            if bindings.is_empty() {
                self.grants.remove(&holder);
            }
        }
    }

    fn bind(&mut self, binding: RoleName, value: &Value) {
        let namespace = match value["roleRef"]["kind"].as_str() {
            Some("Role") => binding.namespace.clone(),
            _ => Box::default(),
        };
        let role = RoleName {
            namespace,
            name: value["roleRef"]["name"].as_str().unwrap_or_default().into(),
        };
        let subjects = value["subjects"].as_array();
        let holders: Vec<_> = subjects
            .into_iter()
            .flatten()
            .filter_map(|subject| holder(subject, &binding.namespace))
            .collect();
        for holder in &holders {
            let bindings = self.grants.entry(holder.clone()).or_default();
            let here = bindings.entry(binding.namespace.clone()).or_default();
            here.insert(binding.name.clone(), role.clone());
        }
        self.holders.insert(binding, holders);
    }

    /// Returns the rules of a role.
    pub(super) fn role(&self, name: &RoleName) -> Option<&Arc<[Rule]>> {
        self.roles.get(name)
    }

    /// Shows the rules that a caller holds in the cluster and in a namespace, until `visit` has
    /// seen enough and returns false.
    pub(super) fn visit<'a>(
        &'a self,
        caller: &Caller,
        namespace: &str,
        mut visit: impl FnMut(Held<'a>) -> bool,
    ) {
        let holders = holders_of(caller);
        let held: Vec<_> = holders
            .iter()
            .filter_map(|holder| self.grants.get_key_value(holder))
            .collect();
        let places = [""].into_iter().chain(Some(namespace));
        let places = places.take(if namespace.is_empty() { 1 } else { 2 });
        for place in places {
            for (holder, bindings) in &held {
                let Some((namespace, bindings)) = bindings.get_key_value(place) else {
                    continue;
                };
                for (binding, role) in bindings {
                    let grant = Grant {
                        namespace,
                        binding,
                        role,
                        holder,
                    };
                    let go_on = match self.roles.get(role) {
                        None => visit(Held::Missing(role)),
                        Some(rules) => rules.iter().all(|rule| visit(Held::Rule(rule, grant))),
                    };
                    if !go_on {
                        return;
                    }
                }
            }
        }
    }
}

fn holder(subject: &Value, binding_namespace: &str) -> Option<Holder> {
    let text = |field: &str| subject[field].as_str().unwrap_or_default();
    let name = text("name");
    match text("kind") {
        "User" => Some(Holder::User(name.into())),
        "Group" => Some(Holder::Group(name.into())),
        "ServiceAccount" => {
            let namespace = match text("namespace") {
                "" => binding_namespace,
                namespace => namespace,
            };
            let user = format!("{ACCOUNT_PREFIX}{namespace}:{name}");
            (!namespace.is_empty()).then(|| Holder::Account(user.into()))
        }
        _ => None,
    }
}

fn holders_of(caller: &Caller) -> Vec<Holder> {
    let name = caller.name.as_str();
    let account = name.starts_with(ACCOUNT_PREFIX);
    let user = [Holder::User(name.into())].into_iter();
    let account = account.then(|| Holder::Account(name.into()));
    let groups = caller.groups.iter();
    user.chain(account)
        .chain(groups.map(|group| Holder::Group(group.as_str().into())))
        .collect()
}

impl fmt::Display for RoleName {
    /// Words the role's absence, as the stock server's authorizer does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &*self.namespace {
            "" => "clusterrole",
            _ => "role",
        };
        let name = &self.name;
        write!(f, "{kind}.rbac.authorization.k8s.io {name:?} not found")
    }
}

impl fmt::Display for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, binding) = (self.namespace, self.binding);
        match namespace {
            "" => write!(f, "ClusterRoleBinding {binding:?}")?,
            namespace => write!(f, "RoleBinding {:?}", format!("{binding}/{namespace}"))?,
        }
        let kind = match &*self.role.namespace {
            "" => "ClusterRole",
            _ => "Role",
        };
        write!(f, " of {kind} {:?} to ", self.role.name)?;
        match self.holder {
            Holder::User(name) => write!(f, "User {name:?}"),
            Holder::Group(name) => write!(f, "Group {name:?}"),
            Holder::Account(user) => {
                let account = user.strip_prefix(ACCOUNT_PREFIX).unwrap_or(user);
                let (namespace, name) = account.split_once(':').unwrap_or_default();
                write!(f, "ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").finish_non_exhaustive()
    }
}
