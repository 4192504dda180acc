//! What a partition knows of its producers (Kafka's `ProducerStateManager`): their epochs, the last batches
//! of each, by which a repetition is recognised, and their transactions.
//!
//! It follows from the batches that it was shown, in the order of their offsets, and the times at which they
//! were appended: no I/O, no lock, no clock. A producer has at most one transaction open, and that is among
//! the ongoing ones exactly as long as the producer's entry names it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::error::{Error, FormatError, Result};
use crate::format::{
    AbortedTransaction, EndTransactionMarker, ProducerEntry, ProducerSnapshot, RecordBatch,
    decrement_sequence,
};
use crate::types::TopicPartition;

/// How many batches of a producer are remembered (Kafka's `NUM_BATCHES_TO_RETAIN`): as many as an idempotent
/// producer may have in flight.
const BATCHES_RETAINED: usize = 5;

/// The most that a control batch may decompress to, should somebody have compressed it: a marker takes 17
/// bytes.
const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Who appends a batch, and so what is checked of its producer (Kafka's `AppendOrigin`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A producer: everything is checked.
    Client,
    /// A coordinator, which gives its batches no sequence numbers: epochs and transactions are checked.
    Coordinator,
    /// The leader, or this log itself at recovery: whoever wrote it first has checked it.
    Replication,
}

/// What of a batch concerns its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProducerBatch {
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    /// The sequence number of its first record, -1 for none.
    pub(super) base_sequence: i32,
    /// The sequence number of its last record, -1 for none.
    pub(super) last_sequence: i32,
    pub(super) first_offset: u64,
    pub(super) last_offset: u64,
    /// The largest timestamp of its records; of a marker, its own.
    pub(super) max_timestamp: i64,
    pub(super) kind: BatchKind,
}

/// What a batch does to its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchKind {
    /// It holds records of the application.
    Data {
        /// Whether they belong to a transaction.
        transactional: bool,
    },
    /// It ends a transaction, if one is open.
    Marker(EndTransactionMarker),
    /// A control batch that ends nothing: emptied by compaction, or of another type.
    OtherControl,
}

impl ProducerBatch {
    /// What it is of this batch; `None` if it has no producer.
    pub(super) fn of(batch: &RecordBatch) -> std::result::Result<Option<Self>, FormatError> {
        let header = batch.header();
        let Some(producer_id) = header.producer_id else {
            return Ok(None);
        };
        let mut of = ProducerBatch {
            producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            first_offset: header.base_offset,
            last_offset: header.last_offset,
            max_timestamp: header.max_timestamp,
            kind: BatchKind::Data { transactional: header.transactional },
        };
        if header.control {
            of.kind = BatchKind::OtherControl;
            let records = batch.records(CONTROL_BYTES_MAX)?;
            if let Some(record) = records.iter().next() {
                if let Some(marker) = EndTransactionMarker::parse(&record)? {
                    of.kind = BatchKind::Marker(marker);
                    of.max_timestamp = record.timestamp();
                }
            }
        }
        Ok(Some(of))
    }
}

/// A batch of data that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BatchMetadata {
    /// The sequence number of its last record, -1 for none.
    pub(super) last_sequence: i32,
    /// The last offset less the first.
    pub(super) offset_delta: i32,
    pub(super) last_offset: u64,
    /// Its largest timestamp; of one that was loaded from a snapshot, the time of a later marker, if there is
    /// one.
    pub(super) timestamp: i64,
}

impl BatchMetadata {
    fn of(batch: &ProducerBatch) -> Self {
        let delta = batch.last_offset.saturating_sub(batch.first_offset);
        BatchMetadata {
            last_sequence: batch.last_sequence,
            offset_delta: i32::try_from(delta).unwrap_or(i32::MAX),
            last_offset: batch.last_offset,
            timestamp: batch.max_timestamp,
        }
    }

    /// The sequence number of its first record, -1 for none.
    pub(super) fn base_sequence(&self) -> i32 {
        if self.last_sequence < 0 { -1 } else { decrement_sequence(self.last_sequence, self.offset_delta) }
    }

    /// Its first offset.
    pub(super) fn base_offset(&self) -> u64 {
        self.last_offset.saturating_sub(u64::try_from(self.offset_delta).unwrap_or_default())
    }
}

/// The last batches of a producer in its epoch, newest first; those beyond `count` mean nothing.
#[derive(Debug, Clone, Copy, Default)]
struct LastBatches {
    newest_first: [BatchMetadata; BATCHES_RETAINED],
    count: usize,
}

impl LastBatches {
    fn push(&mut self, batch: BatchMetadata) {
        let [first, second, third, fourth, _] = self.newest_first;
        self.newest_first = [batch, first, second, third, fourth];
        self.count = (self.count + 1).min(BATCHES_RETAINED);
    }

    fn iter(&self) -> impl Iterator<Item = &BatchMetadata> {
        self.newest_first.iter().take(self.count)
    }

    fn last(&self) -> Option<&BatchMetadata> {
        self.iter().next()
    }

    fn clear(&mut self) {
        self.count = 0;
    }
}

/// What is known of one producer (Kafka's `ProducerStateEntry`).
#[derive(Debug, Clone)]
struct Entry {
    /// -1 for none: Kafka writes such entries into its snapshots.
    producer_epoch: i16,
    /// Of its last marker, -1 for none.
    coordinator_epoch: i32,
    /// Of the records of its last batch, or of its last marker.
    last_timestamp: i64,
    /// When its last batch was appended. Expiry goes by this: a producer may write events as old as it likes.
    appended: i64,
    transaction_first_offset: Option<u64>,
    batches: LastBatches,
}

impl Entry {
    fn new() -> Self {
        Entry {
            producer_epoch: -1,
            coordinator_epoch: -1,
            last_timestamp: -1,
            appended: 0,
            transaction_first_offset: None,
            batches: LastBatches::default(),
        }
    }

    /// The last sequence number in this epoch, -1 for none.
    fn last_sequence(&self) -> i32 {
        self.batches.last().map_or(-1, |batch| batch.last_sequence)
    }

    fn check_epoch(&self, batch: &ProducerBatch, partition: &TopicPartition) -> Result<()> {
        if batch.producer_epoch < self.producer_epoch {
            let (found, current) = (batch.producer_epoch.into(), self.producer_epoch.into());
            return Err(fenced(batch, partition, "producer epoch", found, current));
        }
        Ok(())
    }

    fn check_sequence(&self, batch: &ProducerBatch, partition: &TopicPartition) -> Result<()> {
        let next = if self.producer_epoch == -1 {
            return Ok(());
        } else if batch.producer_epoch != self.producer_epoch {
            0
        } else {
            // 0 comes after the largest number, and at the start.
            self.last_sequence().checked_add(1).unwrap_or(0)
        };
        if batch.base_sequence == next {
            return Ok(());
        }
        let expected = if batch.producer_epoch != self.producer_epoch {
            format!("epoch {} was the last one, and a new epoch begins with 0", self.producer_epoch)
        } else if self.last_sequence() == -1 {
            String::from("no sequence of that epoch is known, so 0 comes first")
        } else {
            format!("{} was the last one, so {next} comes next", self.last_sequence())
        };
        Err(Error::OutOfOrderSequence {
            partition: partition.to_string(),
            producer_id: batch.producer_id,
            producer_epoch: batch.producer_epoch,
            found: batch.base_sequence,
            expected,
        })
    }

    fn check_transaction(
        &self,
        batch: &ProducerBatch,
        transactional: bool,
        partition: &TopicPartition,
    ) -> Result<()> {
        match self.transaction_first_offset {
            Some(first_offset) if !transactional => Err(Error::InvalidTransactionState {
                partition: partition.to_string(),
                producer_id: batch.producer_id,
                reason: format!(
                    "its transaction is open since offset {first_offset}, but the batch belongs to none"
                ),
            }),
            _ => Ok(()),
        }
    }

    fn check_coordinator(
        &self,
        batch: &ProducerBatch,
        marker: EndTransactionMarker,
        partition: &TopicPartition,
    ) -> Result<()> {
        if marker.coordinator_epoch < self.coordinator_epoch {
            let (found, current) = (marker.coordinator_epoch, self.coordinator_epoch);
            return Err(fenced(batch, partition, "coordinator epoch", found, current));
        }
        Ok(())
    }
}

fn fenced(
    batch: &ProducerBatch,
    partition: &TopicPartition,
    what: &'static str,
    found: i32,
    current: i32,
) -> Error {
    Error::Fenced { partition: partition.to_string(), producer_id: batch.producer_id, what, found, current }
}

/// A transaction whose marker readers may not have yet.
#[derive(Debug, Clone, Copy)]
struct Completed {
    first_offset: u64,
    marker_offset: u64,
}

/// All producers of a partition, and their transactions.
#[derive(Debug, Clone, Default)]
pub(super) struct Producers {
    entries: HashMap<i64, Entry>,
    /// The undecided transactions by first offset and producer; each with the time of its first append,
    /// unless it was open already when the log was opened.
    ongoing: BTreeMap<(u64, i64), Option<i64>>,
    /// Transactions decided by markers that readers may not have yet, ascending both by first offset and by
    /// marker. One that began after a later decided one is left out: it is never the first that is unstable.
    completed: VecDeque<Completed>,
}

impl Producers {
    /// The batch itself, if it is among the last five of its producer: then nothing is to be written.
    pub(super) fn duplicate_of(&self, batch: &ProducerBatch) -> Option<BatchMetadata> {
        // Without sequence numbers nothing tells a repetition from the next batch.
        if !matches!(batch.kind, BatchKind::Data { .. }) || batch.base_sequence < 0 {
            return None;
        }
        let entry = self.entries.get(&batch.producer_id)?;
        if entry.producer_epoch != batch.producer_epoch {
            return None;
        }
        let same = |known: &&BatchMetadata| {
            known.last_sequence == batch.last_sequence && known.base_sequence() == batch.base_sequence
        };
        entry.batches.iter().find(same).copied()
    }

    /// Whether the batch, which is no duplicate, may be appended while at most `max_producers` may be
    /// tracked.
    ///
    /// The first batch of a producer that is not known may have any sequence number: what is known of it may
    /// have expired.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::OutOfOrderSequence`], [`Error::InvalidTransactionState`], and for one
    /// producer too many [`Error::TooLarge`].
    pub(super) fn check(
        &self,
        batch: &ProducerBatch,
        origin: Origin,
        partition: &TopicPartition,
        max_producers: usize,
    ) -> Result<()> {
        if origin == Origin::Replication || batch.kind == BatchKind::OtherControl {
            return Ok(());
        }
        let Some(entry) = self.entries.get(&batch.producer_id) else {
            return self.check_room(max_producers);
        };
        entry.check_epoch(batch, partition)?;
        match batch.kind {
            BatchKind::Data { transactional } => {
                if origin == Origin::Client {
                    entry.check_sequence(batch, partition)?;
                }
                entry.check_transaction(batch, transactional, partition)
            }
            BatchKind::Marker(marker) => entry.check_coordinator(batch, marker, partition),
            BatchKind::OtherControl => Ok(()),
        }
    }

    fn check_room(&self, max_producers: usize) -> Result<()> {
        if self.entries.len() < max_producers {
            return Ok(());
        }
        Err(Error::TooLarge {
            what: "the number of producers",
            size: self.entries.len() as u64 + 1,
            limit: max_producers as u64,
            setting: "annals.max.producers",
        })
    }

    /// Takes note of a batch that is in the log now, whether or not it should have been let in: what the log
    /// holds is true. `now` is the time of the append. Returns, for a marker that aborted a transaction, the
    /// entry for the transaction index.
    pub(super) fn apply(&mut self, batch: &ProducerBatch, now: i64) -> Option<AbortedTransaction> {
        if batch.kind == BatchKind::OtherControl {
            return None;
        }
        let entry = self.entries.entry(batch.producer_id).or_insert_with(Entry::new);
        if entry.producer_epoch != batch.producer_epoch {
            entry.producer_epoch = batch.producer_epoch;
            entry.batches.clear();
        }
        entry.last_timestamp = batch.max_timestamp;
        entry.appended = now;
        match batch.kind {
            BatchKind::Data { transactional } => {
                entry.batches.push(BatchMetadata::of(batch));
                if transactional && entry.transaction_first_offset.is_none() {
                    entry.transaction_first_offset = Some(batch.first_offset);
                    self.ongoing.insert((batch.first_offset, batch.producer_id), Some(now));
                }
                None
            }
            BatchKind::Marker(marker) => {
                entry.coordinator_epoch = marker.coordinator_epoch;
                let first_offset = entry.transaction_first_offset.take()?;
                let aborted = self.complete(batch, first_offset);
                (!marker.commit).then_some(aborted)
            }
            BatchKind::OtherControl => None,
        }
    }

    /// Ends the transaction that began at `first_offset`. Returns its entry for the transaction index, should
    /// it have been aborted.
    fn complete(&mut self, marker: &ProducerBatch, first_offset: u64) -> AbortedTransaction {
        let ProducerBatch { producer_id, first_offset: marker_offset, .. } = *marker;
        self.ongoing.remove(&(first_offset, producer_id));
        while self.completed.back().is_some_and(|earlier| earlier.first_offset >= first_offset) {
            self.completed.pop_back();
        }
        self.completed.push_back(Completed { first_offset, marker_offset });
        let undecided = self.first_undecided();
        AbortedTransaction {
            producer_id,
            first_offset,
            last_offset: marker_offset,
            last_stable_offset: undecided.unwrap_or_else(|| marker_offset.saturating_add(1)),
        }
    }

    fn first_undecided(&self) -> Option<u64> {
        self.ongoing.first_key_value().map(|(&(first_offset, _), _)| first_offset)
    }

    /// The first offset of the earliest transaction that is undecided, or decided by a marker that readers
    /// cannot have yet: one not below the high watermark.
    pub(super) fn first_unstable(&self) -> Option<u64> {
        let completed = self.completed.front().map(|completed| completed.first_offset);
        self.first_undecided().into_iter().chain(completed).min()
    }

    /// Readers may have everything below the high watermark now, markers included.
    pub(super) fn advance_high_watermark(&mut self, high_watermark: u64) {
        while self.completed.front().is_some_and(|completed| completed.marker_offset < high_watermark) {
            self.completed.pop_front();
        }
    }

    /// The log starts here now. Its producers are not forgotten, though the log may hold nothing of them any
    /// more.
    pub(super) fn raise_log_start(&mut self, log_start: u64) {
        self.advance_high_watermark(log_start);
    }

    /// Forgets producers that have appended nothing for `after_ms`, unless a transaction of theirs is open.
    /// Returns how many. Nobody is forgotten because the clock went back.
    pub(super) fn expire(&mut self, now: i64, after_ms: i64) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| {
            let idle = now.saturating_sub(entry.appended);
            entry.transaction_first_offset.is_some() || idle < after_ms
        });
        before - self.entries.len()
    }

    /// What a snapshot file says of all producers, in the order of their ids.
    pub(super) fn snapshot(&self) -> ProducerSnapshot {
        let describe = |(&producer_id, entry): (&i64, &Entry)| {
            let last = entry.batches.last();
            ProducerEntry {
                producer_id,
                producer_epoch: entry.producer_epoch,
                last_sequence: entry.last_sequence(),
                last_offset: last.map(|batch| batch.last_offset),
                offset_delta: last.map_or(0, |batch| batch.offset_delta),
                last_timestamp: entry.last_timestamp,
                coordinator_epoch: entry.coordinator_epoch,
                transaction_first_offset: entry.transaction_first_offset,
            }
        };
        let mut entries: Vec<_> = self.entries.iter().map(describe).collect();
        entries.sort_unstable_by_key(|entry| entry.producer_id);
        ProducerSnapshot { entries }
    }

    /// What was known when the snapshot was taken; of each producer, only its last batch. It does not say
    /// when that was appended: the time counts from `now`.
    pub(super) fn load(snapshot: &ProducerSnapshot, now: i64) -> Producers {
        let mut producers = Producers::default();
        for known in &snapshot.entries {
            let mut entry = Entry {
                producer_epoch: known.producer_epoch,
                coordinator_epoch: known.coordinator_epoch,
                last_timestamp: known.last_timestamp,
                appended: now,
                transaction_first_offset: known.transaction_first_offset,
                batches: LastBatches::default(),
            };
            if let Some(last_offset) = known.last_offset {
                entry.batches.push(BatchMetadata {
                    last_sequence: known.last_sequence,
                    offset_delta: known.offset_delta,
                    last_offset,
                    timestamp: known.last_timestamp,
                });
            }
            producers.entries.insert(known.producer_id, entry);
        }
        // From the entries, since a strange snapshot may name a producer twice.
        let open = |(&id, entry): (&i64, &Entry)| Some(((entry.transaction_first_offset?, id), None));
        producers.ongoing = producers.entries.iter().filter_map(open).collect();
        producers
    }

    /// The log is open now: of the transactions that are, nobody knows when they began.
    pub(super) fn opened(&mut self) {
        for started in self.ongoing.values_mut() {
            *started = None;
        }
    }

    /// Whether nothing is known: no producer, and no transaction of one that has expired.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.completed.is_empty()
    }

    /// How many producers are known.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All producers, in the order of their ids.
    pub(super) fn active(&self) -> Vec<ProducerState> {
        let describe = |(&producer_id, entry): (&i64, &Entry)| ProducerState {
            producer_id,
            producer_epoch: entry.producer_epoch,
            last_sequence: Some(entry.last_sequence()).filter(|&sequence| sequence >= 0),
            last_offset: entry.batches.last().map(|batch| batch.last_offset),
            last_timestamp: entry.last_timestamp,
            coordinator_epoch: Some(entry.coordinator_epoch).filter(|&epoch| epoch >= 0),
            transaction_first_offset: entry.transaction_first_offset,
        };
        let mut active: Vec<_> = self.entries.iter().map(describe).collect();
        active.sort_unstable_by_key(|producer| producer.producer_id);
        active
    }

    /// All undecided transactions, in the order of their first offsets.
    pub(super) fn open_transactions(&self) -> Vec<OpenTransaction> {
        let describe = |(&(first_offset, producer_id), &started): (&(u64, i64), &Option<i64>)| {
            let entry = self.entries.get(&producer_id)?;
            Some(OpenTransaction {
                producer_id,
                producer_epoch: entry.producer_epoch,
                first_offset,
                started,
                last_timestamp: entry.last_timestamp,
            })
        };
        self.ongoing.iter().filter_map(describe).collect()
    }

    /// What compaction must keep: of each producer its epoch, and the last offset of its last batch of data
    /// in it; `None` if a marker is all that is known of the epoch.
    pub(super) fn last_batches(&self) -> HashMap<i64, (i16, Option<u64>)> {
        let last = |entry: &Entry| entry.batches.last().map(|batch| batch.last_offset);
        self.entries.iter().map(|(&id, entry)| (id, (entry.producer_epoch, last(entry)))).collect()
    }
}

/// What a partition knows of one producer (Kafka's `DescribeProducers`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerState {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch: batches of an older one are refused.
    pub producer_epoch: i16,
    /// The sequence number of its last record in this epoch, if it numbers them.
    pub last_sequence: Option<i32>,
    /// The offset of that record; `None` if a transaction marker is all that is known of this epoch.
    pub last_offset: Option<u64>,
    /// The largest timestamp of its last batch, or the time of a later marker, in milliseconds since the
    /// epoch.
    pub last_timestamp: i64,
    /// The epoch of the coordinator that wrote its last marker.
    pub coordinator_epoch: Option<i32>,
    /// Where its open transaction began.
    pub transaction_first_offset: Option<u64>,
}

/// A transaction that is neither committed nor aborted. Readers of committed records wait at the first such.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// The offset of its first record.
    pub first_offset: u64,
    /// When that was appended, in milliseconds since the epoch; `None` if the transaction was open already
    /// when the store was opened.
    pub started: Option<i64>,
    /// The largest timestamp of its last batch, in milliseconds since the epoch.
    pub last_timestamp: i64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{BatchBuilder, BatchOptions, ControlType, Record};
    use crate::types::TopicName;

    const MAX: i32 = i32::MAX;
    const NO_LIMIT: usize = usize::MAX;

    fn partition() -> TopicPartition {
        TopicPartition { topic: TopicName::new("t").unwrap(), partition: 0 }
    }

    fn batch(producer_id: i64, epoch: i16, sequence: i32, offset: u64, count: i32) -> ProducerBatch {
        let last = if sequence < 0 { -1 } else { crate::format::increment_sequence(sequence, count - 1) };
        ProducerBatch {
            producer_id,
            producer_epoch: epoch,
            base_sequence: sequence,
            last_sequence: last,
            first_offset: offset,
            last_offset: offset + count as u64 - 1,
            max_timestamp: 1000 + offset as i64,
            kind: BatchKind::Data { transactional: false },
        }
    }

    /// One record of a transaction.
    fn in_transaction(producer_id: i64, epoch: i16, sequence: i32, offset: u64) -> ProducerBatch {
        let kind = BatchKind::Data { transactional: true };
        ProducerBatch { kind, ..batch(producer_id, epoch, sequence, offset, 1) }
    }

    fn marker(producer_id: i64, epoch: i16, offset: u64, coordinator_epoch: i32) -> ProducerBatch {
        let kind = BatchKind::Marker(EndTransactionMarker { coordinator_epoch, commit: true });
        ProducerBatch { kind, ..batch(producer_id, epoch, -1, offset, 1) }
    }

    fn abort(producer_id: i64, epoch: i16, offset: u64) -> ProducerBatch {
        let kind = BatchKind::Marker(EndTransactionMarker { coordinator_epoch: 0, commit: false });
        ProducerBatch { kind, ..batch(producer_id, epoch, -1, offset, 1) }
    }

    fn after(batches: &[ProducerBatch]) -> Producers {
        let mut producers = Producers::default();
        for batch in batches {
            producers.apply(batch, 0);
        }
        producers
    }

    /// What became of a check, with what its error says that matters.
    #[derive(Debug, PartialEq, Eq)]
    enum Outcome {
        Accepted,
        Fenced(&'static str, i32, i32),
        OutOfOrder(i32),
        TransactionState,
        TooMany(u64, u64),
    }
    use Outcome::{Accepted, Fenced, OutOfOrder, TooMany, TransactionState};

    fn outcome(
        producers: &Producers,
        batch: &ProducerBatch,
        origin: Origin,
        max_producers: usize,
    ) -> Outcome {
        match producers.check(batch, origin, &partition(), max_producers) {
            Ok(()) => Accepted,
            Err(Error::Fenced { what, found, current, partition, producer_id }) => {
                assert_eq!((partition.as_str(), producer_id), ("t-0", batch.producer_id));
                Fenced(what, found, current)
            }
            Err(Error::OutOfOrderSequence { found, producer_epoch, .. }) => {
                assert_eq!(producer_epoch, batch.producer_epoch);
                OutOfOrder(found)
            }
            Err(Error::InvalidTransactionState { .. }) => TransactionState,
            Err(Error::TooLarge { size, limit, setting: "annals.max.producers", .. }) => TooMany(size, limit),
            Err(other) => panic!("{other}"),
        }
    }

    /// Checks what a client and a coordinator get for a batch behind others. Replication may always append.
    fn assert_outcomes(case: &str, log: &[ProducerBatch], next: ProducerBatch, outcomes: [Outcome; 2]) {
        let producers = after(log);
        let [client, coordinator] = outcomes;
        assert_eq!(outcome(&producers, &next, Origin::Client, NO_LIMIT), client, "client: {case}");
        let got = outcome(&producers, &next, Origin::Coordinator, NO_LIMIT);
        assert_eq!(got, coordinator, "coordinator: {case}");
        assert_eq!(outcome(&producers, &next, Origin::Replication, NO_LIMIT), Accepted, "{case}");
    }

    fn accepts(case: &str, log: &[ProducerBatch], next: ProducerBatch) {
        assert_outcomes(case, log, next, [Accepted, Accepted]);
    }

    /// Only clients have to number their batches.
    fn out_of_order(case: &str, log: &[ProducerBatch], next: ProducerBatch) {
        assert_outcomes(case, log, next, [OutOfOrder(next.base_sequence), Accepted]);
    }

    #[test]
    fn sequence_numbers_are_checked_as_kafka_does() {
        let one = |sequence, offset| batch(1, 0, sequence, offset, 1);
        accepts("an unknown producer begins with any number", &[], one(5, 0));
        accepts("an unknown producer has none", &[], one(-1, 0));
        accepts("the next number", &[one(5, 0)], one(6, 1));
        accepts("the number after a batch of three", &[batch(1, 0, 5, 0, 3)], one(8, 3));
        out_of_order("one left out", &[one(5, 0)], one(7, 1));
        out_of_order("one that was there", &[one(5, 0)], one(5, 1));
        out_of_order("0 in the middle", &[one(5, 0)], one(0, 1));
        out_of_order("none where they are numbered", &[one(5, 0)], one(-1, 1));
        accepts("0 comes after the largest number", &[one(MAX, 0)], one(0, 1));
        out_of_order("1 does not", &[one(MAX, 0)], one(1, 1));
        accepts("a batch across the largest number", &[batch(1, 0, MAX - 1, 0, 5)], one(3, 5));
        let unnumbered = batch(1, 0, -1, 0, 1);
        accepts("a client begins with 0 after a coordinator's batch", &[unnumbered], one(0, 1));
        out_of_order("and with nothing else", &[unnumbered], one(1, 1));
        accepts("producers do not concern each other", &[one(5, 0)], batch(2, 0, 9, 1, 1));
    }

    #[test]
    fn sequence_numbers_continue_across_transactions_and_begin_again_in_a_new_epoch() {
        let ended = [in_transaction(1, 0, 0, 0), marker(1, 0, 1, 0)];
        accepts("they continue across transactions", &ended, in_transaction(1, 0, 1, 2));
        out_of_order("and do not begin again", &ended, in_transaction(1, 0, 0, 2));
        let nine = batch(1, 3, 9, 0, 1);
        accepts("a new epoch begins with 0", &[nine], batch(1, 4, 0, 1, 1));
        out_of_order("a new epoch begins with nothing else", &[nine], batch(1, 4, 10, 1, 1));
        let alone = marker(1, 3, 0, 0);
        accepts("a producer known by a marker alone begins with 0", &[alone], batch(1, 3, 0, 1, 1));
        out_of_order("and with nothing else", &[alone], batch(1, 3, 7, 1, 1));
        let lifted = [nine, marker(1, 4, 1, 0)];
        accepts("a marker of a new epoch makes it begin with 0", &lifted, batch(1, 4, 0, 2, 1));
        out_of_order("and it does not continue", &lifted, batch(1, 4, 10, 2, 1));
    }

    #[test]
    fn epochs_are_checked_as_kafka_does() {
        let refuses = |case, log: &[ProducerBatch], next, what, found, current| {
            let fenced = || Fenced(what, found, current);
            assert_outcomes(case, log, next, [fenced(), fenced()]);
        };
        let (producer, coordinator) = ("producer epoch", "coordinator epoch");
        let data = batch(1, 3, 0, 0, 1);
        refuses("an older epoch", &[data], batch(1, 2, 1, 1, 1), producer, 2, 3);
        refuses("a marker of an older epoch", &[data], marker(1, 2, 1, 0), producer, 2, 3);
        accepts("a marker of the same epoch", &[data], marker(1, 3, 1, 0));
        accepts("a marker of a newer epoch", &[data], marker(1, 4, 1, 0));
        accepts("a marker of an unknown producer", &[], marker(1, 0, 0, 0));
        let end = ProducerBatch { kind: BatchKind::OtherControl, ..batch(1, 0, -1, 1, 1) };
        accepts("the end of a transaction that is gone", &[data], end);
        let ended = marker(1, 3, 0, 5);
        refuses("a marker fences an older epoch", &[ended], batch(1, 2, 0, 1, 1), producer, 2, 3);
        refuses("a marker of an older coordinator", &[ended], marker(1, 3, 1, 4), coordinator, 4, 5);
        refuses("even of a newer epoch", &[ended], marker(1, 4, 1, 4), coordinator, 4, 5);
        refuses("the producer's epoch is looked at first", &[ended], marker(1, 2, 1, 4), producer, 2, 3);
        accepts("a marker of the same coordinator", &[ended], marker(1, 3, 1, 5));
        let log = [ended, batch(1, 7, 0, 1, 1)];
        refuses("data does not lift the coordinator's epoch", &log, marker(1, 7, 2, 4), coordinator, 4, 5);
    }

    #[test]
    fn transactions_are_checked_as_kafka_does() {
        let refuses = |case, log: &[ProducerBatch], next| {
            assert_outcomes(case, log, next, [TransactionState, TransactionState]);
        };
        let begin = in_transaction(1, 0, 0, 0);
        refuses("a batch outside an open transaction", &[begin], batch(1, 0, 1, 1, 1));
        refuses("a new epoch does not end it", &[begin], batch(1, 1, 0, 1, 1));
        accepts("a batch inside it", &[begin], in_transaction(1, 0, 1, 1));
        accepts("a batch after it", &[begin, marker(1, 0, 1, 0)], batch(1, 0, 1, 2, 1));
        accepts("a transaction after other batches", &[batch(1, 0, 0, 0, 1)], in_transaction(1, 0, 1, 1));
        accepts("a batch of somebody else", &[begin], batch(2, 0, 0, 1, 1));
        let both = batch(1, 0, 9, 1, 1);
        assert_outcomes("sequences are looked at first", &[begin], both, [OutOfOrder(9), TransactionState]);
    }

    #[test]
    fn errors_say_what_would_have_been_accepted() {
        let text = |log: &[ProducerBatch], next: &ProducerBatch| {
            after(log).check(next, Origin::Client, &partition(), NO_LIMIT).unwrap_err().to_string()
        };
        assert_eq!(
            text(&[batch(1, 0, 5, 0, 1)], &batch(1, 0, 9, 1, 1)),
            "t-0 refuses sequence 9 of producer 1 (epoch 0): 5 was the last one, so 6 comes next"
        );
        assert_eq!(
            text(&[batch(1, 0, MAX, 0, 1)], &batch(1, 0, 9, 1, 1)),
            "t-0 refuses sequence 9 of producer 1 (epoch 0): 2147483647 was the last one, so 0 comes next"
        );
        assert_eq!(
            text(&[batch(1, 0, 5, 0, 1)], &batch(1, 1, 6, 1, 1)),
            "t-0 refuses sequence 6 of producer 1 (epoch 1): epoch 0 was the last one, and a new epoch \
             begins with 0"
        );
        assert_eq!(
            text(&[marker(1, 0, 0, 0)], &batch(1, 0, 6, 1, 1)),
            "t-0 refuses sequence 6 of producer 1 (epoch 0): no sequence of that epoch is known, so 0 comes \
             first"
        );
        assert_eq!(
            text(&[in_transaction(1, 0, 0, 7)], &batch(1, 0, 1, 8, 1)),
            "t-0 refuses producer 1: its transaction is open since offset 7, but the batch belongs to none"
        );
    }

    #[test]
    fn one_producer_too_many_is_refused_unless_the_leader_took_it() {
        let producers = after(&[batch(1, 0, 0, 0, 1), batch(2, 0, 0, 1, 1)]);
        let new = batch(3, 0, 0, 2, 1);
        assert_eq!(outcome(&producers, &new, Origin::Client, 2), TooMany(3, 2));
        assert_eq!(outcome(&producers, &new, Origin::Client, 3), Accepted);
        assert_eq!(outcome(&producers, &new, Origin::Coordinator, 2), TooMany(3, 2));
        assert_eq!(outcome(&producers, &new, Origin::Replication, 2), Accepted);
        assert_eq!(outcome(&producers, &batch(2, 0, 1, 2, 1), Origin::Client, 2), Accepted);
    }

    #[test]
    fn a_repetition_of_one_of_the_last_five_batches_is_found() {
        let batches: Vec<_> = (0..7).map(|n| batch(1, 0, 2 * n, 100 + 2 * n as u64, 2)).collect();
        let producers = after(&batches);
        for old in &batches[..2] {
            assert_eq!(producers.duplicate_of(old), None);
            let refused = outcome(&producers, old, Origin::Client, NO_LIMIT);
            assert_eq!(refused, OutOfOrder(old.base_sequence), "older than five is out of order");
        }
        for known in &batches[2..] {
            let again = ProducerBatch { first_offset: 900, last_offset: 901, ..*known };
            let found = producers.duplicate_of(&again).unwrap();
            assert_eq!((found.base_offset(), found.last_offset), (known.first_offset, known.last_offset));
            assert_eq!(
                (found.base_sequence(), found.last_sequence),
                (known.base_sequence, known.last_sequence)
            );
            assert_eq!(found.timestamp, known.max_timestamp);
        }
    }

    #[test]
    fn what_only_resembles_a_repetition_is_none() {
        let producers = after(&[batch(1, 1, 4, 0, 2)]);
        let not = [
            ("it begins earlier", batch(1, 1, 3, 9, 3)),
            ("it begins later", batch(1, 1, 5, 9, 1)),
            ("it ends earlier", batch(1, 1, 4, 9, 1)),
            ("it ends later", batch(1, 1, 4, 9, 3)),
            ("an older epoch", batch(1, 0, 4, 9, 2)),
            ("a newer epoch", batch(1, 2, 4, 9, 2)),
            ("somebody else", batch(2, 1, 4, 9, 2)),
        ];
        for (case, other) in not {
            assert_eq!(producers.duplicate_of(&other), None, "{case}");
        }
        assert!(producers.duplicate_of(&batch(1, 1, 4, 9, 2)).is_some());
        let unnumbered = batch(1, 1, -1, 0, 1);
        assert_eq!(after(&[unnumbered]).duplicate_of(&unnumbered), None, "a coordinator's batch");
        let marker = marker(1, 1, 0, 0);
        assert_eq!(after(&[marker]).duplicate_of(&marker), None, "a marker");
        let numbered = ProducerBatch { kind: marker.kind, ..batch(1, 1, 4, 9, 2) };
        assert_eq!(producers.duplicate_of(&numbered), None, "a marker with the sequence numbers of data");
    }

    #[test]
    fn repetitions_are_found_across_the_largest_number_and_across_markers_but_not_epochs() {
        let across = batch(1, 0, MAX - 1, 0, 4);
        assert_eq!((across.base_sequence, across.last_sequence), (MAX - 1, 1));
        let mut producers = after(&[across]);
        assert_eq!(producers.duplicate_of(&across).unwrap().base_sequence(), MAX - 1);
        producers.apply(&marker(1, 0, 4, 0), 0);
        assert!(producers.duplicate_of(&across).is_some(), "a marker of the same epoch");
        producers.apply(&marker(1, 1, 5, 0), 0);
        assert_eq!(producers.duplicate_of(&across), None, "a marker of a new one");
        let first = batch(1, 2, 0, 6, 1);
        producers.apply(&first, 0);
        assert!(producers.duplicate_of(&first).is_some());
        assert_eq!(producers.duplicate_of(&ProducerBatch { producer_epoch: 1, ..first }), None);
    }

    #[test]
    fn a_transaction_begins_at_its_first_batch_and_ends_at_its_marker() {
        let mut producers =
            after(&[batch(1, 0, 0, 10, 1), in_transaction(1, 0, 1, 11), in_transaction(1, 0, 2, 12)]);
        assert_eq!(producers.first_unstable(), Some(11));
        assert_eq!(producers.active()[0].transaction_first_offset, Some(11));
        assert_eq!(producers.apply(&marker(1, 0, 13, 4), 0), None, "a commit is not indexed");
        assert_eq!(producers.active()[0].transaction_first_offset, None);
        assert_eq!(producers.active()[0].coordinator_epoch, Some(4));
        producers.advance_high_watermark(13);
        assert_eq!(producers.first_unstable(), Some(11), "readers do not have the marker");
        producers.advance_high_watermark(14);
        assert_eq!(producers.first_unstable(), None);
        assert_eq!(producers.apply(&abort(1, 0, 14), 0), None, "there was nothing to abort");
        assert_eq!(producers.first_unstable(), None);
    }

    #[test]
    fn the_first_unstable_offset_waits_for_all_transactions_below() {
        let mut producers = after(&[
            in_transaction(1, 0, 0, 0),
            in_transaction(2, 0, 0, 1),
            in_transaction(3, 0, 0, 2),
            marker(2, 0, 3, 0),
        ]);
        producers.advance_high_watermark(4);
        assert_eq!(producers.first_unstable(), Some(0), "1 is undecided, though 2 is decided");
        producers.apply(&marker(1, 0, 4, 0), 0);
        assert_eq!(producers.first_unstable(), Some(0), "1 is decided, but readers cannot know");
        producers.advance_high_watermark(5);
        assert_eq!(producers.first_unstable(), Some(2), "3 is undecided");
        // One that began after the last decided one, decided before the high watermark came to either.
        for batch in [in_transaction(1, 0, 1, 5), marker(1, 0, 6, 0), marker(3, 0, 7, 0)] {
            producers.apply(&batch, 0);
        }
        producers.advance_high_watermark(7);
        assert_eq!(producers.first_unstable(), Some(2));
        producers.advance_high_watermark(8);
        assert_eq!(producers.first_unstable(), None);
    }

    #[test]
    fn a_raised_log_start_ends_the_wait_for_markers_below_it_and_forgets_no_producer() {
        let mut producers = after(&[
            in_transaction(1, 0, 0, 0),
            marker(1, 0, 1, 0),
            in_transaction(2, 0, 0, 2),
            marker(2, 0, 3, 0),
        ]);
        producers.raise_log_start(1);
        assert_eq!(producers.first_unstable(), Some(0));
        producers.raise_log_start(2);
        assert_eq!(producers.first_unstable(), Some(2));
        producers.raise_log_start(9);
        assert_eq!((producers.first_unstable(), producers.len()), (None, 2));
        let mut open = after(&[in_transaction(1, 0, 0, 0)]);
        open.raise_log_start(9);
        assert_eq!(open.first_unstable(), Some(0), "an undecided one is not dropped");
    }

    #[test]
    fn an_aborted_transaction_is_indexed_with_the_last_stable_offset_of_the_others() {
        let mut producers =
            after(&[in_transaction(1, 0, 0, 5), in_transaction(2, 0, 0, 6), in_transaction(3, 0, 0, 7)]);
        let entry = |producer_id, first_offset, last_offset, last_stable_offset| {
            Some(AbortedTransaction { producer_id, first_offset, last_offset, last_stable_offset })
        };
        assert_eq!(producers.apply(&abort(1, 0, 8), 0), entry(1, 5, 8, 6));
        assert_eq!(producers.apply(&abort(3, 0, 9), 0), entry(3, 7, 9, 6), "one that began earlier");
        assert_eq!(producers.apply(&abort(2, 0, 10), 0), entry(2, 6, 10, 11), "there is no other");
    }

    #[test]
    fn producers_expire_by_the_time_of_their_appends() {
        let mut producers = Producers::default();
        // The records say 1970, which is no reason to forget who wrote them.
        producers.apply(&batch(1, 0, 0, 0, 1), 1_000_000);
        producers.apply(&batch(2, 0, 0, 1, 1), 1_000_100);
        producers.apply(&in_transaction(3, 0, 0, 2), 1_000_000);
        assert_eq!(producers.expire(0, 500), 0, "the clock went back");
        assert_eq!(producers.expire(i64::MIN, 0), 0, "as far as it can");
        assert_eq!(producers.expire(1_000_499, 500), 0);
        assert_eq!(producers.expire(1_000_500, 500), 1, "the first, but not the one with a transaction");
        assert_eq!(producers.active().iter().map(|known| known.producer_id).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(outcome(&producers, &batch(1, 0, 77, 3, 1), Origin::Client, NO_LIMIT), Accepted);
        producers.apply(&marker(3, 0, 3, 0), 1_000_550);
        assert_eq!(producers.expire(1_001_049, 500), 1, "the second; the third's marker is young");
        assert_eq!(producers.expire(1_001_050, 500), 1);
        assert_eq!((producers.len(), producers.is_empty()), (0, false), "the transaction is not stable yet");
        producers.advance_high_watermark(4);
        assert!(producers.is_empty());
        producers.apply(&batch(1, 0, 0, 4, 1), i64::MIN);
        assert_eq!(producers.expire(i64::MAX, i64::MAX), 1);
    }

    #[test]
    fn users_see_producers_and_open_transactions() {
        let mut producers = Producers::default();
        producers.apply(&in_transaction(9, 1, 4, 20), 7);
        producers.apply(&in_transaction(9, 1, 5, 21), 8);
        producers.apply(&in_transaction(2, 0, 0, 22), 9);
        producers.apply(&marker(4, 3, 23, 6), 10);
        let known = |producer_id, producer_epoch, offset: u64| ProducerState {
            producer_id,
            producer_epoch,
            last_sequence: None,
            last_offset: None,
            last_timestamp: 1000 + offset as i64,
            coordinator_epoch: None,
            transaction_first_offset: None,
        };
        assert_eq!(
            producers.active(),
            [
                ProducerState {
                    last_sequence: Some(0),
                    last_offset: Some(22),
                    transaction_first_offset: Some(22),
                    ..known(2, 0, 22)
                },
                ProducerState { coordinator_epoch: Some(6), ..known(4, 3, 23) },
                ProducerState {
                    last_sequence: Some(5),
                    last_offset: Some(21),
                    transaction_first_offset: Some(20),
                    ..known(9, 1, 21)
                },
            ]
        );
        let open = |producer_id, producer_epoch, first_offset, started, last_timestamp| OpenTransaction {
            producer_id,
            producer_epoch,
            first_offset,
            started,
            last_timestamp,
        };
        assert_eq!(
            producers.open_transactions(),
            [open(9, 1, 20, Some(7), 1021), open(2, 0, 22, Some(9), 1022),]
        );
        let last = HashMap::from([(9, (1, Some(21))), (2, (0, Some(22))), (4, (3, None))]);
        assert_eq!(producers.last_batches(), last);
        producers.opened();
        assert_eq!(producers.open_transactions()[0].started, None);
        assert_eq!(producers.open_transactions()[1].started, None);
    }

    #[test]
    fn a_loaded_snapshot_knows_the_last_batch_and_the_open_transaction() {
        let (earlier, last) = (batch(1, 0, 0, 0, 2), in_transaction(1, 0, 2, 2));
        let saved = after(&[earlier, last, in_transaction(2, 5, 0, 3), marker(2, 5, 4, 8)]);
        let mut loaded = Producers::load(&saved.snapshot(), 500);
        assert_eq!(loaded.snapshot(), saved.snapshot());
        assert_eq!(loaded.active(), saved.active());
        assert_eq!((loaded.duplicate_of(&earlier), saved.duplicate_of(&earlier).is_some()), (None, true));
        assert_eq!(loaded.duplicate_of(&last).unwrap().base_offset(), 2);
        assert_eq!(loaded.first_unstable(), Some(2));
        assert_eq!(loaded.open_transactions()[0].started, None);
        assert_eq!(loaded.expire(999, 500), 0, "it counts from the time of loading");
        assert_eq!(loaded.expire(1000, 500), 1, "the one without a transaction");
        let aborted = loaded.apply(&abort(1, 0, 5), 1000).unwrap();
        assert_eq!((aborted.first_offset, aborted.last_stable_offset), (2, 6));
    }

    #[test]
    fn a_strange_snapshot_does_no_harm() {
        let entry = ProducerEntry {
            producer_id: 1,
            producer_epoch: -1,
            last_sequence: 3,
            last_offset: Some(4),
            offset_delta: -9,
            last_timestamp: -1,
            coordinator_epoch: -1,
            transaction_first_offset: Some(7),
        };
        let twice =
            ProducerEntry { offset_delta: i32::MAX, transaction_first_offset: Some(8), ..entry.clone() };
        let other = ProducerEntry { producer_id: 2, ..twice.clone() };
        let mut loaded = Producers::load(&ProducerSnapshot { entries: vec![entry, twice, other] }, 0);
        assert_eq!((loaded.len(), loaded.first_unstable()), (2, Some(8)));
        let next = in_transaction(1, 0, 50, 9);
        assert_eq!(outcome(&loaded, &next, Origin::Client, NO_LIMIT), Accepted, "Kafka's entry of nobody");
        assert_eq!(loaded.duplicate_of(&ProducerBatch { producer_epoch: -1, ..next }), None);
        loaded.apply(&marker(1, 0, 9, 0), 0);
        loaded.advance_high_watermark(10);
        assert_eq!(loaded.first_unstable(), Some(8), "the other's, which began at the same offset");
        loaded.apply(&marker(2, 0, 10, 0), 0);
        loaded.advance_high_watermark(11);
        assert_eq!(loaded.first_unstable(), None);
    }

    /// Bytes that Kafka wrote.
    fn vector(name: &str) -> Vec<u8> {
        let lines = include_str!("../../tests/data/golden_vectors.txt").lines();
        let found = lines.map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[0] == name);
        let hex = found.unwrap()[2];
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn of(bytes: Vec<u8>) -> Option<ProducerBatch> {
        ProducerBatch::of(&RecordBatch::parse(bytes.into()).unwrap()).unwrap()
    }

    #[test]
    fn kafkas_batches_are_understood() {
        const T: i64 = 1_700_000_000_000;
        let data = ProducerBatch {
            producer_id: 4000,
            producer_epoch: 3,
            base_sequence: 0,
            last_sequence: 1,
            first_offset: 200,
            last_offset: 201,
            max_timestamp: T + 1,
            kind: BatchKind::Data { transactional: true },
        };
        assert_eq!(of(vector("B4_v2_txn")), Some(data));
        assert_eq!(of(vector("B7_empty_after_compaction")), Some(data), "compaction keeps all that matters");
        let end = |commit| ProducerBatch {
            base_sequence: -1,
            last_sequence: -1,
            first_offset: 202,
            last_offset: 202,
            max_timestamp: T + 2,
            kind: BatchKind::Marker(EndTransactionMarker { coordinator_epoch: 11, commit }),
            ..data
        };
        assert_eq!(of(vector("B5_commit_marker")), Some(end(true)));
        assert_eq!(of(vector("B6_abort_marker")), Some(end(false)));
        let mut later = vector("B5_commit_marker");
        crate::format::stamp_max_timestamp(&mut later, T + 9).unwrap();
        assert_eq!(of(later), Some(end(true)), "a marker's time is its record's");
        assert_eq!(of(vector("B1_v2_single")), None);
        assert_eq!(of(vector("B8_leader_change")), None);

        let mut producers = after(&[data]);
        let aborted = AbortedTransaction {
            producer_id: 4000,
            first_offset: 200,
            last_offset: 202,
            last_stable_offset: 203,
        };
        assert_eq!(producers.apply(&end(false), 0), Some(aborted));
        assert_eq!(
            producers.snapshot().entries,
            [ProducerEntry {
                producer_id: 4000,
                producer_epoch: 3,
                last_sequence: 1,
                last_offset: Some(201),
                offset_delta: 1,
                last_timestamp: T + 2,
                coordinator_epoch: 11,
                transaction_first_offset: None,
            }]
        );
    }

    #[test]
    fn kafkas_snapshot_comes_out_as_it_went_in() {
        let bytes = vector("F2_snapshot_2entries");
        let loaded = Producers::load(&ProducerSnapshot::decode(&bytes).unwrap(), 0);
        assert_eq!(loaded.snapshot().encode().unwrap(), bytes);
        assert_eq!(loaded.first_unstable(), Some(205));
        let next = |sequence| batch(4000, 3, sequence, 300, 1);
        assert_eq!(outcome(&loaded, &next(13), Origin::Client, NO_LIMIT), Accepted);
        assert_eq!(outcome(&loaded, &next(12), Origin::Client, NO_LIMIT), OutOfOrder(12));
        let found = loaded.duplicate_of(&batch(4001, 0, 0, 300, 5)).unwrap();
        assert_eq!((found.base_offset(), found.last_offset), (205, 209));
        let nothing = Producers::load(&ProducerSnapshot::default(), 0);
        assert_eq!(nothing.snapshot().encode().unwrap(), vector("F2_snapshot_empty"));
        assert!(nothing.is_empty());
    }

    #[test]
    fn control_batches_that_end_nothing_change_nothing() {
        let control = |records: &[(&[u8], &[u8])]| {
            let mut builder = BatchBuilder::new(BatchOptions {
                producer_id: 1,
                producer_epoch: 9,
                transactional: true,
                control: true,
                ..BatchOptions::default()
            });
            for (key, value) in records {
                builder.push(&Record::new(value).key(key)).unwrap();
            }
            RecordBatch::parse(builder.finish().unwrap().into()).unwrap()
        };
        let unknown = control(&[(&ControlType::Unknown(77).encode_key(), b"")]);
        let emptied = crate::format::encode_empty(unknown.header()).unwrap();
        for batch in [unknown, RecordBatch::parse(emptied.into()).unwrap()] {
            let batch = ProducerBatch::of(&batch).unwrap().unwrap();
            assert_eq!(batch.kind, BatchKind::OtherControl);
            let mut producers = after(&[in_transaction(1, 0, 0, 0)]);
            let before = producers.snapshot();
            assert_eq!(producers.apply(&batch, 5), None);
            assert_eq!((producers.snapshot(), producers.first_unstable()), (before, Some(0)));
            assert_eq!(producers.expire(4, 4), 0);
            assert!(after(&[batch]).is_empty());
        }
        let strange = control(&[(&[0, 0, 0], b"")]);
        assert!(matches!(ProducerBatch::of(&strange), Err(FormatError::Short { .. })));
        let cut = control(&[(&ControlType::Abort.encode_key(), &[0, 0, 0])]);
        assert!(matches!(ProducerBatch::of(&cut), Err(FormatError::Short { .. })));
    }

    /// All that ever happened; every answer is found by looking through it.
    #[derive(Default)]
    struct Model {
        log: Vec<(ProducerBatch, i64)>,
        /// Where the history of an expired producer ends.
        forgotten: HashMap<i64, usize>,
        stable_below: u64,
    }

    impl Model {
        fn of(&self, producer_id: i64) -> impl DoubleEndedIterator<Item = &ProducerBatch> {
            let from = self.forgotten.get(&producer_id).copied().unwrap_or(0);
            self.log[from..].iter().map(|(batch, _)| batch).filter(move |batch| {
                batch.producer_id == producer_id && batch.kind != BatchKind::OtherControl
            })
        }

        fn known(&self) -> Vec<i64> {
            (0..PRODUCERS).filter(|&id| self.of(id).next().is_some()).collect()
        }

        /// The batches of data since the epoch began, newest first.
        fn batches(&self, producer_id: i64) -> Vec<&ProducerBatch> {
            let Some(last) = self.of(producer_id).next_back() else { return vec![] };
            let in_epoch =
                self.of(producer_id).rev().take_while(|batch| batch.producer_epoch == last.producer_epoch);
            in_epoch.filter(|batch| matches!(batch.kind, BatchKind::Data { .. })).collect()
        }

        fn coordinator_epoch(&self, producer_id: i64) -> i32 {
            let epoch = |batch: &ProducerBatch| match batch.kind {
                BatchKind::Marker(marker) => Some(marker.coordinator_epoch),
                _ => None,
            };
            self.of(producer_id).filter_map(epoch).next_back().unwrap_or(-1)
        }

        /// Transactions that were ever begun: producer, first offset, and the marker that ended it.
        fn transactions(&self) -> Vec<(i64, u64, Option<u64>)> {
            let mut all: Vec<(i64, u64, Option<u64>)> = vec![];
            for (batch, _) in &self.log {
                let mut own = all.iter_mut().filter(|(id, _, end)| *id == batch.producer_id && end.is_none());
                match (batch.kind, own.next()) {
                    (BatchKind::Marker(_), Some((_, _, end))) => *end = Some(batch.first_offset),
                    (BatchKind::Data { transactional: true }, None) => {
                        all.push((batch.producer_id, batch.first_offset, None));
                    }
                    _ => {}
                }
            }
            all
        }

        fn open(&self, producer_id: i64) -> Option<u64> {
            let open = |(id, first, end): (i64, u64, Option<u64>)| {
                (id == producer_id && end.is_none()).then_some(first)
            };
            self.transactions().into_iter().find_map(open)
        }

        fn first_unstable(&self) -> Option<u64> {
            let unstable = |end: Option<u64>| end.is_none_or(|end| end >= self.stable_below);
            let all = self.transactions().into_iter();
            all.filter(|&(_, _, end)| unstable(end)).map(|(_, first, _)| first).min()
        }

        /// Whether a client may append it.
        fn client_may(&self, batch: &ProducerBatch) -> bool {
            let Some(last) = self.of(batch.producer_id).next_back() else { return true };
            let numbered = match self.batches(batch.producer_id).first() {
                _ if batch.producer_epoch > last.producer_epoch => batch.base_sequence == 0,
                Some(last) if last.last_sequence == MAX => batch.base_sequence == 0,
                Some(last) => batch.base_sequence == last.last_sequence + 1,
                None => batch.base_sequence == 0,
            };
            self.coordinator_may(batch) && (numbered || !matches!(batch.kind, BatchKind::Data { .. }))
        }

        fn coordinator_may(&self, batch: &ProducerBatch) -> bool {
            let Some(last) = self.of(batch.producer_id).next_back() else { return true };
            let allowed = match batch.kind {
                BatchKind::Data { transactional } => transactional || self.open(batch.producer_id).is_none(),
                BatchKind::Marker(marker) => {
                    marker.coordinator_epoch >= self.coordinator_epoch(batch.producer_id)
                }
                BatchKind::OtherControl => return true,
            };
            allowed && batch.producer_epoch >= last.producer_epoch
        }

        fn aborted(&self, batch: &ProducerBatch) -> Option<AbortedTransaction> {
            let BatchKind::Marker(EndTransactionMarker { commit: false, .. }) = batch.kind else {
                return None;
            };
            let others = self.transactions().into_iter();
            let others = others.filter(|&(id, _, end)| id != batch.producer_id && end.is_none());
            Some(AbortedTransaction {
                producer_id: batch.producer_id,
                first_offset: self.open(batch.producer_id)?,
                last_offset: batch.first_offset,
                last_stable_offset: others.map(|(_, first, _)| first).min().unwrap_or(batch.first_offset + 1),
            })
        }

        fn expire(&mut self, now: i64, after: i64) -> usize {
            let last_append = |id| {
                let own = |(batch, _): &&(ProducerBatch, i64)| {
                    batch.producer_id == id && batch.kind != BatchKind::OtherControl
                };
                self.log.iter().rev().find(own).unwrap().1
            };
            let expired: Vec<_> = self
                .known()
                .into_iter()
                .filter(|&id| self.open(id).is_none() && last_append(id) + after <= now)
                .collect();
            for &id in &expired {
                self.forgotten.insert(id, self.log.len());
            }
            expired.len()
        }

        fn snapshot(&self) -> ProducerSnapshot {
            let entry = |producer_id| {
                let (last, data) = (self.of(producer_id).next_back().unwrap(), self.batches(producer_id));
                let data = data.first();
                ProducerEntry {
                    producer_id,
                    producer_epoch: last.producer_epoch,
                    last_sequence: data.map_or(-1, |data| data.last_sequence),
                    last_offset: data.map(|data| data.last_offset),
                    offset_delta: data.map_or(0, |data| (data.last_offset - data.first_offset) as i32),
                    last_timestamp: last.max_timestamp,
                    coordinator_epoch: self.coordinator_epoch(producer_id),
                    transaction_first_offset: self.open(producer_id),
                }
            };
            ProducerSnapshot { entries: self.known().into_iter().map(entry).collect() }
        }
    }

    const PRODUCERS: i64 = 4;

    #[derive(Debug, Clone)]
    enum Step {
        /// A batch: its producer, how its epoch and its sequence relate to the last ones, its size, its kind,
        /// its origin.
        Append(i64, i16, Sequence, i32, u8, Origin),
        /// One of the last batches of a producer again.
        Repeat(i64, usize),
        HighWatermark(u64),
        LogStart(u64),
        Wait(i64),
        Expire,
    }

    #[derive(Debug, Clone, Copy)]
    enum Sequence {
        Next,
        Some(i32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let sequence = prop_oneof![
            6 => Just(Sequence::Next),
            1 => prop::sample::select(vec![-1, 0, 1, 5, MAX - 2, MAX]).prop_map(Sequence::Some),
        ];
        let epoch = prop_oneof![8 => Just(0i16), 1 => Just(1), 1 => Just(-1)];
        let origin = prop_oneof![
            6 => Just(Origin::Client),
            3 => Just(Origin::Coordinator),
            1 => Just(Origin::Replication),
        ];
        prop_oneof![
            12 => (0..PRODUCERS, epoch, sequence, 1i32..4, 0u8..10, origin).prop_map(
                |(id, epoch, sequence, count, kind, origin)| {
                    Step::Append(id, epoch, sequence, count, kind, origin)
                }
            ),
            3 => (0..PRODUCERS, 0usize..8).prop_map(|(id, back)| Step::Repeat(id, back)),
            2 => (0u64..12).prop_map(Step::HighWatermark),
            1 => (0u64..12).prop_map(Step::LogStart),
            2 => (-3i64..30).prop_map(Step::Wait),
            1 => Just(Step::Expire),
        ]
    }

    fn kind_of(number: u8) -> BatchKind {
        match number {
            0..3 => BatchKind::Data { transactional: false },
            3..6 => BatchKind::Data { transactional: true },
            6 => BatchKind::OtherControl,
            _ => BatchKind::Marker(EndTransactionMarker {
                coordinator_epoch: i32::from(number == 9),
                commit: number == 7,
            }),
        }
    }

    /// The batch that a step of this kind stands for, at the end of the log.
    fn next_batch(model: &Model, offset: u64, step: (i64, i16, Sequence, i32, u8)) -> ProducerBatch {
        let (id, epoch, sequence, count, kind) = step;
        let last = model.of(id).next_back().map_or(1, |batch| batch.producer_epoch);
        let sequence = match sequence {
            Sequence::Some(sequence) => sequence,
            Sequence::Next if epoch != 0 => 0,
            Sequence::Next => model.batches(id).first().map_or(0, |last| match last.last_sequence {
                MAX => 0,
                last => last + 1,
            }),
        };
        let kind = kind_of(kind);
        let data = matches!(kind, BatchKind::Data { .. });
        let (sequence, count) = if data { (sequence, count) } else { (-1, 1) };
        ProducerBatch { kind, ..batch(id, (last + epoch).max(0), sequence, offset, count) }
    }

    proptest! {
        #[test]
        fn every_answer_is_that_of_looking_through_the_log(
            steps in proptest::collection::vec(step(), 0..120),
        ) {
            let (mut model, mut producers) = (Model::default(), Producers::default());
            let (mut now, mut end) = (1_000i64, 0u64);
            for step in steps {
                match step {
                    Step::Append(id, epoch, sequence, count, kind, origin) => {
                        let batch = next_batch(&model, end, (id, epoch, sequence, count, kind));
                        let may = producers.check(&batch, origin, &partition(), NO_LIMIT).is_ok();
                        let expected = match origin {
                            Origin::Client => model.client_may(&batch),
                            Origin::Coordinator => model.coordinator_may(&batch),
                            Origin::Replication => true,
                        };
                        prop_assert_eq!(may, expected, "{:?} {:?}", origin, batch);
                        if may {
                            prop_assert_eq!(producers.apply(&batch, now), model.aborted(&batch));
                            model.log.push((batch, now));
                            end = batch.last_offset + 1;
                        }
                    }
                    Step::Repeat(id, back) => {
                        let batches = model.batches(id);
                        if let Some(&&again) = batches.get(back) {
                            let mut last_five = batches.iter().take(5);
                            let found = last_five.find(|batch| {
                                batch.base_sequence >= 0
                                    && batch.base_sequence == again.base_sequence
                                    && batch.last_sequence == again.last_sequence
                            });
                            let got = producers.duplicate_of(&again);
                            prop_assert_eq!(got, found.map(|batch| BatchMetadata::of(batch)));
                        }
                    }
                    Step::HighWatermark(back) => {
                        model.stable_below = model.stable_below.max(end.saturating_sub(back));
                        producers.advance_high_watermark(end.saturating_sub(back));
                    }
                    Step::LogStart(back) => {
                        model.stable_below = model.stable_below.max(end.saturating_sub(back));
                        producers.raise_log_start(end.saturating_sub(back));
                    }
                    Step::Wait(millis) => now += millis,
                    Step::Expire => prop_assert_eq!(producers.expire(now, 40), model.expire(now, 40)),
                }
                prop_assert_eq!(producers.first_unstable(), model.first_unstable());
                prop_assert_eq!(producers.snapshot(), model.snapshot());
                let open = producers.open_transactions();
                let mut expected: Vec<_> =
                    model.transactions().into_iter().filter(|(_, _, end)| end.is_none()).collect();
                expected.sort_unstable_by_key(|&(_, first, _)| first);
                prop_assert_eq!(
                    open.iter().map(|open| (open.producer_id, open.first_offset)).collect::<Vec<_>>(),
                    expected.iter().map(|&(id, first, _)| (id, first)).collect::<Vec<_>>()
                );
            }
        }

        /// Recovery reads a snapshot and the log behind it.
        #[test]
        fn a_snapshot_and_the_batches_behind_it_are_as_good_as_all_batches(
            steps in proptest::collection::vec(step(), 0..60),
            saved_at in 0usize..60,
        ) {
            let (mut model, mut producers, mut restored) =
                (Model::default(), Producers::default(), Producers::default());
            let mut end = 0u64;
            for (at, step) in steps.into_iter().enumerate() {
                if at == saved_at {
                    let bytes = producers.snapshot().encode().unwrap();
                    restored = Producers::load(&ProducerSnapshot::decode(&bytes).unwrap(), 0);
                }
                if let Step::Append(id, epoch, sequence, count, kind, _) = step {
                    let batch = next_batch(&model, end, (id, epoch, sequence, count, kind));
                    prop_assert_eq!(producers.apply(&batch, 0), restored.apply(&batch, 0));
                    model.log.push((batch, 0));
                    end = batch.last_offset + 1;
                }
            }
            prop_assert_eq!(producers.snapshot(), restored.snapshot());
            prop_assert_eq!(producers.last_batches(), restored.last_batches());
            for producers in [&mut producers, &mut restored] {
                producers.advance_high_watermark(end);
            }
            prop_assert_eq!(producers.first_unstable(), restored.first_unstable());
        }
    }
}
