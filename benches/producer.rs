//! A producer, from a send to the delivery, for logs that survive the end of the process (`Durability::Process`).
//!
//!   cargo bench --bench producer [-- SECONDS]
//!
//! Plain, not by criterion: the work goes on in two threads and more. Each line is one run of so many seconds (by
//! default 1). Rates are of records delivered; `append` is the same without a producer, a record at a time. Latencies
//! are of one record at a time from the send to the end of the wait for it.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use annals::{Durability, ProducerConfig, Record, Store, TopicConfig};
use tempfile::TempDir;

const VALUE: [u8; 100] = [b'v'; 100];

fn main() {
    let seconds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1.0);
    let time = Duration::from_secs_f64(seconds);
    for (threads, partitions) in [(1, 1), (1, 4), (4, 1), (4, 4)] {
        rate(threads, partitions, time);
    }
    append(time);
    for durability in [Durability::Process, Durability::Synced] {
        latency(durability, time);
    }
    shared_syncs(time);
}

fn store(partitions: u32, durability: Durability) -> (TempDir, Store) {
    // Below the current directory, so that the disk measured is the one the data would be on.
    let directory = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.create_topic("t", TopicConfig::new().partitions(partitions).durability(durability)).unwrap();
    (directory, store)
}

fn rate(threads: u32, partitions: u32, time: Duration) {
    let (_directory, store) = store(partitions, Durability::Process);
    let producer = store.producer(ProducerConfig::new()).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let record = Record::new(&VALUE);
                while began.elapsed() < time {
                    for _ in 0..1000 {
                        producer.send("t", &record).unwrap();
                    }
                }
            });
        }
    });
    producer.flush().unwrap();
    let stats = producer.stats();
    let rate = stats.records_delivered as f64 / began.elapsed().as_secs_f64();
    println!(
        "{threads} threads, {partitions} partitions: {rate:>12.0} records/s, {:.1} MB/s, {} records in a batch",
        rate * VALUE.len() as f64 / 1e6,
        stats.records_delivered / stats.batches,
    );
}

fn append(time: Duration) {
    let (_directory, store) = store(1, Durability::Process);
    let log = store.topic("t").unwrap().partition(0).unwrap();
    let record = Record::new(&VALUE);
    let began = Instant::now();
    let mut records = 0u64;
    while began.elapsed() < time {
        for _ in 0..1000 {
            log.append(&record).unwrap();
        }
        records += 1000;
    }
    println!("append, 1 thread:         {:>12.0} records/s", records as f64 / began.elapsed().as_secs_f64());
}

fn latency(durability: Durability, time: Duration) {
    let (_directory, store) = store(1, durability);
    let producer = store.producer(ProducerConfig::new().linger(Duration::ZERO)).unwrap();
    let log = store.topic("t").unwrap().partition(0).unwrap();
    let record = Record::new(&VALUE);
    let sent = measure(time, || {
        producer.send("t", &record).unwrap().wait().unwrap();
    });
    let appended = measure(time, || {
        log.append(&record).unwrap();
    });
    println!("latency, {durability}: send to delivery {sent}; append alone {appended}");
}

fn measure(time: Duration, work: impl Fn()) -> String {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let start = Instant::now();
        work();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    format!("p50 {:.1?}, p99 {:.1?}", at(0.5), at(0.99))
}

/// One record for each of many partitions, all on disk: written together, and one after the other.
fn shared_syncs(time: Duration) {
    const PARTITIONS: u32 = 16;
    let (_directory, store) = store(PARTITIONS, Durability::Synced);
    let producer = store.producer(ProducerConfig::new()).unwrap();
    let topic = store.topic("t").unwrap();
    let record = Record::new(&VALUE);
    let together = measure(time, || {
        for number in 0..PARTITIONS {
            let options = annals::SendOptions::new().partition(number);
            producer.send_with("t", &record, options).unwrap();
        }
        producer.flush().unwrap();
    });
    let in_turn = measure(time, || {
        for partition in topic.partitions().unwrap() {
            partition.append(&record).unwrap();
        }
    });
    println!("synced, {PARTITIONS} partitions: producer {together}; append in turn {in_turn}");
}
