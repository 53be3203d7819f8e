use std::io::Write;

use super::*;

/// Builds tars that no honest library would write.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: u8, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(7);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.as_mut_bytes()[156] = kind;
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", data)
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let len = (rest..)
                .find(|len| len.to_string().len() + rest == *len)
                .expect("a length");
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(b'x', b"pax", b"", &data)
    }

    fn read(&self) -> Result<LayerIndex, TarFault> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&self.0).expect("written");
        std::io::Seek::rewind(&mut file).expect("rewound");
        read(&mut file)
    }
}

fn check(tar: Tar, expected: Result<&[&str], &str>) {
    match (tar.read(), expected) {
        (Ok(index), Ok(paths)) => {
            let found: Vec<&str> = index
                .entries
                .iter()
                .map(|entry| entry.path.as_str())
                .collect();
            assert_eq!(found, paths);
        }
        (Err(fault), Err(words)) => {
            assert!(
                fault.to_string().contains(words),
                "`{fault}` does not say `{words}`"
            );
        }
        (found, expected) => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn names_are_made_plain() {
    let tar = Tar::default()
        .entry(b'5', b"./", b"", b"")
        .entry(b'5', b"/", b"", b"")
        .entry(b'5', b"./etc/", b"", b"")
        .file("etc//hosts", b"x")
        .file("old-folder/", b"");
    check(tar, Ok(&["etc", "etc/hosts", "old-folder"]));
    check(Tar::default(), Ok(&[]));
}

#[test]
fn names_that_climb_are_refused_wherever_they_stand() {
    let climbs = Err("climbs out with `..`");
    for name in ["..", "../a", "a/..", "a/../b", "./../a"] {
        check(Tar::default().file(name, b""), climbs);
        check(
            Tar::default()
                .pax(&[("path", name.as_bytes())])
                .file("honest", b""),
            climbs,
        );
        check(
            Tar::default()
                .entry(b'L', b"long", b"", name.as_bytes())
                .file("honest", b""),
            climbs,
        );
        check(
            Tar::default().entry(b'1', b"link", name.as_bytes(), b""),
            climbs,
        );
    }
    check(Tar::default().file("/etc/passwd", b""), Err("absolute"));
    check(
        Tar::default().entry(b'1', b"link", b"/etc/passwd", b""),
        Err("absolute"),
    );
    // A symbolic link may say anything: it is followed inside the image only.
    check(
        Tar::default().entry(b'2', b"link", b"../../etc", b""),
        Ok(&["link"]),
    );
}

#[test]
fn names_that_no_file_system_takes_are_refused() {
    check(
        Tar::default().pax(&[("path", b"a\0b")]).file("x", b""),
        Err("NUL"),
    );
    check(
        Tar::default()
            .pax(&[("linkpath", b"a\0b")])
            .entry(b'2', b"x", b"y", b""),
        Err("NUL"),
    );
    check(
        Tar::default().pax(&[("path", &[b'a'; 256])]).file("x", b""),
        Err("too long"),
    );
    check(
        Tar::default()
            .pax(&[("path", &b"ab/".repeat(1400))])
            .file("x", b""),
        Err("too long"),
    );
    check(Tar::default().entry(b'2', b"link", b"", b""), Err("empty"));
    check(
        Tar::default()
            .entry(b'L', b"long", b"", &vec![b'a'; 2 << 20])
            .file("x", b""),
        Err("extended header"),
    );
}

/// WASI's paths are text, so nobody could ask for these.
#[test]
fn what_no_guest_could_name_or_open_is_left_out() {
    let tar = Tar::default()
        .file("a", b"")
        .entry(b'0', b"caf\xe9", b"", b"x")
        .entry(b'3', b"dev/null", b"", b"")
        .entry(b'4', b"dev/sda", b"", b"")
        .entry(b'6', b"pipe", b"", b"");
    check(tar, Ok(&["a"]));
}

#[test]
fn two_readers_cannot_see_two_archives() {
    check(
        Tar::default().pax(&[("size", b"1024")]).file("a", b"12345"),
        Err("two different sizes"),
    );
    check(
        Tar::default().pax(&[("size", b"5")]).file("a", b"12345"),
        Ok(&["a"]),
    );
    check(
        Tar::default()
            .pax(&[("GNU.sparse.major", b"1")])
            .file("a", b""),
        Err("sparse"),
    );
    check(Tar::default().entry(b'S', b"a", b"", b""), Err("sparse"));
}

#[test]
fn an_archive_that_is_damaged_or_ends_early_is_refused() {
    let mut damaged = Tar::default().file("a", b"x");
    damaged.0[10] ^= 1;
    check(damaged, Err("not a readable tar"));
    let mut cut = Tar::default().file("a", &[1; 2000]);
    cut.0.truncate(1000);
    check(cut, Err("ends inside an entry"));
    check(
        Tar(b"hello, this is no archive".repeat(40)),
        Err("not a readable tar"),
    );
}

#[test]
fn whiteouts_are_told_apart_from_files() {
    let tar = Tar::default()
        .file("etc/.wh.passwd", b"")
        .file(".wh.tmp", b"")
        .file("var/.wh..wh..opq", b"")
        .file(".wh..wh.plnk", b"")
        .file("kept", b"");
    let index = tar.read().expect("an index");
    assert_eq!(index.whiteouts, ["etc/passwd", "tmp"]);
    assert_eq!(index.opaque, ["var"]);
    assert_eq!(index.entries.len(), 1);
    for name in [".wh.", ".wh..", ".wh..."] {
        check(
            Tar::default().file(&format!("a/{name}"), b""),
            Err("climbs"),
        );
    }
}

#[test]
fn an_entry_keeps_everything_its_headers_say() {
    let long = "d/".repeat(100) + "file";
    let tar = Tar::default()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"12.9"),
            ("uid", b"3000000"),
            ("gid", b"4"),
        ])
        .file("short", b"\0asm....")
        .file("plain", b"x");
    let index = tar.read().expect("an index");
    let [first, second] = index.entries.as_slice() else {
        panic!("{index:?}")
    };
    assert_eq!(
        (first.path.as_str(), first.mtime, first.uid, first.gid),
        (long.as_str(), 12, 3_000_000, 4)
    );
    let LayerKind::File { offset, len, wasm } = &first.kind else {
        panic!("{first:?}")
    };
    assert_eq!(&tar.0[*offset as usize..][..*len as usize], b"\0asm....");
    assert_eq!(*wasm, Some(Digest::of(b"\0asm....")));
    // What one entry's headers say does not leak into the next.
    assert_eq!(
        (second.path.as_str(), second.mtime, second.mode),
        ("plain", 7, 0o644)
    );
    let stored = serde_json::to_vec(&index).expect("json");
    assert_eq!(
        serde_json::from_slice::<LayerIndex>(&stored).expect("json"),
        index
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(0u8.., 0..2048), at in 0usize..1024) {
        let good = Tar::default().pax(&[("path", b"a/b")]).file("x", b"12345");
        let _ = Tar(bytes.clone()).read();
        let mut mixed = good.0;
        let at = at.min(mixed.len());
        mixed.splice(at..at, bytes.drain(..));
        let _ = Tar(mixed).read();
    }
}
