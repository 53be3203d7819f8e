//! Turns an image reference into verified bytes and a root file system.
//!
//! Begin at [`ImageStore`]: it finds, pulls, loads, builds, pushes, lists and removes images. An
//! [`Image`] is either one module or a [`Root`], the merged layers of an OCI image, of which nothing
//! was unpacked to host paths. Everything that arrives is checked on the way in: digests and sizes,
//! names in archives, what it grows to, and by the caller's [`Judge`] whether it can run.
//!
//! The crate has no long-running tasks; a pull spawns one task and one worker thread per layer and
//! ends them before it returns.

mod archive;
mod build;
mod digest;
mod image;
mod manifest;
mod reference;
mod refusal;
mod remote;
mod rootfs;
mod store;

pub use archive::LoadError;
pub use build::{BuildError, BuildForm, BuildSpec, ImageForm, PackError};
pub use image::{Image, ImageConfig, ImageContent, Judge, ModuleFile, Progress, Quiet};
pub use reference::{LOCAL_REGISTRY, Reference, ReferenceError};
pub use refusal::{FailureClass, LayerFault, Refusal, TarFault};
pub use remote::{
    Credentials, CredentialsError, PullError, PullOptions, PushError, PushOptions, RegistryError,
    RetryPolicy,
};
pub use rootfs::{EntryKind, Extent, Root, RootEntry};
pub use store::{
    FileStamp, ImageStore, ImageUse, Inspection, Listed, PlainHttp, Reclaim, Removed, StoreError,
    StoreOptions,
};
