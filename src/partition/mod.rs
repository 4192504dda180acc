//! One partition: an ordered list of segments that make one log.

mod config;

pub(crate) use config::DURABILITY_FORMS;
pub use config::{CleanupPolicy, CompressionType, Durability, LogConfig};
