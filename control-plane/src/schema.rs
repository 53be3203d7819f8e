//! The types of Kubernetes' objects: which fields there are, of what type, how lists merge.
//!
//! The table is distilled from Kubernetes' own OpenAPI documents and read once per process.
//! [`walk::normalise`] brings an object into the form in which it is stored.

mod walk;

use std::{collections::HashMap, sync::OnceLock};

pub(crate) use walk::normalise;

const TABLE: &str = include_str!("schema/kubernetes-1.36.txt");

/// All types of the table.
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
    fields: Vec<Field>,
}

/// One field of an object type.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// The value of an absent field, if the documents give one.
    pub(crate) default: Option<&'static str>,
    /// What a strategic merge patch does with the list.
    pub(crate) merge: ListMerge,
}

/// The JSON a field takes.
#[derive(Debug)]
pub(crate) enum Shape {
    String,
    Boolean,
    Int32,
    Int64,
    Time,
    Bytes,
    Quantity,
    IntOrString,
    Any,
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

/// An index into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypeId(usize);

/// Returns the table.
pub(crate) fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::read(TABLE))
}

impl Schema {
    /// Returns the type with this name.
    pub(crate) fn type_id(&self, name: &str) -> TypeId {
        *self
            .names
            .get(name)
            .expect("every type named in the table of kinds is distilled")
    }

    /// Returns the fields of a type.
    pub(crate) fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0]
    }

    fn read(table: &'static str) -> Schema {
        let lines = || {
            table
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
        };
        let named: Vec<_> = lines().filter_map(opened).collect();
        let names: HashMap<_, _> = named
            .iter()
            .enumerate()
            .map(|(index, &name)| (name, TypeId(index)))
            .collect();
        let mut types: Vec<Type> = Vec::with_capacity(named.len());
        for line in lines() {
            match (opened(line), types.last_mut()) {
                (Some(name), _) => types.push(Type::new(name)),
                (None, Some(open)) => open.fields.push(Field::read(line, &names)),
                (None, None) => unreachable!("the table begins with a type"),
            }
        }
        types
            .iter_mut()
            .for_each(|open| open.fields.sort_by_key(|field| field.name));
        Schema { types, names }
    }
}

/// Returns the type that a line opens.
fn opened(line: &'static str) -> Option<&'static str> {
    line.strip_prefix('[')?.strip_suffix(']')
}

impl Type {
    fn new(name: &'static str) -> Type {
        Type {
            name: name.rsplit('.').next().unwrap_or(name),
            fields: Vec::new(),
        }
    }

    /// Returns the field with this name.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        let index = self
            .fields
            .binary_search_by(|field| field.name.cmp(name))
            .ok()?;
        self.fields.get(index)
    }
}

impl Field {
    fn read(line: &'static str, names: &HashMap<&'static str, TypeId>) -> Field {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (name, shape) = (word(), word());
        let mut field = Field {
            name,
            shape: Shape::read(shape, names),
            default: None,
            merge: ListMerge::Replace,
        };
        for mark in words {
            match mark.split_once('=') {
                Some(("default", value)) => field.default = Some(value),
                Some(("merge", key)) => field.merge = ListMerge::By(key),
                None if mark == "merge" => field.merge = ListMerge::Set,
                _ => (),
            }
        }
        field
    }
}

impl Shape {
    fn read(text: &str, names: &HashMap<&'static str, TypeId>) -> Shape {
        if let Some(item) = text.strip_prefix("[]") {
            return Shape::List(Box::new(Shape::read(item, names)));
        }
        if let Some(item) = text.strip_prefix("{}") {
            return Shape::Map(Box::new(Shape::read(item, names)));
        }
        match text {
            "string" => Shape::String,
            "boolean" => Shape::Boolean,
            "int32" => Shape::Int32,
            "int64" => Shape::Int64,
            "time" | "microTime" => Shape::Time,
            "bytes" => Shape::Bytes,
            "quantity" => Shape::Quantity,
            "intOrString" => Shape::IntOrString,
            "object" => Shape::Any,
            name => Shape::Object(*names.get(name).expect("every type of the table is in it")),
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
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Any => "object".to_owned(),
            Shape::Object(id) => format!("v1.{}", schema().get(*id).name),
            Shape::List(item) => format!("[]{}", item.go_name()),
            Shape::Map(item) => format!("map[string]{}", item.go_name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_kind_has_its_type() {
        for info in crate::kinds::all() {
            let fields = schema().get(schema().type_id(info.schema));
            assert!(fields.field("metadata").is_some(), "{}", info.kind);
        }
    }

    #[test]
    fn fields_that_are_called_type_open_no_type() {
        let secret = schema().get(schema().type_id("core.v1.Secret"));
        assert!(secret.field("type").is_some() && secret.field("stringData").is_some());
        let condition = schema().get(schema().type_id("core.v1.PodCondition"));
        assert!(condition.field("type").is_some() && condition.field("status").is_some());
    }

    #[test]
    fn merge_keys_come_from_the_documents() {
        let spec = schema().get(schema().type_id("core.v1.PodSpec"));
        let merge = |name: &str| spec.field(name).expect("a field of PodSpec").merge;
        assert_eq!(merge("containers"), ListMerge::By("name"));
        assert_eq!(merge("tolerations"), ListMerge::Replace);
        let meta = schema().get(schema().type_id("meta.v1.ObjectMeta"));
        assert_eq!(
            meta.field("finalizers").expect("a field").merge,
            ListMerge::Set
        );
    }
}
