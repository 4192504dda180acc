//! What a consumer's own calls run of somebody else's code: interceptors, listeners and callbacks that panic, and what
//! they ask to be committed later.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/consumers.rs"]
mod consumers;
#[path = "common/logs.rs"]
mod logs;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::consumer::{
    Consumer, ConsumerConfig, ConsumerInterceptor, ConsumerRecords, DeliveryGuarantee, OffsetReset, Offsets,
    RebalanceListener,
};
use annals::{Error, Partition, Result, Store, TopicConfig, TopicPartition};
use consumers::{LONG, id, numbers, poll, settle};
use logs::{Machine, append};

fn manual() -> ConsumerConfig {
    ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest).enable_auto_commit(false)
}

fn start(partitions: u32) -> (Machine, Store, Vec<Partition>) {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    let logs = (0..partitions).map(|number| topic.partition(number).unwrap()).collect();
    (machine, store, logs)
}

fn committed(store: &Store, partition: u32) -> Option<u64> {
    let all = store.groups().unwrap().committed("g", None, true).unwrap();
    all.get(&id("t", partition)).map(|committed| committed.offset)
}

fn members(store: &Store) -> usize {
    store.groups().unwrap().describe("g").unwrap().members.len()
}

/// Takes out what is secret, and counts what it sees.
#[derive(Debug, Default, Clone)]
struct Secrets(Arc<AtomicUsize>);

impl ConsumerInterceptor for Secrets {
    fn on_consume(&self, mut records: ConsumerRecords) -> ConsumerRecords {
        self.0.fetch_add(records.len(), Ordering::SeqCst);
        records.retain(|_, record| record.value() != Some(b"secret"));
        records
    }

    fn on_commit(&self, _: &Offsets) {
        self.0.fetch_add(100, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Broken;

impl ConsumerInterceptor for Broken {
    fn on_consume(&self, _: ConsumerRecords) -> ConsumerRecords {
        panic!("on_consume")
    }

    fn on_commit(&self, _: &Offsets) {
        panic!("on_commit")
    }
}

#[test]
fn an_interceptor_that_panics_is_passed_over_and_takes_no_record_with_it() {
    for guarantee in [DeliveryGuarantee::AtMostOnce, DeliveryGuarantee::AtLeastOnce] {
        let (_machine, store, logs) = start(1);
        append(&logs[0], &["a", "secret", "b"]);
        let (before, after) = (Secrets::default(), Secrets::default());
        let config = ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest).delivery(guarantee);
        let config = config.interceptor(before.clone()).interceptor(Broken);
        let mut consumer = store.consumer(config.interceptor(after.clone())).unwrap();
        consumer.subscribe(["t"]).unwrap();
        assert_eq!(poll(&mut consumer), ["t-0:0=a", "t-0:2=b"]);
        assert_eq!(poll(&mut consumer), [""; 0]);
        assert_eq!(committed(&store, 0), Some(3));
        assert_eq!([&before, &after].map(|it| it.0.load(Ordering::SeqCst)), [103, 102]);
        assert_eq!(consumer.stats().panics, 2);
        consumer.close().unwrap();
    }
}

/// Panics when something is revoked.
struct Unwilling;

impl RebalanceListener for Unwilling {
    fn on_partitions_revoked(&mut self, _: &mut Consumer, _: &[TopicPartition]) -> Result<()> {
        panic!("I give up nothing")
    }
}

#[test]
fn a_listener_that_panics_keeps_no_place_in_the_group() {
    let (_machine, store, logs) = start(2);
    for way in ["close", "drop", "unsubscribe"] {
        let mut consumer = store.consumer(manual()).unwrap();
        consumer.subscribe_with(["t"], Unwilling).unwrap();
        settle(&mut [&mut consumer]);
        assert_eq!(members(&store), 1);
        match way {
            "drop" => drop(consumer),
            "close" => {
                let error = consumer.close().unwrap_err();
                assert!(matches!(error, Error::InvalidState { .. }), "{error}");
                assert!(error.to_string().contains("I give up nothing"), "{error}");
            }
            _ => {
                consumer.unsubscribe().unwrap_err();
                consumer.subscribe(["t"]).unwrap();
                settle(&mut [&mut consumer]);
                assert_eq!(numbers(&consumer), [0, 1], "{way}");
                consumer.close().unwrap();
            }
        }
        assert_eq!(members(&store), 0, "{way}");
    }
    // In the middle of a rebalance it is an error of a poll, and the others get their share.
    let mut first = store.consumer(manual()).unwrap();
    first.subscribe_with(["t"], Unwilling).unwrap();
    settle(&mut [&mut first]);
    let mut second = store.consumer(manual()).unwrap();
    second.subscribe(["t"]).unwrap();
    assert!(poll(&mut second).is_empty());
    let told = first.poll(Duration::ZERO);
    assert!(matches!(told, Err(Error::InvalidState { .. })), "{told:?}");
    settle(&mut [&mut first, &mut second]);
    assert_eq!((numbers(&first).len(), numbers(&second).len()), (1, 1));
    append(&logs[0], &["a"]);
    append(&logs[1], &["b"]);
    let each = settle(&mut [&mut first, &mut second]);
    assert_eq!(each.concat().len(), 2);
}

#[test]
fn a_commit_callback_that_panics_keeps_no_place_in_the_group() {
    let (_machine, store, logs) = start(1);
    append(&logs[0], &["a"]);
    let config = ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest);
    let mut consumer = store.consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
    consumer.commit_offsets_async([], |_, _| panic!("told")).unwrap();
    consumer.close().unwrap();
    assert_eq!((members(&store), committed(&store, 0)), (0, Some(1)), "and what was handled is committed");
}

/// Commits what it gives up, later.
struct CommitsLater(Arc<Mutex<Vec<bool>>>);

impl RebalanceListener for CommitsLater {
    fn on_partitions_revoked(&mut self, consumer: &mut Consumer, _: &[TopicPartition]) -> Result<()> {
        let told = Arc::clone(&self.0);
        consumer.commit_async(move |_, committed| told.lock().unwrap().push(committed.is_ok()))
    }
}

#[test]
fn what_a_listener_has_committed_later_is_committed_before_the_partitions_go() {
    let (_machine, store, logs) = start(1);
    append(&logs[0], &["a", "b"]);
    let told = Arc::default();
    let mut first = store.consumer(manual().max_poll_records(1)).unwrap();
    first.subscribe_with(["t"], CommitsLater(Arc::clone(&told))).unwrap();
    assert_eq!(poll(&mut first), ["t-0:0=a"]);
    first.close().unwrap();
    assert_eq!((told.lock().unwrap().clone(), committed(&store, 0)), (vec![true], Some(1)));

    // Of two members, one has the only partition. What it asks for while it gives that up never takes back what the
    // next owner commits.
    let mut members = [(); 2].map(|()| {
        let mut consumer = store.consumer(manual().max_poll_records(1)).unwrap();
        consumer.subscribe_with(["t"], CommitsLater(Arc::clone(&told))).unwrap();
        consumer
    });
    settle(&mut members.each_mut());
    for round in 0..6 {
        append(&logs[0], &["more"]);
        let [first, second] = &mut members;
        let (owner, other) = if numbers(first).is_empty() { (second, first) } else { (first, second) };
        while !poll(owner).is_empty() {}
        owner.commit().unwrap();
        let before = committed(&store, 0);
        other.enforce_rebalance();
        settle(&mut members.each_mut());
        assert!(committed(&store, 0) >= before, "round {round}");
    }
    assert!(told.lock().unwrap().len() > 1);
}

#[test]
fn who_waits_for_its_place_does_not_spin_over_commits() {
    let (machine, store, logs) = start(1);
    append(&logs[0], &["a"]);
    let config = ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest);
    let config = config.auto_commit_interval(Duration::ZERO);
    let mut silent = store.consumer(config).unwrap();
    silent.subscribe(["t"]).unwrap();
    assert_eq!(poll(&mut silent), ["t-0:0=a"]);
    machine.clock.advance(LONG);
    let mut other = store.consumer(manual()).unwrap();
    other.subscribe(["t"]).unwrap();
    settle(&mut [&mut other]);
    assert_eq!(numbers(&other), [0]);
    // It joins again, and the other one has not heard of that yet.
    let task = consumers::Task::new();
    assert!(task.poll(&mut silent).is_none());
    machine.clock.advance(Duration::from_secs(1));
    assert!(task.poll(&mut silent).is_none());
    let woken = task.woken();
    assert!(task.poll(&mut silent).is_none());
    assert_eq!(task.woken(), woken, "nothing is due");
}
