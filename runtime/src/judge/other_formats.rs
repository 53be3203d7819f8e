//! Names what people hand in instead of Wasm, so that the message says what they did.

/// First bytes of other formats, and their names.
const MAGIC: [(&[u8], &str); 14] = [
    (
        b"\x7fELF",
        "an ELF file, a native program or library of Linux or another Unix",
    ),
    (
        b"\xfe\xed\xfa\xce",
        "a Mach-O file, a native program of macOS",
    ),
    (
        b"\xfe\xed\xfa\xcf",
        "a Mach-O file, a native program of macOS",
    ),
    (
        b"\xce\xfa\xed\xfe",
        "a Mach-O file, a native program of macOS",
    ),
    (
        b"\xcf\xfa\xed\xfe",
        "a Mach-O file, a native program of macOS",
    ),
    (
        b"\xca\xfe\xba\xbe",
        "a universal Mach-O file or a Java class",
    ),
    (b"MZ", "a native program of Windows"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"#!", "a script"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"!<arch>", "an `ar` archive"),
];

/// Where a tar header keeps its magic.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// Enough of a text to recognise it by.
const TEXT_PREFIX: usize = 512;

/// Says what `bytes` look like, with an article.
pub(super) fn name(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        return "an empty file";
    }
    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return name;
    }
    if bytes
        .get(TAR_MAGIC.0..)
        .is_some_and(|rest| rest.starts_with(TAR_MAGIC.1))
    {
        return "a tar archive";
    }
    match text_prefix(bytes).map(str::trim_start) {
        Some(text) if text.starts_with("(module") || text.starts_with("(component") => {
            "WebAssembly text; turn it into a binary, for example with `wasm-tools parse`"
        }
        Some(text) if text.starts_with('{') => "JSON text",
        Some(_) => "text",
        None => "of no format that is known here",
    }
}

/// Returns the first characters if they are printable text, cut between two characters.
fn text_prefix(bytes: &[u8]) -> Option<&str> {
    let head = &bytes[..bytes.len().min(TEXT_PREFIX)];
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    text.chars()
        .all(|c| !c.is_control() || c.is_whitespace())
        .then_some(text)
}
