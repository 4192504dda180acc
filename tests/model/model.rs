//! What a partition should be: a list of batches, and what follows from it. No files, no segments but their names.

use std::collections::{BTreeMap, BTreeSet};

/// How many batches of a producer are remembered.
const REMEMBERED: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) offset: u64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    pub(crate) transactional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) coordinator: i32,
    pub(crate) commit: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) base: u64,
    pub(crate) last: u64,
    pub(crate) size: u64,
    pub(crate) leader_epoch: i32,
    pub(crate) max_timestamp: i64,
    pub(crate) producer: Option<Producer>,
    pub(crate) marker: Option<Marker>,
    /// Of a marker, none.
    pub(crate) records: Vec<Kept>,
    /// Whether compaction has left its header alone.
    pub(crate) emptied: bool,
}

impl Batch {
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }
}

/// What is known of one producer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    pub(crate) epoch: i16,
    pub(crate) coordinator: i32,
    pub(crate) last_timestamp: i64,
    pub(crate) open: Option<u64>,
    /// First and last sequence, first and last offset; oldest first.
    pub(crate) batches: Vec<(i32, i32, u64, u64)>,
}

/// What is to become of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    New,
    Duplicate { base: u64, last: u64, sure: bool },
    Fenced,
    OutOfOrder,
    OpenTransaction,
}

/// A truncation that failed somewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Halfway {
    /// The end lies between that offset and the old end.
    Cut { offset: u64 },
    /// The log is as before, or a beginning of that; or begun anew, at either of the offsets.
    Anew { offset: u64, start: u64 },
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) start: u64,
    /// The log start that survives a crash.
    pub(crate) saved_start: u64,
    pub(crate) end: u64,
    /// The high watermark, where it does not follow the end.
    pub(crate) held: Option<u64>,
    /// What survives a power cut.
    pub(crate) durable: u64,
    /// All batches with files, those below the start included, and those that may come back because their deletion
    /// was not written down.
    pub(crate) batches: Vec<Batch>,
    /// What there was at last of those whose files are gone.
    pub(crate) deleted: Vec<Batch>,
    /// All batches from which producers are known, without their records. Neither deletion nor compaction takes
    /// from it.
    pub(crate) told: Vec<Batch>,
    /// All that ever were told of: what was forgotten may be found in an older or newer file again.
    pub(crate) ever: Vec<Batch>,
    /// Batches that were tried at the end and not acknowledged: at most one of them may turn up.
    pub(crate) in_flight: Vec<Batch>,
    /// Epochs and where they begin.
    pub(crate) epochs: Vec<(i32, u64)>,
    pub(crate) leader_epoch: i32,
    /// Of the producers' batches below it only the last is known for sure, and of the transactions decided there,
    /// none.
    pub(crate) reloaded: u64,
    pub(crate) segments: Vec<u64>,
    /// The segment that is the first one again if the log start is forgotten.
    returning: u64,
    pub(crate) halfway: Option<Halfway>,
    /// Whether a power cut has destroyed something below the log start: it is missed by nobody, and looked at only
    /// by truncations.
    pub(crate) debris: bool,
}

impl Model {
    pub(crate) fn new(replicated: bool) -> Self {
        Model {
            start: 0,
            saved_start: 0,
            end: 0,
            held: replicated.then_some(0),
            durable: 0,
            batches: vec![],
            deleted: vec![],
            told: vec![],
            ever: vec![],
            in_flight: vec![],
            epochs: vec![],
            leader_epoch: 0,
            reloaded: 0,
            segments: vec![0],
            returning: 0,
            halfway: None,
            debris: false,
        }
    }

    pub(crate) fn high_watermark(&self) -> u64 {
        self.held.unwrap_or(self.end)
    }

    /// The batches that can be read.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter().filter(|batch| batch.last >= self.start)
    }

    /// The batches that a reader gets from `from` on who may look up to `bound`.
    pub(crate) fn seen(&self, from: u64, bound: u64) -> impl Iterator<Item = &Batch> {
        self.live().filter(move |batch| batch.last >= from && batch.base.max(from) < bound)
    }

    /// Where the data below an offset ends: between there and the offset there is none.
    pub(crate) fn data_end(&self, offset: u64) -> u64 {
        let below = self.batches.iter().filter(|batch| batch.last < offset).map(Batch::next);
        below.max().unwrap_or(0).max(self.first_base().min(offset))
    }

    /// Whether the data of a transaction was taken back; `None` if that is undecided.
    fn fate(&self, batch: &Batch) -> Option<bool> {
        let producer = batch.producer.filter(|producer| producer.transactional)?;
        let ends = |other: &&Batch| {
            other.base > batch.last
                && other.marker.is_some()
                && other.producer.is_some_and(|of| of.id == producer.id)
        };
        self.told.iter().find(ends)?.marker.map(|marker| !marker.commit)
    }

    pub(crate) fn is_aborted(&self, batch: &Batch) -> bool {
        self.fate(batch) == Some(true)
    }

    /// What readers of committed data get, who may look up to `bound`.
    pub(crate) fn committed(&self, from: u64, bound: u64) -> Vec<Kept> {
        let batches = self.seen(from, bound).filter(|batch| !self.is_aborted(batch));
        batches.flat_map(|batch| &batch.records).filter(|record| record.offset >= from).cloned().collect()
    }

    pub(crate) fn producers(&self) -> BTreeMap<i64, Entry> {
        replay(&self.told).0
    }

    /// Where the last stable offset may be: transactions decided above the high watermark may be forgotten when the
    /// log is opened.
    pub(crate) fn stable(&self) -> BTreeSet<u64> {
        // What lies below the log start is not read when the log is opened.
        let above: Vec<Batch> = self.told.iter().filter(|batch| batch.last >= self.start).cloned().collect();
        self.stable_by(&self.told)
            .chain(self.stable_by(&above).filter(|_| self.reloaded > self.start))
            .collect()
    }

    fn stable_by(&self, told: &[Batch]) -> impl Iterator<Item = u64> {
        let (entries, completed) = replay(told);
        let (high_watermark, reloaded) = (self.high_watermark(), self.reloaded);
        let floor = self.start.min(high_watermark);
        let undecided = entries.values().filter_map(|entry| entry.open).min().unwrap_or(u64::MAX);
        let mut from: Vec<u64> = completed.iter().map(|(_, marker)| marker + 1).collect();
        from.retain(|from| *from <= reloaded);
        from.push(0);
        from.into_iter().map(move |from| {
            let known = completed.iter().filter(|(_, marker)| *marker >= high_watermark && *marker >= from);
            let known = known.map(|(first, _)| *first).min().unwrap_or(u64::MAX);
            known.min(undecided).min(high_watermark).max(floor)
        })
    }

    /// What is to become of a batch of data.
    pub(crate) fn expected(&self, producer: Option<Producer>, count: usize) -> Expected {
        let Some(producer) = producer else { return Expected::New };
        let entries = self.producers();
        let Some(entry) = entries.get(&producer.id) else { return Expected::New };
        let last_sequence = producer.sequence + count as i32 - 1;
        if producer.epoch == entry.epoch {
            let newest = entry.batches.len().wrapping_sub(1);
            let same = |&(_, (first, last, ..)): &(usize, &(i32, i32, u64, u64))| {
                (*first, *last) == (producer.sequence, last_sequence)
            };
            if let Some((at, &(_, _, base, last))) = entry.batches.iter().enumerate().find(same) {
                let sure = at == newest || last >= self.reloaded;
                return Expected::Duplicate { base, last, sure };
            }
        }
        if producer.epoch < entry.epoch {
            return Expected::Fenced;
        }
        let next = match entry.batches.last() {
            Some((_, last, ..)) if producer.epoch == entry.epoch => last.checked_add(1).unwrap_or(0),
            _ => 0,
        };
        if producer.sequence != next {
            return Expected::OutOfOrder;
        }
        if entry.open.is_some() && !producer.transactional {
            return Expected::OpenTransaction;
        }
        Expected::New
    }

    pub(crate) fn push(&mut self, batch: Batch) {
        self.assign_epoch(batch.leader_epoch, batch.base);
        self.end = batch.next();
        if batch.producer.is_some() {
            let told = Batch { records: vec![], ..batch.clone() };
            self.ever.push(told.clone());
            self.told.push(told);
        }
        self.batches.push(batch);
        self.in_flight.clear();
    }

    pub(crate) fn assign_epoch(&mut self, epoch: i32, start: u64) {
        assign(&mut self.epochs, epoch, start);
    }

    pub(crate) fn raise_start(&mut self, start: u64) {
        if start > self.start {
            self.start = start;
            truncate_epochs_from_start(&mut self.epochs, start);
        }
    }

    /// Takes the end back. What is left of the epochs is what begins below it.
    pub(crate) fn cut(&mut self, end: u64) {
        self.batches.retain(|batch| batch.last < end);
        self.deleted.retain(|batch| batch.last < end);
        self.told.retain(|batch| batch.last < end);
        self.ever.retain(|batch| batch.last < end);
        self.in_flight.clear();
        self.epochs.retain(|(_, start)| *start < end);
        self.end = end;
        self.start = self.start.min(end);
        self.saved_start = self.saved_start.min(end);
        self.durable = self.durable.min(end);
        self.held = self.held.map(|held| held.min(end));
        self.reloaded = end;
    }

    pub(crate) fn begin_at(&mut self, start: u64) {
        self.debris = false;
        self.batches.clear();
        self.deleted.clear();
        self.told.clear();
        self.ever.clear();
        self.in_flight.clear();
        self.epochs.clear();
        (self.start, self.saved_start, self.end, self.durable) = (start, start, start, start);
        self.held = self.held.map(|_| start);
    }

    /// Forgets batches whose files are gone, and were to go.
    pub(crate) fn forget_deleted(&mut self, segments: Vec<u64>) {
        self.segments = segments;
        let saved = self.saved_start;
        let holds = self.segments.iter().rev().find(|base| **base <= saved);
        self.returning = holds.copied().unwrap_or(self.returning).min(saved);
        let first = self.first_base().min(self.returning);
        self.deleted.extend(self.batches.iter().filter(|batch| batch.base < first).cloned());
        self.batches.retain(|batch| batch.base >= first);
    }

    fn first_base(&self) -> u64 {
        self.segments.first().copied().unwrap_or(0)
    }

    /// The batches in the files of the log.
    pub(crate) fn in_files(&self) -> impl Iterator<Item = &Batch> {
        let first = self.first_base();
        self.batches.iter().filter(move |batch| batch.base >= first)
    }

    /// Epochs with each beginning where the data before it ends.
    pub(crate) fn without_gaps(&self, epochs: &[(i32, u64)]) -> Vec<(i32, u64)> {
        let mut moved: Vec<(i32, u64)> = vec![];
        for &(epoch, from) in epochs {
            let from = self.data_end(from);
            moved.retain(|(_, before)| *before != from);
            moved.push((epoch, from));
        }
        moved
    }

    /// The bytes and the largest timestamp of each segment, `empty` where it has no batch, and where it ends.
    fn measured(&self, empty: i64) -> Vec<(u64, i64, u64)> {
        let end = |at: usize| self.segments.get(at + 1).copied();
        let measure = |(at, base): (usize, &u64)| {
            let upper = end(at).unwrap_or(u64::MAX);
            let within = |batch: &&Batch| batch.base >= *base && batch.base < upper;
            let size = self.batches.iter().filter(within).map(|batch| batch.size).sum();
            let newest = self.batches.iter().filter(within).map(|batch| batch.max_timestamp).max();
            (size, newest.unwrap_or(empty), end(at).unwrap_or(self.end))
        };
        self.segments.iter().enumerate().map(measure).collect()
    }

    /// Where the log starts after a pass of retention: three passes, each from the oldest segment that is left.
    pub(crate) fn retained_from(&self, bytes: Option<u64>, age_max: i64, now: i64, empty: i64) -> u64 {
        let segments = self.measured(empty);
        let may_go = |at: usize| {
            let (size, _, end) = segments[at];
            end <= self.high_watermark() && !(at + 1 == segments.len() && size == 0)
        };
        let mut gone = 0;
        while gone + 1 < segments.len() && segments[gone].2 <= self.start && may_go(gone) {
            gone += 1;
        }
        let total: u64 = segments[gone..].iter().map(|(size, ..)| size).sum();
        let mut excess = total.saturating_sub(bytes.unwrap_or(u64::MAX));
        while gone < segments.len() && may_go(gone) && excess > 0 && excess >= segments[gone].0 {
            excess -= segments[gone].0;
            gone += 1;
        }
        while gone < segments.len() && may_go(gone) && now.saturating_sub(segments[gone].1) > age_max {
            gone += 1;
        }
        let kept = self.segments.get(gone).copied().unwrap_or(self.end);
        if gone == 0 { self.start } else { self.start.max(kept) }
    }

    /// The value of each key, with tombstones taken for none, as readers of committed data see them.
    pub(crate) fn latest(records: &[Kept]) -> BTreeMap<Vec<u8>, (u64, Vec<u8>)> {
        let mut latest = BTreeMap::new();
        for record in records {
            let Some(key) = record.key.clone() else { continue };
            match record.value.clone() {
                Some(value) => drop(latest.insert(key, (record.offset, value))),
                None => drop(latest.remove(&key)),
            }
        }
        latest
    }

    /// Whether compaction up to `end` may have taken a record.
    pub(crate) fn may_be_compacted(&self, batch: &Batch, record: &Kept, end: u64) -> bool {
        let supersedes = |other: &Batch| {
            other.last < end
                && !self.is_aborted(other)
                && other.records.iter().any(|later| later.offset > record.offset && later.key == record.key)
        };
        batch.last < end
            && (record.value.is_none()
                || record.key.is_none()
                || self.is_aborted(batch)
                || self.batches.iter().any(supersedes))
    }
}

/// Everything known of producers from batches in order, and the decided transactions: first offset and marker.
fn replay(batches: &[Batch]) -> (BTreeMap<i64, Entry>, Vec<(u64, u64)>) {
    let mut entries: BTreeMap<i64, Entry> = BTreeMap::new();
    let mut completed = vec![];
    for batch in batches {
        let Some(producer) = batch.producer else { continue };
        let new = || Entry { epoch: producer.epoch, coordinator: -1, ..Entry::default() };
        let entry = entries.entry(producer.id).or_insert_with(new);
        if entry.epoch != producer.epoch {
            entry.epoch = producer.epoch;
            entry.batches.clear();
        }
        entry.last_timestamp = batch.max_timestamp;
        match batch.marker {
            Some(marker) => {
                entry.coordinator = marker.coordinator;
                completed.extend(entry.open.take().map(|first| (first, batch.base)));
            }
            None => {
                let span = (batch.last - batch.base) as i32;
                entry.batches.push((producer.sequence, producer.sequence + span, batch.base, batch.last));
                if entry.batches.len() > REMEMBERED {
                    entry.batches.remove(0);
                }
                if producer.transactional {
                    entry.open = entry.open.or(Some(batch.base));
                }
            }
        }
    }
    (entries, completed)
}

/// Kafka's `LeaderEpochFileCache.assign`.
pub(crate) fn assign(epochs: &mut Vec<(i32, u64)>, epoch: i32, start: u64) {
    if epochs.last().is_some_and(|&(latest, from)| epoch == latest && start >= from) {
        return;
    }
    while epochs.last().is_some_and(|&(latest, from)| latest >= epoch || from >= start) {
        epochs.pop();
    }
    epochs.push((epoch, start));
}

pub(crate) fn truncate_epochs_from_start(epochs: &mut Vec<(i32, u64)>, start: u64) {
    let gone = epochs.iter().filter(|(_, from)| *from <= start).count();
    if let Some(last) = gone.checked_sub(1) {
        epochs.drain(..last);
        epochs[0].1 = start;
    }
}

/// Kafka's `LeaderEpochFileCache.endOffsetFor`.
pub(crate) fn end_of_epoch(epochs: &[(i32, u64)], epoch: i32, end: u64) -> Option<(i32, u64)> {
    if epoch < 0 {
        return None;
    }
    if epochs.last().is_some_and(|(latest, _)| *latest == epoch) {
        return Some((epoch, end));
    }
    let (_, next) = epochs.iter().find(|(known, _)| *known > epoch)?;
    let floor = epochs.iter().rev().find(|(known, _)| *known <= epoch);
    Some((floor.map_or(epoch, |(known, _)| *known), *next))
}
