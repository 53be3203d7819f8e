//! Session affinity: a client stays at its endpoint while it keeps connecting. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Endpoint;

/// Clients remembered for one port of a Service. Beyond it the ones that came least recently are
/// forgotten, as a kernel's table of recent clients forgets them.
pub(super) const CLIENTS_MAX: usize = 65_536;

/// Which client is at which endpoint.
#[derive(Debug)]
pub(super) struct Affinity {
    timeout: Duration,
    clients: HashMap<IpAddr, Stay>,
}

#[derive(Debug)]
struct Stay {
    endpoint: SocketAddr,
    seen: Instant,
}

impl Affinity {
    /// Returns a table that knows nobody.
    pub(super) fn new(timeout: Duration) -> Affinity {
        Affinity {
            timeout,
            clients: HashMap::new(),
        }
    }

    /// Returns for how long a client that does not connect is remembered.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the endpoint of a client: its last one if it came recently and `still` gives it, else
    /// `another`.
    pub(super) fn choose(
        &mut self,
        client: IpAddr,
        now: Instant,
        another: impl FnOnce() -> Option<Arc<Endpoint>>,
        still: impl FnOnce(SocketAddr) -> Option<Arc<Endpoint>>,
    ) -> Option<Arc<Endpoint>> {
        let client = client.to_canonical();
        let recent = self.clients.get(&client).filter(|stay| {
            // The timeout counts from the last connection, which refreshes it.
            now.saturating_duration_since(stay.seen) < self.timeout
        });
        let chosen = recent
            .and_then(|stay| still(stay.endpoint))
            .or_else(another)?;
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            self.make_room(now);
        }
        let stay = Stay {
            endpoint: chosen.address(),
            seen: now,
        };
        self.clients.insert(client, stay);
        Some(chosen)
    }

    /// Forgets who has not come for the timeout; if all have, the half that came least recently, so
    /// that the next is not for long.
    fn make_room(&mut self, now: Instant) {
        let timeout = self.timeout;
        self.clients
            .retain(|_, stay| now.saturating_duration_since(stay.seen) < timeout);
        if self.clients.len() < CLIENTS_MAX {
            return;
        }
        let mut seen: Vec<Instant> = self.clients.values().map(|stay| stay.seen).collect();
        let middle = seen.len() / 2;
        let (_, median, _) = seen.select_nth_unstable(middle);
        let median = *median;
        self.clients.retain(|_, stay| stay.seen > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: u8) -> Arc<Endpoint> {
        Endpoint::new(SocketAddr::from(([10, 244, 0, number], 80)))
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_client_stays_until_it_has_not_come_for_the_timeout() {
        let mut affinity = Affinity::new(Duration::from_secs(10));
        let start = Instant::now();
        let (first, second) = (endpoint(1), endpoint(2));
        let mut ask = |seconds, offered: &Arc<Endpoint>| {
            let now = start + Duration::from_secs(seconds);
            let still = |address| {
                [&first, &second]
                    .into_iter()
                    .find(|e| e.address() == address)
            };
            let chosen = affinity.choose(
                client(1),
                now,
                || Some(Arc::clone(offered)),
                |address| still(address).cloned(),
            );
            chosen.expect("one is offered").address()
        };
        assert_eq!(ask(0, &first), first.address());
        assert_eq!(ask(9, &second), first.address());
        // The visit at 9 counts, not the first one.
        assert_eq!(ask(18, &second), first.address());
        assert_eq!(ask(28, &second), second.address());
    }

    #[test]
    fn an_endpoint_that_is_gone_is_replaced_and_the_new_one_kept() {
        let mut affinity = Affinity::new(Duration::from_secs(10));
        let now = Instant::now();
        let (first, second) = (endpoint(1), endpoint(2));
        let ask = |affinity: &mut Affinity, offered: &Arc<Endpoint>, there: &Arc<Endpoint>| {
            affinity
                .choose(
                    client(1),
                    now,
                    || Some(Arc::clone(offered)),
                    |address| (there.address() == address).then(|| Arc::clone(there)),
                )
                .expect("one is offered")
                .address()
        };
        assert_eq!(ask(&mut affinity, &first, &first), first.address());
        assert_eq!(ask(&mut affinity, &second, &second), second.address());
        assert_eq!(ask(&mut affinity, &first, &second), second.address());
    }

    #[test]
    fn the_table_never_holds_more_than_its_limit() {
        let mut affinity = Affinity::new(Duration::from_secs(1_000_000));
        let start = Instant::now();
        let one = endpoint(1);
        for number in 0..CLIENTS_MAX as u32 + 10 {
            let now = start + Duration::from_micros(number.into());
            affinity.choose(client(number), now, || Some(Arc::clone(&one)), |_| None);
            assert!(affinity.clients.len() <= CLIENTS_MAX);
        }
        assert!(!affinity.clients.contains_key(&client(0)));
        assert!(affinity.clients.contains_key(&client(CLIENTS_MAX as u32)));
    }
}
