//! The named guarantees, each held against a process that ends at every point: what is lost, what comes twice.
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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use annals::consumer::{Consumer, ConsumerConfig, DeliveryGuarantee, OffsetReset};
use annals::format::EndTransactionMarker;
use annals::group::{Assignor, CooperativeStickyAssignor, GroupConfig, OffsetCommit};
use annals::{AppendOptions, Durability, Error, Isolation, Partition, Record, Store, TopicConfig};
use consumers::{LONG, Task, at, drain, id, poll, settle};
use logs::{Machine, append};

use DeliveryGuarantee::{AtLeastOnce, AtMostOnce, ExactlyOnce};

fn config(guarantee: DeliveryGuarantee) -> ConsumerConfig {
    ConsumerConfig::new().group("g").offset_reset(OffsetReset::Earliest).delivery(guarantee)
}

fn member(store: &Store, config: ConsumerConfig) -> Consumer {
    let mut consumer = store.consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

/// A store whose group log has one partition, and the partition 0 of topic `t` with values from 0 up.
fn start(count: u32) -> (Machine, Store, Partition) {
    let machine = Machine::new();
    let (store, log) = machine.start(TopicConfig::new());
    store.groups_with(GroupConfig::new().offsets_partitions(1)).unwrap();
    for value in 0..count {
        append(&log, &[&value.to_string()]);
    }
    (machine, store, log)
}

fn committed(store: &Store) -> Option<u64> {
    let all = store.groups().unwrap().committed("g", None, true).unwrap();
    all.get(&id("t", 0)).map(|position| position.offset)
}

/// How often each record was handled by a process that is killed after so many polls, with what the last of them
/// returned not handled, and by the next one.
fn killed_after(polls: usize, guarantee: DeliveryGuarantee, power_cut: bool) -> BTreeMap<String, usize> {
    let (machine, store, _log) = start(20);
    let mut consumer = member(&store, config(guarantee).max_poll_records(3));
    let mut handled = BTreeMap::new();
    let mut returned = Vec::new();
    for _ in 0..polls {
        for record in std::mem::take(&mut returned) {
            *handled.entry(record).or_default() += 1;
        }
        returned = poll(&mut consumer);
    }
    let next = if power_cut { machine.cut_off() } else { machine.killed() };
    let store = next.open();
    for record in drain(&mut member(&store, config(guarantee))) {
        *handled.entry(record).or_default() += 1;
    }
    handled
}

#[test]
fn at_most_once_repeats_nothing_and_loses_the_last_poll_at_most() {
    for polls in 0..9 {
        let handled = killed_after(polls, AtMostOnce, polls % 2 == 0);
        assert!(handled.values().all(|&times| times == 1), "after {polls} polls: {handled:?}");
        let in_flight = if polls == 0 { 0 } else { 3.min(20 - 3 * (polls as i64 - 1).clamp(0, 6)).max(0) };
        let lost = if polls > 7 { 0 } else { in_flight };
        assert_eq!(handled.len() as i64, 20 - lost, "after {polls} polls");
    }
}

#[test]
fn at_least_once_loses_nothing_and_repeats_the_last_poll_at_most() {
    for polls in 0..9 {
        let handled = killed_after(polls, AtLeastOnce, polls % 2 == 0);
        assert_eq!(handled.len(), 20, "after {polls} polls: {handled:?}");
        // What the last poll returned was not handled, what those before returned is committed.
        assert!(handled.values().all(|&times| times == 1), "after {polls} polls: {handled:?}");
    }
    // Killed when the last poll's records are handled, but no poll has said so.
    let (machine, store, _log) = start(5);
    let mut consumer = member(&store, config(AtLeastOnce).max_poll_records(2));
    assert_eq!((poll(&mut consumer).len(), poll(&mut consumer).len()), (2, 2));
    let store = machine.killed().open();
    assert_eq!(drain(&mut member(&store, config(AtLeastOnce))), ["t-0:2=2", "t-0:3=3", "t-0:4=4"]);
}

#[test]
fn at_most_once_commits_before_it_hands_out() {
    let (machine, store, log) = start(4);
    let mut consumer = member(&store, config(AtMostOnce).max_poll_records(2));
    assert_eq!((poll(&mut consumer).len(), committed(&store)), (2, Some(2)));
    // A commit that fails fails the poll, and its records come with a later one.
    machine.disk.set_capacity(Some(0));
    for _ in 0..2 {
        let error = consumer.poll(Duration::ZERO).unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert_eq!(consumer.position(&id("t", 0)).unwrap(), 2);
    }
    machine.disk.set_capacity(None);
    assert_eq!(poll(&mut consumer), ["t-0:2=2", "t-0:3=3"]);
    assert_eq!(committed(&store), Some(4));
    // A seek forgets what was held back.
    append(&log, &["4"]);
    machine.disk.set_capacity(Some(0));
    assert!(consumer.poll(Duration::ZERO).is_err());
    consumer.seek(&id("t", 0), 1).unwrap();
    machine.disk.set_capacity(None);
    assert_eq!(poll(&mut consumer), ["t-0:1=1", "t-0:2=2"]);
    consumer.close().unwrap();
    assert_eq!(committed(&store), Some(3));
}

#[test]
fn at_least_once_commits_what_was_handled_with_the_next_poll_and_on_close() {
    let (machine, store, log) = start(4);
    let mut consumer = member(&store, config(AtLeastOnce).max_poll_records(2));
    assert_eq!((poll(&mut consumer).len(), committed(&store)), (2, None));
    assert_eq!((poll(&mut consumer).len(), committed(&store)), (2, Some(2)));
    assert_eq!((poll(&mut consumer).len(), committed(&store)), (0, Some(4)));
    let commits = consumer.stats().commits;
    poll(&mut consumer);
    assert_eq!(consumer.stats().commits, commits, "nothing was returned, so there is nothing to commit");
    // On a full disk it says so, and goes on all the same.
    append(&log, &["4"]);
    append(&log, &["5"]);
    append(&log, &["6"]);
    assert_eq!(poll(&mut consumer).len(), 2);
    machine.disk.set_capacity(Some(0));
    assert!(consumer.poll(Duration::ZERO).unwrap_err().is_retryable());
    assert_eq!(poll(&mut consumer), ["t-0:6=6"]);
    machine.clock.advance(Duration::from_secs(1));
    assert!(consumer.poll(Duration::ZERO).is_err());
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    assert_eq!((poll(&mut consumer).len(), committed(&store)), (0, Some(7)));
    append(&log, &["7"]);
    assert_eq!(poll(&mut consumer).len(), 1);
    drop(consumer);
    assert_eq!(committed(&store), Some(8), "dropping is closing");
}

#[test]
fn a_panic_commits_nothing_and_leaves_the_group() {
    let (_machine, store, _log) = start(3);
    let mut consumer = member(&store, config(AtLeastOnce).max_poll_records(1));
    let dead = std::thread::spawn(move || {
        poll(&mut consumer);
        assert_eq!(poll(&mut consumer), ["something else"]);
    });
    assert!(dead.join().is_err());
    assert_eq!(store.groups().unwrap().describe("g").unwrap().members, []);
    assert_eq!(drain(&mut member(&store, config(AtLeastOnce))), ["t-0:1=1", "t-0:2=2"]);
}

#[test]
fn one_of_three_threads_dies_and_no_record_is_lost() {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(6)).unwrap();
    let mut members = [(); 3].map(|()| member(&store, config(AtLeastOnce).max_poll_records(5)));
    settle(&mut members.each_mut());
    assert!(members.iter().all(|member| member.assignment().len() == 2));
    for value in 0..600 {
        topic.partition(value % 6).unwrap().append(&Record::new(&value.to_string())).unwrap();
    }
    let (sender, receiver) = mpsc::channel();
    let work = |number: usize, mut consumer: Consumer| {
        let sender = sender.clone();
        move || {
            for polls in 0.. {
                let records = match consumer.poll(LONG) {
                    Ok(records) => records,
                    Err(Error::Closed { .. }) => return,
                    Err(error) => panic!("{error}"),
                };
                for (at, record) in records.into_iter().enumerate() {
                    assert!(
                        number != 0 || polls < 7 || at < 2,
                        "the first one dies with half of its records"
                    );
                    let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                    sender.send(value).unwrap();
                }
            }
        }
    };
    let threads: Vec<_> =
        members.into_iter().enumerate().map(|(number, it)| std::thread::spawn(work(number, it))).collect();
    let (mut seen, mut count) = (BTreeSet::new(), 0);
    while seen.len() < 600 {
        seen.insert(receiver.recv().unwrap());
        count += 1;
    }
    assert!(count <= 600 + 2, "only what was handled and not committed comes twice: {count}");
    store.close().unwrap();
    let ends: Vec<bool> = threads.into_iter().map(|thread| thread.join().is_ok()).collect();
    assert_eq!(ends, [false, true, true]);
}

#[test]
fn members_of_a_group_that_read_at_most_once_read_each_record_once() {
    for guarantee in [AtMostOnce, AtLeastOnce] {
        let machine = Machine::new();
        let store = machine.open();
        let topic = store.create_topic("t", TopicConfig::new().partitions(3)).unwrap();
        let mut members: Vec<Consumer> = Vec::new();
        let mut seen = Vec::new();
        for round in 0..60 {
            topic.append(&Record::new(&round.to_string())).unwrap();
            match round % 7 {
                0 | 1 => members.push(member(&store, config(guarantee).max_poll_records(1))),
                4 => drop(members.pop()),
                _ => {}
            }
            seen.extend(members.iter_mut().flat_map(poll));
        }
        let mut all: Vec<&mut Consumer> = members.iter_mut().collect();
        seen.extend(settle(&mut all).concat());
        let distinct: BTreeSet<&String> = seen.iter().collect();
        assert_eq!((seen.len(), distinct.len()), (60, 60), "{guarantee:?}: nobody died, so each comes once");
    }
}

#[test]
fn at_most_once_holds_back_what_it_cannot_commit_and_rests_meanwhile() {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(4)).unwrap();
    let cooperative = [Arc::new(CooperativeStickyAssignor) as Arc<dyn Assignor>];
    let config = || config(AtMostOnce).assignors(cooperative.clone()).max_poll_records(2);
    let (mut first, mut second) = (member(&store, config()), member(&store, config()));
    settle(&mut [&mut first, &mut second]);
    let leader = store.groups().unwrap().describe("g").unwrap().leader.unwrap();
    let first_leads = first.group_metadata().unwrap().member_id == leader;
    let (mut leader, mut other) = if first_leads { (first, second) } else { (second, first) };
    let mut third = member(&store, config());
    poll(&mut third);
    // The leader has joined again and does not know yet that all have.
    poll(&mut leader);
    for partition in topic.partitions().unwrap() {
        append(&partition, &["a", "b", "c"]);
    }
    let task = Task::new();
    assert!(task.poll(&mut other).is_none(), "the generation before is over, and the next not complete");
    let woken = task.woken();
    for _ in 0..3 {
        machine.clock.advance(Duration::from_secs(1));
        assert!(task.poll(&mut other).is_none());
        assert_eq!(task.woken(), woken, "it would not come to rest");
    }
    let led = poll(&mut leader);
    assert!(task.woken() > woken);
    let rest = settle(&mut [&mut leader, &mut other, &mut third]).concat();
    let all: BTreeSet<&String> = led.iter().chain(&rest).collect();
    assert_eq!((all.len(), led.len() + rest.len()), (12, 12), "each once");
}

#[test]
fn a_consumer_with_an_assignment_is_told_that_the_group_has_members() {
    for guarantee in [AtMostOnce, AtLeastOnce] {
        let (_machine, store, log) = start(1);
        let mut member = member(&store, config(guarantee));
        poll(&mut member);
        let mut assigned = store.consumer(config(guarantee)).unwrap();
        assigned.assign([id("t", 0)]).unwrap();
        append(&log, &["new"]);
        let told = (0..3).filter(|_| assigned.poll(Duration::ZERO).is_err()).count();
        assert!(told > 0, "{guarantee:?}: what it is promised does not hold");
        let handled = guarantee == AtLeastOnce;
        assert_eq!(assigned.close().is_err(), handled, "what was handled could not be committed");
    }
}

/// Handles what the consumer returns in one transaction of producer 7: upper case of `t` to `out`, positions with it.
fn transform(store: &Store, consumer: &mut Consumer, sequence: &mut i32, commit: bool) -> Vec<String> {
    let out = store.topic("out").unwrap().partition(0).unwrap();
    let records = consumer.poll(Duration::ZERO).unwrap();
    if records.is_empty() {
        return vec![];
    }
    let mut made = Vec::new();
    for record in records {
        let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap().to_uppercase();
        let options = AppendOptions::new().transactional(7, 0, *sequence);
        out.append_batch_with(&[Record::new(&value)], options).unwrap();
        *sequence += 1;
        made.push(value);
    }
    let groups = store.groups().unwrap();
    let commit_of = |(partition, position)| OffsetCommit { partition, position };
    let positions: Vec<_> = consumer.positions_to_commit().into_iter().map(commit_of).collect();
    groups.commit_in_transaction(&consumer.group_metadata().unwrap(), 7, 0, &positions).unwrap();
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit };
    let offsets = groups.offsets_partition("g").unwrap().unwrap();
    let log = store.topic(offsets.topic.as_str()).unwrap().partition(offsets.partition).unwrap();
    for partition in [&out, &log] {
        partition.end_transaction(7, 0, marker, AppendOptions::new().durability(Durability::Synced)).unwrap();
    }
    groups.transaction_ended(&offsets, 7, commit).unwrap();
    made
}

#[test]
fn exactly_once_commits_with_what_is_made_of_the_records() {
    let (machine, store, log) = start(0);
    append(&log, &["a", "b", "c"]);
    store.create_topic("out", TopicConfig::new()).unwrap();
    let mut sequence = 0;
    let mut consumer = member(&store, config(ExactlyOnce).max_poll_records(1));
    assert_eq!(transform(&store, &mut consumer, &mut sequence, true), ["A"]);
    assert_eq!(committed(&store), Some(1));
    assert_eq!(transform(&store, &mut consumer, &mut sequence, false), ["B"]);
    assert_eq!(committed(&store), Some(1), "what was aborted never counts");
    consumer.seek_to_committed([&id("t", 0)]).unwrap();
    assert_eq!(transform(&store, &mut consumer, &mut sequence, true), ["B"]);
    // The process ends; the next one goes on behind what was made.
    let store = machine.killed().open();
    let mut consumer = member(&store, config(ExactlyOnce));
    assert_eq!(transform(&store, &mut consumer, &mut sequence, true), ["C"]);
    let out = store.topic("out").unwrap().partition(0).unwrap();
    let made = out.read_from_with(0, Isolation::ReadCommitted).unwrap();
    let made: Vec<_> = made.map(|record| record.unwrap().value().unwrap().to_vec()).collect();
    assert_eq!(made, [b"A", b"B", b"C"], "each once");
}

#[test]
fn exactly_once_reads_committed_data_and_commits_nothing_itself() {
    let (machine, store, log) = start(1);
    let mut consumer = member(&store, config(ExactlyOnce));
    log.append_batch_with(&[Record::new("open")], AppendOptions::new().transactional(9, 0, 0)).unwrap();
    assert_eq!(drain(&mut consumer), ["t-0:0=0"]);
    let refused = [
        consumer.commit(),
        consumer.commit_offsets([at(id("t", 0), 1)]),
        consumer.commit_async(|_, _| panic!("made")),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(matches!(error, Error::InvalidState { action: "commit", .. }), "{error}");
        assert!(error.to_string().contains("send_offsets_to_transaction"), "{error}");
    }
    machine.clock.advance(LONG);
    poll(&mut consumer);
    consumer.close().unwrap();
    assert_eq!(committed(&store), None);
}
