//! [`LocalGroups`]: the coordinator that ships. It keeps all groups in memory and what must last in the topic
//! `__consumer_offsets` of its store, in Kafka's own records.
//!
//! - [`config`](GroupConfig): the settings.
//! - the state machine, which waits for nothing: a group (`group.rs`), its members (`members.rs`), how it comes from
//!   one generation to the next (`rebalance.rs`), who may commit (`commits.rs`), what is committed (`offsets.rs`), and
//!   what a change brings about outside (`effects.rs`).
//! - the log: one partition of the topic and its groups (`shard.rs`), how they are read (`load.rs`), written down
//!   (`writing.rs`), committed to (`committing.rs`) and removed (`removal.rs`).
//!
//! No lock that a heartbeat needs is held while the disk is waited for. Commits run side by side and share their
//! syncs; a generation ends when those that it allowed have ended, and takes no more meanwhile.

mod commits;
mod committing;
mod config;
mod effects;
mod group;
mod load;
mod members;
mod offsets;
mod rebalance;
mod removal;
mod shard;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

pub use config::GroupConfig;

use super::coordinator::{
    Assigned, GroupCoordinator, GroupDescription, GroupListing, GroupMetadata, GroupState, JoinRequest,
    Joined, OffsetAndMetadata, OffsetCommit, SyncRequest, check_group_id,
};
use crate::error::{Error, Result};
use crate::format::coordinator_partition;
use crate::partition::{CleanupPolicy, CompressionType};
use crate::topic::{Attendant, Store, StoreHandle, Topic, TopicConfig};
use crate::types::{TopicPartition, Uuid};
use crate::wake::{Replier, Reply};
use effects::{Effects, Write};
use group::{Context, Group, unknown_member};
use offsets::Committed;
use removal::Retention;
use shard::{Cell, Shard};

/// The topic in which groups and their offsets lie.
const OFFSETS_TOPIC: &str = "__consumer_offsets";
const OFFSETS_SEGMENT_BYTES: u32 = 104_857_600;
/// A group of thousands of members is one record; Kafka's 1 MiB would be too little.
const OFFSETS_MESSAGE_BYTES: u32 = 16 << 20;

/// The longest part of a member's id that comes from the client.
const CLIENT_PART_CHARS: usize = 255;

/// Coordinates the groups of a store, for the consumers of its process and for a server in front of others.
pub(crate) struct LocalGroups {
    handle: StoreHandle,
    config: GroupConfig,
    shards: Mutex<Option<Arc<Shards>>>,
    /// When something is due, in nanoseconds of monotonic time; maybe earlier, never later.
    due: AtomicU64,
    /// Held while it is looked what is due.
    looking: Mutex<()>,
    retention: Mutex<Retention>,
    attending: OnceLock<()>,
}

/// The groups of one life of the topic.
struct Shards {
    topic: Topic,
    all: Vec<Arc<Shard>>,
}

impl Store {
    /// Who coordinates the groups of this store: to look at them and change them, or to answer the requests of clients
    /// elsewhere. Consumers of the store find it by themselves.
    ///
    /// ```
    /// use annals::group::{GroupMetadata, OffsetAndMetadata, OffsetCommit};
    /// use annals::{Store, TopicPartition};
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::open(directory.path())?;
    /// let groups = store.groups()?;
    /// let partition = TopicPartition::from_dir_name("clicks-0").unwrap();
    /// let position = OffsetAndMetadata::new(42);
    /// let commit = OffsetCommit { partition: partition.clone(), position: position.clone() };
    /// groups.commit(&GroupMetadata::simple("billing"), &[commit])?;
    /// assert_eq!(groups.committed("billing", None, true)?[&partition], position);
    /// # Ok::<(), annals::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn groups(&self) -> Result<Arc<dyn GroupCoordinator>> {
        Ok(LocalGroups::of(&self.weak_handle())?)
    }

    /// As [`groups`](Self::groups), with settings. To be called before anything else makes use of groups.
    ///
    /// # Errors
    /// [`Error::InvalidState`] if they are in use already, with other settings; [`Error::Closed`].
    pub fn groups_with(&self, config: GroupConfig) -> Result<Arc<dyn GroupCoordinator>> {
        let groups = LocalGroups::open(&self.weak_handle(), &config)?;
        if groups.config != config {
            return Err(Error::InvalidState {
                action: "configure groups",
                reason: "they are in use already, with other settings; call groups_with first".into(),
            });
        }
        Ok(groups)
    }
}

impl LocalGroups {
    /// The one of a store.
    pub(crate) fn of(handle: &StoreHandle) -> Result<Arc<LocalGroups>> {
        LocalGroups::open(handle, &GroupConfig::new())
    }

    fn open(handle: &StoreHandle, config: &GroupConfig) -> Result<Arc<LocalGroups>> {
        let groups = handle.extension(|| LocalGroups {
            handle: handle.clone(),
            config: config.clone(),
            shards: Mutex::default(),
            due: AtomicU64::new(0),
            looking: Mutex::default(),
            retention: Mutex::new(Retention::new(handle.clock().monotonic(), config)),
            attending: OnceLock::new(),
        })?;
        if groups.attending.set(()).is_ok() {
            let attendant: Weak<LocalGroups> = Arc::downgrade(&groups);
            handle.attend(attendant)?;
        }
        Ok(groups)
    }

    fn context(&self) -> Context<'_> {
        let clock = self.handle.clock();
        Context { now: clock.monotonic(), wall: clock.now(), config: &self.config }
    }

    /// The parts of all groups; none if there is no topic, and none is to be made.
    fn shards(&self, make: bool) -> Result<Option<Arc<Shards>>> {
        if make {
            self.handle.topic_or_create(OFFSETS_TOPIC, self.topic_config())?;
        }
        let mut current = self.shards.lock();
        // Looked up under the lock: of two lives of the topic the later one stays.
        let topic = match self.handle.topic(OFFSETS_TOPIC) {
            Ok(topic) => Some(topic),
            Err(Error::UnknownTopic { .. }) => None,
            Err(error) => return Err(error),
        };
        let same = |shards: &Arc<Shards>, topic: &Topic| shards.topic.id() == topic.id();
        let before = match (&*current, topic) {
            (Some(shards), Some(topic)) if same(shards, &topic) => return Ok(Some(Arc::clone(shards))),
            // Deleted by somebody: what was known of it is gone, too.
            (_, topic) => {
                let shards = topic.map(|topic| Arc::new(Shards::new(topic)));
                std::mem::replace(&mut *current, shards)
            }
        };
        let now = current.clone();
        drop(current);
        // Who waited there is answered with that.
        drop(before);
        Ok(now)
    }

    fn topic_config(&self) -> TopicConfig {
        TopicConfig::new()
            .partitions(self.config.offsets_partitions)
            .cleanup_policy(CleanupPolicy { delete: false, compact: true })
            .segment_bytes(OFFSETS_SEGMENT_BYTES)
            .max_message_bytes(OFFSETS_MESSAGE_BYTES)
            .compression(CompressionType::Uncompressed)
    }

    /// The shard of a group, with what its log says; none if there is no topic, and none is to be made.
    fn shard(&self, group: &str, make: bool) -> Result<Option<Arc<Shard>>> {
        check_group_id(group)?;
        let Some(shards) = self.shards(make)? else { return Ok(None) };
        let number =
            coordinator_partition(group, shards.topic.partition_count().min(shards.all.len() as u32));
        let Some(shard) = shards.all.get(number as usize) else { return Ok(None) };
        self.load(shard)?;
        Ok(Some(Arc::clone(shard)))
    }

    fn load(&self, shard: &Shard) -> Result<()> {
        if shard.load(&self.context())? {
            // Their time begins to run.
            self.due.store(0, Ordering::SeqCst);
        }
        Ok(())
    }

    /// A group that is known.
    fn known(&self, group: &str) -> Result<Option<(Arc<Shard>, Arc<Cell>)>> {
        let Some(shard) = self.shard(group, false)? else { return Ok(None) };
        Ok(shard.known(group).map(|cell| (shard, cell)))
    }

    /// A group, made if it is not known.
    fn known_or_new(&self, group: &str) -> Result<(Arc<Shard>, Arc<Cell>)> {
        let closed = || Error::Closed { what: OFFSETS_TOPIC.into() };
        let shard = self.shard(group, true)?.ok_or_else(closed)?;
        shard.check_writable()?;
        let cell = shard.known_or_new(group, &self.config)?;
        Ok((shard, cell))
    }

    /// Changes a group, and tells those whom it concerns. What is to be written down is up to the caller.
    fn change<T>(
        &self,
        cell: &Cell,
        change: impl FnOnce(&mut Group, &Context<'_>, &mut Effects) -> T,
    ) -> (T, Option<Write>) {
        let context = self.context();
        let (done, effects) = self.change_locked(cell.group.lock(), &context, change);
        (done, effects.deliver())
    }

    /// As [`change`](Self::change), once nobody removes anything of the group; none if the group is no more.
    fn change_live<T>(
        &self,
        cell: &Cell,
        change: impl FnOnce(&mut Group, &Context<'_>, &mut Effects) -> T,
    ) -> Option<(T, Option<Write>)> {
        let context = self.context();
        let mut group = cell.group.lock();
        while group.held {
            cell.changed.wait(&mut group);
        }
        if group.state == GroupState::Dead {
            return None;
        }
        let (done, effects) = self.change_locked(group, &context, change);
        Some((done, effects.deliver()))
    }

    /// Changes a group. Who calls this delivers the effects, once it holds no lock.
    fn change_locked<T>(
        &self,
        mut group: MutexGuard<'_, Group>,
        context: &Context<'_>,
        change: impl FnOnce(&mut Group, &Context<'_>, &mut Effects) -> T,
    ) -> (T, Effects) {
        let mut effects = Effects::default();
        let done = change(&mut group, context, &mut effects);
        if effects.moved {
            group.next_due().into_iter().for_each(|due| effects.due_at(due));
        }
        drop(group);
        if let Some(due) = effects.due {
            self.due.fetch_min(nanos(due), Ordering::SeqCst);
        }
        (done, effects)
    }

    fn new_member_id(&self, request: &JoinRequest) -> Result<String> {
        let prefix = request.instance_id.as_deref().unwrap_or(&request.client_id);
        let prefix: String = prefix.chars().take(CLIENT_PART_CHARS).collect();
        let id = Uuid::from_random(self.handle.random()?, self.handle.random()?);
        let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
        let parts: Vec<&str> = parts.into_iter().filter_map(|range| hex.get(range)).collect();
        Ok(format!("{prefix}-{}", parts.join("-")))
    }

    /// Where somebody joins who may.
    fn find_to_join(&self, request: &JoinRequest) -> Result<(Arc<Shard>, Arc<Cell>)> {
        if request.member_id.is_empty() {
            return self.known_or_new(&request.group);
        }
        self.known(&request.group)?.ok_or_else(|| unknown_member(&request.group, &request.member_id))
    }

    fn try_join(&self, request: JoinRequest, asking: &mut Option<Replier<Joined>>) -> Result<()> {
        self.config.check_join(&request)?;
        let new_id = self.new_member_id(&request)?;
        loop {
            let (shard, cell) = self.find_to_join(&request)?;
            let joined = self.change_live(&cell, |group, context, effects| {
                if let Some(replier) = asking.take() {
                    group.join(request.clone(), new_id.clone(), replier, context, effects);
                }
            });
            let Some(((), write)) = joined else { continue };
            shard.forget(&cell, Group::is_void);
            // Whom a failure concerns is told by the answer.
            return write.map_or(Ok(()), |write| self.write(&shard, &cell, write));
        }
    }

    fn try_sync(&self, request: SyncRequest, asking: &mut Option<Replier<Assigned>>) -> Result<()> {
        let GroupMetadata { group, member_id, .. } = &request.member;
        let Some((shard, cell)) = self.known(group)? else { return Err(unknown_member(group, member_id)) };
        let ((), write) = self.change(&cell, |group, context, effects| {
            if let Some(replier) = asking.take() {
                group.sync(request, replier, context, effects);
            }
        });
        write.map_or(Ok(()), |write| self.write(&shard, &cell, write))
    }

    fn find_described<T>(&self, group: &str, describe: impl FnOnce(&Group) -> T) -> Result<T> {
        let unknown = || Error::UnknownGroup { group: group.to_owned() };
        let (_, cell) = self.known(group)?.ok_or_else(unknown)?;
        let known = cell.group.lock();
        if known.state == GroupState::Dead || known.is_void() {
            return Err(unknown());
        }
        Ok(describe(&known))
    }

    /// Looks at all groups for what is due. Returns what is to be brought about.
    fn look(&self, shards: &Shards) -> Vec<(Arc<Shard>, Arc<Cell>, Effects)> {
        let _one_at_a_time = self.looking.lock();
        let context = self.context();
        let now = nanos(context.now);
        if self.due.load(Ordering::SeqCst) > now {
            return Vec::new();
        }
        // Whatever becomes due from here on is noted by who makes it so.
        self.due.store(u64::MAX, Ordering::SeqCst);
        let mut changed = Vec::new();
        for shard in &shards.all {
            for cell in shard.cells() {
                let (next, effects) = self.change_locked(cell.group.lock(), &context, Group::tick);
                if let Some(next) = next {
                    self.due.fetch_min(nanos(next), Ordering::SeqCst);
                }
                shard.forget(&cell, Group::is_void);
                if !effects.is_empty() {
                    changed.push((Arc::clone(shard), cell, effects));
                }
            }
        }
        changed
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Shards {
    fn new(topic: Topic) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let shard = |number| Shard::new(topic.clone(), number, Arc::clone(&count));
        let all = (0..topic.partition_count()).map(shard).collect();
        Shards { topic, all }
    }
}

impl fmt::Debug for LocalGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalGroups").field("config", &self.config).finish_non_exhaustive()
    }
}

/// An answer, unless it was given already.
fn answer<T>(asking: Option<Replier<T>>, failed: Result<()>) {
    if let (Some(replier), Err(error)) = (asking, failed) {
        replier.send(Err(error));
    }
}

impl GroupCoordinator for LocalGroups {
    fn join(&self, request: JoinRequest) -> Reply<Joined> {
        let (replier, reply) = Reply::pair();
        let mut asking = Some(replier);
        let failed = self.try_join(request, &mut asking);
        answer(asking, failed);
        reply
    }

    fn sync(&self, request: SyncRequest) -> Reply<Assigned> {
        let (replier, reply) = Reply::pair();
        let mut asking = Some(replier);
        let failed = self.try_sync(request, &mut asking);
        answer(asking, failed);
        reply
    }

    fn heartbeat(&self, member: &GroupMetadata) -> Result<()> {
        let unknown = || unknown_member(&member.group, &member.member_id);
        let (_, cell) = self.known(&member.group)?.ok_or_else(unknown)?;
        let (beaten, _) = self.change(&cell, |group, context, _| group.heartbeat(member, context));
        beaten
    }

    fn leave(&self, member: &GroupMetadata, keep_for: Option<Duration>) -> Result<()> {
        let unknown = || unknown_member(&member.group, &member.member_id);
        let (shard, cell) = self.known(&member.group)?.ok_or_else(unknown)?;
        let (left, write) =
            self.change(&cell, |group, context, effects| group.leave(member, keep_for, context, effects));
        left?;
        shard.forget(&cell, Group::is_void);
        if let Some(write) = write {
            // It is out, whatever becomes of that; a tick tries again.
            let _ = self.write(&shard, &cell, write);
        }
        Ok(())
    }

    fn commit(&self, member: &GroupMetadata, offsets: &[OffsetCommit]) -> Result<()> {
        self.commit_as(member, None, offsets)
    }

    fn commit_in_transaction(
        &self,
        member: &GroupMetadata,
        producer_id: i64,
        producer_epoch: i16,
        offsets: &[OffsetCommit],
    ) -> Result<()> {
        self.commit_as(member, Some((producer_id, producer_epoch)), offsets)
    }

    fn offsets_partition(&self, group: &str) -> Result<Option<TopicPartition>> {
        Ok(self.shard(group, true)?.map(|shard| shard.id()))
    }

    fn transaction_ended(&self, partition: &TopicPartition, producer_id: i64, committed: bool) -> Result<()> {
        self.end_transaction(partition, producer_id, committed)
    }

    fn committed(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        stable: bool,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>> {
        let Some((_, cell)) = self.known(group)? else { return Ok(BTreeMap::new()) };
        let among: Option<BTreeSet<&TopicPartition>> = partitions.map(|wanted| wanted.iter().collect());
        let wanted =
            |partition: &&TopicPartition| among.as_ref().is_none_or(|among| among.contains(partition));
        let known = cell.group.lock();
        if let Some(pending) = stable.then(|| known.offsets.pending().find(wanted)).flatten() {
            let (group, partition) = (group.to_owned(), pending.to_string());
            return Err(Error::UnstableOffsets { group, partition });
        }
        let own =
            |(partition, committed): (&TopicPartition, &Committed)| (partition.clone(), committed.clone());
        let found: Vec<(TopicPartition, Committed)> = match partitions {
            None => known.offsets.iter().map(own).collect(),
            Some(wanted) => {
                wanted.iter().filter_map(|wanted| Some(own((wanted, known.offsets.get(wanted)?)))).collect()
            }
        };
        drop(known);
        // What was committed of a topic that is deleted says nothing of another one with its name.
        let current = |(partition, committed): &(TopicPartition, Committed)| {
            self.is_current(&partition.topic, committed.topic_id)
        };
        let position = |(partition, committed): (TopicPartition, Committed)| (partition, committed.position);
        Ok(found.into_iter().filter(current).map(position).collect())
    }

    fn list(&self) -> Result<Vec<GroupListing>> {
        let Some(shards) = self.shards(false)? else { return Ok(Vec::new()) };
        let mut listed = Vec::new();
        for shard in &shards.all {
            self.load(shard)?;
            for cell in shard.cells() {
                let group = cell.group.lock();
                if group.state != GroupState::Dead && !group.is_void() {
                    listed.push(group.listing());
                }
            }
        }
        listed.sort_by(|one, other| one.group.cmp(&other.group));
        Ok(listed)
    }

    fn describe(&self, group: &str) -> Result<GroupDescription> {
        self.find_described(group, Group::description)
    }

    fn delete(&self, group: &str) -> Result<()> {
        self.delete_group(group)
    }

    fn delete_offsets(&self, group: &str, partitions: &[TopicPartition]) -> Result<()> {
        self.remove_offsets(group, partitions)
    }

    fn tick(&self) -> Result<Duration> {
        let shards = match self.shards(false) {
            Ok(shards) => shards,
            Err(error) => {
                // The store is closed: who waits here would wait for ever.
                let left = self.shards.lock().take();
                drop(left);
                return Err(error);
            }
        };
        let mut failed = Ok(());
        if let Some(shards) = &shards {
            // Nobody is told later because the disk is being waited for.
            let told =
                self.look(shards).into_iter().map(|(shard, cell, effects)| (shard, cell, effects.deliver()));
            for (shard, cell, write) in told.collect::<Vec<_>>() {
                let Some(write) = write else { continue };
                match self.write(&shard, &cell, write) {
                    // Whoever opens it for writing will write it down.
                    Ok(()) | Err(Error::ReadOnly { .. }) => {}
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
        }
        let mut due = self.retain(shards.as_deref(), &mut failed);
        if shards.is_some() {
            due = due.min(Duration::from_nanos(self.due.load(Ordering::SeqCst)));
        }
        failed.map(|()| due.saturating_sub(self.context().now))
    }
}

impl Attendant for LocalGroups {
    fn attend(&self) -> Result<()> {
        self.tick().map(|_| ())
    }
}
