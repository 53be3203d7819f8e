//! The types of Kubernetes' objects: which fields there are, of what type, how lists merge.
//!
//! The table is distilled from Kubernetes' own OpenAPI documents and Go sources by `cargo xtask
//! distil` and read once per process. [`walk::normalise`] brings an object into the form in which
//! it is stored.

mod read;
mod walk;

use std::{collections::HashMap, sync::OnceLock};

use serde_json::Value;

pub(crate) use walk::normalise;

/// The types, as `cargo xtask distil` writes them.
pub(crate) const TABLE: &str = include_str!("schema/kubernetes-1.36.txt");

/// What the fields mean: half a megabyte that is only touched when a client wants to be told.
pub(crate) const DESCRIPTIONS: &str = include_str!("schema/descriptions-1.36.txt");

/// All types of a table.
#[derive(Debug)]
pub(crate) struct Schema {
    types: Vec<Type>,
    names: HashMap<&'static str, TypeId>,
}

/// An object type. Invariant: `fields` is sorted by name.
#[derive(Debug)]
pub(crate) struct Type {
    /// The name without its group, as error messages write it.
    pub(crate) name: &'static str,
    /// The name in the table, such as `core.v1.Pod`.
    pub(crate) qualified: &'static str,
    /// Group, version and kind of a type that is sent as an object of its own.
    pub(crate) kind: Option<GroupVersionKind<'static>>,
    /// Whether a server-side apply owns all fields or none.
    pub(crate) map: MapType,
    /// Which of its fields exclude each other, as the documents tell clients.
    pub(crate) unions: Option<&'static str>,
    fields: Vec<Field>,
}

/// What an object says about itself, as the table writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupVersionKind<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
}

/// One field of an object type.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// The number in protobuf, behind those of the messages around it that JSON does not have;
    /// empty for the fields that protobuf writes elsewhere.
    pub(crate) numbers: Box<[u32]>,
    /// What an empty value means.
    pub(crate) presence: Presence,
    /// Whether the documents call it required.
    pub(crate) required: bool,
    /// The value of an absent field in the documents: JSON.
    pub(crate) default: Option<&'static str>,
    /// The value that an absent field is given.
    pub(crate) filled: Option<Value>,
    /// How a server-side apply merges a list; nothing is as atomic.
    pub(crate) list: Option<ListType>,
    /// How a server-side apply merges a map or object, if the field says so itself.
    pub(crate) map: Option<MapType>,
    /// What a strategic merge patch does with the list.
    pub(crate) merge: ListMerge,
    /// The strategies of a strategic merge patch as the documents write them.
    pub(crate) patch: Option<&'static str>,
    /// The merge key as the documents write it.
    pub(crate) patch_key: Option<&'static str>,
}

/// What an empty string, zero, `false`, list or map means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The same as an absent one, and it is left out.
    Omitted,
    /// The same as an absent one, but it is kept.
    Written,
    /// A value like any other.
    Told,
}

/// The JSON a field takes.
#[derive(Debug)]
pub(crate) enum Shape {
    String,
    Boolean,
    Int32,
    Int64,
    Time,
    MicroTime,
    Bytes,
    Quantity,
    IntOrString,
    /// A set of fields that someone owns.
    FieldsV1,
    /// An object of any type.
    RawExtension,
    Object(TypeId),
    List(Box<Shape>),
    Map(Box<Shape>),
}

/// How a strategic merge patch changes a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListMerge {
    /// The patch's list takes the place of the old one.
    Replace,
    /// Values are added unless present.
    Set,
    /// Elements with the same value of this field are merged.
    By(&'static str),
}

/// How a server-side apply merges a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListType {
    /// The list is owned as a whole.
    Atomic,
    /// Each value is owned for itself.
    Set,
    /// Elements are told apart by these fields, and owned field by field.
    Map(Box<[&'static str]>),
}

/// How a server-side apply merges a map or an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapType {
    /// It is owned as a whole.
    Atomic,
    /// Each field is owned for itself.
    Granular,
}

/// An index into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TypeId(usize);

/// Returns the table.
pub(crate) fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::read(TABLE))
}

impl Schema {
    /// Returns the type with this name.
    pub(crate) fn type_id(&self, name: &str) -> TypeId {
        self.find(name)
            .expect("every type named in the table of kinds is distilled")
    }

    /// Returns the type with this name, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    /// Returns the type of an object that says itself what it is.
    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<TypeId> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let wanted = GroupVersionKind {
            group,
            version,
            kind,
        };
        let found = self
            .types
            .iter()
            .position(|found| found.kind == Some(wanted));
        found.map(TypeId)
    }

    /// Returns all types.
    #[cfg(test)]
    pub(crate) fn ids(&self) -> impl Iterator<Item = TypeId> {
        (0..self.types.len()).map(TypeId)
    }

    /// Returns the fields of a type.
    pub(crate) fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0]
    }
}

impl Type {
    /// Returns the field with this name.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        let index = self
            .fields
            .binary_search_by(|field| field.name.cmp(name))
            .ok()?;
        self.fields.get(index)
    }

    /// Returns all fields, sorted by name.
    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }
}

impl Field {
    /// Returns how a server-side apply merges the field if it is a list.
    pub(crate) fn list_type(&self) -> &ListType {
        self.list.as_ref().unwrap_or(&ListType::Atomic)
    }

    /// Returns how a server-side apply merges the field if it is a map or an object.
    pub(crate) fn map_type(&self) -> MapType {
        self.map.unwrap_or_else(|| self.shape.map_type())
    }
}

impl Shape {
    /// Returns how a server-side apply merges a value that is no field, such as a list's element.
    pub(crate) fn map_type(&self) -> MapType {
        match self {
            Shape::Object(id) => schema().get(*id).map,
            Shape::FieldsV1 | Shape::RawExtension => MapType::Atomic,
            _ => MapType::Granular,
        }
    }

    /// Writes the type as Kubernetes' decoder names it.
    fn go_name(&self) -> String {
        match self {
            Shape::String | Shape::Quantity | Shape::IntOrString => "string".to_owned(),
            Shape::Boolean => "bool".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::FieldsV1 => "v1.FieldsV1".to_owned(),
            Shape::RawExtension => "runtime.RawExtension".to_owned(),
            Shape::Object(id) => format!("v1.{}", schema().get(*id).name),
            Shape::List(item) => format!("[]{}", item.go_name()),
            Shape::Map(item) => format!("map[string]{}", item.go_name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(type_name: &str, name: &str) -> &'static Field {
        let found = schema().get(schema().type_id(type_name)).field(name);
        found.expect("a field of the table")
    }

    #[test]
    fn every_served_kind_has_its_type() {
        for info in crate::kinds::all() {
            let fields = schema().get(schema().type_id(info.schema));
            assert!(fields.field("metadata").is_some(), "{}", info.kind);
            let kind = fields.kind.expect("an object has a kind");
            let expected = (info.group, info.version, info.kind);
            assert_eq!((kind.group, kind.version, kind.kind), expected);
        }
    }

    #[test]
    fn every_field_but_type_and_kind_has_its_number() {
        for open in &schema().types {
            for field in open.fields() {
                let elsewhere = matches!(field.name, "kind" | "apiVersion");
                let numbered = !field.numbers.is_empty() || elsewhere;
                assert!(numbered, "{}.{}", open.qualified, field.name);
            }
        }
    }

    #[test]
    fn fields_that_are_called_type_open_no_type() {
        assert_eq!(field("core.v1.Secret", "type").numbers[..], [3]);
        assert_eq!(field("core.v1.PodCondition", "type").numbers[..], [1]);
    }

    #[test]
    fn merge_keys_come_from_the_documents() {
        let merge = |type_name: &str, name: &str| field(type_name, name).merge;
        assert_eq!(
            merge("core.v1.PodSpec", "containers"),
            ListMerge::By("name")
        );
        assert_eq!(merge("core.v1.PodSpec", "tolerations"), ListMerge::Replace);
        assert_eq!(merge("meta.v1.ObjectMeta", "finalizers"), ListMerge::Set);
    }

    #[test]
    fn what_a_server_side_apply_owns_comes_from_the_documents() {
        let ports = field("core.v1.Container", "ports").list_type();
        let keys: &[&str] = &["containerPort", "protocol"];
        assert_eq!(ports, &ListType::Map(keys.into()));
        let list = |name: &str| field("meta.v1.ObjectMeta", name).list_type();
        assert_eq!(list("finalizers"), &ListType::Set);
        assert_eq!(
            field("core.v1.Container", "args").list_type(),
            &ListType::Atomic
        );
        let map = |type_name: &str, name: &str| field(type_name, name).map_type();
        assert_eq!(map("core.v1.PodSpec", "nodeSelector"), MapType::Atomic);
        assert_eq!(map("core.v1.EnvVarSource", "fieldRef"), MapType::Atomic);
        assert_eq!(map("core.v1.PodSpec", "securityContext"), MapType::Granular);
    }

    #[test]
    fn fields_that_json_lifts_out_of_a_message_have_its_number_before_theirs() {
        assert_eq!(field("core.v1.Volume", "secret").numbers[..], [2, 6]);
        assert_eq!(field("core.v1.Volume", "name").numbers[..], [1]);
        assert_eq!(field("core.v1.Pod", "kind").numbers.len(), 0);
    }
}
