//! What goes from the front of a log: by size, by age, by offset; what stays, who goes on reading, and what the next
//! opening finds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/crashes.rs"]
mod crashes;
#[path = "common/logs.rs"]
mod logs;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::fs::{Call, Fault, When};
use annals::{
    AppendOptions, Durability, Error, FetchOptions, Isolation, Partition, Record, Store, TopicConfig,
};
use crashes::{at_every_call, with_every_call_failing};
use logs::{Machine, NOW, append, expected, file, value, values};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const SECOND: Duration = Duration::from_secs(1);

/// Three batches of one record each to a segment; nothing goes by itself.
fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(300).index_interval_bytes(60).retention(None)
}

/// Batches of one record each, with these times; returns the size of a batch.
fn fill_at(log: &Partition, times: impl IntoIterator<Item = i64>) -> u64 {
    let before = (log.size(), log.log_end());
    for time in times {
        let text = value(log.log_end());
        log.append(&Record::new(&text).timestamp(time)).unwrap();
    }
    (log.size() - before.0) / (log.log_end() - before.1).max(1)
}

fn fill(log: &Partition, to: u64) -> u64 {
    fill_at(log, vec![NOW; (to - log.log_end()) as usize])
}

fn filled(machine: &Machine, config: TopicConfig, to: u64) -> (Store, Partition) {
    let (store, log) = machine.start(config);
    fill(&log, to);
    (store, log)
}

/// That the log starts there, now and after any restart, and holds the rest.
fn assert_starts(machine: &Machine, store: Store, log: Partition, start: u64) {
    let end = log.log_end();
    let check = |log: &Partition, how: &str| {
        assert!(log.recovery_report().damage.is_empty(), "{how}: {:?}", log.recovery_report());
        assert_eq!((log.log_start(), log.log_end()), (start, end), "{how}");
        assert_eq!(values(log, start), expected(start..end), "{how}");
        if let Some(below) = start.checked_sub(1) {
            let error = log.read_from(below).unwrap_err();
            let Error::OffsetOutOfRange { log_start, log_end, .. } = error else { panic!("{error}") };
            assert_eq!((log_start, log_end), (start, end), "{how}");
            assert!(log.fetch(below, FetchOptions::new()).is_err(), "{how}");
        }
    };
    check(&log, "now");
    check(&machine.killed().restart().1, "killed");
    check(&machine.cut_off().restart().1, "cut off");
    drop(log);
    store.close().unwrap();
    let (store, log) = machine.restart();
    check(&log, "closed");
    assert_eq!(append(&log, &[&value(end)]), end);
    assert_eq!(values(&log, start), expected(start..end + 1));
    drop((store, log));
}

// ---- by size ----

#[test]
fn the_oldest_segments_go_while_what_is_too_much_covers_them() {
    let size = filled_size();
    // 12 records in 4 segments of 3: what is kept at most, in bytes, and where the log starts then.
    for (kept, start) in [
        (12 * size, 0),
        (100 * size, 0),
        (9 * size + 1, 0),
        (9 * size, 3),
        (8 * size, 3),
        (6 * size + 1, 3),
        (6 * size, 6),
        (3 * size, 9),
        (size, 9),
        (1, 9),
    ] {
        let machine = Machine::new();
        let (store, log) = filled(&machine, small().retention_bytes(Some(kept)), 12);
        let expired = log.apply_retention().unwrap();
        assert_eq!(
            (expired.log_start, expired.segments as u64, expired.bytes),
            (start, start / 3, start * size)
        );
        assert_eq!(log.segments(), (start..12).step_by(3).collect::<Vec<_>>(), "{kept} bytes are kept");
        assert_eq!(log.size(), (12 - start) * size);
        let again = log.apply_retention().unwrap();
        assert_eq!((again.log_start, again.segments, again.bytes), (start, 0, 0), "nothing is left to go");
        let stats = log.stats();
        assert_eq!((stats.expired_segments, stats.expired_bytes), (start / 3, start * size));
        assert_eq!((stats.retired_segments as u64, stats.log_start), (start / 3, start));
        assert_starts(&machine, store, log, start);
    }
}

fn filled_size() -> u64 {
    let machine = Machine::new();
    fill(&machine.start(small()).1, 3)
}

#[test]
fn where_everything_is_too_much_a_new_segment_is_begun_first() {
    let machine = Machine::new();
    let (store, log) = filled(&machine, small().retention_bytes(Some(0)), 11);
    let expired = log.apply_retention().unwrap();
    assert_eq!((expired.log_start, expired.segments), (11, 4));
    assert_eq!((log.segments(), log.size()), (vec![11], 0));
    // An empty one that is being appended to stays, however often it is looked at.
    for _ in 0..3 {
        machine.clock.advance(Duration::from_secs(1_000_000));
        let expired = log.apply_retention().unwrap();
        assert_eq!((expired.log_start, expired.segments), (11, 0));
        assert_eq!(log.segments(), [11]);
        assert!(machine.disk.read(file(11, "log")).is_some());
    }
    assert_starts(&machine, store, log, 11);
}

#[test]
fn only_a_policy_with_delete_deletes_by_size_and_age() {
    let machine = Machine::new();
    let config =
        small().retention_bytes(Some(0)).retention(Some(SECOND)).set("cleanup.policy", "compact").unwrap();
    let (_store, log) = machine.start(config);
    for offset in 0..12 {
        log.append(&Record::new(&value(offset)).key("k").timestamp(NOW - 1_000_000)).unwrap();
    }
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    assert_eq!((log.log_start(), values(&log, 0)), (0, expected(0..12)));

    let machine = Machine::new();
    let config = small().retention_bytes(Some(0)).set("cleanup.policy", "compact,delete").unwrap();
    let (_store, log) = machine.start(config);
    for offset in 0..12 {
        log.append(&Record::new(&value(offset)).key("k")).unwrap();
    }
    assert_eq!(log.apply_retention().unwrap().log_start, 12);
}

// ---- by age ----

#[test]
fn segments_go_whose_newest_record_is_too_old() {
    let machine = Machine::new();
    let (store, log) = machine.start(small().retention(Some(Duration::from_millis(1_000))));
    // The last of each segment is not its newest.
    fill_at(
        &log,
        [NOW, NOW + 500, NOW + 10, NOW + 700, NOW + 1_500, NOW + 20, NOW + 30, NOW + 2_000, NOW + 40],
    );
    let at = |now: i64| {
        machine.clock.set(now);
        log.apply_retention().unwrap().log_start
    };
    assert_eq!(at(NOW), 0);
    assert_eq!(at(NOW + 1_500), 0, "just as old as may be");
    assert_eq!(at(NOW + 1_501), 3);
    assert_eq!(at(NOW + 2_500), 3);
    assert_eq!(at(NOW + 2_501), 6);
    assert_eq!(at(NOW + 3_000), 6);
    assert_eq!(log.segments(), [6]);
    assert_starts(&machine, store, log, 6);
    machine.clock.set(NOW + 3_001);
    let (_store, log) = machine.restart();
    assert_eq!(log.apply_retention().unwrap().log_start, 9, "another was appended at the end");
    machine.clock.set(NOW + 4_001);
    assert_eq!(log.apply_retention().unwrap().log_start, 10);
    assert_eq!(log.segments(), [10]);
}

#[test]
fn an_older_segment_behind_a_newer_one_waits_for_it() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small().retention(Some(SECOND)));
    fill_at(&log, [NOW, NOW, NOW + 90_000, NOW, NOW, NOW, NOW, NOW, NOW + 60_000]);
    machine.clock.set(NOW + 50_000);
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    machine.clock.set(NOW + 91_001);
    assert_eq!(log.apply_retention().unwrap().segments, 3);
}

#[test]
fn a_record_from_the_future_pins_its_segment_by_record_time_alone() {
    for (by, start) in [("record", 3), ("append", 9)] {
        for restarted in [false, true] {
            let machine = Machine::new();
            let config = small()
                .retention(Some(SECOND))
                .segment_age(Duration::from_secs(1 << 40))
                .set("annals.retention.by", by)
                .unwrap()
                .set("message.timestamp.after.max.ms", "9223372036854775807")
                .unwrap();
            let (store, log) = machine.start(config);
            fill_at(&log, [NOW, NOW, NOW, NOW, NOW + 1_000_000_000, NOW, NOW, NOW, NOW]);
            let (_store, log) = if restarted {
                drop(log);
                store.close().unwrap();
                machine.restart()
            } else {
                (store, log)
            };
            machine.clock.advance(Duration::from_millis(1_000));
            assert_eq!(log.apply_retention().unwrap().log_start, 0);
            machine.clock.advance(Duration::from_millis(1));
            assert_eq!(log.apply_retention().unwrap().log_start, start, "by {by}, restarted: {restarted}");
        }
    }
}

#[test]
fn append_time_is_that_of_the_last_append_whatever_records_say() {
    let machine = Machine::new();
    let config = small().retention(Some(SECOND)).set("annals.retention.by", "append").unwrap();
    let (_store, log) = machine.start(config);
    // Very old records, appended just now: event times of an import.
    fill_at(&log, [1, 2]);
    machine.clock.advance(Duration::from_millis(900));
    fill_at(&log, [3, 4, 5]);
    machine.clock.advance(Duration::from_millis(1_000));
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    for (machine, how) in [(machine.killed(), "killed"), (machine.clone(), "running")] {
        let opened = (how == "killed").then(|| machine.restart());
        let log = opened.as_ref().map_or(&log, |(_, log)| log);
        machine.clock.advance(Duration::from_millis(1));
        let expired = log.apply_retention().unwrap();
        // After a crash the file's own time may be all that is known, which is no earlier.
        assert!(expired.segments == 2 || how == "killed", "{how}: {expired:?}");
    }
}

#[test]
fn records_without_a_time_are_as_old_as_their_append() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small().retention(Some(SECOND)));
    fill_at(&log, [-1; 7]);
    machine.clock.advance(SECOND);
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    machine.clock.advance(Duration::from_millis(1));
    assert_eq!(log.apply_retention().unwrap().segments, 3);
}

#[test]
fn a_clock_that_goes_back_deletes_nothing() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small().retention(Some(SECOND)));
    fill(&log, 9);
    for now in [NOW - 1, 0, -5, i64::MIN] {
        machine.clock.set(now);
        assert_eq!(log.apply_retention().unwrap().segments, 0, "{now}");
    }
    machine.clock.set(i64::MAX);
    assert_eq!(log.apply_retention().unwrap().segments, 3);
}

#[test]
fn changed_settings_are_in_force_at_once() {
    let machine = Machine::new();
    let (store, log) = filled(&machine, small(), 12);
    let topic = store.topic("t").unwrap();
    machine.clock.advance(Duration::from_secs(60));
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    topic.configure([("retention.bytes", Some("800"))]).unwrap();
    let first = log.apply_retention().unwrap();
    assert!(first.segments > 0 && first.log_start < 12);
    topic.configure([("retention.bytes", None)]).unwrap();
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    topic.configure([("retention.ms", Some("60000"))]).unwrap();
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    topic.configure([("cleanup.policy", Some("compact")), ("retention.ms", Some("59999"))]).unwrap();
    assert_eq!(log.apply_retention().unwrap().segments, 0);
    topic.configure([("cleanup.policy", Some("delete"))]).unwrap();
    assert_eq!(log.apply_retention().unwrap().log_start, 12);
}

// ---- never past the high watermark ----

#[test]
fn nothing_above_the_high_watermark_goes() {
    let config = || small().set("annals.replicated", "true").unwrap();
    for (watermark, start) in [(0, 0), (2, 0), (3, 3), (5, 3), (6, 6), (11, 9), (12, 12)] {
        for config in [config().retention_bytes(Some(0)), config().retention(Some(SECOND))] {
            let machine = Machine::new();
            let (_store, log) = filled(&machine, config, 12);
            assert_eq!(log.set_high_watermark(watermark).unwrap(), watermark);
            machine.clock.advance(Duration::from_secs(3_600));
            assert_eq!(log.apply_retention().unwrap().log_start, start, "{watermark}");
            assert_eq!((log.log_end(), log.high_watermark()), (12, watermark));
            if watermark < 12 {
                let above = log.delete_records(watermark + 1).unwrap_err();
                let Error::OffsetOutOfRange { requested, log_start, log_end, .. } = above else {
                    panic!("{above}")
                };
                assert_eq!((requested, log_start, log_end), (watermark + 1, start, watermark));
            }
            assert_eq!(log.delete_records(watermark).unwrap(), watermark.max(start));
            for machine in [machine.killed(), machine.cut_off()] {
                let (_store, log) = machine.restart();
                assert_eq!((log.log_start(), log.log_end()), (watermark, 12));
                assert!((watermark..=12).contains(&log.high_watermark()));
            }
        }
    }
}

// ---- by offset ----

#[test]
fn records_are_deleted_up_to_an_offset() {
    for before in 0..=12 {
        let machine = Machine::new();
        let (store, log) = filled(&machine, small(), 12);
        assert_eq!(log.delete_records(before).unwrap(), before);
        // Space goes in whole segments.
        let base = (before - before % 3).min(9);
        assert_eq!(log.segments()[0], base, "{before}");
        for lower in [0, before.saturating_sub(1), before] {
            assert_eq!(log.delete_records(lower).unwrap(), before, "it never goes back");
        }
        for above in [13, 1_000, u64::MAX] {
            let error = log.delete_records(above).unwrap_err();
            let Error::OffsetOutOfRange { requested, log_start, log_end, .. } = error else {
                panic!("{error}")
            };
            assert_eq!((requested, log_start, log_end), (above, before, 12));
        }
        assert_starts(&machine, store, log, before);
    }
}

#[test]
fn a_log_start_inside_a_batch_hides_the_records_below_it() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(400));
    for first in (0..12).step_by(3) {
        append(&log, &[&value(first), &value(first + 1), &value(first + 2)]);
    }
    for before in [1, 2, 4, 8, 11] {
        assert_eq!(log.delete_records(before).unwrap(), before);
        let fetched = log.fetch(before, FetchOptions::new()).unwrap();
        assert_eq!((fetched.batches[0].base_offset(), fetched.log_start), (before - before % 3, before));
        assert_eq!(values(&log, before), expected(before..12));
        let by_time = log.offset_for_timestamp(0).unwrap().unwrap();
        assert_eq!(by_time.offset, before, "found by time");
        assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().offset, before);
    }
    assert_starts(&machine, store, log, 11);
}

#[test]
fn a_compacted_topic_does_not_delete_records() {
    let machine = Machine::new();
    let (store, log) = machine.start(small().set("cleanup.policy", "compact").unwrap());
    log.append(&Record::new(&value(0)).key("k")).unwrap();
    for before in [0, 1, 9] {
        let error = log.delete_records(before).unwrap_err();
        let Error::PolicyViolation { partition, reason, .. } = error else { panic!("{error}") };
        assert!(partition == "t-0" && reason.contains("cleanup.policy"));
    }
    assert_eq!(log.log_start(), 0);
    store.topic("t").unwrap().configure([("cleanup.policy", Some("compact,delete"))]).unwrap();
    assert_eq!(log.delete_records(1).unwrap(), 1);
}

#[test]
fn segments_below_a_log_start_go_with_the_next_pass() {
    let machine = Machine::new();
    let config = small().set("annals.replicated", "true").unwrap();
    let (_store, log) = filled(&machine, config, 12);
    log.set_high_watermark(12).unwrap();
    log.delete_records(7).unwrap();
    assert_eq!(log.segments(), [6, 9]);
    let expired = log.apply_retention().unwrap();
    assert_eq!((expired.log_start, expired.segments), (7, 0));
}

#[test]
fn what_is_closed_or_only_read_is_not_deleted() {
    let machine = Machine::new();
    let (store, log) = filled(&machine, small().retention_bytes(Some(0)), 12);
    store.close().unwrap();
    let names = machine.disk.names();
    assert!(matches!(log.apply_retention(), Err(Error::Closed { .. })));
    assert!(matches!(log.delete_records(3), Err(Error::Closed { .. })));
    let store = machine.options().read_only(true).open_in(Arc::new(machine.disk.clone())).unwrap();
    let log = store.topic("t").unwrap().partition(0).unwrap();
    assert!(matches!(log.apply_retention(), Err(Error::ReadOnly { .. })));
    assert!(matches!(log.delete_records(3), Err(Error::ReadOnly { .. })));
    assert_eq!((machine.disk.names(), log.log_start()), (names, 0));
}

// ---- what is known besides records ----

fn marker(commit: bool) -> EndTransactionMarker {
    EndTransactionMarker { coordinator_epoch: 0, commit }
}

#[test]
fn producers_stay_when_their_records_go() {
    for all in [false, true] {
        let machine = Machine::new();
        let (store, log) = machine.start(small());
        for (producer, sequence) in [(7, 0), (7, 1), (8, 0), (7, 2)] {
            let options = AppendOptions::new().idempotent(producer, 3, sequence);
            log.append_batch_with(&[Record::new(&value(0))], options).unwrap();
        }
        let end = if all { log.log_end() } else { 9 };
        fill(&log, end.max(log.log_end()));
        let before = log.producers();
        assert_eq!(before.len(), 2);
        log.delete_records(end).unwrap();
        let check = |log: &Partition, how: &str| {
            assert_eq!((log.log_start(), log.producers()), (end, before.clone()), "{how}");
            let send = |sequence| {
                let options = AppendOptions::new().idempotent(7, 3, sequence);
                log.append_batch_with(&[Record::new("again")], options)
            };
            assert!(matches!(send(9), Err(Error::OutOfOrderSequence { .. })), "{how}");
            assert!(send(2).unwrap().duplicate, "{how}");
            assert!(!send(3).unwrap().duplicate, "{how}");
        };
        check(&machine.killed().restart().1, "killed");
        check(&machine.cut_off().restart().1, "cut off");
        drop(log);
        store.close().unwrap();
        check(&machine.restart().1, "closed");
    }
}

#[test]
fn transactions_whose_beginning_goes_are_still_decided() {
    let machine = Machine::new();
    let (store, log) = machine.start(small());
    let send = |log: &Partition, producer, sequence| {
        let options = AppendOptions::new().transactional(producer, 0, sequence);
        let text = value(log.log_end());
        log.append_batch_with(&[Record::new(&text)], options).unwrap();
    };
    send(&log, 1, 0);
    fill(&log, 5);
    send(&log, 1, 1);
    send(&log, 2, 0);
    fill(&log, 9);
    assert_eq!(log.last_stable_offset(), 0);
    log.delete_records(4).unwrap();
    assert_eq!((log.log_start(), log.last_stable_offset()), (4, 4));
    let committed = |log: &Partition| -> Vec<u64> {
        let reader = log.read_from_with(log.log_start(), Isolation::ReadCommitted).unwrap();
        reader.map(|record| record.unwrap().offset()).collect()
    };
    for log in [&log, &machine.killed().restart().1, &machine.cut_off().restart().1] {
        assert_eq!(committed(log), []);
        assert_eq!(log.last_stable_offset(), 4);
        log.end_transaction(1, 0, marker(false), AppendOptions::new()).unwrap();
        assert_eq!((log.last_stable_offset(), committed(log)), (6, vec![4]));
        log.end_transaction(2, 0, marker(true), AppendOptions::new()).unwrap();
        assert_eq!((log.last_stable_offset(), committed(log)), (11, vec![4, 6, 7, 8]));
        let fetched = log.fetch(4, FetchOptions::new().isolation(Isolation::ReadCommitted)).unwrap();
        let aborted: Vec<_> =
            fetched.aborted.iter().map(|aborted| (aborted.producer_id, aborted.first_offset)).collect();
        assert_eq!(aborted, [(1, 0)]);
    }
    log.delete_records(log.log_end()).unwrap();
    assert!(log.open_transactions().is_empty());
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert_eq!((log.log_start(), log.last_stable_offset(), committed(&log)), (11, 11, vec![]));
    send(&log, 1, 2);
    assert_eq!(log.last_stable_offset(), 11);
}

#[test]
fn files_beside_a_deleted_segment_go_with_it() {
    let machine = Machine::new();
    let (store, log) = machine.start(small());
    for sequence in 0..4 {
        let options = AppendOptions::new().transactional(5, 0, sequence * 2);
        log.append_batch_with(&[Record::new("a"), Record::new("b")], options).unwrap();
        log.end_transaction(5, 0, marker(false), AppendOptions::new()).unwrap();
    }
    let bases = log.segments();
    assert!(bases.len() > 2);
    store.flush().unwrap();
    log.delete_records(bases[2]).unwrap();
    assert_eq!(log.segments(), bases[2..]);
    let name = |base: u64| format!("{base:020}.");
    for path in machine.disk.names() {
        let text = path.to_str().unwrap();
        let old = bases[..2].iter().any(|&base| text.contains(&name(base)));
        assert!(!old || text.ends_with(".deleted"), "{text} is left");
    }
    for machine in [machine.killed(), machine.cut_off()] {
        let _opened = machine.restart();
        assert!(!machine.disk.names().iter().any(|path| path.to_str().unwrap().ends_with(".deleted")));
    }
}

// ---- readers in the middle ----

#[test]
fn readers_in_the_middle_go_on_while_the_files_are_there() {
    // With one file open at a time each read opens it anew, under its new name.
    for open_files in [1, 100] {
        let machine = Machine::new();
        let options = machine.options().max_open_files(open_files);
        let store = options.open_in(Arc::new(machine.disk.clone())).unwrap();
        let log = store.create_topic("t", small()).unwrap().partition(0).unwrap();
        fill(&log, 30);
        for read in 1..12 {
            let mut reader = log.read_from(log.log_start()).unwrap();
            let first = log.log_start();
            for offset in first..first + read.min(3) {
                assert_eq!(reader.next().unwrap().unwrap().offset(), offset);
            }
            let before = first + 3;
            if before > 27 {
                break;
            }
            log.delete_records(before).unwrap();
            let rest: Vec<_> = reader.collect();
            let mut last = first + read.min(3) - 1;
            for record in rest {
                let record = record.unwrap();
                assert_eq!(record.offset(), last + 1);
                assert_eq!(record.value().unwrap(), value(record.offset()).as_bytes());
                last = record.offset();
            }
            assert_eq!(last, 29);
        }
    }
}

#[test]
fn a_reader_that_has_not_begun_is_told_where_the_log_starts() {
    let machine = Machine::new();
    let (_store, log) = filled(&machine, small(), 12);
    let mut reader = log.read_from(1).unwrap();
    log.delete_records(7).unwrap();
    let error = reader.next().unwrap().unwrap_err();
    let Error::OffsetOutOfRange { partition, requested, log_start, log_end } = error else {
        panic!("{error}")
    };
    assert_eq!((partition.as_str(), requested, log_start, log_end), ("t-0", 1, 7, 12));
    assert!(reader.next().is_none());
    // As after damage, it may go on behind.
    assert_eq!(reader.skip_damage(), Some(7));
    assert_eq!(reader.map(|record| record.unwrap().offset()).collect::<Vec<_>>(), [7, 8, 9, 10, 11]);
}

#[test]
fn readers_get_records_or_the_valid_range_while_another_thread_deletes() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small().durability(Durability::Process));
    fill(&log, 20);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                fill(&log, log.log_end() + 7);
                log.delete_records(log.log_end() - 6).unwrap();
            }
            ended.store(true, Ordering::SeqCst);
        });
        for kind in 0..2 {
            let (log, ended) = (&log, &ended);
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    let from = log.log_start();
                    let read: Result<Vec<_>, Error> = if kind == 0 {
                        log.read_from(from).and_then(|reader| {
                            reader
                                .map(|record| {
                                    record.map(|record| (record.offset(), record.value().unwrap().to_vec()))
                                })
                                .collect()
                        })
                    } else {
                        log.fetch(from, FetchOptions::new()).map(|fetched| {
                            let records =
                                fetched.batches.iter().flat_map(|batch| batch.records(1 << 20).unwrap());
                            records
                                .map(|record| (record.offset(), record.value().unwrap().to_vec()))
                                .collect()
                        })
                    };
                    match read {
                        Ok(records) => {
                            for (expected, (offset, text)) in (from..).zip(records) {
                                assert_eq!((offset, text), (expected, value(expected).into_bytes()));
                            }
                        }
                        Err(Error::OffsetOutOfRange { requested, log_start, .. }) => {
                            assert!(requested < log_start)
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
}

fn deleted_files(machine: &Machine) -> usize {
    let deleted = |path: &&std::path::PathBuf| path.to_str().unwrap().ends_with(".deleted");
    machine.disk.names().iter().filter(deleted).count()
}

#[test]
fn files_are_removed_after_their_delay_and_slow_readers_are_told() {
    let machine = Machine::new();
    let config = small().set("file.delete.delay.ms", "5000").unwrap();
    let (store, log) = filled(&machine, config, 12);
    let mut reader = log.read_from(0).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset(), 0);
    let mut slow = log.read_from(3).unwrap();
    assert_eq!(slow.next().unwrap().unwrap().offset(), 3);
    log.delete_records(9).unwrap();
    assert!(deleted_files(&machine) > 0);
    machine.clock.advance(Duration::from_millis(4_999));
    store.maintain().unwrap();
    // The segment at hand is read to its end; the next one is no part of the log any more.
    assert_eq!([1, 2].map(|_| reader.next().unwrap().unwrap().offset()), [1, 2]);
    assert!(matches!(
        reader.next(),
        Some(Err(Error::OffsetOutOfRange { requested: 3, log_start: 9, log_end: 12, .. }))
    ));
    machine.clock.advance(Duration::from_millis(1));
    store.maintain().unwrap();
    assert_eq!((deleted_files(&machine), log.stats().retired_segments), (0, 0));
    // What it had read ahead it may still hand out.
    let error = slow.find_map(Result::err);
    if let Some(error) = error {
        let Error::OffsetOutOfRange { log_start, log_end, .. } = error else { panic!("{error}") };
        assert_eq!((log_start, log_end), (9, 12));
    }
    assert_eq!(values(&log, 9), expected(9..12));
}

#[test]
fn maintenance_applies_retention() {
    let machine = Machine::new();
    let (store, log) = filled(&machine, small().retention(Some(SECOND)), 12);
    store.maintain().unwrap();
    assert_eq!(log.log_start(), 0);
    // Whatever the interval at which it looks, an hour later it has.
    machine.clock.advance(Duration::from_secs(3_600));
    store.maintain().unwrap();
    assert_eq!((log.log_start(), log.segments()), (12, vec![12]));
    machine.clock.advance(Duration::from_secs(3_600));
    store.maintain().unwrap();
    assert_eq!(deleted_files(&machine), 0);
}

// ---- crashes and failures ----

fn with_producers(machine: &Machine, config: TopicConfig) -> (Store, Partition) {
    let (store, log) = machine.start(config);
    for sequence in 0..2 {
        let options = AppendOptions::new().idempotent(7, 0, sequence);
        let text = value(log.log_end());
        log.append_batch_with(&[Record::new(&text).timestamp(NOW)], options).unwrap();
    }
    fill(&log, 11);
    (store, log)
}

/// Whether the log starts at one of these and holds the rest, with all that is known of producers.
fn assert_from(machine: &Machine, starts: &[u64], name: &str) {
    let (_store, log) = machine.restart();
    assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
    let start = log.log_start();
    assert!(starts.contains(&start), "{name}: it starts at {start}");
    assert_eq!((log.log_end(), values(&log, start)), (11, expected(start..11)), "{name}");
    let producers: Vec<_> =
        log.producers().iter().map(|known| (known.producer_id, known.last_sequence)).collect();
    assert_eq!(producers, [(7, Some(1))], "{name}");
    assert_eq!(append(&log, &[&value(11)]), 11, "{name}");
    let (_store, log) = machine.killed().restart();
    assert_eq!((log.log_start(), values(&log, start)), (start, expected(start..12)), "{name}: once more");
}

#[test]
fn a_power_cut_at_any_call_of_retention_loses_nothing_else() {
    let size = filled_size();
    at_every_call(
        |machine| with_producers(machine, small().retention_bytes(Some(5 * size))),
        |log| log.apply_retention().map(drop),
        |machine, done, name| assert_from(machine, if done { &[6] } else { &[0, 6] }, name),
    );
}

#[test]
fn a_power_cut_at_any_call_of_a_retention_that_takes_all_loses_nothing_else() {
    at_every_call(
        |machine| with_producers(machine, small().retention_bytes(Some(0))),
        |log| log.apply_retention().map(drop),
        |machine, done, name| assert_from(machine, if done { &[11] } else { &[0, 11] }, name),
    );
}

#[test]
fn a_power_cut_at_any_call_of_a_deletion_loses_nothing_else() {
    for before in [4, 11] {
        at_every_call(
            |machine| with_producers(machine, small()),
            |log| log.delete_records(before).map(drop),
            |machine, done, name| {
                let starts = if done { vec![before] } else { vec![0, before] };
                assert_from(machine, &starts, &format!("{before}, {name}"));
            },
        );
    }
}

#[test]
fn a_full_disk_does_not_keep_retention_from_its_work() {
    let size = filled_size();
    at_every_call(
        |machine| {
            let opened = with_producers(machine, small().retention_bytes(Some(5 * size)));
            machine.disk.set_capacity(Some(machine.disk.used()));
            opened
        },
        |log| {
            let expired = log.apply_retention()?;
            assert_eq!((expired.log_start, log.segments()), (6, vec![6, 9]));
            Ok(())
        },
        // Without a log start written down, the segments go one by one.
        |machine, done, name| assert_from(machine, if done { &[6] } else { &[0, 3, 6] }, name),
    );
}

#[test]
fn a_full_disk_does_not_keep_records_from_being_deleted() {
    let machine = Machine::new();
    let (_store, log) = with_producers(&machine, small());
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert_eq!(log.delete_records(6).unwrap(), 6);
    assert_eq!(values(&log, 6), expected(6..11));
    for machine in [machine.killed(), machine.cut_off()] {
        assert_from(&machine, &[6], "deleted");
    }
    machine.disk.set_capacity(Some(machine.disk.used()));
    // What the names of files cannot say is forgotten in a crash, but nothing else; the caller is told.
    assert!(matches!(log.delete_records(8), Err(Error::StorageFull { .. })));
    assert_eq!(log.log_start(), 8);
    for machine in [machine.killed(), machine.cut_off()] {
        assert_from(&machine, &[6, 8], "deleted inside a segment");
    }
    machine.disk.set_capacity(None);
    assert_eq!(log.delete_records(8).unwrap(), 8);
    for machine in [machine.killed(), machine.cut_off()] {
        assert_from(&machine, &[8], "deleted with room");
    }
}

#[test]
fn a_full_disk_on_which_everything_is_too_old_gives_up_all_but_the_last_segment() {
    let machine = Machine::new();
    let (_store, log) = with_producers(&machine, small().retention(Some(SECOND)));
    machine.clock.advance(Duration::from_secs(60));
    machine.disk.set_capacity(Some(machine.disk.used()));
    let expired = log.apply_retention();
    assert!(log.log_start() >= 9, "{expired:?}: the log starts at {}", log.log_start());
    machine.disk.set_capacity(None);
    assert_eq!(log.apply_retention().unwrap().log_start, 11);
    assert_from(&machine.cut_off(), &[11], "with room");
}

#[test]
fn a_full_disk_has_room_again_once_files_are_removed() {
    let machine = Machine::new();
    let config = small().set("file.delete.delay.ms", "1000").unwrap();
    let (store, log) = filled(&machine, config, 12);
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert!(matches!(log.append(&Record::new(&value(12))), Err(Error::StorageFull { .. })));
    assert_eq!(log.delete_records(6).unwrap(), 6);
    let full = machine.disk.used();
    machine.clock.advance(SECOND);
    store.maintain().unwrap();
    assert!(machine.disk.used() < full);
    assert_eq!(append(&log, &[&value(12)]), 12);
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().damage.is_empty());
        assert_eq!((log.log_start(), values(&log, 6)), (6, expected(6..13)));
    }
}

#[test]
fn a_poisoned_log_gives_up_its_front() {
    let machine = Machine::new();
    let (_store, log) = filled(&machine, small().retention_bytes(Some(400)), 12);
    machine.disk.fail(When::next().of(&[Call::Sync]).under(Path::new("t-0")), Fault::Forget);
    assert!(log.append(&Record::new("lost")).is_err());
    assert!(matches!(log.append(&Record::new("refused")), Err(Error::Poisoned { .. })));
    let start = log.apply_retention().unwrap().log_start;
    assert!(start > 0);
    assert_eq!(log.delete_records(10).unwrap(), 10);
    assert_eq!(values(&log, 10), expected(10..12));
    log.reopen().unwrap();
    assert_eq!(append(&log, &[&value(12)]), 12);
    let (_store, log) = machine.cut_off().restart();
    assert_eq!((log.log_start(), values(&log, 10)), (10, expected(10..13)));
}

#[test]
fn a_failure_at_any_call_of_retention_leaves_a_log_that_goes_on() {
    let size = filled_size();
    for errno in [EIO, ENOSPC] {
        for kept in [0, 5 * size] {
            with_every_call_failing(
                errno,
                |machine| with_producers(machine, small().retention_bytes(Some(kept))),
                |log| log.apply_retention().map(drop),
                |machine, store, log, done, name| {
                    let name = format!("{kept}, {name}");
                    let start = log.log_start();
                    let target = if kept == 0 { 11 } else { 6 };
                    assert!(!done || start == target || errno == ENOSPC, "{name}: {start}");
                    assert_eq!(values(&log, start), expected(start..11), "{name}");
                    log.reopen().unwrap_or_else(|error| panic!("{name}: {error}"));
                    for machine in [machine.killed(), machine.cut_off()] {
                        assert_from(&machine, &[0, 3, 6, 9, 11], &name);
                    }
                    let expired = log.apply_retention().unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert_eq!(expired.log_start, target, "{name}");
                    for machine in [machine.killed(), machine.cut_off()] {
                        assert_from(&machine, &[target], &name);
                    }
                    drop(log);
                    store.close().unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert_from(machine, &[target], &name);
                },
            );
        }
    }
}
