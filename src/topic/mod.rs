//! Named partitions in a directory.

mod config;

pub use config::{ConfigEntry, TopicConfig};
