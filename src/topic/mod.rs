//! Named partitions in a directory.

pub(crate) mod checkpoints;
mod config;
pub(crate) mod dir_name;
mod framed;
pub(crate) mod manifest;
mod partitioner;

pub use config::{ConfigEntry, TopicConfig};
pub use partitioner::{DefaultPartitioner, Partitioner, murmur2, partition_for_key};
