//! Consumers in groups: sharing out, taking over, committing, being fenced; what listeners are told, and when. The
//! cases are those that Kafka's own tests of its consumer and its coordinator's client pin, through the public face.
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

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals::consumer::{Consumer, ConsumerConfig, DeliveryGuarantee, OffsetReset, RebalanceListener};
use annals::group::{
    Assignor, CooperativeStickyAssignor, GroupState, OffsetAndMetadata, RangeAssignor, StickyAssignor,
};
use annals::{Error, Result, Store, Topic, TopicConfig, TopicPartition};
use consumers::{LONG, Task, drain, id, numbers, poll, settle};
use logs::{Machine, append};

const SESSION: Duration = Duration::from_secs(45);
const POLL_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// It commits by itself, every so often.
fn config(group: &str) -> ConsumerConfig {
    ConsumerConfig::new().group(group).offset_reset(OffsetReset::Earliest)
}

fn manual(group: &str) -> ConsumerConfig {
    config(group).enable_auto_commit(false)
}

fn cooperative(config: ConsumerConfig) -> ConsumerConfig {
    config.assignors([Arc::new(CooperativeStickyAssignor) as Arc<dyn Assignor>])
}

fn member(store: &Store, config: ConsumerConfig) -> Consumer {
    let mut consumer = store.consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

/// A store with a topic `t` of so many partitions.
fn start(partitions: u32) -> (Machine, Store, Topic) {
    let machine = Machine::new();
    let store = machine.open();
    let topic = store.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    (machine, store, topic)
}

/// Appends a record to each partition.
fn fill(topic: &Topic, value: &str) {
    topic.partitions().unwrap().iter().for_each(|log| assert_eq!(append(log, &[value]), log.log_end() - 1));
}

/// What listeners were told, in order: who, what, which partitions.
#[derive(Debug, Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn listener(&self, name: &'static str) -> Listener {
        Listener { name, events: self.clone(), on_revoked: None }
    }

    fn note(&self, event: String) {
        self.0.lock().unwrap().push(event);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

type Hook = Box<dyn FnMut(&mut Consumer, &[TopicPartition]) -> Result<()> + Send>;

struct Listener {
    name: &'static str,
    events: Events,
    on_revoked: Option<Hook>,
}

impl Listener {
    fn note(&self, what: &str, partitions: &[TopicPartition]) {
        let numbers: Vec<String> = partitions.iter().map(|id| id.partition.to_string()).collect();
        self.events.note(format!("{} {what} {}", self.name, numbers.join(",")));
    }
}

impl RebalanceListener for Listener {
    fn on_partitions_assigned(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.note("assigned", partitions);
        Ok(())
    }

    fn on_partitions_revoked(
        &mut self,
        consumer: &mut Consumer,
        partitions: &[TopicPartition],
    ) -> Result<()> {
        self.note("revoked", partitions);
        self.on_revoked.as_mut().map_or(Ok(()), |hook| hook(consumer, partitions))
    }

    fn on_partitions_lost(&mut self, _: &mut Consumer, partitions: &[TopicPartition]) -> Result<()> {
        self.note("lost", partitions);
        Ok(())
    }
}

#[test]
fn a_group_goes_on_where_it_left_off() {
    let (machine, store, topic) = start(3);
    fill(&topic, "a");
    let mut consumer = member(&store, manual("g"));
    assert_eq!(poll(&mut consumer), ["t-0:0=a", "t-1:0=a", "t-2:0=a"], "one poll joins and reads");
    assert_eq!(consumer.subscription().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["t"]);
    consumer.commit().unwrap();
    let ids: Vec<_> = consumer.assignment().into_iter().collect();
    let committed = consumer.committed(&ids).unwrap();
    assert_eq!(committed.values().map(|position| position.offset).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(committed[&ids[0]].leader_epoch, Some(0));
    fill(&topic, "b");
    assert_eq!(drain(&mut consumer).len(), 3);
    drop(consumer);
    // What was not committed comes again.
    let mut next = member(&store, manual("g"));
    assert_eq!(drain(&mut next), ["t-0:1=b", "t-1:1=b", "t-2:1=b"]);
    next.commit().unwrap();
    next.close().unwrap();
    store.close().unwrap();
    let store = machine.open();
    fill(&store.topic("t").unwrap(), "c");
    assert_eq!(
        drain(&mut member(&store, manual("g"))),
        ["t-0:2=c", "t-1:2=c", "t-2:2=c"],
        "after a restart, too"
    );
    assert_eq!(drain(&mut member(&store, manual("another"))).len(), 9, "another group sees everything");
}

#[test]
fn members_share_partitions_and_take_over_from_who_leaves() {
    let (_machine, store, topic) = start(4);
    let mut first = member(&store, manual("g"));
    settle(&mut [&mut first]);
    assert_eq!(numbers(&first), [0, 1, 2, 3]);
    let mut second = member(&store, manual("g"));
    settle(&mut [&mut first, &mut second]);
    let shares = [numbers(&first), numbers(&second)];
    assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2], "{shares:?}");
    assert_eq!(shares.concat().into_iter().collect::<BTreeSet<_>>().len(), 4);
    fill(&topic, "a");
    let read = settle(&mut [&mut first, &mut second]);
    assert_eq!((read[0].len(), read[1].len()), (2, 2));
    // More members than partitions: some have none.
    let mut others: Vec<Consumer> = (0..4).map(|_| member(&store, manual("g"))).collect();
    let mut all: Vec<&mut Consumer> = [&mut first, &mut second].into_iter().chain(&mut others).collect();
    settle(&mut all);
    let mut counts: Vec<usize> = all.iter().map(|consumer| consumer.assignment().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 1, 1, 1, 1]);
    for other in others {
        other.close().unwrap();
    }
    drop(second);
    settle(&mut [&mut first]);
    assert_eq!(numbers(&first), [0, 1, 2, 3]);
}

#[test]
fn who_waits_is_woken_by_a_rebalance() {
    let (_machine, store, topic) = start(2);
    let mut first = member(&store, manual("g"));
    let task = Task::new();
    assert!(task.poll(&mut first).is_none());
    assert!(task.poll(&mut first).is_none());
    assert_eq!(numbers(&first), [0, 1]);
    let woken = task.woken();
    let mut second = member(&store, manual("g"));
    poll(&mut second);
    assert!(task.woken() > woken, "the group has called");
    while second.assignment().is_empty() {
        assert!(task.poll(&mut first).is_none());
        poll(&mut second);
    }
    assert!(task.poll(&mut first).is_none());
    assert_eq!((numbers(&first).len(), numbers(&second).len()), (1, 1));
    // One that leaves calls, too; and so do appends to what it has now.
    let woken = task.woken();
    drop(second);
    assert!(task.woken() > woken);
    assert!(task.poll(&mut first).is_none());
    let woken = task.woken();
    append(&topic.partition(1).unwrap(), &["a"]);
    append(&topic.partition(0).unwrap(), &["a"]);
    assert!(task.woken() > woken);
    assert_eq!(task.poll(&mut first).unwrap().unwrap().len(), 2);
}

#[test]
fn who_waits_for_the_others_rests() {
    use DeliveryGuarantee::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    let ways = [AtMostOnce, AtLeastOnce, ExactlyOnce].map(|way| config("g").delivery(way));
    for config in ways.into_iter().chain([config("g"), manual("g")]) {
        let (_machine, store, _topic) = start(2);
        let mut first = member(&store, config.clone());
        settle(&mut [&mut first]);
        let mut second = member(&store, config);
        let task = Task::new();
        assert!(task.poll(&mut second).is_none());
        let woken = task.woken();
        for _ in 0..3 {
            assert!(task.poll(&mut second).is_none());
            assert_eq!(task.woken(), woken, "it would not come to rest");
        }
        poll(&mut first);
        assert!(task.woken() > woken);
        settle(&mut [&mut first, &mut second]);
        let woken = task.woken();
        assert!(task.poll(&mut second).is_none());
        assert_eq!((numbers(&second).len(), task.woken()), (1, woken));
    }
}

#[test]
fn threads_that_wait_share_out_by_themselves() {
    let (_machine, store, topic) = start(3);
    let (sender, receiver) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (sender, mut consumer) = (sender.clone(), member(&store, config("g")));
            std::thread::spawn(move || {
                loop {
                    match consumer.poll(LONG) {
                        Ok(records) => {
                            records.into_iter().for_each(|record| sender.send(record.partition()).unwrap())
                        }
                        Err(Error::Closed { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for _ in 0..20 {
        fill(&topic, "a");
        let got: BTreeSet<u32> = (0..3).map(|_| receiver.recv().unwrap()).collect();
        assert_eq!(got, BTreeSet::from([0, 1, 2]));
    }
    store.close().unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn an_eager_rebalance_revokes_everything_first() {
    let (_machine, store, _topic) = start(3);
    let events = Events::default();
    let mut first = store.consumer(manual("g")).unwrap();
    first.subscribe_with(["t"], events.listener("first")).unwrap();
    settle(&mut [&mut first]);
    assert_eq!(events.take(), ["first assigned 0,1,2"]);
    let mut second = store.consumer(manual("g")).unwrap();
    second.subscribe_with(["t"], events.listener("second")).unwrap();
    settle(&mut [&mut first, &mut second]);
    let told = events.take();
    assert_eq!(told[0], "first revoked 0,1,2");
    let rest: BTreeSet<&str> = told[1..].iter().map(String::as_str).collect();
    let ways = [
        BTreeSet::from(["first assigned 0,1", "second assigned 2"]),
        BTreeSet::from(["first assigned 2", "second assigned 0,1"]),
    ];
    assert!(ways.contains(&rest), "{told:?}");
    second.close().unwrap();
    assert!(events.take()[0].starts_with("second revoked"));
    settle(&mut [&mut first]);
    let told = events.take();
    assert!(told[0].starts_with("first revoked"), "{told:?}");
    assert_eq!(told[1..], ["first assigned 0,1,2"]);
    first.unsubscribe().unwrap();
    assert_eq!(events.take(), ["first revoked 0,1,2"]);
}

#[test]
fn a_cooperative_rebalance_revokes_what_another_is_to_get() {
    let (_machine, store, topic) = start(4);
    let events = Events::default();
    let mut first = store.consumer(cooperative(manual("g"))).unwrap();
    first.subscribe_with(["t"], events.listener("first")).unwrap();
    settle(&mut [&mut first]);
    assert_eq!(events.take(), ["first assigned 0,1,2,3"]);
    let mut second = store.consumer(cooperative(manual("g"))).unwrap();
    second.subscribe_with(["t"], events.listener("second")).unwrap();
    // While the group comes together, the first one goes on reading what it keeps.
    poll(&mut second);
    fill(&topic, "a");
    assert_eq!(poll(&mut first).len(), 2);
    let read = settle(&mut [&mut first, &mut second]);
    let told = events.take();
    let (kept, moved) = (numbers(&first), numbers(&second));
    assert_eq!((kept.len(), moved.len()), (2, 2));
    let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let of_first: Vec<&String> = told.iter().filter(|event| event.starts_with("first")).collect();
    assert_eq!(of_first[0], &format!("first revoked {}", list(&moved)), "{told:?}");
    assert!(of_first[1..].iter().all(|event| *event == "first assigned "), "nothing new: {told:?}");
    let at = |event: &str| told.iter().position(|told| told == event);
    let revoked = at(&format!("first revoked {}", list(&moved)));
    assert!(revoked < at(&format!("second assigned {}", list(&moved))), "{told:?}");
    assert_eq!(first.stats().rebalances, 3, "one of its own, and two rounds");
    assert_eq!((read[0].len(), read[1].len()), (0, 2), "what was not committed comes to the new owner");
}

#[test]
fn no_partition_is_with_two_members_whoever_comes_and_goes() {
    for eager in [true, false] {
        let (_machine, store, topic) = start(5);
        let owners: Arc<Mutex<Vec<Option<usize>>>> = Arc::new(Mutex::new(vec![None; 5]));
        struct Owning(usize, Arc<Mutex<Vec<Option<usize>>>>);
        impl RebalanceListener for Owning {
            fn on_partitions_assigned(
                &mut self,
                _: &mut Consumer,
                partitions: &[TopicPartition],
            ) -> Result<()> {
                for id in partitions {
                    let before = self.1.lock().unwrap()[id.partition as usize].replace(self.0);
                    assert_eq!(before, None, "{id} has an owner");
                }
                Ok(())
            }

            fn on_partitions_revoked(
                &mut self,
                _: &mut Consumer,
                partitions: &[TopicPartition],
            ) -> Result<()> {
                for id in partitions {
                    let before = self.1.lock().unwrap()[id.partition as usize].take();
                    assert_eq!(before, Some(self.0), "{id} was another's");
                }
                Ok(())
            }
        }
        let mut members: Vec<(usize, Consumer)> = Vec::new();
        let (mut seen, mut written, mut twice, mut uncommitted) = (BTreeSet::new(), 0, 0, 0);
        // Any numbers will do, as long as they are the same each time.
        let mut chance: u64 = 17;
        for round in 0..300 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (chance >> 33) % 8 {
                0 | 1 if members.len() < 6 => {
                    let config = if eager { config("g") } else { cooperative(config("g")) };
                    let mut consumer = store.consumer(config.max_poll_records(3)).unwrap();
                    consumer.subscribe_with(["t"], Owning(round, Arc::clone(&owners))).unwrap();
                    members.push((round, consumer));
                }
                2 if members.len() > 1 => {
                    let at = (chance >> 40) as usize % members.len();
                    match members.remove(at).1.close() {
                        Ok(()) => {}
                        // It keeps its partitions in a cooperative rebalance, so it may have read meanwhile.
                        Err(Error::RebalanceInProgress { .. }) if !eager => uncommitted += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                3 => {
                    fill(&topic, &round.to_string());
                    written += 5;
                }
                _ => {}
            }
            for (_, consumer) in &mut members {
                for line in poll(consumer) {
                    twice += usize::from(!seen.insert(line));
                }
            }
        }
        let mut all: Vec<&mut Consumer> = members.iter_mut().map(|(_, consumer)| consumer).collect();
        seen.extend(settle(&mut all).concat());
        assert_eq!(seen.len(), written, "none is lost");
        assert!(
            twice <= 3 * uncommitted,
            "{twice} came twice: what was handled was committed, but {uncommitted} times"
        );
        let owned: Vec<Option<usize>> = owners.lock().unwrap().clone();
        assert!(owned.iter().all(Option::is_some), "in the end each has one: {owned:?}");
    }
}

#[test]
fn who_is_silent_for_too_long_loses_what_it_had() {
    let (machine, store, topic) = start(2);
    let events = Events::default();
    let mut slow = store.consumer(manual("g")).unwrap();
    slow.subscribe_with(["t"], events.listener("slow")).unwrap();
    let mut other = member(&store, manual("g"));
    settle(&mut [&mut slow, &mut other]);
    fill(&topic, "a");
    assert_eq!(poll(&mut slow).len(), 1);
    events.take();
    // Longer than a session, but it may take so long between two polls.
    machine.clock.advance(SESSION * 2);
    poll(&mut other);
    assert_eq!(slow.assignment().len(), 1);
    slow.commit().unwrap();
    machine.clock.advance(POLL_INTERVAL - Duration::from_millis(1));
    settle(&mut [&mut other]);
    assert_eq!(numbers(&other).len(), 1, "not yet: it was heard of when it committed");
    machine.clock.advance(Duration::from_millis(1));
    settle(&mut [&mut other]);
    assert_eq!(numbers(&other), [0, 1]);
    let error = slow.commit().unwrap_err();
    assert!(matches!(&error, Error::UnknownMember { group, .. } if group == "g"), "{error}");
    assert_eq!(events.take(), [""; 0], "told by the next poll");
    settle(&mut [&mut slow, &mut other]);
    let told = events.take();
    assert!(told[0].starts_with("slow lost"), "{told:?}");
    assert!(told.last().unwrap().starts_with("slow assigned"), "{told:?}");
    assert_eq!((numbers(&slow).len(), numbers(&other).len()), (1, 1));
    slow.commit().unwrap();
    assert_eq!((slow.stats().commits, slow.stats().commit_failures), (2, 1));
}

#[test]
fn who_was_taken_for_gone_is_a_member_like_any_other_afterwards() {
    let (machine, store, topic) = start(2);
    let events = Events::default();
    let mut slow = store.consumer(config("g")).unwrap();
    slow.subscribe_with(["t"], events.listener("slow")).unwrap();
    settle(&mut [&mut slow]);
    fill(&topic, "a");
    poll(&mut slow);
    machine.clock.advance(POLL_INTERVAL);
    store.maintain().unwrap();
    settle(&mut [&mut slow]);
    assert_eq!(events.take()[1..], ["slow lost 0,1", "slow assigned 0,1"]);
    let mut other = member(&store, config("g"));
    settle(&mut [&mut slow, &mut other]);
    assert!(events.take().iter().all(|event| !event.contains("lost")), "nothing is lost in a rebalance");
}

#[test]
fn a_member_that_polls_or_waits_stays() {
    let (machine, store, _topic) = start(2);
    let mut first = member(&store, manual("g"));
    let mut second = member(&store, manual("g"));
    settle(&mut [&mut first, &mut second]);
    let rebalances = first.stats().rebalances;
    for _ in 0..10 {
        machine.clock.advance(POLL_INTERVAL / 2);
        poll(&mut first);
        poll(&mut second);
    }
    assert_eq!(first.stats().rebalances, rebalances);
    // A task is run by maintenance, and so its heart beats.
    let task = Task::new();
    assert!(task.poll(&mut second).is_none());
    for _ in 0..10 {
        machine.clock.advance(POLL_INTERVAL / 2);
        let woken = task.woken();
        store.maintain().unwrap();
        assert_eq!(task.woken(), woken + 1);
        assert!(task.poll(&mut second).is_none());
        poll(&mut first);
    }
    assert_eq!(first.stats().rebalances, rebalances);
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let (machine, store, topic) = start(2);
    let fixed = |name: &str| manual("g").group_instance_id(name);
    let mut other = member(&store, fixed("b"));
    let mut first = member(&store, fixed("a"));
    settle(&mut [&mut first, &mut other]);
    let (had, rebalances) = (numbers(&first), other.stats().rebalances);
    first.close().unwrap();
    machine.clock.advance(SESSION - Duration::from_secs(1));
    settle(&mut [&mut other]);
    let mut back = member(&store, fixed("a"));
    settle(&mut [&mut back, &mut other]);
    assert_eq!((numbers(&back), other.stats().rebalances), (had, rebalances));
    fill(&topic, "a");
    assert_eq!(settle(&mut [&mut back, &mut other]).concat().len(), 2);
    // Away for longer than its place is kept.
    back.close().unwrap();
    machine.clock.advance(SESSION);
    settle(&mut [&mut other]);
    assert_eq!(numbers(&other), [0, 1]);
}

#[test]
fn of_two_with_one_place_the_older_is_fenced() {
    let (_machine, store, topic) = start(1);
    let events = Events::default();
    let mut older = store.consumer(manual("g").group_instance_id("a")).unwrap();
    older.subscribe_with(["t"], events.listener("older")).unwrap();
    settle(&mut [&mut older]);
    let task = Task::new();
    assert!(task.poll(&mut older).is_none());
    let mut newer = member(&store, manual("g").group_instance_id("a"));
    fill(&topic, "a");
    assert_eq!(settle(&mut [&mut newer]).concat(), ["t-0:0=a"]);
    assert!(task.woken() > 0);
    for _ in 0..2 {
        match older.poll(LONG) {
            Err(Error::FencedInstance { group, instance_id }) => {
                assert_eq!((&*group, &*instance_id), ("g", "a"))
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(older.commit(), Err(Error::FencedInstance { .. })));
    assert_eq!(events.take(), ["older assigned 0", "older lost 0"]);
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    older.commit_async(move |_, result| *tell.lock().unwrap() = result.err().cloned()).unwrap();
    older.close().unwrap();
    assert!(matches!(*told.lock().unwrap(), Some(Error::FencedInstance { .. })));
    newer.commit().unwrap();
    settle(&mut [&mut newer]);
    assert_eq!(numbers(&newer), [0], "the other one's going is none of its business");
}

#[test]
fn a_commit_has_to_wait_for_a_rebalance() {
    let (_machine, store, topic) = start(2);
    let mut first = member(&store, cooperative(manual("g")));
    fill(&topic, "a");
    settle(&mut [&mut first]);
    let mut second = member(&store, cooperative(manual("g")));
    let error = second.commit().unwrap_err();
    assert!(matches!(error, Error::UnknownMember { .. }), "it never joined: {error}");
    poll(&mut second);
    first.commit().unwrap();
    poll(&mut first);
    // It has joined again, and what it had in the last generation is still its own.
    first.commit().unwrap();
    // The next generation is complete, which it has not heard yet.
    poll(&mut second);
    let error = first.commit().unwrap_err();
    assert!(matches!(error, Error::RebalanceInProgress { .. }) && error.is_retryable(), "{error}");
    assert_eq!(first.assignment().len(), 1, "nothing is lost by that");
    settle(&mut [&mut first, &mut second]);
    first.commit().unwrap();
    second.commit().unwrap();
    let metadata = first.group_metadata().unwrap();
    assert_eq!(
        (&*metadata.group, metadata.generation > 0, metadata.member_id.is_empty()),
        ("g", true, false)
    );
}

#[test]
fn listeners_may_commit_and_seek_but_not_poll() {
    let (_machine, store, topic) = start(2);
    fill(&topic, "a");
    fill(&topic, "b");
    let events = Events::default();
    let mut listener = events.listener("first");
    listener.on_revoked = Some(Box::new(|consumer, partitions| {
        // What was read so far, less one: another one goes on from there.
        let offset = OffsetAndMetadata { metadata: "by hand".into(), ..OffsetAndMetadata::new(1) };
        consumer.commit_offsets(partitions.iter().map(|id| (id.clone(), offset.clone())))?;
        assert!(matches!(consumer.poll(LONG), Err(Error::InvalidState { action: "poll", .. })));
        assert!(matches!(consumer.subscribe(["u"]), Err(Error::InvalidState { .. })));
        assert!(matches!(consumer.unsubscribe(), Err(Error::InvalidState { .. })));
        assert!(matches!(consumer.assign([]), Err(Error::InvalidState { .. })));
        assert!(partitions.iter().all(|id| consumer.assignment().contains(id)), "they are still here");
        Err(Error::Woken)
    }));
    let mut first = store.consumer(manual("g")).unwrap();
    first.subscribe_with(["t"], listener).unwrap();
    assert_eq!(drain(&mut first).len(), 4);
    let mut second = member(&store, manual("g"));
    poll(&mut second);
    assert!(matches!(first.poll(Duration::ZERO), Err(Error::Woken)), "the listener's error");
    let mut read = settle(&mut [&mut first, &mut second]).concat();
    read.sort();
    assert_eq!(read, ["t-0:1=b", "t-1:1=b"]);
    let committed = second.committed(&[id("t", 0)]).unwrap();
    assert_eq!(committed[&id("t", 0)].metadata, "by hand");

    struct FromTwo;
    impl RebalanceListener for FromTwo {
        fn on_partitions_assigned(
            &mut self,
            consumer: &mut Consumer,
            partitions: &[TopicPartition],
        ) -> Result<()> {
            partitions.iter().try_for_each(|id| consumer.seek(id, 1))
        }
    }
    let mut seeking = store.consumer(manual("another")).unwrap();
    seeking.subscribe_with(["t"], FromTwo).unwrap();
    assert_eq!(drain(&mut seeking), ["t-0:1=b", "t-1:1=b"]);
}

#[test]
fn topics_and_partitions_to_come_are_noticed() {
    let (_machine, store, topic) = start(1);
    let mut consumer = store.consumer(manual("g")).unwrap();
    consumer.subscribe(["t", "later"]).unwrap();
    let task = Task::new();
    assert!(task.poll(&mut consumer).is_none());
    assert_eq!(consumer.assignment(), BTreeSet::from([id("t", 0)]));
    let later = store.create_topic("later", TopicConfig::new()).unwrap();
    assert!(task.woken() > 0);
    assert!(task.poll(&mut consumer).is_none());
    assert_eq!(consumer.assignment(), BTreeSet::from([id("later", 0), id("t", 0)]));
    let woken = task.woken();
    topic.add_partitions(3).unwrap();
    assert!(task.woken() > woken);
    fill(&topic, "a");
    fill(&later, "b");
    let mut read = Vec::new();
    while let Some(records) = task.poll(&mut consumer) {
        read.extend(records.unwrap());
    }
    read.sort();
    assert_eq!(read, ["later-0:0=b", "t-0:0=a", "t-1:0=a", "t-2:0=a"]);
    let mut positions = consumer.positions_to_commit();
    positions.remove(&id("later", 0));
    consumer.commit_offsets(positions).unwrap();
    let woken = task.woken();
    store.delete_topic("later").unwrap();
    assert!(task.woken() > woken);
    assert!(task.poll(&mut consumer).is_none(), "of a subscription that is no error");
    assert_eq!(consumer.assignment().len(), 3);
    let again = store.create_topic("later", TopicConfig::new()).unwrap();
    fill(&again, "anew");
    assert_eq!(drain(&mut consumer), ["later-0:0=anew"]);
}

#[test]
fn the_leader_notices_for_the_others() {
    let (_machine, store, topic) = start(1);
    let mut leader = member(&store, manual("g"));
    poll(&mut leader);
    let mut other = store.consumer(manual("g")).unwrap();
    other.subscribe(["t", "of the other alone".replace(' ', "-").as_str()]).unwrap();
    settle(&mut [&mut leader, &mut other]);
    store.create_topic("of-the-other-alone", TopicConfig::new().partitions(2)).unwrap();
    topic.add_partitions(2).unwrap();
    settle(&mut [&mut leader, &mut other]);
    let all: BTreeSet<TopicPartition> = leader.assignment().union(&other.assignment()).cloned().collect();
    assert_eq!(all.len(), 4);
    assert!(other.assignment().contains(&id("of-the-other-alone", 1)));
}

#[test]
fn a_pattern_matches_whole_names_and_none_of_the_stores_own() {
    let machine = Machine::new();
    let store = machine.open();
    for name in ["orders.eu", "orders.us", "old-orders.eu", "orders.eu.dead", "__orders.eu", "orders"] {
        store.create_topic(name, TopicConfig::new()).unwrap();
    }
    let names = |consumer: &Consumer| -> Vec<String> {
        consumer.assignment().iter().map(|id| id.topic.to_string()).collect()
    };
    let mut consumer = store.consumer(manual("g")).unwrap();
    consumer.subscribe_pattern(r"orders\.[a-z]+").unwrap();
    settle(&mut [&mut consumer]);
    assert_eq!(names(&consumer), ["orders.eu", "orders.us"]);
    assert_eq!(consumer.subscription().len(), 2);
    store.create_topic("orders.asia", TopicConfig::new()).unwrap();
    store.create_topic("orders9", TopicConfig::new()).unwrap();
    store.delete_topic("orders.us").unwrap();
    settle(&mut [&mut consumer]);
    assert_eq!(names(&consumer), ["orders.asia", "orders.eu"]);
    // An alternative belongs to the whole.
    let mut other = store.consumer(manual("another")).unwrap();
    other.subscribe_pattern("orders|nothing").unwrap();
    settle(&mut [&mut other]);
    assert_eq!(names(&other), ["orders"]);
    let mut all = store.consumer(manual("a-third")).unwrap();
    all.subscribe_pattern(".*").unwrap();
    settle(&mut [&mut all]);
    assert!(names(&all).iter().all(|name| !name.starts_with("__")), "{:?}", names(&all));
    assert!(store.topic("__consumer_offsets").is_ok(), "it is there by now");
    // By their names they can be read.
    let mut own = store.consumer(manual("a-fourth")).unwrap();
    own.subscribe(["__consumer_offsets"]).unwrap();
    assert!(!own.poll(Duration::ZERO).unwrap().is_empty());
    // A pattern that matches nothing yet waits.
    let mut later = store.consumer(manual("a-fifth")).unwrap();
    later.subscribe_pattern("later.*").unwrap();
    assert_eq!(drain(&mut later), [""; 0]);
    append(&store.create_topic("later1", TopicConfig::new()).unwrap().partition(0).unwrap(), &["a"]);
    assert_eq!(drain(&mut later), ["later1-0:0=a"]);
    match later.subscribe_pattern("(") {
        Err(Error::InvalidConfig { key, value, .. }) => assert_eq!((&*key, &*value), ("pattern", "(")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_subscription_can_be_changed() {
    for eager in [true, false] {
        let (_machine, store, topic) = start(1);
        let other = store.create_topic("u", TopicConfig::new()).unwrap();
        let config = if eager { manual("g") } else { cooperative(manual("g")) };
        let mut consumer = member(&store, config);
        fill(&topic, "a");
        fill(&other, "b");
        assert_eq!(drain(&mut consumer), ["t-0:0=a"]);
        consumer.commit().unwrap();
        consumer.subscribe(["t", "u"]).unwrap();
        assert_eq!(drain(&mut consumer), ["u-0:0=b"], "eager: {eager}");
        consumer.commit().unwrap();
        consumer.subscribe(["u"]).unwrap();
        fill(&topic, "c");
        fill(&other, "d");
        assert_eq!(drain(&mut consumer), ["u-0:1=d"]);
        assert_eq!(consumer.assignment(), BTreeSet::from([id("u", 0)]));
        consumer.subscribe([""; 0]).unwrap();
        assert_eq!(consumer.assignment(), BTreeSet::new());
        assert!(matches!(consumer.poll(LONG), Err(Error::InvalidState { .. })));
        assert_eq!(store.groups().unwrap().describe("g").unwrap().state, GroupState::Empty);
        consumer.subscribe(["t"]).unwrap();
        assert_eq!(drain(&mut consumer), ["t-0:1=c"]);
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let (_machine, store, _topic) = start(1);
    let mut alone = store.consumer(ConsumerConfig::new()).unwrap();
    let refused: [Result<()>; 5] = [
        alone.subscribe(["t"]),
        alone.subscribe_pattern("t"),
        alone.commit(),
        alone.commit_async(|_, _| ()),
        alone.group_metadata().map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(
            matches!(error, Error::InvalidState { .. }) && error.to_string().contains("no group"),
            "{error}"
        );
    }
    assert!(alone.committed([&id("t", 0)]).is_err());
    let mut consumer = member(&store, manual("g"));
    assert!(matches!(consumer.assign([id("t", 0)]), Err(Error::InvalidState { .. })));
    assert!(matches!(consumer.subscribe(["no/topic"]), Err(Error::InvalidName { .. })));
    consumer.unsubscribe().unwrap();
    consumer.assign([id("t", 0)]).unwrap();
    assert!(matches!(consumer.subscribe(["t"]), Err(Error::InvalidState { .. })));
    assert!(matches!(consumer.subscribe_pattern("t"), Err(Error::InvalidState { .. })));
    assert!(matches!(store.consumer(config("")), Err(Error::InvalidName { kind: "group", .. })));
}

#[test]
fn groups_of_different_assignors_find_a_common_one() {
    let (_machine, store, _topic) = start(4);
    let with = |assignors: &[Arc<dyn Assignor>]| member(&store, manual("g").assignors(assignors.to_vec()));
    let mut both = with(&[Arc::new(RangeAssignor), Arc::new(StickyAssignor)]);
    let mut sticky = with(&[Arc::new(StickyAssignor)]);
    settle(&mut [&mut both, &mut sticky]);
    assert_eq!(store.groups().unwrap().describe("g").unwrap().protocol, "sticky");
    let shares = (numbers(&both), numbers(&sticky));
    assert_eq!((shares.0.len(), shares.1.len()), (2, 2));
    // An eager sticky assignor is told what each had, though all was revoked.
    let mut third = with(&[Arc::new(StickyAssignor)]);
    settle(&mut [&mut both, &mut sticky, &mut third]);
    let kept = |before: &[u32], now: &Consumer| numbers(now).iter().all(|number| before.contains(number));
    assert!(kept(&shares.0, &both) && kept(&shares.1, &sticky), "{shares:?}");
    let mut range = with(&[Arc::new(RangeAssignor)]);
    let error = range.poll(Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::InconsistentProtocol { .. }), "{error}");
    // It is told so each time, and is no burden to the others.
    assert!(range.poll(Duration::ZERO).is_err());
    settle(&mut [&mut both, &mut sticky, &mut third]);
    drop((both, sticky, third));
    settle(&mut [&mut range]);
    assert_eq!(numbers(&range), [0, 1, 2, 3]);
}

#[test]
fn a_rebalance_can_be_asked_for() {
    let (_machine, store, _topic) = start(2);
    let mut consumer = member(&store, manual("g"));
    settle(&mut [&mut consumer]);
    let before = consumer.group_metadata().unwrap().generation;
    consumer.enforce_rebalance();
    settle(&mut [&mut consumer]);
    assert_eq!(consumer.group_metadata().unwrap().generation, before + 1);
}

#[test]
fn one_that_is_dropped_while_it_joins_leaves_no_ghost() {
    let (_machine, store, _topic) = start(2);
    let mut first = member(&store, manual("g"));
    settle(&mut [&mut first]);
    let mut second = member(&store, manual("g"));
    poll(&mut second);
    drop(second);
    settle(&mut [&mut first]);
    assert_eq!(numbers(&first), [0, 1]);
    assert_eq!(store.groups().unwrap().describe("g").unwrap().members.len(), 1);
    drop(first);
    assert_eq!(store.groups().unwrap().describe("g").unwrap().state, GroupState::Empty);
}

#[test]
fn a_commit_does_not_take_a_member_out_of_the_join_that_it_waits_in() {
    let (_machine, store, _topic) = start(2);
    let mut first = member(&store, manual("g"));
    settle(&mut [&mut first]);
    let mut second = member(&store, manual("g"));
    for _ in 0..3 {
        second.poll(Duration::ZERO).unwrap();
        let error = second.commit().unwrap_err();
        assert!(matches!(error, Error::UnknownMember { .. }), "{error}");
        second.commit_async(|_, _| {}).unwrap();
    }
    settle(&mut [&mut first, &mut second]);
    assert_eq!((numbers(&first).len(), numbers(&second).len()), (1, 1));
    assert_eq!(store.groups().unwrap().describe("g").unwrap().members.len(), 2);
}

#[test]
fn members_of_a_closed_store_are_told() {
    let (_machine, store, _topic) = start(1);
    let mut consumer = member(&store, config("g"));
    settle(&mut [&mut consumer]);
    let waiting =
        std::thread::spawn(move || (consumer.poll(LONG).map(drop), consumer.commit(), consumer.close()));
    store.close().unwrap();
    let (polled, committed, _closed) = waiting.join().unwrap();
    assert!(matches!(polled, Err(Error::Closed { .. })), "{polled:?}");
    assert!(committed.is_err());
}
