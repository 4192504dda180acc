//! What consumers tell each other through their group's coordinator: [`Subscription`] and [`Assignment`] (Kafka's
//! `ConsumerProtocolSubscription`, `ConsumerProtocolAssignment`; versions 0 to 3).
//!
//! ```text
//! both           i16 version
//! partitions     i32 count; { string topic; i32 count; { i32 partition }* }*
//!
//! subscription   i32 count; { string topic }*
//!                nullable bytes user data
//!                partitions that are owned          since version 1
//!                i32 generation                     since version 2
//!                nullable string rack               since version 3
//!
//! assignment     partitions
//!                nullable bytes user data
//! ```
//!
//! Whatever follows is ignored, and a version that is not known yet is read as the last one known: versions only ever
//! add fields at the end.

use bytes::Bytes;

use super::codec::{Reader, write_array, write_nullable_bytes, write_nullable_string, write_string};
use crate::error::FormatError;
use crate::types::{TopicName, TopicPartition};

/// The version written unless another is asked for.
const VERSION: i16 = 3;

/// The fewest bytes of a topic in an array, and of a topic with partitions.
const TOPIC_BYTES: usize = 2;
const PARTITIONS_BYTES: usize = TOPIC_BYTES + 4;

const SUBSCRIPTION: &str = "a subscription";
const ASSIGNMENT: &str = "an assignment";
const TOPICS: &str = "topics of a subscription";
const OWNED: &str = "owned partitions";
const USER_DATA: &str = "user data";
const RACK: &str = "rack";

/// What a member wants, and what it has.
///
/// ```
/// use annals::TopicName;
/// use annals::format::consumer_protocol::Subscription;
/// let wanted = Subscription { topics: vec![TopicName::new("orders")?], ..Subscription::default() };
/// assert_eq!(Subscription::decode(&wanted.encode()?)?, wanted);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topics, in order.
    pub topics: Vec<TopicName>,
    /// What the assignor wants to know.
    pub user_data: Option<Bytes>,
    /// What the member has, ordered by topic and partition (since version 1).
    pub owned: Vec<TopicPartition>,
    /// The generation in which it got that, or -1 (since version 2).
    pub generation: i32,
    /// Where the member is (since version 3).
    pub rack: Option<String>,
}

impl Default for Subscription {
    /// That of a member that wants nothing, has nothing and never was in a generation.
    fn default() -> Self {
        Subscription { topics: Vec::new(), user_data: None, owned: Vec::new(), generation: -1, rack: None }
    }
}

impl Subscription {
    /// Its bytes in version 3. Topics and owned partitions are written in order and once each, however they stand.
    ///
    /// # Errors
    /// [`FormatError::Limit`] if something is longer than the format can hold (the rack: 32,767 bytes),
    /// [`FormatError::Invalid`] for a partition's number greater than `i32::MAX`.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.encode_version(VERSION)
    }

    /// Its bytes in a version from 0 to 3, for a group with members that do not know the later ones. What the version
    /// has no field for is left out.
    ///
    /// # Errors
    /// [`FormatError::Version`] for any other version; otherwise as [`encode`](Self::encode).
    pub fn encode_version(&self, version: i16) -> Result<Vec<u8>, FormatError> {
        let mut out = start(version, SUBSCRIPTION)?;
        let mut topics: Vec<&TopicName> = self.topics.iter().collect();
        topics.sort_unstable();
        topics.dedup();
        write_array(&mut out, topics.len(), TOPICS)?;
        for topic in topics {
            write_string(&mut out, topic.as_str(), TOPICS)?;
        }
        write_nullable_bytes(&mut out, self.user_data.as_deref(), USER_DATA)?;
        if version >= 1 {
            write_partitions(&mut out, &self.owned, OWNED)?;
        }
        if version >= 2 {
            out.extend_from_slice(&self.generation.to_be_bytes());
        }
        if version >= 3 {
            write_nullable_string(&mut out, self.rack.as_deref(), RACK)?;
        }
        Ok(out)
    }

    /// Reads a subscription of whatever version; fields that the version does not have are as in
    /// [`default`](Self::default).
    ///
    /// A name that no topic can have is passed over, and so are owned partitions of such a topic: a member that asks
    /// for what cannot exist gets nothing of it, and does not keep its group from sharing out the rest.
    ///
    /// # Errors
    /// [`FormatError::Version`] for a negative version, [`FormatError::Short`] if the bytes end too early,
    /// [`FormatError::Invalid`] for text that is not UTF-8, for a negative number of a partition, and for null where
    /// there is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let version = read_version(&mut reader, SUBSCRIPTION)?;
        let mut subscription = Subscription::default();
        for _ in 0..reader.array(TOPIC_BYTES, TOPICS)? {
            subscription.topics.extend(TopicName::new(reader.string(TOPICS)?));
        }
        subscription.user_data = reader.nullable_bytes(USER_DATA)?.map(Bytes::copy_from_slice);
        if version >= 1 {
            subscription.owned = read_partitions(&mut reader, OWNED)?;
        }
        if version >= 2 {
            subscription.generation = reader.i32("generation")?;
        }
        if version >= 3 {
            subscription.rack = reader.nullable_string(RACK)?.map(str::to_owned);
        }
        Ok(subscription)
    }
}

/// What a member gets.
///
/// ```
/// use annals::{TopicName, TopicPartition};
/// use annals::format::consumer_protocol::Assignment;
/// let partitions = vec![TopicPartition { topic: TopicName::new("orders")?, partition: 2 }];
/// let got = Assignment { partitions, ..Assignment::default() };
/// assert_eq!(Assignment::decode(&got.encode()?)?, got);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The partitions, ordered by topic.
    pub partitions: Vec<TopicPartition>,
    /// What the assignor wants it to know.
    pub user_data: Option<Bytes>,
}

impl Assignment {
    /// Its bytes in version 3, which are those of the versions before it but for the number. Partitions are written
    /// in order and once each, however they stand.
    ///
    /// # Errors
    /// As [`Subscription::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.encode_version(VERSION)
    }

    /// Its bytes in a version from 0 to 3.
    ///
    /// # Errors
    /// As [`Subscription::encode_version`].
    pub fn encode_version(&self, version: i16) -> Result<Vec<u8>, FormatError> {
        let mut out = start(version, ASSIGNMENT)?;
        write_partitions(&mut out, &self.partitions, "assigned partitions")?;
        write_nullable_bytes(&mut out, self.user_data.as_deref(), USER_DATA)?;
        Ok(out)
    }

    /// Reads an assignment of whatever version. Partitions of a topic with a name that no topic can have are passed
    /// over.
    ///
    /// # Errors
    /// As [`Subscription::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        read_version(&mut reader, ASSIGNMENT)?;
        let partitions = read_partitions(&mut reader, "assigned partitions")?;
        let user_data = reader.nullable_bytes(USER_DATA)?.map(Bytes::copy_from_slice);
        Ok(Assignment { partitions, user_data })
    }
}

/// What the assignor `sticky` writes into the user data of a subscription: what its member got, and when (Kafka's
/// `StickyAssignorUserData`, version 1).
///
/// ```text
/// partitions    as above
/// i32 generation                                   since version 1
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyUserData {
    /// The partitions, ordered by topic.
    pub partitions: Vec<TopicPartition>,
    /// The generation in which the member got them, -1 if it is not known.
    pub generation: i32,
}

impl Default for StickyUserData {
    /// Nothing, in no generation.
    fn default() -> Self {
        StickyUserData { partitions: Vec::new(), generation: -1 }
    }
}

impl StickyUserData {
    /// Its bytes in version 1. Partitions are written in order and once each, however they stand.
    ///
    /// # Errors
    /// As [`Subscription::encode`].
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        write_partitions(&mut out, &self.partitions, OWNED)?;
        out.extend_from_slice(&encode_generation(self.generation));
        Ok(out)
    }

    /// Reads user data of either version, of which it does not say: without a generation it is version 0. Whatever
    /// follows is ignored.
    ///
    /// # Errors
    /// As [`Subscription::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let partitions = read_partitions(&mut reader, OWNED)?;
        Ok(StickyUserData { partitions, generation: decode_generation(reader.rest()).unwrap_or(-1) })
    }
}

/// What the assignor `cooperative-sticky` writes into the user data of a subscription: the generation of which the
/// owned partitions are, which subscriptions have a field for only since version 2.
pub fn encode_generation(generation: i32) -> [u8; 4] {
    generation.to_be_bytes()
}

/// Reads what [`encode_generation`] writes. Whatever follows is ignored.
///
/// # Errors
/// [`FormatError::Short`].
pub fn decode_generation(bytes: &[u8]) -> Result<i32, FormatError> {
    Reader::new(bytes).i32("generation")
}

fn start(version: i16, what: &'static str) -> Result<Vec<u8>, FormatError> {
    if !(0..=VERSION).contains(&version) {
        return Err(FormatError::Version { what, found: version.into(), supported: "0 to 3" });
    }
    Ok(version.to_be_bytes().to_vec())
}

fn read_version(reader: &mut Reader<'_>, what: &'static str) -> Result<i16, FormatError> {
    match reader.i16(what)? {
        version @ 0.. => Ok(version),
        version => Err(FormatError::Version { what, found: version.into(), supported: "0 and higher" }),
    }
}

/// Appends partitions by topic, in order and once each.
pub(super) fn write_partitions(
    out: &mut Vec<u8>,
    partitions: &[TopicPartition],
    what: &'static str,
) -> Result<(), FormatError> {
    let mut sorted: Vec<&TopicPartition> = partitions.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let topics = sorted.chunk_by(|one, other| one.topic == other.topic);
    write_array(out, topics.clone().count(), what)?;
    for of_topic in topics {
        if let Some(first) = of_topic.first() {
            write_string(out, first.topic.as_str(), what)?;
        }
        write_array(out, of_topic.len(), what)?;
        for partition in of_topic {
            let number = i32::try_from(partition.partition).map_err(|_| FormatError::Invalid {
                what,
                found: partition.partition.into(),
                expected: "a partition from 0 to 2147483647",
            })?;
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
    Ok(())
}

/// Reads what [`write_partitions`] writes, as it stands.
fn read_partitions(reader: &mut Reader<'_>, what: &'static str) -> Result<Vec<TopicPartition>, FormatError> {
    let mut partitions = Vec::new();
    for _ in 0..reader.array(PARTITIONS_BYTES, what)? {
        let topic = TopicName::new(reader.string(what)?).ok();
        for _ in 0..reader.array(size_of::<i32>(), what)? {
            let found = reader.i32(what)?;
            let partition = u32::try_from(found).map_err(|_| FormatError::Invalid {
                what,
                found: found.into(),
                expected: "a partition from 0 to 2147483647",
            })?;
            partitions.extend(topic.clone().map(|topic| TopicPartition { topic, partition }));
        }
    }
    Ok(partitions)
}
