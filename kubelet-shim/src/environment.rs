//! A container's variables and command line (contract B.6, D.1, D.2).
//!
//! Pure: the objects that variables come from are fetched before by the caller, who asks
//! [`wanted_objects`] which ones.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) use file::FileFault;

use crate::agent::NodeIps;
use crate::node::Amounts;
use crate::spec::{
    ContainerPlan, EnvValue, ObjectKind, ObjectRef, PodField, PodSpecPlan, ResourceAmount,
};

/// The data of one ConfigMap or Secret; only text keys of a ConfigMap become variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectData {
    /// `data`
    pub(crate) data: BTreeMap<String, Bytes>,
    /// `binaryData` of a ConfigMap.
    pub(crate) binary: BTreeMap<String, Bytes>,
}

mod file;

/// The objects that were found, by kind and name.
pub(crate) type Objects = HashMap<(ObjectKind, String), Arc<ObjectData>>;

/// What variables come from beside the pod and its node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The objects that [`wanted_objects`] named, if they exist.
    pub(crate) objects: Objects,
    /// Variables that tell of Services.
    pub(crate) services: Vec<(String, String)>,
    /// The files that [`wanted_files`] named, if they exist.
    pub(crate) files: HashMap<(String, String), Bytes>,
    /// The host name that programs see.
    pub(crate) hostname: String,
}

/// What variables may say beside the pod itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// `status.podIP`
    pub(crate) pod_ip: IpAddr,
    /// The second of `status.podIPs`, if pods have one.
    pub(crate) pod_ip6: Option<std::net::Ipv6Addr>,
    /// `status.hostIPs`
    pub(crate) host_ips: NodeIps,
    /// What the node has to give.
    pub(crate) amounts: Amounts,
}

/// What the image says about starting its program.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageDefaults {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: String,
}

/// Why a container cannot be configured now; shown as `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A required object is missing.
    #[error("{} \"{name}\" not found", kind.lower())]
    NoObject {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// A required key is missing.
    #[error("couldn't find key {key} in {} {namespace}/{name}", kind.kind())]
    NoKey {
        /// The object's kind.
        kind: ObjectKind,
        /// The pod's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// A value that is no text.
    #[error("the value of variable `{0}` is not valid UTF-8")]
    NotText(String),
    /// A file of variables that lacks one.
    #[error("environment variable key \"{key}\" not found in file \"{path}\"")]
    NoFileKey {
        /// The variable's name in the file.
        key: String,
        /// The file's path in its volume.
        path: String,
    },
    /// A file that does not hold variables.
    #[error("couldn't parse env file \"{path}\"")]
    File {
        /// The file's path in its volume.
        path: String,
        /// What is wrong with it.
        #[source]
        source: FileFault,
    },
}

/// How a container's program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// argv, beginning with the program.
    pub(crate) args: Vec<String>,
    /// Where it starts.
    pub(crate) working_dir: String,
}

/// Returns the objects a container's variables come from, each once.
pub(crate) fn wanted_objects(container: &ContainerPlan) -> Vec<&ObjectRef> {
    let whole = container.env_from.iter().map(|from| &from.source);
    let single = container
        .env
        .iter()
        .filter_map(|variable| match &variable.value {
            EnvValue::Key { object, .. } => Some(object),
            EnvValue::Literal(_)
            | EnvValue::File { .. }
            | EnvValue::Field(_)
            | EnvValue::Resource(_) => None,
        });
    let mut wanted: Vec<&ObjectRef> = Vec::new();
    for object in whole.chain(single) {
        if !wanted
            .iter()
            .any(|w| w.kind == object.kind && w.name == object.name)
        {
            wanted.push(object);
        }
    }
    wanted
}

/// Returns the files a container's variables come from: volume and path.
pub(crate) fn wanted_files(container: &ContainerPlan) -> Vec<(String, String)> {
    let files = container
        .env
        .iter()
        .filter_map(|variable| match &variable.value {
            EnvValue::File { volume, path, .. } => Some((volume.clone(), path.clone())),
            EnvValue::Literal(_)
            | EnvValue::Key { .. }
            | EnvValue::Field(_)
            | EnvValue::Resource(_) => None,
        });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files.dedup();
    files
}

/// Returns the variables in order of first appearance; a later value replaces an earlier one.
pub(crate) fn variables(
    pod: &PodSpecPlan,
    container: &ContainerPlan,
    image: &[(String, String)],
    sources: &Sources,
    facts: Facts,
) -> Result<Vec<(String, String)>, ConfigError> {
    let objects = &sources.objects;
    let mut env = Variables::default();
    for (name, value) in image {
        env.set(name, value.clone());
    }
    env.set("HOSTNAME", sources.hostname.clone());
    // `$(NAME)` sees only what the pod sets, as under a kubelet.
    let mut own = Variables::default();
    for from in &container.env_from {
        let Some(data) = find(objects, &from.source)? else {
            continue;
        };
        for (key, value) in &data.data {
            let name = format!("{}{key}", from.prefix);
            own.set(&name, text(&name, value)?);
        }
    }
    for variable in &container.env {
        let value = match &variable.value {
            EnvValue::Literal(value) => {
                let look_up = |name: &str| own.get(name).or_else(|| service(sources, name));
                Some(expand(value, look_up))
            }
            EnvValue::File {
                volume,
                path,
                key,
                optional,
            } => in_file(sources, (volume, path), key, *optional)?,
            EnvValue::Key { object, key } => keyed(pod, objects, object, key, &variable.name)?,
            EnvValue::Field(field) => Some(field_value(pod, field, facts)),
            EnvValue::Resource(amount) => Some(amount_value(amount, facts.amounts).to_string()),
        };
        if let Some(value) = value {
            own.set(&variable.name, value);
        }
    }
    // The image's variables are beneath those of Services, the pod's above.
    for (name, value) in &sources.services {
        if own.get(name).is_none() {
            env.set(name, value.clone());
        }
    }
    for (name, value) in own.list {
        env.set(&name, value);
    }
    Ok(env.list)
}

fn service<'a>(sources: &'a Sources, name: &str) -> Option<&'a str> {
    let mut services = sources.services.iter();
    services
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

fn in_file(
    sources: &Sources,
    (volume, path): (&String, &String),
    key: &str,
    optional: bool,
) -> Result<Option<String>, ConfigError> {
    let found = match sources.files.get(&(volume.clone(), path.clone())) {
        None => None,
        Some(content) => {
            let text = text(key, content)?;
            file::look_up(&text, key).map_err(|source| ConfigError::File {
                path: path.clone(),
                source,
            })?
        }
    };
    match found {
        None if !optional => Err(ConfigError::NoFileKey {
            key: key.to_owned(),
            path: path.clone(),
        }),
        found => Ok(found),
    }
}

/// Builds argv and the working directory: the pod's words over the image's, `$(NAME)` expanded.
pub(crate) fn command_line(
    container: &ContainerPlan,
    image: &ImageDefaults,
    variables: &[(String, String)],
) -> CommandLine {
    let look_up = |name: &str| {
        variables
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    let expanded = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| expand(word, look_up)).collect()
    };
    let args = match (&container.command, &container.args) {
        (None, None) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
        (None, Some(args)) => image
            .entrypoint
            .iter()
            .cloned()
            .chain(expanded(args))
            .collect(),
        (Some(command), None) => expanded(command),
        (Some(command), Some(args)) => expanded(command)
            .into_iter()
            .chain(expanded(args))
            .collect(),
    };
    let working_dir = container
        .working_dir
        .as_deref()
        .unwrap_or(&image.working_dir);
    let working_dir = if working_dir.starts_with('/') {
        working_dir.to_owned()
    } else {
        format!("/{working_dir}")
    };
    CommandLine { args, working_dir }
}

/// Replaces `$(NAME)` by a known value, in one pass: unknown names stay, `$$` is a dollar.
pub(crate) fn expand<'a>(text: &str, look_up: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match look_up(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// A variable list that keeps its order.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        let index = *self.index.get(name)?;
        self.list.get(index).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(index) => self.list[*index].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }
}

/// Returns the object, nothing when it is optional and missing.
pub(crate) fn find<'a>(
    objects: &'a Objects,
    wanted: &ObjectRef,
) -> Result<Option<&'a ObjectData>, ConfigError> {
    match objects.get(&(wanted.kind, wanted.name.clone())) {
        Some(data) => Ok(Some(data)),
        None if wanted.optional => Ok(None),
        None => Err(ConfigError::NoObject {
            kind: wanted.kind,
            name: wanted.name.clone(),
        }),
    }
}

fn keyed(
    pod: &PodSpecPlan,
    objects: &Objects,
    object: &ObjectRef,
    key: &str,
    variable: &str,
) -> Result<Option<String>, ConfigError> {
    let Some(data) = find(objects, object)? else {
        return Ok(None);
    };
    match data.data.get(key) {
        Some(value) => text(variable, value).map(Some),
        None if object.optional => Ok(None),
        None => Err(ConfigError::NoKey {
            kind: object.kind,
            namespace: pod.key.namespace.to_string(),
            name: object.name.clone(),
            key: key.to_owned(),
        }),
    }
}

fn text(variable: &str, value: &Bytes) -> Result<String, ConfigError> {
    match std::str::from_utf8(value) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(ConfigError::NotText(variable.to_owned())),
    }
}

/// Returns the addresses as the downward API has a list.
fn listed(first: IpAddr, second: Option<impl Into<IpAddr>>) -> String {
    match second.map(Into::into) {
        Some(second) => format!("{first},{second}"),
        None => first.to_string(),
    }
}

fn field_value(pod: &PodSpecPlan, field: &PodField, facts: Facts) -> String {
    match field {
        PodField::Name => pod.key.name.to_string(),
        PodField::Namespace => pod.key.namespace.to_string(),
        PodField::Uid => pod.key.uid.to_string(),
        PodField::Label(key) => pod.labels.get(key).cloned().unwrap_or_default(),
        PodField::Annotation(key) => pod.annotations.get(key).cloned().unwrap_or_default(),
        PodField::NodeName => pod.node_name.clone(),
        PodField::ServiceAccount => pod.service_account.clone(),
        PodField::HostIp => facts.host_ips.main.to_string(),
        PodField::HostIps => listed(facts.host_ips.main, facts.host_ips.second),
        PodField::PodIp => facts.pod_ip.to_string(),
        PodField::PodIps => listed(facts.pod_ip, facts.pod_ip6),
    }
}

/// Returns an amount; of what is not limited, the node's.
pub(crate) fn amount_value(amount: &ResourceAmount, node: Amounts) -> u64 {
    match amount {
        ResourceAmount::Fixed(value) => *value,
        ResourceAmount::NodeCpu { divisor_milli } => {
            node.cpu_milli.div_ceil((*divisor_milli).max(1))
        }
        ResourceAmount::NodeMemory { divisor } => node.memory.div_ceil((*divisor).max(1)),
        ResourceAmount::NodeStorage { divisor } => node.storage.div_ceil((*divisor).max(1)),
    }
}

#[cfg(test)]
mod tests;
