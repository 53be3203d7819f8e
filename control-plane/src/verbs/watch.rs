//! Watches: the store's events as seen through one client's selector.
//!
//! A watch is the body of its answer and is polled by whoever sends it; it has no task of its
//! own. The objects it sends are the stored bytes. One that reads too slowly meets the end of the
//! history, is told so with a 410 and ends.

use std::{
    collections::VecDeque,
    future::Future as _,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use coracle_store::{Change, Event, Revision, WatchError, Watcher};
use rand::RngExt as _;
use serde_json::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Machine, not_in_future};
use crate::{
    invalid::Causes,
    kinds::KindInfo,
    object::{self, ObjectIndex, ObjectRecord},
    protobuf,
    request::{Call, Options, VersionMatch},
    selector::Selector,
    service::{Answer, ApiBody},
    status::ApiError,
    view::{Columns, Encoding, View},
};

/// How often a client that wants bookmarks is told how far it has read.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// How long a watch lasts when the client does not say: drawn, so that not all end at once.
const WATCH_SECONDS_DEFAULT: Range<u64> = 30 * 60..60 * 60;

/// The longest a client may ask for; also keeps the deadline representable.
const WATCH_DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The body of a watch.
#[derive(Debug)]
pub(crate) struct WatchStream {
    info: &'static KindInfo,
    view: View,
    columns: Columns,
    selector: Selector,
    initial: VecDeque<Arc<ObjectRecord>>,
    /// The bookmark that ends the initial objects, still to be sent.
    initial_end: Option<Revision>,
    source: Source,
    /// Pieces of one event, in the order in which they go out.
    pieces: VecDeque<Bytes>,
    /// Events that were read but not yet sent; holds memory only while there are some.
    batch: std::vec::IntoIter<Event<ObjectIndex>>,
    deadline: Pin<Box<Sleep>>,
    bookmarks: Option<Interval>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Where events come from.
#[derive(Debug)]
enum Source {
    /// The store goes on.
    Live(Watcher<ObjectIndex>),
    /// Nothing comes any more; the body ends when its pieces are sent.
    Ended,
}

/// What an event tells.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl Machine {
    pub(super) fn watch(&self, call: &Call) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        check_watch_options(options)?;
        let selector = objects.selector(options)?;
        not_in_future(options.resource_version, self.store.revision())?;
        let prefix = object::prefix(objects.info, objects.namespace.as_deref());
        let (initial, start) = match options.resource_version {
            Some(revision) if revision > 0 && options.send_initial_events != Some(true) => {
                (Vec::new(), Revision::from(revision))
            }
            _ if options.send_initial_events == Some(false) => (Vec::new(), self.store.revision()),
            _ => {
                let range = coracle_store::Range {
                    prefix: &prefix,
                    after: None,
                    limit: None,
                    at: None,
                };
                let page = self.store.range(&range, |record| selector.matches(record));
                let page = page.map_err(|error| ApiError::internal(error.to_string()))?;
                (page.records, page.revision)
            }
        };
        // Without bookmarks there is none that could tell where the initial objects end.
        let end = options.send_initial_events == Some(true) && options.bookmarks;
        let end = end.then_some(start);
        let mut pieces = VecDeque::new();
        let source = match self.store.watch(&prefix, start) {
            Ok(watcher) => Source::Live(watcher),
            Err(error) => {
                pieces.extend(failure(objects.info, call.view, start, error));
                Source::Ended
            }
        };
        let lasts = options.timeout_seconds.filter(|&seconds| seconds > 0);
        let lasts = lasts.unwrap_or_else(|| rand::rng().random_range(WATCH_SECONDS_DEFAULT));
        let lasts = Duration::from_secs(lasts).min(WATCH_DURATION_MAX);
        Ok(Answer::stream(ApiBody::watch(WatchStream {
            info: objects.info,
            view: call.view,
            columns: Columns::Due,
            selector,
            initial: initial.into(),
            initial_end: end,
            source,
            pieces,
            batch: Vec::new().into_iter(),
            deadline: Box::pin(tokio::time::sleep(lasts)),
            bookmarks: options.bookmarks.then(bookmark_interval),
            stopping: Box::pin(self.stopping.clone().cancelled_owned()),
        })))
    }
}

fn bookmark_interval() -> Interval {
    let mut interval =
        tokio::time::interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn check_watch_options(options: &Options) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let field = "resourceVersionMatch";
    let wanted = options.version_match;
    let initial = options.send_initial_events.is_some();
    if initial && wanted != Some(VersionMatch::NotOlderThan) {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        causes.forbidden(field, why);
    }
    if let Some(wanted) = wanted {
        if !initial {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            causes.forbidden(field, why);
        }
        if wanted != VersionMatch::NotOlderThan {
            causes.not_supported(field, &Value::from("Exact"), &["NotOlderThan"]);
        }
        if options.continue_token.is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            causes.forbidden(field, why);
        }
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_list_options(causes))
    }
}

impl WatchStream {
    /// Returns the next piece of the body; ready with nothing when the watch has ended.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(piece));
            }
            if self.send_initial() || self.send_next() {
                continue;
            }
            let Source::Live(watcher) = &mut self.source else {
                return Poll::Ready(None);
            };
            if self.stopping.as_mut().poll(cx).is_ready() {
                self.source = Source::Ended;
                continue;
            }
            if self.deadline.as_mut().poll(cx).is_ready() {
                let seen = watcher.seen();
                if self.bookmarks.is_some() {
                    self.send_bookmark(seen, "");
                }
                self.source = Source::Ended;
                continue;
            }
            let mut batch = Vec::new();
            match watcher.poll_batch(cx, &mut batch) {
                Poll::Ready(Ok(())) => self.batch = batch.into_iter(),
                Poll::Ready(Err(error)) => {
                    let failure = failure(self.info, self.view, watcher.seen(), error);
                    self.pieces.extend(failure);
                    self.source = Source::Ended;
                }
                Poll::Pending => {
                    let seen = watcher.seen();
                    let due = self
                        .bookmarks
                        .as_mut()
                        .map(|interval| interval.poll_tick(cx));
                    if !matches!(due, Some(Poll::Ready(_))) {
                        return Poll::Pending;
                    }
                    self.send_bookmark(seen, "");
                }
            }
        }
    }

    /// Queues the next initial object, or what ends them; false when all that is done.
    fn send_initial(&mut self) -> bool {
        if let Some(record) = self.initial.pop_front() {
            self.send(Kind::Added, &record.value);
            return true;
        }
        match self.initial_end.take() {
            Some(revision) => {
                self.send_bookmark(
                    revision,
                    r#","annotations":{"k8s.io/initial-events-end":"true"}"#,
                );
                true
            }
            None => false,
        }
    }

    /// Queues the next event that was read if the selector lets it pass; false at their end.
    fn send_next(&mut self) -> bool {
        let Some(event) = self.batch.next() else {
            return false;
        };
        let was = event
            .before
            .as_ref()
            .filter(|before| self.selector.matches(before));
        let is = event.change != Change::Deleted && self.selector.matches(&event.record);
        match (was, is) {
            (None, true) => self.send(Kind::Added, &event.record.value),
            (Some(_), true) => self.send(Kind::Modified, &event.record.value),
            (Some(_), false) if event.change == Change::Deleted => {
                self.send(Kind::Deleted, &event.record.value);
            }
            // The object goes on but is no longer selected: its last selected state.
            (Some(before), false) => {
                let last = object::at_revision(self.info, &before.value, event.revision());
                self.send(Kind::Deleted, &last);
            }
            (None, false) => (),
        }
        true
    }

    /// Queues an event with an object that is encoded as stored ones are.
    fn send(&mut self, kind: Kind, encoded: &Bytes) {
        let object = self.view.event(self.info, encoded, self.columns);
        self.columns = Columns::Sent;
        self.pieces.extend(frame(self.view, kind, object));
    }

    fn send_bookmark(&mut self, revision: Revision, annotations: &str) {
        let (kind, version) = (self.info.kind, self.info.api_version());
        let object = format!(
            r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{{"resourceVersion":"{revision}"{annotations}}}}}"#
        );
        self.send(Kind::Bookmark, &Bytes::from(object));
    }
}

fn failure(
    info: &KindInfo,
    view: View,
    wanted: Revision,
    error: WatchError,
) -> impl IntoIterator<Item = Bytes> {
    let error = match error {
        WatchError::Compacted { oldest } => ApiError::expired(wanted.get(), oldest.get()),
        WatchError::Future { newest } => ApiError::version_too_large(wanted.get(), newest.get()),
    };
    let status = Bytes::from(error.to_status().to_string());
    frame(view, Kind::Error, view.document(info, status))
}

/// One event on the wire: in JSON a line around bytes that all watchers share, in protobuf a
/// message behind its length.
fn frame(view: View, kind: Kind, object: Bytes) -> impl Iterator<Item = Bytes> {
    let (head, tail) = match view.encoding {
        Encoding::Json | Encoding::Yaml => {
            let head = match kind {
                Kind::Added => r#"{"type":"ADDED","object":"#,
                Kind::Modified => r#"{"type":"MODIFIED","object":"#,
                Kind::Deleted => r#"{"type":"DELETED","object":"#,
                Kind::Bookmark => r#"{"type":"BOOKMARK","object":"#,
                Kind::Error => r#"{"type":"ERROR","object":"#,
            };
            let head = Bytes::from_static(head.as_bytes());
            (head, Some(Bytes::from_static(b"}\n")))
        }
        Encoding::Protobuf => {
            let kind = match kind {
                Kind::Added => "ADDED",
                Kind::Modified => "MODIFIED",
                Kind::Deleted => "DELETED",
                Kind::Bookmark => "BOOKMARK",
                Kind::Error => "ERROR",
            };
            (protobuf::event_head(kind, &object), None)
        }
    };
    [head, object].into_iter().chain(tail)
}
