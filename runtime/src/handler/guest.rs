//! One request and its guest.

use super::Server;
use super::body::{AnswerBody, End, Fate};
use super::connection::{Crew, Part};
use super::instances::Leased;
use super::replies::Reply;
use crate::command::trap_text;
use crate::engine::Full;
use crate::http_types::{Answer, IncomingRequest};
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// A guest at work on one request, for the connection's task to run.
pub(super) type Work = BoxFuture<'static, Part>;

/// The wait for an answer, which ends the guest when dropped before that.
struct Pending {
    answer: oneshot::Receiver<Answer>,
    fate: Arc<Fate>,
    guest: EndsGuest,
}

/// Ends the guest when dropped, unless disarmed: the client is gone or the time is over.
struct EndsGuest(Option<AbortHandle>);

impl Drop for EndsGuest {
    fn drop(&mut self) {
        if let Some(guest) = self.0.take() {
            guest.abort();
        }
    }
}

/// Answers `request` with a guest. Most do all they have to without waiting for anything: that is done here and
/// now, and the answer is whole when the connection gets it. One that waits goes on in the `crew`.
pub(super) async fn answer(
    server: &Arc<Server>,
    crew: &Crew,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let (sender, answer) = oneshot::channel();
    let fate = Arc::new(Fate::default());
    let mut guest = Box::pin(serve(server.clone(), request, sender, fate.clone()));
    let mut pending = Pending {
        answer,
        fate,
        guest: EndsGuest(None),
    };
    // While the container drains, the connection first has to hear that it closes with this answer.
    let is_done = !server.container.closing.is_asked()
        && poll_fn(|cx| Poll::Ready(guest.as_mut().poll(cx).is_ready())).await;
    if !is_done {
        let (abort, registration) = AbortHandle::new_pair();
        pending.guest.0 = Some(abort);
        crew.add(Box::pin(async move {
            // Ended from outside or by itself: nobody asks which.
            let _ = Abortable::new(guest, registration).await;
            Part::Guest
        }));
    }
    pending.response(server).await
}

impl Pending {
    /// Waits for the head of the answer.
    async fn response(mut self, server: &Server) -> Response<AnswerBody> {
        let answer = match self.answer.try_recv() {
            Ok(answer) => Ok(answer),
            Err(TryRecvError::Closed) => return self.no_answer().response(),
            Err(TryRecvError::Empty) => {
                let deadline = server.container.spec.handler.request_deadline;
                match tokio::time::timeout(deadline, &mut self.answer).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => return Reply::TooSlow.response(),
                }
            }
        };
        let Ok(Ok(response)) = answer else {
            return self.no_answer().response();
        };
        // From here on the guest may go on as long as the connection does.
        self.guest.0 = None;
        response.map(|body| match body {
            Some(body) => AnswerBody::Guests(body, self.fate.clone()),
            None => AnswerBody::None,
        })
    }

    /// Says why there is no answer.
    fn no_answer(&self) -> Reply {
        match self.fate.end() {
            End::NoInstance => Reply::Busy,
            End::Fine | End::Failed => Reply::GuestFailed,
        }
    }
}

/// Answers `request` with an instance, and says on the container's standard error if it fails.
async fn serve(
    server: Arc<Server>,
    request: Request<Incoming>,
    answer: oneshot::Sender<Answer>,
    fate: Arc<Fate>,
) {
    let container = &server.container;
    let Some(permit) = server.instances.permit(container).await else {
        return fate.is(End::NoInstance);
    };
    let leased = match server.instances.lease(container, permit).await {
        Ok(leased) => leased,
        Err(error) if error.is::<Full>() => {
            tracing::warn!(container = %container.id(), %error, "a request had no instance");
            return fate.is(End::NoInstance);
        }
        Err(error) => return report(&server, &error),
    };
    let served = leased.served;
    let abandoned = ReuseEnds {
        server: &server,
        served,
        armed: true,
    };
    match call(leased, request, answer).await {
        Ok(mut leased) => {
            abandoned.disarm();
            leased.drain_output().await;
            server.instances.give_back(leased);
        }
        Err((leased, error)) => {
            fate.is(End::Failed);
            report(&server, &error);
            drop(leased);
        }
    }
}

/// Counts a request that was cut off as a failure of its instance: a reused one may hang.
struct ReuseEnds<'a> {
    server: &'a Server,
    served: u32,
    armed: bool,
}

impl ReuseEnds<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for ReuseEnds<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.server
                .instances
                .failed(&self.server.container, self.served);
        }
    }
}

async fn call(
    mut leased: Leased,
    request: Request<Incoming>,
    answer: oneshot::Sender<Answer>,
) -> Result<Leased, (Leased, wasmtime::Error)> {
    let guest = leased.store.data_mut();
    let resources = IncomingRequest::new(request)
        .map_err(wasmtime::Error::from)
        .and_then(|request| Ok((guest.push_request(request)?, guest.push_outparam(answer)?)));
    let (request, outparam) = match resources {
        Ok(resources) => resources,
        Err(error) => return Err((leased, error)),
    };
    let handler = leased.proxy.wasi_http_incoming_handler();
    match handler
        .call_handle(&mut leased.store, request, outparam)
        .await
    {
        Ok(()) => Ok(leased),
        Err(error) => Err((leased, error)),
    }
}

fn report(server: &Server, error: &wasmtime::Error) {
    let text = trap_text(error);
    tracing::debug!(container = %server.container.id(), error = text, "a request failed");
    let mut line = text.into_bytes();
    line.push(b'\n');
    // A reader that takes nothing now misses the line rather than holding the instance.
    let _ = server.container.spec.stderr.write(&line);
}

impl Leased {
    /// Waits until the container's outputs have taken what the guest wrote.
    async fn drain_output(&mut self) {
        let outputs = self.store.data().outputs().cloned();
        if let Some(outputs) = outputs {
            outputs.drained().await;
        }
    }
}
