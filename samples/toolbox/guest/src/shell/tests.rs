//! Snippets with what they write and end with.
//!
//! What is expected was compared with dash and with busybox' ash, which agree on all but what their `echo`
//! and `printf` make of backslashes; there it is busybox' way.

use std::path::PathBuf;
use std::rc::Rc;

use crate::applet::{self, Context, Environment};
use crate::reactor;
use crate::stream::Stream;

const SNIPPETS: &str = include_str!("tests/snippets.txt");

/// A folder of its own that is removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let path = std::env::temp_dir().join(format!("toolbox-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Without optimisation frames are several times as large as in the component.
const STACK_BYTES: usize = 256 << 20;

/// Runs a script and returns its code and what it wrote to standard output.
pub(crate) fn run(name: &str, script: &str) -> (i32, String) {
    let (name, script) = (name.to_owned(), script.to_owned());
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let running = thread.spawn(move || run_here(&name, &script));
    running.expect("a thread starts").join().expect("it ends")
}

fn run_here(name: &str, script: &str) -> (i32, String) {
    let folder = Folder::new(name);
    let (output, captured) = Stream::capture();
    let mut descriptors = Stream::standard();
    descriptors.set(0, Stream::null());
    descriptors.set(1, output);
    descriptors.set(2, Stream::null());
    let environment = Environment::from([("HOME".to_owned(), "/root".to_owned())]);
    let words = ["sh", "-c", script].map(str::to_owned).to_vec();
    let context = Context::new(
        words,
        descriptors,
        folder.0.clone(),
        Rc::new(environment),
        0,
    );
    let code = reactor::run(applet::run(context));
    let written = captured.take();
    (code, String::from_utf8_lossy(&written).into_owned())
}

/// Runs snippets and returns how many there were. Each begins with `### name`; what is expected follows
/// `=== code`, and `\c` means that the last line has no end.
pub(crate) fn check_snippets(snippets: &str) -> usize {
    let mut count = 0;
    let mut wrong = Vec::new();
    for snippet in snippets.split("### ").skip(1) {
        let (name, rest) = snippet.split_once('\n').expect("a name");
        let (script, expected) = rest.split_once("\n=== ").expect("an expectation");
        let (code, output) = expected.split_once('\n').expect("a code");
        let output = output.strip_suffix("\n\\c\n").unwrap_or(output);
        let got = run(name, script);
        if got != (code.parse().expect("a number"), output.to_owned()) {
            wrong.push(format!(
                "{name}\n{script}\nexpected {code} {output:?}, got {got:?}"
            ));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    count
}

#[test]
fn snippets_do_what_other_shells_do() {
    let count = check_snippets(SNIPPETS);
    assert!(count >= 150, "only {count} snippets");
}

fn check(script: &str, code: i32, output: &str) {
    assert_eq!(run(script, script), (code, output.to_owned()), "{script}");
}

/// Nothing a script does may break the instance: the stack is bounded.
#[test]
fn endless_recursion_ends_with_an_error() {
    check("f() { f; }; f; echo never", 2, "");
    check("f() { (f); }; f; echo $?", 0, "2\n");
    check("echo 'sh ./s' >s; sh ./s; echo $?", 0, "2\n");
    check("x='eval \"$x\"'; eval \"$x\"; echo never", 2, "");
    let nested = format!("{}echo a{}", "(".repeat(500), ")".repeat(500));
    check(&nested, 2, "");
}

#[test]
fn jobs_can_be_killed_and_end_with_what_sigterm_leaves() {
    check("sleep 100 & kill $!; wait $!; echo $?", 0, "143\n");
    check(
        "kill -0 $$ && echo there; kill 99 || echo absent",
        0,
        "there\nabsent\n",
    );
    check(
        "trap 'echo got it' TERM; kill -TERM $$; echo on",
        0,
        "got it\non\n",
    );
    check("kill -TERM 1; echo never", 143, "");
}

#[test]
fn larger_shells_conditions_work() {
    check("x=abc; [[ $x == a* && ! -z $x ]] && echo yes", 0, "yes\n");
    check("[[ a1 =~ ^[a-z][0-9]$ ]] && echo yes", 0, "yes\n");
    check("x='a b'; [[ $x = 'a b' ]] && echo yes", 0, "yes\n");
    check("[[ 1 -lt 2 || a = b ]] && echo yes", 0, "yes\n");
    check(
        "x=hello; echo ${x:1:3} ${x/l/L} ${x//l/L} ${x: -2}",
        0,
        "ell heLlo heLLo lo\n",
    );
    check("cat <<< word; ((2 > 1)) && echo yes", 0, "word\nyes\n");
    check("set -o pipefail; false | true; echo $?", 0, "1\n");
}
