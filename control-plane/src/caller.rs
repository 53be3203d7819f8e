//! Who asks: what authentication found out, for authorization and for what is written down.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The group of everyone who has proved who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// The group of everyone else.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// The user behind a request. A front that takes connections puts it into a request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name, such as `kubernetes-admin` or `system:serviceaccount:default:default`.
    pub name: String,
    /// An identifier that outlives the name, empty if there is none.
    pub uid: String,
    /// The groups, in the order in which authentication gave them.
    pub groups: Vec<String>,
    /// What else authentication knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// Returns who asks when a request never left the process and names nobody: this program.
    pub(crate) fn in_process() -> Caller {
        Caller {
            name: "system:apiserver".to_owned(),
            uid: String::new(),
            groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    /// Returns who asks when a request says nothing about it.
    pub(crate) fn anonymous() -> Caller {
        Caller {
            name: "system:anonymous".to_owned(),
            uid: String::new(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            extra: BTreeMap::new(),
        }
    }

    /// Returns the user as objects carry it; what is empty is left out.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name});
        if !self.uid.is_empty() {
            info["uid"] = Value::from(self.uid.as_str());
        }
        if !self.groups.is_empty() {
            info["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }

    /// Says whether the user is in a group.
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|known| known == group)
    }
}
