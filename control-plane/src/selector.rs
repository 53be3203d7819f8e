//! Label and field selectors: which objects a list, a watch or a deletion is about.
//!
//! Everything they look at lies in the index beside an object, so nothing is parsed for them.

mod fields;
mod labels;

use crate::{
    kinds::KindInfo,
    object::{ObjectRecord, namespace_and_name},
    status::ApiError,
};

use fields::FieldTerm;
use labels::LabelRequirement;

/// Which objects a list, a watch or a collection's deletion is about.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<LabelRequirement>,
    fields: Vec<FieldRequirement>,
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
        let labels = labels::parse(labels.unwrap_or_default()).map_err(ApiError::bad_request)?;
        let fields = fields::parse(fields.unwrap_or_default()).map_err(ApiError::bad_request)?;
        let fields = fields
            .into_iter()
            .map(|term| FieldRequirement::of(info, term))
            .collect::<Result<_, _>>()?;
        Ok(Selector { labels, fields })
    }

    /// Narrows the selection to the object with this name.
    pub(crate) fn named(mut self, name: &str) -> Selector {
        self.fields.push(FieldRequirement {
            field: Field::Name,
            value: name.to_owned(),
            equal: true,
        });
        self
    }

    /// Says whether every object is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Says whether an object is selected.
    pub(crate) fn matches(&self, record: &ObjectRecord) -> bool {
        self.labels
            .iter()
            .all(|requirement| requirement.accepts(record.index.label(&requirement.key)))
            && self
                .fields
                .iter()
                .all(|requirement| requirement.accepts(record))
    }
}

impl FieldRequirement {
    fn of(info: &KindInfo, term: FieldTerm<'_>) -> Result<FieldRequirement, ApiError> {
        let field = match term.name {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            other => match info.fields.iter().position(|known| known.name == other) {
                Some(index) => Field::OfKind(index),
                None => {
                    return Err(ApiError::bad_request(match info.fields {
                        [] => format!(
                            "\"{other}\" is not a known field selector: only \
                             \"metadata.name\", \"metadata.namespace\""
                        ),
                        _ => format!("field label not supported: {other}"),
                    }));
                }
            },
        };
        Ok(FieldRequirement {
            field,
            value: term.value,
            equal: term.equal,
        })
    }

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
