//! Reads the structs of Kubernetes' Go sources, as far as their fields' tags go.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, bail};

use crate::workspace::entries;

/// The Go packages that have been read so far.
pub(super) struct Sources {
    root: PathBuf,
    packages: BTreeMap<String, Structs>,
}

/// The structs of a package, each with its fields in order.
type Structs = BTreeMap<String, Vec<Tagged>>;

/// A field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tagged {
    /// The name in JSON; empty for an embedded struct, whose fields are the outer one's in JSON.
    json: String,
    /// Whether an empty value is left out of JSON.
    omitted: bool,
    /// The number in protobuf.
    number: u32,
    type_name: String,
}

/// What the sources say about a field that the documents do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GoField {
    /// The numbers of the messages around the field and of the field itself.
    pub(super) path: Vec<u32>,
    /// Whether an absent value differs from an empty one.
    pub(super) pointer: bool,
    /// Whether an empty value is left out of JSON.
    pub(super) omitted: bool,
}

impl Sources {
    pub(super) fn new(root: &std::path::Path) -> Sources {
        Sources {
            root: root.to_owned(),
            packages: BTreeMap::new(),
        }
    }

    /// Returns the fields of a type by their JSON names, those of embedded structs among them.
    pub(super) fn fields(&mut self, full_name: &str) -> anyhow::Result<BTreeMap<String, GoField>> {
        let name = full_name.strip_prefix("io.k8s.").unwrap_or(full_name);
        let (package, name) = name.rsplit_once('.').context("a type has a package")?;
        let package = package.replace('.', "/");
        let mut found = BTreeMap::new();
        self.collect(&package, name, &[], &mut found)?;
        Ok(found)
    }

    fn collect(
        &mut self,
        package: &str,
        name: &str,
        outer: &[u32],
        found: &mut BTreeMap<String, GoField>,
    ) -> anyhow::Result<()> {
        let Some(fields) = self.package(package)?.get(name).cloned() else {
            bail!("the sources of `{package}` have no struct `{name}`");
        };
        for field in fields {
            let path = [outer, &[field.number]].concat();
            if field.json.is_empty() {
                self.collect(package, &field.type_name, &path, found)?;
            } else {
                let pointer = field.type_name.starts_with('*');
                let omitted = field.omitted;
                let field_of_go = GoField {
                    path,
                    pointer,
                    omitted,
                };
                found.insert(field.json, field_of_go);
            }
        }
        Ok(())
    }

    fn package(&mut self, package: &str) -> anyhow::Result<&Structs> {
        if !self.packages.contains_key(package) {
            let mut structs = Structs::new();
            for (name, path) in entries(&self.root.join(package))? {
                let generated = name.starts_with("zz_") || name.starts_with("generated");
                if name.ends_with(".go") && !name.ends_with("_test.go") && !generated {
                    let text = fs::read_to_string(&path)
                        .with_context(|| format!("failed to read `{}`", path.display()))?;
                    structs.extend(parse(&text));
                }
            }
            self.packages.insert(package.to_owned(), structs);
        }
        Ok(&self.packages[package])
    }
}

/// Returns the structs of a source file whose fields carry tags.
fn parse(text: &str) -> Structs {
    let mut structs = Structs::new();
    let mut open: Option<&str> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("type ") {
            open = name.strip_suffix(" struct {");
            if let Some(name) = open {
                structs.insert(name.to_owned(), Vec::new());
            }
        } else if line.starts_with('}') {
            open = None;
        } else if let (Some(name), Some(field)) = (open, tagged(line)) {
            structs.entry(name.to_owned()).or_default().push(field);
        }
    }
    structs
}

/// Reads `Name Type` or an embedded `Type` with its tags; without a number it is no field of ours.
fn tagged(line: &str) -> Option<Tagged> {
    let line = line.trim_start();
    if line.starts_with("//") {
        return None;
    }
    let (declared, tags) = line.split_once('`')?;
    let number = tag(tags, "protobuf")?.split(',').nth(1)?.parse().ok()?;
    let mut json = tag(tags, "json")?.split(',');
    let name = json.next()?.to_owned();
    let type_name = declared.split_whitespace().last()?.to_owned();
    Some(Tagged {
        json: name,
        omitted: json.any(|option| matches!(option, "omitempty" | "omitzero")),
        number,
        type_name,
    })
}

fn tag<'a>(tags: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = tags.split_once(&format!("{name}:\""))?;
    Some(value.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_its_number_and_says_whether_it_is_a_pointer() {
        let text = "
type Probe struct {
	// comment `json:\"no\" protobuf:\"bytes,9,opt\"`
	ProbeHandler `json:\",inline\" protobuf:\"bytes,1,opt,name=handler\"`
	Period *int64 `json:\"period,omitempty\" protobuf:\"varint,7,opt,name=period\"`
	metav1.TypeMeta `json:\",inline\"`
}
";
        let field = |json: &str, number, type_name: &str| Tagged {
            json: json.to_owned(),
            omitted: !json.is_empty(),
            number,
            type_name: type_name.to_owned(),
        };
        let probe = vec![field("", 1, "ProbeHandler"), field("period", 7, "*int64")];
        assert_eq!(parse(text), BTreeMap::from([("Probe".to_owned(), probe)]));
    }
}
