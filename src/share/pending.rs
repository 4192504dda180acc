//! [`Pending`]: the records that a consumer has, what it has said of them, and how that is committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::{Acknowledge, NotAcquired, RecordState};
use super::journal::{Journal, Source};
use super::partition::SharePartition;
use super::record::ShareRecord;
use super::spans::Spans;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::types::TopicPartition;

/// The records that a consumer has, by partition.
#[derive(Default)]
pub(super) struct Pending {
    held: BTreeMap<TopicPartition, Held>,
    /// What became of what was committed, until somebody asks.
    outcomes: BTreeMap<TopicPartition, Result<()>>,
}

/// Those of one partition, and what was said of each, if anything was.
struct Held {
    partition: Arc<SharePartition>,
    words: Spans<Option<Acknowledge>>,
}

impl Pending {
    /// Takes in records that were acquired.
    pub(super) fn add(&mut self, records: &[ShareRecord], partitions: &[Arc<SharePartition>]) {
        let follows = |left: &ShareRecord, right: &ShareRecord| {
            left.offset() + 1 == right.offset() && left.topic_partition() == right.topic_partition()
        };
        for run in records.chunk_by(follows) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let id = first.topic_partition();
            if !self.held.contains_key(id) {
                let Some(partition) = partitions.iter().find(|partition| partition.id() == id) else {
                    continue;
                };
                let held = Held { partition: Arc::clone(partition), words: Spans::default() };
                self.held.insert(id.clone(), held);
            }
            if let Some(held) = self.held.get_mut(id) {
                held.words.set(first.offset(), last.offset(), None);
            }
        }
    }

    /// Accepts everything of which nothing was said.
    pub(super) fn accept_all(&mut self) {
        for held in self.held.values_mut() {
            let silent: Vec<_> = held.words.iter().filter(|span| span.value.is_none()).collect();
            for span in silent {
                held.words.set(span.first, span.last, Some(Acknowledge::Accept));
            }
        }
    }

    /// Whether there is anything to commit.
    pub(super) fn has_words(&self) -> bool {
        self.held.values().any(|held| held.words.iter().any(|span| span.value.is_some()))
    }

    /// Takes a word on a record.
    pub(super) fn acknowledge(
        &mut self,
        member: u64,
        record: &ShareRecord,
        word: Acknowledge,
        now: Duration,
    ) -> Result<()> {
        let (id, offset) = (record.topic_partition(), record.offset());
        let held = self.held.get_mut(id).filter(|held| held.words.at(offset).is_some());
        let Some(held) = held else {
            let reason = "this consumer does not have it, or has acknowledged it already".into();
            return Err(Error::InvalidRecordState { partition: id.to_string(), offset, reason });
        };
        if word == Acknowledge::Renew {
            let renewed = held.partition.acknowledge(member, (offset, offset), word, now);
            return renewed.map_err(|lapsed| not_acquired(id, lapsed));
        }
        held.words.set(offset, offset, Some(word));
        Ok(())
    }

    /// Commits what was said. What cannot be written is kept.
    pub(super) fn commit(&mut self, member: u64, clock: &dyn Clock) -> Result<()> {
        loop {
            let mut changed = Vec::new();
            for (id, held) in &mut self.held {
                let (any, lapsed) = held.apply(member, clock.monotonic());
                let outcome = self.outcomes.entry(id.clone()).or_insert(Ok(()));
                if let (Some(lapsed), true) = (lapsed, outcome.is_ok()) {
                    *outcome = Err(not_acquired(id, lapsed));
                }
                if any {
                    changed.push(Arc::clone(&held.partition));
                }
            }
            let held = &mut self.held;
            let failed = commit(&changed, |partition| {
                if let Some(held) = held.get_mut(partition.id()) {
                    held.forget_words();
                }
            });
            self.held.retain(|_, held| !held.words.is_empty());
            if let Some(error) = failed {
                return Err(error);
            }
            // What is left was to be written by somebody who failed: now we try ourselves, and hear why.
            if !self.has_words() {
                return Ok(());
            }
        }
    }

    /// What became of what was committed since the last time.
    pub(super) fn take_outcomes(&mut self) -> BTreeMap<TopicPartition, Result<()>> {
        std::mem::take(&mut self.outcomes)
    }
}

impl Held {
    /// Passes on what was said, and forgets the records whose locks have run out. Returns whether anything is to be
    /// written, and the first record of those.
    fn apply(&mut self, member: u64, now: Duration) -> (bool, Option<NotAcquired>) {
        let said: Vec<_> =
            self.words.iter().filter_map(|span| Some((span.first, span.last, span.value?))).collect();
        let (mut any, mut first_lapsed) = (false, None);
        for (mut first, last, word) in said {
            while first <= last {
                let Err(lapsed) = self.partition.acknowledge(member, (first, last), word, now) else {
                    any = true;
                    break;
                };
                if lapsed.offset > first {
                    let before = (first, lapsed.offset - 1);
                    any |= self.partition.acknowledge(member, before, word, now).is_ok();
                }
                self.words.clear(lapsed.offset, lapsed.offset);
                first_lapsed = first_lapsed.or(Some(lapsed));
                first = lapsed.offset + 1;
            }
        }
        (any, first_lapsed)
    }

    fn forget_words(&mut self) {
        let said: Vec<_> = self.words.iter().filter(|span| span.value.is_some()).collect();
        said.iter().for_each(|span| self.words.clear(span.first, span.last));
    }
}

/// Writes down what has changed in partitions, those together whose progress is kept in the same place. Tells of each
/// that is durable; returns the first failure.
pub(super) fn commit(
    partitions: &[Arc<SharePartition>],
    mut written: impl FnMut(&SharePartition),
) -> Option<Error> {
    let mut places: Vec<(&Arc<Journal>, Vec<Arc<dyn Source>>)> = Vec::new();
    for partition in partitions {
        let source: Arc<dyn Source> = Arc::<SharePartition>::clone(partition);
        match places.iter_mut().find(|(journal, _)| Arc::ptr_eq(journal, partition.journal())) {
            Some((_, sources)) => sources.push(source),
            None => places.push((partition.journal(), vec![source])),
        }
    }
    let mut failed = None;
    for (journal, sources) in places {
        let committed = journal.commit(&sources);
        let here = partitions.iter().filter(|partition| Arc::ptr_eq(journal, partition.journal()));
        here.filter(|partition| !committed.unwritten.contains(partition.key()))
            .for_each(|partition| written(partition));
        failed = failed.or(committed.error);
    }
    failed
}

fn not_acquired(id: &TopicPartition, lapsed: NotAcquired) -> Error {
    let reason = match lapsed.state {
        Some(RecordState::Acquired) => "its lock ran out, and another consumer has it".into(),
        Some(RecordState::Available) => "its lock ran out, and it will be delivered again".into(),
        Some(RecordState::Acknowledged) => "it was acknowledged already".into(),
        Some(RecordState::Archived) => "it was given up: delivered too often, rejected or deleted".into(),
        None => "it is not in the log any more".into(),
    };
    Error::InvalidRecordState { partition: id.to_string(), offset: lapsed.offset, reason }
}
