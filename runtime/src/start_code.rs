//! The code that only a start needs.
//!
//! Of each place that a start touches the kernel maps 64 KB of the program's file, and it keeps them mapped as
//! long as nothing else wants the memory: more than half of what an idle process holds. Given back once, the pages
//! stay in the page cache, where they are the first to go when memory is short, and what is used again is
//! mapped again by a fault of a microsecond.

/// Unmaps the program's own code, which comes back page by page as it is used.
///
/// Where the system says nothing about its mappings, all of it stays.
#[cfg(target_os = "linux")]
pub fn release_start_code() {
    let Ok(path) = std::env::current_exe() else {
        return;
    };
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let Some(path) = path.to_str() else {
        return;
    };
    for code in maps.lines().filter_map(|line| own_code(line, path)) {
        // SAFETY: the range is mapped privately from the program's file, was never writable and is not
        // written by the loader (the program is position-independent), and the kernel lets nobody write the
        // file of a program that runs. So every page can be read again as it is.
        #[expect(unsafe_code, reason = "pages of the program's file are given back")]
        let result = unsafe {
            libc::madvise(
                std::ptr::with_exposed_provenance_mut(code.start),
                code.len(),
                libc::MADV_DONTNEED,
            )
        };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, "the code of the start stays mapped");
        }
    }
}

/// Returns the addresses of a line of `/proc/self/maps`, as proc_pid_maps(5) writes it, where it is private code
/// of the file at `path`.
#[cfg(target_os = "linux")]
fn own_code(line: &str, path: &str) -> Option<std::ops::Range<usize>> {
    let (fields, name) = line.split_once('/')?;
    if name != path.strip_prefix('/')? {
        return None;
    }
    let mut fields = fields.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" {
        return None;
    }
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// Other systems do not tell what is mapped in a file to read.
#[cfg(not(target_os = "linux"))]
pub fn release_start_code() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_is_given_back() {
        let code = "55d0c0a00000-55d0c3000000 r-xp 01a00000 fe:00 1234      /opt/our tools/coracle";
        let path = "/opt/our tools/coracle";
        assert_eq!(
            own_code(code, path),
            Some(0x55d0_c0a0_0000..0x55d0_c300_0000)
        );
        for other in [
            "55d0c0a00000-55d0c3000000 r--p 01a00000 fe:00 1234      /opt/our tools/coracle",
            "55d0c0a00000-55d0c3000000 rw-p 01a00000 fe:00 1234      /opt/our tools/coracle",
            "55d0c0a00000-55d0c3000000 r-xs 01a00000 fe:00 1234      /opt/our tools/coracle",
            "55d0c0a00000-55d0c3000000 r-xp 01a00000 fe:00 1234      /opt/our tools/coracle (deleted)",
            "7f00c0a00000-7f00c3000000 r-xp 01a00000 fe:00 1234      /usr/lib/libc.so.6",
            "7f00c0a00000-7f00c3000000 r-xp 00000000 00:00 0 ",
            "7ffe0000-7fff0000 r-xp 00000000 00:00 0                  [vdso]",
            "",
        ] {
            assert_eq!(own_code(other, path), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on_without_its_code() {
        let path = std::env::current_exe().expect("the test's program");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("mappings");
        let path = path.to_str().expect("a name of text");
        assert!(
            maps.lines().any(|line| own_code(line, path).is_some()),
            "{maps}"
        );
        release_start_code();
        assert_eq!(format!("{:?}", [1.5, 2.5]), "[1.5, 2.5]");
    }
}
