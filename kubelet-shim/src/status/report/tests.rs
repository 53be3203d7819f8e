//! What the server is told of a pod, and what it is spared.

use std::sync::Arc;

use futures::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::time::{Clock, Hand};

/// A reporter, and a server that keeps what it is sent.
struct Desk {
    reporter: Reporter,
    writes: Arc<Semaphore>,
    told: Arc<Mutex<Vec<Value>>>,
    clock: Clock,
    hand: Hand,
}

impl Desk {
    fn new(conditions: Vec<PodCondition>) -> Desk {
        let told = Arc::<Mutex<Vec<Value>>>::default();
        let heard = told.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let heard = heard.clone();
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let patch = serde_json::from_slice(&body).expect("a patch is JSON");
                heard.lock().push(patch);
                // An answer that is no Pod: nobody reads it.
                Ok::<_, kube::Error>(Response::new(Full::new(Bytes::from_static(b"{}"))))
            }
        });
        let (clock, hand) = Clock::manual(Timestamp::UNIX_EPOCH);
        let key = PodKey {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
        };
        let writes = Arc::new(Semaphore::new(1));
        let client = kube::Client::new(service, "default");
        Desk {
            reporter: Reporter::new(key, client, writes.clone(), conditions),
            writes,
            told,
            clock,
            hand,
        }
    }

    /// Offers a status and sees its write through; false when there is none.
    async fn tell(&mut self, status: &PodStatus) -> bool {
        let now = self.clock.now();
        let Some(write) = self.reporter.offer(status, &[], &[], now) else {
            return false;
        };
        let outcome = write.await;
        assert!(matches!(outcome, Written::Accepted), "{outcome:?}");
        self.reporter.written(&outcome, now);
        true
    }

    /// The phases that the server was told, in order.
    fn phases(&self) -> Vec<String> {
        let told = self.told.lock();
        let phase = |patch: &Value| patch["status"]["phase"].as_str().map(str::to_owned);
        told.iter().filter_map(phase).collect()
    }
}

fn status(phase: &str, container: Value) -> PodStatus {
    let mut container = container;
    for (field, value) in [
        ("name", json!("c")),
        ("image", json!("i")),
        ("imageID", json!("")),
    ] {
        container[field] = value;
    }
    let status = json!({"phase": phase, "containerStatuses": [container]});
    serde_json::from_value(status).expect("a status")
}

fn making() -> PodStatus {
    let state = json!({"waiting": {"reason": "ContainerCreating"}});
    status(
        "Pending",
        json!({"state": state, "ready": false, "restartCount": 0}),
    )
}

fn running(ready: bool, restarts: i32) -> PodStatus {
    let container = json!({"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        "ready": ready, "started": true, "restartCount": restarts});
    status("Running", container)
}

// Most starts need a few milliseconds, and each write costs more than they do.
#[tokio::test]
async fn a_quick_start_is_told_once() {
    let mut desk = Desk::new(Vec::new());
    assert!(!desk.tell(&making()).await);
    assert!(!desk.reporter.is_settled());
    assert!(!desk.tell(&running(false, 0)).await);
    assert!(desk.tell(&running(true, 0)).await);
    assert!(desk.reporter.is_settled());
    assert_eq!(desk.phases(), ["Running"]);
}

#[tokio::test]
async fn a_start_that_takes_long_is_told_when_that_shows() {
    let mut desk = Desk::new(Vec::new());
    assert!(!desk.tell(&making()).await);
    let due = desk.reporter.due().expect("it is told some time");
    desk.hand.advance(START_UNTOLD_MAX);
    assert!(desk.clock.now().reached(due));
    assert!(desk.tell(&making()).await);
    // From here on everything is told at once.
    assert!(desk.tell(&running(false, 0)).await);
    assert!(desk.tell(&running(true, 0)).await);
    assert_eq!(desk.phases(), ["Pending", "Running", "Running"]);
}

#[tokio::test]
async fn that_a_pod_runs_waits_only_briefly_for_its_readiness() {
    let mut desk = Desk::new(Vec::new());
    assert!(!desk.tell(&running(false, 0)).await);
    desk.hand.advance(READY_AWAITED_MAX);
    assert!(desk.tell(&running(false, 0)).await);
    assert_eq!(desk.reporter.due(), None);
}

// The next attempt of its probe is a whole period away.
#[tokio::test]
async fn that_a_pod_runs_is_told_when_its_first_probe_has_failed() {
    let mut desk = Desk::new(Vec::new());
    assert!(!desk.tell(&running(false, 0)).await);
    assert!(desk.reporter.give_up_ready(), "something is held back");
    assert!(desk.tell(&running(false, 0)).await);
    assert!(!desk.reporter.give_up_ready());
    let mut desk = Desk::new(Vec::new());
    assert!(!desk.reporter.give_up_ready(), "nothing is held back yet");
    assert!(desk.tell(&running(false, 0)).await);
}

// What went wrong is no part of a start that goes on.
#[tokio::test]
async fn trouble_is_told_at_once() {
    let state = json!({"waiting": {"reason": "ErrImagePull", "message": "no"}});
    let trouble = json!({"state": state, "ready": false, "restartCount": 0});
    for told in [status("Pending", trouble), running(false, 1)] {
        let mut desk = Desk::new(Vec::new());
        assert!(desk.tell(&told).await);
    }
}

#[tokio::test]
async fn a_pod_on_its_way_out_and_one_of_an_earlier_agent_hold_nothing_back() {
    let mut desk = Desk::new(Vec::new());
    assert!(!desk.tell(&making()).await);
    desk.reporter.hurry();
    assert!(desk.tell(&making()).await);
    let ready = PodCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        ..PodCondition::default()
    };
    let mut desk = Desk::new(vec![ready]);
    assert!(desk.tell(&making()).await);
}

// The reason why it was not ready would stay with a pod that is.
#[tokio::test]
async fn a_reason_that_was_told_is_taken_back_and_told_once() {
    let ready = |status: &str, reason: Option<&str>| PodCondition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        ..PodCondition::default()
    };
    let with = |status: PodStatus, condition| PodStatus {
        conditions: Some(vec![condition]),
        ..status
    };
    let unready = with(
        running(false, 1),
        ready("False", Some("ContainersNotReady")),
    );
    let ready = with(running(true, 1), ready("True", None));
    let mut desk = Desk::new(Vec::new());
    assert!(desk.tell(&unready).await);
    assert!(!desk.tell(&unready).await, "nothing has changed");
    assert!(desk.tell(&ready).await);
    assert!(!desk.tell(&ready).await, "nothing has changed");
    let told = desk.told.lock();
    let conditions = |index: usize| told[index]["status"]["conditions"].clone();
    let unready = json!([{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]);
    assert_eq!(conditions(0), unready, "no message was ever there");
    let ready = json!([{"type": "Ready", "status": "True", "reason": null}]);
    assert_eq!(conditions(1), ready);
}

#[tokio::test]
async fn a_status_that_is_overtaken_before_its_turn_is_not_sent() {
    let mut desk = Desk::new(Vec::new());
    let turn = desk.writes.clone().try_acquire_owned().expect("it is free");
    let now = desk.clock.now();
    let offer = |desk: &mut Desk, status: &PodStatus| desk.reporter.offer(status, &[], &[], now);
    let write = offer(&mut desk, &running(true, 0)).expect("it is news");
    let mut write = Box::pin(write);
    assert!(write.as_mut().now_or_never().is_none());
    assert!(
        offer(
            &mut desk,
            &status("Succeeded", json!({"ready": false, "restartCount": 0}))
        )
        .is_none()
    );
    drop(turn);
    let outcome = write.await;
    // What is under way is followed by what comes after it.
    assert!(offer(&mut desk, &running(true, 0)).is_none());
    desk.reporter.written(&outcome, now);
    assert_eq!(desk.phases(), ["Succeeded"]);
    assert!(desk.tell(&running(true, 0)).await);
    assert_eq!(desk.phases(), ["Succeeded", "Running"]);
}
