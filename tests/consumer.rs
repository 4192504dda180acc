//! A consumer with partitions of its own: where it begins, moving about, waiting, taking turns, and what it does about
//! damage. The cases are those that Kafka's own tests of its consumer pin, through the public face.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/consumers.rs"]
mod consumers;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/logs.rs"]
mod logs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use annals::consumer::{
    Consumer, ConsumerConfig, ConsumerInterceptor, ConsumerRecords, DeliveryGuarantee, OffsetReset,
};
use annals::format::EndTransactionMarker;
use annals::{AppendOptions, Error, Isolation, Partition, Record, Store, TopicConfig};
use consumers::{LONG, Task, drain, id, poll, short};
use logs::{Machine, NOW, append};

const COMMIT: EndTransactionMarker = EndTransactionMarker { coordinator_epoch: 0, commit: true };
const ABORT: EndTransactionMarker = EndTransactionMarker { coordinator_epoch: 0, commit: false };

fn earliest() -> ConsumerConfig {
    ConsumerConfig::new().offset_reset(OffsetReset::Earliest)
}

/// A consumer of partition 0 of topic `t`.
fn of_t(store: &Store, config: ConsumerConfig) -> Consumer {
    let mut consumer = store.consumer(config).unwrap();
    consumer.assign([id("t", 0)]).unwrap();
    consumer
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn it_begins_where_the_reset_says() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    for age in [50, 40, 30, 20, 10] {
        let timestamp = NOW - age * 1000;
        log.append(&Record::new(&age.to_string()).timestamp(timestamp)).unwrap();
    }
    log.delete_records(1).unwrap();
    for (reset, position) in [
        (OffsetReset::Earliest, 1),
        (OffsetReset::Latest, 5),
        (OffsetReset::ByDuration(seconds(30)), 2),
        (OffsetReset::ByDuration(seconds(29)), 3),
        (OffsetReset::ByDuration(seconds(9)), 5),
        (OffsetReset::ByDuration(Duration::MAX), 1),
    ] {
        let mut consumer = of_t(&store, ConsumerConfig::new().offset_reset(reset));
        assert_eq!(consumer.position(&id("t", 0)).unwrap(), position, "{reset:?}");
        let mut another = of_t(&store, ConsumerConfig::new().offset_reset(reset));
        assert_eq!(poll(&mut another).len() as u64, 5 - position, "{reset:?}");
        assert_eq!(another.position(&id("t", 0)).unwrap(), 5);
    }
    let mut latest = of_t(&store, ConsumerConfig::new());
    assert_eq!(poll(&mut latest), [""; 0], "Kafka's default is the end");
    append(&log, &["new"]);
    assert_eq!(poll(&mut latest), ["t-0:5=new"]);
}

#[test]
fn without_a_reset_somebody_has_to_say_where_to_begin() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    append(&log, &["a", "b"]);
    let other = store.create_topic("u", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&other, &["x"]);
    let mut consumer = store.consumer(ConsumerConfig::new().offset_reset(OffsetReset::None)).unwrap();
    consumer.assign([id("t", 0), id("u", 0)]).unwrap();
    let position = consumer.position(&id("t", 0)).unwrap_err();
    assert!(matches!(&position, Error::NoOffset { partition } if partition == "t-0"), "{position}");
    consumer.seek(&id("u", 0), 0).unwrap();
    let error = consumer.poll(Duration::ZERO).unwrap_err();
    assert!(matches!(&error, Error::NoOffset { partition } if partition == "t-0"), "{error}");
    // Once, and the others go on.
    assert_eq!(poll(&mut consumer), ["u-0:0=x"]);
    assert_eq!(consumer.stopped(), BTreeSet::from([id("t", 0)]));
    consumer.seek(&id("t", 0), 1).unwrap();
    assert_eq!((poll(&mut consumer), consumer.stopped()), (vec!["t-0:1=b".into()], BTreeSet::new()));
}

#[test]
fn a_position_outside_the_log_is_reset() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    for value in ["a", "b", "c", "d"] {
        append(&log, &[value]);
    }
    let mut consumers = [OffsetReset::Earliest, OffsetReset::Latest, OffsetReset::None].map(|reset| {
        let mut consumer = of_t(&store, ConsumerConfig::new().offset_reset(reset).max_poll_records(1));
        consumer.seek(&id("t", 0), 0).unwrap();
        assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
        consumer
    });
    // Retention overtakes them.
    log.delete_records(3).unwrap();
    assert_eq!(poll(&mut consumers[0]), ["t-0:3=d"]);
    assert_eq!(poll(&mut consumers[1]), [""; 0]);
    assert_eq!(consumers[1].position(&id("t", 0)).unwrap(), 4);
    match consumers[2].poll(Duration::ZERO) {
        Err(Error::OffsetOutOfRange { partition, requested: 1, log_start: 3, log_end: 4 }) => {
            assert_eq!(partition, "t-0");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(poll(&mut consumers[2]), [""; 0], "it says so once");
    assert_eq!(consumers[2].position(&id("t", 0)).unwrap(), 1);

    for (consumer, found) in consumers.iter_mut().zip(["t-0:3=d", "t-0:4=e", ""]) {
        append(&log, &["e"]);
        consumer.seek(&id("t", 0), 77).unwrap();
        assert_eq!(consumer.position(&id("t", 0)).unwrap(), 77, "it is found out when it is read");
        match consumer.poll(Duration::ZERO) {
            Ok(records) if found.is_empty() => panic!("{records:?}"),
            Ok(records) => drop(records),
            Err(error) => assert!(found.is_empty(), "{error}"),
        }
    }
    assert_eq!(consumers[1].position(&id("t", 0)).unwrap(), 6);
}

#[test]
fn it_moves_about() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(2));
    append(&log, &["a", "b", "c"]);
    let t0 = id("t", 0);
    let mut consumer = store.consumer(earliest()).unwrap();
    consumer.assign([t0.clone(), id("t", 1)]).unwrap();
    assert_eq!(poll(&mut consumer).len(), 3);
    consumer.seek(&t0, 1).unwrap();
    assert_eq!(consumer.position(&t0).unwrap(), 1);
    assert_eq!(poll(&mut consumer), ["t-0:1=b", "t-0:2=c"]);
    consumer.seek_to_beginning([&t0]).unwrap();
    assert_eq!(consumer.position(&t0).unwrap(), 0);
    assert_eq!(poll(&mut consumer).len(), 3);
    consumer.seek_to_beginning(&consumer.assignment()).unwrap();
    consumer.seek_to_end(&consumer.assignment()).unwrap();
    assert_eq!(poll(&mut consumer), [""; 0]);
    append(&log, &["d"]);
    assert_eq!(poll(&mut consumer), ["t-0:3=d"]);
    // A seek between two polls of one batch.
    append(&log, &["e", "f", "g"]);
    let mut one = of_t(&store, earliest().max_poll_records(1));
    one.seek(&t0, 4).unwrap();
    assert_eq!(poll(&mut one), ["t-0:4=e"]);
    assert_eq!(poll(&mut one), ["t-0:5=f"]);
    one.seek(&t0, 4).unwrap();
    assert_eq!(poll(&mut one), ["t-0:4=e"]);
}

#[test]
fn what_it_does_not_have_cannot_be_moved() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(2));
    append(&log, &["a"]);
    let (t0, t1) = (id("t", 0), id("t", 1));
    let mut consumer = of_t(&store, earliest());
    let both = [&t0, &t1];
    let refused: [Result<(), Error>; 8] = [
        consumer.seek(&t1, 0),
        consumer.seek_to_beginning(both),
        consumer.seek_to_end(both),
        consumer.pause(both),
        consumer.resume(both),
        consumer.position(&t1).map(drop),
        consumer.lag(&t1).map(drop),
        consumer.skip_damage(&t1).map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(matches!(error, Error::InvalidState { .. }), "{error}");
        assert!(error.to_string().contains("t-1 is not assigned"), "{error}");
    }
    assert_eq!(consumer.paused(), BTreeSet::new());
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
}

#[test]
fn assignments_replace_each_other_and_keep_what_stays() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(2));
    append(&log, &["a", "b"]);
    let mut consumer = store.consumer(earliest()).unwrap();
    let error = consumer.poll(LONG).unwrap_err();
    assert!(matches!(error, Error::InvalidState { action: "poll", .. }), "{error}");
    consumer.assign([id("t", 0), id("t", 0)]).unwrap();
    assert_eq!(poll(&mut consumer).len(), 2);
    consumer.assign([id("t", 0), id("t", 1)]).unwrap();
    assert_eq!(poll(&mut consumer), [""; 0], "the position of t-0 is kept");
    assert!(matches!(consumer.assign([id("t", 1), id("t", 2)]), Err(Error::UnknownPartition { .. })));
    assert!(matches!(consumer.assign([id("nobody", 0)]), Err(Error::UnknownTopic { .. })));
    assert_eq!(consumer.assignment(), BTreeSet::from([id("t", 0), id("t", 1)]));
    consumer.assign([id("t", 1)]).unwrap();
    append(&log, &["c"]);
    assert_eq!(poll(&mut consumer), [""; 0]);
    consumer.assign([id("t", 0)]).unwrap();
    assert_eq!(poll(&mut consumer).len(), 3, "it was forgotten meanwhile");
    consumer.assign([]).unwrap();
    assert!(matches!(consumer.poll(LONG), Err(Error::InvalidState { .. })));
    consumer.unsubscribe().unwrap();
    assert_eq!(consumer.assignment(), BTreeSet::new());
}

#[test]
fn what_is_paused_is_not_returned() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(2));
    let other = store.topic("t").unwrap().partition(1).unwrap();
    append(&log, &["a", "b", "c"]);
    append(&other, &["x", "y"]);
    let t0 = id("t", 0);
    let mut consumer = store.consumer(earliest().max_poll_records(1)).unwrap();
    consumer.assign([t0.clone(), id("t", 1)]).unwrap();
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
    consumer.pause([&t0]).unwrap();
    consumer.pause([&t0]).unwrap();
    assert_eq!(consumer.paused(), BTreeSet::from([t0.clone()]));
    assert_eq!(drain(&mut consumer), ["t-1:0=x", "t-1:1=y"]);
    assert_eq!(consumer.position(&t0).unwrap(), 1);
    // Nor does it wake anybody.
    let task = Task::new();
    assert!(task.poll(&mut consumer).is_none());
    append(&log, &["d"]);
    assert_eq!(task.woken(), 0);
    consumer.resume([&t0]).unwrap();
    assert_eq!(drain(&mut consumer), ["t-0:1=b", "t-0:2=c", "t-0:3=d"]);
    consumer.pause([&t0]).unwrap();
    consumer.seek(&t0, 3).unwrap();
    assert_eq!(drain(&mut consumer), [""; 0]);
    consumer.resume([&t0]).unwrap();
    assert_eq!(drain(&mut consumer), ["t-0:3=d"]);
}

#[test]
fn offsets_are_found_by_time_and_at_the_ends() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(2));
    for time in [100, 300, 200, 400] {
        log.append(&Record::new("v").timestamp(NOW + time)).unwrap();
    }
    log.delete_records(1).unwrap();
    let (t0, t1) = (id("t", 0), id("t", 1));
    // Of any partition: it need not have them.
    let consumer = store.consumer(ConsumerConfig::new()).unwrap();
    let found = consumer.offsets_for_times([(&t0, NOW + 150), (&t1, NOW)]).unwrap();
    assert_eq!(found[&t0].map(|found| (found.offset, found.timestamp)), Some((1, NOW + 300)));
    assert_eq!(found[&t1], None);
    assert_eq!(consumer.offsets_for_times([(&t0, NOW + 401)]).unwrap()[&t0], None);
    let both = [&t0, &t1];
    assert_eq!(consumer.beginning_offsets(both).unwrap(), BTreeMap::from([(t0.clone(), 1), (t1.clone(), 0)]));
    assert_eq!(consumer.end_offsets(both).unwrap(), BTreeMap::from([(t0.clone(), 4), (t1.clone(), 0)]));
    assert!(matches!(consumer.end_offsets([&id("t", 2)]), Err(Error::UnknownPartition { .. })));

    // For a reader of committed data the end is where nothing is decided yet.
    log.append_batch_with(&[Record::new("open")], AppendOptions::new().transactional(7, 0, 0)).unwrap();
    let committed = ConsumerConfig::new().isolation(Isolation::ReadCommitted);
    let committed = store.consumer(committed).unwrap();
    assert_eq!(consumer.end_offsets([&t0]).unwrap()[&t0], 5);
    assert_eq!(committed.end_offsets([&t0]).unwrap()[&t0], 4);
    assert_eq!(consumer.offsets_for_times([(&t0, NOW - 1)]).unwrap()[&t0].unwrap().offset, 1);
    let newest = |consumer: &Consumer| consumer.offsets_for_times([(&t0, NOW + 401)]).unwrap()[&t0];
    log.append_batch_with(
        &[Record::new("open").timestamp(NOW + 500)],
        AppendOptions::new().transactional(7, 0, 1),
    )
    .unwrap();
    assert_eq!(newest(&consumer).unwrap().offset, 5);
    assert_eq!(newest(&committed), None);
}

#[test]
fn an_append_wakes_who_waits_for_it_and_nobody_else() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(2));
    let other = store.topic("t").unwrap().partition(1).unwrap();
    let mut first = of_t(&store, earliest());
    let mut second = store.consumer(earliest()).unwrap();
    second.assign([id("t", 1)]).unwrap();
    let tasks = [Task::new(), Task::new()];
    assert!(tasks[0].poll(&mut first).is_none());
    assert!(tasks[1].poll(&mut second).is_none());
    assert_eq!([tasks[0].woken(), tasks[1].woken()], [0, 0], "nothing is due, so nothing wakes");
    append(&log, &["a"]);
    append(&log, &["b"]);
    assert_eq!([tasks[0].woken(), tasks[1].woken()], [1, 0]);
    assert_eq!(tasks[0].poll(&mut first).unwrap().unwrap(), ["t-0:0=a", "t-0:1=b"]);
    append(&other, &["x"]);
    assert_eq!([tasks[0].woken(), tasks[1].woken()], [1, 1]);
    assert_eq!(tasks[1].poll(&mut second).unwrap().unwrap(), ["t-1:0=x"]);
    // What comes before it waits again is found all the same.
    append(&log, &["c"]);
    assert_eq!(tasks[0].poll(&mut first).unwrap().unwrap(), ["t-0:2=c"]);
    // A task may hand the consumer to another one, and a thread.
    assert!(tasks[0].poll(&mut first).is_none());
    assert!(tasks[1].poll(&mut first).is_none());
    let woken = tasks[0].woken();
    append(&log, &["d"]);
    assert_eq!([tasks[0].woken(), tasks[1].woken()], [woken, 2]);
    assert_eq!(short(first.poll(LONG).unwrap()), ["t-0:3=d"]);
}

#[test]
fn a_thread_that_waits_is_woken_by_an_append_a_wakeup_and_the_end() {
    // Its clock stands still, so no deadline passes.
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let mut consumer = of_t(&store, earliest());
    let handle = consumer.wakeup_handle();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        for _ in 0..3 {
            sender.send(consumer.poll(LONG).map(short)).unwrap();
        }
    });
    append(&log, &["a"]);
    assert_eq!(receiver.recv().unwrap().unwrap(), ["t-0:0=a"]);
    handle.wakeup();
    assert!(matches!(receiver.recv().unwrap(), Err(Error::Woken)));
    store.close().unwrap();
    assert!(matches!(receiver.recv().unwrap(), Err(Error::Closed { .. })));
    waiting.join().unwrap();
    // Nobody is there any more.
    handle.clone().wakeup();
}

#[test]
fn a_wakeup_counts_once_and_loses_nothing() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    append(&log, &["a"]);
    let mut consumer = of_t(&store, earliest());
    let handle = consumer.wakeup_handle();
    handle.wakeup();
    handle.wakeup();
    assert!(matches!(consumer.poll(LONG), Err(Error::Woken)));
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
    let task = Task::new();
    assert!(task.poll(&mut consumer).is_none());
    handle.wakeup();
    assert_eq!(task.woken(), 1);
    assert!(matches!(task.poll(&mut consumer), Some(Err(Error::Woken))));
    assert!(task.poll(&mut consumer).is_none());
}

#[test]
fn deadlines_are_the_stores() {
    let machine = Machine::new();
    let (store, _log) = machine.start(TopicConfig::new());
    let mut consumer = of_t(&store, earliest());
    let clock = Arc::clone(&machine.clock);
    let handle = consumer.wakeup_handle();
    // The deadline passes on the clock, then it looks at it: nobody else wakes it but the change of topics.
    let waiting = std::thread::spawn(move || consumer.poll(LONG).map(short));
    clock.advance(LONG);
    store.create_topic("another", TopicConfig::new()).unwrap();
    // Whether it began to wait before or after the clock moved on, this ends it.
    clock.advance(LONG);
    store.create_topic("a-third", TopicConfig::new()).unwrap();
    handle.wakeup();
    match waiting.join().unwrap() {
        Ok(records) => assert_eq!(records, [""; 0]),
        Err(error) => assert!(matches!(error, Error::Woken), "{error}"),
    }
}

#[test]
fn it_waits_for_a_minimum_of_bytes_but_not_for_ever() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let value = "x".repeat(100);
    let config = || earliest().fetch_min_bytes(250).fetch_max_wait(seconds(1));
    let mut consumer = of_t(&store, config());
    append(&log, &[&value]);
    assert_eq!(poll(&mut consumer).len(), 0);
    assert_eq!(consumer.position(&id("t", 0)).unwrap(), 0, "what was not returned was not consumed");
    append(&log, &[&value]);
    assert_eq!(poll(&mut consumer).len(), 0);
    append(&log, &[&value]);
    assert_eq!(poll(&mut consumer).len(), 3, "enough");
    append(&log, &[&value]);
    assert_eq!(poll(&mut consumer).len(), 0);
    machine.clock.advance(Duration::from_millis(999));
    assert_eq!(poll(&mut consumer).len(), 0);
    machine.clock.advance(Duration::from_millis(1));
    assert_eq!(poll(&mut consumer).len(), 1, "long enough");
    // A full poll waits for no more, however few bytes it has.
    let mut full = of_t(&store, config().max_poll_records(2));
    assert_eq!(poll(&mut full).len(), 2);
    // Nor does one that can never have enough.
    let mut bounded = of_t(&store, config().fetch_min_bytes(1 << 40).max_partition_fetch_bytes(250));
    assert_eq!(poll(&mut bounded).len(), 3);
    // What is set aside is forgotten by a seek, and comes again after a pause.
    let mut consumer = of_t(&store, config().fetch_min_bytes(10_000));
    assert_eq!(poll(&mut consumer).len(), 0);
    consumer.pause([&id("t", 0)]).unwrap();
    machine.clock.advance(seconds(2));
    assert_eq!(poll(&mut consumer).len(), 0);
    consumer.resume([&id("t", 0)]).unwrap();
    consumer.seek(&id("t", 0), 3).unwrap();
    assert_eq!(poll(&mut consumer).len(), 0);
    machine.clock.advance(seconds(2));
    assert_eq!(poll(&mut consumer).len(), 1);
}

#[test]
fn the_wait_for_a_minimum_ends_by_itself() {
    // By real time: the poll has to find out that it has waited long enough.
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a"]);
    let config = earliest().fetch_min_bytes(1 << 20).fetch_max_wait(Duration::from_millis(1));
    let mut consumer = of_t(&store, config);
    assert_eq!(short(consumer.poll(LONG).unwrap()), ["t-0:0=a"]);
}

#[test]
fn partitions_take_turns() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(3));
    let topic = store.topic("t").unwrap();
    append(&log, &["a"; 100]);
    append(&topic.partition(1).unwrap(), &["b"; 3]);
    append(&topic.partition(2).unwrap(), &["c"; 7]);
    let mut consumer = store.consumer(earliest().max_poll_records(5)).unwrap();
    consumer.assign((0..3).map(|number| id("t", number))).unwrap();
    let mut order = Vec::new();
    for _ in 0..5 {
        let records = consumer.poll(Duration::ZERO).unwrap();
        assert!(records.len() <= 5);
        order.push(
            records.by_partition().map(|(id, records)| (id.partition, records.len())).collect::<Vec<_>>(),
        );
    }
    assert_eq!(order[0], [(0, 5)]);
    assert_eq!(order[1], [(1, 3), (2, 2)]);
    assert_eq!(order[2], [(0, 5)]);
    assert_eq!(order[3], [(2, 5)]);
    assert_eq!(order[4], [(0, 5)]);
    // One that comes late waits for one turn at most.
    append(&topic.partition(1).unwrap(), &["late"]);
    let next: Vec<String> = (0..2).flat_map(|_| poll(&mut consumer)).collect();
    assert!(next.contains(&"t-1:3=late".to_string()), "{next:?}");
    let all = 5 * 5 + next.len() + drain(&mut consumer).len();
    assert_eq!(all, 100 + 3 + 7 + 1);
}

#[test]
fn a_poll_returns_no_more_than_it_may() {
    let (store, log) = Machine::new().start(TopicConfig::new().partitions(2));
    let other = store.topic("t").unwrap().partition(1).unwrap();
    let value = "v".repeat(1000);
    append(&log, &[value.as_str(); 10]);
    append(&other, &[value.as_str(); 10]);
    let both = [id("t", 0), id("t", 1)];
    let sizes = |config: ConsumerConfig| {
        let mut consumer = store.consumer(config).unwrap();
        consumer.assign(both.clone()).unwrap();
        let mut sizes = Vec::new();
        loop {
            let records = consumer.poll(Duration::ZERO).unwrap();
            if records.is_empty() {
                break;
            }
            sizes.push(records.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 20);
        sizes
    };
    assert_eq!(sizes(earliest()), [20]);
    assert_eq!(sizes(earliest().max_poll_records(15)), [15, 5]);
    assert_eq!(sizes(earliest().max_partition_fetch_bytes(4_500)), [10, 10]);
    assert_eq!(sizes(earliest().fetch_max_bytes(4_500)), [5, 5, 5, 5]);
    // One record comes whatever the limits.
    assert_eq!(sizes(earliest().fetch_max_bytes(0)), [1; 20]);
    assert_eq!(sizes(earliest().max_partition_fetch_bytes(0)), [2; 10]);
}

#[test]
fn payloads_are_not_copied() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    let value = "v".repeat(10_000);
    append(&log, &[value.as_str(); 3]);
    let mut consumer = of_t(&store, earliest().max_poll_records(2));
    let mut records: Vec<_> = consumer.poll(Duration::ZERO).unwrap().into_iter().collect();
    records.extend(consumer.poll(Duration::ZERO).unwrap());
    // All three lie in the memory of the one batch, one after the other, over two polls.
    let places: Vec<usize> = records.iter().map(|record| record.value().unwrap().as_ptr().addr()).collect();
    for pair in places.windows(2) {
        let distance = pair[1] - pair[0];
        assert!((10_000..10_020).contains(&distance), "{places:?}");
    }
    let shared = records[0].value_bytes().unwrap();
    assert_eq!(shared.as_ptr().addr(), places[0]);
    assert_eq!(records[0].record().value().unwrap().as_ptr().addr(), places[0]);
}

#[test]
fn records_say_where_they_are_from() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    log.append(&Record::new("v").key("k").header("h", "1").null_header("n").timestamp(NOW + 5)).unwrap();
    log.append(&Record::tombstone().key("k")).unwrap();
    let mut consumer = of_t(&store, earliest());
    let records = consumer.poll(Duration::ZERO).unwrap();
    assert_eq!(records.partitions().collect::<Vec<_>>(), [&id("t", 0)]);
    assert_eq!(records.records(&id("t", 0)).len(), 2);
    assert_eq!(records.records(&id("t", 1)).len(), 0);
    assert_eq!((records.next_offset(&id("t", 0)), records.next_offset(&id("t", 1))), (Some(2), None));
    assert_eq!(
        records.iter().map(|(id, record)| (id.partition, record.offset())).collect::<Vec<_>>(),
        [(0, 0), (0, 1)]
    );
    let all: Vec<_> = records.into_iter().collect();
    let record = &all[0];
    assert_eq!((record.topic(), record.partition(), record.offset()), ("t", 0, 0));
    assert_eq!(
        (record.timestamp(), record.key(), record.value()),
        (NOW + 5, Some(&b"k"[..]), Some(&b"v"[..]))
    );
    assert_eq!(record.key_bytes().as_deref(), Some(&b"k"[..]));
    let headers: Vec<_> = record.headers().map(|header| (header.key, header.value)).collect();
    assert_eq!(headers, [("h", Some(&b"1"[..])), ("n", None)]);
    assert_eq!((all[1].value(), all[1].value_bytes()), (None, None));
}

fn in_transaction(log: &Partition, producer: i64, sequence: i32, value: &str) {
    log.append_batch_with(&[Record::new(value)], AppendOptions::new().transactional(producer, 0, sequence))
        .unwrap();
}

#[test]
fn readers_of_committed_data_wait_for_the_decision() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    let committed = || earliest().isolation(Isolation::ReadCommitted);
    let mut reader = of_t(&store, committed());
    let mut all = of_t(&store, earliest());
    append(&log, &["before"]);
    in_transaction(&log, 7, 0, "seven");
    in_transaction(&log, 8, 0, "eight");
    append(&log, &["beside"]);
    assert_eq!(drain(&mut all), ["t-0:0=before", "t-0:1=seven", "t-0:2=eight", "t-0:3=beside"]);
    assert_eq!(drain(&mut reader), ["t-0:0=before"]);
    let task = Task::new();
    assert!(task.poll(&mut reader).is_none());
    append(&log, &["more"]);
    assert!(task.poll(&mut reader).is_none());
    // The first transaction is aborted: what stands behind it waits for the second.
    log.end_transaction(7, 0, ABORT, AppendOptions::new()).unwrap();
    assert!(task.woken() > 0);
    assert!(task.poll(&mut reader).is_none());
    assert_eq!(reader.position(&id("t", 0)).unwrap(), 2, "behind what was aborted");
    assert_eq!(reader.lag(&id("t", 0)).unwrap(), Some(0));
    let woken = task.woken();
    log.end_transaction(8, 0, COMMIT, AppendOptions::new()).unwrap();
    assert_eq!(task.woken(), woken + 1);
    assert_eq!(
        task.poll(&mut reader).unwrap().unwrap(),
        ["t-0:2=eight", "t-0:3=beside", "t-0:4=more"],
        "in the order of offsets, without the markers"
    );
    assert_eq!(drain(&mut all), ["t-0:4=more"]);
    assert_eq!(drain(&mut reader), [""; 0]);
    // Markers have offsets, too: both are at the end.
    let end = log.log_end();
    assert_eq!((reader.position(&id("t", 0)).unwrap(), all.position(&id("t", 0)).unwrap()), (end, end));
    // A late reader gets the same.
    assert_eq!(drain(&mut of_t(&store, committed())).len(), 4);
    let exactly = of_t(&store, committed());
    drop(exactly);
}

#[test]
fn the_lag_is_told_in_offsets_and_in_records() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    let t0 = id("t", 0);
    let mut consumer = of_t(&store, earliest().isolation(Isolation::ReadCommitted).max_poll_records(1));
    assert_eq!(consumer.lag(&t0).unwrap(), None, "before it has looked");
    assert_eq!(consumer.records_left(&t0).unwrap(), 0);
    append(&log, &["a", "b"]);
    in_transaction(&log, 7, 0, "never");
    log.end_transaction(7, 0, ABORT, AppendOptions::new()).unwrap();
    append(&log, &["c"]);
    in_transaction(&log, 7, 1, "open");
    assert_eq!((consumer.lag(&t0).unwrap(), consumer.records_left(&t0).unwrap()), (Some(5), 3));
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
    assert_eq!((consumer.lag(&t0).unwrap(), consumer.records_left(&t0).unwrap()), (Some(4), 2));
    assert_eq!(consumer.stats().lag, 4);
    drain(&mut consumer);
    assert_eq!((consumer.lag(&t0).unwrap(), consumer.records_left(&t0).unwrap()), (Some(0), 0));
    let stats = consumer.stats();
    assert_eq!((stats.records, stats.partitions, stats.lag), (3, 1, 0));
    assert!(stats.polls >= 4 && stats.bytes >= 3, "{stats:?}");
}

#[test]
fn damage_stops_its_partition_alone_and_can_be_passed() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().partitions(2));
    let other = store.topic("t").unwrap().partition(1).unwrap();
    append(&log, &["a"]);
    let damaged = log.size();
    append(&log, &["lost"]);
    append(&log, &["c"]);
    append(&other, &["x"]);
    assert!(machine.disk.flip(logs::file(0, "log"), damaged + 65, 1));
    let t0 = id("t", 0);
    for way in 0..2 {
        let mut consumer = store.consumer(earliest()).unwrap();
        consumer.assign([t0.clone(), id("t", 1)]).unwrap();
        assert_eq!(poll(&mut consumer)[..2], ["t-0:0=a", "t-1:0=x"], "what can be read comes first");
        match consumer.poll(LONG) {
            Err(Error::Corruption { path, offset: 1, .. }) => {
                assert!(path.to_string_lossy().contains("t-0"), "{path:?}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((consumer.stopped(), consumer.position(&t0).unwrap()), (BTreeSet::from([t0.clone()]), 1));
        append(&other, &["y"]);
        assert!(poll(&mut consumer).last().unwrap().ends_with("=y"), "once, and the others go on");
        if way == 0 {
            assert_eq!(consumer.skip_damage(&t0).unwrap(), Some(2));
            assert_eq!(consumer.position(&t0).unwrap(), 2);
        } else {
            consumer.seek(&t0, 1).unwrap();
            assert!(matches!(consumer.poll(LONG), Err(Error::Corruption { .. })), "it is still there");
            consumer.seek(&t0, 2).unwrap();
        }
        assert_eq!(consumer.stopped(), BTreeSet::new());
        assert_eq!(poll(&mut consumer), ["t-0:2=c"]);
        assert_eq!(consumer.skip_damage(&t0).unwrap(), None);
    }
}

#[test]
fn damage_can_be_passed_after_a_pause() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    append(&log, &["lost"]);
    append(&log, &["b"]);
    assert!(machine.disk.flip(logs::file(0, "log"), 65, 1));
    let mut consumer = of_t(&store, earliest());
    assert!(matches!(consumer.poll(LONG), Err(Error::Corruption { offset: 0, .. })));
    consumer.pause([&id("t", 0)]).unwrap();
    assert_eq!(consumer.skip_damage(&id("t", 0)).unwrap(), Some(1));
    assert_eq!(poll(&mut consumer), [""; 0]);
    consumer.resume([&id("t", 0)]).unwrap();
    assert_eq!(poll(&mut consumer), ["t-0:1=b"]);
}

/// Segments of one record each, and retention that comes in between at every read of a file.
#[test]
fn retention_in_the_middle_of_a_read_passes_over_nothing_that_is_still_there() {
    use annals::fs::Call;
    use std::sync::atomic::{AtomicI64, Ordering};
    const COUNT: u64 = 5;
    let (mut raced, mut cut) = (0, 0);
    for (at, before) in (0..12).flat_map(|at| (1..=COUNT).map(move |before| (at, before))) {
        for reset in [OffsetReset::Earliest, OffsetReset::Latest] {
            let machine = Machine::new();
            let reads = Arc::new(AtomicI64::new(i64::MAX));
            let log_of_hook: Arc<std::sync::OnceLock<Partition>> = Arc::default();
            let (left, log) = (Arc::clone(&reads), Arc::clone(&log_of_hook));
            let disk = hooked::Hooked::new(machine.disk.clone(), move |call, name| {
                let of_log = call == Call::Read && name.extension().is_some_and(|it| it == "log");
                if of_log && left.fetch_sub(1, Ordering::SeqCst) == 0 {
                    // By another thread: the reader holds the indexes of the segment that it looks for.
                    let log = log.get().unwrap().clone();
                    let deleting = log.clone();
                    std::thread::spawn(move || deleting.delete_records(before).unwrap());
                    while log.log_start() < before {
                        std::thread::yield_now();
                    }
                }
            });
            let store = machine.options().open_in(disk).unwrap();
            let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
            log_of_hook.set(log.clone()).unwrap();
            for _ in 0..COUNT {
                append(&log, &["x"]);
                log.roll().unwrap();
            }
            let mut consumer = of_t(&store, ConsumerConfig::new().offset_reset(reset));
            consumer.seek(&id("t", 0), 0).unwrap();
            reads.store(at, Ordering::SeqCst);
            let mut offsets = Vec::new();
            loop {
                let records = consumer.poll(Duration::ZERO).unwrap();
                if records.is_empty() {
                    break;
                }
                offsets.extend(records.into_iter().map(|record| record.offset()));
            }
            let what = format!("{offsets:?} below {before} at read {at}, {reset:?}");
            if log.log_start() == 0 {
                continue;
            }
            raced += 1;
            let first = (0..COUNT).find(|&offset| !offsets.contains(&offset)).unwrap_or(COUNT);
            cut += u64::from(first < COUNT);
            let next = if first == COUNT || reset == OffsetReset::Latest { COUNT } else { before };
            assert!(first == COUNT || first < before, "it was still there: {what}");
            assert_eq!(offsets, (0..first).chain(next..COUNT).collect::<Vec<_>>(), "{what}");
        }
    }
    assert!(raced > 0 && cut > 0, "or else this proves nothing: {raced}, {cut}");
}

#[test]
fn a_failing_read_is_an_error_and_loses_nothing() {
    use annals::fs::{Call, Fault, When};
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    append(&log, &["a", "b"]);
    let mut consumer = of_t(&store, earliest());
    machine.disk.fail(When::next().of(&[Call::Read]).and_ever_after(), Fault::Error(5));
    for _ in 0..2 {
        assert!(matches!(consumer.poll(LONG), Err(Error::Io { .. })));
    }
    machine.disk.heal();
    assert_eq!(consumer.stopped(), BTreeSet::new());
    assert_eq!(poll(&mut consumer).len(), 2, "it works again");
}

#[test]
fn a_deleted_topic_is_told_once_and_one_of_its_name_is_another() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    let kept = store.create_topic("kept", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a", "b", "c"]);
    let mut consumer = store.consumer(earliest()).unwrap();
    consumer.assign([id("t", 0), id("kept", 0)]).unwrap();
    assert_eq!(poll(&mut consumer).len(), 3);
    let task = Task::new();
    assert!(task.poll(&mut consumer).is_none());
    store.delete_topic("t").unwrap();
    assert!(task.woken() > 0);
    match task.poll(&mut consumer) {
        Some(Err(Error::UnknownTopic { topic })) => assert_eq!(topic, "t"),
        other => panic!("{other:?}"),
    }
    let woken = task.woken();
    assert!(task.poll(&mut consumer).is_none(), "once");
    assert_eq!(task.woken(), woken, "and it rests");
    append(&kept, &["still here"]);
    assert_eq!(task.poll(&mut consumer).unwrap().unwrap(), ["kept-0:0=still here"]);
    let again = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&again, &["new"]);
    assert_eq!(poll(&mut consumer), ["t-0:0=new"], "from its beginning, not behind the old one's end");
    // A thread that waits is not left alone either.
    let waiting = std::thread::spawn(move || consumer.poll(LONG).map(short));
    store.delete_topic("t").unwrap();
    assert!(matches!(waiting.join().unwrap(), Err(Error::UnknownTopic { .. })));
}

#[test]
fn a_watermark_inside_a_batch_is_waited_for_without_spinning() {
    let config = TopicConfig::new().set("annals.replicated", "true").unwrap();
    let (store, log) = Machine::new().start(config);
    append(&log, &["a", "b", "c"]);
    log.set_high_watermark(1).unwrap();
    let mut consumer = of_t(&store, earliest());
    let task = Task::new();
    assert!(task.poll(&mut consumer).is_none());
    assert_eq!(task.woken(), 0, "it would be woken at once for ever");
    log.set_high_watermark(2).unwrap();
    assert_eq!(task.woken(), 1);
    assert!(task.poll(&mut consumer).is_none());
    log.set_high_watermark(3).unwrap();
    assert_eq!(task.poll(&mut consumer).unwrap().unwrap().len(), 3);
}

#[test]
fn a_truncation_below_the_position_resets_it() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    append(&log, &["a"]);
    append(&log, &["b"]);
    let mut consumer = of_t(&store, earliest());
    assert_eq!(drain(&mut consumer).len(), 2);
    log.truncate_to(1).unwrap();
    append(&log, &["other"]);
    assert_eq!(drain(&mut consumer), [""; 0], "it has read so far");
    log.truncate_to(0).unwrap();
    append(&log, &["anew"]);
    assert_eq!(drain(&mut consumer), ["t-0:0=anew"]);
}

#[derive(Debug)]
struct Upper;

impl ConsumerInterceptor for Upper {
    fn on_consume(&self, mut records: ConsumerRecords) -> ConsumerRecords {
        records.retain(|_, record| record.value() != Some(b"secret"));
        records
    }
}

#[test]
fn interceptors_see_the_records_first() {
    let (store, log) = Machine::new().start(TopicConfig::new());
    append(&log, &["a", "secret", "b"]);
    let mut consumer = of_t(&store, earliest().interceptor(Upper));
    assert_eq!(poll(&mut consumer), ["t-0:0=a", "t-0:2=b"]);
    assert_eq!(consumer.position(&id("t", 0)).unwrap(), 3);
    append(&log, &["secret"]);
    let records = consumer.poll(Duration::ZERO).unwrap();
    assert!(records.is_empty() && records.partitions().next().is_none());
    assert_eq!(consumer.position(&id("t", 0)).unwrap(), 4, "taken out is consumed all the same");
}

#[test]
fn a_consumer_can_be_sent_and_its_records_and_handle_shared() {
    fn sent<T: Send + 'static>() {}
    fn shared<T: Send + Sync + 'static>() {}
    sent::<Consumer>();
    shared::<ConsumerRecords>();
    shared::<annals::WakeupHandle>();
    shared::<ConsumerConfig>();
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let store = Machine::new().open();
    let exactly = DeliveryGuarantee::ExactlyOnce;
    for (key, config) in [
        ("max.poll.records", ConsumerConfig::new().max_poll_records(0)),
        ("isolation.level", ConsumerConfig::new().isolation(Isolation::LogEnd)),
        ("heartbeat.interval.ms", ConsumerConfig::new().heartbeat_interval(Duration::ZERO)),
        ("heartbeat.interval.ms", ConsumerConfig::new().session_timeout(seconds(3))),
        ("max.poll.interval.ms", ConsumerConfig::new().max_poll_interval(Duration::ZERO)),
        ("group.instance.id", ConsumerConfig::new().group_instance_id("i")),
        ("group.instance.id", ConsumerConfig::new().group("g").group_instance_id("")),
        ("enable.auto.commit", ConsumerConfig::new().enable_auto_commit(true)),
        ("delivery", ConsumerConfig::new().delivery(exactly)),
        ("delivery", ConsumerConfig::new().group("g").delivery(exactly).enable_auto_commit(false)),
    ] {
        match store.consumer(config) {
            Err(Error::InvalidConfig { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[test]
fn one_partition_that_cannot_be_opened_does_not_keep_the_others() {
    use annals::fs::{Call, Fault, When};
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new().partitions(2));
    append(&log, &["a"]);
    store.close().unwrap();
    let broken = When::next().of(&[Call::Open, Call::Create]).under("t-1").and_ever_after();
    machine.disk.fail(broken, Fault::Error(5));
    let store = machine.open();
    let topic = store.topic("t").unwrap();
    assert!(topic.partition(1).is_err(), "or else this would prove nothing");
    let mut consumer = store.consumer(earliest().group("g")).unwrap();
    consumer.subscribe(["t"]).unwrap();
    assert!(matches!(consumer.poll(LONG), Err(Error::Io { .. })));
    // It is tried again when topics change, as they did when the group made its own, and then rests a while.
    let mut polls = (0..3).map(|_| consumer.poll(Duration::ZERO).map(short));
    assert!(polls.any(|read| read.is_ok_and(|read| read == ["t-0:0=a"])));
    machine.disk.heal();
    append(&topic.partition(1).unwrap(), &["b"]);
    machine.clock.advance(seconds(1));
    assert_eq!(poll(&mut consumer), ["t-1:0=b"]);
}

#[test]
fn a_store_opened_for_reading_has_consumers_too() {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    append(&log, &["a"]);
    store.close().unwrap();
    let store = machine.options().read_only(true).open_in(Arc::new(machine.disk.clone())).unwrap();
    assert_eq!(drain(&mut of_t(&store, earliest())), ["t-0:0=a"]);
    // With a group it cannot remember where it left off, and says so.
    let mut consumer = of_t(&store, earliest().group("g").enable_auto_commit(false));
    assert_eq!(drain(&mut consumer), ["t-0:0=a"]);
    let error = consumer.commit().unwrap_err();
    assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
}

#[test]
fn idle_partitions_cost_nothing_and_wake_nobody() {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("many", TopicConfig::new().partitions(300)).unwrap();
    let mut consumer = store.consumer(earliest()).unwrap();
    consumer.assign((0..300).map(|number| id("many", number))).unwrap();
    let task = Task::new();
    assert!(task.poll(&mut consumer).is_none());
    machine.disk.record(true);
    for round in 0..3 {
        append(&topic.partition(17).unwrap(), &["x"]);
        assert_eq!(task.poll(&mut consumer).unwrap().unwrap().len(), 1);
        assert!(task.poll(&mut consumer).is_none());
        assert_eq!(task.woken(), round + 1);
    }
    let others = machine.disk.recorded().into_iter().filter(|(_, path)| !path.starts_with("many-17")).count();
    assert_eq!(others, 0);
}

#[cfg(feature = "async")]
#[test]
fn a_consumer_is_a_stream() {
    use futures_core::Stream;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    let (store, log) = Machine::new().start(TopicConfig::new());
    append(&log, &["a"]);
    let mut consumer = of_t(&store, earliest());
    let task = Task::new();
    let waker = Waker::from(Arc::clone(&task));
    let mut next = || Pin::new(&mut consumer).poll_next(&mut Context::from_waker(&waker));
    match next() {
        Poll::Ready(Some(Ok(records))) => assert_eq!(short(records), ["t-0:0=a"]),
        other => panic!("{other:?}"),
    }
    assert!(next().is_pending());
    append(&log, &["b"]);
    assert_eq!(task.woken(), 1);
    match next() {
        Poll::Ready(Some(Ok(records))) => assert_eq!(short(records), ["t-0:1=b"]),
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
    assert!(matches!(next(), Poll::Ready(Some(Err(Error::Closed { .. })))));
}
