//! The records of `__consumer_offsets`: what groups have committed, and what is known of the groups themselves
//! (Kafka's `OffsetCommitKey`, `GroupMetadataKey` and their values).
//!
//! ```text
//! key 0, 1  string group  string topic  i32 partition        value: OffsetCommitValue 0 to 4
//! key 2     string group                                     value: GroupMetadataValue 0 to 4
//! key 3..   of groups of Kafka's newer kinds                 passed over
//! ```
//!
//! Each begins with its version, an i16. A key without a value says that what it names is no more.

use bytes::Bytes;

use super::codec::{
    Reader, write_array, write_bytes, write_compact_array, write_compact_bytes,
    write_compact_nullable_string, write_compact_string, write_nullable_string, write_string,
    write_tagged_fields,
};
use crate::error::FormatError;
use crate::types::Uuid;

const KEY: &str = "the version of a key of __consumer_offsets";
const GROUP: &str = "group id";
const COMMIT: &str = "OffsetCommitValue";
const METADATA: &str = "GroupMetadataValue";
const TAGS: &str = "tagged fields";

/// The first version with compact fields, of both values.
const FLEXIBLE: i16 = 4;

/// What a record of `__consumer_offsets` is about.
///
/// ```
/// use annals::format::group_records::GroupRecordKey;
/// let key = GroupRecordKey::Group { group: "g1".into() };
/// assert_eq!(key.encode()?, [0, 2, 0, 2, b'g', b'1']);
/// assert_eq!(GroupRecordKey::decode(&[0, 3, 0, 2, b'g', b'1'])?, GroupRecordKey::Other(3));
/// # Ok::<(), annals::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRecordKey {
    /// A committed offset (versions 0 and 1; 1 is written).
    Offset {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The number of the partition.
        partition: i32,
    },
    /// A group (version 2).
    Group {
        /// Its id.
        group: String,
    },
    /// A version that is not known, or of a kind of groups that this crate does not have: to be passed over.
    Other(i16),
}

impl GroupRecordKey {
    /// Its bytes.
    ///
    /// # Errors
    /// [`FormatError::Limit`] for a name of more than 32,767 bytes, [`FormatError::Invalid`] for a version that is
    /// not known.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        match self {
            GroupRecordKey::Offset { group, topic, partition } => {
                let mut out = 1i16.to_be_bytes().to_vec();
                write_string(&mut out, group, GROUP)?;
                write_string(&mut out, topic, "topic")?;
                out.extend_from_slice(&partition.to_be_bytes());
                Ok(out)
            }
            GroupRecordKey::Group { group } => {
                let mut out = 2i16.to_be_bytes().to_vec();
                write_string(&mut out, group, GROUP)?;
                Ok(out)
            }
            GroupRecordKey::Other(version) => {
                Err(FormatError::Invalid { what: KEY, found: (*version).into(), expected: "0, 1 or 2" })
            }
        }
    }

    /// Reads a key. What stands behind its fields is passed over, as Kafka does.
    ///
    /// # Errors
    /// [`FormatError::Short`] if it ends too early, [`FormatError::Invalid`] for a name that is null or not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        Ok(match reader.i16(KEY)? {
            0 | 1 => GroupRecordKey::Offset {
                group: reader.string(GROUP)?.to_owned(),
                topic: reader.string("topic")?.to_owned(),
                partition: reader.i32("partition")?,
            },
            2 => GroupRecordKey::Group { group: reader.string(GROUP)?.to_owned() },
            other => GroupRecordKey::Other(other),
        })
    }
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommitValue {
    /// The offset of the next record to handle.
    pub offset: i64,
    /// The leader epoch of the last record handled, or -1 (since version 3).
    pub leader_epoch: i32,
    /// What the committer wants to remember.
    pub metadata: String,
    /// When it was committed, in milliseconds since the epoch.
    pub commit_timestamp: i64,
    /// When it is to be forgotten, or -1 for when the settings say (version 1 alone).
    pub expire_timestamp: i64,
    /// The topic's id; zero if it is not known (since version 4).
    pub topic_id: Uuid,
}

impl OffsetCommitValue {
    /// Its bytes: in version 1 if it says when it is to be forgotten, and then without the leader epoch and the topic's
    /// id; otherwise in version 4 if it has the topic's id, as Kafka does since 4.1, or in version 3.
    ///
    /// # Errors
    /// As [`encode_version`](Self::encode_version).
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let version = match (self.expire_timestamp, self.topic_id) {
            (-1, Uuid::ZERO) => 3,
            (-1, _) => 4,
            _ => 1,
        };
        self.encode_version(version)
    }

    /// Its bytes in a version from 0 to 4. What the version has no field for is left out.
    ///
    /// # Errors
    /// [`FormatError::Version`] for any other version, [`FormatError::Limit`] for metadata of more than 32,767 bytes.
    pub fn encode_version(&self, version: i16) -> Result<Vec<u8>, FormatError> {
        let mut out = start(version, COMMIT)?;
        out.extend_from_slice(&self.offset.to_be_bytes());
        if version >= 3 {
            out.extend_from_slice(&self.leader_epoch.to_be_bytes());
        }
        Text { flexible: version >= FLEXIBLE }.write(&mut out, &self.metadata, "metadata")?;
        out.extend_from_slice(&self.commit_timestamp.to_be_bytes());
        if version == 1 {
            out.extend_from_slice(&self.expire_timestamp.to_be_bytes());
        }
        if version >= FLEXIBLE {
            let id: &[(u32, &[u8])] = &[(0, &self.topic_id.0)];
            write_tagged_fields(&mut out, if self.topic_id == Uuid::ZERO { &[] } else { id })?;
        }
        Ok(out)
    }

    /// Reads a value of a version from 0 to 4.
    ///
    /// # Errors
    /// [`FormatError::Version`] for any other version; [`FormatError::Short`], [`FormatError::Invalid`] and their like
    /// for bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let version = read_version(&mut reader, COMMIT)?;
        let text = Text { flexible: version >= FLEXIBLE };
        let mut value = OffsetCommitValue {
            offset: reader.i64("committed offset")?,
            leader_epoch: if version >= 3 { reader.i32("leader epoch")? } else { -1 },
            metadata: text.read(&mut reader, "metadata")?,
            commit_timestamp: reader.i64("commit timestamp")?,
            expire_timestamp: if version == 1 { reader.i64("expire timestamp")? } else { -1 },
            topic_id: Uuid::ZERO,
        };
        if text.flexible {
            reader.tagged_fields(TAGS, |tag, mut payload| {
                if tag == 0 {
                    value.topic_id = payload.uuid("topic id")?;
                }
                Ok(())
            })?;
        }
        Ok(value)
    }
}

/// A group: its generation, and who had what in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadataValue {
    /// What kind of group it is: `consumer` for consumers.
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// How partitions are shared out.
    pub protocol: Option<String>,
    /// The leader's member id.
    pub leader: Option<String>,
    /// When it came into its state, in milliseconds since the epoch, or -1 (since version 2).
    pub current_state_timestamp: i64,
    /// Its members; none if it is empty.
    pub members: Vec<GroupMetadataMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadataMember {
    /// Its id.
    pub member_id: String,
    /// The id of a static member's place (since version 3).
    pub instance_id: Option<String>,
    /// How the client calls itself.
    pub client_id: String,
    /// Where the client is.
    pub client_host: String,
    /// How long others wait for it, in milliseconds (since version 1; before, the session timeout).
    pub rebalance_timeout: i32,
    /// How long it may be silent, in milliseconds.
    pub session_timeout: i32,
    /// What it subscribes to (see [`consumer_protocol`](super::consumer_protocol)).
    pub subscription: Bytes,
    /// What it was assigned.
    pub assignment: Bytes,
}

impl GroupMetadataValue {
    /// Its bytes in version 3.
    ///
    /// # Errors
    /// As [`encode_version`](Self::encode_version).
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.encode_version(3)
    }

    /// Its bytes in a version from 0 to 4. What the version has no field for is left out.
    ///
    /// # Errors
    /// [`FormatError::Version`] for any other version, [`FormatError::Limit`] for a name of more than 32,767 bytes.
    pub fn encode_version(&self, version: i16) -> Result<Vec<u8>, FormatError> {
        let mut out = start(version, METADATA)?;
        let text = Text { flexible: version >= FLEXIBLE };
        text.write(&mut out, &self.protocol_type, "protocol type")?;
        out.extend_from_slice(&self.generation.to_be_bytes());
        text.write_nullable(&mut out, self.protocol.as_deref(), "protocol")?;
        text.write_nullable(&mut out, self.leader.as_deref(), "leader")?;
        if version >= 2 {
            out.extend_from_slice(&self.current_state_timestamp.to_be_bytes());
        }
        let write_count = if text.flexible { write_compact_array } else { write_array };
        write_count(&mut out, self.members.len(), "members")?;
        for member in &self.members {
            member.write(&mut out, version, text)?;
        }
        text.end(&mut out)?;
        Ok(out)
    }

    /// Reads a value of a version from 0 to 4.
    ///
    /// # Errors
    /// As [`OffsetCommitValue::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let version = read_version(&mut reader, METADATA)?;
        let text = Text { flexible: version >= FLEXIBLE };
        let mut value = GroupMetadataValue {
            protocol_type: text.read(&mut reader, "protocol type")?,
            generation: reader.i32("generation")?,
            protocol: text.read_nullable(&mut reader, "protocol")?,
            leader: text.read_nullable(&mut reader, "leader")?,
            current_state_timestamp: if version >= 2 { reader.i64("current state timestamp")? } else { -1 },
            members: Vec::new(),
        };
        let count = if text.flexible {
            reader.compact_array(MEMBER_BYTES_FLEXIBLE, "members")?
        } else {
            reader.array(MEMBER_BYTES, "members")?
        };
        value.members = (0..count)
            .map(|_| GroupMetadataMember::read(&mut reader, version, text))
            .collect::<Result<_, _>>()?;
        text.skip_end(&mut reader)?;
        Ok(value)
    }
}

/// The fewest bytes that a member takes: three strings, a timeout, two fields of bytes.
const MEMBER_BYTES: usize = 3 * 2 + 4 + 2 * 4;
const MEMBER_BYTES_FLEXIBLE: usize = 4 + 2 * 4 + 2 + 1;

impl GroupMetadataMember {
    fn write(&self, out: &mut Vec<u8>, version: i16, text: Text) -> Result<(), FormatError> {
        text.write(out, &self.member_id, "member id")?;
        if version >= 3 {
            text.write_nullable(out, self.instance_id.as_deref(), "group instance id")?;
        }
        text.write(out, &self.client_id, "client id")?;
        text.write(out, &self.client_host, "client host")?;
        if version >= 1 {
            out.extend_from_slice(&self.rebalance_timeout.to_be_bytes());
        }
        out.extend_from_slice(&self.session_timeout.to_be_bytes());
        let write = if text.flexible { write_compact_bytes } else { write_bytes };
        write(out, &self.subscription, "subscription")?;
        write(out, &self.assignment, "assignment")?;
        text.end(out)
    }

    fn read(reader: &mut Reader<'_>, version: i16, text: Text) -> Result<Self, FormatError> {
        let member_id = text.read(reader, "member id")?;
        let instance_id = if version >= 3 { text.read_nullable(reader, "group instance id")? } else { None };
        let client_id = text.read(reader, "client id")?;
        let client_host = text.read(reader, "client host")?;
        let rebalance_timeout = if version >= 1 { Some(reader.i32("rebalance timeout")?) } else { None };
        let session_timeout = reader.i32("session timeout")?;
        let read = if text.flexible { Reader::compact_bytes } else { Reader::bytes };
        let subscription = Bytes::copy_from_slice(read(reader, "subscription")?);
        let assignment = Bytes::copy_from_slice(read(reader, "assignment")?);
        text.skip_end(reader)?;
        Ok(GroupMetadataMember {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout: rebalance_timeout.unwrap_or(session_timeout),
            session_timeout,
            subscription,
            assignment,
        })
    }
}

/// In which of its two forms text is written, and whether structs end with tagged fields.
#[derive(Debug, Clone, Copy)]
struct Text {
    flexible: bool,
}

impl Text {
    fn write(self, out: &mut Vec<u8>, value: &str, what: &'static str) -> Result<(), FormatError> {
        if self.flexible { write_compact_string(out, value, what) } else { write_string(out, value, what) }
    }

    fn write_nullable(
        self,
        out: &mut Vec<u8>,
        value: Option<&str>,
        what: &'static str,
    ) -> Result<(), FormatError> {
        if self.flexible {
            write_compact_nullable_string(out, value, what)
        } else {
            write_nullable_string(out, value, what)
        }
    }

    fn read(self, reader: &mut Reader<'_>, what: &'static str) -> Result<String, FormatError> {
        let read = if self.flexible { reader.compact_string(what) } else { reader.string(what) };
        read.map(str::to_owned)
    }

    fn read_nullable(
        self,
        reader: &mut Reader<'_>,
        what: &'static str,
    ) -> Result<Option<String>, FormatError> {
        let read =
            if self.flexible { reader.compact_nullable_string(what) } else { reader.nullable_string(what) };
        Ok(read?.map(str::to_owned))
    }

    fn end(self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.flexible { write_tagged_fields(out, &[]) } else { Ok(()) }
    }

    fn skip_end(self, reader: &mut Reader<'_>) -> Result<(), FormatError> {
        if self.flexible { reader.skip_tagged_fields(TAGS) } else { Ok(()) }
    }
}

fn start(version: i16, what: &'static str) -> Result<Vec<u8>, FormatError> {
    check_version(version, what)?;
    Ok(version.to_be_bytes().to_vec())
}

fn read_version(reader: &mut Reader<'_>, what: &'static str) -> Result<i16, FormatError> {
    let version = reader.i16(what)?;
    check_version(version, what)?;
    Ok(version)
}

fn check_version(version: i16, what: &'static str) -> Result<(), FormatError> {
    if (0..=FLEXIBLE).contains(&version) {
        return Ok(());
    }
    Err(FormatError::Version { what, found: version.into(), supported: "0 to 4" })
}
