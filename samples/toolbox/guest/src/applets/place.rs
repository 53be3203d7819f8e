//! Who and where one is: `pwd`, `env`, `printenv`, `id`, `hostname`, `uname`, `which`, `ps`, names of files.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use crate::applet::{self, Context, Environment, Failure, NOT_FOUND, Outcome};
use crate::options::Options;
use crate::ownership::{Table, User};
use crate::platform;
use crate::reactor;

applets! {
    "pwd" => pwd,
    "env" => env,
    "printenv" => printenv,
    "basename" => basename,
    "dirname" => dirname,
    "readlink" => readlink,
    "realpath" => realpath,
    "id" => id,
    "whoami" => whoami,
    "groups" => groups,
    "hostname" => hostname,
    "uname" => uname,
    "arch" => arch,
    "nproc" => nproc,
    "which" => which,
    "tty" => tty,
    "stty" => stty,
    "ps" => ps,
    "toolbox" => toolbox,
    "busybox" => toolbox,
    "clear" => clear,
    "kill" => kill,
    "killall" => kill,
    "pkill" => kill,
    "netstat" => connections,
    "ss" => connections,
    "ip" => interfaces,
    "ifconfig" => interfaces,
    "sysctl" => kernel,
    "umount" => kernel,
    "dmesg" => kernel,
    "ping" => ping,
}

async fn pwd(context: Context) -> Outcome {
    context.line(context.folder.display().to_string()).await?;
    context.end(0).await
}

async fn env(context: Context) -> Outcome {
    let long = &[("ignore-environment", 'i'), ("unset", 'u'), ("null", '0')];
    let options = Options::read_leading(context.arguments(), "iu:0", long)?;
    let mut environment = if options.has('i') {
        Environment::new()
    } else {
        (*context.environment).clone()
    };
    for name in options.values('u') {
        environment.remove(name);
    }
    let mut words = options.operands.clone();
    if words.first().is_some_and(|word| word == "-") {
        environment.clear();
        words.remove(0);
    }
    while let Some((name, value)) = words.first().and_then(|word| word.split_once('=')) {
        environment.insert(name.to_owned(), value.to_owned());
        words.remove(0);
    }
    if !words.is_empty() {
        let mut child = context.child(words);
        child.environment = Rc::new(environment);
        return context.run_child(child).await;
    }
    let end = if options.has('0') { "\0" } else { "\n" };
    for (name, value) in &environment {
        context.write(format!("{name}={value}{end}")).await?;
    }
    context.end(0).await
}

async fn printenv(context: Context) -> Outcome {
    let mut code = 0;
    for name in context.arguments() {
        match context.variable(name) {
            Some(value) => context.line(value).await?,
            None => code = 1,
        }
    }
    if context.arguments().is_empty() {
        for (name, value) in context.environment.iter() {
            context.line(format!("{name}={value}")).await?;
        }
    }
    context.end(code).await
}

async fn basename(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "as:", &[("suffix", 's')])?;
    let several = options.has('a') || options.has('s');
    let (names, suffix) = match options.operands.as_slice() {
        [] => return Err(Failure::usage("a name is expected")),
        names if several => (names, options.value('s').unwrap_or_default()),
        [name] => (std::slice::from_ref(name), ""),
        [name, suffix, ..] => (std::slice::from_ref(name), suffix.as_str()),
    };
    for name in names {
        let trimmed = name.trim_end_matches('/');
        let base = trimmed.rsplit('/').next().unwrap_or_default();
        let base = if trimmed.is_empty() && !name.is_empty() {
            "/"
        } else {
            base
        };
        let short = base.strip_suffix(suffix).filter(|short| !short.is_empty());
        context.line(short.unwrap_or(base)).await?;
    }
    context.end(0).await
}

async fn dirname(context: Context) -> Outcome {
    if context.arguments().is_empty() {
        return Err(Failure::usage("a name is expected"));
    }
    for name in context.arguments() {
        let trimmed = name.trim_end_matches('/');
        let folder = match trimmed.rsplit_once('/') {
            Some((folder, _)) if folder.trim_end_matches('/').is_empty() => "/",
            Some((folder, _)) => folder.trim_end_matches('/'),
            None if trimmed.is_empty() && !name.is_empty() => "/",
            None => ".",
        };
        context.line(folder).await?;
    }
    context.end(0).await
}

async fn readlink(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "fenmq", &[("canonicalize", 'f')])?;
    let mut code = 0;
    for name in &options.operands {
        let path = context.path(name);
        let found = if options.has('f') || options.has('e') || options.has('m') {
            canonical(&context, name)
        } else {
            fs::read_link(path)
                .ok()
                .map(|target| target.display().to_string())
        };
        match found {
            Some(target) if options.has('n') => context.write(target).await?,
            Some(target) => context.line(target).await?,
            None => code = 1,
        }
    }
    context.end(code).await
}

async fn realpath(context: Context) -> Outcome {
    let mut code = 0;
    for name in context.arguments() {
        match canonical(&context, name) {
            Some(path) => context.line(path).await?,
            None => {
                let error = std::io::ErrorKind::NotFound.into();
                context.complain(&Failure::about(name, &error)).await?;
                code = 1;
            }
        }
    }
    context.end(code).await
}

/// Links that one look-up follows.
const LINKS_MAX: u32 = 40;

/// The path of a file without links; its last part need not be there.
fn canonical(context: &Context, name: &str) -> Option<String> {
    let mut links = 0;
    let mut path = std::path::PathBuf::from("/");
    let start = applet_path(context, name);
    let mut waiting: Vec<String> = parts(&start);
    while let Some(part) = waiting.pop() {
        match part.as_str() {
            "." => continue,
            ".." => {
                path.pop();
                continue;
            }
            part => path.push(part),
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                let target = fs::read_link(&path).ok()?;
                path.pop();
                if target.is_absolute() {
                    path = "/".into();
                }
                waiting.extend(parts(&target));
            }
            Ok(_) => {}
            Err(_) if waiting.is_empty() => {}
            Err(_) => return None,
        }
    }
    Some(path.display().to_string())
}

fn applet_path(context: &Context, name: &str) -> std::path::PathBuf {
    context.path(name)
}

/// The parts of a path, the first one last.
fn parts(path: &Path) -> Vec<String> {
    let text = path.display().to_string();
    let parts = text.split('/').filter(|part| !part.is_empty());
    parts.rev().map(str::to_owned).collect()
}

/// Who the container runs as.
async fn id(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "ugGnr", &[])?;
    let User { uid, gid, groups } = platform::user();
    let shown = |table: Table, number: u32| match options.has('n') {
        true => table.shown(number),
        false => number.to_string(),
    };
    let text = if options.has('u') {
        shown(Table::Users, uid)
    } else if options.has('g') {
        shown(Table::Groups, gid)
    } else if options.has('G') {
        let all = [gid].into_iter().chain(groups);
        let all: Vec<_> = all.map(|group| shown(Table::Groups, group)).collect();
        all.join(" ")
    } else {
        let named = |table: Table, number: u32| match table.name(number) {
            Some(name) => format!("{number}({name})"),
            None => number.to_string(),
        };
        let all = [gid].into_iter().chain(groups);
        let all: Vec<_> = all.map(|group| named(Table::Groups, group)).collect();
        let (user, group) = (named(Table::Users, uid), named(Table::Groups, gid));
        format!("uid={user} gid={group} groups={}", all.join(","))
    };
    context.line(text).await?;
    context.end(0).await
}

async fn whoami(context: Context) -> Outcome {
    let uid = platform::user().uid;
    match Table::Users.name(uid) {
        Some(name) => context.line(name).await?,
        None => return Err(Failure::new(format!("unknown uid {uid}"))),
    }
    context.end(0).await
}

async fn groups(context: Context) -> Outcome {
    let User { gid, groups, .. } = platform::user();
    let all = [gid].into_iter().chain(groups);
    let all: Vec<_> = all.map(|group| Table::Groups.shown(group)).collect();
    context.line(all.join(" ")).await?;
    context.end(0).await
}

/// The pod's name as the node gives it.
fn host(context: &Context) -> String {
    let file = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = file.trim();
    if name.is_empty() {
        context
            .variable("HOSTNAME")
            .unwrap_or("localhost")
            .to_owned()
    } else {
        name.to_owned()
    }
}

async fn hostname(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "sfidI",
        &[("fqdn", 'f'), ("all-ip-addresses", 'I')],
    )?;
    if !options.operands.is_empty() {
        return Err(Failure::new("the name is set by the pod"));
    }
    let name = host(&context);
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    // A line is an address, the full name, and shorter ones.
    let lines = || {
        hosts
            .lines()
            .map(|line| line.split('#').next().unwrap_or(""))
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.iter().skip(1).any(|word| *word == name))
    };
    let full = lines().find_map(|words| words.get(1).map(|word| (*word).to_owned()));
    let text = if options.has('i') || options.has('I') {
        let addresses: Vec<String> = lines().map(|words| words[0].to_owned()).collect();
        addresses.join(" ")
    } else if options.has('f') {
        full.unwrap_or(name)
    } else if options.has('d') {
        let full = full.unwrap_or_default();
        full.split_once('.')
            .map(|(_, domain)| domain.to_owned())
            .unwrap_or_default()
    } else if options.has('s') {
        name.split('.').next().unwrap_or_default().to_owned()
    } else {
        name
    };
    context.line(text).await?;
    context.end(0).await
}

async fn uname(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "asnrvmpio", &[])?;
    let name = host(&context);
    let fields = [
        ('s', "WASI"),
        ('n', name.as_str()),
        ('r', "0.2"),
        ('v', "coracle"),
        ('m', "wasm32"),
        ('o', "WASI"),
    ];
    let none = options.given().count() == 0;
    let wanted = fields
        .iter()
        .filter(|(letter, _)| options.has('a') || options.has(*letter) || (none && *letter == 's'));
    let words: Vec<&str> = wanted.map(|(_, text)| *text).collect();
    context.line(words.join(" ")).await?;
    context.end(0).await
}

async fn arch(context: Context) -> Outcome {
    context.line("wasm32").await?;
    context.end(0).await
}

/// An instance has one thread.
async fn nproc(context: Context) -> Outcome {
    context.line("1").await?;
    context.end(0).await
}

async fn which(context: Context) -> Outcome {
    let mut code = 0;
    for name in context.arguments().iter().filter(|word| *word != "-a") {
        if let Some(path) = context
            .find_in_path(name)
            .filter(|path| applet::may_run(path))
        {
            context.line(path.display().to_string()).await?;
        } else if applet::find(name).is_some() {
            context.line(name).await?;
        } else {
            code = 1;
        }
    }
    context.end(code).await
}

async fn tty(context: Context) -> Outcome {
    let terminal = context.input()?.is_terminal();
    let text = if terminal { "/dev/tty" } else { "not a tty" };
    if context.arguments().is_empty() {
        context.line(text).await?;
    }
    context.end(i32::from(!terminal)).await
}

async fn stty(context: Context) -> Outcome {
    match context.arguments() {
        [word] if word == "size" => {
            let size = |name, otherwise| context.variable(name).unwrap_or(otherwise).to_owned();
            let text = format!("{} {}", size("LINES", "24"), size("COLUMNS", "80"));
            context.line(text).await?;
            context.end(0).await
        }
        [] => {
            context.line("speed 38400 baud; line = 0;").await?;
            context.end(0).await
        }
        _ => Err(Failure::new("the terminal's modes belong to the client")),
    }
}

/// This instance and its jobs: others cannot be seen.
async fn ps(context: Context) -> Outcome {
    context.line("PID   USER     TIME  COMMAND").await?;
    let user = Table::Users.shown(platform::user().uid);
    let line = |id: u32, title: &str| format!("{id:>5} {user:<8} {:<5} {title}", "0:00");
    let own = context.variable("0").unwrap_or("sh");
    context.line(line(1, own)).await?;
    for task in reactor::tasks() {
        context.line(line(task.id, &task.title)).await?;
    }
    context.end(0).await
}

/// Tells what there is, or runs what its words name.
async fn toolbox(context: Context) -> Outcome {
    let words = context.arguments().to_vec();
    match words.first().map(String::as_str) {
        Some(word) if !word.starts_with('-') => {
            if applet::find(word).is_none() {
                return Err(Failure::with_code(NOT_FOUND, format!("{word}: not found")));
            }
            let child = context.child(words);
            context.run_child(child).await
        }
        _ => {
            let groups = crate::applets::ALL.iter();
            let mut names: Vec<&str> = groups.flat_map(|group| group.iter()).map(|a| a.0).collect();
            names.sort_unstable();
            for name in names {
                context.line(name).await?;
            }
            context.end(0).await
        }
    }
}

async fn clear(context: Context) -> Outcome {
    context.write("\x1b[H\x1b[2J").await?;
    context.end(0).await
}

async fn kill(_context: Context) -> Outcome {
    Err(Failure::new(
        "nothing outside this instance can be signalled; jobs can, by the shell's own `kill`",
    ))
}

async fn connections(_context: Context) -> Outcome {
    Err(Failure::new("WASI does not list connections"))
}

async fn interfaces(_context: Context) -> Outcome {
    Err(Failure::new(
        "Operation not permitted: the network is the node's, and `hostname -i` tells the address",
    ))
}

async fn kernel(_context: Context) -> Outcome {
    Err(Failure::new(
        "Operation not permitted: there is no kernel in a pod",
    ))
}

async fn ping(_context: Context) -> Outcome {
    Err(Failure::new(
        "WASI has no raw sockets; try `nc -zv HOST PORT`",
    ))
}
