//! What is known besides the batches, brought back at opening: producers, aborted transactions, leader epochs. Files
//! are believed where a checksum says that they are what was written; otherwise the log is read.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::epochs::EpochCache;
use super::recovery::{Outcome, Part, Recovery};
use super::roll::{LEADER_EPOCHS, checksum_of};
use super::snapshots::{Stretch, replay};
use crate::error::{Error, Result};
use crate::format::{BatchHeader, LeaderEpochs};
use crate::fs::{read_file, sync_dir};
use crate::storage::{BatchReader, TransactionIndex, Unreadable, find_batch_after};

/// Of a million changes of leaders; a length beyond that is damage.
const LEADER_EPOCHS_BYTES_MAX: u64 = 32 << 20;

impl Recovery<'_> {
    /// What is known of producers where the scan begins; and of the segment there, what was aborted before.
    pub(super) fn restore_producers_before(&mut self, at: usize, position: u64, first: u64) -> Result<()> {
        self.believed = first;
        if let Some(part) = self.parts.get_mut(at) {
            let base = part.log.base_offset();
            let fs = self.from.pool.fs();
            part.aborted = match position {
                0 => Some(TransactionIndex::new()),
                _ => TransactionIndex::load_checked(fs, &self.from.directory, base)?,
            };
            part.aborted.iter_mut().for_each(|aborted| aborted.truncate_to(first));
        }
        let none = self
            .from
            .checkpoint
            .is_some_and(|checkpoint| !checkpoint.producers && checkpoint.recovery_point == first);
        if none {
            return Ok(());
        }
        // From below the high watermark on: a transaction that is decided above it is not decided for readers.
        let held = if self.from.config.replicated {
            let written = self.from.checkpoint.and_then(|checkpoint| checkpoint.high_watermark);
            written.or(self.log_start).unwrap_or(0)
        } else {
            first
        };
        let (fs, directory) = (self.from.pool.fs(), &self.from.directory);
        let newest = self.snapshots.load_newest(fs, directory, first.min(held), self.now)?;
        let (from, mut producers) = newest.unwrap_or_default();
        if from < first {
            let stretch = |part: &Part, end| Stretch { log: Arc::clone(&part.log), end };
            let before = self.dropped.iter().chain(self.parts.iter().take(at));
            let mut stretches: Vec<Stretch> = before.map(|part| stretch(part, part.size)).collect();
            stretches.extend(self.parts.get(at).map(|part| stretch(part, position)));
            replay(&mut producers, &stretches, from, self.now, |_| {})?;
        }
        if !self.dropped.is_empty() {
            self.snapshots.keep(first, &producers);
        }
        self.producers = producers;
        Ok(())
    }

    /// Snapshots of what is not there any more, or may not be, are removed; and what was aborted in the active segment
    /// is in memory.
    pub(super) fn finish_producers(&mut self, outcome: &Outcome) -> Result<()> {
        let directory = &self.from.directory;
        let fs = self.from.pool.fs();
        self.snapshots.forget_above(outcome.next_offset);
        if !self.from.pool.read_only() && outcome.unrepaired.is_none() {
            let removed =
                self.snapshots.remove_above(fs, directory, outcome.next_offset.min(self.believed))?;
            if removed {
                // One that came back later would speak of offsets that were given again.
                sync_dir(fs, directory)?;
            }
        }
        self.epochs.truncate_from_end(outcome.next_offset);
        for part in &mut self.parts {
            let Some(known) = &part.aborted else { continue };
            let base = part.log.base_offset();
            let written = TransactionIndex::load_checked(fs, directory, base)?;
            // One that Kafka wrote gets its checksum, too.
            let guarded = known.entries().is_empty() || TransactionIndex::has_checksum(fs, directory, base)?;
            part.aborted_unsaved = written.as_ref() != Some(known) || !guarded;
        }
        match self.parts.last_mut() {
            Some(last) if last.aborted.is_none() => {
                last.aborted = TransactionIndex::load_checked(fs, directory, last.log.base_offset())?;
            }
            _ => return Ok(()),
        }
        self.find_aborted(outcome.next_offset)
    }

    /// What was aborted in the last segment, from before it on: its file does not say.
    fn find_aborted(&mut self, end: u64) -> Result<()> {
        let Some(last) = self.parts.last().filter(|last| last.aborted.is_none()) else { return Ok(()) };
        let base = last.log.base_offset();
        let (fs, directory) = (self.from.pool.fs(), &self.from.directory);
        let stretch = |part: &Part| Stretch { log: Arc::clone(&part.log), end: part.kept };
        let stretches: Vec<Stretch> = self.parts.iter().map(stretch).collect();
        let end = base.min(end).min(self.believed);
        let index = self.snapshots.find_aborted(fs, directory, end, &stretches, self.now, base)?;
        if let Some(last) = self.parts.last_mut() {
            (last.aborted, last.aborted_unsaved) = (Some(index), true);
        }
        Ok(())
    }

    /// The leader epochs from their file, or where that is not what was written, from the log.
    pub(super) fn load_epochs(&mut self) -> Result<()> {
        let name = self.from.directory.join(LEADER_EPOCHS);
        let read = match read_file(self.from.pool.fs(), &name, LEADER_EPOCHS_BYTES_MAX) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(LeaderEpochs::default())
            }
            Err(Error::TooLarge { .. }) => Err(()),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput => Err(()),
            read => LeaderEpochs::decode(&read?).map_err(|_| ()),
        };
        let expected = self.from.checkpoint.and_then(|checkpoint| checkpoint.epochs_checksum);
        let log_start = self.start_or_first();
        let checksum = read.as_ref().ok().map(checksum_of);
        let sure = checksum.is_some() && expected.is_none_or(|expected| Some(expected) == checksum);
        let known = read.ok().map(|read| {
            let mut epochs = EpochCache::new(read);
            epochs.truncate_from_start(log_start);
            epochs
        });
        match known {
            Some(epochs) if sure || self.holds_epochs(&epochs).unwrap_or(false) => {
                self.epochs_checksum = checksum.unwrap_or_default();
                self.epochs = epochs;
            }
            _ => {
                self.find_epochs()?;
                self.epochs.truncate_from_start(log_start);
            }
        }
        Ok(())
    }

    /// The log start; where none is written down, the name of the first segment tells.
    fn start_or_first(&self) -> u64 {
        self.log_start.or(self.parts.first().map(|part| part.log.base_offset())).unwrap_or(0)
    }

    /// Whether the log says the same below the recovery point: each epoch begins with a batch, and the batches around
    /// that are of the epochs that are named. Epochs do not go back, so none is missing.
    ///
    /// Reads the headers of the log files in which an epoch begins or ends, each once.
    fn holds_epochs(&self, epochs: &EpochCache) -> Result<bool, Unreadable> {
        let known_end = self.from.checkpoint.map_or(0, |checkpoint| checkpoint.recovery_point);
        let log_start = self.start_or_first();
        let starts = epochs.entries().iter().map(|entry| entry.start_offset);
        let begun: Vec<u64> = starts.filter(|start| (log_start + 1..known_end).contains(start)).collect();
        let ends = begun.iter().copied().chain([log_start, known_end]);
        let around: BTreeSet<usize> = ends.flat_map(|offset| self.parts_around(offset)).collect();
        let mut found = 0;
        for part in around.into_iter().filter_map(|at| self.parts.get(at)) {
            let mut reader = BatchReader::new(Arc::clone(&part.log), 0);
            while let Some(header) = reader.next_header(part.size)? {
                if header.last_offset >= known_end {
                    break;
                }
                let first = header.base_offset.max(log_start);
                if header.last_offset >= log_start && epochs.epoch_for(first) != header.leader_epoch {
                    return Ok(false);
                }
                found += usize::from(begun.binary_search(&header.base_offset).is_ok());
                if header.next_offset() >= known_end {
                    // What comes next may be what a power cut left.
                    break;
                }
            }
        }
        Ok(found == begun.len())
    }

    /// The log files with the batches at an offset and before it.
    fn parts_around(&self, offset: u64) -> impl Iterator<Item = usize> {
        let end = self.parts.partition_point(|part| part.log.base_offset() <= offset);
        let before = self.parts.iter().take(end.saturating_sub(1)).rposition(|part| part.size > 0);
        before.into_iter().chain(end.checked_sub(1))
    }

    /// The leader epochs as the batches below the recovery point name them. Those of the others are noted once they
    /// are checked: the checksum of a batch covers neither its offset nor its epoch.
    fn find_epochs(&mut self) -> Result<()> {
        let known_end = self.from.checkpoint.map_or(0, |checkpoint| checkpoint.recovery_point);
        self.epochs = EpochCache::unsaved();
        for part in &self.parts {
            let mut reader = BatchReader::new(Arc::clone(&part.log), 0);
            let mut floor = part.log.base_offset();
            while floor < known_end {
                match reader.next_header(part.size) {
                    Ok(Some(header)) if header.last_offset >= known_end => break,
                    Ok(Some(header)) => {
                        note_epoch(&mut self.epochs, &header);
                        floor = header.next_offset();
                    }
                    Ok(None) => break,
                    Err(Unreadable::Damaged(_)) => {
                        match find_batch_after(&part.log, reader.position(), part.size, floor)? {
                            Some(behind) => reader.seek(behind),
                            None => break,
                        }
                    }
                    Err(Unreadable::Failed(error)) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Takes note of the leader of a batch (Kafka's `LogSegment.recover`).
pub(super) fn note_epoch(epochs: &mut EpochCache, header: &BatchHeader) {
    match header.leader_epoch {
        Some(epoch) if epochs.latest() < Some(epoch) => epochs.assign(epoch, header.base_offset),
        None if header.magic < 2 => epochs.clear(),
        _ => {}
    }
}
