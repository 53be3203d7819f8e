//! `gzip`, `gunzip`, `zcat`.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};

use super::reading::sources;
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::stream::{Handle, Mode};

applets! {
    "gzip" => gzip,
    "gunzip" => gzip,
    "zcat" => gzip,
}

const CHUNK_BYTES: usize = 64 * 1024;
/// How hard is tried unless a digit says so.
const LEVEL: u32 = 6;
const SUFFIX: &str = ".gz";

/// What turns bytes into others, and gives what is ready.
enum Coder {
    Packs(GzEncoder<Vec<u8>>),
    Unpacks(MultiGzDecoder<Vec<u8>>),
}

impl Coder {
    fn feed(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Packs(coder) => {
                coder.write_all(bytes)?;
                Ok(std::mem::take(coder.get_mut()))
            }
            Self::Unpacks(coder) => {
                coder.write_all(bytes)?;
                Ok(std::mem::take(coder.get_mut()))
            }
        }
    }

    fn end(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Packs(coder) => coder.finish(),
            Self::Unpacks(coder) => coder.finish(),
        }
    }
}

async fn gzip(context: Context) -> Outcome {
    let long = &[
        ("stdout", 'c'),
        ("decompress", 'd'),
        ("force", 'f'),
        ("keep", 'k'),
        ("test", 't'),
    ];
    let options = Options::read(context.arguments(), "cdfktqvn123456789", long)?;
    let name = context.words.first().map_or("", String::as_str);
    let unpacks = options.has('d') || options.has('t') || !name.ends_with("gzip");
    let mut code = 0;
    for file in sources(&options.operands) {
        if let Err(failure) = one(&context, &options, &file, unpacks).await {
            context.complain(&failure).await?;
            code = 1;
        }
    }
    context.end(code).await
}

async fn one(
    context: &Context,
    options: &Options,
    name: &str,
    unpacks: bool,
) -> Result<(), Failure> {
    let called = context.words.first().map_or("", String::as_str);
    let prints = options.has('c') || name == "-" || called.ends_with("zcat");
    let coder = if unpacks {
        Coder::Unpacks(MultiGzDecoder::new(Vec::new()))
    } else {
        let levels = options
            .given()
            .filter_map(|(letter, _)| letter.to_digit(10));
        let level = Compression::new(levels.last().unwrap_or(LEVEL));
        Coder::Packs(GzEncoder::new(Vec::new(), level))
    };
    let to = (!prints && !options.has('t')).then(|| target(name, unpacks));
    let to = to.transpose()?;
    if let Some(to) = &to
        && !options.has('f')
        && context.path(to).exists()
    {
        return Err(Failure::new(format!("{to}: File exists")));
    }
    let input = context.open(name)?;
    let output = match &to {
        Some(to) => Some(context.create(to, Mode::Write)?),
        None => None,
    };
    let passed = pass(context, options, name, coder, &input, output.as_ref()).await;
    let gone = match (&to, &passed) {
        (Some(_), Ok(())) if options.has('k') => None,
        (Some(_), Ok(())) => Some(name),
        // Half a file is none.
        (Some(to), Err(_)) => Some(to.as_str()),
        (None, _) => None,
    };
    if let Some(gone) = gone {
        let removed = std::fs::remove_file(context.path(gone));
        removed.map_err(|error| Failure::about(gone, &error))?;
    }
    passed
}

async fn pass(
    context: &Context,
    options: &Options,
    name: &str,
    mut coder: Coder,
    input: &Handle,
    output: Option<&Handle>,
) -> Result<(), Failure> {
    let broken = |error: io::Error| Failure::new(format!("{name}: {error}"));
    loop {
        let piece = input.read(CHUNK_BYTES).await?;
        if piece.is_empty() {
            break;
        }
        let ready = coder.feed(&piece).map_err(broken)?;
        put(context, options, output, &ready).await?;
    }
    let ready = coder.end().map_err(broken)?;
    put(context, options, output, &ready).await
}

async fn put(
    context: &Context,
    options: &Options,
    output: Option<&Handle>,
    bytes: &[u8],
) -> Result<(), Failure> {
    match output {
        Some(output) => output.write(bytes).await?,
        None if options.has('t') => {}
        None => context.write(bytes).await?,
    }
    Ok(())
}

/// The name of what comes out.
fn target(name: &str, unpacks: bool) -> Result<String, Failure> {
    if !unpacks {
        return Ok(format!("{name}{SUFFIX}"));
    }
    if let Some(stem) = name.strip_suffix(".tgz") {
        return Ok(format!("{stem}.tar"));
    }
    let stem = name.strip_suffix(SUFFIX);
    let stem = stem.ok_or_else(|| Failure::new(format!("{name}: unknown suffix")))?;
    Ok(stem.to_owned())
}
