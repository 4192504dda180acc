//! The `.snapshot` files of a partition: what was known of producers at some offsets, and the way from there to
//! what is known at another (Kafka's `ProducerStateManager.loadFromSnapshot`, `UnifiedLog.rebuildProducerState`).
//!
//! A snapshot is never the truth, only a shortcut: one that is missing or damaged makes the next older one, or the
//! whole log, be read. One that covers more than the log holds is for what was lost, and is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::producers::{ProducerBatch, Producers};
use crate::error::{Error, Result};
use crate::format::{AbortedTransaction, ProducerSnapshot, RecordBatch};
use crate::fs::{FileSystem, read_if_there, remove_if_there, replace_file};
use crate::storage::file_name::{FileKind, file_name};
use crate::storage::{BatchReader, LogFile, TransactionIndex, Unreadable, find_batch_after};

/// Of ten million producers; a length beyond that is damage.
const SNAPSHOT_BYTES_MAX: u64 = 512 << 20;
/// Snapshots that lie at no start of a segment, made at checkpoints: the last one may cover more than a power cut
/// leaves of the log, so the one before is kept, too.
const LOOSE_SNAPSHOTS: usize = 2;

/// How many snapshots wait to be written while the disk takes none.
const WAITING_MAX: usize = 4;

/// The snapshot files there are, by the offset that each covers, and those that are to be.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// False for one that may be there, or may not: writing it failed, or it is damaged.
    offsets: Mutex<BTreeMap<u64, bool>>,
    /// What was known at some offset, for a file that is not written yet. It is as good as one that is: of a segment
    /// that went while the disk was full it may be all there is.
    waiting: Mutex<Vec<(u64, ProducerSnapshot)>>,
}

impl Snapshots {
    pub(super) fn new(offsets: impl IntoIterator<Item = u64>) -> Self {
        let offsets = offsets.into_iter().map(|offset| (offset, true)).collect();
        Snapshots { offsets: Mutex::new(offsets), waiting: Mutex::default() }
    }

    /// Takes note of what is known of producers at an offset, to be written.
    pub(super) fn keep(&self, offset: u64, producers: &Producers) {
        let mut waiting = self.waiting.lock();
        waiting.retain(|(kept, _)| *kept != offset);
        if producers.is_empty() {
            return;
        }
        if waiting.len() >= WAITING_MAX {
            waiting.remove(0);
        }
        waiting.push((offset, producers.snapshot()));
    }

    /// Writes what waits for it. The log must not be cut meanwhile.
    pub(super) fn write_waiting(&self, fs: &dyn FileSystem, directory: &Path) -> Result<()> {
        let mut waiting = std::mem::take(&mut *self.waiting.lock()).into_iter();
        while let Some((offset, snapshot)) = waiting.next() {
            if let Err(error) = self.write(fs, directory, offset, &snapshot) {
                // Tried again, before what came meanwhile.
                let mut held = self.waiting.lock();
                let newer = std::mem::take(&mut *held);
                held.push((offset, snapshot));
                held.extend(waiting.chain(newer));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Forgets what waits to be written and covers more than `end`.
    pub(super) fn forget_above(&self, end: u64) {
        self.waiting.lock().retain(|(covered, _)| *covered <= end);
    }

    /// Forgets all that waits to be written.
    pub(super) fn forget_waiting(&self) {
        self.waiting.lock().clear();
    }

    /// Whether there is one for that offset.
    pub(super) fn has(&self, offset: u64) -> bool {
        self.offsets.lock().get(&offset).copied().unwrap_or(false)
    }

    /// The newest one that can be read and covers no more than `end`; and the offset from which on the log has to
    /// be read.
    pub(super) fn load_newest(
        &self,
        fs: &dyn FileSystem,
        directory: &Path,
        end: u64,
        now: i64,
    ) -> Result<Option<(u64, Producers)>> {
        let waiting = {
            let waiting = self.waiting.lock();
            let newest =
                waiting.iter().filter(|(offset, _)| *offset <= end).max_by_key(|(offset, _)| *offset);
            newest.map(|(offset, snapshot)| (*offset, Producers::load(snapshot, now)))
        };
        let newer = waiting.as_ref().map_or(0, |(offset, _)| *offset);
        let below: Vec<u64> = self.offsets.lock().range(..=end).rev().map(|(offset, _)| *offset).collect();
        for offset in below.into_iter().take_while(|offset| *offset >= newer) {
            let read = read_if_there(fs, &name(directory, offset), SNAPSHOT_BYTES_MAX)?;
            let Some(bytes) = read else { continue };
            if let Ok(snapshot) = ProducerSnapshot::decode(&bytes) {
                return Ok(Some((offset, Producers::load(&snapshot, now))));
            }
            // As good as none: the next one for that offset takes its place.
            self.offsets.lock().insert(offset, false);
        }
        Ok(waiting)
    }

    /// What is known of producers behind these stretches, from the newest snapshot that covers no more than `end` and
    /// what lies behind it. Hands out what was aborted there.
    pub(super) fn rebuild(
        &self,
        fs: &dyn FileSystem,
        directory: &Path,
        end: u64,
        stretches: &[Stretch],
        now: i64,
        aborted: impl FnMut(AbortedTransaction),
    ) -> Result<Producers> {
        let (from, mut producers) = self.load_newest(fs, directory, end, now)?.unwrap_or_default();
        replay(&mut producers, stretches, from, now, aborted)?;
        Ok(producers)
    }

    /// The transactions aborted by markers from `base` on, from the newest snapshot that covers no more than `end`.
    pub(super) fn find_aborted(
        &self,
        fs: &dyn FileSystem,
        directory: &Path,
        end: u64,
        stretches: &[Stretch],
        now: i64,
        base: u64,
    ) -> Result<TransactionIndex> {
        let mut index = TransactionIndex::new();
        self.rebuild(fs, directory, end, stretches, now, |aborted| {
            if aborted.last_offset >= base {
                // Markers come in the order of their offsets, so in that of the index.
                let _ = index.append(aborted);
            }
        })?;
        Ok(index)
    }

    fn write(
        &self,
        fs: &dyn FileSystem,
        directory: &Path,
        offset: u64,
        snapshot: &ProducerSnapshot,
    ) -> Result<()> {
        let path = || crate::fs::full_path(fs, &name(directory, offset));
        let bytes = snapshot.encode().map_err(|error| Error::Corruption {
            path: path(),
            position: 0,
            offset,
            detail: error.to_string(),
        })?;
        // Known before it is written: a failure may leave it all the same.
        self.offsets.lock().insert(offset, false);
        replace_file(fs, &name(directory, offset), &bytes)?;
        self.offsets.lock().insert(offset, true);
        Ok(())
    }

    /// Removes and forgets those that cover more than the log holds, which is being cut.
    pub(super) fn cut(&self, fs: &dyn FileSystem, directory: &Path, end: u64) -> Result<()> {
        self.forget_above(end);
        self.remove_above(fs, directory, end).map(drop)
    }

    /// Removes the files of those that cover more than that. Returns whether there were any; then the caller syncs the
    /// directory.
    pub(super) fn remove_above(&self, fs: &dyn FileSystem, directory: &Path, end: u64) -> Result<bool> {
        let above: Vec<u64> =
            self.offsets.lock().range(end.saturating_add(1)..).map(|(offset, _)| *offset).collect();
        let any = !above.is_empty();
        above.into_iter().try_for_each(|offset| self.remove(fs, directory, offset))?;
        Ok(any)
    }

    /// Removes all of them, and forgets those that were to be.
    pub(super) fn remove_all(&self, fs: &dyn FileSystem, directory: &Path) -> Result<()> {
        self.forget_waiting();
        let all: Vec<u64> = self.offsets.lock().keys().rev().copied().collect();
        all.into_iter().try_for_each(|offset| self.remove(fs, directory, offset))
    }

    pub(super) fn remove(&self, fs: &dyn FileSystem, directory: &Path, offset: u64) -> Result<()> {
        if self.offsets.lock().contains_key(&offset) {
            remove_if_there(fs, &name(directory, offset))?;
            self.offsets.lock().remove(&offset);
        }
        Ok(())
    }

    /// Removes those that nobody will ask for: below the last one that leads to the log start, and all but the last
    /// few that lie at no start of a segment. The one below the log start may be all there is of producers whose
    /// records are deleted. So may the newest that covers no more than `durable`: a power cut may leave it alone.
    pub(super) fn tidy(
        &self,
        fs: &dyn FileSystem,
        directory: &Path,
        log_start: u64,
        bases: &[u64],
        durable: u64,
    ) -> Result<()> {
        let offsets: Vec<u64> = self.offsets.lock().keys().copied().collect();
        let newest = |end| offsets.iter().copied().filter(|offset| *offset <= end).max();
        let needed = [newest(log_start), newest(durable)];
        let loose = offsets.iter().filter(|offset| bases.binary_search(offset).is_err()).count();
        let mut spare = loose.saturating_sub(LOOSE_SNAPSHOTS);
        for offset in offsets {
            let is_loose = bases.binary_search(&offset).is_err();
            let obsolete = offset < log_start || is_loose && spare > 0;
            if obsolete && !needed.contains(&Some(offset)) {
                self.remove(fs, directory, offset)?;
            }
            spare = spare.saturating_sub(usize::from(is_loose));
        }
        Ok(())
    }
}

fn name(directory: &Path, offset: u64) -> PathBuf {
    file_name(directory, offset, FileKind::Snapshot)
}

/// A stretch of one log file to be read again.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    pub(super) log: Arc<LogFile>,
    /// Up to which byte.
    pub(super) end: u64,
}

/// Feeds every batch of a producer from `from` on, in order, to what is known of producers. Hands out what was
/// aborted. What cannot be read is passed over: whoever reads the records is told.
pub(super) fn replay(
    producers: &mut Producers,
    stretches: &[Stretch],
    from: u64,
    now: i64,
    mut aborted: impl FnMut(AbortedTransaction),
) -> Result<()> {
    let first = stretches.partition_point(|stretch| stretch.log.base_offset() <= from).saturating_sub(1);
    for Stretch { log, end } in stretches.iter().skip(first) {
        let mut reader = BatchReader::new(Arc::clone(log), 0);
        let mut follows = log.base_offset();
        loop {
            let position = reader.position();
            match reader.next(*end) {
                Ok(Some(batch)) => {
                    follows = batch.next_offset();
                    if batch.last_offset() >= from {
                        note(producers, &batch, now).into_iter().for_each(&mut aborted);
                    }
                }
                Ok(None) => break,
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Damaged(_)) => match find_batch_after(log, position, *end, follows + 1)? {
                    Some(behind) => reader.seek(behind),
                    None => break,
                },
            }
        }
    }
    Ok(())
}

/// Takes note of one batch that is in the log.
pub(super) fn note(producers: &mut Producers, batch: &RecordBatch, now: i64) -> Option<AbortedTransaction> {
    batch.header().producer_id?;
    // A marker that does not decode ends nothing; reading it says so.
    let batch = ProducerBatch::of(batch).ok().flatten()?;
    producers.apply(&batch, now)
}
