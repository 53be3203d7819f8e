//! `spec.volumes`: every source that is not honoured is refused by name.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource,
    PersistentVolumeClaimVolumeSource, PodSpec, Volume,
};

use super::check::{Field, UNSUPPORTED, VOLUMES_PER_POD_MAX};
use super::files::{self, Surroundings};
use super::{
    HostPathCheck, HostPathPolicy, Medium, ObjectKind, ObjectRef, SizeLimit, VolumePlan,
    VolumeSource, quantity,
};

pub(super) fn convert_all(
    spec: &PodSpec,
    policy: HostPathPolicy,
    around: &Surroundings<'_>,
    at: &Field<'_>,
) -> Vec<VolumePlan> {
    let at = at.field("volumes");
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    if volumes.len() > VOLUMES_PER_POD_MAX {
        at.refuse(format!("has more than {VOLUMES_PER_POD_MAX} entries"));
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    let mut plans = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = at.index(index);
        if !names.insert(volume.name.as_str()) {
            at.field("name").refuse("is used twice");
        }
        if at.field("name").dns_label(&volume.name).is_none() {
            continue;
        }
        if let Some(source) = source(volume, policy, around, &at) {
            plans.push(VolumePlan {
                name: volume.name.clone(),
                source,
            });
        }
    }
    plans
}

/// Finds the one source; a volume without any is an `emptyDir`, as the API defaults it.
// tidy: table, because it names every field of a volume once.
fn source(
    volume: &Volume,
    policy: HostPathPolicy,
    around: &Surroundings<'_>,
    at: &Field<'_>,
) -> Option<VolumeSource> {
    let Volume {
        name: _,
        config_map,
        empty_dir,
        host_path,
        secret,
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        csi,
        downward_api,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        image,
        iscsi,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected,
        quobyte,
        rbd,
        scale_io,
        storageos,
        vsphere_volume,
    } = volume;
    let refused = [
        ("awsElasticBlockStore", aws_elastic_block_store.is_some()),
        ("azureDisk", azure_disk.is_some()),
        ("azureFile", azure_file.is_some()),
        ("cephfs", cephfs.is_some()),
        ("cinder", cinder.is_some()),
        ("csi", csi.is_some()),
        ("ephemeral", ephemeral.is_some()),
        ("fc", fc.is_some()),
        ("flexVolume", flex_volume.is_some()),
        ("flocker", flocker.is_some()),
        ("gcePersistentDisk", gce_persistent_disk.is_some()),
        ("gitRepo", git_repo.is_some()),
        ("glusterfs", glusterfs.is_some()),
        ("iscsi", iscsi.is_some()),
        ("nfs", nfs.is_some()),
        ("photonPersistentDisk", photon_persistent_disk.is_some()),
        ("portworxVolume", portworx_volume.is_some()),
        ("quobyte", quobyte.is_some()),
        ("rbd", rbd.is_some()),
        ("scaleIO", scale_io.is_some()),
        ("storageos", storageos.is_some()),
        ("vsphereVolume", vsphere_volume.is_some()),
    ];
    let mut is_refused = false;
    for (name, present) in refused {
        if present {
            at.field(name).refuse(UNSUPPORTED);
            is_refused = true;
        }
    }
    if is_refused {
        return None;
    }
    let honoured = [
        config_map
            .as_ref()
            .map(|c| files::config_map(c, &at.field("configMap")).map(VolumeSource::Files)),
        secret
            .as_ref()
            .map(|s| files::secret(s, &at.field("secret")).map(VolumeSource::Files)),
        downward_api
            .as_ref()
            .map(|d| files::downward(d, around, &at.field("downwardAPI")).map(VolumeSource::Files)),
        projected
            .as_ref()
            .map(|p| files::projected(p, around, &at.field("projected")).map(VolumeSource::Files)),
        image.as_ref().map(|i| image_source(i, &at.field("image"))),
        host_path
            .as_ref()
            .map(|h| host_path_source(h, policy, &at.field("hostPath"))),
        empty_dir
            .as_ref()
            .map(|e| empty_dir_source(e, &at.field("emptyDir"))),
        persistent_volume_claim
            .as_ref()
            .map(|c| claim_source(c, &at.field("persistentVolumeClaim"))),
    ];
    // The outer value says whether a source is named, the inner whether it can be honoured.
    let mut named = honoured.into_iter().flatten();
    let first = named.next();
    if named.next().is_some() {
        at.refuse("has more than one source");
    }
    first.unwrap_or(Some(VolumeSource::EmptyDir {
        medium: Medium::Disk,
        limit: None,
    }))
}

fn empty_dir_source(wire: &EmptyDirVolumeSource, at: &Field<'_>) -> Option<VolumeSource> {
    let EmptyDirVolumeSource { medium, size_limit } = wire;
    let medium = match medium.as_deref() {
        None | Some("") => Medium::Disk,
        Some("Memory") => Medium::Memory,
        Some(other) => {
            at.field("medium")
                .refuse(format!("`{other}` {UNSUPPORTED}"));
            return None;
        }
    };
    // Zero is no limit, as under a kubelet.
    let limit = size_limit.as_ref().filter(|limit| limit.0 != "0");
    let limit = match limit {
        None => None,
        Some(limit) => match quantity::units(limit) {
            Ok(bytes) => Some(SizeLimit {
                bytes,
                text: limit.0.clone(),
            }),
            Err(error) => {
                at.field("sizeLimit").refuse(error.to_string());
                return None;
            }
        },
    };
    Some(VolumeSource::EmptyDir { medium, limit })
}

fn claim_source(wire: &PersistentVolumeClaimVolumeSource, at: &Field<'_>) -> Option<VolumeSource> {
    let PersistentVolumeClaimVolumeSource {
        claim_name,
        read_only,
    } = wire;
    if !super::check::is_dns_subdomain(claim_name) {
        at.field("claimName").refuse("is not a DNS subdomain");
        return None;
    }
    Some(VolumeSource::Claim {
        name: claim_name.clone(),
        read_only: read_only.unwrap_or(false),
    })
}

fn image_source(wire: &ImageVolumeSource, at: &Field<'_>) -> Option<VolumeSource> {
    let ImageVolumeSource {
        pull_policy,
        reference,
    } = wire;
    let Some(reference) = reference.clone().filter(|r| !r.is_empty()) else {
        at.field("reference").refuse("is missing");
        return None;
    };
    let policy =
        super::container::pull_policy(pull_policy.as_deref(), &reference, &at.field("pullPolicy"));
    Some(VolumeSource::Image { reference, policy })
}

fn host_path_source(
    wire: &HostPathVolumeSource,
    policy: HostPathPolicy,
    at: &Field<'_>,
) -> Option<VolumeSource> {
    let HostPathVolumeSource { path, type_ } = wire;
    if policy == HostPathPolicy::Refuse {
        at.refuse("is not allowed on this node");
        return None;
    }
    if path.is_empty() || path.split(['/', '\\']).any(|segment| segment == "..") {
        at.field("path").refuse("is empty or contains `..`");
        return None;
    }
    match host_path_check(type_.as_deref()) {
        Ok(check) => Some(VolumeSource::HostPath {
            path: path.clone(),
            check,
        }),
        Err(other) => {
            at.field("type").refuse(special(other));
            None
        }
    }
}

/// Returns what a type of a `hostPath` asks for, or the type when no guest can have it.
pub(crate) fn host_path_check(type_: Option<&str>) -> Result<HostPathCheck, &str> {
    Ok(match type_ {
        None | Some("") => HostPathCheck::Unchecked,
        Some("DirectoryOrCreate") => HostPathCheck::DirectoryOrCreate,
        Some("Directory") => HostPathCheck::Directory,
        Some("FileOrCreate") => HostPathCheck::FileOrCreate,
        Some("File") => HostPathCheck::File,
        Some(other) => return Err(other),
    })
}

/// Why a type of a `hostPath` is refused: WASI has files and folders, and nothing to use these by.
fn special(type_: &str) -> String {
    let why = match type_ {
        "Socket" => "WASI has no sockets in the file system",
        "CharDevice" | "BlockDevice" => "WASI has no devices",
        _ => return format!("has the unknown value `{type_}`"),
    };
    format!("`{type_}` cannot be offered to a Wasm guest: {why}")
}

/// Checks a reference to a ConfigMap or Secret.
pub(super) fn object(
    kind: ObjectKind,
    name: &str,
    optional: Option<bool>,
    at: &Field<'_>,
) -> Option<ObjectRef> {
    if !super::check::is_dns_subdomain(name) {
        at.refuse("is not a DNS subdomain");
        return None;
    }
    Some(ObjectRef {
        kind,
        name: name.to_owned(),
        optional: optional.unwrap_or(false),
    })
}

/// Whether a path stays inside the folder it is relative to.
pub(super) fn is_inner_path(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with('/')
        && !path.contains(['\0', '\\'])
        && path.split('/').all(|segment| segment != "..")
}

/// The names that mounts may use.
pub(super) fn names(spec: &PodSpec) -> BTreeSet<&str> {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    volumes.iter().map(|volume| volume.name.as_str()).collect()
}
