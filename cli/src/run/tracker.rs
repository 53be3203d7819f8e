//! What happens to pods, told from one status to the next: lines to print, addresses, the ending.
//!
//! Pure: it is given pods as the API shows them and decides nothing about them.

use std::collections::HashMap;

use coracle_kubelet_shim::{ANNOTATION_PUBLISHED, ANNOTATION_REFUSED};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::exit::Exit;

use super::shown_name;

/// How many events are remembered as told. Beyond, some may be told again.
const EVENTS_MAX: usize = 65_536;

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
    /// How many ends of containers were seen.
    ends: u64,
    /// The last line about each thing that events told.
    events: HashMap<String, String>,
}

/// The last state of one pod that was told.
#[derive(Default)]
struct Told {
    phase: Option<&'static str>,
    unschedulable: Option<String>,
    containers: HashMap<String, String>,
    addresses: Vec<String>,
    /// When the present end of each container was seen.
    ends: HashMap<String, End>,
    /// Set when the pod is at its end: the failure that came first, if any container failed.
    ended: Option<Option<Failure>>,
}

/// The end of a container, as it was seen.
struct End {
    /// How often the container had been started again: its next end is another.
    restarts: i32,
    /// Its place among all ends.
    order: u64,
}

/// A container that failed for good. The least is the one that counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Failure {
    /// A sidecar is ended when the others are, and its code tells nothing then.
    is_sidecar: bool,
    /// In whole seconds.
    at: Option<Time>,
    /// Which of those of one second was seen first.
    order: u64,
    code: i32,
}

impl Tracker {
    /// Takes a pod's newest version and returns what is new in it.
    pub(super) fn observe(&mut self, pod: &Pod) -> Vec<Note> {
        let key = pod.metadata.uid.clone().unwrap_or_default();
        let name = &name_of(pod);
        let told = self.pods.entry(key).or_default();
        let mut notes = Vec::new();
        told.note_scheduling(pod, name, &mut notes);
        for status in container_statuses(pod) {
            told.note_end(status, &mut self.ends);
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
        vec![Note::State(format!("{}: deleted", name_of(pod)))]
    }

    /// Takes an event about a pod and returns what no status tells: a volume that cannot be mounted, a probe
    /// that fails, why a container is ended.
    pub(super) fn tell(&mut self, event: &Event) -> Vec<Note> {
        let reason = event.reason.as_deref().unwrap_or_default();
        let is_told = match reason {
            // The status tells.
            "Failed" | "FailedScheduling" => false,
            "Unhealthy" => true,
            // An ordinary stop was asked for.
            "Killing" => !event
                .message
                .as_deref()
                .unwrap_or_default()
                .starts_with("Stopping"),
            _ => reason.starts_with("Failed"),
        };
        if !is_told {
            return Vec::new();
        }
        let object = &event.involved_object;
        let (namespace, name) = (object.namespace.as_deref(), object.name.as_deref());
        let name = shown_name(namespace.unwrap_or_default(), name.unwrap_or_default());
        let container = object.field_path.as_deref().and_then(container_of);
        let place = container.map_or_else(|| name.clone(), |one| format!("{name}/{one}"));
        let message = event.message.as_deref().unwrap_or_default();
        // What a probe's program wrote may have several lines.
        let message = message.lines().collect::<Vec<_>>().join(" ");
        let line = format!("{place}: {reason}: {message}");
        // Two probes that fail in turn are two things.
        let subject = message.split(':').next().unwrap_or_default();
        let uid = object.uid.as_deref().unwrap_or_default();
        let key = format!("{uid} {place} {reason} {subject}");
        if self.events.len() >= EVENTS_MAX {
            self.events.clear();
        }
        let told = self.events.insert(key, line.clone());
        match told.as_ref() == Some(&line) {
            true => Vec::new(),
            false => vec![Note::State(line)],
        }
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

    /// Remembers when a container's failure was seen, as long as it lasts.
    fn note_end(&mut self, status: &ContainerStatus, ends: &mut u64) {
        let restarts = status.restart_count;
        match failure_of(status) {
            None => drop(self.ends.remove(&status.name)),
            Some(_) if self.order(status).is_some() => {}
            Some(_) => {
                *ends += 1;
                let order = *ends;
                let end = End { restarts, order };
                self.ends.insert(status.name.clone(), end);
            }
        }
    }

    /// Returns the place of a container's present failure among all ends.
    fn order(&self, status: &ContainerStatus) -> Option<u64> {
        let end = self.ends.get(&status.name)?;
        (end.restarts == status.restart_count).then_some(end.order)
    }

    /// Returns the failure that came first; a pod that failed with no container to blame counts as one that
    /// could not start.
    fn first_failure(&self, pod: &Pod) -> Failure {
        let failures = container_statuses(pod).filter_map(|status| {
            let ended = failure_of(status)?;
            Some(Failure {
                is_sidecar: is_sidecar(pod, &status.name),
                at: ended.finished_at.clone(),
                order: self.order(status).unwrap_or_default(),
                code: ended.exit_code,
            })
        });
        failures.min().unwrap_or(Failure {
            is_sidecar: false,
            at: None,
            order: 0,
            code: 128,
        })
    }

    fn note_container(&mut self, status: &ContainerStatus, pod: &str, notes: &mut Vec<Note>) {
        let Some(line) = describe(status) else {
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
        self.ended = Some(failed.then(|| self.first_failure(pod)));
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

/// Returns how lines name a pod.
fn name_of(pod: &Pod) -> String {
    let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
    shown_name(
        namespace.as_deref().unwrap_or_default(),
        name.as_deref().unwrap_or_default(),
    )
}

/// Returns the container that an event's field path names, as in `spec.containers{web}`.
fn container_of(field_path: &str) -> Option<&str> {
    let (_, name) = field_path.split_once('{')?;
    name.strip_suffix('}')
}

/// Returns the end of a container that has failed and does not run again so far.
fn failure_of(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let ended = status.state.as_ref()?.terminated.as_ref()?;
    (ended.exit_code != 0).then_some(ended)
}

/// Says whether a container of that name runs beside the others for as long as they do.
fn is_sidecar(pod: &Pod, name: &str) -> bool {
    let init = pod.spec.iter().flat_map(|spec| &spec.init_containers);
    init.flatten().any(|container| {
        container.name == name && container.restart_policy.as_deref() == Some("Always")
    })
}

fn is_running(state: &ContainerState) -> bool {
    state.running.is_some()
}

/// Says what a container is doing, or nothing where there is nothing to tell yet.
fn describe(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        if matches!(reason, "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let message = waiting.message.as_deref().map(|text| format!(": {text}"));
        let message = message.unwrap_or_default();
        let before = match reason {
            "CrashLoopBackOff" => before(status),
            _ => String::new(),
        };
        return Some(format!("{reason}{message}{before}"));
    }
    if state.running.is_some() {
        return Some(match status.restart_count {
            0 => "running".to_owned(),
            times => format!("running (restart {times}){}", before(status)),
        });
    }
    state.terminated.as_ref().map(describe_end)
}

/// Says how a container ended before it came to its present state.
fn before(status: &ContainerStatus) -> String {
    let state = status.last_state.as_ref();
    let ended = state.and_then(|state| state.terminated.as_ref());
    ended.map_or_else(String::new, |ended| {
        format!("; last {}", describe_end(ended))
    })
}

fn describe_end(ended: &ContainerStateTerminated) -> String {
    let reason = ended.reason.as_deref().unwrap_or("Error");
    // A trap's backtrace stands in the container's own output already.
    let message = ended
        .message
        .as_deref()
        .and_then(|text| text.lines().next());
    let message = message.map(|line| format!(": {line}")).unwrap_or_default();
    format!("ended with {} ({reason}){message}", ended.exit_code)
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
        assert_eq!(tracker.tell(&event("FailedMount")), vec![Note::State(line)]);
        assert_eq!(tracker.tell(&event("FailedMount")), vec![]);
        assert_eq!(tracker.tell(&event("BackOff")), vec![], "the status tells");
    }

    /// Under `restartPolicy: Always` nothing else says why a container is started again.
    #[test]
    fn probes_that_fail_and_what_follows_are_told_once_for_each_change() {
        let event = |reason: &str, message: &str| -> Event {
            serde_json::from_value(json!({
                "metadata": {}, "reason": reason, "message": message,
                "involvedObject": {"name": "a", "namespace": "n", "uid": "u",
                                   "fieldPath": "spec.containers{web}"},
            }))
            .expect("an event")
        };
        let mut tracker = Tracker::default();
        for (reason, message, expected) in [
            ("Unhealthy", "Liveness probe failed: refused", true),
            ("Unhealthy", "Readiness probe failed: not\nyet\n", true),
            ("Unhealthy", "Liveness probe failed: refused", false),
            ("Unhealthy", "Liveness probe failed: 500", true),
            ("Killing", "Stopping container web", false),
            (
                "Killing",
                "Container web failed liveness probe, will be restarted",
                true,
            ),
            (
                "Killing",
                "Container web failed liveness probe, will be restarted",
                false,
            ),
        ] {
            let shown = message.trim_end().replace('\n', " ");
            let line = Note::State(format!("n/a/web: {reason}: {shown}"));
            let expected = Vec::from_iter(expected.then_some(line));
            assert_eq!(tracker.tell(&event(reason, message)), expected, "{message}");
        }
    }

    #[test]
    fn a_container_that_is_started_again_is_told_with_how_it_ended() {
        let last = json!({"terminated": {"exitCode": 128, "reason": "StartError",
                                         "message": "no export\nmore", "finishedAt": null}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let pulling = json!({"waiting": {"reason": "ErrImagePull", "message": "no route"}});
        for (state, expected) in [
            (
                waiting,
                "CrashLoopBackOff: back-off 10s; last ended with 128 (StartError): no export",
            ),
            (
                json!({"running": {}}),
                "running (restart 2); last ended with 128 (StartError): no export",
            ),
            (pulling, "ErrImagePull: no route"),
        ] {
            let status = json!({"name": "c", "state": state, "lastState": last, "ready": true,
                                "restartCount": 2, "image": "i", "imageID": ""});
            let status: ContainerStatus = serde_json::from_value(status).expect("a status");
            assert_eq!(describe(&status).as_deref(), Some(expected));
        }
    }

    /// Times have whole seconds, so what ended within one is told apart by what was seen first.
    #[test]
    fn of_failures_within_a_second_the_one_that_was_seen_first_counts() {
        let running = || json!({"running": {}});
        let before = pod(
            "a",
            "Running",
            &[("c", running()), ("d", running())],
            json!({}),
        );
        let first = pod(
            "a",
            "Running",
            &[("c", running()), ("d", ended(200, 1))],
            json!({}),
        );
        let both = pod(
            "a",
            "Failed",
            &[("c", ended(5, 1)), ("d", ended(200, 1))],
            json!({}),
        );
        let good = pod("b", "Succeeded", &[("c", ended(0, 1))], json!({}));
        let all = [before, first, both, good];
        check(&all, Standing::Finished(Exit::Container(200)));
    }

    /// An end that is followed by another start is not for good.
    #[test]
    fn a_container_that_was_started_again_failed_when_it_failed_last() {
        let running = || json!({"running": {}});
        let state = |phase: &str, c: Value, restarts: i32, d: Value| {
            let mut pod = pod("a", phase, &[("c", c), ("d", d)], json!({}));
            let statuses = pod
                .status
                .as_mut()
                .and_then(|all| all.container_statuses.as_mut());
            statuses.expect("statuses")[0].restart_count = restarts;
            pod
        };
        let good = pod("b", "Succeeded", &[("c", ended(0, 1))], json!({}));
        let all = [
            state("Running", ended(5, 1), 0, running()),
            state("Running", ended(5, 1), 0, ended(200, 1)),
            state("Failed", ended(5, 1), 1, ended(200, 1)),
            good,
        ];
        check(&all, Standing::Finished(Exit::Container(200)));
    }

    /// A sidecar is ended after the others, and mostly by a signal.
    #[test]
    fn a_sidecar_counts_only_where_no_other_container_failed() {
        let failed = |app: Value, sidecar: Value| -> Pod {
            let status = |name: &str, state: Value| {
                json!({"name": name, "state": state, "ready": false, "restartCount": 0,
                       "image": "i", "imageID": ""})
            };
            serde_json::from_value(json!({
                "metadata": {"name": "a", "uid": "a"},
                "spec": {
                    "containers": [{"name": "c"}],
                    "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
                },
                "status": {
                    "phase": "Failed",
                    "initContainerStatuses": [status("s", sidecar)],
                    "containerStatuses": [status("c", app)],
                },
            }))
            .expect("a pod")
        };
        let good = pod("b", "Succeeded", &[("c", ended(0, 1))], json!({}));
        for (app, sidecar, expected) in [
            (ended(200, 5), ended(143, 5), 200),
            (ended(200, 5), ended(143, 4), 200),
            (ended(0, 5), ended(143, 5), 143),
        ] {
            let pods = [failed(app, sidecar), good.clone()];
            check(&pods, Standing::Finished(Exit::Container(expected)));
        }
    }

    #[test]
    fn pods_of_one_name_are_told_apart_by_their_namespaces() {
        let mut tracker = Tracker::default();
        let mut one = pod("a", "Running", &[("c", json!({"running": {}}))], json!({}));
        one.metadata.namespace = Some("default".to_owned());
        let mut other = one.clone();
        other.metadata.namespace = Some("other".to_owned());
        other.metadata.uid = Some("b".to_owned());
        for (pod, expected) in [(one, "a/c: running"), (other, "other/a/c: running")] {
            let expected = Note::State(expected.to_owned());
            assert_eq!(tracker.observe(&pod), vec![expected]);
        }
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
