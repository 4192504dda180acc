//! [`ShareRecord`]: a record as a share group delivers it.

use crate::format::{Headers, StoredRecord};
use crate::types::TopicPartition;

/// A record, where it comes from, and how often it was delivered. It shares the memory of the stored batch; by
/// priority, it has been copied out of it when it was read ahead.
#[derive(Debug, Clone)]
pub struct ShareRecord {
    partition: TopicPartition,
    record: StoredRecord,
    delivery_count: u16,
}

impl ShareRecord {
    pub(super) fn new(partition: TopicPartition, record: StoredRecord, delivery_count: u16) -> Self {
        ShareRecord { partition, record, delivery_count }
    }

    /// The topic and the partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The name of the topic.
    pub fn topic(&self) -> &str {
        self.partition.topic.as_str()
    }

    /// The number of the partition.
    pub fn partition(&self) -> u32 {
        self.partition.partition
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> u64 {
        self.record.offset()
    }

    /// Its timestamp in milliseconds since the epoch, -1 if it has none.
    pub fn timestamp(&self) -> i64 {
        self.record.timestamp()
    }

    /// The key, if there is one.
    pub fn key(&self) -> Option<&[u8]> {
        self.record.key()
    }

    /// The value; `None` for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.record.value()
    }

    /// The headers, in order.
    pub fn headers(&self) -> Headers<'_> {
        self.record.headers()
    }

    /// How often it was delivered, this time included: more than 1 if it was released, or if whoever had it died or
    /// took too long.
    pub fn delivery_count(&self) -> u16 {
        self.delivery_count
    }

    /// The record as it is stored.
    pub fn record(&self) -> &StoredRecord {
        &self.record
    }

    /// The record as it is stored.
    pub fn into_record(self) -> StoredRecord {
        self.record
    }
}
