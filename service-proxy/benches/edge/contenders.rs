//! Who is measured, each a set of processes and an address.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::{env, fs};

use coracle_tests::{Figures, comes_up, free_port, setting};
use rustix::process::{Pid, Signal, kill_process};

use super::machine;

/// As many Services as a large cluster has.
const SERVICES: u32 = 10_000;

// The names of contenders.
pub(crate) const DIRECT: &str = "direct";
pub(crate) const HAPROXY: &str = "haproxy";
pub(crate) const NGINX: &str = "nginx stream";
pub(crate) const RELAYED: &str = "ours, relayed";
pub(crate) const POD: &str = "ours, pod";
pub(crate) const POD_OF_MANY: &str = "ours, pod, 10,000 Services";
pub(crate) const HANDLER: &str = "ours, Wasm handler";
pub(crate) const DNAT: &str = "DNAT";

const HANDLER_NODE_PORT: u16 = 30_080;

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: hello, labels: {app: hello}}
spec:
  containers:
  - name: web
    image: ./hello-http.wasm
    ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  type: NodePort
  selector: {app: hello}
  ports: [{port: 80, nodePort: 30080}]
";

/// One contender.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// What stands between client and backend; empty where that is the kernel.
    pub(crate) own: Vec<u32>,
    /// The backend, where it is a process of its own.
    pub(crate) backend: Vec<u32>,
    pub(crate) at: SocketAddr,
    /// The process in whose network namespace the client runs, if not in ours.
    pub(crate) namespace: Option<u32>,
    pub(crate) kind: Kind,
}

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A program that knows all tests.
    Backend,
    /// A sample's handler, which answers every request with its own text.
    Handler,
}

/// All of them; dropping this ends them.
pub(crate) struct Contenders {
    all: Vec<Contender>,
    children: Vec<Child>,
    inputs: Vec<ChildStdin>,
    folder: PathBuf,
}

impl Contenders {
    /// Starts everybody there is, and names who is missing.
    pub(crate) fn start(figures: &mut Figures) -> Contenders {
        let folder = env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        let mut contenders = Contenders {
            all: Vec::new(),
            children: Vec::new(),
            inputs: Vec::new(),
            folder,
        };
        contenders.start_all(figures);
        contenders
    }

    /// Returns all of them.
    pub(crate) fn all(&self) -> &[Contender] {
        &self.all
    }

    fn start_all(&mut self, figures: &mut Figures) {
        let own = || Command::new(env::current_exe().expect("this program has a path"));
        let (backend, backend_at) = self.spawn_own(own().args(["serve-backend", "0"]));
        let backend_at = SocketAddr::from(([127, 0, 0, 1], backend_at.port()));
        self.all.push(Contender {
            name: DIRECT,
            own: Vec::new(),
            backend: vec![backend],
            at: backend_at,
            namespace: None,
            kind: Kind::Backend,
        });
        self.start_haproxy(backend, backend_at, figures);
        self.start_nginx(backend, backend_at, figures);
        let port = backend_at.port().to_string();
        let (relay, at) = self.spawn_own(own().args(["serve-relay", &port]));
        self.all.push(Contender {
            name: RELAYED,
            own: vec![relay],
            backend: vec![backend],
            at,
            namespace: None,
            kind: Kind::Backend,
        });
        for (name, services) in [(POD, 1), (POD_OF_MANY, SERVICES)] {
            let count = services.to_string();
            let (pod, at) = self.spawn_own(own().args(["serve-pod", &count]));
            self.all.push(Contender {
                name,
                own: vec![pod],
                backend: Vec::new(),
                at,
                namespace: None,
                kind: Kind::Backend,
            });
        }
        self.start_handler(figures);
        for (name, services) in [(DNAT, 1), ("DNAT, 10,000 Services", SERVICES)] {
            self.start_dnat(name, services, figures);
        }
    }

    fn start_haproxy(&mut self, backend: u32, to: SocketAddr, figures: &mut Figures) {
        if !machine::is_found("haproxy") {
            return figures.missing(HAPROXY, "not on the path");
        }
        let at = free_port();
        let threads = setting("THREADS", 1);
        let config = format!(
            "global\n nbthread {threads}\n maxconn 9000\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             listen bench\n bind {at} backlog 4096\n server one {to}\n"
        );
        let file = self.write("haproxy.cfg", &config);
        let pid = self.spawn(Command::new("haproxy").arg("-db").arg("-f").arg(file));
        self.push(HAPROXY, pid, backend, at, figures);
    }

    fn start_nginx(&mut self, backend: u32, to: SocketAddr, figures: &mut Figures) {
        if !machine::is_found("nginx") {
            return figures.missing(NGINX, "not on the path");
        }
        let at = free_port();
        let threads = setting("THREADS", 1);
        let folder = self.folder.display().to_string();
        let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let load = match fs::exists(module) {
            Ok(true) => format!("load_module {module};"),
            _ => String::new(),
        };
        let config = format!(
            "{load}\ndaemon off;\nmaster_process on;\nuser root;\nworker_processes {threads};\n\
             worker_rlimit_nofile 20000;\npid {folder}/nginx.pid;\nerror_log stderr crit;\n\
             events {{ worker_connections 18000; }}\n\
             stream {{ server {{ listen {at} backlog=4096; proxy_pass {to}; tcp_nodelay on; \
             proxy_timeout 1h; }} }}\n"
        );
        let file = self.write("nginx.conf", &config);
        let pid = self.spawn(Command::new("nginx").arg("-c").arg(file));
        self.push(NGINX, pid, backend, at, figures);
    }

    /// A Wasm handler behind a Service of `coracle run`: the program as it is shipped, on all cores.
    fn start_handler(&mut self, figures: &mut Figures) {
        let here = env::current_exe().expect("this program has a path");
        let built = here.ancestors().nth(2).map(|folder| folder.join("coracle"));
        let given = env::var_os("CORACLE_BENCH_BINARY").map(PathBuf::from);
        let program = given.or(built).filter(|program| program.exists());
        let Some(program) = program else {
            let why = "build the program `coracle` with the same profile";
            return figures.missing(HANDLER, why);
        };
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/hello-http");
        let copied = fs::copy(
            samples.join("hello-http.wasm"),
            self.folder.join("hello-http.wasm"),
        );
        copied.expect("the sample is in the repository");
        let manifest = self.write("handler.yaml", MANIFEST);
        let mut command = Command::new(program);
        command.arg("run").arg(manifest);
        let pid = self.spawn(command.env("CORACLE_DATA_DIR", self.folder.join("data")));
        let at = SocketAddr::from(([127, 0, 0, 1], HANDLER_NODE_PORT));
        if !comes_up(at) {
            return figures.missing(HANDLER, "it did not start");
        }
        self.all.push(Contender {
            name: HANDLER,
            own: vec![pid],
            backend: Vec::new(),
            at,
            namespace: None,
            kind: Kind::Handler,
        });
    }

    /// The kernel's translation, in a namespace of its own, for it taxes every connection there.
    fn start_dnat(&mut self, name: &'static str, services: u32, figures: &mut Figures) {
        if !machine::is_in_namespace() || !machine::is_found("nft") {
            return figures.missing(name, "needs nft and a network namespace");
        }
        let port = 18_080;
        let first = 0x0a60_0001_u32;
        let elements = (0..services).map(|number| {
            let ip = std::net::Ipv4Addr::from(first + number);
            format!("{ip} . 8080 : 192.0.2.1 . {port}")
        });
        let elements = elements.collect::<Vec<_>>().join(", ");
        let rules = format!(
            "table ip bench {{\n map services {{ type ipv4_addr . inet_service : \
             ipv4_addr . inet_service; elements = {{ {elements} }} }}\n\
             chain output {{ type nat hook output priority -100;\n\
             dnat ip to ip daddr . tcp dport map @services;\n }}\n}}\n"
        );
        let file = self.write(&format!("dnat-{services}.nft"), &rules);
        let prepare = format!(
            "{} && nft -f {} && exec \"$@\"",
            machine::PREPARE,
            file.display()
        );
        let program = env::current_exe().expect("this program has a path");
        let (backend, _) = self.spawn_own(
            Command::new("unshare")
                .args(["--net", "sh", "-c", &prepare, "sh"])
                .arg(program)
                .args(["serve-backend", &port.to_string()]),
        );
        self.all.push(Contender {
            name,
            own: Vec::new(),
            backend: vec![backend],
            at: SocketAddr::from(([10, 96, 0, 1], 8_080)),
            namespace: Some(backend),
            kind: Kind::Backend,
        });
    }

    fn push(
        &mut self,
        name: &'static str,
        pid: u32,
        backend: u32,
        at: SocketAddr,
        figures: &mut Figures,
    ) {
        if !comes_up(at) {
            return figures.missing(name, "it did not start");
        }
        let mut own = vec![pid];
        own.extend(children_of(pid));
        self.all.push(Contender {
            name,
            own,
            backend: vec![backend],
            at,
            namespace: None,
            kind: Kind::Backend,
        });
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.join(name);
        fs::write(&file, text).expect("a temporary file");
        file
    }

    fn spawn(&mut self, command: &mut Command) -> u32 {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("it is on the path");
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// Starts a program of ours, which prints its address.
    fn spawn_own(&mut self, command: &mut Command) -> (u32, SocketAddr) {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program runs");
        let output = child.stdout.take().expect("piped");
        self.inputs.push(child.stdin.take().expect("piped"));
        let pid = child.id();
        self.children.push(child);
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        read.expect("it says where it listens");
        (pid, line.trim().parse().expect("an address"))
    }
}

impl Drop for Contenders {
    fn drop(&mut self) {
        self.inputs.clear();
        for child in &mut self.children {
            // Not killed: nginx ends its workers, which a kill would leave.
            if let Some(pid) = Pid::from_raw(child.id() as i32) {
                // It may have ended already.
                let _ = kill_process(pid, Signal::TERM);
            }
            drop(child.wait());
        }
        drop(fs::remove_dir_all(&self.folder));
        drop(std::io::stdout().flush());
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let told = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let told = told.unwrap_or_default();
    told.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
