//! Members of groups that are led by hand, and what is asked of their coordinator.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking, and not every test that shares this module needs all of it"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals::group::{
    Assigned, GroupCoordinator, GroupMetadata, GroupState, JoinRequest, Joined, OffsetAndMetadata,
    OffsetCommit, SyncRequest,
};
use annals::{Error, Reply, Result, TopicPartition};
use bytes::Bytes;

pub type Groups = Arc<dyn GroupCoordinator>;

/// The session timeout of members, unless they say otherwise.
pub const SESSION: Duration = Duration::from_secs(10);
/// Their rebalance timeout.
pub const REBALANCE: Duration = Duration::from_secs(60);

/// A request of a newcomer to join the group, which knows one protocol.
pub fn request(group: &str) -> JoinRequest {
    JoinRequest {
        group: group.into(),
        member_id: String::new(),
        instance_id: None,
        known_id_required: false,
        client_id: "client".into(),
        client_host: JoinRequest::IN_PROCESS.into(),
        session_timeout: SESSION,
        rebalance_timeout: REBALANCE,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"subscription"))],
        waker: None,
    }
}

/// A request of a newcomer to a static member's place.
pub fn static_request(group: &str, instance_id: &str) -> JoinRequest {
    JoinRequest { instance_id: Some(instance_id.into()), ..request(group) }
}

/// The request of a member that joins again.
pub fn again(member: &GroupMetadata) -> JoinRequest {
    JoinRequest {
        member_id: member.member_id.clone(),
        instance_id: member.instance_id.clone(),
        ..request(&member.group)
    }
}

/// What an answer is now; it is still to come if there is none.
pub fn poll<T>(reply: &mut Reply<T>) -> Option<Result<T>> {
    match Pin::new(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// The answer, which must be there.
#[track_caller]
pub fn now<T>(mut reply: Reply<T>) -> Result<T> {
    poll(&mut reply).expect("it is answered")
}

/// The answer must not be there yet.
#[track_caller]
pub fn pending<T: std::fmt::Debug>(reply: &mut Reply<T>) {
    let answer = poll(reply);
    assert!(answer.is_none(), "answered: {answer:?}");
}

/// Who is in a generation.
pub fn member(group: &str, joined: &Joined) -> GroupMetadata {
    GroupMetadata {
        group: group.into(),
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
    }
}

/// The leader syncs: each of all members is assigned its own id.
pub fn lead(groups: &Groups, group: &str, joined: &Joined) -> Reply<Assigned> {
    let assignments = joined.members.iter();
    let assignments = assignments.map(|member| (member.member_id.clone(), own(&member.member_id))).collect();
    groups.sync(SyncRequest { member: member(group, joined), assignments })
}

/// What [`lead`] assigns.
pub fn own(member_id: &str) -> Bytes {
    Bytes::copy_from_slice(member_id.as_bytes())
}

/// A follower syncs.
pub fn follow(groups: &Groups, member: &GroupMetadata) -> Reply<Assigned> {
    groups.sync(SyncRequest { member: member.clone(), assignments: Vec::new() })
}

/// A stable group of so many members, made by joining at once: the first of them leads.
pub fn stable(groups: &Groups, group: &str, count: usize) -> Vec<GroupMetadata> {
    stable_of(groups, (0..count).map(|_| request(group)).collect())
}

/// As [`stable`], of members with these requests.
pub fn stable_of(groups: &Groups, requests: Vec<JoinRequest>) -> Vec<GroupMetadata> {
    let group = requests[0].group.clone();
    let mut ids: Vec<String> = Vec::new();
    let mut joined: Vec<Joined> = Vec::new();
    for (index, newcomer) in requests.iter().enumerate() {
        // Each newcomer calls the others.
        let reply = groups.join(newcomer.clone());
        let mut replies: Vec<Reply<Joined>> = Vec::new();
        for (id, request) in ids.iter().zip(&requests) {
            replies.push(groups.join(JoinRequest { member_id: id.clone(), ..request.clone() }));
        }
        replies.push(reply);
        joined = replies.into_iter().map(|reply| now(reply).unwrap()).collect();
        ids = joined.iter().map(|joined| joined.member_id.clone()).collect();
        assert_eq!(ids.len(), index + 1);
    }
    let leader = joined.iter().find(|joined| joined.leader == joined.member_id).unwrap();
    now(lead(groups, &group, leader)).unwrap();
    let members = joined.iter().zip(&requests).map(|(joined, request)| GroupMetadata {
        instance_id: request.instance_id.clone(),
        ..member(&group, joined)
    });
    let members: Vec<GroupMetadata> = members.collect();
    for member in &members {
        assert_eq!(now(follow(groups, member)).unwrap().assignment, own(&member.member_id));
    }
    assert_eq!(groups.describe(&group).unwrap().state, GroupState::Stable);
    members
}

/// A partition by the name of its directory.
pub fn tp(name: &str) -> TopicPartition {
    TopicPartition::from_dir_name(name).unwrap()
}

/// An offset to commit.
pub fn at(partition: &str, offset: u64) -> OffsetCommit {
    OffsetCommit { partition: tp(partition), position: OffsetAndMetadata::new(offset) }
}

/// What a group has committed, by the names of directories.
pub fn committed(groups: &Groups, group: &str) -> BTreeMap<String, u64> {
    let committed = groups.committed(group, None, false).unwrap();
    committed.iter().map(|(partition, position)| (partition.to_string(), position.offset)).collect()
}

/// An error by the name of its variant.
pub fn name(error: &Error) -> String {
    let shown = format!("{error:?}");
    shown.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

/// The name of the error, or `Ok`.
pub fn outcome<T>(result: Result<T>) -> String {
    result.map_or_else(|error| name(&error), |_| "Ok".into())
}

/// Counts how often it is woken.
#[derive(Debug, Default)]
pub struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    pub fn new() -> (Arc<Bell>, Waker) {
        let bell = Arc::new(Bell::default());
        (Arc::clone(&bell), Waker::from(bell))
    }

    pub fn rings(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
