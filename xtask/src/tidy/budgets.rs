//! Lengths of files and functions, and what must not stand in any source.

use std::path::Path;

use super::source::Source;
use crate::workspace::{files_below, read, relative};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function, tests included.
const FUNCTION_LINES_MAX: usize = 70;
/// Above a function that is a table, this exempts it; the reason follows.
const TABLE_MARK: &str = "// tidy: table";
/// Code that marks unfinished work, and tests that do not run.
const BANNED: &[(&str, &str)] = &[
    ("#[ignore", "a test that cannot run here fails loudly"),
    ("todo!(", "what is not served is refused by name"),
    ("unimplemented!(", "what is not served is refused by name"),
    ("dbg!(", "`tracing` tells what happens"),
];

/// Checks every Rust source of the repository.
///
/// # Errors
///
/// Fails when a source cannot be read.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files_below(root)? {
        if path.extension().is_some_and(|extension| extension == "rs") {
            check_source(&relative(&path), &read(&path)?, &mut found);
        }
    }
    Ok(found)
}

fn check_source(name: &str, text: &str, found: &mut Vec<String>) {
    let source = Source::new(text);
    let lines = source.production_lines();
    if lines > FILE_LINES_MAX && !is_test(name) {
        found.push(format!(
            "{name}: {lines} lines of production code; {FILE_LINES_MAX} is the limit"
        ));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES_MAX && !is_table(text, function.line) {
            let (line, lines) = (function.line, function.lines);
            let what = format!(
                "`{}` has {lines} lines; {FUNCTION_LINES_MAX} is the limit",
                function.name
            );
            found.push(format!("{name}:{line}: {what}"));
        }
    }
    for (banned, reason) in BANNED {
        for line in source.lines_with(banned) {
            found.push(format!("{name}:{line}: `{banned}` is banned: {reason}"));
        }
    }
}

/// Whether a file holds nothing but tests.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs")
        || name
            .split('/')
            .any(|part| part == "tests" || part == "scenarios")
}

/// Whether the lines directly above a function, its documentation and attributes, hold the mark.
fn is_table(text: &str, line: usize) -> bool {
    let above: Vec<&str> = text.lines().take(line.saturating_sub(1)).collect();
    let attached =
        |text: &&&str| text.trim_start().starts_with("//") || text.trim_start().starts_with("#[");
    above
        .iter()
        .rev()
        .take_while(attached)
        .any(|text| text.trim_start().starts_with(TABLE_MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let mut found = Vec::new();
        check_source("a/src/b.rs", text, &mut found);
        assert_eq!(found, expected);
    }

    #[test]
    fn a_long_function_is_named_with_its_line_and_length() {
        let body = "    step();\n".repeat(70);
        let long = format!("\nfn long() {{\n{body}}}\n");
        check(
            &long,
            &["a/src/b.rs:2: `long` has 72 lines; 70 is the limit"],
        );
        let table =
            format!("\n// tidy: table of steps\n#[rustfmt::skip]\nfn long() {{\n{body}}}\n");
        check(&table, &[]);
        let body = "    step();\n".repeat(68);
        check(&format!("fn short() {{\n{body}}}\n"), &[]);
    }

    #[test]
    fn tests_do_not_count_as_production_code() {
        let code = "const A: u8 = 0;\n".repeat(800);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        check(&format!("{code}{tests}"), &[]);
        let message = "a/src/b.rs: 801 lines of production code; 800 is the limit";
        check(&format!("{code}\n{tests}"), &[message]);
    }

    #[test]
    fn banned_code_is_found_and_text_about_it_is_not() {
        let found = "a/src/b.rs:1: `todo!(` is banned: what is not served is refused by name";
        check("fn a() { todo!(\"b\") }\n", &[found]);
        check("// todo!( is banned\nconst A: &str = \"todo!(\";\n", &[]);
    }
}
