//! `kill -9` in the middle of producing, consuming, committing and transactions: what a delivery guarantee promises
//! holds whenever the process dies. Losses and duplicates are counted for each.
//!
//! `ANNALS_KILL_CYCLES` sets how often each is killed (default 8).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and the child speaks on its standard output"
)]

#[path = "common/kills.rs"]
mod kills;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use annals::consumer::{Consumer, DeliveryGuarantee, OffsetReset};
use annals::share::{Acknowledge, AcknowledgementMode, LowestKeyFirst, ShareConfig, ShareOffsetReset};
use annals::{
    ConsumerConfig, Durability, Error, Isolation, Producer, ProducerConfig, Record, Store, TopicConfig,
};
use kills::{killed, last, moments, say};

const PARTITIONS: u32 = 3;
const TICK: Duration = Duration::from_millis(20);

/// A record: its partition and offset in the topic `in`.
type Place = (u32, u64);

fn config() -> TopicConfig {
    TopicConfig::new().partitions(PARTITIONS).durability(Durability::Process)
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.create_topic("in", config()).unwrap();
    store.create_topic("out", config()).unwrap();
    store.close().unwrap();
    directory
}

/// Gives the next child something to do.
fn append_some(directory: &Path, count: u32) {
    let store = Store::open(directory).unwrap();
    for partition in store.topic("in").unwrap().partitions().unwrap() {
        for _ in 0..count {
            partition.append(&Record::new(&format!("{}", partition.log_end()))).unwrap();
        }
    }
    store.close().unwrap();
}

fn all(store: &Store) -> Vec<Place> {
    let partitions = store.topic("in").unwrap().partitions().unwrap();
    partitions.iter().flat_map(|log| (0..log.log_end()).map(|offset| (log.id().partition, offset))).collect()
}

fn consumer(store: &Store, guarantee: DeliveryGuarantee, max_poll_records: usize) -> Consumer {
    let config = ConsumerConfig::new()
        .group("workers")
        .offset_reset(OffsetReset::Earliest)
        .delivery(guarantee)
        .max_poll_records(max_poll_records);
    let mut consumer = store.consumer(config).unwrap();
    consumer.subscribe(["in"]).unwrap();
    consumer
}

/// Handles records for ever, or until there are none.
fn handle(store: &Store, guarantee: DeliveryGuarantee, until_empty: bool, mut handle: impl FnMut(Place)) {
    let mut consumer = consumer(store, guarantee, if until_empty { 500 } else { 7 });
    loop {
        let records = consumer.poll(TICK).unwrap();
        if until_empty && records.is_empty() {
            return consumer.close().unwrap();
        }
        for record in records {
            handle((record.partition(), record.offset()));
        }
    }
}

fn place(words: &str) -> Place {
    let (partition, offset) = words.split_once(' ').unwrap();
    (partition.parse().unwrap(), offset.parse().unwrap())
}

/// What was said to be done to which records, and how often.
fn count<'a>(said: impl IntoIterator<Item = &'a String>, word: &str) -> BTreeMap<Place, u32> {
    let mut counted = BTreeMap::new();
    for line in said {
        if let Some(words) = line.strip_prefix(word) {
            *counted.entry(place(words)).or_default() += 1;
        }
    }
    counted
}

/// The child, if this process is one.
#[test]
fn child() {
    let Some((kind, directory)) = kills::role() else { return };
    let store = Store::open(&directory).unwrap();
    say("ready");
    let say_handled = |(partition, offset)| say(&format!("handled {partition} {offset}."));
    match kind.as_str() {
        "at-most-once" => handle(&store, DeliveryGuarantee::AtMostOnce, false, say_handled),
        "at-least-once" => handle(&store, DeliveryGuarantee::AtLeastOnce, false, say_handled),
        "exactly-once" => transform(&store, false),
        "producer" => produce(&store),
        "offsets" => commit_offsets(&store),
        "queue" => std::thread::scope(|scope| {
            (0..2).for_each(|_| drop(scope.spawn(|| work(&store, queue(), false, &say))))
        }),
        "priority" => work(&store, priority(), false, &say),
        kind => panic!("no child {kind}"),
    }
}

/// Handles everything in children that are killed, then in peace. Returns how often each record was handled, and all
/// that there are.
fn handled(kind: &str, guarantee: DeliveryGuarantee) -> (BTreeMap<Place, u32>, Vec<Place>) {
    let directory = directory();
    let mut said = Vec::new();
    for moment in moments("handled ") {
        append_some(directory.path(), 200);
        said.extend(killed(kind, directory.path(), moment));
    }
    let store = Store::open(directory.path()).unwrap();
    let mut counted = count(&said, "handled ");
    assert!(!counted.is_empty(), "no child came to handle anything");
    handle(&store, guarantee, true, |place| *counted.entry(place).or_default() += 1);
    let all = all(&store);
    (counted, all)
}

fn report(mode: &str, counted: &BTreeMap<Place, u32>, all: &[Place]) -> (usize, usize) {
    let lost = all.iter().filter(|place| !counted.contains_key(place)).count();
    let twice = counted.values().filter(|count| **count > 1).count();
    println!("{mode}: {} records, {lost} lost, {twice} handled more than once", all.len());
    (lost, twice)
}

#[test]
fn at_most_once_handles_nothing_twice() {
    let (counted, all) = handled("at-most-once", DeliveryGuarantee::AtMostOnce);
    let (_, twice) = report("at most once", &counted, &all);
    assert_eq!(twice, 0, "{counted:?}");
}

#[test]
fn at_least_once_loses_nothing() {
    let (counted, all) = handled("at-least-once", DeliveryGuarantee::AtLeastOnce);
    let (lost, _) = report("at least once", &counted, &all);
    assert_eq!(lost, 0);
}

/// Copies records from one topic to the other, in transactions.
fn transform(store: &Store, until_empty: bool) {
    let producer = store.producer(ProducerConfig::new().transactional_id("copier")).unwrap();
    let mut consumer = consumer(store, DeliveryGuarantee::ExactlyOnce, if until_empty { 500 } else { 7 });
    loop {
        let records = consumer.poll(TICK).unwrap();
        if records.is_empty() {
            if until_empty {
                return consumer.close().unwrap();
            }
            continue;
        }
        producer.begin_transaction().unwrap();
        let mut last = 0;
        for (partition, record) in records.iter() {
            let value = format!("{} {}", partition.partition, record.offset());
            producer.send("out", &Record::new(&value).key(&value)).unwrap();
            last = record.offset();
        }
        let group = consumer.group_metadata().unwrap();
        producer.send_offsets_to_transaction(consumer.positions_to_commit(), &group).unwrap();
        if last % 5 == 4 && !until_empty {
            // Taken back, and read again.
            producer.abort_transaction().unwrap();
            let assigned = consumer.assignment();
            consumer.seek_to_committed(&assigned).unwrap();
        } else {
            producer.commit_transaction().unwrap();
            if !until_empty {
                say(&format!("committed {last}."));
            }
        }
    }
}

/// How often each record is in the topic `out`, for readers of committed data.
fn copied(store: &Store) -> BTreeMap<Place, u32> {
    let mut copied = BTreeMap::new();
    for log in store.topic("out").unwrap().partitions().unwrap() {
        for record in log.read_from_with(log.log_start(), Isolation::ReadCommitted).unwrap() {
            let value = record.unwrap().value().unwrap().to_vec();
            *copied.entry(place(std::str::from_utf8(&value).unwrap())).or_default() += 1;
        }
    }
    copied
}

#[test]
fn exactly_once_neither_loses_nor_repeats() {
    let directory = directory();
    let mut commits = 0;
    for moment in moments("committed ") {
        append_some(directory.path(), 100);
        commits += count_lines(&killed("exactly-once", directory.path(), moment.times(2)), "committed ");
        let store = Store::open(directory.path()).unwrap();
        assert!(copied(&store).values().all(|count| *count == 1), "{:?}", copied(&store));
    }
    assert!(commits > 0, "no child came to commit anything");
    let store = Store::open(directory.path()).unwrap();
    transform(&store, true);
    let (lost, twice) = report("exactly once", &copied(&store), &all(&store));
    assert_eq!((lost, twice), (0, 0));
}

fn count_lines(said: &[String], word: &str) -> usize {
    said.iter().filter(|line| line.starts_with(word)).count()
}

/// Sends numbers, one after the other to each partition, and says which are acknowledged.
fn produce(store: &Store) {
    let producer = store.producer(ProducerConfig::new().linger(Duration::from_millis(1))).unwrap();
    let mut next: Vec<u64> =
        store.topic("in").unwrap().partitions().unwrap().iter().map(|log| log.log_end()).collect();
    loop {
        for partition in 0..PARTITIONS {
            let number = next[partition as usize];
            next[partition as usize] += 1;
            send(&producer, partition, number);
        }
    }
}

fn send(producer: &Producer, partition: u32, number: u64) {
    let options = annals::SendOptions::new().partition(partition);
    let sent = producer.send_with_then("in", &Record::new(&format!("{number}")), options, move |result| {
        assert_eq!(result.unwrap().offset, number);
        if number % 16 == 0 {
            say(&format!("acknowledged {partition} {number}."));
        }
    });
    sent.unwrap();
}

#[test]
fn what_a_producer_was_told_is_there_stays_there_once_and_in_order() {
    let directory = directory();
    for moment in moments("acknowledged ") {
        let said = killed("producer", directory.path(), moment);
        let store = Store::open(directory.path()).unwrap();
        for log in store.topic("in").unwrap().partitions().unwrap() {
            let word = format!("acknowledged {} ", log.id().partition);
            assert!(log.log_end() > last(&said, &word).unwrap_or(0) || said.is_empty());
            for record in log.read_from(0).unwrap() {
                let record = record.unwrap();
                assert_eq!(record.value().unwrap(), format!("{}", record.offset()).as_bytes());
            }
        }
    }
}

/// Commits greater and greater offsets as a member of a group.
fn commit_offsets(store: &Store) {
    let config = ConsumerConfig::new().group("workers").enable_auto_commit(false);
    let mut consumer = store.consumer(config.offset_reset(OffsetReset::Earliest)).unwrap();
    consumer.subscribe(["in"]).unwrap();
    while consumer.assignment().is_empty() {
        consumer.poll(TICK).unwrap();
    }
    let partitions = consumer.assignment();
    let committed = consumer.committed(&partitions).unwrap();
    let mut next = committed.values().next().map_or(0, |position| position.offset);
    say(&format!("generation {}.", consumer.group_metadata().unwrap().generation));
    loop {
        next += 1;
        let position = annals::group::OffsetAndMetadata {
            metadata: format!("at {next}"),
            ..annals::group::OffsetAndMetadata::new(next)
        };
        consumer
            .commit_offsets(partitions.iter().map(|partition| (partition.clone(), position.clone())))
            .unwrap();
        say(&format!("committed {next}."));
    }
}

#[test]
fn what_is_committed_and_the_generation_of_a_group_never_go_back() {
    let directory = directory();
    let (mut committed, mut generation) = (0, 0);
    for moment in moments("committed ") {
        let said = killed("offsets", directory.path(), moment);
        committed = committed.max(last(&said, "committed ").unwrap_or(0));
        if let Some(found) = last(&said, "generation ") {
            assert!(found > generation, "generation {found} after {generation}");
            generation = found;
        }
        let store = Store::open(directory.path()).unwrap();
        let groups = store.groups().unwrap();
        let found = groups.committed("workers", None, true).unwrap();
        if committed > 0 {
            let offsets: Vec<u64> = found.values().map(|position| position.offset).collect();
            assert_eq!(offsets.len() as u32, PARTITIONS);
            assert!(offsets.iter().all(|offset| *offset == offsets[0]), "one commit is whole: {offsets:?}");
            assert!(offsets[0] >= committed, "{} was committed, {} is found", committed, offsets[0]);
            assert!(found.values().all(|position| position.metadata == format!("at {}", position.offset)));
            committed = offsets[0];
        }
        match groups.describe("workers") {
            Ok(described) => {
                assert!(described.generation as u64 >= generation);
                assert!(described.members.is_empty(), "members of a process that was killed: {described:?}");
            }
            Err(Error::UnknownGroup { .. }) => assert_eq!((committed, generation), (0, 0)),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(committed > 0, "no child came to commit anything");
}

fn queue() -> ShareConfig {
    let config = ShareConfig::new().group("workers").offset_reset(ShareOffsetReset::Earliest);
    config.acknowledgement_mode(AcknowledgementMode::Explicit).delivery_count_limit(1_000).max_poll_records(5)
}

fn priority() -> ShareConfig {
    queue().priority(LowestKeyFirst).max_poll_records(1)
}

/// Takes records from a queue, and says when it has them and when they are done, until there are none.
fn work(store: &Store, config: ShareConfig, until_empty: bool, say: &(dyn Fn(&str) + Sync)) {
    let mut consumer = store.share_consumer(config).unwrap();
    consumer.subscribe(["in"]).unwrap();
    loop {
        let records = consumer.poll(TICK).unwrap();
        if until_empty && records.is_empty() {
            return consumer.close().unwrap();
        }
        for record in &records {
            say(&format!("got {} {}.", record.partition(), record.offset()));
            consumer.acknowledge(record, Acknowledge::Accept).unwrap();
        }
        assert!(consumer.commit().unwrap().values().all(Result::is_ok));
        records.iter().for_each(|record| say(&format!("done {} {}.", record.partition(), record.offset())));
    }
}

fn nothing_done_comes_again_and_nothing_is_lost(kind: &str, config: ShareConfig) {
    let directory = directory();
    let mut said = Vec::new();
    for moment in moments("done ") {
        append_some(directory.path(), 100);
        said.extend(killed(kind, directory.path(), moment));
    }
    assert!(said.iter().any(|line| line.starts_with("done ")), "no child came to do anything");
    let store = Store::open(directory.path()).unwrap();
    let rest = Mutex::new(Vec::new());
    work(&store, config, true, &|line| rest.lock().unwrap().push(line.trim_end_matches('.').to_string()));
    said.extend(rest.into_inner().unwrap());

    let mut done = BTreeSet::new();
    for line in &said {
        match line.split_once(' ').unwrap() {
            ("got", words) => assert!(!done.contains(&place(words)), "{words} was done, and came again"),
            ("done", words) => drop(done.insert(place(words))),
            _ => panic!("{line}"),
        }
    }
    let (lost, _) = report(kind, &count(&said, "got "), &all(&store));
    assert_eq!(lost, 0);
}

#[test]
fn a_queue_loses_nothing_and_repeats_nothing_that_is_done() {
    nothing_done_comes_again_and_nothing_is_lost("queue", queue());
}

#[test]
fn by_priority_nothing_is_lost_and_nothing_that_is_done_comes_again() {
    nothing_done_comes_again_and_nothing_is_lost("priority", priority());
}
