//! What the process tells of itself on stderr, beside what it is asked for.

use std::ffi::OsStr;

use tracing_subscriber::EnvFilter;

use crate::console;

/// Sends the log to stderr; `CORACLE_LOG` overrides what `-v` asks for.
pub(crate) fn start(verbose: u8) {
    // The client's warnings hold whole answers; what follows from them is told by those who asked.
    let default = match verbose {
        0 => "error",
        1 => {
            "warn,kube_client=error,coracle=info,coracle_kubelet_shim=info,coracle_runtime=info,\
              coracle_service_proxy=info"
        }
        _ => {
            "info,kube_client=error,coracle=debug,coracle_kubelet_shim=debug,coracle_runtime=debug,coracle_network=debug,\
              coracle_service_proxy=debug,coracle_registry=debug,coracle_control_plane=debug"
        }
    };
    let asked = std::env::var_os("CORACLE_LOG");
    let (filter, warning) = log_filter(asked.as_deref(), default);
    if let Some(warning) = warning {
        console::print_warning(&warning);
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(console::stderr_shows_colour())
        .init();
}

/// Returns what is logged, and what is wrong with what was asked for.
fn log_filter(asked: Option<&OsStr>, default: &str) -> (EnvFilter, Option<String>) {
    let usual = || EnvFilter::new(default);
    let wrong = |why: &str| Some(format!("`CORACLE_LOG` is ignored: {why}"));
    match asked.map(OsStr::to_str) {
        None | Some(Some("")) => (usual(), None),
        Some(None) => (usual(), wrong("it is no text")),
        Some(Some(text)) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (usual(), wrong(&error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_told_and_the_usual_one_taken() {
        let told = |text: Option<&str>| {
            let (filter, warning) = log_filter(text.map(OsStr::new), "error");
            (filter.to_string(), warning)
        };
        for text in [None, Some("")] {
            assert_eq!(told(text), ("error".to_owned(), None), "{text:?}");
        }
        assert_eq!(told(Some("debug")), ("debug".to_owned(), None));
        let (filter, warning) = told(Some("coracle=loud=x"));
        assert_eq!(filter, "error");
        let warning = warning.expect("it is told");
        assert!(
            warning.starts_with("`CORACLE_LOG` is ignored: "),
            "{warning}"
        );
    }
}
