//! [`Members`]: who is in a group, whose place is whose, and which protocols all of them know.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use crate::group::coordinator::{Assigned, JoinRequest, Joined};
use crate::wake::Replier;

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    /// What it knows, best first, with its subscription for each.
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    /// The place in the order in which they came: the first one leads.
    pub(super) order: u64,
    /// When it is taken for gone, in monotonic time.
    pub(super) deadline: Duration,
    /// It has not been in a generation yet, so nobody may wait for it for longer than the deadline says.
    pub(super) newcomer: bool,
    /// A static member that is known to be away: nobody waits for it, and nobody may speak for it but a successor.
    away: bool,
    /// Its commits under way.
    pub(super) commits: u32,
    /// Who waits for the answer to its join.
    joining: Option<Replier<Joined>>,
    /// Who waits for the answer to its sync.
    pub(super) syncing: Option<Replier<Assigned>>,
    pub(super) waker: Option<Waker>,
}

impl Member {
    pub(super) fn new(id: String, request: JoinRequest) -> Self {
        Member {
            id,
            instance_id: request.instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout: request.session_timeout,
            rebalance_timeout: request.rebalance_timeout,
            protocols: request.protocols,
            assignment: Bytes::new(),
            order: 0,
            deadline: Duration::MAX,
            newcomer: true,
            away: false,
            commits: 0,
            joining: None,
            syncing: None,
            waker: request.waker,
        }
    }

    /// Its subscription for a protocol.
    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        let known = self.protocols.iter().find(|(name, _)| name == protocol);
        known.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    /// It was heard of. One that is away has its place for as long as was said.
    pub(super) fn renew(&mut self, now: Duration) {
        if !self.away {
            self.deadline = now.saturating_add(self.session_timeout);
        }
    }

    /// Whether it is known to live, whatever its deadline says: it waits for an answer, or its commit for the disk.
    pub(super) fn is_heard(&self) -> bool {
        let waits = !self.newcomer && (self.joining.is_some() || self.syncing.is_some());
        waits || self.commits > 0
    }

    /// Whether it was silent for too long.
    pub(super) fn is_expired(&self, now: Duration) -> bool {
        !self.is_heard() && self.deadline <= now
    }

    pub(super) fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    pub(super) fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    pub(super) fn is_away(&self) -> bool {
        self.away
    }

    /// Once it is none of its group any more.
    pub(super) fn take_join(&mut self) -> Option<Replier<Joined>> {
        self.joining.take()
    }
}

/// The members of a group, by id.
#[derive(Debug, Default)]
pub(super) struct Members {
    all: BTreeMap<String, Member>,
    /// By instance id: whose place it is.
    places: BTreeMap<String, String>,
    /// How many know each protocol.
    known: BTreeMap<String, usize>,
    next_order: u64,
    /// How many wait for the next generation, and how many do not and are away.
    joining: usize,
    absent: usize,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Member> {
        self.all.get(id)
    }

    /// A member, to be changed in all but its protocols.
    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.all.get_mut(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.all.values_mut()
    }

    /// Whose place it is.
    pub(super) fn in_place(&self, instance_id: &str) -> Option<&str> {
        self.places.get(instance_id).map(String::as_str)
    }

    /// Who asks for the member waits for the next generation. Returns who did so before.
    pub(super) fn wait(&mut self, id: &str, replier: Replier<Joined>) -> Option<Replier<Joined>> {
        let Some(member) = self.all.get_mut(id) else { return Some(replier) };
        let before = member.joining.replace(replier);
        if before.is_none() {
            self.joining += 1;
        }
        before
    }

    /// Who waits, to be answered.
    pub(super) fn take_join(&mut self, id: &str) -> Option<Replier<Joined>> {
        let replier = self.all.get_mut(id)?.joining.take()?;
        self.joining -= 1;
        Some(replier)
    }

    /// It goes, but keeps its place.
    pub(super) fn send_away(&mut self, id: &str, until: Duration) {
        let Some(member) = self.all.get_mut(id) else { return };
        (member.waker, member.deadline) = (None, until);
        if !std::mem::replace(&mut member.away, true) {
            self.absent += 1;
        }
    }

    pub(super) fn add(&mut self, mut member: Member) {
        member.order = self.next_order;
        self.next_order += 1;
        self.insert(member);
    }

    fn insert(&mut self, member: Member) {
        if let Some(instance_id) = &member.instance_id {
            self.places.insert(instance_id.clone(), member.id.clone());
        }
        self.count(&member.protocols, true);
        self.absent += usize::from(member.away);
        self.all.insert(member.id.clone(), member);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        let member = self.all.remove(id)?;
        self.count(&member.protocols, false);
        self.joining -= usize::from(member.joining.is_some());
        self.absent -= usize::from(member.away);
        if let Some(instance_id) = &member.instance_id {
            self.places.remove(instance_id);
        }
        Some(member)
    }

    /// Gives a place, with what was assigned to it, to another. Returns who had it.
    pub(super) fn replace(&mut self, old: &str, mut new: Member) -> Option<Member> {
        let before = self.remove(old)?;
        new.order = before.order;
        new.assignment = before.assignment.clone();
        new.newcomer = false;
        self.insert(new);
        Some(before)
    }

    pub(super) fn set_protocols(&mut self, id: &str, protocols: Vec<(String, Bytes)>) {
        let Some(member) = self.all.get_mut(id) else { return };
        let before = std::mem::replace(&mut member.protocols, protocols);
        let now = member.protocols.clone();
        self.count(&before, false);
        self.count(&now, true);
    }

    fn count(&mut self, protocols: &[(String, Bytes)], more: bool) {
        let names: BTreeSet<&String> = protocols.iter().map(|(name, _)| name).collect();
        for name in names {
            let count = self.known.entry(name.clone()).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.known.remove(name);
            }
        }
    }

    /// Whether all know it.
    pub(super) fn all_know(&self, protocol: &str) -> bool {
        self.known.get(protocol).copied().unwrap_or(0) == self.all.len()
    }

    /// Whether all but the one know it.
    pub(super) fn others_know(&self, protocol: &str, one: &str) -> bool {
        let count = self.known.get(protocol).copied().unwrap_or(0);
        let Some(one) = self.all.get(one) else { return count == self.all.len() };
        let knows = one.protocols.iter().any(|(name, _)| name == protocol);
        count - usize::from(knows) == self.all.len() - 1
    }

    /// The protocol that most would have, of those that all know; of equals the first by name.
    pub(super) fn choose_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.all.values() {
            let best =
                member.protocols.iter().map(|(name, _)| name.as_str()).find(|name| self.all_know(name));
            if let Some(best) = best {
                *votes.entry(best).or_default() += 1;
            }
        }
        let best = votes.into_iter().max_by_key(|(name, count)| (*count, std::cmp::Reverse(*name)));
        best.map(|(name, _)| name.to_owned())
    }

    /// How many wait for the next generation.
    pub(super) fn joining(&self) -> usize {
        self.joining
    }

    /// Whether nobody is missing who might come.
    pub(super) fn all_joined(&self) -> bool {
        self.joining + self.absent == self.all.len()
    }

    /// How long the slowest may take.
    pub(super) fn rebalance_timeout(&self) -> Duration {
        let longest = self.all.values().map(|member| member.rebalance_timeout).max();
        longest.unwrap_or_default().max(Duration::from_millis(1))
    }

    /// Who came first, of those who join.
    pub(super) fn first_joining(&self) -> Option<&str> {
        let joining = self.all.values().filter(|member| member.joining.is_some());
        joining.min_by_key(|member| member.order).map(|member| member.id.as_str())
    }

    /// Who came first.
    pub(super) fn first(&self) -> Option<&str> {
        self.all.values().min_by_key(|member| member.order).map(|member| member.id.as_str())
    }
}
