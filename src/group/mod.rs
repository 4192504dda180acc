//! Groups of consumers that share topics out among themselves, and what they have committed.
//!
//! - `coordinator.rs`: the seam [`GroupCoordinator`], and what is said across it.
//! - `local`: the coordinator that ships, which keeps its state in the store ([`Store::groups`](crate::Store::groups)).
//! - `admin.rs`: what administrators do with groups.
//! - [`conformance`]: what every coordinator must do, as checks.
//! - `assignor.rs`: the seam [`Assignor`]: who gets which partition.
//! - `assignors/`: Kafka's four.

mod admin;
mod assignor;
mod assignors;
pub mod conformance;
mod coordinator;
mod local;

pub use admin::{PartitionLag, ResetTo, group_lag, plan_reset, reset_offsets};
pub use assignor::{Assignor, GroupMember, RebalanceProtocol};
pub use assignors::{CooperativeStickyAssignor, RangeAssignor, RoundRobinAssignor, StickyAssignor};
pub(crate) use coordinator::check_group_id;
pub use coordinator::{
    Assigned, GroupCoordinator, GroupDescription, GroupListing, GroupMetadata, GroupState, JoinRequest,
    Joined, JoinedMember, MemberDescription, OffsetAndMetadata, OffsetCommit, SyncRequest,
};
pub use local::GroupConfig;
pub(crate) use local::LocalGroups;
