//! Packages that are in the lock file in more than one version, each with the reason.

/// Name of the package, and who keeps the older version.
pub(super) const KNOWN: &[(&str, &str)] = &[
    (
        "base64",
        "k8s-openapi 0.29, oci-client 0.18 and tower-http 0.7 hold 0.22",
    ),
    ("bitflags", SLED),
    ("block-buffer", SHA2),
    ("cpufeatures", SHA2),
    ("crypto-common", SHA2),
    ("digest", SHA2),
    (
        "embedded-io",
        "postcard 1 offers both versions to its users; wasmtime 48 brings postcard",
    ),
    ("getrandom", "ring 0.17 holds 0.2, ahash (kube) holds 0.3"),
    (
        "hashbrown",
        "gimli 0.33 (wasmtime 48) and kube-runtime 5 hold 0.16",
    ),
    ("io-lifetimes", "fs-set-times (wasmtime-wasi 48) holds 2"),
    ("parking_lot", SLED),
    ("parking_lot_core", SLED),
    ("r-efi", "follows getrandom; compiled for UEFI only"),
    ("redox_syscall", SLED),
    ("sha2", SHA2),
    (
        "syn",
        "macros move to 3 one by one; nothing of it is in the binary",
    ),
    (
        "synstructure",
        "asn1-rs-derive 0.6 (x509-parser) holds 0.13; nothing of it is in the binary",
    ),
    ("tower-http", "reqwest 0.13 (oci-client) holds 0.6"),
    ("windows-core", SYSINFO),
    ("windows-link", SYSINFO),
    ("windows-result", SYSINFO),
    ("windows-strings", SYSINFO),
    ("windows-sys", WINDOWS),
    ("windows-targets", WINDOWS),
    ("windows_aarch64_gnullvm", WINDOWS),
    ("windows_aarch64_msvc", WINDOWS),
    ("windows_i686_gnu", WINDOWS),
    ("windows_i686_gnullvm", WINDOWS),
    ("windows_i686_msvc", WINDOWS),
    ("windows_x86_64_gnu", WINDOWS),
    ("windows_x86_64_gnullvm", WINDOWS),
    ("windows_x86_64_msvc", WINDOWS),
];

const SHA2: &str = "cranelift and wasmtime 48 hold sha2 0.10, oci-client 0.18 holds 0.11";
const SLED: &str = "sled 0.34 (store) holds parking_lot 0.11 and what that brings";
const SYSINFO: &str = "sysinfo 0.37 holds windows 0.61; compiled on Windows only";
const WINDOWS: &str =
    "ring, fs4, cap-std and winx each hold another windows-sys; compiled on Windows only";
