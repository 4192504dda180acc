//! Kafka's bytes as values: record batches, legacy messages, index entries, snapshots and checkpoint files.
//!
//! Everything here is a function between slices and values. It does no I/O, asks no clock, takes no lock and
//! knows neither files nor partitions. What it decodes it has checked: short input, bytes left over, lengths
//! that point outside, counts that lie and checksums that do not match are a
//! [`FormatError`](crate::FormatError), found before memory is taken for what the bytes claim.
//!
//! | file | owns |
//! | --- | --- |
//! | `codec` | fixed integers and varints |
//! | `message` | strings, bytes, arrays and tagged fields of messages |
//! | `checksum` | which checksum guards what |
//! | `compression` | Kafka's framing of gzip, snappy, lz4 and zstd |
//! | `record`, `record_set` | one record, and all records of a batch |
//! | `batch`, `builder` | a stored batch and its header, and how one is made |
//! | `legacy` | messages of magic 0 and 1, which are read and never written |
//! | `control` | transaction markers and other control records |
//! | `consumer_protocol` | what the members of a group tell each other |
//! | `group_records` | what is written down of groups and their offsets |
//! | `java_hash` | where coordinators keep things |
//! | `transaction_records` | what coordinators of transactions write down |
//! | `share_records` | what is kept of share groups |
//! | `index_entry`, `snapshot`, `checkpoint` | the entries and files beside a `.log` |

mod batch;
mod builder;
mod checkpoint;
mod checksum;
pub mod codec;
mod compression;
pub mod consumer_protocol;
mod control;
pub mod group_records;
mod index_entry;
mod java_hash;
mod legacy;
mod message;
mod record;
mod record_set;
mod share_records;
mod snapshot;
pub mod transaction_records;

pub(crate) use batch::stamp_producer;
pub use batch::{
    BatchHeader, Frame, LOG_OVERHEAD, RECORD_BATCH_OVERHEAD, RecordBatch, TimestampType, decrement_sequence,
    encode_empty, increment_sequence, stamp, stamp_append_time, stamp_max_timestamp, verify,
};
pub use builder::{BatchBuilder, BatchOptions};
pub use checkpoint::{EpochEntry, LeaderEpochs, OffsetCheckpoint, PartitionMetadata, clean_shutdown};
pub use checksum::{crc32, crc32c};
pub use compression::{Codec, Compression, compress, decompress};
pub use control::{ControlType, EndTransactionMarker};
pub use index_entry::{AbortedTransaction, OffsetIndexEntry, TimeIndexEntry};
pub use java_hash::{coordinator_partition, java_hash};
pub use record::{Header, Headers, Record, RecordView, StoredRecord};
pub use record_set::{IntoRecords, RecordIter, RecordSet};
pub use share_records::{
    DeliveryState, ShareRecordKey, ShareSnapshot, ShareStateKey, ShareUpdate, StateBatch,
};
pub use snapshot::{ProducerEntry, ProducerSnapshot};
