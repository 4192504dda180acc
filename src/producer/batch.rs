//! One batch on its way: being filled, being tried, decided; and who is to hear of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::buffer::Reservation;
use super::core::{Core, closed};
use super::delivery::{BatchResult, Outcome, RecordMetadata};
use super::stats::add;
use crate::error::{Error, Result};
use crate::format::{
    BatchBuilder, BatchOptions, Codec, RECORD_BATCH_OVERHEAD, Record, RecordBatch, RecordSet,
};
use crate::partition::{BuiltBatch, ProducerStamp};

/// Called with what became of a record.
pub(super) type Callback = Box<dyn FnOnce(Result<RecordMetadata>) + Send>;

/// Records of one partition that are written together. Dropped undecided, it has failed.
pub(super) struct Batch {
    core: Arc<Core>,
    body: Body,
    result: Arc<BatchResult>,
    /// Where its first record is among those of the result, and whether its last one is the last of them.
    first: u32,
    last: bool,
    count: u32,
    /// Who else is to hear of which record.
    hearers: Vec<Hearer>,
    reservation: Option<Reservation>,
    decided: bool,
    /// When the first record came.
    pub(super) created: Duration,
    /// How often it was tried, and when it may be again.
    pub(super) attempts: u32,
    pub(super) not_before: Duration,
    /// What the last attempt failed with.
    pub(super) failure: Option<Error>,
    /// Under which number an attempt failed that may have left it in the log.
    pub(super) doubt: Option<ProducerStamp>,
}

enum Body {
    Open(Building),
    Built(BuiltBatch),
    /// Lost by a panic.
    Gone,
}

/// A batch that takes records.
struct Building {
    builder: BatchBuilder,
    codec: Codec,
    /// How large it may become, before compression.
    limit: usize,
    timestamps: (i64, i64),
    keyless: Option<usize>,
}

/// Somebody to tell of one record.
struct Hearer {
    place: u32,
    timestamp: i64,
    callback: Option<Callback>,
}

impl Building {
    fn new(limit: usize, codec: Codec, buffer: Vec<u8>) -> Self {
        let options = BatchOptions { codec, ..BatchOptions::default() };
        let builder = BatchBuilder::with_buffer(options, buffer);
        Building { builder, codec, limit, timestamps: (i64::MAX, i64::MIN), keyless: None }
    }

    fn has_room(&self, size: usize) -> bool {
        self.builder.is_empty() || self.builder.size_estimate() + size <= self.limit
    }

    /// Records in pieces of at most `limit` bytes, or of one record.
    fn split(records: &RecordSet, limit: usize, codec: Codec) -> Result<Vec<Building>> {
        let mut pieces: Vec<Building> = Vec::new();
        for view in records.iter() {
            let (record, timestamp) = (Record::from(view), view.timestamp());
            let size = record.encoded_len_max();
            match pieces.last_mut().filter(|piece| piece.has_room(size)) {
                Some(piece) => piece.push(&record, timestamp)?,
                None => {
                    let buffer = Vec::with_capacity(limit.max(RECORD_BATCH_OVERHEAD + size));
                    let mut piece = Building::new(limit, codec, buffer);
                    piece.push(&record, timestamp)?;
                    pieces.push(piece);
                }
            }
        }
        Ok(pieces)
    }

    fn push(&mut self, record: &Record<'_>, timestamp: i64) -> Result<()> {
        let index = self.builder.len();
        self.builder
            .push_stamped(record, timestamp)
            .map_err(|error| Error::InvalidRecord { index: 0, reason: error.to_string() })?;
        let (smallest, largest) = self.timestamps;
        self.timestamps = (smallest.min(timestamp), largest.max(timestamp));
        if record.key_bytes().is_none() {
            self.keyless.get_or_insert(index);
        }
        Ok(())
    }
}

impl Batch {
    /// An empty batch, to be filled up to `limit` bytes.
    pub(super) fn new(
        core: &Arc<Core>,
        result: Arc<BatchResult>,
        limit: usize,
        codec: Codec,
        memory: (Reservation, Vec<u8>),
    ) -> Self {
        let (reservation, buffer) = memory;
        core.undone.insert(&result);
        Batch {
            core: Arc::clone(core),
            body: Body::Open(Building::new(limit, codec, buffer)),
            result,
            first: 0,
            last: true,
            count: 0,
            hearers: Vec::new(),
            reservation: Some(reservation),
            decided: false,
            created: core.clock.monotonic(),
            attempts: 0,
            not_before: Duration::ZERO,
            failure: None,
            doubt: None,
        }
    }

    pub(super) fn result(&self) -> &Arc<BatchResult> {
        &self.result
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether a record of that size still goes into it.
    pub(super) fn has_room(&self, size: usize) -> bool {
        matches!(&self.body, Body::Open(building) if building.has_room(size))
    }

    /// Whether it waits for no more records.
    pub(super) fn is_full(&self) -> bool {
        match &self.body {
            Body::Open(building) => building.builder.size_estimate() >= building.limit,
            _ => true,
        }
    }

    /// Adds a record; returns its index and how many bytes it took.
    pub(super) fn push(
        &mut self,
        record: &Record<'_>,
        timestamp: i64,
        callback: Option<Callback>,
    ) -> Result<(u32, usize)> {
        let Body::Open(building) = &mut self.body else { return Err(lost()) };
        let before = building.builder.size_estimate();
        building.push(record, timestamp)?;
        let size = building.builder.size_estimate() - before;
        let place = self.count;
        self.count += 1;
        if callback.is_some() || !self.core.interceptors().is_empty() {
            self.hearers.push(Hearer { place, timestamp, callback });
        }
        Ok((place, size))
    }

    /// The finished batch, with that number of its producer.
    pub(super) fn built(&mut self, producer: Option<ProducerStamp>) -> Result<&mut BuiltBatch> {
        if let Body::Open(_) = &self.body {
            let Body::Open(Building { builder, codec, timestamps, keyless, .. }) =
                std::mem::replace(&mut self.body, Body::Gone)
            else {
                return Err(lost());
            };
            self.body = Body::Built(BuiltBatch::finish(builder, codec, timestamps, keyless, producer)?);
        }
        match &mut self.body {
            Body::Built(built) => {
                if let Some(producer) = producer {
                    built.stamp(producer)?;
                }
                Ok(built)
            }
            _ => Err(lost()),
        }
    }

    /// The number under which it was last tried.
    pub(super) fn stamp(&self) -> Option<ProducerStamp> {
        match &self.body {
            Body::Built(built) => built.producer(),
            _ => None,
        }
    }

    /// Its bytes, if it is finished.
    pub(super) fn len(&self) -> usize {
        match &self.body {
            Body::Built(built) => built.bytes().len(),
            Body::Open(building) => building.builder.size_estimate(),
            Body::Gone => 0,
        }
    }

    /// Tells everybody, and gives its memory back.
    pub(super) fn decide(mut self, outcome: Outcome) {
        self.decide_now(outcome);
    }

    fn decide_now(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.decided, true) {
            return;
        }
        self.spoil_transaction(&outcome);
        let counters = &self.core.counters;
        let counter = match outcome {
            Outcome::Appended { .. } => &counters.delivered,
            Outcome::Failed(_) => &counters.failed,
        };
        add(counter, u64::from(self.count));
        if let Body::Built(built) = std::mem::replace(&mut self.body, Body::Gone) {
            self.core.pool.keep(built.into_buffer());
        }
        // Given back before anybody hears of it: who waits for a delivery, or sends in a callback, may
        // count on its memory.
        self.reservation = None;
        for hearer in std::mem::take(&mut self.hearers) {
            let result = outcome.of(self.result.partition(), hearer.place, hearer.timestamp);
            self.core.tell(result, hearer.callback);
        }
        if self.result.decide(self.first, self.first + self.count, self.last, outcome) {
            self.core.undone.remove(&self.result);
        }
    }

    /// However its records were lost: before anybody hears of it, so that no commit goes on without them.
    fn spoil_transaction(&self, outcome: &Outcome) {
        if let (Outcome::Failed(error), Some(transactions)) = (outcome, &self.core.transactions) {
            if self.count > 0 {
                // One lost in the hands of the sender may be in the log.
                let doubt = matches!(error, Error::InvalidState { .. });
                transactions.batch_failed(error.clone(), doubt);
            }
        }
    }

    /// Takes it apart into batches of at most `limit` bytes, or of one record.
    pub(super) fn split(mut self, limit: usize) -> Result<Vec<Batch>> {
        let Body::Built(built) = std::mem::replace(&mut self.body, Body::Gone) else { return Err(lost()) };
        let codec = built.codec();
        let pieces = {
            let invalid = |source| Error::InvalidBatch { source };
            let batch = RecordBatch::parse(built.into_buffer().into()).map_err(invalid)?;
            // They came from here: no limit is needed.
            let records = batch.records(usize::MAX).map_err(invalid)?;
            let mut limit = limit;
            loop {
                let pieces = Building::split(&records, limit, codec)?;
                // What compression made larger may fit into one piece without it.
                if pieces.len() > 1 {
                    break pieces;
                }
                limit /= 2;
            }
        };
        add(&self.core.counters.splits, 1);
        let mut hearers = std::mem::take(&mut self.hearers).into_iter().peekable();
        let (mut batches, total) = (Vec::new(), pieces.len());
        let mut before = 0;
        for (number, mut building) in pieces.into_iter().enumerate() {
            // What is sent now does not belong to this result.
            building.limit = 0;
            let count = building.builder.len() as u32;
            let last = number + 1 == total;
            let mut own = Vec::new();
            while let Some(hearer) = hearers.next_if(|hearer| hearer.place < before + count) {
                own.push(Hearer { place: hearer.place - before, ..hearer });
            }
            batches.push(Batch {
                core: Arc::clone(&self.core),
                body: Body::Open(building),
                result: Arc::clone(&self.result),
                first: self.first + before,
                last: self.last && last,
                count,
                hearers: own,
                reservation: if last { self.reservation.take() } else { None },
                decided: false,
                created: self.created,
                attempts: 0,
                not_before: Duration::ZERO,
                failure: None,
                // Whatever an attempt left of the whole is cut away before the log takes a piece.
                doubt: None,
            });
            before += count;
        }
        self.decided = true;
        Ok(batches)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let error = if self.core.is_killed() { closed() } else { lost() };
        self.decide_now(Outcome::Failed(error));
    }
}

impl Core {
    /// Tells interceptors and a callback of one record, whatever they do.
    pub(super) fn tell(&self, result: Result<RecordMetadata>, callback: Option<Callback>) {
        let told = |tell: &mut dyn FnMut()| {
            if catch_unwind(AssertUnwindSafe(tell)).is_err() {
                add(&self.counters.panics, 1);
            }
        };
        for interceptor in self.interceptors() {
            told(&mut || interceptor.on_acknowledgement(result.as_ref()));
        }
        if let Some(callback) = callback {
            let mut call = Some(move || callback(result));
            told(&mut || {
                if let Some(call) = call.take() {
                    call();
                }
            });
        }
    }
}

fn lost() -> Error {
    let reason = "something panicked in the producer's thread, or in a file system, meanwhile".into();
    Error::InvalidState { action: "write a batch", reason }
}
