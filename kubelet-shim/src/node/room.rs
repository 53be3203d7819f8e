//! Images that nobody uses go when the disk runs full, by the kubelet's thresholds (contract A.5).

use std::time::{Duration, SystemTime};

use coracle_registry::{ImageStore, Reclaim};

/// Images go when so many hundredths of the disk are used (`imageGCHighThresholdPercent`) …
const FULL_PERCENT: u8 = 85;

/// … until no more than so many are (`imageGCLowThresholdPercent`).
const ENOUGH_PERCENT: u8 = 80;

/// What was used since then stays. A kubelet's two minutes (`imageMinimumGCAge`) are for images without a
/// container, while here one that waits for its restart, five minutes at most, holds no image.
const UNUSED_FOR: Duration = Duration::from_secs(10 * 60);

/// What becomes of images that no pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnusedImages {
    /// They stay: the store is not the node's alone.
    #[default]
    Stay,
    /// They go when the disk runs full, the one that was unused for the longest time first. Those that were built
    /// on this machine stay.
    GoWhenFull,
}

/// Removes images if the disk, of which `left` bytes of `all` are free, is too full. Touches the disk.
pub(super) fn make(store: &ImageStore, left: u64, all: u64) {
    let Some(bytes) = excess(left, all) else {
        return;
    };
    let Some(unused_since) = SystemTime::now().checked_sub(UNUSED_FOR) else {
        return;
    };
    let wanted = Reclaim {
        bytes,
        unused_since,
        spared: &[],
    };
    match store.reclaim(wanted) {
        Ok(gone) => {
            for image in gone {
                let names = image.names.join(", ");
                tracing::info!(names, "removed an unused image, since the disk runs full");
            }
        }
        Err(error) => tracing::warn!(%error, "failed to remove unused images"),
    }
}

/// Says how many bytes are to be freed.
fn excess(left: u64, all: u64) -> Option<u64> {
    let percent = |percent: u8| u128::from(all) * u128::from(percent) / 100;
    let used = u128::from(all.saturating_sub(left));
    if all == 0 || used < percent(FULL_PERCENT) {
        return None;
    }
    u64::try_from(used - percent(ENOUGH_PERCENT)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_emptied_to_four_fifths() {
        for (left, all, expected) in [
            (16, 100, None),
            (15, 100, Some(5)),
            (0, 1_000, Some(200)),
            (0, 0, None),
            (0, u64::MAX, Some(u64::MAX / 5)),
        ] {
            assert_eq!(excess(left, all), expected, "{left} of {all}");
        }
    }
}
