//! The Kafka log as a library.
#![allow(dead_code, reason = "on this branch the layers that call these parts are not there yet")]

pub mod clock;
pub mod error;
mod partition;
mod topic;
mod types;

/// Stands in for the module `format` until the branches meet.
pub mod format {
    /// Who gives a record its timestamp.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub enum TimestampType {
        /// Whoever made the record.
        #[default]
        CreateTime,
        /// The log, when the record is appended.
        LogAppendTime,
    }
}

pub use error::{Error, FormatError, Result};
pub use partition::{CleanupPolicy, CompressionType, Durability, LogConfig};
pub use topic::{ConfigEntry, DefaultPartitioner, Partitioner, TopicConfig, murmur2, partition_for_key};
pub use types::{OFFSET_MAX, TOPIC_NAME_BYTES_MAX, TopicName, TopicPartition, Uuid};
