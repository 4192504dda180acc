//! Compaction of a million records over a hundred thousand keys, 100 bytes each, with 16 MiB for the map: records a
//! second, peak memory, and how long an append waits at most meanwhile, beside appends with nothing going on.
//!
//! `cargo bench --bench compaction -- [RECORDS [KEYS]]`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark, not a library"
)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use annals::{Durability, Partition, Record, Store, TopicConfig};

const VALUE_BYTES: usize = 100;
const MAP_BYTES: usize = 16 << 20;
const BATCH: usize = 100;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let records = numbers.first().copied().unwrap_or(1_000_000);
    let keys = numbers.get(1).copied().unwrap_or(100_000);
    let directory = tempfile::tempdir().unwrap();
    let store = Store::options().compaction_memory(MAP_BYTES).open(directory.path()).unwrap();
    let config = TopicConfig::new()
        .durability(Durability::Process)
        .segment_bytes(16 << 20)
        .set("cleanup.policy", "compact")
        .unwrap();
    let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
    let expected = fill(&log, records, keys);
    log.roll().unwrap();
    log.flush().unwrap();
    let quiet = longest_append(&log, &AtomicBool::new(false), Duration::from_secs(2));
    let memory_before = peak_memory();
    let stop = AtomicBool::new(false);
    let (report, busy) = std::thread::scope(|scope| {
        let appender = scope.spawn(|| longest_append(&log, &stop, Duration::from_secs(600)));
        let report = log.compact().unwrap().unwrap();
        stop.store(true, Ordering::Release);
        (report, appender.join().unwrap())
    });
    let memory_after = peak_memory();
    let rate = report.records_read as f64 / report.took.as_secs_f64();
    println!("{report:?}");
    println!("records a second: {rate:.0}");
    println!("bytes: {} before, {} after", report.bytes_before, report.bytes_after);
    println!("peak memory: {memory_before} KiB before, {memory_after} KiB after");
    for (what, (count, longest, p999)) in [("nothing going on", quiet), ("compaction", busy)] {
        println!("appends during {what}: {count}, longest {longest:?}, 99.9 % within {p999:?}");
    }
    check(&log, expected);
}

/// Appends records of keys in an order that looks random. Returns the last value of each key.
fn fill(log: &Partition, records: u64, keys: u64) -> HashMap<u64, u64> {
    let mut last = HashMap::new();
    let mut number = 0u64;
    while number < records {
        let batch: Vec<(Vec<u8>, Vec<u8>)> = (number..records.min(number + BATCH as u64))
            .map(|number| {
                let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
                last.insert(key, number);
                let mut value = number.to_be_bytes().to_vec();
                value.resize(VALUE_BYTES, key as u8);
                (key.to_be_bytes().to_vec(), value)
            })
            .collect();
        let records: Vec<Record<'_>> = batch.iter().map(|(key, value)| Record::new(value).key(key)).collect();
        number += records.len() as u64;
        log.append_batch(&records).unwrap();
    }
    last
}

/// How many appends there were until it was stopped, the longest, and how long all but one in a thousand took.
fn longest_append(log: &Partition, stop: &AtomicBool, most: Duration) -> (usize, Duration, Duration) {
    let value = [7; VALUE_BYTES];
    let began = Instant::now();
    let mut took = Vec::new();
    while !stop.load(Ordering::Acquire) && began.elapsed() < most {
        let start = Instant::now();
        log.append(&Record::new(&value).key(b"appended meanwhile")).unwrap();
        took.push(start.elapsed());
        std::thread::sleep(Duration::from_micros(20));
    }
    took.sort_unstable();
    (took.len(), took[took.len() - 1], took[took.len() * 999 / 1000])
}

/// The largest resident size that the process ever had, in KiB; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The log must hold the last value of every key, and nothing twice.
fn check(log: &Partition, mut expected: HashMap<u64, u64>) {
    let keys = expected.len();
    let mut found = 0;
    for record in log.read_from(log.log_start()).unwrap() {
        let record = record.unwrap();
        let Some(key) = record.key().and_then(|key| key.try_into().ok()) else { continue };
        let value = u64::from_be_bytes(record.value().unwrap()[..8].try_into().unwrap());
        assert_eq!(expected.remove(&u64::from_be_bytes(key)), Some(value), "a superseded value is left");
        found += 1;
    }
    assert!(expected.is_empty() && found == keys, "keys are missing");
    println!("checked: {found} keys, each with its last value, none twice");
}
