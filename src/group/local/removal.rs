//! How groups and offsets go: deleted by somebody, or because nobody has needed them for long.

use std::sync::Arc;
use std::time::Duration;

use super::config::GroupConfig;
use super::group::{Context, Group};
use super::offsets::Committed;
use super::shard::{Cell, Entry, Shard, group_key, offset_key};
use super::{LocalGroups, Shards};
use crate::error::{Error, Result};
use crate::group::coordinator::GroupState;
use crate::partition::AppendOptions;
use crate::topic::ClockGuard;
use crate::types::TopicPartition;

/// How many tombstones are appended at once.
const TOMBSTONES_MAX: usize = 1000;
/// The most bytes that one has besides the id of its group, with its share of the batch: the name of a topic, and
/// lengths.
const TOMBSTONE_BYTES_MAX: usize = 400;

/// When it is looked next for what is too old.
#[derive(Debug)]
pub(super) struct Retention {
    due: Duration,
    guard: ClockGuard,
}

impl Retention {
    pub(super) fn new(now: Duration, config: &GroupConfig) -> Self {
        Retention { due: now.saturating_add(config.retention_check_interval), guard: ClockGuard::default() }
    }
}

impl Group {
    /// The offsets that nobody has needed for long (Kafka's `offsetExpirationCondition`).
    fn expired(&self, context: &Context<'_>) -> Vec<TopicPartition> {
        let since_empty = self.protocol_type.is_some() && self.state == GroupState::Empty;
        let by_subscription = self.state == GroupState::Stable && self.subscribed.is_some();
        if !(since_empty || by_subscription || self.protocol_type.is_none()) {
            return Vec::new();
        }
        let retention = i64::try_from(context.config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let is_expired = |committed: &Committed| {
            let since = self.changed_at.filter(|_| since_empty).unwrap_or(committed.committed_at);
            committed.expires_at.unwrap_or(since.saturating_add(retention)) <= context.wall
        };
        let offsets = self.offsets.iter();
        let expired = offsets.filter(|(partition, committed)| {
            is_expired(committed)
                && !self.is_subscribed(&partition.topic)
                && !self.offsets.is_pending(partition)
        });
        expired.map(|(partition, _)| partition.clone()).collect()
    }

    /// Whether nothing keeps it but its name.
    fn is_left(&self) -> bool {
        self.state == GroupState::Empty && self.invited.is_empty() && self.offsets.is_empty()
    }
}

/// The right to remove offsets of a group: no commit is under way, and none begins.
struct Hold<'a>(&'a Cell);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.group.lock().held = false;
        self.0.changed.notify_all();
    }
}

impl<'a> Hold<'a> {
    /// Waits for the commits under way. Fails if the group may not be touched, which is asked again each time.
    fn wait(cell: &'a Cell, mut allowed: impl FnMut(&Group) -> Result<()>) -> Result<Hold<'a>> {
        let mut group = cell.group.lock();
        while group.held {
            cell.changed.wait(&mut group);
        }
        allowed(&group)?;
        group.held = true;
        let hold = Hold(cell);
        while !group.running.is_empty() {
            cell.changed.wait(&mut group);
            if let Err(error) = allowed(&group) {
                // The hold is given up without the lock.
                drop(group);
                return Err(error);
            }
        }
        drop(group);
        Ok(hold)
    }

    /// If that is possible without waiting.
    fn attempt(cell: &'a Cell) -> Option<Hold<'a>> {
        let mut group = cell.group.lock();
        if group.held || !group.running.is_empty() || group.state == GroupState::Dead {
            return None;
        }
        group.held = true;
        Some(Hold(cell))
    }

    /// Writes tombstones for the offsets, and forgets them.
    fn remove(&self, shard: &Shard, partitions: &[TopicPartition]) -> Result<()> {
        let id = self.0.group.lock().id.clone();
        let each = id.len() + TOMBSTONE_BYTES_MAX;
        let room = shard.partition()?.config().max_message_bytes as usize / each;
        for chunk in partitions.chunks(room.clamp(1, TOMBSTONES_MAX)) {
            let tombstone = |partition| offset_key(&id, partition).map(Entry::tombstone);
            let entries: Vec<Entry> = chunk.iter().map(tombstone).collect::<Result<_>>()?;
            let appended = shard.append(&entries, AppendOptions::new())?;
            let mut group = self.0.group.lock();
            for (log_offset, partition) in (appended.base_offset..).zip(chunk) {
                group.offsets.remove(partition, log_offset);
            }
        }
        Ok(())
    }

    /// Writes the tombstone of the group, and forgets it.
    fn remove_group(&self, shard: &Shard) -> Result<()> {
        let _in_order = self.0.scribe.lock();
        let (id, stored) = {
            let group = self.0.group.lock();
            (group.id.clone(), group.stored)
        };
        if stored {
            shard.append(&[Entry::tombstone(group_key(&id)?)], AppendOptions::new())?;
        }
        shard.forget(self.0, |_| true);
        Ok(())
    }
}

impl LocalGroups {
    pub(super) fn delete_group(&self, group: &str) -> Result<()> {
        let unknown = || Error::UnknownGroup { group: group.to_owned() };
        let (shard, cell) = self.known(group)?.ok_or_else(unknown)?;
        let hold = Hold::wait(&cell, |known| match known.state {
            GroupState::Dead => Err(unknown()),
            GroupState::Empty if known.is_void() => Err(unknown()),
            GroupState::Empty => Ok(()),
            _ => Err(Error::GroupNotEmpty { group: group.to_owned() }),
        })?;
        let partitions: Vec<TopicPartition> = {
            let known = cell.group.lock();
            let committed = known.offsets.iter().map(|(partition, _)| partition);
            let mut all: Vec<TopicPartition> = committed.chain(known.offsets.pending()).cloned().collect();
            all.sort();
            all.dedup();
            all
        };
        hold.remove(&shard, &partitions)?;
        hold.remove_group(&shard)
    }

    pub(super) fn remove_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        let unknown = || Error::UnknownGroup { group: group.to_owned() };
        let (shard, cell) = self.known(group)?.ok_or_else(unknown)?;
        let hold = Hold::wait(&cell, |known| match known.state {
            GroupState::Dead => Err(unknown()),
            _ => known.check_removal(partitions),
        })?;
        let known: Vec<TopicPartition> = {
            let known = cell.group.lock();
            let is_known = |partition: &&TopicPartition| {
                known.offsets.get(partition).is_some() || known.offsets.is_pending(partition)
            };
            partitions.iter().filter(is_known).cloned().collect()
        };
        hold.remove(&shard, &known)
    }

    /// Forgets what nobody has needed for long, if it is time to look. Returns when it is next.
    pub(super) fn retain(&self, shards: Option<&Shards>, failed: &mut Result<()>) -> Duration {
        let context = self.context();
        let next = {
            let mut retention = self.retention.lock();
            let jumped = retention.guard.look(context.wall, context.now).is_some();
            let held = jumped || retention.guard.holds(context.now);
            if retention.due > context.now {
                return retention.due;
            }
            retention.due = context.now.saturating_add(self.config.retention_check_interval);
            if held {
                return retention.due;
            }
            retention.due
        };
        // Of shards that nobody has used since the store was opened nothing is in memory, and for this it shall not be
        // read: their positions may be millions. They are not many more for waiting, since compaction keeps one of
        // each, and go once somebody uses one of them. A broker has loaded all that it leads, whoever uses it.
        for shard in shards.iter().flat_map(|shards| &shards.all) {
            let expired = self.expire(shard);
            if failed.is_ok() {
                *failed = expired;
            }
        }
        next
    }

    fn expire(&self, shard: &Arc<Shard>) -> Result<()> {
        let cells = shard.cells();
        if cells.is_empty() || shard.check_writable().is_err() {
            return Ok(());
        }
        let context = self.context();
        let mut failed = Ok(());
        for cell in cells {
            let due = {
                let group = cell.group.lock();
                group.is_left() || !group.expired(&context).is_empty()
            };
            // One that is being committed to is looked at again next time.
            let Some(hold) = Some(&cell).filter(|_| due).and_then(|cell| Hold::attempt(cell)) else {
                continue;
            };
            let expired = cell.group.lock().expired(&context);
            let removed = hold
                .remove(shard, &expired)
                .and_then(|()| if cell.group.lock().is_left() { hold.remove_group(shard) } else { Ok(()) });
            failed = failed.and(removed);
        }
        failed
    }
}
