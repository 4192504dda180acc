//! The ends of a log's life in this process, and the way back: poisoned and reopened, damaged and accepted, closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::recovery::PartitionCheckpoint;
use super::truncation::TRUNCATION;
use super::{Log, Mark, Partition, State, Writer, doubt};
use crate::error::{Error, Result};
use crate::fs::{full_path, retry, sync_dir};
use crate::storage::file_name::{FileKind, Stage, file_name, parse_file_name};
use crate::storage::{
    ActiveSegment, BatchReader, Indexes, LogFile, Segment, TransactionIndex, Unreadable,
    remove_derived_files, remove_files,
};

impl Partition {
    /// Does something that fails on a poisoned partition. If that is so, the partition is opened again, and it is done
    /// once more; what itself poisons the partition, has failed.
    pub(crate) fn with_reopen<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        match act() {
            Err(Error::Poisoned { .. }) => {
                self.reopen()?;
                act()
            }
            done => done,
        }
    }
}

impl Log {
    pub(super) fn reopen(&self) -> Result<()> {
        let _one_at_a_time = self.upkeep.lock();
        // A sync under way would publish what is about to be cut.
        let _no_sync = self.commit.hold();
        let mut writer = self.writer.lock();
        if !matches!(writer.state, State::Poisoned { .. }) {
            return writer.check(&self.id);
        }
        self.reopen_locked(&mut writer)?;
        writer.state = State::Ready;
        writer.life += 1;
        self.commit.begin_life(writer.life, writer.next_offset);
        Ok(())
    }

    /// Goes back to what was published, makes that durable, and begins a new segment behind it.
    fn reopen_locked(&self, writer: &mut Writer) -> Result<()> {
        let end = self.log_end.load(Ordering::Acquire);
        let durable = self.marks.lock().now.durable;
        if !writer.unretired.is_empty() && self.start_unsaved() {
            // The first segment may be among those that go: that it is missing must be no loss then.
            self.write_start()?;
        }
        self.retire_rest(writer)?;
        self.retire_deleted(&[])?;
        self.remove_begun()?;
        let segments = self.segments.load_full();
        let after = segments.partition_point(|segment| segment.base_offset() <= durable.offset);
        for segment in segments.iter().skip(after.saturating_sub(1)) {
            let log = segment.log();
            let published = log.readable();
            let from = if segment.base_offset() == durable.segment { durable.position } else { 0 };
            self.check_readable(segment, from.min(published), published)?;
            log.file().forget_failure();
            log.cut(published)?;
            doubt::rewrite(self.directory(), log, from.min(published), published)?;
        }
        self.snapshots.cut(self.fs(), self.directory(), end)?;
        sync_dir(self.fs(), self.directory())?;
        self.begin_anew(writer, end)?;
        // What was aborted and is cut must not come back for what gets its offsets.
        self.segments.load().iter().try_for_each(|segment| segment.write_aborted())?;
        writer.next_offset = end;
        writer.unsynced.clear();
        writer.created_synced = writer.created;
        self.epochs.lock().truncate_from_end(end);
        writer.noted_epoch = None;
        self.rebuild_producers(writer, end)?;
        self.note_snapshot(writer);
        self.marks.lock().now = Mark { durable: writer.end(), producers: !writer.producers.is_empty() };
        self.recovery_point.store(end, Ordering::Release);
        let truncated = matches!(writer.state, State::Poisoned { action: TRUNCATION, .. });
        if truncated || self.start_unsaved() {
            // What comes next must not be taken for what lies behind a hole.
            self.write_start()?;
        }
        Ok(())
    }

    /// Removes empty log files that are no part of the log: begun, when something failed.
    fn remove_begun(&self) -> Result<()> {
        let (fs, directory) = (self.fs(), self.directory());
        let failed = |error| Error::io("list", &full_path(fs, directory), error);
        for entry in retry(|| fs.list(directory)).map_err(failed)? {
            let Some((base, FileKind::Log, Stage::Final)) = parse_file_name(&entry.name) else { continue };
            let part = self.segments.load().iter().any(|segment| segment.base_offset() == base);
            let name = directory.join(&entry.name);
            if !part && retry(|| fs.metadata(&name)).is_ok_and(|found| found.len == 0) {
                remove_files(fs, directory, base, Stage::Final)?;
            }
        }
        Ok(())
    }

    /// What the disk gives back after a failed sync need not be what was written.
    fn check_readable(&self, segment: &Segment, from: u64, to: u64) -> Result<()> {
        let mut reader = BatchReader::new(Arc::clone(segment.log()), from);
        loop {
            let position = reader.position();
            match reader.next(to) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Damaged(error)) => {
                    return Err(segment.log().corruption(position, segment.base_offset(), error));
                }
            }
        }
    }

    /// Begins a segment at `end`, and drops those in which nothing was published.
    fn begin_anew(&self, writer: &mut Writer, end: u64) -> Result<()> {
        let mut kept = Vec::clone(&self.segments.load());
        let mut empty = Vec::new();
        while kept.last().is_some_and(|last| last.size() == 0 && last.base_offset() >= end) {
            empty.extend(kept.pop());
        }
        if let Some(last) = kept.last() {
            self.cut_aborted(last, end)?;
        }
        let interval = self.config.load().index_interval_bytes.into();
        let now = self.clock.now();
        // A file of that name serves again, so that a disk without room cannot get in between.
        let next = if empty.iter().any(|segment| segment.base_offset() == end) {
            remove_derived_files(self.fs(), self.directory(), end)?;
            let file = self.pool.file(file_name(self.directory(), end, FileKind::Log));
            let log = Arc::new(LogFile::new(file, end, 0));
            let indexes = Some(Arc::new(Indexes::empty(end)));
            let next = ActiveSegment::reopen(log, self.directory(), interval, indexes, now);
            next.segment().set_aborted(TransactionIndex::new(), false);
            next
        } else {
            ActiveSegment::create(&self.pool, self.directory(), end, interval, now)?
        };
        let mut old = std::mem::replace(&mut writer.active, next);
        if kept.last().is_some_and(|last| Arc::ptr_eq(last, old.segment())) {
            kept.pop();
            old.go_back(old.segment().size());
            let sealed = old.seal();
            // Entries for what was cut may be among them.
            sealed.adopt(None);
            writer.unindexed.push(Arc::clone(&sealed));
            kept.push(sealed);
        }
        kept.push(Arc::clone(writer.active.segment()));
        self.segments.store(Arc::new(kept));
        for gone in empty.iter().filter(|segment| segment.base_offset() > end) {
            remove_files(self.fs(), self.directory(), gone.base_offset(), Stage::Final)?;
        }
        sync_dir(self.fs(), self.directory())
    }

    pub(super) fn accept_loss(&self, first_lost: u64) -> Result<()> {
        let mut writer = self.writer.lock();
        match &writer.state {
            State::Damaged { first_lost: found, unrepaired: Some(error), .. } if *found == first_lost => {
                let (action, cause) = ("recovery", error.to_string());
                return Err(Error::Poisoned { partition: self.id.to_string(), action, cause });
            }
            State::Damaged { first_lost: found, .. } if *found == first_lost => {}
            _ => return writer.check(&self.id),
        }
        let next_offset = writer.next_offset;
        // A segment of its own for what comes now: the damaged one keeps its bytes, and the name of the new one
        // says where the log goes on even before anything is in it.
        if writer.active.base_offset() != next_offset {
            self.roll(&mut writer, next_offset)?;
        }
        let first_base = self.segments.load().first().map_or(0, |first| first.base_offset());
        self.log_start.fetch_max(first_base.min(next_offset), Ordering::AcqRel);
        sync_dir(self.fs(), self.directory())?;
        writer.created_synced = writer.created;
        {
            let mut marks = self.marks.lock();
            marks.now = Mark { durable: writer.end(), producers: !writer.producers.is_empty() };
            marks.accepted.add(first_lost, next_offset);
        }
        writer.state = State::Ready;
        drop(writer);
        self.recovery_point.store(next_offset, Ordering::Release);
        self.surroundings.checkpoint()
    }

    /// Remembers that the loss of what is damaged there was accepted.
    pub(super) fn note_accepted(&self, from: u64, to: u64) -> Result<()> {
        self.marks.lock().accepted.add(from, to);
        // If it was noted before as well: writing it down may have failed.
        self.surroundings.checkpoint()
    }

    pub(super) fn close(&self) -> Result<Option<PartitionCheckpoint>> {
        let _no_compaction = self.pause_compaction();
        let poisoned = matches!(self.writer.lock().state, State::Poisoned { .. });
        // A last attempt: what was acknowledged and is not on disk would otherwise be left to luck.
        let healed = if poisoned { self.reopen() } else { Ok(()) };
        let was = {
            let state = &mut self.writer.lock().state;
            let closed = if matches!(state, State::Deleted) { State::Deleted } else { State::Closed };
            std::mem::replace(state, closed)
        };
        self.waiters.close();
        // Whoever is at its files is done before the directory can be another's.
        drop(self.upkeep.lock());
        healed?;
        if !matches!(was, State::Ready) {
            return Ok(self.checkpoint());
        }
        let (written, unsynced_names, end) = {
            let writer = self.writer.lock();
            (writer.written(), writer.created > writer.created_synced, writer.end())
        };
        self.sync_to(written)?;
        if unsynced_names {
            // A clean start does not look whether the directory was ever synced.
            sync_dir(self.fs(), self.directory())?;
        }
        {
            // A segment that was begun since the last sync has nothing to sync, but is where the log ends.
            let mut marks = self.marks.lock();
            if marks.now.durable.offset == end.offset {
                marks.now.durable = end;
            }
        }
        self.persist_indexes(true)?;
        Ok(self.checkpoint().map(|end| PartitionCheckpoint { clean: true, ..end }))
    }
}
