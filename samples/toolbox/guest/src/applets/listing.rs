//! `ls`, `stat`, `du`.

use std::fs::{self, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::time::{self, Moment};
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::ownership::{self, Permissions, Table};
use crate::platform;

applets! {
    "ls" => ls,
    "stat" => stat,
    "du" => du,
}

/// Folders may be nested this deep.
pub(crate) const DEPTH_MAX: u32 = 200;
/// Older files show the year instead of the time.
const RECENT: Duration = Duration::from_secs(183 * 24 * 3600);

/// A name with what is known of it.
struct Entry {
    name: String,
    metadata: Metadata,
}

async fn ls(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "aAlR1dhtrSFpnisgoLHck",
        &[("all", 'a'), ("color", 'c'), ("recursive", 'R')],
    )?;
    let mut names = options.operands.clone();
    if names.is_empty() {
        names.push(".".to_owned());
    }
    let (mut files, mut folders, mut code) = (Vec::new(), Vec::new(), 0);
    for name in names {
        let path = context.path(&name);
        // A link to a folder is followed unless its own line is asked for.
        let found = if options.has('l') && !name.ends_with('/') && !options.has('L') {
            fs::symlink_metadata(&path)
        } else {
            fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path))
        };
        match found {
            Ok(metadata) if metadata.is_dir() && !options.has('d') => folders.push(name),
            Ok(metadata) => files.push(Entry { name, metadata }),
            Err(error) => {
                context.complain(&Failure::about(&name, &error)).await?;
                code = 1;
            }
        }
    }
    sort(&mut files, &options);
    let headed = folders.len() + files.len() > 1 || options.has('R');
    for entry in &files {
        line(&context, &options, entry, Path::new("")).await?;
    }
    folders.sort();
    let mut first = files.is_empty();
    let mut waiting: Vec<(String, u32)> = folders.into_iter().rev().map(|name| (name, 0)).collect();
    while let Some((name, depth)) = waiting.pop() {
        if headed {
            let gap = if first { "" } else { "\n" };
            context.write(format!("{gap}{name}:\n")).await?;
        }
        first = false;
        match entries(&context.path(&name), &options) {
            Ok(found) => {
                folder(&context, &options, &name, &found).await?;
                if options.has('R') && depth < DEPTH_MAX {
                    let inner = found.iter().rev().filter(|entry| {
                        entry.metadata.is_dir() && !matches!(entry.name.as_str(), "." | "..")
                    });
                    let base = name.trim_end_matches('/');
                    waiting
                        .extend(inner.map(|entry| (format!("{base}/{}", entry.name), depth + 1)));
                }
            }
            Err(error) => {
                context.complain(&Failure::about(&name, &error)).await?;
                code = 1;
            }
        }
    }
    context.end(code).await
}

fn entries(path: &Path, options: &Options) -> std::io::Result<Vec<Entry>> {
    let looked_at = |path: &Path| match options.has('L') {
        true => fs::metadata(path).or_else(|_| fs::symlink_metadata(path)),
        false => fs::symlink_metadata(path),
    };
    let mut found = Vec::new();
    if options.has('a') {
        for name in [".", ".."] {
            let metadata = fs::metadata(path.join(name)).or_else(|_| fs::metadata(path))?;
            found.push(Entry {
                name: name.to_owned(),
                metadata,
            });
        }
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') && !options.has('a') && !options.has('A');
        // What has gone in the meantime is left out.
        if let (false, Ok(metadata)) = (hidden, looked_at(&entry.path())) {
            found.push(Entry { name, metadata });
        }
    }
    sort(&mut found, options);
    Ok(found)
}

fn sort(entries: &mut [Entry], options: &Options) {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if options.has('t') {
        let time = |entry: &Entry| entry.metadata.modified().ok();
        entries.sort_by_key(|entry| std::cmp::Reverse(time(entry)));
    }
    if options.has('S') {
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.metadata.len()));
    }
    if options.has('r') {
        entries.reverse();
    }
}

async fn folder(
    context: &Context,
    options: &Options,
    name: &str,
    found: &[Entry],
) -> Result<(), Failure> {
    if options.has('l') {
        let bytes: u64 = found.iter().map(|entry| entry.metadata.len()).sum();
        context
            .line(format!("total {}", bytes.div_ceil(1024)))
            .await?;
    }
    let path = context.path(name);
    let terminal = context
        .descriptors
        .get(1)
        .is_ok_and(|output| output.is_terminal());
    if terminal && !options.has('l') && !options.has('1') && !found.is_empty() {
        return columns(context, options, found).await;
    }
    for entry in found {
        line(context, options, entry, &path).await?;
    }
    Ok(())
}

/// Names beside each other, as wide as the terminal is.
async fn columns(context: &Context, options: &Options, found: &[Entry]) -> Result<(), Failure> {
    let names: Vec<String> = found.iter().map(|entry| marked(entry, options)).collect();
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0)
        + 2;
    let available = context
        .variable("COLUMNS")
        .and_then(|text| text.parse().ok());
    let columns = (available.unwrap_or(80_usize) / width).max(1);
    let rows = names.len().div_ceil(columns);
    for row in 0..rows {
        let cells = names.iter().skip(row).step_by(rows);
        let text: String = cells.map(|name| format!("{name:<width$}")).collect();
        context.line(text.trim_end()).await?;
    }
    Ok(())
}

fn marked(entry: &Entry, options: &Options) -> String {
    let mark = match (options.has('F'), options.has('p')) {
        (true, _) if entry.metadata.is_symlink() => "@",
        (true, _) | (_, true) if entry.metadata.is_dir() => "/",
        _ => "",
    };
    format!("{}{mark}", entry.name)
}

async fn line(
    context: &Context,
    options: &Options,
    entry: &Entry,
    folder: &Path,
) -> Result<(), Failure> {
    let name = marked(entry, options);
    if !options.has('l') {
        context.line(name).await?;
        return Ok(());
    }
    let metadata = &entry.metadata;
    let size = if options.has('h') {
        human(metadata.len())
    } else {
        metadata.len().to_string()
    };
    let path = if folder.as_os_str().is_empty() {
        context.path(&entry.name)
    } else {
        folder.join(&entry.name)
    };
    let target = match fs::read_link(&path) {
        Ok(target) if metadata.is_symlink() => format!(" -> {}", target.display()),
        Ok(_) | Err(_) => String::new(),
    };
    let known = platform::permissions(&path, !metadata.is_symlink())?;
    let (user, group) = match options.has('n') {
        true => (known.uid.to_string(), known.gid.to_string()),
        false => (
            Table::Users.shown(known.uid),
            Table::Groups.shown(known.gid),
        ),
    };
    let text = format!(
        "{} {:>4} {user:<8} {group:<8} {size:>9} {} {name}{target}",
        ownership::shown(known.mode, metadata),
        1,
        shown_time(metadata),
    );
    context.line(text).await?;
    Ok(())
}

fn shown_time(metadata: &Metadata) -> String {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let age = SystemTime::now()
        .duration_since(modified)
        .unwrap_or_default();
    let format = if age > RECENT {
        "%b %e  %Y"
    } else {
        "%b %e %H:%M"
    };
    time::format(Moment::of(modified), format)
}

/// A size in the largest unit that leaves a number of at least one.
pub(crate) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["", "K", "M", "G", "T"] {
        if value < 1024.0 {
            return match unit {
                "" => format!("{value}"),
                unit => format!("{value:.1}{unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1}P")
}

async fn stat(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "c:Lft",
        &[("format", 'c'), ("printf", 'c'), ("dereference", 'L')],
    )?;
    if options.has('f') {
        return Err(Failure::new("-f: WASI tells nothing of file systems"));
    }
    if options.operands.is_empty() {
        return Err(Failure::usage("the name of a file is expected"));
    }
    let mut code = 0;
    for name in &options.operands {
        let path = context.path(name);
        let found = if options.has('L') {
            fs::metadata(&path)
        } else {
            fs::symlink_metadata(&path)
        };
        let known = platform::permissions(&path, options.has('L'));
        match found.and_then(|found| Ok((found, known?))) {
            Ok((metadata, known)) => {
                let text = match options.value('c') {
                    Some(format) => stat_format(format, name, &metadata, &path, known),
                    None => stat_text(name, &metadata, known),
                };
                context.line(text).await?;
            }
            Err(error) => {
                context.complain(&Failure::about(name, &error)).await?;
                code = 1;
            }
        }
    }
    context.end(code).await
}

fn kind(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() {
        "directory"
    } else if metadata.is_symlink() {
        "symbolic link"
    } else if metadata.len() == 0 {
        "regular empty file"
    } else {
        "regular file"
    }
}

fn modified(metadata: &Metadata) -> Moment {
    Moment::of(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH))
}

fn stat_text(name: &str, metadata: &Metadata, known: Permissions) -> String {
    let time = time::format(modified(metadata), "%Y-%m-%d %H:%M:%S %z");
    format!(
        "  File: {name}\n  Size: {:<10}\tBlocks: {:<10} IO Block: 4096   {}\nAccess: ({:04o}/{})  \
         Uid: ({:5}/{:>8})   Gid: ({:5}/{:>8})\nModify: {time}",
        metadata.len(),
        metadata.len().div_ceil(512),
        kind(metadata),
        known.mode,
        ownership::shown(known.mode, metadata),
        known.uid,
        Table::Users.shown(known.uid),
        known.gid,
        Table::Groups.shown(known.gid),
    )
}

fn stat_format(
    format: &str,
    name: &str,
    metadata: &Metadata,
    path: &Path,
    known: Permissions,
) -> String {
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let seconds = modified(metadata).seconds.to_string();
        match chars.next() {
            Some('n') => text.push_str(name),
            Some('N') => match fs::read_link(path) {
                Ok(target) => text.push_str(&format!("'{name}' -> '{}'", target.display())),
                Err(_) => text.push_str(&format!("'{name}'")),
            },
            Some('s') => text.push_str(&metadata.len().to_string()),
            Some('F') => text.push_str(kind(metadata)),
            Some('a') => text.push_str(&format!("{:o}", known.mode)),
            Some('A') => text.push_str(&ownership::shown(known.mode, metadata)),
            Some('Y' | 'X' | 'Z') => text.push_str(&seconds),
            Some('y' | 'x' | 'z') => {
                text.push_str(&time::format(modified(metadata), "%Y-%m-%d %H:%M:%S %z"));
            }
            Some('u') => text.push_str(&known.uid.to_string()),
            Some('g') => text.push_str(&known.gid.to_string()),
            Some('U') => text.push_str(&Table::Users.shown(known.uid)),
            Some('G') => text.push_str(&Table::Groups.shown(known.gid)),
            Some('b') => text.push_str(&metadata.len().div_ceil(512).to_string()),
            Some('h') => text.push('1'),
            Some('%') => text.push('%'),
            Some(other) => text.extend(['?', other]),
            None => text.push('%'),
        }
    }
    text
}

async fn du(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "shakbcmxd:", &[("max-depth", 'd')])?;
    let mut names = options.operands.clone();
    if names.is_empty() {
        names.push(".".to_owned());
    }
    let (mut code, mut total) = (0, 0);
    for name in &names {
        match weigh(&context, &options, name, 0).await {
            Ok(bytes) => total += bytes,
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
            }
        }
    }
    if options.has('c') {
        context
            .line(format!("{}\ttotal", shown_size(total, &options)))
            .await?;
    }
    context.end(code).await
}

fn shown_size(bytes: u64, options: &Options) -> String {
    if options.has('h') {
        human(bytes)
    } else if options.has('b') {
        bytes.to_string()
    } else if options.has('m') {
        bytes.div_ceil(1 << 20).to_string()
    } else {
        bytes.div_ceil(1024).to_string()
    }
}

type Weighing<'a> = std::pin::Pin<Box<dyn Future<Output = Result<u64, Failure>> + 'a>>;

/// Adds up what a path holds, and tells it as far as the options want.
fn weigh<'a>(
    context: &'a Context,
    options: &'a Options,
    name: &'a str,
    depth: u32,
) -> Weighing<'a> {
    Box::pin(async move {
        let about = |error| Failure::about(name, &error);
        let path = context.path(name);
        let metadata = fs::symlink_metadata(&path).map_err(about)?;
        let mut bytes = metadata.len();
        let folder = metadata.is_dir();
        if folder && depth < DEPTH_MAX {
            bytes = 0;
            for entry in fs::read_dir(&path).map_err(about)? {
                let entry = entry.map_err(about)?.file_name();
                let inner = format!("{}/{}", name.trim_end_matches('/'), entry.to_string_lossy());
                bytes += weigh(context, options, &inner, depth + 1).await?;
            }
        }
        let most = if options.has('s') {
            0
        } else {
            u32::try_from(options.number('d')?.unwrap_or(u64::MAX)).unwrap_or(u32::MAX)
        };
        if depth == 0 || (depth <= most && (folder || options.has('a'))) {
            context
                .line(format!("{}\t{name}", shown_size(bytes, options)))
                .await?;
        }
        Ok(bytes)
    })
}
