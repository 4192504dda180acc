//! [`Topic`]: named partitions that share a configuration.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::config::TopicConfig;
use super::partitioner::{DefaultPartitioner, Partitioner};
use super::store::Shared;
use crate::error::{Error, Result};
use crate::format::Record;
use crate::partition::Partition;
use crate::types::{TopicName, TopicPartition, Uuid};

/// A named set of partitions. A cheap handle: clone it, send it, share it.
///
/// ```
/// use annals::{Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let clicks = store.create_topic("clicks", TopicConfig::new().partitions(3))?;
/// let placed = clicks.append(&Record::new("bought").key("user-7"))?;
/// assert_eq!(clicks.append(&Record::new("left").key("user-7"))?.partition, placed.partition);
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Clone)]
pub struct Topic {
    pub(super) state: Arc<TopicState>,
    pub(super) store: Weak<Shared>,
}

/// Where a record of a topic ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placed {
    /// The partition.
    pub partition: u32,
    /// The offset in it.
    pub offset: u64,
}

/// What all handles of one topic share.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: TopicName,
    pub(super) id: Uuid,
    pub(super) config: RwLock<TopicConfig>,
    /// Whether offsets may be missing between batches.
    pub(super) sparse: std::sync::atomic::AtomicBool,
    pub(super) slots: RwLock<Vec<Slot>>,
    pub(super) partitioner: DefaultPartitioner,
}

/// A partition, unless it could not be opened. Then it is tried again when it is asked for (P7).
#[derive(Debug)]
pub(super) enum Slot {
    Open(Partition),
    Failed,
}

impl Topic {
    /// Its name.
    pub fn name(&self) -> &TopicName {
        &self.state.name
    }

    /// Its identity: another one is made if the topic is deleted and created again.
    pub fn id(&self) -> Uuid {
        self.state.id
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        self.state.slots.read().len() as u32
    }

    /// One of its partitions, counted from 0.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`]; or why it cannot be opened, if it could not be when the store was and still
    /// cannot be.
    pub fn partition(&self, number: u32) -> Result<Partition> {
        match self.state.slots.read().get(number as usize) {
            Some(Slot::Open(partition)) => return Ok(partition.clone()),
            Some(Slot::Failed) => {}
            None => return Err(self.unknown(number)),
        }
        self.store()?.open_late(&self.state, number)
    }

    /// All its partitions, in order.
    ///
    /// # Errors
    /// As [`partition`](Self::partition), for the first one that cannot be opened.
    pub fn partitions(&self) -> Result<Vec<Partition>> {
        (0..self.partition_count()).map(|number| self.partition(number)).collect()
    }

    /// Appends a record to the partition that its key says (murmur2, as Kafka's clients do), or, without a key,
    /// to the one in turn.
    ///
    /// # Errors
    /// As [`Partition::append`].
    pub fn append(&self, record: &Record<'_>) -> Result<Placed> {
        let count = self.partition_count();
        let value = record.value_bytes().map_or(0, <[u8]>::len);
        let key = record.key_bytes();
        let size = value + key.map_or(0, <[u8]>::len);
        let partition = self.state.partitioner.partition(key, size, count);
        let offset = self.partition(partition)?.append(record)?;
        Ok(Placed { partition, offset })
    }

    /// Its settings: those given, and the store's defaults for the others.
    pub fn config(&self) -> TopicConfig {
        let config = self.state.config.read().clone();
        match self.store.upgrade() {
            Some(store) => config.or(store.topic_defaults()),
            None => config,
        }
    }

    /// Changes settings; `None` goes back to the default. Takes effect with the next append.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if one is refused; then none is changed. Otherwise as the manifest cannot be
    /// written.
    pub fn configure<'a>(&self, changes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Result<()> {
        self.store()?.configure(&self.state, changes)
    }

    /// Gives it more partitions, up to `count` in all. Records with a key may then go to another partition than
    /// before.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if there are more already; otherwise as the system calls fail.
    pub fn add_partitions(&self, count: u32) -> Result<()> {
        self.store()?.add_partitions(&self.state, count)
    }

    fn store(&self) -> Result<Arc<Shared>> {
        self.store
            .upgrade()
            .ok_or_else(|| Error::Closed { what: format!("the store of topic {}", self.state.name) })
    }

    fn unknown(&self, partition: u32) -> Error {
        let topic = self.state.name.to_string();
        Error::UnknownPartition { topic, partition, count: self.partition_count() }
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("name", &self.state.name.as_str())
            .field("partitions", &self.partition_count())
            .finish_non_exhaustive()
    }
}

impl TopicState {
    pub(super) fn open_partitions(&self) -> Vec<Partition> {
        let slots = self.slots.read();
        let open = |slot: &Slot| match slot {
            Slot::Open(partition) => Some(partition.clone()),
            Slot::Failed => None,
        };
        slots.iter().filter_map(open).collect()
    }

    pub(super) fn partition_id(&self, number: u32) -> TopicPartition {
        TopicPartition { topic: self.name.clone(), partition: number }
    }

    pub(super) fn directory(&self, number: u32) -> PathBuf {
        PathBuf::from(self.partition_id(number).to_string())
    }
}
