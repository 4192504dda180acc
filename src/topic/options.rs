//! How a store is opened: [`StoreOptions`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config::TopicConfig;
use super::store::Store;
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::fs::{Disk, FileSystem};
use crate::partition::CompactionLimits;

/// Settings of a store, each with a default that suits most.
///
/// ```
/// use annals::{Durability, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::options()
///     .max_open_files(200)
///     .topic_defaults(TopicConfig::new().durability(Durability::Process))
///     .open(directory.path())?;
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub(super) max_open_files: usize,
    pub(super) recovery_threads: usize,
    pub(super) map_indexes: bool,
    pub(super) read_only: bool,
    pub(super) compaction_limits: CompactionLimits,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) topic_defaults: TopicConfig,
    pub(super) background: bool,
    pub(super) maintenance_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions::new()
    }
}

impl StoreOptions {
    /// The defaults.
    pub fn new() -> Self {
        StoreOptions {
            max_open_files: 512,
            recovery_threads: std::thread::available_parallelism().map_or(1, |threads| threads.get()),
            map_indexes: true,
            read_only: false,
            compaction_limits: CompactionLimits { memory: 128 << 20, bytes_per_second: None },
            clock: Arc::new(SystemClock::new()),
            topic_defaults: TopicConfig::new(),
            background: false,
            maintenance_interval: Duration::from_secs(1),
        }
    }

    /// How many log files may be open at once; others are closed and opened again when used. At least 1, by
    /// default 512, half of the usual limit of a process.
    #[must_use]
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = files.max(1);
        self
    }

    /// How many threads load partitions while the store opens. They end before `open` returns. By default one per
    /// processor.
    #[must_use]
    pub fn recovery_threads(mut self, threads: usize) -> Self {
        self.recovery_threads = threads.max(1);
        self
    }

    /// Whether indexes of sealed segments are mapped into memory (the default) or read into it. A disk that fails
    /// under a mapping ends the process with a signal; one that fails a read is an error.
    #[must_use]
    pub fn map_indexes(mut self, map: bool) -> Self {
        self.map_indexes = map;
        self
    }

    /// Opens for reading alone: nothing is created, repaired, locked or written. What another process appends
    /// meanwhile is not seen.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// How much memory compaction may use for the keys of a partition, in bytes: 24 for each key, and a tenth more.
    /// By default 128 MiB, taken only as far as there are keys. If they do not fit, it goes through the log more
    /// than once.
    #[must_use]
    pub fn compaction_memory(mut self, bytes: usize) -> Self {
        self.compaction_limits.memory = bytes;
        self
    }

    /// How many bytes a second compaction may read and write, together; `None`, the default, is no limit.
    #[must_use]
    pub fn compaction_bytes_per_second(mut self, bytes: Option<u64>) -> Self {
        self.compaction_limits.bytes_per_second = bytes;
        self
    }

    /// Where the time comes from; by default from the machine.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Settings that topics have unless they say otherwise. They are not stored with the topics.
    #[must_use]
    pub fn topic_defaults(mut self, defaults: TopicConfig) -> Self {
        self.topic_defaults = defaults;
        self
    }

    /// Whether a thread of the store's own calls [`Store::maintain`] every
    /// [`maintenance_interval`](Self::maintenance_interval). By default none does, and it is up to you.
    ///
    /// The thread ends when the store is closed or dropped, which waits for the pass under way. What fails or panics
    /// in a pass does not end it; look at [`Store::maintenance_status`]. A store opened for reading has none.
    ///
    /// ```
    /// use annals::Store;
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::options().background(true).open(directory.path())?;
    /// assert!(store.maintenance_status().running);
    /// # Ok::<(), annals::Error>(())
    /// ```
    #[must_use]
    pub fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// How long the thread of [`background`](Self::background) rests between two passes, in real time whatever the
    /// clock; by default a second, at least a millisecond.
    #[must_use]
    pub fn maintenance_interval(mut self, interval: Duration) -> Self {
        self.maintenance_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Opens the store in a directory, which is created if need be.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let disk = if self.read_only { Disk::open(path)? } else { Disk::create(path)? };
        self.open_in(Arc::new(disk))
    }

    /// Opens the store in a file system of your own, for instance a
    /// [`SimulatedDisk`](crate::fs::SimulatedDisk).
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_in(self, fs: Arc<dyn FileSystem>) -> Result<Store> {
        Store::open_with(self, fs)
    }
}
