//! `status.images`: what the scheduler may count on being here (contract A.2).

use std::collections::BTreeMap;

use coracle_registry::Listed;
use k8s_openapi::api::core::v1::ContainerImage;

/// Most images that are told (a kubelet's `nodeStatusMaxImages`).
const IMAGES_MAX: usize = 50;

/// Most names of one image.
const NAMES_MAX: usize = 5;

/// Returns the largest images, each with its digests before its tags.
pub(super) fn of(listed: Vec<Listed>) -> Vec<ContainerImage> {
    let mut images: BTreeMap<String, (u64, Vec<String>, Vec<String>)> = BTreeMap::new();
    for image in listed {
        let entry = images.entry(image.digest.clone());
        let (size, digests, tags) = entry.or_insert((image.size, Vec::new(), Vec::new()));
        *size = image.size.max(*size);
        let digest = format!("{}@{}", image.repository, image.digest);
        if !digests.contains(&digest) {
            digests.push(digest);
        }
        if let Some(tag) = image.tag {
            tags.push(format!("{}:{tag}", image.repository));
        }
    }
    let mut images: Vec<_> = images.into_values().collect();
    images.sort_by_key(|(size, ..)| std::cmp::Reverse(*size));
    images.truncate(IMAGES_MAX);
    let told = images.into_iter().map(|(size, mut names, tags)| {
        names.extend(tags);
        names.truncate(NAMES_MAX);
        ContainerImage {
            names: Some(names),
            size_bytes: i64::try_from(size).ok(),
        }
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(repository: &str, tag: Option<&str>, digest: &str, size: u64) -> Listed {
        Listed {
            reference: format!("{repository}:{}", tag.unwrap_or_default()),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.to_owned(),
            kind: "component".to_owned(),
            size,
            created: None,
            stored: 0,
        }
    }

    #[test]
    fn the_largest_come_first_and_digests_before_tags() {
        let found = of(vec![
            listed("r/small", Some("1"), "sha256:a", 10),
            listed("r/big", Some("1"), "sha256:b", 20),
            listed("r/big", Some("2"), "sha256:b", 20),
            listed("r/other", None, "sha256:b", 20),
        ]);
        let names: Vec<_> = found.iter().map(|i| i.names.clone().unwrap()).collect();
        assert_eq!(
            names,
            [
                vec!["r/big@sha256:b", "r/other@sha256:b", "r/big:1", "r/big:2"],
                vec!["r/small@sha256:a", "r/small:1"],
            ]
        );
        assert_eq!(found[0].size_bytes, Some(20));
        let many = (0..60).map(|n| listed("r/x", Some("1"), &format!("sha256:{n}"), n));
        assert_eq!(of(many.collect()).len(), IMAGES_MAX);
    }
}
