//! [`TransactionCoordinator`]: who may begin, widen and end a transaction, and what each call changes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::config::TransactionConfig;
use super::entry::{Entry, Known, Moment, Taken, Turn};
use super::log::{StateLog, TRANSACTION_STATE, topic_config};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::format::transaction_records::{TransactionState, TransactionValue};
use crate::group::{GroupCoordinator, LocalGroups};
use crate::partition::Durability;
use crate::topic::{Attendant, Store, StoreHandle};
use crate::types::{TopicPartition, check_id};

/// The last epoch that a producer is given: after it, a transactional id gets another producer id. The one behind it is
/// kept for fencing this one off.
const EPOCH_EXHAUSTED: i16 = i16::MAX - 1;

/// Coordinates the transactions of a store: hands out producer ids and epochs, knows which partitions a transaction
/// writes to, decides whether it is committed or aborted, and tells every partition. Made by [`Store::transactions`];
/// there is one of each store.
///
/// What it knows is in the topic `__transaction_state`, in the schema of Kafka's broker. A transaction is committed
/// once that is written down there, on disk, before any partition hears of it: from then on it is committed
/// everywhere, whatever crashes. Each of its partitions then gets a marker, which is on disk, too, before the
/// transaction is said to be complete.
///
/// What a failure or a crash interrupts between decision and completion is finished as soon as the store's coordinator
/// is asked for after opening it (creating a producer or a consumer does that), by the next call that concerns the
/// transactional id, and by each [`tick`](Self::tick), hence each [`Store::maintain`]. Until then readers of committed
/// data wait at the transaction: a program that reads partitions without a consumer should call
/// [`Store::transactions`] once after opening a store that may hold transactions.
///
/// A transaction that is open is aborted when its producer's timeout has passed, or when its transactional id gets a
/// new producer; opening a store alone ends none, since the producer may be elsewhere. Transactions of
/// [`AppendOptions::transactional`](crate::AppendOptions::transactional) that it was never told of are left alone
/// ([`find_hanging`](Self::find_hanging) lists them).
///
/// Applications use it through producers. For those who build one:
///
/// ```
/// use std::time::Duration;
/// use annals::{AppendOptions, Isolation, Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let log = store.create_topic("payments", TopicConfig::new())?.partition(0)?;
/// let transactions = store.transactions()?;
///
/// let producer = transactions.init_producer("billing", Duration::from_secs(60))?;
/// transactions.add_partitions("billing", producer, &[log.id().clone()])?;
/// let options = AppendOptions::new().transactional(producer.id, producer.epoch, 0);
/// log.append_batch_with(&[Record::new("10 EUR")], options)?;
/// assert_eq!(log.read_from_with(0, Isolation::ReadCommitted)?.count(), 0);
///
/// transactions.end("billing", producer, true)?;
/// assert_eq!(log.read_from_with(0, Isolation::ReadCommitted)?.count(), 1);
/// # Ok::<(), annals::Error>(())
/// ```
pub struct TransactionCoordinator {
    pub(super) store: StoreHandle,
    groups: RwLock<Option<Arc<dyn GroupCoordinator>>>,
    config: RwLock<TransactionConfig>,
    log: Mutex<Option<Arc<StateLog>>>,
    begun: AtomicBool,
}

/// A producer, and which incarnation of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerIdAndEpoch {
    /// Its id.
    pub id: i64,
    /// Its epoch: whoever comes with an older one is refused.
    pub epoch: i16,
}

/// The turn with one transactional id, until it is dropped.
pub(super) struct Held<'a> {
    pub(super) coordinator: &'a TransactionCoordinator,
    pub(super) log: Arc<StateLog>,
    pub(super) id: &'a str,
    entry: Arc<Entry>,
    /// `None` for an id that is new.
    pub(super) known: Option<Known>,
}

impl Store {
    /// The coordinator of the store's transactions. The first call after opening the store finishes what a crash
    /// interrupted; what of that fails is tried again by [`maintain`](Store::maintain), which reports it.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn transactions(&self) -> Result<Arc<TransactionCoordinator>> {
        let store = self.weak_handle();
        let coordinator = store.extension(|| TransactionCoordinator::new(store.clone()))?;
        if !coordinator.begun.swap(true, Ordering::AcqRel) {
            let attendant = Arc::downgrade(&coordinator);
            store.attend(attendant)?;
            // Whoever needs what could not be finished is told so by his own call.
            let _ = coordinator.tick();
        }
        Ok(coordinator)
    }
}

impl TransactionCoordinator {
    fn new(store: StoreHandle) -> Self {
        TransactionCoordinator {
            store,
            groups: RwLock::default(),
            config: RwLock::new(TransactionConfig::new()),
            log: Mutex::default(),
            begun: AtomicBool::new(false),
        }
    }

    /// Changes its settings, from now on.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for one that is 0.
    pub fn configure(&self, config: TransactionConfig) -> Result<()> {
        config.check()?;
        *self.config.write() = config;
        Ok(())
    }

    /// Has it work with another coordinator of groups than the store's own ([`Store::groups`]): the one through which
    /// offsets are committed in transactions, and which hears when such a transaction ends. To be called before any is
    /// begun.
    pub fn set_groups(&self, groups: Arc<dyn GroupCoordinator>) {
        *self.groups.write() = Some(groups);
    }

    /// The coordinator of groups that it works with.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub fn groups(&self) -> Result<Arc<dyn GroupCoordinator>> {
        match self.groups.read().clone() {
            Some(groups) => Ok(groups),
            None => Ok(LocalGroups::of(&self.store)?),
        }
    }

    /// The same, unless nobody has used groups yet: then there is nobody to be told of anything.
    pub(super) fn groups_in_use(&self) -> Result<Option<Arc<dyn GroupCoordinator>>> {
        match self.groups.read().clone() {
            Some(groups) => Ok(Some(groups)),
            None => Ok(self.store.kept::<LocalGroups>()?.map(|groups| groups as _)),
        }
    }

    /// A new producer without a transactional id: one that does not write twice what it sends again, and has no
    /// transactions.
    ///
    /// # Errors
    /// As the id cannot be written down.
    pub fn init_idempotent(&self) -> Result<ProducerIdAndEpoch> {
        Ok(ProducerIdAndEpoch { id: self.new_producer_id()?, epoch: 0 })
    }

    fn new_producer_id(&self) -> Result<i64> {
        if let Some(log) = self.state_log(false)? {
            for shard in &log.shards {
                // The ids in it are avoided once it is read. One that cannot be read keeps nobody from the others.
                let _ = shard.read(&log, &self.store);
            }
        }
        self.store.producer_id()
    }

    /// The producer of a transactional id from now on (Kafka's `InitProducerId`): the one before, if there was one, is
    /// fenced off by a greater epoch, and what it left open is aborted, or committed if that was decided. `timeout` is
    /// how long its transactions may be open.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for the transactional id, [`Error::InvalidConfig`] for the timeout, [`Error::TooLarge`]
    /// if there are too many ids already; otherwise as an append fails, and then nothing is known to have changed: ask
    /// again.
    pub fn init_producer(&self, transactional_id: &str, timeout: Duration) -> Result<ProducerIdAndEpoch> {
        check_id("transactional id", transactional_id)?;
        let timeout_ms = self.config.read().timeout_ms(timeout)?;
        let mut held = self.hold_or_make(transactional_id)?;
        held.retire()?;
        held.begin_incarnation(Some(timeout_ms))
    }

    /// A greater epoch for the producer that a transactional id has, after aborting what it has open: for one that does
    /// not know what became of what it sent (Kafka's `InitProducerId` with the producer's own id and epoch). Unlike
    /// [`init_producer`](Self::init_producer), it fences nobody else off.
    ///
    /// # Errors
    /// As [`add_partitions`](Self::add_partitions), but that it waits for other calls.
    pub fn bump_epoch(
        &self,
        transactional_id: &str,
        producer: ProducerIdAndEpoch,
    ) -> Result<ProducerIdAndEpoch> {
        let mut held = self.hold(transactional_id, producer, Turn::Wait)?;
        held.retire()?;
        held.begin_incarnation(None)
    }

    /// Adds partitions to the transaction of a producer, before anything of it is written to them; the first ones begin
    /// it (Kafka's `AddPartitionsToTxn`). They need not exist.
    ///
    /// # Errors
    /// [`Error::InvalidProducerIdMapping`] for another producer than that of the transactional id, or for one that is
    /// not known; [`Error::ProducerFenced`] for another epoch; [`Error::ConcurrentTransactions`] while another call is
    /// at work on it; otherwise as an append fails, and then nothing is added.
    pub fn add_partitions(
        &self,
        transactional_id: &str,
        producer: ProducerIdAndEpoch,
        partitions: &[TopicPartition],
    ) -> Result<()> {
        let mut held = self.hold(transactional_id, producer, Turn::Refuse)?;
        held.finish()?;
        let Some(known) = &held.known else { return Ok(()) };
        let value = &known.value;
        let ongoing = value.state == TransactionState::Ongoing;
        if partitions.iter().all(|partition| value.partitions.contains(partition)) {
            return Ok(());
        }
        let mut next = known.clone();
        next.value.partitions.extend(partitions.iter().cloned());
        if !ongoing {
            next.value.state = TransactionState::Ongoing;
            next.value.started = Some(self.clock().now());
            next.begun = Moment::now(self.clock());
        }
        held.write(next, Durability::Synced)
    }

    /// Adds the offsets of a group to the transaction of a producer, before any is committed in it (Kafka's
    /// `AddOffsetsToTxn`).
    ///
    /// # Errors
    /// As [`add_partitions`](Self::add_partitions); [`Error::InvalidState`] if the group's offsets are not kept in this
    /// store, so that no transaction of it can commit them.
    pub fn add_offsets(
        &self,
        transactional_id: &str,
        producer: ProducerIdAndEpoch,
        group: &str,
    ) -> Result<()> {
        let elsewhere = || Error::InvalidState {
            action: "commit offsets in a transaction",
            reason: "whoever coordinates the group keeps its offsets elsewhere".into(),
        };
        let partition = self.groups()?.offsets_partition(group)?.ok_or_else(elsewhere)?;
        self.add_partitions(transactional_id, producer, &[partition])
    }

    /// Commits the transaction of a producer, or aborts it (Kafka's `EndTxn`). All that it wrote must have been
    /// acknowledged before.
    ///
    /// A commit that returned is on disk with all its records, whatever the durability of their topics: what is not
    /// synced yet in one of the partitions is synced first, which costs nothing where each append is.
    ///
    /// If it fails after the decision was written down, the decision stands, and is carried out by the next call or
    /// [`tick`](Self::tick); asked again the same, it says how that went. Asked again after it succeeded, it succeeds.
    ///
    /// # Errors
    /// As [`add_partitions`](Self::add_partitions); [`Error::TransactionState`] if there is no transaction, or it was
    /// decided otherwise.
    pub fn end(&self, transactional_id: &str, producer: ProducerIdAndEpoch, commit: bool) -> Result<()> {
        use TransactionState::{CompleteAbort, CompleteCommit, Ongoing, PrepareAbort, PrepareCommit};
        let mut held = self.hold(transactional_id, producer, Turn::Refuse)?;
        match (held.state(), commit) {
            (Some(Ongoing), _) => {
                held.decide(commit, producer.epoch)?;
                held.finish()
            }
            (Some(PrepareCommit), true) | (Some(PrepareAbort), false) => held.finish(),
            (Some(CompleteCommit), true) | (Some(CompleteAbort), false) => Ok(()),
            (state, _) => Err(refused(transactional_id, state, commit)),
        }
    }

    /// Does what is due: carries out what is decided, aborts transactions that have been open for longer than their
    /// timeout, and forgets transactional ids that have not been used for long.
    ///
    /// # Errors
    /// The first failure; the rest is done nevertheless.
    pub fn tick(&self) -> Result<()> {
        let Some(log) = self.state_log(false)? else { return Ok(()) };
        let mut failed = Ok(());
        for shard in &log.shards {
            let due = |id: &Arc<str>, entry: &Arc<Entry>| {
                entry.look(|known| self.due(known)).filter(|due| *due)?;
                Some((Arc::clone(id), Arc::clone(entry)))
            };
            match shard.pick(&log, &self.store, due) {
                Ok(entries) => {
                    for (id, entry) in entries {
                        failed = failed.and(self.look_after(&log, &id, entry));
                    }
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed
    }

    fn look_after(&self, log: &Arc<StateLog>, id: &str, entry: Arc<Entry>) -> Result<()> {
        let taken = match entry.take(id, Turn::Refuse, |_| Ok(())) {
            // Somebody is at it.
            Err(Error::ConcurrentTransactions { .. }) => return Ok(()),
            taken => taken?,
        };
        let Taken::Turn(known) = taken else { return Ok(()) };
        let mut held = Held { coordinator: self, log: Arc::clone(log), id, entry, known };
        match &held.known {
            // It may have changed since.
            Some(known) if !self.due(known) => Ok(()),
            Some(known) if is_over(known.value.state) => held.forget(),
            _ => held.retire(),
        }
    }

    /// Whether something is to be done about an id without anybody asking.
    fn due(&self, known: &Known) -> bool {
        match known.value.state {
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => true,
            TransactionState::Ongoing | TransactionState::PrepareEpochFence => {
                let timeout = Duration::from_millis(known.value.timeout_ms.max(0).unsigned_abs().into());
                known.begun.elapsed(self.clock()) > timeout
            }
            _ => known.written.elapsed(self.clock()) > self.config.read().id_expiration,
        }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &**self.store.clock()
    }

    /// The topic, if it exists or is to be made. One that was deleted and made again begins with nothing.
    pub(super) fn state_log(&self, make: bool) -> Result<Option<Arc<StateLog>>> {
        let mut current = self.log.lock();
        let topic = match self.store.topic(TRANSACTION_STATE) {
            Err(Error::UnknownTopic { .. }) if !make => return Ok(None),
            Err(Error::UnknownTopic { .. }) => {
                let config = topic_config(&self.config.read());
                self.store.topic_or_create(TRANSACTION_STATE, config)?
            }
            found => found?,
        };
        let log = match current.take().filter(|log| log.topic.id() == topic.id()) {
            Some(log) => log,
            None => Arc::new(StateLog::new(topic)),
        };
        Ok(Some(Arc::clone(current.insert(log))))
    }

    /// The turn with an id, for its producer alone.
    fn hold<'a>(&'a self, id: &'a str, producer: ProducerIdAndEpoch, turn: Turn) -> Result<Held<'a>> {
        let unknown =
            || Error::InvalidProducerIdMapping { transactional_id: id.to_owned(), producer_id: producer.id };
        let check = |value: Option<&TransactionValue>| match value {
            Some(value) if value.producer_id != producer.id => Err(unknown()),
            Some(value) if value.producer_epoch != producer.epoch => {
                Err(Error::ProducerFenced { transactional_id: id.to_owned(), producer_epoch: producer.epoch })
            }
            Some(_) => Ok(()),
            None => Err(unknown()),
        };
        self.hold_if(id, None, turn, check)?.ok_or_else(unknown)
    }

    /// The turn with an id, new or not, once it is free.
    fn hold_or_make<'a>(&'a self, id: &'a str) -> Result<Held<'a>> {
        let gone = || Error::Closed { what: TRANSACTION_STATE.into() };
        let limit = self.config.read().ids_max;
        self.hold_if(id, Some(limit), Turn::Wait, |_| Ok(()))?.ok_or_else(gone)
    }

    pub(super) fn hold_if<'a>(
        &'a self,
        id: &'a str,
        make: Option<usize>,
        turn: Turn,
        check: impl Fn(Option<&TransactionValue>) -> Result<()>,
    ) -> Result<Option<Held<'a>>> {
        loop {
            let Some(log) = self.state_log(make.is_some())? else { return Ok(None) };
            let found = log.shard_of(id)?.entry(&log, &self.store, id, make)?;
            let Some(entry) = found else { return Ok(None) };
            match entry.take(id, turn, &check)? {
                Taken::Turn(known) => return Ok(Some(Held { coordinator: self, log, id, entry, known })),
                // Whoever forgot it may not have come to that yet.
                Taken::Forgotten => log.shard_of(id)?.remove(&log, id, &entry),
            }
        }
    }
}

impl Held<'_> {
    pub(super) fn state(&self) -> Option<TransactionState> {
        self.known.as_ref().map(|known| known.value.state)
    }

    /// Gives the id its next producer: the next epoch, or, when there is none left, another producer id.
    pub(super) fn begin_incarnation(&mut self, timeout_ms: Option<i32>) -> Result<ProducerIdAndEpoch> {
        let before = self.known.as_ref().map(|known| &known.value);
        let timeout_ms = timeout_ms.or(before.map(|value| value.timeout_ms)).unwrap_or_default();
        let next = match before {
            Some(value) if value.producer_id >= 0 && value.producer_epoch < EPOCH_EXHAUSTED => {
                ProducerIdAndEpoch { id: value.producer_id, epoch: value.producer_epoch.max(-1) + 1 }
            }
            _ => ProducerIdAndEpoch { id: self.coordinator.new_producer_id()?, epoch: 0 },
        };
        let now = Moment::now(self.coordinator.clock());
        let value = TransactionValue::new(next.id, next.epoch, timeout_ms);
        let known = Known { value, unmarked: BTreeSet::new(), begun: now, written: now };
        self.write(known, Durability::Synced)?;
        Ok(next)
    }

    /// Writes down what is known from now on, after which it takes effect.
    pub(super) fn write(&mut self, mut next: Known, durability: Durability) -> Result<()> {
        let clock = self.coordinator.clock();
        if let Some(before) = self.state().filter(|before| !next.value.state.may_follow(*before)) {
            let reason = format!("it cannot go from {before} to {}", next.value.state);
            return Err(Error::TransactionState { transactional_id: self.id.to_owned(), reason });
        }
        next.value.last_update = clock.now();
        next.written = Moment::now(clock);
        self.log.write(self.id, Some(&next.value), durability)?;
        self.put(Some(next));
        Ok(())
    }

    /// Forgets the id. If that is lost in a crash, it is known once more, and forgotten once more.
    fn forget(&mut self) -> Result<()> {
        self.log.write(self.id, None, Durability::Process)?;
        self.put(None);
        Ok(())
    }

    pub(super) fn put(&mut self, known: Option<Known>) {
        self.entry.set(known.clone());
        self.known = known;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.entry.give_back() {
            if let Ok(shard) = self.log.shard_of(self.id) {
                shard.remove(&self.log, self.id, &self.entry);
            }
        }
    }
}

impl Attendant for TransactionCoordinator {
    fn attend(&self) -> Result<()> {
        self.tick()
    }
}

impl fmt::Debug for TransactionCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionCoordinator").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Whether there is no transaction now.
fn is_over(state: TransactionState) -> bool {
    use TransactionState::{CompleteAbort, CompleteCommit, Dead, Empty};
    matches!(state, Empty | CompleteCommit | CompleteAbort | Dead)
}

fn refused(id: &str, state: Option<TransactionState>, commit: bool) -> Error {
    let action = if commit { "committed" } else { "aborted" };
    let state = state.map_or_else(|| "Dead".into(), |state| state.to_string());
    let reason = format!("nothing can be {action} in state {state}");
    Error::TransactionState { transactional_id: id.to_owned(), reason }
}
