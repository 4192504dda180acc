//! [`Output`]: the segment that compaction writes, under names that the next opening throws away (`.cleaned`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{AbortedTransaction, BatchHeader};
use crate::storage::file_name::{FileKind, Stage, staged_name};
use crate::storage::{FilePool, Indexer, Indexes, LogFile, Segment, TransactionIndex, remove_files};

/// How much is written at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// The largest log file there may be.
const LOG_BYTES_MAX: u64 = i32::MAX as u64;

/// A segment being written.
pub(super) struct Output {
    log: Arc<LogFile>,
    directory: PathBuf,
    interval: u64,
    indexer: Indexer,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file.
    position: u64,
    /// Whether every batch was copied as it was.
    pub(super) unchanged: bool,
}

impl Output {
    /// Begins the segment that takes the place of those from `base` on.
    pub(super) fn create(pool: &Arc<FilePool>, directory: &Path, base: u64, interval: u64) -> Result<Self> {
        remove_files(pool.fs(), directory, base, Stage::Cleaned)?;
        let file = pool.create(staged_name(directory, base, FileKind::Log, Stage::Cleaned))?;
        Ok(Output {
            log: Arc::new(LogFile::new(file, base, 0)),
            directory: directory.to_path_buf(),
            interval,
            indexer: Indexer::new(Arc::new(Indexes::empty(base)), interval),
            buffer: Vec::with_capacity(BUFFER_BYTES),
            position: 0,
            unchanged: true,
        })
    }

    /// Adds a batch behind the last one.
    pub(super) fn append(&mut self, bytes: &[u8], header: &BatchHeader) -> Result<()> {
        let position = self.position + self.buffer.len() as u64;
        let size = position + bytes.len() as u64;
        if size > LOG_BYTES_MAX {
            let setting = "Kafka's format";
            return Err(Error::TooLarge { what: "a compacted segment", size, limit: LOG_BYTES_MAX, setting });
        }
        self.indexer.note(header, position)?;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.log.write(&self.buffer, self.position)?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all of it durable, with its indexes beside it, still under the names of something unfinished.
    pub(super) fn finish(
        mut self,
        aborted: impl IntoIterator<Item = AbortedTransaction>,
        appended_at: i64,
    ) -> Result<Segment> {
        self.write()?;
        self.indexer.finish()?;
        self.log.file().sync()?;
        self.log.publish(self.position);
        let mut index = TransactionIndex::new();
        aborted.into_iter().try_for_each(|entry| index.append(entry))?;
        let segment = Segment::sealed(self.log, self.directory, self.interval);
        segment.adopt(Some(self.indexer.into_indexes()));
        segment.set_append_time(appended_at);
        segment.write_append_time()?;
        segment.write_staged(&index, Stage::Cleaned)?;
        segment.set_aborted(index, false);
        Ok(segment)
    }
}
