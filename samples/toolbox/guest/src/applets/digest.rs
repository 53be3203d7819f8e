//! Checksums and `base64`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

use super::reading::sources;
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;

applets! {
    "md5sum" => md5sum,
    "sha256sum" => sha256sum,
    "sha512sum" => sha512sum,
    "base64" => base64_lines,
}

const CHUNK_BYTES: usize = 64 * 1024;
/// Columns of a line of base64.
const COLUMNS: u64 = 76;

async fn md5sum(context: Context) -> Outcome {
    sums::<Md5>(context).await
}

async fn sha256sum(context: Context) -> Outcome {
    sums::<Sha256>(context).await
}

async fn sha512sum(context: Context) -> Outcome {
    sums::<Sha512>(context).await
}

async fn sum<D: Digest>(context: &Context, name: &str) -> Result<String, Failure> {
    let input = context.open(name)?;
    let mut digest = D::new();
    loop {
        let piece = input.read(CHUNK_BYTES).await?;
        if piece.is_empty() {
            break;
        }
        digest.update(&piece);
    }
    let bytes = digest.finalize();
    Ok(bytes
        .as_slice()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

async fn sums<D: Digest>(context: Context) -> Outcome {
    let long = &[("check", 'c'), ("status", 's'), ("quiet", 'q')];
    let options = Options::read(context.arguments(), "cbtsqw", long)?;
    let mut code = 0;
    for name in sources(&options.operands) {
        let done = if options.has('c') {
            check::<D>(&context, &options, &name).await
        } else {
            match sum::<D>(&context, &name).await {
                Ok(sum) => context
                    .line(format!("{sum}  {name}"))
                    .await
                    .map(|()| 0)
                    .map_err(Into::into),
                Err(failure) => Err(failure),
            }
        };
        match done {
            Ok(done) => code |= done,
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
            }
        }
    }
    context.end(code).await
}

/// Checks the files that a list names.
async fn check<D: Digest>(context: &Context, options: &Options, list: &str) -> Outcome {
    let text = context.open(list)?.read_all().await?;
    let mut code = 0;
    for line in String::from_utf8_lossy(&text).lines() {
        let Some((expected, name)) = line.split_once(' ') else {
            continue;
        };
        let name = name.trim_start_matches([' ', '*']);
        let matches = match sum::<D>(context, name).await {
            Ok(sum) => sum.eq_ignore_ascii_case(expected),
            Err(failure) => {
                context.complain(&failure).await?;
                false
            }
        };
        if !matches {
            code = 1;
        }
        if !options.has('s') && !(options.has('q') && matches) {
            let verdict = if matches { "OK" } else { "FAILED" };
            context.line(format!("{name}: {verdict}")).await?;
        }
    }
    Ok(code)
}

async fn base64_lines(context: Context) -> Outcome {
    let long = &[("decode", 'd'), ("wrap", 'w'), ("ignore-garbage", 'i')];
    let options = Options::read(context.arguments(), "dDw:i", long)?;
    let name = options.operands.first().map_or("-", String::as_str);
    let bytes = context.open(name)?.read_all().await?;
    if options.has('d') || options.has('D') {
        let packed: Vec<u8> = bytes
            .into_iter()
            .filter(|b| !b.is_ascii_whitespace())
            .collect();
        let decoded = STANDARD.decode(packed);
        context
            .write(decoded.map_err(|_| Failure::new("invalid input"))?)
            .await?;
        return context.end(0).await;
    }
    let columns = options.number('w')?.unwrap_or(COLUMNS);
    let text = STANDARD.encode(bytes);
    if columns == 0 {
        context.write(text).await?;
    } else {
        let columns = usize::try_from(columns).unwrap_or(usize::MAX);
        for row in text.as_bytes().chunks(columns) {
            context.line(row).await?;
        }
    }
    context.end(0).await
}
