//! Topics and the store that holds them: names, settings, directories, and what is written down about them.

mod changes;
mod checkpoints;
mod config;
mod dir_name;
mod framed;
mod handle;
mod loading;
mod maintenance;
mod manifest;
mod options;
mod partitioner;
mod positions;
mod producer_ids;
mod stats;
mod store;
#[expect(clippy::module_inception, reason = "the file is named after its type")]
mod topic;

pub use config::{ConfigEntry, TopicConfig};
pub(crate) use handle::{Attendant, StoreHandle};
pub(crate) use maintenance::ClockGuard;
pub use maintenance::{MaintenanceReport, MaintenanceStatus};
pub use options::StoreOptions;
pub use partitioner::{DefaultPartitioner, Partitioner, RoundRobinPartitioner, murmur2, partition_for_key};
pub use stats::StoreStats;
pub use store::{Store, StoreReport};
pub use topic::{Placed, Topic};
