//! What the crate tells whoever watches it: events through the `tracing` facade, figures through the `metrics`
//! facade. Without the feature of that name, each of these functions is empty.
//!
//! Nothing here is called per record: events are rare, figures are handed over by a pass of maintenance.

use std::any::Any;

use crate::types::TopicPartition;

/// Whether anybody can listen to figures; if not, they need not be gathered.
pub(crate) const FIGURES: bool = cfg!(feature = "metrics");

/// Declares events: the level, the function that reports one, the fields in brackets, and the text.
#[cfg(feature = "tracing")]
macro_rules! events {
    ($($(#[$meta:meta])* $level:ident $name:ident($($arg:ident: $type:ty),*) [$($fields:tt)*] $text:literal;)*) => {$(
        $(#[$meta])*
        pub(crate) fn $name($($arg: $type),*) {
            tracing::$level!(target: "annals", $($fields)*, $text);
        }
    )*};
}

#[cfg(not(feature = "tracing"))]
macro_rules! events {
    ($($(#[$meta:meta])* $level:ident $name:ident($($arg:ident: $type:ty),*) [$($fields:tt)*] $text:literal;)*) => {$(
        $(#[$meta])*
        #[inline]
        pub(crate) fn $name($(_: $type),*) {}
    )*};
}

events! {
    /// A segment was sealed, and one begun at `base_offset`.
    debug segment_rolled(partition: &TopicPartition, base_offset: u64)
        [%partition, base_offset] "segment rolled";

    /// A partition was opened that was not known to be closed in good order.
    info recovered(partition: &TopicPartition, scanned: u64, truncated: u64, rewritten: u64)
        [%partition, scanned_bytes = scanned, truncated_bytes = truncated, rewritten_bytes = rewritten]
        "partition recovered";

    /// Offsets that were there cannot be read.
    error damaged(partition: &TopicPartition, from: u64, to: u64, detail: &str)
        [%partition, from, to, detail] "damage found";

    /// No more appends are taken until the partition is reopened.
    error poisoned(partition: &TopicPartition, action: &str, cause: &str)
        [%partition, action, cause] "partition poisoned";

    /// Retention or a deletion took segments away.
    info expired(partition: &TopicPartition, log_start: u64, segments: u64, bytes: u64)
        [%partition, log_start, segments, bytes] "segments expired";

    /// The end of a log was taken back.
    info truncated(partition: &TopicPartition, log_end: u64)
        [%partition, log_end] "log truncated";

    /// A compaction came to its end.
    info compacted(partition: &TopicPartition, bytes_before: u64, bytes_after: u64)
        [%partition, bytes_before, bytes_after] "compaction done";

    /// A compaction failed; the log is as it was.
    warn compaction_failed(partition: &TopicPartition, cause: &str)
        [%partition, cause] "compaction failed";

    /// Something of a pass of maintenance failed; the rest of it was done.
    error maintenance_failed(cause: &str)
        [cause] "maintenance failed";

    /// A pass of maintenance did less than it could, for a reason.
    warn maintenance_warned(warning: &str)
        [warning] "maintenance warns";

    /// Something that a user has a consumer call panicked; the consumer goes on without it.
    error callback_panicked(callback: &str, cause: &str)
        [callback, cause] "callback panicked";
}

/// What a panic said.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for no stated reason")
}

/// Sets a figure of the store.
#[cfg(feature = "metrics")]
pub(crate) fn store_gauge(name: &'static str, value: u64) {
    metrics::gauge!(name).set(value as f64);
}

/// Sets a figure of a partition.
#[cfg(feature = "metrics")]
pub(crate) fn partition_gauge(partition: &TopicPartition, name: &'static str, value: u64) {
    metrics::gauge!(name, &labels(partition)).set(value as f64);
}

/// Adds to what is counted of a partition.
#[cfg(feature = "metrics")]
pub(crate) fn partition_counter(partition: &TopicPartition, name: &'static str, more: u64) {
    metrics::counter!(name, &labels(partition)).increment(more);
}

#[cfg(feature = "metrics")]
fn labels(partition: &TopicPartition) -> [(&'static str, String); 2] {
    [("topic", partition.topic.to_string()), ("partition", partition.partition.to_string())]
}

/// Sets a figure of the store.
#[cfg(not(feature = "metrics"))]
#[inline]
pub(crate) fn store_gauge(_: &'static str, _: u64) {}

/// Sets a figure of a partition.
#[cfg(not(feature = "metrics"))]
#[inline]
pub(crate) fn partition_gauge(_: &TopicPartition, _: &'static str, _: u64) {}

/// Adds to what is counted of a partition.
#[cfg(not(feature = "metrics"))]
#[inline]
pub(crate) fn partition_counter(_: &TopicPartition, _: &'static str, _: u64) {}
