//! Sets of fields, as `managedFields` keep them in `fieldsV1`.

use std::collections::{BTreeMap, btree_map::Entry};

use serde_json::Value;

use super::path::{InvalidElement, PathElement};

/// The field that says that its object itself belongs to the set.
const SELF: &str = ".";

/// Room for the fields of most owners, so that they do not move while they are written.
const TEXT_BYTES: usize = 1024;

/// A set of paths. Invariant: every node is a member or has children, so equal sets are equal
/// trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    nodes: BTreeMap<PathElement, Node>,
}

/// What a set says about one path and those that begin with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    children: FieldSet,
}

impl FieldSet {
    /// Returns a set of paths of plain fields.
    pub(crate) fn of(paths: &[&[&'static str]]) -> FieldSet {
        let mut set = FieldSet::default();
        for path in paths {
            let mut at = &mut set;
            for (place, name) in path.iter().enumerate() {
                let node = at
                    .nodes
                    .entry(PathElement::Field((*name).into()))
                    .or_default();
                node.member |= place + 1 == path.len();
                at = &mut node.children;
            }
        }
        set
    }

    /// Returns a set of paths that are one step long, and of paths that begin with them.
    pub(crate) fn of_members(members: impl Iterator<Item = (PathElement, FieldSet)>) -> FieldSet {
        let node = |children| Node {
            member: true,
            children,
        };
        FieldSet {
            nodes: members
                .map(|(element, children)| (element, node(children)))
                .collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a path that is one step long.
    pub(crate) fn insert(&mut self, element: PathElement) {
        self.nodes.entry(element).or_default().member = true;
    }

    /// Adds the paths that begin with a step that is not yet in the set.
    pub(crate) fn insert_node(&mut self, element: PathElement, member: bool, children: FieldSet) {
        self.nodes.insert(element, Node { member, children });
    }

    /// Adds the paths that begin with a step.
    pub(crate) fn insert_below(&mut self, element: PathElement, children: FieldSet) {
        if !children.is_empty() {
            self.nodes
                .entry(element)
                .or_default()
                .children
                .unite(children);
        }
    }

    /// Says whether the path of this one step belongs to the set.
    pub(crate) fn has(&self, element: &PathElement) -> bool {
        self.nodes.get(element).is_some_and(|node| node.member)
    }

    /// Returns the paths that begin with a step, without it.
    pub(crate) fn below(&self, element: &PathElement) -> Option<&FieldSet> {
        let node = self.nodes.get(element)?;
        (!node.children.is_empty()).then_some(&node.children)
    }

    /// Adds everything that is in `other`.
    pub(crate) fn unite(&mut self, other: FieldSet) {
        if self.nodes.is_empty() {
            self.nodes = other.nodes;
            return;
        }
        for (element, theirs) in other.nodes {
            match self.nodes.entry(element) {
                Entry::Vacant(absent) => drop(absent.insert(theirs)),
                Entry::Occupied(mut found) => {
                    let ours = found.get_mut();
                    ours.member |= theirs.member;
                    ours.children.unite(theirs.children);
                }
            }
        }
    }

    /// Returns what is in both sets.
    pub(crate) fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = |(element, ours): (&PathElement, &Node)| {
            let theirs = other.nodes.get(element)?;
            let node = Node {
                member: ours.member && theirs.member,
                children: ours.children.intersection(&theirs.children),
            };
            node.says_something().then(|| (element.clone(), node))
        };
        FieldSet {
            nodes: self.nodes.iter().filter_map(both).collect(),
        }
    }

    /// Removes the paths of `other`; those that only begin with one of them stay.
    pub(crate) fn subtract(&mut self, other: &FieldSet) {
        self.retain(other, |ours, theirs| {
            ours.member &= !theirs.member;
            ours.children.subtract(&theirs.children);
        });
    }

    /// Removes the paths of `other` and everything below them.
    pub(crate) fn subtract_trees(&mut self, other: &FieldSet) {
        self.retain(other, |ours, theirs| {
            if theirs.member {
                *ours = Node::default();
            } else {
                ours.children.subtract_trees(&theirs.children);
            }
        });
    }

    /// Removes the path of plain fields and everything below it.
    pub(crate) fn subtract_tree(&mut self, path: &[&'static str]) {
        let [name, below @ ..] = path else {
            return;
        };
        if self.nodes.is_empty() {
            return;
        }
        let element = PathElement::Field((*name).into());
        let Some(node) = self.nodes.get_mut(&element) else {
            return;
        };
        if below.is_empty() {
            *node = Node::default();
        } else {
            node.children.subtract_tree(below);
        }
        if !node.says_something() {
            self.nodes.remove(&element);
        }
    }

    fn retain(&mut self, other: &FieldSet, change: impl Fn(&mut Node, &Node)) {
        if other.is_empty() {
            return;
        }
        self.nodes
            .retain(|element, ours| match other.nodes.get(element) {
                None => true,
                Some(theirs) => {
                    change(ours, theirs);
                    ours.says_something()
                }
            });
    }

    /// Adds those steps on the way to a member for which `named` says so.
    ///
    /// `named` is given the object around the step, and returns what stands below the step.
    pub(crate) fn with_named<T: Copy>(
        &self,
        at: T,
        named: &impl Fn(T, &PathElement) -> (bool, T),
    ) -> FieldSet {
        let grown = |(element, node): (&PathElement, &Node)| {
            let (is_named, below) = named(at, element);
            let grown = Node {
                member: node.member || (is_named && !node.children.is_empty()),
                children: node.children.with_named(below, named),
            };
            (element.clone(), grown)
        };
        FieldSet {
            nodes: self.nodes.iter().map(grown).collect(),
        }
    }

    /// Returns all paths as messages write them, short ones before those below them.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect(&mut String::new(), &mut found);
        found
    }

    fn collect(&self, path: &mut String, found: &mut Vec<String>) {
        let members = self.nodes.iter().filter(|(_, node)| node.member);
        found.extend(members.map(|(element, _)| format!("{path}{element}")));
        for (element, node) in &self.nodes {
            let length = path.len();
            path.push_str(&element.to_string());
            node.children.collect(path, found);
            path.truncate(length);
        }
    }

    /// Writes the set as `fieldsV1`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(TEXT_BYTES);
        self.write(false, &mut text);
        text
    }

    fn write(&self, is_member: bool, text: &mut String) {
        text.push('{');
        let begin = text.len();
        if is_member && !self.is_empty() {
            text.push_str(r#"".":{}"#);
        }
        let mut write = |step: &str, node: &Node| {
            if text.len() > begin {
                text.push(',');
            }
            push_quoted(text, step);
            text.push(':');
            node.children.write(node.member, text);
        };
        let is_field = |element: &PathElement| matches!(element, PathElement::Field(_));
        if self.nodes.keys().all(is_field) {
            let steps = self.nodes.iter();
            steps.for_each(|(element, node)| write(&element.encode(), node));
        } else {
            // Sorted as text, which is another order than that of the elements.
            let steps = self.nodes.iter();
            let mut steps: Vec<_> = steps.map(|(step, node)| (step.encode(), node)).collect();
            steps.sort_by(|(a, _), (b, _)| a.cmp(b));
            steps.iter().for_each(|(step, node)| write(step, node));
        }
        text.push('}');
    }

    /// Reads `fieldsV1` from text.
    pub(crate) fn read(text: &str) -> Result<FieldSet, InvalidElement> {
        let fields: Value = serde_json::from_str(text).map_err(|_| InvalidElement::of(text))?;
        FieldSet::decode(&fields)
    }

    /// Says whether a path of this set may be one of those that a text of `fieldsV1` tells; if not, none is.
    pub(crate) fn may_share(&self, text: &str) -> bool {
        self.nodes.iter().any(|(element, node)| {
            is_named(text, element) && (node.member || node.children.may_share(text))
        })
    }

    /// Reads `fieldsV1`; the depth is bounded by that of the parser it comes from.
    pub(crate) fn decode(fields: &Value) -> Result<FieldSet, InvalidElement> {
        let mut set = FieldSet::default();
        for (text, below) in fields.as_object().into_iter().flatten() {
            if text == SELF {
                continue;
            }
            let Some(element) = PathElement::parse(text)? else {
                continue;
            };
            let children = FieldSet::decode(below)?;
            let member = children.is_empty() || below.get(SELF).is_some();
            let mut one = FieldSet::default();
            one.nodes.insert(element, Node { member, children });
            // Two ways to write one step, such as `v:1` and `v:1.0`, are one.
            set.unite(one);
        }
        Ok(set)
    }
}

/// Says whether a step occurs in a text of `fieldsV1`, at any place of it.
fn is_named(text: &str, element: &PathElement) -> bool {
    match element {
        PathElement::Field(name) if is_plain(name) => text.contains(&format!("\"f:{name}\"")),
        // Numbers, and letters that are written as escapes, are told in several ways.
        _ => true,
    }
}

/// Writes a text as JSON does.
fn push_quoted(text: &mut String, word: &str) {
    if is_plain(word) {
        text.push('"');
        text.push_str(word);
        text.push('"');
    } else {
        text.push_str(&Value::from(word).to_string());
    }
}

/// Says whether JSON writes a text as it is.
fn is_plain(word: &str) -> bool {
    let is_escaped = |byte: u8| byte < b' ' || matches!(byte, b'"' | b'\\');
    !word.bytes().any(is_escaped)
}

impl Node {
    fn says_something(&self) -> bool {
        self.member || !self.children.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(fields: Value) -> FieldSet {
        FieldSet::decode(&fields).expect("well-formed")
    }

    fn check(found: &FieldSet, expected: Value) {
        assert_eq!(found.text(), expected.to_string());
    }

    #[test]
    fn parents_and_children_are_told_apart() {
        let mut parent = set(json!({"f:a": {".": {}, "f:b": {}}}));
        parent.subtract(&set(json!({"f:a": {"f:b": {}}})));
        check(&parent, json!({"f:a": {}}));
        let mut child = set(json!({"f:a": {"f:b": {}}}));
        child.subtract(&set(json!({"f:a": {}})));
        check(&child, json!({"f:a": {"f:b": {}}}));
        child.subtract_trees(&set(json!({"f:a": {}})));
        assert!(child.is_empty());
    }

    #[test]
    fn paths_are_listed_from_the_outside() {
        let set = set(json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}":
            {".": {}, "f:image": {}}}}, "f:data": {}}));
        let found = set.paths();
        let container = ".spec.containers[name=\"c\"]";
        assert_eq!(found, [".data", container, &format!("{container}.image")]);
    }

    #[test]
    fn a_set_of_plain_paths() {
        let found = FieldSet::of(&[&["status"], &["metadata"], &["metadata", "name"]]);
        check(
            &found,
            json!({"f:metadata": {".": {}, "f:name": {}}, "f:status": {}}),
        );
    }

    #[test]
    fn later_kinds_of_steps_are_dropped() {
        check(
            &set(json!({"x:1": {"f:a": {}}, "f:b": {"x:2": {}}})),
            json!({"f:b": {}}),
        );
        assert!(FieldSet::decode(&json!({"nonsense": {}})).is_err());
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let element = prop_oneof![
            Just("f:a"),
            Just("f:b"),
            Just("k:{\"name\":\"x\"}"),
            Just("k:{\"name\":\"\\\"y\"}"),
            Just("v:1"),
            Just("i:2"),
            Just(".")
        ];
        let leaf = Just(json!({}));
        let tree = leaf.prop_recursive(4, 40, 4, move |inner| {
            prop::collection::btree_map(element.clone(), inner, 0..4).prop_map(|map| json!(map))
        });
        tree.prop_map(|tree| FieldSet::decode(&tree).expect("well-formed"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_written_is_read_again(set in any_set()) {
            let text = set.text();
            let sorted: Value = serde_json::from_str(&text).expect("it is JSON");
            prop_assert_eq!(sorted.to_string(), &text[..]);
            prop_assert_eq!(FieldSet::decode(&sorted), Ok(set.clone()));
            prop_assert_eq!(FieldSet::read(&text), Ok(set));
        }

        #[test]
        fn sets_obey_the_laws_of_sets(a in any_set(), b in any_set()) {
            let mut union = a.clone();
            union.unite(b.clone());
            let mut only_a = a.clone();
            only_a.subtract(&b);
            let both = a.intersection(&b);
            prop_assert!(both.is_empty() || a.may_share(&b.text()));
            prop_assert_eq!(&both, &b.intersection(&a));
            prop_assert!(only_a.intersection(&b).is_empty());
            let mut again = only_a;
            again.unite(both);
            prop_assert_eq!(&again, &a);
            prop_assert_eq!(&union.intersection(&a), &a);
        }
    }
}
