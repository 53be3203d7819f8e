//! An OCI image layout written by hand, so that what reads it is tested against the specification and
//! not against our own writer.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Writes the CNCF Wasm artifact of one component as an image layout with the tag `latest`.
///
/// # Panics
///
/// Panics when a file cannot be written.
pub fn wasm_layout(folder: &Path, component: &[u8]) {
    fs::create_dir_all(folder.join("blobs/sha256")).expect("a folder for blobs");
    let layer = blob(folder, component, "application/wasm");
    let config = json!({
        "created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2",
        "layerDigests": [layer["digest"]],
    });
    finish(
        folder,
        config,
        "application/vnd.wasm.config.v0+json",
        &layer,
    );
}

fn blob(folder: &Path, bytes: &[u8], media_type: &str) -> Value {
    let digest: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::write(folder.join("blobs/sha256").join(&digest), bytes).expect("a blob");
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
}

/// Writes an ordinary image for linux/amd64, whose entrypoint is a native program, as an image layout.
///
/// # Panics
///
/// Panics when a file cannot be written.
pub fn linux_layout(folder: &Path) {
    fs::create_dir_all(folder.join("blobs/sha256")).expect("a folder for blobs");
    // A tar archive without entries is two blocks of zeros.
    let layer = blob(folder, &[0; 1024], "application/vnd.oci.image.layer.v1.tar");
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    finish(
        folder,
        config,
        "application/vnd.oci.image.config.v1+json",
        &layer,
    );
}

/// Writes configuration, manifest, index and marker around one layer.
fn finish(folder: &Path, config: Value, config_type: &str, layer: &Value) {
    let config = blob(folder, config.to_string().as_bytes(), config_type);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    let mut manifest = blob(
        folder,
        manifest.to_string().as_bytes(),
        "application/vnd.oci.image.manifest.v1+json",
    );
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(folder.join("index.json"), index.to_string()).expect("the index");
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("the marker");
}
