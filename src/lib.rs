//! The Kafka log as a library: an embeddable, durable, replayable log with Kafka's own files.

pub mod clock;
pub mod docs;
pub mod error;
pub mod format;
pub mod fs;
mod partition;
mod storage;
mod topic;
mod types;

pub use error::{Error, FormatError, Result};
pub use format::{Record, RecordBatch, StoredRecord};
pub use partition::{
    AppendOptions, Appended, CleanupPolicy, CompressionType, Damage, Durability, FetchOptions, Fetched,
    Isolation, LogConfig, Partition, Records, RecoveryReport, TimestampOffset,
};
pub use storage::{
    IndexEntry, OffsetIndex, Segment, SegmentBatches, TimeIndex, TimeIndexEntry, TransactionIndex,
};
pub use topic::{
    ConfigEntry, DefaultPartitioner, MaintenanceReport, Partitioner, Placed, Store, StoreOptions,
    StoreReport, Topic, TopicConfig, murmur2, partition_for_key,
};
pub use types::{OFFSET_MAX, TOPIC_NAME_BYTES_MAX, TopicName, TopicPartition, Uuid};
