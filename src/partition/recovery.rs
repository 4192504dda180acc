//! What is found at opening, and what is done about it.
//!
//! Everything below the recovery point is on disk and is not read. What lies behind it is in doubt: a crash may
//! have kept any part of it. Outcomes, each with its test in `tests/recovery.rs`:
//!
//! | found behind the recovery point | outcome |
//! | --- | --- |
//! | valid batches to the end | kept; written again and synced before they count as durable |
//! | an incomplete or damaged end, nothing valid behind it | a torn tail: cut (P4) |
//! | a damaged batch with valid ones behind it | damage: bytes kept, appends wait for [`Partition::accept_loss`] |
//! | the log ends below the recovery point | damage: durable data is gone; appends wait |
//! | no log file, or the first ones missing | damage: appends wait |
//! | an index that does not fit | rebuilt from the log |
//! | segments below the log start | removed: their deletion is finished |
//! | a log that ends below its log start | begun anew there: all of it was deleted |
//! | leader epochs that are not what was written | found in the batches |
//!
//! A crash during recovery changes nothing of this: the recovery point is written down after everything else.

use std::ffi::OsString;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::commit::Commit;
use super::epochs::EpochCache;
use super::producers::Producers;
use super::removal::Removals;
use super::replay::AcceptedLoss;
use super::restore::note_epoch;
use super::roll::LEADER_EPOCHS;
use super::snapshots::{Snapshots, note};
use super::watermark::Watermarks;
use super::{
    CompactionLimits, DurableMark, Log, LogConfig, Mark, Marks, Partition, State, Surroundings, Writer, doubt,
};
use crate::clock::Clock;
use crate::error::{Error, FormatError, Result};
use crate::format::{AbortedTransaction, BatchHeader};
use crate::fs::{EntryKind, full_path, retry, sync_dir};
use crate::observe;
use crate::storage::file_name::{FileKind, Stage, file_name, parse_file_name};
use crate::storage::{
    ActiveSegment, BatchReader, FilePool, Indexer, Indexes, LogFile, Segment, TransactionIndex, Unreadable,
    find_any_batch, find_batch_after, remove_files,
};
use crate::types::TopicPartition;

/// What opening a partition found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether it was known to be closed cleanly, so that no log data had to be read.
    pub clean: bool,
    /// The bytes of log that were read and checked.
    pub scanned_bytes: u64,
    /// The batches in them.
    pub scanned_batches: u64,
    /// The bytes of an incomplete end that were cut.
    pub truncated_bytes: u64,
    /// The bytes that were written again and synced, since a crash may have kept them from the disk.
    pub rewritten_bytes: u64,
    /// The segments whose indexes were rebuilt, by base offset.
    pub rebuilt_indexes: Vec<u64>,
    /// Leftovers of an interrupted change that were removed or finished.
    pub finished: Vec<PathBuf>,
    /// Damage that appends wait for.
    pub damage: Vec<Damage>,
    /// Files and directories that are none of ours. They are left alone.
    pub unknown: Vec<PathBuf>,
}

/// Offsets that were there and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The first offset concerned: what [`Partition::accept_loss`] wants to hear.
    pub from: u64,
    /// The first offset behind it that can be read, or that the next record will get.
    pub to: u64,
    /// The file, or the directory if a whole file is missing.
    pub path: PathBuf,
    /// The byte position in it.
    pub position: u64,
    /// What was expected and what was found.
    pub detail: String,
}

/// How far a partition was known to be safe when that was last written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionCheckpoint {
    /// The first offset that can be read, if it was written down.
    pub(crate) log_start: Option<u64>,
    /// Offsets below it are on disk.
    pub(crate) recovery_point: u64,
    /// The segment and position of the recovery point, where they are known.
    pub(crate) place: Option<(u64, u64)>,
    /// The high watermark, where a replicator sets it.
    pub(crate) high_watermark: Option<u64>,
    /// The first offset that compaction has not been over.
    pub(crate) first_dirty: Option<u64>,
    /// Where the loss of what is damaged was accepted.
    pub(crate) accepted: AcceptedLoss,
    /// The CRC-32 of the leader-epoch file, if it was written down.
    pub(crate) epochs_checksum: Option<u32>,
    /// Whether any producer was known at the recovery point; also if that was not written down.
    pub(crate) producers: bool,
    /// Whether the log ended exactly there, closed in good order.
    pub(crate) clean: bool,
}

/// What a partition needs to be opened.
#[derive(Debug)]
pub(crate) struct Unopened {
    pub(crate) id: TopicPartition,
    pub(crate) directory: PathBuf,
    pub(crate) pool: Arc<FilePool>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) surroundings: Arc<dyn Surroundings>,
    pub(crate) config: LogConfig,
    pub(crate) compaction_limits: CompactionLimits,
    pub(crate) sparse: bool,
    pub(crate) checkpoint: Option<PartitionCheckpoint>,
    /// Whether the store was shut down in good order.
    pub(crate) clean: bool,
}

/// One log file on its way to becoming a segment.
pub(super) struct Part {
    pub(super) log: Arc<LogFile>,
    pub(super) size: u64,
    /// How much of it is to be read from now on.
    pub(super) kept: u64,
    indexes: Option<Arc<Indexes>>,
    /// From where on it may have to be written again.
    doubtful_from: Option<u64>,
    /// The transactions aborted in it, if they are known; and whether its file does not say so.
    pub(super) aborted: Option<TransactionIndex>,
    pub(super) aborted_unsaved: bool,
}

/// What happened to the end of the log.
pub(super) struct Outcome {
    pub(super) next_offset: u64,
    durable: DurableMark,
    /// A failure of repairing what can still be read.
    pub(super) unrepaired: Option<Error>,
}

pub(super) struct Recovery<'a> {
    pub(super) from: &'a Unopened,
    pub(super) report: RecoveryReport,
    pub(super) parts: Vec<Part>,
    /// Log files whose doubtful ends were put back and synced, and up to where.
    pub(super) restored: Vec<(u64, u64)>,
    /// Log files that are no part of the log any more, and still to be removed.
    pub(super) dropped: Vec<Part>,
    /// The first offset that can be read, as far as it was written down or the names of deleted files tell.
    pub(super) log_start: Option<u64>,
    /// Up to where the log was being deleted, by the names of files on their way out.
    pub(super) deleted_to: Option<u64>,
    pub(super) snapshots: Snapshots,
    /// Up to where snapshots are believed: beyond it they may speak of batches that a crash has taken.
    pub(super) believed: u64,
    pub(super) producers: Producers,
    pub(super) epochs: EpochCache,
    pub(super) epochs_checksum: u32,
    pub(super) now: i64,
}

impl Unopened {
    /// Opens the partition, recovering it if need be.
    ///
    /// Damage is no error here: the partition opens, says so in its report, and refuses appends. Neither is a disk
    /// that takes no writes: then reads work, and appends say why they do not.
    pub(crate) fn open(self) -> Result<Partition> {
        let mut recovery = Recovery {
            from: &self,
            report: RecoveryReport::default(),
            parts: Vec::new(),
            restored: Vec::new(),
            dropped: Vec::new(),
            log_start: self.checkpoint.and_then(|checkpoint| checkpoint.log_start),
            deleted_to: None,
            snapshots: Snapshots::default(),
            believed: u64::MAX,
            producers: Producers::default(),
            epochs: EpochCache::default(),
            epochs_checksum: 0,
            now: self.clock.now(),
        };
        recovery.find_parts()?;
        let outcome = recovery.recover()?;
        recovery.finish_producers(&outcome)?;
        recovery.announce();
        let Recovery { report, parts, dropped, snapshots, producers, epochs, epochs_checksum, .. } = recovery;
        let log_start = recovery.log_start;
        let interval = self.config.index_interval_bytes.into();
        let segment = |part: Part| Arc::new(Segment::sealed(part.log, self.directory.clone(), interval));
        let dropped = dropped.into_iter().map(segment).collect();
        let unsaved = parts.iter().any(|part| part.aborted_unsaved) || epochs.to_save().is_some();
        let known = Known { dropped, snapshots, producers, epochs, epochs_checksum, log_start, unsaved };
        let partition = self.assemble(parts, outcome, report, known)?;
        if unsaved && !partition.log.pool.read_only() {
            // If there is no room, the old recovery point stands.
            let _ = partition.log.persist_indexes(false);
        }
        Ok(partition)
    }

    /// The recovery point with which it was opened.
    fn mark_before(&self, first_base: u64) -> Mark {
        let Some(checkpoint) = self.checkpoint else {
            let durable = DurableMark { offset: first_base, segment: first_base, position: 0 };
            return Mark { durable, producers: true };
        };
        let offset = checkpoint.recovery_point;
        // An unknown place is said to be at the start of a segment that, if there is one, begins there.
        let (segment, position) = checkpoint.place.unwrap_or((offset, 0));
        Mark { durable: DurableMark { offset, segment, position }, producers: checkpoint.producers }
    }

    fn assemble(
        self,
        mut parts: Vec<Part>,
        outcome: Outcome,
        report: RecoveryReport,
        known: Known,
    ) -> Result<Partition> {
        let first_base = parts.first().map(|part| part.log.base_offset());
        let log_start = known.log_start.unwrap_or(first_base.unwrap_or(0)).min(outcome.next_offset);
        let held = self.config.replicated.then(|| {
            let written = self.checkpoint.and_then(|checkpoint| checkpoint.high_watermark);
            written.unwrap_or(log_start).clamp(log_start, outcome.next_offset)
        });
        let mut producers = known.producers;
        producers.raise_log_start(log_start);
        producers.advance_high_watermark(held.unwrap_or(outcome.next_offset));
        producers.opened();
        let mark = Mark { durable: outcome.durable, producers: !producers.is_empty() };
        let mut marks = Marks::at(mark, known.epochs_checksum);
        marks.first_dirty = self.checkpoint.and_then(|checkpoint| checkpoint.first_dirty);
        marks.accepted = self.checkpoint.map(|checkpoint| checkpoint.accepted).unwrap_or_default();
        marks.accepted.cut(outcome.next_offset);
        // What was found behind the old recovery point is in memory alone: a recovery must find it again.
        marks.unsaved = known.unsaved.then(|| self.mark_before(first_base.unwrap_or(0)));
        let (active, created) = self.open_active(parts.pop(), outcome.next_offset)?;
        let mut segments: Vec<_> = parts.into_iter().map(|part| self.sealed(part)).collect();
        segments.push(Arc::clone(active.segment()));
        let state = self.state(&report, outcome.unrepaired);
        let epoch = known.epochs.latest();
        let writer = Writer::new(state, active, outcome.next_offset, created, epoch, producers);
        let roll_seed = self.pool.fs().random();
        // What could not be written again may be lost yet; where there is damage, nothing is left to sync.
        let unsure = matches!(writer.state, State::Poisoned { .. });
        let settled = if unsure { outcome.durable.offset } else { outcome.next_offset };
        let log = Log {
            id: self.id,
            directory: self.directory,
            pool: self.pool,
            clock: self.clock,
            surroundings: self.surroundings,
            config: ArcSwap::from_pointee(self.config),
            sparse: AtomicBool::new(self.sparse),
            segments: ArcSwap::from_pointee(segments),
            log_start: AtomicU64::new(log_start),
            log_end: AtomicU64::new(outcome.next_offset),
            watermarks: Watermarks::new(held, writer.producers.first_unstable()),
            marks: Mutex::new(marks),
            recovery_point: AtomicU64::new(outcome.durable.offset),
            bytes_since_checkpoint: AtomicU64::new(0),
            interval_asked: AtomicBool::new(false),
            commit: Commit::new(settled),
            waiters: Default::default(),
            roll_seed,
            epochs: Mutex::new(known.epochs),
            saving_epochs: Mutex::default(),
            snapshots: known.snapshots,
            removals: Removals::new(log_start, known.dropped),
            truncations: AtomicU64::new(0),
            counters: Default::default(),
            compaction: Default::default(),
            compaction_limits: self.compaction_limits,
            unfinished: Default::default(),
            compacting: Mutex::default(),
            compaction_stop: AtomicUsize::new(0),
            upkeep: Mutex::default(),
            report: Arc::new(report),
            writer: Mutex::new(writer),
        };
        Ok(Partition { log: Arc::new(log) })
    }

    fn sealed(&self, part: Part) -> Arc<Segment> {
        let interval = self.config.index_interval_bytes.into();
        part.log.publish(part.kept);
        let segment = Segment::sealed(part.log, self.directory.clone(), interval);
        segment.adopt(part.indexes);
        if let Some(aborted) = part.aborted {
            segment.set_aborted(aborted, part.aborted_unsaved);
        }
        Arc::new(segment)
    }

    /// The segment that is appended to, from its log file or a new one, and how many files were created for it.
    fn open_active(&self, last: Option<Part>, next_offset: u64) -> Result<(ActiveSegment, u64)> {
        let interval = self.config.index_interval_bytes.into();
        let now = self.clock.now();
        Ok(match last {
            Some(last) => {
                last.log.publish(last.kept);
                let active = ActiveSegment::reopen(last.log, &self.directory, interval, last.indexes, now);
                if let Some(aborted) = last.aborted {
                    active.segment().set_aborted(aborted, last.aborted_unsaved);
                }
                (active, 0)
            }
            None if self.pool.read_only() => {
                let file = self.pool.file(file_name(&self.directory, next_offset, FileKind::Log));
                let log = Arc::new(LogFile::new(file, next_offset, 0));
                (ActiveSegment::reopen(log, &self.directory, interval, None, now), 0)
            }
            None => (ActiveSegment::create(&self.pool, &self.directory, next_offset, interval, now)?, 1),
        })
    }

    fn state(&self, report: &RecoveryReport, unrepaired: Option<Error>) -> State {
        if self.pool.read_only() {
            return State::ReadOnly;
        }
        if let Some(damage) = report.damage.first() {
            let Damage { from, to, path, position, detail } = damage;
            let detail = format!("offsets {from} to {to} ({} at byte {position}: {detail})", path.display());
            return State::Damaged { first_lost: *from, detail, unrepaired };
        }
        match unrepaired {
            Some(error) => {
                State::Poisoned { action: "recovery", cause: error.to_string(), retry: error.is_retryable() }
            }
            None => State::Ready,
        }
    }
}

/// What is known besides the segments.
struct Known {
    /// Those whose files could not be removed.
    dropped: Vec<Arc<Segment>>,
    snapshots: Snapshots,
    producers: Producers,
    epochs: EpochCache,
    epochs_checksum: u32,
    log_start: Option<u64>,
    /// Whether something of it is in no file yet.
    unsaved: bool,
}

impl Recovery<'_> {
    /// Tells who watches what was found.
    fn announce(&self) {
        let (id, report) = (&self.from.id, &self.report);
        if !report.clean {
            let RecoveryReport { scanned_bytes, truncated_bytes, rewritten_bytes, .. } = *report;
            observe::recovered(id, scanned_bytes, truncated_bytes, rewritten_bytes);
        }
        for damage in &report.damage {
            observe::damaged(id, damage.from, damage.to, &damage.detail);
        }
    }

    /// Lists the directory, tidies up what a crash left of earlier changes, and opens every log file.
    fn find_parts(&mut self) -> Result<()> {
        self.restore_doubtful()?;
        self.finish_interrupted_changes()?;
        let (mut bases, mut snapshots) = (Vec::new(), Vec::new());
        for (name, kind) in self.list()? {
            match (parse_file_name(&name), kind) {
                (Some((base, FileKind::Log, Stage::Final)), EntryKind::File) => bases.push(base),
                (Some((end, FileKind::Snapshot, Stage::Final)), EntryKind::File) => snapshots.push(end),
                (Some((_, _, Stage::Final)), EntryKind::File) => {}
                _ if is_known(&name, kind) => {}
                _ => self.report.unknown.push(PathBuf::from(name)),
            }
        }
        self.snapshots = Snapshots::new(snapshots);
        bases.sort_unstable();
        for base in bases {
            let file = self.from.pool.file(file_name(&self.from.directory, base, FileKind::Log));
            let name = file.name();
            let metadata = retry(|| self.from.pool.fs().metadata(&name));
            let size = metadata.map_err(|error| Error::io("measure", &file.path(), error))?.len;
            if size > i32::MAX as u64 {
                let limit = i32::MAX as u64;
                return Err(Error::TooLarge { what: "a segment", size, limit, setting: "Kafka's format" });
            }
            let log = Arc::new(LogFile::new(file, base, 0));
            self.parts.push(Part {
                log,
                size,
                kept: size,
                indexes: None,
                doubtful_from: None,
                aborted: None,
                aborted_unsaved: false,
            });
        }
        Ok(())
    }

    pub(super) fn list(&self) -> Result<Vec<(OsString, EntryKind)>> {
        let fs = self.from.pool.fs();
        let listed = retry(|| fs.list(&self.from.directory));
        let path = || full_path(fs, &self.from.directory);
        let entries = listed.map_err(|error| Error::io("list", &path(), error))?;
        Ok(entries.into_iter().map(|entry| (entry.name, entry.kind)).collect())
    }

    fn recover(&mut self) -> Result<Outcome> {
        let checkpoint = self.from.checkpoint;
        let recovery_point = checkpoint.map_or(0, |checkpoint| checkpoint.recovery_point);
        self.drop_deleted();
        self.note_missing_start();
        self.load_epochs()?;
        if let Some(outcome) = self.clean_end() {
            self.report.clean = true;
            self.restore_producers_before(self.parts.len(), 0, outcome.next_offset)?;
            // Those that stay harm nobody before a truncation, which must get rid of them first.
            let _ = self.remove_dropped();
            return Ok(outcome);
        }
        let Some((at, position, expected)) = self.scan_start(recovery_point)? else {
            return Ok(self.nothing_there(recovery_point));
        };
        let first = expected.unwrap_or_else(|| self.offset_at(at, position, recovery_point));
        self.restore_producers_before(at, position, first)?;
        self.epochs.truncate_from_end(first);
        let scanned = self.scan(at, position, expected, recovery_point)?;
        let scanned = self.begin_at_log_start(scanned);
        let next_offset = self.check_end(scanned, recovery_point);
        let unrepaired = if self.from.pool.read_only() { None } else { self.repair().err() };
        let durable = if self.report.damage.is_empty() && unrepaired.is_none() && !self.from.pool.read_only()
        {
            let (segment, position) =
                self.parts.last().map_or((0, 0), |last| (last.log.base_offset(), last.kept));
            DurableMark { offset: next_offset, segment, position }
        } else {
            // An unknown place is said to be at the start of a segment that, if there is one, begins there.
            let place = checkpoint.and_then(|checkpoint| checkpoint.place);
            let (segment, position) = place.unwrap_or((recovery_point, 0));
            DurableMark { offset: recovery_point.min(next_offset), segment, position }
        };
        Ok(Outcome { next_offset, durable, unrepaired })
    }

    /// The end of a log that was closed in good order and has not changed since, without a look into it.
    fn clean_end(&self) -> Option<Outcome> {
        let checkpoint = self.from.checkpoint.filter(|checkpoint| self.from.clean && checkpoint.clean)?;
        let (segment, position) = checkpoint.place?;
        let last = self.parts.last()?;
        // A marker that lies about the length is stale: somebody wrote, or cut, after it was made.
        let stale = last.log.base_offset() != segment || last.size != position;
        if stale || !self.report.damage.is_empty() {
            return None;
        }
        let offset = checkpoint.recovery_point;
        let durable = DurableMark { offset, segment, position };
        Some(Outcome { next_offset: offset, durable, unrepaired: None })
    }

    /// Lets go of segments that lie wholly below the log start: their deletion was not finished.
    fn drop_deleted(&mut self) {
        let Some(log_start) = self.log_start else { return };
        let bases: Vec<u64> = self.parts.iter().map(|part| part.log.base_offset()).collect();
        let below = bases.iter().skip(1).take_while(|&&next| next <= log_start).count();
        self.dropped.extend(self.parts.drain(..below));
    }

    /// The log begins later than was written down.
    fn note_missing_start(&mut self) {
        let (Some(log_start), Some(first)) =
            (self.log_start, self.parts.first().map(|part| part.log.base_offset()))
        else {
            return;
        };
        if first <= log_start {
            return;
        }
        if self.deleted_to == Some(first) {
            // Retention took them, on a disk too full to write that down.
            self.log_start = Some(first);
        } else {
            self.damage(log_start, first, None, 0, "the first segments are missing");
        }
    }

    /// If all there was lies below the log start, nothing of it counts, damaged or not: the log is empty there.
    fn begin_at_log_start(&mut self, scanned: u64) -> u64 {
        let Some(log_start) = self.log_start else { return scanned };
        self.report.damage.retain(|damage| damage.to > log_start);
        if scanned >= log_start {
            return scanned;
        }
        self.drop_from(0);
        self.producers = Producers::default();
        self.snapshots.forget_waiting();
        if !self.from.pool.read_only() {
            // One that stays only says again what is forgotten now.
            let _ = self.snapshots.remove_all(self.from.pool.fs(), &self.from.directory);
        }
        log_start
    }

    /// The offset of the batch at a place that was found by an index.
    fn offset_at(&self, at: usize, position: u64, otherwise: u64) -> u64 {
        let Some(part) = self.parts.get(at) else { return otherwise };
        let peeked = BatchReader::new(Arc::clone(&part.log), position).peek(part.size);
        let header = peeked.ok().flatten().filter(|header| header.base_offset_known());
        header.map_or(part.log.base_offset(), |header| header.base_offset)
    }

    fn nothing_there(&mut self, recovery_point: u64) -> Outcome {
        let log_start = self.log_start.unwrap_or(0);
        let next_offset = recovery_point.max(log_start);
        if next_offset > log_start {
            self.damage(log_start, next_offset, None, 0, "all segments are missing");
        }
        let durable = DurableMark { offset: next_offset, segment: next_offset, position: 0 };
        Outcome { next_offset, durable, unrepaired: None }
    }

    /// The segment, position and offset from which to read, or `None` if there are no segments.
    fn scan_start(&mut self, recovery_point: u64) -> Result<Option<(usize, u64, Option<u64>)>> {
        let place = self.from.checkpoint.and_then(|checkpoint| checkpoint.place);
        if let Some((segment, position)) = place {
            let at = self.parts.iter().position(|part| part.log.base_offset() == segment);
            if let Some(at) = at.filter(|&at| self.begins_at(at, position, recovery_point)) {
                return Ok(Some((at, position, Some(recovery_point))));
            }
        }
        let after = self.parts.partition_point(|part| part.log.base_offset() <= recovery_point);
        let at = after.saturating_sub(1);
        let Some(part) = self.parts.get(at) else { return Ok(None) };
        let base = part.log.base_offset();
        if recovery_point <= base {
            return Ok(Some((at, 0, Some(base))));
        }
        // The index knows the way, and its word is checked against the batch found there.
        let file = self.from.pool.file(part.log.file().name());
        let log = Arc::new(LogFile::new(file, base, part.size));
        let segment =
            Segment::sealed(log, self.from.directory.clone(), self.from.config.index_interval_bytes.into());
        let position = segment.reader_for(recovery_point)?.position();
        Ok(Some((at, position, (position == 0).then_some(base))))
    }

    /// Whether the batch of that offset begins there, or the log ends there.
    fn begins_at(&self, at: usize, position: u64, offset: u64) -> bool {
        let Some(part) = self.parts.get(at) else { return false };
        if position == part.size {
            return true;
        }
        let peeked = BatchReader::new(Arc::clone(&part.log), position).peek(part.size);
        match peeked {
            Ok(Some(header)) => header.base_offset == offset,
            // What a failed write left there, if a batch does end there.
            _ => {
                let mut reader = BatchReader::new(Arc::clone(&part.log), 0);
                while let Ok(Some(_)) = reader.next_header(position) {}
                reader.position() == position && position <= part.size
            }
        }
    }

    /// Reads every batch from a place on to the end of the log. Returns the offset behind the last valid one.
    fn scan(&mut self, at: usize, position: u64, expected: Option<u64>, recovery_point: u64) -> Result<u64> {
        let mut expected = expected;
        let mut next_offset = expected.unwrap_or(0);
        for index in at..self.parts.len() {
            let Some(base) = self.parts.get(index).map(|part| part.log.base_offset()) else { break };
            let position = if index == at { position } else { 0 };
            if index > at {
                self.parts.iter_mut().skip(index).take(1).for_each(|part| {
                    part.aborted = Some(TransactionIndex::new());
                });
                // What is missing below the log start is missed by nobody.
                let reached = next_offset.max(self.log_start.unwrap_or(0));
                let begun_in_vain = !self.from.sparse && base > next_offset && reached >= recovery_point;
                if begun_in_vain && self.valid_in_later_parts(index - 1, next_offset)?.is_none() {
                    self.drop_from(index);
                    break;
                }
                let told = self.report.damage.last().is_some_and(|damage| damage.to >= base);
                if !told && base != next_offset && (base < next_offset || !self.from.sparse) {
                    let detail = format!("the segment before ends at offset {next_offset}");
                    self.damage(next_offset.min(base), base, Some(index), 0, &detail);
                }
                expected = Some(base);
                // For a snapshot where the segment begins.
                self.snapshots.keep(base, &self.producers);
            }
            let scanned = self.scan_part(index, position, expected, recovery_point)?;
            next_offset = scanned.max(if index > at { base } else { 0 });
            if self.parts.len() <= index + 1 {
                break;
            }
        }
        Ok(next_offset)
    }

    /// Reads the batches of one log file. Returns the offset behind the last valid one.
    fn scan_part(
        &mut self,
        index: usize,
        start: u64,
        expected: Option<u64>,
        recovery_point: u64,
    ) -> Result<u64> {
        let Some(part) = self.parts.get(index) else { return Ok(0) };
        let (log, size) = (Arc::clone(&part.log), part.size);
        let base = log.base_offset();
        let mut indexer = self.indexer(&log, start, recovery_point);
        let mut reader = BatchReader::new(Arc::clone(&log), start);
        let mut follows = expected;
        loop {
            let position = reader.position();
            let failure = match reader.next(size) {
                Ok(None) => break,
                Ok(Some(batch)) => {
                    let header = batch.header();
                    match self.out_of_order(&log, header, follows) {
                        None => {
                            if header.last_offset >= recovery_point && position >= self.settled(base) {
                                self.doubt(index, position);
                            }
                            // Entries that contradict the log are no good; they will be rebuilt.
                            indexer = indexer
                                .and_then(|mut known| known.note(header, position).is_ok().then_some(known));
                            self.report.scanned_batches += 1;
                            self.report.scanned_bytes += header.size;
                            follows = Some(header.next_offset());
                            note_epoch(&mut self.epochs, header);
                            if let Some(aborted) = note(&mut self.producers, &batch, self.now) {
                                self.note_aborted(index, aborted);
                            }
                            continue;
                        }
                        Some(error) => error,
                    }
                }
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Damaged(error)) => error,
            };
            let lost = follows.unwrap_or(base);
            match find_batch_after(&log, position, size, lost + 1)? {
                Some(behind) => {
                    let header = BatchReader::new(Arc::clone(&log), behind).peek(size).ok().flatten();
                    let to = header.map_or(lost, |header| header.base_offset);
                    self.damage(lost, to, Some(index), position, &failure.to_string());
                    reader.seek(behind);
                    follows = Some(to);
                }
                None => {
                    self.bad_end(index, position, lost, recovery_point, &failure)?;
                    break;
                }
            }
        }
        let sealed = index + 1 < self.parts.len();
        if let Some(indexer) = indexer.filter(|indexer| !sealed || indexer.finish().is_ok()) {
            if start == 0 && size > 0 {
                self.report.rebuilt_indexes.push(base);
            }
            if let Some(part) = self.parts.get_mut(index) {
                part.indexes = Some(indexer.into_indexes());
            }
        }
        Ok(follows.unwrap_or(base))
    }

    fn out_of_order(&self, log: &LogFile, header: &BatchHeader, follows: Option<u64>) -> Option<FormatError> {
        let known = header.base_offset_known();
        let first = if known { header.base_offset } else { header.last_offset };
        let jumps = |follows| first > follows && known && !self.from.sparse;
        let out_of_order = follows.is_some_and(|follows| first < follows || jumps(follows));
        (out_of_order || !log.may_hold(header)).then_some(FormatError::Invalid {
            what: "the base offset of a batch",
            found: first as i64,
            expected: "the offset behind the batch before",
        })
    }

    /// Bytes at the end of a file that are no batch, with no valid one behind them in this file.
    fn bad_end(
        &mut self,
        index: usize,
        position: u64,
        lost: u64,
        recovery_point: u64,
        failure: &FormatError,
    ) -> Result<()> {
        let behind = self.valid_in_later_parts(index, lost)?;
        if behind.is_none() && lost >= recovery_point {
            let Some(part) = self.parts.get_mut(index) else { return Ok(()) };
            self.report.truncated_bytes += part.size - position;
            part.kept = position;
            // Nothing valid lies in the segments behind; they were begun after what is lost now.
            self.drop_from(index + 1);
            return Ok(());
        }
        let to = behind.unwrap_or(recovery_point.max(lost));
        self.damage(lost, to, Some(index), position, &failure.to_string());
        Ok(())
    }

    /// Lets go of segments in which nothing valid lies: they were begun after something that was lost.
    fn drop_from(&mut self, index: usize) {
        for part in self.parts.drain(index..) {
            self.report.truncated_bytes += part.size;
            self.dropped.push(part);
        }
    }

    fn valid_in_later_parts(&self, index: usize, offset: u64) -> Result<Option<u64>> {
        for part in self.parts.iter().skip(index + 1) {
            if find_any_batch(&part.log, part.size, offset)?.is_some() {
                return Ok(Some(part.log.base_offset()));
            }
        }
        Ok(None)
    }

    /// The log must reach the recovery point, or durable data is gone.
    fn check_end(&mut self, next_offset: u64, recovery_point: u64) -> u64 {
        if next_offset < recovery_point
            && !self.report.damage.iter().any(|damage| damage.to >= recovery_point)
        {
            let last = self.parts.len().checked_sub(1);
            let size = self.parts.last().map_or(0, |part| part.size);
            let detail = format!("the log ends at offset {next_offset}, {recovery_point} was on disk");
            self.damage(next_offset, recovery_point, last, size, &detail);
        }
        next_offset.max(recovery_point)
    }

    /// Removes the files that are no part of the log, durably: the log may come to begin below them.
    fn remove_dropped(&mut self) -> Result<()> {
        if self.dropped.is_empty() || self.from.pool.read_only() {
            return Ok(());
        }
        let (fs, directory) = (self.from.pool.fs(), &self.from.directory);
        // What is known of producers by them must be known without them; if there is no room, what goes makes it.
        match self.snapshots.write_waiting(fs, directory) {
            Err(error) if !matches!(error, Error::StorageFull { .. }) => return Err(error),
            _ => {}
        }
        while let Some(Part { log, .. }) = self.dropped.first() {
            log.file().forsake();
            remove_files(fs, directory, log.base_offset(), Stage::Final)?;
            self.report.finished.push(log.file().name());
            self.dropped.remove(0);
        }
        sync_dir(fs, directory)
    }

    /// Cuts the torn tail, and writes and syncs again what is in doubt.
    fn repair(&mut self) -> Result<()> {
        self.remove_dropped()?;
        for part in &self.parts {
            let torn = part.kept < part.size;
            if torn {
                part.log.cut(part.kept)?;
            }
            match part.doubtful_from {
                Some(from) => {
                    doubt::rewrite(&self.from.directory, &part.log, from, part.kept)?;
                    self.report.rewritten_bytes += part.kept - from;
                }
                None if torn => part.log.file().sync()?,
                None => {}
            }
        }
        sync_dir(self.from.pool.fs(), &self.from.directory)
    }

    /// Where in a log file ends what was written again before.
    fn settled(&self, base: u64) -> u64 {
        self.restored.iter().find(|(restored, _)| *restored == base).map_or(0, |(_, end)| *end)
    }

    fn note_aborted(&mut self, index: usize, aborted: AbortedTransaction) {
        if let Some(known) = self.parts.get_mut(index).and_then(|part| part.aborted.as_mut()) {
            // Markers come in the order of their offsets.
            let _ = known.append(aborted);
        }
    }

    fn doubt(&mut self, index: usize, position: u64) {
        if let Some(part) = self.parts.get_mut(index) {
            part.doubtful_from.get_or_insert(position);
        }
    }

    /// An indexer for a file that is read from `start` on, behind the entries on disk for what lies before; `None`
    /// if those are no good, and everything will be rebuilt when it is needed.
    fn indexer(&self, log: &Arc<LogFile>, start: u64, recovery_point: u64) -> Option<Indexer> {
        let interval = self.from.config.index_interval_bytes.into();
        let indexes = if start == 0 {
            Indexes::empty(log.base_offset())
        } else {
            Indexes::load_below(log, &self.from.directory, recovery_point, start, interval).ok()?
        };
        Some(Indexer::new(Arc::new(indexes), interval))
    }

    fn damage(&mut self, from: u64, to: u64, part: Option<usize>, position: u64, detail: &str) {
        let path = match part.and_then(|index| self.parts.get(index)) {
            Some(part) => part.log.path(),
            None => full_path(self.from.pool.fs(), &self.from.directory),
        };
        self.report.damage.push(Damage { from, to, path, position, detail: detail.to_string() });
    }
}

/// Names in a partition directory that belong there and do not begin with an offset.
fn is_known(name: &OsString, kind: EntryKind) -> bool {
    const KNOWN: [&str; 4] =
        [LEADER_EPOCHS, "leader-epoch-checkpoint.tmp", "partition.metadata", "partition.metadata.tmp"];
    kind == EntryKind::File && KNOWN.iter().any(|known| name == known)
}
