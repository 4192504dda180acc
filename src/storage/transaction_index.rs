//! [`TransactionIndex`]: the transactions aborted in one segment (`.txnindex`, Kafka's `TransactionIndex`).
//!
//! The file has no checksum, and nothing in the log repeats what it says at the place where a reader needs it. So
//! a file of ours lies beside it, `N.txnindex.crc`: with it, an index that is missing, cut or changed is noticed,
//! and made again from the log.
//!
//! ```text
//! | CRC-32 of the .txnindex file (u32) | CRC-32 of the four bytes before (u32) |
//! ```

use std::path::Path;

use super::file_name::{FileKind, file_name};
use crate::error::{Error, Result};
use crate::format::AbortedTransaction;
use crate::fs::{Disk, FileSystem, full_path, read_file, replace_file};

/// The aborted transactions whose markers lie in one segment, ordered by the offset of the marker.
///
/// ```
/// use annals::TransactionIndex;
/// use annals::format::AbortedTransaction;
/// let mut index = TransactionIndex::new();
/// index.append(AbortedTransaction { producer_id: 7, first_offset: 3, last_offset: 9, last_stable_offset: 10 })?;
/// assert_eq!(index.collect(5, 20).len(), 1);
/// assert!(index.collect(10, 20).is_empty()); // all of it lies before
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransactionIndex {
    entries: Vec<AbortedTransaction>,
}

impl TransactionIndex {
    /// An empty index in memory.
    pub fn new() -> Self {
        TransactionIndex::default()
    }

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

    /// Adds a transaction behind the last one.
    ///
    /// # Errors
    /// [`Error::IndexOrder`] if its marker does not lie behind the last one's.
    pub fn append(&mut self, aborted: AbortedTransaction) -> Result<()> {
        if let Some(last) = self.entries.last().filter(|last| aborted.last_offset <= last.last_offset) {
            let (offset, last_offset) = (aborted.last_offset, last.last_offset);
            return Err(Error::IndexOrder { offset, position: 0, last_offset });
        }
        self.entries.push(aborted);
        Ok(())
    }

    /// The transactions with data that a fetch from `fetch_offset` to `upper_bound` (exclusive) may meet.
    pub fn collect(&self, fetch_offset: u64, upper_bound: u64) -> Vec<AbortedTransaction> {
        let concerned = |entry: &&AbortedTransaction| {
            entry.last_offset >= fetch_offset && entry.first_offset < upper_bound
        };
        self.entries.iter().filter(concerned).copied().collect()
    }

    /// Whether no later index can have a transaction that begins below `upper_bound`.
    pub(crate) fn ends_search(&self, fetch_offset: u64, upper_bound: u64) -> bool {
        let behind = |entry: &AbortedTransaction| {
            entry.last_offset >= fetch_offset && entry.last_stable_offset >= upper_bound
        };
        self.entries.iter().any(behind)
    }

    /// Forgets the transactions whose markers lie at `offset` or behind.
    pub fn truncate_to(&mut self, offset: u64) {
        self.entries.retain(|entry| entry.last_offset < offset);
    }

    pub(crate) fn load(fs: &dyn FileSystem, name: &Path, base_offset: u64) -> Result<Self> {
        match read_if_there(fs, name)? {
            Some(bytes) => TransactionIndex::decode(&bytes, fs, name, base_offset),
            None => Ok(TransactionIndex::default()),
        }
    }

    /// The index of a segment, or `None` if it is known not to be the one that was written.
    pub(crate) fn load_checked(fs: &dyn FileSystem, directory: &Path, base: u64) -> Result<Option<Self>> {
        let name = file_name(directory, base, FileKind::TransactionIndex);
        let checksum = read_if_there(fs, &file_name(directory, base, FileKind::TransactionChecksum))?;
        let bytes = read_if_there(fs, &name)?;
        // A checksum that is itself damaged says nothing.
        let expected = checksum.and_then(|stored| decode_checksum(&stored));
        let found = bytes.as_deref().map(crc32fast::hash);
        if expected.is_some_and(|expected| found != Some(expected)) {
            return Ok(None);
        }
        let decoded = TransactionIndex::decode(&bytes.unwrap_or_default(), fs, &name, base);
        Ok(decoded.ok())
    }

    /// Whether a checksum file of the index is there.
    pub(crate) fn has_checksum(fs: &dyn FileSystem, directory: &Path, base: u64) -> Result<bool> {
        let checksum = read_if_there(fs, &file_name(directory, base, FileKind::TransactionChecksum))?;
        Ok(checksum.and_then(|stored| decode_checksum(&stored)).is_some())
    }

    /// Writes the index and its checksum, each as a whole.
    pub(crate) fn write(&self, fs: &dyn FileSystem, directory: &Path, base: u64) -> Result<()> {
        let name = |kind| file_name(directory, base, kind);
        self.write_as(fs, &name(FileKind::TransactionIndex), &name(FileKind::TransactionChecksum))
    }

    /// As [`write`](Self::write), under names of the caller's.
    pub(crate) fn write_as(&self, fs: &dyn FileSystem, index: &Path, checksum: &Path) -> Result<()> {
        let bytes: Vec<u8> = self.entries.iter().flat_map(AbortedTransaction::encode).collect();
        replace_file(fs, index, &bytes)?;
        replace_file(fs, checksum, &encode_checksum(&bytes))
    }

    fn decode(bytes: &[u8], fs: &dyn FileSystem, name: &Path, base_offset: u64) -> Result<Self> {
        let mut index = TransactionIndex::default();
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
            let marker = entry.last_offset;
            index.append(entry).map_err(|_| damaged(format!("marker {marker} is out of order")))?;
        }
        Ok(index)
    }
}

/// The checksum file for an index of these bytes.
pub(crate) fn encode_checksum(index: &[u8]) -> [u8; 8] {
    let stored = crc32fast::hash(index).to_be_bytes();
    let [a, b, c, d] = stored;
    let [e, f, g, h] = crc32fast::hash(&stored).to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

fn decode_checksum(bytes: &[u8]) -> Option<u32> {
    let (stored, guard) = (bytes.first_chunk::<4>()?, bytes.get(4..)?);
    (guard == crc32fast::hash(stored).to_be_bytes()).then(|| u32::from_be_bytes(*stored))
}

fn read_if_there(fs: &dyn FileSystem, name: &Path) -> Result<Option<Vec<u8>>> {
    match read_file(fs, name, i32::MAX as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Io { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimulatedDisk;

    fn aborted(first_offset: u64, last_offset: u64, last_stable_offset: u64) -> AbortedTransaction {
        AbortedTransaction { producer_id: 7, first_offset, last_offset, last_stable_offset }
    }

    fn index() -> TransactionIndex {
        let mut index = TransactionIndex::new();
        for entry in [aborted(0, 10, 11), aborted(5, 15, 13), aborted(18, 35, 25), aborted(32, 50, 40)] {
            index.append(entry).unwrap();
        }
        index
    }

    #[test]
    fn a_search_meets_what_overlaps_and_knows_when_it_is_over() {
        let index = index();
        let first_offsets = |from, to| -> Vec<u64> {
            index.collect(from, to).iter().map(|entry| entry.first_offset).collect()
        };
        assert_eq!(first_offsets(0, 100), [0, 5, 18, 32]);
        assert_eq!(first_offsets(0, 32), [0, 5, 18]);
        assert_eq!(first_offsets(0, 35), [0, 5, 18, 32]);
        assert_eq!(first_offsets(10, 35), [0, 5, 18, 32]);
        assert_eq!(first_offsets(11, 35), [5, 18, 32]);
        assert_eq!(first_offsets(20, 41), [18, 32]);
        assert!(first_offsets(51, 100).is_empty());
        assert!(!index.ends_search(0, 41) && index.ends_search(0, 40));
    }

    #[test]
    fn markers_must_not_go_back_and_a_truncation_goes_by_markers() {
        let mut index = index();
        assert!(matches!(index.append(aborted(1, 50, 51)), Err(Error::IndexOrder { .. })));
        index.truncate_to(51);
        assert_eq!(index.entries().len(), 4);
        index.truncate_to(35);
        assert_eq!(index.entries().len(), 2);
        index.truncate_to(0);
        assert!(index.entries().is_empty());
    }

    #[test]
    fn every_change_of_either_file_is_noticed_or_harmless() {
        let disk = SimulatedDisk::new(1);
        let directory = Path::new("");
        index().write(&disk, directory, 0).unwrap();
        let load = || TransactionIndex::load_checked(&disk, directory, 0).unwrap();
        assert_eq!(load(), Some(index()));
        let name = file_name(directory, 0, FileKind::TransactionIndex);
        let whole = disk.read(&name).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            disk.write(&name, &damaged).unwrap();
            assert_eq!(load(), None, "flipped at {at}");
            disk.write(&name, &whole[..at]).unwrap();
            assert_eq!(load(), None, "cut at {at}");
        }
        disk.remove_file(&name).unwrap();
        assert_eq!(load(), None);
        disk.write(&name, &whole).unwrap();
        let checksum = file_name(directory, 0, FileKind::TransactionChecksum);
        let bytes = disk.read(&checksum).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            disk.write(&checksum, &damaged).unwrap();
            assert_eq!(load(), Some(index()), "flipped at {at}");
        }
    }
}
