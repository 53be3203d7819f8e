//! Whether the API is well: alive, ready, and why not.

use std::fmt::Write as _;

use http::{StatusCode, request::Parts};

use super::page::Page;
use crate::{request::HealthEndpoint, status::ApiError, verbs::Machine};

/// One thing that must be well.
struct Check {
    name: &'static str,
    well: bool,
}

/// Answers for all checks of an endpoint, or for the one that is named.
pub(super) fn page(
    endpoint: HealthEndpoint,
    name: Option<&str>,
    machine: &Machine,
    head: &Parts,
) -> Result<Page, ApiError> {
    let query = head.uri.query().unwrap_or_default();
    let query = || form_urlencoded::parse(query.as_bytes());
    let mut checks = endpoint.checks(machine);
    if let Some(name) = name {
        checks.retain(|check| check.name == name);
        if checks.is_empty() {
            return Err(ApiError::no_such_path());
        }
    }
    checks.retain(|check| !query().any(|(key, value)| key == "exclude" && value == check.name));
    let well = checks.iter().all(|check| check.well);
    if well && !query().any(|(key, _)| key == "verbose") {
        return Ok(Page::text(StatusCode::OK, "ok".to_owned()));
    }
    let mut text = String::new();
    for check in &checks {
        let _ = match check.well {
            true => writeln!(text, "[+]{} ok", check.name),
            false => writeln!(text, "[-]{} failed: reason withheld", check.name),
        };
    }
    let endpoint = endpoint.as_str();
    Ok(if well {
        let _ = writeln!(text, "{endpoint} check passed");
        Page::text(StatusCode::OK, text)
    } else {
        let _ = writeln!(text, "{endpoint} check failed");
        Page::text(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

impl HealthEndpoint {
    fn as_str(self) -> &'static str {
        match self {
            HealthEndpoint::Healthz => "healthz",
            HealthEndpoint::Livez => "livez",
            HealthEndpoint::Readyz => "readyz",
        }
    }

    fn checks(self, machine: &Machine) -> Vec<Check> {
        let check = |name, well| Check { name, well };
        match self {
            HealthEndpoint::Healthz | HealthEndpoint::Livez => vec![check("ping", true)],
            HealthEndpoint::Readyz => {
                vec![
                    check("ping", true),
                    check("shutdown", !machine.is_stopping()),
                ]
            }
        }
    }
}
