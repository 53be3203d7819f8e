//! What the claims of a pod's volumes mean for its place: it waits for them, and goes where their volumes are.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    api::storage::v1::StorageClass,
};
use kube::{ResourceExt, runtime::watcher::Event};

use super::{
    cluster::{Change, Cluster, Listing, PodKey},
    facts::PodFacts,
    terms::NodeTerm,
};

/// The mode of a claim that one pod alone may mount.
const ONE_POD: &str = "ReadWriteOncePod";

/// What is known of claims, their volumes, and the classes whose claims wait for a pod.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: HashMap<(String, String), Claim>,
    volumes: BTreeMap<String, Option<Vec<NodeTerm>>>,
    waiting_classes: HashSet<String>,
    claims_list: Listing<(String, String)>,
    volumes_list: Listing<String>,
    classes_list: Listing<String>,
}

#[derive(Debug, PartialEq)]
struct Claim {
    class: String,
    course: Course,
    one_pod: bool,
}

/// How far a claim is.
#[derive(Debug, PartialEq)]
enum Course {
    Waiting,
    Bound { volume: String },
    Leaving,
}

/// What a pod's claims say.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// The pod can go where each of these has a term that holds.
    Ready(Vec<Vec<NodeTerm>>),
    /// It can, and these claims are to be bound for its node first.
    Select(Vec<Vec<NodeTerm>>, Vec<String>),
    /// It waits, for this reason.
    Waits(String),
}

impl Claims {
    /// Says whether all lists have been read once.
    fn is_known(&self) -> bool {
        self.claims_list.is_known() && self.volumes_list.is_known() && self.classes_list.is_known()
    }

    /// Judges the claims of a pod; nothing while they are unknown.
    pub(super) fn verdict(
        &self,
        pod: &PodKey,
        facts: &PodFacts,
        cluster: &Cluster,
    ) -> Option<Verdict> {
        if facts.claims.is_empty() {
            return Some(Verdict::Ready(Vec::new()));
        }
        if !self.is_known() {
            return None;
        }
        let (mut reach, mut select) = (Vec::new(), Vec::new());
        for name in &facts.claims {
            let key = (pod.namespace.to_string(), name.clone());
            let waits = |why: String| Some(Verdict::Waits(why));
            let Some(claim) = self.claims.get(&key) else {
                return waits(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.one_pod && cluster.mounts(pod, name) {
                return waits(format!(
                    "node has pod using PersistentVolumeClaim with the same name and {ONE_POD} access mode"
                ));
            }
            match &claim.course {
                Course::Leaving => {
                    return waits(format!("persistentvolumeclaim \"{name}\" is being deleted"));
                }
                Course::Bound { volume } => match self.volumes.get(volume) {
                    Some(terms) => reach.extend(terms.clone()),
                    None => {
                        let why = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
                        return waits(why.to_owned());
                    }
                },
                Course::Waiting if self.waiting_classes.contains(&claim.class) => {
                    select.push(name.clone());
                }
                Course::Waiting => {
                    return waits("pod has unbound immediate PersistentVolumeClaims".to_owned());
                }
            }
        }
        Some(match select.is_empty() {
            true => Verdict::Ready(reach),
            false => Verdict::Select(reach, select),
        })
    }

    pub(super) fn on_claim(&mut self, event: Event<PersistentVolumeClaim>) -> Change {
        let key = |claim: &PersistentVolumeClaim| {
            (claim.namespace().unwrap_or_default(), claim.name_any())
        };
        match event {
            Event::Apply(claim) => {
                self.claims.insert(key(&claim), Claim::of(&claim));
            }
            Event::InitApply(claim) => {
                self.claims_list.saw(key(&claim));
                self.claims.insert(key(&claim), Claim::of(&claim));
            }
            Event::Delete(claim) => {
                self.claims.remove(&key(&claim));
            }
            Event::Init => self.claims_list.begin(),
            Event::InitDone => {
                let seen = self.claims_list.end();
                self.claims.retain(|key, _| seen.contains(key));
            }
        }
        Change::Room
    }

    pub(super) fn on_volume(&mut self, event: Event<PersistentVolume>) -> Change {
        match event {
            Event::Apply(volume) => {
                self.volumes.insert(volume.name_any(), reach(&volume));
            }
            Event::InitApply(volume) => {
                self.volumes_list.saw(volume.name_any());
                self.volumes.insert(volume.name_any(), reach(&volume));
            }
            Event::Delete(volume) => {
                self.volumes.remove(&volume.name_any());
            }
            Event::Init => self.volumes_list.begin(),
            Event::InitDone => {
                let seen = self.volumes_list.end();
                self.volumes.retain(|name, _| seen.contains(name));
            }
        }
        Change::Room
    }

    pub(super) fn on_class(&mut self, event: Event<StorageClass>) -> Change {
        match event {
            Event::Apply(class) => self.put_class(&class),
            Event::InitApply(class) => {
                self.classes_list.saw(class.name_any());
                self.put_class(&class);
            }
            Event::Delete(class) => {
                self.waiting_classes.remove(&class.name_any());
            }
            Event::Init => self.classes_list.begin(),
            Event::InitDone => {
                let seen = self.classes_list.end();
                self.waiting_classes.retain(|name| seen.contains(name));
            }
        }
        Change::Room
    }

    fn put_class(&mut self, class: &StorageClass) {
        let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        match waits {
            true => self.waiting_classes.insert(class.name_any()),
            false => self.waiting_classes.remove(&class.name_any()),
        };
    }
}

impl Claim {
    fn of(claim: &PersistentVolumeClaim) -> Claim {
        let spec = claim.spec.clone().unwrap_or_default();
        let phase = claim
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let volume = spec.volume_name.filter(|_| phase == Some("Bound"));
        let course = match (&claim.metadata.deletion_timestamp, volume) {
            (Some(_), _) => Course::Leaving,
            (None, Some(volume)) => Course::Bound { volume },
            (None, None) => Course::Waiting,
        };
        let mut modes = spec.access_modes.iter().flatten();
        Claim {
            class: spec.storage_class_name.unwrap_or_default(),
            course,
            one_pod: modes.any(|mode| mode == ONE_POD),
        }
    }
}

/// Returns the terms of the nodes that reach a volume; all do when it names none.
fn reach(volume: &PersistentVolume) -> Option<Vec<NodeTerm>> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required.as_ref()?;
    Some(
        required
            .node_selector_terms
            .iter()
            .map(NodeTerm::of)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn known(claims: &[&Value], volumes: &[&Value], classes: &[&Value]) -> Claims {
        let mut all = Claims::default();
        all.on_claim(Event::Init);
        all.on_volume(Event::Init);
        all.on_class(Event::Init);
        for claim in claims {
            all.on_claim(Event::InitApply(
                serde_json::from_value((*claim).clone()).unwrap(),
            ));
        }
        for volume in volumes {
            all.on_volume(Event::InitApply(
                serde_json::from_value((*volume).clone()).unwrap(),
            ));
        }
        for class in classes {
            all.on_class(Event::InitApply(
                serde_json::from_value((*class).clone()).unwrap(),
            ));
        }
        all.on_claim(Event::InitDone);
        all.on_volume(Event::InitDone);
        all.on_class(Event::InitDone);
        all
    }

    fn check(claims: &Claims, expected: Result<(usize, usize), &str>) {
        let pod = PodKey {
            namespace: "n".into(),
            name: "p".into(),
        };
        let facts = PodFacts {
            claims: ["c".to_owned()].into(),
            ..PodFacts::default()
        };
        let found = claims
            .verdict(&pod, &facts, &Cluster::default())
            .expect("all is known");
        let found = match &found {
            Verdict::Ready(reach) => Ok((reach.len(), 0)),
            Verdict::Select(reach, select) => Ok((reach.len(), select.len())),
            Verdict::Waits(why) => Err(why.as_str()),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_pod_waits_for_its_claims_and_goes_where_their_volumes_are() {
        let claim = |spec: Value, phase: &str| json!({"metadata": {"namespace": "n", "name": "c"}, "spec": spec, "status": {"phase": phase}});
        check(
            &known(&[], &[], &[]),
            Err("persistentvolumeclaim \"c\" not found"),
        );
        let waiting = claim(json!({"storageClassName": "w"}), "Pending");
        let told = "pod has unbound immediate PersistentVolumeClaims";
        check(&known(&[&waiting], &[], &[]), Err(told));
        let class = json!({"metadata": {"name": "w"}, "provisioner": "x",
            "volumeBindingMode": "WaitForFirstConsumer"});
        check(&known(&[&waiting], &[], &[&class]), Ok((0, 1)));
        let bound = claim(json!({"volumeName": "v"}), "Bound");
        let gone = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        check(&known(&[&bound], &[], &[]), Err(gone));
        let anywhere = json!({"metadata": {"name": "v"}, "spec": {}});
        check(&known(&[&bound], &[&anywhere], &[]), Ok((0, 0)));
        let somewhere = json!({"metadata": {"name": "v"}, "spec": {"nodeAffinity": {"required":
            {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}]}}}});
        check(&known(&[&bound], &[&somewhere], &[]), Ok((1, 0)));
    }
}
