//! What can go wrong on a pod's network, in the classes a guest is told.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use crate::platform;

/// A failure a guest sees; each variant has one counterpart among the error codes of
/// `wasi:sockets`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The port is held by another socket of the pod.
    #[error("address in use")]
    AddressInUse,
    /// The address is none of the pod's own.
    #[error("address not available")]
    AddressNotAvailable,
    /// Nothing listens at the address.
    #[error("connection refused")]
    ConnectionRefused,
    /// The other side ended the connection, or the pod was detached.
    #[error("connection reset")]
    ConnectionReset,
    /// The connection ended before it was established or accepted.
    #[error("connection aborted")]
    ConnectionAborted,
    /// No pod and no route has the address.
    #[error("remote unreachable")]
    Unreachable,
    /// The egress rules close the address to guests.
    #[error("access denied")]
    AccessDenied,
    /// Nobody knows the name.
    #[error("name not found")]
    NameNotFound,
    /// The host's resolver did not answer; asking again may help.
    #[error("the resolver failed temporarily")]
    ResolverUnavailable,
    /// The argument can never be valid here.
    #[error("invalid argument")]
    InvalidArgument,
    /// The datagram is longer than one can be.
    #[error("datagram too large")]
    DatagramTooLarge,
    /// The network did not answer in time.
    #[error("timed out")]
    TimedOut,
    /// The operation does not exist on this network.
    #[error("not supported")]
    NotSupported,
    /// The pod was detached from the network.
    #[error("the pod is detached")]
    Detached,
    /// A named limit of the pod or the fabric is reached.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// The kernel failed in a way of its own.
    #[error("the host's network failed")]
    Io(#[source] io::Error),
}

impl NetError {
    fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind as K;
        match self {
            NetError::AddressInUse => K::AddrInUse,
            NetError::AddressNotAvailable => K::AddrNotAvailable,
            NetError::ConnectionRefused => K::ConnectionRefused,
            NetError::ConnectionReset => K::ConnectionReset,
            NetError::ConnectionAborted => K::ConnectionAborted,
            NetError::Unreachable => K::HostUnreachable,
            NetError::AccessDenied => K::PermissionDenied,
            NetError::NameNotFound => K::NotFound,
            NetError::ResolverUnavailable => K::ResourceBusy,
            NetError::InvalidArgument | NetError::DatagramTooLarge => K::InvalidInput,
            NetError::TimedOut => K::TimedOut,
            NetError::NotSupported => K::Unsupported,
            NetError::Detached => K::NetworkDown,
            NetError::Limit(_) => K::QuotaExceeded,
            NetError::Io(source) => source.kind(),
        }
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> io::Error {
        match error {
            NetError::Io(source) => source,
            error => io::Error::new(error.kind(), error),
        }
    }
}

impl From<io::Error> for NetError {
    /// Recovers the class of an error that left this crate as [`io::Error`], or names that of the
    /// kernel.
    fn from(error: io::Error) -> NetError {
        use io::ErrorKind as K;
        let error = match error.downcast::<NetError>() {
            Ok(own) => return own,
            Err(error) => error,
        };
        match error.kind() {
            K::AddrInUse => NetError::AddressInUse,
            K::AddrNotAvailable => NetError::AddressNotAvailable,
            K::ConnectionRefused => NetError::ConnectionRefused,
            K::ConnectionReset | K::BrokenPipe => NetError::ConnectionReset,
            K::ConnectionAborted => NetError::ConnectionAborted,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => NetError::Unreachable,
            K::PermissionDenied => NetError::AccessDenied,
            K::InvalidInput => NetError::InvalidArgument,
            K::TimedOut => NetError::TimedOut,
            K::Unsupported => NetError::NotSupported,
            _ if platform::is_exhausted(&error) => NetError::Limit("host sockets of the process"),
            _ => NetError::Io(error),
        }
    }
}

/// Why a fabric could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// The pod CIDR holds too few or absurdly many addresses.
    #[error("pod CIDR `{cidr}` must have a prefix from /{shortest} to /{longest}")]
    CidrSize {
        /// The range as configured.
        cidr: ipnet::Ipv4Net,
        /// The shortest prefix served.
        shortest: u8,
        /// The longest prefix served.
        longest: u8,
    },
    /// The pod CIDR lies where a pod's own loopback, link-local or multicast addresses are.
    #[error("pod CIDR `{cidr}` overlaps the reserved range `{reserved}`")]
    CidrReserved {
        /// The range as configured.
        cidr: ipnet::Ipv4Net,
        /// The range it touches.
        reserved: ipnet::Ipv4Net,
    },
    /// The range of second addresses is none that pods can have.
    #[error(
        "the range {range} is not of unique local or global addresses, or has too few for those of {cidr}"
    )]
    Cidr6 {
        /// The range.
        range: ipnet::Ipv6Net,
        /// That of IPv4.
        cidr: ipnet::Ipv4Net,
    },
    /// The cluster domain is no DNS name.
    #[error("cluster domain `{domain}` is not a DNS name")]
    ClusterDomain {
        /// The domain as configured.
        domain: String,
    },
}

/// Why a pod could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Every address of the pod CIDR is taken.
    #[error("no free address is left in pod CIDR `{cidr}`")]
    NoAddress {
        /// The range that is full.
        cidr: ipnet::Ipv4Net,
    },
    /// A pod of the same UID is attached already.
    #[error("pod `{uid}` is attached already at `{ip}`")]
    AlreadyAttached {
        /// The pod's UID.
        uid: String,
        /// Where it is.
        ip: Ipv4Addr,
    },
}

/// Why a port could not be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Another program, or another publication of ours, holds the host port.
    #[error("host port `{address}` is in use")]
    PortInUse {
        /// The address and port asked for.
        address: SocketAddr,
    },
    /// This user may not bind the host port.
    #[error("host port `{address}` may not be bound by this user")]
    PortForbidden {
        /// The address and port asked for.
        address: SocketAddr,
    },
    /// The host has no such address.
    #[error("host address `{address}` is none of this machine's")]
    AddressNotLocal {
        /// The address and port asked for.
        address: SocketAddr,
    },
    /// The fabric publishes nothing on loopback.
    #[error("this network publishes no ports on loopback")]
    Nowhere,
    /// Every address of the claimed loopback block is taken.
    #[error("no loopback address is left to publish on")]
    NoAddress,
    /// The pod publishes too many ports.
    #[error("the pod publishes the most ports allowed, {limit}")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Port 0 was named.
    #[error("port 0 cannot be published")]
    PortZero,
    /// The pod is no longer attached.
    #[error("the pod is detached")]
    Detached,
    /// The kernel refused the socket for another reason.
    #[error("failed to bind host port `{address}`")]
    Bind {
        /// The address and port asked for.
        address: SocketAddr,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_survives_the_way_through_an_io_error() {
        fn check(error: NetError) {
            let text = format!("{error:?}");
            let kind = error.kind();
            let carried = io::Error::from(error);
            assert_eq!(carried.kind(), kind);
            assert_eq!(format!("{:?}", NetError::from(carried)), text);
        }
        check(NetError::AddressInUse);
        check(NetError::ConnectionRefused);
        check(NetError::DatagramTooLarge);
        check(NetError::Detached);
        check(NetError::InvalidArgument);
        check(NetError::Limit("ports of a pod"));
        check(NetError::NameNotFound);
        check(NetError::ResolverUnavailable);
    }

    #[test]
    fn the_kernels_reasons_have_classes_too() {
        fn check(kind: io::ErrorKind, expected: NetError) {
            let found = NetError::from(io::Error::from(kind));
            assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        }
        check(io::ErrorKind::NetworkUnreachable, NetError::Unreachable);
        check(io::ErrorKind::BrokenPipe, NetError::ConnectionReset);
        check(io::ErrorKind::PermissionDenied, NetError::AccessDenied);
        check(io::ErrorKind::TimedOut, NetError::TimedOut);
        let other = NetError::from(io::Error::other("something else"));
        assert!(matches!(other, NetError::Io(_)));
    }
}
