//! How a group comes from one generation to the next: joining, the choice of a protocol and a leader, syncing.

use bytes::Bytes;

use super::config::too_large;
use super::effects::{Effects, Write};
use super::group::{CONSUMER, Context, Gathering, Group, RETRY_AFTER, answer_gone};
use super::members::Member;
use crate::error::{Error, Result};
use crate::format::consumer_protocol::Subscription;
use crate::group::coordinator::{Assigned, GroupState, JoinRequest, Joined, JoinedMember, SyncRequest};
use crate::wake::Replier;

/// What becomes of a request to join that is not refused.
enum Admitted {
    /// It can be answered now.
    At(Box<Joined>),
    /// The member waits; and what that means for the others.
    Waits(String, Then),
}

enum Then {
    /// Partitions are shared out anew, or that goes on.
    Rebalance,
    /// It goes on for another, once that is written down.
    Succeed,
}

/// Whether two subscriptions ask for the same. Of consumers, what they have does not matter: one that was started again
/// has nothing.
fn wants_the_same(kind: &str, one: &[(String, Bytes)], other: &[(String, Bytes)]) -> bool {
    let same = |one: &Bytes, other: &Bytes| {
        let decoded = || Some((Subscription::decode(one).ok()?, Subscription::decode(other).ok()?));
        let alike =
            |(one, other): (Subscription, Subscription)| (one.topics, one.rack) == (other.topics, other.rack);
        one == other || kind == CONSUMER && decoded().is_some_and(alike)
    };
    let pairs = || one.iter().zip(other);
    one.len() == other.len() && pairs().all(|(one, other)| one.0 == other.0 && same(&one.1, &other.1))
}

impl Group {
    pub(super) fn join(
        &mut self,
        request: JoinRequest,
        new_id: String,
        replier: Replier<Joined>,
        context: &Context<'_>,
        effects: &mut Effects,
    ) {
        let (id, then) = match self.admit(request, new_id, context, effects) {
            Ok(Admitted::Waits(id, then)) => (id, then),
            Ok(Admitted::At(joined)) => return effects.answer_join(replier, Ok(*joined)),
            Err(error) => return effects.answer_join(replier, Err(error)),
        };
        if let Some(earlier) = self.members.wait(&id, replier) {
            // It asked twice: the later one counts.
            effects.answer_join(earlier, Err(self.rebalancing()));
        }
        if let Some(member) = self.members.get(&id) {
            effects.due_at(member.deadline);
        }
        match then {
            Then::Rebalance => self.rebalance(context, effects),
            Then::Succeed => effects.write = Some(Write::Successor(id)),
        }
    }

    fn admit(
        &mut self,
        request: JoinRequest,
        new_id: String,
        context: &Context<'_>,
        effects: &mut Effects,
    ) -> Result<Admitted> {
        let successor_of = match &request.instance_id {
            Some(instance_id) if request.member_id.is_empty() => self.members.in_place(instance_id),
            _ => None,
        };
        let successor_of = successor_of.map(str::to_owned);
        if successor_of.is_none() {
            self.check_room(&request, context, effects)?;
        }
        self.check_protocols(&request, successor_of.as_deref().unwrap_or(&request.member_id))?;
        if let Some(old) = successor_of {
            return self.succeed(&old, request, new_id, context, effects);
        }
        if self.invited.contains_key(&request.member_id) && request.instance_id.is_none() {
            let id = request.member_id.clone();
            return Ok(self.add_member(id, request, context));
        }
        if !request.member_id.is_empty() {
            return self.join_again(request, context, effects);
        }
        if request.known_id_required && request.instance_id.is_none() {
            let deadline = context.now.saturating_add(request.session_timeout);
            effects.due_at(deadline);
            self.invited.insert(new_id.clone(), deadline);
            return Err(Error::MemberIdRequired { group: self.id.clone(), member_id: new_id });
        }
        Ok(self.add_member(new_id, request, context))
    }

    /// Whether there is room for one more. While a group gathers, those who have joined count, so that of members
    /// found in the log the last ones to come are left out.
    fn check_room(
        &mut self,
        request: &JoinRequest,
        context: &Context<'_>,
        effects: &mut Effects,
    ) -> Result<()> {
        let id = request.member_id.as_str();
        let invited = self.invited.keys().filter(|other| other.as_str() != id).count();
        let preparing = self.state == GroupState::PreparingRebalance;
        let known = self.members.get(id).is_some_and(|member| !preparing || member.is_joining());
        let there = if preparing { self.members.joining() } else { self.members.len() };
        let limit = context.config.members_max;
        if known || there + invited < limit {
            return Ok(());
        }
        if self.members.get(id).is_some() {
            self.drop_member(id, effects);
            self.complete_if_all_joined(context, effects);
        }
        Err(too_large("the number of members of the group", there as u64 + 1, limit as u64, "group.max.size"))
    }

    /// Whether a member fits to all others, `itself` left out if it is one.
    fn check_protocols(&self, request: &JoinRequest, itself: &str) -> Result<()> {
        let inconsistent =
            |reason: String| Err(Error::InconsistentProtocol { group: self.id.clone(), reason });
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return inconsistent("it names no protocol".into());
        }
        if self.members.is_empty() {
            return Ok(());
        }
        let kind = self.protocol_type.as_deref().unwrap_or_default();
        if kind != request.protocol_type {
            return inconsistent(format!(
                "the group is one of {kind:?}, the member of {:?}",
                request.protocol_type
            ));
        }
        if !request.protocols.iter().any(|(name, _)| self.members.others_know(name, itself)) {
            let names: Vec<&str> = request.protocols.iter().map(|(name, _)| name.as_str()).collect();
            return inconsistent(format!("all other members share none of its protocols {names:?}"));
        }
        Ok(())
    }

    fn add_member(&mut self, id: String, request: JoinRequest, context: &Context<'_>) -> Admitted {
        self.invited.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        if let Some(gathering) = &mut self.gathering {
            gathering.grown = true;
        }
        let mut member = Member::new(id.clone(), request);
        member.deadline = context.now.saturating_add(context.config.new_member_timeout);
        self.members.add(member);
        self.leader.get_or_insert_with(|| id.clone());
        Admitted::Waits(id, Then::Rebalance)
    }

    /// A static member comes with the instance id of another, which it replaces at once.
    fn succeed(
        &mut self,
        old: &str,
        request: JoinRequest,
        new_id: String,
        context: &Context<'_>,
        effects: &mut Effects,
    ) -> Result<Admitted> {
        let instance_id = request.instance_id.clone().unwrap_or_default();
        let before = self.members.choose_protocol();
        let mut member = Member::new(new_id.clone(), request);
        member.renew(context.now);
        if let Some(mut replaced) = self.members.replace(old, member) {
            answer_gone(&mut replaced, || self.fenced(&instance_id), effects);
            let kind = self.protocol_type.as_deref().unwrap_or_default();
            let wants = |member: &Member| wants_the_same(kind, &member.protocols, &replaced.protocols);
            let same = self.members.get(&new_id).is_some_and(wants);
            if self.unsynced.remove(old) {
                self.unsynced.insert(new_id.clone());
            }
            if self.leader.as_deref() == Some(old) {
                self.leader = Some(new_id.clone());
            }
            let stays = same && before.is_some() && before == self.members.choose_protocol();
            if self.state == GroupState::Stable && stays {
                return Ok(Admitted::Waits(new_id, Then::Succeed));
            }
        }
        Ok(Admitted::Waits(new_id, Then::Rebalance))
    }

    /// A member joins that is one already.
    fn join_again(
        &mut self,
        request: JoinRequest,
        context: &Context<'_>,
        effects: &mut Effects,
    ) -> Result<Admitted> {
        let id = request.member_id.clone();
        self.check_member(&id, request.instance_id.as_deref())?;
        let Some(member) = self.members.get_mut(&id) else { return Err(self.unknown(&id)) };
        effects.retire(std::mem::replace(&mut member.waker, request.waker));
        member.session_timeout = request.session_timeout;
        member.rebalance_timeout = request.rebalance_timeout;
        member.renew(context.now);
        effects.due_at(member.deadline);
        let same = member.protocols == request.protocols;
        self.members.set_protocols(&id, request.protocols);
        let leads = self.leader.as_deref() == Some(id.as_str());
        let stays = match self.state {
            // It may not have heard the answer.
            GroupState::CompletingRebalance => same,
            // The leader asks for another assignment, whatever its reasons.
            GroupState::Stable => same && !leads,
            _ => false,
        };
        if stays {
            return Ok(Admitted::At(Box::new(self.joined(&id, false))));
        }
        Ok(Admitted::Waits(id, Then::Rebalance))
    }

    /// The generation, as a member is told.
    fn joined(&self, id: &str, skip_assignment: bool) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let leads = self.leader.as_deref() == Some(id);
        let as_seen = |member: &Member| JoinedMember {
            member_id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(&protocol),
        };
        Joined {
            generation: self.generation,
            member_id: id.to_owned(),
            leader: self.leader.clone().unwrap_or_default(),
            members: if leads { self.members.iter().map(as_seen).collect() } else { Vec::new() },
            skip_assignment: skip_assignment && leads,
            protocol,
        }
    }

    /// Who is in the group has changed: everybody is called, unless that has been done.
    pub(super) fn rebalance(&mut self, context: &Context<'_>, effects: &mut Effects) {
        match self.state {
            GroupState::PreparingRebalance => self.complete_if_all_joined(context, effects),
            GroupState::Dead => {}
            _ => self.prepare(context, effects),
        }
    }

    fn prepare(&mut self, context: &Context<'_>, effects: &mut Effects) {
        let again = || Error::RebalanceInProgress { group: self.id.clone() };
        for member in self.members.iter_mut() {
            if let Some(replier) = member.syncing.take() {
                effects.answer_sync(replier, Err(again()));
            }
            if self.state == GroupState::CompletingRebalance {
                member.assignment = Bytes::new();
            }
            if !member.is_joining() {
                effects.wake(member.waker.as_ref());
            }
        }
        effects.moved = true;
        (self.staged, self.sync_deadline) = (None, None);
        self.unsynced.clear();
        let first = self.state == GroupState::Empty;
        self.enter(GroupState::PreparingRebalance, context);
        let patience = self.members.rebalance_timeout();
        let delay = context.config.initial_rebalance_delay;
        if first && !delay.is_zero() {
            let limit = context.now.saturating_add(patience.max(delay));
            self.gathering = Some(Gathering { limit, grown: false });
            self.join_deadline = Some(context.now.saturating_add(delay));
            return;
        }
        self.join_deadline = Some(context.now.saturating_add(patience));
        self.complete_if_all_joined(context, effects);
    }

    /// Ends joining once nobody is missing.
    pub(super) fn complete_if_all_joined(&mut self, context: &Context<'_>, effects: &mut Effects) {
        let gathers = self.gathering.is_some() && !self.members.is_empty();
        let all = self.members.all_joined() && self.invited.is_empty();
        if self.state == GroupState::PreparingRebalance && !gathers && all {
            self.complete_join(context, effects);
        }
    }

    /// The time for joining is over, unless more have come to an empty group.
    pub(super) fn end_joining(&mut self, context: &Context<'_>, effects: &mut Effects) {
        self.join_deadline = None;
        if let Some(gathering) = self.gathering.as_mut().filter(|it| it.grown && it.limit > context.now) {
            gathering.grown = false;
            let next = context.now.saturating_add(context.config.initial_rebalance_delay);
            self.join_deadline = Some(next.min(gathering.limit));
            return;
        }
        self.complete_join(context, effects);
    }

    /// Begins the next generation, with those who are there.
    pub(super) fn complete_join(&mut self, context: &Context<'_>, effects: &mut Effects) {
        effects.moved = true;
        (self.join_deadline, self.gathering) = (None, None);
        // What the old generation commits must not come after what the new one reads.
        self.closing = self.commits > 0;
        if self.closing {
            return;
        }
        let missing = self.members.iter().filter(|member| !member.is_joining() && !member.is_static());
        let missing: Vec<String> = missing.map(|member| member.id.clone()).collect();
        missing.iter().for_each(|id| self.drop_member(id, effects));
        if self.members.is_empty() {
            self.generation = self.generation.checked_add(1).unwrap_or(1);
            (self.protocol, self.leader) = (None, None);
            self.subscribed = self.find_subscribed();
            self.enter(GroupState::Empty, context);
            self.unsaved = Some(context.now.saturating_add(RETRY_AFTER));
            effects.write = Some(Write::Empty);
            return;
        }
        let leads = |id: &String| self.members.get(id).is_some_and(Member::is_joining);
        if !self.leader.as_ref().is_some_and(leads) {
            let Some(first) = self.members.first_joining() else {
                // All of them static, and none there: until they come, or their time is over.
                let patience = self.members.rebalance_timeout();
                self.join_deadline = Some(context.now.saturating_add(patience));
                return;
            };
            self.leader = Some(first.to_owned());
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.members.choose_protocol();
        self.subscribed = self.find_subscribed();
        self.enter(GroupState::CompletingRebalance, context);
        self.sync_deadline = Some(context.now.saturating_add(self.members.rebalance_timeout()));
        self.answer_joins(context, effects);
    }

    fn answer_joins(&mut self, context: &Context<'_>, effects: &mut Effects) {
        let ids: Vec<String> = self.members.iter().map(|member| member.id.clone()).collect();
        for id in ids {
            let replier = self.members.take_join(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            let Some(replier) = replier else {
                // It is told of the generation that it missed.
                effects.wake(member.waker.as_ref());
                continue;
            };
            member.renew(context.now);
            member.newcomer = false;
            effects.answer_join(replier, Ok(self.joined(&id, false)));
            self.unsynced.insert(id);
        }
    }

    pub(super) fn sync(
        &mut self,
        request: SyncRequest,
        replier: Replier<Assigned>,
        context: &Context<'_>,
        effects: &mut Effects,
    ) {
        let id = request.member.member_id.as_str();
        let checked = self.check_generation(&request.member).and_then(|()| match self.state {
            GroupState::Empty | GroupState::Dead => Err(self.unknown(id)),
            GroupState::PreparingRebalance => Err(self.rebalancing()),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        });
        if let Err(error) = checked {
            return effects.answer_sync(replier, Err(error));
        }
        self.unsynced.remove(id);
        if self.unsynced.is_empty() && self.state == GroupState::Stable {
            self.sync_deadline = None;
        }
        let again = self.rebalancing();
        let Some(member) = self.members.get_mut(id) else { return };
        member.renew(context.now);
        if self.state == GroupState::Stable {
            let assignment = member.assignment.clone();
            return effects.answer_sync(replier, Ok(Assigned { assignment }));
        }
        if let Some(earlier) = member.syncing.replace(replier) {
            effects.answer_sync(earlier, Err(again));
        }
        if self.leader.as_deref() == Some(id) && self.staged.is_none() {
            self.staged = Some(request.assignments.into_iter().collect());
            effects.write = Some(Write::Assignment(self.generation));
        }
    }

    /// Sends those home who joined but did not ask for their assignment.
    pub(super) fn end_syncing(&mut self, context: &Context<'_>, effects: &mut Effects) {
        self.sync_deadline = None;
        let silent = std::mem::take(&mut self.unsynced);
        if silent.is_empty() {
            return;
        }
        silent.iter().for_each(|id| self.drop_member(id, effects));
        self.rebalance(context, effects);
    }

    /// What was to be written down is, or could not be. Returns the failure if nobody else was told.
    pub(super) fn written(
        &mut self,
        write: Write,
        result: Result<()>,
        context: &Context<'_>,
        effects: &mut Effects,
    ) -> Result<()> {
        self.stored |= result.is_ok();
        match write {
            Write::Empty => {
                self.unsaved = self.unsaved.filter(|_| result.is_err());
                result
            }
            Write::Assignment(generation) => {
                self.assigned(generation, result, context, effects);
                Ok(())
            }
            Write::Successor(id) => {
                if self.state != GroupState::Stable {
                    // It is in the next generation, as everybody.
                    return Ok(());
                }
                if let Some(member) = self.members.get_mut(&id) {
                    member.renew(context.now);
                    effects.due_at(member.deadline);
                }
                if let Some(replier) = self.members.take_join(&id) {
                    effects.answer_join(replier, result.map(|()| self.joined(&id, true)));
                }
                Ok(())
            }
        }
    }

    fn assigned(
        &mut self,
        generation: i32,
        result: Result<()>,
        context: &Context<'_>,
        effects: &mut Effects,
    ) {
        if self.state != GroupState::CompletingRebalance || self.generation != generation {
            // Everybody has been told to join again.
            return;
        }
        effects.moved = true;
        let mut assignments = self.staged.take().unwrap_or_default();
        if let Err(error) = result {
            let leader = self.leader.as_ref().and_then(|leader| self.members.get_mut(leader));
            if let Some(replier) = leader.and_then(|leader| leader.syncing.take()) {
                effects.answer_sync(replier, Err(error));
            }
            return self.rebalance(context, effects);
        }
        for member in self.members.iter_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
            if let Some(replier) = member.syncing.take() {
                member.renew(context.now);
                effects.answer_sync(replier, Ok(Assigned { assignment: member.assignment.clone() }));
            }
        }
        self.enter(GroupState::Stable, context);
        if self.unsynced.is_empty() {
            self.sync_deadline = None;
        }
    }
}
