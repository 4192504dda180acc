//! Transactions as a reader, a coordinator and a replicator meet them: what is committed is seen, what is not is not,
//! whatever happens to the machine and to the files that say so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests fail by panicking, say how to repeat it, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;
#[path = "common/transactions.rs"]
mod transactions;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::{
    AppendOptions, Appended, Durability, Error, Isolation, Partition, Record, Result, Store, TopicConfig,
};
use logs::{Machine, NOW, append, file};
use transactions::{check, fates, read};

const LEVELS: [Durability; 3] = [
    Durability::Synced,
    Durability::Interval { time: Duration::from_millis(40), bytes: 700 },
    Durability::Process,
];

const COMMIT: EndTransactionMarker = EndTransactionMarker { coordinator_epoch: 0, commit: true };
const ABORT: EndTransactionMarker = EndTransactionMarker { coordinator_epoch: 0, commit: false };

/// Producers that count their records.
#[derive(Debug, Default, Clone)]
struct Producers {
    next: BTreeMap<i64, i32>,
}

impl Producers {
    fn try_add(&mut self, log: &Partition, id: i64, count: usize) -> Result<Appended> {
        let values: Vec<String> = (0..count).map(|n| format!("{id}.{n} at {}", log.log_end())).collect();
        let records: Vec<_> = values.iter().map(Record::new).collect();
        let next = self.next.entry(id).or_default();
        let appended = log.append_batch_with(&records, AppendOptions::new().transactional(id, 0, *next))?;
        *next += count as i32;
        Ok(appended)
    }

    fn add(&mut self, log: &Partition, id: i64, count: usize) -> u64 {
        self.try_add(log, id, count).unwrap().base_offset
    }
}

fn end(log: &Partition, id: i64, marker: EndTransactionMarker) -> u64 {
    log.end_transaction(id, 0, marker, AppendOptions::new()).unwrap().base_offset
}

/// One step of a script.
#[derive(Debug, Clone, Copy)]
enum Step {
    Add(i64, usize),
    Plain,
    Commit(i64),
    Abort(i64),
    Roll,
}
use Step::{Abort, Add, Commit, Plain, Roll};

fn take(step: Step, log: &Partition, producers: &mut Producers) -> Result<Option<Appended>> {
    let ended = |id, marker| log.end_transaction(id, 0, marker, AppendOptions::new()).map(Some);
    match step {
        Add(id, count) => producers.try_add(log, id, count).map(Some),
        Plain => log.append_batch(&[Record::new("plain")]).map(Some),
        Commit(id) => ended(id, COMMIT),
        Abort(id) => ended(id, ABORT),
        Roll => log.roll().map(|()| None),
    }
}

/// Several producers, long and short transactions, across segments; two are open at the end.
const SCRIPT: [Step; 26] = [
    Add(1, 2),
    Plain,
    Add(2, 1),
    Abort(1),
    Add(3, 1),
    Commit(2),
    Roll,
    Add(3, 2),
    Plain,
    Abort(3),
    Add(1, 1),
    Roll,
    Add(2, 1),
    Commit(1),
    Commit(4),
    Abort(4),
    Add(4, 1),
    Roll,
    Plain,
    Abort(4),
    Add(1, 3),
    Abort(2),
    Add(3, 1),
    Commit(1),
    Add(2, 1),
    Plain,
];

fn run_script(log: &Partition, each: impl Fn(&Partition)) -> Producers {
    let mut producers = Producers::default();
    for step in SCRIPT {
        take(step, log, &mut producers).unwrap();
        each(log);
    }
    producers
}

#[test]
fn after_every_step_readers_of_every_kind_get_what_the_log_says() {
    for level in LEVELS {
        let machine = Machine::new();
        let (store, log) = machine.start(TopicConfig::new().durability(level));
        run_script(&log, check);
        assert_eq!(log.open_transactions().len(), 2);
        drop(log);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().clean);
        check(&log);
    }
}

#[test]
fn the_last_stable_offset_stands_at_the_first_open_transaction() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    let mut producers = Producers::default();
    let positions = || (log.last_stable_offset(), log.high_watermark(), log.log_end());
    assert_eq!(positions(), (0, 0, 0));
    append(&log, &["a"]);
    assert_eq!(positions(), (1, 1, 1));
    producers.add(&log, 1, 2);
    assert_eq!(positions(), (1, 3, 3));
    producers.add(&log, 2, 1);
    append(&log, &["b"]);
    assert_eq!(positions(), (1, 5, 5));
    assert_eq!(read(&log, 0, Isolation::ReadCommitted), [0]);
    assert_eq!(end(&log, 1, COMMIT), 5);
    assert_eq!(positions(), (3, 6, 6));
    assert_eq!(read(&log, 0, Isolation::ReadCommitted), [0, 1, 2]);
    assert_eq!(end(&log, 2, ABORT), 6);
    assert_eq!(positions(), (7, 7, 7));
    assert_eq!(read(&log, 0, Isolation::ReadCommitted), [0, 1, 2, 4]);
    assert_eq!(read(&log, 0, Isolation::ReadUncommitted), [0, 1, 2, 3, 4]);
    let aborted = log.aborted_transactions(0, 7).unwrap();
    assert_eq!(aborted.len(), 1);
    assert_eq!((aborted[0].producer_id, aborted[0].first_offset, aborted[0].last_offset), (2, 3, 6));
    assert_eq!(aborted[0].last_stable_offset, 7);
    assert!(log.aborted_transactions(7, 9).unwrap().is_empty());
    assert!(log.aborted_transactions(0, 3).unwrap().is_empty());
}

#[test]
fn a_reader_that_stands_at_an_open_transaction_goes_on_when_it_ends() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    let mut producers = Producers::default();
    let mut reader = log.read_from_with(0, Isolation::ReadCommitted).unwrap();
    for (round, marker) in [COMMIT, ABORT, COMMIT, ABORT].into_iter().enumerate() {
        let first = producers.add(&log, 1, 2);
        let plain = append(&log, &["plain"]);
        assert!(reader.next().is_none(), "round {round}");
        end(&log, 1, marker);
        let found: Vec<u64> = reader.by_ref().map(|record| record.unwrap().offset()).collect();
        let expected = if marker.commit { vec![first, first + 1, plain] } else { vec![plain] };
        assert_eq!(found, expected, "round {round}");
        assert_eq!(reader.position(), log.log_end());
    }
}

#[test]
fn a_marker_without_a_transaction_changes_nothing_for_readers() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    for marker in [COMMIT, ABORT, ABORT] {
        let offset = end(&log, 1, marker);
        assert_eq!(log.last_stable_offset(), offset + 1);
        check(&log);
    }
    assert!(log.aborted_transactions(0, 9).unwrap().is_empty());
    assert!(log.open_transactions().is_empty());
    let mut producers = Producers::default();
    producers.add(&log, 1, 1);
    end(&log, 1, ABORT);
    end(&log, 1, ABORT);
    assert_eq!(log.aborted_transactions(0, 9).unwrap().len(), 1);
    check(&log);
}

#[test]
fn whoever_was_replaced_is_fenced_also_after_a_restart() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let data = |log: &Partition, epoch, sequence| {
        log.append_batch_with(&[Record::new("x")], AppendOptions::new().transactional(7, epoch, sequence))
    };
    let marker = |log: &Partition, epoch, coordinator_epoch| {
        let marker = EndTransactionMarker { coordinator_epoch, commit: false };
        log.end_transaction(7, epoch, marker, AppendOptions::new())
    };
    data(&log, 3, 0).unwrap();
    // The coordinator ends the transaction of a producer that is gone, under its next epoch.
    marker(&log, 4, 6).unwrap();
    let refused = |log: &Partition| {
        let before = log.log_end();
        let zombie = data(log, 3, 1).unwrap_err();
        assert!(
            matches!(&zombie, Error::Fenced { what: "producer epoch", found: 3, current: 4, .. }),
            "{zombie}"
        );
        assert_eq!((zombie.kafka_code(), zombie.is_retryable()), (Some(47), false));
        let zombie = marker(log, 3, 6).unwrap_err();
        assert_eq!(zombie.kafka_code(), Some(47));
        let zombie = marker(log, 4, 5).unwrap_err();
        assert!(matches!(&zombie, Error::Fenced { what: "coordinator epoch", found: 5, current: 6, .. }));
        assert_eq!(zombie.kafka_code(), Some(52));
        // A new epoch begins with 0.
        assert_eq!(data(log, 5, 1).unwrap_err().kafka_code(), Some(45));
        assert_eq!(data(log, 4, 1).unwrap_err().kafka_code(), Some(45));
        assert_eq!(log.log_end(), before);
        check(log);
    };
    refused(&log);
    refused(&machine.killed().restart().1);
    refused(&machine.cut_off().restart().1);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    refused(&log);
    data(&log, 4, 0).unwrap();
    // The same coordinator may say it twice; a newer one may, too.
    marker(&log, 4, 6).unwrap();
    marker(&log, 4, 7).unwrap();
    check(&log);
}

#[test]
fn a_batch_outside_the_open_transaction_of_its_producer_is_refused() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    let mut producers = Producers::default();
    producers.add(&log, 1, 1);
    let outside = |log: &Partition| {
        log.append_batch_with(&[Record::new("x")], AppendOptions::new().idempotent(1, 0, 1))
    };
    let error = outside(&log).unwrap_err();
    assert!(matches!(error, Error::InvalidTransactionState { producer_id: 1, .. }), "{error}");
    assert_eq!((error.kafka_code(), log.log_end()), (Some(48), 1));
    let error = outside(&machine.killed().restart().1).unwrap_err();
    assert_eq!(error.kafka_code(), Some(48));
    end(&log, 1, COMMIT);
    outside(&log).unwrap();
    // Sequences go on across transactions.
    producers.next.insert(1, 2);
    producers.add(&log, 1, 1);
    check(&log);
}

#[test]
fn offsets_of_a_coordinator_need_no_sequence_but_keep_to_epochs() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    let commit = |epoch| {
        let options = AppendOptions::new().transactional(5, epoch, 0).coordinator();
        log.append_batch_with(&[Record::new("offset").key("group")], options)
    };
    for expected in 0..3 {
        let appended = commit(2).unwrap();
        assert_eq!((appended.base_offset, appended.duplicate), (expected, false));
    }
    assert_eq!(commit(1).unwrap_err().kafka_code(), Some(47));
    assert_eq!(log.last_stable_offset(), 0);
    log.end_transaction(5, 2, COMMIT, AppendOptions::new()).unwrap();
    assert_eq!(read(&log, 0, Isolation::ReadCommitted), [0, 1, 2]);
}

#[test]
fn open_transactions_are_listed_oldest_first_with_their_times() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    let mut producers = Producers::default();
    for id in [9, 3, 5] {
        producers.add(&log, id, 1);
        machine.clock.advance(Duration::from_millis(10));
    }
    producers.add(&log, 9, 1);
    let listed = |log: &Partition| {
        let open = log.open_transactions();
        open.iter().map(|open| (open.producer_id, open.first_offset, open.started)).collect::<Vec<_>>()
    };
    assert_eq!(listed(&log), [(9, 0, Some(NOW)), (3, 1, Some(NOW + 10)), (5, 2, Some(NOW + 20))]);
    assert_eq!(log.open_transactions()[0].last_timestamp, NOW + 30);
    end(&log, 3, ABORT);
    let (_killed, again) = machine.killed().restart();
    assert_eq!(listed(&again), [(9, 0, None), (5, 2, None)]);
}

#[test]
fn a_reader_of_committed_data_is_woken_by_the_end_of_the_transaction() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let mut producers = Producers::default();
    producers.add(&log, 1, 1);
    let wait = |isolation, timeout| log.wait_for_with(0, isolation, timeout).unwrap();
    assert!(wait(Isolation::ReadUncommitted, Duration::ZERO));
    assert!(!wait(Isolation::ReadCommitted, Duration::ZERO));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(Isolation::ReadCommitted, Duration::from_secs(3_600)));
        append(&log, &["something else"]);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished(), "woken by what it may not have");
        end(&log, 1, COMMIT);
        assert!(waiter.join().unwrap());
    });
    producers.add(&log, 1, 1);
    std::thread::scope(|scope| {
        let offset = log.last_stable_offset();
        let waiter = scope
            .spawn(move || log.wait_for_with(offset, Isolation::ReadCommitted, Duration::from_secs(3_600)));
        std::thread::sleep(Duration::from_millis(20));
        store.close().unwrap();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Closed { .. })));
    });
}

/// Readers and writers at once: nobody sees an aborted record, or one of a transaction that is not decided.
#[test]
fn readers_meanwhile_see_committed_records_in_order_and_no_other() {
    for level in [Durability::Synced, Durability::Process] {
        let machine = Machine::new();
        let (_store, log) = machine.start(TopicConfig::new().durability(level).segment_bytes(2_000));
        let rounds = 60;
        std::thread::scope(|scope| {
            for id in 1..=3i64 {
                let log = log.clone();
                scope.spawn(move || {
                    let mut sequence = 0;
                    for round in 0..rounds {
                        let commit = (round + id) % 2 == 0;
                        for part in 0..2 {
                            let value = format!("{id} {round} {part} {commit}");
                            let options = AppendOptions::new().transactional(id, 0, sequence);
                            log.append_batch_with(&[Record::new(&value)], options).unwrap();
                            sequence += 1;
                        }
                        end(&log, id, EndTransactionMarker { coordinator_epoch: 0, commit });
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut reader = log.read_from_with(0, Isolation::ReadCommitted).unwrap();
                    let (mut last, mut found) = (BTreeMap::new(), 0);
                    while found < 3 * rounds {
                        let Some(record) = reader.next() else {
                            let _ = log.wait_for_with(
                                reader.position(),
                                Isolation::ReadCommitted,
                                Duration::from_secs(3_600),
                            );
                            continue;
                        };
                        let record = record.unwrap();
                        let text = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                        let words: Vec<&str> = text.split(' ').collect();
                        assert_eq!(words[3], "true", "{text} was aborted");
                        let (id, at) =
                            (words[0].to_owned(), (words[1].parse::<i64>().unwrap(), words[2].to_owned()));
                        assert!(last.insert(id, at.clone()).is_none_or(|before| before < at), "{text}");
                        found += 1;
                    }
                });
            }
        });
        check(&log);
        check(&machine.killed().restart().1);
    }
}

/// The files of partition 0 that say what was aborted.
fn index_files(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let concerned = |name: &PathBuf| name.to_str().unwrap().contains(".txnindex");
    disk.names().into_iter().filter(concerned).collect()
}

#[test]
fn a_transaction_index_in_any_state_gives_the_same_answers() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    run_script(&log, |_| ());
    let bases = log.segments();
    drop(log);
    store.close().unwrap();
    let image = || Machine { disk: machine.disk.crash(Crash::ProcessKill), clock: machine.clock.clone() };
    let names = index_files(&machine.disk);
    assert!(names.contains(&file(0, "txnindex")) && names.contains(&file(0, "txnindex.crc")), "{names:?}");
    assert!(names.len() >= 6 && bases.len() == 4);
    let reopened = |damage: &dyn Fn(&SimulatedDisk), what: String| {
        eprintln!("{what}");
        for clean in [true, false] {
            let image = image();
            damage(&image.disk);
            if !clean {
                assert!(image.disk.remove(".kafka_cleanshutdown"));
            }
            let (store, log) = image.restart();
            assert!(log.recovery_report().damage.is_empty());
            check(&log);
            // And once more, with what was written down meanwhile.
            store.flush().unwrap();
            check(&image.killed().restart().1);
        }
    };
    for name in &names {
        let bytes = machine.disk.read(name).unwrap();
        reopened(&|disk| assert!(disk.remove(name)), format!("{} deleted", name.display()));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            reopened(
                &|disk| disk.write(name, &flipped).unwrap(),
                format!("{} flipped at {at}", name.display()),
            );
            if at % 5 == 0 {
                let cut = &bytes[..at];
                reopened(&|disk| disk.write(name, cut).unwrap(), format!("{} cut at {at}", name.display()));
            }
        }
    }
}

#[test]
fn what_was_aborted_stays_so_when_recovery_points_move_on_before_its_index_is_written() {
    for level in LEVELS {
        let machine = Machine::new();
        let (store, log) = machine.start(TopicConfig::new().durability(level));
        let mut producers = Producers::default();
        producers.add(&log, 1, 2);
        end(&log, 1, ABORT);
        append(&log, &["plain"]);
        log.flush().unwrap();
        store.maintain().unwrap();
        append(&log, &["plain"]);
        let killed = machine.killed();
        // Opening writes recovery points down, too.
        let (_store, log) = killed.restart();
        check(&log);
        assert_eq!(read(&log, 0, Isolation::ReadCommitted), [3, 4]);
        check(&killed.killed().restart().1);
        check(&killed.cut_off().killed().restart().1);
    }
}

#[test]
fn what_was_aborted_stays_so_through_one_kill_after_another() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    run_script(&log, |_| ());
    let mut killed = machine.killed();
    for _ in 0..4 {
        let (_store, log) = killed.restart();
        check(&log);
        killed = killed.killed();
    }
}

#[test]
fn a_new_end_after_a_truncation_is_not_taken_for_the_old_one() {
    for offset in [0, 2, 3, 7, 9, 12, 20] {
        let machine = Machine::new();
        let (store, log) = machine.start(TopicConfig::new());
        run_script(&log, |_| ());
        store.flush().unwrap();
        log.truncate_to(offset).unwrap();
        check(&log);
        let mut producers = Producers::default();
        // Others than before, so that what was aborted before would hit them.
        for id in [11, 12, 13] {
            producers.add(&log, id, 2);
        }
        // What was aborted behind the new end is committed now.
        for open in log.open_transactions() {
            if open.producer_id != 13 {
                end(&log, open.producer_id, COMMIT);
            }
        }
        check(&log);
        log.flush().unwrap();
        store.maintain().unwrap();
        check(&machine.killed().restart().1);
        store.close().unwrap();
        check(&machine.restart().1);
    }
}

/// Appends as far as it goes, and notes what was acknowledged.
fn run(disk: &SimulatedDisk, level: Durability, acknowledged: &mut Vec<u64>) {
    let machine = Machine::of(disk.clone());
    let mut producers = Producers::default();
    let Ok(store) = machine.try_open() else { return };
    let Ok(topic) = store.create_topic("t", TopicConfig::new().durability(level)) else { return };
    let Ok(log) = topic.partition(0) else { return };
    for (at, step) in SCRIPT.into_iter().enumerate() {
        match take(step, &log, &mut producers) {
            Ok(Some(appended)) => acknowledged.push(appended.last_offset),
            Ok(None) => {}
            Err(_) => return,
        }
        match at {
            8 | 21 => drop(store.maintain()),
            14 => drop(store.flush()),
            _ => {}
        }
    }
    let _ = store.close();
}

fn check_image(disk: SimulatedDisk, least: u64, may_have_holes: bool) {
    let machine = Machine::of(disk);
    let store = machine.open();
    let Ok(topic) = store.topic("t") else {
        assert_eq!(least, 0, "the topic is gone");
        return;
    };
    let log = topic.partition(0).unwrap();
    if !log.recovery_report().damage.is_empty() {
        // Of bytes that were never synced a power cut may keep the later ones; that is said, and nothing is cut.
        assert!(may_have_holes, "{:?}", log.recovery_report());
        return;
    }
    assert!(log.log_end() >= least, "{} instead of {least}", log.log_end());
    check(&log);
    let known = log.producers();
    // The next one reads less of the log.
    let (_again, log) = machine.killed().restart();
    check(&log);
    assert_eq!(log.producers(), known);
    for open in log.open_transactions() {
        log.end_transaction(open.producer_id, open.producer_epoch, ABORT, AppendOptions::new()).unwrap();
    }
    assert_eq!(log.last_stable_offset(), log.log_end());
    check(&log);
}

#[test]
fn a_crash_at_any_call_leaves_transactions_as_the_markers_in_the_log_say() {
    for level in LEVELS {
        let whole = SimulatedDisk::new(1);
        run(&whole, level, &mut Vec::new());
        let calls = whole.calls();
        for call in 1..=calls {
            let disk = SimulatedDisk::new(1);
            disk.fail(When::nth(call), Fault::PowerOff);
            let mut acknowledged = Vec::new();
            run(&disk, level, &mut acknowledged);
            let killed_end = acknowledged.last().map_or(0, |last| last + 1);
            let cut_end = if level == Durability::Synced { killed_end } else { 0 };
            let holes = level != Durability::Synced;
            for (crash, least, may_have_holes) in [
                (Crash::ProcessKill, killed_end, false),
                (Crash::PowerCut { seed: 0 }, cut_end, holes),
                (Crash::PowerCut { seed: 2 + call }, cut_end, holes),
            ] {
                labelled(
                    || format!("{level}, power off at call {call} of {calls}, {crash:?}"),
                    || check_image(disk.crash(crash), least, may_have_holes),
                );
            }
        }
    }
}

/// Runs a check so that whatever fails in it says where.
fn labelled(label: impl Fn() -> String, check: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
        eprintln!("{}", label());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_crash_in_the_middle_of_recovery_changes_nothing_of_transactions() {
    for level in LEVELS {
        let whole = SimulatedDisk::new(1);
        run(&whole, level, &mut Vec::new());
        for call in (40..whole.calls()).step_by(37) {
            let disk = SimulatedDisk::new(1);
            disk.fail(When::nth(call), Fault::PowerOff);
            run(&disk, level, &mut Vec::new());
            let first = disk.crash(Crash::PowerCut { seed: 1 });
            let recovered = first.crash(Crash::ProcessKill);
            drop(Machine::of(recovered.clone()).try_open());
            for inner in 1..=recovered.calls() {
                let again = first.crash(Crash::ProcessKill);
                again.fail(When::nth(inner), Fault::PowerOff);
                drop(Machine::of(again.clone()).try_open());
                let label = || format!("{level}, power off at call {call}, then at call {inner}");
                let holes = level != Durability::Synced;
                labelled(label, || check_image(again.crash(Crash::PowerCut { seed: inner }), 0, holes));
                labelled(label, || check_image(again.crash(Crash::ProcessKill), 0, holes));
            }
        }
    }
}

/// The calls that change something.
const CHANGES: [Call; 7] =
    [Call::Write, Call::Sync, Call::Create, Call::Rename, Call::SyncDir, Call::SetSize, Call::RemoveFile];

/// Appends whatever fails, and goes on as soon as that is possible.
fn run_on(disk: &SimulatedDisk, level: Durability, fault: Option<(u64, Fault)>) {
    let machine = Machine::of(disk.clone());
    let (store, log) = machine.start(TopicConfig::new().durability(level));
    if let Some((nth, fault)) = fault {
        disk.fail(When::nth(nth).of(&CHANGES).under("t-0"), fault);
    }
    let mut producers = Producers::default();
    for (at, step) in SCRIPT.into_iter().enumerate() {
        for _ in 0..3 {
            match take(step, &log, &mut producers) {
                Ok(_) => break,
                Err(Error::OutOfOrderSequence { .. }) => panic!("{step:?} does not follow"),
                Err(_) => drop(log.reopen()),
            }
        }
        check_if_readable(&log);
        match at {
            8 | 21 => drop(store.maintain()),
            14 => drop(store.flush()),
            _ => {}
        }
    }
    let _ = store.close();
}

/// A fault may still be waiting for the next call that reads.
fn check_if_readable(log: &Partition) {
    if log.read_from(log.log_start()).unwrap().all(|record| record.is_ok()) {
        check(log);
    }
}

#[test]
fn a_call_that_fails_changes_nothing_of_what_is_committed() {
    let faults = [Fault::Error(5), Fault::Error(28), Fault::Late(5), Fault::Forget];
    for (shift, level) in LEVELS.into_iter().enumerate() {
        for nth in 1..=120 {
            let fault = faults[(nth as usize + shift) % faults.len()];
            let disk = SimulatedDisk::new(1);
            let label = || format!("{level}, {fault:?} at call {nth} that changes something in t-0");
            labelled(label, || run_on(&disk, level, Some((nth, fault))));
            disk.heal();
            labelled(label, || check_image(disk.crash(Crash::ProcessKill), 0, false));
        }
    }
}

#[test]
fn after_a_failed_sync_a_transaction_is_what_readers_could_have() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    let mut producers = Producers::default();
    producers.add(&log, 1, 1);
    for marker in [ABORT, COMMIT] {
        machine.disk.fail(When::next().of(&[Call::Sync]), Fault::Forget);
        assert!(matches!(log.end_transaction(1, 0, marker, AppendOptions::new()), Err(Error::Io { .. })));
        assert_eq!(log.last_stable_offset(), 0);
        log.reopen().unwrap();
        check(&log);
        assert_eq!(log.open_transactions().len(), 1);
        check(&machine.cut_off().restart().1);
    }
    // The abort that was lost says nothing of the transaction any more.
    end(&log, 1, COMMIT);
    check(&log);
    assert_eq!(read(&log, 0, Isolation::ReadCommitted), [0]);
    check(&machine.cut_off().restart().1);
}

fn replicated() -> TopicConfig {
    TopicConfig::new().set("annals.replicated", "true").unwrap()
}

#[test]
fn nothing_above_the_high_watermark_of_a_replicated_topic_is_read() {
    let machine = Machine::new();
    let (store, log) = machine.start(replicated());
    run_script(&log, |log| {
        assert_eq!((log.high_watermark(), log.last_stable_offset()), (0, 0));
        assert!(read(log, 0, Isolation::ReadUncommitted).is_empty());
        assert_eq!(log.fetch(0, annals::FetchOptions::new()).unwrap().batches.len(), 0);
        assert!(!log.wait_for(0, Duration::ZERO).unwrap());
    });
    let mut before = 0;
    // Inside batches, too: those are not split.
    for offset in 0..=log.log_end() {
        assert_eq!(log.set_high_watermark(offset).unwrap(), offset);
        check(&log);
        assert_eq!(log.set_high_watermark(before).unwrap(), offset, "it goes back");
        before = offset;
        let (_killed, again) = machine.killed().restart();
        assert!(again.high_watermark() <= offset);
        check(&again);
    }
    assert_eq!(log.set_high_watermark(u64::MAX).unwrap(), log.log_end());
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    assert_eq!(log.high_watermark(), log.log_end());
    check(&log);
}

#[test]
fn a_transaction_whose_marker_is_not_replicated_is_undecided_also_after_a_restart() {
    let end_offset = {
        let (_store, log) = Machine::new().start(replicated());
        run_script(&log, |_| ());
        log.log_end()
    };
    for offset in 0..=end_offset {
        let machine = Machine::new();
        let (store, log) = machine.start(replicated());
        run_script(&log, |_| ());
        log.set_high_watermark(offset).unwrap();
        let stable = log.last_stable_offset();
        store.flush().unwrap();
        let (_killed, killed) = machine.killed().restart();
        assert_eq!((killed.high_watermark(), killed.last_stable_offset()), (offset, stable));
        check(&killed);
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().clean);
        assert_eq!((log.high_watermark(), log.last_stable_offset()), (offset, stable));
        check(&log);
        log.set_high_watermark(u64::MAX).unwrap();
        check(&log);
    }
}

#[test]
fn the_high_watermark_wakes_readers_and_only_of_replicated_topics_may_be_set() {
    let (_store, log) = Machine::new().start(replicated());
    append(&log, &["a"]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| log.wait_for(0, Duration::from_secs(3_600)).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        log.set_high_watermark(1).unwrap();
        assert!(waiter.join().unwrap());
    });
    let store = Machine::new().open();
    let log = plain_topic(&store);
    append(&log, &["a"]);
    let refused = log.set_high_watermark(1).unwrap_err();
    assert!(matches!(refused, Error::PolicyViolation { .. }), "{refused}");
    assert_eq!((refused.kafka_code(), log.high_watermark()), (Some(44), 1));
}

fn plain_topic(store: &Store) -> Partition {
    store.create_topic("plain", TopicConfig::new()).unwrap().partition(0).unwrap()
}

#[test]
fn a_replicated_topic_that_is_so_no_more_follows_its_log_end_and_back() {
    let machine = Machine::new();
    let (store, log) = machine.start(replicated());
    run_script(&log, |_| ());
    let topic = store.topic("t").unwrap();
    topic.configure([("annals.replicated", Some("false"))]).unwrap();
    assert_eq!(log.high_watermark(), log.log_end());
    check(&log);
    topic.configure([("annals.replicated", Some("true"))]).unwrap();
    let end = log.log_end();
    append(&log, &["more"]);
    assert_eq!((log.high_watermark(), log.log_end()), (end, end + 1));
    check(&log);
}

#[test]
fn a_transaction_whose_beginning_is_deleted_hides_no_more_than_its_rest() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    run_script(&log, |_| ());
    for before in [1, 4, 8, 12, 18] {
        log.delete_records(before).unwrap();
        check(&log);
        check(&machine.killed().restart().1);
    }
    drop(log);
    store.close().unwrap();
    let log = machine.restart().1;
    assert_eq!(log.log_start(), 18);
    check(&log);
    assert!(!fates(&log).is_empty());
}
