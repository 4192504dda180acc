//! Keys and values of the topic `__share_group_state`, in which a share group's progress on each partition is kept
//! (Kafka's `ShareSnapshotKey`, `ShareSnapshotValue`, `ShareUpdateKey`, `ShareUpdateValue`, as released with 4.1 and
//! 4.2).
//!
//! ```text
//! key       i16 kind: 0 snapshot, 1 update; string group; uuid topic; i32 partition
//! snapshot  i16 version 0; i32 snapshot epoch; i32 state epoch; i32 leader epoch; i64 start offset (-1 none);
//!           i64 create timestamp; i64 write timestamp; compact array of batches; tagged fields
//! update    i16 version 0; i32 snapshot epoch; i32 leader epoch; i64 start offset (-1 unchanged);
//!           compact array of batches; tagged fields
//! batch     i64 first offset; i64 last offset; i8 state; i16 delivery count; tagged fields
//! tag 0     of snapshots and updates, since 4.2: i32 delivery complete count; absent if not known
//! ```
//!
//! A snapshot is everything that is known. An update says what changed since, and applies to the snapshot before it,
//! so that the log must keep all updates behind the last snapshot of a key: `cleanup.policy=delete`, as in Kafka, not
//! `compact`. What early access versions wrote (4.0, with 16 bits for the snapshot epoch) has the same version number
//! and cannot be told apart; it is not read.

use super::codec::{Reader, write_compact_array, write_string, write_tagged_fields};
use crate::error::FormatError;
use crate::types::Uuid;

const SNAPSHOT_KEY: i16 = 0;
const UPDATE_KEY: i16 = 1;
const VALUE_VERSION: i16 = 0;
/// The offset that stands for none.
const NO_OFFSET: i64 = -1;
const TAG_DELIVERY_COMPLETE_COUNT: u32 = 0;
/// The least that a batch takes: two offsets, state, count, and no tagged fields.
const BATCH_BYTES: usize = 8 + 8 + 1 + 2 + 1;

/// Whose state it is: a share group's on a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareStateKey {
    /// The group.
    pub group: String,
    /// The topic, by the id that it does not share with one that is deleted and made again.
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: i32,
}

impl ShareStateKey {
    /// The text of which a hash says in which partition of `__share_group_state` it is kept (Kafka's
    /// `SharePartitionKey.asCoordinatorKey`).
    ///
    /// ```
    /// # use annals::{Uuid, format::ShareStateKey};
    /// let key = ShareStateKey { group: "workers".into(), topic_id: Uuid::ZERO, partition: 3 };
    /// assert_eq!(key.coordinator_key(), "workers:AAAAAAAAAAAAAAAAAAAAAA:3");
    /// ```
    pub fn coordinator_key(&self) -> String {
        format!("{}:{}:{}", self.group, self.topic_id, self.partition)
    }
}

/// The key of a record: what its value is, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareRecordKey {
    /// The value is a [`ShareSnapshot`].
    Snapshot(ShareStateKey),
    /// The value is a [`ShareUpdate`].
    Update(ShareStateKey),
}

/// In what state records lie in the log of states. That one is acquired is not written: whoever has it may not live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryState {
    /// To be delivered, again if its delivery count is not 0.
    Available,
    /// Accepted.
    Acknowledged,
    /// Given up: rejected, or delivered too often, or not there.
    Archived,
}

/// The state of records with consecutive offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateBatch {
    /// The first of them.
    pub first_offset: u64,
    /// The last of them.
    pub last_offset: u64,
    /// Their state.
    pub state: DeliveryState,
    /// How often each was delivered; at most `i16::MAX`.
    pub delivery_count: u16,
}

/// All that is known of a group's progress on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSnapshot {
    /// Counts the snapshots of this key.
    pub snapshot_epoch: i32,
    /// Counts how often the progress was set anew, by an administrator for instance.
    pub state_epoch: i32,
    /// The leader epoch of whoever wrote it.
    pub leader_epoch: i32,
    /// Everything below it is finished; `None` before the first delivery in Kafka, which resolves it then.
    pub start_offset: Option<u64>,
    /// When the first snapshot of this state epoch was written, in milliseconds since the epoch.
    pub create_timestamp: i64,
    /// When this one was.
    pub write_timestamp: i64,
    /// States from the start offset on, by rising offset; what is not named is available and was not delivered.
    pub batches: Vec<StateBatch>,
    /// How many offsets from the start offset on are finished (since 4.2).
    pub delivery_complete_count: Option<u32>,
}

/// What changed in a group's progress on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareUpdate {
    /// That of the snapshot to which it applies.
    pub snapshot_epoch: i32,
    /// The leader epoch of whoever wrote it.
    pub leader_epoch: i32,
    /// Everything below it is finished; `None` if that is where it was.
    pub start_offset: Option<u64>,
    /// States that changed, by rising offset.
    pub batches: Vec<StateBatch>,
    /// How many offsets from the start offset on are finished (since 4.2).
    pub delivery_complete_count: Option<u32>,
}

impl DeliveryState {
    /// Its number.
    pub fn id(self) -> i8 {
        match self {
            DeliveryState::Available => 0,
            DeliveryState::Acknowledged => 2,
            DeliveryState::Archived => 4,
        }
    }

    /// The state with that number.
    pub fn from_id(id: i8) -> Option<Self> {
        match id {
            0 => Some(DeliveryState::Available),
            2 => Some(DeliveryState::Acknowledged),
            4 => Some(DeliveryState::Archived),
            _ => None,
        }
    }
}

impl ShareRecordKey {
    /// The key that these bytes are; `None` for one of a kind that is not known, to be passed over.
    ///
    /// # Errors
    /// [`FormatError`] if they do not decode.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FormatError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.i16("kind of a share group's record")?;
        if !matches!(kind, SNAPSHOT_KEY | UPDATE_KEY) {
            return Ok(None);
        }
        let group = reader.string("group")?.to_string();
        let topic_id = reader.uuid("topic id")?;
        let partition = reader.i32("partition")?;
        reader.finish("key of a share group's record")?;
        let key = ShareStateKey { group, topic_id, partition };
        Ok(Some(if kind == SNAPSHOT_KEY {
            ShareRecordKey::Snapshot(key)
        } else {
            ShareRecordKey::Update(key)
        }))
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`FormatError::Limit`] if the group's name is longer than 32767 bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let (kind, key) = match self {
            ShareRecordKey::Snapshot(key) => (SNAPSHOT_KEY, key),
            ShareRecordKey::Update(key) => (UPDATE_KEY, key),
        };
        let mut out = Vec::with_capacity(24 + key.group.len());
        out.extend(kind.to_be_bytes());
        write_string(&mut out, &key.group, "group")?;
        out.extend(key.topic_id.0);
        out.extend(key.partition.to_be_bytes());
        Ok(out)
    }
}

impl ShareSnapshot {
    /// The snapshot that these bytes are.
    ///
    /// # Errors
    /// [`FormatError`] if they do not decode.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader)?;
        let snapshot_epoch = reader.i32("snapshot epoch")?;
        let state_epoch = reader.i32("state epoch")?;
        let leader_epoch = reader.i32("leader epoch")?;
        let start_offset = optional_offset(&mut reader)?;
        let create_timestamp = reader.i64("create timestamp")?;
        let write_timestamp = reader.i64("write timestamp")?;
        let batches = read_batches(&mut reader)?;
        let delivery_complete_count = read_tags(&mut reader)?;
        reader.finish("snapshot of a share group")?;
        Ok(ShareSnapshot {
            snapshot_epoch,
            state_epoch,
            leader_epoch,
            start_offset,
            create_timestamp,
            write_timestamp,
            batches,
            delivery_complete_count,
        })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`FormatError::Limit`] if there are more batches than an array can have.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::with_capacity(48 + BATCH_BYTES * self.batches.len());
        out.extend(VALUE_VERSION.to_be_bytes());
        out.extend(self.snapshot_epoch.to_be_bytes());
        out.extend(self.state_epoch.to_be_bytes());
        out.extend(self.leader_epoch.to_be_bytes());
        write_offset(&mut out, self.start_offset);
        out.extend(self.create_timestamp.to_be_bytes());
        out.extend(self.write_timestamp.to_be_bytes());
        write_batches(&mut out, &self.batches)?;
        write_tags(&mut out, self.delivery_complete_count)?;
        Ok(out)
    }
}

impl ShareUpdate {
    /// The update that these bytes are.
    ///
    /// # Errors
    /// [`FormatError`] if they do not decode.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader)?;
        let snapshot_epoch = reader.i32("snapshot epoch")?;
        let leader_epoch = reader.i32("leader epoch")?;
        let start_offset = optional_offset(&mut reader)?;
        let batches = read_batches(&mut reader)?;
        let delivery_complete_count = read_tags(&mut reader)?;
        reader.finish("update of a share group")?;
        Ok(ShareUpdate { snapshot_epoch, leader_epoch, start_offset, batches, delivery_complete_count })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`FormatError::Limit`] if there are more batches than an array can have.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::with_capacity(32 + BATCH_BYTES * self.batches.len());
        out.extend(VALUE_VERSION.to_be_bytes());
        out.extend(self.snapshot_epoch.to_be_bytes());
        out.extend(self.leader_epoch.to_be_bytes());
        write_offset(&mut out, self.start_offset);
        write_batches(&mut out, &self.batches)?;
        write_tags(&mut out, self.delivery_complete_count)?;
        Ok(out)
    }
}

fn check_version(reader: &mut Reader<'_>) -> Result<(), FormatError> {
    match reader.i16("version")? {
        VALUE_VERSION => Ok(()),
        found => {
            let what = "state of a share group";
            Err(FormatError::Version { what, found: found.into(), supported: "0" })
        }
    }
}

fn optional_offset(reader: &mut Reader<'_>) -> Result<Option<u64>, FormatError> {
    let what = "start offset";
    match reader.i64(what)? {
        NO_OFFSET => Ok(None),
        found => match u64::try_from(found) {
            Ok(offset) => Ok(Some(offset)),
            Err(_) => Err(FormatError::Invalid { what, found, expected: "an offset of at least -1" }),
        },
    }
}

fn write_offset(out: &mut Vec<u8>, offset: Option<u64>) {
    out.extend(offset.map_or(NO_OFFSET, |offset| offset as i64).to_be_bytes());
}

fn read_batches(reader: &mut Reader<'_>) -> Result<Vec<StateBatch>, FormatError> {
    let count = reader.compact_array(BATCH_BYTES, "state batches")?;
    let mut batches = Vec::with_capacity(count);
    for _ in 0..count {
        batches.push(read_batch(reader)?);
    }
    Ok(batches)
}

fn read_batch(reader: &mut Reader<'_>) -> Result<StateBatch, FormatError> {
    let first_offset = reader.offset("first offset")?;
    let last_offset = reader.offset("last offset")?;
    if last_offset < first_offset {
        let found = last_offset as i64;
        return Err(FormatError::Invalid {
            what: "last offset",
            found,
            expected: "not below the first offset",
        });
    }
    let id = reader.i8("delivery state")?;
    let state = DeliveryState::from_id(id).ok_or(FormatError::Invalid {
        what: "delivery state",
        found: id.into(),
        expected: "0, 2 or 4",
    })?;
    let count = reader.i16("delivery count")?;
    let delivery_count = u16::try_from(count).map_err(|_| FormatError::Invalid {
        what: "delivery count",
        found: count.into(),
        expected: "at least 0",
    })?;
    reader.skip_tagged_fields("tagged fields of a state batch")?;
    Ok(StateBatch { first_offset, last_offset, state, delivery_count })
}

fn write_batches(out: &mut Vec<u8>, batches: &[StateBatch]) -> Result<(), FormatError> {
    write_compact_array(out, batches.len(), "state batches")?;
    for batch in batches {
        out.extend((batch.first_offset as i64).to_be_bytes());
        out.extend((batch.last_offset as i64).to_be_bytes());
        out.extend(batch.state.id().to_be_bytes());
        out.extend(i16::try_from(batch.delivery_count).unwrap_or(i16::MAX).to_be_bytes());
        write_tagged_fields(out, &[])?;
    }
    Ok(())
}

fn read_tags(reader: &mut Reader<'_>) -> Result<Option<u32>, FormatError> {
    let mut found = None;
    reader.tagged_fields("tagged fields of a share group's state", |tag, mut payload| {
        if tag == TAG_DELIVERY_COMPLETE_COUNT {
            // Negative: not known.
            found = u32::try_from(payload.i32("delivery complete count")?).ok();
            payload.finish("delivery complete count")?;
        }
        Ok(())
    })?;
    Ok(found)
}

fn write_tags(out: &mut Vec<u8>, delivery_complete_count: Option<u32>) -> Result<(), FormatError> {
    let Some(count) = delivery_complete_count else { return write_tagged_fields(out, &[]) };
    let count = i32::try_from(count).unwrap_or(i32::MAX).to_be_bytes();
    write_tagged_fields(out, &[(TAG_DELIVERY_COMPLETE_COUNT, &count)])
}
