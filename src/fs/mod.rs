//! The only door to the operating system: files, directories, mappings, locks and chance.
//!
//! Everything above speaks to a [`FileSystem`], a tree of files below one root. [`Disk`] is the real one;
//! [`SimulatedDisk`] is one in memory that crashes, tears, forgets and fails on purpose. Implementations are
//! thin: a call does what the system call does, short reads and writes and `EINTR` included. The rules above
//! system calls (loops, retries, the order of sync and rename) are the functions of this module, so that the
//! simulated disk exercises them.
//!
//! Names are paths relative to the root, for instance `clicks-0/00000000000000000000.log`.

mod disk;
mod mapping;
mod path;
mod simulated;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::Disk;
pub use mapping::Mapping;
pub use simulated::{Call, Crash, Fault, SimulatedDisk, When};

use crate::error::{Error, Result};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new file, for reading and writing; an error if the name is taken.
    CreateNew,
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: symbolic link, FIFO, socket, device. Never followed, never opened.
    Other,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without its directory. Not necessarily UTF-8.
    pub name: std::ffi::OsString,
    /// What it stands for; symbolic links are not followed.
    pub kind: EntryKind,
}

/// What is known of a name without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it stands for.
    pub kind: EntryKind,
    /// The length in bytes.
    pub len: u64,
    /// The time of the last change, in milliseconds since the epoch.
    pub modified: i64,
}

/// A tree of files below one root.
///
/// # Contract
/// - Every name is relative to [`root`](FileSystem::root); no method follows a symbolic link in the last part
///   of a name, blocks on a FIFO, or opens anything but regular files.
/// - New files are readable and writable by their owner only (0600), new directories 0700.
/// - Nothing is durable until it is synced: bytes by [`File::sync`], names by
///   [`sync_dir`](FileSystem::sync_dir) of their directory.
/// - A call may fail with any error of the operating system and then has had no effect, or part of it. `EINTR`
///   may come from any call.
/// - All methods may be called from any thread at any time.
pub trait FileSystem: Debug + Send + Sync {
    /// The root as the user named it, for messages.
    fn root(&self) -> &Path;

    /// Opens a regular file.
    fn open(&self, name: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// The names in a directory (the root is the empty path), in no particular order, without `.` and `..`.
    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>>;

    /// What a name stands for, without following it.
    fn metadata(&self, name: &Path) -> io::Result<Metadata>;

    /// Makes a directory; its parent must exist.
    fn create_dir(&self, name: &Path) -> io::Result<()>;

    /// Gives a file or directory another name, replacing a file that has it. Atomic.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file (or a link, FIFO, socket: the name itself).
    fn remove_file(&self, name: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, name: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: creations, renames and removals.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;

    /// Takes an exclusive lock on a file, creating it if need be, against other processes and against this one.
    /// Fails at once with [`io::ErrorKind::WouldBlock`] if it is taken. Dropping the result releases it, and so
    /// does the end of the process. On Unix it is the POSIX record lock that a Kafka broker takes, too.
    fn lock(&self, name: &Path) -> io::Result<Box<dyn Lock>>;

    /// A random number. Chance enters the crate here and nowhere else.
    fn random(&self) -> u64;
}

/// An open file.
///
/// # Contract
/// Positioned calls do not move a shared cursor, so any number of threads may use one file at once. Reads and
/// writes may be short. Dropping it closes the file; an error of that is not reported, so whoever needs to know
/// syncs first.
pub trait File: Debug + Send + Sync {
    /// Reads at `position`; 0 bytes mean the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Reads at most `len` bytes at `position` onto the end of `buffer`; otherwise as
    /// [`read_at`](Self::read_at). On an error the buffer is as it was.
    ///
    /// Whoever can read into memory that was not zeroed before should.
    fn read_onto(&self, buffer: &mut Vec<u8>, len: usize, position: u64) -> io::Result<usize> {
        let start = buffer.len();
        buffer.resize(start.saturating_add(len), 0);
        let result = self.read_at(buffer.get_mut(start..).unwrap_or_default(), position);
        buffer.truncate(start + result.as_ref().map_or(0, |&read| read));
        result
    }

    /// Writes at `position`, growing the file if need be.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeroes.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Makes the bytes written so far, and the length, durable. After a failure nothing is known of them, and
    /// another call that succeeds does not change that.
    fn sync(&self) -> io::Result<()>;

    /// Sets the time of the last change, in milliseconds since the epoch.
    fn set_modified(&self, millis: i64) -> io::Result<()>;

    /// Maps the first `len` bytes for reading. The file must be at least that long and must not be cut while
    /// the mapping lives.
    fn map(&self, len: usize) -> io::Result<Mapping>;
}

/// A held lock; dropping it releases it.
pub trait Lock: Debug + Send + Sync {}

/// Repeats a call while it is interrupted.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads until the buffer is full or the file ends; returns the bytes read.
pub(crate) fn read_full_at(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match retry(|| file.read_at(rest, position + done as u64))? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// Reads `len` bytes, or those up to the end of the file.
pub(crate) fn read_vec_at(file: &dyn File, len: usize, position: u64) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let (left, here) = (len - buffer.len(), position + buffer.len() as u64);
        if retry(|| file.read_onto(&mut buffer, left, here))? == 0 {
            break;
        }
    }
    Ok(buffer)
}

/// Writes all bytes. On an error some of them may have been written.
pub(crate) fn write_all_at(file: &dyn File, bytes: &[u8], position: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match retry(|| file.write_at(rest, position + done as u64))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => done += written,
        }
    }
    Ok(())
}

/// The whole of a small file; refused if longer than `limit` bytes, before memory is taken for it.
pub(crate) fn read_file(fs: &dyn FileSystem, name: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::io("read", &full_path(fs, name), error);
    let file = retry(|| fs.open(name, OpenMode::Read)).map_err(failed)?;
    let size = retry(|| file.size()).map_err(failed)?;
    if size > limit {
        let setting = "the most this kind of file can hold";
        return Err(Error::TooLarge { what: "a file", size, limit, setting });
    }
    let mut bytes = vec![0; size as usize];
    let read = read_full_at(&*file, &mut bytes, 0).map_err(failed)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// As [`read_file`]; `None` if there is no such file, or something that cannot be it: no file, or one that is too long.
pub(crate) fn read_if_there(fs: &dyn FileSystem, name: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read_file(fs, name, limit) {
        Err(Error::TooLarge { .. }) => Ok(None),
        Err(Error::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) =>
        {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Replaces a small file whole: `name.tmp` is written and synced, renamed over `name`, the directory synced.
/// A crash leaves the old content or the new, nothing between.
pub(crate) fn replace_file(fs: &dyn FileSystem, name: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = name.as_os_str().to_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let failed = |action| move |error| Error::io(action, &full_path(fs, name), error);
    match retry(|| fs.remove_file(&temporary)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    let written = (|| {
        let file = retry(|| fs.open(&temporary, OpenMode::CreateNew)).map_err(failed("create"))?;
        write_all_at(&*file, bytes, 0).map_err(failed("write"))?;
        retry(|| file.sync()).map_err(failed("sync"))?;
        retry(|| fs.rename(&temporary, name)).map_err(failed("rename"))
    })();
    if written.is_err() {
        // The old file stands; what is left of the new one is only litter.
        let _ = fs.remove_file(&temporary);
    }
    written?;
    sync_dir(fs, parent(name))
}

/// Removes a file, which may be gone already.
pub(crate) fn remove_if_there(fs: &dyn FileSystem, name: &Path) -> Result<()> {
    match retry(|| fs.remove_file(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", &full_path(fs, name), error))
        }
        _ => Ok(()),
    }
}

/// Syncs a directory.
pub(crate) fn sync_dir(fs: &dyn FileSystem, directory: &Path) -> Result<()> {
    retry(|| fs.sync_dir(directory)).map_err(|error| Error::io("sync", &full_path(fs, directory), error))
}

/// The directory of a name; the root's own is the empty path.
pub(crate) fn parent(name: &Path) -> &Path {
    name.parent().unwrap_or(Path::new(""))
}

/// A name as the user can find it, for messages.
pub(crate) fn full_path(fs: &dyn FileSystem, name: &Path) -> PathBuf {
    if name.as_os_str().is_empty() { fs.root().to_path_buf() } else { fs.root().join(name) }
}

#[cfg(test)]
mod tests;
