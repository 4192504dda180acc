//! Taking back the end of a log: what is left, for readers, for the next append, and for the next opening.
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

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::fs::{Call, Fault, When};
use annals::{
    AppendOptions, Durability, Error, FetchOptions, Isolation, Partition, Record, Store, TopicConfig,
};
use crashes::{at_every_call, with_every_call_failing};
use logs::{Machine, NOW, append, expected, file, records, value, values};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn other(offset: u64) -> String {
    format!("another for offset {offset:05}")
}

/// Small segments, and index entries for nearly every batch.
fn small() -> TopicConfig {
    TopicConfig::new().segment_bytes(300).index_interval_bytes(60)
}

/// Batches of one record each; three fit into a segment of [`small`].
fn fill(log: &Partition, to: u64) {
    for offset in log.log_end()..to {
        let record = value(offset);
        let time = NOW + offset as i64;
        let appended = log.append(&Record::new(&record).timestamp(time)).unwrap();
        assert_eq!(appended, offset);
    }
}

fn filled(machine: &Machine, config: TopicConfig, to: u64) -> (Store, Partition) {
    let (store, log) = machine.start(config);
    fill(&log, to);
    (store, log)
}

/// Batches of three records each, one to a segment of 200 bytes.
fn filled_by_threes(machine: &Machine, config: TopicConfig, to: u64) -> (Store, Partition) {
    let (store, log) = machine.start(config);
    while log.log_end() < to {
        let first = log.log_end();
        append(&log, &[&value(first), &value(first + 1), &value(first + 2)]);
    }
    (store, log)
}

fn bases(to: u64) -> Vec<u64> {
    (0..to).step_by(3).collect()
}

/// That everything between log start and log end can be had, one by one and as a whole.
fn assert_readable(log: &Partition, name: &str) -> Vec<(u64, String)> {
    let found = values(log, log.log_start());
    for (at, (offset, _)) in found.iter().enumerate() {
        assert_eq!(values(log, *offset), found[at..], "{name}: from {offset}");
        let fetched = log.fetch(*offset, FetchOptions::new().max_bytes(1)).unwrap();
        assert!(fetched.batches[0].base_offset() <= *offset && fetched.next_offset > *offset, "{name}");
    }
    assert_eq!(values(log, log.log_end()), [], "{name}");
    assert!(matches!(log.read_from(log.log_end() + 1), Err(Error::OffsetOutOfRange { .. })), "{name}");
    found
}

// ---- where it cuts ----

#[test]
fn a_log_is_cut_at_any_offset() {
    for to in 0..12 {
        let machine = Machine::new();
        let (store, log) = filled(&machine, small(), 12);
        assert_eq!(log.segments(), bases(12));
        assert!(log.truncate_to(to).unwrap());
        assert_eq!((log.log_start(), log.log_end(), log.high_watermark()), (0, to, to));
        assert_eq!(log.segments(), if to == 0 { vec![0] } else { bases(to + 1) }, "cut to {to}");
        assert_eq!(assert_readable(&log, "cut"), expected(0..to));
        assert!(!log.truncate_to(to).unwrap(), "nothing is left to cut");
        fill(&log, 14);
        assert_eq!(assert_readable(&log, "filled again"), expected(0..14));
        drop(log);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().clean);
        assert_eq!(assert_readable(&log, "opened again"), expected(0..14));
    }
}

#[test]
fn an_offset_at_or_behind_the_end_cuts_nothing() {
    let machine = Machine::new();
    let (_store, log) = filled(&machine, small(), 7);
    let before = machine.disk.read(file(6, "log")).unwrap();
    for to in [7, 8, 1_000, u64::MAX] {
        assert!(!log.truncate_to(to).unwrap());
        assert_eq!((log.log_end(), log.segments()), (7, bases(7)));
    }
    assert_eq!(machine.disk.read(file(6, "log")).unwrap(), before);
    fill(&log, 9);
    assert_eq!(assert_readable(&log, "after"), expected(0..9));
}

#[test]
fn a_batch_that_holds_the_offset_goes_as_a_whole_and_the_end_is_the_offset() {
    for to in 1..12 {
        let machine = Machine::new();
        let (store, log) = filled_by_threes(&machine, TopicConfig::new().segment_bytes(400), 12);
        let kept = to - to % 3;
        assert!(log.truncate_to(to).unwrap());
        assert_eq!((log.log_end(), log.high_watermark()), (to, to));
        assert_eq!(values(&log, 0), expected(0..kept), "cut to {to}");
        for from in kept..=to {
            assert_eq!(values(&log, from), [], "from {from}");
            let fetched = log.fetch(from, FetchOptions::new()).unwrap();
            assert!(fetched.batches.is_empty());
        }
        assert!(log.read_from(to + 1).is_err());
        // What comes next lies behind a gap that nobody takes for damage.
        assert_eq!(append(&log, &["next", "one more"]), to);
        let mut all = expected(0..kept);
        all.extend([(to, "next".to_string()), (to + 1, "one more".to_string())]);
        for from in 0..=to {
            let rest: Vec<_> = all.iter().filter(|(offset, _)| *offset >= from).cloned().collect();
            assert_eq!(values(&log, from), rest, "from {from}");
        }
        for (machine, how) in [(machine.killed(), "killed"), (machine.cut_off(), "cut off")] {
            let (_store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{how}: {:?}", log.recovery_report());
            assert_eq!((log.log_end(), values(&log, 0)), (to + 2, all.clone()), "{how}");
        }
        drop(log);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert_eq!((log.log_end(), values(&log, 0)), (to + 2, all));
    }
}

#[test]
fn a_gap_at_the_very_end_is_no_damage_to_the_next_opening() {
    for to in [1, 2, 4, 5, 7, 8] {
        let machine = Machine::new();
        let (store, log) = filled_by_threes(&machine, TopicConfig::new().segment_bytes(400), 9);
        log.truncate_to(to).unwrap();
        let kept = to - to % 3;
        for machine in [machine.killed(), machine.cut_off()] {
            let (_store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
            assert!((kept..=to).contains(&log.log_end()), "{} after {to}", log.log_end());
            assert_eq!(values(&log, 0), expected(0..kept));
            append(&log, &["next"]);
            assert_eq!(records(&log, 0).len() as u64, kept + 1);
        }
        log.flush().unwrap();
        drop(log);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().damage.is_empty());
        assert_eq!((log.log_end(), values(&log, 0)), (to, expected(0..kept)), "closed in good order");
    }
}

#[test]
fn cutting_below_the_first_segment_begins_anew_there() {
    let machine = Machine::new();
    let (store, log) = filled(&machine, small(), 12);
    assert_eq!(log.delete_records(7).unwrap(), 7);
    assert_eq!((log.log_start(), log.segments()), (7, vec![6, 9]));
    // Below the log start, but not below the first segment: nothing readable is left, the log start goes along.
    let within = machine.killed();
    assert!(log.truncate_to(2).unwrap());
    assert_eq!((log.log_start(), log.log_end(), log.segments()), (2, 2, vec![2]));
    assert_eq!(values(&log, 2), []);
    fill(&log, 8);
    assert_eq!(assert_readable(&log, "anew"), expected(2..8));
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
        assert_eq!((log.log_start(), values(&log, 2)), (2, expected(2..8)));
    }
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert_eq!((log.log_start(), values(&log, 2)), (2, expected(2..8)));

    let (_store, log) = within.restart();
    assert!(log.truncate_to(6).unwrap());
    assert_eq!((log.log_start(), log.log_end(), log.segments()), (6, 6, vec![6]));
    fill(&log, 10);
    assert_eq!(assert_readable(&log, "within"), expected(6..10));
    let (_store, log) = within.cut_off().restart();
    assert_eq!((log.log_start(), values(&log, 6)), (6, expected(6..10)));
}

#[test]
fn a_log_begins_anew_wherever_it_is_told() {
    for (at, log_start) in [
        (0, None),
        (4, None),
        (9, None),
        (12, None),
        (500, None),
        (500, Some(500)),
        (500, Some(505)),
        (3, Some(8)),
    ] {
        let machine = Machine::new();
        let (store, log) = filled(&machine, small(), 12);
        log.truncate_fully_and_start_at(at, log_start).unwrap();
        let start = log_start.unwrap_or(at);
        assert_eq!((log.log_start(), log.log_end(), log.high_watermark()), (start, start, start), "{at}");
        assert_eq!((log.segments(), log.size()), (vec![at], 0));
        assert_eq!(values(&log, start), []);
        assert!(log.read_from(start + 1).is_err());
        for machine in [machine.killed(), machine.cut_off()] {
            let (_store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{at}: {:?}", log.recovery_report());
            assert_eq!((log.log_start(), log.log_end()), (start, start), "{at} {log_start:?}");
            fill(&log, start + 5);
            assert_eq!(assert_readable(&log, "after a crash"), expected(start..start + 5));
        }
        fill(&log, start + 7);
        assert_eq!(assert_readable(&log, "begun anew"), expected(start..start + 7));
        for machine in [machine.killed(), machine.cut_off()] {
            let (_store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{at}: {:?}", log.recovery_report());
            assert_eq!((log.log_start(), values(&log, start)), (start, expected(start..start + 7)));
        }
        drop(log);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().clean);
        assert_eq!((log.log_start(), values(&log, start)), (start, expected(start..start + 7)));
    }
}

// ---- what else goes back ----

#[test]
fn indexes_and_times_forget_what_was_cut() {
    for to in 1..12 {
        for again in [false, true] {
            let machine = Machine::new();
            let (store, log) = filled(&machine, small(), 12);
            log.truncate_to(to).unwrap();
            let newest = log.offset_of_max_timestamp().unwrap().unwrap();
            assert_eq!((newest.offset, newest.timestamp), (to - 1, NOW + to as i64 - 1));
            for offset in 0..14 {
                let hit = log.offset_for_timestamp(NOW + offset as i64).unwrap();
                assert_eq!(hit.map(|hit| hit.offset), (offset < to).then_some(offset), "{offset} of {to}");
            }
            // Earlier than what was cut: an entry that was left would hide them.
            for offset in to..to + 4 {
                let record = other(offset);
                log.append(&Record::new(&record).timestamp(NOW - 100 + offset as i64)).unwrap();
            }
            let (_store, log) = if again {
                drop(log);
                store.close().unwrap();
                machine.restart()
            } else {
                (store, log)
            };
            let hit = |time| log.offset_for_timestamp(time).unwrap().map(|hit| hit.offset);
            assert_eq!(hit(NOW + to as i64), None);
            assert_eq!(hit(NOW + to as i64 - 1), Some(to - 1));
            assert_eq!(hit(NOW - 1_000), Some(0));
            assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().offset, to - 1);
            for from in 0..to + 4 {
                assert_eq!(values(&log, from)[0].0, from, "{again}");
            }
        }
    }
}

fn marker(commit: bool) -> EndTransactionMarker {
    EndTransactionMarker { coordinator_epoch: 0, commit }
}

fn transactional(log: &Partition, producer: i64, sequence: i32, text: &str) -> u64 {
    let options = AppendOptions::new().transactional(producer, 0, sequence);
    log.append_batch_with(&[Record::new(text)], options).unwrap().base_offset
}

#[test]
fn producers_and_transactions_are_again_what_they_were() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().segment_bytes(350).index_interval_bytes(60));
    let mut states = Vec::new();
    let mut note = |log: &Partition| {
        // Known since when is no property of the log, nor is what of older batches could be told apart.
        let open: Vec<_> =
            log.open_transactions().iter().map(|open| (open.producer_id, open.first_offset)).collect();
        let committed: Vec<u64> = log
            .read_from_with(log.log_start(), Isolation::ReadCommitted)
            .unwrap()
            .map(|record| record.unwrap().offset())
            .collect();
        states.push((log.log_end(), log.last_stable_offset(), log.producers(), open, committed));
    };
    note(&log);
    let mut sequences = [0; 3];
    for step in 0..40u64 {
        let producer = (step % 3) as usize;
        match step % 7 {
            4 if log.open_transactions().iter().any(|open| open.producer_id == producer as i64) => {
                log.end_transaction(producer as i64, 0, marker(step % 2 == 0), AppendOptions::new()).unwrap();
            }
            6 => {
                append(&log, &["plain"]);
            }
            _ => {
                transactional(&log, producer as i64, sequences[producer], &value(log.log_end()));
                sequences[producer] += 1;
            }
        }
        note(&log);
    }
    assert!(log.segments().len() > 8);
    let now = |log: &Partition| {
        let open: Vec<_> =
            log.open_transactions().iter().map(|open| (open.producer_id, open.first_offset)).collect();
        let committed: Vec<u64> = log
            .read_from_with(log.log_start(), Isolation::ReadCommitted)
            .unwrap()
            .map(|record| record.unwrap().offset())
            .collect();
        (log.log_end(), log.last_stable_offset(), log.producers(), open, committed)
    };
    for state in states.iter().rev() {
        log.truncate_to(state.0).unwrap();
        assert_eq!(now(&log), *state);
        if state.0 % 4 == 0 {
            for machine in [machine.killed(), machine.cut_off()] {
                let (_store, log) = machine.restart();
                assert_eq!(now(&log), *state, "after a crash");
            }
        }
    }
    assert!(log.producers().is_empty());
    drop(log);
    store.close().unwrap();
    assert_eq!(now(&machine.restart().1), states[0]);
}

#[test]
fn a_transaction_whose_end_was_cut_may_end_otherwise() {
    for first in [true, false] {
        for rolled in [true, false] {
            let machine = Machine::new();
            let (store, log) = machine.start(small());
            transactional(&log, 7, 0, "data");
            log.end_transaction(7, 0, marker(first), AppendOptions::new()).unwrap();
            if rolled {
                fill(&log, 9);
                store.flush().unwrap();
            }
            log.truncate_to(1).unwrap();
            assert_eq!((log.last_stable_offset(), log.open_transactions().len()), (0, 1));
            log.end_transaction(7, 0, marker(!first), AppendOptions::new()).unwrap();
            let check = |log: &Partition, how: &str| {
                let read = log.read_from_with(0, Isolation::ReadCommitted).unwrap();
                assert_eq!(read.count(), usize::from(!first), "{how}, rolled: {rolled}");
                let options = FetchOptions::new().isolation(Isolation::ReadCommitted);
                let aborted = log.fetch(0, options).unwrap().aborted;
                assert_eq!(aborted.len(), usize::from(first), "{how}, rolled: {rolled}");
            };
            check(&log, "ended");
            check(&machine.killed().restart().1, "killed");
            check(&machine.cut_off().restart().1, "cut off");
            drop(log);
            store.close().unwrap();
            check(&machine.restart().1, "closed");
        }
    }
}

#[test]
fn a_producer_whose_batches_were_cut_may_send_them_again() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small());
    let send = |log: &Partition, sequence| {
        let options = AppendOptions::new().idempotent(7, 0, sequence);
        log.append_batch_with(&[Record::new(&value(0))], options)
    };
    (0..6).for_each(|sequence| assert!(!send(&log, sequence).unwrap().duplicate));
    log.truncate_to(3).unwrap();
    assert!(send(&log, 2).unwrap().duplicate);
    assert!(matches!(send(&log, 4), Err(Error::OutOfOrderSequence { .. })));
    assert!(!send(&log, 3).unwrap().duplicate);
    log.truncate_to(0).unwrap();
    assert!(!send(&log, 0).unwrap().duplicate);
}

#[test]
fn beginning_anew_forgets_producers_wherever_it_begins() {
    for at in [0, 2, 5, 6, 100] {
        let machine = Machine::new();
        let (_store, log) = machine.start(small());
        for sequence in 0..6 {
            transactional(&log, 7, sequence, &value(0));
        }
        log.roll().unwrap();
        log.truncate_fully_and_start_at(at, None).unwrap();
        assert!(log.producers().is_empty() && log.open_transactions().is_empty(), "at {at}");
        assert_eq!(log.last_stable_offset(), at);
        fill(&log, at + 2);
        for machine in [machine.killed(), machine.cut_off()] {
            let (_store, log) = machine.restart();
            assert!(log.producers().is_empty(), "at {at}");
            assert_eq!((log.last_stable_offset(), values(&log, at)), (at + 2, expected(at..at + 2)));
        }
    }
}

#[test]
fn the_high_watermark_goes_back_and_never_ahead() {
    let machine = Machine::new();
    let config = small().set("annals.replicated", "true").unwrap();
    let (store, log) = filled(&machine, config, 12);
    assert_eq!(log.high_watermark(), 0);
    assert_eq!(log.set_high_watermark(8).unwrap(), 8);
    log.truncate_to(10).unwrap();
    assert_eq!((log.high_watermark(), log.log_end()), (8, 10));
    log.truncate_to(5).unwrap();
    assert_eq!((log.high_watermark(), log.log_end()), (5, 5));
    fill(&log, 12);
    assert_eq!(log.high_watermark(), 5, "new data is not replicated yet");
    assert_eq!(values(&log, 0), expected(0..5));
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, log) = machine.restart();
        assert!(log.high_watermark() <= 5, "{}", log.high_watermark());
        assert_eq!(log.log_end(), 12);
    }
    assert_eq!(log.set_high_watermark(100).unwrap(), 12);
    log.truncate_fully_and_start_at(50, None).unwrap();
    assert_eq!(log.high_watermark(), 50);
    fill(&log, 53);
    assert_eq!(log.high_watermark(), 50);
    drop(log);
    store.close().unwrap();
    assert_eq!(machine.restart().1.high_watermark(), 50);
}

#[test]
fn an_epoch_that_lost_all_its_records_begins_again_with_the_next_one() {
    let machine = Machine::new();
    let (_store, log) = machine.start(small());
    fill(&log, 4);
    log.set_leader_epoch(3).unwrap();
    fill(&log, 6);
    log.set_leader_epoch(5).unwrap();
    // Nothing was written in it; then some of the log is cut.
    log.truncate_to(6).unwrap();
    fill(&log, 8);
    assert_eq!((log.epoch_for_offset(5), log.epoch_for_offset(6)), (Some(3), Some(5)));
    assert_eq!(log.end_offset_for_epoch(3).map(|end| (end.epoch, end.end_offset)), Some((3, 6)));
    log.truncate_to(2).unwrap();
    assert_eq!((log.epoch_for_offset(1), log.epoch_for_offset(2)), (Some(0), None));
    assert_eq!(log.end_offset_for_epoch(0).map(|end| (end.epoch, end.end_offset)), Some((0, 2)));
    fill(&log, 3);
    let fetched = log.fetch(2, FetchOptions::new()).unwrap();
    assert_eq!(fetched.batches[0].header().leader_epoch, log.epoch_for_offset(2));
    let (_store, log) = machine.killed().restart();
    assert_eq!((log.epoch_for_offset(1), log.epoch_for_offset(2)), (Some(0), Some(5)));
}

// ---- crashes and failures ----

/// Whether what is found is a beginning of the old log with at least `kept` records, or just that if the cut was
/// acknowledged; and that it goes on from there.
fn assert_old_or_cut(machine: &Machine, old: u64, kept: u64, to: u64, done: bool, name: &str) {
    let (store, log) = machine.restart();
    let report = log.recovery_report();
    assert!(report.damage.is_empty(), "{name}: {report:?}");
    let end = log.log_end();
    let found = assert_readable(&log, name);
    let count = found.len() as u64;
    assert_eq!(found, expected(0..count), "{name}");
    assert!((kept..=old).contains(&count), "{name}: {count} records are left");
    assert!(end == count || count == kept && end <= to, "{name}: the log ends at {end}");
    if done {
        assert_eq!(count, kept, "{name}: it was cut, and is whole again");
    }
    assert_eq!(append(&log, &[&other(end)]), end, "{name}");
    drop(log);
    drop(store);
    let (_store, log) = machine.restart();
    let mut all = found;
    all.push((end, other(end)));
    assert_eq!(values(&log, 0), all, "{name}: after another restart");
}

#[test]
fn a_power_cut_at_any_call_of_a_truncation_leaves_a_beginning_of_the_log() {
    for to in [0, 4, 6] {
        at_every_call(
            |machine| filled(machine, small(), 12),
            |log| log.truncate_to(to).map(drop),
            |machine, done, name| assert_old_or_cut(machine, 12, to, to, done, &format!("to {to}, {name}")),
        );
    }
}

#[test]
fn a_power_cut_while_a_batch_is_cut_that_holds_the_offset_leaves_whole_batches() {
    at_every_call(
        |machine| filled_by_threes(machine, TopicConfig::new().segment_bytes(400), 15),
        |log| log.truncate_to(8).map(drop),
        |machine, done, name| assert_old_or_cut(machine, 15, 6, 8, done, name),
    );
}

#[test]
fn a_power_cut_during_the_truncation_of_unsynced_data_leaves_a_beginning_of_the_log() {
    let config = || small().durability(Durability::Process);
    at_every_call(
        |machine| {
            let (store, log) = machine.start(config());
            fill(&log, 5);
            log.flush().unwrap();
            fill(&log, 11);
            (store, log)
        },
        |log| log.truncate_to(7).map(drop),
        |machine, done, name| {
            // What was not synced may be lost below the cut, too; after a kill it is not.
            let kept = if name.contains("PowerCut") { 5 } else { 7 };
            let (store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
            let found = assert_readable(&log, name);
            let count = found.len() as u64;
            assert_eq!(found, expected(0..count), "{name}");
            assert!((kept..=if done { 7 } else { 11 }).contains(&count), "{name}: {count}");
            assert_eq!(append(&log, &[&other(count)]), count);
            drop((log, store));
        },
    );
}

#[test]
fn a_power_cut_while_a_log_begins_anew_leaves_the_old_one_or_the_new_one() {
    for at in [0, 5, 40] {
        at_every_call(
            |machine| filled(machine, small(), 12),
            |log| log.truncate_fully_and_start_at(at, None),
            |machine, done, name| {
                let name = format!("at {at}, {name}");
                let (_store, log) = machine.restart();
                assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
                let (start, end) = (log.log_start(), log.log_end());
                let found = assert_readable(&log, &name);
                if start == at && found.is_empty() {
                    assert_eq!(end, at, "{name}");
                } else {
                    assert!(!done, "{name}: the old log is there again, from {start} to {end}");
                    assert_eq!((start, found), (0, expected(0..end)), "{name}");
                }
                assert_eq!(append(&log, &[&other(end)]), end, "{name}");
                let (_store, log) = machine.killed().restart();
                assert_eq!(values(&log, end), [(end, other(end))], "{name}");
            },
        );
    }
}

#[test]
fn a_crash_after_new_data_was_appended_brings_none_of_the_old() {
    at_every_call(
        |machine| {
            let (store, log) = filled(machine, small(), 12);
            log.truncate_to(4).unwrap();
            (store, log)
        },
        |log| (4..10).try_for_each(|offset| log.append(&Record::new(&other(offset))).map(drop)),
        |machine, done, name| {
            let (_store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
            let found = assert_readable(&log, name);
            assert!(found.len() >= if done { 10 } else { 4 });
            let new = (4..found.len() as u64).map(|offset| (offset, other(offset)));
            assert_eq!(found, expected(0..4).into_iter().chain(new).collect::<Vec<_>>(), "{name}");
        },
    );
}

/// After a failure in the middle of a truncation: reopened, the log holds a beginning of what it held and goes on.
fn assert_heals(machine: &Machine, store: Store, log: Partition, done: bool, kept: u64, to: u64, name: &str) {
    for (offset, text) in values(&log, log.log_start()) {
        assert_eq!(text, value(offset), "{name}: before it is reopened");
    }
    log.reopen().unwrap_or_else(|error| panic!("{name}: {error}"));
    let end = log.log_end();
    let found = assert_readable(&log, name);
    let count = found.len() as u64;
    assert_eq!(found, expected(0..count), "{name}");
    assert!((kept..=12).contains(&count), "{name}: {count} records are left");
    assert!(end == count || count == kept && end == to, "{name}: the log ends at {end}");
    assert!(!done || count == kept, "{name}");
    let mut all = found;
    for offset in end..end + 5 {
        assert_eq!(append(&log, &[&other(offset)]), offset, "{name}");
        all.push((offset, other(offset)));
    }
    assert_eq!(assert_readable(&log, name), all, "{name}");
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
        assert_eq!(values(&log, 0), all, "{name}: after a crash");
    }
    assert!(log.truncate_to(to).unwrap(), "{name}: the second attempt");
    assert_eq!((values(&log, 0), log.log_end()), (expected(0..kept), to), "{name}");
    drop(log);
    store.close().unwrap_or_else(|error| panic!("{name}: {error}"));
    let (_store, log) = machine.restart();
    assert_eq!((values(&log, 0), log.log_end()), (expected(0..kept), to), "{name}");
}

#[test]
fn a_failure_at_any_call_of_a_truncation_heals() {
    for errno in [EIO, ENOSPC] {
        for to in [0, 4, 6] {
            with_every_call_failing(
                errno,
                |machine| filled(machine, small(), 12),
                |log| log.truncate_to(to).map(drop),
                |machine, store, log, done, name| {
                    assert_heals(machine, store, log, done, to, to, &format!("to {to}, {name}"));
                },
            );
        }
    }
}

#[test]
fn a_failure_while_a_batch_is_cut_that_holds_the_offset_heals() {
    with_every_call_failing(
        EIO,
        |machine| filled_by_threes(machine, TopicConfig::new().segment_bytes(400), 12),
        |log| log.truncate_to(5).map(drop),
        |machine, store, log, done, name| assert_heals(machine, store, log, done, 3, 5, name),
    );
}

#[test]
fn a_failure_while_a_log_begins_anew_heals() {
    for at in [0, 5, 12, 40] {
        for errno in [EIO, ENOSPC] {
            with_every_call_failing(
                errno,
                |machine| filled(machine, small(), 12),
                |log| log.truncate_fully_and_start_at(at, None),
                |machine, _store, log, done, name| {
                    let name = format!("at {at}, {name}");
                    log.reopen().unwrap_or_else(|error| panic!("{name}: {error}"));
                    let (start, end) = (log.log_start(), log.log_end());
                    let found = assert_readable(&log, &name);
                    assert!(!done || (start, end) == (at, at), "{name}: {start} to {end}");
                    if !found.is_empty() {
                        assert_eq!((start, found), (0, expected(0..end)), "{name}");
                    }
                    assert_eq!(append(&log, &[&other(end)]), end, "{name}");
                    for machine in [machine.killed(), machine.cut_off()] {
                        let (_store, log) = machine.restart();
                        assert!(
                            log.recovery_report().damage.is_empty(),
                            "{name}: {:?}",
                            log.recovery_report()
                        );
                        assert_eq!(values(&log, end), [(end, other(end))], "{name}");
                        assert_readable(&log, &name);
                    }
                    log.truncate_fully_and_start_at(at, None).unwrap();
                    assert_eq!((log.log_start(), log.log_end()), (at, at), "{name}");
                    fill(&log, at + 4);
                    assert_eq!(assert_readable(&log, &name), expected(at..at + 4), "{name}");
                },
            );
        }
    }
}

#[test]
fn what_is_appended_after_a_failed_truncation_below_the_log_start_is_kept() {
    for errno in [EIO, ENOSPC] {
        with_every_call_failing(
            errno,
            |machine| {
                let (store, log) = filled(machine, small(), 12);
                log.delete_records(8).unwrap();
                (store, log)
            },
            |log| log.truncate_to(7).map(drop),
            |machine, store, log, done, name| {
                log.reopen().unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(!done || (log.log_start(), log.log_end()) == (7, 7), "{name}");
                let (start, end) = (log.log_start(), log.log_end());
                let mut all = values(&log, start);
                // One that fits into the segment: a roll would write all down anew.
                assert_eq!(append(&log, &[&other(end)]), end, "{name}");
                all.push((end, other(end)));
                for machine in [machine.killed(), machine.cut_off()] {
                    let (_store, log) = machine.restart();
                    assert!(log.recovery_report().damage.is_empty(), "{name}: {:?}", log.recovery_report());
                    assert_eq!(
                        (log.log_start(), values(&log, log.log_start())),
                        (start, all.clone()),
                        "{name}"
                    );
                }
                drop(log);
                store.close().unwrap_or_else(|error| panic!("{name}: {error}"));
                let (_store, log) = machine.restart();
                assert_eq!((log.log_start(), values(&log, log.log_start())), (start, all), "{name}");
            },
        );
    }
}

#[test]
fn a_poisoned_log_is_reopened_before_it_is_cut() {
    let machine = Machine::new();
    let (_store, log) = filled(&machine, small(), 8);
    machine.disk.fail(When::next().of(&[Call::Sync]).under("t-0"), Fault::Forget);
    assert!(log.append(&Record::new("lost")).is_err());
    assert!(matches!(log.truncate_to(4), Err(Error::Poisoned { .. })));
    assert!(matches!(log.truncate_fully_and_start_at(4, None), Err(Error::Poisoned { .. })));
    assert_eq!(values(&log, 0), expected(0..8));
    log.reopen().unwrap();
    assert!(log.truncate_to(4).unwrap());
    fill(&log, 9);
    assert_eq!(assert_readable(&log, "after"), expected(0..9));
    assert_eq!(values(&machine.cut_off().restart().1, 0), expected(0..9));
}

#[test]
fn data_that_is_not_synced_is_cut_like_any_other() {
    let interval = Durability::Interval { time: Duration::from_secs(60), bytes: 1 << 30 };
    for level in [Durability::Synced, interval, Durability::Process] {
        for to in [0, 1, 3, 4, 8, 9, 11] {
            let machine = Machine::new();
            let (store, log) = filled(&machine, small().durability(level), 12);
            assert!(log.truncate_to(to).unwrap());
            assert!(log.recovery_point() <= to);
            fill(&log, to + 2);
            assert_eq!(assert_readable(&log, "cut"), expected(0..to + 2));
            assert_eq!(values(&machine.killed().restart().1, 0), expected(0..to + 2), "{level:?} {to}");
            log.flush().unwrap();
            assert_eq!(log.recovery_point(), to + 2);
            assert_eq!(values(&machine.cut_off().restart().1, 0), expected(0..to + 2), "{level:?} {to}");
            log.truncate_to(to).unwrap();
            log.flush().unwrap();
            assert_eq!(log.recovery_point(), to);
            drop(log);
            store.close().unwrap();
            assert_eq!(values(&machine.restart().1, 0), expected(0..to));
        }
    }
}

#[test]
fn a_closed_log_is_not_cut() {
    let machine = Machine::new();
    let (store, log) = filled(&machine, small(), 8);
    store.close().unwrap();
    let before = machine.disk.read(file(6, "log"));
    assert!(matches!(log.truncate_to(4), Err(Error::Closed { .. })));
    assert!(matches!(log.truncate_fully_and_start_at(4, None), Err(Error::Closed { .. })));
    assert_eq!((machine.disk.read(file(6, "log")), log.log_end()), (before, 8));
    let store = machine.options().read_only(true).open_in(std::sync::Arc::new(machine.disk.clone())).unwrap();
    let log = store.topic("t").unwrap().partition(0).unwrap();
    assert!(matches!(log.truncate_to(4), Err(Error::ReadOnly { .. })));
}

// ---- readers in the middle ----

#[test]
fn a_reader_behind_the_cut_is_told_so() {
    let machine = Machine::new();
    let (_store, log) = filled(&machine, small(), 12);
    let mut reader = log.read_from(10).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset(), 10);
    let mut before = log.read_from(2).unwrap();
    assert_eq!(before.next().unwrap().unwrap().offset(), 2);
    log.truncate_to(5).unwrap();
    let error = reader.next().unwrap().unwrap_err();
    let Error::OffsetOutOfRange { requested, log_start, log_end, .. } = error else { panic!("{error}") };
    assert_eq!((requested, log_start, log_end), (11, 0, 5));
    let rest: Vec<u64> = before.by_ref().map(|record| record.unwrap().offset()).collect();
    assert_eq!(rest, [3, 4]);
    fill(&log, 7);
    let rest: Vec<u64> = before.map(|record| record.unwrap().offset()).collect();
    assert_eq!(rest, [5, 6], "it goes on with what is appended");
}

#[test]
fn a_reader_in_the_middle_never_gets_what_was_cut_once_others_took_its_place() {
    for stopped_at in 0..12 {
        for to in 0..12 {
            let machine = Machine::new();
            let (_store, log) = filled(&machine, small(), 12);
            let mut reader = log.read_from(0).unwrap();
            for offset in 0..=stopped_at {
                assert_eq!(reader.next().unwrap().unwrap().offset(), offset);
            }
            log.truncate_to(to).unwrap();
            for offset in to..13 {
                assert_eq!(append(&log, &[&other(offset)]), offset);
            }
            for record in reader {
                let record = record.unwrap();
                let offset = record.offset();
                let now = if offset < to { value(offset) } else { other(offset) };
                assert_eq!(record.value().unwrap(), now.as_bytes(), "{offset}, cut to {to} at {stopped_at}");
            }
        }
    }
}

#[test]
fn a_reader_in_the_middle_of_a_log_that_begins_anew_is_told_so() {
    for at in [0, 3, 40] {
        let machine = Machine::new();
        let (_store, log) = filled(&machine, small(), 12);
        let mut readers: Vec<_> = (0..12).map(|from| log.read_from(from).unwrap()).collect();
        readers.iter_mut().for_each(|reader| drop(reader.next().unwrap().unwrap()));
        log.truncate_fully_and_start_at(at, None).unwrap();
        (at..at + 8).for_each(|offset| assert_eq!(append(&log, &[&other(offset)]), offset));
        for reader in readers {
            for record in reader {
                match record {
                    Ok(record) => assert_eq!(record.value().unwrap(), other(record.offset()).as_bytes()),
                    Err(Error::OffsetOutOfRange { .. }) => {}
                    Err(error) => panic!("begun anew at {at}: {error}"),
                }
            }
        }
    }
}

/// For each offset, the round from which on its records may be read: those of earlier rounds were cut.
struct Rounds(Mutex<Vec<u64>>);

impl Rounds {
    fn of(&self, offset: u64) -> u64 {
        self.0.lock().unwrap()[offset as usize]
    }
}

fn check_round(rounds: &[u64], record: &annals::StoredRecord) {
    let text = std::str::from_utf8(record.value().unwrap()).unwrap();
    let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap());
    assert_eq!(words.next(), Some(record.offset()), "a record of another offset");
    let round = words.next().unwrap();
    let least = rounds[record.offset() as usize];
    assert!(round >= least, "offset {}: of round {round}, cut before {least}", record.offset());
}

fn truncate_and_append_while_others_read(begin_anew: bool) {
    const OFFSETS: u64 = 60;
    const ROUNDS: u64 = 250;
    let machine = Machine::new();
    let config =
        TopicConfig::new().segment_bytes(400).index_interval_bytes(60).durability(Durability::Process);
    let (_store, log) = machine.start(config);
    let rounds = Rounds(Mutex::new(vec![0; 2_000]));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            struct End<'a>(&'a AtomicBool);
            impl Drop for End<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::SeqCst);
                }
            }
            let _end = End(&ended);
            let mut random = 12_345_u64;
            let mut pick = |below: u64| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % below
            };
            for round in 0..ROUNDS {
                let end = log.log_end();
                for offset in end..end + pick(OFFSETS - end.min(OFFSETS - 1)) {
                    let text = format!("{offset} {round}");
                    assert_eq!(log.append(&Record::new(&text)).unwrap(), offset);
                }
                let to = if begin_anew { pick(OFFSETS) } else { pick(log.log_end() + 1) };
                if begin_anew {
                    log.truncate_fully_and_start_at(to, None).unwrap();
                } else {
                    log.truncate_to(to).unwrap();
                }
                let mut rounds = rounds.0.lock().unwrap();
                let gone = if begin_anew { 0 } else { to as usize };
                rounds[gone..].iter_mut().for_each(|least| *least = round + 1);
            }
        });
        for kind in 0..3 {
            let (log, rounds, ended) = (&log, &rounds, &ended);
            scope.spawn(move || {
                let mut seed = kind;
                while !ended.load(Ordering::SeqCst) {
                    seed += 7;
                    let from = if kind == 0 { log.log_start() } else { log.log_start() + seed % OFFSETS };
                    if kind == 2 {
                        let least = rounds.0.lock().unwrap().clone();
                        match log.fetch(from, FetchOptions::new()) {
                            Ok(fetched) => {
                                let mut follows = 0;
                                for batch in &fetched.batches {
                                    assert!(batch.base_offset() >= follows, "offsets go back");
                                    follows = batch.next_offset();
                                    for record in batch.records(1 << 20).unwrap() {
                                        check_round(&least, &record);
                                    }
                                }
                            }
                            Err(Error::OffsetOutOfRange { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                        continue;
                    }
                    let Ok(mut reader) = log.read_from(from) else { continue };
                    loop {
                        let least = rounds.0.lock().unwrap().clone();
                        match reader.next() {
                            Some(Ok(record)) => check_round(&least, &record),
                            None | Some(Err(Error::OffsetOutOfRange { .. })) => break,
                            Some(Err(error)) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    assert!(rounds.of(OFFSETS) == ROUNDS);
}

#[test]
fn readers_get_old_or_new_while_another_thread_truncates_and_appends() {
    truncate_and_append_while_others_read(false);
}

#[test]
fn readers_get_old_or_new_while_another_thread_begins_anew() {
    truncate_and_append_while_others_read(true);
}

/// Deleted segments of which a failing disk keeps the files are no part of a log that is begun below them.
#[test]
fn what_was_deleted_goes_before_a_log_begins_below_it() {
    let machine = Machine::new();
    let (store, log) = filled(&machine, small(), 11);
    let failing =
        |call| machine.disk.fail(When::next().of(&[call]).under("t-0").and_ever_after(), Fault::Error(EIO));
    failing(Call::Rename);
    assert!(log.delete_records(9).is_err());
    assert!(log.truncate_fully_and_start_at(0, None).is_err());
    assert_eq!((log.log_start(), log.log_end()), (9, 11));
    machine.disk.heal();
    drop(log);
    store.close().unwrap();
    failing(Call::RemoveFile);
    failing(Call::Rename);
    let (store, log) = machine.restart();
    assert!(log.recovery_report().clean);
    assert!(machine.disk.read(file(6, "log")).is_some());
    fill(&log, 12);
    assert_eq!(values(&log, 9), expected(9..12));
    assert!(log.truncate_to(0).is_err());
    machine.disk.heal();
    log.truncate_fully_and_start_at(0, None).unwrap();
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, log) = machine.restart();
        assert_eq!((log.log_start(), log.log_end(), log.segments()), (0, 0, vec![0]));
        assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
    }
    drop(store);
}

/// What is destroyed below the log start is missed by nobody, and keeps no truncation from its work.
#[test]
fn a_truncation_passes_over_what_is_destroyed_below_the_log_start() {
    for to in 3..8 {
        let machine = Machine::new();
        let (_store, log) = filled(&machine, small().segment_bytes(3_000).index_interval_bytes(4_000), 8);
        let size = log.size() / 8;
        log.delete_records(5).unwrap();
        for at in 3..5 {
            // The magic, so that not even the header is one.
            assert!(machine.disk.flip(file(0, "log"), at * size + 16, 0x40));
        }
        assert!(log.truncate_to(to).unwrap());
        let start = to.min(5);
        assert_eq!((log.log_start(), log.log_end()), (start, to));
        assert_eq!(append(&log, &[&other(to)]), to);
        for machine in [machine.killed(), machine.cut_off()] {
            let (_store, log) = machine.restart();
            assert!(log.recovery_report().damage.is_empty(), "{:?}", log.recovery_report());
            assert_eq!((log.log_start(), log.log_end()), (start, to + 1));
            let whole: Vec<_> = expected(start..to).into_iter().chain([(to, other(to))]).collect();
            assert_eq!(values(&log, start), whole);
        }
    }
}
