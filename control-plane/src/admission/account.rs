//! Pods run as a service account of their namespace: its name, its pull secrets, and the volume by
//! which a program in the pod speaks to the API.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Request, known};
use crate::{
    controllers::{ROOT_CA, ROOT_CA_FILE},
    object::{self, ObjectStore},
    request::Call,
    status::ApiError,
    verbs::name_suffix,
};

const DEFAULT: &str = "default";

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Where a program finds its token, the API's certificates and its namespace.
const API_ACCESS_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const API_ACCESS_VOLUME: &str = "kube-api-access-";
/// An hour and seven seconds: by it the stock server tells tokens it gave itself from asked-for ones.
const API_ACCESS_SECONDS: i64 = 60 * 60 + 7;

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
    if wants_token(pod, &account) {
        mount_token(pod);
    }
    Ok(())
}

/// The pod's word counts before the account's; who says nothing gets a token.
fn wants_token(pod: &Value, account: &Value) -> bool {
    let of_pod = pod["spec"]["automountServiceAccountToken"].as_bool();
    let of_account = account["automountServiceAccountToken"].as_bool();
    of_pod.or(of_account).unwrap_or(true)
}

/// Mounts the account's token into every container that mounts nothing in its place.
fn mount_token(pod: &mut Value) {
    let volumes = pod["spec"]["volumes"].as_array();
    let mut names = volumes.into_iter().flatten();
    let known = names.find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with(API_ACCESS_VOLUME).then(|| name.to_owned())
    });
    let name = known
        .clone()
        .unwrap_or_else(|| API_ACCESS_VOLUME.to_owned() + &name_suffix());
    let mount = json!({"name": name, "readOnly": true, "mountPath": API_ACCESS_PATH});
    let mut is_mounted = false;
    for list in ["initContainers", "containers"] {
        // Indexing for a change would put a `null` where there is no such list.
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array();
            let mut mounts = mounts.into_iter().flatten();
            if mounts.any(|mount| mount["mountPath"] == API_ACCESS_PATH) {
                continue;
            }
            append(&mut container["volumeMounts"], mount.clone());
            is_mounted = true;
        }
    }
    if is_mounted && known.is_none() {
        append(&mut pod["spec"]["volumes"], token_volume(&name));
    }
}

fn append(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": API_ACCESS_SECONDS, "path": "token"}},
        {"configMap": {"name": ROOT_CA, "items": [{"key": ROOT_CA_FILE, "path": ROOT_CA_FILE}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_word_on_its_token_counts_before_the_accounts() {
        let (yes, no, none) = (json!(true), json!(false), Value::Null);
        for (of_pod, of_account, expected) in [
            (&none, &none, true),
            (&none, &no, false),
            (&none, &yes, true),
            (&yes, &no, true),
            (&no, &yes, false),
        ] {
            let pod = json!({"spec": {"automountServiceAccountToken": of_pod}});
            let account = json!({"automountServiceAccountToken": of_account});
            assert_eq!(wants_token(&pod, &account), expected, "{pod} {account}");
        }
    }

    #[test]
    fn every_container_gets_the_token_unless_it_mounts_something_there() {
        let own = json!({"name": "own", "mountPath": API_ACCESS_PATH});
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a", "volumeMounts": [own]}, {"name": "b",
                "volumeMounts": [{"name": "own", "mountPath": "/x"}]}],
            "volumes": [{"name": "own", "emptyDir": {}}]}});
        mount_token(&mut pod);
        let spec = &pod["spec"];
        let name = &spec["volumes"][1]["name"];
        let mount = json!({"name": name, "readOnly": true, "mountPath": API_ACCESS_PATH});
        let text = name.as_str().expect("a volume was added");
        assert_eq!(text.len(), API_ACCESS_VOLUME.len() + 5, "{text}");
        assert_eq!(spec["initContainers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(spec["containers"][0]["volumeMounts"], json!([own]));
        assert_eq!(spec["containers"][1]["volumeMounts"][1], mount);
        assert_eq!(spec["volumes"][1], token_volume(text));
    }

    /// A pod that was read and is created anew keeps its volume.
    #[test]
    fn a_volume_that_is_there_is_used() {
        let there = token_volume("kube-api-access-abcde");
        let mut pod = json!({"spec": {"containers": [{"name": "a"}], "volumes": [there]}});
        mount_token(&mut pod);
        let mount = &pod["spec"]["containers"][0]["volumeMounts"][0];
        assert_eq!(mount["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["volumes"], json!([there]));
        assert_eq!(pod["spec"].get("initContainers"), None);
    }
}
