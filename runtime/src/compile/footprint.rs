//! Whether a program's instances fit the dense engine.

use crate::engine::COPIED_DATA_BYTES_MAX;
use wasmparser::{Parser, Payload};

/// Tells whether every memory of `component` is an ordinary one and its data are few enough to be copied
/// into each instance. Only Linux counts mappings; elsewhere data are always shared.
pub(super) fn is_small(component: &[u8]) -> bool {
    cfg!(target_os = "linux") && fits(component)
}

fn fits(component: &[u8]) -> bool {
    let mut data_bytes = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload {
            Ok(Payload::DataSection(section)) => {
                let range = section.range();
                data_bytes += (range.end - range.start) as u64;
            }
            Ok(Payload::MemorySection(section)) => {
                let mut memories = section.into_iter();
                let ordinary = memories.all(|memory| {
                    memory.is_ok_and(|ty| !ty.memory64 && !ty.shared && ty.page_size_log2.is_none())
                });
                if !ordinary {
                    return false;
                }
            }
            Ok(_) => {}
            // The compiler says what is wrong.
            Err(_) => return false,
        }
    }
    data_bytes <= COPIED_DATA_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(module: &str, expected: bool) {
        let text = format!("(component (core module {module}))");
        let component = wat::parse_str(&text).expect("the test's text is valid");
        assert_eq!(fits(&component), expected, "{text}");
    }

    #[test]
    fn few_data_in_ordinary_memories_are_copied() {
        check("", true);
        check("(memory 1)", true);
        check("(memory 17) (data (i32.const 1048576) \"hello\")", true);
        check("(memory i64 1)", false);
        check("(memory 1 1 shared)", false);
        let many = "x".repeat(65_537);
        check(
            &format!("(memory 2) (data (i32.const 0) \"{many}\")"),
            false,
        );
    }

    #[test]
    fn the_data_of_all_modules_count_together() {
        let half = "x".repeat(40_000);
        let module = format!("(core module (memory 2) (data (i32.const 0) \"{half}\"))");
        let component = wat::parse_str(format!("(component {module} {module})"));
        assert!(!fits(&component.expect("the test's text is valid")));
    }
}
