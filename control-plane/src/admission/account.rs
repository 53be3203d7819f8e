//! Pods run as a service account of their namespace.
//!
//! The volume with the account's token, which the stock server adds here, waits for an agent that
//! projects tokens; until then `automountServiceAccountToken` is kept and has no effect.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Request, known};
use crate::{
    object::{self, ObjectStore},
    request::Call,
    status::ApiError,
};

const DEFAULT: &str = "default";

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A new namespace's account is awaited this long: about as long as the stock server tries.
const DEFAULT_ACCOUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until the namespace of a new pod has its default account, which a controller makes.
pub(super) async fn await_default(store: &ObjectStore, call: &Call, pod: &Value) {
    let request = Request {
        store,
        call,
        old: None,
    };
    if !request.is_for("Pod") || account(pod) != DEFAULT || is_mirror(pod) {
        return;
    }
    let info = known("v1", "ServiceAccount");
    let key = object::key(info, Some(request.namespace()), DEFAULT);
    if store.get(&key).is_some() {
        return;
    }
    let Ok(mut watcher) = store.watch(&key, store.revision()) else {
        return;
    };
    let appears = async {
        let mut events = Vec::new();
        while store.get(&key).is_none() {
            events.clear();
            // The history moves on only if someone writes the key, which ends the wait.
            if std::future::poll_fn(|context| watcher.poll_batch(context, &mut events))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    // Without the account the pod is refused, which says all that there is to say.
    drop(tokio::time::timeout(DEFAULT_ACCOUNT_TIMEOUT, appears).await);
}

/// Gives a new pod its account, which has to exist.
pub(super) fn assign(request: &Request<'_>, pod: &mut Value) -> Result<(), ApiError> {
    if !request.is_for("Pod") || !request.creates() {
        return Ok(());
    }
    if is_mirror(pod) {
        return match pod["spec"]["serviceAccountName"].as_str() {
            None | Some("") => Ok(()),
            Some(_) => {
                Err(request.forbidden(pod, "a mirror pod may not reference service accounts"))
            }
        };
    }
    let name = account(pod).to_owned();
    let Some(account) = request.object(known("v1", "ServiceAccount"), &name) else {
        let namespace = request.namespace();
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not \
             found"
        );
        return Err(request.forbidden(pod, &why));
    };
    self::name(pod);
    let secrets = &account["imagePullSecrets"];
    let none = pod["spec"]["imagePullSecrets"]
        .as_array()
        .is_none_or(Vec::is_empty);
    if none
        && secrets
            .as_array()
            .is_some_and(|secrets| !secrets.is_empty())
    {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

/// Writes the account's name into a pod that names none.
pub(super) fn name(pod: &mut Value) {
    let name = account(pod).to_owned();
    pod["spec"]["serviceAccountName"] = json!(name);
    pod["spec"]["serviceAccount"] = json!(name);
}

fn account(pod: &Value) -> &str {
    let name = pod["spec"]["serviceAccountName"].as_str();
    name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT)
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}
