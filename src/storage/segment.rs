//! [`Segment`]: one log file and its indexes kept in step. The segment that is appended to is another type,
//! [`ActiveSegment`]; sealing it consumes it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::file_name::{DERIVED_KINDS, FileKind, Stage, file_name, staged_name};
use super::log_file::{BatchReader, LogFile, Unreadable, find_batch_after};
use super::offset_index::OffsetIndex;
use super::pool::{FilePool, Forget};
use super::time_index::{TimeIndex, TimeIndexEntry};
use super::transaction_index::TransactionIndex;
use crate::error::{Error, Result};
use crate::format::{AbortedTransaction, BatchHeader, RecordBatch};
use crate::fs::{Disk, FileSystem, full_path, remove_if_there, retry};

/// One log file with its offset and time index, for reading.
///
/// Partitions hand out records without it; it opens on its own for tools and tests.
///
/// ```no_run
/// let segment = annals::Segment::open("data/clicks-0", 0)?;
/// for batch in segment.batches() {
///     println!("{} to {}", batch?.base_offset(), segment.size());
/// }
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug)]
pub struct Segment {
    log: Arc<LogFile>,
    directory: PathBuf,
    active: bool,
    index_interval: u64,
    /// Loaded when first used. While the segment is active they live in memory and grow; never replaced then.
    indexes: Arc<ArcSwapOption<Indexes>>,
    loading: Mutex<()>,
    rebuilt: AtomicBool,
    /// Of a sealed segment; once known it is not looked up again.
    max_timestamp: OnceLock<i64>,
    first_timestamp: OnceLock<i64>,
    /// Whether the indexes in memory were rebuilt, and their files are still the old ones or missing.
    outdated_files: AtomicBool,
    /// The transactions aborted in it, loaded when first asked for.
    aborted: Mutex<Option<Arc<TransactionIndex>>>,
    /// Whether its file does not have all of them yet.
    aborted_unsaved: AtomicBool,
    /// Held while that file is written.
    saving_aborted: Mutex<()>,
    /// When it was last appended to, in milliseconds since the epoch; `UNKNOWN_TIME` until that is looked up.
    appended_at: AtomicI64,
    /// Whether its files are on their way out: their names say nothing any more.
    retired: AtomicBool,
}

const UNKNOWN_TIME: i64 = i64::MIN;

/// The two indexes of a segment and what they cannot hold yet.
#[derive(Debug)]
pub(crate) struct Indexes {
    pub(crate) offset: OffsetIndex,
    pub(crate) time: TimeIndex,
    /// The largest timestamp of the segment, -1 if there is none, and the last offset of the batch that had it.
    max_timestamp: AtomicI64,
    max_timestamp_offset: AtomicU64,
    /// The entries of both that their files have.
    entries_on_disk: AtomicUsize,
}

impl Segment {
    /// Opens the segment of a partition directory that begins at `base_offset`, for reading alone. Nothing is
    /// written, not even a missing index, and no lock is taken: a segment that is being appended to is seen as it
    /// is at this moment.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such log file or it cannot be read, [`Error::TooLarge`] if it is larger than
    /// a segment can be (2 GiB).
    pub fn open(directory: impl AsRef<Path>, base_offset: u64) -> Result<Self> {
        let pool = FilePool::new(Arc::new(Disk::open(directory)?), 1, true, false);
        let file = pool.file(file_name(Path::new(""), base_offset, FileKind::Log));
        let log = LogFile::new(file, base_offset, 0);
        let size = log.size()?;
        if size > i32::MAX as u64 {
            let limit = i32::MAX as u64;
            return Err(Error::TooLarge { what: "a segment", size, limit, setting: "Kafka's format" });
        }
        log.publish(size);
        Ok(Segment::sealed(Arc::new(log), PathBuf::new(), DEFAULT_INDEX_INTERVAL))
    }

    /// The offset that names the segment: no record in it lies below.
    pub fn base_offset(&self) -> u64 {
        self.log.base_offset()
    }

    /// The bytes of its log file that can be read.
    pub fn size(&self) -> u64 {
        self.log.readable()
    }

    /// The path of its log file.
    pub fn path(&self) -> PathBuf {
        self.log.path()
    }

    /// Its offset index, loaded if need be, or rebuilt from the log if it is missing or damaged.
    ///
    /// # Errors
    /// [`Error::Io`] if the log cannot be read.
    pub fn with_offset_index<T>(&self, look: impl FnOnce(&OffsetIndex) -> T) -> Result<T> {
        Ok(look(&self.indexes()?.offset))
    }

    /// Its time index, as [`with_offset_index`](Self::with_offset_index).
    ///
    /// # Errors
    /// [`Error::Io`] if the log cannot be read.
    pub fn with_time_index<T>(&self, look: impl FnOnce(&TimeIndex) -> T) -> Result<T> {
        Ok(look(&self.indexes()?.time))
    }

    /// Its batches from the first on, each verified. Stops after the first error.
    pub fn batches(&self) -> SegmentBatches {
        SegmentBatches { reader: BatchReader::new(Arc::clone(&self.log), 0), end: self.size(), failed: false }
    }

    pub(crate) fn sealed(log: Arc<LogFile>, directory: PathBuf, index_interval: u64) -> Self {
        Segment::with_form(log, directory, index_interval, false)
    }

    fn with_form(log: Arc<LogFile>, directory: PathBuf, index_interval: u64, active: bool) -> Self {
        Segment {
            log,
            directory,
            active,
            index_interval,
            indexes: Arc::default(),
            loading: Mutex::default(),
            rebuilt: AtomicBool::new(false),
            max_timestamp: OnceLock::new(),
            first_timestamp: OnceLock::new(),
            outdated_files: AtomicBool::new(false),
            aborted: Mutex::default(),
            aborted_unsaved: AtomicBool::new(false),
            saving_aborted: Mutex::default(),
            appended_at: AtomicI64::new(UNKNOWN_TIME),
            retired: AtomicBool::new(false),
        }
    }

    pub(crate) fn log(&self) -> &Arc<LogFile> {
        &self.log
    }

    /// The largest timestamp of its records, -1 if they have none.
    pub(crate) fn max_timestamp(&self) -> Result<i64> {
        if let Some(known) = self.max_timestamp.get() {
            return Ok(*known);
        }
        if !self.active {
            self.check_times()?;
        }
        let largest = self.indexes()?.max_timestamp.load(Ordering::Acquire);
        Ok(if self.active { largest } else { *self.max_timestamp.get_or_init(|| largest) })
    }

    /// The largest timestamp of its first batch, if it has one that can be read.
    pub(crate) fn first_timestamp(&self) -> Option<i64> {
        if let Some(known) = self.first_timestamp.get() {
            return Some(*known);
        }
        let first = BatchReader::new(Arc::clone(&self.log), 0).peek(self.size()).ok().flatten()?;
        Some(*self.first_timestamp.get_or_init(|| first.max_timestamp))
    }

    /// An offset up to which no record is later than `timestamp`, confirmed by the batch that ends there; or the
    /// base offset.
    pub(crate) fn offset_hint(&self, timestamp: i64) -> Result<u64> {
        let hint = self.indexes()?.time.lookup(timestamp);
        let confirmed = hint.timestamp >= 0 && self.holds_time(hint)?;
        Ok(if confirmed { hint.offset } else { self.base_offset() })
    }

    /// A time index that lost its last entries looks like a whole one. What lies behind its last entry must not be
    /// later, or it is made anew.
    fn check_times(&self) -> Result<()> {
        let last = self.indexes()?.time.last();
        let last = last.unwrap_or(TimeIndexEntry { timestamp: -1, offset: self.base_offset() });
        let end = self.log.readable();
        let mut reader = self.reader_for(last.offset)?;
        loop {
            match reader.next(end) {
                Ok(Some(batch)) if batch.header().max_timestamp > last.timestamp => break,
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Damaged(_)) => break,
            }
        }
        self.keep(self.rebuild()?);
        Ok(())
    }

    /// Whether a batch with that largest timestamp ends at that offset.
    fn holds_time(&self, entry: TimeIndexEntry) -> Result<bool> {
        let end = self.log.readable();
        let mut reader = self.reader_for(entry.offset)?;
        loop {
            match reader.next(end) {
                Ok(Some(batch)) if batch.last_offset() < entry.offset => {}
                Ok(Some(batch)) => {
                    let header = batch.header();
                    return Ok(header.last_offset == entry.offset && header.max_timestamp == entry.timestamp);
                }
                Ok(None) | Err(Unreadable::Damaged(_)) => return Ok(false),
                Err(Unreadable::Failed(error)) => return Err(error),
            }
        }
    }

    /// A reader at a batch boundary at or before the first batch that reaches `offset`, confirmed by the batch found
    /// there.
    pub(crate) fn reader_for(&self, offset: u64) -> Result<BatchReader> {
        let hint = self.indexes()?.offset.lookup(offset);
        let from = |position| BatchReader::new(Arc::clone(&self.log), position);
        let mut reader = from(hint.position);
        if hint.position == 0 || self.confirms(hint.offset, &mut reader)? {
            return Ok(reader);
        }
        // The index lies, or the batch is damaged. Either way the log decides.
        if !self.active && !self.rebuilt.swap(true, Ordering::AcqRel) {
            let indexes = self.rebuild()?;
            let rebuilt = indexes.offset.lookup(offset).position;
            self.keep(indexes);
            return Ok(from(rebuilt));
        }
        Ok(from(0))
    }

    /// Whether a batch that ends at `offset` begins where the reader stands, by its header; whoever reads on
    /// verifies it. An append of several batches at once may have noted the last offset of all of them (older
    /// Kafka), so ending below it is checked by walking on. The reader does not move.
    fn confirms(&self, offset: u64, reader: &mut BatchReader) -> Result<bool> {
        let (start, end) = (reader.position(), self.log.readable());
        let confirmed = loop {
            match reader.next_header(end) {
                Ok(Some(header)) if header.last_offset == offset => break true,
                Ok(Some(header)) if header.last_offset < offset => {}
                Ok(_) | Err(Unreadable::Damaged(_)) => break false,
                Err(Unreadable::Failed(error)) => return Err(error),
            }
        };
        reader.seek(start);
        Ok(confirmed)
    }

    pub(crate) fn indexes(&self) -> Result<Arc<Indexes>> {
        if let Some(indexes) = self.indexes.load_full() {
            return Ok(indexes);
        }
        let _one_at_a_time = self.loading.lock();
        if let Some(indexes) = self.indexes.load_full() {
            return Ok(indexes);
        }
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(_) => {
                self.rebuilt.store(true, Ordering::Release);
                self.rebuild()?
            }
        };
        Ok(self.keep(loaded))
    }

    /// Uses these indexes, if there are any, instead of those on disk.
    pub(crate) fn adopt(&self, indexes: Option<Arc<Indexes>>) {
        self.indexes.store(indexes);
    }

    fn keep(&self, indexes: Indexes) -> Arc<Indexes> {
        let indexes = Arc::new(indexes);
        self.indexes.store(Some(Arc::clone(&indexes)));
        indexes
    }

    /// When it was last appended to: as noted, or as the file says.
    pub(crate) fn append_time(&self) -> Result<i64> {
        let known = self.appended_at.load(Ordering::Acquire);
        if known != UNKNOWN_TIME {
            return Ok(known);
        }
        let (fs, name) = (self.log.file().pool().fs(), self.log.file().name());
        let metadata = retry(|| fs.metadata(&name));
        let modified = metadata.map_err(|error| Error::io("look at", &full_path(fs, &name), error))?.modified;
        self.appended_at.store(modified, Ordering::Release);
        Ok(modified)
    }

    /// Lets the file say when it was last appended to, so that it is still known after a restart.
    pub(crate) fn write_append_time(&self) -> Result<()> {
        let known = self.appended_at.load(Ordering::Acquire);
        if known == UNKNOWN_TIME {
            return Ok(());
        }
        self.log.file().with("set the time of", |file| retry(|| file.set_modified(known)))
    }

    pub(crate) fn set_append_time(&self, millis: i64) {
        self.appended_at.store(millis, Ordering::Release);
    }

    /// The transactions aborted in it, or `None` if their file is not what was written: then they have to be found
    /// in the log.
    pub(crate) fn aborted(&self) -> Result<Option<Arc<TransactionIndex>>> {
        let mut held = self.aborted.lock();
        if held.is_none() && !self.retired.load(Ordering::Acquire) {
            let fs = self.log.file().pool().fs();
            *held = TransactionIndex::load_checked(fs, &self.directory, self.base_offset())?.map(Arc::new);
            if held.as_ref().is_some_and(|index| !index.entries().is_empty()) {
                // One that Kafka wrote gets its checksum with the next checkpoint.
                let guarded = TransactionIndex::has_checksum(fs, &self.directory, self.base_offset())?;
                self.aborted_unsaved.fetch_or(!guarded, Ordering::AcqRel);
            }
        }
        Ok(held.clone())
    }

    /// Uses these aborted transactions; `unsaved` if the file does not have them.
    pub(crate) fn set_aborted(&self, index: TransactionIndex, unsaved: bool) {
        let mut held = self.aborted.lock();
        *held = Some(Arc::new(index));
        self.aborted_unsaved.store(unsaved, Ordering::Release);
    }

    /// Goes on with the aborted transactions of another value for the same file.
    pub(crate) fn take_aborted(&self, other: &Segment) {
        self.aborted.lock().clone_from(&other.aborted.lock());
        self.aborted_unsaved.store(other.is_aborted_unsaved(), Ordering::Release);
    }

    /// Whether the file lacks some of the aborted transactions, or has some too many.
    pub(crate) fn is_aborted_unsaved(&self) -> bool {
        self.aborted_unsaved.load(Ordering::Acquire)
    }

    /// Notes a transaction whose marker was just appended. The others must be in memory.
    pub(crate) fn note_aborted(&self, aborted: AbortedTransaction) {
        let mut held = self.aborted.lock();
        let index = held.get_or_insert_default();
        // Markers come in the order of their offsets.
        if Arc::make_mut(index).append(aborted).is_ok() {
            self.aborted_unsaved.store(true, Ordering::Release);
        }
    }

    /// Writes the aborted transactions to their file, if it lacks some.
    pub(crate) fn write_aborted(&self) -> Result<()> {
        let _one_at_a_time = self.saving_aborted.lock();
        if !self.is_aborted_unsaved() {
            return Ok(());
        }
        let index = self.aborted.lock().clone().unwrap_or_default();
        index.write(self.log.file().pool().fs(), &self.directory, self.base_offset())?;
        let held = self.aborted.lock();
        // One noted meanwhile has made it another index.
        if held.as_ref().is_none_or(|held| Arc::ptr_eq(held, &index)) {
            self.aborted_unsaved.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Writes what belongs to it beside its log, under the names of a stage.
    pub(crate) fn write_staged(&self, aborted: &TransactionIndex, stage: Stage) -> Result<()> {
        let (indexes, base, fs) = (self.indexes()?, self.base_offset(), self.log.file().pool().fs());
        let name = |kind| staged_name(&self.directory, base, kind, stage);
        indexes.time.write(fs, &name(FileKind::TimeIndex))?;
        indexes.offset.write(fs, &name(FileKind::OffsetIndex))?;
        if !aborted.entries().is_empty() {
            let (index, checksum) = (name(FileKind::TransactionIndex), name(FileKind::TransactionChecksum));
            aborted.write_as(fs, &index, &checksum)?;
        }
        Ok(())
    }

    /// Gives its files the names of another stage. The caller syncs the directory.
    pub(crate) fn restage(&self, from: Stage, to: Stage) -> Result<()> {
        let (base, fs) = (self.base_offset(), self.log.file().pool().fs());
        self.log.file().rename(staged_name(&self.directory, base, FileKind::Log, to))?;
        for kind in DERIVED_KINDS {
            let name = |stage| staged_name(&self.directory, base, kind, stage);
            rename_if_there(fs, &name(from), &name(to))?;
        }
        Ok(())
    }

    /// Gives its files the names of files on their way out. Readers go on reading them.
    pub(crate) fn retire(&self) -> Result<()> {
        // What is in memory by now stays; the names will say nothing.
        let _ = self.aborted();
        let _ = self.indexes();
        self.retired.store(true, Ordering::Release);
        self.restage(Stage::Final, Stage::Deleted)
    }

    /// Its directory is about to be renamed, and another partition may take the name.
    pub(crate) fn lose(&self) {
        // Whoever is reading what was aborted is done before.
        let _held = self.aborted.lock();
        self.retired.store(true, Ordering::Release);
        self.log.file().lose();
    }

    /// Removes its files for good, once they are retired.
    pub(crate) fn remove_retired(&self) -> Result<()> {
        self.log.file().forsake();
        remove_files(self.log.file().pool().fs(), &self.directory, self.base_offset(), Stage::Deleted)
    }

    /// Both indexes from their files.
    fn load(&self) -> Result<Indexes> {
        if self.retired.load(Ordering::Acquire) {
            let detail = "its files are on their way out".into();
            return Err(Error::Corruption {
                path: self.path(),
                position: 0,
                offset: self.base_offset(),
                detail,
            });
        }
        let (pool, base, end) = (self.log.file().pool(), self.base_offset(), self.log.readable());
        let name = |kind| file_name(&self.directory, base, kind);
        let map = pool.may_map() && !self.active;
        let offset = OffsetIndex::load(pool.fs(), &name(FileKind::OffsetIndex), base, map)?;
        let time = TimeIndex::load(pool.fs(), &name(FileKind::TimeIndex), base, map)?;
        if map {
            pool.mapped(Arc::downgrade(&self.indexes) as Weak<dyn Forget>);
        }
        if offset.last().is_some_and(|last| last.position >= end) {
            let detail = "its last entry points behind the end of the log".into();
            return Err(Error::Corruption { path: self.path(), position: 0, offset: base, detail });
        }
        let entries = offset.len() + time.len();
        let indexes = if self.active {
            let indexes = Indexes::new(offset.to_active(u64::MAX, end), time.to_active(u64::MAX));
            indexes.catch_up(&self.log, end, self.index_interval)?
        } else {
            check_covers(&self.log, &offset, &time, end)?;
            Indexes::new(offset, time)
        };
        indexes.entries_on_disk.store(entries, Ordering::Relaxed);
        Ok(indexes)
    }

    /// Both indexes from the log itself, in memory. Damaged stretches of the log are left out.
    fn rebuild(&self) -> Result<Indexes> {
        let end = self.log.readable();
        let indexes = Arc::new(Indexes::empty(self.base_offset()));
        let mut indexer = Indexer::new(Arc::clone(&indexes), self.index_interval);
        let mut reader = BatchReader::new(Arc::clone(&self.log), 0);
        let mut next_offset = self.base_offset();
        let mut believed = self.base_offset();
        loop {
            let position = reader.position();
            match reader.next(end) {
                Ok(Some(batch)) => {
                    // Where offsets jump or go back there may be damage, for the reader to report. The checksum
                    // does not cover them, so nothing is noted that the batch before does not vouch for, but for
                    // its time, under an offset that is surely not behind it: it must still be found.
                    let header = batch.header();
                    let follows = header.base_offset == next_offset || !header.base_offset_known();
                    if follows && self.log.may_hold(header) {
                        indexer.note(header, position)?;
                        believed = header.last_offset;
                    } else {
                        indexes.raise_max_timestamp(header.max_timestamp, believed);
                    }
                    next_offset = header.next_offset().max(self.base_offset());
                }
                Ok(None) => break,
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Damaged(_)) => {
                    match find_batch_after(&self.log, position, end, next_offset + 1)? {
                        Some(found) => reader.seek(found),
                        None => break,
                    }
                }
            }
        }
        indexer.finish()?;
        drop(indexer);
        self.outdated_files.store(!self.active, Ordering::Release);
        Ok(Arc::try_unwrap(indexes).unwrap_or_else(|shared| Indexes::copy(&shared)))
    }

    /// Writes indexes to their files that had to be rebuilt. Reading does not; it repairs nothing.
    pub(crate) fn write_rebuilt_indexes(&self) -> Result<()> {
        if self.outdated_files.swap(false, Ordering::AcqRel) {
            let written = self.write_indexes();
            self.outdated_files.store(written.is_err(), Ordering::Release);
            return written;
        }
        Ok(())
    }

    /// Writes both indexes to their files if there are entries that the files do not have yet. The index of a log
    /// too short for an entry is not worth a file: it is rebuilt faster than read.
    pub(crate) fn write_grown_indexes(&self) -> Result<()> {
        let Some(indexes) = self.indexes.load_full() else { return Ok(()) };
        if indexes.offset.is_empty() {
            return Ok(());
        }
        Indexer::new(Arc::clone(&indexes), 0).finish()?;
        if indexes.offset.len() + indexes.time.len() > indexes.entries_on_disk.load(Ordering::Acquire) {
            return self.write_indexes();
        }
        Ok(())
    }

    /// Writes both indexes to their files.
    pub(crate) fn write_indexes(&self) -> Result<()> {
        let indexes = self.indexes()?;
        let entries = indexes.offset.len() + indexes.time.len();
        let fs = self.log.file().pool().fs();
        let name = |kind| file_name(&self.directory, self.base_offset(), kind);
        // In this order: what the offset index on disk covers, the time index on disk covers, too.
        indexes.time.write(fs, &name(FileKind::TimeIndex))?;
        indexes.offset.write(fs, &name(FileKind::OffsetIndex))?;
        indexes.entries_on_disk.store(entries, Ordering::Release);
        Ok(())
    }
}

impl Forget for ArcSwapOption<Indexes> {
    fn forget(&self) {
        self.store(None);
    }
}

const DEFAULT_INDEX_INTERVAL: u64 = 4096;

impl Indexes {
    fn new(offset: OffsetIndex, time: TimeIndex) -> Self {
        let last = time.last();
        Indexes {
            max_timestamp: AtomicI64::new(last.map_or(-1, |last| last.timestamp)),
            max_timestamp_offset: AtomicU64::new(last.map_or(offset.base_offset(), |last| last.offset)),
            entries_on_disk: AtomicUsize::new(0),
            offset,
            time,
        }
    }

    pub(crate) fn empty(base_offset: u64) -> Self {
        Indexes::new(OffsetIndex::new(base_offset), TimeIndex::new(base_offset))
    }

    /// The entries on disk for the part of a log below an offset and a position, and those that the files lack,
    /// open for more.
    pub(crate) fn load_below(
        log: &Arc<LogFile>,
        directory: &Path,
        offset: u64,
        position: u64,
        index_interval: u64,
    ) -> Result<Self> {
        let (fs, base) = (log.file().pool().fs(), log.base_offset());
        let name = |kind| file_name(directory, base, kind);
        let offsets = OffsetIndex::load(fs, &name(FileKind::OffsetIndex), base, false)?;
        let times = TimeIndex::load(fs, &name(FileKind::TimeIndex), base, false)?;
        Indexes::new(offsets, times).cut_to(log, offset, position, index_interval)
    }

    /// The entries up to where the log is cut, open for more.
    pub(crate) fn cut_to(
        &self,
        log: &Arc<LogFile>,
        offset: u64,
        position: u64,
        index_interval: u64,
    ) -> Result<Self> {
        let time = self.time.to_active(offset);
        // Of an entry that goes, what it said of the batches before the cut goes, too: they are read again.
        let known = match time.last() {
            _ if time.len() == self.time.len() => offset,
            Some(last) => last.offset + 1,
            None => log.base_offset(),
        };
        let cut = Indexes::new(self.offset.to_active(known.min(offset), position), time);
        cut.catch_up(log, position, index_interval)
    }

    /// Adds what the log holds behind the last entry: the files may be older than the log below `end`.
    fn catch_up(self, log: &Arc<LogFile>, end: u64, index_interval: u64) -> Result<Self> {
        let newest = self.time.last();
        let indexes = Arc::new(self);
        let mut indexer = Indexer::new(Arc::clone(&indexes), index_interval);
        let mut follows = None;
        let last = each_behind(log, &indexes.offset, end, |header, at| {
            // No checksum covers base offsets: where they jump, a rebuild sorts out which ones to believe.
            if follows.is_some_and(|follows| header.base_offset_known() && header.base_offset != follows) {
                return Err(log.corruption(
                    at,
                    header.base_offset,
                    "offsets jump behind the last index entry",
                ));
            }
            follows = Some(header.next_offset());
            indexer.note(header, at)
        })?;
        drop(indexer);
        check_newest(log, newest, last)?;
        Ok(Arc::try_unwrap(indexes).unwrap_or_else(|shared| Indexes::copy(&shared)))
    }

    fn raise_max_timestamp(&self, timestamp: i64, last_offset: u64) {
        if timestamp > self.max_timestamp.load(Ordering::Relaxed) {
            self.max_timestamp_offset.store(last_offset, Ordering::Release);
            self.max_timestamp.store(timestamp, Ordering::Release);
        }
    }

    fn copy(other: &Indexes) -> Self {
        Indexes::new(other.offset.to_active(u64::MAX, u64::MAX), other.time.to_active(u64::MAX))
    }
}

/// Makes sure that no record behind the last entry is later than the time index knows. The files of a sealed
/// segment can be from when it was active, if a crash or a full disk kept the last ones from being written.
fn check_covers(log: &Arc<LogFile>, offset: &OffsetIndex, time: &TimeIndex, end: u64) -> Result<()> {
    let newest = time.last();
    let known = newest.map_or(-1, |newest| newest.timestamp);
    let last = each_behind(log, offset, end, |header, at| match header.max_timestamp > known {
        true => Err(log.corruption(at, header.base_offset, "the time index ends before this batch")),
        false => Ok(()),
    })?;
    check_newest(log, newest, last)
}

/// An entry for a record behind the end of the log is for one that was cut.
fn check_newest(log: &LogFile, newest: Option<TimeIndexEntry>, last_offset: Option<u64>) -> Result<()> {
    match newest.filter(|newest| last_offset.is_none_or(|last| newest.offset > last)) {
        Some(newest) => Err(log.corruption(0, newest.offset, "the time index goes on behind the log")),
        None => Ok(()),
    }
}

/// Visits the batch of the last entry and all behind it up to `end`. Returns the last offset.
fn each_behind(
    log: &Arc<LogFile>,
    offset: &OffsetIndex,
    end: u64,
    mut visit: impl FnMut(&BatchHeader, u64) -> Result<()>,
) -> Result<Option<u64>> {
    let mut last_offset = None;
    let mut reader = BatchReader::new(Arc::clone(log), offset.last().map_or(0, |last| last.position));
    loop {
        let position = reader.position();
        match reader.next(end) {
            Ok(Some(batch)) => {
                visit(batch.header(), position)?;
                last_offset = Some(batch.last_offset());
            }
            Ok(None) => return Ok(last_offset),
            Err(Unreadable::Failed(error)) => return Err(error),
            Err(Unreadable::Damaged(error)) => {
                return Err(log.corruption(position, last_offset.unwrap_or(log.base_offset()), error));
            }
        }
    }
}

/// Removes the offset and the time index of a log file.
pub(crate) fn remove_indexes(fs: &dyn FileSystem, directory: &Path, base_offset: u64) -> Result<()> {
    for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
        remove_if_there(fs, &file_name(directory, base_offset, kind))?;
    }
    Ok(())
}

/// Removes what belongs to a log file and can be had again from it; before another log file takes its name, or after
/// it is gone.
pub(crate) fn remove_derived_files(fs: &dyn FileSystem, directory: &Path, base_offset: u64) -> Result<()> {
    for kind in DERIVED_KINDS {
        remove_if_there(fs, &file_name(directory, base_offset, kind))?;
    }
    Ok(())
}

/// Removes a log file under the name of a stage, and before it what belongs to it.
pub(crate) fn remove_files(
    fs: &dyn FileSystem,
    directory: &Path,
    base_offset: u64,
    stage: Stage,
) -> Result<()> {
    for kind in DERIVED_KINDS.into_iter().chain([FileKind::Log]) {
        remove_if_there(fs, &staged_name(directory, base_offset, kind, stage))?;
    }
    Ok(())
}

fn rename_if_there(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<()> {
    match retry(|| fs.rename(from, to)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("rename", &full_path(fs, from), error))
        }
        _ => Ok(()),
    }
}

/// Notes batches in the indexes as they come (Kafka's `LogSegment.append`).
#[derive(Debug)]
pub(crate) struct Indexer {
    indexes: Arc<Indexes>,
    interval: u64,
    bytes_since_entry: u64,
}

impl Indexer {
    pub(crate) fn new(indexes: Arc<Indexes>, interval: u64) -> Self {
        Indexer { indexes, interval, bytes_since_entry: 0 }
    }

    /// Takes note of the batch at `position`, with an index entry if enough bytes came since the last.
    pub(crate) fn note(&mut self, header: &BatchHeader, position: u64) -> Result<()> {
        self.note_raw(header.last_offset, position, header.size, header.max_timestamp)
    }

    pub(crate) fn note_raw(
        &mut self,
        last_offset: u64,
        position: u64,
        size: u64,
        max_timestamp: i64,
    ) -> Result<()> {
        self.indexes.raise_max_timestamp(max_timestamp, last_offset);
        if self.bytes_since_entry > self.interval {
            self.indexes.offset.append(last_offset, position)?;
            self.finish()?;
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += size;
        Ok(())
    }

    pub(crate) fn into_indexes(self) -> Arc<Indexes> {
        self.indexes
    }

    /// Notes the largest timestamp so far, as the last entry of a sealed segment must.
    pub(crate) fn finish(&self) -> Result<()> {
        let timestamp = self.indexes.max_timestamp.load(Ordering::Relaxed);
        let offset = self.indexes.max_timestamp_offset.load(Ordering::Relaxed);
        self.indexes.time.maybe_append(timestamp, offset)
    }
}

/// The segment that is appended to: the one writer of its log file and indexes.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    segment: Arc<Segment>,
    /// Where the next batch goes. Readers see only what was published, which may end before.
    position: u64,
    /// Opened with the first append.
    indexer: Option<Indexer>,
    /// The largest timestamp of the first append; what rolling by time counts from (Kafka's rolling timestamp).
    rolling_timestamp: Option<i64>,
    created: i64,
    /// Whether a write failed behind the end: what it left was cut, but not durably.
    litter: bool,
}

impl ActiveSegment {
    /// A new segment with an empty log file.
    pub(crate) fn create(
        pool: &Arc<FilePool>,
        directory: &Path,
        base_offset: u64,
        index_interval: u64,
        now: i64,
    ) -> Result<Self> {
        remove_derived_files(pool.fs(), directory, base_offset)?;
        let log = Arc::new(LogFile::create(pool, directory, base_offset)?);
        let segment = Segment::with_form(log, directory.to_path_buf(), index_interval, true);
        segment.keep(Indexes::empty(base_offset));
        segment.set_aborted(TransactionIndex::new(), false);
        Ok(ActiveSegment {
            segment: Arc::new(segment),
            position: 0,
            indexer: None,
            rolling_timestamp: None,
            created: now,
            litter: false,
        })
    }

    /// An existing log file of which `position` bytes are valid and may be read. If no indexes are given, they are
    /// loaded with the first use.
    pub(crate) fn reopen(
        log: Arc<LogFile>,
        directory: &Path,
        index_interval: u64,
        indexes: Option<Arc<Indexes>>,
        created: i64,
    ) -> Self {
        let position = log.readable();
        let segment = Segment::with_form(log, directory.to_path_buf(), index_interval, true);
        segment.indexes.store(indexes);
        let segment = Arc::new(segment);
        // What an earlier process left behind the end, and cut without a sync, a power cut may bring back.
        ActiveSegment { segment, position, indexer: None, rolling_timestamp: None, created, litter: true }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    pub(crate) fn base_offset(&self) -> u64 {
        self.segment.base_offset()
    }

    /// Where the next batch goes: the bytes written so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Makes sure that no crash brings back what a failed write left behind the end.
    pub(crate) fn settle_end(&mut self) -> Result<()> {
        if self.litter {
            self.segment.log().cut(self.position)?;
            self.segment.log().file().sync()?;
            self.litter = false;
        }
        Ok(())
    }

    /// Writes one batch behind the last, with its index entry if one is due. Does not publish it.
    ///
    /// On a failed write nothing has changed but, perhaps, bytes behind the end, which are cut if that succeeds.
    pub(crate) fn append(
        &mut self,
        batch: &[u8],
        last_offset: u64,
        max_timestamp: i64,
        now: i64,
    ) -> Result<()> {
        let indexer = match &mut self.indexer {
            Some(indexer) => indexer,
            None => {
                let indexes = self.segment.indexes()?;
                self.indexer.insert(Indexer::new(indexes, self.segment.index_interval))
            }
        };
        let log = self.segment.log();
        if let Err(error) = log.write(batch, self.position) {
            // If this fails as well, the next batch is written over what is left, or recovery cuts it.
            let _ = log.cut(self.position);
            self.litter = true;
            return Err(error);
        }
        indexer.note_raw(last_offset, self.position, batch.len() as u64, max_timestamp)?;
        self.segment.appended_at.store(now, Ordering::Relaxed);
        if self.position == 0 {
            self.rolling_timestamp = Some(max_timestamp);
        }
        self.position += batch.len() as u64;
        Ok(())
    }

    /// Forgets what was written behind `position` and never published. Index entries for it may stay; they are
    /// hints that no batch will confirm.
    pub(crate) fn go_back(&mut self, position: u64) {
        self.position = position;
        self.indexer = None;
    }

    /// How long it has been appended to, in milliseconds, by the records' own time if they have one. An empty
    /// segment has not.
    pub(crate) fn age(&mut self, timestamp: i64, now: i64) -> i64 {
        if self.position == 0 {
            return 0;
        }
        let rolling = match self.rolling_timestamp {
            Some(rolling) => rolling,
            None => {
                let mut reader = BatchReader::new(Arc::clone(self.segment.log()), 0);
                let first = reader.peek(self.position).ok().flatten();
                *self.rolling_timestamp.insert(first.map_or(-1, |header| header.max_timestamp))
            }
        };
        if rolling >= 0 { timestamp.saturating_sub(rolling) } else { now.saturating_sub(self.created) }
    }

    /// The entries that its larger index holds, in bytes of the file.
    pub(crate) fn index_bytes(&self) -> u64 {
        let Some(Indexer { indexes, .. }) = &self.indexer else { return 0 };
        let offset = indexes.offset.len() * crate::format::OffsetIndexEntry::SIZE;
        // Kafka keeps the last slot of a time index for the entry made when it is sealed.
        let time = (indexes.time.len() + 1) * crate::format::TimeIndexEntry::SIZE;
        offset.max(time) as u64
    }

    /// Ends it: its indexes get their last entry. The result reads the same log file, with the same indexes in
    /// memory until their files are written.
    pub(crate) fn seal(self) -> Arc<Segment> {
        let active = self.segment;
        let sealed =
            Segment::sealed(Arc::clone(&active.log), active.directory.clone(), active.index_interval);
        sealed.take_aborted(&active);
        sealed.appended_at.store(active.appended_at.load(Ordering::Acquire), Ordering::Release);
        if let Some(indexes) = active.indexes.load_full() {
            // An entry that is refused would only have been a hint.
            let _ = Indexer::new(Arc::clone(&indexes), 0).finish();
            sealed.indexes.store(Some(indexes));
        }
        Arc::new(sealed)
    }
}

/// The batches of one segment; made by [`Segment::batches`].
#[derive(Debug)]
pub struct SegmentBatches {
    reader: BatchReader,
    end: u64,
    failed: bool,
}

impl SegmentBatches {
    /// The byte position in the log file at which the next batch begins, or the damaged one that stopped the
    /// iteration.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Goes on behind the damage that stopped the iteration, at the next batch that can be read. Returns the
    /// position of that batch, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn skip_damage(&mut self) -> Result<Option<u64>> {
        let found = find_batch_after(self.reader.log(), self.reader.position(), self.end, 0)?;
        self.reader.seek(found.unwrap_or(self.end));
        self.failed = false;
        Ok(found)
    }
}

impl Iterator for SegmentBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let position = self.reader.position();
        let log = Arc::clone(self.reader.log());
        let next = self.reader.next(self.end).map_err(|unreadable| match unreadable {
            Unreadable::Damaged(error) => log.corruption(position, log.base_offset(), error),
            Unreadable::Failed(error) => error,
        });
        self.failed = next.is_err();
        next.transpose()
    }
}
