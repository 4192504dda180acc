//! What a producer, its thread and its batches share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::batch::Batch;
use super::buffer::BufferPool;
use super::config::ProducerConfig;
use super::delivery::{BatchResult, Waiting};
use super::identity::Identity;
use super::interceptor::ProducerInterceptor;
use super::queue::{Memory, Outgoing, ProducerTopic};
use super::schedule::Schedule;
use super::stats::Counters;
use super::transaction::{Transactions, is_fenced};
use crate::clock::Clock;
use crate::error::{Error, ErrorClass, Result};
use crate::format::RECORD_BATCH_OVERHEAD;
use crate::partition::Partition;
use crate::topic::{Attendant, StoreHandle};
use crate::transaction::ProducerIdAndEpoch;

/// Everything but the thread.
pub(super) struct Core {
    pub(super) config: ProducerConfig,
    pub(super) handle: StoreHandle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pool: Arc<BufferPool>,
    pub(super) schedule: Arc<Schedule>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) counters: Counters,
    pub(super) undone: Undone,
    /// Whose batches they are, if retries must not duplicate.
    pub(super) identity: Option<Identity>,
    pub(super) transactions: Option<Transactions>,
    /// Why the producer, which has no transactions, is of no use any more.
    fatal: Mutex<Option<Error>>,
    topics: ArcSwap<HashMap<String, Arc<ProducerTopic>>>,
    /// Counts the changes of the store's topics, from 1 on.
    topic_changes: AtomicU64,
    /// No more sends are taken: the producer is being closed, or the store was.
    closing: AtomicBool,
    store_closed: AtomicBool,
    /// What fails is not tried again.
    hasty: AtomicBool,
    /// Nothing is written any more.
    killed: AtomicBool,
    /// There is something in `fatal`.
    failed: AtomicBool,
}

impl Core {
    pub(super) fn new(
        config: ProducerConfig,
        handle: StoreHandle,
        identity: Option<Identity>,
        transactions: Option<Transactions>,
    ) -> Arc<Self> {
        let clock = Arc::clone(handle.clock());
        let waiting = Waiting { clock: Arc::clone(&clock), sender: Default::default() };
        Arc::new(Core {
            pool: BufferPool::new(config.buffer_memory, config.batch_size, Arc::clone(&clock)),
            config,
            handle,
            clock,
            schedule: Arc::default(),
            waiting: Arc::new(waiting),
            counters: Counters::default(),
            undone: Undone::default(),
            identity,
            transactions,
            fatal: Mutex::default(),
            topics: ArcSwap::default(),
            topic_changes: AtomicU64::new(1),
            closing: AtomicBool::new(false),
            store_closed: AtomicBool::new(false),
            hasty: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        })
    }

    pub(super) fn interceptors(&self) -> &[Arc<dyn ProducerInterceptor>] {
        &self.config.interceptors
    }

    /// Chance; none at all once the store is closed.
    pub(super) fn random(&self) -> u64 {
        self.handle.random().unwrap_or_default()
    }

    pub(super) fn topic(&self, name: &str) -> Result<Arc<ProducerTopic>> {
        if let Some(known) = self.topics.load().get(name) {
            return Ok(Arc::clone(known));
        }
        let topic = Arc::new(ProducerTopic::new(self.handle.topic(name)?, self));
        self.topics.rcu(|topics| {
            let mut topics = HashMap::clone(topics);
            topics.entry(name.to_owned()).or_insert_with(|| Arc::clone(&topic));
            topics
        });
        // Somebody else's, if that came first.
        Ok(self.topics.load().get(name).map_or(topic, Arc::clone))
    }

    /// Those that were ever sent to. Whoever has just said that no more sends are taken finds every queue here in which
    /// one may still be adding its record: it looks at that after it has made the queue known.
    pub(super) fn known_topics(&self) -> Arc<HashMap<String, Arc<ProducerTopic>>> {
        fence(Ordering::SeqCst);
        self.topics.load_full()
    }

    pub(super) fn topic_changes(&self) -> u64 {
        self.topic_changes.load(Ordering::Acquire)
    }

    /// Whether a record may be sent to that partition, as far as can be told now.
    pub(super) fn admit(&self, partition: &Partition, outgoing: &Outgoing<'_>) -> Result<()> {
        let size = RECORD_BATCH_OVERHEAD.saturating_add(outgoing.size);
        let too_large = |limit: usize, setting| {
            Err(Error::TooLarge { what: "a record", size: size as u64, limit: limit as u64, setting })
        };
        if size > self.config.max_request_size {
            return too_large(self.config.max_request_size, "max.request.size");
        }
        if size > self.config.buffer_memory {
            return too_large(self.config.buffer_memory, "buffer.memory");
        }
        partition.check_record(outgoing.record, outgoing.timestamp, outgoing.now)
    }

    /// Memory for a batch that begins with a record of that size.
    pub(super) fn take_memory(&self, partition: &Partition, size: usize) -> Result<Memory> {
        let rules = partition.batch_rules();
        let limit = self.config.batch_size.min(rules.bytes_max);
        let bytes = limit.max(RECORD_BATCH_OVERHEAD + size);
        // The thread that frees memory must not wait for it.
        let wait = if self.waiting.is_sender() { Duration::ZERO } else { self.config.max_block };
        let (reservation, buffer) = self.pool.take(bytes, wait, || self.schedule.hurry())?;
        Ok(Memory { reservation, buffer, limit, codec: rules.codec.unwrap_or(self.config.codec) })
    }

    /// Whether sends are taken.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.store_closed.load(Ordering::SeqCst) {
            return Err(Error::Closed { what: "the store".into() });
        }
        if self.is_closing() {
            return Err(closed());
        }
        if let Some(transactions) = &self.transactions {
            return transactions.check_send();
        }
        if self.failed.load(Ordering::SeqCst) {
            return Err(self.fatal.lock().clone().unwrap_or_else(closed));
        }
        Ok(())
    }

    /// Why batches that wait are not written any more, if they are not.
    pub(super) fn refusal(&self) -> Option<Error> {
        if self.is_killed() {
            return Some(closed());
        }
        if let Some(transactions) = &self.transactions {
            return transactions.refusal();
        }
        self.failed.load(Ordering::SeqCst).then(|| self.fatal.lock().clone().unwrap_or_else(closed))
    }

    /// A batch has failed for good; `doubt` if it may be in its log nevertheless. Returns what to tell who sent it.
    pub(super) fn batch_failed(&self, error: Error, doubt: bool) -> Error {
        if let Some(transactions) = &self.transactions {
            return transactions.batch_failed(error, doubt);
        }
        if is_fenced(&error) {
            self.fatal.lock().get_or_insert_with(|| error.clone());
            self.failed.store(true, Ordering::SeqCst);
        } else if let Some(identity) = self.identity.as_ref().filter(|_| doubt) {
            // What comes next must not be taken for what may be in the log. Where no new numbers are to be had, the
            // store is closed, and takes none under the old ones.
            let _ = identity.bump();
        }
        error
    }

    /// Who the producer is.
    pub(super) fn producer(&self) -> Result<ProducerIdAndEpoch> {
        self.identity.as_ref().map(Identity::now).ok_or_else(closed)
    }

    /// Returns once every send that was let through has its record in a batch.
    pub(super) fn wait_for_senders(&self) {
        for topic in self.known_topics().values() {
            topic.known_queues().iter().for_each(|queue| queue.wait_for_senders());
        }
    }

    /// Has everything written that waits, and waits until it is decided.
    pub(super) fn flush(&self) {
        self.schedule.force();
        self.undone.snapshot().iter().for_each(|result| result.wait_finished());
        self.schedule.relax();
    }

    /// Takes out what waits.
    pub(super) fn take_waiting(&self) -> Vec<Batch> {
        let topics = self.known_topics();
        let queues = topics.values().flat_map(|topic| Vec::clone(&topic.known_queues()));
        queues.flat_map(|queue| queue.take_all()).collect()
    }

    /// Does something again for as long as that may help, at most so long as a send may block.
    pub(super) fn persist<T>(&self, what: &str, act: impl Fn() -> Result<T>) -> Result<T> {
        let deadline = self.clock.monotonic().saturating_add(self.config.max_block);
        let mut attempts = 0;
        loop {
            let error = match act() {
                // Its own words say it better than any repetition.
                Err(error @ Error::RebalanceInProgress { .. }) => return Err(error),
                Err(error) if error.class() == ErrorClass::Retriable => error,
                result => return result,
            };
            attempts += 1;
            let wait = self.backoff(attempts);
            if self.is_closing() || self.clock.monotonic().saturating_add(wait) >= deadline {
                let what = format!("{what} (last: {error})");
                return Err(Error::Timeout { what, waited: self.config.max_block });
            }
            self.clock.sleep(wait);
        }
    }

    /// How long to wait after so many attempts.
    pub(super) fn backoff(&self, attempts: u32) -> Duration {
        let config = &self.config;
        let doubled = config.retry_backoff.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        let longest = doubled.min(config.retry_backoff_max);
        // From four fifths to six fifths of it.
        let chance = self.random() as f64 / u64::MAX as f64;
        longest.mul_f64(0.8 + 0.4 * chance).min(config.retry_backoff_max)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(super) fn is_hasty(&self) -> bool {
        self.hasty.load(Ordering::SeqCst)
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Takes no more sends, and has what is there written at once. Returns whether it was open.
    pub(super) fn begin_close(&self, hasty: bool) -> bool {
        self.hasty.fetch_or(hasty, Ordering::SeqCst);
        let first = !self.closing.swap(true, Ordering::SeqCst);
        self.pool.close();
        if first {
            self.schedule.force();
        } else {
            self.schedule.hurry();
        }
        first
    }

    /// Writes nothing any more, and fails what waits; what the sender has in its hands, it fails itself.
    pub(super) fn kill(&self) {
        self.begin_close(true);
        self.killed.store(true, Ordering::SeqCst);
        drop(self.take_waiting());
        self.schedule.hurry();
    }
}

impl Attendant for Core {
    /// Nothing is due but what the producer's own thread does.
    fn attend(&self) -> Result<()> {
        Ok(())
    }

    /// What waits will find its logs closed.
    fn closing(&self) {
        self.store_closed.store(true, Ordering::SeqCst);
        self.pool.close();
        self.schedule.force();
    }

    fn topics_changed(&self) {
        self.topic_changes.fetch_add(1, Ordering::AcqRel);
    }
}

/// The results that are not all decided yet.
#[derive(Debug, Default)]
pub(super) struct Undone {
    results: Mutex<HashMap<usize, Arc<BatchResult>>>,
}

impl Undone {
    pub(super) fn insert(&self, result: &Arc<BatchResult>) {
        self.results.lock().insert(Arc::as_ptr(result) as usize, Arc::clone(result));
    }

    pub(super) fn remove(&self, result: &Arc<BatchResult>) {
        self.results.lock().remove(&(Arc::as_ptr(result) as usize));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.results.lock().is_empty()
    }

    /// Those of this moment.
    pub(super) fn snapshot(&self) -> Vec<Arc<BatchResult>> {
        self.results.lock().values().cloned().collect()
    }
}

pub(super) fn closed() -> Error {
    Error::Closed { what: "the producer".into() }
}
