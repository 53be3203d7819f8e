//! What may change by `pods/ephemeralcontainers`: containers are added, and never touched again.

use serde_json::Value;

use super::super::{elements, walk};
use super::{change, metadata, spec};
use crate::invalid::Causes;

/// Checks a pod with more ephemeral containers, and that those it had are as they were. Their order may
/// change, since that of a patch does.
pub(crate) fn ephemeral_containers(object: &Value, old: &Value, causes: &mut Causes) {
    if !old["metadata"]["annotations"][change::MIRROR].is_null() {
        return causes.forbidden("", "static pods do not support ephemeral containers");
    }
    walk(object, causes, |root| {
        metadata(root);
        spec(root);
        let list = root.child("spec.ephemeralContainers");
        for known in elements(&old["spec"]["ephemeralContainers"]) {
            let name = &known["name"];
            match elements(list.value).find(|new| new["name"] == *name) {
                None => list.forbidden(&format!(
                    "existing ephemeral containers {name} may not be removed\n"
                )),
                Some(new) if new != known => {
                    let differences = change::differences(known, new);
                    list.forbidden(&format!(
                        "existing ephemeral containers {name} may not be changed\n{differences}"
                    ));
                }
                Some(_) => (),
            }
        }
    });
}
