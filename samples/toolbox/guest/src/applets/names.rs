//! `nslookup`, `dig`: questions to a DNS server, over UDP or TCP.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::datagrams::Datagrams;
use super::network::addresses;
use crate::applet::{Context, Failure, Outcome};
use crate::platform::{self, Connection};
use crate::reactor;

mod message;

use message::{Answer, Kind, Record, reverse};

applets! {
    "dig" => dig,
    "nslookup" => nslookup,
}

const PORT: u16 = 53;
/// How long a server may take for an answer, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: u32 = 2;
/// How much of an answer over TCP is read at once.
const CHUNK_BYTES: usize = 4_096;
/// `dig` ends so where no server answers.
const NO_REPLY: i32 = 9;

/// Which way a question takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
}

/// Where questions go, and how short names are completed.
struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    way: Way,
}

impl Resolver {
    /// Reads the container's own.
    fn read() -> Resolver {
        let file = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Resolver::parse(&file)
    }

    fn parse(file: &str) -> Resolver {
        let mut resolver = Resolver {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            way: Way::Udp,
        };
        for line in file.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    let server = ip.map(|ip| SocketAddr::new(ip, PORT));
                    resolver.servers.extend(server);
                }
                Some("search") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots = words.filter_map(|word| word.strip_prefix("ndots:"));
                    let mut ndots = ndots.filter_map(|number| number.parse().ok());
                    resolver.ndots = ndots.next_back().unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver
    }

    /// Returns the names that a name may stand for, in the order in which they are asked for.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let dots = name.matches('.').count();
        let longer = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let mut all = longer.collect::<Vec<_>>();
        match dots >= self.ndots {
            true => all.insert(0, name.to_owned()),
            false => all.push(name.to_owned()),
        }
        all
    }

    /// Asks for the first of these names that exists; the last answer if none does.
    async fn find(&self, names: &[String], kind: Kind) -> Result<(SocketAddr, Answer), Failure> {
        let mut last = None;
        for name in names {
            match (self.ask(name, kind).await, last.is_some()) {
                (Ok((server, answer)), _) => {
                    let is_there = answer.code == message::NOERROR;
                    last = Some((server, answer));
                    if is_there {
                        break;
                    }
                }
                // The servers know the names of the cluster, and nobody who knows others.
                (Err(_), true) => break,
                (Err(failure), false) => return Err(failure),
            }
        }
        last.ok_or_else(|| Failure::usage("there is no name to ask for"))
    }

    /// Asks the servers in turn until one answers.
    async fn ask(&self, name: &str, kind: Kind) -> Result<(SocketAddr, Answer), Failure> {
        let id = (platform::now().subsec_nanos() >> 4) as u16;
        let question = message::question(id, name, kind)
            .ok_or_else(|| Failure::usage(format!("`{name}` is no name")))?;
        for _ in 0..TRIES {
            for server in &self.servers {
                let bytes = match self.way {
                    Way::Udp => over_udp(*server, &question).await,
                    Way::Tcp => over_tcp(*server, &question).await,
                };
                let mut answer = bytes.and_then(|bytes| Answer::parse(&bytes, id));
                if answer.as_ref().is_some_and(|answer| answer.is_truncated) {
                    let whole = over_tcp(*server, &question).await;
                    answer = whole.and_then(|bytes| Answer::parse(&bytes, id)).or(answer);
                }
                if let Some(answer) = answer {
                    return Ok((*server, answer));
                }
            }
        }
        Err(Failure::with_code(NO_REPLY, "no servers could be reached"))
    }
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let asking = async {
        let socket = Datagrams::to(server).ok()?;
        socket.send(question).await.ok()?;
        socket.receive().await.ok()
    };
    let end = platform::now().saturating_add(PATIENCE);
    reactor::unless(asking, reactor::wait_until(end))
        .await
        .flatten()
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let asking = async {
        let connection = Connection::connect(server).await.ok()?;
        let length = u16::try_from(question.len()).ok()?.to_be_bytes();
        connection.write(&[&length, question].concat()).await.ok()?;
        let mut received = Vec::new();
        loop {
            if let Some((length, answer)) = received.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if let Some(answer) = answer.get(..length) {
                    return Some(answer.to_vec());
                }
            }
            let piece = connection.read(CHUNK_BYTES).await.ok()?;
            if piece.is_empty() {
                return None;
            }
            received.extend(piece);
        }
    };
    let end = platform::now().saturating_add(PATIENCE);
    reactor::unless(asking, reactor::wait_until(end))
        .await
        .flatten()
}

/// Returns the address of a server that is named on a command line.
async fn server(name: &str, port: u16) -> Result<SocketAddr, Failure> {
    let found = addresses(name).await?;
    let first = found.first().copied();
    let first = first.ok_or_else(|| Failure::new(format!("`{name}` has no address")))?;
    Ok(SocketAddr::new(first, port))
}

async fn nslookup(context: Context) -> Outcome {
    let mut resolver = Resolver::read();
    let (mut kind, mut operands) = (None, Vec::new());
    for word in context.arguments() {
        let typed = ["-type=", "-query=", "-querytype=", "-q=", "-t="];
        let typed = typed.iter().find_map(|option| word.strip_prefix(option));
        match typed {
            Some(name) => kind = Some(kind_of(name)?),
            None if word == "-vc" => resolver.way = Way::Tcp,
            None if word.starts_with('-') => {
                return Err(Failure::usage(format!("unknown option `{word}`")));
            }
            None => operands.push(word.as_str()),
        }
    }
    let name = match operands.as_slice() {
        [name] => *name,
        [name, other] => {
            resolver.servers = vec![server(other, PORT).await?];
            *name
        }
        _ => return Err(Failure::usage("nslookup [-type=TYPE] NAME [SERVER]")),
    };
    let (names, kinds) = match (name.parse::<IpAddr>(), kind) {
        (Ok(address), None | Some(Kind::PTR)) => (vec![reverse(address)], vec![Kind::PTR]),
        (_, Some(kind)) => (resolver.candidates(name), vec![kind]),
        (Err(_), None) => (resolver.candidates(name), vec![Kind::A, Kind::AAAA]),
    };
    let mut told: Vec<Answer> = Vec::new();
    for kind in kinds {
        match resolver.find(&names, kind).await {
            Ok((at, answer)) => {
                if told.is_empty() {
                    tell_server(&context, at).await?;
                }
                told.push(answer);
            }
            // Whoever has no server may have names all the same.
            Err(_) if kind == Kind::A => return by_the_node(&context, name).await,
            Err(failure) => return Err(Failure::new(failure.message())),
        }
    }
    tell_answers(&context, name, &told).await
}

async fn tell_server(context: &Context, at: SocketAddr) -> Result<(), Failure> {
    let ip = at.ip();
    let lines = format!("Server:\t\t{ip}\nAddress:\t{ip}#{}\n\n", at.port());
    Ok(context.write(lines).await?)
}

async fn tell_answers(context: &Context, name: &str, told: &[Answer]) -> Outcome {
    let mut lines = Vec::new();
    for record in told.iter().flat_map(|answer| &answer.answers) {
        let line = line_of(record);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let is_there = told.iter().any(|answer| answer.code == message::NOERROR);
    let code = told.first().map_or(message::NOERROR, |answer| answer.code);
    let failed = match (lines.is_empty(), is_there) {
        (false, _) => None,
        (true, true) => Some(format!("*** Can't find {name}: No answer")),
        (true, false) => {
            let code = message::code_name(code);
            Some(format!("** server can't find {name}: {code}"))
        }
    };
    match failed {
        Some(line) => {
            context.line(line).await?;
            context.end(1).await
        }
        None => {
            for line in lines {
                context.line(line).await?;
            }
            context.end(0).await
        }
    }
}

/// Asks the resolver that WASI offers, which the node has.
async fn by_the_node(context: &Context, name: &str) -> Outcome {
    let found = addresses(name).await.unwrap_or_default();
    if found.is_empty() {
        let line = format!("** server can't find {name}: NXDOMAIN");
        context.line(line).await?;
        return context.end(1).await;
    }
    for address in found {
        let line = format!("Name:\t{name}\nAddress: {address}");
        context.line(line).await?;
    }
    context.end(0).await
}

fn line_of(record: &Record) -> String {
    let (name, data) = (&record.name, &record.data);
    match record.kind {
        Kind::A | Kind::AAAA => format!("Name:\t{name}\nAddress: {data}"),
        Kind::CNAME => format!("{name}\tcanonical name = {data}"),
        Kind::PTR => format!("{name}\tname = {data}"),
        Kind::SRV => format!("{name}\tservice = {data}"),
        Kind::TXT => format!("{name}\ttext = {data}"),
        Kind::MX => format!("{name}\tmail exchanger = {data}"),
        Kind::NS => format!("{name}\tnameserver = {data}"),
        kind => format!("{name}\t{kind} = {data}"),
    }
}

fn kind_of(name: &str) -> Result<Kind, Failure> {
    Kind::named(name).ok_or_else(|| Failure::usage(format!("unknown type `{name}`")))
}

/// What `dig` prints.
struct Shown {
    comments: bool,
    question: bool,
    answer: bool,
    authority: bool,
    short: bool,
}

async fn dig(context: Context) -> Outcome {
    let mut resolver = Resolver::read();
    let mut shown = Shown {
        comments: true,
        question: true,
        answer: true,
        authority: true,
        short: false,
    };
    let (mut name, mut kind, mut searches) = (None::<String>, None, false);
    let (mut at, mut port) = (None::<&str>, PORT);
    let mut words = context.arguments().iter();
    while let Some(word) = words.next() {
        let mut value = |option: &str| {
            let value = words.next().map(String::as_str);
            value.ok_or_else(|| Failure::usage(format!("{option} needs a value")))
        };
        match word.as_str() {
            "-x" => {
                let text = value("-x")?;
                let address = text.parse::<IpAddr>();
                let address =
                    address.map_err(|_| Failure::usage(format!("`{text}` is no address")))?;
                (name, kind) = (Some(reverse(address)), Some(Kind::PTR));
            }
            "-t" => kind = Some(kind_of(value("-t")?)?),
            "-q" => name = Some(value("-q")?.to_owned()),
            "-p" => {
                let text = value("-p")?;
                let number = text.parse();
                port = number.map_err(|_| Failure::usage(format!("`{text}` is no port")))?;
            }
            word => match (word.strip_prefix('+'), word.strip_prefix('@')) {
                (Some(option), _) => set(option, &mut shown, &mut resolver, &mut searches)?,
                (_, Some(server)) => at = Some(server),
                // The class, of which there is one.
                _ if word.eq_ignore_ascii_case("in") => {}
                _ => match (Kind::named(word), &name) {
                    (Some(named), _) if kind.is_none() => kind = Some(named),
                    (_, None) => name = Some(word.to_owned()),
                    _ => return Err(Failure::usage(format!("`{word}` is not understood"))),
                },
            },
        }
    }
    let name = name.ok_or_else(|| {
        Failure::usage("dig [@SERVER] [+short] [+tcp] [+search] [-x ADDRESS] NAME [TYPE]")
    })?;
    let names = match searches {
        true => resolver.candidates(&name),
        false => vec![name.trim_end_matches('.').to_owned()],
    };
    if let Some(at) = at {
        resolver.servers = vec![server(at, port).await?];
    }
    for server in &mut resolver.servers {
        server.set_port(port);
    }
    let (at, answer) = resolver.find(&names, kind.unwrap_or(Kind::A)).await?;
    for line in report(&shown, at, &answer) {
        context.line(line).await?;
    }
    context.end(0).await
}

/// Takes an option that begins with `+`.
fn set(
    option: &str,
    shown: &mut Shown,
    resolver: &mut Resolver,
    searches: &mut bool,
) -> Result<(), Failure> {
    let (is_on, what) = match option.strip_prefix("no") {
        Some(what) => (false, what),
        None => (true, option),
    };
    match what {
        "short" => shown.short = is_on,
        "tcp" | "vc" => {
            resolver.way = match is_on {
                true => Way::Tcp,
                false => Way::Udp,
            }
        }
        "search" | "defname" => *searches = is_on,
        "answer" => shown.answer = is_on,
        "authority" => shown.authority = is_on,
        "question" => shown.question = is_on,
        "comments" | "cmd" | "stats" => shown.comments = is_on,
        "all" => {
            shown.comments = is_on;
            shown.question = is_on;
            shown.answer = is_on;
            shown.authority = is_on;
        }
        // What they change is not shown here, or is so always.
        "additional" | "recurse" | "ttlid" | "edns" | "cookie" => {}
        _ => return Err(Failure::usage(format!("unknown option `+{option}`"))),
    }
    Ok(())
}

fn report(shown: &Shown, at: SocketAddr, answer: &Answer) -> Vec<String> {
    if shown.short {
        return answer.answers.iter().map(|one| one.data.clone()).collect();
    }
    let mut lines = Vec::new();
    let section = |lines: &mut Vec<String>, title: &str, records: &[Record]| {
        if records.is_empty() {
            return;
        }
        if shown.comments {
            lines.push(format!(";; {title} SECTION:"));
        }
        lines.extend(records.iter().map(Record::to_string));
        if shown.comments {
            lines.push(String::new());
        }
    };
    if shown.comments {
        lines.push(format!(
            ";; ->>HEADER<<- opcode: QUERY, status: {}, id: {}",
            message::code_name(answer.code),
            answer.id
        ));
        lines.push(format!(
            ";; flags: {}; QUERY: 1, ANSWER: {}, AUTHORITY: {}",
            answer.flags(),
            answer.answers.len(),
            answer.authorities.len()
        ));
        lines.push(String::new());
    }
    if shown.question {
        lines.push(";; QUESTION SECTION:".to_owned());
        lines.push(format!(";{}\t\tIN\t{}", answer.name, answer.kind));
        lines.push(String::new());
    }
    if shown.answer {
        section(&mut lines, "ANSWER", &answer.answers);
    }
    if shown.authority {
        section(&mut lines, "AUTHORITY", &answer.authorities);
    }
    if shown.comments {
        lines.push(format!(";; SERVER: {}#{}", at.ip(), at.port()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed_as_the_file_says() {
        let resolver = Resolver::parse(
            "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\n\
             nameserver fd00::10\noptions edns0 ndots:2\n",
        );
        let servers = ["10.96.0.10:53", "[fd00::10]:53"];
        let servers = servers.map(|at| at.parse().expect("an address"));
        assert_eq!(resolver.servers, servers);
        assert_eq!(
            resolver.candidates("web"),
            ["web.default.svc.cluster.local", "web.cluster.local", "web"]
        );
        let longer = resolver.candidates("web.other.svc");
        assert_eq!(longer[0], "web.other.svc");
        assert_eq!(resolver.candidates("web.example."), ["web.example"]);
    }
}
