//! A tree in memory that its owner may swap while containers read it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Tree;

/// A [`Tree`] that can be replaced whole: the content of a ConfigMap, Secret or projected volume.
///
/// Clones share the content. A path is resolved in one version from its beginning to its end, and an
/// opened folder or file keeps the version it was opened in, so a reader never sees a mixture.
#[derive(Clone)]
pub struct LiveTree {
    current: Arc<ArcSwap<Tree>>,
}

impl LiveTree {
    /// Starts with `tree` as the content.
    pub fn new(tree: Tree) -> LiveTree {
        LiveTree {
            current: Arc::new(ArcSwap::from_pointee(tree)),
        }
    }

    /// Replaces the content for every path resolved from now on.
    pub fn swap(&self, tree: Tree) {
        self.current.store(Arc::new(tree));
    }

    /// The version of this moment.
    pub(super) fn load(&self) -> Arc<Tree> {
        self.current.load_full()
    }
}

impl fmt::Debug for LiveTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveTree").finish_non_exhaustive()
    }
}
