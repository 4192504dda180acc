//! Compaction (Kafka's `LogCleaner`): of each key only the last record stays, under its own offset.
//!
//! Whatever is removed, no offset, timestamp, header or order of what stays ever changes, and a reader that
//! reaches the end of the log within `delete.retention.ms` sees every tombstone and every transaction marker.
//! Appends and reads go on meanwhile; only the exchange of finished segments takes the writer's lock.
//!
//! What decides and computes opens no file, takes no lock and asks no clock:
//!
//! - which part of a log is dirty, and whether to compact it now (`candidates.rs`);
//! - the last offset of each key of that part, in bounded memory (`offset_map.rs`);
//! - which segments become one (`groups.rs`);
//! - what is left of each batch (`filter.rs`), and whose transaction it belongs to (`transactions.rs`).
//!
//! What acts on it: one pass over a log (`pass.rs`), the segment that it writes (`output.rs`), the exchange that
//! survives a crash (`swap.rs`), and what is known of all this (`status.rs`).

mod candidates;
mod filter;
mod groups;
mod offset_map;
mod output;
mod pass;
mod status;
mod swap;
#[cfg(test)]
mod tests;
mod transactions;

pub(crate) use pass::CompactionLimits;
pub(super) use status::Compaction;
pub use status::{CompactionReport, CompactionStatus};
pub(super) use swap::Unfinished;
