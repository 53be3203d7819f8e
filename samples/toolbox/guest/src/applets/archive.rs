//! `tar`: makes, lists and unpacks archives, as `kubectl cp` asks for.

mod header;

use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use super::time::{self, Moment};
use super::{listing, owners};
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::ownership::{self, Permissions, Table};
use crate::pattern;
use crate::platform;
use crate::stream::{Handle, Mode, Stream};

use header::{BLOCK, Entry, Kind};

applets! {
    "tar" => tar,
}

const CHUNK_BYTES: usize = 32 * 1024;
/// A record of pax or GNU may be this long.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// Options that only say what is done anyway, or what WASI has nothing for.
const WITHOUT_EFFECT: &[&str] = &[
    "--same-owner",
    "--same-permissions",
    "--numeric-owner",
    "--overwrite",
    "--warning=no-unknown-keyword",
    "--format=gnu",
    "--format=ustar",
    "--format=pax",
];

/// What files lose of their mode that are not unpacked as they were.
const UMASK: u32 = 0o022;

/// What is done with an archive.
struct Job {
    context: Context,
    options: Options,
    folder: PathBuf,
}

async fn tar(context: Context) -> Outcome {
    let mut words: Vec<String> = context.arguments().to_vec();
    words.retain(|word| !WITHOUT_EFFECT.contains(&word.as_str()));
    // The first word may be letters without a dash; those with values take the words that follow.
    if let Some(first) = words.first()
        && !first.starts_with('-')
    {
        words[0] = format!("-{first}");
    }
    let words = spread(&words);
    let long = &[
        ("create", 'c'),
        ("extract", 'x'),
        ("get", 'x'),
        ("list", 't'),
        ("file", 'f'),
        ("directory", 'C'),
        ("verbose", 'v'),
        ("touch", 'm'),
        ("to-stdout", 'O'),
        ("exclude", 'X'),
        ("strip-components", 'S'),
        ("gzip", 'z'),
        ("dereference", 'h'),
        ("absolute-names", 'P'),
        ("keep-old-files", 'k'),
        ("no-same-owner", 'o'),
        ("no-same-permissions", 'N'),
        ("preserve-permissions", 'p'),
    ];
    let options = Options::read(&words, "cxtf:C:vmOX:S:zhPkpojN", long)?;
    if options.has('z') || options.has('j') {
        return Err(Failure::new("compressed archives are not supported"));
    }
    let mut folder = context.folder.clone();
    for name in options.values('C') {
        folder.push(name);
    }
    if !folder.is_dir() {
        let name = folder.display().to_string();
        return Err(Failure::about(name, &std::io::ErrorKind::NotFound.into()));
    }
    let job = Job {
        context,
        options,
        folder,
    };
    let code = match (
        job.options.has('c'),
        job.options.has('x'),
        job.options.has('t'),
    ) {
        (true, false, false) => job.create().await?,
        (false, true, false) | (false, false, true) => job.read().await?,
        _ => return Err(Failure::usage("one of c, x and t is expected")),
    };
    job.context.end(code).await
}

/// Writes joined letters apart, so that each value follows its letter: `-cfC a b` is `-c -f a -C b`.
fn spread(words: &[String]) -> Vec<String> {
    let mut spread = Vec::new();
    let mut rest = words.iter().cloned().peekable();
    while let Some(word) = rest.next() {
        let letters = word.strip_prefix('-').unwrap_or_default();
        let joined = spread.is_empty() && letters.len() > 1 && !letters.starts_with('-');
        if !joined || !letters.chars().all(char::is_alphabetic) {
            spread.push(word);
            continue;
        }
        for letter in letters.chars() {
            spread.push(format!("-{letter}"));
            if matches!(letter, 'f' | 'C' | 'X') {
                spread.extend(rest.next());
            }
        }
    }
    spread
}

type Adding<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

impl Job {
    async fn create(&self) -> Result<i32, Failure> {
        let name = self.options.value('f').unwrap_or("-");
        let output = match name {
            "-" => self.context.descriptors.get(1)?,
            name => self.context.create(name, Mode::Write)?,
        };
        if self.options.operands.is_empty() {
            return Err(Failure::usage("an empty archive is refused"));
        }
        let mut code = 0;
        for name in &self.options.operands {
            if let Err(failure) = self.add(&output, name, 0).await {
                self.context.complain(&failure).await?;
                code = 1;
            }
        }
        output.write(&[0; 2 * BLOCK]).await?;
        Ok(code)
    }

    fn excluded(&self, name: &str) -> bool {
        let base = name.rsplit('/').next().unwrap_or(name);
        self.options
            .values('X')
            .any(|wanted| pattern::matches(wanted, name) || pattern::matches(wanted, base))
    }

    fn add<'a>(&'a self, output: &'a Handle, name: &'a str, depth: u32) -> Adding<'a> {
        Box::pin(async move {
            if self.excluded(name) {
                return Ok(());
            }
            let about = |error| Failure::about(name, &error);
            let path = self.folder.join(name);
            let found = if self.options.has('h') {
                fs::metadata(&path)
            } else {
                fs::symlink_metadata(&path)
            };
            let metadata = found.map_err(about)?;
            let known = platform::permissions(&path, self.options.has('h')).map_err(about)?;
            let mut entry = entry_of(name, &metadata, known);
            if entry.kind == Kind::Link {
                let target = fs::read_link(&path).map_err(about)?;
                entry.target = target.display().to_string();
            }
            if self.options.has('v') {
                self.context.say(&format!("{}\n", entry.name)).await;
            }
            if entry.kind == Kind::File {
                return self.add_file(output, &path, &entry).await;
            }
            output.write(&entry.to_bytes()).await?;
            if entry.kind == Kind::Folder && depth < listing::DEPTH_MAX {
                let mut names = Vec::new();
                for inner in fs::read_dir(&path).map_err(about)? {
                    let inner = inner.map_err(about)?.file_name();
                    names.push(inner.to_string_lossy().into_owned());
                }
                names.sort();
                let base = name.trim_end_matches('/');
                for inner in names {
                    self.add(output, &format!("{base}/{inner}"), depth + 1)
                        .await?;
                }
            }
            Ok(())
        })
    }

    /// Adds a file with as many bytes as its header says, however it changes meanwhile.
    async fn add_file(&self, output: &Handle, path: &Path, entry: &Entry) -> Result<(), Failure> {
        let about = |error| Failure::about(&entry.name, &error);
        let file = Stream::open(path, Mode::Read).map_err(about)?;
        output.write(&entry.to_bytes()).await?;
        let mut left = entry.size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            let mut piece = file.read(most).await.map_err(about)?;
            if piece.is_empty() {
                piece = vec![0; most];
            }
            left -= piece.len() as u64;
            output.write(&piece).await?;
        }
        output.write(&vec![0; header::padding(entry.size)]).await?;
        Ok(())
    }

    async fn read(&self) -> Result<i32, Failure> {
        let input = self.context.open(self.options.value('f').unwrap_or("-"))?;
        let (mut code, mut folders) = (0, Vec::new());
        while let Some(entry) = next_entry(&input).await? {
            let wanted = self.wanted(&entry.name);
            let result = match wanted {
                Some(name) if self.options.has('t') => {
                    self.tell(&entry, &name).await?;
                    skip(&input, entry.size).await
                }
                Some(name) => {
                    if self.options.has('v') {
                        self.context.line(&name).await?;
                    }
                    self.unpack(&input, &entry, &name, &mut folders).await
                }
                None => skip(&input, entry.size).await,
            };
            if let Err(failure) = result {
                self.context.complain(&failure).await?;
                code = 1;
            }
            skip(&input, header::padding(entry.size) as u64).await?;
        }
        // Times of folders change with what is put into them, and a mode may close one.
        for (path, entry) in folders.iter().rev() {
            if let Err(error) = self.hand_over(path, entry) {
                let failure = Failure::about(&entry.name, &error);
                self.context.complain(&failure).await?;
                code = 1;
            }
            if !self.options.has('m') {
                let _ = platform::set_times(path, modified(entry));
            }
        }
        // Who writes the archive may still be writing zeros.
        while !input.read(CHUNK_BYTES).await?.is_empty() {}
        Ok(code)
    }

    /// The name an entry gets, if it is wanted at all.
    fn wanted(&self, name: &str) -> Option<String> {
        let plain = name.trim_end_matches('/');
        let operands = &self.options.operands;
        let named = operands.is_empty()
            || operands.iter().any(|operand| {
                let operand = operand.trim_end_matches('/');
                let inner = plain.strip_prefix(operand);
                inner.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    || pattern::matches(operand, plain)
            });
        if !named || self.excluded(plain) {
            return None;
        }
        let stripped = self.options.value('S').and_then(|text| text.parse().ok());
        let parts = name.split('/').skip(stripped.unwrap_or(0));
        let name = parts.collect::<Vec<_>>().join("/");
        (!name.is_empty()).then_some(name)
    }

    async fn tell(&self, entry: &Entry, name: &str) -> Result<(), Failure> {
        if !self.options.has('v') {
            self.context.line(name).await?;
            return Ok(());
        }
        let (kind, target) = match entry.kind {
            Kind::Folder => ('d', String::new()),
            Kind::Link => ('l', format!(" -> {}", entry.target)),
            Kind::HardLink => ('h', format!(" link to {}", entry.target)),
            Kind::File | Kind::Other => ('-', String::new()),
        };
        let Permissions { mode, uid, gid } = entry.permissions;
        let mode = ownership::shown_as(mode, kind);
        let (user, group) = (Table::Users.shown(uid), Table::Groups.shown(gid));
        let moment = Moment::of(modified(entry));
        let time = time::format(moment, "%Y-%m-%d %H:%M:%S");
        let text = format!(
            "{mode} {user}/{group} {:>9} {time} {name}{target}",
            entry.size
        );
        self.context.line(text).await?;
        Ok(())
    }

    async fn unpack(
        &self,
        input: &Handle,
        entry: &Entry,
        name: &str,
        folders: &mut Vec<(PathBuf, Entry)>,
    ) -> Result<(), Failure> {
        if entry.kind == Kind::File && self.options.has('O') {
            let output = self.context.descriptors.get(1)?;
            return copy(input, entry.size, &output).await;
        }
        let about = |error| Failure::about(name, &error);
        let path = match self.inside(name) {
            Some(path) => path,
            None => {
                skip(input, entry.size).await?;
                return Err(Failure::new(format!("{name}: leads out of the folder")));
            }
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(about)?;
        }
        if entry.kind != Kind::Folder && fs::symlink_metadata(&path).is_ok_and(|m| !m.is_dir()) {
            fs::remove_file(&path).map_err(about)?;
        }
        match entry.kind {
            Kind::Folder => {
                if !path.is_dir() {
                    fs::create_dir_all(&path).map_err(about)?;
                }
                folders.push((path, entry.clone()));
                return skip(input, entry.size).await;
            }
            Kind::Link => platform::symlink(&entry.target, &path).map_err(about)?,
            Kind::HardLink => {
                let target = self.inside(&entry.target);
                let target =
                    target.ok_or_else(|| Failure::new("a link leads out of the folder"))?;
                fs::hard_link(target, &path).map_err(about)?;
            }
            Kind::File => {
                let output = match Stream::open(&path, Mode::Write) {
                    Ok(output) => output,
                    Err(error) => {
                        skip(input, entry.size).await?;
                        return Err(about(error));
                    }
                };
                copy(input, entry.size, &output).await?;
                drop(output);
                self.hand_over(&path, entry).map_err(about)?;
                if !self.options.has('m') {
                    let _ = platform::set_times(&path, modified(entry));
                }
                return Ok(());
            }
            Kind::Other => {
                skip(input, entry.size).await?;
                return Err(Failure::new(format!(
                    "{name}: neither file, folder nor link"
                )));
            }
        }
        skip(input, entry.size).await
    }

    /// Gives a file the mode of its entry, and its owner as well if root asks, as tar does.
    fn hand_over(&self, path: &Path, entry: &Entry) -> io::Result<()> {
        let Permissions { mode, uid, gid } = entry.permissions;
        let is_root = platform::user().uid == 0;
        let found = platform::permissions(path, true)?;
        if is_root && !self.options.has('o') && (uid, gid) != (found.uid, found.gid) {
            owners::settle(platform::set_owner(path, true, Some(uid), Some(gid)))?;
        }
        let is_whole = self.options.has('p') || is_root && !self.options.has('N');
        let mode = mode & if is_whole { 0o7777 } else { !UMASK & 0o777 };
        match mode == found.mode {
            true => Ok(()),
            false => owners::settle(platform::set_mode(path, true, mode)),
        }
    }

    /// The path of an entry; `None` when it leads out of the folder.
    fn inside(&self, name: &str) -> Option<PathBuf> {
        let mut path = self.folder.clone();
        for component in Path::new(name).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
                Component::ParentDir => return None,
            }
        }
        Some(path)
    }
}

fn entry_of(name: &str, metadata: &Metadata, permissions: Permissions) -> Entry {
    let kind = if metadata.is_dir() {
        Kind::Folder
    } else if metadata.is_symlink() {
        Kind::Link
    } else {
        Kind::File
    };
    let mut name = name.trim_start_matches('/').to_owned();
    if name.is_empty() {
        ".".clone_into(&mut name);
    }
    if kind == Kind::Folder && !name.ends_with('/') {
        name.push('/');
    }
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Entry {
        name,
        kind,
        size: if kind == Kind::File {
            metadata.len()
        } else {
            0
        },
        seconds: u64::try_from(Moment::of(modified).seconds).unwrap_or(0),
        target: String::new(),
        permissions,
    }
}

fn modified(entry: &Entry) -> SystemTime {
    let since = Duration::from_secs(entry.seconds);
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Reads exactly so many bytes; fewer at the end of the input.
async fn exactly(input: &Handle, length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let piece = input.read(length - bytes.len()).await?;
        if piece.is_empty() {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn skip(input: &Handle, length: u64) -> Result<(), Failure> {
    copy(input, length, &Stream::null()).await
}

async fn copy(input: &Handle, mut length: u64, output: &Handle) -> Result<(), Failure> {
    while length > 0 {
        let most = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(CHUNK_BYTES);
        let piece = input.read(most).await?;
        if piece.is_empty() {
            return Err(Failure::new("unexpected end of the archive"));
        }
        length -= piece.len() as u64;
        output.write(&piece).await?;
    }
    Ok(())
}

/// Reads the next header with the records before it that belong to it.
async fn next_entry(input: &Handle) -> Result<Option<Entry>, Failure> {
    let mut extra = header::Extra::default();
    loop {
        let block = exactly(input, BLOCK).await?;
        if block.is_empty() || block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let block: [u8; BLOCK] = block
            .try_into()
            .map_err(|_| Failure::new("unexpected end of the archive"))?;
        if block[..2] == [0x1f, 0x8b] {
            return Err(Failure::new("compressed archives are not supported"));
        }
        let head = header::parse(&block).ok_or_else(|| Failure::new("this is no tar archive"))?;
        if !head.is_record() {
            return Ok(Some(head.entry(extra)));
        }
        if head.size() > RECORD_BYTES_MAX {
            return Err(Failure::new("a record of the archive is too long"));
        }
        let length = usize::try_from(head.size()).unwrap_or(0);
        let record = exactly(input, length + header::padding(head.size())).await?;
        head.note(&record[..length.min(record.len())], &mut extra);
    }
}
