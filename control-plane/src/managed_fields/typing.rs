//! How the places of an object are owned: as one, field by field, or element by element.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::path::{PathElement, Scalar};
use crate::schema::{Field, ListType, MapType, Presence, Shape, Type, TypeId, schema};

/// How one place is owned and merged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Typing {
    /// As one: scalars, atomic lists and objects, and everything without a type.
    Leaf,
    /// Field by field.
    Struct(&'static Type),
    /// Entry by entry; all entries are of one type.
    Map(&'static Shape),
    /// A list of scalars, value by value.
    Set,
    /// A list of objects that are told apart by some of their fields.
    Keyed(&'static Shape, &'static [&'static str]),
}

impl Typing {
    /// Returns how objects of a type are owned, whatever a field that holds one says.
    pub(super) fn root(id: TypeId) -> Typing {
        Typing::Struct(schema().get(id))
    }

    fn of(shape: &'static Shape) -> Typing {
        match shape {
            _ if shape.map_type() == MapType::Atomic => Typing::Leaf,
            Shape::Object(id) => Typing::root(*id),
            Shape::Map(item) => Typing::Map(item),
            _ => Typing::Leaf,
        }
    }

    pub(super) fn field(field: &'static Field) -> Typing {
        match (&field.shape, field.list_type(), field.map_type()) {
            (Shape::List(_), ListType::Atomic, _) => Typing::Leaf,
            (Shape::List(_), ListType::Set, _) => Typing::Set,
            (Shape::List(item), ListType::Map(keys), _) => Typing::Keyed(item, keys),
            (_, _, MapType::Atomic) => Typing::Leaf,
            (Shape::Object(id), _, MapType::Granular) => Typing::root(*id),
            (shape, _, MapType::Granular) => Typing::of(shape),
        }
    }

    /// Returns how a field or an entry is owned.
    pub(super) fn at(self, name: &str) -> Typing {
        match self {
            Typing::Struct(fields) => fields.field(name).map_or(Typing::Leaf, Typing::field),
            Typing::Map(item) => Typing::of(item),
            Typing::Leaf | Typing::Set | Typing::Keyed(..) => Typing::Leaf,
        }
    }

    /// Returns how a field or an entry is owned, with its name as part of a path.
    pub(super) fn member(self, name: &str) -> (Typing, PathElement) {
        match self {
            Typing::Struct(fields) => match fields.field(name) {
                Some(field) => (
                    Typing::field(field),
                    PathElement::Field(Cow::Borrowed(field.name)),
                ),
                None => (Typing::Leaf, entry(name)),
            },
            Typing::Map(item) => (Typing::of(item), entry(name)),
            Typing::Leaf | Typing::Set | Typing::Keyed(..) => (Typing::Leaf, entry(name)),
        }
    }

    /// Returns how the elements of a list are owned.
    pub(super) fn items(self) -> Typing {
        match self {
            Typing::Keyed(item, _) => Typing::of(item),
            Typing::Leaf | Typing::Set | Typing::Struct(_) | Typing::Map(_) => Typing::Leaf,
        }
    }

    /// Returns how what stands below a step is owned.
    pub(super) fn below(self, element: &PathElement) -> Typing {
        match element {
            PathElement::Field(name) => self.member(name).0,
            PathElement::Key(_) | PathElement::Value(_) | PathElement::Index(_) => self.items(),
        }
    }

    /// Says whether a step is a field with a name of its own, not an entry or an element.
    pub(super) fn names(self, element: &PathElement) -> bool {
        match (self, element) {
            (Typing::Struct(fields), PathElement::Field(name)) => fields.field(name).is_some(),
            _ => false,
        }
    }

    /// Returns what tells an element of a list from the others; a key that is left out counts
    /// as its default, and not at all without one.
    pub(super) fn element(self, value: &Value) -> PathElement {
        let Typing::Keyed(item, keys) = self else {
            return PathElement::Value(Scalar::read(value).unwrap_or(Scalar::Null));
        };
        let part = |&key: &&'static str| {
            let given = value.get(key).filter(|value| !value.is_null());
            let value = match given {
                Some(value) => Scalar::read(value)?,
                None => Scalar::read(default(item, key)?)?,
            };
            Some((Cow::Borrowed(key), value))
        };
        let mut key: Vec<_> = keys.iter().filter_map(part).collect();
        key.sort();
        PathElement::Key(key)
    }
}

fn entry(name: &str) -> PathElement {
    PathElement::Field(Cow::Owned(name.to_owned()))
}

fn default(item: &Shape, key: &str) -> Option<&'static Value> {
    match item {
        Shape::Object(id) => schema().get(*id).field(key)?.filled.as_ref(),
        _ => None,
    }
}

/// Returns what an object is before anyone has written to it: parts that are always there.
///
/// Kubernetes compares a new object with this, so nobody comes to own those parts as a whole.
pub(super) fn blank(id: TypeId) -> Value {
    let mut fields = Map::new();
    for field in schema().get(id).fields() {
        let blank = match field.shape {
            Shape::Object(id) if field.default == Some("{}") => blank(id),
            Shape::List(_) | Shape::Map(_) if field.presence == Presence::Written => Value::Null,
            _ => continue,
        };
        fields.insert(field.name.to_owned(), blank);
    }
    Value::Object(fields)
}
