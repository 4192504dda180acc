//! Traps of Kafka's format that others fell into: one test for each, by its number.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests fail by panicking, share modules, and a child speaks on its standard output"
)]

mod common;
#[path = "common/logs.rs"]
mod logs;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use annals::format::{
    BatchBuilder, BatchOptions, EndTransactionMarker, Frame, TimestampType, encode_empty, verify,
};
use annals::fs::Call;
use annals::{
    AppendOptions, Durability, Error, FetchOptions, Isolation, Partition, Record, Store, StoredRecord,
    TopicConfig,
};
use logs::{Machine, NOW, append, file, values};

/// Tells the child of a test which directory it is about.
const DIRECTORY: &str = "ANNALS_TRAPS_DIRECTORY";

fn compacted() -> TopicConfig {
    let settings =
        [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), ("delete.retention.ms", "60000")];
    settings.into_iter().fold(TopicConfig::new(), |config, (key, value)| config.set(key, value).unwrap())
}

fn put(log: &Partition, key: &str, value: &str, timestamp: i64) -> u64 {
    log.append(&Record::new(value).key(key).timestamp(timestamp)).unwrap()
}

fn committed(log: &Partition, from: u64) -> Vec<StoredRecord> {
    log.read_from_with(from, Isolation::ReadCommitted).unwrap().map(|record| record.unwrap()).collect()
}

/// Trap 1: readers that begin in a gap go on with what lies behind it, in the same segment or in a later one.
#[test]
fn reading_from_inside_a_gap_goes_on_behind_it() {
    let machine = Machine::new();
    let (store, log) = machine.start(compacted());
    for round in 0..3 {
        for key in ["a", "b", "c"] {
            put(&log, key, &format!("{key}{round}"), NOW);
        }
        log.roll().unwrap();
    }
    put(&log, "d", "d", NOW);
    log.compact().unwrap().unwrap();
    let kept: Vec<u64> = log.read_from(0).unwrap().map(|record| record.unwrap().offset()).collect();
    assert_eq!(kept, [6, 7, 8, 9]);
    let check = |log: &Partition| {
        for from in 0..10 {
            let expected: Vec<u64> = kept.iter().copied().filter(|offset| *offset >= from).collect();
            let found: Vec<u64> =
                log.read_from(from).unwrap().map(|record| record.unwrap().offset()).collect();
            assert_eq!(found, expected, "records from {from}");
            let fetched = log.fetch(from, FetchOptions::new().max_bytes(1)).unwrap();
            assert_eq!(fetched.batches[0].base_offset(), expected[0], "a fetch from {from}");
        }
    };
    check(&log);
    store.close().unwrap();
    check(&machine.restart().1);
}

/// Trap 2: how dense an index is depends on who wrote it and when; what it finds does not.
#[test]
fn an_index_of_another_density_finds_the_same() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().index_interval_bytes(100));
    let at = |log: &Partition| {
        let times: Vec<_> = (0..45).map(|at| log.offset_for_timestamp(NOW + at).unwrap()).collect();
        let reads: Vec<_> = (0..log.log_end()).map(|from| values(log, from)).collect();
        (times, reads)
    };
    for value in 0..20 {
        log.append(&Record::new(&format!("value {value}")).timestamp(NOW + value)).unwrap();
    }
    store.close().unwrap();
    // Counted from here anew.
    let (store, log) = machine.restart();
    for value in 20..40 {
        log.append(&Record::new(&format!("value {value}")).timestamp(NOW + value)).unwrap();
    }
    let before = at(&log);
    store.close().unwrap();
    let (store, log) = machine.restart();
    assert_eq!(at(&log), before);
    store.close().unwrap();
    for extension in ["index", "timeindex"] {
        machine.disk.write(file(0, extension), &[]).unwrap();
    }
    assert_eq!(at(&machine.restart().1), before);
}

/// Trap 3: index files are cut to their entries first and the marker comes last; and empty slots are no entries.
#[test]
fn the_marker_of_a_clean_end_comes_after_trimmed_indexes_and_empty_slots_are_dropped() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(500).index_interval_bytes(60));
    for value in 0..20 {
        log.append(&Record::new(&format!("value {value}")).timestamp(NOW + value)).unwrap();
    }
    let bases = log.segments();
    assert!(bases.len() > 2);
    drop(log);
    machine.disk.record(true);
    store.close().unwrap();
    let calls = machine.disk.recorded();
    machine.disk.record(false);
    let changes = [Call::Create, Call::Write, Call::SetSize, Call::Rename];
    let last_index = calls
        .iter()
        .rposition(|(call, name)| changes.contains(call) && name.to_string_lossy().contains("index"));
    let marker = calls.iter().position(|(_, name)| name.to_string_lossy().contains(".kafka_cleanshutdown"));
    assert!(last_index.unwrap() < marker.unwrap(), "{calls:?}");
    let indexes: Vec<_> =
        bases.iter().flat_map(|&base| [(base, "index", 8), (base, "timeindex", 12)]).collect();
    let trimmed = |machine: &Machine| {
        for &(base, extension, slot) in &indexes {
            let bytes = machine.disk.read(file(base, extension)).unwrap_or_default();
            assert_eq!(bytes.len() % slot, 0);
            assert!(bytes.chunks(slot).all(|slot| slot.iter().any(|&byte| byte != 0)), "{base}.{extension}");
        }
    };
    trimmed(&machine);
    assert!(
        indexes.iter().any(|&(base, extension, _)| !machine
            .disk
            .read(file(base, extension))
            .unwrap()
            .is_empty())
    );

    // As a broker leaves them that wrote the marker too early.
    for &(base, extension, slot) in &indexes {
        let mut bytes = machine.disk.read(file(base, extension)).unwrap_or_default();
        bytes.resize(100_000 / slot * slot, 0);
        machine.disk.write(file(base, extension), &bytes).unwrap();
    }
    let (store, log) = machine.restart();
    for at in 0..20 {
        let found = log.offset_for_timestamp(NOW + at).unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp), (at as u64, NOW + at));
        assert_eq!(values(&log, at as u64).len() as i64, 20 - at);
    }
    assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().offset, 19);
    let segments = log.segments();
    append(&log, &["x"]);
    assert_eq!(log.segments(), segments, "no index was taken for a full one");
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert!(log.recovery_report().clean);
    assert_eq!(values(&log, 0).len(), 21);
}

/// Trap 4: a batch may hold fewer records than it has offsets, none of them at its base, or none at all; a control
/// batch, too.
#[test]
fn batches_with_holes_and_empty_batches_occupy_their_offsets() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let mut sparse = BatchBuilder::new(BatchOptions {
        leader_epoch: 0,
        default_timestamp: NOW,
        last_offset_delta: Some(9),
        ..BatchOptions::default()
    });
    sparse.push_at(3, &Record::new("three")).unwrap();
    sparse.push_at(5, &Record::new("five")).unwrap();
    let sparse = sparse.finish().unwrap();
    let data = BatchOptions {
        base_offset: 10,
        leader_epoch: 0,
        default_timestamp: NOW,
        producer_id: 7,
        producer_epoch: 0,
        base_sequence: 0,
        last_offset_delta: Some(4),
        ..BatchOptions::default()
    };
    let mut emptied = BatchBuilder::new(data.clone());
    emptied.push(&Record::new("gone")).unwrap();
    let emptied = encode_empty(&verify(&emptied.finish().unwrap()).unwrap()).unwrap();
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit: false };
    let marker = marker.encode_batch(&BatchOptions { base_offset: 15, ..data }).unwrap();
    let no_marker = encode_empty(&verify(&marker).unwrap()).unwrap();
    let mut last =
        BatchBuilder::new(BatchOptions { base_offset: 16, leader_epoch: 0, ..BatchOptions::default() });
    last.push(&Record::new("sixteen").timestamp(NOW)).unwrap();
    let last = last.finish().unwrap();
    log.append_as_follower(&[sparse, emptied, no_marker, last].concat()).unwrap();

    let check = |log: &Partition| {
        assert_eq!((log.log_end(), log.last_stable_offset()), (17, 17));
        assert_eq!(log.recovery_report().damage, []);
        let all = [(3, "three"), (5, "five"), (16, "sixteen")];
        for from in 0..17 {
            let rest: Vec<_> =
                all.iter().filter(|(at, _)| *at >= from).map(|&(at, text)| (at, text.to_owned())).collect();
            assert_eq!(values(log, from), rest, "from {from}");
            let offsets: Vec<u64> = committed(log, from).iter().map(StoredRecord::offset).collect();
            assert_eq!(offsets, rest.iter().map(|(at, _)| *at).collect::<Vec<_>>(), "committed from {from}");
            let fetched = log.fetch(from, FetchOptions::new().max_bytes(1)).unwrap();
            assert!(fetched.next_offset > from, "a fetch at {from} does not go on");
        }
        let producer = &log.producers()[0];
        assert_eq!(
            (producer.producer_id, producer.last_sequence, producer.last_offset),
            (7, Some(4), Some(14))
        );
    };
    check(&log);
    check(&machine.killed().restart().1);
    drop(log);
    store.close().unwrap();
    check(&machine.restart().1);
}

/// Trap 5: what rots below the recovery point is not looked at when the log is opened; it is never handed out.
#[test]
fn a_bit_that_rots_below_the_recovery_point_is_found_by_readers() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let texts = ["value 0", "value 1", "value 2", "value 3"];
    for text in texts {
        append(&log, &[text]);
    }
    let size = log.size() / 4;
    assert_eq!(size * 4, log.size());
    drop(log);
    store.close().unwrap();
    // In the value of the second record, so that all but its checksum goes on to look right.
    assert!(machine.disk.flip(file(0, "log"), size + size - 3, 1));
    let (_store, log) = machine.restart();
    let report = log.recovery_report();
    assert!(report.clean && report.damage.is_empty(), "{report:?}");
    assert_eq!((report.scanned_bytes, log.recovery_point()), (0, 4));
    let mut reader = log.read_from(0).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().value(), Some(&b"value 0"[..]));
    let error = reader.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Corruption { offset: 1, position, .. } if position == size), "{error}");
    assert_eq!(reader.skip_damage(), Some(2));
    let rest: Vec<u64> = reader.map(|record| record.unwrap().offset()).collect();
    assert_eq!(rest, [2, 3]);
    let fetched = log.fetch(1, FetchOptions::new());
    assert!(matches!(fetched, Err(Error::Corruption { offset: 1, .. })), "{fetched:?}");
}

/// Trap 6: where an index is missing it is made again, and nothing of the log is cut for that, damage or not.
#[test]
fn a_missing_index_never_cuts_the_log() {
    for damaged in [false, true] {
        for clean in [false, true] {
            let machine = Machine::new();
            let (store, log) = machine.start(TopicConfig::new().segment_bytes(500).index_interval_bytes(60));
            for value in 0..20 {
                append(&log, &[&format!("value {value:02}")]);
            }
            let bases = log.segments();
            let middle = bases[1];
            assert!(bases.len() > 3 && bases[2] - middle > 2);
            store.flush().unwrap();
            drop(log);
            let machine = if clean {
                store.close().unwrap();
                machine
            } else {
                machine.killed()
            };
            assert!(machine.disk.remove(file(middle, "index")));
            // The second batch of a segment in the middle.
            let size = Frame::parse(&machine.disk.read(file(middle, "log")).unwrap()).unwrap().size;
            if damaged {
                assert!(machine.disk.flip(file(middle, "log"), size + size - 3, 1));
            }
            let before = machine.disk.read(file(middle, "log")).unwrap();
            let (_store, log) = machine.restart();
            assert_eq!(log.recovery_report().truncated_bytes, 0);
            assert_eq!(machine.disk.read(file(middle, "log")).unwrap(), before, "nothing is cut");
            assert_eq!((log.segments(), log.log_end()), (bases, 20));
            let mut reader = log.read_from(0).unwrap();
            let (mut found, mut lost) = (Vec::new(), Vec::new());
            loop {
                match reader.next() {
                    Some(Ok(record)) => found.push(record.offset()),
                    Some(Err(Error::Corruption { offset, .. })) => {
                        lost.push(offset);
                        reader.skip_damage().unwrap();
                    }
                    Some(Err(error)) => panic!("{error}"),
                    None => break,
                }
            }
            let expected: Vec<u64> = if damaged { vec![middle + 1] } else { Vec::new() };
            assert_eq!(lost, expected, "what is lost is told");
            assert_eq!(found, (0..20).filter(|offset| !lost.contains(offset)).collect::<Vec<_>>());
        }
    }
}

/// Trap 7: cutting inside a batch takes the whole batch, and yet the log ends where it was told to.
#[test]
fn a_cut_inside_a_batch_takes_it_whole_and_ends_at_the_offset() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    append(&log, &["a", "b"]);
    append(&log, &["c", "d", "e"]);
    assert!(log.truncate_to(4).unwrap());
    assert_eq!((log.log_end(), log.high_watermark()), (4, 4));
    let left = [(0, "a".to_owned()), (1, "b".to_owned())];
    assert_eq!(values(&log, 0), left);
    assert_eq!(values(&log, 2), []);
    assert_eq!(append(&log, &["f"]), 4);
    let all = [&left[..], &[(4, "f".to_owned())]].concat();
    assert_eq!(values(&log, 0), all);
    let (_store, log) = machine.killed().restart();
    assert_eq!((values(&log, 0), log.log_end()), (all, 5));
}

/// Trap 8: where the log starts inside a batch, that batch is fetched whole, and records below are not handed out.
#[test]
fn a_log_that_starts_inside_a_batch_hides_what_is_below() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    append(&log, &["a", "b", "c"]);
    append(&log, &["d"]);
    assert_eq!(log.delete_records(2).unwrap(), 2);
    let check = |log: &Partition| {
        assert_eq!(log.log_start(), 2);
        let fetched = log.fetch(2, FetchOptions::new()).unwrap();
        assert_eq!(fetched.batches[0].base_offset(), 0, "the batch begins below the log start");
        assert_eq!(values(log, 2), [(2, "c".to_owned()), (3, "d".to_owned())]);
        let below = log.read_from(1).err();
        assert!(matches!(below, Some(Error::OffsetOutOfRange { log_start: 2, .. })), "{below:?}");
        assert_eq!(log.offset_for_timestamp(0).unwrap().unwrap().offset, 2);
    };
    check(&log);
    drop(log);
    store.close().unwrap();
    check(&machine.restart().1);
}

/// Trap 9: only expiry forgets a producer, not deletion, and it goes by the time of appends: a producer of old events
/// is known after a restart, where Kafka has forgotten it.
#[test]
fn a_producer_of_old_events_is_forgotten_by_the_time_of_its_appends_alone() {
    let machine = Machine::new();
    let config = TopicConfig::new().set("annals.producer.expiration.ms", "60000").unwrap();
    let config = config.set("retention.ms", "-1").unwrap().set("file.delete.delay.ms", "0").unwrap();
    let (store, log) = machine.start(config);
    let long_ago = NOW - 10 * 365 * 24 * 3_600_000;
    let send = |log: &Partition, sequence| {
        let record = [Record::new("event").timestamp(long_ago)];
        log.append_batch_with(&record, AppendOptions::new().idempotent(7, 0, sequence)).unwrap()
    };
    assert!(!send(&log, 0).duplicate);
    log.roll().unwrap();
    append(&log, &["other"]);
    // All records of the producer go, with their segment.
    assert_eq!(log.delete_records(1).unwrap(), 1);
    store.maintain().unwrap();
    assert_eq!(log.segments(), [1]);
    assert!(send(&log, 0).duplicate, "deletion has forgotten the producer");
    drop(log);
    store.close().unwrap();

    let (store, log) = machine.restart();
    assert!(send(&log, 0).duplicate, "a restart has forgotten it");
    machine.clock.advance(Duration::from_millis(59_999));
    assert_eq!(store.maintain().unwrap().producers_expired, 0);
    assert!(send(&log, 0).duplicate);
    machine.clock.advance(Duration::from_millis(1));
    assert_eq!(store.maintain().unwrap().producers_expired, 1);
    assert!(log.producers().is_empty());
    assert!(!send(&log, 0).duplicate);
}

/// Trap 10: a snapshot holds one batch of each producer, so after a clean restart no more than that is recognised.
#[test]
fn after_a_restart_the_newest_batch_of_a_producer_is_recognised_alone() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let send = |log: &Partition, sequence| {
        log.append_batch_with(&[Record::new("value")], AppendOptions::new().idempotent(7, 0, sequence))
    };
    for sequence in 0..3 {
        send(&log, sequence).unwrap();
    }
    for sequence in 0..3 {
        assert!(send(&log, sequence).unwrap().duplicate, "sequence {sequence} is one of the last five");
    }
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    let older = send(&log, 1);
    assert!(matches!(older, Err(Error::OutOfOrderSequence { found: 1, .. })), "{older:?}");
    let newest = send(&log, 2).unwrap();
    assert_eq!((newest.duplicate, newest.base_offset), (true, 2));
    assert!(!send(&log, 3).unwrap().duplicate);
    assert_eq!(log.log_end(), 4);
}

/// Trap 11: the keys of control records are no keys. Those of commits and aborts are the same in every marker.
#[test]
fn a_marker_supersedes_no_record_of_the_same_key() {
    let machine = Machine::new();
    let (_store, log) = machine.start(compacted());
    // The key of a commit marker: version 0, type 1.
    let key: [u8; 4] = [0, 0, 0, 1];
    log.append(&Record::new("kept").key(&key).timestamp(NOW)).unwrap();
    let options = AppendOptions::new().transactional(7, 0, 0);
    log.append_batch_with(&[Record::new("in a transaction").key("k").timestamp(NOW)], options).unwrap();
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit: true };
    log.end_transaction(7, 0, marker, AppendOptions::new()).unwrap();
    log.roll().unwrap();
    put(&log, "x", "active", NOW);
    log.compact().unwrap().unwrap();
    let found: Vec<_> = committed(&log, 0).iter().map(|record| record.value().unwrap().to_vec()).collect();
    assert_eq!(found, [&b"kept"[..], b"in a transaction", b"active"]);
}

/// Trap 12: in a batch with a delete horizon the base timestamp is that, and the times of records lie far from it.
#[test]
fn times_of_records_survive_a_delete_horizon() {
    let machine = Machine::new();
    let (store, log) = machine.start(compacted());
    let old = NOW - 50 * 365 * 24 * 3_600_000;
    let batch = [
        Record::new("first").key("a").timestamp(old),
        Record::tombstone().key("b").timestamp(NOW + 5),
        Record::new("third").key("c").timestamp(NOW - 7),
    ];
    log.append_batch(&batch).unwrap();
    log.roll().unwrap();
    put(&log, "x", "active", NOW);
    log.compact().unwrap().unwrap();
    let times = |log: &Partition| {
        log.read_from(0).unwrap().take(3).map(|record| record.unwrap().timestamp()).collect::<Vec<_>>()
    };
    assert_eq!(times(&log), [old, NOW + 5, NOW - 7]);
    let header = log.fetch(0, FetchOptions::new()).unwrap().batches[0].header().clone();
    assert_eq!(header.delete_horizon, Some(NOW + 60_000), "{header:?}");
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert_eq!(times(&log), [old, NOW + 5, NOW - 7]);
    assert_eq!(log.offset_for_timestamp(NOW).unwrap().map(|found| found.offset), Some(1));
    machine.clock.advance(Duration::from_secs(61));
    log.roll().unwrap();
    put(&log, "y", "active", NOW);
    log.compact().unwrap().unwrap();
    let offsets: Vec<u64> = log.read_from(0).unwrap().map(|record| record.unwrap().offset()).collect();
    assert_eq!(offsets, [0, 2, 3, 4], "the tombstone goes after its horizon");
}

/// Trap 13: where the log stamps batches, records have the time of their batch, whatever lies in them.
#[test]
fn records_stamped_by_the_log_have_the_time_of_their_batch() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().timestamp_type(TimestampType::LogAppendTime));
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (value, timestamp) in [("a", NOW - 5_000), ("b", NOW - 9_000), ("c", NOW + 77)] {
        builder.push(&Record::new(value).timestamp(timestamp)).unwrap();
    }
    log.append_encoded(&builder.finish().unwrap(), AppendOptions::new()).unwrap();
    let check = |log: &Partition| {
        let batch = log.fetch(0, FetchOptions::new()).unwrap().batches[0].clone();
        let header = batch.header();
        assert_eq!((header.timestamp_type, header.max_timestamp), (TimestampType::LogAppendTime, NOW));
        // The first record still lies at its own time, and the deltas of the others count from it.
        assert_eq!(header.base_timestamp, NOW - 5_000);
        let times: Vec<i64> = log.read_from(0).unwrap().map(|record| record.unwrap().timestamp()).collect();
        assert_eq!(times, [NOW; 3]);
        assert_eq!(log.offset_for_timestamp(NOW - 1).unwrap().unwrap().offset, 0);
        assert_eq!(log.offset_for_timestamp(NOW + 1).unwrap(), None);
        assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().offset, 0);
    };
    check(&log);
    drop(log);
    store.close().unwrap();
    check(&machine.restart().1);
}

/// Trap 14: relative offsets under a wrapper at offset 0, the wrong header checksum of lz4 in magic 0, any operating
/// system in a gzip header, and snappy without the header of its Java library.
#[cfg(all(feature = "gzip", feature = "lz4", feature = "snappy"))]
#[test]
fn oddities_of_old_writers_are_read() {
    use annals::format::{Compression, RECORD_BATCH_OVERHEAD, decompress};
    use annals::{FormatError, RecordBatch};

    let offsets = |bytes: &[u8]| -> Result<Vec<u64>, FormatError> {
        let records = RecordBatch::parse(bytes.to_vec().into())?.records(1 << 20)?;
        Ok(records.iter().map(|record| record.offset()).collect())
    };
    let mut wrapper = common::vector("L1_v1_gzip_wrapper");
    assert_eq!(offsets(&wrapper).unwrap(), [10, 11]);
    // The offset lies outside the checksum. At 0, the messages inside count from 0.
    wrapper[..8].fill(0);
    assert_eq!(offsets(&wrapper).unwrap(), [0, 1]);

    assert_eq!(offsets(&common::vector("L0_v0_lz4_wrapper_badHC")).unwrap(), [10]);
    let lz4 = &common::vector("C3_lz4")[RECORD_BATCH_OVERHEAD..];
    let mut bad = lz4.to_vec();
    bad[6] = 0x1a;
    let whole = decompress(Compression::Lz4, 2, lz4, 1 << 20).unwrap();
    assert!(decompress(Compression::Lz4, 2, &bad, 1 << 20).is_err(), "magic 2 has no excuse");
    assert_eq!(decompress(Compression::Lz4, 0, &bad, 1 << 20).unwrap(), whole);

    let mut gzip = common::vector("C1_gzip")[RECORD_BATCH_OVERHEAD..].to_vec();
    for system in [0xff, 0, 3, 11] {
        gzip[9] = system;
        assert_eq!(decompress(Compression::Gzip, 2, &gzip, 1 << 20).unwrap(), whole);
    }

    let snappy = &common::vector("C2_snappy")[RECORD_BATCH_OVERHEAD..];
    assert_eq!(decompress(Compression::Snappy, 2, snappy, 1 << 20).unwrap(), whole);
    // Behind magic, two versions and the length of the only block.
    assert_eq!(decompress(Compression::Snappy, 2, &snappy[20..], 1 << 20).unwrap(), whole);
}

/// What the other process does in the test of the lock, which runs this program again: nothing without being told.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let lock = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(Path::new(&directory).join(".lock"))
        .unwrap();
    let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    let held = rustix::fs::fcntl_lock(&lock, exclusive).is_ok();
    println!("\n{}", if held { "held" } else { "refused" });
    // Until the parent has seen enough.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// A process that takes the lock of a directory as a broker does.
struct Broker {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Broker {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Broker { child, out }
    }

    /// Whether it has got the lock.
    fn holds(&mut self) -> bool {
        let mut lines = self.out.by_ref().lines().map(|line| line.unwrap());
        let said = lines.find(|line| line == "held" || line == "refused");
        said.unwrap() == "held"
    }

    fn leave(mut self) {
        drop(self.child.stdin.take());
        self.out.read_to_end(&mut Vec::new()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Trap 15: a broker locks its directory with `fcntl`, which `flock` does not meet. Ours keeps it out, and it ours.
#[test]
fn a_broker_and_a_store_keep_each_other_out_of_a_directory() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path()).unwrap();
    let mut broker = Broker::start(root.path());
    assert!(!broker.holds(), "a store does not keep a broker out");
    broker.leave();
    store.close().unwrap();

    let mut broker = Broker::start(root.path());
    assert!(broker.holds(), "the lock of a closed store is still held");
    let refused = Store::open(root.path()).err();
    broker.leave();
    assert!(matches!(refused, Some(Error::Locked { .. })), "{refused:?}");
    Store::open(root.path()).unwrap().close().unwrap();
}

/// Trap 16: after a power cut a time index may speak of records that the log does not hold.
#[test]
fn a_time_index_that_is_ahead_of_its_log_is_made_again() {
    let machine = Machine::new();
    let config = TopicConfig::new().index_interval_bytes(60).durability(Durability::Process);
    let (store, log) = machine.start(config);
    let put = |log: &Partition, value: i64, time: i64| {
        log.append(&Record::new(&format!("value {value}")).timestamp(time)).unwrap()
    };
    for value in 0..5 {
        put(&log, value, NOW + value);
    }
    store.flush().unwrap();
    let early = machine.cut_off();
    for value in 5..10 {
        put(&log, value, NOW + value);
    }
    drop(log);
    store.close().unwrap();
    // The later time index reached the disk, the records did not.
    let ahead = machine.disk.read(file(0, "timeindex")).unwrap();
    assert!(ahead.len() > early.disk.read(file(0, "timeindex")).unwrap_or_default().len());
    early.disk.write(file(0, "timeindex"), &ahead).unwrap();
    let (store, log) = early.restart();
    assert_eq!(log.log_end(), 5);
    let found = |log: &Partition, time| log.offset_for_timestamp(time).unwrap().map(|found| found.offset);
    assert_eq!(found(&log, NOW + 4), Some(4));
    assert_eq!(found(&log, NOW + 5), None);
    // Offsets are given again, and a late record gets one that the index places before all that is so late.
    put(&log, 5, NOW + 20);
    for value in 6..12 {
        put(&log, value, NOW + 1);
    }
    put(&log, 12, NOW + 30);
    let check = |log: &Partition| {
        for (time, offset) in [(0, 0), (4, 4), (5, 5), (8, 5), (9, 5), (15, 5), (20, 5), (21, 12), (30, 12)] {
            assert_eq!(found(log, NOW + time), Some(offset), "at {time}");
        }
        assert_eq!(found(log, NOW + 31), None);
        let newest = log.offset_of_max_timestamp().unwrap().unwrap();
        assert_eq!((newest.offset, newest.timestamp), (12, NOW + 30));
    };
    check(&log);
    drop(log);
    store.close().unwrap();
    check(&early.restart().1);
}

/// Trap 17: one record from the far future keeps its segment and all behind it for as long. By default none is taken
/// in, and a topic may go by the time of appends.
#[test]
fn a_record_from_the_future_is_refused_or_pins_its_segment_unless_appends_count() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    let future = Record::new("from the future").timestamp(NOW + 3_600_001);
    assert!(matches!(log.append(&future), Err(Error::InvalidTimestamp { index: 0, .. })));
    log.append(&Record::new("nearly").timestamp(NOW + 3_600_000)).unwrap();

    for (by, start) in [("record", 1), ("append", 4)] {
        let machine = Machine::new();
        let config = TopicConfig::new()
            .retention(Some(Duration::from_secs(60)))
            .set("message.timestamp.after.max.ms", &i64::MAX.to_string())
            .and_then(|config| config.set("annals.retention.by", by))
            .unwrap();
        let (store, log) = machine.start(config);
        for timestamp in [NOW, NOW + 1_000_000_000, NOW, NOW] {
            log.append(&Record::new("value").timestamp(timestamp)).unwrap();
            log.roll().unwrap();
        }
        machine.clock.advance(Duration::from_millis(60_000));
        store.maintain().unwrap();
        assert_eq!(log.log_start(), 0, "not older than a minute, by {by}");
        machine.clock.advance(Duration::from_millis(1));
        store.maintain().unwrap();
        assert_eq!(log.log_start(), start, "by {by}");
    }
}

/// Trap 18: a file in which epochs go back is not believed; the log knows them.
#[test]
fn a_file_of_epochs_that_go_back_is_made_anew() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    for epoch in 1..4 {
        log.set_leader_epoch(epoch).unwrap();
        append(&log, &["value"]);
    }
    store.close().unwrap();
    for text in ["0\n3\n1 0\n3 2\n2 1\n", "0\n3\n1 0\n1 0\n3 2\n", "0\n2\n1 0\n3 2\n", "nonsense"] {
        machine.disk.write("t-0/leader-epoch-checkpoint", text.as_bytes()).unwrap();
        let (store, log) = machine.restart();
        let found: Vec<_> = (0..3).map(|offset| log.epoch_for_offset(offset)).collect();
        assert_eq!(found, [Some(1), Some(2), Some(3)], "after {text:?}");
        store.close().unwrap();
    }
}

/// Trap 19: a directory is split at its last dash; names that differ in `.` and `_` alone do not go together.
#[test]
fn topics_are_told_apart_by_their_directories() {
    let machine = Machine::new();
    let store = machine.open();
    let names = ["a", "a-1", "a-1-0", "a.b"];
    for name in names {
        append(&store.create_topic(name, TopicConfig::new()).unwrap().partition(0).unwrap(), &[name]);
    }
    assert!(store.create_topic("a_b", TopicConfig::new()).is_err());
    store.close().unwrap();
    let store = machine.open();
    for name in names {
        assert_eq!(values(&store.topic(name).unwrap().partition(0).unwrap(), 0), [(0, name.to_owned())]);
    }
}

/// Trap 20: what an abort takes back may lie segments before the segment that says so.
#[test]
fn what_was_aborted_segments_later_is_not_read() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    append(&log, &["before"]);
    log.append_batch_with(&[Record::new("aborted")], AppendOptions::new().transactional(7, 0, 0)).unwrap();
    for value in ["one", "two", "three"] {
        log.roll().unwrap();
        append(&log, &[value]);
    }
    log.roll().unwrap();
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit: false };
    log.end_transaction(7, 0, marker, AppendOptions::new()).unwrap();
    let check = |log: &Partition| {
        let offsets: Vec<u64> = committed(log, 0).iter().map(StoredRecord::offset).collect();
        assert_eq!(offsets, [0, 2, 3, 4]);
        let options = FetchOptions::new().isolation(Isolation::ReadCommitted);
        let fetched = log.fetch(1, options).unwrap();
        let aborted: Vec<_> =
            fetched.aborted.iter().map(|aborted| (aborted.producer_id, aborted.first_offset)).collect();
        assert_eq!(aborted, [(7, 1)]);
    };
    check(&log);
    store.close().unwrap();
    check(&machine.restart().1);
    check(&machine.killed().restart().1);
}

/// Trap 21: the name of a snapshot is where it ends. After a clean stop that is the log end, where no segment begins.
#[test]
fn a_snapshot_at_the_log_end_is_used_and_kept() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    for sequence in 0..3 {
        let options = AppendOptions::new().idempotent(7, 0, sequence);
        log.append_batch_with(&[Record::new("value")], options).unwrap();
    }
    store.close().unwrap();
    assert!(machine.disk.read(file(3, "snapshot")).is_some());
    let (_store, log) = machine.restart();
    assert!(machine.disk.read(file(3, "snapshot")).is_some());
    let again =
        log.append_batch_with(&[Record::new("value")], AppendOptions::new().idempotent(7, 0, 2)).unwrap();
    assert!(again.duplicate && again.base_offset == 2);
    let gap = log.append_batch_with(&[Record::new("value")], AppendOptions::new().idempotent(7, 0, 4));
    assert!(matches!(gap, Err(Error::OutOfOrderSequence { .. })));
}

/// Trap 22: what counts for the size of a message is its compressed form, which says nothing of what it unpacks to:
/// that has a limit of its own, for what comes in and for what is there.
#[cfg(feature = "gzip")]
#[test]
fn a_small_batch_that_unpacks_to_much_is_refused() {
    use annals::FormatError;
    use annals::format::{Compression, stamp};

    let batch = |len: usize| {
        let codec = Compression::Gzip.into();
        let mut builder = BatchBuilder::new(BatchOptions { codec, ..BatchOptions::default() });
        builder.push(&Record::new(&vec![0; len]).timestamp(NOW)).unwrap();
        builder.finish().unwrap()
    };
    let (allowed, bomb) = (batch(90_000), batch(1 << 20));
    assert!(bomb.len() < 2_000);
    let machine = Machine::new();
    let config = TopicConfig::new().max_message_bytes(2_000);
    let (_store, log) = machine.start(config.set("annals.max.decompressed.bytes", "100000").unwrap());
    log.append_encoded(&allowed, AppendOptions::new()).unwrap();
    assert_eq!(logs::records(&log, 0)[0].value().unwrap().len(), 90_000);
    let refused = log.append_encoded(&bomb, AppendOptions::new()).unwrap_err();
    let limit = |error: &Error| {
        matches!(error, Error::InvalidBatch { source: FormatError::Limit { limit: 100_000, .. } })
    };
    assert!(limit(&refused), "{refused:?}");
    assert_eq!(log.log_end(), 1);

    // A leader has taken it in.
    let mut stored = bomb;
    stamp(&mut stored, 1, 0).unwrap();
    log.append_as_follower(&stored).unwrap();
    append(&log, &["behind"]);
    let mut reader = log.read_from(1).unwrap();
    let error = reader.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("100000"), "{error}");
    assert_eq!(reader.skip_damage(), Some(2));
    assert_eq!(reader.next().unwrap().unwrap().value(), Some(&b"behind"[..]));
}
