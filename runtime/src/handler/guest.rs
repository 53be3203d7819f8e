//! One request and its guest.

use super::Server;
use super::body::GuestBody;
use super::connection::Part;
use super::instances::Leased;
use super::replies::Reply;
use crate::command::trap_text;
use crate::engine::Full;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

type Answer = Result<Response<HyperOutgoingBody>, ErrorCode>;

/// A guest at work on one request, for the connection's task to run.
pub(super) type Work = BoxFuture<'static, Part>;

/// The other end: resolves to the response, and ends the guest when dropped before that.
pub(super) struct Pending {
    answer: oneshot::Receiver<Answer>,
    failed: Arc<AtomicBool>,
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

/// Splits a request into the guest's work and the wait for its answer.
pub(super) fn begin(server: Arc<Server>, request: Request<Incoming>) -> (Work, Pending) {
    let (sender, answer) = oneshot::channel();
    let failed = Arc::new(AtomicBool::new(false));
    let (abort, registration) = AbortHandle::new_pair();
    let guest = serve(server, request, sender, failed.clone());
    let work = async move {
        // Ended from outside or by itself: nobody asks which.
        let _ = Abortable::new(guest, registration).await;
        Part::Guest
    };
    let pending = Pending {
        answer,
        failed,
        guest: EndsGuest(Some(abort)),
    };
    (Box::pin(work), pending)
}

impl Pending {
    /// Waits for the head of the answer.
    pub(super) async fn response(mut self, server: &Server) -> Response<GuestBody> {
        let deadline = server.container.spec.handler.request_deadline;
        let answer = tokio::time::timeout(deadline, &mut self.answer).await;
        let response = match answer {
            Ok(Ok(Ok(response))) => {
                // From here on the guest may go on as long as the connection does.
                self.guest.0 = None;
                response
            }
            Ok(Ok(Err(_)) | Err(_)) => Reply::GuestFailed.response(),
            Err(_elapsed) => Reply::TooSlow.response(),
        };
        let failed = self.failed.clone();
        response.map(|body| GuestBody::new(body, failed))
    }
}

/// Answers `request` with an instance, and says on the container's standard error if it fails.
async fn serve(
    server: Arc<Server>,
    request: Request<Incoming>,
    answer: oneshot::Sender<Answer>,
    failed: Arc<AtomicBool>,
) {
    let container = &server.container;
    let Some(permit) = server.instances.permit(container).await else {
        // The client may be gone; then there is nobody to tell.
        let _ = answer.send(Ok(Reply::Busy.response()));
        return;
    };
    let leased = match server.instances.lease(container, permit).await {
        Ok(leased) => leased,
        Err(error) if error.is::<Full>() => {
            tracing::warn!(container = %container.id(), %error, "a request had no instance");
            let _ = answer.send(Ok(Reply::Busy.response()));
            return;
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
            failed.store(true, Ordering::Release);
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
    let mut http = leased.store.data_mut().http();
    let resources = http
        .new_incoming_request(Scheme::Http, request)
        .and_then(|request| Ok((request, http.new_response_outparam(answer)?)));
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
        let guest = self.store.data_mut();
        guest.stdout.drained().await;
        guest.stderr.drained().await;
    }
}
