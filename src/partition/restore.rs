//! What is known besides the batches, brought back at opening: producers, aborted transactions, leader epochs. Files
//! are believed where a checksum says that they are what was written; otherwise the log is read.

use std::sync::Arc;

use super::epochs::EpochCache;
use super::recovery::{Outcome, Part, Recovery};
use super::roll::{LEADER_EPOCHS, checksum_of};
use super::snapshots::{Stretch, replay};
use crate::error::{Error, Result};
use crate::format::{BatchHeader, LeaderEpochs};
use crate::fs::{read_file, sync_dir};
use crate::storage::{BatchReader, TransactionIndex, Unreadable};

/// Of a million changes of leaders; a length beyond that is damage.
const LEADER_EPOCHS_BYTES_MAX: u64 = 32 << 20;

impl Recovery<'_> {
    /// What is known of producers where the scan begins; and of the segment there, what was aborted before.
    pub(super) fn restore_producers_before(&mut self, at: usize, position: u64, first: u64) -> Result<()> {
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
        let newest =
            self.snapshots.load_newest(self.from.pool.fs(), &self.from.directory, first, self.now)?;
        let (from, mut producers) = newest.unwrap_or_default();
        if from < first {
            let mut stretches: Vec<Stretch> = Vec::with_capacity(at + 1);
            for (index, part) in self.parts.iter().enumerate().take(at + 1) {
                let end = if index < at { part.size } else { position };
                stretches.push(Stretch { log: Arc::clone(&part.log), end });
            }
            replay(&mut producers, &stretches, from, self.now, |_| {})?;
        }
        self.producers = producers;
        Ok(())
    }

    /// Snapshots of what is not there any more are removed; and what was aborted in the active segment is in memory.
    pub(super) fn finish_producers(&mut self, outcome: &Outcome) -> Result<()> {
        let directory = &self.from.directory;
        let fs = self.from.pool.fs();
        if !self.from.pool.read_only() && outcome.unrepaired.is_none() {
            let removed = self.snapshots.remove_above(fs, directory, outcome.next_offset)?;
            if removed {
                // One that came back later would speak of offsets that were given again.
                sync_dir(fs, directory)?;
            }
        }
        self.epochs.truncate_from_end(outcome.next_offset);
        for part in &mut self.parts {
            let Some(known) = &part.aborted else { continue };
            let written = TransactionIndex::load_checked(fs, directory, part.log.base_offset())?;
            part.aborted_unsaved = written.as_ref() != Some(known);
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
        let newest = self.snapshots.load_newest(fs, directory, base.min(end), self.now)?;
        let (from, mut producers) = newest.unwrap_or_default();
        let stretch = |part: &Part| Stretch { log: Arc::clone(&part.log), end: part.kept };
        let stretches: Vec<Stretch> = self.parts.iter().map(stretch).collect();
        let mut index = TransactionIndex::new();
        replay(&mut producers, &stretches, from, self.now, |aborted| {
            if aborted.last_offset >= base {
                // Markers come in the order of their offsets.
                let _ = index.append(aborted);
            }
        })?;
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
        let read = read.ok();
        let checksum = read.as_ref().map(checksum_of);
        let sure = checksum.is_some() && expected.is_none_or(|expected| Some(expected) == checksum);
        match read {
            Some(epochs) if sure || self.holds_epochs(&epochs) => {
                self.epochs_checksum = checksum.unwrap_or_default();
                self.epochs = EpochCache::new(epochs);
            }
            _ => self.find_epochs()?,
        }
        if let Some(log_start) = self.log_start {
            self.epochs.truncate_from_start(log_start);
        }
        Ok(())
    }

    /// Whether the log says the same: where each epoch begins is a batch of it, and nothing of it stands before.
    fn holds_epochs(&self, epochs: &LeaderEpochs) -> bool {
        let known_end = self.from.checkpoint.map_or(0, |checkpoint| checkpoint.recovery_point);
        epochs.entries.iter().filter(|entry| entry.start_offset < known_end).all(|entry| {
            let after = self.parts.partition_point(|part| part.log.base_offset() <= entry.start_offset);
            let Some(part) = after.checked_sub(1).and_then(|at| self.parts.get(at)) else { return false };
            let mut reader = BatchReader::new(Arc::clone(&part.log), 0);
            let mut before = None;
            while let Ok(Some(header)) = reader.peek(part.size) {
                if header.last_offset >= entry.start_offset {
                    return header.leader_epoch == Some(entry.epoch) && before < Some(entry.epoch);
                }
                before = header.leader_epoch;
                reader.seek(reader.position() + header.size);
            }
            false
        })
    }

    /// The leader epochs as the batches name them.
    fn find_epochs(&mut self) -> Result<()> {
        self.epochs = EpochCache::default();
        for part in &self.parts {
            let mut reader = BatchReader::new(Arc::clone(&part.log), 0);
            loop {
                match reader.peek(part.size) {
                    Ok(Some(header)) => {
                        note_epoch(&mut self.epochs, &header);
                        reader.seek(reader.position() + header.size);
                    }
                    Ok(None) | Err(Unreadable::Damaged(_)) => break,
                    Err(Unreadable::Failed(error)) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Takes note of the leader of a batch (Kafka's `LogSegment.recover`).
pub(super) fn note_epoch(epochs: &mut EpochCache, header: &BatchHeader) {
    if let Some(epoch) = header.leader_epoch.filter(|&epoch| epochs.latest() < Some(epoch)) {
        epochs.assign(epoch, header.base_offset);
    }
}
