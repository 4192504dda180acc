//! [`Store`]: a directory of topics, its lock, and what it writes down about them.
//!
//! | file | whose | what |
//! | --- | --- | --- |
//! | `.lock` | Kafka's | held while the store is open |
//! | `.kafka_cleanshutdown` | Kafka's | there while the store is closed in good order |
//! | `recovery-point-offset-checkpoint`, `log-start-offset-checkpoint` | Kafka's | for a broker that takes over |
//! | `replication-offset-checkpoint`, `cleaner-offset-checkpoint` | Kafka's | high watermarks; what is compacted |
//! | `annals.manifest` | ours | topics: names, ids, partitions, settings |
//! | `annals.checkpoint` | ours | all of these, and the positions of recovery points |
//! | `annals.producer-ids` | ours | which producer ids are free |

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::config::TopicConfig;
use super::handle::Extensions;
use super::maintenance::{Maintenance, MaintenanceReport, MaintenanceStatus};
use super::manifest::ManifestTopic;
use super::options::StoreOptions;
use super::positions::Positions;
use super::producer_ids::ProducerIds;
use super::stats::StoreStats;
use super::topic::{Topic, TopicState};
use crate::error::{Error, Result};
use crate::format::clean_shutdown;
use crate::fs::{EntryKind, FileSystem, Lock, full_path, replace_file, retry};
use crate::partition::{Partition, Surroundings};
use crate::storage::FilePool;
use crate::types::{TopicName, TopicPartition};

const LOCK: &str = ".lock";
pub(super) const CLEAN_SHUTDOWN_MARKER: &str = ".kafka_cleanshutdown";
/// What Kafka writes where there is no broker epoch.
const NO_BROKER_EPOCH: i64 = -1;
pub(super) const PARTITION_METADATA: &str = "partition.metadata";
/// The metadata log of a KRaft controller: a partition by its name alone.
pub(super) const CLUSTER_METADATA: &str = "__cluster_metadata";

/// A directory that holds topics, open in this process alone.
///
/// Dropping it closes it in good order, as far as that goes without anybody to report a failure to;
/// [`close`](Store::close) reports it.
///
/// ```
/// use annals::{Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let topic = store.create_topic("events", TopicConfig::new().partitions(2))?;
/// topic.append(&Record::new("it happened"))?;
/// store.close()?;
///
/// let store = Store::open(directory.path())?;
/// assert_eq!(store.topics().len(), 1);
/// # Ok::<(), annals::Error>(())
/// ```
///
/// A process that forks must not use the store in the child: the lock belongs to the parent alone.
pub struct Store {
    pub(super) shared: Arc<Shared>,
}

/// What opening a store found besides what its partitions report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreReport {
    /// Whether the store was closed in good order.
    pub clean: bool,
    /// What a user should hear about: files rebuilt, partitions that could not be opened.
    pub warnings: Vec<String>,
    /// Files and directories that are none of ours. They are left alone.
    pub unknown: Vec<PathBuf>,
}

/// What the store's handles share.
pub(super) struct Shared {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) pool: Arc<FilePool>,
    pub(super) options: StoreOptions,
    lock: Mutex<Option<Box<dyn Lock>>>,
    pub(super) topics: RwLock<BTreeMap<TopicName, Arc<TopicState>>>,
    /// Held while topics are created, changed and deleted, so that the manifest follows them in order.
    pub(super) changing: Mutex<()>,
    /// What was last written down, also of partitions that cannot be opened now.
    pub(super) positions: Mutex<Positions>,
    /// Topics that are deleted while some of their directories still have their names; kept in the manifest.
    pub(super) deleting: Mutex<Vec<ManifestTopic>>,
    /// Directories of deleted topics, and when to remove them.
    pub(super) doomed: Mutex<Vec<(PathBuf, Duration)>>,
    pub(super) closed: AtomicBool,
    pub(super) report: Mutex<StoreReport>,
    pub(super) sink: Arc<Sink>,
    pub(super) maintenance: Maintenance,
    pub(super) producer_ids: ProducerIds,
    /// What the layers above keep here.
    pub(super) extensions: Extensions,
}

/// Lets partitions ask for a checkpoint without keeping the store alive.
#[derive(Debug, Default)]
pub(super) struct Sink(Mutex<Weak<Shared>>);

impl Surroundings for Sink {
    fn checkpoint(&self) -> Result<()> {
        let shared = self.0.lock().upgrade();
        shared.map_or(Ok(()), |shared| shared.write_positions())
    }

    fn allow_gaps(&self, id: &TopicPartition) -> Result<()> {
        let shared = self.0.lock().upgrade();
        shared.map_or(Ok(()), |shared| shared.allow_gaps(&id.topic))
    }
}

impl Store {
    /// Opens the store in a directory, which is created if need be. A directory written by a Kafka broker opens,
    /// too.
    ///
    /// Damage in a partition is no error of the store: that partition says so, the others work. Look at
    /// [`report`](Store::report) and at [`Partition::recovery_report`].
    ///
    /// # Errors
    /// [`Error::Locked`] if it is open elsewhere; [`Error::UnsupportedFormat`] if a newer version wrote it;
    /// [`Error::Io`] and its kin if the directory itself cannot be used.
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        StoreOptions::new().open(path)
    }

    /// Settings for opening a store otherwise than by default.
    pub fn options() -> StoreOptions {
        StoreOptions::new()
    }

    pub(super) fn open_with(options: StoreOptions, fs: Arc<dyn FileSystem>) -> Result<Store> {
        // Without the lock nobody keeps the files from being cut under a mapping.
        let map = options.map_indexes && !options.read_only;
        let pool = FilePool::new(Arc::clone(&fs), options.max_open_files, options.read_only, map);
        let lock = if options.read_only { None } else { Some(take_lock(&*fs)?) };
        let shared = Arc::new(Shared {
            fs,
            pool,
            options,
            lock: Mutex::new(lock),
            topics: RwLock::default(),
            changing: Mutex::default(),
            positions: Mutex::default(),
            deleting: Mutex::default(),
            doomed: Mutex::default(),
            closed: AtomicBool::new(false),
            report: Mutex::default(),
            sink: Arc::default(),
            maintenance: Maintenance::default(),
            producer_ids: ProducerIds::default(),
            extensions: Extensions::default(),
        });
        *shared.sink.0.lock() = Arc::downgrade(&shared);
        shared.load()?;
        let store = Store { shared };
        if store.shared.options.background && !store.shared.options.read_only {
            store.shared.start_background()?;
        }
        Ok(store)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        self.shared.fs.root()
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for an illegal name, or one that collides with another topic's by Kafka's rule
    /// (`.` and `_` alike); [`Error::TopicExists`]; [`Error::InvalidConfig`]; otherwise as the system calls fail.
    pub fn create_topic(&self, name: impl AsRef<str>, config: TopicConfig) -> Result<Topic> {
        self.shared.create(name.as_ref(), config)
    }

    /// A topic by its name.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`].
    pub fn topic(&self, name: impl AsRef<str>) -> Result<Topic> {
        self.shared.topic(name.as_ref())
    }

    /// All topics, ordered by name.
    pub fn topics(&self) -> Vec<Topic> {
        self.shared.topics()
    }

    /// Deletes a topic with everything in it. It is gone at once; its files are removed by a
    /// [`maintain`](Store::maintain) after the topic's `file.delete.delay.ms`, or when the store is opened next, so
    /// that readers under way can finish.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]; otherwise as the system calls fail.
    pub fn delete_topic(&self, name: impl AsRef<str>) -> Result<()> {
        let topic = self.topic(name)?;
        self.shared.delete_topic(&topic.state)
    }

    /// What opening found.
    pub fn report(&self) -> StoreReport {
        self.shared.report.lock().clone()
    }

    /// One pass over everything that is due. Call it from time to time, say every second, or have it called
    /// ([`StoreOptions::background`]). In this order:
    ///
    /// 1. partitions are synced whose interval has passed;
    /// 2. segments go that retention or a raised log start no longer keeps;
    /// 3. the dirtiest partition is compacted for which that is due;
    /// 4. producers are forgotten that have not appended for `annals.producer.expiration.ms`;
    /// 5. files are removed of segments and topics that were deleted `file.delete.delay.ms` ago;
    /// 6. checkpoints are written where a log has moved on; its indexes and its snapshot of producers, too, once a
    ///    minute.
    ///
    /// A wall clock that jumps ahead does not empty the store: if it moved more than 10 minutes further than
    /// monotonic time since the last pass, nothing is deleted or forgotten for its age, and nothing compacted, during
    /// one hour, and the report of that pass has a warning. (A machine that slept looks the same.) The first pass has
    /// nothing to compare with and is not guarded.
    ///
    /// One pass runs at a time; a second call waits for the first. Partitions with damage are left alone, except that
    /// their intervals are kept.
    ///
    /// ```
    /// use annals::{Record, Store, TopicConfig};
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::open(directory.path())?;
    /// let topic = store.create_topic("events", TopicConfig::new().set("retention.bytes", "1")?)?;
    /// let log = topic.partition(0)?;
    /// log.append(&Record::new("old"))?;
    /// log.roll()?;
    /// log.append(&Record::new("new"))?;
    /// let report = store.maintain()?;
    /// assert_eq!(report.expired.len(), 1);
    /// assert_eq!(log.log_start(), 1);
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first failure; the rest of the pass is done nevertheless, and
    /// [`maintenance_status`](Store::maintenance_status) has its report. [`Error::Poisoned`] as long as a partition
    /// is; [`Error::ReadOnly`] if the store was opened for reading alone.
    pub fn maintain(&self) -> Result<MaintenanceReport> {
        self.shared.maintain()
    }

    /// How the passes of maintenance went, those of the background and those asked for.
    pub fn maintenance_status(&self) -> MaintenanceStatus {
        self.shared.maintenance_status()
    }

    /// Figures about it at this moment. Takes the lock of appends of each partition for a moment, reads no file.
    ///
    /// ```
    /// use annals::{Record, Store, TopicConfig};
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::open(directory.path())?;
    /// store.create_topic("events", TopicConfig::new().partitions(2))?.append(&Record::new("it happened"))?;
    /// let stats = store.stats();
    /// assert_eq!((stats.topics, stats.partitions, stats.appended_records), (1, 2, 1));
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn stats(&self) -> StoreStats {
        self.shared.stats()
    }

    /// Makes everything appended so far durable, and writes that down, so that opening after a crash is quick.
    ///
    /// # Errors
    /// The first failure; the other partitions are flushed nevertheless.
    pub fn flush(&self) -> Result<()> {
        self.shared.flush()
    }

    /// Closes the store in good order: everything is synced, and the next opening need not read any log.
    ///
    /// Handles that are left can still read what is there; appends are refused.
    ///
    /// # Errors
    /// The first failure. The store is closed nevertheless, and the next opening recovers what has to be.
    pub fn close(self) -> Result<()> {
        self.shared.close()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Nobody is there to hear of a failure; the next opening recovers.
        let _ = self.shared.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("root", &self.fs.root()).finish_non_exhaustive()
    }
}

fn take_lock(fs: &dyn FileSystem) -> Result<Box<dyn Lock>> {
    retry(|| fs.lock(Path::new(LOCK))).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::Locked { path: fs.root().to_path_buf() },
        _ => Error::io("lock", &full_path(fs, Path::new(LOCK)), error),
    })
}

impl Shared {
    pub(super) fn create(self: &Arc<Self>, name: &str, config: TopicConfig) -> Result<Topic> {
        let state = self.create_topic(TopicName::new(name)?, config)?;
        Ok(self.topic_handle(state))
    }

    pub(super) fn topic(self: &Arc<Self>, name: &str) -> Result<Topic> {
        let unknown = || Error::UnknownTopic { topic: name.chars().take(260).collect() };
        let known = TopicName::new(name).map_err(|_| unknown())?;
        let state = self.topics.read().get(&known).cloned().ok_or_else(unknown)?;
        Ok(self.topic_handle(state))
    }

    pub(super) fn topics(self: &Arc<Self>) -> Vec<Topic> {
        self.topics.read().values().map(|state| self.topic_handle(Arc::clone(state))).collect()
    }

    fn topic_handle(self: &Arc<Self>, state: Arc<TopicState>) -> Topic {
        Topic { state, store: Arc::downgrade(self) }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn topic_defaults(&self) -> &TopicConfig {
        &self.options.topic_defaults
    }

    /// Writes down how far every partition is safe.
    pub(super) fn write_positions(&self) -> Result<()> {
        // Before the lock: whoever opens a partition holds its topic, and then asks for the positions.
        let open = self.open_partitions_now();
        let mut positions = self.positions.lock();
        if self.closed.load(Ordering::Acquire) {
            // What closing wrote is the last word.
            return Ok(());
        }
        positions.update(open.iter().map(|partition| (partition.id().clone(), partition.checkpoint())));
        positions.write(&*self.fs)
    }

    /// As [`write_positions`](Self::write_positions), if they are not written down already.
    pub(super) fn write_positions_if_moved(&self) -> Result<()> {
        let open = self.open_partitions_now();
        let mut positions = self.positions.lock();
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        positions.update(open.iter().map(|partition| (partition.id().clone(), partition.checkpoint())));
        if positions.are_unsaved() { positions.write(&*self.fs) } else { Ok(()) }
    }

    pub(super) fn open_partitions_now(&self) -> Vec<Partition> {
        self.topics.read().values().flat_map(|state| state.open_partitions()).collect()
    }

    fn flush(&self) -> Result<()> {
        self.check_writable("flush")?;
        let mut failed = Ok(());
        for partition in self.open_partitions_now() {
            let flushed = partition.flush().and_then(|()| partition.persist_indexes());
            failed = failed.and(flushed);
        }
        failed.and(self.write_positions())
    }

    /// Removes the directories of deleted topics whose time has come. What cannot be removed is tried again.
    pub(super) fn remove_doomed(&self) -> Vec<PathBuf> {
        let now = self.options.clock.monotonic();
        let mut removed = Vec::new();
        self.doomed.lock().retain(|(directory, due)| {
            let gone = *due <= now && self.remove_tree(directory);
            if gone {
                removed.push(directory.clone());
            }
            !gone
        });
        removed
    }

    /// Removes a partition directory with the files in it. Returns whether it is gone.
    pub(super) fn remove_tree(&self, directory: &Path) -> bool {
        let Ok(entries) = retry(|| self.fs.list(directory)) else { return false };
        for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Directory) {
            let _ = retry(|| self.fs.remove_file(&directory.join(&entry.name)));
        }
        retry(|| self.fs.remove_dir(directory)).is_ok()
    }

    fn close(&self) -> Result<()> {
        // Before any lock: the pass under way may need it.
        self.stop_background();
        let _in_order = self.changing.lock();
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.extensions.attendants().iter().for_each(|attendant| attendant.closing());
        self.extensions.topics_changed();
        if self.options.read_only {
            return Ok(());
        }
        let closed = self.close_in_order();
        self.lock.lock().take();
        closed
    }

    fn close_in_order(&self) -> Result<()> {
        let mut failed = Ok(());
        let mut all_clean = true;
        let mut ends = Vec::new();
        for state in self.topics.read().values() {
            let open = state.open_partitions();
            // One that did not open is not known to be whole.
            all_clean &= open.len() == state.slots.read().len();
            for partition in open {
                match partition.close() {
                    Ok(end) => {
                        all_clean &= end.is_some_and(|end| end.clean);
                        ends.push((partition.id().clone(), end));
                    }
                    Err(error) => {
                        ends.push((partition.id().clone(), partition.checkpoint()));
                        failed = failed.and(Err(error));
                    }
                }
            }
        }
        {
            let mut positions = self.positions.lock();
            positions.update(ends);
            failed = failed.and(positions.write(&*self.fs));
        }
        failed?;
        if all_clean {
            // Last, when everything it stands for is on disk.
            let marker = clean_shutdown(NO_BROKER_EPOCH);
            replace_file(&*self.fs, Path::new(CLEAN_SHUTDOWN_MARKER), marker.as_bytes())?;
        }
        Ok(())
    }
}
