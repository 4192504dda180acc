//! The rules, one function each.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::Subject;
use super::members::*;
use crate::error::Error;
use crate::group::coordinator::{GroupMetadata, GroupState, JoinRequest, OffsetAndMetadata, OffsetCommit};

type Check = fn(&Subject) -> Outcome;

/// Every rule of the contract, and who looks after it.
pub(super) const CHECKS: [(&str, Check); 22] = [
    ("a lone member leads, and gets what it assigns itself", alone),
    ("a newcomer calls the others, and all are answered with one generation", called),
    ("a follower gets what the leader assigns, once the leader has", waits_for_leader),
    ("who waits for an assignment is told when there will be none", answered_without_leader),
    ("a member of an old generation may do nothing", old_generation),
    ("who is no member may do nothing", strangers),
    ("who is silent for longer than its session timeout is out, and the others are called", silent),
    ("who is heard of stays", heard_of),
    ("who does not join in time is out", late),
    ("who does not sync in time is out", unsynced),
    ("a tick comes back no later than something is due", ticks),
    ("who leaves is out, and the last one leaves the group empty", leaving),
    ("only a protocol that all know is chosen", protocols),
    ("a newcomer may be told its id first", known_id),
    ("a successor takes a static member's place at once, and the group stays as it is", successors),
    ("a static member's place is kept for so long", kept_places),
    ("nobody's member commits while there are no members", simple_commits),
    ("what is committed can be read, with all that belongs to it", committed),
    ("groups are listed and described", described),
    ("only groups without members are deleted, with what they committed", deleted),
    ("offsets of a topic that nobody reads can be forgotten", forgotten),
    ("what a transaction commits counts once it is committed", in_transactions),
];

fn state(subject: &Subject) -> Outcome<GroupState> {
    Ok(done("describe", subject.groups.describe(GROUP))?.state)
}

fn alone(subject: &Subject) -> Outcome {
    let joined = subject.join(newcomer())?;
    ensure(joined.leader == joined.member_id, || format!("it does not lead: {joined:?}"))?;
    let seen: Vec<&String> = joined.members.iter().map(|member| &member.member_id).collect();
    ensure(seen == [&joined.member_id], || format!("the leader sees {seen:?}"))?;
    ensure(!joined.skip_assignment, || "it is not to assign".into())?;
    let member = member_of(&joined);
    done("a heartbeat before the sync", subject.groups.heartbeat(&member))?;
    let reply = subject.sync(&member, &[(&member.member_id, "all")]);
    let assigned = done("a sync", subject.answer("a sync", reply)?)?;
    ensure(&assigned.assignment[..] == b"all", || format!("it was assigned {assigned:?}"))?;
    ensure(state(subject)? == GroupState::Stable, || "the group is not stable".into())?;
    done("a heartbeat", subject.groups.heartbeat(&member))
}

fn called(subject: &Subject) -> Outcome {
    let bell = Arc::new(Bell::default());
    let first = subject.lone(JoinRequest { waker: Some(Waker::from(Arc::clone(&bell))), ..newcomer() })?;
    ensure(!bell.rang(), || "it was woken for nothing".into())?;
    let mut second = subject.groups.join(newcomer());
    ensure(look(&mut second).is_none(), || "a newcomer was answered before the others joined".into())?;
    ensure(bell.rang(), || "the member was not woken".into())?;
    refused("a heartbeat while joining", subject.groups.heartbeat(&first), rebalancing)?;
    let again = subject.join(again(&first))?;
    let joined = done("a join", subject.answer("the join of a newcomer", second)?)?;
    ensure(again.generation == joined.generation, || format!("{again:?} and {joined:?}"))?;
    ensure(again.generation > first.generation, || "the generation did not go up".into())?;
    ensure(again.leader == joined.leader, || "they see different leaders".into())?;
    let (leader, follower) = if again.leader == again.member_id { (again, joined) } else { (joined, again) };
    ensure(leader.members.len() == 2, || format!("the leader sees {:?}", leader.members))?;
    ensure(follower.members.is_empty(), || "the follower sees members".into())
}

fn waits_for_leader(subject: &Subject) -> Outcome {
    let [leader, follower] = subject.pair(newcomer(), newcomer())?;
    let follower_again = subject.groups.join(JoinRequest {
        protocols: vec![("range".into(), Bytes::from_static(b"other topics"))],
        ..again(&follower)
    });
    let joined = subject.join(again(&leader))?;
    let follower = done("a join", subject.answer("a join", follower_again)?)?;
    let (leader, follower) = (member_of(&joined), member_of(&follower));
    let mut waiting = subject.sync(&follower, &[]);
    ensure(look(&mut waiting).is_none(), || "a follower was answered before the leader assigned".into())?;
    let shares = [(leader.member_id.as_str(), "mine"), (follower.member_id.as_str(), "yours")];
    let led = done("a sync", subject.answer("the leader's sync", subject.sync(&leader, &shares))?)?;
    let followed = done("a sync", subject.answer("the follower's sync", waiting)?)?;
    let shares = (&led.assignment[..], &followed.assignment[..]);
    ensure(shares == (b"mine", b"yours"), || format!("they were assigned {shares:?}"))
}

fn answered_without_leader(subject: &Subject) -> Outcome {
    let [leader, follower] = subject.pair(newcomer(), newcomer())?;
    // The leader's joining calls the follower.
    let leads = subject.groups.join(again(&leader));
    let follower_again = subject.groups.join(again(&follower));
    let leader = member_of(&done("a join", subject.answer("a join", leads)?)?);
    let follower = member_of(&done("a join", subject.answer("a join", follower_again)?)?);
    let waiting = subject.sync(&follower, &[]);
    done("leave", subject.groups.leave(&leader, None))?;
    refused("a sync without a leader", subject.answer("a sync", waiting)?, rebalancing)
}

fn old_generation(subject: &Subject) -> Outcome {
    let old = subject.lone(newcomer())?;
    let now = member_of(&subject.join(again(&old))?);
    ensure(now.generation > old.generation, || "the leader's joining began no generation".into())?;
    let groups = &subject.groups;
    refused("an old heartbeat", groups.heartbeat(&old), illegal_generation)?;
    refused("an old commit", groups.commit(&old, &[at("t", 1)?]), illegal_generation)?;
    let synced = subject.answer("a sync", subject.sync(&old, &[]))?;
    refused("an old sync", synced, illegal_generation)?;
    let read = done("committed", groups.committed(GROUP, None, false))?;
    ensure(read.is_empty(), || format!("a refused commit can be read: {read:?}"))
}

fn strangers(subject: &Subject) -> Outcome {
    let member = subject.lone(newcomer())?;
    let stranger = GroupMetadata { member_id: "stranger".into(), ..member.clone() };
    let elsewhere = GroupMetadata { group: "elsewhere".into(), ..member };
    for who in [stranger, elsewhere] {
        let groups = &subject.groups;
        refused("a stranger's heartbeat", groups.heartbeat(&who), unknown_member)?;
        refused("a stranger's commit", groups.commit(&who, &[at("t", 1)?]), unknown_member)?;
        refused("a stranger's leaving", groups.leave(&who, None), unknown_member)?;
        let synced = subject.answer("a sync", subject.sync(&who, &[]))?;
        refused("a stranger's sync", synced, unknown_member)?;
        let join = JoinRequest { group: who.group.clone(), ..again(&who) };
        let joined = subject.answer("a join", groups.join(join))?;
        refused("a stranger's join", joined, unknown_member)?;
    }
    Ok(())
}

fn silent(subject: &Subject) -> Outcome {
    let [leader, follower] = subject.pair(newcomer(), newcomer())?;
    subject.pass(SESSION / 2)?;
    done("a heartbeat", subject.groups.heartbeat(&leader))?;
    subject.pass(SESSION / 2 + Duration::from_millis(1))?;
    refused("a late heartbeat", subject.groups.heartbeat(&follower), unknown_member)?;
    refused("a late commit", subject.groups.commit(&follower, &[at("t", 1)?]), unknown_member)?;
    refused("a heartbeat of who is left", subject.groups.heartbeat(&leader), rebalancing)?;
    let joined = subject.join(again(&leader))?;
    ensure(joined.members.len() == 1, || format!("the leader sees {:?}", joined.members))
}

fn heard_of(subject: &Subject) -> Outcome {
    let member = subject.lone(newcomer())?;
    for _ in 0..5 {
        subject.pass(SESSION - Duration::from_millis(1))?;
        done("a heartbeat in time", subject.groups.heartbeat(&member))?;
    }
    for offset in 0..5 {
        subject.pass(SESSION - Duration::from_millis(1))?;
        done("a commit in time", subject.groups.commit(&member, &[at("t", offset)?]))?;
    }
    Ok(())
}

fn late(subject: &Subject) -> Outcome {
    let [leader, follower] = subject.pair(newcomer(), newcomer())?;
    let mut joining = subject.groups.join(again(&leader));
    let mut passed = Duration::ZERO;
    while passed + SESSION / 2 < REBALANCE {
        subject.pass(SESSION / 2)?;
        passed += SESSION / 2;
        ensure(look(&mut joining).is_none(), || format!("joining ended after {passed:?}"))?;
        refused("a heartbeat while joining", subject.groups.heartbeat(&follower), rebalancing)?;
    }
    subject.pass(REBALANCE - passed)?;
    let joined = done("a join", look(&mut joining).ok_or("joining did not end in time")?)?;
    ensure(joined.members.len() == 1, || format!("the leader sees {:?}", joined.members))?;
    refused("a heartbeat of who came late", subject.groups.heartbeat(&follower), unknown_member)
}

fn unsynced(subject: &Subject) -> Outcome {
    let joined = subject.join(newcomer())?;
    let member = member_of(&joined);
    let mut passed = Duration::ZERO;
    while passed < REBALANCE {
        done("a heartbeat", subject.groups.heartbeat(&member))?;
        subject.pass(SESSION / 2)?;
        passed += SESSION / 2;
    }
    refused("a heartbeat of who never synced", subject.groups.heartbeat(&member), unknown_member)
}

fn ticks(subject: &Subject) -> Outcome {
    let member = subject.lone(newcomer())?;
    let started = crate::clock::Clock::monotonic(&*subject.clock);
    let passed = || crate::clock::Clock::monotonic(&*subject.clock).saturating_sub(started);
    while passed() < SESSION {
        let wait = done("a tick", subject.groups.tick())?;
        ensure(!wait.is_zero(), || format!("something is due for ever after {:?}", passed()))?;
        ensure(passed() + wait <= SESSION, || {
            format!("a tick after {:?} comes back after {wait:?}", passed())
        })?;
        subject.clock.advance(wait);
    }
    done("a tick", subject.groups.tick())?;
    refused("a late heartbeat", subject.groups.heartbeat(&member), unknown_member)
}

fn leaving(subject: &Subject) -> Outcome {
    let [leader, follower] = subject.pair(newcomer(), newcomer())?;
    done("leave", subject.groups.leave(&leader, None))?;
    refused("a heartbeat of who left", subject.groups.heartbeat(&leader), unknown_member)?;
    refused("leaving twice", subject.groups.leave(&leader, None), unknown_member)?;
    refused("a heartbeat of who stays", subject.groups.heartbeat(&follower), rebalancing)?;
    let joined = subject.join(again(&follower))?;
    ensure(joined.leader == follower.member_id, || "who stays does not lead".into())?;
    done("leave", subject.groups.leave(&follower, None))?;
    ensure(state(subject)? == GroupState::Empty, || "the group is not empty".into())?;
    let next = subject.join(newcomer())?;
    ensure(next.generation > joined.generation, || "a generation came twice".into())
}

fn protocols(subject: &Subject) -> Outcome {
    let knows = |names: &[&str]| {
        let protocols =
            names.iter().map(|name| ((*name).to_owned(), Bytes::copy_from_slice(name.as_bytes())));
        JoinRequest { protocols: protocols.collect(), ..newcomer() }
    };
    let first = subject.lone(knows(&["new", "old"]))?;
    let second = subject.groups.join(knows(&["old", "older"]));
    let again = JoinRequest { member_id: first.member_id.clone(), ..knows(&["new", "old"]) };
    let joined = subject.join(again)?;
    done("a join", subject.answer("a join", second)?)?;
    ensure(joined.protocol == "old", || format!("{:?} was chosen", joined.protocol))?;
    let metadata: Vec<&[u8]> = joined.members.iter().map(|member| &member.metadata[..]).collect();
    ensure(metadata == [b"old", b"old"], || "the subscriptions are those for another protocol".into())?;
    let inconsistent = |error: &Error| matches!(error, Error::InconsistentProtocol { .. });
    let other = JoinRequest { protocol_type: "connect".into(), ..knows(&["old"]) };
    for request in [knows(&["new"]), knows(&[]), other] {
        refused(
            "a protocol that others lack",
            subject.answer("a join", subject.groups.join(request))?,
            inconsistent,
        )?;
    }
    Ok(())
}

fn known_id(subject: &Subject) -> Outcome {
    let request = JoinRequest { known_id_required: true, ..newcomer() };
    let told = match subject.answer("a join", subject.groups.join(request.clone()))? {
        Err(Error::MemberIdRequired { member_id, .. }) if !member_id.is_empty() => member_id,
        other => return Err(format!("the newcomer was answered {other:?}")),
    };
    let joined = subject.join(JoinRequest { member_id: told.clone(), ..request.clone() })?;
    ensure(joined.member_id == told, || {
        format!("it joined as {:?}, and was told {told:?}", joined.member_id)
    })?;
    let placed = JoinRequest { instance_id: Some("place".into()), group: "other".into(), ..request };
    let joined = subject.answer("a join", subject.groups.join(placed))?;
    done("the join of a static member, which needs no id", joined).map(|_| ())
}

fn successors(subject: &Subject) -> Outcome {
    let [leader, follower] = subject.pair(in_place("one"), in_place("two"))?;
    for (before, share) in [(&follower, "two"), (&leader, "one")] {
        let place = before.instance_id.as_deref().unwrap_or_default();
        let joined = subject.join(in_place(place))?;
        ensure(joined.generation == before.generation, || "the group did not stay as it was".into())?;
        ensure(joined.member_id != before.member_id, || "the successor has the same id".into())?;
        let leads = joined.leader == joined.member_id;
        ensure(joined.skip_assignment == leads, || format!("a successor is to assign: {joined:?}"))?;
        let next = GroupMetadata { instance_id: before.instance_id.clone(), ..member_of(&joined) };
        let assigned = done("a sync", subject.answer("a sync", subject.sync(&next, &[]))?)?;
        ensure(assigned.assignment == share, || format!("the successor was assigned {assigned:?}"))?;
        let groups = &subject.groups;
        refused("a heartbeat of who was replaced", groups.heartbeat(before), fenced)?;
        refused("a commit of who was replaced", groups.commit(before, &[at("t", 1)?]), fenced)?;
        done("a heartbeat of the successor", groups.heartbeat(&next))?;
    }
    ensure(state(subject)? == GroupState::Stable, || "the group is not stable".into())
}

fn kept_places(subject: &Subject) -> Outcome {
    let [leader, follower] = subject.pair(newcomer(), in_place("two"))?;
    done("leave", subject.groups.leave(&follower, Some(SESSION * 2)))?;
    done("a heartbeat of who stays", subject.groups.heartbeat(&leader))?;
    refused("a heartbeat of who left", subject.groups.heartbeat(&follower), unknown_member)?;
    for _ in 0..3 {
        subject.pass(SESSION / 2)?;
        done("a heartbeat while the place is kept", subject.groups.heartbeat(&leader))?;
    }
    subject.pass(SESSION / 2)?;
    refused("a heartbeat once the place is given up", subject.groups.heartbeat(&leader), rebalancing)
}

fn simple_commits(subject: &Subject) -> Outcome {
    let (groups, nobody) = (&subject.groups, GroupMetadata::simple(GROUP));
    done("a commit to a group without members", groups.commit(&nobody, &[at("t", 5)?]))?;
    let member = subject.lone(newcomer())?;
    refused("a commit of nobody's", groups.commit(&nobody, &[at("t", 6)?]), unknown_member)?;
    done("leave", groups.leave(&member, None))?;
    refused("a commit of who left", groups.commit(&member, &[at("t", 7)?]), unknown_member)?;
    done("a commit to an empty group", groups.commit(&nobody, &[at("t", 4)?]))?;
    let read = done("committed", groups.committed(GROUP, None, false))?;
    let offsets: Vec<u64> = read.values().map(|committed| committed.offset).collect();
    ensure(offsets == [4], || format!("{read:?} was read"))
}

fn committed(subject: &Subject) -> Outcome {
    let (groups, member) = (&subject.groups, subject.lone(newcomer())?);
    let position = OffsetAndMetadata { offset: 42, leader_epoch: Some(7), metadata: "where I was".into() };
    let one = OffsetCommit { partition: partition("one")?, position };
    let two = at("two", 1)?;
    done("a commit", groups.commit(&member, &[one.clone(), two.clone()]))?;
    let all = done("committed", groups.committed(GROUP, None, true))?;
    ensure(all.len() == 2, || format!("{all:?} was read"))?;
    ensure(all.get(&one.partition) == Some(&one.position), || format!("{all:?} was read"))?;
    let asked = [two.partition.clone(), partition("three")?];
    let some = done("committed", groups.committed(GROUP, Some(&asked), false))?;
    let keys: Vec<_> = some.keys().collect();
    ensure(keys == [&two.partition], || format!("{some:?} was read"))?;
    let none = done("committed", groups.committed("nobody's", None, true))?;
    ensure(none.is_empty(), || format!("{none:?} was read of a group that is not there"))?;
    done("a commit back", groups.commit(&member, &[at("one", 3)?]))?;
    let back = done("committed", groups.committed(GROUP, None, false))?;
    ensure(back.get(&one.partition) == Some(&OffsetAndMetadata::new(3)), || format!("{back:?} was read"))
}

fn described(subject: &Subject) -> Outcome {
    let unknown = |error: &Error| matches!(error, Error::UnknownGroup { .. });
    refused("describing a group that is not there", subject.groups.describe(GROUP), unknown)?;
    let [leader, follower] = subject.pair(newcomer(), newcomer())?;
    done("a commit", subject.groups.commit(&GroupMetadata::simple("another"), &[at("t", 1)?]))?;
    let listed = done("list", subject.groups.list())?;
    let listed: Vec<(&str, GroupState)> = listed.iter().map(|it| (it.group.as_str(), it.state)).collect();
    let wanted = [("another", GroupState::Empty), (GROUP, GroupState::Stable)];
    ensure(listed == wanted, || format!("{listed:?} was listed"))?;
    let shown = done("describe", subject.groups.describe(GROUP))?;
    ensure(shown.generation == leader.generation, || format!("{shown:?}"))?;
    ensure(shown.leader == Some(leader.member_id), || format!("{shown:?}"))?;
    ensure((shown.protocol.as_str(), shown.protocol_type.as_str()) == ("range", "consumer"), || {
        format!("{shown:?}")
    })?;
    let second = shown.members.iter().find(|member| member.member_id == follower.member_id);
    ensure(second.is_some_and(|member| member.assignment == "two"), || format!("{shown:?}"))
}

fn deleted(subject: &Subject) -> Outcome {
    let (groups, member) = (&subject.groups, subject.lone(newcomer())?);
    done("a commit", groups.commit(&member, &[at("t", 1)?]))?;
    let not_empty = |error: &Error| matches!(error, Error::GroupNotEmpty { .. });
    refused("deleting a group with members", groups.delete(GROUP), not_empty)?;
    done("leave", groups.leave(&member, None))?;
    done("delete", groups.delete(GROUP))?;
    let unknown = |error: &Error| matches!(error, Error::UnknownGroup { .. });
    refused("deleting it twice", groups.delete(GROUP), unknown)?;
    refused("describing what was deleted", groups.describe(GROUP), unknown)?;
    let left = done("committed", groups.committed(GROUP, None, false))?;
    ensure(left.is_empty(), || format!("{left:?} is left"))?;
    subject.lone(newcomer()).map(|_| ())
}

fn forgotten(subject: &Subject) -> Outcome {
    use crate::format::consumer_protocol::Subscription;
    let (groups, read) = (&subject.groups, partition("read")?);
    let subscription = Subscription { topics: vec![read.topic.clone()], ..Subscription::default() };
    let bytes = subscription.encode().map_err(|error| error.to_string())?;
    let member =
        subject.lone(JoinRequest { protocols: vec![("range".into(), bytes.into())], ..newcomer() })?;
    done("a commit", groups.commit(&member, &[at("read", 1)?, at("unread", 2)?]))?;
    let subscribed = |error: &Error| matches!(error, Error::GroupSubscribed { .. });
    let both = [read.clone(), partition("unread")?];
    refused("forgetting what is read", groups.delete_offsets(GROUP, &both), subscribed)?;
    done("forgetting what is not read", groups.delete_offsets(GROUP, &[partition("unread")?]))?;
    let left = done("committed", groups.committed(GROUP, None, false))?;
    ensure(left.keys().collect::<Vec<_>>() == [&read], || format!("{left:?} is left"))?;
    let unknown = |error: &Error| matches!(error, Error::UnknownGroup { .. });
    refused("forgetting of a group that is not there", groups.delete_offsets("nobody's", &both), unknown)
}

fn in_transactions(subject: &Subject) -> Outcome {
    let (groups, member) = (&subject.groups, subject.lone(newcomer())?);
    let Some(marker) = &subject.marker else { return Ok(()) };
    let Some(log) = done("offsets_partition", groups.offsets_partition(GROUP))? else { return Ok(()) };
    for (offset, commit, wanted) in [(1, true, Some(1)), (2, false, Some(1)), (3, true, Some(3))] {
        let commits = [at("t", offset)?];
        done("a commit in a transaction", groups.commit_in_transaction(&member, 7, 0, &commits))?;
        let unstable = |error: &Error| matches!(error, Error::UnstableOffsets { .. });
        refused("reading what is not stable", groups.committed(GROUP, None, true), unstable)?;
        marker(&log, 7, 0, commit);
        done("the end of a transaction", groups.transaction_ended(&log, 7, commit))?;
        let read = done("committed", groups.committed(GROUP, None, true))?;
        let found = read.get(&partition("t")?).map(|committed| committed.offset);
        ensure(found == wanted, || format!("{found:?} is committed, and not {wanted:?}"))?;
    }
    let old = GroupMetadata { generation: member.generation - 1, ..member };
    refused("an old member's", groups.commit_in_transaction(&old, 7, 0, &[at("t", 4)?]), illegal_generation)
}
