//! [`StickyAssignor`] and [`CooperativeStickyAssignor`]: what a member has it keeps; and who has a right to what.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::layout::Layout;
use super::{general, uniform};
use crate::format::consumer_protocol::{self, StickyUserData, Subscription};
use crate::group::{Assignor, GroupMember, RebalanceProtocol};
use crate::types::{TopicName, TopicPartition};

/// Shares out evenly, and leaves with its member whatever need not move (Kafka's `sticky`).
///
/// Even means: no member has two partitions more than another that could take one from it; so if all want the same
/// topics, all have equally many, or one more. What a member had is read from its user data. If two claim a partition,
/// the one of the later generation has it; of two claims of the same generation neither counts.
///
/// Its members give up all that they have before they join, and stop reading until they get it back. If that hurts,
/// take [`CooperativeStickyAssignor`].
#[derive(Debug, Clone, Copy, Default)]
pub struct StickyAssignor;

impl Assignor for StickyAssignor {
    fn name(&self) -> &str {
        "sticky"
    }

    fn user_data(&self, owned: &[TopicPartition], generation: i32) -> Option<Bytes> {
        if generation < 0 {
            return None;
        }
        // What the format cannot hold is as good as never owned.
        StickyUserData { partitions: owned.to_vec(), generation }.encode().ok().map(Bytes::from)
    }

    fn assign(
        &self,
        topics: &BTreeMap<TopicName, u32>,
        members: &[GroupMember],
    ) -> BTreeMap<String, Vec<TopicPartition>> {
        let layout = Layout::new(topics, members);
        let owned = owned(&layout, |subscription| {
            let data = subscription.user_data.as_deref();
            let owned = data.and_then(|data| StickyUserData::decode(data).ok()).unwrap_or_default();
            (owned.partitions.into(), owned.generation)
        });
        layout.assignment(&share_out(&layout, &owned))
    }
}

/// As [`StickyAssignor`], for members that keep what they have while they join, and go on reading it (Kafka's
/// `cooperative-sticky`).
///
/// A partition that is to go from one member to another is in nobody's assignment at first. Its owner finds it missing,
/// gives it up and joins again; then the other gets it. So a change takes two generations (seldom more, if members want
/// different topics), and stops nobody but whom it takes something from.
///
/// What a member has is read from its subscription, and so is since when; if that is of a version that does not say it,
/// the user data does.
#[derive(Debug, Clone, Copy, Default)]
pub struct CooperativeStickyAssignor;

impl Assignor for CooperativeStickyAssignor {
    fn name(&self) -> &str {
        "cooperative-sticky"
    }

    fn protocols(&self) -> &[RebalanceProtocol] {
        &[RebalanceProtocol::Cooperative, RebalanceProtocol::Eager]
    }

    fn user_data(&self, _owned: &[TopicPartition], generation: i32) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&consumer_protocol::encode_generation(generation)))
    }

    fn assign(
        &self,
        topics: &BTreeMap<TopicName, u32>,
        members: &[GroupMember],
    ) -> BTreeMap<String, Vec<TopicPartition>> {
        let layout = Layout::new(topics, members);
        let owned = owned(&layout, |subscription| {
            let data = subscription.user_data.as_deref().filter(|_| subscription.generation < 0);
            let generation = data.and_then(|data| consumer_protocol::decode_generation(data).ok());
            (subscription.owned.as_slice().into(), generation.unwrap_or(subscription.generation))
        });
        let mut owners = share_out(&layout, &owned);
        for (owner, held) in owners.iter_mut().zip(held(&layout, &owned, false)) {
            match held.best {
                None => {}
                Some((_, Holder::One(holder))) if Some(holder) == *owner => {}
                Some(_) => *owner = None,
            }
        }
        layout.assignment(&owners)
    }
}

/// What a member says it has, and since which generation.
struct OwnedBy<'a> {
    partitions: Cow<'a, [TopicPartition]>,
    generation: i32,
}

fn owned<'a>(
    layout: &Layout<'a>,
    read: impl Fn(&'a Subscription) -> (Cow<'a, [TopicPartition]>, i32),
) -> Vec<OwnedBy<'a>> {
    let subscriptions = layout.members.iter().map(|member| &member.subscription);
    subscriptions
        .map(|subscription| {
            let (partitions, generation) = read(subscription);
            OwnedBy { partitions, generation }
        })
        .collect()
}

fn share_out(layout: &Layout<'_>, owned: &[OwnedBy<'_>]) -> Vec<Option<usize>> {
    let claims: Vec<Claim> = held(layout, owned, true).into_iter().map(Held::claim).collect();
    match layout.classes.len() {
        0 | 1 => uniform::share_out(layout, &claims),
        _ => general::share_out(layout, &claims),
    }
}

/// Who has a right to keep a partition.
#[derive(Default, Clone, Copy)]
pub(super) struct Claim {
    pub(super) owner: Option<usize>,
    /// Who had it in a generation before its owner got it.
    pub(super) former: Option<usize>,
}

/// Who says that a partition is theirs.
#[derive(Default, Clone, Copy)]
struct Held {
    /// In the latest generation of which anybody says so.
    best: Option<(i32, Holder)>,
    /// In the latest generation before that.
    former: Option<(i32, usize)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Holder {
    One(usize),
    Several,
}

impl Held {
    fn add(&mut self, member: usize, generation: i32) {
        match self.best {
            Some((best, _)) if generation < best => {
                if self.former.is_none_or(|(former, _)| former < generation) {
                    self.former = Some((generation, member));
                }
            }
            Some((best, holder)) if generation == best => {
                if holder != Holder::One(member) {
                    self.best = Some((best, Holder::Several));
                }
            }
            before => {
                if let Some((best, Holder::One(other))) = before {
                    self.former = Some((best, other));
                }
                self.best = Some((generation, Holder::One(member)));
            }
        }
    }

    fn claim(self) -> Claim {
        let owner = match self.best {
            Some((_, Holder::One(member))) => Some(member),
            _ => None,
        };
        Claim { owner, former: self.former.map(|(_, member)| member) }
    }
}

/// Who says what of each partition; if `wanted`, only those that still want the topic.
fn held(layout: &Layout<'_>, owned: &[OwnedBy<'_>], wanted: bool) -> Vec<Held> {
    let mut held = vec![Held::default(); layout.partitions];
    for (member, owned) in owned.iter().enumerate() {
        for partition in owned.partitions.iter() {
            let Some((topic, place)) = layout.place(partition) else { continue };
            if !wanted || layout.wants(member, topic) {
                held.get_mut(place).into_iter().for_each(|held| held.add(member, owned.generation));
            }
        }
    }
    held
}
