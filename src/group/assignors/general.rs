//! How a sticky assignor shares out if members want different topics.
//!
//! To a member all partitions of a topic are alike. So first it is settled how many of each topic a member gets, and
//! only then which: those that it has, as far as they go. That way nothing of a topic goes from one member to another
//! while something of the same topic comes back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::layout::Layout;
use super::sticky::Claim;

/// The owners of all partitions in order.
///
/// What members have they keep for a start. The rest is handed out, the topics that fewest want first, each partition
/// to the member with the least of those that may have it. Then whoever could give one to a member with at least two
/// less does, first of what it just got; until nobody could. So it ends: each such step makes loads more alike.
pub(super) fn share_out(layout: &Layout<'_>, claims: &[Claim]) -> Vec<Option<usize>> {
    let mut shares = Shares::of_owners(layout, claims);
    shares.hand_out();
    shares.settle(true);
    shares.settle(false);
    shares.owners(claims)
}

/// How many partitions of each topic each member gets.
struct Shares<'l, 'a> {
    layout: &'l Layout<'a>,
    members: Vec<Member>,
    /// By class: its members by load.
    ranks: Vec<BTreeSet<(usize, usize)>>,
    /// By topic: how many partitions are left to hand out.
    left: Vec<usize>,
    /// By topic: to whom partitions were handed out, in order.
    handed: Vec<Vec<usize>>,
}

#[derive(Default, Clone)]
struct Member {
    load: usize,
    /// What it gets, by topic.
    gets: BTreeMap<usize, usize>,
    /// What it has, by topic.
    has: BTreeMap<usize, usize>,
}

impl<'l, 'a> Shares<'l, 'a> {
    fn of_owners(layout: &'l Layout<'a>, claims: &[Claim]) -> Self {
        let mut members = vec![Member::default(); layout.members.len()];
        let mut left: Vec<usize> = layout.topics.iter().map(|topic| topic.partitions as usize).collect();
        for ((topic, _), claim) in layout.every_partition().zip(claims) {
            let owner = claim.owner.and_then(|owner| members.get_mut(owner));
            if let (Some(owner), Some(left)) = (owner, left.get_mut(topic)) {
                owner.load += 1;
                *owner.has.entry(topic).or_default() += 1;
                *left -= 1;
            }
        }
        let mut ranks = vec![BTreeSet::new(); layout.classes.len()];
        for (number, member) in members.iter_mut().enumerate() {
            member.gets = member.has.clone();
            if let Some(rank) = ranks.get_mut(layout.class_of(number)) {
                rank.insert((member.load, number));
            }
        }
        let handed = vec![Vec::new(); layout.topics.len()];
        Shares { layout, members, ranks, left, handed }
    }

    /// The member with the least of those that want a topic, and its load.
    fn least(&self, topic: usize) -> Option<(usize, usize)> {
        let classes = &self.layout.topics.get(topic)?.classes;
        classes.iter().filter_map(|&class| self.ranks.get(class)?.first()).min().copied()
    }

    /// Changes what a member gets of a topic.
    fn change(&mut self, number: usize, topic: usize, by: isize) {
        let rank = self.ranks.get_mut(self.layout.class_of(number));
        let (Some(member), Some(rank)) = (self.members.get_mut(number), rank) else { return };
        rank.remove(&(member.load, number));
        member.load = member.load.saturating_add_signed(by);
        rank.insert((member.load, number));
        let gets = member.gets.entry(topic).or_default();
        *gets = gets.saturating_add_signed(by);
        if *gets == 0 {
            member.gets.remove(&topic);
        }
    }

    fn hand_out(&mut self) {
        let wanting = |topic: usize| {
            let classes = self.layout.topics.get(topic).map_or(&[][..], |topic| &topic.classes);
            classes
                .iter()
                .filter_map(|&class| self.layout.classes.get(class))
                .map(|class| class.members.len())
        };
        let mut topics: Vec<usize> = (0..self.layout.topics.len()).collect();
        topics.sort_by_cached_key(|&topic| wanting(topic).sum::<usize>());
        for topic in topics {
            for _ in 0..self.left.get(topic).copied().unwrap_or_default() {
                let Some((_, member)) = self.least(topic) else { break };
                self.change(member, topic, 1);
                self.handed.get_mut(topic).into_iter().for_each(|handed| handed.push(member));
            }
        }
    }

    /// Moves partitions until no move would help; if `gained`, only those that a member has not had.
    fn settle(&mut self, gained: bool) {
        loop {
            let mut by_load: Vec<usize> = (0..self.members.len()).collect();
            by_load.sort_by_key(|&number| self.members.get(number).map(|member| Reverse(member.load)));
            let mut moved = false;
            for number in by_load {
                while self.relieve(number, gained) {
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Moves one partition of each topic from a member, where that helps; whether it did.
    fn relieve(&mut self, number: usize, gained: bool) -> bool {
        let Some(member) = self.members.get(number) else { return false };
        let lowest = self.ranks.iter().filter_map(BTreeSet::first).min();
        if lowest.is_none_or(|(lowest, _)| member.load <= lowest + 1) {
            return false;
        }
        let new = |topic: &usize, gets: usize| gets > member.has.get(topic).copied().unwrap_or_default();
        let mut topics: Vec<(bool, usize, usize)> =
            member.gets.iter().map(|(topic, &gets)| (new(topic, gets), gets, *topic)).collect();
        topics.retain(|(new, ..)| *new || !gained);
        topics.sort_unstable_by_key(|&topic| Reverse(topic));
        let mut load = member.load;
        let mut moved = false;
        for (_, _, topic) in topics {
            let Some((least, other)) = self.least(topic) else { continue };
            if least + 1 < load {
                self.change(number, topic, -1);
                self.change(other, topic, 1);
                load -= 1;
                moved = true;
            }
        }
        moved
    }

    /// Which partitions they are.
    fn owners(&self, claims: &[Claim]) -> Vec<Option<usize>> {
        let mut rooms = vec![BTreeMap::new(); self.layout.topics.len()];
        for (number, member) in self.members.iter().enumerate() {
            for (&topic, &gets) in &member.gets {
                rooms.get_mut(topic).into_iter().for_each(|room| {
                    room.insert(number, gets);
                });
            }
        }
        let mut owners = Vec::with_capacity(self.layout.partitions);
        for ((topic, room), handed) in self.layout.topics.iter().zip(rooms).zip(&self.handed) {
            let end = topic.first + topic.partitions as usize;
            let claims = claims.get(topic.first..end).unwrap_or_default();
            owners.extend(owners_of_topic(claims, room, handed));
        }
        owners
    }
}

/// The owners of the partitions of a topic, from how many each member gets.
fn owners_of_topic(
    claims: &[Claim],
    mut room: BTreeMap<usize, usize>,
    handed: &[usize],
) -> Vec<Option<usize>> {
    let mut owners = vec![None; claims.len()];
    // Owners keep the lowest numbers, but what somebody else had before only for want of others.
    for disputed in [false, true] {
        for (owner, claim) in owners.iter_mut().zip(claims) {
            if claim.former.is_some() == disputed {
                *owner = owner.or(claim.owner.filter(|&member| take(&mut room, member)));
            }
        }
    }
    for (owner, claim) in owners.iter_mut().zip(claims) {
        *owner = owner.or_else(|| claim.former.filter(|&member| take(&mut room, member)));
    }
    let mut handed = handed.iter().copied();
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        // What was handed out may have moved on; whoever has room left got it so.
        let next = handed.find(|&member| take(&mut room, member));
        *owner = next.or_else(|| {
            let &member = room.keys().next()?;
            take(&mut room, member).then_some(member)
        });
    }
    owners
}

/// Takes one from the room of a member, if there is any.
fn take(room: &mut BTreeMap<usize, usize>, member: usize) -> bool {
    let Some(left) = room.get_mut(&member) else { return false };
    *left -= 1;
    if *left == 0 {
        room.remove(&member);
    }
    true
}
