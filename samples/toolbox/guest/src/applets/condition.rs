//! `test` and `[`.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::applet::{Context, Failure, Outcome};
use crate::platform;
use crate::stream::Descriptors;

applets! {
    "test" => test,
    "[" => bracket,
}

/// The code of a condition that cannot be decided.
const UNDECIDED: i32 = 2;
/// Brackets and negations may be nested this deep.
const NESTING_MAX: u32 = 50;

async fn test(context: Context) -> Outcome {
    decide(context.arguments(), &context)
}

async fn bracket(context: Context) -> Outcome {
    match context.arguments().split_last() {
        Some((last, words)) if last == "]" => decide(words, &context),
        Some(_) | None => Err(Failure::with_code(UNDECIDED, "missing ]")),
    }
}

fn decide(words: &[String], context: &Context) -> Outcome {
    let mut decision = Decision {
        words,
        folder: &context.folder,
        descriptors: &context.descriptors,
        nesting: 0,
    };
    let holds = decision.all_of(words)?;
    Ok(i32::from(!holds))
}

/// Whether a word is an operator before one operand.
pub(crate) fn is_unary(word: &str) -> bool {
    word.len() == 2 && word.starts_with('-') && "abcdefghknoprstuvwxzGLNOS".contains(&word[1..])
}

fn is_binary(word: &str) -> bool {
    matches!(
        word,
        "=" | "=="
            | "!="
            | "<"
            | ">"
            | "-eq"
            | "-ne"
            | "-lt"
            | "-le"
            | "-gt"
            | "-ge"
            | "-nt"
            | "-ot"
            | "-ef"
    )
}

/// Decides a condition of one operand.
pub(crate) fn unary(operator: &str, operand: &str, folder: &Path, open: &Descriptors) -> bool {
    let path = folder.join(operand);
    let device = matches!(
        operand,
        "/dev/null"
            | "/dev/zero"
            | "/dev/random"
            | "/dev/urandom"
            | "/dev/stdin"
            | "/dev/stdout"
            | "/dev/stderr"
    );
    let metadata = || fs::metadata(&path).ok().filter(|_| !operand.is_empty());
    let permissions = || {
        let found = platform::permissions(&path, true).ok();
        found.filter(|_| !operand.is_empty())
    };
    let may = |bit| permissions().is_some_and(|of| platform::user().may(bit, of));
    let has = |bits| permissions().is_some_and(|of| of.mode & bits != 0);
    match operator {
        "-n" => !operand.is_empty(),
        "-z" => operand.is_empty(),
        "-e" | "-a" => device || metadata().is_some(),
        "-r" => device || may(4),
        "-w" => device || may(2),
        "-c" => device,
        "-f" => metadata().is_some_and(|found| found.is_file()),
        "-d" => metadata().is_some_and(|found| found.is_dir()),
        "-s" => metadata().is_some_and(|found| found.len() > 0),
        "-x" => may(1),
        "-u" => has(0o4000),
        "-g" => has(0o2000),
        "-k" => has(0o1000),
        "-O" => permissions().is_some_and(|of| of.uid == platform::user().uid),
        "-G" => permissions().is_some_and(|of| of.gid == platform::user().gid),
        "-h" | "-L" => fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()),
        "-t" => operand
            .parse()
            .is_ok_and(|number| open.get(number).is_ok_and(|stream| stream.is_terminal())),
        "-N" => metadata().is_some(),
        // Blocks, pipes and sockets are not there.
        _ => false,
    }
}

/// Decides a condition of two operands.
pub(crate) fn binary(
    left: &str,
    operator: &str,
    right: &str,
    folder: &Path,
) -> Result<bool, Failure> {
    let number = |text: &str| {
        let parsed = text.trim().parse::<i64>();
        parsed.map_err(|_| Failure::with_code(UNDECIDED, format!("Illegal number: {text}")))
    };
    let modified = |name: &str| -> Option<SystemTime> {
        fs::metadata(folder.join(name)).ok()?.modified().ok()
    };
    Ok(match operator {
        "=" | "==" => left == right,
        "!=" => left != right,
        "<" => left < right,
        ">" => left > right,
        "-eq" => number(left)? == number(right)?,
        "-ne" => number(left)? != number(right)?,
        "-lt" => number(left)? < number(right)?,
        "-le" => number(left)? <= number(right)?,
        "-gt" => number(left)? > number(right)?,
        "-ge" => number(left)? >= number(right)?,
        "-nt" => modified(left) > modified(right),
        "-ot" => modified(left) < modified(right),
        "-ef" => {
            let same = |name: &str| fs::canonicalize(folder.join(name)).ok();
            same(left).is_some() && same(left) == same(right)
        }
        other => {
            let text = format!("{other}: unknown operator");
            return Err(Failure::with_code(UNDECIDED, text));
        }
    })
}

struct Decision<'a> {
    words: &'a [String],
    folder: &'a Path,
    descriptors: &'a Descriptors,
    nesting: u32,
}

impl<'a> Decision<'a> {
    /// POSIX decides up to four words by their count, so that operands may look like operators.
    fn all_of(&mut self, words: &'a [String]) -> Result<bool, Failure> {
        match words {
            [] => Ok(false),
            [word] => Ok(!word.is_empty()),
            [first, word] if first == "!" => Ok(word.is_empty()),
            [operator, operand] if is_unary(operator) => {
                Ok(unary(operator, operand, self.folder, self.descriptors))
            }
            [left, operator, right] if is_binary(operator) => {
                binary(left, operator, right, self.folder)
            }
            [first, rest @ ..] if first == "!" && rest.len() <= 3 => Ok(!self.all_of(rest)?),
            [open, word, close] if open == "(" && close == ")" => Ok(!word.is_empty()),
            words => {
                self.words = words;
                let holds = self.or()?;
                match self.words.first() {
                    None => Ok(holds),
                    Some(word) => Err(unexpected(word)),
                }
            }
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first().is_some_and(|first| first == word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn or(&mut self) -> Result<bool, Failure> {
        let mut holds = self.and()?;
        while self.take("-o") {
            holds |= self.and()?;
        }
        Ok(holds)
    }

    fn and(&mut self) -> Result<bool, Failure> {
        let mut holds = self.not()?;
        while self.take("-a") {
            holds &= self.not()?;
        }
        Ok(holds)
    }

    fn not(&mut self) -> Result<bool, Failure> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(Failure::with_code(UNDECIDED, "nested too deep"));
        }
        let holds = if self.take("!") {
            !self.not()?
        } else {
            self.primary()?
        };
        self.nesting -= 1;
        Ok(holds)
    }

    fn primary(&mut self) -> Result<bool, Failure> {
        if let [left, operator, right, ..] = self.words
            && is_binary(operator)
        {
            self.words = &self.words[3..];
            return binary(left, operator, right, self.folder);
        }
        if self.take("(") {
            let holds = self.or()?;
            if !self.take(")") {
                return Err(Failure::with_code(UNDECIDED, "`)` expected"));
            }
            return Ok(holds);
        }
        match self.words {
            [operator, operand, ..] if is_unary(operator) => {
                self.words = &self.words[2..];
                Ok(unary(operator, operand, self.folder, self.descriptors))
            }
            [word, ..] => {
                self.words = &self.words[1..];
                Ok(!word.is_empty())
            }
            [] => Err(Failure::with_code(UNDECIDED, "argument expected")),
        }
    }
}

fn unexpected(word: &str) -> Failure {
    Failure::with_code(UNDECIDED, format!("{word}: unexpected operator"))
}
