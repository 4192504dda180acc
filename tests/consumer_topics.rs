//! Consumers and groups when what they count on changes underneath: rebalances in the middle of commits, topics that
//! are deleted and made anew, callbacks that panic.
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

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use annals::consumer::{Consumer, ConsumerConfig, DeliveryGuarantee, OffsetReset, RebalanceListener};
use annals::format::{BatchBuilder, BatchOptions, EndTransactionMarker};
use annals::group::{self, Assignor, CooperativeStickyAssignor, GroupMember, RangeAssignor, ResetTo};
use annals::{
    AppendOptions, Error, Isolation, Record, Result, Store, TopicConfig, TopicName, TopicPartition,
};
use consumers::{LONG, drain, id, numbers, poll, settle};
use logs::{Machine, append};

fn earliest() -> ConsumerConfig {
    ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest)
}

fn member(store: &Store, config: ConsumerConfig) -> Consumer {
    let mut consumer = store.consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

#[test]
fn a_commit_refused_while_partitions_are_shared_out_anew_does_not_begin_that_again() {
    for delivery in [DeliveryGuarantee::AtLeastOnce, DeliveryGuarantee::AtMostOnce] {
        let machine = Machine::new();
        let store = machine.open();
        let topic = store.create_topic("t", TopicConfig::new().partitions(4)).unwrap();
        for log in topic.partitions().unwrap() {
            append(&log, &["x"; 200]);
        }
        let assignors = [Arc::new(CooperativeStickyAssignor) as Arc<dyn Assignor>];
        let config = earliest().delivery(delivery).assignors(assignors).max_poll_records(1);
        let mut a = member(&store, config.clone());
        let mut read = poll(&mut a).len();
        let mut b = member(&store, config);
        for _ in 0..20 {
            read += poll(&mut b).len() + poll(&mut a).len();
        }
        let settled = a.stats().rebalances;
        assert_eq!((numbers(&a).len(), numbers(&b).len()), (2, 2));
        for _ in 0..50 {
            read += poll(&mut b).len() + poll(&mut a).len();
        }
        assert_eq!(a.stats().rebalances, settled, "{delivery:?}: the group goes on in peace");
        read += drain(&mut a).len() + drain(&mut b).len();
        assert_eq!(read, 800);
    }
}

#[test]
fn a_position_in_a_deleted_topic_is_not_committed_of_the_next_one_with_its_name() {
    for by_itself in [true, false] {
        let machine = Machine::new();
        let store = machine.open();
        let make = || store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
        append(&make(), &["a", "b", "c"]);
        let mut consumer = member(&store, earliest().enable_auto_commit(by_itself));
        assert_eq!(poll(&mut consumer).len(), 3);

        store.delete_topic("t").unwrap();
        append(&make(), &["1", "2", "3", "4", "5"]);
        if !by_itself {
            consumer.commit().unwrap();
            assert!(consumer.positions_to_commit().is_empty());
        }
        consumer.close().unwrap();
        let committed = store.groups().unwrap().committed("g", None, true).unwrap();
        assert!(committed.is_empty(), "{committed:?}");
        let mut next = member(&store, earliest());
        assert_eq!(poll(&mut next), ["t-0:0=1", "t-0:1=2", "t-0:2=3", "t-0:3=4", "t-0:4=5"]);
    }
}

#[test]
fn what_was_read_of_a_deleted_topic_and_not_handed_out_is_dropped() {
    let machine = Machine::new();
    let store = machine.open();
    let make = || store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&make(), &["a", "b", "c"]);
    let config = ConsumerConfig::new().offset_reset(OffsetReset::Earliest);
    let mut consumer = store.consumer(config.fetch_min_bytes(1 << 20).fetch_max_wait(LONG)).unwrap();
    consumer.assign([id("t", 0)]).unwrap();
    assert!(poll(&mut consumer).is_empty(), "it waits for more");

    store.delete_topic("t").unwrap();
    append(&make(), &["1"]);
    assert!(poll(&mut consumer).is_empty());
    machine.clock.advance(LONG);
    assert_eq!(poll(&mut consumer), ["t-0:0=1"]);
    assert_eq!(consumer.position(&id("t", 0)).unwrap(), 1);
}

#[test]
fn polls_without_a_limit_take_no_memory_for_offsets_without_records() {
    let machine = Machine::new();
    let store = machine.open();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    for base_offset in [0, 1 << 50] {
        let mut batch = BatchBuilder::new(BatchOptions { base_offset, ..BatchOptions::default() });
        batch.push(&Record::new("x")).unwrap();
        log.append_as_follower(&batch.finish().unwrap()).unwrap();
    }
    let mut consumer = member(&store, earliest().max_poll_records(usize::MAX));
    assert_eq!(poll(&mut consumer), ["t-0:0=x".to_owned(), format!("t-0:{}=x", 1_u64 << 50)]);
}

/// Panics the first time.
struct Panics(bool);

impl RebalanceListener for Panics {
    fn on_partitions_assigned(&mut self, _: &mut Consumer, _: &[TopicPartition]) -> Result<()> {
        assert!(std::mem::replace(&mut self.0, true), "the first time");
        Ok(())
    }
}

#[test]
fn a_panic_of_a_listener_does_not_end_the_consumer() {
    let machine = Machine::new();
    let store = machine.open();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a"]);
    let mut consumer = store.consumer(earliest()).unwrap();
    consumer.subscribe_with(["t"], Panics(false)).unwrap();
    let error = consumer.poll(LONG).unwrap_err();
    assert!(matches!(error, Error::InvalidState { .. }), "{error}");
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
    consumer.unsubscribe().unwrap();
}

#[test]
fn a_seek_is_committed_as_a_read_is() {
    let machine = Machine::new();
    let store = machine.open();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a", "b", "c"]);
    let mut consumer = member(&store, earliest());
    assert_eq!(poll(&mut consumer).len(), 3);
    machine.clock.advance(Duration::from_secs(5));
    assert!(poll(&mut consumer).is_empty());
    let committed = || store.groups().unwrap().committed("g", None, true).unwrap()[&id("t", 0)].offset;
    assert_eq!(committed(), 3);
    consumer.pause([&id("t", 0)]).unwrap();
    consumer.seek(&id("t", 0), 1).unwrap();
    machine.clock.advance(Duration::from_secs(5));
    assert!(poll(&mut consumer).is_empty());
    assert_eq!(committed(), 1);
}

#[test]
fn what_was_aborted_is_passed_over_for_the_group_too() {
    let machine = Machine::new();
    let store = machine.open();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    let abort = |sequence| {
        let options = AppendOptions::new().transactional(7, 0, sequence);
        log.append_batch_with(&[Record::new("x")], options).unwrap();
        let marker = EndTransactionMarker { coordinator_epoch: 0, commit: false };
        log.end_transaction(7, 0, marker, AppendOptions::new()).unwrap();
    };
    let mut consumer = member(&store, earliest().isolation(Isolation::ReadCommitted));
    for sequence in 0..3 {
        abort(sequence);
        assert!(poll(&mut consumer).is_empty());
        machine.clock.advance(Duration::from_secs(5));
        assert!(poll(&mut consumer).is_empty());
        let groups = store.groups().unwrap();
        assert_eq!(group::group_lag(&store, &*groups, "g").unwrap()[&id("t", 0)].lag, Some(0));
    }
}

#[test]
fn a_group_is_reset_though_a_topic_of_it_is_no_more() {
    let machine = Machine::new();
    let store = machine.open();
    for topic in ["t", "u"] {
        let log = store.create_topic(topic, TopicConfig::new()).unwrap().partition(0).unwrap();
        append(&log, &["a", "b"]);
    }
    let mut consumer = store.consumer(earliest()).unwrap();
    consumer.subscribe(["t", "u"]).unwrap();
    assert_eq!(drain(&mut consumer).len(), 4);
    consumer.close().unwrap();
    store.delete_topic("u").unwrap();
    let groups = store.groups().unwrap();
    let reset = group::reset_offsets(&store, &*groups, "g", None, &ResetTo::Earliest).unwrap();
    assert_eq!(reset.into_iter().collect::<Vec<_>>(), [(id("t", 0), 0)]);
}

/// Panics the first time.
#[derive(Debug, Default)]
struct PanicsOnce(AtomicBool);

impl Assignor for PanicsOnce {
    fn name(&self) -> &str {
        "panics"
    }

    fn assign(
        &self,
        topics: &BTreeMap<TopicName, u32>,
        members: &[GroupMember],
    ) -> BTreeMap<String, Vec<TopicPartition>> {
        assert!(self.0.swap(true, Ordering::SeqCst), "the first time");
        RangeAssignor.assign(topics, members)
    }
}

#[test]
fn a_panic_of_an_assignor_does_not_end_the_consumer() {
    let machine = Machine::new();
    let store = machine.open();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a"]);
    let assignors = [Arc::new(PanicsOnce::default()) as Arc<dyn Assignor>];
    let mut consumer = member(&store, earliest().assignors(assignors));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut consumer))).is_err());
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
}

#[test]
fn a_place_asked_for_is_kept_no_longer_than_a_place_taken() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let mut stays = member(&store, earliest());
    poll(&mut stays);
    assert_eq!(numbers(&stays), [0, 1]);
    let mut goes = member(&store, earliest().group_instance_id("place"));
    assert!(poll(&mut goes).is_empty());
    goes.close().unwrap();
    poll(&mut stays);
    machine.clock.advance(Duration::from_secs(45));
    settle(&mut [&mut stays]);
    assert_eq!(numbers(&stays), [0, 1]);
}

#[test]
fn a_commit_callback_that_panics_does_not_silence_the_others() {
    let machine = Machine::new();
    let store = machine.open();
    store.create_topic("t", TopicConfig::new()).unwrap();
    let mut consumer = member(&store, earliest());
    poll(&mut consumer);
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    consumer.commit_async(|_, _| panic!("the first")).unwrap();
    consumer.commit_async(move |_, committed| tell.store(committed.is_ok(), Ordering::SeqCst)).unwrap();
    poll(&mut consumer);
    assert!(told.load(Ordering::SeqCst));
}

#[test]
fn a_consumer_may_take_hours_between_polls_if_it_says_so() {
    let machine = Machine::new();
    let store = machine.open();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a", "b"]);
    let mut consumer = member(&store, earliest().max_poll_interval(LONG * 2).max_poll_records(1));
    assert_eq!(poll(&mut consumer), ["t-0:0=a"]);
    machine.clock.advance(LONG);
    store.maintain().unwrap();
    assert_eq!(poll(&mut consumer), ["t-0:1=b"]);
    assert_eq!(consumer.stats().rebalances, 1);
}
