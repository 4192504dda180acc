//! [`Filter`]: what compaction leaves of one batch (Kafka's `MemoryRecords.filterTo` and
//! `Cleaner.cleanInto`).
//!
//! A record goes when a later one of its key is in the map, when it is a tombstone whose time is over, when
//! its transaction was aborted, or when it has no key. What stays keeps its offset, timestamp and headers,
//! and its batch keeps offsets, producer and codec; a batch of which nothing goes keeps its bytes.
//!
//! A tombstone or a marker that is of no more use goes in two passes: the first writes down in the batch when
//! it may go (its delete horizon), once and for all; the first pass after that time removes it.

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
    /// The first offset that the map does not cover: from here on every record of no aborted transaction
    /// stays.
    pub(super) map_end: u64,
    /// The time of this pass, in milliseconds since the epoch.
    pub(super) now: i64,
    /// `delete.retention.ms`.
    pub(super) delete_retention_ms: i64,
    /// Where the range ends that may be compacted now; the batch before it is kept in any case, so that the
    /// log does not seem to end earlier.
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

/// Puts the keys of a batch into the map, before the pass that filters: those of records at `first_dirty` or
/// later that belong to no aborted transaction (Kafka's `Cleaner.buildOffsetMapForSegment`). Returns whether
/// all went in; if not, the map covers what lies below this batch.
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

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, parse};
    use super::*;
    use crate::format::{
        AbortedTransaction, ControlType, EndTransactionMarker, Record, TimestampType, crc32,
    };

    const T: i64 = 1_700_000_000_000;
    const DAY: i64 = 86_400_000;
    const NOBODY: &[(i64, i16, Option<u64>)] = &[];

    /// A pass over one batch whose map covers all that it holds.
    struct Pass<'a> {
        mapped: &'a [(&'a str, u64)],
        map_end: u64,
        now: i64,
        round_end: u64,
        active: &'a [(i64, i16, Option<u64>)],
        legacy_tombstones_kept: bool,
        limit: usize,
    }

    impl Default for Pass<'_> {
        fn default() -> Self {
            Pass {
                mapped: &[],
                map_end: 1000,
                now: T + 100_000,
                round_end: 1000,
                active: NOBODY,
                legacy_tombstones_kept: true,
                limit: 1 << 20,
            }
        }
    }

    impl Pass<'_> {
        fn run(&self, batch: &RecordBatch) -> Filtered {
            self.try_run(batch, &mut CleanedTransactions::default()).unwrap().0
        }

        fn try_run(
            &self,
            batch: &RecordBatch,
            transactions: &mut CleanedTransactions,
        ) -> Result<(Filtered, Counts), FormatError> {
            let mut map = OffsetMap::new(4096, (1, 2));
            for (key, offset) in self.mapped {
                assert!(map.put(key.as_bytes(), *offset));
            }
            let last = |&(producer_id, epoch, last_data_offset)| {
                (producer_id, LastBatch { epoch, last_data_offset })
            };
            let mut filter = Filter {
                map: &map,
                map_end: self.map_end,
                now: self.now,
                delete_retention_ms: DAY,
                round_end: self.round_end,
                last_batches: &self.active.iter().map(last).collect(),
                legacy_tombstones_kept: self.legacy_tombstones_kept,
                decompress_limit: self.limit,
                counts: Counts::default(),
            };
            let filtered = filter.apply(batch, transactions)?;
            Ok((filtered, filter.counts))
        }

        fn rewritten(&self, batch: &RecordBatch) -> RecordBatch {
            match self.run(batch) {
                Filtered::Rewritten(bytes) => parse(bytes),
                other => panic!("not rewritten but {other:?}"),
            }
        }
    }

    fn build(options: BatchOptions, records: &[Record<'_>]) -> RecordBatch {
        let mut builder = BatchBuilder::new(options);
        for record in records {
            builder.push(record).unwrap();
        }
        parse(builder.finish().unwrap())
    }

    fn marker(commit: bool) -> RecordBatch {
        let options =
            BatchOptions { base_offset: 10, producer_id: 7, producer_epoch: 3, ..Default::default() };
        parse(EndTransactionMarker { coordinator_epoch: 0, commit }.encode_batch(&options).unwrap())
    }

    fn offsets(batch: &RecordBatch) -> Vec<u64> {
        batch.records(1 << 20).unwrap().iter().map(|record| record.offset()).collect()
    }

    #[test]
    fn a_tombstone_kept_gets_its_horizon_as_kafka_writes_it() {
        let pass = Pass { mapped: &[("k1", 99), ("k2", 11), ("k3", 12)], ..Pass::default() };
        let expected = golden("B9b_after_cleaning_delete_horizon");
        assert_eq!(pass.run(&parse(golden("B9a_before_cleaning"))), Filtered::Rewritten(expected));
    }

    #[test]
    fn what_an_active_producer_is_known_by_is_emptied_as_kafka_writes_it() {
        let (full, empty) = (parse(golden("B4_v2_txn")), golden("B7_empty_after_compaction"));
        let keys: Vec<String> =
            (&full.records(0).unwrap()).into_iter().map(|r| text(r.key().unwrap())).collect();
        let mapped: Vec<_> = keys.iter().map(|key| (key.as_str(), 900)).collect();
        let pass = Pass { mapped: &mapped, active: &[(4000, 3, Some(201))], ..Pass::default() };
        assert_eq!(pass.run(&full), Filtered::Emptied(empty.clone()));
        assert_eq!(pass.run(&parse(empty.clone())), Filtered::Unchanged);
        for active in [NOBODY, &[(4000, 3, Some(202))], &[(4000, 3, None)], &[(4001, 3, Some(201))]] {
            let pass = Pass { mapped: &mapped, active, ..Pass::default() };
            assert_eq!(pass.run(&full), Filtered::Dropped, "{active:?}");
            assert_eq!(pass.run(&parse(empty.clone())), Filtered::Dropped, "{active:?}");
        }
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn aborted_data_goes_at_once_and_without_a_look_at_it() {
        let full = parse(golden("B4_v2_txn"));
        let run = |active| {
            let mut transactions = CleanedTransactions::new([AbortedTransaction {
                producer_id: 4000,
                first_offset: 200,
                last_offset: 202,
                last_stable_offset: 203,
            }]);
            let pass = Pass { map_end: 0, active, ..Pass::default() };
            pass.try_run(&full, &mut transactions).unwrap()
        };
        let counts = Counts { records_read: 2, bytes_read: 79, ..Counts::default() };
        assert_eq!(run(NOBODY), (Filtered::Dropped, counts));
        let emptied = Filtered::Emptied(golden("B7_empty_after_compaction"));
        assert_eq!(run(&[(4000, 3, Some(201))]), (emptied, Counts { bytes_kept: 61, ..counts }));
    }

    #[test]
    fn a_batch_of_which_all_stays_keeps_its_bytes() {
        let names = ["B1_v2_single", "B3_v2_logappend", "B4_v2_txn", "C0_none", "L0_v0", "L1_v1"];
        let compressed = ["C1_gzip", "C2_snappy", "C3_lz4", "C4_zstd", "L1_v1_gzip_wrapper"];
        let features = cfg!(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"));
        for name in names.into_iter().chain(compressed.into_iter().filter(|_| features)) {
            assert_eq!(Pass::default().run(&parse(golden(name))), Filtered::Unchanged, "{name}");
        }
    }

    #[test]
    fn only_the_last_record_of_a_key_stays_and_all_beyond_the_map() {
        let batch = build(
            BatchOptions { base_offset: 10, ..BatchOptions::default() },
            &[Record::new("0").key("a"), Record::new("1").key("a"), Record::new("2").key("b")],
        );
        let kept = |mapped, map_end| match (Pass { mapped, map_end, ..Pass::default() }).run(&batch) {
            Filtered::Unchanged => vec![10, 11, 12],
            Filtered::Dropped => vec![],
            Filtered::Rewritten(bytes) => offsets(&parse(bytes)),
            Filtered::Emptied(bytes) => panic!("emptied to {bytes:?}"),
        };
        assert_eq!(kept(&[("a", 11), ("b", 12)], 20), [11, 12]);
        assert_eq!(kept(&[("a", 11)], 20), [11, 12], "a key that was not put is of the last record");
        assert_eq!(kept(&[("a", 10)], 20), [10, 11, 12], "a record later than that of the map stays");
        assert_eq!(kept(&[("a", 99), ("b", 12)], 20), [12]);
        assert_eq!(kept(&[("a", 99), ("b", 99)], 20), []);
        assert_eq!(kept(&[("a", 99), ("b", 99)], 11), [11, 12]);
        assert_eq!(kept(&[("a", 99), ("b", 99)], 10), [10, 11, 12]);
    }

    #[test]
    fn a_record_without_a_key_goes_unless_it_is_beyond_the_map() {
        let batch = parse(golden("B2_v2_idempotent3"));
        let (filtered, counts) =
            Pass::default().try_run(&batch, &mut CleanedTransactions::default()).unwrap();
        let Filtered::Rewritten(bytes) = filtered else { panic!("not rewritten but {filtered:?}") };
        let bytes_kept = bytes.len() as u64;
        let expected =
            Counts { records_read: 3, records_kept: 2, without_key: 1, bytes_read: 112, bytes_kept };
        assert_eq!(counts, expected);
        assert_eq!(offsets(&parse(bytes)), [100, 102]);
        let pass = Pass { map_end: 101, ..Pass::default() };
        assert_eq!(offsets(&pass.rewritten(&batch)), [100, 101, 102], "rewritten for its tombstone");
    }

    #[test]
    fn what_stays_keeps_everything() {
        let before = parse(golden("B2_v2_idempotent3"));
        let after = Pass { mapped: &[("key2", 900)], ..Pass::default() }.rewritten(&before);
        let (old, new) = (before.header(), after.header());
        let expected = BatchHeader {
            size: new.size,
            crc: new.crc,
            records_count: Some(1),
            // Of what stays: the record at T + 1000 is gone.
            max_timestamp: T,
            ..old.clone()
        };
        assert_eq!(new, &expected);
        let (old, new) = (before.records(0).unwrap(), after.records(0).unwrap());
        assert_eq!(format!("{:?}", old.iter().next()), format!("{:?}", new.iter().next()));
        assert_eq!(new.iter().next().unwrap().headers().count(), 2);
    }

    #[test]
    fn append_time_stays_the_time_of_all() {
        let options = BatchOptions {
            timestamp_type: TimestampType::LogAppendTime,
            append_time: T + 7,
            ..BatchOptions::default()
        };
        let records = [Record::new("1").key("a").timestamp(5), Record::tombstone().key("b").timestamp(6)];
        let after = Pass { mapped: &[("a", 9)], ..Pass::default() }.rewritten(&build(options, &records));
        let header = after.header();
        assert_eq!((header.max_timestamp, header.timestamp_type), (T + 7, TimestampType::LogAppendTime));
        assert_eq!(header.delete_horizon, Some(T + 100_000 + DAY));
        assert_eq!(after.records(0).unwrap().iter().map(|r| r.timestamp()).collect::<Vec<_>>(), [T + 7]);
    }

    #[test]
    #[cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
    fn the_codec_stays() {
        for name in ["C0_none", "C1_gzip", "C2_snappy", "C3_lz4", "C4_zstd"] {
            let before = parse(golden(name));
            let after = Pass { mapped: &[("key1", 900)], ..Pass::default() }.rewritten(&before);
            assert_eq!(after.header().compression, before.header().compression);
            let (old, new) = (before.records(1 << 20).unwrap(), after.records(1 << 20).unwrap());
            assert_eq!(format!("{:?}", old.iter().last()), format!("{:?}", new.iter().last()));
            assert_eq!((new.len(), after.next_offset()), (1, before.next_offset()));
        }
    }

    #[test]
    fn a_tombstone_goes_once_its_horizon_is_reached_and_not_before() {
        let records = [Record::new("1").key("a").timestamp(T), Record::tombstone().key("b").timestamp(T + 1)];
        let first = build(BatchOptions::default(), &records);
        let now = T + 100_000;
        let second = Pass { now, ..Pass::default() }.rewritten(&first);
        assert_eq!((offsets(&second), second.header().delete_horizon), (vec![0, 1], Some(now + DAY)));
        let times: Vec<_> = second.records(0).unwrap().iter().map(|record| record.timestamp()).collect();
        assert_eq!((times, second.header().max_timestamp), (vec![T, T + 1], T + 1));

        let later = |now| Pass { now, ..Pass::default() }.run(&second);
        assert_eq!(later(now), Filtered::Unchanged);
        assert_eq!(later(now + DAY - 1), Filtered::Unchanged);
        let third = Pass { now: now + DAY, ..Pass::default() }.rewritten(&second);
        assert_eq!(offsets(&third), [0]);
    }

    #[test]
    fn a_horizon_is_set_once() {
        let records = [Record::new("1").key("a").timestamp(T), Record::tombstone().key("b").timestamp(T)];
        let horizon = T + 55;
        let options = BatchOptions { delete_horizon: Some(horizon), ..BatchOptions::default() };
        let batch = build(options, &records);
        let pass = Pass { now: T + 1, mapped: &[("a", 900)], ..Pass::default() };
        let after = pass.rewritten(&batch);
        assert_eq!((offsets(&after), after.header().delete_horizon), (vec![1], Some(horizon)));
        assert_eq!(after.records(0).unwrap().iter().next().unwrap().timestamp(), T);
    }

    #[test]
    fn a_superseded_tombstone_goes_at_once() {
        let batch = build(BatchOptions::default(), &[Record::tombstone().key("b")]);
        assert_eq!(Pass { mapped: &[("b", 9)], ..Pass::default() }.run(&batch), Filtered::Dropped);
    }

    #[test]
    fn a_marker_goes_in_two_passes_after_the_data() {
        // What looks like its key is in the map: it must not be asked.
        for (commit, key) in [(true, ControlType::Commit), (false, ControlType::Abort)] {
            let key = text(&key.encode_key());
            let mapped = [(key.as_str(), 900)];
            let pass = |now| Pass { now, mapped: &mapped, ..Pass::default() };
            let second = pass(T).rewritten(&marker(commit));
            assert_eq!((second.header().delete_horizon, offsets(&second)), (Some(T + DAY), vec![10]));
            let expected = BatchHeader {
                crc: second.header().crc,
                size: second.header().size,
                delete_horizon: Some(T + DAY),
                base_timestamp: T + DAY,
                ..marker(commit).header().clone()
            };
            assert_eq!(second.header(), &expected);
            let record = |batch: &RecordBatch| format!("{:?}", batch.records(0).unwrap());
            assert_eq!(record(&second), record(&marker(commit)));
            assert_eq!(pass(T + DAY - 1).run(&second), Filtered::Unchanged);
            assert_eq!(pass(T + DAY).run(&second), Filtered::Dropped);
        }
    }

    #[test]
    #[cfg(feature = "gzip")]
    fn a_marker_that_somebody_compressed_is_unpacked() {
        let plain = marker(true);
        let (header, records) = plain.as_bytes().split_at(61);
        let mut bytes = header.to_vec();
        crate::format::compress(Compression::Gzip.into(), records, &mut bytes).unwrap();
        let length = bytes.len() as u32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[22] |= Compression::Gzip.id();
        crate::format::stamp_max_timestamp(&mut bytes, plain.header().max_timestamp).unwrap();
        assert_eq!(Pass::default().run(&parse(bytes)), Pass::default().run(&plain));
    }

    #[test]
    fn a_marker_of_data_that_is_there_gets_no_horizon() {
        let options = BatchOptions {
            base_offset: 9,
            producer_id: 7,
            producer_epoch: 3,
            base_sequence: 0,
            transactional: true,
            ..BatchOptions::default()
        };
        let data = build(options, &[Record::new("v").key("k")]);
        let mut transactions = CleanedTransactions::default();
        let pass = Pass { mapped: &[("k", 900)], ..Pass::default() };
        // Even if all of it goes in this pass.
        assert_eq!(pass.try_run(&data, &mut transactions).unwrap().0, Filtered::Dropped);
        assert_eq!(pass.try_run(&marker(true), &mut transactions).unwrap().0, Filtered::Unchanged);
        assert_ne!(pass.try_run(&marker(true), &mut transactions).unwrap().0, Filtered::Unchanged);
    }

    #[test]
    fn a_marker_by_which_a_producer_is_known_is_emptied() {
        let over = Pass { now: T, ..Pass::default() }.rewritten(&marker(true));
        let run = |batch: &RecordBatch, active: &[(i64, i16, Option<u64>)]| {
            Pass { now: T + DAY, active, ..Pass::default() }.run(batch)
        };
        let Filtered::Emptied(empty) = run(&over, &[(7, 3, None)]) else { panic!("not emptied") };
        let empty = parse(empty);
        assert_eq!(offsets(&empty), []);
        let (is, was) = (empty.header(), marker(true).header().clone());
        assert_eq!((is.producer_id, is.producer_epoch, is.control), (Some(7), 3, true));
        assert_eq!((is.base_offset, is.max_timestamp, is.delete_horizon), (10, was.max_timestamp, None));
        assert_eq!(run(&empty, &[(7, 3, None)]), Filtered::Unchanged);
        for active in [NOBODY, &[(7, 4, None)], &[(7, 3, Some(9))], &[(8, 3, None)]] {
            assert_eq!(run(&over, active), Filtered::Dropped, "{active:?}");
            assert_eq!(run(&empty, active), Filtered::Dropped, "{active:?}");
        }
    }

    #[test]
    fn the_last_batch_of_a_round_is_never_dropped() {
        let batch = build(BatchOptions::default(), &[Record::new("0").key("a"), Record::new("1").key("a")]);
        let run = |round_end| Pass { mapped: &[("a", 9)], round_end, ..Pass::default() }.run(&batch);
        let Filtered::Emptied(empty) = run(2) else { panic!("not emptied") };
        let empty = parse(empty);
        assert_eq!((empty.base_offset(), empty.next_offset(), empty.header().records_count), (0, 2, Some(0)));
        assert_eq!((run(1), run(3)), (Filtered::Dropped, Filtered::Dropped));
    }

    #[test]
    fn records_that_do_not_decode_are_an_error() {
        let mut bytes = golden("B1_v2_single");
        // The length of the record; the checksum is made to fit again.
        bytes[61] += 2;
        crate::format::stamp_max_timestamp(&mut bytes, T).unwrap();
        let run = |batch| Pass::default().try_run(batch, &mut CleanedTransactions::default());
        assert!(run(&parse(bytes)).is_err());
    }

    #[test]
    #[cfg(feature = "gzip")]
    fn no_more_is_decompressed_than_allowed() {
        let pass = Pass { limit: 50, ..Pass::default() };
        let found = pass.try_run(&parse(golden("C1_gzip")), &mut CleanedTransactions::default());
        assert!(matches!(found, Err(FormatError::Limit { limit: 50, .. })), "{found:?}");
    }

    /// A message of magic 1.
    fn legacy(offset: u64, codec: u8, key: Option<&str>, value: Option<&[u8]>) -> Vec<u8> {
        let mut covered = vec![1, codec];
        covered.extend_from_slice(&T.to_be_bytes());
        for part in [key.map(str::as_bytes), value] {
            covered.extend_from_slice(&part.map_or(-1, |part| part.len() as i32).to_be_bytes());
            covered.extend_from_slice(part.unwrap_or_default());
        }
        let mut message = offset.to_be_bytes().to_vec();
        message.extend_from_slice(&(covered.len() as i32 + 4).to_be_bytes());
        message.extend_from_slice(&crc32(&covered).to_be_bytes());
        message.extend_from_slice(&covered);
        message
    }

    #[test]
    fn a_legacy_message_stays_or_goes_as_it_is() {
        let batch = parse(legacy(3, 0, Some("k"), Some(b"v")));
        let run = |mapped, round_end| Pass { mapped, round_end, ..Pass::default() }.run(&batch);
        assert_eq!(run(&[("k", 3)], 4), Filtered::Unchanged);
        assert_eq!(run(&[("k", 4)], 5), Filtered::Dropped);
        let Filtered::Emptied(empty) = run(&[("k", 4)], 4) else { panic!("not emptied") };
        let empty = parse(empty);
        assert_eq!((empty.header().magic, empty.base_offset(), empty.next_offset()), (2, 3, 4));
        assert_eq!((empty.header().max_timestamp, empty.header().producer_id), (T, None));
    }

    #[test]
    fn a_legacy_tombstone_goes_by_the_age_of_its_segment() {
        let batch = parse(legacy(3, 0, Some("k"), None));
        let run = |legacy_tombstones_kept| Pass { legacy_tombstones_kept, ..Pass::default() }.run(&batch);
        assert_eq!((run(true), run(false)), (Filtered::Unchanged, Filtered::Dropped));
    }

    #[test]
    #[cfg(feature = "gzip")]
    fn what_stays_of_a_legacy_wrapper_becomes_a_batch_of_today() {
        for name in ["L0_v0_gzip_wrapper", "L1_v1_gzip_wrapper"] {
            let before = parse(golden(name));
            let old = before.records(1 << 20).unwrap();
            for (gone, stays) in [(("k1", 900), 11), (("k2", 900), 10)] {
                let after = Pass { mapped: &[gone], ..Pass::default() }.rewritten(&before);
                let header = after.header();
                assert_eq!((header.magic, header.compression), (2, Compression::Gzip), "{name}");
                // Where the wrapper ended, the batch ends, though its last record is gone.
                assert_eq!((header.base_offset, header.next_offset()), (stays, 12), "{name}");
                assert_eq!((header.producer_id, header.leader_epoch), (None, None), "{name}");
                let new = after.records(1 << 20).unwrap();
                let of = |records: &RecordSet| {
                    let record = records.iter().find(|record| record.offset() == stays).unwrap();
                    (text(record.key().unwrap()), text(record.value().unwrap()), record.timestamp())
                };
                assert_eq!((new.len(), of(&new)), (1, of(&old)), "{name}");
            }
        }
    }

    #[test]
    #[cfg(feature = "gzip")]
    fn a_legacy_tombstone_that_is_written_again_gets_a_horizon() {
        let mut inner = legacy(0, 0, Some("a"), Some(b"1"));
        inner.extend(legacy(1, 0, Some("b"), None));
        let mut value = Vec::new();
        crate::format::compress(Compression::Gzip.into(), &inner, &mut value).unwrap();
        let wrapper = parse(legacy(11, 1, None, Some(&value)));
        assert_eq!(Pass::default().run(&wrapper), Filtered::Unchanged);
        let pass = Pass { mapped: &[("a", 900)], ..Pass::default() };
        let after = pass.rewritten(&wrapper);
        assert_eq!((offsets(&after), after.header().delete_horizon), (vec![11], Some(pass.now + DAY)));
        assert_eq!(Pass { legacy_tombstones_kept: false, ..pass }.run(&wrapper), Filtered::Dropped);
    }

    #[test]
    fn only_keys_of_dirty_committed_data_are_mapped() {
        let mut map = OffsetMap::new(24 * 3, (1, 2));
        let mut transactions = CleanedTransactions::new([AbortedTransaction {
            producer_id: 4000,
            first_offset: 200,
            last_offset: 202,
            last_stable_offset: 203,
        }]);
        let mut feed = |map: &mut OffsetMap, batch: &RecordBatch, first_dirty| {
            map_keys(map, batch, first_dirty, &mut transactions, 0).unwrap()
        };
        // key1 at 100, a record without a key, key2 at 102.
        assert!(feed(&mut map, &parse(golden("B2_v2_idempotent3")), 101));
        assert_eq!((map.len, map.get(b"key1"), map.get(b"key2")), (1, None, Some(102)));
        assert!(feed(&mut map, &parse(golden("B2_v2_idempotent3")), 103));
        assert!(feed(&mut map, &parse(golden("B4_v2_txn")), 0), "aborted");
        assert!(feed(&mut map, &parse(golden("B6_abort_marker")), 0));
        assert_eq!(map.len, 1);
        assert!(!feed(&mut map, &parse(golden("B9a_before_cleaning")), 0), "three keys, room for one");
    }
}
