//! [`Journal`]: one partition of `__share_group_state`, and what is written there about each share group's progress on
//! each partition.
//!
//! Who commits puts its partitions into the next round and waits, for its end or for the right to write. The first to
//! get that writes for everybody in the round: one append, one sync. All writes of a key are in the order in which
//! they were begun, and none is begun before the one before has ended, so that what the log says last is what happened
//! last.
//!
//! A write that failed may be on disk, and be what the next process finds: it says what consumers had said, so no
//! record is lost by it. It never comes before another write, though: the log takes none before it was reopened, which
//! the next write sees to, and which cuts what was not acknowledged. So a word that is written later need not
//! contradict it.
//!
//! Updates say what changed since the last snapshot, so unlike the topics of other coordinators this one is not
//! compacted: compaction would keep the last update alone. What lies below the snapshots of all keys is deleted
//! instead, as in Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::spans::Spans;
use super::words::StateUpdate;
use crate::clock::Clock;
use crate::error::{Error, FormatError, Result};
use crate::format::{
    DeliveryState, Record, RecordView, ShareRecordKey, ShareSnapshot, ShareStateKey, ShareUpdate, StateBatch,
};
use crate::partition::Partition;

/// After so many updates of a key comes a snapshot (`share.coordinator.snapshot.update.records.per.snapshot`).
const UPDATES_PER_SNAPSHOT: u32 = 500;

/// A key whose snapshot lies so far behind gets a new one, so that what lies between can go.
const COLD_RECORDS: u64 = 10_000;

/// The log start is raised by so many records at least.
const PRUNE_RECORDS: u64 = 1_000;

/// About so many bytes go into one append.
const APPEND_BYTES: usize = 256 << 10;

/// The leader epoch that is written: this log has no other leaders.
const LEADER_EPOCH: i32 = 0;

/// Something whose changes are to be written down.
pub(super) trait Source: Send + Sync {
    /// Whose progress it is.
    fn key(&self) -> &ShareStateKey;
    /// Begins to write down what has changed; `None` if nothing has.
    fn begin_write(&self) -> Option<StateUpdate>;
    /// Ends that.
    fn end_write(&self, written: bool);
}

/// How far a group is on a partition, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// Everything below it is finished; `None` if a broker has not found out yet where to begin.
    pub(super) start: Option<u64>,
    /// States from there on.
    pub(super) batches: Vec<StateBatch>,
}

/// What became of a commit.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// What could not be written, and is as before.
    pub(super) unwritten: BTreeSet<ShareStateKey>,
    /// Why; unless it was somebody else who tried: then one may try oneself.
    pub(super) error: Option<Error>,
}

/// One partition of `__share_group_state`.
pub(super) struct Journal {
    log: Partition,
    clock: Arc<dyn Clock>,
    book: Mutex<Book>,
    gathering: Mutex<Gathering>,
    /// Told when somebody has ended writing.
    ended: Condvar,
}

/// What the log says.
#[derive(Default)]
struct Book {
    entries: BTreeMap<ShareStateKey, Entry>,
    /// Whether a write has failed such that only the log knows what is in it.
    stale: bool,
}

struct Entry {
    image: Image,
    snapshot_epoch: i32,
    state_epoch: i32,
    created: i64,
    /// How many updates there were since the snapshot.
    updates: u32,
    /// The offset of the snapshot.
    snapshot_offset: u64,
}

/// A progress with its states by offset.
#[derive(Debug, Clone, Default)]
struct Image {
    start: Option<u64>,
    states: Spans<(DeliveryState, u16)>,
    complete: Option<u32>,
}

/// Those who want something written with the next round.
#[derive(Default)]
struct Gathering {
    round: Arc<Round>,
    sources: Vec<Arc<dyn Source>>,
    /// Whether somebody writes.
    writing: bool,
}

/// What was not written of a round, once it is over.
#[derive(Default)]
struct Round(Mutex<Option<BTreeSet<ShareStateKey>>>);

/// The right to write, which one has at a time. Those who wait do so for the end of any write, not for this right:
/// it may have been theirs, and then they need not queue behind whoever writes next.
struct Turn<'a>(&'a Journal);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.gathering.lock().writing = false;
        self.0.ended.notify_all();
    }
}

/// A round under way. However it ends, everybody in it is told.
struct Writing {
    round: Arc<Round>,
    /// What has not been begun.
    waiting: Vec<Arc<dyn Source>>,
    /// What was begun and has not ended.
    begun: Vec<(Arc<dyn Source>, StateUpdate)>,
}

impl Writing {
    /// The keys of what is not written.
    fn unwritten(&self) -> BTreeSet<ShareStateKey> {
        let begun = self.begun.iter().map(|(source, _)| source);
        begun.chain(&self.waiting).map(|source| source.key().clone()).collect()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let unwritten = self.unwritten();
        for (source, _) in self.begun.drain(..) {
            source.end_write(false);
        }
        // What was to be written by this round is not to be written by a later one, of which nobody would hear.
        for source in self.waiting.drain(..) {
            if source.begin_write().is_some() {
                source.end_write(false);
            }
        }
        *self.round.0.lock() = Some(unwritten);
    }
}

impl Image {
    fn apply(&mut self, start: Option<u64>, batches: &[StateBatch], complete: Option<u32>) {
        for batch in batches {
            self.states.set(batch.first_offset, batch.last_offset, (batch.state, batch.delivery_count));
        }
        self.start = self.start.max(start);
        self.complete = complete;
        let Some(mut start) = self.start else { return };
        self.states.clear_below(start);
        // What is finished from the start on belongs below it.
        while let Some(span) = self.states.at(start).filter(|span| span.value.0 != DeliveryState::Available) {
            self.states.clear(span.first, span.last);
            start = span.last + 1;
        }
        self.start = Some(start);
    }

    fn batches(&self) -> Vec<StateBatch> {
        let batch = |span: super::spans::Span<(DeliveryState, u16)>| StateBatch {
            first_offset: span.first,
            last_offset: span.last,
            state: span.value.0,
            delivery_count: span.value.1,
        };
        self.states.iter().map(batch).collect()
    }
}

impl Entry {
    fn snapshot(&self, snapshot_epoch: i32, now: i64) -> ShareSnapshot {
        ShareSnapshot {
            snapshot_epoch,
            state_epoch: self.state_epoch,
            leader_epoch: LEADER_EPOCH,
            start_offset: self.image.start,
            create_timestamp: self.created,
            write_timestamp: now,
            batches: self.image.batches(),
            delivery_complete_count: self.image.complete,
        }
    }
}

impl Book {
    /// What a record of the log does to it.
    fn replay(&mut self, record: &RecordView<'_>) -> Result<(), FormatError> {
        match ShareRecordKey::parse(record.key().unwrap_or_default())? {
            Some(ShareRecordKey::Snapshot(key)) => match record.value() {
                Some(value) => self.replay_snapshot(key, record.offset(), ShareSnapshot::parse(value)?),
                None => {
                    self.entries.remove(&key);
                }
            },
            Some(ShareRecordKey::Update(key)) => {
                let Some(value) = record.value() else { return Ok(()) };
                self.replay_update(key, record.offset(), &ShareUpdate::parse(value)?);
            }
            // Of a later version.
            None => {}
        }
        Ok(())
    }

    fn replay_snapshot(&mut self, key: ShareStateKey, offset: u64, snapshot: ShareSnapshot) {
        let mut image = Image::default();
        image.apply(snapshot.start_offset, &snapshot.batches, snapshot.delivery_complete_count);
        let entry = Entry {
            image,
            snapshot_epoch: snapshot.snapshot_epoch,
            state_epoch: snapshot.state_epoch,
            created: snapshot.create_timestamp,
            updates: 0,
            snapshot_offset: offset,
        };
        self.entries.insert(key, entry);
    }

    fn replay_update(&mut self, key: ShareStateKey, offset: u64, update: &ShareUpdate) {
        // Its snapshot should be there. If it is not, the update is all that is known.
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            image: Image::default(),
            snapshot_epoch: update.snapshot_epoch,
            state_epoch: 0,
            created: 0,
            updates: UPDATES_PER_SNAPSHOT,
            snapshot_offset: offset,
        });
        entry.image.apply(update.start_offset, &update.batches, update.delivery_complete_count);
        entry.updates = entry.updates.saturating_add(1);
    }
}

impl Journal {
    /// Reads what the partition says.
    pub(super) fn open(log: Partition, clock: Arc<dyn Clock>) -> Result<Journal> {
        let journal = Journal {
            log,
            clock,
            book: Mutex::default(),
            gathering: Mutex::default(),
            ended: Condvar::new(),
        };
        journal.load()?;
        Ok(journal)
    }

    /// What is written down for a key.
    pub(super) fn progress(&self, key: &ShareStateKey) -> Option<Progress> {
        let book = self.book.lock();
        let image = &book.entries.get(key)?.image;
        Some(Progress { start: image.start, batches: image.batches() })
    }

    /// All keys for which something is written down.
    pub(super) fn keys(&self) -> Vec<ShareStateKey> {
        self.book.lock().entries.keys().cloned().collect()
    }

    /// Writes down what has changed; returns once it is durable.
    pub(super) fn commit(&self, sources: &[Arc<dyn Source>]) -> Committed {
        let mut gathering = self.gathering.lock();
        gathering.sources.extend(sources.iter().map(Arc::clone));
        let round = Arc::clone(&gathering.round);
        loop {
            if let Some(unwritten) = round.0.lock().as_ref() {
                // Somebody else has written for us, or failed to.
                let ours = sources.iter().map(|source| source.key()).filter(|key| unwritten.contains(*key));
                return Committed { unwritten: ours.cloned().collect(), error: None };
            }
            if !gathering.writing {
                break;
            }
            self.ended.wait(&mut gathering);
        }
        let mut gathered =
            std::mem::replace(&mut *gathering, Gathering { writing: true, ..Gathering::default() }).sources;
        drop(gathering);
        let _turn = Turn(self);
        gathered.sort_by(|left, right| left.key().cmp(right.key()));
        gathered.dedup_by(|left, right| left.key() == right.key());
        let mut writing = Writing { round, waiting: gathered, begun: Vec::new() };
        let error = self.write(&mut writing).err();
        let failed = writing.unwritten();
        drop(writing);
        let ours = sources.iter().map(|source| source.key()).filter(|key| failed.contains(*key));
        Committed { unwritten: ours.cloned().collect(), error }
    }

    /// Waits for the right to write.
    fn turn(&self) -> Turn<'_> {
        let mut gathering = self.gathering.lock();
        while gathering.writing {
            self.ended.wait(&mut gathering);
        }
        gathering.writing = true;
        Turn(self)
    }

    /// Writes what a round has, some at a time.
    fn write(&self, writing: &mut Writing) -> Result<()> {
        self.load_if_stale()?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(source) = writing.waiting.pop() {
            let Some(update) = source.begin_write() else { continue };
            let key = source.key().clone();
            writing.begun.push((source, update.clone()));
            let record = self.encode(&key, &update)?;
            bytes += record.key.len() + record.value.as_ref().map_or(0, Vec::len);
            records.push(record);
            if bytes >= APPEND_BYTES {
                let base_offset = self.append(&records)?;
                self.end(base_offset, &records, writing);
                (records, bytes) = (Vec::new(), 0);
            }
        }
        if !records.is_empty() {
            let base_offset = self.append(&records)?;
            self.end(base_offset, &records, writing);
        }
        Ok(())
    }

    /// The records are durable: they are in the book, and those who wanted them written are told.
    fn end(&self, base_offset: u64, records: &[Encoded], writing: &mut Writing) {
        let mut book = self.book.lock();
        for (((source, update), record), offset) in writing.begun.drain(..).zip(records).zip(base_offset..) {
            if let Some(entry) = book.entries.get_mut(source.key()) {
                entry.image.apply(
                    Some(update.start_offset),
                    &update.batches,
                    complete(update.delivery_complete_count),
                );
                entry.updates += 1;
                if let Some(snapshot_epoch) = record.snapshot_epoch {
                    (entry.snapshot_epoch, entry.updates) = (snapshot_epoch, 0);
                    entry.snapshot_offset = offset;
                }
            }
            source.end_write(true);
        }
    }

    /// The record that says what has changed: an update or, from time to time, a snapshot.
    fn encode(&self, key: &ShareStateKey, update: &StateUpdate) -> Result<Encoded> {
        let book = self.book.lock();
        let missing = || Error::UnknownGroup { group: key.group.clone() };
        let entry = book.entries.get(key).ok_or_else(missing)?;
        let (start, count) = (Some(update.start_offset), complete(update.delivery_complete_count));
        if entry.updates < UPDATES_PER_SNAPSHOT {
            let value = ShareUpdate {
                snapshot_epoch: entry.snapshot_epoch,
                leader_epoch: LEADER_EPOCH,
                start_offset: start,
                batches: update.batches.clone(),
                delivery_complete_count: count,
            };
            let value = value.encode().map_err(invalid)?;
            return Encoded::new(&ShareRecordKey::Update(key.clone()), Some(value), None);
        }
        let mut image = entry.image.clone();
        image.apply(start, &update.batches, count);
        let epoch = entry.snapshot_epoch.wrapping_add(1);
        let after = Entry { image, ..*entry };
        let value = after.snapshot(epoch, self.clock.now()).encode().map_err(invalid)?;
        Encoded::new(&ShareRecordKey::Snapshot(key.clone()), Some(value), Some(epoch))
    }

    /// Sets a group's progress on a partition, whatever it was. `progress` is asked when nobody else writes.
    pub(super) fn set(&self, key: &ShareStateKey, progress: impl FnOnce() -> Progress) -> Result<()> {
        let _turn = self.turn();
        self.load_if_stale()?;
        let Progress { start, batches } = progress();
        let now = self.clock.now();
        let mut image = Image::default();
        image.apply(start, &batches, start.map(|_| 0));
        let (snapshot_epoch, state_epoch) = {
            let book = self.book.lock();
            let before = book.entries.get(key);
            before.map_or((0, 0), |entry| {
                (entry.snapshot_epoch.wrapping_add(1), entry.state_epoch.wrapping_add(1))
            })
        };
        let mut entry =
            Entry { image, snapshot_epoch, state_epoch, created: now, updates: 0, snapshot_offset: 0 };
        let value = entry.snapshot(snapshot_epoch, now).encode().map_err(invalid)?;
        let record = Encoded::new(&ShareRecordKey::Snapshot(key.clone()), Some(value), Some(snapshot_epoch))?;
        entry.snapshot_offset = self.append(&[record])?;
        self.book.lock().entries.insert(key.clone(), entry);
        Ok(())
    }

    /// Forgets keys.
    pub(super) fn delete(&self, keys: &[ShareStateKey]) -> Result<()> {
        let _turn = self.turn();
        self.load_if_stale()?;
        for some in keys.chunks(1_000) {
            let tombstone =
                |key: &ShareStateKey| Encoded::new(&ShareRecordKey::Snapshot(key.clone()), None, None);
            let records = some.iter().map(tombstone).collect::<Result<Vec<_>>>()?;
            self.append(&records)?;
            let mut book = self.book.lock();
            some.iter().for_each(|key| {
                book.entries.remove(key);
            });
        }
        Ok(())
    }

    /// Lets go what lies below all snapshots, once that is worth it, and keys that nobody can want any more:
    /// `unwanted` says which of those there are.
    pub(super) fn prune(
        &self,
        unwanted: impl FnOnce(Vec<ShareStateKey>) -> Result<Vec<ShareStateKey>>,
    ) -> Result<()> {
        if self.log.log_end().saturating_sub(self.log.log_start()) < PRUNE_RECORDS {
            return Ok(());
        }
        self.delete(&unwanted(self.keys())?)?;
        let _turn = self.turn();
        self.load_if_stale()?;
        self.renew_cold_snapshots()?;
        let needed = {
            let book = self.book.lock();
            let offsets = book.entries.values().map(|entry| entry.snapshot_offset);
            offsets.min().unwrap_or_else(|| self.log.log_end())
        };
        if needed.saturating_sub(self.log.log_start()) >= PRUNE_RECORDS {
            self.log.delete_records(needed)?;
        }
        Ok(())
    }

    fn renew_cold_snapshots(&self) -> Result<()> {
        let (end, now) = (self.log.log_end(), self.clock.now());
        let cold: Vec<_> = {
            let book = self.book.lock();
            let cold = book.entries.iter().filter(|(_, entry)| end - entry.snapshot_offset > COLD_RECORDS);
            cold.map(|(key, entry)| {
                let epoch = entry.snapshot_epoch.wrapping_add(1);
                (key.clone(), entry.snapshot(epoch, now))
            })
            .collect()
        };
        for (key, snapshot) in cold {
            let value = snapshot.encode().map_err(invalid)?;
            let epoch = snapshot.snapshot_epoch;
            let record = Encoded::new(&ShareRecordKey::Snapshot(key.clone()), Some(value), Some(epoch))?;
            let offset = self.append(&[record])?;
            if let Some(entry) = self.book.lock().entries.get_mut(&key) {
                (entry.snapshot_epoch, entry.updates, entry.snapshot_offset) = (epoch, 0, offset);
            }
        }
        Ok(())
    }

    /// Appends records as one batch. Returns the offset of the first.
    fn append(&self, records: &[Encoded]) -> Result<u64> {
        let batch: Vec<Record<'_>> = records.iter().map(Encoded::record).collect();
        match self.log.with_reopen(|| self.log.append_batch(&batch)) {
            Ok(appended) => Ok(appended.base_offset),
            Err(error) => {
                // If there is no room, it is known that nothing was written.
                self.book.lock().stale |= !matches!(error, Error::StorageFull { .. });
                Err(error)
            }
        }
    }

    fn load_if_stale(&self) -> Result<()> {
        if self.book.lock().stale { self.load() } else { Ok(()) }
    }

    fn load(&self) -> Result<()> {
        let mut loaded = Book::default();
        self.log.replay(false, |header, record| {
            let replayed = if header.control { Ok(()) } else { loaded.replay(record) };
            replayed.map_err(|error| Error::InvalidState {
                action: "read the progress of share groups",
                reason: format!("record {} of {} does not decode: {error}", record.offset(), self.log.id()),
            })
        })?;
        *self.book.lock() = loaded;
        Ok(())
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("partition", self.log.id()).finish_non_exhaustive()
    }
}

/// A record ready to be appended.
struct Encoded {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    /// Its epoch, if it is a snapshot.
    snapshot_epoch: Option<i32>,
}

impl Encoded {
    fn new(key: &ShareRecordKey, value: Option<Vec<u8>>, snapshot_epoch: Option<i32>) -> Result<Self> {
        Ok(Encoded { key: key.encode().map_err(invalid)?, value, snapshot_epoch })
    }

    fn record(&self) -> Record<'_> {
        let record = match &self.value {
            Some(value) => Record::new(value),
            None => Record::tombstone(),
        };
        record.key(&self.key)
    }
}

fn invalid(source: FormatError) -> Error {
    Error::InvalidBatch { source }
}

fn complete(count: u64) -> Option<u32> {
    u32::try_from(count).ok()
}
