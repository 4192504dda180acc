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
use std::sync::Arc;

use super::recovery::Recovery;
use crate::error::{Error, Result};
use crate::fs::{
    EntryKind, File, FileSystem, OpenMode, full_path, read_full_at, retry, sync_dir, write_all_at,
};
use crate::storage::LogFile;
use crate::storage::file_name::{FileKind, Stage, file_name, parse_file_name};

const MAGIC: &[u8; 8] = b"annalsD1";
const HEAD_BYTES: usize = MAGIC.len() + 8;
const CHECKSUM_BYTES: usize = 4;
/// How much is in memory at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// Writes the bytes of a log file from one position to another again, and syncs it.
pub(super) fn rewrite(directory: &Path, log: &LogFile, from: u64, to: u64) -> Result<()> {
    let fs = log.file().pool().fs();
    if from < to {
        let copy = copy_name(directory, log.base_offset());
        let copied = write_copy(fs, &copy, log, from, to);
        if copied.is_err() {
            // Not a copy yet, only litter; the log itself was not touched.
            let _ = fs.remove_file(&copy);
        }
        copied?;
        log.file().forget_failure();
        each_piece(log, from, to, |bytes, position| log.write(bytes, position))?;
    }
    log.file().forget_failure();
    log.file().sync()?;
    if from < to { remove_copy(fs, &copy_name(directory, log.base_offset())) } else { Ok(()) }
}

/// Hands out the bytes of a log file piece by piece: what is in doubt may be a whole segment.
fn each_piece(
    log: &LogFile,
    from: u64,
    to: u64,
    mut each: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<()> {
    let mut position = from;
    while position < to {
        let bytes = log.read(position, PIECE_BYTES.min(to - position))?;
        if bytes.is_empty() {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Error::io("read", &log.path(), error));
        }
        each(&bytes, position)?;
        position += bytes.len() as u64;
    }
    Ok(())
}

fn write_copy(fs: &dyn FileSystem, name: &Path, log: &LogFile, from: u64, to: u64) -> Result<()> {
    let failed = |action| move |error| Error::io(action, &full_path(fs, name), error);
    let _ = fs.remove_file(name);
    let file = retry(|| fs.open(name, OpenMode::CreateNew)).map_err(failed("create"))?;
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&from.to_be_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&head);
    write_all_at(&*file, &head, 0).map_err(failed("write"))?;
    each_piece(log, from, to, |bytes, position| {
        checksum.update(bytes);
        write_all_at(&*file, bytes, HEAD_BYTES as u64 + position - from).map_err(failed("write"))
    })?;
    let end = HEAD_BYTES as u64 + to - from;
    write_all_at(&*file, &checksum.finalize().to_be_bytes(), end).map_err(failed("write"))?;
    retry(|| file.sync()).map_err(failed("sync"))?;
    sync_dir(fs, crate::fs::parent(name))
}

fn remove_copy(fs: &dyn FileSystem, name: &Path) -> Result<()> {
    retry(|| fs.remove_file(name)).map_err(|error| Error::io("remove", &full_path(fs, name), error))?;
    sync_dir(fs, crate::fs::parent(name))
}

/// A copy, open and found whole.
struct Copy {
    file: Arc<dyn File>,
    /// Where in the log its bytes belong.
    position: u64,
    len: u64,
}

/// Opens a copy and checks it; `None` if it is not whole.
fn open_copy(fs: &dyn FileSystem, name: &Path) -> Result<Option<Copy>> {
    let failed = |error| Error::io("read", &full_path(fs, name), error);
    let file = retry(|| fs.open(name, OpenMode::Read)).map_err(failed)?;
    let size = retry(|| file.size()).map_err(failed)?;
    let Some(len) = size.checked_sub((HEAD_BYTES + CHECKSUM_BYTES) as u64) else { return Ok(None) };
    let mut piece = vec![0; PIECE_BYTES as usize];
    let (mut checksum, mut position) = (crc32fast::Hasher::new(), 0);
    let mut head = [0; HEAD_BYTES];
    read_full_at(&*file, &mut head, 0).map_err(failed)?;
    while position < HEAD_BYTES as u64 + len {
        let wanted = PIECE_BYTES.min(HEAD_BYTES as u64 + len - position) as usize;
        let Some(buffer) = piece.get_mut(..wanted) else { break };
        if read_full_at(&*file, buffer, position).map_err(failed)? < wanted {
            return Ok(None);
        }
        checksum.update(buffer);
        position += wanted as u64;
    }
    let mut stored = [0; CHECKSUM_BYTES];
    read_full_at(&*file, &mut stored, position).map_err(failed)?;
    let magic = head.first_chunk::<8>().is_some_and(|magic| magic == MAGIC);
    let whole = magic && checksum.finalize() == u32::from_be_bytes(stored);
    let position = head.last_chunk().map_or(0, |position| u64::from_be_bytes(*position));
    Ok(whole.then_some(Copy { file, position, len }))
}

impl Copy {
    fn put_back(&self, name: &Path, log: &LogFile) -> Result<()> {
        let fs = log.file().pool().fs();
        let mut piece = vec![0; PIECE_BYTES as usize];
        let mut done = 0;
        log.file().forget_failure();
        while done < self.len {
            let wanted = PIECE_BYTES.min(self.len - done) as usize;
            let Some(buffer) = piece.get_mut(..wanted) else { break };
            let read = read_full_at(&*self.file, buffer, HEAD_BYTES as u64 + done);
            read.map_err(|error| Error::io("read", &full_path(fs, name), error))?;
            log.write(buffer, self.position + done)?;
            done += wanted as u64;
        }
        log.file().sync()
    }
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
            let name = self.from.directory.join(&name);
            let fs = self.from.pool.fs();
            let log = file_name(&self.from.directory, base, FileKind::Log);
            let there = retry(|| fs.metadata(&log)).is_ok_and(|metadata| metadata.kind == EntryKind::File);
            if let Some(copy) = open_copy(fs, &name)?.filter(|_| there) {
                let log = LogFile::new(self.from.pool.file(log), base, 0);
                // Where the log is shorter, it was cut since: then the copy is older than what is there.
                if copy.position <= log.size()? {
                    copy.put_back(&name, &log)?;
                    self.restored.push((base, copy.position + copy.len));
                }
            }
            remove_copy(self.from.pool.fs(), &name)?;
            self.report.finished.push(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimulatedDisk;
    use crate::storage::FilePool;

    #[test]
    fn a_copy_is_whole_or_none() {
        let disk = SimulatedDisk::new(1);
        let log = b"the beginning and the end of a log";
        disk.write("00000000000000000000.log", log).unwrap();
        let pool = FilePool::new(Arc::new(disk.clone()), 1, false, false);
        let file = LogFile::new(pool.file("00000000000000000000.log".into()), 0, 0);
        let name = copy_name(Path::new(""), 0);
        write_copy(&disk, &name, &file, 14, log.len() as u64).unwrap();
        let whole = open_copy(&disk, &name).unwrap().unwrap();
        assert_eq!((whole.position, whole.len), (14, log.len() as u64 - 14));
        let bytes = disk.read(&name).unwrap();
        disk.write("00000000000000000000.log", &log[..14]).unwrap();
        whole.put_back(&name, &file).unwrap();
        assert_eq!(disk.read("00000000000000000000.log").unwrap(), log);
        for len in 0..bytes.len() {
            disk.write(&name, &bytes[..len]).unwrap();
            assert!(open_copy(&disk, &name).unwrap().is_none(), "cut at {len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            disk.write(&name, &damaged).unwrap();
            assert!(open_copy(&disk, &name).unwrap().is_none(), "flipped at {at}");
        }
    }
}
