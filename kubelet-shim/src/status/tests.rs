//! The contract's tables of phases, states and conditions.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::lifecycle::{
    Ending, Ground, Health, Life, Outcome, Outlook, Problem, PullShown, Step, Termination,
};
use crate::spec::{FieldRefusal, HostPathPolicy, LeftOut, Probes, check_pod};
use crate::time::Clock;

fn spec(inits: &[&str], apps: usize, policy: &str) -> PodSpecPlan {
    let container = |name: String| json!({"name": name, "image": "i:1"});
    let inits: Vec<_> = inits
        .iter()
        .enumerate()
        .map(|(index, role)| {
            let mut init = container(format!("i{index}"));
            if *role == "sidecar" {
                init["restartPolicy"] = "Always".into();
            }
            init
        })
        .collect();
    let apps: Vec<_> = (0..apps)
        .map(|index| container(format!("a{index}")))
        .collect();
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"initContainers": inits, "containers": apps, "restartPolicy": policy},
    }))
    .unwrap();
    check_pod(&pod, HostPathPolicy::Refuse).unwrap()
}

fn now() -> Moment {
    Clock::manual(Timestamp::UNIX_EPOCH).0.now()
}

fn end(code: i32) -> Arc<Termination> {
    let reason = if code == 0 { "Completed" } else { "Error" };
    Arc::new(Termination {
        code,
        reason,
        message: None,
        started_at: None,
        finished_at: None,
    })
}

fn ended(code: i32) -> Life {
    Life::Ended {
        end: end(code),
        at: now(),
    }
}

fn crash_loop(code: i32) -> Life {
    let delay = Duration::from_secs(80);
    Life::CrashLoop {
        end: end(code),
        at: now(),
        delay,
        until: now().after(delay),
    }
}

fn running() -> Life {
    Life::Running {
        since: Timestamp::UNIX_EPOCH,
        health: Health::new(&Probes::default()),
    }
}

fn failed_pull(reason: &'static str, shown: PullShown) -> Life {
    Life::FetchFailed {
        problem: Problem {
            reason,
            message: "no route".into(),
            outlook: Outlook::MayMend,
        },
        at: now(),
        retry_at: now(),
        shown,
    }
}

fn facts(spec: &PodSpecPlan, lives: Vec<Life>) -> PodFacts {
    let mut pod = PodFacts::new(spec, now());
    pod.ground = Ground::Laid;
    for ((facts, life), container) in pod.containers.iter_mut().zip(lives).zip(&spec.containers) {
        facts.attempts = match &life {
            Life::Running { .. } | Life::Ended { .. } => 1,
            Life::CrashLoop { .. } => 3,
            _ => 0,
        };
        facts.was_started = facts.attempts > 0;
        facts.completed = container.role == Role::Init
            && matches!(&life, Life::Ended { end, .. } if end.code == 0);
        facts.life = life;
    }
    pod
}

fn ended_by(pod: &mut PodFacts, cause: EndCause) {
    pod.ending = Some((
        Ending {
            cause,
            grace: Duration::ZERO,
        },
        now(),
    ));
    pod.ground = Ground::Cleared;
}

/// `lives` are those of the init containers, then those of the apps.
fn check(inits: &[&str], policy: &str, lives: Vec<Life>, expected: Phase) {
    let spec = spec(inits, lives.len() - inits.len(), policy);
    let pod = facts(&spec, lives);
    assert_eq!(
        phase(&spec, &pod),
        expected,
        "{inits:?} {policy} {:?}",
        pod.containers
    );
}

#[test]
fn the_phase_follows_the_contracts_list() {
    use Phase::{Failed, Pending, Running, Succeeded};
    // 1: an init container failed for good.
    check(&["init"], "Never", vec![ended(1), Life::Waiting], Failed);
    // 2: not initialised.
    check(&["init"], "Always", vec![ended(1), Life::Waiting], Pending);
    check(&["init"], "Always", vec![running(), Life::Waiting], Pending);
    check(
        &["sidecar"],
        "Always",
        vec![Life::Waiting, Life::Waiting],
        Pending,
    );
    // 3: something waits for its first start.
    check(&[], "Always", vec![running(), Life::Fetching], Pending);
    check(
        &[],
        "Always",
        vec![failed_pull("ErrImagePull", PullShown::BackOff)],
        Pending,
    );
    // 4: something runs.
    check(&[], "Never", vec![running(), ended(1)], Running);
    check(&["sidecar"], "Never", vec![running(), running()], Running);
    // 5: all stopped; a container held back is no Pending one.
    check(&[], "Always", vec![crash_loop(1)], Running);
    check(&[], "Always", vec![ended(0)], Running);
    check(&[], "OnFailure", vec![ended(1)], Running);
    check(&[], "OnFailure", vec![ended(0)], Succeeded);
    check(&[], "Never", vec![ended(0), ended(0)], Succeeded);
    check(&[], "Never", vec![ended(0), ended(3)], Failed);
    check(&["init"], "Never", vec![ended(0), ended(0)], Succeeded);
    // Ended sidecars do not count, living ones keep the pod from its end.
    check(&["sidecar"], "Never", vec![ended(137), ended(0)], Succeeded);
    check(&["sidecar"], "Never", vec![running(), ended(0)], Running);
}

#[test]
fn a_pod_ended_from_outside_is_judged_by_its_exit_codes() {
    for (life, expected) in [
        (ended(0), Phase::Succeeded),
        (ended(143), Phase::Failed),
        (crash_loop(1), Phase::Failed),
        (Life::Waiting, Phase::Failed),
    ] {
        let spec = spec(&[], 1, "Always");
        let mut pod = facts(&spec, vec![life]);
        ended_by(&mut pod, EndCause::Deleted);
        assert_eq!(phase(&spec, &pod), expected, "{:?}", pod.containers[0].life);
    }
}

fn rendered(spec: &PodSpecPlan, pod: &PodFacts, previous: &[PodCondition]) -> PodStatus {
    let surroundings = Surroundings {
        host_ips: NodeIps {
            main: Ipv4Addr::LOCALHOST.into(),
            second: None,
        },
        has_network: true,
        pod_ips: vec![[10, 244, 0, 9].into()],
        generation: Some(4),
        gates: Vec::new(),
    };
    render(spec, pod, &surroundings, previous, now())
}

#[test]
fn a_pod_is_ready_when_its_readiness_gates_are_true_too() {
    let mut spec = spec(&[], 1, "Always");
    spec.readiness_gates = vec!["x/y".to_owned()];
    let pod = facts(&spec, vec![running()]);
    let check = |gate: Option<&str>, expected: (&str, Option<&str>, Option<&str>)| {
        let gates = gate.map(|status| PodCondition {
            type_: "x/y".to_owned(),
            status: status.to_owned(),
            ..PodCondition::default()
        });
        let surroundings = Surroundings {
            host_ips: NodeIps {
                main: Ipv4Addr::LOCALHOST.into(),
                second: None,
            },
            has_network: true,
            pod_ips: vec![[10, 244, 0, 9].into()],
            generation: Some(4),
            gates: gates.into_iter().collect(),
        };
        let status = render(&spec, &pod, &surroundings, &[], now());
        let ready = condition(&status, "Ready");
        let found = (
            ready.status.as_str(),
            ready.reason.as_deref(),
            ready.message.as_deref(),
        );
        assert_eq!(found, expected);
        assert_eq!(condition(&status, "ContainersReady").status, "True");
    };
    check(Some("True"), ("True", None, None));
    let reason = Some("ReadinessGatesNotReady");
    let message = "corresponding condition of pod readiness gate \"x/y\" does not exist.";
    check(None, ("False", reason, Some(message)));
    let message = "the status of pod readiness gate \"x/y\" is not \"True\", but False";
    check(Some("False"), ("False", reason, Some(message)));
}

fn waiting_of(life: Life) -> (String, String) {
    let spec = spec(&[], 1, "Always");
    let status = rendered(&spec, &facts(&spec, vec![life]), &[]);
    let state = status.container_statuses.unwrap().remove(0).state.unwrap();
    let waiting = state.waiting.expect("waiting");
    (waiting.reason.unwrap(), waiting.message.unwrap_or_default())
}

#[test]
fn waiting_reasons_and_messages_are_the_contracts() {
    for (life, reason, message) in [
        (Life::Waiting, "ContainerCreating", ""),
        (Life::Fetching, "ContainerCreating", ""),
        (
            failed_pull("ErrImagePull", PullShown::Error),
            "ErrImagePull",
            "no route",
        ),
        (
            failed_pull("ErrImagePull", PullShown::BackOff),
            "ImagePullBackOff",
            "Back-off pulling image \"i:1\": ErrImagePull: no route",
        ),
        (
            failed_pull("ErrImageNeverPull", PullShown::BackOff),
            "ErrImageNeverPull",
            "no route",
        ),
        (
            failed_pull("InvalidImageName", PullShown::BackOff),
            "InvalidImageName",
            "no route",
        ),
        (
            crash_loop(1),
            "CrashLoopBackOff",
            "back-off 1m20s restarting failed container=a0 pod=p_n(u)",
        ),
    ] {
        assert_eq!(waiting_of(life), (reason.to_owned(), message.to_owned()));
    }
}

#[test]
fn a_container_held_back_keeps_its_last_state_and_count() {
    let spec = spec(&[], 1, "Always");
    let status = rendered(&spec, &facts(&spec, vec![crash_loop(7)]), &[]);
    let container = status.container_statuses.unwrap().remove(0);
    assert_eq!(container.restart_count, 2);
    assert_eq!(
        container.last_state.unwrap().terminated.unwrap().exit_code,
        7
    );
    assert!(!container.ready);
}

#[test]
fn containers_behind_an_init_container_wait_for_initialisation() {
    let spec = spec(&["init", "init"], 1, "Always");
    let lives = vec![Life::Fetching, Life::Waiting, Life::Waiting];
    let status = rendered(&spec, &facts(&spec, lives), &[]);
    let reason = |status: &ContainerStatus| {
        status
            .state
            .as_ref()
            .unwrap()
            .waiting
            .as_ref()
            .unwrap()
            .reason
            .clone()
            .unwrap()
    };
    let inits: Vec<_> = status
        .init_container_statuses
        .as_ref()
        .unwrap()
        .iter()
        .map(reason)
        .collect();
    assert_eq!(inits, ["PodInitializing", "PodInitializing"]);
    assert_eq!(
        reason(&status.container_statuses.as_ref().unwrap()[0]),
        "PodInitializing"
    );
    let initialized = condition(&status, "Initialized");
    assert_eq!(
        initialized.reason.as_deref(),
        Some("ContainersNotInitialized")
    );
    assert_eq!(
        initialized.message.as_deref(),
        Some("containers with incomplete status: [i0 i1]")
    );
}

// Nothing is being made any more: those behind it never come to it.
#[test]
fn containers_behind_an_init_container_that_failed_wait_for_initialisation_for_good() {
    let spec = spec(&["init"], 1, "Never");
    let pod = facts(&spec, vec![ended(1), Life::Waiting]);
    let status = rendered(&spec, &pod, &[]);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let apps = status.container_statuses.unwrap_or_default();
    let state = apps[0].state.as_ref().and_then(|s| s.waiting.as_ref());
    let reason = state.and_then(|waiting| waiting.reason.as_deref());
    assert_eq!(reason, Some("PodInitializing"));
}

// A person who looks while the pull is tried again sees the same as a moment before.
#[test]
fn a_failed_pull_is_told_until_the_next_one_comes_out() {
    let spec = spec(&[], 1, "Always");
    let mut pod = PodFacts::new(&spec, now());
    pod.ground = Ground::Laid;
    let told = |pod: &PodFacts| {
        let status = rendered(&spec, pod, &[]);
        let state = status.container_statuses.unwrap_or_default()[0].clone();
        let waiting = state.state.and_then(|s| s.waiting).expect("waiting");
        (waiting.reason.unwrap_or_default(), waiting.message)
    };
    let fetch = |pod: &mut PodFacts| pod.begin(&spec, &Step::Fetch(0), now());
    let settle = |pod: &mut PodFacts, result| pod.settle(&spec, Outcome::Fetched(0, result), now());
    let problem = |message: &str| Problem {
        reason: "ErrImagePull",
        message: message.into(),
        outlook: Outlook::MayMend,
    };
    fetch(&mut pod);
    assert_eq!(told(&pod), ("ContainerCreating".to_owned(), None));
    settle(&mut pod, Err(problem("no route")));
    pod.begin(&spec, &Step::ShowPullBackOff(0), now());
    let failed = told(&pod);
    assert_eq!(failed.0, "ImagePullBackOff");
    fetch(&mut pod);
    assert_eq!(told(&pod), failed);
    settle(&mut pod, Err(problem("no name")));
    let failed = ("ErrImagePull".to_owned(), Some("no name".to_owned()));
    assert_eq!(told(&pod), failed);
    fetch(&mut pod);
    assert_eq!(told(&pod), failed);
    settle(&mut pod, Ok("id".into()));
    assert_eq!(told(&pod), ("ContainerCreating".to_owned(), None));
}

// What went wrong with one image says nothing about another.
#[test]
fn a_failed_pull_is_forgotten_with_its_image() {
    let mut spec = spec(&[], 1, "Always");
    let mut pod = PodFacts::new(&spec, now());
    pod.containers[0].image = Some("i:1".into());
    pod.containers[0].life = failed_pull("ErrImagePull", PullShown::BackOff);
    spec.containers[0].image = "i:2".to_owned();
    pod.begin(&spec, &Step::Fetch(0), now());
    assert_eq!(pod.containers[0].retried, None);
}

#[test]
fn a_pod_keeps_its_last_address_when_its_network_is_gone() {
    let spec = spec(&[], 1, "Never");
    let surroundings = Surroundings {
        host_ips: NodeIps {
            main: Ipv4Addr::LOCALHOST.into(),
            second: None,
        },
        has_network: false,
        pod_ips: vec![[10, 244, 0, 9].into(), Ipv6Addr::LOCALHOST.into()],
        generation: None,
        gates: Vec::new(),
    };
    let pod = facts(&spec, vec![ended(0)]);
    let status = render(&spec, &pod, &surroundings, &[], now());
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.9"));
    let ips = status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
    assert_eq!(ips.collect::<Vec<_>>(), ["10.244.0.9", "::1"]);
    let attached = condition(&status, "PodReadyToStartContainers");
    assert_eq!(attached.status, "False");
}

// A client shows the reason of a waiting container before that of the pod.
#[test]
fn a_pod_refused_before_it_ran_has_no_waiting_containers() {
    let spec = spec(&["init"], 1, "Always");
    let mut pod = PodFacts::new(&spec, now());
    pod.rejected = Some(Problem {
        reason: "NodePorts",
        message: "port 80 is taken".into(),
        outlook: Outlook::Refused,
    });
    let status = rendered(&spec, &pod, &[]);
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    // Empty, and not absent, which would leave what was told before.
    assert_eq!(status.init_container_statuses, Some(Vec::new()));
    assert_eq!(status.container_statuses, Some(Vec::new()));
    // One that ran under an earlier agent keeps what is known of it.
    for facts in &mut pod.containers {
        facts.attempts = 1;
        facts.life = ended(0);
    }
    let status = rendered(&spec, &pod, &[]);
    assert_eq!(status.container_statuses.map(|list| list.len()), Some(1));
}

// Whoever waits for it, `kubectl debug` say, is told by its status alone.
#[test]
fn an_ephemeral_container_that_is_not_started_says_why() {
    let mut spec = spec(&[], 1, "Always");
    let refusal = FieldRefusal {
        field: "spec.ephemeralContainers[0].ports".to_owned(),
        reason: "cannot be set".to_owned(),
    };
    let left_out = |name: &str| LeftOut {
        name: name.to_owned(),
        image: "i:2".to_owned(),
        refusals: vec![refusal.clone()],
    };
    // The name of an app is that of its own status.
    spec.left_out = vec![left_out("debug"), left_out("a0")];
    let status = rendered(&spec, &facts(&spec, vec![running()]), &[]);
    let late = status
        .ephemeral_container_statuses
        .clone()
        .unwrap_or_default();
    let names: Vec<&str> = late.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["debug"]);
    let waiting = late[0].state.as_ref().and_then(|s| s.waiting.as_ref());
    let waiting = waiting.expect("it waits");
    assert_eq!(
        waiting.reason.as_deref(),
        Some("CreateContainerConfigError")
    );
    let message = "`spec.ephemeralContainers[0].ports` cannot be set";
    assert_eq!(waiting.message.as_deref(), Some(message));
    assert_eq!(late[0].image, "i:2");
    assert_eq!(condition(&status, "Ready").status, "True");
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|c| c.type_ == type_)
        .unwrap()
}

#[test]
fn conditions_say_who_is_not_ready() {
    let spec = spec(&[], 2, "Always");
    let status = rendered(&spec, &facts(&spec, vec![running(), Life::Fetching]), &[]);
    for type_ in ["Ready", "ContainersReady"] {
        let found = condition(&status, type_);
        assert_eq!(found.status, "False");
        assert_eq!(found.reason.as_deref(), Some("ContainersNotReady"));
        assert_eq!(
            found.message.as_deref(),
            Some("containers with unready status: [a1]")
        );
        assert_eq!(found.observed_generation, Some(4));
    }
    let status = rendered(&spec, &facts(&spec, vec![running(), running()]), &[]);
    for type_ in [
        "Ready",
        "ContainersReady",
        "Initialized",
        "PodScheduled",
        "PodReadyToStartContainers",
    ] {
        assert_eq!(condition(&status, type_).status, "True", "{type_}");
    }
    let spec = self::spec(&[], 1, "Never");
    let status = rendered(&spec, &facts(&spec, vec![ended(0)]), &[]);
    assert_eq!(
        condition(&status, "Ready").reason.as_deref(),
        Some("PodCompleted")
    );
    assert_eq!(
        condition(&status, "Initialized").reason.as_deref(),
        Some("PodCompleted")
    );
    let status = rendered(&spec, &facts(&spec, vec![ended(1)]), &[]);
    assert_eq!(
        condition(&status, "Ready").reason.as_deref(),
        Some("PodFailed")
    );
}

#[test]
fn a_transition_time_moves_only_with_the_status_and_others_write_their_own() {
    let spec = spec(&[], 1, "Always");
    let old = Time("2020-01-01T00:00:00Z".parse().unwrap());
    let before = |type_: &str, status: &str| PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        last_transition_time: Some(old.clone()),
        ..PodCondition::default()
    };
    let previous = [
        before("Ready", "True"),
        before("Initialized", "False"),
        before("x/y", "True"),
    ];
    let status = rendered(&spec, &facts(&spec, vec![running()]), &previous);
    assert_eq!(
        condition(&status, "Ready").last_transition_time,
        Some(old.clone())
    );
    assert_ne!(
        condition(&status, "Initialized").last_transition_time,
        Some(old.clone())
    );
    let conditions = status.conditions.unwrap();
    assert!(conditions.iter().all(|c| c.type_ != "x/y"));
}

#[test]
fn only_the_agents_decisions_give_the_pod_a_reason() {
    let spec = spec(&[], 1, "Always");
    for (cause, reason) in [
        (EndCause::Deadline, Some("DeadlineExceeded")),
        (EndCause::Shutdown, Some("Terminated")),
        (EndCause::Deleted, None),
    ] {
        let mut pod = facts(&spec, vec![ended(143)]);
        ended_by(&mut pod, cause);
        assert_eq!(
            rendered(&spec, &pod, &[]).reason.as_deref(),
            reason,
            "{cause:?}"
        );
    }
    let mut pod = facts(&spec, vec![ended(0)]);
    pod.evicted = Some("too much".into());
    ended_by(&mut pod, EndCause::Evicted);
    let status = rendered(&spec, &pod, &[]);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some("too much"));
    let disruption = condition(&status, "DisruptionTarget");
    assert_eq!(disruption.reason.as_deref(), Some("TerminationByKubelet"));
    let mut pod = facts(&spec, vec![Life::Waiting]);
    pod.rejected = Some(Problem {
        reason: "NodePorts",
        message: "port 80 is taken".into(),
        outlook: Outlook::Refused,
    });
    let status = rendered(&spec, &pod, &[]);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod was rejected: port 80 is taken")
    );
}

#[test]
fn containers_of_a_pod_that_ended_early_are_all_terminated() {
    let spec = spec(&[], 2, "Always");
    let mut pod = facts(&spec, vec![crash_loop(9), Life::Waiting]);
    ended_by(&mut pod, EndCause::Deleted);
    let statuses = rendered(&spec, &pod, &[]).container_statuses.unwrap();
    let codes: Vec<_> = statuses
        .iter()
        .map(|s| {
            s.state
                .as_ref()
                .unwrap()
                .terminated
                .as_ref()
                .unwrap()
                .exit_code
        })
        .collect();
    assert_eq!(codes, [9, 137]);
}

#[test]
fn times_have_whole_seconds() {
    let spec = spec(&[], 1, "Always");
    let mut pod = facts(&spec, vec![running()]);
    pod.start_time = "2020-01-01T00:00:00.75Z".parse().unwrap();
    let status = rendered(&spec, &pod, &[]);
    assert_eq!(
        status.start_time.unwrap().0.to_string(),
        "2020-01-01T00:00:00Z"
    );
}

#[test]
fn a_pod_whose_containers_all_start_again_says_so() {
    let mut spec = spec(&["init"], 2, "Never");
    let kinds = |status: &PodStatus| -> Vec<String> {
        let conditions = status.conditions.iter().flatten();
        conditions.map(|c| c.type_.clone()).collect()
    };
    let find = |status: &PodStatus, kind: &str| {
        let mut conditions = status.conditions.clone().unwrap_or_default().into_iter();
        let found = conditions.find(|c| c.type_ == kind).expect("it is there");
        (found.status, found.reason, found.message)
    };
    let lives = || vec![ended(0), running(), ended(42)];
    let plain = rendered(&spec, &facts(&spec, lives()), &[]);
    assert!(!kinds(&plain).contains(&"AllContainersRestarting".to_owned()));

    spec.containers[2].restarts.rules = vec![crate::spec::RestartRule {
        action: crate::spec::RestartAction::RestartAllContainers,
        codes: crate::spec::ExitCodes::In(vec![42]),
    }];
    let mut pod = facts(&spec, vec![ended(0), running(), running()]);
    let condition = |status: &PodStatus| find(status, "AllContainersRestarting");
    let quiet = condition(&rendered(&spec, &pod, &[]));
    assert_eq!(quiet, ("False".to_owned(), None, None));

    let end = crate::lifecycle::Outcome::Exited(2, (*end(42)).clone());
    pod.settle(&spec, end, now());
    let status = rendered(&spec, &pod, &[]);
    let told = "container exited with restart policy rule".to_owned();
    let reason = Some("RestartAllContainersStarted".to_owned());
    assert_eq!(condition(&status), ("True".to_owned(), reason, Some(told)));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(find(&status, "Initialized").0, "True");
    let waiting = status.container_statuses.expect("there are some")[1].clone();
    let state = waiting.state.and_then(|s| s.waiting).expect("it waits");
    assert_eq!(state.reason.as_deref(), Some("RestartingAllContainers"));
    let last = waiting.last_state.and_then(|s| s.terminated);
    assert_eq!(last.expect("it has ended").exit_code, 42);
}
