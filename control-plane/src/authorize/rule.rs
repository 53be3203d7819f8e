//! One rule of a role, and when it covers what is wanted.

use serde_json::{Value, json};

use super::{Attributes, attributes::ResourceAttributes};

/// Stands for every verb, group, resource or path.
const ALL: &str = "*";

/// What a rule permits. A rule speaks of resources or of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) paths: Vec<String>,
}

impl Rule {
    /// Reads the rules of a role.
    pub(crate) fn of_role(role: &Value) -> Vec<Rule> {
        let rules = role["rules"].as_array();
        rules.into_iter().flatten().map(Rule::read).collect()
    }

    pub(crate) fn read(rule: &Value) -> Rule {
        let list = |field: &str| {
            let words = rule[field].as_array();
            let words = words.into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        };
        Rule {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    /// Returns the rule as objects carry it.
    pub(crate) fn to_json(&self) -> Value {
        let mut rule = json!({"verbs": self.verbs});
        for (field, words) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ] {
            if !words.is_empty() {
                rule[field] = json!(words);
            }
        }
        rule
    }

    /// Says whether the rule permits this.
    pub(crate) fn permits(&self, wanted: &Attributes) -> bool {
        match wanted {
            Attributes::Path { verb, path } => {
                has(&self.verbs, verb) && self.paths.iter().any(|rule| path_covers(rule, path))
            }
            Attributes::Resource(wanted) => {
                has(&self.verbs, &wanted.verb)
                    && has(&self.groups, &wanted.group)
                    && self.permits_resource(wanted)
                    && (self.names.is_empty() || self.names.contains(&wanted.name))
            }
        }
    }

    fn permits_resource(&self, wanted: &ResourceAttributes) -> bool {
        let full = wanted.full_resource();
        self.resources.iter().any(|rule| {
            // `*/scale` stands for the subresource of every resource.
            let every = || rule.strip_prefix("*/") == Some(wanted.subresource.as_str());
            rule == ALL || *rule == full || (!wanted.subresource.is_empty() && every())
        })
    }

    /// Says whether whoever holds this rule holds all that `part` permits; a part has one verb and
    /// one resource or path.
    pub(crate) fn covers(&self, part: &Rule) -> bool {
        let every = |mine: &[String], theirs: &[String]| theirs.iter().all(|word| has(mine, word));
        let resources = part.resources.iter().all(|resource| {
            let subresource = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            has(&self.resources, resource)
                || subresource.is_some_and(|every| self.resources.contains(&every))
        });
        let paths = part
            .paths
            .iter()
            .all(|path| self.paths.iter().any(|mine| path_covers(mine, path)));
        let names = self.names.is_empty()
            || (!part.names.is_empty() && part.names.iter().all(|name| self.names.contains(name)));
        every(&self.verbs, &part.verbs)
            && every(&self.groups, &part.groups)
            && resources
            && names
            && paths
    }

    /// Returns the rule as rules with one verb and one resource, name or path each.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Rule> + '_ {
        let one = |word: &str| vec![word.to_owned()];
        let names: Vec<Option<&str>> = match self.names.as_slice() {
            [] => vec![None],
            names => names.iter().map(|name| Some(name.as_str())).collect(),
        };
        let resources = self.groups.iter().flat_map(move |group| {
            let names = names.clone();
            self.resources.iter().flat_map(move |resource| {
                let names = names.clone();
                self.verbs.iter().flat_map(move |verb| {
                    names.clone().into_iter().map(move |name| Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names: name.map(one).unwrap_or_default(),
                        paths: Vec::new(),
                    })
                })
            })
        });
        let paths = self.paths.iter().flat_map(move |path| {
            self.verbs.iter().map(move |verb| Rule {
                verbs: one(verb),
                paths: one(path),
                ..Rule::default()
            })
        });
        resources.chain(paths)
    }

    /// Words the rule as the stock server does in refusals.
    pub(crate) fn describe(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.paths),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let parts = parts.iter().filter(|(_, words)| !words.is_empty());
        let parts: Vec<_> = parts
            .map(|(name, words)| format!("{name}:{}", quoted_list(words)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// Writes `["a" "b"]`.
pub(super) fn quoted_list(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

fn has(words: &[String], wanted: &str) -> bool {
    words.iter().any(|word| word == ALL || word == wanted)
}

/// A rule's path covers itself, and with a `*` at its end everything that begins so.
fn path_covers(rule: &str, path: &str) -> bool {
    rule == ALL
        || rule == path
        || rule
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Rule {
            verbs: own(verbs),
            groups: own(groups),
            resources: own(resources),
            names: own(names),
            paths: Vec::new(),
        }
    }

    #[test]
    fn a_rule_permits_what_it_names() {
        let check = |rule: Rule, wanted: (&str, &str, &str, &str, &str), expected: bool| {
            let (verb, group, resource, subresource, name) = wanted;
            let own = str::to_owned;
            let attributes = Attributes::Resource(ResourceAttributes {
                verb: own(verb),
                group: own(group),
                resource: own(resource),
                subresource: own(subresource),
                name: own(name),
                ..ResourceAttributes::default()
            });
            assert_eq!(rule.permits(&attributes), expected, "{rule:?} {wanted:?}");
        };
        let pods = || rule(&["get"], &[""], &["pods"], &[]);
        check(pods(), ("get", "", "pods", "", "a"), true);
        check(pods(), ("list", "", "pods", "", ""), false);
        check(pods(), ("get", "apps", "pods", "", "a"), false);
        check(pods(), ("get", "", "pods", "log", "a"), false);
        let all = || rule(&["*"], &["*"], &["*"], &[]);
        check(all(), ("delete", "apps", "deployments", "scale", "a"), true);
        let logs = || rule(&["get"], &[""], &["pods/log"], &[]);
        check(logs(), ("get", "", "pods", "log", "a"), true);
        check(logs(), ("get", "", "pods", "", "a"), false);
        let scales = || rule(&["get"], &["*"], &["*/scale"], &[]);
        check(scales(), ("get", "apps", "deployments", "scale", "a"), true);
        check(scales(), ("get", "apps", "deployments", "", "a"), false);
        let named = || rule(&["get", "list"], &[""], &["configmaps"], &["a"]);
        check(named(), ("get", "", "configmaps", "", "a"), true);
        check(named(), ("get", "", "configmaps", "", "b"), false);
        check(named(), ("list", "", "configmaps", "", ""), false);
    }

    #[test]
    fn paths_end_in_a_star() {
        for (rule, path, expected) in [
            ("/api", "/api", true),
            ("/api", "/api/v1", false),
            ("/api/*", "/api/v1", true),
            ("/healthz*", "/healthz/ping", true),
            ("*", "/anything", true),
        ] {
            assert_eq!(path_covers(rule, path), expected, "{rule} {path}");
        }
    }

    #[test]
    fn only_what_is_held_is_covered() {
        let holds = |mine: Rule, theirs: Rule| theirs.parts().all(|part| mine.covers(&part));
        let pods = rule(&["get", "list"], &[""], &["pods"], &[]);
        assert!(holds(
            pods.clone(),
            rule(&["get"], &[""], &["pods"], &["a"])
        ));
        assert!(!holds(pods.clone(), rule(&["*"], &[""], &["pods"], &[])));
        assert!(!holds(pods.clone(), rule(&["get"], &["*"], &["pods"], &[])));
        assert!(!holds(
            pods.clone(),
            rule(&["get"], &[""], &["pods/log"], &[])
        ));
        let named = rule(&["get"], &[""], &["pods"], &["a"]);
        assert!(!holds(named, pods));
        let scales = rule(&["get"], &["apps"], &["*/scale"], &[]);
        let wanted = rule(&["get"], &["apps"], &["deployments/scale"], &[]);
        assert!(holds(scales, wanted));
    }

    #[test]
    fn a_rule_is_worded_as_the_stock_server_does() {
        let words = rule(&["get", "list"], &["apps"], &["deployments"], &[]).describe();
        let expected = r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}"#;
        assert_eq!(words, expected);
    }
}
