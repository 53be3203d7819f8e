//! The name servers of the machine, from `/etc/resolv.conf`.

use std::net::IpAddr;

/// What resolvers read at most (resolv.conf(5)).
pub(crate) const SERVERS_MAX: usize = 3;

/// Returns the name servers a file names, in order. An address with a zone (`fe80::1%eth0`) is left out:
/// sockets of other interfaces could not reach it.
pub(crate) fn servers(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some("nameserver") = words.next() else {
            continue;
        };
        let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let Some(server) = server.map(|server| server.to_canonical()) else {
            continue;
        };
        if !servers.contains(&server) && servers.len() < SERVERS_MAX {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_servers_of_the_file_are_asked_in_order() {
        let text = "# nameserver 192.0.2.9\n; x\nsearch lan\nnameserver 192.0.2.1\n\
            nameserver fe80::1%eth0\nnameserver bad\nnameserver\n  nameserver\t2001:db8::1 \n\
            nameserver 192.0.2.1\nnameserver 192.0.2.3\nnameserver 192.0.2.4\noptions ndots:5";
        let expected = ["192.0.2.1", "2001:db8::1", "192.0.2.3"];
        let expected = expected.map(|ip| ip.parse::<IpAddr>().expect("an address"));
        assert_eq!(servers(text), expected);
        assert!(servers("").is_empty());
    }
}
