//! Compaction through the public API: what stays, what goes, when, and what a crash in the middle leaves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

#[path = "common/logs.rs"]
mod logs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::fs::{Call, Crash, Fault, When};
use annals::{AppendOptions, Error, Isolation, Partition, Record, Store, TopicConfig};
use logs::{Machine, append, file, values};

fn compacted() -> TopicConfig {
    TopicConfig::new()
        .segment_bytes(1_000)
        .index_interval_bytes(200)
        .set("cleanup.policy", "compact")
        .unwrap()
        .set("min.cleanable.dirty.ratio", "0.01")
        .unwrap()
        .set("delete.retention.ms", "60000")
        .unwrap()
}

fn put(log: &Partition, key: &str, value: &str) -> u64 {
    log.append(&Record::new(value).key(key)).unwrap()
}

/// Offset, key and value of every record.
fn all(log: &Partition) -> Vec<(u64, String, Option<String>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    log.read_from(log.log_start())
        .unwrap()
        .map(|record| {
            let record = record.unwrap();
            (record.offset(), text(record.key().unwrap()), record.value().map(text))
        })
        .collect()
}

/// The last value of every key.
fn view(log: &Partition) -> BTreeMap<String, Option<String>> {
    all(log).into_iter().map(|(_, key, value)| (key, value)).collect()
}

fn fill(log: &Partition, rounds: usize) {
    for round in 0..rounds {
        for key in 0..7 {
            put(log, &format!("key-{key}"), &format!("value-{round}-{key}"));
        }
    }
}

#[test]
fn of_each_key_the_last_record_stays_under_its_offset() {
    let machine = Machine::new();
    let (store, log) = machine.start(compacted());
    fill(&log, 20);
    let before = all(&log);
    let expected = view(&log);
    let report = log.compact().unwrap().unwrap();
    assert!(report.records_kept < report.records_read / 2, "{report:?}");
    assert!(report.bytes_after < report.bytes_before / 2, "{report:?}");
    let after = all(&log);
    assert!(after.len() < before.len() / 2 && after.iter().all(|record| before.contains(record)));
    assert_eq!(view(&log), expected);
    assert_eq!(log.log_end(), 140);
    // What can still be read begins at the next offset that is there.
    let first = log.read_from(0).unwrap().next().unwrap().unwrap();
    assert_eq!(first.offset(), after[0].0);
    put(&log, "key-0", "later");
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert!(log.recovery_report().clean && log.recovery_report().damage.is_empty());
    let mut reopened = after;
    reopened.push((140, "key-0".into(), Some("later".into())));
    assert_eq!(all(&log), reopened);
}

#[test]
fn keys_that_do_not_fit_into_memory_take_more_passes() {
    let machine = Machine::new();
    let store =
        machine.options().compaction_memory(24 * 4).open_in(std::sync::Arc::new(machine.disk.clone()));
    let store = store.unwrap();
    let log = store.create_topic("t", compacted()).unwrap().partition(0).unwrap();
    fill(&log, 20);
    let expected = view(&log);
    let report = log.compact().unwrap().unwrap();
    assert!(report.passes > 3, "{report:?}");
    assert_eq!(view(&log), expected);
    let sealed_end = *log.segments().last().unwrap();
    let mut sealed: Vec<String> =
        all(&log).into_iter().filter(|(offset, ..)| *offset < sealed_end).map(|(_, key, _)| key).collect();
    let count = sealed.len();
    sealed.sort();
    sealed.dedup();
    assert_eq!(sealed.len(), count, "a key stands twice in what was compacted");
}

#[test]
fn a_reader_in_the_middle_goes_on_through_compaction() {
    let machine = Machine::new();
    let (store, log) = machine.start(compacted());
    fill(&log, 20);
    let expected = view(&log);
    for stop in [0, 1, 5, 13, 50, 100] {
        let mut reader = log.read_from(0).unwrap();
        let mut seen = BTreeMap::new();
        let mut last = None;
        let mut take = |record: annals::StoredRecord| {
            assert!(last < Some(record.offset()));
            last = Some(record.offset());
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            seen.insert(text(record.key().unwrap()), record.value().map(text));
        };
        reader.by_ref().take(stop).for_each(|record| take(record.unwrap()));
        fill(&log, 3);
        log.compact().unwrap();
        store.maintain().unwrap();
        reader.for_each(|record| take(record.unwrap()));
        assert_eq!(seen, view(&log));
        assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    }
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes() {
    let machine = Machine::new();
    let (_store, log) = machine.start(compacted());
    fill(&log, 5);
    log.append(&Record::tombstone().key("key-3")).unwrap();
    fill_others(&log);
    log.compact().unwrap().unwrap();
    assert_eq!(view(&log)["key-3"], None, "the tombstone is still there");
    machine.clock.advance(Duration::from_secs(30));
    fill_others(&log);
    log.compact().unwrap().unwrap();
    assert_eq!(view(&log)["key-3"], None);
    machine.clock.advance(Duration::from_secs(31));
    fill_others(&log);
    log.compact().unwrap().unwrap();
    assert!(!view(&log).contains_key("key-3"), "it should be gone");
}

fn fill_others(log: &Partition) {
    for round in 0..20 {
        put(log, "other", &format!("round {round}"));
    }
}

#[test]
fn what_was_aborted_goes_and_what_was_committed_stays() {
    let machine = Machine::new();
    let (_store, log) = machine.start(compacted());
    let mut sequence = 0;
    let mut transaction = |key: &str, value: &str, commit: bool| {
        let record = [Record::new(value).key(key)];
        log.append_batch_with(&record, AppendOptions::new().transactional(7, 0, sequence)).unwrap();
        sequence += 1;
        let marker = annals::format::EndTransactionMarker { coordinator_epoch: 0, commit };
        log.end_transaction(7, 0, marker, AppendOptions::new()).unwrap();
    };
    transaction("a", "kept", true);
    transaction("a", "taken back", false);
    transaction("b", "taken back", false);
    fill_others(&log);
    let committed = |log: &Partition| -> BTreeMap<Vec<u8>, Vec<u8>> {
        log.read_from_with(0, Isolation::ReadCommitted)
            .unwrap()
            .map(|record| {
                let record = record.unwrap();
                (record.key().unwrap().to_vec(), record.value().unwrap().to_vec())
            })
            .collect()
    };
    let expected = committed(&log);
    assert_eq!(expected[b"a".as_slice()], b"kept");
    for _ in 0..4 {
        log.compact().unwrap();
        assert_eq!(committed(&log), expected);
        machine.clock.advance(Duration::from_secs(61));
        fill_others(&log);
        let expected_last = committed(&log);
        assert_eq!(expected_last.len(), expected.len());
    }
    assert!(!all(&log).iter().any(|(_, _, value)| value.as_deref() == Some("taken back")));
    // Its sequence goes on.
    let again = [Record::new("more").key("a")];
    let out_of_order = log.append_batch_with(&again, AppendOptions::new().idempotent(7, 0, sequence + 1));
    assert!(matches!(out_of_order, Err(Error::OutOfOrderSequence { .. })));
    log.append_batch_with(&again, AppendOptions::new().idempotent(7, 0, sequence)).unwrap();
}

#[test]
fn maintenance_compacts_what_is_due_and_shows_it() {
    let machine = Machine::new();
    let config = compacted().set("min.cleanable.dirty.ratio", "0.5").unwrap();
    let (store, log) = machine.start(config.set("min.compaction.lag.ms", "1000").unwrap());
    fill(&log, 20);
    assert!(!log.compaction_status().due, "everything is too young");
    assert!(store.maintain().unwrap().compacted.is_empty());
    machine.clock.advance(Duration::from_secs(2));
    let before = log.compaction_status();
    assert!(before.due && before.dirty_bytes > 0 && before.dirty_ratio > 0.5, "{before:?}");
    let report = store.maintain().unwrap();
    assert_eq!(report.compacted.len(), 1);
    let after = log.compaction_status();
    assert!(!after.due && after.runs == 1 && after.failures == 0, "{after:?}");
    assert_eq!((after.first_dirty, after.last_run), (before.first_uncleanable, Some(report.compacted[0].1)));
    // Settings take effect at once: now everything that is sealed is old enough, and any dirt is enough.
    fill(&log, 3);
    assert!(store.maintain().unwrap().compacted.is_empty());
    let topic = store.topic("t").unwrap();
    topic
        .configure([("min.compaction.lag.ms", Some("0")), ("min.cleanable.dirty.ratio", Some("0.0"))])
        .unwrap();
    assert_eq!(store.maintain().unwrap().compacted.len(), 1);
    // How far it came survives.
    let first_dirty = log.compaction_status().first_dirty;
    drop((store, log));
    let (_store, log) = machine.restart();
    assert_eq!(log.compaction_status().first_dirty, first_dirty);
}

#[test]
fn a_record_that_is_too_old_makes_compaction_due_and_rolls_the_segment() {
    let machine = Machine::new();
    let config = compacted().set("min.cleanable.dirty.ratio", "1").unwrap().segment_bytes(1 << 20);
    let (store, log) = machine.start(config.set("max.compaction.lag.ms", "5000").unwrap());
    fill(&log, 2);
    machine.clock.advance(Duration::from_secs(6));
    put(&log, "key-0", "new");
    assert_eq!(log.segments().len(), 2, "what is to be compacted in time is sealed in time");
    machine.clock.advance(Duration::from_millis(1));
    assert_eq!(store.maintain().unwrap().compacted.len(), 1);
    assert_eq!(all(&log).len(), 8);
}

#[test]
fn damage_ends_a_run_keeps_everything_and_is_tried_again() {
    let machine = Machine::new();
    let (store, log) = machine.start(compacted());
    fill(&log, 20);
    let before = all(&log);
    let file = logs::file(0, "log");
    let bytes = machine.disk.read(&file).unwrap();
    let mut damaged = bytes.clone();
    damaged[200] ^= 1;
    machine.disk.write(&file, &damaged).unwrap();
    assert!(matches!(log.compact(), Err(Error::Corruption { .. })));
    let status = log.compaction_status();
    assert!(
        status.failures == 1 && status.last_error.is_some() && status.retry_after.is_some(),
        "{status:?}"
    );
    assert!(store.maintain().unwrap().compacted.is_empty(), "it waits before it tries again");
    machine.clock.advance(Duration::from_secs(16));
    assert!(store.maintain().is_err());
    assert_eq!(log.compaction_status().failures, 2);
    machine.disk.write(&file, &bytes).unwrap();
    assert_eq!(all(&log), before);
    machine.clock.advance(Duration::from_secs(16));
    assert!(store.maintain().unwrap().compacted.is_empty(), "twice as long now");
    machine.clock.advance(Duration::from_secs(16));
    assert_eq!(store.maintain().unwrap().compacted.len(), 1);
    assert_eq!((log.compaction_status().failures, log.compaction_status().last_error), (0, None));
}

#[test]
fn a_rate_is_kept_to() {
    let machine = Machine::new();
    let store = machine.options().compaction_bytes_per_second(Some(1_000));
    let store = store.open_in(std::sync::Arc::new(machine.disk.clone())).unwrap();
    let log = store.create_topic("t", compacted()).unwrap().partition(0).unwrap();
    fill(&log, 20);
    let report = log.compact().unwrap().unwrap();
    // What it reads twice, and what it writes.
    let least = (2 * report.bytes_before + report.bytes_after) / 1_000;
    assert!(report.took >= Duration::from_secs(least - 1), "{report:?}");
    assert!(report.took <= Duration::from_secs(least + 2), "{report:?}");
}

#[test]
fn a_full_disk_ends_a_run_and_leaves_the_log_as_it_is() {
    let machine = Machine::new();
    let (_store, log) = machine.start(compacted());
    fill(&log, 20);
    let before = all(&log);
    for spare in (0..6_000).step_by(300) {
        machine.disk.set_capacity(Some(machine.disk.used() + spare));
        let result = log.compact();
        machine.disk.set_capacity(None);
        if result.is_ok() {
            break;
        }
        assert!(matches!(result, Err(Error::StorageFull { .. })), "{result:?}");
        assert_eq!(view(&log), view_of(&before));
    }
    log.compact().unwrap();
    assert_eq!(view(&log), view_of(&before));
    assert_eq!(log.append(&Record::new("after").key("key-0")).unwrap(), 140);
}

fn view_of(records: &[(u64, String, Option<String>)]) -> BTreeMap<String, Option<String>> {
    records.iter().map(|(_, key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn a_topic_that_is_not_compacted_is_refused() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    assert!(matches!(log.compact(), Err(Error::PolicyViolation { .. })));
}

#[test]
fn any_call_that_fails_in_a_run_leaves_the_log_whole_and_truncation_certain() {
    let prepare = || {
        let machine = Machine::new();
        let (store, log) = machine.start(compacted());
        fill(&log, 20);
        (machine, store, log)
    };
    let calls = {
        let (machine, _store, log) = prepare();
        let before = machine.disk.calls();
        log.compact().unwrap();
        before..machine.disk.calls()
    };
    for call in calls.clone() {
        for fault in [Fault::Error(5), Fault::Late(5)] {
            let (machine, store, log) = prepare();
            assert_eq!(machine.disk.calls(), calls.start);
            machine.disk.fail(When::nth(call + 1 - calls.start), fault);
            let failed = log.compact().is_err();
            machine.disk.heal();
            let label = format!("call {call}, {fault:?}, failed {failed}");
            // What is cut now must not come back out of what the run has left.
            let expected = view(&log);
            log.truncate_to(30).unwrap_or_else(|error| panic!("{label}: {error}"));
            for n in 0..30 {
                put(&log, &format!("new-{n}"), "after the cut");
            }
            let after = all(&log);
            let crashed = Machine::of(machine.disk.crash(Crash::ProcessKill));
            drop((store, log));
            for machine in [machine, crashed] {
                let (_store, log) = machine.restart();
                assert!(log.recovery_report().damage.is_empty(), "{label}: {:?}", log.recovery_report());
                assert_eq!(all(&log), after, "{label}");
            }
            assert_eq!(expected.len(), 7, "{label}");
        }
    }
}

/// A run with compactions in it; stops at the first failure, as after a power cut all calls fail.
fn run(machine: &Machine) -> Option<()> {
    let store = machine.try_open().ok()?;
    let log = store.create_topic("t", compacted().set("file.delete.delay.ms", "0").unwrap()).ok()?;
    let log = log.partition(0).ok()?;
    for round in 0..3 {
        for n in 0..12 {
            let (key, value) = (format!("key-{}", n % 4), format!("value-{round}-{n}-{}", "x".repeat(60)));
            log.append(&Record::new(&value).key(&key)).ok()?;
        }
        log.compact().ok()?;
        store.maintain().ok()?;
    }
    Some(())
}

fn expected_view(acknowledged: u64) -> BTreeMap<String, Option<String>> {
    (0..acknowledged)
        .map(|n| {
            let value = format!("value-{}-{}-{}", n / 12, n % 12, "x".repeat(60));
            (format!("key-{}", n % 12 % 4), Some(value))
        })
        .collect()
}

#[test]
fn a_crash_at_any_call_leaves_the_last_value_of_every_key() {
    let whole = Machine::new();
    run(&whole).unwrap();
    for call in 1..=whole.disk.calls() {
        let machine = Machine::new();
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        let _ = run(&machine);
        let mut images = vec![machine.disk.crash(Crash::ProcessKill)];
        images.extend((0..3).map(|seed| machine.disk.crash(Crash::PowerCut { seed: seed * call })));
        for (nth, image) in images.into_iter().enumerate() {
            let label = format!("call {call}, image {nth}");
            let machine = Machine::of(image);
            let store = machine.try_open().unwrap_or_else(|error| panic!("{label}: {error}"));
            let Ok(topic) = store.topic("t") else { continue };
            let log = topic.partition(0).unwrap();
            let report = log.recovery_report();
            assert!(report.damage.is_empty(), "{label}: {report:?}");
            assert_eq!(view(&log), expected_view(log.log_end()), "{label}");
            log.compact().unwrap_or_else(|error| panic!("{label}: {error}"));
            assert_eq!(view(&log), expected_view(log.log_end()), "{label}, compacted again");
            drop(store);
            let again =
                Store::options().clock(machine.clock.clone()).open_in(std::sync::Arc::new(machine.disk));
            let log = again.unwrap().topic("t").unwrap().partition(0).unwrap();
            assert_eq!(view(&log), expected_view(log.log_end()), "{label}, opened again");
        }
    }
}

// ---- exchanges that are interrupted ----

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

#[test]
fn what_a_swap_left_in_the_middle_put_into_the_log_can_be_deleted() {
    let machine = Machine::new();
    let (store, log) = small_segments(&machine, "compact,delete");
    machine.disk.fail(When::next().of(&[Call::Rename]).under(file(0, "log")), Fault::Error(5));
    assert!(log.compact().is_err());
    assert_eq!(log.segments(), [0, 4]);
    assert_eq!(log.delete_records(4).unwrap(), 4);
    let expected = vec![(4, "3".to_owned())];
    assert_eq!(values(&log, log.log_start()), expected);
    put(&log, "d", "4");
    log.roll().unwrap();
    log.compact().unwrap();
    assert!(!log.truncate_to(6).unwrap());
    for found in [machine.killed(), machine.cut_off()] {
        let (_store, log) = found.restart();
        assert_eq!(log.recovery_report().damage, []);
        assert_eq!(values(&log, log.log_start())[0], expected[0]);
    }
    store.close().unwrap();
    let names = machine.disk.names();
    let left = |name: &PathBuf| *name == file(0, "log") || name.to_string_lossy().ends_with(".swap");
    assert!(!names.iter().any(left), "{names:?}");
}

#[test]
fn a_deleted_log_finishes_no_swap_in_the_directory_of_another() {
    let machine = Machine::new();
    let (store, old) = small_segments(&machine, "compact");
    machine.disk.fail(When::next().of(&[Call::Rename]).under(file(1, "log")), Fault::Error(5));
    assert!(old.compact().is_err());
    store.delete_topic("t").unwrap();
    let new = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&new, &["new"]);
    new.roll().unwrap();
    append(&new, &["newer"]);
    let before = machine.disk.names();
    assert!(old.truncate_to(1).is_err());
    assert_eq!(machine.disk.names(), before);
    assert_eq!(values(&new, new.log_start()).len(), 2);
}
