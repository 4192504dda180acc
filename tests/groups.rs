//! Groups, call by call: who may say what in which state, how generations follow each other, and who is told of it.
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

use annals::format::group_records::{GroupMetadataValue, GroupRecordKey};
use annals::group::{GroupConfig, GroupMetadata, GroupState, JoinRequest, SyncRequest};
use annals::{Error, Reply, Store, TopicConfig};
use bytes::Bytes;

use common::*;
use logs::Machine;

struct Fixture {
    machine: Machine,
    store: Store,
    groups: Groups,
}

fn start_with(config: GroupConfig) -> Fixture {
    let machine = Machine::new();
    let store = machine.open();
    let groups = store.groups_with(config.offsets_partitions(2)).unwrap();
    Fixture { machine, store, groups }
}

fn start() -> Fixture {
    start_with(GroupConfig::new())
}

impl Fixture {
    fn pass(&self, time: Duration) {
        self.machine.clock.advance(time);
        self.groups.tick().unwrap();
    }

    fn state(&self, group: &str) -> GroupState {
        self.groups.describe(group).unwrap().state
    }

    /// Of the members, only those that a heartbeat would not send away.
    fn alive(&self, members: &[GroupMetadata]) -> Vec<bool> {
        let heard = members.iter().map(|member| outcome(self.groups.heartbeat(member)));
        heard.map(|outcome| outcome == "Ok" || outcome == "RebalanceInProgress").collect()
    }
}

const STATES: [&str; 5] = ["none", "Empty", "PreparingRebalance", "CompletingRebalance", "Stable"];

/// A group in a state, and a member of its generation: the leader if there is one, otherwise who was it last.
fn in_state(state: &str) -> (Fixture, GroupMetadata, Vec<Reply<annals::group::Joined>>) {
    let fixture = start();
    let groups = &fixture.groups;
    let nobody = GroupMetadata { generation: 1, member_id: "nobody".into(), ..GroupMetadata::simple("g") };
    if state == "none" {
        return (fixture, nobody, Vec::new());
    }
    let members = stable(groups, "g", 2);
    let changed =
        JoinRequest { protocols: vec![("range".into(), Bytes::from_static(b"other"))], ..again(&members[1]) };
    let (member, waiting) = match state {
        "Empty" => {
            members.iter().for_each(|member| groups.leave(member, None).unwrap());
            (members[0].clone(), Vec::new())
        }
        "PreparingRebalance" => (members[0].clone(), vec![groups.join(changed)]),
        "CompletingRebalance" => {
            let follower = groups.join(changed);
            let leader = now(groups.join(again(&members[0]))).unwrap();
            now(follower).unwrap();
            (member("g", &leader), Vec::new())
        }
        _ => (members[0].clone(), Vec::new()),
    };
    assert_eq!(fixture.state("g").to_string(), state);
    (fixture, member, waiting)
}

fn after<T>(mut reply: Reply<T>) -> String {
    poll(&mut reply).map_or_else(|| "waits".into(), outcome)
}

type Call = (&'static str, fn(&Groups, &GroupMetadata) -> String, [&'static str; 5]);

fn old(member: &GroupMetadata) -> GroupMetadata {
    GroupMetadata { generation: member.generation - 1, ..member.clone() }
}

fn stranger(member: &GroupMetadata) -> GroupMetadata {
    GroupMetadata { member_id: "stranger".into(), ..member.clone() }
}

/// Every call, by whom, and what becomes of it in each state.
#[rustfmt::skip]
const CALLS: [Call; 24] = [
    ("a heartbeat", |groups, member| outcome(groups.heartbeat(member)),
        ["UnknownMember", "UnknownMember", "RebalanceInProgress", "Ok", "Ok"]),
    ("an old heartbeat", |groups, member| outcome(groups.heartbeat(&old(member))),
        ["UnknownMember", "UnknownMember", "IllegalGeneration", "IllegalGeneration", "IllegalGeneration"]),
    ("a stranger's heartbeat", |groups, member| outcome(groups.heartbeat(&stranger(member))),
        ["UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember"]),
    ("a sync", |groups, member| after(groups.sync(SyncRequest { member: member.clone(), assignments: vec![] })),
        ["UnknownMember", "UnknownMember", "RebalanceInProgress", "Ok", "Ok"]),
    ("an old sync", |groups, member| after(follow(groups, &old(member))),
        ["UnknownMember", "UnknownMember", "IllegalGeneration", "IllegalGeneration", "IllegalGeneration"]),
    ("a stranger's sync", |groups, member| after(follow(groups, &stranger(member))),
        ["UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember"]),
    ("a commit", |groups, member| outcome(groups.commit(member, &[at("t-0", 1)])),
        ["UnknownMember", "UnknownMember", "Ok", "RebalanceInProgress", "Ok"]),
    ("an old commit", |groups, member| outcome(groups.commit(&old(member), &[at("t-0", 1)])),
        ["UnknownMember", "UnknownMember", "IllegalGeneration", "IllegalGeneration", "IllegalGeneration"]),
    ("a stranger's commit", |groups, member| outcome(groups.commit(&stranger(member), &[at("t-0", 1)])),
        ["UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember"]),
    ("nobody's commit", |groups, _| outcome(groups.commit(&GroupMetadata::simple("g"), &[at("t-0", 1)])),
        ["Ok", "Ok", "UnknownMember", "UnknownMember", "UnknownMember"]),
    ("a commit of nothing", |groups, member| outcome(groups.commit(member, &[])),
        ["UnknownMember", "UnknownMember", "Ok", "RebalanceInProgress", "Ok"]),
    ("a transaction's commit", |groups, member| outcome(groups.commit_in_transaction(member, 7, 0, &[at("t-0", 1)])),
        ["UnknownMember", "UnknownMember", "Ok", "Ok", "Ok"]),
    ("an old transaction's", |groups, member| outcome(groups.commit_in_transaction(&old(member), 7, 0, &[at("t-0", 1)])),
        ["UnknownMember", "UnknownMember", "IllegalGeneration", "IllegalGeneration", "IllegalGeneration"]),
    ("nobody's transaction's", |groups, _| outcome(groups.commit_in_transaction(&GroupMetadata::simple("g"), 7, 0, &[at("t-0", 1)])),
        ["Ok", "Ok", "Ok", "Ok", "Ok"]),
    ("leaving", |groups, member| outcome(groups.leave(member, None)),
        ["UnknownMember", "UnknownMember", "Ok", "Ok", "Ok"]),
    ("a stranger's leaving", |groups, member| outcome(groups.leave(&stranger(member), None)),
        ["UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember"]),
    ("joining again", |groups, member| after(groups.join(again(member))),
        ["UnknownMember", "UnknownMember", "Ok", "Ok", "waits"]),
    ("a stranger's joining", |groups, member| after(groups.join(again(&stranger(member)))),
        ["UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember", "UnknownMember"]),
    ("a newcomer's joining", |groups, _| after(groups.join(request("g"))),
        ["Ok", "Ok", "waits", "waits", "waits"]),
    ("a join of another kind", |groups, _| after(groups.join(JoinRequest { protocol_type: "connect".into(), ..request("g") })),
        ["Ok", "Ok", "InconsistentProtocol", "InconsistentProtocol", "InconsistentProtocol"]),
    ("delete", |groups, _| outcome(groups.delete("g")),
        ["UnknownGroup", "Ok", "GroupNotEmpty", "GroupNotEmpty", "GroupNotEmpty"]),
    ("delete_offsets", |groups, _| outcome(groups.delete_offsets("g", &[tp("t-0")])),
        // What these members subscribe to cannot be told.
        ["UnknownGroup", "Ok", "GroupSubscribed", "GroupSubscribed", "GroupSubscribed"]),
    ("describe", |groups, _| outcome(groups.describe("g")),
        ["UnknownGroup", "Ok", "Ok", "Ok", "Ok"]),
    ("committed", |groups, _| outcome(groups.committed("g", None, true)),
        ["Ok", "Ok", "Ok", "Ok", "Ok"]),
];

#[test]
fn every_call_in_every_state() {
    for (call, make, wanted) in CALLS {
        for (state, wanted) in STATES.into_iter().zip(wanted) {
            let (fixture, member, _waiting) = in_state(state);
            assert_eq!(make(&fixture.groups, &member), wanted, "{call} in state {state}");
        }
    }
}

#[test]
fn what_was_refused_has_changed_nothing() {
    for (call, make, wanted) in CALLS {
        for (state, wanted) in STATES.into_iter().zip(wanted).skip(1) {
            if wanted == "Ok" || wanted == "waits" {
                continue;
            }
            let (fixture, member, mut waiting) = in_state(state);
            let before = fixture.groups.describe("g").unwrap();
            make(&fixture.groups, &member);
            assert_eq!(fixture.groups.describe("g").unwrap(), before, "{call} in state {state}");
            assert!(committed(&fixture.groups, "g").is_empty(), "{call} in state {state}");
            waiting.iter_mut().for_each(pending);
        }
    }
}

#[test]
fn a_group_that_was_refused_is_not_there() {
    let fixture = start();
    let groups = &fixture.groups;
    let refused = JoinRequest { protocols: Vec::new(), ..request("g") };
    assert_eq!(outcome(now(groups.join(refused))), "InconsistentProtocol");
    let too_large = at("t-0", u64::MAX);
    assert_eq!(outcome(groups.commit(&GroupMetadata::simple("g"), &[too_large])), "TooLarge");
    assert!(groups.list().unwrap().is_empty());
    assert_eq!(outcome(groups.describe("g")), "UnknownGroup");
}

#[test]
fn what_nobody_may_ask_for() {
    let config = GroupConfig::new()
        .session_timeout(Duration::from_secs(6), Duration::from_secs(60))
        .subscription_bytes_max(100)
        .commit_metadata_bytes_max(10);
    let Fixture { groups, machine: _machine, store: _store } = start_with(config);
    let join = |request: JoinRequest| now(groups.join(request)).unwrap_err();
    let codes = [
        (join(JoinRequest { session_timeout: Duration::from_millis(5_999), ..request("g") }), Some(26)),
        (join(JoinRequest { session_timeout: Duration::from_millis(60_001), ..request("g") }), Some(26)),
        (join(JoinRequest { rebalance_timeout: Duration::ZERO, ..request("g") }), Some(40)),
        (join(JoinRequest { rebalance_timeout: Duration::MAX, ..request("g") }), Some(40)),
        (join(request("")), Some(24)),
        (join(request(&"g".repeat(0x8000))), Some(24)),
        (join(JoinRequest { client_id: "c".repeat(0x8000), ..request("g") }), None),
        (join(JoinRequest { instance_id: Some("i".repeat(0x8000)), ..request("g") }), None),
        (join(JoinRequest { protocols: vec![("p".repeat(0x8000), Bytes::new())], ..request("g") }), None),
        (join(JoinRequest { protocols: vec![("p".into(), vec![0; 101].into())], ..request("g") }), None),
        (join(JoinRequest { protocol_type: String::new(), ..request("g") }), Some(23)),
        (groups.commit(&GroupMetadata::simple(""), &[at("t-0", 1)]).unwrap_err(), Some(24)),
    ];
    for (error, code) in codes {
        assert_eq!(error.kafka_code(), code, "{error}");
    }
    let mut commit = at("t-0", 1);
    commit.position.metadata = "elf letters".into();
    let error = groups.commit(&GroupMetadata::simple("g"), &[at("t-1", 1), commit]).unwrap_err();
    assert_eq!(error.kafka_code(), Some(12), "{error}");
    assert!(committed(&groups, "g").is_empty(), "one offset of a commit that was refused");
    assert!(groups.list().unwrap().is_empty());
}

#[test]
fn ids_of_groups_are_any_text() {
    let fixture = start();
    let groups = &fixture.groups;
    let ids = ["../../etc", "a/b\\c", "\0", "é ☃ 😀", " ", &"g".repeat(0x7fff)];
    for (index, id) in ids.into_iter().enumerate() {
        let members = stable(groups, id, 1);
        groups.commit(&members[0], &[at("t-0", index as u64)]).unwrap();
    }
    let Fixture { machine, store, groups } = fixture;
    drop((store, groups));
    let store = machine.open();
    let groups = store.groups().unwrap();
    let mut listed: Vec<String> = groups.list().unwrap().into_iter().map(|listed| listed.group).collect();
    let mut wanted = ids.map(str::to_owned);
    wanted.sort();
    listed.sort();
    assert_eq!(listed, wanted);
    for (index, id) in ids.into_iter().enumerate() {
        assert_eq!(committed(&groups, id)["t-0"], index as u64);
    }
}

#[test]
fn the_first_who_came_leads_and_then_the_next_who_joins() {
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 3);
    let leader = |fixture: &Fixture| fixture.groups.describe("g").unwrap().leader.unwrap();
    assert_eq!(leader(&fixture), members[0].member_id);
    // The second joins, the first does not.
    groups.leave(&members[2], None).unwrap();
    let joining = groups.join(again(&members[1]));
    fixture.machine.clock.advance(REBALANCE - SESSION / 2);
    groups.heartbeat(&members[0]).unwrap_err();
    fixture.pass(SESSION / 2);
    let joined = now(joining).unwrap();
    assert_eq!((&joined.leader, joined.members.len()), (&members[1].member_id, 1));
    assert_eq!(fixture.alive(&members), [false, false, false], "of the old generation");
}

#[test]
fn votes_for_a_protocol() {
    // What each member knows, best first; and what is chosen.
    let cases: [(&[&str], &str); 6] = [
        (&["range"], "range"),
        (&["range sticky", "range sticky"], "range"),
        (&["range sticky", "sticky range", "sticky range"], "sticky"),
        (&["range sticky", "sticky"], "sticky"),
        (&["range sticky other", "other sticky", "sticky other"], "sticky"),
        // As many votes for both: the first by name.
        (&["range sticky", "sticky range"], "range"),
    ];
    for (members, wanted) in cases {
        let fixture = start();
        let requests = members.iter().map(|names| {
            let protocols = names.split(' ').map(|name| (name.to_owned(), Bytes::from(name.to_owned())));
            JoinRequest { protocols: protocols.collect(), ..request("g") }
        });
        stable_of(&fixture.groups, requests.collect());
        let described = fixture.groups.describe("g").unwrap();
        assert_eq!(described.protocol, wanted, "{members:?}");
        assert!(described.members.iter().all(|member| member.metadata == wanted), "{members:?}");
    }
}

#[test]
fn a_member_alone_may_change_all_its_protocols() {
    let fixture = start();
    let members = stable(&fixture.groups, "g", 1);
    let protocols = vec![("another".to_owned(), Bytes::new())];
    let joined = now(fixture.groups.join(JoinRequest { protocols, ..again(&members[0]) })).unwrap();
    assert_eq!(joined.protocol, "another");
}

#[test]
fn who_joins_again_without_a_change_is_told_the_generation_and_calls_nobody() {
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 2);
    let joined = now(groups.join(again(&members[1]))).unwrap();
    assert_eq!((joined.generation, joined.members.len()), (2, 0));
    assert_eq!(fixture.state("g"), GroupState::Stable);
    assert_eq!(now(follow(groups, &members[1])).unwrap().assignment, own(&members[1].member_id));

    // While the assignment is waited for, the leader is told again whom to assign.
    let (fixture, leader, _) = in_state("CompletingRebalance");
    let joined = now(fixture.groups.join(again(&leader))).unwrap();
    assert_eq!((joined.generation, joined.members.len()), (leader.generation, 2));
    let changed =
        JoinRequest { protocols: vec![("range".into(), Bytes::from_static(b"new"))], ..again(&leader) };
    pending(&mut fixture.groups.join(changed));
    assert_eq!(fixture.state("g"), GroupState::PreparingRebalance);
}

#[test]
fn who_asks_twice_is_answered_twice() {
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 2);
    let first = groups.join(again(&members[0]));
    let second = groups.join(again(&members[0]));
    assert_eq!(outcome(now(first)), "RebalanceInProgress");
    let follower = now(groups.join(again(&members[1]))).unwrap();
    let leader = now(second).unwrap();
    let follower = member("g", &follower);
    let first = follow(groups, &follower);
    let mut second = follow(groups, &follower);
    assert_eq!(outcome(now(first)), "RebalanceInProgress");
    pending(&mut second);
    now(lead(groups, "g", &leader)).unwrap();
    assert_eq!(now(second).unwrap().assignment, own(&follower.member_id));
}

#[test]
fn who_is_assigned_nothing_gets_nothing_and_strangers_neither() {
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 2);
    let leading = groups.join(again(&members[0]));
    let follower = now(groups.join(again(&members[1]))).unwrap();
    let leader = member("g", &now(leading).unwrap());
    let waiting = follow(groups, &member("g", &follower));
    let assignments = vec![(leader.member_id.clone(), own("all")), ("stranger".into(), own("some"))];
    assert_eq!(now(groups.sync(SyncRequest { member: leader, assignments })).unwrap().assignment, own("all"));
    assert!(now(waiting).unwrap().assignment.is_empty());
}

#[test]
fn bells_ring_when_a_heartbeat_would_say_something_else() {
    let fixture = start();
    let groups = &fixture.groups;
    let (bells, wakers): (Vec<_>, Vec<_>) = (0..3).map(|_| Bell::new()).unzip();
    let requests = wakers.into_iter().map(|waker| JoinRequest { waker: Some(waker), ..request("g") });
    let members = stable_of(groups, requests.collect());
    let rings = || bells.iter().map(|bell| bell.rings()).collect::<Vec<_>>();
    let before = rings();
    for member in &members {
        groups.heartbeat(member).unwrap();
    }
    assert_eq!(rings(), before, "all is well");
    let since =
        |before: &[usize]| rings().iter().zip(before).map(|(now, before)| now - before).collect::<Vec<_>>();
    groups.leave(&members[2], None).unwrap();
    assert_eq!(since(&before), [1, 1, 1], "one left");
    let before = rings();
    let _joining = groups.join(again(&members[0]));
    assert_eq!(since(&before), [0, 0, 0], "they know");
    // The second does not come.
    fixture.pass(REBALANCE);
    assert_eq!(since(&before)[1], 1, "it is out");
}

#[test]
fn a_bell_may_call_back() {
    struct Caller(Groups, GroupMetadata);
    impl std::task::Wake for Caller {
        fn wake(self: std::sync::Arc<Self>) {
            let _ = self.0.heartbeat(&self.1);
            let _ = self.0.tick();
            let _ = self.0.describe(&self.1.group);
            let _ = poll(&mut self.0.join(again(&self.1)));
        }
    }
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 2);
    for member in &members {
        let caller = std::sync::Arc::new(Caller(groups.clone(), member.clone()));
        let request = JoinRequest { waker: Some(caller.into()), ..again(member) };
        let _ = poll(&mut groups.join(request));
    }
    // By a tick, by who leaves, by who joins.
    fixture.pass(SESSION);
    let newcomer = groups.join(request("g"));
    drop(newcomer);
    let _ = groups.leave(&members[0], None);
    fixture.pass(REBALANCE);
}

/// Panics when it is woken.
struct Broken;

impl std::task::Wake for Broken {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker is broken");
    }
}

fn broken() -> Option<std::task::Waker> {
    Some(std::sync::Arc::new(Broken).into())
}

#[test]
fn a_bell_that_is_broken_concerns_nobody_else() {
    let fixture = start();
    let groups = &fixture.groups;
    let (bells, wakers): (Vec<_>, Vec<_>) = (0..3).map(|_| Bell::new()).unzip();
    let requests = wakers.into_iter().map(|waker| JoinRequest { waker: Some(waker), ..request("g") });
    let requests: Vec<JoinRequest> =
        requests.chain([JoinRequest { waker: broken(), ..request("g") }]).collect();
    let members = stable_of(groups, requests);
    let before = bells[0].rings();
    groups.leave(&members[2], None).unwrap();
    assert!(bells[0].rings() > before, "who is called beside it");
    // Nor is an answer lost because somebody else's reply is waited for by such a one.
    let mut replies: Vec<_> = members[..2].iter().map(|member| groups.join(again(member))).collect();
    let waker = broken().unwrap();
    let mut context = std::task::Context::from_waker(&waker);
    assert!(std::pin::Pin::new(&mut replies[0]).poll(&mut context).is_pending());
    now(groups.join(again(&members[3]))).unwrap();
    for reply in replies {
        assert_eq!(now(reply).unwrap().protocol, "range");
    }
}

#[test]
fn what_is_to_be_written_down_is_although_a_bell_is_broken() {
    let fixture = start();
    let groups = &fixture.groups;
    let place = static_request("g", "a");
    stable_of(groups, vec![JoinRequest { waker: broken(), ..place.clone() }]);
    assert_eq!(now(groups.join(place)).unwrap().generation, 1, "it goes on for the other");
}

#[test]
fn a_bell_that_is_broken_does_not_end_a_tick() {
    let fixture = start();
    let groups = &fixture.groups;
    let mut bells = Vec::new();
    for group in 0..8 {
        stable_of(groups, vec![JoinRequest { waker: broken(), ..request(&format!("broken-{group}")) }]);
        let (bell, waker) = Bell::new();
        stable_of(groups, vec![JoinRequest { waker: Some(waker), ..request(&format!("sound-{group}")) }]);
        bells.push(bell);
    }
    fixture.pass(SESSION);
    assert_eq!(bells.iter().map(|bell| bell.rings()).collect::<Vec<_>>(), [1; 8]);
    assert!(groups.list().unwrap().iter().all(|listed| listed.state == GroupState::Empty));
}

#[test]
fn a_bell_that_goes_may_call_back() {
    /// What a server keeps of a connection: whoever was there leaves with it.
    struct Connection(Groups, GroupMetadata);
    impl std::task::Wake for Connection {
        fn wake(self: std::sync::Arc<Self>) {}
    }
    impl Drop for Connection {
        fn drop(&mut self) {
            let _ = self.0.leave(&self.1, None);
        }
    }
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 2);
    let connection = std::sync::Arc::new(Connection(groups.clone(), members[1].clone()));
    let mut first = groups.join(JoinRequest { waker: Some(connection.into()), ..again(&members[0]) });
    pending(&mut first);
    let second = groups.join(again(&members[0]));
    assert_eq!(now(second).unwrap().members.len(), 1, "the other one left with its connection");
}

#[test]
fn an_id_that_was_given_is_waited_for_as_long_as_a_session() {
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 1);
    let invite = || {
        let asked = JoinRequest { known_id_required: true, ..request("g") };
        match now(groups.join(asked)).unwrap_err() {
            Error::MemberIdRequired { member_id, .. } => member_id,
            other => panic!("{other}"),
        }
    };
    let invited = invite();
    assert!(invited.starts_with("client-"), "{invited}");
    assert_eq!(fixture.state("g"), GroupState::Stable, "nobody is called yet");
    let mut joining = groups.join(again(&members[0]));
    pending(&mut joining);
    fixture.pass(SESSION);
    assert_eq!(now(joining).unwrap().members.len(), 1);
    assert_eq!(
        outcome(now(groups.join(JoinRequest { member_id: invited, ..request("g") }))),
        "UnknownMember"
    );

    // One that comes in time is one of them.
    let invited = invite();
    let newcomer = groups.join(JoinRequest { member_id: invited.clone(), ..request("g") });
    let leader = groups.describe("g").unwrap().leader.unwrap();
    let leader = GroupMetadata { member_id: leader, ..members[0].clone() };
    assert_eq!(now(groups.join(again(&leader))).unwrap().members.len(), 2);
    assert_eq!(now(newcomer).unwrap().member_id, invited);
}

#[test]
fn one_who_was_invited_may_decline() {
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 1);
    let asked = JoinRequest { known_id_required: true, ..request("g") };
    let Err(Error::MemberIdRequired { member_id, .. }) = now(groups.join(asked)) else { panic!("no id") };
    let mut joining = groups.join(again(&members[0]));
    pending(&mut joining);
    groups.leave(&GroupMetadata { member_id, ..GroupMetadata::simple("g") }, None).unwrap();
    assert_eq!(now(joining).unwrap().members.len(), 1);
}

#[test]
fn an_empty_group_waits_for_more_as_a_broker_does() {
    let delay = Duration::from_secs(3);
    let fixture = start_with(GroupConfig::new().initial_rebalance_delay(delay));
    let groups = &fixture.groups;
    let mut replies = vec![groups.join(request("g"))];
    // Each newcomer makes it as long again.
    for _ in 0..4 {
        fixture.pass(delay - Duration::from_millis(1));
        replies.push(groups.join(request("g")));
        fixture.pass(Duration::from_millis(1));
        replies.iter_mut().for_each(pending);
    }
    fixture.pass(delay);
    for reply in replies {
        let joined = now(reply).unwrap();
        assert_eq!(joined.generation, 1);
    }

    // But not for longer than a rebalance may take.
    let mut replies = vec![groups.join(request("h")), groups.join(request("h"))];
    let mut passed = Duration::ZERO;
    while passed + delay < REBALANCE {
        fixture.pass(delay);
        passed += delay;
        replies.iter_mut().for_each(pending);
        replies.push(groups.join(request("h")));
    }
    fixture.pass(REBALANCE - passed);
    for reply in replies {
        assert_eq!(now(reply).unwrap().generation, 1);
    }
}

#[test]
fn a_full_group_takes_nobody_more() {
    let fixture = start_with(GroupConfig::new().members_max(2));
    let groups = &fixture.groups;
    let members = stable(groups, "g", 2);
    let error = now(groups.join(request("g"))).unwrap_err();
    assert_eq!(error.kafka_code(), Some(81), "{error}");
    assert_eq!(fixture.state("g"), GroupState::Stable);
    // Members may join again, and who makes room is followed.
    now(groups.join(again(&members[1]))).unwrap();
    groups.leave(&members[1], None).unwrap();
    let newcomer = groups.join(request("g"));
    now(groups.join(again(&members[0]))).unwrap();
    now(newcomer).unwrap();
    // Ids that are given out count.
    let invited = || outcome(now(groups.join(JoinRequest { known_id_required: true, ..request("h") })));
    assert_eq!([invited(), invited(), invited()], ["MemberIdRequired", "MemberIdRequired", "TooLarge"]);
}

#[test]
fn there_are_only_so_many_groups() {
    let fixture = start_with(GroupConfig::new().groups_max(2));
    let groups = &fixture.groups;
    let commit = |group: &str| outcome(groups.commit(&GroupMetadata::simple(group), &[at("t-0", 1)]));
    assert_eq!([commit("a"), commit("b"), commit("c")], ["Ok", "Ok", "TooLarge"]);
    assert_eq!(outcome(now(groups.join(request("d")))), "TooLarge");
    assert_eq!(commit("a"), "Ok");
    groups.delete("a").unwrap();
    assert_eq!([commit("c"), commit("a")], ["Ok", "TooLarge"]);
    let listed: Vec<String> = groups.list().unwrap().into_iter().map(|listed| listed.group).collect();
    assert_eq!(listed, ["b", "c"]);
}

#[test]
fn nothing_is_made_by_looking() {
    let fixture = start();
    let groups = &fixture.groups;
    assert!(groups.list().unwrap().is_empty());
    assert!(groups.committed("g", None, true).unwrap().is_empty());
    assert_eq!(outcome(groups.describe("g")), "UnknownGroup");
    assert_eq!(outcome(groups.delete("g")), "UnknownGroup");
    assert!(groups.tick().unwrap() > Duration::ZERO);
    fixture.store.maintain().unwrap();
    assert!(fixture.store.topics().is_empty());
}

#[test]
fn the_topic_is_a_kafka_brokers() {
    let machine = Machine::new();
    let store = machine.open();
    stable(&store.groups().unwrap(), "test-group", 1);
    let topic = store.topic("__consumer_offsets").unwrap();
    assert_eq!(topic.partition_count(), 50);
    let config = topic.config();
    let settings =
        ["cleanup.policy", "segment.bytes", "compression.type"].map(|key| config.get(key).unwrap());
    assert_eq!(settings, ["compact", "104857600", "uncompressed"]);
    // By Kafka's hash, 12 of 50.
    let used: Vec<u32> = topic
        .partitions()
        .unwrap()
        .iter()
        .filter(|log| log.log_end() > 0)
        .map(|log| log.id().partition)
        .collect();
    assert_eq!(used, [12]);
    let records = logs::records(&topic.partition(12).unwrap(), 0);
    let last = records.last().unwrap();
    let key = GroupRecordKey::decode(last.key().unwrap()).unwrap();
    assert_eq!(key, GroupRecordKey::Group { group: "test-group".into() });
    let value = GroupMetadataValue::decode(last.value().unwrap()).unwrap();
    assert_eq!((value.generation, value.protocol.as_deref()), (1, Some("range")));
    assert_eq!(value.current_state_timestamp, logs::NOW);
    let member = &value.members[0];
    assert_eq!(value.leader.as_ref(), Some(&member.member_id));
    assert_eq!((member.session_timeout, member.rebalance_timeout), (10_000, 60_000));
    assert_eq!(
        (&member.subscription[..], &member.assignment[..]),
        (&b"subscription"[..], member.member_id.as_bytes())
    );
}

#[test]
fn a_topic_that_is_there_keeps_its_partitions() {
    let machine = Machine::new();
    let store = machine.open();
    store
        .create_topic(
            "__consumer_offsets",
            TopicConfig::new().partitions(7).set("cleanup.policy", "compact").unwrap(),
        )
        .unwrap();
    let groups = store.groups().unwrap();
    for group in ["a", "b", "c", "d"] {
        stable(&groups, group, 1);
        let partition = groups.offsets_partition(group).unwrap().unwrap();
        assert!(partition.partition < 7);
    }
    drop((groups, store));
    assert_eq!(machine.open().groups().unwrap().list().unwrap().len(), 4);
}

#[test]
fn a_topic_that_is_deleted_takes_the_groups_along() {
    let fixture = start();
    let groups = &fixture.groups;
    let members = stable(groups, "g", 2);
    let waiting = groups.join(again(&members[0]));
    fixture.store.delete_topic("__consumer_offsets").unwrap();
    assert_eq!(outcome(groups.heartbeat(&members[1])), "UnknownMember");
    assert_eq!(outcome(now(waiting)), "Closed");
    assert!(groups.list().unwrap().is_empty());
    assert_eq!(stable(groups, "g", 2)[0].generation, 2);
}

#[test]
fn who_waits_when_the_store_is_closed_is_told_so() {
    let Fixture { store, groups, machine: _machine } = start();
    let members = stable(&groups, "g", 2);
    let waiting = groups.join(again(&members[0]));
    store.close().unwrap();
    assert_eq!(outcome(groups.tick()), "Closed");
    assert_eq!(outcome(now(waiting)), "Closed");
    assert_eq!(outcome(groups.heartbeat(&members[1])), "Closed");
    assert_eq!(outcome(groups.commit(&members[1], &[at("t-0", 1)])), "Closed");
}

#[test]
fn a_store_opened_for_reading_shows_its_groups() {
    let Fixture { store, groups, machine } = start();
    let members = stable(&groups, "g", 2);
    groups.commit(&members[0], &[at("t-0", 5)]).unwrap();
    drop((store, groups));
    let store = machine.options().read_only(true).open_in(std::sync::Arc::new(machine.disk.clone())).unwrap();
    let groups = store.groups().unwrap();
    assert_eq!(committed(&groups, "g")["t-0"], 5);
    assert_eq!(groups.list().unwrap().len(), 1);
    groups.tick().unwrap();
    machine.clock.advance(Duration::from_secs(30 * 24 * 3600));
    groups.tick().unwrap();
    assert_eq!(outcome(groups.commit(&GroupMetadata::simple("g"), &[at("t-0", 6)])), "ReadOnly");
    assert_eq!(outcome(now(groups.join(request("g")))), "ReadOnly");
    assert_eq!(outcome(groups.delete("g")), "ReadOnly");
    assert_eq!(committed(&groups, "g")["t-0"], 5);
}

#[test]
fn who_may_not_write_takes_no_room() {
    let fixture = start();
    let groups = &fixture.groups;
    groups.commit(&GroupMetadata::simple("there"), &[at("t-0", 1)]).unwrap();
    fixture.store.close().unwrap();
    let store =
        fixture.machine.options().read_only(true).open_in(std::sync::Arc::new(fixture.machine.disk.clone()));
    let store = store.unwrap();
    let groups = store.groups_with(GroupConfig::new().groups_max(3)).unwrap();
    for group in 0..9 {
        assert_eq!(outcome(now(groups.join(request(&format!("g{group}"))))), "ReadOnly");
    }
}

#[test]
fn settings_are_given_once() {
    let machine = Machine::new();
    let store = machine.open();
    let config = GroupConfig::new().members_max(3);
    let groups = store.groups_with(config.clone()).unwrap();
    assert!(std::sync::Arc::ptr_eq(&groups, &store.groups().unwrap()));
    store.groups_with(config).unwrap();
    assert_eq!(outcome(store.groups_with(GroupConfig::new())), "InvalidState");
}

#[test]
fn maintenance_looks_after_the_groups() {
    let fixture = start();
    let members = stable(&fixture.groups, "g", 1);
    fixture.machine.clock.advance(SESSION);
    fixture.store.maintain().unwrap();
    assert_eq!(fixture.state("g"), GroupState::Empty);
    assert_eq!(fixture.alive(&members), [false]);
}

#[test]
fn a_group_of_thousands() {
    const MEMBERS: usize = 3_000;
    let fixture = start();
    let groups = &fixture.groups;
    let first = stable(groups, "g", 1);
    let mut waiting: Vec<_> = (1..MEMBERS).map(|_| groups.join(request("g"))).collect();
    waiting.push(groups.join(again(&first[0])));
    let joined: Vec<_> = waiting.into_iter().map(|reply| now(reply).unwrap()).collect();
    let followers: Vec<_> = joined.iter().map(|joined| member("g", joined)).collect();
    let syncing: Vec<_> = followers.iter().take(MEMBERS - 1).map(|member| follow(groups, member)).collect();
    assert_eq!(joined[MEMBERS - 1].members.len(), MEMBERS);
    now(lead(groups, "g", &joined[MEMBERS - 1])).unwrap();
    for (member, reply) in followers.iter().zip(syncing) {
        assert_eq!(now(reply).unwrap().assignment, own(&member.member_id));
    }
    let many: Vec<_> = (0..50_000).map(|number| at(&format!("t-{number}"), 1)).collect();
    groups.commit(&followers[0], &many).unwrap();
    let store = fixture.machine.cut_off().open();
    let later = store.groups().unwrap();
    assert_eq!(later.describe("g").unwrap().generation, 2);
    assert_eq!(committed(&later, "g").len(), 50_000);
}
