//! Variables in a file that an earlier container wrote: `KEY='value'` lines (contract D.1, `fileKeyRef`).

/// What is wrong with a file of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(crate) struct FileFault {
    line: usize,
    what: &'static str,
}

/// Finds a variable. Values stand in single quotes, may span lines, and know no escapes; empty lines and
/// lines that begin with `#` are passed over.
pub(crate) fn look_up(text: &str, key: &str) -> Result<Option<String>, FileFault> {
    let mut found = None;
    let mut rest = text;
    while !rest.is_empty() {
        let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let fault = |what| FileFault { line, what };
        let (first, below) = rest.split_once('\n').unwrap_or((rest, ""));
        let first = first.trim();
        if first.is_empty() || first.starts_with('#') {
            rest = below;
            continue;
        }
        let (name, after) = rest
            .split_once('=')
            .filter(|(name, _)| !name.contains('\n'))
            .ok_or_else(|| fault("there is no `=`"))?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(fault("the name is empty or holds a space"));
        }
        let value = after
            .strip_prefix('\'')
            .ok_or_else(|| fault("the value is not in single quotes"))?;
        let (value, after) = value
            .split_once('\'')
            .ok_or_else(|| fault("the value's quotes are not closed"))?;
        let (tail, below) = after.split_once('\n').unwrap_or((after, ""));
        let tail = tail.trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return Err(fault("something follows the value"));
        }
        if name == key && found.is_none() {
            found = Some(value.to_owned());
        }
        rest = below;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_strict_about_quotes() {
        for (text, expected) in [
            ("K='v'", Ok(Some("v"))),
            ("# c\n\n  K='a b' # c\nL='x'\n", Ok(Some("a b"))),
            ("K='two\nlines'\r\nL='x'", Ok(Some("two\nlines"))),
            ("K=''", Ok(Some(""))),
            ("K='$(X)\\n'", Ok(Some("$(X)\\n"))),
            ("K='1'\nK='2'", Ok(Some("1"))),
            ("L='x'", Ok(None)),
            ("", Ok(None)),
            ("L='K=\n'\nK='v'", Ok(Some("v"))),
            ("K=v", Err(1)),
            ("K=\"v\"", Err(1)),
            ("L='x'\nK='v", Err(2)),
            ("K='v'x", Err(1)),
            ("K 2='v'", Err(1)),
            ("word\nK='v'", Err(1)),
        ] {
            let found = look_up(text, "K").map_err(|fault| fault.line);
            assert_eq!(
                found,
                expected.map(|value| value.map(str::to_owned)),
                "{text}"
            );
        }
    }
}
