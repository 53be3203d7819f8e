//! The language of field selectors: `a=b,c!=d`, with `\,`, `\=` and `\\` in values.

/// What one term of a selector demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FieldTerm<'a> {
    pub(super) name: &'a str,
    pub(super) value: String,
    pub(super) equal: bool,
}

/// Reads a selector; the failure is worded as Kubernetes words it.
pub(super) fn parse(text: &str) -> Result<Vec<FieldTerm<'_>>, String> {
    let terms = terms(text).into_iter().filter(|term| !term.is_empty());
    terms
        .map(|term| {
            let (name, value, equal) = split(term)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            let value = unescape(value)?;
            Ok(FieldTerm { name, value, equal })
        })
        .collect()
}

/// Splits at the commas that are not escaped.
fn terms(text: &str) -> Vec<&str> {
    let (mut terms, mut begin, mut escaped) = (Vec::new(), 0, false);
    for (index, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[begin..index]);
                begin = index + 1;
            }
            _ => (),
        }
    }
    terms.push(&text[begin..]);
    terms
}

/// Splits at the first operator: name, value, and whether they shall be equal.
fn split(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find("!=").into_iter().chain(term.find('=')).min()?;
    let (name, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((name, value, false));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='));
    value.map(|value| (name, value, true))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut value = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: \\{other}"
                    ));
                }
            },
            // The stock server writes the letter's number, too.
            ',' | '=' => {
                let number = u32::from(letter);
                return Err(format!(
                    "invalid field selector: unescaped character in value: {number}"
                ));
            }
            letter => value.push(letter),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[(&str, &str, bool)], &str>) {
        let found = parse(text);
        let found: Result<Vec<_>, &str> = match &found {
            Ok(terms) => Ok(terms
                .iter()
                .map(|term| (term.name, term.value.as_str(), term.equal))
                .collect()),
            Err(error) => Err(error),
        };
        assert_eq!(found, expected.map(<[_]>::to_vec), "{text}");
    }

    #[test]
    fn terms_are_names_with_values() {
        check("", Ok(&[]));
        check(
            "a=b,c==d,e!=f,",
            Ok(&[("a", "b", true), ("c", "d", true), ("e", "f", false)]),
        );
        check("a=", Ok(&[("a", "", true)]));
        check(r"a=b\,c\=d\\", Ok(&[("a", r"b,c=d\", true)]));
        check(r"a\,b=c", Ok(&[(r"a\,b", "c", true)]));
    }

    #[test]
    fn refusals_are_worded_as_kubernetes_words_them() {
        check(
            "a,b=c",
            Err("invalid selector: 'a,b=c'; can't understand 'a'"),
        );
        check(
            "a=b=c",
            Err("invalid field selector: unescaped character in value: 61"),
        );
        check(
            r"a=\b",
            Err(r"invalid field selector: invalid escape sequence: \b"),
        );
        check(
            r"a=b\",
            Err(r"invalid field selector: invalid escape sequence: \"),
        );
    }
}
