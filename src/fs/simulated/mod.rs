//! [`SimulatedDisk`]: a file system in memory that crashes, tears, forgets and fails on purpose.

mod chance;
mod fault;
mod image;
mod state;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

pub use fault::{Call, Fault, When};
pub use image::Crash;

use super::path::{check, check_inner, held_lock, not_a_file};
use super::{DirEntry, EntryKind, File, FileSystem, Lock, Mapping, Metadata, OpenMode};
use fault::Effect;
use state::{NodeId, NodeKind, ROOT, State};

/// A disk in memory, for tests of what real disks do rarely: crash, tear, forget, fail, fill up.
///
/// Like a real one it keeps what is cached apart from what is durable: bytes become durable by [`File::sync`],
/// names by [`FileSystem::sync_dir`] of their directory, and [`crash`](SimulatedDisk::crash) gives the disk that
/// is found afterwards. Faults are planned with [`fail`](SimulatedDisk::fail). All is decided by seeds, so a
/// failure repeats. Clones share the disk.
///
/// ```
/// use annals::fs::{Call, Crash, Fault, FileSystem, OpenMode, SimulatedDisk, When};
/// use std::path::Path;
///
/// let disk = SimulatedDisk::new(1);
/// let file = disk.open(Path::new("a"), OpenMode::CreateNew)?;
/// file.write_at(b"kept", 0)?;
/// file.sync()?;
/// file.write_at(b"lost", 4)?;
/// // The name is not durable yet.
/// assert_eq!(disk.crash(Crash::PowerCut { seed: 0 }).read("a"), None);
/// disk.sync_dir(Path::new(""))?;
/// assert_eq!(disk.crash(Crash::PowerCut { seed: 0 }).read("a").unwrap(), b"kept");
/// assert_eq!(disk.crash(Crash::ProcessKill).read("a").unwrap(), b"keptlost");
///
/// disk.fail(When::nth(1).of(&[Call::Sync]), Fault::Forget);
/// assert!(file.sync().is_err());
/// assert!(file.sync().is_ok(), "as a kernel says that has given the bytes up");
/// assert_eq!(disk.read("a").unwrap(), b"keptlost");
/// assert_eq!(disk.crash(Crash::PowerCut { seed: 1 }).read("a").unwrap(), b"kept");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # The model
/// - A rename happens or does not, also under a power cut: the file has one of its two names. A rename between
///   directories is durable once both are synced, and comes after all operations on names before it.
/// - No crash destroys a file that was neither removed nor replaced: if a name was freed and given to another
///   file, the second does not survive without the first.
/// - Time starts at a fixed moment and moves a millisecond with every call.
/// - A file ends at 1 GiB (`EFBIG`).
/// - There are no links, owners or modes; [`plant`](SimulatedDisk::plant) makes what is neither file nor directory.
#[derive(Debug, Clone)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    seed: u64,
    state: Mutex<State>,
}

/// Faults and crashes.
impl SimulatedDisk {
    /// An empty disk. The seed decides its random numbers.
    pub fn new(seed: u64) -> Self {
        SimulatedDisk::of_state(State::new(seed), seed)
    }

    /// Plans a fault. Any number can be planned; in one call only the first planned strikes.
    pub fn fail(&self, when: When, fault: Fault) {
        self.state(|state| state.faults.plan(when, fault));
    }

    /// Forgets all planned faults. What was lost stays lost, and the power stays off if it is.
    pub fn heal(&self) {
        self.state(|state| state.faults.heal());
    }

    /// The disk as it is found after a crash at this moment. This one goes on as if nothing had happened.
    ///
    /// The image has no faults planned, no limits, nothing open and no locks, and counts its calls from 0.
    pub fn crash(&self, crash: Crash) -> SimulatedDisk {
        let seed = self.shared.seed.wrapping_add(1);
        let image = self.state(|state| match crash {
            Crash::ProcessKill => image::after_kill(state, seed),
            Crash::PowerCut { seed: cut } => image::after_power_cut(state, cut, seed.wrapping_add(cut)),
        });
        SimulatedDisk::of_state(image, seed)
    }

    /// How many calls there were, failed ones included.
    pub fn calls(&self) -> u64 {
        self.state(|state| state.faults.calls)
    }

    /// Begins to note every call, or ends and forgets it.
    pub fn record(&self, on: bool) {
        self.state(|state| state.faults.trace = on.then(Vec::new));
    }

    /// The calls since [`record`](SimulatedDisk::record), with the name each concerns.
    pub fn recorded(&self) -> Vec<(Call, PathBuf)> {
        self.state(|state| state.faults.trace.clone().unwrap_or_default())
    }

    /// Limits the bytes that fit; `None` lifts the limit. A write beyond it is short, then fails (`ENOSPC`). Each
    /// file and directory costs 256 bytes besides its own, so creating them fails on a full disk, too.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state(|state| state.capacity = bytes);
    }

    /// The bytes used, as the capacity counts them.
    pub fn used(&self) -> u64 {
        self.state(|state| state.used)
    }

    /// Limits the files that can be open at once (`EMFILE` beyond); `None` lifts the limit. A held lock is an
    /// open file, and listing or syncing a directory below the root takes one for a moment.
    pub fn set_open_files_max(&self, max: Option<usize>) {
        self.state(|state| state.open_files_max = max);
    }

    /// The files open now.
    pub fn open_files(&self) -> usize {
        self.state(|state| state.open_files)
    }

    /// The most files that were ever open at once.
    pub fn open_files_peak(&self) -> usize {
        self.state(|state| state.open_files_peak)
    }
}

/// The disk without its faults, to set tests up and look at results. None of this counts as a call.
impl SimulatedDisk {
    /// The content of a file as calls see it; `None` if there is no such file.
    pub fn read(&self, name: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.state(|state| {
            let node = state.node(state.resolve(name.as_ref()).ok()?);
            (node.kind == NodeKind::File).then(|| node.cache.to_vec())
        })
    }

    /// Gives a file this content, durably, after making it and its directories if need be. Other names in these
    /// directories become durable, too.
    ///
    /// # Errors
    /// As for [`FileSystem::open`] and [`FileSystem::create_dir`].
    pub fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        self.put_durably(name.as_ref(), NodeKind::File, bytes)
    }

    /// Makes, durably, what is neither file nor directory, such as a FIFO left behind by somebody.
    ///
    /// # Errors
    /// As for [`FileSystem::open`] and [`FileSystem::create_dir`].
    pub fn plant(&self, name: impl AsRef<Path>) -> io::Result<()> {
        self.put_durably(name.as_ref(), NodeKind::Other, &[])
    }

    /// Removes a file durably; says whether there was one.
    pub fn remove(&self, name: impl AsRef<Path>) -> bool {
        let name = name.as_ref();
        self.state(|state| {
            let removed = state.remove_file(name).is_ok();
            removed && state.resolve(super::parent(name)).and_then(|parent| state.sync_names(parent)).is_ok()
        })
    }

    /// Flips bits at rest: what is cached and what is durable at `position` is XORed with `mask`. Says whether
    /// there was such a byte.
    pub fn flip(&self, name: impl AsRef<Path>, position: u64, mask: u8) -> bool {
        let Ok(position) = usize::try_from(position) else { return false };
        self.state(|state| {
            let Ok(id) = state.resolve(name.as_ref()) else { return false };
            let node = state.node_mut(id);
            let mut flipped = false;
            for content in [&mut node.cache, &mut node.durable] {
                if position < content.len() {
                    Arc::make_mut(content).iter_mut().skip(position).take(1).for_each(|byte| *byte ^= mask);
                    flipped = true;
                }
            }
            flipped
        })
    }

    /// The names of all files, sorted.
    pub fn names(&self) -> Vec<PathBuf> {
        self.state(|state| {
            let mut found = Vec::new();
            state.files(ROOT, Path::new(""), &mut found);
            found
        })
    }

    /// Makes everything durable.
    pub fn settle(&self) {
        self.state(State::settle);
    }

    fn put_durably(&self, name: &Path, kind: NodeKind, bytes: &[u8]) -> io::Result<()> {
        check_inner(name)?;
        self.state(|state| {
            let parents: Vec<&Path> = name.ancestors().skip(1).collect();
            for parent in parents.iter().rev() {
                if state.resolve(parent).is_err() {
                    state.create(parent, NodeKind::Directory)?;
                }
            }
            let id = match state.resolve(name) {
                Ok(id) if state.node(id).kind == kind => id,
                Ok(_) => return Err(Errno::EXIST.into()),
                Err(_) => state.create(name, kind)?,
            };
            state.set_size(id, 0)?;
            let written = state.write(id, bytes, 0)?;
            state.node_mut(id).pending.clear();
            let cache = state.node(id).cache.clone();
            state.node_mut(id).durable = cache;
            for parent in parents {
                let parent = state.resolve(parent)?;
                state.sync_names(parent)?;
            }
            if written < bytes.len() { Err(Errno::NOSPC.into()) } else { Ok(()) }
        })
    }

    fn of_state(state: State, seed: u64) -> Self {
        let shared = Shared { root: PathBuf::from("simulated"), seed, state: Mutex::new(state) };
        SimulatedDisk { shared: Arc::new(shared) }
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.shared.state.lock())
    }

    /// One call: counted, struck by a fault or not, done.
    fn call<T>(
        &self,
        call: Call,
        names: &[&Path],
        act: impl FnOnce(&mut State, Effect) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.shared.state.lock();
        let effect = state.faults.begin(call, names)?;
        let result = act(&mut state, effect);
        // A handle that a late failure drops takes the lock itself.
        drop(state);
        match effect {
            Effect::Late(errno) => result.and(Err(io::Error::from_raw_os_error(errno))),
            _ => result,
        }
    }
}

impl FileSystem for SimulatedDisk {
    fn root(&self) -> &Path {
        &self.shared.root
    }

    fn open(&self, name: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let call = if mode == OpenMode::CreateNew { Call::Create } else { Call::Open };
        self.call(call, &[name], |state, _| {
            check_inner(name)?;
            state.spare_descriptor()?;
            let node = match mode {
                OpenMode::CreateNew => state.create(name, NodeKind::File)?,
                OpenMode::Read | OpenMode::ReadWrite => regular(state, state.resolve(name)?)?,
            };
            if state.locked.contains(&node) {
                return Err(held_lock());
            }
            let handle = self.handle(state, node, name);
            let file: Arc<dyn File> = Arc::new(SimulatedFile { handle, writable: mode != OpenMode::Read });
            Ok(file)
        })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirEntry>> {
        self.call(Call::List, &[directory], |state, _| {
            check(directory)?;
            state.spare_descriptor()?;
            state.list(state.resolve(directory)?)
        })
    }

    fn metadata(&self, name: &Path) -> io::Result<Metadata> {
        self.call(Call::Metadata, &[name], |state, _| {
            check(name)?;
            let node = state.node(state.resolve(name)?);
            Ok(Metadata { kind: node.entry_kind(), len: node.cache.len() as u64, modified: node.modified })
        })
    }

    fn create_dir(&self, name: &Path) -> io::Result<()> {
        self.call(Call::CreateDir, &[name], |state, _| {
            check_inner(name)?;
            state.create(name, NodeKind::Directory).map(|_| ())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Rename, &[from, to], |state, _| {
            check_inner(from)?;
            check_inner(to)?;
            state.rename(from, to)
        })
    }

    fn remove_file(&self, name: &Path) -> io::Result<()> {
        self.call(Call::RemoveFile, &[name], |state, _| {
            check_inner(name)?;
            state.remove_file(name)
        })
    }

    fn remove_dir(&self, name: &Path) -> io::Result<()> {
        self.call(Call::RemoveDir, &[name], |state, _| {
            check_inner(name)?;
            state.remove_dir(name)
        })
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.call(Call::SyncDir, &[directory], |state, _| {
            check(directory)?;
            if !directory.as_os_str().is_empty() {
                state.spare_descriptor()?;
            }
            state.sync_names(state.resolve(directory)?)
        })
    }

    fn lock(&self, name: &Path) -> io::Result<Box<dyn Lock>> {
        self.call(Call::Lock, &[name], |state, _| {
            check_inner(name)?;
            let node = match state.resolve(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    state.spare_descriptor()?;
                    state.create(name, NodeKind::File)?
                }
                found => regular(state, found?)?,
            };
            if state.locked.contains(&node) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.spare_descriptor()?;
            state.locked.insert(node);
            let lock: Box<dyn Lock> = Box::new(SimulatedLock { handle: self.handle(state, node, name) });
            Ok(lock)
        })
    }

    fn random(&self) -> u64 {
        self.state(|state| state.chance.next())
    }
}

impl SimulatedDisk {
    fn handle(&self, state: &mut State, node: NodeId, name: &Path) -> Handle {
        state.opened(node);
        Handle { disk: self.clone(), node, name: name.to_path_buf() }
    }
}

fn regular(state: &State, node: NodeId) -> io::Result<NodeId> {
    match state.node(node).entry_kind() {
        EntryKind::File => Ok(node),
        EntryKind::Directory => Err(not_a_file("a directory")),
        EntryKind::Other => Err(not_a_file("something else")),
    }
}

/// A node held open.
#[derive(Debug)]
struct Handle {
    disk: SimulatedDisk,
    node: NodeId,
    /// The name under which it was opened.
    name: PathBuf,
}

impl Handle {
    fn call<T>(&self, call: Call, act: impl FnOnce(&mut State, Effect) -> io::Result<T>) -> io::Result<T> {
        self.disk.call(call, &[&self.name], act)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.disk.state(|state| state.closed(self.node));
    }
}

#[derive(Debug)]
struct SimulatedFile {
    handle: Handle,
    writable: bool,
}

impl SimulatedFile {
    fn check_writable(&self, refusal: Errno) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(refusal.into()) }
    }
}

impl File for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.handle.call(Call::Read, |state, effect| {
            let len = effect.part_of(buffer.len());
            state.read(self.handle.node, buffer.get_mut(..len).unwrap_or_default(), position)
        })
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.handle.call(Call::Write, |state, effect| {
            self.check_writable(Errno::BADF)?;
            let len = effect.part_of(bytes.len());
            state.write(self.handle.node, bytes.get(..len).unwrap_or_default(), position)
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.handle.call(Call::Size, |state, _| Ok(state.node(self.handle.node).cache.len() as u64))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.handle.call(Call::SetSize, |state, _| {
            self.check_writable(Errno::INVAL)?;
            state.set_size(self.handle.node, size)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.call(Call::Sync, |state, effect| {
            if effect == Effect::Forget {
                state.node_mut(self.handle.node).pending.clear();
                return Err(Errno::IO.into());
            }
            state.sync_bytes(self.handle.node);
            Ok(())
        })
    }

    fn set_modified(&self, millis: i64) -> io::Result<()> {
        self.handle.call(Call::SetModified, |state, _| {
            state.node_mut(self.handle.node).modified = millis;
            Ok(())
        })
    }

    fn map(&self, len: usize) -> io::Result<Mapping> {
        self.handle.call(Call::Map, |state, _| {
            let cache = &state.node(self.handle.node).cache;
            let bytes = cache.get(..len).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(Mapping::from_bytes(bytes.to_vec()))
        })
    }
}

#[derive(Debug)]
struct SimulatedLock {
    handle: Handle,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.handle.disk.state(|state| state.locked.remove(&self.handle.node));
    }
}
