//! [`Queue`]: the records of a partition that are read ahead, by their priority and by how long they have waited.
//!
//! Everything in it that a record's state could contradict is a hint: what is taken from it is looked up in
//! [`InFlight`] first. So an order that contradicts itself costs order, and nothing else.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use super::order::{PriorityOrder, compare};
use super::words::{Change, RecordState};
use crate::format::StoredRecord;

/// What is kept besides a record's bytes, about.
const RECORD_OVERHEAD: usize = 200;

/// So many notes of since when records wait are left alone that no longer hold.
const STALE_MAX: usize = 64;

/// How a group delivers by priority.
#[derive(Debug, Clone)]
pub(super) struct Priority {
    pub(super) order: Arc<dyn PriorityOrder>,
    /// A record that has waited for so long goes before all others.
    pub(super) max_wait: Option<Duration>,
    /// At most so many bytes of a partition are read ahead, but one record always.
    pub(super) read_ahead_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    priority: Priority,
    /// All records in flight that are not finished.
    loaded: BTreeMap<u64, Loaded>,
    bytes: usize,
    /// Those of them that may be available, the best first. Not one that is finished: it would keep its bytes.
    best: BTreeSet<Candidate>,
    /// Since when records are available, in the order in which they became so.
    waiting: VecDeque<(Duration, u64)>,
}

#[derive(Debug)]
struct Loaded {
    record: StoredRecord,
    since: Duration,
    /// Whether it has a place among the candidates.
    queued: bool,
}

/// The record that is to go next.
#[derive(Debug, Clone)]
pub(super) struct Next {
    pub(super) record: StoredRecord,
    /// Since when it is available.
    pub(super) since: Duration,
    /// Whether it has waited too long.
    pub(super) overdue: bool,
}

#[derive(Debug)]
struct Candidate {
    record: StoredRecord,
    order: Arc<dyn PriorityOrder>,
}

impl Ord for Candidate {
    /// The least is the one that goes first.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_priority = compare(&*self.order, &self.record, &other.record);
        by_priority.then_with(|| self.record.offset().cmp(&other.record.offset()))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Next {
    /// Whether it goes before another one.
    pub(super) fn goes_before(&self, other: &Next, order: &dyn PriorityOrder) -> bool {
        let by_age = || self.since.cmp(&other.since);
        let ordering = match (self.overdue, other.overdue) {
            (true, true) => by_age(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            // Among equals of several partitions, the one that waits for longest.
            (false, false) => compare(order, &self.record, &other.record).then_with(by_age),
        };
        ordering.then_with(|| self.record.offset().cmp(&other.record.offset())).is_lt()
    }
}

fn size(record: &StoredRecord) -> usize {
    record.size() + RECORD_OVERHEAD
}

impl Queue {
    pub(super) fn new(priority: Priority) -> Self {
        let (loaded, best, waiting) = (BTreeMap::new(), BTreeSet::new(), VecDeque::new());
        Queue { priority, loaded, bytes: 0, best, waiting }
    }

    /// Whether another record may be read ahead.
    pub(super) fn has_room(&self) -> bool {
        self.loaded.is_empty() || self.bytes < self.priority.read_ahead_bytes
    }

    /// Takes in a record that is available. It is copied out of its batch, so that one of many does not keep all.
    pub(super) fn load(&mut self, record: &StoredRecord, now: Duration) {
        let record = record.detached();
        let offset = record.offset();
        self.bytes += size(&record);
        let loaded = Loaded { record, since: now, queued: false };
        self.unload(offset);
        self.loaded.insert(offset, loaded);
        self.offer(offset, now);
    }

    /// A record that was read ahead and is not finished.
    pub(super) fn get(&self, offset: u64) -> Option<&StoredRecord> {
        self.loaded.get(&offset).map(|loaded| &loaded.record)
    }

    /// Follows what became of records.
    pub(super) fn follow(&mut self, changes: Vec<Change>, in_flight: &InFlight, now: Duration) {
        for change in changes {
            match change {
                Change::Available { first, last } => {
                    let offsets: Vec<u64> =
                        self.loaded.range(first..=last).map(|(offset, _)| *offset).collect();
                    offsets.into_iter().for_each(|offset| self.offer(offset, now));
                }
                Change::Finished { first, last } => {
                    while let Some((&offset, _)) = self.loaded.range(first..=last).next() {
                        self.unload(offset);
                    }
                }
            }
        }
        self.sweep(in_flight);
    }

    /// The record that is to go next.
    pub(super) fn next(&mut self, in_flight: &InFlight, now: Duration) -> Option<Next> {
        if let Some(overdue) = self.overdue(in_flight, now) {
            return Some(overdue);
        }
        loop {
            let offset = self.best.first()?.record.offset();
            if let Some(loaded) = self.loaded.get(&offset) {
                if in_flight.state_of(offset) == Some(RecordState::Available) {
                    let (record, since) = (loaded.record.clone(), loaded.since);
                    return Some(Next { record, since, overdue: false });
                }
            }
            self.best.pop_first();
            if let Some(loaded) = self.loaded.get_mut(&offset) {
                loaded.queued = false;
            }
        }
    }

    /// The record that has waited for longest, if that is too long.
    fn overdue(&mut self, in_flight: &InFlight, now: Duration) -> Option<Next> {
        let max_wait = self.priority.max_wait?;
        while let Some(&(since, offset)) = self.waiting.front() {
            match self.loaded.get(&offset) {
                Some(loaded) if waits(loaded, since, offset, in_flight) => {
                    let overdue = now.saturating_sub(since) >= max_wait;
                    return overdue.then(|| Next { record: loaded.record.clone(), since, overdue });
                }
                _ => self.waiting.pop_front(),
            };
        }
        None
    }

    fn offer(&mut self, offset: u64, now: Duration) {
        let Some(loaded) = self.loaded.get_mut(&offset) else { return };
        loaded.since = now;
        if self.priority.max_wait.is_some() {
            self.waiting.push_back((now, offset));
        }
        if !std::mem::replace(&mut loaded.queued, true) {
            let (record, order) = (loaded.record.clone(), Arc::clone(&self.priority.order));
            self.best.insert(Candidate { record, order });
        }
    }

    /// Lets go of a record, and of its place among the candidates.
    fn unload(&mut self, offset: u64) {
        let Some(Loaded { record, queued, .. }) = self.loaded.remove(&offset) else { return };
        self.bytes -= size(&record);
        let candidate = Candidate { record, order: Arc::clone(&self.priority.order) };
        if queued && !self.best.remove(&candidate) {
            // The order contradicts itself: it is not where it should be.
            self.best.retain(|candidate| candidate.record.offset() != offset);
        }
    }

    /// Throws out notes that no longer hold, once they are as many as those that do.
    fn sweep(&mut self, in_flight: &InFlight) {
        let enough = 2 * self.loaded.len() + STALE_MAX;
        if self.waiting.len() > enough {
            let loaded = &self.loaded;
            let holds = |(since, offset): &(Duration, u64)| {
                loaded.get(offset).is_some_and(|record| waits(record, *since, *offset, in_flight))
            };
            self.waiting.retain(holds);
        }
    }
}

fn waits(loaded: &Loaded, since: Duration, offset: u64, in_flight: &InFlight) -> bool {
    loaded.since == since && in_flight.state_of(offset) == Some(RecordState::Available)
}
