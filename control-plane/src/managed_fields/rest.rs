//! The fields of one owner as they rest: text, until someone asks which they are.

use std::borrow::Cow;

use super::{path::InvalidElement, set::FieldSet};

/// The fields of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    /// As [`FieldSet::text`] wrote them into a stored object, and not read since.
    Text(Box<str>),
    /// Read, or new.
    Set(FieldSet),
}

impl Fields {
    /// Returns the fields.
    pub(super) fn set(&self) -> Cow<'_, FieldSet> {
        match self {
            Fields::Text(text) => Cow::Owned(read(text)),
            Fields::Set(set) => Cow::Borrowed(set),
        }
    }

    /// Returns the fields.
    pub(super) fn into_set(self) -> FieldSet {
        match self {
            Fields::Text(text) => read(&text),
            Fields::Set(set) => set,
        }
    }

    /// Reads the fields, if nobody has.
    pub(super) fn open(&mut self) -> Result<(), InvalidElement> {
        if let Fields::Text(text) = self {
            *self = Fields::Set(FieldSet::read(text)?);
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Fields::Text(text) => &**text == "{}",
            Fields::Set(set) => set.is_empty(),
        }
    }

    /// Removes the paths of a set; text that names none of them stays text.
    pub(super) fn subtract(&mut self, doomed: &FieldSet) {
        match self {
            Fields::Text(text) if !doomed.may_share(text) => (),
            Fields::Text(text) => {
                let mut set = read(text);
                set.subtract(doomed);
                *self = Fields::Set(set);
            }
            Fields::Set(set) => set.subtract(doomed),
        }
    }

    /// Adds the fields of another one.
    pub(super) fn unite(&mut self, other: Fields) {
        let mut set = std::mem::replace(self, Fields::Set(FieldSet::default())).into_set();
        set.unite(other.into_set());
        *self = Fields::Set(set);
    }

    /// Returns the fields as text.
    pub(super) fn into_text(self) -> String {
        match self {
            Fields::Text(text) => text.into(),
            Fields::Set(set) => set.text(),
        }
    }
}

/// What a later version has written in a way that this one does not know belongs to nobody.
fn read(text: &str) -> FieldSet {
    FieldSet::read(text).unwrap_or_default()
}
