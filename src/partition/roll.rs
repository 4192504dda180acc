//! When a segment is full, and what sealing it means.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Log, LogConfig, Mark, PartitionCheckpoint, Writer};
use crate::error::Result;
use crate::format::{LeaderEpochs, TimeIndexEntry};
use crate::fs::{replace_file, sync_dir};
use crate::observe;
use crate::storage::ActiveSegment;

/// Where the leader epochs are kept (Kafka's `LeaderEpochCheckpointFile`).
pub(super) const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";

/// The longest span of offsets in one segment; an index entry holds the difference in 31 bits.
pub(super) const OFFSET_SPAN_MAX: u64 = i32::MAX as u64;

/// How much is appended between two checkpoints, and so how much a recovery has to read at most, in bytes.
const CHECKPOINT_BYTES: u64 = 32 << 20;

impl Log {
    /// Begins a new segment if the next batch does not belong into the active one.
    pub(super) fn roll_if_full(
        &self,
        writer: &mut Writer,
        config: &LogConfig,
        size: u64,
        last_offset: u64,
        timestamp: i64,
        now: i64,
    ) -> Result<()> {
        let first_offset = writer.next_offset;
        self.roll_if_full_at(writer, config, first_offset, size, last_offset, timestamp, now)
    }

    /// Begins a new segment if a batch of these offsets does not belong into the active one (Kafka's
    /// `LogSegment.shouldRoll`).
    #[expect(clippy::too_many_arguments, reason = "what a batch is, as far as rolling asks")]
    pub(super) fn roll_if_full_at(
        &self,
        writer: &mut Writer,
        config: &LogConfig,
        first_offset: u64,
        size: u64,
        last_offset: u64,
        timestamp: i64,
        now: i64,
    ) -> Result<()> {
        let active = &mut writer.active;
        let out_of_span = last_offset - active.base_offset() > OFFSET_SPAN_MAX;
        if out_of_span && first_offset > active.base_offset() {
            return self.roll(writer, first_offset);
        }
        let full = active.position() + size > u64::from(config.segment_bytes)
            || active.index_bytes() + TimeIndexEntry::SIZE as u64 > u64::from(config.segment_index_bytes);
        let old = |active: &mut ActiveSegment| {
            let jitter = roll_jitter(self.roll_seed, active.base_offset(), config);
            active.age(timestamp, now) > config.segment_age_max().saturating_sub(jitter)
        };
        if active.position() == 0 || !(full || old(active)) {
            return Ok(());
        }
        self.roll(writer, first_offset)
    }

    /// Begins a new segment now.
    pub(super) fn roll_now(&self) -> Result<()> {
        {
            let mut writer = self.ready_writer()?;
            if writer.active.position() == 0 {
                return Ok(());
            }
            let base = writer.next_offset;
            self.roll(&mut writer, base).inspect_err(|error| writer.refuse_or_poison(&self.id, error))?;
            writer.rolled = false;
        }
        self.keep_up(true, 0);
        Ok(())
    }

    /// Seals the active segment and begins one at `base`. Nothing has changed if the new file cannot be created.
    pub(super) fn roll(&self, writer: &mut Writer, base: u64) -> Result<()> {
        let config = self.config.load();
        let now = self.clock.now();
        if writer.created > writer.created_synced {
            // No crash may leave a segment without those before it: where a log begins tells where it starts.
            sync_dir(self.fs(), self.directory())?;
            writer.created_synced = writer.created;
        }
        writer.active.settle_end()?;
        let next = ActiveSegment::create(
            &self.pool,
            self.directory(),
            base,
            config.index_interval_bytes.into(),
            now,
        )?;
        writer.created += 1;
        let full = std::mem::replace(&mut writer.active, next);
        let size = full.position();
        let sealed = full.seal();
        let mut segments = Vec::clone(&self.segments.load());
        segments.pop();
        segments.push(Arc::clone(&sealed));
        segments.push(Arc::clone(writer.active.segment()));
        self.segments.store(Arc::new(segments));
        writer.rolled = true;
        self.snapshots.keep(base, &writer.producers);
        writer.unsynced.push((Arc::clone(&sealed), size));
        writer.unindexed.push(sealed);
        observe::segment_rolled(&self.id, base);
        Ok(())
    }

    /// What is left to do after a roll, or after many bytes: sync what was sealed, write its indexes, and write
    /// down how far the log is safe. Done by the appender that caused it, without the writer lock.
    pub(super) fn keep_up(&self, rolled: bool, bytes: u64) {
        let pending = self.bytes_since_checkpoint.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let synced = if rolled { self.sync_written().is_ok() } else { self.is_synced() };
        // A sync that failed has poisoned the partition; the append that came before it is none the worse.
        if !synced || !rolled && pending < CHECKPOINT_BYTES {
            return;
        }
        // Somebody else is at it: what came meanwhile is for the next time.
        let Some(_one_at_a_time) = self.upkeep.try_lock() else { return };
        self.bytes_since_checkpoint.store(0, Ordering::Relaxed);
        // If one of them fails, nothing appended is in danger: the old checkpoint stands, a recovery reads a
        // little more, and the next roll tries again. Closing and `Store::flush` report what still fails.
        let _ = self.persist_indexes_held(false).and_then(|()| self.surroundings.checkpoint());
    }

    fn is_synced(&self) -> bool {
        self.recovery_point.load(Ordering::Acquire) == self.log_end.load(Ordering::Acquire)
    }

    /// Writes the indexes that are only in memory to their files.
    ///
    /// Once the partition is being closed only the closing itself may: the directory may be another's the moment
    /// after.
    pub(super) fn persist_indexes(&self, closing: bool) -> Result<()> {
        let _one_at_a_time = self.upkeep.lock();
        self.persist_indexes_held(closing)
    }

    fn persist_indexes_held(&self, closing: bool) -> Result<()> {
        let (unindexed, active) = {
            let writer = self.writer.lock();
            if !closing && writer.is_over() {
                return Ok(());
            }
            self.marks.lock().begin_saving();
            self.note_snapshot(&writer);
            (writer.unindexed.clone(), Arc::clone(writer.active.segment()))
        };
        for segment in unindexed {
            segment.write_indexes()?;
            segment.write_append_time()?;
            // From now on they are read from there when they are needed: memory must not grow with the log.
            segment.adopt(None);
            self.writer.lock().unindexed.retain(|kept| !Arc::ptr_eq(kept, &segment));
        }
        for segment in self.segments.load().iter() {
            segment.write_rebuilt_indexes()?;
            segment.write_aborted()?;
        }
        active.write_grown_indexes()?;
        if closing {
            active.write_append_time()?;
        }
        self.write_snapshots()?;
        self.write_epochs()?;
        self.marks.lock().saving = None;
        Ok(())
    }

    /// Takes note of what is known of producers at the end, to be written.
    pub(super) fn note_snapshot(&self, writer: &Writer) {
        let end = writer.next_offset;
        if !self.snapshots.has(end) {
            self.snapshots.keep(end, &writer.producers);
        }
    }

    /// Writes what was known of producers where segments begin, and at the end. By the holder of `upkeep`, without
    /// which the log is not cut.
    pub(super) fn write_snapshots(&self) -> Result<()> {
        self.snapshots.write_waiting(self.fs(), self.directory())?;
        self.tidy_snapshots()
    }

    pub(super) fn tidy_snapshots(&self) -> Result<()> {
        let bases: Vec<u64> = self.segments.load().iter().map(|segment| segment.base_offset()).collect();
        let log_start = self.log_start.load(Ordering::Acquire);
        // From where the next opening would go on, and so what it would ask for; it drops what lies below the start.
        let first = bases.iter().rev().find(|base| **base <= log_start).copied();
        let durable = self.marks.lock().recoverable().durable.offset.max(first.unwrap_or(0));
        self.snapshots.tidy(self.fs(), self.directory(), log_start, &bases, durable)
    }

    /// Writes the leader epochs to their file, if it does not have them.
    pub(super) fn write_epochs(&self) -> Result<()> {
        let _one_at_a_time = self.saving_epochs.lock();
        let Some(epochs) = self.epochs.lock().to_save() else { return Ok(()) };
        let text = epochs.encode();
        replace_file(self.fs(), &self.directory().join(LEADER_EPOCHS), text.as_bytes())?;
        self.marks.lock().epochs_checksum = checksum_of(&epochs);
        self.epochs.lock().saved(&epochs);
        Ok(())
    }

    /// How far the log is known to be safe; nothing of a log that is deleted.
    pub(super) fn checkpoint(&self) -> Option<PartitionCheckpoint> {
        let log_start = self.log_start.load(Ordering::Acquire);
        let marks = *self.marks.lock();
        let Mark { durable, producers } = marks.recoverable();
        // Not beyond the recovery point, below which no opening finds the log to end: one that was lowered to an
        // earlier end, and not written down, would come back as the log grows again.
        let high_watermark = self.held_watermark().map(|held| held.min(durable.offset).max(log_start));
        (!marks.deleted).then_some(PartitionCheckpoint {
            log_start: Some(log_start),
            recovery_point: durable.offset,
            place: Some((durable.segment, durable.position)),
            high_watermark,
            first_dirty: marks.first_dirty,
            accepted: marks.accepted,
            epochs_checksum: Some(marks.epochs_checksum),
            producers,
            clean: false,
        })
    }
}

/// What is written down of the leader-epoch file, so that a changed one is noticed.
pub(super) fn checksum_of(epochs: &LeaderEpochs) -> u32 {
    crc32fast::hash(epochs.encode().as_bytes())
}

impl LogConfig {
    /// The age at which a segment is rolled: what is to be compacted in time must be sealed in time.
    fn segment_age_max(&self) -> i64 {
        if self.cleanup_policy.compact {
            self.segment_ms.min(self.max_compaction_lag_ms)
        } else {
            self.segment_ms
        }
    }
}

/// A share of the jitter for one segment: partitions made at the same time must not all roll at the same time.
fn roll_jitter(seed: u64, base_offset: u64, config: &LogConfig) -> i64 {
    let jitter = config.segment_jitter_ms.min(config.segment_ms);
    if jitter <= 0 {
        return 0;
    }
    let mixed = (base_offset ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 16) % jitter as u64) as i64
}
