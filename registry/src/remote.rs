//! Registries: what travels between them and the store.

mod auth;
mod credentials;
mod download;
mod error;
mod pull;
mod push;
mod retry;
mod session;
mod trust;

pub use credentials::{Credentials, CredentialsError};
pub use error::RegistryError;
pub use pull::{PullError, PullOptions};
pub use push::{PushError, PushOptions};
pub use retry::RetryPolicy;
pub(crate) use session::HttpClient;
pub(crate) use trust::SystemTrust;
