//! One `.log` file: batches one after another, and how far they may be read.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::file_name::{FileKind, file_name};
use super::pool::{FilePool, PooledFile};
use crate::error::{Error, FormatError, Result};
use crate::format::{BatchHeader, Frame, RECORD_BATCH_OVERHEAD, RecordBatch};
use crate::fs::{read_vec_at, write_all_at};

/// The first read of a reader; enough for the batch behind an index entry.
const READ_AHEAD_MIN: u64 = 8 << 10;
/// The largest read of a reader that goes on and on. A single batch may need more.
const READ_AHEAD_MAX: u64 = 256 << 10;

/// The batches of one segment.
///
/// What lies below [`readable`](LogFile::readable) never changes; bytes behind it may be in the middle of being
/// written and are nobody's business but the appender's.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: Arc<PooledFile>,
    base_offset: u64,
    /// Stored with release after the bytes were written, loaded with acquire before they are read.
    readable: AtomicU64,
    /// How often it was cut below what readers could have. What a reader read before is not what is there now.
    cuts: AtomicU64,
}

impl LogFile {
    /// An existing file, of which the first `readable` bytes may be read.
    pub(crate) fn new(file: Arc<PooledFile>, base_offset: u64, readable: u64) -> Self {
        LogFile { file, base_offset, readable: AtomicU64::new(readable), cuts: AtomicU64::new(0) }
    }

    /// A new, empty file.
    pub(crate) fn create(
        pool: &Arc<FilePool>,
        directory: &std::path::Path,
        base_offset: u64,
    ) -> Result<Self> {
        let name = file_name(directory, base_offset, FileKind::Log);
        match pool.create(name.clone()) {
            Ok(file) => Ok(LogFile::new(file, base_offset, 0)),
            // Left by an attempt that failed halfway: nothing in it was ever part of the log.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                let log = LogFile::new(pool.file(name), base_offset, 0);
                log.cut(0)?;
                Ok(log)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn file(&self) -> &Arc<PooledFile> {
        &self.file
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.file.path()
    }

    pub(crate) fn base_offset(&self) -> u64 {
        self.base_offset
    }

    /// Whether a batch can belong here: offsets in a file begin at its base and span what an index entry can say.
    pub(crate) fn may_hold(&self, header: &BatchHeader) -> bool {
        let span = header.last_offset.checked_sub(self.base_offset);
        span.is_some_and(|span| span <= i32::MAX as u64)
    }

    pub(crate) fn readable(&self) -> u64 {
        self.readable.load(Ordering::Acquire)
    }

    /// Lets readers have the bytes up to `end`. Never goes back.
    pub(crate) fn publish(&self, end: u64) {
        self.readable.fetch_max(end, Ordering::AcqRel);
    }

    /// Takes the bytes behind `end` from readers, before they are cut and others written there (truncation).
    pub(crate) fn take_back(&self, end: u64) {
        self.cuts.fetch_add(1, Ordering::AcqRel);
        self.readable.fetch_min(end, Ordering::AcqRel);
    }

    /// Counts truncations: what was read holds if the count is the same before and afterwards.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// Writes bytes where the last ones ended. On a failure some may lie behind the readable end.
    pub(crate) fn write(&self, bytes: &[u8], position: u64) -> Result<()> {
        self.file.with_write("append to", |file| write_all_at(file, bytes, position))
    }

    pub(crate) fn cut(&self, size: u64) -> Result<()> {
        self.file.with_write("truncate", |file| crate::fs::retry(|| file.set_size(size)))
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.file.with("measure", |file| crate::fs::retry(|| file.size()))
    }

    pub(crate) fn read(&self, position: u64, len: u64) -> Result<Bytes> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.file.with("read", |file| read_vec_at(file, len, position)).map(Bytes::from)
    }

    /// The error for bytes of this file that are not what was written.
    pub(crate) fn corruption(&self, position: u64, offset: u64, detail: impl ToString) -> Error {
        Error::Corruption { path: self.path(), position, offset, detail: detail.to_string() }
    }
}

/// Why no batch could be read at a position.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The bytes are not a batch.
    Damaged(FormatError),
    /// The file could not be read at all.
    Failed(Error),
}

impl From<FormatError> for Unreadable {
    fn from(error: FormatError) -> Self {
        Unreadable::Damaged(error)
    }
}

/// Reads batches one after another, in chunks that grow as it goes on.
///
/// Batches share the memory of their chunk; nothing is copied per batch or record.
#[derive(Debug)]
pub(crate) struct BatchReader {
    log: Arc<LogFile>,
    position: u64,
    chunk: Bytes,
    chunk_start: u64,
    read_ahead: u64,
}

impl BatchReader {
    pub(crate) fn new(log: Arc<LogFile>, position: u64) -> Self {
        BatchReader { log, position, chunk: Bytes::new(), chunk_start: position, read_ahead: READ_AHEAD_MIN }
    }

    pub(crate) fn log(&self) -> &Arc<LogFile> {
        &self.log
    }

    /// Where the next batch begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// The batch at the position, its size, header and checksum verified, or `None` at `end`. Moves on behind
    /// it, and does not move if it cannot be read.
    pub(crate) fn next(&mut self, end: u64) -> Result<Option<RecordBatch>, Unreadable> {
        let Some(frame) = self.frame(end)? else { return Ok(None) };
        let held = self.hold(frame.size, end)?;
        let batch = RecordBatch::parse(self.chunk.slice(held))?;
        self.position += frame.size;
        Ok(Some(batch))
    }

    /// The header of the batch at the position without its checksum verified, or `None` at `end`. Does not move.
    pub(crate) fn peek(&mut self, end: u64) -> Result<Option<BatchHeader>, Unreadable> {
        let Some(frame) = self.frame(end)? else { return Ok(None) };
        let header = self.bytes(frame.size.min(RECORD_BATCH_OVERHEAD as u64), end)?;
        Ok(Some(BatchHeader::parse(header)?))
    }

    /// As [`peek`](Self::peek), and moves on behind the batch.
    pub(crate) fn next_header(&mut self, end: u64) -> Result<Option<BatchHeader>, Unreadable> {
        let header = self.peek(end)?;
        self.position += header.as_ref().map_or(0, |header| header.size);
        Ok(header)
    }

    /// Moves on to the batch that holds `offset`, by headers alone, as long as each batch begins with the offset
    /// behind the one before: `first`, if that is known. Returns the offset with which the batch begins. Does not
    /// move if that leads nowhere; whoever verifies each batch on the way finds out why.
    pub(crate) fn skip_to(&mut self, offset: u64, first: Option<u64>, end: u64) -> Option<u64> {
        let (start, mut follows) = (self.position, first);
        while let Ok(Some(header)) = self.peek(end) {
            let base = header.base_offset;
            if !header.base_offset_known() || follows.is_some_and(|follows| follows != base) || base > offset
            {
                break;
            }
            if header.last_offset >= offset {
                return Some(base);
            }
            follows = Some(header.next_offset());
            self.position += header.size;
        }
        self.position = start;
        None
    }

    /// The size of the batch at the position, which is not verified, or `None` at `end`. Does not move.
    pub(crate) fn peek_size(&mut self, end: u64) -> Result<Option<u64>, Unreadable> {
        Ok(self.frame(end)?.map(|frame| frame.size))
    }

    fn frame(&mut self, end: u64) -> Result<Option<Frame>, Unreadable> {
        let left = end.saturating_sub(self.position);
        if left == 0 {
            return Ok(None);
        }
        let short = |needed| FormatError::Short { what: "a batch", needed, available: left };
        if left < Frame::LEN as u64 {
            return Err(short(Frame::LEN as u64).into());
        }
        let frame = Frame::parse(self.bytes(Frame::LEN as u64, end)?)?;
        // Before any memory is taken for it.
        if frame.size > left {
            return Err(short(frame.size).into());
        }
        Ok(Some(frame))
    }

    fn bytes(&mut self, len: u64, end: u64) -> Result<&[u8], Unreadable> {
        let held = self.hold(len, end)?;
        Ok(self.chunk.get(held).unwrap_or_default())
    }

    /// Where in the chunk the bytes at the position are, after reading them if need be.
    fn hold(&mut self, len: u64, end: u64) -> Result<Range<usize>, Unreadable> {
        let held =
            self.position.checked_sub(self.chunk_start).filter(|skip| skip + len <= self.chunk.len() as u64);
        let skip = match held {
            Some(skip) => skip as usize,
            None => {
                self.fill(len, end)?;
                0
            }
        };
        Ok(skip..skip + len as usize)
    }

    fn fill(&mut self, len: u64, end: u64) -> Result<(), Unreadable> {
        let sequential = !self.chunk.is_empty();
        if sequential {
            self.read_ahead = (self.read_ahead * 4).min(READ_AHEAD_MAX);
        }
        let wanted = len.max(self.read_ahead).min(end - self.position);
        self.chunk = self.log.read(self.position, wanted).map_err(Unreadable::Failed)?;
        self.chunk_start = self.position;
        if (self.chunk.len() as u64) < len {
            let available = self.chunk.len() as u64;
            return Err(FormatError::Short { what: "a batch", needed: len, available }.into());
        }
        Ok(())
    }
}

/// Where the log goes on behind damage at `position`: the first batch behind it that holds offsets from `floor` on,
/// and from which batches follow one another to `end`, or to more damage far behind.
///
/// A damaged batch whose length is right is stepped over, with whatever looks like a batch inside its payload.
/// Otherwise every byte is tried, since its length cannot be believed.
pub(crate) fn find_batch_after(
    log: &Arc<LogFile>,
    position: u64,
    end: u64,
    floor: u64,
) -> Result<Option<u64>> {
    let mut search =
        Search { log, end, floor, budget: SEARCH_BYTES_MAX.max(2 * (end - position.min(end))), torn: None };
    search.torn = stated_extent(log, position, floor)?;
    let mut next = position;
    for _ in 0..STATED_LENGTHS_MAX {
        let Ok(frame) = Frame::parse(&log.read(next, Frame::LEN as u64)?) else { break };
        next = next.saturating_add(frame.size);
        if next >= end {
            break;
        }
        if search.chain_at(next)? > 0 {
            return Ok(Some(next));
        }
    }
    search.every_byte_from(position + 1)
}

/// As [`find_batch_after`], if that batch begins no later than `wanted`: then all that is damaged lies below, and is
/// missed by nobody.
pub(crate) fn find_batch_before(
    log: &Arc<LogFile>,
    position: u64,
    end: u64,
    floor: u64,
    wanted: u64,
) -> Result<Option<u64>> {
    let Some(found) = find_batch_after(log, position, end, floor)? else { return Ok(None) };
    let header = BatchReader::new(Arc::clone(log), found).peek(end).ok().flatten();
    let is_before = |header: &BatchHeader| header.base_offset_known() && header.base_offset <= wanted;
    Ok(header.filter(is_before).map(|_| found))
}

/// The first batch at or after the start of a file that holds offsets from `floor` on.
pub(crate) fn find_any_batch(log: &Arc<LogFile>, end: u64, floor: u64) -> Result<Option<u64>> {
    let mut search = Search { log, end, floor, budget: SEARCH_BYTES_MAX.max(2 * end), torn: None };
    if search.chain_at(0)? > 0 {
        return Ok(Some(0));
    }
    search.every_byte_from(0)
}

/// Where the damaged batch says that it ends, and which offset it says is next, if its header looks right.
fn stated_extent(log: &Arc<LogFile>, position: u64, floor: u64) -> Result<Option<(u64, u64)>> {
    let header = BatchHeader::parse(&log.read(position, RECORD_BATCH_OVERHEAD as u64)?).ok();
    let header = header.filter(|header| header.base_offset + 1 == floor && header.base_offset_known());
    Ok(header.map(|header| (position.saturating_add(header.size), header.next_offset())))
}

/// How many bytes a search may check. What looks like batches of many sizes everywhere was made to keep us busy.
const SEARCH_BYTES_MAX: u64 = 256 << 20;
/// So many batches one after another are believed even if damage follows them.
const CHAIN_BATCHES: usize = 4;
/// So many damaged batches in a row are stepped over by their lengths.
const STATED_LENGTHS_MAX: usize = 64;

struct Search<'a> {
    log: &'a Arc<LogFile>,
    end: u64,
    floor: u64,
    budget: u64,
    /// The extent of the damaged batch by its own word. What looks like a batch in there is its content, unless it
    /// has just the offset that comes next: then the word is wrong.
    torn: Option<(u64, u64)>,
}

impl Search<'_> {
    fn every_byte_from(&mut self, position: u64) -> Result<Option<u64>> {
        const STEP: u64 = 64 << 10;
        let mut start = position;
        while start + Frame::LEN as u64 <= self.end {
            let window = self.log.read(start, (STEP + RECORD_BATCH_OVERHEAD as u64).min(self.end - start))?;
            let tried = (window.len() as u64).min(STEP);
            for skip in 0..tried {
                let Some(bytes) = window.get(skip as usize..) else { break };
                let here = start + skip;
                // One batch alone could be the content of a record.
                if self.plausible(bytes, here) && self.chain_at(here)? >= CHAIN_BATCHES {
                    return Ok(Some(here));
                }
            }
            if tried == 0 {
                break;
            }
            start += tried;
        }
        Ok(None)
    }

    /// Whether a header might stand here; cheap, since it is asked at every byte.
    fn plausible(&self, bytes: &[u8], position: u64) -> bool {
        // The magic alone rules out nearly everything.
        if bytes.get(16).is_none_or(|&magic| magic > 2) {
            return false;
        }
        let Ok(frame) = Frame::parse(bytes) else { return false };
        if self.torn.is_some_and(|(end, next_offset)| position < end && frame.offset != next_offset) {
            return false;
        }
        frame.size <= self.end - position && frame.offset >= self.floor && BatchHeader::parse(bytes).is_ok()
    }

    /// How many batches follow one another from here on; as many as count if they reach the end.
    fn chain_at(&mut self, position: u64) -> Result<usize> {
        let mut reader = BatchReader::new(Arc::clone(self.log), position);
        let mut floor = self.floor;
        for length in 0..CHAIN_BATCHES {
            match reader.next(self.end) {
                Ok(Some(batch)) => {
                    let header = batch.header();
                    let in_order = header.last_offset >= floor && self.log.may_hold(header);
                    if !in_order || header.base_offset_known() && header.base_offset < floor {
                        return Ok(length);
                    }
                    floor = header.next_offset();
                    self.spend(header.size)?;
                }
                Ok(None) if reader.position() > position => return Ok(CHAIN_BATCHES),
                Ok(None) => return Ok(0),
                Err(Unreadable::Damaged(_)) => {
                    self.spend(reader.chunk.len() as u64)?;
                    return Ok(length);
                }
                Err(Unreadable::Failed(error)) => return Err(error),
            }
        }
        Ok(CHAIN_BATCHES)
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => {
                let detail =
                    "too much behind it looks like batches and is none to tell where the log goes on";
                Err(self.log.corruption(self.end, self.floor, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{BatchBuilder, BatchOptions, Record};
    use crate::fs::{Disk, FileSystem, SimulatedDisk};

    /// Batches of one record at offsets 0 to 3, each with the size of the first.
    fn log(fs: Arc<dyn FileSystem>, change: impl FnOnce(&mut [u8], usize)) -> (Arc<LogFile>, u64) {
        let batch = |base_offset| {
            let mut builder = BatchBuilder::new(BatchOptions {
                base_offset,
                default_timestamp: 7,
                ..BatchOptions::default()
            });
            builder.push(&Record::new("value")).unwrap();
            builder.finish().unwrap()
        };
        let mut bytes = (0..4).map(batch).collect::<Vec<_>>().concat();
        let size = bytes.len() / 4;
        change(&mut bytes, size);
        let pool = FilePool::new(fs, 4, false, false);
        let log = LogFile::create(&pool, std::path::Path::new(""), 0).unwrap();
        log.write(&bytes, 0).unwrap();
        log.publish(bytes.len() as u64);
        (Arc::new(log), size as u64)
    }

    #[test]
    fn headers_lead_to_the_batch_of_an_offset() {
        let (log, size) = log(Arc::new(SimulatedDisk::new(1)), |_, _| {});
        for (offset, first) in [(0, None), (3, None), (3, Some(0))] {
            let mut reader = BatchReader::new(Arc::clone(&log), 0);
            assert_eq!(reader.skip_to(offset, first, log.readable()), Some(offset));
            assert_eq!(reader.position(), offset * size);
            let batch = reader.next(log.readable()).unwrap().unwrap();
            assert_eq!(batch.base_offset(), offset);
        }
        for (offset, first) in [(4, None), (3, Some(1))] {
            let mut reader = BatchReader::new(Arc::clone(&log), 0);
            assert_eq!((reader.skip_to(offset, first, log.readable()), reader.position()), (None, 0));
        }
    }

    #[test]
    fn headers_that_do_not_fit_together_lead_nowhere() {
        // Low bytes of the fields of a batch header: base offset, length, last offset delta; and the magic.
        for field in [7, 11, 16, 26] {
            let (log, _) = log(Arc::new(SimulatedDisk::new(1)), |bytes, size| bytes[size + field] += 1);
            let mut reader = BatchReader::new(Arc::clone(&log), 0);
            assert_eq!((reader.skip_to(3, None, log.readable()), reader.position()), (None, 0), "{field}");
        }
    }

    #[test]
    fn reads_end_where_the_file_does() {
        let directory = tempfile::tempdir().unwrap();
        let systems: [Arc<dyn FileSystem>; 2] =
            [Arc::new(SimulatedDisk::new(1)), Arc::new(Disk::open(directory.path()).unwrap())];
        for fs in systems {
            let (log, size) = log(fs, |_, _| {});
            let all = log.read(0, size * 4).unwrap();
            assert_eq!(all.len() as u64, size * 4);
            assert_eq!(log.read(size, 5).unwrap(), all.get(size as usize..size as usize + 5).unwrap());
            assert_eq!(log.read(size * 3, size * 9).unwrap().len() as u64, size);
            assert_eq!((log.read(size * 4, 9).unwrap().len(), log.read(0, 0).unwrap().len()), (0, 0));
        }
    }
}
