//! Builds what is handed out: the stripped program, from which nobody reads in which folder it was built,
//! with its manual and its completions.
//!
//! Names of folders would come into it by panics' places and by C's `__FILE__`, the time by C's `__DATE__`;
//! compilers are told to write others instead, by flags, variables and what stands between cargo and rustc.
//! Then the same commit and the same toolchain give the same bytes everywhere, which `--twice` shows.

mod compiler;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

pub(crate) use self::compiler::compile_if_asked;

use crate::guests::checksum;
use crate::workspace::{call, cargo, output, root};

/// The program that is handed out.
const PRODUCT: &str = "coracle";

/// What a program may weigh that everybody downloads.
const BYTES_MAX: u64 = 60_000_000;

/// Between two flags of the compiler, as cargo reads them from the environment.
const BETWEEN_FLAGS: &str = "\x1f";

/// What stands in the program for the target folder.
const TARGET_TOLD: &str = "/coracle/target";

/// What C's compilers (but Microsoft's) take for the time of the build, in seconds since 1970: the first of
/// January 1980. It is not the commit's: what an earlier commit's build left in the target folder would differ.
const TIME_TOLD: (&str, &str) = ("SOURCE_DATE_EPOCH", "315532800");

/// What lies beside the program in an archive.
const DOCUMENTS: &[&str] = &["LICENSE", "NOTICE", "README.md", "CHANGELOG.md"];

/// Shells with the names that they look for.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "coracle.bash"),
    ("zsh", "_coracle"),
    ("fish", "coracle.fish"),
    ("elvish", "coracle.elv"),
    ("powershell", "_coracle.ps1"),
];

/// What to build, and what to do with it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// For another system than this one
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Build the commit once more in a folder of another name, and compare the bytes
    #[arg(long)]
    twice: bool,
    /// Fill this new folder with what goes into an archive; the program must run here
    #[arg(long, value_name = "FOLDER")]
    archive: Option<PathBuf>,
}

/// Builds, compares and fills.
///
/// # Errors
///
/// Fails when a build does, when the bytes of two builds differ, when the product weighs more than it may,
/// and when the archive's folder is there already.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.twice {
        refuse_changes()?;
    }
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(given) => std::path::absolute(given).context("`CARGO_TARGET_DIR` is no path")?,
        None => root().join("target"),
    };
    let program = build(&root(), &target, options)?;
    let bytes = fs::read(&program).with_context(|| reading(&program))?;
    println!(
        "{}: {} bytes, sha256 {}",
        program.display(),
        bytes.len(),
        checksum(&bytes)
    );
    if options.twice {
        compare(&bytes, options)?;
    }
    if bytes.len() as u64 > BYTES_MAX {
        bail!(
            "the program has {} bytes; {BYTES_MAX} is the limit",
            bytes.len()
        );
    }
    match &options.archive {
        Some(folder) => fill(folder, &program),
        None => Ok(()),
    }
}

/// Builds the commit from a copy of it, and compares.
fn compare(first: &[u8], options: &Options) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("built-in-another-place-")
        .tempdir()
        .context("failed to make a temporary folder")?;
    let copy = folder.path().join("source");
    call(
        Command::new("git")
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(root())
            .arg(&copy),
    )?;
    let program = build(&copy, &folder.path().join("target"), options)?;
    let second = fs::read(&program).with_context(|| reading(&program))?;
    if let Some(at) = difference(first, &second) {
        // What differs says more than where it begins: both programs stay.
        let kept = folder.keep();
        bail!(
            "two builds differ from byte {at} on; the second one stays in `{}`",
            kept.display()
        );
    }
    println!("built again in `{}`: the same bytes", copy.display());
    Ok(())
}

/// The first place at which two programs differ.
fn difference(first: &[u8], second: &[u8]) -> Option<usize> {
    let differs = first.iter().zip(second).position(|(a, b)| a != b);
    let shorter = first.len().min(second.len());
    differs.or((first.len() != second.len()).then_some(shorter))
}

/// A copy has what is committed, and nothing else.
fn refuse_changes() -> anyhow::Result<()> {
    let told = output(
        Command::new("git")
            .current_dir(root())
            .args(["status", "--porcelain"]),
    )?;
    match told.trim() {
        "" => Ok(()),
        _ => bail!("files differ from the commit, of which the second build is made"),
    }
}

fn build(root: &Path, target: &Path, options: &Options) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command
        .current_dir(root)
        .args(["build", "--locked", "--profile", "dist"])
        .args(["--package", PRODUCT, "--bin", PRODUCT])
        .env("CARGO_TARGET_DIR", target)
        // Pieces of code that were compiled before would be put together in another order.
        .env("CARGO_INCREMENTAL", "0")
        .env(TIME_TOLD.0, TIME_TOLD.1)
        .env(
            "RUSTC_WRAPPER",
            env::current_exe().context("this program has no path")?,
        )
        .env(compiler::ASKED, "1")
        .env_remove("RUSTFLAGS");
    let names = names(root, target)?;
    let flags = names.iter().map(|name| name.flag("--remap-path-prefix="));
    // Microsoft's linker writes the time into the program unless it is told otherwise.
    let timeless = is_of_microsoft(options).then(|| "-Clink-arg=/Brepro".into());
    let flags = join(flags.chain(timeless), BETWEEN_FLAGS);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    let mut folder = target.to_owned();
    if let Some(triple) = &options.target {
        command.args(["--target", triple]);
        folder.push(triple);
    }
    // Microsoft's compiler knows no such flag, and writes no folders into optimised code.
    if !is_of_microsoft(options) {
        let flags = names.iter().map(|name| name.flag("-ffile-prefix-map="));
        command.env("CFLAGS", join(flags, " "));
    }
    call(&mut command)?;
    Ok(folder
        .join("dist")
        .join(format!("{PRODUCT}{}", suffix(options))))
}

/// A folder, and what is to stand in the program instead.
struct Name {
    folder: PathBuf,
    told: &'static str,
}

impl Name {
    fn flag(&self, option: &str) -> OsString {
        let mut flag = OsString::from(option);
        flag.push(&self.folder);
        flag.push("=");
        flag.push(self.told);
        flag
    }
}

/// The folders that a compiler reads from; of two that fit, the later one counts.
fn names(root: &Path, target: &Path) -> anyhow::Result<Vec<Name>> {
    let compiler = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(compiler.trim()).join("lib/rustlib/src/rust");
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir()
            .context("nobody says where cargo keeps its files: set `CARGO_HOME`")?
            .join(".cargo"),
    };
    let name = |folder: &Path, told| Name {
        folder: folder.to_owned(),
        told,
    };
    Ok(vec![
        name(&library, "/rustc"),
        name(&home.join("registry/src"), "/cargo"),
        name(root, "/coracle"),
        name(target, TARGET_TOLD),
    ])
}

fn join(flags: impl Iterator<Item = OsString>, between: &str) -> OsString {
    let mut all = OsString::new();
    for flag in flags {
        if !all.is_empty() {
            all.push(between);
        }
        all.push(flag);
    }
    all
}

fn is_of_microsoft(options: &Options) -> bool {
    match &options.target {
        Some(triple) => triple.ends_with("-msvc"),
        None => cfg!(target_env = "msvc"),
    }
}

fn suffix(options: &Options) -> &'static str {
    let is_windows = match &options.target {
        Some(triple) => triple.contains("-windows-"),
        None => cfg!(windows),
    };
    if is_windows { ".exe" } else { "" }
}

/// Fills a new folder: the program, what it writes about itself, the documents.
fn fill(folder: &Path, program: &Path) -> anyhow::Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        fs::write(&file, bytes).with_context(|| format!("failed to write `{}`", file.display()))
    };
    let make = |folder: &Path| {
        fs::create_dir(folder)
            .with_context(|| format!("failed to make the folder `{}`", folder.display()))
    };
    make(folder)?;
    let name = program.file_name().context("the program has a name")?;
    // A copy, for the permission to execute.
    fs::copy(program, folder.join(name)).with_context(|| reading(program))?;
    for document in DOCUMENTS {
        let text = fs::read(root().join(document)).with_context(|| reading(Path::new(document)))?;
        write(document, &text)?;
    }
    let (manual, completions) = (folder.join("man"), folder.join("completions"));
    make(&manual)?;
    make(&completions)?;
    call(Command::new(program).arg("manual").arg(&manual))?;
    for (shell, name) in COMPLETIONS {
        let script = output(Command::new(program).args(["completion", shell]))?;
        write(&format!("completions/{name}"), script.as_bytes())?;
    }
    println!("`{}` is filled", folder.display());
    Ok(())
}

fn reading(file: &Path) -> String {
    format!("failed to read `{}`", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_a_place() {
        assert_eq!(difference(b"same", b"same"), None);
        assert_eq!(difference(b"same", b"sane"), Some(2));
        assert_eq!(difference(b"same", b"sam"), Some(3));
        assert_eq!(difference(b"", b"x"), Some(0));
    }

    #[test]
    fn folders_have_other_names_and_the_target_folder_the_last_word() {
        if coracle_tests::beyond_wine("cargo and rustc are programs of Linux there") {
            return;
        }
        let names = names(Path::new("/a b"), Path::new("/a b/target")).expect("a compiler");
        let flags = names.iter().map(|name| name.flag("--remap-path-prefix="));
        let flags = join(flags, BETWEEN_FLAGS);
        let flags = flags.to_str().expect("text");
        let expected = "--remap-path-prefix=/a b=/coracle\x1f\
                        --remap-path-prefix=/a b/target=/coracle/target";
        assert!(flags.ends_with(expected), "{flags}");
    }
}
