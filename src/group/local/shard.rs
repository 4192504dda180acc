//! [`Shard`]: the groups whose records lie in one partition of `__consumer_offsets`, and that partition.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use super::config::{GroupConfig, too_large};
use super::group::{Context, Group};
use crate::error::{Error, Result};
use crate::format::Record;
use crate::format::group_records::{GroupRecordKey, OffsetCommitValue};
use crate::group::coordinator::{GroupState, OffsetCommit};
use crate::partition::{AppendOptions, Appended, Partition};
use crate::topic::Topic;
use crate::types::{TopicPartition, Uuid};

/// One group, and who waits for it.
#[derive(Debug)]
pub(super) struct Cell {
    /// Held for moments, never while the disk is waited for.
    pub(super) group: Mutex<Group>,
    /// Something under way has ended that others wait for.
    pub(super) changed: Condvar,
    /// Held while the group is written down, so that the log has its generations in order.
    pub(super) scribe: Mutex<()>,
}

/// A part of all groups.
#[derive(Debug)]
pub(super) struct Shard {
    topic: Topic,
    number: u32,
    /// Held while they are read from the log.
    loading: Mutex<()>,
    /// None before they are.
    groups: Mutex<Option<HashMap<String, Arc<Cell>>>>,
    /// The groups for which each producer has offsets in its transaction.
    pub(super) transactions: Mutex<HashMap<i64, BTreeSet<String>>>,
    /// How many groups there are in all shards.
    count: Arc<AtomicUsize>,
}

impl Cell {
    pub(super) fn new(group: Group) -> Arc<Self> {
        Arc::new(Cell { group: Mutex::new(group), changed: Condvar::new(), scribe: Mutex::new(()) })
    }
}

impl Shard {
    pub(super) fn new(topic: Topic, number: u32, count: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Shard {
            topic,
            number,
            loading: Mutex::new(()),
            groups: Mutex::new(None),
            transactions: Mutex::default(),
            count,
        })
    }

    pub(super) fn id(&self) -> TopicPartition {
        TopicPartition { topic: self.topic.name().clone(), partition: self.number }
    }

    pub(super) fn partition(&self) -> Result<Partition> {
        self.topic.partition(self.number)
    }

    /// Whether the store lets anything be written.
    pub(super) fn check_writable(&self) -> Result<()> {
        match self.partition()?.check() {
            Err(error @ Error::ReadOnly { .. }) => Err(error),
            // The rest may heal until something is to be written.
            _ => Ok(()),
        }
    }

    /// Reads the groups from the log, unless that was done. Returns whether it was done now.
    pub(super) fn load(&self, context: &Context<'_>) -> Result<bool> {
        if self.groups.lock().is_some() {
            return Ok(false);
        }
        let _one_at_a_time = self.loading.lock();
        if self.groups.lock().is_some() {
            return Ok(false);
        }
        let loaded = super::load::load(&self.partition()?, context)?;
        *self.transactions.lock() = loaded.transactions;
        self.count.fetch_add(loaded.groups.len(), Ordering::Relaxed);
        let cells = loaded.groups.into_iter().map(|(id, group)| (id, Cell::new(group)));
        *self.groups.lock() = Some(cells.collect());
        Ok(true)
    }

    /// Waits for who is reading the groups. Returns whether they are there.
    pub(super) fn is_loaded(&self) -> bool {
        let _not_meanwhile = self.loading.lock();
        self.groups.lock().is_some()
    }

    /// A group, if it is known.
    pub(super) fn known(&self, group: &str) -> Option<Arc<Cell>> {
        self.groups.lock().as_ref().and_then(|groups| groups.get(group).cloned())
    }

    /// A group, made if it is not known.
    pub(super) fn known_or_new(&self, group: &str, config: &GroupConfig) -> Result<Arc<Cell>> {
        let mut groups = self.groups.lock();
        let unread = || Error::Closed { what: self.id().to_string() };
        let groups = groups.as_mut().ok_or_else(unread)?;
        if let Some(cell) = groups.get(group) {
            return Ok(Arc::clone(cell));
        }
        let (count, limit) = (self.count.load(Ordering::Relaxed), config.groups_max);
        if count >= limit {
            let (size, limit) = (count as u64 + 1, limit as u64);
            return Err(too_large("the number of groups", size, limit, "GroupConfig::groups_max"));
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let cell = Cell::new(Group::new(group));
        groups.insert(group.to_owned(), Arc::clone(&cell));
        Ok(cell)
    }

    /// All groups that are in memory.
    pub(super) fn cells(&self) -> Vec<Arc<Cell>> {
        self.groups.lock().as_ref().map(|groups| groups.values().cloned().collect()).unwrap_or_default()
    }

    /// Forgets a group, if `gone` says so of it. Whoever has it still finds it dead.
    pub(super) fn forget(&self, cell: &Cell, gone: impl FnOnce(&Group) -> bool) -> bool {
        let mut groups = self.groups.lock();
        let mut group = cell.group.lock();
        if group.state == GroupState::Dead || !gone(&group) {
            return false;
        }
        group.state = GroupState::Dead;
        if groups.as_mut().is_some_and(|groups| groups.remove(&group.id).is_some()) {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    /// Appends records, each a key with a value or a tombstone, as one batch.
    pub(super) fn append(&self, entries: &[Entry], options: AppendOptions) -> Result<Appended> {
        let partition = self.partition()?;
        let records: Vec<Record<'_>> = entries.iter().map(Entry::record).collect();
        partition.with_reopen(|| partition.append_batch_with(&records, options.coordinator()))
    }
}

/// A record to be appended: a key, and a value or none.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

impl Entry {
    fn record(&self) -> Record<'_> {
        let record = self.value.as_ref().map_or_else(Record::tombstone, Record::new);
        record.key(&self.key)
    }

    /// Says that what the key names is no more.
    pub(super) fn tombstone(key: Vec<u8>) -> Self {
        Entry { key, value: None }
    }
}

/// The record of an offset that a group commits, of the topic with that id.
pub(super) fn offset_entry(group: &str, commit: &OffsetCommit, topic_id: Uuid, now: i64) -> Result<Entry> {
    let position = &commit.position;
    let value = OffsetCommitValue {
        offset: i64::try_from(position.offset).unwrap_or(i64::MAX),
        leader_epoch: position.leader_epoch.unwrap_or(-1),
        metadata: position.metadata.clone(),
        commit_timestamp: now,
        expire_timestamp: -1,
        topic_id,
    };
    let invalid = |source| Error::InvalidBatch { source };
    let key = offset_key(group, &commit.partition)?;
    Ok(Entry { key, value: Some(value.encode().map_err(invalid)?) })
}

/// The key under which a group's offset lies.
pub(super) fn offset_key(group: &str, partition: &TopicPartition) -> Result<Vec<u8>> {
    let number = i32::try_from(partition.partition).map_err(|_| Error::UnknownPartition {
        topic: partition.topic.to_string(),
        partition: partition.partition,
        count: i32::MAX as u32,
    })?;
    let (group, topic) = (group.to_owned(), partition.topic.to_string());
    let key = GroupRecordKey::Offset { group, topic, partition: number };
    key.encode().map_err(|source| Error::InvalidBatch { source })
}

/// The key under which a group lies.
pub(super) fn group_key(group: &str) -> Result<Vec<u8>> {
    let key = GroupRecordKey::Group { group: group.to_owned() };
    key.encode().map_err(|source| Error::InvalidBatch { source })
}
