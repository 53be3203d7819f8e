//! Which fields an object has, and in which two objects differ.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{path::PathElement, set::FieldSet, typing::Typing};
use crate::schema::TypeId;

/// The fields in which an object differs from an earlier one. No field is in two of the sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Diff {
    pub(crate) added: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) removed: FieldSet,
}

/// What happened to one place itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Added,
    Modified,
    Removed,
}

/// Compares two objects of a type.
pub(crate) fn diff(id: TypeId, old: &Value, new: &Value) -> Diff {
    let mut diff = Diff::default();
    diff.compare(Typing::root(id), Some(old), Some(new));
    diff
}

/// Returns every field that an object mentions, as someone who applies it comes to own them.
pub(crate) fn fields(id: TypeId, object: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    mention(Typing::root(id), object, &mut set);
    set
}

impl Diff {
    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Drops plain fields, and all that is below them, from the comparison.
    pub(crate) fn ignore_paths(&mut self, paths: &[&[&'static str]]) {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            paths.iter().for_each(|path| set.subtract_tree(path));
        }
    }

    /// Notes the changes below a place and returns what happened to the place itself.
    fn compare(&mut self, typing: Typing, old: Option<&Value>, new: Option<&Value>) -> Change {
        let own = match (old, new) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (Some(old), Some(new)) if old == new => return Change::None,
            _ => Change::None,
        };
        let leaf = match typing {
            Typing::Leaf => true,
            // Two that are both empty are told apart like scalars: absent, null, `{}`.
            Typing::Struct(_) | Typing::Map(_) | Typing::Set | Typing::Keyed(..) => {
                is_blank(old) && is_blank(new)
            }
        };
        if leaf {
            let both = old.is_some() && new.is_some();
            return if both { Change::Modified } else { own };
        }
        // Whole subtrees come and go most often: nothing has to be compared for them.
        match (old, new) {
            (None, Some(new)) => self.added = everything(typing, new),
            (Some(old), None) => self.removed = everything(typing, old),
            _ => self.compare_below(typing, old, new),
        }
        own
    }

    fn compare_below(&mut self, typing: Typing, old: Option<&Value>, new: Option<&Value>) {
        match typing {
            Typing::Struct(_) | Typing::Map(_) => self.members(typing, object(old), object(new)),
            Typing::Set | Typing::Keyed(..) => self.elements(typing, list(old), list(new)),
            Typing::Leaf => (),
        }
    }

    fn members(
        &mut self,
        typing: Typing,
        old: Option<&Map<String, Value>>,
        new: Option<&Map<String, Value>>,
    ) {
        for (name, before) in old.into_iter().flatten() {
            let (below, element) = typing.member(name);
            let after = new.and_then(|new| new.get(name));
            self.child(below, element, Some(before), after);
        }
        for (name, after) in new.into_iter().flatten() {
            if !old.is_some_and(|old| old.contains_key(name)) {
                let (below, element) = typing.member(name);
                self.child(below, element, None, Some(after));
            }
        }
    }

    fn elements(&mut self, typing: Typing, old: &[Value], new: &[Value]) {
        let mut pairs: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for value in old {
            pairs
                .entry(typing.element(value))
                .or_default()
                .0
                .push(value);
        }
        for value in new {
            pairs
                .entry(typing.element(value))
                .or_default()
                .1
                .push(value);
        }
        let items = typing.items();
        for (element, (old, new)) in pairs {
            match (old.as_slice(), new.as_slice()) {
                ([] | [_], [] | [_]) => {
                    self.child(items, element, old.first().copied(), new.first().copied());
                }
                // Elements that cannot be told apart are owned together, as one.
                ([_, _, ..], [_, _, ..]) if old == new => (),
                ([_, _, ..], [_, _, ..]) => self.modified.insert(element),
                ([_, _, ..], _) => {
                    if let Some(new) = new.first() {
                        self.child(items, element.clone(), None, Some(new));
                    }
                    self.removed.insert(element);
                }
                (_, [_, _, ..]) => {
                    if let Some(old) = old.first() {
                        self.child(items, element.clone(), Some(old), None);
                    }
                    self.added.insert(element);
                }
            }
        }
    }

    fn child(
        &mut self,
        typing: Typing,
        element: PathElement,
        old: Option<&Value>,
        new: Option<&Value>,
    ) {
        let mut below = Diff::default();
        let own = below.compare(typing, old, new);
        let sets = [
            (&mut self.added, below.added, Change::Added),
            (&mut self.modified, below.modified, Change::Modified),
            (&mut self.removed, below.removed, Change::Removed),
        ];
        for (set, children, change) in sets {
            if own == change || !children.is_empty() {
                set.insert_node(element.clone(), own == change, children);
            }
        }
    }
}

/// Returns every place below one.
fn everything(typing: Typing, value: &Value) -> FieldSet {
    match typing {
        Typing::Leaf => FieldSet::default(),
        Typing::Struct(_) | Typing::Map(_) => {
            let member = |(name, value): (&String, &Value)| {
                let (below, element) = typing.member(name);
                (element, everything(below, value))
            };
            FieldSet::of_members(object(Some(value)).into_iter().flatten().map(member))
        }
        Typing::Set | Typing::Keyed(..) => {
            let mut seen: BTreeMap<PathElement, Option<FieldSet>> = BTreeMap::new();
            for value in list(Some(value)) {
                let fields = everything(typing.items(), value);
                let entry = seen.entry(typing.element(value));
                // Elements that cannot be told apart are owned together, as one.
                let twice = |fields: &mut Option<FieldSet>| *fields = None;
                entry.and_modify(twice).or_insert(Some(fields));
            }
            let member = |(element, fields): (_, Option<_>)| (element, fields.unwrap_or_default());
            FieldSet::of_members(seen.into_iter().map(member))
        }
    }
}

/// Notes the fields below a place and says whether the place itself is one.
fn mention(typing: Typing, value: &Value, set: &mut FieldSet) -> bool {
    match typing {
        Typing::Leaf => return true,
        Typing::Struct(_) | Typing::Map(_) => {
            let members = object(Some(value));
            for (name, value) in members.into_iter().flatten() {
                let (below, element) = typing.member(name);
                let mut children = FieldSet::default();
                let itself = mention(below, value, &mut children)
                    || !typing.names(&element)
                    || value.is_null()
                    || value.as_object().is_some_and(Map::is_empty);
                set.insert_below(element.clone(), children);
                if itself {
                    set.insert(element);
                }
            }
        }
        Typing::Set | Typing::Keyed(..) => {
            let mut seen: BTreeMap<PathElement, Vec<&Value>> = BTreeMap::new();
            for value in list(Some(value)) {
                seen.entry(typing.element(value)).or_default().push(value);
            }
            for (element, values) in seen {
                if let [value] = values.as_slice() {
                    let mut children = FieldSet::default();
                    mention(typing.items(), value, &mut children);
                    set.insert_below(element.clone(), children);
                }
                set.insert(element);
            }
        }
    }
    false
}

/// Says whether nothing stands in a place: no value, null, `{}` or `[]`.
pub(super) fn is_blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

pub(super) fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

pub(super) fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
