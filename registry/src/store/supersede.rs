//! What a local file held before: images that were packed from it and that nobody asks for again.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{ImageStore, StoreError};
use crate::reference::Reference;

/// Between packing a file and starting its pod nobody holds the image. Another run of the same file may
/// be there; what it packed goes at the next round.
const STARTING: Duration = Duration::from_secs(2 * 60);

impl ImageStore {
    /// Notes which file an image was packed from, and removes what was packed from it before, unless that
    /// was just now or the image is in use.
    pub(crate) fn supersede(
        &self,
        reference: &Reference,
        file: &Path,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        // Files of one name in several folders are several programs. One whose whole path is not to be had,
        // or cannot be written down, keeps all its images.
        let path = file.canonicalize().ok();
        let origin = path.as_deref().and_then(Path::to_str).map(str::to_owned);
        let (Some(origin), Some(mut name)) = (origin, self.name(reference)?) else {
            return Ok(());
        };
        let newest = name.reference.clone();
        name.origin = Some(origin.clone());
        self.put_name(reference, &name)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        for name in self.names()? {
            let is_starting = now.as_secs() < name.stored.saturating_add(STARTING.as_secs());
            if name.reference == newest || name.origin.as_ref() != Some(&origin) || is_starting {
                continue;
            }
            let Ok(older) = name.reference.parse() else {
                continue;
            };
            match self.remove(&older) {
                // Another process may have been faster.
                Ok(_) | Err(StoreError::InUse { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Judge;

    struct TakesAll;

    impl Judge for TakesAll {
        fn judge(&self, _wasm: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    /// A store and files to pack.
    struct Place {
        folder: tempfile::TempDir,
        store: ImageStore,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let store = ImageStore::open(&folder.path().join("images")).expect("a store");
            Self { folder, store }
        }

        fn pack(&self, folder: &str, content: &[u8]) -> Reference {
            let file = self.folder.path().join(folder).join("app.wasm");
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            std::fs::write(&file, [b"\0asm\x01\0\0\0", content].concat()).expect("written");
            self.store.pack(&file, "app", &TakesAll).expect("packed")
        }

        /// Packs what a file holds once more, so much later.
        fn pack_later(&self, folder: &str, content: &[u8], later: Duration) {
            let name = self.pack(folder, content);
            let file = self.folder.path().join(folder).join("app.wasm");
            let now = SystemTime::now() + later;
            self.store.supersede(&name, &file, now).expect("superseded");
        }

        fn has(&self, name: &Reference) -> bool {
            self.store.find(name).expect("a store").is_some()
        }
    }

    #[test]
    fn of_a_file_that_is_built_again_the_newest_image_stays() {
        let place = Place::new();
        let old = place.pack("a", b"1");
        place.pack_later("a", b"2", STARTING / 2);
        assert!(place.has(&old), "its pod may be about to start");
        place.pack_later("a", b"3", STARTING * 2);
        assert!(!place.has(&old));
        assert_eq!(place.store.list().expect("a list").len(), 1);
        // The same content again is the newest, and no other file's.
        place.pack_later("a", b"3", STARTING * 2);
        assert_eq!(place.store.list().expect("a list").len(), 1);
    }

    #[test]
    fn an_older_image_in_use_and_one_of_another_file_stay() {
        let place = Place::new();
        let (used, other) = (place.pack("a", b"1"), place.pack("b", b"2"));
        let image = place.store.find(&used).expect("a store");
        assert!(image.is_some());
        place.pack_later("a", b"3", STARTING * 2);
        assert!(place.has(&used) && place.has(&other));
        drop(image);
        place.pack_later("a", b"4", STARTING * 2);
        assert!(!place.has(&used) && place.has(&other));
    }
}
