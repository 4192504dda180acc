//! Share groups: how fast records are acquired and acknowledged, by one consumer and by four, and delivered by
//! priority. Progress is as durable as the topics: not synced here (`Durability::Process`), but for the benchmarks
//! that say so.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "benchmarks fail by panicking"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::share::{LowestKeyFirst, ShareConfig, ShareConsumer, ShareOffsetReset};
use annals::{Durability, Record, Store, TopicConfig};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const RECORDS: u64 = 50_000;

/// A store with a topic `t` of that many records of 100 bytes, with keys in no order.
fn filled(directory: &std::path::Path, partitions: u32, durability: Durability) -> Store {
    let defaults = TopicConfig::new().durability(durability);
    let store = Store::options().topic_defaults(defaults).open(directory).unwrap();
    let topic = store.create_topic("t", TopicConfig::new().partitions(partitions)).unwrap();
    let value = [b'x'; 100];
    for (number, log) in topic.partitions().unwrap().iter().enumerate() {
        let share = RECORDS / u64::from(partitions);
        for some in (0..share).collect::<Vec<_>>().chunks(500) {
            let key = |at: &u64| format!("{:08}", (at * 7_919 + number as u64) % 100_003);
            let keys: Vec<String> = some.iter().map(key).collect();
            let batch: Vec<Record<'_>> = keys.iter().map(|key| Record::new(&value).key(key)).collect();
            log.append_batch(&batch).unwrap();
        }
    }
    store
}

/// Each call makes a group that begins at the start.
fn config() -> ShareConfig {
    static GROUPS: AtomicU64 = AtomicU64::new(0);
    let number = GROUPS.fetch_add(1, Ordering::Relaxed);
    ShareConfig::new().group(format!("g-{number}")).offset_reset(ShareOffsetReset::Earliest)
}

fn consumer(store: &Store, config: ShareConfig) -> ShareConsumer {
    let mut consumer = store.share_consumer(config).unwrap();
    consumer.subscribe(["t"]).unwrap();
    consumer
}

fn drain(mut consumer: ShareConsumer) -> u64 {
    let mut count = 0;
    loop {
        let records = consumer.poll(Duration::ZERO).unwrap();
        if records.is_empty() {
            return count;
        }
        count += records.len() as u64;
    }
}

/// All records, by so many consumers in threads of their own.
fn shared(store: &Store, consumers: usize, config: &ShareConfig) -> u64 {
    let members: Vec<_> = (0..consumers).map(|_| consumer(store, config.clone())).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = members.into_iter().map(|member| scope.spawn(|| drain(member))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

fn acquire_and_acknowledge(c: &mut Criterion) {
    let mut group = c.benchmark_group("share");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10).measurement_time(Duration::from_secs(4));
    for partitions in [1, 4] {
        let directory = tempfile::tempdir().unwrap();
        let store = filled(directory.path(), partitions, Durability::Process);
        for consumers in [1, 4] {
            group.bench_function(
                format!("{partitions} partitions, {consumers} consumers, polls of 500"),
                |b| {
                    b.iter(|| assert_eq!(shared(&store, consumers, &config()), RECORDS));
                },
            );
        }
        group.bench_function(format!("{partitions} partitions, 4 consumers, polls of 10"), |b| {
            b.iter(|| assert_eq!(shared(&store, 4, &config().max_poll_records(10)), RECORDS));
        });
    }
    group.finish();
}

fn synced(c: &mut Criterion) {
    let mut group = c.benchmark_group("share, synced");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    let directory = tempfile::tempdir().unwrap();
    let store = filled(directory.path(), 1, Durability::Synced);
    // The commits are what takes time: so many in all, whoever makes them.
    let commits = 400;
    for consumers in [1, 4] {
        group.throughput(Throughput::Elements(commits));
        group.bench_function(format!("commits, {consumers} consumers"), |b| {
            b.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    let config = config().max_poll_records(10);
                    let members: Vec<_> = (0..consumers).map(|_| consumer(&store, config.clone())).collect();
                    let began = Instant::now();
                    std::thread::scope(|scope| {
                        for mut member in members {
                            scope.spawn(move || {
                                for _ in 0..commits / consumers {
                                    member.poll(Duration::ZERO).unwrap();
                                    member.commit().unwrap();
                                }
                            });
                        }
                    });
                    total += began.elapsed();
                }
                total
            });
        });
    }
    group.finish();
}

fn by_priority(c: &mut Criterion) {
    let mut group = c.benchmark_group("priority");
    let delivered = 10_000;
    group
        .throughput(Throughput::Elements(delivered))
        .sample_size(10)
        .measurement_time(Duration::from_secs(4));
    for partitions in [1, 4] {
        let directory = tempfile::tempdir().unwrap();
        let store = filled(directory.path(), partitions, Durability::Process);
        for records in [1, 20] {
            let settings = || config().priority(LowestKeyFirst).max_poll_records(records);
            group.bench_function(format!("{partitions} partitions, polls of {records}"), |b| {
                b.iter_batched_ref(
                    || consumer(&store, settings()),
                    |consumer| {
                        let mut left = delivered;
                        while left > 0 {
                            left -= consumer.poll(Duration::ZERO).unwrap().len() as u64;
                        }
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, acquire_and_acknowledge, synced, by_priority);
criterion_main!(benches);
