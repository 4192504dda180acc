//! Groups of consumers that share topics out among themselves, and what they have committed.
//!
//! - `coordinator.rs`: the seam [`GroupCoordinator`], and what is said across it.
//! - `assignor.rs`: the seam [`Assignor`]: who gets which partition.

mod assignor;
mod coordinator;

pub use assignor::{Assignor, GroupMember, RebalanceProtocol};
pub(crate) use coordinator::check_group_id;
pub use coordinator::{
    Assigned, GroupCoordinator, GroupDescription, GroupListing, GroupMetadata, GroupState, JoinRequest,
    Joined, JoinedMember, MemberDescription, OffsetAndMetadata, OffsetCommit, SyncRequest,
};
