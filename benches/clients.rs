//! From a producer to a consumer: how many records a second, and how long one takes; and how long a large group needs
//! to share out its partitions.
//!
//!   cargo bench --bench clients [-- RECORDS]
//!
//! Prints a table. Times are of this machine at this moment: read the ratios.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a program, not a library")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use annals::consumer::{Consumer, OffsetReset};
use annals::{ConsumerConfig, Durability, Producer, ProducerConfig, Record, Store, TopicConfig};

const VALUE_BYTES: usize = 100;
const PARTITIONS: u32 = 4;
const MEMBERS: usize = 1_000;
/// One latency of so many is kept.
const SAMPLE: u64 = 64;

fn main() {
    let records = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(2_000_000);
    println!("{VALUE_BYTES} bytes a record, {PARTITIONS} partitions, Durability::Process\n");
    println!("at full load, {records} records                  records/s     p50 us     p99 us");
    for (producers, consumers) in [(1, 1), (4, 1), (1, 4), (4, 4)] {
        let (rate, latencies) = full_load(records, producers, consumers);
        let (p50, p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
        println!("  {producers} producers, {consumers} consumers {:>26.0} {p50:>10.1} {p99:>10.1}", rate);
    }
    println!("\none record at a time, no linger                records/s     p50 us     p99 us");
    for durability in [Durability::Process, Durability::Synced] {
        let latencies = one_by_one(if durability == Durability::Synced { 2_000 } else { 20_000 }, durability);
        let rate = 1e6 / (latencies.iter().sum::<f64>() / latencies.len() as f64);
        let (p50, p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
        println!("  {:<38} {rate:>13.0} {p50:>10.1} {p99:>10.1}", format!("{durability:?}"));
    }
    rebalance();
}

/// The moment, in nanoseconds.
fn now(started: Instant) -> u64 {
    started.elapsed().as_nanos() as u64
}

/// In microseconds; sorted.
fn percentile(latencies: &[f64], percent: usize) -> f64 {
    latencies
        .get((latencies.len() * percent / 100).min(latencies.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

fn open(durability: Durability, partitions: u32) -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.create_topic("t", TopicConfig::new().partitions(partitions).durability(durability)).unwrap();
    (directory, store)
}

fn consumer(store: &Store, group: &str) -> Consumer {
    let config =
        ConsumerConfig::new().group(group).offset_reset(OffsetReset::Earliest).enable_auto_commit(false);
    let mut consumer = store.consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

fn full_load(records: u64, producers: u64, consumers: u64) -> (f64, Vec<f64>) {
    let (_directory, store) = open(Durability::Process, PARTITIONS);
    let (store, left, started) = (&store, &AtomicI64::new(records as i64), Instant::now());
    let latencies = thread::scope(|scope| {
        let consuming: Vec<_> =
            (0..consumers).map(|_| scope.spawn(move || consume(store, left, started))).collect();
        for producer in 0..producers {
            let share = records / producers + u64::from(producer < records % producers);
            scope.spawn(move || produce(store, share, started));
        }
        consuming.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<f64>>()
    });
    let rate = records as f64 / started.elapsed().as_secs_f64();
    let mut latencies = latencies;
    latencies.sort_by(f64::total_cmp);
    (rate, latencies)
}

fn produce(store: &Store, records: u64, started: Instant) {
    let producer = store.producer(ProducerConfig::new()).unwrap();
    let mut value = [7; VALUE_BYTES];
    for _ in 0..records {
        send(&producer, &mut value, started);
    }
    producer.flush().unwrap();
}

fn send(producer: &Producer, value: &mut [u8; VALUE_BYTES], started: Instant) {
    if let Some(head) = value.first_chunk_mut() {
        *head = now(started).to_be_bytes();
    }
    producer.send("t", &Record::new(value)).unwrap();
}

/// How long ago a record was sent, in microseconds.
fn age(value: Option<&[u8]>, started: Instant) -> f64 {
    let sent = value.and_then(|value| value.first_chunk()).map_or(0, |head| u64::from_be_bytes(*head));
    now(started).saturating_sub(sent) as f64 / 1000.0
}

fn consume(store: &Store, left: &AtomicI64, started: Instant) -> Vec<f64> {
    let mut consumer = consumer(store, "load");
    let (mut seen, mut latencies) = (0u64, Vec::new());
    while left.load(Ordering::Relaxed) > 0 {
        let records = consumer.poll(Duration::from_millis(10)).unwrap();
        left.fetch_sub(records.len() as i64, Ordering::Relaxed);
        for (_, record) in records.iter() {
            seen += 1;
            if seen % SAMPLE == 0 {
                latencies.push(age(record.value(), started));
            }
        }
    }
    latencies
}

fn one_by_one(records: usize, durability: Durability) -> Vec<f64> {
    let (_directory, store) = open(durability, 1);
    let (store, started) = (&store, Instant::now());
    let (seen, next) = std::sync::mpsc::channel::<()>();
    let mut latencies = thread::scope(|scope| {
        let consuming = scope.spawn(move || {
            let mut consumer = consumer(store, "one");
            let mut latencies = Vec::new();
            // So that it is a member before the first record.
            consumer.poll(Duration::from_millis(50)).unwrap();
            seen.send(()).unwrap();
            while latencies.len() < records {
                for record in consumer.poll(Duration::from_secs(1)).unwrap() {
                    latencies.push(age(record.value(), started));
                    seen.send(()).unwrap();
                }
            }
            latencies
        });
        let producer = store.producer(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
        let mut value = [7; VALUE_BYTES];
        for _ in 0..records {
            next.recv().unwrap();
            send(&producer, &mut value, started);
        }
        consuming.join().unwrap()
    });
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// Has all consumers poll until each has a partition. Returns how long that took.
fn settle(consumers: &mut [Consumer]) -> Duration {
    let started = Instant::now();
    loop {
        consumers.iter_mut().for_each(|consumer| drop(consumer.poll(Duration::ZERO).unwrap()));
        let generations: Vec<i32> =
            consumers.iter().map(|consumer| consumer.group_metadata().unwrap().generation).collect();
        let owned: usize = consumers.iter().map(|consumer| consumer.assignment().len()).sum();
        if owned == MEMBERS && generations.windows(2).all(|two| two.first() == two.last()) {
            return started.elapsed();
        }
    }
}

fn rebalance() {
    let (_directory, store) = open(Durability::Process, MEMBERS as u32);
    let mut consumers: Vec<Consumer> = (0..MEMBERS).map(|_| consumer(&store, "large")).collect();
    let joined = settle(&mut consumers);
    println!("\na group of {MEMBERS} members and {MEMBERS} partitions, on one thread");
    println!("  all join an empty group {:>31.1} ms", joined.as_secs_f64() * 1000.0);
    drop(consumers.pop());
    let left = settle(&mut consumers);
    println!("  one leaves {:>44.1} ms", left.as_secs_f64() * 1000.0);
}
