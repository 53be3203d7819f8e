//! The plan of a live pod and a newer one into the plan to go on with, or the fields that cannot change.

use std::sync::Arc;

use super::check::CONTAINERS_PER_POD_MAX;
use super::{ContainerPlan, FieldRefusal, PodSpecPlan, Role, resources};

const FIXED: &str = "cannot change while the pod runs";

impl PodSpecPlan {
    /// Takes over from `newer` what may change in a live pod: images, cpu and memory of containers that run
    /// as long as the pod, the deadline, the grace period, labels and annotations, and ephemeral containers that came. Those that are known stay as they are
    /// and where they are: a patch may bring them in another order.
    ///
    /// # Errors
    ///
    /// Names every other field that differs; the API refuses most such changes already.
    pub(crate) fn renewed(&self, mut newer: PodSpecPlan) -> Result<PodSpecPlan, Vec<FieldRefusal>> {
        self.settle_ephemeral(&mut newer);
        // It is the pod's for life.
        newer.class = self.class;
        let fixed = self.fixed_fields(&newer).into_iter();
        let refusals: Vec<_> = fixed
            .map(|field| FieldRefusal {
                field,
                reason: FIXED.to_owned(),
            })
            .collect();
        if refusals.is_empty() {
            Ok(newer)
        } else {
            Err(refusals)
        }
    }

    /// Puts the ephemeral containers that are known before those that came.
    fn settle_ephemeral(&self, newer: &mut PodSpecPlan) {
        let is_late = |one: &ContainerPlan| one.role == Role::Ephemeral;
        let known: Vec<_> = self.containers.iter().filter(|c| is_late(c)).collect();
        let is_kept =
            |one: &ContainerPlan| !is_late(one) || known.iter().all(|known| known.name != one.name);
        newer.containers.retain(is_kept);
        let place = newer.containers.iter().position(is_late);
        let place = place.unwrap_or(newer.containers.len());
        newer
            .containers
            .splice(place..place, known.into_iter().cloned());
    }

    /// Returns the fields that differ and may not.
    fn fixed_fields(&self, newer: &PodSpecPlan) -> Vec<String> {
        let (old, new) = (&self.containers, &newer.containers);
        let count = |list: &[ContainerPlan]| {
            let lasting = list.iter().filter(|c| c.role != Role::Ephemeral);
            lasting.count()
        };
        let is_same_list =
            count(old) == count(new) && old.iter().zip(new).all(|(old, new)| is_same_one(old, new));
        if !is_same_list {
            return vec!["spec.containers".to_owned()];
        }
        if new.len() > CONTAINERS_PER_POD_MAX {
            return vec!["spec.ephemeralContainers".to_owned()];
        }
        let pairs = places(old).zip(old.iter().zip(new));
        let fields = pairs.filter_map(|(place, (old, new))| {
            if !may_be_resized(old, new) {
                Some(format!("{place}.resources"))
            } else {
                (renewed_container(old, new) != *new).then_some(place)
            }
        });
        let mut fields: Vec<String> = fields.collect();
        if fields.is_empty() {
            let merged = self.around(newer);
            if !resources::is_same_volumes(&self.volumes, &newer.volumes) {
                fields.push("spec.volumes".to_owned());
            } else if merged != *newer {
                fields.push("spec".to_owned());
            }
        }
        fields
    }

    /// This plan with everything of the newer one that may change.
    fn around(&self, newer: &PodSpecPlan) -> PodSpecPlan {
        PodSpecPlan {
            labels: newer.labels.clone(),
            annotations: newer.annotations.clone(),
            // The scheduler's and admission's matter, which is over.
            node_selector: newer.node_selector.clone(),
            grace: newer.grace,
            active_deadline: newer.active_deadline,
            containers: newer.containers.clone(),
            volumes: newer.volumes.clone(),
            left_out: newer.left_out.clone(),
            ..self.clone()
        }
    }
}

fn is_same_one(old: &ContainerPlan, new: &ContainerPlan) -> bool {
    old.name == new.name && old.role == new.role
}

/// Whether the resources are the same, or may become what they are now.
fn may_be_resized(old: &ContainerPlan, new: &ContainerPlan) -> bool {
    let resized = match old.role {
        Role::App | Role::Sidecar => old.resources.resized(new.resources),
        Role::Init | Role::Ephemeral => old.resources,
    };
    resized == new.resources
}

/// The old container with everything of the new one that may change. Annotations of the pod may, so what
/// follows from them does, at the next start.
fn renewed_container(old: &ContainerPlan, new: &ContainerPlan) -> ContainerPlan {
    ContainerPlan {
        image: new.image.clone(),
        // What it is by default follows from the image.
        pull_policy: new.pull_policy,
        instances: new.instances,
        on_stop: new.on_stop,
        resources: new.resources,
        env: if resources::is_same_env(&old.env, &new.env) {
            new.env.clone()
        } else {
            old.env.clone()
        },
        ..old.clone()
    }
}

/// Where each container of a plan is in the pod.
fn places(containers: &[ContainerPlan]) -> impl Iterator<Item = String> + '_ {
    let mut inits = 0..;
    let mut apps = 0..;
    let mut late = 0..;
    containers.iter().map(move |container| {
        let (list, index) = match container.role {
            Role::Init | Role::Sidecar => ("initContainers", inits.next()),
            Role::App => ("containers", apps.next()),
            Role::Ephemeral => ("ephemeralContainers", late.next()),
        };
        format!("spec.{list}[{}]", index.unwrap_or_default())
    })
}

/// What a change of a live pod came to.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    /// The newest plan that can be followed.
    pub(crate) spec: Arc<PodSpecPlan>,
    /// Counts the plans.
    pub(crate) turn: u64,
    /// `metadata.generation` of the object that plan was made from.
    pub(crate) generation: Option<i64>,
    /// The newest generation that was looked at.
    seen: Option<i64>,
    /// Why the newest specification is not followed.
    pub(crate) objection: Option<Arc<str>>,
}

impl Renewal {
    /// The plan of a pod that was just accepted.
    pub(crate) fn new(spec: Arc<PodSpecPlan>, generation: Option<i64>) -> Renewal {
        Renewal {
            spec,
            turn: 0,
            generation,
            seen: generation,
            objection: None,
        }
    }

    /// Takes in another version of the pod, which `check` turns into a plan; false when it says nothing new.
    ///
    /// A server that does not count generations has every version looked at.
    pub(crate) fn learn(
        &mut self,
        generation: Option<i64>,
        check: impl FnOnce() -> Result<PodSpecPlan, Vec<FieldRefusal>>,
    ) -> bool {
        if generation.is_some() && generation == self.seen {
            return false;
        }
        self.seen = generation;
        match check().and_then(|newer| self.spec.renewed(newer)) {
            Ok(spec) => {
                let is_known =
                    *self.spec == spec && self.generation == generation && self.objection.is_none();
                if *self.spec != spec {
                    self.spec = spec.into();
                    self.turn += 1;
                }
                self.generation = generation;
                self.objection = None;
                !is_known
            }
            Err(refusals) => {
                let list: Vec<String> = refusals.iter().map(ToString::to_string).collect();
                let objection = format!("the change is not followed: {}", list.join("; "));
                let is_known = self.objection.as_deref() == Some(&*objection);
                self.objection = Some(objection.into());
                !is_known
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{HostPathPolicy, check_pod};

    fn plan(spec: Value) -> PodSpecPlan {
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
        let pod = json!({"metadata": metadata, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        check_pod(&pod, HostPathPolicy::Refuse).expect("a plan")
    }

    fn spec() -> Value {
        json!({
            "initContainers": [{"name": "i", "image": "r/i:1"}],
            "containers": [{"name": "c", "image": "r/i:1"}, {"name": "d", "image": "r/i:1"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "activeDeadlineSeconds": 100,
        })
    }

    fn changed(at: &str, value: Value) -> Value {
        let mut spec = spec();
        let (parent, field) = at.rsplit_once('/').expect("a pointer");
        spec.pointer_mut(parent).expect("a parent")[field] = value;
        spec
    }

    #[test]
    fn what_may_change_is_taken_over() {
        for (at, value) in [
            ("/containers/1/image", json!("r/i:2")),
            ("/containers/1/image", json!("r/i")),
            ("/initContainers/0/image", json!("r/i:2")),
            ("/activeDeadlineSeconds", json!(10)),
            (
                "/containers/1/resources",
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
            ),
            ("/terminationGracePeriodSeconds", json!(1)),
            ("/tolerations", json!([{"operator": "Exists"}])),
        ] {
            let newer = plan(changed(at, value));
            let expected = PodSpecPlan {
                class: plan(spec()).class,
                ..newer.clone()
            };
            assert_eq!(plan(spec()).renewed(newer), Ok(expected), "{at}");
        }
    }

    #[test]
    fn what_cannot_change_is_named() {
        for (at, value, field) in [
            (
                "/containers/1/resources",
                json!({"requests": {"ephemeral-storage": "1"}}),
                "spec.containers[1].resources",
            ),
            (
                "/containers/1/resizePolicy",
                json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]),
                "spec.containers[1]",
            ),
            (
                "/initContainers/0/resources",
                json!({"limits": {"cpu": "1"}}),
                "spec.initContainers[0].resources",
            ),
            ("/containers/1/args", json!(["a"]), "spec.containers[1]"),
            ("/containers/1/name", json!("e"), "spec.containers"),
            ("/initContainers", json!([]), "spec.containers"),
            ("/volumes", json!([]), "spec.volumes"),
            ("/hostname", json!("other"), "spec"),
        ] {
            let refusals = plan(spec()).renewed(plan(changed(at, value)));
            let refusals = refusals.expect_err(at);
            let fields: Vec<&str> = refusals.iter().map(|r| r.field.as_str()).collect();
            assert_eq!(fields, [field]);
        }
    }

    #[test]
    fn ephemeral_containers_come_and_keep_their_places() {
        let with = |names: &[&str]| {
            let late = |name: &&str| json!({"name": name, "image": "i"});
            let late: Vec<Value> = names.iter().map(late).collect();
            plan(changed("/ephemeralContainers", late.into()))
        };
        let names = |plan: &PodSpecPlan| -> Vec<String> {
            let late = plan.containers.iter().skip(3);
            late.map(|c| c.name.to_string()).collect()
        };
        let one = plan(spec()).renewed(with(&["e"])).expect("a plan");
        assert_eq!(names(&one), ["e"]);
        let two = one.renewed(with(&["f", "e"])).expect("a plan");
        assert_eq!(names(&two), ["e", "f"], "in another order");
        let kept = two.renewed(with(&["f"])).expect("a plan");
        assert_eq!(names(&kept), ["e", "f"], "never removed");
    }

    fn renewal() -> Renewal {
        Renewal::new(plan(spec()).into(), Some(1))
    }

    #[test]
    fn a_generation_is_looked_at_once() {
        let mut renewal = renewal();
        assert!(!renewal.learn(Some(1), || panic!("known")));
        let newer = || Ok(plan(changed("/containers/0/image", json!("r/i:2"))));
        assert!(renewal.learn(Some(2), newer));
        assert_eq!(renewal.spec.containers[1].image, "r/i:2");
        assert_eq!((renewal.turn, renewal.generation), (1, Some(2)));
        assert!(!renewal.learn(Some(2), || panic!("known")));
    }

    #[test]
    fn a_server_without_generations_is_followed_too() {
        let mut renewal = Renewal::new(plan(spec()).into(), None);
        assert!(!renewal.learn(None, || Ok(plan(spec()))));
        assert!(renewal.learn(None, || Ok(plan(changed(
            "/activeDeadlineSeconds",
            json!(9)
        )))));
        assert_eq!(renewal.turn, 1);
    }

    #[test]
    fn a_refused_change_keeps_the_plan_and_its_generation_and_a_good_one_ends_the_objection() {
        let mut renewal = renewal();
        let args = || Ok(plan(changed("/containers/0/args", json!(["a"]))));
        assert!(renewal.learn(Some(2), args));
        assert_eq!(*renewal.spec, plan(spec()));
        assert_eq!((renewal.turn, renewal.generation), (0, Some(1)));
        assert_eq!(
            renewal.objection.as_deref(),
            Some(
                "the change is not followed: `spec.containers[0]` cannot change while the pod runs"
            )
        );
        assert!(!renewal.learn(Some(3), args), "it is told once");
        assert!(renewal.learn(Some(4), || Ok(plan(spec()))));
        assert_eq!(renewal.objection, None);
        assert_eq!((renewal.turn, renewal.generation), (0, Some(4)));
    }
}
