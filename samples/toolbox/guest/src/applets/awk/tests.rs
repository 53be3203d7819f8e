//! Programs with what they write and end with, programs that mean harm, and programs that are none.
//!
//! The corpus was compared with busybox' awk, mawk 1.3.4 and gawk 5.2 (plain and as POSIX). Where these
//! differ, what most of them do is expected.

use crate::shell::tests::{check_snippets, run};

const CORPUS: &str = include_str!("tests/corpus.txt");
/// Changed programs that are compiled.
const CHANGED: u64 = 20_000;
/// What is put into them.
const PIECES: &str = "( ) { } [ ] $ / \" \\ \n ; , ++ -- = ~ ! ? : | > >> getline in print printf for while do if else function \
    f( f(a) delete return exit next BEGIN END 1 1e . x a[ sub( split( length é \u{0} # && ^";

#[test]
fn programs_do_what_other_awks_do() {
    let count = check_snippets(CORPUS);
    assert!(count >= 180, "only {count} programs");
}

fn check(name: &str, program: &str, code: i32, output: &str) {
    let script = format!("awk '{program}' 2>&1");
    assert_eq!(run(name, &script), (code, output.to_owned()), "{program}");
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    for (open, close) in [
        ("(", ")"),
        ("- ", ""),
        ("!", ""),
        ("$", ""),
        ("a[", "]"),
        ("f(", ")"),
    ] {
        let nested = format!("{}1{}", open.repeat(5000), close.repeat(5000));
        let script = format!("awk 'function f(x) {{}} BEGIN {{ x = {nested} }}' 2>&1");
        let (code, output) = run("nested", &script);
        assert_eq!(code, 2, "{open}: {output}");
        assert!(output.contains("line 1: nested more than"), "{output}");
    }
    let blocks = format!(
        "BEGIN {{ {}{} }}",
        "if (1) {".repeat(5000),
        "}".repeat(5000)
    );
    let (code, output) = run("blocks", &format!("awk '{blocks}' 2>&1"));
    assert!(code == 2 && output.contains("nested more than"), "{output}");
}

/// A chain is no nesting.
#[test]
fn chains_may_be_long() {
    let sum = format!("BEGIN {{ print 0{} }}", " + 1".repeat(5000));
    check("sum", &sum, 0, "5000\n");
    let joined = format!("BEGIN {{ print length(\"\"{}) }}", " \"a\"".repeat(5000));
    check("joined", &joined, 0, "5000\n");
    let chosen = format!(
        "BEGIN {{ x = 7; if (x == 0) y = 0{}; print y }}",
        (1..500)
            .map(|n| format!("; else if (x == {n}) y = {n}"))
            .collect::<String>()
    );
    check("chosen", &chosen, 0, "7\n");
}

#[test]
fn recursion_without_an_end_is_an_error() {
    check(
        "recursion",
        "function f(n) { return f(n + 1) } BEGIN { f(0) }",
        2,
        "awk: line 1: calls of `f` are nested too deep\n",
    );
    check(
        "commands",
        "BEGIN { while (1) { n++; if ((\"echo \" n | getline x) < 0) exit } }",
        2,
        "awk: line 1: more than 256 files and commands are open: `close` some\n",
    );
}

#[test]
fn what_would_take_all_memory_is_an_error() {
    check(
        "text",
        "BEGIN { x = \"aaaaaaaa\"; while (1) x = x x }",
        2,
        "awk: line 1: a text is too long\n",
    );
    check(
        "fields",
        "BEGIN { $1000000000 = 1 }",
        2,
        "awk: line 1: more than 1000000 fields\n",
    );
    check(
        "count",
        "BEGIN { NF = 1e9 }",
        2,
        "awk: line 1: more than 1000000 fields\n",
    );
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (program, message) in [
        (
            "BEGIN {\n x = (1 + }",
            "line 2: syntax error: `}` where an expression is expected",
        ),
        ("BEGIN {\n\n print \"a }", "line 3: a text is not closed"),
        (
            "BEGIN { print 1",
            "line 1: syntax error: the end where `}` is expected",
        ),
        ("/a(/ { }", "line 1: bad regular expression `a(`"),
        (
            "{ next }\nEND { next }",
            "line 2: `next` outside a rule for records",
        ),
        ("BEGIN { return 1 }", "line 1: `return` outside a function"),
        ("BEGIN { break }", "line 1: `break` outside a loop"),
        ("BEGIN { f(1) }", "line 1: there is no function `f`"),
        (
            "function f(a) { }\nBEGIN { f(1, 2) }",
            "line 2: too many arguments for the function `f`",
        ),
        (
            "function f(a, a) { }",
            "line 1: the parameter `a` is there already",
        ),
        (
            "function f() { }\nfunction f() { }",
            "line 2: the function `f` is there already",
        ),
        (
            "BEGIN { f = 1; f(2) }",
            "line 1: the variable `f` is used as a function",
        ),
        (
            "BEGIN { substr(\"a\") }",
            "line 1: `substr` takes 2 to 3 arguments, not 1",
        ),
        (
            "BEGIN {\n x = 1\n x[1] = 2 }",
            "line 3: `x` is used as an array",
        ),
        (
            "BEGIN {\n a[1] = 1\n a = 2 }",
            "line 3: the array `a` is used as a value",
        ),
        ("BEGIN { print 1 % 0 }", "line 1: division by zero"),
        ("BEGIN { print \"a\" ~ \"[\" }", "line 1: unmatched ["),
        (
            "BEGIN { printf \"%y\", 1 }",
            "line 1: unknown conversion `%y`",
        ),
        (
            "BEGIN { print > \"\" }",
            "line 1: the name of a file or a command is empty",
        ),
        ("BEGIN { @ }", "line 1: unexpected `@`"),
    ] {
        check("mistake", program, 2, &format!("awk: {message}\n"));
    }
}

#[test]
fn bytes_that_are_no_text_come_out_as_they_came_in() {
    for bytes in [
        &b"plain"[..],
        &[0xff, b'a', 0x80, 0xc3],
        "\u{10fffd}\u{10ff41}".as_bytes(),
        "grün".as_bytes(),
    ] {
        let mut out = Vec::new();
        super::text::encode(&super::text::decode(bytes), &mut out);
        assert_eq!(out, bytes);
    }
    let script = "printf '\\377a b\\200\\n' | awk '{ print $2, $1, length }' | od -An -tx1";
    assert_eq!(
        run("bytes", script)
            .1
            .split_whitespace()
            .collect::<String>(),
        "628020ff6120350a"
    );
}

#[test]
fn a_loop_lets_others_go_on() {
    let script = "awk 'BEGIN { while (1); }' & p=$!; sleep 0.01; kill $p; wait $p; echo $?";
    assert_eq!(run("loop", script), (0, "143\n".to_owned()));
}

/// Whatever stands there is compiled or refused.
#[test]
fn no_text_breaks_the_parser() {
    let mut seed = 0x00c0_ffee_u64;
    let mut next = |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("it fits") % below
    };
    let pieces: Vec<&str> = PIECES.split(' ').collect();
    let programs: Vec<&str> = CORPUS.split('\'').skip(1).step_by(2).collect();
    let mut compiled = 0;
    for _ in 0..CHANGED {
        let mut text: Vec<char> = programs[next(programs.len())].chars().collect();
        for _ in 0..=next(3) {
            let at = next(text.len() + 1);
            let end = at + next(text.len() + 1 - at).min(6);
            let piece = pieces[next(pieces.len())].chars();
            text.splice(at..end, piece);
        }
        let text: String = text.into_iter().collect();
        compiled += u64::from(super::parser::compile(&text).is_ok());
    }
    // Changes that left nothing to compile would find nothing.
    assert!((CHANGED / 20..CHANGED).contains(&compiled), "{compiled}");
}
