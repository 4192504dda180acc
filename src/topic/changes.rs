//! Creating, changing and deleting topics. The manifest is written first: a crash leaves a topic whole or none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::config::TopicConfig;
use super::dir_name;
use super::manifest::{MANIFEST_FILE, Manifest, ManifestTopic};
use super::partitioner::DefaultPartitioner;
use super::store::{CLUSTER_METADATA, PARTITION_METADATA, Shared};
use super::topic::{Slot, TopicState};
use crate::error::{Error, Result};
use crate::format::PartitionMetadata;
use crate::fs::{OpenMode, full_path, replace_file, retry, sync_dir, write_all_at};
use crate::partition::Partition;
use crate::types::{TopicName, TopicPartition};

impl Shared {
    pub(super) fn create_topic(&self, name: TopicName, config: TopicConfig) -> Result<Arc<TopicState>> {
        let _in_order = self.changing.lock();
        self.check_writable("create a topic in")?;
        // A deleted topic of that name must be out of the way.
        self.finish_deleting_held(&[])?;
        let effective = config.or(&self.options.topic_defaults);
        let resolved = effective.resolve()?;
        check_directory_name(&name, effective.partition_count())?;
        for existing in self.topics.read().keys() {
            if *existing == name {
                return Err(Error::TopicExists { topic: name.to_string() });
            }
            if existing.collides_with(&name) {
                let reason = "another topic's name differs from it only in `.` and `_`";
                return Err(Error::InvalidName { kind: "topic", name: name.to_string(), reason });
            }
        }
        let state = Arc::new(TopicState {
            name: name.clone(),
            id: self.random_id(),
            config: RwLock::new(config),
            sparse: AtomicBool::new(resolved.cleanup_policy.compact),
            slots: RwLock::new((0..effective.partition_count()).map(|_| Slot::Failed).collect()),
            partitioner: DefaultPartitioner::new(self.fs.random()),
        });
        {
            // Of a topic of that name that is no more. A crash must not find them beside the new logs.
            let mut positions = self.positions.lock();
            (0..effective.partition_count()).for_each(|number| positions.forget(&state.partition_id(number)));
            positions.write_forgotten(&*self.fs)?;
        }
        self.write_manifest_with(Some(&state), None)?;
        let made = self.make_partitions(&state, 0);
        if made.is_err() && self.write_manifest_with(None, Some(&state)).is_ok() {
            state.open_partitions().iter().for_each(Partition::abandon);
            self.remove_empty_directories(&state, 0);
        } else {
            // Only now can anybody append to it. If the manifest could not be taken back, it exists, and its
            // directories wait for room.
            self.topics.write().insert(name.clone(), Arc::clone(&state));
            self.extensions.topics_changed();
        }
        made.map(|()| state)
    }

    pub(super) fn add_partitions(&self, state: &Arc<TopicState>, count: u32) -> Result<()> {
        let _in_order = self.changing.lock();
        self.check_writable("add partitions in")?;
        self.check_current(state)?;
        let before = state.slots.read().len() as u32;
        if count <= before || count > i32::MAX as u32 {
            let reason = format!("topic {} has {before}; there can only be more", state.name);
            return Err(Error::InvalidConfig { key: "partitions".into(), value: count.to_string(), reason });
        }
        check_directory_name(&state.name, count)?;
        let grow = || state.slots.write().resize_with(count as usize, || Slot::Failed);
        let shrink = || state.slots.write().truncate(before as usize);
        grow();
        let made = self.write_manifest().and_then(|()| self.make_partitions(state, before));
        if made.is_err() {
            let added = |partition: &&Partition| partition.id().partition >= before;
            state.open_partitions().iter().filter(added).for_each(Partition::abandon);
            self.remove_empty_directories(state, before);
            shrink();
            // If this fails as well, the next opening makes the partitions.
            let _ = self.write_manifest();
        }
        self.extensions.topics_changed();
        made
    }

    /// A partition that could not be opened with the store, or made with its topic (P7).
    pub(super) fn open_late(&self, state: &Arc<TopicState>, number: u32) -> Result<Partition> {
        let _in_order = self.changing.lock();
        self.check_current(state)?;
        // Held while it is opened: there must never be two of the same partition.
        let mut slots = state.slots.write();
        let count = slots.len() as u32;
        match slots.get_mut(number as usize) {
            Some(Slot::Open(partition)) => Ok(partition.clone()),
            Some(slot) => {
                if !self.options.read_only {
                    self.check_writable("open a partition in")?;
                    self.make_directory_if_missing(state, number)?;
                }
                let partition = self.open_partition(state, number, false)?;
                *slot = Slot::Open(partition.clone());
                Ok(partition)
            }
            None => Err(Error::UnknownPartition { topic: state.name.to_string(), partition: number, count }),
        }
    }

    /// A handle may be of a topic that was deleted, and another one may have its name.
    fn check_current(&self, state: &Arc<TopicState>) -> Result<()> {
        match self.topics.read().get(&state.name) {
            Some(known) if Arc::ptr_eq(known, state) => Ok(()),
            _ => Err(Error::Closed { what: format!("topic {}", state.name) }),
        }
    }

    /// Its directory may have had to wait for room; or it is there, and what would have made its name durable failed.
    fn make_directory_if_missing(&self, state: &TopicState, number: u32) -> Result<()> {
        match retry(|| self.fs.metadata(&state.directory(number))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.make_directory(state, number)?
            }
            _ => {}
        }
        sync_dir(&*self.fs, Path::new(""))
    }

    pub(super) fn configure<'a>(
        &self,
        state: &Arc<TopicState>,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<()> {
        let _in_order = self.changing.lock();
        self.check_writable("configure a topic in")?;
        self.check_current(state)?;
        let before = state.config.read().clone();
        let mut config = before.clone();
        config.update(changes)?;
        let resolved = config.or(&self.options.topic_defaults).resolve()?;
        *state.config.write() = config;
        if resolved.cleanup_policy.compact {
            state.sparse.store(true, Ordering::Relaxed);
        }
        if let Err(error) = self.write_manifest() {
            *state.config.write() = before;
            return Err(error);
        }
        for partition in state.open_partitions() {
            partition.set_config(resolved.clone());
        }
        Ok(())
    }

    /// Writes down that offsets of a topic may be missing from now on: compacted, or given by a leader.
    pub(super) fn allow_gaps(&self, topic: &TopicName) -> Result<()> {
        let _in_order = self.changing.lock();
        self.check_writable("change a topic in")?;
        let Some(state) = self.topics.read().get(topic).cloned() else { return Ok(()) };
        if !state.sparse.swap(true, Ordering::Relaxed) {
            self.write_manifest().inspect_err(|_| state.sparse.store(false, Ordering::Relaxed))?;
        }
        Ok(())
    }

    pub(super) fn delete_topic(&self, state: &Arc<TopicState>) -> Result<()> {
        let _in_order = self.changing.lock();
        self.check_writable("delete a topic in")?;
        self.check_current(state)?;
        let deleted = ManifestTopic { deleting: true, ..state.to_manifest() };
        self.topics.write().remove(&state.name);
        self.deleting.lock().push(deleted);
        // This is the moment: a crash from here on ends with the topic gone.
        if let Err(error) = self.write_manifest() {
            self.deleting.lock().pop();
            self.topics.write().insert(state.name.clone(), Arc::clone(state));
            return Err(error);
        }
        // First, so that who is sent home by the partitions finds the topic gone.
        self.extensions.topics_changed();
        let partitions = state.open_partitions();
        partitions.iter().for_each(Partition::abandon);
        self.finish_deleting_held(&partitions)
    }

    /// Goes on with deletions that failed halfway.
    pub(super) fn finish_deleting(&self) -> Result<()> {
        let _in_order = self.changing.lock();
        self.finish_deleting_held(&[])
    }

    fn finish_deleting_held(&self, partitions: &[Partition]) -> Result<()> {
        let topics = self.deleting.lock().clone();
        if topics.is_empty() {
            return Ok(());
        }
        for topic in &topics {
            let due = self.options.clock.monotonic().saturating_add(self.delete_delay(topic));
            for number in 0..topic.partitions {
                let id = TopicPartition { topic: topic.name.clone(), partition: number };
                self.positions.lock().forget(&id);
                if let Some(doomed) = self.rename_away(&id)? {
                    let readers = partitions.iter().filter(|partition| *partition.id() == id);
                    readers.for_each(|partition| partition.moved_to(&doomed));
                    self.doomed.lock().push((doomed, due));
                }
            }
        }
        sync_dir(&*self.fs, Path::new(""))?;
        self.deleting.lock().clear();
        self.write_manifest()
    }

    /// How long the files of a deleted topic stay (`file.delete.delay.ms`).
    fn delete_delay(&self, topic: &ManifestTopic) -> Duration {
        let set = |config: TopicConfig, (key, value): (&String, &String)| {
            config.clone().set(key, value).unwrap_or(config)
        };
        let config = topic.config.iter().fold(TopicConfig::new(), set).or(&self.options.topic_defaults);
        let delay = config.resolve().map_or(0, |config| config.file_delete_delay_ms);
        Duration::from_millis(delay.max(0) as u64)
    }

    /// Gives a partition directory the name under which Kafka, too, would remove it.
    pub(super) fn rename_away(&self, id: &TopicPartition) -> Result<Option<PathBuf>> {
        let from = PathBuf::from(id.to_string());
        let to = dir_name::delete_name(id, self.random_id());
        match retry(|| self.fs.rename(&from, Path::new(&to))) {
            Ok(()) => Ok(Some(to.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("rename", &full_path(&*self.fs, &from), error)),
        }
    }

    fn make_partitions(&self, state: &TopicState, from: u32) -> Result<()> {
        let count = state.slots.read().len() as u32;
        for number in from..count {
            self.make_directory(state, number)?;
        }
        sync_dir(&*self.fs, Path::new(""))?;
        for number in from..count {
            let partition = self.open_partition(state, number, false)?;
            self.fill(state, number, partition);
        }
        Ok(())
    }

    /// Neither the directory nor the file in it is synced here: what is missing after a crash is made again.
    pub(super) fn make_directory(&self, state: &TopicState, number: u32) -> Result<()> {
        let directory = state.directory(number);
        match retry(|| self.fs.create_dir(&directory)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", &full_path(&*self.fs, &directory), error));
            }
            _ => {}
        }
        self.write_partition_metadata(state, &directory)
    }

    pub(super) fn write_partition_metadata(&self, state: &TopicState, directory: &Path) -> Result<()> {
        let name = directory.join(PARTITION_METADATA);
        let failed = |error| Error::io("write", &full_path(&*self.fs, &name), error);
        let bytes = PartitionMetadata::new(state.id).encode().into_bytes();
        let _ = self.fs.remove_file(&name);
        let file = retry(|| self.fs.open(&name, OpenMode::CreateNew)).map_err(failed)?;
        write_all_at(&*file, &bytes, 0).map_err(failed)
    }

    fn remove_empty_directories(&self, state: &TopicState, from: u32) {
        let count = state.slots.read().len() as u32;
        for number in from..count.max(from) {
            let directory = state.directory(number);
            self.remove_tree(&directory);
        }
    }

    pub(super) fn check_writable(&self, action: &'static str) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly { action, path: self.fs.root().to_path_buf() });
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed { what: format!("the store {}", self.fs.root().display()) });
        }
        Ok(())
    }

    pub(super) fn write_manifest(&self) -> Result<()> {
        self.write_manifest_with(None, None)
    }

    fn write_manifest_with(&self, added: Option<&TopicState>, removed: Option<&TopicState>) -> Result<()> {
        let mut topics = self.manifest_topics();
        topics.retain(|topic| removed.is_none_or(|removed| removed.name != topic.name));
        topics.extend(added.map(TopicState::to_manifest));
        replace_file(&*self.fs, Path::new(MANIFEST_FILE), &Manifest { topics }.encode())
    }

    fn manifest_topics(&self) -> Vec<ManifestTopic> {
        let mut topics: Vec<_> = self.topics.read().values().map(|state| state.to_manifest()).collect();
        topics.extend(self.deleting.lock().iter().cloned());
        topics
    }
}

/// A name that is good for a topic need not be for its directories.
fn check_directory_name(name: &TopicName, partitions: u32) -> Result<()> {
    let invalid = |reason| Err(Error::InvalidName { kind: "topic", name: name.to_string(), reason });
    let last = TopicPartition { topic: name.clone(), partition: partitions.saturating_sub(1) };
    if name.as_str() == CLUSTER_METADATA {
        return invalid("Kafka keeps the metadata of a cluster under it");
    }
    if last.to_string().len() > DIRECTORY_NAME_BYTES_MAX {
        return invalid("with its number of partitions, a directory name would be longer than 255 bytes");
    }
    Ok(())
}

/// The longest name that file systems take.
const DIRECTORY_NAME_BYTES_MAX: usize = 255;

impl TopicState {
    fn to_manifest(&self) -> ManifestTopic {
        let config = self.config.read();
        ManifestTopic {
            name: self.name.clone(),
            id: self.id,
            partitions: self.slots.read().len() as u32,
            sparse: self.sparse.load(Ordering::Relaxed),
            deleting: false,
            config: config.entries().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        }
    }
}
