//! [`ProducerConfig`]: the settings of a producer, and which of them go together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::interceptor::ProducerInterceptor;
use crate::error::{Error, Result};
use crate::format::{Codec, Compression};
use crate::topic::Partitioner;
use crate::types::TopicName;

/// When a record counts as delivered (Kafka's `acks`).
///
/// There is no network here, and mostly one copy of a log, so the words mean this:
///
/// | | delivered once the record is | of a failure to sync |
/// | --- | --- | --- |
/// | [`None`](Acks::None) | written: it survives the end of the process | nothing is heard |
/// | [`Leader`](Acks::Leader) | as durable as its topic says ([`Durability`](crate::Durability)) | it is tried again |
/// | [`All`](Acks::All) | that, and on all replicas that count | it is tried again |
///
/// Only topics with `annals.replicated` have replicas that count: there the batch has to lie below the
/// [high watermark](crate::Partition::high_watermark), which whoever replicates raises once `min.insync.replicas` have
/// it. If that takes longer than the delivery timeout, the delivery fails with
/// [`Error::NotEnoughReplicas`](crate::Error::NotEnoughReplicas), and the record stays in the log unless it is
/// truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Acks {
    /// When it is written (Kafka's `0`, but that the offset is known).
    None,
    /// When the log has it as the topic says (Kafka's `1`).
    Leader,
    /// When all replicas have it that count (Kafka's `all`).
    #[default]
    All,
}

/// Makes the partitioner of a topic.
type MakePartitioner = dyn Fn(&TopicName) -> Arc<dyn Partitioner> + Send + Sync;

/// Settings of a producer; names and defaults are Kafka's. Setters take anything, [`Store::producer`] checks.
///
/// ```
/// use std::time::Duration;
/// use annals::format::Compression;
/// use annals::{Acks, ProducerConfig, Store};
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let config = ProducerConfig::new().linger(Duration::from_millis(20)).batch_size(64 << 10);
/// let producer = store.producer(config)?;
///
/// // Order and absence of duplicates are only promised where all have what is acknowledged.
/// let mixed = ProducerConfig::new().acks(Acks::Leader).idempotence(true);
/// assert!(store.producer(mixed).is_err());
/// # Ok::<(), annals::Error>(())
/// ```
///
/// [`Store::producer`]: crate::Store::producer
#[derive(Clone)]
pub struct ProducerConfig {
    pub(super) acks: Acks,
    pub(super) batch_size: usize,
    pub(super) linger: Duration,
    pub(super) buffer_memory: usize,
    pub(super) max_block: Duration,
    pub(super) delivery_timeout: Duration,
    pub(super) retries: u32,
    pub(super) retry_backoff: Duration,
    pub(super) retry_backoff_max: Duration,
    pub(super) codec: Codec,
    pub(super) idempotence: Option<bool>,
    pub(super) max_request_size: usize,
    pub(super) transactional_id: Option<String>,
    pub(super) transaction_timeout: Duration,
    pub(super) partitioner: Option<Arc<MakePartitioner>>,
    pub(super) ignore_keys: bool,
    pub(super) adaptive: bool,
    pub(super) interceptors: Vec<Arc<dyn ProducerInterceptor>>,
    pub(super) client_id: String,
    pub(super) sync_threads: usize,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig::new()
    }
}

impl ProducerConfig {
    /// The defaults.
    pub fn new() -> Self {
        ProducerConfig {
            acks: Acks::All,
            batch_size: 16 << 10,
            linger: Duration::from_millis(5),
            buffer_memory: 32 << 20,
            max_block: Duration::from_secs(60),
            delivery_timeout: Duration::from_secs(120),
            retries: i32::MAX as u32,
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            codec: Codec::default(),
            idempotence: None,
            max_request_size: 1 << 20,
            transactional_id: None,
            transaction_timeout: Duration::from_secs(60),
            partitioner: None,
            ignore_keys: false,
            adaptive: true,
            interceptors: Vec::new(),
            client_id: String::new(),
            sync_threads: 8,
        }
    }

    /// When a record counts as delivered (`acks`); [`Acks::All`] if not set.
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// How many bytes of records of one partition go into a batch, before compression (`batch.size`); 16 KiB if not
    /// set. 0 gives each record a batch of its own. A topic that takes only smaller batches gets smaller ones.
    #[must_use]
    pub fn batch_size(mut self, bytes: usize) -> Self {
        self.batch_size = bytes;
        self
    }

    /// How long a batch that is not full waits for more records (`linger.ms`); 5 ms if not set.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How many bytes of batches may be under way (`buffer.memory`); 32 MiB if not set. Each batch counts with
    /// the batch size at least.
    #[must_use]
    pub fn buffer_memory(mut self, bytes: usize) -> Self {
        self.buffer_memory = bytes;
        self
    }

    /// How long a send waits for buffer memory before it gives up (`max.block.ms`); 60 s if not set.
    #[must_use]
    pub fn max_block(mut self, time: Duration) -> Self {
        self.max_block = time;
        self
    }

    /// How long a record has from being sent to being delivered, all retries included (`delivery.timeout.ms`);
    /// 2 minutes if not set.
    #[must_use]
    pub fn delivery_timeout(mut self, time: Duration) -> Self {
        self.delivery_timeout = time;
        self
    }

    /// How often a batch is tried again at most (`retries`); without a limit but the delivery timeout if not set.
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How long the first retry waits (`retry.backoff.ms`, 100 ms if not set) and how long any waits at most
    /// (`retry.backoff.max.ms`, 1 s). Each doubles the wait of the one before; a fifth of it is chance.
    #[must_use]
    pub fn retry_backoff(mut self, first: Duration, max: Duration) -> Self {
        (self.retry_backoff, self.retry_backoff_max) = (first, max);
        self
    }

    /// How batches are compressed (`compression.type`, `compression.*.level`); not at all if not set. A topic with a
    /// compression of its own has it so at once.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.codec = compression.into();
        self
    }

    /// As [`compression`](Self::compression), with the level.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Whether retries never duplicate (`enable.idempotence`). If not set, they do not as long as `acks` is
    /// [`Acks::All`] and there are retries.
    #[must_use]
    pub fn idempotence(mut self, on: bool) -> Self {
        self.idempotence = Some(on);
        self
    }

    /// The largest record that is taken, with its batch around it and before compression (`max.request.size`); 1 MiB
    /// if not set.
    #[must_use]
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.max_request_size = bytes;
        self
    }

    /// Makes it a producer of transactions under that name (`transactional.id`): it takes over from, and shuts out, any
    /// producer that had the name before.
    #[must_use]
    pub fn transactional_id(mut self, id: impl Into<String>) -> Self {
        self.transactional_id = Some(id.into());
        self
    }

    /// How long a transaction may stay open before it is aborted for the producer (`transaction.timeout.ms`); 60 s if
    /// not set.
    #[must_use]
    pub fn transaction_timeout(mut self, time: Duration) -> Self {
        self.transaction_timeout = time;
        self
    }

    /// Who chooses the partition of records that name none; called once for each topic (`partitioner.class`). If not
    /// set, the key decides, and records without a key stay on one partition for a batch, preferring those that
    /// have little waiting.
    ///
    /// ```
    /// use annals::{ProducerConfig, RoundRobinPartitioner};
    /// let config = ProducerConfig::new().partitioner(|_topic| RoundRobinPartitioner::new());
    /// ```
    #[must_use]
    pub fn partitioner<P: Partitioner + 'static>(
        mut self,
        make: impl Fn(&TopicName) -> P + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(move |topic| Arc::new(make(topic))));
        self
    }

    /// Whether the default partitioner treats records with a key as those without (`partitioner.ignore.keys`).
    #[must_use]
    pub fn ignore_keys(mut self, ignore: bool) -> Self {
        self.ignore_keys = ignore;
        self
    }

    /// Whether the default partitioner prefers partitions that have little waiting
    /// (`partitioner.adaptive.partitioning.enable`); it does if not set.
    #[must_use]
    pub fn adaptive_partitioning(mut self, on: bool) -> Self {
        self.adaptive = on;
        self
    }

    /// Adds somebody who sees every record before it is sent and after it is decided (`interceptor.classes`). They are
    /// called in the order in which they were added.
    #[must_use]
    pub fn interceptor(mut self, interceptor: impl ProducerInterceptor + 'static) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// How the producer calls itself (`client.id`), in the name of its thread.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// How many logs are synced at once, where records of many partitions are written together and their topics want
    /// them on disk; 8 if not set. The producer's thread does one of them, and starts a thread for each other that ends
    /// with its sync. With 1 there is no thread but the producer's own, and the logs are synced in turn.
    #[must_use]
    pub fn sync_threads(mut self, threads: usize) -> Self {
        self.sync_threads = threads.max(1);
        self
    }

    pub(super) fn is_idempotent(&self) -> bool {
        self.idempotence.unwrap_or(self.acks == Acks::All && self.retries > 0)
    }

    /// Whether the settings are in bounds and go together.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |key: &str, value: String, reason: &str| {
            Err(Error::InvalidConfig { key: key.into(), value, reason: reason.into() })
        };
        let millis = |time: Duration| time.as_millis().to_string();
        if self.idempotence == Some(true) && self.acks != Acks::All {
            return refuse("acks", format!("{:?}", self.acks), "idempotence needs acks=All");
        }
        if self.idempotence == Some(true) && self.retries == 0 {
            return refuse("retries", "0".into(), "idempotence needs retries above 0");
        }
        if let Some(id) = &self.transactional_id {
            if !self.is_idempotent() {
                let reason = "a transactional id needs idempotence, and so acks=All and retries";
                return refuse("transactional.id", id.clone(), reason);
            }
            if id.is_empty() || id.len() > i16::MAX as usize {
                return refuse(
                    "transactional.id",
                    id.chars().take(64).collect(),
                    "it must have 1 to 32,767 bytes",
                );
            }
        }
        if self.delivery_timeout < self.linger {
            let value = millis(self.delivery_timeout);
            return refuse("delivery.timeout.ms", value, "it must not be below linger.ms");
        }
        if self.retry_backoff > self.retry_backoff_max {
            let value = millis(self.retry_backoff);
            return refuse("retry.backoff.ms", value, "it must not be above retry.backoff.max.ms");
        }
        if self.transaction_timeout.is_zero() {
            return refuse("transaction.timeout.ms", "0".into(), "it must be above 0");
        }
        if self.buffer_memory < self.batch_size {
            let value = self.buffer_memory.to_string();
            return refuse("buffer.memory", value, "it must not be below batch.size");
        }
        if self.client_id.contains('\0') {
            return refuse("client.id", self.client_id.escape_debug().to_string(), "it must not contain NUL");
        }
        Ok(())
    }
}

impl fmt::Debug for ProducerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerConfig")
            .field("acks", &self.acks)
            .field("batch_size", &self.batch_size)
            .field("linger", &self.linger)
            .field("buffer_memory", &self.buffer_memory)
            .field("max_block", &self.max_block)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("retries", &self.retries)
            .field("codec", &self.codec)
            .field("idempotence", &self.is_idempotent())
            .field("transactional_id", &self.transactional_id)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}
