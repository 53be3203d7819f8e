//! `[[ … ]]`, as in larger shells: no splitting, patterns on the right side, `&&` and `||` within.

use std::path::Path;
use std::pin::Pin;

use super::syntax::Word;
use super::{Flow, Ran, Shell};
use crate::applets::condition;
use crate::applets::regular;
use crate::pattern;

type Deciding<'a> = Pin<Box<dyn Future<Output = Result<bool, Flow>> + 'a>>;

/// Words of a condition and where in them.
struct Place<'a> {
    words: &'a [Word],
    at: usize,
}

impl<'a> Place<'a> {
    fn operator(&self) -> Option<&'a str> {
        self.words.get(self.at).and_then(Word::as_literal)
    }

    fn take(&mut self, operator: &str) -> bool {
        let found = self.operator() == Some(operator);
        self.at += usize::from(found);
        found
    }

    fn next(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }
}

impl Shell {
    /// Decides a condition.
    pub(super) async fn condition(&mut self, words: &[Word]) -> Ran {
        let mut place = Place { words, at: 0 };
        let holds = self.any(&mut place).await?;
        if place.at < words.len() {
            return Err(self.fail("[[: unexpected word").await);
        }
        Ok(i32::from(!holds))
    }

    fn any<'a>(&'a mut self, place: &'a mut Place<'_>) -> Deciding<'a> {
        Box::pin(async move {
            let mut holds = self.every(place).await?;
            while place.take("||") {
                holds |= self.every(place).await?;
            }
            Ok(holds)
        })
    }

    async fn every(&mut self, place: &mut Place<'_>) -> Result<bool, Flow> {
        let mut holds = self.one(place).await?;
        while place.take("&&") {
            holds &= self.one(place).await?;
        }
        Ok(holds)
    }

    fn one<'a>(&'a mut self, place: &'a mut Place<'_>) -> Deciding<'a> {
        Box::pin(async move {
            if place.take("!") {
                return Ok(!self.one(place).await?);
            }
            if place.take("(") {
                let holds = self.any(place).await?;
                return if place.take(")") {
                    Ok(holds)
                } else {
                    Err(self.fail("[[: `)` expected").await)
                };
            }
            let Some(first) = place.next() else {
                return Err(self.fail("[[: a word is expected").await);
            };
            let unary = first.as_literal().filter(|word| condition::is_unary(word));
            if let Some(operator) = unary
                && !matches!(place.operator(), Some("&&" | "||" | ")"))
                && let Some(operand) = place.next()
            {
                let operand = self.expand_text(operand).await?;
                let folder = self.folder.clone();
                return Ok(self.unary(operator, &operand, &folder));
            }
            let left = self.expand_text(first).await?;
            let operator = match place.operator() {
                None | Some("&&" | "||" | ")") => return Ok(!left.is_empty()),
                Some(operator) => operator,
            };
            place.at += 1;
            let Some(right) = place.next() else {
                return Err(self.fail("[[: a word is expected").await);
            };
            self.binary(&left, operator, right).await
        })
    }

    fn unary(&self, operator: &str, operand: &str, folder: &Path) -> bool {
        if operator == "-v" {
            return self.value(operand).is_some();
        }
        condition::unary(operator, operand, folder, &self.descriptors)
    }

    async fn binary(&mut self, left: &str, operator: &str, right: &Word) -> Result<bool, Flow> {
        match operator {
            "=" | "==" | "!=" => {
                let wanted = self.expand_pattern(right).await?;
                Ok(pattern::matches(&wanted, left) == (operator != "!="))
            }
            "=~" => {
                let text = self.expand_text(right).await?;
                match regular::compile(&text, regular::Dialect::Extended, regular::Case::Matters) {
                    Ok(expression) => Ok(expression.is_match(left)),
                    Err(failure) => Err(self.fail(failure.message()).await),
                }
            }
            operator => {
                let right = self.expand_text(right).await?;
                let folder = self.folder.clone();
                match condition::binary(left, operator, &right, &folder) {
                    Ok(holds) => Ok(holds),
                    Err(failure) => Err(self.fail(&format!("[[: {}", failure.message())).await),
                }
            }
        }
    }
}
