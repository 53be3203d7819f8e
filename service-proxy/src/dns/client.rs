//! Asks name servers: over UDP from a port of its own for each question, over TCP when the answer was
//! cut. An answer counts only if it comes from whom was asked and repeats number and question.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use coracle_network::{LookUp, NameClient, NetError, PodNetwork};
use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use super::road::{Road, is_of_machine, read_message, write_message};
use super::wire;

/// The port of name servers.
const PORT: u16 = 53;

/// How long one server has for one answer, and how often all are asked. Resolvers give 5 seconds
/// (resolv.conf(5)); a client behind us waits for the sum.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;

/// Datagrams looked at for one answer: others may send what we did not ask for.
const STRAYS_MAX: usize = 64;

/// Aliases followed inside one answer.
const ALIASES_MAX: usize = 16;

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// A question could not be written.
    #[error("the question cannot be written")]
    Question(#[source] hickory_proto::ProtoError),
    /// It did not answer in time.
    #[error("name server `{0}` did not answer in time")]
    TimedOut(SocketAddr),
    /// It answered what cannot be read.
    #[error("name server `{0}` gave an answer that cannot be read")]
    Unreadable(SocketAddr),
    /// It could not be reached.
    #[error("failed to reach name server `{server}`")]
    Unreachable {
        server: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// There is none.
    #[error("there is no name server to ask")]
    Nobody,
}

/// A client for the fabric.
#[derive(Debug)]
pub(crate) struct DnsClient {
    node: Ipv4Addr,
}

impl DnsClient {
    /// Returns a client; `node` is the node's address in the fabric.
    pub(crate) fn new(node: Ipv4Addr) -> DnsClient {
        DnsClient { node }
    }
}

impl NameClient for DnsClient {
    fn look_up<'a>(
        &'a self,
        from: &'a PodNetwork,
        servers: &'a [IpAddr],
        name: &'a str,
    ) -> LookUp<'a> {
        Box::pin(async move {
            let is_node = from.ip() == self.node;
            let question = |kind| wire::name(name).map(|name| Query::query(name, kind));
            let (Some(v4), Some(v6)) = (question(RecordType::A), question(RecordType::AAAA)) else {
                return Err(NetError::InvalidArgument);
            };
            let ways = ways(servers, from, is_node);
            let (v4, v6) = tokio::join!(ask(&ways, &v4), ask(&ways, &v6));
            addresses([v4, v6])
        })
    }
}

/// A server and the road to it.
pub(crate) type Way<'a> = (Road<'a>, SocketAddr);

/// Returns the roads to servers from a place in the fabric. The node reaches what only its machine
/// reaches by the machine's own.
pub(crate) fn ways<'a>(servers: &[IpAddr], from: &'a PodNetwork, is_node: bool) -> Vec<Way<'a>> {
    let way = |server: &IpAddr| {
        let road = match is_node && is_of_machine(*server) {
            true => Road::Kernel,
            false => Road::Fabric(from),
        };
        (road, SocketAddr::new(*server, PORT))
    };
    servers.iter().map(way).collect()
}

/// Asks the servers in turn until one knows, or knows that there is nothing to know. Otherwise the last
/// answer, or why there is none.
pub(crate) async fn ask(ways: &[Way<'_>], question: &Query) -> Result<Message, AskError> {
    let mut outcome = Err(AskError::Nobody);
    for _ in 0..ROUNDS {
        for (road, server) in ways {
            match exchange(*road, *server, question).await {
                Ok(answer) if is_final(answer.metadata.response_code) => return Ok(answer),
                Ok(answer) => outcome = Ok(answer),
                Err(error) => {
                    tracing::debug!(%server, %error, "a name server gave no answer");
                    if outcome.is_err() {
                        outcome = Err(error);
                    }
                }
            }
        }
    }
    outcome
}

fn is_final(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// Asks one server.
async fn exchange(
    road: Road<'_>,
    server: SocketAddr,
    question: &Query,
) -> Result<Message, AskError> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(question.clone());
    request.set_edns(wire::extension());
    let bytes = request.to_vec().map_err(AskError::Question)?;
    let by_udp = by_udp(road, server, &request, &bytes);
    let answer = within(server, by_udp).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    within(server, by_tcp(road, server, &request, &bytes)).await
}

async fn within<T>(
    server: SocketAddr,
    asking: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    tokio::time::timeout(ANSWER_TIMEOUT, asking)
        .await
        .unwrap_or(Err(AskError::TimedOut(server)))
}

async fn by_udp(
    road: Road<'_>,
    server: SocketAddr,
    request: &Message,
    bytes: &[u8],
) -> Result<Message, AskError> {
    let unreachable = |source| AskError::Unreachable { server, source };
    let socket = road.bind(server).await.map_err(unreachable)?;
    socket.send(bytes, server).await.map_err(unreachable)?;
    let mut buffer = [0; wire::UDP_BYTES_MAX];
    for _ in 0..STRAYS_MAX {
        let (length, from) = socket.receive(&mut buffer).await.map_err(unreachable)?;
        if from.ip().to_canonical() != server.ip().to_canonical() || from.port() != server.port() {
            continue;
        }
        if let Some(answer) = read(&buffer[..length], request) {
            return Ok(answer);
        }
    }
    Err(AskError::Unreadable(server))
}

async fn by_tcp(
    road: Road<'_>,
    server: SocketAddr,
    request: &Message,
    bytes: &[u8],
) -> Result<Message, AskError> {
    let unreachable = |source| AskError::Unreachable { server, source };
    let mut stream = road.connect(server).await.map_err(unreachable)?;
    write_message(&mut *stream, bytes)
        .await
        .map_err(unreachable)?;
    let answer = read_message(&mut *stream, wire::TCP_BYTES_MAX).await;
    let answer = answer.map_err(unreachable)?;
    answer
        .and_then(|bytes| read(&bytes, request))
        .ok_or(AskError::Unreadable(server))
}

/// Reads an answer, if it is one to the request.
pub(crate) fn read(bytes: &[u8], request: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_answer = answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == request.metadata.id
        && answer.queries == request.queries;
    is_answer.then_some(answer)
}

/// Returns all addresses in the answers, as one outcome.
fn addresses(answers: [Result<Message, AskError>; 2]) -> Result<Vec<IpAddr>, NetError> {
    let mut found = Vec::new();
    let mut is_known = true;
    for answer in &answers {
        match answer {
            Ok(answer) if is_final(answer.metadata.response_code) => {
                found.extend(addresses_in(answer));
            }
            Ok(_) | Err(_) => is_known = false,
        }
    }
    match (found.is_empty(), is_known) {
        (false, _) => Ok(found),
        (true, true) => Err(NetError::NameNotFound),
        (true, false) => Err(NetError::ResolverUnavailable),
    }
}

/// Returns the addresses of the name that was asked and of its aliases; what else is in an answer is
/// nobody's business.
fn addresses_in(answer: &Message) -> Vec<IpAddr> {
    let Some(question) = answer.queries.first() else {
        return Vec::new();
    };
    let mut name = &question.name;
    for _ in 0..ALIASES_MAX {
        let alias = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name => Some(&target.0),
            _ => None,
        });
        match alias {
            Some(target) => name = target,
            None => break,
        }
    }
    let records = answer.answers.iter().filter(|record| record.name == *name);
    let addresses = records.filter_map(|record| match &record.data {
        RData::A(ip) => Some(IpAddr::V4(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::V6(ip.0).to_canonical()),
        _ => None,
    });
    addresses.collect()
}
