//! The seam between consumers and whoever coordinates their groups: [`GroupCoordinator`], and what is said across it.
//!
//! The words are those of Kafka's classic group protocol, so that a server can put requests of Kafka's clients
//! through to it.
//!
//! Both sides may be anybody's and make what they say, so its structs are not `#[non_exhaustive]`: one more field is
//! one more thing that either side has to understand.

use std::collections::BTreeMap;
use std::fmt;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::types::{TopicPartition, check_id};
use crate::wake::Reply;

/// Coordinates groups of consumers: who is in a group, who has which partitions, what is committed.
///
/// A group goes through `Empty -> PreparingRebalance -> CompletingRebalance -> Stable`, and from `Stable` back to
/// `PreparingRebalance` whenever somebody joins or leaves. All members [`join`](Self::join); once all are there (or
/// the slowest has had its rebalance timeout) the generation goes up by one and all are answered at once, the leader
/// with everybody's subscription. All [`sync`](Self::sync), the leader with everybody's assignment, and all are
/// answered with their own.
///
/// # Contract
/// - Every method may be called by any number of threads at once, and none waits for another member: what takes other
///   members comes as a [`Reply`]. A reply is always answered in the end, if need be with an error.
/// - A member is known by its id, given by the first `join`, and speaks for its generation. A call of a generation
///   that is over changes nothing and fails: [`Error::RebalanceInProgress`] if it should just join again,
///   [`Error::IllegalGeneration`], [`Error::UnknownMember`] or [`Error::FencedInstance`] if what it was assigned may
///   be another's by now.
/// - At every moment each partition is assigned to one member of the current generation at most.
/// - A commit that returned is durable, and what was read is not taken back by a crash. It is taken from a member of
///   the current generation alone, or from nobody's member ([`GroupMetadata::simple`]) while the group has no members.
/// - A commit that was let through ends before the next generation begins: whoever is given a partition reads the last
///   commit of who had it before.
/// - A member that is silent for longer than its session timeout is out. Who coordinates has no thread of its own:
///   time passes in [`tick`](Self::tick), which is called by whoever waits for an answer, and by
///   [`Store::maintain`](crate::Store::maintain).
/// - Wakers are called and dropped without a lock being held: what they do may be a call of the coordinator.
///
/// [`conformance`](super::conformance) checks all this of any implementation.
pub trait GroupCoordinator: fmt::Debug + Send + Sync {
    /// Asks to be in the next generation. Answered when it is complete; at once, with the current one, if a member that
    /// does not lead asks again for what it asked for before. Asked twice, the first is told to join again.
    ///
    /// # Errors
    /// [`Error::UnknownMember`] for an id that the group does not know, [`Error::FencedInstance`],
    /// [`Error::InconsistentProtocol`], [`Error::MemberIdRequired`] if the request asks for that,
    /// [`Error::InvalidName`] for the group, [`Error::InvalidConfig`] for its timeouts, [`Error::TooLarge`] if the
    /// group is full, or the member's subscription or a name of it too long; [`Error::ReadOnly`].
    fn join(&self, request: JoinRequest) -> Reply<Joined>;

    /// Asks for the assignment of the generation, and brings everybody's if it comes from the leader. Who is not among
    /// those gets an empty one.
    ///
    /// # Errors
    /// [`Error::RebalanceInProgress`] if the next generation is being gathered already; as the contract says. For the
    /// leader, also as an append fails: then the generation is over, and all join again.
    fn sync(&self, request: SyncRequest) -> Reply<Assigned>;

    /// Says that the member is alive.
    ///
    /// # Errors
    /// [`Error::RebalanceInProgress`] if it should join again; as the contract says.
    fn heartbeat(&self, member: &GroupMetadata) -> Result<()>;

    /// Takes the member out of its group, in whatever generation it is. `keep_for` keeps the place of a static member,
    /// and what is assigned to it, for the next one with its instance id, for so long. An administrator may name the
    /// instance id alone, with an empty member id.
    ///
    /// # Errors
    /// [`Error::UnknownMember`], [`Error::FencedInstance`].
    fn leave(&self, member: &GroupMetadata, keep_for: Option<Duration>) -> Result<()>;

    /// Commits offsets: where the group goes on with each partition, all of them or none. A sign of life, as a
    /// [`heartbeat`](Self::heartbeat) is.
    ///
    /// # Errors
    /// As the contract says, and [`Error::RebalanceInProgress`] also between joining and the leader's assignment;
    /// [`Error::TooLarge`] for metadata beyond the limit; otherwise as an append fails, and then nothing is committed
    /// that can be read.
    fn commit(&self, member: &GroupMetadata, offsets: &[OffsetCommit]) -> Result<()>;

    /// Commits offsets as part of a producer's transaction: they count once it is committed. Unlike
    /// [`commit`](Self::commit), it takes them between joining and the leader's assignment, too, and from nobody's
    /// member whatever members there are: old clients do not say who they are, and the producer's epoch fences them.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); [`Error::Fenced`] for a producer that was replaced.
    fn commit_in_transaction(
        &self,
        member: &GroupMetadata,
        producer_id: i64,
        producer_epoch: i16,
        offsets: &[OffsetCommit],
    ) -> Result<()>;

    /// The partition of a log of this store in which the group's offsets lie, which takes the markers of the
    /// transactions they are committed in; `None` if they lie elsewhere and cannot be committed so.
    ///
    /// # Errors
    /// As the log of offsets cannot be opened.
    fn offsets_partition(&self, group: &str) -> Result<Option<TopicPartition>>;

    /// Says that a marker was appended to that partition: what the producer's transaction committed counts now, or
    /// never.
    ///
    /// # Errors
    /// As the log of offsets cannot be opened.
    fn transaction_ended(&self, partition: &TopicPartition, producer_id: i64, committed: bool) -> Result<()>;

    /// What the group has committed, of the partitions named or of all. With `stable`, nothing that a transaction under
    /// way may change.
    ///
    /// # Errors
    /// [`Error::UnstableOffsets`] with `stable`, if there is such a transaction.
    fn committed(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        stable: bool,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>>;

    /// All groups, ordered by id.
    ///
    /// # Errors
    /// As the log of offsets cannot be read.
    fn list(&self) -> Result<Vec<GroupListing>>;

    /// The group, and its members.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    fn describe(&self, group: &str) -> Result<GroupDescription>;

    /// Deletes a group without members, with everything it has committed.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::GroupNotEmpty`].
    fn delete(&self, group: &str) -> Result<()>;

    /// Forgets what the group has committed of these partitions, all of them or none.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::GroupSubscribed`] if a member subscribes to one of the topics, or may;
    /// [`Error::GroupNotEmpty`] if there are members of another kind than consumers.
    fn delete_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()>;

    /// Does what is due: sends home who was silent for too long, ends waiting for who does not come, forgets offsets
    /// that are too old. Returns after how long something is due again, at most.
    ///
    /// # Errors
    /// The first failure; the rest is done nevertheless.
    fn tick(&self) -> Result<Duration>;
}

/// Who speaks: a member of a group, in one of its generations (Kafka's `ConsumerGroupMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group.
    pub group: String,
    /// Its generation; -1 for nobody's member.
    pub generation: i32,
    /// The member's id; empty for nobody's member.
    pub member_id: String,
    /// The id of a static member's place (`group.instance.id`).
    pub instance_id: Option<String>,
}

impl GroupMetadata {
    /// Somebody who is in no generation of the group: a consumer with an assignment of its own, or an administrator.
    pub fn simple(group: impl Into<String>) -> Self {
        GroupMetadata { group: group.into(), generation: -1, member_id: String::new(), instance_id: None }
    }
}

/// A request to be in the next generation of a group (Kafka's `JoinGroup`).
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// The group.
    pub group: String,
    /// The member's id; empty for a newcomer.
    pub member_id: String,
    /// The id of a static member's place: who comes with it takes the place of who had it before.
    pub instance_id: Option<String>,
    /// Whether a newcomer is only told its id, with [`Error::MemberIdRequired`], and has to come again with it: then
    /// one that is cut off before it hears of its id leaves no ghost behind.
    pub known_id_required: bool,
    /// How the client calls itself.
    pub client_id: String,
    /// Where the client is; [`IN_PROCESS`](JoinRequest::IN_PROCESS) for a consumer of the process that has the store
    /// open. Such a member, unless it is static, does not outlive the store's being closed.
    pub client_host: String,
    /// How long it may be silent.
    pub session_timeout: Duration,
    /// How long the others wait for it when partitions are shared out anew.
    pub rebalance_timeout: Duration,
    /// What kind of group it is: `consumer` for consumers.
    pub protocol_type: String,
    /// The ways to share out partitions that it knows, best first, and its subscription for each (see
    /// [`consumer_protocol`](crate::format::consumer_protocol)).
    pub protocols: Vec<(String, Bytes)>,
    /// Woken whenever a heartbeat of the member would not say that all is as it was.
    pub waker: Option<Waker>,
}

impl JoinRequest {
    /// The client host of a member in the process that has the store open.
    pub const IN_PROCESS: &'static str = "in-process";
}

/// A generation of a group, as one of its members is told (Kafka's `JoinGroup` response).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The generation.
    pub generation: i32,
    /// The way to share out partitions that all members know.
    pub protocol: String,
    /// The member's own id.
    pub member_id: String,
    /// The id of the leader, who assigns.
    pub leader: String,
    /// All members, for the leader; empty for the others.
    pub members: Vec<JoinedMember>,
    /// Whether the leader is to assign nothing: a static leader came back, and the group stays as it was.
    pub skip_assignment: bool,
}

/// A member, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: String,
    /// The id of a static member's place.
    pub instance_id: Option<String>,
    /// Its subscription for the protocol chosen.
    pub metadata: Bytes,
}

/// A request for the member's assignment (Kafka's `SyncGroup`).
#[derive(Debug, Clone)]
pub struct SyncRequest {
    /// Who asks.
    pub member: GroupMetadata,
    /// By member id; empty but from the leader.
    pub assignments: Vec<(String, Bytes)>,
}

/// A member's assignment, as the leader made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The bytes that the leader brought for the member (see [`consumer_protocol`](crate::format::consumer_protocol)).
    pub assignment: Bytes,
}

/// A committed position: the offset of the record to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The offset of the next record to handle.
    pub offset: u64,
    /// The leader epoch of the last record handled, if it is known.
    pub leader_epoch: Option<i32>,
    /// Whatever the committer wants to remember with it.
    pub metadata: String,
}

impl OffsetAndMetadata {
    /// An offset alone.
    pub fn new(offset: u64) -> Self {
        OffsetAndMetadata { offset, leader_epoch: None, metadata: String::new() }
    }
}

/// A position to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Of which partition.
    pub partition: TopicPartition,
    /// Where to go on.
    pub position: OffsetAndMetadata,
}

/// What a group is about (Kafka's states of a classic group).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// It waits for its members to join the next generation.
    PreparingRebalance,
    /// It waits for the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
    /// It is deleted.
    Dead,
}

impl fmt::Display for GroupState {
    /// As Kafka's tools write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group: String,
    /// Its state.
    pub state: GroupState,
    /// What kind of group it is; empty if it never had members.
    pub protocol_type: String,
}

/// A group with its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub group: String,
    /// Its state.
    pub state: GroupState,
    /// Its generation; 0 if it never had members.
    pub generation: i32,
    /// What kind of group it is; empty if it never had members.
    pub protocol_type: String,
    /// How partitions are shared out; empty if the group is not stable.
    pub protocol: String,
    /// The leader's id, if there is one.
    pub leader: Option<String>,
    /// Its members, ordered by id.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// The id of a static member's place.
    pub instance_id: Option<String>,
    /// How the client calls itself.
    pub client_id: String,
    /// Where the client is.
    pub client_host: String,
    /// Its subscription, for the protocol chosen.
    pub metadata: Bytes,
    /// Its assignment.
    pub assignment: Bytes,
}

/// Whether that may be the id of a group.
///
/// # Errors
/// [`Error::InvalidName`].
pub(crate) fn check_group_id(group: &str) -> Result<()> {
    check_id("group", group)
}
