//! What a second pair of eyes found: each of these failed once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::path::PathBuf;
use std::sync::Arc;

use annals::format::EndTransactionMarker;
use annals::fs::{Call, Crash, Fault, When};
use annals::{AppendOptions, Durability, Isolation, Partition, Record, Store, TopicConfig};
use logs::Machine;

fn compacted() -> TopicConfig {
    TopicConfig::new().set("cleanup.policy", "compact").unwrap()
}

fn values(log: &Partition) -> Vec<(u64, String)> {
    logs::values(log, log.log_start())
}

fn put(log: &Partition, key: &str, value: &str) -> u64 {
    log.append(&Record::new(value).key(key)).unwrap()
}

/// Four sealed segments that become one.
fn small_segments(machine: &Machine, policy: &str) -> (Store, Partition) {
    let config = TopicConfig::new().set("cleanup.policy", policy).unwrap();
    let (store, log) = machine.start(config);
    for (key, value) in [("a", "1"), ("k", "old"), ("k", "new"), ("b", "2")] {
        put(&log, key, value);
        log.roll().unwrap();
    }
    put(&log, "c", "3");
    store.flush().unwrap();
    (store, log)
}

#[test]
fn finishing_a_swap_leaves_no_segment_that_was_replaced_whatever_a_crash_keeps_of_it() {
    for call in 1.. {
        let machine = Machine::new();
        let (store, log) = small_segments(&machine, "compact");
        let before = machine.disk.calls();
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        let done = log.compact().is_ok();
        let calls = machine.disk.calls() - before;
        let (disk, clock) = (machine.disk.crash(Crash::PowerCut { seed: 1 }), Arc::clone(&machine.clock));
        let first = Machine { disk, clock };
        if first.disk.names().iter().any(|name| name.to_string_lossy().ends_with(".log.swap")) {
            interrupted_openings(&first, call);
        }
        drop((store, log));
        if done && calls < call {
            return;
        }
    }
}

fn interrupted_openings(first: &Machine, outer: u64) {
    for call in 1.. {
        let disk = first.disk.crash(Crash::PowerCut { seed: 1 });
        let calls = disk.calls();
        disk.fail(When::nth(call), Fault::PowerOff);
        let machine = Machine { disk, clock: Arc::clone(&first.clock) };
        let opened = machine.try_open();
        for seed in 2..14 {
            let disk = machine.disk.crash(Crash::PowerCut { seed });
            let found = Machine { disk, clock: Arc::clone(&first.clock) };
            let (_store, log) = found.restart();
            let name = format!("call {outer}, call {call} of opening, seed {seed}, {:?}", found.disk.names());
            assert_eq!(log.recovery_report().damage, [], "{name}");
            let read: Result<Vec<_>, _> = log.read_from(0).unwrap().collect();
            let offsets: Vec<u64> = read.expect(&name).iter().map(|record| record.offset()).collect();
            assert!(offsets == [0, 2, 3, 4] || offsets == [0, 1, 2, 3, 4], "{offsets:?} {name}");
        }
        let through = machine.disk.calls() - calls < call;
        drop(opened);
        if through {
            return;
        }
    }
}

#[test]
fn a_reader_in_a_segment_that_was_compacted_twice_meanwhile_sees_nothing_aborted() {
    let machine = Machine::new();
    let (_store, log) = machine.start(compacted());
    put(&log, "a", "1");
    let transaction = AppendOptions::new().transactional(7, 0, 0);
    log.append_batch_with(&[Record::new("aborted").key("b")], transaction).unwrap();
    let abort = EndTransactionMarker { coordinator_epoch: 0, commit: false };
    log.end_transaction(7, 0, abort, AppendOptions::new()).unwrap();
    // So that compaction need not keep the batch for its producer's sake.
    let other = AppendOptions::new().idempotent(7, 0, 1);
    log.append_batch_with(&[Record::new("2").key("c")], other).unwrap();
    log.roll().unwrap();
    put(&log, "d", "4");
    let mut reader = log.read_from_with(0, Isolation::ReadCommitted).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset(), 0);
    for _ in 0..2 {
        log.compact().unwrap();
        put(&log, "a", "2");
        log.roll().unwrap();
    }
    let rest: Vec<u64> = reader.map(|record| record.unwrap().offset()).collect();
    assert!(!rest.contains(&1), "{rest:?}");
}

#[test]
fn a_handle_of_a_deleted_topic_never_reads_the_files_of_one_that_took_its_name() {
    let machine = Machine::new();
    let store = machine.options().max_open_files(1).open_in(Arc::new(machine.disk.clone())).unwrap();
    let old = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    logs::append(&old, &["old"]);
    store.delete_topic("t").unwrap();
    let new = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    logs::append(&new, &["new"]);
    for record in old.read_from(0).unwrap().flatten() {
        assert_eq!(record.value(), Some(b"old".as_slice()));
    }
    assert_eq!(values(&old), [(0, "old".into())]);
    assert_eq!(values(&new), [(0, "new".into())]);
}

#[test]
fn passes_over_compacted_partitions_that_rest_read_no_log() {
    let machine = Machine::new();
    let (store, _log) = small_segments(&machine, "compact");
    for _ in 0..2 {
        store.maintain().unwrap();
    }
    machine.disk.record(true);
    store.maintain().unwrap();
    let calls = machine.disk.recorded();
    let reads: Vec<_> = calls.iter().filter(|(call, _)| *call == Call::Read || *call == Call::Open).collect();
    assert!(reads.is_empty(), "{reads:?}");
}

/// Two segments, the producer in the first one, and all of it deleted.
fn producer_without_records(machine: &Machine, fail: Option<When>) -> (Store, Partition) {
    let (store, log) = machine.start(TopicConfig::new().durability(Durability::Process));
    let producer = AppendOptions::new().idempotent(7, 3, 0);
    log.append_batch_with(&[Record::new("known by this alone")], producer).unwrap();
    if let Some(when) = fail {
        machine.disk.fail(when, Fault::Error(5));
    }
    log.roll().unwrap();
    logs::append(&log, &["a"]);
    log.flush().unwrap();
    log.delete_records(2).unwrap();
    assert_eq!(log.segments(), [1]);
    (store, log)
}

#[test]
fn a_producer_outlasts_its_records_and_a_power_cut_that_takes_the_end_of_the_log() {
    let machine = Machine::new();
    let (store, log) = producer_without_records(&machine, None);
    logs::append(&log, &["not", "on", "disk"]);
    store.maintain().unwrap();
    let (_store, log) = machine.cut_off().restart();
    assert_eq!(log.log_end(), 2);
    assert_eq!(log.producers().iter().map(|known| known.producer_epoch).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_producer_outlasts_its_records_though_its_snapshot_failed_at_first() {
    let machine = Machine::new();
    let (_store, _log) = producer_without_records(
        &machine,
        Some(When::next().of(&[Call::Create]).under("t-0/00000000000000000001.snapshot.tmp")),
    );
    let (_store, log) = machine.cut_off().restart();
    assert_eq!(log.producers().iter().map(|known| known.producer_epoch).collect::<Vec<_>>(), [3]);
}

#[test]
fn what_a_swap_left_in_the_middle_put_into_the_log_can_be_deleted() {
    let machine = Machine::new();
    let (store, log) = small_segments(&machine, "compact,delete");
    machine.disk.fail(When::next().of(&[Call::Rename]).under(logs::file(0, "log")), Fault::Error(5));
    assert!(log.compact().is_err());
    assert_eq!(log.segments(), [0, 4]);
    assert_eq!(log.delete_records(4).unwrap(), 4);
    let expected = vec![(4, "3".to_owned())];
    assert_eq!(values(&log), expected);
    put(&log, "d", "4");
    log.roll().unwrap();
    log.compact().unwrap();
    assert!(!log.truncate_to(6).unwrap());
    for found in [machine.killed(), machine.cut_off()] {
        let (_store, log) = found.restart();
        assert_eq!(log.recovery_report().damage, []);
        assert_eq!(values(&log)[0], expected[0]);
    }
    store.close().unwrap();
    let names = machine.disk.names();
    let left = |name: &PathBuf| *name == logs::file(0, "log") || name.to_string_lossy().ends_with(".swap");
    assert!(!names.iter().any(left), "{names:?}");
}

#[test]
fn a_deleted_log_finishes_no_swap_in_the_directory_of_another() {
    let machine = Machine::new();
    let (store, old) = small_segments(&machine, "compact");
    machine.disk.fail(When::next().of(&[Call::Rename]).under(logs::file(1, "log")), Fault::Error(5));
    assert!(old.compact().is_err());
    store.delete_topic("t").unwrap();
    let new = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    logs::append(&new, &["new"]);
    new.roll().unwrap();
    logs::append(&new, &["newer"]);
    let before = machine.disk.names();
    assert!(old.truncate_to(1).is_err());
    assert_eq!(machine.disk.names(), before);
    assert_eq!(values(&new).len(), 2);
}
