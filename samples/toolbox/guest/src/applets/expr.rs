//! `expr`.

use super::regular::{self, Case, Dialect};
use crate::applet::{Context, Failure, Outcome};

applets! {
    "expr" => expr,
}

/// Brackets may be nested this deep.
const NESTING_MAX: u32 = 50;
/// Binary operators by how tightly they bind, loosest first.
const LEVELS: &[&[&str]] = &[
    &["|"],
    &["&"],
    &["=", "==", "!=", "<", "<=", ">", ">="],
    &["+", "-"],
    &["*", "/", "%"],
    &[":"],
];

async fn expr(context: Context) -> Outcome {
    let mut evaluation = Evaluation {
        words: context.arguments(),
        nesting: 0,
    };
    let value = evaluation.binary(0)?;
    if let Some(word) = evaluation.words.first() {
        return Err(Failure::usage(format!("syntax error: unexpected `{word}`")));
    }
    context.line(&value).await?;
    context.end(i32::from(!truth(&value))).await
}

fn truth(value: &str) -> bool {
    !value.is_empty() && value.parse() != Ok(0_i64)
}

struct Evaluation<'a> {
    words: &'a [String],
    nesting: u32,
}

impl Evaluation<'_> {
    fn next(&mut self) -> Result<String, Failure> {
        let (first, rest) = self
            .words
            .split_first()
            .ok_or_else(|| Failure::usage("syntax error: an operand is expected"))?;
        self.words = rest;
        Ok(first.clone())
    }

    fn binary(&mut self, level: usize) -> Result<String, Failure> {
        let Some(operators) = LEVELS.get(level) else {
            return self.primary();
        };
        let mut left = self.binary(level + 1)?;
        while self
            .words
            .first()
            .is_some_and(|word| operators.contains(&word.as_str()))
        {
            let operator = self.next()?;
            let right = self.binary(level + 1)?;
            left = apply(&left, &operator, &right)?;
        }
        Ok(left)
    }

    fn primary(&mut self) -> Result<String, Failure> {
        let word = self.next()?;
        match word.as_str() {
            "(" => {
                self.nesting += 1;
                if self.nesting > NESTING_MAX {
                    return Err(Failure::usage("nested too deep"));
                }
                let value = self.binary(0)?;
                self.nesting -= 1;
                if self.next()? != ")" {
                    return Err(Failure::usage("syntax error: `)` is expected"));
                }
                Ok(value)
            }
            "length" if !self.words.is_empty() => Ok(self.next()?.chars().count().to_string()),
            "match" if self.words.len() >= 2 => {
                let (text, expression) = (self.next()?, self.next()?);
                matched(&text, &expression)
            }
            "substr" if self.words.len() >= 3 => {
                let (text, start, length) = (self.next()?, self.next()?, self.next()?);
                let place = |text: &str| text.parse::<usize>().unwrap_or(0);
                let (start, length) = (place(&start), place(&length));
                if start == 0 {
                    return Ok(String::new());
                }
                Ok(text.chars().skip(start - 1).take(length).collect())
            }
            "index" if self.words.len() >= 2 => {
                let (text, set) = (self.next()?, self.next()?);
                let at = text.chars().position(|c| set.contains(c));
                Ok(at.map_or(0, |at| at + 1).to_string())
            }
            _ => Ok(word),
        }
    }
}

fn apply(left: &str, operator: &str, right: &str) -> Result<String, Failure> {
    let number = |text: &str| {
        let parsed = text.parse::<i64>();
        parsed.map_err(|_| Failure::usage(format!("non-integer argument `{text}`")))
    };
    let computed = |value: Option<i64>| {
        let value = value.ok_or_else(|| Failure::usage("division by zero, or too large"))?;
        Ok(value.to_string())
    };
    match operator {
        "|" => Ok((if truth(left) { left } else { right }).to_owned()),
        "&" => Ok((if truth(left) && truth(right) {
            left
        } else {
            "0"
        })
        .to_owned()),
        "+" => computed(number(left)?.checked_add(number(right)?)),
        "-" => computed(number(left)?.checked_sub(number(right)?)),
        "*" => computed(number(left)?.checked_mul(number(right)?)),
        "/" => computed(number(left)?.checked_div(number(right)?)),
        "%" => computed(number(left)?.checked_rem(number(right)?)),
        ":" => matched(left, right),
        operator => {
            let order = match (left.parse::<i64>(), right.parse::<i64>()) {
                (Ok(left), Ok(right)) => left.cmp(&right),
                _ => left.cmp(right),
            };
            let holds = match operator {
                "=" | "==" => order.is_eq(),
                "!=" => order.is_ne(),
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                _ => order.is_ge(),
            };
            Ok(i64::from(holds).to_string())
        }
    }
}

/// What the first group matched, or how much the expression did, from the start of the text.
fn matched(text: &str, expression: &str) -> Result<String, Failure> {
    let anchored = format!("^{}", expression.trim_start_matches('^'));
    let compiled = regular::compile(&anchored, Dialect::Basic, Case::Matters)?;
    let captures = compiled.captures(text);
    if compiled.captures_len() > 1 {
        let group =
            captures.and_then(|captures| captures.get(1).map(|group| group.as_str().to_owned()));
        return Ok(group.unwrap_or_default());
    }
    let length =
        captures.and_then(|captures| captures.get(0).map(|all| all.as_str().chars().count()));
    Ok(length.unwrap_or(0).to_string())
}
