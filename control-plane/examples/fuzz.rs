//! Throws mutated input at one reader of what clients send: `fuzz TARGET SECONDS [SEED]`.
//!
//! Mutations begin with well-formed inputs and keep what is longer than what led to it, so that
//! they stay near what clients send. A panic names the seed and the input that led to it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use coracle_control_plane::fuzzing::TARGETS;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// How many inputs are kept to mutate.
const CORPUS_MAX: usize = 2000;

/// Longer inputs are not kept: they are slow and find nothing that short ones do not.
const INPUT_BYTES_MAX: usize = 4096;

const SEEDS: &[&str] = &[
    "app=web,tier in (a, b),!x,y notin (z)\nmetadata.name=a,status.phase!=Running",
    "100m",
    "1.5Gi",
    "12E-3",
    concat!(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"a":"b"},"finalizers":["#,
        r#""a/b"]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"#,
        r#""env":[{"name":"A","value":"b"}]}],"volumes":[{"name":"v","emptyDir":{}}]}}"#,
        "\n",
        r#"s{"metadata":{"$deleteFromPrimitiveList/finalizers":["a/b"]},"spec":{"#,
        r#""$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"c","#,
        r#""$patch":"delete"},{"name":"d","image":"j"}],"volumes":[{"name":"v","$retainKeys":["#,
        r#""name"],"emptyDir":null}]}}"#,
    ),
    concat!(
        "x\n",
        r#"j[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"copy","from":"/spec","#,
        r#""path":"/spec/containers/0"},{"op":"test","path":"/kind","value":"Pod"},{"op":"move","#,
        r#""from":"/spec/containers/0","path":"/spec/containers/-"}]"#,
    ),
    concat!(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","managedFields":[{"manager":"m","#,
        r#""operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"#,
        r#""f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}}}}}]},"spec":{"containers":["#,
        r#"{"name":"c","image":"i"}]}}"#,
        "\n",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","finalizers":["a/b"]},"spec":{"#,
        r#""containers":[{"name":"c","image":"j"}],"tolerations":[{"key":"a"}]}}"#,
        "\n",
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"nodeSelector":{"a":"b"},"#,
        r#""containers":[{"name":"d","ports":[{"containerPort":80,"protocol":"UDP"}]}]}}"#,
    ),
    "{}\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n{}",
];

const WORDS: &[&str] = &[
    "null",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "1e400",
    "9223372036854775807",
    "true",
    "\"name\"",
    "\"$patch\"",
    "\"replace\"",
    "\"delete\"",
    "\"merge\"",
    "\"$retainKeys\"",
    "\"f:a\"",
    "\"k:{}\"",
    "\"v:1\"",
    "\\u0000",
    "\u{ffff}",
    ",",
    ":",
    "{",
    "}",
    "[",
    "]",
    "\n",
    "Ki",
    "m",
    " in (",
    "!=",
    "&a ",
    "*a",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (name, seconds) = (arguments.next().unwrap_or_default(), arguments.next());
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    let (Some((_, target)), Some(seconds)) = (target, seconds) else {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: fuzz {} SECONDS [SEED]", names.join("|"));
        return ExitCode::from(2);
    };
    let seed = arguments.next().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut corpus: Vec<Vec<u8>> = SEEDS.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (mut count, mut slowest) = (0_u64, Duration::ZERO);
    while Instant::now() < deadline {
        let input = mutated(&mut random, &corpus);
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            println!("input {:?}", String::from_utf8_lossy(&input));
            return ExitCode::FAILURE;
        }
        slowest = slowest.max(begun.elapsed());
        count += 1;
        if input.len() <= INPUT_BYTES_MAX && random.random_range(0..20) == 0 {
            let place = random.random_range(0..CORPUS_MAX);
            match corpus.get_mut(place.max(SEEDS.len())) {
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
    let mut input = pick(random, corpus).clone();
    for _ in 0..random.random_range(1..5) {
        let (a, b) = (place(random, &input), place(random, &input));
        let (from, to) = (a.min(b), a.max(b));
        match random.random_range(0..7) {
            0 => input.insert(from, random.random()),
            1 if from < input.len() => drop(input.remove(from)),
            2 if to - from < 64 => drop(input.drain(from..to)),
            3 => {
                let other = pick(random, corpus);
                let (c, d) = (place(random, other), place(random, other));
                let part = other.get(c.min(d)..c.max(d)).unwrap_or_default().to_vec();
                drop(input.splice(from..from, part));
            }
            4 => {
                let part = input.get(from..to).unwrap_or_default().to_vec();
                drop(input.splice(to..to, part));
            }
            _ => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                let end = (from + random.random_range(0..4)).min(input.len());
                drop(input.splice(from..end, word.bytes()));
            }
        }
    }
    input
}

fn pick<'c>(random: &mut StdRng, corpus: &'c [Vec<u8>]) -> &'c Vec<u8> {
    &corpus[random.random_range(0..corpus.len())]
}

fn place(random: &mut StdRng, input: &[u8]) -> usize {
    random.random_range(0..=input.len())
}
