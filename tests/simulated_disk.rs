//! What the simulated disk promises to tests: which faults it can make, and what a crash may leave.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals::fs::{Call, Crash, EntryKind, Fault, File, FileSystem, OpenMode, SimulatedDisk, When};
use proptest::prelude::*;
use rustix::io::Errno;

const SEEDS: u64 = 500;

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn create(disk: &SimulatedDisk, name: &str) -> Arc<dyn File> {
    disk.open(path(name), OpenMode::CreateNew).unwrap()
}

/// A file that is there after any crash, with this content.
fn durable(disk: &SimulatedDisk, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    disk.write(name, bytes).unwrap();
    disk.open(path(name), OpenMode::ReadWrite).unwrap()
}

fn cut(disk: &SimulatedDisk, seed: u64) -> SimulatedDisk {
    disk.crash(Crash::PowerCut { seed })
}

/// The contents that a file has after power cuts of many seeds.
fn outcomes(disk: &SimulatedDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..SEEDS).map(|seed| cut(disk, seed).read(name)).collect()
}

#[track_caller]
fn fails_with<T>(result: io::Result<T>, errno: Errno) {
    assert_eq!(result.err().and_then(|error| error.raw_os_error()), Some(errno.raw_os_error()));
}

// What a crash leaves.

#[test]
fn bytes_and_names_that_were_synced_survive_every_crash() {
    let disk = SimulatedDisk::new(1);
    disk.create_dir(path("d")).unwrap();
    disk.sync_dir(path("")).unwrap();
    let file = create(&disk, "d/a");
    file.write_at(b"0123456789", 0).unwrap();
    file.set_size(7).unwrap();
    file.sync().unwrap();
    disk.sync_dir(path("d")).unwrap();
    assert_eq!(outcomes(&disk, "d/a"), [Some(b"0123456".to_vec())].into());
    file.write_at(&[b'x'; 3_000], 4).unwrap();
    for content in outcomes(&disk, "d/a") {
        assert_eq!(content.unwrap()[..4], *b"0123", "bytes that no pending operation touches");
    }
}

#[test]
fn a_synced_file_whose_name_was_not_synced_may_vanish() {
    let disk = SimulatedDisk::new(1);
    let file = create(&disk, "a");
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&disk, "a"), [None, Some(b"x".to_vec())].into());
    assert_eq!(cut(&disk, 0).read("a"), None);
    assert_eq!(cut(&disk, 1).read("a"), Some(b"x".to_vec()));
}

#[test]
fn a_directory_whose_name_was_not_synced_takes_its_files_along() {
    let disk = SimulatedDisk::new(1);
    disk.create_dir(path("d")).unwrap();
    create(&disk, "d/a").sync().unwrap();
    disk.sync_dir(path("d")).unwrap();
    let images: Vec<_> = (0..SEEDS).map(|seed| cut(&disk, seed)).collect();
    assert!(images.iter().any(|image| image.metadata(path("d")).is_err()));
    for image in images {
        assert_eq!(image.metadata(path("d")).is_ok(), image.read("d/a").is_some());
    }
}

#[test]
fn a_name_may_be_durable_before_the_bytes() {
    let disk = SimulatedDisk::new(1);
    let file = create(&disk, "a");
    file.write_at(&[b'x'; 600], 0).unwrap();
    disk.sync_dir(path("")).unwrap();
    let outcomes = outcomes(&disk, "a");
    assert!(!outcomes.contains(&None));
    assert!(outcomes.contains(&Some(vec![])));
    assert!(outcomes.contains(&Some(vec![0; 600])), "the length without the bytes");
    assert!(outcomes.contains(&Some(vec![b'x'; 600])));
}

#[test]
fn pending_writes_survive_in_any_subset_of_sectors() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", &[b'-'; 1_536]);
    file.write_at(&[b'n'; 1_536], 0).unwrap();
    let mut seen = BTreeMap::new();
    for content in outcomes(&disk, "a") {
        let content = content.unwrap();
        assert_eq!(content.len(), 1_536);
        let fates: String = content.chunks(512).map(fate).collect();
        *seen.entry(fates).or_insert(0) += 1;
    }
    for mask in 0..8 {
        let fates: String = (0..3).map(|bit| if mask >> bit & 1 == 1 { 'n' } else { '-' }).collect();
        assert!(seen.contains_key(&fates), "{fates}: {seen:?}");
    }
    assert!(seen.keys().any(|fates| fates.contains('g')), "{seen:?}");
    assert!(seen.keys().any(|fates| fates.contains('0')), "{seen:?}");
    let spoilt = (0..SEEDS).filter(|seed| {
        let content = cut(&disk, *seed).read("a").unwrap();
        content.chunks(512).any(|sector| "g0".contains(fate(sector)))
    });
    assert!(spoilt.count() < SEEDS as usize / 4, "spoilt sectors are a minority");
}

/// What became of a sector: new, old, zeroes or garbage.
fn fate(sector: &[u8]) -> char {
    match sector {
        _ if sector.iter().all(|byte| *byte == b'n') => 'n',
        _ if sector.iter().all(|byte| *byte == b'-') => '-',
        _ if sector.iter().all(|byte| *byte == 0) => '0',
        _ => 'g',
    }
}

#[test]
fn sectors_are_those_of_the_file_and_are_not_torn_themselves() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", &[b'-'; 2_048]);
    file.write_at(&[b'n'; 1_000], 300).unwrap();
    for seed in 0..SEEDS {
        let content = cut(&disk, seed).read("a").unwrap();
        assert!(content[..300].iter().chain(&content[1_300..]).all(|byte| *byte == b'-'));
        for part in [300..512, 512..1_024, 1_024..1_300] {
            let part = &content[part];
            let whole = part.iter().all(|byte| *byte == part[0]);
            assert!(whole || !part.iter().all(|byte| b"n-".contains(byte)), "seed {seed}: {part:?}");
        }
    }
}

#[test]
fn a_later_write_can_survive_an_earlier_one() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", b"--");
    file.write_at(b"1", 0).unwrap();
    file.write_at(b"2", 1).unwrap();
    let outcomes = outcomes(&disk, "a");
    for outcome in [b"--", b"1-", b"-2", b"12"] {
        assert!(outcomes.contains(&Some(outcome.to_vec())), "{outcome:?}");
    }
}

#[test]
fn a_size_changes_or_not() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "cut", b"0123456789");
    file.set_size(4).unwrap();
    assert_eq!(outcomes(&disk, "cut"), [Some(b"0123".to_vec()), Some(b"0123456789".to_vec())].into());
    let file = durable(&disk, "extended", b"01");
    file.set_size(4).unwrap();
    assert_eq!(outcomes(&disk, "extended"), [Some(b"01".to_vec()), Some(b"01\0\0".to_vec())].into());
}

#[test]
fn a_rename_in_a_directory_is_one_step() {
    let disk = SimulatedDisk::new(1);
    durable(&disk, "a", b"new");
    disk.rename(path("a"), path("b")).unwrap();
    durable(&disk, "d/x", b"new");
    durable(&disk, "d/y", b"old");
    disk.rename(path("d/x"), path("d/y")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let image = cut(&disk, seed);
        assert_ne!(image.read("a").is_some(), image.read("b").is_some(), "seed {seed}");
        let (x, y) = (image.read("d/x"), image.read("d/y").unwrap());
        assert_eq!(if x.is_some() { b"old" } else { b"new" }, &y[..], "seed {seed}");
        seen.insert((image.read("a").is_some(), x.is_some()));
    }
    assert_eq!(seen.len(), 2, "the root was synced by setting up d/x, d was not: {seen:?}");
    disk.sync_dir(path("")).unwrap();
    disk.sync_dir(path("d")).unwrap();
    assert_eq!(outcomes(&disk, "b"), [Some(b"new".to_vec())].into());
    assert_eq!(outcomes(&disk, "a"), [None].into());
    assert_eq!(outcomes(&disk, "d/y"), [Some(b"new".to_vec())].into());
}

#[test]
fn a_rename_between_directories_waits_for_both() {
    let disk = SimulatedDisk::new(1);
    durable(&disk, "d/a", b"x");
    durable(&disk, "e/other", b"");
    disk.rename(path("d/a"), path("e/a")).unwrap();
    for synced in ["", "e", "e", "d"] {
        let mut places = BTreeSet::new();
        for seed in 0..SEEDS {
            let image = cut(&disk, seed);
            assert_ne!(image.read("d/a").is_some(), image.read("e/a").is_some(), "seed {seed}");
            places.insert(image.read("e/a").is_some());
        }
        assert_eq!(places.len(), 2);
        disk.sync_dir(path(synced)).unwrap();
    }
    assert_eq!(outcomes(&disk, "e/a"), [Some(b"x".to_vec())].into());
}

#[test]
fn a_half_synced_rename_does_not_undo_what_was_synced_after_it() {
    let disk = SimulatedDisk::new(1);
    disk.write("d/other", b"").unwrap();
    disk.write("e/other", b"").unwrap();
    create(&disk, "d/a").sync().unwrap();
    disk.rename(path("d/a"), path("e/a")).unwrap();
    disk.remove_file(path("e/a")).unwrap();
    disk.sync_dir(path("e")).unwrap();
    assert_eq!(outcomes(&disk, "e/a"), [None].into());
    disk.sync_dir(path("d")).unwrap();
    assert_eq!(outcomes(&disk, "d/a"), [None].into());
}

#[test]
fn a_removal_is_undone_until_its_directory_is_synced() {
    let disk = SimulatedDisk::new(1);
    durable(&disk, "a", b"x");
    disk.remove_file(path("a")).unwrap();
    assert_eq!(outcomes(&disk, "a"), [None, Some(b"x".to_vec())].into());
    create(&disk, "a").write_at(b"y", 0).unwrap();
    let outcomes_now = outcomes(&disk, "a");
    for outcome in [None, Some(b"x".to_vec()), Some(b"".to_vec()), Some(b"y".to_vec())] {
        assert!(outcomes_now.contains(&outcome), "{outcome:?}");
    }
    disk.remove_file(path("a")).unwrap();
    disk.sync_dir(path("")).unwrap();
    assert_eq!(outcomes(&disk, "a"), [None].into());
}

#[test]
fn a_killed_process_loses_handles_and_locks_but_no_bytes() {
    let disk = SimulatedDisk::new(1);
    let _lock = disk.lock(path(".lock")).unwrap();
    let file = create(&disk, "a");
    file.write_at(b"x", 0).unwrap();
    let image = disk.crash(Crash::ProcessKill);
    assert_eq!(image.read("a").unwrap(), b"x");
    assert_eq!((image.open_files(), image.calls()), (0, 0));
    assert!(image.lock(path(".lock")).is_ok());
    let unnamed = create(&disk, "unnamed");
    unnamed.write_at(&[0; 100], 0).unwrap();
    disk.remove_file(path("unnamed")).unwrap();
    assert_eq!(disk.crash(Crash::ProcessKill).used(), image.used());
    // What was not synced before the kill still is not.
    assert_eq!(cut(&image, 0).read("a"), None);
    image.open(path("a"), OpenMode::Read).unwrap().sync().unwrap();
    image.sync_dir(path("")).unwrap();
    assert_eq!(cut(&image, 0).read("a").unwrap(), b"x");
}

#[test]
fn an_image_is_a_disk_of_its_own() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", b"0123");
    let image = cut(&disk, 0);
    file.write_at(b"X", 0).unwrap();
    image.open(path("a"), OpenMode::ReadWrite).unwrap().write_at(b"Y", 1).unwrap();
    assert_eq!(disk.read("a").unwrap(), b"X123");
    assert_eq!(image.read("a").unwrap(), b"0Y23");
    assert_eq!(cut(&image, 0).read("a").unwrap(), b"0123");
}

#[test]
fn seeds_repeat() {
    let run = |seed| {
        let disk = SimulatedDisk::new(seed);
        let file = create(&disk, "a");
        file.write_at(&[b'x'; 5_000], 0).unwrap();
        disk.sync_dir(path("")).unwrap();
        let contents: Vec<_> = (0..20).map(|seed| cut(&disk, seed).read("a")).collect();
        (contents, disk.random(), cut(&disk, 5).random())
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).1, run(4).1);
}

// Faults.

#[test]
fn the_nth_call_fails_once_or_for_ever() {
    let disk = SimulatedDisk::new(1);
    let file = create(&disk, "a");
    disk.fail(When::nth(2), Fault::Error(Errno::IO.raw_os_error()));
    assert!(file.size().is_ok());
    fails_with(file.write_at(b"x", 0), Errno::IO);
    assert_eq!(file.size().unwrap(), 0, "no effect");
    disk.fail(When::nth(2).of(&[Call::Sync, Call::SyncDir]).and_ever_after(), Fault::Error(5));
    file.sync().unwrap();
    for _ in 0..3 {
        fails_with(disk.sync_dir(path("")), Errno::IO);
        fails_with(file.sync(), Errno::IO);
        assert!(file.size().is_ok());
    }
    disk.heal();
    file.sync().unwrap();
    assert_eq!(disk.calls(), 15);
}

#[test]
fn faults_strike_below_a_name_only() {
    let disk = SimulatedDisk::new(1);
    let good = durable(&disk, "d/a", b"");
    let bad = durable(&disk, "e/a", b"");
    disk.fail(When::next().under("e").and_ever_after(), Fault::Error(5));
    assert!(good.write_at(b"x", 0).is_ok() && disk.metadata(path("d/a")).is_ok());
    fails_with(bad.write_at(b"x", 0), Errno::IO);
    fails_with(disk.metadata(path("e")), Errno::IO);
    fails_with(disk.rename(path("d/a"), path("e/b")), Errno::IO);
    fails_with(disk.rename(path("e/a"), path("d/b")), Errno::IO);
    assert!(disk.open(path("ee"), OpenMode::CreateNew).is_ok());
}

#[test]
fn every_call_can_fail_by_itself() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", b"0123");
    disk.write("d/x", b"").unwrap();
    let mut buffer = [0; 4];
    type Run<'a> = Box<dyn FnMut() -> io::Result<()> + 'a>;
    let mut calls: Vec<(Call, Run<'_>)> = vec![
        (Call::Open, Box::new(|| disk.open(path("a"), OpenMode::Read).map(drop))),
        (Call::Create, Box::new(|| disk.open(path("b"), OpenMode::CreateNew).map(drop))),
        (Call::Read, Box::new(|| file.read_at(&mut buffer, 0).map(drop))),
        (Call::Write, Box::new(|| file.write_at(b"xx", 0).map(drop))),
        (Call::Size, Box::new(|| file.size().map(drop))),
        (Call::SetSize, Box::new(|| file.set_size(4))),
        (Call::SetModified, Box::new(|| file.set_modified(0))),
        (Call::Sync, Box::new(|| file.sync())),
        (Call::Map, Box::new(|| file.map(4).map(drop))),
        (Call::List, Box::new(|| disk.list(path("")).map(drop))),
        (Call::Metadata, Box::new(|| disk.metadata(path("a")).map(drop))),
        (Call::CreateDir, Box::new(|| disk.create_dir(path("new")))),
        (Call::Rename, Box::new(|| disk.rename(path("d/x"), path("d/y")))),
        (Call::SyncDir, Box::new(|| disk.sync_dir(path("d")))),
        (Call::Lock, Box::new(|| disk.lock(path(".lock")).map(drop))),
        (Call::RemoveFile, Box::new(|| disk.remove_file(path("d/y")))),
        (Call::RemoveDir, Box::new(|| disk.remove_dir(path("d")))),
    ];
    for (call, run) in &mut calls {
        let names = disk.names();
        disk.record(true);
        disk.fail(When::next().of(&[*call]), Fault::Error(Errno::ACCESS.raw_os_error()));
        fails_with(run(), Errno::ACCESS);
        disk.fail(When::next().of(&[*call]), Fault::Interrupted);
        assert_eq!(run().unwrap_err().kind(), ErrorKind::Interrupted, "{call:?}");
        assert_eq!(disk.names(), names, "{call:?} had an effect");
        run().unwrap();
        assert_eq!(disk.recorded().iter().map(|(call, _)| *call).collect::<Vec<_>>(), [*call; 3]);
    }
}

#[test]
fn a_late_fault_takes_effect() {
    let disk = SimulatedDisk::new(1);
    let late = |call| disk.fail(When::next().of(&[call]), Fault::Late(Errno::IO.raw_os_error()));
    late(Call::Create);
    fails_with(disk.open(path("a"), OpenMode::CreateNew), Errno::IO);
    assert_eq!(disk.names(), [PathBuf::from("a")]);
    assert_eq!(disk.open_files(), 0);
    let file = disk.open(path("a"), OpenMode::ReadWrite).unwrap();
    late(Call::Write);
    fails_with(file.write_at(b"0123", 0), Errno::IO);
    assert_eq!(disk.read("a").unwrap(), b"01");
    late(Call::Rename);
    fails_with(disk.rename(path("a"), path("b")), Errno::IO);
    assert_eq!(disk.names(), [PathBuf::from("b")]);
    late(Call::Sync);
    fails_with(file.sync(), Errno::IO);
    late(Call::SyncDir);
    fails_with(disk.sync_dir(path("")), Errno::IO);
    assert_eq!(cut(&disk, 0).read("b").unwrap(), b"01");
    late(Call::Lock);
    fails_with(disk.lock(path("b")), Errno::IO);
    assert!(disk.lock(path("b")).is_ok());
}

#[test]
fn short_transfers_do_half() {
    let disk = SimulatedDisk::new(1);
    let file = create(&disk, "a");
    disk.fail(When::next().and_ever_after(), Fault::Short);
    assert_eq!(file.write_at(b"01234", 0).unwrap(), 3);
    assert_eq!(file.write_at(b"3", 3).unwrap(), 1);
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 4);
    assert_eq!(file.read_at(&mut buffer[..1], 0).unwrap(), 1);
    assert_eq!(file.read_at(&mut buffer, 4).unwrap(), 0);
    assert_eq!(file.size().unwrap(), 4);
}

#[test]
fn a_sync_that_forgets_shows_what_will_never_be_durable_unless_written_again() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", b"old");
    file.write_at(b"new and longer", 0).unwrap();
    disk.fail(When::next().of(&[Call::Sync]), Fault::Forget);
    fails_with(file.sync(), Errno::IO);
    file.sync().unwrap();
    assert_eq!(disk.read("a").unwrap(), b"new and longer");
    assert_eq!(outcomes(&disk, "a"), [Some(b"old".to_vec())].into());
    file.write_at(b"longer", 8).unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&disk, "a"), [Some(b"old\0\0\0\0\0longer".to_vec())].into());
    file.write_at(b"new and longer", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&disk, "a"), [Some(b"new and longer".to_vec())].into());
}

#[test]
fn after_the_power_went_nothing_works() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", b"old");
    file.write_at(b"new", 0).unwrap();
    disk.fail(When::next(), Fault::PowerOff);
    fails_with(file.sync(), Errno::IO);
    fails_with(file.size(), Errno::IO);
    disk.heal();
    fails_with(disk.metadata(path("a")), Errno::IO);
    fails_with(disk.open(path("b"), OpenMode::CreateNew), Errno::IO);
    assert_eq!(disk.calls(), 6);
    assert_eq!(cut(&disk, 0).read("a").unwrap(), b"old");
    assert_eq!(cut(&disk, 1).read("a").unwrap(), b"new");
    assert!(cut(&disk, 1).metadata(path("a")).is_ok());
}

#[test]
fn a_full_disk_writes_what_fits() {
    let disk = SimulatedDisk::new(1);
    let file = durable(&disk, "a", b"0123");
    let used = disk.used();
    disk.set_capacity(Some(used + 6));
    assert_eq!(file.write_at(b"456789abcd", 4).unwrap(), 6);
    fails_with(file.write_at(b"x", 10), Errno::NOSPC);
    fails_with(file.set_size(11), Errno::NOSPC);
    fails_with(disk.open(path("b"), OpenMode::CreateNew), Errno::NOSPC);
    fails_with(disk.create_dir(path("d")), Errno::NOSPC);
    assert_eq!(file.write_at(b"XY", 8).unwrap(), 2, "bytes that have their place already");
    file.sync().unwrap();
    file.set_size(2).unwrap();
    assert_eq!(disk.used(), used - 2);
    assert_eq!(file.write_at(b"23", 2).unwrap(), 2);
    // A removed file takes space until it is closed.
    disk.remove_file(path("a")).unwrap();
    assert_eq!(disk.used(), used);
    drop(file);
    assert_eq!(disk.used(), used - 4 - 256);
    drop(create(&disk, "b"));
    disk.set_capacity(None);
    assert_eq!(create(&disk, "c").write_at(&[0; 9_999], 0).unwrap(), 9_999);
}

#[test]
fn files_grow_to_a_limit() {
    let disk = SimulatedDisk::new(1);
    let file = create(&disk, "a");
    fails_with(file.write_at(b"x", 1 << 30), Errno::FBIG);
    fails_with(file.set_size((1 << 30) + 1), Errno::FBIG);
    fails_with(file.write_at(b"x", 1 << 62), Errno::FBIG);
    assert_eq!(file.size().unwrap(), 0);
}

#[test]
fn open_files_are_counted_and_limited() {
    let disk = SimulatedDisk::new(1);
    disk.write("d/a", b"").unwrap();
    disk.set_open_files_max(Some(2));
    let first = disk.open(path("d/a"), OpenMode::Read).unwrap();
    let lock = disk.lock(path("d/.lock")).unwrap();
    assert_eq!(disk.open_files(), 2);
    for result in [
        disk.open(path("d/a"), OpenMode::Read).map(drop),
        disk.open(path("b"), OpenMode::CreateNew).map(drop),
        disk.list(path("")).map(drop),
        disk.sync_dir(path("d")),
        disk.lock(path("lock")).map(drop),
    ] {
        fails_with(result, Errno::MFILE);
    }
    disk.sync_dir(path("")).unwrap();
    drop(first.clone());
    assert_eq!(disk.open_files(), 2);
    drop((first, lock));
    assert_eq!((disk.open_files(), disk.open_files_peak()), (0, 2));
    assert!(disk.open(path("d/a"), OpenMode::Read).is_ok());
    assert_eq!(disk.names(), [path("d/.lock"), path("d/a")], "refused calls made nothing");
}

// Help for tests.

#[test]
fn files_are_set_up_and_looked_at_without_calls() {
    let disk = SimulatedDisk::new(1);
    disk.write("d/e/a", b"first").unwrap();
    disk.write("d/e/a", b"2nd").unwrap();
    disk.write("b", b"").unwrap();
    disk.plant("d/fifo").unwrap();
    assert_eq!(disk.names(), [path("b"), path("d/e/a")]);
    let image = cut(&disk, 0);
    assert_eq!(image.read("d/e/a").unwrap(), b"2nd");
    assert_eq!(image.metadata(path("d/fifo")).unwrap().kind, EntryKind::Other);
    assert_eq!(image.open(path("d/fifo"), OpenMode::Read).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(image.remove_file(path("d/fifo")).is_ok());
    assert_eq!(disk.read("d"), None);
    assert_eq!(disk.read("missing"), None);
    assert!(
        disk.write("b/a", b"").is_err() && disk.write("d", b"").is_err() && disk.write("../a", b"").is_err()
    );
    assert!(disk.remove("b") && !disk.remove("b") && !disk.remove("d"));
    assert_eq!(cut(&disk, 0).names(), [path("d/e/a")]);
    assert_eq!(disk.calls(), 0);
}

#[test]
fn bits_rot_at_rest() {
    let disk = SimulatedDisk::new(1);
    disk.write("a", &[0; 3]).unwrap();
    assert!(disk.flip("a", 1, 0b101));
    assert_eq!(disk.read("a").unwrap(), [0, 5, 0]);
    assert_eq!(cut(&disk, 0).read("a").unwrap(), [0, 5, 0]);
    assert!(!disk.flip("a", 3, 1) && !disk.flip("b", 0, 1) && !disk.flip("a", u64::MAX, 1));
}

#[test]
fn everything_can_be_made_durable() {
    let disk = SimulatedDisk::new(1);
    disk.create_dir(path("d")).unwrap();
    let file = create(&disk, "d/a");
    file.write_at(b"x", 0).unwrap();
    disk.fail(When::next(), Fault::Forget);
    assert!(file.sync().is_err());
    disk.settle();
    assert_eq!(outcomes(&disk, "d/a"), [Some(b"x".to_vec())].into());
}

#[test]
fn memory_of_removed_files_is_given_back() {
    let disk = SimulatedDisk::new(1);
    let before = disk.used();
    for round in 0..1_000 {
        let file = create(&disk, "a");
        file.write_at(&[1; 100], 0).unwrap();
        if round % 2 == 0 {
            file.sync().unwrap();
            disk.sync_dir(path("")).unwrap();
        }
        disk.rename(path("a"), path("b")).unwrap();
        disk.remove_file(path("b")).unwrap();
        drop(file);
        disk.sync_dir(path("")).unwrap();
        assert_eq!(disk.used(), before);
    }
}

// Properties.

#[derive(Debug, Clone)]
enum Step {
    Create(&'static str),
    Write(&'static str, u64, usize, u8),
    SetSize(&'static str, u64),
    Sync(&'static str),
    SyncDir(&'static str),
    CreateDir(&'static str),
    Rename(&'static str, &'static str),
    RemoveFile(&'static str),
    RemoveDir(&'static str),
}

fn file_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "d/a", "d/b", "e/a", "d/e/a", "e/d/a"])
}

fn directory_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["d", "e", "d/e", "e/d"])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => file_name().prop_map(Step::Create),
        4 => (file_name(), 0..2_000_u64, 1..1_500_usize, 1..255_u8)
            .prop_map(|(name, position, len, byte)| Step::Write(name, position, len, byte)),
        1 => (file_name(), 0..3_000_u64).prop_map(|(name, size)| Step::SetSize(name, size)),
        2 => file_name().prop_map(Step::Sync),
        2 => prop_oneof![Just(""), directory_name()].prop_map(Step::SyncDir),
        3 => directory_name().prop_map(Step::CreateDir),
        3 => (file_name(), file_name()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (directory_name(), directory_name()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => file_name().prop_map(Step::RemoveFile),
        1 => directory_name().prop_map(Step::RemoveDir),
    ]
}

/// Runs a step; that it may fail (no such file) is part of the game.
fn run(disk: &SimulatedDisk, step: &Step) {
    let open = |name: &str| disk.open(path(name), OpenMode::ReadWrite);
    let _ = match step {
        Step::Create(name) => disk.open(path(name), OpenMode::CreateNew).map(drop),
        Step::Write(name, position, len, byte) => {
            open(name).and_then(|file| file.write_at(&vec![*byte; *len], *position)).map(drop)
        }
        Step::SetSize(name, size) => open(name).and_then(|file| file.set_size(*size)),
        Step::Sync(name) => open(name).and_then(|file| file.sync()),
        Step::SyncDir(name) => disk.sync_dir(path(name)),
        Step::CreateDir(name) => disk.create_dir(path(name)),
        Step::Rename(from, to) => disk.rename(path(from), path(to)),
        Step::RemoveFile(name) => disk.remove_file(path(name)),
        Step::RemoveDir(name) => disk.remove_dir(path(name)),
    };
}

/// All files with their content, and all directories.
fn tree(disk: &SimulatedDisk) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in disk.list(&directory).unwrap() {
            let name = directory.join(entry.name);
            if entry.kind == EntryKind::Directory {
                directories.push(name.clone());
            }
            let content = disk.read(&name);
            found.insert(name, content);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Seed 1 and a kill leave all; what was synced as a whole survives every seed; and an image is at rest.
    #[test]
    fn images_are_possible_trees(
        steps in prop::collection::vec(step(), 1..60),
        seeds in prop::collection::vec(any::<u64>(), 10),
    ) {
        let disk = SimulatedDisk::new(1);
        steps.iter().for_each(|step| run(&disk, step));
        let now = tree(&disk);
        prop_assert_eq!(&tree(&disk.crash(Crash::ProcessKill)), &now);
        prop_assert_eq!(&tree(&cut(&disk, 1)), &now);
        prop_assert_eq!(&tree(&cut(&disk.crash(Crash::ProcessKill), 1)), &now);
        for seed in &seeds {
            let image = cut(&disk, *seed);
            let found = tree(&image);
            prop_assert_eq!(&tree(&cut(&image, 0)), &found);
            prop_assert_eq!(&tree(&cut(&image, *seed)), &found);
            let charged: u64 = found.values().map(|content| 256 + content.iter().flatten().count() as u64).sum();
            prop_assert_eq!(image.used(), charged + 256);
        }
        disk.settle();
        for seed in seeds {
            prop_assert_eq!(&tree(&cut(&disk, seed)), &now);
        }
    }

    /// Syncing all files, then all directories, is enough.
    #[test]
    fn what_is_synced_survives(steps in prop::collection::vec(step(), 1..60), seed in any::<u64>()) {
        let disk = SimulatedDisk::new(1);
        steps.iter().for_each(|step| run(&disk, step));
        let now = tree(&disk);
        for (name, content) in &now {
            match content {
                Some(_) => disk.open(name, OpenMode::Read).unwrap().sync().unwrap(),
                None => disk.sync_dir(name).unwrap(),
            }
        }
        disk.sync_dir(path("")).unwrap();
        prop_assert_eq!(tree(&cut(&disk, seed)), now);
    }

    /// A file that is only renamed is never lost and never doubled.
    #[test]
    fn renamed_files_keep_one_name(
        steps in prop::collection::vec(
            prop_oneof![
                4 => (file_name(), file_name()).prop_map(|(from, to)| Step::Rename(from, to)),
                2 => (directory_name(), directory_name()).prop_map(|(from, to)| Step::Rename(from, to)),
                1 => prop_oneof![Just(""), directory_name()].prop_map(Step::SyncDir),
                1 => directory_name().prop_map(Step::CreateDir),
                1 => directory_name().prop_map(Step::RemoveDir),
            ],
            1..20,
        ),
        seeds in prop::collection::vec(any::<u64>(), 10),
    ) {
        let disk = SimulatedDisk::new(1);
        for name in ["a", "d/a", "d/e/a"] {
            disk.write(name, name.as_bytes()).unwrap();
        }
        disk.write("e/d/keep", b"keep").unwrap();
        for step in &steps {
            if matches!(step, Step::Rename(_, to) if disk.read(to).is_some()) {
                continue;
            }
            run(&disk, step);
        }
        for seed in seeds {
            let image = cut(&disk, seed);
            let mut contents: Vec<_> = tree(&image).into_values().flatten().collect();
            contents.sort();
            prop_assert_eq!(contents, [&b"a"[..], b"d/a", b"d/e/a", b"keep"]);
        }
    }
}
