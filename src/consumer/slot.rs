//! One partition that a consumer has: where it is in it, and reading on from there.

use std::sync::Arc;
use std::task::Waker;

use crate::error::{Error, Result};
use crate::format::StoredRecord;
use crate::partition::{Isolation, Listening, Partition, Records};
use crate::topic::StoreHandle;
use crate::types::{TopicPartition, Uuid};

use super::config::OffsetReset;
use super::records::Part;

/// Room is made in advance for so many records of a read at most.
const EXPECTED_MAX: u64 = 1000;

/// A partition that a consumer has.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: Arc<TopicPartition>,
    /// `None` before it was looked up, and while there is no such partition.
    pub(super) source: Option<Source>,
    pub(super) place: Place,
    /// The position that was committed last, if it is known.
    pub(super) committed: Option<u64>,
    pub(super) paused: bool,
    /// It told why it cannot go on by itself, and is left alone until somebody seeks.
    pub(super) stopped: bool,
    /// Whether it stands in the queue of those to be read.
    pub(super) queued: bool,
    /// What was read and not handed out yet; the position is still in front of it.
    pub(super) pending: Option<Part>,
    /// Kept from one poll to the next, so that reading on looks nothing up.
    records: Option<Records>,
    listening: Option<Listening>,
    waker: Waker,
}

/// Where the records of a partition come from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The topic's identity: another one may come to have its name.
    topic: Uuid,
    pub(super) partition: Partition,
}

/// Where a consumer is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where its group left off; by the configured reset if it never was there.
    Committed,
    /// To be found by that reset.
    Reset(OffsetReset),
    /// The offset of the next record to hand out.
    At(u64),
}

/// How far one read may go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: u64,
}

/// What one read brought.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) records: Vec<StoredRecord>,
    pub(super) bytes: u64,
    /// The position behind them.
    pub(super) next: u64,
    pub(super) end: End,
}

/// Why a read ended.
#[derive(Debug)]
pub(super) enum End {
    /// The room was used up.
    Full,
    /// There was no more; the consumer will be told when there is.
    Waits,
    /// There was no more, but something came while it looked.
    Moved,
    /// Reading failed behind the records.
    Failed(Error),
}

impl Slot {
    pub(super) fn new(id: Arc<TopicPartition>, waker: Waker) -> Self {
        Slot {
            id,
            source: None,
            place: Place::Committed,
            committed: None,
            paused: false,
            stopped: false,
            queued: false,
            pending: None,
            records: None,
            listening: None,
            waker,
        }
    }

    pub(super) fn position(&self) -> Option<u64> {
        match self.place {
            Place::At(offset) => Some(offset),
            Place::Committed | Place::Reset(_) => None,
        }
    }

    /// Whether something may be read from it now.
    pub(super) fn is_readable(&self) -> bool {
        !self.paused && !self.stopped && self.source.is_some() && self.position().is_some()
    }

    /// Goes on there.
    pub(super) fn seek(&mut self, place: Place) {
        self.place = place;
        self.stopped = false;
        self.rewind();
    }

    fn rewind(&mut self) {
        (self.records, self.listening) = (None, None);
    }

    /// Takes back what was read and not handed out: it is read again, and what stopped the partition behind it stops
    /// it again. Nobody is told of the partition before it is read.
    pub(super) fn take_back(&mut self) -> Option<Part> {
        self.listening = None;
        let part = self.pending.take()?;
        self.rewind();
        self.stopped = false;
        Some(part)
    }

    /// Behind damage: goes on with the first record that can be read. Returns the offset there.
    pub(super) fn skip_damage(&mut self) -> Option<u64> {
        let offset = self.records.as_mut()?.skip_damage()?;
        match &mut self.pending {
            Some(part) => part.next = offset,
            None => self.place = Place::At(offset),
        }
        self.stopped = false;
        Some(offset)
    }

    /// Looks up the partition, again if there is another topic of that name. Returns whether it is there.
    ///
    /// # Errors
    /// As it cannot be opened.
    pub(super) fn find_source(&mut self, store: &StoreHandle) -> Result<bool> {
        let found = match source_of(store, &self.id) {
            Err(Error::UnknownTopic { .. } | Error::UnknownPartition { .. }) => None,
            found => Some(found?),
        };
        let same = match (&self.source, &found) {
            (Some(source), Some(found)) => source.topic == found.topic,
            (None, _) => true,
            (Some(_), None) => false,
        };
        if !same {
            // Offsets of one topic mean nothing in another.
            self.seek(Place::Committed);
            self.committed = None;
        }
        self.source = found;
        Ok(self.source.is_some())
    }

    /// Whether its topic is still the one that has the name.
    pub(super) fn is_current(&self, store: &StoreHandle) -> bool {
        let Some(source) = &self.source else { return false };
        match store.topic(self.id.topic.as_str()) {
            Ok(topic) => topic.id() == source.topic,
            Err(error) => !matches!(error, Error::UnknownTopic { .. }),
        }
    }

    /// Reads on from where the last read ended.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`] if the position is not in the log.
    pub(super) fn read(&mut self, isolation: Isolation, room: Room) -> Result<Option<Filled>> {
        let (Some(source), Place::At(position)) = (&self.source, self.place) else { return Ok(None) };
        let partition = &source.partition;
        self.listening = None;
        if self.records.as_ref().is_some_and(|records| records.position() < partition.log_start()) {
            // What was deleted is not read on, though it may still be there.
            self.records = None;
        }
        // Before looking: what comes later than this is waited for.
        let bound = readable_end(partition, isolation);
        let records = match &mut self.records {
            Some(records) => records,
            none => none.insert(partition.read_from_with(position, isolation)?),
        };
        // Of many offsets few may have a record.
        let expected = bound.saturating_sub(Records::position(records)).min(room.records as u64);
        let expected = expected.min(EXPECTED_MAX);
        let mut filled =
            Filled { records: Vec::with_capacity(expected as usize), bytes: 0, next: 0, end: End::Full };
        while filled.records.len() < room.records && (filled.bytes < room.bytes || filled.records.is_empty())
        {
            match records.next() {
                Some(Ok(record)) => {
                    filled.bytes += record.size() as u64;
                    filled.records.push(record);
                }
                Some(Err(error)) => {
                    filled.end = End::Failed(error);
                    break;
                }
                None => {
                    // Not from the position: readers get batches whole, and the bound may lie inside one.
                    let from = bound.max(Records::position(records));
                    self.listening = partition.listen(from, isolation, &self.waker);
                    filled.end = if self.listening.is_some() { End::Waits } else { End::Moved };
                    break;
                }
            }
        }
        filled.next = Records::position(records);
        Ok(Some(filled))
    }
}

/// The partition, and whose it is.
///
/// # Errors
/// [`Error::UnknownTopic`], [`Error::UnknownPartition`], or as it cannot be opened.
pub(super) fn source_of(store: &StoreHandle, id: &TopicPartition) -> Result<Source> {
    let topic = store.topic(id.topic.as_str())?;
    Ok(Source { topic: topic.id(), partition: topic.partition(id.partition)? })
}

/// The offset below which a reader of that isolation may look (Kafka's end offset).
pub(super) fn readable_end(partition: &Partition, isolation: Isolation) -> u64 {
    match isolation {
        Isolation::ReadCommitted => partition.last_stable_offset(),
        _ => partition.high_watermark(),
    }
}
