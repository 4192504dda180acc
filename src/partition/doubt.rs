//! Bytes that may or may not be on disk, written again so that they are.
//!
//! After a crash the end of a log can be read and yet be in memory alone: a sync of it may have failed, after which
//! the system takes it for written. Only what is written anew reaches the disk with the next sync. But part of it
//! *is* on disk and was acknowledged, and a power cut in the middle of writing over it could take that. So a copy is
//! written and synced first, and put back by the next recovery if it is still there:
//!
//! ```text
//! N.log.doubtful:  | magic, 8 bytes | position in N.log (u64) | bytes | CRC-32 of all before (u32) |
//! ```

use std::io;
use std::path::{Path, PathBuf};

use byteorder::{BigEndian, ByteOrder};

use super::recovery::Recovery;
use crate::error::{Error, Result};
use crate::fs::{EntryKind, FileSystem, OpenMode, full_path, read_file, retry, sync_dir, write_all_at};
use crate::storage::LogFile;
use crate::storage::file_name::{FileKind, Stage, file_name, parse_file_name};

const MAGIC: &[u8; 8] = b"annalsD1";
const HEAD_BYTES: usize = MAGIC.len() + 8;
const CHECKSUM_BYTES: usize = 4;
/// A whole segment may be in doubt.
const COPY_BYTES_MAX: u64 = i32::MAX as u64 + (HEAD_BYTES + CHECKSUM_BYTES) as u64;

/// Writes the bytes of a log file from one position to another again, and syncs it.
pub(super) fn rewrite(directory: &Path, log: &LogFile, from: u64, to: u64) -> Result<()> {
    let fs = log.file().pool().fs();
    if from < to {
        let bytes = log.read(from, to - from)?;
        if bytes.len() as u64 != to - from {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Error::io("read", &log.path(), error));
        }
        let copy = copy_name(directory, log.base_offset());
        let copied = write_copy(fs, &copy, from, &bytes);
        if copied.is_err() {
            // Not a copy yet, only litter; the log itself was not touched.
            let _ = fs.remove_file(&copy);
        }
        copied?;
        put_back(log, from, &bytes)?;
        remove_copy(fs, &copy)?;
    }
    log.file().forget_failure();
    log.file().sync()
}

fn write_copy(fs: &dyn FileSystem, name: &Path, position: u64, bytes: &[u8]) -> Result<()> {
    let failed = |action| move |error| Error::io(action, &full_path(fs, name), error);
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&position.to_be_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head);
    checksum.update(bytes);
    let _ = fs.remove_file(name);
    let file = retry(|| fs.open(name, OpenMode::CreateNew)).map_err(failed("create"))?;
    let mut end = 0;
    for piece in [&head[..], bytes, &checksum.finalize().to_be_bytes()] {
        write_all_at(&*file, piece, end).map_err(failed("write"))?;
        end += piece.len() as u64;
    }
    retry(|| file.sync()).map_err(failed("sync"))?;
    sync_dir(fs, crate::fs::parent(name))
}

fn put_back(log: &LogFile, position: u64, bytes: &[u8]) -> Result<()> {
    log.file().forget_failure();
    log.write(bytes, position)?;
    log.file().sync()
}

fn remove_copy(fs: &dyn FileSystem, name: &Path) -> Result<()> {
    retry(|| fs.remove_file(name)).map_err(|error| Error::io("remove", &full_path(fs, name), error))?;
    sync_dir(fs, crate::fs::parent(name))
}

/// The position and the bytes of a copy, if it is whole.
fn decode(copy: &[u8]) -> Option<(u64, &[u8])> {
    let (covered, stored) = copy.split_at_checked(copy.len().checked_sub(CHECKSUM_BYTES)?)?;
    if crc32fast::hash(covered) != BigEndian::read_u32(stored) {
        return None;
    }
    let (head, bytes) = covered.split_at_checked(HEAD_BYTES)?;
    let (magic, position) = head.split_at_checked(MAGIC.len())?;
    (magic == MAGIC).then(|| (BigEndian::read_u64(position), bytes))
}

fn copy_name(directory: &Path, base_offset: u64) -> PathBuf {
    let mut name = file_name(directory, base_offset, FileKind::Log).into_os_string();
    name.push(Stage::Doubtful.suffix());
    name.into()
}

impl Recovery<'_> {
    /// Puts back what an interrupted rewrite had copied. A copy that is not whole was never needed.
    pub(super) fn restore_doubtful(&mut self) -> Result<()> {
        if self.from.pool.read_only() {
            return Ok(());
        }
        for (name, kind) in self.list()? {
            let Some((base, FileKind::Log, Stage::Doubtful)) = parse_file_name(&name) else { continue };
            if kind != EntryKind::File {
                continue;
            }
            let copy = self.from.directory.join(&name);
            let fs = self.from.pool.fs();
            let bytes = read_file(fs, &copy, COPY_BYTES_MAX)?;
            let log = file_name(&self.from.directory, base, FileKind::Log);
            let there = retry(|| fs.metadata(&log)).is_ok_and(|metadata| metadata.kind == EntryKind::File);
            if let Some((position, bytes)) = decode(&bytes).filter(|_| there) {
                let log = LogFile::new(self.from.pool.file(log), base, 0);
                // Where the log is shorter, it was cut since: then the copy is older than what is there.
                if position <= log.size()? {
                    put_back(&log, position, bytes)?;
                    self.restored.push((base, position + bytes.len() as u64));
                }
            }
            remove_copy(self.from.pool.fs(), &copy)?;
            self.report.finished.push(copy);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimulatedDisk;

    #[test]
    fn a_copy_is_whole_or_none() {
        let disk = SimulatedDisk::new(1);
        let name = Path::new("00000000000000000000.log.doubtful");
        write_copy(&disk, name, 77, b"the end of a log").unwrap();
        let copy = disk.read(name).unwrap();
        assert_eq!(decode(&copy), Some((77, &b"the end of a log"[..])));
        for len in 0..copy.len() {
            assert_eq!(decode(&copy[..len]), None);
        }
        for at in 0..copy.len() {
            let mut damaged = copy.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), None);
        }
    }
}
