//! Why an image is not taken in: every reason, told by name.

use std::io;

use crate::digest::Digest;
pub use crate::rootfs::index::TarFault;
use crate::rootfs::inflate::UNPACKED_BYTES_MAX;

/// Whether trying again later can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// The registry is not reachable or not well: the same request may succeed later.
    Retry,
    /// The answer stays the same until the image, the name or the credentials change.
    Final,
}

/// Why an image's content is refused. Final in every case.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The manifest or index is larger than any honest one, not JSON, or contradicts itself.
    #[error("its manifest is not valid: {reason}")]
    Manifest {
        /// What is wrong.
        reason: String,
    },
    /// The configuration is not JSON or contradicts the manifest.
    #[error("its configuration is not valid: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// The image holds Linux (or Windows) programs.
    #[error("it is a {platform} image; only Wasm images run here")]
    Platform {
        /// What the image says it is for, for example ``Linux (`linux/amd64`)``.
        platform: String,
    },
    /// The artifact is of a kind that is not served.
    #[error("it is an artifact of type `{media_type}`, which is not served")]
    Kind {
        /// The type of its configuration or layer.
        media_type: String,
    },
    /// The artifact is of a known kind but has parts that are not served.
    #[error("{what}")]
    Unsupported {
        /// The part, in a sentence.
        what: String,
    },
    /// A layer cannot be trusted or used.
    #[error("layer `{layer}`")]
    Layer {
        /// The layer's digest.
        layer: String,
        /// What is wrong with it.
        #[source]
        source: LayerFault,
    },
    /// Content that is no layer does not have the digest it was asked for by.
    #[error("`{expected}` was asked for and `{actual}` arrived")]
    Digest {
        /// The digest that was asked for.
        expected: String,
        /// That of what arrived.
        actual: String,
    },
    /// The image says nowhere what it starts.
    #[error("it names no program: neither entrypoint nor command")]
    NoProgram,
    /// The program is not in the image.
    #[error("its program `{path}` is not a file in the image")]
    ProgramMissing {
        /// The path of the program.
        path: String,
    },
    /// The program is no Wasm module or component.
    #[error("its program `{path}` is not Wasm")]
    NotWasm {
        /// The path or digest of the program.
        path: String,
    },
    /// The program cannot run here.
    #[error("its program `{path}` cannot run: {reason}")]
    Judged {
        /// The path or digest of the program.
        path: String,
        /// The judge's reason.
        reason: String,
    },
    /// A module is larger than any that can be compiled.
    #[error("its program has {size} bytes, more than {max}")]
    LargeModule {
        /// The module's size.
        size: u64,
        /// The limit.
        max: u64,
    },
}

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerFault {
    /// The bytes are not those that the manifest names.
    #[error("its bytes have the digest `{actual}`")]
    Digest {
        /// The digest of what arrived.
        actual: String,
    },
    /// The number of bytes is not what the manifest says.
    #[error("it has {actual} bytes where the manifest says {expected}")]
    Size {
        /// What the manifest says.
        expected: u64,
        /// What arrived.
        actual: u64,
    },
    /// The uncompressed tar is not the one that the configuration names.
    #[error("its content has the digest `{actual}` where the configuration says `{expected}`")]
    DiffId {
        /// What the configuration says.
        expected: String,
        /// The digest of the tar.
        actual: String,
    },
    /// It grows beyond what one image may take.
    #[error("the image grows beyond {UNPACKED_BYTES_MAX} bytes when it is uncompressed")]
    Bomb,
    /// It cannot be uncompressed.
    #[error("it cannot be uncompressed")]
    Inflate(#[source] io::Error),
    /// Its tar is damaged or hostile.
    #[error("its archive is refused")]
    Tar(#[source] TarFault),
    /// It is not in the archive that is being loaded.
    #[error("the archive does not hold it")]
    Missing,
}

impl Refusal {
    pub(crate) fn layer(layer: Digest, source: LayerFault) -> Self {
        Self::Layer {
            layer: layer.to_string(),
            source,
        }
    }
}

/// Why an image did not come in, inside the crate: its content, or the store.
#[derive(Debug)]
pub(crate) enum Fault {
    Refused(Refusal),
    Store(crate::store::StoreError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<crate::store::StoreError> for Fault {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// Says which layer a fault of streamed content belongs to.
    pub(crate) fn of_layer(layer: Digest, fault: crate::store::StreamFault) -> Self {
        match fault {
            crate::store::StreamFault::Layer(fault) => Self::Refused(Refusal::layer(layer, fault)),
            crate::store::StreamFault::Store(error) => Self::Store(error),
        }
    }
}
