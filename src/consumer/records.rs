//! What a poll returns: [`ConsumerRecords`], which share the memory their batches were read into.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{Headers, StoredRecord};
use crate::types::TopicPartition;

/// A record, and where it is from. Keeping one keeps its batch in memory; copy key and value out to keep a few of many.
#[derive(Debug, Clone)]
pub struct ConsumerRecord {
    partition: Arc<TopicPartition>,
    record: StoredRecord,
}

impl ConsumerRecord {
    /// The name of its topic.
    pub fn topic(&self) -> &str {
        self.partition.topic.as_str()
    }

    /// The number of its partition.
    pub fn partition(&self) -> u32 {
        self.partition.partition
    }

    /// Its topic and partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
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

    /// The key as a share of the batch's memory, without a copy.
    pub fn key_bytes(&self) -> Option<Bytes> {
        self.record.key_bytes()
    }

    /// The value as a share of the batch's memory, without a copy.
    pub fn value_bytes(&self) -> Option<Bytes> {
        self.record.value_bytes()
    }

    /// The record as its partition has it.
    pub fn record(&self) -> &StoredRecord {
        &self.record
    }
}

/// The records that one poll returned, partition by partition, each in the order of offsets.
///
/// ```
/// use std::time::Duration;
/// use annals::consumer::ConsumerConfig;
/// use annals::{Record, Store, TopicConfig, TopicPartition};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let topic = store.create_topic("clicks", TopicConfig::new())?;
/// topic.append(&Record::new("lamp"))?;
/// topic.append(&Record::new("sofa"))?;
///
/// let mut consumer = store.consumer(ConsumerConfig::new())?;
/// let partition = topic.partition(0)?.id().clone();
/// consumer.assign([partition.clone()])?;
/// consumer.seek_to_beginning([&partition])?;
/// let records = consumer.poll(Duration::from_secs(1))?;
/// assert_eq!((records.len(), records.next_offset(&partition)), (2, Some(2)));
/// for record in records {
///     println!("{}-{} {}: {:?}", record.topic(), record.partition(), record.offset(), record.value());
/// }
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct ConsumerRecords {
    parts: Vec<Part>,
}

/// The records of one partition.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) partition: Arc<TopicPartition>,
    pub(super) records: Vec<StoredRecord>,
    /// What they take in their batches.
    pub(super) bytes: u64,
    /// The position behind them.
    pub(super) next: u64,
}

impl ConsumerRecords {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        ConsumerRecords { parts }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.records.len()).sum()
    }

    /// Whether there is none: nothing came in time.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.records.is_empty())
    }

    /// The partitions that they are from.
    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.by_partition().map(|(partition, _)| partition)
    }

    /// Those of one partition. It is looked for among all: to go through them, [`by_partition`](Self::by_partition).
    pub fn records(&self, partition: &TopicPartition) -> &[StoredRecord] {
        self.part(partition).map_or(&[], |part| &part.records)
    }

    /// By partition.
    pub fn by_partition(&self) -> impl Iterator<Item = (&TopicPartition, &[StoredRecord])> {
        let parts = self.parts.iter().filter(|part| !part.records.is_empty());
        parts.map(|part| (&*part.partition, &part.records[..]))
    }

    /// The consumer's position behind those of one partition; `None` if there is none of it. It can lie behind the
    /// offset that follows the last record: markers of transactions have offsets, too.
    pub fn next_offset(&self, partition: &TopicPartition) -> Option<u64> {
        self.part(partition).map(|part| part.next)
    }

    /// Keeps the records for which `keep` says so; for interceptors.
    pub fn retain(&mut self, mut keep: impl FnMut(&TopicPartition, &StoredRecord) -> bool) {
        for part in &mut self.parts {
            part.records.retain(|record| keep(&part.partition, record));
        }
    }

    /// Each with its partition, borrowed.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &StoredRecord)> {
        self.parts.iter().flat_map(|part| part.records.iter().map(|record| (&*part.partition, record)))
    }

    fn part(&self, partition: &TopicPartition) -> Option<&Part> {
        self.parts.iter().find(|part| *part.partition == *partition)
    }
}

impl fmt::Debug for ConsumerRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.iter().map(|part| (part.partition.to_string(), &part.records));
        f.debug_map().entries(parts).finish()
    }
}

impl IntoIterator for ConsumerRecords {
    type Item = ConsumerRecord;
    type IntoIter = IntoConsumerRecords;

    fn into_iter(self) -> IntoConsumerRecords {
        IntoConsumerRecords { left: self.len(), parts: self.parts.into_iter(), current: None }
    }
}

/// The records of one poll, one after the other.
#[derive(Debug)]
pub struct IntoConsumerRecords {
    left: usize,
    parts: std::vec::IntoIter<Part>,
    current: Option<(Arc<TopicPartition>, std::vec::IntoIter<StoredRecord>)>,
}

impl Iterator for IntoConsumerRecords {
    type Item = ConsumerRecord;

    #[inline]
    fn next(&mut self) -> Option<ConsumerRecord> {
        loop {
            if let Some((partition, records)) = &mut self.current {
                if let Some(record) = records.next() {
                    self.left -= 1;
                    return Some(ConsumerRecord { partition: Arc::clone(partition), record });
                }
            }
            let part = self.parts.next()?;
            self.current = Some((part.partition, part.records.into_iter()));
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for IntoConsumerRecords {}
impl FusedIterator for IntoConsumerRecords {}
