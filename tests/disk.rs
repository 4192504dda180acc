//! What only a real disk has: links, FIFOs, modes, other processes, a root that moves.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use annals::fs::{Disk, EntryKind, FileSystem, OpenMode};
use annals::{Error, Result};

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Runs one of the tests below in a process of its own, where it finds `ROLE` set, and `DIRECTORY`.
fn child(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env("ANNALS_TEST_DIRECTORY", directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The directory that the parent test names, if this is a child process.
fn directory_of_parent() -> Option<std::path::PathBuf> {
    std::env::var_os("ANNALS_TEST_DIRECTORY").map(Into::into)
}

/// Waits until a child says a word.
fn wait_for(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended without {word:?}");
    }
}

#[test]
fn only_regular_files_are_opened_and_nothing_is_followed_or_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let disk = Disk::open(directory.path()).unwrap();
    symlink(outside.path(), directory.path().join("link")).unwrap();
    symlink("nowhere", directory.path().join("dangling")).unwrap();
    symlink(std::env::temp_dir(), directory.path().join("directory-link")).unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    std::fs::create_dir(directory.path().join("directory")).unwrap();

    for (name, what) in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("directory-link", "a symbolic link"),
        ("fifo", "a FIFO"),
        ("socket", "a socket"),
        ("directory", "a directory"),
    ] {
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let error = disk.open(path(name), mode).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name} {mode:?}: {error}");
            assert_eq!(error.to_string(), format!("it is {what}, not a regular file"), "{name} {mode:?}");
        }
        let error = disk.open(path(name), OpenMode::CreateNew).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{name}");
        assert_eq!(disk.lock(path(name)).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        let kind = if name == "directory" { EntryKind::Directory } else { EntryKind::Other };
        assert_eq!(disk.metadata(path(name)).unwrap().kind, kind);
        let entry = disk.list(path("")).unwrap().into_iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry.kind, kind);
    }
    assert!(disk.list(path("directory-link")).is_err());
    assert!(disk.sync_dir(path("directory-link")).is_err());
    assert!(disk.list(path("fifo")).is_err());
    disk.remove_file(path("link")).unwrap();
    disk.remove_file(path("fifo")).unwrap();
    assert!(outside.path().exists());
    assert!(!directory.path().join("nowhere").exists());
}

#[test]
fn files_and_directories_belong_to_their_owner_whatever_the_umask() {
    let Some(directory) = directory_of_parent() else {
        let directory = tempfile::tempdir().unwrap();
        let name = "files_and_directories_belong_to_their_owner_whatever_the_umask";
        assert!(child(name, directory.path()).wait().unwrap().success());
        return;
    };
    for (number, umask) in [0, 0o022, 0o077, 0o777, 0o200].into_iter().enumerate() {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        let root = directory.join(format!("{number}/missing/root"));
        let disk = Disk::create(&root).unwrap();
        disk.create_dir(path("d")).unwrap();
        let file = disk.open(path("d/a"), OpenMode::CreateNew).unwrap();
        file.write_at(b"x", 0).unwrap();
        drop(disk.lock(path(".lock")).unwrap());
        drop(disk.open(path("d/a"), OpenMode::ReadWrite).unwrap());
        for made in [root.clone(), root.join(".."), root.join("../.."), root.join("d")] {
            assert_eq!(mode(&made), 0o700, "{made:?} under umask {umask:o}");
        }
        for made in ["d/a", ".lock"] {
            assert_eq!(mode(root.join(made)), 0o600, "{made} under umask {umask:o}");
        }
    }
}

#[test]
fn modes_of_what_exists_are_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "x").unwrap();
    std::fs::set_permissions(directory.path().join("a"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o750)).unwrap();
    let disk = Disk::create(directory.path()).unwrap();
    drop(disk.open(path("a"), OpenMode::ReadWrite).unwrap());
    drop(disk.lock(path("a")).unwrap());
    assert_eq!(mode(directory.path().join("a")), 0o640);
    assert_eq!(mode(directory.path()), 0o750);
}

#[test]
fn a_lock_keeps_other_processes_out_and_dies_with_its_own() {
    if let Some(directory) = directory_of_parent() {
        let lock = Disk::open(directory).unwrap().lock(path(".lock"));
        println!("{}", lock.as_ref().map_or("refused", |_| "locked"));
        std::io::stdout().flush().unwrap();
        // Until the parent kills this process.
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let name = "a_lock_keeps_other_processes_out_and_dies_with_its_own";
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path()).unwrap();
    let mut holder = child(name, directory.path());
    wait_for(&mut holder, "locked");
    for _ in 0..3 {
        assert_eq!(disk.lock(path(".lock")).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    holder.kill().unwrap();
    holder.wait().unwrap();

    let lock = disk.lock(path(".lock")).unwrap();
    // None of this may release the lock, though each closes or would close a descriptor of the file.
    disk.lock(path(".lock")).unwrap_err();
    disk.open(path(".lock"), OpenMode::Read).unwrap_err();
    std::fs::hard_link(directory.path().join(".lock"), directory.path().join("alias")).unwrap();
    Disk::open(directory.path()).unwrap().lock(path("alias")).unwrap_err();
    drop(disk.clone());
    let mut contender = child(name, directory.path());
    wait_for(&mut contender, "refused");
    drop(contender.stdin.take());
    contender.wait().unwrap();

    drop(lock);
    let mut heir = child(name, directory.path());
    wait_for(&mut heir, "locked");
    heir.kill().unwrap();
    heir.wait().unwrap();
}

#[test]
fn a_disk_follows_its_root_when_that_is_moved() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let disk = Disk::create(&old).unwrap();
    std::fs::rename(&old, &new).unwrap();
    drop(disk.open(path("a"), OpenMode::CreateNew).unwrap());
    disk.create_dir(path("d")).unwrap();
    disk.sync_dir(path("")).unwrap();
    assert!(new.join("a").exists() && new.join("d").exists());
    assert!(!old.exists());
}

#[test]
fn calls_fail_when_the_root_is_removed_and_nothing_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let disk = Disk::create(&root).unwrap();
    let file = disk.open(path("a"), OpenMode::CreateNew).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    for result in [
        disk.open(path("b"), OpenMode::CreateNew).map(drop),
        disk.open(path("a"), OpenMode::Read).map(drop),
        disk.list(path("")).map(drop),
        disk.create_dir(path("d")),
        disk.lock(path(".lock")).map(drop),
        disk.metadata(path("a")).map(drop),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::NotFound);
    }
    // The open file goes on as an unnamed one.
    assert_eq!(file.write_at(b"x", 0).unwrap(), 1);
    assert!(!root.exists());
}

#[test]
fn roots_that_are_no_directory_are_refused() -> Result<()> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for bad in [file.clone(), file.join("below")] {
        assert!(matches!(Disk::open(&bad), Err(Error::Io { .. })));
        assert!(matches!(Disk::create(&bad), Err(Error::Io { .. })));
    }
    let missing = directory.path().join("missing");
    let error = Disk::open(&missing).unwrap_err();
    assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
    assert!(!missing.exists());
    let long = directory.path().join("x".repeat(10_000));
    assert!(Disk::create(long).is_err());
    assert!(Disk::create("").is_ok(), "the working directory");
    // A root may be a link: it is the user's own path.
    symlink(directory.path(), directory.path().join("link")).unwrap();
    assert_eq!(Disk::open(directory.path().join("link"))?.root(), directory.path().join("link"));
    Ok(())
}

#[test]
fn roots_are_made_from_relative_paths_and_paths_with_dots() {
    let Some(directory) = directory_of_parent() else {
        let directory = tempfile::tempdir().unwrap();
        let name = "roots_are_made_from_relative_paths_and_paths_with_dots";
        assert!(child(name, directory.path()).wait().unwrap().success());
        return;
    };
    std::env::set_current_dir(&directory).unwrap();
    for root in ["a", "b/c/", "./d/./e", "f/../g"] {
        let disk = Disk::create(root).unwrap();
        drop(disk.open(path("file"), OpenMode::CreateNew).unwrap());
        assert!(Path::new(root).join("file").exists(), "{root}");
    }
}

#[test]
fn many_threads_make_the_same_root() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/b/c");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Disk::create(&root).unwrap());
        }
    });
    assert_eq!(mode(root), 0o700);
}
