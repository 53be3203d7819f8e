//! How an answer shall look: what the `Accept` header asks for, and objects shown that way.

use bytes::Bytes;
use http::{HeaderMap, header};

use crate::{kinds::KindInfo, object::ObjectRecord, status::ApiError};

/// The form of an answer that carries objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Whole objects in JSON, as they are stored.
    Json,
}

impl View {
    /// Chooses the first form that the client takes and the server has.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Result<View, ApiError> {
        let plain_json = |offer: &str| {
            let mut parts = offer.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let transformed = parts.any(|part| part.starts_with("as="));
            !transformed && matches!(media, "*/*" | "application/*" | "application/json" | "")
        };
        let offers = headers.get_all(header::ACCEPT);
        let mut offers = offers
            .iter()
            .filter_map(|offer| offer.to_str().ok())
            .peekable();
        if offers.peek().is_none() || offers.any(|offer| offer.split(',').any(plain_json)) {
            return Ok(View::Json);
        }
        Err(ApiError::not_acceptable())
    }

    /// Shows one object; the stored bytes are shared, not copied, where they are what was asked.
    pub(crate) fn object(self, _info: &KindInfo, record: &ObjectRecord) -> Bytes {
        match self {
            View::Json => record.value.clone(),
        }
    }
}
