//! What can go wrong, as types: [`Error`] for callers, [`FormatError`] for bytes that do not decode.
//!
//! This module names no other module of the crate. An error holds kinds, paths, positions and numbers;
//! the layer that knows the file and the offset adds them where the error is made.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, grouped by what the caller can do about it.
///
/// Each error names what it concerns (file, position, offset, topic) and, where the operating system
/// refused, carries its error as [`source`](std::error::Error::source). [`Error::is_retryable`] says
/// whether the same call may work later without anybody repairing anything. A clone is the same error, for one that
/// many are told.
///
/// ```
/// use annals::Error;
/// let store = annals::Store::open(std::env::temp_dir().join("annals-doc-error"))?;
/// let missing = store.topic("nobody-made-this").unwrap_err();
/// assert!(matches!(missing, Error::UnknownTopic { .. }));
/// assert!(!missing.is_retryable());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk, the quota or the file size limit is exhausted. Nothing was kept of the refused write;
    /// reads and deletes go on, and appends work again once there is room.
    #[error("cannot {action} {path}: no space left; free some and try again")]
    StorageFull {
        /// What was being done.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },

    /// The operating system refused. Whether a retry helps depends on the cause.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },

    /// The process or the system has no file descriptor left. Works again when some are closed.
    #[error("cannot {action} {path}: too many open files; raise the limit or lower `max_open_files`")]
    TooManyOpenFiles {
        /// What was being done.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },

    /// Stored bytes are not what was written. They are kept as they are and never handed out.
    #[error("{path} is damaged at byte {position} (offset {offset}): {detail}")]
    Corruption {
        /// The damaged file.
        path: PathBuf,
        /// The byte position in the file at which the damage was met.
        position: u64,
        /// The first offset that cannot be read.
        offset: u64,
        /// What was expected and what was found.
        detail: String,
    },

    /// Offsets that should be there are not: a segment or a part of one is gone.
    #[error("offsets {from} to {to} (exclusive) are missing from {path}: {detail}")]
    MissingOffsets {
        /// The partition directory, or the file in which the gap was met.
        path: PathBuf,
        /// The first missing offset.
        from: u64,
        /// The first offset after the gap.
        to: u64,
        /// What says that they should be there.
        detail: String,
    },

    /// The partition holds damage, found at opening, that appending would cover up. Reads work; appends wait
    /// until [`Partition::accept_loss`](crate::Partition::accept_loss) is called.
    #[error("{partition} refuses appends because of damage: {detail}; read around it, then call accept_loss")]
    Damaged {
        /// The partition, as `topic-number`.
        partition: String,
        /// The damage found.
        detail: String,
    },

    /// A write or sync failed earlier, so nothing more is acknowledged on this partition until it is reopened
    /// ([`Partition::reopen`](crate::Partition::reopen)). Reads of what was acknowledged go on.
    #[error(
        "{partition} is closed to appends since {action} failed: {cause}; call reopen once the disk is well"
    )]
    Poisoned {
        /// The partition, as `topic-number`.
        partition: String,
        /// What failed.
        action: &'static str,
        /// The failure, in words.
        cause: String,
    },

    /// Another process, or another handle of this one, owns the directory.
    #[error("{path} is in use by another process or another handle of this one")]
    Locked {
        /// The directory.
        path: PathBuf,
    },

    /// The store, or the medium it lies on, can only be read.
    #[error("cannot {action} {path}: it is read-only")]
    ReadOnly {
        /// What was asked for.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
    },

    /// A name that may not be used.
    #[error("invalid {kind} name {name:?}: {reason}")]
    InvalidName {
        /// What it should have named, for instance `topic`.
        kind: &'static str,
        /// The name as given (shortened if very long).
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },

    /// Something is larger than the limit that applies to it.
    #[error("{what} would be {size}, and the limit is {limit} ({setting})")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size, in bytes unless it is a number of something.
        size: u64,
        /// The limit.
        limit: u64,
        /// The setting that holds the limit.
        setting: &'static str,
    },

    /// A file was written by a newer version, or by something that is not known. It is left untouched.
    #[error("{path} has {what} {found}, but this version reads {supported}; the file was left as it is")]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// What is not supported, for instance `manifest version`.
        what: &'static str,
        /// What was found.
        found: i64,
        /// What is supported, in words.
        supported: &'static str,
    },

    /// A read asked for an offset outside the log.
    #[error(
        "offset {requested} is outside the log of {partition}: it holds {log_start} to {log_end} (exclusive)"
    )]
    OffsetOutOfRange {
        /// The partition, as `topic-number`.
        partition: String,
        /// The offset asked for.
        requested: u64,
        /// The first offset that can be read.
        log_start: u64,
        /// The offset that the next record will get.
        log_end: u64,
    },

    /// An offset index entry was offered out of order.
    #[error(
        "index entry for offset {offset} at position {position} does not follow the last one ({last_offset})"
    )]
    IndexOrder {
        /// The offset offered.
        offset: u64,
        /// The position offered.
        position: u64,
        /// The offset of the last entry.
        last_offset: u64,
    },

    /// Records that may not be stored. Nothing of the batch was written.
    #[error("invalid record {index} of the batch: {reason}")]
    InvalidRecord {
        /// The index in the batch of the first record refused.
        index: usize,
        /// The rule it breaks.
        reason: String,
    },

    /// A record's timestamp is outside what the topic accepts. Nothing of the batch was written.
    #[error("invalid timestamp {timestamp} of record {index}: {reason}")]
    InvalidTimestamp {
        /// The index in the batch of the first record refused.
        index: usize,
        /// Its timestamp, in milliseconds since the epoch.
        timestamp: i64,
        /// The rule it breaks.
        reason: String,
    },

    /// An encoded batch that does not decode. Nothing of it was written.
    #[error("the batch cannot be appended: {source}")]
    InvalidBatch {
        /// What is wrong with its bytes.
        source: FormatError,
    },

    /// A producer, or the coordinator of its transactions, that a newer epoch has replaced (Kafka's
    /// `INVALID_PRODUCER_EPOCH`, `TRANSACTION_COORDINATOR_FENCED`). Nothing was written; it must not try again.
    #[error("{partition} refuses {what} {found} of producer {producer_id}: epoch {current} has replaced it")]
    Fenced {
        /// The partition, as `topic-number`.
        partition: String,
        /// The producer.
        producer_id: i64,
        /// Whose epoch it is: `producer epoch` or `coordinator epoch`.
        what: &'static str,
        /// The epoch that was offered.
        found: i32,
        /// The epoch that is known.
        current: i32,
    },

    /// A leader that a newer one has replaced (Kafka's `FENCED_LEADER_EPOCH`).
    #[error("{partition} refuses leader epoch {found}: epoch {current} has replaced it")]
    LeaderFenced {
        /// The partition, as `topic-number`.
        partition: String,
        /// The epoch that was offered.
        found: i32,
        /// The epoch that is known.
        current: i32,
    },

    /// A batch of an idempotent producer that does not follow its last one (Kafka's
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`). Nothing was written: a batch before it is missing, or it is a repetition too
    /// old to be recognised.
    #[error(
        "{partition} refuses sequence {found} of producer {producer_id} (epoch {producer_epoch}): {expected}"
    )]
    OutOfOrderSequence {
        /// The partition, as `topic-number`.
        partition: String,
        /// The producer.
        producer_id: i64,
        /// Its epoch.
        producer_epoch: i16,
        /// The first sequence number of the batch.
        found: i32,
        /// What would have been accepted, in words.
        expected: String,
    },

    /// An append that the state of the producer's transaction does not allow (Kafka's `INVALID_TXN_STATE`). Nothing
    /// was written.
    #[error("{partition} refuses producer {producer_id}: {reason}")]
    InvalidTransactionState {
        /// The partition, as `topic-number`.
        partition: String,
        /// The producer.
        producer_id: i64,
        /// The rule it breaks.
        reason: String,
    },

    /// Something that the topic's settings do not allow (Kafka's `POLICY_VIOLATION`).
    #[error("cannot {action} {partition}: {reason}")]
    PolicyViolation {
        /// The partition, as `topic-number`.
        partition: String,
        /// What was asked for.
        action: &'static str,
        /// The setting that is against it, and what would allow it.
        reason: String,
    },

    /// Batches from a leader that do not follow the log of a follower. Nothing was written.
    #[error("{partition} cannot follow with offset {found}: {reason} (its log ends at {log_end})")]
    OutOfOrderOffsets {
        /// The partition, as `topic-number`.
        partition: String,
        /// The offset offered.
        found: u64,
        /// The offset at which the log ends.
        log_end: u64,
        /// The rule it breaks.
        reason: &'static str,
    },

    /// A setting outside its bounds, or unknown.
    #[error("invalid configuration {key}={value}: {reason}")]
    InvalidConfig {
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What would be valid.
        reason: String,
    },

    /// No such topic.
    #[error("there is no topic {topic:?}")]
    UnknownTopic {
        /// The topic asked for.
        topic: String,
    },

    /// The topic exists already.
    #[error("topic {topic:?} exists already")]
    TopicExists {
        /// The topic.
        topic: String,
    },

    /// No such partition.
    #[error("topic {topic:?} has no partition {partition}: it has {count}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        count: u32,
    },

    /// A member that its group does not know: it was away for too long, or has left (Kafka's `UNKNOWN_MEMBER_ID`).
    /// It may join again.
    #[error("group {group:?} does not know member {member_id:?}: it was silent for too long, or has left")]
    UnknownMember {
        /// The group.
        group: String,
        /// The member.
        member_id: String,
    },

    /// A member of a generation of its group that is over (Kafka's `ILLEGAL_GENERATION`). It must join again; what it
    /// was assigned may be another's.
    #[error("group {group:?} is in generation {current}, member {member_id:?} speaks of {found}")]
    IllegalGeneration {
        /// The group.
        group: String,
        /// The member.
        member_id: String,
        /// The generation that it named.
        found: i32,
        /// The generation that the group is in.
        current: i32,
    },

    /// The group shares out its partitions anew: the member must join again (Kafka's `REBALANCE_IN_PROGRESS`).
    #[error("group {group:?} is rebalancing")]
    RebalanceInProgress {
        /// The group.
        group: String,
    },

    /// A static member whose place another one with the same instance id has taken (Kafka's `FENCED_INSTANCE_ID`).
    #[error("another consumer has taken the place of instance {instance_id:?} in group {group:?}")]
    FencedInstance {
        /// The group.
        group: String,
        /// The instance id (`group.instance.id`).
        instance_id: String,
    },

    /// The group wants a newcomer to come again with the id that it was given (Kafka's `MEMBER_ID_REQUIRED`).
    #[error("group {group:?} wants member {member_id:?} to join with that id")]
    MemberIdRequired {
        /// The group.
        group: String,
        /// The id to join with.
        member_id: String,
    },

    /// A member whose protocol no other member of the group has (Kafka's `INCONSISTENT_GROUP_PROTOCOL`).
    #[error("group {group:?} cannot take the member: {reason}")]
    InconsistentProtocol {
        /// The group.
        group: String,
        /// What does not fit.
        reason: String,
    },

    /// No such group (Kafka's `GROUP_ID_NOT_FOUND`).
    #[error("there is no group {group:?}")]
    UnknownGroup {
        /// The group.
        group: String,
    },

    /// The group has members, so it cannot be deleted or reset (Kafka's `NON_EMPTY_GROUP`).
    #[error("group {group:?} has members; they must leave first")]
    GroupNotEmpty {
        /// The group.
        group: String,
    },

    /// A member of the group subscribes to the topic, so its offsets stay (Kafka's `GROUP_SUBSCRIBED_TO_TOPIC`).
    #[error("group {group:?} is subscribed to topic {topic:?}; its offsets there cannot be deleted")]
    GroupSubscribed {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
    },

    /// A transaction that is neither committed nor aborted has offsets of the partition; ask again (Kafka's
    /// `UNSTABLE_OFFSET_COMMIT`).
    #[error("group {group:?} has offsets of {partition} in a transaction that is not ended")]
    UnstableOffsets {
        /// The group.
        group: String,
        /// The partition, as `topic-number`.
        partition: String,
    },

    /// Nobody has said where to begin: nothing is committed, and `auto.offset.reset` is `none`.
    #[error("no offset is committed for {partition}, and offset_reset is none: seek, or choose a reset")]
    NoOffset {
        /// The partition, as `topic-number`.
        partition: String,
    },

    /// A transactional producer that a newer one with the same transactional id has replaced, or whose transaction
    /// took longer than its timeout (Kafka's `PRODUCER_FENCED`). It must be closed.
    #[error("a newer producer has replaced {transactional_id:?} in epoch {producer_epoch}; close this one")]
    ProducerFenced {
        /// The transactional id.
        transactional_id: String,
        /// The epoch of the producer that was refused.
        producer_epoch: i16,
    },

    /// No such transactional id (Kafka's `TRANSACTIONAL_ID_NOT_FOUND`).
    #[error("there is no transactional id {transactional_id:?}")]
    UnknownTransactionalId {
        /// The transactional id.
        transactional_id: String,
    },

    /// A transactional id with another producer id than the one offered (Kafka's `INVALID_PRODUCER_ID_MAPPING`).
    #[error("transactional id {transactional_id:?} does not belong to producer {producer_id}")]
    InvalidProducerIdMapping {
        /// The transactional id.
        transactional_id: String,
        /// The producer id offered.
        producer_id: i64,
    },

    /// The transaction before is still being ended; ask again (Kafka's `CONCURRENT_TRANSACTIONS`).
    #[error("a transaction of {transactional_id:?} is still being ended")]
    ConcurrentTransactions {
        /// The transactional id.
        transactional_id: String,
    },

    /// Something that the state of the transaction does not allow (Kafka's `INVALID_TXN_STATE`).
    #[error("transactional id {transactional_id:?}: {reason}")]
    TransactionState {
        /// The transactional id.
        transactional_id: String,
        /// The rule it breaks.
        reason: String,
    },

    /// Something of the transaction failed, so that it can only be aborted (Kafka's `TRANSACTION_ABORTABLE`).
    #[error("the transaction of {transactional_id:?} must be aborted: {reason}")]
    TransactionAborted {
        /// The transactional id.
        transactional_id: String,
        /// What failed.
        reason: String,
    },

    /// Too few replicas have what was appended (Kafka's `NOT_ENOUGH_REPLICAS_AFTER_APPEND`). It is in the log, and may
    /// still be replicated.
    #[error("{partition} has too few replicas for acks=all: {reason}")]
    NotEnoughReplicas {
        /// The partition, as `topic-number`.
        partition: String,
        /// How many are wanted, and what is known.
        reason: String,
    },

    /// A record of a share group is not in the state in which this could be done to it (Kafka's
    /// `INVALID_RECORD_STATE`): its lock ran out, or it was acknowledged already.
    #[error("record {offset} of {partition}: {reason}")]
    InvalidRecordState {
        /// The partition, as `topic-number`.
        partition: String,
        /// The offset of the record.
        offset: u64,
        /// The rule it breaks.
        reason: String,
    },

    /// It did not happen in time. It may happen yet.
    #[error("{what} took longer than {} ms", waited.as_millis())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: std::time::Duration,
    },

    /// Somebody asked the call to give up (Kafka's `WakeupException`).
    #[error("woken up")]
    Woken,

    /// A call that does not fit what was called before.
    #[error("cannot {action}: {reason}")]
    InvalidState {
        /// What was asked for.
        action: &'static str,
        /// What is in the way, and what to do.
        reason: String,
    },

    /// The store or the topic was closed or deleted while this handle was held.
    #[error("{what} is closed")]
    Closed {
        /// What is closed.
        what: String,
    },
}

/// What a producer, or its user, can do about an error (Kafka's `RetriableException`, `AbortableException`, and the
/// errors after which a producer must be closed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The same record may well be taken later. A producer has tried until its time was over; send it again.
    Retriable,
    /// This record, or this call, failed for a reason that stays. Others may succeed; a transaction that it belongs to
    /// has to be aborted.
    Abortable,
    /// The producer is of no use any more: it was replaced, or closed. Close it; others may take its place.
    Fatal,
}

impl Error {
    /// What can be done about it where records are sent.
    ///
    /// ```
    /// use annals::{Error, ErrorClass};
    /// let closed = Error::Closed { what: "the store".into() };
    /// assert_eq!(closed.class(), ErrorClass::Fatal);
    /// ```
    pub fn class(&self) -> ErrorClass {
        match self {
            // A fenced coordinator is no fault of the producer.
            Error::Fenced { what: "coordinator epoch", .. } => ErrorClass::Retriable,
            Error::Fenced { .. }
            | Error::ProducerFenced { .. }
            | Error::InvalidProducerIdMapping { .. }
            | Error::Closed { .. } => ErrorClass::Fatal,
            // A producer opens what is poisoned again by itself.
            Error::Io { .. } | Error::Poisoned { .. } => ErrorClass::Retriable,
            error if error.is_retryable() => ErrorClass::Retriable,
            _ => ErrorClass::Abortable,
        }
    }

    /// The number that Kafka's protocol has for it, for servers that answer Kafka's clients; `None` where Kafka
    /// would say `UNKNOWN_SERVER_ERROR` (-1).
    ///
    /// ```
    /// # use annals::Error;
    /// let outside = Error::OffsetOutOfRange { partition: "t-0".into(), requested: 9, log_start: 0, log_end: 3 };
    /// assert_eq!(outside.kafka_code(), Some(1));
    /// ```
    pub fn kafka_code(&self) -> Option<i16> {
        Some(match self {
            Error::OffsetOutOfRange { .. } => 1,
            Error::Timeout { .. } => 7,
            Error::TooLarge { setting: "offset.metadata.max.bytes", .. } => 12,
            Error::NotEnoughReplicas { .. } => 20,
            Error::IllegalGeneration { .. } => 22,
            Error::InconsistentProtocol { .. } => 23,
            Error::InvalidName { kind: "group", .. } => 24,
            Error::UnknownMember { .. } => 25,
            Error::InvalidConfig { key, .. } if key == "session.timeout.ms" => 26,
            Error::RebalanceInProgress { .. } => 27,
            Error::InvalidProducerIdMapping { .. } => 49,
            Error::InvalidConfig { key, .. } if key == "transaction.timeout.ms" => 50,
            Error::ConcurrentTransactions { .. } => 51,
            Error::GroupNotEmpty { .. } => 68,
            Error::UnknownGroup { .. } => 69,
            Error::MemberIdRequired { .. } => 79,
            Error::TooLarge { setting: "group.max.size", .. } => 81,
            Error::FencedInstance { .. } => 82,
            Error::GroupSubscribed { .. } => 86,
            Error::UnstableOffsets { .. } => 88,
            Error::ProducerFenced { .. } => 90,
            Error::UnknownTransactionalId { .. } => 105,
            Error::TransactionAborted { .. } => 120,
            Error::InvalidRecordState { .. } => 121,
            Error::InvalidBatch { source: FormatError::Checksum { .. } } | Error::Corruption { .. } => 2,
            Error::UnknownTopic { .. } | Error::UnknownPartition { .. } => 3,
            Error::TooLarge { what: "a batch", setting: "max.message.bytes", .. } => 10,
            Error::InvalidName { kind: "topic", .. } => 17,
            Error::TooLarge { what: "a batch", .. } => 18,
            Error::InvalidTimestamp { .. } => 32,
            Error::TopicExists { .. } => 36,
            Error::InvalidConfig { .. } => 40,
            Error::PolicyViolation { .. } => 44,
            Error::OutOfOrderSequence { .. } => 45,
            Error::Fenced { what: "coordinator epoch", .. } => 52,
            Error::LeaderFenced { .. } => 74,
            Error::Fenced { .. } => 47,
            Error::InvalidTransactionState { .. } | Error::TransactionState { .. } => 48,
            Error::StorageFull { .. }
            | Error::Io { .. }
            | Error::Poisoned { .. }
            | Error::Damaged { .. }
            | Error::TooManyOpenFiles { .. } => 56,
            Error::InvalidRecord { .. } | Error::InvalidBatch { .. } => 87,
            _ => return None,
        })
    }

    /// Wraps a failed system call, sorting out the kinds that callers treat differently.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        let errno = rustix::io::Errno::from_io_error(&source);
        let source = Arc::new(source);
        match errno {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::FBIG) => {
                Error::StorageFull { action, path, source }
            }
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                Error::TooManyOpenFiles { action, path, source }
            }
            Some(rustix::io::Errno::ROFS) => Error::ReadOnly { action, path },
            _ => Error::Io { action, path, source },
        }
    }

    /// Whether the same call may succeed later without repair: the disk has room again, descriptors are free.
    ///
    /// ```
    /// # use annals::Error;
    /// let full = std::io::Error::from_raw_os_error(28); // ENOSPC
    /// let error = Error::StorageFull { action: "append to", path: "x.log".into(), source: full.into() };
    /// assert!(error.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::StorageFull { .. }
            | Error::TooManyOpenFiles { .. }
            | Error::Locked { .. }
            | Error::Timeout { .. }
            | Error::RebalanceInProgress { .. }
            | Error::ConcurrentTransactions { .. }
            | Error::UnstableOffsets { .. }
            | Error::NotEnoughReplicas { .. } => true,
            Error::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::Interrupted
                    | io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::OutOfMemory
            ),
            _ => false,
        }
    }
}

/// Why bytes do not decode. It knows neither file nor position; [`Error::Corruption`] adds both.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The input ends too early.
    #[error("{what} needs {needed} bytes, {available} are left")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        available: u64,
    },
    /// Bytes are left where the value should have ended.
    #[error("{extra} bytes are left after {what}")]
    Trailing {
        /// What was read.
        what: &'static str,
        /// Bytes left over.
        extra: u64,
    },
    /// A field holds a value that it may not hold.
    #[error("{what} is {found}, expected {expected}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// What it holds.
        found: i64,
        /// What it may hold.
        expected: &'static str,
    },
    /// A varint with more bytes than its type allows.
    #[error("{what} is a varint of more than {max} bytes")]
    Varint {
        /// The field.
        what: &'static str,
        /// The longest legal encoding.
        max: u8,
    },
    /// The checksum does not match.
    #[error("{what} has checksum {stored:08x}, its bytes give {computed:08x}")]
    Checksum {
        /// What the checksum covers.
        what: &'static str,
        /// The checksum stored.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A length beyond a configured limit; found before memory is taken for it.
    #[error("{what} is larger than the limit of {limit} bytes")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Compressed bytes that the codec refuses.
    #[error("{codec} data does not decompress: {detail}")]
    Codec {
        /// The codec's name.
        codec: &'static str,
        /// The codec's own words.
        detail: String,
    },
    /// The batch uses a codec that was compiled out.
    #[error("the batch is compressed with {codec}: build annals with the feature `{codec}` to read it")]
    CodecDisabled {
        /// The codec's name, which is also the feature's.
        codec: &'static str,
    },
    /// A version newer than this crate reads.
    #[error("{what} has version {found}, this crate reads {supported}")]
    Version {
        /// The structure.
        what: &'static str,
        /// The version found.
        found: i64,
        /// The versions supported, in words.
        supported: &'static str,
    },
    /// Text that does not follow its format.
    #[error("{what}, line {line}: {reason}")]
    Text {
        /// The kind of file.
        what: &'static str,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
}
