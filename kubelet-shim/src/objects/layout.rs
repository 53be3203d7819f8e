//! Objects, tokens and facts about a pod, laid out as files in memory (contract D.4).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use bytes::Bytes;
use coracle_runtime::fs::{FileSource, FsError, Meta, Tree, TreeBuilder};

use crate::environment::{self, ConfigError, ObjectData, Objects};
use crate::node::Amounts;
use crate::spec::{
    DownwardFile, DownwardValue, FilesSource, FilesVolume, KeyItem, ObjectKind, ObjectRef,
    PodField, PodSpecPlan, TokenPlan,
};

/// Why a volume's files cannot be laid out now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// A required object is missing.
    #[error(transparent)]
    Object(#[from] ConfigError),
    /// A required key is missing.
    #[error("{} references non-existent {} key: {key}", kind.lower(), key_word(*.kind))]
    NoKey {
        /// The object's kind.
        kind: ObjectKind,
        /// The key.
        key: String,
    },
    /// A token that was never had, or has expired since.
    #[error("failed to fetch token: {0}")]
    NoToken(String),
}

/// What files are made from, as far as it is known.
pub(super) struct Sources<'a> {
    /// The pod, with the labels and annotations of this moment.
    pub(super) pod: &'a PodSpecPlan,
    pub(super) amounts: Amounts,
    /// The last version of each that was seen.
    pub(super) objects: &'a Objects,
    /// Those of `objects` that were deleted since: an optional one leaves with its files, a required one
    /// leaves them behind.
    pub(super) gone: &'a HashSet<(ObjectKind, String)>,
    /// The tokens there are, and why others are missing.
    pub(super) tokens: &'a HashMap<TokenPlan, Result<Bytes, String>>,
}

/// Path to file.
pub(super) type Payload = BTreeMap<String, Laid>;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Laid {
    pub(super) content: Bytes,
    pub(super) mode: u32,
    /// Whose it is: root's, but for tokens.
    pub(super) owner: u32,
}

/// The mode of a token that is for one user or group only.
const TOKEN_MODE: u32 = 0o600;

impl Laid {
    fn new(content: Bytes, mode: u32) -> Laid {
        Laid {
            content,
            mode,
            owner: 0,
        }
    }

    /// A token is for the user whom all containers run as, and for the group of the volumes.
    fn token(content: Bytes, mode: u32, pod: &PodSpecPlan) -> Laid {
        let mut users = pod.containers.iter().map(|one| one.security.run_as_user);
        let first = users.next().flatten();
        let user = first.filter(|_| users.all(|user| user == first));
        let is_closed = user.is_some() || pod.groups.of_volumes.is_some();
        Laid {
            content,
            mode: if is_closed { TOKEN_MODE } else { mode },
            owner: user.unwrap_or(0),
        }
    }
}

fn key_word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::ConfigMap => "config",
        ObjectKind::Secret => "secret",
    }
}

/// Returns the files of a volume; of two with one path the later wins.
pub(super) fn payload(volume: &FilesVolume, from: &Sources<'_>) -> Result<Payload, LayoutError> {
    let mut files = Payload::new();
    for source in &volume.sources {
        match source {
            FilesSource::Object { object, .. }
                if object.optional && from.gone.contains(&object.id()) => {}
            FilesSource::Object { object, items } => {
                let Some(data) = environment::find(from.objects, object)? else {
                    continue;
                };
                add_keys(&mut files, object, items, data, volume.default_mode)?;
            }
            FilesSource::Downward(list) => {
                for file in list {
                    let mode = file.mode.unwrap_or(volume.default_mode);
                    let content = Bytes::from(downward(file, from));
                    files.insert(file.path.clone(), Laid::new(content, mode));
                }
            }
            FilesSource::Token { token, path } => {
                let content = match from.tokens.get(token) {
                    Some(Ok(content)) => content.clone(),
                    Some(Err(why)) => return Err(LayoutError::NoToken(why.clone())),
                    None => return Err(LayoutError::NoToken("it was not asked for".to_owned())),
                };
                let token = Laid::token(content, volume.default_mode, from.pod);
                files.insert(path.clone(), token);
            }
        }
    }
    Ok(files)
}

fn add_keys(
    files: &mut Payload,
    object: &ObjectRef,
    items: &[KeyItem],
    data: &ObjectData,
    default_mode: u32,
) -> Result<(), LayoutError> {
    if items.is_empty() {
        let all = data.data.iter().chain(&data.binary);
        files.extend(all.map(|(key, value)| (key.clone(), Laid::new(value.clone(), default_mode))));
        return Ok(());
    }
    for item in items {
        let text = data.data.get(&item.key);
        match text.or_else(|| data.binary.get(&item.key)) {
            Some(value) => {
                let mode = item.mode.unwrap_or(default_mode);
                files.insert(item.path.clone(), Laid::new(value.clone(), mode));
            }
            None if object.optional => {}
            None => {
                return Err(LayoutError::NoKey {
                    kind: object.kind,
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(())
}

fn downward(file: &DownwardFile, from: &Sources<'_>) -> String {
    let pod = from.pod;
    match &file.value {
        DownwardValue::Labels => listed(&pod.labels),
        DownwardValue::Annotations => listed(&pod.annotations),
        DownwardValue::Resource(amount) => {
            environment::amount_value(amount, from.amounts).to_string()
        }
        DownwardValue::Field(field) => match field {
            PodField::Name => pod.key.name.to_string(),
            PodField::Namespace => pod.key.namespace.to_string(),
            PodField::Uid => pod.key.uid.to_string(),
            PodField::Label(key) => pod.labels.get(key).cloned().unwrap_or_default(),
            PodField::Annotation(key) => pod.annotations.get(key).cloned().unwrap_or_default(),
            PodField::NodeName => pod.node_name.clone(),
            PodField::ServiceAccount => pod.service_account.clone(),
            // Invariant: the conversion lets no address into a volume, which is made before there is one.
            PodField::HostIp | PodField::HostIps | PodField::PodIp | PodField::PodIps => {
                String::new()
            }
        },
    }
}

/// `key="value"` lines sorted by key, without a last newline, as the kubelet writes them.
fn listed(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// Quotes as Go's `%q` does: readers unquote it so.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Lays files out as the kubelet does: in a dated folder, `..data` pointing to it, and one link per name,
/// so that programs which watch `..data` find what they expect.
pub(super) fn tree(files: &Payload, now: SystemTime) -> Result<Tree, FsError> {
    let mut tree = TreeBuilder::new();
    let at = jiff::Timestamp::try_from(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let version = format!("..{}", at.strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let folder = Meta::new(0o755, now);
    let link = Meta::new(0o777, now);
    tree.dir(&version, folder)?;
    tree.symlink("..data", &version, link)?;
    let mut last_top = None;
    for (path, file) in files {
        tree.file(
            &format!("{version}/{path}"),
            Meta {
                uid: file.owner,
                ..Meta::new(file.mode, now)
            },
            FileSource::Bytes(file.content.clone()),
        )?;
        let top = path.split('/').next().unwrap_or(path);
        if last_top != Some(top) {
            tree.symlink(top, &format!("..data/{top}"), link)?;
            last_top = Some(top);
        }
    }
    Ok(tree.build())
}
