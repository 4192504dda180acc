//! [`StoreStats`]: figures about a store, cheap to read at any moment; and how they are handed to whoever collects
//! them (`docs/operations.md` lists them).

use std::collections::HashMap;
use std::time::Duration;

use super::store::Shared;
use super::topic::Slot;
use crate::observe;
use crate::partition::PartitionStats;
use crate::types::TopicPartition;

/// What a store holds now, and what was done with its partitions since it was opened.
///
/// Sums go over the partitions that are open now: those of a deleted topic are not in them any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StoreStats {
    /// Its topics.
    pub topics: usize,
    /// Their partitions, open or not.
    pub partitions: usize,
    /// Partitions that could not be opened so far.
    pub partitions_not_open: usize,
    /// Partitions that are open and take no appends.
    pub partitions_refusing: usize,
    /// The bytes of all log files.
    pub bytes: u64,
    /// Segments.
    pub segments: usize,
    /// Segments that are deleted and whose files are not removed yet.
    pub retired_segments: usize,
    /// Log files that are open now; see [`StoreOptions::max_open_files`](crate::StoreOptions::max_open_files).
    pub open_files: usize,
    /// Producers that are known; one that appends to two partitions counts twice.
    pub producers: usize,
    /// Transactions that are open; one in two partitions counts twice.
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
}

impl StoreStats {
    fn add(&mut self, partition: &PartitionStats) {
        self.partitions_refusing += usize::from(!partition.accepts_appends);
        self.bytes += partition.bytes;
        self.segments += partition.segments;
        self.retired_segments += partition.retired_segments;
        self.producers += partition.producers;
        self.open_transactions += partition.open_transactions;
        self.appended_batches += partition.appended_batches;
        self.appended_records += partition.appended_records;
        self.appended_bytes += partition.appended_bytes;
        self.read_batches += partition.read_batches;
        self.read_bytes += partition.read_bytes;
        self.syncs += partition.syncs;
        self.sync_time += partition.sync_time;
        self.sync_time_max = self.sync_time_max.max(partition.sync_time_max);
        self.expired_segments += partition.expired_segments;
        self.expired_bytes += partition.expired_bytes;
    }
}

/// A figure's name, and where it is found.
type Figure<S> = (&'static str, fn(&S) -> u64);

const STORE_GAUGES: [Figure<StoreStats>; 5] = [
    ("annals_store_topics", |stats| stats.topics as u64),
    ("annals_store_partitions", |stats| stats.partitions as u64),
    ("annals_store_partitions_not_open", |stats| stats.partitions_not_open as u64),
    ("annals_store_partitions_refusing", |stats| stats.partitions_refusing as u64),
    ("annals_store_open_files", |stats| stats.open_files as u64),
];

const PARTITION_GAUGES: [Figure<PartitionStats>; 11] = [
    ("annals_partition_log_start", |stats| stats.log_start),
    ("annals_partition_last_stable_offset", |stats| stats.last_stable_offset),
    ("annals_partition_high_watermark", |stats| stats.high_watermark),
    ("annals_partition_log_end", |stats| stats.log_end),
    ("annals_partition_recovery_point", |stats| stats.recovery_point),
    ("annals_partition_bytes", |stats| stats.bytes),
    ("annals_partition_segments", |stats| stats.segments as u64),
    ("annals_partition_retired_segments", |stats| stats.retired_segments as u64),
    ("annals_partition_producers", |stats| stats.producers as u64),
    ("annals_partition_open_transactions", |stats| stats.open_transactions as u64),
    ("annals_partition_accepts_appends", |stats| u64::from(stats.accepts_appends)),
];

const PARTITION_COUNTERS: [Figure<PartitionStats>; 9] = [
    ("annals_partition_appended_batches_total", |stats| stats.appended_batches),
    ("annals_partition_appended_records_total", |stats| stats.appended_records),
    ("annals_partition_appended_bytes_total", |stats| stats.appended_bytes),
    ("annals_partition_read_batches_total", |stats| stats.read_batches),
    ("annals_partition_read_bytes_total", |stats| stats.read_bytes),
    ("annals_partition_syncs_total", |stats| stats.syncs),
    ("annals_partition_sync_micros_total", |stats| stats.sync_time.as_micros() as u64),
    ("annals_partition_expired_segments_total", |stats| stats.expired_segments),
    ("annals_partition_expired_bytes_total", |stats| stats.expired_bytes),
];

/// What was last handed over of each partition: counters want what came since.
pub(super) type Published = HashMap<TopicPartition, PartitionStats>;

impl Shared {
    pub(super) fn stats(&self) -> StoreStats {
        let (mut total, partitions) = self.count_partitions();
        partitions.iter().for_each(|(_, stats)| total.add(stats));
        total
    }

    /// What is not summed up over partitions, and the figures of each that is open.
    fn count_partitions(&self) -> (StoreStats, Vec<(TopicPartition, PartitionStats)>) {
        let states: Vec<_> = self.topics.read().values().cloned().collect();
        let mut total =
            StoreStats { topics: states.len(), open_files: self.pool.open_files(), ..Default::default() };
        let mut open = Vec::new();
        for state in states {
            for slot in state.slots.read().iter() {
                total.partitions += 1;
                match slot {
                    Slot::Open(partition) => open.push(partition.clone()),
                    Slot::Failed => total.partitions_not_open += 1,
                }
            }
        }
        (total, open.iter().map(|partition| (partition.id().clone(), partition.stats())).collect())
    }

    /// Hands all figures to whoever collects them.
    pub(super) fn publish_figures(&self, published: &mut Published) {
        if !observe::FIGURES {
            return;
        }
        let (mut total, partitions) = self.count_partitions();
        partitions.iter().for_each(|(_, stats)| total.add(stats));
        for (name, figure) in STORE_GAUGES {
            observe::store_gauge(name, figure(&total));
        }
        let before = std::mem::take(published);
        for (id, stats) in &partitions {
            for (name, figure) in PARTITION_GAUGES {
                observe::partition_gauge(id, name, figure(stats));
            }
            for (name, figure) in PARTITION_COUNTERS {
                let before = before.get(id).map_or(0, figure);
                observe::partition_counter(id, name, since(before, figure(stats)));
            }
        }
        *published = partitions.into_iter().collect();
        for id in before.keys().filter(|id| !published.contains_key(*id)) {
            // Recorders know no way to forget one.
            PARTITION_GAUGES.iter().for_each(|(name, _)| observe::partition_gauge(id, name, 0));
        }
    }
}

/// What was counted since. A count that went back is that of a new partition of an old name.
fn since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_in_the_documentation_and_nothing_else() {
        let documented = include_str!("../docs/operations.md");
        let names = STORE_GAUGES.iter().map(|(name, _)| *name);
        let of_partitions = PARTITION_GAUGES.iter().chain(&PARTITION_COUNTERS).map(|(name, _)| *name);
        let names: Vec<&str> = names.chain(of_partitions).collect();
        for name in &names {
            assert!(documented.contains(&format!("| `{name}` |")), "{name} is not documented");
        }
        assert_eq!(documented.matches("| `annals_").count(), names.len());
    }

    #[test]
    fn counters_that_go_back_begin_anew() {
        assert_eq!([since(0, 5), since(5, 5), since(5, 7), since(5, 2)], [5, 0, 2, 2]);
    }
}
