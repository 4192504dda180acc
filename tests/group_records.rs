//! The records of `__consumer_offsets`, against bytes that Kafka's own classes wrote and against any bytes at all.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

use annals::format::consumer_protocol::{Assignment, Subscription};
use annals::format::coordinator_partition;
use annals::format::group_records::{
    GroupMetadataMember, GroupMetadataValue, GroupRecordKey, OffsetCommitValue,
};
use annals::{FormatError, Uuid};
use proptest::prelude::*;

/// The moment that the vectors speak of.
const T: i64 = 1_700_000_000_000;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

const G1: &str = "00010002673100066f726465727300000003";
const G2: [&str; 5] = [
    "0000000000000000002a00016d0000018bcfe56800",
    "0001000000000000002a00016d0000018bcfe568000000018bcfe65260",
    "0002000000000000002a00016d0000018bcfe56800",
    "0003000000000000002a0000000700016d0000018bcfe56800",
    "0004000000000000002a00000007026d0000018bcfe5680000",
];
const G3: &str = "000200026731";
const G4_V3: &str = concat!(
    "00030008636f6e73756d657200000005000572616e676500036d2d310000018bcfe568000000000100036d2d31ffff000163000a",
    "2f3132372e302e302e31000493e00000afc80000003200030000000100066f7264657273ffffffff0000000100066f7264657273",
    "00000002000000000000000100000005000272310000001e00030000000100066f7264657273000000020000000000000002ffff",
    "ffff"
);
const G4_V4: &str = concat!(
    "000409636f6e73756d6572000000050672616e6765046d2d310000018bcfe5680002046d2d310002630b2f3132372e302e302e31",
    "000493e00000afc83300030000000100066f7264657273ffffffff0000000100066f726465727300000002000000000000000100",
    "000005000272311f00030000000100066f7264657273000000020000000000000002ffffffff0000"
);

fn commit() -> OffsetCommitValue {
    OffsetCommitValue {
        offset: 42,
        leader_epoch: -1,
        metadata: "m".into(),
        commit_timestamp: T,
        expire_timestamp: -1,
        topic_id: Uuid::ZERO,
    }
}

#[test]
fn keys_of_committed_offsets() {
    let key = GroupRecordKey::Offset { group: "g1".into(), topic: "orders".into(), partition: 3 };
    assert_eq!(key.encode().unwrap(), hex(G1));
    assert_eq!(GroupRecordKey::decode(&hex(G1)).unwrap(), key);
    let mut of_version_0 = hex(G1);
    of_version_0[1] = 0;
    assert_eq!(GroupRecordKey::decode(&of_version_0).unwrap(), key);
}

#[test]
fn values_of_committed_offsets() {
    let with_epoch = OffsetCommitValue { leader_epoch: 7, ..commit() };
    let expiring = OffsetCommitValue { expire_timestamp: T + 60_000, ..commit() };
    let values = [commit(), expiring.clone(), commit(), with_epoch.clone(), with_epoch.clone()];
    for (version, (bytes, value)) in (0i16..).zip(G2.iter().zip(&values)) {
        assert_eq!(value.encode_version(version).unwrap(), hex(bytes), "version {version}");
        assert_eq!(&OffsetCommitValue::decode(&hex(bytes)).unwrap(), value, "version {version}");
    }
    assert_eq!(with_epoch.encode().unwrap(), hex(G2[3]), "3 is written");
    assert_eq!(expiring.encode().unwrap(), hex(G2[1]), "1 is written where somebody says when it expires");
    assert_eq!(
        commit().encode_version(5),
        Err(FormatError::Version { what: "OffsetCommitValue", found: 5, supported: "0 to 4" })
    );
}

#[test]
fn the_id_of_a_topic_is_read_since_version_4() {
    let value = OffsetCommitValue { topic_id: Uuid([7; 16]), ..commit() };
    let bytes = value.encode_version(4).unwrap();
    assert_eq!(bytes.len(), hex(G2[4]).len() + 2 + 16);
    assert_eq!(OffsetCommitValue::decode(&bytes).unwrap(), value);
    // A tag of a version to come is passed over.
    let mut later = hex(G2[4]);
    later.pop();
    later.extend([1, 9, 2, 0xaa, 0xbb]);
    assert_eq!(OffsetCommitValue::decode(&later).unwrap().topic_id, Uuid::ZERO);
}

#[test]
fn keys_of_groups() {
    let key = GroupRecordKey::Group { group: "g1".into() };
    assert_eq!(key.encode().unwrap(), hex(G3));
    assert_eq!(GroupRecordKey::decode(&hex(G3)).unwrap(), key);
}

#[test]
fn values_of_groups() {
    let value = GroupMetadataValue::decode(&hex(G4_V3)).unwrap();
    let member = &value.members[0];
    assert_eq!((value.protocol_type.as_str(), value.generation), ("consumer", 5));
    assert_eq!((value.protocol.as_deref(), value.leader.as_deref()), (Some("range"), Some("m-1")));
    assert_eq!((value.current_state_timestamp, value.members.len()), (T, 1));
    assert_eq!((member.member_id.as_str(), &member.instance_id), ("m-1", &None));
    assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("c", "/127.0.0.1"));
    assert_eq!((member.rebalance_timeout, member.session_timeout), (300_000, 45_000));
    assert_eq!(Subscription::decode(&member.subscription).unwrap().rack.as_deref(), Some("r1"));
    assert_eq!(Assignment::decode(&member.assignment).unwrap().partitions.len(), 2);
    assert_eq!(value.encode().unwrap(), hex(G4_V3), "3 is written");
    assert_eq!(GroupMetadataValue::decode(&hex(G4_V4)).unwrap(), value);
    assert_eq!(value.encode_version(4).unwrap(), hex(G4_V4));
    for version in [-1, 5] {
        assert!(matches!(value.encode_version(version), Err(FormatError::Version { .. })));
    }
}

#[test]
fn older_values_of_groups() {
    let value = GroupMetadataValue::decode(&hex(G4_V3)).unwrap();
    for version in 0..3 {
        let bytes = value.encode_version(version).unwrap();
        let read = GroupMetadataValue::decode(&bytes).unwrap();
        let timestamp = if version < 2 { -1 } else { T };
        assert_eq!(read.current_state_timestamp, timestamp, "version {version}");
        let rebalance = if version < 1 { 45_000 } else { 300_000 };
        assert_eq!(read.members[0].rebalance_timeout, rebalance, "version {version}");
    }
}

#[test]
fn keys_of_other_kinds_are_known_as_such() {
    // K1, a group of KIP-848; and whatever will come.
    assert_eq!(GroupRecordKey::decode(&hex("000300026731")).unwrap(), GroupRecordKey::Other(3));
    for version in (3..100).chain([i16::MAX, -1, i16::MIN]) {
        let bytes = version.to_be_bytes();
        assert_eq!(GroupRecordKey::decode(&bytes).unwrap(), GroupRecordKey::Other(version));
    }
    assert!(GroupRecordKey::Other(3).encode().is_err());
}

#[test]
fn partitions_of_groups() {
    let ids = ["g1", "test-group", "console-consumer-12345", "my-group", "polygenelubricants", ""];
    assert_eq!(ids.map(|id| coordinator_partition(id, 50)), [42, 12, 6, 12, 0, 0]);
    assert_eq!(coordinator_partition("g1", 0), 0, "no partitions, no panic");
    // Two units of UTF-16, as Java has them.
    assert_eq!(coordinator_partition("😀", u32::MAX), 31 * 0xd83d + 0xde00);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,20}", "[a-z]{0,300}"]
}

fn member() -> impl Strategy<Value = GroupMetadataMember> {
    let names = (text(), proptest::option::of(text()), text(), text());
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    (names, any::<(i32, i32)>(), bytes(), bytes()).prop_map(|(names, timeouts, subscription, assignment)| {
        let (member_id, instance_id, client_id, client_host) = names;
        GroupMetadataMember {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout: timeouts.0,
            session_timeout: timeouts.1,
            subscription: subscription.into(),
            assignment: assignment.into(),
        }
    })
}

proptest! {
    #[test]
    fn keys_come_back(group in text(), topic in text(), partition in any::<i32>()) {
        let keys = [GroupRecordKey::Offset { group: group.clone(), topic, partition }, GroupRecordKey::Group { group }];
        for key in keys {
            prop_assert_eq!(GroupRecordKey::decode(&key.encode().unwrap()).unwrap(), key);
        }
    }

    #[test]
    fn commits_come_back(
        numbers in any::<(i64, i32, i64)>(), metadata in text(), expires in any::<i64>(), id in any::<[u8; 16]>()
    ) {
        let (offset, leader_epoch, commit_timestamp) = numbers;
        let plain = OffsetCommitValue {
            offset, leader_epoch, metadata, commit_timestamp, expire_timestamp: -1, topic_id: Uuid::ZERO,
        };
        let expiring = OffsetCommitValue { expire_timestamp: expires, leader_epoch: -1, ..plain.clone() };
        for value in [plain.clone(), expiring] {
            prop_assert_eq!(OffsetCommitValue::decode(&value.encode().unwrap()).unwrap(), value);
        }
        let identified = OffsetCommitValue { topic_id: Uuid(id), ..plain };
        let bytes = identified.encode_version(4).unwrap();
        prop_assert_eq!(OffsetCommitValue::decode(&bytes).unwrap(), identified);
    }

    #[test]
    fn groups_come_back(
        kind in text(),
        numbers in any::<(i32, i64)>(),
        names in (proptest::option::of(text()), proptest::option::of(text())),
        members in proptest::collection::vec(member(), 0..5),
        version in 3i16..5,
    ) {
        let value = GroupMetadataValue {
            protocol_type: kind,
            generation: numbers.0,
            protocol: names.0,
            leader: names.1,
            current_state_timestamp: numbers.1,
            members,
        };
        let bytes = value.encode_version(version).unwrap();
        prop_assert_eq!(GroupMetadataValue::decode(&bytes).unwrap(), value);
        // Cut anywhere, it is an error.
        for end in 0..bytes.len() {
            prop_assert!(GroupMetadataValue::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(version in -1i16..6, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [&version.to_be_bytes()[..], &bytes].concat();
        let _ = GroupRecordKey::decode(&bytes);
        let _ = OffsetCommitValue::decode(&bytes);
        let _ = GroupMetadataValue::decode(&bytes);
    }

    #[test]
    fn a_byte_changed_is_read_or_refused(at in 0..158usize, byte in any::<u8>()) {
        for vector in [G4_V3, G4_V4] {
            let mut bytes = hex(vector);
            if let Some(changed) = bytes.get_mut(at) {
                *changed = byte;
            }
            let _ = GroupMetadataValue::decode(&bytes);
        }
    }
}
