//! `image ls`, `image rm` and `image inspect`.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::{Args, ValueEnum};
use coracle_registry::{ImageStore, Listed, Reference, StoreOptions};

use super::{Failures, open, parsed, print};

/// A name of fewer letters is taken for a name, even if all of them could be of a digest.
const DIGEST_LETTERS_MIN: usize = 7;

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for people.
    Table,
    /// One JSON document for programs.
    Json,
}

/// Arguments of `coracle image ls`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,

    /// Print digests only
    #[arg(short, long, conflicts_with = "output")]
    quiet: bool,
}

/// Arguments of `coracle image rm`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Images, by name, `name@digest` or the beginning of a digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Arguments of `coracle image inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Images, by name, `name@digest` or the beginning of a digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Prints the images in the store.
pub(super) fn list(args: &ListArgs, data_dir: &Path) -> anyhow::Result<()> {
    let listed = open(data_dir, StoreOptions::default())?.list()?;
    if args.quiet {
        let digests: Vec<&str> = listed.iter().map(|image| image.digest.as_str()).collect();
        return print(lines(digests.into_iter()).as_bytes());
    }
    let text = match args.output {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&listed)?),
        Format::Table => table(&listed, SystemTime::now()),
    };
    print(text.as_bytes())
}

/// Removes each image, tells what went, and fails at the end if one could not be removed.
pub(super) fn remove(args: RemoveArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, StoreOptions::default())?;
    let mut failures = Failures::default();
    for image in &args.images {
        failures.note(remove_one(&store, image));
    }
    failures.finish()
}

fn remove_one(store: &ImageStore, image: &str) -> anyhow::Result<()> {
    let removed = store.remove(&chosen(store, image)?)?;
    let mut text = format!("untagged: {}\n", removed.reference);
    if let Some(digest) = removed.deleted {
        text += &format!("deleted: {digest}\n");
    }
    print(text.as_bytes())
}

/// Prints what is known about images as a JSON list.
pub(super) fn inspect(args: InspectArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, StoreOptions::default())?;
    let mut images = Vec::new();
    for image in &args.images {
        images.push(store.inspect(&chosen(&store, image)?)?);
    }
    if images.is_empty() {
        bail!("no image was named");
    }
    print(format!("{}\n", serde_json::to_string_pretty(&images)?).as_bytes())
}

/// Finds out which image is meant: `image ls` prints digests, and whoever copies one means that image.
fn chosen(store: &ImageStore, text: &str) -> anyhow::Result<Reference> {
    let beginning = text.strip_prefix("sha256:").unwrap_or(text);
    let is_digest = beginning.len() >= DIGEST_LETTERS_MIN
        && beginning.bytes().all(|letter| letter.is_ascii_hexdigit());
    if is_digest {
        let listed = store.list()?;
        let mut found = listed.iter().filter(|image| {
            image
                .digest
                .trim_start_matches("sha256:")
                .starts_with(beginning)
        });
        if let Some(image) = found.next() {
            if found.any(|other| other.digest != image.digest) {
                bail!("more than one image has a digest that begins with `{text}`");
            }
            return parsed(&image.reference).map_err(anyhow::Error::msg);
        }
    }
    parsed(text).map_err(anyhow::Error::msg)
}

fn lines<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.fold(String::new(), |text, item| text + item + "\n")
}

/// Returns a list in columns, as Docker prints it.
fn table(listed: &[Listed], now: SystemTime) -> String {
    let head = ["REPOSITORY", "TAG", "DIGEST", "KIND", "SIZE", "CREATED"].map(str::to_owned);
    let mut rows = vec![head];
    for image in listed {
        rows.push([
            image.repository.clone(),
            image.tag.clone().unwrap_or_else(|| "<none>".to_owned()),
            image.digest.chars().take("sha256:".len() + 12).collect(),
            image.kind.clone(),
            size(image.size),
            created(image, now),
        ]);
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; 6]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(|row| line(row) + "\n").collect()
}

/// Returns a size in units of 1,000, with three digits.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 999.5 {
            let digits = if unit == "B" || value >= 99.95 {
                0
            } else {
                usize::from(value < 9.995) + 1
            };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.2} GB")
}

/// Returns how long ago an image was made; one that states no time of its own (reproducible builds
/// say 1970) counts from its arrival.
fn created(image: &Listed, now: SystemTime) -> String {
    let stated = image
        .created
        .as_deref()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let stated = stated
        .map(|time| time.as_second())
        .filter(|&second| second > 0);
    let second = stated
        .and_then(|second| u64::try_from(second).ok())
        .unwrap_or(image.stored);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    ago(now.saturating_sub(second))
}

fn ago(seconds: u64) -> String {
    let steps = [
        (31_536_000, "year"),
        (2_592_000, "month"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    for (length, name) in steps {
        let count = seconds / length;
        if count > 0 {
            return format!("{count} {name}{} ago", if count == 1 { "" } else { "s" });
        }
    }
    "less than a minute ago".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_999, "1.00 MB"),
            (123_456_789, "123 MB"),
            (4_294_967_296, "4.29 GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn ages_name_their_largest_unit() {
        for (seconds, expected) in [
            (0, "less than a minute ago"),
            (60, "1 minute ago"),
            (7200, "2 hours ago"),
            (90_000, "1 day ago"),
            (63_072_000, "2 years ago"),
        ] {
            assert_eq!(ago(seconds), expected);
        }
    }

    #[test]
    fn the_table_has_its_columns_under_each_other() {
        let image = Listed {
            reference: "localhost:5000/hello:v1".to_owned(),
            repository: "localhost:5000/hello".to_owned(),
            tag: Some("v1".to_owned()),
            digest: format!("sha256:{}", "a".repeat(64)),
            kind: "component".to_owned(),
            size: 1_500_000,
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            stored: 100,
        };
        let now = UNIX_EPOCH + std::time::Duration::from_secs(220);
        let expected = "\
REPOSITORY             TAG   DIGEST                KIND        SIZE      CREATED
localhost:5000/hello   v1    sha256:aaaaaaaaaaaa   component   1.50 MB   2 minutes ago
";
        assert_eq!(table(&[image], now), expected);
    }
}
