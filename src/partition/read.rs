//! Reading, without a lock: the published end, an immutable list of segments, and bytes that never change.
//!
//! A batch is checked once when it is read: checksum, header, and that its offsets follow those before it, since
//! Kafka's checksum does not cover them. Damage is an error that names the place; reading goes on behind it only
//! if the caller asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::aborted::AbortedRanges;
use super::{Log, Partition};
use crate::error::{Error, FormatError, Result};
use crate::format::{AbortedTransaction, IntoRecords, RecordBatch, StoredRecord};
use crate::storage::{BatchReader, Segment, Unreadable, find_batch_after};

/// Up to which position a reader may look (Kafka's `FetchIsolation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Isolation {
    /// Everything readable, undecided transactions included: up to the high watermark.
    #[default]
    ReadUncommitted,
    /// Up to the last stable offset, and nothing of aborted transactions. A [`fetch`](Partition::fetch) hands out
    /// whole batches and says what was aborted, as Kafka's protocol does.
    ReadCommitted,
    /// Everything that is there, also above the high watermark: for replication alone.
    LogEnd,
}

/// What a [`fetch`](Partition::fetch) should bring.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    max_bytes: u64,
    isolation: Isolation,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions::new()
    }
}

impl FetchOptions {
    /// Up to 1 MiB, uncommitted data included.
    pub fn new() -> Self {
        FetchOptions { max_bytes: 1 << 20, isolation: Isolation::ReadUncommitted }
    }

    /// At most so many bytes, but always one whole batch if there is any.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How far to look.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }
}

/// Whole stored batches, and the positions of the partition when they were read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Fetched {
    /// The batches, in order. The first one may begin below the offset asked for, if that lies inside it.
    pub batches: Vec<RecordBatch>,
    /// Where to fetch next.
    pub next_offset: u64,
    /// The first offset that can be read.
    pub log_start: u64,
    /// Offsets below it could be read.
    pub high_watermark: u64,
    /// Offsets below it belonged to no undecided transaction.
    pub last_stable_offset: u64,
    /// The aborted transactions that have data among the batches; asked for by [`Isolation::ReadCommitted`] alone.
    pub aborted: Vec<AbortedTransaction>,
}

impl Partition {
    /// The records from `offset` on, in order, to the end of the log; control records are left out, and those of
    /// transactions come whether committed or not.
    ///
    /// If the offset was removed by compaction, reading begins at the next one that is there. The iterator ends at
    /// the end of the log and goes on when called again after more was appended. Damage comes as an error, after
    /// which it ends; [`Records::skip_damage`] lets it go on behind.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`] if the offset lies before the log start or behind the log end.
    pub fn read_from(&self, offset: u64) -> Result<Records> {
        self.read_from_with(offset, Isolation::ReadUncommitted)
    }

    /// As [`read_from`](Self::read_from), to the end that an isolation level has; with
    /// [`Isolation::ReadCommitted`], without the records of aborted transactions.
    ///
    /// # Errors
    /// As [`read_from`](Self::read_from).
    pub fn read_from_with(&self, offset: u64, isolation: Isolation) -> Result<Records> {
        self.log.check_range(offset)?;
        let cursor = Cursor::new(Arc::clone(&self.log), offset);
        let (aborted, current) = (AbortedRanges::default(), None);
        Ok(Records { cursor, current, isolation, aborted, read: (0, 0) })
    }

    /// Whole stored batches from the one that holds `offset` on, as a server hands them to its clients.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`]; [`Error::Corruption`] or [`Error::MissingOffsets`] if the very first batch
    /// cannot be read. Damage further on ends the batches there, and is the error of the fetch that begins at it.
    pub fn fetch(&self, offset: u64, options: FetchOptions) -> Result<Fetched> {
        self.log.check_range(offset)?;
        let bound = self.log.bound(options.isolation);
        // Compaction must not forget what was aborted in a segment that is still being read.
        let segments = self.log.segments.load_full();
        let mut cursor = Cursor::new(Arc::clone(&self.log), offset);
        let (mut batches, mut bytes, mut next_offset) = (Vec::new(), 0, offset);
        while let Some(size) = cursor.next_size(bound, batches.is_empty())? {
            if !batches.is_empty() && bytes + size > options.max_bytes {
                break;
            }
            match cursor.next(bound) {
                // It was in a segment that had to be found first.
                Ok(Some(batch)) if !batches.is_empty() && bytes + batch.header().size > options.max_bytes => {
                    break;
                }
                Ok(Some(batch)) => {
                    bytes += batch.header().size;
                    next_offset = batch.next_offset();
                    batches.push(batch);
                }
                Ok(None) => break,
                Err(error) if batches.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        let log = &self.log;
        log.counters.read(batches.len() as u64, bytes);
        let aborted = match options.isolation {
            Isolation::ReadCommitted if !batches.is_empty() => {
                log.collect_aborted_in(&segments, offset, next_offset)?
            }
            _ => Vec::new(),
        };
        let (log_start, high_watermark) = (log.log_start.load(Ordering::Acquire), self.high_watermark());
        let last_stable_offset = self.last_stable_offset();
        Ok(Fetched { batches, next_offset, log_start, high_watermark, last_stable_offset, aborted })
    }
}

impl Log {
    fn check_range(&self, offset: u64) -> Result<()> {
        let (log_start, log_end) =
            (self.log_start.load(Ordering::Acquire), self.log_end.load(Ordering::Acquire));
        if offset < log_start || offset > log_end {
            let partition = self.id.to_string();
            return Err(Error::OffsetOutOfRange { partition, requested: offset, log_start, log_end });
        }
        Ok(())
    }
}

/// The records of a partition from some offset on; made by [`Partition::read_from`].
///
/// A record shares the memory its batch was read into; no payload is copied unless it was compressed.
#[derive(Debug)]
pub struct Records {
    cursor: Cursor,
    current: Option<IntoRecords>,
    isolation: Isolation,
    /// What was aborted around the place where the cursor is.
    aborted: AbortedRanges,
    /// Batches and bytes handed out and not counted yet.
    read: (u64, u64),
}

impl Records {
    /// The offset of the next record, or, behind the last one, of the next one to come.
    pub fn position(&self) -> u64 {
        self.cursor.wanted
    }

    /// After an error about damage: goes on with the first record behind it that can be read. Returns the offset
    /// there, or `None` if the iteration was not stopped by damage.
    pub fn skip_damage(&mut self) -> Option<u64> {
        self.cursor.skip_damage()
    }

    /// Whether a batch belongs to an aborted transaction that the reader is not to see; `None` if its segment was
    /// replaced, so that it has to be read again.
    fn is_aborted(&mut self, batch: &RecordBatch, bound: u64) -> Result<Option<bool>> {
        let header = batch.header();
        if self.isolation != Isolation::ReadCommitted || !header.transactional {
            return Ok(Some(false));
        }
        if std::mem::take(&mut self.cursor.moved) {
            self.aborted = AbortedRanges::default();
        }
        if self.aborted.end < header.next_offset() {
            // Segment by segment, so that memory does not grow with the log.
            let end = self.cursor.segment_end(bound).max(header.next_offset());
            self.aborted = self.cursor.log.aborted_ranges(header.base_offset, end)?;
            if !self.cursor.is_current() {
                // Compaction forgets what was aborted once its data is gone, and this data is from before.
                self.cursor.follows = None;
                self.cursor.find_anew();
                return Ok(None);
            }
        }
        Ok(Some(self.aborted.hold(header)))
    }

    fn next_set(&mut self) -> Result<Option<IntoRecords>> {
        let bound = self.cursor.log.bound(self.isolation);
        self.cursor.check_end()?;
        while let Some(batch) = self.cursor.next(bound)? {
            let header = batch.header();
            let left_out = if header.control { Some(true) } else { self.is_aborted(&batch, bound)? };
            match left_out {
                Some(false) => {}
                Some(true) => {
                    self.cursor.wanted = header.next_offset();
                    continue;
                }
                None => continue,
            }
            self.read = (self.read.0 + 1, self.read.1 + header.size);
            let limit = self.cursor.log.config.load().max_decompressed_bytes as usize;
            return match batch.records(limit) {
                Ok(records) => {
                    let mut records = records.into_iter();
                    // The first batch may begin below what was asked for.
                    if batch.base_offset() < self.cursor.wanted || !batch.header().base_offset_known() {
                        records.skip_below(self.cursor.wanted);
                    }
                    Ok(Some(records))
                }
                Err(error) => Err(self.cursor.undecodable(&batch, &error)),
            };
        }
        Ok(None)
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.cursor.log.counters.read(self.read.0, self.read.1);
    }
}

impl Iterator for Records {
    type Item = Result<StoredRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(records) = &mut self.current {
                if let Some(record) = records.next() {
                    self.cursor.wanted = record.offset() + 1;
                    return Some(Ok(record));
                }
                self.cursor.wanted = self.cursor.wanted.max(self.cursor.follows.unwrap_or(0));
                self.current = None;
            }
            match self.next_set() {
                Ok(Some(records)) => {
                    self.current = Some(records);
                }
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A place in the log that moves from batch to batch and from segment to segment.
#[derive(Debug)]
pub(super) struct Cursor {
    log: Arc<Log>,
    /// The first offset not handed out yet.
    pub(super) wanted: u64,
    /// The offset with which the next batch must begin, once one was read.
    follows: Option<u64>,
    place: Option<Place>,
    /// Where to go on after damage, if it stopped us.
    stopped: Option<Behind>,
    /// Whether the segments changed under it since somebody asked.
    moved: bool,
    /// The count of truncations when it began to look.
    truncations: u64,
}

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    reader: BatchReader,
    /// The truncations that its log file had seen when the place was found.
    cuts: u64,
}

impl Place {
    /// The beginning of a segment.
    fn start_of(segment: &Arc<Segment>) -> Self {
        let cuts = segment.log().cuts();
        let reader = BatchReader::new(Arc::clone(segment.log()), 0);
        Place { segment: Arc::clone(segment), reader, cuts }
    }
}

/// What lies behind damage.
#[derive(Debug)]
enum Behind {
    /// A batch at a position of the same segment.
    Batch { position: u64, offset: u64 },
    /// The next segment, which begins at this offset.
    Segment { base_offset: u64 },
    /// Nothing that can be read yet.
    End { offset: u64 },
}

impl Cursor {
    pub(super) fn new(log: Arc<Log>, wanted: u64) -> Self {
        Cursor { log, wanted, follows: None, place: None, stopped: None, moved: false, truncations: 0 }
    }

    /// The next batch with offsets from `wanted` on, or `None` at the bound.
    pub(super) fn next(&mut self, bound: u64) -> Result<Option<RecordBatch>> {
        loop {
            self.truncations = self.log.truncations.load(Ordering::SeqCst);
            let end = self.log.log_end.load(Ordering::SeqCst);
            match self.look(bound.min(end)) {
                Err(_) if self.was_truncated() => self.find_anew(),
                // Under way: what is missed lies behind the new end.
                Err(_)
                    if self.wanted.max(self.follows.unwrap_or(0))
                        >= self.log.log_end.load(Ordering::SeqCst) =>
                {
                    self.find_anew();
                    return Ok(None);
                }
                looked => return looked,
            }
        }
    }

    /// Whether a truncation began or ended since this look.
    fn was_truncated(&self) -> bool {
        self.truncations != self.log.truncations.load(Ordering::SeqCst)
    }

    fn look(&mut self, bound: u64) -> Result<Option<RecordBatch>> {
        loop {
            if self.stopped.is_some() || self.wanted.max(self.follows.unwrap_or(0)) >= bound {
                return Ok(None);
            }
            if self.place.is_none() {
                self.find_place()?;
            }
            let Some(place) = &mut self.place else { return Ok(None) };
            let end = place.segment.size();
            let position = place.reader.position();
            let read = place.reader.next(end);
            if place.cuts != place.segment.log().cuts() {
                // Truncated meanwhile: what was read may be what was cut, or what was written there since.
                self.find_anew();
                continue;
            }
            match read {
                Ok(Some(batch)) => {
                    if let Some(detail) = self.out_of_order(&batch).or_else(|| self.contradicted(&batch, end))
                    {
                        self.misplaced(position, &batch, end, &detail)?;
                        continue;
                    }
                    if batch.next_offset() > bound {
                        // The bound lies inside it: readers get batches whole.
                        if let Some(place) = &mut self.place {
                            place.reader.seek(position);
                        }
                        return Ok(None);
                    }
                    self.follows = Some(batch.next_offset());
                    if batch.last_offset() >= self.wanted {
                        return Ok(Some(batch));
                    }
                }
                Ok(None) => self.next_segment(bound)?,
                // Its files are gone by now. What it held is in another segment, or was deleted.
                Err(Unreadable::Failed(_)) if !self.is_current() => self.find_anew(),
                Err(Unreadable::Failed(error)) => return Err(error),
                Err(Unreadable::Damaged(error)) => self.damaged(position, end, &error)?,
            }
        }
    }

    /// The size of the batch that comes next, if it can be told; 0 where `next` has to look further.
    fn next_size(&mut self, bound: u64, first: bool) -> Result<Option<u64>> {
        if first {
            return Ok(Some(0));
        }
        if self.follows.unwrap_or(0) >= bound {
            return Ok(None);
        }
        let Some(place) = &mut self.place else { return Ok(Some(0)) };
        let end = place.segment.size();
        Ok(Some(place.reader.peek_size(end).ok().flatten().unwrap_or(0)))
    }

    pub(super) fn skip_damage(&mut self) -> Option<u64> {
        let offset = match self.stopped.take()? {
            Behind::Batch { position, offset } => {
                if let Some(place) = &mut self.place {
                    place.reader.seek(position);
                }
                offset
            }
            Behind::Segment { base_offset } => {
                self.place = None;
                base_offset
            }
            Behind::End { offset } => {
                self.place = None;
                offset
            }
        };
        self.follows = None;
        self.wanted = self.wanted.max(offset);
        Some(self.wanted)
    }

    /// Looks for the place again, with the next call: the segments are not what they were.
    fn find_anew(&mut self) {
        self.wanted = self.wanted.max(self.follows.unwrap_or(0));
        (self.place, self.follows, self.stopped) = (None, None, None);
        self.moved = true;
    }

    /// Whether the segment at hand is still part of the log: not deleted, compacted or truncated meanwhile.
    fn is_current(&self) -> bool {
        self.is_among(&self.log.segments.load())
    }

    fn is_among(&self, segments: &[Arc<Segment>]) -> bool {
        let Some(place) = &self.place else { return true };
        let base = place.segment.base_offset();
        let at = segments.partition_point(|segment| segment.base_offset() < base);
        // The active one is another value once it is sealed, of the same file.
        segments.get(at).is_some_and(|segment| Arc::ptr_eq(segment.log(), place.segment.log()))
    }

    /// Where the segment at hand ends, or the bound if that comes first.
    fn segment_end(&self, bound: u64) -> u64 {
        let base = self.place.as_ref().map_or(0, |place| place.segment.base_offset());
        let segments = self.log.segments.load();
        let after = segments.partition_point(|segment| segment.base_offset() <= base);
        segments.get(after).map_or(bound, |next| next.base_offset().min(bound))
    }

    /// A truncation may have taken the log from before what is wanted.
    fn check_end(&mut self) -> Result<()> {
        let end = self.log.log_end.load(Ordering::Acquire);
        if self.stopped.is_none() && self.wanted > end {
            return Err(self.stop_at(end));
        }
        Ok(())
    }

    /// Stops where what is wanted is not there, and would not come; the log goes on at `offset`.
    fn stop_at(&mut self, offset: u64) -> Error {
        self.stopped = Some(Behind::End { offset });
        Error::OffsetOutOfRange {
            partition: self.log.id.to_string(),
            requested: self.wanted,
            log_start: self.log.log_start.load(Ordering::Acquire),
            log_end: self.log.log_end.load(Ordering::Acquire),
        }
    }

    /// The segment and position from which to look for `wanted`.
    fn find_place(&mut self) -> Result<()> {
        let log_start = self.log.log_start.load(Ordering::Acquire);
        if self.wanted < log_start {
            return Err(self.stop_at(log_start));
        }
        let segments = self.log.segments.load();
        let at = segments.partition_point(|segment| segment.base_offset() <= self.wanted);
        let Some(segment) = at.checked_sub(1).and_then(|at| segments.get(at)) else {
            let log_start = self.log.log_start.load(Ordering::Acquire);
            if self.wanted < log_start {
                // They were deleted meanwhile.
                return Err(self.stop_at(log_start));
            }
            // The log begins later than it should: its first segments are gone.
            let from = self.wanted;
            let to = segments.first().map_or(from, |first| first.base_offset());
            return Err(self.missing(from, to, "the log start says they should be there"));
        };
        let segment = Arc::clone(segment);
        // Before anything is read.
        let cuts = segment.log().cuts();
        let mut reader = segment.reader_for(self.wanted)?;
        // At the start of a segment its name says with which offset it begins.
        let first = (reader.position() == 0).then(|| segment.base_offset());
        self.follows = reader.skip_to(self.wanted, first, segment.size()).or(first);
        self.place = Some(Place { segment, reader, cuts });
        Ok(())
    }

    /// Why the offsets of a batch cannot be believed, if so: they do not go back, and do not jump where nothing may
    /// be missing. Its checksum says nothing of them.
    fn out_of_order(&self, batch: &RecordBatch) -> Option<String> {
        let header = batch.header();
        // Of a compressed legacy batch only the last offset is known before it is decompressed.
        let known = header.base_offset_known();
        let first = if known { header.base_offset } else { header.last_offset };
        let jumps = |follows| first > follows && known && self.log.dense();
        if let Some(follows) = self.follows.filter(|&follows| first < follows || jumps(follows)) {
            return Some(format!(
                "the batch begins at offset {first}, but the one before ends below {follows}"
            ));
        }
        let strays = self.place.as_ref().is_some_and(|place| !place.segment.log().may_hold(header));
        strays.then(|| format!("offset {first} does not belong into this segment"))
    }

    /// Where offsets may be missing, a batch that jumps ahead of the one behind it is not believed.
    fn contradicted(&mut self, batch: &RecordBatch, end: u64) -> Option<String> {
        let first = batch.base_offset();
        self.follows.filter(|&follows| first > follows)?;
        let next = self.place.as_mut()?.reader.peek(end).ok().flatten()?;
        let contradicts = next.base_offset_known() && next.base_offset < batch.next_offset();
        contradicts
            .then(|| format!("the batch begins at offset {first}, the one behind it at {}", next.base_offset))
    }

    /// Moves on to the segment behind, at the end of this one.
    fn next_segment(&mut self, bound: u64) -> Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        // One list for both: what is deleted in between must not look like a hole.
        let segments = self.log.segments.load_full();
        if !self.is_among(&segments) {
            self.find_anew();
            return Ok(());
        }
        let base = place.segment.base_offset();
        let reached = self.follows.unwrap_or(base);
        let next = segments.iter().find(|segment| segment.base_offset() > base);
        let Some(next) = next.map(Arc::clone) else {
            if !self.log.dense() {
                if self.was_truncated() {
                    self.find_anew();
                    return Ok(());
                }
                // The end of the log may lie behind a gap.
                self.wanted = self.wanted.max(bound);
                return Ok(());
            }
            let error = self.missing(reached.max(self.wanted), bound, "the end of the log lies behind them");
            self.stopped = Some(Behind::End { offset: bound });
            return Err(error);
        };
        let next_base = next.base_offset();
        if next_base < reached {
            let detail =
                format!("the segment begins at offset {next_base}, but the one before ends at {reached}");
            let error = next.log().corruption(0, next_base, detail);
            self.stopped = Some(Behind::Segment { base_offset: next_base });
            return Err(error);
        }
        let lost_from = reached.max(self.wanted);
        if lost_from < next_base && self.log.dense() {
            let error = self.missing(lost_from, next_base, "the next segment begins behind them");
            self.stopped = Some(Behind::Segment { base_offset: next_base });
            return Err(error);
        }
        self.follows = Some(next_base);
        self.place = Some(Place::start_of(&next));
        Ok(())
    }

    /// Stops at bytes that are no batch, unless everything damaged lies below what is wanted.
    fn damaged(&mut self, position: u64, end: u64, error: &FormatError) -> Result<()> {
        let behind = self.behind(position, end)?;
        self.stop(position, behind, &error.to_string())
    }

    /// Stops at a batch whose bytes are whole but whose offsets do not follow, unless it lies below what is wanted.
    /// If what comes behind it agrees with it, those before it are missing; if not, its own offset is damaged.
    fn misplaced(&mut self, position: u64, batch: &RecordBatch, end: u64, detail: &str) -> Result<()> {
        let first = batch.base_offset();
        let lost_from = self.follows.unwrap_or(0).max(self.wanted);
        if self.follows.is_some_and(|follows| first > follows) && self.is_vouched_for(batch, end) {
            if first > lost_from {
                let error = self.missing(lost_from, first, "the batches around them are there");
                self.stopped = Some(Behind::Batch { position, offset: first });
                return Err(error);
            }
            if let Some(place) = &mut self.place {
                place.reader.seek(position);
            }
            self.follows = Some(first);
            return Ok(());
        }
        let behind = self.behind(position, end)?;
        self.stop(position, behind, detail)
    }

    /// Whether the log goes on with the offset behind the batch just read.
    fn is_vouched_for(&mut self, batch: &RecordBatch, end: u64) -> bool {
        let Some(place) = &mut self.place else { return false };
        let base = place.segment.base_offset();
        let next = match place.reader.peek(end) {
            Ok(Some(header)) => Some(header.base_offset),
            Ok(None) => {
                let segments = self.log.segments.load();
                let next = segments.iter().map(|segment| segment.base_offset()).find(|&next| next > base);
                next.or(Some(self.log.log_end.load(Ordering::Acquire)))
            }
            Err(_) => None,
        };
        next == Some(batch.next_offset())
    }

    fn stop(&mut self, position: u64, behind: Behind, detail: &str) -> Result<()> {
        let Some(place) = &mut self.place else { return Ok(()) };
        if let Behind::Batch { position, offset } = behind {
            if offset <= self.wanted {
                place.reader.seek(position);
                self.follows = None;
                return Ok(());
            }
        }
        let first = self.wanted.max(self.follows.unwrap_or(0));
        let error = place.segment.log().corruption(position, first, detail);
        self.stopped = Some(behind);
        Err(error)
    }

    /// What can be read behind the damage at `position`.
    fn behind(&self, position: u64, end: u64) -> Result<Behind> {
        let first = self.wanted.max(self.follows.unwrap_or(0));
        let Some(place) = &self.place else { return Ok(Behind::End { offset: first }) };
        let floor = self.follows.map_or(place.segment.base_offset(), |follows| follows + 1);
        let log = place.segment.log();
        if let Some(found) = find_batch_after(log, position, end, floor)? {
            let header = BatchReader::new(Arc::clone(log), found).peek(end).ok().flatten();
            let known = header.filter(|header| header.base_offset_known());
            let offset = known.map_or(first, |header| header.base_offset);
            return Ok(Behind::Batch { position: found, offset });
        }
        let segments = self.log.segments.load();
        let next = segments.iter().find(|segment| segment.base_offset() > place.segment.base_offset());
        Ok(match next {
            Some(next) => Behind::Segment { base_offset: next.base_offset() },
            None => Behind::End { offset: self.log.log_end.load(Ordering::Acquire).max(first) },
        })
    }

    /// A batch with a good checksum whose records do not decode: damaged before it was stored, or a codec that is
    /// not compiled in.
    pub(super) fn undecodable(&mut self, batch: &RecordBatch, error: &FormatError) -> Error {
        let offset = batch.next_offset();
        let Some(place) = &self.place else { return self.missing(self.wanted, offset, "") };
        let here = place.reader.position();
        let start = here.saturating_sub(batch.header().size);
        let corruption = place.segment.log().corruption(start, self.wanted, error);
        self.stopped = Some(Behind::Batch { position: here, offset });
        corruption
    }

    fn missing(&mut self, from: u64, to: u64, detail: &str) -> Error {
        if self.place.is_none() {
            self.stopped = Some(Behind::Segment { base_offset: to });
        }
        let path = crate::fs::full_path(self.log.fs(), self.log.directory());
        Error::MissingOffsets { path, from, to, detail: detail.into() }
    }
}
