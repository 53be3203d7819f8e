//! What happens to pods, told from one status to the next: lines to print, addresses, the ending.
//!
//! Pure: it is given pods as the API shows them and decides nothing about them.

use std::collections::HashMap;

use coracle_kubelet_shim::{ANNOTATION_PUBLISHED, ANNOTATION_REFUSED};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::exit::Exit;

/// Something to tell the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// A change of state, for stderr.
    State(String),
    /// A port that can be reached now: its URL, and the container or Service it belongs to; for stdout.
    Address { url: String, owner: String },
}

/// How the pods stand, all together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// At least one pod is not at its end.
    Running,
    /// Every pod has run to its end.
    Finished(Exit),
    /// An image can never run here: what is wrong, naming pod and container.
    Refused(String),
}

/// One entry of the annotation with a pod's addresses.
#[derive(Deserialize)]
struct PublishedPort {
    container: String,
    url: String,
}

/// One entry of the annotation with the images that can never run.
#[derive(Deserialize)]
struct RefusedImage {
    container: String,
    message: String,
}

/// What was last told of each pod.
#[derive(Default)]
pub(super) struct Tracker {
    pods: HashMap<String, Told>,
    /// How many of them are at their end.
    ended: usize,
    /// The first image that can never run.
    refused: Option<String>,
    /// The last warning about each pod.
    warnings: HashMap<String, String>,
}

/// The last state of one pod that was told.
#[derive(Default)]
struct Told {
    phase: Option<&'static str>,
    unschedulable: Option<String>,
    containers: HashMap<String, String>,
    addresses: Vec<String>,
    /// Set when the pod is at its end: the first failure by time, if any container failed.
    ended: Option<Option<Failure>>,
}

/// A container that failed for good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Failure {
    at: Option<Time>,
    code: i32,
}

impl Tracker {
    /// Takes a pod's newest version and returns what is new in it.
    pub(super) fn observe(&mut self, pod: &Pod) -> Vec<Note> {
        let key = pod.metadata.uid.clone().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let told = self.pods.entry(key).or_default();
        let mut notes = Vec::new();
        told.note_scheduling(pod, name, &mut notes);
        for status in container_statuses(pod) {
            told.note_container(status, name, &mut notes);
        }
        told.note_addresses(pod, name, &mut notes);
        let had_ended = told.ended.is_some();
        told.note_phase(pod, name, &mut notes);
        self.ended += usize::from(told.ended.is_some() && !had_ended);
        if self.refused.is_none()
            && let Some(RefusedImage { container, message }) =
                annotated(pod, ANNOTATION_REFUSED).pop()
        {
            self.refused = Some(format!("{name}/{container}: {message}"));
        }
        notes
    }

    /// Takes note that a pod is gone: whatever it was doing, it is at its end.
    pub(super) fn forget(&mut self, pod: &Pod) -> Vec<Note> {
        let key = pod.metadata.uid.clone().unwrap_or_default();
        let told = self.pods.entry(key).or_default();
        self.ended += usize::from(told.ended.is_none());
        told.ended.get_or_insert(None);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        vec![Note::State(format!("{name}: deleted"))]
    }

    /// Takes a warning about a pod and returns what no status tells: a volume that cannot be mounted, say.
    pub(super) fn warn(&mut self, event: &Event) -> Vec<Note> {
        let reason = event.reason.as_deref().unwrap_or_default();
        let told_by_status = matches!(reason, "Failed" | "FailedScheduling");
        if !reason.starts_with("Failed") || told_by_status {
            return Vec::new();
        }
        let key = event.involved_object.uid.clone().unwrap_or_default();
        let name = event.involved_object.name.as_deref().unwrap_or_default();
        let line = format!(
            "{name}: {reason}: {}",
            event.message.as_deref().unwrap_or_default()
        );
        let told = self.warnings.insert(key, line.clone());
        if told.as_ref() == Some(&line) {
            return Vec::new();
        }
        vec![Note::State(line)]
    }

    /// Returns how all pods stand, given how many there must be; looks at each of them only at the end.
    pub(super) fn standing(&self, expected: usize) -> Standing {
        if let Some(refusal) = &self.refused {
            return Standing::Refused(refusal.clone());
        }
        if self.ended < expected || self.ended < self.pods.len() {
            return Standing::Running;
        }
        let failures = self.pods.values().filter_map(|told| told.ended.as_ref());
        let first = failures.flatten().min();
        Standing::Finished(first.map_or(Exit::Success, |failure| Exit::of_container(failure.code)))
    }
}

impl Told {
    fn note_scheduling(&mut self, pod: &Pod, name: &str, notes: &mut Vec<Note>) {
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let refused = conditions
            .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
            .find_map(|condition| condition.message.clone())
            .filter(|message| !is_before_the_node(message));
        if refused.is_some() && refused != self.unschedulable {
            let message = refused.as_deref().unwrap_or_default();
            notes.push(Note::State(format!("{name}: cannot be placed: {message}")));
        }
        self.unschedulable = refused;
    }

    fn note_container(&mut self, status: &ContainerStatus, pod: &str, notes: &mut Vec<Note>) {
        let Some(state) = &status.state else { return };
        let Some(line) = describe(state, status.restart_count) else {
            return;
        };
        if self.containers.get(&status.name) != Some(&line) {
            notes.push(Note::State(format!("{pod}/{}: {line}", status.name)));
            self.containers.insert(status.name.clone(), line);
        }
    }

    fn note_addresses(&mut self, pod: &Pod, name: &str, notes: &mut Vec<Note>) {
        for port in annotated::<PublishedPort>(pod, ANNOTATION_PUBLISHED) {
            let running = container_statuses(pod).any(|status| {
                status.name == port.container && status.state.as_ref().is_some_and(is_running)
            });
            if running && !self.addresses.contains(&port.url) {
                self.addresses.push(port.url.clone());
                let owner = format!("{name}/{}", port.container);
                notes.push(Note::Address {
                    url: port.url,
                    owner,
                });
            }
        }
    }

    fn note_phase(&mut self, pod: &Pod, name: &str, notes: &mut Vec<Note>) {
        let Some(status) = &pod.status else { return };
        let phase = match status.phase.as_deref() {
            Some("Succeeded") => "succeeded",
            Some("Failed") => "failed",
            _ => return,
        };
        if self.phase != Some(phase) {
            let why = [&status.reason, &status.message].into_iter().flatten();
            let why: String = why.map(|text| format!(": {text}")).collect();
            notes.push(Note::State(format!("{name}: {phase}{why}")));
        }
        self.phase = Some(phase);
        let failed = phase == "failed";
        self.ended = Some(failed.then(|| first_failure(pod)));
    }
}

/// The scheduler's words for a pod that came before the node, as every pod of a run does; it is placed as
/// soon as the node is ready.
fn is_before_the_node(message: &str) -> bool {
    message.starts_with("no nodes available")
        || message.contains("not ready")
        || message.contains("not-ready")
}

fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    })
}

/// Returns the failure that came first; a pod that failed with no container to blame counts as one that
/// could not start.
fn first_failure(pod: &Pod) -> Failure {
    container_statuses(pod)
        .filter_map(|status| status.state.as_ref()?.terminated.as_ref())
        .filter(|ended| ended.exit_code != 0)
        .map(|ended| Failure {
            at: ended.finished_at.clone(),
            code: ended.exit_code,
        })
        .min()
        .unwrap_or(Failure {
            at: None,
            code: 128,
        })
}

fn is_running(state: &ContainerState) -> bool {
    state.running.is_some()
}

/// Says what a container is doing, or nothing where there is nothing to tell yet.
fn describe(state: &ContainerState, restarts: i32) -> Option<String> {
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        if matches!(reason, "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let message = waiting.message.as_deref().map(|text| format!(": {text}"));
        return Some(format!("{reason}{}", message.unwrap_or_default()));
    }
    if state.running.is_some() {
        return Some(match restarts {
            0 => "running".to_owned(),
            times => format!("running (restart {times})"),
        });
    }
    let ended = state.terminated.as_ref()?;
    let reason = ended.reason.as_deref().unwrap_or("Error");
    // A trap's backtrace stands in the container's own output already.
    let message = ended
        .message
        .as_deref()
        .and_then(|text| text.lines().next());
    let message = message.map(|line| format!(": {line}")).unwrap_or_default();
    Some(format!(
        "ended with {} ({reason}){message}",
        ended.exit_code
    ))
}

/// Reads a list that the agent reports in an annotation; what cannot be read counts as empty.
fn annotated<T: serde::de::DeserializeOwned>(pod: &Pod, annotation: &str) -> Vec<T> {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(annotation))
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(uid: &str, phase: &str, states: &[(&str, Value)], annotations: Value) -> Pod {
        let statuses: Vec<Value> = states
            .iter()
            .map(|(name, state)| {
                json!({"name": name, "state": state, "ready": true, "restartCount": 0,
                       "image": "i", "imageID": ""})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "annotations": annotations},
            "status": {"phase": phase, "containerStatuses": statuses},
        }))
        .expect("a pod")
    }

    fn ended(code: i32, second: u32) -> Value {
        json!({"terminated": {"exitCode": code, "reason": "Error",
                              "finishedAt": format!("2026-01-01T00:00:{second:02}Z")}})
    }

    /// Observes the pods in turn and compares the standing.
    fn check(pods: &[Pod], expected: Standing) {
        let mut tracker = Tracker::default();
        for pod in pods {
            tracker.observe(pod);
        }
        assert_eq!(tracker.standing(2), expected);
    }

    #[test]
    fn a_run_is_finished_when_every_pod_is_and_the_first_failure_gives_the_code() {
        let good = pod("a", "Succeeded", &[("c", ended(0, 9))], json!({}));
        let late = pod("b", "Failed", &[("c", ended(3, 5))], json!({}));
        let early = pod(
            "c",
            "Failed",
            &[("c", ended(4, 2)), ("d", ended(5, 1))],
            json!({}),
        );
        let running = pod("d", "Running", &[("c", json!({"running": {}}))], json!({}));
        check(&[], Standing::Running);
        check(std::slice::from_ref(&good), Standing::Running);
        check(
            &[good.clone(), late.clone()],
            Standing::Finished(Exit::Container(3)),
        );
        check(
            &[late.clone(), early.clone()],
            Standing::Finished(Exit::Container(5)),
        );
        check(&[late, running], Standing::Running);
        let again = pod("e", "Succeeded", &[("c", ended(0, 1))], json!({}));
        check(&[good, again], Standing::Finished(Exit::Success));
    }

    /// The ends are counted, so none may count twice.
    #[test]
    fn a_pod_that_is_deleted_is_at_its_end_once() {
        let ended = pod("a", "Failed", &[("c", ended(3, 5))], json!({}));
        let running = pod("b", "Running", &[("c", json!({"running": {}}))], json!({}));
        let mut tracker = Tracker::default();
        tracker.observe(&ended);
        tracker.observe(&ended);
        tracker.forget(&ended);
        tracker.observe(&running);
        assert_eq!(tracker.standing(2), Standing::Running);
        tracker.forget(&running);
        tracker.forget(&running);
        let finished = Standing::Finished(Exit::Container(3));
        assert_eq!(tracker.standing(2), finished);
        assert_eq!(tracker.standing(3), Standing::Running, "one more must come");
    }

    #[test]
    fn an_image_that_can_never_run_ends_the_run() {
        let refused =
            json!({ANNOTATION_REFUSED: r#"[{"container":"c","message":"no such image"}]"#});
        let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
        let refused = pod("a", "Pending", &[("c", waiting)], refused);
        check(
            &[refused],
            Standing::Refused("a/c: no such image".to_owned()),
        );
    }

    /// A pod that waits for a ConfigMap shows nothing in its status; a run must not be silent about it.
    #[test]
    fn a_volume_that_cannot_be_mounted_is_told_once() {
        let event = |reason: &str| -> Event {
            serde_json::from_value(json!({
                "metadata": {}, "reason": reason, "message": "configmap \"x\" not found",
                "involvedObject": {"name": "a", "uid": "u"},
            }))
            .expect("an event")
        };
        let mut tracker = Tracker::default();
        let line = "a: FailedMount: configmap \"x\" not found".to_owned();
        assert_eq!(tracker.warn(&event("FailedMount")), vec![Note::State(line)]);
        assert_eq!(tracker.warn(&event("FailedMount")), vec![]);
        assert_eq!(tracker.warn(&event("BackOff")), vec![], "the status tells");
    }

    #[test]
    fn an_address_is_told_once_and_only_when_its_container_runs() {
        let annotations = json!({ANNOTATION_PUBLISHED:
            r#"[{"container":"c","name":"http","port":80,"url":"http://127.0.0.1:8080"}]"#});
        let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
        let mut tracker = Tracker::default();
        let before = pod("a", "Pending", &[("c", waiting)], annotations.clone());
        assert_eq!(tracker.observe(&before), vec![]);
        let after = pod(
            "a",
            "Running",
            &[("c", json!({"running": {}}))],
            annotations,
        );
        let address = Note::Address {
            url: "http://127.0.0.1:8080".to_owned(),
            owner: "a/c".to_owned(),
        };
        assert_eq!(
            tracker.observe(&after),
            vec![Note::State("a/c: running".to_owned()), address]
        );
        assert_eq!(tracker.observe(&after), vec![], "nothing is told twice");
    }
}
