//! What is said of records in flight: what consumers say, what they are told, and what is written down.

use std::time::Duration;

use crate::format::StateBatch;

/// What a consumer says of a record that it got (Kafka's `AcknowledgeType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledge {
    /// It was processed: it is not delivered again.
    Accept,
    /// It was not: it is delivered again, to anybody, unless it was delivered too often.
    Release,
    /// It cannot be: it is not delivered again.
    Reject,
    /// It is being processed: its lock begins anew.
    Renew,
}

/// The state of a record of a share group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecordState {
    /// Somebody can have it.
    Available,
    /// Somebody has it.
    Acquired,
    /// It was processed.
    Acknowledged,
    /// It was given up: rejected, delivered too often, or not there (compacted, deleted, aborted).
    Archived,
}

/// How many records a share group has in flight, for how long, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How long a record stays with whoever acquired it.
    pub lock_duration: Duration,
    /// After how many deliveries a record that was not accepted is archived.
    pub delivery_count: u16,
    /// At most so many records that are not finished are taken in.
    pub in_flight: u64,
}

impl Limits {
    /// Kafka's defaults: 30 seconds, 5 deliveries, 2000 records.
    pub const fn new() -> Self {
        Limits { lock_duration: Duration::from_secs(30), delivery_count: 5, in_flight: 2_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new()
    }
}

/// Records with consecutive offsets, acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcquiredRecords {
    /// The first of them.
    pub first_offset: u64,
    /// The last of them.
    pub last_offset: u64,
    /// How often each was delivered, this time included.
    pub delivery_count: u16,
}

/// A record that was not in the state in which it could be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotAcquired {
    /// The first such record.
    pub offset: u64,
    /// Its state; `None` if it has not been delivered yet.
    pub state: Option<RecordState>,
}

/// What has to be written down so that what was acknowledged is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateUpdate {
    /// Everything below it is finished.
    pub start_offset: u64,
    /// States from there on that changed.
    pub batches: Vec<StateBatch>,
    /// How many offsets from there on are finished.
    pub delivery_complete_count: u64,
}

/// What became of offsets, told to those who keep track of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Available { first: u64, last: u64 },
    Finished { first: u64, last: u64 },
}
