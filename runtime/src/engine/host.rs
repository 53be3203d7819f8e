//! What the machine allows one process.

/// Bits of an address that 64-bit processors offer to programs in the common configurations.
const ADDRESS_BITS: u32 = 47;

/// The limits that bind the number of instances; absent where the system has no such limit.
#[derive(Clone, Debug)]
pub(super) struct HostLimits {
    pub(super) max_map_count: Option<u64>,
    pub(super) address_space_limit: Option<u64>,
    pub(super) address_space: u64,
    /// What somebody set below the machine's own limit.
    pub(super) mappings_max: Option<u64>,
}

impl HostLimits {
    /// Reads the limits of this process. On systems without `/proc` only the address width counts.
    pub(super) fn read() -> Self {
        let max_map_count = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let address_space_limit = std::fs::read_to_string("/proc/self/limits")
            .ok()
            .and_then(|text| soft_limit(&text, "Max address space"));
        Self {
            max_map_count,
            address_space_limit,
            address_space: 1 << ADDRESS_BITS,
            mappings_max: None,
        }
    }
}

/// Finds the soft limit `name` in the text of `/proc/self/limits`; `unlimited` is none.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::soft_limit;

    #[test]
    fn soft_limits_are_read_from_the_kernels_table() {
        let table = "Limit                     Soft Limit           Hard Limit           Units\n\
                     Max address space         17179869184          unlimited            bytes\n\
                     Max open files            unlimited            524288               files\n";
        assert_eq!(soft_limit(table, "Max address space"), Some(17_179_869_184));
        assert_eq!(soft_limit(table, "Max open files"), None);
        assert_eq!(soft_limit(table, "Max cpu time"), None);
    }
}
