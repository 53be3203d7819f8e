//! Values: numbers, texts, texts of the input that may be numbers, arrays.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use regex_lite::Regex;

use super::{format, text};

/// A value, or what stands on the stack for an array.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// What was never assigned: 0 and the empty text.
    Unset,
    Number(f64),
    Text(Rc<str>),
    /// A text of the input: compared as a number when it looks like one.
    Input(Rc<str>),
    Regex(Rc<Regex>),
    Array(Rc<Array>),
    /// What was never assigned and was passed to a function, which may make an array of it.
    Perhaps(Rc<Array>),
}

/// An array.
#[derive(Debug, Default)]
pub(super) struct Array {
    pub(super) elements: RefCell<HashMap<Rc<str>, Value>>,
    /// Whether it was used as an array.
    pub(super) used: Cell<bool>,
}

/// Whole numbers below this are written with all their digits: 2^63.
const WHOLE_MAX: f64 = 9_223_372_036_854_775_808.0;

/// How numbers are written as text.
pub(super) type Shape = Rc<str>;

impl Value {
    /// A text.
    pub(super) fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A text of the input.
    pub(super) fn input(text: impl Into<Rc<str>>) -> Self {
        Self::Input(text.into())
    }

    /// 1 or 0.
    pub(super) fn truth(holds: bool) -> Self {
        Self::Number(f64::from(u8::from(holds)))
    }

    /// As a number.
    pub(super) fn number(&self) -> f64 {
        match self {
            Self::Number(value) => *value,
            Self::Text(text) | Self::Input(text) => text::number(text),
            Self::Unset | Self::Regex(_) | Self::Array(_) | Self::Perhaps(_) => 0.0,
        }
    }

    /// As a text; numbers with fractions as `shape` says.
    pub(super) fn to_text(&self, shape: &str) -> Rc<str> {
        match self {
            Self::Number(value) => number_text(*value, shape).into(),
            Self::Text(text) | Self::Input(text) => Rc::clone(text),
            Self::Regex(expression) => expression.as_str().into(),
            Self::Unset | Self::Array(_) | Self::Perhaps(_) => Rc::from(""),
        }
    }

    /// Whether it is true.
    pub(super) fn holds(&self) -> bool {
        match self {
            Self::Number(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Input(text) => match text::whole_number(text) {
                Some(value) => value != 0.0,
                None => !text.is_empty(),
            },
            Self::Unset | Self::Regex(_) | Self::Array(_) | Self::Perhaps(_) => false,
        }
    }

    /// What it is when it is compared as a number.
    fn numeric(&self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            Self::Unset | Self::Perhaps(_) => Some(0.0),
            Self::Input(text) => text::whole_number(text),
            Self::Text(_) | Self::Regex(_) | Self::Array(_) => None,
        }
    }

    /// Compares as numbers when both are some, else as texts. Nothing is less or more than no number.
    pub(super) fn compare(&self, other: &Self, shape: &str) -> Option<Ordering> {
        match (self.numeric(), other.numeric()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => Some(self.to_text(shape).cmp(&other.to_text(shape))),
        }
    }
}

/// Writes a number: whole ones as such, others as `shape` says.
pub(super) fn number_text(value: f64, shape: &str) -> String {
    if value.trunc() == value && value.abs() < WHOLE_MAX {
        return (value as i64).to_string();
    }
    if shape == "%.6g" || !value.is_finite() {
        return format::real(value, 'g', Some(6));
    }
    format::format(shape, &[Value::Number(value)], "%.6g").unwrap_or_default()
}

impl Array {
    /// Its keys: numbers in their order, then texts in theirs.
    pub(super) fn keys(&self) -> Vec<Rc<str>> {
        let mut keys: Vec<(Option<f64>, Rc<str>)> = self
            .elements
            .borrow()
            .keys()
            .map(|key| (text::whole_number(key), Rc::clone(key)))
            .collect();
        keys.sort_by(
            |(left, left_text), (right, right_text)| match (left, right) {
                (Some(left), Some(right)) => left.total_cmp(right).then(left_text.cmp(right_text)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => left_text.cmp(right_text),
            },
        );
        keys.into_iter().map(|(_, key)| key).collect()
    }
}
