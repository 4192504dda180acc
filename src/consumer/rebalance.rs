//! A consumer as a member of its group, step by step: joining, syncing, heartbeats, giving up and taking partitions,
//! leaving.
//!
//! There is no thread for it. All of it happens in calls of poll, which the coordinator wakes when the group calls;
//! so a member is alive as long as it polls. The stages are those of Kafka's classic protocol:
//!
//! ```text
//! Out -> Joining -> Syncing -> Stable
//!  ^       rebalance: ^-----------+
//!  +-- taken for gone: what it had is lost --+
//! ```

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::Consumer;
use super::listener::Told;
use super::membership::Stage;
use super::subscription::{Wanted, counts};
use crate::error::{Error, Result};
use crate::format::consumer_protocol::Assignment;
use crate::group::{Assigned, JoinRequest, Joined, RebalanceProtocol, SyncRequest};
use crate::types::TopicPartition;

/// A coordinator that answers at once again and again gets the caller no further; it looks at its deadline in between.
const STEPS_MAX: usize = 16;

impl Consumer {
    /// Does what is due as a member of the group, as far as it gets without waiting.
    ///
    /// # Errors
    /// As the coordinator refuses it; what is about the membership alone is dealt with.
    pub(super) fn take_part(&mut self) -> Result<()> {
        if !self.wanted.is_subscription() {
            return Ok(());
        }
        let mut ticked = false;
        for _ in 0..STEPS_MAX {
            let now = self.now();
            let Some(membership) = &mut self.group else { return Ok(()) };
            let mut context = Context::from_waker(&self.group_waker);
            let step = match &mut membership.stage {
                Stage::Out => Ok(Step::Join),
                Stage::Joining(reply) => Step::after(Pin::new(reply).poll(&mut context), Step::Sync),
                Stage::Syncing(reply) => Step::after(Pin::new(reply).poll(&mut context), Step::Take),
                Stage::Stable => {
                    if self.bell.take_group_call() || now >= membership.next_heartbeat {
                        membership.next_heartbeat = now.saturating_add(self.config.heartbeat_interval);
                        membership.next_tick = now;
                        membership.coordinator.heartbeat(&membership.metadata()).map(|()| Step::Rest)
                    } else {
                        Ok(Step::Rest)
                    }
                }
            };
            let done = match step {
                Ok(Step::Rest) if membership.rejoin && membership.is_stable() => self.join(),
                Ok(Step::Rest) if !ticked && now >= membership.next_tick => {
                    // Time may bring the answer, or send somebody home.
                    ticked = true;
                    membership.tick(now);
                    Ok(())
                }
                Ok(Step::Rest) => return Ok(()),
                Ok(Step::Join) => self.join(),
                Ok(Step::Sync(joined)) => self.sync(joined),
                Ok(Step::Take(assigned)) => self.take(assigned),
                Err(error) => Err(error),
            };
            done.or_else(|error| self.refused(error))?;
        }
        self.due = Duration::ZERO;
        Ok(())
    }

    /// Takes note of an answer of the coordinator that is an error.
    ///
    /// # Errors
    /// The error, unless joining again is all there is to do.
    fn refused(&mut self, error: Error) -> Result<()> {
        let Some(membership) = &mut self.group else { return Err(error) };
        if !membership.take_note(&error) {
            if !membership.is_stable() {
                // To be tried again by the next poll.
                membership.stage = Stage::Out;
            }
            return Err(error);
        }
        if !membership.is_stable() {
            membership.stage = Stage::Out;
        }
        if membership.fenced {
            self.give_up_lost();
            return Err(error);
        }
        Ok(())
    }

    /// Asks to be in the next generation.
    fn join(&mut self) -> Result<()> {
        if let Some(membership) = self.group.as_ref().filter(|membership| membership.fenced) {
            return Err(membership.fenced_error());
        }
        self.prepare_to_join();
        let topics = self.wanted.topics().clone();
        let owned: Vec<TopicPartition> = self.slots.names().cloned().collect();
        let request = JoinRequest {
            client_id: self.config.client_id.clone(),
            session_timeout: self.config.session_timeout.max(self.config.max_poll_interval),
            rebalance_timeout: self.config.max_poll_interval,
            waker: Some(self.group_waker.clone()),
            ..self.membership("join")?.request(&topics, &owned)?
        };
        let Some(membership) = &mut self.group else { return Ok(()) };
        // Whatever it was before, it gets something new.
        (membership.rejoin, membership.gone, membership.joined_topics) = (false, false, topics);
        membership.stage = Stage::Joining(membership.coordinator.join(request));
        Ok(())
    }

    /// The generation is complete: asks for the assignment, or brings everybody's.
    fn sync(&mut self, joined: Joined) -> Result<()> {
        let store = self.store.clone();
        let Some(membership) = &mut self.group else { return Ok(()) };
        membership.member_id.clone_from(&joined.member_id);
        membership.generation = joined.generation;
        membership.shared_out = None;
        // Should an assignor panic, it asks once more.
        membership.stage = Stage::Out;
        let mut assignments = Vec::new();
        if joined.leader == joined.member_id {
            assignments = membership.share_out(&joined, |topics| counts(&store, topics))?;
        }
        let request = SyncRequest { member: membership.metadata(), assignments };
        membership.stage = Stage::Syncing(membership.coordinator.sync(request));
        Ok(())
    }

    /// Has the assignment: gives up what is another's, and takes what is new.
    fn take(&mut self, assigned: Assigned) -> Result<()> {
        let now = self.now();
        let Some(membership) = &mut self.group else { return Ok(()) };
        let assignment =
            Assignment::decode(&assigned.assignment).map_err(|source| Error::InvalidBatch { source })?;
        let mut partitions: BTreeSet<TopicPartition> = assignment.partitions.into_iter().collect();
        let before = partitions.len();
        // What it does not want any more it does not take; it has to say so.
        partitions.retain(|partition| self.wanted.wants(&partition.topic));
        membership.rejoin |= partitions.len() < before || membership.joined_topics != *self.wanted.topics();
        membership.stage = Stage::Stable;
        membership.next_heartbeat = now.saturating_add(self.config.heartbeat_interval);
        membership.last = (partitions.iter().cloned().collect(), membership.generation);
        let revoked: Vec<TopicPartition> =
            self.slots.names().filter(|held| !partitions.contains(held)).cloned().collect();
        let added: Vec<TopicPartition> =
            partitions.iter().filter(|partition| !self.slots.contains(partition)).cloned().collect();
        if !revoked.is_empty() {
            // The others can have it in the next generation.
            membership.rejoin = true;
            self.give_up(Told::Revoked, &revoked);
        }
        self.slots.assign(partitions);
        self.settle_at = Duration::ZERO;
        self.counters.rebalances += 1;
        self.tell(Told::Assigned, &added);
        Ok(())
    }

    /// Before it joins: what it may not keep goes.
    fn prepare_to_join(&mut self) {
        let Some(membership) = &self.group else { return };
        if membership.gone {
            return self.give_up_lost();
        }
        let eager = membership.rebalances == RebalanceProtocol::Eager;
        let goes = |held: &&TopicPartition| eager || !self.wanted.wants(&held.topic);
        let going: Vec<TopicPartition> = self.slots.names().filter(goes).cloned().collect();
        self.give_up(Told::Revoked, &going);
    }

    /// What it had when it was taken for gone may be another's.
    fn give_up_lost(&mut self) {
        let held: Vec<TopicPartition> = self.slots.names().cloned().collect();
        self.give_up(Told::Lost, &held);
        if let Some(membership) = &mut self.group {
            membership.gone = false;
        }
    }

    /// Gives up these partitions, with what that entails.
    fn give_up(&mut self, told: Told, partitions: &[TopicPartition]) {
        if let Told::Revoked = told {
            match self.commit_handled() {
                // The next owner sees the records again.
                Err(error) if self.joins_over(&error) => {}
                Err(error) => self.slots.failed.push_back(error),
                Ok(()) => {}
            }
        }
        self.let_go(told, partitions);
    }

    /// Tells the listener, then has them no more.
    fn let_go(&mut self, told: Told, partitions: &[TopicPartition]) {
        if partitions.is_empty() {
            return;
        }
        self.tell(told, partitions);
        // What the listener asked for is about these, and later they may be another's.
        self.commit_waiting();
        let going: BTreeSet<&TopicPartition> = partitions.iter().collect();
        let kept: Vec<TopicPartition> =
            self.slots.names().filter(|held| !going.contains(held)).cloned().collect();
        self.slots.assign(kept);
    }

    /// Gives up everything it has and wants, in good order: commits, tells the listener, leaves.
    ///
    /// # Errors
    /// The first failure. Everything is given up nevertheless.
    pub(super) fn give_up_all(&mut self) -> Result<()> {
        let gone = self.group.as_ref().is_some_and(|membership| membership.gone || membership.fenced);
        let committed = if gone {
            // Nothing is committed any more, which who asked for it is told.
            self.commit_waiting();
            Ok(())
        } else {
            self.commit_handled()
        };
        self.slots.failed.clear();
        let held: Vec<TopicPartition> = self.slots.names().cloned().collect();
        self.let_go(if gone { Told::Lost } else { Told::Revoked }, &held);
        let told = self.slots.failed.pop_front().map_or(Ok(()), Err);
        let left = if self.wanted.is_subscription() { self.leave() } else { Ok(()) };
        self.slots.forget_all();
        self.wanted = Wanted::Nothing;
        self.listener = None;
        committed.and(told).and(left)
    }

    /// Leaves the group, if it is in it; a static member has its place kept.
    ///
    /// # Errors
    /// As the coordinator refuses it, but for who is not a member any more anyway.
    pub(super) fn leave(&mut self) -> Result<()> {
        let keep_for = self.config.group_instance_id.as_ref().map(|_| self.config.session_timeout);
        let Some(membership) = &mut self.group else { return Ok(()) };
        let mut metadata = membership.metadata();
        let stage = std::mem::replace(&mut membership.stage, Stage::Out);
        let mut was_in = !metadata.member_id.is_empty() && !membership.fenced;
        if let (false, Stage::Joining(mut reply), Some(_)) = (was_in, stage, &metadata.instance_id) {
            // A place is had before its id is known.
            match Pin::new(&mut reply).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(joined)) => (metadata.member_id, was_in) = (joined.member_id, true),
                Poll::Ready(Err(_)) => {}
                Poll::Pending => was_in = true,
            }
        }
        (membership.generation, membership.rejoin) = (-1, false);
        membership.member_id.clear();
        membership.shared_out = None;
        (membership.gone, membership.fenced) = (false, false);
        if !was_in {
            return Ok(());
        }
        match membership.coordinator.leave(&metadata, keep_for) {
            Err(Error::UnknownMember { .. } | Error::FencedInstance { .. }) => Ok(()),
            left => left,
        }
    }
}

/// What to do next as a member.
enum Step {
    Join,
    Sync(Joined),
    Take(Assigned),
    /// Nothing before something happens.
    Rest,
}

impl Step {
    fn after<T>(polled: Poll<Result<T>>, answered: impl FnOnce(T) -> Step) -> Result<Step> {
        match polled {
            Poll::Ready(answer) => answer.map(answered),
            Poll::Pending => Ok(Step::Rest),
        }
    }
}
