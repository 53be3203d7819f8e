//! What a pod's containers stand on: mounted volumes, an address, published ports.

mod claims;
mod runtime_class;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use coracle_network::{
    Fabric, HostAddress, PodIdentity, PodNetwork, Protocol, PublishError, PublishPort, Published,
};
use coracle_runtime::PodAccount;
use coracle_runtime::fs::{
    Access, FileSource, FileSystem, FileSystemSpec, MemoryVolume, Mount, MountSource, Tree, Upper,
    User,
};

use crate::agent::DeclaredPorts;
use tokio::sync::watch;

use crate::environment;
use crate::eviction::PodMemory;
use crate::folders::{PodFolders, VolumePlace};
use crate::identity_files::{self, Identity, MachineResolver, Surroundings};
use crate::images::{Images, PullKeys, SharedImage, blocking, describe};
use crate::lifecycle::{Outlook, Problem};
use crate::node::Amounts;
use crate::objects::{ObjectSource, PodFiles};
use crate::spec::{
    ContainerPlan, HostPathCheck, HostPort, Medium, PodSpecPlan, Port, SubPath, Transport,
    VolumePlan, VolumeSource,
};
use crate::storage::PodStorage;
use crate::time::Clock;
use crate::worker::log_dir;

pub(crate) use runtime_class::RUNTIME_HANDLERS;

/// How long a pod waits for NetworkPolicies that are known and not in force for it yet. A compilation
/// takes some 20 ms; a follower that is cut off from the API must not keep pods from starting.
const POLICIES_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest file that variables are read from.
const ENV_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Everything a pod's containers stand on. Dropping it closes ports and gives the address back.
pub(crate) struct GroundKit {
    /// What the pod uses and may use above its containers.
    pub(crate) account: PodAccount,
    /// The pod's address and port space.
    pub(crate) network: PodNetwork,
    /// Ports that can be reached from outside, with the container that declares each.
    pub(crate) published: Vec<PublishedPort>,
    /// Each volume's content by name.
    pub(crate) volumes: HashMap<String, MountSource>,
    /// What it keeps on the disk, if that has a limit.
    pub(crate) storage: Option<Arc<PodStorage>>,
    /// What it uses of the node's memory.
    pub(crate) memory: Arc<PodMemory>,
    /// Volumes that nobody writes to, whatever a mount says.
    read_only: HashSet<String>,
    /// The group that volumes belong to, those of the machine and of images aside (`fsGroup`).
    groups: HashMap<String, u32>,
    /// Keeps the volumes in memory as their objects are.
    pub(crate) files: Arc<PodFiles>,
    /// Keeps the files of the volumes that are images in the store.
    _images: Vec<Arc<SharedImage>>,
    /// `/etc/hosts` and its like, and the host name that programs see.
    pub(crate) identity: Identity,
}

/// One port that can be reached from outside.
pub(crate) struct PublishedPort {
    pub(crate) container: usize,
    pub(crate) port: Port,
    pub(crate) handle: Published,
}

/// What laying the ground needs from the node.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) client: kube::Client,
    pub(crate) fabric: Fabric,
    pub(crate) data_dir: Arc<Path>,
    pub(crate) declared_ports: DeclaredPorts,
    pub(crate) cluster_domain: Arc<str>,
    pub(crate) objects: ObjectSource,
    pub(crate) clock: Clock,
    pub(crate) amounts: Amounts,
    pub(crate) resolver: MachineResolver,
}

/// Why a volume cannot be mounted now.
#[derive(Debug, thiserror::Error)]
enum VolumeError {
    #[error("failed to make `{path}`")]
    Make {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("failed to look at `{path}`")]
    Look {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("hostPath type check failed: {path} is not {wanted}")]
    HostPath { path: String, wanted: &'static str },
}

/// Mounts volumes, attaches the network, publishes ports; on failure nothing is left behind.
pub(crate) async fn lay(
    site: &Site,
    images: &Images,
    keys: &PullKeys,
    pod: &Arc<PodSpecPlan>,
    account: PodAccount,
) -> Result<GroundKit, Problem> {
    if let Some(class) = &pod.runtime_class {
        let checked = runtime_class::check(&site.client, class).await;
        checked.map_err(|error| sandbox_problem(&error))?;
    }
    let followed = site.objects.follow(pod, site.amounts, site.clock.now());
    let (files, machine) = tokio::join!(followed, site.resolver.text());
    let files = files.map_err(|error| mount_problem(&error.volume, &error.source))?;
    let Mounted {
        mut volumes,
        read_only,
    } = mount_volumes(site, pod, &files, &account).await?;
    let images = mount_images(images, keys, pod, &mut volumes).await?;
    let network = attach(site, pod)?;
    network.pay_from(Arc::new(account.clone()));
    let published = publish(site, pod, &network)?;
    let around = Surroundings {
        domain: &site.cluster_domain,
        server: site.fabric.node_ip(),
        machine: &machine,
    };
    let identity = identity_files::make(
        pod,
        (network.ip(), network.ip6()),
        around,
        SystemTime::now(),
    )
    .map_err(|error| sandbox_problem(&error))?;
    network.set_resolver(identity.resolver.clone());
    network.name_hosts(identity_files::aliases(pod));
    await_policies(site, pod).await;
    let excess = watch::Sender::new(None);
    let storage = PodStorage::of(
        pod,
        excess.clone(),
        |volume| volume_dir(site, pod).join(volume),
        |container| log_dir(&site.data_dir, &pod.key).join(container),
    );
    let memory = PodMemory::new(account.clone(), pod.clone(), excess);
    Ok(GroundKit {
        account,
        memory,
        network,
        published,
        volumes,
        storage,
        read_only,
        groups: groups(pod),
        files,
        _images: images,
        identity,
    })
}

/// The group of each volume that has one.
fn groups(pod: &PodSpecPlan) -> HashMap<String, u32> {
    let Some(group) = pod.groups.of_volumes else {
        return HashMap::new();
    };
    let has_group = |volume: &&VolumePlan| match volume.source {
        VolumeSource::Files(_) | VolumeSource::EmptyDir { .. } | VolumeSource::Claim { .. } => true,
        VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => false,
    };
    let volumes = pod.volumes.iter().filter(has_group);
    volumes.map(|one| (one.name.clone(), group)).collect()
}

/// Removes what a pod's volumes left on the disk.
pub(crate) async fn clear(site: &Site, pod: &PodSpecPlan) {
    for folder in [volume_dir(site, pod), layer_dir(&site.data_dir, pod)] {
        blocking(move || match fs::remove_dir_all(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %folder.display(), %error, "failed to remove a pod's files");
            }
        })
        .await;
    }
}

fn volume_dir(site: &Site, pod: &PodSpecPlan) -> PathBuf {
    site.data_dir.join("volumes").join(&*pod.key.uid)
}

/// Where the writable layers of a pod's containers are.
pub(crate) fn layer_dir(data_dir: &Path, pod: &PodSpecPlan) -> PathBuf {
    data_dir.join("layers").join(&*pod.key.uid)
}

/// What the volumes of a pod hold, images aside.
struct Mounted {
    volumes: HashMap<String, MountSource>,
    read_only: HashSet<String>,
}

async fn mount_volumes(
    site: &Site,
    pod: &PodSpecPlan,
    files: &PodFiles,
    account: &PodAccount,
) -> Result<Mounted, Problem> {
    let mut read_only = HashSet::new();
    let mut mounted: HashMap<_, _> = files
        .trees()
        .into_iter()
        .map(|(name, tree)| (name, MountSource::Live(tree)))
        .collect();
    for volume in &pod.volumes {
        let source = match &volume.source {
            VolumeSource::Files(_) | VolumeSource::Image { .. } => continue,
            VolumeSource::EmptyDir {
                medium: Medium::Memory,
                limit,
            } => {
                let limit = limit.as_ref().map(|limit| limit.bytes);
                let group = pod.groups.of_volumes;
                let volume = MemoryVolume::new(account.clone(), limit, group);
                Ok(MountSource::Memory(volume))
            }
            VolumeSource::EmptyDir {
                medium: Medium::Disk,
                limit: _,
            } => {
                let path = volume_dir(site, pod).join(&volume.name);
                blocking(move || empty_dir(path)).await
            }
            VolumeSource::HostPath { path, check } => {
                let (path, check) = (PathBuf::from(path), *check);
                blocking(move || host_path(path, check)).await
            }
            VolumeSource::Claim {
                name,
                read_only: is_read_only,
            } => {
                let found = claims::find(&site.client, &pod.key, name).await;
                let found = found.map_err(|error| claim_problem(pod, volume, name, &error))?;
                if found.read_only || *is_read_only {
                    read_only.insert(volume.name.clone());
                }
                let (path, check) = (PathBuf::from(found.path), found.check);
                blocking(move || host_path(path, check)).await
            }
        };
        let source = source.map_err(|error| mount_problem(&volume.name, &error))?;
        mounted.insert(volume.name.clone(), source);
    }
    Ok(Mounted {
        volumes: mounted,
        read_only,
    })
}

/// What the kubelet says of a claim that does not lead to a volume.
fn claim_problem(
    pod: &PodSpecPlan,
    volume: &VolumePlan,
    claim: &str,
    error: &dyn std::error::Error,
) -> Problem {
    let (name, namespace, why) = (&volume.name, &pod.key.namespace, describe(error));
    let message = format!(
        "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], failed to \
         process volumes=[{name}]: error processing PVC {namespace}/{claim}: {why}"
    );
    Problem {
        reason: "FailedMount",
        message: message.into(),
        outlook: Outlook::MayMend,
    }
}

/// Pulls the volumes that are images.
async fn mount_images(
    images: &Images,
    keys: &PullKeys,
    pod: &PodSpecPlan,
    mounted: &mut HashMap<String, MountSource>,
) -> Result<Vec<Arc<SharedImage>>, Problem> {
    let mut kept = Vec::new();
    for volume in &pod.volumes {
        let VolumeSource::Image { reference, policy } = &volume.source else {
            continue;
        };
        let fetched = images.fetch(reference, *policy, keys, || {}).await;
        let image = fetched.map_err(|problem| Problem {
            message: format!(
                "Failed to pull image \"{reference}\" of volume \"{}\": {}",
                volume.name, problem.message
            )
            .into(),
            // A person may still bring the image; a refusal would fail the pod for good.
            outlook: Outlook::MayMend,
            ..problem
        })?;
        let source = MountSource::Tree(image.image.tree.clone());
        mounted.insert(volume.name.clone(), source);
        kept.push(image.image);
    }
    Ok(kept)
}

/// Whether a pod waits for the image of a volume; its containers then show that as their own.
pub(crate) fn is_image_problem(problem: &Problem) -> bool {
    let reasons = [
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
    ];
    reasons.contains(&problem.reason)
}

fn mount_problem(volume: &str, error: &dyn std::error::Error) -> Problem {
    let why = describe(error);
    let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {why}");
    Problem {
        reason: "FailedMount",
        message: message.into(),
        outlook: Outlook::MayMend,
    }
}

fn empty_dir(path: PathBuf) -> Result<MountSource, VolumeError> {
    let made = fs::create_dir_all(&path).and_then(|()| open_to_all(&path));
    match made {
        Ok(()) => Ok(MountSource::HostDir(path)),
        Err(source) => Err(VolumeError::Make {
            path: path.display().to_string(),
            source,
        }),
    }
}

/// Lets whoever a container runs as write in a folder, and keeps other people of the machine away from it.
#[cfg(unix)]
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    if let Some(of_pod) = folder.parent() {
        fs::set_permissions(of_pod, fs::Permissions::from_mode(0o700))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777))
}

/// The profile's folder, in which it lies, is closed to others.
#[cfg(not(unix))]
fn open_to_all(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}

fn host_path(path: PathBuf, check: HostPathCheck) -> Result<MountSource, VolumeError> {
    let text = path.display().to_string();
    let make = |source| VolumeError::Make {
        path: text.clone(),
        source,
    };
    match check {
        HostPathCheck::DirectoryOrCreate => fs::create_dir_all(&path).map_err(make)?,
        // Container runtimes make the folder when they mount it.
        HostPathCheck::Unchecked if is_missing(&path) => {
            fs::create_dir_all(&path).map_err(make)?;
        }
        HostPathCheck::FileOrCreate if is_missing(&path) => {
            fs::File::create_new(&path).map(drop).map_err(make)?;
        }
        HostPathCheck::FileOrCreate
        | HostPathCheck::Unchecked
        | HostPathCheck::Directory
        | HostPathCheck::File => {}
    }
    let is_dir = match fs::metadata(&path) {
        Ok(found) => Some(found.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(VolumeError::Look { path: text, source }),
    };
    let (fits, wanted) = match check {
        HostPathCheck::Unchecked => (is_dir.is_some(), "there"),
        HostPathCheck::Directory | HostPathCheck::DirectoryOrCreate => {
            (is_dir == Some(true), "a directory")
        }
        HostPathCheck::File | HostPathCheck::FileOrCreate => (is_dir == Some(false), "a file"),
    };
    if !fits {
        return Err(VolumeError::HostPath { path: text, wanted });
    }
    Ok(if is_dir == Some(true) {
        MountSource::HostDir(path)
    } else {
        MountSource::HostFile(path)
    })
}

/// Whether nothing is at a path; one that cannot be looked at is not missing.
fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

fn attach(site: &Site, pod: &PodSpecPlan) -> Result<PodNetwork, Problem> {
    site.fabric
        .attach(PodIdentity {
            namespace: pod.key.namespace.to_string(),
            name: pod.key.name.to_string(),
            uid: pod.key.uid.to_string(),
            hostname: pod.hostname.clone(),
            subdomain: pod.subdomain.clone(),
        })
        .map_err(|error| sandbox_problem(&error))
}

/// Waits until the policies that came before the pod are in force for it: containers start thereafter, and
/// their first connection is judged by them.
async fn await_policies(site: &Site, pod: &PodSpecPlan) {
    let policies = site.fabric.policies();
    if !policies.in_force(&pod.key.uid, POLICIES_TIMEOUT).await {
        tracing::warn!(pod = %pod.key, "network policies are not in force yet; the pod starts all the same");
    }
}

fn sandbox_problem(error: &dyn std::error::Error) -> Problem {
    Problem {
        reason: "FailedCreatePodSandBox",
        message: format!("Failed to create pod sandbox: {}", describe(error)).into(),
        outlook: Outlook::MayMend,
    }
}

/// A host port that someone holds is the contract's `NodePorts`: the pod cannot stand on this node.
fn publish(
    site: &Site,
    pod: &PodSpecPlan,
    network: &PodNetwork,
) -> Result<Vec<PublishedPort>, Problem> {
    let mut published: Vec<PublishedPort> = Vec::new();
    for (index, container) in pod.containers.iter().enumerate() {
        for port in &container.ports {
            let host = match (port.host, site.declared_ports) {
                (Some(HostPort { ip, port }), _) => HostAddress::HostPort { ip, port },
                (None, DeclaredPorts::Loopback) => HostAddress::Loopback,
                (None, DeclaredPorts::Unpublished) => continue,
            };
            // Containers of a pod share its ports, so a second declaration adds nothing.
            let is_known = published
                .iter()
                .any(|p| p.port.port == port.port && p.port.protocol == port.protocol);
            if is_known && port.host.is_none() {
                continue;
            }
            let wanted = PublishPort {
                protocol: protocol(port.protocol),
                port: port.port,
                host,
            };
            let handle = network
                .publish(wanted)
                .map_err(|error| port_problem(container, &error))?;
            published.push(PublishedPort {
                container: index,
                port: port.clone(),
                handle,
            });
        }
    }
    Ok(published)
}

fn port_problem(container: &ContainerPlan, error: &PublishError) -> Problem {
    Problem {
        reason: "NodePorts",
        message: format!(
            "a port of container \"{}\" cannot be published: {}",
            container.name,
            describe(error)
        )
        .into(),
        outlook: Outlook::Refused,
    }
}

fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    }
}

/// Why a container's mounts cannot be put together.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\"")]
pub(crate) struct SubPathError {
    volume: String,
    container: Arc<str>,
}

impl GroundKit {
    /// Returns what of the pod lies on the disk, for those who measure it.
    pub(crate) fn folders(&self, pod: &PodSpecPlan) -> PodFolders {
        let places = pod.volumes.iter().filter_map(|volume| {
            let claim = match &volume.source {
                VolumeSource::EmptyDir { .. } => None,
                VolumeSource::Claim { name, .. } => Some(name.clone()),
                VolumeSource::HostPath { .. }
                | VolumeSource::Files(_)
                | VolumeSource::Image { .. } => return None,
            };
            let MountSource::HostDir(folder) = self.volumes.get(&volume.name)? else {
                return None;
            };
            Some(VolumePlace {
                name: volume.name.clone(),
                folder: folder.clone(),
                claim,
            })
        });
        PodFolders {
            key: pod.key.clone(),
            containers: pod.containers.iter().map(|c| c.name.clone()).collect(),
            volumes: places.collect(),
            traffic: self.network.traffic(),
        }
    }

    /// Reads files that containers left in volumes. Those that are not there, or larger than a file of
    /// variables may be, are left out.
    pub(crate) async fn read(
        &self,
        wanted: Vec<(String, String)>,
    ) -> HashMap<(String, String), Bytes> {
        let sources = wanted.into_iter().filter_map(|(volume, path)| {
            let source = self.volumes.get(&volume)?.clone();
            Some((source, volume, path))
        });
        let sources: Vec<_> = sources.collect();
        if sources.is_empty() {
            return HashMap::new();
        }
        let read = move || {
            let read = sources.into_iter().filter_map(|(source, volume, path)| {
                let content = read_inside(source, &path)?;
                Some(((volume, path), content))
            });
            read.collect()
        };
        blocking(read).await
    }

    /// Returns a container's mounts; `variables` complete `subPathExpr`.
    pub(crate) fn mounts(
        &self,
        container: &ContainerPlan,
        variables: &[(String, String)],
    ) -> Result<Vec<Mount>, SubPathError> {
        let refuse = |volume: &str| SubPathError {
            volume: volume.to_owned(),
            container: container.name.clone(),
        };
        let mut mounts = identity_files::mounts(container, &self.identity.tree);
        for mount in &container.mounts {
            let source = self
                .volumes
                .get(&mount.volume)
                .ok_or_else(|| refuse(&mount.volume))?;
            let sub_path = match &mount.sub_path {
                SubPath::Whole => None,
                SubPath::Fixed(path) => Some(path.clone()),
                SubPath::Expression(expression) => {
                    let path = expanded(expression, variables);
                    Some(path.ok_or_else(|| refuse(&mount.volume))?)
                }
            };
            mounts.push(Mount {
                path: mount.path.clone(),
                source: source.clone(),
                sub_path,
                access: if mount.read_only || self.read_only.contains(&mount.volume) {
                    Access::ReadOnly
                } else {
                    Access::ReadWrite
                },
                group: self.groups.get(&mount.volume).copied(),
            });
        }
        Ok(mounts)
    }
}

/// Reads as a container would: links that a guest made lead nowhere else.
fn read_inside(source: MountSource, path: &str) -> Option<Bytes> {
    let spec = FileSystemSpec {
        root: Arc::new(Tree::empty()),
        upper: Upper::ReadOnly,
        mounts: vec![Mount {
            path: "/volume".to_owned(),
            source,
            sub_path: None,
            access: Access::ReadOnly,
            group: None,
        }],
        user: User::default(),
    };
    let files = FileSystem::new(spec).ok()?;
    let path = format!("/volume/{path}");
    match files.open_extent(&path).ok()? {
        FileSource::Bytes(bytes) if bytes.len() as u64 <= ENV_FILE_BYTES_MAX => Some(bytes),
        FileSource::Bytes(_) => None,
        FileSource::Extent(extent) if extent.len <= ENV_FILE_BYTES_MAX => {
            files.read_file(&path).ok()
        }
        FileSource::Extent(_) => None,
    }
}

/// Unknown variables, absolute paths and `..` make the expression an error, unlike elsewhere.
fn expanded(expression: &str, variables: &[(String, String)]) -> Option<String> {
    let unknown = std::cell::Cell::new(false);
    let path = environment::expand(expression, |name| {
        let value = variables
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str());
        unknown.set(unknown.get() || value.is_none());
        value
    });
    let is_inner = !path.is_empty()
        && !path.starts_with('/')
        && !path.contains(['\0', '\\'])
        && path.split('/').all(|segment| segment != "..");
    (is_inner && !unknown.get()).then_some(path)
}

#[cfg(test)]
mod tests;
