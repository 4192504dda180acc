//! [`Disk`]: the real file system, as a directory descriptor and system calls relative to it.
//!
//! One method is one system call, or the few that the contract of [`FileSystem`] needs; nothing is retried here
//! but the opening of the root. The standard library's directory iterator and path functions are not used: the
//! former panics when closing fails, the latter follow links and a root that is swapped for another.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File as OsFile;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::path::{check, check_inner, held_lock, not_a_file};
use super::{DirEntry, EntryKind, File, FileSystem, Lock, Mapping, Metadata, OpenMode, retry};
use crate::error::{Error, Result};

/// The real disk below one directory.
///
/// The directory is held by a descriptor, and every name is looked up from there. If it is moved while open, the
/// disk moves with it; if it is removed, calls fail; in neither case is anything made at the old place. Clones
/// share the descriptor.
///
/// # Locks
/// [`FileSystem::lock`] takes a POSIX record lock, because that is what a Kafka broker takes. Such a lock belongs
/// to the process, and **any** descriptor of the file that the process closes releases it. This type never opens
/// a file whose lock is held; a program must not open it by other means, for instance to copy a live
/// directory file by file. A child made by `fork` holds no lock and must not use what it inherited; when it exits,
/// the parent's lock stays.
///
/// # Limits of a process
/// With a file size limit set (`RLIMIT_FSIZE`), the operating system kills the process with `SIGXFSZ` at the first
/// write beyond it, unless the program ignores that signal; then the write fails and is reported as a full disk.
///
/// ```
/// use annals::fs::{Disk, FileSystem, OpenMode};
/// use std::path::Path;
///
/// let temporary = tempfile::tempdir()?;
/// let disk = Disk::create(temporary.path().join("data"))?;
/// let file = disk.open(Path::new("greeting"), OpenMode::CreateNew)?;
/// file.write_at(b"hello", 0)?;
/// file.sync()?;
/// disk.sync_dir(Path::new(""))?;
/// assert_eq!(disk.metadata(Path::new("greeting"))?.len, 5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    directory: OsFile,
}

impl Disk {
    /// Opens an existing directory, for reading or writing.
    ///
    /// # Errors
    /// [`Error::Io`] if it is missing, no directory, or may not be read.
    pub fn open(root: impl AsRef<Path>) -> Result<Disk> {
        let root = root.as_ref();
        let directory = retry(|| open_root(root)).map_err(|error| Error::io("open", root, error))?;
        Ok(Disk { inner: Arc::new(Inner { root: root.to_path_buf(), directory }) })
    }

    /// Opens a directory, after making it and the parents it lacks, each with mode 0700 and durable before the
    /// next.
    ///
    /// # Errors
    /// [`Error::Io`] or one of its siblings if a directory can be neither opened nor made nor synced.
    pub fn create(root: impl AsRef<Path>) -> Result<Disk> {
        let root = root.as_ref();
        let directory = retry(|| create_root(root)).map_err(|error| Error::io("create", root, error))?;
        Ok(Disk { inner: Arc::new(Inner { root: root.to_path_buf(), directory }) })
    }

    /// The descriptor of the root, from which all names are looked up.
    fn at(&self) -> &OsFile {
        &self.inner.directory
    }

    fn open_directory(&self, name: &Path) -> io::Result<OwnedFd> {
        check(name)?;
        let flags = DIRECTORY_FLAGS | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(self.at(), or_dot(name), flags, Mode::empty())?)
    }

    fn stat(&self, name: &Path) -> io::Result<Stat> {
        check(name)?;
        Ok(rustix::fs::statat(self.at(), or_dot(name), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens a name and makes sure that it is a regular file.
    fn open_regular(&self, name: &Path, flags: OFlags) -> io::Result<(OwnedFd, Stat)> {
        check_inner(name)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::openat(self.at(), name, flags, FILE_MODE).map_err(|error| match error {
            // What the system calls say of links, directories and sockets differs between systems.
            Errno::LOOP | Errno::MLINK | Errno::ISDIR | Errno::NXIO | Errno::OPNOTSUPP => {
                self.stat(name).ok().and_then(|stat| refusal(&stat)).unwrap_or(error.into())
            }
            other => other.into(),
        })?;
        let stat = rustix::fs::fstat(&file)?;
        match refusal(&stat) {
            Some(error) => Err(error),
            None => Ok((file, stat)),
        }
    }
}

impl FileSystem for Disk {
    fn root(&self) -> &Path {
        &self.inner.root
    }

    fn open(&self, name: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let (file, stat) = self.open_regular(name, flags)?;
        if mode == OpenMode::CreateNew {
            restore_mode(&file, &stat)?;
            return Ok(Arc::new(DiskFile { file: file.into() }));
        }
        // Closing any descriptor of a file drops the lock that the process holds on it.
        if let Some(descriptors) = HELD.lock().get_mut(&identity(&stat)) {
            descriptors.push(file);
            return Err(held_lock());
        }
        Ok(Arc::new(DiskFile { file: file.into() }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        let descriptor = self.open_directory(directory)?;
        let mut entries = Vec::new();
        each_entry(descriptor, |name, file_type| {
            let kind = match file_type {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Directory,
                // Some file systems leave the type out of their directories.
                FileType::Unknown => match self.stat(&directory.join(name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    stat => kind_of(&stat?),
                },
                _ => EntryKind::Other,
            };
            entries.push(DirEntry { name: name.to_os_string(), kind });
            Ok(())
        })?;
        Ok(entries)
    }

    fn metadata(&self, name: &Path) -> io::Result<Metadata> {
        let stat = self.stat(name)?;
        let millis = widen(stat.st_mtime_nsec) / 1_000_000;
        Ok(Metadata {
            kind: kind_of(&stat),
            len: widen(stat.st_size),
            modified: signed(stat.st_mtime).saturating_mul(1_000).saturating_add_unsigned(millis),
        })
    }

    fn create_dir(&self, name: &Path) -> io::Result<()> {
        check_inner(name)?;
        make_directory(self.at(), name)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        check_inner(from)?;
        check_inner(to)?;
        Ok(rustix::fs::renameat(self.at(), from, self.at(), to)?)
    }

    fn remove_file(&self, name: &Path) -> io::Result<()> {
        check_inner(name)?;
        Ok(rustix::fs::unlinkat(self.at(), name, AtFlags::empty())?)
    }

    fn remove_dir(&self, name: &Path) -> io::Result<()> {
        check_inner(name)?;
        Ok(rustix::fs::unlinkat(self.at(), name, AtFlags::REMOVEDIR)?)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        if directory.as_os_str().is_empty() {
            return self.at().sync_all();
        }
        OsFile::from(self.open_directory(directory)?).sync_all()
    }

    fn lock(&self, name: &Path) -> io::Result<Box<dyn Lock>> {
        // Held to the end, so that no other thread opens and closes the file in between.
        let mut held = HELD.lock();
        match self.stat(name) {
            Ok(stat) if held.contains_key(&identity(&stat)) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (file, stat) = self.open_regular(name, OFlags::RDWR | OFlags::CREATE)?;
        let identity = identity(&stat);
        if let Some(descriptors) = held.get_mut(&identity) {
            // The name was given to a locked file a moment ago; to close it would release that lock.
            descriptors.push(file);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        restore_mode(&file, &stat)?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(
            |error| match error {
                Errno::AGAIN | Errno::ACCESS => io::Error::from(io::ErrorKind::WouldBlock),
                other => other.into(),
            },
        )?;
        held.insert(identity, vec![file]);
        Ok(Box::new(DiskLock { identity }))
    }

    fn random(&self) -> u64 {
        random()
    }
}

/// A regular file.
#[derive(Debug)]
struct DiskFile {
    file: OsFile,
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn read_onto(&self, buffer: &mut Vec<u8>, len: usize, position: u64) -> io::Result<usize> {
        let end = buffer.len().saturating_add(len);
        buffer.reserve_exact(len);
        let read = rustix::io::pread(&self.file, rustix::buffer::spare_capacity(buffer), position)?;
        // There may have been more room than was asked for.
        buffer.truncate(end);
        Ok(read.min(len))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(bytes, position)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    /// `fdatasync` where there is one: it covers the bytes and the length, and leaves out only times and modes.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_modified(&self, millis: i64) -> io::Result<()> {
        let distance = Duration::from_millis(millis.unsigned_abs());
        let time =
            if millis < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        self.file.set_modified(time.ok_or(io::ErrorKind::InvalidInput)?)
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        Mapping::of_file(&self.file, len)
    }
}

/// Device and inode of a file.
type Identity = (u64, u64);

/// The lock files of this process, each with the descriptors that must stay open while its lock is held.
/// POSIX locks do not exclude threads of one process from each other; this does.
static HELD: Mutex<BTreeMap<Identity, Vec<OwnedFd>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct DiskLock {
    identity: Identity,
}

impl Lock for DiskLock {}

impl Drop for DiskLock {
    fn drop(&mut self) {
        // The descriptors close, and the lock goes with them, while the registry is still held.
        let mut held = HELD.lock();
        held.remove(&self.identity);
    }
}

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_root(root: &Path) -> io::Result<OsFile> {
    // The user's own path may lead through links.
    Ok(OsFile::from(rustix::fs::openat(CWD, or_dot(root), DIRECTORY_FLAGS, Mode::empty())?))
}

/// Opens a directory, or makes it below a parent that is made the same way. Recursion ends at the root of the
/// system, and a path that is too long is refused by the first call.
fn create_root(root: &Path) -> io::Result<OsFile> {
    let parent = root.parent().unwrap_or(root);
    match open_root(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent != root => {}
        found => {
            let found = found?;
            sync_found(parent)?;
            return Ok(found);
        }
    }
    let directory = create_root(parent)?;
    match make_directory(&CWD, root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    directory.sync_all()?;
    open_root(root)
}

/// Syncs the parent of a directory that was there already: a call that ended early may have made it.
fn sync_found(parent: &Path) -> io::Result<()> {
    let synced = open_root(parent).and_then(|directory| directory.sync_all());
    match synced.as_ref().map_err(Errno::from_io_error) {
        // A directory that may not be read or synced, often that of a mount, was not written to by us either.
        Err(Some(Errno::ACCESS | Errno::PERM | Errno::INVAL | Errno::ROFS | Errno::NOTSUP)) => Ok(()),
        _ => synced,
    }
}

fn make_directory(at: &impl std::os::fd::AsFd, name: &Path) -> io::Result<()> {
    rustix::fs::mkdirat(at, name, DIRECTORY_MODE)?;
    let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if Mode::from_raw_mode(stat.st_mode).contains(DIRECTORY_MODE) {
        return Ok(());
    }
    // An umask can take the owner's bits away, and only the name leads to a directory that cannot be opened.
    Ok(rustix::fs::chmodat(at, name, DIRECTORY_MODE, AtFlags::empty())?)
}

/// Gives a new file the owner's bits that an umask took away.
fn restore_mode(file: &OwnedFd, stat: &Stat) -> io::Result<()> {
    if Mode::from_raw_mode(stat.st_mode).contains(FILE_MODE) {
        return Ok(());
    }
    Ok(rustix::fs::fchmod(file, FILE_MODE)?)
}

/// The names of a directory but for `.` and `..`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn each_entry(
    directory: OwnedFd,
    mut visit: impl FnMut(&OsStr, FileType) -> io::Result<()>,
) -> io::Result<()> {
    // Holds over a hundred names of the longest kind, so a buffer that is too small cannot happen.
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = rustix::fs::RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            visit(name, entry.file_type())?;
        }
    }
    Ok(())
}

/// The names of a directory but for `.` and `..`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn each_entry(
    directory: OwnedFd,
    mut visit: impl FnMut(&OsStr, FileType) -> io::Result<()>,
) -> io::Result<()> {
    for entry in rustix::fs::Dir::new(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            visit(name, entry.file_type())?;
        }
    }
    Ok(())
}

/// The system calls know the directory itself by this name only.
fn or_dot(name: &Path) -> &Path {
    if name.as_os_str().is_empty() { Path::new(".") } else { name }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn kind_of(stat: &Stat) -> EntryKind {
    match file_type(stat) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        _ => EntryKind::Other,
    }
}

/// The error for what is no regular file.
fn refusal(stat: &Stat) -> Option<io::Error> {
    match file_type(stat) {
        FileType::RegularFile => None,
        FileType::Directory => Some(not_a_file("a directory")),
        FileType::Symlink => Some(not_a_file("a symbolic link")),
        FileType::Fifo => Some(not_a_file("a FIFO")),
        FileType::Socket => Some(not_a_file("a socket")),
        _ => Some(not_a_file("a device")),
    }
}

fn identity(stat: &Stat) -> Identity {
    (widen(stat.st_dev), widen(stat.st_ino))
}

/// The fields of `stat` have another type on every platform.
fn widen(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(0)
}

fn signed(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(0)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn random() -> u64 {
    let mut bytes = [0; 8];
    let filled = retry(|| Ok(rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?));
    match filled {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => random_by_hash(),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn random() -> u64 {
    random_by_hash()
}

/// The standard library seeds its hash tables from the system, and each anew.
fn random_by_hash() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
