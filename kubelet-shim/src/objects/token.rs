//! Tokens of a pod's service account: asked for, bound to the pod, and when to ask again (contract D.6).

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

use crate::spec::{PodKey, PodSpecPlan, TokenPlan};
use crate::time::Moment;

/// No token is kept for longer, however long it is good for.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Tokens that were asked for together are renewed over this long.
const JITTER_MAX: Duration = Duration::from_secs(10);

/// After a failure the old token serves on, and the next try comes after this: a kubelet looks at its
/// pods about as often.
const RETRY: Duration = Duration::from_secs(60);

/// A token that was had.
pub(super) struct Token {
    pub(super) text: Bytes,
    pub(super) renew_at: Instant,
}

impl Token {
    /// Puts the next try off after a failure.
    pub(super) fn put_off(&mut self, now: Moment) {
        self.renew_at = now.after(RETRY).instant();
    }
}

/// Asks for a token that ends with the pod.
pub(super) async fn request(
    client: &kube::Client,
    pod: &PodSpecPlan,
    plan: &TokenPlan,
    now: Moment,
) -> Result<Token, kube::Error> {
    let key = &pod.key;
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: plan.audience.clone().map(|audience| vec![audience]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(key.name.to_string()),
                uid: Some(key.uid.to_string()),
            }),
            expiration_seconds: i64::try_from(plan.lifetime.as_secs()).ok(),
        }),
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &key.namespace);
    let account = &pod.service_account;
    let made = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let lifetime = made.spec.and_then(|spec| spec.expiration_seconds);
    let lifetime = lifetime.and_then(|seconds| u64::try_from(seconds).ok());
    let lifetime = lifetime.map_or(plan.lifetime, Duration::from_secs);
    let status = made.status.unwrap_or_default();
    Ok(Token::new(status, lifetime, now, jitter(key)))
}

impl Token {
    fn new(status: TokenRequestStatus, lifetime: Duration, now: Moment, jitter: Duration) -> Token {
        let until = status.expiration_timestamp;
        let left = until.map_or(lifetime, |until| remaining(until.0, now.wall()));
        Token {
            text: status.token.unwrap_or_default().into(),
            renew_at: now.after(renewal(lifetime, left, jitter)).instant(),
        }
    }
}

fn remaining(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// The time until a token is renewed: a fifth of its life before its end, or a day after its beginning.
fn renewal(lifetime: Duration, left: Duration, jitter: Duration) -> Duration {
    let age = lifetime.saturating_sub(left);
    let last_fifth = Duration::from_secs(lifetime.as_secs() / 5);
    let by_life = left.saturating_sub(last_fifth);
    let by_age = AGE_MAX.saturating_sub(age);
    by_life.min(by_age).saturating_sub(jitter)
}

/// A fixed part of the longest jitter, by the pod's UID: pods differ, and a test can tell.
fn jitter(key: &PodKey) -> Duration {
    let sum = key.uid.bytes().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    JITTER_MAX * (sum % 100) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kubelet's rule: older than 80 % of its life, or than 24 hours, less up to 10 s.
    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life_or_after_a_day() {
        for (lifetime, left, jitter, expected) in [
            (3600, 3600, 0, 2880),
            (3607, 3607, 10, 2876),
            (3600, 1000, 0, 280),
            (3600, 700, 0, 0),
            (600, 600, 5, 475),
            (7 * 86_400, 7 * 86_400, 0, 86_400),
            (7 * 86_400, 6 * 86_400, 0, 0),
        ] {
            let [lifetime, left, jitter, expected] =
                [lifetime, left, jitter, expected].map(Duration::from_secs);
            assert_eq!(
                renewal(lifetime, left, jitter),
                expected,
                "{lifetime:?} {left:?}"
            );
        }
    }

    #[test]
    fn the_jitter_stays_within_its_bound() {
        for uid in ["", "a", "0c9b7f1e-6d1b-4c5e-9df7-3b1d6a6c9a11"] {
            let key = PodKey {
                namespace: "n".into(),
                name: "p".into(),
                uid: uid.into(),
            };
            assert!(jitter(&key) < JITTER_MAX);
        }
    }
}
