//! [`CleanedTransactions`]: to which transactions the batches belong that compaction walks through, and which
//! markers are still needed (Kafka's `CleanedTransactionMetadata`).
//!
//! Data of an aborted transaction goes at once. The marker of a transaction may go once a pass has found no
//! data batch of it; until then an aborted one stays in the transaction index as well. An empty data batch,
//! kept for its producer's sake, is a data batch.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::FormatError;
use crate::format::{AbortedTransaction, BatchHeader, ControlType, RecordBatch};

/// One walk over a log, from any offset on and in order.
#[derive(Debug, Default)]
pub(super) struct CleanedTransactions {
    /// Aborted transactions that begin further on, by first offset and producer.
    ahead: BTreeMap<(u64, i64), AbortedTransaction>,
    /// Aborted transactions that have begun, by producer.
    aborting: HashMap<i64, Aborting>,
    /// Producers of which data was seen that no marker has ended yet, and that is not known as aborted.
    committing: HashSet<i64>,
    retained: Vec<AbortedTransaction>,
}

#[derive(Debug)]
struct Aborting {
    transaction: AbortedTransaction,
    data_seen: bool,
}

impl CleanedTransactions {
    /// A walk through a range of which these are the aborted transactions.
    pub(super) fn new(aborted: impl IntoIterator<Item = AbortedTransaction>) -> Self {
        let mut walk = CleanedTransactions::default();
        walk.add(aborted);
        walk
    }

    /// Tells of aborted transactions whose data or marker lies ahead. They may be told more than once, as
    /// they are if each segment's are added when it is reached.
    pub(super) fn add(&mut self, aborted: impl IntoIterator<Item = AbortedTransaction>) {
        let keyed = aborted.into_iter().map(|entry| ((entry.first_offset, entry.producer_id), entry));
        self.ahead.extend(keyed);
    }

    /// Takes the next batch, which must hold data: whether it belongs to an aborted transaction.
    pub(super) fn on_data(&mut self, header: &BatchHeader) -> bool {
        self.begin_up_to(header.last_offset);
        let Some(producer_id) = header.producer_id.filter(|_| header.transactional) else { return false };
        match self.aborting.get_mut(&producer_id) {
            // Behind its marker the producer's next transaction has begun.
            Some(aborting) if header.last_offset < aborting.transaction.last_offset => {
                aborting.data_seen = true;
                true
            }
            _ => {
                self.committing.insert(producer_id);
                false
            }
        }
    }

    /// Takes the next batch, which must be a control batch: whether it is of no more use, because no data of
    /// its transaction was seen. The entry of an aborted transaction that still needs its marker is kept.
    ///
    /// # Errors
    /// [`FormatError`] if its record does not decode.
    pub(super) fn on_control(
        &mut self,
        batch: &RecordBatch,
        decompress_limit: usize,
    ) -> Result<bool, FormatError> {
        let header = batch.header();
        self.begin_up_to(header.last_offset);
        let records = batch.records(decompress_limit)?;
        // The marker was removed before, and it was because all data was.
        let Some(record) = records.iter().next() else { return Ok(true) };
        let kind = ControlType::parse(record.key().unwrap_or_default())?;
        if !matches!(kind, ControlType::Abort | ControlType::Commit) {
            return Ok(false);
        }
        let producer_id = header.producer_id.unwrap_or(-1);
        let committing = self.committing.remove(&producer_id);
        if kind == ControlType::Abort {
            let aborted = self.aborting.remove(&producer_id).filter(|aborting| aborting.data_seen);
            if let Some(Aborting { transaction, .. }) = aborted {
                self.retained.push(transaction);
                return Ok(false);
            }
        }
        // Of an abort that no index knew its data was kept: then the marker must be too.
        Ok(!committing)
    }

    /// The entries for the transaction index of what was walked through since the last call, in order: one
    /// for each marker of an aborted transaction that is still needed.
    pub(super) fn take_retained(&mut self) -> Vec<AbortedTransaction> {
        std::mem::take(&mut self.retained)
    }

    fn begin_up_to(&mut self, offset: u64) {
        while let Some(entry) = self.ahead.first_entry().filter(|entry| entry.key().0 <= offset) {
            let transaction = entry.remove();
            match self.aborting.get(&transaction.producer_id) {
                // Told once more.
                Some(known) if known.transaction.last_offset >= transaction.last_offset => {}
                _ => {
                    let begun = Aborting { transaction, data_seen: false };
                    self.aborting.insert(transaction.producer_id, begun);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{BatchBuilder, BatchOptions, EndTransactionMarker, Record, encode_empty};

    fn options(producer_id: i64, base_offset: u64) -> BatchOptions {
        BatchOptions {
            base_offset,
            producer_id,
            producer_epoch: 0,
            base_sequence: 0,
            transactional: true,
            ..BatchOptions::default()
        }
    }

    fn data(producer_id: i64, base_offset: u64) -> BatchHeader {
        batch(options(producer_id, base_offset)).header().clone()
    }

    fn batch(options: BatchOptions) -> RecordBatch {
        let mut builder = BatchBuilder::new(options);
        builder.push(&Record::new("v").key("k")).unwrap();
        RecordBatch::parse(builder.finish().unwrap().into()).unwrap()
    }

    fn marker(producer_id: i64, offset: u64, commit: bool) -> RecordBatch {
        let marker = EndTransactionMarker { coordinator_epoch: 0, commit };
        RecordBatch::parse(marker.encode_batch(&options(producer_id, offset)).unwrap().into()).unwrap()
    }

    fn aborted(producer_id: i64, first_offset: u64, last_offset: u64) -> AbortedTransaction {
        AbortedTransaction { producer_id, first_offset, last_offset, last_stable_offset: last_offset + 1 }
    }

    fn on_control(walk: &mut CleanedTransactions, batch: &RecordBatch) -> bool {
        walk.on_control(batch, 0).unwrap()
    }

    #[test]
    fn data_of_an_aborted_transaction_goes_and_its_marker_stays_in_the_same_pass() {
        let entry = aborted(1, 0, 2);
        let mut walk = CleanedTransactions::new([entry]);
        assert!(walk.on_data(&data(1, 0)) && walk.on_data(&data(1, 1)));
        assert!(!on_control(&mut walk, &marker(1, 2, false)));
        assert_eq!(walk.take_retained(), [entry]);
        assert_eq!(walk.take_retained(), []);
        assert!(!walk.on_data(&data(1, 3)), "the next transaction is another");
    }

    #[test]
    fn an_abort_without_data_is_of_no_more_use() {
        let mut walk = CleanedTransactions::new([aborted(1, 0, 2)]);
        assert!(on_control(&mut walk, &marker(1, 2, false)));
        assert_eq!(walk.take_retained(), []);
        assert!(!walk.on_data(&data(1, 3)));
    }

    #[test]
    fn a_commit_is_of_use_while_there_is_data() {
        let mut walk = CleanedTransactions::new([]);
        assert!(!walk.on_data(&data(1, 0)));
        assert!(!on_control(&mut walk, &marker(1, 1, true)));
        assert!(on_control(&mut walk, &marker(1, 2, true)), "the data before was of the other");
        assert!(on_control(&mut walk, &marker(2, 3, true)));
    }

    #[test]
    fn producers_do_not_mix() {
        let (one, two) = (aborted(1, 0, 4), aborted(2, 1, 5));
        let mut walk = CleanedTransactions::new([one, two]);
        assert!(walk.on_data(&data(1, 0)) && walk.on_data(&data(2, 1)));
        assert!(!walk.on_data(&data(3, 2)));
        assert!(!walk.on_data(batch(BatchOptions { base_offset: 3, ..BatchOptions::default() }).header()));
        assert!(!on_control(&mut walk, &marker(1, 4, false)));
        assert_eq!(walk.take_retained(), [one]);
        assert!(!on_control(&mut walk, &marker(2, 5, false)));
        assert_eq!(walk.take_retained(), [two]);
        assert!(!on_control(&mut walk, &marker(3, 6, true)));
    }

    #[test]
    fn data_outside_transactions_is_never_aborted() {
        let mut walk = CleanedTransactions::new([aborted(1, 0, 9)]);
        let plain = batch(BatchOptions { transactional: false, ..options(1, 0) });
        assert!(!walk.on_data(plain.header()));
        assert!(on_control(&mut walk, &marker(1, 9, false)), "and holds no marker back");
    }

    #[test]
    fn transactions_of_a_producer_follow_each_other() {
        let (first, last) = (aborted(1, 0, 1), aborted(1, 4, 5));
        let mut walk = CleanedTransactions::new([first, last]);
        assert!(walk.on_data(&data(1, 0)));
        assert!(!on_control(&mut walk, &marker(1, 1, false)));
        assert!(!walk.on_data(&data(1, 2)));
        assert!(!on_control(&mut walk, &marker(1, 3, true)));
        assert!(walk.on_data(&data(1, 4)));
        assert!(!on_control(&mut walk, &marker(1, 5, false)));
        assert_eq!(walk.take_retained(), [first, last]);
    }

    #[test]
    fn an_entry_told_for_each_segment_counts_once() {
        let (first, last) = (aborted(1, 0, 2), aborted(1, 4, 6));
        let mut walk = CleanedTransactions::new([first]);
        assert!(walk.on_data(&data(1, 0)));
        walk.add([first, last]);
        assert!(!walk.on_data(&data(2, 1)));
        assert!(!on_control(&mut walk, &marker(1, 2, false)), "its data was seen before it was told again");
        // Late, and so about nothing that is still to come.
        walk.add([first]);
        assert!(!walk.on_data(&data(1, 3)));
        assert!(walk.on_data(&data(1, 5)));
        assert!(!on_control(&mut walk, &marker(1, 6, false)));
        assert_eq!(walk.take_retained(), [first, last]);
    }

    #[test]
    fn a_transaction_whose_marker_was_emptied_does_not_abort_the_next() {
        let mut walk = CleanedTransactions::new([aborted(1, 0, 2)]);
        let emptied = encode_empty(marker(1, 2, false).header()).unwrap();
        let emptied = RecordBatch::parse(emptied.into()).unwrap();
        assert!(on_control(&mut walk, &emptied));
        assert!(!walk.on_data(&data(1, 3)));
        assert!(!on_control(&mut walk, &marker(1, 4, true)));
        assert_eq!(walk.take_retained(), []);
    }

    #[test]
    fn an_emptied_data_batch_still_needs_its_marker() {
        let empty = |producer_id, offset| {
            let bytes = encode_empty(&data(producer_id, offset)).unwrap();
            RecordBatch::parse(bytes.into()).unwrap().header().clone()
        };
        let entry = aborted(1, 0, 2);
        let mut walk = CleanedTransactions::new([entry]);
        assert!(walk.on_data(&empty(1, 0)));
        assert!(!walk.on_data(&empty(2, 1)));
        assert!(!on_control(&mut walk, &marker(1, 2, false)));
        assert!(!on_control(&mut walk, &marker(2, 3, true)));
        assert_eq!(walk.take_retained(), [entry]);
    }

    #[test]
    fn the_marker_of_an_abort_that_no_index_knew_stays_with_its_data() {
        let mut walk = CleanedTransactions::new([]);
        assert!(!walk.on_data(&data(1, 0)));
        assert!(!on_control(&mut walk, &marker(1, 1, false)));
        assert!(on_control(&mut walk, &marker(1, 2, false)));
    }

    #[test]
    fn a_walk_may_begin_within_a_transaction() {
        let entry = aborted(1, 0, 12);
        let mut walk = CleanedTransactions::new([entry]);
        assert!(walk.on_data(&data(1, 10)));
        assert!(!on_control(&mut walk, &marker(1, 12, false)));
        assert_eq!(walk.take_retained(), [entry]);
    }

    #[test]
    fn other_control_batches_always_stay() {
        let control = |key: [u8; 4]| {
            let mut builder = BatchBuilder::new(BatchOptions { control: true, ..BatchOptions::default() });
            builder.push(&Record::new("").key(&key)).unwrap();
            RecordBatch::parse(builder.finish().unwrap().into()).unwrap()
        };
        let mut walk = CleanedTransactions::new([]);
        assert!(!on_control(&mut walk, &control(ControlType::LeaderChange.encode_key())));
        assert!(!on_control(&mut walk, &control(ControlType::Unknown(99).encode_key())));
        assert!(walk.on_control(&control([255, 255, 0, 0]), 0).is_err());
    }
}
