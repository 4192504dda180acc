//! What readers of a partition must get, found by looking through every batch of its log as a reader of Kafka's would.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::collections::{BTreeMap, BTreeSet};

use annals::format::{AbortedTransaction, ControlType};
use annals::{FetchOptions, Isolation, Partition, RecordBatch, Result, StoredRecord};

/// Whose a batch is, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Of no transaction.
    Plain,
    Open,
    /// Ended by the marker at this offset.
    Committed(u64),
    Aborted(u64),
    Control,
}

/// Every batch of the log with its fate, which the markers behind it tell.
pub fn fates(log: &Partition) -> Vec<(RecordBatch, Fate)> {
    let mut all: Vec<(RecordBatch, Fate)> = Vec::new();
    for batch in fetch_all(log, Isolation::LogEnd, 1 << 20).0 {
        let header = batch.header();
        let mut fate = if header.transactional { Fate::Open } else { Fate::Plain };
        if header.control {
            fate = Fate::Control;
            let (id, marker) = (header.producer_id, header.base_offset);
            let end = match control_type(&batch) {
                ControlType::Commit => Fate::Committed(marker),
                ControlType::Abort => Fate::Aborted(marker),
                other => panic!("control type {other:?}"),
            };
            let open = |(batch, fate): &&mut (RecordBatch, Fate)| {
                *fate == Fate::Open && batch.header().producer_id == id
            };
            all.iter_mut().filter(open).for_each(|(_, fate)| *fate = end);
        }
        all.push((batch, fate));
    }
    all
}

pub fn control_type(batch: &RecordBatch) -> ControlType {
    let records = batch.records(1 << 20).unwrap();
    let record = records.iter().next().unwrap();
    ControlType::parse(record.key().unwrap()).unwrap()
}

/// All that a reader of that isolation gets, some bytes at a time, and every aborted transaction it is told of.
pub fn fetch_all(
    log: &Partition,
    isolation: Isolation,
    max_bytes: u64,
) -> (Vec<RecordBatch>, Vec<AbortedTransaction>) {
    let (mut batches, mut aborted, mut offset) = (Vec::new(), Vec::new(), log.log_start());
    loop {
        let options = FetchOptions::new().max_bytes(max_bytes).isolation(isolation);
        let fetched = log.fetch(offset, options).unwrap();
        if fetched.batches.is_empty() {
            return (batches, aborted);
        }
        assert!(fetched.next_offset > offset, "a fetch at {offset} that does not go on");
        offset = fetched.next_offset;
        batches.extend(fetched.batches);
        aborted.extend(fetched.aborted);
    }
}

/// The offsets of the records that Kafka's own client would hand out from one answer.
pub fn filtered_as_by_kafka(
    batches: &[RecordBatch],
    aborted: &[AbortedTransaction],
    position: u64,
) -> Vec<u64> {
    let mut waiting: BTreeSet<(u64, i64)> =
        aborted.iter().map(|entry| (entry.first_offset, entry.producer_id)).collect();
    let (mut aborting, mut found) = (BTreeSet::new(), Vec::new());
    for batch in batches {
        let header = batch.header();
        if let Some(id) = header.producer_id {
            while let Some(&(first, begun)) =
                waiting.first().filter(|(first, _)| *first <= header.last_offset)
            {
                waiting.remove(&(first, begun));
                aborting.insert(begun);
            }
            if header.control {
                if control_type(batch) == ControlType::Abort {
                    aborting.remove(&id);
                }
            } else if header.transactional && aborting.contains(&id) {
                continue;
            }
        }
        if !header.control {
            let records = batch.records(1 << 20).unwrap();
            found.extend(records.into_iter().map(|record| record.offset()).filter(|&it| it >= position));
        }
    }
    found
}

/// The first offset of each open transaction, by producer.
pub fn open_in(fates: &[(RecordBatch, Fate)]) -> BTreeMap<i64, u64> {
    let mut open = BTreeMap::new();
    for (batch, _) in fates.iter().filter(|(_, fate)| *fate == Fate::Open) {
        open.entry(batch.header().producer_id.unwrap()).or_insert(batch.base_offset());
    }
    open
}

/// The last stable offset that follows from the log and a high watermark.
pub fn stable_in(fates: &[(RecordBatch, Fate)], high_watermark: u64) -> u64 {
    let unstable = |fate: Fate| match fate {
        Fate::Open => true,
        Fate::Committed(marker) | Fate::Aborted(marker) => marker >= high_watermark,
        Fate::Plain | Fate::Control => false,
    };
    let first = fates.iter().find(|(_, fate)| unstable(*fate));
    first.map_or(high_watermark, |(batch, _)| batch.base_offset().min(high_watermark))
}

pub fn read(log: &Partition, from: u64, isolation: Isolation) -> Vec<u64> {
    let all = log.read_from_with(from, isolation).unwrap().collect::<Result<Vec<StoredRecord>>>();
    all.unwrap().iter().map(StoredRecord::offset).collect()
}

fn offsets_where(fates: &[(RecordBatch, Fate)], bound: u64, may: impl Fn(Fate) -> bool) -> Vec<u64> {
    let visible = fates.iter().filter(|(batch, fate)| batch.next_offset() <= bound && may(*fate));
    visible
        .flat_map(|(batch, _)| batch.records(1 << 20).unwrap().into_iter().map(|record| record.offset()))
        .collect()
}

/// Holds everything that can be asked of a partition about transactions against its log.
pub fn check(log: &Partition) {
    let fates = fates(log);
    let (start, high_watermark) = (log.log_start(), log.high_watermark());
    let stable = stable_in(&fates, high_watermark).max(start);
    assert_eq!(log.last_stable_offset(), stable, "the last stable offset; {fates:#?}");
    let listed: BTreeMap<i64, u64> =
        log.open_transactions().iter().map(|open| (open.producer_id, open.first_offset)).collect();
    assert_eq!(listed, open_in(&fates), "the open transactions");

    let data = offsets_where(&fates, high_watermark, |fate| fate != Fate::Control);
    let committed = offsets_where(&fates, stable, |fate| matches!(fate, Fate::Plain | Fate::Committed(_)));
    for from in start..=log.log_end() {
        let behind = |all: &[u64]| all.iter().copied().filter(|&offset| offset >= from).collect::<Vec<u64>>();
        assert_eq!(read(log, from, Isolation::ReadUncommitted), behind(&data), "all from {from}");
        assert_eq!(read(log, from, Isolation::ReadCommitted), behind(&committed), "committed from {from}");
        let options = FetchOptions::new().isolation(Isolation::ReadCommitted);
        let fetched = log.fetch(from, options.max_bytes(1 << 20)).unwrap();
        assert_eq!(
            filtered_as_by_kafka(&fetched.batches, &fetched.aborted, from),
            behind(&committed),
            "fetched from {from}: {:?}",
            fetched.aborted
        );
        assert_eq!((fetched.high_watermark, fetched.last_stable_offset), (high_watermark, stable));
        let small = log.fetch(from, options.max_bytes(300)).unwrap();
        let mut part = behind(&committed);
        part.retain(|&offset| offset < small.next_offset);
        assert_eq!(filtered_as_by_kafka(&small.batches, &small.aborted, from), part, "300 bytes from {from}");
    }
}
