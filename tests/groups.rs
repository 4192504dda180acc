//! Groups, call by call: who may say what in which state, how generations follow each other, and who is told of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "common/groups.rs"]
pub mod common;
#[path = "common/logs.rs"]
pub mod logs;

use annals::group::{GroupMetadata, GroupState};

use common::*;
use logs::Machine;

fn start() -> (Machine, annals::Store, Groups) {
    let machine = Machine::new();
    let store = machine.open();
    let groups = store.groups().unwrap();
    (machine, store, groups)
}

#[test]
fn one_member_after_the_other_shares_what_there_is() {
    let (_machine, _store, groups) = start();
    let members = stable(&groups, "g", 3);
    let described = groups.describe("g").unwrap();
    assert_eq!((described.state, described.generation), (GroupState::Stable, 3));
    assert_eq!((described.protocol.as_str(), described.protocol_type.as_str()), ("range", "consumer"));
    assert_eq!(described.leader.as_deref(), Some(members[0].member_id.as_str()));
    for member in &members {
        groups.heartbeat(member).unwrap();
        groups.commit(member, &[at("t-0", 7)]).unwrap();
    }
    assert_eq!(committed(&groups, "g"), [("t-0".to_string(), 7)].into());
    for member in &members {
        groups.leave(member, None).unwrap();
    }
    let described = groups.describe("g").unwrap();
    assert_eq!((described.state, described.members.len()), (GroupState::Empty, 0));
    assert_eq!(outcome(groups.commit(&members[0], &[at("t-0", 8)])), "UnknownMember");
    groups.commit(&GroupMetadata::simple("g"), &[at("t-0", 9)]).unwrap();
    assert_eq!(committed(&groups, "g"), [("t-0".to_string(), 9)].into());
}

#[test]
fn what_lasts_is_there_when_the_store_is_opened_again() {
    let (machine, store, groups) = start();
    let members = stable(&groups, "g", 2);
    groups.commit(&members[1], &[at("t-0", 7), at("t-1", 8)]).unwrap();
    drop((store, groups));
    let store = machine.open();
    let groups = store.groups().unwrap();
    let described = groups.describe("g").unwrap();
    assert_eq!((described.state, described.generation), (GroupState::Empty, 2));
    assert_eq!(committed(&groups, "g"), [("t-0".to_string(), 7), ("t-1".to_string(), 8)].into());
    assert_eq!(stable(&groups, "g", 1)[0].generation, 3);
}
