//! What flags of `coracle node` mean whose values have a form of their own, that of kubelet's.

use anyhow::{bail, ensure};
use coracle_kubelet_shim::DiskLeast;
use k8s_openapi::api::core::v1::Taint;

/// Parses `key=value`.
pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a label is `key=value`".to_owned()),
    }
}

/// Reads a threshold as kubelet's flag has it; the other signals have fixed ones.
pub(super) fn parse_eviction(text: &str) -> Result<DiskLeast, String> {
    const SIGNAL: &str = "nodefs.available";
    let Some(quantity) = text
        .strip_prefix(SIGNAL)
        .and_then(|rest| rest.strip_prefix('<'))
    else {
        return Err(format!("only `{SIGNAL}<QUANTITY` can be set"));
    };
    let wrong = || format!("`{quantity}` is neither a percentage nor a number of bytes");
    if let Some(percent) = quantity.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|percent| *percent <= 100);
        return percent.map(DiskLeast::Percent).ok_or_else(wrong);
    }
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let unit = units
        .iter()
        .find_map(|(unit, shift)| Some((quantity.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((quantity, 0));
    let number: Option<u64> = number.parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.map(DiskLeast::Bytes).ok_or_else(wrong)
}

/// Parses `key=value:Effect` or `key:Effect`.
pub(super) fn parse_taint(text: &str) -> Result<Taint, String> {
    let parsed = || -> anyhow::Result<Taint> {
        let Some((rest, effect)) = text.rsplit_once(':') else {
            bail!("a taint is `key=value:Effect`");
        };
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        ensure!(
            effects.contains(&effect),
            "the effect of a taint is one of {}",
            effects.join(", ")
        );
        let (key, value) = match rest.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (rest, None),
        };
        ensure!(!key.is_empty(), "a taint needs a key");
        Ok(Taint {
            key: key.to_owned(),
            value,
            effect: effect.to_owned(),
            time_added: None,
        })
    };
    parsed().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_as_kubelets_read_them() {
        let rows = [
            ("a=b:NoSchedule", Some(("a", Some("b"), "NoSchedule"))),
            ("a.b/c:NoExecute", Some(("a.b/c", None, "NoExecute"))),
            (
                "a=:PreferNoSchedule",
                Some(("a", Some(""), "PreferNoSchedule")),
            ),
            ("a=b", None),
            ("a=b:Never", None),
            (":NoSchedule", None),
        ];
        for (text, expected) in rows {
            let parsed = parse_taint(text).ok();
            let parsed = parsed.as_ref().map(|taint| {
                (
                    taint.key.as_str(),
                    taint.value.as_deref(),
                    taint.effect.as_str(),
                )
            });
            assert_eq!(parsed, expected, "for {text:?}");
        }
    }

    #[test]
    fn a_threshold_of_the_disk_is_a_percentage_or_bytes() {
        assert_eq!(
            parse_eviction("nodefs.available<10%"),
            Ok(DiskLeast::Percent(10))
        );
        assert_eq!(
            parse_eviction("nodefs.available<2Gi"),
            Ok(DiskLeast::Bytes(2 << 30))
        );
        assert_eq!(
            parse_eviction("nodefs.available<4096"),
            Ok(DiskLeast::Bytes(4096))
        );
        for bad in [
            "nodefs.available<101%",
            "nodefs.available<99999999Ti",
            "nodefs.available<-1",
            "nodefs.available=1%",
            "memory.available<1Gi",
            "",
        ] {
            assert!(parse_eviction(bad).is_err(), "{bad}");
        }
    }
}
