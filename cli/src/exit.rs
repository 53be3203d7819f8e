//! The exit codes of `coracle`, in one place because scripts rely on them.

use std::process::ExitCode;

/// How a command of `coracle` ends, as its caller's shell sees it.
///
/// Usage errors end with 2 before a value of this type exists: the argument parser answers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done; every container ended with 0.
    Success,
    /// The code of the first container that failed for good: its own, 134 after a trap, 137 when it
    /// was killed or out of memory, 128 when it could not start.
    Container(u8),
    /// Coracle itself refused or failed: a missing file, a manifest it does not honour, an image that
    /// is no Wasm, a registry's final "no". The number is docker's and podman's for the same thing.
    Refused,
    /// A second signal arrived while pods were being ended.
    Interrupted,
}

impl Exit {
    /// Returns the number that the process ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Container(code) => code,
            Self::Refused => 125,
            Self::Interrupted => 130,
        }
    }

    /// Returns the ending for a container's exit code, which Kubernetes keeps as a wider integer.
    ///
    /// A failure never turns into 0: codes that do not fit into a byte become 255.
    pub(crate) fn of_container(code: i32) -> Self {
        match u8::try_from(code) {
            Ok(0) => Self::Success,
            Ok(code) => Self::Container(code),
            Err(_) => Self::Container(u8::MAX),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts compare numbers, so a wide code must not wrap around to success.
    #[test]
    fn a_failing_container_never_ends_the_command_with_success() {
        for (code, expected) in [
            (0, 0),
            (3, 3),
            (134, 134),
            (255, 255),
            (256, 255),
            (-1, 255),
        ] {
            assert_eq!(
                Exit::of_container(code).code(),
                expected,
                "container code {code}"
            );
        }
    }
}
