//! Two options of sockets that no library reads or sets safely.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Where `struct tcp_info` has `tcpi_min_rtt`, in microseconds, since Linux 4.6.
const MIN_RTT_OFFSET: usize = 148;
const MIN_RTT_BYTES: usize = 4;

/// Lets a socket be given what is for other addresses than its own (`IP_TRANSPARENT`); those that it
/// accepts inherit it. The option is the same for both families.
///
/// # Errors
///
/// Fails for who has neither `CAP_NET_ADMIN` nor `CAP_NET_RAW` in the network's namespace of users.
#[expect(unsafe_code, reason = "this option has no safe wrapper for IPv6")]
pub fn make_transparent(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is borrowed for as long as the call takes, and the kernel reads as many bytes
    // of the number as it is told.
    let returned = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_IP,
            libc::IP_TRANSPARENT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match returned {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns the shortest round trip that the kernel has seen on a TCP connection in the last minutes: how
/// far away the other side is.
///
/// # Errors
///
/// Fails for what is no TCP socket; `Unsupported` where the kernel does not tell, or has seen none yet.
#[expect(unsafe_code, reason = "this option has no safe wrapper")]
pub fn shortest_round_trip(socket: impl AsFd) -> io::Result<Duration> {
    let mut told = [0u8; MIN_RTT_OFFSET + MIN_RTT_BYTES];
    let mut length = told.len() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for as long as the call takes, and the kernel writes no more bytes
    // than `length` says, all of them to `told`, which is borrowed mutably.
    let returned = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            told.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if returned != 0 {
        return Err(io::Error::last_os_error());
    }
    let [.., a, b, c, d] = told;
    match u32::from_ne_bytes([a, b, c, d]) {
        _ if (length as usize) < told.len() => Err(io::ErrorKind::Unsupported.into()),
        u32::MAX => Err(io::ErrorKind::Unsupported.into()),
        micros => Ok(Duration::from_micros(micros.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_connection_of_this_machine_is_short_and_a_socket_of_udp_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let at = listener.local_addr().expect("bound");
        let began = std::time::Instant::now();
        let _client = TcpStream::connect(at).expect("it listens");
        let (accepted, _) = listener.accept().expect("somebody connects");
        let round_trip = shortest_round_trip(&accepted).expect("the handshake is one");
        assert!(round_trip <= began.elapsed(), "{round_trip:?}");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        shortest_round_trip(&udp).expect_err("there are no round trips");
    }
}
