//! A Rust source as the budgets see it: what is code, where functions begin and end.
//!
//! A lexer and braces are enough for that; a parser would be the largest dependency of these chores.

/// A source whose comments and literals are blanked out, with the lines kept.
pub(super) struct Source {
    code: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// The line of its `fn`, counted from one.
    pub(super) line: usize,
    /// The lines from its `fn` to its closing brace.
    pub(super) lines: usize,
}

impl Source {
    /// Reads a source.
    pub(super) fn new(text: &str) -> Self {
        Self { code: blank(text) }
    }

    /// Counts the lines outside `#[cfg(test)]` modules.
    pub(super) fn production_lines(&self) -> usize {
        let mut tests = 0;
        for (start, mark) in self.code.match_indices("#[cfg(test)]") {
            let rest = &self.code[start + mark.len()..];
            if !rest.trim_start().starts_with("mod ") {
                continue;
            }
            let begin = start + mark.len();
            let end = self.body_after(begin).map_or(begin, |(_, end)| end);
            tests += self.line_of(end) - self.line_of(start) + 1;
        }
        self.code.lines().count() - tests
    }

    /// Returns the functions that have a body, in order.
    pub(super) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for (start, keyword) in self.code.match_indices("fn ") {
            if self.code[..start].ends_with(is_word) {
                continue;
            }
            let rest = &self.code[start + keyword.len()..];
            let name: String = rest
                .trim_start()
                .chars()
                .take_while(|c| is_word(*c))
                .collect();
            let Some((_, end)) = self.body_after(start).filter(|_| !name.is_empty()) else {
                continue;
            };
            let line = self.line_of(start);
            functions.push(Function {
                name,
                line,
                lines: self.line_of(end) - line + 1,
            });
        }
        functions
    }

    /// Returns the lines of code that hold `text`.
    pub(super) fn lines_with(&self, text: &str) -> Vec<usize> {
        self.code
            .match_indices(text)
            .map(|(at, _)| self.line_of(at))
            .collect()
    }

    /// Finds the braces of the item at `start`; an item that ends with a semicolon has none.
    fn body_after(&self, start: usize) -> Option<(usize, usize)> {
        let (mut nested, mut depth, mut begin) = (0_i32, 0, None);
        for (at, byte) in self.code.bytes().enumerate().skip(start) {
            match byte {
                b'(' | b'[' => nested += 1,
                b')' | b']' => nested -= 1,
                b';' if nested <= 0 && begin.is_none() => return None,
                b'{' => {
                    depth += 1;
                    if begin.is_none() && nested <= 0 {
                        begin = Some((at, depth));
                    }
                }
                b'}' => {
                    if let Some((begin, outer)) = begin
                        && depth == outer
                    {
                        return Some((begin, at));
                    }
                    depth -= 1;
                }
                _ => {}
            }
        }
        None
    }

    fn line_of(&self, at: usize) -> usize {
        self.code[..at]
            .bytes()
            .filter(|byte| *byte == b'\n')
            .count()
            + 1
    }
}

/// Puts spaces in the place of comments, strings and characters, byte for byte.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let before = code.chars().next_back();
        let length = if before.is_some_and(is_word) {
            0
        } else {
            literal_prefix(rest)
        };
        let blanked = comment(rest).or_else(|| literal(&rest[length..]).map(|end| length + end));
        match blanked {
            Some(end) => {
                code.extend(rest[..end].chars().flat_map(blank_of));
                rest = &rest[end..];
            }
            None => {
                code.push(if first.is_ascii() { first } else { '_' });
                code.extend(std::iter::repeat_n('_', first.len_utf8() - 1));
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    code
}

fn blank_of(c: char) -> impl Iterator<Item = char> {
    let blank = if c == '\n' { '\n' } else { ' ' };
    std::iter::repeat_n(blank, c.len_utf8())
}

/// The length of the `b` or `c` that may stand before a literal.
fn literal_prefix(text: &str) -> usize {
    let prefix = text.starts_with(['b', 'c']) && text[1..].starts_with(['"', '\'', 'r']);
    usize::from(prefix)
}

/// The length of the comment that `text` begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0;
    for (at, _) in text.char_indices() {
        if text[at..].starts_with("/*") {
            depth += 1;
        } else if text[..at].ends_with("*/") && at > 3 {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    Some(text.len())
}

/// The length of the string or character that `text` begins with.
fn literal(text: &str) -> Option<usize> {
    if let Some(raw) = text.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(2 + hashes + body.find(&end).map_or(body.len(), |at| at + end.len()));
    }
    if text.starts_with('"') {
        return Some(closed_by(text, '"').unwrap_or(text.len()));
    }
    let inside = text.strip_prefix('\'')?;
    let mut chars = inside.chars();
    let first = chars.next()?;
    // A lifetime has no closing quote after its first character.
    let is_char = first == '\\' || chars.next() == Some('\'');
    if is_char { closed_by(text, '\'') } else { None }
}

/// The length of a literal up to its closing quote; a backslash takes the next character with it.
fn closed_by(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_functions(text: &str, expected: &[(&str, usize, usize)]) {
        let found = Source::new(text).functions();
        let found: Vec<_> = found
            .iter()
            .map(|found| (found.name.as_str(), found.line, found.lines))
            .collect();
        assert_eq!(found, expected, "in {text}");
    }

    #[test]
    fn functions_are_found_with_their_lines() {
        check_functions("fn a() {}\n", &[("a", 1, 1)]);
        check_functions(
            "\npub async fn b<T>(x: [u8; 4]) -> T\nwhere\n    T: Fn(u8),\n{\n}\n",
            &[("b", 2, 5)],
        );
        check_functions(
            "trait T {\n    fn c(&self);\n    fn d(&self) {\n    }\n}\n",
            &[("d", 3, 2)],
        );
        check_functions(
            "fn outer() {\n    fn inner() {\n    }\n}\n",
            &[("outer", 1, 4), ("inner", 2, 2)],
        );
    }

    #[test]
    fn pointers_to_functions_and_words_that_end_alike_are_none() {
        check_functions("type F = fn(u8) -> u8;\nconst dfn : u8 = 0;\n", &[]);
    }

    #[test]
    fn braces_in_literals_and_comments_do_not_count() {
        for body in [
            "\"}\"",
            "'}'",
            "b'}'",
            "r#\"\"}\"#",
            "br\"}\"",
            "/* } /* } */ } */",
            "// }",
            "\"\\\"}\"",
            "'\\''; '}'",
        ] {
            check_functions(&format!("fn a<'a>() {{\n{body}\n}}\n"), &[("a", 1, 3)]);
        }
    }

    #[test]
    fn lifetimes_open_no_literal() {
        check_functions(
            "fn a<'a>(x: &'a str) {\n}\nfn b(x: &'static str) {}\n",
            &[("a", 1, 2), ("b", 3, 1)],
        );
    }

    #[test]
    fn letters_of_every_alphabet_keep_the_lines() {
        check_functions("// „ä“ …\nfn ä() {\n    \"→\";\n}\n", &[("__", 2, 3)]);
    }

    #[test]
    fn production_ends_where_the_tests_module_begins() {
        let count = |text| Source::new(text).production_lines();
        assert_eq!(count("a;\nb;\n#[cfg(test)]\nmod tests {\n    c;\n}\n"), 2);
        assert_eq!(count("a;\n#[cfg(test)]\nmod tests;\n"), 2);
        assert_eq!(count("#[cfg(test)]\nconst A: u8 = 1;\n"), 2);
    }
}
