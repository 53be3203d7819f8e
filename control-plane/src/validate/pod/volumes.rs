//! Volumes and what they are made of.

use std::collections::HashMap;

use serde_json::Value;

use super::{super::config_key_faults, Field, NameRule, environment};

const MODE_MESSAGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// The volumes of a pod that are in order, by name.
pub(super) type Volumes<'v> = HashMap<&'v str, &'v Value>;

/// Sources of drivers that nodes attach, with what has to be said about them.
const DRIVERS: &[(&str, &[&str])] = &[
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("quobyte", &["registry", "volume"]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &["volumeName"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
    ("image", &["reference"]),
];

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// Checks the volumes of a pod and returns those that are in order.
pub(super) fn check<'v>(list: &Field<'_, 'v>, pod: &str) -> Volumes<'v> {
    let mut known = Volumes::new();
    for volume in list.items() {
        let name = volume.child("name");
        let faults = volume.faults();
        sources(&volume, pod);
        name.name_required(NameRule::Label);
        if known.contains_key(name.text()) {
            name.duplicate();
        } else if volume.faults() == faults {
            known.insert(name.text(), volume.value);
        }
    }
    known.remove("");
    known
}

fn sources(volume: &Field<'_, '_>, pod: &str) {
    let mut found = volume.entries().filter(|(kind, _)| *kind != "name");
    let Some((kind, _)) = found.next() else {
        return volume.required("must specify a volume type");
    };
    for (second, _) in found {
        volume
            .child(second)
            .forbidden("may not specify more than 1 volume type");
    }
    let source = &volume.child(kind);
    match kind {
        "emptyDir" => {
            let limit = source.child("sizeLimit");
            if limit.quantity().is_some_and(|limit| limit.is_negative()) {
                limit.forbidden("SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => host_path(source),
        "gitRepo" => {
            source.child("repository").present();
            source.child("directory").descending_path();
        }
        "configMap" => keys_as_files(source, "name"),
        "secret" => keys_as_files(source, "secretName"),
        "downwardAPI" => {
            mode(&source.child("defaultMode"));
            for item in source.child("items").items() {
                downward_file(&item, source);
            }
        }
        "projected" => projected(source),
        "ephemeral" => ephemeral(volume, source, pod),
        "nfs" => {
            source.child("server").present();
            let path = source.child("path");
            path.present();
            if !path.is_empty() && !path.text().starts_with('/') {
                path.invalid("must be an absolute path");
            }
        }
        driver => {
            let known = DRIVERS.iter().find(|(name, _)| *name == driver);
            for field in known.into_iter().flat_map(|(_, fields)| fields.iter()) {
                source.child(field).present();
            }
        }
    }
}

fn host_path(source: &Field<'_, '_>) {
    let path = source.child("path");
    if path.is_empty() {
        return path.required("");
    }
    path.no_backsteps();
    source.child("type").one_of_if_set(HOST_PATH_TYPES);
}

fn ephemeral(volume: &Field<'_, '_>, source: &Field<'_, '_>, pod: &str) {
    let template = source.child("volumeClaimTemplate");
    if !template.is_set() {
        return template.required("");
    }
    let spec = template.child("spec");
    if spec.child("accessModes").is_empty() {
        spec.child("accessModes")
            .required("at least 1 access mode is required");
    }
    if !spec.child("resources.requests").key("storage").is_set() {
        spec.child("resources.requests").key("storage").required("");
    }
    let name = volume.child("name");
    if pod.is_empty() || name.is_empty() {
        return;
    }
    let claim = format!("{pod}-{}", name.text());
    for fault in super::super::name_faults(NameRule::Subdomain, &claim) {
        name.invalid(&format!("PVC name \"{claim}\": {fault}"));
    }
}

fn keys_as_files(source: &Field<'_, '_>, name: &str) {
    source.child(name).present();
    mode(&source.child("defaultMode"));
    for item in source.child("items").items() {
        key_to_path(&item);
    }
}

fn key_to_path(item: &Field<'_, '_>) {
    item.child("key").present();
    let path = item.child("path");
    path.present();
    path.file_path();
    mode(&item.child("mode"));
}

fn downward_file(file: &Field<'_, '_>, said_at: &Field<'_, '_>) {
    let path = said_at.child("path").with(file.child("path").value);
    path.present();
    path.file_path();
    let (of_pod, of_container) = (file.child("fieldRef"), file.child("resourceFieldRef"));
    match (of_pod.is_set(), of_container.is_set()) {
        (true, both) => {
            let here = said_at.child("fieldRef").with(of_pod.value);
            environment::field_reference(&here, environment::VOLUME_FIELDS);
            if both {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                said_at.invalid_as(&Value::from("resource"), detail);
            }
        }
        (false, true) => {
            let here = said_at.child("resourceFieldRef").with(of_container.value);
            environment::resource_reference(&here, environment::Owner::Named);
        }
        (false, false) => {
            said_at.required("one of fieldRef and resourceFieldRef is required");
        }
    }
    mode(&said_at.child("mode").with(file.child("mode").value));
}

fn projected(volume: &Field<'_, '_>) {
    mode(&volume.child("defaultMode"));
    let mut paths = Vec::new();
    for source in volume.child("sources").items() {
        for (kind, name) in [("secret", "name"), ("configMap", "name")] {
            let part = source.child(kind);
            if !part.is_set() {
                continue;
            }
            part.child(name).present();
            for item in part.child("items").items() {
                key_to_path(&item);
                unique(
                    volume,
                    &mut paths,
                    &item.child("path"),
                    part.child(name).value,
                );
            }
        }
        let downward = source.child("downwardAPI");
        for item in downward.child("items").items() {
            downward_file(&item, &downward);
            unique(
                volume,
                &mut paths,
                &item.child("path"),
                item.child("path").value,
            );
        }
        token(volume, &source.child("serviceAccountToken"));
        trust_bundle(volume, &source.child("clusterTrustBundle"), &mut paths);
        certificate(&source.child("podCertificate"));
        if source.entries().count() > 1 {
            source.forbidden("may not specify more than 1 volume type per source");
        }
    }
}

/// Two sources may not write one file.
fn unique<'v>(
    volume: &Field<'_, '_>,
    paths: &mut Vec<&'v str>,
    path: &Field<'_, 'v>,
    shown: &Value,
) {
    match path.text() {
        "" => (),
        text if paths.contains(&text) => volume.invalid_as(shown, "conflicting duplicate paths"),
        text => paths.push(text),
    }
}

fn token(volume: &Field<'_, '_>, token: &Field<'_, '_>) {
    if !token.is_set() {
        return;
    }
    let seconds = token.child("expirationSeconds");
    if seconds.number().is_some_and(|seconds| seconds < 600) {
        seconds.invalid("may not specify a duration less than 10 minutes");
    }
    if seconds.number().is_some_and(|seconds| seconds > 1 << 32) {
        seconds.invalid("may not specify a duration larger than 2^32 seconds");
    }
    let path = volume.child("path").with(token.child("path").value);
    match path.text() {
        "" => path.required(""),
        _ => path.file_path(),
    }
}

fn trust_bundle<'v>(volume: &Field<'_, '_>, bundle: &Field<'_, 'v>, paths: &mut Vec<&'v str>) {
    if !bundle.is_set() {
        return;
    }
    let (name, signer) = (bundle.child("name"), bundle.child("signerName"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => bundle.invalid("only one of name and signerName may be used"),
        (true, false) if name.is_empty() => name.required("must be a valid object name"),
        (false, true) if signer.is_empty() => signer.required("must be a valid signer name"),
        (false, false) => bundle.required("either name or signerName must be specified"),
        (true, false) | (false, true) => (),
    }
    let selector = bundle.child("labelSelector");
    if name.is_set() && selector.is_set() {
        selector.invalid("labelSelector must be unset if name is specified");
    }
    super::label_selector(&selector);
    let path = bundle.child("path");
    path.present();
    path.file_path();
    unique(volume, paths, &path, path.value);
}

fn certificate(certificate: &Field<'_, '_>) {
    if certificate.is_set() {
        certificate.child("signerName").present();
        certificate.child("keyType").present();
    }
}

fn mode(mode: &Field<'_, '_>) {
    if mode
        .number()
        .is_some_and(|mode| !(0..=0o777).contains(&mode))
    {
        mode.invalid(MODE_MESSAGE);
    }
}

/// Demands a key of a ConfigMap or Secret.
pub(super) fn config_key(key: &Field<'_, '_>) {
    match key.text() {
        "" => key.required(""),
        text => {
            for fault in config_key_faults(text) {
                key.invalid(&fault);
            }
        }
    }
}
