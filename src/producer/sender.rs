//! The thread of a producer: it takes batches that are due, writes them, waits for the disk once for all of them, and
//! tells who wants to know.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;

use super::batch::Batch;
use super::config::Acks;
use super::core::Core;
use super::delivery::Outcome;
use super::queue::{Lane, PartitionQueue, Taken};
use super::stats::add;
use crate::error::{Error, ErrorClass, Result};
use crate::format::increment_sequence;
use crate::partition::{
    AppendOptions, Appended, Durability, Isolation, Listening, Partition, ProducerStamp, Unsettled,
};
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
#[derive(Default)]
struct Replicating {
    /// The first of them is in the log; what failed behind it waits for its turn to be told.
    batches: VecDeque<(Batch, Fate)>,
    listening: Option<Listening>,
}

/// Where a batch was appended, or why it was not.
type Fate = Result<Placed>;

#[derive(Clone)]
struct Placed {
    /// Of its topic as it was then, which may have been made anew since.
    partition: Arc<Partition>,
    appended: Appended,
    /// How often the log had been truncated before.
    truncations: u64,
}

/// A batch that is in the log, and maybe not on disk.
struct Written {
    queue: Arc<PartitionQueue>,
    partition: Arc<Partition>,
    /// Unless it is decided already.
    batch: Option<Batch>,
    unsettled: Unsettled,
    /// How often the log had been truncated before.
    truncations: u64,
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
                // The batches in hand have failed as they were dropped, in the middle of whatever it was, and have
                // spoiled their transaction; the one that is open by now may be another.
                if self.core.transactions.is_none() {
                    let lost = Error::InvalidState { action: "send", reason: "the sender panicked".into() };
                    self.core.batch_failed(lost, true);
                }
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
        self.refuse_waiting();
        self.add_partitions(&due.queues);
        let mut written = Vec::new();
        for queue in due.queues {
            self.write_due(&queue, forced, &mut written);
        }
        self.settle(written);
        self.refuse_waiting();
    }

    /// Fails what waits, if it is not to be written any more.
    fn refuse_waiting(&mut self) {
        if let Some(refusal) = self.core.refusal() {
            for batch in self.core.take_waiting() {
                self.decide(batch, Err(refusal.clone()));
            }
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
            let taken = match queue.take_due(&core, now, forced) {
                Taken::Nothing => return,
                Taken::Later(at) => return core.schedule.add_later(queue, at),
                Taken::Expired(batch) => Err((batch, None)),
                Taken::Due(mut batch) => {
                    match self.write(queue, &mut batch, written.last().filter(|_| bytes > 0)) {
                        Ok(one) => Ok((batch, one)),
                        Err(error) => {
                            if matches!(error, Error::Io { .. }) {
                                batch.doubt = batch.stamp();
                            }
                            Err((batch, Some(error)))
                        }
                    }
                }
            };
            match taken {
                Ok((batch, one)) => {
                    bytes += batch.len();
                    written.push(Written { batch: Some(batch), ..one });
                }
                // Not before those in front of it are decided: it has another chance then.
                Err((batch, _)) if bytes > 0 => return queue.put_back(&core, vec![batch], Duration::ZERO),
                Err((batch, None)) => self.expire(batch),
                Err((batch, Some(error))) => {
                    if let Some((batches, at)) = self.fail(batch, error) {
                        return queue.put_back(&core, batches, at);
                    }
                }
            }
        }
        core.schedule.add_later(queue, Duration::ZERO);
    }

    /// Writes a batch behind another, if need be after finding or opening its log again; but not if that would cut
    /// away the other one, which is not settled.
    fn write(
        &self,
        queue: &Arc<PartitionQueue>,
        batch: &mut Batch,
        after: Option<&Written>,
    ) -> Result<Written> {
        let core = &*self.core;
        batch.attempts += 1;
        if batch.attempts > 1 {
            add(&core.counters.retries, 1);
        }
        self.add_to_transaction(std::iter::once(queue.id()))?;
        if let Some(after) = after {
            return self.write_to(queue, &after.partition, batch, Some(&after.unsettled));
        }
        let topic = core.topic(queue.id().topic.as_str())?;
        let mut write = || {
            let partition = topic.partition(queue)?;
            partition.with_reopen(|| self.write_to(queue, &partition, batch, None))
        };
        match write() {
            Err(Error::Closed { .. }) => {
                topic.look_up(core)?;
                write()
            }
            written => written,
        }
    }

    fn write_to(
        &self,
        queue: &Arc<PartitionQueue>,
        partition: &Arc<Partition>,
        batch: &mut Batch,
        after: Option<&Unsettled>,
    ) -> Result<Written> {
        let truncations = partition.truncations();
        let stamp = self.stamp(queue, batch);
        let count = batch.count();
        let unsettled = partition.write_built(batch.built(stamp)?, AppendOptions::new(), after)?;
        if let Some(stamp) = stamp {
            queue.lane.lock().next_sequence = increment_sequence(stamp.base_sequence, count as i32);
        }
        let (queue, partition) = (Arc::clone(queue), Arc::clone(partition));
        Ok(Written { queue, partition, batch: None, unsettled, truncations })
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

    /// Has the logs that were written to synced side by side: a disk has many in hardly more time than one. What fails
    /// is found out when each is settled.
    fn sync_together(&self, written: &[Written]) {
        let synced = |log: &&Arc<Partition>| log.config().durability == Durability::Synced;
        let logs: BTreeMap<_, _> = written.iter().map(|one| (one.partition.id(), &one.partition)).collect();
        let logs: Vec<_> = logs.into_values().filter(synced).collect();
        let threads = self.core.config.sync_threads.min(logs.len());
        if threads < 2 {
            return;
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let _ = catch_unwind(AssertUnwindSafe(|| log.flush()));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // With fewer threads than asked for it takes longer.
                let name = "annals-producer-sync".to_string();
                let _ = Builder::new().name(name).spawn_scoped(scope, work);
            }
            work();
        });
    }

    /// Waits for the disk, for all that was written.
    fn settle(&mut self, mut written: Vec<Written>) {
        if self.core.config.acks == Acks::None {
            for one in &mut written {
                if let Some(batch) = one.batch.take() {
                    let (partition, appended) = (Arc::clone(&one.partition), one.unsettled.appended());
                    self.appended(batch, Placed { partition, appended, truncations: one.truncations });
                }
            }
        }
        self.sync_together(&written);
        let mut failed = Vec::new();
        for Written { queue, partition, batch, unsettled, truncations } in written {
            match (partition.settle(unsettled), batch) {
                (Ok(appended), Some(batch)) => {
                    self.appended(batch, Placed { partition, appended, truncations });
                }
                (Err(error), Some(batch)) => failed.push((queue, batch, error)),
                // Nobody waits for it; the next append hears what is wrong.
                (_, None) => {}
            }
        }
        for (queue, batch, _) in failed.iter_mut().rev() {
            batch.doubt = batch.stamp();
            if let Some(stamp) = batch.doubt {
                let mut lane = queue.lane.lock();
                if lane.producer == Some(owner(&stamp)) {
                    lane.next_sequence = stamp.base_sequence;
                }
            }
        }
        self.fail_all(failed);
    }

    /// Batches failed that were written: by partition, and in their order.
    fn fail_all(&mut self, failed: Vec<(Arc<PartitionQueue>, Batch, Error)>) {
        let core = Arc::clone(&self.core);
        let mut back: Option<(Arc<PartitionQueue>, Vec<Batch>, Duration)> = None;
        for (queue, mut batch, error) in failed {
            if let Some((_, batches, _)) = back.as_mut().filter(|(before, ..)| Arc::ptr_eq(before, &queue)) {
                // Not before those in front of it are decided.
                batch.failure = Some(error);
                batches.push(batch);
                continue;
            }
            if let Some((queue, batches, at)) = back.take() {
                queue.put_back(&core, batches, at);
            }
            if let Some((batch, at)) = self.fail(batch, error) {
                back = Some((queue, batch, at));
            }
        }
        if let Some((queue, batches, at)) = back {
            queue.put_back(&core, batches, at);
        }
    }

    /// A batch is in the log.
    fn appended(&mut self, batch: Batch, placed: Placed) {
        add(&self.core.counters.batches, 1);
        add(&self.core.counters.bytes, batch.len() as u64);
        if self.core.config.acks == Acks::All && !placed.is_replicated() {
            self.replicating.entry(batch.result().partition().clone()).or_default();
        }
        self.decide(batch, Ok(placed));
    }

    /// It is clear what became of a batch, but maybe not of those of its partition that came before it.
    fn decide(&mut self, batch: Batch, fate: Fate) {
        match self.replicating.get_mut(batch.result().partition()) {
            Some(replicating) => {
                replicating.batches.push_back((batch, fate));
                self.look_at_replicas();
            }
            None => batch.decide(outcome(fate)),
        }
    }

    /// Decides batches that all replicas have by now, or have not in time.
    fn look_at_replicas(&mut self) {
        let core = &*self.core;
        let waker = core.schedule.waker();
        self.replicating.retain(|_, replicating| {
            while let Some((batch, fate)) = replicating.batches.front() {
                let fate = match fate {
                    Ok(placed) if !placed.is_replicated() => {
                        let Placed { partition, appended, .. } = placed;
                        if placed.is_truncated() {
                            let reason = "it was truncated before they had it".to_string();
                            let partition = partition.id().to_string();
                            Err(core.batch_failed(Error::NotEnoughReplicas { partition, reason }, true))
                        } else if let Some(error) = not_replicated(core, partition, batch, appended) {
                            Err(core.batch_failed(error, false))
                        } else {
                            let (offset, isolation) = (appended.last_offset, Isolation::ReadUncommitted);
                            replicating.listening = partition.listen(offset, isolation, &waker);
                            if replicating.listening.is_some() {
                                return true;
                            }
                            // It moved, or was closed, this moment.
                            continue;
                        }
                    }
                    fate => fate.clone(),
                };
                if let Some((batch, _)) = replicating.batches.pop_front() {
                    batch.decide(outcome(fate));
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

    /// An attempt failed: the batch comes again later, maybe in pieces, or has failed for good. Returns what comes
    /// again, and when.
    fn fail(&mut self, mut batch: Batch, error: Error) -> Option<(Vec<Batch>, Duration)> {
        let core = Arc::clone(&self.core);
        add(&core.counters.attempts_failed, 1);
        let now = core.clock.monotonic();
        if let Error::TooLarge { what: "a batch", limit, .. } = &error {
            if batch.count() > 1 {
                let pieces = batch.split(*limit as usize);
                return pieces
                    .map_err(|error| core.batch_failed(error, true))
                    .ok()
                    .map(|pieces| (pieces, now));
            }
        }
        let expires = batch.created.saturating_add(core.config.delivery_timeout);
        let again = error.class() == ErrorClass::Retriable
            && batch.attempts <= core.config.retries
            && !core.is_hasty();
        if !again {
            self.give_up(batch, error);
            return None;
        }
        batch.failure = Some(error);
        if now >= expires {
            self.expire(batch);
            return None;
        }
        batch.not_before = now.saturating_add(core.backoff(batch.attempts));
        let at = batch.not_before.min(expires);
        Some((vec![batch], at))
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
        self.decide(batch, Err(error));
    }
}

impl Placed {
    /// Whether the replicas that count have it.
    fn is_replicated(&self) -> bool {
        let below = self.partition.high_watermark() > self.appended.last_offset;
        // Looked at last: what lies below the high watermark by now may be others' records.
        below && !self.is_truncated()
    }

    fn is_truncated(&self) -> bool {
        self.partition.truncations() != self.truncations
    }
}

/// Whose number it is.
fn owner(stamp: &ProducerStamp) -> ProducerIdAndEpoch {
    ProducerIdAndEpoch { id: stamp.id, epoch: stamp.epoch }
}

fn outcome(fate: Fate) -> Outcome {
    match fate {
        Ok(Placed { appended: Appended { base_offset, append_time, .. }, .. }) => {
            Outcome::Appended { base_offset, append_time }
        }
        Err(error) => Outcome::Failed(error),
    }
}

/// Why nobody waits any longer for the replicas of a batch, if nobody does.
fn not_replicated(core: &Core, partition: &Partition, batch: &Batch, appended: &Appended) -> Option<Error> {
    if let Err(error @ Error::Closed { .. }) = partition.check() {
        return Some(error);
    }
    let expires = batch.created.saturating_add(core.config.delivery_timeout);
    if !core.is_hasty() && core.clock.monotonic() < expires {
        return None;
    }
    let (wanted, high_watermark) = (partition.config().min_insync_replicas, partition.high_watermark());
    let last = appended.last_offset;
    let reason =
        format!("min.insync.replicas={wanted}, and its high watermark is {high_watermark}, not above {last}");
    Some(Error::NotEnoughReplicas { partition: partition.id().to_string(), reason })
}
