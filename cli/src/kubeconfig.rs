//! The file by which kubectl finds the API: our entries are put in, everything else stays.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use coracle_control_plane::Credentials;
use serde_json::{Map, Value, json};

/// The name of our cluster, user and context in the file.
const NAME: &str = "coracle";
/// A file with the access to a few hundred clusters is far smaller.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What a client needs to reach an API as its administrator.
pub(crate) struct Access {
    /// Where the server listens.
    pub(crate) server: SocketAddr,
    /// The certificate by which the client knows the server, in PEM.
    pub(crate) authority: String,
    /// By which the server knows the client.
    pub(crate) admin: Credentials,
}

/// Returns the lines that tell what to type next.
pub(crate) fn next_step(file: &Path) -> String {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let set = Shell::USUAL.set("KUBECONFIG", &file.display().to_string());
    format!("next, in another terminal:\n\n  {set}\n  kubectl get nodes\n")
}

/// A shell that a person types into.
#[derive(Clone, Copy)]
enum Shell {
    Posix,
    PowerShell,
}

impl Shell {
    /// The usual one of this system.
    const USUAL: Shell = if cfg!(windows) {
        Shell::PowerShell
    } else {
        Shell::Posix
    };

    /// Returns the line that sets a variable of the environment.
    fn set(self, name: &str, value: &str) -> String {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:@%".contains(letter);
        match self {
            Shell::Posix if !value.is_empty() && value.chars().all(plain) => {
                format!("export {name}={value}")
            }
            Shell::Posix => format!("export {name}='{}'", value.replace('\'', r"'\''")),
            Shell::PowerShell => format!("$env:{name} = '{}'", value.replace('\'', "''")),
        }
    }
}

impl Access {
    /// Returns the server's address as clients of this machine reach it.
    pub(crate) fn url(&self) -> String {
        let ip = match self.server.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("https://{}", SocketAddr::new(ip, self.server.port()))
    }

    /// Puts cluster, user and context `coracle` into a kubeconfig and makes it the current one; what
    /// else is in the file stays. The file is replaced as a whole and only its owner can read it.
    ///
    /// # Errors
    ///
    /// Fails when the file holds something else, and when it cannot be read or written.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        // A link keeps pointing to the file that is replaced.
        let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let old = read(&file)?;
        let merged = self
            .merge(old)
            .with_context(|| format!("`{}` is no kubeconfig", file.display()))?;
        let text = to_yaml(&merged)?;
        replace(&file, &text)
            .with_context(|| format!("failed to write the kubeconfig `{}`", file.display()))
    }

    /// Returns the file's content with our entries in it.
    fn merge(&self, old: Option<Value>) -> anyhow::Result<Value> {
        let base64 = |text: &str| json!(encode(text.as_bytes()));
        let mut config = match old {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(_) => bail!("it is not a mapping"),
        };
        for (field, expected) in [("apiVersion", "v1"), ("kind", "Config")] {
            let found = config.entry(field).or_insert_with(|| json!(expected));
            ensure!(found == expected, "its `{field}` is not `{expected}`");
        }
        let entries = [
            (
                "clusters",
                json!({"name": NAME, "cluster": {
                    "server": self.url(),
                    "certificate-authority-data": base64(&self.authority),
                }}),
            ),
            (
                "users",
                json!({"name": NAME, "user": {
                    "client-certificate-data": base64(&self.admin.certificate),
                    "client-key-data": base64(&self.admin.key),
                }}),
            ),
            (
                "contexts",
                json!({"name": NAME, "context": {"cluster": NAME, "user": NAME}}),
            ),
        ];
        for (field, entry) in entries {
            let list = config.entry(field).or_insert(Value::Null);
            if list.is_null() {
                *list = json!([]);
            }
            let list = list
                .as_array_mut()
                .with_context(|| format!("its `{field}` is not a list"))?;
            match list.iter_mut().find(|known| known["name"] == NAME) {
                Some(known) => *known = entry,
                None => list.push(entry),
            }
        }
        config.insert("current-context".to_owned(), json!(NAME));
        Ok(Value::Object(config))
    }
}

/// Reads a kubeconfig that may be missing.
fn read(file: &Path) -> anyhow::Result<Option<Value>> {
    let unreadable = || format!("failed to read the kubeconfig `{}`", file.display());
    match fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(unreadable),
        Ok(found) => ensure!(
            found.is_file() && found.len() <= FILE_BYTES_MAX,
            "`{}` is no kubeconfig",
            file.display()
        ),
    }
    let text = fs::read_to_string(file).with_context(unreadable)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value = serde_saphyr::from_str_with_options(&text, unshown())
        .with_context(|| format!("`{}` is no kubeconfig", file.display()))?;
    Ok(Some(value))
}

/// Returns how kubeconfigs are read: an error tells its place, and none of the lines, which hold secrets.
fn unshown() -> serde_saphyr::Options {
    serde_saphyr::options! { with_snippet: false }
}

/// Writes YAML, and reads it again: a file that means something else would lose someone's access.
fn to_yaml(config: &Value) -> anyhow::Result<String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(config, options)
        .context("failed to write the kubeconfig as YAML")?;
    let again: Value = serde_saphyr::from_str_with_options(&text, unshown())
        .context("failed to read the kubeconfig again")?;
    ensure!(
        again == *config,
        "the kubeconfig has content that cannot be written as it was read"
    );
    Ok(text)
}

/// Replaces a file as a whole.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    fs::create_dir_all(&folder)?;
    let name = file.file_name().context("it has no file name")?;
    let mut fresh_name = name.to_owned();
    fresh_name.push(format!(".{}.new", std::process::id()));
    let fresh = folder.join(fresh_name);
    let written = write_private(&fresh, text).and_then(|()| fs::rename(&fresh, file));
    if written.is_err() {
        // What cannot be removed is a file under a name that nobody reads.
        let _ = fs::remove_file(&fresh);
    }
    written?;
    Ok(())
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    // What an earlier process with the same number left behind may have another mode.
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Encodes bytes as base64, as kubeconfigs hold certificates.
fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(server: &str) -> Access {
        Access {
            server: server.parse().expect("an address"),
            authority: "authority".to_owned(),
            admin: Credentials {
                certificate: "certificate".to_owned(),
                key: "key".to_owned(),
            },
        }
    }

    #[test]
    fn a_new_file_has_one_context_and_is_private() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("new").join("config");
        access("0.0.0.0:4711").write(&file).expect("it is written");
        let text = fs::read_to_string(&file).expect("it is there");
        let config: Value = serde_saphyr::from_str(&text).expect("it is YAML");
        assert_eq!(
            config["clusters"][0]["cluster"]["server"],
            "https://127.0.0.1:4711"
        );
        assert_eq!(config["users"][0]["user"]["client-key-data"], "a2V5");
        assert_eq!(config["current-context"], "coracle");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata().expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let left: Vec<_> = fs::read_dir(dir.path().join("new"))
            .expect("a folder")
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    /// A person's file usually leads to clusters that matter more than this one.
    #[test]
    fn the_entries_of_others_stay_and_ours_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("config");
        let others = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\nclusters:\n\
            - name: work\n  cluster: {server: 'https://work', extensions: [{name: x}]}\n\
            users:\n- name: me\n  user: {token: 'yes', username: \"1e3\"}\ncontexts: null\n\
            current-context: work\n";
        fs::write(&file, others).expect("a file");
        access("127.0.0.1:1").write(&file).expect("it is merged");
        access("127.0.0.1:2")
            .write(&file)
            .expect("it is merged again");
        let text = fs::read_to_string(&file).expect("it is there");
        let config: Value = serde_saphyr::from_str(&text).expect("it is YAML");
        assert_eq!(
            config["clusters"][0]["cluster"]["extensions"][0]["name"],
            "x"
        );
        assert_eq!(
            config["clusters"][1]["cluster"]["server"],
            "https://127.0.0.1:2"
        );
        assert_eq!(config["clusters"].as_array().map(Vec::len), Some(2));
        assert_eq!(config["users"][0]["user"]["token"], "yes");
        assert_eq!(config["users"][0]["user"]["username"], "1e3");
        assert_eq!(config["preferences"]["colors"], true);
        assert_eq!(config["current-context"], "coracle");
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("config");
        for text in [
            "hello",
            "- a",
            "kind: Pod",
            "apiVersion: v2",
            "clusters: {a: b}",
            "a: b: c",
        ] {
            fs::write(&file, text).expect("a file");
            let refusal = access("127.0.0.1:1").write(&file).expect_err(text);
            assert!(
                refusal.to_string().contains("is no kubeconfig"),
                "{refusal}"
            );
            assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
        }
    }

    #[test]
    fn what_a_damaged_kubeconfig_holds_is_not_shown() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("config");
        let text = "users:\n- name: me\n  user:\n    token: hunter2\n\tusername: x\n";
        fs::write(&file, text).expect("a file");
        let refusal = access("127.0.0.1:1")
            .write(&file)
            .expect_err("it is no YAML");
        let refusal = format!("{refusal:#}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
        assert!(refusal.contains("line "), "{refusal}");
    }

    #[test]
    fn a_path_is_quoted_for_the_shell_when_it_must_be() {
        for (shell, path, expected) in [
            (Shell::Posix, "/a/.kube/config", "export K=/a/.kube/config"),
            (Shell::Posix, "/a b", "export K='/a b'"),
            (Shell::Posix, "/it's", r"export K='/it'\''s'"),
            (Shell::PowerShell, r"C:\a b", r"$env:K = 'C:\a b'"),
            (Shell::PowerShell, r"C:\it's", r"$env:K = 'C:\it''s'"),
        ] {
            assert_eq!(shell.set("K", path), expected);
        }
    }
}
