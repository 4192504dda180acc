//! What the members of a group tell each other: the bytes of Kafka's own classes, all versions, and any bytes at all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and so do its helpers"
)]

use annals::format::codec::{
    Reader, write_array, write_bytes, write_compact_array, write_compact_bytes, write_compact_nullable_array,
    write_compact_nullable_bytes, write_compact_nullable_string, write_compact_string, write_nullable_array,
    write_nullable_bytes, write_nullable_string, write_string, write_tagged_fields,
};
use annals::format::consumer_protocol::{Assignment, StickyUserData, Subscription};
use annals::{FormatError, TopicName, TopicPartition, Uuid};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

// Written by the classes of Apache Kafka.
const SUBSCRIPTION_V0: &[u8] = b"\0\0\0\0\0\x02\0\x01a\0\x01b\xff\xff\xff\xff";
const SUBSCRIPTION_V1: &[u8] =
    b"\0\x01\0\0\0\x02\0\x01a\0\x01b\0\0\0\x02ud\0\0\0\x01\0\x01a\0\0\0\x01\0\0\0\x01";
const SUBSCRIPTION_V3: &[u8] = b"\0\x03\0\0\0\x01\0\x06orders\xff\xff\xff\xff\
    \0\0\0\x01\0\x06orders\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x05\0\x02r1";
const ASSIGNMENT_V3: &[u8] = b"\0\x03\0\0\0\x01\0\x06orders\0\0\0\x02\0\0\0\0\0\0\0\x02\xff\xff\xff\xff";

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn partitions(of: &[(&str, u32)]) -> Vec<TopicPartition> {
    of.iter().map(|&(name, partition)| TopicPartition { topic: topic(name), partition }).collect()
}

/// Each version of a subscription that Kafka wrote, and what it put in.
fn kafka_subscriptions() -> [(i16, &'static [u8], Subscription); 3] {
    let a_and_b = Subscription { topics: vec![topic("a"), topic("b")], ..Subscription::default() };
    let owner =
        Subscription { user_data: Some("ud".into()), owned: partitions(&[("a", 1)]), ..a_and_b.clone() };
    let all = Subscription {
        topics: vec![topic("orders")],
        user_data: None,
        owned: partitions(&[("orders", 0), ("orders", 1)]),
        generation: 5,
        rack: Some("r1".to_owned()),
    };
    [(0, SUBSCRIPTION_V0, a_and_b), (1, SUBSCRIPTION_V1, owner), (3, SUBSCRIPTION_V3, all)]
}

#[test]
fn subscriptions_are_those_of_kafka() {
    for (version, bytes, subscription) in kafka_subscriptions() {
        assert_eq!(Subscription::decode(bytes), Ok(subscription.clone()), "version {version}");
        assert_eq!(subscription.encode_version(version).as_deref(), Ok(bytes), "version {version}");
    }
    let (.., last) = kafka_subscriptions().into_iter().last().unwrap();
    assert_eq!(last.encode().as_deref(), Ok(SUBSCRIPTION_V3), "version 3 unless another is asked for");
}

#[test]
fn assignments_are_those_of_kafka() {
    let assignment = Assignment { partitions: partitions(&[("orders", 0), ("orders", 2)]), user_data: None };
    assert_eq!(assignment.encode().as_deref(), Ok(ASSIGNMENT_V3));
    for version in 0..=3u8 {
        let mut bytes = ASSIGNMENT_V3.to_vec();
        bytes[1] = version;
        assert_eq!(Assignment::decode(&bytes), Ok(assignment.clone()));
        assert_eq!(assignment.encode_version(version.into()), Ok(bytes), "only the number differs");
    }
}

#[test]
fn a_version_to_come_is_read_as_the_last_one_known() {
    let mut bytes = SUBSCRIPTION_V3.to_vec();
    bytes[..2].copy_from_slice(&100i16.to_be_bytes());
    bytes.extend(b"fields of the future");
    assert_eq!(Subscription::decode(&bytes), Subscription::decode(SUBSCRIPTION_V3));
    let mut bytes = ASSIGNMENT_V3.to_vec();
    bytes[..2].copy_from_slice(&i16::MAX.to_be_bytes());
    bytes.extend(b"fields of the future");
    assert_eq!(Assignment::decode(&bytes), Assignment::decode(ASSIGNMENT_V3));
}

#[test]
fn versions_that_there_are_not() {
    for version in [-1i16, i16::MIN] {
        let mut bytes = SUBSCRIPTION_V3.to_vec();
        bytes[..2].copy_from_slice(&version.to_be_bytes());
        let error = Subscription::decode(&bytes).unwrap_err();
        assert!(matches!(error, FormatError::Version { found, .. } if found == version.into()), "{error}");
        let error = Assignment::decode(&bytes).unwrap_err();
        assert!(matches!(error, FormatError::Version { found, .. } if found == version.into()), "{error}");
    }
    for version in [-1, 4] {
        assert!(matches!(
            Subscription::default().encode_version(version),
            Err(FormatError::Version { found, .. }) if found == i64::from(version)
        ));
        assert!(matches!(
            Assignment::default().encode_version(version),
            Err(FormatError::Version { found, .. }) if found == i64::from(version)
        ));
    }
}

#[test]
fn topics_that_cannot_be_are_passed_over() {
    let mut bytes = vec![0, 1];
    write_array(&mut bytes, 4, "topics").unwrap();
    for name in ["a", "../etc", "", "b"] {
        write_string(&mut bytes, name, "topic").unwrap();
    }
    write_nullable_bytes(&mut bytes, None, "user data").unwrap();
    let mut owned = Vec::new();
    write_array(&mut owned, 2, "owned").unwrap();
    for name in ["no topic", "b"] {
        write_string(&mut owned, name, "topic").unwrap();
        owned.extend(b"\0\0\0\x02\0\0\0\x07\0\0\0\x08");
    }
    bytes.extend(&owned);
    let subscription = Subscription::decode(&bytes).unwrap();
    assert_eq!(subscription.topics, [topic("a"), topic("b")]);
    assert_eq!(subscription.owned, partitions(&[("b", 7), ("b", 8)]));
    assert_eq!((subscription.generation, subscription.rack), (-1, None));

    let assignment = [b"\0\0".as_slice(), &owned, &[0xff; 4]].concat();
    assert_eq!(Assignment::decode(&assignment).unwrap().partitions, partitions(&[("b", 7), ("b", 8)]));
}

#[test]
fn numbers_of_partitions_are_not_negative() {
    let mut bytes = ASSIGNMENT_V3.to_vec();
    bytes[22..26].copy_from_slice(&(-7i32).to_be_bytes());
    let error = Assignment::decode(&bytes).unwrap_err();
    assert!(matches!(error, FormatError::Invalid { found: -7, .. }), "{error}");
    let beyond = partitions(&[("a", i32::MAX as u32), ("a", i32::MAX as u32 + 1)]);
    let error = Assignment { partitions: beyond, user_data: None }.encode().unwrap_err();
    assert!(matches!(error, FormatError::Invalid { found: 0x8000_0000, .. }), "{error}");
}

#[test]
fn what_is_cut_short_and_what_claims_too_much_is_refused() {
    for end in 0..SUBSCRIPTION_V3.len() {
        let error = Subscription::decode(&SUBSCRIPTION_V3[..end]).unwrap_err();
        assert!(matches!(error, FormatError::Short { .. }), "{end}: {error}");
    }
    for end in 0..ASSIGNMENT_V3.len() {
        let error = Assignment::decode(&ASSIGNMENT_V3[..end]).unwrap_err();
        assert!(matches!(error, FormatError::Short { .. }), "{end}: {error}");
    }
    // Two thousand million topics, of which none is there.
    let error = Subscription::decode(b"\0\0\x7f\xff\xff\xff\0\x01a").unwrap_err();
    assert!(matches!(error, FormatError::Short { needed: 4_294_967_294, available: 3, .. }), "{error}");
    let null = Subscription::decode(b"\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap_err();
    assert!(matches!(null, FormatError::Invalid { found: -1, .. }), "{null}");
    let rack = Some("x".repeat(32_768));
    let error = Subscription { rack, ..Subscription::default() }.encode().unwrap_err();
    assert_eq!(error, FormatError::Limit { what: "rack", limit: 32_767 });
}

#[test]
fn order_and_doubles_are_mended() {
    let untidy = Subscription {
        topics: vec![topic("b"), topic("a"), topic("b")],
        owned: partitions(&[("b", 1), ("a", 2), ("b", 0), ("a", 2)]),
        ..Subscription::default()
    };
    let read = Subscription::decode(&untidy.encode().unwrap()).unwrap();
    assert_eq!(read.topics, [topic("a"), topic("b")]);
    assert_eq!(read.owned, partitions(&[("a", 2), ("b", 0), ("b", 1)]));
}

fn any_topic() -> impl Strategy<Value = TopicName> {
    "[a-zA-Z0-9_-]{1,12}".prop_map(|name| topic(&name))
}

fn any_partitions() -> impl Strategy<Value = Vec<TopicPartition>> {
    btree_map(any_topic(), btree_set(0..=i32::MAX as u32, 1..5), 0..5).prop_map(|map| {
        let pairs = map.into_iter().flat_map(|(topic, numbers)| {
            numbers.into_iter().map(move |partition| TopicPartition { topic: topic.clone(), partition })
        });
        pairs.collect()
    })
}

fn any_user_data() -> impl Strategy<Value = Option<bytes::Bytes>> {
    option::of(vec(any::<u8>(), 0..20).prop_map(Into::into))
}

fn any_subscription() -> impl Strategy<Value = Subscription> {
    let topics = btree_set(any_topic(), 0..6).prop_map(|topics| topics.into_iter().collect());
    (topics, any_user_data(), any_partitions(), any::<i32>(), option::of(".{0,8}")).prop_map(
        |(topics, user_data, owned, generation, rack)| Subscription {
            topics,
            user_data,
            owned,
            generation,
            rack,
        },
    )
}

/// One field of a message.
#[derive(Debug, Clone)]
enum Field {
    String(Option<String>),
    Bytes(Option<Vec<u8>>),
    Array(Option<Vec<u8>>),
    Uuid([u8; 16]),
    Tagged(Vec<(u32, Vec<u8>)>),
}

fn any_field() -> impl Strategy<Value = Field> {
    let bytes = || vec(any::<u8>(), 0..200);
    prop_oneof![
        option::of(".{0,80}").prop_map(Field::String),
        option::of(bytes()).prop_map(Field::Bytes),
        option::of(bytes()).prop_map(Field::Array),
        any::<[u8; 16]>().prop_map(Field::Uuid),
        btree_map(any::<u32>(), bytes(), 0..4).prop_map(|map| Field::Tagged(map.into_iter().collect())),
    ]
}

impl Field {
    fn write(&self, out: &mut Vec<u8>, flexible: bool) -> Result<(), FormatError> {
        let what = "field";
        match (self, flexible) {
            (Field::String(Some(text)), false) => write_string(out, text, what),
            (Field::String(Some(text)), true) => write_compact_string(out, text, what),
            (Field::String(None), false) => write_nullable_string(out, None, what),
            (Field::String(None), true) => write_compact_nullable_string(out, None, what),
            (Field::Bytes(Some(bytes)), false) => write_bytes(out, bytes, what),
            (Field::Bytes(Some(bytes)), true) => write_compact_bytes(out, bytes, what),
            (Field::Bytes(None), false) => write_nullable_bytes(out, None, what),
            (Field::Bytes(None), true) => write_compact_nullable_bytes(out, None, what),
            (Field::Array(Some(items)), false) => write_array(out, items.len(), what),
            (Field::Array(Some(items)), true) => write_compact_array(out, items.len(), what),
            (Field::Array(None), false) => write_nullable_array(out, None, what),
            (Field::Array(None), true) => write_compact_nullable_array(out, None, what),
            (Field::Uuid(bytes), _) => {
                out.extend(bytes);
                Ok(())
            }
            (Field::Tagged(fields), _) => {
                let fields: Vec<_> = fields.iter().map(|(tag, payload)| (*tag, &payload[..])).collect();
                write_tagged_fields(out, &fields)
            }
        }?;
        if let Field::Array(Some(items)) = self {
            out.extend(items);
        }
        Ok(())
    }

    /// Reads a field of the same kind.
    fn read(&self, reader: &mut Reader<'_>, flexible: bool) -> Result<Field, FormatError> {
        let what = "field";
        Ok(match self {
            Field::String(_) if flexible => {
                Field::String(reader.compact_nullable_string(what)?.map(str::to_owned))
            }
            Field::String(_) => Field::String(reader.nullable_string(what)?.map(str::to_owned)),
            Field::Bytes(_) if flexible => {
                Field::Bytes(reader.compact_nullable_bytes(what)?.map(<[u8]>::to_vec))
            }
            Field::Bytes(_) => Field::Bytes(reader.nullable_bytes(what)?.map(<[u8]>::to_vec)),
            Field::Array(_) => {
                let count = match flexible {
                    true => reader.compact_nullable_array(1, what)?,
                    false => reader.nullable_array(1, what)?,
                };
                Field::Array(count.map(|count| reader.take(count, what).map(<[u8]>::to_vec)).transpose()?)
            }
            Field::Uuid(_) => Field::Uuid(reader.uuid(what)?.0),
            Field::Tagged(_) => {
                let mut fields = Vec::new();
                reader.tagged_fields(what, |tag, payload| {
                    fields.push((tag, payload.rest().to_vec()));
                    Ok(())
                })?;
                Field::Tagged(fields)
            }
        })
    }
}

proptest! {
    #[test]
    fn subscriptions_come_back(subscription in any_subscription()) {
        prop_assert_eq!(Subscription::decode(&subscription.encode().unwrap()).unwrap(), subscription.clone());
        for version in 0..3 {
            let read = Subscription::decode(&subscription.encode_version(version).unwrap()).unwrap();
            let Subscription { topics, user_data, owned, generation, .. } = subscription.clone();
            let kept = Subscription {
                topics,
                user_data,
                owned: if version < 1 { Vec::new() } else { owned },
                generation: if version < 2 { -1 } else { generation },
                rack: None,
            };
            prop_assert_eq!(read, kept);
        }
    }

    #[test]
    fn assignments_come_back(partitions in any_partitions(), user_data in any_user_data()) {
        let assignment = Assignment { partitions, user_data };
        for version in 0..=3 {
            let bytes = assignment.encode_version(version).unwrap();
            prop_assert_eq!(Assignment::decode(&bytes).unwrap(), assignment.clone());
        }
    }

    #[test]
    fn user_data_comes_back(partitions in any_partitions(), generation: i32) {
        let data = StickyUserData { partitions, generation };
        let bytes = data.encode().unwrap();
        prop_assert_eq!(StickyUserData::decode(&bytes).unwrap(), data.clone());
        let version_0 = StickyUserData::decode(&bytes[..bytes.len() - 4]).unwrap();
        prop_assert_eq!(version_0, StickyUserData { generation: -1, ..data });
    }

    #[test]
    fn no_bytes_make_a_reader_panic(noise in vec(any::<u8>(), 0..200), at in 0..50usize, byte: u8) {
        let _ = Subscription::decode(&noise);
        let _ = Assignment::decode(&noise);
        let _ = StickyUserData::decode(&noise);
        for (_, bytes, _) in kafka_subscriptions() {
            let mut changed = bytes.to_vec();
            if let Some(place) = changed.get_mut(at) {
                *place = byte;
            }
            if let Ok(read) = Subscription::decode(&changed) {
                prop_assert!(read.encode().is_ok());
            }
        }
        let mut changed = ASSIGNMENT_V3.to_vec();
        if let Some(place) = changed.get_mut(at) {
            *place = byte;
        }
        if let Ok(read) = Assignment::decode(&changed) {
            prop_assert!(read.encode().is_ok());
        }
    }

    #[test]
    fn fields_of_messages_come_back(fields in vec(any_field(), 0..8), flexible: bool) {
        let mut bytes = Vec::new();
        for field in &fields {
            field.write(&mut bytes, flexible).unwrap();
        }
        let mut reader = Reader::new(&bytes);
        for field in &fields {
            let read = field.read(&mut reader, flexible).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{field:?}"));
        }
        reader.finish("message").unwrap();
    }

    #[test]
    fn no_bytes_make_a_reader_of_fields_panic(
        noise in vec(any::<u8>(), 0..60),
        fields in vec(any_field(), 1..6),
        flexible: bool,
    ) {
        let mut reader = Reader::new(&noise);
        for field in &fields {
            let before = reader.remaining();
            if field.read(&mut reader, flexible).is_err() {
                break;
            }
            prop_assert!(reader.remaining() < before, "every field takes something");
        }
    }
}

#[test]
fn uuids_are_sixteen_bytes_in_order() {
    let bytes: Vec<u8> = (1..=17).collect();
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.uuid("topic id"), Ok(Uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])));
    assert!(matches!(reader.uuid("topic id"), Err(FormatError::Short { needed: 16, available: 1, .. })));
}
