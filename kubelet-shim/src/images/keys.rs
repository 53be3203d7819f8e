//! The Secrets by which a pod's images are pulled: `imagePullSecrets` into credentials for one registry.

use std::sync::Arc;

use coracle_registry::{Credentials, Reference};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::events::{PodEvents, Severity};
use crate::spec::PodSpecPlan;

/// Where Docker's files stand in a Secret: the present format, and the one before it.
const CONFIG_KEY: &str = ".dockerconfigjson";
const OLD_CONFIG_KEY: &str = ".dockercfg";

/// A pod's pull secrets, read when an image is pulled.
pub(crate) struct PullKeys {
    pub(crate) client: kube::Client,
    pub(crate) pod: Arc<PodSpecPlan>,
    pub(crate) events: Arc<PodEvents>,
}

impl PullKeys {
    /// Returns what the Secrets say for the registry of an image, in their order. Of those that cannot be
    /// used an event tells, and the pull goes on without them.
    pub(super) async fn find(&self, reference: &Reference) -> Vec<Credentials> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.pod.key.namespace);
        let mut found = Vec::new();
        let mut unusable = Vec::new();
        for name in &self.pod.pull_secrets {
            let credentials = match secrets.get_opt(name).await {
                Ok(Some(secret)) => credentials(&secret, reference),
                Ok(None) => Err("it does not exist".to_owned()),
                Err(error) => Err(super::describe(&error)),
            };
            match credentials {
                Ok(credentials) => found.extend(credentials),
                Err(why) => {
                    tracing::warn!(pod = %self.pod.key, secret = name, why, "a pull secret is left out");
                    unusable.push(name.as_str());
                }
            }
        }
        if !unusable.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not \
                 succeed.",
                unusable.join(", ")
            );
            let reason = "FailedToRetrieveImagePullSecret";
            self.events.emit(Severity::Warning, reason, message, None);
        }
        found
    }
}

/// Returns what a Secret says for the registry of an image, if anything.
fn credentials(secret: &Secret, reference: &Reference) -> Result<Option<Credentials>, String> {
    let data = secret.data.as_ref();
    let value = |key: &str| data.and_then(|data| data.get(key)).map(|value| &value.0);
    if let Some(config) = value(CONFIG_KEY) {
        return Credentials::from_docker_json(config, reference);
    }
    let Some(old) = value(OLD_CONFIG_KEY) else {
        return Err(format!(
            "it has neither `{CONFIG_KEY}` nor `{OLD_CONFIG_KEY}`"
        ));
    };
    // The old format is the inner part of the new one.
    let auths: serde_json::Value = serde_json::from_slice(old).map_err(|e| e.to_string())?;
    let config = serde_json::json!({"auths": auths}).to_string();
    Credentials::from_docker_json(config.as_bytes(), reference)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(data: Value, expected: Result<Option<&str>, ()>) {
        let secret = json!({"metadata": {"name": "s"}, "stringData": data});
        let mut secret: Secret = serde_json::from_value(secret).unwrap();
        let text = secret.string_data.take().into_iter().flatten();
        let bytes = text.map(|(k, v)| (k, k8s_openapi::ByteString(v.into_bytes())));
        secret.data = Some(bytes.collect());
        let reference = "registry.example/team/app:1".parse().unwrap();
        let found = credentials(&secret, &reference).map_err(drop);
        let name = found.map(|found| {
            found.map(|found| match found {
                Credentials::Basic { username, .. } => username,
                Credentials::Identity { .. } => "token".to_owned(),
            })
        });
        assert_eq!(name, expected.map(|name| name.map(str::to_owned)), "{data}");
    }

    #[test]
    fn both_formats_of_a_pull_secret_are_read() {
        let auths = json!({
            "https://registry.example/v1/": {"username": "me", "password": "x"},
            "other.example": {"username": "you", "password": "x"},
        });
        let config = json!({"auths": auths});
        check(json!({CONFIG_KEY: config.to_string()}), Ok(Some("me")));
        check(json!({OLD_CONFIG_KEY: auths.to_string()}), Ok(Some("me")));
        check(json!({CONFIG_KEY: "{\"auths\":{}}"}), Ok(None));
        check(json!({CONFIG_KEY: "no"}), Err(()));
        check(json!({OLD_CONFIG_KEY: "no"}), Err(()));
        check(json!({"password": "x"}), Err(()));
    }
}
