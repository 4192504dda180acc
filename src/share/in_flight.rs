//! [`InFlight`]: which records of a partition a share group has delivered, to whom, and what became of them. A pure
//! state machine: no I/O, no lock, and time is passed in.
//!
//! ```text
//!               acquire                     accept
//!   Available ----------> Acquired -----------------------> Acknowledged
//!       ^                    |  |            reject
//!       |  release, lock     |  +-------------------------> Archived
//!       |  ran out           |                                 ^
//!       +--------------------+---------------------------------+
//!            below the delivery limit        at the limit
//! ```
//!
//! Records from the start offset to the end offset are in flight; those below are finished, those behind have not been
//! seen. States are kept as ranges, so what is finished beyond the start offset costs a range for each run of
//! records that ended alike, not one for each record; [`InFlight::room`] bounds how many there can be.

use std::time::Duration;

use super::spans::{Span, Spans};
use super::words::{Acknowledge, AcquiredRecords, Change, Limits, NotAcquired, RecordState, StateUpdate};
use crate::format::{DeliveryState, StateBatch};
use crate::types::OFFSET_MAX;

/// A delivery count as the log of states can hold it.
const DELIVERIES_MAX: u16 = i16::MAX as u16;

/// In more ranges than these, no more is taken in before the first records are finished: with two for each record in
/// flight, of which there are 10,000 at most, they still fit into one record of the log of states.
const RANGES_MAX: usize = 16_000;

/// The records of one partition that a share group has in flight.
///
/// ```
/// use std::time::Duration;
/// use annals::share::{Acknowledge, InFlight, Limits, RecordState};
///
/// let mut records = InFlight::new(0, Limits::new());
/// records.take_in(0, 9); // ten records were read
/// let now = Duration::ZERO;
/// let acquired = records.acquire(7, 4, now);
/// assert_eq!((acquired[0].first_offset, acquired[0].last_offset), (0, 3));
///
/// // Member 7 has processed two of them. That counts once it is written down.
/// records.acknowledge(7, 0, 1, Acknowledge::Accept, now).unwrap();
/// let update = records.begin_write().unwrap();
/// assert_eq!(update.start_offset, 2);
/// records.written();
/// assert_eq!(records.start_offset(), 2);
///
/// // It dies: the others come again.
/// records.release_member(7);
/// assert_eq!(records.state_of(2), Some(RecordState::Available));
/// assert_eq!(records.acquire(8, 1, now)[0].delivery_count, 2);
/// ```
#[derive(Debug, Clone)]
pub struct InFlight {
    limits: Limits,
    /// Everything below it is finished.
    start: u64,
    /// Everything from it on has not been seen.
    end: u64,
    /// The states of all offsets from `start` to `end`.
    states: Spans<State>,
    unfinished: u64,
    /// Nothing below it is available.
    available_from: u64,
    /// No lock runs out before.
    deadline: Option<Duration>,
    /// Offsets whose state is not the one that is written down.
    unwritten: Spans<()>,
    /// Offsets that were acknowledged since the last write began.
    settling: Spans<()>,
    /// Whether the start offset has passed such offsets.
    start_unwritten: bool,
    writing: Option<Writing>,
    /// What is acknowledged now goes into the write with this number.
    next_write: u64,
    changes: Option<Vec<Change>>,
    /// Whether anything became available that was acquired.
    given_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Available {
        deliveries: u16,
    },
    Acquired(Lock),
    /// Acknowledged, and being written down. No lock runs out on it meanwhile.
    Settling {
        lock: Lock,
        outcome: Outcome,
        write: u64,
    },
    Done {
        accepted: bool,
        deliveries: u16,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lock {
    member: u64,
    deliveries: u16,
    until: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Released,
    Rejected,
}

/// What a write under way has taken of what was unwritten.
#[derive(Debug, Clone)]
struct Writing {
    number: u64,
    ranges: Spans<()>,
    start: bool,
}

impl State {
    fn public(self) -> RecordState {
        match self {
            State::Available { .. } => RecordState::Available,
            State::Acquired(_) | State::Settling { .. } => RecordState::Acquired,
            State::Done { accepted: true, .. } => RecordState::Acknowledged,
            State::Done { accepted: false, .. } => RecordState::Archived,
        }
    }

    fn deliveries(self) -> u16 {
        match self {
            State::Available { deliveries } | State::Done { deliveries, .. } => deliveries,
            State::Acquired(lock) | State::Settling { lock, .. } => lock.deliveries,
        }
    }

    fn is_done(self) -> bool {
        matches!(self, State::Done { .. })
    }
}

impl Limits {
    /// What becomes of a record that was delivered so often, and not accepted.
    fn given_back(&self, deliveries: u16) -> State {
        if deliveries >= self.delivery_count {
            State::Done { accepted: false, deliveries }
        } else {
            State::Available { deliveries }
        }
    }

    fn settled(&self, outcome: Outcome, deliveries: u16) -> State {
        match outcome {
            Outcome::Accepted => State::Done { accepted: true, deliveries },
            Outcome::Rejected => State::Done { accepted: false, deliveries },
            Outcome::Released => self.given_back(deliveries),
        }
    }
}

impl InFlight {
    /// Nothing in flight: delivery begins at `start_offset`.
    pub fn new(start_offset: u64, limits: Limits) -> Self {
        InFlight {
            limits,
            start: start_offset,
            end: start_offset,
            states: Spans::default(),
            unfinished: 0,
            available_from: start_offset,
            deadline: None,
            unwritten: Spans::default(),
            settling: Spans::default(),
            start_unwritten: false,
            writing: None,
            next_write: 0,
            changes: None,
            given_back: false,
        }
    }

    /// What was in flight, as it was written down. Batches below the start offset are passed over.
    pub fn restore(start_offset: u64, batches: &[StateBatch], limits: Limits) -> Self {
        let mut restored = InFlight::new(start_offset, limits);
        for batch in batches.iter().filter(|batch| batch.last_offset >= start_offset) {
            let (first, last) = (batch.first_offset.max(start_offset), batch.last_offset.min(OFFSET_MAX));
            if first > last {
                continue;
            }
            if first > restored.end {
                restored.take_in(restored.end, first - 1);
            }
            restored.end = restored.end.max(last + 1);
            let deliveries = batch.delivery_count.min(DELIVERIES_MAX);
            let state = match batch.state {
                DeliveryState::Available => limits.given_back(deliveries),
                DeliveryState::Acknowledged => State::Done { accepted: true, deliveries },
                DeliveryState::Archived => State::Done { accepted: false, deliveries },
            };
            restored.put(first, last, state);
        }
        restored.advance();
        restored
    }

    /// Everything below it is finished (Kafka's share-partition start offset, SPSO).
    pub fn start_offset(&self) -> u64 {
        self.start
    }

    /// Records from it on have not been taken in.
    pub fn end_offset(&self) -> u64 {
        self.end
    }

    /// How many records are not finished.
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// How many more records may be taken in: fewer than the limit by those that are not finished, and none while the
    /// states of the finished ones lie in too many ranges.
    pub fn room(&self) -> u64 {
        if self.states.len() > RANGES_MAX {
            return 0;
        }
        self.limits.in_flight.saturating_sub(self.unfinished)
    }

    /// In how many ranges the states are kept, which is what they take of memory.
    pub fn ranges(&self) -> usize {
        self.states.len()
    }

    /// The state of a record; `None` from the end offset on. Below the start offset it is not known how each was
    /// finished, and all count as acknowledged.
    pub fn state_of(&self, offset: u64) -> Option<RecordState> {
        if offset < self.start {
            return Some(RecordState::Acknowledged);
        }
        self.states.at(offset).map(|span| span.value.public())
    }

    /// How often a record in flight was delivered.
    pub fn delivery_count(&self, offset: u64) -> u16 {
        self.states.at(offset).map_or(0, |span| span.value.deliveries())
    }

    /// How many records are in a state.
    pub fn count(&self, state: RecordState) -> u64 {
        let counted = self.states.iter().filter(|span| span.value.public() == state);
        counted.map(|span| span.len()).sum()
    }

    /// How many records a member has.
    pub fn count_of(&self, member: u64) -> u64 {
        let has = |span: &Span<State>| match span.value {
            State::Acquired(lock) | State::Settling { lock, .. } => lock.member == member,
            _ => false,
        };
        self.states.iter().filter(has).map(|span| span.len()).sum()
    }

    /// Whether a member has any of some records, and has not acknowledged it.
    pub(super) fn is_held(&self, member: u64, first: u64, last: u64) -> bool {
        let held = |span: &Span<State>| matches!(span.value, State::Acquired(lock) if lock.member == member);
        self.states.within(first, last).iter().any(held)
    }

    /// When the next lock may run out.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Takes in records with consecutive offsets, read behind the end offset; what lies between is not there. It is
    /// up to the caller to keep to [`room`](Self::room).
    pub fn take_in(&mut self, first: u64, last: u64) {
        let last = last.min(OFFSET_MAX);
        if first > self.end {
            self.pass_over(self.end, first - 1);
        }
        let first = first.max(self.end);
        if first <= last {
            self.end = last + 1;
            self.put(first, last, State::Available { deliveries: 0 });
        }
    }

    /// Says that offsets are not there: between records, or of control records, aborted transactions, and what was
    /// deleted. Those that are acquired stay so.
    pub fn pass_over(&mut self, first: u64, last: u64) {
        let (first, last) = (first.max(self.start), last.min(OFFSET_MAX));
        if first > last {
            return;
        }
        if first > self.end {
            self.pass_over(self.end, first - 1);
        }
        let first = first.max(self.start);
        let not_there = |span: Span<State>| match span.value {
            State::Available { deliveries } => Some(State::Done { accepted: false, deliveries }),
            _ => None,
        };
        self.change(first, last.min(self.end.saturating_sub(1)), not_there);
        if last >= self.end {
            let unseen = self.end;
            self.end = last + 1;
            self.put(unseen, last, State::Done { accepted: false, deliveries: 0 });
        }
        self.advance();
    }

    /// Gives up records that cannot be delivered, and has that written down. Those that are acquired stay so.
    pub fn archive(&mut self, first: u64, last: u64) {
        let (first, last) = (first.max(self.start), last.min(OFFSET_MAX));
        if first <= last {
            self.unwritten.set(first, last, ());
            self.pass_over(first, last);
        }
    }

    /// Forgets everything from an offset on, since the log has been cut there: what comes at those offsets is new.
    pub fn forget_from(&mut self, offset: u64) {
        let Some(last) = self.end.checked_sub(1).filter(|last| *last >= offset) else { return };
        for span in self.states.within(offset, last) {
            if !span.value.is_done() {
                self.unfinished -= span.len();
                self.note(span.first, span.last, State::Done { accepted: false, deliveries: 0 });
            }
        }
        self.states.clear(offset, last);
        self.unwritten.clear(offset, last);
        self.settling.clear(offset, last);
        if let Some(writing) = &mut self.writing {
            writing.ranges.clear(offset, last);
        }
        self.end = offset;
        self.start = self.start.min(offset);
        self.available_from = self.available_from.min(offset);
    }

    /// The available records from an offset on, in order: the first and the last of some with consecutive offsets.
    pub fn next_available(&mut self, from: u64) -> Option<(u64, u64)> {
        let from = from.max(self.available_from);
        let available = |span: &Span<State>| matches!(span.value, State::Available { .. });
        let found = self.states.from(from).find(available);
        if from == self.available_from {
            self.available_from = found.map_or(self.end, |span| span.first);
        }
        found.map(|span| (span.first, span.last))
    }

    /// Gives a member up to `max` available records, those with the lowest offsets.
    pub fn acquire(&mut self, member: u64, max: u64, now: Duration) -> Vec<AcquiredRecords> {
        self.expire(now);
        let (mut acquired, mut left, mut from) = (Vec::new(), max, self.start);
        while left > 0 {
            let Some((first, last)) = self.next_available(from) else { break };
            let last = last.min(first.saturating_add(left - 1));
            acquired.extend(self.acquire_range(member, first, last, now));
            left -= last - first + 1;
            from = last + 1;
        }
        acquired
    }

    /// Gives a member the available ones of some records with consecutive offsets.
    pub fn acquire_range(
        &mut self,
        member: u64,
        first: u64,
        last: u64,
        now: Duration,
    ) -> Vec<AcquiredRecords> {
        self.expire(now);
        let until = now.saturating_add(self.limits.lock_duration);
        let mut acquired = Vec::new();
        self.change(first, last, |span| {
            let State::Available { deliveries } = span.value else { return None };
            let deliveries = deliveries.saturating_add(1).min(DELIVERIES_MAX);
            let (first_offset, last_offset) = (span.first, span.last);
            acquired.push(AcquiredRecords { first_offset, last_offset, delivery_count: deliveries });
            Some(State::Acquired(Lock { member, deliveries, until }))
        });
        if !acquired.is_empty() {
            self.note_deadline(until);
        }
        acquired
    }

    /// Takes a member's word on records with consecutive offsets: on all of them or, if it has not acquired one, on
    /// none. But for [`Acknowledge::Renew`], it counts once it is [written](Self::written).
    ///
    /// # Errors
    /// [`NotAcquired`]: the lock of a record ran out, or it was acknowledged before.
    pub fn acknowledge(
        &mut self,
        member: u64,
        first: u64,
        last: u64,
        word: Acknowledge,
        now: Duration,
    ) -> Result<(), NotAcquired> {
        self.expire(now);
        self.check_acquired(member, first, last)?;
        let until = now.saturating_add(self.limits.lock_duration);
        let outcome = match word {
            Acknowledge::Accept => Outcome::Accepted,
            Acknowledge::Release => Outcome::Released,
            Acknowledge::Reject => Outcome::Rejected,
            Acknowledge::Renew => {
                self.change_locks(first, last, |lock| State::Acquired(Lock { until, ..lock }));
                self.note_deadline(until);
                return Ok(());
            }
        };
        let write = self.next_write;
        self.change_locks(first, last, |lock| State::Settling { lock, outcome, write });
        self.settling.set(first, last, ());
        Ok(())
    }

    /// Has the delivery counts of acquired records written down with what is written next, so that they are known even
    /// if this process does not live on.
    pub fn count_deliveries(&mut self, first: u64, last: u64) {
        let first = first.max(self.start);
        for span in self.states.within(first, last) {
            if matches!(span.value, State::Acquired(_)) {
                self.unwritten.set(span.first, span.last, ());
            }
        }
    }

    /// Takes back records that a member has acquired and was not given: as if they had not been delivered.
    pub fn take_back(&mut self, member: u64, first: u64, last: u64) {
        self.change(first, last, |span| match span.value {
            State::Acquired(lock) if lock.member == member => {
                Some(State::Available { deliveries: lock.deliveries.saturating_sub(1) })
            }
            _ => None,
        });
    }

    /// Takes back everything that a member has acquired, at once.
    pub fn release_member(&mut self, member: u64) {
        self.give_back(|lock| lock.member == member);
    }

    /// Takes back what has been acquired for too long. Returns whether anything was.
    pub fn expire(&mut self, now: Duration) -> bool {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return false;
        }
        let any = self.give_back(|lock| lock.until <= now);
        let locks = self.states.iter().filter_map(|span| match span.value {
            State::Acquired(lock) => Some(lock.until),
            _ => None,
        });
        self.deadline = locks.min();
        any
    }

    /// Begins to write down everything that was acknowledged, or otherwise changed. `None` if nothing was. One write is
    /// under way at a time: it ends with [`written`](Self::written) or with [`not_written`](Self::not_written).
    pub fn begin_write(&mut self) -> Option<StateUpdate> {
        if self.writing.is_some() {
            return None;
        }
        let number = self.next_write;
        let mut ranges = std::mem::take(&mut self.unwritten);
        self.settling.iter().for_each(|span| ranges.set(span.first, span.last, ()));
        self.settling = Spans::default();
        let start = std::mem::take(&mut self.start_unwritten);
        if ranges.is_empty() && !start {
            return None;
        }
        self.next_write += 1;
        let update = self.update(number, &ranges);
        self.writing = Some(Writing { number, ranges, start });
        Some(update)
    }

    /// Everything that is known, as it would be written down.
    pub fn snapshot(&self) -> StateUpdate {
        let mut all = Spans::default();
        if let Some(last) = self.end.checked_sub(1).filter(|last| *last >= self.start) {
            all.set(self.start, last, ());
        }
        // The write with this number has not begun: nothing counts as acknowledged that is not written.
        self.update(u64::MAX, &all)
    }

    /// The write that was begun is durable: what it holds counts.
    pub fn written(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        let limits = self.limits;
        self.settle(&writing, |lock, outcome| limits.settled(outcome, lock.deliveries));
        self.advance();
    }

    /// The write that was begun has failed: what was acknowledged is acquired as before, each lock with the time that
    /// it had. It may be what a restart finds, if that is the last that was written; but the next write must not come
    /// behind it, since start offsets do not go back: what is left of it has to be cut away before.
    pub fn not_written(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        self.start_unwritten |= writing.start;
        self.settle(&writing, |lock, _| State::Acquired(lock));
        for span in writing.ranges.from(self.start) {
            self.unwritten.set(span.first, span.last, ());
        }
        // A lock may have run out meanwhile.
        self.note_deadline(Duration::ZERO);
    }

    /// Keeps track from now on of what becomes of offsets, for [`take_changes`](Self::take_changes).
    pub(super) fn track_changes(&mut self) {
        self.changes = Some(Vec::new());
    }

    /// What became of offsets since the last time.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether anything became available that was acquired, since the last time.
    pub(super) fn take_given_back(&mut self) -> bool {
        std::mem::take(&mut self.given_back)
    }

    /// Whether there is anything to write down.
    pub(super) fn is_unwritten(&self) -> bool {
        !self.unwritten.is_empty() || self.start_unwritten
    }

    fn check_acquired(&self, member: u64, first: u64, last: u64) -> Result<(), NotAcquired> {
        let refused = |offset| Err(NotAcquired { offset, state: self.state_of(offset) });
        if first < self.start || last < first {
            return refused(first);
        }
        let mut next = first;
        for span in self.states.within(first, last) {
            match span.value {
                State::Acquired(lock) if lock.member == member => next = span.last + 1,
                _ => return refused(span.first),
            }
        }
        if next <= last { refused(next) } else { Ok(()) }
    }

    fn change_locks(&mut self, first: u64, last: u64, to: impl Fn(Lock) -> State) {
        self.change(first, last, |span| match span.value {
            State::Acquired(lock) => Some(to(lock)),
            _ => None,
        });
    }

    /// Gives back what is acquired under some locks.
    fn give_back(&mut self, which: impl Fn(Lock) -> bool) -> bool {
        let limits = self.limits;
        let mut given = Vec::new();
        if let Some(last) = self.end.checked_sub(1) {
            self.change(self.start, last, |span| match span.value {
                State::Acquired(lock) if which(lock) => {
                    given.push((span.first, span.last));
                    Some(limits.given_back(lock.deliveries))
                }
                _ => None,
            });
        }
        given.iter().for_each(|&(first, last)| self.unwritten.set(first, last, ()));
        self.advance();
        !given.is_empty()
    }

    /// Ends the settling of what a write holds.
    fn settle(&mut self, writing: &Writing, to: impl Fn(Lock, Outcome) -> State) {
        for range in writing.ranges.from(self.start) {
            self.change(range.first, range.last, |span| match span.value {
                State::Settling { lock, outcome, write } if write == writing.number => {
                    Some(to(lock, outcome))
                }
                _ => None,
            });
        }
    }

    /// What a write of these ranges says.
    fn update(&self, number: u64, ranges: &Spans<()>) -> StateUpdate {
        let after = |state: State| match state {
            State::Settling { lock, outcome, write } if write == number => {
                self.limits.settled(outcome, lock.deliveries)
            }
            other => other,
        };
        let first = self.states.iter().find(|span| !after(span.value).is_done());
        let start_offset = first.map_or(self.end, |span| span.first);
        let mut unfinished = self.unfinished;
        for range in ranges.iter() {
            let settled = self.states.within(range.first, range.last).into_iter();
            let settled = settled.filter(|span| !span.value.is_done() && after(span.value).is_done());
            unfinished -= settled.map(|span| span.len()).sum::<u64>();
        }
        // All offsets in flight have a state.
        let delivery_complete_count = (self.end - start_offset).saturating_sub(unfinished);
        let mut batches: Vec<StateBatch> = Vec::new();
        for range in ranges.from(start_offset) {
            for span in self.states.within(range.first, range.last) {
                push_batch(&mut batches, span.first, span.last, after(span.value));
            }
        }
        StateUpdate { start_offset, batches, delivery_complete_count }
    }

    /// Moves the start offset behind what is finished.
    fn advance(&mut self) {
        let unfinished = self.states.iter().find(|span| !span.value.is_done());
        let start = unfinished.map_or(self.end, |span| span.first);
        if start == self.start {
            return;
        }
        if self.unwritten.iter().next().is_some_and(|span| span.first < start) {
            self.start_unwritten = true;
            self.unwritten.clear_below(start);
        }
        self.states.clear_below(start);
        self.start = start;
        self.available_from = self.available_from.max(start);
    }

    /// Sets the state of offsets that had none.
    fn put(&mut self, first: u64, last: u64, state: State) {
        let before = self.states.within(first, last);
        let undone: u64 = before.iter().filter(|span| !span.value.is_done()).map(Span::len).sum();
        self.unfinished -= undone;
        self.states.set(first, last, state);
        self.note(first, last, state);
        if !state.is_done() {
            self.unfinished += last - first + 1;
        }
    }

    /// Gives offsets another state where the function says so.
    fn change(&mut self, first: u64, last: u64, mut to: impl FnMut(Span<State>) -> Option<State>) {
        if first > last {
            return;
        }
        for span in self.states.within(first, last) {
            let Some(state) = to(span) else { continue };
            match (span.value.is_done(), state.is_done()) {
                (false, true) => self.unfinished -= span.len(),
                (true, false) => self.unfinished += span.len(),
                _ => {}
            }
            self.given_back |= matches!(state, State::Available { .. });
            self.states.set(span.first, span.last, state);
            self.note(span.first, span.last, state);
        }
    }

    /// Notes what follows from a state.
    fn note(&mut self, first: u64, last: u64, state: State) {
        if matches!(state, State::Available { .. }) {
            self.available_from = self.available_from.min(first);
        }
        let Some(changes) = &mut self.changes else { return };
        match state {
            State::Available { .. } => changes.push(Change::Available { first, last }),
            State::Done { .. } => changes.push(Change::Finished { first, last }),
            _ => {}
        }
    }

    fn note_deadline(&mut self, until: Duration) {
        self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.min(until)));
    }
}

/// Adds a state to be written. What is acquired is written as available: delivered so often, and not finished.
fn push_batch(batches: &mut Vec<StateBatch>, first_offset: u64, last_offset: u64, state: State) {
    let delivery_count = state.deliveries();
    let state = match state {
        State::Done { accepted: true, .. } => DeliveryState::Acknowledged,
        State::Done { accepted: false, .. } => DeliveryState::Archived,
        State::Available { .. } | State::Acquired(_) | State::Settling { .. } => DeliveryState::Available,
    };
    if let Some(before) = batches.last_mut() {
        let alike = before.state == state && before.delivery_count == delivery_count;
        if alike && before.last_offset + 1 == first_offset {
            before.last_offset = last_offset;
            return;
        }
    }
    batches.push(StateBatch { first_offset, last_offset, state, delivery_count });
}
