//! The store's checkpoint, `annals.checkpoint`: from where each partition must be recovered.
//!
//! Bytes and values only; whoever owns the directory reads and replaces the file. It says more than Kafka's
//! checkpoint files, which are written as well: the byte position of each recovery point, so that recovery reads
//! no more than what was written since. It is a hint that the log must confirm. It lies in a
//! [frame](super::framed) with the magic `annalsC1`. The body, big-endian:
//!
//! ```text
//!  CRC-32 of Kafka's recovery points, next and before: u32, u32   topics: u32
//!  per topic, by name in ascending order
//!  +------------+------+------------+
//!  | name bytes | name | partitions |
//!  | u8         |      | u32        |
//!  +------------+------+------------+
//!  per partition, by number in ascending order, 73 bytes
//!  0           4           12               20             28         36
//!  +-----------+-----------+----------------+--------------+----------+
//!  | partition | log start | recovery point | segment base | position |
//!  | u32       | u64       | u64            | u64          | u64      |
//!  +-----------+-----------+----------------+--------------+----------+
//!  36               44             52              60            68              72      73
//!  +----------------+--------------+---------------+-------------+---------------+-------+
//!  | high watermark | first dirty  | accepted from | accepted to | epochs CRC-32 | flags |
//!  | u64            | u64          | u64           | u64         | u32           | u8    |
//!  +----------------+--------------+---------------+-------------+---------------+-------+
//!
//!  flags  bit 0  clean: closed in good order
//!         bit 1  producers: some producer was known at the recovery point
//!         others must be 0; an offset of 2^64-1 is none
//! ```

use std::collections::BTreeMap;

use super::framed::{Body, Frame, put_topic, put_u32, put_u64};
use crate::error::FormatError;
use crate::types::{OFFSET_MAX, TopicName, TopicPartition};

/// The name of the file.
pub(crate) const CHECKPOINT_FILE: &str = "annals.checkpoint";

const FRAME: Frame = Frame {
    what: "the checkpoint",
    magic: b"annalsC1",
    magic_text: "the magic annalsC1",
    version: 3,
    version_text: "version 3",
};

const FLAG_CLEAN: u8 = 1;
const FLAG_PRODUCERS: u8 = 2;
/// Stands for no offset.
const NO_OFFSET: u64 = u64::MAX;

const PARTITION_BYTES: usize = 73;
/// The fewest bytes of a topic: a name of one byte and one partition.
const TOPIC_BYTES_MIN: u64 = 1 + 1 + 4 + PARTITION_BYTES as u64;
/// The longest segment file that Kafka's `FileRecords` opens.
const POSITION_MAX: u64 = i32::MAX as u64;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Checkpoint {
    /// The CRC-32 of Kafka's file of recovery points: as it will be written next, and as it was before.
    pub(crate) kafka_checksums: [u32; 2],
    /// In the order in which they are written.
    pub(crate) partitions: BTreeMap<TopicPartition, PartitionCheckpoint>,
}

/// What is known of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartitionCheckpoint {
    /// The first offset that may be read.
    pub(crate) log_start: u64,
    /// Every record below this offset is on disk.
    pub(crate) recovery_point: u64,
    /// The base offset of the segment that the recovery point lies in; never above it.
    pub(crate) segment_base: u64,
    /// Where in that segment's file the recovery point lies, in bytes.
    pub(crate) position: u64,
    /// The high watermark, if a replicator sets it.
    pub(crate) high_watermark: Option<u64>,
    /// The first offset that compaction has not been over, if it ever ran.
    pub(crate) first_dirty: Option<u64>,
    /// From where and to where, exclusive, the loss of what is damaged was accepted.
    pub(crate) accepted: (u64, u64),
    /// The CRC-32 of the leader-epoch file.
    pub(crate) epochs_checksum: u32,
    /// Whether any producer was known at the recovery point.
    pub(crate) producers: bool,
    /// Whether the partition was closed in good order; then `position` is the exact length of the file.
    pub(crate) clean: bool,
}

impl Checkpoint {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Most topics have few partitions: room for a name each is a guess on the safe side.
        let capacity = 12 + self.partitions.len() * (PARTITION_BYTES + 24);
        FRAME.encode(capacity, |body| {
            self.kafka_checksums.iter().for_each(|checksum| put_u32(body, *checksum));
            let topics = Count::begin(body);
            let (mut topic_count, mut partition_count) = (0, 0);
            let mut group: Option<(&TopicName, Count)> = None;
            for (key, partition) in &self.partitions {
                let partitions = match group {
                    Some((topic, partitions)) if *topic == key.topic => partitions,
                    _ => {
                        (topic_count, partition_count) = (topic_count + 1, 0);
                        put_topic(body, &key.topic);
                        group.insert((&key.topic, Count::begin(body))).1
                    }
                };
                put_partition(body, key.partition, partition);
                partition_count += 1;
                partitions.end(body, partition_count);
            }
            topics.end(body, topic_count);
        })
    }

    /// Reads what [`encode`](Checkpoint::encode) wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Checkpoint, FormatError> {
        let mut body = FRAME.decode(bytes)?;
        let kafka_checksums = [body.u32()?, body.u32()?];
        let mut entries = Vec::new();
        let mut last: Option<TopicName> = None;
        for index in 0..body.count(TOPIC_BYTES_MIN)? {
            let topic = body.topic()?;
            if last.as_ref().is_some_and(|last| *last >= topic) {
                return Err(body.invalid(index as i64, "a topic above the one before it"));
            }
            decode_topic(&mut body, &topic, &mut entries)?;
            last = Some(topic);
        }
        body.finish()?;
        Ok(Checkpoint { kafka_checksums, partitions: entries.into_iter().collect() })
    }
}

/// A count that is known only after what it counts was written.
#[derive(Debug, Clone, Copy)]
struct Count(usize);

impl Count {
    fn begin(body: &mut Vec<u8>) -> Self {
        let position = body.len();
        put_u32(body, 0);
        Count(position)
    }

    fn end(self, body: &mut [u8], count: u32) {
        if let Some(field) = body.get_mut(self.0..).and_then(<[u8]>::first_chunk_mut) {
            *field = count.to_be_bytes();
        }
    }
}

fn put_partition(body: &mut Vec<u8>, number: u32, partition: &PartitionCheckpoint) {
    put_u32(body, number);
    put_u64(body, partition.log_start);
    put_u64(body, partition.recovery_point);
    put_u64(body, partition.segment_base);
    put_u64(body, partition.position);
    put_u64(body, partition.high_watermark.unwrap_or(NO_OFFSET));
    put_u64(body, partition.first_dirty.unwrap_or(NO_OFFSET));
    put_u64(body, partition.accepted.0);
    put_u64(body, partition.accepted.1);
    put_u32(body, partition.epochs_checksum);
    let flag = |set, flag| if set { flag } else { 0 };
    body.push(flag(partition.clean, FLAG_CLEAN) | flag(partition.producers, FLAG_PRODUCERS));
}

type Entry = (TopicPartition, PartitionCheckpoint);

/// Reads the partitions of one topic; there is at least one.
fn decode_topic(body: &mut Body<'_>, topic: &TopicName, entries: &mut Vec<Entry>) -> Result<(), FormatError> {
    let count = body.count(PARTITION_BYTES as u64)?;
    body.within(count as u64, 1..=u64::MAX, "at least one partition of a topic")?;
    entries.reserve(count);
    let mut lowest = 0;
    for _ in 0..count {
        let number = body.u32()?;
        body.within(number.into(), lowest..=i32::MAX as u64, "a partition above the one before it")?;
        lowest = u64::from(number) + 1;
        let key = TopicPartition { topic: topic.clone(), partition: number };
        entries.push((key, decode_partition(body)?));
    }
    Ok(())
}

fn decode_partition(body: &mut Body<'_>) -> Result<PartitionCheckpoint, FormatError> {
    let [log_start, recovery_point, segment_base, position] =
        [body.u64()?, body.u64()?, body.u64()?, body.u64()?];
    body.within(log_start, 0..=OFFSET_MAX, "an offset as the log's start")?;
    body.within(recovery_point, 0..=OFFSET_MAX, "an offset as the recovery point")?;
    body.within(segment_base, 0..=recovery_point, "a segment that begins at or below the recovery point")?;
    body.within(position, 0..=POSITION_MAX, "a position of at most 2147483647")?;
    let high_watermark = optional_offset(body, "an offset or none as the high watermark")?;
    let first_dirty = optional_offset(body, "an offset or none as the first dirty offset")?;
    let accepted = (body.u64()?, body.u64()?);
    body.within(
        accepted.1,
        accepted.0..=OFFSET_MAX,
        "accepted losses that end at or behind their beginning",
    )?;
    let epochs_checksum = body.u32()?;
    let flags = body.u8()?;
    body.within(flags.into(), 0..=(FLAG_CLEAN | FLAG_PRODUCERS).into(), "flags of version 3")?;
    Ok(PartitionCheckpoint {
        log_start,
        recovery_point,
        segment_base,
        position,
        high_watermark,
        first_dirty,
        accepted,
        epochs_checksum,
        producers: flags & FLAG_PRODUCERS != 0,
        clean: flags & FLAG_CLEAN != 0,
    })
}

fn optional_offset(body: &mut Body<'_>, expected: &'static str) -> Result<Option<u64>, FormatError> {
    match body.u64()? {
        NO_OFFSET => Ok(None),
        offset => body.within(offset, 0..=OFFSET_MAX, expected).map(|_| Some(offset)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::framed::assert_damage_is_found;
    use super::*;

    fn key(topic: &str, partition: u32) -> TopicPartition {
        TopicPartition { topic: TopicName::new(topic).unwrap(), partition }
    }

    const ONE: PartitionCheckpoint = PartitionCheckpoint {
        log_start: 1,
        recovery_point: 300,
        segment_base: 200,
        position: 9,
        high_watermark: Some(299),
        first_dirty: None,
        accepted: (3, 4),
        epochs_checksum: 7,
        producers: true,
        clean: true,
    };

    fn checkpoint(entries: &[(&str, u32, PartitionCheckpoint)]) -> Checkpoint {
        let partitions = entries.iter().map(|(topic, number, entry)| (key(topic, *number), *entry)).collect();
        Checkpoint { kafka_checksums: [5, 6], partitions }
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        FRAME.encode(0, |bytes| bytes.extend_from_slice(body))
    }

    fn body_of(checkpoint: &Checkpoint) -> Vec<u8> {
        let bytes = checkpoint.encode();
        bytes[18..bytes.len() - 4].to_vec()
    }

    #[test]
    fn the_body_is_as_drawn() {
        let unclean = PartitionCheckpoint { clean: false, ..ONE };
        let three = checkpoint(&[("b", 0, ONE), ("a", 258, unclean), ("a", 1, ONE)]);
        let numbers = [
            &b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01\x2c\0\0\0\0\0\0\0\xc8\0\0\0\0\0\0\0\x09"[..],
            b"\0\0\0\0\0\0\x01\x2b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\x07",
        ]
        .concat();
        let expected = [
            &b"\0\0\0\x05\0\0\0\x06\0\0\0\x02"[..],
            b"\x01a\0\0\0\x02",
            b"\0\0\0\x01",
            &numbers,
            b"\x03",
            b"\0\0\x01\x02",
            &numbers,
            b"\x02",
            b"\x01b\0\0\0\x01",
            b"\0\0\0\0",
            &numbers,
            b"\x03",
        ];
        assert_eq!(body_of(&three), expected.concat());
        assert_eq!(&three.encode()[..10], b"annalsC1\0\x03");
    }

    #[test]
    fn damage_is_found() {
        assert_damage_is_found(
            &checkpoint(&[("a", 0, ONE), ("a", 7, ONE), ("b", 1, ONE)]).encode(),
            Checkpoint::decode,
        );
        assert_damage_is_found(&Checkpoint::default().encode(), Checkpoint::decode);
    }

    #[test]
    fn a_newer_version_is_not_called_damaged() {
        let newer = Frame { version: 4, ..FRAME }.encode(0, |body| body.extend_from_slice(b"who knows"));
        let error = Checkpoint::decode(&newer).unwrap_err();
        let supported = "version 3";
        assert_eq!(error, FormatError::Version { what: "the checkpoint", found: 4, supported });
    }

    #[test]
    fn values_that_may_not_be_are_refused_even_under_a_right_checksum() {
        let wrong = [
            PartitionCheckpoint { log_start: OFFSET_MAX + 1, ..ONE },
            PartitionCheckpoint { recovery_point: u64::MAX, ..ONE },
            PartitionCheckpoint { segment_base: 301, ..ONE },
            PartitionCheckpoint { position: POSITION_MAX + 1, ..ONE },
            PartitionCheckpoint { high_watermark: Some(OFFSET_MAX + 1), ..ONE },
            PartitionCheckpoint { first_dirty: Some(u64::MAX - 1), ..ONE },
        ];
        for entry in wrong {
            let error = Checkpoint::decode(&checkpoint(&[("a", 0, entry)]).encode()).unwrap_err();
            assert!(matches!(error, FormatError::Invalid { .. }), "{entry:?} gave {error}");
        }
        let most = PartitionCheckpoint {
            log_start: OFFSET_MAX,
            recovery_point: OFFSET_MAX,
            segment_base: OFFSET_MAX,
            position: POSITION_MAX,
            high_watermark: Some(OFFSET_MAX),
            accepted: (OFFSET_MAX, OFFSET_MAX),
            first_dirty: Some(OFFSET_MAX),
            epochs_checksum: u32::MAX,
            producers: true,
            clean: false,
        };
        let right = checkpoint(&[("a", i32::MAX as u32, most)]);
        assert_eq!(Checkpoint::decode(&right.encode()), Ok(right));
        let above = checkpoint(&[("a", 1 << 31, ONE)]);
        assert!(matches!(Checkpoint::decode(&above.encode()), Err(FormatError::Invalid { .. })));
    }

    #[test]
    fn order_and_counts_are_checked() {
        let body = body_of(&checkpoint(&[("a", 1, ONE), ("a", 2, ONE), ("b", 0, ONE)]));
        let set = |position: usize, byte: u8| {
            let mut changed = body.clone();
            changed[position] = byte;
            Checkpoint::decode(&framed(&changed)).unwrap_err()
        };
        assert!(matches!(set(13, b'b'), FormatError::Invalid { .. }), "a topic twice");
        assert!(matches!(set(13, b'/'), FormatError::Invalid { .. }), "a name with a slash");
        assert!(matches!(set(18 + PARTITION_BYTES + 3, 1), FormatError::Invalid { .. }), "a partition twice");
        assert!(matches!(set(18 + PARTITION_BYTES - 1, 4), FormatError::Invalid { .. }), "a flag not known");
        assert!(matches!(set(8, 0xff), FormatError::Short { .. }), "too many topics");
        assert!(matches!(set(14, 0xff), FormatError::Short { .. }), "too many partitions");
        assert!(matches!(set(11, 1), FormatError::Trailing { .. }), "too few topics");
        let empty_topic = [&body[..11], b"\x01", b"\x01a\0\0\0\0", &[0; PARTITION_BYTES]].concat();
        assert!(matches!(Checkpoint::decode(&framed(&empty_topic)), Err(FormatError::Invalid { .. })));
        for length in 0..body.len() {
            Checkpoint::decode(&framed(&body[..length])).unwrap_err();
        }
    }

    #[test]
    fn names_are_stored_once_and_the_buffer_is_taken_once() {
        let names: Vec<String> = (0..500).map(|number| format!("topic-{number:03}")).collect();
        let entries: Vec<_> =
            names.iter().flat_map(|name| (0..40).map(|number| (name.as_str(), number, ONE))).collect();
        let many = checkpoint(&entries);
        let bytes = many.encode();
        assert_eq!(bytes.len(), 22 + 12 + 500 * (1 + 9 + 4) + 20_000 * PARTITION_BYTES);
        assert!(bytes.capacity() <= 22 + 12 + 20_000 * (PARTITION_BYTES + 24), "the buffer grew");
        assert_eq!(Checkpoint::decode(&bytes), Ok(many));
    }

    fn any_entry() -> impl Strategy<Value = PartitionCheckpoint> {
        let fields = (0..=OFFSET_MAX, 0..=OFFSET_MAX, 0..=OFFSET_MAX, 0..=POSITION_MAX, any::<[bool; 2]>());
        let some_offset = || prop::option::of(0..=OFFSET_MAX);
        let more = (some_offset(), some_offset(), [0..=OFFSET_MAX, 0..=OFFSET_MAX], any::<u32>());
        (fields, more).prop_map(
            |(
                (log_start, first, second, position, flags),
                (high_watermark, first_dirty, [one, other], epochs_checksum),
            )| {
                PartitionCheckpoint {
                    log_start,
                    recovery_point: first.max(second),
                    segment_base: first.min(second),
                    position,
                    high_watermark,
                    first_dirty,
                    accepted: (one.min(other), one.max(other)),
                    epochs_checksum,
                    producers: flags[0],
                    clean: flags[1],
                }
            },
        )
    }

    fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
        let key =
            ("[a-c._]{1,3}x|[a-z]{249}", 0..=i32::MAX as u32).prop_map(|(name, number)| key(&name, number));
        let partitions = prop::collection::btree_map(key, any_entry(), 0..12);
        (any::<[u32; 2]>(), partitions)
            .prop_map(|(kafka_checksums, partitions)| Checkpoint { kafka_checksums, partitions })
    }

    proptest! {
        #[test]
        fn round_trips(checkpoint in any_checkpoint()) {
            prop_assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
        }

        #[test]
        fn a_damaged_body_under_a_right_checksum_never_panics(
            checkpoint in any_checkpoint(), position in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut body = body_of(&checkpoint);
            let position = position.index(body.len());
            body[position] = byte;
            if let Ok(read) = Checkpoint::decode(&framed(&body)) {
                prop_assert_eq!(body_of(&read), body);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Checkpoint::decode(&bytes).is_err());
            if let Ok(read) = Checkpoint::decode(&framed(&bytes)) {
                prop_assert_eq!(body_of(&read), bytes);
            }
        }
    }
}
