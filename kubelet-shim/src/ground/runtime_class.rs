//! Whether this node has the runtime handler that a pod's RuntimeClass names.

use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;

/// The runtime handlers of this node, which are all the same: those of our own names, and those of the runtimes
/// whose programs we run. A program that needs what only one of them offers is refused by what it imports.
pub(crate) const RUNTIME_HANDLERS: [&str; 7] = [
    "coracle", "spin", "wasi", "wasm", "wasmedge", "wasmer", "wasmtime",
];

/// Why there is no sandbox of a class.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClassError {
    #[error("failed to lookup RuntimeClass {name}")]
    Fetch {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("RuntimeClass.node.k8s.io \"{0}\" not found")]
    Missing(String),
    // containerd's words, and which there are.
    #[error("no runtime for \"{0}\" is configured: this node has {all}", all = RUNTIME_HANDLERS.join(", "))]
    Handler(String),
}

/// Looks the class up and its handler.
pub(super) async fn check(client: &kube::Client, name: &str) -> Result<(), ClassError> {
    let classes = Api::<RuntimeClass>::all(client.clone());
    let class = classes
        .get_opt(name)
        .await
        .map_err(|source| ClassError::Fetch {
            name: name.to_owned(),
            source,
        })?;
    let handler = class
        .ok_or_else(|| ClassError::Missing(name.to_owned()))?
        .handler;
    match RUNTIME_HANDLERS.contains(&handler.as_str()) {
        true => Ok(()),
        false => Err(ClassError::Handler(handler)),
    }
}
