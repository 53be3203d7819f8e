//! UUIDs that cost no call of the system each.

use rand::Rng as _;
use uuid::{Builder, Uuid};

/// Draws a UUID of version 4 from the thread's generator, which the system has seeded.
pub(crate) fn unique() -> Uuid {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn none_comes_twice_and_all_are_of_version_4() {
        let drawn: HashSet<_> = (0..1000).map(|_| super::unique()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(drawn.iter().all(|uuid| uuid.get_version_num() == 4));
    }
}
