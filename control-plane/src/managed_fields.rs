//! Who owns which fields: kept up to date by every write, and decided on by server-side apply.
//!
//! A write that changes fields takes them over from whoever owned them. An apply owns exactly the
//! fields of its configuration; what it no longer mentions goes, unless someone else owns it too.
//! The walks are pure functions over JSON and the schema: `diff` compares, `merge` merges and
//! removes, `set` is what they say about fields, and `entries` is how that rests in an object.

mod check;
mod diff;
mod entries;
mod last_applied;
mod merge;
mod path;
mod reset;
mod rest;
mod set;
mod shape;
mod typing;

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    kinds::{KindInfo, Subresource},
    schema::{TypeId, schema},
};
use diff::{Diff, diff, fields};
use entries::{Entries, Entry, Operation, Owner, Source};
use rest::Fields;
use set::FieldSet;
use typing::{Typing, blank};

pub(crate) use path::Scalar;
pub(crate) use reset::kept;
pub(crate) use shape::Shapes;

/// A manager's name may be this long.
pub(crate) const MANAGER_BYTES_MAX: usize = 128;

/// Who owns what nobody was told to own when the first apply came.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What objects keep their owners in, inside `metadata`.
const MANAGED_FIELDS: &str = "managedFields";

/// Someone who writes to objects of a kind, now.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: Cow<'a, str>,
    pub(crate) info: &'static KindInfo,
    pub(crate) subresource: Option<Subresource>,
    pub(crate) now: Timestamp,
    /// What is known of new objects; without it each is compared with nothing.
    pub(crate) shapes: Option<&'a Shapes>,
}

/// What happens to fields that an apply sets and someone else owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contested {
    /// The apply is refused.
    Refused,
    /// The apply takes them.
    Taken,
}

/// Why a configuration is not applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The configuration says who owns its fields.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// The configuration is not of the kind's type.
    #[error("failed to create typed patch object ({object}): {reasons}")]
    Type { object: String, reasons: String },
    /// The object's own list cannot be read.
    #[error("failed to decode managed fields: {0}")]
    Entries(String),
    /// Others own some of the fields.
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
}

/// A field that someone else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The owner, as messages name it.
    pub(crate) owner: String,
    pub(crate) path: String,
}

/// Returns who writes, if the request does not say it: what its `User-Agent` has before a slash.
pub(crate) fn manager_of_agent(agent: &str) -> String {
    let name = agent.split('/').next().unwrap_or_default();
    let mut manager: String = name.chars().filter(|letter| !letter.is_control()).collect();
    manager.truncate(manager.floor_char_boundary(MANAGER_BYTES_MAX));
    manager
}

/// Takes back changes of times in `new` if nothing else differs from `old`.
pub(crate) fn ignore_times(old: &Value, new: &mut Value) {
    let (before, after) = (entries_of(old), entries_of(new));
    if before == after || !entries::same_but_for_times(before, after) {
        return;
    }
    let before = before.clone();
    let after = set_entries(new, Some(before));
    if new != old {
        set_entries(new, after);
    }
}

impl Writer<'_> {
    /// Brings the owners in `new` up to date after a write that is no apply.
    ///
    /// `new` holds the list that the client sent; `old` is absent for a new object.
    pub(crate) fn record(&self, old: Option<&Value>, new: &mut Value) {
        let sent = set_entries(new, None).unwrap_or(Value::Null);
        let mut entries = self.known_entries(old, &sent);
        match (old, self.shapes) {
            (None, Some(shapes)) if entries.is_empty() => entries = self.begin(shapes, new),
            (None, _) => self.compare_with_nothing(&mut entries, new),
            // What was never tracked, or is not to be tracked any more, begins with an apply.
            (Some(_), _) if entries.is_empty() => (),
            (Some(old), _) => {
                self.update(&mut entries, &self.manager, old, new);
                entries.cap();
            }
        }
        set_entries(new, entries.encode());
    }

    /// Gives the fields of a new object to its creator, as those of another one of its shape.
    fn begin(&self, shapes: &Shapes, new: &Value) -> Entries {
        let kind = (self.info.schema, Typing::root(self.schema()));
        let text = shapes.fields(kind, new, || {
            let mut entries = Entries::default();
            self.compare_with_nothing(&mut entries, new);
            let fields = entries.take(&self.owner(&self.manager, Operation::Update));
            fields.map_or_else(String::new, |entry| entry.fields.into_text())
        });
        let mut entries = Entries::default();
        if !text.is_empty() {
            entries.put(Entry {
                owner: self.owner(&self.manager, Operation::Update),
                api_version: self.info.api_version(),
                time: Some(self.now),
                fields: Fields::Text((&*text).into()),
            });
        }
        entries
    }

    /// Gives the fields of a new object to its creator, beside those that others are said to own.
    fn compare_with_nothing(&self, entries: &mut Entries, new: &Value) {
        let mut blank = blank(self.schema());
        (self.info.blank)(&mut blank);
        self.update(entries, &self.manager, &blank, new);
        entries.cap();
    }

    /// Returns the entries to begin with: those sent, or the object's own if none make sense.
    fn known_entries(&self, old: Option<&Value>, sent: &Value) -> Entries {
        let own = || {
            let own = old.map(|old| Entries::decode(entries_of(old), Source::Stored));
            own.and_then(Result::ok).unwrap_or_default()
        };
        // Parts of objects do not carry their owners.
        if self.subresource.is_some() {
            return own();
        }
        if entries::is_reset(sent) {
            return Entries::default();
        }
        // A patch leaves the object's own in place, the fields as text: no client sent that.
        if old.is_some_and(|old| entries_of(old) == sent) {
            return own();
        }
        match Entries::decode(sent, Source::Sent) {
            Ok(sent) if !sent.is_empty() => sent,
            _ => own(),
        }
    }

    /// Gives the fields in which `new` differs from `old` to a manager.
    fn update(&self, entries: &mut Entries, manager: &str, old: &Value, new: &Value) {
        let mut diff = self.diff(old, new);
        if diff.is_empty() {
            return;
        }
        let version = self.info.api_version();
        let mut changed = diff.modified;
        changed.unite(std::mem::take(&mut diff.added));
        for entry in entries.iter_mut() {
            entry.fields.subtract(&changed);
            entry.fields.subtract(&diff.removed);
        }
        changed.subtract(reset::never_owned());
        if !changed.is_empty() {
            let owner = self.owner(manager, Operation::Update);
            if let Some(before) = entries.take(&owner) {
                changed.unite(before.fields.into_set());
            }
            entries.put(Entry {
                owner,
                api_version: version.clone(),
                time: Some(self.now),
                fields: Fields::Set(changed),
            });
        }
        entries.prune(&version);
    }

    /// Returns what an apply of `config` makes of an object, with its owners.
    ///
    /// Fields that the manager applied before and `config` no longer has are removed, unless
    /// someone else owns them. The object begins as nothing if `old` is absent.
    pub(crate) fn apply(
        &self,
        old: Option<&Value>,
        config: &Value,
        contested: Contested,
    ) -> Result<Value, ApplyError> {
        if !entries_of(config).is_null() {
            return Err(ApplyError::ManagedFields);
        }
        check::check(self.schema(), config).map_err(|reasons| ApplyError::Type {
            object: self.describe(config),
            reasons,
        })?;
        let outcome = self.apply_checked(old, config, contested);
        let mut object = match outcome {
            Err(ApplyError::Conflicts(conflicts)) if self.manager == last_applied::MANAGER => {
                let allowed = old.and_then(|old| last_applied::owned(self.info, old));
                let allowed = allowed.unwrap_or_default().paths();
                let real = |conflict: &Conflict| !allowed.contains(&conflict.path);
                let real: Vec<_> = conflicts.into_iter().filter(real).collect();
                if !real.is_empty() {
                    return Err(ApplyError::Conflicts(real));
                }
                self.apply_checked(old, config, Contested::Taken)?
            }
            other => other?,
        };
        if self.manager == last_applied::MANAGER {
            last_applied::refresh(&mut object, config);
        }
        Ok(object)
    }

    fn apply_checked(
        &self,
        old: Option<&Value>,
        config: &Value,
        contested: Contested,
    ) -> Result<Value, ApplyError> {
        let id = self.schema();
        let mut live = old.cloned().unwrap_or_else(|| Value::Object(Map::new()));
        let own = set_entries(&mut live, None).unwrap_or(Value::Null);
        let mut entries = Entries::decode(&own, Source::Stored)
            .and_then(|mut entries| entries.open().map(|()| entries))
            .map_err(|error| ApplyError::Entries(error.to_string()))?;
        if entries.is_empty() && old.is_some() {
            self.update(&mut entries, BEFORE_FIRST_APPLY, &blank(id), &live);
        }
        let owner = self.owner(&self.manager, Operation::Apply);
        let before = entries.take(&owner);
        let last = before.as_ref().map(|entry| entry.fields.set());
        let mut applied = fields(id, config);
        applied.subtract_trees(&self.kept());

        let merged = merge::merge(id, &live, config);
        let mut object = match last.as_deref() {
            Some(last) if !last.is_empty() => self.prune(merged, last, &applied, &entries),
            _ => merged,
        };
        let diff = self.diff(&live, &object);
        let mut changed = diff.modified;
        changed.unite(diff.added);
        let conflicts = conflicts(&entries, &changed);
        if contested == Contested::Refused && !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        for entry in entries.iter_mut() {
            entry.fields.subtract(&changed);
            entry.fields.subtract(&diff.removed);
        }
        applied.subtract(reset::never_owned());
        let unchanged = before.as_ref().and_then(|entry| entry.time);
        entries.put(Entry {
            owner,
            api_version: self.info.api_version(),
            time: if object == live {
                unchanged
            } else {
                Some(self.now)
            },
            fields: Fields::Set(applied),
        });
        entries.prune(&self.info.api_version());
        set_entries(&mut object, entries.encode());
        Ok(object)
    }

    /// Removes what the manager applied before, does not apply now, and nobody else owns.
    fn prune(&self, merged: Value, last: &FieldSet, applied: &FieldSet, others: &Entries) -> Value {
        let id = self.schema();
        let named = |set: &FieldSet| {
            set.with_named(Typing::root(id), &|typing: Typing, element| {
                (typing.names(element), typing.below(element))
            })
        };
        let last = named(last);
        let pruned = fields(id, &merge::remove(id, &merged, &last));
        let all = fields(id, &merged);

        let mut owned = applied.clone();
        let version = self.info.api_version();
        for entry in others.iter().filter(|entry| entry.api_version == version) {
            owned.unite(entry.fields.clone().into_set());
        }
        // Whatever went although someone owns it, or with something that went, comes back.
        let mut doomed = named(&all);
        doomed.subtract(&named(&pruned));
        doomed.subtract(&named(&owned));
        let pruned = fields(id, &merge::remove(id, &merged, &doomed));

        // What was never applied by this manager has no reason to go.
        let mut doomed = named(&all);
        doomed.subtract(&named(&pruned));
        let doomed = doomed.intersection(&last);
        match merge::remove(id, &merged, &doomed) {
            Value::Null => Value::Object(Map::new()),
            object => object,
        }
    }

    fn diff(&self, old: &Value, new: &Value) -> Diff {
        let mut diff = diff(self.schema(), old, new);
        diff.ignore_paths(kept(self.info, self.subresource));
        diff.ignore_paths(&[&["metadata", MANAGED_FIELDS]]);
        diff
    }

    /// Returns what this writer cannot change.
    fn kept(&self) -> FieldSet {
        let mut kept = FieldSet::of(kept(self.info, self.subresource));
        kept.unite(FieldSet::of(&[&["metadata", MANAGED_FIELDS]]));
        kept
    }

    fn owner(&self, manager: &str, operation: Operation) -> Owner {
        let manager = if manager.is_empty() {
            "unknown"
        } else {
            manager
        };
        let subresource = self.subresource.map_or("", Subresource::as_str);
        Owner::new(manager, operation, &self.info.api_version(), subresource)
    }

    fn schema(&self) -> TypeId {
        schema().type_id(self.info.schema)
    }

    /// Names a configuration as messages do: `namespace/name; group/version, Kind=kind`.
    fn describe(&self, config: &Value) -> String {
        let metadata = |field: &str| {
            let text = config
                .get("metadata")
                .and_then(|metadata| metadata.get(field));
            text.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let (namespace, name) = (metadata("namespace"), metadata("name"));
        format!("{namespace}/{name}; {}", self.info.go_name())
    }
}

fn conflicts(entries: &Entries, changed: &FieldSet) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut owners: Vec<_> = entries.iter().collect();
    owners.sort_by(|a, b| a.owner.cmp(&b.owner));
    for entry in owners {
        let owner = entry.owner.to_string();
        let paths = entry.fields.set().intersection(changed).paths();
        conflicts.extend(paths.into_iter().map(|path| Conflict {
            owner: owner.clone(),
            path,
        }));
    }
    conflicts
}

/// Words all conflicts together.
fn message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.owner, only.path
        );
    }
    let mut lines = Vec::new();
    let mut owner = "";
    for conflict in conflicts {
        if conflict.owner != owner {
            owner = &conflict.owner;
            lines.push(format!("conflicts with {owner}:"));
        }
        lines.push(format!("- {}", conflict.path));
    }
    let count = conflicts.len();
    format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
}

/// Returns an object's list of owners; null if it has none.
fn entries_of(object: &Value) -> &Value {
    let metadata = object.get("metadata");
    let entries = metadata.and_then(|metadata| metadata.get(MANAGED_FIELDS));
    entries.unwrap_or(&Value::Null)
}

/// Replaces an object's list of owners and returns the old one.
fn set_entries(object: &mut Value, entries: Option<Value>) -> Option<Value> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut)?;
    match entries {
        Some(entries) => metadata.insert(MANAGED_FIELDS.to_owned(), entries),
        None => metadata.remove(MANAGED_FIELDS),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{kinds::served, schema::normalise};

    fn writer(manager: &str) -> Writer<'_> {
        Writer {
            manager: manager.into(),
            info: served("v1", "Pod").expect("pods are served"),
            subresource: None,
            now: Timestamp::UNIX_EPOCH,
            shapes: None,
        }
    }

    /// Applies by force and stores the outcome; an object that is not there begins as nothing.
    fn applied(manager: &str, old: Option<&Value>, config: &Value) -> Value {
        let applied = writer(manager).apply(old, config, Contested::Taken);
        let mut object = applied.expect("the configuration is well-formed");
        normalise(writer(manager).schema(), &mut object).expect("so is the outcome");
        object
    }

    /// Returns an object without its owners.
    fn plain(object: &Value) -> Value {
        let mut object = object.clone();
        set_entries(&mut object, None);
        object
    }

    fn pod(labels: Value, spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": labels}, "spec": spec})
    }

    #[test]
    fn agents_are_managers_by_what_stands_before_the_slash() {
        for (agent, manager) in [
            ("kubectl/v1.36.0 (linux/amd64) kubernetes/x", "kubectl"),
            ("curl", "curl"),
            ("", ""),
            ("a\u{7}b/1", "ab"),
        ] {
            assert_eq!(manager_of_agent(agent), manager);
        }
        assert_eq!(manager_of_agent(&"ä".repeat(100)).len(), MANAGER_BYTES_MAX);
    }

    #[test]
    fn lists_keep_their_order_and_take_that_of_the_configuration() {
        let check = |live: &[&str], config: &[&str], expected: &[&str]| {
            let list = |values: &[&str]| {
                json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": "p", "finalizers": values}})
            };
            let id = writer("").schema();
            let merged = merge::merge(id, &list(live), &list(config));
            assert_eq!(
                merged["metadata"]["finalizers"],
                json!(expected),
                "{live:?} {config:?}"
            );
        };
        check(&["a", "b", "c"], &["b"], &["a", "b", "c"]);
        check(&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]);
        check(&["a", "b"], &["x", "b"], &["a", "x", "b"]);
        check(&["b", "x", "a"], &["n", "a", "b"], &["x", "n", "a", "b"]);
        check(&[], &["b", "a"], &["b", "a"]);
        check(&["b", "a"], &[], &["b", "a"]);
    }

    #[test]
    fn an_atomic_list_is_taken_as_a_whole() {
        let of = |key: &str| pod(json!({"l": "x"}), json!({"tolerations": [{"key": key}]}));
        let both = applied("b", Some(&applied("a", None, &of("a"))), &of("b"));
        assert_eq!(both["spec"]["tolerations"], json!([{"key": "b"}]));
        let refused = writer("a").apply(Some(&both), &of("a"), Contested::Refused);
        let Err(ApplyError::Conflicts(conflicts)) = refused else {
            panic!("the other one owns it");
        };
        assert_eq!(conflicts[0].path, ".spec.tolerations");
    }

    /// Configurations without empty parts, which nobody can own beside others.
    fn config() -> impl Strategy<Value = Value> {
        let word = || prop::sample::select(vec!["a", "b", "c"]);
        let map = || prop::collection::btree_map(word(), word(), 1..3);
        let port = (80..83, prop::sample::select(vec!["TCP", "UDP"]), word());
        let port = port.prop_map(|(number, protocol, name)| {
            json!({"containerPort": number, "protocol": protocol, "name": name})
        });
        let key = |port: &Value| {
            (
                port["containerPort"].to_string(),
                port["protocol"].to_string(),
            )
        };
        let ports = prop::collection::vec(port, 1..3).prop_map(move |mut ports| {
            ports.sort_by_key(key);
            ports.dedup_by_key(|port| key(port));
            ports
        });
        let parts = (word(), prop::option::of(ports), prop::option::of(word()));
        let container = parts.prop_map(|(image, ports, argument)| {
            let mut container = json!({"image": image});
            if let Some(ports) = ports {
                container["ports"] = json!(ports);
            }
            if let Some(argument) = argument {
                container["args"] = json!([argument]);
            }
            container
        });
        let containers = prop::collection::btree_map(word(), container, 1..4);
        let finalizers = prop::collection::btree_set(word(), 1..3);
        let parts = (map(), containers, prop::option::of(map()), finalizers);
        parts.prop_map(|(labels, containers, selector, finalizers)| {
            let named = containers.into_iter().map(|(name, mut container)| {
                container["name"] = json!(name);
                container
            });
            let mut spec = json!({"containers": named.collect::<Vec<_>>()});
            if let Some(selector) = selector {
                spec["nodeSelector"] = json!(selector);
            }
            let mut pod = pod(json!(labels), spec);
            pod["metadata"]["finalizers"] = json!(finalizers);
            pod
        })
    }

    fn bare() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn applying_twice_changes_nothing(a in config(), b in config()) {
            let once = applied("b", Some(&applied("a", None, &a)), &b);
            prop_assert_eq!(&applied("b", Some(&once), &b), &once);
        }

        #[test]
        fn applied_in_turn_both_configurations_hold(a in config(), b in config()) {
            let first = applied("a", None, &a);
            let object = applied("a", Some(&applied("b", Some(&first), &b)), &a);
            let id = writer("").schema();
            let mut union = fields(id, &a);
            union.unite(fields(id, &b));
            // Ports get a protocol, containers a policy and so on, which nobody applied.
            let mut missing = union.clone();
            missing.subtract(&fields(id, &object));
            prop_assert!(missing.is_empty(), "{:?}", missing.paths());
            let mut mine = a.clone();
            normalise(id, &mut mine).expect("well-formed");
            let mut lost = diff(id, &mine, &object);
            // What the other one added is new; nothing of this one is changed or gone.
            lost.added = FieldSet::default();
            prop_assert!(lost.is_empty(), "{lost:?}");
        }

        #[test]
        fn who_takes_everything_back_leaves_what_others_applied(a in config(), b in config()) {
            let object = applied("b", Some(&applied("a", None, &a)), &b);
            let left = applied("a", Some(&object), &bare());
            prop_assert_eq!(plain(&left), plain(&applied("b", None, &b)));
            let nothing = applied("b", Some(&left), &bare());
            prop_assert_eq!(plain(&nothing), plain(&applied("b", None, &bare())));
        }

        #[test]
        fn merging_invents_nothing(a in config(), b in config()) {
            let id = writer("").schema();
            let mut invented = fields(id, &merge::merge(id, &a, &b));
            invented.subtract(&fields(id, &a));
            invented.subtract(&fields(id, &b));
            prop_assert!(invented.is_empty(), "{:?}", invented.paths());
        }

        #[test]
        fn a_difference_has_each_field_once(a in config(), b in config()) {
            let id = writer("").schema();
            let diff = diff(id, &a, &b);
            prop_assert!(diff.added.intersection(&diff.modified).is_empty());
            prop_assert!(diff.added.intersection(&diff.removed).is_empty());
            prop_assert!(diff.modified.intersection(&diff.removed).is_empty());
            prop_assert_eq!(diff.is_empty(), a == b);
            prop_assert!(super::diff(id, &a, &a).is_empty());
        }

        /// Whatever was created before it, an object's creator owns what he would without that.
        #[test]
        fn objects_of_one_shape_have_owners_of_the_same_fields(a in config(), b in config()) {
            let shapes = Shapes::default();
            let remembering = Writer { shapes: Some(&shapes), ..writer("u") };
            let mut c = b.clone();
            c["metadata"]["name"] = json!("another");
            for object in [a, b, c] {
                let (mut found, mut expected) = (object.clone(), object);
                remembering.record(None, &mut found);
                writer("u").record(None, &mut expected);
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn nobody_owns_what_is_not_there(a in config(), b in config(), c in config()) {
            let mut object = applied("a", None, &a);
            let mut changed = b;
            set_entries(&mut changed, Some(entries_of(&object).clone()));
            writer("u").record(Some(&object), &mut changed);
            object = applied("c", Some(&changed), &c);
            let id = writer("").schema();
            let there = {
                let mut there = diff(id, &Value::Null, &object).added;
                there.unite(fields(id, &object));
                there
            };
            let entries = Entries::decode(entries_of(&object), Source::Stored);
            for entry in entries.expect("well-formed").iter() {
                let mut absent = entry.fields.set().into_owned();
                absent.subtract(&there);
                prop_assert!(absent.is_empty(), "{}: {:?}", entry.owner, absent.paths());
            }
        }
    }
}
