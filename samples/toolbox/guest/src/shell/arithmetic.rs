//! Arithmetic expressions: 64-bit integers, C's operators, variables by name.

/// Values may refer to variables whose values are expressions, this deep.
const NESTING_MAX: u32 = 32;

/// Binary operators by how tightly they bind, loosest first; longer ones before their beginnings.
const LEVELS: &[&[&str]] = &[
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];
/// Operators that assign, each with the binary one it applies.
const ASSIGNMENTS: &[(&str, &str)] = &[
    ("<<=", "<<"),
    (">>=", ">>"),
    ("+=", "+"),
    ("-=", "-"),
    ("*=", "*"),
    ("/=", "/"),
    ("%=", "%"),
    ("&=", "&"),
    ("|=", "|"),
    ("^=", "^"),
    ("=", ""),
];

/// Where the values of variables come from and go to.
pub(crate) trait Scope {
    /// The value of a variable.
    fn value(&self, name: &str) -> Result<String, String>;
    /// Sets a variable.
    fn assign(&mut self, name: &str, value: i64) -> Result<(), String>;
}

/// Computes an expression.
pub(crate) fn evaluate(text: &str, scope: &mut dyn Scope) -> Result<i64, String> {
    evaluate_nested(text, scope, 0)
}

fn evaluate_nested(text: &str, scope: &mut dyn Scope, nesting: u32) -> Result<i64, String> {
    let mut evaluation = Evaluation {
        chars: text.chars().collect(),
        at: 0,
        scope,
        nesting,
        computes: true,
    };
    evaluation.skip();
    if evaluation.rest().is_empty() {
        return Ok(0);
    }
    let value = evaluation.comma()?;
    evaluation.skip();
    if evaluation.rest().is_empty() {
        Ok(value)
    } else {
        let rest: String = evaluation.rest().iter().collect();
        Err(format!(
            "arithmetic: unexpected `{}` in `{text}`",
            rest.trim()
        ))
    }
}

struct Evaluation<'a> {
    chars: Vec<char>,
    at: usize,
    scope: &'a mut dyn Scope,
    nesting: u32,
    /// Whether values count; not in the branch that is not taken.
    computes: bool,
}

impl Evaluation<'_> {
    fn rest(&self) -> &[char] {
        &self.chars[self.at..]
    }

    fn skip(&mut self) {
        while self.rest().first().is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
    }

    fn looking_at(&mut self, text: &str) -> bool {
        self.skip();
        let mut rest = self.rest().iter();
        text.chars().all(|c| rest.next() == Some(&c))
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.looking_at(text);
        if found {
            self.at += text.chars().count();
        }
        found
    }

    fn comma(&mut self) -> Result<i64, String> {
        let mut value = self.assignment()?;
        while self.take(",") {
            value = self.assignment()?;
        }
        Ok(value)
    }

    fn assignment(&mut self) -> Result<i64, String> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(format!("arithmetic: nested more than {NESTING_MAX} deep"));
        }
        let before = self.at;
        let value = match self.name() {
            Some(name) => match self.assigning() {
                Some(operator) => self.assign(&name, operator),
                None => {
                    self.at = before;
                    self.ternary()
                }
            },
            None => self.ternary(),
        };
        self.nesting -= 1;
        value
    }

    /// Takes an operator that assigns.
    fn assigning(&mut self) -> Option<&'static str> {
        if self.looking_at("==") {
            return None;
        }
        let found = ASSIGNMENTS.iter().find(|(sign, _)| self.looking_at(sign));
        found.map(|(sign, operator)| {
            self.at += sign.len();
            *operator
        })
    }

    fn assign(&mut self, name: &str, operator: &str) -> Result<i64, String> {
        let right = self.assignment()?;
        let value = if operator.is_empty() {
            right
        } else {
            let left = self.variable(name)?;
            self.apply(operator, left, right)?
        };
        self.store(name, value)?;
        Ok(value)
    }

    fn store(&mut self, name: &str, value: i64) -> Result<(), String> {
        if self.computes {
            self.scope.assign(name, value)?;
        }
        Ok(())
    }

    fn ternary(&mut self) -> Result<i64, String> {
        let condition = self.binary(0)?;
        if !self.take("?") {
            return Ok(condition);
        }
        let computes = self.computes;
        self.computes = computes && condition != 0;
        let yes = self.assignment()?;
        if !self.take(":") {
            return Err("arithmetic: `:` expected".to_owned());
        }
        self.computes = computes && condition == 0;
        let no = self.assignment()?;
        self.computes = computes;
        Ok(if condition != 0 { yes } else { no })
    }

    fn binary(&mut self, level: usize) -> Result<i64, String> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.operator(operators) {
            let computes = self.computes;
            match operator {
                "&&" => self.computes = computes && left != 0,
                "||" => self.computes = computes && left == 0,
                _ => {}
            }
            let right = self.binary(level + 1)?;
            self.computes = computes;
            left = self.apply(operator, left, right)?;
        }
        Ok(left)
    }

    /// Takes one of the operators, unless it only begins another one.
    fn operator(&mut self, operators: &[&'static str]) -> Option<&'static str> {
        let found = operators
            .iter()
            .copied()
            .find(|operator| self.looking_at(operator))?;
        let next = self.rest().get(found.len()).copied();
        let continues = match found {
            "|" => matches!(next, Some('|' | '=')),
            "&" => matches!(next, Some('&' | '=')),
            "<" | ">" => next == found.chars().next(),
            "==" | "!=" | "<=" | ">=" | "&&" | "||" => false,
            _ => next == Some('='),
        };
        if continues {
            return None;
        }
        self.at += found.len();
        Some(found)
    }

    fn apply(&self, operator: &str, left: i64, right: i64) -> Result<i64, String> {
        let shift = (right & 63) as u32;
        Ok(match operator {
            "||" => i64::from(left != 0 || right != 0),
            "&&" => i64::from(left != 0 && right != 0),
            "|" => left | right,
            "^" => left ^ right,
            "&" => left & right,
            "==" => i64::from(left == right),
            "!=" => i64::from(left != right),
            "<=" => i64::from(left <= right),
            ">=" => i64::from(left >= right),
            "<" => i64::from(left < right),
            ">" => i64::from(left > right),
            "<<" => left.wrapping_shl(shift),
            ">>" => left.wrapping_shr(shift),
            "+" => left.wrapping_add(right),
            "-" => left.wrapping_sub(right),
            "*" => left.wrapping_mul(right),
            "/" | "%" if right == 0 && self.computes => {
                return Err("arithmetic: division by zero".to_owned());
            }
            "/" => left.checked_div(right).unwrap_or(left),
            "%" => left.checked_rem(right).unwrap_or(0),
            other => return Err(format!("arithmetic: unknown operator `{other}`")),
        })
    }

    fn unary(&mut self) -> Result<i64, String> {
        self.skip();
        for (sign, step) in [("++", 1), ("--", -1)] {
            let before = self.at;
            if self.take(sign) {
                if let Some(name) = self.name() {
                    let value = self.variable(&name)?.wrapping_add(step);
                    self.store(&name, value)?;
                    return Ok(value);
                }
                self.at = before;
            }
        }
        let sign = self.rest().first().copied();
        if !matches!(sign, Some('!' | '~' | '-' | '+')) {
            return self.primary();
        }
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(format!("arithmetic: nested more than {NESTING_MAX} deep"));
        }
        self.at += 1;
        let value = self.unary()?;
        self.nesting -= 1;
        Ok(match sign {
            Some('!') => i64::from(value == 0),
            Some('~') => !value,
            Some('-') => value.wrapping_neg(),
            _ => value,
        })
    }

    fn primary(&mut self) -> Result<i64, String> {
        if self.take("(") {
            let value = self.comma()?;
            if !self.take(")") {
                return Err("arithmetic: `)` expected".to_owned());
            }
            return Ok(value);
        }
        if let Some(name) = self.name() {
            let value = self.variable(&name)?;
            for (sign, step) in [("++", 1), ("--", -1)] {
                if self.take(sign) {
                    self.store(&name, value.wrapping_add(step))?;
                    break;
                }
            }
            return Ok(value);
        }
        self.skip();
        let digits: String = self
            .rest()
            .iter()
            .take_while(|c| c.is_ascii_alphanumeric())
            .collect();
        if digits.is_empty() {
            return Err("arithmetic: a number is expected".to_owned());
        }
        self.at += digits.len();
        number(&digits).ok_or_else(|| format!("arithmetic: `{digits}` is no number"))
    }

    fn name(&mut self) -> Option<String> {
        self.skip();
        let starts = |c: &char| c.is_ascii_alphabetic() || *c == '_';
        self.rest().first().filter(|c| starts(c))?;
        let name: String = self
            .rest()
            .iter()
            .take_while(|c| c.is_ascii_alphanumeric() || **c == '_')
            .collect();
        self.at += name.len();
        Some(name)
    }

    fn variable(&mut self, name: &str) -> Result<i64, String> {
        if !self.computes {
            return Ok(0);
        }
        let text = self.scope.value(name)?;
        let text = text.trim();
        if text.is_empty() {
            return Ok(0);
        }
        if let Some(value) = signed(text) {
            return Ok(value);
        }
        evaluate_nested(text, self.scope, self.nesting + 1)
    }
}

fn signed(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(digits) => number(digits).map(i64::wrapping_neg),
        None => number(text),
    }
}

/// A number: decimal, `0x…` or `0…` to the base of eight.
fn number(digits: &str) -> Option<i64> {
    if let Some(hexadecimal) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        return i64::from_str_radix(hexadecimal, 16).ok();
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return i64::from_str_radix(&digits[1..], 8).ok();
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    impl Scope for BTreeMap<String, String> {
        fn value(&self, name: &str) -> Result<String, String> {
            Ok(self.get(name).cloned().unwrap_or_default())
        }

        fn assign(&mut self, name: &str, value: i64) -> Result<(), String> {
            self.insert(name.to_owned(), value.to_string());
            Ok(())
        }
    }

    fn check(text: &str, expected: Result<i64, &str>) {
        let mut scope = BTreeMap::from([
            ("x".to_owned(), "5".to_owned()),
            ("y".to_owned(), "x+1".to_owned()),
            ("loop".to_owned(), "loop".to_owned()),
        ]);
        let value = evaluate(text, &mut scope);
        assert_eq!(value, expected.map_err(str::to_owned), "for {text}");
    }

    #[test]
    fn operators_bind_as_in_c() {
        for (text, expected) in [
            ("", 0),
            ("1 + 2 * 3", 7),
            ("(1 + 2) * 3", 9),
            ("10 - 2 - 3", 5),
            ("7 / 2", 3),
            ("-7 % 3", -1),
            ("1 << 4 | 1", 17),
            ("0x10 + 010", 24),
            ("!0 + ~0", 0),
            ("1 < 2 && 2 < 1", 0),
            ("1 == 1 || 1 / 0", 1),
            ("0 ? 1 / 0 : 4", 4),
            ("x * 2", 10),
            ("y", 6),
            ("x = 3, x + 1", 4),
            ("x += 2", 7),
            ("x++ + x", 11),
            ("--x", 4),
            ("- -1", 1),
            ("x==5", 1),
            ("3 != 4", 1),
            ("5 & 4", 4),
            ("9223372036854775807 + 1", i64::MIN),
        ] {
            check(text, Ok(expected));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        check("1 / 0", Err("arithmetic: division by zero"));
        check("1 +", Err("arithmetic: a number is expected"));
        check("1 2", Err("arithmetic: unexpected `2` in `1 2`"));
        check("09", Err("arithmetic: `09` is no number"));
        check("loop", Err("arithmetic: nested more than 32 deep"));
        let deep = "(".repeat(1000);
        check(&deep, Err("arithmetic: nested more than 32 deep"));
    }
}
