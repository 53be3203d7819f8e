//! The toolbox that is built into the program: one multi-call command with the tools that a person expects
//! in every container, whatever its image holds.

use std::future::Future;
use std::sync::OnceLock;

use bytes::Bytes;
use coracle_runtime::{Code, PrepareError, Program, Runtime};

/// Folders whose programs the toolbox stands in for.
const FOLDERS: [&str; 6] = [
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/sbin",
];

/// A command that looks at the name it is called by, and those names.
#[derive(Clone, Debug)]
pub struct Toolbox {
    /// The program.
    pub wasm: Bytes,
    /// The names it answers to.
    pub applets: Vec<String>,
}

/// The toolbox of this node, compiled at its first use and kept.
pub(crate) struct Tools {
    toolbox: Option<Toolbox>,
    code: OnceLock<Code>,
    program: OnceLock<Program>,
}

impl Tools {
    pub(crate) fn new(toolbox: Option<Toolbox>) -> Tools {
        Tools {
            toolbox,
            code: OnceLock::new(),
            program: OnceLock::new(),
        }
    }

    /// Tells whether `program` is the toolbox, in an image too.
    pub(crate) fn is(&self, program: &Program) -> bool {
        self.toolbox.is_some() && self.code().digest == program.digest()
    }

    fn code(&self) -> &Code {
        // Only what the toolbox has is started from it, so an absent one is never prepared.
        let wasm = || self.toolbox.as_ref().map(|toolbox| toolbox.wasm.clone());
        self.code
            .get_or_init(|| Code::of(wasm().unwrap_or_default()))
    }

    /// Tells whether the toolbox has what `name` asks for: a bare name, or one in a folder of programs.
    pub(crate) fn has(&self, name: &str) -> bool {
        let applet = match name.rsplit_once('/') {
            Some((folder, applet)) if FOLDERS.contains(&folder) => applet,
            Some(_) => return false,
            None => name,
        };
        self.toolbox
            .as_ref()
            .is_some_and(|toolbox| toolbox.applets.iter().any(|one| one == applet))
    }

    /// Makes the toolbox ready, if there is one.
    pub(crate) async fn prepare(&self, runtime: &Runtime) {
        if self.toolbox.is_none() {
            return;
        }
        if let Err(error) = self.program(runtime).await {
            tracing::warn!(%error, "failed to prepare the toolbox");
        }
    }

    /// Returns the toolbox, ready to be started.
    ///
    /// # Errors
    ///
    /// Fails when it does not compile.
    pub(crate) async fn program(&self, runtime: &Runtime) -> Result<Program, PrepareError> {
        if let Some(program) = self.program.get() {
            return Ok(program.clone());
        }
        let (runtime, code) = (runtime.clone(), self.code().clone());
        let program = detached(async move { runtime.prepare(code).await }).await?;
        Ok(self.program.get_or_init(|| program).clone())
    }
}

/// Runs a preparation to its end even if nobody waits for it any more: a probe that gave up after a
/// second would otherwise undo a compilation of two, each time. The compiler has its own limits of time
/// and number, and ends with the agent's threads.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    match tokio::spawn(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolbox_stands_in_for_bare_names_and_the_usual_folders() {
        let toolbox = Toolbox {
            wasm: Bytes::new(),
            applets: vec!["sh".to_owned(), "[".to_owned()],
        };
        let tools = Tools::new(Some(toolbox));
        for (name, expected) in [
            ("sh", true),
            ("[", true),
            ("/bin/sh", true),
            ("/usr/local/bin/sh", true),
            ("bash", false),
            ("/opt/sh", false),
            ("./sh", false),
            ("bin/sh", false),
            ("/sh", false),
            ("", false),
            ("/bin/", false),
        ] {
            assert_eq!(tools.has(name), expected, "{name}");
        }
        assert!(!Tools::new(None).has("sh"));
    }
}
