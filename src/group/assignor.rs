//! The seam [`Assignor`]: which member of a group gets which partition.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::format::consumer_protocol::Subscription;
use crate::types::{TopicName, TopicPartition};

/// Shares out the partitions of topics among the members of a group.
///
/// # Contract
/// - [`assign`](Self::assign) is a function of its arguments: the same ones give the same result, in whatever order
///   members come.
/// - Each partition of a topic that some member subscribes to goes to one member that subscribes to it, and none to
///   two. A cooperative assignor may leave out partitions that another member still has, for the next generation.
/// - Every member is in the result, also one that gets nothing.
pub trait Assignor: fmt::Debug + Send + Sync {
    /// By which members of a group tell that they share it out in the same way.
    fn name(&self) -> &str;

    /// How its members may come from one generation to the next, best first; eager unless it says otherwise.
    fn protocols(&self) -> &[RebalanceProtocol] {
        &[RebalanceProtocol::Eager]
    }

    /// What it wants to know of its own at the next assignment, to be sent with the subscription of a member that got
    /// `owned` in `generation` (-1 if it never was in one). An eager member tells here what it gave up to join.
    fn user_data(&self, owned: &[TopicPartition], generation: i32) -> Option<Bytes> {
        let _ = (owned, generation);
        None
    }

    /// Who gets what, by member id: of topics with so many partitions each, numbered from 0.
    fn assign(
        &self,
        topics: &BTreeMap<TopicName, u32>,
        members: &[GroupMember],
    ) -> BTreeMap<String, Vec<TopicPartition>>;
}

/// How the members of a group come from one generation to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RebalanceProtocol {
    /// Each gives up all its partitions before it joins.
    Eager,
    /// Each keeps what it has, and gives up in a second round what another is to get.
    Cooperative,
}

/// A member, as an assignor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: String,
    /// The id of a static member's place: such members keep their order across restarts.
    pub instance_id: Option<String>,
    /// What it wants, and what it has.
    pub subscription: Subscription,
}
