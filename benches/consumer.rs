//! What a consumer costs: polling beside reading the partition itself, one and four of them, and committing beside the
//! sync that it cannot do without.
//!
//!   cargo bench --bench consumer [-- FILTER]
//!
//! Times on a shared machine mean little; the ratios within a group are what to read. Files live in temporary
//! directories below the current one, so that the disk measured is the one the data would be on, and not memory.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use annals::consumer::{Consumer, ConsumerConfig, DeliveryGuarantee, OffsetReset};
use annals::{Durability, Record, Store, Topic, TopicConfig, TopicPartition};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const VALUE_BYTES: usize = 100;
const BATCH_RECORDS: usize = 100;
const PARTITIONS: u32 = 4;
/// Of each partition.
const RECORDS: u64 = 100_000;

criterion_group! {
    name = consumer;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_500));
    targets = poll, four, commit
}
criterion_main!(consumer);

/// Every value byte of four partitions, one thread.
fn poll(criterion: &mut Criterion) {
    let log = Log::filled();
    let mut group = criterion.benchmark_group("poll/100B");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(RECORDS * u64::from(PARTITIONS)));
    group.bench_function("annals read_from", |bencher| {
        bencher.iter(|| {
            let partitions = log.topic.partitions().unwrap();
            let read = |partition: &annals::Partition| {
                let records = partition.read_from(0).unwrap();
                records.map(|record| touch(record.unwrap().value().unwrap())).fold(0, u64::wrapping_add)
            };
            partitions.iter().map(read).fold(0, u64::wrapping_add)
        });
    });
    for (name, records) in [("annals poll", 500), ("annals poll of 10", 10), ("annals poll of 5000", 5_000)] {
        let mut consumer = log.store.consumer(ConsumerConfig::new().max_poll_records(records)).unwrap();
        consumer.assign(log.ids(0..PARTITIONS)).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                consumer.seek_to_beginning(&consumer.assignment()).unwrap();
                read_all(&mut consumer)
            });
        });
    }
    let config = ConsumerConfig::new().group("bench").offset_reset(OffsetReset::Earliest);
    let mut member = log.store.consumer(config).unwrap();
    member.subscribe(["bench"]).unwrap();
    group.bench_function("annals poll in a group", |bencher| {
        bencher.iter(|| {
            member.seek_to_beginning(&member.assignment()).unwrap();
            read_all(&mut member)
        });
    });
}

/// The same by four threads, each with a partition.
fn four(criterion: &mut Criterion) {
    let log = Log::filled();
    let mut group = criterion.benchmark_group("poll_by_4/100B");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(RECORDS * u64::from(PARTITIONS)));
    group.bench_function("annals read_from", |bencher| {
        bencher.iter_custom(|rounds| {
            in_threads(|thread| {
                let partition = log.topic.partition(thread).unwrap();
                for _ in 0..rounds {
                    let records = partition.read_from(0).unwrap();
                    std::hint::black_box(
                        records
                            .map(|record| touch(record.unwrap().value().unwrap()))
                            .fold(0, u64::wrapping_add),
                    );
                }
            })
        });
    });
    group.bench_function("annals poll", |bencher| {
        bencher.iter_custom(|rounds| {
            in_threads(|thread| {
                let mut consumer = log.store.consumer(ConsumerConfig::new()).unwrap();
                consumer.assign(log.ids(thread..thread + 1)).unwrap();
                for _ in 0..rounds {
                    consumer.seek_to_beginning(&consumer.assignment()).unwrap();
                    std::hint::black_box(read_all(&mut consumer));
                }
            })
        });
    });
}

/// A position made durable.
fn commit(criterion: &mut Criterion) {
    let log = Log::filled();
    let mut group = criterion.benchmark_group("commit");
    group.throughput(Throughput::Elements(1));
    let config = ConsumerConfig::new().group("bench").offset_reset(OffsetReset::Earliest);
    let mut consumer =
        log.store.consumer(config.clone().enable_auto_commit(false).max_poll_records(1)).unwrap();
    consumer.subscribe(["bench"]).unwrap();
    consumer.poll(Duration::ZERO).unwrap();
    group.bench_function("annals of 4 partitions", |bencher| bencher.iter(|| consumer.commit().unwrap()));
    drop(consumer);
    for (name, guarantee) in [
        ("annals poll of 1 at most once", DeliveryGuarantee::AtMostOnce),
        ("annals poll of 1 at least once", DeliveryGuarantee::AtLeastOnce),
    ] {
        let mut consumer =
            log.store.consumer(config.clone().delivery(guarantee).max_poll_records(1)).unwrap();
        consumer.subscribe(["bench"]).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(consumer.poll(Duration::ZERO).unwrap().len(), 1));
        });
    }
    let path = log.store.path().join("raw");
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    let (piece, mut position) = (vec![1; 300], 0);
    group.bench_function("raw write and fdatasync of 300 bytes", |bencher| {
        bencher.iter(|| {
            file.write_all_at(&piece, position).unwrap();
            file.sync_data().unwrap();
            position += 300;
        });
    });
}

/// A store with a topic of four partitions that are full.
struct Log {
    topic: Topic,
    store: Store,
    _directory: TempDir,
}

impl Log {
    fn filled() -> Log {
        let directory = tempfile::tempdir_in(".").unwrap();
        let store = Store::open(directory.path()).unwrap();
        let config = TopicConfig::new().partitions(PARTITIONS).durability(Durability::Process);
        let topic = store.create_topic("bench", config).unwrap();
        let value = vec![b'v'; VALUE_BYTES];
        let records = vec![Record::new(&value); BATCH_RECORDS];
        for partition in topic.partitions().unwrap() {
            for _ in 0..RECORDS / BATCH_RECORDS as u64 {
                partition.append_batch(&records).unwrap();
            }
        }
        Log { topic, store, _directory: directory }
    }

    fn ids(&self, numbers: std::ops::Range<u32>) -> Vec<TopicPartition> {
        numbers.map(|number| self.topic.partition(number).unwrap().id().clone()).collect()
    }
}

/// Looks at every byte of everything that is there.
fn read_all(consumer: &mut Consumer) -> u64 {
    let mut sum = 0_u64;
    loop {
        let records = consumer.poll(Duration::ZERO).unwrap();
        if records.is_empty() {
            return sum;
        }
        for record in records {
            sum = sum.wrapping_add(touch(record.value().unwrap()));
        }
    }
}

/// Looks at every byte, as fast as that can be done.
fn touch(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let rest = words.remainder().iter().fold(0, |sum, &byte| sum ^ u64::from(byte));
    words.fold(rest, |sum, word| sum ^ u64::from_ne_bytes(word.try_into().unwrap()))
}

/// The time until the last of the threads is done.
fn in_threads(work: impl Fn(u32) + Sync) -> Duration {
    let ready = Barrier::new(PARTITIONS as usize + 1);
    let start = std::thread::scope(|scope| {
        for thread in 0..PARTITIONS {
            let (ready, work) = (&ready, &work);
            scope.spawn(move || {
                ready.wait();
                work(thread);
            });
        }
        ready.wait();
        Instant::now()
    });
    start.elapsed()
}
