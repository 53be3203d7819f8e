//! Answer bodies: whole, a list put together from stored objects, or a watch without an end.
//!
//! Lists and watches hand out the stored bytes themselves wherever whole objects are asked for;
//! other views are drawn object by object, as the body is read.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use thiserror::Error;

use super::{
    gzip::{Compressor, Source},
    metrics::OpenWatch,
    pretty::Indenter,
};
use crate::{
    kinds::KindInfo, kubelets::LogStream, object::ObjectRecord, proxy::PassedStream,
    verbs::WatchStream, view::View,
};

/// The body of an answer.
#[derive(Debug)]
pub struct ApiBody {
    content: Content,
    /// Counts this body while it lives, if it is counted.
    _open: Option<OpenWatch>,
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    List(ListParts),
    Compressed(Box<Compressor>),
    Indented(Box<Indenter>),
    Watch(Box<WatchStream>),
    Log(LogStream),
    Passed(PassedStream),
}

/// An answer breaks off: whoever makes it has gone away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the answer broke off")]
pub struct BrokenOff;

/// A list: text in front, objects with something between them, text behind.
#[derive(Debug)]
pub(super) struct ListParts {
    head: Option<Bytes>,
    items: VecDeque<Arc<ObjectRecord>>,
    length: usize,
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
        ApiBody::of(Content::Whole(Some(bytes)))
    }

    pub(super) fn list(parts: ListParts) -> ApiBody {
        ApiBody::of(Content::List(parts))
    }

    pub(crate) fn watch(stream: WatchStream) -> ApiBody {
        ApiBody::of(Content::Watch(Box::new(stream)))
    }

    fn of(content: Content) -> ApiBody {
        ApiBody {
            content,
            _open: None,
        }
    }

    /// Lets the body be counted as long as it lives.
    pub(super) fn counted(self, open: OpenWatch) -> ApiBody {
        ApiBody {
            _open: Some(open),
            ..self
        }
    }

    pub(crate) fn passed_on(stream: PassedStream) -> ApiBody {
        ApiBody::of(Content::Passed(stream))
    }

    /// Says whether somebody else writes this answer, who alone knows where it ends.
    pub(crate) fn is_passed_on(&self) -> bool {
        matches!(self.content, Content::Passed(_))
    }

    pub(crate) fn log(stream: LogStream) -> ApiBody {
        ApiBody::of(Content::Log(stream))
    }

    /// Changes the bytes of a body that is whole.
    pub(super) fn map_whole(self, change: impl FnOnce(Bytes) -> Bytes) -> ApiBody {
        match self.content {
            Content::Whole(Some(bytes)) => ApiBody::whole(change(bytes)),
            content => ApiBody { content, ..self },
        }
    }

    /// Says whether the body is a stream of events.
    pub(super) fn is_watch(&self) -> bool {
        matches!(self.content, Content::Watch(_))
    }

    /// Compresses a body that has at least `threshold` bytes; says whether it has.
    ///
    /// A watch never is compressed: what it sends shall arrive at once.
    pub(super) fn compressed(self, threshold: usize) -> (ApiBody, bool) {
        let compressor = match self.content {
            Content::Whole(Some(bytes)) if bytes.len() >= threshold => Compressor::of_bytes(bytes),
            Content::List(parts) if parts.is_at_least(threshold) => Compressor::of_list(parts),
            content => return (ApiBody { content, ..self }, false),
        };
        (ApiBody::of(Content::Compressed(Box::new(compressor))), true)
    }

    /// Lets JSON be written for people; a watch stays a line per event.
    pub(super) fn indented(self) -> ApiBody {
        let source = match self.content {
            Content::Whole(Some(bytes)) => Source::Bytes(bytes),
            Content::List(parts) => Source::List(Box::new(parts), Bytes::new()),
            content => return ApiBody { content, ..self },
        };
        ApiBody::of(Content::Indented(Box::new(Indenter::new(source))))
    }

    /// Says whether the body goes on for as long as the client wants.
    pub(crate) fn is_endless(&self) -> bool {
        match &self.content {
            Content::Whole(_)
            | Content::List(_)
            | Content::Compressed(_)
            | Content::Indented(_) => false,
            Content::Watch(_) | Content::Log(_) | Content::Passed(_) => true,
        }
    }
}

impl ListParts {
    pub(super) fn new(
        info: &'static KindInfo,
        view: View,
        metadata: &Value,
        items: Vec<Arc<ObjectRecord>>,
    ) -> ListParts {
        ListParts {
            head: Some(view.list_head(info, metadata)),
            length: items.len(),
            items: items.into(),
            info,
            view,
            position: ListPosition::FirstItem,
        }
    }

    /// Judges by the stored objects, since what a view makes of them is not yet known.
    fn is_at_least(&self, threshold: usize) -> bool {
        let mut total = 0_usize;
        self.items.iter().any(|record| {
            total += record.value.len();
            total >= threshold
        })
    }

    /// Returns the next piece.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        match (self.position, self.items.is_empty()) {
            (ListPosition::Ended, _) => None,
            (_, true) => {
                self.position = ListPosition::Ended;
                Some(Bytes::from_static(self.view.list_tail(self.length)))
            }
            (ListPosition::Separator, false) => {
                self.position = ListPosition::NextItem;
                Some(Bytes::from_static(self.view.separator()))
            }
            (ListPosition::FirstItem | ListPosition::NextItem, false) => {
                self.position = ListPosition::Separator;
                let record = self.items.pop_front()?;
                Some(self.view.item(self.info, &record.value))
            }
        }
    }
}

impl Body for ApiBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let next = match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take()),
            Content::List(parts) => Poll::Ready(parts.next()),
            Content::Indented(indenter) => Poll::Ready(indenter.next()),
            Content::Compressed(compressor) => Poll::Ready(compressor.next()),
            Content::Watch(stream) => stream.poll_next(cx),
            Content::Log(stream) => stream.poll_next(cx),
            Content::Passed(stream) => {
                let next = stream.poll_next(cx);
                return next.map(|next| next.map(|piece| piece.map(Frame::data)));
            }
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
            Content::List(_)
            | Content::Compressed(_)
            | Content::Indented(_)
            | Content::Watch(_)
            | Content::Log(_)
            | Content::Passed(_) => SizeHint::default(),
        }
    }
}
