//! Which partition a producer's record goes to: the key's, the one named, the one in turn, one's own choice, and for
//! records without a key one at a time, rather one that has little waiting.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/logs.rs"]
mod logs;
#[path = "common/producers.rs"]
mod producers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use annals::fs::SimulatedDisk;
use annals::{
    Error, Partitioner, Producer, ProducerConfig, Record, RoundRobinPartitioner, Store, TopicConfig,
    partition_for_key,
};

use logs::Machine;
use producers::{Gate, config, gated, offset, send_to};

fn start(machine: &Machine, partitions: u32) -> Store {
    let store = machine.open();
    store.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    store
}

/// The partitions to which records without a key go, each of that size, in order.
fn sticky(producer: &Producer, value: &str, records: usize) -> Vec<u32> {
    let send = |_| producer.send("t", &Record::new(value)).unwrap().partition().partition;
    (0..records).map(send).collect()
}

/// How often each stays before the next.
fn runs(partitions: &[u32]) -> Vec<usize> {
    partitions.chunk_by(|one, next| one == next).map(<[u32]>::len).collect()
}

#[test]
fn keys_go_where_kafkas_clients_send_them() {
    let machine = Machine::new();
    let store = start(&machine, 10);
    let producer = store.producer(config()).unwrap();
    // Made by Kafka's own `Utils.murmur2`.
    for (key, partition) in [
        ("", 1),
        ("a", 4),
        ("ab", 4),
        ("abc", 7),
        ("abcd", 0),
        ("21", 0),
        ("foobar", 6),
        ("kafka", 0),
        ("\u{e9}", 1),
        ("a-little-bit-long-string", 2),
    ] {
        let delivery = producer.send("t", &Record::new("v").key(key)).unwrap();
        assert_eq!(delivery.partition().partition, partition, "{key:?}");
        assert_eq!(partition_for_key(key.as_bytes(), 10), partition);
    }
    // Of all partitions that there are now.
    store.topic("t").unwrap().add_partitions(11).unwrap();
    let delivery = producer.send("t", &Record::new("v").key("kafka")).unwrap();
    assert_eq!(delivery.partition().partition, partition_for_key(b"kafka", 11));
}

#[test]
fn records_without_a_key_stay_until_the_batch_is_full() {
    let machine = Machine::new();
    let store = start(&machine, 4);
    let producer = store.producer(config().batch_size(1000)).unwrap();
    let value = "v".repeat(100);
    let gone_to = sticky(&producer, &value, 400);
    assert_eq!(gone_to.iter().collect::<BTreeSet<_>>().len(), 4, "all of them in the end");
    let runs = runs(&gone_to);
    // A batch holds 8 of them. The same partition may be chosen again.
    let (last, others) = runs.split_last().unwrap();
    assert!(others.iter().all(|run| run % 8 <= 1), "{runs:?}");
    assert!(*last <= 400 && runs.len() > 20, "{runs:?}");
    producer.flush().unwrap();
    // No batch is left half full behind: 400 records in the fewest batches there can be, but for the last.
    let batches = producer.stats().batches;
    assert!((400_u64.div_ceil(9)..=400 / 8 + 1).contains(&batches), "{batches}");
}

#[test]
fn one_partition_is_always_the_same() {
    let machine = Machine::new();
    let store = start(&machine, 1);
    let producer = store.producer(config().batch_size(0)).unwrap();
    assert_eq!(sticky(&producer, "v", 50), [0; 50]);
}

#[test]
fn records_with_a_key_do_not_move_those_without() {
    let machine = Machine::new();
    let store = start(&machine, 8);
    let producer = store.producer(config().batch_size(1000)).unwrap();
    let first = sticky(&producer, "v", 1)[0];
    for number in 0..200 {
        producer.send("t", &Record::new("v").key(&format!("{number}"))).unwrap();
        send_to(&producer, number % 8);
    }
    assert_eq!(sticky(&producer, "v", 1)[0], first);
}

#[test]
fn keys_may_be_ignored() {
    let machine = Machine::new();
    let store = start(&machine, 8);
    let producer = store.producer(config().ignore_keys(true)).unwrap();
    let send = |key: &str| producer.send("t", &Record::new("v").key(key)).unwrap().partition().partition;
    let gone_to: BTreeSet<u32> = (0..50).map(|number| send(&format!("{number}"))).collect();
    assert_eq!(gone_to.len(), 1, "they stay as those without");
}

/// With one partition that has much waiting: how many of the batches without a key go there, of how many.
fn to_the_slow_one(adaptive: bool) -> (usize, usize) {
    // Random numbers of the disk are drawn by the sends alone while the producer's thread waits at the gate.
    let machine = Machine::of(SimulatedDisk::new(7));
    let gate = Arc::new(Gate::default());
    let store = gated(&machine, &gate);
    store.create_topic("t", TopicConfig::new().partitions(4)).unwrap();
    let producer = store.producer(config().batch_size(0).adaptive_partitioning(adaptive)).unwrap();
    gate.shut();
    let first = send_to(&producer, 1);
    gate.wait_for_one();
    (0..100).for_each(|_| drop(send_to(&producer, 0)));
    let gone_to = sticky(&producer, "v", 100);
    gate.open();
    producer.flush().unwrap();
    assert_eq!(offset(&first), 0);
    (gone_to.iter().filter(|&&partition| partition == 0).count(), gone_to.len())
}

#[test]
fn partitions_that_have_much_waiting_are_avoided_unless_told_otherwise() {
    let (slow, all) = to_the_slow_one(true);
    assert!(slow * 20 < all, "{slow} of {all} where about one in 200 is expected");
    let (slow, all) = to_the_slow_one(false);
    assert!(slow * 8 > all, "{slow} of {all} where about one in 4 is expected");
}

#[test]
fn round_robin_takes_each_in_turn_whatever_the_key() {
    let machine = Machine::new();
    let store = start(&machine, 3);
    store.create_topic("u", TopicConfig::new().partitions(2)).unwrap();
    let producer = store.producer(config().partitioner(|_| RoundRobinPartitioner::new())).unwrap();
    let send = |topic: &str, key: &str| {
        producer.send(topic, &Record::new("v").key(key)).unwrap().partition().partition
    };
    let turns: Vec<u32> = (0..7).map(|_| send("t", "same")).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
    // Each topic has its own.
    assert_eq!([send("u", "k"), send("t", "k"), send("u", "k")], [0, 1, 1]);
}

/// Counts, and answers with a number that is no partition every third time.
#[derive(Debug, Default)]
struct Own(Arc<AtomicU32>);

impl Partitioner for Own {
    fn partition(&self, key: Option<&[u8]>, size: usize, count: u32) -> u32 {
        assert!(size > key.map_or(0, <[u8]>::len));
        let call = self.0.fetch_add(1, Ordering::SeqCst);
        if call % 3 == 2 { count } else { count - 1 }
    }
}

#[test]
fn ones_own_partitioner_is_asked_for_each_record_that_names_no_partition() {
    let machine = Machine::new();
    let store = start(&machine, 3);
    let calls = Arc::new(AtomicU32::new(0));
    let own = Arc::clone(&calls);
    let producer = store.producer(config().partitioner(move |_| Own(Arc::clone(&own)))).unwrap();
    for _ in 0..2 {
        let delivery = producer.send("t", &Record::new("v").key("k")).unwrap();
        assert_eq!(delivery.partition().partition, 2);
    }
    assert_eq!(send_to(&producer, 1).partition().partition, 1);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let refused = producer.send("t", &Record::new("v")).unwrap_err();
    assert!(matches!(refused, Error::UnknownPartition { partition: 3, count: 3, .. }), "{refused}");
}

/// Panics once.
#[derive(Debug)]
struct Panics(AtomicU32);

impl Partitioner for Panics {
    fn partition(&self, _: Option<&[u8]>, _: usize, _: u32) -> u32 {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "on purpose");
        0
    }
}

#[test]
fn a_partitioner_that_panics_does_so_to_its_caller_alone() {
    let machine = Machine::new();
    let store = start(&machine, 3);
    let config: ProducerConfig = config().partitioner(|_| Panics(AtomicU32::new(0)));
    let producer = store.producer(config).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| producer.send("t", &Record::new("v"))).join().unwrap_err();
    });
    let delivery = producer.send("t", &Record::new("v")).unwrap();
    producer.flush().unwrap();
    assert_eq!(offset(&delivery), 0);
    assert_eq!(producer.stats().records_sent, 1);
}
