//! The store's manifest, `annals.manifest`: which topics there are, and how they are set.
//!
//! Bytes and values only; whoever owns the directory reads and replaces the file. It lies in a
//! [frame](super::framed) with the magic `annalsM1`. The body, big-endian:
//!
//! ```text
//!  topics: u32
//!  per topic
//!  +------------+------+----------+------------+-------+-----------+
//!  | name bytes | name | topic id | partitions | flags | overrides |
//!  | u8         |      | 16 bytes | u32        | u32   | u32       |
//!  +------------+------+----------+------------+-------+-----------+
//!  per override, by key in ascending order
//!  +-----------+-----+-------------+-------+
//!  | key bytes | key | value bytes | value |
//!  | u32       |     | u32         |       |
//!  +-----------+-----+-------------+-------+
//!
//!  flags  bit 0  sparse: gaps between offsets are legitimate
//!         bit 1  deleting: the topic is gone, its directories may not be yet
//!         others must be 0
//! ```
//!
//! Names and ids occur once each, the id is never zero. Keys and values are any text: a key that this version does
//! not know must not make the manifest unreadable.

use std::collections::{BTreeMap, BTreeSet};

use super::framed::{Body, Frame, put_topic, put_u32};
use crate::error::FormatError;
use crate::types::{TopicName, Uuid};

/// The name of the file.
pub(crate) const MANIFEST_FILE: &str = "annals.manifest";

const FRAME: Frame = Frame {
    what: "the manifest",
    magic: b"annalsM1",
    magic_text: "the magic annalsM1",
    version: 1,
    version_text: "version 1",
};

const FLAG_SPARSE: u32 = 1;
const FLAG_DELETING: u32 = 2;

/// The fewest bytes of a topic: a name of one byte, nothing overridden.
const TOPIC_BYTES_MIN: u64 = 1 + 1 + 16 + 4 + 4 + 4;
/// The fewest bytes of an override: two empty texts.
const OVERRIDE_BYTES_MIN: u64 = 4 + 4;

/// What the store knows of its topics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Manifest {
    /// The topics, kept in this order; neither a name nor an id may occur twice.
    pub(crate) topics: Vec<ManifestTopic>,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestTopic {
    pub(crate) name: TopicName,
    /// Never [`Uuid::ZERO`].
    pub(crate) id: Uuid,
    /// 1 to `i32::MAX`.
    pub(crate) partitions: u32,
    /// Whether offsets may legitimately have gaps: compacted, foreign, or written by a follower.
    pub(crate) sparse: bool,
    /// Whether it is deleted, and its directories may still have to be renamed.
    pub(crate) deleting: bool,
    /// The settings that differ from the defaults, as text.
    pub(crate) config: BTreeMap<String, String>,
}

impl Manifest {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        FRAME.encode(self.topics.len() * 64, |body| {
            put_u32(body, self.topics.len() as u32);
            for topic in &self.topics {
                put_topic(body, &topic.name);
                body.extend_from_slice(&topic.id.0);
                put_u32(body, topic.partitions);
                let sparse = if topic.sparse { FLAG_SPARSE } else { 0 };
                let deleting = if topic.deleting { FLAG_DELETING } else { 0 };
                put_u32(body, sparse | deleting);
                put_u32(body, topic.config.len() as u32);
                for text in topic.config.iter().flat_map(|(key, value)| [key, value]) {
                    put_u32(body, text.len() as u32);
                    body.extend_from_slice(text.as_bytes());
                }
            }
        })
    }

    /// Reads what [`encode`](Manifest::encode) wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, FormatError> {
        let mut body = FRAME.decode(bytes)?;
        let count = body.count(TOPIC_BYTES_MIN)?;
        let mut topics = Vec::with_capacity(count);
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for index in 0..count {
            let topic = decode_topic(&mut body)?;
            if !names.insert(topic.name.clone()) || !ids.insert(topic.id) {
                return Err(body.invalid(index as i64, "a topic whose name and id no other has"));
            }
            topics.push(topic);
        }
        body.finish()?;
        Ok(Manifest { topics })
    }
}

fn decode_topic(body: &mut Body<'_>) -> Result<ManifestTopic, FormatError> {
    let name = body.topic()?;
    let id = Uuid(body.array()?);
    if id == Uuid::ZERO {
        return Err(body.invalid(0, "a topic id other than zero"));
    }
    let partitions = body.u32()?;
    body.within(partitions.into(), 1..=i32::MAX as u64, "1 to 2147483647 partitions")?;
    let flags = body.u32()?;
    body.within(flags.into(), 0..=(FLAG_SPARSE | FLAG_DELETING).into(), "topic flags of version 1")?;
    let mut config = BTreeMap::new();
    for index in 0..body.count(OVERRIDE_BYTES_MIN)? {
        let (key, value) = (decode_text(body)?, decode_text(body)?);
        if config.last_key_value().is_some_and(|(last, _): (&String, _)| *last >= key) {
            return Err(body.invalid(index as i64, "a key above the one before it"));
        }
        config.insert(key, value);
    }
    let (sparse, deleting) = (flags & FLAG_SPARSE != 0, flags & FLAG_DELETING != 0);
    Ok(ManifestTopic { name, id, partitions, sparse, deleting, config })
}

fn decode_text(body: &mut Body<'_>) -> Result<String, FormatError> {
    let length = body.u32()?;
    body.text(length.into()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::framed::assert_damage_is_found;
    use super::*;

    fn topic(name: &str, id: u8) -> ManifestTopic {
        let config = [("annals.durability", "process"), ("retention.ms", "1000")];
        ManifestTopic {
            deleting: false,
            name: TopicName::new(name).unwrap(),
            id: Uuid([id; 16]),
            partitions: 3,
            sparse: true,
            config: config.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        }
    }

    fn manifest() -> Manifest {
        let plain = ManifestTopic { sparse: false, config: BTreeMap::new(), ..topic("b", 2) };
        Manifest { topics: vec![topic("a", 1), plain] }
    }

    /// A file with a right checksum around any body.
    fn framed(body: &[u8]) -> Vec<u8> {
        FRAME.encode(0, |bytes| bytes.extend_from_slice(body))
    }

    fn body_of(manifest: &Manifest) -> Vec<u8> {
        let bytes = manifest.encode();
        bytes[18..bytes.len() - 4].to_vec()
    }

    #[test]
    fn the_body_is_as_drawn() {
        let one = Manifest {
            topics: vec![ManifestTopic {
                config: [("k".to_owned(), "vw".to_owned())].into(),
                ..topic("ab", 9)
            }],
        };
        let expected = [
            &b"\0\0\0\x01\x02ab"[..],
            &[9; 16],
            b"\0\0\0\x03\0\0\0\x01\0\0\0\x01",
            b"\0\0\0\x01k\0\0\0\x02vw",
        ];
        assert_eq!(body_of(&one), expected.concat());
        assert_eq!(&one.encode()[..10], b"annalsM1\0\x01");
    }

    #[test]
    fn damage_is_found() {
        assert_damage_is_found(&manifest().encode(), Manifest::decode);
        assert_damage_is_found(&Manifest::default().encode(), Manifest::decode);
    }

    #[test]
    fn a_newer_version_is_not_called_damaged() {
        let newer = Frame { version: 2, ..FRAME }.encode(0, |body| body.extend_from_slice(b"who knows"));
        let error = Manifest::decode(&newer).unwrap_err();
        let supported = "version 1";
        assert_eq!(error, FormatError::Version { what: "the manifest", found: 2, supported });
    }

    #[test]
    fn values_that_may_not_be_are_refused_even_under_a_right_checksum() {
        let same_name = Manifest { topics: vec![topic("a", 1), topic("a", 2)] };
        let same_id = Manifest { topics: vec![topic("a", 1), topic("b", 1)] };
        let zero = Manifest { topics: vec![ManifestTopic { id: Uuid::ZERO, ..topic("a", 1) }] };
        let none = Manifest { topics: vec![ManifestTopic { partitions: 0, ..topic("a", 1) }] };
        let many = Manifest { topics: vec![ManifestTopic { partitions: 1 << 31, ..topic("a", 1) }] };
        for manifest in [same_name, same_id, zero, none, many] {
            let error = Manifest::decode(&manifest.encode()).unwrap_err();
            assert!(matches!(error, FormatError::Invalid { .. }), "{manifest:?} gave {error}");
        }
        let body = body_of(&Manifest { topics: vec![topic("a", 1)] });
        let set = |position: usize, byte: u8| {
            let mut changed = body.clone();
            changed[position] = byte;
            Manifest::decode(&framed(&changed)).unwrap_err()
        };
        assert!(matches!(set(5, b'/'), FormatError::Invalid { .. }), "a name with a slash");
        assert!(matches!(set(29, 4), FormatError::Invalid { .. }), "a flag not known");
        assert!(matches!(set(38, 0xff), FormatError::Invalid { .. }), "a key that is not UTF-8");
        assert!(matches!(set(38, b'z'), FormatError::Invalid { .. }), "keys out of order");
    }

    #[test]
    fn lengths_and_counts_beyond_the_body_are_refused() {
        let body = body_of(&Manifest { topics: vec![topic("a", 1)] });
        for position in [0, 4, 30, 34] {
            let mut changed = body.clone();
            changed[position] = 0xff;
            let error = Manifest::decode(&framed(&changed)).unwrap_err();
            assert!(matches!(error, FormatError::Short { .. }), "byte {position} gave {error}");
        }
        let longer = [&body[..], &[0]].concat();
        assert!(matches!(Manifest::decode(&framed(&longer)), Err(FormatError::Trailing { extra: 1, .. })));
        for length in 0..body.len() {
            Manifest::decode(&framed(&body[..length])).unwrap_err();
        }
    }

    fn any_manifest() -> impl Strategy<Value = Manifest> {
        let rest = (1..=i32::MAX as u32, any::<bool>(), prop::collection::btree_map(".*", ".*", 0..4));
        prop::collection::btree_map("[a-zA-Z0-9_-]{1,249}", rest, 0..6).prop_map(|topics| {
            let topic = |(id, (name, (partitions, sparse, config)))| ManifestTopic {
                deleting: partitions % 2 == 0,
                name: TopicName::new(name).unwrap(),
                id: Uuid::from_random(id, !id),
                partitions,
                sparse,
                config,
            };
            Manifest { topics: (0u64..).zip(topics).map(topic).collect() }
        })
    }

    proptest! {
        #[test]
        fn round_trips(manifest in any_manifest()) {
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Manifest::decode(&bytes).is_err());
            if let Ok(read) = Manifest::decode(&framed(&bytes)) {
                prop_assert_eq!(body_of(&read), bytes);
            }
        }

        #[test]
        fn a_damaged_body_under_a_right_checksum_never_panics(
            manifest in any_manifest(), position in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut body = body_of(&manifest);
            let position = position.index(body.len());
            body[position] = byte;
            if let Ok(read) = Manifest::decode(&framed(&body)) {
                prop_assert_eq!(body_of(&read), body);
            }
        }
    }
}
