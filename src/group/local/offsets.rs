//! [`Offsets`]: what a group has committed, and what transactions that are not ended would commit for it.

use std::collections::BTreeMap;

use crate::group::coordinator::OffsetAndMetadata;
use crate::types::{TopicPartition, Uuid};

/// A committed position, and where in the log that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) position: OffsetAndMetadata,
    /// The topic that it is of; another one may have its name since. Zero if that is not known.
    pub(super) topic_id: Uuid,
    /// When, in milliseconds since the epoch.
    pub(super) committed_at: i64,
    /// When it is to be forgotten, if the committer said so.
    pub(super) expires_at: Option<i64>,
    /// The offset of its record. Of two, the higher one counts, in whatever order they are heard of.
    pub(super) log_offset: u64,
}

/// The positions of one group.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    committed: BTreeMap<TopicPartition, Committed>,
    /// By producer id.
    pending: BTreeMap<i64, BTreeMap<TopicPartition, Committed>>,
}

impl Offsets {
    pub(super) fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    pub(super) fn get(&self, partition: &TopicPartition) -> Option<&Committed> {
        self.committed.get(partition)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Committed)> {
        self.committed.iter()
    }

    /// Whether a transaction under way may change it.
    pub(super) fn is_pending(&self, partition: &TopicPartition) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(partition))
    }

    /// All that transactions under way may change.
    pub(super) fn pending(&self) -> impl Iterator<Item = &TopicPartition> {
        self.pending.values().flat_map(BTreeMap::keys)
    }

    pub(super) fn commit(&mut self, partition: TopicPartition, committed: Committed) {
        put(&mut self.committed, partition, committed);
    }

    pub(super) fn commit_in_transaction(
        &mut self,
        producer_id: i64,
        partition: TopicPartition,
        committed: Committed,
    ) {
        put(self.pending.entry(producer_id).or_default(), partition, committed);
    }

    /// The producer's transaction has ended; what it wrote from `next` on belongs to its next one. Returns whether
    /// there is anything of that.
    pub(super) fn end_transaction(&mut self, producer_id: i64, commit: bool, next: Option<u64>) -> bool {
        let Some(known) = self.pending.remove(&producer_id) else { return false };
        let is_later = |committed: &Committed| next.is_some_and(|next| committed.log_offset >= next);
        let (later, ended): (BTreeMap<_, _>, BTreeMap<_, _>) =
            known.into_iter().partition(|(_, committed)| is_later(committed));
        let more = !later.is_empty();
        if more {
            self.pending.insert(producer_id, later);
        }
        if commit {
            ended.into_iter().for_each(|(partition, committed)| self.commit(partition, committed));
        }
        more
    }

    /// A tombstone at this offset of the log: nothing written before it counts any more.
    pub(super) fn remove(&mut self, partition: &TopicPartition, log_offset: u64) {
        let maps = self.pending.values_mut().chain(std::iter::once(&mut self.committed));
        for offsets in maps {
            if offsets.get(partition).is_some_and(|committed| committed.log_offset < log_offset) {
                offsets.remove(partition);
            }
        }
        self.pending.retain(|_, offsets| !offsets.is_empty());
    }
}

fn put(offsets: &mut BTreeMap<TopicPartition, Committed>, partition: TopicPartition, new: Committed) {
    if offsets.get(&partition).is_none_or(|known| known.log_offset < new.log_offset) {
        offsets.insert(partition, new);
    }
}
