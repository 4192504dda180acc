//! What every file system of this crate agrees on about names: which are allowed, and what is not a file.

use std::io;
use std::path::{Component, Path};

/// Refuses a name that leaves the root or is spelled in a second way: absolute, or with `.` or `..` in it.
/// The empty path is the root and passes.
pub(super) fn check(name: &Path) -> io::Result<()> {
    // `components` swallows inner and trailing dots and doubled slashes, so the bytes are looked at as well.
    let bytes = name.as_os_str().as_encoded_bytes();
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    let canonical =
        bytes.is_empty() || bytes.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"."));
    if plain && canonical && !bytes.contains(&0) {
        return Ok(());
    }
    Err(invalid("the name must be relative to the root, without `.`, `..` and empty parts"))
}

/// Like [`check`], and refuses the root itself.
pub(super) fn check_inner(name: &Path) -> io::Result<()> {
    if name.as_os_str().is_empty() {
        return Err(invalid("the name is empty"));
    }
    check(name)
}

/// The error for opening what is not a regular file.
pub(super) fn not_a_file(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}, not a regular file"))
}

/// The error for opening a lock file whose lock is held: closing it again would release the lock.
pub(super) fn held_lock() -> io::Error {
    invalid("it is a lock file, and its lock is held")
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_names_pass() {
        for good in ["", "a", "a/b", "..a", "a/...", ".lock"] {
            assert!(check(Path::new(good)).is_ok(), "{good:?}");
        }
        for bad in ["/", "/a", "..", "../a", "a/..", "a/../b", ".", "./a", "a/.", "a//b", "a/", "a\0b"] {
            let error = check(Path::new(bad)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!(check_inner(Path::new("")).is_err());
        assert!(check_inner(Path::new("a")).is_ok());
    }
}
