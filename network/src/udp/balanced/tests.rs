use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;
use crate::publish::Protocol;
use crate::services::ServicePortName;

fn service(endpoints: &[&Arc<Endpoint>]) -> Arc<ServicePort> {
    let name = ServicePortName {
        namespace: String::new(),
        service: String::new(),
        port: String::new(),
        protocol: Protocol::Udp,
    };
    let service = Arc::new(ServicePort::new(name, None));
    route(&service, endpoints);
    service
}

fn route(service: &ServicePort, endpoints: &[&Arc<Endpoint>]) {
    service.set_routes(Routes {
        cluster: endpoints.iter().map(|one| Arc::clone(one)).collect(),
        ..Routes::default()
    });
}

fn address(number: u32) -> SocketAddr {
    SocketAddr::from(([10, 96, (number >> 8) as u8, number as u8], 53))
}

fn endpoint(number: u8) -> Arc<Endpoint> {
    Endpoint::new(SocketAddr::from(([10, 244, 0, number], 5353)))
}

fn seconds(from: Instant, seconds: u64) -> Instant {
    from + Duration::from_secs(seconds)
}

#[test]
fn a_flow_lasts_thirty_seconds_and_a_hundred_and_twenty_once_it_was_answered() {
    let one = endpoint(1);
    let (service, to, start) = (service(&[&one]), address(1), Instant::now());
    let mut flows = ServiceFlows::default();
    flows.begin(to, &service, &one, 8, start);
    assert!(flows.follow(to, &service, 8, seconds(start, 29)).is_some());
    assert!(flows.follow(to, &service, 8, seconds(start, 59)).is_none());

    flows.begin(to, &service, &one, 8, start);
    assert_eq!(flows.shown(one.address(), 4, seconds(start, 29)), to);
    assert!(flows.follow(to, &service, 8, seconds(start, 148)).is_some());
    // An answer keeps a flow alive as a question does.
    assert_eq!(flows.shown(one.address(), 4, seconds(start, 267)), to);
    let late = seconds(start, 387);
    assert_eq!(flows.shown(one.address(), 4, late), one.address());
    assert!(flows.follow(to, &service, 8, late).is_none());
    // Every flow has told its bytes: two datagrams, then two and two answers.
    let bytes = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(bytes(&one.counters().received_bytes), 32);
    assert_eq!(bytes(&one.counters().sent_bytes), 8);
}

#[test]
fn a_flow_ends_when_its_endpoint_leaves_the_routes_and_not_with_any_other_change() {
    let (one, two) = (endpoint(1), endpoint(2));
    let (service, to, now) = (service(&[&one]), address(1), Instant::now());
    let mut flows = ServiceFlows::default();
    flows.begin(to, &service, &one, 8, now);
    route(&service, &[&two, &one]);
    assert!(flows.follow(to, &service, 8, now).is_some());
    route(&service, &[&two]);
    assert!(flows.follow(to, &service, 8, now).is_none());
    assert_eq!(flows.shown(one.address(), 4, now), one.address());
}

#[test]
fn a_flow_ends_when_another_service_gets_its_address() {
    let one = endpoint(1);
    let (old, new, to) = (service(&[&one]), service(&[&one]), address(1));
    let mut flows = ServiceFlows::default();
    flows.begin(to, &old, &one, 8, Instant::now());
    assert!(flows.follow(to, &new, 8, Instant::now()).is_none());
}

/// A datagram does not tell which of two Services it answers for.
#[test]
fn answers_are_from_what_was_sent_to_last() {
    let one = endpoint(1);
    let (service, now) = (service(&[&one]), Instant::now());
    let mut flows = ServiceFlows::default();
    flows.begin(address(1), &service, &one, 8, now);
    assert!(!flows.is_taken(one.address(), address(1)));
    assert!(flows.is_taken(one.address(), address(2)));
    flows.begin(address(2), &service, &one, 8, now);
    assert_eq!(flows.shown(one.address(), 4, now), address(2));
    flows.follow(address(1), &service, 8, now);
    assert_eq!(flows.shown(one.address(), 4, now), address(1));
    flows.sent_directly(one.address());
    assert_eq!(flows.shown(one.address(), 4, now), one.address());
    // The other's end leaves this one's answers alone.
    flows.follow(address(1), &service, 8, now);
    flows.forget(address(2));
    assert_eq!(flows.shown(one.address(), 4, now), address(1));
}

#[test]
fn one_flow_too_many_takes_the_place_of_the_one_used_least_recently() {
    let one = endpoint(1);
    let (service, start) = (service(&[&one]), Instant::now());
    let mut flows = ServiceFlows::default();
    let at = |number: u32| start + Duration::from_millis(number.into());
    for number in 0..=SERVICE_FLOWS_MAX as u32 {
        flows.begin(address(number), &service, &one, 8, at(number));
    }
    assert_eq!(flows.by_service.len(), SERVICE_FLOWS_MAX);
    let now = at(2_000);
    assert!(flows.follow(address(0), &service, 8, now).is_none());
    assert!(flows.follow(address(1), &service, 8, now).is_some());
    // Those that are over go first, all of them.
    let late = at(31_500);
    flows.begin(address(3_000), &service, &one, 8, late);
    flows.begin(address(3_001), &service, &one, 8, late);
    assert!(flows.by_service.len() <= 3);
    assert!(flows.follow(address(1), &service, 8, late).is_some());
}

#[derive(Debug, Clone)]
enum Step {
    Begin { to: u32, endpoint: u8 },
    Follow { to: u32 },
    Answer { endpoint: u8 },
    Directly { endpoint: u8 },
    Forget { to: u32 },
    Pass { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (to, number) = (0..6_u32, 0..4_u8);
    prop_oneof![
        (to.clone(), number.clone()).prop_map(|(to, endpoint)| Step::Begin { to, endpoint }),
        to.clone().prop_map(|to| Step::Follow { to }),
        number
            .clone()
            .prop_map(|endpoint| Step::Answer { endpoint }),
        number.prop_map(|endpoint| Step::Directly { endpoint }),
        to.prop_map(|to| Step::Forget { to }),
        (0..100_u64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

proptest! {
    /// Whatever a socket sends and hears: an answer shows its own address or that of a Service with a
    /// flow to just this endpoint, and every datagram of a flow is counted once it is over.
    #[test]
    fn answers_and_flows_agree(steps in prop::collection::vec(step(), 0..200)) {
        let endpoints: Vec<_> = (0..4).map(endpoint).collect();
        let service = service(&endpoints.iter().collect::<Vec<_>>());
        let (mut flows, mut now) = (ServiceFlows::default(), Instant::now());
        let (mut asked, mut answered) = (0, 0);
        for step in steps {
            match step {
                Step::Begin { to, endpoint } => {
                    let endpoint = &endpoints[usize::from(endpoint)];
                    flows.begin(address(to), &service, endpoint, 1, now);
                    asked += 1;
                }
                Step::Follow { to } => {
                    asked += u64::from(flows.follow(address(to), &service, 1, now).is_some());
                }
                Step::Answer { endpoint } => {
                    let from = endpoints[usize::from(endpoint)].address();
                    let shown = flows.shown(from, 1, now);
                    let flow = flows.by_service.get(&shown);
                    prop_assert!(shown == from || flow.is_some_and(|f| f.endpoint.address() == from));
                    answered += u64::from(shown != from);
                }
                Step::Directly { endpoint } => {
                    let from = endpoints[usize::from(endpoint)].address();
                    flows.sent_directly(from);
                    prop_assert_eq!(flows.shown(from, 1, now), from);
                }
                Step::Forget { to } => flows.forget(address(to)),
                Step::Pass { seconds } => now += Duration::from_secs(seconds),
            }
            for (endpoint, to) in &flows.by_endpoint {
                prop_assert_eq!(flows.by_service[to].endpoint.address(), *endpoint);
            }
        }
        drop(flows);
        let total = |counter: fn(&Endpoint) -> &std::sync::atomic::AtomicU64| {
            let all = endpoints.iter().map(|one| counter(one).load(Ordering::Relaxed));
            all.sum::<u64>()
        };
        prop_assert_eq!(total(|one| &one.counters().received_bytes), asked);
        prop_assert_eq!(total(|one| &one.counters().sent_bytes), answered);
    }
}
