//! One case: a store on a simulated disk and the model of its partition, taken through steps together.

use std::sync::Arc;
use std::time::Duration;

use annals::clock::{Clock, ManualClock};
use annals::format::{EndTransactionMarker, Frame};
use annals::fs::{Call, Crash, Fault, SimulatedDisk, When};
use annals::{AppendOptions, Appended, Durability, Error, Isolation, Partition, Record, RecordBatch, Store};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::check::{
    Chance, Checked, check, check_batches, check_epochs, check_header, check_producers, epochs_of, fetch_all,
    read, records_of, works,
};
use super::model::truncate_epochs_from_start;
use super::model::{Batch, Expected, Halfway, Kept, Marker, Model, Producer, assign};
use super::steps::{Draft, Ended, INTERVAL_BYTES, Level, Numbered, RETENTION_MS, Setup, Step};

/// What came before the partition was opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// It was closed without an error.
    Closed,
    /// Everything written is there.
    Killed,
    /// Everything synced is there.
    PowerCut,
    /// It was poisoned, and is the same.
    Reopened,
}

pub(crate) struct Case {
    setup: Setup,
    disk: SimulatedDisk,
    clock: Arc<ManualClock>,
    store: Option<Store>,
    log: Option<Partition>,
    model: Model,
    /// Whether calls to the disk may fail, or have.
    trouble: bool,
    /// Whether what is known of producers may not have been written down, or not durably.
    may_forget: bool,
    /// Whether offsets may be missing.
    sparse: bool,
    values: u32,
    chance: Chance,
}

/// Takes a new partition through the steps and compares it with the model after each.
pub(crate) fn run(setup: Setup, steps: &[Step]) -> Checked {
    let mut case = Case::new(setup)?;
    for (at, step) in steps.iter().enumerate() {
        let context = |error: TestCaseError| match error {
            TestCaseError::Fail(reason) => TestCaseError::fail(format!("step {at}, {step:?}: {reason}")),
            reject => reject,
        };
        case.step(step).map_err(context)?;
        case.compare().map_err(context)?;
    }
    Ok(())
}

/// The place that is `part` of 255 of the way.
fn place(part: u8, from: u64, to: u64) -> u64 {
    from + (to - from) * u64::from(part) / 255
}

fn is_trouble(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::StorageFull { .. } | Error::Poisoned { .. })
}

impl Case {
    fn new(setup: Setup) -> Checked<Self> {
        let mut case = Case {
            setup,
            disk: SimulatedDisk::new(setup.seed),
            clock: Arc::new(ManualClock::new(1_700_000_000_000)),
            store: None,
            log: None,
            model: Model::new(setup.replicated),
            trouble: false,
            may_forget: false,
            sparse: setup.compact,
            values: 0,
            chance: Chance(setup.seed),
        };
        let store = works(case.open_store(), "making a store")?;
        let topic = works(store.create_topic("t", setup.config()), "making a topic")?;
        case.log = Some(works(topic.partition(0), "its partition")?);
        case.store = Some(store);
        Ok(case)
    }

    fn open_store(&self) -> annals::Result<Store> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let options = Store::options().recovery_threads(1).max_open_files(3).clock(clock);
        options.open_in(Arc::new(self.disk.clone()))
    }

    fn log(&self) -> Partition {
        self.log.clone().expect("the partition is open")
    }

    /// Lets an error pass that trouble explains. Returns whether all went well.
    fn settle<T>(&self, result: annals::Result<T>, what: &str) -> Checked<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.trouble && is_trouble(&error) => Ok(None),
            Err(error) => Err(TestCaseError::fail(format!("{what}: {error} ({error:?})"))),
        }
    }

    fn compare(&mut self) -> Checked {
        let log = self.log();
        if self.model.halfway.is_some() {
            return Ok(());
        }
        self.model.forget_deleted(log.segments());
        let point = log.recovery_point();
        prop_assert!(point <= log.log_end());
        let durable = self.model.durable;
        let forgotten = self.model.live().any(|batch| batch.last >= point && batch.last < durable);
        prop_assert!(self.trouble || !forgotten, "recovery point {} below {}", point, durable);
        if !self.trouble {
            self.model.durable = self.model.durable.max(point);
        }
        if self.setup.level == Level::Interval && !self.trouble {
            let unsynced = self.model.batches.iter().filter(|batch| batch.base >= point);
            let bytes: u64 = unsynced.map(|batch| batch.size).sum();
            prop_assert!(bytes < INTERVAL_BYTES, "{} bytes are not synced", bytes);
        }
        if self.trouble && self.model.in_flight.is_empty() {
            // An append may have reopened the partition by itself.
            self.adopt_producers()?;
            self.adopt_epochs(Before::Reopened, &self.model.batches.clone())?;
        }
        let now = self.clock.now();
        check(&log, &self.model, &mut self.chance, now)
    }

    fn step(&mut self, step: &Step) -> Checked {
        let log = self.log();
        if self.model.halfway.is_some()
            && !matches!(
                step,
                Step::ReopenPartition | Step::CloseAndOpen | Step::Kill | Step::CutPower { .. }
            )
        {
            return Ok(());
        }
        match step {
            Step::Append { records, synced } => self.append(None, records, *synced),
            Step::Produce { producer, numbered, transactional, records } => {
                self.produce(*producer, *numbered, *transactional, records)
            }
            Step::End { producer, commit, ended } => self.end(*producer, *commit, *ended),
            Step::Roll => {
                let begun = log.segments().last().copied().unwrap_or(0);
                if self.settle(log.roll(), "a roll")?.is_some() {
                    self.model.in_flight.clear();
                    let active = log.segments().last().copied().unwrap_or(0);
                    let empty = self.model.batches.iter().all(|batch| batch.base < active);
                    prop_assert!(empty, "there are batches in the new segment at {}", active);
                    if begun < active {
                        self.made_durable();
                    }
                }
                Ok(())
            }
            Step::Flush => {
                if self.settle(log.flush(), "a flush")?.is_some() {
                    self.made_durable();
                    // A poisoned partition refuses to sync what is not known to be whole.
                    self.model.durable = self.model.end;
                }
                Ok(())
            }
            Step::Maintain => self.maintain(),
            Step::DeleteRecords { part } => self.delete_records(*part),
            Step::ApplyRetention => self.apply_retention(),
            Step::Advance { millis } => {
                self.clock.advance(Duration::from_millis((*millis).into()));
                Ok(())
            }
            Step::TruncateTo { part } => self.truncate_to(*part),
            Step::TruncateFully { part, start } => self.truncate_fully(*part, *start),
            Step::Lead { up } => self.lead(*up),
            Step::RaiseHighWatermark { part } => self.raise_high_watermark(*part),
            Step::Compact => self.compact(),
            Step::FailSync { nth } => {
                (self.trouble, self.may_forget) = (true, true);
                let when = When::nth((*nth).into()).of(&[Call::Sync, Call::SyncDir]);
                self.disk.fail(when, Fault::Forget);
                Ok(())
            }
            Step::FillDisk { spare } => {
                (self.trouble, self.may_forget) = (true, true);
                self.disk.set_capacity(Some(self.disk.used() + u64::from(*spare)));
                Ok(())
            }
            Step::Heal => {
                self.heal();
                Ok(())
            }
            Step::ReopenPartition => {
                self.heal();
                works(log.reopen(), "reopening a healthy disk")?;
                self.trouble = false;
                self.adopt(Before::Reopened)
            }
            Step::CloseAndOpen => self.close_and_open(),
            Step::Kill => self.crash(Crash::ProcessKill, Before::Killed),
            Step::CutPower { seed } => self.crash(Crash::PowerCut { seed: (*seed).into() }, Before::PowerCut),
        }
    }

    fn heal(&self) {
        self.disk.heal();
        self.disk.set_capacity(None);
    }

    /// Takes note of a sync that was asked for. In trouble it may have been another one's.
    fn made_durable(&mut self) {
        if !self.trouble {
            self.model.durable = self.model.end;
        }
    }
}

/// Appends.
impl Case {
    fn append(&mut self, producer: Option<Producer>, drafts: &[Draft], synced: bool) -> Checked {
        let now = self.clock.now();
        let base = self.model.end;
        let mut records = vec![];
        for (at, draft) in drafts.iter().enumerate() {
            self.values += 1;
            let key = draft.key.or(self.setup.compact.then_some(0)).map(|key| vec![b'k', key]);
            let value = (!draft.tombstone || key.is_none()).then(|| {
                let mut value = self.values.to_be_bytes().to_vec();
                value.resize(4 + (self.values * 37 % 60) as usize, self.values as u8);
                value
            });
            let timestamp = now + i64::from(draft.age);
            records.push(Kept { offset: base + at as u64, key, value, timestamp });
        }
        let encoded: Vec<Record<'_>> = records
            .iter()
            .map(|kept| {
                let record = kept.value.as_ref().map_or_else(Record::tombstone, Record::new);
                let record = record.timestamp(kept.timestamp);
                kept.key.as_ref().map_or(record.clone(), |key| record.key(key))
            })
            .collect();
        let mut options = AppendOptions::new();
        if let Some(Producer { id, epoch, sequence, transactional }) = producer {
            options = match transactional {
                true => options.transactional(id, epoch, sequence),
                false => options.idempotent(id, epoch, sequence),
            };
        }
        if synced {
            options = options.durability(Durability::Synced);
        }
        let expected = self.model.expected(producer, records.len());
        let result = self.log().append_batch_with(&encoded, options);
        let batch = Batch {
            base,
            last: base + records.len() as u64 - 1,
            size: 0,
            leader_epoch: self.model.leader_epoch,
            max_timestamp: records.iter().map(|record| record.timestamp).max().unwrap_or(-1),
            producer,
            marker: None,
            emptied: false,
            records,
        };
        self.appended(batch, expected, result, synced)
    }

    fn appended(
        &mut self,
        batch: Batch,
        expected: Expected,
        result: annals::Result<Appended>,
        synced: bool,
    ) -> Checked {
        let synced = synced || self.setup.level == Level::Synced;
        match (expected, result) {
            (Expected::New, Ok(appended)) => {
                prop_assert!(!appended.duplicate, "taken for a duplicate");
                prop_assert_eq!((appended.base_offset, appended.last_offset), (batch.base, batch.last));
                self.push(batch)?;
                if synced {
                    self.model.durable = self.model.end;
                }
                Ok(())
            }
            (Expected::Duplicate { base, last, .. }, Ok(appended)) => {
                prop_assert!(appended.duplicate, "not taken for a duplicate: {:?}", appended);
                prop_assert_eq!((appended.base_offset, appended.last_offset), (base, last));
                if synced {
                    self.model.durable = self.model.durable.max(last + 1);
                }
                Ok(())
            }
            (Expected::Duplicate { sure: false, .. }, Err(Error::OutOfOrderSequence { .. }))
            | (Expected::OutOfOrder, Err(Error::OutOfOrderSequence { .. }))
            | (Expected::Fenced, Err(Error::Fenced { .. }))
            | (Expected::OpenTransaction, Err(Error::InvalidTransactionState { .. })) => Ok(()),
            (expected, Err(error)) if self.trouble && is_trouble(&error) => {
                if self.log().log_end() == batch.next() {
                    return self.push(batch);
                }
                if expected == Expected::New {
                    self.model.in_flight.push(batch);
                }
                Ok(())
            }
            (expected, result) => {
                Err(TestCaseError::fail(format!("expected {expected:?}, got {result:?} for {batch:?}")))
            }
        }
    }

    /// Adds a batch that is in the log, with the size it has there.
    fn push(&mut self, mut batch: Batch) -> Checked {
        let options = annals::FetchOptions::new().isolation(Isolation::LogEnd).max_bytes(1);
        let fetched = works(self.log().fetch(batch.base, options), "fetching what was appended")?;
        let Some(found) = fetched.batches.first() else {
            return Err(TestCaseError::fail(format!("what was appended at {} is not there", batch.base)));
        };
        batch.size = found.header().size;
        self.model.push(batch);
        Ok(())
    }

    fn produce(
        &mut self,
        producer: u8,
        numbered: Numbered,
        transactional: bool,
        records: &[Draft],
    ) -> Checked {
        let id = 1_000 + i64::from(producer);
        let known = self.model.producers();
        let entry = known.get(&id);
        let epoch = entry.map_or(1, |entry| entry.epoch);
        let last = entry.and_then(|entry| entry.batches.last().copied());
        // The first batch of an unknown producer may have any number.
        let next = match (entry, last) {
            (None, _) => 7,
            (_, Some((_, last, ..))) => last + 1,
            _ => 0,
        };
        let (epoch, sequence) = match numbered {
            Numbered::Next => (epoch, next),
            Numbered::Gap => (epoch, next + 1),
            Numbered::OldEpoch => ((epoch - 1).max(0), next),
            Numbered::NewEpoch => (epoch + 1, 0),
            Numbered::Again { back } => {
                let batches = entry.map_or(&[][..], |entry| &entry.batches);
                match batches.iter().rev().nth(back.into()) {
                    None => (epoch, next),
                    Some(&(first, last, ..)) => {
                        let draft = records.first().copied().expect("there is a record");
                        let again = vec![draft; (last - first + 1) as usize];
                        let producer = Producer { id, epoch, sequence: first, transactional };
                        return self.append(Some(producer), &again, false);
                    }
                }
            }
        };
        // A transaction that is open goes on, more often than not.
        let open = entry.is_some_and(|entry| entry.open.is_some());
        let transactional = transactional || open && self.chance.below(8) > 0;
        self.append(Some(Producer { id, epoch, sequence, transactional }), records, false)
    }

    fn end(&mut self, producer: u8, commit: bool, ended: Ended) -> Checked {
        let id = 1_000 + i64::from(producer);
        let known = self.model.producers();
        let entry = known.get(&id);
        let (known_epoch, known_coordinator) =
            entry.map_or((-1, -1), |entry| (entry.epoch, entry.coordinator));
        let epoch = match ended {
            Ended::OldEpoch => (known_epoch - 1).max(0),
            Ended::NewEpoch => known_epoch.max(0) + 1,
            Ended::Right | Ended::NewCoordinator => known_epoch.max(1),
        };
        let up = i32::from(matches!(ended, Ended::NewCoordinator));
        let coordinator = known_coordinator.max(0) + up;
        let marker = EndTransactionMarker { coordinator_epoch: coordinator, commit };
        let result = self.log().end_transaction(id, epoch, marker, AppendOptions::new());
        let (base, now) = (self.model.end, self.clock.now());
        let batch = Batch {
            base,
            last: base,
            size: 0,
            leader_epoch: self.model.leader_epoch,
            max_timestamp: now,
            producer: Some(Producer { id, epoch, sequence: -1, transactional: true }),
            marker: Some(Marker { coordinator, commit }),
            emptied: false,
            records: vec![],
        };
        let expected = if epoch < known_epoch { Expected::Fenced } else { Expected::New };
        self.appended(batch, expected, result, false)
    }
}

/// What takes from the log, and what moves its marks.
impl Case {
    fn delete_records(&mut self, part: u8) -> Checked {
        let log = self.log();
        let high_watermark = self.model.high_watermark();
        let before = place(part, self.model.start.saturating_sub(1), high_watermark + 1);
        let result = log.delete_records(before);
        if before > high_watermark {
            prop_assert!(
                matches!(result, Err(Error::OffsetOutOfRange { .. })),
                "deleted up to {}: {:?}",
                before,
                result
            );
            return Ok(());
        }
        let done = self.settle(result, "deleting records")?;
        self.raised(before, done)
    }

    /// The log start was to be raised, and was if `done` says where to.
    fn raised(&mut self, to: u64, done: Option<u64>) -> Checked {
        let found = self.log().log_start();
        match done {
            Some(start) => {
                prop_assert_eq!(start, found);
                // Without room for a new segment the last one stays.
                let reached = if self.trouble || self.model.debris { to.min(found) } else { to };
                self.model.raise_start(reached);
                prop_assert_eq!(found, self.model.start);
                self.model.saved_start = self.model.start;
                let segments = self.log().segments();
                prop_assert!(
                    segments.get(1).is_none_or(|next| *next > found),
                    "{:?} from {}",
                    segments,
                    found
                );
            }
            None => {
                prop_assert!((self.model.start..=to.max(self.model.start)).contains(&found), "{}", found);
                self.model.raise_start(found);
            }
        }
        Ok(())
    }

    fn maintain(&mut self) -> Checked {
        let starts = self.retained_from();
        let active = self.model.segments.last().copied().unwrap_or(0);
        let end = self.log().last_stable_offset().min(active);
        let result = self.store.as_ref().expect("the store is open").maintain();
        let done = self.settle(result, "maintenance")?.map(|_| self.log().log_start());
        let saved = self.model.saved_start;
        let start = self.log().log_start().clamp(starts.0, starts.1);
        let moves = start > self.model.start;
        self.raised(start, done)?;
        if !moves || self.trouble {
            self.model.saved_start = saved;
        }
        if self.setup.compact { self.adopt_compacted(end) } else { Ok(()) }
    }

    /// Where the log starts after retention, with segments that compaction left empty new or old: their age is that
    /// of a file.
    fn retained_from(&self) -> (u64, u64) {
        let now = self.clock.now();
        let from = |empty| self.model.retained_from(self.setup.retention_bytes, RETENTION_MS, now, empty);
        (from(i64::MAX), from(i64::MIN))
    }

    fn apply_retention(&mut self) -> Checked {
        let starts = self.retained_from();
        let result = self.log().apply_retention();
        let done = self.settle(result, "retention")?.map(|expired| expired.log_start);
        let saved = self.model.saved_start;
        let start = self.log().log_start().clamp(starts.0, starts.1);
        let moves = start > self.model.start;
        self.raised(start, done)?;
        if !moves || self.trouble {
            // Nothing was written down then.
            self.model.saved_start = saved;
        }
        Ok(())
    }

    fn truncate_to(&mut self, part: u8) -> Checked {
        let offset = place(part, self.model.start.saturating_sub(3), self.model.end + 2);
        let (end, first) = (self.model.end, self.model.segments.first().copied().unwrap_or(0));
        self.sparse |= offset < end;
        match self.settle(self.log().truncate_to(offset), "a truncation")? {
            Some(done) => {
                prop_assert_eq!(done, offset < end);
                if offset < first {
                    self.model.begin_at(offset);
                } else {
                    self.model.cut(offset.min(end));
                    self.model.forget_deleted(self.log().segments());
                    if self.model.debris {
                        self.adopt_losses_below(self.model.start)?;
                    }
                    self.adopt_producers()?;
                }
            }
            None if self.log().log_end() == end && offset < end => {
                // It did not begin; or it did, at a place where nothing is.
                self.model.halfway = Some(self.halfway(offset, first));
            }
            None if offset < end => self.model.halfway = Some(self.halfway(offset, first)),
            None => {}
        }
        Ok(())
    }

    fn halfway(&self, offset: u64, first: u64) -> Halfway {
        if offset < first { Halfway::Anew { offset, start: offset } } else { Halfway::Cut { offset } }
    }

    fn truncate_fully(&mut self, part: u8, start: Option<u8>) -> Checked {
        let offset = place(part, 0, self.model.end + 20);
        let start = start.map(|above| offset + u64::from(above));
        self.sparse = true;
        match self.settle(self.log().truncate_fully_and_start_at(offset, start), "beginning anew")? {
            Some(()) => self.model.begin_at(start.unwrap_or(offset)),
            None => {
                self.model.halfway = Some(Halfway::Anew { offset, start: start.unwrap_or(offset) });
            }
        }
        Ok(())
    }

    fn lead(&mut self, up: u8) -> Checked {
        let log = self.log();
        let epoch = self.model.leader_epoch + i32::from(up) - 1;
        let result = log.set_leader_epoch(epoch);
        if epoch < self.model.leader_epoch && matches!(result, Err(Error::LeaderFenced { .. })) {
            return Ok(());
        }
        if self.settle(result, "leading")?.is_some() {
            prop_assert!(epoch >= self.model.leader_epoch, "leads in epoch {}", epoch);
            self.model.leader_epoch = epoch;
            self.model.assign_epoch(epoch, self.model.end);
        }
        if self.model.in_flight.is_empty() {
            prop_assert_eq!(log.leader_epoch(), self.model.leader_epoch);
        }
        Ok(())
    }

    fn raise_high_watermark(&mut self, part: u8) -> Checked {
        let log = self.log();
        // Where replicators set it: behind a batch.
        let offset = self.model.data_end(place(part, self.model.start, self.model.end));
        let result = log.set_high_watermark(offset);
        let Some(held) = self.model.held else {
            prop_assert!(matches!(result, Err(Error::PolicyViolation { .. })), "{:?}", result);
            return Ok(());
        };
        self.model.held = Some(held.max(offset));
        prop_assert_eq!(works(result, "the high watermark")?, self.model.high_watermark());
        Ok(())
    }

    fn compact(&mut self) -> Checked {
        let log = self.log();
        let before = Model::latest(&read(&log, self.model.start, Isolation::ReadCommitted)?);
        let active = self.model.segments.last().copied().unwrap_or(0);
        let end = log.last_stable_offset().min(active);
        let result = log.compact();
        if !self.setup.compact {
            prop_assert!(matches!(result, Err(Error::PolicyViolation { .. })), "{:?}", result);
            return Ok(());
        }
        self.settle(result, "compaction")?;
        self.adopt_compacted(end)?;
        let after = Model::latest(&read(&log, self.model.start, Isolation::ReadCommitted)?);
        prop_assert_eq!(before, after, "the latest values");
        Ok(())
    }

    /// The batches in the files of the log, those below its start as well.
    fn stored_batches(&self) -> Checked<Vec<RecordBatch>> {
        let mut batches = vec![];
        for base in self.log().segments() {
            let bytes = self.disk.read(format!("t-0/{base:020}.log")).expect("a segment has a file");
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                // What a power cut has destroyed below the log start is passed over.
                match self.batch_at(rest) {
                    Some(batch) => {
                        rest = &rest[batch.header().size as usize..];
                        batches.push(batch);
                    }
                    None => rest = &rest[1..],
                }
            }
        }
        Ok(batches)
    }

    fn batch_at(&self, bytes: &[u8]) -> Option<RecordBatch> {
        let frame = Frame::parse(bytes).ok()?;
        let whole = frame.offset < self.model.end && frame.size <= bytes.len() as u64;
        let batch = whole.then(|| RecordBatch::parse(bytes[..frame.size as usize].to_vec().into()))?;
        batch.ok()
    }

    /// Checks what compaction left of the log below `end`, and goes on with that.
    fn adopt_compacted(&mut self, end: u64) -> Checked {
        let mut found = self.stored_batches()?.into_iter().peekable();
        let first = self.log().segments().first().copied().unwrap_or(0);
        // Those below the first segment may come back as they were.
        let (mut kept, stored): (Vec<_>, Vec<_>) =
            self.model.batches.iter().cloned().partition(|batch| batch.base < first);
        for batch in &stored {
            let there = found.peek().is_some_and(|found| found.base_offset() == batch.base);
            let there = if there { found.next() } else { None };
            let mut left = batch.clone();
            match &there {
                Some(found) => {
                    let records = records_of(found)?;
                    let copied = |kept: &Kept| batch.records.iter().any(|record| record == kept);
                    prop_assert!(records.iter().all(copied), "{:?} of {:?}", records, batch);
                    if !found.header().control || !records.is_empty() {
                        check_header(found, batch)?;
                    }
                    left.records = records;
                    left.emptied = found.header().records_count == Some(0);
                    (left.size, left.max_timestamp) = (found.header().size, found.header().max_timestamp);
                }
                None => {
                    prop_assert!(batch.last < end, "{:?} was not to be compacted", batch);
                    left.records.clear();
                }
            }
            let gone = batch.records.iter().filter(|record| !left.records.contains(record));
            for record in gone {
                prop_assert!(
                    self.model.may_be_compacted(batch, record, end),
                    "{:?} is gone from {:?}",
                    record,
                    batch
                );
            }
            kept.extend(there.map(|_| left));
        }
        prop_assert!(found.next().is_none(), "a batch that was not there before");
        self.model.batches = kept;
        Ok(())
    }
}

/// Ends and beginnings.
impl Case {
    fn close_and_open(&mut self) -> Checked {
        self.log = None;
        let store = self.store.take().expect("the store is open");
        let closed = self.settle(store.close(), "closing")?.is_some();
        let before = if closed { Before::Closed } else { Before::Killed };
        self.open(before)?;
        let report = self.log().recovery_report();
        prop_assert!(report.clean || self.trouble, "closed in good order, but not opened so: {:?}", report);
        if !closed || !report.clean {
            // What was planned to fail may still have to.
            return self.adopt(Before::Killed);
        }
        self.adopt(Before::Closed)
    }

    fn crash(&mut self, crash: Crash, before: Before) -> Checked {
        let image = self.disk.crash(crash);
        (self.log, self.store) = (None, None);
        self.disk = image;
        self.trouble = false;
        self.may_forget |= before == Before::PowerCut && self.setup.level != Level::Synced;
        self.open(before)?;
        self.adopt(before)
    }

    fn open(&mut self, before: Before) -> Checked {
        let mut opened = self.try_open();
        if self.trouble && opened.is_err() {
            self.heal();
            opened = self.try_open();
        }
        let (store, log) = works(opened, "opening")?;
        let damage = &log.recovery_report().damage;
        let torn = before == Before::PowerCut && self.setup.level != Level::Synced;
        prop_assert!(damage.is_empty() || torn, "damage: {:?}", damage);
        (self.store, self.log) = (Some(store), Some(log));
        Ok(())
    }

    fn try_open(&self) -> annals::Result<(Store, Partition)> {
        let store = self.open_store()?;
        let log = store.topic("t")?.partition(0)?;
        Ok((store, log))
    }

    /// Goes on with what was found, if it may be so.
    fn adopt(&mut self, before: Before) -> Checked {
        let log = self.log();
        if !log.recovery_report().damage.is_empty() && before == Before::PowerCut {
            return self.accept_loss();
        }
        let (start, end) = (log.log_start(), log.log_end());
        let halfway = self.model.halfway.take();
        // What was to go is not known to be on disk any more.
        let lowered = match halfway {
            Some(Halfway::Cut { offset }) => self.model.data_end(offset),
            Some(Halfway::Anew { offset, .. }) => self.model.start.min(offset),
            None => self.model.durable,
        };
        self.model.durable = self.model.durable.min(lowered);
        if let Some(Halfway::Anew { offset, start: anew }) = halfway {
            let empty = works(log.read_from_with(start, Isolation::LogEnd), "reading")?.next().is_none();
            // Perhaps it never began, and was empty there before; or all was removed, and the ends not yet moved.
            let (old, ends) = (self.model.start, [self.model.start, offset, anew]);
            let starts = self.model.saved_start.min(offset)..=old.max(anew);
            if empty && log.size() == 0 && ends.contains(&end) && starts.contains(&start) {
                let (mut ever, epochs) = (self.model.ever.clone(), self.model.epochs.clone());
                ever.retain(|batch| batch.last < end);
                let held = self.model.held.filter(|held| log.high_watermark() == *held);
                self.model.begin_at(end);
                self.model.held = held.or(self.model.held);
                (self.model.ever, self.model.start) = (ever, start);
                if check_epochs(&log, &epochs).is_ok() {
                    self.model.epochs = epochs;
                }
                return self.adopt_rest(before);
            }
        }
        if before == Before::PowerCut && self.setup.level != Level::Synced {
            if self.sparse {
                self.adopt_holes()?;
            }
            self.adopt_losses_below(start)?;
        }
        let none_durable = self.model.live().all(|batch| batch.base >= self.model.durable);
        if before == Before::PowerCut && self.setup.level != Level::Synced && none_durable && start == end {
            // All is lost, perhaps but for the name of the last segment.
            prop_assert!(end <= self.model.end && end >= self.model.saved_start, "begins at {}", end);
            self.model.cut(end);
            self.model.start = start;
            return self.adopt_rest(before);
        }
        let floor = match (halfway, before) {
            (Some(Halfway::Anew { .. }), _) => self.model.start,
            (Some(Halfway::Cut { offset }), Before::PowerCut) => offset.min(self.model.durable),
            (Some(Halfway::Cut { offset }), _) => offset,
            (None, Before::PowerCut) => self.model.durable,
            (None, Before::Reopened | Before::Closed) => self.model.end,
            (None, Before::Killed) => self.model.end,
        };
        let lost_gap = matches!(before, Before::Killed | Before::PowerCut) || halfway.is_some();
        let floor = if lost_gap { self.model.data_end(floor) } else { floor };
        if before != Before::Reopened {
            let last = fetch_all(&log)?.pop();
            let records = last.as_ref().map(records_of).transpose()?.unwrap_or_default();
            // Markers have no records by which to tell them apart.
            let same = |batch: &Batch| last.as_ref().is_none_or(|found| check_header(found, batch).is_ok());
            let mut arrived = self.model.in_flight.iter().filter(|batch| batch.next() == end && same(batch));
            if let Some(batch) = arrived.find(|batch| batch.records == records).cloned() {
                self.push(batch)?;
            }
        }
        prop_assert!(
            (floor..=self.model.end).contains(&end),
            "the log ends at {} after {:?}, not between {} and {}",
            end,
            before,
            floor,
            self.model.end
        );
        let starts = self.model.saved_start.min(end)..=self.model.start.min(end);
        prop_assert!(starts.contains(&start), "the log starts at {}, not in {:?}", start, starts);
        if end < self.model.end {
            let inside = self.model.batches.iter().any(|batch| batch.base < end && end <= batch.last);
            // What lies above the log start may all be lost.
            let cut = matches!(halfway, Some(Halfway::Cut { offset }) if offset == end);
            prop_assert!(!inside || end == start || cut, "the log ends at {}, inside of a batch", end);
            self.model.cut(end);
        }
        self.model.start = start;
        self.adopt_rest(before)
    }

    /// Where offsets may be missing, nobody can tell that a batch that was not synced is. The next segment may be
    /// there all the same.
    fn adopt_holes(&mut self) -> Checked {
        let found: Vec<u64> = fetch_all(&self.log())?.iter().map(annals::RecordBatch::base_offset).collect();
        let first = self.log().log_start();
        let kept = |batch: &Batch| batch.last < first || found.contains(&batch.base);
        let lost = self.model.batches.iter().find(|batch| batch.last < self.model.durable && !kept(batch));
        prop_assert!(lost.is_none(), "{:?} is lost, but was synced", lost);
        let gone: Vec<u64> =
            self.model.batches.iter().filter(|batch| !kept(batch)).map(|batch| batch.base).collect();
        for batches in [&mut self.model.batches, &mut self.model.told, &mut self.model.ever] {
            batches.retain(|batch| !gone.contains(&batch.base));
        }
        Ok(())
    }

    /// Nobody can tell what is lost below the log start, either.
    fn adopt_losses_below(&mut self, start: u64) -> Checked {
        let first = self.log().segments().first().copied().unwrap_or(0);
        let stored: Vec<u64> = self.stored_batches()?.iter().map(RecordBatch::base_offset).collect();
        let lost = |batch: &Batch| {
            (first..start).contains(&batch.base) && batch.last < start && !stored.contains(&batch.base)
        };
        self.model.debris |= self.model.batches.iter().any(lost);
        self.model.batches.retain(|batch| !lost(batch));
        Ok(())
    }

    /// With the batches known, all that is not in them.
    fn adopt_rest(&mut self, before: Before) -> Checked {
        let log = self.log();
        let (start, end) = (self.model.start, self.model.end);
        self.model.in_flight.clear();
        let batches = self.model.batches.clone();
        self.model.forget_deleted(log.segments());
        self.model.reloaded = end;
        self.model.saved_start = self.model.saved_start.min(start);
        let synced = before != Before::Reopened && !self.trouble;
        self.model.durable = if synced { end } else { self.model.durable.min(end) };
        check_batches(&log, &self.model)?;
        self.adopt_producers()?;
        self.adopt_epochs(before, &batches)?;
        if let Some(held) = self.model.held {
            let found = log.high_watermark();
            let exact = before == Before::Reopened || before == Before::Closed && !self.trouble;
            let least = if exact { held.min(end) } else { start };
            prop_assert!(
                (least.max(start)..=held.min(end).max(start)).contains(&found),
                "high watermark {} after {:?}, was {}",
                found,
                before,
                held
            );
            self.model.held = Some(found);
        }
        Ok(())
    }

    /// Producers of whom the log holds nothing any more may be forgotten.
    fn adopt_producers(&mut self) -> Checked {
        let log = self.log();
        let known = check_producers(&log, &self.model);
        if known.is_ok() {
            return Ok(());
        }
        let first = self.model.segments.first().copied().unwrap_or(0);
        let mut gaps = vec![(0, 0), (0, first)];
        if self.may_forget {
            // What was known at some time before may be all, and what was lost below the log start is.
            let untils: Vec<u64> = self.model.ever.iter().map(|batch| batch.base).collect();
            let start = self.model.start;
            let below = untils.iter().copied().filter(|base| *base < start).chain([first, start]);
            let froms: Vec<u64> = below.collect();
            gaps.extend(untils.iter().flat_map(|&until| froms.iter().map(move |&from| (until, from))));
        }
        if self.model.debris {
            let stored: Vec<u64> = self.stored_batches()?.iter().map(RecordBatch::base_offset).collect();
            for until in self.model.ever.iter().map(|batch| batch.base).chain([0]) {
                let mut other = self.model.clone();
                other.told = self.model.ever.clone();
                other.told.retain(|batch| batch.base < until || stored.contains(&batch.base));
                if check_producers(&log, &other).is_ok() {
                    self.model.told = other.told;
                    return Ok(());
                }
            }
        }
        for (until, from) in gaps {
            let mut other = self.model.clone();
            other.told = self.model.ever.clone();
            other.told.retain(|batch| batch.base < until || batch.base >= from);
            if check_producers(&log, &other).is_ok() {
                self.model.told = other.told;
                return Ok(());
            }
        }
        if !self.setup.compact {
            return known;
        }
        // Behind a snapshot, what compaction has left, also if that is deleted since.
        let left = |batch: &Batch| {
            let mut all = self.model.batches.iter().chain(&self.model.deleted);
            let kept = all.find(|kept| kept.base == batch.base)?;
            (!kept.emptied || kept.marker.is_none())
                .then(|| Batch { max_timestamp: kept.max_timestamp, ..batch.clone() })
        };
        for all in [self.model.ever.clone(), self.model.told.clone()] {
            for until in all.iter().map(|batch| batch.base).chain([u64::MAX, 0]) {
                let mut other = self.model.clone();
                let told = |batch: &Batch| if batch.base < until { Some(batch.clone()) } else { left(batch) };
                other.told = all.iter().filter_map(told).collect();
                if check_producers(&log, &other).is_ok() {
                    self.model.told = other.told;
                    return Ok(());
                }
            }
        }
        known
    }

    /// Where an epoch begins is known from its file, or from the log from some batch on; where there is no data,
    /// that is the same.
    fn adopt_epochs(&mut self, before: Before, batches: &[Batch]) -> Checked {
        let log = self.log();
        let (start, end) = (self.model.start, self.model.end);
        let mut noted = self.model.epochs.clone();
        noted.retain(|(_, from)| *from < end);
        truncate_epochs_from_start(&mut noted, start);
        let mut below = noted.clone();
        below.retain(|(_, from)| *from < end);
        let mut candidates = vec![noted.clone(), below];
        if fetch_all(&log)?.is_empty() {
            candidates.push(vec![]);
        }
        if before == Before::Reopened && check_epochs(&log, &self.model.epochs).is_ok() {
            // It may not have been poisoned at all.
            return Ok(());
        }
        let found = epochs_of(&log);
        let bases = batches.iter().flat_map(|batch| [batch.base, self.model.data_end(batch.base)]);
        for from in std::iter::once(0).chain(bases) {
            let mut epochs = noted.clone();
            epochs.retain(|(_, start)| *start < from);
            for batch in batches.iter().filter(|batch| batch.base >= from) {
                if epochs.last().is_none_or(|(latest, _)| *latest < batch.leader_epoch) {
                    assign(&mut epochs, batch.leader_epoch, batch.base);
                }
            }
            candidates.push(epochs.clone());
            truncate_epochs_from_start(&mut epochs, start);
            candidates.push(epochs);
        }
        // Their file may be an older one, and is believed where no batch says otherwise.
        let told = |batch: &Batch| log.epoch_for_offset(batch.last) == Some(batch.leader_epoch);
        let agrees = self.may_forget && self.model.live().all(told);
        let found_so = self.model.without_gaps(&found);
        if agrees || candidates.iter().any(|epochs| self.model.without_gaps(epochs) == found_so) {
            let leader = log.leader_epoch();
            let latest = found.last().map_or(0, |(epoch, _)| *epoch);
            prop_assert!(
                leader == latest || before == Before::Reopened,
                "leads in {} of {:?}",
                leader,
                found
            );
            self.model.epochs = found;
            self.model.leader_epoch = leader;
            return check_epochs(&log, &self.model.epochs);
        }
        Err(TestCaseError::fail(format!("the epochs are {found:?}, not one of {candidates:?}")))
    }

    /// A torn end with something whole behind it is not cut by itself. Here it is given up, with all before it.
    fn accept_loss(&mut self) -> Checked {
        let log = self.log();
        let report = log.recovery_report();
        let from = report.damage[0].from;
        let durable = self.model.data_end(self.model.durable);
        prop_assert!(
            from >= durable || self.model.debris,
            "damage from {} on, but {} was synced",
            from,
            durable
        );
        let found = read_up_to_damage(&log)?;
        let whole = self.model.batches.iter().filter(|batch| batch.last < from);
        let start = log.log_start();
        let expected: Vec<Kept> =
            whole.flat_map(|batch| &batch.records).filter(|record| record.offset >= start).cloned().collect();
        if !self.setup.replicated {
            prop_assert_eq!(found, expected, "what lies before the damage");
        }
        let refused = matches!(log.append(&Record::new("x").key("k")), Err(Error::Damaged { .. }));
        prop_assert!(refused, "damage is covered up");
        works(log.accept_loss(from), "accepting a loss")?;
        let end = log.log_end();
        works(log.truncate_fully_and_start_at(end, None), "beginning anew behind damage")?;
        self.model.halfway = None;
        self.model.begin_at(end);
        self.model.leader_epoch = log.leader_epoch();
        self.adopt_rest(Before::Reopened)
    }
}

fn read_up_to_damage(log: &Partition) -> Checked<Vec<Kept>> {
    let mut found = vec![];
    for record in works(log.read_from(log.log_start()), "reading")? {
        let Ok(record) = record else { break };
        found.push(Kept {
            offset: record.offset(),
            key: record.key().map(<[u8]>::to_vec),
            value: record.value().map(<[u8]>::to_vec),
            timestamp: record.timestamp(),
        });
    }
    Ok(found)
}
