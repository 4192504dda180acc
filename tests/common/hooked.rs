//! A file system that asks before every call: to count, to hold back, or to panic.
#![allow(dead_code, reason = "not every test that shares this module needs all of it")]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annals::fs::{Call, DirEntry, File, FileSystem, Lock, Mapping, Metadata, OpenMode, SimulatedDisk};

/// Called before each call with its kind and the name it concerns.
pub type Hook = Arc<dyn Fn(Call, &Path) + Send + Sync>;

/// A simulated disk with a hook.
#[derive(Clone)]
pub struct Hooked {
    disk: SimulatedDisk,
    hook: Hook,
}

struct HookedFile {
    file: Arc<dyn File>,
    name: PathBuf,
    hook: Hook,
}

impl Hooked {
    pub fn new(disk: SimulatedDisk, hook: impl Fn(Call, &Path) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Hooked { disk, hook: Arc::new(hook) })
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooked").field(&self.disk).finish()
    }
}

impl fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HookedFile").field(&self.file).finish()
    }
}

impl FileSystem for Hooked {
    fn root(&self) -> &Path {
        self.disk.root()
    }

    fn open(&self, name: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        (self.hook)(if mode == OpenMode::CreateNew { Call::Create } else { Call::Open }, name);
        let (file, hook) = (self.disk.open(name, mode)?, Arc::clone(&self.hook));
        Ok(Arc::new(HookedFile { file, name: name.to_path_buf(), hook }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        (self.hook)(Call::List, directory);
        self.disk.list(directory)
    }

    fn metadata(&self, name: &Path) -> io::Result<Metadata> {
        (self.hook)(Call::Metadata, name);
        self.disk.metadata(name)
    }

    fn create_dir(&self, name: &Path) -> io::Result<()> {
        (self.hook)(Call::CreateDir, name);
        self.disk.create_dir(name)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.hook)(Call::Rename, from);
        self.disk.rename(from, to)
    }

    fn remove_file(&self, name: &Path) -> io::Result<()> {
        (self.hook)(Call::RemoveFile, name);
        self.disk.remove_file(name)
    }

    fn remove_dir(&self, name: &Path) -> io::Result<()> {
        (self.hook)(Call::RemoveDir, name);
        self.disk.remove_dir(name)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        (self.hook)(Call::SyncDir, directory);
        self.disk.sync_dir(directory)
    }

    fn lock(&self, name: &Path) -> io::Result<Box<dyn Lock>> {
        (self.hook)(Call::Lock, name);
        self.disk.lock(name)
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

impl File for HookedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        (self.hook)(Call::Read, &self.name);
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        (self.hook)(Call::Write, &self.name);
        self.file.write_at(bytes, position)
    }

    fn size(&self) -> io::Result<u64> {
        (self.hook)(Call::Size, &self.name);
        self.file.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        (self.hook)(Call::SetSize, &self.name);
        self.file.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        (self.hook)(Call::Sync, &self.name);
        self.file.sync()
    }

    fn set_modified(&self, millis: i64) -> io::Result<()> {
        (self.hook)(Call::SetModified, &self.name);
        self.file.set_modified(millis)
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        (self.hook)(Call::Map, &self.name);
        self.file.map(len)
    }
}
