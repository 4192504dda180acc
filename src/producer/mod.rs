//! Kafka's producer, in process: records are gathered in batches that one thread writes ([`Producer`]).
//!
//! | file | owns |
//! | --- | --- |
//! | `config` | the settings, and which of them go together |
//! | `core` | what the handle, the thread and the batches share |
//! | `queue`, `batch` | what waits for each partition, in order; one batch on its way |
//! | `buffer` | the memory for batches, and who waits for it |
//! | `schedule` | when the thread has to look at which queue |
//! | `sender` | the thread: write, wait for the disk, try again, tell |
//! | `delivery` | what became of each record |
//! | `sticky` | where records without a key go |
//! | `identity` | by what id the log tells a retry from a new batch |
//! | `transaction` | what may be called when, where there are transactions |
//! | `interceptor` | who sees every record |
//! | `stats` | figures |

mod batch;
mod buffer;
mod config;
mod core;
mod delivery;
mod identity;
mod interceptor;
mod queue;
mod schedule;
mod sender;
mod stats;
mod sticky;
mod transaction;

use std::fmt;
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use self::core::Core;
pub use config::{Acks, ProducerConfig};
pub use delivery::{Delivery, RecordMetadata};
use identity::Identity;
pub use interceptor::{OutgoingRecord, ProducerInterceptor};
use queue::Outgoing;
use sender::Sender;
pub use stats::ProducerStats;
use stats::add;
use transaction::Transactions;

use crate::error::{Error, Result};
use crate::format::Record;
use crate::group::{GroupMetadata, OffsetAndMetadata, OffsetCommit};
use crate::topic::Store;
use crate::types::TopicPartition;

/// Sends records: gathers them in batches, and has a thread of its own write them.
///
/// A send only puts the record into the batch of its partition, so it takes well below a microsecond, and whoever sends
/// does not wait for the disk. A batch is written when it is full, or has waited for
/// [`linger`](ProducerConfig::linger), or when somebody [flushes](Self::flush). Records of one partition are written
/// in the order in which they were sent, whatever has to be tried again.
///
/// Use one producer from as many threads as you like. For those who want no thread, there is
/// [`Topic::append`](crate::Topic::append).
///
/// ```
/// use annals::{ProducerConfig, Record, Store, TopicConfig};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// store.create_topic("clicks", TopicConfig::new().partitions(3))?;
/// let producer = store.producer(ProducerConfig::new())?;
///
/// let delivery = producer.send("clicks", &Record::new("bought").key("user-7"))?;
/// producer.send_then("clicks", &Record::new("left").key("user-7"), |result| {
///     if let Err(error) = result {
///         eprintln!("lost: {error}");
///     }
/// })?;
/// producer.flush()?;
/// assert_eq!(delivery.wait()?.offset, 0);
/// # Ok::<(), annals::Error>(())
/// ```
///
/// # What can fail
/// A send fails at once if the record could never be written: it is too large, its topic does not exist, a compacted
/// topic wants a key. What a send has taken is decided by its delivery. The producer tries again what may pass: a full
/// disk, a failed sync (it [opens the partition again](crate::Partition::reopen) for that). What is left after the
/// [delivery timeout](ProducerConfig::delivery_timeout) has failed. [`Error::class`] tells what may be done then.
///
/// # Without duplicates
/// Unless told otherwise a producer is idempotent: each batch has a number, by which the log recognises one that it has
/// already. When the time of a batch is over of which nobody knows whether it is in the log, the producer begins a new
/// epoch.
///
/// # Its end
/// [`close`](Self::close) waits for what is under way. A producer that is dropped writes what was sent, without waiting
/// for `linger`, but once: what fails then is not tried again, since a full disk must not hold up a drop, and nobody is
/// there to be told. If the store is closed first, what is not written fails with [`Error::Closed`].
pub struct Producer {
    core: Arc<Core>,
    ended: Arc<Ended>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Says when the thread is done.
#[derive(Debug, Default)]
struct Ended {
    ended: Mutex<bool>,
    changed: Condvar,
}

/// Says so when dropped, whatever happened.
struct Ending(Arc<Ended>);

impl Drop for Ending {
    fn drop(&mut self) {
        *self.0.ended.lock() = true;
        self.0.changed.notify_all();
    }
}

/// How one record is sent otherwise than usual.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SendOptions {
    partition: Option<u32>,
}

impl SendOptions {
    /// As usual.
    pub fn new() -> Self {
        SendOptions::default()
    }

    /// To this partition, whatever the key.
    #[must_use]
    pub fn partition(mut self, number: u32) -> Self {
        self.partition = Some(number);
        self
    }
}

impl Store {
    /// Makes a producer, and starts its thread.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for settings that are out of bounds or do not go together; [`Error::Io`] if the thread
    /// cannot be started.
    pub fn producer(&self, config: ProducerConfig) -> Result<Producer> {
        config.check()?;
        let (mut identity, mut transactions) = (None, None);
        if config.is_idempotent() {
            let coordinator = self.transactions()?;
            let producer = match &config.transactional_id {
                Some(id) => {
                    transactions = Some(Transactions::new(Arc::clone(&coordinator), id.clone()));
                    coordinator.init_producer(id, config.transaction_timeout)?
                }
                None => coordinator.init_idempotent()?,
            };
            identity = Some(Identity::new(coordinator, producer));
        }
        let core = Core::new(config, self.weak_handle(), identity, transactions);
        let attendant: Weak<Core> = Arc::downgrade(&core);
        core.handle.attend(attendant)?;
        Producer::start(core)
    }
}

impl Producer {
    fn start(core: Arc<Core>) -> Result<Self> {
        let ended = Arc::<Ended>::default();
        let (sender, ending) = (Sender::new(Arc::clone(&core)), Ending(Arc::clone(&ended)));
        let name = match core.config.client_id.as_str() {
            "" => "annals-producer".to_string(),
            id => format!("annals-producer {id}"),
        };
        let work = move || {
            let _ending = ending;
            sender.run();
        };
        let thread = Builder::new()
            .name(name)
            .spawn(work)
            .map_err(|error| Error::io("start the thread of", "the producer".as_ref(), error))?;
        Ok(Producer { core, ended, thread: Mutex::new(Some(thread)) })
    }

    /// Sends a record. Returns as soon as it is in a batch; waits only if the buffer memory is used up.
    ///
    /// # Errors
    /// Nothing was sent then: [`Error::UnknownTopic`], [`Error::TooLarge`], [`Error::InvalidRecord`],
    /// [`Error::InvalidTimestamp`]; [`Error::Timeout`] if there was no memory within
    /// [`max_block`](ProducerConfig::max_block); [`Error::Closed`].
    pub fn send(&self, topic: &str, record: &Record<'_>) -> Result<Delivery> {
        self.enqueue(topic, record, SendOptions::new(), None)
    }

    /// As [`send`](Self::send), with options for this record.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`Error::UnknownPartition`].
    ///
    /// ```
    /// use annals::{ProducerConfig, Record, SendOptions, Store, TopicConfig};
    /// # let directory = tempfile::tempdir().unwrap();
    /// let store = Store::open(directory.path())?;
    /// store.create_topic("clicks", TopicConfig::new().partitions(3))?;
    /// let producer = store.producer(ProducerConfig::new())?;
    /// let delivery =
    ///     producer.send_with("clicks", &Record::new("bought"), SendOptions::new().partition(2))?;
    /// assert_eq!(delivery.wait()?.partition.partition, 2);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn send_with(&self, topic: &str, record: &Record<'_>, options: SendOptions) -> Result<Delivery> {
        self.enqueue(topic, record, options, None)
    }

    /// As [`send`](Self::send), and calls back once it is decided what became of the record: exactly once, unless the
    /// send itself failed. Callbacks of one partition come in the order of its records. They run on the producer's
    /// thread, which writes nothing meanwhile: they should be quick, and must not wait for the producer. One that
    /// panics is counted, and nothing else.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_then(
        &self,
        topic: &str,
        record: &Record<'_>,
        callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static,
    ) -> Result<Delivery> {
        self.enqueue(topic, record, SendOptions::new(), Some(Box::new(callback)))
    }

    /// As [`send_then`](Self::send_then), with options for this record.
    ///
    /// # Errors
    /// As [`send_with`](Self::send_with).
    pub fn send_with_then(
        &self,
        topic: &str,
        record: &Record<'_>,
        options: SendOptions,
        callback: impl FnOnce(Result<RecordMetadata>) + Send + 'static,
    ) -> Result<Delivery> {
        self.enqueue(topic, record, options, Some(Box::new(callback)))
    }

    fn enqueue(
        &self,
        topic: &str,
        record: &Record<'_>,
        options: SendOptions,
        callback: Option<batch::Callback>,
    ) -> Result<Delivery> {
        self.core.check_open()?;
        let interceptors = self.core.interceptors();
        if interceptors.is_empty() {
            return self.enqueue_as_is(topic, record, options, callback);
        }
        let outgoing = OutgoingRecord::new(topic, options.partition, record);
        let outgoing = outgoing.pass(interceptors, || add(&self.core.counters.panics, 1));
        let options = SendOptions { partition: outgoing.partition };
        self.enqueue_as_is(&outgoing.topic, &outgoing.record(), options, callback)
    }

    fn enqueue_as_is(
        &self,
        topic: &str,
        record: &Record<'_>,
        options: SendOptions,
        callback: Option<batch::Callback>,
    ) -> Result<Delivery> {
        let core = &self.core;
        let topic = core.topic(topic)?;
        let now = core.clock.now();
        let timestamp = record.timestamp_millis().unwrap_or(now);
        let size = record.encoded_len_max();
        let outgoing = Outgoing { record, timestamp, now, size, callback };
        let delivery = topic.add(core, options.partition, outgoing)?;
        add(&core.counters.sent, 1);
        Ok(delivery)
    }

    /// Has everything written that was sent so far, and waits until it is decided, callbacks included.
    ///
    /// # Errors
    /// None for records that failed: their deliveries say so. [`Error::InvalidState`] in a callback of this producer,
    /// which would wait for itself.
    pub fn flush(&self) -> Result<()> {
        self.core.waiting.refuse_sender("flush")?;
        self.core.flush();
        Ok(())
    }

    /// Begins a transaction. What is sent from now on belongs to it.
    ///
    /// # Errors
    /// [`Error::TransactionState`] if one is open; [`Error::InvalidState`] without a transactional id;
    /// [`Error::ProducerFenced`].
    pub fn begin_transaction(&self) -> Result<()> {
        self.transactions("begin a transaction")?.begin()
    }

    /// Commits offsets of a group as part of the transaction: they count once it is committed, together with its
    /// records. `member` is the consumer whose records these are, as its group knows it, so that one that was replaced
    /// commits nothing.
    ///
    /// # Errors
    /// [`Error::TransactionState`] if no transaction is open. Otherwise the transaction can only be aborted:
    /// [`Error::IllegalGeneration`], [`Error::UnknownMember`], [`Error::FencedInstance`] if the consumer is no member
    /// any more; [`Error::Timeout`].
    pub fn send_offsets_to_transaction(
        &self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
        member: &GroupMetadata,
    ) -> Result<()> {
        let commit = |(partition, position)| OffsetCommit { partition, position };
        let offsets: Vec<OffsetCommit> = offsets.into_iter().map(commit).collect();
        self.transactions("send offsets to a transaction")?.send_offsets(&self.core, &offsets, member)
    }

    /// Flushes, and commits the transaction: everything in it counts from now on, whatever happens.
    ///
    /// # Errors
    /// [`Error::TransactionAborted`] if one of its records was not delivered: [abort](Self::abort_transaction) it.
    /// [`Error::Timeout`] if nobody knows yet whether it is committed: commit again. [`Error::ProducerFenced`] if
    /// another producer has taken over, or the transaction took longer than its timeout: it is aborted.
    /// [`Error::TransactionState`] if none is open.
    pub fn commit_transaction(&self) -> Result<()> {
        self.transactions("commit a transaction")?.commit(&self.core)
    }

    /// Aborts the transaction: nothing of it counts. What is not written yet is not written any more.
    ///
    /// # Errors
    /// [`Error::Timeout`] if that could not be written down: abort again. [`Error::ProducerFenced`]: somebody else has
    /// done it. [`Error::TransactionState`] if none is open.
    pub fn abort_transaction(&self) -> Result<()> {
        self.transactions("abort a transaction")?.abort(&self.core)
    }

    fn transactions(&self, action: &'static str) -> Result<&Transactions> {
        self.core.waiting.refuse_sender(action)?;
        let without =
            || Error::InvalidState { action, reason: "the producer has no transactional id".into() };
        let transactions = self.core.transactions.as_ref().ok_or_else(without)?;
        if self.core.is_closing() { Err(core::closed()) } else { Ok(transactions) }
    }

    /// Takes no more sends, has everything written that was sent, and waits until it is decided, at most for `timeout`.
    /// What is not by then fails with [`Error::Closed`], but for what the disk has in its hands at that moment;
    /// callbacks of what has failed so run on the caller's thread. An open transaction is aborted once all else is
    /// done. Called again, it waits again. In a callback of this producer it does not wait, and nothing is given up.
    ///
    /// # Errors
    /// [`Error::Timeout`] if something was left.
    pub fn close(&self, timeout: Duration) -> Result<()> {
        self.core.begin_close(false);
        if self.core.waiting.is_sender() { Ok(()) } else { self.end(timeout) }
    }

    fn end(&self, timeout: Duration) -> Result<()> {
        let clock = &self.core.clock;
        let deadline = clock.monotonic().saturating_add(timeout);
        let mut ended = self.ended.ended.lock();
        while !*ended {
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                drop(ended);
                self.core.kill();
                return Err(Error::Timeout { what: "closing the producer".into(), waited: timeout });
            }
            self.ended.changed.wait_for(&mut ended, left);
        }
        drop(ended);
        if let Some(thread) = self.thread.lock().take() {
            // It has nothing left to do, and does not panic.
            let _ = thread.join();
        }
        Ok(())
    }

    /// Figures about it.
    pub fn stats(&self) -> ProducerStats {
        self.core.counters.snapshot(self.core.pool.available(), self.core.config.buffer_memory)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.core.begin_close(true);
        // The last handle may have been a callback's; its thread has the rest to do.
        if !self.core.waiting.is_sender() {
            // Nobody is there to hear of what is left.
            let _ = self.end(Duration::MAX);
        }
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("config", &self.core.config).finish_non_exhaustive()
    }
}
