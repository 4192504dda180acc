//! Directory trees on a real disk: copied, listed, compared.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a tree holds, by path below its root: when it last changed, and the bytes of a file.
pub type Tree = BTreeMap<PathBuf, (SystemTime, Option<Vec<u8>>)>;

/// Copies a directory with the files in it.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&source, &target);
        } else {
            std::fs::write(target, std::fs::read(source).unwrap()).unwrap();
        }
    }
}

/// Everything below a directory, the directory itself included.
pub fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    visit(root, Path::new(""), &mut found);
    found
}

fn visit(root: &Path, below: &Path, found: &mut Tree) {
    let path = root.join(below);
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    let bytes = metadata.is_file().then(|| std::fs::read(&path).unwrap());
    found.insert(below.to_path_buf(), (metadata.modified().unwrap(), bytes));
    if metadata.is_dir() {
        for entry in std::fs::read_dir(&path).unwrap() {
            visit(root, &below.join(entry.unwrap().file_name()), found);
        }
    }
}

/// The base offsets of the log files in a partition directory, in order.
pub fn log_bases(directory: &Path) -> Vec<u64> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut bases: Vec<u64> = names
        .filter_map(|name| name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok()))
        .collect();
    bases.sort_unstable();
    bases
}

/// The path of a file named after an offset.
pub fn segment_file(directory: &Path, base: u64, extension: &str) -> PathBuf {
    directory.join(format!("{base:020}.{extension}"))
}
