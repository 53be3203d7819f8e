//! Bodies between guest and connection, and the rules of fields.

use super::body::OutgoingBody;
use super::fields::{self, declared_length};
use super::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use wasmtime_wasi::p2::{OutputStream as _, Pollable as _, StreamError};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p2::body::StreamContext;
use wasmtime_wasi_http::{Error, FieldMap, FieldMapError};

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A body of an answer that declares the length given, with its stream.
fn body(declared: Option<u64>) -> (OutgoingBody, body::BodyStream, WrittenBody) {
    let (guests, ours) = OutgoingBody::new(StreamContext::Response, declared);
    let stream = guests.take_stream().expect("it was not taken");
    assert!(guests.take_stream().is_none());
    (guests, stream, ours)
}

type Polled = Poll<Option<Result<Frame<Bytes>, Error>>>;

fn poll(body: &mut WrittenBody, waker: &Waker) -> Polled {
    Pin::new(body).poll_frame(&mut Context::from_waker(waker))
}

/// The next piece, which is there.
fn piece(body: &mut WrittenBody) -> Bytes {
    let Poll::Ready(Some(Ok(frame))) = poll(body, Waker::noop()) else {
        panic!("a frame is there");
    };
    frame.into_data().expect("a frame of data")
}

fn is_end(polled: &Polled) -> bool {
    matches!(polled, Poll::Ready(None))
}

#[test]
fn a_body_that_is_whole_has_a_length() {
    let (guests, mut stream, mut ours) = body(None);
    stream.write("Hello, ".into()).expect("there is room");
    stream.write("pod!".into()).expect("there is room");
    stream.flush().expect("somebody reads");
    assert_eq!(ours.size_hint().exact(), None, "more may come");
    drop(stream);
    guests.finish(None).expect("nothing was declared");
    assert_eq!(ours.size_hint().exact(), Some(11));
    assert!(!ours.is_end_stream());
    assert_eq!(piece(&mut ours), "Hello, ");
    assert!(!ours.is_end_stream());
    assert_eq!(piece(&mut ours), "pod!");
    assert!(ours.is_end_stream());
    assert!(is_end(&poll(&mut ours, Waker::noop())));
}

#[test]
fn a_body_with_trailers_says_no_length_and_ends_with_them() {
    let (guests, mut stream, mut ours) = body(None);
    stream.write("x".into()).expect("there is room");
    drop(stream);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    guests.finish(Some(trailers.clone())).expect("it ends well");
    assert_eq!(ours.size_hint().exact(), None);
    piece(&mut ours);
    assert!(!ours.is_end_stream());
    let Poll::Ready(Some(Ok(frame))) = poll(&mut ours, Waker::noop()) else {
        panic!("a frame is there");
    };
    assert_eq!(frame.into_trailers().ok(), Some(trailers));
    assert!(is_end(&poll(&mut ours, Waker::noop())));
}

#[test]
fn a_length_that_was_declared_is_kept() {
    let (guests, mut stream, mut ours) = body(Some(3));
    stream.write("abc".into()).expect("there is room");
    let too_much = stream.write("d".into());
    let Err(StreamError::LastOperationFailed(error)) = too_much else {
        panic!("{too_much:?}");
    };
    let code = error.downcast_ref::<ErrorCode>();
    assert!(
        matches!(code, Some(ErrorCode::HttpResponseBodySize(Some(4)))),
        "{error:?}"
    );
    drop(stream);
    let ended = guests.finish(None);
    assert!(matches!(
        ended,
        Err(ErrorCode::HttpResponseBodySize(Some(4)))
    ));
    assert_eq!(piece(&mut ours), "abc");
    assert!(matches!(
        poll(&mut ours, Waker::noop()),
        Poll::Ready(Some(Err(_)))
    ));

    let (guests, stream, mut ours) = body(Some(3));
    drop(stream);
    let ended = guests.finish(None);
    assert!(matches!(
        ended,
        Err(ErrorCode::HttpResponseBodySize(Some(0)))
    ));
    assert!(!ours.is_end_stream());
    assert!(matches!(
        poll(&mut ours, Waker::noop()),
        Poll::Ready(Some(Err(_)))
    ));
}

// A guest that lets its body go wants the client to know; one whose instance ends has said all it had to.
#[test]
fn a_body_that_is_given_up_breaks_off_and_one_that_is_left_ends() {
    let (guests, stream, mut ours) = body(None);
    drop(stream);
    guests.give_up();
    assert!(matches!(
        poll(&mut ours, Waker::noop()),
        Poll::Ready(Some(Err(_)))
    ));
    assert!(is_end(&poll(&mut ours, Waker::noop())));

    let (guests, stream, mut ours) = body(None);
    drop((guests, stream));
    assert!(is_end(&poll(&mut ours, Waker::noop())));
}

#[test]
fn a_body_is_not_let_go_before_its_stream() {
    let (guests, stream, _ours) = body(None);
    let early = guests.check_stream();
    assert!(matches!(early, Err(ResourceTableError::HasChildren)));
    drop(stream);
    assert!(guests.check_stream().is_ok());
}

#[test]
fn whoever_waits_for_the_other_side_is_woken() {
    let (guests, mut stream, mut ours) = body(None);
    let (reader, writer) = (Arc::<Count>::default(), Arc::<Count>::default());
    let woken = |count: &Arc<Count>| count.0.load(Ordering::Relaxed);
    let (reads, writes) = (reader.clone().into(), writer.clone().into());
    assert!(poll(&mut ours, &reads).is_pending());
    let permit = stream.check_write().expect("somebody reads");
    stream
        .write(vec![0; permit].into())
        .expect("it is permitted");
    assert_eq!(woken(&reader), 1);
    assert_eq!(stream.check_write().expect("somebody reads"), 0);
    {
        let mut ready = stream.ready();
        let cx = &mut Context::from_waker(&writes);
        assert!(ready.as_mut().poll(cx).is_pending());
        assert_eq!(piece(&mut ours).len(), permit);
        assert_eq!(woken(&writer), 1);
        assert!(ready.as_mut().poll(cx).is_ready());
    }
    assert!(poll(&mut ours, &reads).is_pending());
    drop(stream);
    guests.finish(None).expect("nothing was declared");
    assert_eq!(woken(&reader), 2);
}

// However small the pieces, what waits is bounded; and a write beyond the permit is the guest's fault.
#[test]
fn no_more_waits_than_is_permitted() {
    let (_guests, mut stream, mut ours) = body(None);
    let mut written = 0;
    while stream.check_write().expect("somebody reads") > 0 {
        stream.write("x".into()).expect("it is permitted");
        written += 1;
    }
    assert!(written <= 64, "{written}");
    assert!(matches!(
        stream.write("x".into()),
        Err(StreamError::Trap(_))
    ));
    piece(&mut ours);
    let permit = stream.check_write().expect("somebody reads");
    let much = Bytes::from(vec![0; permit + 1]);
    assert!(matches!(stream.write(much), Err(StreamError::Trap(_))));
}

#[test]
fn a_body_that_nobody_reads_is_closed() {
    let (_guests, mut stream, ours) = body(None);
    stream.write("x".into()).expect("there is room");
    drop(ours);
    assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
    assert!(matches!(stream.write("x".into()), Err(StreamError::Closed)));
    assert!(matches!(stream.flush(), Err(StreamError::Closed)));
    let ready = stream.ready();
    let mut ready = std::pin::pin!(ready);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(ready.as_mut().poll(cx).is_ready());
}

/// What upstream makes of a field.
fn upstream(name: &str, value: &[u8]) -> Result<FieldMap, FieldMapError> {
    let mut map = FieldMap::new_mutable(usize::MAX);
    let mut hooks = Hooks;
    map.append(&mut hooks, name.to_owned(), value.to_owned())?;
    Ok(map)
}

/// Upstream's own decisions.
struct Hooks;

impl wasmtime_wasi_http::WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _: http::Request<wasmtime_wasi_http::WasiBody>,
        _: Option<wasmtime_wasi_http::RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<
                    (
                        http::Response<wasmtime_wasi_http::WasiBody>,
                        Box<dyn Future<Output = Result<(), Error>> + Send>,
                    ),
                    Error,
                >,
            > + Send,
    > {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

// The rules are upstream's, be it of what is refused or of what is sent.
#[test]
fn fields_are_taken_as_upstream_takes_them() {
    let names = [
        "accept",
        "Accept",
        "",
        "a b",
        "ä",
        "host",
        "Connection",
        "content-length",
        "x-1",
        "upgrade",
    ];
    let values: [&[u8]; 8] = [
        b"",
        b"1",
        b" 1",
        b"+1",
        b"18446744073709551616",
        b"text",
        b"\n",
        b"\xff",
    ];
    for name in names {
        for value in values {
            let (theirs, ours) = (upstream(name, value), fields::field(name, value));
            match (theirs, ours) {
                (Ok(map), Ok((name, value))) => assert_eq!(map.get(&name), Some(&value)),
                (theirs, ours) => assert_eq!(theirs.err(), ours.err(), "{name} {value:?}"),
            }
        }
    }
}

#[test]
fn a_declared_length_is_one_number() {
    let declared = |values: &[&str]| {
        let mut fields = FieldMap::new_mutable(usize::MAX);
        for value in values {
            let value = HeaderValue::from_str(value).expect("a field's value");
            fields
                .append_raw(http::header::CONTENT_LENGTH, value)
                .expect("there is room");
        }
        declared_length(&fields)
    };
    assert_eq!(declared(&[]), Ok(None));
    assert_eq!(declared(&["0"]), Ok(Some(0)));
    assert_eq!(declared(&["12"]), Ok(Some(12)));
    for wrong in [&[""][..], &["+1"], &["-1"], &["1 "], &["1", "1"]] {
        assert_eq!(declared(wrong), Err(()), "{wrong:?}");
    }
}
