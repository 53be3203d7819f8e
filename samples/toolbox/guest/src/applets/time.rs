//! `sleep`, `date`, `timeout`, `time`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::{platform, reactor};

applets! {
    "sleep" => sleep,
    "usleep" => usleep,
    "date" => date,
    "timeout" => timeout,
    "time" => measure,
}

const MONTHS: &[&str] = &[
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: &[&str] = &[
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
/// What `timeout` ends with when the time is over.
const TIMED_OUT: i32 = 124;

/// A moment: seconds since 1970, and the nanoseconds beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    nanoseconds: u32,
}

impl Moment {
    pub(crate) fn of(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: since.subsec_nanos(),
            },
            Err(before) => Self {
                seconds: -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
                nanoseconds: 0,
            },
        }
    }

    /// What the clock shows.
    pub(crate) fn now() -> Self {
        Self::of(SystemTime::now())
    }

    /// As the clock of the system has it.
    pub(crate) fn to_system(self) -> SystemTime {
        let time = Duration::new(u64::try_from(self.seconds).unwrap_or(0), self.nanoseconds);
        UNIX_EPOCH.checked_add(time).unwrap_or(UNIX_EPOCH)
    }

    /// So many seconds after 1970 began.
    pub(crate) fn at(seconds: i64) -> Self {
        Self {
            seconds,
            nanoseconds: 0,
        }
    }

    /// Year, month and day, the last two from 1.
    ///
    /// Howard Hinnant's `civil_from_days`: years begin in March, in eras of 400 years.
    fn civil(self) -> (i64, i64, i64) {
        let days = self.seconds.div_euclid(86_400) + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        (year + era * 400 + i64::from(month <= 2), month, day)
    }

    fn of_day(self) -> i64 {
        self.seconds.rem_euclid(86_400)
    }

    fn weekday(self) -> i64 {
        (self.seconds.div_euclid(86_400) + 4).rem_euclid(7)
    }

    fn day_of_year(self) -> i64 {
        let (year, _, _) = self.civil();
        self.seconds.div_euclid(86_400) - days_until(year, 1, 1) + 1
    }
}

/// Days from 1970 until a date.
fn days_until(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Writes a moment, in UTC, as `strftime` does.
pub(crate) fn format(moment: Moment, format: &str) -> String {
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('-') => {
                let field = chars.next().map(|letter| field(moment, letter));
                let field = field.unwrap_or_default();
                let short = field.trim_start_matches(['0', ' ']);
                text.push_str(if short.is_empty() { "0" } else { short });
            }
            Some(letter) => text.push_str(&field(moment, letter)),
            None => text.push('%'),
        }
    }
    text
}

fn field(moment: Moment, letter: char) -> String {
    let (year, month, day) = moment.civil();
    let of_day = moment.of_day();
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let month_name = MONTHS
        .get(usize::try_from(month - 1).unwrap_or(0))
        .unwrap_or(&"");
    let day_name = DAYS
        .get(usize::try_from(moment.weekday()).unwrap_or(0))
        .unwrap_or(&"");
    match letter {
        'Y' => year.to_string(),
        'C' => format!("{:02}", year / 100),
        'y' => format!("{:02}", year % 100),
        'm' => format!("{month:02}"),
        'd' => format!("{day:02}"),
        'e' => format!("{day:2}"),
        'H' => format!("{hour:02}"),
        'k' => format!("{hour:2}"),
        'I' => format!("{twelve:02}"),
        'l' => format!("{twelve:2}"),
        'M' => format!("{minute:02}"),
        'S' => format!("{second:02}"),
        'N' => format!("{:09}", moment.nanoseconds),
        's' => moment.seconds.to_string(),
        'p' => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
        'B' => (*month_name).to_owned(),
        'b' | 'h' => month_name.chars().take(3).collect(),
        'A' => (*day_name).to_owned(),
        'a' => day_name.chars().take(3).collect(),
        'u' => (if moment.weekday() == 0 {
            7
        } else {
            moment.weekday()
        })
        .to_string(),
        'w' => moment.weekday().to_string(),
        'j' => format!("{:03}", moment.day_of_year()),
        'F' => format(moment, "%Y-%m-%d"),
        'T' | 'X' => format(moment, "%H:%M:%S"),
        'R' => format(moment, "%H:%M"),
        'D' | 'x' => format(moment, "%m/%d/%y"),
        'c' => format(moment, "%a %b %e %H:%M:%S %Y"),
        'r' => format(moment, "%I:%M:%S %p"),
        'z' => "+0000".to_owned(),
        'Z' => "UTC".to_owned(),
        'n' => "\n".to_owned(),
        't' => "\t".to_owned(),
        '%' => "%".to_owned(),
        other => format!("%{other}"),
    }
}

/// Reads a moment: `@seconds`, or a date with or without a time, in UTC.
pub(crate) fn parse(text: &str) -> Option<Moment> {
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse().ok().map(Moment::at);
    }
    if text == "now" {
        return Some(Moment::of(SystemTime::now()));
    }
    let text = text.trim_end_matches('Z').trim_end_matches("UTC").trim();
    let (date, clock) = text.split_once(['T', ' ']).unwrap_or((text, "0:0:0"));
    let number = |text: &str| text.parse::<i64>().ok();
    let mut parts = date.splitn(3, '-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let clock = clock.split('.').next().unwrap_or(clock);
    let mut parts = clock.splitn(3, ':').map(number);
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    let days = valid.then(|| days_until(year, month, day))?;
    Some(Moment::at(
        days * 86_400 + hour * 3600 + minute * 60 + second,
    ))
}

/// Reads a time such as `5`, `0.5`, `2m`, `1h` or `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, Failure> {
    let (digits, factor) = match text.chars().last() {
        Some('s') => (&text[..text.len() - 1], 1.0),
        Some('m') => (&text[..text.len() - 1], 60.0),
        Some('h') => (&text[..text.len() - 1], 3600.0),
        Some('d') => (&text[..text.len() - 1], 86_400.0),
        _ => (text, 1.0),
    };
    if text == "infinity" || text == "inf" {
        return Ok(Duration::from_secs(u64::MAX / 4_000_000_000));
    }
    let seconds = digits.parse::<f64>().ok().map(|number| number * factor);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| Failure::new(format!("invalid time interval `{text}`")))
}

async fn sleep(context: Context) -> Outcome {
    if context.arguments().is_empty() {
        return Err(Failure::new("a time is expected"));
    }
    let mut total = Duration::ZERO;
    for word in context.arguments() {
        total = total.saturating_add(duration(word)?);
    }
    reactor::sleep(total).await;
    Ok(0)
}

async fn usleep(context: Context) -> Outcome {
    let word = context.arguments().first().map_or("0", String::as_str);
    let time = word
        .parse()
        .map_err(|_| Failure::new("a number is expected"))?;
    reactor::sleep(Duration::from_micros(time)).await;
    Ok(0)
}

async fn date(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "uRd:r:I",
        &[("utc", 'u'), ("date", 'd'), ("reference", 'r')],
    )?;
    let mut moment = Moment::of(SystemTime::now());
    if let Some(text) = options.value('d') {
        let invalid = || Failure::new(format!("invalid date `{text}`"));
        moment = parse(text).ok_or_else(invalid)?;
    }
    if let Some(name) = options.value('r') {
        let modified = std::fs::metadata(context.path(name)).and_then(|found| found.modified());
        moment = Moment::of(modified.map_err(|error| Failure::about(name, &error))?);
    }
    let wanted = match options.operands.first() {
        Some(word) => match word.strip_prefix('+') {
            Some(format) => format,
            None => return Err(Failure::new("the clock cannot be set from within a pod")),
        },
        None if options.has('R') => "%a, %d %b %Y %H:%M:%S %z",
        None if options.has('I') => "%F",
        None => "%a %b %e %H:%M:%S %Z %Y",
    };
    context.line(format(moment, wanted)).await?;
    context.end(0).await
}

async fn timeout(context: Context) -> Outcome {
    let options = Options::read_leading(
        context.arguments(),
        "s:k:t:",
        &[
            ("signal", 's'),
            ("kill-after", 'k'),
            ("preserve-status", 'p'),
            ("foreground", 'f'),
        ],
    )?;
    let mut words = options.operands.clone();
    let time = match options.value('t') {
        Some(time) => time.to_owned(),
        None if words.is_empty() => return Err(Failure::usage("timeout TIME COMMAND …")),
        None => words.remove(0),
    };
    let limit = duration(&time)?;
    let end = platform::now().saturating_add(limit);
    let child = context.child(words);
    let running = context.run_child(child);
    if limit.is_zero() {
        return running.await;
    }
    match reactor::unless(running, reactor::wait_until(end)).await {
        Some(outcome) => outcome,
        None => Ok(TIMED_OUT),
    }
}

async fn measure(context: Context) -> Outcome {
    let start = platform::now();
    let words: Vec<String> = context
        .arguments()
        .iter()
        .filter(|w| *w != "-p")
        .cloned()
        .collect();
    let child = context.child(words);
    let outcome = context.run_child(child).await;
    let seconds = platform::now().saturating_sub(start).as_secs_f64();
    context.say(&format!("real {seconds:.2}\n")).await;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_strftime_does() {
        for (text, pattern, expected) in [
            ("@0", "%c", "Thu Jan  1 00:00:00 1970"),
            (
                "2024-02-29 12:34:56",
                "%F %T %j %A",
                "2024-02-29 12:34:56 060 Thursday",
            ),
            ("2000-03-01", "%s", "951868800"),
            ("2026-11-26T14:00:00Z", "%I:%M %p %b", "02:00 PM Nov"),
            ("@-1", "%F %T", "1969-12-31 23:59:59"),
            ("2026-01-05", "%-d %e %%", "5  5 %"),
        ] {
            let moment = parse(text).expect("it is a moment");
            assert_eq!(format(moment, pattern), expected, "for {text}");
        }
    }

    #[test]
    fn what_is_no_moment_or_time_is_refused() {
        for text in ["", "tomorrow", "2024-13-01", "2024-01-01 25:00"] {
            assert_eq!(parse(text), None, "for {text}");
        }
        assert!(duration("soon").is_err());
        assert!(duration("-1").is_err());
        assert_eq!(duration("0.5m").expect("it is"), Duration::from_secs(30));
    }
}
