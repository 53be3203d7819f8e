//! Volumes behind claims: a claim leads to a volume, a volume to a path of this machine (contract D.7).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use kube::Api;

use crate::spec::{HostPathCheck, PodKey, host_path_check};

/// The access mode of volumes that nobody writes to.
const READ_ONLY: &str = "ReadOnlyMany";

/// Where the volume of a claim is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) check: HostPathCheck,
    /// Its access modes admit no writer.
    pub(super) read_only: bool,
}

/// Why a claim leads nowhere, as the kubelet says it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("failed to fetch PVC from API server: {message}")]
    Fetch {
        message: String,
        #[source]
        source: Option<kube::Error>,
    },
    #[error("PVC is being deleted")]
    Leaving,
    #[error("PVC is not bound")]
    Unbound,
    #[error("PVC has empty pvc.Spec.VolumeName")]
    Nameless,
    #[error("PV object {volume} claimRef does not point back to the claim")]
    Stranger { volume: String },
    #[error("volume {volume} has volumeMode `Block`, which cannot be offered to a Wasm guest")]
    Block { volume: String },
    #[error(
        "volume {volume} is of type `{kind}`, which is not supported: a volume is a `hostPath` or `local`"
    )]
    Kind { volume: String, kind: String },
    #[error("hostPath type `{kind}` of volume {volume} cannot be offered to a Wasm guest")]
    Special { volume: String, kind: String },
}

/// Looks up where the volume of a claim is.
pub(super) async fn find(
    client: &kube::Client,
    pod: &PodKey,
    name: &str,
) -> Result<Found, ClaimError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &pod.namespace);
    let claim = claims.get_opt(name).await.map_err(unreachable)?;
    let claim = claim.ok_or_else(|| ClaimError::Fetch {
        message: format!("persistentvolumeclaims \"{name}\" not found"),
        source: None,
    })?;
    let volume = bound(&claim)?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes.get_opt(&volume).await.map_err(unreachable)?;
    let found = found.ok_or_else(|| ClaimError::Fetch {
        message: format!("persistentvolumes \"{volume}\" not found"),
        source: None,
    })?;
    locate(&claim, &found)
}

fn unreachable(error: kube::Error) -> ClaimError {
    ClaimError::Fetch {
        message: "the API cannot be asked".to_owned(),
        source: Some(error),
    }
}

/// Returns the volume of a claim that has one.
fn bound(claim: &PersistentVolumeClaim) -> Result<String, ClaimError> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(ClaimError::Leaving);
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase != Some("Bound") {
        return Err(ClaimError::Unbound);
    }
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
    volume
        .filter(|name| !name.is_empty())
        .ok_or(ClaimError::Nameless)
}

/// Returns where a claim's volume is, when it is kept for this claim and can be mounted.
fn locate(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<Found, ClaimError> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    let kept_for = spec.claim_ref.as_ref().and_then(|one| one.uid.as_ref());
    if kept_for.is_none() || kept_for != claim.metadata.uid.as_ref() {
        return Err(ClaimError::Stranger { volume: name });
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(ClaimError::Block { volume: name });
    }
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let read_only = !modes.is_empty() && modes.iter().all(|mode| mode == READ_ONLY);
    if let Some(local) = &spec.local {
        return Ok(Found {
            path: local.path.clone(),
            // A disk that is not mounted must not be taken for an empty one.
            check: HostPathCheck::Directory,
            read_only,
        });
    }
    let Some(host) = &spec.host_path else {
        let kind = kind_of(&spec);
        return Err(ClaimError::Kind { volume: name, kind });
    };
    let check = host_path_check(host.type_.as_deref()).map_err(|kind| ClaimError::Special {
        volume: name,
        kind: kind.to_owned(),
    })?;
    Ok(Found {
        path: host.path.clone(),
        check,
        read_only,
    })
}

/// The name of the source that a volume has.
fn kind_of(spec: &PersistentVolumeSpec) -> String {
    /// What a volume says beside its source.
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let fields = serde_json::to_value(spec).unwrap_or_default();
    let mut names = fields
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name);
    let source = names.find(|name| !OTHERS.contains(&name.as_str()));
    source.cloned().unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(status: Value, more: Value) -> PersistentVolumeClaim {
        let mut metadata = json!({"name": "c", "namespace": "n", "uid": "u"});
        metadata
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata, "spec": {"volumeName": "v"},
            "status": status}))
        .unwrap()
    }

    fn a_bound_one() -> PersistentVolumeClaim {
        claim(json!({"phase": "Bound"}), json!({}))
    }

    fn check(spec: Value, expected: Result<(&str, HostPathCheck, bool), &str>) {
        let volume = json!({"metadata": {"name": "v"}, "spec": spec});
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        let found = locate(&a_bound_one(), &volume).map_err(|error| error.to_string());
        let expected = expected
            .map_err(str::to_owned)
            .map(|(path, check, read_only)| Found {
                path: path.to_owned(),
                check,
                read_only,
            });
        assert_eq!(found, expected, "{spec}");
    }

    #[test]
    fn a_claim_that_is_not_bound_or_goes_leads_nowhere() {
        let text = |claim: PersistentVolumeClaim| bound(&claim).map_err(|e| e.to_string());
        let pending = claim(json!({"phase": "Pending"}), json!({}));
        assert_eq!(text(pending), Err("PVC is not bound".to_owned()));
        let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let leaving = claim(json!({"phase": "Bound"}), leaving);
        assert_eq!(text(leaving), Err("PVC is being deleted".to_owned()));
        assert_eq!(text(a_bound_one()), Ok("v".to_owned()));
    }

    #[test]
    fn a_volume_is_a_path_of_this_machine_or_refused_by_name() {
        use HostPathCheck::{Directory, DirectoryOrCreate};
        let of = |more: Value| {
            let mut spec = json!({"claimRef": {"uid": "u"}, "accessModes": ["ReadWriteOnce"]});
            spec.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            spec
        };
        let host = json!({"hostPath": {"path": "/srv", "type": "DirectoryOrCreate"}});
        check(of(host), Ok(("/srv", DirectoryOrCreate, false)));
        let local = json!({"local": {"path": "/srv"}, "accessModes": ["ReadOnlyMany"]});
        check(of(local), Ok(("/srv", Directory, true)));
        let stranger = json!({"hostPath": {"path": "/srv"}, "claimRef": {"uid": "other"}});
        let told = "PV object v claimRef does not point back to the claim";
        check(of(stranger), Err(told));
        let block = json!({"local": {"path": "/dev/sda"}, "volumeMode": "Block"});
        let told = "volume v has volumeMode `Block`, which cannot be offered to a Wasm guest";
        check(of(block), Err(told));
        let nfs = json!({"nfs": {"server": "s", "path": "/"}});
        let told = "volume v is of type `nfs`, which is not supported: a volume is a `hostPath` or `local`";
        check(of(nfs), Err(told));
        let socket = json!({"hostPath": {"path": "/run/x", "type": "Socket"}});
        let told = "hostPath type `Socket` of volume v cannot be offered to a Wasm guest";
        check(of(socket), Err(told));
    }
}
