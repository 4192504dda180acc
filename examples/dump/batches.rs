//! The batches of a log file as rows, as Kafka's own dump tool names their fields.

use std::io;
use std::path::Path;

use annals::format::{BatchHeader, ControlType, EndTransactionMarker, RecordView, TimestampType};
use annals::{Error, RecordBatch, Segment};

use crate::output::{Output, Row, Value};

/// What the records of one batch may take once they are decompressed: far more than any broker accepts.
pub(crate) const DECOMPRESSED_BYTES_MAX: usize = 1 << 30;

/// Prints the batches of a log file, and their records if asked to.
pub(crate) fn dump(directory: &Path, base_offset: u64, records: bool, out: &mut Output) -> io::Result<()> {
    let segment = match Segment::open(directory, base_offset) {
        Ok(segment) => segment,
        Err(error) => return out.unreadable(error),
    };
    let mut batches = segment.batches();
    loop {
        let position = batches.position();
        match batches.next() {
            None => return Ok(()),
            Some(Ok(batch)) => {
                out.row(batch_row(batch.header(), position))?;
                if records {
                    dump_records(&batch, out)?;
                }
            }
            Some(Err(Error::Corruption { detail, .. })) => {
                let behind = match batches.skip_damage() {
                    Ok(behind) => behind,
                    Err(error) => return out.unreadable(error),
                };
                let row = Row::new("invalid", "").with("position", position);
                let row = row.with("size", behind.unwrap_or(segment.size()) - position);
                out.row(row.with("isvalid", false).with("what", detail))?;
            }
            Some(Err(error)) => return out.unreadable(error),
        }
    }
}

fn batch_row(header: &BatchHeader, position: u64) -> Row {
    let row =
        Row::new("batch", "").with("baseOffset", header.base_offset).with("lastOffset", header.last_offset);
    let row = row.with("count", header.records_count).with("baseSequence", header.base_sequence);
    let row =
        row.with("lastSequence", header.last_sequence()).with("producerId", header.producer_id.unwrap_or(-1));
    let row = row.with("producerEpoch", header.producer_epoch);
    let row = row.with("partitionLeaderEpoch", header.leader_epoch.unwrap_or(-1));
    let row = row.with("isTransactional", header.transactional).with("isControl", header.control);
    let row = row.with("deleteHorizonMs", header.delete_horizon).with("position", position);
    let kind = timestamp_name(header.timestamp_type);
    let row = row.with("maxTimestamp", Value::Time(kind, header.max_timestamp)).with("size", header.size);
    let row = row.with("magic", header.magic).with("compresscodec", header.compression.name());
    // It was verified before it came here.
    row.with("crc", header.crc).with("isvalid", true)
}

fn timestamp_name(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn dump_records(batch: &RecordBatch, out: &mut Output) -> io::Result<()> {
    match batch.records(DECOMPRESSED_BYTES_MAX) {
        Ok(records) => records.iter().try_for_each(|record| out.row(record_row(batch.header(), &record))),
        Err(error) => {
            out.row(Row::new("invalid", "| ").with("isvalid", false).with("what", error.to_string()))
        }
    }
}

fn record_row(header: &BatchHeader, record: &RecordView<'_>) -> Row {
    let row = Row::new("record", "| ").with("offset", record.offset());
    let row = row.with("timestamp", Value::Time(timestamp_name(header.timestamp_type), record.timestamp()));
    let row = row.with("sequence", record.sequence());
    if header.control {
        return control_fields(row, record);
    }
    let headers = record.headers().map(|header| (header.key.to_owned(), header.value.into())).collect();
    row.with("headers", Value::Pairs(headers)).with("key", record.key()).with("value", record.value())
}

fn control_fields(row: Row, record: &RecordView<'_>) -> Row {
    let Ok(control) = ControlType::parse(record.key().unwrap_or_default()) else {
        return row
            .with("endTxnMarker", "unreadable")
            .with("key", record.key())
            .with("value", record.value());
    };
    let row = row.with("controlType", format!("{control:?}"));
    match EndTransactionMarker::parse(record) {
        Ok(Some(marker)) => row.with("coordinatorEpoch", marker.coordinator_epoch),
        Ok(None) | Err(_) => row.with("value", record.value()),
    }
}
