//! [`TimeIndex`]: from which offset on to look for a time (`.timeindex`, Kafka's `TimeIndex`).
//!
//! ```text
//! entry, 12 bytes:  | timestamp (i64) | relative offset (i32) |     timestamps strictly increasing
//! ```
//!
//! An entry `(t, o)` says: every record later than `t` lies behind offset `o`.

use std::path::Path;

use parking_lot::RwLock;

use super::file_name::{FileKind, file_name};
use super::offset_index::{load_entries, partition_point, shorten};
use crate::error::{Error, Result};
use crate::format::TimeIndexEntry as StoredEntry;
use crate::fs::{Disk, FileSystem, Mapping, full_path, replace_file};

/// One answer of a time index: records later than `timestamp` lie behind `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeIndexEntry {
    /// Milliseconds since the epoch; -1 stands for "before everything".
    pub timestamp: i64,
    /// The offset of the last record of the batch that had this timestamp.
    pub offset: u64,
}

/// The time index of one segment: in memory while the segment is active, a read-only mapping of its file once it
/// is sealed.
#[derive(Debug)]
pub struct TimeIndex {
    base_offset: u64,
    entries: Entries,
}

#[derive(Debug)]
enum Entries {
    Memory(RwLock<Vec<StoredEntry>>),
    Sealed(Mapping),
}

impl TimeIndex {
    /// An empty index in memory for the segment that begins at `base_offset`.
    pub fn new(base_offset: u64) -> Self {
        TimeIndex { base_offset, entries: Entries::Memory(RwLock::default()) }
    }

    /// Opens the `.timeindex` file of a segment for reading; zero slots at its end are dropped.
    ///
    /// # Errors
    /// As [`OffsetIndex::open`](super::OffsetIndex::open).
    pub fn open(directory: impl AsRef<Path>, base_offset: u64) -> Result<Self> {
        let fs = Disk::open(directory)?;
        let name = file_name(Path::new(""), base_offset, FileKind::TimeIndex);
        TimeIndex::load(&fs, &name, base_offset, false)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Memory(entries) => entries.read().len(),
            Entries::Sealed(mapping) => mapping.len() / StoredEntry::SIZE,
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `n`-th entry, counted from 0.
    pub fn entry(&self, n: usize) -> Option<TimeIndexEntry> {
        let entry = match &self.entries {
            Entries::Memory(entries) => entries.read().get(n).copied()?,
            Entries::Sealed(mapping) => decode(mapping, n)?,
        };
        Some(self.absolute(entry))
    }

    fn absolute(&self, entry: StoredEntry) -> TimeIndexEntry {
        let offset = self.base_offset.saturating_add(u64::from(entry.relative_offset));
        TimeIndexEntry { timestamp: entry.timestamp, offset }
    }

    /// The last entry: for a sealed segment, its largest timestamp.
    pub fn last(&self) -> Option<TimeIndexEntry> {
        self.entry(self.len().checked_sub(1)?)
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = TimeIndexEntry> + '_ {
        (0..self.len()).map_while(|n| self.entry(n))
    }

    /// The entry with the greatest timestamp not above `timestamp`, or the start of the segment with timestamp -1.
    pub fn lookup(&self, timestamp: i64) -> TimeIndexEntry {
        let below = partition_point(self.len(), |n| self.entry(n).is_some_and(|e| e.timestamp <= timestamp));
        let found = below.checked_sub(1).and_then(|n| self.entry(n));
        found.unwrap_or(TimeIndexEntry { timestamp: -1, offset: self.base_offset })
    }

    /// Adds an entry if its timestamp is above the last one; does nothing otherwise.
    ///
    /// # Errors
    /// [`Error::IndexOrder`] if the offset goes back or does not fit, [`Error::ReadOnly`] if the index is sealed.
    pub fn maybe_append(&self, timestamp: i64, offset: u64) -> Result<()> {
        let Entries::Memory(entries) = &self.entries else {
            return Err(Error::ReadOnly { action: "append to", path: "a sealed time index".into() });
        };
        // Held from the look at the last entry on: an append and whoever writes the file may both add one.
        let mut entries = entries.write();
        let last = entries.last().map(|last| self.absolute(*last));
        if last.is_some_and(|last| timestamp <= last.timestamp) || timestamp < 0 {
            return Ok(());
        }
        let relative = offset.checked_sub(self.base_offset).and_then(|relative| i32::try_from(relative).ok());
        match relative.filter(|_| last.is_none_or(|last| offset >= last.offset)) {
            Some(relative) => {
                entries.push(StoredEntry { timestamp, relative_offset: relative as u32 });
                Ok(())
            }
            None => {
                let last_offset = last.map_or(self.base_offset, |last| last.offset);
                Err(Error::IndexOrder { offset, position: 0, last_offset })
            }
        }
    }

    /// Writes the entries to their file, which is replaced whole.
    pub(crate) fn write(&self, fs: &dyn FileSystem, name: &Path) -> Result<()> {
        let mut bytes = Vec::with_capacity(self.len() * StoredEntry::SIZE);
        for TimeIndexEntry { timestamp, offset } in self.entries() {
            let relative_offset = (offset - self.base_offset) as u32;
            bytes.extend_from_slice(&StoredEntry { timestamp, relative_offset }.encode());
        }
        replace_file(fs, name, &bytes)
    }

    /// Reads a time index file and checks every entry against the one before it; maps it if asked to.
    pub(crate) fn load(fs: &dyn FileSystem, name: &Path, base_offset: u64, map: bool) -> Result<Self> {
        let bytes = load_entries(fs, name, StoredEntry::SIZE, map)?;
        let len = check_order(&bytes).map_err(|(position, detail)| Error::Corruption {
            path: full_path(fs, name),
            position,
            offset: base_offset,
            detail: detail.into(),
        })?;
        let bytes = if len < bytes.len() { shorten(&bytes, len) } else { bytes };
        Ok(TimeIndex { base_offset, entries: Entries::Sealed(bytes) })
    }

    /// The same entries up to those below `offset`, in memory and open for more.
    pub(crate) fn to_active(&self, offset: u64) -> Self {
        let active = TimeIndex::new(self.base_offset);
        for entry in self.entries().take_while(|entry| entry.offset < offset) {
            if active.maybe_append(entry.timestamp, entry.offset).is_err() {
                break;
            }
        }
        active
    }
}

fn decode(bytes: &[u8], n: usize) -> Option<StoredEntry> {
    let entry = bytes.get(n * StoredEntry::SIZE..)?.first_chunk()?;
    StoredEntry::decode(entry).ok()
}

/// The length of the entries in order, without the zero slots behind them, or where and why they are not.
fn check_order(bytes: &[u8]) -> Result<usize, (u64, &'static str)> {
    let mut last: Option<StoredEntry> = None;
    for (n, chunk) in bytes.chunks_exact(StoredEntry::SIZE).enumerate() {
        let position = (n * StoredEntry::SIZE) as u64;
        if chunk.iter().all(|&byte| byte == 0) {
            let rest = bytes.get(n * StoredEntry::SIZE..).unwrap_or_default();
            if rest.iter().any(|&byte| byte != 0) {
                return Err((position, "an empty slot lies before used ones"));
            }
            return Ok(n * StoredEntry::SIZE);
        }
        let entry = decode(bytes, n).ok_or((position, "a negative offset"))?;
        let ordered = |last: StoredEntry| {
            entry.timestamp > last.timestamp && entry.relative_offset >= last.relative_offset
        };
        if entry.timestamp < 0 || !last.is_none_or(ordered) {
            return Err((position, "timestamps must increase and offsets must not go back"));
        }
        last = Some(entry);
    }
    Ok(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lookup_finds_the_greatest_timestamp_not_above(
            steps in proptest::collection::vec((-20i64..50, 0u64..9), 0..200),
            probes in proptest::collection::vec(-5i64..5_000, 20),
        ) {
            let index = TimeIndex::new(70);
            let (mut timestamp, mut offset, mut model): (i64, u64, Vec<TimeIndexEntry>) = (0, 70, vec![]);
            for (by, offsets) in steps {
                timestamp = (timestamp + by).max(0);
                offset += offsets;
                index.maybe_append(timestamp, offset).unwrap();
                if model.last().is_none_or(|last| timestamp > last.timestamp) {
                    model.push(TimeIndexEntry { timestamp, offset });
                }
            }
            prop_assert_eq!(index.entries().collect::<Vec<_>>(), model.clone());
            let start = TimeIndexEntry { timestamp: -1, offset: 70 };
            for probe in probes {
                let expected = model.iter().rev().find(|e| e.timestamp <= probe).copied().unwrap_or(start);
                prop_assert_eq!(index.lookup(probe), expected);
            }
        }
    }

    #[test]
    fn an_offset_that_goes_back_is_refused_and_an_older_time_is_skipped() {
        let index = TimeIndex::new(0);
        index.maybe_append(10, 5).unwrap();
        index.maybe_append(10, 6).unwrap();
        index.maybe_append(9, 7).unwrap();
        assert_eq!(index.len(), 1);
        assert!(matches!(index.maybe_append(11, 4), Err(Error::IndexOrder { .. })));
    }
}
