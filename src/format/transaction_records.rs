//! What the records of `__transaction_state` mean: keys and values in Kafka's schemas (`TransactionLogKey`,
//! `TransactionLogValue`), and the states that a transaction goes through.
//!
//! ```text
//! key     i16 version, 0   string transactional id
//!
//! value   i16 version, 0   i64 producer id         i16 producer epoch   i32 timeout, ms   i8 state
//!         i32 count or -1; { string topic; i32 count; { i32 partition }* }*
//!         i64 last update, ms since the epoch       i64 start, ms since the epoch, or -1
//! ```
//!
//! Version 1 of the value, which brokers write whose transactions are those of KIP-890, has the same fields in Kafka's
//! compact forms, and tagged fields: 0 i64 previous producer id, 1 i64 next producer id, 2 i16 version of the client's
//! transactions. It is read, and not written. A null value says that the transactional id is forgotten.

use std::collections::BTreeSet;
use std::fmt;

use super::codec::{Reader, write_nullable_array, write_string};
use super::consumer_protocol::write_partitions;
use crate::error::FormatError;
use crate::types::{TopicName, TopicPartition};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 0;
/// The version of the value with compact types and tagged fields.
const FLEXIBLE: i16 = 1;

const KEY: &str = "the key of a transaction";
const VALUE: &str = "a transaction";
const PARTITIONS: &str = "partitions of a transaction";
/// The fewest bytes of a topic with partitions: an empty name and no partition.
const TOPIC_BYTES: usize = 2 + 4;
const COMPACT_TOPIC_BYTES: usize = 1 + 1 + 1;

/// The tagged fields of version 1.
const PREVIOUS_PRODUCER_ID: u32 = 0;
const NEXT_PRODUCER_ID: u32 = 1;
const CLIENT_VERSION: u32 = 2;

/// Where a transactional id stands (Kafka's `TransactionState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransactionState {
    /// It has a producer that has had no transaction yet.
    Empty,
    /// A transaction is open.
    Ongoing,
    /// It is decided that the transaction is committed; markers are being written.
    PrepareCommit,
    /// It is decided that the transaction is aborted; markers are being written.
    PrepareAbort,
    /// The last transaction was committed, everywhere.
    CompleteCommit,
    /// The last transaction was aborted, everywhere.
    CompleteAbort,
    /// The transactional id is about to be forgotten.
    Dead,
    /// The producer is being fenced off, to abort what it left open. Never written down.
    PrepareEpochFence,
}

use TransactionState::{
    CompleteAbort, CompleteCommit, Dead, Empty, Ongoing, PrepareAbort, PrepareCommit, PrepareEpochFence,
};

impl TransactionState {
    /// All of them, in the order of their numbers.
    pub const ALL: [TransactionState; 8] =
        [Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort, Dead, PrepareEpochFence];

    /// Its number.
    pub fn id(self) -> i8 {
        match self {
            Empty => 0,
            Ongoing => 1,
            PrepareCommit => 2,
            PrepareAbort => 3,
            CompleteCommit => 4,
            CompleteAbort => 5,
            Dead => 6,
            PrepareEpochFence => 7,
        }
    }

    /// Whether a transactional id may come from another state, or from the same, to this one.
    ///
    /// ```
    /// use annals::format::transaction_records::TransactionState::*;
    /// assert!(PrepareCommit.may_follow(Ongoing));
    /// assert!(!PrepareCommit.may_follow(PrepareAbort)); // what is decided is decided
    /// ```
    pub fn may_follow(self, before: TransactionState) -> bool {
        match self {
            Empty => matches!(before, Empty | CompleteCommit | CompleteAbort),
            Ongoing => matches!(before, Ongoing | Empty | CompleteCommit | CompleteAbort),
            PrepareCommit | PrepareEpochFence => before == Ongoing,
            PrepareAbort => matches!(before, Ongoing | PrepareEpochFence),
            CompleteCommit => before == PrepareCommit,
            CompleteAbort => before == PrepareAbort,
            Dead => matches!(before, Empty | CompleteCommit | CompleteAbort),
        }
    }
}

impl fmt::Display for TransactionState {
    /// As Kafka's tools write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What is known of a transactional id.
///
/// ```
/// use annals::format::transaction_records::{TransactionState, TransactionValue};
/// let value = TransactionValue::new(4000, 3, 60_000);
/// let decoded = TransactionValue::decode(&value.encode()?)?;
/// assert_eq!((decoded.producer_epoch, decoded.state), (3, TransactionState::Empty));
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionValue {
    /// Its producer.
    pub producer_id: i64,
    /// The producer that it had before, if a broker wrote that down.
    pub previous_producer_id: Option<i64>,
    /// The producer that it gets once the transaction has ended, if a broker decided that.
    pub next_producer_id: Option<i64>,
    /// The producer's epoch: older ones are fenced off.
    pub producer_epoch: i16,
    /// How long a transaction may be open, in milliseconds.
    pub timeout_ms: i32,
    /// Where it stands.
    pub state: TransactionState,
    /// The partitions that the transaction writes to, until it is complete.
    pub partitions: BTreeSet<TopicPartition>,
    /// When this was written, in milliseconds since the epoch.
    pub last_update: i64,
    /// When the transaction was begun, in milliseconds since the epoch.
    pub started: Option<i64>,
    /// Which version of the protocol its client speaks, if a broker wrote that down: 2 for KIP-890.
    pub client_version: i16,
}

impl TransactionValue {
    /// That of a producer that has had no transaction yet.
    pub fn new(producer_id: i64, producer_epoch: i16, timeout_ms: i32) -> Self {
        TransactionValue {
            producer_id,
            previous_producer_id: None,
            next_producer_id: None,
            producer_epoch,
            timeout_ms,
            state: Empty,
            partitions: BTreeSet::new(),
            last_update: -1,
            started: None,
            client_version: 0,
        }
    }

    /// The value of a record, in version 0, which has no field for the producers before and after and for the client's
    /// version.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a partition's number greater than `i32::MAX`, [`FormatError::Limit`] for more of
    /// them than can be counted.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::with_capacity(37 + self.partitions.len() * 16);
        out.extend_from_slice(&VALUE_VERSION.to_be_bytes());
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.timeout_ms.to_be_bytes());
        out.extend_from_slice(&self.state.id().to_be_bytes());
        self.encode_partitions(&mut out)?;
        out.extend_from_slice(&self.last_update.to_be_bytes());
        out.extend_from_slice(&self.started.unwrap_or(-1).to_be_bytes());
        Ok(out)
    }

    fn encode_partitions(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.state == Empty && self.partitions.is_empty() {
            return write_nullable_array(out, None, PARTITIONS);
        }
        let partitions: Vec<TopicPartition> = self.partitions.iter().cloned().collect();
        write_partitions(out, &partitions, PARTITIONS)
    }

    /// Reads the value of a record, of version 0 or 1. Partitions of a topic with a name that no topic can have are
    /// passed over.
    ///
    /// # Errors
    /// [`FormatError::Version`] for any other version; [`FormatError::Short`], [`FormatError::Trailing`] or
    /// [`FormatError::Invalid`] if the bytes are not a value.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let version = reader.i16(VALUE)?;
        if !(VALUE_VERSION..=FLEXIBLE).contains(&version) {
            return Err(FormatError::Version { what: VALUE, found: version.into(), supported: "0 and 1" });
        }
        let flexible = version >= FLEXIBLE;
        let producer_id = reader.i64("producer id")?;
        let producer_epoch = reader.i16("producer epoch")?;
        let mut value = TransactionValue::new(producer_id, producer_epoch, reader.i32("timeout")?);
        value.state = read_state(&mut reader)?;
        value.partitions = read_partitions(&mut reader, flexible)?;
        value.last_update = reader.i64("last update")?;
        value.started = Some(reader.i64("start")?).filter(|&started| started >= 0);
        if flexible {
            reader.tagged_fields(VALUE, |tag, field| value.take_field(tag, field))?;
        }
        reader.finish(VALUE)?;
        Ok(value)
    }

    fn take_field(&mut self, tag: u32, mut field: Reader<'_>) -> Result<(), FormatError> {
        let id = |id: i64| Some(id).filter(|&id| id >= 0);
        match tag {
            PREVIOUS_PRODUCER_ID => self.previous_producer_id = id(field.i64("previous producer id")?),
            NEXT_PRODUCER_ID => self.next_producer_id = id(field.i64("next producer id")?),
            CLIENT_VERSION => self.client_version = field.i16("version of the client")?,
            _ => return Ok(()),
        }
        field.finish(VALUE)
    }
}

/// The key of the records about a transactional id.
///
/// # Errors
/// [`FormatError::Limit`] if it is longer than 32,767 bytes.
pub fn encode_key(transactional_id: &str) -> Result<Vec<u8>, FormatError> {
    let mut out = KEY_VERSION.to_be_bytes().to_vec();
    write_string(&mut out, transactional_id, KEY)?;
    Ok(out)
}

/// The transactional id that a key names, or `None` for a key of a version that is not known, whose record is to be
/// passed over.
///
/// # Errors
/// [`FormatError::Short`], [`FormatError::Trailing`] or [`FormatError::Invalid`] if the bytes are not a key.
pub fn decode_key(key: &[u8]) -> Result<Option<String>, FormatError> {
    let mut reader = Reader::new(key);
    if reader.i16(KEY)? != KEY_VERSION {
        return Ok(None);
    }
    let transactional_id = reader.string(KEY)?.to_owned();
    reader.finish(KEY)?;
    Ok(Some(transactional_id))
}

fn read_state(reader: &mut Reader<'_>) -> Result<TransactionState, FormatError> {
    let what = "the state of a transaction";
    let found = reader.i8(what)?;
    TransactionState::ALL.into_iter().find(|state| state.id() == found).ok_or(FormatError::Invalid {
        what,
        found: found.into(),
        expected: "a state from 0 to 7",
    })
}

fn read_partitions(reader: &mut Reader<'_>, flexible: bool) -> Result<BTreeSet<TopicPartition>, FormatError> {
    let mut partitions = BTreeSet::new();
    let topics = if flexible {
        reader.compact_nullable_array(COMPACT_TOPIC_BYTES, PARTITIONS)?
    } else {
        reader.nullable_array(TOPIC_BYTES, PARTITIONS)?
    };
    for _ in 0..topics.unwrap_or(0) {
        let name = if flexible { reader.compact_string(PARTITIONS)? } else { reader.string(PARTITIONS)? };
        let topic = TopicName::new(name).ok();
        let bytes = size_of::<i32>();
        let count = if flexible {
            reader.compact_array(bytes, PARTITIONS)?
        } else {
            reader.array(bytes, PARTITIONS)?
        };
        for _ in 0..count {
            let number = reader.i32(PARTITIONS)?;
            let partition = u32::try_from(number).map_err(|_| no_partition(number.into()))?;
            partitions.extend(topic.clone().map(|topic| TopicPartition { topic, partition }));
        }
        if flexible {
            reader.skip_tagged_fields(PARTITIONS)?;
        }
    }
    Ok(partitions)
}

fn no_partition(found: i64) -> FormatError {
    FormatError::Invalid { what: PARTITIONS, found, expected: "a partition from 0 to 2147483647" }
}
