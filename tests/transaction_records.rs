//! What the coordinator of transactions writes down: the bytes of Kafka's own classes, and any bytes at all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use annals::format::transaction_records::{TransactionState, TransactionValue, decode_key, encode_key};
use annals::format::{coordinator_partition, java_hash};
use annals::{FormatError, TopicName, TopicPartition};
use proptest::collection::btree_set;
use proptest::option;
use proptest::prelude::*;

const T: i64 = 1_700_000_000_000;

// Written by the classes of Apache Kafka.
const KEY: &[u8] = b"\0\0\0\x04tx-1";
const ONGOING: &[u8] = b"\0\0\0\0\0\0\0\0\x0f\xa0\0\x03\0\0\xea\x60\x01\
    \0\0\0\x01\0\x06orders\0\0\0\x02\0\0\0\0\0\0\0\x02\
    \0\0\x01\x8b\xcf\xe5\x68\x05\0\0\x01\x8b\xcf\xe5\x68\0";
const EMPTY: &[u8] = b"\0\0\0\0\0\0\0\0\x0f\xa0\0\0\0\0\xea\x60\0\xff\xff\xff\xff\
    \0\0\x01\x8b\xcf\xe5\x68\0\xff\xff\xff\xff\xff\xff\xff\xff";
const TAGGED: &[u8] = b"\0\x01\0\0\0\0\0\0\x0f\xa0\0\x03\0\0\xea\x60\x01\
    \x02\x07orders\x03\0\0\0\0\0\0\0\x02\0\
    \0\0\x01\x8b\xcf\xe5\x68\x05\0\0\x01\x8b\xcf\xe5\x68\0\
    \x03\0\x08\0\0\0\0\0\0\x0f\x9f\x01\x08\0\0\0\0\0\0\x0f\xa1\x02\x02\0\x02";

fn partition(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition { topic: TopicName::new(topic).unwrap(), partition }
}

fn ongoing() -> TransactionValue {
    let mut value = TransactionValue::new(4000, 3, 60_000);
    value.state = TransactionState::Ongoing;
    value.partitions = [partition("orders", 0), partition("orders", 2)].into();
    (value.last_update, value.started) = (T + 5, Some(T));
    value
}

#[test]
fn keys_are_those_of_kafka() {
    assert_eq!(encode_key("tx-1").as_deref(), Ok(KEY));
    assert_eq!(decode_key(KEY), Ok(Some("tx-1".into())));
    assert_eq!(decode_key(b"\0\x01whatever"), Ok(None), "a version to come");
    assert_eq!(encode_key(&"x".repeat(0x7fff)).map(|key| key.len()), Ok(0x8003));
    assert!(matches!(encode_key(&"x".repeat(0x8000)), Err(FormatError::Limit { .. })));
    for cut in 0..KEY.len() {
        assert!(matches!(decode_key(&KEY[..cut]), Err(FormatError::Short { .. })), "{cut} bytes");
    }
    assert!(matches!(decode_key(b"\0\0\0\x01ab"), Err(FormatError::Trailing { extra: 1, .. })));
}

#[test]
fn values_are_those_of_kafka() {
    assert_eq!(ongoing().encode().as_deref(), Ok(ONGOING));
    assert_eq!(TransactionValue::decode(ONGOING), Ok(ongoing()));
    let mut empty = TransactionValue::new(4000, 0, 60_000);
    empty.last_update = T;
    assert_eq!(empty.encode().as_deref(), Ok(EMPTY));
    assert_eq!(TransactionValue::decode(EMPTY), Ok(empty));
}

#[test]
fn what_later_brokers_add_is_read() {
    let mut value = ongoing();
    (value.previous_producer_id, value.next_producer_id) = (Some(3999), Some(4001));
    value.client_version = 2;
    assert_eq!(TransactionValue::decode(TAGGED), Ok(value.clone()));
    // Version 0 has no field for it.
    assert_eq!(value.encode().as_deref(), Ok(ONGOING));
    // A tag that nobody knows yet, of three bytes.
    let fields = TAGGED.len() - 25;
    assert_eq!(TAGGED[fields], 3, "that many tagged fields");
    let mut unknown = TAGGED.to_vec();
    unknown[fields] = 4;
    unknown.extend_from_slice(b"\x09\x03abc");
    assert_eq!(TransactionValue::decode(&unknown), Ok(value));
    let none = [&TAGGED[..fields], b"\0"].concat();
    assert_eq!(TransactionValue::decode(&none), Ok(ongoing()));
}

#[test]
fn what_may_not_be_is_refused() {
    for bytes in [ONGOING, EMPTY, TAGGED] {
        for cut in 0..bytes.len() {
            TransactionValue::decode(&bytes[..cut]).unwrap_err();
        }
        let longer = [bytes, b"\0"].concat();
        assert!(matches!(TransactionValue::decode(&longer), Err(FormatError::Trailing { extra: 1, .. })));
    }
    let set = |position: usize, byte: u8| {
        let mut bytes = ONGOING.to_vec();
        bytes[position] = byte;
        TransactionValue::decode(&bytes).unwrap_err()
    };
    assert!(matches!(set(1, 2), FormatError::Version { found: 2, .. }));
    assert!(matches!(set(16, 8), FormatError::Invalid { found: 8, .. }), "no such state");
    assert!(matches!(set(16, 0xff), FormatError::Invalid { found: -1, .. }), "no such state");
    assert!(matches!(set(17, 0x80), FormatError::Invalid { .. }), "a negative count");
    assert!(matches!(set(17, 0x7f), FormatError::Short { .. }), "a count beyond the bytes");
    assert!(matches!(set(33, 0xff), FormatError::Invalid { .. }), "a negative partition");
    let mut beyond = ongoing();
    beyond.partitions.insert(partition("orders", u32::MAX));
    assert!(matches!(beyond.encode(), Err(FormatError::Invalid { .. })));
}

#[test]
fn partitions_of_a_topic_that_cannot_be_are_passed_over() {
    let mut bytes = ONGOING.to_vec();
    bytes[23..29].copy_from_slice(b"a/b  c");
    assert_eq!(TransactionValue::decode(&bytes).unwrap().partitions, BTreeSet::new());
}

#[test]
fn states_follow_each_other_as_kafka_says_and_not_otherwise() {
    use TransactionState::*;
    let allowed: [(TransactionState, &[TransactionState]); 8] = [
        (Empty, &[Empty, CompleteCommit, CompleteAbort]),
        (Ongoing, &[Empty, Ongoing, CompleteCommit, CompleteAbort]),
        (PrepareCommit, &[Ongoing]),
        (PrepareAbort, &[Ongoing, PrepareEpochFence]),
        (CompleteCommit, &[PrepareCommit]),
        (CompleteAbort, &[PrepareAbort]),
        (Dead, &[Empty, CompleteCommit, CompleteAbort]),
        (PrepareEpochFence, &[Ongoing]),
    ];
    assert_eq!(allowed.map(|(state, _)| state), TransactionState::ALL);
    for (state, sources) in allowed {
        for before in TransactionState::ALL {
            assert_eq!(state.may_follow(before), sources.contains(&before), "{before} to {state}");
        }
    }
    assert_eq!(TransactionState::ALL.map(TransactionState::id), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(PrepareEpochFence.to_string(), "PrepareEpochFence");
}

/// Java's `String.hashCode`, from its documentation: s[0]*31^(n-1) + s[1]*31^(n-2) + ... + s[n-1].
fn hash_by_powers(text: &str) -> i32 {
    let units: Vec<u16> = text.encode_utf16().collect();
    let term = |(place, unit): (usize, &u16)| {
        let power = (0..units.len() - 1 - place).fold(1i64, |power, _| power * 31 % (1 << 32));
        i64::from(*unit) * power % (1 << 32)
    };
    units.iter().enumerate().map(term).sum::<i64>() as i32
}

fn any_value() -> impl Strategy<Value = TransactionValue> {
    let partition =
        ("[a-zA-Z0-9_-]{1,20}", 0..=i32::MAX as u32).prop_map(|(topic, number)| partition(&topic, number));
    let numbers = (any::<i64>(), any::<i16>(), any::<i32>(), any::<i64>(), option::of(0..=i64::MAX));
    let state = proptest::sample::select(&TransactionState::ALL[..]);
    (numbers, state, btree_set(partition, 0..8)).prop_map(|(numbers, state, partitions)| {
        let (id, epoch, timeout, last_update, started) = numbers;
        let mut value = TransactionValue::new(id, epoch, timeout);
        (value.state, value.partitions) = (state, partitions);
        (value.last_update, value.started) = (last_update, started);
        value
    })
}

proptest! {
    #[test]
    fn values_round_trip(value in any_value()) {
        prop_assert_eq!(TransactionValue::decode(&value.encode().unwrap()), Ok(value));
    }

    #[test]
    fn keys_round_trip(id in ".{0,40}") {
        prop_assert_eq!(decode_key(&encode_key(&id).unwrap()), Ok(Some(id)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0u8..3) {
        let _ = decode_key(&bytes);
        let _ = TransactionValue::decode(&bytes);
        let versioned = [&[0, version], &bytes[..]].concat();
        let _ = decode_key(&versioned);
        if let Ok(value) = TransactionValue::decode(&versioned) {
            let again = TransactionValue::decode(&value.encode().unwrap()).unwrap();
            prop_assert_eq!((again.state, again.partitions), (value.state, value.partitions));
        }
    }

    #[test]
    fn a_damaged_value_never_panics(
        which in 0usize..3, position in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = [ONGOING, EMPTY, TAGGED][which].to_vec();
        let position = position.index(bytes.len());
        bytes[position] = byte;
        let _ = TransactionValue::decode(&bytes);
    }

    #[test]
    fn the_hash_is_that_of_java(text in ".{0,40}", partitions in 1u32..200) {
        prop_assert_eq!(java_hash(&text), hash_by_powers(&text));
        prop_assert!(coordinator_partition(&text, partitions) < partitions);
    }
}
