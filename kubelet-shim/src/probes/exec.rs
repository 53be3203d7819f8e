//! `exec` of probes: a program in the container, judged by its exit code (contract C.3).

use std::time::Duration;

use super::Programs;
use super::attempt::{Ended, OUTPUT_BYTES_MAX, shortened};
use crate::images::describe;

/// Runs a program within `timeout`; it is ended by force when that is over.
pub(super) async fn probe(programs: &Programs, command: &[String], timeout: Duration) -> Ended {
    let Some(target) = &programs.0 else {
        return Ended::Errored("the container does not run".to_owned());
    };
    let run = target.run(command, OUTPUT_BYTES_MAX);
    match tokio::time::timeout(timeout, run).await {
        Ok(Ok(output)) if output.code == 0 => Ended::Good,
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.output).into_owned();
            Ended::Failed(shortened(text))
        }
        Ok(Err(error)) => Ended::Errored(shortened(describe(&error))),
        Err(_) => Ended::Failed(shortened(format!(
            "command timed out: \"{}\" timed out after {}s",
            command.join(" "),
            timeout.as_secs()
        ))),
    }
}
