//! `find` and `xargs`.

use std::fs::{self, Metadata};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use super::listing::DEPTH_MAX;
use super::tree::names;
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::pattern;

applets! {
    "find" => find,
    "xargs" => xargs,
}

/// Words of a command that `xargs` and `-exec … +` start.
const WORDS_MAX: usize = 4096;
/// Brackets and negations may be nested this deep.
const NESTING_MAX: u32 = 50;

/// A condition on a file, or something done with it.
enum Test {
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    Name { pattern: String, ignores_case: bool },
    Path(String),
    Kind(char),
    Empty,
    Size(std::cmp::Ordering, u64, u64),
    Age(std::cmp::Ordering, u64, u64),
    Newer(SystemTime),
    True,
    False,
    Print(&'static str),
    Prune,
    Delete,
    Execute(Vec<String>),
    ExecuteAll(Vec<String>),
    Quit,
}

struct Reader<'a> {
    context: &'a Context,
    words: std::iter::Peekable<std::slice::Iter<'a, String>>,
    depth_first: bool,
    acts: bool,
    least: u32,
    most: u32,
    nesting: u32,
}

async fn find(context: Context) -> Outcome {
    let arguments = context.arguments();
    let split = arguments
        .iter()
        .position(|word| word.starts_with('-') || matches!(word.as_str(), "(" | "!"));
    let (starts, expression) = arguments.split_at(split.unwrap_or(arguments.len()));
    let mut reader = Reader {
        context: &context,
        words: expression.iter().peekable(),
        depth_first: false,
        acts: false,
        least: 0,
        most: DEPTH_MAX,
        nesting: 0,
    };
    let mut test = reader.any()?;
    if let Some(word) = reader.words.next() {
        return Err(Failure::usage(format!("unexpected `{word}`")));
    }
    if !reader.acts {
        test = Test::All(vec![test, Test::Print("\n")]);
    }
    let (depth_first, least, most) = (reader.depth_first, reader.least, reader.most);
    let mut walk = Walk {
        context: &context,
        test,
        depth_first,
        least,
        most,
        code: 0,
        gathered: Vec::new(),
        over: false,
    };
    let here = [".".to_owned()];
    let starts = if starts.is_empty() { &here } else { starts };
    for start in starts {
        walk.visit(start.clone(), 0).await?;
    }
    walk.run_gathered().await?;
    let code = walk.code;
    context.end(code).await
}

impl Reader<'_> {
    fn any(&mut self) -> Result<Test, Failure> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(Failure::usage("nested too deep"));
        }
        let mut tests = vec![self.all()?];
        while self
            .words
            .next_if(|w| matches!(w.as_str(), "-o" | "-or"))
            .is_some()
        {
            tests.push(self.all()?);
        }
        self.nesting -= 1;
        Ok(Test::Any(tests))
    }

    fn all(&mut self) -> Result<Test, Failure> {
        let mut tests = Vec::new();
        loop {
            match self.words.peek().map(|word| word.as_str()) {
                None | Some(")" | "-o" | "-or") => return Ok(Test::All(tests)),
                Some("-a" | "-and") => {
                    self.words.next();
                }
                Some(_) => tests.push(self.one()?),
            }
        }
    }

    fn value(&mut self, name: &str) -> Result<&str, Failure> {
        let missing = || Failure::usage(format!("`{name}` needs a value"));
        self.words.next().map(String::as_str).ok_or_else(missing)
    }

    fn one(&mut self) -> Result<Test, Failure> {
        let word = self.words.next().map_or("", String::as_str).to_owned();
        Ok(match word.as_str() {
            "!" | "-not" => {
                self.nesting += 1;
                if self.nesting > NESTING_MAX {
                    return Err(Failure::usage("nested too deep"));
                }
                let inner = self.one()?;
                self.nesting -= 1;
                Test::Not(Box::new(inner))
            }
            "(" => {
                let inner = self.any()?;
                if self.words.next().is_none_or(|word| word != ")") {
                    return Err(Failure::usage("`)` is expected"));
                }
                inner
            }
            "-name" | "-iname" => {
                let ignores_case = word == "-iname";
                let pattern = self.value(&word)?.to_owned();
                Test::Name {
                    pattern,
                    ignores_case,
                }
            }
            "-path" | "-wholename" => Test::Path(self.value(&word)?.to_owned()),
            "-type" => Test::Kind(self.value(&word)?.chars().next().unwrap_or('f')),
            "-empty" => Test::Empty,
            "-size" => self.size()?,
            "-mtime" => self.age(24 * 3600)?,
            "-mmin" => self.age(60)?,
            "-newer" => {
                let name = self.value(&word)?.to_owned();
                let found = fs::metadata(self.context.path(&name)).and_then(|m| m.modified());
                Test::Newer(found.map_err(|error| Failure::about(&name, &error))?)
            }
            "-true" | "-follow" | "-xdev" | "-mount" => Test::True,
            "-false" => Test::False,
            "-depth" => {
                self.depth_first = true;
                Test::True
            }
            "-maxdepth" | "-mindepth" => {
                let text = self.value(&word)?;
                let invalid = || Failure::usage(format!("invalid number `{text}`"));
                let number: u32 = text.parse().map_err(|_| invalid())?;
                match word.as_str() {
                    "-maxdepth" => self.most = number.min(DEPTH_MAX),
                    _ => self.least = number,
                }
                Test::True
            }
            _ => return self.action(&word),
        })
    }

    fn action(&mut self, word: &str) -> Result<Test, Failure> {
        let acts = word != "-prune";
        self.acts |= acts;
        Ok(match word {
            "-print" => Test::Print("\n"),
            "-print0" => Test::Print("\0"),
            "-prune" => Test::Prune,
            "-quit" => Test::Quit,
            "-delete" => {
                self.depth_first = true;
                Test::Delete
            }
            "-exec" => {
                let mut words = Vec::new();
                loop {
                    let word = self.value("-exec")?.to_owned();
                    if word == ";" {
                        return Ok(Test::Execute(words));
                    }
                    if word == "+" && words.last().is_some_and(|last| last == "{}") {
                        words.pop();
                        return Ok(Test::ExecuteAll(words));
                    }
                    words.push(word);
                }
            }
            other => return Err(Failure::usage(format!("unrecognized: {other}"))),
        })
    }

    /// `+n` is more, `-n` is less, `n` is just that.
    fn compared(text: &str) -> (std::cmp::Ordering, &str) {
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(digits), _) => (std::cmp::Ordering::Greater, digits),
            (None, Some(digits)) => (std::cmp::Ordering::Less, digits),
            (None, None) => (std::cmp::Ordering::Equal, text),
        }
    }

    fn size(&mut self) -> Result<Test, Failure> {
        let (order, text) = Self::compared(self.value("-size")?);
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "c" => 1,
            "k" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            _ => 512,
        };
        let number = digits
            .parse()
            .map_err(|_| Failure::usage(format!("invalid size `{text}`")))?;
        Ok(Test::Size(order, number, unit))
    }

    fn age(&mut self, unit: u64) -> Result<Test, Failure> {
        let (order, digits) = Self::compared(self.value("-mtime")?);
        let invalid = || Failure::usage(format!("invalid number `{digits}`"));
        Ok(Test::Age(
            order,
            digits.parse().map_err(|_| invalid())?,
            unit,
        ))
    }
}

struct Walk<'a> {
    context: &'a Context,
    test: Test,
    depth_first: bool,
    least: u32,
    most: u32,
    code: i32,
    gathered: Vec<String>,
    over: bool,
}

/// A file that is looked at.
struct Found {
    name: String,
    path: PathBuf,
    metadata: Metadata,
    pruned: bool,
}

impl Test {
    /// Whether a file is what is asked for, without doing anything.
    fn describes(&self, found: &Found) -> bool {
        let metadata = &found.metadata;
        match self {
            Self::Name {
                pattern,
                ignores_case,
            } => {
                let trimmed = found.name.trim_end_matches('/');
                let base = trimmed.rsplit('/').next().unwrap_or(trimmed);
                if *ignores_case {
                    pattern::matches(&pattern.to_lowercase(), &base.to_lowercase())
                } else {
                    pattern::matches(pattern, base)
                }
            }
            Self::Path(pattern) => pattern::matches(pattern, &found.name),
            Self::Kind('d') => metadata.is_dir(),
            Self::Kind('f') => metadata.is_file(),
            Self::Kind('l') => metadata.is_symlink(),
            Self::Empty if metadata.is_dir() => names(&found.path).is_ok_and(|n| n.is_empty()),
            Self::Empty => metadata.len() == 0,
            Self::Size(order, number, unit) => metadata.len().div_ceil(*unit).cmp(number) == *order,
            Self::Age(order, number, unit) => {
                age(metadata).as_secs().div_euclid(*unit).cmp(number) == *order
            }
            Self::Newer(time) => metadata.modified().is_ok_and(|modified| modified > *time),
            Self::True => true,
            Self::Kind(_) | Self::False => false,
            // What is done or joined is no description.
            Self::All(_)
            | Self::Any(_)
            | Self::Not(_)
            | Self::Print(_)
            | Self::Prune
            | Self::Delete
            | Self::Execute(_)
            | Self::ExecuteAll(_)
            | Self::Quit => false,
        }
    }
}

type Visiting<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + 'a>>;

impl Walk<'_> {
    fn visit(&mut self, name: String, depth: u32) -> Visiting<'_, ()> {
        Box::pin(async move {
            let path = self.context.path(&name);
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) => {
                    self.context
                        .complain(&Failure::about(&name, &error))
                        .await?;
                    self.code = 1;
                    return Ok(());
                }
            };
            let folder = metadata.is_dir();
            let mut found = Found {
                name,
                path,
                metadata,
                pruned: false,
            };
            if !self.depth_first && depth >= self.least {
                self.judge(&mut found).await?;
            }
            if folder && depth < self.most && !found.pruned && !self.over {
                match names(&found.path) {
                    Ok(inner) => {
                        for name in inner {
                            let base = found.name.trim_end_matches('/');
                            self.visit(format!("{base}/{name}"), depth + 1).await?;
                            if self.over {
                                return Ok(());
                            }
                        }
                    }
                    Err(error) => {
                        self.context
                            .complain(&Failure::about(&found.name, &error))
                            .await?;
                        self.code = 1;
                    }
                }
            }
            if self.depth_first && depth >= self.least && !self.over {
                self.judge(&mut found).await?;
            }
            Ok(())
        })
    }

    async fn judge(&mut self, found: &mut Found) -> Result<(), Failure> {
        let test = std::mem::replace(&mut self.test, Test::True);
        let result = self.holds(&test, found).await;
        self.test = test;
        result.map(|_| ())
    }

    fn holds<'a>(&'a mut self, test: &'a Test, found: &'a mut Found) -> Visiting<'a, bool> {
        Box::pin(async move {
            Ok(match test {
                Test::All(tests) => {
                    for test in tests {
                        if !self.holds(test, found).await? {
                            return Ok(false);
                        }
                    }
                    true
                }
                Test::Any(tests) => {
                    for test in tests {
                        if self.holds(test, found).await? {
                            return Ok(true);
                        }
                    }
                    false
                }
                Test::Not(test) => !self.holds(test, found).await?,
                Test::Print(end) => {
                    self.context.write(format!("{}{end}", found.name)).await?;
                    true
                }
                Test::Prune => {
                    found.pruned = true;
                    true
                }
                Test::Quit => {
                    self.over = true;
                    true
                }
                Test::Delete => self.delete(found).await?,
                Test::Execute(words) => {
                    let words = words.iter().map(|word| word.replace("{}", &found.name));
                    let child = self.context.child(words.collect());
                    self.context.run_child(child).await? == 0
                }
                Test::ExecuteAll(words) => {
                    if self.gathered.is_empty() {
                        self.gathered.clone_from(words);
                    }
                    self.gathered.push(found.name.clone());
                    if self.gathered.len() >= WORDS_MAX {
                        self.run_gathered().await?;
                    }
                    true
                }
                plain => plain.describes(found),
            })
        })
    }

    async fn delete(&mut self, found: &Found) -> Result<bool, Failure> {
        let removed = if found.metadata.is_dir() {
            fs::remove_dir(&found.path)
        } else {
            fs::remove_file(&found.path)
        };
        if let Err(error) = &removed {
            self.context
                .complain(&Failure::about(&found.name, error))
                .await?;
            self.code = 1;
        }
        Ok(removed.is_ok())
    }

    async fn run_gathered(&mut self) -> Result<(), Failure> {
        let words = std::mem::take(&mut self.gathered);
        if !words.is_empty() {
            let child = self.context.child(words);
            if self.context.run_child(child).await? != 0 {
                self.code = 1;
            }
        }
        Ok(())
    }
}

fn age(metadata: &Metadata) -> Duration {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    SystemTime::now()
        .duration_since(modified)
        .unwrap_or_default()
}

async fn xargs(context: Context) -> Outcome {
    let long = &[
        ("null", '0'),
        ("max-args", 'n'),
        ("replace", 'I'),
        ("no-run-if-empty", 'r'),
    ];
    let options = Options::read_leading(context.arguments(), "0n:I:rtL:P:d:", long)?;
    let bytes = context.input()?.read_all().await?;
    let text = String::from_utf8_lossy(&bytes);
    let delimiter = match (options.has('0'), options.value('d'), options.value('I')) {
        (true, ..) => Some('\0'),
        (false, Some(text), _) => String::from_utf8_lossy(&super::escapes::unescape(text))
            .chars()
            .next(),
        (false, None, Some(_)) => Some('\n'),
        (false, None, None) => None,
    };
    let words: Vec<String> = match delimiter {
        Some(delimiter) => text
            .split(delimiter)
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect(),
        None => split(&text)?,
    };
    let mut command = options.operands.clone();
    if command.is_empty() {
        command.push("echo".to_owned());
    }
    let mut commands = Vec::new();
    if let Some(sign) = options.value('I') {
        for word in &words {
            let replaced = command
                .iter()
                .map(|part| part.replace(sign, word.trim_start()));
            commands.push(replaced.collect::<Vec<_>>());
        }
    } else {
        let most = options
            .number('n')?
            .or(options.number('L')?)
            .unwrap_or(WORDS_MAX as u64);
        let most = usize::try_from(most)
            .unwrap_or(WORDS_MAX)
            .clamp(1, WORDS_MAX);
        for piece in words.chunks(most) {
            commands.push(command.iter().chain(piece).cloned().collect());
        }
        if words.is_empty() && !options.has('r') {
            commands.push(command);
        }
    }
    let mut code = 0;
    for words in commands {
        if options.has('t') {
            context.say(&format!("{}\n", words.join(" "))).await;
        }
        let mut child = context.child(words);
        // What is started must not take the list for its input.
        child.descriptors.set(0, crate::stream::Stream::null());
        match context.run_child(child).await? {
            0 => {}
            ended @ (126 | 127) => return context.end(ended).await,
            255 => return context.end(124).await,
            _ => code = 123,
        }
    }
    context.end(code).await
}

/// Splits at blanks; quotes and backslashes keep them.
fn split(text: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some(inner) if inner == c => break,
                        Some(inner) => word.push(inner),
                        None => return Err(Failure::new(format!("unmatched {c}"))),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}
