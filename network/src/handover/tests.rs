use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::stream::kernel::KERNEL_SOCKETS_PER_POD_MAX;
use crate::{Fabric, FabricConfig, PublishPlan};

/// One pod must not use up the descriptors of the process, however many clients come to it.
#[test]
fn a_stream_that_waits_counts_among_the_kernel_sockets_of_its_pod() {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(config).expect("the default layout is valid");
    let host = fabric.host();
    let to = SocketAddr::from((host.ip(), 80));
    let port = host.reserve_tcp(to).expect("free");
    let listener = host.listen(port, 16).expect("reserved");
    let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("free");
    let address = outside.local_addr().expect("bound");
    let _client = TcpStream::connect(address).expect("it listens");
    let (tcp, peer) = outside.accept().expect("a connection waits");
    let handed = HandedStream {
        tcp,
        peer,
        endpoint: None,
        give_back: Arc::new(drop),
    };
    let mut places = Vec::new();
    while let Ok(place) = host.pod().kernel_count().take() {
        places.push(place);
    }
    assert_eq!(places.len(), KERNEL_SOCKETS_PER_POD_MAX);
    let error = fabric.hand_over(to, handed).expect_err("no place is left");
    assert_eq!(error.reason, HandOverRefusal::Full);
    places.pop();
    fabric.hand_over(to, error.handed).expect("one is left");
    assert!(host.pod().kernel_count().take().is_err());
    drop(listener);
    assert!(
        host.pod().kernel_count().take().is_ok(),
        "it was given back"
    );
}
