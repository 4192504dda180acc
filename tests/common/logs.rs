//! Stores and partitions on a simulated disk, under a clock that only tests move.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::path::PathBuf;
use std::sync::Arc;

use annals::clock::ManualClock;
use annals::fs::{Crash, SimulatedDisk};
use annals::{Partition, Record, Result, Store, StoreOptions, StoredRecord, TopicConfig};

/// Where the clock of a test starts, in milliseconds since the epoch.
pub const NOW: i64 = 1_700_000_000_000;

/// A disk, a clock, and how stores are opened with them.
#[derive(Debug, Clone)]
pub struct Machine {
    pub disk: SimulatedDisk,
    pub clock: Arc<ManualClock>,
}

impl Machine {
    pub fn new() -> Self {
        Machine::of(SimulatedDisk::new(1))
    }

    pub fn of(disk: SimulatedDisk) -> Self {
        Machine { disk, clock: Arc::new(ManualClock::new(NOW)) }
    }

    /// One thread, so that the calls to the disk come in the same order every time.
    pub fn options(&self) -> StoreOptions {
        Store::options().recovery_threads(1).clock(Arc::clone(&self.clock) as _)
    }

    pub fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Store> {
        self.options().open_in(Arc::new(self.disk.clone()))
    }

    /// A store with one topic `t` of one partition, and that partition.
    pub fn start(&self, config: TopicConfig) -> (Store, Partition) {
        let store = self.open();
        let log = store.create_topic("t", config).unwrap().partition(0).unwrap();
        (store, log)
    }

    /// The store opened again, and the partition 0 of topic `t`.
    pub fn restart(&self) -> (Store, Partition) {
        let store = self.open();
        let log = store.topic("t").unwrap().partition(0).unwrap();
        (store, log)
    }

    /// The machine as it would be had the process been killed now.
    pub fn killed(&self) -> Machine {
        Machine { disk: self.disk.crash(Crash::ProcessKill), clock: Arc::clone(&self.clock) }
    }

    /// The machine as it would be had the power gone now, and with it everything not synced.
    pub fn cut_off(&self) -> Machine {
        Machine { disk: self.disk.crash(Crash::PowerCut { seed: 0 }), clock: Arc::clone(&self.clock) }
    }
}

/// The name of a file of partition 0 of topic `t`.
pub fn file(base: u64, extension: &str) -> PathBuf {
    PathBuf::from(format!("t-0/{base:020}.{extension}"))
}

/// All records from an offset on; none may fail.
pub fn records(log: &Partition, from: u64) -> Vec<StoredRecord> {
    log.read_from(from).unwrap().collect::<Result<_>>().unwrap()
}

/// Offsets and values from an offset on, values as text.
pub fn values(log: &Partition, from: u64) -> Vec<(u64, String)> {
    let text = |record: &StoredRecord| String::from_utf8(record.value().unwrap().to_vec()).unwrap();
    records(log, from).iter().map(|record| (record.offset(), text(record))).collect()
}

/// Appends records with these values as one batch; returns the offset of the first.
pub fn append(log: &Partition, values: &[&str]) -> u64 {
    let records: Vec<Record<'_>> = values.iter().map(|value| Record::new(*value)).collect();
    log.append_batch(&records).unwrap().base_offset
}

/// What is appended at an offset, where the value does not matter: all are of one size.
pub fn value(offset: u64) -> String {
    format!("the value at offset {offset:06}")
}

/// Offsets and values as they are read.
pub fn expected(offsets: impl Iterator<Item = u64>) -> Vec<(u64, String)> {
    offsets.map(|offset| (offset, value(offset))).collect()
}
