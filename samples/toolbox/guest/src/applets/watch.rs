//! What goes on: `uptime`, `watch`, and `less` and `more`, which show a file by pages.

use std::fs;

use super::reading::sources;
use super::time::{self, Moment};
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::reactor;
use crate::stream::Stream;

applets! {
    "uptime" => uptime,
    "watch" => watch,
    "less" => pages,
    "more" => pages,
}

/// Written when the pod starts, so its age is the pod's.
const OLD_AS_POD: &str = "/etc/hostname";
/// A terminal that does not tell has so many lines.
const LINES: usize = 24;

/// How long the pod is up. Nobody tells a load.
async fn uptime(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "s", &[("since", 's')])?;
    let now = Moment::now();
    let started = fs::metadata(OLD_AS_POD).and_then(|metadata| metadata.modified());
    let started = started.map_err(|error| Failure::about(OLD_AS_POD, &error))?;
    let started = Moment::of(started);
    let text = if options.has('s') {
        time::format(started, "%F %T")
    } else {
        let clock = time::format(now, "%T");
        format!(" {clock} up {}", span(now.seconds - started.seconds))
    };
    context.line(text).await?;
    context.end(0).await
}

/// Days and hours as `uptime` writes them.
fn span(seconds: i64) -> String {
    let minutes = seconds.max(0) / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    match hours {
        0 => format!("{days}{minutes} min"),
        hours => format!("{days}{hours:2}:{minutes:02}"),
    }
}

/// Runs a command again and again, until it is ended from outside.
async fn watch(context: Context) -> Outcome {
    let long = &[("interval", 'n'), ("no-title", 't')];
    let options = Options::read_leading(context.arguments(), "n:t", long)?;
    let every = options.value('n').unwrap_or("2");
    let pause = time::duration(every)?;
    if options.operands.is_empty() {
        return Err(Failure::usage("watch [-n SECONDS] [-t] COMMAND …"));
    }
    let command = options.operands.join(" ");
    loop {
        context.write("\x1b[H\x1b[J").await?;
        if !options.has('t') {
            let clock = time::format(Moment::now(), "%F %T");
            context
                .line(format!("Every {every}s: {command}  {clock}\n"))
                .await?;
        }
        let child = context.child(["sh", "-c", &command].map(str::to_owned).to_vec());
        context.run_child(child).await?;
        reactor::sleep(pause).await;
    }
}

/// Shows files; at a terminal page by page, each after a line is entered, until that is `q`.
async fn pages(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "EFIMNRSXei", &[])?;
    let paged = context.descriptors.get(1)?.is_terminal();
    let height = context
        .variable("LINES")
        .and_then(|lines| lines.parse().ok());
    let page = height.unwrap_or(LINES).max(2) - 1;
    // Standard input may be a pipe that is shown.
    let keys = Stream::standard().get(0)?;
    let mut shown = 0;
    for name in sources(&options.operands) {
        let input = context.open(&name)?;
        while let Some(line) = context.next_line(&input).await? {
            if paged && shown == page {
                context.write("--More-- (Enter, or q)").await?;
                context.flush().await?;
                let answer = keys.read_line().await?;
                if answer.is_none_or(|answer| answer.starts_with(b"q")) {
                    return context.end(0).await;
                }
                shown = 0;
            }
            context.write(line).await?;
            shown += 1;
        }
    }
    context.end(0).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_are_written_as_uptime_does() {
        for (seconds, expected) in [
            (-5, "0 min"),
            (59, "0 min"),
            (300, "5 min"),
            (3600, " 1:00"),
            (86_400 + 65, "1 day, 1 min"),
            (3 * 86_400 + 11 * 3600 + 120, "3 days, 11:02"),
        ] {
            assert_eq!(super::span(seconds), expected);
        }
    }
}
