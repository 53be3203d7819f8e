//! Which crate may depend on which. A new edge is a change of the architecture: `ARCHITECTURE.md` draws them.

/// For each package of the workspace, the packages of the workspace it may depend on.
pub(crate) const ALLOWED: &[(&str, &[&str])] = &[
    (
        "coracle",
        &[
            "coracle-control-plane",
            "coracle-kubelet-shim",
            "coracle-network",
            "coracle-registry",
            "coracle-runtime",
            "coracle-service-proxy",
            "coracle-store",
        ],
    ),
    ("coracle-control-plane", &["coracle-store"]),
    (
        "coracle-kubelet-shim",
        &[
            "coracle-network",
            "coracle-registry",
            "coracle-runtime",
            "coracle-store",
        ],
    ),
    ("coracle-network", &[]),
    ("coracle-registry", &[]),
    ("coracle-runtime", &["coracle-network"]),
    (
        "coracle-service-proxy",
        &["coracle-network", "coracle-socket-lookup"],
    ),
    ("coracle-socket-lookup", &[]),
    ("coracle-store", &[]),
    ("coracle-tests", &[]),
    ("xtask", &["coracle-tests"]),
];

/// The same for what only tests and benchmarks need: the agent's tests speak to the embedded API as to any
/// other, and every benchmark tells its figures in the one way that the chore `bench` reads.
pub(crate) const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("coracle", &["coracle-tests"]),
    ("coracle-control-plane", &["coracle-tests"]),
    (
        "coracle-kubelet-shim",
        &["coracle-control-plane", "coracle-tests"],
    ),
    ("coracle-network", &["coracle-tests"]),
    ("coracle-registry", &["coracle-tests"]),
    ("coracle-runtime", &["coracle-tests"]),
    (
        "coracle-service-proxy",
        &["coracle-control-plane", "coracle-tests"],
    ),
    ("coracle-socket-lookup", &["coracle-tests"]),
    ("coracle-store", &["coracle-tests"]),
];

/// Libraries that only the named packages may depend on; everyone else sees our types. A name stands
/// for every package that begins with it and a hyphen, too.
pub(crate) const OWNERS: &[(&str, &[&str])] = &[
    ("wasmtime", &["coracle-runtime"]),
    ("wit-component", &["coracle-runtime"]),
    ("oci-client", &["coracle-registry"]),
    ("oci-spec", &["coracle-registry"]),
    ("tar", &["coracle-registry"]),
    ("clap", &["coracle", "xtask"]),
    ("console", &["coracle"]),
    ("indicatif", &["coracle"]),
    ("mimalloc", &["coracle"]),
    ("sled", &["coracle-store"]),
    ("hickory-proto", &["coracle-service-proxy"]),
    ("socket2", &["coracle-network", "coracle-service-proxy"]),
];

/// The only packages in which unsafe code may stand; all others have the workspace's lints, which forbid it.
pub(crate) const UNSAFE: &[&str] = &["coracle-runtime", "coracle-socket-lookup", "coracle-tests"];

/// Packages that must not be in the lock file, with the reason.
pub(crate) const FORBIDDEN: &[(&str, &str)] = &[
    (
        "aws-lc-rs",
        "ring is the only TLS provider: it builds on every system without cmake",
    ),
    (
        "aws-lc-sys",
        "ring is the only TLS provider: it builds on every system without cmake",
    ),
    ("native-tls", "rustls is the only TLS library"),
    (
        "openssl",
        "rustls is the only TLS library, and nothing of the system's is linked",
    ),
    (
        "openssl-sys",
        "rustls is the only TLS library, and nothing of the system's is linked",
    ),
];
