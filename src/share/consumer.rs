//! [`ShareConsumer`]: a member of a share group, as an application uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::config::{AcknowledgementMode, ShareConfig, ShareOffsetReset};
use super::coordinator::ShareCoordinator;
use super::group::{Group, Waiting};
use super::partition::{Budget, SharePartition, Wait};
use super::pending::{Pending, commit};
use super::queue::Next;
use super::record::ShareRecord;
use super::words::Acknowledge;
use crate::error::{Error, Result};
use crate::topic::{Attendant, Store, StoreHandle};
use crate::types::{TopicName, TopicPartition, Uuid};
use crate::wake::{Signal, Wakeup, WakeupHandle};

/// A member of a share group (Kafka's `KafkaShareConsumer`): it gets records that nobody else in the group has, of all
/// partitions of the topics it subscribes to, and says of each what became of it. See [the module](super).
///
/// Dropped without [`close`](Self::close), by a thread that dies for instance, it gives everything back that it has
/// not acknowledged: that is available to others at once.
pub struct ShareConsumer {
    coordinator: Arc<ShareCoordinator>,
    group: Arc<Group>,
    member: u64,
    config: ShareConfig,
    topics: Vec<Subscribed>,
    partitions: Vec<Arc<SharePartition>>,
    /// With which partition the next poll begins.
    turn: usize,
    bell: Arc<Bell>,
    pending: Pending,
    left: bool,
}

#[derive(Debug)]
struct Subscribed {
    name: TopicName,
    id: Uuid,
    partitions: u32,
}

/// What wakes a consumer that waits, whatever it was about.
#[derive(Debug)]
struct Bell {
    signal: Arc<Signal>,
    /// Somebody wants the poll to give up.
    woken: AtomicBool,
}

impl Wakeup for Bell {
    fn wakeup(&self) {
        self.woken.store(true, Ordering::Release);
        self.signal.waker().wake();
    }
}

impl Attendant for Bell {
    fn attend(&self) -> Result<()> {
        Ok(())
    }

    fn topics_changed(&self) {
        self.signal.waker().wake();
    }
}

impl Store {
    /// A new member of a share group.
    ///
    /// # Errors
    /// [`Error::InvalidName`] for a group without a name, [`Error::InvalidConfig`],
    /// [`Error::InconsistentProtocol`] if the group has members with other settings.
    pub fn share_consumer(&self, config: ShareConfig) -> Result<ShareConsumer> {
        ShareConsumer::new(&self.weak_handle(), config)
    }
}

impl ShareConsumer {
    fn new(handle: &StoreHandle, config: ShareConfig) -> Result<Self> {
        config.check()?;
        let coordinator = ShareCoordinator::of(handle)?;
        let bell = Arc::new(Bell { signal: Signal::new(), woken: AtomicBool::new(false) });
        let attendant: Arc<dyn Attendant> = Arc::<Bell>::clone(&bell);
        handle.attend(Arc::downgrade(&attendant))?;
        let (group, member) = coordinator.join(&config.group, config.settings(), &config.client_id)?;
        Ok(ShareConsumer {
            coordinator,
            group,
            member,
            config,
            topics: Vec::new(),
            partitions: Vec::new(),
            // Members begin with different partitions, so that they do not all want the same.
            turn: member as usize,
            bell,
            pending: Pending::default(),
            left: false,
        })
    }

    /// Subscribes to topics, instead of those before. A group that has never been on a topic begins there now, where
    /// [`ShareConfig::offset_reset`] says; partitions that the topic gets later are read from their start.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], and whatever keeps a partition or the group's progress on it from being read. Then the
    /// subscription is what it was.
    pub fn subscribe(&mut self, topics: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
        let (mut subscribed, mut partitions) = (Vec::new(), Vec::new());
        for name in topics {
            let topic = self.coordinator.handle().topic(name.as_ref())?;
            if subscribed.iter().any(|known: &Subscribed| known.name == *topic.name()) {
                continue;
            }
            let opened = self.coordinator.open_all(&self.group, &topic, self.config.offset_reset)?;
            let (name, count) = (topic.name().clone(), opened.len() as u32);
            partitions.extend(opened);
            subscribed.push(Subscribed { name, id: topic.id(), partitions: count });
        }
        self.pending.follow(&partitions);
        (self.topics, self.partitions) = (subscribed, partitions);
        self.tell_subscription();
        Ok(())
    }

    /// Subscribes to nothing.
    pub fn unsubscribe(&mut self) {
        (self.topics, self.partitions) = (Vec::new(), Vec::new());
        self.tell_subscription();
    }

    /// The topics that it subscribes to.
    pub fn subscription(&self) -> BTreeSet<TopicName> {
        self.topics.iter().map(|topic| topic.name.clone()).collect()
    }

    /// Records for this consumer, as soon as there are any; none if there are none within `timeout`. They are locked
    /// for it until it acknowledges them or the lock duration is over.
    ///
    /// First, what was acknowledged is [committed](Self::commit): in implicit mode all records of the poll before, as
    /// accepted. It waits for appends, for records that others give back, for locks to run out, and for partitions that
    /// its topics get; it is woken by each and looks for none.
    ///
    /// # Errors
    /// [`Error::Woken`] after a [wakeup](WakeupHandle::wakeup). [`Error::InvalidState`] if it subscribes to nothing.
    /// As an append fails, if what was acknowledged cannot be written; it is kept, and tried again by the next call.
    /// As a read fails; damage comes as an error once nothing else is to be had, and
    /// [`skip_damage`](Self::skip_damage) goes on behind it.
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<ShareRecord>> {
        if self.topics.is_empty() {
            let reason = "it subscribes to nothing; call subscribe".into();
            return Err(Error::InvalidState { action: "poll a share consumer", reason });
        }
        self.commit_pending()?;
        let deadline = self.now().saturating_add(timeout);
        let mut waits = Vec::new();
        let group = Arc::clone(&self.group);
        let mut listening: Option<Waiting<'_>> = None;
        loop {
            if self.bell.woken.swap(false, Ordering::AcqRel) {
                return Err(Error::Woken);
            }
            self.follow_topics()?;
            waits.clear();
            let records = self.look(&mut waits)?;
            let left = deadline.saturating_sub(self.now());
            if !records.is_empty() || left.is_zero() {
                self.pending.add(&records, &self.partitions);
                if self.config.durable_delivery_count {
                    let counted = self.pending.count_deliveries(self.member, &records);
                    counted.inspect_err(|_| group.notify())?;
                }
                return Ok(records);
            }
            if listening.is_none() {
                // From now on nothing that is given back is missed; what was before is found by another look.
                listening = Some(group.listen(&self.bell.signal.waker()));
                continue;
            }
            self.wait(&waits, left);
        }
    }

    /// The next record, as [`poll`](Self::poll) would return it alone; `None` if there is none within `timeout`.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn next(&mut self, timeout: Duration) -> Result<Option<ShareRecord>> {
        let before = self.config.max_poll_records.replace(1);
        let polled = self.poll(timeout);
        self.config.max_poll_records = before;
        Ok(polled?.pop())
    }

    /// Says what became of a record. It counts once it is committed, by [`commit`](Self::commit),
    /// [`poll`](Self::poll) or [`close`](Self::close); until then another word may replace it.
    /// [`Acknowledge::Renew`] takes effect at once.
    ///
    /// # Errors
    /// [`Error::InvalidState`] in implicit mode. [`Error::InvalidRecordState`] if the record was acknowledged already,
    /// or is not this consumer's; when renewing, if its lock ran out.
    pub fn acknowledge(&mut self, record: &ShareRecord, word: Acknowledge) -> Result<()> {
        if self.config.mode == AcknowledgementMode::Implicit {
            let reason = "the acknowledgement mode is implicit: the next poll accepts all records".into();
            return Err(Error::InvalidState { action: "acknowledge a record", reason });
        }
        let now = self.now();
        self.pending.acknowledge(self.member, record, word, now)
    }

    /// Commits what was acknowledged, in implicit mode all records that were polled. Once it returns, that is as
    /// durable as the store's topics: accepted and rejected records are not delivered again. One append for all
    /// partitions whose progress is kept in the same place, and one sync for all consumers that commit at that time.
    ///
    /// Returns what became of it since the last call, also by polls, by partition. [`Error::InvalidRecordState`] there
    /// names the first record whose lock had run out: it is or was delivered again, maybe to somebody else; the others
    /// of the partition are acknowledged.
    ///
    /// # Errors
    /// As an append fails. What could not be written is kept, and tried again by the next call.
    pub fn commit(&mut self) -> Result<BTreeMap<TopicPartition, Result<()>>> {
        self.commit_pending()?;
        Ok(self.pending.take_outcomes())
    }

    /// Gives up the records that damage keeps from being read, after a poll has reported it: they are archived for
    /// this group, and reading goes on behind them. Returns the partitions, and where it goes on in each.
    ///
    /// # Errors
    /// As an append fails.
    pub fn skip_damage(&mut self) -> Result<Vec<(TopicPartition, u64)>> {
        let mut skipped = Vec::new();
        for partition in &self.partitions {
            let Some(behind) = partition.skip_damage() else { continue };
            skipped.push((partition.id().clone(), behind));
            commit(std::slice::from_ref(partition), |_| {}).map_or(Ok(()), Err)?;
        }
        self.group.notify();
        Ok(skipped)
    }

    /// A handle that wakes it from another thread.
    ///
    /// ```
    /// use std::time::Duration;
    /// use annals::share::ShareConfig;
    /// use annals::{Error, Store, TopicConfig};
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::open(directory.path())?;
    /// store.create_topic("tasks", TopicConfig::new())?;
    /// let mut consumer = store.share_consumer(ShareConfig::new().group("workers"))?;
    /// consumer.subscribe(["tasks"])?;
    /// let handle = consumer.wakeup_handle();
    /// let other = std::thread::spawn(move || handle.wakeup());
    /// assert!(matches!(consumer.poll(Duration::from_secs(3600)), Err(Error::Woken)));
    /// # other.join().unwrap();
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn wakeup_handle(&self) -> WakeupHandle {
        let bell = Arc::clone(&self.bell);
        WakeupHandle::new(bell)
    }

    /// Commits, in implicit mode all records of the last poll as accepted, and leaves the group; what was not
    /// acknowledged is available to others at once.
    ///
    /// # Errors
    /// As an append fails. It has left nevertheless, and what could not be written will be delivered again.
    pub fn close(mut self) -> Result<()> {
        let committed = self.commit_pending();
        let left = self.leave();
        committed.and(left)
    }

    fn now(&self) -> Duration {
        self.coordinator.handle().clock().monotonic()
    }

    fn commit_pending(&mut self) -> Result<()> {
        if self.config.mode == AcknowledgementMode::Implicit {
            self.pending.accept_all();
        }
        if !self.pending.has_words() {
            return Ok(());
        }
        let clock = Arc::clone(self.coordinator.handle().clock());
        let (news, committed) = self.pending.commit(self.member, &*clock);
        if news {
            self.group.notify();
        }
        committed
    }

    fn leave(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.left, true) {
            return Ok(());
        }
        self.coordinator.leave(&self.group, self.member)
    }

    fn tell_subscription(&self) {
        if let Some(member) = self.group.members.lock().get_mut(&self.member) {
            member.topics = self.topics.iter().map(|topic| topic.name.clone()).collect();
        }
    }

    /// Takes in partitions that a topic has got since.
    fn follow_topics(&mut self) -> Result<()> {
        for subscribed in &mut self.topics {
            let topic = self.coordinator.handle().topic(subscribed.name.as_str())?;
            if topic.id() != subscribed.id {
                // Deleted, and made again: another topic, to which nobody has subscribed.
                return Err(Error::UnknownTopic { topic: subscribed.name.to_string() });
            }
            while subscribed.partitions < topic.partition_count() {
                let (number, reset) = (subscribed.partitions, ShareOffsetReset::Earliest);
                self.partitions.push(self.coordinator.open(&self.group, &topic, number, reset)?);
                subscribed.partitions += 1;
            }
        }
        Ok(())
    }

    /// What there is now, and what has to be waited for if that is nothing.
    fn look(&mut self, waits: &mut Vec<(usize, Wait)>) -> Result<Vec<ShareRecord>> {
        let mut budget = Budget { records: self.config.poll_records(), bytes: self.config.fetch_max_bytes };
        self.turn = self.turn.wrapping_add(1);
        if self.config.order.is_some() {
            self.look_by_priority(&mut budget, waits)
        } else {
            self.look_by_offset(&mut budget, waits)
        }
    }

    fn look_by_offset(
        &self,
        budget: &mut Budget,
        waits: &mut Vec<(usize, Wait)>,
    ) -> Result<Vec<ShareRecord>> {
        let (now, count) = (self.now(), self.partitions.len());
        let (mut records, mut failed) = (Vec::new(), Ok(()));
        for step in 0..count {
            let at = self.turn.wrapping_add(step) % count;
            let Some(partition) = self.partitions.get(at).filter(|_| budget.is_left()) else { break };
            match partition.acquire(self.member, now, budget, &mut records) {
                Ok(wait) => waits.push((at, wait)),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        // A partition that cannot be read keeps nobody from the others.
        if records.is_empty() {
            failed?;
        }
        Ok(records)
    }

    fn look_by_priority(
        &self,
        budget: &mut Budget,
        waits: &mut Vec<(usize, Wait)>,
    ) -> Result<Vec<ShareRecord>> {
        let mut records = Vec::new();
        while budget.is_left() {
            waits.clear();
            let found = match self.best(waits) {
                Ok(found) => found,
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(error),
            };
            let Some((partition, next)) = found else { break };
            // If somebody else was quicker, there is another look.
            if let Some(record) = partition.take(self.member, next.record.offset(), self.now()) {
                budget.take(record.record());
                records.push(record);
            }
        }
        Ok(records)
    }

    /// The record that goes first among those of all partitions.
    fn best(&self, waits: &mut Vec<(usize, Wait)>) -> Result<Option<(&Arc<SharePartition>, Next)>> {
        let now = self.now();
        let Some(order) = &self.config.order else { return Ok(None) };
        let (mut best, mut failed) = (None::<(&Arc<SharePartition>, Next)>, Ok(()));
        for (at, partition) in self.partitions.iter().enumerate() {
            match partition.next(now) {
                Ok((next, wait)) => {
                    waits.push((at, wait));
                    let Some(next) = next else { continue };
                    if best.as_ref().is_none_or(|(_, known)| next.goes_before(known, &**order)) {
                        best = Some((partition, next));
                    }
                }
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        if best.is_none() {
            failed?;
        }
        Ok(best)
    }

    /// Sleeps until there may be more, at most for `left`.
    fn wait(&self, waits: &[(usize, Wait)], left: Duration) {
        let waker = self.bell.signal.waker();
        let mut listening = Vec::with_capacity(waits.len());
        let mut sleep = left;
        let now = self.now();
        for (at, wait) in waits {
            let (Some(partition), Some(beyond)) = (self.partitions.get(*at), wait.beyond) else { continue };
            match partition.log().listen(beyond, partition.isolation(), &waker) {
                Some(listens) => listening.push(listens),
                // It is there already.
                None => return,
            }
        }
        for deadline in waits.iter().filter_map(|(_, wait)| wait.deadline) {
            sleep = sleep.min(deadline.saturating_sub(now));
        }
        self.bell.signal.wait(sleep);
    }
}

impl Drop for ShareConsumer {
    fn drop(&mut self) {
        // Nobody is there to hear of a failure; delivery counts that were not written are lost by it, no record.
        let _ = self.leave();
    }
}

impl fmt::Debug for ShareConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareConsumer")
            .field("group", &self.group.name)
            .field("member", &self.member)
            .field("subscription", &self.topics)
            .finish_non_exhaustive()
    }
}
