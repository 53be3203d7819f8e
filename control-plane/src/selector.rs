//! Label and field selectors.

use crate::{
    kinds::KindInfo,
    object::{ObjectRecord, namespace_and_name},
    status::ApiError,
};

/// Which objects a list, a watch or a collection's deletion is about.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<LabelRequirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Debug, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    test: LabelTest,
}

#[derive(Debug, PartialEq, Eq)]
enum LabelTest {
    Exists,
    Missing,
    In(Vec<String>),
    /// Also true when the label is missing.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Debug, PartialEq, Eq)]
struct FieldRequirement {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    /// A position in the kind's table.
    OfKind(usize),
}

impl Selector {
    /// Reads the two query parameters.
    pub(crate) fn parse(
        info: &KindInfo,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Selector, ApiError> {
        let labels = LabelParser::new(labels.unwrap_or_default()).all()?;
        let fields = field_requirements(info, fields.unwrap_or_default())?;
        Ok(Selector { labels, fields })
    }

    /// Says whether every object is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Says whether an object is selected.
    pub(crate) fn matches(&self, record: &ObjectRecord) -> bool {
        self.labels.iter().all(|requirement| {
            let value = record.index.label(&requirement.key);
            requirement.test.accepts(value)
        }) && self
            .fields
            .iter()
            .all(|requirement| requirement.accepts(record))
    }
}

impl LabelTest {
    fn accepts(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            LabelTest::Exists => value.is_some(),
            LabelTest::Missing => value.is_none(),
            LabelTest::In(known) => value.is_some_and(|value| known.iter().any(|k| k == value)),
            LabelTest::NotIn(known) => value.is_none_or(|value| known.iter().all(|k| k != value)),
            LabelTest::Above(bound) => number().is_some_and(|number| number > *bound),
            LabelTest::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl FieldRequirement {
    fn accepts(&self, record: &ObjectRecord) -> bool {
        let (namespace, name) = namespace_and_name(&record.key);
        let found = match self.field {
            Field::Name => name,
            Field::Namespace => namespace,
            Field::OfKind(index) => record.index.fields.get(index).map_or("", |value| &**value),
        };
        (found == self.value) == self.equal
    }
}

fn field_requirements(info: &KindInfo, text: &str) -> Result<Vec<FieldRequirement>, ApiError> {
    text.split(',')
        .filter(|term| !term.is_empty())
        .map(|term| field_term(info, term))
        .collect()
}

fn field_term(info: &KindInfo, term: &str) -> Result<FieldRequirement, ApiError> {
    let split = ["!=", "==", "="].iter().find_map(|sign| {
        term.split_once(sign)
            .map(|(name, value)| (name, value, *sign != "!="))
    });
    let Some((name, value, equal)) = split else {
        return Err(ApiError::bad_request(format!(
            "unable to parse requirement: invalid selector: '{term}'; can't understand '{term}'"
        )));
    };
    let field = match name {
        "metadata.name" => Field::Name,
        "metadata.namespace" => Field::Namespace,
        other => match info.fields.iter().position(|known| known.name == other) {
            Some(index) => Field::OfKind(index),
            None => {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {other}"
                )));
            }
        },
    };
    Ok(FieldRequirement {
        field,
        value: value.to_owned(),
        equal,
    })
}

/// Reads `a=b,c!=d,e in (f,g),!h`.
struct LabelParser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> LabelParser<'a> {
    fn new(text: &'a str) -> LabelParser<'a> {
        LabelParser { text, rest: text }
    }

    fn all(mut self) -> Result<Vec<LabelRequirement>, ApiError> {
        let mut requirements = Vec::new();
        self.skip_spaces();
        while !self.rest.is_empty() {
            requirements.push(self.requirement()?);
            self.skip_spaces();
            if !self.rest.is_empty() && !self.take(",") {
                return Err(self.refuse());
            }
            self.skip_spaces();
        }
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<LabelRequirement, ApiError> {
        if self.take("!") {
            let key = self.key()?;
            return Ok(LabelRequirement {
                key,
                test: LabelTest::Missing,
            });
        }
        let key = self.key()?;
        self.skip_spaces();
        let test = if self.rest.is_empty() || self.rest.starts_with(',') {
            LabelTest::Exists
        } else if self.take("!=") {
            LabelTest::NotIn(vec![self.value()?])
        } else if self.take("==") || self.take("=") {
            LabelTest::In(vec![self.value()?])
        } else if self.take(">") {
            LabelTest::Above(self.number()?)
        } else if self.take("<") {
            LabelTest::Below(self.number()?)
        } else {
            match self.word() {
                "in" => LabelTest::In(self.set()?),
                "notin" => LabelTest::NotIn(self.set()?),
                _ => return Err(self.refuse()),
            }
        };
        Ok(LabelRequirement { key, test })
    }

    fn key(&mut self) -> Result<String, ApiError> {
        self.skip_spaces();
        match self.word() {
            key if crate::validate::is_label_key(key) => Ok(key.to_owned()),
            _ => Err(self.refuse()),
        }
    }

    fn value(&mut self) -> Result<String, ApiError> {
        self.skip_spaces();
        match self.word() {
            value if crate::validate::is_label_value(value) => Ok(value.to_owned()),
            _ => Err(self.refuse()),
        }
    }

    fn number(&mut self) -> Result<i64, ApiError> {
        let value = self.value()?;
        value.parse().map_err(|_| self.refuse())
    }

    fn set(&mut self) -> Result<Vec<String>, ApiError> {
        self.skip_spaces();
        if !self.take("(") {
            return Err(self.refuse());
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            self.skip_spaces();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.refuse());
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let special = |letter: char| letter.is_whitespace() || "!=<>(),".contains(letter);
        let end = self.rest.find(special).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn take(&mut self, sign: &str) -> bool {
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn refuse(&self) -> ApiError {
        let read = self.text.len() - self.rest.len();
        ApiError::bad_request(format!(
            "unable to parse requirement: invalid selector: '{}' at position {read}",
            self.text
        ))
    }
}

#[cfg(test)]
mod tests {
    use coracle_store::Revision;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{kinds::served, object};

    fn check(labels: &str, fields: &str, expected: Result<bool, ()>) {
        let info = served("v1", "Pod").expect("pods are served");
        let pod = json!({"metadata": {"name": "web", "labels": {"app": "web", "tier": "2", "e": ""}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let (value, index) = object::encode(info, &pod).render(Revision::from(2));
        let key = "/pods/default/web".into();
        let record = ObjectRecord {
            key,
            revision: Revision::from(2),
            value,
            index,
        };
        let found = Selector::parse(info, Some(labels), Some(fields));
        let found = found
            .map(|selector| selector.matches(&record))
            .map_err(|_| ());
        assert_eq!(found, expected, "{labels} {fields}");
    }

    #[test]
    fn label_selectors_select_as_kubernetes_does() {
        for (labels, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=2", true),
            ("app=web , tier = 3", false),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (a, web)", true),
            ("app notin (a,b),tier", true),
            ("other notin (a)", true),
            ("!app", false),
            ("!other", true),
            ("e=", true),
            ("e", true),
            ("tier>1", true),
            ("tier<2", false),
        ] {
            check(labels, "", Ok(expected));
        }
    }

    #[test]
    fn what_is_no_label_selector_is_refused() {
        for labels in [
            "=", "a b", "a in", "a in (", "a in (b", "a in ()x", "a>x", "-a", "a=/",
        ] {
            check(labels, "", Err(()));
        }
    }

    #[test]
    fn field_selectors_know_only_the_fields_of_the_table() {
        check(
            "",
            "metadata.name=web,metadata.namespace==default",
            Ok(true),
        );
        check("", "spec.nodeName!=n1", Ok(false));
        check("", "status.phase=Running,spec.hostNetwork=false", Ok(true));
        check("", "spec.nodeName=", Ok(false));
        check("", "spec.image=x", Err(()));
        check("", "metadata.name", Err(()));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(labels in ".*", fields in ".*") {
            let info = served("v1", "Pod").expect("pods are served");
            let _ = Selector::parse(info, Some(&labels), Some(&fields));
        }
    }
}
