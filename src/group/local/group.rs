//! [`Group`]: one group's state, who may say what in it, and how members go. Pure: it waits for nothing and does no
//! I/O; what is to happen outside is in [`Effects`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::config::GroupConfig;
use super::effects::{Effects, Write};
use super::members::{Member, Members};
use super::offsets::Offsets;
use crate::error::{Error, Result};
use crate::format::consumer_protocol::Subscription;
use crate::group::coordinator::{
    GroupDescription, GroupListing, GroupMetadata, GroupState, MemberDescription,
};
use crate::types::{TopicName, TopicPartition};

/// What kind of group consumers make.
pub(super) const CONSUMER: &str = "consumer";

/// How long a write that failed rests before it is tried again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The moment of a call, and the settings in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    /// Monotonic time, for timeouts.
    pub(super) now: Duration,
    /// Wall time, for what is written down.
    pub(super) wall: i64,
    pub(super) config: &'a GroupConfig,
}

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: String,
    pub(super) state: GroupState,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: Members,
    /// Ids that were given to newcomers who have not come back with them, and until when they may.
    pub(super) invited: BTreeMap<String, Duration>,
    /// Who has to ask for its assignment yet.
    pub(super) unsynced: BTreeSet<String>,
    /// When joining ends, whoever is missing.
    pub(super) join_deadline: Option<Duration>,
    /// While an empty group waits for its first members.
    pub(super) gathering: Option<Gathering>,
    /// When those are sent home who have not asked for their assignment.
    pub(super) sync_deadline: Option<Duration>,
    /// The assignment that the leader brought, while it is written down.
    pub(super) staged: Option<BTreeMap<String, Bytes>>,
    /// When it came into its state, in milliseconds since the epoch.
    pub(super) changed_at: Option<i64>,
    /// The topics that members subscribe to, where that is known.
    pub(super) subscribed: Option<BTreeSet<TopicName>>,
    pub(super) offsets: Offsets,
    /// Commits under way for the generation: the next one does not begin before they have ended.
    pub(super) commits: usize,
    /// Joining is over but for those commits; no more are taken.
    pub(super) closing: bool,
    /// All commits under way, by the order in which they began; and those of transactions by producer.
    pub(super) running: BTreeSet<u64>,
    pub(super) next_ticket: u64,
    pub(super) transactions: BTreeMap<i64, usize>,
    /// Somebody removes offsets: commits wait.
    pub(super) held: bool,
    /// Whether the log knows the group by itself, not by its offsets alone.
    pub(super) stored: bool,
    /// That it is empty is not written down yet; and when to try again.
    pub(super) unsaved: Option<Duration>,
}

/// An empty group that waits for its first members.
#[derive(Debug)]
pub(super) struct Gathering {
    /// When it waits no longer, whoever comes.
    pub(super) limit: Duration,
    /// Whether somebody came since it began to wait.
    pub(super) grown: bool,
}

impl Group {
    pub(super) fn new(id: &str) -> Self {
        Group {
            id: id.to_owned(),
            state: GroupState::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: Members::default(),
            invited: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            join_deadline: None,
            gathering: None,
            sync_deadline: None,
            staged: None,
            changed_at: None,
            subscribed: None,
            offsets: Offsets::default(),
            commits: 0,
            closing: false,
            running: BTreeSet::new(),
            next_ticket: 0,
            transactions: BTreeMap::new(),
            held: false,
            stored: false,
            unsaved: None,
        }
    }

    /// Whether nothing would be lost if it were forgotten.
    pub(super) fn is_void(&self) -> bool {
        self.state == GroupState::Empty
            && self.invited.is_empty()
            && self.offsets.is_empty()
            && self.running.is_empty()
            && !(self.stored || self.unsaved.is_some() || self.held)
    }

    pub(super) fn enter(&mut self, state: GroupState, context: &Context<'_>) {
        self.state = state;
        self.changed_at = Some(context.wall);
    }

    pub(super) fn unknown(&self, member_id: &str) -> Error {
        unknown_member(&self.id, member_id)
    }

    pub(super) fn rebalancing(&self) -> Error {
        Error::RebalanceInProgress { group: self.id.clone() }
    }

    /// Whether somebody is who he says he is.
    pub(super) fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<()> {
        if let Some(instance_id) = instance_id {
            match self.members.in_place(instance_id) {
                None => return Err(self.unknown(member_id)),
                Some(known) if known != member_id => return Err(self.fenced(instance_id)),
                Some(_) => {}
            }
        }
        match self.members.get(member_id) {
            Some(member) if !member.is_away() => Ok(()),
            _ => Err(self.unknown(member_id)),
        }
    }

    pub(super) fn fenced(&self, instance_id: &str) -> Error {
        Error::FencedInstance { group: self.id.clone(), instance_id: instance_id.to_owned() }
    }

    /// Whether it is a member of the current generation.
    pub(super) fn check_generation(&self, member: &GroupMetadata) -> Result<()> {
        self.check_member(&member.member_id, member.instance_id.as_deref())?;
        if member.generation == self.generation {
            return Ok(());
        }
        Err(Error::IllegalGeneration {
            group: self.id.clone(),
            member_id: member.member_id.clone(),
            found: member.generation,
            current: self.generation,
        })
    }

    pub(super) fn heartbeat(&mut self, member: &GroupMetadata, context: &Context<'_>) -> Result<()> {
        self.check_generation(member)?;
        if let Some(member) = self.members.get_mut(&member.member_id) {
            member.renew(context.now);
        }
        match self.state {
            GroupState::PreparingRebalance => Err(self.rebalancing()),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
            GroupState::Empty | GroupState::Dead => Err(self.unknown(&member.member_id)),
        }
    }

    pub(super) fn leave(
        &mut self,
        member: &GroupMetadata,
        keep_for: Option<Duration>,
        context: &Context<'_>,
        effects: &mut Effects,
    ) -> Result<()> {
        let mut id = member.member_id.clone();
        let instance_id = member.instance_id.as_deref();
        if id.is_empty() {
            // An administrator, who knows the place alone.
            let known = instance_id.and_then(|instance_id| self.members.in_place(instance_id));
            id = known.map(str::to_owned).ok_or_else(|| self.unknown(&member.member_id))?;
        } else if self.invited.remove(&id).is_some() {
            self.complete_if_all_joined(context, effects);
            return Ok(());
        } else {
            self.check_member(&id, instance_id)?;
        }
        match keep_for.filter(|kept| !kept.is_zero()) {
            Some(kept) if self.members.get(&id).is_some_and(Member::is_static) => {
                self.keep_place(&id, kept, context, effects);
            }
            _ => {
                self.drop_member(&id, effects);
                self.rebalance(context, effects);
            }
        }
        Ok(())
    }

    /// Keeps a static member's place, and what is assigned to it, for the next with its instance id.
    fn keep_place(&mut self, id: &str, kept: Duration, context: &Context<'_>, effects: &mut Effects) {
        self.unsynced.remove(id);
        if let Some(replier) = self.members.take_join(id) {
            effects.answer_join(replier, Err(self.unknown(id)));
        }
        let unknown = self.unknown(id);
        if let Some(member) = self.members.get_mut(id) {
            if let Some(replier) = member.syncing.take() {
                effects.answer_sync(replier, Err(unknown));
            }
            effects.wake(member.waker.as_ref());
        }
        self.members.send_away(id, context.now.saturating_add(kept));
        effects.moved = true;
        let leads = self.leader.as_deref() == Some(id);
        if leads && self.state == GroupState::CompletingRebalance && self.staged.is_none() {
            // Nobody would bring the others their assignment.
            return self.rebalance(context, effects);
        }
        self.complete_if_all_joined(context, effects);
    }

    /// Takes a member out, and tells it so.
    pub(super) fn drop_member(&mut self, id: &str, effects: &mut Effects) {
        let Some(mut member) = self.members.remove(id) else { return };
        answer_gone(&mut member, || unknown_member(&self.id, id), effects);
        self.unsynced.remove(id);
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.first().map(str::to_owned);
        }
    }

    /// Does what is due by time. Returns when something is due next.
    pub(super) fn tick(&mut self, context: &Context<'_>, effects: &mut Effects) -> Option<Duration> {
        let before = self.invited.len();
        self.invited.retain(|_, deadline| *deadline > context.now);
        if self.invited.len() < before {
            self.complete_if_all_joined(context, effects);
        }
        let silent: Vec<String> = self
            .members
            .iter()
            .filter(|member| member.is_expired(context.now))
            .map(|it| it.id.clone())
            .collect();
        if !silent.is_empty() {
            silent.iter().for_each(|id| self.drop_member(id, effects));
            self.rebalance(context, effects);
        }
        if self.join_deadline.is_some_and(|deadline| deadline <= context.now) {
            self.end_joining(context, effects);
        }
        if self.sync_deadline.is_some_and(|deadline| deadline <= context.now) {
            self.end_syncing(context, effects);
        }
        let unsaved = self.unsaved.filter(|_| self.state == GroupState::Empty);
        if unsaved.is_some_and(|again| again <= context.now) {
            self.unsaved = Some(context.now.saturating_add(RETRY_AFTER));
            effects.write = Some(Write::Empty);
        }
        self.next_due()
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let expiring = self.members.iter().filter(|member| !member.is_heard());
        let deadlines = expiring.map(|member| member.deadline).chain(self.invited.values().copied());
        let unsaved = self.unsaved.filter(|_| self.state == GroupState::Empty);
        deadlines.chain(self.join_deadline).chain(self.sync_deadline).chain(unsaved).min()
    }

    /// The topics that the members subscribe to; `None` if that cannot be told, as of groups of something else than
    /// consumers.
    pub(super) fn find_subscribed(&self) -> Option<BTreeSet<TopicName>> {
        if self.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.iter() {
            topics.extend(Subscription::decode(&member.metadata(protocol)).ok()?.topics);
        }
        Some(topics)
    }

    /// Whether a member may be reading the topic; where that is not known, of consumers, it may.
    pub(super) fn is_subscribed(&self, topic: &TopicName) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.protocol_type.as_deref() == Some(CONSUMER),
        }
    }

    /// Whether offsets of these partitions may be removed.
    pub(super) fn check_removal(&self, partitions: &[TopicPartition]) -> Result<()> {
        let group = || self.id.clone();
        if self.state != GroupState::Empty && self.protocol_type.as_deref() != Some(CONSUMER) {
            return Err(Error::GroupNotEmpty { group: group() });
        }
        match partitions.iter().find(|partition| self.is_subscribed(&partition.topic)) {
            Some(read) if self.state != GroupState::Empty => {
                Err(Error::GroupSubscribed { group: group(), topic: read.topic.to_string() })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn listing(&self) -> GroupListing {
        GroupListing {
            group: self.id.clone(),
            state: self.state,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
        }
    }

    pub(super) fn description(&self) -> GroupDescription {
        let protocol = self.protocol.clone().filter(|_| self.state == GroupState::Stable).unwrap_or_default();
        let members = self.members.iter().map(|member| MemberDescription {
            member_id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(&protocol),
            assignment: member.assignment.clone(),
        });
        GroupDescription {
            group: self.id.clone(),
            state: self.state,
            generation: self.generation,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: members.collect(),
            protocol,
            leader: self.leader.clone(),
        }
    }
}

pub(super) fn unknown_member(group: &str, member_id: &str) -> Error {
    Error::UnknownMember { group: group.to_owned(), member_id: member_id.to_owned() }
}

/// Tells a member that it is none any more.
pub(super) fn answer_gone(member: &mut Member, reason: impl Fn() -> Error, effects: &mut Effects) {
    if let Some(replier) = member.take_join() {
        effects.answer_join(replier, Err(reason()));
    }
    if let Some(replier) = member.syncing.take() {
        effects.answer_sync(replier, Err(reason()));
    }
    effects.wake(member.waker.as_ref());
}
