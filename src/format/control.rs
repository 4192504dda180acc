//! Control records: what the key and value of a record in a control batch mean (Kafka's `ControlRecordType`,
//! `EndTransactionMarker`).
//!
//! ```text
//! key                0 i16 version, 0    2 i16 type
//! value of a marker  0 i16 version, 0    2 i32 coordinator epoch
//! ```
//!
//! Longer keys and values, and higher versions, are read by their first bytes.

use super::batch::TimestampType;
use super::builder::{BatchBuilder, BatchOptions};
use super::codec::Reader;
use super::record::{Record, RecordView};
use crate::error::FormatError;

const VERSION: i16 = 0;

/// What a control record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlType {
    /// A transaction was aborted.
    Abort,
    /// A transaction was committed.
    Commit,
    /// A new leader (KRaft's metadata log only, as are those that follow).
    LeaderChange,
    /// The start of a snapshot.
    SnapshotHeader,
    /// The end of a snapshot.
    SnapshotFooter,
    /// The version of KRaft.
    KRaftVersion,
    /// The voters of KRaft.
    KRaftVoters,
    /// A type that is not known, to be passed over.
    Unknown(i16),
}

impl ControlType {
    /// The type that the key of a control record says.
    ///
    /// # Errors
    /// [`FormatError::Short`] for a key of fewer than four bytes, [`FormatError::Invalid`] for a negative
    /// version.
    pub fn parse(key: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(key);
        check_version(&mut reader, "version of a control record's key")?;
        Ok(match reader.i16("type of a control record")? {
            0 => ControlType::Abort,
            1 => ControlType::Commit,
            2 => ControlType::LeaderChange,
            3 => ControlType::SnapshotHeader,
            4 => ControlType::SnapshotFooter,
            5 => ControlType::KRaftVersion,
            6 => ControlType::KRaftVoters,
            other => ControlType::Unknown(other),
        })
    }

    /// Its number.
    pub fn id(self) -> i16 {
        match self {
            ControlType::Abort => 0,
            ControlType::Commit => 1,
            ControlType::LeaderChange => 2,
            ControlType::SnapshotHeader => 3,
            ControlType::SnapshotFooter => 4,
            ControlType::KRaftVersion => 5,
            ControlType::KRaftVoters => 6,
            ControlType::Unknown(other) => other,
        }
    }

    /// The key of a control record of this type.
    pub fn encode_key(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (VERSION.to_be_bytes(), self.id().to_be_bytes());
        [a, b, c, d]
    }
}

/// The record that ends a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTransactionMarker {
    /// The epoch of the coordinator that decided.
    pub coordinator_epoch: i32,
    /// Whether it committed; otherwise it aborted.
    pub commit: bool,
}

impl EndTransactionMarker {
    /// The marker that a control record is, or `None` if it is something else.
    ///
    /// # Errors
    /// [`FormatError::Short`] or [`FormatError::Invalid`] if key or value do not decode.
    pub fn parse(record: &RecordView<'_>) -> Result<Option<Self>, FormatError> {
        let commit = match ControlType::parse(record.key().unwrap_or_default())? {
            ControlType::Commit => true,
            ControlType::Abort => false,
            _ => return Ok(None),
        };
        let mut reader = Reader::new(record.value().unwrap_or_default());
        check_version(&mut reader, "version of a transaction marker")?;
        Ok(Some(EndTransactionMarker { coordinator_epoch: reader.i32("coordinator epoch")?, commit }))
    }

    /// The batch that holds the marker. Of the options it takes offset, leader epoch, producer and default
    /// timestamp.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] if the options name no producer and epoch.
    pub fn encode_batch(&self, options: &BatchOptions) -> Result<Vec<u8>, FormatError> {
        let kind = if self.commit { ControlType::Commit } else { ControlType::Abort };
        let ([a, b], [c, d, e, f]) = (VERSION.to_be_bytes(), self.coordinator_epoch.to_be_bytes());
        let (key, value) = (kind.encode_key(), [a, b, c, d, e, f]);
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: options.base_offset,
            leader_epoch: options.leader_epoch,
            default_timestamp: options.default_timestamp,
            producer_id: options.producer_id,
            producer_epoch: options.producer_epoch,
            timestamp_type: TimestampType::CreateTime,
            transactional: true,
            control: true,
            ..BatchOptions::default()
        });
        builder.push(&Record::new(&value).key(&key))?;
        builder.finish()
    }
}

fn check_version(reader: &mut Reader<'_>, what: &'static str) -> Result<(), FormatError> {
    match reader.i16(what)? {
        0.. => Ok(()),
        negative => Err(FormatError::Invalid { what, found: negative.into(), expected: "at least 0" }),
    }
}
