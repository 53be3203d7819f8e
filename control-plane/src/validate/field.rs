//! A place in an object: its value, the path to it, and the words for what is wrong there.
//!
//! The path is only written when something is wrong, so that checking a good object is cheap.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::Value;

use super::{LABEL_VALUE_MESSAGE, NameRule, is_label_value, name_faults};
use crate::{invalid::Causes, quantity::Quantity};

const PORT_MESSAGE: &str = "must be between 1 and 65535, inclusive";

pub(crate) const NEGATIVE_MESSAGE: &str = "must be greater than or equal to 0";

const IP_MESSAGE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

static NOTHING: Value = Value::Null;

/// A place in an object. `'p` is the path's life, `'v` the object's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'p, 'v> {
    parent: Option<&'p Field<'p, 'v>>,
    step: Step<'p>,
    pub(crate) value: &'v Value,
    causes: &'p RefCell<Causes>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Root,
    /// Fields, with dots between them.
    Child(&'p str),
    Index(usize),
    Key(&'p str),
}

/// Walks through an object and adds what is wrong to `causes`.
pub(crate) fn walk(object: &Value, causes: &mut Causes, check: impl FnOnce(&Field<'_, '_>)) {
    let cell = RefCell::new(std::mem::take(causes));
    check(&Field {
        parent: None,
        step: Step::Root,
        value: object,
        causes: &cell,
    });
    *causes = cell.into_inner();
}

impl<'p, 'v> Field<'p, 'v> {
    /// Goes to a field below, or deeper when there are dots in the name; it may be absent.
    pub(crate) fn child<'q>(&'q self, name: &'q str) -> Field<'q, 'v> {
        let below = |value: &'v Value, name| value.get(name).unwrap_or(&NOTHING);
        self.step(Step::Child(name), name.split('.').fold(self.value, below))
    }

    /// Goes to an entry of a map.
    pub(crate) fn key<'q>(&'q self, key: &'q str) -> Field<'q, 'v> {
        let value = self.value.get(key).unwrap_or(&NOTHING);
        self.step(Step::Key(key), value)
    }

    /// Goes to an element of a list.
    pub(crate) fn index(&self, index: usize) -> Field<'_, 'v> {
        let value = self.value.get(index).unwrap_or(&NOTHING);
        self.step(Step::Index(index), value)
    }

    fn step<'q>(&'q self, step: Step<'q>, value: &'v Value) -> Field<'q, 'v> {
        Field {
            parent: Some(self),
            step,
            value,
            causes: self.causes,
        }
    }

    /// Goes through the elements of a list that may be absent.
    pub(crate) fn items(&self) -> impl Iterator<Item = Field<'_, 'v>> {
        let list = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        let element = |(index, value)| self.step(Step::Index(index), value);
        list.iter().enumerate().map(element)
    }

    /// Goes through the entries of a map that may be absent.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'v str, Field<'_, 'v>)> {
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key.as_str(), self.step(Step::Key(key), value)))
    }

    /// Returns how much has been found wrong so far.
    pub(crate) fn faults(&self) -> usize {
        self.causes.borrow().len()
    }

    pub(crate) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    pub(crate) fn is_true(&self) -> bool {
        self.value == true
    }

    /// Says whether there is nothing: no value, no text, no element.
    pub(crate) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Returns the text, empty if there is none.
    pub(crate) fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    pub(crate) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(crate) fn quantity(&self) -> Option<Quantity> {
        Quantity::parse(self.value.as_str()?)
    }

    pub(crate) fn required(&self, detail: &str) {
        self.say(|causes, path| causes.required(path, detail));
    }

    pub(crate) fn invalid(&self, detail: &str) {
        self.invalid_as(self.value, detail);
    }

    /// Says that the place is wrong, and shows another value than the one that stands there.
    pub(crate) fn invalid_as(&self, shown: &Value, detail: &str) {
        self.say(|causes, path| causes.invalid(path, shown, detail));
    }

    pub(crate) fn not_supported(&self, known: &[&str]) {
        self.say(|causes, path| causes.not_supported(path, self.value, known));
    }

    pub(crate) fn duplicate(&self) {
        self.duplicate_as(self.value);
    }

    pub(crate) fn duplicate_as(&self, shown: &Value) {
        self.say(|causes, path| causes.duplicate(path, shown));
    }

    pub(crate) fn duplicate_because(&self, detail: &str) {
        self.say(|causes, path| causes.duplicate_because(path, self.value, detail));
    }

    pub(crate) fn forbidden(&self, detail: &str) {
        self.say(|causes, path| causes.forbidden(path, detail));
    }

    pub(crate) fn not_found(&self) {
        self.say(|causes, path| causes.not_found(path, self.value));
    }

    pub(crate) fn too_long(&self, bytes_max: usize) {
        self.say(|causes, path| causes.too_long(path, bytes_max));
    }

    pub(crate) fn too_many(&self, items_max: usize) {
        let found = self.value.as_array().map_or(0, Vec::len);
        self.say(|causes, path| causes.too_many(path, found, items_max));
    }

    fn say(&self, add: impl FnOnce(&mut Causes, String)) {
        add(&mut self.causes.borrow_mut(), self.to_string());
    }

    /// Demands one of the known words.
    pub(crate) fn one_of(&self, known: &[&str]) {
        match self.text() {
            "" => self.required(""),
            word if !known.contains(&word) => self.not_supported(known),
            _ => (),
        }
    }

    /// Demands one of the known words if there is a value.
    pub(crate) fn one_of_if_set(&self, known: &[&str]) {
        if self.is_set() && !known.contains(&self.text()) {
            self.not_supported(known);
        }
    }

    /// Demands a name of a form; an empty one is no name.
    pub(crate) fn name(&self, rule: NameRule) {
        for fault in name_faults(rule, self.text()) {
            self.invalid_as(&Value::from(self.text()), &fault);
        }
    }

    pub(crate) fn name_if_any(&self, rule: NameRule) {
        if !self.text().is_empty() {
            self.name(rule);
        }
    }

    /// Demands something, whatever it is.
    pub(crate) fn present(&self) {
        if self.is_empty() {
            self.required("");
        }
    }

    /// Returns this place with a value that stands elsewhere, where Kubernetes says it so.
    pub(crate) fn with<'w>(&self, value: &'w Value) -> Field<'p, 'w>
    where
        'v: 'w,
    {
        Field {
            parent: self.parent,
            step: self.step,
            value,
            causes: self.causes,
        }
    }

    /// Demands a name and says that it is missing if it is.
    pub(crate) fn name_required(&self, rule: NameRule) {
        match self.text() {
            "" => self.required(""),
            _ => self.name(rule),
        }
    }

    /// Demands a qualified name, as the keys of labels are.
    pub(crate) fn qualified(&self) {
        self.qualified_text(self.text());
    }

    /// Demands that a text found at this place is a qualified name.
    pub(crate) fn qualified_text(&self, text: &str) {
        for fault in super::qualified_faults(text) {
            self.invalid_as(&Value::from(text), &fault);
        }
    }

    /// Demands a map of labels.
    pub(crate) fn labels(&self) {
        for (key, value) in self.value.as_object().into_iter().flatten() {
            self.qualified_text(key);
            let text = value.as_str().unwrap_or_default();
            for fault in super::label_value_faults(text) {
                self.invalid_as(value, &fault);
            }
        }
    }

    pub(crate) fn label_value(&self) {
        if !is_label_value(self.text()) {
            self.invalid(LABEL_VALUE_MESSAGE);
        }
    }

    pub(crate) fn not_negative(&self) {
        if self.number().is_some_and(|number| number < 0) {
            self.invalid(NEGATIVE_MESSAGE);
        }
    }

    pub(crate) fn positive(&self) {
        if self.number().is_some_and(|number| number <= 0) {
            self.invalid("must be greater than zero");
        }
    }

    pub(crate) fn port(&self) {
        if !(1..=65535).contains(&self.number().unwrap_or(0)) {
            self.invalid_as(&Value::from(self.number().unwrap_or(0)), PORT_MESSAGE);
        }
    }

    /// Demands the number of a port, or the name of one.
    pub(crate) fn port_or_name(&self) {
        match self.value {
            Value::String(name) => {
                for fault in port_name_faults(name) {
                    self.invalid(fault);
                }
            }
            _ => self.port(),
        }
    }

    /// Demands an address and returns it.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let address = self.text().parse().ok();
        if address.is_none() {
            self.invalid_as(&Value::from(self.text()), IP_MESSAGE);
        }
        address
    }

    /// Demands an address that can be meant by others than the machine it is on.
    pub(crate) fn public_address(&self, address: IpAddr) {
        let (loopback, link_local, multicast) = match address {
            IpAddr::V4(v4) => (v4.is_loopback(), v4.is_link_local(), is_local_group(v4)),
            IpAddr::V6(v6) => (
                v6.is_loopback(),
                is_link_local(v6),
                v6.segments()[0] == 0xff02,
            ),
        };
        if address.is_unspecified() {
            self.invalid(&format!("may not be unspecified ({})", self.text()));
        }
        for (found, detail) in [
            (
                loopback,
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                link_local,
                "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            ),
            (
                multicast,
                "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
            ),
        ] {
            if found {
                self.invalid(detail);
            }
        }
    }

    /// Demands a path that stays below where it begins.
    pub(crate) fn descending_path(&self) {
        if self.text().starts_with('/') {
            self.invalid("must be a relative path");
        }
        self.no_backsteps();
    }

    pub(crate) fn no_backsteps(&self) {
        if self.text().split('/').any(|part| part == "..") {
            self.invalid("must not contain '..'");
        }
    }

    /// Demands a path for a file that is projected into a volume.
    pub(crate) fn file_path(&self) {
        self.descending_path();
        if self.text().starts_with("..") && !self.text().starts_with("../") && self.text() != ".." {
            self.invalid("must not start with '..'");
        }
    }

    /// Demands an immutable field: `old` is the object's former root.
    pub(crate) fn unchanged(&self, old: &Value) {
        if self.value != old {
            self.invalid("field is immutable");
        }
    }
}

/// Writes the path.
impl fmt::Display for Field<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::Child(name) => {
                if parent.parent.is_some() {
                    f.write_char('.')?;
                }
                f.write_str(name)
            }
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Demands a range of addresses and returns its parts.
pub(crate) fn cidr(range: &Field<'_, '_>) -> Option<(IpAddr, u8)> {
    let parse = |text: &str| {
        let (address, bits) = text.trim().split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
    };
    let found = parse(range.text());
    if found.is_none() {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        range.invalid_as(&Value::from(range.text()), detail);
    }
    found
}

/// Says everything that is wrong with the name of a port.
pub(crate) fn port_name_faults(name: &str) -> Vec<&'static str> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    [
        (name.len() > 15, "must be no more than 15 characters"),
        (
            name.is_empty() || !name.bytes().all(letter),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (
            !name.bytes().any(|byte| byte.is_ascii_lowercase()),
            "must contain at least one letter (a-z)",
        ),
        (name.contains("--"), "must not contain consecutive hyphens"),
        (
            name.starts_with('-') || name.ends_with('-'),
            "must not begin or end with a hyphen",
        ),
    ]
    .into_iter()
    .filter_map(|(found, fault)| found.then_some(fault))
    .collect()
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

fn is_local_group(address: Ipv4Addr) -> bool {
    address.octets()[..3] == [224, 0, 0]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_written_as_kubernetes_writes_them() {
        let object = json!({"spec": {"list": [{"limits": {"a/b": "-1"}}], "deep": {"er": 0}}});
        let mut causes = Causes::default();
        walk(&object, &mut causes, |root| {
            let spec = root.child("spec");
            for item in spec.child("list").items() {
                for (_, amount) in item.child("limits").entries() {
                    amount.invalid("x");
                }
            }
            spec.child("deep.er").port();
            root.child("spec.none").required("");
        });
        let found: Vec<_> = causes
            .into_vec()
            .iter()
            .map(|cause| cause.sentence())
            .collect();
        let expected = [
            "spec.list[0].limits[a/b]: Invalid value: \"-1\": x",
            "spec.deep.er: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.none: Required value",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn port_names_follow_rfc_6335() {
        for (name, faults) in [
            ("http", 0),
            ("a-b1", 0),
            ("", 2),
            ("1", 1),
            ("a--b", 1),
            ("-a", 1),
            ("A", 2),
            ("abcdefghijklmnop", 1),
        ] {
            assert_eq!(port_name_faults(name).len(), faults, "{name}");
        }
    }
}
