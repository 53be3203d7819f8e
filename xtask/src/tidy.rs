//! What compiler and linter do not check: budgets, names, dependencies, documents, samples.

mod budgets;
mod dependencies;
mod documents;
mod duplicates;
mod names;
mod samples;
mod source;

use anyhow::bail;

use crate::workspace::root;

/// Checks everything and prints every violation.
///
/// # Errors
///
/// Fails when there is a violation, or when the repository cannot be read.
pub(crate) fn run() -> anyhow::Result<()> {
    let violations = violations()?;
    if violations.is_empty() {
        return Ok(());
    }
    bail!("the repository is not tidy:\n  {}", violations.join("\n  "));
}

/// Each violation is one line that begins with where it is.
fn violations() -> anyhow::Result<Vec<String>> {
    let root = root();
    let mut found = budgets::check(&root)?;
    found.extend(names::check(&root)?);
    found.extend(dependencies::check(&root)?);
    found.extend(documents::check(&root)?);
    found.extend(samples::check(&root)?);
    Ok(found)
}

#[cfg(test)]
mod tests {
    /// The style is kept by whoever runs the tests, not only by CI.
    #[test]
    fn the_repository_is_tidy() {
        if coracle_tests::beyond_wine("cargo and rustc are programs of Linux there") {
            return;
        }
        let violations = super::violations().expect("the repository can be read");
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }
}
