//! Messages of nftables: what a table of rules is made of, and the transactions that change it.
//!
//! Written out, for the libraries that know all of nftables are in C or unfinished, and this is all that is
//! ever said. The numbers are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel answers while it takes the message; were it to say nothing, nobody waits for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The kernel answers a listing in parts of at most 32 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const HEADER_BYTES: usize = 16;
/// The header of netfilter's own, `nfgenmsg`.
const FAMILY_BYTES: usize = 4;
const ATTRIBUTE_BYTES: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

/// Which messages there are, of those that are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
    NewSet = 9,
    NewElement = 12,
    DeleteElement = 14,
}

/// Attributes of a message, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

/// A change, of which several make a transaction.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    kind: Kind,
    attributes: Attributes,
}

/// A conversation with the kernel. What is owned by it goes with it.
#[derive(Debug)]
pub(crate) struct Netfilter {
    socket: OwnedFd,
    sequence: u32,
}

impl Attributes {
    /// Adds bytes.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_BYTES + value.len());
        let length = length.expect("what is told to the kernel here is short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a name.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds a number, as netfilter wants them.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds further attributes under one.
    pub(crate) fn nested(self, kind: u16, inner: &Attributes) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    /// Adds an element of a list.
    pub(crate) fn element(self, inner: &Attributes) -> Self {
        self.nested(NFTA_LIST_ELEM, inner)
    }

    /// Adds an expression of a rule.
    pub(crate) fn expression(self, name: &str, data: &Attributes) -> Self {
        let named = Attributes::default().text(NFTA_EXPR_NAME, name);
        self.element(&named.nested(NFTA_EXPR_DATA, data))
    }

    /// Adds a value that is compared with, or taken.
    pub(crate) fn value(self, kind: u16, value: &[u8]) -> Self {
        self.nested(kind, &Attributes::default().bytes(NFTA_DATA_VALUE, value))
    }

    /// Adds what becomes of a packet.
    pub(crate) fn verdict(self, kind: u16, verdict: u32) -> Self {
        let code = Attributes::default().number(NFTA_VERDICT_CODE, verdict);
        let verdict = Attributes::default().nested(NFTA_DATA_VERDICT, &code);
        self.nested(kind, &verdict)
    }
}

impl Kind {
    fn flags(self) -> u16 {
        match self {
            Kind::NewTable | Kind::NewChain | Kind::NewSet | Kind::NewElement => NLM_F_CREATE,
            Kind::NewRule => NLM_F_CREATE | NLM_F_APPEND,
            Kind::GetTable => NLM_F_DUMP,
            Kind::DeleteTable | Kind::DeleteElement => 0,
        }
    }

    fn number(self) -> u16 {
        (NFNL_SUBSYS_NFTABLES << 8) | self as u16
    }
}

impl Change {
    /// Returns a change of a table of both families.
    pub(crate) fn new(kind: Kind, attributes: Attributes) -> Change {
        Change { kind, attributes }
    }
}

/// The family of a table for IPv4 and IPv6, `NFPROTO_INET`.
const INET: u8 = 1;

impl Netfilter {
    /// Opens a socket.
    pub(crate) fn open() -> io::Result<Netfilter> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Netfilter {
            socket,
            sequence: 0,
        })
    }

    /// Makes all of these changes, or none.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut messages = Vec::new();
        let begun = self.next();
        let subsystem = u32::from(NFNL_SUBSYS_NFTABLES);
        let frame = |messages: &mut Vec<u8>, kind, flags, sequence| {
            let header = family_header(0, subsystem as u16);
            message(messages, kind, flags, sequence, &[&header]);
        };
        frame(&mut messages, NFNL_MSG_BATCH_BEGIN, 0, begun);
        let mut last = begun;
        for (number, change) in changes.iter().enumerate() {
            last = self.next();
            let ack = match number + 1 == changes.len() {
                true => NLM_F_ACK,
                false => 0,
            };
            let header = family_header(INET, 0);
            let body: [&[u8]; 2] = [&header, &change.attributes.0];
            let flags = change.kind.flags() | ack;
            message(&mut messages, change.kind.number(), flags, last, &body);
        }
        let end = self.next();
        frame(&mut messages, NFNL_MSG_BATCH_END, 0, end);
        self.send(&messages)?;
        self.acknowledged(begun, last)
    }

    /// Lists what there is: the attributes of each.
    pub(crate) fn list(&mut self, kind: Kind) -> io::Result<Vec<Vec<u8>>> {
        let sequence = self.next();
        let mut request = Vec::new();
        let header = family_header(INET, 0);
        message(
            &mut request,
            kind.number(),
            kind.flags(),
            sequence,
            &[&header],
        );
        self.send(&request)?;
        let mut listed = Vec::new();
        self.receive(|kind, of, body| {
            if of != sequence {
                return None;
            }
            match kind {
                NLMSG_DONE => Some(Ok(())),
                NLMSG_ERROR => Some(told(body)),
                _ => {
                    listed.extend(body.get(FAMILY_BYTES..).map(<[u8]>::to_vec));
                    None
                }
            }
        })?;
        Ok(listed)
    }

    /// Waits for the answer to the last change, or to the whole transaction. Errors of earlier ones come
    /// before it.
    fn acknowledged(&self, begun: u32, last: u32) -> io::Result<()> {
        let mut failed = None;
        self.receive(|kind, of, body| {
            if kind != NLMSG_ERROR || !(begun..=last).contains(&of) {
                return None;
            }
            let told = told(body);
            match failed.take() {
                Some(earlier) if of == last => Some(Err(earlier)),
                Some(earlier) => {
                    failed = Some(earlier);
                    None
                }
                None if of == last || of == begun => Some(told),
                None => {
                    failed = told.err();
                    None
                }
            }
        })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, messages: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, messages, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Gives each message to `each`, by its kind, number and body, until that says that it was the last.
    fn receive(
        &self,
        mut each: impl FnMut(u16, u32, &[u8]) -> Option<io::Result<()>>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let received = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty());
            let (bytes, _) = received.map_err(|error| match error {
                rustix::io::Errno::AGAIN => io::ErrorKind::TimedOut.into(),
                error => io::Error::from(error),
            })?;
            let mut rest = &buffer[..bytes];
            while let Some((kind, sequence, body)) = next_message(&mut rest) {
                if let Some(outcome) = each(kind, sequence, body) {
                    return outcome;
                }
            }
        }
    }
}

fn family_header(family: u8, resource: u16) -> [u8; FAMILY_BYTES] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message(messages: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[&[u8]]) {
    let body = body.concat();
    let length = u32::try_from(HEADER_BYTES + body.len()).expect("a message is short");
    messages.extend(length.to_ne_bytes());
    messages.extend(kind.to_ne_bytes());
    messages.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    messages.extend(sequence.to_ne_bytes());
    messages.extend(0u32.to_ne_bytes());
    messages.extend(body);
    messages.resize(messages.len().next_multiple_of(4), 0);
}

/// Returns what an acknowledgement says.
fn told(body: &[u8]) -> io::Result<()> {
    match body.first_chunk() {
        Some(code) => match i32::from_ne_bytes(*code) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        },
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Takes the first message off: its kind, its number, its body.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
    let body = rest.get(HEADER_BYTES..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((kind, sequence, body))
}

/// Returns an attribute that is a name.
pub(crate) fn text(attributes: &[u8], wanted: u16) -> Option<String> {
    let mut rest = attributes;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(ATTRIBUTE_BYTES..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            let value = value.strip_suffix(&[0]).unwrap_or(value);
            return String::from_utf8(value.to_vec()).ok();
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_among_the_attributes() {
        let inner = Attributes::default().number(1, 7);
        let attributes = Attributes::default().nested(4, &inner).text(1, "name");
        assert_eq!(text(&attributes.0, 1).as_deref(), Some("name"));
        assert_eq!(text(&attributes.0, 2), None);
        assert_eq!(text(&attributes.0[..9], 1), None);
    }

    #[test]
    fn an_answer_is_read_as_it_is_written() {
        let mut messages = Vec::new();
        message(&mut messages, NLMSG_ERROR, 0, 9, &[&(-1i32).to_ne_bytes()]);
        message(&mut messages, NLMSG_DONE, 0, 10, &[]);
        let mut rest = &messages[..];
        let (kind, sequence, body) = next_message(&mut rest).expect("one");
        assert_eq!((kind, sequence), (NLMSG_ERROR, 9));
        let error = told(body).expect_err("it says so");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let (kind, sequence, body) = next_message(&mut rest).expect("another");
        assert_eq!((kind, sequence, body), (NLMSG_DONE, 10, &[][..]));
        assert_eq!(next_message(&mut rest), None);
    }
}
