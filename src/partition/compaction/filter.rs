//! [`Filter`]: what compaction leaves of one batch (Kafka's `MemoryRecords.filterTo` and `Cleaner.cleanInto`).
//!
//! A record goes when a later one of its key is in the map, when it is a tombstone whose time is over, when its
//! transaction was aborted, or when it has no key. What stays keeps its offset, timestamp and headers, and its batch
//! keeps offsets, producer and codec; a batch of which nothing goes keeps its bytes.
//!
//! A tombstone or a marker that is of no more use goes in two passes: the first writes down in the batch when it may
//! go (its delete horizon), once and for all; the first pass after that time removes it.

use std::collections::HashMap;

use super::offset_map::OffsetMap;
use super::transactions::CleanedTransactions;
use crate::error::FormatError;
use crate::format::{
    BatchBuilder, BatchHeader, BatchOptions, Compression, RecordBatch, RecordSet, RecordView, encode_empty,
};

/// The last batches that must not vanish, by producer.
pub(super) type LastBatches = HashMap<i64, LastBatch>;

/// What an active producer is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastBatch {
    /// Its epoch.
    pub(super) epoch: i16,
    /// The last offset of its last batch of data; `None` if only its marker is known.
    pub(super) last_data_offset: Option<u64>,
}

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filtered {
    /// All of it, byte for byte.
    Unchanged,
    /// A batch with fewer records or with a delete horizon.
    Rewritten(Vec<u8>),
    /// A batch without records, which keeps its offsets and its producer's state.
    Emptied(Vec<u8>),
    /// Nothing.
    Dropped,
}

impl Filtered {
    /// The bytes to write in place of `batch`, if any.
    pub(super) fn bytes<'a>(&'a self, batch: &'a RecordBatch) -> Option<&'a [u8]> {
        match self {
            Filtered::Unchanged => Some(batch.as_bytes()),
            Filtered::Rewritten(bytes) | Filtered::Emptied(bytes) => Some(bytes),
            Filtered::Dropped => None,
        }
    }
}

/// What a filter has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    /// Records that were there.
    pub(super) records_read: u64,
    /// Records that stayed.
    pub(super) records_kept: u64,
    /// Records that went because they have no key.
    pub(super) without_key: u64,
    /// Bytes of all batches.
    pub(super) bytes_read: u64,
    /// Bytes of what stays of them.
    pub(super) bytes_kept: u64,
}

/// The rules of one pass over a log.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    /// The last offsets of keys below `map_end`, of the part that was not compacted before.
    pub(super) map: &'a OffsetMap,
    /// The first offset that the map does not cover: from here on every record of no aborted transaction stays.
    pub(super) map_end: u64,
    /// The time of this pass, in milliseconds since the epoch.
    pub(super) now: i64,
    /// `delete.retention.ms`.
    pub(super) delete_retention_ms: i64,
    /// Where the range ends that may be compacted now; the batch before it is kept in any case, so that the log does
    /// not seem to end earlier.
    pub(super) round_end: u64,
    /// The last batches of the producers that are active.
    pub(super) last_batches: &'a LastBatches,
    /// Whether tombstones of magic 0 and 1, which can have no horizon, are still protected in this segment.
    pub(super) legacy_tombstones_kept: bool,
    /// `annals.max.decompressed.bytes`.
    pub(super) decompress_limit: usize,
    /// Starts at zero.
    pub(super) counts: Counts,
}

impl Filter<'_> {
    /// Decides about the next batch. All batches must come in order, each once.
    ///
    /// # Errors
    /// [`FormatError`] if records do not decode, or cannot be written again.
    pub(super) fn apply(
        &mut self,
        batch: &RecordBatch,
        transactions: &mut CleanedTransactions,
    ) -> Result<Filtered, FormatError> {
        let header = batch.header();
        let discardable = if header.control {
            transactions.on_control(batch, self.decompress_limit)?
        } else {
            transactions.on_data(header)
        };
        // Markers are as tombstones: readers may have seen what they end.
        let over = !header.control || header.delete_horizon.is_some_and(|horizon| horizon <= self.now);
        let filtered = if discardable && over {
            self.counts.records_read += u64::from(header.records_count.unwrap_or_default());
            self.without_records(header)?
        } else {
            self.by_record(batch, discardable)?
        };
        self.counts.bytes_read += header.size;
        self.counts.bytes_kept += filtered.bytes(batch).map_or(0, |bytes| bytes.len() as u64);
        Ok(filtered)
    }

    /// A batch whose records are asked one by one.
    fn by_record(&mut self, batch: &RecordBatch, discardable: bool) -> Result<Filtered, FormatError> {
        let header = batch.header();
        let records = batch.records(self.decompress_limit)?;
        let (mut kept, mut tombstone) = (Vec::with_capacity(records.len()), false);
        for record in &records {
            let keep = header.control || self.keeps(header, &record);
            tombstone |= keep && record.value().is_none();
            kept.push(keep);
        }
        let kept_count = kept.iter().filter(|&&keep| keep).count();
        self.counts.records_read += records.len() as u64;
        self.counts.records_kept += kept_count as u64;
        if kept_count == 0 {
            return self.without_records(header);
        }
        let whole = kept_count == records.len();
        // A legacy message has no room for a horizon until it is written again.
        let needs_horizon =
            if header.control { discardable } else { tombstone && (header.magic >= 2 || !whole) };
        if whole && (!needs_horizon || header.delete_horizon.is_some()) {
            return Ok(Filtered::Unchanged);
        }
        let new_horizon = needs_horizon.then(|| self.now.saturating_add(self.delete_retention_ms));
        let horizon = header.delete_horizon.or(new_horizon);
        rewrite(header, &records, &kept, horizon).map(Filtered::Rewritten)
    }

    /// Whether a data record stays.
    fn keeps(&mut self, header: &BatchHeader, record: &RecordView<'_>) -> bool {
        if record.offset() >= self.map_end {
            return true;
        }
        let Some(key) = record.key() else {
            self.counts.without_key += 1;
            return false;
        };
        let superseded = self.map.get(key).is_some_and(|last| record.offset() < last);
        !superseded && (record.value().is_some() || self.protects_tombstones(header))
    }

    fn protects_tombstones(&self, header: &BatchHeader) -> bool {
        if header.magic < 2 {
            self.legacy_tombstones_kept
        } else {
            header.delete_horizon.is_none_or(|horizon| self.now < horizon)
        }
    }

    /// A batch of which no record stays.
    fn without_records(&self, header: &BatchHeader) -> Result<Filtered, FormatError> {
        if header.next_offset() != self.round_end && !self.is_last_of_producer(header) {
            return Ok(Filtered::Dropped);
        }
        if header.magic >= 2 && header.records_count == Some(0) {
            return Ok(Filtered::Unchanged);
        }
        // A legacy message cannot be empty; a v2 batch of its offset can.
        encode_empty(&BatchHeader { magic: 2, ..header.clone() }).map(Filtered::Emptied)
    }

    /// Whether an active producer is known by this batch: by its last sequence number, or by its epoch.
    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let last = header.producer_id.and_then(|producer_id| self.last_batches.get(&producer_id));
        last.is_some_and(|last| match last.last_data_offset {
            Some(offset) => header.last_offset == offset,
            None => header.control && header.producer_epoch == last.epoch,
        })
    }
}

/// The batch with those records for which `kept` holds; at least one.
fn rewrite(
    header: &BatchHeader,
    records: &RecordSet,
    kept: &[bool],
    horizon: Option<i64>,
) -> Result<Vec<u8>, FormatError> {
    let stay = || records.iter().zip(kept).filter_map(|(record, &keep)| keep.then_some(record));
    let mut options = BatchOptions { delete_horizon: horizon, ..BatchOptions::rewriting(header) };
    if header.control {
        options.codec = Compression::None.into();
    }
    if header.magic < 2 {
        // It becomes a v2 batch from the first record that stays to where the message ended.
        let first = stay().next().map_or(header.base_offset, |record| record.offset());
        let last = stay().last().map_or(first, |record| record.offset()).max(header.last_offset);
        options.base_offset = first;
        options.last_offset_delta = u32::try_from(last - first).ok();
    }
    let mut builder = BatchBuilder::new(options);
    for record in stay() {
        builder.push_view(&record)?;
    }
    builder.finish()
}

/// Puts the keys of a batch into the map, before the pass that filters: those of records at `first_dirty` or later
/// that belong to no aborted transaction (Kafka's `Cleaner.buildOffsetMapForSegment`). Returns whether all went in; if
/// not, the map covers what lies below this batch.
///
/// # Errors
/// [`FormatError`] if records do not decode.
pub(super) fn map_keys(
    map: &mut OffsetMap,
    batch: &RecordBatch,
    first_dirty: u64,
    transactions: &mut CleanedTransactions,
    decompress_limit: usize,
) -> Result<bool, FormatError> {
    let header = batch.header();
    // The key of a control record says what it is, not what it is about.
    if header.control {
        transactions.on_control(batch, decompress_limit)?;
        return Ok(true);
    }
    if transactions.on_data(header) || header.last_offset < first_dirty {
        return Ok(true);
    }
    let records = batch.records(decompress_limit)?;
    let mut dirty = records.iter().filter(|record| record.offset() >= first_dirty);
    // A record with a key that does not go in stays where it is, and so do all behind it.
    Ok(dirty.all(|record| record.key().is_none_or(|key| map.put(key, record.offset()))))
}
