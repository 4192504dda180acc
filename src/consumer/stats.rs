//! Figures about a consumer: [`ConsumerStats`].

use super::Consumer;

/// What a consumer has done since it was made, and how far behind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Polls, those that returned nothing included.
    pub polls: u64,
    /// Records handed out.
    pub records: u64,
    /// Their bytes, as they lie in their batches, decompressed.
    pub bytes: u64,
    /// Commits that were made.
    pub commits: u64,
    /// Commits that failed.
    pub commit_failures: u64,
    /// How often it was assigned partitions by its group.
    pub rebalances: u64,
    /// Interceptors, listeners and callbacks that panicked.
    pub panics: u64,
    /// The partitions that it has now.
    pub partitions: usize,
    /// The sum of their [lags](Consumer::lag), where the position is known.
    pub lag: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) polls: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) commits: u64,
    pub(super) commit_failures: u64,
    pub(super) rebalances: u64,
    pub(super) panics: u64,
}

impl Consumer {
    /// Figures about it at this moment. Asks no file.
    pub fn stats(&self) -> ConsumerStats {
        let Counters { polls, records, bytes, commits, commit_failures, rebalances, panics } = self.counters;
        let mut stats = ConsumerStats {
            polls,
            records,
            bytes,
            commits,
            commit_failures,
            rebalances,
            panics,
            partitions: 0,
            lag: 0,
        };
        for slot in self.slots.iter() {
            stats.partitions += 1;
            stats.lag += slot.lag(self.config.isolation).unwrap_or(0);
        }
        stats
    }
}
