//! Taking back the end of a log (Kafka's `UnifiedLog.truncateTo`, `truncateFullyAndStartAt`): for followers whose
//! log parts from their leader's.
//!
//! What must never happen is that the next opening misses what was cut: so the recovery point is lowered and
//! written down before anything is touched. Segments go from the last to the first, each durably, so that a crash in
//! the middle leaves a beginning of what was there. What was deleted has lost its names before: the log may come to
//! begin below it. Readers see the log end go back before any byte does, and find
//! their place again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::snapshots::Stretch;
use super::{DurableMark, Log, Partition, Writer};
use crate::error::Result;
use crate::fs::sync_dir;
use crate::observe;
use crate::storage::{
    ActiveSegment, BatchReader, Indexes, Segment, TransactionIndex, Unreadable, find_batch_before,
    remove_indexes,
};

impl Partition {
    /// Takes back everything from `offset` on; the next record gets that offset. A batch that holds it goes as a
    /// whole. Returns whether anything was taken back.
    ///
    /// What others may have relied on is taken from them: this is for followers of a replicated log, as their
    /// protocol says. The high watermark, what is known of producers and the leader epochs go back, too.
    ///
    /// # Errors
    /// As the system calls fail; the partition may then be poisoned, and [`reopen`](Self::reopen) brings it back.
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Closed`](crate::Error::Closed),
    /// [`Error::Damaged`](crate::Error::Damaged), [`Error::Poisoned`](crate::Error::Poisoned).
    pub fn truncate_to(&self, offset: u64) -> Result<bool> {
        self.log.truncate_to(offset)
    }

    /// Drops the whole log and begins anew at `offset`: for a follower so far behind that its leader does not have
    /// what comes next. The log start becomes `log_start` if given, which may lie above `offset`, inside of the
    /// first batch to come.
    ///
    /// # Errors
    /// As [`truncate_to`](Self::truncate_to).
    pub fn truncate_fully_and_start_at(&self, offset: u64, log_start: Option<u64>) -> Result<()> {
        self.log.truncate_fully(offset, log_start)
    }

    /// How many truncations were begun. What is appended after one was is not taken back by it.
    pub(crate) fn truncations(&self) -> u64 {
        // Beginnings and ends are counted, one at a time.
        self.log.truncations.load(Ordering::SeqCst).div_ceil(2)
    }
}

/// What a partition is poisoned by that was truncated halfway.
pub(super) const TRUNCATION: &str = "a truncation";

/// Keeps compaction from running while it is held.
pub(super) struct NoCompaction<'a> {
    log: &'a Log,
    _held: parking_lot::MutexGuard<'a, ()>,
}

impl Drop for NoCompaction<'_> {
    fn drop(&mut self) {
        self.log.compaction_stop.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A truncation under way.
struct Truncating<'a>(&'a Log);

impl Drop for Truncating<'_> {
    fn drop(&mut self) {
        self.0.truncations.fetch_add(1, Ordering::SeqCst);
    }
}

impl Log {
    /// Has a compaction under way give up, and keeps others from beginning.
    pub(super) fn pause_compaction(&self) -> NoCompaction<'_> {
        self.compaction_stop.fetch_add(1, Ordering::AcqRel);
        NoCompaction { log: self, _held: self.compacting.lock() }
    }

    fn truncate_to(&self, offset: u64) -> Result<bool> {
        if let Some(done) = self.try_truncate_to(offset)? {
            return Ok(done);
        }
        // Part of a batch was to be kept, and it goes as a whole: the next record follows behind a gap. Not under
        // the lock of the writer: the store around it has locks of its own.
        self.allow_gaps()?;
        self.try_truncate_to(offset).map(Option::unwrap_or_default)
    }

    /// Returns `None` if a gap would remain that is not allowed yet.
    fn try_truncate_to(&self, offset: u64) -> Result<Option<bool>> {
        let _no_compaction = self.pause_compaction();
        self.finish_swap()?;
        let _upkeep = self.upkeep.lock();
        let _no_sync = self.commit.hold();
        let mut writer = self.writer.lock();
        writer.check(&self.id)?;
        self.retire_deleted(&[])?;
        if offset >= writer.next_offset {
            let mut epochs = self.epochs.lock();
            epochs.truncate_from_end(writer.next_offset);
            writer.noted_epoch = epochs.latest();
            return Ok(Some(false));
        }
        let segments = self.segments.load_full();
        let kept = segments.partition_point(|segment| segment.base_offset() <= offset);
        let Some(target) = kept.checked_sub(1).and_then(|at| segments.get(at)) else {
            self.begin_at(&mut writer, offset, None)?;
            return Ok(Some(true));
        };
        let (position, end) =
            position_of(target, offset, writer.end_of(target), self.log_start.load(Ordering::Acquire))?;
        if end < offset && self.dense() {
            return Ok(None);
        }
        self.cut_at(
            &mut writer,
            &segments,
            kept,
            DurableMark { offset: end, segment: target.base_offset(), position },
            offset,
        )?;
        Ok(Some(true))
    }

    pub(super) fn truncate_fully(&self, offset: u64, log_start: Option<u64>) -> Result<()> {
        if log_start.is_some_and(|start| start > offset) {
            self.allow_gaps()?;
        }
        let _no_compaction = self.pause_compaction();
        self.finish_swap()?;
        let _upkeep = self.upkeep.lock();
        let _no_sync = self.commit.hold();
        let mut writer = self.writer.lock();
        writer.check(&self.id)?;
        self.retire_deleted(&[])?;
        self.begin_at(&mut writer, offset, log_start)
    }

    /// Cuts `segments` so that the first `kept` stay, the last of them up to a place.
    ///
    /// All that readers and appends look at is changed first: if the disk fails in the middle, it is in order, and
    /// reopening does the rest.
    fn cut_at(
        &self,
        writer: &mut Writer,
        segments: &[Arc<Segment>],
        kept: usize,
        place: DurableMark,
        offset: u64,
    ) -> Result<()> {
        let (kept, gone) = segments.split_at(kept);
        let Some((target, before)) = kept.split_last() else { return Ok(()) };
        let (end, position) = (place.offset, place.position);
        // Where they cannot be cut, the log itself is asked, as after a crash.
        let indexes = match position {
            0 => Some(Arc::new(Indexes::empty(target.base_offset()))),
            // Behind a gap, a time is noted under an offset before it: a cut between the two would keep it.
            _ if !self.dense() => None,
            _ => self.cut_indexes(target, end, position),
        };
        self.aborted_in(target)?;
        self.lower_marks(place)?;
        let _truncating = self.truncating();
        self.take_back(offset);
        target.log().take_back(position);
        // Whoever is reading them must not go on when others get their offsets.
        gone.iter().for_each(|segment| segment.log().take_back(0));
        // The segments that go are not to be synced or indexed any more.
        let stays = |segment: &Arc<Segment>| before.iter().any(|kept| Arc::ptr_eq(kept, segment));
        writer.unsynced.retain(|(segment, _)| stays(segment));
        writer.unindexed.retain(stays);
        let interval = self.config.load().index_interval_bytes.into();
        let log = Arc::clone(target.log());
        let now = self.clock.now();
        let active = ActiveSegment::reopen(log, self.directory(), interval, indexes, now);
        self.cut_aborted(target, offset)?;
        active.segment().take_aborted(target);
        let mut list = before.to_vec();
        list.push(Arc::clone(active.segment()));
        writer.active = active;
        writer.next_offset = offset;
        self.segments.store(Arc::new(list));
        writer.unretired.extend(gone.iter().rev().cloned());
        let done = self.retire_rest(writer).and_then(|()| {
            // They tell of what is cut, and could be taken for those of what comes next.
            remove_indexes(self.fs(), self.directory(), target.base_offset())?;
            sync_dir(self.fs(), self.directory())?;
            target.log().cut(position)?;
            target.log().file().sync()?;
            // What was aborted behind the cut must not come back for what gets its offsets.
            writer.active.segment().write_aborted()
        });
        self.finish_truncation(writer, offset, done)
    }

    /// The entries of a segment's indexes up to where it is cut.
    fn cut_indexes(&self, segment: &Segment, offset: u64, position: u64) -> Option<Arc<Indexes>> {
        let interval = self.config.load().index_interval_bytes.into();
        let known = segment.indexes().ok()?;
        let cut = known.cut_to(segment.log(), offset, position, interval);
        cut.ok().map(Arc::new)
    }

    /// Drops all segments and begins one at `offset`.
    ///
    /// In two steps, each of which leaves something whole: the log is emptied, down to its first segment; then that
    /// one makes way for the new one, once it is written down where the log starts.
    fn begin_at(&self, writer: &mut Writer, offset: u64, log_start: Option<u64>) -> Result<()> {
        let segments = self.segments.load_full();
        let Some((first, rest)) = segments.split_first() else { return Ok(()) };
        let old_start = self.log_start.load(Ordering::Acquire);
        let lowest = old_start.min(offset);
        self.lower_marks(DurableMark { offset: lowest, segment: lowest, position: 0 })?;
        let _truncating = self.truncating();
        self.lower_watermark(old_start.min(offset));
        self.lower_saved_start(offset);
        self.log_end.store(old_start, Ordering::SeqCst);
        segments.iter().for_each(|segment| segment.log().take_back(0));
        writer.unsynced.clear();
        writer.unindexed.clear();
        self.snapshots.forget_waiting();
        let interval = self.config.load().index_interval_bytes.into();
        let indexes = Some(Arc::new(Indexes::empty(first.base_offset())));
        let log = Arc::clone(first.log());
        let aborted = self.aborted_in(first).map_or(true, |aborted| !aborted.entries().is_empty());
        writer.active = ActiveSegment::reopen(log, self.directory(), interval, indexes, self.clock.now());
        writer.active.segment().set_aborted(TransactionIndex::new(), aborted);
        writer.next_offset = old_start;
        self.segments.store(Arc::new(vec![Arc::clone(writer.active.segment())]));
        self.epochs.lock().clear();
        writer.unretired.extend(rest.iter().rev().cloned());
        let start = log_start.unwrap_or(offset).max(offset);
        let done = self.empty_out(writer, first).and_then(|()| self.move_start(writer, first, offset, start));
        self.finish_truncation(writer, start, done)
    }

    /// Takes everything from the disk but the name of the first segment.
    fn empty_out(&self, writer: &mut Writer, first: &Segment) -> Result<()> {
        self.retire_rest(writer)?;
        // They tell of what is cut, and could be taken for those of what comes next.
        remove_indexes(self.fs(), self.directory(), first.base_offset())?;
        sync_dir(self.fs(), self.directory())?;
        first.log().cut(0)?;
        first.log().file().sync()?;
        writer.active.segment().write_aborted()?;
        self.snapshots.remove_all(self.fs(), self.directory())?;
        self.write_epochs()
    }

    /// Puts a segment at `base` in the place of the first one, which is empty.
    fn move_start(&self, writer: &mut Writer, first: &Arc<Segment>, base: u64, start: u64) -> Result<()> {
        let moves = base != first.base_offset();
        let interval = self.config.load().index_interval_bytes.into();
        let now = self.clock.now();
        let create = || ActiveSegment::create(&self.pool, self.directory(), base, interval, now);
        let next = if moves { Some(create()?) } else { None };
        sync_dir(self.fs(), self.directory())?;
        if let Some(next) = next {
            writer.active = next;
            writer.unretired.push(Arc::clone(first));
        }
        // In this order no reader finds the log to reach where no segment does.
        self.log_end.fetch_min(start, Ordering::SeqCst);
        self.log_start.fetch_max(start, Ordering::AcqRel);
        self.segments.store(Arc::new(vec![Arc::clone(writer.active.segment())]));
        self.log_start.store(start, Ordering::Release);
        self.log_end.store(start, Ordering::SeqCst);
        self.reset_watermark(start);
        writer.next_offset = start;
        {
            let mut marks = self.marks.lock();
            marks.now.durable = DurableMark { offset: start, segment: base, position: 0 };
            // What there was to be saved went with the log.
            (marks.unsaved, marks.saving) = (None, None);
        }
        self.recovery_point.store(start, Ordering::Release);
        if moves {
            // Before the old one goes: that it is missing is no loss then.
            self.write_start()?;
        }
        self.retire_rest(writer)
    }

    /// Gives the files of segments that were cut off other names, from the last to the first, each durably.
    pub(super) fn retire_rest(&self, writer: &mut Writer) -> Result<()> {
        while let Some(segment) = writer.unretired.first().cloned() {
            self.retire(&[segment], true)?;
            writer.unretired.remove(0);
        }
        Ok(())
    }

    /// Before anything is cut, the next opening must not expect it.
    fn lower_marks(&self, mark: DurableMark) -> Result<()> {
        let before = *self.marks.lock();
        self.marks.lock().lower(mark);
        self.surroundings.checkpoint().inspect_err(|_| *self.marks.lock() = before)?;
        self.recovery_point.fetch_min(mark.offset, Ordering::AcqRel);
        Ok(())
    }

    /// Lets readers have no more than what lies below `offset`.
    fn take_back(&self, offset: u64) {
        self.lower_watermark(offset);
        self.log_end.store(offset, Ordering::SeqCst);
        let log_start = self.log_start.load(Ordering::Acquire);
        self.log_start.store(log_start.min(offset), Ordering::Release);
        self.lower_saved_start(offset);
    }

    /// Tells readers that what they meet may be what is being cut.
    fn truncating(&self) -> Truncating<'_> {
        self.truncations.fetch_add(1, Ordering::SeqCst);
        Truncating(self)
    }

    /// Brings what is known of producers and leaders to the new end, and begins another life there. A failure in the
    /// middle poisons: reopening goes back to what readers have.
    fn finish_truncation(&self, writer: &mut Writer, offset: u64, done: Result<()>) -> Result<()> {
        let done = done.and_then(|()| {
            writer.next_offset = offset;
            self.log_end.store(offset, Ordering::SeqCst);
            self.snapshots.cut(self.fs(), self.directory(), offset)?;
            sync_dir(self.fs(), self.directory())?;
            self.epochs.lock().truncate_from_end(offset);
            writer.noted_epoch = None;
            self.rebuild_producers(writer, offset)?;
            self.write_epochs()?;
            // Where the log is and where it was are both written down; the latter is only a lower bound. But where it
            // starts must be there before anything is appended below where it started.
            self.surroundings.checkpoint()
        });
        if let Err(error) = done {
            writer.poison(&self.id, TRUNCATION, &error);
            return Err(error);
        }
        writer.created_synced = writer.created;
        writer.life += 1;
        observe::truncated(&self.id, offset);
        let durable = self.marks.lock().now.durable.offset.min(offset);
        self.commit.begin_life(writer.life, durable);
        Ok(())
    }

    /// What is known of producers at `end`, from the newest snapshot and the log behind it.
    pub(super) fn rebuild_producers(&self, writer: &mut Writer, end: u64) -> Result<()> {
        let now = self.clock.now();
        // From below the high watermark on: a transaction that is decided above it is not decided for readers.
        let below = end.min(self.high_watermark());
        let segments = self.segments.load_full();
        let stretches: Vec<Stretch> = segments.iter().map(|segment| segment.stretch()).collect();
        let (fs, directory) = (self.fs(), self.directory());
        let mut producers = self.snapshots.rebuild(fs, directory, below, &stretches, now, |_| {})?;
        producers.advance_high_watermark(self.high_watermark());
        writer.producers = producers;
        self.note_unstable(writer);
        Ok(())
    }
}

/// Where in a segment is to be cut so that nothing from `offset` on is left, and where the data before that ends.
fn position_of(segment: &Arc<Segment>, offset: u64, size: u64, log_start: u64) -> Result<(u64, u64)> {
    let (position, end) = find_batch(segment, offset, size, log_start)?;
    if end > log_start {
        return Ok((position, end));
    }
    // Nothing is left that can be read. Then the log must not end with what is destroyed.
    let mut reader = BatchReader::new(Arc::clone(segment.log()), 0);
    let mut end = segment.base_offset();
    loop {
        match reader.next(position) {
            Ok(Some(batch)) => end = batch.next_offset(),
            Ok(None) | Err(Unreadable::Damaged(_)) => return Ok((reader.position(), end)),
            Err(Unreadable::Failed(error)) => return Err(error),
        }
    }
}

/// Where in a segment the batch begins that holds `offset`, and where the data before it ends. What is destroyed
/// below the log start is passed over, or is where the data ends.
fn find_batch(segment: &Arc<Segment>, offset: u64, size: u64, log_start: u64) -> Result<(u64, u64)> {
    let (log, base) = (segment.log(), segment.base_offset());
    let mut reader = segment.reader_for(offset)?;
    let mut end = None;
    loop {
        let position = reader.position();
        if end == Some(offset) {
            // Whatever lies behind goes, also if nobody can read it.
            return Ok((position, offset));
        }
        match reader.next_header(size) {
            Ok(Some(header)) if header.last_offset < offset => end = Some(header.next_offset()),
            Ok(_) if position == 0 => return Ok((0, base)),
            Ok(next) => {
                // The index led right to it: the batch before is not known, but ends below it.
                let first = next.map_or(offset, |header| header.base_offset.min(offset));
                return Ok((position, end.unwrap_or(first)));
            }
            Err(Unreadable::Failed(error)) => return Err(error),
            Err(Unreadable::Damaged(error)) => {
                let floor = end.unwrap_or(base) + 1;
                match find_batch_before(log, position, size, floor, log_start.min(offset))? {
                    Some(behind) => reader.seek(behind),
                    None if offset <= log_start => return Ok((position, end.unwrap_or(base))),
                    None => return Err(log.corruption(position, offset, error)),
                }
            }
        }
    }
}

impl Writer {
    /// How many bytes of a segment are written, published or not.
    fn end_of(&self, segment: &Arc<Segment>) -> u64 {
        if Arc::ptr_eq(segment, self.active.segment()) { self.active.position() } else { segment.size() }
    }
}
