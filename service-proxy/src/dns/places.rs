//! A bounded number of places, of which no client has more than its share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places that are taken and given back.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    /// Returns `all` places, of which a client may have `each`.
    pub(crate) fn new(all: usize, each: usize) -> Arc<Places> {
        Arc::new(Places {
            all,
            each,
            taken: Mutex::default(),
        })
    }

    /// Takes a place; nothing if none is free for the client.
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.all >= self.all {
            return None;
        }
        let own = taken.by_client.entry(client).or_default();
        if *own >= self.each {
            return None;
        }
        *own += 1;
        taken.all += 1;
        drop(taken);
        Some(Place {
            places: Arc::clone(self),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_takes_more_than_its_share_and_all_no_more_than_there_are() {
        let places = Places::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = places.take(a);
        let second = places.take(a);
        assert!(first.is_some() && second.is_some());
        assert!(places.take(a).is_none());
        let third = places.take(b);
        assert!(third.is_some());
        assert!(places.take(b).is_none());
        drop(first);
        assert!(places.take(b).is_some());
        drop((second, third));
        let taken = places.taken.lock();
        assert_eq!((taken.all, taken.by_client.len()), (0, 0));
    }
}
