//! Reads the table of types from its lines.

use std::{collections::HashMap, str::FromStr};

use serde_json::{Map, Value};

use super::{
    Field, GroupVersionKind, ListMerge, ListType, MapType, Presence, Schema, Shape, Type, TypeId,
};

type Names = HashMap<&'static str, TypeId>;

impl Schema {
    pub(super) fn read(table: &'static str) -> Schema {
        let lines = || {
            table
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
        };
        let opened: Vec<_> = lines().filter_map(opened).collect();
        let index = |(index, (name, _)): (usize, &(&'static str, _))| (*name, TypeId(index));
        let names: Names = opened.iter().enumerate().map(index).collect();
        let mut types: Vec<Type> = Vec::with_capacity(opened.len());
        for line in lines() {
            match (self::opened(line), types.last_mut()) {
                (Some((name, marks)), _) => types.push(Type::read(name, marks)),
                (None, Some(open)) => open.fields.push(Field::read(line, &names)),
                (None, None) => unreachable!("the table begins with a type"),
            }
        }
        for open in &mut types {
            open.fields.sort_by_key(|field| field.name);
            open.fields.shrink_to_fit();
        }
        Schema { types, names }
    }
}

/// Returns the type that a line opens, and its marks.
fn opened(line: &'static str) -> Option<(&'static str, &'static str)> {
    line.strip_prefix('[')?.split_once(']')
}

impl Type {
    fn read(qualified: &'static str, marks: &'static str) -> Type {
        let mut open = Type {
            name: qualified.rsplit('.').next().unwrap_or(qualified),
            qualified,
            kind: None,
            map: MapType::Granular,
            unions: None,
            fields: Vec::new(),
        };
        for mark in marks.split_whitespace() {
            match mark.split_once('=') {
                Some(("kind", kind)) => open.kind = kind_of(kind),
                Some(("unions", unions)) => open.unions = Some(unions),
                None if mark == "atomic" => open.map = MapType::Atomic,
                _ => unreachable!("`cargo xtask distil` writes no other mark: {mark}"),
            }
        }
        open
    }
}

fn kind_of(text: &'static str) -> Option<GroupVersionKind<'static>> {
    let (rest, kind) = text.rsplit_once('/')?;
    let (group, version) = rest.split_once('/')?;
    Some(GroupVersionKind {
        group,
        version,
        kind,
    })
}

impl Field {
    fn read(line: &'static str, names: &Names) -> Field {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (name, shape) = (word(), word());
        let mut field = Field {
            name,
            shape: Shape::read(shape, names),
            numbers: Box::default(),
            presence: Presence::Omitted,
            required: false,
            default: None,
            filled: None,
            list: None,
            map: None,
            merge: ListMerge::Replace,
            patch: None,
            patch_key: None,
        };
        words.for_each(|mark| field.mark(mark));
        field.merge = field.list_merge();
        field.filled = field.filling();
        field
    }

    fn mark(&mut self, mark: &'static str) {
        match mark.split_once('=') {
            Some(("default", value)) => self.default = Some(value),
            Some(("list", kind)) => self.list = Some(ListType::read(kind)),
            Some(("map", kind)) => self.map = Some(MapType::read(kind)),
            Some(("patch", strategies)) => self.patch = Some(strategies),
            Some(("key", key)) => self.patch_key = Some(key),
            None if mark == "*" => self.presence = Presence::Told,
            None if mark == "!" => self.presence = Presence::Written,
            None if mark == "required" => self.required = true,
            _ => match mark.strip_prefix('#') {
                Some(numbers) => {
                    let numbers = numbers.split('.').map(u32::from_str);
                    self.numbers = numbers.filter_map(Result::ok).collect();
                }
                None => unreachable!("`cargo xtask distil` writes no other mark: {mark}"),
            },
        }
    }

    fn list_merge(&self) -> ListMerge {
        let mut strategies = self.patch.unwrap_or_default().split(',');
        match (
            strategies.any(|strategy| strategy == "merge"),
            self.patch_key,
        ) {
            (true, Some(key)) => ListMerge::By(key),
            (true, None) => ListMerge::Set,
            (false, _) => ListMerge::Replace,
        }
    }

    /// The stock server fills in what its documents call default, but for the empty values of
    /// fields that always have one: those it only writes.
    fn filling(&self) -> Option<Value> {
        let value: Value = match self.default? {
            "{}" => Value::Object(Map::new()),
            text => serde_json::from_str(text).expect("a default in the table is JSON"),
        };
        let empty = match &value {
            Value::String(text) => text.is_empty(),
            Value::Number(number) => number.as_i64() == Some(0),
            other => *other == Value::Bool(false),
        };
        (!empty || self.presence == Presence::Told).then_some(value)
    }
}

impl ListType {
    fn read(text: &'static str) -> ListType {
        match text.split_once(':') {
            Some((_, keys)) => ListType::Map(keys.split(',').collect()),
            None if text == "set" => ListType::Set,
            None => ListType::Atomic,
        }
    }
}

impl MapType {
    fn read(text: &str) -> MapType {
        match text {
            "atomic" => MapType::Atomic,
            _ => MapType::Granular,
        }
    }
}

impl Shape {
    fn read(text: &str, names: &Names) -> Shape {
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
            "time" => Shape::Time,
            "microTime" => Shape::MicroTime,
            "bytes" => Shape::Bytes,
            "quantity" => Shape::Quantity,
            "intOrString" => Shape::IntOrString,
            "fieldsV1" => Shape::FieldsV1,
            "rawExtension" => Shape::RawExtension,
            name => Shape::Object(*names.get(name).expect("every type of the table is in it")),
        }
    }
}
