//! Reads the options of a program: single letters, joined or with a value, and a few long names.

use crate::applet::Failure;

/// The options and operands of a program.
#[derive(Debug, Default)]
pub(crate) struct Options {
    given: Vec<(char, String)>,
    /// What is no option.
    pub(crate) operands: Vec<String>,
}

impl Options {
    /// Reads words. `letters` are the letters permitted, each followed by `:` when it takes a value; `long`
    /// gives long names as other words for letters. Options may stand between operands.
    pub(crate) fn read(
        words: &[String],
        letters: &str,
        long: &[(&str, char)],
    ) -> Result<Self, Failure> {
        Self::read_as(words, letters, long, Order::Any)
    }

    /// Reads words up to the first operand; everything from there on is operands.
    pub(crate) fn read_leading(
        words: &[String],
        letters: &str,
        long: &[(&str, char)],
    ) -> Result<Self, Failure> {
        Self::read_as(words, letters, long, Order::OptionsFirst)
    }

    fn read_as(
        words: &[String],
        letters: &str,
        long: &[(&str, char)],
        order: Order,
    ) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                break;
            } else if let Some(name) = word.strip_prefix("--") {
                options.read_long(name, letters, long, &mut rest)?;
            } else if word.len() > 1 && word.starts_with('-') {
                options.read_letters(&word[1..], letters, &mut rest)?;
            } else {
                options.operands.push(word.clone());
                if order == Order::OptionsFirst {
                    break;
                }
            }
        }
        options.operands.extend(rest.cloned());
        Ok(options)
    }

    /// Whether an option was given.
    pub(crate) fn has(&self, letter: char) -> bool {
        self.given.iter().any(|(given, _)| *given == letter)
    }

    /// The last value of an option.
    pub(crate) fn value(&self, letter: char) -> Option<&str> {
        self.values(letter).last()
    }

    /// All values of an option in their order.
    pub(crate) fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        self.given
            .iter()
            .filter(move |(given, _)| *given == letter)
            .map(|(_, value)| value.as_str())
    }

    /// All options in their order.
    pub(crate) fn given(&self) -> impl Iterator<Item = (char, &str)> {
        self.given
            .iter()
            .map(|(letter, value)| (*letter, value.as_str()))
    }

    /// The number that is the last value of an option.
    pub(crate) fn number(&self, letter: char) -> Result<Option<u64>, Failure> {
        let invalid = |text| Failure::new(format!("invalid number `{text}`"));
        self.value(letter)
            .map(|text| text.parse().map_err(|_| invalid(text)))
            .transpose()
    }

    fn read_long<'a>(
        &mut self,
        name: &str,
        letters: &str,
        long: &[(&str, char)],
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), Failure> {
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let known = long.iter().find(|(known, _)| *known == name);
        let Some((_, letter)) = known else {
            return Err(Failure::usage(format!("unrecognized option `--{name}`")));
        };
        let value = match value {
            Some(value) => value,
            None if takes_value(letters, *letter) => rest
                .next()
                .cloned()
                .ok_or_else(|| Failure::usage(format!("option `--{name}` needs a value")))?,
            None => String::new(),
        };
        self.given.push((*letter, value));
        Ok(())
    }

    fn read_letters<'a>(
        &mut self,
        word: &str,
        letters: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), Failure> {
        for (position, letter) in word.char_indices() {
            if letter == ':' || !letters.contains(letter) {
                return Err(Failure::usage(format!("unrecognized option `-{letter}`")));
            }
            if !takes_value(letters, letter) {
                self.given.push((letter, String::new()));
                continue;
            }
            let attached = &word[position + letter.len_utf8()..];
            let value = if attached.is_empty() {
                rest.next()
                    .cloned()
                    .ok_or_else(|| Failure::usage(format!("option `-{letter}` needs a value")))?
            } else {
                attached.to_owned()
            };
            self.given.push((letter, value));
            break;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Any,
    OptionsFirst,
}

fn takes_value(letters: &str, letter: char) -> bool {
    letters
        .split_once(letter)
        .is_some_and(|(_, behind)| behind.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<String, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let options = Options::read(&words, "ab:c", &[("all", 'a'), ("bytes", 'b')])
            .map_err(|failure| failure.message().to_owned())?;
        let given: Vec<String> = options
            .given()
            .map(|(letter, value)| format!("{letter}{value}"))
            .collect();
        Ok(format!(
            "{}|{}",
            given.join(","),
            options.operands.join(",")
        ))
    }

    #[test]
    fn letters_join_and_take_values() {
        for (line, expected) in [
            ("-ac x", "a,c|x"),
            ("-ab7 x", "a,b7|x"),
            ("-b 7 -c", "b7,c|"),
            ("x -a y", "a|x,y"),
            ("-a -- -c", "a|-c"),
            ("- -a", "a|-"),
            ("--all --bytes=3", "a,b3|"),
            ("--bytes 3 x", "b3|x"),
        ] {
            assert_eq!(read(line).as_deref(), Ok(expected), "for {line}");
        }
    }

    #[test]
    fn unknown_options_are_refused_by_name() {
        for (line, expected) in [
            ("-x", "unrecognized option `-x`"),
            ("-:", "unrecognized option `-:`"),
            ("--no", "unrecognized option `--no`"),
            ("-b", "option `-b` needs a value"),
        ] {
            assert_eq!(read(line), Err(expected.to_owned()), "for {line}");
        }
    }
}
