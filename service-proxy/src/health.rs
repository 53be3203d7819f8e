//! How the proxy is, and whether this node has endpoints: what load balancers ask before they send.
//!
//! A Service with `healthCheckNodePort` has a port of its own here; the answers are kube-proxy's
//! (`pkg/proxy/healthcheck`), since load balancers read them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answering::{self, Answers};
use crate::compile::LocalHealth;
use crate::facts::ServiceKey;

const JSON: &str = "application/json";

/// Ports for health checks at once: each costs a descriptor for every address of the node.
const PORTS_MAX: usize = 1_024;

/// How many endpoints of the Service are on this node, for load balancers that weigh.
const WEIGHT_HEADER: &str = "x-load-balancing-endpoint-weight";

/// How the proxy is; shared by whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Health {
    is_synced: AtomicBool,
    is_leaving: AtomicBool,
    /// Seconds of the last change of what is routed.
    updated: AtomicI64,
}

impl Health {
    /// Takes note that what is routed was brought up to date.
    pub(crate) fn updated(&self) {
        self.is_synced.store(true, Ordering::Relaxed);
        self.updated
            .store(Timestamp::now().as_second(), Ordering::Relaxed);
    }

    /// Takes note of whether the node is to be removed.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.is_leaving.store(is_leaving, Ordering::Relaxed);
    }

    /// Tells whether the proxy serves what the API says.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_synced.load(Ordering::Relaxed)
    }

    /// Tells whether new connections shall be sent here.
    pub(crate) fn is_eligible(&self) -> bool {
        !self.is_leaving.load(Ordering::Relaxed)
    }

    /// Answers `/healthz` and `/livez`.
    pub(crate) fn answer(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        let is_well = match path {
            "/healthz" => self.is_alive() && self.is_eligible(),
            "/livez" => self.is_alive(),
            _ => return None,
        };
        let updated = self.updated.load(Ordering::Relaxed);
        let updated = Timestamp::from_second(updated).unwrap_or_default();
        let body = serde_json::json!({
            "lastUpdated": updated.to_string(),
            "currentTime": Timestamp::now().to_string(),
            "nodeEligible": self.is_eligible(),
        });
        Some(answering::text(status(is_well), JSON, body.to_string()))
    }
}

fn status(is_well: bool) -> StatusCode {
    match is_well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The ports for health checks of Services.
#[derive(Debug)]
pub(crate) struct HealthChecks {
    /// Where they are asked in any case, and where they are now.
    own: Vec<IpAddr>,
    listen_on: Vec<IpAddr>,
    health: Arc<Health>,
    open: HashMap<ServiceKey, Open>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A Service's port.
#[derive(Debug)]
struct Open {
    port: u16,
    local: Arc<AtomicUsize>,
    listening: HashMap<IpAddr, CancellationToken>,
}

impl HealthChecks {
    /// Returns no ports; they will be listened on at these addresses in any case.
    pub(crate) fn new(own: Vec<IpAddr>, health: Arc<Health>) -> HealthChecks {
        HealthChecks {
            listen_on: own.clone(),
            own,
            health,
            open: HashMap::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Opens, changes or closes a Service's port; an error says why it cannot be asked.
    pub(crate) fn set(
        &mut self,
        key: &ServiceKey,
        asked: Option<LocalHealth>,
    ) -> Result<(), String> {
        let Some(LocalHealth { port, local }) = asked else {
            self.close(key);
            return Ok(());
        };
        if let Some(open) = self.open.get(key).filter(|open| open.port == port) {
            open.local.store(local, Ordering::Relaxed);
            return Ok(());
        }
        self.close(key);
        let open = Open {
            port,
            local: Arc::new(AtomicUsize::new(local)),
            listening: HashMap::new(),
        };
        if self.open.len() >= PORTS_MAX {
            return Err(format!(
                "node port {port} is not listened on for health checks: {PORTS_MAX} others are"
            ));
        }
        // Kept even if it fails: it is not tried again with every change of an endpoint.
        self.open.insert(key.clone(), open);
        self.listen(key)
    }

    /// Moves all ports to these addresses, beside those that they have in any case; each error says of a
    /// Service why it cannot be asked at one.
    pub(crate) fn listen_at(&mut self, addresses: &[IpAddr]) -> Vec<(ServiceKey, String)> {
        let mut now = self.own.clone();
        now.extend(addresses);
        let everywhere = |ip: &IpAddr| {
            let mut all = now.iter().filter(|one| one.is_unspecified());
            all.any(|one| one.is_ipv4() == ip.is_ipv4())
        };
        // One on all addresses is on each.
        let mut single = now.clone();
        single.retain(|ip| ip.is_unspecified() || !everywhere(ip));
        single.sort_unstable();
        single.dedup();
        if single == self.listen_on {
            return Vec::new();
        }
        self.listen_on = single;
        let keys = self.open.keys().cloned().collect::<Vec<_>>();
        let moved = keys.into_iter().filter_map(|key| {
            let failed = self.listen(&key).err()?;
            Some((key, failed))
        });
        moved.collect()
    }

    /// Listens on a Service's port where it is to be asked, and nowhere else.
    fn listen(&mut self, key: &ServiceKey) -> Result<(), String> {
        let Some(open) = self.open.get_mut(key) else {
            return Ok(());
        };
        let gone = open
            .listening
            .extract_if(|ip, _| !self.listen_on.contains(ip));
        gone.for_each(|(_, stop)| stop.cancel());
        let mut refused = None;
        for ip in &self.listen_on {
            let address = SocketAddr::new(*ip, open.port);
            if open.listening.contains_key(ip) {
                continue;
            }
            match answering::listen(address) {
                Ok(listener) => {
                    let stop = self.stop.child_token();
                    let answers = answers(key.clone(), Arc::clone(&open.local), &self.health);
                    let serving = answering::serve(listener, answers, stop.clone());
                    self.tasks.spawn(serving);
                    open.listening.insert(*ip, stop);
                }
                Err(error) => {
                    refused = Some(format!(
                        "failed to listen on `{address}` for health checks: {error}"
                    ));
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn close(&mut self, key: &ServiceKey) {
        if let Some(open) = self.open.remove(key) {
            open.listening.values().for_each(CancellationToken::cancel);
        }
    }

    /// Closes every port, and returns when all are closed.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn answers(key: ServiceKey, local: Arc<AtomicUsize>, health: &Arc<Health>) -> Answers {
    let health = Arc::clone(health);
    Arc::new(move |_path| {
        let local = local.load(Ordering::Relaxed);
        service_answer(&key, local, health.is_alive())
    })
}

fn service_answer(key: &ServiceKey, local: usize, is_healthy: bool) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": local,
        "serviceProxyHealthy": is_healthy,
    });
    let is_well = local > 0 && is_healthy;
    let mut answer = answering::text(status(is_well), JSON, body.to_string());
    answer
        .headers_mut()
        .insert(WEIGHT_HEADER, HeaderValue::from(local));
    answer
}

/// Returns what answers on the proxy's own port for health.
pub(crate) fn own_answers(
    health: Arc<Health>,
    asked: impl Fn(&str, StatusCode) + Send + Sync + 'static,
) -> Answers {
    Arc::new(move |path| {
        let answer = health.answer(path);
        let answer = answer.unwrap_or_else(answering::not_found);
        asked(path, answer.status());
        answer
    })
}

#[cfg(test)]
mod tests;
