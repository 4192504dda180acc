//! The Kafka log as a library.

pub mod clock;
pub mod error;
pub mod format;
mod types;

pub use error::{Error, FormatError, Result};
pub use types::{OFFSET_MAX, TOPIC_NAME_BYTES_MAX, TopicName, TopicPartition, Uuid};
