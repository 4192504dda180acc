//! When a segment is full, and what sealing it means.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{DurableMark, Log, LogConfig, PartitionCheckpoint, State, Writer};
use crate::error::Result;
use crate::format::TimeIndexEntry;
use crate::storage::ActiveSegment;

/// The longest span of offsets in one segment; an index entry holds the difference in 31 bits.
const OFFSET_SPAN_MAX: u64 = i32::MAX as u64;

/// How much is appended between two checkpoints, and so how much a recovery has to read at most, in bytes.
const CHECKPOINT_BYTES: u64 = 32 << 20;

impl Log {
    /// Begins a new segment if the batch does not belong into the active one (Kafka's `LogSegment.shouldRoll`).
    pub(super) fn roll_if_full(
        &self,
        writer: &mut Writer,
        config: &LogConfig,
        size: u64,
        last_offset: u64,
        timestamp: i64,
        now: i64,
    ) -> Result<()> {
        let active = &mut writer.active;
        let full = active.position() + size > u64::from(config.segment_bytes)
            || last_offset - active.base_offset() > OFFSET_SPAN_MAX
            || active.index_bytes() + TimeIndexEntry::SIZE as u64 > u64::from(config.segment_index_bytes);
        let old = |active: &mut ActiveSegment| {
            let jitter = roll_jitter(self.roll_seed, active.base_offset(), config);
            active.age(timestamp, now) > config.segment_ms.saturating_sub(jitter)
        };
        if active.position() == 0 || !(full || old(active)) {
            return Ok(());
        }
        let base = writer.next_offset;
        self.roll(writer, base)
    }

    /// Seals the active segment and begins one at `base`. Nothing has changed if the new file cannot be created.
    pub(super) fn roll(&self, writer: &mut Writer, base: u64) -> Result<()> {
        let config = self.config.load();
        let now = self.clock.now();
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
        writer.unsynced.push((Arc::clone(&sealed), size));
        writer.unindexed.push(sealed);
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
        let _ = self.persist_indexes_held(false).and_then(|()| self.checkpoints.checkpoint());
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
        let unindexed = {
            let writer = self.writer.lock();
            if !closing && matches!(writer.state, State::Closed | State::Deleted) {
                return Ok(());
            }
            writer.unindexed.clone()
        };
        for segment in unindexed {
            segment.write_indexes()?;
            // From now on they are read from there when they are needed: memory must not grow with the log.
            segment.adopt(None);
            self.writer.lock().unindexed.retain(|kept| !Arc::ptr_eq(kept, &segment));
        }
        for segment in self.segments.load().iter() {
            segment.write_rebuilt_indexes()?;
        }
        let active = Arc::clone(self.writer.lock().active.segment());
        active.write_grown_indexes()
    }

    /// How far the log is known to be safe; nothing of a log that is deleted.
    pub(super) fn checkpoint(&self) -> Option<PartitionCheckpoint> {
        let writer = self.writer.lock();
        let DurableMark { offset, segment, position } = writer.durable;
        (!matches!(writer.state, State::Deleted)).then(|| PartitionCheckpoint {
            log_start: Some(self.log_start.load(Ordering::Acquire)),
            recovery_point: offset,
            place: Some((segment, position)),
            clean: false,
        })
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
