//! The records of `__share_group_state`: bytes worked out by hand from Kafka's schemas, and what must hold for all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use annals::format::{
    DeliveryState, ShareRecordKey, ShareSnapshot, ShareStateKey, ShareUpdate, StateBatch,
    coordinator_partition,
};
use annals::{FormatError, Uuid};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn key() -> ShareStateKey {
    let topic_id = Uuid([1, 2, 3, 4, 5, 6, 7, 8, 17, 18, 19, 20, 21, 22, 23, 24]);
    ShareStateKey { group: "g1".into(), topic_id, partition: 3 }
}

fn batch(first_offset: u64, last_offset: u64, state: DeliveryState, delivery_count: u16) -> StateBatch {
    StateBatch { first_offset, last_offset, state, delivery_count }
}

fn snapshot() -> ShareSnapshot {
    ShareSnapshot {
        snapshot_epoch: 3,
        state_epoch: 2,
        leader_epoch: 4,
        start_offset: Some(10),
        create_timestamp: 1000,
        write_timestamp: 2000,
        batches: vec![
            batch(10, 19, DeliveryState::Available, 1),
            batch(20, 29, DeliveryState::Acknowledged, 3),
            batch(30, 30, DeliveryState::Archived, 5),
        ],
        delivery_complete_count: Some(11),
    }
}

#[test]
fn keys_have_their_bytes() {
    let rest = "0002 6731 0102030405060708 1112131415161718 00000003";
    let snapshot = ShareRecordKey::Snapshot(key());
    let update = ShareRecordKey::Update(key());
    assert_eq!(snapshot.encode().unwrap(), hex(&format!("0000 {rest}")));
    assert_eq!(update.encode().unwrap(), hex(&format!("0001 {rest}")));
    assert_eq!(ShareRecordKey::parse(&hex(&format!("0000 {rest}"))), Ok(Some(snapshot)));
    assert_eq!(ShareRecordKey::parse(&hex(&format!("0001 {rest}"))), Ok(Some(update)));
    assert_eq!(ShareRecordKey::parse(&hex("0002 ff")), Ok(None), "a kind of a later version is passed over");
    assert!(ShareRecordKey::parse(&hex(&format!("0001 {rest} 00"))).is_err());
    let long = ShareStateKey { group: "g".repeat(32_768), ..key() };
    assert!(matches!(ShareRecordKey::Update(long).encode(), Err(FormatError::Limit { .. })));
}

#[test]
fn a_snapshot_has_its_bytes() {
    let bytes = hex("0000 00000003 00000002 00000004 000000000000000a 00000000000003e8 00000000000007d0
         04 000000000000000a 0000000000000013 00 0001 00
            0000000000000014 000000000000001d 02 0003 00
            000000000000001e 000000000000001e 04 0005 00
         01 00 04 0000000b");
    assert_eq!(snapshot().encode().unwrap(), bytes);
    assert_eq!(ShareSnapshot::parse(&bytes), Ok(snapshot()));
}

#[test]
fn what_4_1_writes_has_no_count_and_is_read() {
    // Before the first delivery: no start offset, no batches, no tagged field.
    let bytes =
        hex("0000 00000000 00000001 00000000 ffffffffffffffff 00000000000003e8 00000000000003e8 01 00");
    let first = ShareSnapshot {
        snapshot_epoch: 0,
        state_epoch: 1,
        leader_epoch: 0,
        start_offset: None,
        create_timestamp: 1000,
        write_timestamp: 1000,
        batches: vec![],
        delivery_complete_count: None,
    };
    assert_eq!(ShareSnapshot::parse(&bytes), Ok(first.clone()));
    assert_eq!(first.encode().unwrap(), bytes);
}

#[test]
fn an_update_has_its_bytes() {
    let mut update = ShareUpdate {
        snapshot_epoch: 3,
        leader_epoch: 4,
        start_offset: Some(12),
        batches: vec![batch(12, 15, DeliveryState::Available, 1)],
        delivery_complete_count: None,
    };
    let bytes =
        hex("0000 00000003 00000004 000000000000000c 02 000000000000000c 000000000000000f 00 0001 00 00");
    assert_eq!(update.encode().unwrap(), bytes);
    assert_eq!(ShareUpdate::parse(&bytes), Ok(update.clone()));
    (update.start_offset, update.delivery_complete_count) = (None, Some(0));
    let bytes = hex("0000 00000003 00000004 ffffffffffffffff 02 000000000000000c 000000000000000f 00 0001 00
         01 00 04 00000000");
    assert_eq!(update.encode().unwrap(), bytes);
    assert_eq!(ShareUpdate::parse(&bytes), Ok(update));
}

#[test]
fn tagged_fields_of_later_versions_are_passed_over() {
    let bytes = hex(
        "0000 00000003 00000004 000000000000000c 02 000000000000000c 000000000000000f 00 0001 01 07 01 ff
         02 00 04 00000009 05 02 abcd",
    );
    let update = ShareUpdate::parse(&bytes).unwrap();
    assert_eq!((update.batches.len(), update.delivery_complete_count), (1, Some(9)));
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let head = "0000 00000003 00000004 000000000000000c";
    for (rest, why) in [
        ("02 000000000000000c 000000000000000b 00 0001 00 00", "a last offset below the first"),
        ("02 000000000000000c 000000000000000c 01 0001 00 00", "acquired is not written"),
        ("02 000000000000000c 000000000000000c 00 ffff 00 00", "a negative count"),
        ("02 ffffffffffffffff 000000000000000c 00 0001 00 00", "a negative offset"),
        ("ffffffff0f 00", "more batches than bytes"),
        ("01 00 00", "a byte left over"),
        ("01 01 00 02 0000", "a count of two bytes"),
    ] {
        assert!(ShareUpdate::parse(&hex(&format!("{head} {rest}"))).is_err(), "{why}");
    }
    assert!(ShareUpdate::parse(&hex("0000 00000003 00000004 fffffffffffffffe 01 00")).is_err());
    let later = ShareUpdate::parse(&hex("0001"));
    assert!(matches!(later, Err(FormatError::Version { found: 1, .. })), "{later:?}");
}

#[test]
fn a_hash_of_group_topic_and_partition_says_where_it_is_kept() {
    let key = key();
    assert_eq!(key.coordinator_key(), "g1:AQIDBAUGBwgREhMUFRYXGA:3");
    // Java's String.hashCode of that text, worked out from its definition.
    let hash =
        key.coordinator_key().bytes().fold(0i64, |hash, unit| (hash * 31 + i64::from(unit)) % (1 << 32));
    let signed = if hash >= 1 << 31 { hash - (1 << 32) } else { hash };
    assert_eq!(i64::from(coordinator_partition(&key.coordinator_key(), 50)), signed.abs() % 50);
}

fn any_batch() -> impl Strategy<Value = StateBatch> {
    let states = [DeliveryState::Available, DeliveryState::Acknowledged, DeliveryState::Archived];
    let offsets = (0..i64::MAX as u64, 0u64..1000);
    (offsets, prop::sample::select(states.to_vec()), 0u16..=i16::MAX as u16).prop_map(
        |((first, more), state, count)| batch(first, (first + more).min(i64::MAX as u64), state, count),
    )
}

fn any_start() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(0..=i64::MAX as u64)
}

proptest! {
    #[test]
    fn a_snapshot_comes_back(
        epochs in any::<(i32, i32, i32)>(),
        start_offset in any_start(),
        times in any::<(i64, i64)>(),
        batches in prop::collection::vec(any_batch(), 0..40),
        delivery_complete_count in prop::option::of(0u32..=i32::MAX as u32),
    ) {
        let snapshot = ShareSnapshot {
            snapshot_epoch: epochs.0, state_epoch: epochs.1, leader_epoch: epochs.2, start_offset,
            create_timestamp: times.0, write_timestamp: times.1, batches, delivery_complete_count,
        };
        prop_assert_eq!(ShareSnapshot::parse(&snapshot.encode().unwrap()), Ok(snapshot));
    }

    #[test]
    fn an_update_and_its_key_come_back(
        epochs in any::<(i32, i32)>(),
        start_offset in any_start(),
        batches in prop::collection::vec(any_batch(), 0..40),
        delivery_complete_count in prop::option::of(0u32..=i32::MAX as u32),
        group in ".{0,40}",
        id in any::<[u8; 16]>(),
        partition in any::<i32>(),
    ) {
        let update = ShareUpdate {
            snapshot_epoch: epochs.0, leader_epoch: epochs.1, start_offset, batches, delivery_complete_count,
        };
        prop_assert_eq!(ShareUpdate::parse(&update.encode().unwrap()), Ok(update));
        let key = ShareRecordKey::Update(ShareStateKey { group, topic_id: Uuid(id), partition });
        prop_assert_eq!(ShareRecordKey::parse(&key.encode().unwrap()), Ok(Some(key)));
    }

    #[test]
    fn arbitrary_bytes_and_cut_ones_are_errors_at_most(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ShareRecordKey::parse(&bytes);
        let _ = ShareSnapshot::parse(&bytes);
        let _ = ShareUpdate::parse(&bytes);
        let mut versioned = vec![0, 0];
        versioned.extend(&bytes);
        let _ = ShareSnapshot::parse(&versioned);
        let whole = snapshot().encode().unwrap();
        for length in 0..whole.len() {
            prop_assert!(ShareSnapshot::parse(&whole[..length]).is_err());
        }
    }
}
