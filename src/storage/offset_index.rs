//! [`OffsetIndex`]: where in the log file to begin looking for an offset (`.index`, Kafka's `OffsetIndex`).
//!
//! ```text
//! entry, 8 bytes:  | relative offset (i32) | position (i32) |     sorted by offset, strictly increasing
//! ```
//!
//! An entry `(o, p)` says: a batch begins at `p`, and every batch before it ends below `o`. The index is sparse and
//! never the truth: whoever uses an entry must find it confirmed by the batch, or rebuild the index.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::file_name::{FileKind, file_name};
use crate::error::{Error, Result};
use crate::format::OffsetIndexEntry;
use crate::fs::{Disk, FileSystem, Mapping, OpenMode, full_path, read_full_at, replace_file, retry};

/// One answer of an index: the batch at `position` is the place to begin looking for `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The offset of the entry.
    pub offset: u64,
    /// The byte position in the log file of a batch.
    pub position: u64,
}

/// The offset index of one segment: in memory while the segment is active, a read-only mapping of its file once
/// it is sealed.
///
/// ```
/// use annals::OffsetIndex;
/// let index = OffsetIndex::new(1_000);
/// index.append(1_005, 242)?;
/// index.append(1_009, 484)?;
/// assert_eq!(index.lookup(1_007).position, 242);
/// assert_eq!(index.lookup(1_002).position, 0); // before the first entry: the start of the segment
/// assert!(index.append(1_009, 700).is_err()); // offsets must increase
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug)]
pub struct OffsetIndex {
    base_offset: u64,
    entries: Entries,
}

#[derive(Debug)]
enum Entries {
    Memory(Box<AppendOnly>),
    Sealed(Mapping),
}

impl OffsetIndex {
    /// An empty index in memory for the segment that begins at `base_offset`.
    pub fn new(base_offset: u64) -> Self {
        OffsetIndex { base_offset, entries: Entries::Memory(Box::default()) }
    }

    /// Opens the `.index` file of a segment for reading, whoever wrote it.
    ///
    /// Slots of zeroes at its end, which a killed Kafka broker leaves behind, are dropped.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Corruption`] if it is no offset index of that segment: then
    /// it has to be rebuilt from the log.
    pub fn open(directory: impl AsRef<Path>, base_offset: u64) -> Result<Self> {
        let fs = Disk::open(directory)?;
        let name = file_name(Path::new(""), base_offset, FileKind::OffsetIndex);
        // Not mapped: no lock keeps its writer from cutting it.
        OffsetIndex::load(&fs, &name, base_offset, false)
    }

    /// The offset at which the segment begins; what every lookup falls back to.
    pub fn base_offset(&self) -> u64 {
        self.base_offset
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Memory(entries) => entries.len(),
            Entries::Sealed(mapping) => mapping.len() / OffsetIndexEntry::SIZE,
        }
    }

    /// Whether there are no entries; lookups then answer the start of the segment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `n`-th entry, counted from 0.
    pub fn entry(&self, n: usize) -> Option<IndexEntry> {
        let entry = match &self.entries {
            Entries::Memory(entries) => entries.get(n)?,
            Entries::Sealed(mapping) => decode(mapping, n)?,
        };
        Some(self.absolute(entry))
    }

    /// The last entry.
    pub fn last(&self) -> Option<IndexEntry> {
        self.entry(self.len().checked_sub(1)?)
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = IndexEntry> + '_ {
        (0..self.len()).map_while(|n| self.entry(n))
    }

    /// The entry with the greatest offset not above `offset`, or the start of the segment.
    pub fn lookup(&self, offset: u64) -> IndexEntry {
        let below =
            partition_point(self.len(), |n| self.entry(n).is_some_and(|entry| entry.offset <= offset));
        let found = below.checked_sub(1).and_then(|n| self.entry(n));
        found.unwrap_or(IndexEntry { offset: self.base_offset, position: 0 })
    }

    /// Adds an entry behind the last one. The segment calls it every `index.interval.bytes`.
    ///
    /// # Errors
    /// [`Error::IndexOrder`] if the offset is not above the last one, is below the base, or does not fit in the
    /// entry; [`Error::ReadOnly`] if the index is sealed. Callers must not append from two threads at once.
    pub fn append(&self, offset: u64, position: u64) -> Result<()> {
        let Entries::Memory(entries) = &self.entries else {
            return Err(Error::ReadOnly {
                action: "append to",
                path: PathBuf::from("a sealed offset index"),
            });
        };
        let last = self.last();
        let ordered = last.is_none_or(|last| offset > last.offset && position >= last.position);
        let relative = offset.checked_sub(self.base_offset).and_then(|relative| i32::try_from(relative).ok());
        match (relative, i32::try_from(position)) {
            (Some(relative_offset), Ok(position)) if ordered => {
                entries.push(OffsetIndexEntry {
                    relative_offset: relative_offset as u32,
                    position: position as u32,
                });
                Ok(())
            }
            _ => {
                let last_offset = last.map_or(self.base_offset, |last| last.offset);
                Err(Error::IndexOrder { offset, position, last_offset })
            }
        }
    }

    /// The entries as the file holds them.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() * OffsetIndexEntry::SIZE);
        for IndexEntry { offset, position } in self.entries() {
            let relative_offset = (offset - self.base_offset) as u32;
            bytes
                .extend_from_slice(&OffsetIndexEntry { relative_offset, position: position as u32 }.encode());
        }
        bytes
    }

    /// Writes the entries to their file, which is replaced whole.
    pub(crate) fn write(&self, fs: &dyn FileSystem, name: &Path) -> Result<()> {
        replace_file(fs, name, &self.encode())
    }

    /// Reads an index file and checks every entry against the one before it; maps it if asked to.
    pub(crate) fn load(fs: &dyn FileSystem, name: &Path, base_offset: u64, map: bool) -> Result<Self> {
        let path = full_path(fs, name);
        let bytes = load_entries(fs, name, OffsetIndexEntry::SIZE, map)?;
        let checked = check_order(&bytes);
        let len = checked.map_err(|(position, detail)| Error::Corruption {
            path,
            position,
            offset: base_offset,
            detail: detail.into(),
        })?;
        let bytes = if len < bytes.len() { shorten(&bytes, len) } else { bytes };
        Ok(OffsetIndex { base_offset, entries: Entries::Sealed(bytes) })
    }

    /// The same entries up to those below `offset` and `position`, in memory and open for more.
    pub(crate) fn to_active(&self, offset: u64, position: u64) -> Self {
        let active = OffsetIndex::new(self.base_offset);
        for entry in self.entries().take_while(|entry| entry.offset < offset && entry.position < position) {
            if active.append(entry.offset, entry.position).is_err() {
                break;
            }
        }
        active
    }

    fn absolute(&self, entry: OffsetIndexEntry) -> IndexEntry {
        let offset = self.base_offset.saturating_add(u64::from(entry.relative_offset));
        IndexEntry { offset, position: u64::from(entry.position) }
    }
}

/// The number of leading indexes for which `holds` is true; it must hold for a prefix.
pub(super) fn partition_point(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The whole entries of an index file. It is read once even if it is mapped afterwards, so that a failing disk
/// is an error of a call here and not a signal at a lookup.
pub(super) fn load_entries(
    fs: &dyn FileSystem,
    name: &Path,
    entry_size: usize,
    map: bool,
) -> Result<Mapping> {
    let failed = |error| Error::io("read", &full_path(fs, name), error);
    let file = retry(|| fs.open(name, OpenMode::Read)).map_err(failed)?;
    let size = retry(|| file.size()).map_err(failed)?;
    if size > i32::MAX as u64 || size % entry_size as u64 != 0 {
        let detail = format!("its size of {size} bytes is not a multiple of {entry_size} below 2 GiB");
        return Err(Error::Corruption { path: full_path(fs, name), position: 0, offset: 0, detail });
    }
    let mut bytes = vec![0; size as usize];
    let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
    bytes.truncate(read - read % entry_size);
    // No mapping to be had (ENOMEM, too many of them): the bytes just read serve as well.
    let mapped = map.then(|| retry(|| file.map(bytes.len())).ok()).flatten();
    Ok(mapped.unwrap_or_else(|| Mapping::from_bytes(bytes)))
}

pub(super) fn shorten(bytes: &[u8], len: usize) -> Mapping {
    Mapping::from_bytes(bytes.get(..len).unwrap_or_default().to_vec())
}

fn decode(bytes: &[u8], n: usize) -> Option<OffsetIndexEntry> {
    let entry = bytes.get(n * OffsetIndexEntry::SIZE..)?.first_chunk()?;
    OffsetIndexEntry::decode(entry).ok()
}

/// The length of the entries in order, without the zero slots behind them, or where and why they are not.
fn check_order(bytes: &[u8]) -> Result<usize, (u64, &'static str)> {
    let mut last: Option<OffsetIndexEntry> = None;
    for (n, chunk) in bytes.chunks_exact(OffsetIndexEntry::SIZE).enumerate() {
        let position = (n * OffsetIndexEntry::SIZE) as u64;
        if chunk.iter().all(|&byte| byte == 0) {
            // Kafka never writes an entry for the first batch, so zeroes are slots not yet used.
            let rest = bytes.get(n * OffsetIndexEntry::SIZE..).unwrap_or_default();
            if rest.iter().any(|&byte| byte != 0) {
                return Err((position, "an empty slot lies before used ones"));
            }
            return Ok(n * OffsetIndexEntry::SIZE);
        }
        let entry = decode(bytes, n).ok_or((position, "a negative offset or position"))?;
        if last.is_some_and(|last| {
            entry.relative_offset <= last.relative_offset || entry.position < last.position
        }) {
            return Err((position, "offsets must increase from entry to entry, positions must not go back"));
        }
        last = Some(entry);
    }
    Ok(bytes.len())
}

/// Entries that one thread appends and any number reads, without a lock.
///
/// An entry is one atomic word in a chunk that never moves; chunk `n` holds `64 << n` of them. `len` is stored
/// with release after the word, so a reader that loads it with acquire finds every word below it written.
#[derive(Debug)]
struct AppendOnly {
    chunks: [OnceLock<Box<[AtomicU64]>>; CHUNKS],
    len: AtomicUsize,
}

const CHUNKS: usize = 23;
const FIRST_CHUNK: usize = 64;

impl Default for AppendOnly {
    fn default() -> Self {
        AppendOnly { chunks: [const { OnceLock::new() }; CHUNKS], len: AtomicUsize::new(0) }
    }
}

impl AppendOnly {
    fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    fn place(n: usize) -> (usize, usize) {
        let chunk = (n / FIRST_CHUNK + 1).ilog2() as usize;
        (chunk, n - ((1 << chunk) - 1) * FIRST_CHUNK)
    }

    fn get(&self, n: usize) -> Option<OffsetIndexEntry> {
        if n >= self.len() {
            return None;
        }
        let (chunk, place) = Self::place(n);
        let word = self.chunks.get(chunk)?.get()?.get(place)?.load(Ordering::Relaxed);
        Some(OffsetIndexEntry { relative_offset: (word >> 32) as u32, position: word as u32 })
    }

    fn push(&self, entry: OffsetIndexEntry) {
        let n = self.len.load(Ordering::Relaxed);
        let (chunk, place) = Self::place(n);
        let Some(chunk_slot) = self.chunks.get(chunk) else { return };
        let words = chunk_slot.get_or_init(|| (0..FIRST_CHUNK << chunk).map(|_| AtomicU64::new(0)).collect());
        if let Some(word) = words.get(place) {
            let bits = (u64::from(entry.relative_offset) << 32) | u64::from(entry.position);
            word.store(bits, Ordering::Relaxed);
            self.len.store(n + 1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_place_of_an_entry_runs_through_the_chunks() {
        let mut expected = (0..).flat_map(|chunk| (0..FIRST_CHUNK << chunk).map(move |place| (chunk, place)));
        for n in 0..10_000 {
            assert_eq!(Some(AppendOnly::place(n)), expected.next());
        }
        // A segment of 2 GiB has less entries than this, one for each batch of 61 bytes.
        assert!(FIRST_CHUNK * ((1 << CHUNKS) - 1) > i32::MAX as usize / 61);
    }

    proptest! {
        #[test]
        fn a_lookup_finds_the_greatest_entry_not_above(
            steps in proptest::collection::vec((1u64..50, 1u64..5000), 0..300),
            probes in proptest::collection::vec(0u64..20_000, 20),
        ) {
            let index = OffsetIndex::new(1_000);
            let (mut offset, mut position, mut model) = (1_000, 0, vec![]);
            for (by, bytes) in steps {
                offset += by;
                position += bytes;
                index.append(offset, position).unwrap();
                model.push(IndexEntry { offset, position });
            }
            let sealed = OffsetIndex {
                base_offset: 1_000,
                entries: Entries::Sealed(Mapping::from_bytes(index.encode())),
            };
            let start = IndexEntry { offset: 1_000, position: 0 };
            for probe in probes {
                let expected = model.iter().rev().find(|entry| entry.offset <= probe).copied().unwrap_or(start);
                prop_assert_eq!(index.lookup(probe), expected);
                prop_assert_eq!(sealed.lookup(probe), expected);
            }
            prop_assert_eq!(index.entries().collect::<Vec<_>>(), model);
        }

        #[test]
        fn any_bytes_are_an_index_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(len) = check_order(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }

    #[test]
    fn zero_slots_at_the_end_are_dropped_and_elsewhere_refused() {
        let index = OffsetIndex::new(0);
        index.append(5, 100).unwrap();
        index.append(9, 200).unwrap();
        let mut bytes = index.encode();
        bytes.resize(10 << 20, 0);
        assert_eq!(check_order(&bytes), Ok(16));
        bytes[24..32].copy_from_slice(&[0, 0, 0, 12, 0, 0, 1, 0]);
        assert!(check_order(&bytes).is_err());
    }
}
