//! One kind of file each: the log file, its three indexes, and the segment that keeps them in step.
//!
//! This layer turns bytes on disk into batches and lookups. It knows no partition, no offsets beyond its own
//! segment, no policy: what to do about damage is decided above.

pub(crate) mod file_name;
mod log_file;
mod offset_index;
mod pool;
mod segment;
mod time_index;
mod transaction_index;

pub(crate) use log_file::{
    BatchReader, LogFile, Unreadable, find_any_batch, find_batch_after, find_batch_before,
};
pub use offset_index::{IndexEntry, OffsetIndex};
pub(crate) use pool::FilePool;
pub(crate) use segment::{
    ActiveSegment, Indexer, Indexes, remove_derived_files, remove_files, remove_indexes,
};
pub use segment::{Segment, SegmentBatches};
pub use time_index::{TimeIndex, TimeIndexEntry};
pub use transaction_index::TransactionIndex;
