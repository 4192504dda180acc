//! The thread of a producer: it takes batches that are due, writes them, waits for the disk once for all of them, and
//! tells who wants to know.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::config::Acks;
use super::core::Core;
use super::delivery::Outcome;
use super::queue::{Lane, PartitionQueue, ProducerTopic, Taken};
use super::stats::add;
use crate::error::{Error, ErrorClass, Result};
use crate::format::increment_sequence;
use crate::partition::{AppendOptions, Appended, Isolation, Listening, Partition, ProducerStamp, Unsettled};
use crate::transaction::ProducerIdAndEpoch;
use crate::types::TopicPartition;

/// How many bytes of one partition are written in a round, so that others have their turn.
const ROUND_BYTES: usize = 1 << 20;

/// What the thread knows.
pub(super) struct Sender {
    core: Arc<Core>,
    /// Batches in the log that not all replicas have yet, in order.
    replicating: BTreeMap<TopicPartition, Replicating>,
}

/// Batches of one partition that wait for the high watermark.
struct Replicating {
    partition: Arc<Partition>,
    batches: VecDeque<(Batch, Appended)>,
    listening: Option<Listening>,
}

/// A batch that is in the log, and maybe not on disk.
struct Written {
    queue: Arc<PartitionQueue>,
    partition: Arc<Partition>,
    batch: Batch,
    unsettled: Unsettled,
}

impl Sender {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Sender { core, replicating: BTreeMap::new() }
    }

    /// Works until the producer is closed and nothing is left.
    pub(super) fn run(mut self) {
        // Nobody else sets it.
        let _ = self.core.waiting.sender.set(std::thread::current().id());
        while !self.is_done() {
            if catch_unwind(AssertUnwindSafe(|| self.round())).is_err() {
                // The batches in hand have failed as they were dropped, in the middle of whatever it was.
                let lost = Error::InvalidState { action: "send", reason: "the sender panicked".into() };
                self.core.batch_failed(lost, true);
                self.look_at_all();
            }
        }
        self.replicating.clear();
        // A send may have come between.
        self.core.kill();
        if let Some(transactions) = &self.core.transactions {
            transactions.abort_at_end(self.core.identity.as_ref());
        }
    }

    fn is_done(&self) -> bool {
        self.core.is_killed() || self.core.is_closing() && self.core.undone.is_empty()
    }

    /// Has the schedule know of all queues again, some of which may have been in hand.
    fn look_at_all(&self) {
        for topic in self.core.known_topics().values() {
            for queue in topic.known_queues().iter() {
                self.core.schedule.add_later(queue, Duration::ZERO);
            }
        }
    }

    /// Does what is due, having slept until something is.
    fn round(&mut self) {
        let core = Arc::clone(&self.core);
        let due = core.schedule.next(&*core.clock, self.next_expiry());
        let forced = due.forced || core.pool.is_exhausted();
        self.look_at_replicas();
        self.add_partitions(&due.queues);
        let mut written = Vec::new();
        for queue in due.queues {
            self.write_due(&queue, forced, &mut written);
        }
        self.settle(written);
        if core.refusal().is_some() {
            core.fail_waiting();
        }
    }

    /// Has the partitions that are about to be written to in the transaction, all at once.
    fn add_partitions(&self, queues: &[Arc<PartitionQueue>]) {
        let waiting = queues.iter().filter(|queue| !queue.is_empty()).map(|queue| queue.id());
        // Whoever writes adds what is missing, and fails if that does.
        let _ = self.add_to_transaction(waiting);
    }

    fn add_to_transaction<'a>(&self, partitions: impl Iterator<Item = &'a TopicPartition>) -> Result<()> {
        match &self.core.transactions {
            Some(transactions) => transactions.add_partitions(self.core.producer()?, partitions),
            None => Ok(()),
        }
    }

    /// Writes what is due of a queue.
    fn write_due(&mut self, queue: &Arc<PartitionQueue>, forced: bool, written: &mut Vec<Written>) {
        let core = Arc::clone(&self.core);
        let mut bytes = 0;
        while bytes < ROUND_BYTES {
            let now = core.clock.monotonic();
            let mut batch = match queue.take_due(&core, now, forced) {
                Taken::Nothing => return,
                Taken::Later(at) => return core.schedule.add_later(queue, at),
                Taken::Expired(batch) => {
                    self.expire(batch);
                    continue;
                }
                Taken::Due(batch) => batch,
            };
            match self.write(queue, &mut batch) {
                Ok((partition, unsettled)) => {
                    bytes += batch.len();
                    written.push(Written { queue: Arc::clone(queue), partition, batch, unsettled });
                }
                Err(error) => {
                    if matches!(error, Error::Io { .. }) {
                        batch.doubt = batch.stamp();
                    }
                    if self.fail(queue, batch, error) == Next::Wait {
                        return;
                    }
                }
            }
        }
        core.schedule.add_later(queue, Duration::ZERO);
    }

    /// Writes a batch, if need be after finding or opening its log again.
    fn write(&self, queue: &Arc<PartitionQueue>, batch: &mut Batch) -> Result<(Arc<Partition>, Unsettled)> {
        let core = &*self.core;
        batch.attempts += 1;
        if batch.attempts > 1 {
            add(&core.counters.retries, 1);
        }
        self.add_to_transaction(std::iter::once(queue.id()))?;
        let topic = core.topic(queue.id().topic.as_str())?;
        match self.write_to(queue, &topic, batch) {
            Err(Error::Closed { .. }) => topic.look_up(core, queue)?,
            Err(Error::Poisoned { .. }) => topic.partition(queue)?.reopen()?,
            result => return result,
        }
        self.write_to(queue, &topic, batch)
    }

    fn write_to(
        &self,
        queue: &PartitionQueue,
        topic: &ProducerTopic,
        batch: &mut Batch,
    ) -> Result<(Arc<Partition>, Unsettled)> {
        let partition = topic.partition(queue)?;
        let stamp = self.stamp(queue, batch);
        let count = batch.count();
        let unsettled = partition.write_built(batch.built(stamp)?, AppendOptions::new())?;
        if let Some(stamp) = stamp {
            queue.lane.lock().next_sequence = increment_sequence(stamp.base_sequence, count as i32);
        }
        Ok((partition, unsettled))
    }

    /// The number that a batch goes by.
    fn stamp(&self, queue: &PartitionQueue, batch: &Batch) -> Option<ProducerStamp> {
        let producer = self.core.identity.as_ref()?.now();
        let mut lane = queue.lane.lock();
        // One that may be in the log comes under the same number, if that is still the next.
        let next = (lane.producer, lane.next_sequence);
        let same = |doubt: &ProducerStamp| next == (Some(owner(doubt)), doubt.base_sequence);
        if let Some(doubt) = batch.doubt.filter(same) {
            return Some(doubt);
        }
        if lane.producer != Some(producer) {
            *lane = Lane { producer: Some(producer), next_sequence: 0 };
        }
        let transactional = self.core.transactions.is_some();
        let (id, epoch, base_sequence) = (producer.id, producer.epoch, lane.next_sequence);
        Some(ProducerStamp { id, epoch, base_sequence, transactional })
    }

    /// Waits for the disk, for all that was written.
    fn settle(&mut self, written: Vec<Written>) {
        let mut failed = Vec::new();
        for Written { queue, partition, batch, unsettled } in written {
            let size = batch.len() as u64;
            let early = (self.core.config.acks == Acks::None).then(|| unsettled.appended());
            if let Some(appended) = early {
                self.appended(&partition, batch, appended, size);
                // Nobody waits for it; the next append says what is wrong.
                let _ = partition.settle(unsettled);
                continue;
            }
            match partition.settle(unsettled) {
                Ok(appended) => self.appended(&partition, batch, appended, size),
                Err(error) => failed.push((queue, batch, error)),
            }
        }
        // From the last one on, so that they come to stand in their order again.
        for (queue, mut batch, error) in failed.into_iter().rev() {
            batch.doubt = batch.stamp();
            if let Some(stamp) = batch.doubt {
                let mut lane = queue.lane.lock();
                if lane.producer == Some(owner(&stamp)) {
                    lane.next_sequence = stamp.base_sequence;
                }
            }
            self.fail(&queue, batch, error);
        }
    }

    /// A batch is in the log.
    fn appended(&mut self, partition: &Arc<Partition>, batch: Batch, appended: Appended, size: u64) {
        add(&self.core.counters.batches, 1);
        add(&self.core.counters.bytes, size);
        let waits = self.core.config.acks == Acks::All
            && (partition.high_watermark() <= appended.last_offset
                || self.replicating.contains_key(partition.id()));
        if !waits {
            return batch.decide(placed(appended));
        }
        let new =
            || Replicating { partition: Arc::clone(partition), batches: VecDeque::new(), listening: None };
        let replicating = self.replicating.entry(partition.id().clone()).or_insert_with(new);
        replicating.batches.push_back((batch, appended));
        self.look_at_replicas();
    }

    /// Decides batches that all replicas have by now, or have not in time.
    fn look_at_replicas(&mut self) {
        let core = &*self.core;
        let waker = core.schedule.waker();
        self.replicating.retain(|_, replicating| {
            while let Some((batch, appended)) = replicating.batches.front() {
                let partition = &replicating.partition;
                let expires = batch.created.saturating_add(core.config.delivery_timeout);
                let (high_watermark, last_offset) = (partition.high_watermark(), appended.last_offset);
                let outcome = if high_watermark > last_offset {
                    placed(*appended)
                } else if let Err(error @ Error::Closed { .. }) = partition.check() {
                    Outcome::Failed(core.batch_failed(error, false))
                } else if core.is_hasty() || expires <= core.clock.monotonic() {
                    let wanted = partition.config().min_insync_replicas;
                    let reason = format!(
                        "min.insync.replicas={wanted}, and the high watermark is {high_watermark}, not above {last_offset}"
                    );
                    let error = Error::NotEnoughReplicas { partition: partition.id().to_string(), reason };
                    Outcome::Failed(core.batch_failed(error, false))
                } else {
                    replicating.listening =
                        partition.listen(last_offset, Isolation::ReadUncommitted, &waker);
                    if replicating.listening.is_some() {
                        return true;
                    }
                    // It moved, or was closed, this moment.
                    continue;
                };
                if let Some((batch, _)) = replicating.batches.pop_front() {
                    batch.decide(outcome);
                }
            }
            false
        });
    }

    /// When a batch that waits for replicas has waited long enough.
    fn next_expiry(&self) -> Option<Duration> {
        let firsts = self.replicating.values().filter_map(|replicating| replicating.batches.front());
        firsts.map(|(batch, _)| batch.created.saturating_add(self.core.config.delivery_timeout)).min()
    }

    /// An attempt failed: the batch is taken apart, comes again later, or has failed for good.
    fn fail(&mut self, queue: &Arc<PartitionQueue>, mut batch: Batch, error: Error) -> Next {
        let core = Arc::clone(&self.core);
        let now = core.clock.monotonic();
        if let Error::TooLarge { what: "a batch", limit, .. } = &error {
            if batch.count() > 1 {
                match batch.split(*limit as usize) {
                    Ok(pieces) => queue.put_back(&core, pieces, Duration::ZERO),
                    Err(error) => drop(core.batch_failed(error, true)),
                }
                return Next::Go;
            }
        }
        let expires = batch.created.saturating_add(core.config.delivery_timeout);
        let again = error.class() == ErrorClass::Retriable
            && batch.attempts <= core.config.retries
            && !core.is_hasty();
        if again && now < expires {
            batch.not_before = now.saturating_add(core.backoff(batch.attempts));
            batch.failure = Some(error);
            let at = batch.not_before.min(expires);
            queue.put_back(&core, vec![batch], at);
            return Next::Wait;
        }
        if again {
            batch.failure = Some(error);
            self.expire(batch);
        } else {
            self.give_up(batch, error);
        }
        Next::Go
    }

    /// The time of a batch is over.
    fn expire(&mut self, batch: Batch) {
        let waited = self.core.config.delivery_timeout;
        let partition = batch.result().partition();
        let what = match &batch.failure {
            Some(failure) => format!("the delivery of a batch to {partition} (last: {failure})"),
            None => format!("the delivery of a batch to {partition}, not begun,"),
        };
        self.give_up(batch, Error::Timeout { what, waited });
    }

    fn give_up(&mut self, batch: Batch, error: Error) {
        let doubt = batch.doubt.is_some() || matches!(error, Error::OutOfOrderSequence { .. });
        let error = self.core.batch_failed(error, doubt);
        batch.decide(Outcome::Failed(error));
    }
}

/// Whose number it is.
fn owner(stamp: &ProducerStamp) -> ProducerIdAndEpoch {
    ProducerIdAndEpoch { id: stamp.id, epoch: stamp.epoch }
}

/// Whether the queue of a batch that failed goes on with the next one.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Wait,
}

fn placed(appended: Appended) -> Outcome {
    Outcome::Appended { base_offset: appended.base_offset, append_time: appended.append_time }
}
