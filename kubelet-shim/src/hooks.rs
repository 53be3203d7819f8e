//! Runs `postStart` and `preStop` hooks (contract B.7). When, and what follows, the planner decides.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::exec::ExecTarget;
use crate::images::describe;
use crate::probes::{HttpAgent, Names, OUTPUT_BYTES_MAX, Reach, Refusal, http_get};
use crate::spec::{ContainerPlan, Hook, HttpGet, PodKey, Scheme};

/// A hook may take as long as its container may live: whoever ends that abandons the hook.
const UNLIMITED: Duration = Duration::MAX;

/// What a hook needs to run.
pub(crate) struct HookTarget {
    pub(crate) reach: Reach,
    pub(crate) pod: PodKey,
    pub(crate) pod_ip: IpAddr,
    pub(crate) names: Names,
    pub(crate) exec: Option<Arc<ExecTarget>>,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// The program could not be run, or ended badly.
    #[error(
        "Exec lifecycle hook ({command}) for Container \"{container}\" in Pod \"{pod}\" failed - error: {error}, \
         message: {message:?}"
    )]
    Exec {
        command: String,
        container: String,
        pod: String,
        error: String,
        message: String,
    },
    /// Nobody answered.
    #[error(
        "HTTP lifecycle hook ({path}) for Container \"{container}\" in Pod \"{pod}\" failed - error: {error}"
    )]
    Http {
        path: String,
        container: String,
        pod: String,
        error: String,
    },
    /// The API accepts it and no node serves it.
    #[error("Cannot run handler: invalid handler: a lifecycle hook cannot be a tcpSocket")]
    Tcp,
}

/// How a hook came out well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookDone {
    /// As asked.
    AsAsked,
    /// Over plain HTTP, since that is what answered to TLS.
    WithoutTls,
}

/// Runs a hook to its end. Dropping the future abandons it.
pub(crate) async fn run(
    hook: &Hook,
    container: &ContainerPlan,
    target: &HookTarget,
) -> Result<HookDone, HookError> {
    match hook {
        Hook::Sleep(time) => {
            tokio::time::sleep(*time).await;
            Ok(HookDone::AsAsked)
        }
        Hook::Exec(command) => {
            exec(command, target)
                .await
                .map_err(|(error, message)| HookError::Exec {
                    command: command.join(" "),
                    container: container.name.to_string(),
                    pod: target.pod.to_string(),
                    error,
                    message,
                })
        }
        Hook::Http(get) => http(get, target).await.map_err(|error| HookError::Http {
            path: get.path.to_string(),
            container: container.name.to_string(),
            pod: target.pod.to_string(),
            error,
        }),
        Hook::Tcp => Err(HookError::Tcp),
    }
}

/// An error is what went wrong, and what the program wrote.
async fn exec(command: &[String], target: &HookTarget) -> Result<HookDone, (String, String)> {
    let Some(exec) = &target.exec else {
        return Err(("the container does not run".to_owned(), String::new()));
    };
    let output = exec.run(command, OUTPUT_BYTES_MAX).await;
    let output = output.map_err(|error| (describe(&error), String::new()))?;
    if output.code == 0 {
        return Ok(HookDone::AsAsked);
    }
    let line = command.join(" ");
    let error = format!("command '{line}' exited with {}", output.code);
    Err((error, String::from_utf8_lossy(&output.output).into_owned()))
}

/// Every answer is a success. One in plain HTTP to a request over TLS is asked for again without.
async fn http(get: &HttpGet, target: &HookTarget) -> Result<HookDone, String> {
    let HookTarget {
        reach,
        pod_ip,
        names,
        ..
    } = target;
    let ask = async |get: &HttpGet| {
        http_get(reach, get, (*pod_ip, names), HttpAgent::Hook, UNLIMITED).await
    };
    match ask(get).await {
        Ok(_) => Ok(HookDone::AsAsked),
        Err(Refusal::NotTls(_)) => {
            let plain = HttpGet {
                scheme: Scheme::Http,
                ..get.clone()
            };
            match ask(&plain).await {
                Ok(_) => Ok(HookDone::WithoutTls),
                Err(refusal) => Err(refusal.into_text()),
            }
        }
        Err(refusal) => Err(refusal.into_text()),
    }
}
