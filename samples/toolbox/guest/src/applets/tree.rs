//! What changes the tree of files: `cp`, `mv`, `rm`, `mkdir`, `touch`, `ln` and their like.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::listing::DEPTH_MAX;
use super::{owners, time};
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::stream::{Mode, Stream};
use crate::{ownership, platform};

applets! {
    "cp" => cp,
    "mv" => mv,
    "rm" => rm,
    "unlink" => rm,
    "mkdir" => mkdir,
    "rmdir" => rmdir,
    "touch" => touch,
    "ln" => ln,
    "mktemp" => mktemp,
    "truncate" => truncate,
    "sync" => sync,
}

/// Letters in the random part of a name.
const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";
/// How often another name is tried.
const TRIES_MAX: u32 = 100;

/// Where operands go: the last one, a folder or a name for the only other one.
struct Destination {
    sources: Vec<String>,
    target: String,
    into_folder: bool,
}

fn destination(context: &Context, options: &Options) -> Result<Destination, Failure> {
    let mut sources = options.operands.clone();
    let target = match options.value('t') {
        Some(folder) => folder.to_owned(),
        None => sources.pop().unwrap_or_default(),
    };
    if sources.is_empty() {
        return Err(Failure::usage("a source and a target are expected"));
    }
    let folder = context.path(&target).is_dir() && !options.has('T');
    if sources.len() > 1 && !folder {
        return Err(Failure::new(format!("{target}: Not a directory")));
    }
    Ok(Destination {
        sources,
        target,
        into_folder: folder,
    })
}

impl Destination {
    /// The name that a source gets.
    fn of(&self, source: &str) -> String {
        if !self.into_folder {
            return self.target.clone();
        }
        let base = source.trim_end_matches('/').rsplit('/').next();
        format!(
            "{}/{}",
            self.target.trim_end_matches('/'),
            base.unwrap_or_default()
        )
    }
}

async fn cp(context: Context) -> Outcome {
    let long = &[
        ("recursive", 'r'),
        ("archive", 'a'),
        ("force", 'f'),
        ("verbose", 'v'),
        ("preserve", 'p'),
        ("no-clobber", 'n'),
        ("target-directory", 't'),
        ("dereference", 'L'),
    ];
    let options = Options::read(context.arguments(), "rRafpdPLnvuit:T", long)?;
    let destination = destination(&context, &options)?;
    let mut code = 0;
    for source in &destination.sources {
        let target = destination.of(source);
        if let Err(failure) = copy(&context, &options, source, &target, 0).await {
            context.complain(&failure).await?;
            code = 1;
        }
    }
    context.end(code).await
}

type Copying<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

fn copy<'a>(
    context: &'a Context,
    options: &'a Options,
    source: &'a str,
    target: &'a str,
    depth: u32,
) -> Copying<'a> {
    Box::pin(async move {
        let (from, to) = (context.path(source), context.path(target));
        let recursive = options.has('r') || options.has('R') || options.has('a');
        let keeps_links = (recursive || options.has('d') || options.has('P')) && !options.has('L');
        let found = if keeps_links {
            fs::symlink_metadata(&from)
        } else {
            fs::metadata(&from)
        };
        let metadata = found.map_err(|error| Failure::about(source, &error))?;
        let about = |error| Failure::about(target, &error);
        if metadata.is_dir() {
            if !recursive {
                return Err(Failure::new(format!("omitting directory `{source}`")));
            }
            if within(&from, &to) {
                return Err(Failure::new(format!(
                    "`{source}` cannot be copied into itself"
                )));
            }
            if !to.is_dir() {
                fs::create_dir(&to).map_err(about)?;
            }
            if depth < DEPTH_MAX {
                for name in names(&from).map_err(|error| Failure::about(source, &error))? {
                    let (source, target) = (join(source, &name), join(target, &name));
                    copy(context, options, &source, &target, depth + 1).await?;
                }
            }
        } else if metadata.is_symlink() {
            let link = fs::read_link(&from).map_err(|error| Failure::about(source, &error))?;
            remove_if_there(&to).map_err(about)?;
            platform::symlink(&link.display().to_string(), &to).map_err(about)?;
        } else {
            if options.has('n') && to.exists() {
                return Ok(());
            }
            if fs::canonicalize(&from).ok() == fs::canonicalize(&to).ok() && to.exists() {
                return Err(Failure::new(format!(
                    "`{source}` and `{target}` are the same file"
                )));
            }
            let is_new = !to.exists();
            copy_content(source, &from, target, &to).await?;
            let keeps = options.has('p') || options.has('a');
            if is_new || keeps {
                owners::carry(&from, &to, keeps).map_err(about)?;
            }
        }
        if (options.has('p') || options.has('a')) && !metadata.is_symlink() {
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            platform::set_times(&to, modified).map_err(about)?;
        }
        if options.has('v') {
            context.line(format!("'{source}' -> '{target}'")).await?;
        }
        Ok(())
    })
}

async fn copy_content(source: &str, from: &Path, target: &str, to: &Path) -> Result<(), Failure> {
    let input = Stream::open(from, Mode::Read).map_err(|error| Failure::about(source, &error))?;
    let about = |error| Failure::about(target, &error);
    let output = Stream::open(to, Mode::Write).map_err(about)?;
    loop {
        let piece = input.read(64 * 1024).await.map_err(about)?;
        if piece.is_empty() {
            return Ok(());
        }
        output.write(&piece).await.map_err(about)?;
    }
}

/// Whether the second path lies in the first one.
fn within(folder: &Path, path: &Path) -> bool {
    let parent = path
        .parent()
        .and_then(|parent| fs::canonicalize(parent).ok());
    match (fs::canonicalize(folder), parent) {
        (Ok(folder), Some(parent)) => parent.starts_with(folder),
        _ => false,
    }
}

fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

/// The names in a folder, in order.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn mv(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "finvut:T",
        &[("force", 'f'), ("no-clobber", 'n')],
    )?;
    let destination = destination(&context, &options)?;
    let mut code = 0;
    for source in &destination.sources {
        let target = destination.of(source);
        let (from, to) = (context.path(source), context.path(&target));
        if options.has('n') && to.exists() {
            continue;
        }
        let moved = match fs::rename(&from, &to) {
            // Another mount: copied, then removed.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let words = vec!["-a".to_owned()];
                let archive = Options::read(&words, "a", &[])?;
                match copy(&context, &archive, source, &target, 0).await {
                    Ok(()) => remove(&from, 0).map_err(|error| Failure::about(source, &error)),
                    Err(failure) => Err(failure),
                }
            }
            result => result.map_err(|error| Failure::about(source, &error)),
        };
        if let Err(failure) = moved {
            context.complain(&failure).await?;
            code = 1;
        }
    }
    context.end(code).await
}

async fn rm(context: Context) -> Outcome {
    let long = &[("recursive", 'r'), ("force", 'f'), ("dir", 'd')];
    let options = Options::read(context.arguments(), "rRfivd", long)?;
    let recursive = options.has('r') || options.has('R');
    if options.operands.is_empty() && !options.has('f') {
        return Err(Failure::usage("the name of a file is expected"));
    }
    let mut code = 0;
    for name in &options.operands {
        let path = context.path(name);
        let removed = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && options.has('f') => Ok(()),
            Err(error) => Err(error),
            Ok(metadata) if metadata.is_dir() && recursive => {
                let last = name.trim_end_matches('/').rsplit('/').next();
                if matches!(last, Some("." | ".." | "")) {
                    Err(io::Error::other("refused to remove `.`, `..` and `/`"))
                } else {
                    remove(&path, 0)
                }
            }
            Ok(metadata) if metadata.is_dir() && options.has('d') => fs::remove_dir(&path),
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            context.complain(&Failure::about(name, &error)).await?;
            code = 1;
        }
    }
    context.end(code).await
}

/// Removes a file, or a folder with everything in it. Links are not followed.
fn remove(path: &Path, depth: u32) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    if depth > DEPTH_MAX {
        return Err(io::Error::other("folders are nested too deep"));
    }
    for name in names(path)? {
        remove(&path.join(name), depth + 1)?;
    }
    fs::remove_dir(path)
}

async fn mkdir(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "pm:v",
        &[("parents", 'p'), ("mode", 'm')],
    )?;
    let mode = match options.value('m') {
        Some(word) => Some(
            ownership::change(word, 0o777, true)
                .ok_or_else(|| Failure::new(format!("invalid mode '{word}'")))?,
        ),
        None => None,
    };
    each(&context, &options, |path| {
        if options.has('p') {
            fs::create_dir_all(path)?;
        } else {
            fs::create_dir(path)?;
        }
        mode.map_or(Ok(()), |mode| platform::set_mode(path, true, mode))
    })
    .await
}

async fn rmdir(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "p", &[("parents", 'p')])?;
    let mut code = 0;
    for name in &options.operands {
        let mut name = name.trim_end_matches('/');
        loop {
            if let Err(error) = fs::remove_dir(context.path(name)) {
                context.complain(&Failure::about(name, &error)).await?;
                code = 1;
                break;
            }
            match name.rsplit_once('/') {
                Some((parent, _)) if options.has('p') && !parent.is_empty() => name = parent,
                _ => break,
            }
        }
    }
    context.end(code).await
}

/// Does something with the path of each operand, and goes on when it fails.
async fn each(
    context: &Context,
    options: &Options,
    act: impl Fn(&Path) -> io::Result<()>,
) -> Outcome {
    if options.operands.is_empty() {
        return Err(Failure::usage("a name is expected"));
    }
    let mut code = 0;
    for name in &options.operands {
        if let Err(error) = act(&context.path(name)) {
            context.complain(&Failure::about(name, &error)).await?;
            code = 1;
        }
    }
    context.end(code).await
}

async fn touch(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "camd:r:h",
        &[("no-create", 'c'), ("date", 'd'), ("reference", 'r')],
    )?;
    let mut moment = SystemTime::now();
    if let Some(text) = options.value('d') {
        let parsed = time::parse(text).map(time::Moment::to_system);
        moment = parsed.ok_or_else(|| Failure::new(format!("invalid date `{text}`")))?;
    }
    if let Some(name) = options.value('r') {
        let found = fs::metadata(context.path(name)).and_then(|found| found.modified());
        moment = found.map_err(|error| Failure::about(name, &error))?;
    }
    each(&context, &options, |path| {
        if !path.exists() {
            if options.has('c') {
                return Ok(());
            }
            fs::File::create(path)?;
        }
        platform::set_times(path, moment)
    })
    .await
}

async fn ln(context: Context) -> Outcome {
    let long = &[("symbolic", 's'), ("force", 'f'), ("no-dereference", 'n')];
    let mut options = Options::read(context.arguments(), "sfnvrTt:", long)?;
    if options.operands.len() == 1 {
        options.operands.push(".".to_owned());
    }
    let destination = destination(&context, &options)?;
    let mut code = 0;
    for source in &destination.sources {
        let replaces = options.has('n')
            && fs::symlink_metadata(context.path(&destination.target))
                .is_ok_and(|found| found.is_symlink());
        let target = if replaces {
            destination.target.clone()
        } else {
            destination.of(source)
        };
        let path = context.path(&target);
        let freed = if options.has('f') {
            remove_if_there(&path)
        } else {
            Ok(())
        };
        let linked = freed.and_then(|()| {
            if options.has('s') {
                platform::symlink(source, &path)
            } else {
                fs::hard_link(context.path(source), &path)
            }
        });
        if let Err(error) = linked {
            context.complain(&Failure::about(&target, &error)).await?;
            code = 1;
        }
    }
    context.end(code).await
}

async fn mktemp(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "dqtp:u",
        &[("directory", 'd'), ("tmpdir", 'p')],
    )?;
    let template = options
        .operands
        .first()
        .map_or("tmp.XXXXXX", String::as_str);
    let stem = template.trim_end_matches('X');
    let count = template.len() - stem.len();
    if count < 3 {
        return Err(Failure::new(format!(
            "too few X's in template `{template}`"
        )));
    }
    let folder = match (
        options.value('p'),
        options.operands.is_empty() || options.has('t'),
    ) {
        (Some(folder), _) => folder.to_owned(),
        (None, true) => context.variable("TMPDIR").unwrap_or("/tmp").to_owned(),
        (None, false) => String::new(),
    };
    for _ in 0..TRIES_MAX {
        let random = platform::random(count);
        let letters = random
            .iter()
            .map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
        let name = PathBuf::from(&folder).join(format!("{stem}{}", letters.collect::<String>()));
        let path = context.path(&name);
        let made = if options.has('u') {
            Ok(())
        } else if options.has('d') {
            fs::create_dir(&path)
        } else {
            fs::File::create_new(&path).map(drop)
        };
        match made {
            Ok(()) => {
                context.line(name.display().to_string()).await?;
                return context.end(0).await;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::about(name.display().to_string(), &error)),
        }
    }
    Err(Failure::new("no free name found"))
}

async fn truncate(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "cs:", &[("size", 's')])?;
    let size = options
        .value('s')
        .ok_or_else(|| Failure::usage("-s SIZE is expected"))?;
    let size = super::blocks::size(size)?;
    each(&context, &options, |path| {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.set_len(size)
    })
    .await
}

async fn sync(_context: Context) -> Outcome {
    Ok(0)
}
