//! What a program is here: words, descriptors, a folder and an environment in, an exit code out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use crate::reactor::Boxed;
use crate::stream::{Descriptors, Handle, Mode, Stream};
use crate::{applets, platform, shell};

/// Output is passed on when this much has gathered.
const OUTPUT_BYTES: usize = 8 * 1024;
/// Commands may be nested this many levels deep: functions, subshells, loops, programs that start programs.
/// An instance has 512 KiB of stack, of which a level takes about 1.2 KiB.
pub(crate) const DEPTH_MAX: u32 = 240;
/// As many levels a program takes that another one starts.
pub(crate) const PROGRAM_LEVELS: u32 = 6;

/// The code of a program that wrote to a pipe nobody reads, as by SIGPIPE.
const BROKEN_PIPE: i32 = 141;
/// The code when there is no such program.
pub(crate) const NOT_FOUND: i32 = 127;
/// The code when a file is there and cannot be run.
pub(crate) const NOT_EXECUTABLE: i32 = 126;

/// Variables that a program is given.
pub(crate) type Environment = BTreeMap<String, String>;

/// What a program is: its name, and what runs it.
pub(crate) type Applet = (&'static str, fn(Context) -> Boxed<Outcome>);

/// How a program ended: its exit code, or why it failed.
pub(crate) type Outcome = Result<i32, Failure>;

/// Why a program failed: what it says about that, and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: i32,
}

impl Failure {
    /// A failure with code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::with_code(1, message)
    }

    /// A program was called in a way it does not understand: code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::with_code(2, message)
    }

    /// A failure with a code.
    pub(crate) fn with_code(code: i32, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message, code }
    }

    /// A failure that has to do with a name.
    pub(crate) fn about(name: impl AsRef<str>, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::with_code(BROKEN_PIPE, "");
        }
        Self::new(format!("{}: {}", name.as_ref(), describe(error)))
    }

    /// What is said; nothing when it is empty.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The exit code.
    pub(crate) fn code(&self) -> i32 {
        self.code
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::with_code(BROKEN_PIPE, "");
        }
        Self::new(describe(&error))
    }
}

/// What a system says about an error, in the words people know.
pub(crate) fn describe(error: &io::Error) -> String {
    use io::ErrorKind as Kind;
    let known = match error.kind() {
        Kind::NotFound => "No such file or directory",
        Kind::PermissionDenied => "Permission denied",
        Kind::AlreadyExists => "File exists",
        Kind::ConnectionRefused => "Connection refused",
        Kind::ConnectionReset => "Connection reset by peer",
        Kind::HostUnreachable => "No route to host",
        Kind::NetworkUnreachable => "Network is unreachable",
        Kind::TimedOut => "Connection timed out",
        Kind::AddrInUse => "Address in use",
        Kind::NotADirectory => "Not a directory",
        Kind::IsADirectory => "Is a directory",
        Kind::DirectoryNotEmpty => "Directory not empty",
        Kind::ReadOnlyFilesystem => "Read-only file system",
        Kind::StorageFull => "No space left on device",
        Kind::CrossesDevices => "Invalid cross-device link",
        Kind::ResourceBusy => "Device or resource busy",
        Kind::Unsupported => "Not supported",
        _ => "",
    };
    if known.is_empty() {
        error.to_string()
    } else {
        known.to_owned()
    }
}

/// What a program is given.
pub(crate) struct Context {
    /// Its words; the first is its name.
    pub(crate) words: Vec<String>,
    /// Its descriptors.
    pub(crate) descriptors: Descriptors,
    /// Its working folder, absolute.
    pub(crate) folder: PathBuf,
    /// Its environment.
    pub(crate) environment: Rc<Environment>,
    /// How many levels deep it is nested.
    pub(crate) depth: u32,
    /// Where scripts are looked for, when that is not what its environment says.
    pub(crate) search: Option<String>,
    gathered: RefCell<Vec<u8>>,
}

/// The words of the program that this process is to be: `toolbox PROGRAM …` is `PROGRAM …`, and so is any
/// name that is no program's. Where the file of this component lies does not matter.
pub(crate) fn words_of_program(mut words: Vec<String>) -> Vec<String> {
    let named = words.first().and_then(|word| find(word));
    match named {
        // A shell tells what went wrong under the name that it was called by.
        Some(("sh" | "ash" | "bash", _)) => {}
        Some((name, _)) => (*name).clone_into(&mut words[0]),
        None if words.len() > 1 => {
            words.remove(0);
        }
        None => words = vec!["toolbox".to_owned()],
    }
    words
}

/// Finds a program by its name, which may come with a folder.
pub(crate) fn find(word: &str) -> Option<&'static Applet> {
    let name = word.rsplit('/').next().unwrap_or(word);
    let name = name.strip_suffix(".wasm").unwrap_or(name);
    // A login shell is called by a name that begins so.
    let name = name.strip_prefix('-').unwrap_or(name);
    applets::ALL
        .iter()
        .flat_map(|group| group.iter())
        .find(|(known, _)| *known == name)
}

/// Runs what the words of a context name, and says on standard error what went wrong.
pub(crate) async fn run(context: Context) -> i32 {
    let name = context.words.first().cloned().unwrap_or_default();
    let errors = context.descriptors.get(2);
    let outcome = if context.depth > DEPTH_MAX {
        Err(Failure::with_code(
            NOT_EXECUTABLE,
            "commands are nested too deep",
        ))
    } else {
        start(context).await
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if let (false, Ok(errors)) = (failure.message.is_empty(), errors) {
                let line = format!("{name}: {}\n", failure.message);
                let _ = errors.write(line.as_bytes()).await;
            }
            failure.code
        }
    }
}

async fn start(context: Context) -> Outcome {
    let Some(word) = context.words.first() else {
        return Ok(0);
    };
    // A file that is there comes first where a folder is named; programs of the toolbox have no files. The first
    // program of all is of the toolbox, since the toolbox was started for it.
    if context.depth > 0 && word.contains('/') {
        let path = context.path(word);
        // In an image of the toolbox the programs are links to it. No Wasm program can be started from here,
        // so one of a known name is taken for such a link.
        if let Some((_, run)) = find(word)
            && is_wasm(&path)
        {
            return run(context).await;
        }
        if path.exists() {
            return shell::run_file(context, &path).await;
        }
    }
    match find(word) {
        Some((_, run)) => run(context).await,
        None if word.contains('/') => {
            Err(Failure::with_code(NOT_FOUND, "No such file or directory"))
        }
        None => match context.find_in_path(word) {
            Some(path) => shell::run_file(context, &path).await,
            None => Err(Failure::with_code(NOT_FOUND, "not found")),
        },
    }
}

fn is_wasm(path: &Path) -> bool {
    use io::Read;
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"\0asm"
}

impl Context {
    /// A program with these words.
    pub(crate) fn new(
        words: Vec<String>,
        descriptors: Descriptors,
        folder: PathBuf,
        environment: Rc<Environment>,
        depth: u32,
    ) -> Self {
        Self {
            words,
            descriptors,
            folder,
            environment,
            depth,
            search: None,
            gathered: RefCell::default(),
        }
    }

    /// The program that this process is.
    pub(crate) fn of_process(words: Vec<String>) -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment: Environment = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        let folder = platform::working_folder().unwrap_or_else(|| "/".to_owned());
        let folder = resolve(Path::new("/"), Path::new(&folder));
        Self::new(words, Stream::standard(), folder, Rc::new(environment), 0)
    }

    /// A program that this one starts, in the same place.
    pub(crate) fn child(&self, words: Vec<String>) -> Self {
        Self::new(
            words,
            self.descriptors.clone(),
            self.folder.clone(),
            Rc::clone(&self.environment),
            self.depth + PROGRAM_LEVELS,
        )
    }

    /// Runs a program that this one starts; what was written before is seen before.
    pub(crate) async fn run_child(&self, child: Self) -> Outcome {
        self.flush().await?;
        let running: Boxed<i32> = Box::pin(run(child));
        Ok(running.await)
    }

    /// Its words without its name.
    pub(crate) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// A variable of the environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// The absolute path that a word means.
    pub(crate) fn path(&self, word: impl AsRef<Path>) -> PathBuf {
        self.folder.join(word)
    }

    /// Finds a script along `PATH`: the first that may be run, else the first that is there.
    pub(crate) fn find_in_path(&self, word: &str) -> Option<PathBuf> {
        let folders = self.search.as_deref().or_else(|| self.variable("PATH"))?;
        let mut found = folders
            .split(':')
            .filter(|folder| !folder.is_empty())
            .map(|folder| self.path(folder).join(word))
            .filter(|path| path.is_file());
        let first = found.next()?;
        if may_run(&first) {
            return Some(first);
        }
        found.find(|path| may_run(path)).or(Some(first))
    }

    /// Standard input.
    pub(crate) fn input(&self) -> io::Result<Handle> {
        self.descriptors.get(0)
    }

    /// Opens a file to read; `-` is standard input.
    pub(crate) fn open(&self, name: &str) -> Result<Handle, Failure> {
        let opened = match name {
            "-" | "/dev/stdin" => self.input(),
            _ => Stream::open(&self.path(name), Mode::Read),
        };
        opened.map_err(|error| Failure::about(name, &error))
    }

    /// Opens a file to write.
    pub(crate) fn create(&self, name: &str, mode: Mode) -> Result<Handle, Failure> {
        let opened = match name {
            "/dev/stdout" => self.descriptors.get(1),
            "/dev/stderr" => self.descriptors.get(2),
            _ => Stream::open(&self.path(name), mode),
        };
        opened.map_err(|error| Failure::about(name, &error))
    }

    /// Writes to standard output, some time before the program ends.
    pub(crate) async fn write(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let full = {
            let mut gathered = self.gathered.borrow_mut();
            gathered.extend_from_slice(bytes.as_ref());
            gathered.len() >= OUTPUT_BYTES
        };
        if full { self.flush().await } else { Ok(()) }
    }

    /// Writes a line to standard output.
    pub(crate) async fn line(&self, text: impl AsRef<[u8]>) -> io::Result<()> {
        self.gathered.borrow_mut().extend_from_slice(text.as_ref());
        self.write("\n").await
    }

    /// Passes on what was written.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let gathered = self.gathered.take();
        if gathered.is_empty() {
            return Ok(());
        }
        self.descriptors.get(1)?.write(&gathered).await
    }

    /// Takes the next line of a stream; before waiting for one, passes on what was written.
    pub(crate) async fn next_line(&self, input: &Handle) -> io::Result<Option<Vec<u8>>> {
        if !input.has_line() {
            self.flush().await?;
        }
        input.read_line().await
    }

    /// Ends with a code, after passing on what was written.
    pub(crate) async fn end(&self, code: i32) -> Outcome {
        self.flush().await?;
        Ok(code)
    }

    /// Says on standard error what went wrong, and goes on.
    pub(crate) async fn complain(&self, failure: &Failure) -> Result<(), Failure> {
        if failure.code == BROKEN_PIPE {
            return Err(Failure::with_code(BROKEN_PIPE, ""));
        }
        self.flush().await?;
        let name = self.words.first().map_or("", String::as_str);
        self.say(&format!("{name}: {}\n", failure.message)).await;
        Ok(())
    }

    /// Writes to standard error, if that is open.
    pub(crate) async fn say(&self, text: &str) {
        if let Ok(errors) = self.descriptors.get(2) {
            let _ = errors.write(text.as_bytes()).await;
        }
    }
}

/// Whether a file has the bit by which it may be run, where files have modes.
pub(crate) fn may_run(path: &Path) -> bool {
    let permissions = platform::permissions(path, true);
    permissions.map_or(true, |of| platform::user().may(1, of))
}

/// Makes a path absolute, and takes `.` and `..` out of it as they are written.
pub(crate) fn resolve(folder: &Path, path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => {
                resolved.push(component);
            }
        }
    }
    resolved
}

/// Without the bytes that end a line.
pub(crate) fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}
