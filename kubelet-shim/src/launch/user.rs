//! Who a container runs as: its security context before its image (contract B.6).

use std::sync::Arc;

use coracle_runtime::fs::{FileSystem, FileSystemSpec, Tree, Upper, User};

use crate::images::{SharedImage, blocking};
use crate::spec::{ContainerPlan, PodSpecPlan};

/// What an image may say of users: enough for any, too little to hurt.
const TABLE_BYTES_MAX: usize = 1 << 20;

/// The image's own users and groups, looked up when somebody asks.
struct Tables<'a> {
    tree: &'a Arc<Tree>,
}

/// Returns the user of a container.
///
/// Names, the group of a user and the groups that an image puts it in are those of the image's `/etc/passwd`
/// and `/etc/group`.
///
/// # Errors
/// The image names a user or group that it does not have; the text is for the container's status.
pub(super) async fn find(
    pod: &Arc<PodSpecPlan>,
    index: usize,
    image: &Arc<SharedImage>,
) -> Result<User, String> {
    let security = &pod.containers[index].security;
    if security.run_as_user.is_none() && image.user().is_empty() {
        // Root, whom no table tells anything about.
        let gid = security.run_as_group.unwrap_or(0);
        let groups = named_groups(pod, gid);
        return Ok(User {
            uid: 0,
            gid,
            groups,
        });
    }
    let (pod, image) = (pod.clone(), image.clone());
    // Files of an image lie on the disk.
    let look_up = move || look_up(&pod, &pod.containers[index], image.user(), &image.tree);
    blocking(look_up).await
}

fn look_up(
    pod: &PodSpecPlan,
    container: &ContainerPlan,
    of_image: &str,
    tree: &Arc<Tree>,
) -> Result<User, String> {
    let security = &container.security;
    let tables = Tables { tree };
    let passwd = tables.read("/etc/passwd");
    let (user, group) = of_image.split_once(':').unwrap_or((of_image, ""));
    let uid = match security.run_as_user.or(user.parse().ok()) {
        Some(uid) => uid,
        None => number(&passwd, user).ok_or_else(|| unknown("user", user))?,
    };
    // A line of the table is `name:password:uid:gid:…`.
    let known = line_of(&passwd, 2, &uid.to_string());
    let own_group = known.and_then(|line| line.split(':').nth(3)?.parse().ok());
    let group = Some(group).filter(|group| !group.is_empty() && security.run_as_user.is_none());
    let gid = match (security.run_as_group, group) {
        (Some(gid), _) => gid,
        (None, None) => own_group.unwrap_or(0),
        (None, Some(group)) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                number(&tables.read("/etc/group"), group).ok_or_else(|| unknown("group", group))?
            }
        },
    };
    let mut groups = named_groups(pod, gid);
    let name = known.and_then(|line| line.split(':').next());
    if let Some(name) = name.filter(|_| pod.groups.of_image) {
        for line in tables.read("/etc/group").lines() {
            // `name:password:gid:member,member`
            let mut fields = line.split(':').skip(2);
            let group = fields.next().and_then(|gid| gid.parse().ok());
            let mut members = fields.next().unwrap_or_default().split(',');
            if let Some(group) = group
                && members.any(|one| one == name)
                && group != gid
                && !groups.contains(&group)
            {
                groups.push(group);
            }
        }
    }
    Ok(User { uid, gid, groups })
}

/// The groups that the pod names, each once and without the user's own.
fn named_groups(pod: &PodSpecPlan, own: u32) -> Vec<u32> {
    let mut groups = Vec::new();
    let named = pod.groups.of_volumes.iter().chain(&pod.groups.supplemental);
    for group in named.filter(|group| **group != own) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    groups
}

impl Tables<'_> {
    /// A table's text; none where the image has it not, or not as text.
    fn read(&self, path: &str) -> String {
        let spec = FileSystemSpec {
            root: self.tree.clone(),
            upper: Upper::ReadOnly,
            mounts: Vec::new(),
            user: User::default(),
        };
        let source = FileSystem::new(spec).and_then(|files| files.open_extent(path));
        let source = source.ok().filter(|it| it.len() <= TABLE_BYTES_MAX as u64);
        let bytes = source.and_then(|it| it.head(TABLE_BYTES_MAX).ok());
        let bytes = bytes.unwrap_or_default();
        String::from_utf8(bytes.into()).unwrap_or_default()
    }
}

/// The line of a table whose field has a value.
fn line_of<'a>(table: &'a str, field: usize, value: &str) -> Option<&'a str> {
    let mut lines = table.lines();
    lines.find(|line| line.split(':').nth(field) == Some(value))
}

/// The number of a user or group that has a name: the third field in both tables.
fn number(table: &str, name: &str) -> Option<u32> {
    line_of(table, 0, name)?.split(':').nth(2)?.parse().ok()
}

fn unknown(what: &str, name: &str) -> String {
    let table = if what == "user" { "passwd" } else { "group" };
    format!("unable to find {what} {name}: no matching entries in {table} file")
}

/// `runAsNonRoot` by the contract's three messages (B.6).
pub(super) fn check(
    pod: &PodSpecPlan,
    container: &ContainerPlan,
    image_user: &str,
) -> Result<(), String> {
    if !container.security.run_as_non_root {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", pod.key, container.name);
    let user = image_user.split(':').next().unwrap_or_default();
    match (container.security.run_as_user, user.parse::<u32>()) {
        (Some(0), _) => Err(format!(
            "container's runAsUser breaks non-root policy {place}"
        )),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err(format!(
            "container has runAsNonRoot and image will run as root {place}"
        )),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if user.is_empty() => Err(format!(
            "container has runAsNonRoot and image will run as root {place}"
        )),
        (None, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user \
             is non-root {place}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use coracle_runtime::fs::{FileSource, Meta, TreeBuilder};
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{HostPathPolicy, check_pod};

    fn pod(pod: Value, container: Value) -> PodSpecPlan {
        let containers = json!([{"name": "c", "image": "i", "securityContext": container}]);
        let pod = json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"securityContext": pod, "containers": containers},
        });
        let pod = serde_json::from_value(pod).expect("a Pod");
        check_pod(&pod, HostPathPolicy::Refuse).expect("every field is honoured")
    }

    fn tables() -> Arc<Tree> {
        let mut tree = TreeBuilder::new();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\n";
        let group = "root:x:0:\nweb:x:34:\nlogs:x:40:web,other\nmail:x:41:other\nodd\n";
        for (path, text) in [("etc/passwd", passwd), ("etc/group", group)] {
            let meta = Meta::new(0o644, SystemTime::UNIX_EPOCH);
            let text = FileSource::Bytes(Bytes::from_static(text.as_bytes()));
            tree.file(path, meta, text).expect("a plain path");
        }
        Arc::new(tree.build())
    }

    /// User, group, further groups.
    fn found(
        tree: &Arc<Tree>,
        image: &str,
        of_pod: Value,
        of_container: Value,
    ) -> Result<(u32, u32, Vec<u32>), String> {
        let pod = pod(of_pod, of_container);
        let user = look_up(&pod, &pod.containers[0], image, tree)?;
        Ok((user.uid, user.gid, user.groups))
    }

    #[test]
    fn the_container_speaks_before_the_pod_and_the_pod_before_the_image() {
        let (tree, none) = (tables(), || json!({}));
        for (image, of_pod, of_container, expected) in [
            ("web", none(), none(), (33, 34, vec![40])),
            ("33", none(), none(), (33, 34, vec![40])),
            ("web:mail", none(), none(), (33, 41, vec![40])),
            ("web:7", none(), none(), (33, 7, vec![40])),
            ("4711", none(), none(), (4711, 0, vec![])),
            ("web", json!({"runAsUser": 0}), none(), (0, 0, vec![])),
            (
                "web:7",
                json!({"runAsUser": 33}),
                none(),
                (33, 34, vec![40]),
            ),
            (
                "web",
                json!({"runAsUser": 5}),
                json!({"runAsUser": 6}),
                (6, 0, vec![]),
            ),
            ("web", json!({"runAsGroup": 8}), none(), (33, 8, vec![40])),
            ("web", none(), json!({"runAsGroup": 9}), (33, 9, vec![40])),
        ] {
            let what = format!("{image} {of_pod} {of_container}");
            let user = found(&tree, image, of_pod, of_container);
            assert_eq!(user, Ok(expected), "{what}");
        }
    }

    #[test]
    fn groups_are_the_pods_and_the_images() {
        let of_pod = json!({"fsGroup": 3, "supplementalGroups": [4, 3, 40]});
        let user = found(&tables(), "web", of_pod, json!({}));
        assert_eq!(user, Ok((33, 34, vec![3, 4, 40])));
        let strict = json!({"supplementalGroupsPolicy": "Strict", "fsGroup": 3});
        let user = found(&tables(), "web", strict, json!({}));
        assert_eq!(user, Ok((33, 34, vec![3])));
        let own = found(&tables(), "web:3", json!({"fsGroup": 3}), json!({}));
        assert_eq!(own, Ok((33, 3, vec![40])));
    }

    #[test]
    fn who_the_image_does_not_know_is_named() {
        let bare = Arc::new(Tree::empty());
        let told = found(&bare, "web", json!({}), json!({}));
        let expected = "unable to find user web: no matching entries in passwd file";
        assert_eq!(told, Err(expected.to_owned()));
        let told = found(&tables(), "web:nope", json!({}), json!({}));
        let expected = "unable to find group nope: no matching entries in group file";
        assert_eq!(told, Err(expected.to_owned()));
        let user = found(&bare, "web", json!({"runAsUser": 5}), json!({}));
        assert_eq!(user, Ok((5, 0, vec![])));
    }
}
