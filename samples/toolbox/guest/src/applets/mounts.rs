//! `df` and `mount`: what is mounted, and how much of it is used, as the host tells.

use super::listing::human;
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::platform::{self, Mount, Space};

applets! {
    "df" => df,
    "mount" => mount,
}

/// How amounts are written.
#[derive(Clone, Copy)]
enum Unit {
    Bytes(u64),
    Human,
}

async fn df(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "hkmPTa", &[("human-readable", 'h')])?;
    let unit = match () {
        () if options.has('h') => Unit::Human,
        () if options.has('m') => Unit::Bytes(1 << 20),
        () => Unit::Bytes(1 << 10),
    };
    let all = platform::mounts()?;
    let shown: Vec<&Mount> = if options.operands.is_empty() {
        all.iter().collect()
    } else {
        let mut shown = Vec::new();
        for name in &options.operands {
            let found = std::fs::canonicalize(context.path(name));
            let path = found.map_err(|error| Failure::about(name, &error))?;
            // The longest that the path is below; the root is there always.
            let holders = all.iter().filter(|mount| path.starts_with(&mount.path));
            shown.extend(holders.max_by_key(|mount| mount.path.len()));
        }
        shown
    };
    context.line(header(unit, &options)).await?;
    for mount in shown {
        context.line(line(mount, unit, &options)).await?;
    }
    context.end(0).await
}

fn header(unit: Unit, options: &Options) -> String {
    let blocks = match unit {
        Unit::Human => "Size",
        Unit::Bytes(1_048_576) => "1M-blocks",
        Unit::Bytes(_) if options.has('P') => "1024-blocks",
        Unit::Bytes(_) => "1K-blocks",
    };
    let part = if options.has('P') { "Capacity" } else { "Use%" };
    let kind = if options.has('T') { "Type       " } else { "" };
    format!("Filesystem           {kind}{blocks:>9}      Used Available {part} Mounted on")
}

fn line(mount: &Mount, unit: Unit, options: &Options) -> String {
    let kind = match options.has('T') {
        true => format!("{:<10} ", mount.kind),
        false => String::new(),
    };
    let start = format!("{:<20} {kind}", mount.kind);
    let Some(Space {
        size,
        used,
        available,
    }) = mount.space
    else {
        return format!("{start}{0:>9} {0:>9} {0:>9} {0:>4} {1}", "-", mount.path);
    };
    let shown = |bytes: u64| match unit {
        Unit::Human => human(bytes),
        Unit::Bytes(unit) => bytes.div_ceil(unit).to_string(),
    };
    // As others have it: of what can be had, and not less than it is.
    let can_be_had = u128::from(used) + u128::from(available);
    let part = (u128::from(used) * 100).div_ceil(can_be_had.max(1));
    format!(
        "{start}{:>9} {:>9} {:>9} {part:>3}% {}",
        shown(size),
        shown(used),
        shown(available),
        mount.path
    )
}

async fn mount(context: Context) -> Outcome {
    if !context.arguments().is_empty() {
        return Err(Failure::new(
            "Operation not permitted: the pod says what is mounted",
        ));
    }
    for mount in platform::mounts()? {
        let access = if mount.read_only { "ro" } else { "rw" };
        let Mount { kind, path, .. } = mount;
        context
            .line(format!("{kind} on {path} type {kind} ({access})"))
            .await?;
    }
    context.end(0).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_as_those_of_busybox() {
        let space = Space {
            size: 10 << 20,
            used: 1 << 20,
            available: 9 << 20,
        };
        let check = |words: &[&str], unit, space, head: &str, expected: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let options = Options::read(&words, "hkmPT", &[]).expect("options");
            let mount = Mount {
                path: "/data".to_owned(),
                kind: "tmpfs",
                read_only: false,
                space,
            };
            assert_eq!(header(unit, &options), head);
            assert_eq!(line(&mount, unit, &options), expected);
        };
        check(
            &[],
            Unit::Bytes(1024),
            Some(space),
            "Filesystem           1K-blocks      Used Available Use% Mounted on",
            "tmpfs                    10240      1024      9216  10% /data",
        );
        check(
            &["-P"],
            Unit::Bytes(1024),
            None,
            "Filesystem           1024-blocks      Used Available Capacity Mounted on",
            "tmpfs                        -         -         -    - /data",
        );
        check(
            &["-h", "-T"],
            Unit::Human,
            Some(space),
            "Filesystem           Type            Size      Used Available Use% Mounted on",
            "tmpfs                tmpfs          10.0M      1.0M      9.0M  10% /data",
        );
    }
}
