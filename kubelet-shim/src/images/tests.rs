use coracle_registry::{BuildForm, BuildSpec, Quiet};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::events::{self, PodEvents};
use crate::spec::{HostPathPolicy, check_pod};
use crate::time::Clock;

const NAME: &str = "registry.example/team/app:1";

fn keys() -> PullKeys {
    let pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u1"},
        "spec": {"containers": [{"name": "c", "image": NAME}]}});
    let pod = serde_json::from_value(pod).unwrap();
    let pod = check_pod(&pod, HostPathPolicy::Refuse).unwrap();
    let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Ok::<_, std::io::Error>(http::Response::new(kube::client::Body::empty()))
    });
    let client = kube::Client::new(nobody, "default");
    let (sink, _) = events::channel(client.clone(), "n".into(), Clock::system());
    PullKeys {
        client,
        events: Arc::new(PodEvents::new(sink, pod.key.clone())),
        pod: Arc::new(pod),
    }
}

/// Gives the name to an image that is one module; modules differ by the section `text`.
fn build(store: &ImageStore, folder: &Path, text: &str) {
    let module = folder.join("app.wasm");
    let wasm = format!(
        r#"(module (memory (export "memory") 1) (func (export "_start")) (@custom "note" "{text}"))"#
    );
    std::fs::write(&module, wat::parse_str(wasm).unwrap()).unwrap();
    let spec = BuildSpec {
        reference: NAME.parse().unwrap(),
        module,
        form: BuildForm::Artifact,
    };
    store.build(&spec, &CodeJudge).unwrap();
}

async fn fetch(images: &Images) -> Result<Arc<SharedImage>, &'static str> {
    let keys = keys();
    let fetched = images.fetch(NAME, PullPolicy::Never, &keys, || {});
    let fetched = fetched.await.map_err(|problem| problem.reason)?;
    assert_eq!(fetched.origin, Origin::Present);
    Ok(fetched.image)
}

#[tokio::test]
async fn a_name_means_the_image_that_has_it_now() {
    let folder = TempDir::new().unwrap();
    let store = ImageStore::open(&folder.path().join("images")).unwrap();
    let images = Images::new(store.clone(), Arc::new(Quiet));
    assert_eq!(fetch(&images).await.err(), Some("ErrImageNeverPull"));
    build(&store, folder.path(), "first");
    let first = fetch(&images).await.unwrap();
    let again = fetch(&images).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again), "an image in use is shared");
    // As another process would, while the image is in use.
    build(&store, folder.path(), "other");
    let other = fetch(&images).await.unwrap();
    assert_ne!(first.id(), other.id());
    let again = fetch(&images).await.unwrap();
    assert_eq!(again.id(), other.id());
}

#[tokio::test]
async fn an_image_in_use_is_found_without_its_records() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("images");
    let store = ImageStore::open(&place).unwrap();
    let images = Images::new(store.clone(), Arc::new(Quiet));
    build(&store, folder.path(), "it");
    let first = fetch(&images).await.unwrap();
    // Whoever reads them finds nothing any more.
    std::fs::remove_dir_all(place.join("images")).unwrap();
    let again = fetch(&images).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    // What nobody uses is looked up.
    drop((first, again));
    assert_eq!(fetch(&images).await.err(), Some("ErrImageNeverPull"));
}
