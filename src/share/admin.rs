//! [`ShareGroups`]: looking at share groups, and changing what is kept of those without members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::config::ShareOffsetReset;
use super::coordinator::{ShareCoordinator, key};
use super::journal::{Journal, Progress};
use crate::error::{Error, Result};
use crate::format::{DeliveryState, ShareStateKey};
use crate::group::check_group_id;
use crate::topic::{Store, StoreHandle, Topic};
use crate::types::{TopicName, TopicPartition};

/// The share groups of a store, to be looked at and administered; made by [`Store::share_groups`].
#[derive(Debug, Clone)]
pub struct ShareGroups {
    handle: StoreHandle,
}

/// A share group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareGroupListing {
    /// Its name.
    pub group: String,
    /// How many consumers are in it.
    pub members: usize,
}

/// What there is to know of a share group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareGroupDescription {
    /// Its name.
    pub group: String,
    /// The consumers in it.
    pub members: Vec<ShareMemberDescription>,
    /// How far it is, on each partition that it has been on.
    pub partitions: BTreeMap<TopicPartition, SharePartitionDescription>,
}

/// A member of a share group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareMemberDescription {
    /// Tells it from the others.
    pub member_id: String,
    /// The name that it was given.
    pub client_id: String,
    /// What it subscribes to.
    pub topics: Vec<TopicName>,
    /// How many records it has.
    pub acquired: u64,
}

/// How far a share group is on a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharePartitionDescription {
    /// Every record below it is finished (the share-partition start offset).
    pub start_offset: u64,
    /// How many records in flight somebody can have. Of a group without members, only those are known that were
    /// delivered before.
    pub available: u64,
    /// How many somebody has.
    pub acquired: u64,
    /// How many offsets behind the start offset are finished.
    pub finished: u64,
    /// How many offsets, up to the high watermark, are not finished.
    pub lag: u64,
}

impl Store {
    /// The share groups of this store.
    ///
    /// ```
    /// use annals::share::{ShareConfig, ShareOffsetReset};
    /// use annals::{Record, Store, TopicConfig};
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::open(directory.path())?;
    /// let tasks = store.create_topic("tasks", TopicConfig::new())?;
    /// tasks.append(&Record::new("sweep the floor"))?;
    ///
    /// let config = ShareConfig::new().group("workers").offset_reset(ShareOffsetReset::Earliest);
    /// let mut worker = store.share_consumer(config)?;
    /// worker.subscribe(["tasks"])?;
    ///
    /// let groups = store.share_groups();
    /// assert_eq!(groups.list()?[0].group, "workers");
    /// let described = groups.describe("workers")?;
    /// assert_eq!(described.members.len(), 1);
    /// assert_eq!(described.partitions.values().map(|partition| partition.lag).sum::<u64>(), 1);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn share_groups(&self) -> ShareGroups {
        ShareGroups { handle: self.weak_handle() }
    }
}

impl ShareGroups {
    /// All share groups that have members, or of which something is kept, by name.
    ///
    /// # Errors
    /// As their log cannot be read.
    pub fn list(&self) -> Result<Vec<ShareGroupListing>> {
        let coordinator = ShareCoordinator::of(&self.handle)?;
        let mut names: BTreeSet<String> = coordinator.group_names().into_iter().collect();
        for journal in coordinator.journals()? {
            names.extend(journal.keys().into_iter().map(|key| key.group));
        }
        let listing = |group: String| {
            let members = coordinator.group(&group).map_or(0, |live| live.members.lock().len());
            ShareGroupListing { group, members }
        };
        Ok(names.into_iter().map(listing).collect())
    }

    /// What there is to know of a group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; otherwise as its log cannot be read.
    pub fn describe(&self, group: &str) -> Result<ShareGroupDescription> {
        let coordinator = ShareCoordinator::of(&self.handle)?;
        let live = coordinator.group(group);
        let mut partitions = self.kept(&coordinator, group)?;
        let mut members = Vec::new();
        if let Some(live) = &live {
            let open = live.open_partitions();
            for partition in &open {
                let figures = partition.figures();
                let described = SharePartitionDescription {
                    start_offset: figures.start,
                    available: figures.available,
                    acquired: figures.acquired,
                    finished: figures.finished_beyond,
                    lag: lag(partition.log().high_watermark(), figures.start, figures.finished_beyond),
                };
                partitions.insert(partition.id().clone(), described);
            }
            members.extend(live.members.lock().iter().map(|(number, member)| ShareMemberDescription {
                member_id: format!("{group}-{number}"),
                client_id: member.client_id.clone(),
                topics: member.topics.clone(),
                acquired: open.iter().map(|partition| partition.count_of(*number)).sum(),
            }));
        }
        if live.is_none() && partitions.is_empty() {
            return Err(Error::UnknownGroup { group: group.into() });
        }
        Ok(ShareGroupDescription { group: group.into(), members, partitions })
    }

    /// Puts a group without members to another place on all partitions of a topic: nothing before it is delivered
    /// again, and everything from it on is, however often it was before.
    ///
    /// # Errors
    /// [`Error::GroupNotEmpty`], [`Error::UnknownTopic`], [`Error::InvalidName`]; otherwise as an append fails.
    pub fn reset(&self, group: &str, topic: &str, to: ShareOffsetReset) -> Result<()> {
        let coordinator = ShareCoordinator::of(&self.handle)?;
        check_group_id(group)?;
        let topic = self.handle.topic(topic)?;
        coordinator.with_empty(group, || {
            for log in topic.partitions()? {
                let start = coordinator.first_offset(&log, to)?;
                set(&coordinator, group, &topic, log.id().partition, start)?;
            }
            Ok(())
        })
    }

    /// Puts a group without members to an offset of a partition; as [`reset`](Self::reset).
    ///
    /// # Errors
    /// As [`reset`](Self::reset); [`Error::UnknownPartition`], [`Error::OffsetOutOfRange`].
    pub fn reset_to_offset(&self, group: &str, partition: &TopicPartition, offset: u64) -> Result<()> {
        let coordinator = ShareCoordinator::of(&self.handle)?;
        check_group_id(group)?;
        let topic = self.handle.topic(partition.topic.as_str())?;
        let log = topic.partition(partition.partition)?;
        let (log_start, log_end) = (log.log_start(), log.log_end());
        if offset < log_start || offset > log_end {
            let partition = partition.to_string();
            return Err(Error::OffsetOutOfRange { partition, requested: offset, log_start, log_end });
        }
        coordinator.with_empty(group, || set(&coordinator, group, &topic, partition.partition, offset))
    }

    /// Forgets how far a group without members is on a topic: it has never been there.
    ///
    /// # Errors
    /// [`Error::GroupNotEmpty`], [`Error::UnknownTopic`], [`Error::UnknownGroup`] if nothing is kept of it; otherwise
    /// as an append fails.
    pub fn delete_offsets(&self, group: &str, topic: &str) -> Result<()> {
        let topic = self.handle.topic(topic)?;
        self.delete_where(group, |key| key.topic_id == topic.id())
    }

    /// Forgets a group without members.
    ///
    /// # Errors
    /// [`Error::GroupNotEmpty`], [`Error::UnknownGroup`]; otherwise as an append fails.
    pub fn delete(&self, group: &str) -> Result<()> {
        self.delete_where(group, |_| true)
    }

    fn delete_where(&self, group: &str, which: impl Fn(&ShareStateKey) -> bool) -> Result<()> {
        let coordinator = ShareCoordinator::of(&self.handle)?;
        coordinator.with_empty(group, || {
            let mut any = false;
            for journal in coordinator.journals()? {
                let keys = journal.keys().into_iter().filter(|key| key.group == group && which(key));
                let keys: Vec<_> = keys.collect();
                any |= !keys.is_empty();
                journal.delete(&keys)?;
            }
            if any { Ok(()) } else { Err(Error::UnknownGroup { group: group.into() }) }
        })
    }

    /// What is written down of a group, for the topics that there are.
    fn kept(
        &self,
        coordinator: &ShareCoordinator,
        group: &str,
    ) -> Result<BTreeMap<TopicPartition, SharePartitionDescription>> {
        let topics: BTreeMap<_, Topic> =
            self.handle.topics()?.into_iter().map(|topic| (topic.id(), topic)).collect();
        let mut kept = BTreeMap::new();
        for journal in coordinator.journals()? {
            for key in journal.keys().into_iter().filter(|key| key.group == group) {
                let Some(topic) = topics.get(&key.topic_id) else { continue };
                if let Some((id, described)) = describe_kept(&journal, &key, topic)? {
                    kept.insert(id, described);
                }
            }
        }
        Ok(kept)
    }
}

fn describe_kept(
    journal: &Journal,
    key: &ShareStateKey,
    topic: &Topic,
) -> Result<Option<(TopicPartition, SharePartitionDescription)>> {
    let Some(Progress { start: Some(start_offset), batches }) = journal.progress(key) else {
        return Ok(None);
    };
    let Ok(partition) = u32::try_from(key.partition) else { return Ok(None) };
    let log = topic.partition(partition)?;
    let (mut available, mut finished) = (0, 0);
    for batch in &batches {
        let counted = if batch.state == DeliveryState::Available { &mut available } else { &mut finished };
        *counted += batch.last_offset - batch.first_offset + 1;
    }
    let lag = lag(log.high_watermark(), start_offset, finished);
    let described = SharePartitionDescription { start_offset, available, acquired: 0, finished, lag };
    Ok(Some((log.id().clone(), described)))
}

/// The offsets from the start to the end, less those that are finished.
fn lag(end: u64, start: u64, finished: u64) -> u64 {
    end.saturating_sub(start).saturating_sub(finished)
}

fn set(
    coordinator: &Arc<ShareCoordinator>,
    group: &str,
    topic: &Topic,
    number: u32,
    start: u64,
) -> Result<()> {
    let key = key(group, topic, number)?;
    let progress = Progress { start: Some(start), batches: Vec::new() };
    coordinator.journal_of(&key)?.set(&key, || progress)
}
