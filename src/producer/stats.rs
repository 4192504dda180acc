//! Figures about a producer: [`ProducerStats`].

use std::sync::atomic::{AtomicU64, Ordering};

/// Figures about a producer since it was made. Taken one after the other, not at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerStats {
    /// Records taken by a send.
    pub records_sent: u64,
    /// Records delivered.
    pub records_delivered: u64,
    /// Records that a send had taken and that were not delivered.
    pub records_failed: u64,
    /// Batches written. One that was recognised as written before counts as well.
    pub batches: u64,
    /// Their bytes, after compression.
    pub bytes: u64,
    /// Attempts to write a batch that failed.
    pub attempts_failed: u64,
    /// Attempts to write a batch that came after another.
    pub retries: u64,
    /// Batches that were split because they were too large for their topic.
    pub splits: u64,
    /// Callbacks and interceptors that panicked.
    pub panics: u64,
    /// Bytes of buffer memory that are free.
    pub buffer_available: usize,
    /// Bytes of buffer memory in all.
    pub buffer_total: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) attempts_failed: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) splits: AtomicU64,
    pub(super) panics: AtomicU64,
}

impl Counters {
    pub(super) fn snapshot(&self, buffer_available: usize, buffer_total: usize) -> ProducerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProducerStats {
            records_sent: read(&self.sent),
            records_delivered: read(&self.delivered),
            records_failed: read(&self.failed),
            batches: read(&self.batches),
            bytes: read(&self.bytes),
            attempts_failed: read(&self.attempts_failed),
            retries: read(&self.retries),
            splits: read(&self.splits),
            panics: read(&self.panics),
            buffer_available,
            buffer_total,
        }
    }
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
