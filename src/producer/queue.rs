//! What waits for one partition ([`PartitionQueue`]), and the partitions of a topic as a producer knows them
//! ([`ProducerTopic`]). Together they are Kafka's `RecordAccumulator`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::batch::{Batch, Callback};
use super::buffer::Reservation;
use super::core::Core;
use super::delivery::{BatchResult, Delivery, Outcome};
use super::sticky::Sticky;
use crate::error::{Error, Result};
use crate::format::{Codec, Record};
use crate::partition::Partition;
use crate::topic::{Partitioner, Topic, partition_for_key};
use crate::transaction::ProducerIdAndEpoch;
use crate::types::{TopicName, TopicPartition};

/// A topic, and what waits for it.
pub(super) struct ProducerTopic {
    /// Replaced if the topic is deleted and made again.
    topic: ArcSwap<Topic>,
    /// Up to which change of topics that was looked for.
    seen: AtomicU64,
    queues: ArcSwap<Vec<Arc<PartitionQueue>>>,
    /// Held while queues are added, and while the topic is looked up.
    growing: Mutex<()>,
    choice: Choice,
}

/// Who chooses partitions.
enum Choice {
    Default { sticky: Sticky, ignore_keys: bool },
    Custom(Arc<dyn Partitioner>),
}

/// The batches of one partition, in order; only the last one takes records.
pub(super) struct PartitionQueue {
    id: TopicPartition,
    /// How many batches there are; read without the lock.
    length: AtomicU32,
    batches: Mutex<VecDeque<Batch>>,
    /// Where it is appended; found when it is first needed.
    partition: ArcSwapOption<Partition>,
    /// The sender's own.
    pub(super) lane: Mutex<Lane>,
}

/// How far the sender has come with the numbers of a partition's batches.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Whose numbers they are.
    pub(super) producer: Option<ProducerIdAndEpoch>,
    pub(super) next_sequence: i32,
}

/// A record about to be sent.
pub(super) struct Outgoing<'a> {
    pub(super) record: &'a Record<'a>,
    pub(super) timestamp: i64,
    /// The time of the send.
    pub(super) now: i64,
    /// The bytes that it takes at most.
    pub(super) size: usize,
    pub(super) callback: Option<Callback>,
}

/// What became of a record that was to be added.
enum Added {
    Yes(Delivery),
    /// There is no batch that it goes into.
    NoRoom,
    /// Records without a key go to another partition by now.
    Moved,
}

impl ProducerTopic {
    pub(super) fn new(topic: Topic, core: &Core) -> Self {
        let config = &core.config;
        let choice = match &config.partitioner {
            Some(make) => Choice::Custom(make(topic.name())),
            None => Choice::Default {
                sticky: Sticky::new(config.batch_size, config.adaptive),
                ignore_keys: config.ignore_keys,
            },
        };
        let (topic, seen) = (ArcSwap::from_pointee(topic), AtomicU64::new(0));
        ProducerTopic { topic, seen, queues: ArcSwap::default(), growing: Mutex::default(), choice }
    }

    pub(super) fn name(&self) -> TopicName {
        self.topic.load().name().clone()
    }

    /// As many queues as there are partitions, or more.
    fn queues(&self, count: u32) -> Arc<Vec<Arc<PartitionQueue>>> {
        let queues = self.queues.load_full();
        if queues.len() >= count as usize {
            return queues;
        }
        let _one_at_a_time = self.growing.lock();
        let mut more = Vec::clone(&self.queues.load());
        let topic = self.name();
        for partition in more.len() as u32..count {
            more.push(PartitionQueue::new(TopicPartition { topic: topic.clone(), partition }));
        }
        self.queues.store(Arc::new(more));
        self.queues.load_full()
    }

    /// Those there are.
    pub(super) fn known_queues(&self) -> Arc<Vec<Arc<PartitionQueue>>> {
        self.queues.load_full()
    }

    /// Adds a record to the queue of the partition named, or else chosen.
    pub(super) fn add(
        &self,
        core: &Arc<Core>,
        partition: Option<u32>,
        mut outgoing: Outgoing<'_>,
    ) -> Result<Delivery> {
        if self.seen.load(Ordering::Acquire) != core.topic_changes() {
            self.look_up(core)?;
        }
        let topic = self.topic.load();
        let count = topic.partition_count();
        let queues = self.queues(count);
        let queues = queues.get(..count as usize).unwrap_or_default();
        let target = match partition {
            Some(partition) => Target::Fixed(partition),
            None => self.choose(outgoing.record.key_bytes(), outgoing.size, count),
        };
        let mut memory = None;
        loop {
            let number = match target {
                Target::Fixed(number) => number,
                Target::Sticky(sticky) => sticky.current(lengths(queues), || core.random()),
            };
            let unknown =
                || Error::UnknownPartition { topic: topic.name().to_string(), partition: number, count };
            let queue = queues.get(number as usize).ok_or_else(unknown)?;
            let partition = queue.partition(&topic)?;
            if memory.is_none() {
                core.admit(&partition, &outgoing)?;
            }
            match queue.add(core, &mut outgoing, target, queues, &mut memory)? {
                Added::Yes(delivery) => return Ok(delivery),
                Added::NoRoom => memory = Some(core.take_memory(&partition, outgoing.size)?),
                Added::Moved => {}
            }
        }
    }

    fn choose(&self, key: Option<&[u8]>, size: usize, count: u32) -> Target<'_> {
        match (&self.choice, key) {
            (Choice::Custom(partitioner), _) => Target::Fixed(partitioner.partition(key, size, count)),
            (Choice::Default { ignore_keys: false, .. }, Some(key)) => {
                Target::Fixed(partition_for_key(key, count))
            }
            (Choice::Default { sticky, .. }, _) => Target::Sticky(sticky),
        }
    }

    /// Where a queue is appended.
    pub(super) fn partition(&self, queue: &PartitionQueue) -> Result<Arc<Partition>> {
        queue.partition(&self.topic.load())
    }

    /// Finds the topic again: it may have been deleted, and made again.
    pub(super) fn look_up(&self, core: &Core) -> Result<()> {
        // One at a time: the later one may have seen the topic made again.
        let _one_at_a_time = self.growing.lock();
        let changes = core.topic_changes();
        self.topic.store(Arc::new(core.handle.topic(self.name().as_str())?));
        self.known_queues().iter().for_each(|queue| queue.partition.store(None));
        self.seen.store(changes, Ordering::Release);
        Ok(())
    }
}

/// Where a record goes.
#[derive(Clone, Copy)]
enum Target<'a> {
    Fixed(u32),
    /// Where it says at the moment.
    Sticky(&'a Sticky),
}

/// How many batches wait for each partition.
fn lengths(queues: &[Arc<PartitionQueue>]) -> impl ExactSizeIterator<Item = u32> + Clone + '_ {
    queues.iter().map(|queue| queue.length.load(Ordering::Relaxed))
}

/// Memory for a batch, and what goes into it.
pub(super) struct Memory {
    pub(super) reservation: Reservation,
    pub(super) buffer: Vec<u8>,
    pub(super) limit: usize,
    pub(super) codec: Codec,
}

impl PartitionQueue {
    pub(super) fn new(id: TopicPartition) -> Arc<Self> {
        Arc::new(PartitionQueue {
            id,
            length: AtomicU32::new(0),
            batches: Mutex::default(),
            partition: ArcSwapOption::empty(),
            lane: Mutex::default(),
        })
    }

    pub(super) fn id(&self) -> &TopicPartition {
        &self.id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Relaxed) == 0
    }

    fn partition(&self, topic: &Topic) -> Result<Arc<Partition>> {
        if let Some(known) = self.partition.load_full() {
            return Ok(known);
        }
        let partition = Arc::new(topic.partition(self.id.partition)?);
        self.partition.store(Some(Arc::clone(&partition)));
        Ok(partition)
    }

    fn add(
        self: &Arc<Self>,
        core: &Arc<Core>,
        outgoing: &mut Outgoing<'_>,
        target: Target<'_>,
        queues: &[Arc<PartitionQueue>],
        memory: &mut Option<Memory>,
    ) -> Result<Added> {
        let mut batches = self.batches.lock();
        // Under the lock: what comes after the last look of a closing producer must not stay.
        core.check_open()?;
        if matches!(target, Target::Sticky(sticky) if !sticky.is_current(self.id.partition)) {
            return Ok(Added::Moved);
        }
        let fits = batches.back().is_some_and(|last| last.has_room(outgoing.size));
        if let (Target::Sticky(sticky), false, false) = (target, fits, batches.is_empty()) {
            if sticky.no_room(outgoing.size, lengths(queues), || core.random()) {
                return Ok(Added::Moved);
            }
        }
        if !fits {
            let Some(Memory { reservation, buffer, limit, codec }) = memory.take() else {
                return Ok(Added::NoRoom);
            };
            let result = BatchResult::new(self.id.clone(), Arc::clone(&core.waiting));
            batches.push_back(Batch::new(core, result, limit, codec, (reservation, buffer)));
        }
        let waiting = batches.len();
        let Some(last) = batches.back_mut() else { return Ok(Added::NoRoom) };
        let (index, size) = match last.push(outgoing.record, outgoing.timestamp, outgoing.callback.take()) {
            Ok(pushed) => pushed,
            Err(error) => {
                if !fits {
                    drop(batches.pop_back());
                }
                return Err(error);
            }
        };
        let (full, created) = (last.is_full(), last.created);
        let delivery = Delivery::new(Arc::clone(last.result()), index, outgoing.timestamp);
        if let Target::Sticky(sticky) = target {
            sticky.appended(size, full, lengths(queues), || core.random());
        }
        self.length.store(waiting as u32, Ordering::Relaxed);
        drop(batches);
        // The sender knows of a queue that holds a batch, and looks at it when lingering is over; it is told of the
        // first batch, and when the first is complete before.
        let first = waiting == 1;
        if first && (full || !fits) || waiting == 2 && !fits {
            let complete = full || !first;
            let lingers = created.saturating_add(core.config.linger);
            core.schedule.add(self, lingers, || complete || core.pool.is_exhausted());
        }
        Ok(Added::Yes(delivery))
    }

    /// Takes the first batch out, if it is due.
    pub(super) fn take_due(&self, core: &Core, now: Duration, forced: bool) -> Taken {
        let mut batches = self.batches.lock();
        let more = batches.len() > 1;
        let Some(first) = batches.front() else { return Taken::Nothing };
        let expires = first.created.saturating_add(core.config.delivery_timeout);
        let lingers = first.created.saturating_add(core.config.linger);
        let complete = forced || more || first.attempts > 0 || first.is_full();
        let at = match (core.is_hasty(), complete) {
            (true, _) => Duration::ZERO,
            (false, true) => first.not_before.min(expires),
            (false, false) => lingers.min(expires),
        };
        if at > now {
            return Taken::Later(at);
        }
        let Some(first) = batches.pop_front() else { return Taken::Nothing };
        self.length.store(batches.len() as u32, Ordering::Relaxed);
        if expires <= now { Taken::Expired(first) } else { Taken::Due(first) }
    }

    /// Puts batches back in front, in their order, and has them looked at then; fails them if nothing is to be written
    /// any more.
    pub(super) fn put_back(self: &Arc<Self>, core: &Core, mut back: Vec<Batch>, at: Duration) {
        {
            let mut batches = self.batches.lock();
            // Under the lock: whoever empties the queue has said before why.
            if let Some(refusal) = core.refusal() {
                drop(batches);
                back.into_iter().for_each(|batch| batch.decide(Outcome::Failed(refusal.clone())));
                return;
            }
            while let Some(batch) = back.pop() {
                batches.push_front(batch);
            }
            self.length.store(batches.len() as u32, Ordering::Relaxed);
        }
        core.schedule.add_later(self, at);
    }

    /// Returns once nobody is adding a record.
    pub(super) fn wait_for_senders(&self) {
        drop(self.batches.lock());
    }

    /// Takes everything out.
    pub(super) fn take_all(&self) -> Vec<Batch> {
        let mut batches = self.batches.lock();
        self.length.store(0, Ordering::Relaxed);
        batches.drain(..).collect()
    }
}

impl fmt::Debug for PartitionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionQueue").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What [`PartitionQueue::take_due`] finds.
pub(super) enum Taken {
    Due(Batch),
    /// Its time is over.
    Expired(Batch),
    /// The first batch is not to be tried before.
    Later(Duration),
    Nothing,
}
