//! Share groups.

mod admin;
mod config;
mod consumer;
mod coordinator;
mod group;
mod in_flight;
mod journal;
mod order;
mod partition;
mod pending;
mod queue;
mod record;
mod spans;

pub use admin::{
    ShareGroupDescription, ShareGroupListing, ShareGroups, ShareMemberDescription, SharePartitionDescription,
};
pub use config::{AcknowledgementMode, ShareConfig, ShareOffsetReset};
pub use consumer::{ShareConsumer, WakeupHandle};
pub use in_flight::{Acknowledge, AcquiredRecords, InFlight, Limits, NotAcquired, RecordState, StateUpdate};
pub use order::{LowestKeyFirst, PriorityOrder, RankOrder};
pub use record::ShareRecord;
