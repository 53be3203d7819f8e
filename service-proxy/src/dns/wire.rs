//! Between the records of the zone and messages of DNS: the only place that knows both.

use hickory_proto::op::{Edns, Message, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record as WireRecord, RecordType};

use coracle_network::{Authority, Record, RecordKind, TTL_SECONDS};

/// The longest message over UDP, which passes every path of the internet in one piece (DNS flag day
/// 2020). Longer ones are asked for again over TCP.
pub(crate) const UDP_BYTES_MAX: usize = 1232;

/// The longest message over UDP to a client that does not say what it takes (RFC 1035).
const UDP_BYTES_PLAIN: usize = 512;

/// The longest message over TCP, which its length prefix allows.
pub(crate) const TCP_BYTES_MAX: usize = 65_535;

/// The header of a message.
pub(crate) const HEADER_BYTES: usize = 12;

/// How an answer travels, which bounds its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// In one datagram.
    Udp,
    /// In a stream, behind its length.
    Tcp,
}

/// Returns the kind of records a type of the wire stands for.
pub(crate) fn kind(of: RecordType) -> RecordKind {
    match of {
        RecordType::A => RecordKind::A,
        RecordType::AAAA => RecordKind::Aaaa,
        RecordType::SRV => RecordKind::Srv,
        RecordType::PTR => RecordKind::Ptr,
        RecordType::CNAME => RecordKind::Cname,
        RecordType::TXT => RecordKind::Txt,
        RecordType::SOA => RecordKind::Soa,
        RecordType::NS => RecordKind::Ns,
        _ => RecordKind::Other,
    }
}

/// Returns a name as the zone has it; nothing if it is none that DNS can carry.
pub(crate) fn name(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

/// Returns a record of the zone as one of the wire; nothing if a name in it cannot be carried.
pub(crate) fn record(owner: &Name, record: &Record) -> Option<WireRecord> {
    let data = match record {
        Record::Address(std::net::IpAddr::V4(ip)) => RData::A(A(*ip)),
        Record::Address(std::net::IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Record::Port {
            weight,
            port,
            target,
        } => RData::SRV(SRV::new(0, *weight, *port, name(target)?)),
        Record::Pointer(target) => RData::PTR(PTR(name(target)?)),
        Record::Text(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Record::Authority(of) => authority_data(of)?,
        Record::Server(server) => RData::NS(NS(name(server)?)),
    };
    Some(WireRecord::from_rdata(owner.clone(), TTL_SECONDS, data))
}

/// Returns the record of an alias.
pub(crate) fn alias(owner: &Name, target: &Name) -> WireRecord {
    let data = RData::CNAME(CNAME(target.clone()));
    WireRecord::from_rdata(owner.clone(), TTL_SECONDS, data)
}

/// Returns the start of authority as a record of its own zone.
pub(crate) fn authority(of: &Authority) -> Option<WireRecord> {
    let owner = name(&of.zone)?;
    Some(WireRecord::from_rdata(
        owner,
        TTL_SECONDS,
        authority_data(of)?,
    ))
}

fn authority_data(of: &Authority) -> Option<RData> {
    // For secondary servers, of which there are none; the values others serve clusters with.
    const REFRESH_SECONDS: i32 = 7200;
    const RETRY_SECONDS: i32 = 1800;
    const EXPIRE_SECONDS: i32 = 86_400;
    Some(RData::SOA(SOA::new(
        name(&of.server)?,
        name(&of.mailbox)?,
        of.serial,
        REFRESH_SECONDS,
        RETRY_SECONDS,
        EXPIRE_SECONDS,
        TTL_SECONDS,
    )))
}

/// Returns the extension record of our messages.
pub(crate) fn extension() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX as u16);
    edns
}

/// Writes an answer so that it fits: without what only helps, then with fewer records and marked as
/// cut. `asked` is the extension record of the request.
pub(crate) fn fit(mut answer: Message, asked: Option<&Edns>, transport: Transport) -> Vec<u8> {
    let limit = match (transport, asked) {
        (Transport::Tcp, _) => TCP_BYTES_MAX,
        (Transport::Udp, None) => UDP_BYTES_PLAIN,
        (Transport::Udp, Some(edns)) => {
            usize::from(edns.max_payload()).clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX)
        }
    };
    if let Some(bytes) = written(&answer, limit) {
        return bytes;
    }
    answer.additionals.clear();
    if let Some(bytes) = written(&answer, limit) {
        return bytes;
    }
    answer.metadata.truncation = true;
    answer.authorities.clear();
    let all = std::mem::take(&mut answer.answers);
    let (mut fits, mut beyond) = (0, all.len());
    let mut best = None;
    while fits + 1 < beyond {
        let count = fits.midpoint(beyond);
        answer.answers = all[..count].to_vec();
        match written(&answer, limit) {
            Some(bytes) => (fits, best) = (count, Some(bytes)),
            None => beyond = count,
        }
    }
    answer.answers.clear();
    best.or_else(|| written(&answer, limit))
        .unwrap_or_else(|| refusal(&answer.metadata, ResponseCode::ServFail))
}

/// Writes an answer without a question and records.
pub(crate) fn refusal(request: &Metadata, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::error_msg(request.id, request.op_code, code);
    message.metadata.recursion_desired = request.recursion_desired;
    message.metadata.recursion_available = true;
    message.to_vec().unwrap_or_default()
}

fn written(answer: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    // The writer itself cuts at what a stream takes and says so.
    let is_cut = bytes.get(2).is_some_and(|flags| flags & 0x02 != 0);
    (bytes.len() <= limit && is_cut == answer.metadata.truncation).then_some(bytes)
}
