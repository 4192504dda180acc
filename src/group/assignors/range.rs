//! [`RangeAssignor`]: blocks of neighbouring partitions.

use std::collections::BTreeMap;
use std::iter::repeat_n;

use super::layout::Layout;
use crate::group::{Assignor, GroupMember};
use crate::types::{TopicName, TopicPartition};

/// Cuts each topic into as many blocks of neighbouring partitions as members want it (Kafka's `range`).
///
/// Of n partitions each of m members gets n / m, the first n % m members one more. So members get the partitions of
/// the same numbers of all topics that have equally many and that the same members want, which is what joining records
/// by key needs; and the first members get more of everything.
///
/// ```
/// use annals::group::{Assignor, GroupMember, RangeAssignor};
/// use annals::{TopicName, format::consumer_protocol::Subscription};
///
/// let orders = TopicName::new("orders")?;
/// let subscription = Subscription { topics: vec![orders.clone()], ..Subscription::default() };
/// let member = |id: &str| GroupMember {
///     member_id: id.to_owned(),
///     instance_id: None,
///     subscription: subscription.clone(),
/// };
/// let assignment = RangeAssignor.assign(&[(orders, 5)].into(), &[member("a"), member("b")]);
/// let numbers = |id: &str| assignment[id].iter().map(|of| of.partition).collect::<Vec<_>>();
/// assert_eq!((numbers("a"), numbers("b")), (vec![0, 1, 2], vec![3, 4]));
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct RangeAssignor;

impl Assignor for RangeAssignor {
    fn name(&self) -> &str {
        "range"
    }

    fn assign(
        &self,
        topics: &BTreeMap<TopicName, u32>,
        members: &[GroupMember],
    ) -> BTreeMap<String, Vec<TopicPartition>> {
        let layout = Layout::new(topics, members);
        let mut owners = Vec::with_capacity(layout.partitions);
        layout.each_topic(|topic, members| {
            let partitions = topic.partitions as usize;
            let (each, more) = (partitions / members.len().max(1), partitions % members.len().max(1));
            for (place, &member) in members.iter().enumerate() {
                owners.extend(repeat_n(Some(member), each + usize::from(place < more)));
            }
        });
        layout.assignment(&owners)
    }
}
