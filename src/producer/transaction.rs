//! The transactions of a producer: what may be called when, and what a failure means for the one that is open (Kafka's
//! `TransactionManager`).
//!
//! ```text
//!            begin                 commit, abort
//!   Ready ----------> InTransaction ------------> Committing, Aborting ---> Ready
//!                          | a record failed            | could not be ended now:
//!                          v                            v the same call again
//!                      Abortable ---- abort ---->   Aborting
//!   any state -- replaced by another producer --> Fatal
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::core::{Core, closed};
use super::identity::Identity;
use crate::error::{Error, ErrorClass, Result};
use crate::group::{GroupMetadata, OffsetCommit};
use crate::transaction::{ProducerIdAndEpoch, TransactionCoordinator};
use crate::types::TopicPartition;

/// The transactions of a producer, one after the other.
#[derive(Debug)]
pub(super) struct Transactions {
    coordinator: Arc<TransactionCoordinator>,
    id: String,
    /// One call at a time begins, ends or adds offsets.
    calls: Mutex<()>,
    /// Whether sends are taken; read without the lock.
    open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Whether the coordinator may know of the transaction, and whether it does.
    asked: bool,
    known: bool,
    /// The partitions that the coordinator knows to be part of it.
    partitions: HashSet<TopicPartition>,
    /// Nobody knows whether some batch is in the log: the next transaction needs another epoch.
    bump: bool,
}

impl State {
    /// No transaction, and nothing left of the last one.
    fn new() -> Self {
        State { phase: Phase::Ready, asked: false, known: false, partitions: HashSet::new(), bump: false }
    }
}

/// Where the producer is with its transactions.
#[derive(Debug, Clone)]
enum Phase {
    Ready,
    InTransaction,
    /// Being committed; if that call is over, it has to be made again.
    Committing,
    Aborting,
    /// Something failed that the transaction cannot be without.
    Abortable(Error),
    /// Another producer has taken its place, or it was closed.
    Fatal(Error),
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Phase::Ready => "no transaction is open",
            Phase::InTransaction => "a transaction is open",
            Phase::Committing => "a commit is under way, or has to be made again",
            Phase::Aborting => "an abort is under way, or has to be made again",
            Phase::Abortable(_) => "the transaction can only be aborted",
            Phase::Fatal(_) => "the producer is of no use any more",
        }
    }
}

impl Transactions {
    pub(super) fn new(coordinator: Arc<TransactionCoordinator>, id: String) -> Self {
        let (open, state) = (AtomicBool::new(false), Mutex::new(State::new()));
        Transactions { coordinator, id, calls: Mutex::default(), open, state }
    }

    /// Whether sends are taken now.
    pub(super) fn check_send(&self) -> Result<()> {
        if self.open.load(Ordering::SeqCst) {
            return Ok(());
        }
        match &self.state.lock().phase {
            Phase::InTransaction => Ok(()),
            Phase::Abortable(error) => Err(self.aborted(error)),
            Phase::Fatal(error) => Err(error.clone()),
            phase => Err(self.refused("send", phase)),
        }
    }

    /// Why no batch is written any more, if none is.
    pub(super) fn refusal(&self) -> Option<Error> {
        match &self.state.lock().phase {
            Phase::Abortable(error) => Some(self.aborted(error)),
            Phase::Fatal(error) => Some(error.clone()),
            Phase::Aborting => {
                let reason = "it was being aborted when the record was not written yet".into();
                Some(Error::TransactionAborted { transactional_id: self.id.clone(), reason })
            }
            _ => None,
        }
    }

    /// Sees to it that the coordinator has these partitions in the transaction before anything is written to them.
    pub(super) fn add_partitions<'a>(
        &self,
        producer: ProducerIdAndEpoch,
        partitions: impl Iterator<Item = &'a TopicPartition>,
    ) -> Result<()> {
        let new: Vec<TopicPartition> = {
            let mut state = self.state.lock();
            let new: Vec<_> = partitions.filter(|id| !state.partitions.contains(*id)).cloned().collect();
            state.asked |= !new.is_empty();
            new
        };
        if !new.is_empty() {
            self.coordinator.add_partitions(&self.id, producer, &new)?;
            let mut state = self.state.lock();
            state.partitions.extend(new);
            state.known = true;
        }
        Ok(())
    }

    /// A batch of the transaction has failed for good; `doubt` if it may be in the log nevertheless. Returns what to
    /// tell who sent it.
    pub(super) fn batch_failed(&self, error: Error, doubt: bool) -> Error {
        let mut state = self.state.lock();
        state.bump |= doubt;
        self.fail(&mut state, error)
    }

    fn fail(&self, state: &mut MutexGuard<'_, State>, error: Error) -> Error {
        let error = self.own_words(error);
        let next = match (&state.phase, is_fenced(&error)) {
            (Phase::Fatal(_), _) => return error,
            (_, true) => Phase::Fatal(error.clone()),
            (Phase::InTransaction | Phase::Committing, false) => Phase::Abortable(error.clone()),
            _ => return error,
        };
        self.open.store(false, Ordering::SeqCst);
        state.phase = next;
        error
    }

    /// What a partition calls fenced, the coordinator calls so, too.
    fn own_words(&self, error: Error) -> Error {
        match error {
            Error::Fenced { what: "producer epoch", found, .. } => {
                let producer_epoch = i16::try_from(found).unwrap_or(i16::MAX);
                Error::ProducerFenced { transactional_id: self.id.clone(), producer_epoch }
            }
            error => error,
        }
    }

    fn aborted(&self, error: &Error) -> Error {
        match error {
            Error::TransactionAborted { .. } => error.clone(),
            error => {
                let reason = error.to_string();
                Error::TransactionAborted { transactional_id: self.id.clone(), reason }
            }
        }
    }

    fn refused(&self, action: &str, phase: &Phase) -> Error {
        let reason = format!("cannot {action}: {}", phase.name());
        Error::TransactionState { transactional_id: self.id.clone(), reason }
    }
}

/// The calls of applications.
impl Transactions {
    pub(super) fn begin(&self) -> Result<()> {
        let _one_at_a_time = self.calls.lock();
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Ready => {}
            Phase::Abortable(error) => return Err(self.aborted(error)),
            Phase::Fatal(error) => return Err(error.clone()),
            phase => return Err(self.refused("begin a transaction", phase)),
        }
        state.phase = Phase::InTransaction;
        self.open.store(true, Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn send_offsets(
        &self,
        core: &Core,
        offsets: &[OffsetCommit],
        member: &GroupMetadata,
    ) -> Result<()> {
        let _one_at_a_time = self.calls.lock();
        match &self.state.lock().phase {
            Phase::InTransaction => {}
            Phase::Abortable(error) => return Err(self.aborted(error)),
            Phase::Fatal(error) => return Err(error.clone()),
            phase => return Err(self.refused("send offsets", phase)),
        }
        if offsets.is_empty() {
            return Ok(());
        }
        let producer = core.producer()?;
        self.state.lock().asked = true;
        let sent = core.persist("sending offsets to the transaction", || {
            self.coordinator.add_offsets(&self.id, producer, &member.group)?;
            self.state.lock().known = true;
            let groups = self.coordinator.groups()?;
            groups.commit_in_transaction(member, producer.id, producer.epoch, offsets)
        });
        sent.map_err(|error| self.fail(&mut self.state.lock(), error))
    }

    pub(super) fn commit(&self, core: &Core) -> Result<()> {
        let _one_at_a_time = self.calls.lock();
        let again = {
            let mut state = self.state.lock();
            match &state.phase {
                Phase::InTransaction | Phase::Committing => {}
                Phase::Abortable(error) => return Err(self.aborted(error)),
                Phase::Fatal(error) => return Err(error.clone()),
                phase => return Err(self.refused("commit", phase)),
            }
            self.open.store(false, Ordering::SeqCst);
            let before = std::mem::replace(&mut state.phase, Phase::Committing);
            matches!(before, Phase::Committing)
        };
        if !again {
            // A send that was let through has its record in a batch then.
            core.wait_for_senders();
            core.flush();
        }
        match &self.state.lock().phase {
            Phase::Abortable(error) => return Err(self.aborted(error)),
            Phase::Fatal(error) => return Err(error.clone()),
            _ => {}
        }
        self.end(core, true)
    }

    pub(super) fn abort(&self, core: &Core) -> Result<()> {
        let _one_at_a_time = self.calls.lock();
        {
            let mut state = self.state.lock();
            match &state.phase {
                Phase::InTransaction | Phase::Aborting | Phase::Abortable(_) => {}
                Phase::Fatal(error) => return Err(error.clone()),
                phase => return Err(self.refused("abort", phase)),
            }
            self.open.store(false, Ordering::SeqCst);
            state.phase = Phase::Aborting;
        }
        // The sender fails what waits.
        core.flush();
        if let Phase::Fatal(error) = &self.state.lock().phase {
            return Err(error.clone());
        }
        self.end(core, false)
    }

    /// Has the coordinator end the transaction, and is ready for the next one.
    fn end(&self, core: &Core, commit: bool) -> Result<()> {
        let producer = core.producer()?;
        let (asked, known, bump) = {
            let state = self.state.lock();
            (state.asked, state.known, state.bump)
        };
        let action = if commit { "committing the transaction" } else { "aborting the transaction" };
        let ended = core.persist(action, || match (asked, bump) {
            // The coordinator aborts what is open before.
            (_, true) => self.coordinator.bump_epoch(&self.id, producer).map(Some),
            (true, false) => self.coordinator.end(&self.id, producer, commit).map(|()| None),
            (false, false) => Ok(None),
        });
        let ended = match ended {
            // It was asked, and then did not even begin one.
            Err(Error::TransactionState { .. }) if !commit && !known => Ok(None),
            ended => ended,
        };
        let mut state = self.state.lock();
        match ended {
            Ok(next) => {
                if let (Some(next), Some(identity)) = (next, &core.identity) {
                    identity.set(next);
                }
                *state = State::new();
                Ok(())
            }
            Err(error) if error.class() == ErrorClass::Retriable => Err(error),
            Err(error) => {
                // Whoever is not replaced, and may not end it, does not know what state it is in.
                state.phase = Phase::Fatal(error.clone());
                Err(error)
            }
        }
    }

    /// What the end of the producer means for an open transaction. A call under way comes to its end before: offsets
    /// that it sent behind the abort would belong to a transaction that nobody ends.
    pub(super) fn abort_at_end(&self, identity: Option<&Identity>) {
        let _one_at_a_time = self.calls.lock();
        let asked = {
            let mut state = self.state.lock();
            self.open.store(false, Ordering::SeqCst);
            match state.phase {
                Phase::Fatal(_) => false,
                _ => {
                    state.phase = Phase::Fatal(closed());
                    state.asked
                }
            }
        };
        if let Some(identity) = identity.filter(|_| asked) {
            // If that fails, its timeout ends it, or the next producer of the id.
            let _ = self.coordinator.end(&self.id, identity.now(), false);
        }
    }
}

/// Whether a producer that gets this error has no future.
pub(super) fn is_fenced(error: &Error) -> bool {
    matches!(
        error,
        Error::Fenced { what: "producer epoch", .. }
            | Error::ProducerFenced { .. }
            | Error::InvalidProducerIdMapping { .. }
    )
}
