//! Where a consumer is, moving about, and what partitions hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Consumer;
use super::commit::RETRY_BACKOFF;
use super::config::OffsetReset;
use super::slot::{Place, Slot, readable_end, source_of};
use crate::error::{Error, Result};
use crate::group::OffsetAndMetadata;
use crate::partition::{Isolation, Partition, TimestampOffset};
use crate::topic::StoreHandle;
use crate::types::TopicPartition;

impl Consumer {
    /// Goes on with that offset. One that is not in the log is reset when it is read, as
    /// [`offset_reset`](super::ConsumerConfig::offset_reset) says. No file is read here.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it does not have the partition.
    pub fn seek(&mut self, partition: &TopicPartition, offset: u64) -> Result<()> {
        self.check_assigned("seek", partition)?;
        self.slots.change(partition, |slot| slot.seek(Place::At(offset)));
        self.commits.moved = true;
        Ok(())
    }

    /// Goes on with the first record of each.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it does not have one of them; then none has moved. Otherwise as a partition cannot be
    /// opened.
    pub fn seek_to_beginning<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<()> {
        self.seek_all(partitions, OffsetReset::Earliest)
    }

    /// Goes on with the next record to come of each; for a reader of committed data, with what is not decided yet.
    ///
    /// # Errors
    /// As [`seek_to_beginning`](Self::seek_to_beginning).
    pub fn seek_to_end<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<()> {
        self.seek_all(partitions, OffsetReset::Latest)
    }

    /// Goes back to where the group left off with each, or, where nothing is committed, to where
    /// [`offset_reset`](super::ConsumerConfig::offset_reset) says; with the next poll. After a transaction was aborted,
    /// what was read for it comes again this way.
    ///
    /// # Errors
    /// [`Error::InvalidState`] without a group, or if it does not have one of them; then none has moved.
    pub fn seek_to_committed<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<()> {
        self.membership("seek to what is committed")?;
        let partitions: Vec<&TopicPartition> = partitions.into_iter().collect();
        for partition in &partitions {
            self.check_assigned("seek", partition)?;
        }
        for partition in partitions {
            self.slots.change(partition, |slot| slot.seek(Place::Committed));
        }
        Ok(())
    }

    fn seek_all<'a>(
        &mut self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
        to: OffsetReset,
    ) -> Result<()> {
        let mut found = Vec::new();
        for partition in partitions {
            self.check_assigned("seek", partition)?;
            let source = source_of(&self.store, partition)?;
            found.push((partition, self.settling().reset(&source.partition, to)?));
        }
        for (partition, offset) in found {
            self.slots.change(partition, |slot| slot.seek(Place::At(offset)));
            self.commits.moved = true;
        }
        Ok(())
    }

    /// The offset of the next record that it returns of the partition. Found out if it is not known yet: what the
    /// group has committed, or else by [`offset_reset`](super::ConsumerConfig::offset_reset).
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it does not have the partition; [`Error::NoOffset`] if nobody says where to begin;
    /// otherwise as the partition cannot be opened, or the group asked.
    pub fn position(&mut self, partition: &TopicPartition) -> Result<u64> {
        let slot = self.check_assigned("tell the position", partition)?;
        if let Some(position) = slot.position() {
            return Ok(position);
        }
        let place = slot.place;
        let source = source_of(&self.store, partition)?;
        let committed = match place {
            Place::Committed => self.committed_of(std::slice::from_ref(partition))?,
            _ => BTreeMap::new(),
        };
        let offset = self.settling().begin(&source.partition, place, committed.get(partition))?;
        self.slots.change(partition, |slot| {
            slot.seek(Place::At(offset));
            slot.source = Some(source);
        });
        Ok(offset)
    }

    /// Returns no records of these until they are [resumed](Self::resume). Positions stay. A rebalance that takes a
    /// partition away and brings it back forgets that it was paused.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it does not have one of them; then none is paused.
    pub fn pause<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<()> {
        self.set_paused("pause", partitions, true)
    }

    /// Goes on with what was paused.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it does not have one of them; then none is resumed.
    pub fn resume<'a>(&mut self, partitions: impl IntoIterator<Item = &'a TopicPartition>) -> Result<()> {
        self.set_paused("resume", partitions, false)
    }

    fn set_paused<'a>(
        &mut self,
        action: &'static str,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
        paused: bool,
    ) -> Result<()> {
        let partitions: Vec<&TopicPartition> = partitions.into_iter().collect();
        for partition in &partitions {
            self.check_assigned(action, partition)?;
        }
        for partition in partitions {
            self.slots.change(partition, |slot| slot.paused = paused);
        }
        Ok(())
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> BTreeSet<TopicPartition> {
        let paused = self.slots.iter().filter(|slot| slot.paused);
        paused.map(|slot| (*slot.id).clone()).collect()
    }

    /// The partitions that have told why they cannot go on, and wait for a [`seek`](Self::seek).
    pub fn stopped(&self) -> BTreeSet<TopicPartition> {
        let stopped = self.slots.iter().filter(|slot| slot.stopped);
        stopped.map(|slot| (*slot.id).clone()).collect()
    }

    /// After a poll failed because the partition's log is damaged: goes on behind the damage, with the first record
    /// that can be read. Returns its offset; `None` if no damage has stopped it. What is skipped is lost to the group
    /// once a later position is committed.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it does not have the partition.
    pub fn skip_damage(&mut self, partition: &TopicPartition) -> Result<Option<u64>> {
        self.check_assigned("skip damage", partition)?;
        Ok(self.slots.skip_damage(partition))
    }

    /// The first offset of each, whether or not the consumer has them. Asks no file.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`], or as a partition cannot be opened.
    pub fn beginning_offsets<'a>(
        &self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, u64>> {
        self.of_each(partitions, |partition| Ok(partition.log_start()))
    }

    /// The offset behind the last record that it could get of each (for a reader of committed data, the last stable
    /// offset), whether or not it has them. Asks no file.
    ///
    /// # Errors
    /// As [`beginning_offsets`](Self::beginning_offsets).
    pub fn end_offsets<'a>(
        &self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, u64>> {
        self.of_each(partitions, |partition| Ok(readable_end(partition, self.config.isolation)))
    }

    /// The first record of each whose timestamp is that one or later, in milliseconds since the epoch; `None` where
    /// there is none. Reads a few batches of each.
    ///
    /// # Errors
    /// As [`beginning_offsets`](Self::beginning_offsets), and as
    /// [`Partition::offset_for_timestamp`](crate::Partition::offset_for_timestamp).
    pub fn offsets_for_times<'a>(
        &self,
        times: impl IntoIterator<Item = (&'a TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, Option<TimestampOffset>>> {
        let settling = self.settling();
        let find = |(id, time): (&TopicPartition, i64)| {
            let source = source_of(&self.store, id)?;
            Ok((id.clone(), settling.first_since(&source.partition, time)?))
        };
        times.into_iter().map(find).collect()
    }

    fn of_each<'a, T>(
        &self,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
        what: impl Fn(&Partition) -> Result<T>,
    ) -> Result<BTreeMap<TopicPartition, T>> {
        let find = |id: &TopicPartition| Ok((id.clone(), what(&source_of(&self.store, id)?.partition)?));
        partitions.into_iter().map(find).collect()
    }

    /// How far its position is from the end, in offsets; `None` before the position is known. Costs nothing: two
    /// numbers are compared. Where offsets are missing (markers of transactions, compaction) it is more than the
    /// records that are left.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if it does not have the partition.
    pub fn lag(&self, partition: &TopicPartition) -> Result<Option<u64>> {
        Ok(self.check_assigned("tell the lag", partition)?.lag(self.config.isolation))
    }

    /// How many records are left between its position and the end. Exact, and it reads them all to count them: for
    /// tests and tools. [`lag`](Self::lag) costs nothing.
    ///
    /// # Errors
    /// As [`position`](Self::position), and as they cannot be read.
    pub fn records_left(&mut self, partition: &TopicPartition) -> Result<u64> {
        let position = self.position(partition)?;
        let source = source_of(&self.store, partition)?;
        let mut count = 0;
        for record in source.partition.read_from_with(position, self.config.isolation)? {
            record?;
            count += 1;
        }
        Ok(count)
    }

    pub(super) fn check_assigned(&self, action: &'static str, partition: &TopicPartition) -> Result<&Slot> {
        self.slots.get(partition).ok_or_else(|| {
            let reason = format!("{partition} is not assigned to this consumer");
            Error::InvalidState { action, reason }
        })
    }

    fn settling(&self) -> Settling<'_> {
        Settling { store: &self.store, reset: self.config.offset_reset, isolation: self.config.isolation }
    }

    /// Looks up partitions that were not, and finds out where to begin with those whose position is not known. What
    /// one of them has against it is told by the poll.
    ///
    /// # Errors
    /// As the group cannot be asked.
    pub(super) fn settle(&mut self, now: Duration) -> Result<()> {
        if !self.slots.unsettled || now < self.settle_at {
            return Ok(());
        }
        let mut again = false;
        let mut failed = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| slot.source.is_none()) {
            if let Err(error) = slot.find_source(&self.store) {
                failed.push(error);
                again = true;
            }
        }
        let waits = |slot: &&Slot| slot.source.is_some() && slot.position().is_none() && !slot.stopped;
        let of_group = self.slots.iter().filter(waits).filter(|slot| slot.place == Place::Committed);
        let of_group: Vec<TopicPartition> = of_group.map(|slot| (*slot.id).clone()).collect();
        let committed = match self.committed_of(&of_group) {
            Err(Error::UnstableOffsets { .. }) => {
                // Decided before long, and nobody tells when.
                again = true;
                None
            }
            committed => Some(committed?),
        };
        let settling = Settling {
            store: &self.store,
            reset: self.config.offset_reset,
            isolation: self.config.isolation,
        };
        let mut readable = Vec::new();
        for slot in self.slots.iter_mut() {
            let known = match &committed {
                Some(committed) => committed.get(&*slot.id),
                None if slot.place == Place::Committed => continue,
                None => None,
            };
            match settling.settle(slot, known) {
                Ok(true) => self.commits.moved |= known.is_none(),
                Ok(false) => {}
                Err(error) => {
                    slot.stopped = matches!(error, Error::NoOffset { .. });
                    again |= !slot.stopped;
                    failed.push(error);
                }
            }
            if slot.is_readable() && !slot.queued {
                readable.push(Arc::clone(&slot.id));
            }
        }
        readable.iter().for_each(|id| self.slots.enqueue(id));
        self.slots.failed.extend(failed);
        self.slots.unsettled = again;
        if again {
            // Meanwhile the others go on.
            self.settle_at = now.saturating_add(RETRY_BACKOFF);
        }
        Ok(())
    }
}

impl Slot {
    /// How far the position is from the end, in offsets.
    pub(super) fn lag(&self, isolation: Isolation) -> Option<u64> {
        let (source, position) = (self.source.as_ref()?, self.position()?);
        Some(readable_end(&source.partition, isolation).saturating_sub(position))
    }
}

/// How to find out where to begin.
#[derive(Clone, Copy)]
struct Settling<'a> {
    store: &'a StoreHandle,
    reset: OffsetReset,
    isolation: Isolation,
}

impl Settling<'_> {
    /// Finds out where to begin with a partition, if it is there and that is not known. Returns whether it did.
    fn settle(self, slot: &mut Slot, committed: Option<&OffsetAndMetadata>) -> Result<bool> {
        let Some(source) = slot.source.as_ref().filter(|_| slot.position().is_none() && !slot.stopped) else {
            return Ok(false);
        };
        let offset = self.begin(&source.partition, slot.place, committed)?;
        slot.seek(Place::At(offset));
        slot.committed = committed.map(|committed| committed.offset);
        Ok(true)
    }

    fn begin(
        self,
        partition: &Partition,
        place: Place,
        committed: Option<&OffsetAndMetadata>,
    ) -> Result<u64> {
        match (place, committed) {
            (Place::At(offset), _) => Ok(offset),
            (Place::Committed, Some(committed)) => Ok(committed.offset),
            (Place::Committed, None) => self.reset(partition, self.reset),
            (Place::Reset(reset), _) => self.reset(partition, reset),
        }
    }

    fn reset(self, partition: &Partition, reset: OffsetReset) -> Result<u64> {
        let end = readable_end(partition, self.isolation);
        Ok(match reset {
            OffsetReset::Earliest => partition.log_start(),
            OffsetReset::Latest => end,
            OffsetReset::ByDuration(age) => {
                let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                let since = self.store.clock().now().saturating_sub(age);
                self.first_since(partition, since)?.map_or(end, |found| found.offset)
            }
            OffsetReset::None => return Err(Error::NoOffset { partition: partition.id().to_string() }),
        })
    }

    /// As Kafka does, only what can be read is found.
    fn first_since(self, partition: &Partition, time: i64) -> Result<Option<TimestampOffset>> {
        let end = readable_end(partition, self.isolation);
        Ok(partition.offset_for_timestamp(time)?.filter(|found| found.offset < end))
    }
}
