//! What the watches have told about claims, volumes and classes.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{ResourceExt, runtime::watcher::Event};

use super::{
    super::listed::Listed,
    decide::{self, Act},
    local::LocalVolumes,
};

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Claim(ClaimKey),
    Volume(String),
}

/// Namespace and name of a claim.
pub(super) type ClaimKey = (String, String);

/// Everything known.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) claims: Listed<ClaimKey, PersistentVolumeClaim>,
    pub(super) volumes: Listed<String, PersistentVolume>,
    pub(super) classes: Listed<String, StorageClass>,
    /// What was said of a claim last, so that it is not said again.
    told: HashMap<ClaimKey, String>,
}

impl Book {
    /// Before all lists are complete, every decision would be a guess.
    fn is_known(&self) -> bool {
        self.claims.is_known && self.volumes.is_known && self.classes.is_known
    }

    pub(super) fn on_claim(&mut self, event: Event<PersistentVolumeClaim>) -> Vec<Key> {
        let ends = matches!(event, Event::InitDone);
        let keys = self.claims.apply(event, claim_key);
        let mut touched = Vec::new();
        for key in keys {
            if !self.claims.all.contains_key(&key) {
                self.told.remove(&key);
            }
            let of_it = self
                .volumes
                .all
                .iter()
                .filter(|(_, volume)| names(volume, &key));
            touched.extend(of_it.map(|(name, _)| Key::Volume(name.clone())));
            touched.push(Key::Claim(key));
        }
        if ends {
            touched.extend(self.every());
        }
        touched
    }

    pub(super) fn on_volume(&mut self, event: Event<PersistentVolume>) -> Vec<Key> {
        let ends = matches!(event, Event::InitDone);
        let names = self.volumes.apply(event, ResourceExt::name_any);
        if names.is_empty() && !ends {
            return Vec::new();
        }
        let waiting = self.claims.all.iter().filter(|(_, claim)| {
            let volume = claim
                .spec
                .as_ref()
                .and_then(|spec| spec.volume_name.as_ref());
            !decide::is_bound(claim) || volume.is_some_and(|name| names.contains(name))
        });
        let waiting = waiting.map(|(key, _)| Key::Claim(key.clone()));
        let mut touched: Vec<Key> = waiting.collect();
        touched.extend(names.into_iter().map(Key::Volume));
        touched
    }

    pub(super) fn on_class(&mut self, event: Event<StorageClass>) -> Vec<Key> {
        self.classes.apply(event, ResourceExt::name_any);
        match self.is_known() {
            true => self.every(),
            false => Vec::new(),
        }
    }

    fn every(&self) -> Vec<Key> {
        let claims = self.claims.all.keys().cloned().map(Key::Claim);
        let volumes = self.volumes.all.keys().cloned().map(Key::Volume);
        claims.chain(volumes).collect()
    }

    /// Returns the next step for what a key names, if one is needed.
    pub(super) fn decide(&mut self, key: &Key, local: Option<&LocalVolumes>) -> Option<Act> {
        if !self.is_known() {
            return None;
        }
        let act = match key {
            Key::Claim(key) => decide::claim(self, self.claims.all.get(key)?, local),
            Key::Volume(name) => decide::volume(self, self.volumes.all.get(name)?, local),
        }?;
        if let (Act::Tell(note), Key::Claim(key)) = (&act, key) {
            let said = format!("{}{}", note.uid, note.message);
            if self.told.get(key) == Some(&said) {
                return None;
            }
            self.told.insert(key.clone(), said);
        }
        Some(act)
    }
}

pub(super) fn claim_key(claim: &PersistentVolumeClaim) -> ClaimKey {
    (claim.namespace().unwrap_or_default(), claim.name_any())
}

/// Says whether a volume is kept for a claim of this name.
pub(super) fn names(volume: &PersistentVolume, key: &ClaimKey) -> bool {
    let claim = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    claim.is_some_and(|claim| {
        claim.namespace.as_ref() == Some(&key.0) && claim.name.as_ref() == Some(&key.1)
    })
}
