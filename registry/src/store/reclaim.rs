//! Making room: the images that nobody used for the longest time go first.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::files::{length, remove};
use super::lock::{FileLock, Mode};
use super::{ImageRecord, ImageStore, StoreError};
use crate::digest::Digest;
use crate::reference::{LOCAL_REGISTRY, Reference};

/// An image and its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// The digest of its manifest.
    pub digest: String,
    /// All its names, in order.
    pub names: Vec<String>,
    /// Bytes in the store; layers shared with other images count in each.
    pub size: u64,
    /// When someone began or ended to use it, whichever was last; nothing if nobody ever did.
    pub last_used: Option<SystemTime>,
}

/// How much room is to be made, and at whose cost.
#[derive(Debug, Clone, Copy)]
pub struct Reclaim<'a> {
    /// Images go until so many bytes are free.
    pub bytes: u64,
    /// What was used since then stays.
    pub unused_since: SystemTime,
    /// What these names stand for stays, whether anyone uses it or not.
    pub spared: &'a [Reference],
}

impl ImageStore {
    /// Returns every image that has a name with its last use, the one unused for the longest time first.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn uses(&self) -> Result<Vec<ImageUse>, StoreError> {
        let mut names: HashMap<Digest, Vec<String>> = HashMap::new();
        for name in self.names()? {
            names.entry(name.manifest).or_default().push(name.reference);
        }
        let mut uses = Vec::new();
        for record in self.records()? {
            let Some(mut names) = names.remove(&record.manifest) else {
                continue;
            };
            names.sort();
            let lease = self.lease_path(record.manifest).metadata();
            uses.push(ImageUse {
                digest: record.manifest.to_string(),
                names,
                size: record.size,
                last_used: lease.and_then(|lease| lease.modified()).ok(),
            });
        }
        uses.sort_by(|a, b| (a.last_used, &a.digest).cmp(&(b.last_used, &b.digest)));
        Ok(uses)
    }

    /// Removes images with all their names, the one unused for the longest time first, until enough is
    /// free, and returns them.
    ///
    /// Images in use stay, in whatever process, and those with a name of this machine, which no registry
    /// could give back. Only what no other image needs counts as freed. While anyone adds to the store,
    /// the files stay until he is ready.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read or a file cannot be removed.
    pub fn reclaim(&self, wanted: Reclaim<'_>) -> Result<Vec<ImageUse>, StoreError> {
        let mut spared = HashSet::new();
        for reference in wanted.spared {
            spared.extend(self.lookup(reference)?.map(|digest| digest.to_string()));
        }
        let mut needed = Needed::by(&self.records()?);
        let (mut freed, mut gone) = (0, Vec::new());
        for image in self.uses()? {
            if freed >= wanted.bytes {
                break;
            }
            let is_recent = image.last_used.is_some_and(|at| at > wanted.unused_since);
            if is_recent || spared.contains(&image.digest) || image.is_of_this_machine() {
                continue;
            }
            if let Some(record) = self.take_away(&image)? {
                freed += needed.without(self, &record)?;
                gone.push(image);
            }
        }
        if !gone.is_empty() {
            self.sweep()?;
        }
        Ok(gone)
    }

    /// Removes an image's record and names unless someone uses it.
    fn take_away(&self, image: &ImageUse) -> Result<Option<ImageRecord>, StoreError> {
        let Ok(manifest) = image.digest.parse() else {
            return Ok(None);
        };
        let Some(_unused) = FileLock::attempt(&self.lease_path(manifest), Mode::Exclusive)? else {
            return Ok(None);
        };
        let Some(record) = self.record(manifest)? else {
            return Ok(None);
        };
        remove(&self.json_path("images", manifest))?;
        for name in &image.names {
            let Ok(reference) = name.parse::<Reference>() else {
                continue;
            };
            // It may have been given to another image meanwhile.
            if self
                .name(&reference)?
                .is_some_and(|name| name.manifest == manifest)
            {
                remove(&self.name_path(&reference))?;
            }
        }
        Ok(Some(record))
    }
}

impl ImageUse {
    fn is_of_this_machine(&self) -> bool {
        let prefix = format!("{LOCAL_REGISTRY}/");
        self.names.iter().any(|name| name.starts_with(&prefix))
    }
}

/// How many images need each file.
struct Needed(HashMap<Digest, usize>);

impl Needed {
    fn by(records: &[ImageRecord]) -> Self {
        let mut counts = HashMap::new();
        for blob in records.iter().flat_map(|record| &record.blobs) {
            *counts.entry(*blob).or_default() += 1;
        }
        Self(counts)
    }

    /// Takes an image out and returns the bytes that only it needed.
    fn without(&mut self, store: &ImageStore, record: &ImageRecord) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for blob in &record.blobs {
            let count = self.0.entry(*blob).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                bytes += length(&store.blob_path(*blob))?.unwrap_or(0);
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::build::{BuildForm, BuildSpec};
    use crate::image::{Image, Judge};

    const MINUTE: Duration = Duration::from_secs(60);

    struct TakesAll;

    impl Judge for TakesAll {
        fn judge(&self, _wasm: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    struct Place {
        folder: tempfile::TempDir,
        store: ImageStore,
        now: SystemTime,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let store = ImageStore::open(&folder.path().join("images")).expect("a store");
            let now = SystemTime::now();
            Self { folder, store, now }
        }

        fn build(&self, name: &str, content: u8, bytes: usize) -> Image {
            let module = self.folder.path().join("module.wasm");
            let wasm = [b"\0asm\x01\0\0\0", &vec![content; bytes][..]].concat();
            std::fs::write(&module, wasm).expect("written");
            let spec = BuildSpec {
                reference: name.parse().expect("a name"),
                module,
                form: BuildForm::Artifact,
            };
            self.store.build(&spec, &TakesAll).expect("built")
        }

        /// Builds an image that was used last so long ago.
        fn build_used(&self, name: &str, content: u8, ago: Duration) {
            let image = self.build(name, content, 100_000);
            let lease = self.store.lease_path(image.digest.parse().expect("one"));
            drop(image);
            let lease = File::options().write(true).open(lease).expect("a lease");
            lease.set_modified(self.now - ago).expect("settable");
        }

        /// Makes room and returns the names that went.
        fn reclaim(&self, bytes: u64, spared: &[&str]) -> Vec<String> {
            let spared = spared.iter().map(|name| name.parse().expect("a name"));
            let spared: Vec<Reference> = spared.collect();
            let gone = self.store.reclaim(Reclaim {
                bytes,
                unused_since: self.now - 2 * MINUTE,
                spared: &spared,
            });
            let gone = gone.expect("room is made").into_iter();
            gone.flat_map(|image| image.names).collect()
        }
    }

    #[test]
    fn the_image_unused_for_the_longest_time_goes_first_and_no_more_than_needed() {
        let place = Place::new();
        for (name, content, minutes) in [("r.io/a:v1", 1, 20), ("r.io/b:v1", 2, 30)] {
            place.build_used(name, content, minutes * MINUTE);
        }
        place.build_used("r.io/new:v1", 3, MINUTE);
        let uses = place.store.uses().expect("a list");
        let names: Vec<&str> = uses.iter().map(|image| image.names[0].as_str()).collect();
        assert_eq!(names, ["r.io/b:v1", "r.io/a:v1", "r.io/new:v1"]);
        assert_eq!(uses[2].last_used, Some(place.now - MINUTE));
        assert_eq!(place.reclaim(0, &[]), [""; 0]);
        assert_eq!(place.reclaim(1, &[]), ["r.io/b:v1"]);
        // What is asked for and what can be given: the newest is too new to go.
        assert_eq!(place.reclaim(u64::MAX, &[]), ["r.io/a:v1"]);
        let left = place.store.list().expect("a list");
        assert_eq!(left.len(), 1);
        let blobs = place.folder.path().join("images/blobs");
        let blobs = std::fs::read_dir(blobs).expect("a folder").count();
        assert_eq!(blobs, 3, "a manifest, a configuration and a module");
    }

    #[test]
    fn what_is_in_use_or_spared_or_of_this_machine_stays() {
        let place = Place::new();
        for (at, name) in ["r.io/used:v1", "r.io/spared:v1", "coracle.local/x:v1"]
            .iter()
            .enumerate()
        {
            place.build_used(name, at as u8, 60 * MINUTE);
        }
        // Held by what counts as another process; a second name would keep nothing.
        let other = ImageStore::open(&place.folder.path().join("images")).expect("a store");
        let used = "r.io/used:v1".parse().expect("a name");
        let held = other.find(&used).expect("a store").expect("an image");
        let old = File::options()
            .write(true)
            .open(place.store.lease_path(held.digest.parse().expect("one")));
        let old = old.expect("a lease");
        old.set_modified(place.now - 60 * MINUTE).expect("settable");
        assert_eq!(place.reclaim(u64::MAX, &["r.io/spared:v1"]), [""; 0]);
        drop(held);
        // Its use has ended just now.
        assert_eq!(place.reclaim(u64::MAX, &["r.io/spared:v1"]), [""; 0]);
        assert_eq!(place.reclaim(u64::MAX, &[]), ["r.io/spared:v1"]);
    }

    /// Counted twice, shared layers would end the removal too early.
    #[test]
    fn only_what_no_other_image_needs_counts_as_freed() {
        let place = Place::new();
        let one = place.build("r.io/a:v1", 1, 100_000);
        let two = place.build("r.io/b:v1", 2, 100_000);
        let record = |image: &Image| {
            let digest = image.digest.parse().expect("a digest");
            place.store.record(digest).expect("a store").expect("one")
        };
        let (mut one, two) = (record(&one), record(&two));
        one.blobs.extend(two.blobs.clone());
        let mut needed = Needed::by(&[one.clone(), two.clone()]);
        let of_one = needed.without(&place.store, &one).expect("a store");
        assert_eq!(of_one, one.size);
        let of_two = needed.without(&place.store, &two).expect("a store");
        assert_eq!(of_two, two.size);
    }
}
