//! ARCHITECTURE.md's invariants, as far as a machine can look: dependency directions, who names KVM, who writes the database,
//! how long files are, which fuzz targets are built.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crate, and those of ours that it may depend on.
const DIRECTIONS: [(&str, &[&str]); 11] = [
    ("events", &[]),
    ("vifport", &[]),
    ("honeyvmm", &["events", "vifport"]),
    ("introspect", &["events", "honeyvmm"]),
    ("decoys", &["events", "honeyvmm"]),
    ("netwatch", &["events", "vifport"]),
    ("fim", &["events"]),
    ("logsink", &["events"]),
    ("forensics", &["honeyvmm", "introspect", "logsink", "events"]),
    ("dashboard", &["logsink", "forensics", "events"]),
    ("bench", &["decoys", "introspect", "netwatch"]),
];
/// Lines of code in one file, tests not counted.
const CODE_LINES_MAX: usize = 500;
/// Files of honeyvmm that may name kvm-ioctls.
const KVM_FILES_MAX: usize = 4;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn sources() -> Vec<PathBuf> {
    let crates = DIRECTIONS.iter().map(|(name, _)| root().join(name).join("src"));
    crates.chain([root().join("src")]).flat_map(|folder| rust_files(&folder)).collect()
}

/// Names in `[dependencies]` of a crate.
fn dependencies(name: &str) -> Vec<String> {
    let manifest: toml::Table = read(&root().join(name).join("Cargo.toml")).parse().unwrap();
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    dependencies.into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

#[test]
fn dependencies_point_one_way() {
    let ours: Vec<&str> = DIRECTIONS.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in DIRECTIONS {
        let wrong: Vec<String> = dependencies(name)
            .into_iter()
            .filter(|dependency| {
                ours.contains(&dependency.as_str()) && !allowed.contains(&dependency.as_str())
            })
            .collect();
        assert!(wrong.is_empty(), "{name} depends on {wrong:?}");
    }
}

#[test]
fn events_has_neither_runtime_nor_database() {
    let wrong = ["tokio", "sqlx", "async-std", "rusqlite", "smol"];
    assert!(dependencies("events").iter().all(|dependency| !wrong.contains(&dependency.as_str())));
}

#[test]
fn only_logsink_knows_the_database() {
    let knowing: Vec<&str> = DIRECTIONS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| dependencies(name).iter().any(|d| d == "sqlx"))
        .collect();
    assert_eq!(knowing, ["logsink"]);
    let root_manifest: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    assert!(root_manifest["dependencies"].get("sqlx").is_none());
}

#[test]
fn kvm_is_named_in_few_files_of_honeyvmm() {
    let naming: Vec<PathBuf> = rust_files(&root().join("honeyvmm/src"))
        .into_iter()
        .filter(|path| {
            read(path).lines().any(|line| line.contains("kvm_ioctls") && !line.trim_start().starts_with("//"))
        })
        .collect();
    assert!(naming.len() <= KVM_FILES_MAX, "{naming:#?}");
}

/// Lines that are neither empty, nor comment, nor below `#[cfg(test)]`.
fn code_lines(text: &str) -> usize {
    let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    code.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count()
}

#[test]
fn no_file_is_longer_than_two_readings() {
    let long: BTreeMap<PathBuf, usize> = sources()
        .into_iter()
        .filter(|path| {
            !path.ends_with("tests.rs") && !path.components().any(|part| part.as_os_str() == "tests")
        })
        .map(|path| (path.clone(), code_lines(&read(&path))))
        .filter(|(_, lines)| *lines > CODE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|path| {
            !path.ends_with("tests.rs") && !path.components().any(|part| part.as_os_str() == "tests")
        })
        .filter(|path| !read(path).starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn no_file_is_a_drawer() {
    let drawers = ["utils.rs", "common.rs", "helpers.rs", "misc.rs", "types.rs", "manager.rs"];
    let found: Vec<PathBuf> =
        sources().into_iter().filter(|path| drawers.iter().any(|drawer| path.ends_with(drawer))).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_fuzz_target_is_built() {
    let fuzz = root().join("fuzz");
    let manifest: toml::Table = read(&fuzz.join("Cargo.toml")).parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap();
    let named: BTreeSet<PathBuf> = bins.iter().map(|bin| fuzz.join(bin["path"].as_str().unwrap())).collect();
    let written: BTreeSet<PathBuf> = rust_files(&fuzz.join("fuzz_targets")).into_iter().collect();
    assert_eq!(named, written);
    // scripts/fuzz asks for a target by its file's name.
    for bin in bins {
        assert_eq!(
            bin["path"].as_str().unwrap(),
            format!("fuzz_targets/{}.rs", bin["name"].as_str().unwrap())
        );
    }
}
