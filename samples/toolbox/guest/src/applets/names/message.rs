//! Messages of DNS (RFC 1035): questions, and what answers hold.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All is well.
pub(super) const NOERROR: u8 = 0;

const HEADER_BYTES: usize = 12;
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 255;
/// Names may refer to earlier ones; an honest message needs few such steps.
const STEPS_MAX: usize = 32;

/// A type of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u16);

/// A record, in the words people read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) ttl: u32,
    pub(super) kind: Kind,
    pub(super) data: String,
}

/// What a server says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: u16,
    pub(super) code: u8,
    pub(super) is_truncated: bool,
    /// What was asked for.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    bits: u16,
}

const KINDS: &[(&str, Kind)] = &[
    ("A", Kind::A),
    ("NS", Kind::NS),
    ("CNAME", Kind::CNAME),
    ("SOA", Kind::SOA),
    ("PTR", Kind::PTR),
    ("MX", Kind::MX),
    ("TXT", Kind::TXT),
    ("AAAA", Kind::AAAA),
    ("SRV", Kind::SRV),
    ("ANY", Kind(255)),
];

impl Kind {
    pub(super) const A: Kind = Kind(1);
    pub(super) const NS: Kind = Kind(2);
    pub(super) const CNAME: Kind = Kind(5);
    pub(super) const SOA: Kind = Kind(6);
    pub(super) const PTR: Kind = Kind(12);
    pub(super) const MX: Kind = Kind(15);
    pub(super) const TXT: Kind = Kind(16);
    pub(super) const AAAA: Kind = Kind(28);
    pub(super) const SRV: Kind = Kind(33);

    /// Returns the type of this name, in letters of any case.
    pub(super) fn named(name: &str) -> Option<Kind> {
        let mut all = KINDS.iter();
        let found = all.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, kind)| *kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KINDS.iter().find(|(_, kind)| kind == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record {
            name,
            ttl,
            kind,
            data,
        } = self;
        write!(f, "{name}.\t{ttl}\tIN\t{kind}\t{data}")
    }
}

/// Returns what a code is called.
pub(super) fn code_name(code: u8) -> String {
    match code {
        0 => "NOERROR".to_owned(),
        1 => "FORMERR".to_owned(),
        2 => "SERVFAIL".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        4 => "NOTIMP".to_owned(),
        5 => "REFUSED".to_owned(),
        other => format!("RESERVED{other}"),
    }
}

/// Returns the name under which the names of an address are.
pub(super) fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let digits = octets.iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            let digits = digits.map(|digit| format!("{digit:x}."));
            digits.collect::<String>() + "ip6.arpa"
        }
    }
}

/// Writes a question; nothing for what is no name.
pub(super) fn question(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    // Recursion is asked for; one question.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.').filter(|_| !name.is_empty()) {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return None;
        }
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    if message.len() - HEADER_BYTES > NAME_BYTES_MAX {
        return None;
    }
    message.extend(kind.0.to_be_bytes());
    message.extend(1u16.to_be_bytes());
    Some(message)
}

impl Answer {
    /// Reads the answer to the question of this number; nothing where it is none.
    pub(super) fn parse(message: &[u8], id: u16) -> Option<Answer> {
        let mut reader = Reader { message, at: 0 };
        let is_ours = reader.number()? == id;
        let bits = reader.number()?;
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = reader.number()?;
        }
        let is_answer = bits & 0x8000 != 0;
        if !is_ours || !is_answer || counts[0] != 1 {
            return None;
        }
        let name = reader.name()?;
        let kind = Kind(reader.number()?);
        reader.number()?;
        let is_truncated = bits & 0x0200 != 0;
        let mut answer = Answer {
            id,
            code: (bits & 0xf) as u8,
            is_truncated,
            name,
            kind,
            answers: Vec::new(),
            authorities: Vec::new(),
            bits,
        };
        for (count, into) in [
            (counts[1], &mut answer.answers),
            (counts[2], &mut answer.authorities),
        ] {
            for _ in 0..count {
                match reader.record() {
                    Some(record) => into.push(record),
                    // A part of it may be missing.
                    None if is_truncated => break,
                    None => return None,
                }
            }
        }
        Some(answer)
    }

    /// Returns the flags that are set.
    pub(super) fn flags(&self) -> String {
        let all = [
            (0x8000, "qr"),
            (0x0400, "aa"),
            (0x0200, "tc"),
            (0x0100, "rd"),
            (0x0080, "ra"),
        ];
        let set = all.iter().filter(|(bit, _)| self.bits & bit != 0);
        set.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
    }
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.bytes(2)?;
        Some(u16::from_be_bytes(*bytes.first_chunk()?))
    }

    /// Reads a name, which may go on elsewhere in the message.
    fn name(&mut self) -> Option<String> {
        let mut labels = Vec::new();
        let (mut elsewhere, mut steps) = (None, 0);
        loop {
            let length = *self.bytes(1)?.first()?;
            match length >> 6 {
                0 if length == 0 => break,
                0 => {
                    let label = self.bytes(length.into())?;
                    labels.push(String::from_utf8_lossy(label).into_owned());
                }
                3 => {
                    let low = *self.bytes(1)?.first()?;
                    elsewhere.get_or_insert(self.at);
                    self.at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    steps += 1;
                }
                _ => return None,
            }
            if steps > STEPS_MAX || labels.len() > NAME_BYTES_MAX {
                return None;
            }
        }
        self.at = elsewhere.unwrap_or(self.at);
        Some(labels.join("."))
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let kind = Kind(self.number()?);
        self.number()?;
        let ttl = u32::from_be_bytes(*self.bytes(4)?.first_chunk()?);
        let length = usize::from(self.number()?);
        let end = self.at.checked_add(length)?;
        let raw = self.message.get(self.at..end)?;
        let data = self.data(kind, raw)?;
        self.at = end;
        Some(Record {
            name,
            ttl,
            kind,
            data,
        })
    }

    fn data(&mut self, kind: Kind, raw: &[u8]) -> Option<String> {
        Some(match kind {
            Kind::A => Ipv4Addr::from(*raw.first_chunk::<4>()?).to_string(),
            Kind::AAAA => Ipv6Addr::from(*raw.first_chunk::<16>()?).to_string(),
            Kind::CNAME | Kind::NS | Kind::PTR => self.name()? + ".",
            Kind::MX => format!("{} {}.", self.number()?, self.name()?),
            Kind::SRV => {
                let numbers = [self.number()?, self.number()?, self.number()?];
                let [priority, weight, port] = numbers;
                format!("{priority} {weight} {port} {}.", self.name()?)
            }
            Kind::SOA => {
                let names = [self.name()?, self.name()?];
                let mut told = format!("{}. {}.", names[0], names[1]);
                for _ in 0..5 {
                    let number = u32::from_be_bytes(*self.bytes(4)?.first_chunk()?);
                    told.push_str(&format!(" {number}"));
                }
                told
            }
            Kind::TXT => {
                let mut texts = Vec::new();
                let mut rest = raw;
                while let Some((length, following)) = rest.split_first() {
                    let text = following.get(..usize::from(*length))?;
                    texts.push(format!("\"{}\"", String::from_utf8_lossy(text)));
                    rest = &following[usize::from(*length)..];
                }
                texts.join(" ")
            }
            _ => format!("\\# {}", raw.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `_http._tcp.web`, of type SRV: its name is referred to, its target goes on in it.
    fn answer() -> Vec<u8> {
        let mut message = question(7, "_http._tcp.web", Kind::SRV).expect("a name");
        message[2..4].copy_from_slice(&0x8580u16.to_be_bytes());
        message[7] = 1;
        message.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 5, 0, 12]);
        message.extend([0, 0, 0, 100, 0, 80]);
        message.extend([3, b'b', b'e', b'e', 0xc0, 23]);
        message
    }

    #[test]
    fn an_answer_is_read_with_names_that_go_on_elsewhere() {
        let answer = Answer::parse(&answer(), 7).expect("an answer");
        assert_eq!(answer.name, "_http._tcp.web");
        assert_eq!(answer.flags(), "qr aa rd ra");
        let told = answer.answers.iter().map(Record::to_string);
        let told = told.collect::<Vec<_>>();
        assert_eq!(told, ["_http._tcp.web.\t5\tIN\tSRV\t0 100 80 bee.web."]);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert!(Answer::parse(&answer(), 8).is_none(), "of another question");
        let whole = answer();
        for length in 0..whole.len() {
            assert!(Answer::parse(&whole[..length], 7).is_none(), "{length}");
        }
        // A name that refers to itself.
        let mut circle = answer();
        let last = circle.len() - 1;
        circle[last] = (last - 1) as u8;
        assert!(Answer::parse(&circle, 7).is_none());
        assert_eq!(question(1, "a..b", Kind::A), None);
        assert_eq!(question(1, &"a".repeat(64), Kind::A), None);
    }

    #[test]
    fn addresses_have_names_of_their_own() {
        let ip = |text: &str| text.parse().expect("an address");
        assert_eq!(reverse(ip("10.96.0.1")), "1.0.96.10.in-addr.arpa");
        let long = reverse(ip("fd00::10"));
        assert!(long.starts_with("0.1.0.0."), "{long}");
        assert!(long.ends_with(".0.0.d.f.ip6.arpa"), "{long}");
    }
}
