//! Committing: what a group remembers of where it is, told by the caller or by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Consumer;
use super::config::CommitMode;
use super::slot::Slot;
use crate::error::{Error, Result};
use crate::group::{GroupMetadata, OffsetAndMetadata, OffsetCommit};
use crate::types::TopicPartition;

/// How long a commit that failed is let rest before the consumer tries it again by itself (`retry.backoff.ms`).
pub(super) const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// Positions that do not move are committed again after so long, that the group does not forget them for their age.
const REFRESH: Duration = Duration::from_secs(60 * 60);

/// Positions to go on from, by partition.
pub type Offsets = BTreeMap<TopicPartition, OffsetAndMetadata>;

type Callback = Box<dyn FnOnce(&Offsets, Result<(), &Error>) + Send>;

/// What is to be committed, and when.
#[derive(Default)]
pub(super) struct Commits {
    /// What was asked for and not done yet, in order.
    waiting: Vec<(Offsets, Callback)>,
    /// Whether a position may have moved since the last commit of the consumer's own.
    pub(super) moved: bool,
    /// When to commit by itself next, and when to do so though nothing has moved.
    next: Option<Duration>,
    refresh: Duration,
}

impl Consumer {
    /// Commits the positions of all its partitions: behind everything that polls returned. Durable when it returns; an
    /// append to a log, with what that costs.
    ///
    /// # Errors
    /// [`Error::InvalidState`] without a group, and with
    /// [`DeliveryGuarantee::ExactlyOnce`](super::DeliveryGuarantee::ExactlyOnce). [`Error::RebalanceInProgress`] while
    /// partitions are shared out anew: poll, then commit what is still there. [`Error::UnknownMember`] and
    /// [`Error::IllegalGeneration`] if the group has gone on without this consumer: its partitions are another's, who
    /// will see the records again; the next poll joins anew. [`Error::FencedInstance`] for a static member that was
    /// replaced. Otherwise as an append fails.
    pub fn commit(&mut self) -> Result<()> {
        self.check_may_commit()?;
        self.commit_offsets(self.positions_to_commit())
    }

    /// Commits these positions, each the offset of the next record to handle, of any partitions.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); [`Error::TooLarge`] for metadata beyond the group's limit.
    pub fn commit_offsets(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> Result<()> {
        self.check_may_commit()?;
        self.commit_waiting();
        self.commit_now(&offsets.into_iter().collect())
    }

    /// As [`commit`](Self::commit), with the positions of now, but by the next poll or commit, or on close; then
    /// `callback` is called on that thread. Those that wait together are one commit: they cost one append, and succeed
    /// or fail together. Commits are made in the order in which they were asked for, so that an older position never
    /// takes the place of a newer one. A callback that panics is [counted](super::ConsumerStats::panics), and nothing
    /// else.
    ///
    /// # Errors
    /// [`Error::InvalidState`] as [`commit`](Self::commit); the callback is told of others.
    pub fn commit_async(
        &mut self,
        callback: impl FnOnce(&Offsets, Result<(), &Error>) + Send + 'static,
    ) -> Result<()> {
        self.commit_offsets_async(self.positions_to_commit(), callback)
    }

    /// As [`commit_async`](Self::commit_async), with these positions.
    ///
    /// # Errors
    /// As [`commit_async`](Self::commit_async).
    pub fn commit_offsets_async(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
        callback: impl FnOnce(&Offsets, Result<(), &Error>) + Send + 'static,
    ) -> Result<()> {
        self.check_may_commit()?;
        self.commits.waiting.push((offsets.into_iter().collect(), Box::new(callback)));
        Ok(())
    }

    /// What a commit of now would commit: the positions of its partitions, where they are known. Also for
    /// [`DeliveryGuarantee::ExactlyOnce`](super::DeliveryGuarantee::ExactlyOnce), where a producer's transaction takes
    /// them, together with [`group_metadata`](Self::group_metadata).
    pub fn positions_to_commit(&self) -> Offsets {
        self.positions(|_, _| true)
    }

    /// The positions of the partitions that `wanted` says so of. Those in a topic that is deleted say nothing of
    /// another one with its name.
    fn positions(&self, wanted: impl Fn(&Slot, u64) -> bool) -> Offsets {
        let unchanged = self.store.topics_version().is_ok_and(|version| version == self.topics_version);
        let current = self.slots.iter().filter(|slot| unchanged || slot.is_current(&self.store));
        let of = |slot: &Slot| {
            let position = slot.position().filter(|&position| wanted(slot, position))?;
            Some(slot.to_commit(position))
        };
        current.filter_map(of).collect()
    }

    /// What the group has committed of these partitions, whether or not the consumer has them; those without are left
    /// out.
    ///
    /// # Errors
    /// [`Error::InvalidState`] without a group; [`Error::UnstableOffsets`], to be asked again, if a transaction under
    /// way has offsets of one of them.
    pub fn committed<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<Offsets> {
        let membership = self.membership("tell what is committed")?;
        let partitions: Vec<TopicPartition> = partitions.into_iter().cloned().collect();
        membership.coordinator.committed(&membership.group, Some(&partitions), true)
    }

    /// As [`committed`](Self::committed); nothing without a group.
    pub(super) fn committed_of(&self, partitions: &[TopicPartition]) -> Result<Offsets> {
        if self.group.is_none() || partitions.is_empty() {
            return Ok(Offsets::new());
        }
        self.committed(partitions)
    }

    fn check_may_commit(&self) -> Result<()> {
        self.membership("commit")?;
        if self.mode == CommitMode::Transaction {
            let reason = "it reads for exactly once, so positions are committed with what is made of the records: \
                Producer::send_offsets_to_transaction(consumer.positions_to_commit(), &consumer.group_metadata()?)";
            return Err(Error::InvalidState { action: "commit", reason: reason.into() });
        }
        Ok(())
    }

    /// Commits what waits for it, and tells who asked.
    pub(super) fn commit_waiting(&mut self) {
        if self.commits.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.commits.waiting);
        // Of each partition, what was asked for last.
        let each = waiting.iter().flat_map(|(offsets, _)| offsets);
        let last = each.map(|(partition, position)| (partition.clone(), position.clone())).collect();
        let committed = self.commit_now(&last);
        for (offsets, callback) in waiting {
            let told = committed.as_ref().map(|&()| ());
            let _ = self.call_out("a commit callback", |_| callback(&offsets, told));
        }
    }

    /// Who it commits as.
    fn committer(&self) -> Result<GroupMetadata> {
        let membership = self.membership("commit")?;
        if !self.wanted.is_subscription() {
            return Ok(GroupMetadata::simple(&membership.group));
        }
        membership.committer()
    }

    fn commit_now(&mut self, offsets: &Offsets) -> Result<()> {
        // Who is in no generation knows that already, and may be waiting to be in one.
        let committer = self.committer().inspect_err(|_| self.counters.commit_failures += 1)?;
        if offsets.is_empty() {
            return Ok(());
        }
        let commit = |(partition, position): (&TopicPartition, &OffsetAndMetadata)| OffsetCommit {
            partition: partition.clone(),
            position: position.clone(),
        };
        let commits: Vec<OffsetCommit> = offsets.iter().map(commit).collect();
        if let Err(error) = self.membership("commit")?.coordinator.commit(&committer, &commits) {
            self.counters.commit_failures += 1;
            let Some(membership) = self.group.as_mut().filter(|_| self.wanted.is_subscription()) else {
                return Err(error);
            };
            let error = membership.why_refused(error);
            // Who is on the way to the next generation need not begin it once more.
            if membership.is_stable() || !matches!(error, Error::RebalanceInProgress { .. }) {
                membership.take_note(&error);
            }
            return Err(error);
        }
        self.counters.commits += 1;
        for (partition, position) in offsets {
            self.slots.note_committed(partition, position.offset);
        }
        for interceptor in self.config.interceptors.clone() {
            let _ = self.call_out("on_commit of an interceptor", |_| interceptor.on_commit(offsets));
        }
        Ok(())
    }

    /// At the beginning of a poll: what earlier polls returned is handled, and committed if that is due.
    ///
    /// # Errors
    /// As a commit fails, but for rebalances, after which it is tried again. The records come all the same: with the
    /// next poll.
    pub(super) fn commit_if_due(&mut self, now: Duration) -> Result<()> {
        self.commit_waiting();
        let moved = self.commits.moved;
        let due = match self.mode {
            CommitMode::Manual | CommitMode::Transaction => return Ok(()),
            // The first interval begins with the first poll.
            CommitMode::Interval(_) if self.commits.next.is_none() => {
                self.next_commit(now);
                false
            }
            _ => self.commits.next.is_none_or(|next| now >= next) && (moved || now >= self.commits.refresh),
        };
        if !due {
            return Ok(());
        }
        self.commit_own(now, !moved)
            .or_else(|error| if self.joins_over(&error) { Ok(()) } else { Err(error) })
    }

    /// When it has to commit by itself, though nobody calls.
    pub(super) fn commit_due(&self) -> Duration {
        match self.mode {
            CommitMode::Interval(_) if self.commits.moved => self.commits.next.unwrap_or(Duration::ZERO),
            CommitMode::Interval(_) | CommitMode::Before | CommitMode::After => self.commits.refresh,
            CommitMode::Manual | CommitMode::Transaction => Duration::MAX,
        }
    }

    /// When partitions are given up, or the consumer is: what is handled is committed if it commits by itself.
    ///
    /// # Errors
    /// As a commit fails.
    pub(super) fn commit_handled(&mut self) -> Result<()> {
        self.commit_waiting();
        match self.mode {
            CommitMode::Interval(_) | CommitMode::After => self.commit_own(self.now(), false),
            CommitMode::Manual | CommitMode::Before | CommitMode::Transaction => Ok(()),
        }
    }

    /// Commits positions by itself: those that moved, or all.
    fn commit_own(&mut self, now: Duration, all: bool) -> Result<()> {
        self.next_commit(now);
        if self.committer().is_err() {
            // In no generation: there is nothing of its own to commit, however often it looks.
            self.commits.moved = false;
            return Ok(());
        }
        let offsets = self.positions(|slot, position| all || slot.committed != Some(position));
        self.commits.moved = false;
        if offsets.is_empty() {
            return Ok(());
        }
        let committed = self.commit_now(&offsets);
        if committed.is_err() {
            self.commits.moved = true;
            self.commits.next = self.commits.next.max(Some(now.saturating_add(RETRY_BACKOFF)));
        }
        committed
    }

    fn next_commit(&mut self, now: Duration) {
        let interval = match self.mode {
            CommitMode::Interval(interval) => interval,
            _ => Duration::ZERO,
        };
        self.commits.next = Some(now.saturating_add(interval));
        self.commits.refresh = now.saturating_add(REFRESH);
    }

    /// Before records are handed out at most once. Returns whether they may be.
    ///
    /// # Errors
    /// As a commit fails, but for rebalances; the records stay.
    pub(super) fn commit_before(&mut self) -> Result<bool> {
        if self.mode != CommitMode::Before {
            return Ok(true);
        }
        let offsets: Offsets = self.slots.pending().map(|(slot, next)| slot.to_commit(next)).collect();
        match self.commit_now(&offsets) {
            Ok(()) => Ok(true),
            Err(error) if self.joins_over(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it is a member, and the poll deals with that by joining again.
    pub(super) fn joins_over(&self, error: &Error) -> bool {
        let of_membership = matches!(
            error,
            Error::RebalanceInProgress { .. } | Error::IllegalGeneration { .. } | Error::UnknownMember { .. }
        );
        of_membership && self.wanted.is_subscription()
    }
}

impl Slot {
    /// That position, as it is committed.
    fn to_commit(&self, position: u64) -> (TopicPartition, OffsetAndMetadata) {
        let last = position.checked_sub(1).zip(self.source.as_ref());
        let leader_epoch = last.and_then(|(last, source)| source.partition.epoch_for_offset(last));
        ((*self.id).clone(), OffsetAndMetadata { leader_epoch, ..OffsetAndMetadata::new(position) })
    }
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}
