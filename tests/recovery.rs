//! What a partition makes of what a crash, a clumsy hand or a bad disk left: every row of the table in its recovery.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use annals::fs::SimulatedDisk;
use annals::{Damage, Error, Partition, Store, StoredRecord, TopicConfig};
use logs::{Machine, append, expected, file, records, value, values};

const MANIFEST: &str = "annals.manifest";
const CHECKPOINT: &str = "annals.checkpoint";
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const MARKER: &str = ".kafka_cleanshutdown";

/// Some bytes that are no batch.
fn garbage(len: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Batches of one record each, so that all are of one size; returns that size.
fn fill(log: &Partition, count: u64) -> u64 {
    let before = (log.size(), log.log_end());
    for offset in before.1..before.1 + count {
        assert_eq!(append(log, &[&value(offset)]), offset);
    }
    (log.size() - before.0) / count
}

/// A machine killed after so many appends to one segment, and the size of a batch. Nothing of it was written down,
/// so all of it is in doubt.
fn killed_after(count: u64) -> (Machine, u64) {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    let size = fill(&log, count);
    (machine.killed(), size)
}

/// A machine with segments of three batches each, and the base offsets of these.
fn segmented(count: u64) -> (Machine, Store, Partition, Vec<u64>) {
    let machine = Machine::new();
    let config = TopicConfig::new().segment_bytes(300).index_interval_bytes(60);
    let (store, log) = machine.start(config);
    fill(&log, count);
    let bases = log.segments();
    assert_eq!(bases, (0..count).step_by(3).collect::<Vec<_>>());
    (machine, store, log, bases)
}

/// Everything that can be read, going on behind damage, and the errors met.
fn read_around(log: &Partition) -> (Vec<u64>, Vec<Error>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let mut reader = log.read_from(log.log_start()).unwrap();
    loop {
        match reader.next() {
            Some(Ok(record)) => {
                assert_eq!(record.value(), Some(value(record.offset()).as_bytes()));
                found.push(record.offset());
            }
            Some(Err(error)) => {
                errors.push(error);
                assert!(reader.next().is_none(), "it goes on without being told to");
                assert!(reader.skip_damage().is_some());
            }
            None => return (found, errors),
        }
    }
}

/// Appends, and finds it all again after a clean close.
fn assert_goes_on(machine: &Machine, store: Store, log: Partition) {
    let (before, end) = (records(&log, log.log_start()).len(), log.log_end());
    assert_eq!(append(&log, &[&value(end)]), end);
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert!(log.recovery_report().clean, "{:?}", log.recovery_report());
    assert_eq!(log.recovery_report().scanned_bytes, 0);
    assert_eq!(records(&log, log.log_start()).len(), before + 1);
    assert_eq!(values(&log, end), [(end, value(end))]);
}

/// What is there after damage is one record less, and no offset is given twice.
fn assert_loss_is_accepted(machine: &Machine, store: Store, log: Partition, lost: u64) {
    let end = log.log_end();
    let (found, _) = read_around(&log);
    let refused = log.append(&annals::Record::new("x")).unwrap_err();
    let Error::Damaged { partition, detail } = &refused else { panic!("{refused}") };
    assert_eq!(partition, "t-0");
    assert!(detail.contains(&format!("offsets {lost} to ")), "{detail}");
    for wrong in [lost + 1, lost.wrapping_sub(1), u64::MAX] {
        assert!(matches!(log.accept_loss(wrong), Err(Error::Damaged { .. })), "{wrong}");
    }
    assert!(log.append(&annals::Record::new("x")).is_err());
    log.accept_loss(lost).unwrap();
    assert_eq!(append(&log, &[&value(end)]), end, "an offset is given twice");
    let after_crash = machine.killed();
    let (_crashed, again) = after_crash.restart();
    assert!(again.recovery_report().damage.is_empty(), "{:?}", again.recovery_report());
    assert_eq!(append(&again, &[&value(end + 1)]), end + 1);
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert!(log.recovery_report().clean, "{:?}", log.recovery_report());
    let (found_again, errors) = read_around(&log);
    assert_eq!(found_again, [&found[..], &[end]].concat());
    assert!(!errors.is_empty() || log.log_start() > 0, "the damage is forgotten");
    assert_eq!(append(&log, &[&value(end + 1)]), end + 1);
}

// ---- torn tails ----

#[test]
fn a_last_batch_cut_anywhere_is_a_torn_tail() {
    let (machine, size) = killed_after(5);
    let whole = machine.disk.read(file(0, "log")).unwrap();
    assert_eq!(whole.len() as u64, 5 * size);
    for cut in 4 * size..=5 * size {
        let machine = machine.killed();
        machine.disk.write(file(0, "log"), &whole[..cut as usize]).unwrap();
        let (store, log) = machine.restart();
        let report = log.recovery_report();
        assert!(report.damage.is_empty() && !report.clean);
        let kept = if cut == 5 * size { 5 } else { 4 };
        assert_eq!(log.log_end(), kept, "cut at {cut}");
        assert_eq!(report.truncated_bytes, cut - kept * size);
        assert_eq!((report.scanned_batches, report.scanned_bytes), (kept, kept * size));
        assert_eq!(machine.disk.read(file(0, "log")).unwrap(), whole[..(kept * size) as usize]);
        assert_eq!(values(&log, 0), expected(0..kept));
        assert_goes_on(&machine, store, log);
    }
}

#[test]
fn zeroes_and_garbage_behind_the_last_batch_are_a_torn_tail() {
    let (machine, size) = killed_after(3);
    let whole = machine.disk.read(file(0, "log")).unwrap();
    let tail_of_a_batch = whole[whole.len() - 40..].to_vec();
    for len in [1, 11, 12, 16, 17, 26, 60, 61, 62, 511, 512, 70_000] {
        for tail in
            [vec![0; len], vec![0xff; len], garbage(len), vec![2; len], tail_of_a_batch.repeat(len / 40 + 1)]
        {
            let machine = machine.killed();
            machine.disk.write(file(0, "log"), &[&whole[..], &tail].concat()).unwrap();
            let (store, log) = machine.restart();
            assert_eq!(log.recovery_report().truncated_bytes, tail.len() as u64);
            assert!(log.recovery_report().damage.is_empty());
            assert_eq!(machine.disk.read(file(0, "log")).unwrap().len() as u64, 3 * size);
            assert_eq!(values(&log, 0), expected(0..3));
            assert_goes_on(&machine, store, log);
        }
    }
}

#[test]
fn a_valid_batch_that_repeats_old_offsets_is_no_end_of_the_log() {
    let (machine, size) = killed_after(3);
    let whole = machine.disk.read(file(0, "log")).unwrap();
    machine.disk.write(file(0, "log"), &[&whole[..], &whole[..size as usize]].concat()).unwrap();
    let (_store, log) = machine.restart();
    assert_eq!(values(&log, 0), expected(0..3));
    assert_eq!(append(&log, &[&value(3)]), 3);
}

#[test]
fn a_log_of_nothing_but_a_torn_batch_is_empty() {
    let (machine, size) = killed_after(1);
    let whole = machine.disk.read(file(0, "log")).unwrap();
    for cut in [0, 1, 30, size as usize - 1] {
        let machine = machine.killed();
        machine.disk.write(file(0, "log"), &whole[..cut]).unwrap();
        let (store, log) = machine.restart();
        assert!(log.recovery_report().damage.is_empty());
        assert_eq!((log.log_start(), log.log_end()), (0, 0));
        assert_goes_on(&machine, store, log);
    }
}

#[test]
fn what_is_found_is_on_disk_before_it_counts() {
    // A sync may have failed before the kill: only what is written again is sure to be on disk.
    let interval = annals::Durability::Interval { time: std::time::Duration::from_secs(9), bytes: 1 << 30 };
    for level in [interval, annals::Durability::Process] {
        let machine = Machine::new();
        let (_store, log) = machine.start(TopicConfig::new().durability(level));
        let size = fill(&log, 4);
        let killed = machine.killed();
        let (_store, log) = killed.restart();
        let rewritten = log.recovery_report().rewritten_bytes;
        assert!(rewritten > 0 && rewritten <= 4 * size);
        assert_eq!(log.recovery_point(), 4);
        let (_store, log) = killed.cut_off().restart();
        assert_eq!(values(&log, 0), expected(0..4));
    }
}

#[test]
fn recovering_twice_finds_the_same() {
    let (machine, _) = killed_after(6);
    let whole = machine.disk.read(file(0, "log")).unwrap();
    machine.disk.write(file(0, "log"), &[&whole[..], &[0; 99]].concat()).unwrap();
    let mut machine = machine;
    for round in 0..3 {
        let (_store, log) = machine.restart();
        let report = log.recovery_report();
        assert!(report.damage.is_empty() && !report.clean);
        assert_eq!(report.truncated_bytes, if round == 0 { 99 } else { 0 });
        assert_eq!(values(&log, 0), expected(0..6));
        machine = if round == 1 { machine.cut_off() } else { machine.killed() };
    }
}

// ---- damage ----

#[test]
fn a_damaged_batch_with_valid_ones_behind_is_kept_and_reported() {
    let (machine, size) = killed_after(6);
    // In the checksum, the length, the magic, the offset, the records: whatever it is.
    for byte in [0, 7, 8, 11, 16, 17, 21, 26, 57, 60, 61, size - 1] {
        for lost in 0..5 {
            let machine = machine.killed();
            assert!(machine.disk.flip(file(0, "log"), lost * size + byte, 0x10));
            let damaged = machine.disk.read(file(0, "log")).unwrap();
            let (store, log) = machine.restart();
            let report = log.recovery_report();
            let [Damage { from, to, path, position, .. }] = &report.damage[..] else {
                panic!("byte {byte} of batch {lost}: {report:?}")
            };
            assert_eq!((*from, *to, *position), (lost, lost + 1, lost * size), "byte {byte}");
            assert!(path.ends_with(file(0, "log")));
            assert_eq!(machine.disk.read(file(0, "log")).unwrap(), damaged, "the bytes are kept");
            let (found, errors) = read_around(&log);
            assert_eq!(found, (0..6).filter(|offset| *offset != lost).collect::<Vec<_>>(), "byte {byte}");
            assert_eq!(errors.len(), 1);
            assert_eq!(log.log_end(), 6);
            for from in lost + 1..6 {
                assert_eq!(values(&log, from), expected(from..6), "reading behind the damage");
            }
            assert_loss_is_accepted(&machine, store, log, lost);
        }
    }
}

#[test]
fn damage_in_several_places_is_reported_in_order_and_accepted_at_once() {
    let (machine, size) = killed_after(10);
    for lost in [1, 2, 5, 8] {
        machine.disk.flip(file(0, "log"), lost * size + 30, 0xff);
    }
    let (store, log) = machine.restart();
    let places: Vec<_> = log.recovery_report().damage.iter().map(|damage| (damage.from, damage.to)).collect();
    assert_eq!(places, [(1, 3), (5, 6), (8, 9)]);
    assert_eq!(read_around(&log).0, [0, 3, 4, 6, 7, 9]);
    assert_loss_is_accepted(&machine, store, log, 1);
}

#[test]
fn a_log_shorter_than_what_was_on_disk_is_damage() {
    let (machine, size) = killed_after(6);
    for clean in [false, true] {
        let (store, log) = machine.restart();
        store.flush().unwrap();
        let cut_machine = if clean {
            drop(log);
            store.close().unwrap();
            machine.killed()
        } else {
            machine.killed()
        };
        let whole = cut_machine.disk.read(file(0, "log")).unwrap();
        for (len, first_lost) in
            [(0, 0), (1, 0), (size, 1), (3 * size - 1, 2), (5 * size, 5), (6 * size - 1, 5)]
        {
            let machine = cut_machine.killed();
            machine.disk.write(file(0, "log"), &whole[..len as usize]).unwrap();
            let (store, log) = machine.restart();
            let report = log.recovery_report();
            assert!(!report.clean);
            assert_eq!((report.damage.len(), report.damage[0].from, report.damage[0].to), (1, first_lost, 6));
            assert_eq!(machine.disk.read(file(0, "log")).unwrap().len() as u64, len, "the bytes are kept");
            assert_eq!(log.log_end(), 6, "no offset is given twice");
            assert_eq!(read_around(&log).0, (0..first_lost).collect::<Vec<_>>());
            assert_loss_is_accepted(&machine, store, log, first_lost);
        }
    }
}

#[test]
fn missing_segments_are_told_and_nothing_is_renumbered() {
    for clean in [false, true] {
        let (machine, store, log, bases) = segmented(12);
        if clean {
            drop(log);
            store.close().unwrap();
        } else {
            store.flush().unwrap();
        }
        let machine = machine.killed();
        // The first, one in the middle, the last, the first two, the last two, all but one.
        let cases: [&[u64]; 6] = [&[0], &[3], &[9], &[0, 3], &[6, 9], &[0, 3, 9]];
        for missing in cases {
            let machine = machine.killed();
            for base in missing {
                assert!(machine.disk.remove(file(*base, "log")));
            }
            let (_store, log) = machine.restart();
            let there: Vec<u64> = (0..12).filter(|offset| !missing.contains(&(offset / 3 * 3))).collect();
            let (found, errors) = read_around(&log);
            assert_eq!(found, there, "without {missing:?}");
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|error| matches!(error, Error::MissingOffsets { .. })), "{errors:?}");
            assert_eq!((log.log_start(), log.log_end()), (0, 12));
            for offset in 0..12 {
                match log.read_from(offset).unwrap().next().unwrap() {
                    Ok(record) => assert_eq!(record.offset(), offset),
                    Err(Error::MissingOffsets { from, to, .. }) => {
                        assert!(missing.contains(&(offset / 3 * 3)), "{offset} is there");
                        assert!(from <= offset && offset < to, "{from} to {to}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let damage = log.recovery_report().damage.clone();
            match damage.first() {
                Some(first) => {
                    assert!(log.append(&annals::Record::new("x")).is_err());
                    log.accept_loss(first.from).unwrap();
                }
                None => assert_eq!(missing, [bases[1]], "only a hole in the middle covers nothing up"),
            }
            assert_eq!(append(&log, &[&value(12)]), 12);
        }
    }
}

#[test]
fn a_log_with_all_its_files_gone_is_not_taken_for_a_new_one() {
    let (machine, store, log, bases) = segmented(12);
    drop(log);
    store.close().unwrap();
    for base in bases {
        for extension in ["log", "index", "timeindex"] {
            machine.disk.remove(file(base, extension));
        }
    }
    let (_store, log) = machine.restart();
    let report = log.recovery_report();
    assert_eq!((report.damage[0].from, report.damage[0].to), (0, 12));
    assert_eq!(log.log_end(), 12);
    let (found, errors) = read_around(&log);
    assert!(found.is_empty() && !errors.is_empty());
    assert!(matches!(log.append(&annals::Record::new("x")), Err(Error::Damaged { .. })));
    log.accept_loss(0).unwrap();
    assert_eq!(append(&log, &[&value(12)]), 12);
}

// ---- what is derived from the log ----

/// All answers that indexes have a part in.
fn lookups(log: &Partition) -> (Vec<u64>, Vec<Option<u64>>) {
    let first = |offset| log.read_from(offset).unwrap().next().unwrap().unwrap().offset();
    let time = |by| log.offset_for_timestamp(logs::NOW + by).unwrap().map(|found| found.offset);
    ((0..log.log_end()).map(first).collect(), (-2..40).map(time).collect())
}

/// A log of several segments in which every record has a time of its own.
fn timed() -> (Machine, Store, Partition) {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(700).index_interval_bytes(60));
    for n in 0..38 {
        let record = annals::Record::new("v").timestamp(logs::NOW + (n * 7) % 38);
        log.append_batch(&[record]).unwrap();
    }
    assert!(log.segments().len() > 3);
    (machine, store, log)
}

#[test]
fn index_files_missing_or_worthless_change_no_answer() {
    let (machine, store, log) = timed();
    let (bases, right) = (log.segments(), lookups(&log));
    drop(log);
    let crashed = machine.killed();
    store.close().unwrap();
    type Spoil = fn(&[u8]) -> Option<Vec<u8>>;
    let spoilt: [Spoil; 7] = [
        |_| None,
        |_| Some(vec![]),
        |was| Some(vec![0; was.len()]),
        |_| Some(garbage(240)),
        |was| Some([was, &vec![0; 10_000 * 24][..]].concat()),
        |was| Some(was[..was.len().saturating_sub(3)].to_vec()),
        |was| Some([was, &[7u8; 5][..]].concat()),
    ];
    for machine in [machine.killed(), crashed] {
        for (n, spoil) in spoilt.iter().enumerate() {
            for extensions in [&["index"][..], &["timeindex"], &["index", "timeindex"]] {
                let machine = machine.killed();
                for &base in &bases {
                    for extension in extensions {
                        let name = file(base, extension);
                        let Some(was) = machine.disk.read(&name) else { continue };
                        match spoil(&was) {
                            Some(bytes) => machine.disk.write(&name, &bytes).unwrap(),
                            None => assert!(machine.disk.remove(&name)),
                        }
                    }
                }
                let (store, log) = machine.restart();
                assert!(log.recovery_report().damage.is_empty());
                assert!(lookups(&log) == right, "{extensions:?} spoilt in way {n}");
                assert_eq!(append(&log, &["v"]), 38);
                drop(log);
                store.close().unwrap();
                let (_store, log) = machine.restart();
                assert!(log.recovery_report().clean);
                assert_eq!(lookups(&log).0, (0..39).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn files_of_the_store_lost_or_damaged_lose_no_record() {
    let (machine, store, log, _) = segmented(14);
    let right = values(&log, 0);
    drop(log);
    let crashed = machine.killed();
    store.close().unwrap();
    for machine in [machine.killed(), crashed] {
        for name in [MANIFEST, CHECKPOINT, RECOVERY_POINTS, "log-start-offset-checkpoint", MARKER] {
            let Some(was) = machine.disk.read(name) else { continue };
            let mut flipped = was.clone();
            if let Some(byte) = flipped.last_mut() {
                *byte ^= 1;
            }
            for bytes in
                [None, Some(vec![]), Some(garbage(was.len())), Some(vec![0; was.len()]), Some(flipped)]
            {
                let machine = machine.killed();
                match &bytes {
                    Some(bytes) => machine.disk.write(name, bytes).unwrap(),
                    None => assert!(machine.disk.remove(name)),
                }
                let (store, log) = machine.restart();
                assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
                assert_eq!(values(&log, 0), right, "{name} as {bytes:?}");
                assert_goes_on(&machine, store, log);
            }
        }
    }
}

#[test]
fn all_files_of_the_store_can_be_lost_at_once() {
    let (machine, store, log, bases) = segmented(14);
    let (id, right) = (store.topic("t").unwrap().id(), values(&log, 0));
    drop(log);
    store.close().unwrap();
    for name in machine.disk.names() {
        if name.parent() == Some(Path::new("")) {
            machine.disk.remove(name);
        }
    }
    let (store, log) = machine.restart();
    assert_eq!((values(&log, 0), log.segments()), (right, bases));
    assert_eq!(store.topic("t").unwrap().id(), id, "each partition knows whose it is");
    assert_goes_on(&machine, store, log);
}

#[test]
fn a_manifest_of_a_newer_version_is_left_alone_with_all_else() {
    let (machine, store, log, _) = segmented(5);
    drop(log);
    store.close().unwrap();
    let mut manifest = machine.disk.read(MANIFEST).unwrap();
    manifest[8..10].copy_from_slice(&2u16.to_be_bytes());
    let covered = manifest.len() - 4;
    let checksum = annals::format::crc32(&manifest[..covered]);
    manifest[covered..].copy_from_slice(&checksum.to_be_bytes());
    machine.disk.write(MANIFEST, &manifest).unwrap();
    let before = contents(&machine.disk);
    for read_only in [false, true] {
        let options = machine.options().read_only(read_only);
        let error = options.open_in(std::sync::Arc::new(machine.disk.clone())).unwrap_err();
        let Error::UnsupportedFormat { path, found, .. } = &error else { panic!("{error}") };
        assert!(path.ends_with(MANIFEST));
        assert_eq!(*found, 2);
        assert!(contents(&machine.disk) == before);
    }
}

fn contents(disk: &SimulatedDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.read(&name).unwrap())).collect()
}

#[test]
fn a_clean_marker_is_not_believed_when_the_log_has_changed_since() {
    let (machine, size) = killed_after(4);
    let (store, log) = machine.restart();
    drop(log);
    store.close().unwrap();
    let closed = machine.killed();
    let (_longer_store, longer) = machine.restart();
    fill(&longer, 2);
    let grown = machine.disk.read(file(0, "log")).unwrap();
    assert!(closed.disk.read(MARKER).is_some());
    // What another program appended in the meantime is there, and a torn end of it is cut.
    for (len, end) in [(6 * size, 6), (6 * size - 9, 5), (4 * size + 1, 4)] {
        let machine = closed.killed();
        machine.disk.write(file(0, "log"), &grown[..len as usize]).unwrap();
        let (store, log) = machine.restart();
        let report = log.recovery_report();
        assert!(!report.clean && report.damage.is_empty());
        assert_eq!(report.truncated_bytes, len - end * size);
        assert_eq!(values(&log, 0), expected(0..end));
        assert_goes_on(&machine, store, log);
    }
    // A marker does not make a crash clean.
    let machine = closed.killed();
    let (_store, log) = machine.restart();
    fill(&log, 3);
    let crashed = machine.killed();
    crashed.disk.write(MARKER, b"").unwrap();
    let (_store, log) = crashed.restart();
    assert!(!log.recovery_report().clean);
    assert_eq!(values(&log, 0), expected(0..7));
}

// ---- how much is read ----

#[test]
fn recovery_reads_no_more_than_what_came_after_the_last_checkpoint() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let size = fill(&log, 2_000);
    store.flush().unwrap();
    for more in [0, 1, 5] {
        fill(&log, more.max(1));
        if more == 0 {
            store.flush().unwrap();
        }
        for crashed in [machine.killed(), machine.cut_off()] {
            let (_store, after) = crashed.restart();
            let report = after.recovery_report();
            assert!(!report.clean && report.damage.is_empty());
            let since = [0, 1, 6][[0, 1, 5].iter().position(|&n| n == more).unwrap()];
            assert_eq!((report.scanned_batches, report.scanned_bytes), (since, since * size));
            assert_eq!(after.log_end(), log.log_end());
            assert_eq!(values(&after, 0).len() as u64, log.log_end());
        }
    }
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    let report = log.recovery_report();
    assert!(report.clean);
    assert_eq!((report.scanned_bytes, report.scanned_batches, report.rewritten_bytes), (0, 0, 0));
}

#[test]
fn with_segments_recovery_reads_little_more_than_the_last_one() {
    let (machine, _store, log, bases) = segmented(100);
    let crashed = machine.killed();
    let (_store, after) = crashed.restart();
    let report = after.recovery_report();
    assert!(report.scanned_bytes <= 300, "{} bytes of {}", report.scanned_bytes, log.size());
    assert!(report.rebuilt_indexes.iter().all(|base| base == bases.last().unwrap()));
    assert_eq!(values(&after, 0), expected(0..100));
    assert_eq!(records(&after, 50).len(), 50);
}

// ---- what else lies about ----

#[test]
fn files_on_their_way_out_are_removed() {
    let (machine, _store, log, _) = segmented(7);
    let machine = machine.killed();
    let names = ["log.deleted", "index.deleted", "timeindex.cleaned", "log.cleaned", "txnindex.deleted"];
    for name in names {
        machine.disk.write(file(0, name), b"whatever it holds").unwrap();
    }
    let (_store, after) = machine.restart();
    let finished = &after.recovery_report().finished;
    for name in names {
        assert_eq!(machine.disk.read(file(0, name)), None);
        assert!(finished.iter().any(|path| path.ends_with(file(0, name))), "{finished:?}");
    }
    assert_eq!(values(&after, 0), values(&log, 0));
}

#[test]
fn an_interrupted_swap_is_finished_or_undone() {
    let (machine, _store, log, _) = segmented(9);
    let right = values(&log, 0);
    let machine = machine.killed();
    let two =
        [machine.disk.read(file(0, "log")).unwrap(), machine.disk.read(file(3, "log")).unwrap()].concat();

    // What two segments are to be replaced by is whole: they go.
    let finished = machine.killed();
    finished.disk.write(file(0, "log.swap"), &two).unwrap();
    let (store, after) = finished.restart();
    assert_eq!(after.segments(), [0, 6]);
    assert_eq!(values(&after, 0), right);
    assert_eq!(finished.disk.read(file(0, "log")).unwrap(), two);
    assert_eq!(finished.disk.read(file(3, "log")), None);
    assert_goes_on(&finished, store, after);

    // There was more to come: it is undone.
    let undone = machine.killed();
    undone.disk.write(file(3, "log.swap"), &two).unwrap();
    undone.disk.write(file(0, "log.cleaned"), &two[..50]).unwrap();
    let (store, after) = undone.restart();
    assert_eq!(after.segments(), [0, 3, 6]);
    assert_eq!(values(&after, 0), right);
    assert_eq!(undone.disk.read(file(3, "log.swap")), None);
    assert_goes_on(&undone, store, after);
}

#[test]
fn what_is_none_of_ours_is_reported_and_left_alone() {
    let (machine, store, log, _) = segmented(4);
    drop(log);
    store.close().unwrap();
    let files = ["notes.txt", "00000000000000000000.log.bak", "7.log", "t-0/notes.txt", "t-0/12.log"];
    for name in files {
        machine.disk.write(name, b"mine").unwrap();
    }
    machine.disk.write("lost+found/x", b"mine").unwrap();
    machine.disk.write("t-0/00000000000000000099.log/x", b"mine").unwrap();
    machine.disk.plant("fifo").unwrap();
    machine.disk.plant("t-0/00000000000000000077.log").unwrap();
    machine.disk.plant("u-0").unwrap();
    for _ in 0..2 {
        let (store, log) = machine.restart();
        let mut unknown = store.report().unknown;
        unknown.sort();
        let root = ["00000000000000000000.log.bak", "7.log", "fifo", "lost+found", "notes.txt", "u-0"];
        assert_eq!(unknown, root.map(PathBuf::from));
        let mut unknown = log.recovery_report().unknown.clone();
        unknown.sort();
        let inside = ["00000000000000000077.log", "00000000000000000099.log", "12.log", "notes.txt"]
            .map(PathBuf::from);
        assert_eq!(unknown, inside);
        assert_eq!(values(&log, 0), expected(0..log.log_end()));
        fill(&log, 1);
        assert_eq!(store.topics().len(), 1);
        drop(log);
        store.close().unwrap();
        for name in files {
            assert_eq!(machine.disk.read(name).unwrap(), b"mine", "{name}");
        }
    }
}

#[test]
#[cfg(unix)]
fn links_and_fifos_in_the_place_of_files_are_neither_followed_nor_waited_for() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    let store = Store::open(root.path()).unwrap();
    let log = store.create_topic("t", TopicConfig::new().segment_bytes(300)).unwrap().partition(0).unwrap();
    fill(&log, 7);
    drop(log);
    store.close().unwrap();
    let directory = root.path().join("t-0");
    let named = |base: u64, extension: &str| directory.join(format!("{base:020}.{extension}"));
    // Indexes, a leftover, a segment that never was, and one that is gone.
    for extension in ["index", "timeindex"] {
        std::fs::remove_file(named(0, extension)).unwrap();
        symlink(outside.path(), named(0, extension)).unwrap();
    }
    symlink(outside.path(), named(3, "log.deleted")).unwrap();
    symlink(outside.path(), named(500, "log")).unwrap();
    let fifo = |path: &Path| {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    fifo(&named(600, "log"));
    std::fs::remove_file(named(3, "log")).unwrap();
    fifo(&named(3, "log"));
    let store = Store::open(root.path()).unwrap();
    let log = store.topic("t").unwrap().partition(0).unwrap();
    let (found, errors) = read_around(&log);
    assert_eq!(found, [0, 1, 2, 6]);
    assert!(!errors.is_empty());
    let unknown: Vec<_> =
        log.recovery_report().unknown.iter().map(|path| path.display().to_string()).collect();
    for name in ["00000000000000000500.log", "00000000000000000600.log", "00000000000000000003.log"] {
        assert!(unknown.iter().any(|unknown| unknown == name), "{name} is not among {unknown:?}");
    }
    drop(log);
    drop(store);
    assert_eq!(std::fs::read(outside.path()).unwrap(), b"");
    assert!(named(500, "log").is_symlink());
}

#[test]
fn offsets_never_go_back_through_a_chain_of_crashes() {
    let first = Machine::new();
    let _store = first.start(TopicConfig::new().segment_bytes(400));
    let (mut machine, mut promised) = (first.killed(), 0);
    for round in 0..30u64 {
        drop(machine.open());
        machine = if round % 3 == 0 { machine.killed() } else { machine.cut_off() };
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().damage.is_empty());
        assert_eq!(log.log_end(), promised);
        fill(&log, 1 + round % 4);
        promised = log.log_end();
        let offsets: Vec<u64> = records(&log, 0).iter().map(StoredRecord::offset).collect();
        assert_eq!(offsets, (0..promised).collect::<Vec<_>>());
        machine = machine.killed();
    }
}
