use super::*;

fn route(destination: &str, device: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        device: Some(device.to_owned()),
        is_tagged: false,
    }
}

#[test]
fn a_range_that_overlaps_a_route_is_refused_by_name() {
    let routes = [
        route("0.0.0.0/0", "eth0"),
        route("::/0", "eth0"),
        route("192.0.2.0/24", "eth0"),
        route("10.96.5.0/24", "wg0"),
        route("172.16.0.0/12", "docker0"),
    ];
    let table = [
        ("10.97.0.0/16", None),
        ("fd00:10::/108", None),
        ("10.96.0.0/16", Some("10.96.5.0/24 dev wg0")),
        ("10.96.5.128/25", Some("10.96.5.0/24 dev wg0")),
        ("172.20.0.0/16", Some("172.16.0.0/12 dev docker0")),
        ("192.0.2.0/24", Some("192.0.2.0/24 dev eth0")),
    ];
    for (range, expected) in table {
        let told = match check_overlap(&[range.parse().unwrap()], &routes) {
            Ok(()) => None,
            Err(RouteError::Overlaps { route, .. }) => Some(route),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(told.as_deref(), expected, "{range}");
    }
}

#[test]
fn a_range_is_claimed_by_one_process_at_a_time() {
    let range = "10.200.0.0/24".parse().unwrap();
    let first = claim(range).expect("free");
    assert!(claim(range).is_none());
    drop(first);
    assert!(claim(range).is_some());
}
