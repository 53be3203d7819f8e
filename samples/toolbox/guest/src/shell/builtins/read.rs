//! `read` and `getopts`: words into variables.

use std::time::Duration;

use super::super::{Ran, Shell};
use crate::options::Options;
use crate::platform;
use crate::reactor;

impl Shell {
    /// Reads a line and gives its words to variables; the last one gets the rest.
    pub(super) async fn read(&mut self, arguments: &[String]) -> Ran {
        let options = match Options::read_leading(arguments, "rsp:t:n:d:u:", &[]) {
            Ok(options) => options,
            Err(failure) => return self.refuse("read", failure.message()).await,
        };
        if let Some(prompt) = options.value('p') {
            let prompt = prompt.to_owned();
            if let Ok(errors) = self.descriptors.get(2) {
                let _ = errors.write(prompt.as_bytes()).await;
            }
        }
        let line = match options.value('t').map(str::parse::<f64>) {
            None => self.read_record(&options).await,
            Some(Ok(seconds)) if (0.0..1e9).contains(&seconds) => {
                let end = platform::now() + Duration::from_secs_f64(seconds);
                let reading = self.read_record(&options);
                let line = reactor::unless(reading, reactor::wait_until(end)).await;
                let Some(line) = line else { return Ok(1) };
                line
            }
            Some(_) => {
                return self
                    .refuse("read", "-t: a number of seconds is expected")
                    .await;
            }
        };
        let (line, complete) = match line {
            Ok(read) => read,
            Err(text) => return self.refuse("read", &text).await,
        };
        let mut names = options.operands;
        if names.is_empty() {
            names.push("REPLY".to_owned());
        }
        let separators = self.variables.get("IFS").unwrap_or(" \t\n").to_owned();
        let values = split(&line, &separators, names.len());
        for (name, value) in names.iter().zip(values) {
            self.assign(name, value).await?;
        }
        Ok(i32::from(!complete))
    }

    /// Reads characters up to the end of the line, each with whether a backslash kept it from splitting;
    /// and says whether the line had an end.
    async fn read_record(&self, options: &Options) -> Result<(Vec<(char, bool)>, bool), String> {
        let number = options.value('u').map_or(Ok(0), str::parse::<u32>);
        let number = number.map_err(|_| "-u: a descriptor is expected".to_owned())?;
        let input = self
            .descriptors
            .get(number)
            .map_err(|error| error.to_string())?;
        let end = match options.value('d') {
            None => b'\n',
            Some(text) => text.bytes().next().unwrap_or(0),
        };
        if let Some(count) = options.value('n') {
            let count = count
                .parse()
                .map_err(|_| "-n: a number is expected".to_owned())?;
            let bytes = input.read(count).await.map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let complete = !bytes.is_empty();
            let line = text.lines().next().unwrap_or_default();
            return Ok((line.chars().map(|c| (c, false)).collect(), complete));
        }
        let mut record = Vec::new();
        loop {
            let bytes = input
                .read_until(end)
                .await
                .map_err(|error| error.to_string())?
                .unwrap_or_default();
            let complete = bytes.last() == Some(&end);
            let text = String::from_utf8_lossy(&bytes);
            let mut chars = text.chars().peekable();
            let mut continued = false;
            while let Some(c) = chars.next() {
                let last = chars.peek().is_none();
                match c {
                    '\\' if !options.has('r') => match chars.next() {
                        Some('\n') if complete => continued = true,
                        Some(c) => record.push((c, true)),
                        None => {}
                    },
                    _ if last && complete => {}
                    c => record.push((c, false)),
                }
            }
            if !continued {
                return Ok((record, complete));
            }
        }
    }

    /// Takes the next option of the positional parameters, or of the words given.
    pub(super) async fn getopts(&mut self, arguments: &[String]) -> Ran {
        let [letters, name, words @ ..] = arguments else {
            return self.refuse("getopts", "letters and a name, please").await;
        };
        let given: &[String] = if words.is_empty() {
            &self.positional.clone()
        } else {
            words
        };
        let (quiet, letters) = match letters.strip_prefix(':') {
            Some(letters) => (true, letters),
            None => (false, letters.as_str()),
        };
        let index = self.variables.get("OPTIND");
        let index = index.and_then(|text| text.parse::<usize>().ok());
        let mut index = index.unwrap_or(1).max(1);
        let word = given.get(index - 1).cloned().unwrap_or_default();
        if self.option_offset == 0 {
            if word == "--" {
                index += 1;
            }
            if word == "--" || word.len() < 2 || !word.starts_with('-') {
                return self.no_option(name, index).await;
            }
            self.option_offset = 1;
        }
        let rest = word.get(self.option_offset..).unwrap_or_default();
        let Some(letter) = rest.chars().next() else {
            return self.no_option(name, index).await;
        };
        let behind = &rest[letter.len_utf8()..];
        let found = letters.split_once(letter).filter(|_| letter != ':');
        let takes_value = found.is_some_and(|(_, behind)| behind.starts_with(':'));
        self.option_offset = if takes_value || behind.is_empty() {
            index += 1;
            0
        } else {
            word.len() - behind.len()
        };
        let mut value = None;
        if takes_value && behind.is_empty() {
            value = given.get(index - 1).cloned();
            index += usize::from(value.is_some());
        } else if takes_value {
            value = Some(behind.to_owned());
        }
        let mut given_letter = letter.to_string();
        let problem = match (found, takes_value, &value) {
            (None, ..) => Some(Problem::Unknown),
            (Some(_), true, None) => Some(Problem::NoValue),
            (Some(_), ..) => None,
        };
        if let Some(problem) = problem {
            let sign = if quiet { problem.sign() } else { "?" };
            sign.clone_into(&mut given_letter);
            value = quiet.then(|| letter.to_string());
            if !quiet {
                self.tell_option(letter, problem).await;
            }
        }
        match value {
            Some(value) => self.assign("OPTARG", value).await?,
            None => drop(self.variables.unset("OPTARG")),
        }
        let offset = self.option_offset;
        self.assign("OPTIND", index.to_string()).await?;
        self.option_offset = offset;
        self.assign(name, given_letter).await?;
        Ok(0)
    }

    async fn tell_option(&self, letter: char, problem: Problem) {
        let text = match problem {
            Problem::Unknown => format!("Illegal option -{letter}"),
            Problem::NoValue => format!("No arg for -{letter} option"),
        };
        self.complain(&text).await;
    }

    async fn no_option(&mut self, name: &str, index: usize) -> Ran {
        self.assign("OPTIND", index.to_string()).await?;
        self.assign(name, "?".to_owned()).await?;
        Ok(1)
    }
}

/// What is wrong with an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Problem {
    Unknown,
    NoValue,
}

impl Problem {
    /// What the variable becomes, when a script wants to tell it itself.
    fn sign(self) -> &'static str {
        match self {
            Self::Unknown => "?",
            Self::NoValue => ":",
        }
    }
}

/// Splits a line into at most `count` values; the last one is the rest without blanks at its end.
fn split(line: &[(char, bool)], separators: &str, count: usize) -> Vec<String> {
    let splits = |(c, kept): &(char, bool)| !kept && separators.contains(*c);
    let blank = |pair: &(char, bool)| splits(pair) && pair.0.is_whitespace();
    let mut rest = line;
    let mut values = Vec::new();
    while values.len() + 1 < count {
        let start = rest.iter().position(|pair| !blank(pair));
        rest = &rest[start.unwrap_or(rest.len())..];
        let end = rest.iter().position(splits).unwrap_or(rest.len());
        values.push(rest[..end].iter().map(|(c, _)| *c).collect());
        rest = &rest[end..];
        let start = rest.iter().position(|pair| !blank(pair));
        rest = &rest[start.unwrap_or(rest.len())..];
        if rest.first().is_some_and(splits) {
            rest = &rest[1..];
        }
    }
    while rest.first().is_some_and(blank) {
        rest = &rest[1..];
    }
    while rest.last().is_some_and(blank) {
        rest = &rest[..rest.len() - 1];
    }
    // A single separator at the end belongs to nobody.
    if let [head @ .., last] = rest
        && splits(last)
        && !head.iter().any(splits)
    {
        rest = head;
    }
    values.push(rest.iter().map(|(c, _)| *c).collect());
    values
}
