//! [`RoundRobinAssignor`]: one partition for each in turn.

use std::collections::BTreeMap;

use super::layout::Layout;
use crate::group::{Assignor, GroupMember};
use crate::types::{TopicName, TopicPartition};

/// Deals all partitions of all topics out, one for each member in turn, passing over members that do not want the
/// topic (Kafka's `roundrobin`).
///
/// If all want the same topics, no member gets two partitions more than another; if not, one may.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobinAssignor;

impl Assignor for RoundRobinAssignor {
    fn name(&self) -> &str {
        "roundrobin"
    }

    fn assign(
        &self,
        topics: &BTreeMap<TopicName, u32>,
        members: &[GroupMember],
    ) -> BTreeMap<String, Vec<TopicPartition>> {
        let layout = Layout::new(topics, members);
        let mut owners = Vec::with_capacity(layout.partitions);
        let mut turn = 0;
        layout.each_topic(|topic, members| {
            for _ in 0..topic.partitions {
                let next = members.partition_point(|&member| member < turn);
                let owner = members.get(next).or(members.first()).copied();
                owners.push(owner);
                turn = owner.map_or(turn, |owner| owner + 1);
            }
        });
        layout.assignment(&owners)
    }
}
