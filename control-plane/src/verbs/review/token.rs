//! Tokens of service accounts: making them, and saying whose they are.

use http::StatusCode;
use serde_json::{Value, json};

use super::words;
use crate::{
    authorize::{self, account_caller},
    caller::Caller,
    identity::ISSUER,
    invalid::Causes,
    kinds, object,
    request::Call,
    service::{Answer, Content},
    status::ApiError,
    unique::unique,
    verbs::{Machine, draft::Draft},
};

const VERSION: &str = "authentication.k8s.io/v1";
const SCHEMA: &str = "authentication.v1.TokenRequest";

/// How long a token is good for when nobody says so, and at least.
const LIFETIME_SECONDS: i64 = 60 * 60;
const LIFETIME_SECONDS_MIN: i64 = 10 * 60;
/// What is asked for may be more; nobody gets more than a day.
const LIFETIME_SECONDS_ASKED_MAX: i64 = 1 << 32;
const LIFETIME_SECONDS_MAX: i64 = 24 * 60 * 60;
/// Audiences of one token.
const AUDIENCES_MAX: usize = 64;

/// What callers with a token are told about it.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
const EXTRAS: &[(&str, &str, &str)] = &[
    ("pod", "name", "authentication.kubernetes.io/pod-name"),
    ("pod", "uid", "authentication.kubernetes.io/pod-uid"),
    ("node", "name", "authentication.kubernetes.io/node-name"),
    ("node", "uid", "authentication.kubernetes.io/node-uid"),
];

impl Machine {
    /// Makes a token for a service account.
    pub(in crate::verbs) fn make_token(
        &self,
        call: &Call,
        content: &Content,
    ) -> Result<Answer, ApiError> {
        let objects = &call.objects;
        let (name, namespace) = (
            objects.name(),
            objects.namespace.as_deref().unwrap_or_default(),
        );
        let record = self.store.get(&objects.key());
        let record = record.ok_or_else(|| ApiError::not_found(objects.info, name))?;
        let reviews = kinds::served(VERSION, "TokenReview").expect("reviews are in the table");
        let Draft {
            object: mut request,
            warnings,
        } = Draft::of_type(reviews, SCHEMA, &call.options, content)?;
        authorize::admit_token(&self.authorizer, call, &request)?;
        complete(&mut request);
        check(reviews, &request)?;
        let mut about = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": &*record.index.uid},
        });
        self.bind_claims(
            name,
            namespace,
            &request["spec"]["boundObjectRef"],
            &mut about,
        )?;
        let lifetime = request["spec"]["expirationSeconds"].as_i64();
        let lifetime = lifetime.unwrap_or_default().min(LIFETIME_SECONDS_MAX);
        let now = self.now();
        let expires = now.as_second().saturating_add(lifetime);
        let claims = json!({
            "aud": request["spec"]["audiences"],
            "exp": expires,
            "iat": now.as_second(),
            "iss": ISSUER,
            "jti": unique().to_string(),
            "kubernetes.io": about,
            "nbf": now.as_second(),
            "sub": account_caller(namespace, name, "").name,
        });
        let token = self.identity.tokens().sign(&claims);
        let token = token.ok_or_else(|| ApiError::internal("failed to sign the token"))?;
        let expires = jiff::Timestamp::from_second(expires).unwrap_or(now);
        request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
        request["spec"]["expirationSeconds"] = Value::from(lifetime);
        request["metadata"] = json!({
            "name": name,
            "namespace": namespace,
            "creationTimestamp": now.to_string(),
        });
        let mut answer = Answer::json(StatusCode::CREATED, &request);
        answer.warnings = warnings;
        Ok(answer)
    }

    /// Looks up the object that a token shall end with, and writes it into the claims.
    fn bind_claims(
        &self,
        account: &str,
        namespace: &str,
        bound: &Value,
        about: &mut Value,
    ) -> Result<(), ApiError> {
        if bound.is_null() {
            return Ok(());
        }
        let text = |field: &str| bound[field].as_str().unwrap_or_default();
        let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
        if version != "v1" || !matches!(kind, "Pod" | "Secret" | "Node") {
            let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
            let message =
                format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(message));
        }
        let info = kinds::served(version, kind).expect("these are in the table");
        let key = object::key(info, Some(namespace), name);
        let record = self.store.get(&key);
        let record = record.ok_or_else(|| ApiError::not_found(info, name))?;
        let uid = &*record.index.uid;
        if !text("uid").is_empty() && text("uid") != uid {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The \
                 object might have been deleted and then recreated",
                text("uid")
            );
            return Err(ApiError::conflict(info, name, &why));
        }
        about[kind.to_ascii_lowercase()] = json!({"name": name, "uid": uid});
        if kind != "Pod" {
            return Ok(());
        }
        // Both are selectable, so the pod need not be read.
        let field = |name: &str| record.index.field(info, name);
        if field("spec.serviceAccountName") != account {
            let message = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different \
                 serviceaccount name."
            );
            return Err(ApiError::bad_request(message));
        }
        let node = field("spec.nodeName");
        if !node.is_empty() {
            about["node"] = json!({"name": node});
            if let Some(uid) = self.uid_of("Node", "", node) {
                about["node"]["uid"] = Value::from(uid);
            }
        }
        Ok(())
    }

    /// Returns the identifier of an object of the core group that is there.
    fn uid_of(&self, kind: &str, namespace: &str, name: &str) -> Option<String> {
        let info = kinds::served("v1", kind)?;
        let record = self.store.get(&object::key(info, Some(namespace), name))?;
        Some(record.index.uid.to_string())
    }

    /// Says whose token this is and which of the wanted audiences it is for, or why nobody's.
    pub(crate) fn token_caller(
        &self,
        token: &str,
        wanted: &[String],
    ) -> Result<(Caller, Vec<String>), &'static str> {
        let claims = self.identity.tokens().verify(token);
        let claims = claims.ok_or("invalid bearer token")?;
        let now = (self.clock)().as_second();
        if claims["iss"] != ISSUER || claims["nbf"].as_i64().is_none_or(|from| now < from) {
            return Err("invalid bearer token");
        }
        if claims["exp"].as_i64().is_none_or(|until| now >= until) {
            return Err("service account token has expired");
        }
        let mut audiences = words(&claims["aud"]);
        audiences.retain(|audience| wanted.contains(audience));
        if audiences.is_empty() {
            return Err("token audiences are not among those asked for");
        }
        let about = &claims["kubernetes.io"];
        let text = |part: &str, field: &str| about[part][field].as_str().unwrap_or_default();
        let namespace = about["namespace"].as_str().unwrap_or_default();
        // What a token stands for may have ended before it: then so has the token.
        for (part, kind) in [
            ("serviceaccount", "ServiceAccount"),
            ("pod", "Pod"),
            ("secret", "Secret"),
        ] {
            self.still_there(kind, namespace, &about[part])?;
        }
        if about["pod"].is_null() {
            self.still_there("Node", "", &about["node"])?;
        }
        let (name, uid) = (
            text("serviceaccount", "name"),
            text("serviceaccount", "uid"),
        );
        let mut caller = account_caller(namespace, name, uid);
        let id = claims["jti"].as_str().unwrap_or_default();
        let mut add = |key: &str, value: String| caller.extra.insert(key.to_owned(), vec![value]);
        add(CREDENTIAL_ID, format!("JTI={id}"));
        for (part, field, key) in EXTRAS {
            if let Some(value) = about[part][field].as_str() {
                add(key, value.to_owned());
            }
        }
        Ok((caller, audiences))
    }

    /// Checks that an object named in a token is there and is the same.
    fn still_there(&self, kind: &str, namespace: &str, named: &Value) -> Result<(), &'static str> {
        if named.is_null() {
            return Ok(());
        }
        let name = named["name"].as_str().unwrap_or_default();
        match self.uid_of(kind, namespace, name) {
            Some(uid) if named["uid"] == *uid => Ok(()),
            Some(_) | None => Err("service account token has been invalidated"),
        }
    }
}

fn complete(request: &mut Value) {
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    let spec = &mut request["spec"];
    if words(&spec["audiences"]).is_empty() {
        spec["audiences"] = json!([ISSUER]);
    }
    if spec["expirationSeconds"].is_null() {
        spec["expirationSeconds"] = Value::from(LIFETIME_SECONDS);
    }
}

fn check(info: &kinds::KindInfo, request: &Value) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let seconds = &request["spec"]["expirationSeconds"];
    let path = "spec.expirationSeconds";
    match seconds.as_i64() {
        Some(asked) if asked < LIFETIME_SECONDS_MIN => {
            let detail = "may not specify a duration less than 10 minutes";
            causes.invalid(path, seconds, detail);
        }
        Some(asked) if asked > LIFETIME_SECONDS_ASKED_MAX => {
            let detail = "may not specify a duration larger than 2^32 seconds";
            causes.invalid(path, seconds, detail);
        }
        Some(_) | None => (),
    }
    let audiences = words(&request["spec"]["audiences"]);
    if audiences.len() > AUDIENCES_MAX {
        causes.too_many("spec.audiences", audiences.len(), AUDIENCES_MAX);
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid_named(info.group, "TokenRequest", causes))
}
