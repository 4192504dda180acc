//! [`ShareCoordinator`]: what a store has of share groups: those with members, and where their progress is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::config::{Settings, ShareOffsetReset};
use super::group::{Group, Member};
use super::journal::{Journal, Progress, Source};
use super::partition::SharePartition;
use crate::error::{Error, Result};
use crate::format::{ShareStateKey, coordinator_partition};
use crate::partition::Partition;
use crate::topic::{Attendant, StoreHandle, Topic, TopicConfig};
use crate::types::Uuid;

/// Where share groups' progress is kept.
pub(super) const STATE_TOPIC: &str = "__share_group_state";
/// Kafka's `share.coordinator.state.topic.num.partitions`.
const STATE_PARTITIONS: u32 = 50;

/// What a store has of share groups.
pub(super) struct ShareCoordinator {
    handle: StoreHandle,
    groups: Mutex<BTreeMap<String, Arc<Group>>>,
    journals: Mutex<BTreeMap<u32, Arc<Journal>>>,
    members: AtomicU64,
    attending: AtomicBool,
}

impl ShareCoordinator {
    /// The one of a store.
    pub(super) fn of(handle: &StoreHandle) -> Result<Arc<ShareCoordinator>> {
        let coordinator = handle.extension(|| ShareCoordinator {
            handle: handle.clone(),
            groups: Mutex::default(),
            journals: Mutex::default(),
            members: AtomicU64::new(0),
            attending: AtomicBool::new(false),
        })?;
        if !coordinator.attending.swap(true, Ordering::AcqRel) {
            let attendant: Arc<dyn Attendant> = Arc::<ShareCoordinator>::clone(&coordinator);
            handle.attend(Arc::downgrade(&attendant))?;
        }
        Ok(coordinator)
    }

    pub(super) fn handle(&self) -> &StoreHandle {
        &self.handle
    }

    /// Takes a consumer into a group. Returns its number.
    pub(super) fn join(&self, name: &str, settings: Settings, client_id: &str) -> Result<(Arc<Group>, u64)> {
        let mut groups = self.groups.lock();
        let group = match groups.get(name) {
            Some(group) => {
                group.check(&settings)?;
                Arc::clone(group)
            }
            None => {
                let made = Arc::new(Group::new(name.to_owned(), settings));
                groups.insert(name.to_owned(), Arc::clone(&made));
                made
            }
        };
        let member = self.members.fetch_add(1, Ordering::Relaxed);
        let client_id = client_id.to_owned();
        group.members.lock().insert(member, Member { client_id, topics: Vec::new() });
        Ok((group, member))
    }

    /// Takes a consumer out of its group. What it had is available at once.
    pub(super) fn leave(&self, group: &Group, member: u64) -> Result<()> {
        let mut groups = self.groups.lock();
        let last = {
            let mut members = group.members.lock();
            members.remove(&member);
            members.is_empty()
        };
        let partitions = group.open_partitions();
        partitions.iter().for_each(|partition| partition.release_member(member));
        group.notify();
        if !last {
            return Ok(());
        }
        // Before anybody can begin the group anew with what is written down.
        let unwritten = partitions.into_iter().filter(|partition| partition.is_unwritten());
        let written = self.write(unwritten.collect());
        groups.remove(&group.name);
        written
    }

    /// Writes down what has changed in partitions of a group that has no members any more.
    fn write(&self, partitions: Vec<Arc<SharePartition>>) -> Result<()> {
        let mut result = Ok(());
        for partition in partitions {
            let source: Arc<dyn Source> = Arc::<SharePartition>::clone(&partition);
            let committed = partition.journal().commit(&[source]);
            result = result.and(committed.error.map_or(Ok(()), Err));
        }
        result
    }

    /// A group that has members.
    pub(super) fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.groups.lock().get(name).cloned()
    }

    /// The names of all groups that have members.
    pub(super) fn group_names(&self) -> Vec<String> {
        self.groups.lock().keys().cloned().collect()
    }

    /// Does something to a group that has no members, and lets none in meanwhile.
    pub(super) fn with_empty<T>(&self, name: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let groups = self.groups.lock();
        if groups.contains_key(name) {
            return Err(Error::GroupNotEmpty { group: name.to_owned() });
        }
        act()
    }

    /// A group's hold on a partition; it begins where `reset` says if nothing is written down.
    pub(super) fn open(
        &self,
        group: &Group,
        topic: &Topic,
        number: u32,
        reset: ShareOffsetReset,
    ) -> Result<Arc<SharePartition>> {
        let mut partitions = group.partitions.lock();
        if let Some(known) = partitions.get(&(topic.id(), number)) {
            return Ok(Arc::clone(known));
        }
        let log = topic.partition(number)?;
        let key = key(&group.name, topic, number)?;
        let journal = self.journal_of(&key)?;
        let mut progress = journal.progress(&key).unwrap_or(Progress { start: None, batches: Vec::new() });
        let start = match progress.start {
            Some(start) => start,
            None => {
                // Written down at once: what is delivered from here on must come again after a restart.
                let start = self.first_offset(&log, reset)?;
                progress = Progress { start: Some(start), batches: Vec::new() };
                journal.set(&key, || progress.clone())?;
                start
            }
        };
        let Settings { isolation, limits, priority } = group.settings.clone();
        let opened =
            SharePartition::open((key, log, journal), (start, &progress), (isolation, limits), priority)?;
        let opened = Arc::new(opened);
        partitions.insert((topic.id(), number), Arc::clone(&opened));
        Ok(opened)
    }

    /// A group's hold on all partitions of a topic. It begins where `reset` says on one that it has never been on; at
    /// the start, if that has come since the group was on the others.
    pub(super) fn open_all(
        &self,
        group: &Group,
        topic: &Topic,
        reset: ShareOffsetReset,
    ) -> Result<Vec<Arc<SharePartition>>> {
        let count = topic.partition_count();
        let mut known = 0;
        for number in 0..count {
            let key = key(&group.name, topic, number)?;
            if self.journal_of(&key)?.progress(&key).is_some() {
                known = number + 1;
            }
        }
        // The first time from the last one on: if that ends in the middle, none of the others seems to have come later.
        let there = if known == 0 { count } else { known };
        let mut opened = Vec::new();
        for number in (0..there).rev() {
            opened.push(self.open(group, topic, number, reset)?);
        }
        opened.reverse();
        for number in there..count {
            opened.push(self.open(group, topic, number, ShareOffsetReset::Earliest)?);
        }
        Ok(opened)
    }

    /// The offset at which a reset puts a group.
    pub(super) fn first_offset(&self, log: &Partition, reset: ShareOffsetReset) -> Result<u64> {
        Ok(match reset {
            ShareOffsetReset::Latest => log.high_watermark(),
            ShareOffsetReset::Earliest => log.log_start(),
            ShareOffsetReset::ByDuration(age) => {
                let millis = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                let oldest = self.handle.clock().now().saturating_sub(millis);
                let found = log.offset_for_timestamp(oldest)?;
                found.map_or_else(|| log.high_watermark(), |found| found.offset)
            }
        })
    }

    /// Where the progress is kept that has this key.
    pub(super) fn journal_of(&self, key: &ShareStateKey) -> Result<Arc<Journal>> {
        let config = TopicConfig::new()
            .partitions(STATE_PARTITIONS)
            .set("cleanup.policy", "delete")?
            .set("retention.ms", "-1")?
            .set("retention.bytes", "-1")?
            .set("segment.bytes", "104857600")?
            .set("max.message.bytes", "1048588")?;
        let topic = self.handle.topic_or_create(STATE_TOPIC, config)?;
        self.journal(&topic, coordinator_partition(&key.coordinator_key(), topic.partition_count()))
    }

    fn journal(&self, topic: &Topic, number: u32) -> Result<Arc<Journal>> {
        let mut journals = self.journals.lock();
        if let Some(known) = journals.get(&number) {
            return Ok(Arc::clone(known));
        }
        let opened = Arc::new(Journal::open(topic.partition(number)?, Arc::clone(self.handle.clock()))?);
        journals.insert(number, Arc::clone(&opened));
        Ok(opened)
    }

    /// Those of some keys whose topics are gone. The keys were there before the topics are asked for, so that one of a
    /// topic that comes meanwhile is not among them.
    fn unwanted(&self, mut keys: Vec<ShareStateKey>) -> Result<Vec<ShareStateKey>> {
        let topics: BTreeSet<Uuid> = self.handle.topics()?.iter().map(Topic::id).collect();
        // A member may still acknowledge what it has of a topic that is gone.
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        let held = groups.iter().flat_map(|group| group.open_partitions());
        let held: BTreeSet<ShareStateKey> = held.map(|partition| partition.key().clone()).collect();
        keys.retain(|key| !topics.contains(&key.topic_id) && !held.contains(key));
        Ok(keys)
    }

    /// All there are; none if there was no share group yet.
    pub(super) fn journals(&self) -> Result<Vec<Arc<Journal>>> {
        match self.handle.topic(STATE_TOPIC) {
            Ok(topic) => (0..topic.partition_count()).map(|number| self.journal(&topic, number)).collect(),
            Err(Error::UnknownTopic { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Attendant for ShareCoordinator {
    fn attend(&self) -> Result<()> {
        let open: Vec<_> = self.journals.lock().values().cloned().collect();
        let mut result = Ok(());
        for journal in open {
            result = result.and(journal.prune(|keys| self.unwanted(keys)));
        }
        result
    }
}

/// The key of a group's progress on a partition.
pub(super) fn key(group: &str, topic: &Topic, number: u32) -> Result<ShareStateKey> {
    let unknown = |_| Error::UnknownPartition {
        topic: topic.name().to_string(),
        partition: number,
        count: topic.partition_count(),
    };
    let partition = i32::try_from(number).map_err(unknown)?;
    Ok(ShareStateKey { group: group.to_owned(), topic_id: topic.id(), partition })
}
