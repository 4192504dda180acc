//! [`PartitionStats`]: figures about a partition, cheap to read at any moment, for whatever collects them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Log, Partition, State};

/// What a partition holds and what was done with it since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PartitionStats {
    /// The first offset that can be read.
    pub log_start: u64,
    /// Offsets below it belong to no undecided transaction.
    pub last_stable_offset: u64,
    /// Offsets below it may be read.
    pub high_watermark: u64,
    /// The offset that the next record will get.
    pub log_end: u64,
    /// Offsets below it are known to be on disk.
    pub recovery_point: u64,
    /// The bytes of its log files.
    pub bytes: u64,
    /// Its segments.
    pub segments: usize,
    /// Segments that are deleted and whose files are not removed yet.
    pub retired_segments: usize,
    /// Producers that are known.
    pub producers: usize,
    /// Transactions that are open.
    pub open_transactions: usize,
    /// Batches appended.
    pub appended_batches: u64,
    /// Records appended.
    pub appended_records: u64,
    /// Bytes appended.
    pub appended_bytes: u64,
    /// Batches read.
    pub read_batches: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Syncs done.
    pub syncs: u64,
    /// How long they took, all together.
    pub sync_time: Duration,
    /// How long the longest took.
    pub sync_time_max: Duration,
    /// Segments that retention and deletion took away.
    pub expired_segments: u64,
    /// The bytes of their log files.
    pub expired_bytes: u64,
    /// Whether appends are taken now.
    pub accepts_appends: bool,
}

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counters {
    read_batches: AtomicU64,
    read_bytes: AtomicU64,
    syncs: AtomicU64,
    sync_nanos: AtomicU64,
    sync_nanos_max: AtomicU64,
    expired_segments: AtomicU64,
    expired_bytes: AtomicU64,
}

/// What the holder of the writer lock counts.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Appends {
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Appends {
    pub(super) fn count(&mut self, records: u64, bytes: u64) {
        self.batches += 1;
        self.records += records;
        self.bytes += bytes;
    }
}

impl Counters {
    pub(super) fn read(&self, batches: u64, bytes: u64) {
        self.read_batches.fetch_add(batches, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.sync_nanos_max.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(super) fn expired(&self, segments: u64, bytes: u64) {
        self.expired_segments.fetch_add(segments, Ordering::Relaxed);
        self.expired_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Partition {
    /// Figures about it at this moment. Takes the lock of appends for a moment, reads no file.
    pub fn stats(&self) -> PartitionStats {
        self.log.stats()
    }
}

impl Log {
    fn stats(&self) -> PartitionStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (producers, open_transactions, appends, accepts_appends) = {
            let writer = self.writer.lock();
            let (known, open) = (writer.producers.len(), writer.producers.open_transactions().len());
            (known, open, writer.appends, matches!(writer.state, State::Ready))
        };
        let segments = self.segments.load();
        let counters = &self.counters;
        PartitionStats {
            log_start: self.log_start.load(Ordering::Acquire),
            last_stable_offset: self.last_stable_offset(),
            high_watermark: self.high_watermark(),
            log_end: self.log_end.load(Ordering::Acquire),
            recovery_point: self.recovery_point.load(Ordering::Acquire),
            bytes: segments.iter().map(|segment| segment.size()).sum(),
            segments: segments.len(),
            retired_segments: self.retired_count(),
            producers,
            open_transactions,
            appended_batches: appends.batches,
            appended_records: appends.records,
            appended_bytes: appends.bytes,
            read_batches: get(&counters.read_batches),
            read_bytes: get(&counters.read_bytes),
            syncs: get(&counters.syncs),
            sync_time: Duration::from_nanos(get(&counters.sync_nanos)),
            sync_time_max: Duration::from_nanos(get(&counters.sync_nanos_max)),
            expired_segments: get(&counters.expired_segments),
            expired_bytes: get(&counters.expired_bytes),
            accepts_appends,
        }
    }
}
