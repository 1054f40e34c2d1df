//! The house's walls: which package may depend on which, and what no package may have.
//!
//! Allowed edges among our own packages: kernels <- tensor <- models <- adapters; models <- train; stats knows none; all
//! <- cli. What is not in `LAYERS` is forbidden, so a new package has to be written down there.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{Dependency, DependencyKind, MetadataCommand, Package, PackageName};

/// Every package of the workspace and those of ours that it may use.
const LAYERS: [(&str, &[&str]); 12] = [
    ("dora-kernels", &[]),
    ("dora-kernels-cust", &["dora-kernels"]),
    ("dora-tensor", &["dora-kernels"]),
    ("dora-models", &["dora-kernels", "dora-tensor"]),
    ("dora-adapters", &["dora-kernels", "dora-tensor", "dora-models"]),
    ("dora-train", &["dora-kernels", "dora-tensor", "dora-models"]),
    ("dora-stats", &[]),
    ("dora-gpu-check", &["dora-kernels", "dora-tensor", "dora-models"]),
    ("dora-cli", &["dora-kernels", "dora-tensor", "dora-models", "dora-adapters", "dora-train", "dora-stats"]),
    (
        "dora-tests",
        &["dora-kernels", "dora-tensor", "dora-models", "dora-adapters", "dora-train", "dora-gpu-check", "dora-cli"],
    ),
    ("dora-benches", &["dora-kernels", "dora-tensor", "dora-models", "dora-adapters", "dora-train", "dora-cli"]),
    ("xtask", &["dora-kernels", "dora-tensor", "dora-models", "dora-gpu-check"]),
];

/// The packages that may report errors with anyhow.
const ANYHOW: [&str; 3] = ["dora-cli", "dora-gpu-check", "xtask"];

#[test]
fn packages_keep_to_their_layers() {
    let broken: Vec<String> = packages().iter().flat_map(package_faults).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_package_is_in_the_table_once() {
    let packages = packages();
    let mut found: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut listed: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    found.sort_unstable();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

#[test]
fn every_source_file_says_what_it_is() {
    let mut files = Vec::new();
    for package in packages() {
        let folder = package.manifest_path.parent().expect("a manifest lies in a folder");
        sources(folder.as_std_path(), &mut files);
    }
    assert!(files.len() >= LAYERS.len(), "found {} source files", files.len());
    let broken: Vec<String> =
        files.iter().filter_map(|path| source_fault(path, &fs::read_to_string(path).unwrap())).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn planted_violations_are_found() {
    let all = packages();
    let packages: HashMap<&str, &Package> = all.iter().map(|package| (package.name.as_str(), package)).collect();
    let some_edge = packages["dora-adapters"].dependencies.iter().find(|edge| edge.name == "dora-models").unwrap();

    for (from, to, kind) in [
        ("dora-train", "dora-adapters", DependencyKind::Normal),
        ("dora-models", "dora-adapters", DependencyKind::Development),
        ("dora-tensor", "dora-models", DependencyKind::Build),
        ("dora-kernels", "dora-tensor", DependencyKind::Normal),
        ("dora-stats", "dora-train", DependencyKind::Normal),
        ("dora-train", "dora-stats", DependencyKind::Normal),
        ("dora-adapters", "dora-cli", DependencyKind::Normal),
        ("dora-cli", "xtask", DependencyKind::Normal),
        ("dora-models", "anyhow", DependencyKind::Normal),
        ("dora-train", "anyhow", DependencyKind::Development),
    ] {
        let faults = package_faults(&with_edge(packages[from], some_edge, to, kind));
        assert_eq!(faults, [format!("{from} depends on {to}, which its layer forbids")]);
    }
    for (from, to) in [("dora-cli", "anyhow"), ("dora-train", "dora-tensor"), ("dora-tests", "dora-adapters")] {
        assert!(package_faults(&with_edge(packages[from], some_edge, to, DependencyKind::Normal)).is_empty());
    }

    let mut featured = packages["dora-tensor"].clone();
    featured.features.insert("cuda".to_owned(), vec![]);
    assert_eq!(package_faults(&featured), ["dora-tensor defines the cargo feature \"cuda\", expected none"]);

    let mut unknown = packages["dora-tensor"].clone();
    unknown.name = PackageName::new("dora-extra".to_owned());
    assert_eq!(package_faults(&unknown), ["dora-extra is in no layer: add it to LAYERS"]);

    assert!(source_fault(Path::new("src/a.rs"), "//! Says it.\n").is_none());
    assert!(source_fault(Path::new("src/a.rs"), "").is_some());
    assert!(source_fault(Path::new("src/a.rs"), "// Says it.\n").is_some());
    assert!(source_fault(Path::new("src/utils.rs"), "//! Says it.\n").is_some());
    assert!(source_fault(Path::new("src/utils/mod.rs"), "//! Says it.\n").is_some());
}

/// What is wrong with a package's edges and features. Optional, build and development edges count too.
fn package_faults(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
        return vec![format!("{name} is in no layer: add it to LAYERS")];
    };
    let ours = |other: &str| other.starts_with("dora-") || LAYERS.iter().any(|(layer, _)| *layer == other);
    let forbidden = |other: &str| match other {
        "anyhow" => !ANYHOW.contains(&name),
        other => ours(other) && !allowed.contains(&other),
    };
    let edges = package.dependencies.iter().filter(|edge| forbidden(&edge.name));
    let edges = edges.map(|edge| format!("{name} depends on {}, which its layer forbids", edge.name));
    let features = package.features.keys();
    edges.chain(features.map(|key| format!("{name} defines the cargo feature {key:?}, expected none"))).collect()
}

/// What is wrong with a source file.
fn source_fault(path: &Path, content: &str) -> Option<String> {
    if path.components().any(|part| part.as_os_str() == "utils.rs" || part.as_os_str() == "utils") {
        return Some(format!("{}: is named utils, expected a name for what it holds", path.display()));
    }
    let opens = content.starts_with("//! ");
    (!opens).then(|| format!("{}: opens without //!, expected a sentence on what the file is", path.display()))
}

/// The Rust files of a folder and its folders.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The package with one more edge, shaped like `edge`.
fn with_edge(package: &Package, edge: &Dependency, to: &str, kind: DependencyKind) -> Package {
    let mut package = package.clone();
    let mut edge = edge.clone();
    (edge.name, edge.kind) = (to.to_owned(), kind);
    package.dependencies.push(edge);
    package
}

/// The packages of the workspace, and the one that is outside of it because it links libcuda.
fn packages() -> Vec<Package> {
    let outside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/dora-kernels-cust/Cargo.toml");
    let of = |mut command: MetadataCommand| command.no_deps().exec().expect("cargo metadata answers").packages;
    let mut packages = of(MetadataCommand::new());
    let mut command = MetadataCommand::new();
    command.manifest_path(outside);
    packages.extend(of(command));
    packages
}
