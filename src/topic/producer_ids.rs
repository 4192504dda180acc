//! Producer ids, each given once: `annals.producer-ids` says which of them nobody has been given yet.
//!
//! Ids are taken from the file by the block, as a Kafka broker takes them from its controller: the end of a block is on
//! disk before the first id of it is given, so that a crash loses ids and gives none twice. The file lies in a
//! [frame](super::framed) with the magic `annalsP1`; its body is the first id that belongs to no block, u64,
//! big-endian.
//!
//! A directory may have served a Kafka broker, and a file may be lost. So the first id given after each opening also
//! lies behind every id that a partition knows of, or that a coordinator [names](ProducerIds::avoid); and if the file
//! is damaged, or missing where producers are known, a block further: some may have been given an id and not have used
//! it yet.

use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::framed::{Frame, put_u64};
use super::store::Shared;
use crate::error::{Error, FormatError, Result};
use crate::fs::{full_path, read_file, replace_file};
use crate::partition::Partition;

/// The name of the file.
pub(super) const PRODUCER_IDS_FILE: &str = "annals.producer-ids";

const FRAME: Frame = Frame {
    what: "the file of producer ids",
    magic: b"annalsP1",
    magic_text: "the magic annalsP1",
    version: 1,
    version_text: "version 1",
};
/// A file of the frame and one number is shorter; a length beyond it is damage.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// How many ids are taken at a time (Kafka's `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`).
const BLOCK: i64 = 1000;

/// The ids of a store.
#[derive(Debug, Default)]
pub(super) struct ProducerIds(Mutex<Ids>);

#[derive(Debug, Default)]
struct Ids {
    /// Whether it was looked up which ids are free.
    known: bool,
    /// The next id to give, and the first that may not be given before the file says so.
    next: i64,
    end: i64,
    /// Ids below it were given by somebody else.
    floor: i64,
}

/// What became of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Next(i64),
    Damaged,
    Missing,
}

impl ProducerIds {
    /// Keeps an id, and those below it, from being given: somebody has it already.
    pub(super) fn avoid(&self, id: i64) {
        let ids = &mut *self.0.lock();
        ids.floor = ids.floor.max(id.saturating_add(1));
    }
}

impl Shared {
    /// An id that no producer has been given before.
    pub(super) fn producer_id(&self) -> Result<i64> {
        self.check_writable("give a producer id in")?;
        let ids = &mut *self.producer_ids.0.lock();
        if !ids.known {
            self.look_up(ids)?;
        }
        let id = ids.next.max(ids.floor);
        if id >= ids.end {
            let end = id.checked_add(BLOCK).ok_or_else(|| exhausted(id))?;
            replace_file(&*self.fs, Path::new(PRODUCER_IDS_FILE), &encode(end))?;
            ids.end = end;
        }
        ids.next = id + 1;
        Ok(id)
    }

    fn look_up(&self, ids: &mut Ids) -> Result<()> {
        let stored = self.read_producer_ids()?;
        // Their producers come in the order of their ids.
        let highest =
            |partition: &Partition| partition.producers().last().map(|producer| producer.producer_id);
        let highest = self.open_partitions_now().iter().filter_map(highest).max();
        let behind = highest.map_or(0, |id| id.saturating_add(1)).max(ids.floor);
        ids.next = match stored {
            Stored::Next(next) => next.max(behind),
            Stored::Missing if behind == 0 => 0,
            Stored::Missing | Stored::Damaged => behind.saturating_add(BLOCK),
        };
        (ids.end, ids.known) = (ids.next, true);
        Ok(())
    }

    fn read_producer_ids(&self) -> Result<Stored> {
        let name = Path::new(PRODUCER_IDS_FILE);
        let detail = match read_file(&*self.fs, name, FILE_BYTES_MAX) {
            Ok(bytes) => match decode(&bytes) {
                Ok(next) => return Ok(Stored::Next(next)),
                Err(FormatError::Version { what, found, supported }) => {
                    let path = full_path(&*self.fs, name);
                    return Err(Error::UnsupportedFormat { path, what, found, supported });
                }
                Err(damaged) => damaged.to_string(),
            },
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Stored::Missing);
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                source.to_string()
            }
            Err(error @ Error::TooLarge { .. }) => error.to_string(),
            Err(error) => return Err(error),
        };
        self.warn(format!("{PRODUCER_IDS_FILE} was damaged; ids go on behind those in use: {detail}"));
        Ok(Stored::Damaged)
    }
}

fn exhausted(id: i64) -> Error {
    let (size, limit) = (id.unsigned_abs(), i64::MAX.unsigned_abs());
    Error::TooLarge { what: "a producer id", size, limit, setting: "Kafka's format" }
}

fn encode(next: i64) -> Vec<u8> {
    FRAME.encode(8, |body| put_u64(body, next.unsigned_abs()))
}

fn decode(bytes: &[u8]) -> Result<i64, FormatError> {
    let mut body = FRAME.decode(bytes)?;
    let next = body.u64()?;
    body.finish()?;
    let next = body.within(next, 0..=i64::MAX.unsigned_abs(), "a producer id of at least 0")?;
    Ok(next as i64)
}

#[cfg(test)]
mod tests {
    use super::super::framed::assert_damage_is_found;
    use super::*;

    #[test]
    fn the_body_is_the_first_free_id() {
        let bytes = encode(4000);
        assert_eq!(&bytes[..10], b"annalsP1\0\x01");
        assert_eq!(bytes[18..bytes.len() - 4], 4000u64.to_be_bytes());
        assert_damage_is_found(&bytes, decode);
        for next in [0, 1, i64::MAX] {
            assert_eq!(decode(&encode(next)), Ok(next));
        }
    }

    #[test]
    fn what_may_not_be_is_refused_even_under_a_right_checksum() {
        let negative = FRAME.encode(8, |body| put_u64(body, u64::MAX));
        assert!(matches!(decode(&negative), Err(FormatError::Invalid { found: -1, .. })));
        let newer = Frame { version: 2, ..FRAME }.encode(0, |_| ());
        assert!(matches!(decode(&newer), Err(FormatError::Version { found: 2, .. })));
    }
}
