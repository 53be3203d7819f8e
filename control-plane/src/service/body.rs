//! Answer bodies: whole, a list put together from stored objects, or a watch without an end.
//!
//! Lists and watches hand out the stored bytes themselves; nothing is encoded or copied here.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{kinds::KindInfo, object::ObjectRecord, verbs::WatchStream, view::View};

/// The body of an answer.
#[derive(Debug)]
pub struct ApiBody {
    content: Content,
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    List(ListParts),
    Watch(Box<WatchStream>),
}

/// A list: text in front, objects with commas between, text behind.
#[derive(Debug)]
pub(crate) struct ListParts {
    head: Option<Bytes>,
    items: VecDeque<Arc<ObjectRecord>>,
    info: &'static KindInfo,
    view: View,
    position: ListPosition,
}

#[derive(Clone, Copy, Debug)]
enum ListPosition {
    FirstItem,
    Separator,
    NextItem,
    Ended,
}

impl ApiBody {
    pub(crate) fn whole(bytes: Bytes) -> ApiBody {
        ApiBody {
            content: Content::Whole(Some(bytes)),
        }
    }

    pub(crate) fn list(parts: ListParts) -> ApiBody {
        ApiBody {
            content: Content::List(parts),
        }
    }

    pub(crate) fn watch(stream: WatchStream) -> ApiBody {
        ApiBody {
            content: Content::Watch(Box::new(stream)),
        }
    }
}

impl ListParts {
    /// `head` ends where the first object goes.
    pub(crate) fn new(
        head: String,
        items: Vec<Arc<ObjectRecord>>,
        info: &'static KindInfo,
        view: View,
    ) -> ListParts {
        let head = Some(Bytes::from(head));
        ListParts {
            head,
            items: items.into(),
            info,
            view,
            position: ListPosition::FirstItem,
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        match (self.position, self.items.is_empty()) {
            (ListPosition::Ended, _) => None,
            (_, true) => {
                self.position = ListPosition::Ended;
                Some(Bytes::from_static(b"]}"))
            }
            (ListPosition::Separator, false) => {
                self.position = ListPosition::NextItem;
                Some(Bytes::from_static(b","))
            }
            (ListPosition::FirstItem | ListPosition::NextItem, false) => {
                self.position = ListPosition::Separator;
                let (info, view) = (self.info, self.view);
                self.items
                    .pop_front()
                    .map(|record| view.object(info, &record))
            }
        }
    }
}

impl Body for ApiBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take()),
            Content::List(parts) => Poll::Ready(parts.next()),
            Content::Watch(stream) => stream.poll_next(cx),
        };
        next.map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::List(_) | Content::Watch(_) => SizeHint::default(),
        }
    }
}
