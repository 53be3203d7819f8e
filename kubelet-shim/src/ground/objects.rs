//! ConfigMaps and Secrets: fetched by name, laid out as files in memory.

use std::time::SystemTime;

use bytes::Bytes;
use coracle_runtime::fs::{FileSource, Meta, Tree, TreeBuilder};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;

use super::VolumeError;
use crate::environment::{self, ObjectData, Objects};
use crate::spec::{ObjectKind, ObjectRef, ObjectVolume};

/// Why an object could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {} `{name}`", kind.lower())]
pub(crate) struct FetchError {
    kind: ObjectKind,
    name: String,
    #[source]
    source: kube::Error,
}

impl From<FetchError> for VolumeError {
    fn from(error: FetchError) -> VolumeError {
        let FetchError { kind, name, source } = error;
        VolumeError::Read { kind, name, source }
    }
}

/// Fetches the objects that exist among those wanted.
pub(crate) async fn fetch(
    client: &kube::Client,
    namespace: &str,
    wanted: impl IntoIterator<Item = &ObjectRef>,
) -> Result<Objects, FetchError> {
    let mut objects = Objects::new();
    for object in wanted {
        let fetched = fetch_one(client, namespace, object).await;
        let found = fetched.map_err(|source| FetchError {
            kind: object.kind,
            name: object.name.clone(),
            source,
        })?;
        if let Some(data) = found {
            objects.insert((object.kind, object.name.clone()), data);
        }
    }
    Ok(objects)
}

async fn fetch_one(
    client: &kube::Client,
    namespace: &str,
    object: &ObjectRef,
) -> Result<Option<ObjectData>, kube::Error> {
    match object.kind {
        ObjectKind::ConfigMap => {
            let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
            Ok(api.get_opt(&object.name).await?.map(|map| ObjectData {
                data: map
                    .data
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k, Bytes::from(v)))
                    .collect(),
                binary: map
                    .binary_data
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k, Bytes::from(v.0)))
                    .collect(),
            }))
        }
        ObjectKind::Secret => {
            let api = Api::<Secret>::namespaced(client.clone(), namespace);
            Ok(api.get_opt(&object.name).await?.map(|secret| ObjectData {
                data: secret
                    .data
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k, Bytes::from(v.0)))
                    .collect(),
                ..ObjectData::default()
            }))
        }
    }
}

/// Lays an object's keys out as the kubelet does: files in a dated folder, `..data` pointing to it, and one
/// link per name, so that programs which watch `..data` find what they expect.
pub(super) fn object_tree(
    volume: &ObjectVolume,
    objects: &Objects,
    now: SystemTime,
) -> Result<Tree, VolumeError> {
    let mut tree = TreeBuilder::new();
    let Some(data) = environment::find(objects, &volume.object)? else {
        return Ok(tree.build());
    };
    let at = jiff::Timestamp::try_from(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let version = format!("..{}", at.strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let folder = Meta::new(0o755, now);
    let link = Meta::new(0o777, now);
    tree.dir(&version, folder)?;
    tree.symlink("..data", &version, link)?;
    let mut tops = Vec::new();
    for (path, content, mode) in payload(volume, data)? {
        tree.file(
            &format!("{version}/{path}"),
            Meta::new(mode, now),
            FileSource::Bytes(content),
        )?;
        let top = path.split('/').next().unwrap_or(&path).to_owned();
        if !tops.contains(&top) {
            tree.symlink(&top, &format!("..data/{top}"), link)?;
            tops.push(top);
        }
    }
    Ok(tree.build())
}

fn payload(
    volume: &ObjectVolume,
    data: &ObjectData,
) -> Result<Vec<(String, Bytes, u32)>, VolumeError> {
    if volume.items.is_empty() {
        let all = data.data.iter().chain(&data.binary);
        return Ok(all
            .map(|(key, value)| (key.clone(), value.clone(), volume.default_mode))
            .collect());
    }
    let mut files = Vec::with_capacity(volume.items.len());
    for item in &volume.items {
        match data
            .data
            .get(&item.key)
            .or_else(|| data.binary.get(&item.key))
        {
            Some(value) => {
                let mode = item.mode.unwrap_or(volume.default_mode);
                files.push((item.path.clone(), value.clone(), mode));
            }
            None if volume.object.optional => {}
            None => {
                return Err(VolumeError::NoKey {
                    kind: volume.object.kind,
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(files)
}
