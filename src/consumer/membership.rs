//! What a consumer knows of its place in its group, and how it shares out topics if it is the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Consumer;
use super::config::ConsumerConfig;
use crate::error::{Error, Result};
use crate::format::consumer_protocol::{Assignment, Subscription};
use crate::group::{
    Assigned, Assignor, CooperativeStickyAssignor, GroupCoordinator, GroupMember, GroupMetadata, JoinRequest,
    Joined, JoinedMember, RangeAssignor, RebalanceProtocol,
};
use crate::types::{TopicName, TopicPartition};
use crate::wake::Reply;

/// Kafka's protocol type of groups of consumers.
const PROTOCOL_TYPE: &str = "consumer";

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
    pub(super) rebalances: RebalanceProtocol,
    /// Empty before it was given one.
    pub(super) member_id: String,
    pub(super) generation: i32,
    pub(super) stage: Stage,
    /// Whether it is to join again.
    pub(super) rejoin: bool,
    /// Whether it was taken for gone since its partitions were assigned.
    pub(super) gone: bool,
    /// Whether another has its place. Then it is over.
    pub(super) fenced: bool,
    /// What it subscribed to when it joined.
    pub(super) joined_topics: BTreeSet<TopicName>,
    /// The topics of the group and their numbers of partitions, as it shared them out; if it is the leader.
    pub(super) shared_out: Option<(BTreeSet<TopicName>, BTreeMap<TopicName, u32>)>,
    /// What it got last, and in which generation, for assignors that remember.
    pub(super) last: (Vec<TopicPartition>, i32),
    pub(super) next_heartbeat: Duration,
    pub(super) next_tick: Duration,
}

#[derive(Debug)]
pub(super) enum Stage {
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

    /// Whether it can go on without waiting for the group.
    pub(super) fn has_step(&self) -> bool {
        match self.stage {
            Stage::Out => true,
            Stage::Stable => self.rejoin,
            Stage::Joining(_) | Stage::Syncing(_) => false,
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

    pub(super) fn fenced_error(&self) -> Error {
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
    pub(super) fn tick(&mut self, now: Duration) {
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

    /// A request to join, with a subscription to these topics for each assignor. The rest is the consumer's.
    pub(super) fn request(
        &self,
        topics: &BTreeSet<TopicName>,
        owned: &[TopicPartition],
    ) -> Result<JoinRequest> {
        let remembered = if owned.is_empty() { &self.last.0 } else { owned };
        let mut protocols = Vec::new();
        for assignor in &self.assignors {
            let subscription = Subscription {
                topics: topics.iter().cloned().collect(),
                user_data: assignor.user_data(remembered, self.last.1),
                owned: owned.to_vec(),
                generation: self.generation,
                rack: None,
            };
            let encoded = subscription.encode().map_err(|source| Error::InvalidBatch { source })?;
            protocols.push((assignor.name().to_string(), Bytes::from(encoded)));
        }
        Ok(JoinRequest {
            group: self.group.clone(),
            member_id: self.member_id.clone(),
            instance_id: self.instance_id.clone(),
            // So that one that is dropped before it hears of its id can leave.
            known_id_required: true,
            client_id: String::new(),
            client_host: JoinRequest::IN_PROCESS.to_string(),
            session_timeout: Duration::ZERO,
            rebalance_timeout: Duration::ZERO,
            protocol_type: PROTOCOL_TYPE.to_string(),
            protocols,
            waker: None,
        })
    }

    /// Shares out the group's topics, as its leader.
    pub(super) fn share_out(
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
