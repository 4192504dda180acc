//! What was aborted: for readers of committed data, which pass over it.
//!
//! A batch belongs to an aborted transaction if it lies between the first record of one and its marker, and is of
//! the same producer: the transactions of a producer do not overlap, so nothing else has to be known of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::snapshots::Stretch;
use super::{Log, Partition};
use crate::error::{Error, Result};
use crate::format::{AbortedTransaction, BatchHeader};
use crate::storage::{Segment, TransactionIndex};

/// The aborted transactions that a stretch of the log may touch.
#[derive(Debug, Default)]
pub(super) struct AbortedRanges {
    /// Offsets from and to (the marker) by producer, in order.
    by_producer: HashMap<i64, Vec<(u64, u64)>>,
    /// Up to which offset they are known.
    pub(super) end: u64,
}

impl AbortedRanges {
    fn new(aborted: &[AbortedTransaction], end: u64) -> Self {
        let mut by_producer: HashMap<i64, Vec<(u64, u64)>> = HashMap::new();
        for entry in aborted {
            by_producer.entry(entry.producer_id).or_default().push((entry.first_offset, entry.last_offset));
        }
        AbortedRanges { by_producer, end }
    }

    /// Whether a batch of data was taken back.
    pub(super) fn hold(&self, header: &BatchHeader) -> bool {
        let ranges = header.producer_id.and_then(|producer| self.by_producer.get(&producer));
        let Some(ranges) = ranges.filter(|_| header.transactional) else { return false };
        let before = ranges.partition_point(|(first, _)| *first <= header.base_offset);
        let range = before.checked_sub(1).and_then(|at| ranges.get(at));
        range.is_some_and(|(_, marker)| header.last_offset < *marker)
    }
}

impl Partition {
    /// The transactions, aborted, whose data a reader of the offsets from `from` to `to` (exclusive) may meet, in
    /// the order of their markers.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if an index, or the log where an index is damaged, cannot be read.
    pub fn aborted_transactions(&self, from: u64, to: u64) -> Result<Vec<AbortedTransaction>> {
        self.log.collect_aborted(from, to)
    }
}

impl Log {
    /// What was aborted between two offsets (Kafka's `collectAbortedTransactions`).
    pub(super) fn collect_aborted(&self, from: u64, to: u64) -> Result<Vec<AbortedTransaction>> {
        self.collect_aborted_in(&self.segments.load_full(), from, to)
    }

    /// As [`collect_aborted`](Self::collect_aborted), in the segments that the log had at some moment.
    pub(super) fn collect_aborted_in(
        &self,
        segments: &[Arc<Segment>],
        from: u64,
        to: u64,
    ) -> Result<Vec<AbortedTransaction>> {
        let first = segments.partition_point(|segment| segment.base_offset() <= from).saturating_sub(1);
        let mut found = Vec::new();
        for segment in segments.iter().skip(first) {
            let index = self.aborted_in(segment)?;
            found.extend(index.collect(from, to));
            if index.ends_search(from, to) {
                break;
            }
        }
        Ok(found)
    }

    /// Forgets what was aborted by markers at `end` or behind, which are being cut.
    pub(super) fn cut_aborted(&self, segment: &Arc<Segment>, end: u64) -> Result<()> {
        let mut index = (*self.aborted_in(segment)?).clone();
        let before = index.entries().len();
        index.truncate_to(end);
        if index.entries().len() < before {
            segment.set_aborted(index, true);
        }
        Ok(())
    }

    pub(super) fn aborted_ranges(&self, from: u64, to: u64) -> Result<AbortedRanges> {
        Ok(AbortedRanges::new(&self.collect_aborted(from, to)?, to))
    }

    /// The transactions aborted in one segment: from its file, or where that is damaged, from the log.
    pub(super) fn aborted_in(&self, segment: &Arc<Segment>) -> Result<Arc<TransactionIndex>> {
        if let Some(index) = segment.aborted()? {
            return Ok(index);
        }
        if self.marks.lock().deleted {
            // The snapshots there may be another topic's.
            return Err(Error::Closed { what: self.id.to_string() });
        }
        let (base, now) = (segment.base_offset(), self.clock.now());
        let segments = self.segments.load_full();
        let until = segments.iter().take_while(|other| other.base_offset() < base);
        let mut stretches: Vec<Stretch> = until.map(|segment| segment.stretch()).collect();
        stretches.push(segment.stretch());
        let index = self.snapshots.find_aborted(self.fs(), self.directory(), base, &stretches, now, base)?;
        segment.set_aborted(index.clone(), true);
        Ok(Arc::new(index))
    }
}

impl Segment {
    /// All of it that can be read.
    pub(super) fn stretch(&self) -> Stretch {
        Stretch { log: Arc::clone(self.log()), end: self.size() }
    }
}
