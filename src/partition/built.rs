//! Appends of batches that the crate itself has encoded: they are not decoded again to be checked, and writing them
//! and waiting for the disk are two calls, so that who writes to many partitions waits once.

use super::append::{Begun, Prepared, Producer};
use super::append::{check_batch_size, check_encoded_records, check_key, check_timestamp, recompress};
use super::{AppendOptions, Appended, LogConfig, Partition};
use crate::error::{Error, Result};
use crate::format::{self, BatchBuilder, Codec, Record, RecordBatch, RecordSet};

/// A batch of at least one record, encoded here, and what an append has to know of its records.
#[derive(Debug)]
pub(crate) struct BuiltBatch {
    bytes: Vec<u8>,
    count: u64,
    codec: Codec,
    /// The smallest and the largest timestamp of its records.
    timestamps: (i64, i64),
    /// The first record without a key.
    keyless: Option<usize>,
    producer: Option<ProducerStamp>,
}

/// Which batch of which producer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerStamp {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) transactional: bool,
}

impl Unsettled {
    /// Where it is.
    pub(crate) fn appended(&self) -> Appended {
        self.begun.appended()
    }
}

/// What a partition says about the batches to come, at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchRules {
    /// The largest batch that is taken.
    pub(crate) bytes_max: usize,
    /// How batches are stored; none if as they come.
    pub(crate) codec: Option<Codec>,
}

/// A batch that is in the log, but maybe not on disk, and not readable before it has to be there.
#[derive(Debug)]
#[must_use = "it may never be readable if it is not settled"]
pub(crate) struct Unsettled {
    begun: Begun,
}

impl BuiltBatch {
    /// Finishes a batch.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`] as [`BatchBuilder::finish`] fails, and for a builder without records.
    pub(crate) fn finish(
        mut builder: BatchBuilder,
        codec: Codec,
        timestamps: (i64, i64),
        keyless: Option<usize>,
        producer: Option<ProducerStamp>,
    ) -> Result<Self> {
        let count = builder.len() as u64;
        if count == 0 {
            return Err(Error::InvalidRecord { index: 0, reason: "the batch has no records".into() });
        }
        if let Some(ProducerStamp { id, epoch, base_sequence, transactional }) = producer {
            builder.set_producer(id, epoch, base_sequence, transactional);
        }
        let bytes = builder.finish().map_err(|source| Error::InvalidBatch { source })?;
        Ok(BuiltBatch { bytes, count, codec, timestamps, keyless, producer })
    }

    /// Makes it another batch of its producer: one that was not appended as the one it was.
    pub(crate) fn stamp(&mut self, producer: ProducerStamp) -> Result<()> {
        if self.producer != Some(producer) {
            let ProducerStamp { id, epoch, base_sequence, .. } = producer;
            format::stamp_producer(&mut self.bytes, id, epoch, base_sequence)
                .map_err(|source| Error::InvalidBatch { source })?;
            self.producer = Some(producer);
        }
        Ok(())
    }

    pub(crate) fn producer(&self) -> Option<ProducerStamp> {
        self.producer
    }

    pub(crate) fn codec(&self) -> Codec {
        self.codec
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that it was built in.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether nothing about its records is against the settings, or else the first thing that is.
    fn check(&self, config: &LogConfig, now: i64) -> Result<()> {
        if let Some(index) = self.keyless {
            check_key(index, false, config)?;
        }
        let (smallest, largest) = self.timestamps;
        if [smallest, largest].iter().all(|&timestamp| check_timestamp(0, timestamp, config, now).is_ok()) {
            return Ok(());
        }
        // To say which record it is, they must be looked at.
        let (_, records) = self.decode(config)?;
        check_encoded_records(&records, config, now)
    }

    fn decode(&self, config: &LogConfig) -> Result<(RecordBatch, RecordSet)> {
        let invalid = |source| Error::InvalidBatch { source };
        let mut bytes = self.bytes.clone();
        // An attempt to write it may have numbered it.
        format::stamp(&mut bytes, 0, -1).map_err(invalid)?;
        let batch = RecordBatch::parse(bytes.into()).map_err(invalid)?;
        let records = batch.records(config.max_decompressed_bytes as usize).map_err(invalid)?;
        Ok((batch, records))
    }
}

impl Partition {
    /// Whether a record with this timestamp may be appended now.
    pub(crate) fn check_record(&self, record: &Record<'_>, timestamp: i64, now: i64) -> Result<()> {
        let config = self.log.config.load();
        check_key(0, record.key_bytes().is_some(), &config)?;
        check_timestamp(0, timestamp, &config, now)
    }

    pub(crate) fn batch_rules(&self) -> BatchRules {
        let config = self.log.config.load();
        let bytes_max = config.max_message_bytes.min(config.segment_bytes) as usize;
        BatchRules { bytes_max, codec: config.codec() }
    }

    /// Writes a batch without waiting for the disk; [`settle`](Self::settle) waits, and has to be called for each. The
    /// bytes are stamped in place; the same batch may be written again. `after` names an unsettled one that must still
    /// be in front of it.
    ///
    /// # Errors
    /// As [`append_batch`](Self::append_batch); [`Error::Poisoned`] also if the log was reopened after `after`.
    pub(crate) fn write_built(
        &self,
        batch: &mut BuiltBatch,
        options: AppendOptions,
        after: Option<&Unsettled>,
    ) -> Result<Unsettled> {
        let log = &*self.log;
        let config = log.config.load();
        let now = log.clock.now();
        check_batch_size(batch.bytes.len(), &config)?;
        batch.check(&config, now)?;
        let mut recompressed = match config.codec() {
            Some(codec) if codec.compression != batch.codec.compression => {
                let (parsed, records) = batch.decode(&config)?;
                recompress(&parsed, &records, &config)?
            }
            _ => None,
        };
        let bytes = recompressed.as_mut().unwrap_or(&mut batch.bytes);
        check_batch_size(bytes.len(), &config)?;
        let append_time = config.append_time(now);
        if append_time.is_some() {
            format::stamp_append_time(bytes, now).map_err(|source| Error::InvalidBatch { source })?;
        }
        let (count, max_timestamp) = (batch.count, append_time.unwrap_or(batch.timestamps.1));
        let producer = batch.producer.map(|stamp| Producer::from(stamp).batch(count, max_timestamp));
        let prepared = Prepared { bytes, count, max_timestamp, append_time, now, producer };
        let begun = log.begin(prepared, &config, options, after.map(|after| &after.begun))?;
        Ok(Unsettled { begun })
    }

    /// Waits until a batch is as durable as the topic says.
    ///
    /// # Errors
    /// As [`append_batch`](Self::append_batch).
    pub(crate) fn settle(&self, unsettled: Unsettled) -> Result<Appended> {
        self.log.finish(unsettled.begun, &self.log.config.load())
    }
}

impl From<ProducerStamp> for Producer {
    fn from(stamp: ProducerStamp) -> Self {
        let ProducerStamp { id, epoch, base_sequence, transactional } = stamp;
        Producer { id, epoch, base_sequence, transactional }
    }
}
