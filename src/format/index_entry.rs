//! The entries of the three index files: `.index`, `.timeindex` and `.txnindex` (Kafka's `OffsetIndex`,
//! `TimeIndex`, `AbortedTxn`). Index files have no header and no checksum.

use super::codec::Reader;
use crate::error::FormatError;

/// Where a batch lies in its segment: every batch that starts before `position` ends before this offset.
///
/// ```text
/// 0 i32 offset - base offset of the segment
/// 4 i32 position of a batch in the .log file, in bytes
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetIndexEntry {
    /// The offset relative to the segment's base offset, at most `i32::MAX`.
    pub relative_offset: u32,
    /// The byte position in the `.log` file, at most `i32::MAX`.
    pub position: u32,
}

impl OffsetIndexEntry {
    /// Its size in bytes.
    pub const SIZE: usize = 8;

    /// Its bytes. Numbers beyond `i32::MAX` give bytes that [`decode`](Self::decode) refuses.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        ((u64::from(self.relative_offset) << 32) | u64::from(self.position)).to_be_bytes()
    }

    /// The entry that these bytes are.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a negative number.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        Ok(OffsetIndexEntry {
            relative_offset: not_negative(&mut reader, "relative offset")?,
            position: not_negative(&mut reader, "position")?,
        })
    }
}

/// Until when the records of a segment go: every record with a larger timestamp comes after this offset.
///
/// ```text
/// 0 i64 timestamp
/// 8 i32 offset - base offset of the segment
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeIndexEntry {
    /// The largest timestamp so far, in milliseconds since the epoch.
    pub timestamp: i64,
    /// The offset relative to the segment's base offset, at most `i32::MAX`.
    pub relative_offset: u32,
}

impl TimeIndexEntry {
    /// Its size in bytes.
    pub const SIZE: usize = 12;

    /// Its bytes. A relative offset beyond `i32::MAX` gives bytes that [`decode`](Self::decode) refuses.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(&self.relative_offset.to_be_bytes());
        bytes
    }

    /// The entry that these bytes are.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a negative relative offset.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        Ok(TimeIndexEntry {
            timestamp: reader.i64("timestamp")?,
            relative_offset: not_negative(&mut reader, "relative offset")?,
        })
    }
}

/// A transaction that was aborted. The entry lies in the segment that holds the marker.
///
/// ```text
///  0 i16 version, 0
///  2 i64 producer id
/// 10 i64 first offset
/// 18 i64 last offset
/// 26 i64 last stable offset
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer.
    pub producer_id: i64,
    /// The first offset of its data; it may lie in an earlier segment.
    pub first_offset: u64,
    /// The offset of the marker that aborted it.
    pub last_offset: u64,
    /// The last stable offset of the partition once the marker was there.
    pub last_stable_offset: u64,
}

impl AbortedTransaction {
    /// Its size in bytes.
    pub const SIZE: usize = 34;

    const VERSION: i16 = 0;

    /// Its bytes. Offsets beyond `i64::MAX` give bytes that [`decode`](Self::decode) refuses.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..2].copy_from_slice(&Self::VERSION.to_be_bytes());
        bytes[2..10].copy_from_slice(&self.producer_id.to_be_bytes());
        bytes[10..18].copy_from_slice(&self.first_offset.to_be_bytes());
        bytes[18..26].copy_from_slice(&self.last_offset.to_be_bytes());
        bytes[26..].copy_from_slice(&self.last_stable_offset.to_be_bytes());
        bytes
    }

    /// The entry that these bytes are.
    ///
    /// # Errors
    /// [`FormatError::Version`] for one newer than this crate, [`FormatError::Invalid`] for a negative
    /// version or offset.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, FormatError> {
        const VERSION: &str = "version of an aborted transaction";
        let mut reader = Reader::new(bytes);
        let found = i64::from(reader.i16(VERSION)?);
        match found {
            0 => {}
            1.. => {
                return Err(FormatError::Version { what: "an aborted transaction", found, supported: "0" });
            }
            _ => return Err(FormatError::Invalid { what: VERSION, found, expected: "0" }),
        }
        Ok(AbortedTransaction {
            producer_id: reader.i64("producer id")?,
            first_offset: reader.offset("first offset")?,
            last_offset: reader.offset("last offset")?,
            last_stable_offset: reader.offset("last stable offset")?,
        })
    }
}

fn not_negative(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, FormatError> {
    let found = reader.i32(what)?;
    u32::try_from(found).map_err(|_| FormatError::Invalid {
        what,
        found: found.into(),
        expected: "at least 0",
    })
}
