//! What a request is answered, as far as the zone knows: pure.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record as WireRecord, RecordType};

use coracle_network::{Answer, Question, Record, RecordKind, Zone};
use rand::seq::SliceRandom;

use super::wire;

/// Records answered at most; a stream carries no more than about as many.
const ANSWERS_MAX: usize = 4096;

/// Hosts of ports whose addresses are added to an answer.
const HOSTS_ADDED_MAX: usize = 64;

/// What becomes of the bytes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// No answer: it is no request, or too short to be answered at all.
    Drop,
    /// This answer.
    Answer(Box<Message>, Option<Edns>),
    /// This answer, as it was written.
    Refuse(Vec<u8>),
    /// Somebody else knows.
    Forward(Box<Forward>),
}

/// A question for somebody else.
#[derive(Debug)]
pub(crate) struct Forward {
    /// What to ask.
    pub(crate) question: Query,
    answer: Message,
    asked: Option<Edns>,
}

impl Forward {
    /// Returns the answer with what somebody else said.
    pub(crate) fn answered(self, said: Message) -> (Message, Option<Edns>) {
        let Forward {
            mut answer, asked, ..
        } = self;
        answer.metadata.response_code = said.metadata.response_code;
        answer.metadata.authoritative = false;
        answer.metadata.authentic_data = said.metadata.authentic_data;
        answer.answers.extend(said.answers);
        answer.answers.truncate(ANSWERS_MAX);
        answer.authorities = said.authorities;
        answer.additionals = said.additionals;
        (answer, asked)
    }

    /// Returns the answer when nobody could say: the client may ask again.
    pub(crate) fn failed(self) -> (Message, Option<Edns>) {
        let Forward {
            mut answer, asked, ..
        } = self;
        answer.metadata.response_code = ResponseCode::ServFail;
        answer.metadata.authoritative = false;
        answer.answers.clear();
        (answer, asked)
    }
}

/// Decides about the bytes of a request.
pub(crate) fn decide(zone: &Zone, bytes: &[u8]) -> Outcome {
    let Some(header) = bytes.get(..wire::HEADER_BYTES) else {
        return Outcome::Drop;
    };
    // An answer is never answered: two servers would talk for ever.
    if header[2] & 0x80 != 0 {
        return Outcome::Drop;
    }
    let request = match Message::from_vec(bytes) {
        Ok(request) => request,
        Err(_) => return Outcome::Refuse(wire::refusal(&metadata(header), ResponseCode::FormErr)),
    };
    let refuse = |code| Outcome::Refuse(wire::refusal(&request.metadata, code));
    if request.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [question] = request.queries.as_slice() else {
        return refuse(ResponseCode::FormErr);
    };
    let mut answer = Message::response(request.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = request.metadata.recursion_desired;
    answer.metadata.checking_disabled = request.metadata.checking_disabled;
    answer.metadata.recursion_available = true;
    answer.add_query(question.clone());
    let asked = request.edns.clone();
    if let Some(edns) = &asked {
        answer.set_edns(wire::extension());
        if edns.version() > 0 {
            answer.metadata.response_code = ResponseCode::BADVERS;
            return Outcome::Answer(Box::new(answer), asked);
        }
    }
    let is_transfer = matches!(question.query_type, RecordType::AXFR | RecordType::IXFR);
    if question.query_class != DNSClass::IN || is_transfer {
        answer.metadata.response_code = ResponseCode::Refused;
        return Outcome::Answer(Box::new(answer), asked);
    }
    by_zone(zone, question.clone(), answer, asked)
}

fn by_zone(zone: &Zone, question: Query, mut answer: Message, asked: Option<Edns>) -> Outcome {
    let kind = wire::kind(question.query_type);
    let followed = zone.follow(&Question::new(&question.name.to_ascii(), kind));
    answer.metadata.authoritative = true;
    let mut owner = question.name.clone();
    for target in &followed.aliases {
        let Some(target) = wire::name(target) else {
            return failed(answer, asked);
        };
        answer.add_answer(wire::alias(&owner, &target));
        owner = target;
    }
    match followed.answer {
        Some(Answer::NotOurs) => {
            let mut question = Query::query(owner, question.query_type);
            question.set_query_class(DNSClass::IN);
            return Outcome::Forward(Box::new(Forward {
                question,
                answer,
                asked,
            }));
        }
        Some(Answer::Records(mut records)) => {
            records.shuffle(&mut rand::rng());
            records.truncate(ANSWERS_MAX);
            let all = records.iter();
            let all: Option<Vec<_>> = all.map(|record| wire::record(&owner, record)).collect();
            match all {
                Some(all) => answer.add_answers(all),
                None => return failed(answer, asked),
            };
            answer.add_additionals(hosts_of_ports(zone, &records));
        }
        Some(Answer::Alias(target)) => match wire::name(&target) {
            Some(target) => drop(answer.add_answer(wire::alias(&owner, &target))),
            None => return failed(answer, asked),
        },
        Some(Answer::NoData) => {
            answer.add_authorities(authority(zone, &owner));
        }
        Some(Answer::NoSuchName) => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authorities(authority(zone, &owner));
        }
        // The aliases go round in a circle.
        None => return failed(answer, asked),
    }
    Outcome::Answer(Box::new(answer), asked)
}

fn failed(mut answer: Message, asked: Option<Edns>) -> Outcome {
    answer.answers.clear();
    answer.metadata.response_code = ResponseCode::ServFail;
    Outcome::Answer(Box::new(answer), asked)
}

fn authority(zone: &Zone, name: &Name) -> Option<WireRecord> {
    wire::authority(&zone.authority(&name.to_ascii()))
}

/// Returns the addresses of the hosts that ports are on, which whoever asks for ports wants next.
fn hosts_of_ports(zone: &Zone, records: &[Record]) -> Vec<WireRecord> {
    let targets = records.iter().filter_map(|record| match record {
        Record::Port { target, .. } => Some(target),
        Record::Address(_)
        | Record::Pointer(_)
        | Record::Text(_)
        | Record::Authority(_)
        | Record::Server(_) => None,
    });
    let mut targets = targets.collect::<Vec<_>>();
    targets.sort();
    targets.dedup();
    let mut added = Vec::new();
    for target in targets.into_iter().take(HOSTS_ADDED_MAX) {
        let Some(owner) = wire::name(target) else {
            continue;
        };
        for kind in [RecordKind::A, RecordKind::Aaaa] {
            if let Answer::Records(addresses) = zone.answer(&Question::new(target, kind)) {
                added.extend(
                    addresses
                        .iter()
                        .filter_map(|address| wire::record(&owner, address)),
                );
            }
        }
    }
    added
}

/// Reads what an answer needs of a header whose message cannot be read.
fn metadata(header: &[u8]) -> Metadata {
    let id = u16::from_be_bytes([header[0], header[1]]);
    let op_code = OpCode::from_u8(header[2] >> 3 & 0x0f);
    let mut metadata = Metadata::new(id, MessageType::Query, op_code);
    metadata.recursion_desired = header[2] & 1 != 0;
    metadata
}

#[cfg(test)]
mod tests;
