//! The outside world for native tests: std, blocking; what only pods have is refused.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::ownership::{Permissions, User};

/// Nothing is waited for natively: reads block.
pub(crate) struct Source;

impl Source {
    pub(crate) fn ready(&self) -> bool {
        true
    }
}

pub(crate) fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

pub(crate) fn block(_sources: &[Rc<Source>], deadline: Option<Duration>) {
    let Some(deadline) = deadline else {
        panic!("everything waits for each other");
    };
    std::thread::sleep(deadline.saturating_sub(now()));
}

pub(crate) fn exit(code: i32) -> ! {
    std::process::exit(code)
}

pub(crate) fn working_folder() -> Option<String> {
    let folder = std::env::current_dir().ok()?;
    folder.into_os_string().into_string().ok()
}

pub(crate) fn is_terminal() -> bool {
    false
}

pub(crate) async fn read_stdin(max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; max];
    let read = io::stdin().read(&mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

pub(crate) async fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    io::stdout().write_all(bytes)
}

pub(crate) async fn write_stderr(bytes: &[u8]) -> io::Result<()> {
    io::stderr().write_all(bytes)
}

pub(crate) async fn flush() {
    let _ = io::stdout().flush();
}

/// Not for secrets: the tests need names of files.
pub(crate) fn random(length: usize) -> Vec<u8> {
    let mut state = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(1, |time| time.as_nanos() as u64 | 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Whom the tests run as, as Linux tells it.
pub(crate) fn user() -> User {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let numbers = |field: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let words = line.unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let effective = |field| numbers(field).get(1).copied().unwrap_or(0);
    User {
        uid: effective("Uid:"),
        gid: effective("Gid:"),
        groups: numbers("Groups:"),
    }
}

/// The root, of which nothing is asked natively.
pub(crate) fn mounts() -> io::Result<Vec<super::Mount>> {
    Ok(vec![super::Mount {
        path: "/".to_owned(),
        kind: "overlay",
        read_only: false,
        space: None,
    }])
}

pub(crate) fn permissions(path: &Path, follow: bool) -> io::Result<Permissions> {
    let found = match follow {
        true => std::fs::metadata(path)?,
        false => std::fs::symlink_metadata(path)?,
    };
    Ok(Permissions {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// A link has no mode here.
pub(crate) fn set_mode(path: &Path, _follow: bool, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

pub(crate) fn set_owner(
    path: &Path,
    follow: bool,
    uid: Option<u32>,
    gid: Option<u32>,
) -> io::Result<()> {
    match follow {
        true => std::os::unix::fs::chown(path, uid, gid),
        false => std::os::unix::fs::lchown(path, uid, gid),
    }
}

pub(crate) fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

pub(crate) fn set_times(path: &Path, modified: SystemTime) -> io::Result<()> {
    std::fs::File::open(path)?.set_modified(modified)
}

pub(crate) async fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    use std::net::ToSocketAddrs;
    let found = (name, 0).to_socket_addrs()?;
    Ok(found.map(|address| address.ip()).collect())
}

/// A connection.
pub(crate) struct Connection(std::net::TcpStream);

impl Connection {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        std::net::TcpStream::connect(address).map(Self)
    }

    pub(crate) async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; max];
        let read = (&self.0).read(&mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.0).write_all(bytes)
    }

    pub(crate) fn finish(&self) -> io::Result<()> {
        self.0.shutdown(std::net::Shutdown::Write)
    }
}

/// A socket that listens.
pub(crate) struct Listener(std::net::TcpListener);

impl Listener {
    pub(crate) async fn listen(address: SocketAddr) -> io::Result<Self> {
        std::net::TcpListener::bind(address).map(Self)
    }

    pub(crate) async fn accept(&self) -> io::Result<Connection> {
        self.0.accept().map(|(stream, _)| Connection(stream))
    }
}

/// An answer, of which there are none natively.
pub(crate) struct Response {
    pub(crate) status: u16,
}

impl Response {
    pub(crate) fn headers(&self) -> &[(String, String)] {
        &[]
    }

    pub(crate) fn header(&self, _name: &str) -> Option<String> {
        None
    }

    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

/// Refuses: requests are sent by the host of a pod.
pub(crate) async fn request(request: super::Request) -> io::Result<Response> {
    let text = format!("no request to {} can be sent natively", request.authority);
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}
