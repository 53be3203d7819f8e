//! Which kinds the server has, as it says itself.

use kube::{
    Client,
    api::ApiResource,
    discovery::{ApiCapabilities, Discovery, Scope, verbs},
};

/// Events come and go by themselves and own nothing; one kind is enough to delete them all.
const EVENTS_TWIN_GROUP: &str = "events.k8s.io";

/// The kinds of a server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Catalogue {
    /// Every kind once, in the version that the server prefers.
    pub(super) preferred: Vec<Kind>,
    /// Every kind in every version.
    all: Vec<Kind>,
}

/// One kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) resource: ApiResource,
    pub(super) namespaced: bool,
    verbs: Vec<String>,
}

impl Catalogue {
    /// Asks the server.
    pub(super) async fn discover(client: &Client) -> Result<Catalogue, kube::Error> {
        let discovery = Discovery::new(client.clone()).run().await?;
        let mut catalogue = Catalogue {
            preferred: Vec::new(),
            all: Vec::new(),
        };
        for group in discovery.groups_alphabetical() {
            let preferred = group.recommended_resources().into_iter().map(Kind::from);
            let preferred = preferred.filter(|kind| kind.resource.group != EVENTS_TWIN_GROUP);
            catalogue.preferred.extend(preferred);
            let versions = group.versions();
            let all = versions.flat_map(|version| group.versioned_resources(version));
            catalogue.all.extend(all.map(Kind::from));
        }
        let by_name = |a: &Kind, b: &Kind| a.order().cmp(&b.order());
        catalogue.preferred.sort_by(by_name);
        catalogue.all.sort_by(by_name);
        Ok(catalogue)
    }

    /// Finds the preferred version of a kind that may be named in another one, and its place.
    pub(super) fn preferred_index(&self, api_version: &str, kind: &str) -> Option<(usize, &Kind)> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let mut kinds = self.preferred.iter().enumerate();
        kinds.find(|(_, known)| known.resource.kind == kind && known.resource.group == group)
    }

    /// Finds the kind that an owner reference names.
    pub(super) fn find(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        let fits = |known: &&Kind| {
            known.resource.kind == kind && known.resource.api_version == api_version
        };
        self.all.iter().find(fits)
    }
}

impl Kind {
    pub(super) fn offers(&self, verb: &str) -> bool {
        self.verbs.iter().any(|offered| offered == verb)
    }

    /// Says whether objects of this kind can be found and deleted.
    pub(super) fn is_deletable(&self) -> bool {
        [verbs::DELETE, verbs::LIST, verbs::WATCH]
            .iter()
            .all(|verb| self.offers(verb))
    }

    /// Returns the path of one object, or without a name of a whole collection.
    pub(super) fn path(&self, namespace: &str, name: &str) -> String {
        let ApiResource {
            group,
            api_version,
            plural,
            ..
        } = &self.resource;
        let root = if group.is_empty() { "api" } else { "apis" };
        let mut path = format!("/{root}/{api_version}");
        if self.namespaced {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{plural}");
        if !name.is_empty() {
            path += &format!("/{name}");
        }
        path
    }

    fn order(&self) -> (&str, &str, &str) {
        let ApiResource {
            group,
            version,
            plural,
            ..
        } = &self.resource;
        (group, plural, version)
    }
}

impl From<(ApiResource, ApiCapabilities)> for Kind {
    fn from((resource, capabilities): (ApiResource, ApiCapabilities)) -> Kind {
        Kind {
            resource,
            namespaced: capabilities.scope == Scope::Namespaced,
            verbs: capabilities.operations,
        }
    }
}
