//! One partition: an ordered list of segments that make one log.

mod config;

pub use config::{CleanupPolicy, CompressionType, Durability, LogConfig};
