//! `__transaction_state`: where what is known of transactional ids is kept, in Kafka's own schema.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::config::TransactionConfig;
use super::entry::{Entry, Known};
use crate::error::{Error, FormatError, Result};
use crate::format::coordinator_partition;
use crate::format::transaction_records::{self as records, TransactionState, TransactionValue};
use crate::format::{Record, RecordView};
use crate::partition::{AppendOptions, CleanupPolicy, CompressionType, Durability, Partition};
use crate::topic::{StoreHandle, Topic, TopicConfig};

/// The topic's name.
pub(super) const TRANSACTION_STATE: &str = "__transaction_state";
/// Kafka's `transaction.state.log.segment.bytes`.
const SEGMENT_BYTES: u32 = 104_857_600;

/// The topic, and the transactional ids in it.
#[derive(Debug)]
pub(super) struct StateLog {
    pub(super) topic: Topic,
    pub(super) shards: Vec<Shard>,
    /// How many ids there are.
    count: AtomicUsize,
}

/// One of its partitions.
#[derive(Debug)]
pub(super) struct Shard {
    number: u32,
    /// What its records say, once they have been read.
    entries: Mutex<Option<HashMap<Arc<str>, Arc<Entry>>>>,
}

/// The topic, as it is made. Whatever decides something says itself that it has to be on disk; the last word on a
/// transaction, that it is complete, need not be: without it the end is written once more.
pub(super) fn topic_config(config: &TransactionConfig) -> TopicConfig {
    TopicConfig::new()
        .partitions(config.partitions)
        .cleanup_policy(CleanupPolicy { delete: false, compact: true })
        .segment_bytes(SEGMENT_BYTES)
        .compression(CompressionType::Uncompressed)
        .durability(Durability::Process)
}

impl StateLog {
    pub(super) fn new(topic: Topic) -> Self {
        let shard = |number| Shard { number, entries: Mutex::default() };
        let shards = (0..topic.partition_count()).map(shard).collect();
        StateLog { topic, shards, count: AtomicUsize::new(0) }
    }

    /// The partition that keeps a transactional id.
    pub(super) fn shard_of(&self, id: &str) -> Result<&Shard> {
        let count = self.shards.len() as u32;
        let number = coordinator_partition(id, count);
        self.shards.get(number as usize).ok_or_else(|| Error::UnknownPartition {
            topic: TRANSACTION_STATE.into(),
            partition: number,
            count,
        })
    }

    /// The epoch of the coordinator of an id, as Kafka has it: the leader epoch of its partition.
    pub(super) fn coordinator_epoch(&self, id: &str) -> Result<i32> {
        Ok(self.partition_of(id)?.leader_epoch())
    }

    fn partition_of(&self, id: &str) -> Result<Partition> {
        self.topic.partition(self.shard_of(id)?.number)
    }

    /// Writes down what is known of an id; `None` forgets it.
    pub(super) fn write(
        &self,
        id: &str,
        value: Option<&TransactionValue>,
        durability: Durability,
    ) -> Result<()> {
        let log = self.partition_of(id)?;
        let invalid = |source| Error::InvalidBatch { source };
        let key = records::encode_key(id).map_err(invalid)?;
        let value = value.map(TransactionValue::encode).transpose().map_err(invalid)?;
        let record = match &value {
            Some(value) => Record::new(value).key(&key),
            None => Record::tombstone().key(&key),
        };
        let options = AppendOptions::new().coordinator().durability(durability);
        log.with_reopen(|| log.append_batch_with(std::slice::from_ref(&record), options))?;
        Ok(())
    }
}

impl Shard {
    /// The entry of an id. If there is none, one is made of which nothing is known yet, if that is wanted and there are
    /// not so many already.
    pub(super) fn entry(
        &self,
        log: &StateLog,
        store: &StoreHandle,
        id: &str,
        make: Option<usize>,
    ) -> Result<Option<Arc<Entry>>> {
        self.with_entries(log, store, |entries| {
            let Some(limit) = make.filter(|_| !entries.contains_key(id)) else {
                return Ok(entries.get(id).cloned());
            };
            let count = log.count.load(Ordering::Relaxed);
            if count >= limit {
                return Err(Error::TooLarge {
                    what: "the number of transactional ids",
                    size: count as u64 + 1,
                    limit: limit as u64,
                    setting: "TransactionConfig::ids_max",
                });
            }
            log.count.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Arc::clone(entries.entry(id.into()).or_default())))
        })?
    }

    /// Reads the partition, unless that was done before.
    pub(super) fn read(&self, log: &StateLog, store: &StoreHandle) -> Result<()> {
        self.with_entries(log, store, |_| ())
    }

    /// What `pick` has for each id, in no order.
    pub(super) fn pick<T>(
        &self,
        log: &StateLog,
        store: &StoreHandle,
        pick: impl Fn(&Arc<str>, &Arc<Entry>) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.with_entries(log, store, |entries| {
            entries.iter().filter_map(|(id, entry)| pick(id, entry)).collect()
        })
    }

    /// Takes an entry out that is forgotten.
    pub(super) fn remove(&self, log: &StateLog, id: &str, gone: &Arc<Entry>) {
        if let Some(entries) = self.entries.lock().as_mut() {
            if entries.get(id).is_some_and(|entry| Arc::ptr_eq(entry, gone)) {
                entries.remove(id);
                log.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Does something with what the partition holds, which is read the first time.
    fn with_entries<T>(
        &self,
        log: &StateLog,
        store: &StoreHandle,
        act: impl FnOnce(&mut HashMap<Arc<str>, Arc<Entry>>) -> T,
    ) -> Result<T> {
        let mut entries = self.entries.lock();
        let known = match entries.take() {
            Some(known) => known,
            None => self.load(log, store)?,
        };
        Ok(act(entries.insert(known)))
    }

    /// What the records of the partition say: of each key the last one.
    fn load(&self, log: &StateLog, store: &StoreHandle) -> Result<HashMap<Arc<str>, Arc<Entry>>> {
        let partition = log.topic.partition(self.number)?;
        let mut known: HashMap<Arc<str>, TransactionValue> = HashMap::new();
        partition.replay(false, |header, record| {
            if header.control {
                return Ok(());
            }
            let read = read_record(record).map_err(|error| Error::Corruption {
                path: partition.path(),
                position: 0,
                offset: record.offset(),
                detail: error.to_string(),
            })?;
            match read {
                Some((id, Some(value))) if value.state != TransactionState::Dead => {
                    known.insert(id.into(), value);
                }
                Some((id, _)) => {
                    known.remove(id.as_str());
                }
                None => {}
            }
            Ok(())
        })?;
        let ids = |value: &TransactionValue| {
            [Some(value.producer_id), value.next_producer_id, value.previous_producer_id]
        };
        if let Some(highest) = known.values().flat_map(ids).flatten().max() {
            store.avoid_producer_id(highest)?;
        }
        log.count.fetch_add(known.len(), Ordering::Relaxed);
        let clock = &**store.clock();
        let entry = |(id, value)| (id, Arc::new(Entry::loaded(Known::loaded(value, clock))));
        Ok(known.into_iter().map(entry).collect())
    }
}

/// What a record says of which id; `None` if it is of a kind that is not known.
type Said = Option<(String, Option<TransactionValue>)>;

fn read_record(record: &RecordView<'_>) -> Result<Said, FormatError> {
    let Some(id) = records::decode_key(record.key().unwrap_or_default())? else { return Ok(None) };
    let value = record.value().map(TransactionValue::decode).transpose()?;
    Ok(Some((id, value)))
}
