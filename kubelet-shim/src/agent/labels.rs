//! The labels of this node's object, which pods select it by. Anybody may change them.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;

/// A server that does not answer in this time is not waited for: no other pod is taken in meanwhile.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// The labels of this node, as far as they are known.
pub(super) struct NodeLabels {
    api: Api<Node>,
    name: String,
    known: BTreeMap<String, String>,
}

impl NodeLabels {
    /// Begins with the labels that the node was registered with.
    pub(super) fn new(
        client: kube::Client,
        name: &str,
        known: &BTreeMap<String, String>,
    ) -> NodeLabels {
        NodeLabels {
            api: Api::all(client),
            name: name.to_owned(),
            known: known.clone(),
        }
    }

    /// Says which label of a `nodeSelector` the node does not have. Before it says so it looks at the node's
    /// object: the scheduler, which sent the pod, may have seen a label that came later.
    pub(super) async fn mismatch(&mut self, selector: &BTreeMap<String, String>) -> Option<String> {
        self.missing(selector)?;
        self.look().await;
        self.missing(selector).map(|(key, value)| {
            format!("Predicate NodeAffinity failed: node has no label {key}={value}")
        })
    }

    fn missing<'s>(
        &self,
        selector: &'s BTreeMap<String, String>,
    ) -> Option<(&'s String, &'s String)> {
        let mut wanted = selector.iter();
        wanted.find(|(key, value)| self.known.get(*key) != Some(value))
    }

    /// What was known stays when the server does not tell.
    async fn look(&mut self) {
        let node = self.api.get_metadata(&self.name);
        match tokio::time::timeout(LOOKUP_MAX, node).await {
            Ok(Ok(node)) => self.known = node.metadata.labels.unwrap_or_default(),
            Ok(Err(error)) => {
                tracing::warn!(node = %self.name, %error, "failed to look up the node's labels");
            }
            Err(_) => {
                tracing::warn!(node = %self.name, "the node's labels are not told in time");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// A node registered with the label `a=1`, whose object has other labels by now, or is not told.
    fn node(present: Option<BTreeMap<String, String>>) -> (NodeLabels, Arc<AtomicUsize>) {
        let asked = Arc::<AtomicUsize>::default();
        let counter = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            counter.fetch_add(1, Ordering::Relaxed);
            assert_eq!(request.uri().path(), "/api/v1/nodes/n");
            let (code, body) = match &present {
                Some(labels) => {
                    let metadata = json!({"name": "n", "labels": labels});
                    let kind = "PartialObjectMetadata";
                    let node =
                        json!({"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": metadata});
                    (200, node)
                }
                None => (500, json!({})),
            };
            let body = Full::new(Bytes::from(body.to_string()));
            let response = Response::builder().status(code).body(body);
            async { Ok::<_, kube::Error>(response.expect("a response")) }
        });
        let client = kube::Client::new(service, "default");
        let known = labels(&[("a", "1")]);
        (NodeLabels::new(client, "n", &known), asked)
    }

    #[tokio::test]
    async fn a_label_that_came_later_counts_and_one_that_is_gone_does_not() {
        let present = labels(&[("b", "2")]);
        let (mut node, asked) = node(Some(present));
        assert_eq!(node.mismatch(&labels(&[("a", "1")])).await, None);
        assert_eq!(asked.load(Ordering::Relaxed), 0, "what is known is enough");
        assert_eq!(node.mismatch(&labels(&[("b", "2")])).await, None);
        assert_eq!(node.mismatch(&labels(&[("b", "2")])).await, None);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let told = "Predicate NodeAffinity failed: node has no label a=1";
        let refused = node.mismatch(&labels(&[("a", "1")])).await;
        assert_eq!(refused.as_deref(), Some(told));
    }

    #[tokio::test]
    async fn a_server_that_does_not_tell_leaves_what_was_known() {
        let (mut node, _) = node(None);
        let told = "Predicate NodeAffinity failed: node has no label b=2";
        let refused = node.mismatch(&labels(&[("b", "2")])).await;
        assert_eq!(refused.as_deref(), Some(told));
        assert_eq!(node.mismatch(&labels(&[("a", "1")])).await, None);
    }
}
