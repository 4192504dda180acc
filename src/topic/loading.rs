//! Opening a store: what lies in the directory, held against what the manifest and the checkpoints say.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::config::TopicConfig;
use super::dir_name::DirName;
use super::manifest::{MANIFEST_FILE, Manifest, ManifestTopic};
use super::partitioner::DefaultPartitioner;
use super::positions::Positions;
use super::producer_ids::PRODUCER_IDS_FILE;
use super::store::{CLEAN_SHUTDOWN_MARKER, CLUSTER_METADATA, PARTITION_METADATA, Shared};
use super::topic::{Slot, TopicState};
use crate::error::{Error, FormatError, Result};
use crate::format::PartitionMetadata;
use crate::fs::{EntryKind, full_path, read_file, read_if_there, retry, sync_dir};
use crate::partition::{Partition, Unopened};
use crate::types::{TopicName, Uuid};

/// A manifest of a million topics is smaller; a length beyond it is damage.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// `partition.metadata` is two short lines.
const METADATA_BYTES_MAX: u64 = 4 << 10;

/// What the root directory holds.
#[derive(Default)]
struct Listing {
    partitions: BTreeMap<TopicName, BTreeSet<u32>>,
    doomed: Vec<PathBuf>,
    unknown: Vec<PathBuf>,
}

impl Shared {
    pub(super) fn load(self: &Arc<Self>) -> Result<()> {
        // First, since a store of a newer version must be left as it is.
        let manifest = self.read_manifest()?;
        let (positions, foreign) = Positions::read(&*self.fs)?;
        let clean = self.take_clean_marker()?;
        let listing = self.list_root()?;
        self.report.lock().clean = clean;
        self.report.lock().unknown.clone_from(&listing.unknown);
        if foreign {
            self.warn("the checkpoints were written by another program since; offsets may have gaps".into());
        }
        *self.positions.lock() = positions;
        let (known, rebuilt) = self.merge(manifest, &listing, foreign)?;
        let (deleting, alive): (Vec<_>, Vec<_>) = known.into_iter().partition(|topic| topic.deleting);
        for topic in &alive {
            let state = self.topic_state(topic, &listing)?;
            self.topics.write().insert(state.name.clone(), state);
        }
        self.finish_deletions(deleting, listing.doomed.clone());
        if !self.options.read_only {
            if let Err(error) = self.make_missing_directories(&listing) {
                self.warn(format!("partitions wait for their directories: {error}"));
            }
        }
        self.open_partitions(clean);
        if self.options.read_only {
            return Ok(());
        }
        // A full disk must not keep anybody from reading: what cannot be written now is written later.
        let written = if rebuilt { self.write_manifest() } else { Ok(()) };
        let written = written.and_then(|()| if clean { Ok(()) } else { self.write_positions() });
        match written {
            Err(error @ (Error::StorageFull { .. } | Error::TooManyOpenFiles { .. })) => {
                self.warn(error.to_string())
            }
            result => result?,
        }
        self.remove_doomed();
        Ok(())
    }

    pub(super) fn warn(&self, warning: String) {
        self.report.lock().warnings.push(warning);
    }

    /// The manifest, or `None` if there is none that can be read.
    fn read_manifest(&self) -> Result<Option<Manifest>> {
        let name = Path::new(MANIFEST_FILE);
        let detail = match read_file(&*self.fs, name, MANIFEST_BYTES_MAX) {
            Ok(bytes) => match Manifest::decode(&bytes) {
                Ok(manifest) => return Ok(Some(manifest)),
                Err(FormatError::Version { what, found, supported }) => {
                    let path = full_path(&*self.fs, name);
                    return Err(Error::UnsupportedFormat { path, what, found, supported });
                }
                Err(damaged) => damaged.to_string(),
            },
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            // Something else of that name, or a length that cannot be: as good as damaged.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                source.to_string()
            }
            Err(error @ Error::TooLarge { .. }) => error.to_string(),
            Err(error) => return Err(error),
        };
        self.warn(format!("{MANIFEST_FILE} was damaged and is rebuilt from the directories: {detail}"));
        Ok(None)
    }

    /// Whether the store was closed in good order. Takes the sign away: from here on, a crash is a crash.
    fn take_clean_marker(&self) -> Result<bool> {
        let name = Path::new(CLEAN_SHUTDOWN_MARKER);
        let failed = |action| move |error| Error::io(action, &full_path(&*self.fs, name), error);
        let clean = match retry(|| self.fs.metadata(name)) {
            Ok(metadata) => metadata.kind == EntryKind::File,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed("look at")(error)),
        };
        if !self.options.read_only {
            if clean {
                retry(|| self.fs.remove_file(name)).map_err(failed("remove"))?;
            }
            // Also makes sure of checkpoints that a failure left in doubt, before anything is done that they allow.
            sync_dir(&*self.fs, Path::new(""))?;
        }
        Ok(clean)
    }

    fn list_root(&self) -> Result<Listing> {
        let root = Path::new("");
        let entries =
            retry(|| self.fs.list(root)).map_err(|error| Error::io("list", self.fs.root(), error))?;
        let mut listing = Listing::default();
        for entry in entries {
            let path = PathBuf::from(&entry.name);
            let name = entry.name.to_str().unwrap_or_default();
            match (DirName::parse(name), entry.kind) {
                (DirName::Partition(id), EntryKind::Directory) if id.topic.as_str() != CLUSTER_METADATA => {
                    listing.partitions.entry(id.topic).or_default().insert(id.partition);
                }
                (DirName::Delete(_), EntryKind::Directory) => listing.doomed.push(path),
                (_, EntryKind::File) if is_known(name) => {}
                _ => listing.unknown.push(path),
            }
        }
        Ok(listing)
    }

    /// The topics there are, by the manifest and by the directories, and whether the manifest lacks any of it.
    fn merge(
        &self,
        manifest: Option<Manifest>,
        listing: &Listing,
        foreign: bool,
    ) -> Result<(Vec<ManifestTopic>, bool)> {
        let mut rebuilt = manifest.is_none();
        if rebuilt && !listing.partitions.is_empty() {
            self.warn(format!(
                "there was no {MANIFEST_FILE} to be read: topics are taken from the directories"
            ));
        }
        let mut topics = manifest.map(|manifest| manifest.topics).unwrap_or_default();
        if foreign {
            for topic in topics.iter_mut().filter(|topic| !topic.sparse) {
                topic.sparse = true;
                rebuilt = true;
            }
        }
        for (name, numbers) in &listing.partitions {
            if topics.iter().any(|topic| topic.name == *name) {
                continue;
            }
            // Not every broker holds every partition, but a number far beyond all others is a stray name.
            let believed = numbers.len() as u32 * 16 + 1024;
            let count = numbers.range(..believed).last().map_or(0, |last| last + 1);
            if count == 0 {
                continue;
            }
            let id = self.stored_topic_id(name, numbers).unwrap_or_else(|| self.random_id());
            // Whoever wrote it may have compacted it.
            let topic = ManifestTopic {
                name: name.clone(),
                id,
                partitions: count,
                sparse: true,
                deleting: false,
                config: BTreeMap::new(),
            };
            topics.push(topic);
            rebuilt = true;
        }
        Ok((topics, rebuilt))
    }

    pub(super) fn random_id(&self) -> Uuid {
        Uuid::from_random(self.fs.random(), self.fs.random())
    }

    /// The topic id that most partition directories name.
    fn stored_topic_id(&self, name: &TopicName, numbers: &BTreeSet<u32>) -> Option<Uuid> {
        let mut votes: BTreeMap<Uuid, usize> = BTreeMap::new();
        for number in numbers {
            if let Ok(Some(id)) = self.partition_topic_id(Path::new(&format!("{name}-{number}"))) {
                *votes.entry(id).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(id, _)| id)
    }

    /// The topic id in a partition directory; `None` if the file is missing or no good.
    fn partition_topic_id(&self, directory: &Path) -> Result<Option<Uuid>> {
        let bytes = read_if_there(&*self.fs, &directory.join(PARTITION_METADATA), METADATA_BYTES_MAX)?;
        let metadata = bytes.and_then(|bytes| PartitionMetadata::decode(&bytes).ok());
        Ok(metadata.map(|metadata| metadata.topic_id))
    }

    /// Finishes deletions that a crash interrupted. What is left of them is due for removal: nobody reads it.
    fn finish_deletions(&self, deleting: Vec<ManifestTopic>, doomed: Vec<PathBuf>) {
        if self.options.read_only {
            return;
        }
        *self.deleting.lock() = deleting;
        if let Err(error) = self.finish_deleting() {
            self.warn(format!("a deleted topic is still to be removed: {error}"));
        }
        let mut due = self.doomed.lock();
        due.extend(doomed.into_iter().map(|directory| (directory, Duration::ZERO)));
        due.iter_mut().for_each(|(_, when)| *when = Duration::ZERO);
    }

    fn topic_state(&self, topic: &ManifestTopic, listing: &Listing) -> Result<Arc<TopicState>> {
        let mut config = TopicConfig::new();
        for (key, value) in &topic.config {
            // A key of another version of this crate is kept out of the way, not a reason to lose the topic.
            match config.clone().set(key, value) {
                Ok(set) => config = set,
                Err(error) => self.warn(format!("a setting of topic {} is ignored: {error}", topic.name)),
            }
        }
        let count = topic.partitions;
        for stray in
            listing.partitions.get(&topic.name).into_iter().flat_map(|numbers| numbers.range(count..))
        {
            self.report.lock().unknown.push(format!("{}-{stray}", topic.name).into());
        }
        Ok(Arc::new(TopicState {
            name: topic.name.clone(),
            id: topic.id,
            config: RwLock::new(config),
            sparse: AtomicBool::new(topic.sparse),
            slots: RwLock::new((0..count).map(|_| Slot::Failed).collect()),
            partitioner: DefaultPartitioner::new(self.fs.random()),
        }))
    }

    /// A directory that the manifest names and that is not there was never made, if nothing was ever written to it.
    fn make_missing_directories(&self, listing: &Listing) -> Result<()> {
        let mut made = false;
        // Of a topic that was not made here the others may be elsewhere; those of ours were all to be made.
        for state in self.topics.read().values().filter(|state| !state.sparse.load(Ordering::Relaxed)) {
            let found = listing.partitions.get(&state.name);
            for number in 0..state.slots.read().len() as u32 {
                if found.is_none_or(|found| !found.contains(&number)) {
                    self.make_directory(state, number)?;
                    made = true;
                }
            }
        }
        if made { sync_dir(&*self.fs, Path::new("")) } else { Ok(()) }
    }

    /// Opens all partitions, several at a time. One that fails stays closed, and says why when it is asked for.
    fn open_partitions(self: &Arc<Self>, clean: bool) {
        let states: Vec<Arc<TopicState>> = self.topics.read().values().cloned().collect();
        let jobs: Vec<(Arc<TopicState>, u32)> = states
            .iter()
            .flat_map(|state| (0..state.slots.read().len() as u32).map(|number| (Arc::clone(state), number)))
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((state, number)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.open_partition(state, *number, clean) {
                    Ok(partition) => self.fill(state, *number, partition),
                    Err(error) => self.warn(format!("{} did not open: {error}", state.partition_id(*number))),
                }
            }
        };
        let threads = self.options.recovery_threads.min(jobs.len());
        if threads <= 1 {
            return work();
        }
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Without another thread this one does it all.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
    }

    pub(super) fn fill(&self, state: &TopicState, number: u32, partition: Partition) {
        if let Some(slot) = state.slots.write().get_mut(number as usize) {
            *slot = Slot::Open(partition);
        }
    }

    pub(super) fn open_partition(&self, state: &TopicState, number: u32, clean: bool) -> Result<Partition> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed { what: state.partition_id(number).to_string() });
        }
        let directory = state.directory(number);
        self.check_identity(state, &directory)?;
        let id = state.partition_id(number);
        let sparse = state.sparse.load(Ordering::Relaxed);
        let config = state.config.read().or(&self.options.topic_defaults).resolve()?;
        let unopened = Unopened {
            checkpoint: self.positions.lock().get(&id),
            id,
            directory,
            pool: Arc::clone(&self.pool),
            clock: Arc::clone(&self.options.clock),
            surroundings: Arc::clone(&self.sink) as _,
            compaction_limits: self.options.compaction_limits,
            sparse: sparse || config.cleanup_policy.compact,
            config,
            clean,
        };
        unopened.open()
    }

    /// A directory that says it belongs to another topic was renamed or copied here.
    fn check_identity(&self, state: &TopicState, directory: &Path) -> Result<()> {
        match self.partition_topic_id(directory)? {
            Some(id) if id == state.id => Ok(()),
            Some(id) if !is_misspelt(&id, &state.id) => {
                let path = full_path(&*self.fs, &directory.join(PARTITION_METADATA));
                let detail = format!("it names topic id {id}, but topic {} has {}", state.name, state.id);
                Err(Error::Corruption { path, position: 0, offset: 0, detail })
            }
            _ if self.options.read_only => Ok(()),
            _ => {
                // Only what the manifest says anyway: no reason to keep anybody from the data.
                let _ = self.write_partition_metadata(state, directory);
                Ok(())
            }
        }
    }
}

/// Whether two ids differ in one character: a damaged byte of the file, since no two topics' ids are that alike.
fn is_misspelt(stored: &Uuid, known: &Uuid) -> bool {
    let (stored, known) = (stored.to_string(), known.to_string());
    stored.bytes().zip(known.bytes()).filter(|(stored, known)| stored != known).count() == 1
}

/// Names in the root directory that belong there.
fn is_known(name: &str) -> bool {
    const KNOWN: [&str; 11] = [
        ".lock",
        ".kafka_cleanshutdown",
        "meta.properties",
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
        "replication-offset-checkpoint",
        "cleaner-offset-checkpoint",
        "annals.manifest",
        "annals.checkpoint",
        PRODUCER_IDS_FILE,
        "bootstrap.checkpoint",
    ];
    KNOWN.contains(&name.strip_suffix(".tmp").unwrap_or(name))
}
