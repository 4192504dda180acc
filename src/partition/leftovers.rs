//! What a crash left of a change: files on their way out, segments half swapped (Kafka's `LogLoader`).

use std::ffi::OsString;
use std::sync::Arc;

use super::recovery::Recovery;
use crate::error::{Error, Result};
use crate::fs::{EntryKind, full_path, remove_if_there, retry, sync_dir};
use crate::storage::file_name::{FileKind, Stage, file_name, parse_file_name};
use crate::storage::{BatchReader, LogFile, Unreadable, find_batch_after};

/// The leader epochs, half written.
const LEADER_EPOCHS_TEMPORARY: &str = "leader-epoch-checkpoint.tmp";

impl Recovery<'_> {
    /// Removes files on their way out, and finishes or undoes a swap of segments (Kafka's `LogLoader`).
    pub(super) fn finish_interrupted_changes(&mut self) -> Result<()> {
        if self.from.pool.read_only() {
            return Ok(());
        }
        let mut staged = Vec::new();
        for (name, kind) in self.list()? {
            match (parse_file_name(&name), kind) {
                (Some((offset, file, stage)), EntryKind::File) => staged.push((offset, file, stage, name)),
                (None, EntryKind::File) if name == LEADER_EPOCHS_TEMPORARY => self.remove(&name)?,
                _ => {}
            }
        }
        if staged.iter().all(|(_, _, stage, _)| *stage == Stage::Final) {
            return Ok(());
        }
        let is_log = |stage| {
            move |(_, kind, at, _): &&(u64, FileKind, Stage, OsString)| *kind == FileKind::Log && *at == stage
        };
        let cleaned = staged.iter().filter(|(_, _, stage, _)| *stage == Stage::Cleaned);
        let first_cleaned = cleaned.map(|(offset, ..)| *offset).min().unwrap_or(u64::MAX);
        let swaps: Vec<_> = staged
            .iter()
            .filter(|(offset, _, stage, _)| *stage == Stage::Swap && *offset < first_cleaned)
            .cloned()
            .collect();
        // On a full disk the names alone say that the log starts later than is written down; until that is made up
        // for they must outlast another crash. What they stood for need not.
        let first = staged.iter().filter(is_log(Stage::Final)).map(|(base, ..)| *base).min();
        let starts_later = first.is_some_and(|first| self.log_start.is_some_and(|start| start < first));
        if let Some(first) = first.filter(|_| starts_later) {
            let deleted = staged.iter().filter(is_log(Stage::Deleted)).filter(|(base, ..)| *base < first);
            // Not the last one alone: those that a truncation left lie among them.
            for (base, _, _, name) in deleted {
                if self.deleted_to.is_none() && self.reaches(*base, name, first)? {
                    self.deleted_to = Some(first);
                }
            }
        }
        for (offset, kind, stage, name) in &staged {
            if starts_later && *kind == FileKind::Log && *stage == Stage::Deleted {
                self.empty(name)?;
                continue;
            }
            let undone = *stage == Stage::Swap && *offset >= first_cleaned;
            // Only what can be had again from the log: a log under such a name would be none of ours.
            let half_written = *stage == Stage::Temporary && *kind != FileKind::Log;
            if matches!(stage, Stage::Deleted | Stage::Cleaned) || undone || half_written {
                self.remove(name)?;
            }
        }
        let replaced = self.swapped_offsets(&swaps)?;
        for (offset, _, stage, name) in &staged {
            if *stage == Stage::Final && replaced.as_ref().is_some_and(|range| range.contains(offset)) {
                self.remove(name)?;
            }
        }
        if replaced.is_some() {
            // Once the new ones have their names, nothing says any more what they replaced.
            sync_dir(self.from.pool.fs(), &self.from.directory)?;
        }
        for (offset, kind, _, name) in &swaps {
            let (from, to) =
                (self.from.directory.join(name), file_name(&self.from.directory, *offset, *kind));
            let fs = self.from.pool.fs();
            let renamed = retry(|| fs.rename(&from, &to));
            renamed.map_err(|error| Error::io("rename", &full_path(fs, &from), error))?;
            self.report.finished.push(from);
        }
        sync_dir(self.from.pool.fs(), &self.from.directory)
    }

    /// Whether a log file on its way out was the one before the segment at `next`; one that was emptied to make room
    /// cannot say otherwise. Nor can one that ends above the recovery point: a power cut may have taken the rest.
    fn reaches(&self, base: u64, name: &OsString, next: u64) -> Result<bool> {
        let log = Arc::new(LogFile::new(self.from.pool.file(self.from.directory.join(name)), base, 0));
        let size = log.size()?;
        let mut reader = BatchReader::new(Arc::clone(&log), 0);
        let mut end = base;
        loop {
            match reader.next_header(size) {
                Ok(Some(header)) => end = header.next_offset(),
                Ok(None) => break,
                // What is destroyed below the log start is passed over.
                Err(Unreadable::Damaged(_)) => match find_batch_after(&log, reader.position(), size, end)? {
                    Some(behind) => reader.seek(behind),
                    None => break,
                },
                Err(Unreadable::Failed(error)) => return Err(error),
            }
        }
        let point = self.from.checkpoint.map_or(0, |checkpoint| checkpoint.recovery_point);
        let torn = base <= point.max(self.log_start.unwrap_or(0)) && end >= point;
        Ok(size == 0 || self.from.sparse || end >= next || torn)
    }

    /// The offsets that finished but unnamed segments replace.
    fn swapped_offsets(
        &self,
        swaps: &[(u64, FileKind, Stage, OsString)],
    ) -> Result<Option<std::ops::Range<u64>>> {
        let mut range: Option<std::ops::Range<u64>> = None;
        for (base, _, _, name) in swaps.iter().filter(|(_, kind, _, _)| *kind == FileKind::Log) {
            let log = Arc::new(LogFile::new(self.from.pool.file(self.from.directory.join(name)), *base, 0));
            let (size, mut next_offset) = (log.size()?, *base);
            let mut reader = BatchReader::new(Arc::clone(&log), 0);
            loop {
                match reader.next(size) {
                    Ok(Some(batch)) => next_offset = batch.next_offset(),
                    Ok(None) => break,
                    Err(Unreadable::Failed(error)) => return Err(error),
                    Err(Unreadable::Damaged(error)) => {
                        return Err(log.corruption(reader.position(), next_offset, error));
                    }
                }
            }
            let (start, end) = range.map_or((*base, next_offset), |range| (range.start, range.end));
            range = Some(start.min(*base)..end.max(next_offset));
        }
        Ok(range)
    }

    /// Leaves nothing of a file but its name.
    fn empty(&mut self, name: &OsString) -> Result<()> {
        let path = self.from.directory.join(name);
        self.from.pool.file(path.clone()).with("empty", |file| retry(|| file.set_size(0)))?;
        self.report.finished.push(path);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &OsString) -> Result<()> {
        let path = self.from.directory.join(name);
        remove_if_there(self.from.pool.fs(), &path)?;
        self.report.finished.push(path);
        Ok(())
    }
}
