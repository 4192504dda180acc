//! Committed offsets: fenced, durable, shared by any number of committers, pending in transactions, forgotten in time,
//! and the same after every crash.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests fail by panicking, and share modules"
)]

#[path = "common/groups.rs"]
mod common;
#[path = "common/hooked.rs"]
mod hooked;
#[path = "common/logs.rs"]
mod logs;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use annals::format::EndTransactionMarker;
use annals::format::consumer_protocol::Subscription;
use annals::format::group_records::{GroupMetadataValue, GroupRecordKey, OffsetCommitValue};
use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::group::{
    GroupConfig, GroupMetadata, GroupState, JoinRequest, ResetTo, group_lag, plan_reset, reset_offsets,
};
use annals::{AppendOptions, Error, Partition, Record, Store, TopicConfig, TopicName, Uuid};

use common::*;
use hooked::Hooked;
use logs::{Machine, NOW};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const DAY: Duration = Duration::from_secs(24 * 3600);

fn config() -> GroupConfig {
    GroupConfig::new().offsets_partitions(1)
}

fn open(machine: &Machine) -> (Store, Groups) {
    let store = machine.open();
    let groups = store.groups_with(config()).unwrap();
    (store, groups)
}

fn start() -> (Machine, Store, Groups) {
    let machine = Machine::new();
    let (store, groups) = open(&machine);
    (machine, store, groups)
}

fn log_of(store: &Store) -> Partition {
    store.topic("__consumer_offsets").unwrap().partition(0).unwrap()
}

fn nobody(group: &str) -> GroupMetadata {
    GroupMetadata::simple(group)
}

fn end(store: &Store, groups: &Groups, producer_id: i64, commit: bool) {
    mark(store, producer_id, commit);
    groups.transaction_ended(log_of(store).id(), producer_id, commit).unwrap();
}

fn mark(store: &Store, producer_id: i64, commit: bool) {
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit };
    log_of(store).end_transaction(producer_id, 0, marker, AppendOptions::new()).unwrap();
}

/// What a group has committed, in memory and after the store was opened again.
fn everywhere(machine: &Machine, groups: &Groups, group: &str) -> BTreeMap<String, u64> {
    let now = committed(groups, group);
    let (_store, later) = open(&machine.cut_off());
    assert_eq!(committed(&later, group), now, "after a power cut");
    now
}

fn offsets(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(partition, offset)| ((*partition).to_owned(), *offset)).collect()
}

#[test]
fn a_commit_is_one_batch_with_a_record_for_each_partition() {
    let (_machine, store, groups) = start();
    let mut commit = at("t-0", 5);
    commit.position.leader_epoch = Some(3);
    commit.position.metadata = "here".into();
    groups.commit(&nobody("g"), &[commit, at("u-7", 6)]).unwrap();
    let log = log_of(&store);
    assert_eq!(log.log_end(), 2);
    let records = logs::records(&log, 0);
    let keys: Vec<_> =
        records.iter().map(|record| GroupRecordKey::decode(record.key().unwrap()).unwrap()).collect();
    let key =
        |topic: &str, partition| GroupRecordKey::Offset { group: "g".into(), topic: topic.into(), partition };
    assert_eq!(keys, [key("t", 0), key("u", 7)]);
    let value = OffsetCommitValue::decode(records[0].value().unwrap()).unwrap();
    let wanted = OffsetCommitValue {
        offset: 5,
        leader_epoch: 3,
        metadata: "here".into(),
        commit_timestamp: NOW,
        expire_timestamp: -1,
        topic_id: Uuid::ZERO,
    };
    assert_eq!(value, wanted);
    assert_eq!(groups.committed("g", None, true).unwrap()[&tp("t-0")].metadata, "here");
}

#[test]
fn what_was_committed_of_a_deleted_topic_is_nothing_to_its_successor() {
    let (machine, store, groups) = start();
    let topic = |store: &Store| store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    topic(&store);
    groups.commit(&nobody("g"), &[at("t-0", 5), at("u-0", 7)]).unwrap();
    groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-1", 5)]).unwrap();
    store.delete_topic("t").unwrap();
    topic(&store);
    end(&store, &groups, 7, true);
    assert_eq!(
        everywhere(&machine, &groups, "g"),
        offsets(&[("u-0", 7)]),
        "its records would be passed over"
    );
    groups.commit(&nobody("g"), &[at("t-0", 1)]).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 1), ("u-0", 7)]));
}

#[test]
fn the_later_record_counts_whenever_its_transaction_ends() {
    let (machine, store, groups) = start();
    groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-0", 5), at("t-1", 5)]).unwrap();
    groups.commit(&nobody("g"), &[at("t-0", 9)]).unwrap();
    groups.commit_in_transaction(&nobody("g"), 8, 0, &[at("t-1", 3)]).unwrap();
    end(&store, &groups, 8, true);
    end(&store, &groups, 7, true);
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 9), ("t-1", 3)]));
}

#[test]
fn what_a_transaction_commits_is_pending_until_it_ends() {
    let (machine, store, groups) = start();
    groups.commit(&nobody("g"), &[at("t-0", 1), at("t-1", 1)]).unwrap();
    groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-0", 5)]).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 1), ("t-1", 1)]));
    let stable =
        |groups: &Groups, of: Option<&[annals::TopicPartition]>| outcome(groups.committed("g", of, true));
    assert_eq!(stable(&groups, None), "UnstableOffsets");
    assert_eq!(stable(&groups, Some(&[tp("t-0")])), "UnstableOffsets");
    assert_eq!(stable(&groups, Some(&[tp("t-1")])), "Ok");
    let (_store, later) = open(&machine.cut_off());
    assert_eq!(stable(&later, None), "UnstableOffsets");
    end(&store, &groups, 7, false);
    assert_eq!(stable(&groups, None), "Ok");
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 1), ("t-1", 1)]));
    // The same producer's next one, for two groups.
    for group in ["g", "h"] {
        groups.commit_in_transaction(&nobody(group), 7, 0, &[at("t-0", 6)]).unwrap();
    }
    end(&store, &groups, 7, true);
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 6), ("t-1", 1)]));
    assert_eq!(everywhere(&machine, &groups, "h"), offsets(&[("t-0", 6)]));
}

#[test]
fn a_transaction_that_outlives_the_process_ends_as_its_marker_says() {
    for commit in [false, true] {
        let wanted = if commit { offsets(&[("t-0", 5)]) } else { offsets(&[]) };
        // The marker comes before the groups are read, and after.
        for read_first in [false, true] {
            let (machine, store, groups) = start();
            groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-0", 5)]).unwrap();
            drop((store, groups));
            let (store, groups) = open(&machine);
            if read_first {
                assert_eq!(committed(&groups, "g"), offsets(&[]));
            }
            end(&store, &groups, 7, commit);
            assert_eq!(everywhere(&machine, &groups, "g"), wanted, "{commit}, {read_first}");
        }
    }
}

#[test]
fn the_next_transaction_is_not_ended_with_the_one_before() {
    let (machine, store, groups) = start();
    groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-0", 5)]).unwrap();
    mark(&store, 7, true);
    groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-1", 6)]).unwrap();
    groups.transaction_ended(log_of(&store).id(), 7, true).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 5)]));
    end(&store, &groups, 7, false);
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 5)]));
    // Twice, and of partitions that are not ours, nothing happens.
    groups.transaction_ended(log_of(&store).id(), 7, true).unwrap();
    groups.transaction_ended(&tp("t-0"), 7, true).unwrap();
    groups.transaction_ended(&tp("__consumer_offsets-9"), 7, true).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 5)]));
}

#[test]
fn a_producer_that_was_replaced_commits_nothing() {
    let (machine, store, groups) = start();
    groups.commit_in_transaction(&nobody("g"), 7, 1, &[at("t-0", 5)]).unwrap();
    assert_eq!(outcome(groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-0", 6)])), "Fenced");
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit: true };
    log_of(&store).end_transaction(7, 1, marker, AppendOptions::new()).unwrap();
    groups.transaction_ended(log_of(&store).id(), 7, true).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 5)]));
}

#[test]
fn what_is_deleted_is_gone_with_what_transactions_would_have_committed() {
    let (machine, store, groups) = start();
    groups.commit(&nobody("g"), &[at("t-0", 1), at("t-1", 1)]).unwrap();
    groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-0", 5), at("t-2", 5)]).unwrap();
    groups.delete_offsets("g", &[tp("t-0"), tp("t-9")]).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-1", 1)]));
    groups.delete("g").unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[]));
    end(&store, &groups, 7, true);
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[]));
    assert!(groups.list().unwrap().is_empty());
    // Its name is free.
    groups.commit(&nobody("g"), &[at("t-0", 2)]).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 2)]));
}

#[test]
fn a_group_with_thousands_of_offsets_goes_too() {
    let (machine, _store, groups) = start();
    let many: Vec<_> = (0..2_500).map(|number| at(&format!("t-{number}"), number)).collect();
    groups.commit(&nobody("g"), &many).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g").len(), 2_500);
    groups.delete("g").unwrap();
    assert_eq!(everywhere(&machine, &groups, "g").len(), 0);
}

#[test]
fn so_does_one_with_the_longest_name() {
    let (machine, _store, groups) = start();
    let group = "g".repeat(0x7fff);
    for part in 0..6 {
        let commits: Vec<_> = (0..100).map(|number| at(&format!("t-{}", part * 100 + number), 1)).collect();
        groups.commit(&nobody(&group), &commits).unwrap();
    }
    groups.delete(&group).unwrap();
    assert_eq!(everywhere(&machine, &groups, &group), offsets(&[]));
}

/// A member that subscribes to topic `read`.
fn reader(group: &str) -> JoinRequest {
    let topics = vec![TopicName::new("read").unwrap()];
    let subscription = Subscription { topics, ..Subscription::default() };
    let protocols = vec![("range".into(), subscription.encode().unwrap().into())];
    JoinRequest { protocols, session_timeout: Duration::from_secs(1800), ..request(group) }
}

#[test]
fn offsets_are_forgotten_when_nobody_has_needed_them_for_a_week() {
    let (machine, _store, groups) = start();
    let pass = |days: u32| {
        for _ in 0..days * 24 * 6 {
            machine.clock.advance(Duration::from_secs(600));
            groups.tick().unwrap();
            for group in groups.list().unwrap().iter().filter(|group| group.state == GroupState::Stable) {
                let described = groups.describe(&group.group).unwrap();
                let member_id = described.members[0].member_id.clone();
                let member =
                    GroupMetadata { generation: described.generation, member_id, ..nobody(&group.group) };
                groups.heartbeat(&member).unwrap();
            }
        }
    };
    // Nobody's: by when they were committed.
    groups.commit(&nobody("simple"), &[at("read-0", 1), at("read-1", 1)]).unwrap();
    // Of members who left: by when the last one did.
    let left = stable_of(&groups, vec![reader("left")]);
    groups.commit(&left[0], &[at("read-0", 1)]).unwrap();
    // Of members who are there: what they read is kept.
    let there = stable_of(&groups, vec![reader("there")]);
    groups.commit(&there[0], &[at("read-0", 1), at("unread-0", 1)]).unwrap();

    pass(3);
    groups.commit(&nobody("simple"), &[at("read-1", 2)]).unwrap();
    groups.leave(&left[0], None).unwrap();
    pass(3);
    assert_eq!(committed(&groups, "simple").len(), 2);
    assert_eq!(committed(&groups, "there").len(), 2);
    pass(1);
    assert_eq!(everywhere(&machine, &groups, "simple"), offsets(&[("read-1", 2)]));
    assert_eq!(everywhere(&machine, &groups, "there"), offsets(&[("read-0", 1)]));
    assert_eq!(everywhere(&machine, &groups, "left"), offsets(&[("read-0", 1)]));
    pass(3);
    assert_eq!(everywhere(&machine, &groups, "left"), offsets(&[]));
    assert_eq!(everywhere(&machine, &groups, "there"), offsets(&[("read-0", 1)]));
    let names =
        |groups: &Groups| groups.list().unwrap().into_iter().map(|group| group.group).collect::<Vec<_>>();
    assert_eq!(names(&groups), ["there"], "a group without offsets and members goes");
    let (_store, later) = open(&machine.cut_off());
    assert_eq!(names(&later), ["there"]);
    drop(_store);
}

#[test]
fn offsets_are_forgotten_once_somebody_asks_for_any_beside_them() {
    let machine = Machine::new();
    let open = || {
        let store = machine.open();
        let groups = store.groups_with(GroupConfig::new().offsets_partitions(2)).unwrap();
        (store, groups)
    };
    let ends = |store: &Store| {
        let topic = store.topic("__consumer_offsets").unwrap();
        [0, 1].map(|number| topic.partition(number).unwrap().log_end())
    };
    // As the store's own maintenance would, and not so fast that it takes the clock for broken.
    let week_and_more = |store: &Store| {
        for _ in 0..8 {
            machine.clock.advance(DAY);
            store.maintain().unwrap();
        }
    };
    let (store, groups) = open();
    let place = |group: &str| groups.offsets_partition(group).unwrap().unwrap().partition;
    assert_eq!([place("a"), place("b"), place("c")], [1, 0, 1], "a and c lie together");
    for group in ["a", "b", "c"] {
        groups.commit(&nobody(group), &[at("t-0", 1)]).unwrap();
    }
    drop((store, groups));
    let (store, groups) = open();
    week_and_more(&store);
    assert_eq!(ends(&store), [1, 2], "nobody asks, and nothing is read");
    assert_eq!(committed(&groups, "a"), offsets(&[("t-0", 1)]));
    week_and_more(&store);
    assert_eq!(ends(&store), [1, 4], "a tombstone each");
    assert_eq!(committed(&groups, "c"), offsets(&[]));
    assert_eq!(committed(&groups, "b"), offsets(&[("t-0", 1)]));
}

#[test]
fn what_a_transaction_may_change_is_not_forgotten() {
    let (machine, store, groups) = start();
    groups.commit(&nobody("g"), &[at("t-0", 1), at("t-1", 1)]).unwrap();
    groups.commit_in_transaction(&nobody("g"), 7, 0, &[at("t-0", 2)]).unwrap();
    for _ in 0..8 {
        machine.clock.advance(DAY);
        groups.tick().unwrap();
    }
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 1)]));
    end(&store, &groups, 7, true);
    // By when it was committed, not by when that came to count.
    machine.clock.advance(DAY);
    groups.tick().unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[]));
}

#[test]
fn a_clock_that_jumps_ahead_makes_nobody_forget() {
    let (machine, _store, groups) = start();
    groups.commit(&nobody("g"), &[at("t-0", 1)]).unwrap();
    machine.clock.advance(Duration::from_secs(600));
    groups.tick().unwrap();
    machine.clock.set(NOW + 365 * DAY.as_millis() as i64);
    for _ in 0..6 {
        groups.tick().unwrap();
        machine.clock.advance(Duration::from_secs(599));
    }
    assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 1)]));
    machine.clock.advance(Duration::from_secs(600));
    groups.tick().unwrap();
    assert_eq!(committed(&groups, "g"), offsets(&[]), "it has stayed so for an hour");
}

#[test]
fn who_said_when_is_taken_at_his_word() {
    let (machine, store, groups) = start();
    groups.commit(&nobody("g"), &[at("t-1", 1)]).unwrap();
    let key = GroupRecordKey::Offset { group: "g".into(), topic: "t".into(), partition: 0 }.encode().unwrap();
    let value = OffsetCommitValue {
        offset: 1,
        leader_epoch: -1,
        metadata: String::new(),
        commit_timestamp: NOW,
        expire_timestamp: NOW + 3_600_000,
        topic_id: Uuid::ZERO,
    };
    log_of(&store).append(&Record::new(&value.encode().unwrap()).key(&key)).unwrap();
    drop((store, groups));
    let (_store, groups) = open(&machine);
    machine.clock.advance(Duration::from_secs(3_599));
    groups.tick().unwrap();
    assert_eq!(committed(&groups, "g").len(), 2);
    machine.clock.advance(Duration::from_secs(600));
    groups.tick().unwrap();
    assert_eq!(committed(&groups, "g"), offsets(&[("t-1", 1)]));
}

#[test]
fn records_that_are_nobodys_are_passed_over() {
    let (machine, store, groups) = start();
    groups.commit(&nobody("g"), &[at("t-0", 1)]).unwrap();
    let log = log_of(&store);
    for version in [3i16, 5, 15, 16, 99, -1] {
        let key = [&version.to_be_bytes()[..], &[0, 2, b'g', b'1']].concat();
        log.append(&Record::new("whatever").key(&key)).unwrap();
        log.append(&Record::tombstone().key(&key)).unwrap();
    }
    for (topic, partition, offset) in [("no/topic", 0, 1), ("t", -1, 1), ("t", 1, -5)] {
        let key = GroupRecordKey::Offset { group: "g".into(), topic: topic.into(), partition };
        let value = OffsetCommitValue {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            commit_timestamp: NOW,
            expire_timestamp: -1,
            topic_id: Uuid::ZERO,
        };
        log.append(&Record::new(&value.encode().unwrap()).key(&key.encode().unwrap())).unwrap();
    }
    // Two members with one id, and with one place; times that are none.
    let member = |id: &str| annals::format::group_records::GroupMetadataMember {
        member_id: id.into(),
        instance_id: Some("a".into()),
        client_id: String::new(),
        client_host: "/10.0.0.1".into(),
        rebalance_timeout: -1,
        session_timeout: i32::MIN,
        subscription: b"none"[..].into(),
        assignment: b""[..].into(),
    };
    let value = GroupMetadataValue {
        protocol_type: "consumer".into(),
        generation: -7,
        protocol: None,
        leader: Some("nobody".into()),
        current_state_timestamp: -5,
        members: vec![member("m"), member("m"), member("n")],
    };
    let key = GroupRecordKey::Group { group: "h".into() }.encode().unwrap();
    log.append(&Record::new(&value.encode().unwrap()).key(&key)).unwrap();
    drop((store, groups, log));
    let (_store, groups) = open(&machine);
    assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 1)]));
    assert_eq!(groups.describe("h").unwrap().members.len(), 1);
    machine.clock.advance(Duration::from_secs(1));
    groups.tick().unwrap();
    assert_eq!(groups.describe("h").unwrap().state, GroupState::Empty);
}

#[test]
fn what_cannot_be_read_is_an_error_unless_one_goes_on_behind_it() {
    let version_9 = [0, 9, 1, 2, 3];
    let cut = [0, 3, 0, 0];
    for (value, wanted) in [(&version_9[..], "UnsupportedFormat"), (&cut[..], "Corruption")] {
        let (machine, store, groups) = start();
        groups.commit(&nobody("g"), &[at("t-0", 1)]).unwrap();
        let key = GroupRecordKey::Offset { group: "h".into(), topic: "t".into(), partition: 0 };
        log_of(&store).append(&Record::new(value).key(&key.encode().unwrap())).unwrap();
        groups.commit(&nobody("g"), &[at("t-1", 2)]).unwrap();
        drop((store, groups));
        let (store, groups) = open(&machine);
        assert_eq!(outcome(groups.committed("g", None, false)), wanted);
        assert_eq!(outcome(groups.commit(&nobody("g"), &[at("t-1", 3)])), wanted);
        assert_eq!(outcome(groups.list()), wanted);
        drop((store, groups));
        let store = machine.open();
        let groups = store.groups_with(config().skip_damage(true)).unwrap();
        assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 1), ("t-1", 2)]));
    }
}

#[test]
fn damage_on_disk_is_an_error_unless_one_goes_on_behind_it() {
    let (machine, store, groups) = start();
    for offset in 0..20 {
        groups.commit(&nobody("g"), &[at("t-0", offset)]).unwrap();
    }
    let log = log_of(&store);
    log.roll().unwrap();
    groups.commit(&nobody("h"), &[at("t-0", 7)]).unwrap();
    store.close().unwrap();
    drop((groups, log));
    let name = Path::new("__consumer_offsets-0/00000000000000000000.log");
    assert!(machine.disk.flip(name, 700, 0x40));
    let (store, groups) = open(&machine);
    assert_eq!(outcome(groups.committed("h", None, false)), "Corruption");
    drop((store, groups));
    let store = machine.open();
    let groups = store.groups_with(config().skip_damage(true)).unwrap();
    assert_eq!(committed(&groups, "h"), offsets(&[("t-0", 7)]));
    assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 19)]));
}

#[test]
fn of_a_batch_only_what_cannot_be_read_is_passed_over() {
    let (machine, store, groups) = start();
    groups.commit(&nobody("g"), &[at("t-0", 1)]).unwrap();
    let key = |partition| {
        GroupRecordKey::Offset { group: "g".into(), topic: "t".into(), partition }.encode().unwrap()
    };
    let log = log_of(&store);
    let good = logs::records(&log, 0)[0].value().unwrap().to_vec();
    let keys = [key(1), key(2), key(3)];
    let values = [&good[..], &[0, 9, 1], &good[..]];
    let batch: Vec<Record<'_>> =
        keys.iter().zip(values).map(|(key, value)| Record::new(value).key(key)).collect();
    log.append_batch(&batch).unwrap();
    drop((store, groups, log));
    let store = machine.open();
    let groups = store.groups_with(config().skip_damage(true)).unwrap();
    assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 1), ("t-1", 1), ("t-3", 1)]));
}

#[test]
fn a_loss_that_was_accepted_is_passed_over() {
    let (machine, store, groups) = start();
    for offset in 1..4 {
        groups.commit(&nobody("g"), &[at("t-0", offset), at(&format!("t-{offset}"), offset)]).unwrap();
    }
    let machine = machine.killed();
    drop((store, groups));
    assert!(machine.disk.flip("__consumer_offsets-0/00000000000000000000.log", 80, 0x40));
    let (store, groups) = open(&machine);
    assert_eq!(outcome(groups.committed("g", None, false)), "Corruption");
    let log = log_of(&store);
    let damage = log.recovery_report().damage.clone();
    log.accept_loss(damage[0].from).unwrap();
    // Whether appends are taken says nothing of what was accepted; and the next commit has it opened again.
    machine.disk.fail(When::next().of(&[Call::Write]), Fault::Error(5));
    assert!(matches!(log.append(&Record::new("").key("")), Err(Error::Io { .. })));
    assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 3), ("t-2", 2), ("t-3", 3)]));
    groups.commit(&nobody("g"), &[at("t-1", 5)]).unwrap();
    // It stays accepted, whatever becomes of the process.
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, groups) = open(&machine);
        assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 3), ("t-1", 5), ("t-2", 2), ("t-3", 3)]));
    }
}

#[test]
fn a_loss_that_only_a_read_has_found_can_be_accepted() {
    let (machine, store, groups) = start();
    for offset in 1..4 {
        groups.commit(&nobody("g"), &[at("t-0", offset), at(&format!("t-{offset}"), offset)]).unwrap();
    }
    store.close().unwrap();
    drop(groups);
    let file = "__consumer_offsets-0/00000000000000000000.log";
    assert!(machine.disk.flip(file, 80, 0x40));
    let (store, groups) = open(&machine);
    let error = groups.committed("g", None, false).unwrap_err();
    let Error::Corruption { offset, .. } = error else { panic!("{error}") };
    let log = log_of(&store);
    assert!(log.recovery_report().damage.is_empty());
    // Not where it is: nothing is accepted.
    log.accept_loss(offset + 2).unwrap();
    assert_eq!(outcome(groups.committed("g", None, false)), "Corruption");
    log.accept_loss(offset).unwrap();
    let left = offsets(&[("t-0", 3), ("t-2", 2), ("t-3", 3)]);
    assert_eq!(committed(&groups, "g"), left);
    let machine = machine.cut_off();
    let (store, groups) = open(&machine);
    assert_eq!(committed(&groups, "g"), left);
    // What is damaged later was not accepted.
    groups.commit(&nobody("g"), &[at("t-2", 9)]).unwrap();
    let end = machine.disk.read(file).unwrap().len() as u64;
    store.close().unwrap();
    assert!(machine.disk.flip(file, end - 5, 0x40));
    assert_eq!(outcome(open(&machine).1.committed("g", None, false)), "Corruption");
}

#[test]
fn a_loss_whose_acceptance_was_not_written_down_can_be_accepted_again() {
    let (machine, store, groups) = start();
    for offset in 1..4 {
        groups.commit(&nobody("g"), &[at("t-0", offset), at(&format!("t-{offset}"), offset)]).unwrap();
    }
    store.close().unwrap();
    drop(groups);
    assert!(machine.disk.flip("__consumer_offsets-0/00000000000000000000.log", 80, 0x40));
    let (store, groups) = open(&machine);
    let Err(Error::Corruption { offset, .. }) = groups.committed("g", None, false) else { panic!() };
    let log = log_of(&store);
    machine.disk.fail(When::next().of(&[Call::Write]), Fault::Error(EIO));
    assert!(matches!(log.accept_loss(offset), Err(Error::Io { .. })));
    log.accept_loss(offset).unwrap();
    for machine in [machine.killed(), machine.cut_off()] {
        let (_store, groups) = open(&machine);
        assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 3), ("t-2", 2), ("t-3", 3)]));
    }
}

#[test]
fn what_is_damaged_before_an_accepted_loss_was_not_accepted() {
    let (machine, store, groups) = start();
    for offset in 1..4 {
        groups.commit(&nobody("g"), &[at(&format!("t-{offset}"), offset)]).unwrap();
    }
    let log = log_of(&store);
    let file = "__consumer_offsets-0/00000000000000000000.log";
    let size = machine.disk.read(file).unwrap().len() as u64;
    drop(log);
    store.close().unwrap();
    drop(groups);
    assert!(machine.disk.flip(file, size - 5, 0x40));
    let (store, groups) = open(&machine);
    let Err(Error::Corruption { offset, .. }) = groups.committed("g", None, false) else { panic!() };
    log_of(&store).accept_loss(offset).unwrap();
    assert_eq!(committed(&groups, "g"), offsets(&[("t-1", 1), ("t-2", 2)]));
    store.close().unwrap();
    drop(groups);
    assert!(machine.disk.flip(file, 80, 0x40));
    assert_eq!(outcome(open(&machine).1.committed("g", None, false)), "Corruption");
}

#[test]
fn compaction_changes_nothing_that_is_read() {
    let (machine, store, groups) = start();
    let members = stable(&groups, "g", 2);
    for offset in 0..50 {
        groups.commit(&members[0], &[at("t-0", offset), at("t-1", offset)]).unwrap();
        groups.commit_in_transaction(&members[1], 7, 0, &[at("t-2", offset)]).unwrap();
        end(&store, &groups, 7, offset % 2 == 0);
    }
    groups.commit(&nobody("h"), &[at("t-0", 1)]).unwrap();
    groups.delete("h").unwrap();
    let log = log_of(&store);
    log.roll().unwrap();
    log.compact().unwrap();
    let wanted = offsets(&[("t-0", 49), ("t-1", 49), ("t-2", 48)]);
    assert_eq!(everywhere(&machine, &groups, "g"), wanted);
    drop((store, groups));
    let (_store, groups) = open(&machine);
    assert_eq!(groups.list().unwrap().len(), 1);
    assert_eq!(groups.describe("g").unwrap().generation, 2);
}

#[test]
fn a_full_disk_refuses_commits_and_the_next_one_works_when_there_is_room() {
    let (machine, _store, groups) = start();
    let members = stable(&groups, "g", 1);
    groups.commit(&members[0], &[at("t-0", 1)]).unwrap();
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert_eq!(outcome(groups.commit(&members[0], &[at("t-0", 2)])), "StorageFull");
    assert_eq!(outcome(groups.delete_offsets("g", &[tp("t-0")])), "GroupSubscribed");
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 1)]));
    // The group lives on in memory: a generation that cannot be written down does not become stable.
    let joined = now(groups.join(again(&members[0]))).unwrap();
    assert_eq!(outcome(now(lead(&groups, "g", &joined))), "StorageFull");
    let left = GroupMetadata { generation: joined.generation, ..members[0].clone() };
    assert_eq!(outcome(groups.heartbeat(&left)), "RebalanceInProgress");
    groups.leave(&left, None).unwrap();
    machine.disk.set_capacity(None);
    groups.commit(&nobody("g"), &[at("t-0", 3)]).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 3)]));
    // That it is empty is written down as soon as that is possible.
    machine.clock.advance(Duration::from_secs(5));
    groups.tick().unwrap();
    let (_store, later) = open(&machine.cut_off());
    assert_eq!(later.describe("g").unwrap(), groups.describe("g").unwrap());
    drop(_store);
}

#[test]
fn a_failing_disk_fails_one_commit_and_leaves_nothing_of_it() {
    for fault in [Fault::Error(EIO), Fault::Late(EIO), Fault::Forget, Fault::Error(ENOSPC)] {
        for call in [Call::Write, Call::Sync] {
            let (machine, _store, groups) = start();
            groups.commit(&nobody("g"), &[at("t-0", 1)]).unwrap();
            machine.disk.fail(When::next().of(&[call]).under("__consumer_offsets-0"), fault);
            groups.commit(&nobody("g"), &[at("t-0", 2)]).unwrap_err();
            assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 1)]), "{fault:?} of {call:?}");
            groups.commit(&nobody("g"), &[at("t-1", 3)]).unwrap();
            let wanted = offsets(&[("t-0", 1), ("t-1", 3)]);
            assert_eq!(everywhere(&machine, &groups, "g"), wanted, "{fault:?} of {call:?}");
        }
    }
}

/// A history of commits, of a transaction, of a rebalance and of deletions, as far as it goes. Calls `said` with what
/// is true after each step that was acknowledged.
fn history(store: &Store, groups: &Groups, mut said: impl FnMut(&str, u64)) -> Result<(), Error> {
    groups.commit(&nobody("g"), &[at("t-0", 1)])?;
    said("g", 1);
    groups.commit(&nobody("g"), &[at("t-0", 2)])?;
    said("g", 2);
    let joined = now(groups.join(request("g")))?;
    now(lead(groups, "g", &joined))?;
    let member = member("g", &joined);
    groups.commit(&member, &[at("t-0", 3)])?;
    said("g", 3);
    groups.commit_in_transaction(&member, 7, 0, &[at("t-0", 4)])?;
    let log = store.topic("__consumer_offsets")?.partition(0)?;
    let marker = EndTransactionMarker { coordinator_epoch: 0, commit: true };
    log.end_transaction(7, 0, marker, AppendOptions::new())?;
    groups.transaction_ended(log.id(), 7, true)?;
    said("g", 4);
    groups.leave(&member, None)?;
    groups.commit(&nobody("h"), &[at("t-0", 1)])?;
    groups.delete("h")?;
    said("h", 0);
    groups.commit(&nobody("g"), &[at("t-0", 5)])?;
    said("g", 5);
    Ok(())
}

#[test]
fn a_crash_at_any_call_takes_back_nothing_that_was_said() {
    let crashes = || std::iter::once(Crash::ProcessKill).chain((0..4).map(|seed| Crash::PowerCut { seed }));
    for call in 1.. {
        let (machine, store, groups) = start();
        let mut said = BTreeMap::new();
        machine.disk.fail(When::nth(call), Fault::PowerOff);
        let done = history(&store, &groups, |group, offset| {
            said.insert(group.to_owned(), offset);
        })
        .is_ok();
        // What can be read now was said to somebody.
        let read = groups.committed("g", None, false).unwrap_or_default();
        let read = read.get(&tp("t-0")).map_or(0, |committed| committed.offset);
        let least = said.get("g").copied().unwrap_or(0).max(read);
        for crash in crashes() {
            let found = Machine { disk: machine.disk.crash(crash), clock: Arc::clone(&machine.clock) };
            let (store, groups) = open(&found);
            let offset = committed(&groups, "g").get("t-0").copied().unwrap_or(0);
            // One further may have been written without an answer.
            assert!((least..=least + 1).contains(&offset), "call {call}, {crash:?}: {offset}, said {least}");
            if said.contains_key("h") {
                assert_eq!(outcome(groups.describe("h")), "UnknownGroup", "call {call}, {crash:?}");
            }
            // It goes on, and what it says now is not taken back either.
            groups.commit(&nobody("g"), &[at("t-0", 9)]).unwrap();
            assert_eq!(everywhere(&found, &groups, "g"), offsets(&[("t-0", 9)]), "call {call}, {crash:?}");
            drop(store);
        }
        if done {
            assert!(call > 40, "{call} calls");
            return;
        }
    }
}

#[test]
fn one_failing_call_anywhere_fails_one_step_and_the_rest_goes_on() {
    for errno in [EIO, ENOSPC] {
        for call in 1.. {
            let (machine, store, groups) = start();
            groups.commit(&nobody("other"), &[at("t-0", 1)]).unwrap();
            let before = machine.disk.calls();
            machine.disk.fail(When::nth(call), Fault::Error(errno));
            let mut said = 0;
            let done = history(&store, &groups, |group, offset| {
                if group == "g" {
                    said = offset;
                }
            });
            let struck = machine.disk.calls() - before >= call;
            machine.disk.heal();
            if let Err(error) = &done {
                assert!(struck, "it fails without a fault: {error}");
                assert!(committed(&groups, "g").get("t-0").copied().unwrap_or(0) >= said);
            }
            for member in groups.describe("g").map(|described| described.members).unwrap_or_default() {
                let leaving = GroupMetadata { member_id: member.member_id, ..nobody("g") };
                groups.leave(&leaving, None).unwrap();
            }
            groups.commit(&nobody("g"), &[at("t-0", 9)]).unwrap();
            assert_eq!(everywhere(&machine, &groups, "g")["t-0"], 9, "errno {errno}, call {call}");
            if !struck {
                done.unwrap();
                assert!(call > 15, "{call} calls");
                break;
            }
        }
    }
}

#[test]
fn a_panic_in_any_call_of_the_file_system_breaks_one_step_at_most() {
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<&str>() != Some(&"planned") {
            eprintln!("{info}");
        }
    }));
    for at_call in 0..u64::MAX {
        let disk = SimulatedDisk::new(1);
        let (calls, armed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let hook = {
            let (calls, armed) = (Arc::clone(&calls), Arc::clone(&armed));
            move |_: Call, _: &Path| {
                if calls.fetch_add(1, Ordering::SeqCst) == armed.load(Ordering::SeqCst) {
                    std::panic::panic_any("planned");
                }
            }
        };
        let machine = Machine::of(disk.clone());
        let store = machine.options().open_in(Hooked::new(disk, hook)).unwrap();
        let groups = store.groups_with(config()).unwrap();
        groups.commit(&nobody("other"), &[at("t-0", 1)]).unwrap();
        armed.store(calls.load(Ordering::SeqCst) + at_call, Ordering::SeqCst);
        let mut said = 0;
        let done = catch_unwind(AssertUnwindSafe(|| {
            history(&store, &groups, |group, offset| {
                if group == "g" {
                    said = offset;
                }
            })
        }));
        let struck = calls.load(Ordering::SeqCst) > armed.load(Ordering::SeqCst);
        armed.store(u64::MAX, Ordering::SeqCst);
        assert!(done.is_ok() || struck);
        // Nobody waits for what broke.
        for member in groups.describe("g").map(|described| described.members).unwrap_or_default() {
            groups.leave(&GroupMetadata { member_id: member.member_id, ..nobody("g") }, None).unwrap();
        }
        assert!(committed(&groups, "g").get("t-0").copied().unwrap_or(0) >= said, "call {at_call}");
        // A sync that ended in a panic is found out by the next one, which fails for it.
        let again = (0..3).any(|_| groups.commit(&nobody("g"), &[at("t-0", 9)]).is_ok());
        assert!(again, "call {at_call}: it never works again");
        assert_eq!(everywhere(&machine, &groups, "g")["t-0"], 9, "call {at_call}");
        if !struck {
            assert!(at_call > 15, "{at_call} calls");
            return;
        }
    }
}

/// A store whose syncs of the log of offsets wait while the gate is closed. Says when one has come to it.
struct Gate {
    closed: Arc<AtomicBool>,
    arrived: mpsc::Receiver<()>,
    open: mpsc::Sender<()>,
}

impl Gate {
    /// Has somebody come to the gate, and nobody after him.
    fn stop<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        call: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        self.closed.store(true, Ordering::SeqCst);
        let stopped = scope.spawn(call);
        self.arrived.recv().unwrap();
        self.closed.store(false, Ordering::SeqCst);
        stopped
    }
}

fn gated() -> (Machine, Store, Groups, Gate) {
    let disk = SimulatedDisk::new(1);
    let closed = Arc::new(AtomicBool::new(false));
    let (arrive, arrived) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    let (arrive, opened) = (std::sync::Mutex::new(arrive), std::sync::Mutex::new(opened));
    let hook = {
        let closed = Arc::clone(&closed);
        move |call: Call, name: &Path| {
            if call == Call::Sync
                && closed.load(Ordering::SeqCst)
                && name.extension().is_some_and(|it| it == "log")
            {
                arrive.lock().unwrap().send(()).unwrap();
                // Nobody opens it any more when the test has failed.
                let _ = opened.lock().unwrap().recv();
            }
        }
    };
    let machine = Machine::of(disk.clone());
    let store = machine.options().open_in(Hooked::new(disk, hook)).unwrap();
    let groups = store.groups_with(config()).unwrap();
    (machine, store, groups, Gate { closed, arrived, open })
}

#[test]
fn nobody_but_the_next_generation_waits_for_a_commit() {
    let (machine, _store, groups, gate) = gated();
    let members = stable(&groups, "g", 2);
    let groups = &groups;
    std::thread::scope(|scope| {
        let gate = gate;
        let committing = gate.stop(scope, || groups.commit(&members[1], &[at("t-0", 5)]));
        // The disk is being waited for. All this does not wait for it.
        for member in &members {
            groups.heartbeat(member).unwrap();
        }
        assert_eq!(committed(groups, "g"), offsets(&[]), "it is not on disk");
        groups.tick().unwrap();
        let mut leader = groups.join(again(&members[0]));
        // Who commits is not silent, however long that takes.
        machine.clock.advance(SESSION * 2);
        groups.tick().unwrap();
        let mut follower = groups.join(again(&members[1]));
        pending(&mut leader);
        pending(&mut follower);
        // The old generation is over for those who come late.
        assert_eq!(outcome(groups.commit(&members[0], &[at("t-0", 6)])), "RebalanceInProgress");
        gate.open.send(()).unwrap();
        committing.join().unwrap().unwrap();
        assert_eq!(now(leader).unwrap().generation, 3);
        now(follower).unwrap();
        assert_eq!(committed(groups, "g"), offsets(&[("t-0", 5)]), "there before anybody is in the next");
    });
}

#[test]
fn a_successor_waits_for_what_the_one_before_it_commits() {
    let (_machine, _store, groups, gate) = gated();
    let members = stable_of(&groups, vec![static_request("g", "a")]);
    let groups = &groups;
    std::thread::scope(|scope| {
        let gate = gate;
        let committing = gate.stop(scope, || groups.commit(&members[0], &[at("t-0", 5)]));
        let (joined, done) = mpsc::channel();
        let joining = scope.spawn(move || {
            let joined_now = now(groups.join(static_request("g", "a"))).unwrap();
            joined.send((joined_now, committed(groups, "g"))).unwrap();
        });
        // It is fenced at once, although what it has begun is let through.
        while outcome(groups.heartbeat(&members[0])) != "FencedInstance" {
            std::thread::yield_now();
        }
        assert!(done.try_recv().is_err());
        gate.open.send(()).unwrap();
        let (_, read) = done.recv().unwrap();
        assert_eq!(read, offsets(&[("t-0", 5)]));
        joining.join().unwrap();
        committing.join().unwrap().unwrap();
    });
}

#[test]
fn nobody_hears_later_because_another_group_is_written_down() {
    let (machine, _store, groups, gate) = gated();
    let mut bells = Vec::new();
    for group in 0..8 {
        let (bell, waker) = Bell::new();
        stable_of(&groups, vec![JoinRequest { waker: Some(waker), ..request(&format!("g{group}")) }]);
        bells.push(bell);
    }
    machine.clock.advance(SESSION);
    let groups = &groups;
    std::thread::scope(|scope| {
        let gate = gate;
        let ticking = gate.stop(scope, || groups.tick());
        assert_eq!(bells.iter().map(|bell| bell.rings()).collect::<Vec<_>>(), [1; 8]);
        gate.open.send(()).unwrap();
        ticking.join().unwrap().unwrap();
    });
}

#[test]
fn a_bell_may_call_back_even_while_the_file_system_panics() {
    struct Caller(Groups, GroupMetadata);
    impl std::task::Wake for Caller {
        fn wake(self: Arc<Self>) {
            // The last one writes down that the group is empty.
            for member in self.0.describe("g").map(|described| described.members).unwrap_or_default() {
                let _ = self.0.leave(&GroupMetadata { member_id: member.member_id, ..self.1.clone() }, None);
            }
        }
    }
    let disk = SimulatedDisk::new(1);
    let armed = Arc::new(AtomicBool::new(false));
    let hook = {
        let armed = Arc::clone(&armed);
        move |call: Call, name: &Path| {
            let log = name.extension().is_some_and(|it| it == "log");
            if call == Call::Write && log && armed.swap(false, Ordering::SeqCst) {
                std::panic::panic_any("planned");
            }
        }
    };
    let machine = Machine::of(disk.clone());
    let store = machine.options().open_in(Hooked::new(disk, hook)).unwrap();
    let groups = store.groups_with(config()).unwrap();
    groups.commit(&nobody("other"), &[at("t-0", 1)]).unwrap();
    let caller = Arc::new(Caller(groups.clone(), nobody("g")));
    let joined = now(groups.join(JoinRequest { waker: Some(caller.into()), ..request("g") })).unwrap();
    armed.store(true, Ordering::SeqCst);
    catch_unwind(AssertUnwindSafe(|| lead(&groups, "g", &joined))).unwrap_err();
    assert_eq!(groups.describe("g").unwrap().state, GroupState::Empty);
}

#[test]
fn a_place_is_kept_as_long_as_was_said_although_a_commit_ends_later() {
    let (machine, _store, groups, gate) = gated();
    let members = stable_of(&groups, vec![static_request("g", "a")]);
    let groups = &groups;
    std::thread::scope(|scope| {
        let gate = gate;
        let committing = gate.stop(scope, || groups.commit(&members[0], &[at("t-0", 5)]));
        groups.leave(&members[0], Some(SESSION * 3)).unwrap();
        gate.open.send(()).unwrap();
        committing.join().unwrap().unwrap();
    });
    machine.clock.advance(SESSION * 2);
    groups.tick().unwrap();
    assert_eq!(groups.describe("g").unwrap().members.len(), 1);
    machine.clock.advance(SESSION);
    groups.tick().unwrap();
    assert_eq!(groups.describe("g").unwrap().members.len(), 0);
}

#[test]
fn a_deletion_waits_for_the_commits_under_way_and_later_ones_come_after_it() {
    let (machine, _store, groups, gate) = gated();
    groups.commit(&nobody("g"), &[at("t-0", 1)]).unwrap();
    let groups = &groups;
    std::thread::scope(|scope| {
        let gate = gate;
        let committing = gate.stop(scope, || groups.commit(&nobody("g"), &[at("t-1", 5)]));
        let deleting = scope.spawn(|| groups.delete("g"));
        let later = scope.spawn(|| {
            // By then it is deleted, or it is begun anew.
            groups.commit(&nobody("h"), &[at("t-2", 6)])
        });
        gate.open.send(()).unwrap();
        committing.join().unwrap().unwrap();
        deleting.join().unwrap().unwrap();
        later.join().unwrap().unwrap();
    });
    assert_eq!(everywhere(&machine, groups, "g"), offsets(&[]));
    assert_eq!(everywhere(&machine, groups, "h"), offsets(&[("t-2", 6)]));
}

#[test]
fn any_number_of_committers_share_the_log() {
    const THREADS: u64 = 8;
    const COMMITS: u64 = 50;
    let (machine, _store, groups) = start();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let groups = &groups;
            scope.spawn(move || {
                let own = format!("own-{thread}");
                for offset in 1..=COMMITS {
                    groups
                        .commit(&nobody("shared"), &[at(&format!("t-{thread}"), offset), at("all-0", offset)])
                        .unwrap();
                    groups.commit(&nobody(&own), &[at("t-0", offset)]).unwrap();
                    // What was committed is read, or what came later.
                    assert!(committed(groups, "shared")[&format!("t-{thread}")] >= offset);
                    assert_eq!(committed(groups, &own)["t-0"], offset);
                }
            });
        }
    });
    let shared = everywhere(&machine, &groups, "shared");
    assert_eq!(shared.len() as u64, THREADS + 1);
    assert!((0..THREADS).all(|thread| shared[&format!("t-{thread}")] == COMMITS));
}

#[test]
fn resets() {
    let (machine, store, groups) = start();
    let topic = store.create_topic("t", TopicConfig::new().partitions(2)).unwrap();
    let log = topic.partition(0).unwrap();
    for n in 0..10 {
        log.append(&Record::new("r").timestamp(NOW + n * 100)).unwrap();
    }
    log.delete_records(2).unwrap();
    groups.commit(&nobody("g"), &[at("t-0", 5)]).unwrap();
    let plan = |to: ResetTo, of: Option<&[annals::TopicPartition]>| {
        plan_reset(&store, &*groups, "g", of, &to).map(|plan| {
            plan.into_iter()
                .map(|(partition, offset)| (partition.to_string(), offset))
                .collect::<BTreeMap<_, _>>()
        })
    };
    let (one, both) = ([tp("t-0")], [tp("t-0"), tp("t-1")]);
    let cases = [
        (ResetTo::Earliest, 2),
        (ResetTo::Latest, 10),
        (ResetTo::Timestamp(NOW + 650), 7),
        (ResetTo::Timestamp(NOW + 100_000), 10),
        (ResetTo::Shift(-2), 3),
        (ResetTo::Shift(-50), 2),
        (ResetTo::Shift(i64::MAX), 10),
        (ResetTo::Shift(i64::MIN), 2),
        (ResetTo::Offset(6), 6),
        (ResetTo::Offset(0), 2),
        (ResetTo::Offset(u64::MAX), 10),
        (ResetTo::Offsets([(tp("t-0"), 8), (tp("t-1"), 0)].into()), 8),
    ];
    for (to, wanted) in cases {
        assert_eq!(plan(to.clone(), Some(&one)).unwrap(), offsets(&[("t-0", wanted)]), "{to:?}");
        assert_eq!(committed(&groups, "g"), offsets(&[("t-0", 5)]), "a plan changes nothing");
    }
    assert_eq!(plan(ResetTo::Earliest, None).unwrap(), offsets(&[("t-0", 2)]), "all that is committed");
    assert_eq!(plan(ResetTo::Latest, Some(&both)).unwrap(), offsets(&[("t-0", 10), ("t-1", 0)]));
    assert_eq!(outcome(plan(ResetTo::Shift(1), Some(&both))), "InvalidState");
    assert_eq!(outcome(plan(ResetTo::Latest, Some(&[tp("u-0")]))), "UnknownTopic");
    assert_eq!(outcome(plan(ResetTo::Latest, Some(&[tp("t-2")]))), "UnknownPartition");

    reset_offsets(&store, &*groups, "g", Some(&both), &ResetTo::Earliest).unwrap();
    assert_eq!(everywhere(&machine, &groups, "g"), offsets(&[("t-0", 2), ("t-1", 0)]));
    reset_offsets(&store, &*groups, "new", Some(&one), &ResetTo::Latest).unwrap();
    assert_eq!(everywhere(&machine, &groups, "new"), offsets(&[("t-0", 10)]));
    let members = stable(&groups, "g", 1);
    assert_eq!(outcome(plan(ResetTo::Latest, None)), "GroupNotEmpty");
    assert_eq!(outcome(reset_offsets(&store, &*groups, "g", None, &ResetTo::Latest)), "GroupNotEmpty");
    groups.commit_in_transaction(&members[0], 7, 0, &[at("t-0", 3)]).unwrap();
    groups.leave(&members[0], None).unwrap();
    assert_eq!(outcome(plan(ResetTo::Latest, None)), "UnstableOffsets");
}

#[test]
fn lags() {
    let (_machine, store, groups) = start();
    let log = store.create_topic("t", TopicConfig::new()).unwrap().partition(0).unwrap();
    logs::append(&log, &["a", "b", "c"]);
    groups.commit(&nobody("g"), &[at("t-0", 1), at("gone-0", 4)]).unwrap();
    let lag = |partition: &str| {
        let lag = group_lag(&store, &*groups, "g").unwrap()[&tp(partition)].clone();
        (lag.committed.offset, lag.end, lag.lag)
    };
    assert_eq!(lag("t-0"), (1, Some(3), Some(2)));
    assert_eq!(lag("gone-0"), (4, None, None));
    groups.commit(&nobody("g"), &[at("t-0", 7)]).unwrap();
    assert_eq!(lag("t-0"), (7, Some(3), Some(0)), "beyond the end");
    assert!(group_lag(&store, &*groups, "nobody's").unwrap().is_empty());
}
