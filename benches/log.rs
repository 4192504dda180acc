//! The hot paths of one partition, each beside what the machine does with the same bytes in the same run.
//!
//!   cargo bench [-- FILTER]
//!
//! Groups are `work/size of the value`; in each, `annals` and its `raw` baselines. Times on a shared machine mean
//! little; the ratios within a group are what to read. Files live in temporary directories below the current one,
//! so that the disk measured is the one the data would be on, and not memory.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use annals::format::{BatchBuilder, BatchOptions, crc32c};
use annals::{Durability, FetchOptions, Partition, Record, Store, TopicConfig};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const VALUE_SIZES: [(usize, &str); 2] = [(100, "100B"), (1024, "1KiB")];
const BATCH_RECORDS: usize = 100;
/// What is written before files are replaced by new ones: appends meet fresh pages, and disk and memory stay small.
const ROUND_BYTES: u64 = 64 << 20;
/// The bytes of values in a log that is read.
const LOG_BYTES: usize = 32 << 20;
/// One system call of those who do few.
const PIECE_BYTES: usize = 64 << 10;
/// What is copied into, over and over: larger than the caches close to a core.
const MEMORY_BYTES: usize = 16 << 20;
const THREADS: u64 = 16;

criterion_group! {
    name = log;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200));
    targets = append_one, append_100, append_synced, scan, scan_single, point_read, reopen
}
criterion_main!(log);

fn append_one(criterion: &mut Criterion) {
    append(criterion, "append_one", 1);
}

fn append_100(criterion: &mut Criterion) {
    append(criterion, "append_100", BATCH_RECORDS);
}

/// Appends that survive the end of the process at once, and of the machine later or when it likes.
fn append(criterion: &mut Criterion, work: &str, count: usize) {
    for (size, name) in VALUE_SIZES {
        let value = vec![b'v'; size];
        let records = vec![Record::new(&value); count];
        let encoded = encode(&records);
        let mut group = criterion.benchmark_group(format!("{work}/{name}"));
        group.throughput(Throughput::Elements(count as u64));
        let bytes = encoded.len() as u64;
        let interval = Durability::Interval { time: Duration::from_millis(100), bytes: 4 << 20 };
        for (level, name) in [(Durability::Process, "annals"), (interval, "annals interval")] {
            fresh(
                &mut group,
                name,
                bytes,
                || Log::new(level),
                |log, _| {
                    black_box(match &records[..] {
                        [record] => log.partition.append(record).unwrap(),
                        records => log.partition.append_batch(records).unwrap().base_offset,
                    });
                },
            );
        }
        fresh(&mut group, "raw write", bytes, new_file, |file, done| {
            file.1.write_all_at(&encoded, done * bytes).unwrap();
        });
        let piece = vec![1; PIECE_BYTES];
        fresh(&mut group, "raw write of 64 KiB", bytes, new_file, |file, done| {
            // The piece that is due once so many small ones are complete.
            let (before, after) =
                (done * bytes / PIECE_BYTES as u64, (done + 1) * bytes / PIECE_BYTES as u64);
            for number in before..after {
                file.1.write_all_at(&piece, number * PIECE_BYTES as u64).unwrap();
            }
        });
        let memory = || vec![0_u8; MEMORY_BYTES];
        fresh(&mut group, "raw memcpy", bytes, memory, |memory, done| {
            let at = (done * bytes) as usize % (MEMORY_BYTES - encoded.len());
            black_box(&mut memory[at..at + encoded.len()]).copy_from_slice(black_box(&encoded));
        });
    }
}

/// Appends that are on disk when they return: alone, and many threads that share syncs.
fn append_synced(criterion: &mut Criterion) {
    for (size, name) in VALUE_SIZES {
        let value = vec![b'v'; size];
        let record = Record::new(&value);
        let encoded = encode(std::slice::from_ref(&record));
        let bytes = encoded.len() as u64;
        let mut group = criterion.benchmark_group(format!("append_synced/{name}"));
        group.throughput(Throughput::Elements(1));
        fresh(
            &mut group,
            "annals",
            bytes,
            || Log::new(Durability::Synced),
            |log, _| {
                black_box(log.partition.append(&record).unwrap());
            },
        );
        fresh(&mut group, "raw write and fdatasync", bytes, new_file, |file, done| {
            file.1.write_all_at(&encoded, done * bytes).unwrap();
            file.1.sync_data().unwrap();
        });
        group.throughput(Throughput::Elements(THREADS));
        group.bench_function("annals 16 threads", |bencher| {
            bencher.iter_custom(|rounds| {
                let log = Log::new(Durability::Synced);
                in_threads(|_| {
                    for _ in 0..rounds {
                        black_box(log.partition.append(&record).unwrap());
                    }
                })
            });
        });
        group.bench_function("raw write and fdatasync 16 threads", |bencher| {
            bencher.iter_custom(|rounds| {
                let (_directory, file) = new_file();
                in_threads(|thread| {
                    for round in 0..rounds {
                        file.write_all_at(&encoded, (round * THREADS + thread) * bytes).unwrap();
                        file.sync_data().unwrap();
                    }
                })
            });
        });
    }
}

/// Every value byte of a log in batches of 100.
fn scan(criterion: &mut Criterion) {
    scan_batches_of(criterion, "scan", BATCH_RECORDS);
}

/// Every value byte of a log in which each record is a batch of its own.
fn scan_single(criterion: &mut Criterion) {
    scan_batches_of(criterion, "scan_single", 1);
}

fn scan_batches_of(criterion: &mut Criterion, work: &str, batch: usize) {
    for (size, name) in VALUE_SIZES {
        let log = Log::filled(size, batch);
        let partition = &log.partition;
        let mut group = criterion.benchmark_group(format!("{work}/{name}"));
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(partition.log_end()));
        group.bench_function("annals read_from", |bencher| {
            bencher.iter(|| {
                let records = partition.read_from(0).unwrap();
                records.map(|record| touch(record.unwrap().value().unwrap())).fold(0, u64::wrapping_add)
            });
        });
        group.bench_function("annals fetch", |bencher| {
            bencher.iter(|| {
                let (mut sum, mut offset) = (0_u64, 0);
                while offset < partition.log_end() {
                    let fetched = partition.fetch(offset, FetchOptions::new()).unwrap();
                    for batch in &fetched.batches {
                        for record in &batch.records(usize::MAX).unwrap() {
                            sum = sum.wrapping_add(touch(record.value().unwrap()));
                        }
                    }
                    offset = fetched.next_offset;
                }
                sum
            });
        });
        let file = log.file();
        let mut buffer = vec![0; PIECE_BYTES];
        group.bench_function("raw read of 64 KiB and CRC-32C", |bencher| {
            bencher.iter(|| read_all(&file, &mut buffer, |piece| u64::from(crc32c(piece)) + touch(piece)));
        });
    }
}

/// One record at a random offset, position unknown, of a log in batches of 100.
fn point_read(criterion: &mut Criterion) {
    for (size, name) in VALUE_SIZES {
        let log = Log::filled(size, BATCH_RECORDS);
        let single = Log::filled(size, 1);
        let mut group = criterion.benchmark_group(format!("point_read/{name}"));
        group.throughput(Throughput::Elements(1));
        for (name, log) in [("annals", &single), ("annals in batches of 100", &log)] {
            let mut random = Random(1);
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let offset = random.below(log.partition.log_end());
                    let record = log.partition.read_from(offset).unwrap().next().unwrap().unwrap();
                    assert_eq!(record.offset(), offset);
                    touch(record.value().unwrap())
                });
            });
        }
        // The position known: what is left of the work is one system call and the checksum.
        for (name, log, batch) in [("raw pread and CRC-32C", &single, 1), ("raw of 100", &log, BATCH_RECORDS)]
        {
            let (mut random, file) = (Random(1), log.file());
            let records = log.partition.log_end() / batch as u64;
            let length = file.metadata().unwrap().len() / records;
            let mut buffer = vec![0; length as usize];
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    file.read_exact_at(&mut buffer, random.below(records) * length).unwrap();
                    crc32c(&buffer)
                });
            });
        }
    }
}

/// Opening a store of one partition of 32 MiB until it can be appended to.
fn reopen(criterion: &mut Criterion) {
    for (size, name) in VALUE_SIZES {
        let mut group = criterion.benchmark_group(format!("reopen/{name}"));
        group.sampling_mode(SamplingMode::Flat);
        let log = Log::filled(size, BATCH_RECORDS);
        group.throughput(Throughput::Elements(log.partition.log_end()));
        let (directory, file) = (log.copy(), log.file());
        Store::open(directory.path()).unwrap().close().unwrap();
        group.bench_function("annals clean", |bencher| {
            bencher.iter_custom(|rounds| {
                timed(rounds, || {}, |()| open(directory.path()), |(store, _)| store.close().unwrap())
            });
        });
        // Nothing was synced or closed: what `kill -9` leaves behind.
        group.bench_function("annals after kill", |bencher| {
            bencher
                .iter_custom(|rounds| timed(rounds, || log.copy(), |copy| (open(copy.path()), copy), |_| {}));
        });
        let mut buffer = vec![0; PIECE_BYTES];
        group.bench_function("raw read of 64 KiB and CRC-32C", |bencher| {
            bencher.iter(|| read_all(&file, &mut buffer, |piece| crc32c(piece).into()));
        });
        // After a kill nobody knows what the disk has, so recovery writes it again, and a copy before that.
        let bytes = std::fs::read(log.path()).unwrap();
        group.bench_function("raw write and fdatasync, twice", |bencher| {
            bencher.iter_custom(|rounds| {
                timed(
                    rounds,
                    || [new_file(), new_file()],
                    |files| {
                        for (_, file) in &files {
                            file.write_all_at(&bytes, 0).unwrap();
                            file.sync_data().unwrap();
                        }
                        files
                    },
                    drop,
                )
            });
        });
    }
}

/// A store with one topic of one partition.
struct Log {
    partition: Partition,
    store: Store,
    directory: TempDir,
}

impl Log {
    fn new(durability: Durability) -> Log {
        let directory = new_directory();
        let store = Store::open(directory.path()).unwrap();
        let topic = store.create_topic("bench", TopicConfig::new().durability(durability)).unwrap();
        Log { partition: topic.partition(0).unwrap(), store, directory }
    }

    fn filled(value_size: usize, batch: usize) -> Log {
        let log = Log::new(Durability::Process);
        let value = vec![b'v'; value_size];
        let records = vec![Record::new(&value); batch];
        for _ in 0..LOG_BYTES / (value_size * batch) {
            log.partition.append_batch(&records).unwrap();
        }
        log
    }

    fn path(&self) -> std::path::PathBuf {
        self.partition.path().join("00000000000000000000.log")
    }

    fn file(&self) -> File {
        File::open(self.path()).unwrap()
    }

    /// The directory as it is on disk at this moment.
    fn copy(&self) -> TempDir {
        let copy = new_directory();
        copy_files(self.directory.path(), copy.path());
        copy
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // So that closing the store does not sync what nobody wants any more.
        self.store.delete_topic("bench").unwrap();
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else if entry.file_name() != ".lock" {
            // To close a descriptor of the lock file would release the lock.
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn open(directory: &Path) -> (Store, Partition) {
    let store = Store::open(directory).unwrap();
    let partition = store.topic("bench").unwrap().partition(0).unwrap();
    (store, partition)
}

fn new_directory() -> TempDir {
    tempfile::Builder::new().prefix("annals-bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn new_file() -> (TempDir, File) {
    let directory = new_directory();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(directory.path().join("raw")).unwrap();
    (directory, file)
}

fn encode(records: &[Record<'_>]) -> Vec<u8> {
    let now = 1_700_000_000_000;
    let mut builder = BatchBuilder::new(BatchOptions { default_timestamp: now, ..BatchOptions::default() });
    for record in records {
        builder.push(record).unwrap();
    }
    builder.finish().unwrap()
}

/// Measures `work`, which gets the number of calls before it on the same state, on a new state whenever
/// [`ROUND_BYTES`] were written. Making and dropping the state is not measured.
fn fresh<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    bytes: u64,
    state: impl Fn() -> S,
    mut work: impl FnMut(&mut S, u64),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|mut left| {
            let mut total = Duration::ZERO;
            while left > 0 {
                let round = left.min(ROUND_BYTES / bytes);
                let mut state = state();
                let start = Instant::now();
                for done in 0..round {
                    work(&mut state, done);
                }
                total += start.elapsed();
                left -= round;
            }
            total
        });
    });
}

/// The time that `work` takes, without what comes before and after it.
fn timed<S, T>(rounds: u64, before: impl Fn() -> S, work: impl Fn(S) -> T, after: impl Fn(T)) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let state = before();
        let start = Instant::now();
        let done = work(state);
        total += start.elapsed();
        after(done);
    }
    total
}

/// The time until the last of the threads is done.
fn in_threads(work: impl Fn(u64) + Sync) -> Duration {
    let ready = Barrier::new(THREADS as usize + 1);
    let start = std::thread::scope(|scope| {
        for thread in 0..THREADS {
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

fn read_all(file: &File, buffer: &mut [u8], mut look: impl FnMut(&[u8]) -> u64) -> u64 {
    let (mut sum, mut position) = (0_u64, 0);
    loop {
        let read = file.read_at(buffer, position).unwrap();
        if read == 0 {
            return sum;
        }
        sum = sum.wrapping_add(look(&buffer[..read]));
        position += read as u64;
    }
}

/// Looks at every byte, as fast as that can be done.
fn touch(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let rest = words.remainder().iter().fold(0, |sum, &byte| sum ^ u64::from(byte));
    words.fold(rest, |sum, word| sum ^ u64::from_ne_bytes(word.try_into().unwrap()))
}

/// Numbers that look random, the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
