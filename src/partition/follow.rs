//! The log of a follower: batches come with the offsets and epochs that a leader gave them (Kafka's
//! `appendAsFollower`), and the epochs tell where two logs part.
//!
//! What a leader wrote is trusted but for what would break this log: offsets that go back, and bytes that are no
//! batches.

use bytes::Bytes;

use super::append::check_last_offset;
use super::producers::ProducerBatch;
use super::{Appended, Durability, EpochEnd, Log, LogConfig, Partition, Writer};
use crate::error::{Error, FormatError, Result};
use crate::format::{Frame, RecordBatch};
use crate::types::OFFSET_MAX;

/// Batches in order, checked.
struct Incoming {
    batches: Vec<RecordBatch>,
    records: u64,
    bytes: u64,
}

impl Partition {
    /// Appends batches as a leader stored them, one behind the other, with their offsets and leader epochs; an
    /// incomplete one at the end is left out, as Kafka's fetch may cut it. Gaps between offsets are allowed, and
    /// from the first one on this topic does not take them for damage any more.
    ///
    /// Neither sizes nor sequences are checked again. The high watermark moves as
    /// [`set_high_watermark`](Self::set_high_watermark) says, if the topic is `annals.replicated`.
    ///
    /// # Errors
    /// [`Error::OutOfOrderOffsets`] if an offset is below the log end or goes back within the bytes;
    /// [`Error::InvalidBatch`] if they are no batches, or none at all. Nothing is written then. Otherwise as
    /// [`append`](Self::append); then some batches may have been written.
    pub fn append_as_follower(&self, batches: &[u8]) -> Result<Appended> {
        let log = &self.log;
        let incoming = log.check_incoming(batches)?;
        log.make_room_for_leader(&incoming)?;
        let config = log.config.load();
        if log.dense() && incoming.has_gap(log.writer.lock().next_offset) {
            // Not under the lock of the writer: the store around it has locks of its own.
            log.allow_gaps()?;
        }
        log.write_incoming(&incoming, &config)
    }

    /// The leader epoch in which this partition appends: the latest that it knows.
    pub fn leader_epoch(&self) -> i32 {
        self.log.writer.lock().leader_epoch
    }

    /// Begins a new leader epoch at the log end: what is appended from now on is stamped with it. As in Kafka, one
    /// in which nothing is appended is forgotten with the next opening.
    ///
    /// # Errors
    /// [`Error::LeaderFenced`] if it is below the one that is known. [`Error::Io`] and its kin if it cannot be written
    /// down.
    pub fn set_leader_epoch(&self, epoch: i32) -> Result<()> {
        self.log.lead(epoch)
    }

    /// Where the data of a leader epoch ends here, or of the greatest one below it that has data; `None` if that is
    /// not known. A follower compares it with its own answer to find where the two logs part (Kafka's
    /// `OffsetsForLeaderEpoch`).
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<EpochEnd> {
        let log_end = self.log_end();
        self.log.epochs.lock().end_offset_for(epoch, log_end)
    }

    /// The leader epoch in which an offset was written, if it is known.
    pub fn epoch_for_offset(&self, offset: u64) -> Option<i32> {
        self.log.epochs.lock().epoch_for(offset).filter(|_| offset < self.log_end())
    }
}

impl Incoming {
    /// Whether offsets are missing between a log end and the batches, or among them.
    fn has_gap(&self, log_end: u64) -> bool {
        let ends = std::iter::once(log_end).chain(self.batches.iter().map(RecordBatch::next_offset));
        ends.zip(&self.batches).any(|(end, batch)| first_of(batch) > end)
    }
}

impl Log {
    fn check_incoming(&self, bytes: &[u8]) -> Result<Incoming> {
        let invalid = |source| Error::InvalidBatch { source };
        let mut rest = Bytes::copy_from_slice(bytes);
        let (mut batches, mut records, mut follows) = (Vec::<RecordBatch>::new(), 0, None);
        while rest.len() >= Frame::LEN {
            let frame = Frame::parse(&rest).map_err(invalid)?;
            if frame.size > rest.len() as u64 {
                break;
            }
            let batch = RecordBatch::parse(rest.split_to(frame.size as usize)).map_err(invalid)?;
            let header = batch.header();
            if follows.is_some_and(|follows| first_of(&batch) < follows) {
                return Err(self.out_of_order(first_of(&batch), "it goes back behind the batch before it"));
            }
            check_last_offset(header.last_offset)?;
            follows = Some(batch.next_offset());
            records += u64::from(header.records_count.unwrap_or(1));
            batches.push(batch);
        }
        if batches.is_empty() {
            let (needed, available) = (Frame::LEN as u64, bytes.len() as u64);
            return Err(invalid(FormatError::Short { what: "a batch", needed, available }));
        }
        let bytes = batches.iter().map(|batch| batch.header().size).sum();
        Ok(Incoming { batches, records, bytes })
    }

    /// An empty follower whose leader's log begins inside a batch gets that batch from its beginning.
    fn make_room_for_leader(self: &std::sync::Arc<Self>, incoming: &Incoming) -> Result<()> {
        let Some(first) = incoming.batches.first().filter(|batch| batch.header().base_offset_known()) else {
            return Ok(());
        };
        let end = self.writer.lock().next_offset;
        let empty = end == self.log_start.load(std::sync::atomic::Ordering::Acquire);
        if empty && first.base_offset() < end && first.next_offset() > end {
            self.truncate_fully(first.base_offset(), Some(end))?;
        }
        Ok(())
    }

    fn write_incoming(&self, incoming: &Incoming, config: &LogConfig) -> Result<Appended> {
        let now = self.clock.now();
        let (base_offset, last_offset, written, rolled) = {
            let mut writer = self.ready_writer()?;
            let Some((first, last)) = incoming.batches.first().zip(incoming.batches.last()) else {
                return Err(self.out_of_order(0, "there is no batch"));
            };
            let empty = self.log_start.load(std::sync::atomic::Ordering::Acquire) == writer.next_offset;
            if first_of(first) < writer.next_offset && !(empty && writer.begins_in(first)) {
                return Err(self.out_of_order(first_of(first), "it goes back behind the end of the log"));
            }
            if self.dense() && incoming.has_gap(writer.next_offset) {
                return Err(
                    self.out_of_order(first_of(first), "the log was changed by somebody else meanwhile")
                );
            }
            let placed = incoming
                .batches
                .iter()
                .try_for_each(|batch| self.place_incoming(&mut writer, batch, config, now));
            if config.durability != Durability::Synced {
                self.publish_written(&mut writer);
            }
            placed?;
            let rolled = std::mem::take(&mut writer.rolled);
            (first_of(first), last.last_offset(), writer.written(), rolled)
        };
        self.settle(config, written, incoming.bytes, incoming.records, config.durability)?;
        self.keep_up(rolled, incoming.bytes);
        Ok(Appended { base_offset, last_offset, append_time: None, duplicate: false })
    }

    fn place_incoming(
        &self,
        writer: &mut Writer,
        batch: &RecordBatch,
        config: &LogConfig,
        now: i64,
    ) -> Result<()> {
        let header = batch.header();
        let placed = (|| {
            let (last, time) = (header.last_offset, header.max_timestamp);
            // A gap may lead out of the span of the segment; then the next one begins at the batch.
            self.roll_if_full_at(writer, config, first_of(batch), header.size, last, time, now)?;
            writer.active.append(batch.as_bytes(), last, time, now)
        })();
        if let Err(error) = placed {
            writer.refuse_or_poison(&self.id, &error);
            return Err(error);
        }
        // Of the first batch of a log that starts inside it, the part below does not count.
        let first = first_of(batch).max(writer.next_offset);
        writer.next_offset = header.next_offset();
        writer.appends.count(u64::from(header.records_count.unwrap_or(1)), header.size);
        match header.leader_epoch {
            Some(epoch) => {
                if Some(epoch) != writer.noted_epoch {
                    self.epochs.lock().assign(epoch, first);
                    self.marks.lock().hold();
                }
                writer.leader_epoch = writer.leader_epoch.max(epoch);
            }
            // Messages of the old formats say nothing of leaders: what is known ends here.
            None if header.magic < 2 => self.epochs.lock().clear(),
            None => {}
        }
        writer.noted_epoch = self.epochs.lock().latest();
        let producer = ProducerBatch::of(batch).ok().flatten();
        self.note_producer(writer, producer.as_ref(), now);
        Ok(())
    }

    fn lead(&self, epoch: i32) -> Result<()> {
        let mut writer = self.writer.lock();
        writer.check(&self.id)?;
        if epoch < writer.leader_epoch {
            let (partition, current) = (self.id.to_string(), writer.leader_epoch);
            return Err(Error::LeaderFenced { partition, found: epoch, current });
        }
        let before = self.epochs.lock().clone();
        self.epochs.lock().assign(epoch, writer.next_offset);
        if let Err(error) = self.write_epochs() {
            *self.epochs.lock() = before;
            return Err(error);
        }
        (writer.leader_epoch, writer.noted_epoch) = (epoch, Some(epoch));
        Ok(())
    }

    fn out_of_order(&self, found: u64, reason: &'static str) -> Error {
        let log_end = self.log_end.load(std::sync::atomic::Ordering::Acquire);
        Error::OutOfOrderOffsets { partition: self.id.to_string(), found, log_end, reason }
    }
}

impl Writer {
    /// Whether a log of which nothing is left may go on inside a batch: its segment has room from there on.
    fn begins_in(&self, batch: &RecordBatch) -> bool {
        let room = self.active.position() == 0 && self.active.base_offset() <= first_of(batch);
        room && batch.next_offset() > self.next_offset
    }
}

/// The first offset of a batch; of a compressed legacy message, the last, which is all that is known.
fn first_of(batch: &RecordBatch) -> u64 {
    batch.base_offset().min(OFFSET_MAX)
}
