//! Compares all that a partition says with the model.

use annals::format::EndTransactionMarker;
use annals::{Error, FetchOptions, Isolation, Partition, RecordBatch, StoredRecord};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::model::{Batch, Kept, Marker, Model, end_of_epoch};

pub(crate) type Checked<T = ()> = Result<T, TestCaseError>;

/// Turns an error of the library into one of the case.
pub(crate) fn works<T>(result: annals::Result<T>, what: &str) -> Checked<T> {
    result.map_err(|error| TestCaseError::fail(format!("{what}: {error} ({error:?})")))
}

/// Small numbers that follow from a seed.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }
}

fn kept(record: &StoredRecord) -> Kept {
    Kept {
        offset: record.offset(),
        key: record.key().map(<[u8]>::to_vec),
        value: record.value().map(<[u8]>::to_vec),
        timestamp: record.timestamp(),
    }
}

pub(crate) fn read(log: &Partition, from: u64, isolation: Isolation) -> Checked<Vec<Kept>> {
    let mut found = vec![];
    for record in works(log.read_from_with(from, isolation), "reading")? {
        found.push(kept(&works(record, "a record")?));
    }
    Ok(found)
}

/// Fetches again and again until nothing more comes.
fn fetch(log: &Partition, from: u64, isolation: Isolation, max_bytes: u64) -> Checked<Vec<RecordBatch>> {
    let (mut found, mut at) = (vec![], from);
    loop {
        let options = FetchOptions::new().isolation(isolation).max_bytes(max_bytes);
        let fetched = works(log.fetch(at, options), "a fetch")?;
        prop_assert_eq!(fetched.log_start, log.log_start());
        prop_assert_eq!(fetched.high_watermark, log.high_watermark());
        prop_assert_eq!(fetched.last_stable_offset, log.last_stable_offset());
        let Some(last) = fetched.batches.last() else {
            prop_assert_eq!(fetched.next_offset, at);
            return Ok(found);
        };
        let bytes: u64 = fetched.batches.iter().map(|batch| batch.header().size).sum();
        prop_assert!(fetched.batches.len() == 1 || bytes <= max_bytes, "{} bytes of {}", bytes, max_bytes);
        prop_assert_eq!(fetched.next_offset, last.next_offset());
        at = fetched.next_offset;
        found.extend(fetched.batches);
    }
}

/// All batches, whoever may see them.
pub(crate) fn fetch_all(log: &Partition) -> Checked<Vec<RecordBatch>> {
    fetch(log, log.log_start(), Isolation::LogEnd, u64::MAX)
}

pub(crate) fn records_of(batch: &RecordBatch) -> Checked<Vec<Kept>> {
    if batch.header().control {
        return Ok(vec![]);
    }
    let records = batch.records(1 << 20).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let kept = |record: annals::format::RecordView<'_>| Kept {
        offset: record.offset(),
        key: record.key().map(<[u8]>::to_vec),
        value: record.value().map(<[u8]>::to_vec),
        timestamp: record.timestamp(),
    };
    Ok(records.iter().map(kept).collect())
}

fn marker_of(batch: &RecordBatch) -> Checked<Option<Marker>> {
    if !batch.header().control {
        return Ok(None);
    }
    let failed = |error: annals::FormatError| TestCaseError::fail(error.to_string());
    let records = batch.records(1 << 20).map_err(failed)?;
    let Some(first) = records.iter().next() else { return Ok(None) };
    let marker = EndTransactionMarker::parse(&first).map_err(failed)?;
    Ok(marker.map(|marker| Marker { coordinator: marker.coordinator_epoch, commit: marker.commit }))
}

/// That a stored batch is the one of the model, but for records that compaction took.
pub(crate) fn check_header(found: &RecordBatch, batch: &Batch) -> Checked {
    let header = found.header();
    prop_assert_eq!((header.base_offset, header.last_offset), (batch.base, batch.last));
    prop_assert_eq!(header.leader_epoch, Some(batch.leader_epoch), "of {}", batch.base);
    prop_assert_eq!(header.producer_id, batch.producer.map(|producer| producer.id), "of {}", batch.base);
    if let Some(producer) = batch.producer {
        prop_assert_eq!(header.producer_epoch, producer.epoch);
        prop_assert_eq!(header.base_sequence, producer.sequence);
        prop_assert_eq!(header.transactional, producer.transactional);
    }
    prop_assert_eq!(header.control, batch.marker.is_some());
    if header.records_count != Some(0) {
        prop_assert_eq!(marker_of(found)?, batch.marker);
    }
    Ok(())
}

pub(crate) fn check_batches(log: &Partition, model: &Model) -> Checked {
    let found = fetch_all(log)?;
    let bases: Vec<u64> = found.iter().map(RecordBatch::base_offset).collect();
    let expected: Vec<u64> = model.live().map(|batch| batch.base).collect();
    prop_assert_eq!(bases, expected, "the batches");
    for (found, batch) in found.iter().zip(model.live()) {
        check_header(found, batch)?;
        prop_assert_eq!(found.header().size, batch.size);
        prop_assert_eq!(found.header().max_timestamp, batch.max_timestamp);
        prop_assert_eq!(&records_of(found)?, &batch.records);
    }
    Ok(())
}

/// Everything. `chance` chooses where to look.
pub(crate) fn check(log: &Partition, model: &Model, chance: &mut Chance, now: i64) -> Checked {
    let (start, end) = (log.log_start(), log.log_end());
    prop_assert_eq!((start, end), (model.start, model.end), "log start and end");
    let high_watermark = log.high_watermark();
    prop_assert_eq!(high_watermark, model.high_watermark(), "high watermark");
    let stable = log.last_stable_offset();
    prop_assert!(model.stable().contains(&stable), "last stable offset {}, not {:?}", stable, model.stable());
    check_batches(log, model)?;
    let all: Vec<Kept> = model
        .seen(start, high_watermark)
        .flat_map(|batch| &batch.records)
        .filter(|record| record.offset >= start)
        .cloned()
        .collect();
    prop_assert_eq!(&read(log, start, Isolation::ReadUncommitted)?, &all, "all records");
    let from = chance.between(start, end);
    prop_assert_eq!(
        read(log, from, Isolation::ReadCommitted)?,
        model.committed(from, stable),
        "committed records from {}",
        from
    );
    check_fetches(log, model, from, chance)?;
    let next = works(log.read_from(from), "reading")?.next().transpose();
    let next = works(next, "a record")?.map(|record| kept(&record));
    prop_assert_eq!(next.as_ref(), all.iter().find(|record| record.offset >= from), "at {}", from);
    check_range(log, start, end)?;
    check_times(log, &all, now + chance.below(8_000) as i64 - 6_000)?;
    if model.in_flight.is_empty() {
        check_producers(log, model)?;
        check_epochs(log, &model.epochs)?;
    }
    check_segments(log, model)
}

fn check_fetches(log: &Partition, model: &Model, from: u64, chance: &mut Chance) -> Checked {
    let stable = log.last_stable_offset();
    for (isolation, bound) in
        [(Isolation::ReadUncommitted, model.high_watermark()), (Isolation::ReadCommitted, stable)]
    {
        let fetched = fetch(log, from, isolation, chance.below(600))?;
        let bases: Vec<u64> = fetched.iter().map(RecordBatch::base_offset).collect();
        let expected: Vec<u64> = model.seen(from, bound).map(|batch| batch.base).collect();
        prop_assert_eq!(bases, expected, "fetched from {} with {:?}", from, isolation);
    }
    // What a consumer makes of a fetch of committed data.
    let options = FetchOptions::new().isolation(Isolation::ReadCommitted).max_bytes(chance.below(1_500));
    let fetched = works(log.fetch(from, options), "a fetch")?;
    let mut found = vec![];
    for batch in &fetched.batches {
        let aborted = fetched.aborted.iter().any(|aborted| {
            batch.header().transactional
                && batch.header().producer_id == Some(aborted.producer_id)
                && (aborted.first_offset..aborted.last_offset).contains(&batch.base_offset())
        });
        let records = if aborted { vec![] } else { records_of(batch)? };
        found.extend(records.into_iter().filter(|record| record.offset >= from));
    }
    let expected = model.committed(from, stable.min(fetched.next_offset));
    prop_assert_eq!(found, expected, "what a consumer makes of a fetch from {}", from);
    Ok(())
}

fn check_range(log: &Partition, start: u64, end: u64) -> Checked {
    for outside in [start.checked_sub(1), Some(end + 1)].into_iter().flatten() {
        let refused = log.read_from(outside).is_err_and(|error| {
            matches!(error, Error::OffsetOutOfRange { requested, log_start, log_end, .. }
                if (requested, log_start, log_end) == (outside, start, end))
        });
        prop_assert!(refused, "{} lies outside of {} to {}", outside, start, end);
        prop_assert!(log.fetch(outside, FetchOptions::new()).is_err());
    }
    Ok(())
}

fn check_times(log: &Partition, all: &[Kept], time: i64) -> Checked {
    let found = works(log.offset_for_timestamp(time), "a time")?.map(|found| (found.offset, found.timestamp));
    let expected = all.iter().find(|record| record.timestamp >= time);
    prop_assert_eq!(found, expected.map(|record| (record.offset, record.timestamp)), "time {}", time);
    let newest = all.iter().map(|record| record.timestamp).max();
    let expected = all.iter().find(|record| Some(record.timestamp) == newest).map(|record| record.offset);
    let found = works(log.offset_of_max_timestamp(), "the latest time")?;
    prop_assert_eq!(found.map(|found| found.offset), expected, "the latest time");
    Ok(())
}

pub(crate) fn check_producers(log: &Partition, model: &Model) -> Checked {
    let found = log.producers();
    let expected = model.producers();
    let ids: Vec<i64> = found.iter().map(|producer| producer.producer_id).collect();
    prop_assert_eq!(ids, expected.keys().copied().collect::<Vec<_>>(), "the producers");
    for producer in found {
        let entry = &expected[&producer.producer_id];
        prop_assert_eq!(producer.producer_epoch, entry.epoch);
        let last = entry.batches.last();
        prop_assert_eq!(producer.last_sequence, last.map(|(_, sequence, ..)| *sequence), "{:?}", producer);
        prop_assert_eq!(producer.last_offset, last.map(|(.., offset)| *offset), "{:?}", producer);
        prop_assert_eq!(producer.last_timestamp, entry.last_timestamp, "{:?}", producer);
        let coordinator = Some(entry.coordinator).filter(|&epoch| epoch >= 0);
        prop_assert_eq!(producer.coordinator_epoch, coordinator, "{:?}", producer);
        prop_assert_eq!(producer.transaction_first_offset, entry.open, "{:?}", producer);
    }
    let open: Vec<(u64, i64)> =
        log.open_transactions().iter().map(|open| (open.first_offset, open.producer_id)).collect();
    let mut expected: Vec<(u64, i64)> =
        expected.iter().filter_map(|(id, entry)| Some((entry.open?, *id))).collect();
    expected.sort_unstable();
    prop_assert_eq!(open, expected, "the open transactions");
    Ok(())
}

/// The epochs that have an offset below the end.
pub(crate) fn epochs_of(log: &Partition) -> Vec<(i32, u64)> {
    let mut epochs: Vec<(i32, u64)> = vec![];
    for offset in 0..log.log_end() {
        let epoch = log.epoch_for_offset(offset);
        if epoch > epochs.last().map(|(epoch, _)| *epoch) {
            epochs.extend(epoch.map(|epoch| (epoch, offset)));
        }
    }
    epochs
}

pub(crate) fn check_epochs(log: &Partition, epochs: &[(i32, u64)]) -> Checked {
    let latest = epochs.last().map_or(0, |(epoch, _)| *epoch);
    for epoch in -1..=latest + 2 {
        let found = log.end_offset_for_epoch(epoch).map(|end| (end.epoch, end.end_offset));
        prop_assert_eq!(found, end_of_epoch(epochs, epoch, log.log_end()), "epoch {} of {:?}", epoch, epochs);
    }
    let end = log.log_end();
    for offset in 0..=end {
        let epoch = epochs.iter().rev().find(|(_, from)| *from <= offset && offset < end);
        prop_assert_eq!(log.epoch_for_offset(offset), epoch.map(|(epoch, _)| *epoch), "of {}", offset);
    }
    Ok(())
}

fn check_segments(log: &Partition, model: &Model) -> Checked {
    let segments = log.segments();
    prop_assert!(segments.is_sorted_by(|a, b| a < b), "{:?}", segments);
    prop_assert!(segments.first() <= Some(&model.start), "{:?}", segments);
    prop_assert!(segments.last() <= Some(&model.end), "{:?}", segments);
    for batch in &model.batches {
        let straddles = segments.iter().any(|base| batch.base < *base && *base <= batch.last);
        prop_assert!(!straddles, "{} to {} in {:?}", batch.base, batch.last, segments);
    }
    let size: u64 = model.in_files().map(|batch| batch.size).sum();
    let exact = log.size() == size || model.debris && log.size() > size;
    prop_assert!(exact, "{} bytes in all segments, not {}", log.size(), size);
    Ok(())
}
