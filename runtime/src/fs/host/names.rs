//! Names a guest may give to an entry of a host folder.

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

/// Refuses a name that Windows would take for something else: a stream, a device, a path, or a name
/// without its trailing dots.
pub(super) fn check_name(path: &str) -> Result<(), ErrorCode> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if cfg!(windows) && !is_plain_on_windows(name) {
        return Err(ErrorCode::Invalid);
    }
    Ok(())
}

fn is_plain_on_windows(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or(name)
        .trim_end()
        .to_ascii_uppercase();
    let numbered = |prefix: &str| {
        let rest = stem.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.chars().count() == 1 && rest != "0")
    };
    let is_device = matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) || numbered("COM")
        || numbered("LPT");
    let odd = |c: char| c < ' ' || r#"\/:*?"<>|"#.contains(c);
    !is_device && !name.contains(odd) && !name.ends_with(['.', ' '])
}

#[cfg(test)]
mod tests {
    use super::is_plain_on_windows;

    #[test]
    fn names_that_windows_reads_otherwise_are_known() {
        for plain in ["a", "a.txt", ".hidden", "console", "com10", "COM0", "ä ö"] {
            assert!(is_plain_on_windows(plain), "{plain}");
        }
        for odd in [
            "a:b", r"a\b", "CON", "nul.txt", "com1", "LPT9.log", "a.", "a ", "a\u{1}", "a*",
        ] {
            assert!(!is_plain_on_windows(odd), "{odd}");
        }
    }
}
