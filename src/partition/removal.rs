//! How the files of segments go from under their readers: renamed at once (`.deleted`), removed after
//! `file.delete.delay.ms`.
//!
//! A reader in the middle goes on reading the renamed file. One that is slower than the delay is told that its
//! offset is gone, or finds it in the segment that replaced the one it had.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Log;
use crate::error::{Error, Result};
use crate::fs::{retry, sync_dir};
use crate::storage::Segment;

/// Segments whose files are renamed and not removed yet.
#[derive(Debug)]
pub(super) struct Removals {
    retired: Mutex<Vec<Retired>>,
    /// Segments that were deleted and whose files have their names still, oldest first.
    pending: Mutex<Vec<Arc<Segment>>>,
    /// The log start that is known to be written down. What was deleted below it is no loss to the next opening;
    /// above it, the names of the renamed files say so, and must stay.
    saved_start: AtomicU64,
}

#[derive(Debug)]
struct Retired {
    segment: Arc<Segment>,
    due: Duration,
}

impl Removals {
    pub(super) fn new(saved_start: u64, pending: Vec<Arc<Segment>>) -> Self {
        Removals {
            retired: Mutex::default(),
            pending: Mutex::new(pending),
            saved_start: AtomicU64::new(saved_start),
        }
    }
}

impl Log {
    /// Renames the files of segments that are no longer part of the log. With `ordered`, each renaming is durable
    /// before the next: a crash in the middle leaves the later ones.
    pub(super) fn retire(&self, segments: &[Arc<Segment>], ordered: bool) -> Result<()> {
        let delay = self.config.load().file_delete_delay_ms.max(0) as u64;
        let due = self.clock.monotonic().saturating_add(Duration::from_millis(delay));
        for segment in segments {
            // Another file of that name may still be waiting for its removal; it would be overwritten.
            let same = |retired: &Retired| Arc::ptr_eq(retired.segment.log(), segment.log());
            self.remove_where(|retired| {
                retired.segment.base_offset() == segment.base_offset() && !same(retired)
            })?;
            // It may have its new name by an attempt that failed further on.
            if !self.removals.retired.lock().iter().any(same) {
                segment.retire()?;
                self.removals.retired.lock().push(Retired { segment: Arc::clone(segment), due });
            }
            if ordered {
                sync_dir(self.fs(), self.directory())?;
            }
        }
        if !ordered && !segments.is_empty() {
            sync_dir(self.fs(), self.directory())?;
        }
        Ok(())
    }

    /// Renames the files of deleted segments, also of those of which that failed before.
    pub(super) fn retire_deleted(&self, gone: &[Arc<Segment>]) -> Result<()> {
        self.removals.pending.lock().extend(gone.iter().cloned());
        let pending = self.removals.pending.lock().clone();
        if pending.is_empty() {
            return Ok(());
        }
        // Without a log start written down the names must tell, oldest first.
        self.retire(&pending, self.start_unsaved())?;
        self.removals.pending.lock().clear();
        Ok(())
    }

    /// Writes down where the log starts, with all else that a checkpoint says.
    pub(super) fn write_start(&self) -> Result<()> {
        let log_start = self.log_start.load(Ordering::Acquire);
        self.surroundings.checkpoint()?;
        self.note_saved_start(log_start);
        Ok(())
    }

    /// Takes note that a log start is written down.
    pub(super) fn note_saved_start(&self, log_start: u64) {
        self.removals.saved_start.fetch_max(log_start, Ordering::AcqRel);
    }

    /// After a truncation, which may take the log start back.
    pub(super) fn lower_saved_start(&self, log_start: u64) {
        self.removals.saved_start.fetch_min(log_start, Ordering::AcqRel);
    }

    /// Whether the log start is not known to be written down.
    pub(super) fn start_unsaved(&self) -> bool {
        self.removals.saved_start.load(Ordering::Acquire) < self.log_start.load(Ordering::Acquire)
    }

    /// Removes the files whose time has come. Returns their names.
    pub(super) fn remove_due(&self) -> Result<Vec<PathBuf>> {
        self.retire_deleted(&[])?;
        let now = self.clock.monotonic();
        if !self.removals.retired.lock().iter().any(|retired| retired.due <= now) {
            return Ok(Vec::new());
        }
        self.save_start_before_removal(now)?;
        self.remove_where(|retired| retired.due <= now)
    }

    /// A full disk may have kept the log start from being written down. Then the files are emptied first, under
    /// their names, which makes room for it.
    fn save_start_before_removal(&self, now: Duration) -> Result<()> {
        if !self.start_unsaved() {
            return Ok(());
        }
        match self.write_start() {
            Err(Error::StorageFull { .. }) => {
                for retired in self.removals.retired.lock().iter().filter(|retired| retired.due <= now) {
                    let log = retired.segment.log();
                    log.take_back(0);
                    log.file().with("empty", |file| retry(|| file.set_size(0)))?;
                }
                self.write_start()
            }
            written => written,
        }
    }

    fn remove_where(&self, mut concerned: impl FnMut(&Retired) -> bool) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        let mut failed = Ok(());
        self.removals.retired.lock().retain(|retired| {
            if !concerned(retired) {
                return true;
            }
            let path = retired.segment.path();
            match retired.segment.remove_retired() {
                Ok(()) => {
                    removed.push(path);
                    false
                }
                Err(error) => {
                    failed = Err(error);
                    true
                }
            }
        });
        failed.map(|()| removed)
    }

    /// All segments that a reader may still hold.
    pub(super) fn all_segments(&self) -> Vec<Arc<Segment>> {
        let mut all = Vec::clone(&self.segments.load());
        all.extend(self.removals.pending.lock().iter().cloned());
        all.extend(self.removals.retired.lock().iter().map(|retired| Arc::clone(&retired.segment)));
        all
    }

    /// How many segments wait for the removal of their files.
    pub(super) fn retired_count(&self) -> usize {
        self.removals.retired.lock().len()
    }
}
