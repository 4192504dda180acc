//! Share groups as work queues: who gets what, what is delivered again, and what a restart or a crash leaves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/crashes.rs"]
mod crashes;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/logs.rs"]
mod logs;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use annals::format::{
    DeliveryState, EndTransactionMarker, ShareRecordKey, ShareSnapshot, ShareStateKey, ShareUpdate,
    coordinator_partition,
};
use annals::fs::{Call, Crash, Fault, When};
use annals::share::{
    Acknowledge, AcknowledgementMode, ShareConfig, ShareConsumer, ShareOffsetReset, ShareRecord,
};
use annals::{
    AppendOptions, Durability, Error, Isolation, Partition, Record, Result, Store, TopicConfig,
    TopicPartition,
};
use crashes::at_every_call;
use hooked::Hooked;
use logs::{Machine, append, file};
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3600);
const STATE: &str = "__share_group_state";
const ENOSPC: i32 = 28;
const EIO: Fault = Fault::Error(5);

fn config() -> ShareConfig {
    ShareConfig::new().group("workers").offset_reset(ShareOffsetReset::Earliest)
}

fn explicit() -> ShareConfig {
    config().acknowledgement_mode(AcknowledgementMode::Explicit)
}

fn consumer(store: &Store, config: ShareConfig) -> ShareConsumer {
    let mut consumer = store.share_consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

fn poll(consumer: &mut ShareConsumer) -> Vec<ShareRecord> {
    consumer.poll(NOW).unwrap()
}

fn offsets(records: &[ShareRecord]) -> Vec<u64> {
    records.iter().map(ShareRecord::offset).collect()
}

fn counts(records: &[ShareRecord]) -> Vec<(u64, u16)> {
    records.iter().map(|record| (record.offset(), record.delivery_count())).collect()
}

fn fill(log: &Partition, count: usize) {
    let values: Vec<String> = (0..count).map(|number| format!("value {number}")).collect();
    append(log, &values.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A topic `t` of one partition with so many records, and little around it.
fn machine(records: usize) -> (Machine, Store, Partition) {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    // As a broker with another `share.coordinator.state.topic.num.partitions` would have made it.
    store.create_topic(STATE, TopicConfig::new().set("cleanup.policy", "delete").unwrap()).unwrap();
    if records > 0 {
        fill(&log, records);
    }
    (machine, store, log)
}

/// The outcome of the last commits on partition 0.
fn outcome(consumer: &mut ShareConsumer) -> Result<()> {
    let mut outcomes = consumer.commit().unwrap();
    assert!(outcomes.len() <= 1);
    outcomes.pop_first().map_or(Ok(()), |(_, outcome)| outcome)
}

#[test]
fn more_consumers_than_partitions_all_get_work() {
    let (_, store, _log) = machine(40);
    let mut workers: Vec<_> = (0..4).map(|_| consumer(&store, config().max_poll_records(10))).collect();
    let polled: Vec<Vec<u64>> = workers.iter_mut().map(|worker| offsets(&poll(worker))).collect();
    assert!(polled.iter().all(|records| records.len() == 10), "{polled:?}");
    let all: BTreeSet<u64> = polled.into_iter().flatten().collect();
    assert_eq!(all.len(), 40, "nobody got what another has");
    // The next polls accept them, and there is nothing else.
    assert!(workers.iter_mut().all(|worker| poll(worker).is_empty()));
    let described = store.share_groups().describe("workers").unwrap();
    assert_eq!((described.members.len(), described.partitions.len()), (4, 1));
    let partition = described.partitions.values().next().unwrap();
    assert_eq!((partition.start_offset, partition.acquired, partition.lag), (40, 0, 0));
}

#[test]
fn many_threads_share_the_work_and_none_does_another_ones() {
    let directory = tempfile::tempdir().unwrap();
    let defaults = TopicConfig::new().durability(Durability::Process);
    let store = Store::options().topic_defaults(defaults).open(directory.path()).unwrap();
    let topic = store.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
    let total = 3_000;
    let done = Mutex::new(BTreeMap::<(u32, u64), u32>::new());
    let workers: Vec<_> = (0..8).map(|_| consumer(&store, config().max_poll_records(7))).collect();
    let handles: Vec<_> = workers.iter().map(ShareConsumer::wakeup_handle).collect();
    std::thread::scope(|scope| {
        for mut worker in workers {
            let (done, handles) = (&done, &handles);
            scope.spawn(move || {
                loop {
                    let records = match worker.poll(LONG) {
                        Ok(records) => records,
                        Err(Error::Woken) => return worker.close().unwrap(),
                        Err(error) => panic!("{error}"),
                    };
                    let mut done = done.lock().unwrap();
                    for record in &records {
                        *done.entry((record.partition(), record.offset())).or_default() += 1;
                    }
                    if done.len() == total {
                        handles.iter().for_each(|handle| handle.wakeup());
                    }
                }
            });
        }
        for number in 0..total {
            topic.append(&Record::new(&format!("task {number}"))).unwrap();
        }
    });
    let done = done.into_inner().unwrap();
    assert_eq!(done.len(), total);
    assert!(done.values().all(|times| *times == 1));
    let groups = store.share_groups();
    let described = groups.describe("workers").unwrap();
    assert_eq!((described.members.len(), described.partitions.values().map(|p| p.lag).sum::<u64>()), (0, 0));
}

#[test]
fn what_a_dying_consumer_had_wakes_one_that_waits() {
    let (_, store, _log) = machine(3);
    let mut first = consumer(&store, config());
    assert_eq!(poll(&mut first).len(), 3);
    let mut second = consumer(&store, config());
    assert!(poll(&mut second).is_empty());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || second.poll(LONG).map(|records| counts(&records)));
        let dying = scope.spawn(move || {
            let _mine = first;
            panic!("on purpose: the consumer dies with its thread");
        });
        assert!(dying.join().is_err());
        assert_eq!(waiting.join().unwrap().unwrap(), [(0, 2), (1, 2), (2, 2)]);
    });
}

#[test]
fn an_append_wakes_and_so_does_a_release_and_a_wakeup() {
    let (_, store, log) = machine(0);
    let mut worker = consumer(&store, explicit());
    let handle = worker.wakeup_handle();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let records = worker.poll(LONG).unwrap();
            (worker, records)
        });
        append(&log, &["a"]);
        let (mut worker, records) = waiting.join().unwrap();
        let mut other = consumer(&store, explicit());
        let waiting = scope.spawn(move || other.poll(LONG).map(|records| counts(&records)));
        worker.acknowledge(&records[0], Acknowledge::Release).unwrap();
        worker.commit().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), [(0, 2)]);
        let waiting = scope.spawn(move || worker.poll(LONG));
        handle.wakeup();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Woken)));
    });
    // Asked for before, it counts once.
    let mut worker = consumer(&store, config());
    worker.wakeup_handle().wakeup();
    assert!(matches!(worker.poll(NOW), Err(Error::Woken)));
    assert!(worker.poll(NOW).is_ok());
}

#[test]
fn a_closed_store_ends_a_poll() {
    let (_, store, _log) = machine(0);
    let mut worker = consumer(&store, config());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || worker.poll(LONG).map(|records| records.len()));
        store.close().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed { .. })));
    });
}

#[test]
fn a_lock_that_runs_out_gives_the_record_to_another_and_the_late_one_hears_of_it() {
    let (machine, store, _log) = machine(4);
    let mut slow = consumer(&store, explicit());
    let records = poll(&mut slow);
    assert_eq!(records.len(), 4);
    machine.clock.advance(Duration::from_secs(20));
    slow.acknowledge(&records[2], Acknowledge::Renew).unwrap();
    machine.clock.advance(Duration::from_secs(10));
    let mut other = consumer(&store, config());
    assert_eq!(counts(&poll(&mut other)), [(0, 2), (1, 2), (3, 2)]);
    for record in &records {
        slow.acknowledge(record, Acknowledge::Accept).unwrap();
    }
    // What it still had is acknowledged, the rest is not.
    let lapsed = outcome(&mut slow);
    assert!(matches!(lapsed, Err(Error::InvalidRecordState { offset: 0, .. })), "{lapsed:?}");
    assert!(matches!(
        slow.acknowledge(&records[2], Acknowledge::Accept),
        Err(Error::InvalidRecordState { .. })
    ));
    assert!(matches!(
        slow.acknowledge(&records[0], Acknowledge::Renew),
        Err(Error::InvalidRecordState { .. })
    ));
    assert!(outcome(&mut other).is_ok());
    assert!(poll(&mut slow).is_empty());
    assert_eq!(store.share_groups().describe("workers").unwrap().partitions.values().next().unwrap().lag, 0);
}

#[test]
fn a_lock_that_runs_out_wakes_one_that_waits() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    fill(&store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap(), 1);
    let settings = || explicit().lock_duration(Duration::from_millis(30));
    let mut stuck = consumer(&store, settings());
    let held = stuck.poll(LONG).unwrap();
    let mut other = consumer(&store, settings());
    assert_eq!(counts(&other.poll(LONG).unwrap()), [(0, 2)]);
    drop((held, stuck));
}

#[test]
fn accepted_released_and_rejected_and_what_implicit_mode_does_not_take() {
    let (_, store, _log) = machine(3);
    let mut worker = consumer(&store, explicit());
    let records = poll(&mut worker);
    worker.acknowledge(&records[0], Acknowledge::Accept).unwrap();
    worker.acknowledge(&records[1], Acknowledge::Accept).unwrap();
    // Until it is committed, it may be thought over.
    worker.acknowledge(&records[1], Acknowledge::Release).unwrap();
    worker.acknowledge(&records[2], Acknowledge::Reject).unwrap();
    assert_eq!(counts(&poll(&mut worker)), [(1, 2)]);
    worker.close().unwrap();
    let mut worker = consumer(&store, config());
    let again = poll(&mut worker);
    assert_eq!(counts(&again), [(1, 3)], "closing gives back what is not acknowledged");
    let refused = worker.acknowledge(&again[0], Acknowledge::Accept);
    assert!(matches!(refused, Err(Error::InvalidState { .. })));
    // Closing in implicit mode accepts.
    worker.close().unwrap();
    assert!(poll(&mut consumer(&store, config())).is_empty());
}

#[test]
fn a_record_that_fails_too_often_is_given_up() {
    let (machine, store, _log) = machine(2);
    for delivery in 1..=3 {
        let mut worker = consumer(&store, config().delivery_count_limit(3).max_poll_records(1));
        assert_eq!(counts(&poll(&mut worker)), [(0, delivery)], "dropped by a dying thread each time");
    }
    let mut worker = consumer(&store, config().delivery_count_limit(3));
    assert_eq!(counts(&poll(&mut worker)), [(1, 1)]);
    worker.close().unwrap();
    drop(store);
    let (store, _log) = machine.cut_off().restart();
    assert!(poll(&mut consumer(&store, config())).is_empty(), "not after a restart either");
}

#[test]
fn a_record_that_brings_the_process_down_is_given_up_if_deliveries_are_counted_first() {
    for durable in [false, true] {
        let (mut machine, store, log) = machine(2);
        let settings =
            || explicit().max_poll_records(1).delivery_count_limit(3).durable_delivery_count(durable);
        drop((store, log));
        for delivery in 1..=5 {
            let (store, _log) = machine.restart();
            let mut worker = consumer(&store, settings());
            let polled = poll(&mut worker);
            let expected = match (durable, delivery) {
                (false, _) => (0, 1),
                (true, ..=3) => (0, delivery),
                // Given up. Now the other one takes its turn.
                (true, _) => (1, delivery - 3),
            };
            assert_eq!(counts(&polled), [expected], "delivery {delivery}");
            // The power goes while it has the record.
            machine = machine.cut_off();
        }
    }
}

#[test]
fn a_delivery_that_cannot_be_counted_is_not_made() {
    let (machine, store, _log) = machine(2);
    let mut worker = consumer(&store, explicit().durable_delivery_count(true));
    machine.disk.fail(When::next().of(&[Call::Write]).under("__share_group_state-0"), Fault::Error(ENOSPC));
    assert!(matches!(worker.poll(NOW), Err(Error::StorageFull { .. })));
    assert_eq!(counts(&poll(&mut worker)), [(0, 1), (1, 1)]);
}

#[test]
fn a_restart_delivers_what_is_not_finished_with_its_count_and_nothing_else() {
    let (machine, store, log) = machine(10);
    let mut worker = consumer(&store, explicit());
    for _ in 0..2 {
        for record in poll(&mut worker) {
            let accept = [2, 3, 7].contains(&record.offset());
            let word = if accept { Acknowledge::Accept } else { Acknowledge::Release };
            worker.acknowledge(&record, word).unwrap();
        }
        worker.commit().unwrap();
    }
    append(&log, &["new"]);
    // Killed, or without power: what a commit returned for is there.
    for found in [machine.killed(), machine.cut_off()] {
        let (store, _log) = found.restart();
        let mut worker = consumer(&store, config());
        let expected: Vec<_> = (0..11).filter(|offset| ![2, 3, 7].contains(offset)).collect();
        let polled = poll(&mut worker);
        assert_eq!(offsets(&polled), expected);
        for (offset, count) in counts(&polled) {
            assert_eq!(count, if offset == 10 { 1 } else { 3 }, "offset {offset}");
        }
    }
}

#[test]
fn a_group_begins_where_it_says_and_a_restart_does_not_move_it() {
    let (machine, store, log) = machine(5);
    machine.clock.advance(Duration::from_secs(100));
    fill(&log, 5);
    let mut latest = consumer(&store, ShareConfig::new().group("latest"));
    assert!(poll(&mut latest).is_empty(), "it begins at the end");
    let reset = ShareOffsetReset::ByDuration(Duration::from_secs(50));
    let mut recent = consumer(&store, ShareConfig::new().group("recent").offset_reset(reset));
    assert_eq!(offsets(&poll(&mut recent)), [5, 6, 7, 8, 9]);
    let reset = ShareOffsetReset::ByDuration(Duration::ZERO);
    machine.clock.advance(Duration::from_secs(1));
    let mut newest = consumer(&store, ShareConfig::new().group("newest").offset_reset(reset));
    assert!(poll(&mut newest).is_empty());
    append(&log, &["after"]);
    // Nobody has acknowledged anything, and yet each group knows where it began.
    let (store, _log) = machine.cut_off().restart();
    for (group, expected) in [("latest", vec![10]), ("recent", (5..11).collect()), ("newest", vec![10])] {
        let mut worker = consumer(&store, ShareConfig::new().group(group));
        assert_eq!(offsets(&poll(&mut worker)), expected, "{group}");
    }
    assert_eq!(poll(&mut consumer(&store, config())).len(), 11, "another group has all");
}

#[test]
fn transactions_count_once_they_are_committed_and_markers_are_passed_over() {
    let (_, store, log) = machine(1);
    let committed = config().isolation(Isolation::ReadCommitted);
    let mut worker = consumer(&store, committed);
    let transactional = |id, value: &str| {
        let options = AppendOptions::new().transactional(id, 0, 0);
        log.append_batch_with(&[Record::new(value)], options).unwrap();
    };
    transactional(1, "aborted"); // 1
    transactional(2, "committed"); // 2
    let end = |id, commit| {
        let marker = EndTransactionMarker { coordinator_epoch: 0, commit };
        log.end_transaction(id, 0, marker, AppendOptions::new()).unwrap();
    };
    end(1, false); // 3
    append(&log, &["behind an open one"]); // 4
    assert_eq!(offsets(&poll(&mut worker)), [0]);
    assert!(poll(&mut worker).is_empty());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| worker.poll(LONG).map(|records| offsets(&records)));
        end(2, true); // 5
        assert_eq!(waiting.join().unwrap().unwrap(), [2, 4]);
    });
    worker.commit().unwrap();
    let described = store.share_groups().describe("workers").unwrap();
    let partition = described.partitions.values().next().unwrap();
    assert_eq!((partition.start_offset, partition.lag), (6, 0), "the marker at the end is passed over, too");
    let mut all = consumer(&store, ShareConfig::new().group("all").offset_reset(ShareOffsetReset::Earliest));
    assert_eq!(offsets(&poll(&mut all)), [0, 1, 2, 4]);
}

#[test]
fn what_is_deleted_under_a_group_is_passed_over() {
    let (_, store, log) = machine(10);
    let mut worker = consumer(&store, explicit().max_poll_records(2));
    let first = poll(&mut worker);
    log.delete_records(6).unwrap();
    assert_eq!(offsets(&poll(&mut worker)), [6, 7], "0 and 1 are being processed, 2 to 5 are gone");
    worker.acknowledge(&first[0], Acknowledge::Accept).unwrap();
    worker.acknowledge(&first[1], Acknowledge::Release).unwrap();
    assert!(outcome(&mut worker).is_ok());
    assert_eq!(offsets(&poll(&mut worker)), [8, 9], "a release of what is gone brings nothing back");
    // All of it, while a group looks elsewhere.
    let mut other = consumer(&store, ShareConfig::new().group("o").offset_reset(ShareOffsetReset::Earliest));
    log.delete_records(10).unwrap();
    assert!(poll(&mut other).is_empty());
    append(&log, &["new"]);
    assert_eq!(offsets(&poll(&mut other)), [10]);
}

#[test]
fn gaps_that_compaction_left_are_passed_over() {
    let machine = Machine::new();
    let settings = TopicConfig::new()
        .set("cleanup.policy", "compact")
        .and_then(|config| config.set("min.cleanable.dirty.ratio", "0"))
        .unwrap();
    let (store, log) = machine.start(settings);
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("c", "5"), ("a", "6")] {
        log.append(&Record::new(value).key(key)).unwrap();
    }
    let mut worker = consumer(&store, explicit());
    let records = poll(&mut worker);
    for record in &records {
        worker.acknowledge(record, Acknowledge::Release).unwrap();
    }
    worker.commit().unwrap();
    log.roll().unwrap();
    log.compact().unwrap();
    // What is to be delivered again is not there any more, but for the last value of each key.
    assert_eq!(counts(&poll(&mut worker)), [(1, 2), (4, 2), (5, 2)]);
    let mut new = consumer(&store, ShareConfig::new().group("new").offset_reset(ShareOffsetReset::Earliest));
    assert_eq!(offsets(&poll(&mut new)), [1, 4, 5]);
    new.commit().unwrap();
    let described = store.share_groups().describe("new").unwrap();
    assert_eq!(described.partitions.values().next().unwrap().start_offset, 6);
}

#[test]
fn records_share_the_stored_bytes() {
    let (_, store, log) = machine(2);
    let mut worker = consumer(&store, config());
    let polled = poll(&mut worker);
    let within = |record: &ShareRecord| record.record().value_bytes().unwrap().as_ptr().addr();
    let (low, high) = (within(&polled[0]), within(&polled[1]));
    assert!(high - low < log.size() as usize, "both lie in the batch as it was read");
    assert_eq!((polled[0].topic(), polled[0].partition(), polled[0].key()), ("t", 0, None));
    assert_eq!(polled[1].value(), Some(&b"value 1"[..]));
    assert!(polled[0].timestamp() > 0 && polled[0].headers().next().is_none());
}

#[test]
fn a_poll_keeps_to_its_records_and_bytes() {
    let (_, store, log) = machine(0);
    for _ in 0..5 {
        append(&log, &["x".repeat(1000).as_str()]);
    }
    let mut worker = consumer(&store, config().fetch_max_bytes(2_500));
    assert_eq!(poll(&mut worker).len(), 3);
    let mut other = consumer(&store, config().fetch_max_bytes(1));
    assert_eq!(poll(&mut other).len(), 1, "one always");
    assert_eq!(other.next(NOW).unwrap().unwrap().offset(), 4);
    assert!(other.next(NOW).unwrap().is_none());
}

#[test]
fn only_so_many_are_in_flight_until_some_are_finished() {
    let (_, store, _log) = machine(10);
    let limited = || explicit().max_in_flight(4);
    let (mut one, mut two) = (consumer(&store, limited()), consumer(&store, limited()));
    let records = poll(&mut one);
    assert_eq!(offsets(&records), [0, 1, 2, 3]);
    assert!(poll(&mut two).is_empty());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| two.poll(LONG).map(|records| offsets(&records)));
        // One in the middle: the first one may take its time.
        one.acknowledge(&records[2], Acknowledge::Accept).unwrap();
        one.commit().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), [4]);
    });
}

#[test]
fn partitions_that_come_later_are_read_from_their_start() {
    let (_, store, log) = machine(0);
    let mut worker = store.share_consumer(ShareConfig::new().group("workers")).unwrap();
    worker.subscribe(["t", "t"]).unwrap();
    let topic = store.topic("t").unwrap();
    topic.add_partitions(3).unwrap();
    append(&topic.partition(2).unwrap(), &["early"]);
    append(&log, &["first"]);
    let polled = poll(&mut worker);
    let all: BTreeSet<(u32, u64)> =
        polled.iter().map(|record| (record.partition(), record.offset())).collect();
    assert_eq!(all, BTreeSet::from([(0, 0), (2, 0)]));
    assert_eq!(worker.subscription().len(), 1);
    // Made again under its name, it is another topic.
    store.delete_topic("t").unwrap();
    store.create_topic("t", TopicConfig::new()).unwrap();
    assert!(matches!(worker.poll(NOW), Err(Error::UnknownTopic { .. })));
    assert!(matches!(worker.subscribe(["nobody"]), Err(Error::UnknownTopic { .. })));
    worker.unsubscribe();
    assert!(matches!(worker.poll(NOW), Err(Error::InvalidState { .. })));
    worker.subscribe(["t"]).unwrap();
    assert!(poll(&mut worker).is_empty());
}

#[test]
fn partitions_that_come_while_nobody_is_there_are_read_from_their_start() {
    let (_, store, _log) = machine(0);
    let latest = || ShareConfig::new().group("workers");
    consumer(&store, latest()).close().unwrap();
    let topic = store.topic("t").unwrap();
    topic.add_partitions(3).unwrap();
    append(&topic.partition(2).unwrap(), &["meanwhile"]);
    let polled = poll(&mut consumer(&store, latest()));
    assert_eq!(
        polled.iter().map(|record| (record.partition(), record.offset())).collect::<Vec<_>>(),
        [(2, 0)]
    );
}

#[test]
fn one_that_waits_gets_what_is_in_partitions_that_come_meanwhile() {
    let (_, store, _log) = machine(0);
    let mut waiting = consumer(&store, config());
    let (ready, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let polled = scope.spawn(move || {
            ready.send(()).unwrap();
            waiting.poll(LONG).unwrap()
        });
        begun.recv().unwrap();
        let topic = store.topic("t").unwrap();
        topic.add_partitions(2).unwrap();
        append(&topic.partition(1).unwrap(), &["new"]);
        assert_eq!(polled.join().unwrap()[0].partition(), 1);
    });
}

#[test]
fn a_topic_that_is_deleted_keeps_nobody_from_the_others() {
    let (_, store, log) = machine(2);
    let other = store.create_topic("other", TopicConfig::new()).unwrap().partition(0).unwrap();
    let mut worker = store.share_consumer(explicit()).unwrap();
    worker.subscribe(["t"]).unwrap();
    let held = poll(&mut worker);
    // Another group makes the log of states long, so that it is worth to clear it up.
    let mut busy = store.share_consumer(config().group("busy")).unwrap();
    busy.subscribe(["other"]).unwrap();
    for _ in 0..1_100 {
        append(&other, &["more"]);
        drop(poll(&mut busy));
    }
    drop(log);
    store.delete_topic("t").unwrap();
    store.maintain().unwrap();
    worker.acknowledge(&held[0], Acknowledge::Accept).unwrap();
    worker.subscribe(["other"]).unwrap();
    assert_eq!(worker.poll(NOW).unwrap().len(), 500);
    worker.close().unwrap();
}

#[test]
fn one_record_that_takes_long_does_not_make_the_states_outgrow_a_record() {
    let (_, store, log) = machine(0);
    for _ in 0..6 {
        fill(&log, 10_000);
    }
    let mut worker = consumer(&store, explicit().max_in_flight(10_000).max_poll_records(10_000));
    let mut first = None;
    let mut deliver = |worker: &mut ShareConsumer, word: fn(&ShareRecord) -> Acknowledge| {
        let polled = poll(worker);
        for record in &polled {
            match record.offset() {
                0 => first = Some(record.clone()),
                _ => worker.acknowledge(record, word(record)).unwrap(),
            }
        }
        !polled.is_empty()
    };
    // Each second record is accepted at its second delivery, so that no two neighbours have the same state.
    let by_turns = |record: &ShareRecord| match (record.offset() % 2, record.delivery_count()) {
        (1, 1) => Acknowledge::Release,
        _ => Acknowledge::Accept,
    };
    while deliver(&mut worker, by_turns) {}
    worker.commit().unwrap();
    // So often that the whole state has to be written.
    for _ in 0..600 {
        append(&log, &["more"]);
        deliver(&mut worker, by_turns);
        worker.commit().unwrap();
    }
    // It takes in no more until the one is finished, and then it goes on.
    worker.acknowledge(&first.unwrap(), Acknowledge::Accept).unwrap();
    worker.commit().unwrap();
    let mut worker_has = 0;
    loop {
        let polled = poll(&mut worker);
        if polled.is_empty() {
            break;
        }
        worker_has += polled.len();
        for record in &polled {
            worker.acknowledge(record, Acknowledge::Accept).unwrap();
        }
        worker.commit().unwrap();
    }
    assert!(worker_has > 600, "{worker_has}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (_, store, _log) = machine(0);
    let refused = |config: ShareConfig| store.share_consumer(config).unwrap_err();
    assert!(matches!(refused(ShareConfig::new()), Error::InvalidName { kind: "group", .. }));
    for bad in [
        config().lock_duration(Duration::ZERO),
        config().delivery_count_limit(0),
        config().max_in_flight(0),
        config().max_in_flight(10_001),
        config().max_poll_records(0),
        config().fetch_max_bytes(0),
        config().isolation(Isolation::LogEnd),
    ] {
        let error = refused(bad);
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    let _member = store.share_consumer(config()).unwrap();
    for other in [
        config().lock_duration(Duration::from_secs(1)),
        config().isolation(Isolation::ReadCommitted),
        config().priority(annals::share::LowestKeyFirst),
    ] {
        let error = refused(other);
        assert!(matches!(error, Error::InconsistentProtocol { .. }), "{error}");
    }
}

#[test]
fn groups_are_listed_described_reset_and_deleted() {
    let (machine, store, log) = machine(6);
    let groups = store.share_groups();
    assert_eq!(groups.list().unwrap(), []);
    assert!(matches!(groups.describe("workers"), Err(Error::UnknownGroup { .. })));
    let mut worker = consumer(&store, explicit().client_id("hoover"));
    let records = poll(&mut worker);
    worker.acknowledge(&records[1], Acknowledge::Accept).unwrap();
    worker.commit().unwrap();
    let id = TopicPartition::from_dir_name("t-0").unwrap();
    let described = groups.describe("workers").unwrap();
    let member = &described.members[0];
    assert_eq!((member.client_id.as_str(), member.acquired, member.topics.len()), ("hoover", 5, 1));
    let partition = described.partitions[&id];
    assert_eq!((partition.start_offset, partition.acquired, partition.finished, partition.lag), (0, 5, 1, 5));
    for refused in [
        groups.reset("workers", "t", ShareOffsetReset::Latest),
        groups.reset_to_offset("workers", &id, 3),
        groups.delete_offsets("workers", "t"),
        groups.delete("workers"),
    ] {
        assert!(matches!(refused, Err(Error::GroupNotEmpty { .. })), "{refused:?}");
    }
    worker.close().unwrap();
    let listed = groups.list().unwrap();
    assert_eq!((listed[0].group.as_str(), listed[0].members), ("workers", 0));
    let partition = groups.describe("workers").unwrap().partitions[&id];
    assert_eq!(
        (partition.start_offset, partition.available, partition.finished, partition.lag),
        (0, 5, 1, 5)
    );
    groups.reset_to_offset("workers", &id, 3).unwrap();
    assert!(matches!(groups.reset_to_offset("workers", &id, 7), Err(Error::OffsetOutOfRange { .. })));
    // It is durable, and forgets how often anything was delivered.
    let (store, _log) = machine.cut_off().restart();
    assert_eq!(counts(&poll(&mut consumer(&store, config()))), [(3, 1), (4, 1), (5, 1)]);
    let groups = store.share_groups();
    groups.reset("workers", "t", ShareOffsetReset::Earliest).unwrap();
    assert_eq!(poll(&mut consumer(&store, config())).len(), 6);
    groups.delete_offsets("workers", "t").unwrap();
    assert!(matches!(groups.delete("workers"), Err(Error::UnknownGroup { .. })));
    assert_eq!(groups.list().unwrap(), []);
    let mut afresh = store.share_consumer(ShareConfig::new().group("workers")).unwrap();
    afresh.subscribe(["t"]).unwrap();
    assert!(poll(&mut afresh).is_empty(), "it has never been there, and begins at the end");
    drop(log);
}

#[test]
fn progress_is_kept_as_kafka_keeps_it() {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    for partition in topic.partitions().unwrap() {
        fill(&partition, 3);
    }
    let mut worker = consumer(&store, explicit());
    let records = poll(&mut worker);
    worker
        .acknowledge(records.iter().find(|record| record.offset() == 1).unwrap(), Acknowledge::Accept)
        .unwrap();
    worker.commit().unwrap();
    let state = store.topic(STATE).unwrap();
    assert_eq!(state.partition_count(), 50);
    let (mut snapshots, mut updates) = (0, Vec::new());
    for log in state.partitions().unwrap() {
        for record in logs::records(&log, 0) {
            let value = record.value().unwrap();
            let key = match ShareRecordKey::parse(record.key().unwrap()).unwrap().unwrap() {
                ShareRecordKey::Snapshot(key) => {
                    let snapshot = ShareSnapshot::parse(value).unwrap();
                    assert_eq!((snapshot.start_offset, snapshot.create_timestamp), (Some(0), logs::NOW));
                    snapshots += 1;
                    key
                }
                ShareRecordKey::Update(key) => {
                    updates.push(ShareUpdate::parse(value).unwrap());
                    key
                }
                other => panic!("{other:?}"),
            };
            assert_eq!((key.group.as_str(), key.topic_id), ("workers", topic.id()));
            assert_eq!(coordinator_partition(&key.coordinator_key(), 50), log.id().partition);
        }
    }
    assert_eq!(snapshots, 2, "where the group began on each partition");
    assert_eq!(updates.len(), 1);
    let batch = updates[0].batches[0];
    assert_eq!((batch.first_offset, batch.last_offset, batch.state), (1, 1, DeliveryState::Acknowledged));
    assert_eq!((updates[0].start_offset, updates[0].delivery_complete_count), (Some(0), Some(1)));
}

#[test]
fn snapshots_keep_the_log_of_states_short() {
    let (machine, store, log) = machine(0);
    let mut idle =
        consumer(&store, ShareConfig::new().group("idle").offset_reset(ShareOffsetReset::Earliest));
    fill(&log, 5);
    assert_eq!(poll(&mut idle).len(), 5);
    let mut worker = consumer(&store, config().delivery_count_limit(20_000));
    let state = store.topic(STATE).unwrap().partition(0).unwrap();
    for round in 0..12_000 {
        drop(poll(&mut worker));
        worker.commit().unwrap();
        append(&log, &["more"]);
        if round % 1_000 == 0 {
            store.maintain().unwrap();
        }
    }
    store.maintain().unwrap();
    assert!(state.log_start() > 9_000, "the group that does nothing keeps it from {}", state.log_start());
    worker.close().unwrap();
    let (store, _log) = machine.cut_off().restart();
    assert_eq!(offsets(&poll(&mut consumer(&store, config()))), [12_004]);
    let mut idle = consumer(&store, ShareConfig::new().group("idle"));
    assert_eq!(counts(&poll(&mut idle))[..2], [(0, 1), (1, 1)]);
}

#[test]
fn what_cannot_be_written_is_kept_and_tried_again() {
    for fault in [Fault::Error(ENOSPC), Fault::Forget] {
        let (machine, store, log) = machine(4);
        let mut worker = consumer(&store, config().max_poll_records(2));
        assert_eq!(offsets(&poll(&mut worker)), [0, 1]);
        let call = if fault == Fault::Forget { Call::Sync } else { Call::Write };
        machine.disk.fail(When::next().of(&[call]).under("__share_group_state-0").and_ever_after(), fault);
        for _ in 0..3 {
            worker.poll(NOW).unwrap_err();
        }
        // Nor does it matter if what is written down cannot be read.
        machine
            .disk
            .fail(When::next().of(&[Call::Read]).under("__share_group_state-0").and_ever_after(), EIO);
        worker.poll(NOW).unwrap_err();
        // Killed now, both come again.
        machine.disk.heal();
        let (crashed, _) = machine.cut_off().restart();
        assert_eq!(offsets(&poll(&mut consumer(&crashed, config()))), [0, 1, 2, 3]);
        // What a failed sync has closed is opened again by who writes next.
        assert_eq!(offsets(&poll(&mut worker)), [2, 3]);
        worker.close().unwrap();
        append(&log, &["more"]);
        let (store, _) = machine.cut_off().restart();
        assert_eq!(offsets(&poll(&mut consumer(&store, config()))), [4]);
    }
}

#[test]
fn whoever_writes_for_whom_a_failure_loses_no_word() {
    let (machine, store, log) = machine(0);
    for _ in 0..20 {
        fill(&log, 100);
    }
    let settings = || explicit().max_poll_records(3);
    let workers: Vec<_> = (0..4).map(|_| consumer(&store, settings())).collect();
    let processed = Mutex::new(BTreeMap::<u64, u32>::new());
    std::thread::scope(|scope| {
        for (number, mut worker) in workers.into_iter().enumerate() {
            let (machine, processed) = (&machine, &processed);
            scope.spawn(move || {
                for round in 0.. {
                    let records = match worker.poll(NOW) {
                        Ok(records) if records.is_empty() => return,
                        Ok(records) => records,
                        Err(error) => panic!("{error}"),
                    };
                    for record in &records {
                        *processed.lock().unwrap().entry(record.offset()).or_default() += 1;
                        worker.acknowledge(record, Acknowledge::Accept).unwrap();
                    }
                    if (round + number) % 3 == 0 {
                        let write = When::next().of(&[Call::Write]).under("__share_group_state-0");
                        machine.disk.fail(write, Fault::Error(ENOSPC));
                    }
                    while let Err(error) = worker.commit() {
                        assert!(matches!(error, Error::StorageFull { .. }), "{error}");
                    }
                }
            });
        }
    });
    let processed = processed.into_inner().unwrap();
    assert_eq!(processed.len(), 2_000);
    assert!(processed.values().all(|times| *times == 1), "no lock ran out");
    let described = store.share_groups().describe("workers").unwrap();
    assert_eq!(described.partitions.values().next().unwrap().start_offset, 2_000);
    let (store, _log) = machine.cut_off().restart();
    assert!(poll(&mut consumer(&store, settings())).is_empty());
}

#[test]
fn a_word_that_a_failed_write_of_another_took_along_is_written_nevertheless() {
    let machine = Machine::new();
    let (reached, arrivals) = mpsc::channel();
    let (go_on, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let held_back = Arc::new(AtomicU32::new(u32::MAX));
    let hook = {
        let held_back = Arc::clone(&held_back);
        move |call: Call, name: &Path| {
            let number = held_back.load(Ordering::SeqCst);
            if call == Call::Write && name.starts_with(format!("{STATE}-{number}")) {
                held_back.store(u32::MAX, Ordering::SeqCst);
                reached.send(()).unwrap();
                going.lock().unwrap().recv().unwrap();
            }
        }
    };
    let store = machine.options().open_in(Hooked::new(machine.disk.clone(), hook)).unwrap();
    let two = TopicConfig::new().partitions(2).set("cleanup.policy", "delete").unwrap();
    store.create_topic(STATE, two).unwrap();
    let topic = store.create_topic("t", TopicConfig::new().partitions(8)).unwrap();
    let place = |partition: u32| {
        let key = ShareStateKey {
            group: "workers".into(),
            topic_id: topic.id(),
            partition: i32::try_from(partition).unwrap(),
        };
        coordinator_partition(&key.coordinator_key(), 2)
    };
    let first = 0;
    let second = (1..8).find(|number| place(*number) != place(first)).unwrap();
    append(&topic.partition(first).unwrap(), &["a"]);
    append(&topic.partition(second).unwrap(), &["b"]);
    let (mut slow, mut quick) = (consumer(&store, explicit()), consumer(&store, explicit()));
    for record in poll(&mut slow) {
        slow.acknowledge(&record, Acknowledge::Accept).unwrap();
    }
    append(&topic.partition(second).unwrap(), &["c"]);
    let records = poll(&mut quick);
    quick.acknowledge(&records[0], Acknowledge::Accept).unwrap();
    std::thread::scope(|scope| {
        held_back.store(place(first), Ordering::SeqCst);
        let committing = scope.spawn(|| slow.commit().unwrap());
        // It has said everything, and waits for the disk at the first of two places.
        arrivals.recv().unwrap();
        let write = When::next().of(&[Call::Write]).under(format!("{STATE}-{}", place(second)));
        machine.disk.fail(write, Fault::Error(ENOSPC));
        quick.commit().unwrap_err();
        go_on.send(()).unwrap();
        let outcomes = committing.join().unwrap();
        assert!(outcomes.len() == 2 && outcomes.values().all(Result::is_ok), "{outcomes:?}");
    });
    let store = machine.cut_off().open();
    let left = poll(&mut consumer(&store, config()));
    assert_eq!(left.iter().map(|record| record.value().unwrap()).collect::<Vec<_>>(), [b"c"]);
}

#[test]
fn damage_is_reported_and_keeps_nothing_else_from_being_delivered() {
    for priority in [false, true] {
        let (machine, store, log) = machine(0);
        for value in ["a", "b", "c"] {
            append(&log, &[value]);
        }
        store.close().unwrap();
        let third = machine.disk.read(file(0, "log")).unwrap().len() as u64 / 3;
        assert!(machine.disk.flip(file(0, "log"), third + 65, 0xff));
        let (store, log) = machine.restart();
        let chosen = || {
            let config = config().max_poll_records(10);
            if priority { config.priority(annals::share::LowestKeyFirst) } else { config }
        };
        let mut worker = consumer(&store, chosen());
        assert_eq!(offsets(&poll(&mut worker)), [0]);
        for _ in 0..2 {
            assert!(matches!(worker.poll(NOW), Err(Error::Corruption { offset: 1, .. })));
        }
        assert_eq!(worker.skip_damage().unwrap(), [(log.id().clone(), 2)]);
        assert_eq!(offsets(&poll(&mut worker)), [2]);
        assert!(worker.skip_damage().unwrap().is_empty());
        worker.close().unwrap();
        let (store, _log) = machine.cut_off().restart();
        let mut worker = consumer(&store, chosen());
        assert!(poll(&mut worker).is_empty(), "it stays given up");
    }
}

#[test]
fn offsets_that_a_crash_took_and_gives_again_are_new() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().durability(Durability::Process));
    fill(&log, 2);
    log.flush().unwrap();
    fill(&log, 3);
    let mut worker = consumer(&store, config());
    assert_eq!(poll(&mut worker).len(), 5);
    worker.commit().unwrap();
    // The progress was synced, the last records were not.
    let found = machine.cut_off();
    let (store, log) = found.restart();
    assert_eq!(log.log_end(), 2);
    let mut worker = consumer(&store, config());
    assert!(poll(&mut worker).is_empty());
    fill(&log, 4);
    assert_eq!(counts(&poll(&mut worker)), [(2, 1), (3, 1), (4, 1), (5, 1)]);
    log.flush().unwrap();
    let (store, _log) = found.cut_off().restart();
    assert_eq!(poll(&mut consumer(&store, config())).len(), 4);
}

#[test]
fn a_log_that_is_cut_under_a_group_makes_its_offsets_new() {
    for priority in [false, true] {
        let (machine, store, log) = machine(0);
        for _ in 0..5 {
            fill(&log, 1);
        }
        let chosen = || {
            let config = config().max_poll_records(10);
            if priority { config.priority(annals::share::LowestKeyFirst) } else { config }
        };
        let mut worker = consumer(&store, chosen());
        assert_eq!(poll(&mut worker).len(), 5);
        worker.commit().unwrap();
        log.truncate_to(2).unwrap();
        // That the old ones are forgotten must be written down before the new ones are delivered.
        let write = When::next().of(&[Call::Write]).under("__share_group_state-0");
        machine.disk.fail(write, Fault::Error(ENOSPC));
        assert!(matches!(worker.poll(NOW), Err(Error::StorageFull { .. })));
        fill(&log, 3);
        assert_eq!(counts(&poll(&mut worker)), [(2, 1), (3, 1), (4, 1)]);
        let (store, _log) = machine.cut_off().restart();
        assert_eq!(offsets(&poll(&mut consumer(&store, chosen()))), [2, 3, 4]);
    }
}

/// What a new member gets after a crash.
fn delivered(machine: &Machine) -> BTreeSet<u64> {
    let store = machine.open();
    let mut worker = consumer(&store, config());
    poll(&mut worker).iter().map(ShareRecord::offset).collect()
}

#[test]
fn a_crash_at_any_call_of_a_commit_loses_nothing_and_repeats_nothing_acknowledged() {
    let worker = RefCell::new(None);
    let prepare = |machine: &Machine| {
        let (store, log) = machine.start(TopicConfig::new());
        store.create_topic(STATE, TopicConfig::new()).unwrap();
        fill(&log, 6);
        let mut member = consumer(&store, explicit());
        let records = poll(&mut member);
        for record in &records[..2] {
            member.acknowledge(record, Acknowledge::Accept).unwrap();
        }
        member.commit().unwrap();
        member.acknowledge(&records[2], Acknowledge::Accept).unwrap();
        member.acknowledge(&records[4], Acknowledge::Reject).unwrap();
        *worker.borrow_mut() = Some(member);
        (store, log)
    };
    let act = |_: &Partition| worker.borrow_mut().as_mut().unwrap().commit().map(|_| ());
    at_every_call(prepare, act, |machine, done, name| {
        let delivered = delivered(machine);
        let unfinished = BTreeSet::from([3, 5]);
        assert!(delivered.is_superset(&unfinished), "{name}: {delivered:?}");
        assert!(!delivered.contains(&0) && !delivered.contains(&1), "{name}: {delivered:?}");
        if done {
            assert_eq!(delivered, unfinished, "{name}");
        }
    });
}

#[test]
fn a_crash_at_any_call_of_a_first_subscription_leaves_a_group_that_works() {
    let prepare = |machine: &Machine| {
        let (store, log) = machine.start(TopicConfig::new());
        store.create_topic(STATE, TopicConfig::new()).unwrap();
        fill(&log, 2);
        (store, log)
    };
    let machine = RefCell::new(None);
    let prepare = |found: &Machine| {
        let (store, log) = prepare(found);
        *machine.borrow_mut() = Some(store.share_consumer(ShareConfig::new().group("workers")).unwrap());
        (store, log)
    };
    let act = |_: &Partition| machine.borrow_mut().as_mut().unwrap().subscribe(["t"]);
    at_every_call(prepare, act, |found, done, name| {
        // Had it begun, it is at the end; if not, it begins at the start now.
        let delivered = delivered(found);
        assert!(delivered.is_empty() || (!done && delivered.len() == 2), "{name}: {delivered:?}");
    });
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Poll(usize),
    Acknowledge { which: usize, word: Acknowledge },
    Commit(usize),
    Die(usize),
    Time(u64),
    Crash { seed: Option<u64> },
}

fn any_step() -> impl Strategy<Value = Step> {
    let words = vec![Acknowledge::Accept, Acknowledge::Accept, Acknowledge::Release, Acknowledge::Reject];
    prop_oneof![
        3 => (1usize..5).prop_map(Step::Append),
        6 => (0usize..2).prop_map(Step::Poll),
        12 => (any::<usize>(), prop::sample::select(words))
            .prop_map(|(which, word)| Step::Acknowledge { which, word }),
        4 => (0usize..2).prop_map(Step::Commit),
        1 => (0usize..2).prop_map(Step::Die),
        1 => (1u64..20).prop_map(Step::Time),
        1 => prop::option::of(0u64..5).prop_map(|seed| Step::Crash { seed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn nothing_acknowledged_comes_again_and_nothing_else_is_lost(
        steps in prop::collection::vec(any_step(), 1..60)
    ) {
        let (mut machine, mut store, mut log) = machine(0);
        let settings = || explicit().max_poll_records(3).delivery_count_limit(1_000).max_in_flight(8);
        let mut members = vec![consumer(&store, settings()), consumer(&store, settings())];
        let mut held: Vec<(usize, ShareRecord, Option<Acknowledge>)> = Vec::new();
        // Committed as finished; said to be, and maybe written.
        let (mut finished, mut maybe) = (BTreeSet::new(), BTreeSet::new());
        let mut end = 0;
        for step in steps {
            match step {
                Step::Append(count) => {
                    fill(&log, count);
                    end += count as u64;
                }
                Step::Poll(who) | Step::Commit(who) => {
                    let polled = if matches!(step, Step::Poll(_)) { poll(&mut members[who]) } else { vec![] };
                    let outcomes = members[who].commit().unwrap();
                    let lapsed = outcomes.values().any(Result::is_err);
                    held.retain(|(by, record, word)| {
                        let said = *by == who && word.is_some();
                        if said && matches!(word, Some(Acknowledge::Accept | Acknowledge::Reject)) {
                            if lapsed { maybe.insert(record.offset()) } else { finished.insert(record.offset()) };
                        }
                        !said
                    });
                    for record in polled {
                        prop_assert!(!finished.contains(&record.offset()), "{} again", record.offset());
                        held.push((who, record, None));
                    }
                }
                Step::Acknowledge { which, word } if !held.is_empty() => {
                    let at = which % held.len();
                    let (who, record, said) = &mut held[at];
                    if members[*who].acknowledge(record, word).is_ok() {
                        *said = Some(word);
                    }
                }
                Step::Acknowledge { .. } => {}
                Step::Die(who) => {
                    members[who] = consumer(&store, settings());
                    held.retain(|(by, _, _)| *by != who);
                }
                Step::Time(seconds) => machine.clock.advance(Duration::from_secs(seconds)),
                Step::Crash { seed } => {
                    held.clear();
                    let crash = seed.map_or(Crash::ProcessKill, |seed| Crash::PowerCut { seed });
                    machine = Machine { disk: machine.disk.crash(crash), clock: machine.clock.clone() };
                    drop((members, store, log));
                    (store, log) = machine.restart();
                    members = vec![consumer(&store, settings()), consumer(&store, settings())];
                }
            }
        }
        drop(members);
        // Whatever is left comes to one who takes all.
        let mut last = consumer(&store, settings());
        let mut rest = BTreeSet::new();
        loop {
            let records = poll(&mut last);
            if records.is_empty() {
                break;
            }
            for record in records {
                prop_assert!(rest.insert(record.offset()), "{} twice", record.offset());
                last.acknowledge(&record, Acknowledge::Accept).unwrap();
            }
            last.commit().unwrap();
        }
        for offset in 0..end {
            let done = finished.contains(&offset);
            prop_assert!(done != rest.contains(&offset) || maybe.contains(&offset), "offset {}", offset);
        }
    }
}

#[test]
fn a_write_that_fails_wakes_those_who_wait_for_what_it_held() {
    let machine = Machine::new();
    let (reached, arrivals) = mpsc::channel();
    let (go_on, going) = mpsc::channel::<()>();
    let going = Mutex::new(going);
    let hold = Arc::new(AtomicU32::new(0));
    let hook = {
        let hold = Arc::clone(&hold);
        move |call: Call, name: &Path| {
            if call == Call::Write
                && name.starts_with(format!("{STATE}-0"))
                && hold.swap(0, Ordering::SeqCst) == 1
            {
                reached.send(()).unwrap();
                going.lock().unwrap().recv().unwrap();
            }
        }
    };
    let store = machine.options().open_in(Hooked::new(machine.disk.clone(), hook)).unwrap();
    store.create_topic(STATE, TopicConfig::new().set("cleanup.policy", "delete").unwrap()).unwrap();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a"]);
    let settings = || explicit().lock_duration(Duration::from_millis(30));
    let (mut slow, mut other) = (consumer(&store, settings()), consumer(&store, settings()));
    let records = poll(&mut slow);
    slow.acknowledge(&records[0], Acknowledge::Accept).unwrap();
    std::thread::scope(|scope| {
        hold.store(1, Ordering::SeqCst);
        let committing = scope.spawn(|| slow.commit().unwrap_err());
        arrivals.recv().unwrap();
        machine.clock.advance(Duration::from_millis(40));
        // The lock has run out, but not while the word is written.
        let (ready, begun) = mpsc::channel();
        let waiting = scope.spawn(move || {
            ready.send(()).unwrap();
            other.poll(LONG).unwrap().len()
        });
        begun.recv().unwrap();
        machine.disk.fail(When::next().of(&[Call::Write]).under(format!("{STATE}-0")), Fault::Error(ENOSPC));
        go_on.send(()).unwrap();
        committing.join().unwrap();
        assert_eq!(waiting.join().unwrap(), 1);
    });
}
