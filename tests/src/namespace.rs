//! Tests that need a network to themselves: each runs itself again in a namespace of its own.

use std::process::Command;

/// Set in the second run, to who runs it.
const INSIDE: &str = "CORACLE_TEST_NAMESPACE";

/// By whom a test is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Who runs it the first time, as root of a namespace of users if that is not root.
    Same,
    /// Root of a namespace of users, who may set routes, addresses and rules, and load no program.
    RootOfNamespace,
}

/// Who runs a test in a namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// Root, who may do everything.
    Root,
    /// Root of a namespace of users.
    User,
}

/// Runs the test of this name again, as this program names it in full, in a network namespace of its own
/// that `prepare` has prepared: commands for `sh`, of which each must succeed. Nothing in the first run,
/// which fails as the second one does.
///
/// # Panics
///
/// Panics where the second run fails, and where there is no `unshare` of util-linux.
#[must_use]
pub fn enter_namespace(test: &str, prepare: &str, by: By) -> Option<Inside> {
    if let Some(inside) = inside() {
        return Some(inside);
    }
    let is_root = by == By::Same && rustix::process::geteuid().is_root();
    let output = unshare(by)
        .args(["sh", "-c", &format!("{prepare} && exec \"$@\""), "sh"])
        .arg(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, if is_root { "root" } else { "user" })
        .output()
        .expect("`unshare` of util-linux is there");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    None
}

/// Tells who runs this test in a namespace of its own; nothing in a first run.
#[must_use]
pub fn inside() -> Option<Inside> {
    let inside = std::env::var_os(INSIDE)?;
    Some(match inside == "root" {
        true => Inside::Root,
        false => Inside::User,
    })
}

/// Tells whether this machine lets this user make such namespaces.
#[must_use]
pub fn allows_namespaces() -> bool {
    let allowed = unshare(By::Same).arg("true").output();
    allowed.is_ok_and(|output| output.status.success())
}

fn unshare(by: By) -> Command {
    let mut unshare = Command::new("unshare");
    if by == By::RootOfNamespace || !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg("--net");
    unshare
}
