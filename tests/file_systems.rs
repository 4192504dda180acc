//! The contract of `FileSystem`, on the real disk and on the simulated one, and that both behave alike.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals::fs::{Disk, EntryKind, File, FileSystem, OpenMode, SimulatedDisk};
use proptest::prelude::*;

/// Runs a test on both file systems, each empty.
fn on_each(test: impl Fn(&dyn FileSystem)) {
    let directory = tempfile::tempdir().unwrap();
    test(&Disk::open(directory.path()).unwrap());
    test(&SimulatedDisk::new(1));
}

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn create(fs: &dyn FileSystem, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = fs.open(path(name), OpenMode::CreateNew).unwrap();
    assert_eq!(file.write_at(bytes, 0).unwrap(), bytes.len());
    file
}

fn content(fs: &dyn FileSystem, name: &str) -> Vec<u8> {
    let file = fs.open(path(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

fn list(fs: &dyn FileSystem, directory: &str) -> Vec<(String, EntryKind)> {
    let entries = fs.list(path(directory)).unwrap().into_iter();
    let mut entries: Vec<_> = entries.map(|entry| (entry.name.into_string().unwrap(), entry.kind)).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

#[track_caller]
fn fails<T>(result: io::Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("expected {kind:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

#[test]
fn a_name_is_created_once() {
    on_each(|fs| {
        create(fs, "a", b"first");
        fails(fs.open(path("a"), OpenMode::CreateNew), ErrorKind::AlreadyExists);
        assert_eq!(content(fs, "a"), b"first");
        fs.create_dir(path("d")).unwrap();
        fails(fs.create_dir(path("d")), ErrorKind::AlreadyExists);
        fails(fs.create_dir(path("a")), ErrorKind::AlreadyExists);
        fails(fs.open(path("d"), OpenMode::CreateNew), ErrorKind::AlreadyExists);
    });
}

#[test]
fn only_what_exists_is_opened() {
    on_each(|fs| {
        create(fs, "file", b"");
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            fails(fs.open(path("missing"), mode), ErrorKind::NotFound);
            fails(fs.open(path("missing/a"), mode), ErrorKind::NotFound);
            fails(fs.open(path("file/a"), mode), ErrorKind::NotADirectory);
        }
        fails(fs.open(path("missing/a"), OpenMode::CreateNew), ErrorKind::NotFound);
        fails(fs.create_dir(path("missing/a")), ErrorKind::NotFound);
        fails(fs.list(path("missing")), ErrorKind::NotFound);
        fails(fs.list(path("file")), ErrorKind::NotADirectory);
        fails(fs.sync_dir(path("missing")), ErrorKind::NotFound);
        fails(fs.metadata(path("missing")), ErrorKind::NotFound);
    });
}

#[test]
fn names_do_not_leave_the_root() {
    on_each(|fs| {
        create(fs, "good", b"");
        let absolute = std::env::temp_dir().join("annals-must-not-exist");
        for bad in [path(".."), path("../a"), path("a/../b"), path("."), path("./a"), &absolute, path("a\0")]
        {
            fails(fs.open(bad, OpenMode::CreateNew), ErrorKind::InvalidInput);
            fails(fs.open(bad, OpenMode::Read), ErrorKind::InvalidInput);
            fails(fs.list(bad), ErrorKind::InvalidInput);
            fails(fs.metadata(bad), ErrorKind::InvalidInput);
            fails(fs.create_dir(bad), ErrorKind::InvalidInput);
            fails(fs.rename(path("good"), bad), ErrorKind::InvalidInput);
            fails(fs.rename(bad, path("good")), ErrorKind::InvalidInput);
            fails(fs.remove_file(bad), ErrorKind::InvalidInput);
            fails(fs.remove_dir(bad), ErrorKind::InvalidInput);
            fails(fs.sync_dir(bad), ErrorKind::InvalidInput);
            fails(fs.lock(bad), ErrorKind::InvalidInput);
        }
        fails(fs.open(path(""), OpenMode::Read), ErrorKind::InvalidInput);
        fails(fs.remove_dir(path("")), ErrorKind::InvalidInput);
        assert!(!absolute.exists());
        assert_eq!(list(fs, ""), [("good".into(), EntryKind::File)]);
    });
}

#[test]
fn bytes_are_where_they_were_written() {
    on_each(|fs| {
        let file = create(fs, "a", b"0123");
        assert_eq!(file.write_at(b"89", 8).unwrap(), 2);
        assert_eq!(file.size().unwrap(), 10);
        assert_eq!(content(fs, "a"), b"0123\0\0\0\x0089");
        let mut buffer = [b'x'; 6];
        assert_eq!(file.read_at(&mut buffer, 7).unwrap(), 3);
        assert_eq!(&buffer, b"\x0089xxx");
        assert_eq!(file.read_at(&mut buffer, 10).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
        assert_eq!(file.write_at(b"", 99).unwrap(), 0);
        assert_eq!(file.size().unwrap(), 10);
        fails(file.read_at(&mut buffer, u64::MAX), ErrorKind::InvalidInput);
        fails(file.write_at(b"x", u64::MAX), ErrorKind::InvalidInput);
        fails(file.set_size(u64::MAX), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_file_is_cut_and_extended_with_zeroes() {
    on_each(|fs| {
        let file = create(fs, "a", b"0123456789");
        file.set_size(3).unwrap();
        file.set_size(5).unwrap();
        file.sync().unwrap();
        assert_eq!(content(fs, "a"), b"012\0\0");
        file.set_size(0).unwrap();
        assert_eq!(content(fs, "a"), b"");
    });
}

#[test]
fn a_file_opened_for_reading_is_not_written() {
    on_each(|fs| {
        create(fs, "a", b"0123");
        let file = fs.open(path("a"), OpenMode::Read).unwrap();
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_size(0).is_err());
        let again = fs.open(path("a"), OpenMode::ReadWrite).unwrap();
        again.write_at(b"X", 1).unwrap();
        assert_eq!(content(fs, "a"), b"0X23");
    });
}

#[test]
fn directories_list_their_names() {
    on_each(|fs| {
        assert_eq!(list(fs, ""), []);
        fs.create_dir(path("d")).unwrap();
        create(fs, "a", b"12");
        create(fs, "d/b", b"");
        fs.create_dir(path("d/e")).unwrap();
        assert_eq!(list(fs, ""), [("a".into(), EntryKind::File), ("d".into(), EntryKind::Directory)]);
        assert_eq!(list(fs, "d"), [("b".into(), EntryKind::File), ("e".into(), EntryKind::Directory)]);
        assert_eq!(list(fs, "d/e"), []);
        assert_eq!(fs.metadata(path("a")).unwrap().len, 2);
        assert_eq!(fs.metadata(path("a")).unwrap().kind, EntryKind::File);
        assert_eq!(fs.metadata(path("d/e")).unwrap().kind, EntryKind::Directory);
        assert_eq!(fs.metadata(path("")).unwrap().kind, EntryKind::Directory);
        for directory in ["", "d", "d/e"] {
            fs.sync_dir(path(directory)).unwrap();
        }
    });
}

#[test]
fn a_listing_is_whole_however_long() {
    on_each(|fs| {
        let long = "x".repeat(240);
        let mut names: Vec<String> = (0..1_000).map(|number| format!("{number:05}-{long}")).collect();
        names.iter().for_each(|name| drop(create(fs, name, b"")));
        names.sort();
        let listed: Vec<String> = list(fs, "").into_iter().map(|(name, _)| name).collect();
        assert_eq!(listed, names);
    });
}

#[test]
fn a_rename_replaces_files_and_empty_directories() {
    on_each(|fs| {
        let first = create(fs, "a", b"first");
        create(fs, "b", b"second");
        fs.rename(path("a"), path("b")).unwrap();
        fs.rename(path("b"), path("b")).unwrap();
        assert_eq!(list(fs, ""), [("b".into(), EntryKind::File)]);
        first.write_at(b"F", 0).unwrap();
        assert_eq!(content(fs, "b"), b"First");
        fails(fs.rename(path("a"), path("b")), ErrorKind::NotFound);

        fs.create_dir(path("d")).unwrap();
        create(fs, "d/x", b"");
        fs.create_dir(path("e")).unwrap();
        fails(fs.rename(path("b"), path("d")), ErrorKind::IsADirectory);
        fails(fs.rename(path("d"), path("b")), ErrorKind::NotADirectory);
        fails(fs.rename(path("e"), path("d")), ErrorKind::DirectoryNotEmpty);
        fails(fs.rename(path("d"), path("d/y")), ErrorKind::InvalidInput);
        fails(fs.rename(path("b"), path("missing/b")), ErrorKind::NotFound);
        fs.rename(path("d"), path("e")).unwrap();
        fs.rename(path("b"), path("e/b")).unwrap();
        assert_eq!(list(fs, ""), [("e".into(), EntryKind::Directory)]);
        assert_eq!(list(fs, "e"), [("b".into(), EntryKind::File), ("x".into(), EntryKind::File)]);
    });
}

#[test]
fn what_is_removed_stays_for_those_who_have_it_open() {
    on_each(|fs| {
        let file = create(fs, "a", b"0123");
        fs.remove_file(path("a")).unwrap();
        fails(fs.remove_file(path("a")), ErrorKind::NotFound);
        fails(fs.open(path("a"), OpenMode::Read), ErrorKind::NotFound);
        let mut buffer = [0; 4];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 4);
        assert_eq!(file.write_at(b"4", 4).unwrap(), 1);
        file.sync().unwrap();
        assert_eq!(file.size().unwrap(), 5);
        create(fs, "a", b"new");
        assert_eq!(content(fs, "a"), b"new");
        assert_eq!(file.size().unwrap(), 5);
    });
}

#[test]
fn files_and_directories_are_removed_each_their_way() {
    on_each(|fs| {
        fs.create_dir(path("d")).unwrap();
        create(fs, "d/a", b"");
        fails(fs.remove_dir(path("d")), ErrorKind::DirectoryNotEmpty);
        fails(fs.remove_dir(path("d/a")), ErrorKind::NotADirectory);
        fails(fs.remove_dir(path("missing")), ErrorKind::NotFound);
        assert!(fs.remove_file(path("d")).is_err());
        fs.remove_file(path("d/a")).unwrap();
        fs.remove_dir(path("d")).unwrap();
        assert_eq!(list(fs, ""), []);
    });
}

#[test]
fn a_directory_is_not_a_file() {
    on_each(|fs| {
        fs.create_dir(path("d")).unwrap();
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let error = fs.open(path("d"), mode).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error.to_string(), "it is a directory, not a regular file");
        }
        fails(fs.lock(path("d")), ErrorKind::InvalidInput);
    });
}

#[test]
fn the_time_of_the_last_change_is_set_and_moves() {
    on_each(|fs| {
        let file = create(fs, "a", b"");
        let born = fs.metadata(path("a")).unwrap().modified;
        assert!(born > 1_600_000_000_000, "{born}");
        for millis in [0, 1, 1_234_567_890_123, -5_001] {
            file.set_modified(millis).unwrap();
            assert_eq!(fs.metadata(path("a")).unwrap().modified, millis);
        }
        file.write_at(b"x", 0).unwrap();
        assert!(fs.metadata(path("a")).unwrap().modified >= born);
    });
}

#[test]
fn a_mapping_shows_the_file() {
    on_each(|fs| {
        let file = create(fs, "a", b"0123456789");
        assert_eq!(&*file.map(4).unwrap(), b"0123");
        assert_eq!(&*file.map(10).unwrap(), b"0123456789");
        assert_eq!(&*file.map(0).unwrap(), b"");
        fails(file.map(11), ErrorKind::UnexpectedEof);
        let mapping = fs.open(path("a"), OpenMode::Read).unwrap().map(10).unwrap();
        drop(file);
        fs.remove_file(path("a")).unwrap();
        assert_eq!(&*mapping, b"0123456789");
    });
}

#[test]
fn a_lock_is_held_by_one() {
    on_each(|fs| {
        let lock = fs.lock(path(".lock")).unwrap();
        fails(fs.lock(path(".lock")), ErrorKind::WouldBlock);
        fails(fs.lock(path(".lock")), ErrorKind::WouldBlock);
        assert_eq!(fs.metadata(path(".lock")).unwrap().len, 0);
        // To close it would release the lock of a process.
        fails(fs.open(path(".lock"), OpenMode::Read), ErrorKind::InvalidInput);
        let other = fs.lock(path("other")).unwrap();
        drop(lock);
        let again = fs.lock(path(".lock")).unwrap();
        fails(fs.lock(path("other")), ErrorKind::WouldBlock);
        drop((again, other));
        assert!(fs.open(path(".lock"), OpenMode::Read).is_ok());
    });
}

#[test]
fn a_lock_follows_its_file_to_another_name() {
    on_each(|fs| {
        let _lock = fs.lock(path("a")).unwrap();
        fs.rename(path("a"), path("b")).unwrap();
        fails(fs.lock(path("b")), ErrorKind::WouldBlock);
        assert!(fs.lock(path("a")).is_ok());
    });
}

#[test]
fn threads_race_for_a_lock_and_one_has_it() {
    on_each(|fs| {
        let holders = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Ok(lock) = fs.lock(path(".lock")) {
                            assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(fs.lock(path(".lock")).is_ok());
    });
}

#[test]
fn random_numbers_differ() {
    on_each(|fs| {
        let numbers: std::collections::BTreeSet<u64> = (0..100).map(|_| fs.random()).collect();
        assert_eq!(numbers.len(), 100);
    });
}

/// One call of a random program; files are held open in four slots.
#[derive(Debug, Clone)]
enum Step {
    Open { slot: usize, name: &'static str, mode: OpenMode },
    Close { slot: usize },
    Write { slot: usize, position: u64, len: usize, byte: u8 },
    Read { slot: usize, position: u64, len: usize },
    SetSize { slot: usize, size: u64 },
    Map { slot: usize, len: usize },
    Sync { slot: usize },
    SyncDir { name: &'static str },
    List { name: &'static str },
    Metadata { name: &'static str },
    CreateDir { name: &'static str },
    Rename { from: &'static str, to: &'static str },
    RemoveFile { name: &'static str },
    RemoveDir { name: &'static str },
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "d", "e", "d/a", "d/b", "d/e", "e/a", "d/e/a"])
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop::sample::select(vec![OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateNew]);
    let slot = || 0..4_usize;
    prop_oneof![
        4 => (slot(), name(), mode).prop_map(|(slot, name, mode)| Step::Open { slot, name, mode }),
        1 => slot().prop_map(|slot| Step::Close { slot }),
        4 => (slot(), 0..2_000_u64, 0..1_500_usize, any::<u8>())
            .prop_map(|(slot, position, len, byte)| Step::Write { slot, position, len, byte }),
        2 => (slot(), 0..2_000_u64, 0..1_500_usize)
            .prop_map(|(slot, position, len)| Step::Read { slot, position, len }),
        1 => (slot(), 0..2_000_u64).prop_map(|(slot, size)| Step::SetSize { slot, size }),
        1 => (slot(), 0..2_000_usize).prop_map(|(slot, len)| Step::Map { slot, len }),
        1 => slot().prop_map(|slot| Step::Sync { slot }),
        1 => name().prop_map(|name| Step::SyncDir { name }),
        1 => Just(Step::SyncDir { name: "" }),
        1 => name().prop_map(|name| Step::List { name }),
        1 => name().prop_map(|name| Step::Metadata { name }),
        3 => name().prop_map(|name| Step::CreateDir { name }),
        4 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        2 => name().prop_map(|name| Step::RemoveFile { name }),
        1 => name().prop_map(|name| Step::RemoveDir { name }),
    ]
}

struct Program<'a> {
    fs: &'a dyn FileSystem,
    slots: [Option<Arc<dyn File>>; 4],
}

impl Program<'_> {
    /// Runs a step and tells its outcome in words that can be compared.
    fn run(&mut self, step: &Step) -> String {
        match self.try_run(step) {
            Ok(outcome) => outcome,
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    fn try_run(&mut self, step: &Step) -> io::Result<String> {
        let fs = self.fs;
        let no_file = || io::Error::from(ErrorKind::Other);
        let file = |slot: &usize| self.slots[*slot].clone().ok_or_else(no_file);
        Ok(match step {
            Step::Open { slot, name, mode } => {
                self.slots[*slot] = None;
                self.slots[*slot] = Some(fs.open(path(name), *mode)?);
                String::new()
            }
            Step::Close { slot } => format!("{}", self.slots[*slot].take().is_some()),
            Step::Write { slot, position, len, byte } => {
                // A file opened for reading has another error on either, and no caller looks at it.
                let written = file(slot)?.write_at(&vec![*byte; *len], *position);
                written.map_or("refused".into(), |len| len.to_string())
            }
            Step::Read { slot, position, len } => {
                let mut buffer = vec![1; *len];
                let read = file(slot)?.read_at(&mut buffer, *position)?;
                format!("{read} {buffer:?}")
            }
            Step::SetSize { slot, size } => {
                file(slot)?.set_size(*size)?;
                String::new()
            }
            Step::Map { slot, len } => format!("{:?}", &*file(slot)?.map(*len)?),
            Step::Sync { slot } => format!("{:?}", file(slot)?.sync()),
            Step::SyncDir { name } => format!("{:?}", fs.sync_dir(path(name))?),
            Step::List { name } => {
                fs.list(path(name))?;
                format!("{:?}", list(fs, name))
            }
            Step::Metadata { name } => {
                let metadata = fs.metadata(path(name))?;
                let len = if metadata.kind == EntryKind::File { metadata.len } else { 0 };
                format!("{:?} {len}", metadata.kind)
            }
            Step::CreateDir { name } => format!("{:?}", fs.create_dir(path(name))?),
            Step::Rename { from, to } => format!("{:?}", fs.rename(path(from), path(to))?),
            Step::RemoveFile { name } => format!("{:?}", fs.remove_file(path(name))?),
            Step::RemoveDir { name } => format!("{:?}", fs.remove_dir(path(name))?),
        })
    }
}

/// All that is there: files with their content, directories without.
fn tree(fs: &dyn FileSystem) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs.list(&directory).unwrap() {
            let name = directory.join(entry.name);
            match entry.kind {
                EntryKind::File => {
                    found.insert(name.clone(), Some(content(fs, name.to_str().unwrap())));
                }
                EntryKind::Directory => {
                    found.insert(name.clone(), None);
                    directories.push(name);
                }
                EntryKind::Other => panic!("{name:?}"),
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_faults_the_simulated_disk_is_a_disk(steps in prop::collection::vec(step(), 1..80)) {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let simulated = SimulatedDisk::new(7);
        let mut real = Program { fs: &disk, slots: Default::default() };
        let mut model = Program { fs: &simulated, slots: Default::default() };
        for step in &steps {
            prop_assert_eq!(real.run(step), model.run(step), "{:?}", step);
        }
        prop_assert_eq!(tree(&disk), tree(&simulated));
        prop_assert_eq!(simulated.open_files(), model.slots.iter().flatten().count());
    }
}
