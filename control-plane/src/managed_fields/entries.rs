//! The list `metadata.managedFields`: who owns which fields.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{path::InvalidElement, rest::Fields, set::FieldSet};

/// More managers that do not apply are kept as one: the stock server's number.
const UPDATE_MANAGERS_MAX: usize = 10;

/// Longer lists are not read: no client keeps so many, and each entry is compared with the others.
const ENTRIES_MAX: usize = 1000;

/// Who owns what was owned by the oldest managers that are too many.
const ANCIENT: &str = "ancient-changes";

/// Who owns what, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    list: Vec<Entry>,
}

/// The fields of one manager. Invariant: no two entries of a list have the same owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    pub(super) api_version: String,
    pub(super) time: Option<Timestamp>,
    pub(super) fields: Fields,
}

/// Whose text a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This program's: fields may stay the text that [`Entries::encode`] made of them.
    Stored,
    /// A client's, who says what he likes.
    Sent,
}

/// Whose fields an entry tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) manager: String,
    pub(super) operation: Operation,
    /// For updates only: whoever applies has one set of fields, in whatever version.
    version: Option<String>,
    pub(super) subresource: String,
}

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Apply,
    Update,
}

/// A list that is not as `managedFields` are.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidEntries(String);

impl Owner {
    pub(super) fn new(
        manager: &str,
        operation: Operation,
        version: &str,
        subresource: &str,
    ) -> Owner {
        Owner {
            manager: manager.to_owned(),
            operation,
            version: (operation == Operation::Update).then(|| version.to_owned()),
            subresource: subresource.to_owned(),
        }
    }
}

/// Writes the owner as conflicts name it.
impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match &self.version {
            Some(version) => write!(f, " using {version}"),
            None => Ok(()),
        }
    }
}

impl Entries {
    /// Reads a list; an absent one has no entries.
    pub(super) fn decode(list: &Value, source: Source) -> Result<Entries, InvalidEntries> {
        let mut entries = Entries::default();
        if list.as_array().is_some_and(|list| list.len() > ENTRIES_MAX) {
            return Err(InvalidEntries(format!("more than {ENTRIES_MAX} entries")));
        }
        for (place, entry) in list.as_array().into_iter().flatten().enumerate() {
            let entry = Entry::decode(place, entry, source)?;
            entries.put(entry);
        }
        Ok(entries)
    }

    /// Reads the fields of all entries.
    pub(super) fn open(&mut self) -> Result<(), InvalidEntries> {
        let mut all = self.list.iter_mut();
        all.try_for_each(|entry| entry.fields.open().map_err(|error| unreadable(&error)))
    }

    /// Writes the list, in the order in which Kubernetes sorts it, fields as text; nothing without entries.
    pub(crate) fn encode(mut self) -> Option<Value> {
        self.list.sort_by(|a, b| {
            let key = |entry: &Entry| (entry.owner.operation, entry.seconds());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.owner.manager.cmp(&b.owner.manager))
                .then_with(|| a.api_version.cmp(&b.api_version))
                .then_with(|| a.owner.subresource.cmp(&b.owner.subresource))
        });
        let list: Vec<_> = self.list.into_iter().map(Entry::encode).collect();
        (!list.is_empty()).then_some(Value::Array(list))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.list.iter_mut()
    }

    pub(super) fn take(&mut self, owner: &Owner) -> Option<Entry> {
        let place = self.list.iter().position(|entry| entry.owner == *owner)?;
        Some(self.list.swap_remove(place))
    }

    /// Adds an entry, in the place of one of the same owner.
    pub(super) fn put(&mut self, entry: Entry) {
        match self.list.iter_mut().find(|old| old.owner == entry.owner) {
            Some(old) => *old = entry,
            None => self.list.push(entry),
        }
    }

    /// Drops who owns nothing, and who wrote in a version that is not served any more.
    pub(super) fn prune(&mut self, version: &str) {
        let served = |entry: &Entry| entry.api_version == version;
        self.list
            .retain(|entry| served(entry) && !entry.fields.is_empty());
    }

    /// Unites the oldest managers that do not apply, until there are few enough.
    pub(super) fn cap(&mut self) {
        let update = |entry: &Entry| entry.owner.operation == Operation::Update;
        let count = self.list.iter().filter(|entry| update(entry)).count();
        if count <= UPDATE_MANAGERS_MAX {
            return;
        }
        self.list.sort_by(|a, b| {
            let key = |entry: &Entry| (!update(entry), entry.seconds());
            key(a).cmp(&key(b)).then_with(|| a.owner.cmp(&b.owner))
        });
        // One entry takes the place of those it unites.
        let old: Vec<Entry> = self.list.drain(..=count - UPDATE_MANAGERS_MAX).collect();
        let mut united: Option<Entry> = None;
        for entry in old {
            let owner = Owner::new(ANCIENT, Operation::Update, &entry.api_version, "");
            let ancient = united.get_or_insert_with(|| Entry {
                owner,
                api_version: entry.api_version.clone(),
                time: None,
                fields: Fields::Set(FieldSet::default()),
            });
            ancient.time = entry.time.or(ancient.time);
            ancient.fields.unite(entry.fields);
        }
        if let Some(mut ancient) = united {
            if let Some(older) = self.take(&ancient.owner) {
                ancient.fields.unite(older.fields);
            }
            self.list.push(ancient);
        }
    }
}

impl Entry {
    fn seconds(&self) -> i64 {
        self.time.map_or(0, Timestamp::as_second)
    }

    fn decode(place: usize, entry: &Value, source: Source) -> Result<Entry, InvalidEntries> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let refuse = |why: String| Err(InvalidEntries(why));
        let operation = match text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return refuse("operation must be `Apply` or `Update`".to_owned()),
        };
        if text("apiVersion").is_empty() {
            return refuse("apiVersion must not be empty".to_owned());
        }
        match text("fieldsType") {
            "FieldsV1" => (),
            "" => {
                return refuse(format!(
                    "missing fieldsType in managed fields entry {place}"
                ));
            }
            other => {
                return refuse(format!(
                    "invalid fieldsType {other:?} in managed fields entry {place}"
                ));
            }
        }
        let fields = match (entry.get("fieldsV1"), source) {
            (Some(Value::String(text)), Source::Stored) => Fields::Text(text.as_str().into()),
            (fields, _) => {
                let set = FieldSet::decode(fields.unwrap_or(&Value::Null));
                Fields::Set(set.map_err(|error| unreadable(&error))?)
            }
        };
        let version = text("apiVersion");
        Ok(Entry {
            owner: Owner::new(text("manager"), operation, version, text("subresource")),
            api_version: version.to_owned(),
            time: text("time").parse().ok(),
            fields,
        })
    }

    fn encode(self) -> Value {
        let mut entry = Map::new();
        let mut text = |name: &str, value: &str| {
            if !value.is_empty() {
                entry.insert(name.to_owned(), Value::from(value));
            }
        };
        text("manager", &self.owner.manager);
        text("operation", self.owner.operation.as_str());
        text("apiVersion", &self.api_version);
        text("fieldsType", "FieldsV1");
        text("subresource", &self.owner.subresource);
        if let Some(time) = self.time {
            text("time", &time.to_string());
        }
        entry.insert("fieldsV1".to_owned(), self.fields.into_text().into());
        Value::Object(entry)
    }
}

fn unreadable(error: &InvalidElement) -> InvalidEntries {
    InvalidEntries(format!("error decoding set: {error}"))
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Says whether a client asks to forget who owns what: `[]` or `[{}]`.
pub(super) fn is_reset(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => *only == json!({}),
        _ => false,
    }
}

/// Says whether two lists differ at most in their times.
pub(super) fn same_but_for_times(a: &Value, b: &Value) -> bool {
    let (a, b) = (list(a), list(b));
    let same = |(a, b): (&Value, &Value)| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => timeless(a).eq(timeless(b)),
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

fn list(entries: &Value) -> &[Value] {
    entries.as_array().map_or(&[], Vec::as_slice)
}

fn timeless(entry: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    entry.iter().filter(|(name, _)| *name != "time")
}
