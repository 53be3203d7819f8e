//! The language of label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.

use std::fmt;

use crate::validate;

/// What one term of a selector demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LabelRequirement {
    pub(super) key: String,
    test: LabelTest,
}

#[derive(Debug, PartialEq, Eq)]
enum LabelTest {
    Exists,
    Missing,
    In(Vec<String>),
    /// Also true when the label is missing.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Open,
    Close,
    Comma,
    Not,
    Equal,
    DoubleEqual,
    NotEqual,
    Greater,
    Less,
    End,
}

/// Reads one token after another.
struct Reader<'a> {
    rest: &'a str,
}

/// Reads a selector; the failure is worded as Kubernetes words it.
pub(super) fn parse(text: &str) -> Result<Vec<LabelRequirement>, String> {
    let mut reader = Reader { rest: text };
    let mut requirements = Vec::new();
    if reader.peek() == Token::End {
        return Ok(requirements);
    }
    loop {
        match reader.peek() {
            Token::Word(_) | Token::Not => (),
            other if requirements.is_empty() => {
                return Err(format!(
                    "found '{other}', expected: !, identifier, or 'end of string'"
                ));
            }
            other => return Err(format!("found '{other}', expected: identifier after ','")),
        }
        let requirement = reader.requirement();
        requirements
            .push(requirement.map_err(|error| format!("unable to parse requirement: {error}"))?);
        match reader.next() {
            Token::Comma => (),
            Token::End => return Ok(requirements),
            other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
        }
    }
}

impl LabelRequirement {
    pub(super) fn accepts(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            LabelTest::Exists => value.is_some(),
            LabelTest::Missing => value.is_none(),
            LabelTest::In(known) => value.is_some_and(|value| known.iter().any(|k| k == value)),
            LabelTest::NotIn(known) => value.is_none_or(|value| known.iter().all(|k| k != value)),
            LabelTest::Above(bound) => number().is_some_and(|number| number > *bound),
            LabelTest::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl<'a> Reader<'a> {
    fn requirement(&mut self) -> Result<LabelRequirement, String> {
        let negated = self.peek() == Token::Not;
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => key(word)?,
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        let test = match (negated, self.peek()) {
            (true, _) => LabelTest::Missing,
            (false, Token::End | Token::Comma) => LabelTest::Exists,
            (false, _) => self.test(&key)?,
        };
        Ok(LabelRequirement { key, test })
    }

    fn test(&mut self, key: &str) -> Result<LabelTest, String> {
        match self.next() {
            Token::Word("in") => Ok(LabelTest::In(self.set(key)?)),
            Token::Word("notin") => Ok(LabelTest::NotIn(self.set(key)?)),
            Token::Equal | Token::DoubleEqual => Ok(LabelTest::In(vec![self.value(key)?])),
            Token::NotEqual => Ok(LabelTest::NotIn(vec![self.value(key)?])),
            Token::Greater => Ok(LabelTest::Above(self.number(key)?)),
            Token::Less => Ok(LabelTest::Below(self.number(key)?)),
            other => Err(format!(
                "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
            )),
        }
    }

    fn value(&mut self, key: &str) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            _ => match self.next() {
                Token::Word(word) => value(key, word, 0),
                other => Err(format!("found '{other}', expected: identifier")),
            },
        }
    }

    fn number(&mut self, key: &str) -> Result<i64, String> {
        let value = self.value(key)?;
        value.parse().map_err(|_| {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            invalid("values[0]", &value, why)
        })
    }

    /// Reads `(a, b)`; nothing between commas is the empty value.
    fn set(&mut self, key: &str) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => (),
            other => return Err(format!("found '{other}' expected: '('")),
        }
        if self.peek() == Token::Close {
            return Err(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't \
                        be empty"
                    .to_owned(),
            );
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Word(word) => {
                    values.push(value(key, word, values.len())?);
                    self.next();
                }
                Token::Comma | Token::Close => values.push(String::new()),
                other if values.is_empty() => {
                    return Err(format!("found '{other}', expected: ',', ')' or identifier"));
                }
                other => return Err(format!("found '{other}', expected: ',', or identifier")),
            }
            match self.next() {
                Token::Comma => (),
                Token::Close => return Ok(values),
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }

    fn peek(&self) -> Token<'a> {
        Reader { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let signs = [
            ("==", Token::DoubleEqual),
            ("!=", Token::NotEqual),
            ("=", Token::Equal),
            ("!", Token::Not),
            (">", Token::Greater),
            ("<", Token::Less),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
        ];
        for (sign, token) in signs {
            if let Some(rest) = self.rest.strip_prefix(sign) {
                self.rest = rest;
                return token;
            }
        }
        let special = |letter: char| " \t\r\n=!><(),".contains(letter);
        let end = self.rest.find(special).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() {
            Token::End
        } else {
            Token::Word(word)
        }
    }
}

fn key(word: &str) -> Result<String, String> {
    let faults = validate::qualified_faults(word);
    match faults.is_empty() {
        true => Ok(word.to_owned()),
        false => Err(invalid("<nil>", word, &faults.join("; "))),
    }
}

fn value(key: &str, word: &str, index: usize) -> Result<String, String> {
    let faults = validate::label_value_faults(word);
    match faults.is_empty() {
        true => Ok(word.to_owned()),
        false => Err(invalid(
            &format!("values[{index}][{key}]"),
            word,
            &faults.join("; "),
        )),
    }
}

fn invalid(field: &str, value: &str, why: &str) -> String {
    format!("{field}: Invalid value: \"{value}\": {why}")
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Word(word) => word,
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::Not => "!",
            Token::Equal => "=",
            Token::DoubleEqual => "==",
            Token::NotEqual => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::End => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let error = parse(text).expect_err(text);
        assert!(error.starts_with(expected), "{text}: {error}");
    }

    #[test]
    fn refusals_are_worded_as_kubernetes_words_them() {
        let requirement = "unable to parse requirement: ";
        for (text, expected) in [
            (
                "=",
                "found '=', expected: !, identifier, or 'end of string'",
            ),
            ("a,", "found '', expected: identifier after ','"),
            ("a,=", "found '=', expected: identifier after ','"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ] {
            check(text, expected);
        }
        for (text, expected) in [
            ("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("!", "found '', expected: identifier"),
            ("a=(", "found '(', expected: identifier"),
            ("a in b", "found 'b' expected: '('"),
            ("a in (", "found '', expected: ',', ')' or identifier"),
            ("a in (b", "found '', expected: ',' or ')'"),
            ("a in (b c)", "found 'c', expected: ',' or ')'"),
            (
                "a in ()",
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't",
            ),
            (
                "a>x",
                "values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be",
            ),
            (
                "-a",
                "<nil>: Invalid value: \"-a\": name part must consist of alphanumeric",
            ),
            (
                "a=/",
                "values[0][a]: Invalid value: \"/\": a valid label must be an empty string",
            ),
        ] {
            check(text, &format!("{requirement}{expected}"));
        }
    }

    #[test]
    fn words_of_the_language_are_labels_where_labels_stand() {
        let found = parse("in in (notin,in),notin=in").expect("a selector");
        assert_eq!(found[0].key, "in");
        assert!(found[0].accepts(Some("notin")) && !found[0].accepts(Some("x")));
        assert!(found[1].accepts(Some("in")));
    }

    #[test]
    fn nothing_between_commas_is_the_empty_value() {
        for text in ["a in (,)", "a in (,b)", "a in (b,)", "a in (b,,c)", "a="] {
            let found = parse(text).expect(text);
            assert!(found[0].accepts(Some("")), "{text}");
        }
    }
}
