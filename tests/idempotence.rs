//! Producers that number their batches: what was appended is appended once, whatever is sent again and whatever
//! happens in between. The tables are those of Kafka's own tests of its producer state.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/logs.rs"]
mod logs;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals::format::{
    self, BatchBuilder, BatchOptions, Codec, Compression, EndTransactionMarker, ProducerEntry,
    ProducerSnapshot, TimestampType,
};
use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::{
    AppendOptions, Appended, Durability, Error, FormatError, Partition, Record, Result, Store, TopicConfig,
};
use logs::{Machine, NOW, append, file, values};

const MAX: i32 = i32::MAX;
const COMMIT: EndTransactionMarker = EndTransactionMarker { coordinator_epoch: 0, commit: true };

/// A batch of so many records of producer 7.
fn try_send(log: &Partition, epoch: i16, sequence: i32, count: usize) -> Result<Appended> {
    send_as(log, 7, epoch, sequence, count)
}

fn send_as(log: &Partition, id: i64, epoch: i16, sequence: i32, count: usize) -> Result<Appended> {
    let values: Vec<String> = (0..count).map(|n| format!("{id}/{epoch}/{sequence}+{n}")).collect();
    let records: Vec<_> = values.iter().map(Record::new).collect();
    log.append_batch_with(&records, AppendOptions::new().idempotent(id, epoch, sequence))
}

fn send(log: &Partition, sequence: i32, count: usize) -> u64 {
    let appended = try_send(log, 0, sequence, count).unwrap();
    assert!(!appended.duplicate);
    assert_eq!(appended.last_offset, appended.base_offset + count as u64 - 1);
    appended.base_offset
}

/// What became of a batch, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    New,
    /// A repetition of the batch at these offsets.
    Again(u64, u64),
    /// Refused, with Kafka's number.
    Refused(i16),
}
use Outcome::{Again, New, Refused};

const OUT_OF_ORDER: Outcome = Refused(45);
const FENCED: Outcome = Refused(47);

/// Takes the outcome of an append, and makes sure that only new batches are written.
fn outcome(log: &Partition, call: impl FnOnce() -> Result<Appended>) -> Outcome {
    let before = (log.log_end(), log.size(), log.producers());
    let outcome = match call() {
        Ok(appended) if appended.duplicate => Again(appended.base_offset, appended.last_offset),
        Ok(appended) => {
            assert_eq!(appended.base_offset, before.0);
            assert_eq!(log.log_end(), appended.last_offset + 1);
            return New;
        }
        Err(error) => {
            assert!(!error.is_retryable(), "{error}");
            Refused(error.kafka_code().unwrap())
        }
    };
    assert_eq!((log.log_end(), log.size(), log.producers()), before, "{outcome:?} has changed something");
    outcome
}

/// Batches of producer 7 in order: epoch, first sequence, records, and what becomes of them.
fn play(log: &Partition, table: &[(i16, i32, usize, Outcome)]) {
    for (line, &(epoch, sequence, count, expected)) in table.iter().enumerate() {
        let found = outcome(log, || try_send(log, epoch, sequence, count));
        assert_eq!(found, expected, "line {line}: epoch {epoch}, {count} from {sequence}");
    }
}

/// The producers in short: id, epoch, last sequence, last offset.
fn known(log: &Partition) -> Vec<(i64, i16, Option<i32>, Option<u64>)> {
    log.producers()
        .iter()
        .map(|it| (it.producer_id, it.producer_epoch, it.last_sequence, it.last_offset))
        .collect()
}

#[test]
fn the_last_five_batches_are_recognised_and_no_older_one() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    play(
        &log,
        &[
            (0, 0, 1, New),
            (0, 0, 1, Again(0, 0)),
            (0, 1, 2, New),
            (0, 3, 3, New),
            (0, 6, 1, New),
            (0, 7, 2, New),
            // All five, in any order, any number of times.
            (0, 7, 2, Again(7, 8)),
            (0, 0, 1, Again(0, 0)),
            (0, 3, 3, Again(3, 5)),
            (0, 6, 1, Again(6, 6)),
            (0, 1, 2, Again(1, 2)),
            (0, 0, 1, Again(0, 0)),
            // The sixth pushes the first one out.
            (0, 9, 1, New),
            (0, 0, 1, OUT_OF_ORDER),
            (0, 1, 2, Again(1, 2)),
            // Neither part of a batch nor several at once.
            (0, 1, 1, OUT_OF_ORDER),
            (0, 2, 1, OUT_OF_ORDER),
            (0, 1, 5, OUT_OF_ORDER),
            (0, 9, 2, OUT_OF_ORDER),
            (0, 10, 1, New),
        ],
    );
    assert_eq!(known(&log), [(7, 0, Some(10), Some(10))]);
}

#[test]
fn gaps_and_steps_back_are_refused() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    play(
        &log,
        &[
            (0, 0, 2, New),
            (0, 3, 1, OUT_OF_ORDER),
            (0, MAX, 1, OUT_OF_ORDER),
            (0, 1, 1, OUT_OF_ORDER),
            (0, 0, 1, OUT_OF_ORDER),
            (0, 0, 3, OUT_OF_ORDER),
            (0, 2, 1, New),
        ],
    );
    let error = try_send(&log, 0, 9, 1).unwrap_err();
    let Error::OutOfOrderSequence { partition, producer_id, producer_epoch, found, expected } = &error else {
        panic!("{error}")
    };
    assert_eq!((partition.as_str(), *producer_id, *producer_epoch, *found), ("t-0", 7, 0, 9));
    assert!(expected.contains('3'), "{expected}");
}

#[test]
fn a_producer_that_is_not_known_may_begin_anywhere() {
    for first in [0, 1, 17, MAX - 1, MAX] {
        let (_store, log) = Machine::new().start(TopicConfig::new());
        play(&log, &[(3, first, 1, New), (3, first, 1, Again(0, 0))]);
        let next = first.checked_add(1).unwrap_or(0);
        play(&log, &[(3, next, 1, New), (2, 0, 1, FENCED)]);
    }
}

#[test]
fn zero_comes_after_the_largest_sequence() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    play(
        &log,
        &[
            (0, MAX - 4, 3, New),
            // MAX - 1, MAX, 0, 1.
            (0, MAX - 1, 4, New),
            (0, MAX - 1, 4, Again(3, 6)),
            (0, 1, 1, OUT_OF_ORDER),
            (0, MAX, 1, OUT_OF_ORDER),
            (0, 2, 2, New),
            (0, MAX - 1, 4, Again(3, 6)),
            (0, MAX - 4, 3, Again(0, 2)),
        ],
    );
    let (_store, log) = Machine::new().start(TopicConfig::new());
    play(
        &log,
        &[(0, MAX - 1, 2, New), (0, 1, 1, OUT_OF_ORDER), (0, 0, 2, New), (0, MAX - 1, 2, Again(0, 1))],
    );
    let (_store, log) = Machine::new().start(TopicConfig::new());
    play(&log, &[(0, MAX - 1, 4, New)]);
    let machine = machine.killed();
    let (_store, log) = machine.restart();
    play(&log, &[(0, 2, 2, Again(7, 8)), (0, 4, 1, New)]);
}

#[test]
fn a_new_epoch_begins_with_zero_and_fences_the_old_one() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    play(
        &log,
        &[
            (0, 0, 1, New),
            (0, 1, 1, New),
            (1, 2, 1, OUT_OF_ORDER),
            (1, 1, 1, OUT_OF_ORDER),
            (0, 2, 1, New),
            (1, 0, 1, New),
            (0, 3, 1, FENCED),
            // What the old epoch sent is not recognised any more either.
            (0, 2, 1, FENCED),
            (1, 0, 1, Again(3, 3)),
            (1, 1, 1, New),
            (i16::MAX, 0, 1, New),
            (i16::MAX - 1, 0, 1, FENCED),
        ],
    );
    assert_eq!(known(&log), [(7, i16::MAX, Some(0), Some(5))]);
}

#[test]
fn a_producer_known_by_a_marker_alone_begins_with_zero() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    log.end_transaction(7, 4, COMMIT, AppendOptions::new()).unwrap();
    assert_eq!(known(&log), [(7, 4, None, None)]);
    let refused =
        [(4, 1, 1, OUT_OF_ORDER), (4, MAX, 1, OUT_OF_ORDER), (5, 1, 1, OUT_OF_ORDER), (3, 0, 1, FENCED)];
    play(&log, &refused);
    play(&machine.killed().restart().1, &refused);
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    play(&log, &refused);
    play(&log, &[(4, 0, 1, New), (4, 0, 1, Again(1, 1))]);
    // A marker of the next epoch ends the sequences of this one.
    log.end_transaction(7, 5, COMMIT, AppendOptions::new()).unwrap();
    play(&log, &[(4, 1, 1, FENCED), (5, 1, 1, OUT_OF_ORDER), (5, 0, 1, New)]);
    // One of the same epoch does not.
    log.end_transaction(7, 5, COMMIT, AppendOptions::new()).unwrap();
    play(&log, &[(5, 0, 1, Again(3, 3)), (5, 1, 1, New)]);
}

#[test]
fn negative_numbers_are_refused_and_nothing_is_kept_of_them() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    for (id, epoch, sequence) in [(-1, 0, 0), (i64::MIN, 0, 0), (7, -1, 0), (7, 0, -1), (7, 0, i32::MIN)] {
        let error = send_as(&log, id, epoch, sequence, 1).unwrap_err();
        assert!(matches!(error, Error::InvalidBatch { source: FormatError::Invalid { .. } }), "{error}");
    }
    assert!(log.end_transaction(-1, 0, COMMIT, AppendOptions::new()).is_err());
    assert!(log.end_transaction(7, -1, COMMIT, AppendOptions::new()).is_err());
    assert!(log.producers().is_empty() && log.log_end() == 0);
    assert!(!send_as(&log, i64::MAX, i16::MAX, MAX, 2).unwrap().duplicate);
}

fn encoded(options: BatchOptions, texts: &[&str]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(options);
    texts.iter().for_each(|text| builder.push(&Record::new(*text)).unwrap());
    builder.finish().unwrap()
}

#[test]
fn an_encoded_batch_says_itself_whose_it_is() {
    for codec in ["producer", "uncompressed", "gzip"] {
        let config = TopicConfig::new().set("compression.type", codec).unwrap();
        if !cfg!(feature = "gzip") && codec == "gzip" {
            continue;
        }
        let (_store, log) = Machine::new().start(config);
        let batch = |epoch, sequence| {
            let options = BatchOptions {
                producer_id: 7,
                producer_epoch: epoch,
                base_sequence: sequence,
                default_timestamp: NOW,
                codec: Codec::from(Compression::None),
                ..BatchOptions::default()
            };
            encoded(options, &["a", "b"])
        };
        let put = |bytes: &[u8]| outcome(&log, || log.append_encoded(bytes, AppendOptions::new()));
        let one = batch(0, 5);
        assert_eq!(put(&one), New);
        assert_eq!(put(&one), Again(0, 1));
        assert_eq!(put(&batch(0, 8)), OUT_OF_ORDER);
        assert_eq!(put(&batch(0, 7)), New);
        // The same numbers by the other way in are the same batch.
        play(&log, &[(0, 5, 2, Again(0, 1)), (0, 7, 2, Again(2, 3)), (0, 9, 1, New)]);
        assert_eq!(put(&batch(1, 0)), New);
        assert_eq!(put(&batch(0, 10)), FENCED);
        // Damaged on its way, it is no repetition.
        let mut damaged = batch(1, 0);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(put(&damaged), Refused(2));
    }
}

#[test]
fn an_encoded_batch_may_not_be_a_marker_or_lack_its_sequence() {
    let (_store, log) = Machine::new().start(TopicConfig::new());
    let fields = BatchOptions { producer_id: 7, producer_epoch: 0, ..BatchOptions::default() };
    let marker = COMMIT.encode_batch(&fields).unwrap();
    let error = log.append_encoded(&marker, AppendOptions::new()).unwrap_err();
    assert!(matches!(error, Error::InvalidBatch { .. }), "{error}");
    // The builder refuses to leave the sequence out, so it is taken out: bytes 53 to 56, then the checksum.
    let mut batch = encoded(BatchOptions { base_sequence: 0, ..fields }, &["a"]);
    batch[53..57].fill(0xff);
    let checksum = format::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    let error = log.append_encoded(&batch, AppendOptions::new()).unwrap_err();
    assert!(
        matches!(&error, Error::InvalidBatch { .. }) && error.to_string().contains("sequence"),
        "{error}"
    );
    assert_eq!(log.log_end(), 0);
}

#[test]
fn the_time_of_a_repetition_is_that_of_the_first_append() {
    let machine = Machine::new();
    let config = TopicConfig::new().timestamp_type(TimestampType::LogAppendTime);
    let (_store, log) = machine.start(config);
    assert_eq!(try_send(&log, 0, 0, 2).unwrap().append_time, Some(NOW));
    machine.clock.advance(Duration::from_secs(5));
    let again = try_send(&log, 0, 0, 2).unwrap();
    assert_eq!((again.duplicate, again.append_time), (true, Some(NOW)));
}

#[test]
fn a_repetition_is_as_durable_as_it_is_asked_to_be() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new().durability(Durability::Process));
    let synced = AppendOptions::new().durability(Durability::Synced);
    send(&log, 0, 1);
    send(&log, 1, 1);
    log.append(&Record::new("behind")).unwrap();
    assert_eq!(machine.cut_off().restart().1.log_end(), 0);
    let again = log.append_batch_with(&[Record::new("x")], synced.idempotent(7, 0, 0)).unwrap();
    assert!(again.duplicate);
    assert!(machine.cut_off().restart().1.log_end() >= 1);
    let calls = machine.disk.calls();
    assert!(log.append_batch_with(&[Record::new("x")], synced.idempotent(7, 0, 0)).unwrap().duplicate);
    assert_eq!(machine.disk.calls(), calls, "what is on disk is synced again");
}

#[test]
fn a_repetition_of_what_a_sync_lost_is_not_acknowledged() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    send(&log, 0, 1);
    machine.disk.fail(When::next().of(&[Call::Sync]), Fault::Forget);
    assert!(matches!(try_send(&log, 0, 1, 2), Err(Error::Io { .. })));
    assert!(matches!(try_send(&log, 0, 1, 2), Err(Error::Poisoned { .. })));
    log.reopen().unwrap();
    assert_eq!(known(&log), [(7, 0, Some(0), Some(0))], "what is known does not go back with the log");
    play(&log, &[(0, 3, 1, OUT_OF_ORDER), (0, 1, 2, New), (0, 1, 2, Again(1, 2)), (0, 0, 1, Again(0, 0))]);
    let (_store, log) = machine.cut_off().restart();
    assert_eq!(log.log_end(), 3);
    play(&log, &[(0, 1, 2, Again(1, 2)), (0, 3, 1, New)]);
}

#[test]
fn a_producer_that_was_new_is_forgotten_with_what_a_sync_lost() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    for (fault, calls) in [(Fault::Forget, [Call::Sync]), (Fault::Error(5), [Call::Write])] {
        machine.disk.fail(When::next().of(&calls), fault);
        assert!(try_send(&log, 4, 9, 1).is_err());
        log.reopen().unwrap();
        assert_eq!(known(&log), []);
    }
    play(&log, &[(0, 2, 1, New)]);
}

#[test]
fn a_full_disk_refuses_a_batch_and_takes_it_when_there_is_room() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    send(&log, 0, 1);
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert!(matches!(try_send(&log, 0, 1, 1), Err(Error::StorageFull { .. })));
    assert!(try_send(&log, 0, 0, 1).unwrap().duplicate, "a repetition needs no room");
    machine.disk.set_capacity(None);
    play(&log, &[(0, 2, 1, OUT_OF_ORDER), (0, 1, 1, New), (0, 1, 1, Again(1, 1))]);
}

#[test]
fn no_more_producers_are_taken_in_than_the_topic_allows() {
    let machine = Machine::new();
    let config = TopicConfig::new().set("annals.max.producers", "2").unwrap();
    let (_store, log) = machine.start(config);
    let check = |log: &Partition| {
        let error = send_as(log, 3, 0, 0, 1).unwrap_err();
        assert!(
            matches!(&error, Error::TooLarge { size: 3, limit: 2, setting: "annals.max.producers", .. }),
            "{error}"
        );
        append(log, &["of nobody"]);
    };
    send_as(&log, 1, 0, 0, 1).unwrap();
    send_as(&log, 2, 0, 0, 1).unwrap();
    check(&log);
    send_as(&log, 1, 0, 1, 1).unwrap();
    send_as(&log, 2, 1, 0, 1).unwrap();
    check(&log);
    check(&machine.killed().restart().1);
}

/// A log of several producers over several segments.
fn several(machine: &Machine, durability: Durability) -> (annals::Store, Partition) {
    let (store, log) = machine.start(TopicConfig::new().durability(durability));
    for round in 0..4 {
        for id in [30, 10, 20] {
            send_as(&log, id, 1, round * 2, 2).unwrap();
        }
        append(&log, &["plain"]);
        if round == 1 || round == 2 {
            log.roll().unwrap();
        }
    }
    let options = AppendOptions::new().transactional(40, 0, 0);
    log.append_batch_with(&[Record::new("t")], options).unwrap();
    log.end_transaction(50, 6, COMMIT, AppendOptions::new()).unwrap();
    (store, log)
}

/// Whatever was lost of what was known of producers was found again: of each its last batch, and where it stands.
fn assert_all_known(log: &Partition, expected: &[annals::ProducerState]) {
    assert_eq!(log.producers(), expected);
    assert_eq!(log.open_transactions().len(), 1);
    let end = log.log_end();
    for (id, last) in [(30, 22), (10, 24), (20, 26)] {
        let again = outcome(log, || send_as(log, id, 1, 6, 2));
        assert_eq!(again, Again(last - 1, last), "producer {id}");
        for (epoch, sequence, refused) in [(1, 9, OUT_OF_ORDER), (0, 8, FENCED), (2, 8, OUT_OF_ORDER)] {
            assert_eq!(outcome(log, || send_as(log, id, epoch, sequence, 1)), refused);
        }
    }
    assert_eq!(outcome(log, || send_as(log, 50, 6, 1, 1)), OUT_OF_ORDER);
    assert_eq!(log.log_end(), end);
    assert_eq!(outcome(log, || send_as(log, 10, 1, 8, 1)), New);
}

#[test]
fn producers_are_known_after_a_clean_close_a_kill_and_a_power_cut() {
    for level in [Durability::Synced, Durability::Process] {
        let machine = Machine::new();
        let (store, log) = several(&machine, level);
        let expected = log.producers();
        assert_eq!(expected.len(), 5);
        assert_all_known(&machine.killed().restart().1, &expected);
        // Again and again, with nothing new.
        let killed = machine.killed();
        let (_store, log) = killed.restart();
        assert_eq!(log.producers(), expected);
        assert_all_known(&killed.killed().restart().1, &expected);
        if level == Durability::Process {
            let cut = machine.cut_off().restart().1;
            assert!(cut.producers().len() <= expected.len());
        } else {
            assert_all_known(&machine.cut_off().restart().1, &expected);
        }
        store.close().unwrap();
        let (_store, log) = machine.restart();
        assert!(log.recovery_report().clean);
        assert_eq!(log.recovery_report().scanned_bytes, 0);
        assert_all_known(&log, &expected);
    }
}

#[test]
fn only_the_newest_batch_of_a_producer_is_recognised_after_a_clean_restart() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    for sequence in 0..4 {
        send(&log, sequence * 2, 2);
    }
    drop(log);
    store.close().unwrap();
    let (_store, log) = machine.restart();
    play(&log, &[(0, 4, 2, OUT_OF_ORDER), (0, 6, 2, Again(6, 7)), (0, 8, 1, New), (0, 6, 2, Again(6, 7))]);
}

fn snapshots(disk: &SimulatedDisk) -> Vec<PathBuf> {
    disk.names().into_iter().filter(|name| name.extension().is_some_and(|it| it == "snapshot")).collect()
}

fn image(machine: &Machine) -> Machine {
    Machine { disk: machine.disk.crash(Crash::ProcessKill), clock: machine.clock.clone() }
}

#[test]
fn a_snapshot_in_any_state_gives_the_same_answers() {
    let machine = Machine::new();
    let (store, log) = several(&machine, Durability::Synced);
    let (expected, end) = (log.producers(), log.log_end());
    drop(log);
    store.close().unwrap();
    let all = snapshots(&machine.disk);
    assert!(all.len() >= 3 && all.contains(&file(end, "snapshot")), "{all:?}");
    let check = |damage: &dyn Fn(&SimulatedDisk)| {
        for clean in [true, false] {
            let image = image(&machine);
            damage(&image.disk);
            if !clean {
                assert!(image.disk.remove(".kafka_cleanshutdown"));
                image.disk.remove("annals.checkpoint");
                image.disk.remove("recovery-point-offset-checkpoint");
            }
            let (store, log) = image.restart();
            assert!(log.recovery_report().damage.is_empty());
            assert_eq!(log.recovery_report().clean, clean);
            assert_all_known(&log, &expected);
            let known = log.producers();
            drop(log);
            store.close().unwrap();
            assert_eq!(image.restart().1.producers(), known);
        }
    };
    check(&|_| ());
    check(&|disk| all.iter().for_each(|name| assert!(disk.remove(name))));
    check(&|disk| all.iter().for_each(|name| disk.write(name, b"").unwrap()));
    for name in &all {
        let bytes = machine.disk.read(name).unwrap();
        check(&|disk| assert!(disk.remove(name)));
        for at in 0..bytes.len() {
            check(&|disk| assert!(disk.flip(name, at as u64, 1 << (at % 8))));
            check(&|disk| disk.write(name, &bytes[..at]).unwrap());
        }
        check(&|disk| disk.write(name, &[&bytes[..], b"x"].concat()).unwrap());
    }
}

#[test]
fn a_snapshot_from_the_future_is_not_believed_and_is_gone_before_its_time_comes() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    send(&log, 0, 3);
    let end = log.log_end();
    drop(log);
    store.close().unwrap();
    let entry = ProducerEntry {
        producer_id: 7,
        producer_epoch: 9,
        last_sequence: 99,
        last_offset: Some(end),
        offset_delta: 0,
        last_timestamp: NOW,
        coordinator_epoch: -1,
        transaction_first_offset: Some(end),
    };
    let lie = ProducerSnapshot { entries: vec![entry] }.encode().unwrap();
    for clean in [true, false] {
        let image = image(&machine);
        for offset in [end + 1, end + 2, 1_000_000] {
            image.disk.write(file(offset, "snapshot"), &lie).unwrap();
        }
        if !clean {
            assert!(image.disk.remove(".kafka_cleanshutdown"));
        }
        let (_store, log) = image.restart();
        assert_eq!(known(&log), [(7, 0, Some(2), Some(2))]);
        assert!(log.open_transactions().is_empty());
        assert!(snapshots(&image.disk).iter().all(|name| *name <= file(end, "snapshot")));
        play(&log, &[(0, 3, 1, New), (0, 4, 1, New)]);
        let (_store, log) = image.cut_off().restart();
        assert_eq!(known(&log), [(7, 0, Some(4), Some(4))]);
    }
}

#[test]
fn a_power_cut_takes_what_is_known_back_with_the_log() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new().durability(Durability::Process));
    send(&log, 0, 1);
    log.flush().unwrap();
    send(&log, 1, 1);
    let (_store, log) = machine.cut_off().restart();
    assert_eq!(known(&log), [(7, 0, Some(0), Some(0))]);
    play(&log, &[(0, 2, 1, OUT_OF_ORDER), (0, 1, 1, New)]);
}

#[test]
fn a_truncation_takes_what_is_known_back_with_the_log() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    for sequence in 0..6 {
        send(&log, sequence, 1);
        if sequence % 2 == 1 {
            log.roll().unwrap();
            store.flush().unwrap();
        }
    }
    for end in [5, 4, 3, 1] {
        assert!(log.truncate_to(end).unwrap());
        assert_eq!(known(&log), [(7, 0, Some(end as i32 - 1), Some(end - 1))]);
        assert_eq!(machine.killed().restart().1.producers(), log.producers());
    }
    play(&log, &[(0, 2, 1, OUT_OF_ORDER), (0, 1, 1, New), (0, 1, 1, Again(1, 1))]);
    assert!(log.truncate_to(0).unwrap());
    assert!(log.producers().is_empty());
    play(&log, &[(0, 40, 1, New)]);
}

#[test]
fn producers_are_known_beyond_the_deletion_of_their_records() {
    let machine = Machine::new();
    let (store, log) = several(&machine, Durability::Synced);
    let expected = log.producers();
    for before in [5, 17, 20, 26] {
        log.delete_records(before).unwrap();
        assert_eq!(log.producers(), expected);
        assert_eq!(machine.killed().restart().1.producers(), expected, "killed at log start {before}");
    }
    drop(log);
    store.close().unwrap();
    assert_all_known(&machine.restart().1, &expected);
}

/// Threads that send each batch until they are told it is there, and some of them again after that.
#[test]
fn each_of_many_producers_has_every_record_once_however_often_it_sends() {
    for level in [Durability::Synced, Durability::Process] {
        let machine = Machine::new();
        let (_store, log) = machine.start(TopicConfig::new().durability(level).segment_bytes(4_000));
        let repetitions = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for id in 0..4i64 {
                let (log, repetitions) = (log.clone(), &repetitions);
                scope.spawn(move || {
                    let mut chance = id as u64 + 1;
                    let mut below = |bound: u64| {
                        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (chance >> 33) % bound
                    };
                    let (mut sequence, mut sent) = (0, Vec::new());
                    for _ in 0..100 {
                        let count = 1 + below(3) as usize;
                        let first = send_as(&log, id, 0, sequence, count).unwrap();
                        assert!(!first.duplicate);
                        sent.push((sequence, count, first.base_offset));
                        sequence += count as i32;
                        while below(2) == 0 {
                            let back = 1 + below(5.min(sent.len() as u64)) as usize;
                            let (sequence, count, base) = sent[sent.len() - back];
                            let again = send_as(&log, id, 0, sequence, count).unwrap();
                            assert_eq!((again.duplicate, again.base_offset), (true, base));
                            repetitions.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(repetitions.load(Ordering::Relaxed) > 0);
        let everything = values(&log, 0);
        let mut next = [0i32; 4];
        let mut batch = (0, 0);
        for (_, text) in &everything {
            let (head, n) = text.split_once('+').unwrap();
            let mut words = head.split('/');
            let id: usize = words.next().unwrap().parse().unwrap();
            let sequence: i32 = words.nth(1).unwrap().parse().unwrap();
            let n: i32 = n.parse().unwrap();
            assert_eq!(sequence + n, next[id], "producer {id}, behind {batch:?}");
            batch = (id, sequence);
            next[id] += 1;
        }
        assert_eq!(machine.killed().restart().1.producers(), log.producers());
    }
}

/// Two threads send the same batch at the same time: it is written once, and both hear where.
#[test]
fn a_batch_sent_twice_at_once_is_written_once() {
    let machine = Machine::new();
    let (_store, log) = machine.start(TopicConfig::new());
    for sequence in 0..100 {
        let both = std::thread::scope(|scope| {
            let one = scope.spawn(|| try_send(&log, 0, sequence, 1).unwrap());
            let two = scope.spawn(|| try_send(&log, 0, sequence, 1).unwrap());
            [one.join().unwrap(), two.join().unwrap()]
        });
        assert_eq!(both.map(|it| it.base_offset), [sequence as u64; 2]);
        assert_eq!(both.iter().filter(|it| it.duplicate).count(), 1);
    }
    assert_eq!(log.log_end(), 100);
}

/// A producer that sends each batch until it is acknowledged, through crashes at every call: no record is missing,
/// none is there twice.
#[test]
fn a_producer_that_tries_again_after_a_crash_has_every_record_once() {
    for level in [Durability::Synced, Durability::Process] {
        let (mut call, mut crashed) = (1, true);
        while crashed {
            let disk = SimulatedDisk::new(call);
            disk.fail(When::nth(call), Fault::PowerOff);
            let mut machine = Machine::of(disk);
            let mut sequence = 0;
            crashed = !produce(&machine, level, &mut sequence);
            if crashed {
                // After a power cut only what was acknowledged as durable is sure to be there.
                machine = match level {
                    Durability::Synced if call % 2 == 0 => machine.cut_off(),
                    _ => machine.killed(),
                };
                assert!(produce(&machine, level, &mut sequence));
            }
            let all = values(&machine.killed().restart().1, 0);
            let found: Vec<String> = all.into_iter().map(|(_, text)| text).collect();
            let expected: Vec<String> =
                (0..12).flat_map(|n| (0..2).map(move |k| format!("7/0/{}+{k}", n * 2))).collect();
            assert_eq!(found, expected, "{level}, power off at call {call}");
            call += 1;
        }
        assert!(call > 40);
    }
}

/// Goes on with the batch that was not acknowledged. Returns whether it came to the end.
fn produce(machine: &Machine, level: Durability, sequence: &mut i32) -> bool {
    let Ok(store) = machine.try_open() else { return false };
    if store.topic("t").is_err()
        && store.create_topic("t", TopicConfig::new().durability(level).segment_bytes(400)).is_err()
    {
        return false;
    }
    let Ok(log) = store.topic("t").and_then(|topic| topic.partition(0)) else { return false };
    while *sequence < 24 {
        if try_send(&log, 0, *sequence, 2).is_err() {
            return false;
        }
        *sequence += 2;
        if *sequence % 10 == 0 && store.flush().is_err() {
            return false;
        }
    }
    store.close().is_ok()
}

// ---- when their records are deleted ----

/// Two segments, the producer in the first one, and all of it deleted.
fn producer_without_records(machine: &Machine, fail: Option<When>) -> (Store, Partition) {
    let (store, log) = machine.start(TopicConfig::new().durability(Durability::Process));
    let producer = AppendOptions::new().idempotent(7, 3, 0);
    log.append_batch_with(&[Record::new("known by this alone")], producer).unwrap();
    if let Some(when) = fail {
        machine.disk.fail(when, Fault::Error(5));
    }
    log.roll().unwrap();
    append(&log, &["a"]);
    log.flush().unwrap();
    log.delete_records(2).unwrap();
    assert_eq!(log.segments(), [1]);
    (store, log)
}

#[test]
fn a_producer_outlasts_its_records_and_a_power_cut_that_takes_the_end_of_the_log() {
    let machine = Machine::new();
    let (store, log) = producer_without_records(&machine, None);
    append(&log, &["not", "on", "disk"]);
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
