//! Volumes that are files in memory: `configMap`, `secret`, `downwardAPI` and `projected` into one plan.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource,
    ServiceAccountTokenProjection, VolumeProjection,
};

use super::check::{Field, UNSUPPORTED};
use super::variables::{named_field, resource_amount};
use super::volume::{is_inner_path, object};
use super::{EnvValue, ObjectKind, ObjectRef, PodField, ResourceAmount, Resources};

/// Mode of a file when nothing else is said.
const DEFAULT_FILE_MODE: u32 = 0o644;

/// Highest file mode: permission bits only.
const FILE_MODE_MAX: i32 = 0o777;

/// Life of a token when nobody says so, and the least that may be asked for (contract D.6).
const TOKEN_SECONDS: i64 = 60 * 60;
const TOKEN_SECONDS_MIN: i64 = 10 * 60;

/// Files in memory that follow what they are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesVolume {
    /// Where the files come from, in order; of two with one path the later wins.
    pub sources: Vec<FilesSource>,
    /// File mode where an item names none.
    pub default_mode: u32,
}

/// One source of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesSource {
    /// A ConfigMap or Secret.
    Object {
        /// The object.
        object: ObjectRef,
        /// Which keys, and as what; all keys when empty.
        items: Vec<KeyItem>,
    },
    /// Facts about the pod.
    Downward(Vec<DownwardFile>),
    /// A token of the pod's service account.
    Token {
        /// What is asked for.
        token: TokenPlan,
        /// Relative path without `..`.
        path: String,
    },
}

/// One key of an object volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyItem {
    /// Key in the object's data.
    pub key: String,
    /// Relative path without `..`.
    pub path: String,
    /// Its mode.
    pub mode: Option<u32>,
}

/// One file of a downward volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownwardFile {
    /// Relative path without `..`.
    pub path: String,
    /// Its mode.
    pub mode: Option<u32>,
    /// What it says.
    pub value: DownwardValue,
}

/// What a file of a downward volume says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownwardValue {
    /// A field of the pod.
    Field(PodField),
    /// All labels, one `key="value"` a line.
    Labels,
    /// All annotations, one `key="value"` a line.
    Annotations,
    /// An amount of a container's resources.
    Resource(ResourceAmount),
}

/// A token to be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenPlan {
    /// Whom it is meant for; the API server when unset.
    pub audience: Option<String>,
    /// How long it shall be good for.
    pub lifetime: Duration,
}

/// What the sources of a pod's volumes may refer to.
pub(super) struct Surroundings<'a> {
    /// Every container's resources by its name.
    pub(super) resources: &'a [(Arc<str>, Resources)],
}

pub(super) fn config_map(wire: &ConfigMapVolumeSource, at: &Field<'_>) -> Option<FilesVolume> {
    let ConfigMapVolumeSource {
        default_mode,
        items,
        name,
        optional,
    } = wire;
    let object = object(ObjectKind::ConfigMap, name, *optional, &at.field("name"))?;
    of_object(object, items.as_deref(), *default_mode, at)
}

pub(super) fn secret(wire: &SecretVolumeSource, at: &Field<'_>) -> Option<FilesVolume> {
    let SecretVolumeSource {
        default_mode,
        items,
        optional,
        secret_name,
    } = wire;
    let name = secret_name.as_deref().unwrap_or_default();
    let object = object(ObjectKind::Secret, name, *optional, &at.field("secretName"))?;
    of_object(object, items.as_deref(), *default_mode, at)
}

fn of_object(
    object: ObjectRef,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    at: &Field<'_>,
) -> Option<FilesVolume> {
    Some(FilesVolume {
        default_mode: volume_mode(default_mode, at)?,
        sources: vec![FilesSource::Object {
            object,
            items: key_items(items, &at.field("items"))?,
        }],
    })
}

pub(super) fn downward(
    wire: &DownwardAPIVolumeSource,
    around: &Surroundings<'_>,
    at: &Field<'_>,
) -> Option<FilesVolume> {
    let DownwardAPIVolumeSource {
        default_mode,
        items,
    } = wire;
    let items = items.as_deref().unwrap_or_default();
    Some(FilesVolume {
        default_mode: volume_mode(*default_mode, at)?,
        sources: vec![downward_files(items, around, &at.field("items"))?],
    })
}

pub(super) fn projected(
    wire: &ProjectedVolumeSource,
    around: &Surroundings<'_>,
    at: &Field<'_>,
) -> Option<FilesVolume> {
    let ProjectedVolumeSource {
        default_mode,
        sources,
    } = wire;
    let default_mode = volume_mode(*default_mode, at);
    let at = at.field("sources");
    let sources = sources.as_deref().unwrap_or_default();
    let sources = sources.iter().enumerate();
    let converted: Vec<Option<FilesSource>> = sources
        .map(|(index, source)| projection(source, around, &at.index(index)))
        .collect();
    Some(FilesVolume {
        default_mode: default_mode?,
        sources: converted.into_iter().collect::<Option<_>>()?,
    })
}

fn projection(
    wire: &VolumeProjection,
    around: &Surroundings<'_>,
    at: &Field<'_>,
) -> Option<FilesSource> {
    let VolumeProjection {
        cluster_trust_bundle,
        config_map,
        downward_api,
        pod_certificate,
        secret,
        service_account_token,
    } = wire;
    at.absent("clusterTrustBundle", cluster_trust_bundle);
    at.absent("podCertificate", pod_certificate);
    if cluster_trust_bundle.is_some() || pod_certificate.is_some() {
        return None;
    }
    match (config_map, secret, downward_api, service_account_token) {
        (Some(source), None, None, None) => projected_map(source, &at.field("configMap")),
        (None, Some(source), None, None) => projected_secret(source, &at.field("secret")),
        (None, None, Some(source), None) => {
            let items = source.items.as_deref().unwrap_or_default();
            downward_files(items, around, &at.field("downwardAPI.items"))
        }
        (None, None, None, Some(source)) => token(source, &at.field("serviceAccountToken")),
        _ => {
            at.refuse("needs exactly one source");
            None
        }
    }
}

fn projected_map(wire: &ConfigMapProjection, at: &Field<'_>) -> Option<FilesSource> {
    let ConfigMapProjection {
        items,
        name,
        optional,
    } = wire;
    let object = object(ObjectKind::ConfigMap, name, *optional, &at.field("name"))?;
    let items = key_items(items.as_deref(), &at.field("items"))?;
    Some(FilesSource::Object { object, items })
}

fn projected_secret(wire: &SecretProjection, at: &Field<'_>) -> Option<FilesSource> {
    let SecretProjection {
        items,
        name,
        optional,
    } = wire;
    let object = object(ObjectKind::Secret, name, *optional, &at.field("name"))?;
    let items = key_items(items.as_deref(), &at.field("items"))?;
    Some(FilesSource::Object { object, items })
}

fn token(wire: &ServiceAccountTokenProjection, at: &Field<'_>) -> Option<FilesSource> {
    let ServiceAccountTokenProjection {
        audience,
        expiration_seconds,
        path,
    } = wire;
    let seconds = expiration_seconds.unwrap_or(TOKEN_SECONDS);
    let lifetime = u64::try_from(seconds).ok();
    let Some(lifetime) = lifetime.filter(|_| seconds >= TOKEN_SECONDS_MIN) else {
        at.field("expirationSeconds")
            .refuse("may not be less than 10 minutes");
        return None;
    };
    let token = TokenPlan {
        audience: audience.clone().filter(|audience| !audience.is_empty()),
        lifetime: Duration::from_secs(lifetime),
    };
    let path = file_path(path, &at.field("path"))?;
    Some(FilesSource::Token { token, path })
}

fn key_items(items: Option<&[KeyToPath]>, at: &Field<'_>) -> Option<Vec<KeyItem>> {
    let mut converted = Vec::new();
    for (index, KeyToPath { key, mode, path }) in items.unwrap_or_default().iter().enumerate() {
        let at = at.index(index);
        converted.push(KeyItem {
            key: key.clone(),
            path: file_path(path, &at.field("path"))?,
            mode: item_mode(*mode, &at)?,
        });
    }
    Some(converted)
}

fn downward_files(
    items: &[DownwardAPIVolumeFile],
    around: &Surroundings<'_>,
    at: &Field<'_>,
) -> Option<FilesSource> {
    let mut paths = BTreeSet::new();
    let mut files = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let at = at.index(index);
        let file = downward_file(item, around, &at)?;
        if !paths.insert(file.path.clone()) {
            at.field("path").refuse("is used twice");
        }
        files.push(file);
    }
    Some(FilesSource::Downward(files))
}

fn downward_file(
    wire: &DownwardAPIVolumeFile,
    around: &Surroundings<'_>,
    at: &Field<'_>,
) -> Option<DownwardFile> {
    let DownwardAPIVolumeFile {
        field_ref,
        mode,
        path,
        resource_field_ref,
    } = wire;
    let value = match (field_ref, resource_field_ref) {
        (Some(field), None) => match field.field_path.as_str() {
            "metadata.labels" => DownwardValue::Labels,
            "metadata.annotations" => DownwardValue::Annotations,
            _ => downward_field(named_field(field, &at.field("fieldRef"))?, at)?,
        },
        (None, Some(reference)) => {
            let at = at.field("resourceFieldRef");
            let owner = reference.container_name.as_deref().unwrap_or_default();
            let owned = around.resources.iter().find(|(name, _)| **name == *owner);
            let Some((_, owned)) = owned else {
                at.field("containerName")
                    .refuse("names no container of this pod");
                return None;
            };
            DownwardValue::Resource(resource_amount(reference, owned, &at)?)
        }
        _ => {
            at.refuse("needs exactly one source");
            return None;
        }
    };
    Some(DownwardFile {
        path: file_path(path, &at.field("path"))?,
        mode: item_mode(*mode, at)?,
        value,
    })
}

/// A volume is made before the pod has an address, so it may say less than a variable.
fn downward_field(value: EnvValue, at: &Field<'_>) -> Option<DownwardValue> {
    match value {
        EnvValue::Field(
            field @ (PodField::Name
            | PodField::Namespace
            | PodField::Uid
            | PodField::Label(_)
            | PodField::Annotation(_)),
        ) => Some(DownwardValue::Field(field)),
        _ => {
            at.field("fieldRef.fieldPath")
                .refuse(format!("in a volume {UNSUPPORTED}"));
            None
        }
    }
}

fn volume_mode(value: Option<i32>, at: &Field<'_>) -> Option<u32> {
    match value {
        None => Some(DEFAULT_FILE_MODE),
        Some(value) => mode(value, &at.field("defaultMode")),
    }
}

fn item_mode(value: Option<i32>, at: &Field<'_>) -> Option<Option<u32>> {
    match value {
        None => Some(None),
        Some(value) => mode(value, &at.field("mode")).map(Some),
    }
}

fn mode(value: i32, at: &Field<'_>) -> Option<u32> {
    let mode = u32::try_from(value).ok().filter(|_| value <= FILE_MODE_MAX);
    if mode.is_none() {
        at.refuse("must be between 0 and 0777");
    }
    mode
}

/// Names that begin with two dots are the layout's own.
fn file_path(path: &str, at: &Field<'_>) -> Option<String> {
    if !is_inner_path(path) || path.starts_with("..") {
        at.refuse("must be relative, without `..`");
        return None;
    }
    Some(path.to_owned())
}

impl FilesVolume {
    /// Returns the objects it is made from.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.sources.iter().filter_map(|source| match source {
            FilesSource::Object { object, .. } => Some(object),
            FilesSource::Downward(_) | FilesSource::Token { .. } => None,
        })
    }

    /// Returns the tokens it shows.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &TokenPlan> {
        self.sources.iter().filter_map(|source| match source {
            FilesSource::Token { token, .. } => Some(token),
            FilesSource::Object { .. } | FilesSource::Downward(_) => None,
        })
    }
}
