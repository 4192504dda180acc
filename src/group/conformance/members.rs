//! Members that the checks lead by hand, and words for what goes wrong.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::Subject;
use crate::error::{Error, Result};
use crate::group::coordinator::{
    Assigned, GroupMetadata, JoinRequest, Joined, OffsetAndMetadata, OffsetCommit, SyncRequest,
};
use crate::types::{TopicName, TopicPartition};
use crate::wake::Reply;

/// Nothing, or what is wrong, in words.
pub(super) type Outcome<T = ()> = Result<T, String>;

pub(super) const GROUP: &str = "conformance";
pub(super) const SESSION: Duration = Duration::from_secs(30);
pub(super) const REBALANCE: Duration = Duration::from_secs(60);

/// How far time goes on while an answer is waited for that no timeout has to bring.
const PATIENCE_STEPS: u32 = 100;
const STEP: Duration = Duration::from_millis(100);

/// Counts how often it is woken.
#[derive(Debug, Default)]
pub(super) struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    pub(super) fn rang(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

/// A newcomer's request.
pub(super) fn newcomer() -> JoinRequest {
    JoinRequest {
        group: GROUP.into(),
        member_id: String::new(),
        instance_id: None,
        known_id_required: false,
        client_id: "client".into(),
        client_host: "somewhere".into(),
        session_timeout: SESSION,
        rebalance_timeout: REBALANCE,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::new())],
        waker: None,
    }
}

pub(super) fn in_place(instance_id: &str) -> JoinRequest {
    JoinRequest { instance_id: Some(instance_id.into()), ..newcomer() }
}

/// A member's request to be in the next generation.
pub(super) fn again(member: &GroupMetadata) -> JoinRequest {
    let (member_id, instance_id) = (member.member_id.clone(), member.instance_id.clone());
    JoinRequest { member_id, instance_id, ..newcomer() }
}

pub(super) fn member_of(joined: &Joined) -> GroupMetadata {
    let (generation, member_id) = (joined.generation, joined.member_id.clone());
    GroupMetadata { group: GROUP.into(), generation, member_id, instance_id: None }
}

pub(super) fn partition(topic: &str) -> Outcome<TopicPartition> {
    let topic = TopicName::new(topic).map_err(|error| error.to_string())?;
    Ok(TopicPartition { topic, partition: 0 })
}

pub(super) fn at(topic: &str, offset: u64) -> Outcome<OffsetCommit> {
    Ok(OffsetCommit { partition: partition(topic)?, position: OffsetAndMetadata::new(offset) })
}

pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise()) }
}

pub(super) fn done<T>(what: &str, result: Result<T>) -> Outcome<T> {
    result.map_err(|error| format!("{what} failed: {error}"))
}

/// It must have failed so.
pub(super) fn refused<T>(what: &str, result: Result<T>, as_expected: fn(&Error) -> bool) -> Outcome {
    match result {
        Ok(_) => Err(format!("{what} was not refused")),
        Err(error) if as_expected(&error) => Ok(()),
        Err(error) => Err(format!("{what} was refused with {error:?}")),
    }
}

pub(super) fn unknown_member(error: &Error) -> bool {
    matches!(error, Error::UnknownMember { .. })
}

pub(super) fn rebalancing(error: &Error) -> bool {
    matches!(error, Error::RebalanceInProgress { .. })
}

pub(super) fn illegal_generation(error: &Error) -> bool {
    matches!(error, Error::IllegalGeneration { .. })
}

pub(super) fn fenced(error: &Error) -> bool {
    matches!(error, Error::FencedInstance { .. })
}

/// An answer, if it is there.
pub(super) fn look<T>(reply: &mut Reply<T>) -> Option<Result<T>> {
    match Pin::new(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

impl Subject {
    pub(super) fn pass(&self, time: Duration) -> Outcome {
        self.clock.advance(time);
        done("a tick", self.groups.tick()).map(|_| ())
    }

    /// An answer that no timeout has to bring, other than that for the first members of a group.
    pub(super) fn answer<T>(&self, what: &str, mut reply: Reply<T>) -> Outcome<Result<T>> {
        for _ in 0..PATIENCE_STEPS {
            if let Some(answer) = look(&mut reply) {
                return Ok(answer);
            }
            self.pass(STEP)?;
        }
        Err(format!("{what} is not answered"))
    }

    pub(super) fn join(&self, request: JoinRequest) -> Outcome<Joined> {
        let reply = self.groups.join(request);
        done("a join", self.answer("a join", reply)?)
    }

    pub(super) fn sync(&self, member: &GroupMetadata, assignments: &[(&str, &str)]) -> Reply<Assigned> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let assignments = assignments.iter().map(|(id, share)| ((*id).to_owned(), bytes(share))).collect();
        self.groups.sync(SyncRequest { member: member.clone(), assignments })
    }

    /// A group of one member, in its generation and with its assignment, `"all"`.
    pub(super) fn lone(&self, request: JoinRequest) -> Outcome<GroupMetadata> {
        let instance_id = request.instance_id.clone();
        let member = GroupMetadata { instance_id, ..member_of(&self.join(request)?) };
        let synced = self.sync(&member, &[(&member.member_id, "all")]);
        done("a sync", self.answer("a sync", synced)?)?;
        Ok(member)
    }

    /// A stable group of a leader, assigned `"one"`, and a follower, assigned `"two"`.
    pub(super) fn pair(&self, first: JoinRequest, second: JoinRequest) -> Outcome<[GroupMetadata; 2]> {
        let (places, first_again) = ([first.instance_id.clone(), second.instance_id.clone()], first.clone());
        let leader = self.lone(first)?;
        let follower = self.groups.join(second);
        let member_id = leader.member_id.clone();
        let leader = self.join(JoinRequest { member_id, ..first_again })?;
        let follower = done("a join", self.answer("the join of a second member", follower)?)?;
        ensure(leader.leader == leader.member_id, || "the first member does not lead".into())?;
        let [one, two] = places;
        let leader = GroupMetadata { instance_id: one, ..member_of(&leader) };
        let follower = GroupMetadata { instance_id: two, ..member_of(&follower) };
        let synced = self.sync(&leader, &[(&leader.member_id, "one"), (&follower.member_id, "two")]);
        done("the leader's sync", self.answer("the leader's sync", synced)?)?;
        let synced = self.sync(&follower, &[]);
        done("the follower's sync", self.answer("the follower's sync", synced)?)?;
        Ok([leader, follower])
    }
}
