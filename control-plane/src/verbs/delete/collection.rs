//! Deleting all objects that a list would show.

use futures::{StreamExt, stream};

use super::{super::Machine, wish::Wish};
use crate::{
    kinds::Grace,
    request::Call,
    service::{Answer, Content},
    status::ApiError,
};

/// So many objects are deleted at a time: enough for a durable store to write them together.
const DELETIONS_AT_ONCE: usize = 32;

impl Machine {
    pub(in super::super) async fn delete_collection(
        &self,
        call: &Call,
        content: &Content,
    ) -> Result<Answer, ApiError> {
        let info = call.objects.info;
        debug_assert_ne!(
            info.grace,
            Grace::Namespace,
            "the table offers no such verb"
        );
        let wish = Wish::read(&call.options, content)?;
        let page = self.page(call)?;
        let wish = &wish;
        let deletions = stream::iter(page.records.clone())
            .map(|record| async move { self.delete_one(info, &record.key, wish).await })
            .buffer_unordered(DELETIONS_AT_ONCE);
        // All are tried before the first failure is told. If an object is gone, someone else was
        // faster, and the outcome is the wanted one.
        let failure = deletions
            .fold(None, |first: Option<ApiError>, deleted| async {
                let failure = deleted.err().filter(|error| !error.is_not_found());
                first.or(failure)
            })
            .await;
        match failure {
            Some(error) => Err(error),
            None => Ok(page.answer(call)),
        }
    }
}
