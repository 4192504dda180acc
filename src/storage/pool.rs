//! Open files, capped: a store of 10,000 partitions lives within 1,024 descriptors.
//!
//! A file is opened when it is used and closed when others need its descriptor. One with bytes that are not
//! synced is synced before it is closed, so that no failure of a later write-back is lost with the descriptor.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Result};
use crate::fs::{File, FileSystem, OpenMode, full_path, retry};

/// The files of one store, of which at most `capacity` are open.
#[derive(Debug)]
pub(crate) struct FilePool {
    fs: Arc<dyn FileSystem>,
    mode: OpenMode,
    capacity: usize,
    ring: Mutex<Ring>,
    map: bool,
    maps: Mutex<VecDeque<Weak<dyn Forget>>>,
}

/// Something kept in memory only because it was used; it can be had again.
pub(crate) trait Forget: std::fmt::Debug + Send + Sync {
    /// Lets go of it.
    fn forget(&self);
}

/// At most this many segments keep their indexes mapped: two maps each, of the 65,530 a process may have.
const MAPPED_SEGMENTS_MAX: usize = 8_192;

/// The open files in a circle; the hand closes the first one not used since it last came by.
#[derive(Debug, Default)]
struct Ring {
    open: Vec<Weak<PooledFile>>,
    hand: usize,
}

/// Marks a file whose sync did not succeed when it is dropped, so also when the file system panics.
struct FailedSync<'a>(&'a PooledFile);

impl Drop for FailedSync<'_> {
    fn drop(&mut self) {
        self.0.unsynced.store(true, Ordering::Release);
        self.0.sync_failed.store(true, Ordering::Release);
    }
}

/// One file, open or not.
#[derive(Debug)]
pub(crate) struct PooledFile {
    pool: Arc<FilePool>,
    /// Changes when the file is renamed: whoever still reads it must find it again under the new name.
    name: RwLock<PathBuf>,
    /// The name is gone, or another file's by now: never opened again.
    gone: AtomicBool,
    handle: ArcSwapOption<Handle>,
    used: AtomicBool,
    unsynced: AtomicBool,
    /// Held during a sync: who finds nothing to sync must not run ahead of one that is under way.
    syncing: Mutex<()>,
    /// A sync failed when nobody was asking for one. Whoever writes or syncs next is told.
    sync_failed: AtomicBool,
}

#[derive(Debug)]
struct Handle(Arc<dyn File>);

impl FilePool {
    /// A pool for reading and writing, or for reading alone.
    pub(crate) fn new(fs: Arc<dyn FileSystem>, capacity: usize, read_only: bool, map: bool) -> Arc<Self> {
        let mode = if read_only { OpenMode::Read } else { OpenMode::ReadWrite };
        let (ring, maps) = Default::default();
        Arc::new(FilePool { fs, mode, capacity: capacity.max(1), ring, map, maps })
    }

    /// Whether index files may be mapped, or have to be read.
    pub(crate) fn may_map(&self) -> bool {
        self.map
    }

    /// Takes note of a mapping; the oldest one is let go when there are too many.
    pub(crate) fn mapped(&self, owner: Weak<dyn Forget>) {
        let mut maps = self.maps.lock();
        if maps.len() >= MAPPED_SEGMENTS_MAX {
            maps.retain(|held| held.strong_count() > 0);
        }
        let oldest = if maps.len() >= MAPPED_SEGMENTS_MAX { maps.pop_front() } else { None };
        maps.push_back(owner);
        drop(maps);
        if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade()) {
            oldest.forget();
        }
    }

    /// How many of its files are open.
    pub(crate) fn open_files(&self) -> usize {
        self.ring.lock().open.iter().filter(|file| file.strong_count() > 0).count()
    }

    pub(crate) fn fs(&self) -> &dyn FileSystem {
        &*self.fs
    }

    pub(crate) fn read_only(&self) -> bool {
        self.mode == OpenMode::Read
    }

    /// A file that exists; it is opened when first used.
    pub(crate) fn file(self: &Arc<Self>, name: PathBuf) -> Arc<PooledFile> {
        Arc::new(PooledFile {
            pool: Arc::clone(self),
            name: RwLock::new(name),
            gone: AtomicBool::new(false),
            handle: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            unsynced: AtomicBool::new(false),
            syncing: Mutex::default(),
            sync_failed: AtomicBool::new(false),
        })
    }

    /// A new file, created now.
    pub(crate) fn create(self: &Arc<Self>, name: PathBuf) -> Result<Arc<PooledFile>> {
        let file = self.file(name);
        self.admit(&file, OpenMode::CreateNew)?;
        Ok(file)
    }

    fn admit(&self, file: &Arc<PooledFile>, mode: OpenMode) -> Result<Arc<Handle>> {
        let mut ring = self.ring.lock();
        if let Some(handle) = file.handle.load_full() {
            return Ok(handle);
        }
        if file.gone.load(Ordering::Acquire) {
            let removed = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("open", &file.path(), removed));
        }
        while ring.open.len() >= self.capacity && ring.close_one() {}
        // It changes under the lock of the ring alone.
        let name = file.name();
        let mut opened = retry(|| self.fs.open(&name, mode));
        if opened.as_ref().is_err_and(out_of_descriptors) {
            // Others in this process took what was left: make do with less.
            for _ in 0..ring.open.len().div_ceil(2) {
                ring.close_one();
            }
            opened = retry(|| self.fs.open(&name, mode));
        }
        let action = if mode == OpenMode::CreateNew { "create" } else { "open" };
        let opened = opened.map_err(|error| Error::io(action, &file.path(), error))?;
        let handle = Arc::new(Handle(opened));
        file.used.store(true, Ordering::Relaxed);
        file.handle.store(Some(Arc::clone(&handle)));
        ring.open.push(Arc::downgrade(file));
        Ok(handle)
    }
}

fn out_of_descriptors(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

impl Ring {
    /// Closes the file least recently used, as far as one bit can tell; a synced one if there is any.
    /// Returns whether one was closed.
    fn close_one(&mut self) -> bool {
        self.sweep(false) || self.sweep(true)
    }

    fn sweep(&mut self, unsynced_too: bool) -> bool {
        // Two rounds: the first may only clear the marks.
        let mut steps = 2 * self.open.len();
        while steps > 0 && !self.open.is_empty() {
            steps -= 1;
            self.hand %= self.open.len();
            let Some(file) = self.open.get(self.hand).and_then(Weak::upgrade) else {
                self.open.swap_remove(self.hand);
                return true;
            };
            let spared = file.used.swap(false, Ordering::Relaxed)
                || (file.unsynced.load(Ordering::Acquire) && !unsynced_too);
            if spared {
                self.hand += 1;
                continue;
            }
            // One that is being synced is in use; waiting for it here could be waiting for one who waits for us.
            let Some(syncing) = file.syncing.try_lock() else {
                self.hand += 1;
                continue;
            };
            // A failure is kept for whoever writes or syncs next.
            let _ = file.sync_alone();
            file.handle.store(None);
            drop(syncing);
            self.open.swap_remove(self.hand);
            return true;
        }
        false
    }
}

impl PooledFile {
    pub(crate) fn name(&self) -> PathBuf {
        self.name.read().clone()
    }

    /// The name as the user can find it.
    pub(crate) fn path(&self) -> PathBuf {
        full_path(self.pool.fs(), &self.name.read())
    }

    /// Gives the file another name, under which those who still read it find it.
    pub(crate) fn rename(&self, to: PathBuf) -> Result<()> {
        // Held so that nobody opens the old name meanwhile: it may be another file's at once.
        let _ring = self.pool.ring.lock();
        let from = self.name();
        let renamed = retry(|| self.pool.fs.rename(&from, &to)).or_else(|error| {
            // An attempt that was reported to fail may have been done all the same.
            let done = error.kind() == std::io::ErrorKind::NotFound && self.pool.fs.metadata(&to).is_ok();
            if done { Ok(()) } else { Err(error) }
        });
        renamed.map_err(|error| Error::io("rename", &full_path(self.pool.fs(), &from), error))?;
        *self.name.write() = to;
        Ok(())
    }

    /// The name may soon be another file's. What is open can be read on; it is not opened again until it is
    /// [found](Self::found_in).
    pub(crate) fn lose(&self) {
        let _ring = self.pool.ring.lock();
        self.gone.store(true, Ordering::Release);
    }

    /// Takes note that the directory of a [lost](Self::lose) file was renamed.
    pub(crate) fn found_in(&self, directory: &Path) {
        let _ring = self.pool.ring.lock();
        let mut name = self.name.write();
        if let Some(moved) = name.file_name().map(|file| directory.join(file)) {
            *name = moved;
            self.gone.store(false, Ordering::Release);
        }
    }

    /// Takes note that the file was renamed by somebody else, or that its name now stands for another file.
    pub(crate) fn forsake(&self) {
        let _ring = self.pool.ring.lock();
        self.gone.store(true, Ordering::Release);
        self.unsynced.store(false, Ordering::Release);
        self.handle.store(None);
    }

    pub(crate) fn pool(&self) -> &Arc<FilePool> {
        &self.pool
    }

    /// Does something with the open file, opening it if need be.
    pub(crate) fn with<T>(
        self: &Arc<Self>,
        action: &'static str,
        call: impl FnOnce(&dyn File) -> std::io::Result<T>,
    ) -> Result<T> {
        let guard = self.handle.load();
        let result = match &*guard {
            Some(handle) => {
                if !self.used.load(Ordering::Relaxed) {
                    self.used.store(true, Ordering::Relaxed);
                }
                call(&*handle.0)
            }
            None => call(&*self.pool.admit(self, self.pool.mode)?.0),
        };
        result.map_err(|error| Error::io(action, &self.path(), error))
    }

    /// As [`with`](Self::with), for a call that leaves bytes to be synced.
    pub(crate) fn with_write<T>(
        self: &Arc<Self>,
        action: &'static str,
        call: impl FnOnce(&dyn File) -> std::io::Result<T>,
    ) -> Result<T> {
        self.check_earlier_sync()?;
        let result = self.with(action, call);
        // After the call, since the pool may sync and clear the mark at any moment before it.
        self.unsynced.store(true, Ordering::Release);
        result
    }

    /// Makes what was written durable. A failure is final: it is not tried again on the same bytes (P5).
    pub(crate) fn sync(self: &Arc<Self>) -> Result<()> {
        let _one_at_a_time = self.syncing.lock();
        self.sync_alone()
    }

    fn sync_alone(self: &Arc<Self>) -> Result<()> {
        self.check_earlier_sync()?;
        // Cleared before the call: a write that ends meanwhile sets it again.
        if !self.unsynced.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let failed = FailedSync(self);
        let synced = match self.with("sync", |file| retry(|| file.sync())) {
            // Nobody will miss what was in it.
            Err(_) if self.gone.load(Ordering::Acquire) => Ok(()),
            synced => synced,
        };
        if synced.is_ok() {
            std::mem::forget(failed);
        }
        synced
    }

    /// Forgets a failed sync; for recovery alone, which writes the bytes again.
    pub(crate) fn forget_failure(&self) {
        self.sync_failed.store(false, Ordering::Release);
        self.unsynced.store(true, Ordering::Release);
    }

    fn check_earlier_sync(&self) -> Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            let failed = std::io::Error::other("an earlier sync of this file failed");
            return Err(Error::io("sync", &self.path(), failed));
        }
        Ok(())
    }
}
