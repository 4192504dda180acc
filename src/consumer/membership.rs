//! A consumer as a member of its group: joining, syncing, heartbeats, leaving.
//!
//! There is no thread for it. All of it happens in calls of poll, which the coordinator wakes when the group calls;
//! so a member is alive as long as it polls. The stages are those of Kafka's classic protocol:
//!
//! ```text
//! Out -> Joining -> Syncing -> Stable
//!  ^       rebalance: ^-----------+
//!  +-- taken for gone: what it had is lost --+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::Consumer;
use super::commit::is_about_membership;
use super::config::ConsumerConfig;
use super::listener::Told;
use super::subscription::{Wanted, counts};
use crate::error::{Error, Result};
use crate::format::consumer_protocol::{Assignment, Subscription};
use crate::group::{
    Assigned, Assignor, CooperativeStickyAssignor, GroupCoordinator, GroupMember, GroupMetadata, JoinRequest,
    Joined, JoinedMember, RangeAssignor, RebalanceProtocol, SyncRequest,
};
use crate::types::{TopicName, TopicPartition};
use crate::wake::Reply;

/// Kafka's protocol type of groups of consumers.
const PROTOCOL_TYPE: &str = "consumer";

/// A coordinator that answers at once again and again gets the caller no further; it looks at its deadline in between.
const STEPS_MAX: usize = 16;

/// However soon something is due again, so much time passes before it is looked at.
const TICK_MIN: Duration = Duration::from_millis(1);
const TICK_AGAIN: Duration = Duration::from_secs(1);

/// A consumer's place in its group, or its wish for one.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) coordinator: Arc<dyn GroupCoordinator>,
    pub(super) group: String,
    instance_id: Option<String>,
    assignors: Vec<Arc<dyn Assignor>>,
    /// How it comes from one generation to the next: the best way that all its assignors know.
    rebalances: RebalanceProtocol,
    /// Empty before it was given one.
    member_id: String,
    generation: i32,
    stage: Stage,
    /// Whether it is to join again.
    rejoin: bool,
    /// Whether it was taken for gone since its partitions were assigned.
    gone: bool,
    /// Whether another has its place. Then it is over.
    fenced: bool,
    /// What it subscribed to when it joined.
    joined_topics: BTreeSet<TopicName>,
    /// The topics of the group and their numbers of partitions, as it shared them out; if it is the leader.
    shared_out: Option<(BTreeSet<TopicName>, BTreeMap<TopicName, u32>)>,
    /// What it got last, and in which generation, for assignors that remember.
    last: (Vec<TopicPartition>, i32),
    next_heartbeat: Duration,
    next_tick: Duration,
}

#[derive(Debug)]
enum Stage {
    Out,
    Joining(Reply<Joined>),
    Syncing(Reply<Assigned>),
    Stable,
}

impl Membership {
    pub(super) fn new(coordinator: Arc<dyn GroupCoordinator>, group: &str, config: &ConsumerConfig) -> Self {
        let mut assignors = config.assignors.clone();
        if assignors.is_empty() {
            assignors = vec![Arc::new(RangeAssignor), Arc::new(CooperativeStickyAssignor)];
        }
        let cooperative =
            |assignor: &Arc<dyn Assignor>| assignor.protocols().contains(&RebalanceProtocol::Cooperative);
        let all = assignors.iter().all(cooperative);
        let rebalances = if all { RebalanceProtocol::Cooperative } else { RebalanceProtocol::Eager };
        Membership {
            coordinator,
            group: group.to_string(),
            instance_id: config.group_instance_id.clone(),
            assignors,
            rebalances,
            member_id: String::new(),
            generation: -1,
            stage: Stage::Out,
            rejoin: false,
            gone: false,
            fenced: false,
            joined_topics: BTreeSet::new(),
            shared_out: None,
            last: (Vec::new(), -1),
            next_heartbeat: Duration::ZERO,
            next_tick: Duration::ZERO,
        }
    }

    pub(super) fn metadata(&self) -> GroupMetadata {
        GroupMetadata {
            group: self.group.clone(),
            generation: self.generation,
            member_id: self.member_id.clone(),
            instance_id: self.instance_id.clone(),
        }
    }

    pub(super) fn is_stable(&self) -> bool {
        matches!(self.stage, Stage::Stable)
    }

    /// Joins again with the next poll.
    pub(super) fn rejoin(&mut self) {
        self.rejoin = true;
    }

    /// As whom it commits. Also while partitions are shared out anew: until everybody has joined, the generation before
    /// counts.
    ///
    /// # Errors
    /// [`Error::FencedInstance`], or [`Error::UnknownMember`] if it is in no generation.
    pub(super) fn committer(&self) -> Result<GroupMetadata> {
        if self.fenced {
            return Err(self.fenced_error());
        }
        if self.generation < 0 {
            let (group, member_id) = (self.group.clone(), self.member_id.clone());
            return Err(Error::UnknownMember { group, member_id });
        }
        Ok(self.metadata())
    }

    /// Why a commit was refused, as the member sees it: while it joins, the group may be a generation ahead.
    pub(super) fn why_refused(&self, error: Error) -> Error {
        match error {
            Error::IllegalGeneration { group, .. } if !self.is_stable() && !self.gone => {
                Error::RebalanceInProgress { group }
            }
            error => error,
        }
    }

    fn fenced_error(&self) -> Error {
        let instance_id = self.instance_id.clone().unwrap_or_default();
        Error::FencedInstance { group: self.group.clone(), instance_id }
    }

    /// Takes note of what the coordinator's answer says about it. Returns whether that was all about it.
    pub(super) fn take_note(&mut self, error: &Error) -> bool {
        match error {
            Error::RebalanceInProgress { .. } => self.rejoin = true,
            Error::MemberIdRequired { member_id, .. } => {
                self.member_id.clone_from(member_id);
                self.stage = Stage::Out;
            }
            Error::IllegalGeneration { .. } => self.be_gone(),
            Error::UnknownMember { .. } => {
                self.member_id.clear();
                self.be_gone();
            }
            Error::FencedInstance { .. } => {
                self.fenced = true;
                self.be_gone();
            }
            _ => return false,
        }
        true
    }

    fn be_gone(&mut self) {
        (self.generation, self.stage, self.gone, self.rejoin) = (-1, Stage::Out, true, true);
    }

    /// Has time pass at the coordinator.
    fn tick(&mut self, now: Duration) {
        // What fails there is no matter of this member, and heard of by whoever maintains the store; it is tried again.
        let rest = self.coordinator.tick().map_or(TICK_AGAIN, |rest| rest.max(TICK_MIN));
        self.next_tick = now.saturating_add(rest);
    }

    /// When it has to look again though nobody calls.
    pub(super) fn due(&self) -> Duration {
        match self.stage {
            Stage::Stable => self.next_tick.min(self.next_heartbeat),
            _ => self.next_tick,
        }
    }

    /// Whether the store's topics are not any more as they were when it shared them out.
    pub(super) fn is_outdated(
        &self,
        count: impl FnOnce(&BTreeSet<TopicName>) -> BTreeMap<TopicName, u32>,
    ) -> bool {
        self.shared_out.as_ref().is_some_and(|(topics, counts)| count(topics) != *counts)
    }

    /// Shares out the group's topics, as its leader.
    fn share_out(
        &mut self,
        joined: &Joined,
        count: impl FnOnce(&BTreeSet<TopicName>) -> BTreeMap<TopicName, u32>,
    ) -> Result<Vec<(String, Bytes)>> {
        let assignor = self.assignors.iter().find(|assignor| assignor.name() == joined.protocol);
        let assignor = assignor.cloned().ok_or_else(|| Error::InconsistentProtocol {
            group: self.group.clone(),
            reason: format!("it has chosen {:?}, which this member does not know", joined.protocol),
        })?;
        let member = |member: &JoinedMember| GroupMember {
            member_id: member.member_id.clone(),
            instance_id: member.instance_id.clone(),
            // One that cannot be understood gets nothing, and does not keep the others from it.
            subscription: Subscription::decode(&member.metadata).unwrap_or_default(),
        };
        let members: Vec<GroupMember> = joined.members.iter().map(member).collect();
        let topics = members.iter().flat_map(|member| member.subscription.topics.iter().cloned());
        let topics: BTreeSet<TopicName> = topics.collect();
        let counts = count(&topics);
        let shares =
            if joined.skip_assignment { BTreeMap::new() } else { assignor.assign(&counts, &members) };
        self.shared_out = Some((topics, counts));
        let encode = |(member_id, partitions): (String, Vec<TopicPartition>)| {
            let assignment = Assignment { partitions, user_data: None };
            let encoded = assignment.encode().map_err(|source| Error::InvalidBatch { source })?;
            Ok((member_id, Bytes::from(encoded)))
        };
        shares.into_iter().map(encode).collect()
    }
}

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
                Stage::Joining(reply) => Pin::new(reply).poll(&mut context).map_ok(Step::Sync).into_step(),
                Stage::Syncing(reply) => Pin::new(reply).poll(&mut context).map_ok(Step::Take).into_step(),
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
        let Some(membership) = &mut self.group else { return Ok(()) };
        let mut protocols = Vec::new();
        for assignor in &membership.assignors {
            let remembered = if owned.is_empty() { &membership.last.0 } else { &owned };
            let subscription = Subscription {
                topics: topics.iter().cloned().collect(),
                user_data: assignor.user_data(remembered, membership.last.1),
                owned: owned.clone(),
                generation: membership.generation,
                rack: None,
            };
            let encoded = subscription.encode().map_err(|source| Error::InvalidBatch { source })?;
            protocols.push((assignor.name().to_string(), Bytes::from(encoded)));
        }
        let request = JoinRequest {
            group: membership.group.clone(),
            member_id: membership.member_id.clone(),
            instance_id: membership.instance_id.clone(),
            // So that one that is dropped before it hears of its id can leave.
            known_id_required: true,
            client_id: self.config.client_id.clone(),
            client_host: JoinRequest::IN_PROCESS.to_string(),
            session_timeout: self.config.session_timeout.max(self.config.max_poll_interval),
            rebalance_timeout: self.config.max_poll_interval,
            protocol_type: PROTOCOL_TYPE.to_string(),
            protocols,
            waker: Some(self.group_waker.clone()),
        };
        (membership.rejoin, membership.joined_topics) = (false, topics);
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
                Err(error) if is_about_membership(&error) => {}
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
        let committed = if gone { Ok(()) } else { self.commit_handled() };
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
        let metadata = membership.metadata();
        let was_in = !metadata.member_id.is_empty() && !membership.fenced;
        (membership.stage, membership.generation, membership.rejoin) = (Stage::Out, -1, false);
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

    /// Who it is in its group, for [`positions_to_commit`](Self::positions_to_commit) to be committed in a producer's
    /// transaction.
    ///
    /// # Errors
    /// [`Error::InvalidState`] without a group.
    pub fn group_metadata(&self) -> Result<GroupMetadata> {
        let membership = self.membership("tell the group")?;
        let subscribed = self.wanted.is_subscription();
        Ok(if subscribed { membership.metadata() } else { GroupMetadata::simple(&membership.group) })
    }

    /// # Errors
    /// [`Error::InvalidState`] without a group.
    pub(super) fn membership(&self, action: &'static str) -> Result<&Membership> {
        let reason = || "it has no group: name one in its ConsumerConfig".into();
        self.group.as_ref().ok_or_else(|| Error::InvalidState { action, reason: reason() })
    }

    /// Has the group share out its partitions anew, with the next poll: for an assignor that goes by more than the
    /// number of members and partitions. Does nothing unless it is subscribed.
    pub fn enforce_rebalance(&mut self) {
        if let Some(membership) = &mut self.group {
            membership.rejoin = true;
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

trait IntoStep {
    fn into_step(self) -> Result<Step>;
}

impl IntoStep for Poll<Result<Step>> {
    fn into_step(self) -> Result<Step> {
        match self {
            Poll::Ready(step) => step,
            Poll::Pending => Ok(Step::Rest),
        }
    }
}
