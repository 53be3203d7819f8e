//! The network's failures as a guest is told them.

use coracle_network::NetError;
use std::io;
use wasmtime_wasi::p2::SocketError;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

/// Returns the one error code for a failure.
pub(super) fn code_of(error: &NetError) -> ErrorCode {
    match error {
        NetError::AddressInUse => ErrorCode::AddressInUse,
        NetError::AddressNotAvailable => ErrorCode::AddressNotBindable,
        NetError::ConnectionRefused => ErrorCode::ConnectionRefused,
        NetError::ConnectionReset => ErrorCode::ConnectionReset,
        NetError::ConnectionAborted => ErrorCode::ConnectionAborted,
        // A detached pod's network is down, which has no code of its own.
        NetError::Unreachable | NetError::Detached => ErrorCode::RemoteUnreachable,
        NetError::AccessDenied => ErrorCode::AccessDenied,
        NetError::NameNotFound => ErrorCode::NameUnresolvable,
        NetError::ResolverUnavailable => ErrorCode::TemporaryResolverFailure,
        NetError::InvalidArgument => ErrorCode::InvalidArgument,
        NetError::DatagramTooLarge => ErrorCode::DatagramTooLarge,
        NetError::TimedOut => ErrorCode::Timeout,
        NetError::NotSupported => ErrorCode::NotSupported,
        NetError::Limit(_) => ErrorCode::NewSocketLimit,
        NetError::Io(source) => source.into(),
        _ => ErrorCode::Unknown,
    }
}

/// Returns the error code for a failure that may carry one of the network's.
pub(super) fn code_of_io(error: &io::Error) -> ErrorCode {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<NetError>())
    {
        Some(own) => code_of(own),
        None => error.into(),
    }
}

pub(super) fn refuse(error: NetError) -> SocketError {
    code_of(&error).into()
}

pub(super) fn refuse_io(error: io::Error) -> SocketError {
    code_of_io(&error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_code_on_its_way_through_an_io_error() {
        let errors = [
            (NetError::AddressInUse, ErrorCode::AddressInUse),
            (NetError::Unreachable, ErrorCode::RemoteUnreachable),
            (NetError::Limit("sockets"), ErrorCode::NewSocketLimit),
            (NetError::DatagramTooLarge, ErrorCode::DatagramTooLarge),
            (NetError::NameNotFound, ErrorCode::NameUnresolvable),
            (
                NetError::ResolverUnavailable,
                ErrorCode::TemporaryResolverFailure,
            ),
            (
                NetError::Io(io::ErrorKind::WouldBlock.into()),
                ErrorCode::WouldBlock,
            ),
        ];
        for (error, code) in errors {
            assert_eq!(code_of(&error), code);
            assert_eq!(code_of_io(&io::Error::from(error)), code);
        }
    }
}
