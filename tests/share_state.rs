//! What a share group has in flight on a partition, as a state machine: the cases that Kafka pins for its share
//! partitions, and any sequence of calls against a model that keeps a state for each record.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, and offsets here are small"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use annals::format::{DeliveryState, StateBatch};
use annals::share::{Acknowledge, AcquiredRecords, InFlight, Limits, NotAcquired, RecordState, StateUpdate};
use proptest::prelude::*;

const LIMITS: Limits = {
    let mut limits = Limits::new();
    (limits.delivery_count, limits.in_flight) = (3, 20);
    limits
};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn with(records: u64) -> InFlight {
    let mut in_flight = InFlight::new(0, LIMITS);
    in_flight.take_in(0, records - 1);
    in_flight
}

/// The first and the last offset of each range, and how often it was delivered.
fn ranges(acquired: &[AcquiredRecords]) -> Vec<(u64, u64, u16)> {
    let range = |range: &AcquiredRecords| (range.first_offset, range.last_offset, range.delivery_count);
    acquired.iter().map(range).collect()
}

/// The first record that was refused, and its state.
fn told(said: Result<(), NotAcquired>) -> Result<(), (u64, Option<RecordState>)> {
    said.map_err(|refused| (refused.offset, refused.state))
}

fn batch(first_offset: u64, last_offset: u64, state: DeliveryState, delivery_count: u16) -> StateBatch {
    StateBatch { first_offset, last_offset, state, delivery_count }
}

/// The start offset, what changed, and how many are finished.
fn parts(update: &StateUpdate) -> (u64, &[StateBatch], u64) {
    (update.start_offset, &update.batches, update.delivery_complete_count)
}

fn written(in_flight: &mut InFlight) -> StateUpdate {
    let update = in_flight.begin_write().unwrap();
    in_flight.written();
    update
}

#[test]
fn nobody_gets_what_another_has() {
    let mut records = with(10);
    assert_eq!(ranges(&records.acquire(1, 4, secs(0))), [(0, 3, 1)]);
    assert_eq!(ranges(&records.acquire(2, 100, secs(0))), [(4, 9, 1)]);
    assert_eq!(ranges(&records.acquire(3, 100, secs(0))), []);
    assert_eq!((records.count_of(1), records.count_of(2), records.count_of(3)), (4, 6, 0));
}

#[test]
fn what_is_accepted_counts_once_it_is_written() {
    let mut records = with(5);
    records.acquire(1, 5, secs(0));
    records.acknowledge(1, 0, 2, Acknowledge::Accept, secs(1)).unwrap();
    assert_eq!((records.start_offset(), records.state_of(0)), (0, Some(RecordState::Acquired)));
    let update = written(&mut records);
    assert_eq!(parts(&update), (3, &[][..], 0));
    assert_eq!((records.start_offset(), records.unfinished()), (3, 2));
    assert_eq!(records.begin_write(), None, "nothing is left to be written");
}

#[test]
fn what_is_finished_behind_another_is_written_as_such() {
    let mut records = with(10);
    records.acquire(1, 10, secs(0));
    records.acknowledge(1, 3, 5, Acknowledge::Accept, secs(0)).unwrap();
    records.acknowledge(1, 6, 6, Acknowledge::Reject, secs(0)).unwrap();
    records.acknowledge(1, 8, 9, Acknowledge::Release, secs(0)).unwrap();
    let update = written(&mut records);
    let batches = [
        batch(3, 5, DeliveryState::Acknowledged, 1),
        batch(6, 6, DeliveryState::Archived, 1),
        batch(8, 9, DeliveryState::Available, 1),
    ];
    assert_eq!(parts(&update), (0, &batches[..], 4));
    assert_eq!(records.start_offset(), 0);
    // The hole is closed.
    records.acknowledge(1, 0, 2, Acknowledge::Accept, secs(0)).unwrap();
    assert_eq!(written(&mut records).start_offset, 7);
    assert_eq!(records.start_offset(), 7);
}

#[test]
fn a_word_on_some_that_are_not_acquired_changes_none() {
    let mut records = with(10);
    records.acquire(1, 5, secs(0));
    records.acquire(2, 2, secs(0));
    let refused = |offset, state| Err((offset, state));
    let accept = Acknowledge::Accept;
    assert_eq!(told(records.acknowledge(1, 3, 6, accept, secs(0))), refused(5, Some(RecordState::Acquired)));
    assert_eq!(told(records.acknowledge(1, 7, 7, accept, secs(0))), refused(7, Some(RecordState::Available)));
    assert_eq!(told(records.acknowledge(1, 10, 12, accept, secs(0))), refused(10, None));
    assert_eq!(told(records.acknowledge(1, 0, 12, accept, secs(0))), refused(5, Some(RecordState::Acquired)));
    assert_eq!(told(records.acknowledge(1, 4, 3, accept, secs(0))), refused(4, Some(RecordState::Acquired)));
    assert_eq!(records.begin_write(), None);
    // Twice is once too often, before and after it is written.
    records.acknowledge(1, 0, 0, accept, secs(0)).unwrap();
    assert_eq!(told(records.acknowledge(1, 0, 0, accept, secs(0))), refused(0, Some(RecordState::Acquired)));
    written(&mut records);
    assert_eq!(
        told(records.acknowledge(1, 0, 0, accept, secs(0))),
        refused(0, Some(RecordState::Acknowledged))
    );
}

#[test]
fn a_lock_that_runs_out_gives_back() {
    let mut records = with(6);
    records.acquire(1, 3, secs(0));
    records.acquire(2, 3, secs(10));
    assert_eq!(records.next_deadline(), Some(secs(30)));
    assert!(!records.expire(secs(29)));
    assert!(records.expire(secs(30)));
    assert_eq!(records.next_deadline(), Some(secs(40)));
    let late = records.acknowledge(1, 0, 2, Acknowledge::Accept, secs(31));
    assert_eq!(told(late), Err((0, Some(RecordState::Available))));
    assert_eq!(ranges(&records.acquire(3, 10, secs(31))), [(0, 2, 2)]);
    // Its lock, though nobody looked when it ran out.
    let late = records.acknowledge(2, 3, 5, Acknowledge::Accept, secs(40));
    assert_eq!(told(late), Err((3, Some(RecordState::Available))));
    // What was given back by time is written with whatever is written next.
    records.acknowledge(3, 0, 2, Acknowledge::Accept, secs(41)).unwrap();
    assert_eq!(written(&mut records).batches, [batch(3, 5, DeliveryState::Available, 1)]);
}

#[test]
fn a_lock_can_be_renewed_and_does_not_run_out_while_a_word_is_written() {
    let mut records = with(2);
    records.acquire(1, 2, secs(0));
    records.acknowledge(1, 0, 1, Acknowledge::Renew, secs(29)).unwrap();
    assert!(!records.expire(secs(58)));
    records.acknowledge(1, 0, 0, Acknowledge::Accept, secs(58)).unwrap();
    records.begin_write().unwrap();
    assert!(records.expire(secs(59)), "the other one");
    assert_eq!(records.state_of(0), Some(RecordState::Acquired));
    assert_eq!(records.state_of(1), Some(RecordState::Available));
    records.written();
    assert_eq!(records.start_offset(), 1);
}

#[test]
fn a_write_that_fails_changes_nothing_and_locks_go_on() {
    let mut records = with(4);
    records.acquire(1, 4, secs(0));
    records.acknowledge(1, 0, 1, Acknowledge::Accept, secs(1)).unwrap();
    records.acknowledge(1, 2, 2, Acknowledge::Release, secs(1)).unwrap();
    let update = records.begin_write().unwrap();
    assert_eq!(records.begin_write(), None, "one at a time");
    records.not_written();
    assert_eq!(records.count(RecordState::Acquired), 4);
    // Said again, it is written.
    records.acknowledge(1, 0, 1, Acknowledge::Accept, secs(2)).unwrap();
    records.acknowledge(1, 2, 2, Acknowledge::Release, secs(2)).unwrap();
    assert_eq!(written(&mut records), update);
    records.acknowledge(1, 3, 3, Acknowledge::Accept, secs(3)).unwrap();
    records.begin_write().unwrap();
    // The lock has run out by the time at which the write fails.
    records.not_written();
    assert!(records.expire(secs(30)));
    assert_eq!(records.state_of(3), Some(RecordState::Available));
}

#[test]
fn what_is_said_during_a_write_goes_into_the_next() {
    let mut records = with(4);
    records.acquire(1, 4, secs(0));
    records.acknowledge(1, 0, 0, Acknowledge::Accept, secs(0)).unwrap();
    let first = records.begin_write().unwrap();
    records.acknowledge(1, 1, 1, Acknowledge::Accept, secs(0)).unwrap();
    assert_eq!(first.start_offset, 1);
    records.written();
    assert_eq!(records.start_offset(), 1);
    assert_eq!(written(&mut records).start_offset, 2);
}

#[test]
fn a_record_that_is_delivered_too_often_is_archived() {
    let mut records = with(3);
    for (delivery, now) in [(1, 0), (2, 100), (3, 200)] {
        assert_eq!(ranges(&records.acquire(1, 2, secs(now))), [(0, 1, delivery)]);
        match delivery {
            // However it comes back: released, run out, or its consumer died.
            1 => {
                records.acknowledge(1, 0, 1, Acknowledge::Release, secs(now)).unwrap();
                written(&mut records);
            }
            2 => assert!(records.expire(secs(now + 30))),
            _ => records.release_member(1),
        }
    }
    assert_eq!(records.start_offset(), 2, "both are given up");
    assert_eq!(written(&mut records).start_offset, 2);
    assert_eq!(ranges(&records.acquire(1, 2, secs(300))), [(2, 2, 1)]);
}

#[test]
fn a_member_that_dies_gives_back_its_own() {
    let mut records = with(9);
    records.acquire(1, 3, secs(0));
    records.acquire(2, 3, secs(0));
    records.acknowledge(1, 1, 1, Acknowledge::Accept, secs(0)).unwrap();
    written(&mut records);
    records.release_member(1);
    assert_eq!(ranges(&records.acquire(3, 9, secs(1))), [(0, 0, 2), (2, 2, 2), (6, 8, 1)]);
    assert_eq!(records.count_of(2), 3);
}

#[test]
fn only_so_many_are_in_flight_and_finished_ones_do_not_count() {
    let mut records = with(20);
    assert_eq!(records.room(), 0);
    records.acquire(1, 20, secs(0));
    records.acknowledge(1, 1, 19, Acknowledge::Accept, secs(0)).unwrap();
    written(&mut records);
    // The first one takes long. The others have made room, and cost one range.
    assert_eq!((records.start_offset(), records.room()), (0, 19));
    assert_eq!(records.ranges(), 2);
    records.take_in(20, 38);
    assert_eq!(records.room(), 0);
}

#[test]
fn offsets_without_records_are_passed_over() {
    let mut records = InFlight::new(5, LIMITS);
    // 5 to 7 were compacted away, 10 is a marker, and so is 14 at the end.
    records.take_in(8, 9);
    records.take_in(11, 13);
    records.pass_over(14, 14);
    assert_eq!((records.start_offset(), records.end_offset()), (8, 15));
    assert_eq!(ranges(&records.acquire(1, 10, secs(0))), [(8, 9, 1), (11, 13, 1)]);
    records.acknowledge(1, 11, 13, Acknowledge::Accept, secs(0)).unwrap();
    assert_eq!(written(&mut records).delivery_complete_count, 5);
    records.acknowledge(1, 8, 9, Acknowledge::Accept, secs(0)).unwrap();
    assert_eq!(written(&mut records).start_offset, 15);
}

#[test]
fn retention_archives_what_is_available_and_waits_for_what_is_acquired() {
    let mut records = with(10);
    records.acquire(1, 3, secs(0));
    // The log starts at 6 now.
    records.pass_over(0, 5);
    assert_eq!(records.start_offset(), 0, "0 to 2 are being processed");
    assert_eq!(ranges(&records.acquire(2, 10, secs(0))), [(6, 9, 1)]);
    records.acknowledge(1, 0, 2, Acknowledge::Accept, secs(0)).unwrap();
    written(&mut records);
    assert_eq!(records.start_offset(), 6);
    // Beyond everything in flight, but for what is acquired.
    records.pass_over(0, 19);
    assert_eq!((records.start_offset(), records.end_offset()), (6, 20));
    records.release_member(2);
    records.pass_over(6, 19);
    assert_eq!((records.start_offset(), records.end_offset(), records.unfinished()), (20, 20, 0));
}

#[test]
fn a_log_that_was_cut_makes_its_offsets_new() {
    let mut records = with(10);
    records.acquire(1, 10, secs(0));
    records.acknowledge(1, 4, 9, Acknowledge::Accept, secs(0)).unwrap();
    written(&mut records);
    records.forget_from(6);
    assert_eq!((records.end_offset(), records.unfinished()), (6, 4));
    records.take_in(6, 7);
    assert_eq!(ranges(&records.acquire(2, 10, secs(0))), [(6, 7, 1)]);
    // Also if everything that was cut off was finished.
    let mut finished = InFlight::new(8, LIMITS);
    finished.forget_from(3);
    assert_eq!((finished.start_offset(), finished.end_offset()), (3, 3));
    finished.forget_from(3);
    assert_eq!((finished.start_offset(), finished.end_offset()), (3, 3));
}

#[test]
fn what_was_written_is_restored() {
    let batches = [
        batch(0, 4, DeliveryState::Acknowledged, 1),
        batch(7, 8, DeliveryState::Available, 2),
        batch(9, 9, DeliveryState::Archived, 3),
        batch(10, 10, DeliveryState::Available, 3),
    ];
    let mut records = InFlight::restore(3, &batches, LIMITS);
    // Below the start, and next to it, all is finished; what nobody has named was not delivered; and what was delivered
    // as often as may be is given up.
    assert_eq!((records.start_offset(), records.end_offset()), (5, 11));
    assert_eq!(ranges(&records.acquire(1, 10, secs(0))), [(5, 6, 1), (7, 8, 3)]);
    let snapshot = records.snapshot();
    assert_eq!(snapshot.start_offset, 5);
    assert_eq!(snapshot.batches[0], batch(5, 6, DeliveryState::Available, 1));
    let hostile = [batch(i64::MAX as u64, i64::MAX as u64, DeliveryState::Acknowledged, u16::MAX)];
    let mut far = InFlight::restore(0, &hostile, LIMITS);
    assert_eq!((far.room(), far.ranges()), (0, 2));
    assert_eq!(ranges(&far.acquire(1, 1, secs(0))), [(0, 0, 1)]);
}

#[test]
fn deliveries_can_be_counted_first_and_taken_back() {
    let mut records = with(4);
    records.acquire(1, 4, secs(0));
    assert_eq!(records.begin_write(), None, "as in Kafka, what is acquired is not written");
    records.count_deliveries(1, 2);
    let update = written(&mut records);
    assert_eq!(update.batches, [batch(1, 2, DeliveryState::Available, 1)]);
    records.take_back(1, 2, 3);
    records.take_back(2, 0, 3);
    assert_eq!(ranges(&records.acquire(2, 4, secs(0))), [(2, 3, 1)]);
}

#[test]
fn what_is_archived_is_written_as_such() {
    let mut records = with(4);
    records.archive(2, 6);
    assert_eq!((records.end_offset(), records.unfinished()), (7, 2));
    assert_eq!(written(&mut records).batches, [batch(2, 6, DeliveryState::Archived, 0)]);
    records.archive(0, 1);
    assert_eq!((records.start_offset(), written(&mut records).start_offset), (7, 7));
}

#[test]
fn no_number_is_too_large() {
    for (first, last) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0), (5, 4)] {
        let mut records = InFlight::new(3, LIMITS);
        records.take_in(first, last);
        records.acquire(1, u64::MAX, Duration::MAX);
        let _ = records.acknowledge(1, first, last, Acknowledge::Release, Duration::MAX);
        records.acquire_range(1, first, last, secs(0));
        records.begin_write();
        records.written();
        records.pass_over(first, last);
        records.archive(first, last);
        records.count_deliveries(first, last);
        records.take_back(1, first, last);
        records.forget_from(last);
        records.release_member(1);
        records.expire(Duration::MAX);
        let _ = (records.state_of(first), records.delivery_count(last), records.snapshot());
        let hostile = batch(first, last, DeliveryState::Available, u16::MAX);
        let restored = InFlight::restore(first, &[hostile, hostile], LIMITS);
        assert!(restored.end_offset() >= restored.start_offset());
    }
}

/// A state for each record.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Available,
    Acquired { member: u64, until: Duration },
    Settling { member: u64, until: Duration, word: Acknowledge, written: bool },
    Acknowledged,
    Archived,
}

#[derive(Debug, Clone, Default)]
struct Model {
    /// State and delivery count of each offset.
    records: BTreeMap<u64, (State, u16)>,
    /// What a reader of the log of states would know.
    durable: BTreeMap<u64, (DeliveryState, u16)>,
    durable_start: u64,
    /// A write that failed, and may be what the log says last; and which offsets it finishes.
    in_doubt: Option<(StateUpdate, BTreeSet<u64>)>,
}

impl Model {
    fn give_back(&mut self, which: impl Fn(u64, Duration) -> bool) {
        for (state, deliveries) in self.records.values_mut() {
            match *state {
                State::Acquired { member, until } if which(member, until) => {
                    let often = *deliveries >= LIMITS.delivery_count;
                    *state = if often { State::Archived } else { State::Available };
                }
                _ => {}
            }
        }
    }

    fn acquire(&mut self, member: u64, max: u64, now: Duration) -> Vec<(u64, u16)> {
        self.give_back(|_, until| until <= now);
        let until = now + LIMITS.lock_duration;
        let available = self.records.iter_mut().filter(|(_, (state, _))| *state == State::Available);
        let mut acquired = Vec::new();
        for (&offset, (state, deliveries)) in available.take(max as usize) {
            *deliveries += 1;
            *state = State::Acquired { member, until };
            acquired.push((offset, *deliveries));
        }
        acquired
    }

    fn acknowledge(&mut self, member: u64, first: u64, last: u64, word: Acknowledge, now: Duration) -> bool {
        self.give_back(|_, until| until <= now);
        let has = |offset| match self.records.get(&offset) {
            Some((State::Acquired { member: by, .. }, _)) => *by == member,
            _ => false,
        };
        if first > last || !(first..=last).all(has) {
            return false;
        }
        for (_, (state, _)) in self.records.range_mut(first..=last) {
            let State::Acquired { member, until } = *state else { panic!("checked") };
            *state = if word == Acknowledge::Renew {
                State::Acquired { member, until: now + LIMITS.lock_duration }
            } else {
                State::Settling { member, until, word, written: false }
            };
        }
        true
    }

    fn begin_write(&mut self) {
        // Nothing is written behind a write that failed before what is left of that is cut away.
        self.in_doubt = None;
        for (state, _) in self.records.values_mut() {
            if let State::Settling { written, .. } = state {
                *written = true;
            }
        }
    }

    /// How many offsets from the start on are finished once what is being written is.
    fn finished_after(&self, start: u64) -> u64 {
        let finished = |(state, deliveries): &(State, u16)| match state {
            State::Acknowledged | State::Archived => true,
            State::Settling { word, written: true, .. } => {
                *word != Acknowledge::Release || *deliveries >= LIMITS.delivery_count
            }
            _ => false,
        };
        self.records.range(start..).filter(|(_, record)| finished(record)).count() as u64
    }

    fn end_write(&mut self, update: Option<&StateUpdate>) {
        for (state, deliveries) in self.records.values_mut() {
            let State::Settling { member, until, word, written: true } = *state else { continue };
            *state = match (update, word) {
                (None, _) => State::Acquired { member, until },
                (_, Acknowledge::Accept) => State::Acknowledged,
                (_, Acknowledge::Reject) => State::Archived,
                _ if *deliveries >= LIMITS.delivery_count => State::Archived,
                _ => State::Available,
            };
        }
        if let Some(update) = update {
            self.make_durable(update);
        }
    }

    /// The write fails, and all of it may be on disk nevertheless.
    fn fail_write(&mut self, update: StateUpdate) {
        let finishes = |(state, deliveries): &(State, u16)| match state {
            State::Settling { word, written: true, .. } => {
                *word != Acknowledge::Release || *deliveries >= LIMITS.delivery_count
            }
            _ => false,
        };
        let finished = self.records.iter().filter(|(_, record)| finishes(record)).map(|(offset, _)| *offset);
        self.in_doubt = Some((update, finished.collect()));
        self.end_write(None);
    }

    fn make_durable(&mut self, update: &StateUpdate) {
        self.durable_start = self.durable_start.max(update.start_offset);
        for batch in &update.batches {
            for offset in batch.first_offset..=batch.last_offset {
                self.durable.insert(offset, (batch.state, batch.delivery_count));
            }
        }
    }

    fn start(&self, end: u64) -> u64 {
        let done = |state| matches!(state, State::Acknowledged | State::Archived);
        self.records.iter().find(|(_, (state, _))| !done(*state)).map_or(end, |(offset, _)| *offset)
    }

    fn check(&self, real: &InFlight, end: u64) {
        let start = self.start(end);
        assert_eq!((real.start_offset(), real.end_offset()), (start, end));
        let mut unfinished = 0;
        for offset in start..end {
            let (state, deliveries) = self.records[&offset];
            let public = match state {
                State::Available => RecordState::Available,
                State::Acquired { .. } | State::Settling { .. } => RecordState::Acquired,
                State::Acknowledged => RecordState::Acknowledged,
                State::Archived => RecordState::Archived,
            };
            unfinished += u64::from(matches!(public, RecordState::Available | RecordState::Acquired));
            assert_eq!(real.state_of(offset), Some(public), "offset {offset}");
            assert_eq!(real.delivery_count(offset), deliveries, "offset {offset}");
        }
        assert_eq!(real.unfinished(), unfinished);
        let alike: Vec<_> = self.records.range(start..end).map(|(_, record)| *record).collect();
        let runs = alike.chunk_by(|one, next| one == next).count();
        assert_eq!(real.ranges(), runs, "one range for each run of records that are alike");
        // Nothing is written as finished that is not, and nothing that was accepted and written is not.
        for (&offset, (state, _)) in &self.records {
            let finished = matches!(state, State::Acknowledged | State::Archived);
            let written = offset < self.durable_start
                || self.durable.get(&offset).is_some_and(|(state, _)| *state != DeliveryState::Available);
            assert!(finished || !written, "offset {offset} is written as finished, and is {state:?}");
            assert!(*state != State::Acknowledged || written, "offset {offset} was accepted");
        }
    }

    /// What is known after a restart, with what failed or without it.
    fn restore(&mut self, end: &mut u64, with_doubtful: bool) -> InFlight {
        let mut said = BTreeSet::new();
        if let Some((update, finished)) = self.in_doubt.take().filter(|_| with_doubtful) {
            self.make_durable(&update);
            said = finished;
        }
        let mut batches = Vec::new();
        for (&offset, &(state, count)) in self.durable.range(self.durable_start..) {
            batches.push(batch(offset, offset, state, count));
        }
        *end = self.durable.last_key_value().map_or(0, |(last, _)| last + 1).max(self.durable_start);
        let old = std::mem::take(&mut self.records);
        for offset in 0..*end {
            let (state, deliveries) = match self.durable.get(&offset) {
                _ if offset < self.durable_start => (State::Acknowledged, 0),
                Some((DeliveryState::Acknowledged, count)) => (State::Acknowledged, *count),
                Some((DeliveryState::Archived, count)) => (State::Archived, *count),
                Some((DeliveryState::Available, count)) if *count >= LIMITS.delivery_count => {
                    (State::Archived, *count)
                }
                Some((DeliveryState::Available, count)) => (State::Available, *count),
                None => (State::Available, 0),
            };
            // Each unfinished record is delivered again, unless its consumer has said that it need not be.
            let unfinished = !matches!(old[&offset].0, State::Acknowledged | State::Archived);
            let again = state == State::Available || deliveries >= LIMITS.delivery_count;
            assert!(!unfinished || again || said.contains(&offset), "offset {offset}");
            self.records.insert(offset, (state, deliveries));
        }
        // What is finished to begin with needs nobody's word.
        self.durable.iter_mut().for_each(|(offset, durable)| {
            if self.records[offset].0 == State::Archived {
                durable.0 = DeliveryState::Archived;
            }
        });
        InFlight::restore(self.durable_start, &batches, LIMITS)
    }
}

#[derive(Debug, Clone)]
enum Step {
    TakeIn { gap: u64, count: u64 },
    PassOver { first: u64, count: u64 },
    Acquire { member: u64, max: u64 },
    AcquireRange { member: u64, first: u64, count: u64 },
    Acknowledge { member: u64, first: u64, count: u64, word: Acknowledge },
    Release { member: u64 },
    Time { seconds: u64 },
    BeginWrite,
    EndWrite { written: bool },
    Restart { with_doubtful: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    let member = || 0u64..3;
    let words = vec![
        Acknowledge::Accept,
        Acknowledge::Accept,
        Acknowledge::Release,
        Acknowledge::Reject,
        Acknowledge::Renew,
    ];
    prop_oneof![
        3 => (0u64..3, 1u64..8).prop_map(|(gap, count)| Step::TakeIn { gap, count }),
        1 => (0u64..50, 1u64..6).prop_map(|(first, count)| Step::PassOver { first, count }),
        5 => (member(), 1u64..8).prop_map(|(member, max)| Step::Acquire { member, max }),
        1 => (member(), 0u64..50, 1u64..6)
            .prop_map(|(member, first, count)| Step::AcquireRange { member, first, count }),
        9 => (member(), 0u64..40, 1u64..5, prop::sample::select(words))
            .prop_map(|(member, first, count, word)| Step::Acknowledge { member, first, count, word }),
        1 => member().prop_map(|member| Step::Release { member }),
        2 => (1u64..20).prop_map(|seconds| Step::Time { seconds }),
        4 => Just(Step::BeginWrite),
        4 => any::<bool>().prop_map(|written| Step::EndWrite { written }),
        1 => any::<bool>().prop_map(|with_doubtful| Step::Restart { with_doubtful }),
    ]
}

fn offsets(acquired: &[AcquiredRecords]) -> Vec<(u64, u16)> {
    let each = |range: &AcquiredRecords| {
        let count = range.delivery_count;
        (range.first_offset..=range.last_offset).map(move |offset| (offset, count))
    };
    acquired.iter().flat_map(each).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn it_does_what_a_state_for_each_record_would(steps in prop::collection::vec(any_step(), 1..120)) {
        let (mut real, mut model) = (InFlight::new(0, LIMITS), Model::default());
        let (mut now, mut end, mut writing) = (secs(0), 0, None);
        for step in steps {
            match step {
                Step::TakeIn { gap, count } => {
                    for offset in end..end + gap {
                        model.records.insert(offset, (State::Archived, 0));
                    }
                    real.take_in(end + gap, end + gap + count - 1);
                    for offset in end + gap..end + gap + count {
                        model.records.insert(offset, (State::Available, 0));
                    }
                    end += gap + count;
                }
                Step::PassOver { first, count } => {
                    real.pass_over(first, first + count - 1);
                    for offset in end..first + count {
                        model.records.insert(offset, (State::Archived, 0));
                    }
                    for (_, (state, _)) in model.records.range_mut(first..first + count) {
                        if *state == State::Available {
                            *state = State::Archived;
                        }
                    }
                    end = end.max(first + count);
                }
                Step::Acquire { member, max } => {
                    let acquired = real.acquire(member, max, now);
                    prop_assert_eq!(offsets(&acquired), model.acquire(member, max, now));
                }
                Step::AcquireRange { member, first, count } => {
                    let acquired = real.acquire_range(member, first, first + count - 1, now);
                    let mut part = Model { records: model.records.clone(), ..Model::default() };
                    part.give_back(|_, until| until <= now);
                    model.records = part.records.clone();
                    part.records.retain(|offset, _| (first..first + count).contains(offset));
                    prop_assert_eq!(offsets(&acquired), part.acquire(member, count, now));
                    model.records.extend(part.records);
                }
                Step::Acknowledge { member, first, count, word } => {
                    // Near the start, where something is in flight.
                    let first = real.start_offset() + first;
                    let taken = real.acknowledge(member, first, first + count - 1, word, now).is_ok();
                    prop_assert_eq!(taken, model.acknowledge(member, first, first + count - 1, word, now));
                }
                Step::Release { member } => {
                    real.release_member(member);
                    model.give_back(|by, _| by == member);
                }
                Step::Time { seconds } => {
                    now += secs(seconds);
                    real.expire(now);
                    model.give_back(|_, until| until <= now);
                }
                Step::BeginWrite if writing.is_none() => {
                    writing = real.begin_write();
                    if let Some(update) = &writing {
                        model.begin_write();
                        let finished = model.finished_after(update.start_offset);
                        prop_assert_eq!(update.delivery_complete_count, finished);
                    } else {
                        let settling = |(state, _): &(State, u16)| matches!(state, State::Settling { .. });
                        prop_assert!(!model.records.values().any(settling), "something is to be written");
                    }
                }
                Step::EndWrite { written } => {
                    let Some(update) = writing.take() else { continue };
                    if written {
                        real.written();
                        model.end_write(Some(&update));
                    } else {
                        real.not_written();
                        model.fail_write(update);
                    }
                    real.expire(now);
                    model.give_back(|_, until| until <= now);
                }
                Step::Restart { with_doubtful } => {
                    if let Some(update) = writing.take() {
                        model.fail_write(update);
                    }
                    real = model.restore(&mut end, with_doubtful);
                }
                Step::BeginWrite => {}
            }
            model.check(&real, end);
        }
    }
}
