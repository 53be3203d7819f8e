//! Which Services of a namespace may select a pod with given labels, without asking all of them.

use std::{collections::HashMap, sync::Arc};

use super::seen::Labels;

/// Services by one label that they select by. Each stands where the fewest others do, so that a label
/// that many Services share, as that of an application, does not lead to all of them.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    by_label: HashMap<String, HashMap<String, Vec<Arc<str>>>>,
    /// By Service, the label that it stands at.
    places: HashMap<Arc<str>, (String, String)>,
}

impl Selectors {
    /// Adds a Service, or moves it; one without a selector selects nothing.
    pub(super) fn set(&mut self, service: &Arc<str>, selector: &Labels) {
        self.remove(service);
        let crowd = |(key, value): &(&String, &String)| {
            let values = self.by_label.get(*key);
            values
                .and_then(|values| values.get(*value))
                .map_or(0, Vec::len)
        };
        let Some((key, value)) = selector.iter().min_by_key(crowd) else {
            return;
        };
        let values = self.by_label.entry(key.clone()).or_default();
        let services = values.entry(value.clone()).or_default();
        services.push(Arc::clone(service));
        let place = (key.clone(), value.clone());
        self.places.insert(Arc::clone(service), place);
    }

    pub(super) fn remove(&mut self, service: &str) {
        let Some((key, value)) = self.places.remove(service) else {
            return;
        };
        let Some(values) = self.by_label.get_mut(&key) else {
            return;
        };
        if let Some(services) = values.get_mut(&value) {
            services.retain(|one| **one != *service);
            if services.is_empty() {
                values.remove(&value);
            }
        }
        if values.is_empty() {
            self.by_label.remove(&key);
        }
    }

    /// Returns the Services that have one of these labels in their selectors, each once.
    pub(super) fn candidates<'a>(
        &'a self,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let found = labels.iter().filter_map(|(key, value)| {
            let values = self.by_label.get(key)?;
            values.get(value)
        });
        found.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn check(selectors: &Selectors, pod: &[(&str, &str)], expected: &[&str]) {
        let pod = labels(pod);
        let mut found: Vec<&str> = selectors.candidates(&pod).map(|one| &**one).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_pod_leads_to_the_services_that_may_select_it() {
        let mut selectors = Selectors::default();
        for (name, selector) in [
            ("one", &[("app", "a"), ("tier", "x")][..]),
            ("two", &[("app", "a"), ("tier", "y")]),
            ("all", &[("app", "a")]),
            ("none", &[]),
        ] {
            selectors.set(&name.into(), &labels(selector));
        }
        // "one" came first and stands at `app`, "two" where nobody stood, "all" has no choice.
        check(&selectors, &[("app", "a")], &["all", "one"]);
        check(
            &selectors,
            &[("app", "a"), ("tier", "y")],
            &["all", "one", "two"],
        );
        check(&selectors, &[("app", "b")], &[]);
        selectors.set(&"all".into(), &labels(&[("app", "b")]));
        selectors.remove("one");
        check(&selectors, &[("app", "a")], &[]);
        check(&selectors, &[("app", "b"), ("tier", "y")], &["all", "two"]);
        selectors.remove("two");
        selectors.remove("all");
        assert!(selectors.by_label.is_empty() && selectors.places.is_empty());
    }
}
