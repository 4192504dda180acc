//! [`Pending`]: the records that a consumer has, what it has said of them, and how that is committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::journal::{Journal, Source};
use super::partition::SharePartition;
use super::record::ShareRecord;
use super::spans::Spans;
use super::words::{Acknowledge, NotAcquired, RecordState};
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
        for (id, first, last) in runs(records) {
            if !self.held.contains_key(id) {
                let Some(partition) = partitions.iter().find(|partition| partition.id() == id) else {
                    continue;
                };
                let held = Held { partition: Arc::clone(partition), words: Spans::default() };
                self.held.insert(id.clone(), held);
            }
            if let Some(held) = self.held.get_mut(id) {
                held.words.set(first, last, None);
            }
        }
    }

    /// Forgets what belongs to topics that are gone, and whose names others have now.
    pub(super) fn follow(&mut self, partitions: &[Arc<SharePartition>]) {
        for partition in partitions {
            if self.held.get(partition.id()).is_some_and(|held| !Arc::ptr_eq(&held.partition, partition)) {
                self.held.remove(partition.id());
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

    /// Writes down that records are being delivered. If that fails, they are not: they are available as before.
    pub(super) fn count_deliveries(&mut self, member: u64, records: &[ShareRecord]) -> Result<()> {
        let mut left = Vec::new();
        for run in runs(records) {
            let Some(held) = self.held.get(run.0) else { continue };
            held.partition.count_deliveries(run.1, run.2);
            if !left.iter().any(|known| Arc::ptr_eq(known, &held.partition)) {
                left.push(Arc::clone(&held.partition));
            }
        }
        let failed = loop {
            let mut written = Vec::new();
            let failed = commit(&left, |partition| written.push(partition.id().clone()));
            left.retain(|partition| !written.contains(partition.id()));
            if left.is_empty() || failed.is_some() {
                break failed;
            }
        };
        let Some(error) = failed else { return Ok(()) };
        for (id, first, last) in runs(records) {
            if let Some(held) = self.held.get_mut(id) {
                held.partition.take_back(member, first, last);
                held.words.clear(first, last);
            }
        }
        Err(error)
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

    /// Commits what was said. What cannot be written is kept. Says whether others that wait should look again.
    pub(super) fn commit(&mut self, member: u64, clock: &dyn Clock) -> (bool, Result<()>) {
        let mut news = false;
        loop {
            let mut changed = Vec::new();
            for (id, held) in &mut self.held {
                let (any, lapsed) = held.apply(member, clock.monotonic());
                if any {
                    changed.push(Arc::clone(&held.partition));
                    self.outcomes.entry(id.clone()).or_insert(Ok(()));
                }
                if let Some(lapsed) = lapsed {
                    let outcome = self.outcomes.entry(id.clone()).or_insert(Ok(()));
                    if outcome.is_ok() {
                        *outcome = Err(not_acquired(id, lapsed));
                    }
                }
            }
            let held = &mut self.held;
            let failed = commit(&changed, |partition| {
                if let Some(held) = held.get_mut(partition.id()) {
                    held.forget_words(member);
                }
            });
            self.held.retain(|_, held| !held.words.is_empty());
            for partition in &changed {
                news |= partition.take_news();
            }
            if let Some(error) = failed {
                return (news, Err(error));
            }
            // What is left was written by somebody who failed: now we try ourselves, and hear why.
            if !self.has_words() {
                return (news, Ok(()));
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

    /// Forgets what was said and is written. Somebody else's write may have taken it along before we asked for one,
    /// and failed: then it is as if it had not been said, and is still to be.
    fn forget_words(&mut self, member: u64) {
        let said: Vec<_> = self.words.iter().filter(|span| span.value.is_some()).collect();
        for span in said {
            if !self.partition.is_held(member, span.first, span.last) {
                self.words.clear(span.first, span.last);
                continue;
            }
            for offset in span.first..=span.last {
                if !self.partition.is_held(member, offset, offset) {
                    self.words.clear(offset, offset);
                }
            }
        }
    }
}

/// Records with consecutive offsets: the partition, the first and the last offset.
fn runs(records: &[ShareRecord]) -> impl Iterator<Item = (&TopicPartition, u64, u64)> {
    let follows = |left: &ShareRecord, right: &ShareRecord| {
        left.offset() + 1 == right.offset() && left.topic_partition() == right.topic_partition()
    };
    records.chunk_by(follows).filter_map(|run| {
        let (first, last) = (run.first()?, run.last()?);
        Some((first.topic_partition(), first.offset(), last.offset()))
    })
}

/// Writes down what has changed in partitions, those together whose progress is kept in the same place. Tells of each
/// that is durable; returns the first failure.
pub(super) fn commit(
    partitions: &[Arc<SharePartition>],
    mut written: impl FnMut(&SharePartition),
) -> Option<Error> {
    let mut journals: Vec<&Arc<Journal>> = Vec::new();
    for partition in partitions {
        if !journals.iter().any(|journal| Arc::ptr_eq(journal, partition.journal())) {
            journals.push(partition.journal());
        }
    }
    let mut failed = None;
    for journal in journals {
        let here = partitions.iter().filter(|partition| Arc::ptr_eq(journal, partition.journal()));
        let sources: Vec<_> = here.map(|partition| Arc::clone(partition) as Arc<dyn Source>).collect();
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
