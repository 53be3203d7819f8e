//! What wine cannot show, though Windows does it.

use std::io::Write;

/// Tells whether the rest of a test cannot pass because this Windows is wine, for the reason given. It is
/// written past libtest's capture, so that `ci/windows.sh` lists and counts it; `docs/platforms.md` does, too.
pub fn beyond_wine(reason: &str) -> bool {
    if !cfg!(windows) || std::env::var_os("CORACLE_TEST_WINE").is_none() {
        return false;
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a thread");
    // One write, so that lines of parallel tests do not mix.
    let line = format!("\nnot applicable under wine: {test}: {reason}\n");
    // Without a place to say it the test still must not fail.
    let _ = std::io::stderr().write_all(line.as_bytes());
    true
}
