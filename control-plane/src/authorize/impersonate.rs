//! Acting as someone else: the `Impersonate-…` headers of a request.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::{Attributes, Authorizer, ResourceAttributes, policy::ACCOUNT_PREFIX};
use crate::{
    caller::{AUTHENTICATED, Caller, UNAUTHENTICATED},
    status::ApiError,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

const AUTHENTICATION: &str = "authentication.k8s.io";

/// Returns who the request acts as, if the caller may act so: the caller itself without headers.
pub(crate) fn impersonate(
    authorizer: &Authorizer,
    caller: Caller,
    headers: &mut HeaderMap,
) -> Result<Caller, ApiError> {
    let names: Vec<_> = headers
        .keys()
        .filter(|name| is_ours(name.as_str()))
        .collect();
    if names.is_empty() {
        return Ok(caller);
    }
    let names: Vec<_> = names.into_iter().cloned().collect();
    let user = values(headers, USER)?.pop().unwrap_or_default();
    let uid = values(headers, UID)?.pop().unwrap_or_default();
    let groups = values(headers, GROUP)?;
    let mut extra = BTreeMap::new();
    for name in &names {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.insert(unescape(key), values(headers, name.as_str())?);
        }
    }
    names.iter().for_each(|name| drop(headers.remove(name)));
    if user.is_empty() {
        let message =
            "requested to act as groups, a uid or extra fields without impersonating a user";
        return Err(ApiError::bad_request(message));
    }
    let wanted = wanted(&user, &uid, &groups, &extra);
    for attributes in wanted {
        authorizer.check(&caller, &Attributes::Resource(attributes))?;
    }
    Ok(acting(user, uid, groups, extra))
}

fn is_ours(name: &str) -> bool {
    matches!(name, USER | GROUP | UID) || name.starts_with(EXTRA)
}

fn values(headers: &HeaderMap, name: &str) -> Result<Vec<String>, ApiError> {
    let values = headers.get_all(name).iter();
    let values = values.map(|value| value.to_str().map(str::to_owned));
    values
        .collect::<Result<_, _>>()
        .map_err(|_| ApiError::bad_request(format!("the header `{name}` is no plain text")))
}

/// Lists what the caller must be allowed to impersonate.
fn wanted(
    user: &str,
    uid: &str,
    groups: &[String],
    extra: &BTreeMap<String, Vec<String>>,
) -> Vec<ResourceAttributes> {
    let one = |group: &str, resource: &str, subresource: &str, name: &str| ResourceAttributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        namespace: String::new(),
        fields: Vec::new(),
    };
    let account = user
        .strip_prefix(ACCOUNT_PREFIX)
        .and_then(|account| account.split_once(':'));
    let mut wanted = vec![match account {
        Some((namespace, name)) => ResourceAttributes {
            namespace: namespace.to_owned(),
            ..one("", "serviceaccounts", "", name)
        },
        None => one("", "users", "", user),
    }];
    wanted.extend(groups.iter().map(|group| one("", "groups", "", group)));
    for (key, values) in extra {
        let fields = values
            .iter()
            .map(|value| one(AUTHENTICATION, "userextras", key, value));
        wanted.extend(fields);
    }
    if !uid.is_empty() {
        wanted.push(one(AUTHENTICATION, "uids", "", uid));
    }
    wanted
}

/// Puts together the user that is acted as.
fn acting(
    user: String,
    uid: String,
    mut groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
) -> Caller {
    let mut caller = match groups.is_empty() {
        true => account_groups(&user),
        false => Vec::new(),
    };
    caller.append(&mut groups);
    let mut groups = caller;
    let known = |groups: &[String], group: &str| groups.iter().any(|known| known == group);
    if user == Caller::anonymous().name {
        if !known(&groups, UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !known(&groups, AUTHENTICATED) && !known(&groups, UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    Caller {
        name: user,
        uid,
        groups,
        extra,
    }
}

/// Returns the groups that a service account is in by its name; none for anyone else.
fn account_groups(user: &str) -> Vec<String> {
    let account = user.strip_prefix(ACCOUNT_PREFIX);
    match account.and_then(|account| account.split_once(':')) {
        Some((namespace, _)) => vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ],
        None => Vec::new(),
    }
}

/// Returns a service account as the user that it is.
pub(crate) fn account_caller(namespace: &str, name: &str, uid: &str) -> Caller {
    let user = format!("{ACCOUNT_PREFIX}{namespace}:{name}");
    let mut groups = account_groups(&user);
    groups.push(AUTHENTICATED.to_owned());
    Caller {
        name: user,
        uid: uid.to_owned(),
        groups,
        extra: BTreeMap::new(),
    }
}

/// Reads `%2f` and the like; what is no escape stays.
fn unescape(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = (first == b'%').then(|| after.get(..2)).flatten();
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).to_ascii_lowercase()
}
