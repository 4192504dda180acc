//! [`Partition`]: segments in order that make up one log, and the positions between which it may be read.
//!
//! `log start <= last stable offset <= high watermark <= log end`, and `recovery point <= log end`, always.
//!
//! - [`append`](self): the write protocol, once (`append.rs`), for leaders, for batches that the crate itself built
//!   (`built.rs`), and for followers (`follow.rs`); when a segment is full (`roll.rs`); who waits for a sync and who
//!   does it (`commit.rs`).
//! - what is known of producers and their transactions (`producers.rs`), how that is kept (`snapshots.rs`), and
//!   what readers of committed data pass over (`aborted.rs`); how far readers may look (`watermark.rs`).
//! - which leader wrote what (`epochs.rs`).
//! - reading without locks (`read.rs`), by time (`time.rs`).
//! - what goes: old segments (`retention.rs`), old values (`compaction`), a wrong end (`truncation.rs`); and how
//!   files go from under their readers (`removal.rs`).
//! - what is found at opening, and what is done about it (`recovery.rs`): leftovers of interrupted changes
//!   (`leftovers.rs`), bytes that may not be on disk (`doubt.rs`), and what is known besides (`restore.rs`).
//! - how it comes back after a failure, and how it is closed (`reopen.rs`).

mod aborted;
mod append;
mod built;
mod commit;
mod compaction;
mod config;
mod doubt;
mod epochs;
mod follow;
mod leftovers;
mod producers;
mod read;
mod recovery;
mod removal;
mod reopen;
mod replay;
mod restore;
mod retention;
mod roll;
mod snapshots;
mod stats;
mod time;
mod truncation;
mod wait;
mod watermark;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub use append::{AppendOptions, Appended};
pub(crate) use built::{BuiltBatch, ProducerStamp, Unsettled};
pub(crate) use compaction::CompactionLimits;
pub use compaction::{CompactionReport, CompactionStatus};
pub use config::*;
pub use epochs::EpochEnd;
pub use producers::{OpenTransaction, ProducerState};
pub use read::{FetchOptions, Fetched, Isolation, Records};
pub use recovery::{Damage, RecoveryReport};
pub(crate) use recovery::{PartitionCheckpoint, Unopened};
pub(crate) use replay::AcceptedLoss;
pub use retention::Expired;
pub use stats::PartitionStats;
pub use time::TimestampOffset;
pub(crate) use wait::Listening;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::fs::{FileSystem, full_path};
use crate::observe;
use crate::storage::{ActiveSegment, FilePool, Segment};
use crate::types::TopicPartition;
use commit::Commit;
use compaction::{Compaction, Unfinished};
use epochs::EpochCache;
use producers::Producers;
use removal::Removals;
use snapshots::Snapshots;
use stats::{Appends, Counters};
use wait::Waiters;
use watermark::Watermarks;

/// One ordered, durable, replayable log. A cheap handle: clone it, send it, share it.
///
/// Any number of threads append and read at once. Appends are ordered by one lock, held only while a batch that is
/// already encoded is written; readers take none. A reader sees whole batches, and of a topic whose durability is
/// [`Durability::Synced`] only what is on disk.
///
/// ```
/// use annals::{Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let topic = store.create_topic("clicks", TopicConfig::new())?;
/// let partition = topic.partition(0)?;
///
/// let offset = partition.append(&Record::new(b"hello").key(b"user-7"))?;
/// partition.append_batch(&[Record::new("two"), Record::new("three")])?;
///
/// let mut values = vec![];
/// for record in partition.read_from(offset)? {
///     values.push(record?.value().unwrap_or_default().to_vec());
/// }
/// assert_eq!(values, [b"hello".as_slice(), b"two", b"three"]);
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Clone)]
pub struct Partition {
    log: Arc<Log>,
}

/// What all handles of one partition share.
#[derive(Debug)]
struct Log {
    id: TopicPartition,
    /// Relative to the file system's root.
    directory: PathBuf,
    pool: Arc<FilePool>,
    clock: Arc<dyn Clock>,
    surroundings: Arc<dyn Surroundings>,
    config: ArcSwap<LogConfig>,
    /// Whether offsets may be missing between batches: compacted, or written by somebody else. If not, a gap is
    /// damage.
    sparse: AtomicBool,
    /// Ordered by base offset, never empty; the last one is active. Replaced whole, never changed.
    segments: ArcSwap<Vec<Arc<Segment>>>,
    log_start: AtomicU64,
    /// One more than the last offset that readers may have. Stored after the bytes below it were published in
    /// their segment, so whoever loads it finds them there.
    log_end: AtomicU64,
    watermarks: Watermarks,
    /// Offsets below it are known to be on disk.
    recovery_point: AtomicU64,
    /// What is to be written down of the partition. Taken last of all locks, and for a moment only.
    marks: Mutex<Marks>,
    bytes_since_checkpoint: AtomicU64,
    /// Whether any append was promised an interval, which then has to be looked after.
    interval_asked: AtomicBool,
    writer: Mutex<Writer>,
    commit: Commit,
    waiters: Waiters,
    epochs: Mutex<EpochCache>,
    /// Held while they are written to their file.
    saving_epochs: Mutex<()>,
    snapshots: Snapshots,
    removals: Removals,
    /// Counts beginnings and ends of truncations: what a reader met meanwhile may be none of the log.
    truncations: AtomicU64,
    counters: Counters,
    compaction: Compaction,
    compaction_limits: CompactionLimits,
    unfinished: Mutex<Unfinished>,
    /// Held by whoever compacts, or keeps others from it.
    compacting: Mutex<()>,
    /// Tells whoever compacts to give up.
    compaction_stop: AtomicUsize,
    /// Chance, for the share of `segment.jitter.ms` that each segment gets.
    roll_seed: u64,
    /// Held while sealed segments are tidied up and checkpoints are made.
    upkeep: Mutex<()>,
    report: Arc<RecoveryReport>,
}

/// What only the holder of the writer lock may touch.
#[derive(Debug)]
struct Writer {
    state: State,
    active: ActiveSegment,
    /// The offset that the next record will get; at or above the published log end.
    next_offset: u64,
    /// Counts reopenings: offsets that were written but not published in one life are given again in the next.
    life: u64,
    /// Sealed segments with bytes that are not synced, and how many bytes each has.
    unsynced: Vec<(Arc<Segment>, u64)>,
    /// Sealed segments whose index files are not written yet.
    unindexed: Vec<Arc<Segment>>,
    /// Segments that a truncation took out of the log and whose files still have their names.
    unretired: Vec<Arc<Segment>>,
    /// Whether a segment was sealed that nobody has tidied up after yet.
    rolled: bool,
    /// Counts files created in the directory; and how many of them the directory was synced for.
    created: u64,
    created_synced: u64,
    /// The epoch in which this partition leads; what it appends is stamped with it.
    leader_epoch: i32,
    /// The epoch that the epoch cache was last told, so that an append need not ask it.
    noted_epoch: Option<i32>,
    producers: Producers,
    appends: Appends,
}

/// What is to be written down of a partition, so that the next opening need not find it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Marks {
    /// How far the log is known to be on disk.
    now: Mark,
    /// How far it was when something came up that must be in a file of its own before a recovery may begin behind
    /// it: an aborted transaction, a leader epoch. Still to be written; and being written.
    unsaved: Option<Mark>,
    saving: Option<Mark>,
    /// The first offset that compaction has not been over.
    first_dirty: Option<u64>,
    /// Where the loss of what is damaged was accepted.
    accepted: AcceptedLoss,
    /// The CRC-32 of the leader-epoch file.
    epochs_checksum: u32,
    /// The topic was deleted: nothing is to be written down any more.
    deleted: bool,
}

/// A place from which a recovery may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Mark {
    durable: DurableMark,
    /// Whether any producer was known there.
    producers: bool,
}

impl Marks {
    fn at(mark: Mark, epochs_checksum: u32) -> Self {
        Marks { now: mark, epochs_checksum, ..Marks::default() }
    }

    /// The latest place from which a recovery finds everything.
    fn recoverable(&self) -> Mark {
        let marks = [self.unsaved, self.saving].into_iter().flatten().chain([self.now]);
        marks.min_by_key(|mark| mark.durable.offset).unwrap_or(self.now)
    }

    /// Recovery must not begin behind where the log is on disk now, until what just came up is saved.
    fn hold(&mut self) {
        self.unsaved.get_or_insert(self.now);
    }

    /// What came up so far is about to be saved.
    fn begin_saving(&mut self) {
        let both = [self.saving, self.unsaved.take()].into_iter().flatten();
        self.saving = both.min_by_key(|mark| mark.durable.offset);
    }

    /// The log is about to be cut there.
    fn lower(&mut self, durable: DurableMark) {
        for mark in [Some(&mut self.now), self.unsaved.as_mut(), self.saving.as_mut()].into_iter().flatten() {
            if mark.durable.offset > durable.offset {
                // Some producer may have been known there that is not any more.
                *mark = Mark { durable, producers: true };
            }
        }
        self.first_dirty = self.first_dirty.map(|dirty| dirty.min(durable.segment));
        self.accepted.cut(durable.offset);
    }
}

/// A place in the log up to which everything is known to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DurableMark {
    /// Offsets below it are on disk.
    pub(crate) offset: u64,
    /// The segment in which the offset lies or will lie.
    pub(crate) segment: u64,
    /// Where in its log file the batch of that offset begins.
    pub(crate) position: u64,
}

/// Whether appends are taken.
#[derive(Debug)]
enum State {
    Ready,
    /// A write or sync failed (P5).
    Poisoned {
        action: &'static str,
        cause: String,
        retry: bool,
    },
    /// There is damage that an append would cover up (P4).
    Damaged {
        first_lost: u64,
        detail: String,
        unrepaired: Option<Error>,
    },
    ReadOnly,
    Closed,
    /// The topic was deleted: nothing of it is to be written down any more.
    Deleted,
}

/// What a partition asks of the store around it.
pub(crate) trait Surroundings: fmt::Debug + Send + Sync {
    /// Writes the recovery points of all partitions to disk.
    fn checkpoint(&self) -> Result<()>;

    /// Writes down that offsets may be missing from this partition from now on.
    fn allow_gaps(&self, id: &TopicPartition) -> Result<()>;
}

impl Partition {
    /// Which partition of which topic this is.
    pub fn id(&self) -> &TopicPartition {
        &self.log.id
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        full_path(self.log.fs(), &self.log.directory)
    }

    /// The first offset that can be read.
    pub fn log_start(&self) -> u64 {
        self.log.log_start.load(Ordering::Acquire)
    }

    /// The offset that the next record will get: one more than the last that readers may have.
    pub fn log_end(&self) -> u64 {
        self.log.log_end.load(Ordering::Acquire)
    }

    /// Offsets below it are known to be on disk. After a crash, reading begins here to find the end.
    pub fn recovery_point(&self) -> u64 {
        self.log.recovery_point.load(Ordering::Acquire).min(self.log_end())
    }

    /// The bytes of its log files.
    pub fn size(&self) -> u64 {
        self.log.segments.load().iter().map(|segment| segment.size()).sum()
    }

    /// The base offsets of its segments, in order; the last one is being appended to.
    pub fn segments(&self) -> Vec<u64> {
        self.log.segments.load().iter().map(|segment| segment.base_offset()).collect()
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<LogConfig> {
        self.log.config.load_full()
    }

    /// What was found and done when it was opened.
    pub fn recovery_report(&self) -> Arc<RecoveryReport> {
        Arc::clone(&self.log.report)
    }

    /// Makes everything appended so far durable, whatever the durability of the topic.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::StorageFull`] if the sync fails; the partition is then poisoned.
    pub fn flush(&self) -> Result<()> {
        self.log.sync_written()
    }

    /// Waits until there is a record at `offset` or behind it, at most for `timeout`. Returns whether there is.
    ///
    /// The append wakes the waiter; nothing is polled.
    ///
    /// # Errors
    /// [`Error::Closed`] if the store is closed meanwhile.
    pub fn wait_for(&self, offset: u64, timeout: Duration) -> Result<bool> {
        self.log.wait_for(offset, Isolation::ReadUncommitted, timeout)
    }

    /// As [`wait_for`](Self::wait_for), for a reader of that isolation: one of committed data waits until the
    /// transaction that holds the record is ended.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_for_with(&self, offset: u64, isolation: Isolation, timeout: Duration) -> Result<bool> {
        self.log.wait_for(offset, isolation, timeout)
    }

    /// Opens a poisoned partition for appends again, by recovering it in place: unacknowledged bytes behind the
    /// published end are cut, what is not known to be on disk is written and synced once more.
    ///
    /// Does nothing if it is not poisoned.
    ///
    /// # Errors
    /// As the system calls fail; it then stays poisoned. [`Error::Damaged`] if there is damage to accept first.
    pub fn reopen(&self) -> Result<()> {
        self.log.reopen()
    }

    /// Accepts that the offsets from `first_lost` on, as [`Damage`] names them, cannot be read any more, so that
    /// appends are taken again. Nothing that can still be read is removed, and no offset is given twice.
    ///
    /// Where a read, not recovery, has found the damage, appends are taken anyway. But who keeps state in a log, as
    /// coordinators of groups and transactions do, refuses to go by the rest of it until the loss is accepted, with the
    /// offset that the [error](Error::Corruption) names. What was accepted stays so, from the first such offset to the
    /// last.
    ///
    /// # Errors
    /// [`Error::Damaged`] if that is not where the damage begins: look at the
    /// [report](Self::recovery_report) first.
    pub fn accept_loss(&self, first_lost: u64) -> Result<()> {
        self.log.accept_loss(first_lost)?;
        match self.behind_damage(first_lost) {
            Some(behind) => self.log.note_accepted(first_lost, behind),
            None => Ok(()),
        }
    }

    /// What is known of the producers that appended with an id, ordered by it.
    pub fn producers(&self) -> Vec<ProducerState> {
        self.log.writer.lock().producers.active()
    }

    /// The transactions that are neither committed nor aborted, oldest first: what readers of committed data wait
    /// for.
    pub fn open_transactions(&self) -> Vec<OpenTransaction> {
        self.log.writer.lock().producers.open_transactions()
    }

    /// Begins a new segment, unless the active one is empty.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn roll(&self) -> Result<()> {
        self.log.roll_now()
    }

    pub(crate) fn set_config(&self, config: LogConfig) {
        if config.cleanup_policy.compact {
            self.log.sparse.store(true, Ordering::Relaxed);
        }
        self.log.follow_config(&config);
        self.log.config.store(Arc::new(config));
    }

    /// Why appends are refused, if they are.
    pub(crate) fn check(&self) -> Result<()> {
        self.log.writer.lock().check(&self.log.id)
    }

    /// Syncs if the topic's interval has passed. Returns whether it did.
    pub(crate) fn sync_if_due(&self) -> Result<bool> {
        let config = self.log.config.load();
        self.log.sync_if_due(&config, 0, 0, config.durability)
    }

    /// Writes indexes that are only in memory to their files.
    pub(crate) fn persist_indexes(&self) -> Result<()> {
        self.log.persist_indexes(false)
    }

    /// How far the log is known to be safe, to be written down.
    pub(crate) fn checkpoint(&self) -> Option<PartitionCheckpoint> {
        self.log.checkpoint()
    }

    /// Ends appends, syncs, and writes what a clean start needs. Handles that are left can still read.
    pub(crate) fn close(&self) -> Result<Option<PartitionCheckpoint>> {
        self.log.close()
    }

    /// Ends a compaction under way, and those to come: the partition is about to be closed.
    pub(crate) fn end_compaction(&self) {
        self.log.compaction_stop.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends appends and waits at once, without syncing anything: the partition is being deleted.
    pub(crate) fn abandon(&self) {
        self.log.writer.lock().state = State::Deleted;
        self.log.marks.lock().deleted = true;
        self.log.waiters.close();
        // One under way must not write into what may soon be another's directory.
        drop(self.log.pause_compaction());
        // Who is at its files by their names must be done: the names may be another topic's the moment after.
        drop(self.log.upkeep.lock());
        self.log.all_segments().iter().for_each(|segment| segment.lose());
    }

    /// After [`abandon`](Self::abandon): readers find its log files in that directory now.
    pub(crate) fn moved_to(&self, directory: &Path) {
        self.log.all_segments().iter().for_each(|segment| segment.log().file().found_in(directory));
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("id", &self.log.id)
            .field("log_start", &self.log_start())
            .field("log_end", &self.log_end())
            .finish_non_exhaustive()
    }
}

impl Log {
    fn fs(&self) -> &dyn FileSystem {
        self.pool.fs()
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether a gap between offsets is damage.
    fn dense(&self) -> bool {
        !self.sparse.load(Ordering::Relaxed)
    }

    /// Makes sure that a gap which is about to come is not taken for damage later.
    fn allow_gaps(&self) -> Result<()> {
        if self.dense() {
            self.surroundings.allow_gaps(&self.id)?;
            self.sparse.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Writer {
    fn new(
        state: State,
        active: ActiveSegment,
        next_offset: u64,
        created: u64,
        epoch: Option<i32>,
        producers: Producers,
    ) -> Self {
        Writer {
            state,
            active,
            next_offset,
            life: 0,
            unsynced: Vec::new(),
            unindexed: Vec::new(),
            unretired: Vec::new(),
            rolled: false,
            created,
            created_synced: 0,
            leader_epoch: epoch.unwrap_or(0),
            noted_epoch: epoch,
            producers,
            appends: Appends::default(),
        }
    }

    /// Where the next record will lie: how far the log is on disk once all of it is.
    fn end(&self) -> DurableMark {
        let (segment, position) = (self.active.base_offset(), self.active.position());
        DurableMark { offset: self.next_offset, segment, position }
    }

    /// Why appends are refused, if they are.
    fn check(&self, id: &TopicPartition) -> Result<()> {
        let partition = || id.to_string();
        match &self.state {
            State::Ready => Ok(()),
            State::Poisoned { action, cause, .. } => {
                Err(Error::Poisoned { partition: partition(), action, cause: cause.clone() })
            }
            State::Damaged { detail, .. } => {
                Err(Error::Damaged { partition: partition(), detail: detail.clone() })
            }
            State::ReadOnly => Err(Error::ReadOnly { action: "append to", path: partition().into() }),
            State::Closed | State::Deleted => Err(Error::Closed { what: partition() }),
        }
    }

    /// Whether the directory may be somebody else's by now, so that nothing in it may be touched.
    fn is_over(&self) -> bool {
        matches!(self.state, State::Closed | State::Deleted)
    }

    /// Takes no more appends until the partition is reopened (P5).
    fn poison(&mut self, id: &TopicPartition, action: &'static str, error: &Error) {
        if matches!(self.state, State::Ready) {
            let cause = error.to_string();
            observe::poisoned(id, action, &cause);
            self.state = State::Poisoned { action, cause, retry: error.is_retryable() };
        }
    }
}
