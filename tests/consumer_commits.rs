//! What a consumer commits, and when: told to, later, by itself; what becomes of commits that fail; and where a group
//! goes on.
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
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::consumer::{
    Consumer, ConsumerConfig, ConsumerInterceptor, DeliveryGuarantee, OffsetReset, Offsets,
};
use annals::format::EndTransactionMarker;
use annals::group::{
    Assigned, GroupConfig, GroupCoordinator, GroupDescription, GroupListing, GroupMetadata, JoinRequest,
    Joined, OffsetAndMetadata, OffsetCommit, SyncRequest,
};
use annals::{AppendOptions, Error, Partition, Reply, Result, Store, TopicConfig, TopicPartition};
use consumers::{LONG, Task, at, drain, id, poll, settle};
use logs::{Machine, append};

fn config() -> ConsumerConfig {
    ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest)
}

fn manual() -> ConsumerConfig {
    config().enable_auto_commit(false)
}

fn member(store: &Store, config: ConsumerConfig) -> Consumer {
    let mut consumer = store.consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

fn assigned(store: &Store, config: ConsumerConfig) -> Consumer {
    let mut consumer = store.consumer(config).unwrap();
    consumer.assign([id("t", 0)]).unwrap();
    consumer
}

/// What the group has committed of partition 0 of topic `t`.
fn committed(store: &Store) -> Option<u64> {
    let all = store.groups().unwrap().committed("g", None, false).unwrap();
    all.get(&id("t", 0)).map(|position| position.offset)
}

fn t0(offset: u64) -> [(TopicPartition, OffsetAndMetadata); 1] {
    [at(id("t", 0), offset)]
}

/// A store whose group log has one partition, so that commits can be counted, and the partition 0 of topic `t`.
fn start() -> (Machine, Store, Partition) {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    store.groups_with(GroupConfig::new().offsets_partitions(1)).unwrap();
    (machine, store, log)
}

#[test]
fn positions_and_given_offsets_are_committed() {
    let (_machine, store, log) = start();
    append(&log, &["a", "b", "c"]);
    let mut consumer = member(&store, manual().max_poll_records(2));
    assert_eq!(consumer.positions_to_commit(), Offsets::new());
    poll(&mut consumer);
    assert_eq!(consumer.positions_to_commit()[&id("t", 0)].offset, 2);
    consumer.commit().unwrap();
    assert_eq!(committed(&store), Some(2));
    // Of a partition that it does not have, and below where it is.
    let position = OffsetAndMetadata { offset: 1, leader_epoch: Some(3), metadata: "half done".into() };
    let both = [id("elsewhere", 7), id("t", 0)];
    let commits = both.map(|partition| (partition, position.clone()));
    consumer.commit_offsets(commits).unwrap();
    let found = consumer.committed([&id("elsewhere", 7), &id("t", 0), &id("never", 0)]).unwrap();
    assert_eq!(found, BTreeMap::from([(id("elsewhere", 7), position.clone()), (id("t", 0), position)]));
    assert_eq!(poll(&mut consumer), ["t-0:2=c"], "its own position has not moved");
    consumer.seek_to_committed([&id("t", 0)]).unwrap();
    assert_eq!(consumer.position(&id("t", 0)).unwrap(), 1);
    consumer.commit_offsets([]).unwrap();
    let long = OffsetAndMetadata { metadata: "x".repeat(4097), ..OffsetAndMetadata::new(2) };
    let error = consumer.commit_offsets([(id("t", 0), long)]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert_eq!(committed(&store), Some(1));
}

#[test]
fn a_consumer_with_an_assignment_commits_for_its_group_too() {
    let (_machine, store, log) = start();
    append(&log, &["a", "b"]);
    let mut consumer = assigned(&store, manual());
    assert_eq!(drain(&mut consumer).len(), 2);
    consumer.commit().unwrap();
    drop(consumer);
    let mut next = assigned(&store, manual());
    assert_eq!((next.position(&id("t", 0)).unwrap(), drain(&mut next).len()), (2, 0));
    // Not while the group has members: they would not know.
    let mut member = member(&store, manual());
    settle(&mut [&mut member]);
    assert!(next.commit().is_err());
    assert_eq!(next.assignment().len(), 1, "it has what it was assigned, whatever the group says");
    append(&log, &["c"]);
    assert_eq!(poll(&mut next), ["t-0:2=c"]);
}

#[test]
fn later_commits_are_made_in_order_and_together() {
    let (_machine, store, log) = start();
    append(&log, &["a", "b", "c", "d"]);
    let mut consumer = member(&store, manual().max_poll_records(1));
    let told: Arc<Mutex<Vec<(u64, bool)>>> = Arc::default();
    let note = || {
        let told = Arc::clone(&told);
        move |offsets: &Offsets, result: Result<(), &Error>| {
            told.lock().unwrap().push((offsets[&id("t", 0)].offset, result.is_ok()));
        }
    };
    poll(&mut consumer);
    consumer.commit_async(note()).unwrap();
    consumer.commit_offsets_async(t0(3), note()).unwrap();
    consumer.commit_offsets_async(t0(2), note()).unwrap();
    assert_eq!((committed(&store), told.lock().unwrap().len()), (None, 0));
    poll(&mut consumer);
    assert_eq!(std::mem::take(&mut *told.lock().unwrap()), [(1, true), (3, true), (2, true)]);
    assert_eq!((committed(&store), consumer.stats().commits), (Some(2), 1), "the last word, in one append");
    // An older one does not come after a newer one.
    consumer.commit_offsets_async(t0(1), note()).unwrap();
    consumer.commit().unwrap();
    assert_eq!((committed(&store), told.lock().unwrap().len()), (Some(2), 1));
    // Nor is one forgotten on close.
    consumer.commit_offsets_async(t0(4), note()).unwrap();
    consumer.close().unwrap();
    assert_eq!((committed(&store), told.lock().unwrap().pop()), (Some(4), Some((4, true))));
    // One that is refused says so.
    let mut outsider = member(&store, manual());
    outsider.commit_offsets_async(t0(9), note()).unwrap();
    drop(outsider);
    assert_eq!((committed(&store), told.lock().unwrap().pop()), (Some(4), Some((9, false))));
}

#[test]
fn by_default_what_earlier_polls_returned_is_committed_every_so_often() {
    let (machine, store, log) = start();
    for value in ["a", "b", "c", "d"] {
        append(&log, &[value]);
    }
    let mut consumer = member(&store, config().max_poll_records(1));
    let second = Duration::from_secs(1);
    poll(&mut consumer);
    machine.clock.advance(second * 4);
    poll(&mut consumer);
    assert_eq!(committed(&store), None, "5 seconds have not passed");
    machine.clock.advance(second);
    poll(&mut consumer);
    assert_eq!(committed(&store), Some(2), "of two polls; what this one returned is not handled yet");
    machine.clock.advance(second * 4);
    poll(&mut consumer);
    assert_eq!(committed(&store), Some(2));
    consumer.close().unwrap();
    assert_eq!(committed(&store), Some(4), "on close");

    let mut consumer = member(&store, config());
    append(&log, &["e"]);
    poll(&mut consumer);
    consumer.unsubscribe().unwrap();
    assert_eq!(committed(&store), Some(5));
    consumer.assign([id("t", 0)]).unwrap();
    append(&log, &["f"]);
    assert_eq!(poll(&mut consumer), ["t-0:5=f"]);
    consumer.assign([id("t", 0)]).unwrap();
    assert_eq!(committed(&store), Some(6), "before another assignment");
}

#[test]
fn a_consumer_that_commits_when_told_does_not_by_itself() {
    let (machine, store, log) = start();
    append(&log, &["a"]);
    let mut consumer = member(&store, manual());
    poll(&mut consumer);
    machine.clock.advance(LONG);
    poll(&mut consumer);
    consumer.close().unwrap();
    assert_eq!(committed(&store), None);
}

#[test]
fn where_a_group_began_is_remembered_before_it_reads_anything() {
    let (machine, store, log) = start();
    append(&log, &["before"]);
    let latest = || config().offset_reset(OffsetReset::Latest);
    let mut consumer = member(&store, latest());
    poll(&mut consumer);
    machine.clock.advance(Duration::from_secs(5));
    poll(&mut consumer);
    assert_eq!(committed(&store), Some(1));
    drop(consumer);
    append(&log, &["meanwhile"]);
    assert_eq!(drain(&mut member(&store, latest())), ["t-0:1=meanwhile"]);
}

#[test]
fn positions_that_rest_are_not_forgotten_for_their_age() {
    let (machine, store, log) = start();
    append(&log, &["a"]);
    // Nobody's member: what it commits ages from the commit on.
    let mut consumer = assigned(&store, config());
    poll(&mut consumer);
    let day = Duration::from_secs(24 * 60 * 60);
    for _ in 0..10 {
        machine.clock.advance(day);
        poll(&mut consumer);
        store.maintain().unwrap();
    }
    assert_eq!(committed(&store), Some(1));
    // An hour is nothing: it is not committed each time.
    let commits = consumer.stats().commits;
    for _ in 0..100 {
        machine.clock.advance(Duration::from_secs(30));
        poll(&mut consumer);
    }
    assert_eq!(consumer.stats().commits, commits);
    drop(consumer);
    machine.clock.advance(day * 8);
    store.maintain().unwrap();
    assert_eq!(committed(&store), None, "or else this would prove nothing");
}

#[test]
fn offsets_of_a_transaction_under_way_are_waited_for() {
    let (machine, store, log) = start();
    let other = store.create_topic("u", TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&log, &["a", "b", "c"]);
    append(&other, &["x"]);
    let groups = store.groups().unwrap();
    let commit = OffsetCommit { partition: id("t", 0), position: OffsetAndMetadata::new(2) };
    groups.commit_in_transaction(&GroupMetadata::simple("g"), 7, 0, &[commit]).unwrap();
    let mut consumer = store.consumer(manual()).unwrap();
    consumer.assign([id("t", 0), id("u", 0)]).unwrap();
    consumer.seek(&id("u", 0), 0).unwrap();
    assert!(matches!(consumer.committed([&id("t", 0)]), Err(Error::UnstableOffsets { .. })));
    assert!(matches!(consumer.position(&id("t", 0)), Err(Error::UnstableOffsets { .. })));
    assert_eq!(poll(&mut consumer), ["u-0:0=x"], "the others go on");
    let task = Task::new();
    assert!(task.poll(&mut consumer).is_none());
    assert_eq!(task.woken(), 0, "it rests a while");
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit: true };
    let offsets = groups.offsets_partition("g").unwrap().unwrap();
    let partition = store.topic(offsets.topic.as_str()).unwrap().partition(offsets.partition).unwrap();
    partition.end_transaction(7, 0, marker, AppendOptions::new()).unwrap();
    groups.transaction_ended(&offsets, 7, true).unwrap();
    machine.clock.advance(Duration::from_millis(100));
    assert_eq!(poll(&mut consumer), ["t-0:2=c"]);
}

#[derive(Debug, Default, Clone)]
struct Auditor(Arc<Mutex<Vec<Offsets>>>);

impl ConsumerInterceptor for Auditor {
    fn on_commit(&self, offsets: &Offsets) {
        self.0.lock().unwrap().push(offsets.clone());
    }
}

#[test]
fn interceptors_hear_of_commits_that_were_made() {
    let (_machine, store, log) = start();
    append(&log, &["a"]);
    let auditor = Auditor::default();
    let mut consumer = member(&store, manual().interceptor(auditor.clone()));
    assert!(consumer.commit().is_err());
    poll(&mut consumer);
    consumer.commit().unwrap();
    consumer.commit_offsets_async(t0(0), |_, _| ()).unwrap();
    consumer.close().unwrap();
    let heard: Vec<u64> =
        auditor.0.lock().unwrap().iter().map(|offsets| offsets[&id("t", 0)].offset).collect();
    assert_eq!(heard, [1, 0]);
}

/// The store's groups, but so many of the next commits fail.
#[derive(Debug)]
struct Failing {
    groups: Arc<dyn GroupCoordinator>,
    failures: AtomicU32,
}

impl GroupCoordinator for Failing {
    fn join(&self, request: JoinRequest) -> Reply<Joined> {
        self.groups.join(request)
    }

    fn sync(&self, request: SyncRequest) -> Reply<Assigned> {
        self.groups.sync(request)
    }

    fn heartbeat(&self, member: &GroupMetadata) -> Result<()> {
        self.groups.heartbeat(member)
    }

    fn leave(&self, member: &GroupMetadata, keep_for: Option<Duration>) -> Result<()> {
        self.groups.leave(member, keep_for)
    }

    fn commit(&self, member: &GroupMetadata, offsets: &[OffsetCommit]) -> Result<()> {
        let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => {
                Err(Error::Poisoned { partition: "g".into(), action: "commit", cause: "by the test".into() })
            }
            Err(_) => self.groups.commit(member, offsets),
        }
    }

    fn commit_in_transaction(
        &self,
        member: &GroupMetadata,
        id: i64,
        epoch: i16,
        it: &[OffsetCommit],
    ) -> Result<()> {
        self.groups.commit_in_transaction(member, id, epoch, it)
    }

    fn offsets_partition(&self, group: &str) -> Result<Option<TopicPartition>> {
        self.groups.offsets_partition(group)
    }

    fn transaction_ended(&self, partition: &TopicPartition, id: i64, committed: bool) -> Result<()> {
        self.groups.transaction_ended(partition, id, committed)
    }

    fn committed(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        stable: bool,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>> {
        self.groups.committed(group, partitions, stable)
    }

    fn list(&self) -> Result<Vec<GroupListing>> {
        self.groups.list()
    }

    fn describe(&self, group: &str) -> Result<GroupDescription> {
        self.groups.describe(group)
    }

    fn delete(&self, group: &str) -> Result<()> {
        self.groups.delete(group)
    }

    fn delete_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        self.groups.delete_offsets(group, partitions)
    }

    fn tick(&self) -> Result<Duration> {
        self.groups.tick()
    }
}

#[test]
fn a_commit_that_fails_is_told_and_tried_again() {
    let (machine, store, log) = start();
    let failing = Arc::new(Failing { groups: store.groups().unwrap(), failures: AtomicU32::new(0) });
    let mut consumer = member(&store, config().coordinator(Arc::clone(&failing) as _));
    append(&log, &["a"]);
    poll(&mut consumer);
    append(&log, &["b"]);
    failing.failures.store(2, Ordering::SeqCst);
    machine.clock.advance(Duration::from_secs(5));
    assert!(matches!(consumer.poll(LONG), Err(Error::Poisoned { .. })));
    // Records come all the same, and it is tried again when it is due.
    assert_eq!(poll(&mut consumer), ["t-0:1=b"]);
    machine.clock.advance(Duration::from_secs(5));
    assert!(matches!(consumer.poll(LONG), Err(Error::Poisoned { .. })));
    machine.clock.advance(Duration::from_secs(5));
    assert_eq!(poll(&mut consumer), [""; 0]);
    assert_eq!(committed(&store), Some(2));
    assert_eq!((consumer.stats().commits, consumer.stats().commit_failures), (1, 2));
    // Told on close, too.
    append(&log, &["c"]);
    poll(&mut consumer);
    failing.failures.store(1, Ordering::SeqCst);
    assert!(matches!(consumer.close(), Err(Error::Poisoned { .. })));
    assert_eq!(store.groups().unwrap().describe("g").unwrap().members, [], "it has left nevertheless");
}

#[test]
fn passing_damage_takes_nothing_with_it_that_was_read_and_not_handed_out() {
    for paused in [false, true] {
        let (machine, store, log) = start();
        append(&log, &["a", "b"]);
        let damaged = log.size();
        append(&log, &["lost"]);
        append(&log, &["d"]);
        assert!(machine.disk.flip(logs::file(0, "log"), damaged + 65, 1));
        let failing = Arc::new(Failing { groups: store.groups().unwrap(), failures: AtomicU32::new(1) });
        let config = ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest);
        let config = config.delivery(DeliveryGuarantee::AtMostOnce).coordinator(Arc::clone(&failing) as _);
        let mut consumer = member(&store, config);
        let t0 = id("t", 0);
        // What is in front of the damage is read, but cannot be committed, so it is not handed out.
        assert!(matches!(consumer.poll(LONG), Err(Error::Poisoned { .. })));
        assert!(matches!(consumer.poll(LONG), Err(Error::Corruption { offset: 2, .. })));
        assert_eq!(consumer.skip_damage(&t0).unwrap(), Some(3));
        assert_eq!(consumer.position(&t0).unwrap(), 0);
        assert_eq!(consumer.positions_to_commit()[&t0].offset, 0);
        if paused {
            // What was read is read again, and so is the damage.
            consumer.pause([&t0]).unwrap();
            consumer.resume([&t0]).unwrap();
            assert_eq!(poll(&mut consumer), ["t-0:0=a", "t-0:1=b"]);
            assert!(matches!(consumer.poll(LONG), Err(Error::Corruption { offset: 2, .. })));
            assert_eq!(consumer.skip_damage(&t0).unwrap(), Some(3));
            assert_eq!(poll(&mut consumer), ["t-0:3=d"]);
        } else {
            assert_eq!(poll(&mut consumer), ["t-0:0=a", "t-0:1=b", "t-0:3=d"]);
        }
        assert_eq!((consumer.position(&t0).unwrap(), committed(&store)), (4, Some(4)));
    }
}
