//! The Kafka log as a library: topics of partitions, each an ordered, durable, replayable log, in the files that
//! Apache Kafka uses, inside your process.
//!
//! ```
//! use annals::{Record, Store, TopicConfig};
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path();
//! let store = Store::open(path)?;
//! let clicks = store.create_topic("clicks", TopicConfig::new().partitions(3))?;
//!
//! // The key decides the partition, as it does for Kafka's clients. On disk when this returns.
//! let placed = clicks.append(&Record::new("bought a lamp").key("user-7"))?;
//!
//! let partition = clicks.partition(placed.partition)?;
//! for record in partition.read_from(placed.offset)? {
//!     assert_eq!(record?.value(), Some(&b"bought a lamp"[..]));
//! }
//! store.close()?;
//! # Ok::<(), annals::Error>(())
//! ```
//!
//! | to | see |
//! | --- | --- |
//! | open a directory, make and find topics | [`Store`], [`StoreOptions`], [`TopicConfig`] |
//! | append | [`Topic::append`], [`Partition::append`], [`Partition::append_batch`], [`Partition::append_encoded`] |
//! | read | [`Partition::read_from`], [`Partition::fetch`], [`Partition::wait_for`] |
//! | write much without waiting | [`Store::producer`], [`Producer`], [`Delivery`] |
//! | read on where a group left off, and share topics | [`Store::consumer`], [`Consumer`], [`mod@consumer`] |
//! | share records out among any number of consumers, or deliver by priority | [`Store::share_consumer`], [`mod@share`] |
//! | write all or nothing, together with what was read | [`Producer::begin_transaction`], [`mod@transaction`] |
//! | know who gets a record, how often, and what it costs | [`docs::delivery`] |
//! | look after groups, or coordinate them otherwise | [`Store::groups`], [`mod@group`] |
//! | append without duplicates, or in transactions, by hand | [`AppendOptions`], [`Partition::end_transaction`], [`Isolation`] |
//! | delete what is old, keep the last value of each key | [`Store::maintain`], [`Partition::delete_records`], [`Partition::compact`] |
//! | follow another log | [`Partition::append_as_follower`], [`Partition::truncate_to`], [`Partition::set_high_watermark`] |
//! | find by time | [`Partition::offset_for_timestamp`] |
//! | keep no more than the settings say | [`Store::maintain`], [`StoreOptions::background`] |
//! | watch it | [`Store::stats`], [`Partition::stats`], [`docs::operations`] |
//! | choose what an append survives | [`Durability`] |
//! | know what a crash left, and go on after damage | [`RecoveryReport`], [`Damage`], [`Records::skip_damage`] |
//! | look into files without a store | [`Segment`], [`OffsetIndex`], [`TimeIndex`], [`TransactionIndex`], [`mod@format`] |
//! | test your own code against crashes and failing disks | [`fs::SimulatedDisk`], [`clock::ManualClock`] |
//! | read how and why it works | [`docs`] |
//!
//! It is not a server, opens no socket and needs no runtime. It starts no thread that stays unless
//! [asked to](StoreOptions::background): a [`Producer`] is such a request, for one. Handles ([`Topic`],
//! [`Partition`]) are cheap to clone and may be used from any number of threads at once.

pub mod clock;
pub mod consumer;
pub mod docs;
pub mod error;
pub mod format;
pub mod fs;
pub mod group;
mod observe;
mod partition;
mod producer;
pub mod share;
mod storage;
mod topic;
pub mod transaction;
mod types;
mod wake;

// A public module is the home of its names. The root repeats those of them that most programs need.
pub use consumer::{Consumer, ConsumerConfig, ConsumerRecord, ConsumerRecords};
pub use error::{Error, ErrorClass, FormatError, Result};
pub use format::{Record, RecordBatch, StoredRecord};
pub use partition::{
    AppendOptions, Appended, CleanupPolicy, CompactionReport, CompactionStatus, CompressionType, Damage,
    Durability, EpochEnd, Expired, FetchOptions, Fetched, Isolation, LogConfig, OpenTransaction, Partition,
    PartitionStats, ProducerState, Records, RecoveryReport, RetentionTime, TimestampOffset,
};
pub use producer::{
    Acks, Delivery, OutgoingRecord, Producer, ProducerConfig, ProducerInterceptor, ProducerStats,
    RecordMetadata, SendOptions,
};
pub use storage::{
    IndexEntry, OffsetIndex, Segment, SegmentBatches, TimeIndex, TimeIndexEntry, TransactionIndex,
};
pub use topic::{
    ConfigEntry, DefaultPartitioner, MaintenanceReport, MaintenanceStatus, Partitioner, Placed,
    RoundRobinPartitioner, Store, StoreOptions, StoreReport, StoreStats, Topic, TopicConfig, murmur2,
    partition_for_key,
};
pub use types::{OFFSET_MAX, TOPIC_NAME_BYTES_MAX, TopicName, TopicPartition, Uuid};
pub use wake::{Replier, Reply, WakeupHandle};
