//! [`EpochCache`]: which leader wrote from which offset on (Kafka's `LeaderEpochFileCache`).
//!
//! Epochs and start offsets both rise strictly. What a batch contradicts is dropped from the end.

use crate::format::{EpochEntry, LeaderEpochs};

/// Where the data of a leader epoch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EpochEnd {
    /// The greatest epoch not above the one asked for that has data.
    pub epoch: i32,
    /// The offset behind its last record.
    pub end_offset: u64,
}

/// The epochs of one partition, and whether its file knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EpochCache {
    entries: Vec<EpochEntry>,
    unsaved: bool,
}

impl EpochCache {
    pub(super) fn new(epochs: LeaderEpochs) -> Self {
        EpochCache { entries: epochs.entries, unsaved: false }
    }

    /// None yet, and a file that says something else.
    pub(super) fn unsaved() -> Self {
        EpochCache { entries: Vec::new(), unsaved: true }
    }

    /// The latest epoch.
    pub(super) fn latest(&self) -> Option<i32> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// The epochs and where they begin, oldest first.
    pub(super) fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// Takes note that an epoch was written from `start_offset` on.
    pub(super) fn assign(&mut self, epoch: i32, start_offset: u64) {
        let Some(latest) = self.entries.last().copied() else {
            return self.push(EpochEntry { epoch, start_offset });
        };
        if epoch == latest.epoch && start_offset >= latest.start_offset {
            return;
        }
        // Whatever contradicts the log that is being written is wrong.
        while self
            .entries
            .last()
            .is_some_and(|entry| entry.epoch >= epoch || entry.start_offset >= start_offset)
        {
            self.entries.pop();
        }
        self.push(EpochEntry { epoch, start_offset });
    }

    fn push(&mut self, entry: EpochEntry) {
        self.entries.push(entry);
        self.unsaved = true;
    }

    /// Where the data of an epoch ends, `None` if that is not known.
    pub(super) fn end_offset_for(&self, epoch: i32, log_end: u64) -> Option<EpochEnd> {
        if self.latest() == Some(epoch) {
            return Some(EpochEnd { epoch, end_offset: log_end });
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end_offset = self.entries.get(above)?.start_offset;
        // Nothing of it or before it: it ends where the next one begins.
        let floor = above.checked_sub(1).and_then(|at| self.entries.get(at));
        (epoch >= 0).then(|| EpochEnd { epoch: floor.map_or(epoch, |floor| floor.epoch), end_offset })
    }

    /// The epoch in which an offset was written.
    pub(super) fn epoch_for(&self, offset: u64) -> Option<i32> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        self.entries.get(after.checked_sub(1)?).map(|entry| entry.epoch)
    }

    /// Forgets what begins at `end` or behind.
    pub(super) fn truncate_from_end(&mut self, end: u64) {
        let kept = self.entries.partition_point(|entry| entry.start_offset < end);
        self.unsaved |= kept < self.entries.len();
        self.entries.truncate(kept);
    }

    /// Forgets what ends at `start` or before; the epoch of `start` now begins there.
    pub(super) fn truncate_from_start(&mut self, start: u64) {
        let gone = self.entries.partition_point(|entry| entry.start_offset <= start);
        let Some(last) = gone.checked_sub(1) else { return };
        self.entries.drain(..last);
        if let Some(first) = self.entries.first_mut() {
            self.unsaved |= last > 0 || first.start_offset != start;
            first.start_offset = start;
        }
    }

    pub(super) fn clear(&mut self) {
        self.unsaved |= !self.entries.is_empty();
        self.entries.clear();
    }

    /// What is to be written to the file, if it is not there already.
    pub(super) fn to_save(&self) -> Option<LeaderEpochs> {
        self.unsaved.then(|| LeaderEpochs { entries: self.entries.clone() })
    }

    /// Takes note that these were written.
    pub(super) fn saved(&mut self, epochs: &LeaderEpochs) {
        self.unsaved &= epochs.entries != self.entries;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache(entries: &[(i32, u64)]) -> EpochCache {
        let mut cache = EpochCache::default();
        entries.iter().for_each(|&(epoch, start)| cache.assign(epoch, start));
        cache
    }

    fn pairs(cache: &EpochCache) -> Vec<(i32, u64)> {
        cache.entries.iter().map(|entry| (entry.epoch, entry.start_offset)).collect()
    }

    fn end(cache: &EpochCache, epoch: i32) -> Option<(i32, u64)> {
        cache.end_offset_for(epoch, 100).map(|end| (end.epoch, end.end_offset))
    }

    #[test]
    fn ends_are_those_of_kafka() {
        assert_eq!(end(&cache(&[]), 0), None);
        assert_eq!(end(&cache(&[]), -1), None);
        let three = cache(&[(2, 6), (3, 11), (5, 20)]);
        for (asked, answer) in [
            (5, Some((5, 100))), // the latest: the log end
            (3, Some((3, 20))),
            (4, Some((3, 20))), // a gap: the epoch below
            (2, Some((2, 11))),
            (1, Some((1, 6))), // nothing of it: where the first known one begins
            (6, None),         // none above is known
            (-1, None),
        ] {
            assert_eq!(end(&three, asked), answer, "{asked}");
        }
    }

    #[test]
    fn what_contradicts_a_new_epoch_is_dropped() {
        assert_eq!(pairs(&cache(&[(2, 6), (2, 7), (2, 9)])), [(2, 6)]);
        assert_eq!(pairs(&cache(&[(2, 6), (3, 6)])), [(3, 6)]);
        assert_eq!(pairs(&cache(&[(1, 5), (2, 6), (3, 7), (2, 8)])), [(1, 5), (2, 8)]);
        assert_eq!(pairs(&cache(&[(1, 5), (2, 10), (3, 8)])), [(1, 5), (3, 8)]);
        assert_eq!(pairs(&cache(&[(2, 6), (2, 3)])), [(2, 3)]);
    }

    #[test]
    fn truncation_keeps_the_epochs_of_what_is_left() {
        let full = [(2, 6), (3, 8), (4, 11)];
        let from_start = |start| {
            let mut cache = cache(&full);
            cache.truncate_from_start(start);
            pairs(&cache)
        };
        assert_eq!(from_start(5), full);
        assert_eq!(from_start(6), full);
        assert_eq!(from_start(7), [(2, 7), (3, 8), (4, 11)]);
        assert_eq!(from_start(8), [(3, 8), (4, 11)]);
        assert_eq!(from_start(10), [(3, 10), (4, 11)]);
        assert_eq!(from_start(20), [(4, 20)]);
        let from_end = |end| {
            let mut cache = cache(&full);
            cache.truncate_from_end(end);
            pairs(&cache)
        };
        assert_eq!(from_end(12), full);
        assert_eq!(from_end(11), [(2, 6), (3, 8)]);
        assert_eq!(from_end(9), [(2, 6), (3, 8)]);
        assert_eq!(from_end(6), []);
    }

    #[test]
    fn only_changes_ask_to_be_written() {
        let mut cache = EpochCache::new(LeaderEpochs { entries: cache(&[(1, 0), (2, 5)]).entries });
        assert_eq!(cache.to_save(), None);
        cache.assign(2, 9);
        cache.truncate_from_end(10);
        cache.truncate_from_start(0);
        assert_eq!(cache.to_save(), None);
        cache.truncate_from_start(3);
        let first = cache.to_save().unwrap();
        cache.assign(3, 12);
        cache.saved(&first);
        assert!(cache.to_save().is_some(), "it changed while it was written");
        let second = cache.to_save().unwrap();
        cache.saved(&second);
        assert_eq!(cache.to_save(), None);
    }

    proptest! {
        #[test]
        fn both_rise_strictly_whatever_comes(
            steps in proptest::collection::vec((0i32..8, 0u64..40, 0u8..4), 0..60),
        ) {
            let mut cache = EpochCache::default();
            for (epoch, offset, step) in steps {
                match step {
                    0 => cache.truncate_from_end(offset),
                    1 => cache.truncate_from_start(offset),
                    _ => {
                        cache.assign(epoch, offset);
                        prop_assert_eq!(cache.epoch_for(offset.max(cache.entries.last().unwrap().start_offset)),
                            cache.latest());
                    }
                }
                let entries = pairs(&cache);
                prop_assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
                for probe in 0..45 {
                    let naive = entries.iter().rev().find(|(_, start)| *start <= probe).map(|(epoch, _)| *epoch);
                    prop_assert_eq!(cache.epoch_for(probe), naive);
                }
            }
        }
    }
}
