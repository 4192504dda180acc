//! Named partitions in a directory.

pub(crate) mod checkpoints;
mod config;
mod framed;
pub(crate) mod manifest;

pub use config::{ConfigEntry, TopicConfig};
