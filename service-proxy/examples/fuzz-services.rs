//! Throws mutated input at one reader of what others send: `fuzz-services TARGET SECONDS [SEED]`.
//!
//! Mutations begin with well-formed messages. A panic names the seed and the input that led to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use coracle_service_proxy::fuzzing::TARGETS;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// How many inputs are kept to mutate.
const CORPUS_MAX: usize = 2000;

/// Longer inputs are not kept: they are slow and find nothing that short ones do not.
const INPUT_BYTES_MAX: usize = 2048;

const SEEDS: &[&[u8]] = &[
    // `web.shop.svc.cluster.local`, A, with an extension record.
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x03web\x04shop\x03svc\x07cluster\x05local\x00\
      \x00\x01\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00",
    // `_http._tcp.db.data.svc.cluster.local`, SRV.
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05_http\x04_tcp\x02db\x04data\x03svc\
      \x07cluster\x05local\x00\x00\x21\x00\x01",
    // `7.0.96.10.in-addr.arpa`, PTR.
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x017\x010\x0296\x0210\x07in-addr\x04arpa\x00\
      \x00\x0c\x00\x01",
    // An answer: `example.com`, A, 192.0.2.1, the name by a pointer.
    b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01\
      \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc0\x00\x02\x01",
    b"nameserver 192.0.2.1\nsearch a b\noptions ndots:5\nnameserver ::1",
];

/// Pieces that mean something: pointers, types, lengths, labels.
const WORDS: &[&[u8]] = &[
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xff\xff",
    b"\x00",
    b"\x3f",
    b"\x40",
    b"\x00\x29",
    b"\x00\xff",
    b"\x00\xfc",
    b"\x02db\x04data",
    b"\x03out\x04shop",
    b"nameserver ",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (name, seconds) = (arguments.next().unwrap_or_default(), arguments.next());
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    let (Some((_, target)), Some(seconds)) = (target, seconds) else {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: fuzz-services {} SECONDS [SEED]", names.join("|"));
        return ExitCode::from(2);
    };
    let seed = arguments.next().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut corpus: Vec<Vec<u8>> = SEEDS.iter().map(|seed| seed.to_vec()).collect();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (mut count, mut slowest) = (0_u64, Duration::ZERO);
    while Instant::now() < deadline {
        let input = mutated(&mut random, &corpus);
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            println!("input {}", input.escape_ascii());
            return ExitCode::FAILURE;
        }
        slowest = slowest.max(begun.elapsed());
        count += 1;
        if input.len() <= INPUT_BYTES_MAX && random.random_range(0..20) == 0 {
            let place = random.random_range(SEEDS.len()..CORPUS_MAX);
            match corpus.get_mut(place) {
                Some(old) => *old = input,
                None => corpus.push(input),
            }
        }
    }
    println!("{count} inputs, the slowest took {slowest:?}");
    ExitCode::SUCCESS
}

/// Returns an input of the corpus with a few changes.
fn mutated(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..5) {
        let (a, b) = (place(random, &input), place(random, &input));
        let (from, to) = (a.min(b), a.max(b));
        match random.random_range(0..6) {
            0 => input.insert(from, random.random()),
            1 if from < input.len() => input[from] = random.random(),
            2 if to - from < 64 => drop(input.drain(from..to)),
            3 => {
                let part = input.get(from..to).unwrap_or_default().to_vec();
                drop(input.splice(to..to, part));
            }
            _ => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                let end = (from + random.random_range(0..4)).min(input.len());
                drop(input.splice(from..end, word.iter().copied()));
            }
        }
    }
    input
}

fn place(random: &mut StdRng, input: &[u8]) -> usize {
    random.random_range(0..=input.len())
}
