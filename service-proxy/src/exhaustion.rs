//! Tells the operator that connections found no descriptor, or no memory for sockets: in the log and as an
//! event on the Node, beside the counter.

use std::sync::Weak;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::events::{About, EventSink, Reason};

/// How soon it is told again when it goes on: a flood of connections is one piece of news, and an operator who
/// raises the limit sees within minutes whether that was enough.
const AGAIN_AFTER: Duration = Duration::from_secs(300);

/// What to do about it, for people.
const MESSAGE: &str = "connections wait or are reset since descriptors, or the system's memory for sockets, are \
    used up; raise the limit of open files (`ulimit -n`, `LimitNOFILE` of systemd)";

/// Tells each time the edge meets the end of descriptors, at most once in [`AGAIN_AFTER`], until `stop`. Ends
/// with the edge, which it keeps only while it waits.
pub(crate) async fn tell(
    edge: Weak<Edge>,
    node: Option<String>,
    events: EventSink,
    stop: CancellationToken,
) {
    let exhausted = move || {
        let edge = edge.clone();
        async move {
            edge.upgrade()?.exhausted().await;
            Some(())
        }
    };
    let rest = || tokio::time::sleep(AGAIN_AFTER);
    tell_when(exhausted, rest, node, events, stop).await;
}

/// Tells each time that `exhausted` says so, and then waits for `rest`, until there is nothing to say any more.
async fn tell_when<E: Future<Output = Option<()>>, R: Future<Output = ()>>(
    exhausted: impl Fn() -> E,
    rest: impl Fn() -> R,
    node: Option<String>,
    events: EventSink,
    stop: CancellationToken,
) {
    let telling = async {
        while exhausted().await.is_some() {
            tracing::warn!("{MESSAGE}");
            if let Some(node) = &node {
                events.tell(About::node(node), Reason::Exhausted, MESSAGE.to_owned());
            }
            rest().await;
        }
    };
    tokio::select! {
        // Nothing is lost with either: what was told is told.
        () = stop.cancelled() => {}
        () = telling => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn used_up_descriptors_are_an_event_on_the_node_once_in_a_while() {
        let (events, mut heard) = EventSink::heard();
        let [news, rested] = [(); 2].map(|()| Arc::new(Notify::new()));
        let stop = CancellationToken::new();
        let (waited, resting) = (Arc::clone(&news), Arc::clone(&rested));
        let exhausted = || async {
            waited.notified().await;
            Some(())
        };
        let rest = || resting.notified();
        let telling = tell_when(
            exhausted,
            rest,
            Some("here".to_owned()),
            events,
            stop.clone(),
        );
        let mut telling = std::pin::pin!(telling);
        // Goes on until it waits for one or the other.
        let mut heard_now = || {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(telling.as_mut().poll(&mut context).is_pending());
            heard()
        };
        let expected = format!("Node here: SocketsExhausted {MESSAGE}");
        assert_eq!(heard_now(), None);
        news.notify_one();
        assert_eq!(heard_now(), Some(expected.clone()));
        news.notify_one();
        assert_eq!(heard_now(), None, "not again so soon");
        rested.notify_one();
        assert_eq!(heard_now(), Some(expected));
        rested.notify_one();
        assert_eq!(heard_now(), None, "nothing has happened");
        stop.cancel();
        telling.await;
    }
}
