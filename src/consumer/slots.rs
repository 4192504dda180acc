//! The partitions that a consumer has, and reading from them in turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::bell::Bell;
use super::config::{ConsumerConfig, OffsetReset};
use super::records::{ConsumerRecords, Part};
use super::slot::{End, Filled, Place, Room, Slot};
use crate::error::Error;
use crate::partition::Isolation;
use crate::types::TopicPartition;

/// The partitions of a consumer by name, and the queue of those in which something may be found.
///
/// A partition is read when its turn comes, then goes to the end of the queue, or out of it when there is no more:
/// then the consumer is told when something comes. So what has nothing costs nothing, and none starves.
#[derive(Debug)]
pub(super) struct Slots {
    bell: Arc<Bell>,
    by_name: BTreeMap<Arc<TopicPartition>, Slot>,
    queue: VecDeque<Arc<TopicPartition>>,
    fetch: Fetch,
    limits: Limits,
    /// What partitions have to say that cannot go on, each once.
    pub(super) failed: VecDeque<Error>,
    /// Whether some partition is not looked up, or its position not known.
    pub(super) unsettled: bool,
}

/// What was read and not handed out yet.
#[derive(Debug, Default)]
struct Fetch {
    /// The partitions that it is from, in turn; they hold it. One that took it back may stand here still.
    order: Vec<Arc<TopicPartition>>,
    records: usize,
    bytes: u64,
    /// Waiting would bring no more.
    full: bool,
    /// Since when it is waited for.
    started: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    isolation: Isolation,
    reset: OffsetReset,
    records: usize,
    min_bytes: u64,
    bytes: u64,
    partition_bytes: u64,
    max_wait: Duration,
}

impl Slots {
    pub(super) fn new(bell: Arc<Bell>, config: &ConsumerConfig) -> Self {
        let limits = Limits {
            isolation: config.isolation,
            reset: config.offset_reset,
            records: config.max_poll_records,
            min_bytes: config.fetch_min_bytes.min(config.fetch_max_bytes),
            bytes: config.fetch_max_bytes,
            partition_bytes: config.max_partition_fetch_bytes,
            max_wait: config.fetch_max_wait,
        };
        Slots {
            bell,
            by_name: BTreeMap::new(),
            queue: VecDeque::new(),
            fetch: Fetch::default(),
            limits,
            failed: VecDeque::new(),
            unsettled: false,
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TopicPartition> {
        self.by_name.keys().map(|id| &**id)
    }

    pub(super) fn contains(&self, id: &TopicPartition) -> bool {
        self.by_name.contains_key(id)
    }

    pub(super) fn get(&self, id: &TopicPartition) -> Option<&Slot> {
        self.by_name.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.by_name.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.by_name.values_mut()
    }

    /// Has these from now on, and no others. Those that it had keep their positions.
    pub(super) fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        let mut before = std::mem::take(&mut self.by_name);
        for partition in partitions {
            let (id, slot) = before.remove_entry(&partition).unwrap_or_else(|| {
                let id = Arc::new(partition);
                (Arc::clone(&id), Slot::new(Arc::clone(&id), self.bell.partition_waker(&id)))
            });
            self.unsettled |= slot.source.is_none() || slot.position().is_none();
            self.by_name.insert(id, slot);
        }
        before.into_values().filter_map(|gone| gone.pending).for_each(|part| self.fetch.forget(part));
        self.queue.retain(|id| self.by_name.contains_key(id));
    }

    /// Has nothing, and nothing to say, any more.
    pub(super) fn forget_all(&mut self) {
        self.assign([]);
        self.failed.clear();
        self.unsettled = false;
    }

    /// What was read of it and not handed out is of a topic that is no more.
    pub(super) fn forget_read(&mut self, id: &TopicPartition) {
        if let Some(part) = self.by_name.get_mut(id).and_then(|slot| slot.pending.take()) {
            self.fetch.forget(part);
        }
    }

    /// That position is committed.
    pub(super) fn note_committed(&mut self, id: &TopicPartition, offset: u64) {
        if let Some(slot) = self.by_name.get_mut(id) {
            slot.committed = Some(offset);
        }
    }

    /// The partition, to have its position or state changed: what was read of it in advance is read again.
    pub(super) fn change(&mut self, id: &TopicPartition, change: impl FnOnce(&mut Slot)) -> bool {
        let Some(slot) = self.by_name.get_mut(id) else { return false };
        if let Some(part) = slot.take_back() {
            self.fetch.forget(part);
        }
        change(slot);
        self.unsettled |= slot.position().is_none() && !slot.stopped;
        let id = Arc::clone(&slot.id);
        self.enqueue(&id);
        true
    }

    /// Goes on behind the damage that stopped the partition. Returns the offset there.
    pub(super) fn skip_damage(&mut self, id: &TopicPartition) -> Option<u64> {
        let slot = self.by_name.get_mut(id)?;
        let offset = slot.skip_damage()?;
        let id = Arc::clone(&slot.id);
        self.enqueue(&id);
        Some(offset)
    }

    /// Has it read when its turn comes.
    pub(super) fn enqueue(&mut self, id: &TopicPartition) {
        if let Some(slot) = self.by_name.get_mut(id) {
            if !slot.queued && slot.is_readable() {
                slot.queued = true;
                self.queue.push_back(Arc::clone(&slot.id));
            }
        }
    }

    /// Whether there is something to read without waiting for it.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Reads from those in the queue, each once at most, until the poll is full. Returns whether a position has moved
    /// on by itself, over markers and what was aborted.
    pub(super) fn read(&mut self, now: Duration) -> bool {
        for id in self.bell.take_ready() {
            self.enqueue(&id);
        }
        let elapsed = |started: Duration| now.saturating_sub(started) >= self.limits.max_wait;
        if self.fetch.records == 0 && self.fetch.started.is_none_or(elapsed) {
            self.fetch.started = Some(now);
        }
        let mut moved = false;
        for _ in 0..self.queue.len() {
            let room = self.fetch.room(&self.limits);
            if room.records == 0 || room.bytes == 0 {
                self.fetch.full = true;
                break;
            }
            let Some(id) = self.queue.pop_front() else { break };
            moved |= self.read_one(&id, room);
        }
        moved
    }

    fn read_one(&mut self, id: &Arc<TopicPartition>, mut room: Room) -> bool {
        let Some(slot) = self.by_name.get_mut(id) else { return false };
        slot.queued = false;
        if !slot.is_readable() {
            return false;
        }
        room.bytes = room.bytes.min(self.limits.partition_bytes.max(1));
        let (filled, end) = match slot.read(self.limits.isolation, room) {
            Ok(Some(mut filled)) => {
                let end = std::mem::replace(&mut filled.end, End::Full);
                (Some(filled), end)
            }
            Ok(None) => return false,
            Err(error) => (None, End::Failed(error)),
        };
        let mut moved = false;
        if let Some(filled) = filled {
            let next = filled.next;
            if !self.fetch.add(slot, filled) {
                moved = slot.place != Place::At(next);
                slot.place = Place::At(next);
            }
            self.fetch.full |= self.fetch.records > 0 && matches!(end, End::Full | End::Failed(_));
        }
        match end {
            End::Full | End::Moved => self.enqueue(id),
            End::Waits => {}
            End::Failed(error) => self.fail(id, error),
        }
        moved
    }

    /// Decides how the partition goes on, if it does.
    fn fail(&mut self, id: &Arc<TopicPartition>, error: Error) {
        let Some(slot) = self.by_name.get_mut(id) else { return };
        match error {
            Error::OffsetOutOfRange { .. } if self.limits.reset != OffsetReset::None => {
                slot.seek(Place::Reset(self.limits.reset));
                self.unsettled = true;
                return;
            }
            Error::OffsetOutOfRange { .. } | Error::Corruption { .. } | Error::MissingOffsets { .. } => {
                slot.stopped = true;
            }
            // It may work the next time.
            _ => self.enqueue(id),
        }
        self.failed.push_back(error);
    }

    /// Whether a poll should return now what was read.
    pub(super) fn is_ready(&self, now: Duration) -> bool {
        let fetch = &self.fetch;
        let enough = fetch.full || fetch.bytes >= self.limits.min_bytes;
        fetch.records > 0 && (enough || self.waited_until().is_some_and(|until| until <= now))
    }

    /// Until when more is waited for, if something was read.
    pub(super) fn waited_until(&self) -> Option<Duration> {
        let started = self.fetch.started.filter(|_| self.fetch.records > 0)?;
        Some(started.saturating_add(self.limits.max_wait))
    }

    /// The partitions of which something was read and not handed out, and the positions behind that.
    pub(super) fn pending(&self) -> impl Iterator<Item = (&Slot, u64)> {
        let slots = self.fetch.order.iter().filter_map(|id| self.by_name.get(id));
        slots.filter_map(|slot| Some((slot, slot.pending.as_ref()?.next)))
    }

    /// Hands out what was read. Returns it with its size in bytes.
    pub(super) fn take(&mut self) -> (ConsumerRecords, u64) {
        let fetch = std::mem::take(&mut self.fetch);
        let mut parts = Vec::with_capacity(fetch.order.len());
        for id in &fetch.order {
            let Some(slot) = self.by_name.get_mut(id) else { continue };
            let Some(part) = slot.pending.take() else { continue };
            if let Place::At(offset) = &mut slot.place {
                // It may have been reset since.
                *offset = part.next.max(*offset);
            }
            parts.push(part);
        }
        (ConsumerRecords::new(parts), fetch.bytes)
    }
}

impl Fetch {
    fn room(&self, limits: &Limits) -> Room {
        Room {
            records: limits.records.saturating_sub(self.records),
            bytes: if self.records == 0 {
                limits.bytes.max(1)
            } else {
                limits.bytes.saturating_sub(self.bytes)
            },
        }
    }

    /// Adds what was read of a partition. Returns whether there is something of it to be handed out.
    fn add(&mut self, slot: &mut Slot, filled: Filled) -> bool {
        let Filled { records, bytes, next, .. } = filled;
        self.records += records.len();
        self.bytes += bytes;
        match &mut slot.pending {
            Some(part) => {
                part.records.extend(records);
                part.bytes += bytes;
                part.next = next;
                true
            }
            None if records.is_empty() => false,
            none => {
                self.order.push(Arc::clone(&slot.id));
                *none = Some(Part { partition: Arc::clone(&slot.id), records, bytes, next });
                true
            }
        }
    }

    /// It is not handed out.
    fn forget(&mut self, part: Part) {
        self.records -= part.records.len();
        self.bytes -= part.bytes;
        if self.records == 0 {
            self.order.clear();
            self.full = false;
        }
    }
}
