//! Static members: places that outlive who has them, and what becomes of who is replaced.
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
#[path = "common/logs.rs"]
mod logs;

use std::time::Duration;

use annals::format::consumer_protocol::Subscription;
use annals::group::{GroupMetadata, GroupState, JoinRequest};
use annals::{Store, TopicName};
use bytes::Bytes;

use common::*;
use logs::Machine;

fn start() -> (Machine, Store, Groups) {
    let machine = Machine::new();
    let store = machine.open();
    let groups = store.groups().unwrap();
    (machine, store, groups)
}

/// A stable group with the places `a` (who leads) and `b`.
fn places(groups: &Groups) -> Vec<GroupMetadata> {
    stable_of(groups, vec![static_request("g", "a"), static_request("g", "b")])
}

fn placed(member: &GroupMetadata, joined: &annals::group::Joined) -> GroupMetadata {
    GroupMetadata { instance_id: member.instance_id.clone(), ..common::member("g", joined) }
}

fn subscribed(topics: &[&str], owned: &[&str]) -> Vec<(String, Bytes)> {
    let subscription = Subscription {
        topics: topics.iter().map(|topic| TopicName::new(topic).unwrap()).collect(),
        owned: owned.iter().map(|partition| tp(partition)).collect(),
        ..Subscription::default()
    };
    vec![("range".into(), subscription.encode().unwrap().into())]
}

#[test]
fn a_successor_goes_on_with_what_was_assigned_and_nobody_is_called() {
    let (_machine, _store, groups) = start();
    let members = places(&groups);
    for old in [&members[1], &members[0]] {
        let joined = now(groups.join(static_request("g", old.instance_id.as_ref().unwrap()))).unwrap();
        assert_eq!(joined.generation, old.generation);
        let leads = joined.leader == joined.member_id;
        assert_eq!(leads, old.instance_id.as_deref() == Some("a"), "a place leads, whoever has it");
        assert_eq!((joined.skip_assignment, joined.members.len()), (leads, if leads { 2 } else { 0 }));
        let new = placed(old, &joined);
        assert_eq!(now(follow(&groups, &new)).unwrap().assignment, own(&old.member_id));
        groups.heartbeat(&new).unwrap();
        assert_eq!(groups.describe("g").unwrap().state, GroupState::Stable);
        // Whoever had it before hears so, and so does his who does not say that he had a place.
        assert_eq!(outcome(groups.heartbeat(old)), "FencedInstance");
        let nameless = GroupMetadata { instance_id: None, ..old.clone() };
        assert_eq!(outcome(groups.heartbeat(&nameless)), "UnknownMember");
    }
}

#[test]
fn who_was_replaced_may_do_nothing() {
    let (_machine, _store, groups) = start();
    let (bell, waker) = Bell::new();
    let first = JoinRequest { waker: Some(waker), ..static_request("g", "a") };
    let old = stable_of(&groups, vec![first])[0].clone();
    let before = bell.rings();
    now(groups.join(static_request("g", "a"))).unwrap();
    assert_eq!(bell.rings(), before + 1, "it is told at once");
    let refused = [
        outcome(groups.heartbeat(&old)),
        outcome(now(follow(&groups, &old))),
        outcome(now(groups.join(again(&old)))),
        outcome(groups.commit(&old, &[at("t-0", 1)])),
        outcome(groups.commit_in_transaction(&old, 7, 0, &[at("t-0", 1)])),
        outcome(groups.leave(&old, None)),
    ];
    assert!(refused.iter().all(|outcome| outcome == "FencedInstance"), "{refused:?}");
    assert!(committed(&groups, "g").is_empty());
}

#[test]
fn who_waits_is_told_that_it_was_replaced() {
    let (_machine, _store, groups) = start();
    let members = places(&groups);
    // While joining.
    let waiting = groups.join(again(&members[0]));
    let successor = groups.join(static_request("g", "a"));
    assert_eq!(outcome(now(waiting)), "FencedInstance");
    let follower = now(groups.join(again(&members[1]))).unwrap();
    let leader = now(successor).unwrap();
    assert_eq!(leader.generation, members[0].generation + 1);
    // While syncing: then all join again, for the leader may be assigning to who is no more.
    let waiting = follow(&groups, &placed(&members[1], &follower));
    let mut successor = groups.join(static_request("g", "b"));
    assert_eq!(outcome(now(waiting)), "FencedInstance");
    pending(&mut successor);
    let assigning = lead(&groups, "g", &leader);
    assert_eq!(outcome(now(assigning)), "RebalanceInProgress");
    now(groups.join(again(&placed(&members[0], &leader)))).unwrap();
    now(successor).unwrap();
}

#[test]
fn a_successor_that_wants_something_else_calls_everybody() {
    let (_machine, _store, groups) = start();
    let asks = |instance: &str, topics: &[&str], owned: &[&str]| JoinRequest {
        protocols: subscribed(topics, owned),
        ..static_request("g", instance)
    };
    let members = stable_of(&groups, vec![asks("a", &["t"], &["t-0"]), asks("b", &["t"], &["t-1"])]);
    // One that was started again has nothing yet; that is no difference.
    let joined = now(groups.join(asks("b", &["t"], &[]))).unwrap();
    assert_eq!(joined.generation, members[0].generation);
    groups.heartbeat(&members[0]).unwrap();
    let mut waiting = groups.join(asks("b", &["t", "u"], &[]));
    pending(&mut waiting);
    assert_eq!(outcome(groups.heartbeat(&members[0])), "RebalanceInProgress");
}

#[test]
fn a_successor_with_other_protocols_calls_everybody() {
    let (_machine, _store, groups) = start();
    let knows = |instance: &str, names: &[&str]| JoinRequest {
        protocols: names.iter().map(|name| ((*name).to_owned(), Bytes::new())).collect(),
        ..static_request("g", instance)
    };
    stable_of(&groups, vec![knows("a", &["range", "sticky"]), knows("b", &["range", "sticky"])]);
    pending(&mut groups.join(knows("b", &["sticky"])));
    assert_eq!(outcome(now(groups.join(knows("b", &["other"])))), "InconsistentProtocol");
}

#[test]
fn a_place_is_given_up_when_its_session_ends() {
    let (machine, _store, groups) = start();
    let members = places(&groups);
    machine.clock.advance(SESSION / 2);
    groups.heartbeat(&members[0]).unwrap();
    machine.clock.advance(SESSION / 2);
    groups.tick().unwrap();
    assert_eq!(outcome(groups.heartbeat(&members[0])), "RebalanceInProgress");
    assert_eq!(outcome(groups.heartbeat(&members[1])), "UnknownMember");
    assert_eq!(now(groups.join(again(&members[0]))).unwrap().members.len(), 1);
    // It is a newcomer's then.
    let mut newcomer = groups.join(static_request("g", "b"));
    pending(&mut newcomer);
}

#[test]
fn who_does_not_join_keeps_its_place_until_its_session_ends() {
    let (machine, _store, groups) = start();
    let long = JoinRequest { session_timeout: REBALANCE * 3, ..static_request("g", "b") };
    let members = stable_of(&groups, vec![static_request("g", "a"), long]);
    let joining = groups.join(again(&members[0]));
    machine.clock.advance(REBALANCE);
    groups.tick().unwrap();
    let joined = now(joining).unwrap();
    assert_eq!(joined.members.len(), 2, "the other is assigned something although it is late");
    now(lead(&groups, "g", &joined)).unwrap();
    // It learns of the generation that it missed, and its time runs on.
    assert_eq!(outcome(groups.heartbeat(&members[1])), "IllegalGeneration");
    let leader = placed(&members[0], &joined);
    for _ in 0..(REBALANCE * 2).as_secs() / 5 - 1 {
        machine.clock.advance(Duration::from_secs(5));
        groups.tick().unwrap();
        groups.heartbeat(&leader).unwrap();
    }
    machine.clock.advance(Duration::from_secs(5));
    groups.tick().unwrap();
    assert_eq!(outcome(groups.heartbeat(&leader)), "RebalanceInProgress");
}

#[test]
fn who_leaves_for_a_while_finds_its_place() {
    let (machine, _store, groups) = start();
    let members = places(&groups);
    groups.leave(&members[1], Some(SESSION * 10)).unwrap();
    assert_eq!(outcome(groups.heartbeat(&members[1])), "UnknownMember");
    assert_eq!(outcome(groups.commit(&members[1], &[at("t-0", 1)])), "UnknownMember");
    for _ in 0..9 {
        machine.clock.advance(SESSION - Duration::from_millis(1));
        groups.tick().unwrap();
        groups.heartbeat(&members[0]).unwrap();
    }
    let joined = now(groups.join(static_request("g", "b"))).unwrap();
    assert_eq!(joined.generation, members[1].generation);
    let back = placed(&members[1], &joined);
    assert_eq!(now(follow(&groups, &back)).unwrap().assignment, own(&members[1].member_id));
    // Now it is there, and has the session of everybody.
    machine.clock.advance(SESSION - Duration::from_millis(1));
    groups.tick().unwrap();
    groups.heartbeat(&back).unwrap();
}

#[test]
fn nobody_waits_for_who_is_away() {
    let (_machine, _store, groups) = start();
    let members = places(&groups);
    groups.leave(&members[1], Some(SESSION * 10)).unwrap();
    let joined = now(groups.join(again(&members[0]))).unwrap();
    let seen: Vec<Option<&str>> = joined.members.iter().map(|member| member.instance_id.as_deref()).collect();
    assert_eq!(seen, [Some("a"), Some("b")], "but it keeps its share");
    now(lead(&groups, "g", &joined)).unwrap();
    let joined = now(groups.join(static_request("g", "b"))).unwrap();
    let back = placed(&members[1], &joined);
    assert_eq!(now(follow(&groups, &back)).unwrap().assignment, own(&members[1].member_id));
}

#[test]
fn members_without_a_place_leave_for_good() {
    let (_machine, _store, groups) = start();
    let members = stable(&groups, "g", 2);
    groups.leave(&members[1], Some(SESSION * 10)).unwrap();
    assert_eq!(outcome(groups.heartbeat(&members[0])), "RebalanceInProgress");
}

#[test]
fn an_administrator_takes_a_place_away_by_its_name() {
    let (_machine, _store, groups) = start();
    let members = places(&groups);
    let by_name = |name: &str| GroupMetadata { instance_id: Some(name.into()), ..GroupMetadata::simple("g") };
    assert_eq!(outcome(groups.leave(&by_name("c"), None)), "UnknownMember");
    groups.leave(&by_name("b"), None).unwrap();
    assert_eq!(outcome(groups.heartbeat(&members[1])), "UnknownMember");
    assert_eq!(outcome(groups.heartbeat(&members[0])), "RebalanceInProgress");
}

#[test]
fn places_outlive_the_process_and_members_do_not() {
    let (machine, store, groups) = start();
    let remote = JoinRequest { client_host: "/10.0.0.1".into(), ..request("g") };
    let members = stable_of(&groups, vec![request("g"), static_request("g", "a"), remote.clone()]);
    drop((store, groups));

    let store = machine.open();
    let groups = store.groups().unwrap();
    let described = groups.describe("g").unwrap();
    let there: Vec<&String> = described.members.iter().map(|member| &member.member_id).collect();
    let mut wanted = [&members[1].member_id, &members[2].member_id];
    wanted.sort();
    assert_eq!(there, wanted, "who was in the process is gone, unless it had a place");
    // What it had has to be another's: who is there is called.
    assert_eq!(outcome(groups.heartbeat(&members[2])), "RebalanceInProgress");
    let again = JoinRequest { member_id: members[2].member_id.clone(), ..remote };
    let joined = now(groups.join(again)).unwrap();
    assert_eq!(joined.generation, members[2].generation + 1);
    assert_eq!(joined.members.len(), 2);
    now(lead(&groups, "g", &joined)).unwrap();
    // The place has the time of its session.
    let back = now(groups.join(static_request("g", "a"))).unwrap();
    assert_eq!(back.generation, joined.generation);
    machine.clock.advance(SESSION);
    groups.tick().unwrap();
    assert_eq!(groups.describe("g").unwrap().members.len(), 0);
}

#[test]
fn a_group_of_places_goes_on_where_it_was() {
    let (machine, store, groups) = start();
    let members = places(&groups);
    groups.commit(&members[0], &[at("t-0", 5)]).unwrap();
    drop((store, groups));
    let store = machine.open();
    let groups = store.groups().unwrap();
    assert_eq!(groups.describe("g").unwrap().state, GroupState::Stable);
    for old in &members {
        let joined = now(groups.join(static_request("g", old.instance_id.as_ref().unwrap()))).unwrap();
        assert_eq!(joined.generation, old.generation);
        let back = placed(old, &joined);
        assert_eq!(now(follow(&groups, &back)).unwrap().assignment, own(&old.member_id));
    }
    // Those who have taken the places are written down, too.
    drop((store, groups));
    let store = machine.open();
    let groups = store.groups().unwrap();
    let described = groups.describe("g").unwrap();
    assert!(described.members.iter().all(|now| members.iter().all(|old| old.member_id != now.member_id)));
    assert_eq!(committed(&groups, "g")["t-0"], 5);
}

#[test]
fn nobody_waits_for_the_assignment_of_a_leader_who_is_away() {
    let (_machine, _store, groups) = start();
    let members = places(&groups);
    // Both join again, and the other one waits for what the leader brings.
    let changed = |member: &GroupMetadata| JoinRequest {
        instance_id: member.instance_id.clone(),
        protocols: subscribed(&["t"], &[]),
        ..again(member)
    };
    let (leader, other) = (groups.join(changed(&members[0])), groups.join(changed(&members[1])));
    let (leader, other) = (now(leader).unwrap(), now(other).unwrap());
    assert_eq!(leader.leader, leader.member_id);
    let mut waits = follow(&groups, &placed(&members[1], &other));
    pending(&mut waits);
    groups.leave(&placed(&members[0], &leader), Some(Duration::from_secs(45))).unwrap();
    assert_eq!(outcome(now(waits)), "RebalanceInProgress");
    let joined = now(groups.join(changed(&members[1]))).unwrap();
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(joined.members.len(), 2, "the place is kept");
}
