//! [`Effects`]: what a change of a group is to bring about once no lock is held any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::Duration;

use crate::error::Result;
use crate::group::coordinator::{Assigned, Joined};
use crate::wake::Replier;

/// Answers and wakes, put off until they can run whatever code they like.
#[derive(Debug, Default)]
#[must_use = "somebody waits for it"]
pub(super) struct Effects {
    joins: Vec<(Replier<Joined>, Result<Joined>)>,
    syncs: Vec<(Replier<Assigned>, Result<Assigned>)>,
    wakers: Vec<Waker>,
    retired: Vec<Waker>,
    /// What is to be written down of the group before anything else.
    pub(super) write: Option<Write>,
    /// Whether anything may be due earlier than it was.
    pub(super) moved: bool,
    /// When one thing more is due.
    pub(super) due: Option<Duration>,
}

/// Why a group has to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    /// It has no members any more.
    Empty,
    /// The leader has brought the assignment of this generation.
    Assignment(i32),
    /// This member has taken the place of another.
    Successor(String),
}

impl Effects {
    pub(super) fn answer_join(&mut self, replier: Replier<Joined>, answer: Result<Joined>) {
        self.joins.push((replier, answer));
    }

    pub(super) fn answer_sync(&mut self, replier: Replier<Assigned>, answer: Result<Assigned>) {
        self.syncs.push((replier, answer));
    }

    pub(super) fn wake(&mut self, waker: Option<&Waker>) {
        self.wakers.extend(waker.cloned());
    }

    /// Something is due then.
    pub(super) fn due_at(&mut self, deadline: Duration) {
        self.due = Some(self.due.map_or(deadline, |due| due.min(deadline)));
    }

    /// Whether nobody is concerned.
    pub(super) fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.syncs.is_empty() && self.wakers.is_empty() && self.write.is_none()
    }

    /// A waker that is needed no more goes: what it keeps goes with it, and may be anything.
    pub(super) fn retire(&mut self, waker: Option<Waker>) {
        self.retired.extend(waker);
    }

    /// Tells everybody. Called without a lock: a waker may be anybody's code. One that panics is the matter of who
    /// made it, and of nobody who is told besides, or by whose call that happens. Returns what is to be written down.
    pub(super) fn deliver(self) -> Option<Write> {
        self.syncs.into_iter().for_each(|(replier, answer)| apart(|| replier.send(answer)));
        self.joins.into_iter().for_each(|(replier, answer)| apart(|| replier.send(answer)));
        self.wakers.into_iter().for_each(|waker| apart(|| waker.wake()));
        self.retired.into_iter().for_each(|waker| apart(|| drop(waker)));
        self.write
    }
}

fn apart(tell: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(tell));
}
