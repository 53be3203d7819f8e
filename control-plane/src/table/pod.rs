//! The row of a pod; its status text is read off phase, conditions and containers.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NONE, Shown, duration, flag, list, number, or, text, time};

/// What a pod's containers add up to.
#[derive(Debug)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

/// How often containers were started again, and when the last one before that ended.
#[derive(Debug, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

/// Whether init containers still hold up the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Initialization {
    Done,
    UnderWay,
}

pub(super) fn pod(pod: Shown<'_>) -> Value {
    let sidecars = sidecars(pod);
    let summary = Summary::of(pod, &sidecars);
    let total = pod.list("/spec/containers").len() + sidecars.len();
    json!([
        pod.name(),
        format!("{}/{total}", summary.ready),
        status(pod, summary.reason),
        summary.restarts.text(pod.now),
        pod.age(),
        or(pod.text("/status/podIPs/0/ip"), NONE),
        or(pod.text("/spec/nodeName"), NONE),
        or(pod.text("/status/nominatedNodeName"), NONE),
        readiness_gates(pod),
    ])
}

/// Deletion outweighs what the containers tell.
fn status(pod: Shown<'_>, reason: String) -> String {
    let terminal = matches!(pod.text("/status/phase"), "Succeeded" | "Failed");
    let deleted = !pod.text("/metadata/deletionTimestamp").is_empty();
    match deleted {
        true if pod.text("/status/reason") == "NodeLost" => "Unknown".to_owned(),
        true if !terminal => "Terminating".to_owned(),
        true | false => reason,
    }
}

/// Returns the names of the init containers that go on beside the others.
fn sidecars(pod: Shown<'_>) -> HashSet<&str> {
    let containers = pod.list("/spec/initContainers").iter();
    containers
        .filter(|container| text(container, "/restartPolicy") == "Always")
        .map(|container| text(container, "/name"))
        .collect()
}

fn readiness_gates(pod: Shown<'_>) -> String {
    let gates = pod.list("/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = |gate: &&Value| is_true(pod, text(gate, "/conditionType"));
    format!("{}/{}", gates.iter().filter(open).count(), gates.len())
}

/// Says whether the pod has a condition and it is true.
fn is_true(pod: Shown<'_>, condition: &str) -> bool {
    let mut conditions = pod.list("/status/conditions").iter();
    let found = conditions.find(|known| text(known, "/type") == condition);
    found.is_some_and(|known| text(known, "/status") == "True")
}

/// Writes why a container ended.
fn ended(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

impl Summary {
    fn of(pod: Shown<'_>, sidecars: &HashSet<&str>) -> Summary {
        let gated = |condition: &Value| {
            text(condition, "/type") == "PodScheduled"
                && text(condition, "/reason") == "SchedulingGated"
        };
        let reason = match pod.list("/status/conditions").iter().any(gated) {
            true => "SchedulingGated",
            false => or(pod.text("/status/reason"), pod.text("/status/phase")),
        };
        let mut summary = Summary {
            reason: reason.to_owned(),
            ready: 0,
            restarts: Restarts::default(),
        };
        let (initialization, of_sidecars) = summary.read_init_containers(pod, sidecars);
        if initialization == Initialization::Done || is_true(pod, "Initialized") {
            summary.restarts = of_sidecars;
            summary.read_containers(pod);
        }
        summary
    }

    /// Reads the init containers up to the first that holds up the pod.
    ///
    /// Returns, too, the restarts of the sidecars: those of the others no longer count once the
    /// pod is initialised.
    fn read_init_containers(
        &mut self,
        pod: Shown<'_>,
        sidecars: &HashSet<&str>,
    ) -> (Initialization, Restarts) {
        let mut of_sidecars = Restarts::default();
        let total = pod.list("/spec/initContainers").len();
        for (index, container) in pod.list("/status/initContainerStatuses").iter().enumerate() {
            let is_sidecar = sidecars.contains(text(container, "/name"));
            self.restarts.add(container);
            if is_sidecar {
                of_sidecars.add(container);
            }
            let terminated = container.pointer("/state/terminated");
            let waiting = text(container, "/state/waiting/reason");
            self.reason = match terminated {
                Some(terminated) if number(terminated, "/exitCode") == 0 => continue,
                _ if is_sidecar && flag(container, "/started") => {
                    self.ready += usize::from(flag(container, "/ready"));
                    continue;
                }
                Some(terminated) => format!("Init:{}", ended(terminated)),
                None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
                None => format!("Init:{index}/{total}"),
            };
            return (Initialization::UnderWay, of_sidecars);
        }
        (Initialization::Done, of_sidecars)
    }

    /// Reads the containers from the last to the first, so that the first one has the last word.
    fn read_containers(&mut self, pod: Shown<'_>) {
        let mut one_runs = false;
        for container in list(pod.object, "/status/containerStatuses").iter().rev() {
            self.restarts.add(container);
            let waiting = text(container, "/state/waiting/reason");
            match container.pointer("/state/terminated") {
                _ if !waiting.is_empty() => self.reason = waiting.to_owned(),
                Some(terminated) => self.reason = ended(terminated),
                None if flag(container, "/ready")
                    && container.pointer("/state/running").is_some() =>
                {
                    one_runs = true;
                    self.ready += 1;
                }
                None => (),
            }
        }
        if self.reason == "Completed" && one_runs {
            let ready = is_true(pod, "Ready");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count = self
            .count
            .saturating_add(number(container, "/restartCount"));
        self.last = self
            .last
            .max(time(container, "/lastState/terminated/finishedAt"));
    }

    fn text(&self, now: Timestamp) -> String {
        match (self.count, self.last) {
            (0, _) | (_, None) => self.count.to_string(),
            (count, Some(last)) => format!("{count} ({} ago)", duration::since(last, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::check as check_row;

    fn check(pod: Value, expected: &str) {
        let expected = format!("x|{expected}|<none>|<none>");
        check_row("v1", "Pod", pod, &expected);
    }

    fn running(name: &str) -> Value {
        json!({"name": name, "ready": true, "started": true, "state": {"running": {}}})
    }

    fn ended(name: &str, reason: &str, code: i64) -> Value {
        json!({"name": name, "state": {"terminated": {"reason": reason, "exitCode": code}}})
    }

    fn waiting(name: &str, reason: &str) -> Value {
        json!({"name": name, "state": {"waiting": {"reason": reason}}})
    }

    /// A pod on a node with two containers.
    fn pod(phase: &str, containers: &[Value]) -> Value {
        json!({
            "spec": {"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"phase": phase, "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "containerStatuses": containers},
        })
    }

    #[test]
    fn containers_give_the_status() {
        for (phase, containers, expected) in [
            ("Pending", vec![], "0/2|Pending"),
            ("Running", vec![running("a"), running("b")], "2/2|Running"),
            (
                "Pending",
                vec![
                    waiting("a", "ContainerCreating"),
                    waiting("b", "ErrImagePull"),
                ],
                "0/2|ContainerCreating",
            ),
            (
                "Running",
                vec![running("a"), waiting("b", "CrashLoopBackOff")],
                "1/2|CrashLoopBackOff",
            ),
            (
                "Failed",
                vec![ended("a", "Error", 3), ended("b", "Completed", 0)],
                "0/2|Error",
            ),
            ("Failed", vec![ended("a", "", 3)], "0/2|ExitCode:3"),
            (
                "Succeeded",
                vec![ended("a", "Completed", 0)],
                "0/2|Completed",
            ),
            (
                "Running",
                vec![ended("a", "Completed", 0), running("b")],
                "1/2|NotReady",
            ),
        ] {
            let expected = format!("{expected}|0|60m|10.0.0.1|n");
            check(pod(phase, &containers), &expected);
        }
        let mut signalled = pod("Failed", &[ended("a", "", 0)]);
        signalled["status"]["containerStatuses"][0]["state"]["terminated"]["signal"] = json!(9);
        check(signalled, "0/2|Signal:9|0|60m|10.0.0.1|n");
    }

    #[test]
    fn a_ready_pod_runs_although_one_container_has_ended() {
        let mut ready = pod("Running", &[ended("a", "Completed", 0), running("b")]);
        ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        check(ready, "1/2|Running|0|60m|10.0.0.1|n");
    }

    #[test]
    fn deletion_outweighs_containers_but_not_the_end() {
        let mut deleted = pod("Running", &[running("a"), running("b")]);
        deleted["metadata"] = json!({"deletionTimestamp": "2026-01-10T11:59:00Z"});
        check(deleted.clone(), "2/2|Terminating|0|60m|10.0.0.1|n");
        deleted["status"]["reason"] = json!("NodeLost");
        check(deleted.clone(), "2/2|Unknown|0|60m|10.0.0.1|n");
        deleted["status"] = json!({"phase": "Succeeded"});
        check(deleted, "0/2|Succeeded|0|60m|<none>|n");
    }

    #[test]
    fn init_containers_are_counted_until_they_are_done() {
        let with_init = |statuses: &[Value]| {
            let mut pod = pod("Pending", &[waiting("a", "PodInitializing")]);
            pod["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"},
                {"name": "s", "restartPolicy": "Always"}]);
            pod["status"]["initContainerStatuses"] = json!(statuses);
            pod
        };
        let done = ended("i", "Completed", 0);
        for (statuses, expected) in [
            (vec![waiting("i", "PodInitializing")], "0/3|Init:0/3"),
            (vec![done.clone(), running("j")], "0/3|Init:1/3"),
            (
                vec![done.clone(), waiting("j", "ErrImagePull")],
                "0/3|Init:ErrImagePull",
            ),
            (vec![done.clone(), ended("j", "Error", 1)], "0/3|Init:Error"),
            (vec![done.clone(), ended("j", "", 7)], "0/3|Init:ExitCode:7"),
            (
                vec![
                    done.clone(),
                    ended("j", "Completed", 0),
                    waiting("s", "PodInitializing"),
                ],
                "0/3|Init:2/3",
            ),
            (
                vec![done.clone(), ended("j", "Completed", 0), running("s")],
                "1/3|PodInitializing",
            ),
        ] {
            let expected = format!("{expected}|0|60m|10.0.0.1|n");
            check(with_init(&statuses), &expected);
        }
    }

    #[test]
    fn restarts_tell_when_the_last_one_was() {
        let mut restarted = pod("Running", &[running("a"), running("b")]);
        let containers = &mut restarted["status"]["containerStatuses"];
        containers[0]["restartCount"] = json!(2);
        containers[0]["lastState"] =
            json!({"terminated": {"finishedAt": "2026-01-10T11:54:50Z", "exitCode": 1}});
        containers[1]["restartCount"] = json!(1);
        containers[1]["lastState"] =
            json!({"terminated": {"finishedAt": "2026-01-10T11:50:00Z", "exitCode": 1}});
        check(restarted, "2/2|Running|3 (5m10s ago)|60m|10.0.0.1|n");
    }

    #[test]
    fn gates_are_shown() {
        let mut gated = pod("Pending", &[]);
        gated["status"]["conditions"] = json!([
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"},
            {"type": "one", "status": "True"}]);
        gated["spec"]["readinessGates"] =
            json!([{"conditionType": "one"}, {"conditionType": "two"}]);
        let expected = "x|0/2|SchedulingGated|0|60m|10.0.0.1|n|<none>|1/2";
        check_row("v1", "Pod", gated, expected);
    }
}
