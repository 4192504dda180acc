//! [`TransactionIndex`]: the transactions aborted in one segment (`.txnindex`, Kafka's `TransactionIndex`).

use std::path::Path;

use super::file_name::{FileKind, file_name};
use crate::error::{Error, Result};
use crate::format::AbortedTransaction;
use crate::fs::{Disk, FileSystem, full_path, read_file};

/// The aborted transactions whose markers lie in one segment, ordered by the offset of the marker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransactionIndex {
    entries: Vec<AbortedTransaction>,
}

impl TransactionIndex {
    /// Opens the `.txnindex` file of a segment; no file means no aborted transaction.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Corruption`] if it is no transaction index of that segment:
    /// then it has to be rebuilt from the log.
    pub fn open(directory: impl AsRef<Path>, base_offset: u64) -> Result<Self> {
        let fs = Disk::open(directory)?;
        TransactionIndex::load(
            &fs,
            &file_name(Path::new(""), base_offset, FileKind::TransactionIndex),
            base_offset,
        )
    }

    /// The entries, in the order of their markers.
    pub fn entries(&self) -> &[AbortedTransaction] {
        &self.entries
    }

    pub(crate) fn load(fs: &dyn FileSystem, name: &Path, base_offset: u64) -> Result<Self> {
        let bytes = match read_file(fs, name, i32::MAX as u64) {
            Ok(bytes) => bytes,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(TransactionIndex::default());
            }
            Err(error) => return Err(error),
        };
        let mut entries: Vec<AbortedTransaction> = Vec::new();
        // A torn tail is dropped: the marker it stood for is still in the log.
        for (n, chunk) in bytes.chunks_exact(AbortedTransaction::SIZE).enumerate() {
            let damaged = |detail: String| Error::Corruption {
                path: full_path(fs, name),
                position: (n * AbortedTransaction::SIZE) as u64,
                offset: base_offset,
                detail,
            };
            let Some(chunk) = chunk.first_chunk() else { break };
            let entry = AbortedTransaction::decode(chunk).map_err(|error| damaged(error.to_string()))?;
            if entry.last_offset < base_offset {
                return Err(damaged(format!("marker {} lies before the segment", entry.last_offset)));
            }
            if entries.last().is_some_and(|last| entry.last_offset <= last.last_offset) {
                return Err(damaged(format!("marker {} is out of order", entry.last_offset)));
            }
            entries.push(entry);
        }
        Ok(TransactionIndex { entries })
    }
}
