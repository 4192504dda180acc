//! Traps of Kafka's format that others fell into, where no other test of this crate sets them already.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::{AppendOptions, Error, FetchOptions, Isolation, Partition, Record, StoredRecord, TopicConfig};
use logs::{Machine, NOW, append, file, values};

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
