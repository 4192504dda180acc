//! [`SharePartition`]: a share group's hold on one partition: what is in flight, and the records themselves.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::in_flight::InFlight;
use super::journal::{Journal, Progress, Source};
use super::queue::{Next, Priority, Queue};
use super::record::ShareRecord;
use super::words::{Acknowledge, AcquiredRecords, Limits, NotAcquired, RecordState, StateUpdate};
use crate::error::{Error, Result};
use crate::format::{ShareStateKey, StoredRecord};
use crate::partition::{Isolation, Partition, Records};
use crate::types::TopicPartition;

/// Records that are finished are read over, rather than looked up behind, if they are no more than these.
const READ_OVER: u64 = 1_000;

/// A share group's hold on one partition.
pub(super) struct SharePartition {
    key: ShareStateKey,
    log: Partition,
    journal: Arc<Journal>,
    isolation: Isolation,
    inner: Mutex<Inner>,
}

struct Inner {
    in_flight: InFlight,
    /// Reads what has not been taken in.
    tail: Option<Records>,
    /// What is read ahead, if the group delivers by priority.
    queue: Option<Queue>,
    /// Up to where that has been read.
    read_to: u64,
    /// Damage that was met: the first offset that cannot be read, and where reading can go on.
    damage: Option<(u64, u64)>,
    /// Whether something was deleted while it was to be read, so that another look is needed.
    moved: bool,
    /// Whether others that wait should look again.
    news: bool,
    /// Whether the log was cut below what is written down.
    cut: bool,
}

impl Inner {
    /// Whether nothing more is read until something is finished.
    fn is_full(&self) -> bool {
        self.in_flight.room() == 0 || self.queue.as_ref().is_some_and(|queue| !queue.has_room())
    }

    /// Tells the queue what became of records.
    fn follow_changes(&mut self, now: Duration) {
        if let Some(queue) = &mut self.queue {
            queue.follow(self.in_flight.take_changes(), &self.in_flight, now);
        }
    }

    /// What was deleted meanwhile is no error: the next look passes over it.
    fn forgive(&mut self, read: Result<()>) -> Result<()> {
        match read {
            Err(Error::OffsetOutOfRange { .. }) => {
                (self.moved, self.damage) = (true, None);
                Ok(())
            }
            other => other,
        }
    }
}

/// How much a poll may still take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// What has to happen before there may be more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wait {
    /// The log reaches beyond this offset.
    pub(super) beyond: Option<u64>,
    /// This much time has passed: a lock runs out.
    pub(super) deadline: Option<Duration>,
}

/// Figures for a description.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) start: u64,
    pub(super) available: u64,
    pub(super) acquired: u64,
    pub(super) finished_beyond: u64,
}

impl Budget {
    pub(super) fn is_left(&self) -> bool {
        self.records > 0 && self.bytes > 0
    }

    pub(super) fn take(&mut self, record: &StoredRecord) {
        self.records -= 1;
        self.bytes = self.bytes.saturating_sub(record.size());
    }
}

impl SharePartition {
    /// A hold on a partition at the place that is written down, which is `progress`.
    pub(super) fn open(
        (key, log, journal): (ShareStateKey, Partition, Arc<Journal>),
        (start, progress): (u64, &Progress),
        (isolation, limits): (Isolation, Limits),
        priority: Option<Priority>,
    ) -> Result<SharePartition> {
        let mut in_flight = InFlight::restore(start, &progress.batches, limits);
        if priority.is_some() {
            in_flight.track_changes();
        }
        let (read_to, queue) = (in_flight.start_offset(), priority.map(Queue::new));
        let (tail, damage, moved, news, cut) = (None, None, false, false, false);
        let inner = Inner { in_flight, tail, queue, read_to, damage, moved, news, cut };
        let opened = SharePartition { key, log, journal, isolation, inner: Mutex::new(inner) };
        opened.follow_cut()?;
        Ok(opened)
    }

    pub(super) fn id(&self) -> &TopicPartition {
        self.log.id()
    }

    pub(super) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    pub(super) fn log(&self) -> &Partition {
        &self.log
    }

    /// Gives a member available records, those with the lowest offsets, and adds them to `out`.
    pub(super) fn acquire(
        &self,
        member: u64,
        now: Duration,
        budget: &mut Budget,
        out: &mut Vec<ShareRecord>,
    ) -> Result<Wait> {
        self.follow_cut()?;
        // Before anything is read: what is appended later moves it.
        let bound = self.bound();
        let inner = &mut *self.inner.lock();
        inner.in_flight.expire(now);
        self.follow_start(inner);
        let mut taken = Vec::new();
        let read = self.read_again(inner, budget, &mut taken);
        let read = read.and_then(|()| self.read_on(inner, budget, &mut taken));
        let read = inner.forgive(read);
        let any = !taken.is_empty();
        hand_out(&mut inner.in_flight, member, now, taken, |record, delivery_count| {
            out.push(ShareRecord::new(self.id().clone(), record, delivery_count));
        });
        match read {
            // It comes again with the next call, which finds nothing before it.
            Err(_) if any => {}
            read => read?,
        }
        Ok(self.wait(inner, bound))
    }

    /// The record that is to go next by priority, if any is available.
    pub(super) fn next(&self, now: Duration) -> Result<(Option<Next>, Wait)> {
        self.follow_cut()?;
        let bound = self.bound();
        let inner = &mut *self.inner.lock();
        inner.in_flight.expire(now);
        self.follow_start(inner);
        let read = self.read_ahead(inner, now);
        let read = inner.forgive(read);
        let Some(queue) = &mut inner.queue else { return Ok((None, Wait::default())) };
        let next = queue.next(&inner.in_flight, now);
        if next.is_none() {
            read?;
        }
        Ok((next, self.wait(inner, bound)))
    }

    /// Gives a member one record that was read ahead; `None` if somebody else got it.
    pub(super) fn take(&self, member: u64, offset: u64, now: Duration) -> Option<ShareRecord> {
        let inner = &mut *self.inner.lock();
        let record = inner.queue.as_ref()?.get(offset)?.clone();
        let acquired = inner.in_flight.acquire_range(member, offset, offset, now);
        let delivery_count = acquired.first()?.delivery_count;
        Some(ShareRecord::new(self.id().clone(), record, delivery_count))
    }

    pub(super) fn acknowledge(
        &self,
        member: u64,
        (first, last): (u64, u64),
        word: Acknowledge,
        now: Duration,
    ) -> Result<(), NotAcquired> {
        self.inner.lock().in_flight.acknowledge(member, first, last, word, now)
    }

    /// Whether a member has any of some records, and has not acknowledged it.
    pub(super) fn is_held(&self, member: u64, first: u64, last: u64) -> bool {
        self.inner.lock().in_flight.is_held(member, first, last)
    }

    /// Has it written down that records were delivered.
    pub(super) fn count_deliveries(&self, first: u64, last: u64) {
        self.inner.lock().in_flight.count_deliveries(first, last);
    }

    /// Takes back records that a member has acquired and was not given.
    pub(super) fn take_back(&self, member: u64, first: u64, last: u64) {
        self.inner.lock().in_flight.take_back(member, first, last);
    }

    pub(super) fn release_member(&self, member: u64) {
        self.inner.lock().in_flight.release_member(member);
    }

    /// Whether others that wait should look again since the last time this was asked.
    pub(super) fn take_news(&self) -> bool {
        std::mem::take(&mut self.inner.lock().news)
    }

    pub(super) fn is_unwritten(&self) -> bool {
        self.inner.lock().in_flight.is_unwritten()
    }

    /// Gives up what damage keeps from being read. Returns where reading goes on.
    pub(super) fn skip_damage(&self) -> Option<u64> {
        let inner = &mut *self.inner.lock();
        let (from, behind) = inner.damage.take()?;
        inner.tail = None;
        inner.read_to = inner.read_to.max(behind);
        inner.in_flight.archive(from, behind.checked_sub(1)?);
        Some(behind)
    }

    pub(super) fn figures(&self) -> Figures {
        let inner = self.inner.lock();
        let in_flight = &inner.in_flight;
        let finished = [RecordState::Acknowledged, RecordState::Archived];
        Figures {
            start: in_flight.start_offset(),
            available: in_flight.count(RecordState::Available),
            acquired: in_flight.count(RecordState::Acquired),
            finished_beyond: finished.iter().map(|state| in_flight.count(*state)).sum(),
        }
    }

    pub(super) fn count_of(&self, member: u64) -> u64 {
        self.inner.lock().in_flight.count_of(member)
    }

    fn bound(&self) -> u64 {
        match self.isolation {
            Isolation::ReadCommitted => self.log.last_stable_offset(),
            _ => self.log.high_watermark(),
        }
    }

    pub(super) fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// What has to happen before there may be more than was just found.
    fn wait(&self, inner: &mut Inner, bound: u64) -> Wait {
        let (start, end) = (inner.in_flight.start_offset(), inner.in_flight.end_offset());
        let moved = std::mem::take(&mut inner.moved);
        if moved && self.log.log_start() > start {
            // What was to be delivered was deleted under the reader, and what lies behind has not been looked at.
            return Wait { beyond: Some(start), deadline: None };
        }
        let hidden = inner.in_flight.next_available(0).is_some();
        // Everything below the bound that can be read has been, unless the log was cut under the reader. What was seen
        // before may lie above it: a crash takes the high watermark back.
        let bound = match (moved, hidden) {
            (true, _) => end,
            (false, true) => bound,
            (false, false) => bound.max(end),
        };
        // Full of what is hidden, it has nothing that somebody could finish: then the bound has to move.
        let queue_is_full = inner.queue.as_ref().is_some_and(|queue| !queue.has_room());
        let full = if hidden { queue_is_full } else { inner.is_full() };
        let beyond = (!full).then_some(bound);
        Wait { beyond, deadline: inner.in_flight.next_deadline() }
    }

    /// Passes over what retention, or somebody's `delete_records`, has taken.
    fn follow_start(&self, inner: &mut Inner) {
        let log_start = self.log.log_start();
        // Also if all that was deleted is finished: it need not have been read over.
        if log_start > inner.read_to {
            (inner.tail, inner.read_to) = (None, log_start);
        }
        if log_start <= inner.in_flight.start_offset() {
            return;
        }
        inner.in_flight.pass_over(inner.in_flight.start_offset(), log_start - 1);
    }

    /// Forgets what lies behind the end of the log: it was cut, or a crash has taken what was not durable. What comes
    /// there next is new, and that must be written down before anything is made of it.
    fn follow_cut(&self) -> Result<()> {
        {
            let inner = &mut *self.inner.lock();
            // Asked under the lock: whoever took in more has let go of it.
            let log_end = self.log.log_end();
            if inner.in_flight.end_offset() > log_end {
                inner.in_flight.forget_from(log_end);
                (inner.tail, inner.read_to, inner.cut) = (None, inner.read_to.min(log_end), true);
                inner.follow_changes(Duration::ZERO);
            }
            if !inner.cut {
                return Ok(());
            }
        }
        self.journal.set(&self.key, || {
            let StateUpdate { start_offset, batches, .. } = self.inner.lock().in_flight.snapshot();
            Progress { start: Some(start_offset), batches }
        })?;
        self.inner.lock().cut = false;
        Ok(())
    }

    /// Reads records that are available again.
    fn read_again(
        &self,
        inner: &mut Inner,
        budget: &mut Budget,
        taken: &mut Vec<StoredRecord>,
    ) -> Result<()> {
        let mut from = inner.in_flight.start_offset();
        let mut again: Option<Again> = None;
        while budget.is_left() {
            let Some((first, last)) = inner.in_flight.next_available(from) else { break };
            let reader = match again.take().filter(|again| again.is_near(first)) {
                Some(near) => near,
                None => Again { records: self.log.read_from_with(first, self.isolation)?, ahead: None },
            };
            from = self.read_range(inner, again.insert(reader), (first, last), budget, taken)?;
        }
        Ok(())
    }

    /// Reads the records of a range, and passes over offsets that have none. Returns how far that went.
    fn read_range(
        &self,
        inner: &mut Inner,
        again: &mut Again,
        (first, last): (u64, u64),
        budget: &mut Budget,
        taken: &mut Vec<StoredRecord>,
    ) -> Result<u64> {
        let mut expected = first;
        while expected <= last && budget.is_left() {
            let found = again.next(inner)?;
            let offset = found.as_ref().map_or(again.records.position(), StoredRecord::offset);
            if offset > expected {
                inner.in_flight.pass_over(expected, last.min(offset - 1));
            }
            match found {
                Some(record) if offset > last => {
                    again.ahead = Some(record);
                    return Ok(last + 1);
                }
                Some(record) if offset >= expected => {
                    budget.take(&record);
                    taken.push(record);
                    expected = offset + 1;
                }
                Some(_) => {}
                // Not readable now; the rest of the range may be later.
                None => return Ok(last + 1),
            }
        }
        Ok(expected)
    }

    /// Reads records that have not been delivered to anybody.
    fn read_on(&self, inner: &mut Inner, budget: &mut Budget, taken: &mut Vec<StoredRecord>) -> Result<()> {
        let mut room = inner.in_flight.room();
        let from = taken.len();
        let mut read = Ok(());
        let end = inner.in_flight.end_offset();
        while budget.is_left() && room > 0 {
            match self.next_of_tail(inner, end) {
                Ok(Some(record)) => {
                    budget.take(&record);
                    room -= 1;
                    taken.push(record);
                }
                Ok(None) => break,
                Err(error) => {
                    read = Err(error);
                    break;
                }
            }
        }
        for (first, last) in runs(taken.get(from..).unwrap_or_default()) {
            inner.in_flight.take_in(first, last);
        }
        // What lies at the end of what can be read and is no record has been seen, too.
        let (end, position) =
            (inner.in_flight.end_offset(), inner.tail.as_ref().map_or(0, Records::position));
        if position > end {
            inner.in_flight.pass_over(end, position - 1);
        }
        inner.read_to = inner.in_flight.end_offset();
        read
    }

    /// Reads ahead, by priority, as far as there is room.
    fn read_ahead(&self, inner: &mut Inner, now: Duration) -> Result<()> {
        inner.follow_changes(now);
        let mut read = Ok(());
        while inner.queue.as_ref().is_some_and(Queue::has_room) {
            let from = inner.read_to;
            // What was in flight before is read first.
            if from >= inner.in_flight.end_offset() && inner.in_flight.room() == 0 {
                break;
            }
            let found = self.next_of_tail(inner, from);
            let position = match &found {
                Ok(Some(record)) => record.offset(),
                _ => inner.tail.as_ref().map_or(from, Records::position),
            };
            if position > from {
                inner.in_flight.pass_over(from, position - 1);
                inner.read_to = position;
            }
            match found {
                Ok(Some(record)) => load(inner, &record, now),
                Ok(None) => break,
                Err(error) => {
                    read = Err(error);
                    break;
                }
            }
        }
        // What was loaded is known.
        inner.in_flight.take_changes();
        read
    }

    /// The next record that has not been read, from an offset on if reading begins.
    fn next_of_tail(&self, inner: &mut Inner, from: u64) -> Result<Option<StoredRecord>> {
        let tail = match inner.tail.take() {
            Some(tail) => tail,
            None => self.log.read_from_with(from, self.isolation)?,
        };
        let tail = inner.tail.insert(tail);
        match tail.next().transpose() {
            Err(error) => {
                let first = Records::position(tail);
                inner.damage = tail.skip_damage().map(|behind| (first, behind));
                inner.tail = None;
                Err(error)
            }
            found => found,
        }
    }
}

impl Source for SharePartition {
    fn key(&self) -> &ShareStateKey {
        &self.key
    }

    fn begin_write(&self) -> Option<StateUpdate> {
        self.inner.lock().in_flight.begin_write()
    }

    fn end_write(&self, written: bool) {
        let inner = &mut *self.inner.lock();
        let was_full = inner.is_full();
        if written {
            inner.in_flight.written();
        } else {
            inner.in_flight.not_written();
        }
        // Also if it has failed: who looked meanwhile does not know of the locks that go on.
        inner.news |= !written || was_full || inner.in_flight.take_given_back();
    }
}

/// A reader of records that were read before.
struct Again {
    records: Records,
    /// A record that was read and not wanted yet.
    ahead: Option<StoredRecord>,
}

impl Again {
    /// Whether it comes to an offset soon.
    fn is_near(&self, offset: u64) -> bool {
        let position = self.ahead.as_ref().map_or(self.records.position(), StoredRecord::offset);
        position <= offset && offset - position < READ_OVER
    }

    fn next(&mut self, inner: &mut Inner) -> Result<Option<StoredRecord>> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        match self.records.next().transpose() {
            Err(error) => {
                let first = self.records.position();
                inner.damage = self.records.skip_damage().map(|behind| (first, behind));
                Err(error)
            }
            found => found,
        }
    }
}

/// Takes a record that was read ahead into the queue, unless it was finished before or somebody has it.
fn load(inner: &mut Inner, record: &StoredRecord, now: Duration) {
    let offset = record.offset();
    inner.in_flight.take_in(offset, offset);
    inner.read_to = offset + 1;
    let available = inner.in_flight.state_of(offset) == Some(RecordState::Available);
    if let Some(queue) = inner.queue.as_mut().filter(|_| available) {
        queue.load(record, now);
    }
}

/// Records with consecutive offsets among those in order: the first and the last offset of each.
fn runs(records: &[StoredRecord]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let follows = |left: &StoredRecord, right: &StoredRecord| left.offset() + 1 == right.offset();
    records.chunk_by(follows).filter_map(|run| Some((run.first()?.offset(), run.last()?.offset())))
}

/// Acquires records that are available, and hands them out with their delivery counts.
fn hand_out(
    in_flight: &mut InFlight,
    member: u64,
    now: Duration,
    records: Vec<StoredRecord>,
    mut out: impl FnMut(StoredRecord, u16),
) {
    let acquired: Vec<AcquiredRecords> =
        runs(&records).flat_map(|(first, last)| in_flight.acquire_range(member, first, last, now)).collect();
    let mut acquired = acquired.into_iter().peekable();
    for record in records {
        while acquired.next_if(|range| range.last_offset < record.offset()).is_some() {}
        if let Some(range) = acquired.peek().filter(|range| range.first_offset <= record.offset()) {
            out(record, range.delivery_count);
        }
    }
}
